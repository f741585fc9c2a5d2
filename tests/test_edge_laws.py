"""Laws of groups of nothing but successes, failures or zeros, and of groups that differ by orders of magnitude."""

import numpy as np
import pytest
from scipy.special import expit

from hbsk._posterior.edge_laws import law_of_effects, normal_parts
from hbsk._posterior.parts import RowMixture
from hbsk._posterior.prediction import mixture_quantiles
from hbsk._posterior.skew_normals import FINE
from tests.edge_designs import LEVELS, SD_OF_INTERCEPT, errors_of, posterior_of

ONE = np.ones((4, 1))
CASES = {
    "far apart": ("binomial", [0, 20, 0, 20], [20] * 4),
    "a thousand trials and one": ("binomial", [0, 400, 0], [1, 1000, 1]),
    "one count": ("poisson", [0, 0, 0, 12], [1] * 4),
    "exposures": ("poisson", [0, 2, 150], [0.001, 1, 100]),
}


def of_case(name):
    family, y, size = CASES[name]
    y, size = np.array(y, dtype=float), np.array(size, dtype=float)
    return family, y, size, np.ones((len(y), 1)), np.arange(len(y)), [SD_OF_INTERCEPT[family]]


@pytest.mark.parametrize(
    ("family", "y", "size", "centre", "tau"),
    [("binomial", 0, 20, 0, 2), ("binomial", 30, 30, 1, 4), ("binomial", 1, 20, 0, 3), ("poisson", 0, 1, 3, 5)],
)
def test_a_law_is_found_from_its_mean(family, y, size, centre, tau):
    u = np.linspace(-11 * tau, 11 * tau, 200_001)
    eta = centre + u
    log_density = y * u - size * (np.exp(eta) if family == "poisson" else np.logaddexp(0, eta)) - 0.5 * (u / tau) ** 2
    density = np.exp(log_density - log_density.max())
    density /= density.sum()
    mean = density @ u
    sd = np.sqrt(density @ (u - mean) ** 2)
    ends = np.interp(LEVELS, np.cumsum(density) - 0.5 * density, u)
    points, probability, score = law_of_effects(family, *(np.array([float(v)]) for v in (y, size, mean, tau)))
    found = np.sum(probability * points)
    assert abs(found - mean) < 0.02 * sd
    assert abs(np.sqrt(np.sum(probability * (points - found) ** 2)) / sd - 1) < 0.01
    means, sds = normal_parts(points, probability, score)
    np.testing.assert_allclose(FINE.shares @ means, 0.0, atol=1e-12)
    np.testing.assert_allclose(FINE.shares @ (means**2 + sds**2), 1.0, rtol=1e-12)
    quantiles = mixture_quantiles(RowMixture(FINE.shares, mean + sd * means, (sd * sds) ** 2), LEVELS)[0]
    np.testing.assert_allclose((quantiles - ends) / sd, 0.0, atol=0.02)
    inverse = np.exp if family == "poisson" else expit
    rates = inverse(centre + u)
    of_rates = np.sqrt(density @ (rates - density @ rates) ** 2)
    np.testing.assert_allclose(inverse(centre + quantiles), inverse(centre + ends), atol=0.06 * of_rates)


@pytest.mark.parametrize("design", [of_case(name) for name in CASES], ids=list(CASES))
def test_ends_of_intervals_are_those_of_dense_grids(design):
    for name, (ends, sds) in errors_of(design).items():
        assert ends < 0.05, name
        assert sds < 0.04, name


def test_draws_and_differences_follow_the_same_laws():
    posterior = posterior_of(*of_case("far apart"))
    draws = posterior.group_draws(40_000, np.random.default_rng(0))
    predictor = draws.common + draws.effects[0][:, :, 0]
    rows = posterior.row_mixture(ONE, [ONE], [np.arange(4)])
    ends = mixture_quantiles(rows, LEVELS)
    np.testing.assert_allclose(np.mean(predictor[:, :, None] < ends, axis=0), np.tile(LEVELS, (4, 1)), atol=0.004)
    first, second = np.array([0, 1]), np.array([1, 2])
    of_draws = draws.effects[0][:, first, 0] - draws.effects[0][:, second, 0]
    difference = posterior.contrast_mixture(0, np.ones(1), first, second, None)
    mean, variance = difference.moments()
    np.testing.assert_allclose(mean, of_draws.mean(axis=0), atol=0.03 * np.sqrt(variance.max()))
    np.testing.assert_allclose(variance, of_draws.var(axis=0), rtol=0.03)
    ends = mixture_quantiles(difference, LEVELS)
    np.testing.assert_allclose(np.mean(of_draws[:, :, None] < ends, axis=0), np.tile(LEVELS, (2, 1)), atol=0.006)


def test_one_skew_group_makes_the_skewness_of_a_difference():
    y, size = np.array([0.0, 3e5, 7.0, 5e5]), np.array([20.0, 1e6, 20.0, 1e6])
    posterior = posterior_of("binomial", y, size, ONE, np.arange(4), [1.5])
    known, (skew, other) = mixture_quantiles(posterior.row_mixture(ONE, [ONE], [np.arange(4)]), LEVELS), (0, 1)
    for first, second, sign in ((skew, other, 1), (other, skew, -1)):
        mixture = posterior.contrast_mixture(0, np.ones(1), np.array([first]), np.array([second]), None)
        # the other predictor is known to a hundredth, so that ends are those of the skew group less that
        ends = sign * mixture_quantiles(mixture, LEVELS)[0][::sign]
        np.testing.assert_allclose(ends, known[skew] - known[other].mean(), atol=0.02)
