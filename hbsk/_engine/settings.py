"""How far the variance parameters are integrated: one object, handed down from the fit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class IntegrationSettings:
    """Targets and limits of the integration over variance parameters.

    Attributes
    ----------
    error_target : float
        Monte Carlo error of every variance parameter, in posterior sds; an ESS of 400.
    pareto_k_limit : float
        Above it importance sampling is not reliable.
    cells_for_quadrature : int
        Groups that differ in design up to which one unknown sd is integrated by quadrature: some ten thousand
        evaluations.
    nodes_per_replicate : tuple of int
        Fewest and most in the first round.
    least_for_columns : int
        Nodes of a replicate that common columns, each node of which costs as much as p^3 / 8 groups, leave at least,
        for the tails of group sds.
    max_nodes, max_nodes_of_many : int
        Of all rounds; and in many dimensions, where rounds are equal.
    cheap_nodes, dearest_nodes : int
        What a node costs, in groups of different design: up to the first 4,096 nodes take a tenth of a second and no
        surface is wanted, above the last they take ten and are not placed.
    rough_surface : tuple of float
        Largest error of the log density, and largest probability that is misplaced, of a surface where no more nodes
        are placed.
    salt : int
        Chooses among the quasi-random points.
    """

    error_target: float = 0.05
    pareto_k_limit: float = 0.7
    cells_for_quadrature: int = 100
    nodes_per_replicate: tuple[int, int] = (4, 32)
    least_for_columns: int = 32
    max_nodes: int = 16_000
    max_nodes_of_many: int = 24_576
    cheap_nodes: int = 500
    dearest_nodes: int = 200_000
    rough_surface: tuple[float, float] = (0.15, 0.02)
    salt: int = 0


DEFAULT = IntegrationSettings()
