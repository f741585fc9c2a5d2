"""LOO and WAIC of binary and count responses: rows and groups leave the quadrature that integrated them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hbsk._base import learnt_by, read_predicted, sized_by
from hbsk._data.checks import check_target
from hbsk._data.labels import group_names
from hbsk._data.responses import as_counts, check_sizes, positions_of_classes
from hbsk._data.rows import Rows
from hbsk._engine.generalized.data import Responses
from hbsk._engine.priors import EnginePriors
from hbsk._fit.generalized import held_rows, stated, sums_of_columns
from hbsk._messages import listed, warn
from hbsk._model.design import PredictedRows
from hbsk._model.exactness import engine_priors
from hbsk._model.frame import unknown_rows
from hbsk._model.options import options_of
from hbsk._posterior.generalized import fit_generalized
from hbsk._posterior.likelihoods import log_density
from hbsk._posterior.response import response_points
from hbsk.exceptions import ConvergenceWarning
from hbsk.model_selection._elpd import loo_data, waic_data
from hbsk.model_selection._variance_grid import UnitScores, expected, largest_good_k, leave_out, log_probability

SIZES = {"poisson": "exposure", "binomial": "trials"}
# Largest difference of coefficients, in posterior sds, of two fits of the same rows.
SAME = 1e-3


@dataclass(frozen=True)
class _Problem:
    """A fit with its rows.

    Attributes
    ----------
    estimator : estimator
    caller : str
    predicted : PredictedRows
    rows : Rows
    family : str
    """

    estimator: Any
    caller: str
    predicted: PredictedRows
    rows: Rows
    family: str

    @property
    def posterior(self):
        """The posterior of the fit."""
        return learnt_by(self.estimator).fitted.posterior

    @property
    def size(self) -> np.ndarray:
        """Trials or exposure."""
        return np.ones(self.rows.n_rows) if self.rows.size is None else self.rows.size


def is_generalized(estimator: Any) -> bool:
    """Tell whether an estimator was fitted to classes or counts."""
    return getattr(getattr(estimator, "_learnt", None), "family", "gaussian") != "gaussian"


def loo_of_counts(estimator: Any, X: Any, y: Any, given: dict[str, Any], unit: str) -> Any:
    """Return `loo` of a classifier or a regressor of counts."""
    problem = _read(estimator, X, y, given, unit, "loo")
    if unit == "group":
        left, weight, names, seen = _of_groups(problem)
        again = None
    else:
        left, weight, seen, again = _of_rows(problem)
        names = np.arange(problem.rows.n_rows)
    scores = leave_out(UnitScores(left, left, np.zeros(left.shape, dtype=bool)), weight)
    elpd, pareto_k, good_k = scores.elpd.copy(), scores.pareto_k.copy(), largest_good_k(len(weight))
    if again is not None:
        for i in np.flatnonzero(pareto_k > good_k):
            elpd[i], pareto_k[i] = again(int(i)), 0.0
    bad = np.flatnonzero(pareto_k > good_k)
    if len(bad):
        warn(
            f"Pareto k is above {good_k:.2f} for {len(bad)} of {len(elpd)} {unit}s ({listed(names[bad])}): without "
            "them the posterior is another, and their densities are not reliable. Cross-validate (compare_estimators) "
            "where they may decide between models.",
            ConvergenceWarning,
        )
    return loo_data(elpd, seen, pareto_k, good_k, len(weight), _template(problem, unit, names))


def waic_of_counts(estimator: Any, X: Any, y: Any, given: dict[str, Any], unit: str) -> Any:
    """Return `waic` of a classifier or a regressor of counts."""
    problem = _read(estimator, X, y, given, unit, "waic")
    if unit == "group":
        values, weight, names, seen = _of_groups(problem)
        variance = weight @ (values - weight @ values) ** 2
        n = len(weight)
    else:
        seen, variance, n = _moments_of_rows(problem)
        names = np.arange(len(seen))
    return waic_data(seen, variance, n, _template(problem, unit, names), f"{unit}s")


def _read(estimator, X, y, given, unit, caller) -> _Problem:
    """Read the rows of a fit again."""
    learnt = learnt_by(estimator)
    name, family = type(estimator).__name__, learnt.family
    for argument in ("standard_error", "factor"):
        if given.get(argument) is not None:
            raise ValueError(f"{argument}= is not for a {name}. Leave it out.")
    if unit == "group" and len(learnt.frame.factors) != 1:
        n_factors = len(learnt.frame.factors)
        raise ValueError(f"{caller} with unit='group' needs one grouping factor; this {name} has {n_factors}.")
    wanted, other = SIZES[family], SIZES["binomial" if family == "poisson" else "poisson"]
    if given.get(other) is not None:
        raise ValueError(f"{other}= was given, and this {name} was fitted to a {family} response. Leave it out.")
    if given.get(wanted) is None and sized_by(estimator):
        raise ValueError(f"{caller} needs {wanted}= for these rows: this {name} was fitted with it.")
    if y is None:
        raise ValueError(f"{caller} needs y, the responses that the model was fitted to; got None.")
    predicted, rows = read_predicted(estimator, X, given.get("groups"))
    if hasattr(estimator, "classes_"):
        numbers = positions_of_classes(y, estimator.classes_, rows.n_rows, name)
    else:
        numbers = check_target(y, rows.n_rows, name)
    size = check_sizes(given.get(wanted), rows.n_rows, wanted, name)
    rows = as_counts(replace(rows, y=numbers, y_deviation=numbers, y_origin=0.0, size=size), family)
    problem = _Problem(estimator, caller, predicted, rows, family)
    counted = rows.size if rows.size is not None else np.ones(rows.n_rows)
    same = not unknown_rows(rows).any()
    if learnt.frame.specification.factors:
        for codes, copies in zip(rows.codes, learnt.copies, strict=True):
            same = same and np.allclose(np.bincount(codes, counted, len(copies))[: len(copies)], copies)
    if not same:
        _refuse_other_rows(caller)
    return problem


def _refuse_other_rows(caller):
    raise ValueError(
        f"{caller} needs the rows that the model was fitted to, and these are others. A fit with sample_weight= is not "
        "taken: repeat the rows instead, or give exposure= or trials=. To score other rows use the estimator's score, "
        "or compare_estimators."
    )


def _again(problem) -> tuple[Responses, EnginePriors, Any]:
    """Integrate the model of the fit again, which is the same posterior if the rows are the same."""
    learnt = learnt_by(problem.estimator)
    exact = engine_priors(learnt.frame.specification, learnt.fitted.priors, known_standard_error=True)
    options = options_of(problem.estimator)
    design = held_rows(learnt.frame, problem.rows)
    collected = sums_of_columns(learnt.frame, problem.rows, design)
    responses, exact, _ = stated(options, learnt.frame, problem.rows, design, collected, problem.family, exact)
    found = fit_generalized(responses, exact, options.integration)
    before, (mean, covariance) = problem.posterior.common_estimates(), found.posterior.common_moments()
    if np.any(np.abs(mean - before) > SAME * np.sqrt(np.diag(covariance)) + 1e-9):
        _refuse_other_rows(problem.caller)
    return responses, exact, found


def _of_rows(problem) -> tuple[np.ndarray, np.ndarray, np.ndarray, Callable[[int], float] | None]:
    """Return ``log p(y_i | y_-i, node)``, weights of nodes, log densities given all rows, and how to refit a row."""
    seen, _, _ = _moments_of_rows(problem)
    posterior = problem.posterior
    if posterior.are_draws:
        x, z, offset = problem.predicted.design.block(0, problem.rows.n_rows)
        predictor = posterior.row_mixture(x, z, list(problem.rows.codes)).mean
        predictor = predictor if offset is None else predictor + offset
        left = log_density(problem.family, problem.rows.y, predictor, problem.size)
        return left, posterior.weight, seen, None
    responses, exact, found = _again(problem)
    left, weight = found.row_log_predictive(responses)

    def without(i: int) -> float:
        kept = np.ones(problem.rows.n_rows)
        kept[i] = 0.0
        other = fit_generalized(replace(responses, weight=kept), exact).posterior
        fitted = learnt_by(problem.estimator).fitted
        return float(_log_means(problem, replace(other, effect_mean=fitted.effect_mean), np.array([i]))[0][0])

    return left, weight, seen, without


def _of_groups(problem) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return ``log p(y_j | node)``, weights of nodes, names of groups and ``log p(y_j | y)``."""
    learnt, posterior = learnt_by(problem.estimator), problem.posterior
    (factor,) = learnt.frame.factors
    if problem.estimator.pooling == "none":
        raise ValueError(
            f"{problem.caller} with unit='group' asks for the density of a new group, and pooling='none' has groups "
            "that have nothing in common. Use unit='row', or pooling='partial' or 'complete'."
        )
    if posterior.are_draws or not learnt.frame.specification.factors:
        raise ValueError(
            f"{problem.caller} with unit='group' is for models with partial pooling that were integrated. Use "
            "unit='row', or compare_estimators with GroupKFold."
        )
    _, _, found = _again(problem)
    values, weight = found.posterior.group_log_likelihood, found.posterior.weight
    return values, weight, np.asarray(group_names(factor.labels)), expected(values.T, log_probability(weight))


def _moments_of_rows(problem) -> tuple[np.ndarray, np.ndarray, int]:
    """Return log of the mean and variance of the log of the density of each row, and the number of nodes."""
    log_mean, variance = _log_means(problem, problem.posterior, np.arange(problem.rows.n_rows))
    return log_mean, variance, problem.posterior.n_nodes


def _log_means(problem, posterior, which):
    """Return log means and variances of the log of densities of some rows under a posterior."""
    x, z, offset = problem.predicted.design.block(0, problem.rows.n_rows)
    law = (x[which], [part[which] for part in z], [code[which] for code in problem.rows.codes])
    y, size = problem.rows.y[which], problem.size[which]
    log_mean, variance = np.empty(len(which)), np.empty(len(which))
    for at, points, weight in response_points(posterior, *law, None if offset is None else offset[which]):
        density = log_density(problem.family, y[at], points, size[at])
        log_mean[at] = expected(density.T, log_probability(weight))
        variance[at] = weight @ (density - weight @ density) ** 2
    return log_mean, variance


def _template(problem, unit, names):
    from xarray import DataArray

    dim = "__obs__"
    if unit == "group":
        (factor,) = learnt_by(problem.estimator).frame.factors
        dim = factor.name
    return DataArray(np.zeros(len(names)), dims=[dim], coords={dim: names})
