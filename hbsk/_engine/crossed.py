"""Several grouping factors, crossed or nested: from sums and priors to weighted nodes.

The model of `hbsk._engine.marginal` with ``Z u = sum_f Z_f u_f``: all that differs is how effects are integrated out
(`passes_of`), how the mode is found where every gradient costs a matrix inverse, and how many nodes are placed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
from scipy.linalg import block_diag

from hbsk._engine.crossed_passes import CHEAP_REMAINING, MOST_REMAINING, CrossedPasses
from hbsk._engine.crossed_sums import CrossedSums, PairSums, standardise_factors
from hbsk._engine.fit import (
    IntegratedNodes,
    best_of,
    engine_common_prior,
    of_importance_sampling,
    own_errors,
    small_sds,
    start_candidates,
    takes_fine_grid,
)
from hbsk._engine.hub_passes import HubPasses, hubs_of
from hbsk._engine.integrate import N_REPLICATES, Nodes, importance_sample
from hbsk._engine.interpolation import evaluations_of, interpolated
from hbsk._engine.krylov_passes import KrylovPasses
from hbsk._engine.marginal import MarginalModel, MarginalPoints, joined
from hbsk._engine.mode_search import find_mode
from hbsk._engine.nested_passes import NestedPasses, find_chain
from hbsk._engine.node_placement import monitored_values, points_are_cheap
from hbsk._engine.priors import EnginePriors
from hbsk._engine.progress import Progress
from hbsk._engine.proposals import MANY_DIMENSIONS, proposals
from hbsk._engine.propriety import Tails
from hbsk._engine.scaling import ColumnScaling
from hbsk._engine.schur_passes import EFFECTS_FOR_THREADS
from hbsk._engine.settings import DEFAULT, IntegrationSettings
from hbsk._engine.sums import CentredSums
from hbsk._engine.threads import one_thread_each
from hbsk._engine.variance_law import ERROR_TARGET, law_of_fine_nodes, variance_law
from hbsk._engine.variance_parameters import VarianceParameters
from hbsk._engine.varying_location import Location, locate

# Nodes of the first round for few effects, and for many by the number of variance parameters in theta. (Means pass the
# monitor where sds are 5 % off with 32 nodes of two parameters, 12 % of three; 64: 4 %, 128: 3 %. The polynomial that
# is fitted to them has sds to .4 % with 32.)
NODES_OF_FEW = 512
NODES_OF_MANY = {3: 64, 6: 128}
LEAST_NODES = 32
# Of cubics, for the law of the variance parameters (sds to 1 %, in a fiftieth of a second).
FINE_NODES = 1_024
# Share of the error of squared distances that counts for many effects: of few nodes it says ten times what is true.
ERROR_OF_SPREADS = 0.2
# Where the search for the mode may begin (see `start_candidates`): one factor may have all that is between levels, and
# more. (Looks, over 52 designs of two factors, 2.2 instead of the 2.3 of one factor's grid; of three, 3.2 instead of
# 4.6.)
FINE_SHARES = (2.0, 0.2), {2: 8, 3: 4}
# Search for the mode: size of the gradient, in posterior sds by its own curvature, at which one step is taken unseen.
CLOSE_TO_MODE = 0.1
MOST_STEPS, MOST_HALVINGS = 60, 12
# Gradients that are looked at for it in all (fifteen are usual), and nodes, where log-determinants are estimated: where
# effects nearly explain y each may take a thousand solves' worth of steps.
MOST_LOOKS, MOST_STOCHASTIC_NODES = 100, 512
# Share of a posterior sd over which gradients are differenced.
DIFFERENCE = 0.3


class CrossedModel(MarginalModel):
    """A Gaussian hierarchical model with several grouping factors, in engine units.

    Parameters
    ----------
    sums : CrossedSums
    parameters : VarianceParameters
        Of the varying columns of all factors, one factor after another.
    prior_mean, prior_precision : ndarray of shape (p,)
    """

    sums: CrossedSums  # type: ignore[assignment]

    def __init__(
        self,
        sums: CrossedSums,
        parameters: VarianceParameters,
        prior_mean: np.ndarray,
        prior_precision: np.ndarray,
    ):
        super().__init__(sums, parameters, prior_mean, prior_precision)  # type: ignore[arg-type]

    @cached_property
    def passes(self) -> CrossedPasses | KrylovPasses | NestedPasses:  # type: ignore[override]
        """Sums over levels for any Lambda."""
        return passes_of(self.sums)

    def evaluate(self, theta: np.ndarray) -> MarginalPoints:
        """Return the log posterior density at points of shape (n_points, n_dim)."""
        return self._evaluate(theta, keep_basis=True)

    def value_and_gradient(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return log density (n_points,) and gradient (n_points, n_dim); factors of matrices serve both."""
        with self.passes.kept(len(theta)):
            return super().value_and_gradient(theta)

    def _factor_gradient(self, factor, adjoint):
        return self.passes.factor_gradient(factor, adjoint)


def passes_of(sums: CrossedSums) -> CrossedPasses | KrylovPasses | NestedPasses:
    """Return sums over levels for any Lambda.

    From the innermost factor out, at linear cost, where they are nested; otherwise with a dense matrix of the effects
    beside the largest factor, or without one where they are more than `MOST_REMAINING`.
    """
    chain = find_chain(sums)
    if chain is not None:
        return NestedPasses(sums, chain)
    sizes = [factor.n_groups * factor.n_varying for factor in sums.factors]
    if sum(sizes) - max(sizes) > MOST_REMAINING:
        return KrylovPasses(sums)
    hubs = hubs_of(sums)
    if hubs and sum(sizes) - max(sizes) - sum(sizes[f] for f in hubs) > CHEAP_REMAINING:
        return HubPasses(sums, hubs)
    return CrossedPasses(sums)


def crossed_model(
    collected: Sequence[CentredSums], pairs: Sequence[PairSums], priors: EnginePriors
) -> tuple[CrossedModel, tuple[ColumnScaling, ...]]:
    """Return the model in engine units, and the scaling of each factor that leads there.

    Parameters
    ----------
    collected : sequence of CentredSums, one per factor
    pairs : sequence of PairSums
    priors : EnginePriors
        Of the varying columns of all factors, one factor after another.
    """
    known = priors.residual_sd is None
    sums, scalings = standardise_factors(collected, pairs, known_standard_error=known)
    mean, precision = engine_common_prior(priors, scalings[0], collected[0].has_intercept)
    z_scale = np.concatenate([scaling.z_scale for scaling in scalings])
    residual_sd, group_sd = priors.scaled_sds(scalings[0].y_scale, z_scale)
    locations = [
        _location_of(scaling, priors, at, [not isinstance(sd, float) and not sd.is_bounded for sd in group_sd[at]])
        for scaling, at in zip(scalings, sums.columns, strict=True)
    ]
    small = np.concatenate(
        [small_sds(factor, location) for factor, location in zip(sums.factors, locations, strict=True)]
    )
    location = _together(locations, sums.columns)
    parameters = VarianceParameters(residual_sd, group_sd, priors.blocks, priors.lkj_eta, small, location)
    return CrossedModel(sums, parameters, mean, precision), scalings


def _location_of(scaling, priors, at, is_free) -> Location | None:
    centre = np.zeros(at.stop - at.start) if priors.centre is None else priors.centre[at]
    inside = [(block, eta) for block, eta in zip(priors.blocks, priors.lkj_eta, strict=True) if block[0] in _range(at)]
    return locate(
        (scaling.z_centre - centre) / scaling.z_scale,
        scaling.varying_intercept,
        [tuple(k - at.start for k in block) for block, _ in inside],
        [eta for _, eta in inside],
        is_free,
    )


def _range(at: slice) -> range:
    return range(at.start, at.stop)


def _together(locations: Sequence[Location | None], columns: Sequence[slice]) -> Location | None:
    """Return the locations of all factors as one, block diagonal."""
    if all(location is None for location in locations):
        return None
    sizes = [at.stop - at.start for at in columns]
    parts = [
        Location(np.eye(q), np.eye(q), np.zeros(q)) if location is None else location
        for location, q in zip(locations, sizes, strict=True)
    ]
    return Location(
        block_diag(*(part.to_prior for part in parts)),
        block_diag(*(part.to_engine for part in parts)),
        np.concatenate([part.power for part in parts]),
    )


def integrate_crossed(
    model: CrossedModel, tails: Tails, settings: IntegrationSettings = DEFAULT, verbose: int = 0
) -> IntegratedNodes:
    """Find the mode, place nodes and weigh them.

    Parameters
    ----------
    model : CrossedModel
    tails : Tails
        From `crossed_tails`.
    settings : IntegrationSettings, optional
    verbose : int, default=0
        Whether a fit of more than a few seconds tells how far it is.

    Raises
    ------
    ValueError
        Where numbers leave floating point on the way to it.
    """
    few = model.passes.n_remaining < EFFECTS_FOR_THREADS
    with one_thread_each() if few else nullcontext(), own_errors():
        progress = Progress(verbose)
        model.passes.watch = progress.count
        try:
            return _integrate(model, tails, settings, progress)
        finally:
            model.passes.watch = None


def _integrate(model: CrossedModel, tails: Tails, settings: IntegrationSettings, progress: Progress) -> IntegratedNodes:
    if model.parameters.n_dim == 0:
        one = np.ones(1)
        points = model.evaluate(np.zeros((1, 0)))
        return IntegratedNodes(points, one, np.zeros(1, dtype=int), 0.0, 0.5 * one, tails, by_quadrature=True)
    if not model.passes.is_cheap:
        return _integrate_many(model, tails, settings, progress)
    progress.stage = "looking for the mode"
    starts = start_candidates(model, FINE_SHARES)
    if not takes_fine_grid(model, FINE_SHARES):
        starts = np.concatenate([start_of(model)[None], starts])
    cheap = points_are_cheap(model)
    mode, precision = find_mode(model.value_and_gradient, best_of(model, starts), polish=True, try_shorter=cheap)
    drawn_from = proposals(model, mode, precision)
    progress.stage = "weighing nodes"
    nodes = _weighed(model, drawn_from, NODES_OF_FEW, tails, settings, spreads=1.0)
    points = joined(nodes.evaluated)
    law = variance_law(model, nodes, points, tails, settings)
    return of_importance_sampling(nodes, points, tails, settings, law)


def _integrate_many(
    model: CrossedModel, tails: Tails, settings: IntegrationSettings, progress: Progress
) -> IntegratedNodes:
    """Do so where effects beside the largest factor are many, and every evaluation counts."""
    n_dim = model.parameters.n_dim
    first = max([LEAST_NODES, *(n for least, n in NODES_OF_MANY.items() if n_dim >= least)])
    is_smooth = model.passes.has_smooth_points and evaluations_of(model) < first and n_dim < MANY_DIMENSIONS
    progress.stage = "looking for the mode"
    is_exact = isinstance(model.passes, CrossedPasses)
    with model.passes.rough_gradients() if is_smooth and is_exact else nullcontext():  # type: ignore[union-attr]
        mode, precision = quasi_newton_mode(model.value_and_gradient, start_of(model), _first_guess(model))
    progress.stage = "weighing nodes"
    found = _by_cubics(model, mode, precision, first, tails, settings) if is_smooth else None
    if found is not None:
        return found
    drawn_from = proposals(model, mode, precision, thorough=False)
    nodes = _weighed(model, drawn_from, first, tails, settings, spreads=ERROR_OF_SPREADS)
    points = joined(nodes.evaluated)
    rough_law = variance_law(model, nodes, points, tails, settings, finer=False)
    return of_importance_sampling(nodes, points, tails, settings, rough_law)


def _by_cubics(model, mode, precision, first, tails, settings) -> IntegratedNodes | None:
    """Place nodes and weigh them by cubics about the mode; None where these are not the log density."""
    try:
        cubic = interpolated(model, mode, precision)
        if cubic is None:
            return None
        drawn_from = proposals(cubic, *find_mode(cubic.value_and_gradient, mode), thorough=False)
        weighed = partial(_weighed, cubic, drawn_from, tails=tails, settings=settings, spreads=ERROR_OF_SPREADS)
        fine = weighed(FINE_NODES, error_target=ERROR_TARGET)
        if not cubic.holds(fine):
            return None
        nodes = weighed(first)
    except np.linalg.LinAlgError:  # the search has ended at no mode
        return None
    law = law_of_fine_nodes(model, fine, tails)
    found = of_importance_sampling(nodes, joined(nodes.evaluated), tails, settings, law)
    return replace(found, by_probe=cubic.log_dets_by_probe(nodes.theta))


def _weighed(model, drawn_from, first, tails, settings, *, spreads, error_target=None) -> Nodes:
    """Place nodes and weigh them, beginning with so many."""
    many = model.parameters.n_dim >= MANY_DIMENSIONS
    most = settings.max_nodes_of_many if many else settings.max_nodes
    if model.passes.is_stochastic:
        most = min(most, MOST_STOCHASTIC_NODES)
    return importance_sample(
        model.evaluate,
        drawn_from.first,
        monitored_values(tails),
        broad=drawn_from.broad,
        first_per_replicate=first // N_REPLICATES,
        max_nodes=most,
        error_target=settings.error_target if error_target is None else error_target,
        salt=settings.salt,
        refit=drawn_from.refit,
        spreads=spreads,
    )


def start_of(model: CrossedModel) -> np.ndarray:
    """Return theta where the search for the mode begins: variances of what each level's rows say by themselves."""
    sums, parameters = model.sums, model.parameters
    total = max(sums.xx[-1, -1] / max(sums.n, 1.0), 1e-12)
    variances = []
    for factor in sums.factors:
        for k in range(factor.n_varying):
            weight = factor.zz[k, k]
            seen = weight > 0
            estimate = factor.zx[k, -1][seen] / weight[seen]
            sum_of_weights = max(weight.sum(), 1e-300)
            noise = total * seen.sum() / sum_of_weights
            mean_square = np.sum(weight[seen] * estimate**2) / sum_of_weights
            variances.append(np.clip(mean_square - noise, 0.02 * noise + 1e-12, 1e12))
    sigma = float(parameters.residual_sd) if not parameters.sigma_is_free else np.sqrt(0.5 * total)
    sds = np.sqrt(variances)
    return parameters.theta_of(sigma, sds if parameters.location is None else sds / parameters.location.reach)


def _first_guess(model: CrossedModel) -> np.ndarray:
    """Return a guess of the covariance of theta: J well seen effects know the log of their sd to about 1 / J."""
    parameters = model.parameters
    information = np.full(parameters.n_dim, 2.0)
    n_levels = [factor.n_groups for factor in model.sums.factors for _ in range(factor.n_varying)]
    for k, at in zip(parameters.free, parameters.sd_coordinates, strict=True):
        information[at] = max(n_levels[k], 2.0)
    return np.diag(1.0 / information)


def quasi_newton_mode(
    value_and_gradient: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], start: np.ndarray, inverse: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mode of a log density and minus its Hessian there, with few gradients.

    The method of Broyden, Fletcher, Goldfarb and Shanno from a guess of the inverse Hessian; one gradient a step, where
    `find_mode` takes one for each coordinate besides. The Hessian is that of the steps; by forward differences at the
    end where these were fewer than coordinates. (Of InstEval and of six parameters of slopes: nodes of a proposal by
    either have the same effective size.)

    Parameters
    ----------
    value_and_gradient : callable
        Maps points (n, d) to log densities (n,) and gradients (n, d).
    start : ndarray of shape (d,)
    inverse : ndarray of shape (d, d)
        The guess.
    """

    def look(theta):
        value, gradient = value_and_gradient(theta[None])
        return value[0], gradient[0]

    x, inverse = start.copy(), inverse.copy()
    value, gradient = look(x)
    n_looks, n_seen = 1, 0
    for _ in range(MOST_STEPS):
        if n_looks > MOST_LOOKS:
            break
        step = inverse @ gradient
        largest = np.abs(step).max()
        step = step / max(largest, 1.0)
        slope = step @ gradient
        if np.sqrt(max(slope, 0.0)) < CLOSE_TO_MODE and largest < DIFFERENCE:
            break
        length = 1.0
        for _ in range(MOST_HALVINGS):
            new_value, new_gradient = look(x + length * step)
            n_looks += 1
            if np.isfinite(new_value) and new_value >= value + 1e-4 * length * slope:
                break
            bend = 2.0 * (value + length * slope - new_value)
            shrink = length * slope / bend if np.isfinite(bend) and bend > 0 else DIFFERENCE
            length *= np.clip(shrink, 0.1, 0.5)
        else:
            break
        moved, change = length * step, gradient - new_gradient
        x, value, gradient = x + moved, new_value, new_gradient
        curvature = moved @ change
        if curvature > 1e-10 * np.linalg.norm(moved) * np.linalg.norm(change):
            project = np.eye(len(x)) - np.outer(moved, change) / curvature
            inverse = project @ inverse @ project.T + np.outer(moved, moved) / curvature
            n_seen += 1
    if n_seen >= len(x):
        return x + _short(inverse @ gradient, gradient), np.linalg.inv(inverse)
    steps = DIFFERENCE * np.sqrt(np.clip(np.diag(inverse), 1e-8, 4.0))
    gradients = np.array([look(x + step * unit)[1] for step, unit in zip(steps, np.eye(len(x)), strict=True)])
    precision = (gradient - gradients) / steps[:, None]
    precision = 0.5 * (precision + precision.T)
    if np.linalg.eigvalsh(precision)[0] > 0:
        x = x + _short(np.linalg.solve(precision, gradient), gradient)
    return x, precision


def _short(step, gradient):
    """Return a last step if it is short, in posterior sds, and none if it is not."""
    return step if step @ gradient < 0.25 else 0.0
