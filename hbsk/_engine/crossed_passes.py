"""Several grouping factors, few effects beside the largest: the Schur complement as a dense matrix, factorised.

Symbols are those of `hbsk._engine.schur_passes`, with ``S = U' U`` and ``V = U'^-1 Lambda_2' B~``. R is linear in the
entries of H: a map, built once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

from hbsk._engine.crossed_maps import dense, product_map, symmetric, times_stack
from hbsk._engine.crossed_sums import CrossedSums
from hbsk._engine.group_algebra import nonnegative, relative_inverse, unpack_symmetric
from hbsk._engine.krylov_passes import PROBES, probe_columns
from hbsk._engine.schur_passes import Effects, SchurPasses

# Effects beside the largest factor: 4,500 take about a second for each Cholesky factor, and 160 MB for each matrix.
MOST_REMAINING = 4_500
# Remaining effects up to which points cost next to nothing.
CHEAP_REMAINING = 300
# Relative sd, over that of estimates of effects, at which effects are hardly shrunken.
HARDLY_SHRUNKEN = 1e5
# A Cholesky factor of so many remaining effects, to the third power, costs as much as a group of its own design.
CUBED_REMAINING_PER_GROUP = 2_000
# Numbers of the matrices of points that are worked on together, and remaining effects up to which one call factorises
# the matrices of all of them.
BLOCK_NUMBERS = 2**18
FEW_REMAINING = 64
# Share of lambda^2 R in 1 below which one less the inverse has lost digits.
LOST_TRACE = 1e-8


class Complement(NamedTuple):
    """The Schur complement at one Lambda.

    Attributes
    ----------
    first : ndarray of shape (n_groups, q, q)
        ``H_j``.
    lambdas : list of ndarray of shape (q, q)
        ``Lambda`` of the other factors.
    rest : ndarray of shape (K, K) or (K,)
        R, or its diagonal where all factors have one varying column.
    root : ndarray of shape (K, K)
        U; its lower triangle means nothing.
    reduced : ndarray of shape (K, p + 1)
        ``B~``.
    white : ndarray of shape (K, p + 1)
        V.
    log_det : float
        ``log|S|``.
    """

    first: np.ndarray
    lambdas: list[np.ndarray]
    rest: np.ndarray
    root: np.ndarray
    reduced: np.ndarray
    white: np.ndarray
    log_det: float

    @property
    def explained(self) -> np.ndarray:
        """``V' V``."""
        return self.white.swapaxes(-2, -1) @ self.white


class CrossedPasses(SchurPasses):
    """Sums over the levels of several factors for any Lambda; see `SchurPasses`."""

    how = "exact for several grouping factors"

    def __init__(self, sums: CrossedSums):
        super().__init__(sums)
        self._probes: np.ndarray | None = None
        self.n_cells += self.n_remaining**3 // CUBED_REMAINING_PER_GROUP
        numbers = (self.n_remaining + self._zx.shape[2]) ** 2 + self._zx.size
        self._width = max(1, BLOCK_NUMBERS // numbers)

    def _matrix_of(self, entries) -> np.ndarray:
        return dense(entries, (self.n_remaining, self.n_remaining))

    @cached_property
    def _map(self):
        """``A_21 H A_12`` as a map of H."""
        return product_map(self._across, self._zx)

    @property
    def is_cheap(self) -> bool:
        """Whether points cost next to nothing."""
        return self.n_remaining <= CHEAP_REMAINING

    @property
    def numbers_kept(self) -> int:
        """How many numbers the law of all effects takes at one point."""
        return self.n_remaining**2 + 3 * self._zx.size

    @cached_property
    def within(self) -> np.ndarray:
        """W, (p + 1, p + 1), the products of what no effects explain: of ridge regressions of next to no penalty.

        Zero, which is no bound, where rounding rules even so.
        """
        columns = [self.sums.columns[f] for f in self.order]
        factor, inverse = np.zeros((2, 1, self.sums.n_varying, self.sums.n_varying))
        for f, at in zip(self.order, columns, strict=True):
            size = np.einsum("kkj->k", self.sums.factors[f].zz) / self.sums.factors[f].n_groups
            sd = HARDLY_SHRUNKEN / np.sqrt(np.where(size > 0, size, 1.0))
            factor[0, at, at], inverse[0, at, at] = np.diag(sd), np.diag(1.0 / sd)
        complement = self._complements(factor)
        _, reduced = self._first.reduce(np.ascontiguousarray(factor[:, columns[0], columns[0]]))
        reduced -= complement.explained
        rest, first = self._solved(complement)
        scaled = self._times(rest, [inverse[:, at, at] for at in columns[1:]])[0]
        of_first = (inverse[0, columns[0], columns[0]] @ first[0]).reshape(-1, first.shape[-1])
        penalty = scaled.T @ scaled + of_first.T @ of_first
        left = reduced[0] - penalty
        return nonnegative(left, np.diag(self.sums.xx)) if np.isfinite(left).all() else np.zeros_like(left)

    def _complements(self, factor: np.ndarray) -> Complement:
        """Return the Schur complements at several Lambda, (n_points, q, q), along leading axes."""
        blocks = [factor[:, at, at] for at in self.sums.columns]
        lambdas = [blocks[f] for f in self.order[1:]]
        packed = relative_inverse(self.sums.factors[self.order[0]].zz, np.ascontiguousarray(blocks[self.order[0]]))
        first = unpack_symmetric(packed, self._zz.shape[1]).transpose(0, 3, 1, 2)
        rest, of_columns = self._map.all_products(packed, first)
        np.subtract(self._rest_zz, rest, out=rest)  # the lower triangle is right
        reduced = self._rest_zx - of_columns
        if self._is_scalar:
            scale, matrix = self._rest_scale(lambdas), rest
            rest = np.diagonal(rest, axis1=1, axis2=2).copy()
            matrix *= scale[:, None]
            matrix *= scale[:, :, None]
            right = reduced * scale[:, :, None]
        else:
            rest = symmetric(rest)
            half = self._times(rest, lambdas, transpose=True)
            matrix = self._times(np.ascontiguousarray(half.swapaxes(1, 2)), lambdas, transpose=True)
            right = self._times(reduced, lambdas, transpose=True)
        matrix.reshape(len(matrix), -1)[:, :: self.n_remaining + 1] += 1.0
        root, white, log_det = _factorised(matrix, right)
        return Complement(first, lambdas, rest, root, reduced, white, log_det)

    def _rest_solved(self, complement: Complement) -> np.ndarray:
        both = zip(complement.root, complement.white, strict=True)
        half = _together([lapack.dtrtrs(root, white, lower=0, trans=0)[0] for root, white in both])
        return self._times(half, complement.lambdas)

    def _covariances(self, complement: Complement) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ``S^-1``, P, and ``A_12 P A_21`` of each level, and spoil the root.

        Of the first two only lower triangles are right; where all factors have one varying column the first is a
        diagonal.
        """
        inverse = _together([lapack.dpotri(root, lower=0, overwrite_c=1)[0].T for root in complement.root])
        if self._is_scalar:
            scale, phi = self._rest_scale(complement.lambdas), inverse
            inverse = np.diagonal(inverse, axis1=1, axis2=2).copy()
            phi *= scale[:, None]
            phi *= scale[:, :, None]
        else:
            inverse = symmetric(inverse)
            half = np.ascontiguousarray(self._times(inverse, complement.lambdas).swapaxes(1, 2))
            phi = self._times(half, complement.lambdas)
        return inverse, phi, self._map.quadratics(phi)

    def _laws(self, factor, number, weight) -> Effects:  # noqa: ARG002 - nothing is drawn
        complement = self._known_complements(factor)
        rest_solved, first_solved = self._solved(complement)
        first, (_, phi, across) = complement.first, self._covariances(complement)
        return Effects(first, first + first @ across @ first, symmetric(phi), first_solved, rest_solved)

    @contextmanager
    def rough_gradients(self) -> Iterator[None]:
        """Estimate traces from a few probes: solves instead of an inverse, for a third of the time of a gradient."""
        self._probes = probe_columns(self.n_remaining, PROBES)
        try:
            yield
        finally:
            self._probes = None

    def _traces(self, complement: Complement) -> tuple[list[np.ndarray], np.ndarray]:
        if self._probes is None:
            return self._exact_traces(complement)
        return self._probed_traces(complement, self._probes)

    def _probed_traces(self, complement, probes):
        """Return about what `_traces` does: with ``y = U^-1 z`` of fixed signs z, ``S^-1`` is the mean of ``y y'``."""
        n_points, n_probes = len(complement.root), probes.shape[1]
        each = [lapack.dtrtrs(root, probes, lower=0, trans=0)[0] for root in complement.root]
        half = _together(each)
        scaled = self._times(half, complement.lambdas)
        of_rest = None if self._is_scalar else complement.rest @ scaled
        traces = []
        for f, block in zip(self.order[1:], complement.lambdas, strict=True):
            q, n = self.sums.factors[f].n_varying, self.sums.factors[f].n_groups
            rows = slice(self.starts[f], self.starts[f] + n * q)
            if of_rest is None:
                inverse = np.mean(half**2, axis=2)
                traces.append(_scalar_trace(complement.rest, inverse, rows, block[:, 0, 0])[:, None, None])
            else:
                parts = [part[:, rows].reshape(n_points, n, q, n_probes) for part in (of_rest, half)]
                traces.append(np.einsum("mjkz,mjlz->mkl", *parts, optimize=True) / n_probes)
        across = times_stack(self._across, scaled).reshape(n_points, -1, self._zz.shape[1], n_probes)
        return traces, np.einsum("mjkz,mjlz->mjkl", across, across, optimize=True) / n_probes

    def _exact_traces(self, complement):
        inverse, _, across = self._covariances(complement)
        half = None if self._is_scalar else self._times(inverse, complement.lambdas)  # Lambda_2 S^-1
        traces = []
        for f, block in zip(self.order[1:], complement.lambdas, strict=True):
            q = self.sums.factors[f].n_varying
            rows = slice(self.starts[f], self.starts[f] + self.sums.factors[f].n_groups * q)
            if half is None:
                traces.append(_scalar_trace(complement.rest, inverse, rows, block[:, 0, 0])[:, None, None])
            else:
                shape = (len(inverse), -1, q, self.n_remaining)
                by_level = half[:, :, rows].swapaxes(1, 2).reshape(shape)
                of_rest = complement.rest[:, rows].reshape(shape)
                traces.append(np.einsum("mjkr,mjlr->mkl", of_rest, by_level, optimize=True))
        return traces, across

    def coloured(self, complement: Complement, noise: np.ndarray) -> np.ndarray:
        """Return ``Lambda_2 U^-1 noise``, whose covariance is P for white noise (K, m)."""
        return self._times(lapack.dtrtrs(complement.root, noise, lower=0, trans=0)[0], complement.lambdas)


def _scalar_trace(rest, inverse, rows, scale):
    """Return ``sum_j (R Lambda_2 S^-1)_jj`` over some rows, (n_points,): ``(1 - S^-1_jj) / lambda``, of diagonals."""
    of_rest, of_inverse = rest[:, rows], inverse[:, rows]
    lost = scale[:, None] ** 2 * of_rest < LOST_TRACE
    safe = np.where(scale > 0, scale, 1.0)[:, None]
    return np.sum(np.where(lost, scale[:, None] * of_rest, (1.0 - of_inverse) / safe), axis=1)


def _together(matrices):
    """Return matrices along a leading axis; one by itself is not copied."""
    return matrices[0][None] if len(matrices) == 1 else np.stack(matrices)


def _factorised(matrices, right):
    """Return U with ``U' U`` the matrices (n_points, K, K), ``U'^-1 right`` and log-determinants, NaN where none is.

    Only lower triangles are read, those of U mean nothing.
    """
    size, m = matrices.shape[1], right.shape[2]
    if len(matrices) > 1 and size <= FEW_REMAINING:
        # Cholesky's factor of [[S, v], [v', large]] holds U'^-1 v: one call for all points
        together = np.empty((len(matrices), size + m, size + m))
        together[:, :size, :size] = matrices
        together[:, size:, :size] = right.swapaxes(1, 2)
        large = 2.0 * (1.0 + np.einsum("nkm,nkm->n", right, right))
        together[:, size:, size:] = large[:, None, None] * np.eye(m)
        try:
            lower = np.linalg.cholesky(together)
        except np.linalg.LinAlgError:
            pass  # of one of them; each by itself
        else:
            log_det = 2.0 * np.sum(np.log(np.diagonal(lower, axis1=1, axis2=2)[:, :size]), axis=1)
            return lower[:, :size, :size].swapaxes(1, 2), lower[:, size:, :size].swapaxes(1, 2), log_det
    roots, white, log_det = [], np.empty_like(right), np.empty(len(matrices))
    for i, (matrix, of_point) in enumerate(zip(matrices, right, strict=True)):
        root, failed = lapack.dpotrf(matrix.T, lower=0, overwrite_a=1, clean=0)
        roots.append(root)
        log_det[i] = np.nan if failed else 2.0 * np.sum(np.log(root.diagonal()))
        white[i] = np.nan if failed else lapack.dtrtrs(root, of_point, lower=0, trans=1)[0]
    return tuple(roots), white, log_det
