"""Frames whose rows are not in memory: DuckDB, Polars, Dask, Spark, Ibis, through narwhals and its owner's engine.

Nothing is imported here that the frame's owner has not imported: an engine is found by the frame.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from types import MappingProxyType
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd

from hbsk._data.checks import check_digits
from hbsk._data.table import Table, frame_columns
from hbsk._messages import quoted

# Rows whose means are the first centre of sums.
HEAD = 1000
# Distance of a centre from the mean, in sds, beyond which sums are asked for again: it costs 4 of 16 digits.
FAR = 100.0


def is_lazy(values: Any) -> bool:
    """Tell whether values are a table of an engine that narwhals asks lazily."""
    if isinstance(values, np.ndarray | pd.DataFrame | list):
        return False
    return isinstance(nw.from_native(values, pass_through=True), nw.LazyFrame)


@dataclass(frozen=True)
class LazyTable:
    """A lazy frame, and how to ask its engine.

    Attributes
    ----------
    frame : narwhals LazyFrame
    schema : mapping of str to narwhals dtype
    verbose : int
        Above 0 every query prints a line.
    """

    frame: nw.LazyFrame
    schema: Mapping[str, Any]
    verbose: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self.schema)

    def ask(self, purpose: str, query: nw.LazyFrame) -> nw.DataFrame:
        """Let the engine compute a query, whose rows come into memory."""
        start = perf_counter()
        if query.implementation.is_polars():
            rows = query.collect(engine="streaming")
        else:
            with _pandas_for_spark():
                # pandas is here anyway, and what DuckDB needs for it; pyarrow may not be
                rows = _with_dates(query.collect(backend="pandas"), query.collect_schema())
        if self.verbose:
            line = f"hbsk: {purpose}: {len(rows):,} rows in {perf_counter() - start:.2f} s"
            print(": ".join(filter(None, [line, _sql(query)])))  # noqa: T201 - what verbose=1 asks for
        return rows

    def where(self, condition: nw.Expr) -> LazyTable:
        """Keep the rows where a condition holds."""
        return replace(self, frame=self.frame.filter(condition))


def read_lazy_table(X: Any, verbose: Any = 0) -> LazyTable:
    """Read a frame of any engine; no row is looked at."""
    frame = nw.from_native(X)
    return LazyTable(frame, dict(frame.collect_schema()), int(verbose))


def _with_dates(rows: nw.DataFrame, schema: Mapping[str, Any]) -> nw.DataFrame:
    """Return rows in pandas, which knows no dates and gives midnights for them, with the dates that the engine has."""
    dates = [name for name, dtype in schema.items() if dtype == nw.Date]
    if not dates:
        return rows
    frame = rows.to_native()
    return nw.from_native(frame.assign(**{name: pd.to_datetime(frame[name]).dt.date for name in dates}))


@contextmanager
def _pandas_for_spark() -> Iterator[None]:
    """Keep back what PySpark warns of whenever a frame of pandas 3 crosses to or from it.

    The few columns that do are tested. To be removed when PySpark supports pandas 3.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
        yield


def _sql(query: nw.LazyFrame) -> str:
    """Return the SQL of a query in one line, where its engine has one."""
    native = query.to_native()
    if query.implementation.is_duckdb():
        text = native.sql_query()
    elif query.implementation.is_ibis():
        text = str(sys.modules["ibis"].to_sql(native))
    else:
        return ""
    return " ".join(text.split())


def require_column(table: LazyTable, name: Any, argument: str) -> str:
    """Return the name of a column that an argument gives, or say that it is none.

    Parameters
    ----------
    table : LazyTable
    name : str
        As given by the user.
    argument : str
        What was given, for messages.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"{argument} of a lazy frame is the name of one of its columns (str), got {type(name).__name__}."
        )
    if name not in table.schema:
        raise ValueError(
            f"{argument}={name!r} is no column of the lazy frame, whose columns are {quoted(table.names)}."
        )
    return name


def require_numbers(table: LazyTable, name: Any, argument: str) -> str:
    """Return the name of a column of numbers; see `require_column`."""
    name = require_column(table, name, argument)
    dtype = table.schema[name]
    if not (dtype.is_numeric() or dtype == nw.Boolean):
        raise TypeError(f"{argument}={name!r} has dtype {dtype} in the lazy frame; it must hold numbers.")
    return name


def as_numbers(rows: nw.DataFrame, name: str) -> np.ndarray:
    """Return a column of what came back as float64; missing values are NaN."""
    return rows.get_column(name).cast(nw.Float64).to_numpy().astype(np.float64, copy=False)


def as_table(rows: nw.DataFrame) -> Table:
    """Return what came back as a table in memory, for columns such as labels of groups."""
    return Table(frame_columns(rows.to_native(), rows.columns), len(rows))


# ---------------------------------------------------------------------------------------------------------------------
# Means and sds about a centre


def first_centre(table: LazyTable, columns: Mapping[str, nw.Expr], integers: Mapping[str, str] = MappingProxyType({})):
    """Return the means of the first rows, those of them that are finite.

    Parameters
    ----------
    table : LazyTable
    columns : mapping of str to Expr
    integers : mapping of str to str, optional
        Columns of integers that are taken as floats, by what to call them: an error says where these lose digits.

    Returns
    -------
    centre : ndarray of shape (n_columns,)
    """
    raw = {f"i{k}": nw.col(name) for k, name in enumerate(integers.values())}
    head = table.ask("first rows", table.frame.head(HEAD).select(**columns, **raw))
    for name, what in zip(raw, integers, strict=True):
        check_digits(head.get_column(name).drop_nulls().to_numpy(), what)
    centre = np.zeros(len(columns))
    for k, name in enumerate(columns):
        values = as_numbers(head, name)
        values = values[np.isfinite(values)]
        centre[k] = values.mean() if len(values) else 0.0
    return np.where(np.isfinite(centre), centre, 0.0)


def is_far(centre: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Tell which columns have lost digits, since the centre of their sums was far from their mean.

    A constant column has nothing to lose.
    """
    shift = np.abs(mean - centre)
    return (shift > FAR * sd) & (shift > 1e-12 * np.abs(centre))


# ---------------------------------------------------------------------------------------------------------------------
# A table of groups beside the rows


def small_frame(columns: Mapping[str, Any], like: nw.LazyFrame) -> nw.LazyFrame:
    """Return columns in memory as a lazy frame of the same engine, connection and session as another.

    Parameters
    ----------
    columns : mapping of str to array or list
    like : narwhals LazyFrame

    Raises
    ------
    TypeError
        For an engine that we do not know.
    """
    native, engine = like.to_native(), like.implementation
    if engine.is_polars():
        return nw.from_native(sys.modules["polars"].DataFrame(dict(columns)).lazy())
    of_groups = pd.DataFrame({name: _native(values) for name, values in columns.items()})
    if engine.is_duckdb():
        # tables of two connections cannot be joined: this one is found by its name in this function
        return nw.from_native(native.query("_hbsk_rows", "SELECT * FROM of_groups"))
    if engine.is_dask():
        return nw.from_native(sys.modules["dask.dataframe"].from_pandas(of_groups, npartitions=1))
    if engine.is_ibis():
        return nw.from_native(sys.modules["ibis"].memtable(of_groups))
    if engine.is_spark_like() and hasattr(native, "sparkSession"):
        with _pandas_for_spark():
            return nw.from_native(native.sparkSession.createDataFrame(of_groups))
    raise TypeError(
        f"Frames of {engine} cannot be joined with the effects of groups. Accepted are those of Polars, DuckDB, Dask, "
        "PySpark and Ibis."
    )


def left_joined(frame: nw.LazyFrame, small: nw.LazyFrame, left_on: list[str], right_on: list[str]) -> nw.LazyFrame:
    """Return rows with what a small frame has beside their keys; those of Polars keep their order."""
    if not frame.implementation.is_polars():
        return frame.join(small, left_on=left_on, right_on=right_on, how="left")
    native = frame.to_native(), small.to_native()
    keys = {"left_on": left_on, "right_on": right_on}
    return nw.from_native(native[0].join(native[1], **keys, how="left", maintain_order="left"))


def _native(values: Any) -> pd.Series:
    """Return a column of pandas; text as objects, which every version of every engine takes."""
    is_text = isinstance(values, list) and values and isinstance(values[0], str)
    return pd.Series(values, dtype=object) if is_text else pd.Series(values)
