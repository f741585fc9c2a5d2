"""What is read as documented and was hardly meant so: a warning where all rows say it, and none where they do not."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from hbsk import JamesSteinEstimator, PartialPoolingRegressor, from_json, to_json
from hbsk.exceptions import (
    ConvergenceWarning,
    ManyLevelsWarning,
    RowOrderWarning,
    ShrinkageWarning,
    SuspiciousGroupsWarning,
    SuspiciousWeightsWarning,
)
from hbsk.model_selection import WithinGroupKFold, compare_estimators
from hbsk.predictive_checks import posterior_predictive_check

N = 60
ESTIMATORS = [PartialPoolingRegressor, JamesSteinEstimator]


@pytest.fixture
def frame(rng):
    return pd.DataFrame({"g": np.repeat(list("abcdef"), 10), "x": rng.normal(size=N)})


@pytest.fixture
def y(rng, frame):
    return frame["g"].map(ord).to_numpy() + rng.normal(size=N)


def fit(estimator, X, y, **options):
    """Fit by groups in the column g, and by no other column."""
    return estimator(group_features="g").fit(X[["g"]], y, **options)


# ---------------------------------------------------------------------------------------------------------------------
# Weights


def shares(rng):
    weights = rng.uniform(0.5, 1.5, N)
    return weights / weights.sum()


SUSPICIOUS = {
    "shares of one": shares,
    "equal shares": lambda rng: np.full(N, 1 / N),
    "a number for all": lambda rng: 1e6,
    "far fewer than rows": lambda rng: rng.uniform(0, 0.05, N),
    "a million times the rows": lambda rng: 1e6 * N * shares(rng),
    "precisions": lambda rng: 1 / rng.uniform(0.01, 0.1, N) ** 2,
}
SOUND = {
    "ones": lambda rng: np.ones(N),
    "relative": lambda rng: N * shares(rng),
    "uniform": lambda rng: rng.uniform(size=N),
    "counts": lambda rng: rng.integers(1, 5, N),
    "large counts": lambda rng: rng.integers(10, 10_000, N),
    "with zeros": lambda rng: np.where(np.arange(N) % 3 == 0, 0.0, 1.0),
    "twice": lambda rng: np.full(N, 2),
    "surveys": lambda rng: rng.uniform(1, 8, N),
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kind", SUSPICIOUS)
def test_weights_that_are_no_copies_warn(kind, estimator, frame, y, rng):
    weights = SUSPICIOUS[kind](rng)
    # less than one row in all leaves JamesSteinEstimator no degrees of freedom, which it says as well
    warnings.simplefilter("ignore", ShrinkageWarning)
    with pytest.warns(SuspiciousWeightsWarning, match=r"number of copies.*for 60 rows.*mean of 1"):
        fit(estimator, frame, y, sample_weight=weights)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kind", SOUND)
def test_weights_that_may_be_copies_do_not_warn(kind, estimator, frame, y, rng):
    fit(estimator, frame, y, sample_weight=SOUND[kind](rng))


# ---------------------------------------------------------------------------------------------------------------------
# Order of rows


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("labels", [range(N), [f"row {i}" for i in range(N)], pd.date_range("2020", periods=N)])
def test_an_index_in_another_order_warns(estimator, labels, frame, y, rng):
    frame.index = labels
    given = pd.Series(y, index=frame.index)
    order = rng.permutation(N)
    shuffled = given.iloc[order]
    with pytest.warns(RowOrderWarning, match=r"^y has the index of X in another order, and rows are taken by position"):
        by_position = fit(estimator, frame, shuffled)
    X = frame[["g"]]
    np.testing.assert_array_equal(by_position.predict(X), fit(estimator, frame, shuffled.to_numpy()).predict(X))
    model = fit(estimator, frame, given)
    ones = pd.Series(np.ones(N), index=frame.index)
    for name, ask in {
        "groups": lambda: estimator().fit(frame[["x"]], given, groups=frame["g"].iloc[order]),
        "sample_weight": lambda: fit(estimator, frame, given, sample_weight=ones.iloc[order]),
        "standard_error": lambda: fit(estimator, frame, given, standard_error=ones.iloc[order]),
        "y": lambda: model.score(X, shuffled),
    }.items():
        with pytest.warns(RowOrderWarning, match=f"^{name} has"):
            ask()
    by_keyword = estimator().fit(frame[["x"]], given, groups=frame["g"])
    with pytest.warns(RowOrderWarning, match="^groups has"):
        by_keyword.predict(frame[["x"]], groups=frame["g"].iloc[order])
    if estimator is PartialPoolingRegressor:
        with pytest.warns(RowOrderWarning, match="^y has"):
            model.to_datatree(X, shuffled, draws=5)
        with pytest.warns(RowOrderWarning, match="^y has"):
            posterior_predictive_check(model, X, shuffled, n_samples=5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_other_indexes_do_not_warn(estimator, frame, y):
    X = frame.set_axis([f"row {i}" for i in range(N)])
    for index in (X.index, range(N), [f"other {i}" for i in range(N)], ["row 0"] * N):
        model = fit(estimator, X, pd.Series(y, index=index))
        model.score(X[["g"]], pd.Series(y, index=index))
    shuffled = X.sample(frac=1.0, random_state=0)
    fit(estimator, shuffled, pd.Series(y, index=X.index).loc[shuffled.index])


# ---------------------------------------------------------------------------------------------------------------------
# Groups of one row


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_groups_of_one_row_each_warn_without_standard_errors(estimator, y):
    X = pd.DataFrame({"g": [f"row {i}" for i in range(12)]})
    options = {"method": "empirical-bayes"} if estimator is JamesSteinEstimator else {}
    with pytest.warns(ShrinkageWarning):
        estimator(group_features="g", **options).fit(X, y[:12])
    estimator(group_features="g", **options).fit(X, y[:12], standard_error=np.ones(12))
    X.loc[1, "g"] = "row 0"
    estimator(group_features="g", **options).fit(X, y[:12])


def test_groups_of_one_row_do_not_warn_where_the_noise_is_known_or_nothing_is_pooled(y):
    X = pd.DataFrame({"g": [f"row {i}" for i in range(12)]})
    PartialPoolingRegressor(group_features="g", priors={"sigma": 1.0}).fit(X, y[:12])
    PartialPoolingRegressor(group_features="g", pooling="complete").fit(X, y[:12])
    # copies that are equal leave no noise, which is said instead
    with pytest.warns(ConvergenceWarning, match="sigma is held at") as caught:
        PartialPoolingRegressor(group_features="g").fit(X, y[:12], sample_weight=np.full(12, 2))
    assert len(caught) == 1


# ---------------------------------------------------------------------------------------------------------------------
# Which columns, which groups, in which order


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_masks_name_group_columns(estimator, frame, y):
    X = frame.to_numpy() if estimator is PartialPoolingRegressor else frame[["x", "g"]]
    for mask in ([True, False], np.array([True, False]), (True, False)):
        mask = mask if estimator is PartialPoolingRegressor else mask[::-1]
        by_mask = estimator(group_features=mask).fit(X, y)
        by_place = estimator(group_features=0 if estimator is PartialPoolingRegressor else 1).fit(X, y)
        np.testing.assert_array_equal(by_mask.predict(X), by_place.predict(X))
    for mask, error, message in (
        ([True], ValueError, "mask of 1 booleans, and X has 2 columns"),
        ([True, False, False], ValueError, "mask of 3 booleans"),
        ([False, False], ValueError, "group_features is empty"),
        (True, (TypeError, ValueError), "group_features"),
        ([True, 0], TypeError, "one boolean for every column; got True"),
    ):
        with pytest.raises(error, match=message):
            estimator(group_features=mask).fit(X, y)
    with pytest.raises(ValueError, match="slope_features is a mask of 1 booleans"):
        PartialPoolingRegressor(group_features=0, slope_features=[True]).fit(frame, y)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    "labels", [["low", "mid", "high", "top", "best", "end"], [30, 10, 20, 60, 5, 1], [0.5, 2.0, 1.0, 9, 8, 7]]
)
def test_groups_follow_an_ordered_categorical(labels, estimator, frame, y, rng):
    values = [labels["abcdef".index(g)] for g in frame["g"]]
    order = rng.permutation(N)
    ordered = pd.DataFrame({"g": pd.Categorical(values, categories=labels, ordered=True)}).iloc[order]
    plain = pd.DataFrame({"g": values}).iloc[order]
    model, other = (fit(estimator, X.reset_index(drop=True), y[order]) for X in (ordered, plain))
    groups, sorted_groups = (m.groups_["g"] for m in (model, other))
    assert groups.tolist() == labels
    assert sorted_groups.tolist() == sorted(labels)
    # the same groups by any other way of writing them, known and new
    new = pd.DataFrame({"g": [*labels, "new" if isinstance(labels[0], str) else -3]})
    for X in (ordered, plain, new, plain.astype(object)):
        np.testing.assert_allclose(model.predict(X), other.predict(X), rtol=1e-9)
    np.testing.assert_array_equal(from_json(to_json(model)).predict(new), model.predict(new))


def test_interactions_follow_ordered_categoricals(frame, y):
    frame["size"] = pd.Categorical(
        np.where(frame["x"] > 0, "small", "large"), categories=["small", "large"], ordered=True
    )
    model = PartialPoolingRegressor("~ 1 + (1 | g:size)").fit(frame, y)
    assert model.groups_["g:size"].tolist() == [(g, size) for g in "abcdef" for size in ("small", "large")]


def test_ranks_of_several_factors_need_a_factor(frame, y):
    frame["h"] = np.tile(list("uvwxy"), 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few draws
        options = {"draws": 20, "tune": 20, "chains": 1, "random_state": 0}
        model = PartialPoolingRegressor(group_features=["g", "h"], **options).fit(frame[["g", "h"]], y)
    with pytest.raises(ValueError, match=r"factors 'g', 'h'; say with factor= which groups to rank"):
        model.rank_groups()
    assert sorted(model.rank_groups(factor="h").index) == list("uvwxy")


# ---------------------------------------------------------------------------------------------------------------------
# Containers


def test_lazy_tables_are_refused_with_the_way_out(frame, y):
    polars = pytest.importorskip("polars")
    lazy = polars.LazyFrame({name: frame[name].to_list() for name in frame})
    said = r"^X is a polars LazyFrame, .*Pass X.collect\(\) instead.*cross_validate_sums"
    with pytest.raises(TypeError, match=said):
        JamesSteinEstimator(group_features="g").fit(lazy, y)
    model = fit(JamesSteinEstimator, frame, y)
    for ask in (
        lambda: model.predict(lazy),
        lambda: compare_estimators({"a": PartialPoolingRegressor()}, lazy, y),
        lambda: next(WithinGroupKFold().split(lazy, y)),
    ):
        with pytest.raises(TypeError, match=said):
            ask()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_columns_that_are_not_in_memory_are_refused_with_the_way_out(estimator, frame, y):
    dask = type("DataFrame", (), {"__module__": "dask.dataframe.dask_expr", "compute": lambda self: frame})()
    for ask, name in (
        (lambda: estimator(group_features="g").fit(dask, y), "X"),
        (lambda: estimator(group_features="g").fit(frame[["g"]], dask), "y"),
        (lambda: estimator().fit(frame[["x"]], y, groups=dask), "groups"),
        (lambda: fit(estimator, frame, y, sample_weight=dask), "sample_weight"),
        (lambda: fit(estimator, frame, y, standard_error=dask), "standard_error"),
    ):
        with pytest.raises(TypeError, match=rf"^{name} is a dask DataFrame, .*Pass {name}.compute\(\) instead"):
            ask()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_sparse_matrices_are_refused_with_the_way_out(estimator, frame, y):
    cure = r"OneHotEncoder\(sparse_output=False\), and \.set_output\(transform=\"pandas\"\).*code text columns for you"
    with pytest.raises(TypeError, match=f"Sparse data.*{cure}"):
        make_pipeline(OneHotEncoder(), estimator(group_features=0)).fit(frame[["g"]], y)
    with pytest.raises(TypeError, match=r"Sparse data was passed"):
        fit(estimator, frame, y).predict(csr_matrix(np.ones((3, 1))))


def test_formulas_say_that_they_hold_no_lists(frame, y):
    for formula in (
        "bs(x, knots=[0.1, 0.5]) + (1 | g)",
        "bs(x, knots=(0.1, 0.5)) + (1 | g)",
        "bs(x, knots=0.1) + (1 | g)",
    ):
        with pytest.raises(ValueError, match=r"cannot hold a list.*df=.*SplineTransformer"):
            PartialPoolingRegressor(formula).fit(frame, y)


# ---------------------------------------------------------------------------------------------------------------------
# Sides of the bar


@pytest.mark.parametrize("as_numbers", [False, True])
@pytest.mark.parametrize("bar", ["(g | x)", "(g || x)", "(0 + g | x)", "(z + g | x)", "(C(g) | x)"])
def test_swapped_sides_of_the_bar_are_refused_with_what_was_meant(frame, y, bar, as_numbers):
    frame = frame.assign(z=np.random.default_rng(1).normal(size=N))
    if as_numbers:
        frame["g"] = frame["g"].map(ord).astype(float)
    with pytest.raises(
        ValueError, match=r"'x' is a different number in each .* Did you mean \(x \| g\) for \(g \| x\)"
    ):
        PartialPoolingRegressor(f"y ~ x + {bar}").fit(frame, y)


def test_sides_of_the_bar_that_may_be_meant_are_not_refused(frame, y):
    frame = frame.assign(
        z=np.repeat(np.random.default_rng(1).normal(size=20), 3), when=pd.date_range("2020", periods=N)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PartialPoolingRegressor("y ~ x + (x | g)").fit(frame, y)
        PartialPoolingRegressor("y ~ x + (x | z)").fit(frame, y)  # labels that are numbers, and recur
        warnings.simplefilter("ignore", ShrinkageWarning)
        PartialPoolingRegressor("y ~ g + (1 | when)").fit(frame, y)
        warnings.simplefilter("ignore", SuspiciousGroupsWarning)
        PartialPoolingRegressor("y ~ g + (1 | x)").fit(frame, y)  # a warning says what it is
        labels = frame.assign(x=frame["x"].astype(str))
        PartialPoolingRegressor("y ~ 1 + (1 | x)").fit(labels, y)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_lost_names_and_encoded_labels_are_told_with_the_cure(estimator, frame, y):
    cure = (
        r"position, .*\.set_output\(transform=\"pandas\"\).* OneHotEncoder\(sparse_output=False\).* code text columns"
    )
    with pytest.raises(ValueError, match=f"no column 'g'. .* 'x0', 'x1'. They came without names.*{cure}"):
        estimator(group_features="g").fit(frame[["x", "g"]].to_numpy(dtype=object), y)
    encoded = make_column_transformer((OneHotEncoder(sparse_output=False), ["g"]), remainder="passthrough")
    model = make_pipeline(encoded.set_output(transform="pandas"), estimator(group_features="g"))
    with pytest.raises(
        ValueError, match=r"made columns of its levels: let the labels pass .*remainder=\"passthrough\""
    ):
        model.fit(frame[["x", "g"]], y)
    with pytest.raises(ValueError, match="may have renamed or dropped it"):
        estimator(group_features="g").fit(frame[["x"]].assign(label=frame["g"]), y)


# ---------------------------------------------------------------------------------------------------------------------
# Text of many values


@pytest.mark.parametrize(
    ("values", "cure"),
    [
        (lambda x: x.map(repr), "numbers written as text, of which pandas.to_numeric makes numbers"),
        (lambda x: x.map("{:.3f}".format).str.replace(".", ","), "numbers written as text"),
        (lambda x: pd.Series([f"id {i}" for i in range(N)]), "if it is the group, name it in group_features="),
        (lambda x: pd.Series([f"id {i}" for i in range(N)], dtype="category"), "if it is an id or a name, drop it"),
    ],
)
def test_text_of_nearly_as_many_values_as_rows_warns(values, cure, frame, y):
    X = frame.assign(price=values(frame["x"]))
    with pytest.warns(ManyLevelsWarning, match=rf"Feature 'price' is text of \d+ values in 60 rows.*; .*{cure}"):
        PartialPoolingRegressor(group_features="g", pooling="complete").fit(X, y)


@pytest.mark.parametrize("n_levels", [19, 30])
def test_text_of_few_values_or_groups_of_many_do_not_warn(n_levels, frame, y):
    level = np.arange(N) % n_levels
    X = frame.assign(kind=[f"kind {k}" for k in level], sure=[f"group {k}" for k in range(N)])
    PartialPoolingRegressor(group_features="g", pooling="complete").fit(X[["g", "kind"]], y)
    PartialPoolingRegressor("y ~ (1 | sure)", pooling="complete").fit(X, y)
