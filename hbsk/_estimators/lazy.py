"""Lazy frames in the methods of an estimator: who may take them, and what they answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from hbsk._base import learnt_by, population_effects, require_standard_error
from hbsk._data.lazy import as_numbers, first_centre, is_lazy, read_lazy_table, require_numbers
from hbsk._fit.lazy_sums import refuse_too_many_sums, statistics_by_fold, statistics_of_lazy_rows
from hbsk._model.lazy_columns import finite
from hbsk._model.lazy_frame import read_lazy_frame
from hbsk._model.options import options_of
from hbsk._model.specification import Specification
from hbsk._posterior.lazy_prediction import PREDICTION, predict_lazily
from hbsk.sufficient_statistics import SufficientStatistics

__all__ = [
    "is_lazy",
    "lazy_predictions",
    "lazy_score",
    "lazy_statistics",
    "lazy_statistics_by_fold",
    "refuse_rows_elsewhere",
]


def lazy_statistics(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    groups: Any = None,
    standard_error: Any = None,
    sample_weight: Any = None,
    like: tuple[Specification, Specification] | None = None,
    are_declared: bool = False,
) -> SufficientStatistics:
    """Collect what a fit needs of a lazy frame; see `PartialPoolingRegressor.collect`."""
    estimator._check_options()
    refuse_labels_beside(groups)
    rows = read_lazy_frame(
        options_of(estimator),
        read_lazy_table(X, estimator.verbose),
        y,
        sample_weight=sample_weight,
        standard_error=standard_error,
        like=like,
        are_declared=are_declared,
    )
    return statistics_of_lazy_rows(options_of(estimator), rows)


def lazy_statistics_by_fold(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    groups: Any = None,
    fold: Any = None,
    deal: Callable[[np.ndarray], np.ndarray] | None = None,
    standard_error: Any = None,
    sample_weight: Any = None,
) -> dict[Any, SufficientStatistics]:
    """Collect the sums of each fold of a lazy frame; see `hbsk._estimators.sums.collect_by_fold`."""
    estimator._check_options()
    refuse_labels_beside(groups)
    options, table = options_of(estimator), read_lazy_table(X, estimator.verbose)
    beside = {"sample_weight": sample_weight, "standard_error": standard_error}
    rows = read_lazy_frame(options, table, y, fold=fold, **beside)
    if deal is not None:
        if len(rows.group_columns) != 1:
            raise ValueError(
                f"unit='group' of a lazy frame needs groups that are one column; these are {rows.group_columns}."
            )
        (fold,) = rows.group_columns
    refuse_too_many_sums(rows, fold)
    return statistics_by_fold(options, rows, fold, deal)


def lazy_predictions(
    estimator: Any, X: Any, groups: Any, *, return_std: bool, standard_error: Any, include_groups: Any = True
) -> Any:
    """Return a lazy frame of the same kind with predictions; see `PartialPoolingRegressor.predict`."""
    learnt = learnt_by(estimator)
    refuse_labels_beside(groups)
    if not include_groups:
        population_effects(estimator)  # which says where there is no population
    table = read_lazy_table(X, estimator.verbose)
    if return_std or standard_error is not None:
        require_standard_error(estimator, standard_error, "return_std=True")
    if standard_error is not None:
        standard_error = require_numbers(table, standard_error, "standard_error")
    predicted = predict_lazily(
        learnt.fitted.posterior,
        learnt.frame.specification,
        table,
        unknown_groups=estimator.unknown_groups,
        return_std=return_std,
        standard_error=standard_error,
        include_groups=bool(include_groups),
    )
    # a frame of narwhals stays one
    return predicted if isinstance(X, nw.LazyFrame) else predicted.to_native()


def lazy_score(estimator: Any, X: Any, y: Any, sample_weight: Any, groups: Any) -> float:
    """Return R^2 of the predictions of a lazy frame, from one row of sums."""
    refuse_labels_beside(groups)
    table = read_lazy_table(X, estimator.verbose)
    if y is None and estimator.formula is not None:
        y = learnt_by(estimator).frame.specification.response
    response = nw.col(require_numbers(table, y, "y")).cast(nw.Float64)
    weight = nw.lit(1.0)
    if sample_weight is not None:
        weight = nw.col(require_numbers(table, sample_weight, "sample_weight")).cast(nw.Float64)
    (centre,) = first_centre(table, {"y": response})
    predicted = lazy_predictions(estimator, table.frame, None, return_std=False, standard_error=None)
    columns = {"w": weight, "y": response - float(centre), "rest": response - nw.col(PREDICTION)}
    w, deviation, rest = (nw.col(name) for name in columns)
    good = finite(w + deviation + rest) & (w >= 0)
    sums = {
        "whole": nw.when(good).then(nw.lit(1.0)).otherwise(nw.lit(0.0)),
        "n": w,
        "y": w * deviation,
        "yy": w * deviation * deviation,
        "ee": w * rest * rest,
    }
    query = predicted.select(**columns).select(**sums).select(nw.len().alias("rows"), nw.col(*sums).sum())
    found = table.ask("score", query)
    rows, whole, n, y1, y2, squares = (float(as_numbers(found, name)[0]) for name in ("rows", *sums))
    if rows > whole or not n > 0:
        raise ValueError(
            f"score cannot be computed: of {int(rows)} rows of the lazy frame {int(rows - whole)} have a y, a weight "
            "or a prediction that is null, NaN or infinite, or a negative weight (features that are missing, levels "
            'that fit has not seen, groups with unknown_groups="nan"). Filter them out.'
        )
    total = y2 - y1 * y1 / n
    if total <= 0:
        return 1.0 if squares == 0 else 0.0  # as r2_score has it of a constant y
    return 1.0 - squares / total


def refuse_labels_beside(groups: Any) -> None:
    """Refuse labels that are no column of a lazy frame: its rows have no order to match them by."""
    if groups is not None:
        raise ValueError(
            "groups= cannot be given with a lazy frame, whose rows have no order: name the column of the groups in "
            "group_features=, or in the formula."
        )


def refuse_rows_elsewhere(X: Any, method: str, instead: str) -> None:
    """Refuse a lazy frame where an answer is no expression of an engine."""
    if is_lazy(X):
        raise TypeError(
            f"{method} takes rows in memory, and X is a lazy frame: {instead}, or collect the rows that you ask for."
        )
