"""Leave-one-level-out of one of several grouping factors: how well all rows of a level are predicted without it.

A level takes its rows along, not the levels of other factors. With ``V`` the covariance of y given the variance
parameters and ``V_0`` that of y given the common coefficients too, rows g taken out of the sums (symbols of
`hbsk._engine.crossed_passes`; every row divided by the root of its noise variance over sigma^2, D_g its columns of all
effects) leave

    A = sigma^2 [V_0^-1]_gg = I - D_g Phi D_g',      T = sigma^2 [V_0^-1 (X y)]_g = (X y)_g - D_g Phi B
    C_-g = C - T' A^-1 T,                            log|M_-g| = log|M| + log|A|

by the inverse of a matrix in blocks, so that ``p(y_g | y_-g) = p(y) / p(y_-g)`` given (sigma, Lambda) is exact, with
the common coefficients integrated out given the other rows (`_leave_group_out`). Rows like those of g in a new level of
the factor, and in new levels of the factors nested in it, add to the sums: with D_g, Phi and B of the other factors
alone and the new effects' own covariance,

    A = I + D_g Phi D_g' + Z_g Lambda Lambda' Z_g',  C_+g = C + T' A^-1 T,  log|M_+g| = log|M| + log|A|
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from hbsk._engine.crossed import CrossedModel
from hbsk._engine.crossed_passes import CrossedPasses
from hbsk._engine.crossed_sums import CrossedSums, collect_pairs
from hbsk._engine.nested_passes import NestedPasses
from hbsk._engine.node_algebra import semidefinite_cholesky
from hbsk._engine.sums import GroupSums
from hbsk._engine.threads import one_thread_each
from hbsk._posterior.nested_laws import effects_of_rows, own_parts
from hbsk.model_selection._leave_group_out import (
    GroupProducts,
    log_likelihood,
    log_likelihood_by_group,
    unidentified_without,
)
from hbsk.model_selection._leave_row_out import RowData
from hbsk.model_selection._variance_grid import (
    UnitScores,
    VarianceGrid,
    expected,
    integrate_again,
    is_unresolved,
    log_probability,
)

# Rows of a level up to which its matrix is factorised at every node; beyond, the level is fitted again.
MOST_ROWS = 500
# Numbers of rows of levels times remaining effects that are held at a time.
HELD_NUMBERS = 4_000_000
# Numbers of levels times points of the grid times columns that are worked on at a time.
BLOCK_ELEMENTS = 500_000
# What is left of the variance of a row's residual, over sigma^2, that is told from rounding.
ROUNDING = 1e-11
# Levels are worked on by size: sizes grow by so much from class to class.
SIZE_STEP = 1.4


@dataclass(frozen=True)
class LevelRows:
    """Rows in the units of the engine, each divided by the root of its noise variance over sigma^2.

    Attributes
    ----------
    columns : ndarray of shape (n_rows, p + 1)
        ``[X y]``.
    z : list of ndarray of shape (n_rows, q), one per factor
    codes : list of ndarray of shape (n_rows,), one per factor
    log_weight : ndarray of shape (n_rows,)
        Minus the logarithms of the noise variances over sigma^2.
    n_groups : tuple of int
    factor : int
        The one whose levels are left out.
    """

    columns: np.ndarray
    z: list[np.ndarray]
    codes: list[np.ndarray]
    log_weight: np.ndarray
    n_groups: tuple[int, ...]
    factor: int

    @classmethod
    def of(cls, rows: RowData, n_groups: tuple[int, ...], factor: int) -> LevelRows:
        """Read all rows."""
        x, z, codes, y, noise = rows.engine(0, len(rows.y))
        root = np.sqrt(noise)[:, None]
        columns = np.concatenate([x, y[:, None]], axis=1) / root
        return cls(columns, [part / root for part in z], codes, -np.log(noise), n_groups, factor)

    @property
    def sizes(self) -> np.ndarray:
        """Number of rows of each level."""
        return np.bincount(self.codes[self.factor], minlength=self.n_groups[self.factor])

    @property
    def log_weights(self) -> np.ndarray:
        """Sum of ``log_weight`` over the rows of each level."""
        return np.bincount(self.codes[self.factor], self.log_weight, self.n_groups[self.factor])

    def where(self, kept: np.ndarray) -> LevelRows:
        """Return some of the rows."""
        return replace(
            self,
            columns=self.columns[kept],
            z=[part[kept] for part in self.z],
            codes=[codes[kept] for codes in self.codes],
            log_weight=self.log_weight[kept],
        )

    def again(self, level: int) -> LevelRows:
        """Return the rows with those of a level once more: in a new one, and new ones of what is nested in it."""
        more = self.where(self.codes[self.factor] == level)
        n_groups = list(self.n_groups)
        for f in self.renewed:
            new, more.codes[f] = np.unique(more.codes[f], return_inverse=True)
            more.codes[f] += n_groups[f]
            n_groups[f] += len(new)
        return LevelRows(
            np.concatenate([self.columns, more.columns]),
            [np.concatenate(parts) for parts in zip(self.z, more.z, strict=True)],
            [np.concatenate(codes) for codes in zip(self.codes, more.codes, strict=True)],
            np.concatenate([self.log_weight, more.log_weight]),
            tuple(n_groups),
            self.factor,
        )

    @property
    def renewed(self) -> list[int]:
        """The factor and those nested in it: the ones whose levels occur with one of its levels each."""
        own, nested = self.codes[self.factor], [self.factor]
        for f, codes in enumerate(self.codes):
            some = np.empty(self.n_groups[f], dtype=own.dtype)
            some[codes] = own
            if f != self.factor and np.array_equal(some[codes], own):
                nested.append(f)
        return nested

    def sums(self) -> CrossedSums:
        """Return the sums of the rows."""
        factors = []
        xx = self.columns.T @ self.columns
        for z, codes, n in zip(self.z, self.codes, self.n_groups, strict=True):
            zz = [[np.bincount(codes, left * right, n) for right in z.T] for left in z.T]
            zx = [[np.bincount(codes, left * right, n) for right in self.columns.T] for left in z.T]
            copies = np.bincount(codes, minlength=n).astype(float)
            weight = float(self.log_weight.sum())
            factors.append(GroupSums(np.array(zz), np.array(zx), xx, float(len(z)), weight, copies))
        pairs = collect_pairs(_Columns(self.z), self.codes, self.n_groups, [None] * len(self.z))
        return CrossedSums(tuple(factors), pairs)

    def batches(self, n_remaining: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield levels of about one size, and their rows (n_levels, size), -1 where a level has fewer."""
        own = self.codes[self.factor]
        order, sizes = np.argsort(own, kind="stable"), self.sizes
        starts = np.cumsum(sizes) - sizes
        size = 1
        below = 0
        while below < min(sizes.max(), MOST_ROWS):
            size = min(max(int(size * SIZE_STEP), below + 1), MOST_ROWS)
            levels = np.flatnonzero((sizes > below) & (sizes <= size))
            below, widest = size, sizes[levels].max(initial=0)
            together = max(1, HELD_NUMBERS // max(widest * max(widest, n_remaining), 1))
            for start in range(0, len(levels), together):
                some = levels[start : start + together]
                at = starts[some][:, None] + np.arange(widest)
                inside = np.arange(widest) < sizes[some][:, None]
                yield some, np.where(inside, order[np.where(inside, at, 0)], -1)


class _Columns:
    """Varying columns as a design."""

    def __init__(self, z):
        self.n_rows, self._z = len(z[0]), z

    def block(self, start, stop):
        return None, [part[start:stop] for part in self._z], None


# ---------------------------------------------------------------------------------------------------------------------
# One node


class _Node:
    """Roots of Phi at one Lambda, (q, q), and ``Phi B``.

    Of two rows, D Phi D' is the product of their halves, and what their levels of factor 0 share if they are the same.
    """

    def __init__(self, passes: CrossedPasses, factor: np.ndarray):
        complement = passes.complement(factor)
        self.passes, self.factor, self.first = passes, factor, complement.first
        self.first_root = semidefinite_cholesky(complement.first)
        self.root = passes.coloured(complement, np.eye(passes.n_remaining))  # P = root root'
        self.rest_solved, self.first_solved = passes.solved(complement)
        self.reach = None
        if self.first.shape[0] * self.first.shape[1] * passes.n_remaining <= HELD_NUMBERS:
            self.reach = self.first @ passes.across(self.root)  # H A_12 root

    def rows(self, columns, z, codes):
        """Return T (n_rows, p + 1), halves (n_rows, K) and what of the first level counts (n_rows, q)."""
        zero = self.passes.order[0]
        own, code = z[zero], codes[zero]
        left = columns - np.einsum("rk,rka->ra", own, self.first_solved[code])
        if self.reach is not None:
            half = -np.einsum("rk,rkc->rc", own, self.reach[code])
        else:
            scaled = np.einsum("rkl,rl->rk", self.first[code], own)
            half = -(self._picked(scaled, code) @ self.root)
        for f in self.passes.order[1:]:
            q = z[f].shape[1]
            for k in range(q):
                at, value = self.passes.starts[f] + codes[f] * q + k, z[f][:, k, None]
                half += value * self.root[at]
                left = left - value * self.rest_solved[at]
        return left, half, np.einsum("rkl,rk->rl", self.first_root[code], own)

    def explained(self, columns, z, codes, shape):
        """Return T (*shape, p + 1), and D Phi D' of the rows of each level, (n_levels, size, size)."""
        left, half, of_first = self.rows(columns, z, codes)
        shared = _products(of_first, shape) * _together(codes[self.passes.order[0]], shape)
        return left.reshape(*shape, -1), shared + _products(half, shape)

    def _picked(self, scaled, code):
        n_rows, q = scaled.shape
        at = (code[:, None] * q + np.arange(q)).ravel()
        between = self.passes.between
        shape = (n_rows, between.shape[0])
        return sp.csr_array((scaled.ravel(), at, np.arange(0, n_rows * q + 1, q)), shape=shape) @ between


class _NestedNode:
    """The same where factors are nested: rows share what the levels that hold both add on their own."""

    def __init__(self, passes: NestedPasses, factor: np.ndarray):
        self.passes, self.factor, self.effects = passes, factor, passes.effects(factor)

    def explained(self, columns, z, codes, shape):
        """Return T and D Phi D'; see `_Node`."""
        left = columns - effects_of_rows(self.effects, self.passes, z, codes)
        shared = sum(
            _products(half, shape) * _together(codes[f], shape)
            for f, half in own_parts(self.effects, self.passes, z, codes)
        )
        return left.reshape(*shape, -1), shared


def _products(part, shape):
    """Return the products of the rows of each level, (n_levels, size, size)."""
    part = part.reshape(*shape, -1)
    return part @ part.swapaxes(1, 2)


def _together(code, shape):
    """Return whether two rows have the same code, (n_levels, size, size)."""
    code = code.reshape(shape)
    return code[:, :, None] == code[:, None, :]


@dataclass(frozen=True)
class _Change:
    """``log|A|`` (n_levels,), ``T' A^-1 T`` (n_levels, p + 1, p + 1), and whether rounding is seen in A."""

    log_det: np.ndarray
    sums: np.ndarray
    lost: np.ndarray

    @classmethod
    def of(cls, matrix, left) -> _Change:
        """Factorise matrices (n_levels, size, size); rows that a level does not have are those of the identity."""
        try:
            root = np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            values, vectors = np.linalg.eigh(matrix)
            half = np.sqrt(np.maximum(values, ROUNDING))[:, :, None] * vectors.swapaxes(1, 2)
            root = np.linalg.qr(half, mode="r").swapaxes(1, 2)
        diagonal = np.abs(np.einsum("jkk->jk", root))
        white = np.linalg.solve(root, left)
        return cls(2 * np.log(diagonal).sum(axis=1), white.swapaxes(1, 2) @ white, diagonal.min(axis=1) ** 2 < ROUNDING)


def _changes(node: _Node | _NestedNode, rows: LevelRows, renewed: list[int], at: np.ndarray) -> tuple[_Change, _Change]:
    """Return what the sums lose without each level, and what they gain with it again; ``at`` is (n_levels, size)."""
    shape, is_row = at.shape, (at >= 0).ravel()
    picked = np.where(is_row, at.ravel(), 0)
    columns = rows.columns[picked] * is_row[:, None]
    z = [part[picked] * is_row[:, None] for part in rows.z]
    codes = [code[picked] for code in rows.codes]

    identity = np.eye(shape[1])
    left, explained = node.explained(columns, z, codes, shape)
    without = _Change.of(identity - explained, left)
    fresh = sum(
        _products(z[f] @ node.factor[of, of], shape) * _together(codes[f], shape)
        for f, of in enumerate(node.passes.sums.columns)
        if f in renewed
    )
    known = [np.zeros_like(part) if f in renewed else part for f, part in enumerate(z)]
    left, uncertain = node.explained(columns, known, codes, shape)
    return without, _Change.of(identity + uncertain + fresh, left)


# ---------------------------------------------------------------------------------------------------------------------
# Scores


def score_levels(model: CrossedModel, rows: LevelRows, grid: VarianceGrid) -> UnitScores:
    """Score every level that has at most `MOST_ROWS` rows; larger ones are NaN, and unresolved."""
    sizes, log_weights = rows.sizes, rows.log_weights
    n, log_weight, prior = model.sums.n, model.sums.log_weight, (model.prior_mean, model.prior_precision)
    small = np.flatnonzero((sizes > 0) & (sizes <= MOST_ROWS))
    shape = (grid.n_nodes, len(sizes))
    scores = UnitScores(np.full(shape, np.nan), np.full(shape, np.nan), np.ones(shape, dtype=bool))
    log_det, total = model.reduce(grid.factor)
    renewed, passes, p1 = rows.renewed, model.passes, total.shape[1]
    batches = list(rows.batches(passes.n_remaining))
    width = BLOCK_ELEMENTS // max(len(small) * max(p1**2, grid.log_sigma.shape[1] * p1), 1)
    for at, part in grid.blocks(width):
        changes = [np.empty((2, len(part.weight), len(sizes), *more)) for more in ((), (p1, p1))]
        lost = np.zeros((len(part.weight), len(sizes)), dtype=bool)
        with one_thread_each():
            for m, factor in enumerate(part.factor):
                node = _NestedNode(passes, factor) if isinstance(passes, NestedPasses) else _Node(passes, factor)
                for levels, positions in batches:
                    for i, change in enumerate(_changes(node, rows, renewed, positions)):
                        changes[0][i, m, levels], changes[1][i, m, levels] = change.log_det, change.sums
                        lost[m, levels] |= change.lost
        log_dets, sums = (change[:, :, small] for change in changes)
        n_nodes = len(part.weight)
        whole = log_likelihood(
            total[at], log_det[at], np.full(n_nodes, n), np.full(n_nodes, log_weight), part.log_sigma, prior
        )[:, None]
        rest, more = (
            log_likelihood_by_group(
                total[at][:, None] + sign * sums[i],
                log_det[at][:, None] + log_dets[i],
                n + sign * sizes[small],
                log_weight + sign * log_weights[small],
                part.log_sigma,
                prior,
            )
            for i, sign in enumerate((-1, 1))
        )
        log_conditional = log_probability(part.conditional)[:, None]
        inverse = log_conditional + rest - whole
        left_out = -np.logaddexp.reduce(inverse, axis=2)
        scores.left_out[at, small] = left_out
        scores.seen[at, small] = expected(more - whole, log_conditional)
        scores.unresolved[at, small] = lost[:, small] | is_unresolved(np.exp(inverse + left_out[:, :, None]))
    return scores


def score_level_again(
    model: CrossedModel, rows: LevelRows, level: int, start: tuple[float, np.ndarray]
) -> tuple[float, float]:
    """Return ``log p(y_g | y_-g)`` from the posterior given the other rows, and the Pareto k of that posterior."""
    others = rows.where(rows.codes[rows.factor] != level)
    rest = CrossedModel(others.sums(), model.parameters, model.prior_mean, model.prior_precision)
    grid, pareto_k = integrate_again(rest, start)
    return _gain(rest, model, grid), pareto_k


def seen_again(model: CrossedModel, rows: LevelRows, level: int, grid: VarianceGrid) -> float:
    """Return the log density of rows like those of a level in a new one, given all rows."""
    more = CrossedModel(rows.again(level).sums(), model.parameters, model.prior_mean, model.prior_precision)
    return _gain(model, more, grid)


def _gain(fewer: CrossedModel, more: CrossedModel, grid: VarianceGrid) -> float:
    """Return the log of the mean density of the rows that one model has and the other has not."""
    prior = (fewer.prior_mean, fewer.prior_precision)
    values = []
    for model in (fewer, more):
        log_det, reduced = model.reduce(grid.factor)
        n, log_weight = (np.full(grid.n_nodes, number) for number in (model.sums.n, model.sums.log_weight))
        values.append(log_likelihood(reduced, log_det, n, log_weight, grid.log_sigma, prior))
    predictive = expected(values[1] - values[0], log_probability(grid.conditional))
    return float(expected(predictive, log_probability(grid.weight)))


def unidentified_level(model: CrossedModel, rows: LevelRows) -> int | None:
    """Return a level without which a flat prior of the common coefficients leaves no proper posterior, or None."""
    if np.all(model.prior_precision > 0):
        return None
    own, n = rows.codes[rows.factor], rows.n_groups[rows.factor]
    x = rows.columns
    xx = np.array([[np.bincount(own, left * right, n) for right in x.T] for left in x.T])
    nothing = np.zeros((0, 0, n))
    products = GroupProducts(nothing, nothing, xx, rows.sizes, rows.log_weights)
    return unidentified_without(products, model.prior_precision)
