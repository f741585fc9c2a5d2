"""LOO and WAIC of groups: the likelihood with the effects of the group integrated out, for either engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hbsk._base import learnt_by
from hbsk._data.labels import group_names
from hbsk._engine.scaling import ColumnScaling
from hbsk._engine.varying_location import at_zero
from hbsk._fit.collecting import exact_response
from hbsk._messages import listed, warn
from hbsk._model.exactness import why_not_exact
from hbsk.exceptions import ConvergenceWarning
from hbsk.model_selection._elpd import loo_data, waic_data
from hbsk.model_selection._lazy_groups import LazyGroups
from hbsk.model_selection._leave_group_out import (
    GroupProducts,
    collect_products,
    likelihood_moments,
    log_likelihood_given_common,
    score_group_again,
    score_groups,
    unidentified_without,
)
from hbsk.model_selection._training_rows import TrainingRows
from hbsk.model_selection._variance_grid import (
    UnitScores,
    VarianceGrid,
    expected,
    grid_of_draws,
    grid_of_posterior,
    largest_good_k,
    leave_out,
    log_probability,
    refit,
)


@dataclass(frozen=True)
class _Problem:
    """What the scores of groups are computed from.

    Attributes
    ----------
    products : GroupProducts
    grid : VarianceGrid
    prior : tuple of ndarray of shape (p,)
        Mean and precision of the common coefficients in the units of the engine.
    common : ndarray of shape (n_nodes, p) or None
        Draws of the common coefficients where they cannot be integrated out.
    shift : ndarray of shape (n_groups,)
        From log densities in the units of the engine to those of y.
    template : xarray.DataArray of shape (n_groups,)
        Has the labels of the groups.
    """

    products: GroupProducts
    grid: VarianceGrid
    prior: tuple[np.ndarray, np.ndarray]
    common: np.ndarray | None
    shift: np.ndarray
    template: Any


def loo_of_groups(training: TrainingRows | LazyGroups) -> Any:
    """Return `loo` with unit="group"."""
    problem, parameters = _problem(training), training.fitted.model.parameters
    products, grid, prior = problem.products, problem.grid, problem.prior
    good_k = largest_good_k(grid.n_nodes)
    scores = leave_out(_scores(problem), grid.weight)
    if problem.common is None:
        start = grid.start()
        scores = refit(scores, good_k, lambda j: score_group_again(products, j, prior, parameters, start))
    bad = np.flatnonzero(scores.pareto_k > good_k)
    if len(bad):
        advice = ""
        if problem.common is not None:
            advice = " With Normal priors of the common coefficients they would be fitted again."
        warn(
            f"Pareto k is above {good_k:.2f} for {len(bad)} of {products.n_groups} groups "
            f"({listed(problem.template.to_series().index[bad])}): without them the posterior is another, and their "
            "densities are not reliable. Cross-validate (compare_estimators with GroupKFold) where they may decide "
            f"between models.{advice}",
            ConvergenceWarning,
        )
    return loo_data(
        scores.elpd + problem.shift,
        scores.lpd + problem.shift,
        scores.pareto_k,
        good_k,
        grid.n_points,
        problem.template,
    )


def waic_of_groups(training: TrainingRows | LazyGroups) -> Any:
    """Return `waic` with unit="group"."""
    problem = _problem(training)
    seen = _scores(problem).seen
    if problem.common is None:
        variance = likelihood_moments(problem.products, problem.grid, problem.prior)[1]
    else:
        variance = np.var(seen, axis=0, ddof=1)
    lpd = expected(seen.T, log_probability(problem.grid.weight)) + problem.shift
    return waic_data(lpd, variance, problem.grid.n_points, problem.template, "groups")


def _scores(problem: _Problem) -> UnitScores:
    if problem.common is None:
        return score_groups(problem.products, problem.grid, problem.prior)
    # given b, the other groups say nothing more of y_j
    density = log_likelihood_given_common(problem.products, problem.grid, problem.common)
    return UnitScores(density, density, np.zeros(density.shape, dtype=bool))


def _problem(training: TrainingRows | LazyGroups) -> _Problem:
    from xarray import DataArray

    estimator, fitted = training.estimator, training.fitted
    specification, scaling, model = training.frame.specification, fitted.scaling, fitted.model
    factor = training.frame.factors[training.factor]
    labels = factor.labels
    common, with_means = None, False
    if fitted.posterior.are_draws:
        grid = grid_of_draws(fitted.posterior, (scaling,))
        if why_not_exact(specification, fitted.priors, learnt_by(estimator).known_errors):
            _check_normal_effects(training)
            common = engine_coefficients(fitted.posterior.common, scaling, specification.has_intercept)
            if specification.factors:
                with_means = True
                location = fitted.posterior.locations[0]
                means = at_zero(fitted.posterior.law_mean(0), location.of_priors, location.intercept)
                common = np.concatenate([common, means / scaling.y_scale], axis=1)
    else:
        grid = grid_of_posterior(fitted.posterior, model, len(labels))
    products = training.products if isinstance(training, LazyGroups) else _products(training, with_means)
    names = group_names(labels)
    if common is None:
        group = unidentified_without(products, model.prior_precision)
        if group is not None:
            raise ValueError(
                f"Without group {names[group]!r} the other rows do not identify the common coefficients that have a "
                f"flat prior, so that {training.caller} has no proper posterior to predict it from. Give them a Normal "
                "prior."
            )
    return _Problem(
        products,
        grid,
        (model.prior_mean, model.prior_precision),
        common,
        -products.copies * np.log(scaling.y_scale),
        DataArray(np.zeros(len(names)), dims=[factor.name], coords={factor.name: names}),
    )


def _products(training: TrainingRows, with_means: bool) -> GroupProducts:
    frame, rows = training.frame, training.rows
    y, scaling = exact_response(frame, rows, training.fitted.scaling, training.fitted.effect_mean)
    return collect_products(
        training.design(),
        rows.codes[training.factor],
        frame.factors[training.factor].n_groups,
        y,
        scaling,
        frame.specification.has_intercept,
        rows.standard_error,
        with_means=with_means,
    )


def engine_coefficients(raw: np.ndarray, scaling: ColumnScaling, has_intercept: bool) -> np.ndarray:
    """Return coefficients in the units of the engine from those of the raw columns, (n, p); undoes `coefficients`."""
    engine = raw * scaling.x_scale / scaling.y_scale
    if has_intercept:
        engine[:, 0] = (raw[:, 0] - scaling.y_centre + raw[:, 1:] @ scaling.x_centre[1:]) / scaling.y_scale
    return engine[:, scaling.kept]


def _check_normal_effects(training: TrainingRows | LazyGroups) -> None:
    """Raise unless effects of groups are normal, so that they can be integrated out."""
    for factor in training.frame.specification.factors:
        for term in dict.fromkeys(factor.terms):
            prior = training.fitted.priors[term]
            if prior[0] != "Normal":
                raise ValueError(
                    f"{training.caller} with unit='group' integrates the effects of the group out, for which they have "
                    f"to be Normal, but the prior of {term!r} is {prior[0]}. Use unit='row', or compare_estimators "
                    "with GroupKFold."
                )
