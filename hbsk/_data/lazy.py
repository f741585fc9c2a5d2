"""Frames whose rows are not in memory: DuckDB, Polars, Dask, Spark, Ibis, through narwhals and its owner's engine.

Nothing is imported here that the frame's owner has not imported: an engine is found by the frame.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd

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
        is_polars = query.implementation.is_polars()
        # pandas is here anyway, and what DuckDB needs for it; pyarrow may not be
        rows = query.collect(engine="streaming") if is_polars else query.collect(backend="pandas")
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


def as_numbers(rows: nw.DataFrame, name: str) -> np.ndarray:
    """Return a column of what came back as float64; missing values are NaN."""
    return rows.get_column(name).cast(nw.Float64).to_numpy().astype(np.float64, copy=False)


# ---------------------------------------------------------------------------------------------------------------------
# Means and sds about a centre


def first_centre(table: LazyTable, columns: Mapping[str, nw.Expr]) -> np.ndarray:
    """Return the means of the first rows, those of them that are finite."""
    head = table.ask("first rows", table.frame.head(HEAD).select(**columns))
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
