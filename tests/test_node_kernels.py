"""Smooth laws about few weighted nodes, and nodes whose moments are exact before they are weighed."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr

from hbsk._engine.generalized.data import Responses
from hbsk._engine.integrate import unit_cube_points
from hbsk._engine.priors import EnginePriors
from hbsk._engine.sd_prior import SdPrior
from hbsk._engine.settings import IntegrationSettings
from hbsk._posterior.generalized import fit_generalized
from hbsk._posterior.node_kernels import NodeKernels, Unskewed
from hbsk._posterior.parts import RowMixture
from hbsk._posterior.prediction import mixture_quantiles

LEVELS = np.array([0.025, 0.05, 0.5, 0.95, 0.975])


def kernels(theta, weight=None):
    n_nodes = len(theta)
    weight = np.full(n_nodes, 1 / n_nodes) if weight is None else weight
    return NodeKernels.of_nodes(weight, theta, np.exp(theta)[:, :, None] * np.eye(theta.shape[1]))


def quantiles(of_nodes, values):
    mean, sd = of_nodes.of(values)
    return mixture_quantiles(RowMixture(of_nodes.weight, mean, sd**2), LEVELS)


@pytest.mark.parametrize("law", [stats.norm(), stats.gamma(30), stats.gamma(8), stats.gumbel_l()])
def test_ends_of_few_nodes_without_groups(law):
    points = unit_cube_points(1, 16, 3)
    values = law.ppf(points)
    ends = quantiles(kernels(np.empty((256, 0))), values)
    np.testing.assert_allclose(ends[0], law.ppf(LEVELS), atol=0.06 * law.std())
    mean, sd = kernels(np.empty((256, 0))).of(values)
    assert mean.mean() == pytest.approx(values.mean(), abs=1e-9)
    assert np.mean((mean - values.mean()) ** 2 + sd**2) == pytest.approx(values.var(), rel=1e-9)


def test_ends_follow_the_variance_parameters():
    # b given theta is normal, its mean bent in theta and its variance that of an effect of a group
    uniforms = unit_cube_points(2, 16, 5)
    theta, noise = stats.norm.ppf(uniforms[:, :1]) * 0.5, stats.norm.ppf(uniforms[:, 1:])
    values = 0.4 * theta + 0.3 * theta**2 + np.sqrt(0.2 + np.exp(2 * theta)) * noise
    ends = quantiles(kernels(theta), values)[0]
    many = stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000) * 0.5
    z = (ends[:, None] - 0.4 * many - 0.3 * many**2) / np.sqrt(0.2 + np.exp(2 * many))
    density = stats.norm.pdf(z).mean(axis=1)  # in sds of about 1
    assert np.all(np.abs(ndtr(z).mean(axis=1) - LEVELS) < 0.04 * density)


def test_an_unskewed_coordinate_is_not_skew_and_comes_back():
    rng = np.random.default_rng(0)
    values = np.column_stack([np.log(rng.gamma(0.6, size=400)), rng.gamma(2.0, size=400), rng.normal(size=400)])
    weight = rng.uniform(0.5, 1.5, 400)
    weight /= weight.sum()
    unskewed = Unskewed(values, weight)
    moved = unskewed(values)
    deviation = moved - weight @ moved
    assert np.all(np.abs(weight @ deviation**3) < 0.01 * (weight @ deviation**2) ** 1.5)
    np.testing.assert_allclose(unskewed.inverse(moved), values, atol=1e-9)
    assert np.isfinite(unskewed.inverse(moved * 5)).all()


def test_sds_of_coefficients_do_not_hang_on_the_choice_of_nodes():
    rng = np.random.default_rng(1)
    x = np.column_stack([np.ones(300), rng.integers(0, 2, (300, 4))])
    y = rng.poisson(np.exp(0.3 + 0.3 * x[:, 1] + 0.5 * rng.normal(size=300))).astype(float)
    ones = np.ones((300, 1))
    responses = Responses("poisson", y, ones[:, 0], x, ones, np.arange(300), 300, True, 0)
    priors = EnginePriors(np.zeros(5), np.full(5, 2.5), None, [SdPrior("HalfNormal", {"sigma": 2.5})], (), ())
    sds = []
    for salt in range(4):
        posterior = fit_generalized(responses, priors, IntegrationSettings(salt=1000 * salt)).posterior
        assert posterior.n_nodes == 128
        sds.append(np.sqrt(np.diag(posterior.common_moments()[1])))
    assert np.max(np.std(sds, axis=0) / np.mean(sds, axis=0)) < 0.01
