"""Rows of one group and one design are one cell: sums of successes and trials, or counts and exposure, are sufficient.

Cells are ordered by group, and within a group by hashes of their varying columns and of all: the order of rows changes
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

# Cells times nodes of one stretch of arithmetic, whose arrays stay in the cache.
BLOCK_ELEMENTS = 50_000
# Sums of stretches times rows up to which a full matrix takes less than any other way (15 sums of 56 rows: half of a
# sparse one, which takes 80 us to make); and sums up to which ``numpy.add.reduceat`` takes less than a sparse one.
FULL_ENTRIES, FEW_SUMS = 1_000, 200
# Bits of hashes that remain beside the number of the group, and those of varying columns where they are not constant.
HASH_BITS, STRATUM_BITS = 40, 12
# Counts, or trials, of a group up to which its log likelihood is exact to far less than curvatures can tell: its
# rounding is multiplied by the curvature, both as large as the counts (1e-16 times their square).
MOST_COUNTS = 1e6


class Stretches:
    """Sums over stretches of consecutive rows, of values (..., n_rows, n_points).

    Parameters
    ----------
    starts : ndarray of shape (n_stretches,), dtype int
        The first row of each.
    n_rows : int
    times : ndarray of shape (n_rows,), optional
        What rows are multiplied by; 1 by default.
    """

    def __init__(self, starts: np.ndarray, n_rows: int, times: np.ndarray | None = None):
        self.starts, self.n_rows, self.times = starts, n_rows, times
        self.are_rows = len(starts) == n_rows
        self._matrices: dict[int, sparse.csr_array] = {}

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return sums (..., n_stretches, n_points); the values themselves where every row is a stretch."""
        if self.are_rows:
            return self._multiplied(values)
        if self.n_rows * len(self.starts) <= FULL_ENTRIES:
            return self._full @ values
        *before, n_rows, n_points = values.shape
        n_times = values.size // max(n_rows * n_points, 1)
        if n_times * len(self.starts) * n_points < FEW_SUMS:
            return np.add.reduceat(self._multiplied(values), self.starts, axis=-2)
        sums = self._matrix(n_times) @ values.reshape(n_times * n_rows, n_points)
        return sums.reshape(*before, len(self.starts), n_points)

    def _multiplied(self, values):
        return values if self.times is None else values * self.times[:, None]

    @cached_property
    def _full(self):
        """Sums as a matrix, (n_stretches, n_rows)."""
        rows = np.arange(self.n_rows)
        matrix = np.zeros((len(self.starts), self.n_rows))
        matrix[np.searchsorted(self.starts, rows, side="right") - 1, rows] = 1.0 if self.times is None else self.times
        return matrix

    def _matrix(self, n_times):
        """Return sums of so many blocks as a matrix: ``numpy.add.reduceat`` takes 25 times as long for 1,024 points."""
        if n_times not in self._matrices:
            n = n_times * self.n_rows
            starts = (self.starts + self.n_rows * np.arange(n_times)[:, None]).ravel()
            data = np.ones(n) if self.times is None else np.tile(self.times, n_times)
            parts = (data, np.arange(n), np.append(starts, n))
            self._matrices[n_times] = sparse.csr_array(parts, shape=(len(starts), n))
        return self._matrices[n_times]


class Strata:
    """Cells of one group with the same varying columns: an effect of the group moves their predictors alike.

    Parameters
    ----------
    new : ndarray of shape (n_cells,), dtype bool
        Whether a cell is the first of a stratum.
    cells : Cells

    Attributes
    ----------
    of_cell : ndarray of shape (n_cells,), dtype int
    group : ndarray of shape (n_strata,), dtype int
    columns : ndarray of shape (q, n_strata)
    is_one : tuple of bool, length q
        Which columns are 1 everywhere.
    of_cells, of_sized_cells, to_groups : Stretches
        Sums of cells to strata, as they are and times their sizes, and of strata to groups.
    """

    def __init__(self, new: np.ndarray, cells: Cells):
        starts = np.flatnonzero(new)
        self.of_cell = np.cumsum(new) - 1
        self.group = cells.group[starts]
        self.columns = cells.columns[:, starts]
        self.is_one = tuple(bool(np.all(column == 1.0)) for column in self.columns)
        self.of_cells = Stretches(starts, cells.n_cells)
        self.of_sized_cells = Stretches(starts, cells.n_cells, None if cells.has_single_trials else cells.size)
        self.to_groups = Stretches(self.of_cell[cells.starts], len(starts))

    def effects(self, of_groups: np.ndarray) -> np.ndarray:
        """Return ``z'u``, (..., n_strata, n_points), of effects u of groups (q, ..., n_groups, n_points)."""
        if not len(of_groups):
            return np.zeros((*of_groups.shape[1:-2], len(self.group), of_groups.shape[-1]))
        total = self.times_column(repeated(of_groups[0], self.group), 0)
        for a in range(1, len(of_groups)):
            total = total + self.times_column(repeated(of_groups[a], self.group), a)
        return total

    def times_column(self, values: np.ndarray, column: int) -> np.ndarray:
        """Return values (..., n_strata, n_points) times a varying column."""
        return values if self.is_one[column] else values * self.columns[column][:, None]


def repeated(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return values (..., n, n_points) of rows, each of which occurs, in order."""
    return values if values.shape[-2] == len(at) else values.take(at, axis=-2)


@dataclass(frozen=True)
class Cells:
    """Cells of consecutive groups.

    Attributes
    ----------
    family : str
        One of `FAMILIES`.
    y, size : ndarray of shape (n_cells,)
        Successes and trials, or counts and exposure, each times its weight.
    x : ndarray of shape (n_cells, p)
    z : ndarray of shape (n_cells, q)
    offset : ndarray of shape (n_cells,) or None
    starts : ndarray of shape (n_groups,), dtype int
        The first cell of each group; every group has one at least.
    """

    family: str
    y: np.ndarray
    size: np.ndarray
    x: np.ndarray
    z: np.ndarray
    offset: np.ndarray | None
    starts: np.ndarray

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.starts)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.y)

    @property
    def n_varying(self) -> int:
        """Number of varying columns."""
        return self.z.shape[1]

    @cached_property
    def columns(self) -> np.ndarray:
        """Return the varying columns, (q, n_cells)."""
        return np.ascontiguousarray(self.z.T)

    @cached_property
    def group(self) -> np.ndarray:
        """Group of each cell, (n_cells,)."""
        return np.repeat(np.arange(self.n_groups), np.diff(self.starts, append=self.n_cells))

    @cached_property
    def strata(self) -> Strata:
        """Stretches of cells with the same varying columns."""
        new = np.zeros(self.n_cells, dtype=bool)
        new[self.starts] = True
        for column in self.columns:
            new[1:] |= column[1:] != column[:-1]
        return Strata(new, self)

    @cached_property
    def sums(self) -> Stretches:
        """Sums over the cells of each group."""
        strata = self.strata
        return strata.of_cells if strata.to_groups.are_rows else Stretches(self.starts, self.n_cells)

    @cached_property
    def sized_sums(self) -> Stretches:
        """Sums over the cells of each group, times their sizes."""
        strata = self.strata
        if strata.to_groups.are_rows:
            return strata.of_sized_cells
        return Stretches(self.starts, self.n_cells, None if self.has_single_trials else self.size)

    @cached_property
    def times_x(self) -> sparse.csr_array:
        """The matrix, (p n_groups, n_cells), of sums over the cells of each group of values times each column of x.

        A tenth of what sums of products take (1,547 cells, six columns), a fortieth of 50,000 cells.
        """
        (n, p), ends = self.x.shape, np.append(self.starts[1:], self.n_cells)
        of_columns = np.append(0, ends + n * np.arange(p)[:, None])
        parts = (self.x.T.ravel(), np.tile(np.arange(n), p), of_columns)
        return sparse.csr_array(parts, shape=(p * self.n_groups, n))

    @cached_property
    def yx(self) -> np.ndarray:
        """Return ``sum_i y_i x_i`` of each group, (n_groups, p)."""
        return np.add.reduceat(self.y[:, None] * self.x, self.starts, axis=0)

    @cached_property
    def yz(self) -> np.ndarray:
        """Return ``sum_i y_i z_i`` of each group, (q, n_groups)."""
        return np.add.reduceat(self.y * self.columns, self.starts, axis=1)

    @cached_property
    def y_offset(self) -> np.ndarray | float:
        """Return ``sum_i y_i o_i`` of each group, (n_groups,); 0 without offsets."""
        return 0.0 if self.offset is None else np.add.reduceat(self.y * self.offset, self.starts)

    @cached_property
    def reach(self) -> np.ndarray:
        """Largest absolute value of each varying column in each group, (q, n_groups)."""
        return np.maximum.reduceat(np.abs(self.columns), self.starts, axis=1)

    @cached_property
    def varies_by_intercept(self) -> bool:
        """Whether the varying intercept is the only varying column."""
        return self.strata.is_one == (True,)

    @cached_property
    def are_heavy(self) -> bool:
        """Whether the likelihood of some group is so large that its differences lose digits."""
        return bool(self.sums(np.column_stack([self.y, self.size])).max() > MOST_COUNTS)

    @cached_property
    def has_single_trials(self) -> bool:
        """Whether every size is 1."""
        return bool(np.all(self.size == 1.0))

    def predictor(self, b: np.ndarray) -> np.ndarray:
        """Return what coefficients (n_points, p) make of the predictor, (n_cells, n_points)."""
        base = self.x @ b.T
        if self.offset is not None:
            base += self.offset[:, None]
        return base

    def of(self, groups: np.ndarray | slice) -> Cells:
        """Return the cells of some groups, in order."""
        return self._of(groups, self.cells_of(groups))

    def cells_of(self, groups: np.ndarray | slice) -> np.ndarray | slice:
        """Return where the cells of groups are."""
        ends = np.append(self.starts, self.n_cells)
        if isinstance(groups, slice):
            first, last, _ = groups.indices(self.n_groups)
            return slice(ends[first], ends[last])
        counts = ends[groups + 1] - ends[groups]
        shift = np.repeat(ends[groups] - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
        return np.arange(counts.sum()) + shift

    def _of(self, groups, at) -> Cells:
        counts = np.diff(self.starts, append=self.n_cells)[groups]
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.intp)
        offset = None if self.offset is None else self.offset[at]
        return Cells(self.family, self.y[at], self.size[at], self.x[at], self.z[at], offset, starts)

    @cached_property
    def parts(self) -> list[tuple[slice, Cells]]:
        """Stretches of groups of some `BLOCK_ELEMENTS` cells each, and their cells."""
        number = self.starts // BLOCK_ELEMENTS
        first = np.flatnonzero(np.diff(number, prepend=-1))
        slices = [slice(a, b) for a, b in zip(first, [*first[1:], self.n_groups], strict=True)]
        return [(slices[0], self)] if len(slices) == 1 else [(groups, self.of(groups)) for groups in slices]

    def blocks(self, n_points: int) -> Iterator[tuple[slice, slice, Cells]]:
        """Yield stretches of points and groups, and the cells of these groups."""
        for groups, cells in self.parts:
            width = max(1, BLOCK_ELEMENTS // cells.n_cells)
            for start in range(0, n_points, width):
                yield slice(start, min(start + width, n_points)), groups, cells


def collect_cells(
    family: str,
    y: np.ndarray,
    size: np.ndarray,
    x: np.ndarray,
    z: np.ndarray,
    codes: np.ndarray,
    n_groups: int,
    offset: np.ndarray | None = None,
) -> Cells:
    """Collapse rows of one group and one design, and sort them by group.

    A group without rows gets a cell of size 0, of which nothing is learnt.
    """
    absent = np.flatnonzero(np.bincount(codes, minlength=n_groups) == 0)
    if len(absent):
        codes = np.append(codes, absent)
        nothing = np.zeros(len(absent))
        y, size = np.append(y, nothing), np.append(size, nothing)
        x, z = (np.concatenate([part, np.zeros((len(absent), part.shape[1]))]) for part in (x, z))
        offset = None if offset is None else np.append(offset, nothing)
    columns = [*x.T, *z.T] if offset is None else [*x.T, *z.T, offset]
    columns, varying = ([column for column in part if column.min() != column.max()] for part in (columns, z.T))
    stratum_bits = STRATUM_BITS if varying else 0
    key = _hashed(columns, len(y)) >> np.uint64(64 - HASH_BITS + stratum_bits)
    if varying:
        strata = _hashed(varying, len(y)) >> np.uint64(64 - STRATUM_BITS)
        key |= strata << np.uint64(HASH_BITS - STRATUM_BITS)
    key |= codes.astype(np.uint64) << np.uint64(HASH_BITS)
    order = np.argsort(key, kind="stable")
    y, size, codes = y[order], size[order], codes[order]
    x, z = x[order], z[order]
    offset = None if offset is None else offset[order]
    key = key[order]
    alike = key[1:] == key[:-1]
    if alike.any():
        for column in (*x.T, *z.T) if offset is None else (*x.T, *z.T, offset):
            alike &= column[1:] == column[:-1]
        first = np.flatnonzero(np.append(True, ~alike))
        y, size = np.add.reduceat(y, first), np.add.reduceat(size, first)
        x, z, codes = x[first], z[first], codes[first]
        offset = None if offset is None else offset[first]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    return Cells(family, y, size, np.ascontiguousarray(x), np.ascontiguousarray(z), offset, starts)


def _hashed(columns: Sequence[np.ndarray], n_rows: int) -> np.ndarray:
    """Return a hash of each row of a table, its bits mixed as by SplitMix64 (Steele, Lea, Flood 2014)."""
    key = np.zeros(n_rows, dtype=np.uint64)
    for column in columns:
        # 0.0 and -0.0 are one number with two patterns of bits
        key ^= np.ascontiguousarray(column + 0.0).view(np.uint64)
        key += np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(30)
        key *= np.uint64(0xBF58476D1CE4E5B9)
        key ^= key >> np.uint64(27)
    return key
