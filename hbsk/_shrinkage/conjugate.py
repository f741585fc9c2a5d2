"""Rates of groups with a conjugate law between groups: beta-binomial and gamma-Poisson, two parameters.

The law between groups is Beta(kappa m, kappa (1 - m)), or Gamma(shape kappa m, rate kappa): m is its mean, and kappa,
in trials or units of exposure, says how much of a group's own data the law is worth. Given both, the rate of a group
with a events in n is Beta(kappa m + a, kappa (1 - m) + n - a), or Gamma(kappa m + a, kappa + n), with mean
``m + n / (n + kappa) (a / n - m)``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import brentq, minimize_scalar
from scipy.optimize.elementwise import find_root
from scipy.special import betainc, digamma, expit, gammainc, gammaln

# Widest logits, and logarithms of rates against the pooled one, that a mean is looked for at.
_WIDEST = 60.0
# The law between groups is looked for from this far below the smallest size to as far above the largest, in logarithms.
_BELOW, _ABOVE, _STEP = 12.0, 16.0, 1.5
# Nodes of a grid end where the posterior density is e^-12 of its maximum.
_DROP = 12.0
_REACH = 16.0
# Of many distinct groups the posterior is all but normal, and few nodes do.
_MANY_CELLS = 2000


class RateCells(NamedTuple):
    """Groups with the same events and size, counted once.

    Parameters
    ----------
    events, size, copies : ndarray of shape (C,)
        Events, trials or exposure, and the number of such groups.
    place : ndarray of shape (J,)
        Cell of each group.
    family : {"binomial", "poisson"}
    """

    events: np.ndarray
    size: np.ndarray
    copies: np.ndarray
    place: np.ndarray
    family: str

    @property
    def rate(self) -> float:
        """Pooled rate."""
        return float(self.copies @ self.events / (self.copies @ self.size))

    @property
    def rest(self) -> np.ndarray:
        """Failures of each cell; rounding must not take them below 0."""
        return np.maximum(self.size - self.events, 0.0)


class RateLaw(NamedTuple):
    """Law between groups by maximum marginal likelihood.

    Parameters
    ----------
    kappa : float
        From 0, groups that are all or nothing, to inf, groups that do not differ.
    mean : float
    why_not : str
        Why kappa cannot be told; empty where it can.
    """

    kappa: float
    mean: float
    why_not: str

    def shrinkage(self, size: np.ndarray) -> np.ndarray:
        """Weight n / (n + kappa) of each group's own rate, shape (J,)."""
        return np.zeros_like(size) if np.isinf(self.kappa) else size / (size + self.kappa)

    def theta(self, events: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Posterior mean of each group's rate, shape (J,)."""
        return self.mean + self.shrinkage(size) * (events / size - self.mean)


class RateNodes(NamedTuple):
    """Posterior of the law between groups as weighted points.

    Parameters
    ----------
    kappa, mean, rest, weight : ndarray of shape (G,)
        ``rest`` is 1 - mean without cancellation.
    family : {"binomial", "poisson"}
    """

    kappa: np.ndarray
    mean: np.ndarray
    rest: np.ndarray
    weight: np.ndarray
    family: str


def collect_rates(events: np.ndarray, size: np.ndarray, family: str) -> RateCells:
    """Count groups that are alike."""
    of_size, sizes = pd.factorize(size, sort=True)
    of_events, counts = pd.factorize(events, sort=True)
    place, pairs = pd.factorize(of_size * len(counts) + of_events, sort=True)
    copies = np.bincount(place).astype(np.float64)
    return RateCells(counts[pairs % len(counts)], sizes[pairs // len(counts)], copies, place, family)


# ---------------------------------------------------------------------------------------------------------------------
# Marginal likelihood


def log_rising(x: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Compute log Gamma(x + a) - log Gamma(x) to the last digits, by Stirling's series where x is large."""
    small = np.minimum(x, 100.0)
    large = np.maximum(x, 100.0)
    top = large + a
    series = (top - 0.5) * np.log1p(a / large) + a * np.log(large) - a
    series += (1 / top - 1 / large) / 12 - (top**-3 - large**-3) / 360
    return np.where(x > 100.0, series, gammaln(small + a) - gammaln(small))


def digamma_rise(x: float, a: np.ndarray) -> np.ndarray:
    """Compute digamma(x + a) - digamma(x), by the asymptotic series where x is large."""
    top = x + a
    if x <= 1000.0:
        return digamma(top) - digamma(x)
    return np.log1p(a / x) - (1 / top - 1 / x) / 2 - (top**-2 - x**-2) / 12


def log_marginal(cells: RateCells, kappa: np.ndarray, mean: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Log marginal likelihood at each (kappa, mean), constants of the data left out; shape of kappa.

    Beta-binomial: log B(a + kappa m, b + kappa (1 - m)) - log B(kappa m, kappa (1 - m)) (Skellam 1948); gamma-Poisson:
    log Gamma(a + kappa m) - log Gamma(kappa m) - a log(n + kappa) - kappa m log(1 + n / kappa).
    """
    kappa, mean, rest = np.broadcast_arrays(kappa, mean, rest)
    k, m, r = (part[..., None] for part in (kappa, mean, rest))
    a, n = cells.events, cells.size
    if cells.family == "binomial":
        terms = log_rising(k * m, a) + log_rising(k * r, cells.rest) - log_rising(k, n)
    else:
        terms = log_rising(k * m, a) - a * np.log(n + k) - k * m * np.log1p(n / k)
    return terms @ cells.copies


def _pooled_log_likelihood(cells: RateCells) -> float:
    """Give the limit of `log_marginal` for kappa to infinity, at the pooled rate, which is not at an edge."""
    events, size, rate = cells.copies @ cells.events, cells.copies @ cells.size, cells.rate
    if cells.family == "binomial":
        return float(events * np.log(rate) + (cells.copies @ cells.rest) * np.log1p(-rate))
    return float(events * np.log(rate) - size * rate)


def _mean_at(cells: RateCells, x: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and 1 - mean at a logit, or at the logarithm of a rate."""
    return (expit(x), expit(-x)) if cells.family == "binomial" else (np.exp(x), np.ones_like(x))


def _slope(cells: RateCells, kappa: float, x: float) -> float:
    """Differentiate `log_marginal` by x, the logit or logarithm of the mean."""
    mean, rest = (float(part) for part in _mean_at(cells, np.float64(x)))
    rise = cells.copies @ digamma_rise(kappa * mean, cells.events)
    if cells.family == "binomial":
        fall = cells.copies @ digamma_rise(kappa * rest, cells.rest)
        return kappa * mean * rest * float(rise - fall)
    return kappa * mean * float(rise - cells.copies @ np.log1p(cells.size / kappa))


def _prior_slope(cells: RateCells, x: float) -> float:
    mean, rest = _mean_at(cells, np.float64(x))
    return 0.5 * float(rest - mean) if cells.family == "binomial" else 0.5


def _best_x(cells: RateCells, kappa: float, *, with_prior: bool) -> float:
    """Find where the likelihood, or the posterior density, has its maximum in x; it has one."""
    centre = 0.0 if cells.family == "binomial" else np.log(_some_rate(cells))

    def slope(x):
        return _slope(cells, kappa, x) + (_prior_slope(cells, x) if with_prior else 0.0)

    tolerance = 1e-3 if with_prior else 1e-11  # a grid of nodes need not stand on the mode
    return float(brentq(slope, centre - _WIDEST, centre + _WIDEST, xtol=tolerance))


def _best_mean(cells: RateCells, kappa: float) -> float:
    return float(_mean_at(cells, np.float64(_best_x(cells, kappa, with_prior=False)))[0])


def _some_rate(cells: RateCells) -> float:
    """Pooled rate; where there is no event, that of half an event."""
    return max(cells.rate, 0.5 / float(cells.copies @ cells.size))


def fit_rates(cells: RateCells) -> RateLaw:
    """Find the law between groups of the greatest marginal likelihood."""
    rate = cells.rate
    if rate <= 0.0 or (cells.family == "binomial" and not (cells.copies @ cells.rest) > 0.0):
        return RateLaw(np.inf, min(rate, 1.0) if cells.family == "binomial" else rate, "")

    def profile(u):
        kappa = np.exp(u)
        return float(log_marginal(cells, kappa, *_mean_at(cells, np.float64(_best_x(cells, kappa, with_prior=False)))))

    grid = np.arange(np.log(cells.size.min()) - _BELOW, np.log(cells.size.max()) + _ABOVE, _STEP)
    values = np.array([profile(u) for u in grid])
    limit = _pooled_log_likelihood(cells)
    rounding = 1e-11 * max(1.0, abs(limit))
    best = int(values.argmax())
    if cells.family == "binomial" and np.ptp(np.append(values, limit)) <= rounding:
        return RateLaw(
            0.0, rate, "no group has two trials, so that how much groups differ cannot be told from chance within them"
        )
    if best == 0:  # of any two trials of a group both are events, or neither is
        return RateLaw(0.0, _best_mean(cells, float(np.exp(grid[0]))), "")
    if best == len(grid) - 1:
        return RateLaw(np.inf, rate, "")
    found = minimize_scalar(
        lambda u: -profile(u), bounds=(grid[best - 1], grid[best + 1]), method="bounded", options={"xatol": 1e-7}
    )
    if -found.fun <= limit + rounding:
        return RateLaw(np.inf, rate, "")
    kappa = float(np.exp(found.x))
    return RateLaw(kappa, _best_mean(cells, kappa), "")


# ---------------------------------------------------------------------------------------------------------------------
# Posterior of the law between groups


def rate_nodes(cells: RateCells) -> RateNodes:
    """Find the posterior of (log kappa, m) on a grid.

    Priors: the weight n0 / (n0 + kappa) of the own rate of a group of median size n0 is uniform on (0, 1) (Christiansen
    and Morris 1997), so that log kappa is logistic about log n0; m is Beta(1/2, 1/2), or has density m^(-1/2), as
    Jeffreys has it. The posterior is proper whatever the data are.
    """
    typical = float(np.log(np.median(cells.size[cells.place])))
    scan = typical + np.arange(-_REACH, _REACH + 1.0, 2.0)
    modes = np.array([_best_x(cells, np.exp(u), with_prior=True) for u in scan])
    few = 9 if len(cells.size) > _MANY_CELLS else 15
    heights = np.array([_log_density(cells, typical, u, np.array([x]))[0] for u, x in zip(scan, modes, strict=True)])
    spread = np.array([_spread(cells, u, x) for u, x in zip(scan, modes, strict=True)])
    low, high = _range_within(scan, heights + np.log(spread))
    kappas = np.linspace(low, high, few)
    u_nodes, x_nodes, log_weights = [], [], []
    for u in kappas:
        x = _best_x(cells, np.exp(u), with_prior=True)
        step = _spread(cells, u, x)
        away = step * np.append(0.0, 2.0 ** np.arange(0.0, 6.0, 0.25))
        ends = [
            x + sign * away[np.argmax(_drops(_log_density(cells, typical, u, x + sign * away)))] for sign in (-1.0, 1.0)
        ]
        nodes = np.linspace(ends[0], ends[1], 2 * few)
        log_weights.append(_log_density(cells, typical, u, nodes) + np.log(nodes[1] - nodes[0]))
        u_nodes.append(np.full(2 * few, u))
        x_nodes.append(nodes)
    log_weight = np.concatenate(log_weights)
    weight = np.exp(log_weight - log_weight.max())
    kept = weight > 1e-7
    mean, rest = _mean_at(cells, np.concatenate(x_nodes)[kept])
    return RateNodes(np.exp(np.concatenate(u_nodes)[kept]), mean, rest, weight[kept] / weight[kept].sum(), cells.family)


def _log_density(cells: RateCells, typical: float, u: float, x: np.ndarray) -> np.ndarray:
    """Log posterior density at one log kappa and several x, up to a constant."""
    mean, rest = _mean_at(cells, x)
    with np.errstate(divide="ignore"):
        of_mean = 0.5 * (np.log(mean) + np.log(rest))
    of_kappa = -np.logaddexp(0.0, u - typical) - np.logaddexp(0.0, typical - u)
    return log_marginal(cells, np.full_like(x, np.exp(u)), mean, rest) + of_mean + of_kappa


def _spread(cells: RateCells, u: float, x: float) -> float:
    """Sd of x given kappa, by the curvature at its mode."""
    h = 1e-4
    kappa = np.exp(u)
    ahead, behind = (_slope(cells, kappa, x + d) + _prior_slope(cells, x + d) for d in (h, -h))
    return float(np.clip((behind - ahead) / (2 * h), 0.02, 1e18) ** -0.5)


def _drops(heights: np.ndarray) -> np.ndarray:
    dropped = heights < heights[0] - _DROP
    dropped[-1] = True
    return dropped


def _range_within(scan: np.ndarray, heights: np.ndarray) -> tuple[float, float]:
    """Find the ends of the range in which heights are less than the drop below the maximum, by lines between."""
    level = heights.max() - _DROP
    above = np.flatnonzero(heights >= level)
    low, high = scan[above[0]], scan[above[-1]]
    if above[0] > 0:
        i = above[0]
        low -= (heights[i] - level) / (heights[i] - heights[i - 1])
    if above[-1] < len(scan) - 1:
        i = above[-1]
        high += (heights[i] - level) / (heights[i] - heights[i + 1])
    return float(low), float(high)


# ---------------------------------------------------------------------------------------------------------------------
# Rates of groups, averaged over the law between them


def rate_moments(nodes: RateNodes, events: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means and sds of rates of groups with these events and sizes, each of shape (J,)."""
    mean, second = np.zeros(len(events)), np.zeros(len(events))
    for k, m, r, w in zip(nodes.kappa, nodes.mean, nodes.rest, nodes.weight, strict=True):
        total = size + k
        centre = (events + k * m) / total
        if nodes.family == "binomial":
            variance = centre * ((np.maximum(size - events, 0.0) + k * r) / total) / (total + 1.0)
        else:
            variance = centre / total
        mean += w * centre
        second += w * (variance + np.square(centre))
    return mean, np.sqrt(np.maximum(second - np.square(mean), 0.0))


def rate_quantiles(nodes: RateNodes, events: np.ndarray, size: np.ndarray, probability: float) -> np.ndarray:
    """Posterior quantiles of rates of groups with these events and sizes, shape (J,)."""
    cells = collect_rates(events, size, nodes.family)
    k, w = nodes.kappa, nodes.weight

    def excess(x, a, n):
        a, n = a[:, None], n[:, None]
        if nodes.family == "binomial":
            below = betainc(a + k * nodes.mean, np.maximum(n - a, 0.0) + k * nodes.rest, expit(x)[:, None])
        else:
            below = gammainc(a + k * nodes.mean, (n + k) * np.exp(x)[:, None])
        return below @ w - probability

    centre, widest = 0.0, 700.0
    if nodes.family == "poisson":
        centre, widest = float(np.log(nodes.mean @ w)), 300.0
    low, high = np.full(len(cells.size), centre - widest), np.full(len(cells.size), centre + widest)
    if nodes.family == "binomial":
        high = np.full(len(cells.size), 36.7)  # the last logit whose probability is not 1
    args = (cells.events, cells.size)
    ends = [excess(end, *args) for end in (low, high)]
    x = np.where(ends[0] >= 0, low, high)
    inside = (ends[0] < 0) & (ends[1] > 0)
    if inside.any():
        found = find_root(excess, (low[inside], high[inside]), args=tuple(part[inside] for part in args))
        x[inside] = found.x
    return (expit(x) if nodes.family == "binomial" else np.exp(x))[cells.place]
