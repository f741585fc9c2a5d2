"""The posterior of a Gaussian model with several grouping factors, as something that answers.

Variance parameters and common coefficients are averaged over all nodes. Effects and rows, for which each node costs a
matrix of all effects beside the largest factor, are averaged over the nodes where that is cheap; otherwise over few
*moment nodes* (`hbsk._engine.moment_nodes`): means are off by up to .009 posterior sds, sds by .7 %. Matrices are made
at the first question that needs them and never pickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from hbsk._engine.crossed import CrossedModel, integrate_crossed
from hbsk._engine.fit import IntegratedNodes, own_errors, sample_model
from hbsk._engine.hub_passes import HubPasses
from hbsk._engine.marginal import map_arrays
from hbsk._engine.moment_nodes import moment_nodes
from hbsk._engine.node_algebra import conditional_quantile, distinct_matrices
from hbsk._engine.propriety import Tails
from hbsk._engine.scaling import ColumnScaling
from hbsk._engine.settings import DEFAULT, IntegrationSettings
from hbsk._engine.threads import one_thread_each
from hbsk._engine.variance_law import SIGMAS, VarianceLaw
from hbsk._engine.varying_location import sds_and_correlations
from hbsk._posterior.base import CONTRAST_DRAWS, Posterior
from hbsk._posterior.crossed_draws import draw_effects, draw_given_rest, draw_nodes
from hbsk._posterior.crossed_laws import (
    KnownRows,
    NodeLaw,
    coefficients_at,
    few_nodes,
    levels_at_node,
    n_lambdas,
    rows_at_node,
    share_kept,
    single_nodes,
    taken,
)
from hbsk._posterior.diagnostics import marginal_diagnostics
from hbsk._posterior.nodes import FAR, usable_nodes
from hbsk._posterior.orders import RowOrders
from hbsk._posterior.own_estimates import own_effects, products_left
from hbsk._posterior.parts import GroupMoments, JointDraws, RowMixture, VarianceNodes, mean_variance, turned_effects

# Numbers of the matrices of all nodes up to which effects are averaged over every one of them (160 MB).
KEPT_NUMBERS = 20_000_000


@dataclass(frozen=True)
class CrossedPosterior(Posterior):
    """Posterior of a Gaussian model with several grouping factors; arrays are in engine units.

    Attributes
    ----------
    weight : ndarray of shape (n_nodes,)
    replicate : ndarray of shape (n_nodes,), dtype int
    pareto_k : float
    theta : ndarray of shape (n_nodes, d)
    sigma : ndarray of shape (n_nodes,)
    sigmas : ndarray of shape (n_nodes, n_sigmas)
        Values of sigma at evenly spaced levels of its law given the node, for the law of the variance parameters.
    factor : ndarray of shape (n_nodes, q, q)
        ``Lambda`` of all factors, block diagonal.
    common_mean : ndarray of shape (n_nodes, p)
    common_root : ndarray of shape (n_nodes, p, p)
        Roots of the covariance of the common coefficients.
    model : CrossedModel
    scalings : tuple of ColumnScaling, one per factor
    has_intercept : bool
    tails : Tails
        Which moments do not exist.
    n_chains : int
    by_quadrature : bool
    effect_mean : ndarray of shape (q,) or None
        Fixed prior means of the effects of the raw columns of all factors, which were taken off y; None for zeros.
    probes : ndarray of shape (n_nodes, n_probes) or None
        Log density at the nodes by each probe of log-determinants alone, less their mean.
    law : VarianceLaw or None
        Of the variance parameters, where a polynomial knows it better than the nodes with several sigmas each.
    """

    weight: np.ndarray
    replicate: np.ndarray
    pareto_k: float
    theta: np.ndarray
    sigma: np.ndarray
    sigmas: np.ndarray
    factor: np.ndarray
    common_mean: np.ndarray
    common_root: np.ndarray
    model: CrossedModel
    scalings: tuple[ColumnScaling, ...]
    has_intercept: bool
    tails: Tails = field(default_factory=Tails)
    n_chains: int = 0
    by_quadrature: bool = False
    effect_mean: np.ndarray | None = None
    probes: np.ndarray | None = None
    law: VarianceLaw | None = None

    has_crossed_model = True

    def __getstate__(self) -> dict:
        """Leave what can be computed again out of a pickle."""
        return {name: value for name, value in vars(self).items() if name != "_laws"}

    @property
    def n_groups(self) -> tuple[int, ...]:
        """Number of groups of each factor."""
        return tuple(factor.n_groups for factor in self.model.sums.factors)

    @property
    def scaling(self) -> ColumnScaling:
        """Scaling of y and of the common columns."""
        return self.scalings[0]

    @property
    def is_stochastic(self) -> bool:
        """Whether there are draws of effects, in place of their covariances."""
        return self.probes is not None

    # parameters

    def common_estimates(self) -> np.ndarray:
        """Return the mean (p,) of the coefficients of the raw columns."""
        return self.scaling.coefficients(self.weight @ self.common_mean, self.has_intercept)

    def common_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean (p,) and covariance (p, p) of the coefficients of the raw columns."""
        return self.common_estimates(), self._common_covariance(self.weight, self.common_mean, self.common_root)

    def _common_covariance(self, weight, mean, root) -> np.ndarray:
        """Return the covariance of the coefficients of the raw columns over weighted nodes."""
        deviation = mean - weight @ mean
        covariance = (weight[:, None] * deviation).T @ deviation
        covariance += np.einsum("m,mik,mjk->ij", weight, root, root, optimize=True)
        jacobian = self._jacobian()
        return jacobian.T @ covariance @ jacobian

    def _jacobian(self) -> np.ndarray:
        """Return the derivative (p, p_raw) of raw coefficients in those of the engine."""
        scaling = replace(self.scaling, y_centre=0.0)
        return scaling.coefficients(np.eye(self.common_mean.shape[1]), self.has_intercept)

    def common_mixture(self) -> tuple[np.ndarray, np.ndarray]:
        """Return means and sds, each (n_nodes, p), of the coefficients of the raw columns."""
        mean = self.scaling.coefficients(self.common_mean, self.has_intercept)
        return mean, np.sqrt(np.sum((self._jacobian().T @ self.common_root) ** 2, axis=2))

    def variance_nodes(self) -> VarianceNodes:
        """Return the variance parameters at the nodes."""
        return self._in_users_units(self.sigma, self.factor)

    def residual_sds(self) -> np.ndarray:
        """Return the residual sd at the nodes, (n_nodes,)."""
        return self.sigma * self.scaling.y_scale

    def variance_law(self) -> tuple[VarianceNodes, np.ndarray, np.ndarray]:
        """Return weighted points of the variance parameters; see `Posterior.variance_law`."""
        if self.law is not None:
            sample = self.law.sample
            factor = self.law.model.parameters.points(sample.theta).relative_factor
            return self._in_users_units(np.exp(sample.log_sigma), factor), sample.weight, sample.replicate
        n = self.sigmas.shape[1]
        nodes = self._in_users_units(self.sigmas.ravel(), np.repeat(self.factor, n, axis=0))
        return nodes, np.repeat(self.weight / n, n), np.repeat(self.replicate, n)

    def _in_users_units(self, sigma, factor) -> VarianceNodes:
        sds, correlations, between, sums = [], [], [], self.model.sums
        for scaling, at, of_levels in zip(self.scalings, sums.columns, sums.factors, strict=True):
            raw = scaling.effects(factor[:, at, at].swapaxes(1, 2)).swapaxes(1, 2)
            sd, correlation = sds_and_correlations(raw)
            sds.append(sigma[:, None] * sd)
            correlations.append(correlation)
            between.append(mean_variance(factor[:, at, at], of_levels.zz.sum(axis=2) / sums.n))
        sigma_y = sigma * self.scaling.y_scale
        return VarianceNodes(sigma_y, sds, correlations, between=sigma_y[:, None] ** 2 * np.stack(between, axis=1))

    def probe_error(self, values: np.ndarray) -> np.ndarray | float:
        """Return the errors of means of values at the nodes, (n_nodes, k), that log-determinants by probes make.

        A mean moves by its covariance with what the log density is off by, which is the mean of what each of the
        independent probes is off by.
        """
        if self.probes is None:
            return 0.0
        n_probes = self.probes.shape[1]
        moved = (self.weight[:, None] * (values - self.weight @ values)).T @ self.probes
        return np.sqrt(np.sum(moved**2, axis=1) / (n_probes * max(n_probes - 1, 1)))

    def probes_suffice(self, target: float) -> bool:
        """Whether the errors that probes make of variance parameters are small, in posterior sds."""
        values = np.column_stack([self.theta, np.log(self.sigma)])
        sd = np.sqrt(self.weight @ (values - self.weight @ values) ** 2)
        return bool(np.all(self.probe_error(values) <= target * sd + 1e-12))

    def diagnostics(self, specification, *, sigma_is_parameter: bool):
        """Return Monte Carlo errors of every parameter, or ArviZ's diagnostics of chains where there are any."""
        return marginal_diagnostics(specification, self, sigma_is_parameter=sigma_is_parameter)

    def row_degrees(self, x: np.ndarray, z: Sequence, codes: Sequence, *, with_noise: bool = False) -> np.ndarray:
        """Return the order below which moments of rows exist, of the linear predictor or of y; see `row_mixture`."""
        of_rows = RowOrders(self.model.sums, self.scalings, self.has_intercept).of_rows
        return of_rows(self.tails, x, z, codes, with_noise=with_noise)

    def about_zero(self) -> tuple[CrossedPosterior, float]:
        """Return the posterior of y less a number, and that number: 0 unless floats would lose what y differs by."""
        location = self.scaling.y_centre
        if not self.has_intercept or abs(location) * FAR <= self.scaling.y_scale:
            return self, 0.0
        near = replace(self, scalings=tuple(replace(scaling, y_centre=0.0) for scaling in self.scalings))
        vars(near)["_laws"] = self._laws
        return near, location

    # laws at moment nodes

    @cached_property
    def _laws(self) -> list[NodeLaw]:
        """Everything at the moment nodes, as many in each part as are worked on together."""
        with own_errors(), self.model.passes.kept(numbers=KEPT_NUMBERS):
            nodes = self._moment_nodes()
            factor = nodes[2]
            passes, is_bordered = self.model.passes, isinstance(self.model.passes, HubPasses)
            # two of the moment nodes differ in sigma alone
            distinct, same = passes.distinct(factor) if is_bordered else distinct_matrices(factor)
            weight = np.bincount(same, nodes[0])
            parts = passes.hub_effects(distinct) if is_bordered else passes.effects_at(distinct, weight)
            laws, start = [], 0
            for effects in parts:
                width = n_lambdas(effects)
                here = np.flatnonzero((same >= start) & (same < start + width))
                own = effects if width == 1 else taken(effects, same[here] - start)
                laws.append(NodeLaw(*(part[here] for part in nodes), own))
                start += width
        return laws

    def _moment_nodes(self):
        """Return weights, sigma, Lambda, means and roots of the nodes that effects and rows are averaged over."""
        every = self.weight, self.sigma, self.factor, self.common_mean, self.common_root
        if self.n_nodes * self.model.passes.numbers_kept <= KEPT_NUMBERS or self.theta.shape[1] == 0:
            return every
        integrated, n = self.model.parameters.integrated, self.sigmas.shape[1]
        values, weight, log_sigma = np.repeat(self.theta, n, axis=0), np.repeat(self.weight / n, n), np.log(self.sigmas)
        if self.law is not None and self.law.sample is not None:
            values, weight, log_sigma = self.law.sample.theta, self.law.sample.weight, self.law.sample.log_sigma
        if integrated:
            values = np.column_stack([values, log_sigma.ravel()])
        # where hubs' effects cost nothing besides
        others = self.model.passes.other_columns if isinstance(self.model.passes, HubPasses) else []
        shared = self.model.parameters.coordinates_of(others) if others else []
        values, weight = moment_nodes(values, weight, shared)
        if len(values) >= self.n_nodes:
            return every
        theta, same = np.unique(values[:, :-1] if integrated else values, axis=0, return_inverse=True)
        points = map_arrays(lambda part: part[same], self.model.evaluate(theta))
        log_sigma = values[:, -1] if integrated else np.log(points.variance.sigma)
        common_mean, root = coefficients_at(points.common, log_sigma)
        return weight, np.exp(log_sigma), points.variance.relative_factor, common_mean, root

    # rows

    def row_mixture(self, x: np.ndarray, z: Sequence, codes: Sequence) -> RowMixture:
        """Return the mixture of the linear predictor of rows; a component is normal given its moment node."""
        offset, rows = self._scaled(x, z, codes)
        passes, scale = self.model.passes, self.scaling.y_scale
        parts = [rows_at_node(law, passes, rows) for law in few_nodes(self._laws, len(x))]
        mean, variance = (np.concatenate(part) for part in zip(*parts, strict=True))
        weight = np.concatenate([law.weight for law in self._laws])
        return RowMixture(weight, offset + scale * mean, scale**2 * np.maximum(variance, 0.0))

    def row_moments(self, x, z, codes, need_variance=True):
        """Return mean and variance (or None) of the linear predictor of rows."""
        offset, rows = self._scaled(x, z, codes)
        mean, spread, seen = np.zeros(len(x)), np.zeros(len(x)), 0.0
        for law in few_nodes(self._laws, len(x)):
            of_nodes, variance = rows_at_node(law, self.model.passes, rows, need_variance=need_variance)
            # a few nodes at a time, about the mean so far (West 1979, Comm. ACM 22(9))
            seen += law.weight.sum()
            deviation = of_nodes - mean
            mean = mean + law.weight @ deviation / seen
            if variance is not None:
                spread += law.weight @ (variance + deviation * (of_nodes - mean))
        scale = self.scaling.y_scale
        return offset + scale * mean, scale**2 * np.maximum(spread, 0.0) if need_variance else None

    def _scaled(self, x, z, codes) -> tuple[np.ndarray, KnownRows]:
        """Return what was taken off y, in its units, and rows in the units of the engine."""
        offset = self.scaling.y_centre * x[:, 0] if self.has_intercept else np.zeros(len(x))
        if self.effect_mean is not None:
            offset = offset + np.concatenate(z, axis=1) @ self.effect_mean
        scaled = [scaling.varying(part) for scaling, part in zip(self.scalings, z, strict=True)]
        return offset, KnownRows.of(self.scaling.common(x, self.has_intercept), scaled, codes, self.n_groups)

    def row_sigma(self, codes: Sequence) -> np.ndarray:  # noqa: ARG002 - the same for all rows
        """Return sigma at the moment nodes, (n_moment_nodes, 1)."""
        return self.scaling.y_scale * np.concatenate([law.sigma for law in self._laws])[:, None]

    def noise_variance(self, codes: Sequence) -> np.ndarray:  # noqa: ARG002 - the same for all rows
        """Return the mean of sigma^2 over the nodes."""
        return np.atleast_1d(self.weight @ (self.scaling.y_scale * self.sigma) ** 2)

    # groups

    def group_moments(self, factor: int = 0, *, need_covariance: bool = True) -> GroupMoments:
        """Return posterior moments of the effects of all groups of a factor."""
        mean = self._effect_mean(factor)
        raw = self.scalings[factor].effects
        in_units = raw(mean)
        if self.effect_mean is not None:
            in_units = in_units + self.effect_mean[self.model.sums.columns[factor]]
        if not need_covariance:
            return GroupMoments(in_units, None, None)
        weight = np.concatenate([law.weight for law in self._laws])
        common = np.concatenate([law.common_mean for law in self._laws])
        root = np.concatenate([law.common_root for law in self._laws])
        common_mean = weight @ common
        covariance, with_common = 0.0, 0.0
        for law in few_nodes(self._laws, mean.size * mean.shape[1]):
            level = levels_at_node(law, self.model.passes, factor)
            through = level.reach @ law.common_root[:, None]
            deviation = level.mean - mean
            of_nodes = law.sigma[:, None, None, None] ** 2 * level.phi + through @ through.swapaxes(2, 3)
            of_nodes += deviation[..., :, None] * deviation[..., None, :]
            covariance = covariance + np.tensordot(law.weight, of_nodes, 1)
            of_nodes = (law.common_mean - common_mean)[:, None, :, None] * deviation[..., None, :]
            of_nodes = of_nodes - law.common_root[:, None] @ through.swapaxes(2, 3)
            with_common = with_common + np.tensordot(law.weight, of_nodes, 1)
        return GroupMoments(
            in_units,
            raw(raw(covariance).swapaxes(1, 2)),
            raw(np.einsum("ia,jik->jak", self._jacobian(), with_common)),
            self._common_covariance(weight, common, root),
        )

    def _effect_mean(self, factor: int) -> np.ndarray:
        """Return the posterior mean of all effects of a factor, in engine units, (n_groups, q)."""
        return sum(
            np.tensordot(law.weight, levels_at_node(law, self.model.passes, factor).mean, 1) for law in self._laws
        )

    def own_effects(self, factor: int) -> np.ndarray:
        """Return the least-squares effects of all groups of a factor; see `Posterior.own_effects`."""
        sums = self.model.sums
        means = [self._effect_mean(g) for g in range(len(sums.factors))]
        left = products_left(sums, factor, self.weight @ self.common_mean, means)
        own = own_effects(sums.factors[factor].zz, left, self.scalings[factor])
        return own if self.effect_mean is None else own + self.effect_mean[sums.columns[factor]]

    def shrinkage(self, factor: int = 0, turned: np.ndarray | None = None) -> np.ndarray:
        """Return ``1 - Var(u_jk | y, b, sigma, Sigma) / tau_k^2``, averaged; the other factors' effects integrated."""
        raw, passes = turned_effects(self.scalings[factor], turned), self.model.passes
        kept = [(law.weight, share_kept(law.effects, law.factor, passes, factor, raw)) for law in self._laws]
        return sum(np.tensordot(weight, share, 1) for weight, share in kept)

    # draws

    def group_draws(self, n_draws: int, rng: np.random.Generator, factor: int | None = None) -> JointDraws:
        """Return joint draws with the effects of every known group; of drawn covariances those that there are."""
        if not self.is_stochastic:
            return super().group_draws(n_draws, rng, factor)
        wanted = [np.arange(n if factor in (None, f) else 0) for f, n in enumerate(self.n_groups)]
        parts, commons, sigmas, factors = [], [], [], []
        nodes = list(single_nodes(self._laws))
        for law, n in zip(nodes, _draws_of_nodes(nodes, n_draws), strict=True):
            noise = law.effects.rest_phi.sample(rng)[:, :n]
            common = law.common_mean + rng.standard_normal((n, len(law.common_mean))) @ law.common_root.T
            sigma, contrast = np.full(n, law.sigma), np.concatenate([-common, np.ones((n, 1))], axis=1).T
            rest, place = law.effects.rest_solved @ contrast + sigma * noise, np.zeros(n, dtype=int)
            first = law.effects.first[None]
            parts.append(draw_given_rest(self.model.passes, first, place, rest, sigma, contrast, rng, wanted))
            commons.append(common)
            sigmas.append(sigma)
            factors.append(np.repeat(law.factor[None], n, axis=0))
        effects = [np.concatenate(of_factor) for of_factor in zip(*parts, strict=True)]
        return self._joint(*map(np.concatenate, (commons, sigmas, factors)), effects)

    def effect_draws(self, factor: int, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return joint draws of the effects of some known groups; of drawn covariances those that there are."""
        if not self.is_stochastic:
            return super().effect_draws(factor, groups, rng)
        return self.group_draws(CONTRAST_DRAWS, rng, factor).effects[factor][:, groups]

    def chain_draws(self, n_chains: int, n_draws: int, rng: np.random.Generator) -> tuple[JointDraws, tuple[int, int]]:
        """Return joint draws by chain; of drawn covariances there are not enough."""
        if self.is_stochastic:
            raise ValueError(
                f"to_datatree would hold {n_chains * n_draws} joint draws of {sum(self.n_groups)} groups, each of them "
                "a solve with all of these. Use group_effects_ and summary(), which need few, sample_y for draws of "
                "rows, or rank_groups."
            )
        return super().chain_draws(n_chains, n_draws, rng)

    def joint_draws(self, n_draws: int, rng: np.random.Generator, groups: Sequence[np.ndarray]) -> JointDraws:
        """Draw parameters jointly; see `Posterior.joint_draws`."""
        noise = rng.standard_normal((n_draws, self.common_mean.shape[1]))
        with own_errors(), one_thread_each():
            drawn = draw_nodes(self, n_draws, rng)
            common = drawn.common_mean + np.einsum("sij,sj->si", drawn.common_root, noise)
            effects = draw_effects(self.model.passes, drawn, common, rng, groups, KEPT_NUMBERS)
        return self._joint(common, drawn.sigma, drawn.factor, effects)

    def _joint(self, common, sigma, factor, effects) -> JointDraws:
        """Return joint draws, given those in the units of the engine."""
        effects = [scaling.effects(part) for scaling, part in zip(self.scalings, effects, strict=True)]
        if self.effect_mean is not None:
            columns = self.model.sums.columns
            effects = [part + self.effect_mean[of] for part, of in zip(effects, columns, strict=True)]
        variance = self._in_users_units(sigma, factor)
        return JointDraws(self.scaling.coefficients(common, self.has_intercept), variance, effects)


def fit_crossed(
    model: CrossedModel,
    scalings: tuple[ColumnScaling, ...],
    has_intercept: bool,
    tails: Tails,
    sampler: dict,
    settings: IntegrationSettings = DEFAULT,
) -> tuple[CrossedPosterior, bool]:
    """Integrate a model with several grouping factors.

    Parameters
    ----------
    model : CrossedModel
    scalings : tuple of ColumnScaling, one per factor
    has_intercept : bool
    tails : Tails
        From `crossed_tails`.
    sampler : dict
        Arguments of `sample_log_density`, for a posterior that importance sampling cannot reach.
    settings : IntegrationSettings, optional

    Returns
    -------
    posterior : CrossedPosterior
    is_reliable : bool
        Whether Pareto k and the Monte Carlo error met their targets.
    """
    found = integrate_crossed(model, tails, settings, sampler["verbose"])
    # where points are dear enough for that, thousands of them are out of reach
    if not found.reliable and not model.passes.is_stochastic:
        with own_errors():
            found = sample_model(model, found, sampler)
    posterior = _answering(found, model, scalings, has_intercept)
    return posterior, found.reliable and posterior.probes_suffice(2 * settings.error_target)


def _draws_of_nodes(nodes, n_draws: int) -> np.ndarray:
    """Return how many of about so many draws each moment node has by its weight; none has more than there are."""
    weight = np.array([law.weight for law in nodes])
    there_are = np.array([law.effects.rest_phi.n_draws for law in nodes])
    wanted = min(n_draws, np.min(there_are / weight))
    return np.minimum(np.diff(np.rint(wanted * np.cumsum(weight)), prepend=0.0).astype(int), there_are)


def _answering(found: IntegratedNodes, model, scalings, has_intercept) -> CrossedPosterior:
    points = found.points
    with own_errors():
        levels = (np.arange(SIGMAS) + found.level[:, None]) / SIGMAS
        levels = np.concatenate([found.level[:, None], levels], axis=1)
        log_sigma, *log_sigmas = conditional_quantile(points.log_sigma, points.weight, levels).T
        sigma = np.exp(log_sigma) if points.variance.sigma is None else points.variance.sigma
        sigmas = np.exp(np.stack(log_sigmas, axis=1))
        factor = points.variance.relative_factor
        usable = usable_nodes(found.weight, sigma, sigma[:, None, None] * factor)
        mean, root = coefficients_at(points.common, log_sigma)
    weight, probes = found.weight[usable], None
    if model.passes.is_stochastic:
        known = model.passes.log_dets_by_probe(factor[usable]) if found.by_probe is None else found.by_probe[usable]
        by_probe = -0.5 * known
        probes = by_probe - by_probe.mean(axis=1, keepdims=True)
    return CrossedPosterior(
        weight=weight / weight.sum(),
        replicate=found.replicate[usable],
        pareto_k=found.pareto_k,
        theta=points.theta[usable],
        sigma=sigma[usable],
        sigmas=sigmas[usable] if points.variance.sigma is None else sigma[usable, None],
        factor=factor[usable],
        common_mean=mean[usable],
        common_root=root[usable],
        model=model,
        scalings=scalings,
        has_intercept=has_intercept,
        tails=found.tails,
        n_chains=found.n_chains,
        by_quadrature=found.by_quadrature,
        probes=probes,
        law=found.law,
    )
