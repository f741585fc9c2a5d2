"""Fits, predictions and errors of lazy frames by Polars and DuckDB."""

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hbsk import PartialPoolingRegressor

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
