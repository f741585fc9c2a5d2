"""What holds of lazy frames on every engine: fits, predictions and errors beside those of the same rows in memory.

An engine is a function that makes its frame of a data frame of pandas. The default tests ask Polars and DuckDB,
`tests/engines` the others.
"""

import re

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
import pytest

from hbsk import PartialPoolingRegressor

N_ROWS, N_GROUPS = 1500, 30
FORMULA = "y ~ x1 + x2 + x3 + (x1 | g)"
BESIDE = {
    "plain": {},
    "weight": {"sample_weight": "n"},
    "standard error": {"standard_error": "se"},
    "both": {"sample_weight": "n", "standard_error": "se"},
}
# Sums in another order, and what the search for nodes makes of their last bits.
SAME_FIT, SAME_ROWS = 1e-12, 1e-14


def rows(shift=0.0, seed=0):
    """Return rows of 30 groups, unequal ones; ``row`` numbers them."""
    rng = np.random.default_rng(seed)
    g = (N_GROUPS * rng.random(N_ROWS) ** 1.5).astype(int)
    x = rng.standard_normal((3, N_ROWS))
    u = rng.normal(size=(2, N_GROUPS)) * [[0.7], [0.3]]
    y = 1 + 0.5 * x[0] - 0.3 * x[1] + 0.2 * x[2] + u[0, g] + u[1, g] * x[0] + rng.standard_normal(N_ROWS)
    return pd.DataFrame(
        {
            "row": np.arange(N_ROWS),
            "g": np.array([f"s{k:03d}" for k in range(N_GROUPS)], dtype=object)[g],
            "x1": x[0] + shift,
            "x2": x[1] - shift,
            "x3": x[2],
            "y": y + shift,
            "n": rng.integers(0, 4, N_ROWS).astype(float),
            "se": rng.uniform(0.5, 2, N_ROWS),
            "fold": rng.integers(0, 5, N_ROWS),
        }
    )


def in_memory(lazy, order="row"):
    """Return what a lazy frame computes as a data frame of pandas, its rows sorted by a column."""
    query = nw.from_native(lazy)
    backend = {nw.Implementation.POLARS: None, nw.Implementation.PYSPARK: "pyarrow"}.get(query.implementation, "pandas")
    return query.collect(backend=backend).to_pandas().sort_values(order, ignore_index=True)


def fit_in_memory(model, frame, sample_weight=None, standard_error=None):
    """Fit the rows with columns of weights and errors by name."""
    beside = {"sample_weight": sample_weight, "standard_error": standard_error}
    beside = {name: None if column is None else frame[column].to_numpy() for name, column in beside.items()}
    return model.fit(frame[["g", "x1", "x2", "x3"]], frame["y"], **beside)


def require_same_fit(found, wanted, tolerance=SAME_FIT):
    """Raise unless two fits are the same but for rounding."""
    assert found.formula_ == wanted.formula_
    np.testing.assert_allclose(found.sigma_, wanted.sigma_, rtol=tolerance)
    np.testing.assert_allclose(found.coef_, wanted.coef_, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(found.group_sd_["g"], wanted.group_sd_["g"], rtol=tolerance)
    np.testing.assert_array_equal(found.groups_["g"], wanted.groups_["g"])
    effects, others = found.group_effects_, wanted.group_effects_
    np.testing.assert_array_equal(effects["n"], others["n"])
    # effects at zero, which may be far: some groups' are small beside what they are differences of
    size = np.abs(others["deviation"]).max()
    np.testing.assert_allclose(effects["deviation"], others["deviation"], rtol=tolerance, atol=tolerance * size)
    np.testing.assert_allclose(effects["sd"], others["sd"], rtol=10 * tolerance)


def check_fit(engine, beside, shift=0.0):
    """A fit of the engine's sums is the fit of the rows, and its predictions are the predictions of the rows."""
    frame = rows(shift)
    wanted = fit_in_memory(PartialPoolingRegressor(FORMULA), frame, **beside)
    found = PartialPoolingRegressor(FORMULA).fit(engine(frame), **beside)
    require_same_fit(found, wanted)
    check_predictions(engine, wanted, frame, beside.get("standard_error"), shift)


def check_predictions(engine, wanted, frame, standard_error=None, shift=0.0):
    """Predictions of an engine are those of the rows in memory, for groups that fit has not seen too."""
    new = frame.head(200).copy()
    new.loc[:19, "g"] = "unseen"
    features = new[["g", "x1", "x2", "x3"]]
    known = None if standard_error is None else new[standard_error].to_numpy()
    mean, std = wanted.predict(features, return_std=True, standard_error=known)
    predicted = wanted.predict(engine(new), return_std=True, standard_error=standard_error)
    assert type(predicted) is type(engine(new))
    found = in_memory(predicted)
    assert list(found.columns) == [*new.columns, "prediction", "prediction_std"]
    np.testing.assert_array_equal(found["row"], new["row"])
    np.testing.assert_allclose(found["prediction"], mean, rtol=SAME_ROWS, atol=SAME_ROWS)
    np.testing.assert_allclose(found["prediction_std"], std, rtol=SAME_ROWS)
    score = wanted.score(engine(frame), sample_weight="n")
    in_rows = wanted.score(frame[features.columns], frame["y"], sample_weight=frame["n"])
    assert score == pytest.approx(in_rows, rel=1e-12 if not shift else 1e-7)


def check_prediction_of(engine, model, frame):
    """Predictions of the rows of a fit by an engine are those in memory."""
    mean, std = model.predict(frame.drop(columns="y"), return_std=True)
    found = in_memory(model.predict(engine(frame), return_std=True))
    np.testing.assert_allclose(found["prediction"], mean, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found["prediction_std"], std, rtol=1e-13)


def spoiled(lazy, column, value, row=7):
    """Return a frame of the same engine with another value in one row."""
    frame = nw.from_native(lazy)
    bad = nw.lit(value) if value is not None else nw.lit(None, frame.collect_schema()[column])
    return frame.with_columns(
        nw.when(nw.col("row") == row).then(bad).otherwise(nw.col(column)).alias(column)
    ).to_native()


BAD_ROWS = [
    ("x1", None, {}, "1 have null, NaN or infinity in column 'x1'"),
    ("x1", float("nan"), {}, "1 have null, NaN or infinity in column 'x1'"),
    ("x1", float("inf"), {}, "1 have null, NaN or infinity in column 'x1'"),
    ("y", None, {}, "1 have null, NaN or infinity in y, column 'y'"),
    ("y", float("nan"), {}, "1 have null, NaN or infinity in y, column 'y'"),
    ("y", float("-inf"), {}, "1 have null, NaN or infinity in y, column 'y'"),
    ("n", None, {"sample_weight": "n"}, "1 have a sample_weight, column 'n', that is null, NaN, infinite or negative"),
    ("n", float("nan"), {"sample_weight": "n"}, "1 have a sample_weight, column 'n', that is null"),
    ("n", -1.0, {"sample_weight": "n"}, "1 have a sample_weight, column 'n', that is null, NaN, infinite or negative"),
    ("se", None, {"standard_error": "se"}, "1 have a standard_error, column 'se', that is null, NaN or not between"),
    ("se", float("nan"), {"standard_error": "se"}, "1 have a standard_error, column 'se'"),
    ("se", 0.0, {"standard_error": "se"}, "1 have a standard_error, column 'se', that is null, NaN or not between"),
    ("se", -1.0, {"standard_error": "se"}, "1 have a standard_error, column 'se'"),
    ("g", None, {}, "Group column 'g' of X contains 1 missing labels"),
]


def check_bad_row(engine, column, value, beside, message):
    """One row that no model can take raises an error that names the column; a former fit stays whole."""
    frame = rows()
    model = PartialPoolingRegressor(FORMULA).fit(engine(frame))
    before = dict(vars(model))
    with pytest.raises(ValueError, match=re.escape(message)):
        model.fit(spoiled(engine(frame), column, value), **beside)
    assert vars(model) == before


def labels_of_each_dtype(frame):
    """Yield group columns of many dtypes, as pandas has them."""
    codes = frame["g"].str[1:].astype(int)
    yield "int64", codes
    yield "int16", codes.astype("int16")
    yield "float64", codes / 4
    yield "text", frame["g"]
    yield "boolean", codes > 12
    yield "category", frame["g"].astype("category")
    time = pd.Timestamp("2024-01-01") + pd.to_timedelta(codes, unit="D")
    yield "time", time
    yield "date", time.dt.date


def check_labels(engine, labels):
    """Predictions join the effects of groups by labels of any dtype."""
    frame = rows().assign(g=labels)
    model = PartialPoolingRegressor("y ~ x1 + (1 | g)").fit(engine(frame))
    assert len(model.groups_["g"]) == labels.nunique()
    found = in_memory(model.predict(engine(frame)))
    wanted = model.predict(frame[["g", "x1"]])
    np.testing.assert_allclose(found["prediction"], wanted, rtol=1e-12, atol=1e-13)
