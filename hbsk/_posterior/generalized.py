"""Posterior of a binary or count model: weighted nodes of (b, Lambda), and moments of the group effects at each.

The law of a row's linear predictor given a node is that of ``x'b + z'u_j``. It is skew where groups have few rows;
three normals stand for it (`hbsk._posterior.skew_normals`), so that a row is a mixture of normals as everywhere. Where
it is very skew many do (`hbsk._posterior.edge_laws`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy.special import ndtri

from hbsk._engine.fit import own_errors
from hbsk._engine.generalized.data import Responses, group_constants
from hbsk._engine.generalized.fit import VERY_FEW_GROUPS, GeneralizedNodes, generalized_model, integrate_generalized
from hbsk._engine.generalized.inner import EffectMoments, pairs, triples
from hbsk._engine.generalized.leave_out import row_log_predictive
from hbsk._engine.integrate import N_REPLICATES, unit_cube_points
from hbsk._engine.node_algebra import back_and_forth, semidefinite_cholesky, systematic_resample, thinned
from hbsk._engine.priors import EnginePriors
from hbsk._engine.propriety import Tails
from hbsk._engine.scaling import ColumnScaling
from hbsk._engine.settings import DEFAULT, IntegrationSettings
from hbsk._engine.variance_parameters import VarianceParameters
from hbsk._engine.varying_location import sds_and_correlations
from hbsk._posterior.base import Posterior
from hbsk._posterior.diagnostics import marginal_diagnostics
from hbsk._posterior.edge_groups import EdgeGroups, successes_of_groups
from hbsk._posterior.node_kernels import NodeKernels, Unskewed
from hbsk._posterior.nodes import usable_nodes
from hbsk._posterior.parts import (
    BLOCK_ELEMENTS,
    GroupMoments,
    JointDraws,
    RowMixture,
    VarianceNodes,
    standardised,
    turned_effects,
)
from hbsk._posterior.skew_normals import COARSE, FINE, skew_normals

COMPUTED = ("_effects", "_kernels", "_edges")
# Of more nodes so many stand for all: what is asked of a posterior costs as much for every node.
MOST_NODES = 2_048
# Points of the law of the variance parameters, and which quasi-random ones.
LAW_POINTS, LAW_SALT = 8_192, 700


@dataclass(frozen=True)
class GeneralizedPosterior(Posterior):
    """Posterior of a binary or count model with at most one grouping factor.

    All arrays are in engine units (`ColumnScaling`).

    Attributes
    ----------
    weight : ndarray of shape (n_nodes,)
    replicate : ndarray of shape (n_nodes,), dtype int
    pareto_k : float
    common : ndarray of shape (n_nodes, p)
    factor : ndarray of shape (n_nodes, q, q)
        ``Lambda``, a root of the covariance of the effects.
    theta : ndarray of shape (n_nodes, n_theta)
        Variance parameters where they are unconstrained.
    parameters : VarianceParameters
        The map from there.
    effects : EffectMoments
        Of the groups, given each node.
    group_log_likelihood : ndarray of shape (n_nodes, n_groups)
        ``log p(y_j | node)``, effects integrated out.
    scaling : ColumnScaling
    has_intercept : bool
    log_growth : ndarray of shape (n_nodes, n_groups) or None
        ``log E[e^u]`` given each node, of counts with a varying intercept alone.
    tails : Tails
    effect_mean : ndarray of shape (q,) or None
        Fixed means of the effects, in the units of the user; the rest is that of the deviations from them.
    family : {"binomial", "poisson"}
    successes, trials : ndarray of shape (n_groups,) or None
        Of each group, or counts and ones, where the varying intercept is the only varying column.
    """

    weight: np.ndarray
    replicate: np.ndarray
    pareto_k: float
    common: np.ndarray
    factor: np.ndarray
    theta: np.ndarray
    parameters: VarianceParameters
    effects: EffectMoments
    group_log_likelihood: np.ndarray
    scaling: ColumnScaling
    has_intercept: bool
    log_growth: np.ndarray | None = None
    tails: Tails = field(default_factory=Tails)
    effect_mean: np.ndarray | None = None
    family: str = "binomial"
    successes: np.ndarray | None = None
    trials: np.ndarray | None = None

    n_chains = 0
    by_quadrature = False
    law = None

    @property
    def n_groups(self) -> tuple[int, ...]:
        """Number of groups of each factor."""
        return (self.effects.mean.shape[2],) if self.factor.shape[1] else ()

    def __getstate__(self) -> dict:
        """Leave what can be computed again out of a pickle."""
        return {name: value for name, value in vars(self).items() if name not in COMPUTED}

    # parameters

    def common_estimates(self) -> np.ndarray:
        """Return the mean (p,) of the coefficients of the raw columns."""
        return self.weight @ self._raw_common

    def common_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean (p,) and covariance (p, p) of the coefficients of the raw columns."""
        raw = self._raw_common
        mean = self.weight @ raw
        deviation = raw - mean
        return mean, (self.weight[:, None] * deviation).T @ deviation

    def common_mixture(self) -> tuple[np.ndarray, np.ndarray]:
        """Return means and sds, each (n_nodes, p), of the coefficients of the raw columns: nodes as kernels."""
        return self._kernels.of(self._raw_common)

    @cached_property
    def _kernels(self) -> NodeKernels:
        if self.theta.shape[1] == 1 and self.n_groups[0] < VERY_FEW_GROUPS:
            return NodeKernels.by_pieces(self.weight, self.theta[:, 0])
        return NodeKernels.of_nodes(self.weight, self.theta, self.factor)

    @property
    def _raw_common(self) -> np.ndarray:
        return self.scaling.coefficients(self.common, self.has_intercept)

    def variance_nodes(self) -> VarianceNodes:
        """Return the variance parameters at the nodes; sigma, which there is none of, is 0."""
        return self._variance_of(self.factor)

    def _variance_of(self, factor: np.ndarray) -> VarianceNodes:
        sigma = np.zeros(len(factor))
        if not factor.shape[1]:
            return VarianceNodes(sigma, [], [])
        sd, correlation = sds_and_correlations(self._raw(factor))
        return VarianceNodes(sigma, [sd], [correlation])

    def variance_law(self) -> tuple[VarianceNodes, np.ndarray, np.ndarray | None]:
        """Return weighted points of the variance parameters, several about each node; see `Posterior.variance_law`."""
        n_theta = self.theta.shape[1]
        if not n_theta:
            return self.variance_nodes(), self.weight, self.replicate
        repeats = -(-LAW_POINTS // self.n_nodes)
        unskewed = Unskewed(self.theta, self.weight)
        moved = unskewed(self.theta)
        mean = self.weight @ moved
        deviation = moved - mean
        root = semidefinite_cholesky((self.weight[:, None] * deviation).T @ deviation)
        width = self._kernels.silverman
        # nets are of powers of two; of more nodes or fewer the first points are taken
        per_replicate = 1 << max(-(-repeats * self.n_nodes // N_REPLICATES) - 1, 1).bit_length()
        uniforms = unit_cube_points(n_theta, per_replicate, LAW_SALT)
        noise = ndtri(uniforms[: repeats * self.n_nodes]) @ root.T
        moved = mean + np.sqrt(1.0 - width**2) * np.repeat(deviation, repeats, axis=0) + width * noise
        theta = unskewed.inverse(moved)
        factor = self.parameters.points(theta).relative_factor
        weight = np.repeat(self.weight / repeats, repeats)
        return self._variance_of(factor), weight, np.repeat(self.replicate, repeats)

    def _raw(self, factor: np.ndarray) -> np.ndarray:
        return self.scaling.effects(factor.swapaxes(1, 2)).swapaxes(1, 2)

    def diagnostics(self, specification, *, sigma_is_parameter: bool = False):
        """Return Monte Carlo errors of every parameter."""
        mixture = self._kernels.narrow(self._raw_common)
        return marginal_diagnostics(specification, self, sigma_is_parameter=sigma_is_parameter, mixture=mixture)

    # rows

    def row_laws(
        self, x: np.ndarray, z: Sequence[np.ndarray], codes: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return mean, variance and third central moment, each (n_nodes, n_rows), of the linear predictor of rows."""
        mean = self.common @ self.scaling.common(x, self.has_intercept).T
        if self.has_intercept:
            mean += self.scaling.y_centre * x[:, 0]
        variance, third = np.zeros_like(mean), np.zeros_like(mean)
        if not self.n_groups:
            return mean, variance, third
        if self.effect_mean is not None:
            mean += z[0] @ self.effect_mean
        varying = self.scaling.varying(z[0])
        known = codes[0] < self.n_groups[0]
        code = codes[0][known]
        at, columns = np.flatnonzero(known), varying[known].T
        if len(at) == len(x):
            at = slice(None)
        q = varying.shape[1]
        for a in range(q):
            mean[:, at] += columns[a] * self.effects.mean[a][:, code]
        for part, covariance in zip(pairs(q), self.effects.covariance, strict=True):
            product = _times_repeats(part) * np.prod(columns[list(part)], axis=0)
            variance[:, at] += product * covariance[:, code]
        for part, moment in zip(triples(q), self.effects.third, strict=True):
            product = _times_repeats(part) * np.prod(columns[list(part)], axis=0)
            third[:, at] += product * moment[:, code]
        if not known.all():
            fresh = np.einsum("mkl,rk->mlr", self.factor, varying[~known])
            variance[:, ~known] = np.sum(fresh**2, axis=1)
        return mean, np.maximum(variance, 0.0), third

    def contrast_mixture(self, factor, z, first, second, rng) -> RowMixture:  # noqa: ARG002 - no draws are needed
        """Return the law of ``z'u_a - z'u_b`` of pairs of groups, independent given a node."""
        x, columns = np.zeros((len(first), len(self.scaling.x_scale))), [np.tile(z, (len(first), 1))]
        (mean, variance, third), other = (self.row_laws(x, columns, [groups]) for groups in (first, second))
        mean, third = mean - other[0], third - other[2]
        if (self.on_edge([first]) | self.on_edge([second])).any():
            return self._edges.differences(mean, third, first, second, float(self.scaling.varying(z[None])[0, 0]))
        return self._skew_mixture(mean, variance + other[1], third)

    @cached_property
    def _edges(self) -> EdgeGroups | None:
        if self.successes is None or self.trials is None:
            return None
        tau = self.factor[:, 0, 0]
        return EdgeGroups(self.family, self.successes, self.trials, self.weight, tau, self.common, self.effects)

    def on_edge(self, codes: Sequence[np.ndarray]) -> np.ndarray:
        """Tell which rows, (n_rows,), are of groups whose laws are worked out, of many parts each."""
        return super().on_edge(codes) if self._edges is None else self._edges.have(codes[0])

    def row_mixture(self, x: np.ndarray, z: Sequence, codes: Sequence) -> RowMixture:
        """Return the mixture of the linear predictor of rows: normals for each node, or so many times the same."""
        mean, variance, third = self.row_laws(x, z, codes)
        if not self.n_groups:
            mean, sd = self._kernels.of(mean)
            return RowMixture(self.weight, mean, sd**2)
        bare = ~z[0].any(axis=1)  # of common coefficients alone
        kernels = self._kernels.of(mean[:, bare]) if bare.any() else None
        on_edge = self.on_edge(codes) & ~bare
        if on_edge.any():
            sd = np.sqrt(variance)
            sd[:, on_edge] *= np.sign(self.scaling.varying(z[0][on_edge])[:, 0])
            if kernels is not None:
                mean[:, bare], sd[:, bare] = kernels
            return self._edges.mixture(mean, sd, third, codes[0], on_edge)
        mixture = self._skew_mixture(mean, variance, third)
        if kernels is not None:
            mixture.mean[:, bare], sd = (np.repeat(part, len(COARSE.shares), axis=0) for part in kernels)
            mixture.variance[:, bare] = sd**2
        return mixture

    def _skew_mixture(self, mean, variance, third) -> RowMixture:
        """Return mixtures of three normals for each node, with these moments (n_nodes, n_rows) given it."""
        sd = np.sqrt(variance)
        means, sds = skew_normals(standardised(third, sd))
        shape = (len(COARSE.shares) * self.n_nodes, mean.shape[1])
        return RowMixture(
            np.outer(self.weight, COARSE.shares).ravel(),
            np.stack([mean + sd * part for part in means], axis=1).reshape(shape),
            np.stack([(sd * part) ** 2 for part in sds], axis=1).reshape(shape),
        )

    def log_rates(self, x: np.ndarray, z: Sequence[np.ndarray], codes: Sequence[np.ndarray]) -> np.ndarray | None:
        """Return ``log E[e^eta]`` of rows given each node, (n_nodes, n_rows), where it is known exactly; else None."""
        if self.log_growth is None or not np.all(z[0] == 1.0):
            return None
        log_rate, _, _ = self.row_laws(x, [np.zeros_like(z[0])], codes)
        known = codes[0] < self.n_groups[0]
        log_rate[:, known] += self.log_growth[:, codes[0][known]]
        log_rate[:, ~known] += 0.5 * np.sum(self.factor**2, axis=(1, 2))[:, None]
        return log_rate

    def row_moments(self, x: np.ndarray, z: Sequence, codes: Sequence, need_variance: bool = True):
        """Return mean and variance (or None) of the linear predictor of rows, through moments of the groups."""
        scaled = self.scaling.common(x, self.has_intercept)
        mean = scaled @ (self.weight @ self.common)
        if self.has_intercept:
            mean += self.scaling.y_centre * x[:, 0]
        deviation = self.common - self.weight @ self.common
        covariance = (self.weight[:, None] * deviation).T @ deviation
        variance = np.einsum("ri,ij,rj->r", scaled, covariance, scaled, optimize=True) if need_variance else None
        if not self.n_groups:
            return mean, variance
        if self.effect_mean is not None:
            mean += z[0] @ self.effect_mean
        z = self.scaling.varying(z[0])
        known = codes[0] < self.n_groups[0]
        at = np.where(known, codes[0], 0)
        effects = self._effects
        mean += np.where(known, np.sum(z * effects.mean[at], axis=1), 0.0)
        if need_variance:
            within = np.einsum("rk,rkl,rl->r", z, effects.covariance[at], z, optimize=True)
            cross = np.einsum("ri,rik,rk->r", scaled, effects.with_common[at], z, optimize=True)
            between = np.einsum("m,mkl,mil->ki", self.weight, self.factor, self.factor)
            fresh = np.einsum("rk,kl,rl->r", z, between, z, optimize=True)
            variance = np.maximum(variance + np.where(known, within + 2 * cross, fresh), 0.0)
        return mean, variance

    # groups

    @cached_property
    def _effects(self) -> GroupMoments:
        """Moments of the effects in engine units."""
        q, n_groups = self.factor.shape[1], self.n_groups[0]
        mean = np.einsum("m,amj->ja", self.weight, self.effects.mean)
        covariance, with_common = np.empty((n_groups, q, q)), np.empty((n_groups, self.common.shape[1], q))
        deviation = self.effects.mean - mean.T[:, None]
        for (a, c), within in zip(pairs(q), self.effects.covariance, strict=True):
            total = self.weight @ (within + deviation[a] * deviation[c])
            covariance[:, a, c] = covariance[:, c, a] = total
        common = self.weight[:, None] * (self.common - self.weight @ self.common)
        for a in range(q):
            with_common[:, :, a] = deviation[a].T @ common
        return GroupMoments(mean, covariance, with_common)

    def group_moments(self, factor: int = 0, *, need_covariance: bool = True) -> GroupMoments:  # noqa: ARG002
        """Return posterior moments of the effects of all groups."""
        moments, raw = self._effects, self.scaling.effects
        jacobian = self.scaling.coefficients(np.eye(self.common.shape[1]), self.has_intercept)
        if self.has_intercept:
            jacobian[:, 0] -= self.scaling.y_centre
        return GroupMoments(
            raw(moments.mean) + (0.0 if self.effect_mean is None else self.effect_mean),
            raw(raw(moments.covariance).swapaxes(1, 2)),
            raw(np.einsum("ia,jik->jak", jacobian, moments.with_common)),
        )

    def shrinkage(self, factor: int = 0, turned: np.ndarray | None = None) -> np.ndarray:  # noqa: ARG002 - one factor
        """Return ``1 - Var(u_jk | y, b, Sigma) / tau_k^2``, averaged; (n_groups, q)."""
        q, n_groups = self.factor.shape[1], self.n_groups[0]
        raw = turned_effects(self.scaling, turned)
        prior = np.sum(raw(self.factor.swapaxes(1, 2)) ** 2, axis=1)
        shrinkage = np.empty((n_groups, q))
        width = max(1, BLOCK_ELEMENTS // (self.n_nodes * q * q))
        for start in range(0, n_groups, width):
            groups = slice(start, start + width)
            within = raw(raw(_unpacked(self.effects.covariance[:, :, groups], q)).swapaxes(2, 3))
            for k in range(q):
                left = np.divide(
                    within[:, :, k, k], prior[:, k, None], out=np.ones(within.shape[:2]), where=prior[:, k, None] > 0
                )
                shrinkage[groups, k] = 1.0 - self.weight @ left
        return np.clip(shrinkage, 0.0, 1.0)

    # draws

    def joint_draws(self, n_draws: int, rng: np.random.Generator, groups: Sequence[np.ndarray]) -> JointDraws:
        """Draw parameters jointly; see `Posterior.joint_draws`."""
        at = systematic_resample(self.weight, n_draws, rng)
        common = self.scaling.coefficients(self.common[at], self.has_intercept)
        nodes = self.variance_nodes()
        variance = VarianceNodes(
            np.zeros(n_draws), [sd[at] for sd in nodes.group_sd], [part[at] for part in nodes.correlation]
        )
        if not self.n_groups:
            return JointDraws(common, variance, [])
        return JointDraws(common, variance, [self._draw_effects(at, groups[0], rng)])

    def _draw_effects(self, at, codes, rng):
        """Return effects (n_draws, n_codes, q): independent given the node, skew along the axes of their root."""
        q = self.factor.shape[1]
        effects = np.empty((len(at), len(codes), q))
        known = codes < self.n_groups[0]
        on_edge = self.on_edge([codes])
        cut = FINE if on_edge.any() else COARSE
        width = max(1, BLOCK_ELEMENTS // (len(at) * max(q**3, len(cut.shares) // 3)))
        for start in range(0, len(codes), width):
            block = slice(start, start + width)
            seen, group = known[block], np.where(known[block], codes[block], 0)
            noise = rng.standard_normal((len(at), len(group), q))
            chosen = np.searchsorted(np.cumsum(cut.shares[:-1]), rng.random((len(at), len(group), q)), side="right")
            root = semidefinite_cholesky(_unpacked(self.effects.covariance[:, at][:, :, group], q))
            skewness = _skewness_of_axes(root, self.effects.third[:, at][:, :, group], q)
            means, sds = skew_normals(skewness, cut)
            edge = np.flatnonzero(on_edge[block])
            if len(edge):
                means[:, :, edge, 0], sds[:, :, edge, 0] = self._edges.parts_at_nodes(group[edge], at)
            skew = np.take_along_axis(means, chosen[None], axis=0)[0]
            skew += np.take_along_axis(sds, chosen[None], axis=0)[0] * noise
            mean = self.effects.mean[:, at][:, :, group].transpose(1, 2, 0)
            drawn = mean + np.einsum("sjkl,sjl->sjk", root, skew)
            fresh = np.einsum("skl,sjl->sjk", self.factor[at], noise)
            effects[:, block] = np.where(seen[:, None], drawn, fresh)
        return self.scaling.effects(effects) + (0.0 if self.effect_mean is None else self.effect_mean)


def _times_repeats(index: tuple[int, ...]) -> int:
    """Return in how many orders the entries of an index may stand."""
    distinct = len(set(index))
    return {2: (0, 1, 2), 3: (0, 1, 3, 6)}[len(index)][distinct]


def _unpacked(packed: np.ndarray, q: int) -> np.ndarray:
    """Return matrices (..., q, q) of packed ones (q (q + 1) / 2, ...)."""
    full = np.empty((*packed.shape[1:], q, q))
    for (a, c), values in zip(pairs(q), packed, strict=True):
        full[..., a, c] = full[..., c, a] = values
    return full


def _skewness_of_axes(root, third, q):
    """Return the skewness of effects along the axes of a root of their covariance, (n_nodes, n_groups, q)."""
    if q == 1:
        return standardised(third[0], root[..., 0, 0])[..., None]
    at = {index: i for i, index in enumerate(triples(q))}
    full = np.stack([third[at[tuple(sorted(index))]] for index in np.ndindex((q, q, q))], axis=-1)
    full = full.reshape(*third.shape[1:], q, q, q)
    inverse = np.linalg.pinv(root)
    return np.einsum("sjka,sjkb,sjkc,sjabc->sjk", inverse, inverse, inverse, full, optimize=True)


@dataclass(frozen=True)
class FoundGeneralized:
    """A posterior of a binary or count model, and how it was found.

    Attributes
    ----------
    posterior : GeneralizedPosterior
    reliable : bool
        Whether Pareto k and the Monte Carlo error met their targets.
    found : GeneralizedNodes
        With the cells of the data.
    kept : ndarray of int or slice
        Which of its nodes are those of the posterior.
    """

    posterior: GeneralizedPosterior
    reliable: bool
    found: GeneralizedNodes
    kept: np.ndarray | slice

    def row_log_predictive(self, responses: Responses) -> tuple[np.ndarray, np.ndarray]:
        """Return ``log p(y_i | y_-i, node)`` of the rows of the fit, (n_nodes, n_rows), and weights of the nodes."""
        found, points = self.found, self.found.points
        law = (found.mode.start, points.common[self.kept], points.variance.relative_factor[self.kept])
        return row_log_predictive(found.model, found.scaling, responses, *law), self.posterior.weight


def fit_generalized(
    responses: Responses,
    priors: EnginePriors,
    settings: IntegrationSettings = DEFAULT,
    names: Sequence[str] | None = None,
) -> FoundGeneralized:
    """Integrate a binary or count model with at most one grouping factor.

    Parameters
    ----------
    responses : Responses
    priors : EnginePriors
        In the user's units.
    settings : IntegrationSettings, optional
    names : sequence of str, optional
        Of the varying columns, for messages.
    """
    model, scaling = generalized_model(responses, priors)
    found = integrate_generalized(model, scaling, settings, names)
    points, sign = found.points, scaling.sign
    with own_errors():
        usable = usable_nodes(found.nodes.weight, points.common, points.variance.relative_factor, points.log_integral)
    kept = slice(None) if usable.all() else np.flatnonzero(usable)  # arrays of all nodes are not copied
    weight = found.nodes.weight[kept]
    if len(weight) > MOST_NODES:
        along = back_and_forth(points.variance.relative_factor[kept].sum(axis=(1, 2)), points.common[kept].sum(axis=1))
        at, weight = thinned(weight[along], MOST_NODES)
        kept = np.flatnonzero(usable)[along][at]
    effects = points.effects
    successes, trials = successes_of_groups(model.cells, sign)
    posterior = GeneralizedPosterior(
        family=responses.family,
        weight=weight / weight.sum(),
        replicate=found.nodes.replicate[kept],
        pareto_k=found.nodes.pareto_k,
        common=sign * points.common[kept],
        factor=points.variance.relative_factor[kept],
        theta=found.nodes.theta[kept, model.n_common :],
        parameters=model.parameters,
        effects=EffectMoments(sign * effects.mean[:, kept], effects.covariance[:, kept], sign * effects.third[:, kept]),
        group_log_likelihood=points.log_integral[kept] + group_constants(responses, scaling),
        scaling=scaling.columns,
        has_intercept=responses.has_intercept,
        tails=found.tails,
        log_growth=None if points.log_growth is None else points.log_growth[kept],
        successes=successes,
        trials=trials,
    )
    return FoundGeneralized(posterior, found.reliable, found, kept)
