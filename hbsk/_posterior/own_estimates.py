"""Estimates of groups from their own rows, everything else held where it is: least squares, one group at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hbsk._engine.crossed_sums import CrossedSums
from hbsk._engine.scaling import ColumnScaling
from hbsk._posterior.group_moments import residual_products

# A column or direction is unidentified where this share of its square or less is left.
IDENTIFIED = 1e-10
# Eigenvalue of a group's products, beside the largest, that is none: rounding leaves 1e-16, and a column far from zero
# beside its intercept the square of sd / mean.
RANK = 1e-12
# Groups from which eigenvectors of each are worth saving, and the share of the squared trace that a determinant is of
# where all digits that count are left without them.
MANY_GROUPS, FAR_FROM_SINGULAR = 10_000, 1e-4


def own_effects(zz: np.ndarray, products: np.ndarray, scaling: ColumnScaling) -> np.ndarray:
    """Return the least-squares effects of the raw columns, (n_groups, q); NaN where a group does not identify them.

    Parameters
    ----------
    zz : ndarray of shape (q, q, n_groups)
        ``Z_j' W Z_j`` in engine units.
    products : ndarray of shape (n_groups, q)
        ``Z_j' W r_j``, r what is left of y when all but the effects of these groups is taken off.
    scaling : ColumnScaling
        Of the factor.
    """
    inverse, identified, _ = pseudo_inverses(zz)
    effects = scaling.effects(np.einsum("klj,jl->jk", inverse, products))
    return np.where(unidentified_columns(scaling, identified), np.nan, effects)


def products_left(sums: CrossedSums, f: int, common_mean: np.ndarray, effect_means: Sequence[np.ndarray]) -> np.ndarray:
    """Return ``Z_j' W r_j`` of the groups of factor f, (n_groups, q).

    Parameters
    ----------
    sums : CrossedSums
    f : int
    common_mean : ndarray of shape (p,)
    effect_means : sequence of ndarray of shape (n_groups, q), one per factor
        What is taken off y, that of factor f left out.
    """
    left = np.ascontiguousarray(residual_products(sums.factors[f].zx, common_mean)[:, -1].T)
    for g, effects in enumerate(effect_means):
        if g != f:
            pair = sums.pair(f, g)
            np.subtract.at(left, pair.first, np.einsum("nkl,nl->nk", pair.blocks, effects[pair.second]))
    return left


def unidentified_columns(
    scaling: ColumnScaling, identified: np.ndarray, turned: np.ndarray | None = None
) -> np.ndarray:
    """Tell which raw columns, or rows of ``turned`` in them, a group does not identify, (n_groups, q).

    Parameters
    ----------
    scaling : ColumnScaling
    identified : ndarray of shape (n_groups, q, q)
        Projections on the directions that the rows of a group identify.
    """
    z = scaling.varying(np.eye(identified.shape[1]) if turned is None else turned)
    inside = np.einsum("rk,jkl,rl->jr", z, identified, z, optimize=True)
    size = np.sum(z**2, axis=1)
    return size - inside > np.sqrt(IDENTIFIED) * size


def pseudo_inverses(zz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pseudo-inverses of ``A_j``, projections on their ranges, and ranks.

    Parameters
    ----------
    zz : ndarray of shape (q, q, n_groups)

    Returns
    -------
    inverse : ndarray of shape (q, q, n_groups)
    identified : ndarray of shape (n_groups, q, q)
    rank : ndarray of shape (n_groups,)
    """
    if len(zz) == 2 and zz.shape[2] > MANY_GROUPS:
        return _inverses_of_pairs(zz)
    matrices = zz.transpose(2, 0, 1)
    q = matrices.shape[1]
    values, vectors = np.linalg.eigh(matrices)
    top = np.max(np.abs(values), axis=1, keepdims=True, initial=0.0)
    inside = values > RANK * np.maximum(top, 1e-300)
    reciprocal = np.where(inside, 1.0 / np.where(inside, values, 1.0), 0.0)
    inverse = (vectors * reciprocal[:, None, :]) @ vectors.swapaxes(1, 2)
    identified = (vectors * inside[:, None, :]) @ vectors.swapaxes(1, 2)
    return inverse.transpose(1, 2, 0).reshape(q, q, -1), identified, inside.sum(axis=1)


def _inverses_of_pairs(zz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `pseudo_inverses` of 2 x 2 matrices: by Cramer's rule where they are far from singular."""
    determinant, trace = zz[0, 0] * zz[1, 1] - zz[0, 1] ** 2, zz[0, 0] + zz[1, 1]
    plain = determinant > FAR_FROM_SINGULAR * trace**2
    reciprocal = np.divide(1.0, determinant, out=np.zeros_like(determinant), where=plain)
    inverse = np.array([[zz[1, 1], -zz[0, 1]], [-zz[1, 0], zz[0, 0]]]) * reciprocal
    identified, rank = np.empty((zz.shape[2], 2, 2)), np.full(zz.shape[2], 2)
    identified[:] = np.eye(2)
    rest = np.flatnonzero(~plain)
    for start in range(0, len(rest), MANY_GROUPS):
        at = rest[start : start + MANY_GROUPS]
        inverse[:, :, at], identified[at], rank[at] = pseudo_inverses(zz[:, :, at])
    return inverse, identified, rank
