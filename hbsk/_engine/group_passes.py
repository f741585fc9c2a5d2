"""What every evaluation of the marginal posterior asks of the groups, for many Lambda at a time.

Groups with equal ``A_j`` have equal ``M_j`` and enter through the sum of their products of data alone: they are one
*cell*. Groups of 1 to 30 rows that vary in the intercept make 30 cells, however many they are; 85 counties of the
radon data, intercepts and slopes, make 46.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pandas as pd

from hbsk._engine.group_algebra import (
    between_groups,
    congruences,
    lower_indices,
    marginal_inverse,
    nonnegative,
    rotate_groups,
    unpack_symmetric,
)
from hbsk._engine.sums import GroupSums
from hbsk._engine.threads import n_threads, one_thread_each

# Cells worked on at a time: a block of the arithmetic stays in the cache.
BLOCK_CELLS = 2_048
# And numbers of their products of data: with many common columns fewer cells.
BLOCK_PRODUCTS = 2**23
BLOCKS_FOR_THREADS = 8
# Entries of small matrices worked on at a time, points times cells: 0.8 MB, of which a few fit the cache of a core
# (768 points, 85 cells: 1.1 ms instead of 2.9; 64 points, 2048 cells: 5.0 instead of 7.3).
CACHED_NUMBERS = 100_000
# But so many points at least, for each time that the products of data are read.
LEAST_POINTS = 16
# Numbers of products of data that are kept between evaluations (128 MiB).
KEPT_PRODUCTS = 2**24
# Groups, drawn at random, that are looked at first: where no two of them are alike, few others are (of 100,000 cells
# five pairs would be expected).
FIRST_LOOK = 1_000
# Cells, as a share of the groups, that are not worth the sums.
MOST_CELLS = 0.8


class _Block(NamedTuple):
    """Cells that are worked on together.

    Attributes
    ----------
    lower : ndarray of shape (q, q, n_cells)
        ``L_j``.
    n_equal : ndarray of shape (n_cells,)
        Groups in each.
    maps : ndarray of shape (pairs_q, pairs_q, n_cells)
        From `congruences`.
    products : ndarray of shape (pairs_p, pairs_q, n_cells)
        Sums over the groups of a cell of ``D_k' D_l + D_l' D_k`` (half of it for k = l), packed.
    """

    lower: np.ndarray
    n_equal: np.ndarray
    maps: np.ndarray
    products: np.ndarray


class GroupPasses:
    """Sums over groups for any Lambda.

    Parameters
    ----------
    sums : GroupSums

    Attributes
    ----------
    within : ndarray of shape (p + 1, p + 1)
        W, the products of what varies within groups.
    n_cells : int
        Groups that differ in ``A_j``.
    """

    def __init__(self, sums: GroupSums):
        lower, rotated = rotate_groups(sums.zz, sums.zx)
        self.within = nonnegative(sums.xx - between_groups(rotated), np.diag(sums.xx))
        q, n_columns = sums.zx.shape[:2]
        self._pairs_q, self._pairs_p = lower_indices(q), lower_indices(n_columns)
        numbers_per_cell = len(self._pairs_q[0]) * (len(self._pairs_q[0]) + len(self._pairs_p[0]))
        cell, first = find_cells(sums.zz)
        merges = len(first) < MOST_CELLS * len(cell) and len(first) * numbers_per_cell <= KEPT_PRODUCTS
        self.n_cells = len(first) if merges else sums.n_groups
        # fixed, so that sums come out the same for any number of threads
        width = min(BLOCK_CELLS, max(1, BLOCK_PRODUCTS // max(numbers_per_cell, 1)))
        self._blocks = [slice(start, min(start + width, self.n_cells)) for start in range(0, self.n_cells, width)]
        self._lower = np.take(lower, first, axis=2) if merges else lower
        self._count = np.bincount(cell).astype(float) if merges else np.ones(self.n_cells)
        self._rotated: np.ndarray | None = rotated
        self._kept: list[_Block] | None = None
        if merges:
            products = self._products(rotated, cell, self.n_cells)
            self._kept = [self._of(at, np.ascontiguousarray(products[:, :, at])) for at in self._blocks]
        elif self.n_cells * numbers_per_cell <= KEPT_PRODUCTS:
            self._kept = [self._block(number) for number in range(len(self._blocks))]
        if self._kept is not None:
            self._rotated = None

    def reduce(self, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Integrate the group effects out.

        Parameters
        ----------
        factor : ndarray of shape (n_points, q, q)
            ``Lambda``.

        Returns
        -------
        log_det : ndarray of shape (n_points,)
            ``sum_j log|M_j|``.
        reduced : ndarray of shape (n_points, p + 1, p + 1)
            ``C``.
        """
        a, b = self._pairs_p
        covariance = factor @ factor.swapaxes(1, 2)

        def work(block: _Block):
            log_det, packed = np.empty(len(factor)), np.empty((len(factor), len(a)))
            products = block.products.reshape(len(a), -1)
            width = max(LEAST_POINTS, CACHED_NUMBERS // max(products.shape[1], 1))
            for start in range(0, len(factor), width):
                at = slice(start, start + width)
                inverse, determinant = marginal_inverse(block.maps, covariance[at])
                log_det[at] = np.log(determinant) @ block.n_equal
                packed[at] = inverse.reshape(len(inverse), -1) @ products.T
            return log_det, packed

        log_det, packed = np.zeros(len(factor)), np.zeros((len(factor), len(a)))
        for block_log_det, block_packed in self._over_blocks(work):
            log_det += block_log_det
            packed += block_packed
        packed += self.within[a, b]
        full = np.empty(self.within.shape, dtype=np.intp)
        full[a, b] = full[b, a] = np.arange(len(a))
        return log_det, np.take(packed, full, axis=1)

    def covariance_gradient(self, factor: np.ndarray, adjoint: np.ndarray) -> np.ndarray:
        """Return d log p(y) / dS, shape (n_points, q, q).

        ``-1/2 sum_j L_j (M_j^-1 - M_j^-1 D_j N D_j' M_j^-1) L_j'``, N the adjoint of C.

        Parameters
        ----------
        factor : ndarray of shape (n_points, q, q)
            ``Lambda``.
        adjoint : ndarray of shape (n_points, p + 1, p + 1)
            ``-2 d log p(y) / d C``.
        """
        q = factor.shape[1]
        (row, column), (a, b) = self._pairs_q, self._pairs_p
        covariance = factor @ factor.swapaxes(1, 2)
        packed = adjoint[:, a, b] * np.where(a == b, 1.0, 2.0)
        # products hold twice the symmetric part for k != l
        half = np.where(row == column, 1.0, 0.5)[:, None]

        def work(block: _Block):
            inverse, _ = marginal_inverse(block.maps, covariance)
            crossed = np.tensordot(packed, block.products, axes=1) * half  # D N D'
            return block_gradient(
                block.lower, block.n_equal, unpack_symmetric(inverse, q), unpack_symmetric(crossed, q)
            )

        total = np.zeros_like(factor)
        for block_total in self._over_blocks(work):
            total += block_total
        return total

    def _over_blocks(self, work: Callable[[_Block], tuple]) -> list[tuple]:
        """Return ``work(block)`` for all blocks, in order; in threads where that pays."""
        numbers = range(len(self._blocks))
        if len(numbers) < BLOCKS_FOR_THREADS or n_threads() == 1:
            return [work(self._block(number)) for number in numbers]
        with one_thread_each(), ThreadPoolExecutor(n_threads()) as pool:
            return list(pool.map(lambda number: work(self._block(number)), numbers))

    def _block(self, number: int) -> _Block:
        if self._kept is not None:
            return self._kept[number]
        assert self._rotated is not None  # as long as products are not kept
        at = self._blocks[number]
        return self._of(at, self._products(self._rotated[:, :, at]))

    def _of(self, at: slice, products: np.ndarray) -> _Block:
        lower = self._lower[:, :, at]
        return _Block(lower, self._count[at], congruences(lower), products)

    def _products(self, rotated, cell=None, n_cells=None):
        """Return the products of `_Block`, of every group or summed over the groups of every cell."""
        (row, column), (a, _) = self._pairs_q, self._pairs_p
        products = np.empty((len(a), len(row), rotated.shape[2] if cell is None else n_cells))
        for i, (k, m) in enumerate(zip(row, column, strict=True)):
            at = 0
            for first in range(rotated.shape[1]):
                both = rotated[k, first] * rotated[m, : first + 1]
                if k != m:
                    both += rotated[m, first] * rotated[k, : first + 1]
                if cell is not None:
                    both = [np.bincount(cell, weights=of_groups, minlength=n_cells) for of_groups in both]
                products[at : at + first + 1, i] = both
                at += first + 1
        return products


def find_cells(zz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find groups with equal ``A_j``.

    Parameters
    ----------
    zz : ndarray of shape (q, q, n_groups)
        ``A_j``.

    Returns
    -------
    cell : ndarray of shape (n_groups,), dtype int
        Number of the cell of each group.
    first : ndarray of shape (n_cells,), dtype int
        The first group of each cell.
    """
    n_groups = zz.shape[2]
    entries = zz[lower_indices(len(zz))]
    # One number for each matrix: the same for equal ones, and hardly ever for others.
    key = np.zeros(n_groups)
    for factor, entry in zip(np.random.default_rng(0).uniform(0.5, 1.0, len(entries)), entries, strict=True):
        key += factor * entry
    if n_groups > FIRST_LOOK:
        some = np.random.default_rng(0).choice(n_groups, FIRST_LOOK, replace=False, shuffle=False)
        if len(np.unique(key[some])) == FIRST_LOOK:
            return np.arange(n_groups), np.arange(n_groups)
    cell, distinct = pd.factorize(key)
    first = np.full(len(distinct), n_groups)
    np.minimum.at(first, cell, np.arange(n_groups))
    (stray,) = np.nonzero(np.any(entries[:, first[cell]] != entries, axis=0))
    cell[stray] = len(first) + np.arange(len(stray))
    return cell, np.concatenate([first, stray])


def block_gradient(lower, count, inverse, crossed):
    """Return ``1/2 sum_j L (M^-1 Y M^-1 - M^-1) L'`` over a block of cells, (n_points, q, q)."""
    half = np.einsum("mikj,mklj->milj", inverse, crossed)
    middle = np.einsum("milj,mlkj->mikj", half, inverse)
    middle -= count * inverse
    half = np.einsum("kij,milj->mklj", lower, middle)
    return 0.5 * np.einsum("mklj,nlj->mkn", half, lower)
