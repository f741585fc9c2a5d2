"""LOO and WAIC of rows: exact given the variance parameters where these were integrated, else by ArviZ on draws."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from hbsk._fit.collecting import exact_response
from hbsk._messages import listed, warn
from hbsk._posterior.datatree import SIZE_LIMIT
from hbsk.exceptions import ConvergenceWarning
from hbsk.model_selection._elpd import loo_data, waic_data
from hbsk.model_selection._leave_row_out import ROWS_PER_UNIT, RowData, score_row_again, score_rows, unidentified_row
from hbsk.model_selection._training_rows import TrainingRows
from hbsk.model_selection._variance_grid import (
    MOST_REFITS,
    LeftOut,
    VarianceGrid,
    expected,
    grid_of_factors,
    grid_of_posterior,
    largest_good_k,
    leave_out,
    log_probability,
    refit,
)

# With fewer draws the tail of the weights of PSIS says nothing.
FEWEST_DRAWS = 400


def loo_of_rows(training: TrainingRows) -> Any:
    """Return `loo` with unit="row"."""
    if not _is_integrated(training):
        return _loo_of_draws(training)
    rows, grid, model = *_rows_and_grid(training), training.model
    parts = [leave_out(scores, grid.weight) for scores, _ in score_rows(model, grid, rows)]
    scores = LeftOut(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("elpd", "lpd", "pareto_k")))
    good_k = largest_good_k(grid.n_nodes)
    start = grid.start()
    most = MOST_REFITS if training.has_several_factors else None
    scores = refit(scores, good_k, lambda row: score_row_again(model, rows, row, start), most)
    shift = -np.log(training.scalings[0].y_scale)
    result = loo_data(
        scores.elpd + shift, scores.lpd + shift, scores.pareto_k, good_k, grid.n_points, _template(len(rows.y))
    )
    _warn_bad_rows(result)
    return result


def waic_of_rows(training: TrainingRows) -> Any:
    """Return `waic` with unit="row"."""
    if not _is_integrated(training):
        return _waic_of_draws(training)
    rows, grid = _rows_and_grid(training)
    log_weight = log_probability(grid.weight)
    parts = [
        (expected(scores.seen.T, log_weight), variance) for scores, variance in score_rows(training.model, grid, rows)
    ]
    lpd, variance = (np.concatenate(part) for part in zip(*parts, strict=True))
    lpd -= np.log(training.scalings[0].y_scale)
    return waic_data(lpd, variance, grid.n_points, _template(len(lpd)), "rows")


def _is_integrated(training: TrainingRows) -> bool:
    posterior = training.fitted.posterior
    # without pooling a group of one row is predicted by itself alone: no Gaussian is left to divide by
    return not posterior.are_draws and not posterior.pools_nothing


def _rows_and_grid(training: TrainingRows) -> tuple[RowData, VarianceGrid]:
    fitted, specification, rows = training.fitted, training.frame.specification, training.rows
    codes = tuple(rows.codes) if specification.factors else ()
    y, scaling = exact_response(training.frame, training.rows, training.scalings[0], fitted.effect_mean)
    scalings = (scaling, *training.scalings[1:])
    data = RowData(training.design(), codes, y, rows.standard_error, scalings, specification.has_intercept)
    if fitted.posterior.has_crossed_model:
        grid = grid_of_factors(fitted.posterior, rows.n_rows)
    else:
        n_units = max(training.model.sums.n_groups, rows.n_rows / ROWS_PER_UNIT)
        grid = grid_of_posterior(fitted.posterior, training.model, n_units)
    row = unidentified_row(training.model, grid, data)
    if row is not None:
        raise ValueError(
            f"Without row {row} the others do not identify the common coefficients that have a flat prior, so that "
            f"{training.caller} has no proper posterior to predict it from. Give them a Normal prior."
        )
    return data, grid


def _template(n_rows: int) -> Any:
    from xarray import DataArray

    return DataArray(np.zeros(n_rows), dims=["__obs__"], coords={"__obs__": np.arange(n_rows)})


def _warn_bad_rows(result) -> None:
    bad = np.flatnonzero(result.pareto_k.values > result.good_k)
    if len(bad):
        warn(
            f"Pareto k is above {result.good_k:.2f} for {len(bad)} of {result.n_data_points} rows ({listed(bad)}): "
            "without them the posterior is another, and their densities are not reliable. Cross-validate "
            "(compare_estimators) where they may decide between models.",
            ConvergenceWarning,
        )


# ---------------------------------------------------------------------------------------------------------------------
# Draws of all parameters


def _log_likelihood_tree(training: TrainingRows) -> Any:
    """Return a DataTree with the pointwise log likelihood, of as many draws as fit."""
    estimator = training.estimator
    numbers = 3 * training.rows.n_rows + sum(
        n * len(factor.columns)
        for n, factor in zip(training.fitted.posterior.n_groups, training.frame.specification.factors, strict=True)
    )
    draws = int(min(estimator.draws, SIZE_LIMIT // (8 * numbers * estimator.chains)))
    if draws < estimator.draws and draws * estimator.chains < FEWEST_DRAWS:
        raise ValueError(
            f"{training.caller} with unit='row' needs the log likelihood of {training.rows.n_rows} rows at "
            f"{FEWEST_DRAWS} draws or more, which takes more than {SIZE_LIMIT / 2**30:.0f} GiB. Use unit='group', or "
            "compare_estimators."
        )
    seed = 0 if estimator.random_state is None else estimator.random_state
    return estimator.to_datatree(**training.given, draws=draws, random_state=seed)


def _loo_of_draws(training: TrainingRows) -> Any:
    import arviz_stats

    tree = _log_likelihood_tree(training)
    # draws that do not come from a chain are independent
    efficiency = None if training.fitted.posterior.are_draws else 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # said below, in a class of ours
        result = arviz_stats.loo(tree, pointwise=True, reff=efficiency)
    _warn_bad_rows(result)
    return result


def _waic_of_draws(training: TrainingRows) -> Any:
    tree = _log_likelihood_tree(training)
    (values,) = tree["log_likelihood"].data_vars.values()
    log_likelihood = values.to_numpy().reshape(-1, training.rows.n_rows)
    n_draws = len(log_likelihood)
    lpd = expected(log_likelihood.T, np.full(n_draws, -np.log(n_draws)))
    return waic_data(lpd, np.var(log_likelihood, axis=0, ddof=1), n_draws, _template(training.rows.n_rows), "rows")
