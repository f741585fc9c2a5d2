"""Posteriors of few groups against dense grids over every parameter: another method, written out."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import log_expit, logit

from hbsk._engine.generalized.data import Responses
from hbsk._engine.priors import EnginePriors
from hbsk._engine.sd_prior import SdPrior
from hbsk._engine.settings import IntegrationSettings
from hbsk._posterior.generalized import fit_generalized
from hbsk._posterior.response import inverse_link, response_interval, response_log_means, response_mean

CASES = {
    "binary": ("binomial", [1, 1, 0, 1, 0, 0], [1] * 6, [0, 0, 1, 1, 2, 2]),
    "all ones": ("binomial", [1] * 8, [1] * 8, [0, 0, 1, 1, 2, 2, 3, 3]),
    "binomial": ("binomial", [3, 9, 0, 5], [10, 10, 4, 6], [0, 1, 2, 3]),
    "poisson": ("poisson", [3, 9, 0, 25], [2, 3, 1, 4], [0, 1, 2, 3]),
}
SD_OF_INTERCEPT, SD_OF_TAU = {"binomial": 1.5, "poisson": 2.5}, 2.5


def of_case(name):
    family, y, size, codes = CASES[name]
    y, size, codes = np.array(y, float), np.array(size, float), np.array(codes)
    ones = np.ones((len(y), 1))
    responses = Responses(family, y, size, ones, ones, codes, codes.max() + 1, True, 0)
    sd = np.array([SD_OF_INTERCEPT[family]])
    return responses, EnginePriors(np.zeros(1), sd, None, [SdPrior("HalfNormal", {"sigma": SD_OF_TAU})], (), ())


def grid_posterior(responses):
    """Return a grid over (b, log tau, z) with the probabilities of (b, tau), and those of each group's z given them."""
    b, x, z = np.linspace(-9, 9, 61), np.linspace(-7, 3.2, 69), np.linspace(-8, 8, 401)
    tau = np.exp(x)
    predictor = b[:, None, None] + tau[None, :, None] * z
    log_prior = stats.norm(0, SD_OF_INTERCEPT[responses.family]).logpdf(b)[:, None]
    log_joint = log_prior + stats.halfnorm(scale=SD_OF_TAU).logpdf(tau) + x
    shares = []
    for j in range(responses.n_groups):
        # binomial and Poisson rows of one group and predictor are one observation
        y, size = responses.y[responses.codes == j].sum(), responses.size[responses.codes == j].sum()
        if responses.family == "binomial":
            log_y = y * log_expit(predictor) + (size - y) * log_expit(-predictor)
        else:
            log_y = y * predictor - size * np.exp(predictor)
        weight = np.exp(log_y + stats.norm.logpdf(z)) * (z[1] - z[0])
        log_joint = log_joint + np.log(np.maximum(weight.sum(axis=2), 1e-300))
        shares.append(weight / np.maximum(weight.sum(axis=2, keepdims=True), 1e-300))
    probability = np.exp(log_joint - log_joint.max())
    return b, tau, z, probability / probability.sum(), shares


def mean_and_sd(probability, values):
    mean = np.sum(probability * values)
    return mean, np.sqrt(np.sum(probability * (values - mean) ** 2))


@pytest.mark.parametrize("name", CASES)
def test_few_groups_are_those_of_a_dense_grid(name):
    responses, priors = of_case(name)
    posterior = fit_generalized(responses, priors, IntegrationSettings(error_target=0.012)).posterior
    b, tau, z, probability, shares = grid_posterior(responses)
    ours, covariance = posterior.common_moments()
    assert_moments(ours[0], covariance[0, 0], probability, b[:, None])
    ours = posterior.variance_nodes().group_sd[0][:, 0]
    centre = posterior.weight @ ours
    assert_moments(centre, posterior.weight @ (ours - centre) ** 2, probability, tau)
    moments = posterior.group_moments()
    groups = np.arange(responses.n_groups)
    ones = np.ones((len(groups), 1))
    rates = response_mean(posterior, ones, [ones], [groups])
    ends = response_interval(posterior, ones, [ones], [groups], np.array([0.05, 0.95]))
    for j, share in enumerate(shares):
        joint = probability[:, :, None] * share
        assert_moments(moments.mean[j, 0], moments.covariance[j, 0, 0], joint, tau[:, None] * z)
        rate = inverse_link(responses.family, b[:, None, None] + tau[:, None] * z)
        mean, sd = mean_and_sd(joint, rate)
        assert abs(rates[j] - mean) < 0.03 * sd
        levels = [
            np.sum(probability * below(share, (link(responses.family, end) - b[:, None]) / tau, z)) for end in ends[j]
        ]
        np.testing.assert_allclose(levels, [0.05, 0.95], atol=0.006)


def link(family, rate):
    return logit(rate) if family == "binomial" else np.log(rate)


def below(share, at, z):
    """Return the probability that z is below ``at``, (n_b, n_tau), by linear interpolation on its grid."""
    cumulative = np.cumsum(share, axis=2) - 0.5 * share
    position = np.clip((at - z[0]) / (z[1] - z[0]), 0, len(z) - 1.001)
    first = position.astype(int)[:, :, None]
    low, high = (np.take_along_axis(cumulative, first + k, axis=2)[:, :, 0] for k in (0, 1))
    return low + (position - first[:, :, 0]) * (high - low)


def assert_moments(mean, variance, probability, values):
    """Compare with the moments of a grid: means to 0.02 sd, half of it the Monte Carlo error asked for, sds to 2 %."""
    exact, sd = mean_and_sd(probability, values)
    assert abs(mean - exact) < 0.02 * sd
    np.testing.assert_allclose(np.sqrt(variance), sd, rtol=0.02)


def test_logs_of_probabilities_that_floating_point_has_not():
    responses, priors = of_case("binomial")
    posterior = fit_generalized(responses, priors, IntegrationSettings()).posterior
    x, codes = np.ones((3, 1)), [np.array([0, 1, 2])]
    far = np.array([-1000.0, 1000.0, 0.0])
    log_mean, log_rest = response_log_means(posterior, x, [x], codes, far)
    near, near_rest = response_log_means(posterior, x, [x], codes, np.sign(far) * 200.0)
    # that far out each is proportional to e^eta
    assert log_mean[0] == pytest.approx(near[0] - 800.0, abs=1e-9)
    assert log_rest[1] == pytest.approx(near_rest[1] - 800.0, abs=1e-9)
    np.testing.assert_allclose(np.exp(log_mean[2]) + np.exp(log_rest[2]), 1.0)
