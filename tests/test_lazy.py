"""Fits, predictions and errors of lazy frames by Polars and DuckDB."""

import pickle
import subprocess
import sys
import threading
from contextlib import nullcontext

import duckdb
import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest

from hbsk import PartialPoolingRegressor, from_json, to_json
from hbsk.exceptions import LabelMismatchWarning, NoGroupsWarning

from . import lazy_frames
from .engines_of_tests import CONNECTION, ENGINES
from .lazy_frames import BAD_ROWS, BESIDE, FORMULA, fit_in_memory, in_memory, require_same_fit, rows

by_engine = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)


@by_engine
@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_a_fit_of_the_engines_sums_is_the_fit_of_the_rows(engine, beside):
    lazy_frames.check_fit(engine, beside)


@by_engine
def test_columns_far_from_zero_keep_their_digits(engine):
    lazy_frames.check_fit(engine, BESIDE["weight"], shift=1e8)


@by_engine
@pytest.mark.parametrize(("column", "value", "beside", "message"), BAD_ROWS)
def test_one_bad_row_raises_and_a_former_fit_stays_whole(engine, column, value, beside, message):
    lazy_frames.check_bad_row(engine, column, value, beside, message)


@by_engine
@pytest.mark.parametrize("dtype", [name for name, _ in lazy_frames.labels_of_each_dtype(rows())])
def test_predictions_join_by_labels_of_any_dtype(engine, dtype):
    lazy_frames.check_labels(engine, dict(lazy_frames.labels_of_each_dtype(rows()))[dtype])


# --------------------------------------------------------------------------------------------------------------------
# Which column is what


@by_engine
def test_without_a_formula_features_are_all_other_columns(engine):
    frame = rows()[["g", "x1", "x2", "y", "n", "se"]].assign(town=lambda f: np.where(f["x2"] > 0, "b", "a"))
    model = PartialPoolingRegressor(group_features="g", slope_features=["x1"])
    found = model.fit(engine(frame), "y", sample_weight="n", standard_error="se")
    assert found.formula_ == "y ~ x1 + x2 + town + (x1 | g)"
    assert found.feature_names_in_.tolist() == ["g", "x1", "x2", "town"]
    assert found.n_features_in_ == 4
    wanted = PartialPoolingRegressor(group_features=0, slope_features=["x1"]).fit(
        frame[["g", "x1", "x2", "town"]], frame["y"], sample_weight=frame["n"], standard_error=frame["se"]
    )
    np.testing.assert_allclose(found.coef_, wanted.coef_, rtol=1e-12)


def test_with_a_formula_only_the_columns_it_names_are_read():
    frame = rows().assign(day=pd.Timestamp("2024-01-01"), bad=np.nan)
    model = PartialPoolingRegressor(FORMULA).fit(ENGINES["polars"](frame))
    assert model.feature_names_in_.tolist() == ["g", "x1", "x2", "x3"]


@by_engine
def test_a_formula_of_transforms_and_categories_fits_alike(engine):
    frame = rows().assign(town=lambda f: np.array(list("abc"), dtype=object)[f["fold"] % 3])
    formula = "y ~ scale(x1)*town + np.exp(x2) + offset(0.5 * x3) + (0 + town || g)"
    wanted = PartialPoolingRegressor(formula).fit(frame.drop(columns="y"), frame["y"], sample_weight=frame["n"])
    found = PartialPoolingRegressor(formula).fit(engine(frame), sample_weight="n")
    require_same_fit(found, wanted, 3e-12)
    lazy_frames.check_prediction_of(engine, wanted, frame)


@pytest.mark.parametrize("formula", ["y ~ 0 + x1 + (x1 | g)", "y ~ x1 + (0 + x1 | g)", "y ~ x1 + x2"])
def test_models_without_one_of_the_intercepts_fit_alike(formula):
    frame = rows(shift=3.0)
    with pytest.warns(NoGroupsWarning) if "|" not in formula else nullcontext():
        wanted = PartialPoolingRegressor(formula).fit(frame.drop(columns="y"), frame["y"], standard_error=frame["se"])
        found = PartialPoolingRegressor(formula).fit(ENGINES["polars"](frame), standard_error="se")
    np.testing.assert_allclose(found.coef_, wanted.coef_, rtol=1e-12, atol=1e-12)
    mean, std = wanted.predict(frame.drop(columns="y"), return_std=True, standard_error=frame["se"])
    predicted = in_memory(found.predict(ENGINES["polars"](frame), return_std=True, standard_error="se"))
    np.testing.assert_allclose(predicted["prediction"], mean, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(predicted["prediction_std"], std, rtol=1e-11)


@pytest.mark.parametrize("pooling", ["complete", "none"])
def test_other_poolings_fit_and_predict_alike(pooling):
    frame = rows()
    wanted = fit_in_memory(PartialPoolingRegressor(FORMULA, pooling=pooling), frame)
    found = PartialPoolingRegressor(FORMULA, pooling=pooling).fit(ENGINES["polars"](frame))
    np.testing.assert_allclose(found.coef_, wanted.coef_, rtol=1e-12)
    np.testing.assert_array_equal(found.groups_["g"], wanted.groups_["g"])
    new = frame.assign(g=frame["g"].mask(frame["row"] < 40, "unseen"))
    predicted = in_memory(found.predict(ENGINES["polars"](new)))
    np.testing.assert_allclose(predicted["prediction"], wanted.predict(new[["g", "x1", "x2", "x3"]]), rtol=1e-11)


def test_labels_of_two_columns_are_one_factor():
    frame = rows().assign(h=lambda f: f["fold"])
    formula = "y ~ x1 + (1 | g:h)"
    wanted = PartialPoolingRegressor(formula).fit(frame[["g", "h", "x1"]], frame["y"])
    found = PartialPoolingRegressor(formula).fit(ENGINES["polars"](frame))
    assert found.groups_["g:h"].tolist() == wanted.groups_["g:h"].tolist()
    predicted = in_memory(found.predict(ENGINES["polars"](frame)))
    np.testing.assert_allclose(predicted["prediction"], wanted.predict(frame[["g", "h", "x1"]]), rtol=1e-11)


def test_many_common_columns_fit_alike(capsys):
    rng = np.random.default_rng(0)
    frame = rows().join(pd.DataFrame(rng.normal(size=(1500, 12)), columns=[f"z{k}" for k in range(12)]))
    formula = f"y ~ {' + '.join(f'z{k}' for k in range(12))} + (1 | g)"
    found = PartialPoolingRegressor(formula, verbose=1).fit(ENGINES["polars"](frame), sample_weight="n")
    asked = capsys.readouterr().out
    assert "sums by group: 30 rows in" in asked
    assert "sums of all rows: 1 rows in" in asked
    wanted = PartialPoolingRegressor(formula).fit(frame.drop(columns="y"), frame["y"], sample_weight=frame["n"])
    np.testing.assert_allclose(found.coef_, wanted.coef_, rtol=1e-11, atol=1e-12)


# --------------------------------------------------------------------------------------------------------------------
# First rows that say little


def test_sorted_rows_fit_alike():
    frame = rows().sort_values(["g", "x1"])
    require_same_fit(
        PartialPoolingRegressor(FORMULA).fit(ENGINES["duckdb"](frame)),
        fit_in_memory(PartialPoolingRegressor(FORMULA), frame),
    )


def test_a_second_pass_saves_the_digits_that_a_far_centre_costs(monkeypatch, capsys):
    # of so few rows only first rows that are very few can be more than 100 sds off
    monkeypatch.setattr("hbsk._data.lazy.HEAD", 1)
    rng = np.random.default_rng(1)
    n = 40_000
    frame = pd.DataFrame({"x": 1e8 + rng.normal(size=n), "g": rng.integers(0, 20, n), "y": rng.normal(size=n)})
    frame.loc[0, "x"] = 0.0
    model = PartialPoolingRegressor("y ~ x + (x | g)", verbose=1)
    far = model.collect(ENGINES["polars"](frame))
    asked = capsys.readouterr().out
    assert (asked.count("sums of all rows"), asked.count("sums by group")) == (2, 1)
    monkeypatch.setattr("hbsk._data.lazy.HEAD", 1000)
    near = model.collect(ENGINES["polars"](frame))
    asked = capsys.readouterr().out
    assert (asked.count("sums of all rows"), asked.count("sums by group")) == (1, 1)
    for name in ("x_sd", "y_sd", "x_mean"):
        np.testing.assert_allclose(
            getattr(far.collected.moments, name), getattr(near.collected.moments, name), rtol=1e-13
        )


# --------------------------------------------------------------------------------------------------------------------
# What is asked for, and what comes back


def test_few_rows_come_back_and_none_in_predict(monkeypatch):
    came = []
    collect = pl.LazyFrame.collect

    def counted(self, *args, **kwargs):
        found = collect(self, *args, **kwargs)
        came.append(len(found))
        return found

    frame = rows()
    lazy = ENGINES["polars"](frame)
    model = PartialPoolingRegressor(FORMULA)
    with monkeypatch.context() as patched:
        patched.setattr(pl.LazyFrame, "collect", counted)
        model.fit(lazy)
        assert came == [1000, 1, lazy_frames.N_GROUPS]
        came.clear()
        predicted = model.predict(lazy, return_std=True)
        assert came == []
    assert len(predicted.collect()) == len(frame)


def test_a_line_for_each_query_with_its_sql(capsys):
    model = PartialPoolingRegressor(FORMULA, verbose=1).fit(ENGINES["duckdb"](rows()))
    first, overall, sums = capsys.readouterr().out.splitlines()
    assert first.startswith("hbsk: first rows: 1,000 rows in 0.")
    assert overall.startswith("hbsk: sums of all rows: 1 rows in ")
    assert sums.startswith("hbsk: sums by group: 30 rows in ")
    assert "GROUP BY" in sums
    model.set_params(verbose=0).predict(ENGINES["duckdb"](rows()))
    assert capsys.readouterr().out == ""


def test_frames_of_narwhals_stay_frames_of_narwhals():
    lazy = nw.from_native(ENGINES["polars"](rows()))
    model = PartialPoolingRegressor(FORMULA).fit(lazy)
    assert isinstance(model.predict(lazy), nw.LazyFrame)


def test_in_memory_and_lazy_predictions_follow_either_fit():
    frame = rows()
    features = frame[["g", "x1", "x2", "x3"]]
    lazily = PartialPoolingRegressor(FORMULA).fit(ENGINES["duckdb"](frame))
    wanted = fit_in_memory(PartialPoolingRegressor(FORMULA), frame).predict(features)
    np.testing.assert_allclose(lazily.predict(features), wanted, rtol=1e-12, atol=1e-12)
    found = in_memory(lazily.predict(ENGINES["polars"](frame)))
    np.testing.assert_allclose(found["prediction"], wanted, rtol=1e-12, atol=1e-12)
    # rows that were collected have the table's columns, in its order
    collected = [frame[["y", "x3", "x2", "n", "x1", "g"]], pl.from_pandas(frame)]
    of_sums = PartialPoolingRegressor(FORMULA).fit(lazily.collect(ENGINES["polars"](frame)))
    for model in (lazily, pickle.loads(pickle.dumps(of_sums)), from_json(to_json(of_sums))):
        for rows_again in collected:
            np.testing.assert_allclose(model.predict(rows_again), wanted, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="yet now missing:\n- x2"):
        lazily.predict_interval(frame.drop(columns="x2"))
    with pytest.raises(ValueError, match="unseen at fit time"):
        fit_in_memory(PartialPoolingRegressor(FORMULA), frame).predict(frame)


def test_dates_are_dates_by_every_engine():
    frame = rows()
    frame["g"] = (pd.Timestamp("2024-01-01") + pd.to_timedelta(frame["g"].str[1:].astype(int), unit="D")).dt.date
    model = PartialPoolingRegressor("y ~ x1 + (1 | g)")
    sums = [model.collect(engine(frame)) for engine in ENGINES.values()]
    assert list(sums[0].groups["g"]) == list(sums[1].groups["g"]) == sorted(frame["g"].unique())
    assert (sums[0] + sums[1]).counts["g"].sum() == 2 * len(frame)
    wanted = model.fit(frame[["g", "x1"]], frame["y"]).predict(frame[["g", "x1"]])
    np.testing.assert_allclose(model.fit(sums[1]).predict(frame[["g", "x1"]]), wanted, rtol=1e-12, atol=1e-12)


def test_predictions_of_polars_keep_the_order_of_the_rows():
    lazy = ENGINES["polars"](pd.concat([rows()] * 50).assign(row=lambda frame: np.arange(len(frame))))
    for collected in ({}, {"engine": "streaming"}):
        predicted = PartialPoolingRegressor(FORMULA).fit(lazy).predict(lazy, return_std=True).collect(**collected)
        assert (predicted["row"] == np.arange(len(predicted))).all()


# --------------------------------------------------------------------------------------------------------------------
# Groups and levels that fit has not seen


@by_engine
def test_unknown_groups_are_nan_or_an_error_where_asked(engine):
    frame = rows()
    model = PartialPoolingRegressor(FORMULA, unknown_groups="nan").fit(engine(frame))
    new = engine(frame.assign(g=frame["g"].mask(frame["row"] < 3, "unseen").mask(frame["row"] == 3, "other")))
    found = in_memory(model.predict(new, return_std=True))
    assert found["prediction"].isna().tolist() == (found["row"] < 4).tolist()
    assert found["prediction_std"].isna().tolist() == (found["row"] < 4).tolist()
    with pytest.raises(ValueError, match="of 1500 rows of the lazy frame 4 have"):
        model.score(new)
    with pytest.raises(ValueError, match=r"groups of 'g' not seen in fit: ('unseen', 'other'|'other', 'unseen')"):
        model.set_params(unknown_groups="error").predict(new)
    in_memory(model.predict(engine(frame)))


def test_the_populations_line_looks_at_no_labels():
    frame = rows()
    priors = {"x1|g": ("Normal", {"mu": 0.4, "sigma": ("HalfNormal", {"sigma": 1})})}
    model = PartialPoolingRegressor("y ~ x2 + (x1 | g)", priors=priors).fit(ENGINES["polars"](frame))
    mean, std = model.predict(frame[["g", "x1", "x2"]], return_std=True, include_groups=False)
    lazy = ENGINES["polars"](frame.drop(columns="g"))
    found = in_memory(model.predict(lazy, return_std=True, include_groups=False))
    np.testing.assert_allclose(found["prediction"], mean, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found["prediction_std"], std, rtol=1e-13)
    with pytest.raises(ValueError, match="pooling='none' there is none"):
        PartialPoolingRegressor(FORMULA, pooling="none").fit(ENGINES["polars"](frame)).predict(
            lazy, include_groups=False
        )


def test_labels_that_equal_none_of_a_column_are_unknown():
    frame = rows()
    numbered = frame.assign(g=frame["g"].str[1:].astype(int))
    text = PartialPoolingRegressor("y ~ (1 | g)").fit(ENGINES["polars"](frame))
    said = "Group column 'g' of X: no label of fit, such as 's000', 's001', 's002', can be in .* dtype is 'Int64'"
    with pytest.warns(LabelMismatchWarning, match=said):
        found = in_memory(text.predict(ENGINES["polars"](numbered)))["prediction"]
    np.testing.assert_allclose(found, text.intercept_, rtol=1e-12)
    halves = PartialPoolingRegressor("y ~ (1 | g)").fit(ENGINES["polars"](numbered.assign(g=numbered["g"] / 2)))
    found = in_memory(halves.predict(ENGINES["polars"](numbered)))["prediction"]
    np.testing.assert_allclose(found, halves.predict(numbered[["g"]].astype(float)), rtol=1e-12, atol=1e-14)


def test_labels_of_a_type_that_narwhals_does_not_know_are_joined():
    lazy = ENGINES["duckdb"](rows()).project("md5(g)::UUID AS g, row, x1, y")
    model = PartialPoolingRegressor("y ~ x1 + (1 | g)").fit(lazy)
    frame = lazy.df()
    found = in_memory(model.predict(lazy))["prediction"]
    np.testing.assert_allclose(found, model.predict(frame[["g", "x1"]]), rtol=1e-13, atol=1e-13)


def test_an_unknown_level_is_null_in_predict():
    frame = rows().assign(town=lambda f: np.where(f["x2"] > 0, "b", "a"))
    model = PartialPoolingRegressor("y ~ town + (1 | g)").fit(ENGINES["polars"](frame))
    found = in_memory(model.predict(ENGINES["polars"](frame.assign(town="c").head(5))))
    assert found["prediction"].isna().all()


# --------------------------------------------------------------------------------------------------------------------
# Sums of several frames


def test_chunks_of_any_engine_are_one_fit():
    frame = rows().assign(town=lambda f: np.array(list("abc"), dtype=object)[f["fold"] % 3])
    formula = "y ~ scale(x1) + town + (1 | g)"
    parts = [frame[frame["row"] % 3 == k] for k in range(3)]
    model = PartialPoolingRegressor(formula)
    model.partial_fit(ENGINES["polars"](parts[0])).partial_fit(ENGINES["duckdb"](parts[1]))
    model.partial_fit(parts[2][model.feature_names_in_], parts[2]["y"])
    first = PartialPoolingRegressor(formula).collect(parts[0].drop(columns="y"), parts[0]["y"])
    wanted = PartialPoolingRegressor(formula).collect(frame.drop(columns="y"), frame["y"], like=first)
    require_same_fit(model, PartialPoolingRegressor(formula).fit(wanted), 1e-11)


def test_levels_that_earlier_sums_do_not_know_are_counted():
    frame = rows().assign(town=lambda f: np.where(f["x2"] > 0, "b", "a"))
    model = PartialPoolingRegressor("y ~ town + (1 | g)").fit(ENGINES["polars"](frame))
    before = dict(vars(model))
    with pytest.raises(ValueError, match="2 have a level of 'town' that the model does not know"):
        model.partial_fit(ENGINES["polars"](frame.assign(town=frame["town"].mask(frame["row"] < 2, "c"))))
    assert vars(model) == before


def test_declared_levels_count_in_sums_and_observed_ones_in_a_fit():
    lazy = ENGINES["polars"](rows()).with_columns(town=pl.lit("a").cast(pl.Enum(["b", "a", "c"])))
    lazy = lazy.with_columns(
        town=pl.when(pl.col("x2") > 0).then(pl.lit("b", pl.Enum(["b", "a", "c"]))).otherwise("town")
    )
    model = PartialPoolingRegressor("y ~ town + (1 | g)")
    assert model.fit(lazy).coef_names_ == ["town[b]"]
    assert model.collect(lazy).frame.specification.common_columns == ("Intercept", "town[b]", "town[c]")


def test_levels_of_an_enum_of_duckdb_have_the_order_that_they_have_in_memory():
    levels = "ENUM ('low', 'middle', 'high')"
    lazy = ENGINES["duckdb"](rows()).project(f"g, y, ['middle', 'high', 'low'][fold % 3 + 1]::{levels} AS town")
    frame = lazy.df()
    model = PartialPoolingRegressor("y ~ town + (1 | g)")
    assert model.fit(lazy).coef_names_ == ["town[middle]", "town[high]"]
    assert model.fit(frame[["g", "town"]], frame["y"]).coef_names_ == ["town[middle]", "town[high]"]


# --------------------------------------------------------------------------------------------------------------------
# Errors that name what to do


@pytest.mark.parametrize(
    ("parameters", "arguments", "error", "message"),
    [
        ({"formula": FORMULA}, {"y": "x1"}, ValueError, "y='x1' was given, and formula=.* names 'y'"),
        ({"group_features": "g"}, {}, ValueError, "y of a lazy frame is the name of one of its columns"),
        ({"group_features": "g"}, {"y": "z"}, ValueError, "y='z' is no column of the lazy frame, whose columns are"),
        ({"group_features": "g"}, {"y": "g"}, TypeError, "y='g' has dtype String in the lazy frame; it must hold numb"),
        ({"formula": FORMULA}, {"y": np.zeros(3)}, TypeError, "y of a lazy frame is the name of one of its columns"),
        ({"formula": FORMULA}, {"sample_weight": np.ones(3)}, TypeError, "sample_weight of a lazy frame is the name"),
        ({"formula": FORMULA}, {"groups": ["a"]}, ValueError, "groups= cannot be given with a lazy frame"),
        ({"formula": "y ~ (1 | g) + (1 | fold)"}, {}, ValueError, "one grouping factor from a lazy frame"),
        ({"formula": FORMULA, "inference": "nuts"}, {}, ValueError, "inference='nuts' takes rows"),
        ({"formula": "y ~ poly(x1, 2) + (1 | g)"}, {}, ValueError, "cannot be computed by a lazy frame's engine"),
        ({"formula": "y ~ x9 + (1 | g)"}, {}, ValueError, "X has no column 'x9'"),
    ],
)
def test_what_a_lazy_fit_refuses(parameters, arguments, error, message):
    with pytest.raises(error, match=message):
        PartialPoolingRegressor(**parameters).fit(ENGINES["polars"](rows()), **arguments)


def test_what_predictions_refuse():
    lazy = ENGINES["polars"](rows())
    model = PartialPoolingRegressor(FORMULA).fit(lazy)
    with pytest.raises(ValueError, match="has a column 'prediction' already"):
        model.predict(lazy.with_columns(prediction=1.0))
    with pytest.raises(ValueError, match="'Prediction' already, which predict would add 'prediction', and its engine"):
        model.predict(ENGINES["duckdb"](rows().assign(Prediction=1.0)))
    model.predict(lazy.with_columns(Prediction=1.0))
    with pytest.raises(ValueError, match="no column 'x1', which the model reads"):
        model.predict(lazy.drop("x1"))
    with pytest.raises(ValueError, match="labels of 'g' are in the column 'g', which the lazy frame does not have"):
        model.predict(lazy.drop("g"))
    with pytest.raises(TypeError, match="predict_interval takes rows in memory, and X is a lazy frame"):
        model.predict_interval(lazy)
    with pytest.raises(TypeError, match="sample_y takes rows in memory, and X is a lazy frame"):
        model.sample_y(lazy)
    none = PartialPoolingRegressor(FORMULA, pooling="none").fit(lazy)
    with pytest.raises(ValueError, match='return_std=True with pooling="none"'):
        none.predict(lazy, return_std=True)
    crossed = PartialPoolingRegressor("y ~ (1 | g) + (1 | fold)").fit(rows().drop(columns="y"), rows()["y"])
    with pytest.raises(ValueError, match="this one has several grouping factors"):
        crossed.predict(lazy)


def test_integers_with_more_digits_than_floats_are_refused():
    lazy = ENGINES["polars"](rows())
    near = pl.col("row") + 2**60
    with pytest.raises(ValueError, match=r"Column 'x1' of X holds integers near 1.15.*Subtract a number first"):
        PartialPoolingRegressor(FORMULA).fit(lazy.with_columns(x1=near))
    with pytest.raises(ValueError, match="y holds integers near"):
        PartialPoolingRegressor(FORMULA).fit(lazy.with_columns(y=near))
    PartialPoolingRegressor(FORMULA).fit(lazy.with_columns(x1=pl.col("row")))


def test_rows_in_memory_still_need_y():
    with pytest.raises(ValueError, match="estimator requires y to be passed, but the target y is None"):
        PartialPoolingRegressor(FORMULA).fit(rows().drop(columns="y"))


@pytest.mark.parametrize("rows", ["range(3000) WHERE random() < 0.5", "range(3000)"])
def test_rows_that_change_between_queries_are_refused(rows):
    lazy = CONNECTION.sql(f"SELECT range % 7 AS g, random() AS x, cos(range) AS y FROM {rows}")
    model = PartialPoolingRegressor("y ~ x + (1 | g)")
    with pytest.raises(ValueError, match="rows of the lazy frame changed from one query to the next"):
        model.fit(lazy)
    model.fit(ENGINES["duckdb"](lazy.df()))


def test_an_empty_frame_is_refused():
    lazy = ENGINES["polars"](rows())
    with pytest.raises(ValueError, match="The lazy frame has no rows, while a minimum of 2"):
        PartialPoolingRegressor(FORMULA).fit(lazy.filter(pl.col("x1") > 99))
    with pytest.raises(ValueError, match="no row with a sample_weight above 0"):
        PartialPoolingRegressor(FORMULA).fit(lazy.with_columns(n=0.0), sample_weight="n")


def test_an_error_of_the_engine_reaches_the_user_and_a_former_fit_stays():
    frame = rows()
    model = PartialPoolingRegressor(FORMULA).fit(ENGINES["duckdb"](frame))
    before = dict(vars(model))
    broken = ENGINES["duckdb"](frame).project(
        "* replace (CASE WHEN row = 1400 THEN error('worker lost') ELSE y END AS y)"
    )
    with pytest.raises(Exception, match="worker lost"):
        model.fit(broken)
    assert vars(model) == before


def test_an_interrupted_query_is_an_error_and_a_former_fit_stays():
    model = PartialPoolingRegressor("y ~ x + (1 | g)")
    few, many = (
        CONNECTION.sql(f"SELECT range % 7 AS g, sin(range) AS x, cos(range * 3 + g) AS y FROM range({n})")
        for n in (1000, 10**10)
    )
    before = dict(vars(model.fit(few)))
    timer = threading.Timer(0.3, CONNECTION.interrupt)
    timer.start()
    with pytest.raises(duckdb.InterruptException):
        model.fit(many)
    timer.join()
    assert vars(model) == before
    model.fit(few)


def test_nothing_is_imported_but_the_frames_engine():
    code = """
import sys
sys.modules["pyarrow"] = None  # not installed
import duckdb, hbsk
rows = duckdb.sql("SELECT range % 7 || 'a' AS g, sin(range) AS x, cos(range) AS y FROM range(100)")
model = hbsk.PartialPoolingRegressor("y ~ x + (1 | g)").fit(rows)
assert len(model.predict(rows, return_std=True).fetchall()) == 100
model.score(rows)
assert not {"polars", "dask", "pyspark", "ibis", "bambi", "pymc"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
