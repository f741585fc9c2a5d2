"""What PartialPoolingRegressor learns and answers, at the level of the estimator."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.metrics import r2_score

from hbsk import PartialPoolingRegressor
from hbsk._engine.settings import IntegrationSettings
from hbsk.datasets import load_sleepstudy
from hbsk.exceptions import ConvergenceWarning, NoGroupsWarning, SuspiciousGroupsWarning
from tests.dense import Problem, condition
from tests.grouped_data import seven_lines, seven_lines_fit


@pytest.fixture(scope="module")
def data():
    return seven_lines()


@pytest.fixture(scope="module")
def fitted():
    return seven_lines_fit()


def new_rows(X, labels=("k", "new", "z", "other", "new")):
    return X.iloc[: len(labels)].assign(g=list(labels))


# What is learnt


def test_learnt_attributes(fitted):
    assert fitted.formula_ == "y ~ x + w + (x | g)"
    assert fitted.inference_.startswith("marginal")
    assert fitted.coef_names_ == ["x", "w"]
    assert fitted.coef_.shape == (2,)
    assert (fitted.n_features_in_, list(fitted.feature_names_in_)) == (3, ["g", "x", "w"])
    assert list(fitted.groups_["g"]) == ["a", "b", "c", "k", "m", "q", "z"]
    assert list(fitted.group_sd_["g"].index) == ["1|g", "x|g"]
    correlation = fitted.group_correlation_["g"]
    assert list(correlation.index) == list(correlation.columns) == ["1|g", "x|g"]
    np.testing.assert_allclose(np.diag(correlation), 1.0)
    assert -1 < correlation.iloc[0, 1] < 1
    shrinkage = fitted.shrinkage_["g"]
    assert shrinkage.shape == (7, 2)
    assert list(shrinkage.index) == list(fitted.groups_["g"])
    assert shrinkage.to_numpy().min() >= 0
    assert shrinkage.to_numpy().max() <= 1
    assert set(fitted.priors_) == {"Intercept", "x", "w", "1|g", "x|g", "corr|g", "centre|g", "sigma"}
    assert list(fitted.diagnostics_.index[:1]) == ["sigma"]
    assert set(fitted.diagnostics_.index) >= {"sigma", "1|g_sigma", "x|g_sigma", "Intercept", "x", "w"}
    assert (fitted.diagnostics_["ess_bulk"] > 300).all()
    assert (fitted.diagnostics_["pareto_k"] < 0.7).all()


def test_group_effects_table(fitted, data):
    X, y = data
    table = fitted.group_effects_
    effects = ["mean", "sd", "deviation", "deviation_sd", "shrinkage"]
    assert list(table.columns) == ["factor", "group", "term", "n", "no_pooling", *effects]
    assert len(table) == 14
    assert list(table["term"].unique()) == ["1|g", "x|g"]
    sizes = X["g"].value_counts()
    np.testing.assert_array_equal(table["n"], sizes[table["group"]])
    # a group's coefficient is what a row of it would be predicted with: at x = w = 0, and one unit of x further
    at = pd.DataFrame({"g": fitted.groups_["g"], "x": 0.0, "w": 0.0})
    np.testing.assert_allclose(table["mean"][:7], fitted.predict(at), rtol=1e-9)
    np.testing.assert_allclose(table["mean"][7:], fitted.predict(at.assign(x=1.0)) - fitted.predict(at), rtol=1e-9)
    with_ends = fitted.group_effects(coverage=0.7)
    interval = fitted.predict_interval(at, coverage=0.7, kind="mean")
    np.testing.assert_allclose(with_ends[["eti70_lb", "eti70_ub"]][:7], interval, rtol=1e-9)
    assert (with_ends["eti70_lb"] < with_ends["mean"]).all()
    assert (with_ends["eti70_ub"] > with_ends["mean"]).all()
    wide = fitted.group_effects(coverage=0.99)
    assert (wide["eti99_ub"] > with_ends["eti70_ub"]).all()
    # no pooling: a line of its own in each group (w shared); NaN for the group of one row
    none = PartialPoolingRegressor(group_features="g", slope_features=["x"], pooling="none").fit(X, y)
    single = (table["group"] == sizes.index[sizes == 1][0]).to_numpy()
    assert table["no_pooling"][single].isna().all()
    np.testing.assert_allclose(table["no_pooling"][~single], none.group_effects_["mean"][~single], rtol=1e-9)


def test_shrinkage_of_varying_intercepts_is_lambda(data):
    X, y = data
    fixed = {"1|g": ("Normal", {"mu": 0, "sigma": 1.3}), "sigma": 0.8}
    model = PartialPoolingRegressor(group_features="g", priors=fixed).fit(X, y)
    n = X["g"].value_counts().sort_index().to_numpy()
    wanted = 1.3**2 / (1.3**2 + 0.8**2 / n)
    np.testing.assert_allclose(model.shrinkage_["g"]["1|g"], wanted, rtol=1e-9)
    assert model.sigma_ == pytest.approx(0.8)
    assert model.group_sd_["g"].iloc[0] == pytest.approx(1.3)


def test_coefficients_at_fixed_variances_are_those_of_the_dense_law(data):
    X, y = data
    priors = {
        "Intercept": ("Normal", {"mu": 1.0, "sigma": 2.0}),
        "x": ("Normal", {"mu": 0.5, "sigma": 0.3}),
        "w": ("Normal", {"mu": 0.0, "sigma": 5.0}),
        "1|g": ("Normal", {"mu": 0, "sigma": 1.3}),
        "x|g": ("Normal", {"mu": 0, "sigma": 0.4}),
        "sigma": 0.8,
    }
    model = PartialPoolingRegressor(group_features="g", slope_features=["x"], correlated=False, priors=priors).fit(X, y)
    labels = list(model.groups_["g"])
    columns = np.column_stack([np.ones(60), X["x"], X["w"]])
    problem = Problem(columns, columns[:, :2], np.array([labels.index(g) for g in X["g"]]), 7, y)

    class Exact:
        common_mean = np.array([1.0, 0.5, 0.0])
        common_sd = np.array([2.0, 0.3, 5.0])

    law = condition(problem, Exact, 0.8, np.diag([1.3**2, 0.4**2])).raw(problem)
    assert model.intercept_ == pytest.approx(law.mean[0], rel=1e-9)
    np.testing.assert_allclose(model.coef_, law.mean[1:3], rtol=1e-9)
    rows = new_rows(X)
    mean, std = model.predict(rows, return_std=True)
    for r, label in enumerate(rows["g"]):
        weights = law.row(
            [1.0, rows["x"].iloc[r], rows["w"].iloc[r]],
            [1.0, rows["x"].iloc[r]],
            labels.index(label) if label in labels else 7,
        )
        assert mean[r] == pytest.approx(weights @ law.mean, rel=1e-8)
        assert std[r] ** 2 == pytest.approx(weights @ law.covariance @ weights + 0.8**2, rel=1e-8)
    summary = model.summary()
    np.testing.assert_allclose(summary.loc[["Intercept", "x", "w"], "mean"], law.mean[:3], rtol=1e-8)
    np.testing.assert_allclose(
        summary.loc[["Intercept", "x", "w"], "sd"], np.sqrt(np.diag(law.covariance)[:3]), rtol=1e-8
    )


def test_pooling_shrinks_towards_the_population(fitted, data):
    X, y = data
    complete = PartialPoolingRegressor(group_features="g", slope_features=["x"], pooling="complete").fit(X, y)
    assert complete.formula_ == "y ~ x + w"
    assert list(complete.groups_["g"]) == list(fitted.groups_["g"])
    levels = PartialPoolingRegressor("y ~ 1 + (1 | g)").fit(X, y)
    table, centre = levels.group_effects_, levels.intercept_
    kept = (table["mean"] - centre) / (table["no_pooling"] - centre)
    # each group keeps its share of its distance from the population
    np.testing.assert_allclose(kept, table["shrinkage"], atol=0.05)
    assert (np.diff(kept[np.argsort(table["n"])]) > -0.02).all()
    assert np.ptp(complete.predict(X.iloc[:7].assign(g=fitted.groups_["g"], x=0.0, w=0.0))) == 0
    assert r2_score(y, complete.predict(X)) < r2_score(y, fitted.predict(X))


# Policies for unknown groups


def test_unknown_groups_get_the_population_or_nan_or_an_error(fitted, data):
    X, y = data
    rows = new_rows(X)
    known = np.array([True, False, True, False, False])
    mean, std = fitted.predict(rows, return_std=True)
    population = fitted.intercept_ + rows[["x", "w"]].to_numpy() @ fitted.coef_
    np.testing.assert_allclose(mean[~known], population[~known], rtol=1e-9)
    # the sd has the between-group covariance in it
    assert np.all(std[~known] ** 2 > fitted.sigma_**2 + 0.9 * fitted.group_sd_["g"].iloc[0] ** 2)
    blank = PartialPoolingRegressor(group_features="g", slope_features=["x"], unknown_groups="nan").fit(X, y)
    for found, wanted in (
        (np.column_stack(blank.predict(rows, return_std=True)), np.column_stack([mean, std])),
        (blank.predict_interval(rows), fitted.predict_interval(rows)),
        (blank.sample_y(rows, n_samples=4, random_state=1), fitted.sample_y(rows, n_samples=4, random_state=1)),
    ):
        np.testing.assert_array_equal(np.isnan(found), np.broadcast_to(~known[:, None], found.shape))
        np.testing.assert_array_equal(found[known], wanted[known])
        assert np.all(np.isfinite(wanted))


def test_new_groups_without_pooling_get_the_whole_complete_pooling_answer(data):
    X, y = data
    none, complete = (
        PartialPoolingRegressor(group_features="g", slope_features=["x"], pooling=pooling).fit(X, y)
        for pooling in ("none", "complete")
    )
    assert none.sigma_ < 0.8 * complete.sigma_
    new = np.array([False, True, False, True, True])
    for rows, at in ((new_rows(X), new), (new_rows(X)[new], np.ones(3, dtype=bool))):
        for mine, theirs in zip(
            none.predict(rows, return_std=True), complete.predict(rows, return_std=True), strict=True
        ):
            np.testing.assert_allclose(mine[at], theirs[at], rtol=1e-6)
        mean, std = complete.predict(rows, return_std=True)
        for kind in ("mean", "prediction"):
            ends = none.predict_interval(rows, kind=kind), complete.predict_interval(rows, kind=kind)
            # one mixture has nodes of equal weight, the other has not
            np.testing.assert_allclose(ends[0][at] / std[at, None], ends[1][at] / std[at, None], atol=1e-4)
        draws = none.sample_y(rows, n_samples=20_000, random_state=0)
        np.testing.assert_allclose(draws[at].std(axis=1) / std[at], 1.0, atol=0.03)
        np.testing.assert_allclose((draws[at].mean(axis=1) - mean[at]) / std[at], 0.0, atol=0.03)


@pytest.mark.parametrize("policy", ["population", "nan", "error"])
def test_known_groups_are_the_same_under_every_policy(fitted, data, policy):
    X, y = data
    model = PartialPoolingRegressor(group_features="g", slope_features=["x"], unknown_groups=policy).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), fitted.predict(X))
    np.testing.assert_array_equal(model.predict_interval(X), fitted.predict_interval(X))


def test_a_missing_label_is_a_new_group(fitted, data):
    X, _ = data
    rows = new_rows(X, ["k", None, None])
    mean, std = fitted.predict(rows, return_std=True)
    wanted = fitted.predict(new_rows(X, ["k", "new", "other"]), return_std=True)
    np.testing.assert_array_equal([mean, std], wanted)
    draws = fitted.sample_y(rows.assign(x=0.0, w=0.0), n_samples=4000, random_state=0)
    # two missing labels are two groups, not one
    tau2 = np.var(draws[1] - draws[2]) / 2 - fitted.sigma_**2
    assert tau2 > 0.5 * fitted.group_sd_["g"].iloc[0] ** 2


def test_mixing_seen_and_unseen_rows_changes_nothing(fitted, data):
    X, _ = data
    rows = new_rows(X)
    many = pd.concat([rows, X], ignore_index=True)
    for ask in (
        lambda part: np.column_stack(fitted.predict(part, return_std=True)),
        lambda part: fitted.predict_interval(part),
        lambda part: fitted.predict_interval(part, kind="mean"),
    ):
        np.testing.assert_allclose(ask(many)[:5], ask(rows), rtol=1e-9)
        np.testing.assert_allclose(ask(rows)[1:2], ask(rows.iloc[1:2]), rtol=1e-9)


# Routes of groups


def test_groups_by_keyword_and_by_column_are_the_same_model(fitted, data):
    X, y = data
    keyword = PartialPoolingRegressor(slope_features=["x"]).fit(X[["x", "w"]], y, X["g"])
    assert keyword.formula_ == "y ~ x + w + (x | groups)"
    assert list(keyword.groups_) == ["groups"]
    np.testing.assert_array_equal(keyword.predict(X[["x", "w"]], X["g"]), fitted.predict(X))
    assert keyword.score(X[["x", "w"]], y, groups=X["g"]) == fitted.score(X, y)
    named = PartialPoolingRegressor("y ~ x + w + (x | groups)").fit(X[["x", "w"]], y, X["g"])
    np.testing.assert_array_equal(named.predict(X[["x", "w"]], X["g"]), fitted.predict(X))
    written = PartialPoolingRegressor(fitted.formula_).fit(X, y)
    np.testing.assert_array_equal(written.predict(X), fitted.predict(X))


@pytest.mark.parametrize("column", [0, -3, "g"])
def test_group_columns_by_name_and_position(fitted, data, column):
    X, y = data
    model = PartialPoolingRegressor(group_features=column, slope_features=["x"]).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), fitted.predict(X))


def test_arrays_have_columns_x0_x1(data):
    X, y = data
    codes = pd.factorize(X["g"], sort=True)[0]
    array = np.column_stack([X["x"], codes, X["w"]])
    model = PartialPoolingRegressor(group_features=1, slope_features=[0]).fit(array, y)
    assert model.formula_ == "y ~ x0 + x2 + (x0 | x1)"
    assert model.coef_names_ == ["x0", "x2"]
    assert not hasattr(model, "feature_names_in_")
    by_name = PartialPoolingRegressor(group_features="g", slope_features=["x"]).fit(X, y)
    np.testing.assert_array_equal(model.predict(array), by_name.predict(X))


def test_no_groups_warns_and_fits_one_level(data):
    X, y = data
    with pytest.warns(NoGroupsWarning, match="group_features"):
        model = PartialPoolingRegressor().fit(X[["x", "w"]], y)
    complete = PartialPoolingRegressor(pooling="complete").fit(X[["x", "w"]], y)
    np.testing.assert_array_equal(model.predict(X[["x", "w"]]), complete.predict(X[["x", "w"]]))
    assert model.groups_ == {}
    assert model.group_sd_ == {}
    assert len(model.group_effects_) == 0


def test_the_warning_points_at_the_callers_line(data):
    X, y = data
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        PartialPoolingRegressor().fit(X[["x", "w"]], y)
        PartialPoolingRegressor(group_features="x").fit(X[["x", "w"]], y)
    assert {w.category for w in caught} == {NoGroupsWarning, SuspiciousGroupsWarning}
    assert {w.filename for w in caught} == {__file__}


# Draws


def test_sample_y_is_joint_seeded_and_shared_within_new_groups(fitted, data):
    X, _ = data
    rows = new_rows(X).assign(x=0.0, w=0.0)
    draws = fitted.sample_y(rows, n_samples=60_000, random_state=3)
    assert draws.shape == (5, 60_000)
    few, again, others = (fitted.sample_y(rows, n_samples=60, random_state=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(few, again)
    assert not np.array_equal(few, others)
    nodes = fitted._learnt.fitted.posterior.variance_nodes()
    weight = fitted._learnt.fitted.posterior.weight
    tau2, sigma2 = weight @ nodes.group_sd[0][:, 0] ** 2, weight @ nodes.sigma**2
    # rows 1 and 4 are of one new group, row 3 of another
    assert np.var(draws[1] - draws[4]) == pytest.approx(2 * sigma2, rel=0.05)
    assert np.var(draws[1] - draws[3]) == pytest.approx(2 * tau2 + 2 * sigma2, rel=0.05)
    mean, std = fitted.predict(rows, return_std=True)
    np.testing.assert_allclose((draws.mean(axis=1) - mean) / std, 0.0, atol=0.03)
    np.testing.assert_allclose(draws.std(axis=1) / std, 1.0, atol=0.05)


def test_random_state_of_draws(fitted, data):
    X, y = data
    generator = np.random.default_rng(5)
    first, second = (fitted.sample_y(X[:3], random_state=generator) for _ in range(2))
    assert not np.array_equal(first, second)
    seeded = clone(fitted).set_params(random_state=8).fit(X, y)
    np.testing.assert_array_equal(seeded.sample_y(X[:3]), seeded.sample_y(X[:3], random_state=8))
    np.testing.assert_array_equal(seeded.predict(X), fitted.predict(X))


def test_intervals_cover_what_is_drawn(fitted, data):
    X, _ = data
    rows = new_rows(X)
    draws = fitted.sample_y(rows, n_samples=40_000, random_state=0)
    for coverage in (0.5, 0.95):
        low, high = fitted.predict_interval(rows, coverage=coverage).T
        inside = np.mean((draws > low[:, None]) & (draws < high[:, None]), axis=1)
        np.testing.assert_allclose(inside, coverage, atol=0.012)


# Models from formulas


def test_independent_blocks_have_no_correlation(data):
    X, y = data
    models = [
        PartialPoolingRegressor("y ~ x + w + (1 | g) + (0 + x | g)").fit(X, y),
        PartialPoolingRegressor("x + w + (x || g)").fit(X, y),
        PartialPoolingRegressor(group_features="g", slope_features=["x"], correlated=False).fit(X, y),
    ]
    at_zero = clone(models[0]).set_params(priors={"centre|g": {"x": 0}}).fit(X, y)
    assert at_zero.group_correlation_["g"].iloc[0, 1] == pytest.approx(0.0, abs=1e-12)
    for model in models:
        # independent at the mean of x: at zero the intercept is that of the mean less the mean times the slope
        assert model.group_correlation_["g"].iloc[0, 1] * X["x"].mean() < 0
        assert "corr|g" not in model.priors_
        np.testing.assert_array_equal(model.predict(X), models[0].predict(X))


def test_a_model_without_an_intercept(data):
    X, y = data
    model = PartialPoolingRegressor("y ~ 0 + x + (1 | g)").fit(X, y)
    assert model.intercept_ == 0.0
    assert model.coef_names_ == ["x"]
    # the level is in the groups, then
    assert model.group_sd_["g"].iloc[0] > 2.0
    assert r2_score(y, model.predict(X)) > 0.7


def test_varying_terms_without_common_ones(data):
    X, y = data
    model = PartialPoolingRegressor("y ~ 1 + (w | g)").fit(X, y)
    table = model.group_effects_
    assert model.coef_names_ == []
    # no common slope: the group's coefficient is its effect alone
    at = pd.DataFrame({"g": model.groups_["g"], "x": 0.0, "w": 0.0})
    np.testing.assert_allclose(
        table["mean"][7:], model.predict(at.assign(w=1.0)) - model.predict(at), rtol=1e-8, atol=1e-12
    )


def test_categories_vary_by_group(rng):
    X, y = load_sleepstudy(return_X_y=True, as_frame=True)
    subject = X.columns[0] if X[X.columns[0]].nunique() == 18 else X.columns[1]
    X["half"] = np.where(X["Days"] < 5, "early", "late")
    model = PartialPoolingRegressor(f"Reaction ~ half + (half | {subject})").fit(X, y)
    assert model.coef_names_ == ["half[late]"]
    assert list(model.group_sd_[subject].index) == [f"1|{subject}", f"half|{subject}"]
    late = X["half"] == "late"
    gain = y[late].mean() - y[~late].mean()
    assert model.coef_[0] == pytest.approx(gain, rel=0.05)


# Infinite moments


def test_two_groups_under_a_cauchy_prior_have_no_finite_variance_for_a_third(rng):
    X = pd.DataFrame({"g": list("aaaabbbbb")})
    y = np.append(rng.normal(0, 1, 4), rng.normal(3, 1, 5))
    priors = {"Intercept": ("Flat", {}), "1|g": ("Normal", {"mu": 0, "sigma": ("HalfCauchy", {"beta": 2.0})})}
    model = PartialPoolingRegressor(group_features="g", priors=priors).fit(X, y)
    mean, std = model.predict(pd.DataFrame({"g": ["a", "c"]}), return_std=True)
    assert np.all(np.isfinite(mean))
    assert np.isfinite(std[0])
    assert np.isinf(std[1])
    low, high = model.predict_interval(pd.DataFrame({"g": ["c"]}))[0]
    assert -np.inf < low < mean[1] < high < np.inf
    # with three more groups it exists
    more = pd.DataFrame({"g": list("aaaabbbbbcccdddeee")})
    y = np.append(y, rng.normal(1, 1, 9))
    found = PartialPoolingRegressor(group_features="g", priors=priors).fit(more, y)
    assert np.isfinite(found.predict(pd.DataFrame({"g": ["new"]}), return_std=True)[1][0])


# Trouble is reported


def test_a_posterior_that_was_not_found_warns(data, monkeypatch):
    X, y = data
    monkeypatch.setattr(PartialPoolingRegressor, "_integration", IntegrationSettings(pareto_k_limit=-5.0))
    monkeypatch.setattr("hbsk._posterior.diagnostics.PARETO_K_THRESHOLD", -5.0)
    monkeypatch.setattr("hbsk._model.options.Options.sampling", None)
    with pytest.warns(ConvergenceWarning, match=r"not reliable: Pareto k"):
        PartialPoolingRegressor(group_features="g", slope_features=["x"]).fit(X, y)


@pytest.mark.parametrize("pooling", ["partial", "none"])
def test_models_without_common_columns_answer_everything(pooling):
    X, y = seven_lines()
    model = PartialPoolingRegressor("y ~ 0 + (1|g)", pooling=pooling).fit(X, y)
    mean, sd = model.predict(X, return_std=True)
    assert len(X) > X["g"].nunique()
    np.testing.assert_allclose(mean, model.predict(X), rtol=1e-12)
    one, its_sd = model.predict(X[:1], return_std=True)
    np.testing.assert_allclose([one[0], its_sd[0]], [mean[0], sd[0]], rtol=1e-9)
    assert set(model.group_effects_["group"]) == set(X["g"])


# Many columns


def test_many_columns_take_fewer_nodes_and_answer_all_the_same(rng, monkeypatch):
    g = np.repeat(np.arange(10), 12)
    X = pd.DataFrame(rng.normal(size=(120, 40))).add_prefix("v").assign(g=g)
    y = rng.normal(size=10)[g] + X["v0"] + rng.normal(size=120)
    fitted = PartialPoolingRegressor(group_features="g").fit(X, y)
    assert fitted._learnt.fitted.posterior.n_nodes == 512
    assert fitted.diagnostics_["ess_bulk"].min() > 400
    monkeypatch.setattr(PartialPoolingRegressor, "_integration", IntegrationSettings(least_for_columns=64))
    more = PartialPoolingRegressor(group_features="g").fit(X, y)
    assert more._learnt.fitted.posterior.n_nodes == 1024
    columns = ["mean", "sd", "eti95_lb", "eti95_ub"]
    off = (fitted.summary()[columns] - more.summary()[columns]).div(more.summary()["sd"], axis=0)
    # the ends of intervals hang on the few nodes of the tails: 128 nodes would put them off by 0.2
    assert off[["mean", "sd"]].abs().max(axis=None) < 0.02
    assert off.abs().max(axis=None) < 0.1
