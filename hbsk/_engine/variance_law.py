"""The law of the variance parameters themselves, finer than the nodes that everything else is averaged over.

Predictions and coefficients are means over nodes, and few nodes are enough for those. Ends of intervals, sds and draws
of sigma, group sds and correlations want more: they come from a polynomial fitted to the log density at the nodes where
that holds, as where groups are many, and from many more nodes where those are cheap, as where groups are few. Found
when first asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from hbsk._engine.integrate import MAX_ROUNDS, N_REPLICATES, Nodes, importance_sample
from hbsk._engine.log_density_surface import LogDensitySurface, fit_surface
from hbsk._engine.marginal import MarginalModel, MarginalPoints, joined
from hbsk._engine.mode_search import find_mode
from hbsk._engine.node_algebra import conditional_quantile, systematic_resample
from hbsk._engine.node_placement import (
    cost_of_node,
    has_many_dimensions,
    monitored_values,
    most_nodes,
    place_nodes,
    would_go_on,
)
from hbsk._engine.proposals import proposals
from hbsk._engine.propriety import Tails
from hbsk._engine.settings import DEFAULT, IntegrationSettings
from hbsk._engine.threads import one_thread_each

# Common columns from which linear algebra would start threads for every node: on two busy cores a fit with 60 columns
# took thirty times as long with them.
COLUMNS_FOR_THREADS = 32
# Above it draws alone, of which few may be wanted, do not have fine nodes placed.
DEAR_NODES = 10_000
# Draws times the cost of a node up to which the model is evaluated at every draw: half a second.
EVALUATED_DRAWS = 1e7
# Errors of a surface, root mean square, that its quantiles do not show (measured: 0.036 puts ends off by 0.017 sd, 0.12
# by 0.08), and that are still better than the nodes alone; and the same of the share of weight that is misplaced, a
# hundredth of which, all in one tail, puts its end off by 0.18 sd.
CLOSE = (0.05, 0.002)
# Nodes of the first round times what one costs, of all rounds, and bounds of the first.
FIRST_ROUND, ALL_ROUNDS = 2e6, 2e8
FIRST_NODES, MOST_NODES = (512, 8192), 32_000
ERROR_TARGET = 0.01
# Values of sigma for each node.
SIGMAS = 4


@dataclass(frozen=True)
class VariancePointsSample:
    """Weighted points of the variance parameters.

    Attributes
    ----------
    nodes : ndarray of shape (n_nodes, d)
        Values of theta.
    node : ndarray of shape (n,), dtype int
        Which of them each point has.
    log_sigma : ndarray of shape (n,)
    weight : ndarray of shape (n,)
        Summing to 1.
    replicate : ndarray of shape (n,), dtype int
    """

    nodes: np.ndarray
    node: np.ndarray
    log_sigma: np.ndarray
    weight: np.ndarray
    replicate: np.ndarray

    @property
    def theta(self) -> np.ndarray:
        """Theta of each point, (n, d)."""
        return self.nodes[self.node]


@dataclass(frozen=True)
class VarianceLaw:
    """The posterior of (theta, log sigma).

    Attributes
    ----------
    model : MarginalModel
    start : ndarray of shape (d,)
        Where the search for the mode begins: the best of the nodes.
    surface : LogDensitySurface or None
        Where it is to be used.
    tails : Tails
        Which moments exist.
    kept : VariancePointsSample or None
        Points that stand for it, where they could not be found again at little cost.
    """

    model: MarginalModel
    start: np.ndarray
    surface: LogDensitySurface | None
    tails: Tails
    kept: VariancePointsSample | None = None

    def __getstate__(self) -> dict:
        """Leave what can be computed again out of a pickle."""
        return {name: value for name, value in vars(self).items() if name != "sample"}

    @cached_property
    def sample(self) -> VariancePointsSample | None:
        """Points that stand for the law, always the same; None where finer nodes leave floating point."""
        if self.kept is not None:
            return self.kept
        if self.surface is None:
            try:
                with _calmly(self.model):
                    sample = _sample_of(fine_nodes(self.model, self.start, self.tails))
            except np.linalg.LinAlgError:
                return None
            return sample if np.isfinite(sample.log_sigma @ sample.weight) else None
        points, weight, replicate = self.surface.quasi_random_points()
        theta, log_sigma = self._split(points)
        return VariancePointsSample(theta, np.arange(len(theta)), log_sigma, weight, replicate)

    @property
    def is_free(self) -> bool:
        """Whether points of it are there, or are those of a polynomial."""
        return self.surface is not None or self.kept is not None

    @property
    def is_at_hand(self) -> bool:
        """Whether points of it are there, or are found in no time beside draws of group effects; whatever was asked."""
        return self.is_free or (cost_of_node(self.model) <= DEAR_NODES and self.sample is not None)

    def draw(self, n_draws: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return draws of theta (n_draws, d) and log sigma (n_draws,); from a surface, no two are the same."""
        if self.surface is None:
            assert self.sample is not None  # who asks has looked: `is_at_hand`
            at = systematic_resample(self.sample.weight, n_draws, rng)
            return self.sample.nodes[self.sample.node[at]], self.sample.log_sigma[at]
        points, weight = self.surface.points(rng.standard_normal((4 * n_draws, len(self.surface.centre))))
        return self._split(points[systematic_resample(weight, n_draws, rng)])

    def can_evaluate(self, n_draws: int) -> bool:
        """Whether the model can be evaluated at every draw."""
        return n_draws * cost_of_node(self.model) <= EVALUATED_DRAWS

    def points(self, theta: np.ndarray) -> MarginalPoints:
        """Return the model at points, evaluated in stretches that memory holds."""
        with _calmly(self.model):
            return joined([self.model.evaluate(part) for part in np.array_split(theta, 1 + len(theta) // 500)])

    def _split(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.model.parameters.integrated:
            return points[:, :-1], points[:, -1]
        sigma = self.model.parameters.points(points).sigma
        assert sigma is not None  # it is a parameter
        return points, np.log(sigma)


@contextmanager
def _calmly(model: MarginalModel) -> Iterator[None]:
    """Let floats overflow, since what comes of it has no weight, and start no threads for matrices of many columns."""
    many = model.sums.n_common >= COLUMNS_FOR_THREADS or has_many_dimensions(model)
    with one_thread_each() if many else nullcontext(), np.errstate(all="ignore"):
        yield


def variance_law(
    model: MarginalModel,
    nodes: Nodes,
    points: MarginalPoints,
    tails: Tails,
    settings: IntegrationSettings = DEFAULT,
    *,
    finer: bool = True,
) -> VarianceLaw | None:
    """Return the law of the variance parameters, or None where the nodes are the best there is.

    Parameters
    ----------
    model : MarginalModel
    nodes : Nodes
    points : MarginalPoints
        The nodes, evaluated.
    tails : Tails
    settings : IntegrationSettings, optional
    finer : bool, default=True
        Whether more nodes are placed where they are not dear. Where they never are, a surface need only be better than
        the nodes there are: `settings.rough_surface`.
    """
    cost, surface = cost_of_node(model), None
    finer = finer and cost <= settings.dearest_nodes
    if cost > settings.cheap_nodes:
        grid = (points.log_sigma, points.weight) if model.parameters.integrated else ()
        surface = fit_surface(nodes.theta, points.log_density, nodes.weight, *grid)
        largest_error, most_misplaced = CLOSE if finer else settings.rough_surface
        if surface is not None and not (surface.error < largest_error and surface.misplaced < most_misplaced):
            surface = None
    if surface is None and not finer:
        return None
    return VarianceLaw(model, nodes.theta[np.argmax(nodes.weight)], surface, tails)


def law_of_fine_nodes(model: MarginalModel, nodes: Nodes, tails: Tails) -> VarianceLaw:
    """Return the law that many nodes stand for, which were weighed by what costs less than the model.

    Parameters
    ----------
    model : MarginalModel
    nodes : Nodes
    tails : Tails
    """
    return VarianceLaw(model, nodes.theta[np.argmax(nodes.weight)], None, tails, _sample_of(nodes))


def law_of_many(
    law: VarianceLaw, start: np.ndarray, nodes: Nodes, settings: IntegrationSettings = DEFAULT
) -> VarianceLaw:
    """Return the law that stands on all nodes of a fit, as far as finer ones would be no more than those.

    Parameters
    ----------
    law : VarianceLaw
    start : ndarray of shape (d,)
        Where the fit's search for the mode began, so that the same nodes are found again.
    nodes : Nodes
        All of the fit.
    settings : IntegrationSettings, optional
    """
    if law.surface is not None or not _fits_are_fine(law.model) or settings != DEFAULT:
        return law
    law = replace(law, start=start)
    if cost_of_node(law.model) <= DEAR_NODES and not would_go_on(law.model, nodes, settings, ERROR_TARGET):
        vars(law)["sample"] = _sample_of(nodes)
    return law


def _fits_are_fine(model: MarginalModel) -> bool:
    """Whether a fit places as many nodes as finer ones would be."""
    return has_many_dimensions(model) and most_nodes(model, DEFAULT) >= np.prod(_fine_rounds(model))


def _fine_rounds(model):
    """Return the number of fine nodes in the first round, and of rounds of that size."""
    cost = cost_of_node(model)
    first = N_REPLICATES * 2 ** int(np.log2(np.clip(FIRST_ROUND / cost, *FIRST_NODES) / N_REPLICATES))
    return first, min(MAX_ROUNDS, int(min(ALL_ROUNDS / cost, MOST_NODES)) // first)


def fine_nodes(model: MarginalModel, start: np.ndarray, tails: Tails) -> Nodes:
    """Integrate the variance parameters with as many nodes as cost next to nothing."""
    if _fits_are_fine(model):
        return place_nodes(model, start, tails, DEFAULT, ERROR_TARGET)
    mode, precision = find_mode(model.value_and_gradient, start)
    drawn_from = proposals(model, mode, precision)
    return importance_sample(
        model.evaluate,
        drawn_from.first,
        monitored_values(tails),
        broad=drawn_from.broad,
        first_per_replicate=_fine_rounds(model)[0] // N_REPLICATES,
        max_nodes=int(min(ALL_ROUNDS / cost_of_node(model), MOST_NODES)),
        error_target=ERROR_TARGET,
        refit=drawn_from.refit,
    )


def _sample_of(nodes: Nodes) -> VariancePointsSample:
    """Give each node several values of sigma, at evenly spaced levels of its law given the node."""
    grid = np.concatenate([points.log_sigma for points in nodes.evaluated])
    conditional = np.concatenate([points.weight for points in nodes.evaluated])
    n_sigmas = SIGMAS if grid.shape[1] > 1 else 1
    log_sigma = conditional_quantile(grid, conditional, (np.arange(n_sigmas) + nodes.spare[:, None]) / n_sigmas)
    # nodes without weight may lie where a float ends, and zero times infinity is NaN
    counted = nodes.weight > 0
    return VariancePointsSample(
        nodes.theta[counted],
        np.repeat(np.arange(counted.sum()), n_sigmas),
        log_sigma[counted].ravel(),
        np.repeat(nodes.weight[counted] / n_sigmas, n_sigmas),
        np.repeat(nodes.replicate[counted], n_sigmas),
    )
