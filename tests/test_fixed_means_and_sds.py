"""Effects with a fixed mean, and with an sd of zero: integrated, against dense algebra and models without them."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hbsk import PartialPoolingRegressor, from_json, to_json
from hbsk.exceptions import ConvergenceWarning
from hbsk.model_selection import loo

SIGMA = 0.3
HALF = ("HalfNormal", {"sigma": 0.7})


def test_a_fixed_mean_of_normal_effects_by_dense_conditioning(rng):
    n, n_groups, mu, tau = 14, 3, np.array([2.0, -3.0]), np.array([1.2, 0.6])
    X = pd.DataFrame({"x": rng.normal(2.0, 1.0, n), "g": np.arange(n) % n_groups})
    y = rng.normal(3.0, 2.0, n)
    priors = {
        "Intercept": ("Normal", {"mu": 1.0, "sigma": 2.0}),
        "1|g": ("Normal", {"mu": mu[0], "sigma": tau[0]}),
        "x|g": ("Normal", {"mu": mu[1], "sigma": tau[1]}),
        "sigma": SIGMA,
    }
    model = PartialPoolingRegressor("y ~ 1 + (x || g)", priors=priors).fit(X, y)
    assert model.inference_.startswith("marginal")
    rows = pd.DataFrame({"x": [0.0, 1.5, 0.7], "g": [7, 7, 1]})
    # theta = (b, u_1, ..., u_J): y = H theta + e
    prior_mean = np.concatenate([[1.0], np.tile(mu, n_groups + 1)])
    prior_var = np.diag(np.concatenate([[4.0], np.tile(tau**2, n_groups + 1)]))

    def design(frame, codes):
        H = np.zeros((len(frame), len(prior_mean)))
        H[:, 0] = 1.0
        for i, (x, j) in enumerate(zip(frame["x"], codes, strict=True)):
            H[i, 1 + 2 * j : 3 + 2 * j] = [1.0, x]
        return H

    H, new = design(X, X["g"]), design(rows, [3, 3, 1])
    gain = prior_var @ H.T @ np.linalg.inv(H @ prior_var @ H.T + SIGMA**2 * np.eye(n))
    post_mean, post_var = prior_mean + gain @ (y - H @ prior_mean), prior_var - gain @ H @ prior_var
    mean, std = model.predict(rows, return_std=True)
    variance = np.einsum("ri,ij,rj->r", new, post_var, new)
    np.testing.assert_allclose(mean, new @ post_mean, rtol=1e-9)
    np.testing.assert_allclose(std, np.sqrt(variance + SIGMA**2), rtol=1e-9)
    low, high = model.predict_interval(rows, coverage=0.9, kind="mean").T
    half = stats.norm.ppf(0.95) * np.sqrt(variance)
    np.testing.assert_allclose([low, high], [new @ post_mean - half, new @ post_mean + half], rtol=1e-8)
    draws = model.sample_y(rows, n_samples=20_000, random_state=1)
    np.testing.assert_allclose(draws.mean(axis=1), new @ post_mean, atol=0.05)
    covariance = new @ post_var @ new.T + SIGMA**2 * np.eye(3)
    np.testing.assert_allclose(np.cov(draws), covariance, atol=0.05 * np.max(covariance))
    table = model.group_effects(coverage=None).set_index(["term", "group"])["mean"]
    for j in range(n_groups):
        assert table["1|g", j] == pytest.approx(post_mean[0] + post_mean[1 + 2 * j], rel=1e-9)
        assert table["x|g", j] == pytest.approx(post_mean[2 + 2 * j], rel=1e-9)
    effects = model.to_datatree(draws=4000, random_state=1)["posterior"]["x|g"].mean(["chain", "draw"])
    np.testing.assert_allclose(effects, post_mean[2 : 2 + 2 * n_groups : 2], atol=0.05)


def with_and_without_mean(rng, **options):
    n = 60
    X = pd.DataFrame({"x": rng.normal(size=n), "g": np.arange(n) % 6, "known": 0.0})
    y = 1.0 + 0.5 * X["x"] + rng.normal(size=6)[X["g"]] + 0.4 * rng.normal(size=n)
    X["known"] = 50.0 - 3.0 * X["x"]
    priors = {
        "common": ("Normal", {"mu": 0.0, "sigma": 3.0}),
        "1|g": ("Normal", {"mu": 50.0, "sigma": HALF}),
        "x|g": ("Normal", {"mu": -3.0, "sigma": HALF}),
        "sigma": HALF,
    }
    model = PartialPoolingRegressor("y ~ x + (x | g)", priors=priors, **options).fit(X, y + X["known"])
    zero = {term: ("Normal", {"mu": 0.0, "sigma": HALF}) for term in ("1|g", "x|g")}
    offset = PartialPoolingRegressor("y ~ x + offset(known) + (x | g)", priors=priors | zero, **options)
    return model, offset.fit(X, y + X["known"]), X, y + X["known"]


def test_a_fixed_mean_is_the_offset_that_it_is(rng):
    """The same density, so the same nodes: everything agrees, but for the effects themselves."""
    model, offset, X, y = with_and_without_mean(rng)
    rows = X.iloc[:8].assign(g=[0, 1, 2, 3, 101, 101, 102, 103])
    for one, other in zip(model.predict(rows, return_std=True), offset.predict(rows, return_std=True), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    np.testing.assert_allclose(model.predict_interval(rows), offset.predict_interval(rows), rtol=1e-8)
    np.testing.assert_allclose(model.summary().iloc[:, :4], offset.summary().iloc[:, :4], rtol=1e-8)
    # a table of all rows takes another way than a few rows
    np.testing.assert_allclose(model.predict(X), offset.predict(X), rtol=1e-9)
    for unit in ("row", "group"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            one, other = (loo(m, X, y, unit=unit) for m in (model, offset))
        assert one.elpd == pytest.approx(other.elpd, rel=1e-7)
    ours, theirs = (m.group_effects(coverage=0.9) for m in (model, offset))
    mean = np.where(ours["term"] == "1|g", 50.0, -3.0)
    for column in ("no_pooling", "mean", "eti90_lb", "eti90_ub"):
        np.testing.assert_allclose(ours[column], theirs[column] + mean, rtol=1e-7)
    np.testing.assert_allclose(ours[["sd", "shrinkage"]], theirs[["sd", "shrinkage"]], rtol=1e-7)
    np.testing.assert_array_equal(model.predict(rows), from_json(to_json(model)).predict(rows))


@pytest.mark.parametrize("formula", ["y ~ x + (x || g)", "y ~ x + (x | g)"])
def test_a_group_sd_of_zero_is_the_model_without_the_term(rng, formula):
    n = 60
    X = pd.DataFrame({"x": rng.normal(size=n), "g": np.arange(n) % 6})
    y = 1.0 + 0.5 * X["x"] + rng.normal(size=6)[X["g"]] + 0.4 * rng.normal(size=n)
    priors = {"common": ("Normal", {"mu": 0.0, "sigma": 3.0}), "1|g": ("Normal", {"sigma": HALF}), "sigma": HALF}
    off = {"x|g": ("Normal", {"mu": 0.0, "sigma": 0.0})}
    model = PartialPoolingRegressor(formula, priors=priors | off).fit(X, y)
    without = PartialPoolingRegressor("y ~ x + (1 | g)", priors=priors).fit(X, y)
    rows = X.iloc[:6].assign(g=[0, 1, 2, 3, 9, 9])
    spread = without.predict(rows, return_std=True)[1]
    for one, other in zip(model.predict(rows, return_std=True), without.predict(rows, return_std=True), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3 * spread.max())
    assert model.group_sd_["g"]["x|g"] == 0.0
    assert np.all(model.shrinkage_["g"]["x|g"] == 0.0)
    effects = model.group_effects(coverage=0.9).set_index("term").loc["x|g"]
    np.testing.assert_allclose(effects["mean"], model.coef_[0], rtol=1e-9)
    assert np.isfinite(model.summary()[["mean", "sd"]]).all(axis=None)
    assert np.isfinite(model.sample_y(rows, n_samples=3, random_state=0)).all()
