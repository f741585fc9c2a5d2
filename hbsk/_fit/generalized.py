"""Choosing and running an engine for binary and count responses: rows and specification in, posterior out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hbsk._data.responses import are_whole
from hbsk._data.rows import Rows
from hbsk._engine.crossed import crossed_model
from hbsk._engine.distinct_rows import HeldRows
from hbsk._engine.generalized.data import Responses
from hbsk._engine.generalized.families import FAMILIES
from hbsk._engine.generalized.own_estimates import own_estimates
from hbsk._engine.priors import EnginePriors
from hbsk._engine.sums import CentredSums, collect
from hbsk._engine.threads import n_threads
from hbsk._fit.collecting import collect_factor_pairs, collect_sums
from hbsk._fit.gaussian import bambi_model, draws_posterior, effect_means
from hbsk._fit.learnt import Fitted, Learnt, copies_of_rows, learnt_of_rows
from hbsk._model.centres import varying_intercept
from hbsk._model.default_priors import default_priors, sds_of_interactions
from hbsk._model.design import DesignWithMeans
from hbsk._model.exactness import engine_priors, why_not_exact
from hbsk._model.frame import ModelFrame
from hbsk._model.options import Options
from hbsk._model.priors import resolve_centres, resolve_priors
from hbsk._model.redundancy import warn_redundant_columns
from hbsk._model.refusals import refuse_offsets_beyond_exponentials, refuse_sums_beyond_floats
from hbsk._model.tail_priors import tail_priors
from hbsk._posterior.diagnostics import nuts_diagnostics
from hbsk._posterior.generalized import fit_generalized
from hbsk._posterior.group_tables import common_counterparts
from hbsk._posterior.orders import RowOrders


def learn_generalized(options: Options, frame: ModelFrame, rows: Rows, family: str, sized_by: str) -> Learnt:
    """Fit a binary or count model, and keep what later questions need."""
    specification, design = frame.specification, held_rows(frame, rows)
    with np.errstate(over="ignore", invalid="ignore"):
        collected = sums_of_columns(frame, rows, design)
    refuse_sums_beyond_floats(specification, collected)
    warn_redundant_columns(specification, collected, rows.n_rows, pooled=options.pooling == "partial")
    fitted = infer_generalized(options, frame, rows, family, design, collected)
    return learnt_of_rows(frame, rows, fitted, family, sized_by, collected.moments)


def held_rows(frame: ModelFrame, rows: Rows) -> HeldRows:
    """Return all columns of the design at once, which the engine holds anyway."""
    return HeldRows(*frame.specification.design(rows.features).block(0, rows.n_rows))


def infer_generalized(
    options: Options, frame: ModelFrame, rows: Rows, family: str, design: HeldRows, collected: CentredSums
) -> Fitted:
    """Integrate a binary or count model, or sample it where that is asked for or needed."""
    specification = frame.specification
    defaults = _defaults(options, frame, rows, design, collected, family)
    priors = _resolved(options, frame, defaults, family)
    if options.pooling == "none":
        priors = without_pooling(options, frame, priors, defaults)
    reason = _why_sampled(options, frame, priors)
    if reason is not None:
        if options.inference == "marginal":
            raise ValueError(
                f"inference='marginal' cannot fit this model: {reason}. Use inference='auto' or 'nuts', or a model "
                "with one grouping factor, Normal or Flat priors on common terms and one of the listed priors on sds."
            )
        if not are_countable(rows, family):
            raise ValueError(
                f"This model must be sampled by NUTS ({reason}), which takes whole counts and trials: y, and trials, "
                "times sample_weight are not whole. Use whole numbers, or a model that can be integrated."
            )
        return _sample(options, frame, rows, design, priors, family, f"nuts ({reason})")
    exact = engine_priors(specification, priors, known_standard_error=True)
    responses, exact, effect_mean = stated(options, frame, rows, design, collected, family, exact)
    found = fit_generalized(responses, exact, options.integration)
    if not found.reliable and options.inference == "auto" and options.pooling != "none" and are_countable(rows, family):
        return _sample(options, frame, rows, design, priors, family, "nuts (importance sampling was not reliable)")
    why = "quadrature over the effects of one grouping factor" if specification.factors else "without groups"
    posterior = replace(found.posterior, effect_mean=effect_mean)
    return Fitted(
        posterior,
        priors,
        f"marginal ({why})",
        reliable=found.reliable,
        effect_mean=effect_mean,
        own_estimates=_own_estimates(frame, rows, design, posterior, family),
    )


def stated(
    options: Options,
    frame: ModelFrame,
    rows: Rows,
    design: HeldRows,
    collected: CentredSums,
    family: str,
    exact: EnginePriors,
) -> tuple[Responses, EnginePriors, np.ndarray | None]:
    """Return rows and priors as the engine takes them, and the fixed means of effects."""
    if options.pooling == "none":
        columns = range(len(exact.group_sd))
        exact = replace(exact, blocks=tuple((k,) for k in columns), lkj_eta=tuple(1.0 for _ in columns))
    effect_mean = effect_means(frame.specification, exact) if np.any(exact.group_mean) else None
    return responses_of(frame, rows, design, collected, family, effect_mean), exact, effect_mean


def _why_sampled(options, frame, priors) -> str | None:
    """Return why a model must be sampled."""
    if options.inference == "nuts":
        return "inference='nuts' was asked for"
    reason = why_not_exact(frame.specification, priors, known_standard_error=True)
    if reason is not None:
        return reason
    if len(frame.specification.factors) > 1:
        return "it has several grouping factors"
    return None


def sums_of_columns(frame: ModelFrame, rows: Rows, design: HeldRows) -> CentredSums:
    """Collect the sums of the columns, a row with m trials as m rows: forms of the same data have the same priors.

    Those of groups are there where they are looked at: where there are as many common columns, which may tell all
    groups apart.
    """
    specification = frame.specification
    assert rows.y is not None
    codes, n_groups, intercept = None, 0, None
    if specification.factors and rows.factors[0].n_groups <= design.x.shape[1]:
        codes, n_groups = rows.codes[0], rows.factors[0].n_groups
        intercept = varying_intercept(specification.factors[0])
    return collect(
        design,
        codes,
        n_groups,
        rows.y,
        has_intercept=specification.has_intercept,
        sample_weight=copies_of_rows(rows),
        counterparts=[common_counterparts(specification, factor) for factor in specification.factors],
        varying_intercept=intercept,
        n_threads=n_threads(),
    )


def generalized_priors(options: Options, frame: ModelFrame, rows: Rows, family: str) -> dict[str, Any]:
    """Return every prior of the model, the user's and the defaults, as plain data."""
    design = held_rows(frame, rows)
    defaults = _defaults(options, frame, rows, design, sums_of_columns(frame, rows, design), family)
    priors = _resolved(options, frame, defaults, family)
    return without_pooling(options, frame, priors, defaults) if options.pooling == "none" else priors


def _defaults(options, frame, rows, design, collected, family) -> dict[str, Any]:
    specification = frame.specification
    centres = resolve_centres(specification, collected.moments.z_mean, options.priors)
    refuse_offsets_beyond_exponentials(design.offset, family)
    copies = np.ones(rows.n_rows) if (given := copies_of_rows(rows)) is None else given
    return default_priors(
        specification,
        collected.moments,
        centres,
        family=family,
        location=_log_rate(rows, design.offset) if family == "poisson" else 0.0,
        interaction_sd=sds_of_interactions(specification, design.x, copies) if family == "binomial" else None,
    )


def _log_rate(rows: Rows, offset: np.ndarray | None) -> float:
    """Return the log of the pooled rate of counts; 0 where nothing was counted."""
    weight = np.ones(rows.n_rows) if rows.sample_weight is None else rows.sample_weight
    size = np.ones(rows.n_rows) if rows.size is None else rows.size
    with np.errstate(over="ignore"):
        exposure = weight @ (size if offset is None else size * np.exp(offset))
    assert rows.y is not None
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
    frame: ModelFrame,
    rows: Rows,
    design: HeldRows,
    collected: CentredSums,
    family: str,
    effect_mean: np.ndarray | None,
) -> Responses:
    """Return rows as the engine takes them."""
    specification = frame.specification
    whole = design if effect_mean is None else DesignWithMeans(design, effect_mean)
    x, z, offset = whole.block(0, rows.n_rows)
    assert rows.y is not None
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


def _own_estimates(frame, rows, design, posterior, family) -> tuple[np.ndarray, ...]:
    """Return for each factor what each group's own rows say of its coefficients, all else at posterior means."""
    specification = frame.specification
    x, z, offset = design
    rest = np.zeros(rows.n_rows) if offset is None else offset
    effects = (
        [
            np.einsum("rk,rk->r", columns, posterior.group_moments(f, need_covariance=False).mean[codes])
            for f, (columns, codes) in enumerate(zip(z, rows.codes, strict=True))
        ]
        if len(specification.factors) > 1
        else []
    )
    found = []
    for f, factor in enumerate(specification.factors):
        others = posterior.common_estimates().copy()
        for column in common_counterparts(specification, factor):
            if column is not None:
                others[column] = 0.0
        beside = rest + x @ others + sum(effect for i, effect in enumerate(effects) if i != f)
        size = np.ones(rows.n_rows) if rows.size is None else rows.size
        n_groups = rows.factors[f].n_groups
        found.append(own_estimates(family, rows.y, size, z[f], rows.codes[f], n_groups, beside, rows.sample_weight))
    return tuple(found)


# ---------------------------------------------------------------------------------------------------------------------
# NUTS


def are_countable(rows: Rows, family: str) -> bool:
    """Tell whether y and trials of all copies of a row are whole, which is what Bambi takes."""
    weight = np.ones(rows.n_rows) if rows.sample_weight is None else rows.sample_weight
    trials = weight if rows.size is None else rows.size * weight
    assert rows.y is not None
    return bool(are_whole(rows.y * weight).all()) and (family == "poisson" or bool(are_whole(trials).all()))


def _sample(options, frame, rows, design, priors, family, why) -> Fitted:
    """Sample the posterior by NUTS through Bambi."""
    from hbsk._bambi.sampling import diagnose, sample_posterior

    specification = frame.specification
    n_factors = len(specification.factors)
    draws = sample_posterior(bambi_model(frame, rows, priors, family), **options.sampling)
    posterior = replace(draws_posterior(draws, ()), family=family)
    working = _working_rows(rows, design, posterior, family)
    parts = [collect_sums(frame, working, f) for f in range(n_factors)]
    posterior = replace(draws_posterior(draws, parts), family=family)
    if n_factors > 1:
        stand_in, _ = tail_priors(specification, priors, True)
        model, scalings = crossed_model(parts, collect_factor_pairs(frame, working, parts), stand_in)
        posterior = replace(posterior, orders=RowOrders(model.sums, scalings, parts[0].has_intercept))
    stats = draws.datatree["sample_stats"]
    diagnosed = nuts_diagnostics(specification, posterior, diagnose(draws), int(draws.divergent.sum()))
    return Fitted(
        replace(posterior, diagnosed=diagnosed),
        priors,
        why,
        reliable=False,
        sample_stats={name: stats[name].to_numpy() for name in stats.data_vars},
        own_estimates=_own_estimates(frame, rows, design, posterior, family),
    )


def _working_rows(rows, design, posterior, family) -> Rows:
    """Return rows with the errors of their working responses at the mean predictor, as iterated least squares has them.

    McCullagh and Nelder (1989), section 2.5: shrinkage is told by the curvature of the likelihood.
    """
    predictor, _ = posterior.row_moments(design.x, design.z, rows.codes, False)
    if design.offset is not None:
        predictor = predictor + design.offset
    mean, curvature = FAMILIES[family].mean_and_weight(predictor)
    size = np.ones(rows.n_rows) if rows.size is None else rows.size
    information = np.maximum(size * curvature, 1e-12)
    y = predictor + (rows.y - size * mean) / information
    return replace(rows, y=y, y_deviation=y, y_origin=0.0, size=None, standard_error=information**-0.5)
