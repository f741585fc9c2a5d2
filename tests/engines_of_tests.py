"""Lazy frames of the engines that the default tests ask: Polars and DuckDB."""

import duckdb
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
