"""A posterior as an ArviZ DataTree, with Bambi's variable names; the same layout for both engines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hbsk._data.labels import group_names
from hbsk._model.design import PredictedRows, columns_by_term
from hbsk._posterior.diagnostics import variance_shares
from hbsk._posterior.likelihoods import draw_observations, log_density

# Bytes of group effects or of pointwise values that a tree may hold.
SIZE_LIMIT = 4 * 2**30


def posterior_datatree(frame, fitted, n_chains: int, n_draws: int, rng, rows: PredictedRows | None, y, known_errors):
    """Return a DataTree with the posterior and, where rows are given, what follows for them.

    Parameters
    ----------
    frame : ModelFrame
    fitted : Fitted
    n_chains, n_draws : int
        Chains and draws in each; draws of the marginal engine are independent, cut into chains for ArviZ.
    rng : numpy.random.Generator
    rows : PredictedRows or None
    y : ndarray of shape (n_rows,) or None
    known_errors : bool
        Whether sigma is no parameter: standard errors are known, or y is not Gaussian.
    """
    from arviz_base import from_dict

    specification, posterior = frame.specification, fitted.posterior
    n_rows = 0 if rows is None else rows.design.n_rows
    _check_size(specification, posterior, n_chains * n_draws, n_rows)
    draws, shape = posterior.chain_draws(n_chains, n_draws, rng)
    effects = posterior.without_unidentified(draws.effects)
    variables, dims, coords = _variables(frame, replace(draws, effects=effects), shape, known_errors)
    groups: dict[str, Any] = {"posterior": variables}
    stats = fitted.sample_stats
    if stats is not None and all(values.shape == shape for values in stats.values()):
        groups["sample_stats"] = stats
    if rows is not None:
        groups |= _row_groups(specification.response, posterior, draws, rows, y, shape, rng)
        dims[specification.response] = ["__obs__"]
        coords["__obs__"] = np.arange(n_rows)
    return from_dict(groups, dims=dims, coords=coords)


def _variables(frame, draws, shape, known_errors):
    """Return arrays by variable, their dims and coords, as Bambi names them."""
    specification = frame.specification
    variables, dims, coords = {}, {}, {}
    if not known_errors:
        variables["sigma"] = draws.variance.sigma.reshape(shape)
    for term, columns in columns_by_term(specification.common_terms).items():
        values = draws.common[:, columns]
        if len(columns) == 1:
            variables[term] = values.reshape(shape)
        else:
            variables[term] = values.reshape(*shape, len(columns))
            dims[term] = [f"{term}_dim"]
            coords[f"{term}_dim"] = [specification.common_columns[k] for k in columns]
    for f, factor in enumerate(specification.factors):
        factor_dim = f"{factor.name}__factor_dim"
        coords[factor_dim] = group_names(factor.labels)
        sd, correlation = draws.variance.group_sd[f], draws.variance.correlation[f]
        laws = {law.columns: law for law in (draws.variance.laws[f] if draws.variance.laws else ())}
        for term, columns in columns_by_term(factor.terms).items():
            one = len(columns) == 1
            tail = () if one else (len(columns),)
            effects = draws.effects[f][:, :, columns]
            variables[term] = effects.reshape(*shape, effects.shape[1], *tail)
            dims[term] = [factor_dim] if one else [factor_dim, f"{term}__expr_dim"]
            for name, values in _arguments(laws.get(tuple(columns)), sd[:, columns]).items():
                variables[f"{term}_{name}"] = values.reshape(*shape, *tail)
                dims[f"{term}_{name}"] = [] if one else [f"{term}__expr_dim"]
            if not one:
                coords[f"{term}__expr_dim"] = [factor.columns[k] for k in columns]
        # effects that are independent at another point than zero are correlated at zero
        is_correlated = any(len(block) > 1 for block in factor.blocks) or np.tril(correlation, -1).any()
        if is_correlated and np.isfinite(correlation).all():
            name = f"corr_{factor.name}"
            variables[name] = correlation.reshape(*shape, *correlation.shape[1:])
            dims[name] = [f"{name}_dim", f"{name}_dim_bis"]
            coords |= {f"{name}_dim": list(factor.columns), f"{name}_dim_bis": list(factor.columns)}
    names, shares = variance_shares(specification, draws.variance)
    if names and not known_errors and "variance_share" not in variables:  # which may be a column of the user
        variables["variance_share"] = shares.reshape(*shape, len(names))
        dims["variance_share"] = ["variance_share_dim"]
        coords["variance_share_dim"] = [factor.name for factor in specification.factors]
    return variables, dims, coords


def _arguments(law, sd):
    """Return the arguments of the law of a term's effects as Bambi has them; means are named where they have priors."""
    if law is not None:
        return {name: values for name, values in law.arguments.items() if name != "mu" or name in law.free}
    return {"sigma": sd} if np.isfinite(sd).all() else {}


def _row_groups(response, posterior, draws, rows, y, shape, rng):
    """Return pointwise log likelihood, replicates and observations of rows."""
    x, z, offset = rows.design.block(0, rows.design.n_rows)
    predictor = draws.common @ x.T
    for columns, code, effects in zip(z, rows.codes, draws.effects, strict=True):
        for k in range(columns.shape[1]):
            predictor += effects[:, code, k] * columns[:, k]
    predictor[:, posterior.unidentified_rows(x, z, rows.codes)] = np.nan
    if offset is not None:
        predictor += offset
    scale = _scale(posterior.family, draws, rows)
    replicates = draw_observations(posterior.family, predictor, scale, rng)
    groups = {"posterior_predictive": {response: replicates.reshape(*shape, -1)}}
    if y is not None:
        log_likelihood = log_density(posterior.family, y, predictor, scale)
        groups["log_likelihood"] = {response: log_likelihood.reshape(*shape, -1)}
        groups["observed_data"] = {response: y}
    return groups


def _scale(family, draws, rows):
    """Return what an observation has beside its predictor: the sd of its noise, or its trials or exposure."""
    if family != "gaussian":
        return np.ones(rows.design.n_rows) if rows.size is None else rows.size
    return draws.variance.sigma[:, None] if rows.standard_error is None else rows.standard_error


def _check_size(specification, posterior, n_draws, n_rows):
    numbers = n_rows * 3
    for factor, n_groups in zip(specification.factors, posterior.n_groups, strict=True):
        numbers += n_groups * len(factor.columns)
    size = 8.0 * numbers * n_draws
    if size > SIZE_LIMIT:
        raise ValueError(
            f"to_datatree would hold {size / 2**30:.1f} GiB ({n_draws} draws of {numbers} numbers), more than the "
            f"limit of {SIZE_LIMIT / 2**30:.0f} GiB. Pass a smaller draws=."
        )
