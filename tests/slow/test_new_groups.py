"""New groups from NUTS to the answer, against grids over the arguments of the prior of group effects."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hbsk import PartialPoolingRegressor

pytestmark = pytest.mark.slow

SIGMA, N_GROUPS, N_ROWS = 0.8, 9, 4
LAWS = {
    "Normal": (lambda mu, s: stats.norm(mu, s), "sigma", {}),
    "Laplace": (lambda mu, s: stats.laplace(mu, s), "b", {}),
    "Logistic": (lambda mu, s: stats.logistic(mu, s), "s", {}),
    "StudentT": (lambda mu, s: stats.t(4.0, mu, s), "sigma", {"nu": 4.0}),
    "Gumbel": (lambda mu, s: stats.gumbel_r(mu, s), "beta", {}),
}


@pytest.mark.parametrize("family", LAWS)
def test_a_prior_on_location_and_scale_of_the_effects(family):
    """y_ij = u_j + e_ij, u_j from the law with mu ~ N(0, 3) and scale ~ HalfNormal(2); by quadrature on a grid.

    The likelihood of (mu, scale) is a product over groups of integrals over u_j (trapezoid, 801 points over all that
    the group means allow); the predictive distribution of a new group averages that of the law over the grid.
    """
    law, scale_name, fixed = LAWS[family]
    rng = np.random.default_rng(5)
    effects = 4.0 + 1.5 * rng.standard_normal(N_GROUPS)
    codes = np.repeat(np.arange(N_GROUPS), N_ROWS)
    X, y = pd.DataFrame({"g": codes}), effects[codes] + SIGMA * rng.standard_normal(len(codes))

    means = np.bincount(codes, y) / N_ROWS
    error = SIGMA / np.sqrt(N_ROWS)
    mu, scale = np.meshgrid(np.linspace(-2.0, 9.0, 111), np.linspace(0.02, 8.0, 140), indexing="ij")
    u = np.linspace(-8 * error, 8 * error, 801)
    log_posterior = stats.norm(0.0, 3.0).logpdf(mu) + stats.halfnorm(scale=2.0).logpdf(scale)
    kernel = stats.norm(0.0, error).pdf(u)
    for mean in means:
        density = law(mu[..., None], scale[..., None]).pdf(mean + u)
        with np.errstate(divide="ignore"):  # where the law is narrow and far away
            log_posterior += np.log(np.trapezoid(density * kernel, u, axis=-1))
    weight = np.exp(log_posterior - log_posterior.max())
    weight /= weight.sum()
    at = law(mu, scale)
    mean = np.sum(weight * at.mean())
    sd = np.sqrt(np.sum(weight * (at.var() + at.mean() ** 2)) - mean**2)

    prior = (family, {"mu": ("Normal", {"mu": 0.0, "sigma": 3.0}), scale_name: ("HalfNormal", {"sigma": 2.0}), **fixed})
    model = PartialPoolingRegressor(
        "y ~ 1 + (1 | g)",
        priors={"1|g": prior, "Intercept": 0.0, "sigma": SIGMA},
        random_state=1,
        draws=2000,
        sampler_options={"target_accept": 0.95},
    ).fit(X, y)
    new = pd.DataFrame({"g": [99]})
    found, spread = model.predict(new, return_std=True)
    low, high = model.predict_interval(new, coverage=0.8, kind="mean")[0]
    # about 4 Monte Carlo errors of 8,000 draws, of which perhaps a quarter are effective
    assert found[0] == pytest.approx(mean, abs=0.06 * sd)
    assert spread[0] == pytest.approx(np.sqrt(sd**2 + SIGMA**2), rel=0.06)
    assert np.sum(weight * at.cdf(low)) == pytest.approx(0.1, abs=0.012)
    assert np.sum(weight * at.cdf(high)) == pytest.approx(0.9, abs=0.012)
    draws = model.sample_y(new, n_samples=8000, random_state=2)[0]
    noisy = np.mean(draws < mean)
    grid = np.linspace(-4.0, 4.0, 161)
    exact = np.sum(weight[..., None] * at_noise(law, mu, scale, mean, grid), axis=(0, 1))
    assert noisy == pytest.approx(exact @ stats.norm.pdf(grid) / stats.norm.pdf(grid).sum(), abs=0.025)
    table = model.summary()
    assert table.loc["1|g_mu", "mean"] == pytest.approx(np.sum(weight * mu), abs=0.05)
    assert table.loc[f"1|g_{scale_name}", "mean"] == pytest.approx(np.sum(weight * scale), rel=0.05)


def at_noise(law, mu, scale, threshold, grid):
    """P(u < threshold - e) at noise e = SIGMA * grid."""
    return law(mu[..., None], scale[..., None]).cdf(threshold - SIGMA * grid)
