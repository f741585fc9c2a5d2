"""The law of one number, from its log density: nodes at fixed normal scores.

Node i is the quantile ``x_i = F^-1(Phi(z_i))`` at a normal score z_i that is the same for every law, and so is its
weight: the trapezoid rule for ``E g(X) = int g(F^-1(Phi(z))) phi(z) dz``, which is exponentially accurate where
``F^-1(Phi(z))`` is smooth. Scores reach further above than below, for the power tails of standard deviations:
with t steps of equal length, ``z = sinh(a t) / a``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.special import log_ndtr, ndtri

# Below -8.3 lies 5e-17 of every law; above, a power tail of 2.1 degrees has 1e-6 of its second moment beyond 36.
LOWEST_SCORE, HIGHEST_SCORE = -8.3, 36.0
STRETCH, STEP = 0.35, 0.1
# The density is summed by eight Gauss points in cells within which its logarithm changes by so little that they are
# exact to 1e-12, as deep as the outermost scores are.
GAUSS_POINTS, GAUSS_WEIGHTS = np.polynomial.legendre.leggauss(8)
FIRST_WIDTH, MOST_CHANGE, DEPTH, MOST_HALVINGS = 0.5, 1.5, 760.0, 60
# Where the rounding of a log density is larger than that change, no cell is ever fine, and each halving doubles them.
MOST_CELLS = 100_000
NEWTON_STEPS, NEWTON_TOLERANCE = 60, 1e-13


def _steps() -> np.ndarray:
    first, last = (np.arcsinh(STRETCH * score) / STRETCH for score in (LOWEST_SCORE, HIGHEST_SCORE))
    return np.arange(first, last + STEP, STEP)


SCORES = np.sinh(STRETCH * _steps()) / STRETCH
WEIGHTS = np.exp(-0.5 * SCORES**2) * np.cosh(STRETCH * _steps())
WEIGHTS /= WEIGHTS.sum()


def score_nodes(log_density: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> np.ndarray:
    """Return the quantiles of a law at the normal scores `SCORES`.

    Parameters
    ----------
    log_density : callable
        Maps points (n,) to log densities (n,), up to a constant; minus infinity is allowed.
    low, high : float
        Ends beyond which nothing counts.
    """
    lower, upper, log_mass = _cells(log_density, low, high)
    # of what lies below the upper end of each cell, and above its lower end
    below, above = np.logaddexp.accumulate(log_mass), np.logaddexp.accumulate(log_mass[::-1])[::-1]
    total = below[-1]
    from_below = np.append(-np.inf, below[:-1])
    from_above = np.append(above[1:], -np.inf)
    is_lower = SCORES <= 0.0
    target = log_ndtr(-np.abs(SCORES)) + total
    at = np.where(
        is_lower,
        np.searchsorted(below, target),
        len(above) - 1 - np.searchsorted(above[::-1], target),
    )
    at = np.clip(at, 0, len(lower) - 1)
    left, right = lower[at], upper[at]
    # integrals run from the end of the cell on whose side the score is
    origin, outside = np.where(is_lower, left, right), np.where(is_lower, from_below[at], from_above[at])
    x = 0.5 * (left + right)
    for _ in range(NEWTON_STEPS):
        half = 0.5 * (x - origin)
        values = log_density(np.append((0.5 * (x + origin) + half * GAUSS_POINTS[:, None]).ravel(), x))
        inside = values[: -len(x)].reshape(len(GAUSS_POINTS), -1)
        with np.errstate(divide="ignore"):
            log_inside = _log_sum(inside + np.log(GAUSS_WEIGHTS)[:, None], axis=0) + np.log(np.abs(half))
        found = np.logaddexp(outside, log_inside)
        error = found - target  # grows with x on the lower side, falls with it on the upper
        too_far = np.where(is_lower, error > 0, error < 0)
        left, right = np.where(too_far, left, x), np.where(too_far, x, right)
        step = np.where(is_lower, -1.0, 1.0) * error * np.exp(np.clip(found - values[-len(x) :], -700, 700))
        new = x + step
        new = np.where((new > left) & (new < right), new, 0.5 * (left + right))
        done = (np.abs(error) <= NEWTON_TOLERANCE) | (right - left <= 4e-16 * np.abs(x))
        if done.all():
            break
        x = np.where(done, x, new)
    return x


def _cells(log_density, low, high):
    """Return lower and upper ends of cells, in order, and the logarithm of the mass in each.

    Raises
    ------
    FloatingPointError
        Where the log density is rounding.
    """
    edges = np.linspace(low, high, 1 + int(np.ceil((high - low) / FIRST_WIDTH)))
    lower, upper, top = edges[:-1], edges[1:], -np.inf
    finished = []
    for _ in range(MOST_HALVINGS):
        middle, half = 0.5 * (lower + upper), 0.5 * (upper - lower)
        values = log_density((middle[:, None] + half[:, None] * GAUSS_POINTS).ravel()).reshape(len(lower), -1)
        values = np.maximum(values, -1e300)
        highest, change = values.max(axis=1), np.ptp(values, axis=1)
        top = max(top, highest.max())
        # between its points the density may be higher than at them, by less than it changes over the cell
        counts = highest + 0.5 * change > top - DEPTH
        fine = counts & (change <= MOST_CHANGE)
        log_mass = _log_sum(values[fine] + np.log(GAUSS_WEIGHTS), axis=1) + np.log(half[fine])
        finished.append(np.stack([lower[fine], upper[fine], log_mass]))
        split = counts & ~fine
        if not split.any():
            break
        if np.count_nonzero(split) > MOST_CELLS:
            break
        lower, upper = (
            np.stack([lower[split], middle[split]]).T.ravel(),
            np.stack([middle[split], upper[split]]).T.ravel(),
        )
    cells = np.concatenate(finished, axis=1)
    if split.sum() > MOST_CELLS or not cells.size:
        raise FloatingPointError("the logarithm of their density is lost in rounding")
    cells = cells[:, np.argsort(cells[0])]
    return cells[:, cells[2] > top - DEPTH - 40.0]


def _log_sum(values, axis):
    top = values.max(axis=axis, keepdims=True)
    return np.log(np.exp(values - top).sum(axis=axis)) + np.squeeze(top, axis)


def score_quantiles(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return quantiles of a number, given its values at `SCORES`, at levels (n_levels,)."""
    with np.errstate(divide="ignore"):
        at = np.arcsinh(STRETCH * np.clip(ndtri(levels), SCORES[0], SCORES[-1])) / STRETCH
    if np.all(values > 0):  # sds have power tails
        return np.exp(make_interp_spline(_steps(), np.log(values), k=5)(at))
    return make_interp_spline(_steps(), values, k=5)(at)


def between_nodes(score: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that puts arrays over the nodes, (n_nodes, ...), to normal scores between them, (n, ...).

    Nodes are a tenth of a sd apart, so that straight lines are within a thousandth of one.
    """
    score = np.clip(score, SCORES[0], SCORES[-1])
    at = np.clip(np.searchsorted(SCORES, score) - 1, 0, len(SCORES) - 2)
    share = (score - SCORES[at]) / (SCORES[at + 1] - SCORES[at])

    def between(array):
        part = share.reshape(-1, *[1] * (array.ndim - 1))
        return array[at] + part * (array[at + 1] - array[at])

    return between
