"""Sampling of a Bambi model by PyMC's NUTS.

What comes back are arrays with axes (chain, draw, ...) under the names of the
user. PyMC takes seconds to import, so it is imported inside the functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hbsk._bambi.model import EffectLayout
from hbsk._engine.effect_laws import EffectLaw, moments_exist
from hbsk._engine.nuts import announce, checked_options, quiet, sample
from hbsk._engine.varying_location import at_zero, moved_sds

# Diagnostics take milliseconds for each number: of every factor this many groups, evenly spaced, are looked at.
DIAGNOSED_GROUPS = 100

# With a centred factor and at most this many effects, NUTS learns a dense mass matrix, given some tuning draws for
# each: common and group effects then lie on ridges (the group effects up, the common one down) that a diagonal one
# does not see. Measured, 18 groups, 1000 draws: 952 effective draws instead of 140 at 100 rows a group, 428 instead
# of 255 at 10 (one run each: differences below a factor of two are noise). With offsets neither was clearly better.
# With fewer tuning draws for each effect the matrix is worse than none: 130 effects and 1000 draws (Exam) ended in
# steps so small that chains stood still, R-hat 1.8 after minutes; with a diagonal one it is 1.01 after half a minute.
EFFECTS_FOR_DENSE_METRIC = 300
TUNING_DRAWS_PER_EFFECT = 15


@dataclass(frozen=True)
class EffectDraws:
    """Draws of the effects of one grouping factor: J groups, q varying columns."""

    layout: EffectLayout
    sds: np.ndarray  # (chains, draws, q), of the law of the effects; NaN where that is a function of the user
    correlation: np.ndarray | None  # (chains, draws, q, q); None where all effects are independent
    effects: np.ndarray  # (chains, draws, J, q), at zero
    laws: tuple[EffectLaw, ...] = ()  # of the terms whose prior is not normal with mean 0

    @property
    def centre(self) -> np.ndarray:
        """The point that sds, correlations and laws are those of, (q,)."""
        return np.array(self.layout.centre)


@dataclass(frozen=True)
class SampledChains:
    """Draws of all parameters of a model; the axes (chain, draw) come first."""

    columns: tuple[str, ...]
    b: np.ndarray  # (chains, draws, p), the intercept that of raw columns; 0 for columns left out of the model
    sigma: np.ndarray  # (chains, draws); NaN with known standard errors
    factors: tuple[EffectDraws, ...]
    divergent: np.ndarray  # (chains, draws), bool
    datatree: Any  # xarray.DataTree: posterior (raw intercept), sample_stats, observed_data


def sample_posterior(
    model,
    *,
    draws: int = 1000,
    tune: int = 1000,
    chains: int = 4,
    random_state=None,
    n_jobs: int | None = None,
    verbose: int = 0,
    sampler_options: Mapping[str, Any] | None = None,
) -> SampledChains:
    """Sample the posterior of a model from `hbsk._bambi.model.build_model` with NUTS.

    Chains of PyMC and nutpie start spread out by the scales of the data (their own jitter of +-1 is in the units of
    each variable).

    Parameters
    ----------
    model : bambi.Model
    draws, tune, chains : int
        Draws kept and draws for tuning in each chain, number of chains.
    random_state : None, int, RandomState or Generator
    n_jobs : int, optional
        Chains in parallel processes, as in scikit-learn: None means 1, -1 all processors.
    verbose : int
        0 is silent; above, PyMC shows its progress and says what it does.
    sampler_options : mapping, optional
        More arguments of `pymc.sample`, such as `target_accept`, `init` or `nuts_sampler`.

    Returns
    -------
    SampledChains
    """
    layout = model.hbsk_layout
    options = checked_options(sampler_options)
    with quiet(verbose):
        if not model.built:
            model.build()
        pymc_model = model.backend.model
        announce(draws, tune, chains, _n_parameters(pymc_model))
        if "init" not in options and "initvals" not in options:
            options |= _starts(pymc_model, layout, tune, options)
        tree = sample(
            pymc_model, _variables(pymc_model, layout), draws, tune, chains, random_state, n_jobs, verbose, options
        )
    return _as_arrays(tree, layout)


def diagnose(posterior: SampledChains):
    """Return convergence diagnostics by ArviZ of all parameters, one row for each number.

    Of every factor the effects of at most `DIAGNOSED_GROUPS` groups are looked at.

    Returns
    -------
    pandas.DataFrame
        Index: names such as "floor", "sigma", "1|county_sigma", "corr_county[1, floor]", "1|county[ANOKA]"; columns
        `r_hat`, `ess_bulk`, `ess_tail` (5% and 95% quantile), `mcse_mean`, `mcse_sd`, and `mcse_eti95_lb` and
        `mcse_eti95_ub` of the ends of the 95% interval. Parameters that are constant are left out.
    """
    import pandas as pd
    from arviz_stats.base import array_stats

    named = {name: draws for name, draws in _named_draws(posterior) if np.ptp(draws) > 0}
    chains = np.stack(list(named.values()), axis=-1)
    axes = {"chain_axis": 0, "draw_axis": 1}
    return pd.DataFrame(
        {
            "r_hat": array_stats.rhat(chains, **axes),
            "ess_bulk": array_stats.ess(chains, method="bulk", **axes),
            "ess_tail": array_stats.ess(chains, method="tail", prob=(0.05, 0.95), **axes),
            "mcse_mean": array_stats.mcse(chains, method="mean", **axes),
            "mcse_sd": array_stats.mcse(chains, method="sd", **axes),
            "mcse_eti95_lb": array_stats.mcse(chains, method="quantile", prob=0.025, **axes),
            "mcse_eti95_ub": array_stats.mcse(chains, method="quantile", prob=0.975, **axes),
        },
        index=list(named),
    )


def _named_draws(posterior):
    """Yield (name, (chains, draws) array) of every number that is diagnosed."""
    for k, column in enumerate(posterior.columns):
        yield column, posterior.b[..., k]
    if not np.isnan(posterior.sigma).any():  # as with known standard errors
        yield "sigma", posterior.sigma
    for factor in posterior.factors:
        layout, q = factor.layout, len(factor.layout.columns)
        for law in factor.laws:
            yield from law.parameters()
        other = {k for law in factor.laws if not law.has_sd_parameter for k in law.columns}
        sds, correlation = _at_zero(factor)
        for k, name in enumerate(layout.columns):
            if k not in other and not np.isnan(sds[..., k]).any():
                yield f"{name}|{layout.name}_sigma", sds[..., k]
        for row, column in zip(*np.tril_indices(q, -1), strict=True):
            pair = f"{layout.columns[column]}, {layout.columns[row]}"
            yield f"corr_{layout.name}[{pair}]", correlation[..., row, column]
        n_groups = len(layout.labels)
        for j in np.unique(np.linspace(0, n_groups - 1, min(n_groups, DIAGNOSED_GROUPS)).astype(int)):
            for k, name in enumerate(layout.columns):
                yield f"{name}|{layout.name}[{layout.labels[j]}]", factor.effects[..., j, k]


def _at_zero(factor):
    """Return sds (chains, draws, q) and correlations (chains, draws, q, q) of effects at zero, which tables show."""
    *shape, q = factor.sds.shape
    correlation = np.broadcast_to(np.eye(q), (*shape, q, q)) if factor.correlation is None else factor.correlation
    sds, correlation = moved_sds(
        factor.sds.reshape(-1, q), correlation.reshape(-1, q, q), factor.centre, factor.layout.intercept
    )
    return sds.reshape(*shape, q), correlation.reshape(*shape, q, q)


def _n_parameters(pymc_model):
    """Return the number of free parameters; where a shape is not known beforehand it counts as one."""
    total = 0
    for rv in pymc_model.free_RVs:
        dims = pymc_model.named_vars_to_dims.get(rv.name)
        shape = pymc_model.rvs_to_values[rv].type.shape
        total += int(np.prod([len(pymc_model.coords[dim]) for dim in dims] if dims else [n or 1 for n in shape]))
    return total


def _variables(pymc_model, layout):
    """Return the variables to keep draws of: no offsets, nothing of the size of the data."""
    names = ["Intercept"] if layout.has_intercept else []
    names += [variable for variable, _ in layout.common]
    for factor in layout.factors:
        for (variable, _), prior in zip(factor.terms, factor.priors, strict=True):
            names.append(variable)
            names += [f"{variable}_{argument}" for argument in (prior[1] if prior is not None else ["sigma"])]
        if factor.correlation is not None:
            names.append(factor.correlation)
    if layout.sigma is None:
        names.append("sigma")
    return [name for name in names if name in pymc_model.named_vars]


def _starts(pymc_model, layout, tune, options):
    """Return the options that say where chains start, for the samplers that take distributions of starts.

    A jitter of +-1 about the prior mean of the coefficient of a column with an sd of 35 is one of +-60 in the linear
    predictor: of counts, chains then stand still for good.
    """
    if options["nuts_sampler"] == "nutpie":
        starts = _start_distributions(pymc_model, layout)
        jittered = {rv for rv in pymc_model.free_RVs if rv.name not in starts}
        return {
            "initvals": starts,
            "compile_kwargs": {"jitter_rvs": jittered, **options.get("compile_kwargs", {})},
        }
    if options["nuts_sampler"] != "pymc":
        return {}
    return {
        "init": "adapt_full" if _wants_dense_metric(layout, tune) else "adapt_diag",
        "initvals": _start_distributions(pymc_model, layout),
    }


def _wants_dense_metric(layout, tune):
    """Whether the mass matrix of NUTS should be dense."""
    n_effects = sum(len(factor.labels) * len(factor.columns) for factor in layout.factors)
    centred = any(not factor.noncentered for factor in layout.factors)
    return centred and n_effects <= min(EFFECTS_FOR_DENSE_METRIC, tune // TUNING_DRAWS_PER_EFFECT)


def _start_distributions(pymc_model, layout):
    """Return what the chains' starts are drawn from, in units of the data, for each free variable."""
    import pymc as pm
    from pymc.distributions.transforms import LogTransform

    starts = {}
    for rv in pymc_model.free_RVs:
        shape = tuple(len(pymc_model.coords[dim]) for dim in pymc_model.named_vars_to_dims.get(rv.name) or ())
        transform = pymc_model.rvs_to_transforms[rv]
        term = rv.name.removesuffix("_sigma")
        scale = layout.scales["Intercept" if rv.name == "sigma" else term] if _has_scale(layout, rv.name) else 1.0
        if rv.name == "Intercept" and transform is None:
            starts[rv.name] = pm.Uniform.dist(layout.y_mean - scale, layout.y_mean + scale)
        elif transform is None:
            starts[rv.name] = pm.Uniform.dist(-scale, scale, shape=shape)
        elif isinstance(transform, LogTransform) and _has_scale(layout, rv.name):
            starts[rv.name] = pm.Uniform.dist(scale / 4, scale, shape=shape)
    return starts


def _has_scale(layout, name):
    return name == "sigma" or name.removesuffix("_sigma") in layout.scales


def _as_arrays(tree, layout):
    """Return the draws of a DataTree as arrays, by the layout of the model."""
    raw = {name: values.to_numpy() for name, values in tree["posterior"].data_vars.items()}
    shape = (tree["posterior"].sizes["chain"], tree["posterior"].sizes["draw"])

    b = np.zeros((*shape, len(layout.columns)))
    for variable, columns in layout.common:
        b[..., list(columns)] = raw[variable].reshape(*shape, len(columns))
    if layout.has_intercept:
        b[..., 0] = raw["Intercept"] - b @ layout.centre
    sigma = raw["sigma"] if layout.sigma is None else np.full(shape, layout.sigma)

    factors = []
    for factor in layout.factors:
        sds = np.full((*shape, len(factor.columns)), np.nan)
        effects = np.empty((*shape, len(factor.labels), len(factor.columns)))
        laws = []
        for (variable, columns), prior in zip(factor.terms, factor.priors, strict=True):
            k = list(columns)
            effects[..., k] = raw[variable].reshape(*shape, len(factor.labels), len(k))
            law = _law(factor, variable, columns, prior, raw, shape)
            if law is not None:
                sds[..., k] = law.sd()
                if not (law.is_normal and law.has_sd_parameter and np.all(law.mean() == 0)):
                    laws.append(law)
        correlation = raw[factor.correlation] if factor.correlation is not None else None
        effects = at_zero(effects, np.array(factor.centre), factor.intercept)
        factors.append(EffectDraws(factor, sds, correlation, effects, tuple(laws)))
    divergent = tree["sample_stats"]["diverging"].to_numpy().astype(bool)
    tree["posterior"] = type(tree)(_named_posterior(tree["posterior"].to_dataset(), layout, b))
    return SampledChains(layout.columns, b, sigma, tuple(factors), divergent, tree)


def _law(factor, variable, columns, prior, raw, shape):
    """Return the law of the effects of a term, with its arguments as drawn or as given; None for a function."""
    if prior is None:
        return None
    family, given = prior
    arguments = {}
    for name, value in given.items():
        drawn = raw.get(f"{variable}_{name}")
        full = (*shape, len(columns))
        arguments[name] = (
            np.broadcast_to(np.asarray(value, dtype=float), full).copy() if drawn is None else drawn.reshape(full)
        )
    has_mean, has_variance = moments_exist(family, given)
    return EffectLaw(
        family,
        tuple(columns),
        tuple(f"{factor.columns[k]}|{factor.name}" for k in columns),
        arguments,
        # the sd of normal effects is reported with those of all other terms
        tuple(
            name for name, value in given.items() if isinstance(value, tuple) and (family, name) != ("Normal", "sigma")
        ),
        has_mean,
        has_variance,
    )


def _named_posterior(dataset, layout, b):
    """Return the posterior with the raw intercept, column names as coordinates and one dimension for each factor."""
    if layout.has_intercept:
        dataset["Intercept"] = dataset["Intercept"].copy(data=b[..., 0])
    columns_of = {f"{variable}_dim": [layout.columns[k] for k in columns] for variable, columns in layout.common}
    for factor in layout.factors:
        group_dim = next(f"{variable.rpartition('|')[2]}__factor_dim" for variable, _ in factor.terms)
        for variable, columns in factor.terms:
            columns_of[f"{variable}__expr_dim"] = [factor.columns[k] for k in columns]
            own_dim = f"{variable}__factor_dim"  # a term under an alias has one of its own in Bambi
            if own_dim in dataset.dims:
                values = dataset[variable]
                dims = [group_dim if dim == own_dim else dim for dim in values.dims]
                dataset = dataset.drop_vars([variable, own_dim]).assign({variable: (dims, values.to_numpy())})
        dataset = dataset.assign_coords({group_dim: list(factor.labels)})
    return dataset.assign_coords({dim: names for dim, names in columns_of.items() if dim in dataset.dims})
