"""Bad input: an error that names the argument, the value and what is accepted, and an estimator that is not fitted."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from hbsk import JamesSteinEstimator, PartialPoolingRegressor

N = 12


@pytest.fixture
def X(rng):  # noqa: N802 - what tests call it
    return pd.DataFrame({"g": list("aabbbccccdda"), "x": rng.normal(size=N), "w": rng.normal(size=N)})


@pytest.fixture
def y(rng):
    return rng.normal(size=N)


def fails(error, words, X, y, *, groups=None, standard_error=None, sample_weight=None, **options):
    """Check the message, and that nothing of the failed fit is left."""
    options = {"group_features": "g"} | options
    model = PartialPoolingRegressor(**{k: v for k, v in options.items() if not (k == "group_features" and v is None)})
    before = model.get_params()
    with pytest.raises(error) as raised:
        model.fit(X, y, groups, standard_error=standard_error, sample_weight=sample_weight)
    message = str(raised.value)
    for word in words:
        assert re.search(word, message), f"{word!r} is not in: {message}"
    assert model.get_params() == before
    with pytest.raises(NotFittedError):
        check_is_fitted(model)
    with pytest.raises(NotFittedError):
        model.predict(X)


# Rows


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y": -1}, ["12", "11"]),
        ({"sample_weight": 5}, ["sample_weight", "5", "12"]),
        ({"standard_error": 13}, ["standard_error", "13", "12"]),
        ({"groups": 11}, ["groups=", "11", "12"]),
    ],
)
def test_lengths_that_differ(X, y, change, words):
    arguments = {}
    options = {}
    for name, length in change.items():
        if name == "y":
            y = y[:length]
        else:
            arguments[name] = np.ones(length) if name != "groups" else ["a"] * length
            if name == "groups":
                options["group_features"] = None
                X = X.drop(columns="g")
    fails(ValueError, words, X, y, **arguments, **options)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["x", "y", "sample_weight", "standard_error"])
def test_values_that_are_not_finite(X, y, place, value):
    arguments = {}
    if place == "x":
        X.loc[4, "x"] = value
    elif place == "y":
        y[4] = value
    else:
        arguments[place] = np.ones(N)
        arguments[place][4] = value
    fails(ValueError, [place, "NaN|nan|infinit|missing"], X, y, **arguments)


def test_text_in_y(X):
    fails(ValueError, ["y has values that are not numbers", "low"], X, ["low"] * N)


def test_y_of_two_dimensions(X):
    fails(ValueError, ["1d", re.escape("(12, 2)")], X, np.ones((N, 2)))


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT])
def test_missing_labels_in_fit(X, y, missing):
    X["g"] = X["g"].astype(object)
    X.loc[3, "g"] = missing
    fails(ValueError, ["'g'", "1 missing label", "12 rows", "label of their own"], X, y)


@pytest.mark.parametrize("weights", [-1.0, -1e-300])
def test_negative_weights(X, y, weights):
    sample_weight = np.ones(N)
    sample_weight[5] = weights
    fails(
        ValueError,
        ["sample_weight", re.escape(f"smallest {weights}"), "0 or more"],
        X,
        y,
        sample_weight=sample_weight,
    )


def test_weights_of_zero_only(X, y):
    fails(ValueError, ["sample_weight", "zero"], X, y, sample_weight=np.zeros(N))


def test_weights_that_leave_one_row(X, y):
    fails(ValueError, ["n_samples=1"], X, y, sample_weight=np.eye(N)[2])


@pytest.mark.parametrize("value", [0.0, -0.5])
def test_standard_errors_that_are_not_positive(X, y, value):
    standard_error = np.ones(N)
    standard_error[7] = value
    fails(
        ValueError, ["standard_error", "positive", "row 7", re.escape(str(value))], X, y, standard_error=standard_error
    )


@pytest.mark.parametrize("n_rows", [0, 1])
def test_too_few_rows(X, y, n_rows):
    fails(ValueError, [rf"{n_rows} sample\(s\)|n_samples={n_rows}"], X.iloc[:n_rows], y[:n_rows])


# Groups


@pytest.mark.parametrize("name", ["county", "G", "", "g "])
def test_a_group_column_that_is_not_there(X, y, name):
    fails(ValueError, ["group_features", re.escape(repr(name)), "'g', 'x', 'w'"], X, y, group_features=name)


@pytest.mark.parametrize("index", [3, -4, 100])
def test_a_group_index_out_of_range(X, y, index):
    fails(ValueError, ["group_features", str(index), "3"], X, y, group_features=index)


@pytest.mark.parametrize("value", [1.5, object(), {"g": 1.0}.keys])
def test_group_features_of_a_wrong_type(X, y, value):
    fails((TypeError, ValueError), ["group_features"], X, y, group_features=value)


def test_one_column_named_twice(X, y):
    fails(ValueError, ["group_features", "'g'", "twice|more than once"], X, y, group_features=["g", "g"])


def test_both_group_routes_at_once(X, y):
    fails(ValueError, ["groups=", "group_features|'g'"], X, y, groups=["a"] * N)


def test_a_column_groups_beside_the_keyword(X, y):
    X = X.rename(columns={"g": "groups"})
    fails(ValueError, ["groups", "twice"], X, y, groups=["a"] * N, group_features=None)


def test_fractions_as_groups(X, y):
    fails(ValueError, ["groups=", "sample_weight"], X[["x"]], y, groups=np.linspace(0.1, 2, N), group_features=None)


def test_groups_that_are_one_label(X, y):
    fails(TypeError, ["groups=", "'school'"], X[["x"]], y, groups="school", group_features=None)


# Options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("pooling", "some"),
        ("pooling", None),
        ("correlated", "yes"),
        ("inference", "vi"),
        ("unknown_groups", "ignore"),
        ("priors", "wide"),
        ("draws", 0),
        ("draws", 10.5),
        ("tune", -1),
        ("chains", 0),
        ("sampler_options", 3),
        ("n_jobs", "all"),
        ("random_state", "seed"),
        ("formula", 5),
        ("slope_features", 1.5),
        ("verbose", -1),
    ],
)
def test_unknown_values_of_options(X, y, option, value):
    options = {option: value} | ({"group_features": None} if option == "formula" else {})
    fails((ValueError, TypeError), [option, re.escape(repr(value))], X, y, **options)


@pytest.mark.parametrize("slopes", ["z", ["x", "z"], 7, {"g": ["z"]}, {"h": ["x"]}])
def test_slope_features_that_are_not_there(X, y, slopes):
    fails(ValueError, ["slope_features", "'z'|7|'h'"], X, y, slope_features=slopes)


def test_slope_features_without_an_order(X, y):
    fails(TypeError, ["slope_features", "set", "order"], X, y, slope_features={"x", "w"})


def test_values_are_shown_in_plain_python(X, y, fitted):
    fails(ValueError, [r"slope_features: X has no column 'q'"], X, y, slope_features=[np.str_("q")])
    fails(ValueError, [r"got -1\.0"], X, y, priors={"sigma": ("HalfNormal", {"sigma": np.float64(-1.0)})})
    with pytest.raises(ValueError, match="got 'row'"):
        fitted.predict_interval(X, kind=np.str_("row"))


def test_a_group_column_as_slope(X, y):
    fails(ValueError, ["slope_features", "'g'"], X, y, slope_features=["g"])


def test_text_as_slope_or_feature_is_coded(X, y):
    # not an error: text is a category
    X["c"] = list("uvuvuvwwuvuv")
    model = PartialPoolingRegressor(group_features="g").fit(X, y)
    assert model.coef_names_ == ["x", "w", "c[v]", "c[w]"]
    with pytest.raises(ValueError, match=r"'c'.*'z'.*'u', 'v', 'w'"):
        model.predict(X.assign(c="z"))


@pytest.mark.parametrize("option", ["group_features", "slope_features"])
def test_a_formula_beside_columns(X, y, option):
    options = {
        "group_features": None,
        "formula": "y ~ x + (x | g)",
        option: "g" if option == "group_features" else ["x"],
    }
    fails(ValueError, [option, "formula"], X, y, **options)


# Priors


@pytest.mark.parametrize(
    ("priors", "words"),
    [
        ({"slope": ("Normal", {"mu": 0, "sigma": 1})}, ["'slope'", "'x'", "'1\\|g'", "'sigma'"]),
        ({"sigmas": ("HalfNormal", {"sigma": 1})}, ["'sigmas'", "Did you mean 'sigma'"]),
        ({"1|county": ("Normal", {"mu": 0, "sigma": 1})}, ["'1\\|county'", "'1\\|g'"]),
        ({"x": ("Normall", {"mu": 0, "sigma": 1})}, ["'Normall'", "Normal"]),
        ({"x": ("Normal", {"mean": 0})}, ["Normal", "mu", "sigma", "'mean'"]),
        ({"x": ("Normal", {"mu": 0, "sigma": -1})}, ["'x'", "sigma", "positive", "-1"]),
        ({"x": ("Normal", {"mu": 0, "sigma": np.nan})}, ["'x'", "sigma", "nan"]),
        ({"x": "wide"}, ["'x'", "'wide'", "bambi.Prior"]),
        ({"x": np.inf}, ["'x'", "inf", "finite"]),
        ({"sigma": 0.0}, ["'sigma'", "positive"]),
        ({"sigma": ("Normal", {"mu": 0, "sigma": 1})}, ["'sigma'", "negative", "HalfNormal"]),
        ({"1|g": 2.0}, [r"'1\|g'", "sigma", "2.0"]),
        ({"1|g": ("Flat", {})}, [r"'1\|g'", "pooling='none'"]),
        ({"corr|g": 2.0}, [r"'corr\|g'", "correlated"]),
        ({3: ("Normal", {"mu": 0, "sigma": 1})}, ["3", "'x'"]),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_priors(X, y, priors, words):
    fails(ValueError, words, X, y, priors=priors)


def test_eta_of_lkj(X, y):
    fails(ValueError, [r"'corr\|g'", "eta", "-1"], X, y, slope_features=["x"], priors={"corr|g": -1.0})


def test_a_prior_on_sigma_beside_known_errors(X, y):
    fails(ValueError, ["'sigma'", "standard_error"], X, y, priors={"sigma": 1.0}, standard_error=np.ones(N))


def test_a_model_that_the_marginal_engine_cannot_take(X, y):
    priors = {"x": ("Laplace", {"mu": 0, "b": 1})}
    fails(ValueError, ["inference='marginal'", "'x'", "Laplace", "'nuts'"], X, y, priors=priors, inference="marginal")


def test_several_grouping_factors_without_pooling(X, y):
    X["h"] = list("uvuvuvwwuvuv")
    fails(
        ValueError,
        ["pooling='none'", "'g', 'h'", r"C\(g\) \+ C\(h\)"],
        X,
        y,
        group_features=["g", "h"],
        pooling="none",
    )


# Formulas


@pytest.mark.parametrize(
    ("formula", "words"),
    [
        ("y ~ x + (x | g", ["\\(x \\| g"]),
        ("y ~ ", []),
        ("y ~ x +* w", []),
        ("y ~ nothere + (1 | g)", ["'nothere'", "'x'"]),
        ("y ~ x + (1 | county)", ["'county'", "'g'"]),
        ("y ~ x + (1 | groups)", ["groups"]),
        ("y ~ __import__('os').system('true')", []),
        ("y ~ open(x)", ["'open'"]),
        ("y ~ eval(x) + (1 | g)", ["'eval'"]),
        ("y ~ x.__class__", []),
        ("y ~ lambda: 0", []),
        ("log(y) ~ x + (1 | g)", ["log\\(y\\)", "TransformedTargetRegressor"]),
    ],
)
def test_formulas(X, y, formula, words):
    fails(ValueError, [*words, "formula|groups="], X, y, formula=formula, group_features=None)


@pytest.mark.parametrize("name", ["N", "warnings", "np", "self", "rng", "pytest"])
def test_names_of_the_callers_scope_are_no_columns(X, y, name):
    fails(ValueError, [repr(name), "'x'"], X, y, formula=f"y ~ x + {name}", group_features=None)


# After fit


@pytest.fixture
def fitted(X, y):
    return PartialPoolingRegressor(group_features="g").fit(X, y)


@pytest.mark.parametrize("coverage", [0.0, 1.0, 90, -0.1, np.nan])
def test_coverage(X, fitted, coverage):
    with pytest.raises(ValueError, match=r"coverage.*between 0 and 1.*got"):
        fitted.predict_interval(X, coverage=coverage)
    with pytest.raises(ValueError, match=r"coverage.*between 0 and 1.*got"):
        fitted.group_effects(coverage=coverage)


@pytest.mark.parametrize("coverage", ["0.9", None, [0.5, 0.9]])
def test_coverage_of_a_wrong_type(X, fitted, coverage):
    with pytest.raises((TypeError, ValueError), match="coverage"):
        fitted.predict_interval(X, coverage=coverage)


def test_kind(X, fitted):
    with pytest.raises(ValueError, match=r"kind.*'prediction' or 'mean'.*'median'"):
        fitted.predict_interval(X, kind="median")


@pytest.mark.parametrize("n_samples", [0, -1, 2.5, "3", None])
def test_n_samples(X, fitted, n_samples):
    with pytest.raises(ValueError, match=rf"n_samples.*positive integer.*{re.escape(repr(n_samples))}"):
        fitted.sample_y(X, n_samples=n_samples)


def test_columns_that_changed(X, fitted):
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(X.rename(columns={"x": "z"}))
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(X[["g", "x"]])
    with pytest.raises(ValueError, match=r"(?i)nan"):
        fitted.predict(X.assign(x=np.nan))


def test_groups_where_columns_hold_them(X, fitted):
    with pytest.raises(ValueError, match="groups="):
        fitted.predict(X, groups=X["g"])


def test_no_groups_after_a_fit_with_groups(X, y):
    model = PartialPoolingRegressor().fit(X[["x", "w"]], y, X["g"])
    for ask in (model.predict, model.predict_interval, model.sample_y, lambda X: model.score(X, y)):
        with pytest.raises(ValueError, match=r"groups=.*group_features"):
            ask(X[["x", "w"]])


def test_unknown_groups_as_errors(X, y):
    model = PartialPoolingRegressor(group_features="g", unknown_groups="error").fit(X, y)
    with pytest.raises(ValueError, match=r"'g'.*1 groups? .*'new'"):
        model.predict(X.assign(g=["new", *X["g"][1:]]))


@pytest.mark.parametrize("policy", ["Nan", None, "raise"])
@pytest.mark.parametrize("estimator", [PartialPoolingRegressor, JamesSteinEstimator])
def test_a_policy_for_unknown_groups_that_was_misspelt_after_fit(X, y, estimator, policy):
    model = estimator(group_features="g").fit(X, y).set_params(unknown_groups=policy)
    message = f"unknown_groups of {estimator.__name__} must be one of 'population', 'error', 'nan'; got {policy!r}"
    with pytest.raises(ValueError, match=message):
        model.predict(X)


def test_no_pooling_is_no_bambi_model(X, y):
    with pytest.raises(ValueError, match=r"to_bambi .*pooling='none'.*pooling='partial'"):
        PartialPoolingRegressor(group_features="g", pooling="none").to_bambi(X, y)


@pytest.mark.parametrize("size", [1e200, 1e-200])
@pytest.mark.parametrize("pooling", ["partial", "complete", "none"])
def test_values_whose_squares_are_no_numbers(X, y, size, pooling):
    fails(ValueError, ["^y reaches", "e.200", "1e.75", "unit"], X, size * y, pooling=pooling)
    fails(ValueError, ["'x'", "1e.75", "units"], X.assign(x=size * X["x"]), y, pooling=pooling)
    slope = {"slope_features": ["w"], "pooling": pooling}
    fails(ValueError, ["'w', 'w|g'" if pooling != "complete" else "'w'"], X.assign(w=size * X["w"]), y, **slope)


def test_weights_whose_sums_are_no_numbers(X, y):
    fails(ValueError, ["Sums of squares .* weights"], X, 1e70 * y, sample_weight=np.full(N, 1e200))


@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_columns_of_a_shrunken_regression_whose_squares_are_no_numbers(X, y, size):
    with pytest.raises(ValueError, match=r"Column 'x' of X reaches .*e.200 .*1e-75 to 1e\+75"):
        JamesSteinEstimator(group_features="g", target="regression").fit(X.assign(x=size * X["x"]), y)


def test_standard_errors_that_are_missing_or_too_many(X, y, fitted):
    known = PartialPoolingRegressor(group_features="g").fit(X, y, standard_error=np.ones(N))
    known.predict(X)
    known.predict_interval(X, kind="mean")
    for ask in (
        lambda: known.predict(X, return_std=True),
        lambda: known.predict_interval(X),
        lambda: known.sample_y(X),
    ):
        with pytest.raises(ValueError, match="standard_error="):
            ask()
    for ask in (
        lambda: fitted.predict(X, return_std=True, standard_error=np.ones(N)),
        lambda: fitted.predict(X, standard_error=np.ones(N)),
        lambda: fitted.predict_interval(X, standard_error=np.ones(N)),
        lambda: fitted.sample_y(X, standard_error=np.ones(N)),
    ):
        with pytest.raises(ValueError, match=r"standard_error=.*fitted without"):
            ask()
    with pytest.raises(ValueError, match=r"standard_error.*positive"):
        known.predict(X, return_std=True, standard_error=np.zeros(N))


@pytest.mark.parametrize("error", [1e160, 1e51, 1e-51, 1e-160])
@pytest.mark.parametrize(
    "model",
    [PartialPoolingRegressor(group_features="g"), JamesSteinEstimator(group_features="g", method="sure")],
    ids=["partial pooling", "sure"],
)
def test_standard_errors_whose_squares_are_no_numbers_are_refused(X, y, model, error):
    errors = np.ones(N)
    errors[3] = error
    message = f"standard_error must lie between 1e-50 and 1e\\+50.* row 3 has {re.escape(str(error))}. Divide y and"
    with pytest.raises(ValueError, match=message):
        clone(model).fit(X[["g"]], y, standard_error=errors)
    known = clone(model).fit(X[["g"]], y, standard_error=np.ones(N))
    with pytest.raises(ValueError, match=message):
        known.predict(X[["g"]], return_std=True, standard_error=errors)


def test_standard_errors_that_rounding_swallows_are_refused(X, y):
    errors = np.ones(N)
    errors[3] = 0.9e-7 * np.std(y)
    model = PartialPoolingRegressor(group_features="g", slope_features=[])
    with pytest.raises(ValueError, match=r"standard_error goes down to .*e-0\d, less than 1e-07 of the stand"):
        model.fit(X[["g"]], y, standard_error=errors)
    errors[3] = 1.1e-7 * np.std(y)
    model.fit(X[["g"]], y, standard_error=errors)
