"""Numbers far from zero: y whose spread floats would lose beside its location, and columns like it.

The right answers are those of the same rows less a number, which is exact for integers and for these floats.
"""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from hbsk import PartialPoolingRegressor
from hbsk.model_selection import loo

FAR = 1_700_000_000_000_000_000  # nanoseconds since 1970: floats are 256 apart there


@pytest.fixture
def X(rng):  # noqa: N802 - what tests call it
    return pd.DataFrame({"g": np.repeat(np.arange(10), 8), "x": rng.normal(size=80)})


@pytest.fixture
def near(rng, X):
    return np.rint(1e3 * (rng.normal(size=80) + rng.normal(size=10)[X["g"]] + 0.4 * X["x"])).astype(np.int64)


WAYS = {
    "int64": lambda near: near + FAR,
    "negative": lambda near: near - 5 * FAR,
    "uint64": lambda near: near.astype(np.uint64) + np.uint64(2**63 + 2**62),
    "list": lambda near: [int(value) + FAR for value in near],
    "beyond 64 bits": lambda near: np.array([int(value) + 10**25 for value in near], dtype=object),
    "nullable": lambda near: pd.Series(near + FAR).astype("Int64"),
    "decimal": lambda near: np.array([Decimal(int(value)) + FAR for value in near], dtype=object),
    "fraction": lambda near: np.array([Fraction(int(value)) + FAR for value in near], dtype=object),
    "float": lambda near: near + 2.0**52,
    "float32": lambda near: near.astype(np.float32) * np.float32(2**-9) + np.float32(2**14),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pooling", ["partial", "complete", "none"])
def test_y_far_from_zero_has_the_spread_that_it_has_near_zero(X, near, way, pooling):
    y = WAYS[way](near)
    far = PartialPoolingRegressor(group_features="g", pooling=pooling).fit(X, y)
    unit = 2.0**9 if way == "float32" else 1.0
    rounded = np.rint(near * 2.0**-9 * 2**10) / 2**10 * 2**9 if way == "float32" else near  # what float32 keeps
    model = PartialPoolingRegressor(group_features="g", pooling=pooling).fit(X, rounded)
    assert far.sigma_ * unit == pytest.approx(model.sigma_, rel=1e-9)
    np.testing.assert_allclose(far.coef_ * unit, model.coef_, rtol=1e-7)
    new = X.assign(g=np.where(X["g"] == 3, 77, X["g"]))
    (far_mean, far_sd), (mean, sd) = far.predict(new, return_std=True), model.predict(new, return_std=True)
    np.testing.assert_allclose(far_sd * unit, sd, rtol=1e-8)
    # the mean itself is a float of that size, and so is the centre it is counted from
    shift = float(y[0]) - float(near[0]) / unit
    np.testing.assert_allclose((far_mean - shift) * unit, mean, atol=3 * unit * np.spacing(abs(shift)), rtol=1e-9)
    width = np.diff(model.predict_interval(new), axis=1)
    far_width = np.diff(far.predict_interval(new), axis=1) * unit
    np.testing.assert_allclose(far_width, width, atol=2 * unit * np.spacing(abs(shift)), rtol=1e-8)
    np.testing.assert_allclose(far.shrinkage_.get("g", 0), model.shrinkage_.get("g", 0), rtol=1e-7)


@pytest.mark.parametrize("weighted", [False, True])
def test_tables_and_scores_of_y_far_from_zero(X, near, weighted):
    weight = np.tile([1.0, 2.0, 0.0, 3.0], 20) if weighted else None
    model, far = (
        PartialPoolingRegressor(group_features="g").fit(X, y, sample_weight=weight) for y in (near, near + FAR)
    )
    for name in ("sd", "shrinkage"):
        np.testing.assert_allclose(far.group_effects_[name], model.group_effects_[name], rtol=1e-7)
    tables = [m.group_effects() for m in (model, far)]
    widths = [table["eti95_ub"] - table["eti95_lb"] for table in tables]
    np.testing.assert_allclose(widths[1], widths[0], atol=512)
    np.testing.assert_allclose(far.summary()["sd"], model.summary()["sd"], rtol=1e-7)


@pytest.mark.parametrize("unit", ["row", "group"])
def test_loo_of_y_far_from_zero(X, near, unit):
    found = [
        loo(PartialPoolingRegressor(group_features="g").fit(X, y), X, y, unit=unit).elpd for y in (near, near + FAR)
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-7)


def test_known_errors_of_y_far_from_zero(X, near):
    model, far = (
        PartialPoolingRegressor(group_features="g").fit(X, y, standard_error=900.0) for y in (near, near + FAR)
    )
    np.testing.assert_allclose(far.group_sd_["g"], model.group_sd_["g"], rtol=1e-7)


def test_nuts_refuses_y_whose_spread_it_cannot_see(X, near):
    with pytest.raises(ValueError, match=r"y lies near 1\.7.*floats are 256 apart.*Subtract a number"):
        PartialPoolingRegressor(group_features="g", inference="nuts").fit(X, near + FAR)


def test_rounding_noise_of_y_is_a_constant(X):
    y = np.where(X["x"] > 0, 0.1 + 0.2, 0.3)
    assert np.ptp(y) > 0
    exact = PartialPoolingRegressor(group_features="g").fit(X, np.full(80, 0.3))
    model = PartialPoolingRegressor(group_features="g").fit(X, y)
    np.testing.assert_allclose(model.predict(X), exact.predict(X), rtol=1e-12)
    assert model.sigma_ == pytest.approx(exact.sigma_, rel=0.1)  # the floor of a perfect fit


@pytest.mark.parametrize(
    "formula", ["y ~ t + (1 | g)", "y ~ x + (t | g)", "y ~ center(t) + (1 | g)", "y ~ t:x + (1 | g)"]
)
@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_integers_that_floats_cannot_tell_apart_are_refused_as_columns(X, near, formula, dtype):
    X = X.assign(t=near.astype(dtype) + dtype(FAR))
    with pytest.raises(
        ValueError, match=r"'?t'?.*integers near 1\.7.*floats are 256\.? apart.*Subtract a number first"
    ):
        PartialPoolingRegressor(formula).fit(X, X["x"])


def test_integers_that_floats_tell_apart_well_enough_are_taken(X, near):
    X = X.assign(t=near + FAR, seconds=near * 10**9 + FAR, row=np.full(80, FAR))
    y = X["x"] + 1e-3 * near
    # subtracted as integers inside the formula
    found = PartialPoolingRegressor(f"y ~ I(t - {FAR}) + (1 | g)").fit(X, y)
    wanted = PartialPoolingRegressor("y ~ t + (1 | g)").fit(X.assign(t=near), y)
    np.testing.assert_allclose(found.predict(X), wanted.predict(X.assign(t=near)), rtol=1e-9)
    seconds = PartialPoolingRegressor("y ~ seconds + row + (1 | g)").fit(X, y)
    np.testing.assert_allclose(seconds.predict(X), wanted.predict(X.assign(t=near)), rtol=1e-6, atol=1e-8)


@pytest.mark.filterwarnings("ignore:sigma is held")  # y is a line of x and t, exactly
@pytest.mark.parametrize("formula", ["y ~ t + (1 | g)", "y ~ x + center(t) + (1 | g)"])
def test_floats_that_are_a_few_steps_apart_are_a_column(X, near, formula):
    y = X["x"] + 1e-3 * near
    wanted = PartialPoolingRegressor(formula).fit(X.assign(t=near), y)
    far = X.assign(t=near + 2.0**60 / 256)  # floats are one apart there
    found = PartialPoolingRegressor(formula).fit(far, y)
    np.testing.assert_allclose(found.coef_, wanted.coef_, rtol=1e-6)
    np.testing.assert_allclose(found.predict(far), wanted.predict(X.assign(t=near)), rtol=1e-5, atol=1e-6)


def test_a_column_of_rounding_noise_is_constant(X, near):
    y = X["x"] + 1e-3 * near
    X = X.assign(one=(1 - np.abs(X["x"]) / 4) + np.abs(X["x"]) / 4, three=np.where(X["x"] > 0, 0.1 + 0.2, 0.3))
    model = PartialPoolingRegressor("y ~ x + one + three + (1 | g)").fit(X, y)
    assert list(model.diagnostics_.loc[["one", "three", "x"], "in_model"]) == [False, False, True]
