"""Strata of nodes: mixtures over them have the moments and the quantiles of mixtures over the nodes."""

import numpy as np
import pytest

from hbsk._posterior.node_strata import NodeStrata
from hbsk._posterior.parts import RowMixture
from hbsk._posterior.prediction import mixture_quantiles
from hbsk._posterior.skew_normals import FINE, skew_normals

N_NODES, LEVELS = 1024, np.array([0.025, 0.05, 0.5, 0.95, 0.975])


def nodes():
    """Return weights, sds between groups, and means and sds of three effects that hang on these."""
    rng = np.random.default_rng(0)
    weight, tau, b = rng.gamma(9.0, size=N_NODES), rng.gamma(3.0, size=N_NODES), rng.normal(size=N_NODES)
    mean = np.stack([b * (1.0 + 0.3 * k) - (0.5 + k) * tau for k in range(3)], axis=1)
    mean += 0.1 * rng.normal(size=mean.shape)
    return weight / weight.sum(), tau, mean, tau[:, None] * np.array([0.5, 0.8, -0.8])


@pytest.mark.parametrize("spread", [0.0, 0.4, 2.0])
def test_values_are_averaged_in_shares_that_all_effects_have(spread):
    weight, tau, mean, _ = nodes()
    strata = NodeStrata.of_nodes(weight, tau, spread)
    assert (len(strata.share) > len(strata.starts)) == (spread > 0)
    np.testing.assert_allclose(strata.share.sum(), 1.0, rtol=1e-12)
    along = strata.along(mean)
    np.testing.assert_allclose(along.averaged(np.ones_like(mean)), 1.0, rtol=1e-10)
    np.testing.assert_allclose(strata.share @ along.averaged(mean), weight @ mean, rtol=1e-10)
    of_tau, of_mean = along.averaged(np.tile(tau[:, None], 3)), along.averaged(mean)
    assert np.all(np.diff(of_tau[strata.starts], axis=0) > 0)
    inside = np.setdiff1d(np.arange(1, len(strata.share)), strata.starts)
    assert np.all(of_mean[inside] > of_mean[inside - 1] - 1e-9)
    np.testing.assert_array_equal(along.of(np.array([2, 0])).averaged(mean[:, [2, 0]]), of_mean[:, [2, 0]])


def test_each_node_is_counted_where_most_of_it_is():
    weight, tau, mean, _ = nodes()
    strata = NodeStrata.of_nodes(weight, tau, 2.0)
    number = strata.along(mean).number()
    for k in range(3):
        counted = np.bincount(number[:, k], weight, minlength=len(strata.share))
        np.testing.assert_allclose(counted, strata.share, atol=1.01 * weight.max())


def test_mixtures_over_strata_are_those_over_nodes():
    weight, tau, mean, sd = nodes()
    strata = NodeStrata.of_nodes(weight, tau, 2.0)
    along = strata.along(mean)
    means, sds = (np.tile(part[:, None, None], (1, len(strata.share), 3)) for part in skew_normals(0.7, FINE))
    found = along.mixture(mean, sd, FINE.shares, (means, sds))
    shape = (N_NODES * len(FINE.shares), 3)
    parts = (part[0][:, 0] for part in (means[None, :, 0], sds[None, :, 0]))
    of_means, of_sds = (part[:, None] for part in parts)
    exact = RowMixture(
        np.outer(weight, FINE.shares).ravel(),
        (mean[:, None] + sd[:, None] * of_means).reshape(shape),
        ((sd[:, None] * of_sds) ** 2).reshape(shape),
    )
    for one, other in zip(found.moments(), exact.moments(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    scale = np.sqrt(exact.moments()[1])[:, None]
    ends = mixture_quantiles(exact, LEVELS)
    np.testing.assert_allclose((mixture_quantiles(found, LEVELS) - ends) / scale, 0.0, atol=0.005)


def test_parts_that_are_not_centred_keep_the_covariance_of_means_and_sds():
    weight, tau, mean, sd = nodes()
    along = NodeStrata.of_nodes(weight, tau, 0.0).along(mean)  # few strata, in which both vary much
    parts = tuple(np.full((1, len(along.nodes.share), 3), value) for value in (2.0, 0.5))
    found = along.mixture(mean, sd, np.ones(1), parts)
    for one, other in zip(found.moments(), RowMixture(weight, mean + 2.0 * sd, (0.5 * sd) ** 2).moments(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_noise_is_added():
    weight, tau, mean, sd = nodes()
    along = NodeStrata.of_nodes(weight, tau, 1.0).along(mean)
    parts = tuple(np.tile(part[:, None, None], (1, len(along.nodes.share), 3)) for part in skew_normals(0.7, FINE))
    without, noise = along.mixture(mean, sd, FINE.shares, parts), np.tile(tau[:, None], 3)
    found = along.mixture(mean, sd, FINE.shares, parts, noise)
    np.testing.assert_allclose(found.moments()[1] - without.moments()[1], weight @ tau, rtol=1e-9)
