"""Dyestuff and Dyestuff2, balanced one-way layouts: the posterior against quadrature over sigma and tau."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.marginal_against_nuts import moments
from hbsk import PartialPoolingRegressor
from tests.test_reference.reference import reference_data


def by_quadrature(y, codes, priors):
    """Return mean and sd of intercept, sigma and tau; given sigma and tau all else is normal."""
    rows, means = np.bincount(codes), np.bincount(codes, y) / np.bincount(codes)
    tau = np.geomspace(1e-4, 60, 1500)[:, None] * y.std()
    sigma = np.geomspace(0.3, 4, 200)[None, :] * y.std()
    location, scale = priors["Intercept"][1]["mu"], priors["Intercept"][1]["sigma"]
    family, tau_prior = priors["1|Batch"][1]["sigma"]
    assert family == "HalfNormal"
    family, sigma_prior = priors["sigma"]
    assert family == "HalfStudentT"
    variance = (tau**2 + sigma**2 / rows[0])[..., None]
    precision = scale**-2.0 + len(means) / variance[..., 0]
    first = location / scale**2 + np.sum(means / variance, axis=2)
    second = (location / scale) ** 2 + np.sum(means**2 / variance, axis=2)
    log_p = -0.5 * (len(means) * np.log(variance[..., 0]) + np.log(precision) + second - first**2 / precision)
    log_p -= (len(y) - len(means)) * np.log(sigma) + np.sum((y - means[codes]) ** 2) / (2 * sigma**2)
    log_p += stats.halfnorm.logpdf(tau, scale=tau_prior["sigma"])
    log_p += stats.t.logpdf(sigma / sigma_prior["sigma"], sigma_prior["nu"])
    weight = np.exp(log_p - log_p.max()) * tau * sigma  # steps are even on a log scale
    weight /= weight.sum()

    def mean_and_sd(values, variances=0.0):
        mean = np.sum(weight * values)
        return mean, np.sqrt(np.sum(weight * ((values - mean) ** 2 + variances)))

    return np.array([mean_and_sd(first / precision, 1 / precision), mean_and_sd(sigma), mean_and_sd(tau)])


@pytest.mark.parametrize("name", ["dyestuff", "dyestuff2"])
def test_moments_as_by_quadrature(name):
    data = reference_data(name)
    y, codes = data["Yield"].to_numpy(float), np.unique(data["Batch"], return_inverse=True)[1]
    assert len(set(np.bincount(codes))) == 1
    model = PartialPoolingRegressor("Yield ~ 1 + (1 | Batch)").fit(data[["Batch"]], data["Yield"])
    exact = by_quadrature(y, codes, model.priors_)
    found = moments(model).loc[["Intercept", "sigma", "1|Batch_sigma"]]
    # NUTS misses the tail of tau, whose kurtosis is 14 in Dyestuff2; ours is right to a few per mille.
    assert found["mean"].to_numpy() == pytest.approx(exact[:, 0], rel=2e-3)
    assert found["sd"].to_numpy() == pytest.approx(exact[:, 1], rel=2e-2)
    assert np.all(np.abs(found["mean"] - exact[:, 0]) < 3 * np.maximum(found["mean_error"], 1e-6 * exact[:, 1]))
    assert np.all(np.abs(found["sd"] - exact[:, 1]) < 3 * found["sd_error"])
