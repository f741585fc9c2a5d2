"""Choosing and running an engine: data and specification in, posterior and diagnostics out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from hbsk._data.checks import STEPS_IN_AN_SD
from hbsk._data.rows import Rows
from hbsk._engine.crossed import crossed_model
from hbsk._engine.crossed_propriety import crossed_tails
from hbsk._engine.crossed_sums import standardise_factors
from hbsk._engine.fit import marginal_model
from hbsk._engine.merging import less_effect_means
from hbsk._engine.priors import EnginePriors
from hbsk._engine.propriety import Tails, at_zero, posterior_tails
from hbsk._engine.scaling import ColumnScaling
from hbsk._engine.varying_location import at_zero as effects_at_zero
from hbsk._fit.collecting import collect_factor_pairs, collect_factors, collect_response, collect_sums
from hbsk._fit.learnt import Fitted
from hbsk._messages import quoted, shown
from hbsk._model.centres import varying_intercept
from hbsk._model.default_priors import default_priors
from hbsk._model.exactness import engine_priors, why_not_exact
from hbsk._model.formula import as_common_terms
from hbsk._model.frame import ModelFrame
from hbsk._model.options import Options
from hbsk._model.priors import resolve_centres, resolve_priors
from hbsk._model.redundancy import warn_redundant_columns
from hbsk._model.refusals import (
    refuse_copies_beyond_count,
    refuse_noise_lost_in_rounding,
    refuse_sampling_of_sums,
    refuse_sums_beyond_floats,
)
from hbsk._model.tail_priors import tail_priors
from hbsk._posterior.crossed import fit_crossed
from hbsk._posterior.diagnostics import nuts_diagnostics
from hbsk._posterior.draws import DrawsLocation, DrawsPosterior
from hbsk._posterior.group_tables import column_labels
from hbsk._posterior.integrated import fit_marginal
from hbsk._posterior.no_pooling import fit_no_pooling
from hbsk._posterior.orders import RowOrders
from hbsk._posterior.own_estimates import own_effects
from hbsk.sufficient_statistics import SufficientStatistics


def infer(options: Options, statistics: SufficientStatistics, rows: Rows | None = None) -> Fitted:
    """Run the engine that is asked for, or the one that is exact and fast.

    Parameters
    ----------
    options : Options
    statistics : SufficientStatistics
        Sums over the groups of the first factor.
    rows : Rows, optional
        What they were collected from; several factors and NUTS need them.
    """
    frame, collected, known = statistics.frame, statistics.collected, statistics.known_errors
    specification = frame.specification
    pooled = options.pooling == "partial"
    if pooled and known:
        least, weighted = statistics.least_noise, statistics.is_weighted
        refuse_noise_lost_in_rounding(
            collected, least, "standard_error goes down to", "standard_error", is_weighted=weighted
        )
    refuse_sums_beyond_floats(specification, collected)
    if not known:
        refuse_copies_beyond_count(collected.sums.n)
    warn_redundant_columns(specification, collected, statistics.n_rows, pooled=pooled)
    priors = _priors(options.priors, frame, collected, known)
    if pooled and isinstance(priors.get("sigma"), float):
        least = priors["sigma"] * statistics.least_noise
        refuse_noise_lost_in_rounding(collected, least, "priors['sigma'] is", "it", is_weighted=statistics.is_weighted)
    reason = why_not_exact(specification, priors, known)
    exact = engine_priors(specification, priors, known) if reason is None else None
    effect_mean = None
    if exact is not None and pooled and np.any(exact.group_mean):
        # known means are an offset, for known and new groups alike
        # priors are of effects at their point; rows are answered with those at zero
        effect_mean = effect_means(specification, exact)
        if len(specification.factors) == 1:
            collected = less_effect_means(collected, effect_mean)
        else:
            assert rows is not None
            collected = collect_sums(frame, rows, effect_mean=effect_mean)
    if options.pooling == "none":
        return _no_pooling(options, frame, collected, priors, exact, reason)
    if options.inference == "marginal" and reason is not None:
        raise ValueError(
            f"inference='marginal' cannot fit this model: {reason}. Use inference='auto' or 'nuts', or a model with "
            "Normal or Flat priors on common terms and one of the listed priors on sds."
        )
    if reason is None and options.inference != "nuts" and len(specification.factors) > 1:
        return _integrate_factors(options, frame, rows, collected, priors, exact, effect_mean)
    if options.inference == "nuts" or reason is not None:
        if rows is None:
            refuse_sampling_of_sums(reason)
        why = "inference='nuts' was asked for" if options.inference == "nuts" else reason
        fitted = _nuts(options, frame, rows, collected, priors, exact, f"nuts ({why})")
        return replace(fitted, effect_mean=effect_mean)
    assert exact is not None  # there is no reason why not
    fit = fit_marginal(collected, exact, options.sampling, _varying_labels(frame), options.integration)
    posterior = replace(fit.posterior, effect_mean=effect_mean)
    why = "exact for one grouping factor" if specification.factors else "exact without groups"
    if fit.posterior.n_chains:
        why += "; its variance parameters sampled by NUTS, since importance sampling was not reliable"
    return Fitted(
        posterior,
        priors,
        f"marginal ({why})",
        fit.model,
        posterior.scaling,
        fit.reliable and not fit.is_coarse,
        effect_mean=effect_mean,
    )


def effect_means(specification, exact) -> np.ndarray:
    """Return the fixed means of effects at zero, of all factors."""
    means, start = [], 0
    for factor in specification.factors:
        at = slice(start, start + len(factor.columns))
        means.append(effects_at_zero(exact.group_mean[at], exact.centre[at], varying_intercept(factor)))
        start = at.stop
    return np.concatenate(means)


def _integrate_factors(options, frame, rows, collected, priors, exact, effect_mean) -> Fitted:
    """Integrate several grouping factors."""
    parts, pairs = collect_factors(frame, rows, effect_mean, collected)
    model, scalings = crossed_model(parts, pairs, exact)
    tails = _tails_at_zero(crossed_tails(model, _varying_labels(frame)), exact, parts)
    posterior, is_reliable = fit_crossed(
        model, scalings, collected.has_intercept, tails, options.sampling, options.integration
    )
    why = model.passes.how
    if posterior.n_chains:
        why += "; its variance parameters sampled by NUTS, since importance sampling was not reliable"
    posterior = replace(posterior, effect_mean=effect_mean)
    return Fitted(posterior, priors, f"marginal ({why})", reliable=is_reliable, effect_mean=effect_mean)


def _varying_labels(frame) -> list[str]:
    return [label for factor in frame.specification.factors for label in column_labels(factor)]


def _tails_at_zero(tails, priors, parts):
    sizes = [part.sums.n_varying for part in parts]
    return at_zero(tails, priors.centre, [part.varying_intercept for part in parts], sizes)


def model_priors(given: Mapping[str, Any] | None, frame: ModelFrame, rows: Rows) -> dict[str, Any]:
    """Return every prior of the model, the user's and the defaults, as plain data."""
    return _priors(given, frame, collect_sums(frame, rows), rows.standard_error is not None)


def _priors(given, frame, collected, known) -> dict[str, Any]:
    centres = resolve_centres(frame.specification, collected.moments.z_mean, given)
    defaults = default_priors(frame.specification, collected.moments, centres)
    if known:
        defaults.pop("sigma", None)
    unused = frame.grouped if frame.ignores_groups else None
    return resolve_priors(frame.specification, defaults, given, known_standard_error=known, unused=unused)


def _no_pooling(options, frame, collected, priors, exact, reason) -> Fitted:
    if options.inference == "nuts":
        raise ValueError(
            "inference='nuts' cannot be combined with pooling='none': it is the limit of infinite between-group sds, "
            "which has no sampler. Use inference='auto'."
        )
    if len(frame.specification.factors) > 1:
        factors = frame.specification.factors
        columns = [(factor.source and factor.source.columns) or (factor.name,) for factor in factors]
        raise ValueError(
            f"pooling='none' takes one grouping factor, and the model has {quoted(f.name for f in factors)}, whose "
            "separate effects are not identified without pooling. Name one factor, combine them into one, or write "
            f"them as common terms of columns of X: {as_common_terms(columns)}."
        )
    if exact is None:
        raise ValueError(f"pooling='none' needs a model that the marginal engine can take, but {reason}.")
    model, scaling = marginal_model(collected, exact)
    if not frame.specification.factors:
        fit = fit_marginal(collected, exact)
        return Fitted(fit.posterior, priors, "marginal (exact without groups)", model, scaling)
    posterior = fit_no_pooling(model, scaling, collected.has_intercept)
    return Fitted(posterior, priors, "marginal (exact: the limit of infinite between-group sds)", model, scaling)


def _nuts(options, frame, rows, collected, priors, exact, why) -> Fitted:
    from hbsk._bambi.sampling import diagnose, sample_posterior

    step, spread = np.spacing(np.abs(rows.y).max()), np.std(rows.y_deviation)
    if 0 < spread < STEPS_IN_AN_SD * step:
        raise ValueError(
            f"y lies near {shown(float(rows.y[0]))} with a standard deviation of {spread:.3g}, where floats are "
            f"{step:.3g} apart, and NUTS takes y as it is. Subtract a number from y first, or use inference='marginal'."
        )
    specification = frame.specification
    more = [collect_sums(frame, rows, f) for f in range(1, len(specification.factors))]
    tails, orders = _tails_of_draws(frame, rows, [collected, *more], priors)
    draws = sample_posterior(bambi_model(frame, rows, priors), **options.sampling)
    engine_model, scaling = _sums_for_comparison(specification, collected, exact)
    posterior = draws_posterior(draws, (collected, *more) if specification.factors else ())
    posterior = replace(posterior, tails=tails, orders=orders)
    stats = draws.datatree["sample_stats"]
    diagnosed = nuts_diagnostics(specification, posterior, diagnose(draws), int(draws.divergent.sum()))
    if more:
        posterior = replace(posterior, own=_own_effects(frame, rows, posterior, (collected, *more)))
    return Fitted(
        replace(posterior, diagnosed=diagnosed),
        priors,
        why,
        engine_model,
        scaling,
        reliable=False,
        sample_stats={name: stats[name].to_numpy() for name in stats.data_vars},
    )


def _tails_of_draws(frame, rows, parts, priors) -> tuple[Tails, RowOrders | None]:
    """Return which moments of a posterior that is sampled do not exist, and what tells it of rows.

    The sums that tell it are there for several factors in any case.

    Raises
    ------
    ImproperPosteriorError
        Where there is nothing to sample.
    """
    specification, names = frame.specification, _varying_labels(frame)
    stand_in, means = tail_priors(specification, priors, rows.standard_error is not None)
    one = len(parts) == 1
    if one:
        model, scaling = marginal_model(parts[0], stand_in)
        scalings: tuple[ColumnScaling, ...] = (scaling,)
    else:
        model, scalings = crossed_model(parts, collect_factor_pairs(frame, rows, parts), stand_in)
    # in any units, only what is flat counts
    model.prior_precision = np.where(np.isinf(stand_in.common_sd[scalings[0].kept]), 0.0, 1.0)
    tails = posterior_tails(model, names, means=means) if one else crossed_tails(model, names, means)
    if one and not tails.sets:
        return Tails(), None
    return _tails_at_zero(tails, stand_in, parts), RowOrders(model.sums, scalings, parts[0].has_intercept)


def bambi_model(frame: ModelFrame, rows: Rows, priors: dict[str, Any], family: str = "gaussian"):
    """Return the model as a `bambi.Model` with explicit priors."""
    from hbsk._bambi.model import build_model
    from hbsk._bambi.raw_terms import raw_terms

    specification = frame.specification
    factors = specification.factors
    return build_model(
        specification,
        priors,
        specification.design(rows.features),
        rows.y,
        {factor.name: codes for factor, codes in zip(factors, rows.codes, strict=bool(factors))},
        {factor.name: factor.labels for factor in factors},
        sample_weight=rows.sample_weight,
        standard_error=rows.standard_error,
        raw=raw_terms(specification, rows.features),
        family=family,
        size=rows.size,
    )


def _sums_for_comparison(specification, collected, exact):
    """Return the sums that no-pooling estimates of the same model need; None with several factors."""
    if len(specification.factors) > 1:
        return None, None
    if exact is None:
        p = len(specification.common_columns)
        q = len(specification.factors[0].columns) if specification.factors else 0
        exact = EnginePriors(
            np.zeros(p), np.full(p, np.inf), None if collected.sums.log_weight else 1.0, [1.0] * q, (), ()
        )
    return marginal_model(collected, exact)


def diagnose_fit(frame: ModelFrame, fitted: Fitted, *, sigma_is_parameter: bool):
    """Return the diagnostics table of whichever engine ran."""
    return fitted.posterior.diagnostics(frame.specification, sigma_is_parameter=sigma_is_parameter)


def _own_effects(frame, rows, posterior, parts) -> tuple[np.ndarray, ...]:
    """Return what `Posterior.own_effects` answers for every factor of draws, from the rows."""
    specification = frame.specification
    x, z, _ = specification.design(rows.features).block(0, rows.n_rows)
    of_factors = [
        np.einsum("rk,rk->r", columns, effects.mean(axis=0)[codes])
        for columns, effects, codes in zip(z, posterior.effects, rows.codes, strict=True)
    ]
    rest = rows.y - x @ posterior.common_estimates() - sum(of_factors)
    left = [collect_response(frame, rows, rest + of_factor, f, None) for f, of_factor in enumerate(of_factors)]
    own = []
    sums_left, ways = standardise_factors(left, collect_factor_pairs(frame, rows, parts))
    for sums, way in zip(sums_left.factors, ways, strict=True):
        products = sums.zx[:, -1]
        if specification.has_intercept:  # what is left has been centred
            products = products + way.y_centre / way.y_scale * sums.zx[:, 0]
        own.append(own_effects(sums.zz, products.T, way))
    return tuple(own)


def draws_posterior(draws, parts) -> DrawsPosterior:
    """Stack the chains of what NUTS returned; ``parts`` are the sums over the groups of each factor."""

    def stacked(array):
        return np.ascontiguousarray(array.reshape(-1, *array.shape[2:]))

    factors, correlations = draws.factors, []
    for factor in factors:
        q = factor.effects.shape[-1]
        if factor.correlation is None:
            shape = (draws.sigma.size, q, q)
            correlations.append(np.broadcast_to(np.eye(q), shape).copy())
        else:
            correlations.append(stacked(factor.correlation))
    return DrawsPosterior(
        common=stacked(draws.b),
        sigma=stacked(draws.sigma),
        group_sd=[stacked(factor.sds) for factor in factors],
        correlation=correlations,
        effects=[stacked(factor.effects) for factor in factors],
        n_chains=draws.sigma.shape[0],
        information=tuple(part.sums.zz for part in parts),
        n_rows=float(parts[0].sums.n) if parts else np.nan,
        laws=tuple(tuple(law.mapped(stacked) for law in factor.laws) for factor in factors),
        locations=tuple(
            DrawsLocation(
                factor.centre,
                np.zeros_like(factor.centre) if part.z_centre is None else part.z_centre,
                factor.layout.intercept,
            )
            for factor, part in zip(factors, parts, strict=bool(parts))
        ),
    )
