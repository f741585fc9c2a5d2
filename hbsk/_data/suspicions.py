"""Input that is read as documented and most likely was not meant so: weights, order of rows, groups of one row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from hbsk._data.table import Table
from hbsk._messages import warn
from hbsk.exceptions import ManyLevelsWarning, RowOrderWarning, ShrinkageWarning, SuspiciousWeightsWarning

# Copies of rows come to less than this share of the rows only where weights are shares of a whole.
FEWEST_COPIES = 0.1
# Fractions of copies do not come by the dozen; nor is every row there the same thousands of times.
MOST_FRACTIONAL_COPIES, MOST_EQUAL_COPIES = 10.0, 1000.0
LARGEST_VALUE = 1e75
# Fewer levels are a category, however few the rows.
FEWEST_MANY_LEVELS = 20


def warn_of_weights(weights: np.ndarray) -> None:
    """Warn where weights cannot well be numbers of copies: shares that add up to 1, or large numbers with fractions.

    Whole numbers that differ are counts, however large. Others have a mean near 1 where they say how much each row
    counts.

    Parameters
    ----------
    weights : ndarray of shape (n_rows,)
        Checked weights, 0 or more.
    """
    weights = weights[weights > 0]
    n_rows, total = len(weights), float(weights.sum())
    mean = total / n_rows
    equal = weights.max() == weights.min()
    if not equal and np.array_equal(weights, np.floor(weights)):
        return
    if mean > LARGEST_VALUE:
        return  # whose sums are no numbers, which is an error
    few = n_rows > 1 and (mean < FEWEST_COPIES or abs(total - 1) < 1e-6)
    if few or mean > (MOST_EQUAL_COPIES if equal else MOST_FRACTIONAL_COPIES):
        warn(
            f"sample_weight is a number of copies of each row, and these weights add up to {total:.6g} for {n_rows} "
            f"rows: standard deviations come out as from {total:.3g} rows. If they are relative weights, scale them to "
            "a mean of 1 (sample_weight / sample_weight.mean()); if they are precisions, pass standard_error= instead.",
            SuspiciousWeightsWarning,
        )


def warn_of_order(X: Any, beside: Iterable[tuple[str, Any]]) -> None:
    """Warn where an argument beside X has the labels of X's index in another order: rows are taken by position.

    Parameters
    ----------
    X : array-like, dataframe or Table
    beside : iterable of (str, array-like or None)
        Names of arguments and their values.
    """
    index = X.index if isinstance(X, Table) else _index_of(X)
    if index is None:
        return
    for name, values in beside:
        other = _index_of(values)
        if other is not None and _is_permuted(index, other):
            warn(
                f"{name} has the index of X in another order, and rows are taken by position, not by index. Pass "
                f"{name}.loc[X.index] to match them, or a plain array ({name}.to_numpy()) if the order is right.",
                RowOrderWarning,
            )


def _index_of(values: Any) -> pd.Index | None:
    return values.index if isinstance(values, pd.DataFrame | pd.Series) else None


def _is_permuted(index: pd.Index, other: pd.Index) -> bool:
    if len(index) != len(other) or index.equals(other) or not (index.is_unique and other.is_unique):
        return False
    return bool((index.get_indexer(other) >= 0).all())


def warn_of_many_levels(columns: Iterable[tuple[str, tuple]], n_rows: int) -> None:
    """Warn of text features that have a level for every other row or more: numbers as text, ids, names.

    Parameters
    ----------
    columns : iterable of (str, tuple)
        Names of the columns that are categories, and their levels.
    n_rows : int
    """
    for name, levels in columns:
        if len(levels) < FEWEST_MANY_LEVELS or len(levels) <= n_rows / 2:
            continue
        numbers = "they are numbers written as text, of which pandas.to_numeric makes numbers."
        others = "if it is the group, name it in group_features=; if it is an id or a name, drop it."
        warn(
            f"Feature {name!r} is text of {len(levels)} values in {n_rows} rows, each of them a column of the model; "
            f"{numbers if _are_written_numbers(levels) else others}",
            ManyLevelsWarning,
        )


def _are_written_numbers(levels: tuple) -> bool:
    """Tell whether all levels are numbers in text, with a point or a comma."""
    try:
        pd.to_numeric(pd.Series(levels).astype(str).str.replace(",", ".", n=1))
    except ValueError:
        return False
    return True


def are_measurements(labels: np.ndarray) -> bool:
    """Tell whether all labels are numbers, and none an integer."""
    return labels.dtype.kind == "f" and not (labels == np.floor(labels)).any()


def warn_of_single_rows(factors: Iterable[tuple[str, np.ndarray]], n_rows: int, *, are_binary: bool = False) -> None:
    """Warn where every group of a factor has one row: its sd cannot be told from that of the noise.

    Parameters
    ----------
    factors : iterable of (str, ndarray of shape (n_groups,))
        Names of grouping factors and their labels; those that look like measurements have a warning of their own.
    n_rows : int
        Rows, all of weight 1 or less: copies of a row are rows.
    are_binary : bool, default=False
        Whether responses are classes, which have no standard errors.
    """
    given = "" if are_binary else "standard_error= if the error of each row is known, or "
    for name, labels in factors:
        if len(labels) == n_rows and not are_measurements(labels):
            warn(
                f"Every group of {name!r} has one row, so the data cannot tell how much groups differ from how much "
                f"rows do: the priors decide. Pass {given}more rows for each group.",
                ShrinkageWarning,
            )
