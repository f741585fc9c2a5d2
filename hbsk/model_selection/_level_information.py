"""LOO of the levels of one of several grouping factors: exact given the variance parameters, for either engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hbsk._base import learnt_by
from hbsk._data.labels import group_names
from hbsk._engine.crossed import CrossedModel, crossed_model
from hbsk._engine.scaling import ColumnScaling
from hbsk._fit.collecting import collect_factors, exact_response
from hbsk._messages import listed, warn
from hbsk._model.exactness import engine_priors, why_not_exact
from hbsk.exceptions import ConvergenceWarning
from hbsk.model_selection._elpd import loo_data
from hbsk.model_selection._leave_level_out import (
    MOST_ROWS,
    LevelRows,
    score_level_again,
    score_levels,
    seen_again,
    unidentified_level,
)
from hbsk.model_selection._leave_row_out import RowData
from hbsk.model_selection._training_rows import TrainingRows
from hbsk.model_selection._variance_grid import (
    LEAST_NODES,
    MOST_REFITS,
    LeftOut,
    VarianceGrid,
    grid_of_draws,
    grid_of_factors,
    largest_good_k,
    leave_out,
    most_nodes,
    refit,
)

# Pareto k above which a level is fitted again: from 512 nodes, at k = .43, one of three levels was off by .13.
REFIT_ABOVE = 0.3
# Operations that take as long as scoring a row.
OPERATIONS_PER_ROW = 3_000


def loo_of_levels(training: TrainingRows) -> Any:
    """Return `loo` with unit="group" for one of several factors."""
    from xarray import DataArray

    factor = training.frame.factors[training.factor]
    problem = _problem(training)
    model, rows, grid = problem.model, problem.rows, problem.grid
    names = group_names(factor.labels)
    large = np.flatnonzero(rows.sizes > MOST_ROWS)
    if len(large) > MOST_REFITS:
        raise ValueError(
            f"{training.caller} with unit='group' and factor={factor.name!r} would fit {len(large)} groups again, "
            f"those of more than {MOST_ROWS} rows; at most {MOST_REFITS} are. Use unit='row', or compare_estimators, "
            "which cross-validates in a few folds."
        )
    level = unidentified_level(model, rows)
    if level is not None:
        raise ValueError(
            f"Without group {names[level]!r} the other rows do not identify the common coefficients that have a "
            f"flat prior, so that {training.caller} has no proper posterior to predict it from. Give them a Normal "
            "prior."
        )
    good_k, start = largest_good_k(grid.n_nodes), grid.start()
    scores = _leave_out(model, rows, grid, large)
    scores = refit(scores, min(good_k, REFIT_ABOVE), lambda j: score_level_again(model, rows, j, start), MOST_REFITS)
    bad = np.flatnonzero(scores.pareto_k > good_k)
    if len(bad):
        which = listed([names[j] for j in bad])
        warn(
            f"Pareto k is above {good_k:.2f} for {len(bad)} of {len(names)} groups ({which}): without them the "
            "posterior is another, and their densities are not reliable. Cross-validate (compare_estimators with "
            "GroupKFold) where they may decide between models.",
            ConvergenceWarning,
        )
    shift = -rows.sizes * np.log(problem.y_scale)
    template = DataArray(np.zeros(len(names)), dims=[factor.name], coords={factor.name: names})
    return loo_data(scores.elpd + shift, scores.lpd + shift, scores.pareto_k, good_k, grid.n_points, template)


def _leave_out(model: CrossedModel, rows: LevelRows, grid: VarianceGrid, large: np.ndarray) -> LeftOut:
    """Score the levels that are not large; of large ones only what their rows in a new level would have."""
    nodes = score_levels(model, rows, grid)
    nodes.left_out[:, large] = nodes.seen[:, large] = 0.0
    scores = leave_out(nodes, grid.weight)
    few = grid.thinned(LEAST_NODES)
    for level in large:
        scores.lpd[level], scores.pareto_k[level] = seen_again(model, rows, level, few), np.inf
    return scores


@dataclass(frozen=True)
class _Problem:
    """What the scores of levels are computed from."""

    model: CrossedModel
    rows: LevelRows
    grid: VarianceGrid
    y_scale: float


def _problem(training: TrainingRows) -> _Problem:
    fitted, specification, rows = training.fitted, training.frame.specification, training.rows
    posterior = fitted.posterior
    if posterior.has_crossed_model:
        model, scalings = posterior.model, posterior.scalings
    else:
        model, scalings = _model_of_draws(training)
    y, scaling = exact_response(training.frame, rows, scalings[0], fitted.effect_mean)
    data = RowData(
        training.design(),
        tuple(rows.codes),
        y,
        rows.standard_error,
        (scaling, *scalings[1:]),
        specification.has_intercept,
    )
    n_groups = tuple(factor.n_groups for factor in training.frame.factors)
    levels = LevelRows.of(data, n_groups, training.factor)
    cost = _cost(levels, model.passes.n_remaining)
    if posterior.are_draws:
        grid = grid_of_draws(posterior, scalings).thinned(most_nodes(cost))
    else:
        grid = grid_of_factors(posterior, cost)
    return _Problem(model, levels, grid, scaling.y_scale)


def _cost(rows: LevelRows, n_remaining: int) -> float:
    """Return what a node costs, in rows that are scored."""
    sizes = np.where(rows.sizes <= MOST_ROWS, rows.sizes, 0.0)
    return sizes.sum() + (n_remaining**3 + np.sum(sizes**2 * (n_remaining + sizes))) / OPERATIONS_PER_ROW


def _model_of_draws(training: TrainingRows) -> tuple[CrossedModel, tuple[ColumnScaling, ...]]:
    """Return the model whose variance parameters were drawn with all others."""
    fitted, specification = training.fitted, training.frame.specification
    known = learnt_by(training.estimator).known_errors
    reason = why_not_exact(specification, fitted.priors, known)
    if reason is not None:
        raise ValueError(
            f"{training.caller} with unit='group' integrates all effects and common coefficients out where there are "
            f"several grouping factors, but {reason}. Use unit='row', or compare_estimators with GroupKFold."
        )
    exact = engine_priors(specification, fitted.priors, known)
    return crossed_model(*collect_factors(training.frame, training.rows, fitted.effect_mean), exact)
