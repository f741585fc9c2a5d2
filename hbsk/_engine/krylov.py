"""Solves, log-determinants and roots of a symmetric positive matrix that only multiplies.

Conjugate gradients from a column z are Lanczos's recursion: their coefficients make the tridiagonal T of the matrix in
the basis of the scaled residuals, so that one run gives ``A^-1 z``, ``z' f(A) z = |z|^2 (f(T))_11`` and, where the
basis is kept, ``f(A) z`` (Golub, Meurant 2010, Matrices, Moments and Quadrature, chapters 4 and 6).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh_tridiagonal

MOST_STEPS = 1_000
# Steps up to which eigenvalues are found of all columns at once.
FEW_STEPS = 40
# Gain over what was gained before that is rounding.
ROUNDING = 1e-14


@dataclass(frozen=True)
class KrylovRun:
    """Conjugate gradients from several columns.

    Attributes
    ----------
    solved : ndarray of shape (K, m)
        ``A^-1 z``.
    residual : ndarray of shape (K, m)
        ``z - A solved``.
    size : ndarray of shape (m,)
        ``|z|``.
    tridiagonal : ndarray of shape (m, n_steps, n_steps)
        T of each column; a column that ends early has those of the identity from there on.
    basis : ndarray of shape (n_steps, K, m) or None
        Residuals of length 1.
    converged : ndarray of shape (m,), dtype bool
    """

    solved: np.ndarray
    residual: np.ndarray
    size: np.ndarray
    tridiagonal: np.ndarray
    basis: np.ndarray | None
    converged: np.ndarray

    def quadratic_forms(self, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return ``z' f(A) z`` of each column, (m,)."""
        values, vectors = self._eigen
        return self.size**2 * np.sum(vectors[:, 0] ** 2 * function(values), axis=1)

    def applied(self, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return ``f(A) z``, (K, m)."""
        assert self.basis is not None
        values, vectors = self._eigen
        weights = np.einsum("msi,mi->sm", vectors, vectors[:, 0] * function(values)) * self.size
        return np.einsum("skm,sm->km", self.basis, weights)

    @property
    def _eigen(self) -> tuple[np.ndarray, np.ndarray]:
        if self.tridiagonal.shape[1] <= FEW_STEPS:
            values, vectors = np.linalg.eigh(self.tridiagonal)
        else:
            each = [eigh_tridiagonal(np.diag(t), np.diag(t, 1)) for t in self.tridiagonal]
            values, vectors = (np.stack(parts) for parts in zip(*each, strict=True))
        return np.maximum(values, np.finfo(float).tiny), vectors


def conjugate_gradients(
    times: Callable[[np.ndarray], np.ndarray],
    right: np.ndarray,
    allowed: Callable[[np.ndarray], np.ndarray],
    *,
    keep_basis: bool = False,
) -> KrylovRun:
    """Solve ``A x = right`` for all columns at once.

    A step adds its gain to ``z' A^-1 z``, which it knows exactly so far; a column ends where two gains in a row are as
    small as is allowed (Strakos, Tichy 2002, Electron. Trans. Numer. Anal. 13). Residuals would say little of that:
    what they leave counts the more the smaller the eigenvalue.

    Parameters
    ----------
    times : callable
        Maps columns (K, m) to A times them.
    right : ndarray of shape (K, m)
    allowed : callable
        Maps what ``z' A^-1 z`` is so far, (m,), to gains that do not count.
    keep_basis : bool, default=False
        Whether `KrylovRun.applied` is wanted.
    """
    solved, residual, direction = np.zeros_like(right), right.copy(), right.copy()
    square = _squares(residual)
    size = np.sqrt(square)
    is_open, was_small = square > 0, np.zeros(len(size), dtype=bool)
    energy = np.zeros(len(size))
    lengths, turns, opens = [], [], []
    basis: list[np.ndarray] = []
    for _ in range(min(MOST_STEPS, 2 * len(right) + 10)):
        if not is_open.any():
            break
        if keep_basis:
            # signs alternate, so that entries beside the diagonal of T are positive
            sign = 1.0 if len(basis) % 2 == 0 else -1.0
            basis.append(residual * (sign * _over(1.0, np.sqrt(square), is_open)))
        moved = times(direction)
        length = _over(square, np.einsum("km,km->m", direction, moved), is_open)
        solved += length * direction
        residual -= length * moved
        left = _squares(residual)
        turn = _over(left, square, is_open)
        lengths.append(length)
        turns.append(turn)
        opens.append(is_open)
        gain = length * square
        energy += gain
        is_small = gain <= np.maximum(allowed(energy), ROUNDING * energy)
        is_open = is_open & (left > 0) & ~(is_small & was_small)
        was_small = is_small
        direction *= turn
        direction += residual
        square = left
    kept = np.stack(basis) if basis else None
    ends = ~is_open & np.isfinite(size)
    return KrylovRun(solved, residual, size, _tridiagonals(lengths, turns, opens, len(size)), kept, ends)


def _squares(columns):
    return np.einsum("km,km->m", columns, columns)


def _over(numerator, denominator, where):
    """Return quotients, zero where they are not wanted or mean nothing."""
    return np.divide(numerator, denominator, out=np.zeros(len(where)), where=where & (denominator > 0))


def _tridiagonals(lengths, turns, opens, m):
    """Return T of each column, from the coefficients of conjugate gradients (Golub, Meurant 2010, section 4.3)."""
    n_steps = max(1, len(lengths))
    matrix = np.zeros((m, n_steps, n_steps))
    matrix[:, range(n_steps), range(n_steps)] = 1.0
    for s, (length, is_open) in enumerate(zip(lengths, opens, strict=True)):
        is_open = is_open & (length > 0)
        matrix[:, s, s] = np.where(is_open, _over(1.0, length, is_open), 1.0)
        if s:
            coupled = is_open & (lengths[s - 1] > 0)
            matrix[:, s, s] += _over(turns[s - 1], lengths[s - 1], coupled)
            matrix[:, s, s - 1] = matrix[:, s - 1, s] = _over(np.sqrt(turns[s - 1]), lengths[s - 1], coupled)
    return matrix
