"""Checks of the arguments that stand beside X: y, sample_weight and standard_error."""

from __future__ import annotations

import numbers
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import check_array, column_or_1d
from sklearn.utils._param_validation import Interval

from hbsk._data.suspicions import warn_of_weights
from hbsk._data.table import check_finite, refuse_lazy
from hbsk._messages import shown

_FLOATS = [np.float64, np.float32]
# Variances are squared, inverted and compared with that of y: beyond this, products of them leave floating point.
SMALLEST_ERROR, LARGEST_ERROR = 1e-50, 1e50
SMALLEST_VALUE, LARGEST_VALUE = 1e-75, 1e75


class Number(Interval):
    """A parameter that is a real number between two others, both included; True and False are no numbers here."""

    def __init__(self, smallest: float, largest: float):
        super().__init__(numbers.Real, smallest, largest, closed="both")

    def is_satisfied_by(self, value: Any) -> bool:
        """Tell whether a value is such a number."""
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return False
        try:
            return super().is_satisfied_by(float(value))
        except OverflowError:
            return False


def numbers_at_hand(values: Any) -> np.ndarray | None:
    """Return an array or Series of plain numbers in one dimension as an array; None for all that needs a closer look.

    scikit-learn's own look at such numbers takes as long as summing a hundred thousand of them.
    """
    if isinstance(values, pd.Series) and isinstance(values.dtype, np.dtype):
        values = values.to_numpy()
    is_plain = type(values) is np.ndarray and values.ndim == 1 and values.dtype.kind in "biuf"
    return values if is_plain and values.dtype.itemsize <= 8 else None


def check_target(y: Any, n_rows: int, name: str) -> np.ndarray:
    """Make y a float64 array of shape (n_rows,), with scikit-learn's words for what is wrong with it.

    Parameters
    ----------
    y : array-like of shape (n_rows,)
        A column of shape (n_rows, 1) is accepted with a DataConversionWarning.
    n_rows : int
        Rows of X.
    name : str
        Name of the estimator, for messages.
    """
    if y is None:
        raise ValueError(f"This {name} estimator requires y to be passed, but the target y is None.")
    refuse_lazy(y, "y")
    at_hand = numbers_at_hand(y)
    y = column_or_1d(y, warn=True) if at_hand is None else at_hand
    if y.dtype.kind in "mM":
        raise TypeError(
            f"y has dtype {y.dtype}; {name} needs numbers: for example days since a start, "
            "(y - y.min()) / pandas.Timedelta('1D')."
        )
    if y.dtype.kind not in "biuf":
        try:
            y = (np.where(pd.isna(y), np.nan, y) if y.dtype.kind == "O" else y).astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"y has values that are not numbers: {error}. {name} needs one number per row; two classes are for "
                "PartialPoolingClassifier, or numbers 0 and 1."
            ) from error
    check_finite(y, "y")
    if y.shape[0] != n_rows:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: X has {n_rows} rows, y has "
            f"{y.shape[0]} values."
        )
    y = y.astype(np.float64, copy=False)
    check_size(y, "y", name)
    return y


# Floats resolve a spread of this share of its location to eight digits: beyond it, the location is taken off first.
FAR = 1e-8
# Integers beyond it have no float of their own; a column is told well enough by a thousand floats to its sd.
LARGEST_EXACT_INTEGER, STEPS_IN_AN_SD = 2**53, 1000
# Numbers as far apart as the last bits of a float are equal but for rounding.
ROUNDING_STEPS = 4


def about_origin(y: Any, numbers: np.ndarray) -> tuple[np.ndarray, float]:
    """Return y less a number, exactly, and that number, where y is so far from 0 that floats would lose its spread.

    Parameters
    ----------
    y : array-like of shape (n_rows,)
        As given to `check_target`; integers of any size and decimals are subtracted before they become floats.
    numbers : ndarray of shape (n_rows,)
        What `check_target` made of it.

    Returns
    -------
    deviation : ndarray of shape (n_rows,)
    origin : float
        0 where y is returned as it is.
    """
    low, high = float(numbers.min()), float(numbers.max())
    size = max(abs(low), abs(high))
    if high - low > FAR * size or not size:
        return numbers, 0.0
    # scikit-learn makes floats of pandas' nullable integers
    exact = column_or_1d(np.asarray(y) if isinstance(y, pd.Series) else y)
    if exact.dtype.kind == "f" and high - low <= ROUNDING_STEPS * np.spacing(exact.dtype.type(size)):
        return numbers, 0.0
    first, origin = exact[0], float(numbers[0])
    if exact.dtype.kind in "biu":
        if exact.dtype.itemsize < 8:
            exact = exact.astype(np.int64)
        # of unsigned integers the differences wrap, to what they are as signed ones
        return (exact - exact[0]).view(np.int64).astype(np.float64) + (int(first) - int(origin)), origin
    if exact.dtype.kind == "O":
        with suppress(TypeError):  # from numbers that do not subtract from each other
            return np.array([float(value - first) for value in exact]) + float(first - type(first)(origin)), origin
    return numbers - origin, origin


def check_size(values: np.ndarray, what: str, name: str) -> None:
    """Refuse numbers so large or small that squares of them, or of their ratios, leave floating point.

    Parameters
    ----------
    values : ndarray of shape (n_rows,)
    what, name : str
        What they are, and the name of the estimator, for the message.
    """
    largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
    if largest > LARGEST_VALUE or 0 < largest < SMALLEST_VALUE:
        raise ValueError(
            f"{what} reaches {shown(largest)} in size, and {name} computes with squares: it takes values from "
            f"{SMALLEST_VALUE} to {LARGEST_VALUE}. Give it in another unit."
        )


def check_digits(values: np.ndarray, what: str) -> None:
    """Refuse integers that differ in digits that floats of their size do not have.

    Parameters
    ----------
    values : ndarray of shape (n_rows,)
        Numbers of any dtype; only integers can hold more digits than floats.
    what : str
        What they are, for the message.
    """
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 8 or not len(values):
        return
    low, high = int(values.min()), int(values.max())
    size = max(abs(low), abs(high))
    if size <= LARGEST_EXACT_INTEGER or low == high or high - low > LARGEST_EXACT_INTEGER:
        return
    spread = float(np.std((values - values[0]).view(np.int64)))
    step = float(np.spacing(float(size)))
    if spread < STEPS_IN_AN_SD * step:
        raise ValueError(
            f"{what} holds integers near {shown(float(size))} with a standard deviation of {spread:.3g}, where floats "
            f"are {step:.3g} apart: converted to floats they would lose what they differ by. Subtract a number first, "
            f"for example {low}, in fit and predict alike."
        )


def check_weights(sample_weight: Any, n_rows: int, name: str, *, are_sizes: bool = False) -> np.ndarray | None:
    """Make sample_weight a float64 array of shape (n_rows,), or None; a number is the weight of every row.

    A weight says how many copies of its row there are, so it cannot be negative, and somewhere it must be positive.
    Where weights may be trials or exposure (``are_sizes``), no size of them is suspicious.
    """
    if sample_weight is None:
        return None
    weights = check_per_row(sample_weight, n_rows, "sample_weight")
    if weights.min() < 0:
        raise ValueError(
            f"Negative values in sample_weight (smallest {shown(weights.min())}). {name} takes a weight as a number of "
            "copies of the row: it must be 0 or more."
        )
    if not weights.any():
        raise ValueError("sample_weight is zero everywhere; it must contain at least one value that is not zero.")
    if not are_sizes:
        warn_of_weights(weights)
    return weights


def check_standard_error(standard_error: Any, n_rows: int, name: str) -> np.ndarray | None:
    """Make standard_error a float64 array of shape (n_rows,), or None; a number is the standard error of every row."""
    if standard_error is None:
        return None
    errors = check_per_row(standard_error, n_rows, "standard_error")
    if errors.min() <= 0:
        row = int(errors.argmin())
        raise ValueError(
            f"standard_error must be positive; row {row} has {shown(errors[row])}. {name} takes it as the known "
            "sampling standard deviation of y in each row; leave it out (None) to have one estimated."
        )
    outside = (errors < SMALLEST_ERROR) | (errors > LARGEST_ERROR)
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(
            f"standard_error must lie between {SMALLEST_ERROR} and {LARGEST_ERROR}, since {name} computes with powers "
            f"of it; row {row} has {shown(errors[row])}. Divide y and standard_error by the same number, or leave out "
            "rows that tell nothing."
        )
    return errors


def check_per_row(values: Any, n_rows: int, argument: str) -> np.ndarray:
    """Make an argument a float64 array of shape (n_rows,); a number is that of every row."""
    if isinstance(values, bool | np.bool_ | str | bytes):
        raise ValueError(f"{argument} must be a number, or one number per row; got {shown(values)}.")
    refuse_lazy(values, argument)
    if isinstance(values, numbers.Real):
        values = np.full(n_rows, float(values))
    at_hand = numbers_at_hand(values)
    if at_hand is None:
        # A shape of (n, 1) or (n, k) must not be flattened silently: it is most often a second y or a frame by mistake.
        options = {"ensure_2d": False, "ensure_all_finite": False, "ensure_min_samples": 0}
        try:
            at_hand = check_array(values, dtype=_FLOATS, input_name=argument, **options)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{argument} must be numbers, one per row: {error}") from error
    values = at_hand
    if values.ndim != 1:
        cure = ": a column of a frame is data['name'], not data[['name']]" if values.shape == (n_rows, 1) else ""
        raise ValueError(f"{argument} must be 1-D, one number per row; got an array of shape {values.shape}{cure}.")
    if values.shape[0] != n_rows:
        raise ValueError(f"{argument} has {values.shape[0]} values, but X has {n_rows} rows.")
    check_finite(values, argument)
    return values.astype(np.float64, copy=False)


def check_coverage(coverage: Any) -> None:
    """Refuse what is no probability."""
    if not (isinstance(coverage, numbers.Real) and 0 < float(coverage) < 1):
        raise ValueError(f"coverage must be a fraction between 0 and 1 (0.9 for 90 %), got {shown(coverage)}.")


def check_interval(coverage: Any, kind: Any) -> None:
    """Refuse options that no interval has."""
    check_coverage(coverage)
    if kind not in ("prediction", "mean"):
        raise ValueError(f"kind must be 'prediction' or 'mean', got {shown(kind)}.")
