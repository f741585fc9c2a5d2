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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from hbsk._engine.crossed import CrossedModel, integrate_crossed
from hbsk._engine.integrate import N_REPLICATES, importance_sample
from hbsk._engine.marginal import MarginalModel, MarginalPoints, joined
from hbsk._engine.mode_search import find_mode
from hbsk._engine.node_algebra import thinned
from hbsk._engine.pareto import smoothed_weights
from hbsk._engine.propriety import Tails
from hbsk._engine.scaling import ColumnScaling
from hbsk._engine.split_t import first_proposals
from hbsk._posterior.crossed import CrossedPosterior
from hbsk._posterior.diagnostics import PARETO_K_THRESHOLD
from hbsk._posterior.draws import DrawsPosterior
from hbsk._posterior.nodes import MarginalPosterior

# Nodes times groups, and the bounds of the nodes that one of the engine's replicates draws. The sum over groups of
# sleepstudy (18) and radon (85) is then within 0.02 of its limit.
ELEMENTS = 100_000
NODES_PER_REPLICATE = (4, 128)
MAX_NODES = 12_000
# Nodes times rows for which those of several factors are looked at, and the number that are left of many in any case.
NODES_BY_ROWS, LEAST_NODES = 5_000_000, 64
# Units of several factors that are left out by integrating again, which costs as much as a fit.
MOST_REFITS = 50
# Of the fine grids of sigma that few rows need, every second point serves here.
MOST_SIGMAS = 30
# The grid was laid out for all data; without a unit, sigma must neither lie beyond its ends nor between its points.
MOST_AT_ENDS, MOST_AT_ONE_POINT = 1e-3, 0.6
UNRESOLVED_SHARE = 0.01
# With fewer nodes nothing is smoothed: they are a quadrature.
FEWEST_NODES = 25
# Range of the log densities of a unit over nodes, and so of the factors of their weights, that changes no tail. (Of the
# 73,421 rows of InstEval 3 have more; Pareto k of 32 nodes would send hundreds of them to refits.)
HARDLY_CHANGED = 0.5


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

    def thinned(self, n_nodes: int) -> VarianceGrid:
        """Return a grid with at most so many nodes that stand for the same law."""
        if self.n_nodes <= n_nodes:
            return self
        kept, weight = thinned(self.weight, n_nodes)
        return VarianceGrid(weight, self.factor[kept], self.log_sigma[kept], self.conditional[kept])

    def blocks(self, width: int) -> Iterator[tuple[slice, VarianceGrid]]:
        """Yield slices of nodes, and the part of the grid that belongs to them."""
        for first in range(0, self.n_nodes, max(1, width)):
            at = slice(first, first + max(1, width))
            yield at, VarianceGrid(self.weight[at], self.factor[at], self.log_sigma[at], self.conditional[at])


def grid_of_posterior(posterior: MarginalPosterior, model: MarginalModel, n_units: float) -> VarianceGrid:
    """Return the grid for a posterior of the marginal engine: finer nodes, or its own where it had to sample them."""
    own = VarianceGrid.of_draws(posterior.weight, posterior.factor, posterior.sigma)
    return own if posterior.n_chains else integrate_finely(model, own.start(), n_units)[0]


def most_nodes(cost: float) -> int:
    """Return how many nodes of several factors are looked at, by the cost of one in rows that it is asked about."""
    return max(int(NODES_BY_ROWS / max(cost, 1.0)), LEAST_NODES)


def grid_of_draws(posterior: DrawsPosterior, scalings: Sequence[ColumnScaling]) -> VarianceGrid:
    """Return NUTS draws of the variance parameters in the units of the engine.

    Parameters
    ----------
    posterior : DrawsPosterior
    scalings : sequence of ColumnScaling
        One for each factor, the first one of y too.
    """
    sigma = posterior.sigma / scalings[0].y_scale
    sigma = np.where(np.isnan(sigma), 1.0, sigma)  # known standard errors
    sizes = [part.shape[1] for part in posterior.group_sd]
    factor, starts = np.zeros((len(sigma), sum(sizes), sum(sizes))), np.cumsum([0, *sizes])
    for f, (start, q) in enumerate(zip(starts, sizes, strict=False)):
        relative_sd = posterior.group_sd[f] / sigma[:, None]
        lower = np.linalg.cholesky(posterior.correlation[f] + 1e-12 * np.eye(q))
        at = slice(start, start + q)
        of_priors = posterior.locations[f].of_priors
        factor[:, at, at] = scalings[f].engine_factor(relative_sd[:, :, None] * lower, of_priors)
    return VarianceGrid.of_draws(posterior.weight, factor, sigma)


def grid_of_factors(posterior: CrossedPosterior, cost: float) -> VarianceGrid:
    """Return the grid for a posterior of several grouping factors: its own nodes, fewer of them where they are dear.

    Parameters
    ----------
    posterior : CrossedPosterior
    cost : float
        Of one node, in rows that it is asked about.
    """
    kept, weight = np.arange(posterior.n_nodes), posterior.weight
    if posterior.n_nodes > most_nodes(cost):
        kept, weight = thinned(weight, most_nodes(cost))
    if posterior.n_chains:
        return VarianceGrid.of_draws(weight, posterior.factor[kept], posterior.sigma[kept])
    return _grid_of_points(posterior.model.evaluate(posterior.theta[kept]), weight)


def integrate_again(model: MarginalModel, start: tuple[float, np.ndarray]) -> tuple[VarianceGrid, float]:
    """Integrate the variance parameters of a model without one unit; return Pareto k too.

    Parameters
    ----------
    model : MarginalModel
    start : tuple of float and ndarray of shape (q,)
        Where the search for the mode begins, as in `integrate_finely`.
    """
    if not isinstance(model, CrossedModel):
        return integrate_finely(model, start, max(model.sums.n_groups, 1))
    found = integrate_crossed(model, Tails())
    return _grid_of_points(found.points, found.weight), found.pareto_k


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
    return _grid_of_points(joined(evaluated), weight), pareto_k


def _grid_of_points(points: MarginalPoints, weight: np.ndarray) -> VarianceGrid:
    kept = weight > 0
    stride = 2 if points.weight.shape[1] > MOST_SIGMAS else 1
    conditional = points.weight[kept, ::stride]
    return VarianceGrid(
        weight=weight[kept],
        factor=points.variance.relative_factor[kept],
        log_sigma=points.log_sigma[kept, ::stride],
        conditional=conditional / conditional.sum(axis=1, keepdims=True),
    )


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
        0 where the posterior was integrated again without the unit, or is the same without it; infinite where the grid
        of sigma did not hold.
    """

    elpd: np.ndarray
    lpd: np.ndarray
    pareto_k: np.ndarray


def leave_out(scores: UnitScores, weight: np.ndarray) -> LeftOut:
    """Average densities at nodes over the posterior without each unit."""
    log_weight = log_probability(weight)
    # of units that hardly change any weight, what is known of the posterior is known without them too: a bounded factor
    # leaves the tail of weights what it is
    elpd = -expected(-scores.left_out.T, log_weight)
    pareto_k = np.zeros(len(elpd))
    log_changed = log_weight - scores.left_out.T + elpd[:, None]
    pareto_k[np.sum(np.exp(log_changed) * scores.unresolved.T, axis=1) > UNRESOLVED_SHARE] = np.inf
    for i in np.flatnonzero(~(np.ptp(scores.left_out, axis=0) <= HARDLY_CHANGED)):
        log_density = scores.left_out[:, i]
        smoothed, pareto_k[i] = smoothed_weights(log_weight - log_density)
        elpd[i] = expected(log_density, log_probability(smoothed))
        if smoothed @ scores.unresolved[:, i] > UNRESOLVED_SHARE:
            pareto_k[i] = np.inf
    return LeftOut(elpd, expected(scores.seen.T, log_weight), pareto_k)


def refit(
    scores: LeftOut, good_k: float, score_again: Callable[[int], tuple[float, float]], most: int | None = None
) -> LeftOut:
    """Replace the scores of units whose Pareto k is too large.

    Parameters
    ----------
    scores : LeftOut
    good_k : float
    score_again : callable
        Maps the number of a unit to ``log p(y_i | y_-i)`` from a posterior that was integrated without it, and to the
        Pareto k of that posterior.
    most : int, optional
        Of the units, where each costs as much as a fit: those with the largest Pareto k.
    """
    elpd, pareto_k = scores.elpd.copy(), scores.pareto_k.copy()
    worst = np.argsort(-pareto_k, kind="stable")[:most]
    for i in np.sort(worst[pareto_k[worst] > good_k]):
        elpd[i], refitted_k = score_again(int(i))
        if refitted_k <= PARETO_K_THRESHOLD:
            pareto_k[i] = 0.0
    return LeftOut(elpd, scores.lpd, pareto_k)


def largest_good_k(n_nodes: int) -> float:
    """Return the largest Pareto k with which a mean over so many nodes is reliable (Vehtari et al. 2024)."""
    return min(1 - 1 / np.log10(n_nodes), PARETO_K_THRESHOLD) if n_nodes >= FEWEST_NODES else PARETO_K_THRESHOLD
