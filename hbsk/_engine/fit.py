"""From group sums and priors to weighted nodes, by the marginal engine; the glue between its parts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from hbsk._engine.integrate import N_REPLICATES, Nodes
from hbsk._engine.marginal import MarginalModel, MarginalPoints, joined, map_arrays
from hbsk._engine.mode_search import find_mode
from hbsk._engine.node_algebra import thinned
from hbsk._engine.node_placement import has_many_dimensions, place_nodes, points_are_cheap
from hbsk._engine.priors import EnginePriors
from hbsk._engine.propriety import Tails, posterior_tails
from hbsk._engine.quadrature import WEIGHTS, score_nodes
from hbsk._engine.scaling import ColumnScaling, standardise
from hbsk._engine.settings import DEFAULT, IntegrationSettings
from hbsk._engine.sums import CentredSums, GroupSums
from hbsk._engine.threads import one_thread_each
from hbsk._engine.variance_law import COLUMNS_FOR_THREADS, VarianceLaw, law_of_many, variance_law
from hbsk._engine.variance_parameters import VarianceParameters
from hbsk._engine.varying_location import Location, locate

# Of many more groups that differ in design, this many find where the search for the mode begins.
MANY_CELLS = 10_000
# Of all nodes there so many stand for all of them: what is asked of a posterior costs as much for every node, and most
# have next to no weight.
MANY_KEPT = 2_048
# Shares of the sd between groups, common columns left aside, at which the search for the mode may begin; and ends of a
# fine grid, with the numbers of those that one sd has, or two have each.
START_SHARES = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.03, 0.01, 1e-3, 1e-4)
FINE_SHARES = (1.4, 0.2), {1: 24, 2: 7}
# The coordinate of a correlation: a third of its law lies beyond one.
START_CORRELATIONS = (-1.0, 0.0, 1.0)


@dataclass(frozen=True)
class IntegratedNodes:
    """Weighted points that stand for the posterior of the variance parameters, and how they were found.

    Attributes
    ----------
    points : MarginalPoints
    weight : ndarray of shape (n_nodes,)
    replicate : ndarray of shape (n_nodes,), dtype int
        Which of the independent randomisations a node belongs to.
    pareto_k : float
        NaN where the nodes were sampled.
    level : ndarray of shape (n_nodes,)
        Probability level at which sigma is fixed at each node.
    tails : Tails
    reliable : bool
        Whether Pareto k and the Monte Carlo error met their targets.
    nodes : Nodes or None
        Importance sampling's own record, where it ran.
    law : VarianceLaw or None
    by_quadrature : bool
    n_chains : int
        Chains of equal length that the nodes are, where they were sampled; otherwise 0.
    by_probe : ndarray of shape (n_nodes, n_probes) or None
        Log-determinants by each probe alone, where they are estimated and the model was not evaluated at the nodes.
    """

    points: MarginalPoints
    weight: np.ndarray
    replicate: np.ndarray
    pareto_k: float
    level: np.ndarray
    tails: Tails
    reliable: bool = True
    nodes: Nodes | None = None
    law: VarianceLaw | None = None
    by_quadrature: bool = False
    n_chains: int = 0
    by_probe: np.ndarray | None = None


def marginal_model(collected: CentredSums, priors: EnginePriors) -> tuple[MarginalModel, ColumnScaling]:
    """Return the model in engine units, and the scaling that leads there."""
    known = priors.residual_sd is None
    sums, scaling = standardise(collected, known_standard_error=known)
    mean, precision = engine_common_prior(priors, scaling, collected.has_intercept)
    residual_sd, group_sd = priors.scaled_sds(scaling.y_scale, scaling.z_scale)
    location = None
    if sums.n_varying:
        centre = np.zeros(sums.n_varying) if priors.centre is None else priors.centre
        location = locate(
            (scaling.z_centre - centre) / scaling.z_scale,
            scaling.varying_intercept,
            priors.blocks,
            priors.lkj_eta,
            [not isinstance(sd, float) and not sd.is_bounded for sd in group_sd],
        )
    small = small_sds(sums, location)
    parameters = VarianceParameters(residual_sd, group_sd, priors.blocks, priors.lkj_eta, small, location)
    return MarginalModel(sums, parameters, mean, precision), scaling


def small_sds(sums: GroupSums, location: Location | None = None) -> np.ndarray:
    """Return relative sds near which group effects begin to be seen.

    The variance of J group effects seen with error variance 1 / A is known to about sqrt(2 / J) / A; twice the sd
    of that gave the highest efficiency of the proposal over the data sets of hbsk.datasets (0.5 to 10 were tried).
    """
    if not sums.n_groups:
        return np.ones(sums.n_varying)
    to_engine = np.eye(sums.n_varying) if location is None else location.to_engine
    information = np.sum(to_engine * (sums.zz.sum(axis=2) @ to_engine), axis=0) / sums.n_groups
    return 2.0 * (np.maximum(information, 1e-12) * np.sqrt(max(sums.n_groups, 2) / 2)) ** -0.5


def engine_common_prior(priors: EnginePriors, scaling: ColumnScaling, has_intercept: bool):
    """Return mean and precision of the common coefficients in engine units."""
    mean, sd = priors.common_mean.copy(), priors.common_sd
    if has_intercept:
        mean[0] -= scaling.y_centre
    unit = (scaling.x_scale / scaling.y_scale)[scaling.kept]
    return mean[scaling.kept] * unit, (sd[scaling.kept] * unit) ** -2.0


def integrate_model(
    model: MarginalModel, names: Sequence[str] | None = None, settings: IntegrationSettings = DEFAULT
) -> IntegratedNodes:
    """Find the mode, place nodes and weigh them.

    Raises
    ------
    ImproperPosteriorError
        Where there is no posterior, with the reason.
    ValueError
        Where numbers leave floating point on the way to it.
    """
    tails = posterior_tails(model, names)
    # matrices that are large enough for linear algebra to start threads, which wait for each other on busy cores
    many = model.sums.n_common >= COLUMNS_FOR_THREADS or has_many_dimensions(model)
    with one_thread_each() if many else nullcontext(), own_errors():
        return _integrate(model, tails, settings)


@contextmanager
def own_errors():
    """Let floats overflow on the way, since what comes of it is looked at, and say in our words what failed inside."""
    try:
        with np.errstate(over="ignore", divide="ignore", invalid="ignore", under="ignore"):
            yield
    except (np.linalg.LinAlgError, FloatingPointError) as error:
        raise ValueError(
            f"The posterior of the standard deviations could not be integrated ({error}): its numbers leave floating "
            "point. Priors on them with less mass at zero and far out (HalfNormal, HalfStudentT), Normal priors in "
            "place of Flat ones, or inference='nuts' may help."
        ) from error


def _integrate(model: MarginalModel, tails: Tails, settings: IntegrationSettings) -> IntegratedNodes:
    quadrature = _by_quadrature(model, settings.cells_for_quadrature)
    if quadrature is not None:
        points, weight = quadrature
        return IntegratedNodes(points, weight, np.zeros(len(weight), dtype=int), 0.0, weight, tails, by_quadrature=True)
    start = _start(model)
    nodes = every = place_nodes(model, start, tails, settings)
    if has_many_dimensions(model) and len(nodes.weight) > MANY_KEPT:
        nodes = _thinned(nodes)
    points = joined(nodes.evaluated)
    law = variance_law(model, nodes, points, tails, settings)
    law = None if law is None else law_of_many(law, start, every, settings)
    return of_importance_sampling(nodes, points, tails, settings, law)


def of_importance_sampling(
    nodes: Nodes, points: MarginalPoints, tails: Tails, settings: IntegrationSettings, law: VarianceLaw | None
) -> IntegratedNodes:
    """Return what importance sampling found, and whether it met its targets."""
    return IntegratedNodes(
        points=points,
        weight=nodes.weight,
        replicate=nodes.replicate,
        pareto_k=nodes.pareto_k,
        level=nodes.spare,
        tails=tails,
        reliable=nodes.is_reliable(settings.error_target, settings.pareto_k_limit),
        nodes=nodes,
        law=law,
    )


def _thinned(nodes: Nodes) -> Nodes:
    """Return fewer nodes that stand for the same law."""
    at, weight = thinned(nodes.weight, MANY_KEPT)
    kept = map_arrays(lambda values: values[at], joined(nodes.evaluated))
    parts = {name: getattr(nodes, name)[at] for name in ("theta", "replicate", "spare")}
    return replace(nodes, evaluated=[kept], weight=weight, **parts)


def sample_model(model: MarginalModel, found: IntegratedNodes, sampler: dict[str, Any]) -> IntegratedNodes:
    """Sample the variance parameters by NUTS where importance sampling has failed.

    The density of these few parameters needs the group sums only: neither rows nor a dummy block.
    """
    from hbsk._engine.nuts import sample_log_density

    assert found.nodes is not None  # importance sampling has left what the start of the chains needs
    mean = found.nodes.weight @ found.nodes.theta
    deviation = found.nodes.theta - mean
    covariance = (found.nodes.weight[:, None] * deviation).T @ deviation
    scale = np.linalg.cholesky(covariance + 1e-6 * np.diag(np.diag(covariance)) + 1e-12 * np.eye(len(mean)))
    chains = sample_log_density(LogDensity(model), mean, scale, **sampler)
    theta = chains.reshape(-1, chains.shape[-1])
    blocks = [model.evaluate(block) for block in np.array_split(theta, max(1, len(theta) // 500))]
    n_nodes = len(theta)
    return IntegratedNodes(
        points=joined(blocks),
        weight=np.full(n_nodes, 1 / n_nodes),
        replicate=np.arange(n_nodes) * N_REPLICATES // n_nodes,
        pareto_k=float("nan"),
        level=(np.random.default_rng(0).permutation(n_nodes) + 0.5) / n_nodes,
        tails=found.tails,
        reliable=False,
        n_chains=chains.shape[0],
    )


@dataclass(frozen=True)
class LogDensity:
    """The log density of one theta and its gradient; a class, so that it pickles."""

    model: MarginalModel

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = self.model.value_and_gradient(np.asarray(theta)[None])
        return float(value[0]), gradient[0]


def _start(model: MarginalModel) -> np.ndarray:
    """Return where the search for the mode begins, (d,).

    Where many groups are it begins at the mode of every hundredth or so.
    """
    step = model.passes.n_cells // MANY_CELLS
    if step >= 2:
        few = model.thinned(step)
        return find_mode(few.value_and_gradient, best_of(few, start_candidates(few, FINE_SHARES)))[0]
    return best_of(model, start_candidates(model, FINE_SHARES))


def best_of(model: MarginalModel, candidates: np.ndarray) -> np.ndarray:
    """Return the candidate, of (n, d), of the highest density, roughly."""
    log_density = model.rough_log_density(candidates)
    return candidates[np.argmax(np.where(np.isnan(log_density), -np.inf, log_density))]


def start_candidates(model: MarginalModel, fine: tuple[tuple[float, float], dict[int, int]]) -> np.ndarray:
    """Return points, (n, d), with group sds from what all variance between groups would be down to a trifle of it.

    Where common columns explain what differs between groups the search would have a long way from the largest, along
    which correlations near one catch it. A correlation is on either side too; a fine grid has shares of each of few
    sds, and saves steps where points cost nothing.

    Parameters
    ----------
    model : MarginalModel
    fine : tuple of (tuple of float, dict of int to int)
        Largest and smallest share of the grid, and how many each sd has, by the number of sds.
    """
    sums, parameters = model.sums, model.parameters
    q = parameters.n_varying
    total = max(sums.xx[-1, -1], 1e-12) / max(sums.n, 1.0)
    # C at Lambda = 1 has the residual variance within groups, up to what is left between them
    _, reduced = model.reduce(np.eye(q)[None])
    within = float(np.clip(reduced[0, -1, -1] / max(sums.n, 1.0), 1e-6 * total, total))
    sigma = float(parameters.residual_sd) if not parameters.sigma_is_free else np.sqrt(within)
    between = max(total - within, 0.05 * total) / max(q, 1)
    sds = np.full(q, np.sqrt(between))
    if parameters.location is not None:
        sds = sds / parameters.location.reach
    start = parameters.theta_of(sigma, sds)
    at = list(parameters.sd_coordinates)
    correlations = START_CORRELATIONS if parameters.n_correlations == 1 else [0.0]
    ends, n_shares = fine
    shares = _log_shares(len(at), ends, n_shares[len(at)] if takes_fine_grid(model, fine) else 0)
    candidates = np.tile(start, (len(correlations), len(shares), 1))
    # logarithms of sds, but where they are so small that the data cannot tell
    candidates[:, :, at] = np.maximum(start[at] + shares, np.minimum(start[at], -1.0))
    if parameters.n_correlations == 1:
        candidates[:, :, -1] = np.array(correlations)[:, None]
    return candidates.reshape(-1, parameters.n_dim)


def takes_fine_grid(model: MarginalModel, fine: tuple[tuple[float, float], dict[int, int]]) -> bool:
    """Whether `start_candidates` have shares of each sd."""
    return len(model.parameters.sd_coordinates) in fine[1] and points_are_cheap(model)


@lru_cache(maxsize=16)
def _log_shares(n_sds: int, ends: tuple[float, float], n_shares: int) -> np.ndarray:
    """Return logarithms of shares, (n, n_sds): the same of all sds, and the points of a fine grid."""
    shares = np.repeat(np.log(START_SHARES)[:, None], n_sds, axis=1)
    if not n_shares:
        return shares
    apart = np.log(np.geomspace(*ends, n_shares))
    return np.concatenate([shares, np.stack(np.meshgrid(*[apart] * n_sds), axis=-1).reshape(-1, n_sds)])


def _by_quadrature(model: MarginalModel, most_cells: int) -> tuple[MarginalPoints, np.ndarray] | None:
    """Return points and weights where one sd is unknown at most and quadrature can be paid for, otherwise None."""
    parameters = model.parameters
    if parameters.n_varying == 0 and parameters.sigma_is_free:
        return model.without_effects(), WEIGHTS
    if parameters.n_dim == 0:
        return model.evaluate(np.zeros((1, 0))), np.ones(1)
    if parameters.n_dim == 1 and not parameters.integrated and model.passes.n_cells <= most_cells:
        nodes = score_nodes(lambda x: model.evaluate(x[:, None]).log_density, *parameters.ends)
        return model.evaluate(nodes[:, None]), WEIGHTS
    return None
