"""Differences between groups: closed forms, joint draws, and what cannot be compared."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hbsk import (
    JamesSteinEstimator,
    PartialPoolingClassifier,
    PartialPoolingCountRegressor,
    PartialPoolingRegressor,
)
from hbsk._engine import crossed as crossed_engine
from hbsk._shrinkage.draws import draw_means

RNG = np.random.default_rng(31)
SIZES = np.array([2, 5, 20, 9, 14, 7])
CODES = np.repeat(np.arange(6), SIZES)
N = len(CODES)
X = pd.DataFrame({"g": np.array(list("abcdef"))[CODES], "x": 20.0 + RNG.normal(size=N), "h": RNG.integers(0, 4, N)})
Y = RNG.normal(0, 1.0, 6)[CODES] + 0.3 * X["x"] + 0.3 * X["h"] + RNG.normal(0, 0.7, N)
PAIRS = [("a", "b"), ("c", "e"), ("f", "a")]
FIRST, SECOND = [a for a, _ in PAIRS], [b for _, b in PAIRS]


def draws_of(model, n_draws=20_000):
    return model.to_datatree(draws=n_draws // 4, random_state=3)["posterior"]


def of_draws(model, tree=None, factor="g", x=0.0):
    """Return joint draws of the levels of all groups, (n_draws, n_groups)."""
    tree = draws_of(model) if tree is None else tree
    level = tree[f"1|{factor}"].to_numpy()
    level = level.reshape(-1, level.shape[-1])
    if f"x|{factor}" in tree:
        slope = tree[f"x|{factor}"].to_numpy()
        level = level + x * slope.reshape(-1, slope.shape[-1])
    return pd.DataFrame(level, columns=list(model.groups_[factor]))


def agrees(table, draws, exact=False):
    """Hold a table of comparisons against differences of joint draws."""
    apart = np.column_stack([draws[a] - draws[b] for a, b in zip(table["group"], table["other"], strict=True)])
    sd = apart.std(axis=0)
    error = 1e-9 if exact else 5.0 / np.sqrt(len(apart))
    np.testing.assert_allclose((table["mean"] - apart.mean(axis=0)) / sd, 0, atol=error)
    np.testing.assert_allclose(table["sd"], sd, rtol=1e-9 if exact else 0.04)
    np.testing.assert_allclose(table["p_greater"], np.mean(apart > 0, axis=0), atol=1e-12 if exact else 0.015)
    ends = np.quantile(apart, [0.1, 0.9], axis=0).T
    np.testing.assert_allclose((table[["eti80_lb", "eti80_ub"]] - ends) / sd[:, None], 0, atol=0.06)


@pytest.mark.parametrize("formula", ["x + (1 | g)", "x + (x | g)", "x + (x | g) + (1 | h)"])
def test_differences_are_those_of_joint_draws(formula, monkeypatch):
    # sds so wide that two readings of 512 nodes are 4 % apart
    monkeypatch.setattr(crossed_engine, "NODES_OF_FEW", 2048)
    model = PartialPoolingRegressor(formula).fit(X, Y)
    table = model.compare_groups(FIRST, SECOND, factor="g", coverage=0.8)
    assert list(table) == ["group", "other", "mean", "sd", "eti80_lb", "eti80_ub", "p_greater"]
    tree = draws_of(model)
    agrees(table, of_draws(model, tree))
    there = model.compare_groups(FIRST, SECOND, factor="g", at={"x": 21.0}, coverage=0.8)
    agrees(there, of_draws(model, tree, x=21.0))
    means = model.group_effects(at={"x": 21.0}).query("term == '1|g'").set_index("group")["mean"]
    np.testing.assert_allclose(there["mean"], means[FIRST].to_numpy() - means[SECOND].to_numpy(), rtol=1e-7)


def test_with_known_variances_a_difference_is_normal_with_the_exact_covariance():
    """tau = 1.2, sigma = 0.7 and a Normal(0, 5) mean of all: theta given y is normal, by dense matrices."""
    priors = {"Intercept": ("Normal", {"mu": 0, "sigma": 5.0}), "sigma": 0.7}
    model = PartialPoolingRegressor("1 + (1 | g)", priors=priors | {"1|g": ("Normal", {"mu": 0, "sigma": 1.2})}).fit(
        X, Y
    )
    rows = np.eye(6)[CODES]
    prior = 1.44 * np.eye(6) + 25.0
    gain = prior @ rows.T @ np.linalg.inv(rows @ prior @ rows.T + 0.49 * np.eye(N))
    mean, covariance = gain @ Y.to_numpy(), prior - gain @ rows @ prior
    table = model.compare_groups("a").set_index("other")
    assert list(table.index) == list("bcdef")
    for j, label in enumerate("bcdef", start=1):
        apart = mean[0] - mean[j]
        sd = np.sqrt(covariance[0, 0] + covariance[j, j] - 2 * covariance[0, j])
        row = table.loc[label]
        assert row["mean"] == pytest.approx(apart, rel=1e-8)
        assert row["sd"] == pytest.approx(sd, rel=1e-8)
        assert row["p_greater"] == pytest.approx(stats.norm.cdf(apart / sd), rel=1e-8)
        np.testing.assert_allclose(row[["eti95_lb", "eti95_ub"]].to_list(), stats.norm.interval(0.95, apart, sd))
    back = model.compare_groups("b", "a").iloc[0]
    assert back["mean"] == pytest.approx(-table.loc["b", "mean"])
    assert back["p_greater"] == pytest.approx(1 - table.loc["b", "p_greater"])


def test_without_pooling_it_is_the_z_test():
    """With sigma known: the difference of two means has the sd sigma sqrt(1 / n_a + 1 / n_b)."""
    none = PartialPoolingRegressor("1 + (1 | g)", pooling="none", priors={"sigma": 0.7}).fit(X, Y)
    row = none.compare_groups("c", "e").iloc[0]
    means = Y.groupby(X["g"]).mean()
    assert row["mean"] == pytest.approx(means["c"] - means["e"], rel=1e-9)
    assert row["sd"] == pytest.approx(0.7 * np.sqrt(1 / 20 + 1 / 14), rel=1e-9)
    few = X.assign(x=np.where(X["g"] == "a", 20.0, X["x"]))
    slopes = PartialPoolingRegressor("x + (x | g)", pooling="none").fit(few, Y).compare_groups(["a", "b"], "c")
    assert np.isinf(slopes["sd"]).tolist() == [True, False]
    assert slopes["p_greater"].iloc[0] == pytest.approx(0.5)


def test_draws_of_nuts_are_compared_one_by_one(crossed):
    model = crossed[0]
    tree = model.to_datatree()["posterior"]
    level = tree["1|pupil"].to_numpy().reshape(300, -1) + 0.4 * tree["x|pupil"].to_numpy().reshape(300, -1)
    draws = pd.DataFrame(level, columns=list("abcdefg"))
    agrees(model.compare_groups(["a", "g"], "c", factor="pupil", at={"x": 0.4}, coverage=0.8), draws, exact=True)
    slopes = tree["x|pupil"].to_numpy().reshape(300, -1)
    found = model.compare_groups("a", "b", term="x|pupil").iloc[0]
    assert found["p_greater"] == pytest.approx(np.mean(slopes[:, 0] > slopes[:, 1]))
    population = tree["Intercept"].to_numpy().ravel() + tree["x"].to_numpy().ravel()
    mean, std = model.predict(crossed[1].iloc[:1].assign(x=1.0), include_groups=False, return_std=True)
    assert mean[0] == pytest.approx(population.mean())
    assert std[0] ** 2 == pytest.approx(population.var() + np.mean(tree["sigma"].to_numpy() ** 2))
    at = model.group_effects(at={"x": 0.4}).query("term == '1|pupil'").set_index("group")["mean"]
    expected = tree["Intercept"].to_numpy().mean() + 0.4 * tree["x"].to_numpy().mean() + draws.mean()
    np.testing.assert_allclose(at, expected, rtol=1e-9)


@pytest.mark.parametrize("cls", [PartialPoolingClassifier, PartialPoolingCountRegressor])
def test_classes_and_counts_are_compared_on_the_scale_of_the_link(cls):
    y = (Y.median() < Y).astype(int) if cls is PartialPoolingClassifier else np.round(np.exp(0.3 * (Y - Y.min())))
    model = cls("x + (1 | g)").fit(X, y)
    agrees(model.compare_groups(FIRST, SECOND, coverage=0.8), of_draws(model))


def test_shrunken_means_differ_by_their_common_target_too():
    for options in ({}, {"target": "regression"}, {"method": "empirical-bayes"}, {"target": "zero"}):
        model = JamesSteinEstimator(group_features="g", **options).fit(X[["g", "x"]], Y)
        theta = draw_means(model._learnt.means, 200_000, np.random.default_rng(1)).theta
        draws = pd.DataFrame(theta, columns=list("abcdef"))
        table = model.compare_groups(FIRST, SECOND, coverage=0.8)
        apart = np.column_stack([draws[a] - draws[b] for a, b in PAIRS])
        # from 4,000 draws
        np.testing.assert_allclose(table["p_greater"], np.mean(apart > 0, axis=0), atol=0.03)
        ends = np.quantile(apart, [0.1, 0.9], axis=0).T
        np.testing.assert_allclose(table[["eti80_lb", "eti80_ub"]], ends, atol=0.08 * apart.std(axis=0).max())
        np.testing.assert_allclose(table["mean"], model.theta_[[0, 2, 5]] - model.theta_[[1, 4, 0]])
        np.testing.assert_allclose(table["sd"], apart.std(axis=0), rtol=0.1)  # Student's t have a larger one
    with pytest.raises(ValueError, match="factor='h' is no grouping factor"):
        model.compare_groups("a", "b", factor="h")
    with pytest.warns(match="No groups|fewer than 3"):
        alone = JamesSteinEstimator().fit(X[["x"]], Y)
    with pytest.raises(ValueError, match="no groups to compare"):
        alone.compare_groups("a")


def test_labels_of_any_kind_are_found():
    pairs = PartialPoolingRegressor("x + (1 | g:h)").fit(X, Y)
    labels = pairs.groups_["g:h"]
    assert pairs.compare_groups(labels[0], [labels[1], labels[2]])["other"].tolist() == [labels[1], labels[2]]
    numbers = PartialPoolingRegressor("x + (1 | h)").fit(X, Y)
    assert numbers.compare_groups(1.0, np.array([0, 3]))["mean"].notna().all()
    dates = X.assign(h=pd.Timestamp("2026-01-01") + pd.to_timedelta(X["h"], "D"))
    of_dates = PartialPoolingRegressor("x + (1 | h)").fit(dates, Y)
    found = of_dates.compare_groups(dates["h"].iloc[0])
    assert len(found) == 3
    np.testing.assert_allclose(found["sd"], numbers.compare_groups(X["h"].iloc[0])["sd"])


def test_what_cannot_be_compared_says_why():
    model = PartialPoolingRegressor("x + (1 | g) + (1 | h)").fit(X, Y)
    for arguments, message in (
        (("a", "b"), "say with factor= which groups to compare"),
        (("a", "zz"), r"'zz' is no group of 'g' that fit has seen; its groups are 'a', 'b', 'c'"),
        ((["y", "zz"], "a"), "'y', 'zz' are no group of 'g'"),
        (("a", "a"), "The group 'a' is compared with itself"),
        ((["a", "b"], ["c", "d", "e"]), "a names 2 groups and b 3: lists are compared pair by pair"),
        ((["a", "b"], None), "a names 2 groups; without b it must be one label"),
        (([], "a"), "An empty list of groups of 'g'"),
    ):
        with pytest.raises(ValueError, match=message):
            model.compare_groups(*arguments, factor=None if "say with" in message else "g")
    with pytest.raises(ValueError, match="coverage must be a fraction"):
        model.compare_groups("a", "b", factor="g", coverage=95)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        complete = PartialPoolingRegressor("x + (1 | g)", pooling="complete").fit(X, Y)
    with pytest.raises(ValueError, match="no groups to compare"):
        complete.compare_groups("a", "b")


def test_shrunken_means_of_a_known_variance_have_the_exact_covariance():
    """tau^2 = 1.44, known errors, a flat prior of the mean: theta given y is normal, by dense matrices."""
    y, error = np.array([1.0, 3.5, -0.5, 2.0, 0.8]), np.array([0.2, 2.0, 0.7, 1.1, 0.4])
    model = JamesSteinEstimator(group_features=0, method="empirical-bayes", between_group_variance=1.44)
    table = model.fit(np.arange(5)[:, None], y, standard_error=error).compare_groups(1)
    precision = np.diag(1 / error**2) + (np.eye(5) - 0.2) / 1.44
    covariance = np.linalg.inv(precision)
    mean = covariance @ (y / error**2)
    for other, row in table.set_index("other").iterrows():
        assert row["mean"] == pytest.approx(mean[1] - mean[other])
        variance = covariance[1, 1] + covariance[other, other] - 2 * covariance[1, other]
        assert row["sd"] == pytest.approx(np.sqrt(variance))
        assert row["p_greater"] == pytest.approx(stats.norm.cdf(row["mean"] / row["sd"]), abs=0.03)
