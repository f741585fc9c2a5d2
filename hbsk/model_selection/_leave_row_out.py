"""Leave-one-row-out where the posterior of the variance parameters is known at nodes.

Given (sigma, Lambda) the linear predictor f_i of a row is Gaussian, with mean mu and variance v given all of y, its own
y_i included. Taking y_i out again is division of two Gaussians: with the noise variance s of the row

    p(y_i | y_-i, sigma, Lambda) = N(y_i | mu_c, v_c + s),  1 / v_c = 1 / v - 1 / s,  mu_c / v_c = mu / v - y_i / s

(Rasmussen, Williams 2006, Gaussian Processes for Machine Learning, eq. 5.12 in other symbols). What is left is an
expectation over the few variance parameters (`_variance_grid`). This is integrated importance sampling (Vehtari,
Mononen, Tolvanen, Sivula, Winther 2016, JMLR 17): it estimates what PSIS on draws of all parameters estimates, elpd and
p, without their noise; the weights are those of d variance parameters, not of every effect that a row informs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import logsumexp

from hbsk._engine.common_coefficients import ConditionalCommon
from hbsk._engine.crossed import CrossedModel
from hbsk._engine.crossed_sums import CrossedSums, PairSums
from hbsk._engine.group_algebra import relative_inverse, unpack_symmetric
from hbsk._engine.marginal import MarginalModel
from hbsk._engine.scaling import ColumnScaling
from hbsk._engine.sums import GroupSums
from hbsk._posterior.crossed import KEPT_NUMBERS
from hbsk._posterior.crossed_laws import AnyEffects, KnownRows, n_lambdas, row_parts, taken
from hbsk.model_selection._variance_grid import (
    UnitScores,
    VarianceGrid,
    expected,
    integrate_again,
    is_unresolved,
    log_probability,
)

LOG_TWO_PI = np.log(2 * np.pi)
# Nodes times rows times points of the grid of sigma that are worked on at a time.
BLOCK_ELEMENTS = 1_000_000
# Nodes times rows whose scores are held at a time.
HELD_SCORES = 10_000_000
# So many rows cost as much as a group.
ROWS_PER_UNIT = 3
# Share of the noise variance that is left where a row is predicted by itself alone, up to rounding.
ROUNDING = 1e-14
UNIDENTIFIED = 1e-10


@dataclass(frozen=True)
class RowData:
    """Rows of a fit.

    Attributes
    ----------
    design : object with ``n_rows`` and ``block(start, stop)``
    codes : tuple of ndarray of shape (n_rows,), one per factor
        Group of each row; empty where the model has no effects of groups.
    y : ndarray of shape (n_rows,)
    standard_error : ndarray of shape (n_rows,) or None
        In the units of y.
    scalings : tuple of ColumnScaling
        One for each factor, the first for y and the common columns too.
    has_intercept : bool
    """

    design: Any
    codes: tuple[np.ndarray, ...]
    y: np.ndarray
    standard_error: np.ndarray | None
    scalings: tuple[ColumnScaling, ...]
    has_intercept: bool

    def engine(self, start: int, stop: int) -> tuple:
        """Return common columns, varying columns and codes of each factor, response and noise variance over sigma^2.

        In the units of the engine.
        """
        x, z, offset = self.design.block(start, stop)
        y = self.y[start:stop] if offset is None else self.y[start:stop] - offset
        scaling = self.scalings[0]
        noise = np.ones(stop - start)
        if self.standard_error is not None:
            noise = (self.standard_error[start:stop] / scaling.y_scale) ** 2
        return (
            scaling.common(x, self.has_intercept),
            [own.varying(part) for own, part, _ in zip(self.scalings, z, self.codes, strict=bool(self.codes))],
            [codes[start:stop] for codes in self.codes],
            (y - scaling.y_centre) / scaling.y_scale,
            noise,
        )

    def only(self, row: int) -> RowData:
        """Return one of the rows."""
        return replace(
            self,
            design=_OneRow(self.design, row),
            codes=tuple(codes[[row]] for codes in self.codes),
            y=self.y[[row]],
            standard_error=None if self.standard_error is None else self.standard_error[[row]],
        )


def score_rows(model: MarginalModel, grid: VarianceGrid, rows: RowData) -> Iterator[tuple[UnitScores, np.ndarray]]:
    """Score rows, a block at a time; with the posterior variance of the log likelihood of each row of the block."""
    nodes = _nodes(model, grid)
    for start in range(0, len(rows.y), nodes.width):
        x, z, codes, y, noise = rows.engine(start, min(start + nodes.width, len(rows.y)))
        shape = (grid.n_nodes, len(y))
        scores = UnitScores(np.empty(shape), np.empty(shape), np.empty(shape, dtype=bool))
        centre, first, second = None, np.zeros(len(y)), np.zeros(len(y))
        for at, mean, variance in nodes.predictors(x, z, codes):
            part = VarianceGrid(grid.weight[at], grid.factor[at], grid.log_sigma[at], grid.conditional[at])
            of_noise = np.exp(2 * part.log_sigma)[:, None, :] * noise[:, None]
            residual = y[:, None] - mean
            scores.left_out[at], scores.seen[at], scores.unresolved[at] = _densities(residual, variance, of_noise, part)
            expectation, within = _log_likelihood_moments(residual, variance, of_noise)
            weight = part.weight[:, None] * part.conditional
            if centre is None:  # about the value at some nodes, so that squares keep their digits
                centre = np.einsum("mg,mng->n", weight / weight.sum(), expectation)
            deviation = expectation - centre[:, None]
            first += np.einsum("mg,mng->n", weight, deviation)
            second += np.einsum("mg,mng->n", weight, deviation**2 + within)
        yield scores, second - first**2


def _densities(residual, variance, noise, grid):
    """Return the scores of `UnitScores` from arrays (n_nodes, n_rows, n_grid)."""
    log_conditional = log_probability(grid.conditional)[:, None]
    left = np.maximum(noise - variance, ROUNDING * noise)
    log_left_out = -0.5 * (LOG_TWO_PI + 2 * np.log(noise) - np.log(left) + residual**2 / left)
    inverse = log_conditional - log_left_out
    left_out = -logsumexp(inverse, axis=2)
    unresolved = is_unresolved(np.exp(inverse + left_out[:, :, None]))
    total = variance + noise
    seen = expected(-0.5 * (LOG_TWO_PI + np.log(total) + residual**2 / total), log_conditional)
    return left_out, seen, unresolved


def _log_likelihood_moments(residual, variance, noise):
    """Return mean and variance of log p(y | f) given the node: it is quadratic in f, and f is Gaussian."""
    mean = -0.5 * (LOG_TWO_PI + np.log(noise) + (residual**2 + variance) / noise)
    return mean, (0.5 * variance + residual**2) * variance / noise**2


def score_row_again(
    model: MarginalModel, rows: RowData, row: int, start: tuple[float, np.ndarray]
) -> tuple[float, float]:
    """Return ``log p(y_i | y_-i)`` from the posterior given the other rows, and the Pareto k of that posterior."""
    one = rows.only(row)
    rest = type(model)(_without_row(model.sums, one), model.parameters, model.prior_mean, model.prior_precision)
    grid, pareto_k = integrate_again(rest, start)
    ((scores, _),) = score_rows(rest, grid, one)
    return float(expected(scores.seen[:, 0], log_probability(grid.weight))), pareto_k


class _OneRow:
    """One row of a design."""

    n_rows = 1

    def __init__(self, design, row):
        self.design, self.row = design, row

    def block(self, start, stop):
        return self.design.block(self.row + start, self.row + stop)


def _without_row(sums, row: RowData):
    """Return the sums of all other rows."""
    x, z, codes, y, noise = row.engine(0, 1)
    columns, precision = np.append(x[0], y), 1 / noise[0]
    if not isinstance(sums, CrossedSums):
        return _less(sums, columns, z[0][0] if z else None, codes[0][0] if codes else None, precision)
    factors = [
        _less(factor, columns, part[0], code[0], precision)
        for factor, part, code in zip(sums.factors, z, codes, strict=True)
    ]
    pairs = []
    for (f, g), pair in zip(combinations(range(len(factors)), 2), sums.pairs, strict=True):
        here = (pair.first == codes[f][0]) & (pair.second == codes[g][0])
        taken = precision * np.outer(z[f][0], z[g][0])
        pairs.append(PairSums(pair.first, pair.second, pair.blocks - here[:, None, None] * taken))
    return CrossedSums(tuple(factors), tuple(pairs))


def _less(sums: GroupSums, columns, z, code, precision) -> GroupSums:
    """Return the sums over the groups of one factor less one row."""
    changed = {
        "xx": sums.xx - precision * np.outer(columns, columns),
        "n": sums.n - 1,
        "log_weight": sums.log_weight - np.log(precision),
    }
    if code is not None:
        zz, zx, copies = sums.zz.copy(), sums.zx.copy(), sums.copies.copy()
        zz[:, :, code] -= precision * np.outer(z, z)
        zx[:, :, code] -= precision * np.outer(z, columns)
        copies[code] -= 1
        changed |= {"zz": zz, "zx": zx, "copies": copies}
    return replace(sums, **changed)


def unidentified_row(model: MarginalModel, grid: VarianceGrid, rows: RowData) -> int | None:
    """Return a row without which a flat prior of the common coefficients leaves no proper posterior, or None."""
    if np.all(model.prior_precision > 0):
        return None
    best = int(np.argmax(grid.weight))
    one = VarianceGrid(np.ones(1), *(part[[best]] for part in (grid.factor, grid.log_sigma, grid.conditional)))
    nodes = _nodes(model, one)
    for start in range(0, len(rows.y), nodes.width):
        x, z, codes, _, noise = rows.engine(start, min(start + nodes.width, len(rows.y)))
        ((_, _, variance),) = nodes.predictors(x, z, codes)
        left = 1 - variance[0] / (np.exp(2 * one.log_sigma) * noise[:, None])
        bad = np.flatnonzero((left < UNIDENTIFIED).all(axis=1))
        if len(bad):
            return start + int(bad[0])
    return None


def _nodes(model, grid) -> _Nodes:
    _, reduced = model.reduce(grid.factor)
    common = ConditionalCommon.of(reduced, model.prior_mean, model.prior_precision, max(model.sums.n, 1.0))
    _, eigenvalue, coordinate = common.at(grid.log_sigma)
    kind = _NodesOfFactors if isinstance(model, CrossedModel) else _NodesOfOne
    return kind(model, grid, common, eigenvalue, coordinate)


@dataclass
class _Nodes(ABC):
    """What the law of a row's predictor takes of the model at the nodes."""

    model: Any
    grid: VarianceGrid
    common: ConditionalCommon
    eigenvalue: np.ndarray  # (n_nodes, n_grid, p), of Q
    coordinate: np.ndarray  # (n_nodes, n_grid, p), of b_hat

    @property
    @abstractmethod
    def width(self) -> int:
        """Number of rows that are worked on at a time."""

    @abstractmethod
    def predictors(self, x, z, codes) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield nodes, mean and variance of rows over nodes and sigma, each (nodes, n_rows, n_grid); engine units."""

    def _law(self, at, reach, mean, spread):
        """Return mean and variance of rows from what they reach of the common coefficients, and the rest of both."""
        assert self.common.basis is not None  # `ConditionalCommon.of` keeps it
        reach = reach @ self.common.basis[at]
        mean = mean[:, :, None] + reach @ self.coordinate[at].swapaxes(1, 2)
        variance = np.exp(2 * self.grid.log_sigma[at])[:, None] * spread[:, :, None]
        return mean, variance + reach**2 @ (1 / self.eigenvalue[at]).swapaxes(1, 2)


class _NodesOfOne(_Nodes):
    """One grouping factor, or none: all nodes at a time."""

    @property
    def width(self) -> int:
        sums, n_grid = self.model.sums, self.grid.log_sigma.shape[1]
        return max(1, BLOCK_ELEMENTS // (self.grid.n_nodes * max(n_grid, (1 + sums.n_varying) * len(sums.xx))))

    def predictors(self, x, z, codes):
        reach = np.broadcast_to(x, (self.grid.n_nodes, *x.shape))
        mean = spread = np.zeros((self.grid.n_nodes, len(x)))
        if codes:
            (z,), (codes,) = z, codes
            inverse = relative_inverse(self.model.sums.zz[:, :, codes], self.grid.factor)
            inverse = unpack_symmetric(inverse, z.shape[1])
            solved = np.einsum("mklr,rl->mrk", inverse, z)  # H z
            zx = self.model.sums.zx[:, :, codes]
            through = np.einsum("kar,mrk->mra", zx, solved, optimize=True)
            reach, mean = reach - through[:, :, :-1], through[:, :, -1]
            spread = np.einsum("mrk,rk->mr", solved, z)
        yield (slice(None), *self._law(slice(None), reach, mean, spread))


@dataclass
class _NodesOfFactors(_Nodes):
    """Several grouping factors: each node takes a matrix of effects."""

    def __post_init__(self):
        passes = self.model.passes
        is_held = self.grid.n_nodes * passes.numbers_kept <= KEPT_NUMBERS
        self._kept = passes.effects_at(self.grid.factor) if is_held else None

    @property
    def width(self) -> int:
        return max(1, min(HELD_SCORES // self.grid.n_nodes, BLOCK_ELEMENTS // self.grid.log_sigma.shape[1]))

    def predictors(self, x, z, codes):
        passes, n_groups = self.model.passes, [factor.n_groups for factor in self.model.sums.factors]
        rows = KnownRows.of(x, z, codes, n_groups)
        together = max(1, BLOCK_ELEMENTS // max(len(x) * self.grid.log_sigma.shape[1], 1))
        for at, effects in self._effects(together):
            parts = row_parts(effects, self.grid.factor[at], passes, rows)
            yield (at, *self._law(at, *parts))

    def _effects(self, together) -> Iterator[tuple[slice, AnyEffects]]:
        """Yield stretches of at most so many nodes, and the law of all effects at them."""
        if self._kept is None:
            for m in range(self.grid.n_nodes):
                yield slice(m, m + 1), self.model.passes.effects_at(self.grid.factor[[m]])[0]
            return
        first = 0
        for effects in self._kept:
            for start in range(0, n_lambdas(effects), together):
                some = taken(effects, slice(start, start + together))
                yield slice(first + start, first + start + n_lambdas(some)), some
            first += n_lambdas(effects)
