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

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import logsumexp

from hbsk._engine.common_coefficients import ConditionalCommon
from hbsk._engine.group_algebra import relative_inverse, unpack_symmetric
from hbsk._engine.marginal import MarginalModel
from hbsk._engine.scaling import ColumnScaling
from hbsk._engine.sums import GroupSums
from hbsk.model_selection._variance_grid import (
    UnitScores,
    VarianceGrid,
    expected,
    integrate_finely,
    is_unresolved,
    log_probability,
)

LOG_TWO_PI = np.log(2 * np.pi)
# Nodes times rows times points of the grid of sigma that are worked on at a time.
BLOCK_ELEMENTS = 1_000_000
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
    codes : ndarray of shape (n_rows,) or None
        Group of each row; None where the model has no effects of groups.
    y : ndarray of shape (n_rows,)
    standard_error : ndarray of shape (n_rows,) or None
        In the units of y.
    scaling : ColumnScaling
    has_intercept : bool
    """

    design: Any
    codes: np.ndarray | None
    y: np.ndarray
    standard_error: np.ndarray | None
    scaling: ColumnScaling
    has_intercept: bool

    def engine(self, start: int, stop: int) -> tuple:
        """Return common and varying columns, codes, response and noise variance over sigma^2 of rows; engine units."""
        x, z, offset = self.design.block(start, stop)
        y = self.y[start:stop] if offset is None else self.y[start:stop] - offset
        scaling = self.scaling
        noise = np.ones(stop - start)
        if self.standard_error is not None:
            noise = (self.standard_error[start:stop] / scaling.y_scale) ** 2
        grouped = self.codes is not None
        return (
            scaling.common(x, self.has_intercept),
            scaling.varying(z[0]) if grouped else None,
            self.codes[start:stop] if grouped else None,
            (y - scaling.y_centre) / scaling.y_scale,
            noise,
        )


def score_rows(model: MarginalModel, grid: VarianceGrid, rows: RowData) -> Iterator[tuple[UnitScores, np.ndarray]]:
    """Score rows, a block at a time; with the posterior variance of the log likelihood of each row of the block."""
    nodes = _Nodes.of(model, grid)
    n_rows, sums = len(rows.y), model.sums
    width = max(1, BLOCK_ELEMENTS // (grid.n_nodes * max(grid.log_sigma.shape[1], (1 + sums.n_varying) * len(sums.xx))))
    for start in range(0, n_rows, width):
        x, z, codes, y, noise = rows.engine(start, min(start + width, n_rows))
        mean, variance = nodes.predictor(x, z, codes)
        noise = np.exp(2 * grid.log_sigma)[:, None, :] * noise[:, None]
        yield _densities(y[:, None] - mean, variance, noise, grid)


def _densities(residual, variance, noise, grid):
    """Return what `score_rows` yields from arrays (n_nodes, n_rows, n_grid)."""
    log_conditional = log_probability(grid.conditional)[:, None]
    left = np.maximum(noise - variance, ROUNDING * noise)
    log_left_out = -0.5 * (LOG_TWO_PI + 2 * np.log(noise) - np.log(left) + residual**2 / left)
    inverse = log_conditional - log_left_out
    left_out = -logsumexp(inverse, axis=2)
    unresolved = is_unresolved(np.exp(inverse + left_out[:, :, None]))
    total = variance + noise
    seen = expected(-0.5 * (LOG_TWO_PI + np.log(total) + residual**2 / total), log_conditional)
    # log p(y | f) is quadratic in f, and f is Gaussian
    mean = -0.5 * (LOG_TWO_PI + np.log(noise) + (residual**2 + variance) / noise)
    weight = grid.weight[:, None] * grid.conditional
    deviation = mean - np.einsum("mg,mng->n", weight, mean)[:, None]
    within = (0.5 * variance + residual**2) * variance / noise**2
    return UnitScores(left_out, seen, unresolved), np.einsum("mg,mng->n", weight, deviation**2 + within)


def score_row_again(
    model: MarginalModel, rows: RowData, row: int, start: tuple[float, np.ndarray]
) -> tuple[float, float]:
    """Return ``log p(y_i | y_-i)`` from the posterior given the other rows, and the Pareto k of that posterior."""
    one = replace(
        rows,
        design=_OneRow(rows.design, row),
        codes=None if rows.codes is None else rows.codes[[row]],
        y=rows.y[[row]],
        standard_error=None if rows.standard_error is None else rows.standard_error[[row]],
    )
    rest = MarginalModel(_without_row(model.sums, one), model.parameters, model.prior_mean, model.prior_precision)
    grid, pareto_k = integrate_finely(rest, start, max(model.sums.n_groups, 1))
    ((scores, _),) = score_rows(rest, grid, one)
    return float(expected(scores.seen[:, 0], log_probability(grid.weight))), pareto_k


class _OneRow:
    """One row of a design."""

    n_rows = 1

    def __init__(self, design, row):
        self.design, self.row = design, row

    def block(self, start, stop):
        return self.design.block(self.row + start, self.row + stop)


def _without_row(sums: GroupSums, row: RowData) -> GroupSums:
    """Return the sums of all other rows."""
    x, z, codes, y, noise = row.engine(0, 1)
    columns = np.append(x[0], y)
    precision = 1 / noise[0]
    changed = {
        "xx": sums.xx - precision * np.outer(columns, columns),
        "n": sums.n - 1,
        "log_weight": sums.log_weight - np.log(precision),
    }
    if codes is not None:
        zz, zx, copies = sums.zz.copy(), sums.zx.copy(), sums.copies.copy()
        zz[:, :, codes[0]] -= precision * np.outer(z[0], z[0])
        zx[:, :, codes[0]] -= precision * np.outer(z[0], columns)
        copies[codes[0]] -= 1
        changed |= {"zz": zz, "zx": zx, "copies": copies}
    return replace(sums, **changed)


def unidentified_row(model: MarginalModel, grid: VarianceGrid, rows: RowData) -> int | None:
    """Return a row without which a flat prior of the common coefficients leaves no proper posterior, or None."""
    if np.all(model.prior_precision > 0):
        return None
    best = int(np.argmax(grid.weight))
    one = VarianceGrid(np.ones(1), *(part[[best]] for part in (grid.factor, grid.log_sigma, grid.conditional)))
    nodes = _Nodes.of(model, one)
    width = max(1, BLOCK_ELEMENTS // (one.log_sigma.shape[1] * max(model.sums.n_common, 1)))
    for start in range(0, len(rows.y), width):
        x, z, codes, _, noise = rows.engine(start, min(start + width, len(rows.y)))
        _, variance = nodes.predictor(x, z, codes)
        left = 1 - variance[0] / (np.exp(2 * one.log_sigma) * noise[:, None])
        bad = np.flatnonzero((left < UNIDENTIFIED).all(axis=1))
        if len(bad):
            return start + int(bad[0])
    return None


@dataclass(frozen=True)
class _Nodes:
    """What the law of a row's predictor takes of the model at the nodes."""

    model: MarginalModel
    grid: VarianceGrid
    common: ConditionalCommon
    eigenvalue: np.ndarray  # (n_nodes, n_grid, p), of Q
    coordinate: np.ndarray  # (n_nodes, n_grid, p), of b_hat

    @classmethod
    def of(cls, model, grid) -> _Nodes:
        _, reduced = model.reduce(grid.factor)
        common = ConditionalCommon.of(reduced, model.prior_mean, model.prior_precision, max(model.sums.n, 1.0))
        _, eigenvalue, coordinate = common.at(grid.log_sigma)
        return cls(model, grid, common, eigenvalue, coordinate)

    def predictor(self, x, z, codes):
        """Return mean and variance of rows over nodes and sigma, each (n_nodes, n_rows, n_grid); engine units."""
        reach = np.broadcast_to(x, (self.grid.n_nodes, *x.shape))
        mean = spread = np.zeros((self.grid.n_nodes, len(x)))
        if codes is not None:
            inverse = relative_inverse(self.model.sums.zz[:, :, codes], self.grid.factor)
            inverse = unpack_symmetric(inverse, z.shape[1])
            solved = np.einsum("mklr,rl->mrk", inverse, z)  # H z
            zx = self.model.sums.zx[:, :, codes]
            through = np.einsum("kar,mrk->mra", zx, solved, optimize=True)
            reach, mean = reach - through[:, :, :-1], through[:, :, -1]
            spread = np.einsum("mrk,rk->mr", solved, z)
        reach = reach @ self.common.basis
        mean = mean[:, :, None] + reach @ self.coordinate.swapaxes(1, 2)
        variance = np.exp(2 * self.grid.log_sigma)[:, None] * spread[:, :, None]
        return mean, variance + reach**2 @ (1 / self.eigenvalue).swapaxes(1, 2)
