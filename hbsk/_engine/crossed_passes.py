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

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import lapack

from hbsk._engine.crossed_maps import between_factors, dense_rest, product_map, symmetric
from hbsk._engine.crossed_sums import CrossedSums
from hbsk._engine.group_algebra import nonnegative, relative_inverse, unpack_symmetric
from hbsk._engine.group_passes import GroupPasses
from hbsk._engine.threads import n_threads, one_thread_each

# Effects beside the largest factor: 4,500 take about a second for each Cholesky factor, and 160 MB for each matrix.
MOST_REMAINING = 4_500
# Remaining effects from which points are shared among threads.
EFFECTS_FOR_THREADS = 200
# Remaining effects up to which points cost next to nothing.
CHEAP_REMAINING = 300
# Relative sd, over that of estimates of effects, at which effects are hardly shrunken.
HARDLY_SHRUNKEN = 1e5
# Numbers of the matrices of points that are worked on together, and remaining effects up to which one call factorises
# the matrices of all of them.
BLOCK_NUMBERS = 2**18
FEW_REMAINING = 64
# Share of lambda^2 R in 1 below which one less the inverse has lost digits.
LOST_TRACE = 1e-8


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
        self._rest_zz, self._rest_zx = dense_rest(sums, others, self.starts, self.n_remaining)
        self.between = between_factors(sums, zero, others, self.starts, self.n_remaining)
        self._between_transposed = self.between.T.tocsr()
        self._map = product_map(self.between, self._zz.shape[1])
        self._is_scalar = all(factor.n_varying == 1 for factor in sums.factors)
        self._rest_counts = [sums.factors[f].n_groups for f in others]
        numbers = (self.n_remaining + self._zx.shape[2]) ** 2 + self._zx.size
        self._width = max(1, BLOCK_NUMBERS // numbers)
        self._kept: dict[bytes, Complement] | None = None

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
        factor = np.zeros((1, self.sums.n_varying, self.sums.n_varying))
        for f, at in zip(self.order, columns, strict=True):
            size = np.einsum("kkj->k", self.sums.factors[f].zz) / self.sums.factors[f].n_groups
            factor[0, at, at] = np.diag(HARDLY_SHRUNKEN / np.sqrt(np.where(size > 0, size, 1.0)))
        _, reduced = self.reduce(factor)
        rest, first = self._solved(self._complements(factor))
        scaled = self._times(rest, [np.linalg.inv(factor[:, at, at]) for at in columns[1:]])[0]
        of_first = np.linalg.inv(factor[0, columns[0], columns[0]]) @ first[0]
        penalty = scaled.T @ scaled + np.einsum("jka,jkb->ab", of_first, of_first)
        left = reduced[0] - penalty
        return nonnegative(left, np.diag(self.sums.xx)) if np.isfinite(left).all() else np.zeros_like(left)

    # points

    def reduce(self, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Integrate all group effects out; see `GroupPasses.reduce`, with ``Lambda`` block diagonal in the factors."""
        at = self.sums.columns[self.order[0]]
        log_det, reduced = self._first.reduce(np.ascontiguousarray(factor[:, at, at]))

        def work(block):
            complements = self._complements(factor[block])
            if self._kept is not None:
                self._kept[factor[block].tobytes()] = complements
            return complements.log_det, complements.white.swapaxes(1, 2) @ complements.white

        for block, (of_rest, explained) in self._over(work, len(factor)):
            log_det[block] += of_rest
            reduced[block] -= explained
        beyond = ~np.isfinite(log_det)  # where Lambda leaves floating point
        reduced[beyond] = np.nan
        return log_det, reduced

    @contextmanager
    def kept(self, n_points: int) -> Iterator[None]:
        """Keep the Schur complements of points that are reduced for their gradients, where they are few."""
        self._kept = {} if n_points <= max(1, self._width) else None
        try:
            yield
        finally:
            self._kept = None

    def factor_gradient(self, factor: np.ndarray, adjoint: np.ndarray) -> np.ndarray:
        """Return d log p(y) / d Lambda, (n_points, q, q), block diagonal; see `GroupPasses.covariance_gradient`."""
        parts = self._over(lambda block: self._gradient(factor[block], adjoint[block]), len(factor))
        return np.concatenate([part for _, part in parts])

    def effects_at(self, factor: np.ndarray) -> list[Effects]:
        """Return Phi and ``Phi B`` at each of several Lambda, (n_points, q, q)."""

        def work(block):
            stacked = self._effects(self._complements(factor[block]))[0]
            stacked = stacked._replace(rest_phi=symmetric(stacked.rest_phi))
            return [Effects(*parts) for parts in zip(*stacked, strict=True)]

        return [effects for _, block in self._over(work, len(factor)) for effects in block]

    def _over(self, work, n_points: int) -> list[tuple[slice, Any]]:
        """Return ``work(block)`` for stretches of points, with the stretches; in threads where that pays."""
        blocks = [slice(start, min(start + self._width, n_points)) for start in range(0, n_points, self._width)]
        if len(blocks) < 2 or self.n_remaining < EFFECTS_FOR_THREADS or n_threads() == 1:
            return [(block, work(block)) for block in blocks]
        with one_thread_each(), ThreadPoolExecutor(n_threads()) as pool:
            return list(zip(blocks, pool.map(work, blocks), strict=True))

    def _complements(self, factor: np.ndarray) -> Complement:
        """Return the Schur complements at several Lambda, (n_points, q, q), along leading axes."""
        blocks = [factor[:, at, at] for at in self.sums.columns]
        lambdas = [blocks[f] for f in self.order[1:]]
        packed = relative_inverse(self.sums.factors[self.order[0]].zz, np.ascontiguousarray(blocks[self.order[0]]))
        first = unpack_symmetric(packed, self._zz.shape[1]).transpose(0, 3, 1, 2)
        rest = self._map.products(packed)
        np.subtract(self._rest_zz, rest, out=rest)  # the lower triangle is right
        if self._is_scalar:
            scale = self._rest_scale(lambdas)
            matrix = rest * scale[:, None]
            matrix *= scale[:, :, None]
        else:
            rest = symmetric(rest)
            half = self._times(rest, lambdas, transpose=True)
            matrix = self._times(np.ascontiguousarray(half.swapaxes(1, 2)), lambdas, transpose=True)
        matrix.reshape(len(matrix), -1)[:, :: self.n_remaining + 1] += 1.0
        reduced = self._rest_zx - _times_stack(self._between_transposed, first @ self._zx)
        root, white, log_det = _factorised(matrix, self._times(reduced, lambdas, transpose=True))
        return Complement(first, lambdas, rest, root, reduced, white, log_det)

    def _effects(self, complement: Complement) -> tuple[Effects, np.ndarray, np.ndarray]:
        """Return them, with ``S^-1`` and ``A_12 P A_21`` of each level; only lower triangles of the first are right."""
        first, lambdas = complement.first, complement.lambdas
        solved, first_solved = self._solved(complement)
        inverse = np.stack([lapack.dpotri(root, lower=0, overwrite_c=0)[0].T for root in complement.root])
        if self._is_scalar:
            scale = self._rest_scale(lambdas)
            phi = inverse * scale[:, None]
            phi *= scale[:, :, None]
        else:
            inverse = symmetric(inverse)
            phi = self._times(np.ascontiguousarray(self._times(inverse, lambdas).swapaxes(1, 2)), lambdas)
        across = self._map.quadratics(phi)
        return Effects(first, first + first @ across @ first, phi, first_solved, solved), inverse, across

    def _solved(self, complement: Complement) -> tuple[np.ndarray, np.ndarray]:
        """Return ``Phi B`` of the rest, (n_points, K, p + 1), and of factor 0, (n_points, n_groups, q, p + 1)."""
        both = zip(complement.root, complement.white, strict=True)
        half = np.stack([lapack.dtrtrs(root, white, lower=0, trans=0)[0] for root, white in both])
        rest = self._times(half, complement.lambdas)
        across = _times_stack(self.between, rest).reshape(len(rest), *self._zx.shape)
        return rest, complement.first @ (self._zx - across)

    def _gradient(self, factor, adjoint):
        complement = self._kept.pop(factor.tobytes(), None) if self._kept else None
        complement = self._complements(factor) if complement is None else complement
        effects, inverse, across = self._effects(complement)
        zero, n_columns = self.order[0], self._zx.shape[2]
        gradient = np.zeros_like(factor)
        left = self._rest_zx - self._rest_zz @ effects.rest_solved
        left -= _times_stack(self._between_transposed, effects.first_solved)
        half = None if self._is_scalar else self._times(inverse, complement.lambdas)  # Lambda_2 S^-1
        for f, block in zip(self.order[1:], complement.lambdas, strict=True):
            q = self.sums.factors[f].n_varying
            rows = slice(self.starts[f], self.starts[f] + self.sums.factors[f].n_groups * q)
            of_levels = left[:, rows].reshape(len(factor), -1, q, n_columns)
            fit = np.einsum("mjka,mab,mjlb->mkl", of_levels, adjoint, of_levels, optimize=True) @ block
            if half is None:
                trace = _scalar_trace(complement.rest, inverse, rows, block[:, 0, 0])[:, None, None]
            else:
                shape = (len(factor), -1, q, self.n_remaining)
                by_level = half[:, :, rows].swapaxes(1, 2).reshape(shape)
                of_rest = complement.rest[:, rows].reshape(shape)
                trace = np.einsum("mjkr,mjlr->mkl", of_rest, by_level, optimize=True)
            at = self.sums.columns[f]
            gradient[:, at, at] = fit - trace
        first_left = self._zx - self._zz @ effects.first_solved
        first_left -= _times_stack(self.between, effects.rest_solved).reshape(first_left.shape)
        taken = np.eye(self._zz.shape[1]) - self._zz @ complement.first  # (I + A_j S_0)^-1
        trace = np.sum(self._zz @ taken.swapaxes(2, 3) - taken @ across @ taken.swapaxes(2, 3), axis=1)
        fit = np.einsum("mjka,mab,mjlb->mkl", first_left, adjoint, first_left, optimize=True)
        at = self.sums.columns[zero]
        gradient[:, at, at] = (fit - trace) @ factor[:, at, at]
        return gradient

    # one point

    def complement(self, factor: np.ndarray) -> Complement:
        """Return the Schur complement at one Lambda, (q, q)."""
        return _alone(self._complements(factor[None]))

    def effects(self, factor: np.ndarray) -> Effects:
        """Return Phi and ``Phi B`` at one Lambda, (q, q)."""
        return self.effects_at(factor[None])[0]

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

    # Lambda of the rest

    def _rest_scale(self, lambdas):
        """Return the diagonal of Lambda_2, (.., K), where all factors have one varying column."""
        return np.repeat(np.stack([block[..., 0, 0] for block in lambdas], axis=-1), self._rest_counts, axis=-1)

    def _times(self, matrix, lambdas, *, transpose=False):
        """Return ``Lambda_2 matrix``, or ``Lambda_2' matrix``, for matrices of shape (.., K, m)."""
        if self._is_scalar:
            return matrix * self._rest_scale(lambdas)[..., None]
        out = np.empty_like(matrix)
        for f, block in zip(self.order[1:], lambdas, strict=True):
            q, m = block.shape[-1], matrix.shape[-1]
            rows = slice(self.starts[f], self.starts[f] + self.sums.factors[f].n_groups * q)
            left = block.swapaxes(-2, -1) if transpose else block
            part = matrix[..., rows, :]
            out[..., rows, :] = (left[..., None, :, :] @ part.reshape(*part.shape[:-2], -1, q, m)).reshape(part.shape)
        return out


def _alone(stacked):
    """Return the first of stacked points of a NamedTuple."""
    parts = [[block[0] for block in part] if isinstance(part, list) else part[0] for part in stacked]
    return type(stacked)(*parts)


def _times_stack(matrix, stack):
    """Return a sparse matrix (a, b) times each of a stack (n_points, .., m) of b rows each, (n_points, a, m)."""
    n_points, m = len(stack), stack.shape[-1]
    stack = stack.reshape(n_points, -1, m)
    if n_points == 1:
        return (matrix @ stack[0])[None]
    side_by_side = stack.transpose(1, 0, 2).reshape(-1, n_points * m)
    return (matrix @ side_by_side).reshape(-1, n_points, m).transpose(1, 0, 2)


def _scalar_trace(rest, inverse, rows, scale):
    """Return ``sum_j (R Lambda_2 S^-1)_jj`` over some rows, (n_points,): ``(1 - S^-1_jj) / lambda``."""
    of_rest, of_inverse = (np.diagonal(part, axis1=1, axis2=2)[:, rows] for part in (rest, inverse))
    lost = scale[:, None] ** 2 * of_rest < LOST_TRACE
    safe = np.where(scale > 0, scale, 1.0)[:, None]
    return np.sum(np.where(lost, scale[:, None] * of_rest, (1.0 - of_inverse) / safe), axis=1)


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
        together[:, size:, size:] = 2.0 * (1.0 + np.sum(right**2, axis=(1, 2)))[:, None, None] * np.eye(m)
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
