"""Posterior predictive checks: the numbers are what they say, wrong models are caught, right ones are not."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kurtosis
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from hbsk import PartialPoolingRegressor
from hbsk.datasets import load_eight_schools, load_sleepstudy, make_grouped_regression
from hbsk.predictive_checks import PredictiveCheck, _checks, per_group, posterior_predictive_check


@pytest.fixture(scope="module")
def sleepstudy():
    return load_sleepstudy(return_X_y=True, as_frame=True)


@pytest.fixture(scope="module")
def alike(sleepstudy):
    """Return a model in which all subjects have the same slope, which is wrong."""
    return PartialPoolingRegressor(group_features="Subject", random_state=5).fit(*sleepstudy)


@pytest.fixture(scope="module")
def differing(sleepstudy):
    return PartialPoolingRegressor(group_features="Subject", slope_features=["Days"], random_state=5).fit(*sleepstudy)


@pytest.fixture(scope="module")
def schools():
    data = load_eight_schools(as_frame=True)
    model = PartialPoolingRegressor().fit(
        np.zeros((8, 1)), data.target, groups=data.data["school"], standard_error=data.standard_error
    )
    return model, np.zeros((8, 1)), data.target, data.data["school"], data.standard_error


def sd_of_slopes(y, groups, X):
    days = np.asarray(X["Days"])
    return np.std([np.polyfit(days[groups == label], y[groups == label], 1)[0] for label in np.unique(groups)])


# ---------------------------------------------------------------------------------------------------------------------
# The numbers


def test_p_value_is_the_share_of_replicates_not_below_the_data():
    replicated = pd.DataFrame({"t": [1.0, 2.0, 3.0, 2.0], "u": [0.0, 0.0, 0.0, 5.0]})
    check = PredictiveCheck(pd.Series({"t": 2.0, "u": 4.0}), replicated)
    assert check.p_value.to_dict() == {"t": 0.75, "u": 0.25}  # ties count
    table = check.to_frame()
    assert list(table.columns) == ["observed", "replicated_mean", "replicated_sd", "p_value"]
    assert table.loc["t"].tolist() == pytest.approx([2.0, 2.0, np.std([1, 2, 3, 2], ddof=1), 0.75])
    assert "4 replicated data sets" in repr(check)
    assert "0.75" in repr(check)


def test_statistics_by_name_are_those_of_the_data_and_of_the_draws(differing, sleepstudy):
    X, y = sleepstudy
    names = ["mean", "std", "min", "max", "median"]
    check = posterior_predictive_check(differing, X, y, statistics=names, n_samples=30, random_state=3)
    assert check.observed.to_dict() == pytest.approx({name: getattr(y, name)() for name in names})
    draws = pd.DataFrame(differing.sample_y(X, n_samples=30, random_state=np.random.RandomState(3)))
    pd.testing.assert_frame_equal(check.replicated, pd.DataFrame({name: getattr(draws, name)() for name in names}))


def test_default_statistics(differing, sleepstudy):
    check = posterior_predictive_check(differing, *sleepstudy, n_samples=3)
    assert list(check.observed.index) == list(check.replicated.columns) == ["mean", "std", "min", "max"]
    assert check.replicated.shape == (3, 4)


def test_seeds_decide_and_batches_differ(differing, sleepstudy, monkeypatch):
    X, y = sleepstudy
    monkeypatch.setattr(_checks, "NUMBERS_PER_BATCH", 4 * len(y))

    def replicated(seed, **options):
        return posterior_predictive_check(differing, X, y, n_samples=11, random_state=seed, **options).replicated

    for options in ({}, {"new_groups": True}):
        first = replicated(1, **options)
        assert len(first) == len(first.drop_duplicates()) == 11
        pd.testing.assert_frame_equal(first, replicated(1, **options))
        assert not first.equals(replicated(2, **options))
    # None is the estimator's own seed, 5; a Generator is a source too.
    pd.testing.assert_frame_equal(replicated(None), replicated(5))
    generator = replicated(np.random.default_rng(4))
    pd.testing.assert_frame_equal(generator, replicated(np.random.default_rng(4)))


def test_callables_get_responses_groups_and_x_of_the_rows(differing, sleepstudy):
    X, y = sleepstudy
    shuffled = np.random.default_rng(0).permutation(len(y))
    X, y = X.iloc[shuffled], y.iloc[shuffled]
    seen = []

    def spy(y, X, groups):
        seen.append((y, X, groups))
        return 0.0

    posterior_predictive_check(differing, X, y, statistics=[spy], n_samples=2)
    assert len(seen) == 3
    assert seen[0][0].tolist() == y.tolist()
    for _, x_seen, groups in seen:
        assert x_seen is X
        assert groups.tolist() == X["Subject"].tolist()


def test_statistics_that_sort_in_place_change_nothing(differing, sleepstudy):
    def trimmed(y):
        y.sort()
        return y[10:-10].mean()

    plain = posterior_predictive_check(differing, *sleepstudy, statistics={"t": sd_of_slopes}, n_samples=20)
    both = posterior_predictive_check(differing, *sleepstudy, statistics=[trimmed, sd_of_slopes], n_samples=20)
    assert both.observed["sd_of_slopes"] == plain.observed["t"]
    assert both.replicated["sd_of_slopes"].tolist() == plain.replicated["t"].tolist()


def test_one_statistic_may_have_several_values(differing, sleepstudy):
    quartiles = {"quantile": lambda y: np.quantile(y, [0.25, 0.75]), "by day": lambda y, X: y_by_day(y, X)}

    def y_by_day(y, X):
        return pd.Series(y).groupby("day " + X["Days"].astype(str).to_numpy()).mean()

    check = posterior_predictive_check(differing, *sleepstudy, statistics=quartiles, n_samples=4)
    assert list(check.observed.index[:3]) == ["quantile[0]", "quantile[1]", "by day[day 0]"]
    assert check.replicated.shape == (4, 12)
    assert check.observed["by day[day 7]"] == pytest.approx(sleepstudy[1][sleepstudy[0]["Days"] == 7].mean())


# ---------------------------------------------------------------------------------------------------------------------
# Groups


@pytest.mark.parametrize("statistic", ["mean", "std", "min", "max", "median", np.ptp])
def test_per_group_is_the_statistic_of_each_group(statistic, rng):
    groups = np.array(["b", "a", "c", "a", "c", "c"])
    y = rng.normal(size=6)
    values = per_group(statistic)(y, groups)
    assert list(values.index) == ["a", "b", "c"]
    for label, value in values.items():
        rows = pd.Series(y[groups == label])
        wanted = getattr(rows, statistic)() if isinstance(statistic, str) else statistic(rows)
        np.testing.assert_allclose(value, wanted)


def test_per_group_in_a_check_is_per_group_of_the_draws(differing, sleepstudy):
    X, y = sleepstudy
    check = posterior_predictive_check(differing, X, y, statistics=per_group("max"), n_samples=5, random_state=3)
    draws = differing.sample_y(X, n_samples=5, random_state=np.random.RandomState(3))
    by_subject = pd.DataFrame(draws).groupby(X["Subject"].to_numpy()).max().T
    assert list(check.replicated.columns) == [f"group_max[{label}]" for label in by_subject.columns]
    np.testing.assert_array_equal(check.replicated, by_subject)


def test_p_value_is_missing_where_a_statistic_of_the_data_is(rng):
    X = pd.DataFrame({"g": ["a", "a", "b", "c", "c", "c"]})
    model = PartialPoolingRegressor(group_features="g").fit(X, rng.normal(size=6))
    check = posterior_predictive_check(model, X, rng.normal(size=6), statistics=per_group("std"), n_samples=50)
    assert check.p_value.isna().tolist() == [False, True, False]


def test_several_factors_need_a_name(rng):
    X = pd.DataFrame({"a": ["u", "v"] * 10, "b": np.repeat([1, 2, 3, 4], 5)})
    model = PartialPoolingRegressor(group_features=["a", "b"], pooling="complete").fit(X, rng.normal(size=20))

    def n_groups(y, groups):
        return groups.nunique().to_numpy(dtype=float)

    y = rng.normal(size=20)
    statistics = [per_group("mean", factor="b"), n_groups]
    check = posterior_predictive_check(model, X, y, statistics=statistics, n_samples=2)
    assert list(check.observed.index[:4]) == [f"group_mean[{label}]" for label in (1, 2, 3, 4)]
    assert check.observed[4:].tolist() == [2.0, 4.0]
    assert check.observed["group_mean[2]"] == pytest.approx(y[5:10].mean())
    with pytest.raises(ValueError, match=r"no factor is named; name one of \['a', 'b'\], as in per_group.*factor='a'"):
        posterior_predictive_check(model, X, y, statistics=per_group("mean"), n_samples=2)


def test_the_name_of_a_single_factor_may_be_given_and_no_other(rng):
    X, y = pd.DataFrame({"a": ["u", "v"] * 10}), rng.normal(size=20)
    model = PartialPoolingRegressor(group_features="a").fit(X, y)
    check = posterior_predictive_check(model, X, y, statistics=per_group("mean", factor="a"), n_samples=2)
    assert list(check.observed.index) == ["group_mean[u]", "group_mean[v]"]
    with pytest.raises(ValueError, match=r"per_group\('mean', factor='b'\): the one grouping factor is 'a'"):
        posterior_predictive_check(model, X, y, statistics=per_group("mean", factor="b"), n_samples=2)


def test_groups_and_standard_errors_by_keyword(schools):
    model, X, y, labels, standard_error = schools
    check = posterior_predictive_check(
        model, X, y, labels, standard_error=standard_error, statistics=per_group("mean"), n_samples=400, random_state=0
    )
    assert check.observed["group_mean[C]"] == -3.0
    # Replicates of a school spread by its standard error and by what is not known of its effect.
    spread = check.replicated.std().to_numpy()
    effects = model.group_effects_["sd"].to_numpy()
    np.testing.assert_allclose(spread, np.hypot(standard_error, effects), rtol=0.15)


def test_new_groups_are_drawn_from_the_population():
    X, y = make_grouped_regression(12, 5, 0, group_sd=2.0, as_frame=True, random_state=1)
    priors = {"1|group": ("Normal", {"mu": 0, "sigma": 2.0}), "sigma": 0.5}
    model = PartialPoolingRegressor(group_features="group", priors=priors).fit(X, y)

    def contrast(y, groups):
        return y[groups == 3].mean() - y[groups == 7].mean()

    def spread(new_groups):
        check = posterior_predictive_check(
            model, X, y, statistics=contrast, n_samples=2000, random_state=0, new_groups=new_groups
        )
        assert check.new_groups is new_groups
        return check.replicated["contrast"]

    # A sd of 2000 draws has a relative error of 1.6 %; the seed is fixed.
    noise = 0.5**2 / 5
    lam = 4 / (4 + noise)
    assert spread(True).std() == pytest.approx(np.sqrt(2 * (4 + noise)), rel=0.06)
    assert spread(True).mean() == pytest.approx(0.0, abs=4 * 2.9 / np.sqrt(2000))
    assert spread(False).std() == pytest.approx(np.sqrt(2 * (lam * noise + noise)), rel=0.06)


def test_an_outlying_group_is_noticed_among_new_groups_only():
    X, y = make_grouped_regression(40, 8, 0, as_frame=True, shuffle=False, random_state=0)
    y[X["group"] == 4] += 12.0
    model = PartialPoolingRegressor(group_features="group").fit(X, y)

    def largest_mean(y, groups):
        return per_group("mean")(y, groups).max()

    def p_value(new_groups):
        check = posterior_predictive_check(
            model, X, y, statistics=largest_mean, n_samples=400, random_state=0, new_groups=new_groups
        )
        return check.p_value["largest_mean"]

    assert 0.1 < p_value(new_groups=False) < 0.9
    assert p_value(new_groups=True) < 0.01


# ---------------------------------------------------------------------------------------------------------------------
# Other estimators


def test_pipelines_and_searches_answer_like_their_last_step(differing, sleepstudy):
    X, y = sleepstudy
    pipeline = make_pipeline(FunctionTransformer(lambda X: X.rename(columns={"Days": "late"})), None)
    pipeline.steps[-1] = ("model", PartialPoolingRegressor(group_features="Subject", slope_features="all"))
    search = GridSearchCV(pipeline, {"model__pooling": ["partial"]}, cv=2).fit(X, y)
    # The statistic sees X as it was given, with its Days.
    check = posterior_predictive_check(search, X, y, statistics=["max", sd_of_slopes], n_samples=20, random_state=3)
    plain = posterior_predictive_check(differing, X, y, statistics=["max", sd_of_slopes], n_samples=20, random_state=3)
    pd.testing.assert_frame_equal(check.replicated, plain.replicated, rtol=1e-6)


def test_any_estimator_with_sample_y_can_be_checked(rng):
    X = rng.normal(size=(15, 1))
    y = X[:, 0] + rng.normal(size=15)
    model = GaussianProcessRegressor(alpha=1.0).fit(X, y)
    groups = np.repeat([1, 2, 3], 5)
    check = posterior_predictive_check(model, X, y, groups, statistics=per_group("mean"), n_samples=10, random_state=0)
    assert check.replicated.shape == (10, 3)
    assert check.observed["group_mean[2]"] == pytest.approx(y[5:10].mean())


# ---------------------------------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize(
    ("statistics", "error", "message"),
    [
        ("variance", ValueError, "statistic 'variance' is not known; pass one of 'mean'"),
        ([], ValueError, "statistics is empty"),
        (3, TypeError, "statistics takes 'mean'.* got 3"),
        ([3], TypeError, "statistic '3' must be one of 'mean'.* got 3"),
        (["max", "mean", "max"], ValueError, "two entries named 'max'; pass a dict"),
        (lambda y: y[:, None], ValueError, r"returned an array of shape \(180, 1\)"),
        (lambda y: "large", TypeError, r"must return numbers, got 'large'"),
        (lambda y: y[y > 400], ValueError, "as many for every data set"),
        ({"root": lambda y: np.nan if y.max() > 480 else 1.0}, ValueError, "'root' is 1 for the data and NaN for"),
    ],
)
def test_statistics_that_cannot_be_used(statistics, error, message, differing, sleepstudy):
    with pytest.raises(error, match=message):
        posterior_predictive_check(differing, *sleepstudy, statistics=statistics, n_samples=50, random_state=0)


@pytest.mark.parametrize("n_samples", [0, -1, 2.0, True, None])
def test_number_of_samples_is_checked(n_samples, differing, sleepstudy):
    with pytest.raises(ValueError, match=f"n_samples must be a positive integer.* got {n_samples!r}"):
        posterior_predictive_check(differing, *sleepstudy, n_samples=n_samples)


@pytest.mark.parametrize(("statistic", "error"), [("variance", ValueError), (None, TypeError)])
def test_per_group_takes_what_it_can_evaluate(statistic, error):
    with pytest.raises(error, match=r"'mean', 'std', 'min', 'max', 'median'"):
        per_group(statistic)


def test_estimators_without_draws_are_refused(sleepstudy):
    X, y = sleepstudy
    with pytest.raises(TypeError, match="Ridge has no method sample_y"):
        posterior_predictive_check(Ridge().fit(X, y), X, y)


def test_statistics_by_group_need_groups(rng):
    X, y = rng.normal(size=(10, 2)), rng.normal(size=10)
    model = PartialPoolingRegressor(pooling="complete").fit(X, y)
    with pytest.raises(ValueError, match="statistic 'group_mean' has a parameter groups, but there are no groups"):
        posterior_predictive_check(model, X, y, statistics=per_group("mean"))


@pytest.mark.parametrize("pooling", ["complete", "none"])
def test_new_groups_need_a_population_of_groups(pooling, sleepstudy):
    X, y = sleepstudy
    model = PartialPoolingRegressor(group_features="Subject", pooling=pooling).fit(X, y)
    with pytest.raises(ValueError, match=f"new_groups=True .* this model has none .*pooling='{pooling}'"):
        posterior_predictive_check(model, X, y, new_groups=True)
    with pytest.raises(TypeError, match="new_groups=True needs a PartialPoolingRegressor"):
        posterior_predictive_check(GaussianProcessRegressor(optimizer=None).fit(X, y), X, y, new_groups=True)


@pytest.mark.parametrize("new_groups", [False, True])
def test_known_standard_errors_are_asked_for(new_groups, schools):
    model, X, y, labels, _ = schools
    with pytest.raises(ValueError, match="needs standard_error="):
        posterior_predictive_check(model, X, y, labels, new_groups=new_groups)


def test_rows_without_a_prediction_are_not_passed_over():
    X, y = make_grouped_regression(5, 6, 0, as_frame=True, random_state=0)
    model = PartialPoolingRegressor(group_features="group", unknown_groups="nan").fit(
        X[X["group"] > 0], y[X["group"] > 0]
    )
    with pytest.raises(ValueError, match='unknown_groups="nan"'):
        posterior_predictive_check(model, X, y, n_samples=5)


def test_length_of_y_is_checked(differing, sleepstudy):
    X, y = sleepstudy
    with pytest.raises(ValueError, match=r"180 rows.* 179"):
        posterior_predictive_check(differing, X, y[:-1])


# ---------------------------------------------------------------------------------------------------------------------
# Models


def test_a_missing_slope_is_caught_and_the_slope_acquitted(alike, differing, sleepstudy):
    wrong = posterior_predictive_check(alike, *sleepstudy, statistics=sd_of_slopes, n_samples=500, random_state=0)
    right = posterior_predictive_check(differing, *sleepstudy, statistics=sd_of_slopes, n_samples=500, random_state=0)
    assert wrong.p_value["sd_of_slopes"] < 0.01
    assert 0.05 < right.p_value["sd_of_slopes"] < 0.95


def heavy_tailed(seed, df):
    X, y = make_grouped_regression(15, 20, 0, residual_sd=0.0, random_state=seed)
    noise = np.random.default_rng(seed)
    return X, y + (noise.normal(size=len(y)) if df is None else noise.standard_t(df, size=len(y)))


def test_heavy_tails_are_caught_and_normal_ones_acquitted():
    def p_values(df):
        X, y = heavy_tailed(seed=2, df=df)
        model = PartialPoolingRegressor(group_features=0).fit(X, y)
        statistics = ["min", "max", kurtosis]
        return posterior_predictive_check(model, X, y, statistics=statistics, n_samples=500, random_state=0).p_value

    wrong, right = p_values(df=2), p_values(df=None)
    assert wrong["kurtosis"] < 0.01
    assert wrong["max"] < 0.01 or wrong["min"] > 0.99
    assert right.between(0.05, 0.95).all()
