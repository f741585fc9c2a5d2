"""A fit that fails leaves the estimator as it was: the former fit whole, or none."""

import inspect
import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from hbsk import JamesSteinEstimator, PartialPoolingRegressor
from hbsk._estimators import shrunken_means, sums
from hbsk.exceptions import NoGroupsWarning

N = 24


@pytest.fixture
def X(rng):  # noqa: N802 - what tests call it
    return pd.DataFrame({"g": np.repeat(list("abcdef"), 4), "x": rng.normal(size=N)})


@pytest.fixture
def y(rng):
    return rng.normal(size=N)


ESTIMATORS = {
    "formula": lambda: PartialPoolingRegressor("y ~ x + (x | g)"),
    "columns": lambda: PartialPoolingRegressor(group_features="g", slope_features=["x"]),
    "no pooling": lambda: PartialPoolingRegressor(group_features="g", pooling="none"),
    "james-stein": lambda: JamesSteinEstimator(group_features="g"),
    "regression": lambda: JamesSteinEstimator(group_features="g", target="regression"),
}


def bad_fits(X, y):
    """Fits that fail at one place after the other, from parameters to the first look at single values."""
    wide = X.assign(w=np.arange(N), v=1.0)
    return {
        "another frame": (wide.drop(columns="x").assign(g=None), y),
        "without names": (np.column_stack([wide["x"], wide["w"], wide["v"]]), y[:-1]),
        "missing label": (wide.assign(g=["a", None] * 12), y),
        "missing y": (wide, np.full(N, np.nan)),
        "missing x": (wide.assign(x=np.nan), y),
        "too large": (wide.assign(x=X["x"] * 1e200), y * 1e200),
    }


def state_of(model):
    return {name: pickle.dumps(value) for name, value in vars(model).items()}


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize(
    "failure", ["another frame", "without names", "missing label", "missing y", "missing x", "too large"]
)
def test_a_failed_refit_keeps_the_former_fit_whole(X, y, kind, failure):
    model = ESTIMATORS[kind]().fit(X, y)
    before, answers = state_of(model), model.predict(X, return_std=True)
    with pytest.raises((ValueError, TypeError)):
        model.fit(*bad_fits(X, y)[failure])
    assert state_of(model) == before
    assert model.n_features_in_ == 2
    np.testing.assert_array_equal(model.predict(X, return_std=True), answers)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_a_failed_first_fit_leaves_nothing(X, y, kind):
    model = ESTIMATORS[kind]()
    before = set(vars(model))
    for data in bad_fits(X, y).values():
        with pytest.raises((ValueError, TypeError)):
            model.fit(*data)
        assert set(vars(model)) == before
    with pytest.raises(NotFittedError):
        check_is_fitted(model)


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_refit_keeps_the_former_fit_whole(X, y, kind, interruption, monkeypatch):
    model = ESTIMATORS[kind]().fit(X, y)
    before = state_of(model)

    def stop(*args, **kwargs):
        raise interruption

    monkeypatch.setattr(sums, "infer", stop)
    monkeypatch.setattr(shrunken_means, "shrink_groups", stop)
    with pytest.raises(interruption):
        model.fit(X.assign(w=1.5), y)
    assert state_of(model) == before


@pytest.mark.parametrize("cls", [PartialPoolingRegressor, JamesSteinEstimator])
def test_a_warning_turned_into_an_error_keeps_the_former_fit_whole(X, y, cls):
    model = cls(group_features="g").fit(X, y)
    before = state_of(model)
    model.group_features = None
    with pytest.raises(NoGroupsWarning):  # warnings are errors in these tests
        model.fit(X[["x"]], y)
    model.group_features = "g"
    assert state_of(model) == before


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_another_fit_has_nothing_of_the_one_before(X, y, kind):
    model = ESTIMATORS[kind]()
    assert model.fit(X, y) is model
    other = pd.DataFrame({"w": X["x"] ** 2, "x": 2 * X["x"], "g": X["g"].str.upper()})
    fresh = ESTIMATORS[kind]().fit(other, y)
    model.fit(other, y)
    assert set(vars(model)) == set(vars(fresh))
    np.testing.assert_array_equal(model.predict(other), fresh.predict(other))
    np.testing.assert_array_equal(model.feature_names_in_, fresh.feature_names_in_)


@pytest.mark.parametrize("cls", [PartialPoolingRegressor, JamesSteinEstimator])
def test_fit_shows_its_own_signature(cls):
    sizes = ["exposure", "trials"] if cls is JamesSteinEstimator else []
    assert list(inspect.signature(cls.fit).parameters) == [
        "self", "X", "y", "groups", "standard_error", "sample_weight", *sizes,
    ]  # fmt: skip
