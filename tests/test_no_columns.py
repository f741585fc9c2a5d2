"""X without columns: where groups= holds the labels, and only where fit had it so."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from hbsk import (
    JamesSteinEstimator,
    PartialPoolingClassifier,
    PartialPoolingCountRegressor,
    PartialPoolingRegressor,
    from_json,
    to_json,
)

GROUPS = np.repeat(["a", "b", "c", "d", "e"], [3, 4, 2, 5, 3])
Y = np.random.default_rng(3).normal(size=17) + np.repeat([0.0, 1.0, -1.0, 2.0, 0.5], [3, 4, 2, 5, 3])
NOTHING = [None, np.empty((17, 0)), pd.DataFrame(index=range(17)), pd.DataFrame(), pl.DataFrame()]


@pytest.fixture(scope="module", params=[JamesSteinEstimator, PartialPoolingRegressor])
def beside_a_column(request):
    """Return the class, and a fit with the labels as the only column of X."""
    X = pd.DataFrame({"groups": GROUPS})
    return request.param, request.param(group_features="groups").fit(X, Y), X


@pytest.mark.parametrize("X", NOTHING, ids=lambda X: f"{type(X).__module__}.{type(X).__name__}{np.shape(X)}")
def test_labels_alone_are_enough(X, beside_a_column):
    cls, column, labels = beside_a_column
    model = cls().fit(X, Y, groups=GROUPS)
    assert model.n_features_in_ == 0
    assert not hasattr(model, "feature_names_in_")
    for name, beside in (("predict", {"return_std": True}), ("predict_interval", {"kind": "mean"}), ("sample_y", {})):
        seed = {"random_state": 0} if name == "sample_y" else {}
        ours = getattr(model, name)(X, GROUPS, **beside, **seed)
        np.testing.assert_allclose(ours, getattr(column, name)(labels, **beside, **seed), rtol=1e-12)
    assert model.score(X, Y, groups=GROUPS) == pytest.approx(column.score(labels, Y))
    if X is None:
        few = model.predict(None, groups=["b", "new"])
        np.testing.assert_allclose(few[0], model.predict(X, GROUPS)[3])
        again = from_json(to_json(model))
        np.testing.assert_array_equal(again.predict(None, GROUPS), model.predict(None, GROUPS))


def test_formulas_of_groups_alone_and_the_population_need_no_columns():
    model = PartialPoolingRegressor("1 + (1 | groups)").fit(None, Y, groups=GROUPS)
    plain = PartialPoolingRegressor().fit(None, Y, groups=GROUPS)
    np.testing.assert_allclose(model.predict(None, GROUPS), plain.predict(None, GROUPS), rtol=1e-12)
    np.testing.assert_allclose(model.predict(None, GROUPS, include_groups=False), model.intercept_)
    two = pd.DataFrame({"g": GROUPS, "h": np.arange(17) % 3})
    crossed = PartialPoolingRegressor().fit(None, Y, groups=two)
    assert list(crossed.groups_) == ["g", "h"]
    assert crossed.predict(None, two).shape == (17,)


def test_classes_and_counts_need_no_columns_either():
    classes = PartialPoolingClassifier().fit(None, Y > 0.4, groups=GROUPS)
    assert classes.predict_proba(None, ["a", "new"]).shape == (2, 2)
    counts = PartialPoolingCountRegressor().fit(None, np.arange(17) % 4, groups=GROUPS)
    assert counts.predict(None, ["a", "new"]).shape == (2,)


def test_without_labels_scikit_learns_error_stays(beside_a_column):
    cls, _, _ = beside_a_column
    words = r"0 feature\(s\) \(shape=\(17, 0\)\) while a minimum of 1 is required"
    for X in (np.empty((17, 0)), pd.DataFrame(index=range(17))):
        with pytest.raises(ValueError, match=words):
            cls().fit(X, Y)
    model = cls().fit(None, Y, groups=GROUPS)
    with pytest.raises(ValueError, match=words):
        model.predict(np.empty((17, 0)))
    for call in (lambda: cls().fit(None, Y), lambda: model.predict(None)):
        with pytest.raises(ValueError, match="X is None, and groups= is missing"):
            call()


def test_only_a_fit_without_columns_is_asked_without_columns(beside_a_column):
    cls, column, _ = beside_a_column
    model = cls().fit(None, Y, groups=GROUPS)
    with pytest.raises(ValueError, match=r"X has 2 features, but .* is expecting 0 features"):
        model.predict(np.zeros((17, 2)), GROUPS)
    with pytest.raises(ValueError, match=r"X has 0 features, but .* is expecting 1 features.*where it was so in fit"):
        column.predict(None, GROUPS)
    with pytest.raises(ValueError, match="Groups were given twice"):
        cls(group_features="groups").fit(None, Y, groups=GROUPS)


def test_labels_that_are_none_are_named(beside_a_column):
    cls, _, _ = beside_a_column
    for groups in ("abc", 3):
        with pytest.raises(TypeError, match="groups= takes labels, one for each row"):
            cls().fit(None, Y, groups=groups)
    with pytest.raises(ValueError, match="n_samples=0"):
        cls().fit(None, [], groups=[])


@pytest.mark.parametrize("cls", [PartialPoolingRegressor, PartialPoolingClassifier, PartialPoolingCountRegressor])
@pytest.mark.parametrize("weight", [None, np.arange(17) % 3])
def test_a_formula_without_common_columns_is_one_whose_intercept_is_known_to_be_zero(cls, weight):
    X, y = pd.DataFrame({"g": GROUPS}), Y if cls is PartialPoolingRegressor else (Y > 0).astype(int)
    priors = {"1|g": ("Normal", {"mu": 0, "sigma": ("HalfNormal", {"sigma": 1.5})})}
    without = cls("0 + (1 | g)", priors=priors).fit(X, y, sample_weight=weight)
    known = cls("(1 | g)", priors={**priors, "Intercept": ("Normal", {"mu": 0, "sigma": 1e-5})})
    known.fit(X, y, sample_weight=weight)
    assert without.coef_names_ == []
    ask = "predict_proba" if cls is PartialPoolingClassifier else "predict"
    np.testing.assert_allclose(getattr(without, ask)(X), getattr(known, ask)(X), rtol=0.01, atol=1e-3)
    np.testing.assert_allclose(without.group_effects(at="mean")["mean"], without.group_effects_["mean"])
