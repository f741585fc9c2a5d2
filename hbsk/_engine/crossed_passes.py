"""What an evaluation of the marginal posterior asks of several grouping factors: a dense Schur complement.

The factor with most effects (0) is eliminated level by level, as a single factor is; the K effects of all others (2)
remain. With Lambda relative to sigma,

    H_j = Lambda_0 (I + Lambda_0' A_j Lambda_0)^-1 Lambda_0',    R = A_22 - A_21 H A_12
    S = I + Lambda_2' R Lambda_2 = U' U,        log|M| = sum_j log|M_j| + log|S|
    B~ = B_2 - A_21 H B_1,    V = U'^-1 Lambda_2' B~,    C = C_0 - V' V

where ``sum_j log|M_j|`` and ``C_0 = G - B_1' H B_1`` are those of factor 0 alone (`GroupPasses`), which keep their
digits where its levels explain nearly all. R is linear in the entries of H: a sparse map, built once.

``Phi = Lambda M^-1 Lambda'``, the covariance of all effects given the common coefficients, over sigma^2, is

    P = Lambda_2 S^-1 Lambda_2' for the rest,    - H A_12 P between,    H + H A_12 P A_21 H for factor 0

(Bates et al. 2015, J. Stat. Softw. 67(1), eliminate level by level in the same order.)
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.linalg import lapack

from hbsk._engine.crossed_sums import CrossedSums
from hbsk._engine.group_algebra import lower_indices, relative_inverse, unpack_symmetric
from hbsk._engine.group_passes import GroupPasses
from hbsk._engine.threads import n_threads, one_thread_each

# Effects beside the largest factor: 4,500 take about a second for each Cholesky factor, and 160 MB for each matrix.
MOST_REMAINING = 4_500
# Entries of the sparse map above which R is made of dense products instead (each takes 36 bytes).
MOST_ENTRIES = 20_000_000
# Numbers of a dense stretch of A_12.
DENSE_NUMBERS = 2**22
# Remaining effects from which points are shared among threads.
EFFECTS_FOR_THREADS = 200


def require_manageable(names: Sequence[str], n_groups: Sequence[int], n_varying: Sequence[int]) -> None:
    """Raise where too many effects remain beside the largest factor, before anything is allocated."""
    sizes = [n * q for n, q in zip(n_groups, n_varying, strict=True)]
    remaining = sum(sizes) - max(sizes)
    if remaining <= MOST_REMAINING:
        return
    counts = ", ".join(f"{size} of {name!r}" for name, size in zip(names, sizes, strict=True))
    raise ValueError(
        f"Beside the grouping factor with most effects {remaining} effects remain ({counts}), and at most "
        f"{MOST_REMAINING} can be integrated: their matrix would take {8 * remaining**2 / 2**30:.1f} GiB, several "
        "times, and be factorised at every point. Merge rare levels, leave a factor or a slope out, or fit one factor "
        "at a time."
    )


class Complement(NamedTuple):
    """The Schur complement at one Lambda.

    Attributes
    ----------
    first : ndarray of shape (n_groups, q, q)
        ``H_j``.
    lambdas : list of ndarray of shape (q, q)
        ``Lambda`` of the other factors.
    rest : ndarray of shape (K, K)
        R.
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


class Effects(NamedTuple):
    """``Phi`` and ``Phi B`` at one Lambda.

    Attributes
    ----------
    first : ndarray of shape (n_groups, q, q)
        ``H_j``.
    first_phi : ndarray of shape (n_groups, q, q)
        Blocks of Phi for factor 0.
    rest_phi : ndarray of shape (K, K)
        P, symmetric.
    first_solved : ndarray of shape (n_groups, q, p + 1)
        ``Phi B`` for factor 0.
    rest_solved : ndarray of shape (K, p + 1)
    """

    first: np.ndarray
    first_phi: np.ndarray
    rest_phi: np.ndarray
    first_solved: np.ndarray
    rest_solved: np.ndarray


class CrossedPasses:
    """Sums over the levels of several factors for any Lambda.

    Parameters
    ----------
    sums : CrossedSums

    Attributes
    ----------
    order : list of int
        The factors by number of effects, most first.
    n_remaining : int
        K.
    starts : dict of int to int
        Where the effects of a factor that remains begin.
    """

    def __init__(self, sums: CrossedSums):
        self.sums = sums
        sizes = [factor.n_groups * factor.n_varying for factor in sums.factors]
        self.order = sorted(range(len(sizes)), key=lambda f: -sizes[f])
        zero, others = self.order[0], self.order[1:]
        self.starts = {f: int(start) for f, start in zip(others, np.cumsum([0, *(sizes[f] for f in others)]))}  # noqa: B905
        self.n_remaining = sum(sizes[f] for f in others)
        self.n_cells = sums.factors[zero].n_groups + self.n_remaining
        self._first = GroupPasses(sums.factors[zero])
        self._zz = np.ascontiguousarray(sums.factors[zero].zz.transpose(2, 0, 1))
        self._zx = np.ascontiguousarray(sums.factors[zero].zx.transpose(2, 0, 1))
        self._rest_zz, self._rest_zx = _dense_rest(sums, others, self.starts, self.n_remaining)
        self.between = _between(sums, zero, others, self.starts, self.n_remaining)
        self._map = _product_map(self.between, self._zz.shape[1])
        self._is_scalar = all(factor.n_varying == 1 for factor in sums.factors)
        self._kept: dict[bytes, Complement] | None = None

    # points

    def reduce(self, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Integrate all group effects out; see `GroupPasses.reduce`, with ``Lambda`` block diagonal in the factors."""
        at = self.sums.columns[self.order[0]]
        log_det, reduced = self._first.reduce(np.ascontiguousarray(factor[:, at, at]))

        def work(m):
            complement = self.complement(factor[m])
            if self._kept is not None:
                self._kept[factor[m].tobytes()] = complement
            return complement.log_det, complement.white.T @ complement.white

        for m, (of_rest, explained) in enumerate(self._over(work, len(factor))):
            log_det[m] += of_rest
            reduced[m] -= explained
        beyond = ~np.isfinite(log_det)  # where Lambda leaves floating point
        reduced[beyond] = np.nan
        return log_det, reduced

    def keep(self, *, kept: bool) -> None:
        """Keep the Schur complements of points that are reduced, for their gradients; or drop them."""
        self._kept = {} if kept else None

    def factor_gradient(self, factor: np.ndarray, adjoint: np.ndarray) -> np.ndarray:
        """Return d log p(y) / d Lambda, (n_points, q, q), block diagonal; see `GroupPasses.covariance_gradient`."""
        return np.array(self._over(lambda m: self._gradient(factor[m], adjoint[m]), len(factor)))

    def _over(self, work, n_points: int) -> list:
        if n_points < 2 or self.n_remaining < EFFECTS_FOR_THREADS or n_threads() == 1:
            return [work(m) for m in range(n_points)]
        with one_thread_each(), ThreadPoolExecutor(n_threads()) as pool:
            return list(pool.map(work, range(n_points)))

    # one point

    def complement(self, factor: np.ndarray) -> Complement:
        """Return the Schur complement at one Lambda, (q, q)."""
        blocks = [factor[at, at] for at in self.sums.columns]
        zero = blocks[self.order[0]]
        lambdas = [blocks[f] for f in self.order[1:]]
        first = unpack_symmetric(relative_inverse(self.sums.factors[self.order[0]].zz, zero[None]), len(zero))[0]
        first = np.ascontiguousarray(first.transpose(2, 0, 1))
        rest = self._rest_zz - self._map.products(first)
        if self._is_scalar:
            scale = self._rest_scale(lambdas)
            matrix = rest * scale
            matrix *= scale[:, None]
        else:
            half = self._times(rest, lambdas, transpose=True)
            matrix = self._times(np.ascontiguousarray(half.T), lambdas, transpose=True)
        matrix.flat[:: len(matrix) + 1] += 1.0
        root, failed = lapack.dpotrf(matrix.T, lower=0, overwrite_a=1, clean=0)
        log_det = np.nan if failed else 2.0 * np.sum(np.log(root.diagonal()))
        reduced = self._rest_zx - self.between.T @ (first @ self._zx).reshape(-1, self._zx.shape[2])
        white = lapack.dtrtrs(root, self._times(reduced, lambdas, transpose=True), lower=0, trans=1)[0]
        return Complement(first, lambdas, rest, root, reduced, white, log_det)

    def effects(self, factor: np.ndarray) -> Effects:
        """Return Phi and ``Phi B`` at one Lambda, (q, q)."""
        return self._effects(self.complement(factor))[0]

    def _effects(self, complement: Complement) -> tuple[Effects, np.ndarray, np.ndarray]:
        """Return them, with ``S^-1`` and ``A_12 P A_21`` of each level."""
        first, lambdas = complement.first, complement.lambdas
        solved, first_solved = self.solved(complement)
        upper = lapack.dpotri(complement.root.copy(order="F"), lower=0, overwrite_c=1)[0]
        inverse = np.triu(upper) + np.triu(upper, 1).T
        rest_phi = self._times(np.ascontiguousarray(self._times(inverse, lambdas).T), lambdas)
        across = self._map.quadratics(rest_phi)
        first_phi = first + first @ across @ first
        return Effects(first, first_phi, rest_phi, first_solved, solved), inverse, across

    def solved(self, complement: Complement) -> tuple[np.ndarray, np.ndarray]:
        """Return ``Phi B`` of the rest, (K, p + 1), and of factor 0, (n_groups, q, p + 1)."""
        half = lapack.dtrtrs(complement.root, complement.white, lower=0, trans=0)[0]
        rest = self._times(half, complement.lambdas)
        return rest, complement.first @ (self._zx - self.across(rest))

    def across(self, rest: np.ndarray) -> np.ndarray:
        """Return ``A_12 v``, (n_groups, q, m), for v of shape (K, m)."""
        return (self.between @ rest).reshape(*self._zx.shape[:2], -1)

    def level_products(self) -> np.ndarray:
        """Return ``B_1``, (n_groups, q, p + 1), of the factor that is eliminated."""
        return self._zx

    def coloured(self, complement: Complement, noise: np.ndarray) -> np.ndarray:
        """Return ``Lambda_2 U^-1 noise``, whose covariance is P for white noise (K, m)."""
        return self._times(lapack.dtrtrs(complement.root, noise, lower=0, trans=0)[0], complement.lambdas)

    def _gradient(self, factor, adjoint):
        complement = self._kept.pop(factor.tobytes(), None) if self._kept else None
        complement = self.complement(factor) if complement is None else complement
        effects, inverse, across = self._effects(complement)
        zero, n_columns = self.order[0], self._zx.shape[2]
        first_solved = effects.first_solved.reshape(-1, n_columns)
        left = self._rest_zx - self._rest_zz @ effects.rest_solved - self.between.T @ first_solved
        first_left = self._zx - self._zz @ effects.first_solved - self.across(effects.rest_solved)
        gradient = np.zeros_like(factor)
        half = self._times(inverse, complement.lambdas)  # Lambda_2 S^-1
        for f, block in zip(self.order[1:], complement.lambdas, strict=True):
            rows = slice(self.starts[f], self.starts[f] + self.sums.factors[f].n_groups * len(block))
            of_levels = left[rows].reshape(-1, len(block), n_columns)
            fit = np.einsum("jka,ab,jlb->kl", of_levels, adjoint, of_levels, optimize=True) @ block
            if len(block) == 1:
                trace = np.sum(complement.rest[rows] * half[:, rows].T)
            else:
                shape = (-1, len(block), self.n_remaining)
                by_level = half[:, rows].T.reshape(shape)
                trace = np.einsum("jkr,jlr->kl", complement.rest[rows].reshape(shape), by_level, optimize=True)
            gradient[self.sums.columns[f], self.sums.columns[f]] = fit - trace
        taken = np.eye(self._zz.shape[1]) - self._zz @ complement.first  # (I + A_j S_0)^-1
        trace = np.sum(self._zz @ taken.swapaxes(1, 2) - taken @ across @ taken.swapaxes(1, 2), axis=0)
        fit = np.einsum("jka,ab,jlb->kl", first_left, adjoint, first_left, optimize=True)
        at = self.sums.columns[zero]
        gradient[at, at] = (fit - trace) @ factor[at, at]
        return gradient

    def _rest_scale(self, lambdas):
        counts = [self.sums.factors[f].n_groups for f in self.order[1:]]
        return np.repeat([block[0, 0] for block in lambdas], counts)

    def _times(self, matrix, lambdas, *, transpose=False):
        """Return ``Lambda_2 matrix``, or ``Lambda_2' matrix``, for a matrix of shape (K, m)."""
        if self._is_scalar:
            return matrix * self._rest_scale(lambdas)[:, None]
        out = np.empty_like(matrix)
        for f, block in zip(self.order[1:], lambdas, strict=True):
            rows = slice(self.starts[f], self.starts[f] + self.sums.factors[f].n_groups * len(block))
            left = block.T if transpose else block
            out[rows] = (left @ matrix[rows].reshape(-1, len(block), matrix.shape[1])).reshape(-1, matrix.shape[1])
        return out


def _dense_rest(sums, others, starts, size):
    """Return ``A_22``, (K, K), and ``B_2``, (K, p + 1)."""
    matrix, products = np.zeros((size, size)), []
    for i, f in enumerate(others):
        own = sums.factors[f]
        q, levels = own.n_varying, np.arange(own.n_groups)
        for k in range(q):
            for m in range(q):
                matrix[starts[f] + levels * q + k, starts[f] + levels * q + m] = own.zz[k, m]
        products.append(own.zx.transpose(2, 0, 1).reshape(-1, own.zx.shape[1]))
        for g in others[i + 1 :]:
            pair = sums.pair(f, g)
            for k in range(q):
                for m in range(sums.factors[g].n_varying):
                    row = starts[f] + pair.first * q + k
                    column = starts[g] + pair.second * sums.factors[g].n_varying + m
                    matrix[row, column] = matrix[column, row] = pair.blocks[:, k, m]
    return matrix, np.concatenate(products)


def _between(sums, zero, others, starts, size) -> sp.csr_array:
    """Return ``A_12``, (n_groups q, K), sparse."""
    own = sums.factors[zero]
    q = own.n_varying
    values, rows, columns = [], [], []
    for g in others:
        pair = sums.pair(zero, g)
        q_other = sums.factors[g].n_varying
        for k in range(q):
            for m in range(q_other):
                rows.append(pair.first * q + k)
                columns.append(starts[g] + pair.second * q_other + m)
                values.append(pair.blocks[:, k, m])
    at = (np.concatenate(rows), np.concatenate(columns))
    between = sp.csr_array((np.concatenate(values), at), shape=(own.n_groups * q, size))
    between.sort_indices()
    return between


def _product_map(between: sp.csr_array, q: int) -> _SparseMap | _DenseMap:
    """Return the cheaper way to products: a sparse map, unless it has too many entries."""
    n_levels = between.shape[0] // q
    by_level = np.diff(between.indptr)[::q].astype(float)
    entries = np.sum(by_level * (by_level + 1) / 2) * q * (q + 1) / 2 if n_levels else 0.0
    return _SparseMap(between, q) if entries <= MOST_ENTRIES else _DenseMap(between, q)


class _SparseMap:
    """``A_21 H A_12`` as a sparse map of the entries of H, level by level, and its transpose."""

    def __init__(self, between: sp.csr_array, q: int):
        self._q, self._size = q, between.shape[1]
        n_levels = between.shape[0] // q
        of_level = between[np.arange(n_levels) * q]
        counts, columns = np.diff(of_level.indptr).astype(np.int64), of_level.indices
        values = np.stack([between.data[_entries(between, q, k)] for k in range(q)])  # (q, n_entries)
        first_entry = np.concatenate([[0], np.cumsum(counts)])
        level = np.repeat(np.arange(n_levels), counts)
        rank = np.arange(len(columns)) - first_entry[level]
        # all pairs of the entries of a level, the second not after the first
        left = np.repeat(np.arange(len(columns)), rank + 1)
        before = np.cumsum(rank + 1) - (rank + 1)
        right = np.arange(len(left)) - before[left] + first_entry[level[left]]
        flat = columns[left].astype(np.int64) * self._size + columns[right]  # columns rise within a level: lower
        data, at = [], []
        self._pairs = lower_indices(q)
        for i, (k, m) in enumerate(zip(*self._pairs, strict=True)):
            of_pair = values[k, left] * values[m, right]
            data.append(of_pair if k == m else of_pair + values[m, left] * values[k, right])
            at.append(level[left] * len(self._pairs[0]) + i)
        shape = (self._size**2, n_levels * len(self._pairs[0]))
        self._map = sp.csr_array((np.concatenate(data), (np.tile(flat, len(data)), np.concatenate(at))), shape=shape)
        # lower triangles stand for symmetric matrices: entries beside the diagonal count twice in quadratic forms
        twice = self._map.tocsc()
        twice.data = np.where(twice.indices % (self._size + 1) == 0, 1.0, 2.0) * twice.data
        self._twice = twice.T

    def products(self, first: np.ndarray) -> np.ndarray:
        """Return ``A_21 H A_12``, (K, K), of ``H`` as (n_levels, q, q)."""
        packed = first[:, self._pairs[0], self._pairs[1]].ravel()
        lower = (self._map @ packed).reshape(self._size, self._size)
        full = lower + lower.T
        full.flat[:: self._size + 1] *= 0.5
        return full

    def quadratics(self, matrix: np.ndarray) -> np.ndarray:
        """Return ``A_12 matrix A_21`` of each level, (n_levels, q, q), for a symmetric matrix (K, K)."""
        packed = (self._twice @ matrix.ravel()).reshape(-1, len(self._pairs[0]))
        packed = packed * np.where(self._pairs[0] == self._pairs[1], 1.0, 0.5)
        return np.ascontiguousarray(unpack_symmetric(packed.T[None], self._q)[0].transpose(2, 0, 1))


def _entries(between, q, k):
    """Return where the entries of the k-th rows of all levels are; levels have the same columns in all their rows."""
    n_levels = between.shape[0] // q
    counts = np.diff(between.indptr)[k::q]
    starts = between.indptr[:-1][k::q]
    offset = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(starts - offset, counts) if n_levels else np.zeros(0, dtype=int)


class _DenseMap:
    """The same by dense products, a stretch of levels at a time."""

    def __init__(self, between: sp.csr_array, q: int):
        self._between, self._q, self._size = between, q, between.shape[1]
        self._n_levels = between.shape[0] // q
        self._width = max(1, DENSE_NUMBERS // (q * self._size))

    def _stretches(self):
        for start in range(0, self._n_levels, self._width):
            levels = slice(start, min(start + self._width, self._n_levels))
            rows = self._between[levels.start * self._q : levels.stop * self._q].toarray()
            yield levels, rows.reshape(-1, self._q, self._size)

    def products(self, first: np.ndarray) -> np.ndarray:
        """Return ``A_21 H A_12``; see `_SparseMap`."""
        total = np.zeros((self._size, self._size))
        for levels, rows in self._stretches():
            total += rows.reshape(-1, self._size).T @ (first[levels] @ rows).reshape(-1, self._size)
        return total

    def quadratics(self, matrix: np.ndarray) -> np.ndarray:
        """Return ``A_12 matrix A_21`` of each level; see `_SparseMap`."""
        out = np.empty((self._n_levels, self._q, self._q))
        for levels, rows in self._stretches():
            out[levels] = (rows.reshape(-1, self._size) @ matrix).reshape(rows.shape) @ rows.swapaxes(1, 2)
        return out
