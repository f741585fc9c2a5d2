"""PyMC distributions of group effects that are correlated within a group.

Bambi builds the effects of each varying term as a variable of its own and knows no correlation
between terms. It does accept a callable in place of a distribution, and here are callables that
make the terms of a block jointly normal: with u = mu + sigma * (L w), w standard normal and L the
Cholesky factor of the correlation matrix, each term is given conditionally on the earlier ones,

    u_k | earlier ~ Normal(mu_k + sigma_k * sum_{i<k} L_ki w_i, sigma_k * L_kk)        (centred)
    u_k = mu_k + sigma_k * (sum_{i<k} L_ki w_i + L_kk w_k), w_k ~ Normal(0, 1)    (non-centred)

where the centred form recovers w_i by forward substitution from the effects of earlier terms. The
index runs over columns: a term of several columns (a categorical slope) is a block of rows of L.

The callables hold no PyMC variables: they look up what other terms made by name in the model that
is being built, so a Bambi model can be copied and built again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Member:
    """One varying term within a block: its variable and how many columns it has."""

    variable: str
    n_columns: int
    mu: np.ndarray | None  # a number, or one for each column; None for a variable of the model


@dataclass(frozen=True)
class CorrelatedEffects:
    """The effects of one grouping factor that are correlated within a group, in blocks.

    `positions` are, for each block, the places of its columns among all columns of the factor; columns in no block are
    independent of all others.
    """

    correlation: str  # name of the correlation matrix of all columns
    columns: tuple[str, ...]
    positions: tuple[tuple[int, ...], ...]
    members: tuple[tuple[Member, ...], ...]  # of each block
    eta: float
    noncentered: bool


def effect_distribution(effects, block, term):
    """Return the callable that makes the variable of one term of one block, in Bambi's signature."""

    def distribution(name, mu=0.0, sigma=1.0, dims=None):
        import pymc as pm

        model = pm.modelcontext(None)
        earlier = _standardised(model, effects, block, term)
        rows, diagonal = _rows_of_cholesky(model, effects, block, term)
        member = effects.members[block][term]
        one = member.n_columns == 1

        if effects.noncentered:
            own = _as_columns(pm.Normal(f"{name}_offset", dims=dims))
            values = mu + sigma * (_conditional_mean(earlier, rows) + own @ diagonal.T)
            return pm.Deterministic(name, values[:, 0] if one else values, dims=dims)
        if one:
            mean = mu + sigma * _conditional_mean(earlier, rows)[..., 0]
            return pm.Normal(name, mu=mean, sigma=sigma * diagonal[0, 0], dims=dims)
        mean = mu + sigma * _conditional_mean(earlier, rows)
        n_groups = len(model.coords[dims[0]])
        return pm.MvNormal(name, mu=_rows_repeated(mean, n_groups), chol=sigma[:, None] * diagonal, dims=dims)

    return distribution


def _standardised(model, effects, block, stop):
    """Return the standard normal w, (n_groups, columns), of the first `stop` terms of a block."""
    import pytensor.tensor as pt

    done = None
    for term in range(stop):
        member = effects.members[block][term]
        if effects.noncentered:
            own = _as_columns(model[f"{member.variable}_offset"])
        else:
            mu = model[f"{member.variable}_mu"] if member.mu is None else member.mu
            scaled = _as_columns((model[member.variable] - mu) / model[f"{member.variable}_sigma"])
            rows, diagonal = _rows_of_cholesky(model, effects, block, term)
            rest = scaled - _conditional_mean(done, rows)
            own = (
                rest / diagonal[0, 0]
                if member.n_columns == 1
                else pt.linalg.solve_triangular(diagonal, rest.T, lower=True).T
            )
        done = own if done is None else pt.concatenate([done, own], axis=1)
    return done


def _conditional_mean(earlier, rows):
    """Return the mean of a term in units of its sd, (n_groups, columns), given the earlier w."""
    import pytensor.tensor as pt

    if earlier is None:
        return pt.zeros((1, rows.shape[0]))
    return earlier @ rows.T


def _rows_of_cholesky(model, effects, block, term):
    """Return the rows of L that belong to a term: left of the diagonal block, and the diagonal block."""
    L = _cholesky(model, effects, block)
    members = effects.members[block]
    start = sum(member.n_columns for member in members[:term])
    stop = start + members[term].n_columns
    return L[start:stop, :start], L[start:stop, start:stop]


def _cholesky(model, effects, block):
    """Return the Cholesky factor of a block's correlation; all blocks of a factor are made at once."""
    import pymc as pm
    import pytensor.tensor as pt

    names = [f"{effects.correlation}_cholesky_{b}" for b in range(len(effects.members))]
    if names[block] not in model.named_vars:
        correlation = pt.eye(len(effects.columns))
        for name, positions in zip(names, effects.positions, strict=True):
            L = pm.LKJCorr(name, n=len(positions), eta=effects.eta)
            where = list(positions)
            correlation = pt.set_subtensor(correlation[pt.as_tensor(where)[:, None], pt.as_tensor(where)], L @ L.T)
        dims = (f"{effects.correlation}_dim", f"{effects.correlation}_dim_bis")
        model.add_coords({dim: list(effects.columns) for dim in dims})
        pm.Deterministic(effects.correlation, correlation, dims=dims)
    return model[names[block]]


def _as_columns(values):
    """Reshape (n_groups,) -> (n_groups, 1); (n_groups, columns) as it is."""
    return values if values.ndim == 2 else values[:, None]


def _rows_repeated(mean, n_groups):
    """Repeat (1, columns) -> (n_groups, columns); (n_groups, columns) as it is."""
    import pytensor.tensor as pt

    return pt.broadcast_to(mean, (n_groups, mean.shape[1]))
