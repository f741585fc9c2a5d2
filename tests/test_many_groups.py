"""Very many groups: few nodes stand for all of them, and nothing is asked of each group that a sum tells."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hbsk import PartialPoolingRegressor
from hbsk._posterior.concentrated import few_nodes
from hbsk._posterior.own_estimates import MANY_GROUPS, pseudo_inverses

N_GROUPS = 15_000


@pytest.fixture(scope="module")
def many():
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(N_GROUPS), rng.integers(3, 8, N_GROUPS))
    X = pd.DataFrame({"g": group, "x": rng.normal(size=len(group)) + 0.5, "w": rng.normal(size=len(group))})
    effect = rng.normal(size=(N_GROUPS, 2)) * [0.8, 0.5]
    y = 1 + X["w"] + effect[group, 0] + effect[group, 1] * X["x"] + rng.normal(size=len(group))
    return PartialPoolingRegressor("y ~ x + w + (x | g)").fit(X, y)


def test_few_nodes_have_the_moments_of_all(many):
    posterior = many._learnt.fitted.posterior
    few = few_nodes(posterior)
    assert few.n_nodes == 8 < posterior.n_nodes

    def moments(nodes):
        v = np.column_stack([np.log(nodes.sigma), nodes.factor.reshape(nodes.n_nodes, -1), nodes.common_mean])
        return nodes.weight @ v, np.cov(v.T, aweights=nodes.weight, ddof=0)

    (mean, covariance), (wanted, due) = moments(few), moments(posterior)
    np.testing.assert_allclose(mean, wanted, rtol=1e-12, atol=1e-14)
    # of the law of v all, and how the common coefficients go with it
    np.testing.assert_allclose(covariance[:5], due[:5], rtol=1e-6, atol=1e-7 * np.abs(due).max())


def test_moments_of_groups_are_averages_over_all_nodes(many):
    posterior = many._learnt.fitted.posterior
    groups = np.array([0, 5, N_GROUPS - 1])
    zz, zx = (sums[:, :, groups] for sums in (posterior.sums.zz, posterior.sums.zx))
    laws = posterior.covariances(slice(None))
    mean, square = np.zeros((3, 2)), np.zeros((3, 2, 2))
    kept = np.zeros((3, 2))
    for node, weight in enumerate(posterior.weight):
        between = posterior.sigma[node] ** 2 * posterior.factor[node] @ posterior.factor[node].T
        for j in range(3):
            inverse = np.linalg.inv(zz[:, :, j] / posterior.sigma[node] ** 2 + np.linalg.inv(between))
            to_common = inverse @ zx[:, :-1, j] / posterior.sigma[node] ** 2
            point = inverse @ zx[:, -1, j] / posterior.sigma[node] ** 2 - to_common @ posterior.common_mean[node]
            mean[j] += weight * point
            square[j] += weight * (inverse + to_common @ laws[node] @ to_common.T + np.outer(point, point))
            to_raw = posterior.scaling.effects(np.eye(2)).T
            raw, prior = to_raw @ inverse @ to_raw.T, to_raw @ between @ to_raw.T
            kept[j] += weight * (1 - np.diag(raw) / np.diag(prior))
    found = posterior._effects_with_spread
    np.testing.assert_allclose(found.mean[groups], mean, rtol=1e-6)
    wanted = square - np.einsum("jk,jl->jkl", mean, mean)
    np.testing.assert_allclose(found.covariance[groups], wanted, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(many.shrinkage_["g"].to_numpy()[groups], kept, rtol=1e-6)


def test_a_law_that_is_spread_out_keeps_its_nodes(many):
    posterior = many._learnt.fitted.posterior
    assert (
        few_nodes(replace(posterior, sigma=posterior.sigma ** np.linspace(0.9, 1.1, posterior.n_nodes))).n_nodes == 64
    )
    wide = posterior.factor * np.linspace(0.9, 1.1, posterior.n_nodes)[:, None, None]
    spread = replace(posterior, factor=wide)
    assert few_nodes(spread) is spread
    none = replace(posterior, factor=posterior.factor * [[1.0], [0.0]])
    assert few_nodes(none) is none


def test_inverses_of_very_many_pairs_are_pseudo_inverses():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(3, 2, MANY_GROUPS + 1))
    z[:, 1, :40] = 0.3 * z[:, 0, :40]
    z[:, :, 40:50] = 0.0
    z[:, 1, 50:60] *= 1e-5
    zz = np.einsum("nkj,nlj->klj", z, z)
    inverse, identified, rank = pseudo_inverses(zz)
    for j in [*range(0, 60, 3), 100, MANY_GROUPS]:
        np.testing.assert_allclose(inverse[:, :, j], np.linalg.pinv(zz[:, :, j], rcond=1e-12), rtol=1e-6)
        np.testing.assert_allclose(identified[j], np.linalg.pinv(zz[:, :, j], 1e-12) @ zz[:, :, j], atol=1e-5)
    assert rank.tolist()[:60] == [1] * 40 + [0] * 10 + [2] * 10
