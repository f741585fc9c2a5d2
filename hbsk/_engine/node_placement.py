"""Nodes of the variance parameters: how many, drawn from which proposals, and until what is known how well."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hbsk._engine.integrate import MAX_ROUNDS, N_REPLICATES, PARETO_K_ADAPT, Nodes, importance_sample
from hbsk._engine.marginal import MarginalModel, MarginalPoints
from hbsk._engine.mode_search import find_mode
from hbsk._engine.proposals import MANY_DIMENSIONS, proposals
from hbsk._engine.propriety import HIGHEST_MOMENT, Tails
from hbsk._engine.settings import IntegrationSettings

# A node costs as much for p common columns, their eigenvalues and factors, as for p^3 / 8 groups.
CUBED_COLUMNS_PER_GROUP = 8
# Points times groups of a first round of nodes: many nodes cost nothing for few groups, few suffice for many.
FIRST_ROUND_ELEMENTS = 200_000
# With fewer groups the posterior is further from normal and nodes cost next to nothing: twice as many (sleepstudy: the
# smallest effective size is 15,000 instead of 2,800, for a seventh of the time).
FEW_GROUPS = 50
# Nodes of a replicate in the first round; and in many dimensions, where rounds are equal.
MOST_FIRST, MANY_FIRST = 64, 256
# Points that cost nothing beside a call, times groups of different design.
CHEAP_POINTS, CHEAP_ELEMENTS = 100, 10_000


def cost_of_node(model: MarginalModel) -> float:
    """Return what a node costs, in groups of different design."""
    return max(model.passes.n_cells, model.sums.n_common**3 / CUBED_COLUMNS_PER_GROUP, 1.0)


def points_are_cheap(model: MarginalModel) -> bool:
    """Whether points cost nothing beside calls."""
    return CHEAP_POINTS * cost_of_node(model) <= CHEAP_ELEMENTS


def has_many_dimensions(model: MarginalModel) -> bool:
    """Whether proposals are those of many dimensions, and all nodes are more than what is asked can wait for."""
    return model.parameters.n_dim >= MANY_DIMENSIONS


def place_nodes(
    model: MarginalModel,
    start: np.ndarray,
    tails: Tails,
    settings: IntegrationSettings,
    error_target: float | None = None,
) -> Nodes:
    """Find the mode, draw nodes about it and weigh them.

    Parameters
    ----------
    model : MarginalModel
    start : ndarray of shape (n_dim,)
        Where the search for the mode begins.
    tails : Tails
    settings : IntegrationSettings
    error_target : float, optional
        In the place of that of the settings. Nodes for a smaller one begin with those for a larger one.
    """
    mode, precision = find_mode(model.value_and_gradient, start, try_shorter=points_are_cheap(model))
    per_replicate, thorough = _first_round(model, settings)
    drawn_from = proposals(model, mode, precision, thorough=thorough)
    return importance_sample(
        model.evaluate,
        drawn_from.first,
        monitored_values(tails),
        broad=drawn_from.broad,
        first_per_replicate=per_replicate,
        max_nodes=settings.max_nodes_of_many if has_many_dimensions(model) else settings.max_nodes,
        error_target=settings.error_target if error_target is None else error_target,
        salt=settings.salt,
        refit=drawn_from.refit,
    )


def most_nodes(model: MarginalModel, settings: IntegrationSettings) -> int:
    """Return how many nodes of many dimensions `place_nodes` places at most."""
    of_a_round = N_REPLICATES * _first_round(model, settings)[0]
    return of_a_round * min(MAX_ROUNDS, settings.max_nodes_of_many // of_a_round)


def would_go_on(model: MarginalModel, nodes: Nodes, settings: IntegrationSettings, error_target: float) -> bool:
    """Whether `place_nodes` of many dimensions would have placed more nodes for a smaller error."""
    done = nodes.error <= error_target and nodes.pareto_k <= PARETO_K_ADAPT
    return not done and len(nodes.weight) < most_nodes(model, settings)


def _first_round(model, settings):
    """Return the nodes of a replicate in the first round, and whether proposals are looked for at many points."""
    low, high = settings.nodes_per_replicate
    high *= 2 if model.sums.n_groups < FEW_GROUPS else 1
    affordable = FIRST_ROUND_ELEMENTS / N_REPLICATES
    by_columns = affordable * CUBED_COLUMNS_PER_GROUP / max(model.sums.n_common, 1) ** 3
    high = min(high, max(int(by_columns), settings.least_for_columns))
    per_replicate = int(np.clip(affordable // max(model.sums.n_groups, 1), low, high))
    most_first = MANY_FIRST if has_many_dimensions(model) else MOST_FIRST
    # Sobol points are balanced in powers of two, each of them with its mirror image
    first = 2 ** int(np.log2(min(most_first, per_replicate * max(1, model.parameters.n_dim // 4))))
    return first, per_replicate > low


def monitored_values(tails: Tails) -> Callable[[list], np.ndarray]:
    """Return a function from evaluated rounds to the values whose Monte Carlo error counts."""

    def values(rounds: list[MarginalPoints]) -> np.ndarray:
        blocks = []
        for points in rounds:
            sigma = np.einsum("mg,mg->m", points.weight, points.sigma)
            sds = np.column_stack([sigma, sigma[:, None] * points.variance.relative_sd])
            # a sd whose variance does not exist has no finite error either; its logarithm has
            endless = np.append(tails.of_sigma(), tails.of_group_sds(sds.shape[1] - 1)) <= HIGHEST_MOMENT
            if tails.to_prior is not None:  # sds of theta hold several of those that the tails are known of
                endless[1:] = endless[1:].any()
            sds = np.where(endless, np.log(np.maximum(sds, 1e-300)), sds)
            row, column = np.tril_indices(sds.shape[1] - 1, -1)
            factor = points.variance.correlation_factor
            correlation = np.einsum("mij,mij->mi", factor[:, row], factor[:, column])
            blocks.append(np.concatenate([sds, correlation], axis=1))
        together = np.concatenate(blocks)
        return together[:, np.ptp(together, axis=0) > 0]

    return values
