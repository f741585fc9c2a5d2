"""Predictions without groups: the population's own line, by closed forms, draws and the summary."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from hbsk import PartialPoolingClassifier, PartialPoolingCountRegressor, PartialPoolingRegressor

RNG = np.random.default_rng(11)
N, J = 90, 9
X = pd.DataFrame({"x": 3.0 + RNG.normal(size=N), "g": np.repeat(list("abcdefghi"), 10), "h": np.tile(list("uvw"), 30)})
EFFECT = dict(zip("abcdefghi", RNG.normal(0, 1.5, J), strict=True))
Y = 1.0 + 0.5 * X["x"] + X["g"].map(EFFECT) + RNG.normal(0, 0.6, N)
NEW = pd.DataFrame({"x": [0.0, 1.0, 4.5], "g": ["a", "never seen", None], "h": ["u", "u", None]})
DESIGN = np.column_stack([np.ones(3), NEW["x"]])
FORMULAS = {"intercepts": "x + (1 | g)", "slopes": "x + (x | g)", "two factors": "x + (x | g) + (1 | h)"}


def joint(model, n_draws=20_000):
    """Return joint draws of intercept, slope and sigma."""
    tree = model.to_datatree(draws=n_draws // 4, random_state=1)["posterior"]
    names = [name for name in ("Intercept", "x", "sigma") if name in tree]
    return np.column_stack([tree[name].to_numpy().ravel() for name in names])


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_the_population_is_the_common_line_and_its_sd(formula):
    model = PartialPoolingRegressor(formula, unknown_groups="error").fit(X, Y)
    mean, std = model.predict(NEW, include_groups=False, return_std=True)
    np.testing.assert_allclose(mean, DESIGN @ [model.intercept_, *model.coef_], rtol=1e-9)
    draws = joint(model)
    line = draws[:, :2] @ DESIGN.T
    np.testing.assert_allclose(std, np.sqrt(line.var(axis=0) + np.mean(draws[:, 2] ** 2)), rtol=0.03)
    ends = model.predict_interval(NEW, include_groups=False, kind="mean", coverage=0.8)
    np.testing.assert_allclose(ends, np.quantile(line, [0.1, 0.9], axis=0).T, atol=0.04 * line.std(axis=0).max())
    # where x is 0 it is the intercept of the summary
    table = model.summary(0.8)
    np.testing.assert_allclose(ends[0], table.loc["Intercept", ["eti80_lb", "eti80_ub"]].to_numpy(float), rtol=1e-6)
    observed = model.predict_interval(NEW, include_groups=False, coverage=0.8)
    y = model.sample_y(NEW, include_groups=False, n_samples=20_000, random_state=0)
    np.testing.assert_allclose(np.mean((y > observed[:, :1]) & (y < observed[:, 1:]), axis=1), 0.8, atol=0.01)


def test_a_new_group_has_the_same_mean_and_more_sd():
    model = PartialPoolingRegressor("x + (1 | g)").fit(X, Y)
    (mean, std), (new_mean, new_std) = (
        model.predict(NEW.assign(g="new"), include_groups=each, return_std=True) for each in (False, True)
    )
    np.testing.assert_allclose(mean, new_mean, rtol=1e-12)
    between = np.mean(model.to_datatree(draws=5000, random_state=0)["posterior"]["1|g_sigma"].to_numpy() ** 2)
    np.testing.assert_allclose(new_std**2 - std**2, between, rtol=0.05)


def test_with_all_variances_known_it_is_generalised_least_squares():
    """Normal(0, 2) priors of b, tau = 1.5, sigma = 0.6: b is normal with mean V X'S y, V = (X'S X + I / 4)^-1."""
    priors = {"Intercept": ("Normal", {"mu": 0, "sigma": 2}), "x": ("Normal", {"mu": 0, "sigma": 2}), "sigma": 0.6}
    model = PartialPoolingRegressor("x + (1 | g)", priors=priors | {"1|g": ("Normal", {"mu": 0, "sigma": 1.5})})
    x, codes = np.column_stack([np.ones(N), X["x"]]), np.repeat(np.arange(J), 10)
    precision = np.linalg.inv(0.36 * np.eye(N) + 2.25 * (codes[:, None] == codes))
    prior = np.eye(2) / 4.0
    # priors are of the intercept at the mean of x
    shift = np.array([[1.0, -X["x"].mean()], [0.0, 1.0]])
    centred = x @ shift
    covariance = np.linalg.inv(centred.T @ precision @ centred + prior)
    mean = covariance @ centred.T @ precision @ Y
    found, std = model.fit(X, Y).predict(NEW, include_groups=False, return_std=True)
    rows = DESIGN @ shift
    np.testing.assert_allclose(found, rows @ mean, rtol=1e-8)
    np.testing.assert_allclose(std, np.sqrt(np.einsum("ri,ij,rj->r", rows, covariance, rows) + 0.36), rtol=1e-8)


def test_fixed_means_of_effects_belong_to_the_population():
    priors = {"1|g": ("Normal", {"mu": 5.0, "sigma": ("HalfNormal", {"sigma": 2.0})})}
    moved = PartialPoolingRegressor("x + (1 | g)", priors=priors).fit(X, Y)
    np.testing.assert_allclose(moved.predict(NEW, include_groups=False), moved.predict(NEW.assign(g="new")), rtol=1e-9)
    assert np.ptp(moved.predict(NEW, include_groups=False) - DESIGN @ [moved.intercept_, *moved.coef_]) < 1e-9


@pytest.mark.parametrize("engine", ["marginal", "complete"])
def test_probabilities_are_integrals_over_the_common_coefficients(engine):
    label = (Y.median() < Y).astype(int)
    pooling = "complete" if engine == "complete" else "partial"
    model = PartialPoolingClassifier("x + (1 | g)", pooling=pooling).fit(X, label)
    line = joint(model)[:, :2] @ DESIGN.T
    found = model.predict_proba(NEW, include_groups=False)[:, 1]
    np.testing.assert_allclose(found, expit(line).mean(axis=0), atol=0.01)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(NEW, include_groups=False))[:, 1], found)
    np.testing.assert_array_equal(model.predict(NEW, include_groups=False), (found > 0.5).astype(int))
    np.testing.assert_allclose(expit(model.decision_function(NEW, include_groups=False)), found)
    ends = model.predict_interval(NEW, include_groups=False)
    table = model.summary(0.9)
    expected = expit(table.loc["Intercept", ["eti90_lb", "eti90_ub"]].to_numpy(float))
    np.testing.assert_allclose(ends[0], expected, rtol=2e-4)  # three normals stand for one
    assert np.isin(model.sample_y(NEW, include_groups=False, random_state=0), [0, 1]).all()


def test_rates_are_integrals_over_the_common_coefficients():
    count = RNG.poisson(np.exp(0.3 * (X["x"] - 3) + 0.5 * X["g"].map(EFFECT)))
    model = PartialPoolingCountRegressor("x + (1 | g)").fit(X, count)
    rate = np.exp(joint(model)[:, :2] @ DESIGN.T)
    np.testing.assert_allclose(model.predict(NEW, include_groups=False), rate.mean(axis=0), rtol=0.03)
    # the average over groups is larger, since the exponential is convex
    assert (model.predict(NEW, include_groups=False) < model.predict(NEW.assign(g="new"))).all()
    ends = model.predict_interval(NEW, include_groups=False)
    np.testing.assert_allclose(ends, np.quantile(rate, [0.05, 0.95], axis=0).T, rtol=0.05)
    assert model.predict_interval(NEW, include_groups=False, kind="prediction").shape == (3, 2)
    assert model.sample_y(NEW, include_groups=False, random_state=0).shape == (3, 1)


def test_labels_by_keyword_are_not_looked_at_and_without_groups_it_is_the_prediction():
    model = PartialPoolingRegressor().fit(X[["x"]], Y, groups=X["g"])
    line = model.intercept_ + model.coef_[0] * NEW["x"]
    np.testing.assert_allclose(model.predict(NEW[["x"]], include_groups=False), line)
    np.testing.assert_allclose(model.predict(NEW[["x"]], groups=[1.5, None, "z"], include_groups=False), line)
    complete = PartialPoolingRegressor(group_features="g", pooling="complete").fit(X.drop(columns="h"), Y)
    rows = NEW.drop(columns="h").assign(g="a")
    np.testing.assert_array_equal(complete.predict(rows, include_groups=False), complete.predict(rows))
    errors = PartialPoolingRegressor("x + (1 | g)").fit(X, Y, standard_error=np.full(N, 0.6))
    with pytest.raises(ValueError, match="return_std=True needs standard_error="):
        errors.predict(NEW, include_groups=False, return_std=True)
    same = NEW.iloc[[1, 1, 1]]
    std = errors.predict(same, include_groups=False, return_std=True, standard_error=[0.1, 1.0, 2.0])[1]
    np.testing.assert_allclose(np.diff(std**2), [0.99, 3.0], rtol=1e-9)
    line = joint(errors) @ DESIGN[1]
    assert std[0] ** 2 - 0.01 == pytest.approx(line.var(), rel=0.03)


def test_it_is_refused_where_there_is_no_population():
    for cls, y in ((PartialPoolingRegressor, Y), (PartialPoolingClassifier, (Y > 2).astype(int))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            none = cls("x + (1 | g)", pooling="none").fit(X, y)
        with pytest.raises(ValueError, match=r"asks for the population that the groups \('g'\) are drawn from"):
            none.predict(NEW, include_groups=False)
    model = PartialPoolingRegressor("x + (1 | g)").fit(X, Y)
    with pytest.raises(ValueError, match="include_groups must be True or False, got 'no'"):
        model.predict(NEW, include_groups="no")
