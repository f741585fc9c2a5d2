"""Rows to predict outside the boundary knots of a spline."""

import warnings

import numpy as np
import pandas as pd
import pytest

from hbsk import PartialPoolingRegressor
from hbsk.exceptions import ExtrapolationWarning


@pytest.fixture
def X(rng):  # noqa: N802 - what tests call it
    return pd.DataFrame({"g": np.repeat(list("abcde"), 12), "x": np.linspace(0.0, 10.0, 60), "w": rng.normal(size=60)})


@pytest.fixture
def y(rng, X):
    return np.sin(X["x"]) + 0.1 * rng.normal(size=60)


FORMULAS = {
    "common": "y ~ bs(x, df=5) + (1 | g)",
    "both": "y ~ bs(x, df=4) + (bs(x, df=4) || g)",
    "interaction": "y ~ bs(x, df=5):w + (1 | g)",
    "no groups": "y ~ bs(x, df=5)",
}


def fit(formula, X, y, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)  # no groups
        return PartialPoolingRegressor(formula, **options).fit(X, y)


@pytest.mark.parametrize("kind", FORMULAS)
def test_rows_beyond_the_knots_warn_once_by_column_and_range(X, y, kind):
    pooling = "complete" if kind == "both" else "partial"
    model = fit(FORMULAS[kind], X, y, pooling=pooling)
    model.predict(X)  # warnings are errors in these tests: none inside
    model.predict(X.iloc[[0, -1]].assign(x=[0.0 - 1e-9, 10.0 + 1e-9]))
    far = X.iloc[:4].assign(x=[20.0, 5.0, -0.5, 10.4])
    for ask in (model.predict, model.predict_interval, model.sample_y):
        with pytest.warns(
            ExtrapolationWarning, match=r"3 of 4 rows have x outside \[0, 10\], .*'bs\(x, df=\d\)' \(from -0.5 to 20\)"
        ) as caught:
            ask(far)
        assert len(caught) == 1
        assert caught[0].filename == __file__


def test_bounds_and_arguments_of_a_spline(X, y):
    model = fit("y ~ bs(log(x + 1), df=4, upper_bound=4) + (1 | g)", X, y)
    model.predict(X.assign(x=50.0))  # log(51) < 4
    with pytest.warns(ExtrapolationWarning, match=r"60 of 60 rows have log\(x \+ 1\) outside \[0, 4\]"):
        model.predict(X.assign(x=60.0))


def test_two_splines_are_named_apart(X, y):
    model = fit("y ~ bs(x, df=4) + bs(w, df=4) + (1 | g)", X, y)
    with pytest.warns(ExtrapolationWarning) as caught:
        model.predict(X.assign(x=11.0, w=99.0))
    assert sorted(str(w.message).split(" rows have ")[1][0] for w in caught) == ["w", "x"]


def test_polynomials_and_columns_go_on(X, y):
    fit("y ~ poly(x, 2) + w + (1 | g)", X, y).predict(X.assign(x=20.0, w=99.0))
