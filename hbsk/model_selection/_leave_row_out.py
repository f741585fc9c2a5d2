"""Leave-one-row-out where the posterior of the variance parameters is known at nodes.

Given (sigma, Lambda) the linear predictor f_i of a row is Gaussian, mean mu and variance v given all of y, its own y_i
included. Taking y_i out again is division of two Gaussians: with the noise variance s of the row

    p(y_i | y_-i, sigma, Lambda) = N(y_i | mu_c, v_c + s),  1 / v_c = 1 / v - 1 / s,  mu_c / v_c = mu / v - y_i / s

(Rasmussen, Williams 2006, Gaussian Processes for Machine Learning, eqs. 5.10 to 5.12, in other symbols). What is left is
an expectation over the few variance parameters, as for groups in `_leave_group_out`: integrated importance sampling
(Vehtari, Mononen, Tolvanen, Sivula, Winther 2016, JMLR 17, section 3.5). It estimates what PSIS on draws of all parameters
estimates, without their noise: Pareto k is that of d variance parameters, not of every effect that a row informs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from hbsk.inference.common_coefficients import ConditionalCommon
from hbsk.inference.group_algebra import relative_inverse, unpack_symmetric
from hbsk.inference.marginal import MarginalModel
from hbsk.inference.statistics import ColumnScaling
from hbsk.model_selection._leave_group_out import LOG_TWO_PI, VarianceGrid, is_unresolved, log_probability

# Nodes times rows times points of the grid of sigma that are worked on at a time.
BLOCK_ELEMENTS = 1_000_000
# Share of the noise variance that a row's own response leaves; what is below cannot be told from rounding.
ROUNDING = 1e-14


@dataclass(frozen=True)
class RowScores:
    """Scores of rows at each node of Lambda, sigma integrated out; y in the units of the engine.

    Attributes
    ----------
    left_out, seen : ndarray of shape (n_nodes, n_rows)
        ``log p(y_i | y_-i, Lambda)`` and ``log p(y_i again | y, Lambda)``.
    unresolved : ndarray of bool, shape (n_nodes, n_rows)
        Whether the grid of sigma does not hold without the row.
    mean, variance : ndarray of shape (n_rows,)
        Of ``log p(y_i | f_i, sigma)`` over the posterior.
    """

    left_out: np.ndarray
    seen: np.ndarray
    unresolved: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


def score_rows(
    model: MarginalModel,
    scaling: ColumnScaling,
    has_intercept: bool,
    grid: VarianceGrid,
    design,
    codes: np.ndarray | None,
    y: np.ndarray,
    standard_error: np.ndarray | None = None,
) -> RowScores:
    """Score the rows of a fit.

    Parameters
    ----------
    model : MarginalModel
    scaling : ColumnScaling
    has_intercept : bool
    grid : VarianceGrid
    design : object with ``n_rows`` and ``block(start, stop)``
    codes : ndarray of shape (n_rows,) or None
        Group of each row; None where the model has no effects of groups.
    y : ndarray of shape (n_rows,)
    standard_error : ndarray of shape (n_rows,), optional
        In the units of y.
    """
    nodes = _Nodes.of(model, grid)
    n_rows, n_grid = len(y), grid.log_sigma.shape[1]
    shape = (grid.n_nodes, n_rows)
    left_out, seen, unresolved = np.empty(shape), np.empty(shape), np.empty(shape, dtype=bool)
    moments = np.empty((2, n_rows))
    width = max(1, BLOCK_ELEMENTS // (grid.n_nodes * max(n_grid, model.sums.n_common + 1)))
    for start in range(0, n_rows, width):
        at = slice(start, min(start + width, n_rows))
        x, z, offset = design.block(at.start, at.stop)
        response = y[at] if offset is None else y[at] - offset
        mean, variance = nodes.predictor(
            scaling.common(x, has_intercept), scaling.varying(z[0]) if z else None, None if codes is None else codes[at]
        )
        noise = np.exp(2 * grid.log_sigma)[:, None, :]
        if standard_error is not None:
            noise = noise * ((standard_error[at] / scaling.y_scale) ** 2)[:, None]
        scores = _densities((response - scaling.y_centre)[:, None] / scaling.y_scale - mean, variance, noise, grid)
        left_out[:, at], seen[:, at], unresolved[:, at], moments[:, at] = scores
    return RowScores(left_out, seen, unresolved, *moments)


def _densities(residual, variance, noise, grid):
    """Return the fields of `RowScores` from arrays (n_nodes, n_rows, n_grid)."""
    log_conditional = log_probability(grid.conditional)[:, None]
    left = np.maximum(noise - variance, ROUNDING * noise)
    log_left_out = -0.5 * (LOG_TWO_PI + 2 * np.log(noise) - np.log(left) + residual**2 / left)
    inverse = log_conditional - log_left_out
    left_out = -logsumexp(inverse, axis=2)
    unresolved = is_unresolved(np.exp(inverse + left_out[:, :, None]))
    total = variance + noise
    seen = logsumexp(log_conditional - 0.5 * (LOG_TWO_PI + np.log(total) + residual**2 / total), axis=2)
    # log p(y | f) is quadratic in f, and f is Gaussian
    mean = -0.5 * (LOG_TWO_PI + np.log(noise) + (residual**2 + variance) / noise)
    weight = grid.weight[:, None] * grid.conditional
    average = np.einsum("mg,mng->n", weight, mean)
    spread = (mean - average[:, None]) ** 2 + (0.5 * variance + residual**2) * variance / noise**2
    return left_out, seen, unresolved, (average, np.einsum("mg,mng->n", weight, spread))


@dataclass(frozen=True)
class _Nodes:
    """What the law of a row's predictor takes of the model at the nodes."""

    model: MarginalModel
    grid: VarianceGrid
    common: ConditionalCommon
    eigenvalue: np.ndarray  # (n_nodes, n_grid, p), of Q
    coordinate: np.ndarray  # (n_nodes, n_grid, p), of b_hat
    inverse: np.ndarray  # (n_nodes, q (q + 1) / 2, n_groups), H_j packed

    @classmethod
    def of(cls, model, grid) -> _Nodes:
        _, reduced = model.reduce(grid.factor)
        common = ConditionalCommon.of(reduced, model.prior_mean, model.prior_precision, max(model.sums.n, 1.0))
        _, eigenvalue, coordinate = common.at(grid.log_sigma)
        inverse, _ = relative_inverse(model.sums.zz, grid.factor)
        return cls(model, grid, common, eigenvalue, coordinate, inverse)

    def predictor(self, x, z, codes):
        """Return mean and variance of rows over nodes and sigma, each (n_nodes, n_rows, n_grid); engine units."""
        reach = np.broadcast_to(x, (self.grid.n_nodes, *x.shape))
        mean = spread = np.zeros((self.grid.n_nodes, len(x)))
        if codes is not None:
            inverse = unpack_symmetric(self.inverse[:, :, codes], z.shape[1])
            solved = np.einsum("mklr,rl->mrk", inverse, z)  # H z
            zx = self.model.sums.zx[:, :, codes]
            through = np.einsum("kar,mrk->mra", zx, solved, optimize=True)
            reach, mean = reach - through[:, :, :-1], through[:, :, -1]
            spread = np.einsum("mrk,rk->mr", solved, z)
        reach = reach @ self.common.basis
        mean = mean[:, :, None] + reach @ self.coordinate.swapaxes(1, 2)
        variance = np.exp(2 * self.grid.log_sigma)[:, None] * spread[:, :, None]
        return mean, variance + reach**2 @ (1 / self.eigenvalue).swapaxes(1, 2)
