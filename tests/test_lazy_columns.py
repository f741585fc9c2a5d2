"""Columns of the model by a lazy frame's engine: those of the design in memory, to the last bits."""

import datetime
import math
import re

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
import pytest

from hbsk._data.lazy import read_lazy_table
from hbsk._data.table import Table
from hbsk._model.formula import bind_columns
from hbsk._model.lazy_columns import lazy_columns
from hbsk._model.lazy_frame import specify_lazily
from hbsk._model.parser import parse_formula
from hbsk._model.specification import specify

from .engines_of_tests import ENGINES
from .lazy_frames import in_memory

N_ROWS = 120
EVERY_TERM = (
    "y ~ x1*c + c:k + b + `day of week` + np.log(x2) + log2(x2) + np.log10(x2) + exp(x1) + np.exp2(x1) + np.sqrt(x2)"
    " + np.abs(x1) + np.square(i) + np.reciprocal(x2) + np.sin(x1) + np.cos(x1) + np.floor(x2) + np.ceil(x2)"
    " + I(x1 > 0.5) + I(i == 3) + I(c == 'a') + I(x1**2) + I((x1 - 2) / x2 - i) + I(b * (x1 <= 0)) + I(-x1)"
    " + center(x2) + scale(i) + standardize(np.log(x2)) + scale(center(x1))"
    " + C(k, Sum) + C(i) + T(i, 3) + S(k) + C(x1 > 0) + C(b) + offset(x1 * 2) + (x1 + c | g)"
)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(4)
    return pd.DataFrame(
        {
            "row": np.arange(N_ROWS),
            "g": rng.integers(0, 9, N_ROWS),
            "x1": rng.normal(size=N_ROWS),
            "x2": rng.gamma(2, size=N_ROWS) + 1,
            "c": rng.choice(list("abc"), N_ROWS),
            "k": pd.Categorical(rng.choice(["u", "v"], N_ROWS)),
            "b": rng.random(N_ROWS) < 0.5,
            "i": rng.integers(1, 6, N_ROWS),
            "day of week": rng.integers(0, 7, N_ROWS).astype("int16"),
            "w": rng.integers(0, 4, N_ROWS),
        }
    )


def specified(text, lazy, sample_weight=None):
    table = read_lazy_table(lazy)
    return specify_lazily(bind_columns(parse_formula(text), table.names), table, sample_weight), table


def specified_in_memory(text, rows, sample_weight=None):
    table = Table({name: rows[name] for name in rows}, len(rows))
    return specify(bind_columns(parse_formula(text), table.names), table, sample_weight=sample_weight), table


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("weighted", [False, True])
def test_columns_are_those_of_the_design_in_memory(rows, engine, weighted):
    lazy, weight = ENGINES[engine](rows), None
    if weighted:  # rows of weight 0 are left out before
        lazy = nw.from_native(lazy).filter(nw.col("w") > 0).to_native()
        rows, weight = rows[rows["w"] > 0].reset_index(drop=True), nw.col("w").cast(nw.Float64)
    wanted, table = specified_in_memory(EVERY_TERM, rows, rows["w"].to_numpy(float) if weighted else None)
    (x, (z,), offset) = wanted.design(table).block(0, len(rows))
    specification, lazy_table = specified(EVERY_TERM, lazy, weight)
    assert specification.common_columns == wanted.common_columns
    assert specification.factors == wanted.factors
    columns = lazy_columns(specification.recipe, lazy_table.schema)
    named = {f"x{k}": each for k, each in enumerate(columns.common)}
    named |= {f"z{k}": each for k, each in enumerate(columns.varying[0])} | {"offset": columns.offset}
    found = in_memory(lazy_table.frame.select("row", **named), "row")
    # relative to 1 at least: the standardised ones subtract means that differ in the last bit
    np.testing.assert_allclose(found.filter(like="x"), x, rtol=1e-15, atol=1.5e-15)
    np.testing.assert_allclose(found.filter(like="z"), z, rtol=1e-15)
    np.testing.assert_allclose(found["offset"], offset, rtol=1e-15)


@pytest.mark.parametrize("engine", ENGINES)
def test_moments_are_exact_where_the_first_rows_are_far_from_the_mean(monkeypatch, engine):
    # of so few rows only first rows that are very few can be more than 100 sds off
    monkeypatch.setattr("hbsk._data.lazy.HEAD", 2)
    x = np.append([0.0, 0.0], 1e8 + np.random.default_rng(0).normal(size=30_000))
    specification, _ = specified("y ~ scale(x) + (1 | g)", ENGINES[engine](pd.DataFrame({"x": x, "g": 1})))
    (state,) = specification.recipe.states.values()
    assert state["mean"] == pytest.approx(math.fsum(x) / len(x), rel=1e-15)
    # one pass alone has 1e-12
    assert state["sd"] == pytest.approx(x.std(), rel=3e-14)


@pytest.mark.parametrize(
    "term", ["np.arctan(x1)", "poly(x1, 2)", "bs(x1, df=4)", "np.maximum(x1, x2)", "np.reciprocal(i)"]
)
def test_other_functions_are_refused_by_name(rows, term):
    said = (
        f"The term '{term}' cannot be computed by a lazy frame's engine; add it to the frame as a column before fit, "
        "or collect the frame."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        specified(f"y ~ {term} + (1 | g)", ENGINES["polars"](rows))


def test_the_whole_term_is_named_where_a_part_is_refused(rows):
    with pytest.raises(ValueError, match=r"The term 'I\(x2 \+ np.arctan\(x1\)\)' cannot be computed"):
        specified("y ~ I(x2 + np.arctan(x1)) + (1 | g)", ENGINES["polars"](rows))


def test_dates_are_refused(rows):
    dated = rows.assign(day=datetime.date(2024, 1, 1))
    with pytest.raises(TypeError, match=r"Column 'day' of the lazy frame has dtype Date.*number of days"):
        specified("y ~ day + (1 | g)", ENGINES["polars"](dated))


def test_a_constant_is_no_column(rows):
    with pytest.raises(ValueError, match="is one number, no column"):
        specified("y ~ np.log(2) + (1 | g)", ENGINES["polars"](rows))


def test_too_many_levels_are_refused(rows):
    many = pd.DataFrame({"c": [f"c{k}" for k in range(1001)], "g": 1})
    with pytest.raises(ValueError, match="'c' has more than 1000 levels"):
        specified("y ~ c + (1 | g)", ENGINES["polars"](many))
    assert len(specified("y ~ c + (1 | g)", ENGINES["polars"](many[1:]))[0].common_columns) == 1000


@pytest.mark.parametrize("engine", ENGINES)
def test_missing_levels_and_arguments_are_refused(rows, engine):
    missing = rows.assign(c=rows["c"].mask(rows["row"] == 5), x2=rows["x2"].mask(rows["row"] == 7))
    with pytest.raises(ValueError, match="categorical column 'c' has missing values"):
        specified("y ~ c + (1 | g)", ENGINES[engine](missing))
    with pytest.raises(ValueError, match=r"argument of 'center\(x2\)' .* null or not finite in 1 of 120 rows"):
        specified("y ~ center(x2) + (1 | g)", ENGINES[engine](missing))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_unknown_level_is_null_not_the_reference(rows, engine):
    specification, table = specified("y ~ c + (1 | g)", ENGINES[engine](rows))
    column = lazy_columns(specification.recipe, table.schema).common[1]
    later = read_lazy_table(ENGINES[engine](rows.assign(c=rows["c"].where(rows["row"] > 0, "other"))))
    found = in_memory(later.frame.select("row", b=column), "row")["b"]
    assert np.isnan(found[0])
    np.testing.assert_array_equal(found[1:], (rows["c"] == "b")[1:])
