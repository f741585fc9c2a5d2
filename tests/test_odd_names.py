"""Any name is just a name: of a feature, of a group column, in priors, and as `formula_` writes it."""

import warnings

import numpy as np
import pandas as pd
import pytest

from hbsk import PartialPoolingRegressor


@pytest.fixture
def X(rng):  # noqa: N802 - what tests call it
    return pd.DataFrame({"g": list("aabbbccccdda"), "x": rng.normal(size=12), "w": rng.normal(size=12)})


@pytest.fixture
def y(rng):
    return rng.normal(size=12)


NAMES = [
    "a|b",
    "x + 1",
    "class",
    "y",
    "a`b",
    "Intercept",
    "",
    "__import__('os').system('touch pwned')",
    "x:z",
    "(1 | g)",
    "0",
    "sigma",
    "1",
    "común",
]


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_of_features(X, y, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = PartialPoolingRegressor(group_features="g", slope_features=["x"]).fit(X, y)
    odd = X.rename(columns={"x": name})
    model = PartialPoolingRegressor(group_features="g", slope_features=[name]).fit(odd, y)
    np.testing.assert_array_equal(model.predict(odd), wanted.predict(X))
    # a name that means something else is written as in a formula
    assert model.coef_names_[0] == (f"`{name}`" if name in ("Intercept", "sigma", "1") else name)
    assert list(model.feature_names_in_) == ["g", name, "w"]
    assert model.group_sd_["g"].shape == (2,)
    assert model.group_effects_["term"].nunique() == 2
    assert not list(tmp_path.iterdir())
    again = PartialPoolingRegressor(model.formula_).fit(odd, y)
    assert again.formula_ == model.formula_
    np.testing.assert_array_equal(again.predict(odd), wanted.predict(X))


@pytest.mark.parametrize("name", [*NAMES, "groups"])
def test_odd_names_of_group_columns(X, y, name):
    wanted = PartialPoolingRegressor(group_features="g").fit(X, y)
    odd = X.rename(columns={"g": name})
    model = PartialPoolingRegressor(group_features=name).fit(odd, y)
    np.testing.assert_array_equal(model.predict(odd), wanted.predict(X))
    assert list(model.groups_) == [name]
    assert list(model.group_effects_["factor"].unique()) == [name]
    again = PartialPoolingRegressor(model.formula_).fit(odd, y)
    np.testing.assert_array_equal(again.predict(odd), wanted.predict(X))


@pytest.mark.parametrize("name", NAMES)
def test_priors_of_odd_names(X, y, name):
    odd = X.rename(columns={"x": name})
    key = name if name not in ("sigma", "Intercept", "1", "0", "") else f"`{name}`"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = PartialPoolingRegressor(group_features="g", priors={key: ("Normal", {"mu": 0, "sigma": 1e-6})})
        model.fit(odd, y)
    assert abs(model.coef_[0]) < 1e-4 < abs(model.coef_[1])
