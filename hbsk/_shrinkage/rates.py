"""Rates of groups, shrunken by a conjugate law between groups: what a fit leaves behind, and what follows for rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import betainc, gammaln

from hbsk._shrinkage.averaged_variance import distinct_pairs
from hbsk._shrinkage.conjugate import (
    RateLaw,
    RateNodes,
    collect_rates,
    fit_rates,
    log_rising,
    rate_moments,
    rate_nodes,
    rate_quantiles,
)

# Counts that are told apart; floats hold no larger ones.
_LARGEST_COUNT = 2.0**53
# Counts up to which each has its probability; of more trials some stand for their neighbours.
_FEW_COUNTS = 400
# Probability beyond the counts that are looked at, on either side, before chance within the group.
_BEYOND = 1e-7
# Weight of the nodes that distribution functions of counts leave out, against the largest.
_LIGHT = 1e-5


class ShrunkenRates(NamedTuple):
    """Rates by the law of the greatest likelihood, and sds averaged over the law.

    Parameters
    ----------
    law : RateLaw
    theta : ndarray of shape (J,)
        Shrunken rates.
    sd : ndarray of shape (J,)
        Posterior sds; empty where they were not asked for.
    new_sd : float
        That of a group without data.
    nodes : RateNodes or None
        Posterior of the law; None where sds were not asked for.
    """

    law: RateLaw
    theta: np.ndarray
    sd: np.ndarray
    new_sd: float
    nodes: RateNodes | None


def shrink_rates(events: np.ndarray, size: np.ndarray, family: str, *, with_sd: bool = True) -> ShrunkenRates:
    """Shrink the rates of groups.

    Parameters
    ----------
    events, size : ndarray of shape (J,)
        Successes and trials, or counts and exposure.
    family : {"binomial", "poisson"}
    with_sd : bool, default=True
        Whether to find the posterior of the law, for sds and intervals.
    """
    cells = collect_rates(events, size, family)
    law = fit_rates(cells)
    theta = law.theta(events, size)
    if not with_sd:
        return ShrunkenRates(law, theta, np.empty(0), np.nan, None)
    nodes = rate_nodes(cells)
    of_cells = rate_moments(nodes, cells.events, cells.size)[1]
    of_new = rate_moments(nodes, np.zeros(1), np.zeros(1))[1]
    return ShrunkenRates(law, theta, of_cells[cells.place], float(of_new[0]), nodes)


class FittedRates(NamedTuple):
    """All that answers need.

    Parameters
    ----------
    theta, theta_sd : ndarray of shape (J,)
        Shrunken rates and their posterior sds.
    shrinkage : ndarray of shape (J,)
        Weight of each group's own rate.
    events, size : ndarray of shape (J,)
        Successes and trials, or counts and exposure, of each group.
    kappa : float
        What the law between groups is worth, in trials or exposure; inf where groups do not differ.
    target : float
        Its mean.
    nodes : RateNodes
        Posterior of the law.
    """

    theta: np.ndarray
    theta_sd: np.ndarray
    shrinkage: np.ndarray
    events: np.ndarray
    size: np.ndarray
    kappa: float
    target: float
    nodes: RateNodes

    @property
    def deviations(self) -> np.ndarray:
        """Shrunken rates less the mean of the law, shape (J,)."""
        return self.theta - self.target

    @property
    def variances(self) -> np.ndarray:
        """Sampling variances of the groups' own rates, at their shrunken rates, shape (J,)."""
        spread = self.theta * (1.0 - self.theta) if self.nodes.family == "binomial" else self.theta
        return spread / self.size

    @property
    def between_group_variance(self) -> float:
        """Variance of the law between groups."""
        return float(_law_variance(self.nodes.family, self.kappa, self.target, 1.0 - self.target))

    def deviation_sds(self) -> np.ndarray:
        """Return posterior sds of the rates less the mean of the law, shape (J,)."""
        first, second = np.zeros(len(self.size)), np.zeros(len(self.size))
        nodes = self.nodes
        for k, m, w in zip(nodes.kappa, nodes.mean, nodes.weight, strict=True):
            one = RateNodes(np.array([k]), np.array([m]), np.array([1.0 - m]), np.ones(1), nodes.family)
            centre, sd = rate_moments(one, self.events, self.size)
            first += w * (centre - m)
            second += w * (np.square(sd) + np.square(centre - m))
        return np.sqrt(np.maximum(second - np.square(first), 0.0))

    def mean(self, codes: np.ndarray) -> np.ndarray:
        """Compute the rate of each row, shape (n_rows,); codes not below J are new groups."""
        return np.append(self.theta, self.target)[np.minimum(codes, len(self.theta))]

    def interval(self, codes: np.ndarray, coverage: float) -> np.ndarray:
        """Find the central interval of the rate of each row, shape (n_rows, 2)."""
        codes, place = np.unique(np.minimum(codes, len(self.theta)), return_inverse=True)
        events, size = self._data(codes)
        ends = [rate_quantiles(self.nodes, events, size, level) for level in _levels(coverage)]
        return np.column_stack(ends)[place]

    def intervals(self, coverage: float) -> np.ndarray:
        """Return the interval of the rate of each group, shape (J, 2)."""
        return self.interval(np.arange(len(self.theta)), coverage)

    def count_interval(self, codes: np.ndarray, size: np.ndarray, coverage: float) -> np.ndarray:
        """Find quantiles of counts that may be observed in trials or exposure of each row, shape (n_rows, 2)."""
        codes, size, place = distinct_pairs(np.minimum(codes, len(self.theta)), size)
        nodes, levels = _heavy(self.nodes), _levels(coverage)
        find = _binomial_counts if nodes.family == "binomial" else _poisson_counts
        ends = [find(nodes, a, n, new, levels) for a, n, new in zip(*self._data(codes), size, strict=True)]
        return np.array(ends).reshape(-1, 2)[place]

    def draw(self, n_draws: int, n_new: int, rng: np.random.Generator) -> np.ndarray:
        """Draw rates of all groups and then of new ones, jointly, shape (n_draws, J + n_new)."""
        nodes = self.nodes
        at = rng.choice(len(nodes.weight), n_draws, p=nodes.weight)
        kappa, mean, rest = (part[at, None] for part in (nodes.kappa, nodes.mean, nodes.rest))
        events, size = np.append(self.events, np.zeros(n_new)), np.append(self.size, np.zeros(n_new))
        first = np.maximum(events + kappa * mean, 1e-300)
        if nodes.family == "binomial":
            return rng.beta(first, np.maximum(np.maximum(size - events, 0.0) + kappa * rest, 1e-300))
        return rng.gamma(first) / (size + kappa)

    def draw_counts(self, codes: np.ndarray, size: np.ndarray, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        """Draw new counts, shape (n_rows, n_draws), each column jointly; rows of one new label share its rate."""
        labels, place = np.unique(codes, return_inverse=True)
        new = labels >= len(self.theta)
        column = np.where(new, len(self.theta) + np.cumsum(new) - 1, labels)
        rates = self.draw(n_draws, int(new.sum()), rng)[:, column[place]].T
        if self.nodes.family == "binomial":
            return rng.binomial(np.round(size).astype(np.int64)[:, None], rates).astype(np.float64)
        return rng.poisson(np.minimum(size[:, None] * rates, 1e18)).astype(np.float64)

    def parameters(self, coverage: float) -> dict[str, tuple[float, float, float, float]]:
        """Return estimate, posterior sd and interval of mean, variance and sd of the law between groups, and kappa."""
        nodes = self.nodes
        variance = _law_variance(nodes.family, nodes.kappa, nodes.mean, nodes.rest)
        values = {
            "Intercept": (self.target, nodes.mean),
            "between_group_variance": (self.between_group_variance, variance),
            "sd": (np.sqrt(self.between_group_variance), np.sqrt(variance)),
            "kappa": (self.kappa, nodes.kappa),
        }
        return {name: (float(at), *_summary(of, nodes.weight, coverage)) for name, (at, of) in values.items()}

    def _data(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Events and sizes behind codes; 0 of a new group."""
        return np.append(self.events, 0.0)[codes], np.append(self.size, 0.0)[codes]


def fitted_rates(events: np.ndarray, size: np.ndarray, family: str) -> tuple[FittedRates, str]:
    """Shrink the rates of groups; what answers need, and why the law cannot be told."""
    shrunken = shrink_rates(events, size, family)
    law = shrunken.law
    assert shrunken.nodes is not None
    fitted = FittedRates(
        shrunken.theta, shrunken.sd, law.shrinkage(size), events, size, law.kappa, law.mean, shrunken.nodes
    )
    return fitted, law.why_not


def _levels(coverage: float) -> tuple[float, float]:
    return (1.0 - coverage) / 2, (1.0 + coverage) / 2


def _law_variance(family, kappa, mean, rest):
    """Variance m (1 - m) / (kappa + 1) of the beta law, m / kappa of the gamma law."""
    with np.errstate(divide="ignore"):
        return mean * rest / (np.asarray(kappa) + 1.0) if family == "binomial" else mean / np.asarray(kappa)


def _summary(values: np.ndarray, weight: np.ndarray, coverage: float) -> tuple[float, float, float]:
    """Posterior sd and interval of what nodes have values of."""
    order = np.argsort(values)
    values, weight = values[order], weight[order]
    mean = weight @ values
    level = np.cumsum(weight) - 0.5 * weight
    with np.errstate(divide="ignore"):
        ends = np.exp(np.interp(_levels(coverage), level, np.log(values)))
    return float(np.sqrt(weight @ np.square(values - mean))), float(ends[0]), float(ends[1])


def _heavy(nodes: RateNodes) -> RateNodes:
    """Leave out nodes of next to no weight."""
    kept = nodes.weight > _LIGHT * nodes.weight.max()
    weight = nodes.weight[kept] / nodes.weight[kept].sum()
    return RateNodes(nodes.kappa[kept], nodes.mean[kept], nodes.rest[kept], weight, nodes.family)


def _binomial_counts(
    nodes: RateNodes, events: float, size: float, trials: float, levels: tuple[float, float]
) -> list[float]:
    """Find quantiles of a mixture of beta-binomial laws, by summing up their probabilities."""
    trials = float(round(trials))
    first, second = events + nodes.kappa * nodes.mean, max(size - events, 0.0) + nodes.kappa * nodes.rest
    at = np.arange(trials + 1.0)
    if trials > _FEW_COUNTS:
        rates = [rate_quantiles(nodes, np.array([events]), np.array([size]), p)[0] for p in (_BEYOND, 1 - _BEYOND)]
        at = _places(trials, rates[0], rates[1])
    c, rest = at[:, None], trials - at[:, None]
    log_choose = gammaln(trials + 1) - gammaln(at + 1) - gammaln(trials - at + 1)
    of_nodes = log_rising(first, c) + log_rising(second, rest) - log_rising(first + second, np.array(trials))
    probability = np.exp(of_nodes + log_choose[:, None]) @ nodes.weight
    # Of counts that stand for their neighbours: the sum over whole numbers between two by the line through both.
    step = np.diff(at)
    more = 0.5 * (step * (probability[1:] + probability[:-1]) + probability[1:] - probability[:-1])
    below = np.cumsum(np.append(probability[0], more))
    below /= below[-1]
    ends = []
    for level in levels:
        i = int(np.searchsorted(below, level * (1 - 1e-12)))
        i = min(i, len(at) - 1)
        if i and at[i] - at[i - 1] > 1:
            share = (level - below[i - 1]) / (below[i] - below[i - 1])
            ends.append(float(np.ceil(at[i - 1] + share * (at[i] - at[i - 1]))))
        else:
            ends.append(float(at[i]))
    return ends


def _places(trials: float, low: float, high: float) -> np.ndarray:
    """Choose counts whose probabilities tell those of all others, where rates lie between low and high."""
    ends = []
    for rate, sign in ((low, -1.0), (high, 1.0)):
        chance = 8.0 * np.sqrt(trials * rate * (1.0 - rate)) + 8.0
        ends.append(float(np.clip(np.round(trials * rate + sign * chance), 0.0, trials)))
    first, last = ends
    width = last - first
    away = np.append(np.arange(51.0), np.round(np.geomspace(51.0, max(width, 52.0), 300)))
    away = away[away <= width]
    even = np.round(np.linspace(first, last, _FEW_COUNTS))
    return np.unique(np.concatenate([first + away, last - away, even]))


def _poisson_counts(
    nodes: RateNodes, events: float, size: float, exposure: float, levels: tuple[float, float]
) -> list[float]:
    """Find quantiles of a mixture of negative binomial laws, whose distribution function is an incomplete beta."""
    shape, rate = events + nodes.kappa * nodes.mean, size + nodes.kappa
    share = rate / (rate + exposure)

    def below(count: float) -> float:
        return float(nodes.weight @ betainc(shape, count + 1.0, share))

    ends = []
    for level in levels:
        low, high = -1.0, 1.0
        while below(high) < level and high < _LARGEST_COUNT:
            low, high = high, 2.0 * high
        while high - low > 1.0:
            middle = np.floor(0.5 * (low + high))
            low, high = (low, middle) if below(middle) >= level else (middle, high)
        ends.append(float(high))
    return ends
