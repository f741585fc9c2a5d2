"""What newcomers pass, to every estimator: each error names the argument, what it got, and the cure."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from hbsk import (
    JamesSteinEstimator,
    PartialPoolingClassifier,
    PartialPoolingCountRegressor,
    PartialPoolingEncoder,
    PartialPoolingRegressor,
    from_json,
)


@pytest.fixture
def X(rng):  # noqa: N802 - what tests call it
    return pd.DataFrame({"g": list("aabbbccccdda"), "x": rng.normal(size=12), "w": rng.normal(size=12)})


EVERY = {
    "regressor": PartialPoolingRegressor(group_features="g"),
    "classifier": PartialPoolingClassifier(group_features="g"),
    "counts": PartialPoolingCountRegressor(group_features="g"),
    "means": JamesSteinEstimator(group_features="g"),
    "encoder": PartialPoolingEncoder("g"),
}
every = pytest.mark.parametrize("model", EVERY.values(), ids=EVERY)


@every
def test_a_missing_y_is_counted_with_the_cure(model, X):
    y = np.array([0.0, 1.0] * 6)
    y[4] = np.nan
    for values in (y, pd.Series(y), list(y)):
        with pytest.raises(
            ValueError, match=r"y contains NaN\. 1 of the 12 values is missing .*: leave these rows out"
        ):
            clone(model).fit(X, values)


@every
@pytest.mark.parametrize("dtype", [object, "Int64", "boolean"])
def test_a_y_that_is_na_is_counted_with_the_cure(model, dtype, X):
    y = pd.Series([pd.NA, True, False] + [True, False, False] * 3, dtype=dtype)
    with pytest.raises(ValueError, match=r"y contains NaN.* 1 of the 12 .*leave these rows out, of X too"):
        clone(model).fit(X, y)


@pytest.mark.parametrize("model", [EVERY["classifier"], EVERY["encoder"]])
@pytest.mark.parametrize("dtype", [object, "string", "category"])
def test_a_missing_class_is_counted_with_the_cure(model, dtype, X):
    y = pd.Series([None, "no", "yes", "yes"] * 3, dtype=dtype)
    with pytest.raises(ValueError, match=r"labels are missing in 3 of the 12 rows; leave these rows out, of X too"):
        clone(model).fit(X, y)


@pytest.mark.parametrize("model", [m for name, m in EVERY.items() if name != "encoder"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_missing_feature_is_counted_with_the_cure(model, value, X):
    X.loc[[2, 5], "x"] = value
    message = r"Column 'x' of X: .*2 of the 12 values are missing or infinite.*: impute them, or drop the rows"
    with pytest.raises(ValueError, match=message) as raised:
        clone(model).fit(X, np.array([0, 1] * 6))
    assert "natively" not in str(raised.value)


@every
def test_the_name_of_a_column_is_no_y(model, X):
    with pytest.raises(ValueError, match=r"y='w' is a text.*y=data\['w'\], and X without it\."):
        clone(model).fit(X, "w")


@every
@pytest.mark.parametrize(
    ("of", "message"),
    [
        (lambda X: X.to_dict("list"), r"X is a dict, .*: pandas\.DataFrame\(X\) makes one"),
        (lambda X: X.to_dict("records"), r"X is a list of dicts, .*: pandas\.DataFrame\(X\) makes one"),
        (lambda X: X.to_dict("records")[0], r"X is a dict, .*: pandas\.DataFrame\(\[X\]\) makes one"),
    ],
)
def test_dicts_are_no_tables(model, of, message, X):
    with pytest.raises(TypeError, match=message):
        clone(model).fit(of(X), np.array([0, 1] * 6))


@pytest.mark.parametrize("argument", ["standard_error", "sample_weight"])
def test_what_stands_beside_x_is_told_by_its_name(argument, X):
    values = np.ones(12)
    values[:2] = np.nan
    with pytest.raises(
        ValueError, match=rf"{argument} contains NaN\. 2 of the 12 values are missing or infinite: leave"
    ):
        clone(EVERY["regressor"]).fit(X, X["w"], **{argument: values})
    with pytest.raises(ValueError, match=rf"{argument} must be numbers, one per row: .*'a'"):
        clone(EVERY["regressor"]).fit(X, X["w"], **{argument: list("abcabcabcabc")})


def test_a_frame_beside_x_is_told_how_to_be_a_column(X):
    with pytest.raises(ValueError, match=r"exposure must be 1-D.* \(12, 1\): a column of a frame is data\['name'\]"):
        clone(EVERY["counts"]).fit(X, np.arange(12), exposure=X[["x"]])


def test_labels_in_a_dict_are_not_all_shown(X):
    with pytest.raises(TypeError, match=r"groups= takes labels, one for each row of X; got a dict\. A column of X"):
        PartialPoolingRegressor().fit(X[["x"]], X["w"], groups={"g": X["g"]})


def test_a_path_is_no_document():
    with pytest.raises(
        ValueError, match=r"this is no JSON.*Where it is the path of a file: Path\(path\)\.read_text\(\)"
    ):
        from_json("folder/model.json")


def test_classes_and_dates_as_y_have_a_cure(X):
    with pytest.raises(ValueError, match=r"'no'.*PartialPoolingClassifier, or numbers 0 and 1"):
        clone(EVERY["means"]).fit(X, ["no", "yes"] * 6)
    with pytest.raises(TypeError, match=r"y has dtype datetime64.*days since a start"):
        clone(EVERY["regressor"]).fit(X, pd.Series(pd.date_range("2024-01-01", periods=12)))
