"""Choosing and running an engine for binary and count responses: rows and specification in, posterior out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hbsk._data.rows import Rows
from hbsk._engine.generalized.data import Responses
from hbsk._engine.generalized.own_estimates import own_estimates
from hbsk._engine.priors import EnginePriors
from hbsk._engine.sums import CentredSums
from hbsk._fit import collect_sums, effect_means
from hbsk._learnt import Fitted, copies_of_rows
from hbsk._model.centres import varying_intercept
from hbsk._model.default_priors import default_priors, sds_of_interactions
from hbsk._model.design import DesignWithMeans
from hbsk._model.frame import ModelFrame
from hbsk._model.options import Options
from hbsk._model.priors import engine_priors, resolve_centres, resolve_priors
from hbsk._model.redundancy import warn_redundant_columns
from hbsk._model.refusals import refuse_sums_beyond_floats
from hbsk._posterior.generalized import fit_generalized
from hbsk._posterior.group_tables import common_counterparts


def infer_generalized(options: Options, frame: ModelFrame, rows: Rows, family: str) -> Fitted:
    """Integrate a binary or count model, or sample it where that is asked for or needed."""
    specification = frame.specification
    with np.errstate(over="ignore", invalid="ignore"):
        collected = sums_of_columns(frame, rows)
    refuse_sums_beyond_floats(specification, collected)
    warn_redundant_columns(specification, collected, rows.n_rows, pooled=options.pooling == "partial")
    defaults = _defaults(options, frame, rows, collected, family)
    priors = _resolved(options, frame, defaults, family)
    if options.pooling == "none":
        priors = without_pooling(options, frame, priors, defaults)
    exact = engine_priors(specification, priors, known_standard_error=True)
    reason = _why_sampled(options, frame, exact)
    if reason is not None:
        raise ValueError(
            f"{options.name} integrates, and cannot fit this model: {reason}. Sampling by NUTS of binary and count "
            "responses is not there yet; to_bambi is, for the same model in Bambi."
        )
    assert isinstance(exact, EnginePriors)
    if options.pooling == "none":
        exact = replace(
            exact, blocks=tuple((k,) for k in range(len(exact.group_sd))), lkj_eta=(1.0,) * len(exact.group_sd)
        )
    effect_mean = effect_means(specification, exact) if np.any(exact.group_mean) else None
    responses = responses_of(frame, rows, collected, family, effect_mean)
    found = fit_generalized(responses, exact, options.integration)
    why = "quadrature over the effects of one grouping factor" if specification.factors else "without groups"
    posterior = replace(found.posterior, effect_mean=effect_mean)
    return Fitted(
        posterior,
        priors,
        f"marginal ({why})",
        reliable=found.reliable,
        effect_mean=effect_mean,
        own_estimates=_own_estimates(frame, responses, posterior, effect_mean),
    )


def _why_sampled(options, frame, exact) -> str | None:
    """Return why a model must be sampled."""
    if options.inference == "nuts":
        return "inference='nuts' was asked for"
    if isinstance(exact, str):
        return exact
    if len(frame.specification.factors) > 1:
        return "it has several grouping factors"
    return None


def sums_of_columns(frame: ModelFrame, rows: Rows) -> CentredSums:
    """Collect the sums of the columns, a row with m trials as m rows: forms of the same data have the same priors."""
    return collect_sums(frame, replace(rows, sample_weight=copies_of_rows(rows)))


def generalized_priors(options: Options, frame: ModelFrame, rows: Rows, family: str) -> dict[str, Any]:
    """Return every prior of the model, the user's and the defaults, as plain data."""
    return _resolved(options, frame, _defaults(options, frame, rows, sums_of_columns(frame, rows), family), family)


def _defaults(options, frame, rows, collected, family) -> dict[str, Any]:
    specification = frame.specification
    centres = resolve_centres(specification, collected.moments.z_mean, options.priors)
    x, _, offset = specification.design(rows.features).block(0, rows.n_rows)
    copies = np.ones(rows.n_rows) if (given := copies_of_rows(rows)) is None else given
    return default_priors(
        specification,
        collected.moments,
        centres,
        family=family,
        location=_log_rate(rows, offset) if family == "poisson" else 0.0,
        interaction_sd=sds_of_interactions(specification, x, copies) if family == "binomial" else None,
    )


def _log_rate(rows: Rows, offset: np.ndarray | None) -> float:
    """Return the log of the pooled rate of counts; 0 where nothing was counted."""
    weight = np.ones(rows.n_rows) if rows.sample_weight is None else rows.sample_weight
    size = np.ones(rows.n_rows) if rows.size is None else rows.size
    with np.errstate(over="ignore"):
        exposure = weight @ (size if offset is None else size * np.exp(offset))
    total = weight @ rows.y
    rate = total / exposure
    return float(np.log(rate)) if total > 0 and 0 < rate < np.inf else 0.0


def _resolved(options, frame, defaults, family) -> dict[str, Any]:
    unused = frame.grouped if frame.ignores_groups else None
    return resolve_priors(frame.specification, defaults, options.priors, family=family, unused=unused)


def without_pooling(options: Options, frame: ModelFrame, priors: dict[str, Any], defaults: dict[str, Any]):
    """Return priors with the sd of every varying term fixed at the scale of its default prior.

    A group that has seen nothing but successes has no estimate of its own that is finite: the limit of infinite sds,
    which a Gaussian model has, does not exist.
    """
    factors = frame.specification.factors
    if options.inference == "nuts":
        raise ValueError(
            "inference='nuts' cannot be combined with pooling='none', whose sds between groups are fixed. Use "
            "inference='auto'."
        )
    if len(factors) > 1:
        names = [factor.name for factor in factors]
        raise ValueError(
            f"pooling='none' takes one grouping factor, and the model has several grouping factors "
            f"({', '.join(names)}). Name one factor, combine them into one column, or write them as common terms, "
            f"{' + '.join(f'C({name})' for name in names)}."
        )
    fixed = dict(priors)
    for factor in factors:
        for term in dict.fromkeys(factor.terms):
            scale = defaults[term][1]["sigma"][1]["sigma"]
            fixed[term] = ("Normal", {"mu": 0.0, "sigma": scale})
        fixed.pop(f"corr|{factor.name}", None)
    return fixed


def responses_of(
    frame: ModelFrame, rows: Rows, collected: CentredSums, family: str, effect_mean: np.ndarray | None
) -> Responses:
    """Return rows as the engine takes them."""
    specification = frame.specification
    design = specification.design(rows.features)
    if effect_mean is not None:
        design = DesignWithMeans(design, effect_mean)
    x, z, offset = design.block(0, rows.n_rows)
    moments, factors = collected.moments, specification.factors
    return Responses(
        family,
        rows.y,
        np.ones(rows.n_rows) if rows.size is None else rows.size,
        x,
        z[0] if factors else np.empty((rows.n_rows, 0)),
        rows.codes[0] if factors else np.zeros(rows.n_rows, dtype=int),
        rows.factors[0].n_groups if factors else 0,
        has_intercept=specification.has_intercept,
        varying_intercept=varying_intercept(factors[0]) if factors else None,
        weight=rows.sample_weight,
        offset=offset,
        x_moments=(moments.x_mean, moments.x_sd),
        z_moments=(moments.z_mean[0], moments.z_sd[0]) if factors else None,
    )


def _own_estimates(frame, responses, posterior, effect_mean) -> np.ndarray | None:
    """Return what each group's own rows say of its coefficients, beside the other columns' posterior means."""
    specification = frame.specification
    if not specification.factors:
        return None
    (factor,) = specification.factors
    others = posterior.common_estimates().copy()
    for column in common_counterparts(specification, factor):
        if column is not None:
            others[column] = 0.0
    offset = responses.x @ others
    if responses.offset is not None:
        offset += responses.offset
    if effect_mean is not None:  # the means are part of what a group's rows tell
        offset -= responses.z @ effect_mean
    return own_estimates(
        responses.family,
        responses.y,
        responses.size,
        responses.z,
        responses.codes,
        responses.n_groups,
        offset,
        responses.weight,
    )
