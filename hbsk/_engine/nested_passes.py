"""What an evaluation of the marginal posterior asks of nested grouping factors: elimination from the innermost out.

Where every level of a factor lies within one level of the next, the effects of a level hang together with those of its
ancestors alone. Eliminating them leaves a matrix of the same shape one factor further out: all costs are linear in the
number of levels, and nothing is ever dense. With ``P = [A V; V' T]`` the products of [Z_f | Z_f+1 .. X y] within a
level of factor f, what its parent is left with is

    T - V' H V = (T - D' D) + D' M^-1 D,    A = L L',  D = L^-1 V,  M = I + L' S L,  S = Lambda Lambda'

summed over its levels. The second form keeps its digits where effects explain nearly all: the first term, of which
nothing is left where columns recur in the next factor, is cleared of rounding. Gradients run the other way: with N the
adjoint of ``T - V' H V`` those of A and V are ``H + H V N V' H`` and ``- H V N``. Where N is the covariance of all
ancestors, this is the covariance of the effects as well (the recursion of Lauritzen 1992, JASA 87(420), on a chain).

Arrays hold the levels last, points before them: (q, t, n_points, n_levels). Levels are sorted by their parents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from hbsk._engine.crossed_sums import CrossedSums
from hbsk._engine.group_algebra import (
    ROUNDING,
    congruences,
    inverses,
    lower_indices,
    marginal_inverse,
    rotate_groups,
    unpack_symmetric,
)
from hbsk._engine.group_passes import MOST_CELLS, GroupPasses, block_gradient, find_cells

# Relative sd, over that of estimates of effects, at which effects are not shrunken.
NOT_SHRUNKEN = 1e9
# Numbers of the arrays of points that are worked on together.
BLOCK_NUMBERS = 2**18


class Chain(NamedTuple):
    """Factors of which each is nested in the next.

    Attributes
    ----------
    order : list of int
        The factors, innermost first.
    parents : list of ndarray of shape (n_levels,)
        For every factor but the last, the level of the next one that holds each of its levels.
    """

    order: list[int]
    parents: list[np.ndarray]


def find_chain(sums: CrossedSums) -> Chain | None:
    """Return the chain that several factors are, or None where some level lies within several of the next factor."""
    n_groups = [factor.n_groups for factor in sums.factors]
    order = sorted(range(len(n_groups)), key=lambda f: -n_groups[f])
    parents = []
    for f, g in pairwise(order):
        pair = sums.pair(f, g)
        parent = np.zeros(n_groups[f], dtype=int)
        parent[pair.first] = pair.second
        if len(np.unique(pair.first)) < len(pair.first):
            return None
        parents.append(parent)
    return Chain(order, parents)


class Stage(NamedTuple):
    """One factor at several points, its inner factors eliminated.

    Attributes
    ----------
    lower : ndarray of shape (q, q, n_points, n_levels)
        L.
    rotated : ndarray of shape (q, t, n_points, n_levels)
        D.
    inverse : ndarray of shape (q, q, n_points, n_levels)
        ``M^-1``.
    """

    lower: np.ndarray
    rotated: np.ndarray
    inverse: np.ndarray


class NestedEffects(NamedTuple):
    """The law of all effects at one Lambda, over sigma^2, levels by their own numbers and factors innermost first.

    Several Lambda come along leading axes.

    Given those of its ancestors the effects of a level have the covariance ``H`` and move by ``- H V`` times them.

    Attributes
    ----------
    own : list of ndarray of shape (n_levels, q, q)
        ``H``.
    through : list of ndarray of shape (n_levels, q, t)
        ``H V`` over the columns of all outer factors.
    phi : list of ndarray of shape (n_levels, q, q)
        Blocks of Phi.
    solved : list of ndarray of shape (n_levels, q, p + 1)
        ``Phi B``.
    given : list of ndarray of shape (n_levels, q, p + 1)
        ``H V`` over the common columns and y: what is left of ``Phi B`` where those of all ancestors are zero.
    """

    own: list[np.ndarray]
    through: list[np.ndarray]
    phi: list[np.ndarray]
    solved: list[np.ndarray]
    given: list[np.ndarray]


class NestedPasses:
    """Sums over the levels of nested factors for any Lambda; the same questions as `CrossedPasses`.

    Parameters
    ----------
    sums : CrossedSums
    chain : Chain

    Attributes
    ----------
    order : list of int
        The factors, innermost first.
    ancestors : list of list of ndarray of shape (n_levels,)
        For every factor of the order, the levels of itself and of all outer ones that hold its levels.
    n_cells : int
        What an evaluation costs, in levels.
    n_remaining : int
        Effects of a dense matrix: none.
    """

    how = "exact for nested grouping factors"
    is_stochastic = False
    has_smooth_points = False
    watch: Callable[[int], None] | None = None
    n_remaining = 0

    def __init__(self, sums: CrossedSums, chain: Chain):
        self.sums, self.order = sums, chain.order
        self.ancestors = []
        for i, f in enumerate(chain.order):
            found = [np.arange(sums.factors[f].n_groups)]
            for parent in chain.parents[i:]:
                found.append(parent[found[-1]])
            self.ancestors.append(found)
        self._q = [sums.factors[f].n_varying for f in self.order]
        self._kept: dict[bytes, tuple[np.ndarray, list[Stage]]] | None = None
        self._sort(chain)
        self._first = GroupPasses(sums.factors[self.order[0]])
        self._products = [self._own_products(i) for i in range(len(self.order))]
        self._eliminate_first()
        sizes = [self._counts.size, *(sums.factors[f].n_groups for f in self.order[1:])]
        self.n_cells = int(sum(sizes))
        n_columns = len(sums.xx)
        outer = sum(self._q[1:])
        self._width = max(1, BLOCK_NUMBERS // (sizes[0] + sum(sizes[1:]) * (outer + n_columns) * max(outer, 1)))

    @cached_property
    def within(self) -> np.ndarray:
        """W, (p + 1, p + 1), the products of what no effects explain."""
        factor = np.zeros((1, self.sums.n_varying, self.sums.n_varying))
        for own, at in zip(self.sums.factors, self.sums.columns, strict=True):
            size = np.einsum("kkj->k", own.zz) / own.n_groups
            factor[0, at, at] = np.diag(NOT_SHRUNKEN / np.sqrt(np.where(size > 0, size, 1.0)))
        return self.reduce(factor)[1][0]

    @property
    def is_cheap(self) -> bool:
        """Whether points cost next to nothing."""
        return self.n_cells <= 2_000

    @property
    def numbers_kept(self) -> int:
        """How many numbers the law of all effects takes at one point."""
        columns = len(self.sums.xx)
        return sum(factor.n_groups * factor.n_varying * (3 * columns + 3) for factor in self.sums.factors)

    def _sort(self, chain):
        """Sort the levels of every factor by those of the next."""
        n_groups = [self.sums.factors[f].n_groups for f in self.order]
        position = np.arange(n_groups[-1])
        self._sorted, self._parent = [position], [np.zeros(n_groups[-1], dtype=int)]
        for parent in chain.parents[::-1]:
            above = position[parent]
            by_parent = np.argsort(above, kind="stable")
            position = np.empty_like(by_parent)
            position[by_parent] = np.arange(len(by_parent))
            self._sorted.insert(0, by_parent)
            self._parent.insert(0, above[by_parent])
        self._starts = [np.flatnonzero(np.diff(parent, prepend=-1)) for parent in self._parent]
        self._n_above = [*n_groups[1:], 1]

    def _sum_up(self, i, values):
        """Sum values (.., n_levels) over the levels of each parent, or over all levels of the outermost factor."""
        total = np.zeros((*values.shape[:-1], self._n_above[i]))
        total[..., self._parent[i][self._starts[i]]] = np.add.reduceat(values, self._starts[i], axis=-1)
        return total

    def _own_products(self, i):
        """Return [A V] of a factor, (q, q + t, n_levels)."""
        f = self.order[i]
        own, by_parent = self.sums.factors[f], self._sorted[i]
        parts = [own.zz[:, :, by_parent]]
        for g in self.order[i + 1 :]:
            pair = self.sums.pair(f, g)
            block = np.zeros((*pair.blocks.shape[1:], own.n_groups))
            block[:, :, pair.first] = np.moveaxis(pair.blocks, 0, 2)
            parts.append(block[:, :, by_parent])
        return np.concatenate([*parts, own.zx[:, :, by_parent]], axis=1)

    def _eliminate_first(self):
        """Prepare the innermost factor: cells, the map from their ``M^-1`` to sums by parent, and what is left."""
        q, (row, column) = self._q[0], lower_indices(self._q[0])
        lower, rotated = rotate_groups(self._products[0][:, :q], self._products[0][:, q:])
        cell, first = _cells_of_parents(self._products[0][:, :q], self._parent[0])
        self._counts = np.bincount(cell, minlength=len(first)).astype(float)
        self._lower, self._maps = lower[:, :, first], congruences(lower[:, :, first])
        n_outer, n_above = sum(self._q[1:]), self._n_above[0]
        self._pairs = np.triu_indices(n_outer, m=rotated.shape[1])
        self._pair_of = np.zeros((n_outer, rotated.shape[1]), dtype=int)  # both halves of what is symmetric
        self._pair_of[self._pairs] = np.arange(len(self._pairs[0]))
        self._pair_of[:, :n_outer] = np.maximum(self._pair_of[:, :n_outer], self._pair_of[:, :n_outer].T)
        values, explained = [], np.empty((n_outer, rotated.shape[1], n_above))
        at_row, at_column = [], []
        for number, (a, b) in enumerate(zip(*self._pairs, strict=True)):
            explained[a, b] = self._sum_up(0, np.sum(rotated[:, a] * rotated[:, b], axis=0))
            if b < n_outer:
                explained[b, a] = explained[a, b]
            for i, (k, m) in enumerate(zip(row, column, strict=True)):
                both = rotated[k, a] * rotated[m, b]
                values.append(both if k == m else both + rotated[m, a] * rotated[k, b])
                at_row.append(number * n_above + self._parent[0])
                at_column.append(i * len(first) + cell)
        shape = (len(self._pairs[0]) * n_above, len(row) * len(first))
        self._map = sp.csr_array((np.concatenate(values), (np.concatenate(at_row), np.concatenate(at_column))), shape)
        self._map_transposed = self._map.T.tocsr()
        for i, of_stage in self._by_stage(1, explained):
            self._products[i] = _cleared(self._products[i], of_stage)

    def _by_stage(self, i, rows):
        """Yield every stage from i on with its own part of products by level of stage i, (n_outer, t, .., n_levels)."""
        for stage in range(i, len(self.order)):
            q = self._q[stage]
            yield stage, rows[:q]
            if stage + 1 < len(self.order):
                rows = self._sum_up(stage, rows[q:, q:])

    # points

    def reduce(self, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Integrate all group effects out; see `GroupPasses.reduce`, with ``Lambda`` block diagonal in the factors."""
        at = self.sums.columns[self.order[0]]
        log_det, reduced = self._first.reduce(np.ascontiguousarray(factor[:, at, at]))
        for block in self._blocks(len(factor)):
            stages = self._stages(factor[block], log_det[block], reduced[block])
            if self._kept is not None:
                self._kept[factor[block].tobytes()] = stages
            if self.watch is not None:
                self.watch(block.stop - block.start)
        beyond = ~np.isfinite(log_det)  # where Lambda leaves floating point
        reduced[beyond] = np.nan
        return log_det, reduced

    @contextmanager
    def kept(self, n_points: int = 1, numbers: float = 0.0) -> Iterator[None]:  # noqa: ARG002 - laws cost too little
        """Keep the stages of points that are reduced for their gradient; see `SchurPasses.kept`."""
        self._kept = {} if n_points <= self._width else None
        try:
            yield
        finally:
            self._kept = None

    def factor_gradient(self, factor: np.ndarray, adjoint: np.ndarray) -> np.ndarray:
        """Return d log p(y) / d Lambda, (n_points, q, q), block diagonal; see `GroupPasses.covariance_gradient`."""
        gradient = np.zeros_like(factor)
        for block in self._blocks(len(factor)):
            gradient[block] = self._gradient(factor[block], adjoint[block])
        return gradient

    def _blocks(self, n_points):
        return [slice(start, min(start + self._width, n_points)) for start in range(0, n_points, self._width)]

    def _covariances(self, factor):
        blocks = [factor[:, at, at] for at in (self.sums.columns[f] for f in self.order)]
        return [block @ block.swapaxes(1, 2) for block in blocks]

    def _stages(self, factor, log_det, reduced) -> tuple[np.ndarray, list[Stage]]:
        """Eliminate all factors but the innermost, which ``log_det`` and ``reduced`` hold already; adds to both.

        Returns ``M^-1`` of the cells of the innermost, packed, and the stages of the others.
        """
        covariances = self._covariances(factor)
        first, _ = marginal_inverse(self._maps, covariances[0])
        products = self._products_by_level(first)
        stages = []
        for i in range(1, len(self.order)):
            q, n_outer = self._q[i], sum(self._q[i + 1 :])
            stage, determinant = _stage(products[i][:, :q], products[i][:, q:], covariances[i])
            stages.append(stage)
            log_det += np.log(determinant).sum(axis=-1)
            shrunken = _inner(stage.inverse, stage.rotated)
            common, of_common = stage.rotated[:, n_outer:], shrunken[:, n_outer:]
            explained = _over_levels(common, common)
            cleared = _cleared(reduced.transpose(1, 2, 0), explained.transpose(1, 2, 0))
            reduced[...] = cleared.transpose(2, 0, 1) + _over_levels(common, of_common)
            if n_outer:
                rows = stage.rotated[:, :n_outer]
                explained = self._sum_up(i, np.einsum("kamj,kbmj->abmj", rows, stage.rotated))
                left = self._sum_up(i, np.einsum("kamj,kbmj->abmj", rows, shrunken))
                for (above, of_stage), (_, of_left) in zip(
                    self._by_stage(i + 1, explained), self._by_stage(i + 1, left), strict=True
                ):
                    products[above] = _cleared(products[above], of_stage) + of_left
        return first, stages

    def _products_by_level(self, first):
        """Return [A V] of every outer factor, (q, q + t, n_points, n_levels), the innermost eliminated."""
        n_points = len(first)
        sums = self._map @ np.ascontiguousarray(first.reshape(n_points, -1).T)
        rows = sums.reshape(len(self._pairs[0]), -1, n_points).swapaxes(1, 2)[self._pair_of]
        return {i: self._products[i][:, :, None] + of_stage for i, of_stage in self._by_stage(1, rows)}

    def _gradient(self, factor, adjoint):
        zero = self.sums.columns[self.order[0]]
        n_points = len(factor)
        known = self._kept.pop(factor.tobytes(), None) if self._kept else None
        if known is None:
            known = self._stages(factor, np.zeros(n_points), np.zeros((n_points, *self.sums.xx.shape)))
        first, stages = known
        covariances = self._covariances(factor)
        gradient = np.zeros_like(factor)
        of_common = np.moveaxis(adjoint, 0, 2)  # (p + 1, p + 1, n_points)
        rows = np.zeros((0, len(self.sums.xx), n_points, 1))
        for i in range(len(self.order) - 1, 0, -1):
            stage, at = stages[i - 1], self.sums.columns[self.order[i]]
            rows = rows[..., self._parent[i]]
            reach = _inner(stage.lower, _inner(stage.inverse, stage.rotated))  # (I + A S)^-1 V
            moved = _times_adjoint(reach, rows, of_common)
            fit = _over_levels(moved.swapaxes(0, 1), reach.swapaxes(0, 1))
            half = _inner(stage.lower, stage.inverse)
            trace = _over_levels(half.swapaxes(0, 1), stage.lower.swapaxes(0, 1))
            gradient[:, at, at] = (fit - trace) @ factor[:, at, at]
            shrunken = np.einsum("mkl,lamj->kamj", covariances[i], reach)  # H V
            moved = np.einsum("mkl,lamj->kamj", covariances[i], moved)  # H V N
            own = _relative_inverse(stage.lower, factor[:, at, at]) + np.einsum("kamj,lamj->klmj", moved, shrunken)
            outer = np.concatenate([-moved[:, : len(rows)].swapaxes(0, 1), rows], axis=1)
            rows = np.concatenate([np.concatenate([own, -moved], axis=1), outer])
        lambda_0 = np.ascontiguousarray(factor[:, zero, zero])
        by_covariance = self._first.covariance_gradient(lambda_0, adjoint)
        by_covariance += self._first_gradient(first, rows)
        gradient[:, zero, zero] = 2.0 * by_covariance @ lambda_0
        return gradient

    def _first_gradient(self, first, rows):
        """Return what the outer factors add to the gradient in S of the innermost factor."""
        q, n_points = self._q[0], len(first)
        twice = np.where(self._pairs[0] == self._pairs[1], 1.0, 2.0)
        weights = twice[:, None, None] * rows[self._pairs].swapaxes(1, 2)
        crossed = self._map_transposed @ weights.reshape(-1, n_points)
        crossed = np.ascontiguousarray(crossed.T).reshape(first.shape)
        row, column = lower_indices(q)
        crossed *= np.where(row == column, 1.0, 0.5)[:, None]  # products hold twice the symmetric part for k != l
        none = np.zeros_like(self._counts)
        return block_gradient(self._lower, none, unpack_symmetric(first, q), unpack_symmetric(crossed, q))

    # laws of effects

    def effects(self, factor: np.ndarray) -> NestedEffects:
        """Return the law of all effects at one Lambda, (q, q)."""
        stacked = self.effects_at(factor[None])[0]
        return NestedEffects(*([part[0] for part in parts] for parts in stacked))

    def effects_at(self, factor: np.ndarray, weight: np.ndarray | None = None) -> list[NestedEffects]:  # noqa: ARG002
        """Return the law of all effects at several Lambda, (n_points, q, q), as many at a time as fit a cache."""
        return [self._effects(factor[block]) for block in self._blocks(len(factor))]

    def _effects(self, factor) -> NestedEffects:
        """Return the laws of several points, (n_points, n_levels, ..)."""
        n_points, n_columns, q = len(factor), len(self.sums.xx), self._q[0]
        _, stages = self._stages(factor, np.zeros(n_points), np.zeros((n_points, n_columns, n_columns)))
        covariances = self._covariances(factor)
        products = np.repeat(self._products[0][:, :, None], n_points, axis=2)
        innermost, _ = _stage(products[:, :q], products[:, q:], covariances[0])
        found = NestedEffects([], [], [], [], [])
        phi, solved = np.zeros((0, 0, n_points, 1)), np.zeros((0, n_columns, n_points, 1))  # of all ancestors
        for i, stage in reversed(list(enumerate([innermost, *stages]))):
            at, n_outer = self.sums.columns[self.order[i]], sum(self._q[i + 1 :])
            own = _relative_inverse(stage.lower, factor[:, at, at])
            reach = _inner(stage.lower, _inner(stage.inverse, stage.rotated))
            shrunken = np.einsum("mkl,lamj->kamj", covariances[i], reach)  # H V
            through, given = shrunken[:, :n_outer], shrunken[:, n_outer:]
            phi, solved = phi[..., self._parent[i]], solved[..., self._parent[i]]
            across = -np.einsum("kamj,abmj->kbmj", through, phi)
            block = own - np.einsum("kamj,lamj->klmj", across, through)
            fitted = given - np.einsum("kamj,abmj->kbmj", through, solved)
            outer = np.concatenate([across.swapaxes(0, 1), phi], axis=1)
            phi = np.concatenate([np.concatenate([block, across], axis=1), outer])
            solved = np.concatenate([fitted, solved])
            numbers = np.argsort(self._sorted[i])
            for part, values in zip(found, (own, through, block, fitted, given), strict=True):
                part.insert(0, np.ascontiguousarray(values[..., numbers].transpose(2, 3, 0, 1)))
        return found


def _cells_of_parents(zz, parent):
    """Return cells of levels with equal ``A_j`` and the same parent, and the first level of each."""
    cell, first = find_cells(zz)
    if len(first) < MOST_CELLS * len(cell):
        _, first, cell = np.unique(
            cell * (int(parent.max(initial=0)) + 1) + parent, return_index=True, return_inverse=True
        )
        if len(first) < MOST_CELLS * len(cell):
            return cell, first
    return np.arange(len(cell)), np.arange(len(cell))


def _cleared(products, explained):
    """Return ``products - explained``, (q, r, ..), zero in rows of which nothing but rounding is left."""
    left = products - explained
    for k in range(len(left)):
        gone = left[k, k] <= ROUNDING * np.abs(products[k, k])
        if np.any(gone):
            left[k] = np.where(gone, 0.0, left[k])
            left[:, k] = np.where(gone, 0.0, left[:, k])
    return left


def _stage(zz, zx, covariance) -> tuple[Stage, np.ndarray]:
    """Return the stage of levels with ``A`` (q, q, n_points, n_levels) and V, and ``|M|``, (n_points, n_levels)."""
    q, shape = len(zz), zz.shape[2:]
    lower, rotated = rotate_groups(zz.reshape(q, q, -1), zx.reshape(q, zx.shape[1], -1))
    lower = lower.reshape(zz.shape)
    row, column = lower_indices(q)
    half = np.einsum("mkl,lnmj->knmj", covariance, lower)
    entries = np.einsum("kimj,knmj->inmj", lower, half)[row, column]
    packed, determinant = inverses(np.ascontiguousarray(entries.swapaxes(0, 1)), q)
    inverse = np.moveaxis(unpack_symmetric(packed, q), 0, 2)
    return Stage(lower, rotated.reshape(q, -1, *shape), inverse), determinant


def _over_levels(left, right):
    """Return ``sum left' right``, (n_points, a, b), over the levels and the first axis of (q, a or b, n_points, ..)."""
    by_point = [part.transpose(2, 1, 0, 3).reshape(part.shape[2], part.shape[1], -1) for part in (left, right)]
    return by_point[0] @ by_point[1].swapaxes(1, 2)


def _inner(matrix, columns):
    """Return matrices (q, q, ..) times matrices (q, t, ..)."""
    return np.einsum("kl...,la...->ka...", matrix, columns)


def _relative_inverse(lower, factor):
    """Return ``H = Lambda (I + Lambda' A Lambda)^-1 Lambda'``, (q, q, n_points, n_levels)."""
    q = len(lower)
    row, column = lower_indices(q)
    half = np.einsum("mak,aimj->kimj", factor, lower)  # Lambda' L
    entries = np.einsum("kimj,limj->klmj", half, half)[row, column]
    packed, _ = inverses(np.ascontiguousarray(entries.swapaxes(0, 1)), q)
    inverse = np.moveaxis(unpack_symmetric(packed, q), 0, 2)
    return np.einsum("almj,mbl->abmj", np.einsum("mak,klmj->almj", factor, inverse), factor)


def _times_adjoint(reach, rows, of_common):
    """Return ``V N``, (q, t, n_points, n_levels), of N by its rows of outer factors and its common corner."""
    n_outer = len(rows)
    outer, common = reach[:, :n_outer], reach[:, n_outer:]
    product = np.einsum("kamj,abmj->kbmj", outer, rows)
    product[:, :n_outer] += np.einsum("kamj,bamj->kbmj", common, rows[:, n_outer:])
    product[:, n_outer:] += np.einsum("kamj,abm->kbmj", common, of_common)
    return product
