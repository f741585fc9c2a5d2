"""Laws of rows and effects at nodes of a model with several grouping factors; engine units, arrays in, arrays out.

Given a node (sigma, Lambda), the common coefficients b are normal, and so are the effects given b, with the covariance
``sigma^2 Phi`` and the mean ``Phi (B_y - B_x b)`` (`hbsk._engine.schur_passes`). For a row with common columns x and
the vector v of its effects, ``x'b + v'u`` therefore has

    mean      x~' E[b] + v' Phi B_y,     x~ = x - B_x' Phi v
    variance  x~' Var(b) x~ + sigma^2 v' Phi v

where v holds known levels only; each new one adds ``sigma^2 |Lambda_f' z_f|^2``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from hbsk._engine.common_coefficients import ConditionalCommon
from hbsk._engine.drawn_covariance import DrawnCovariance
from hbsk._engine.hub_passes import HubEffects
from hbsk._engine.nested_passes import NestedEffects, NestedPasses
from hbsk._engine.node_algebra import canonical_root
from hbsk._engine.schur_passes import Effects, SchurPasses
from hbsk._posterior.nested_laws import effects_of_rows, variances_of_rows

AnyEffects = Effects | HubEffects | NestedEffects

# Nodes times rows that are worked on together.
BLOCK_ELEMENTS = 2**16


class NodeLaw(NamedTuple):
    """The law of everything at one node, or at several, which come along leading axes.

    Attributes
    ----------
    weight, sigma : float, or ndarray of shape (n_nodes,)
    factor : ndarray of shape (q, q)
        ``Lambda`` of all factors, block diagonal.
    common_mean : ndarray of shape (p,)
    common_root : ndarray of shape (p, p)
        R, with ``R R' = Var(b)``.
    effects : Effects, HubEffects or NestedEffects
        Of each node, or of one Lambda that all of them share.
    """

    weight: np.ndarray
    sigma: np.ndarray
    factor: np.ndarray
    common_mean: np.ndarray
    common_root: np.ndarray
    effects: AnyEffects


def coefficients_at(common: ConditionalCommon, log_sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means (n_nodes, p) and roots (n_nodes, p, p) of the common coefficients at one sigma for each node."""
    _, eigenvalue, coordinate = common.at(log_sigma[:, None])
    mean = np.einsum("mij,mj->mi", common.basis, coordinate[:, 0])
    return mean, canonical_root(common.basis / np.sqrt(eigenvalue))


def few_nodes(laws: Sequence[NodeLaw], n_rows: int) -> Iterator[NodeLaw]:
    """Yield laws of several nodes each as laws of so few that arrays of nodes and rows stay small."""
    width = max(1, BLOCK_ELEMENTS // max(n_rows, 1))
    for law in laws:
        n_nodes = len(law.weight)
        for start in range(0, n_nodes, width):
            at = slice(start, start + width)
            is_shared = n_lambdas(law.effects) < n_nodes
            yield NodeLaw(*(part[at] for part in law[:-1]), law.effects if is_shared else taken(law.effects, at))


def single_nodes(laws: Sequence[NodeLaw]) -> Iterator[NodeLaw]:
    """Yield the law of each of the nodes, without leading axes."""
    for law in laws:
        for m in range(len(law.weight)):
            yield NodeLaw(*(part[m] for part in law[:-1]), taken(law.effects, min(m, n_lambdas(law.effects) - 1)))


def n_lambdas(effects: AnyEffects) -> int:
    """Return of how many Lambda effects are."""
    if isinstance(effects, HubEffects):
        return len(effects.hub_phi)
    return len(effects.own[0] if isinstance(effects, NestedEffects) else effects.first)


def taken(effects: AnyEffects, at) -> AnyEffects:
    """Return the effects at some of the Lambda; of draws there is one."""
    if isinstance(effects, HubEffects):
        return effects.take(at)
    if isinstance(effects, NestedEffects):
        return NestedEffects(*([one[at] for one in part] for part in effects))
    return Effects(*(part if isinstance(part, DrawnCovariance) else part[at] for part in effects))


class KnownRows(NamedTuple):
    """Rows of several factors, their columns zero where a level is new.

    Attributes
    ----------
    x : ndarray of shape (n_rows, p)
    z : list of ndarray of shape (n_rows, q), one per factor
        Zero where the level is new.
    fresh : list of ndarray of shape (n_rows, q), one per factor
        Zero where the level is known.
    codes : list of ndarray of shape (n_rows,), one per factor
        0 where the level is new.
    """

    x: np.ndarray
    z: list[np.ndarray]
    fresh: list[np.ndarray]
    codes: list[np.ndarray]

    @classmethod
    def of(cls, x, z: Sequence[np.ndarray], codes: Sequence[np.ndarray], n_groups: Sequence[int]) -> KnownRows:
        """Part known levels from new ones."""
        known = [code < n for code, n in zip(codes, n_groups, strict=True)]
        return cls(
            x,
            [np.where(is_known[:, None], part, 0.0) for part, is_known in zip(z, known, strict=True)],
            [np.where(is_known[:, None], 0.0, part) for part, is_known in zip(z, known, strict=True)],
            [np.where(is_known, code, 0) for code, is_known in zip(codes, known, strict=True)],
        )


class RowParts(NamedTuple):
    """What the law of rows takes of one Lambda; free of sigma.

    Attributes
    ----------
    reach : ndarray of shape (n_rows, p)
        ``x - B_x' Phi v``.
    solved : ndarray of shape (n_rows,)
        ``v' Phi B_y``.
    relative : ndarray of shape (n_rows,) or None
        Variance given the common coefficients over sigma^2, new levels included.
    """

    reach: np.ndarray
    solved: np.ndarray
    relative: np.ndarray | None


def rows_at_node(
    law: NodeLaw, passes: SchurPasses | NestedPasses, rows: KnownRows, *, need_variance: bool = True
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return mean and variance (or None) of ``x'b + sum_f z_f' u_f``, each (.., n_rows)."""
    parts = row_parts(law.effects, law.factor, passes, rows, need_variance=need_variance)
    mean = parts.solved + (parts.reach @ law.common_mean[..., None])[..., 0]
    if parts.relative is None:
        return mean, None
    variance = np.sum((parts.reach @ law.common_root) ** 2, axis=-1)
    return mean, variance + np.asarray(law.sigma)[..., None] ** 2 * parts.relative


def row_parts(
    effects: AnyEffects,
    factor: np.ndarray,
    passes: SchurPasses | NestedPasses,
    rows: KnownRows,
    *,
    need_variance: bool = True,
) -> RowParts:
    """Return what the law of rows takes of Phi at Lambda, (.., q, q)."""
    if isinstance(effects, NestedEffects):
        solved = effects_of_rows(effects, passes, rows.z, rows.codes)
        relative = variances_of_rows(effects, passes, rows.z, rows.codes) if need_variance else None
    elif isinstance(effects, HubEffects):
        solved, relative = _rows_beside_hubs(effects, passes, rows, need_variance)
    else:
        solved, relative = _schur_rows(effects, passes, rows, need_variance)
    if relative is not None:
        for f, at in enumerate(passes.sums.columns):
            relative = relative + np.sum((rows.fresh[f] @ factor[..., at, at]) ** 2, axis=-1)
    return RowParts(rows.x - solved[..., :-1], solved[..., -1], relative)


def _rows_beside_hubs(effects, passes, rows, need_variance):
    """Return ``v' Phi B`` and ``v' Phi v`` (or None) of rows; ``w = v_h - B_h' Phi_o v_o`` adds ``w' P_h w``."""
    own = {name: [getattr(rows, name)[f] for f in passes.not_hubs] for name in ("z", "fresh", "codes")}
    of_others, relative = _schur_rows(effects.others, passes.others, rows._replace(**own), need_variance)
    beside = -of_others[:, : passes.n_hub_effects]
    row = np.arange(len(beside))
    for f, places in passes.hub_places():
        for k, z in enumerate(rows.z[f].T):
            beside[row, places.start + rows.codes[f] * rows.z[f].shape[1] + k] += z
    solved = of_others[:, passes.n_hub_effects :] + beside @ effects.hub_solved
    if relative is not None:
        relative = relative + np.sum(beside @ effects.hub_phi * beside, axis=-1)
    return solved, relative


def _schur_rows(effects, passes, rows, need_variance):
    """Return ``v' Phi B`` and ``v' Phi v`` (or None) of rows."""
    zero = passes.order[0]
    z, code = rows.z[zero], rows.codes[zero]
    solved = np.einsum("rk,...rka->...ra", z, effects.first_solved[..., code, :, :])
    entries = []
    for f in passes.order[1:]:
        q = rows.z[f].shape[1]
        entries += [(passes.starts[f] + rows.codes[f] * q + k, rows.z[f][:, k]) for k in range(q)]
    for at, value in entries:
        solved += value[:, None] * effects.rest_solved[..., at, :]
    if not need_variance:
        return solved, None
    scaled = np.einsum("...rkl,rl->...rk", effects.first[..., code, :, :], z)
    own = np.einsum("rk,...rk->...r", z, scaled)
    row, k, column, value_of = _entries_of_levels(passes.between, code, z.shape[1])
    through = scaled[..., row, k] * value_of  # A_21 H_s z
    if isinstance(effects.rest_phi, DrawnCovariance):
        shape = (len(z), passes.between.shape[1])
        places = [sp.csr_array((value, (np.arange(len(z)), at)), shape=shape) for at, value in entries]
        places.append(sp.csr_array((-through.ravel(), (row, column)), shape=shape))
        return solved, own + effects.rest_phi.quadratic_forms(sum(places[1:], places[0]))
    relative = np.einsum("rk,...rkl,rl->...r", z, effects.first_phi[..., code, :, :], z)
    for i, (at, value) in enumerate(entries):
        relative += value**2 * effects.rest_phi[..., at, at]
        for other, other_value in entries[:i]:
            relative += 2.0 * value * other_value * effects.rest_phi[..., at, other]
        through_at = through * effects.rest_phi[..., column, at[row]]
        relative -= 2.0 * value * _by_row(through_at, row, len(z))
    return solved, relative


def _entries_of_levels(between, code, q):
    """Return the entries of ``A_12`` of the levels of rows: the row, which of the level's columns, where, and value."""
    lines = (code[:, None] * q + np.arange(q)).ravel()
    starts, counts = between.indptr[lines], np.diff(between.indptr)[lines]
    line = np.repeat(np.arange(len(lines)), counts)
    at = np.arange(len(line)) + np.repeat(starts - (np.cumsum(counts) - counts), counts)
    return line // q, line % q, between.indices[at], between.data[at]


def _by_row(values, row, n_rows):
    """Return sums over the entries of each row, (.., n_rows); rows rise."""
    if values.ndim == 1:
        return np.bincount(row, values, n_rows)
    lengths = np.bincount(row, minlength=n_rows)
    total, has_entries = np.zeros((*values.shape[:-1], n_rows)), lengths > 0
    if len(row):
        total[..., has_entries] = np.add.reduceat(values, (np.cumsum(lengths) - lengths)[has_entries], axis=-1)
    return total


class LevelMoments(NamedTuple):
    """Moments of the effects of one factor at a node, or at several along leading axes.

    Attributes
    ----------
    mean : ndarray of shape (n_groups, q)
    phi : ndarray of shape (n_groups, q, q)
        Blocks of Phi.
    reach : ndarray of shape (n_groups, q, p)
        ``Phi B_x``: what the effects take back when the common coefficients move.
    """

    mean: np.ndarray
    phi: np.ndarray
    reach: np.ndarray


def levels_at_node(law: NodeLaw, passes: SchurPasses | NestedPasses, f: int) -> LevelMoments:
    """Return the moments of all levels of factor f."""
    effects = law.effects
    if isinstance(effects, NestedEffects):
        solved = effects.solved[passes.order.index(f)]
    elif isinstance(effects, HubEffects):
        solved = _solved_beside_hubs(effects, passes, f)
    else:
        solved = _solved_levels(effects, passes, f)
    reach = solved[..., :-1]
    taken = np.einsum("...jka,...a->...jk", reach, law.common_mean)
    return LevelMoments(solved[..., -1] - taken, _phi_blocks(effects, passes, f), reach)


def share_kept(
    effects: AnyEffects,
    factor: np.ndarray,
    passes: SchurPasses | NestedPasses,
    f: int,
    raw: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Return the share of the prior variance of effects of raw columns that the rows take off, (.., n_groups, q).

    Parameters
    ----------
    effects : Effects
    factor : ndarray of shape (.., q, q)
        Lambda of all factors, block diagonal.
    passes : SchurPasses
    f : int
        The factor.
    raw : callable
        Map from effects of the engine, (..., q), to those asked about; see `turned_effects`.
    """
    at = passes.sums.columns[f]
    prior = np.sum(raw(factor[..., at, at].swapaxes(-2, -1)) ** 2, axis=-2)[..., None, :]
    within = np.einsum("...jkk->...jk", raw(raw(_phi_blocks(effects, passes, f)).swapaxes(-2, -1)))
    prior, within = np.broadcast_arrays(prior, within)
    # nothing is kept of effects that are fixed
    return np.clip(1.0 - np.divide(within, prior, out=np.ones_like(within), where=prior > 0), 0.0, 1.0)


def _phi_blocks(effects, passes, f):
    """Return the blocks of Phi of the levels of factor f, (.., n_groups, q, q)."""
    if isinstance(effects, NestedEffects):
        return effects.phi[passes.order.index(f)]
    if isinstance(effects, HubEffects):
        return _phi_beside_hubs(effects, passes, f)
    if f == passes.order[0]:
        return effects.first_phi
    if isinstance(effects.rest_phi, DrawnCovariance):
        return effects.rest_phi.blocks[f]
    at = _places(passes, f)
    return effects.rest_phi[..., at[:, :, None], at[:, None, :]]


def _solved_beside_hubs(effects, passes, f):
    """Return ``Phi B`` of the levels of factor f, (.., n_groups, q, p + 1)."""
    if f in passes.hubs:
        own, shape = effects.hub_solved[..., dict(passes.hub_places())[f], :], passes.sums.factors[f]
        return own.reshape(*own.shape[:-2], shape.n_groups, shape.n_varying, own.shape[-1])
    every = _solved_levels(effects.others, passes.others, passes.not_hubs.index(f))
    through, n = every[..., : passes.n_hub_effects], passes.n_hub_effects
    beside = through.reshape(-1, n) @ effects.hub_solved
    return every[..., n:] - beside.reshape(*beside.shape[:-2], *every.shape[:2], -1)


def _phi_beside_hubs(effects, passes, f):
    """Return the blocks of Phi of the levels of factor f, (.., n_groups, q, q)."""
    if f in passes.hubs:
        start, own = dict(passes.hub_places())[f].start, passes.sums.factors[f]
        at = start + np.arange(own.n_groups * own.n_varying).reshape(own.n_groups, own.n_varying)
        return effects.hub_phi[..., at[:, :, None], at[:, None, :]]
    number = passes.not_hubs.index(f)
    through = _solved_levels(effects.others, passes.others, number)[..., : passes.n_hub_effects]
    half = through.reshape(-1, through.shape[2]) @ effects.hub_phi
    half = half.reshape(*half.shape[:-2], *through.shape)
    beside = half @ through.swapaxes(1, 2) if through.shape[1] > 1 else np.sum(half * through, axis=-1)[..., None]
    return _phi_blocks(effects.others, passes.others, number) + beside


def _solved_levels(effects, passes, f):
    """Return ``Phi B`` of the levels of factor f, (.., n_groups, q, p + 1)."""
    return effects.first_solved if f == passes.order[0] else effects.rest_solved[..., _places(passes, f), :]


def _places(passes, f):
    """Return where the effects of factor f stand among those that remain, (n_groups, q)."""
    n, q = passes.sums.factors[f].n_groups, passes.sums.factors[f].n_varying
    return passes.starts[f] + np.arange(n * q).reshape(n, q)
