"""The posterior of the few variance parameters as a grid, and expectations over it without one unit of the data.

What rows and groups have in common: given (sigma, Lambda) the density of a unit given the others is exact; 1 / p(y) is
then averaged over the posterior,

    p(y_i | y_-i) = 1 / E[ 1 / p(y_i | y_-i, sigma, Lambda) | y ]

over sigma, which a unit with large residuals moves most, by quadrature, over Lambda by importance sampling with Pareto
smoothed weights (Vehtari et al. 2024, JMLR 25). The nodes are placed anew, more of them than a fit needs: the sum over
units moves with the nodes as one (its sd over the posterior is about the root of half the number of parameters), so
that its Monte Carlo error is that of the nodes, however many units there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from hbsk._engine.integrate import N_REPLICATES, first_proposals, importance_sample
from hbsk._engine.marginal import MarginalModel
from hbsk._engine.mode_search import find_mode
from hbsk._engine.pareto import smoothed_weights
from hbsk._posterior.diagnostics import PARETO_K_THRESHOLD
from hbsk._posterior.nodes import MarginalPosterior

# Nodes times groups, and the bounds of the nodes that one of the engine's replicates draws. The sum over groups of
# sleepstudy (18) and radon (85) is then within 0.02 of its limit.
ELEMENTS = 100_000
NODES_PER_REPLICATE = (4, 128)
MAX_NODES = 12_000
# Of the fine grids of sigma that few rows need, every second point serves here.
MOST_SIGMAS = 30
# The grid was laid out for all data; without a unit, sigma must neither lie beyond its ends nor between its points.
MOST_AT_ENDS, MOST_AT_ONE_POINT = 1e-3, 0.6
UNRESOLVED_SHARE = 0.01
# With fewer nodes nothing is smoothed: they are a quadrature.
FEWEST_NODES = 25


@dataclass(frozen=True)
class VarianceGrid:
    """The posterior of (Lambda, sigma): weighted nodes of Lambda, and a grid of sigma for each of them.

    Attributes
    ----------
    weight : ndarray of shape (n_nodes,)
    factor : ndarray of shape (n_nodes, q, q)
        ``Lambda``.
    log_sigma, conditional : ndarray of shape (n_nodes, n_grid)
        Grid of log sigma in the units of the engine, and its probabilities given Lambda and y; draws have one column,
        and probability 1.
    """

    weight: np.ndarray
    factor: np.ndarray
    log_sigma: np.ndarray
    conditional: np.ndarray

    @classmethod
    def of_draws(cls, weight: np.ndarray, factor: np.ndarray, sigma: np.ndarray) -> VarianceGrid:
        """Return the grid whose nodes have one sigma each."""
        return cls(weight, factor, np.log(sigma)[:, None], np.ones((len(sigma), 1)))

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.weight)

    @property
    def n_points(self) -> int:
        """Number of pairs (Lambda, sigma)."""
        return self.log_sigma.size

    def start(self) -> tuple[float, np.ndarray]:
        """Return sigma and the sds of groups, shape (q,), near their posterior means."""
        sigma = np.exp(np.sum(self.conditional * self.log_sigma, axis=1))
        tau = sigma[:, None] * np.sqrt(np.sum(self.factor**2, axis=2))
        return float(self.weight @ sigma), self.weight @ tau

    def blocks(self, width: int) -> Iterator[tuple[slice, VarianceGrid]]:
        """Yield slices of nodes, and the part of the grid that belongs to them."""
        for first in range(0, self.n_nodes, max(1, width)):
            at = slice(first, first + max(1, width))
            yield at, VarianceGrid(self.weight[at], self.factor[at], self.log_sigma[at], self.conditional[at])


def grid_of_posterior(posterior: MarginalPosterior, model: MarginalModel, n_units: float) -> VarianceGrid:
    """Return the grid for a posterior of the marginal engine: finer nodes, or its own where it had to sample them."""
    own = VarianceGrid.of_draws(posterior.weight, posterior.factor, posterior.sigma)
    return own if posterior.n_chains else integrate_finely(model, own.start(), n_units)[0]


def integrate_finely(
    model: MarginalModel, start: tuple[float, np.ndarray], n_units: float
) -> tuple[VarianceGrid, float]:
    """Integrate the variance parameters with as many nodes as the number of units allows; return Pareto k too.

    Parameters
    ----------
    model : MarginalModel
    start : tuple of float and ndarray of shape (q,)
        Sigma and sds of groups where the search for the mode begins, in the units of the engine.
    n_units : float
        Groups that every node is asked about, or what costs as much.
    """
    if model.parameters.n_dim == 0:
        evaluated, weight, pareto_k = [model.evaluate(np.zeros((1, 0)))], np.ones(1), 0.0
    else:
        mode, precision = find_mode(model.value_and_gradient, model.parameters.theta_of(*start))
        proposal, broad = first_proposals(lambda theta: model.evaluate(theta).log_density, mode, precision)
        per_replicate = np.clip(ELEMENTS // (N_REPLICATES * n_units), *NODES_PER_REPLICATE)
        nodes = importance_sample(
            model.evaluate,
            proposal,
            lambda rounds: np.zeros((sum(len(points.theta) for points in rounds), 0)),  # Pareto k decides alone
            broad=broad,
            first_per_replicate=2 ** int(np.log2(per_replicate)),
            max_nodes=MAX_NODES,
        )
        evaluated, weight, pareto_k = nodes.evaluated, nodes.weight, nodes.pareto_k
    stride = 2 if evaluated[0].weight.shape[1] > MOST_SIGMAS else 1
    conditional = np.concatenate([points.weight[:, ::stride] for points in evaluated])
    kept = weight > 0
    grid = VarianceGrid(
        weight=weight[kept],
        factor=np.concatenate([points.variance.relative_factor for points in evaluated])[kept],
        log_sigma=np.concatenate([points.log_sigma[:, ::stride] for points in evaluated])[kept],
        conditional=(conditional / conditional.sum(axis=1, keepdims=True))[kept],
    )
    return grid, pareto_k


def expected(log_values: np.ndarray, log_weight: np.ndarray) -> np.ndarray:
    """Return the logarithm of weighted means over the last axis."""
    return logsumexp(log_values + log_weight, axis=-1)


def log_probability(probability):
    """Return logarithms; minus infinity for zero."""
    # a probability that underflows must not come back: far out, 1 / p(y_j | ...) may be as large as exp(20,000)
    with np.errstate(divide="ignore"):
        return np.log(probability)


def is_unresolved(probability):
    """Tell for which laws on a grid, last axis, the grid is too short or too coarse."""
    if probability.shape[2] == 1:
        return np.zeros(probability.shape[:2], dtype=bool)
    at_ends = probability[:, :, 0] + probability[:, :, -1]
    return (at_ends > MOST_AT_ENDS) | (probability.max(axis=2) > MOST_AT_ONE_POINT)


@dataclass(frozen=True)
class UnitScores:
    """Predictive densities of rows or groups at each node of Lambda, sigma integrated out; (n_nodes, n_units).

    Attributes
    ----------
    left_out : ndarray
        ``log p(y_i | y_-i, Lambda)``.
    seen : ndarray
        ``log p(y_i again | y, Lambda)``; of a group: of rows like its own in a new group.
    unresolved : ndarray of bool
        Whether the grid of sigma does not hold without the unit.
    """

    left_out: np.ndarray
    seen: np.ndarray
    unresolved: np.ndarray


@dataclass(frozen=True)
class LeftOut:
    """Scores of rows or groups, each (n_units,), of y in the units of the engine.

    Attributes
    ----------
    elpd : ndarray
        ``log p(y_i | y_-i)``.
    lpd : ndarray
        ``log p(y_i again | y)``.
    pareto_k : ndarray
        0 where the posterior was integrated again without the unit; infinite where the grid of sigma did not hold.
    """

    elpd: np.ndarray
    lpd: np.ndarray
    pareto_k: np.ndarray


def leave_out(scores: UnitScores, weight: np.ndarray) -> LeftOut:
    """Average densities at nodes over the posterior without each unit."""
    n_units = scores.left_out.shape[1]
    elpd, pareto_k = np.empty(n_units), np.empty(n_units)
    log_weight = log_probability(weight)
    for i in range(n_units):
        log_density = scores.left_out[:, i]
        smoothed, pareto_k[i] = smoothed_weights(log_weight - log_density)
        elpd[i] = expected(log_density, log_probability(smoothed))
        if smoothed @ scores.unresolved[:, i] > UNRESOLVED_SHARE:
            pareto_k[i] = np.inf
    return LeftOut(elpd, expected(scores.seen.T, log_weight), pareto_k)


def refit(scores: LeftOut, good_k: float, score_again: Callable[[int], tuple[float, float]]) -> LeftOut:
    """Replace the scores of units whose Pareto k is too large.

    Parameters
    ----------
    scores : LeftOut
    good_k : float
    score_again : callable
        Maps the number of a unit to ``log p(y_i | y_-i)`` from a posterior that was integrated without it, and to the
        Pareto k of that posterior.
    """
    elpd, pareto_k = scores.elpd.copy(), scores.pareto_k.copy()
    for i in np.flatnonzero(pareto_k > good_k):
        elpd[i], refitted_k = score_again(int(i))
        if refitted_k <= PARETO_K_THRESHOLD:
            pareto_k[i] = 0.0
    return LeftOut(elpd, scores.lpd, pareto_k)


def largest_good_k(n_nodes: int) -> float:
    """Return the largest Pareto k with which a mean over so many nodes is reliable (Vehtari et al. 2024)."""
    return min(1 - 1 / np.log10(n_nodes), PARETO_K_THRESHOLD) if n_nodes >= FEWEST_NODES else PARETO_K_THRESHOLD
