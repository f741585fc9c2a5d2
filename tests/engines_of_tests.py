"""Lazy frames of the engines that the default tests ask: Polars and DuckDB."""

import duckdb
import narwhals.stable.v2 as nw
import pandas as pd
import polars as pl

# not DuckDB's own default; tables of two connections cannot be joined
CONNECTION = duckdb.connect()


def polars_frame(frame):
    """Return a data frame of pandas as a LazyFrame."""
    return pl.from_pandas(frame).lazy()


def duckdb_frame(frame):
    """Return a data frame of pandas as a relation."""
    texts = [name for name in frame if isinstance(frame[name].dtype, pd.StringDtype)]  # unknown to DuckDB 1.2
    return CONNECTION.from_df(frame.astype(dict.fromkeys(texts, object)))


ENGINES = {"polars": polars_frame, "duckdb": duckdb_frame}


def in_memory(lazy, order):
    """Return what a lazy frame computes as a data frame of pandas, its rows sorted by a column."""
    query = nw.from_native(lazy)
    rows = query.collect() if query.implementation.is_polars() else query.collect(backend="pandas")
    return rows.to_pandas().sort_values(order, ignore_index=True)
