"""What an evaluation of the marginal posterior asks of several grouping factors: a Schur complement.

The factor with most effects (0) is eliminated level by level, as a single factor is; the K effects of all others (2)
remain. With Lambda relative to sigma,

    H_j = Lambda_0 (I + Lambda_0' A_j Lambda_0)^-1 Lambda_0',    R = A_22 - A_21 H A_12
    S = I + Lambda_2' R Lambda_2,        log|M| = sum_j log|M_j| + log|S|
    B~ = B_2 - A_21 H B_1,               C = C_0 - B~' Lambda_2 S^-1 Lambda_2' B~

where ``sum_j log|M_j|`` and ``C_0 = G - B_1' H B_1`` are those of factor 0 alone (`GroupPasses`), which keep their
digits where its levels explain nearly all.

``Phi = Lambda M^-1 Lambda'``, the covariance of all effects given the common coefficients, over sigma^2, is

    P = Lambda_2 S^-1 Lambda_2' for the rest,    - H A_12 P between,    H + H A_12 P A_21 H for factor 0

(Bates et al. 2015, J. Stat. Softw. 67(1), eliminate level by level in the same order.) S is a dense matrix that is
factorised (`crossed_passes`), or one that only multiplies (`krylov_passes`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from hbsk._engine.crossed_maps import are_few, between_factors, dense, rest_products, times_stack
from hbsk._engine.crossed_sums import CrossedSums
from hbsk._engine.drawn_covariance import DrawnCovariance
from hbsk._engine.group_passes import GroupPasses
from hbsk._engine.threads import n_threads, one_thread_each

# Remaining effects from which points are shared among threads.
EFFECTS_FOR_THREADS = 200


class Effects(NamedTuple):
    """``Phi`` and ``Phi B`` at one Lambda, or at several, which come along leading axes.

    Attributes
    ----------
    first : ndarray of shape (n_groups, q, q)
        ``H_j``.
    first_phi : ndarray of shape (n_groups, q, q)
        Blocks of Phi for factor 0.
    rest_phi : ndarray of shape (K, K), or DrawnCovariance
        P, symmetric; draws are those of one Lambda.
    first_solved : ndarray of shape (n_groups, q, p + 1)
        ``Phi B`` for factor 0.
    rest_solved : ndarray of shape (K, p + 1)
    """

    first: np.ndarray
    first_phi: np.ndarray
    rest_phi: np.ndarray | DrawnCovariance
    first_solved: np.ndarray
    rest_solved: np.ndarray


class SchurPasses(ABC):
    """Sums over the levels of several factors for any Lambda.

    Complements are NamedTuples whose parts have the points along their leading axes, with ``first`` (``H_j``),
    ``lambdas`` (Lambda of the other factors), ``log_det`` (``log|S|``) and ``explained`` (``C_0 - C``) among them.

    Parameters
    ----------
    sums : CrossedSums

    Attributes
    ----------
    how : str
        What users are told of it.
    order : list of int
        The factors by number of effects, most first.
    n_remaining : int
        K.
    starts : dict of int to int
        Where the effects of a factor that remains begin.
    """

    how: str
    # Whether effects beside the largest factor are sampled.
    is_stochastic = False
    # Is told of points that were reduced.
    watch: Callable[[int], None] | None = None
    # Whether cubics may stand for points.
    has_smooth_points = True
    # Points that are worked on together.
    _width = 1

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
        entries, self._rest_zx = rest_products(sums, others, self.starts)
        self._rest_zz = self._matrix_of(entries)
        shape = (self._zx.shape[0] * self._zx.shape[1], self.n_remaining)
        few = are_few(self._zx, self.n_remaining)
        self._across: Any = dense(between_factors(sums, zero, others, self.starts), shape) if few else self.between
        self._back = self._across.T
        self._is_scalar = all(factor.n_varying == 1 for factor in sums.factors)
        self._rest_counts = [sums.factors[f].n_groups for f in others]
        self._kept: dict[bytes, Any] | None = None
        self._most_kept = 1  # stretches of points

    @cached_property
    def between(self) -> sp.csr_array:
        """``A_12``, (n_groups q, K); rows of one level have the same columns."""
        shape = (self._zx.shape[0] * self._zx.shape[1], self.n_remaining)
        between = sp.csr_array(between_factors(self.sums, self.order[0], self.order[1:], self.starts), shape=shape)
        between.sort_indices()
        return between

    # what a kind of complement knows

    @property
    @abstractmethod
    def is_cheap(self) -> bool:
        """Whether points cost next to nothing."""

    @property
    @abstractmethod
    def numbers_kept(self) -> float:
        """How many numbers the law of all effects takes at one point."""

    def _matrix_of(self, entries: tuple) -> Any:
        """Return ``A_22``, (K, K), of entries with their rows and columns."""
        return sp.csr_array(entries, shape=(self.n_remaining, self.n_remaining))

    @property
    def _numbers_held(self) -> float:
        """How many numbers a complement takes."""
        return self.numbers_kept

    @property
    @abstractmethod
    def within(self) -> np.ndarray:
        """W, (p + 1, p + 1), the products of what no effects explain; zero, which is no bound, where that is lost."""

    @abstractmethod
    def _complements(self, factor: np.ndarray) -> Any:
        """Return the Schur complements at several Lambda, (n_points, q, q)."""

    @abstractmethod
    def _rest_solved(self, complement: Any) -> np.ndarray:
        """Return ``Phi B`` of the rest, (n_points, K, p + 1)."""

    @abstractmethod
    def _laws(self, factor: np.ndarray, number: int, weight: np.ndarray | None) -> Effects:
        """Return Phi and ``Phi B`` at several Lambda; ``number`` is that of the first among all points."""

    @abstractmethod
    def _traces(self, complement: Any) -> tuple[list[np.ndarray], np.ndarray]:
        """Return ``sum_j (R Lambda_2 S^-1)_jj`` for each of the rest, (n_points, q, q), and ``A_12 P A_21`` of levels.

        The latter is (n_points, n_groups, q, q).
        """

    @abstractmethod
    def coloured(self, complement: Any, noise: np.ndarray) -> np.ndarray:
        """Return noise of covariance P for white noise (K, m); ``complement`` is one of `complement`."""

    # points

    def reduce(self, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Integrate all group effects out; see `GroupPasses.reduce`, with ``Lambda`` block diagonal in the factors."""
        at = self.sums.columns[self.order[0]]
        log_det, reduced = self._first.reduce(np.ascontiguousarray(factor[:, at, at]))

        def work(block):
            complements = self._complements(factor[block])
            if self.watch is not None:
                self.watch(block.stop - block.start)
            if self._kept is not None and len(self._kept) < self._most_kept:
                self._kept[factor[block].tobytes()] = complements
            return complements.log_det, complements.explained

        for block, (of_rest, explained) in self._over(work, len(factor)):
            log_det[block] += of_rest
            reduced[block] -= explained
        beyond = ~np.isfinite(log_det)  # where Lambda leaves floating point
        reduced[beyond] = np.nan
        return log_det, reduced

    @property
    def other_columns(self) -> list[int]:
        """Varying columns of factors that are no hubs: all; see `hub_passes`."""
        return list(range(self.sums.n_varying))

    def reduce_others(self, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Integrate the effects of factors that are no hubs out."""
        return self.reduce(factor)

    def bordered(
        self,
        factor: np.ndarray,  # noqa: ARG002 - of hubs
        log_det: np.ndarray,
        products: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Integrate the effects of hubs out too, where there are any."""
        return log_det, products

    @contextmanager
    def kept(self, n_points: int = 1, numbers: float = 0.0) -> Iterator[None]:
        """Keep the Schur complements of points that are reduced for what is asked of them next.

        Where points are no more than are worked on together; the first of them, that hold so many numbers.
        """
        self._kept = {} if n_points <= max(1, self._width) else None
        self._most_kept = max(1, int(numbers / (self._numbers_held * self._width)))
        try:
            yield
        finally:
            self._kept = None

    def factor_gradient(self, factor: np.ndarray, adjoint: np.ndarray) -> np.ndarray:
        """Return d log p(y) / d Lambda, (n_points, q, q), block diagonal; see `GroupPasses.covariance_gradient`."""
        parts = self._over(lambda block: self._gradient(factor[block], adjoint[block]), len(factor))
        return np.concatenate([part for _, part in parts])

    def effects_at(self, factor: np.ndarray, weight: np.ndarray | None = None) -> list[Effects]:
        """Return Phi and ``Phi B`` at several Lambda, (n_points, q, q), as many at a time as are worked on together.

        They may have some weight in an average that is asked for.
        """

        def work(at):
            return self._laws(factor[at], at.start, None if weight is None else weight[at])

        return [effects for _, effects in self._over(work, len(factor))]

    def _over(self, work, n_points: int) -> list[tuple[slice, Any]]:
        """Return ``work(block)`` for stretches of points, with the stretches; in threads where that pays."""
        blocks = [slice(start, min(start + self._width, n_points)) for start in range(0, n_points, self._width)]
        if self.n_remaining < EFFECTS_FOR_THREADS:
            with one_thread_each():  # threads for products of few effects wait for each other where cores are busy
                return [(block, work(block)) for block in blocks]
        if len(blocks) < 2 or n_threads() == 1:
            return [(block, work(block)) for block in blocks]
        with one_thread_each(), ThreadPoolExecutor(n_threads()) as pool:
            return list(zip(blocks, pool.map(work, blocks), strict=True))

    def _known_complements(self, factor):
        """Return the Schur complements at several Lambda; those that were kept are then forgotten."""
        complements = self._kept.pop(factor.tobytes(), None) if self._kept else None
        return self._complements(factor) if complements is None else complements

    def _solved(self, complement: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return ``Phi B`` of the rest, (n_points, K, p + 1), and of factor 0, (n_points, n_groups, q, p + 1)."""
        rest = self._rest_solved(complement)
        across = times_stack(self._across, rest).reshape(len(rest), *self._zx.shape)
        return rest, complement.first @ (self._zx - across)

    def _gradient(self, factor, adjoint):
        complement = self._known_complements(factor)
        rest_solved, first_solved = self._solved(complement)
        traces, across = self._traces(complement)
        zero, n_columns = self.order[0], self._zx.shape[2]
        gradient = np.zeros_like(factor)
        left = self._rest_left(complement, rest_solved, first_solved)
        for f, block, trace in zip(self.order[1:], complement.lambdas, traces, strict=True):
            q = self.sums.factors[f].n_varying
            rows = slice(self.starts[f], self.starts[f] + self.sums.factors[f].n_groups * q)
            of_levels = left[:, rows].reshape(len(factor), -1, q, n_columns)
            at = self.sums.columns[f]
            gradient[:, at, at] = _forms(of_levels, adjoint) @ block - trace
        first_left = self._zx - self._zz @ first_solved
        first_left -= times_stack(self._across, rest_solved).reshape(first_left.shape)
        taken = np.eye(self._zz.shape[1]) - self._zz @ complement.first  # (I + A_j S_0)^-1
        trace = np.sum(self._zz @ taken.swapaxes(2, 3) - taken @ across @ taken.swapaxes(2, 3), axis=1)
        at = self.sums.columns[zero]
        gradient[:, at, at] = (_forms(first_left, adjoint) - trace) @ factor[:, at, at]
        return gradient

    def _rest_left(self, complement: Any, rest_solved, first_solved) -> np.ndarray:  # noqa: ARG002 - of that itself
        """Return ``G_2 = B_2 - A_22 U_2 - A_21 U_1``, (n_points, K, p + 1)."""
        return self._rest_zx - times_stack(self._rest_zz, rest_solved) - times_stack(self._back, first_solved)

    def complements_at(self, factor: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
        """Yield Schur complements and ``Phi B`` of the rest, (.., K, p + 1), of some of several Lambda at a time."""
        for _, complements in self._over(lambda at: self._complements(factor[at]), len(factor)):
            yield complements, self._solved(complements)[0]

    # one point

    def complement(self, factor: np.ndarray) -> Any:
        """Return the Schur complement at one Lambda, (q, q)."""
        return alone(self._complements(factor[None]))

    def effects(self, factor: np.ndarray) -> Effects:
        """Return Phi and ``Phi B`` at one Lambda, (q, q)."""
        return alone(self.effects_at(factor[None])[0])

    def solved(self, complement: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return ``Phi B`` of the rest, (K, p + 1), and of factor 0, (n_groups, q, p + 1)."""
        rest, first = self._solved(stacked(complement))
        return rest[0], first[0]

    def across(self, rest: np.ndarray) -> np.ndarray:
        """Return ``A_12 v``, (n_groups, q, m), for v of shape (K, m)."""
        return (self.between @ rest).reshape(*self._zx.shape[:2], -1)

    def level_products(self) -> np.ndarray:
        """Return ``B_1``, (n_groups, q, p + 1), of the factor that is eliminated."""
        return self._zx

    # Lambda of the rest

    def _rest_scale(self, lambdas):
        """Return the diagonal of Lambda_2, (.., K), where all factors have one varying column."""
        return np.repeat(np.concatenate([block[..., 0] for block in lambdas], axis=-1), self._rest_counts, axis=-1)

    def _times(self, matrix, lambdas, *, transpose=False):
        """Return ``Lambda_2 matrix``, or ``Lambda_2' matrix``, for matrices of shape (.., K, m)."""
        if self._is_scalar:
            return matrix * self._rest_scale(lambdas)[..., None]
        out = np.empty_like(matrix)
        for f, block in zip(self.order[1:], lambdas, strict=True):
            q, m, n = block.shape[-1], matrix.shape[-1], self.sums.factors[f].n_groups
            rows = slice(self.starts[f], self.starts[f] + n * q)
            left = block.swapaxes(-2, -1) if transpose else block
            part = matrix[..., rows, :]
            out[..., rows, :] = (left[..., None, :, :] @ part.reshape(*part.shape[:-2], n, q, m)).reshape(part.shape)
        return out


def _forms(left, adjoint):
    """Return ``sum_j G_j N G_j'``, (n_points, q, q), of G (n_points, n_levels, q, p + 1) and N."""
    n_points, _, q, n_columns = left.shape
    moved = (left.reshape(n_points, -1, n_columns) @ adjoint).reshape(left.shape)
    moved, left = (part.swapaxes(1, 2).reshape(n_points, q, -1) for part in (moved, left))
    return moved @ left.swapaxes(1, 2)


def alone(stacked, m=0):
    """Return one of stacked points of a NamedTuple."""
    parts = []
    for part in stacked:
        one = [block[m] for block in part] if isinstance(part, list) else part
        parts.append(part[m] if isinstance(part, (np.ndarray, tuple)) else one)
    return type(stacked)(*parts)


def stacked(one):
    """Return one point of a NamedTuple as a stack of one."""
    parts = []
    for part in one:
        of_one = part if isinstance(part, list) else [part]
        of_one = [x[None] if isinstance(x, np.ndarray) else np.array([x]) for x in of_one]
        parts.append(of_one if isinstance(part, list) else of_one[0])
    return type(one)(*parts)
