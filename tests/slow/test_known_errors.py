"""Coverage of intervals of the mean of a meta-analysis under default priors, over 4,000 data sets a cell.

The intervals are those of the posterior on a grid of tau, vectorised over data sets; the estimator gives the same ones,
which is checked on some data sets of each cell. The figures are shown in docs/guide/standard_errors.md.
"""

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr

from hbsk import PartialPoolingRegressor

pytestmark = pytest.mark.slow

N_SETS = 4000
# Standard errors of unequal studies spread by a factor of nine.
ERRORS = {"equal": lambda n: np.ones(n), "unequal": lambda n: np.geomspace(1 / 3, 3.0, n)}
LEVELS = np.array([0.95, 0.89])


def posterior_of_means(y, error, n_grid=256):
    """Return weights, means and variances of mu over a grid of tau, each (n_sets, n_grid)."""
    scale = 2.5 * np.sqrt(np.var(y, axis=1) + np.mean(error**2))
    # equal steps near zero, and reaching four scales of the prior
    tau = scale[:, None] * 4.5 * ((np.arange(n_grid) + 0.5) / n_grid) ** 2
    precision = 1 / (error**2 + tau[:, :, None] ** 2)
    total = 1 / scale[:, None] ** 2 + precision.sum(axis=2)
    centre = y.mean(axis=1)[:, None]
    deviation = y - centre
    shift = np.einsum("sgj,sj->sg", precision, deviation) / total
    squares = np.einsum("sgj,sj->sg", precision, deviation**2) - shift**2 * total
    log_density = 0.5 * (np.log(precision).sum(axis=2) - np.log(total) - squares) - 0.5 * (tau / scale[:, None]) ** 2
    weight = np.exp(log_density - log_density.max(axis=1, keepdims=True)) * np.sqrt(tau)
    return weight / weight.sum(axis=1, keepdims=True), centre + shift, 1 / total


def coverage(n_studies, errors, tau, rng):
    """Shares of 4,000 data sets whose central intervals at LEVELS hold the true mean, 0; and some of the data."""
    error = ERRORS[errors](n_studies)
    true_sd = np.sqrt(tau**2 * np.mean(error**2) + error**2)
    y = true_sd * rng.standard_normal((N_SETS, n_studies))
    weight, mean, variance = posterior_of_means(y, error)
    below = np.sum(weight * ndtr(-mean / np.sqrt(variance)), axis=1)
    inside = np.abs(below[:, None] - 0.5) <= LEVELS / 2
    return inside.mean(axis=0), y[:8], error, below[:8]


@pytest.mark.parametrize("errors", ERRORS)
@pytest.mark.parametrize("n_studies", [2, 3, 5, 10])
@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_intervals_of_the_mean_cover_at_least_what_they_say(n_studies, errors, tau):
    rng = np.random.default_rng([n_studies, int(tau), len(errors)])
    found, y, error, below = coverage(n_studies, errors, tau, rng)
    # three standard errors of a share of 4,000 below nominal would be chance
    assert np.all(found >= LEVELS - 3 * np.sqrt(LEVELS * (1 - LEVELS) / N_SETS))
    X = pd.DataFrame({"study": np.arange(n_studies)})
    for values, probability in zip(y, below, strict=True):
        model = PartialPoolingRegressor(group_features="study").fit(X, values, standard_error=error)
        mean, sd = (part[:, 0] for part in model._learnt.fitted.posterior.common_mixture())
        # the estimator's probability that the mean is below its true value
        assert model._learnt.fitted.posterior.weight @ ndtr(-mean / sd) == pytest.approx(probability, abs=2e-3)


@pytest.mark.parametrize("errors", ERRORS)
def test_where_studies_differ_by_more_than_the_prior_expects_of_two(errors):
    """What the guide says: with two studies and tau of two or four errors 95 % intervals hold less than that."""
    cells = {tau: coverage(2, errors, tau, np.random.default_rng(1))[0][0] for tau in (2.0, 4.0)}
    assert 0.90 < cells[2.0] < 0.97
    assert 0.80 < cells[4.0] < 0.92
    assert coverage(10, errors, 4.0, np.random.default_rng(1))[0][0] > 0.93
