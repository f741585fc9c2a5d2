"""Small matrices of many groups at once: factors, inverses, determinants, packed and unpacked.

Arrays of shape (q, q, n_groups) or (n_points, ..., n_groups) hold the groups last; loops run over the
few varying columns, arithmetic over points and groups.
"""

from __future__ import annotations

from functools import lru_cache, reduce

import numpy as np

# Relative size of what is left of a sum of squares after another is taken off, when nothing is.
ROUNDING = 1e-13
# Squared sds of effects over those of their estimates from which rounding may rule, and from which it does where groups
# do not tell all directions.
DOUBTFUL, HOPELESS = 1e12, 1e26


@lru_cache(maxsize=64)
def lower_indices(q: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of a lower triangle, by rows: the order of packed matrices."""
    indices = np.tril_indices(q)
    for index in indices:
        index.flags.writeable = False
    return indices


def nonnegative(matrix, size):
    """Return a semidefinite matrix: eigenvalues that cannot be told from rounding become zero."""
    unit = np.sqrt(np.where(size > 0, size, 1.0))
    values, vectors = np.linalg.eigh(matrix / np.outer(unit, unit))
    if values[0] > ROUNDING:
        return matrix
    values = np.where(values > ROUNDING, values, 0.0)
    return (vectors * values) @ vectors.T * np.outer(unit, unit)


def rotate_groups(zz: np.ndarray, zx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``L_j`` with ``A_j = L_j L_j'`` and ``D_j = L_j^-1 B_j``, zero where A_j is singular.

    Parameters
    ----------
    zz : ndarray of shape (q, q, n_groups)
    zx : ndarray of shape (q, p + 1, n_groups)
    """
    q = len(zz)
    lower = np.zeros_like(zz)
    rotated = np.zeros_like(zx)
    for j in range(q):
        pivot = zz[j, j] - np.sum(lower[j, :j] ** 2, axis=0)
        seen = pivot > ROUNDING * zz[j, j]
        lower[j, j] = np.sqrt(np.where(seen, pivot, 0.0))
        reciprocal = np.divide(1.0, lower[j, j], out=np.zeros_like(pivot), where=seen)
        for i in range(j + 1, q):
            lower[i, j] = (zz[i, j] - np.sum(lower[i, :j] * lower[j, :j], axis=0)) * reciprocal
        rest = zx[j] - np.einsum("kj,kaj->aj", lower[j, :j], rotated[:j])
        rotated[j] = rest * reciprocal
    return lower, rotated


def between_groups(rotated: np.ndarray) -> np.ndarray:
    """Return ``sum_j D_j' D_j``, (p + 1, p + 1), of ``D_j`` as (q, p + 1, n_groups)."""
    by_column = rotated.transpose(1, 0, 2).reshape(rotated.shape[1], -1)
    return by_column @ by_column.T


def congruences(lower: np.ndarray) -> np.ndarray:
    """Return the linear maps from the lower entries of S to those of ``L_j' S L_j``, one for each group.

    Parameters
    ----------
    lower : ndarray of shape (q, q, n_groups)
        ``L_j``.

    Returns
    -------
    maps : ndarray of shape (q (q + 1) / 2, q (q + 1) / 2, n_groups)
        Entries of S first.
    """
    row, column = lower_indices(len(lower))
    maps = np.empty((len(row), len(row), lower.shape[2]))
    mixed = row != column
    for at, (k, m) in enumerate(zip(row, column, strict=True)):
        np.multiply(lower[row, k], lower[column, m], out=maps[:, at])
        maps[mixed, at] += (lower[column, k] * lower[row, m])[mixed]
    return maps


def marginal_inverse(maps: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``M_j^-1 = (I + L_j' S L_j)^-1`` for points and groups, and ``|M_j|``.

    Parameters
    ----------
    maps : ndarray of shape (q (q + 1) / 2, q (q + 1) / 2, n_groups)
        From `congruences`.
    covariance : ndarray of shape (n_points, q, q)
        ``S``.

    Returns
    -------
    inverse : ndarray of shape (n_points, q (q + 1) / 2, n_groups)
        Lower triangles, packed by rows.
    determinant : ndarray of shape (n_points, n_groups)
    """
    n_points, q = covariance.shape[:2]
    n_pairs, _, n_groups = maps.shape
    row, column = lower_indices(q)
    # M is linear in the entries of S: one small matrix product for all points
    entries = (covariance[:, row, column] @ maps.reshape(n_pairs, n_pairs * n_groups)).reshape(
        n_points, n_pairs, n_groups
    )
    return inverses(entries, q)


def _factors(entries, q):
    """Return U below the diagonal and d of ``U diag(d) U' = I + (semidefinite)``.

    ``entries`` are the packed lower entries of the semidefinite part; U has a unit diagonal, which saves the roots of
    Cholesky's factors.
    """
    unit: dict[tuple[int, int], np.ndarray] = {}
    pivots: list[np.ndarray] = []
    for i in range(q):
        row: list[np.ndarray] = []  # U[i, j] d[j]
        for j in range(i):
            entry = entries[:, i * (i + 1) // 2 + j]
            for k in range(j):
                entry = entry - row[k] * unit[j, k]
            row.append(entry)
            unit[i, j] = entry / pivots[j]
        pivot = entries[:, i * (i + 1) // 2 + i] + 1.0
        for j in range(i):
            pivot -= row[j] * unit[i, j]
        # Schur complements of I + (semidefinite) are at least 1, whatever rounding says
        pivots.append(np.maximum(pivot, 1.0, out=pivot))
    return unit, pivots


def inverses(entries, q):
    """Return packed inverses of I + (semidefinite), given its lower entries, and determinants."""
    unit, pivots = _factors(entries, q)
    solved: dict[tuple[int, int], np.ndarray] = {}  # U^-1 below the diagonal
    scaled: dict[tuple[int, int], np.ndarray] = {}  # diag(1 / d) U^-1
    for i in range(q):
        scaled[i, i] = 1.0 / pivots[i]
        for j in range(i):
            entry = -unit[i, j]
            for k in range(j + 1, i):
                entry -= unit[i, k] * solved[k, j]
            solved[i, j] = entry
            scaled[i, j] = entry * scaled[i, i]
    inverse = np.empty_like(entries)
    for i in range(q):
        for j in range(i + 1):
            out = inverse[:, i * (i + 1) // 2 + j]
            out[...] = scaled[i, j]
            for k in range(i + 1, q):
                out += solved[k, i] * scaled[k, j]
    return inverse, reduce(np.multiply, pivots) if q else np.ones((len(entries), entries.shape[2]))


def relative_inverse(zz: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return ``H_j = Lambda (I + Lambda' A_j Lambda)^-1 Lambda'`` for points and groups.

    Parameters
    ----------
    zz : ndarray of shape (q, q, n_groups)
        ``A_j``.
    factor : ndarray of shape (n_points, q, q)
        ``Lambda``, lower triangular.

    Returns
    -------
    inverse : ndarray of shape (n_points, q (q + 1) / 2, n_groups)
        Lower triangles of ``H_j``, packed by rows.
    """
    n_points, q = factor.shape[:2]
    if q == 1:  # a sixth of the time
        return factor * (factor / (1.0 + factor**2 * zz[0]))
    row, column = lower_indices(q)
    n_groups = zz.shape[2]
    # I + Lambda' A Lambda is linear in the entries of A: one matrix product for all points
    twice = np.einsum("mak,mbl->mklab", factor, factor)
    linear = twice + twice.swapaxes(3, 4)
    linear = linear[:, row, column][:, :, row, column] * np.where(row == column, 0.5, 1.0)
    packed = (linear.reshape(-1, len(row)) @ zz[row, column]).reshape(n_points, -1, n_groups)
    unit, pivots = _factors(packed, q)
    solved: dict[tuple[int, int], np.ndarray] = {}  # U^-1 Lambda'
    scaled: dict[tuple[int, int], np.ndarray] = {}  # diag(1 / d) U^-1 Lambda'
    for i in range(q):
        reciprocal = 1.0 / pivots[i]
        for j in range(q):
            entry = factor[:, j, i, None]
            for k in range(i):
                entry = entry - unit[i, k] * solved[k, j]
            solved[i, j] = entry
            scaled[i, j] = entry * reciprocal
    inverse = np.empty_like(packed)
    for at, (i, j) in enumerate(zip(row, column, strict=True)):
        np.multiply(solved[0, i], scaled[0, j], out=inverse[:, at])
        for k in range(1, q):
            inverse[:, at] += solved[k, i] * scaled[k, j]
    return inverse


def made_up_by_rounding(zz: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return 0 for nodes whose effects can be computed, and infinity where rounding makes them up, (n_nodes,).

    Where the sd of effects is beyond 1e6 sds of their estimates, digits are lost of the directions that a group does
    not tell. Variances that exceed what they were before the data give that away, or sds beyond all digits.

    Parameters
    ----------
    zz : ndarray of shape (q, q, n_groups)
        ``A_j``.
    factor : ndarray of shape (n_points, q, q)
        ``Lambda``.
    """
    verdict = np.zeros(len(factor))
    if factor.shape[1] < 2 or not zz.shape[2]:
        return verdict
    variance = np.sum(factor**2, axis=2)
    most = np.max(variance, axis=1) * np.max(np.einsum("kkj->kj", zz))
    doubtful = np.flatnonzero(most > DOUBTFUL)
    if not len(doubtful):
        return verdict
    row, column = lower_indices(factor.shape[1])
    left = relative_inverse(zz, factor[doubtful])[:, row == column]
    holds = np.all(left <= 2.0 * variance[doubtful, :, None], axis=(1, 2))
    if np.any(np.einsum("kkj->kj", rotate_groups(zz, zz)[0]) == 0.0):
        holds &= most[doubtful] <= HOPELESS
    verdict[doubtful] = np.where(holds, 0.0, np.inf)
    return verdict


def unpack_symmetric(packed, q):
    """Return symmetric matrices (n_points, q, q, n_groups) from packed lower triangles."""
    if q == 1:
        return packed[:, None].copy()
    row, column = lower_indices(q)
    full = np.empty((len(packed), q, q, packed.shape[2]))
    full[:, row, column] = packed
    full[:, column, row] = packed
    return full
