"""Posteriors as answers: moments, mixtures and draws of coefficients, group effects and rows.

Two kinds with one interface, so that nothing after ``fit`` depends on which engine ran:
`MarginalPosterior` (weighted nodes of the variance parameters and group sums; everything else is
conditional Gaussian algebra) and `DrawsPosterior` (draws of all parameters, from NUTS). Rows come
in as raw design columns; answers are in the units of y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from hbsk._engine.common_roots import node_blocks, node_covariances, node_means, node_roots
from hbsk._engine.group_algebra import lower_indices, made_up_by_rounding, relative_inverse, unpack_symmetric
from hbsk._engine.group_passes import GroupPasses, find_cells
from hbsk._engine.marginal import MarginalModel, MarginalPoints
from hbsk._engine.node_algebra import (
    GroupLaws,
    conditional_quantile,
    contrasts_given_groups,
    rows_given_groups,
    squared_norm,
)
from hbsk._engine.propriety import Tails
from hbsk._engine.scaling import ColumnScaling
from hbsk._engine.sums import GroupSums
from hbsk._engine.variance_law import VarianceLaw
from hbsk._engine.varying_location import sds_and_correlations
from hbsk._posterior.base import Posterior
from hbsk._posterior.concentrated import few_nodes
from hbsk._posterior.diagnostics import marginal_diagnostics
from hbsk._posterior.group_moments import effect_moments
from hbsk._posterior.node_draws import at_draws, coloured, draw_effects
from hbsk._posterior.orders import RowOrders
from hbsk._posterior.parts import (
    BLOCK_ELEMENTS,
    GroupMoments,
    JointDraws,
    RowMixture,
    VarianceNodes,
    mean_variance,
    moments_by_block,
    turned_effects,
)

# Sds from 0 at which y is answered for less its location: there floats keep eight digits of an sd.
FAR = 1e-8
# Weight of nodes beyond floating point that cannot be missed.
LOST_WEIGHT = 1e-6
LARGEST_PARAMETER = 1e75
# Nodes at which sds of many coefficients are looked at before a fit warns.
NODES_FOR_SDS = 16
# What a posterior computes when it is first asked, and leaves out of pickles.
COMPUTED = ("_effects", "_effects_with_spread", "_expected_covariance", "_passes", "_law_points", "common_root")


@dataclass(frozen=True)
class MarginalPosterior(Posterior):
    """Posterior of a Gaussian model with at most one grouping factor.

    All arrays are in engine units (`ColumnScaling`).

    Attributes
    ----------
    weight : ndarray of shape (n_nodes,)
    replicate : ndarray of shape (n_nodes,), dtype int
    pareto_k : float
    sigma : ndarray of shape (n_nodes,)
    factor : ndarray of shape (n_nodes, q, q)
        ``Lambda``: sds relative to sigma, times the factor of the correlation matrix.
    common_mean : ndarray of shape (n_nodes, p)
    prior_precision : ndarray of shape (p,)
        Of the common coefficients.
    sums : GroupSums
    scaling : ColumnScaling
    has_intercept : bool
    tails : Tails
        Which moments do not exist.
    n_chains : int
        Chains of equal length that the nodes are, where the variance parameters were sampled; otherwise 0.
    by_quadrature : bool
        Whether one sd is unknown at most, and the nodes are those of `hbsk._engine.quadrature`.
    effect_mean : ndarray of shape (q,) or None
        Fixed prior means of the effects of raw columns, which were taken off y; None for zeros.
    law : VarianceLaw or None
        The law of the variance parameters, finer than the nodes; None where the nodes are all there is.
    """

    weight: np.ndarray
    replicate: np.ndarray
    pareto_k: float
    sigma: np.ndarray
    factor: np.ndarray
    common_mean: np.ndarray
    prior_precision: np.ndarray
    sums: GroupSums
    scaling: ColumnScaling
    has_intercept: bool
    tails: Tails = field(default_factory=Tails)
    n_chains: int = 0
    by_quadrature: bool = False
    effect_mean: np.ndarray | None = None
    law: VarianceLaw | None = None

    @property
    def n_groups(self) -> tuple[int, ...]:
        """Number of groups of each factor."""
        return (self.sums.n_groups,) if self.factor.shape[1] else ()

    # parameters

    def common_estimates(self) -> np.ndarray:
        """Return the mean (p,) of the coefficients of the raw columns."""
        return self.scaling.coefficients(self.weight @ self.common_mean, self.has_intercept)

    def common_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean (p,) and covariance (p, p) of the coefficients of the raw columns."""
        raw = self.common_estimates()
        jacobian = self._jacobian()
        return raw, jacobian.T @ self._common_covariance() @ jacobian

    def _jacobian(self) -> np.ndarray:
        """Return the derivative (p, p_raw) of raw coefficients in those of the engine."""
        scaling = replace(self.scaling, y_centre=0.0)
        return scaling.coefficients(np.eye(self.common_mean.shape[1]), self.has_intercept)

    def row_degrees(self, x: np.ndarray, z: Sequence, codes: Sequence, *, with_noise: bool = False) -> np.ndarray:
        """Return the order below which moments of rows exist, of the linear predictor or of y; see `row_mixture`."""
        of_rows = RowOrders(self.sums, (self.scaling,), self.has_intercept).of_rows
        return of_rows(self.tails, x, z if self.n_groups else [], codes, with_noise=with_noise)

    def about_zero(self) -> tuple[MarginalPosterior, float]:
        """Return the posterior of y less a number, and that number: 0 unless floats would lose what y differs by."""
        location = self.scaling.y_centre
        if not self.has_intercept or abs(location) * FAR <= self.scaling.y_scale:
            return self, 0.0
        return replace(self, scaling=replace(self.scaling, y_centre=0.0)), location

    def common_mixture(self) -> tuple[np.ndarray, np.ndarray]:
        """Return means and sds, each (n_nodes, p), of the coefficients of the raw columns."""
        mean = self.scaling.coefficients(self.common_mean, self.has_intercept)
        return mean, np.sqrt(np.concatenate([self._common_variances(nodes) for nodes in self.node_blocks()]))

    def _common_variances(self, nodes) -> np.ndarray:
        """Return variances (n_nodes, p) of the coefficients of the raw columns at nodes."""
        root, jacobian = self.roots(nodes), self._jacobian()
        # all but the intercept are multiples of one coefficient each
        mixed = np.count_nonzero(jacobian, axis=0) > 1
        variance = np.sum(root**2, axis=2) @ jacobian**2
        variance[:, mixed] = np.sum((jacobian[:, mixed].T @ root) ** 2, axis=2)
        return variance

    def judged_mixture(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return `common_mixture` with sds averaged over a few nodes; None where those of all nodes are at hand.

        From node to node sds differ as the variance parameters do, which are judged themselves.
        """
        if "common_root" in vars(self) or len(self.node_blocks()) == 1:
            return None
        levels = (np.arange(NODES_FOR_SDS) + 0.5) / NODES_FOR_SDS
        few = np.minimum(np.searchsorted(np.cumsum(self.weight), levels), self.n_nodes - 1)
        sd = np.sqrt(np.mean(self._common_variances(few), axis=0))
        mean = self.scaling.coefficients(self.common_mean, self.has_intercept)
        return mean, np.broadcast_to(sd, mean.shape)

    # given a node

    def node_blocks(self) -> list[slice]:
        """Return stretches of nodes whose roots are held at the same time."""
        return node_blocks(self.n_nodes, self.common_mean.shape[1])

    def roots(self, nodes: slice | np.ndarray) -> np.ndarray:
        """Return ``R`` at nodes, ``R R'`` the covariance of the common coefficients there; few are kept."""
        if "common_root" in vars(self) or len(self.node_blocks()) == 1:
            return self.common_root[nodes]
        return self._compute_roots(nodes)

    def covariances(self, nodes: slice) -> np.ndarray:
        """Return the covariances of the common coefficients at nodes, (n_nodes, p, p)."""
        if "common_root" in vars(self) or len(self.node_blocks()) == 1:
            root = self.common_root[nodes]
            return root @ root.swapaxes(1, 2)
        return self._compute_covariances(nodes)

    def _compute_covariances(self, nodes):
        return node_covariances(self._passes, self.sums.n, self.prior_precision, self.sigma[nodes], self.factor[nodes])

    @cached_property
    def common_root(self) -> np.ndarray:
        """Roots at all nodes, (n_nodes, p, p)."""
        return self._compute_roots(slice(None))

    def _compute_roots(self, nodes):
        return node_roots(self._passes, self.sums.n, self.prior_precision, self.sigma[nodes], self.factor[nodes])

    @cached_property
    def _passes(self) -> GroupPasses:
        return GroupPasses(self.sums) if self.law is None else self.law.model.passes

    def variance_nodes(self) -> VarianceNodes:
        """Return the variance parameters at the nodes."""
        return self._in_users_units(self.sigma, self.factor)

    def residual_sds(self) -> np.ndarray:
        """Return the residual sd at the nodes, (n_nodes,)."""
        return self.sigma * self.scaling.y_scale

    def variance_law(self) -> tuple[VarianceNodes, np.ndarray, np.ndarray]:
        """Return weighted points of the variance parameters; see `Posterior.variance_law`."""
        if self.law is None or self.law.sample is None:
            return self.variance_nodes(), self.weight, self.replicate
        return self._law_points

    @cached_property
    def _law_points(self) -> tuple[VarianceNodes, np.ndarray, np.ndarray]:
        sample = self.law.sample
        factor = self.law.model.parameters.points(sample.nodes).relative_factor
        values = self._in_users_units(np.exp(sample.log_sigma), factor, sample.node)
        return values, sample.weight, sample.replicate

    def diagnostics(self, specification, *, sigma_is_parameter: bool):
        """Return Monte Carlo errors of every parameter, or ArviZ's diagnostics of chains where there are any."""
        return marginal_diagnostics(specification, self, sigma_is_parameter=sigma_is_parameter)

    def _in_users_units(self, sigma, factor, node=slice(None)) -> VarianceNodes:
        """Return variance parameters at points; ``node`` says which Lambda each has."""
        sigma_y = sigma * self.scaling.y_scale
        if not factor.shape[1]:
            return VarianceNodes(sigma_y, [], [])
        raw = self.scaling.effects(factor.swapaxes(1, 2)).swapaxes(1, 2)
        sd, correlation = sds_and_correlations(raw)
        between = sigma_y**2 * mean_variance(factor, self.sums.zz.sum(axis=2) / self.sums.n)[node]
        return VarianceNodes(sigma_y, [sigma[:, None] * sd[node]], [correlation[node]], between=between[:, None])

    def _inverse(self, groups, nodes=slice(None)) -> np.ndarray:
        """Return ``H_j`` packed, (n_nodes, q (q + 1) / 2, n_groups); times sigma^2 it is Var(u_j | b, node)."""
        return relative_inverse(self.sums.zz[:, :, groups], self.factor[nodes])

    # rows

    def row_mixture(self, x: np.ndarray, z: Sequence, codes: Sequence) -> RowMixture:
        """Return the mixture of the linear predictor of rows; a component is normal given its node."""
        offset = self._offset(x, z)
        x = self.scaling.common(x, self.has_intercept)
        if not self.n_groups:
            variance = [squared_norm(self.roots(nodes), x.T[None]) for nodes in self.node_blocks()]
            return self._in_units_of_y(self.common_mean @ x.T, np.concatenate(variance), offset)
        z = self.scaling.varying(z[0])
        known = codes[0] < self.sums.n_groups
        groups, position = np.unique(np.where(known, codes[0], 0), return_inverse=True)
        mean, variance = np.empty((self.n_nodes, len(x))), np.empty((self.n_nodes, len(x)))
        of_known = np.where(known[:, None], z, 0.0)
        for nodes in self.node_blocks():
            laws = self._group_laws(groups, nodes)
            mean[nodes], variance[nodes] = rows_given_groups(laws, x, of_known, position)
        if not known.all():
            fresh = np.einsum("mkl,rk->mlr", self.factor, z[~known])
            variance[:, ~known] += self.sigma[:, None] ** 2 * np.sum(fresh**2, axis=1)
        return self._in_units_of_y(mean, variance, offset)

    def _group_laws(self, groups, nodes) -> GroupLaws:
        inverse, common_mean = self._inverse(groups, nodes), self.common_mean[nodes]
        full, zx = unpack_symmetric(inverse, self.factor.shape[1]), self.sums.zx[:, :, groups]
        contrast = np.concatenate([-common_mean, np.ones((len(common_mean), 1))], axis=1)
        effect = np.einsum("mklj,mlj->mkj", full, np.tensordot(contrast, zx, axes=([1], [1])))
        root = self.roots(nodes).swapaxes(1, 2)
        taken = (root[:, None] @ np.einsum("mklj,laj->mkaj", full, zx[:, :-1])).swapaxes(1, 2)  # of H B_x
        return GroupLaws(common_mean, root, effect, taken, self.sigma[nodes, None, None] ** 2 * inverse)

    def _means_at_nodes(self, x, z, codes):
        """Return means (n_nodes, n_rows) of scaled rows, and of their groups ``H z`` and ``B``."""
        known = codes < self.sums.n_groups
        at = np.where(known, codes, 0)
        solved = np.einsum("mklr,rl->mkr", unpack_symmetric(self._inverse(at), z.shape[1]), z)
        solved[:, :, ~known] = 0.0
        zx = self.sums.zx[:, :, at]
        return self.common_mean @ x.T + self._effect_means(zx, solved), solved, zx

    def _effect_means(self, zx, solved):
        """Return ``z' H (B_y - B_x b)`` over nodes and rows, from ``solved = H z``."""
        contrast = np.concatenate([-self.common_mean, np.ones((self.n_nodes, 1))], axis=1)
        left = np.tensordot(contrast, zx, axes=([1], [1]))  # (n_nodes, q, n_rows)
        return np.sum(left * solved, axis=1)

    def _in_units_of_y(self, mean, variance, offset) -> RowMixture:
        """Return the mixture of what was computed in the engine's units, in the same arrays."""
        mean *= self.scaling.y_scale
        mean += offset
        variance *= self.scaling.y_scale**2
        return RowMixture(self.weight, mean, variance)

    def _offset(self, x, z):
        """Return what was taken off y, in its units, at raw columns of rows."""
        offset = self.scaling.y_centre * x[:, 0] if self.has_intercept else np.zeros(len(x))
        return offset if self.effect_mean is None or not self.n_groups else offset + z[0] @ self.effect_mean

    def row_moments(self, x, z, codes, need_variance=True):
        """Return mean and variance (or None) of the linear predictor of rows.

        Many rows use moments of the groups, few rows the mixture; the answers are the same.
        """
        few = bool(self.n_groups) and len(x) <= self.sums.n_groups
        # of few rows indeed, as where one is predicted, means can do without variances and blocks
        at_once = few and self.n_nodes * len(x) * max(x.shape[1], self.factor.shape[1] ** 2) <= BLOCK_ELEMENTS
        few = few and (at_once or not self.has_short_moments)
        if few and (need_variance or not at_once):
            first, *others = self.node_blocks()
            at_once = None if not others or "common_root" in vars(self) else first.stop
            return moments_by_block(self, x, z, codes, at_once)
        # In engine units, where columns are centred: raw coefficients of a column far from zero would cancel.
        offset = self._offset(x, z)
        x = self.scaling.common(x, self.has_intercept)
        if few:
            mean, _, _ = self._means_at_nodes(x, self.scaling.varying(z[0]), codes[0])
            return offset + self.scaling.y_scale * (self.weight @ mean), None
        mean = x @ (self.weight @ self.common_mean)
        variance = None
        if need_variance and self.n_groups:
            _ = self._effects_with_spread  # the expected covariance comes with it
        if need_variance:
            variance = np.einsum("ri,ij,rj->r", x, self._common_covariance(), x, optimize=True)
        if self.n_groups:
            z = self.scaling.varying(z[0])
            known = codes[0] < self.sums.n_groups
            at = np.where(known, codes[0], 0)
            effects = self._effects_with_spread if need_variance else self._effects
            mean = mean + np.where(known, np.sum(z * effects.mean[at], axis=1), 0.0)
            if need_variance:
                within = np.einsum("rk,rkl,rl->r", z, effects.covariance[at], z, optimize=True)
                cross = np.einsum("ri,rik,rk->r", x, effects.with_common[at], z, optimize=True)
                fresh = np.einsum("rk,kl,rl->r", z, self._new_group_covariance(), z, optimize=True)
                variance = variance + np.where(known, within + 2 * cross, fresh)
        scale = self.scaling.y_scale
        mean = offset + scale * mean
        return mean, None if variance is None else scale**2 * np.maximum(variance, 0.0)

    def _common_covariance(self) -> np.ndarray:
        """Return the covariance of the common coefficients in engine units."""
        deviation = self.common_mean - self.weight @ self.common_mean
        return (self.weight[:, None] * deviation).T @ deviation + self._expected_covariance

    @cached_property
    def _expected_covariance(self) -> np.ndarray:
        p, few = self.common_mean.shape[1], few_nodes(self)
        total = np.zeros((p, p))
        for nodes in few.node_blocks():
            total += np.tensordot(few.weight[nodes], few.covariances(nodes), 1)
        return total

    def _new_group_covariance(self):
        """Return the posterior mean of Sigma in engine units."""
        factor = self.sigma[:, None, None] * self.factor
        return np.einsum("m,mkl,mil->ki", self.weight, factor, factor)

    # groups

    # whether moments of all groups cost less than the mixture of a few rows
    has_short_moments = False

    def group_moments(self, factor: int = 0, *, need_covariance: bool = True) -> GroupMoments:  # noqa: ARG002
        """Return posterior moments of the effects of all groups."""
        moments = self._effects_with_spread if need_covariance else self._effects
        raw = self.scaling.effects
        mean = raw(moments.mean)
        if self.effect_mean is not None:
            mean = mean + self.effect_mean
        if not need_covariance:
            return GroupMoments(mean, None, None)
        return GroupMoments(
            mean,
            raw(raw(moments.covariance).swapaxes(1, 2)),
            raw(np.einsum("ia,jik->jak", self._jacobian(), moments.with_common)),
        )

    def contrast_mixture(self, factor, z, first, second, rng) -> RowMixture:  # noqa: ARG002 - no draws are needed
        """Return the law of ``z'u_a - z'u_b`` of pairs of groups; a component is normal given its node."""
        z = self.scaling.varying(z[None])[0]
        groups, position = np.unique(np.concatenate([first, second]), return_inverse=True)
        pairs = position[: len(first)], position[len(first) :]
        parts = [contrasts_given_groups(self._group_laws(groups, nodes), z, *pairs) for nodes in self.node_blocks()]
        mean, variance = (np.concatenate(part) for part in zip(*parts, strict=True))
        return self._in_units_of_y(mean, variance, 0.0)

    @cached_property
    def _effects(self) -> GroupMoments:
        return self._engine_moments(need_covariance=False)

    @cached_property
    def _effects_with_spread(self) -> GroupMoments:
        return self._engine_moments(need_covariance=True)

    def _engine_moments(self, *, need_covariance: bool) -> GroupMoments:
        return effect_moments(self, need_covariance=need_covariance)

    def __getstate__(self) -> dict:
        """Leave what can be computed again out of a pickle."""
        return {name: value for name, value in vars(self).items() if name not in COMPUTED}

    def shrinkage(self, factor: int = 0, turned: np.ndarray | None = None) -> np.ndarray:  # noqa: ARG002 - one factor
        """Return ``1 - Var(u_jk | y, b, sigma, Sigma) / tau_k^2``, averaged; (n_groups, q)."""
        q, few = self.factor.shape[1], few_nodes(self)
        raw = turned_effects(self.scaling, turned)
        prior = np.sum(raw(few.factor.swapaxes(1, 2)).swapaxes(1, 2) ** 2, axis=2)
        row, column = lower_indices(q)
        # variances of raw effects from the packed ones of the engine
        to_raw = raw(np.eye(q)).T
        within = to_raw[:, row] * to_raw[:, column] * np.where(row == column, 1.0, 2.0)
        # nothing is kept of effects that are fixed, or as good as that
        is_free = prior > np.finfo(np.float64).tiny
        share = few.weight[:, None] * np.divide(1.0, prior, out=np.zeros_like(prior), where=is_free)
        free = few.weight @ is_free
        kept = np.einsum("mk,kh->kmh", share, within).reshape(q, -1)
        cell, first = find_cells(self.sums.zz)  # groups of one design keep the same share
        shrinkage = np.empty((len(first), q))
        width = max(16, BLOCK_ELEMENTS // (few.n_nodes * q * q))
        for start in range(0, len(first), width):
            at = slice(start, start + width)
            inverse = few._inverse(first[at])
            shrinkage[at] = free - (kept @ inverse.reshape(kept.shape[1], -1)).T
        return np.clip(shrinkage, 0.0, 1.0)[cell]

    # draws

    def joint_draws(self, n_draws: int, rng: np.random.Generator, groups: Sequence[np.ndarray]) -> JointDraws:
        """Draw parameters jointly; see `Posterior.joint_draws`."""
        drawn, source, at = at_draws(self, n_draws, rng)
        noise = rng.standard_normal((n_draws, self.common_mean.shape[1]))
        common = drawn.common_mean + coloured(source, at, noise)
        variance = drawn.variance_nodes()
        raw = self.scaling.coefficients(common, self.has_intercept)
        if not self.n_groups:
            return JointDraws(raw, variance, [])
        return JointDraws(raw, variance, [draw_effects(drawn, common, rng, groups[0])])

    def _between(self, between, weight) -> MarginalPosterior:
        """Return the posterior at nodes of equal weight between those of a quadrature."""
        parts = {name: between(getattr(self, name)) for name in ("factor", "common_mean")}
        sigma, replicate = np.exp(between(np.log(self.sigma))), np.zeros(len(weight), dtype=int)
        return replace(self, weight=weight, replicate=replicate, sigma=sigma, by_quadrature=False, **parts)


def marginal_posterior(
    points: MarginalPoints,
    weight: np.ndarray,
    replicate: np.ndarray,
    pareto_k: float,
    uniforms: np.ndarray,
    model: MarginalModel,
    scaling: ColumnScaling,
    has_intercept: bool,
) -> MarginalPosterior:
    """Fix sigma at each node, by its conditional law at a quasi-random level, and store."""
    log_sigma = conditional_quantile(points.log_sigma, points.weight, uniforms)
    sigma = np.exp(log_sigma) if points.variance.sigma is None else points.variance.sigma
    factor = points.variance.relative_factor
    if points.common.basis is None:
        mean = node_means(model, sigma, factor)
        root = mean[:, :, None]  # of many columns no matrices were kept
    else:
        _, eigenvalue, coordinate = points.common.at(log_sigma[:, None])
        mean = np.einsum("mij,mj->mi", points.common.basis, coordinate[:, 0])
        root = points.common.basis / np.sqrt(eigenvalue)
    usable = usable_nodes(
        weight, sigma, sigma[:, None, None] * factor, mean, root, made_up_by_rounding(model.sums.zz, factor)
    )
    weight = weight[usable] / weight[usable].sum()
    return MarginalPosterior(
        weight=weight,
        replicate=replicate[usable],
        pareto_k=pareto_k,
        sigma=sigma[usable],
        factor=factor[usable],
        common_mean=mean[usable],
        prior_precision=model.prior_precision,
        sums=model.sums,
        scaling=scaling,
        has_intercept=has_intercept,
    )


def usable_nodes(weight, *parameters) -> np.ndarray:
    """Return a mask of the nodes that have weight, whose parameters have fourth powers in floating point.

    Raises
    ------
    FloatingPointError
        Where others have weight that would be missed.
    """
    finite = np.ones(len(weight), dtype=bool)
    for values in parameters:
        size = np.abs(values)
        if not np.max(size, initial=0.0) <= LARGEST_PARAMETER:
            finite &= np.all(size <= LARGEST_PARAMETER, axis=tuple(range(1, values.ndim)))
    if not weight[~finite].sum() <= LOST_WEIGHT:
        raise FloatingPointError("parameters overflow")
    return finite & (weight > 0)
