"""What labels are encoded by: numbers, or shares of classes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.multiclass import type_of_target

from hbsk._data.checks import about_origin, check_target
from hbsk._data.responses import read_classes
from hbsk._data.table import check_finite, refuse_lazy, refuse_missing_labels
from hbsk._messages import warn
from hbsk.exceptions import ManyClassesWarning

_MANY_CLASSES = 10


class EncodedTarget(NamedTuple):
    """What y was read as.

    Parameters
    ----------
    responses : ndarray of shape (n_kept, C)
        Numbers, or whether each row is of the second class, or of each of several classes.
    origin : float
        What numbers are less by, so that they keep their digits.
    kind : {"continuous", "binary", "multiclass"}
    classes : ndarray or None
    codes : ndarray of shape (n_rows,) or None
        Class of every row, those that do not count too: what folds are stratified by.
    """

    responses: np.ndarray
    origin: float
    kind: str
    classes: np.ndarray | None
    codes: np.ndarray | None


def read_encoded_target(y: Any, n_rows: int, kept: np.ndarray | None, target_type: str, name: str) -> EncodedTarget:
    """Read y.

    Parameters
    ----------
    y : array-like of shape (n_rows,)
    n_rows : int
        Rows of X.
    kept : ndarray or None
        Numbers of the rows that count; None: all.
    target_type : {"auto", "continuous", "binary", "multiclass"}
    name : str
        Name of the estimator, for messages.

    Returns
    -------
    target : EncodedTarget
    """
    if y is None:
        raise ValueError(f"This {name} estimator requires y to be passed, but the target y is None.")
    refuse_lazy(y, "y")
    kind = target_type if target_type != "auto" else _kind_of(y, name)
    if kind == "continuous":
        deviation, origin = about_origin(y, check_target(y, n_rows, name))
        return EncodedTarget((deviation if kept is None else deviation[kept])[:, None], origin, kind, None, None)
    every_code, classes = read_classes(y, n_rows, name)
    every_code = codes = np.asarray(every_code, dtype=np.int64)
    if kept is not None:
        present, codes = np.unique(every_code[kept], return_inverse=True)
        classes = classes[present]
    if len(classes) < 2 or (kind == "binary" and len(classes) > 2):
        cure = "Use target_type='multiclass'." if len(classes) > 2 else "Numbers need target_type='continuous'."
        raise ValueError(
            f"y has {len(classes)} class{'es' * (len(classes) > 1)} in the rows of positive weight, which "
            f"target_type={target_type!r} cannot encode. {cure}"
        )
    if kind == "binary":
        return EncodedTarget(codes.astype(np.float64)[:, None], 0.0, kind, classes, every_code)
    shares = (codes[:, None] == np.arange(len(classes))).astype(np.float64)
    return EncodedTarget(shares, 0.0, kind, classes, every_code)


def _kind_of(y: Any, name: str) -> str:
    """Tell what y is, "continuous" where numbers do not vary."""
    values = np.asarray(y)
    if values.dtype.kind == "f":  # before it is looked through for integers
        check_finite(values, "y")
    refuse_missing_labels(values)
    kind = type_of_target(y, input_name="y")
    if kind not in ("continuous", "binary", "multiclass"):
        raise ValueError(
            f"Unknown label type: y was taken for {kind!r}; {name} encodes by one column of 'continuous', 'binary' or "
            "'multiclass' values."
        )
    if values.dtype.kind in "iuf" and kind == "binary" and values.size and np.ptp(values) == 0:
        return "continuous"
    if values.dtype.kind in "iuf" and kind == "multiclass":
        n_values = len(np.unique(values))
        if n_values > _MANY_CLASSES:
            warn(
                f"y holds {n_values} different integers, which target_type='auto' takes for as many classes, each a "
                "column of its own. Set target_type='continuous' if they are counts or other numbers, or 'multiclass' "
                "if they are classes.",
                ManyClassesWarning,
            )
    return kind
