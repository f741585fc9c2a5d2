"""Cross-validation in one pass over the rows: a fit without a fold is the fit of total less fold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from hbsk._base import learnt_by
from hbsk._data.rows import apply_unknown_policy
from hbsk._engine.merging import less_effect_means
from hbsk._engine.scaling import scaled_sums
from hbsk._estimators.sums import collect_by_fold
from hbsk._messages import shown
from hbsk.model_selection._fold_scores import joint_log_density, squared_errors
from hbsk.model_selection._training_rows import UNITS
from hbsk.partial_pooling import PartialPoolingRegressor
from hbsk.sufficient_statistics import SufficientStatistics

__all__ = ["cross_validate_sums"]


def cross_validate_sums(
    estimator: PartialPoolingRegressor,
    X: Any,
    y: Any = None,
    groups: Any = None,
    *,
    fold: Any = None,
    unit: str = "row",
    n_folds: int = 5,
    standard_error: Any = None,
    sample_weight: Any = None,
) -> pd.DataFrame:
    """Cross-validate a PartialPoolingRegressor in one pass over the rows.

    The sums of every fold are collected once; the model without a fold is fitted to the total less the sums of the
    fold, and what it says of the fold is scored from its sums. The scores are those of refits on the rows, to about
    1e-12, and the rows may be anywhere, in a lazy frame too.

    Parameters
    ----------
    estimator : PartialPoolingRegressor
        With at most one grouping factor, and partial or complete pooling; it is cloned.
    X, y, groups
        As in `PartialPoolingRegressor.fit`.
    fold : str or array-like of shape (n_samples,), default=None
        Fold of each row, or the name of its column in X, which is then no feature. For ``unit="row"``.
    unit : {"row", "group"}, default="row"
        What is held out: rows, of groups that others are seen of, or whole groups.
    n_folds : int, default=5
        Folds that groups are dealt to, the largest first, as :class:`~sklearn.model_selection.GroupKFold` does. For
        ``unit="group"``; as many as there are groups leave out one group at a time.
    standard_error : array-like of shape (n_samples,), or name of a column of a lazy frame, default=None
        Rows then count by their precision in the scores.
    sample_weight : array-like of shape (n_samples,), or name of a column of a lazy frame, default=None

    Returns
    -------
    scores : DataFrame
        One row for each fold: ``n_rows``; ``r2`` and ``rmse`` of the predicted means; with ``unit="group"`` also
        ``log_density``, the log of the joint density of all rows of the fold given the others.

    Raises
    ------
    ValueError
        Where folds are missing, or more sums would come back from a lazy frame than memory holds.

    Notes
    -----
    With an offset in the formula the scores are those of y less its offset.

    Examples
    --------
    >>> from hbsk import PartialPoolingRegressor
    >>> from hbsk.datasets import load_radon
    >>> from hbsk.model_selection import cross_validate_sums
    >>> X, y = load_radon(return_X_y=True, as_frame=True)
    >>> model = PartialPoolingRegressor("y ~ floor + (1 | county)")
    >>> scores = cross_validate_sums(model, X, y, fold=X.index % 3)  # homes of counties that others are seen of
    >>> scores["rmse"].round(2).tolist()
    [0.83, 0.79, 0.71]
    >>> scores = cross_validate_sums(model, X, y, unit="group", n_folds=3)  # new counties
    >>> scores["log_density"].round().tolist()
    [-367.0, -361.0, -358.0]
    """
    if unit not in UNITS:
        raise ValueError(f"unit must be 'row' or 'group', got {shown(unit)}.")
    if not isinstance(estimator, PartialPoolingRegressor):
        raise TypeError(
            f"cross_validate_sums takes a PartialPoolingRegressor, whose fit needs sums alone; got {estimator!r}. "
            "compare_estimators cross-validates estimators of any kind on rows in memory."
        )
    if estimator.pooling == "none":
        raise ValueError(
            "cross_validate_sums takes pooling='partial' or 'complete': what pooling='none' does not identify has no "
            "score. Use compare_estimators on rows in memory."
        )
    given = {"standard_error": standard_error, "sample_weight": sample_weight}
    if unit == "row":
        if fold is None:
            raise ValueError(
                "unit='row' needs fold=, a column that says the fold of each row: rows elsewhere have no order to deal "
                "them by. Make one of a key, such as id % 10, and pass its name (or, in memory, its values); "
                "unit='group' deals the groups by itself."
            )
        held = collect_by_fold(estimator, X, y, groups, fold=fold, **given)
    else:
        if fold is not None:
            raise ValueError("fold= says the fold of each row, and unit='group' deals groups to n_folds=. Give one.")
        held = collect_by_fold(estimator, X, y, groups, deal=lambda counts: deal_groups(counts, n_folds), **given)
    if len(held) < 2:
        raise ValueError(f"Cross-validation needs at least 2 folds; fold has {len(held)}: {shown(list(held))}.")
    parts = iter(held.values())
    total = next(parts)
    for part in parts:
        total = total + part
    scores = {name: _score(clone(estimator), total - part, part, unit) for name, part in held.items()}
    return pd.DataFrame.from_dict(scores, orient="index").rename_axis("fold")


def deal_groups(counts: np.ndarray, n_folds: int) -> np.ndarray:
    """Return the fold of each group: the largest first, each to the fold that has the fewest rows yet."""
    if not isinstance(n_folds, int | np.integer) or not 2 <= n_folds <= len(counts):
        raise ValueError(
            f"n_folds must be an integer from 2 to the number of groups, {len(counts)}; got {shown(n_folds)}."
        )
    folds, sizes = np.empty(len(counts), dtype=np.int64), np.zeros(n_folds)
    for group in np.argsort(-counts, kind="stable"):
        folds[group] = sizes.argmin()
        sizes[folds[group]] += counts[group]
    return folds


def _score(
    estimator: PartialPoolingRegressor, rest: SufficientStatistics, held: SufficientStatistics, unit: str
) -> dict[str, float]:
    """Fit the sums of the other folds, and score those of one."""
    held = held.of_groups_with_rows()
    learnt = learnt_by(estimator.fit(rest))
    fitted, posterior = learnt.fitted, learnt.fitted.posterior
    errors = squared_errors(
        held.collected,
        posterior.common_estimates(),
        _expected_effects(estimator, held),
        known_standard_error=held.known_errors,
    )
    scores = {"n_rows": held.n_rows, "r2": errors.r2, "rmse": errors.rmse}
    if unit == "group":
        collected = held.collected
        if fitted.effect_mean is not None:
            collected = less_effect_means(collected, fitted.effect_mean)
        sums = scaled_sums(collected, fitted.scaling, known_standard_error=held.known_errors)
        scores["log_density"] = joint_log_density(posterior, fitted.model, fitted.scaling, sums)
    return scores


def _expected_effects(estimator: PartialPoolingRegressor, held: SufficientStatistics) -> np.ndarray:
    """Return the posterior means of the effects of the groups of a fold, shape (n_groups, q)."""
    learnt = learnt_by(estimator)
    factors = learnt.frame.specification.factors
    if not factors:
        return np.zeros((0, 0))
    (known,), (factor,) = factors, held.frame.specification.factors
    codes = known.groups.encode([factor.labels])
    unseen = apply_unknown_policy(codes, known.n_groups, [factor.labels], estimator.unknown_groups, known.source)
    effects = np.zeros((len(codes), len(factor.columns)))
    if learnt.fitted.effect_mean is not None:
        effects += learnt.fitted.effect_mean
    effects[~unseen] = learnt.fitted.posterior.group_moments(need_covariance=False).mean[codes[~unseen]]
    if estimator.unknown_groups == "nan":
        effects[unseen] = np.nan
    return effects
