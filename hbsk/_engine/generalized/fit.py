"""From responses and priors to weighted nodes of (b, theta)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from hbsk._engine.fit import engine_common_prior, own_errors
from hbsk._engine.generalized.cells import Cells
from hbsk._engine.generalized.data import GeneralizedScaling, Responses, standardise_responses
from hbsk._engine.generalized.inner import EffectMoments
from hbsk._engine.generalized.model import GeneralizedModel, GeneralizedPoints
from hbsk._engine.generalized.proposal import MANY_COLUMNS, JointProposal, joint_proposals
from hbsk._engine.generalized.propriety import generalized_tails
from hbsk._engine.generalized.search import JointMode, find_joint_mode, pseudo_inverse
from hbsk._engine.integrate import N_REPLICATES, PARETO_K_ADAPT, Nodes, importance_sample
from hbsk._engine.marginal import joined
from hbsk._engine.node_placement import FEW_GROUPS
from hbsk._engine.priors import EnginePriors
from hbsk._engine.proposals import NODES_PER_DIMENSION
from hbsk._engine.propriety import Tails
from hbsk._engine.settings import DEFAULT, IntegrationSettings
from hbsk._engine.variance_parameters import VarianceParameters
from hbsk._engine.varying_location import locate

# Points of the quadrature on each axis, by number of varying columns; the last for more.
POINTS_PER_AXIS = (1, 7, 5, 4)
# For counts with a varying intercept alone, where points cost little; and of few cells in very few groups: sds may
# be large. (Eighty such designs against dense grids: ends of coefficients are off by 0.03 at most instead of 0.07.)
POINTS_OF_COUNTS, POINTS_OF_FEW_COUNTS = 11, 19
# For binary rows of few to a group, whose conditional laws are far from normal.
POINTS_OF_SMALL_GROUPS, SMALL_GROUP = 15, 3.0
# For a varying intercept and slope of very few groups, whose sds may be so large that laws are cut off, up to so many
# cells, where points cost little. (Groups of nothing but successes or failures: with the 7 that differences of log
# densities ask for, their sds are up to 3.5 % too small, 14 % at nodes of large sds, and ends of intervals off by 0.2
# of them; with these by 0.5 % and 2 %, 0.14 at most. Fits take a third longer.)
POINTS_OF_VERY_FEW, FEW_CELLS = 11, 1_000
# Of all axes together, beyond which no finer rule is tried.
MOST_POINTS = 130
# Nodes of the first round by numbers of groups, and of many columns or of several variance parameters and few groups.
GROUPS, NODES, NODES_OF_WIDE = (200, 1_000), (256, 128, 64), 1024
# Groups below which sds between groups may be anything, and coefficients have laws that hang on them; the share of the
# error target that is let pass there. (Two to eight groups, dense grids: ends of coefficients off by 0.4 sds with 256
# nodes, 0.05 with these.)
VERY_FEW_GROUPS, OF_VERY_FEW = 11, 0.4
# Share of effective nodes from which on more of the same are as good as others.
EFFICIENT = 0.4
# Error of a difference of log densities that is let pass, so many sds of theta from its mode: where it grows evenly the
# mean of theta is off by a quarter of it, in posterior sds. Groups that are looked at.
FINE, LOOKED_AT, GROUPS_LOOKED_AT = 0.04, 2.0, 500


@dataclass(frozen=True)
class GeneralizedNodes:
    """Weighted points (b, theta) that stand for a posterior, in engine units.

    Attributes
    ----------
    model : GeneralizedModel
    scaling : GeneralizedScaling
    mode : JointMode
    proposal : JointProposal
        The first.
    nodes : Nodes
        Importance sampling's own record.
    points : GeneralizedPoints
        The nodes, evaluated, with moments of group effects.
    reliable : bool
        Whether Pareto k and the Monte Carlo error met their targets.
    tails : Tails
        Which moments do not exist.
    """

    model: GeneralizedModel
    scaling: GeneralizedScaling
    mode: JointMode
    proposal: JointProposal
    nodes: Nodes
    points: GeneralizedPoints
    reliable: bool
    tails: Tails


def generalized_model(responses: Responses, priors: EnginePriors) -> tuple[GeneralizedModel, GeneralizedScaling]:
    """Return the model in engine units, and the scaling that leads there.

    Parameters
    ----------
    responses : Responses
    priors : EnginePriors
        In the user's units; there is no residual sd.
    """
    cells, scaling = standardise_responses(responses)
    columns = scaling.columns
    mean, precision = engine_common_prior(priors, columns, scaling.has_intercept)
    q = cells.n_varying
    group_sd = [
        sd * z if isinstance(sd, float) else sd.scaled(z)
        for sd, z in zip(priors.group_sd[:q], columns.z_scale[:q], strict=True)
    ]
    blocks, etas = (priors.blocks, priors.lkj_eta) if q else ((), ())
    location = None
    if q:
        centre = np.zeros(q) if priors.centre is None else priors.centre
        location = locate(
            (columns.z_centre - centre) / columns.z_scale,
            columns.varying_intercept,
            blocks,
            etas,
            [not isinstance(sd, float) and not sd.is_bounded for sd in group_sd],
        )
    parameters = VarianceParameters(1.0, group_sd, blocks, etas, np.ones(q), location)
    model = GeneralizedModel(cells, parameters, scaling.sign * mean, precision, points_per_axis(cells))
    small = small_sds(model, location)
    settled = replace(model, parameters=VarianceParameters(1.0, group_sd, blocks, etas, small, location))
    vars(settled)["pooled"] = model.pooled
    return settled, scaling


def points_per_axis(cells: Cells) -> int:
    """Return the points of the quadrature on each axis."""
    are_few = cells.n_groups < VERY_FEW_GROUPS and cells.n_cells <= FEW_CELLS
    if cells.varies_by_intercept and cells.family == "poisson":
        return POINTS_OF_FEW_COUNTS if are_few else POINTS_OF_COUNTS
    if cells.n_varying == 2 and are_few:
        return POINTS_OF_VERY_FEW
    if cells.n_varying == 1 and cells.family == "binomial":
        per_group = np.add.reduceat(cells.size, cells.starts)
        if np.median(per_group) <= SMALL_GROUP:
            return POINTS_OF_SMALL_GROUPS
    return POINTS_PER_AXIS[min(cells.n_varying, len(POINTS_PER_AXIS) - 1)]


def small_sds(model: GeneralizedModel, location) -> np.ndarray:
    """Return sds near which group effects begin to be seen: as in `hbsk._engine.fit`, by weights without them."""
    q, n_groups = model.cells.n_varying, model.cells.n_groups
    if not q:
        return np.ones(0)
    to_engine = np.eye(q) if location is None else location.to_engine
    information = np.sum(to_engine * (model.pooled.start.zwz.sum(axis=2) @ to_engine), axis=0) / n_groups
    return 2.0 * (np.maximum(information, 1e-12) * np.sqrt(max(n_groups, 2) / 2)) ** -0.5


def integrate_generalized(
    model: GeneralizedModel,
    scaling: GeneralizedScaling,
    settings: IntegrationSettings = DEFAULT,
    names: Sequence[str] | None = None,
) -> GeneralizedNodes:
    """Find the joint mode, place nodes and weigh them.

    Raises
    ------
    ImproperPosteriorError
        Where there is no posterior, with the reason; ``names`` are those of the varying columns, for it.
    ValueError
        Where numbers leave floating point on the way to it.
    """
    tails = generalized_tails(model, names)
    with own_errors():
        model, mode = resolved(model)
        precision = model.prior_precision
        first, broad = joint_proposals(
            lambda psi: model.evaluate(psi, mode.start).log_density, mode, model.parameters, precision
        )
        nodes = importance_sample(
            lambda psi: model.evaluate(psi, mode.start, moments=True),
            first,
            monitored,
            first_per_replicate=first_nodes(model) // N_REPLICATES,
            max_nodes=settings.max_nodes,
            error_target=settings.error_target * (OF_VERY_FEW if has_very_few_groups(model) else 1.0),
            salt=settings.salt,
            refit=Sequel(first, broad, partial(model.common_gradient, start=mode.start) if is_wide(model) else None),
            grows=not is_wide(model),
        )
        reliable = nodes.is_reliable(settings.error_target, settings.pareto_k_limit)
        return GeneralizedNodes(model, scaling, mode, first, nodes, join_points(nodes.evaluated), reliable, tails)


class Sequel:
    """What further nodes are drawn from.

    The same law where it fits and nodes are too few; where many columns leave too few effective nodes to fit a law to,
    the one nearest by gradients; a broad one; kernels. (Binary, 120 rows and 40 to 45 columns: the first 1,024 nodes
    have an effective size of 10 to 40, those nearest one of 40 to 100.)
    """

    def __init__(
        self,
        first: JointProposal,
        broad: JointProposal | None,
        gradient: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        self.first, self.broad, self.gradient = first, broad, gradient

    def __call__(self, nodes: Nodes) -> JointProposal:
        """Return the next proposal after weighted nodes."""
        effective = 1.0 / np.sum(nodes.weight**2)
        if nodes.pareto_k <= PARETO_K_ADAPT and effective > EFFICIENT * len(nodes.weight):
            return self.first
        if self.gradient is not None and effective < NODES_PER_DIMENSION * nodes.theta.shape[1]:
            self.first, self.gradient = self.first.nearest(self.gradient), None
            if self.broad is not None:
                self.broad = replace(self.broad, common=self.first.common)
            return self.first
        if self.broad is not None:
            broad, self.broad = self.broad, None
            return broad
        return self.first.refitted(nodes)


def resolved(model: GeneralizedModel) -> tuple[GeneralizedModel, JointMode]:
    """Return the model with a quadrature that is fine enough where its posterior is, and its joint mode."""
    begin = None
    while True:
        mode = find_joint_mode(model, begin)
        q = model.cells.n_varying
        finer = model.points_per_axis + (4 if q == 1 else 2)
        if not model.parameters.n_dim or finer**q > MOST_POINTS or is_fine(model, mode, 2 * finer - 3):
            return model, mode
        model, begin = replace(model, points_per_axis=finer), (mode.psi, mode.start)


def is_fine(model: GeneralizedModel, mode: JointMode, finer: int) -> bool:
    """Whether a finer quadrature gives the same differences of the log density, about the mode of theta.

    A part of many groups stands for all of them.
    """
    p = model.n_common
    step = max(1, model.cells.n_groups // GROUPS_LOOKED_AT)
    few, start = model, mode.start
    if step > 1:
        few, start = model.thinned(step), mode.start.of(slice(None, None, step))
    covariance = pseudo_inverse(mode.precision)
    along = covariance[:, p:] / np.sqrt(np.maximum(np.diag(covariance)[p:], 1e-300))
    psi = mode.psi + LOOKED_AT * np.concatenate([np.zeros((1, model.n_dim)), along.T, -along.T])
    error = few.log_ratios(psi, start, replace(few, points_per_axis=finer).rule)
    return bool(step * np.max(np.abs(error - error[0])) < FINE)


def is_wide(model: GeneralizedModel) -> bool:
    """Whether common columns are so many that rounds of equal size adapt better."""
    return model.n_common > MANY_COLUMNS


def has_very_few_groups(model: GeneralizedModel) -> bool:
    """Whether groups leave the sds between them so open that tails of all laws hang on these."""
    return bool(model.parameters.n_dim) and model.cells.n_groups < VERY_FEW_GROUPS


def first_nodes(model: GeneralizedModel) -> int:
    """Return the nodes of the first round, a power of two: few for many groups, whose laws are nearly normal."""
    if is_wide(model):
        return NODES_OF_WIDE
    if has_very_few_groups(model) or (model.cells.n_groups < FEW_GROUPS and model.parameters.n_dim > 1):
        return NODES_OF_WIDE
    at = np.searchsorted(GROUPS, model.cells.n_groups, side="right")
    return NODES[at]


def monitored(rounds: list[GeneralizedPoints]) -> np.ndarray:
    """Return the values, (n_nodes, k), whose Monte Carlo error counts: coefficients, sds and correlations."""
    blocks = []
    for points in rounds:
        factor = points.variance.correlation_factor
        row, column = np.tril_indices(factor.shape[1], -1)
        correlation = np.einsum("mij,mij->mi", factor[:, row], factor[:, column])
        blocks.append(np.concatenate([points.common, points.variance.relative_sd, correlation], axis=1))
    together = np.concatenate(blocks)
    return together[:, np.ptp(together, axis=0) > 0]


def join_points(rounds: list[GeneralizedPoints]) -> GeneralizedPoints:
    """Return the points of several rounds as one."""
    of_groups = zip(*(points.effects for points in rounds), strict=True)  # these have the points second
    effects = EffectMoments(*(np.concatenate(parts, axis=1) for parts in of_groups))
    return replace(joined([replace(points, effects=None) for points in rounds]), effects=effects)
