"""The log posterior density of common coefficients and variance parameters together, group effects integrated out.

    log p(b, theta | y) = sum_j log integral L_j(b, Lambda z) phi(z) dz + log p(b) + log p(theta) + constant

Its gradient and Hessian are those of Louis (1982, J. R. Stat. Soc. B 44): with the scores s_jk of group j at the k-th
point of its quadrature and the conditional probabilities r_jk of these,

    gradient = sum_jk r_jk s_jk,    Hessian = -sum_jk r_jk I_jk + sum_j Var_r(s_jk),

I_jk the information there. They hold the points of the quadrature fixed, which below five points would be seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from hbsk._engine.generalized.cells import Cells, repeated
from hbsk._engine.generalized.families import FAMILIES
from hbsk._engine.generalized.inner import (
    EffectMoments,
    GroupIntegrals,
    Rule,
    effect_moments,
    group_modes,
    hermite_rule,
    integrate_about,
    integrate_groups,
    log_mean_exponential,
    node_blocks,
    pairs,
    times,
    triples,
)
from hbsk._engine.generalized.likelihood import group_likelihood
from hbsk._engine.generalized.working import ModeStart, WorkingModel, complete_pooling, working_model
from hbsk._engine.mode_search import Look
from hbsk._engine.variance_parameters import VarianceParameters, VariancePoints

# Step in theta of the differences that carry derivatives in Lambda over to theta: those of a few smooth functions.
DIFFERENCE_STEP = 1e-4


@dataclass(frozen=True)
class GeneralizedPoints:
    """The posterior at several points psi = (b, theta).

    Attributes
    ----------
    log_density : ndarray of shape (n_points,)
    common : ndarray of shape (n_points, p)
    variance : VariancePoints
    log_integral : ndarray of shape (n_points, n_groups)
        ``log p(y_j | b, theta)`` of each group, without what depends on y alone.
    effects : EffectMoments or None
        Moments of the group effects given each point.
    log_growth : ndarray of shape (n_points, n_groups) or None
        ``log E[e^u]`` of groups of counts with a varying intercept alone.
    """

    log_density: np.ndarray
    common: np.ndarray
    variance: VariancePoints
    log_integral: np.ndarray
    effects: EffectMoments | None = None
    log_growth: np.ndarray | None = None


@dataclass(frozen=True)
class GeneralizedModel:
    """A binary or count model with one grouping factor at most, in engine units.

    Attributes
    ----------
    cells : Cells
    parameters : VarianceParameters
        With a residual sd of 1: the relative factor is that of the effects themselves.
    prior_mean, prior_precision : ndarray of shape (p,)
        Of the common coefficients; precision 0 is a flat prior.
    points_per_axis : int
        Of the quadrature over the effects of a group.
    """

    cells: Cells
    parameters: VarianceParameters
    prior_mean: np.ndarray
    prior_precision: np.ndarray
    points_per_axis: int

    @property
    def n_common(self) -> int:
        """Number of common columns (p)."""
        return len(self.prior_mean)

    @property
    def n_dim(self) -> int:
        """Number of coordinates of psi."""
        return self.n_common + self.parameters.n_dim

    @property
    def rule(self) -> Rule:
        """The quadrature over the effects of a group."""
        return hermite_rule(self.points_per_axis, self.cells.n_varying)

    def thinned(self, step: int) -> GeneralizedModel:
        """Return the model of every step-th group."""
        return replace(self, cells=self.cells.of(np.arange(0, self.cells.n_groups, step)))

    @cached_property
    def pooled(self) -> WorkingModel:
        """The working model at the mode of the coefficients without effects of groups."""
        common, q = complete_pooling(self.cells, self.prior_mean, self.prior_precision), self.cells.n_varying
        return working_model(self.cells, common, np.zeros((q, q)), np.zeros((q, self.cells.n_groups)))

    # priors

    @cached_property
    def _log_norm(self) -> float:
        known = self.prior_precision > 0
        return 0.5 * float(np.sum(np.log(self.prior_precision[known] / (2 * np.pi))))

    def log_prior(self, common: np.ndarray, theta: np.ndarray, variance: VariancePoints) -> np.ndarray:
        """Return the log prior density, (n_points,), of coefficients (n_points, p) and theta, Jacobians included."""
        parameters = self.parameters
        value = self._log_norm - 0.5 * (common - self.prior_mean) ** 2 @ self.prior_precision
        return value + self.log_prior_of_theta(theta, variance) if parameters.n_varying else value

    def log_prior_of_theta(self, theta: np.ndarray, variance: VariancePoints) -> np.ndarray:
        """Return the log prior density of theta, (n_points,)."""
        parameters = self.parameters
        value = parameters.sd_log_prior(theta, np.ones((len(theta), 1)), variance.prior_sd)[:, 0]
        return value + parameters.correlation_log_prior(theta) + parameters.location_log_prior(variance)

    # the density

    def evaluate(self, psi: np.ndarray, start: ModeStart | None = None, *, moments: bool = False) -> GeneralizedPoints:
        """Return the log posterior density at points (n_points, n_dim), up to a constant.

        Parameters
        ----------
        psi : ndarray of shape (n_points, n_dim)
        start : ModeStart, optional
            Where the modes of groups are looked for; at zero by default.
        moments : bool, default=False
            Whether moments of the effects of groups are wanted.
        """
        common, theta = psi[:, : self.n_common], psi[:, self.n_common :]
        variance, factor = self.variance_points(theta)
        n_groups, q = self.cells.n_groups, self.cells.n_varying
        # points are next to each other in memory, as in all that is put there
        log_integral = np.empty((n_groups, len(psi))).T
        effects, growth = None, None
        if moments and self.cells.family == "poisson" and self.cells.varies_by_intercept:
            growth = np.empty((n_groups, len(psi))).T
        if moments:
            sizes = (q, len(pairs(q)), len(triples(q)))
            effects = EffectMoments(*(np.empty((size, n_groups, len(psi))).swapaxes(1, 2) for size in sizes))
        for points, groups, cells in self.cells.blocks(len(psi)):
            b, scale = common[points], factor[points]
            z = np.zeros((q, cells.n_groups, len(b))) if start is None else start.modes(b, scale, groups)
            base = cells.predictor(b)
            likelihood = group_likelihood(cells, base)
            found = integrate_about(likelihood, *group_modes(cells, base, scale, z, likelihood), scale, self.rule)
            log_integral[points, groups] = found.log_integral.T + b @ cells.yx.T + cells.y_offset
            if effects is None:
                continue
            moments_here = effect_moments(found, scale)
            for whole, part in zip(effects, moments_here, strict=True):
                whole[:, points, groups] = part
            if growth is not None:
                expected = likelihood.derivatives(np.zeros_like(z))[0][0].T
                growth[points, groups] = log_mean_exponential(moments_here, scale[:, 0, 0], cells.yz[0], expected)
        log_density = log_integral.sum(axis=1) + self.log_prior(common, theta, variance)
        return GeneralizedPoints(log_density, common, variance, log_integral, effects, growth)

    def log_ratios(self, psi: np.ndarray, start: ModeStart, finer: Rule) -> np.ndarray:
        """Return log densities by another rule less those by the model's own, about the same modes, (n_points,)."""
        common, theta = psi[:, : self.n_common], psi[:, self.n_common :]
        _, factor = self.variance_points(theta)
        n_own, together = len(self.rule.node), Rule(*map(np.concatenate, zip(self.rule, finer, strict=True)))
        total = np.zeros(len(psi))
        for points, groups, cells in self.cells.blocks(len(psi)):
            b, scale = common[points], factor[points]
            z = start.modes(b, scale, groups)
            share = integrate_groups(cells, cells.predictor(b), scale, z, together).share
            total[points] += np.log(share[n_own:].sum(axis=0) / share[:n_own].sum(axis=0)).sum(axis=0)
        return total

    def common_gradient(self, psi: np.ndarray, start: ModeStart) -> np.ndarray:
        """Return derivatives of the log density in the common coefficients, (n_points, p): of Fisher's identity."""
        common, factor = psi[:, : self.n_common], self.variance_points(psi[:, self.n_common :])[1]
        gradient = self.prior_precision * (self.prior_mean - common)
        mean_of = FAMILIES[self.cells.family].mean_and_weight
        for points, groups, cells in self.cells.blocks(len(psi)):
            b, scale = common[points], factor[points]
            base = cells.predictor(b)
            found = integrate_groups(cells, base, scale, start.modes(b, scale, groups), self.rule)
            expected = np.zeros(base.shape)
            for node, share in zip(self.rule.node, found.share, strict=True):
                moved = cells.strata.effects(times(scale, found.z_at(node[None])))[0]
                expected += mean_of(base + repeated(moved, cells.strata.of_cell))[0] * repeated(share, cells.group)
            gradient[points] += (cells.y[:, None] - cells.size[:, None] * expected).T @ cells.x
        return gradient

    def variance_points(self, theta: np.ndarray) -> tuple[VariancePoints, np.ndarray]:
        """Return the variance parameters at theta, (n_points, n_theta), and ``Lambda``, (n_points, q, q)."""
        variance = self.parameters.points(theta)
        # points are next to each other in memory, as in all that is multiplied with them
        return variance, np.ascontiguousarray(variance.relative_factor.transpose(1, 2, 0)).transpose(2, 0, 1)

    # derivatives

    def look(self, psi: np.ndarray, start: np.ndarray) -> tuple[Look, np.ndarray]:
        """Return the density at one point with its derivatives, and the modes of groups, (q, n_groups, 1).

        Parameters
        ----------
        psi : ndarray of shape (n_dim,)
        start : ndarray of shape (q, n_groups, 1)
            Where these modes are looked for.
        """
        p, q, n_theta = self.n_common, self.cells.n_varying, self.parameters.n_dim
        b, steps = psi[None, :p], DIFFERENCE_STEP * np.eye(n_theta)
        around = psi[p:] + np.concatenate([np.zeros((1, n_theta)), steps, -steps])
        variance, factors = self.variance_points(around)
        factor = factors[:1]
        value = float(self.log_prior(b, around, variance)[0])
        size = p + q * q
        gradient, hessian, modes = np.zeros(size), np.zeros((size, size)), np.empty((q, self.cells.n_groups, 1))
        for groups, cells in self.cells.parts:
            base = cells.predictor(b)
            found = integrate_groups(cells, base, factor, start[:, groups], self.rule)
            value += float(np.sum(found.log_integral[:, 0] + cells.yx @ b[0] + cells.y_offset))
            modes[:, groups] = found.mode
            of_part = louis_derivatives(cells, base[:, 0], factor, found, self.rule)
            gradient += of_part[0]
            hessian += of_part[1]
        hessian[:p, :p] -= np.diag(self.prior_precision)
        gradient[:p] -= self.prior_precision * (psi[:p] - self.prior_mean)
        gradient, hessian = self._in_theta(around, variance, factors, gradient, hessian)
        return Look(psi, value, gradient, -hessian), modes

    def _in_theta(self, around, points, factors, gradient, hessian):
        """Carry derivatives in (b, Lambda) over to (b, theta), with those of the prior of theta.

        ``around`` holds theta, and a step of `DIFFERENCE_STEP` up and one down in each coordinate.
        """
        p, q, n_theta = self.n_common, self.cells.n_varying, self.parameters.n_dim
        if not n_theta:
            return gradient[:p], hessian[:p, :p]
        one, by_factor = np.ones((len(around), 1)), gradient[p:].reshape(1, q, q)
        # the gradient in theta with the derivative in Lambda held: its slope is the curvature of prior and map
        slopes = self.parameters.gradient(around, points, one, one, by_factor, None)
        curvature = (slopes[1 : n_theta + 1] - slopes[n_theta + 1 :]) / (2 * DIFFERENCE_STEP)
        jacobian = (factors[1 : n_theta + 1] - factors[n_theta + 1 :]).reshape(n_theta, -1).T / (2 * DIFFERENCE_STEP)
        change = np.zeros((p + q * q, p + n_theta))
        change[:p, :p] = np.eye(p)
        change[p:, p:] = jacobian
        hessian = change.T @ hessian @ change
        hessian[p:, p:] += 0.5 * (curvature + curvature.T)
        return np.concatenate([gradient[:p], slopes[0]]), hessian


def louis_derivatives(
    cells: Cells, base: np.ndarray, factor: np.ndarray, found: GroupIntegrals, rule: Rule
) -> tuple[np.ndarray, np.ndarray]:
    """Return gradient and Hessian in (b, Lambda) of the log likelihood, Lambda row by row.

    The derivative of the predictor of a row is ``[x, z_a zeta_c]``, zeta the group's point of the quadrature.

    Parameters
    ----------
    cells : Cells
    base : ndarray of shape (n_cells,)
    factor : ndarray of shape (1, q, q)
    found : GroupIntegrals
        At one point.
    rule : Rule
    """
    family, strata = FAMILIES[cells.family], cells.strata
    p, q = cells.x.shape[1], cells.n_varying
    # expected weights of cells, and times zeta, and of strata times products of zeta
    weight, with_zeta = np.zeros(cells.n_cells), np.zeros((q, cells.n_cells))
    with_products = np.zeros((q, q, len(strata.group)))
    # nodes are in the place of points: all sums are those of whole rows
    share, zeta = found.share[:, :, 0].T, found.z_at(rule.node)[..., 0].swapaxes(1, 2)
    scores = np.empty((p + q * q, *share.shape))
    moved = strata.effects(times(factor, zeta))
    for nodes in node_blocks(rule, len(base)):
        here = zeta[..., nodes]
        mean, curvature = family.mean_and_weight(base[:, None] + repeated(moved[:, nodes], strata.of_cell))
        residual = cells.y[:, None] - cells.size[:, None] * mean
        scores[:p, :, nodes] = (cells.times_x @ residual).reshape(p, cells.n_groups, residual.shape[1])
        by_stratum = strata.of_cells(residual)
        for a in range(q):
            by_effect = strata.to_groups(strata.times_column(by_stratum, a))
            scores[p + q * a : p + q * (a + 1), :, nodes] = by_effect * here
        curvature = curvature * (cells.size[:, None] * repeated(share[:, nodes], cells.group))
        weight += curvature.sum(axis=1)
        of_strata = strata.of_cells(curvature)
        for a in range(q):
            with_zeta[a] += np.einsum("ik,ik->i", curvature, repeated(here[a], cells.group))
            for c in range(a + 1):
                with_products[a, c] += np.einsum("sk,sk->s", of_strata, repeated(here[a] * here[c], strata.group))
                with_products[c, a] = with_products[a, c]
    gradient = np.einsum("ajk,jk->aj", scores, share)
    rooted = ((scores - gradient[..., None]) * np.sqrt(share)).reshape(p + q * q, -1)
    return gradient.sum(axis=1), rooted @ rooted.T - _information(cells, weight, with_zeta, with_products)


def _information(cells, weight, with_zeta, with_products):
    """Return ``sum w d d'`` over cells, d = [x, z_a zeta_c].

    Given sums over nodes of w and w zeta of cells, and of w zeta zeta' of strata.
    """
    p, q = cells.x.shape[1], cells.n_varying
    columns = cells.strata.columns
    information = np.empty((p + q * q, p + q * q))
    information[:p, :p] = cells.x.T @ (cells.x * weight[:, None])
    for a in range(q):
        of_column = slice(p + q * a, p + q * (a + 1))
        information[:p, of_column] = cells.x.T @ (with_zeta * cells.columns[a]).T
        for c in range(q):
            information[of_column, p + q * c : p + q * (c + 1)] = with_products @ (columns[a] * columns[c])
    information[p:, :p] = information[:p, p:].T
    return information
