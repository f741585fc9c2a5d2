"""From rows to sums: what the engine needs of the data, and what a fit of the sums needs beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hbsk._data.rows import Rows, some_rows
from hbsk._engine.crossed_sums import PairSums, collect_pairs
from hbsk._engine.merging import less_effect_means, moved
from hbsk._engine.scaling import ColumnScaling
from hbsk._engine.sums import CentredSums, collect
from hbsk._engine.threads import n_threads
from hbsk._model.centres import varying_intercept
from hbsk._model.design import DesignWithMeans
from hbsk._model.frame import ModelFrame
from hbsk._model.options import Options
from hbsk._posterior.group_tables import common_counterparts
from hbsk.sufficient_statistics import SufficientStatistics, parameters_of_recipe


def statistics_of_rows(
    options: Options, frame: ModelFrame, rows: Rows, n_features: int = 0, feature_names: np.ndarray | None = None
) -> SufficientStatistics:
    """Collect the sums of rows over the groups of the first factor, and count."""
    with np.errstate(over="ignore", invalid="ignore"):
        collected = collect_sums(frame, rows)
    pairs = list(zip(rows.factors, rows.codes, strict=True))
    counted = tuple(np.bincount(codes, minlength=factor.n_groups) for factor, codes in pairs)
    weight = rows.sample_weight
    copies: tuple[np.ndarray, ...]
    if weight is None:
        copies = counted
    elif len(frame.specification.factors) == 1:
        copies = (collected.sums.copies,)
    else:
        copies = tuple(np.bincount(codes, weight, factor.n_groups) for factor, codes in pairs)
    return SufficientStatistics(
        frame,
        collected,
        counted,
        copies,
        rows.n_rows,
        least_noise(rows),
        rows.standard_error is not None,
        n_features,
        feature_names,
        parameters_of_recipe(options),
    )


def statistics_of_folds(
    options: Options, frame: ModelFrame, rows: Rows, folds: np.ndarray, n_features: int, names: np.ndarray | None
) -> dict[int, SufficientStatistics]:
    """Collect the sums of each fold of rows, whose numbers are given, over the groups of all rows."""
    return {
        int(fold): statistics_of_rows(options, frame, some_rows(rows, folds == fold), n_features, names)
        for fold in np.unique(folds)
    }


def least_noise(rows: Rows) -> float:
    """Return the smallest standard error over the root of its weight, 1 for standard errors that are not known."""
    if rows.standard_error is None:
        return 1.0 if rows.sample_weight is None else float(rows.sample_weight.max() ** -0.5)
    if rows.sample_weight is None:
        return float(rows.standard_error.min())
    return float(np.min(rows.standard_error / np.sqrt(rows.sample_weight)))


def collect_factors(
    frame: ModelFrame, rows: Rows, effect_mean: np.ndarray | None = None, first: CentredSums | None = None
) -> tuple[list[CentredSums], tuple[PairSums, ...]]:
    """Collect the sums of each factor (of the first, unless they are there) and those of pairs of factors."""
    parts = [collect_sums(frame, rows, 0, effect_mean) if first is None else first]
    parts += [collect_sums(frame, rows, f, effect_mean) for f in range(1, len(frame.specification.factors))]
    return parts, collect_factor_pairs(frame, rows, parts)


def collect_factor_pairs(frame: ModelFrame, rows: Rows, parts: Sequence[CentredSums]) -> tuple[PairSums, ...]:
    """Collect the sums of pairs of factors, about the centres of their own sums."""
    weight = rows.sample_weight
    if rows.standard_error is not None:
        weight = rows.standard_error**-2.0 * (1.0 if weight is None else weight)
    design = frame.specification.design(rows.features)
    n_groups = [factor.n_groups for factor in rows.factors]
    return collect_pairs(design, rows.codes, n_groups, [part.z_centre for part in parts], weight)


def collect_sums(frame: ModelFrame, rows: Rows, factor: int = 0, effect_mean: np.ndarray | None = None) -> CentredSums:
    """Collect the sums over the groups of one factor (over none, where groups are left out).

    Known means of effects are taken off y.
    """
    if effect_mean is not None and len(frame.specification.factors) == 1:
        return less_effect_means(collect_sums(frame, rows), effect_mean)
    y, origin = _less_origin(frame, rows)
    collected = collect_response(frame, rows, y, factor, effect_mean)
    return moved(collected, origin) if origin else collected


def exact_response(
    frame: ModelFrame, rows: Rows, scaling: ColumnScaling, effect_mean: np.ndarray | None = None
) -> tuple[np.ndarray, ColumnScaling]:
    """Return y less its origin, and the scaling with the centre that y has there."""
    y, origin = _less_origin(frame, rows)
    if not origin:
        return y, scaling
    return y, replace(scaling, y_centre=collect_response(frame, rows, y, 0, effect_mean).moments.y_mean)


def _less_origin(frame: ModelFrame, rows: Rows) -> tuple[np.ndarray, float]:
    """Return y, and what was taken off it so that it keeps its digits."""
    assert rows.y is not None  # rows of a fit have one
    # Without an intercept y has no centre, and its size is the scale of everything.
    if rows.y_deviation is None or not frame.specification.has_intercept:
        return rows.y, 0.0
    return (rows.y_deviation, rows.y_origin) if rows.y_origin else (rows.y, 0.0)


def collect_response(
    frame: ModelFrame, rows: Rows, y: np.ndarray, factor: int, effect_mean: np.ndarray | None
) -> CentredSums:
    """Collect the sums of some y over the groups of one factor."""
    specification = frame.specification
    codes, n_groups, intercept = None, 0, None
    if specification.factors:
        intercept = varying_intercept(specification.factors[factor])
        codes, n_groups = rows.codes[factor], rows.factors[factor].n_groups
    design = specification.design(rows.features)
    return collect(
        design if effect_mean is None else DesignWithMeans(design, effect_mean),
        codes,
        n_groups,
        y,
        has_intercept=specification.has_intercept,
        factor=factor,
        sample_weight=rows.sample_weight,
        standard_error=rows.standard_error,
        counterparts=[common_counterparts(specification, terms) for terms in specification.factors],
        varying_intercept=intercept,
        n_threads=n_threads(),
    )
