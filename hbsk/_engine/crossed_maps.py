"""Fixed matrices of several factors, and ``A_21 H [A_12 B_1]`` as linear maps of the entries of H."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import scipy.sparse as sp

from hbsk._engine.group_algebra import lower_indices, unpack_symmetric

# Entries of the sparse map above which R is made of dense products instead (each takes 24 bytes).
MOST_ENTRIES = 20_000_000
# Numbers of a dense stretch of A_12.
DENSE_NUMBERS = 2**22
# Numbers of a dense map up to which there is one (1 MB): products at 3 and at 512 points take a sixth of the time of
# sparse ones where levels meet all others, and two thirds where they meet a tenth of them.
SMALL_NUMBERS = 2**17


def rest_products(sums, others, starts) -> tuple[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Return ``A_22``, (K, K), as entries with their rows and columns, and ``B_2``, (K, p + 1)."""
    values, rows, columns, products = [], [], [], []
    for i, f in enumerate(others):
        own = sums.factors[f]
        q, levels = own.n_varying, np.arange(own.n_groups)
        for k in range(q):
            for m in range(q):
                values.append(own.zz[k, m])
                rows.append(starts[f] + levels * q + k)
                columns.append(starts[f] + levels * q + m)
        products.append(own.zx.transpose(2, 0, 1).reshape(-1, own.zx.shape[1]))
        for g in others[i + 1 :]:
            pair = sums.pair(f, g)
            for k in range(q):
                for m in range(sums.factors[g].n_varying):
                    at = (starts[f] + pair.first * q + k, starts[g] + pair.second * sums.factors[g].n_varying + m)
                    values += [pair.blocks[:, k, m]] * 2
                    rows += at
                    columns += at[::-1]
    where = (np.concatenate(rows), np.concatenate(columns))
    return (np.concatenate(values), where), np.concatenate(products)


def between_factors(sums, zero, others, starts) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return ``A_12``, (n_groups q, K), as entries with their rows and columns."""
    q = sums.factors[zero].n_varying
    values, rows, columns = [], [], []
    for g in others:
        pair = sums.pair(zero, g)
        q_other = sums.factors[g].n_varying
        for k in range(q):
            for m in range(q_other):
                rows.append(pair.first * q + k)
                columns.append(starts[g] + pair.second * q_other + m)
                values.append(pair.blocks[:, k, m])
    return np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))


def dense(entries: tuple[np.ndarray, tuple[np.ndarray, np.ndarray]], shape: tuple[int, int]) -> np.ndarray:
    """Return a matrix of its entries, none of which is given twice."""
    values, at = entries
    matrix = np.zeros(shape)
    matrix[at] = values
    return matrix


def are_few(zx: np.ndarray, size: int) -> bool:
    """Whether matrices of levels with products ``B_1``, beside K effects, are dense."""
    n_levels, q, n_columns = zx.shape
    return n_levels * q * (q + 1) // 2 * size * (size + n_columns) <= SMALL_NUMBERS


def product_map(between: np.ndarray | sp.csr_array, zx: np.ndarray) -> ProductMap:
    """Return the cheapest way to products: a dense map of few levels, or a sparse one unless it has too many entries.

    Parameters
    ----------
    between : ndarray or csr_array of shape (n_levels q, K)
        ``A_12``, dense where products of levels are (`are_few`).
    zx : ndarray of shape (n_levels, q, p + 1)
        ``B_1``.
    """
    n_levels, q, _ = zx.shape
    if isinstance(between, np.ndarray):
        return SmallMap(between, zx)
    by_level = np.diff(between.indptr)[::q].astype(float)
    entries = np.sum(by_level * (by_level + 1) / 2) * q * (q + 1) / 2 if n_levels else 0.0
    return SparseMap(between, zx) if entries <= MOST_ENTRIES else DenseMap(between, zx)


class ProductMap(ABC):
    """``A_21 H [A_12 B_1]``, and ``A_12 P A_21`` of each level."""

    def __init__(self, between, zx: np.ndarray):
        self._between, self._zx = between, zx
        self._n_levels, self._q, _ = zx.shape
        self._size = between.shape[1]
        self._pairs = lower_indices(self._q)

    @abstractmethod
    def products(self, packed: np.ndarray) -> np.ndarray:
        """Return lower triangles of ``A_21 H A_12``, (n_points, K, K), of packed H (n_points, n_pairs, n_levels)."""

    @abstractmethod
    def quadratics(self, matrices: np.ndarray) -> np.ndarray:
        """Return ``A_12 matrix A_21`` of each level, (n_points, n_levels, q, q), for symmetric matrices (.., K, K).

        Their upper triangles are never read.
        """

    def all_products(self, packed: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return `products`, and ``A_21 H B_1``, (n_points, K, p + 1), of H in both shapes."""
        return self.products(packed), times_stack(self._between.T, first @ self._zx)

    def _unpacked(self, packed):
        """Return quadratics of each level from twice their entries beside the diagonal, and once those on it."""
        packed = packed * np.where(self._pairs[0] == self._pairs[1], 1.0, 0.5)[:, None]
        return unpack_symmetric(packed, self._q).transpose(0, 3, 1, 2)


class SmallMap(ProductMap):
    """Both by one dense matrix."""

    def __init__(self, between: np.ndarray, zx: np.ndarray):
        super().__init__(between, zx)
        rows = between.reshape(self._n_levels, self._q, self._size)
        both = np.concatenate([rows, zx], axis=2)
        k, m = self._pairs
        of_pairs = rows[:, k, :, None] * both[:, m, None, :]
        mixed = k != m
        of_pairs[:, mixed] += rows[:, m[mixed], :, None] * both[:, k[mixed], None, :]
        of_pairs = of_pairs.swapaxes(0, 1)  # (n_pairs, n_levels, K, K + p + 1)
        self._map = of_pairs.reshape(len(k) * self._n_levels, -1)
        # entries beside the diagonal of a lower triangle count twice
        twice = np.tril(2.0 * of_pairs[..., : self._size]) - of_pairs[..., : self._size] * np.eye(self._size)
        self._twice = np.ascontiguousarray(twice.reshape(len(k) * self._n_levels, -1).T)

    def products(self, packed: np.ndarray) -> np.ndarray:
        """Return ``A_21 H A_12``; see `ProductMap`."""
        return self._both(packed)[:, :, : self._size]

    def all_products(self, packed: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG002
        """Return ``A_21 H A_12`` and ``A_21 H B_1``; see `ProductMap`."""
        both = self._both(packed)
        return both[:, :, : self._size].copy(), both[:, :, self._size :]

    def quadratics(self, matrices: np.ndarray) -> np.ndarray:
        """Return ``A_12 matrix A_21`` of each level; see `ProductMap`."""
        packed = matrices.reshape(len(matrices), -1) @ self._twice
        return self._unpacked(packed.reshape(len(matrices), -1, self._n_levels))

    def _both(self, packed):
        return (packed.reshape(len(packed), -1) @ self._map).reshape(len(packed), self._size, -1)


class SparseMap(ProductMap):
    """``A_21 H A_12`` as a sparse map of the entries of H, level by level, and its transpose."""

    def __init__(self, between: sp.csr_array, zx: np.ndarray):
        super().__init__(between, zx)
        q = self._q
        n_levels = self._n_levels
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
        numbers = np.int32 if max(self._size**2, MOST_ENTRIES) < 2**31 else np.int64  # half the memory to read
        data = []
        for k, m in zip(*self._pairs, strict=True):
            of_pair = values[k, left] * values[m, right]
            data.append(of_pair if k == m else of_pair + values[m, left] * values[k, right])
        # pairs are in the order of their levels: columns of a matrix as they stand
        n_pairs, ends = len(data), np.cumsum(counts * (counts + 1) // 2)
        starts = np.concatenate([[0], *(i * len(left) + ends for i in range(n_pairs))]).astype(numbers)
        shape = (self._size**2, n_levels * n_pairs)
        parts: Any = np.concatenate(data), np.tile(flat.astype(numbers), n_pairs), starts
        by_level = sp.csc_array(parts, shape=shape)
        self._map = by_level.tocsr()
        # lower triangles stand for symmetric matrices: entries beside the diagonal count twice in quadratic forms
        by_level.data *= np.where(by_level.indices % (self._size + 1) == 0, 1.0, 2.0)
        self._twice = by_level.T

    def products(self, packed: np.ndarray) -> np.ndarray:
        """Return lower triangles of ``A_21 H A_12``; see `ProductMap`."""
        of_entries = _times_each(self._map, packed.reshape(len(packed), -1))
        return of_entries.reshape(len(packed), self._size, self._size)

    def quadratics(self, matrices: np.ndarray) -> np.ndarray:
        """Return ``A_12 matrix A_21`` of each level; see `ProductMap`."""
        packed = _times_each(self._twice, matrices.reshape(len(matrices), -1))
        return self._unpacked(packed.reshape(len(matrices), -1, self._n_levels))


def _times_each(matrix, vectors):
    """Return a sparse matrix times each of the vectors, (n_points, n)."""
    if len(vectors) == 1:
        return (matrix @ vectors[0])[None]
    return np.ascontiguousarray((matrix @ np.ascontiguousarray(vectors.T)).T)


def _entries(between, q, k):
    """Return where the entries of the k-th rows of all levels are; levels have the same columns in all their rows."""
    n_levels = between.shape[0] // q
    counts = np.diff(between.indptr)[k::q]
    starts = between.indptr[:-1][k::q]
    offset = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(starts - offset, counts) if n_levels else np.zeros(0, dtype=int)


class DenseMap(ProductMap):
    """The same by dense products, a stretch of levels at a time."""

    def __init__(self, between: sp.csr_array, zx: np.ndarray):
        super().__init__(between, zx)
        self._width = max(1, DENSE_NUMBERS // (self._q * self._size))

    def _stretches(self):
        for start in range(0, self._n_levels, self._width):
            levels = slice(start, min(start + self._width, self._n_levels))
            rows = self._between[levels.start * self._q : levels.stop * self._q].toarray()
            yield levels, rows.reshape(-1, self._q, self._size)

    def products(self, packed: np.ndarray) -> np.ndarray:
        """Return ``A_21 H A_12``; see `ProductMap`."""
        total = np.zeros((len(packed), self._size, self._size))
        blocks = unpack_symmetric(packed, self._q).transpose(0, 3, 1, 2)
        for levels, rows in self._stretches():
            for sum_so_far, block in zip(total, blocks, strict=True):
                sum_so_far += rows.reshape(-1, self._size).T @ (block[levels] @ rows).reshape(-1, self._size)
        return total

    def quadratics(self, matrices: np.ndarray) -> np.ndarray:
        """Return ``A_12 matrix A_21`` of each level; see `ProductMap`."""
        out = np.empty((len(matrices), self._n_levels, self._q, self._q))
        for of_matrix, lower in zip(out, matrices, strict=True):
            matrix = symmetric(lower)
            for levels, rows in self._stretches():
                products = (rows.reshape(-1, self._size) @ matrix).reshape(rows.shape)
                of_matrix[levels] = products @ rows.swapaxes(1, 2)
        return out


def times_stack(matrix, stack):
    """Return a matrix (a, b) times each of a stack (n_points, .., m) of b rows each, (n_points, a, m)."""
    n_points, m = len(stack), stack.shape[-1]
    stack = stack.reshape(n_points, -1, m)
    if n_points == 1:
        return (matrix @ stack[0])[None]
    side_by_side = stack.transpose(1, 0, 2).reshape(-1, n_points * m)
    return (matrix @ side_by_side).reshape(-1, n_points, m).transpose(1, 0, 2)


def symmetric(lower: np.ndarray) -> np.ndarray:
    """Return symmetric matrices (.., K, K) from their lower triangles; the upper ones are not read."""
    full = np.tril(lower)
    full += np.tril(full, -1).swapaxes(-2, -1)
    return full
