"""The marginal posterior of the variance parameters of a Gaussian hierarchical model.

Common coefficients and group effects are integrated out exactly. Symbols, for one grouping factor:
``y = X b + Z_j u_j + e``, ``e ~ N(0, sigma^2)``, ``u_j ~ N(0, sigma^2 Lambda Lambda')``,
``b ~ N(m, K^-1)``; ``A_j = Z_j' W Z_j``, ``B_j = Z_j' W [X y]``, ``G = [X y]' W [X y]``. With

    A_j = L_j L_j',  D_j = L_j^-1 B_j,  W = G - sum_j D_j' D_j     (once; W is within groups)
    M_j = I + L_j' S L_j,  S = Lambda Lambda'
    C   = W + sum_j D_j' M_j^-1 D_j                    (free of sigma)
    Q   = C_xx / sigma^2 + K,   r = C_xy / sigma^2 + K m,   b_hat = Q^-1 r

    -2 log p(y | sigma, Lambda) = n log 2 pi + n log sigma^2 + sum_j log|M_j|
        + log|Q| - log|K| + C_yy / sigma^2 + m' K m - r' b_hat

(Bates et al. 2015, J. Stat. Softw. 67(1), sections 3.4 and 3.5, with a prior on b). C is a sum of
squares, so that no digits are lost where groups explain nearly all; ``G - sum_j B_j' H_j B_j``, the
same in exact arithmetic, loses them all. Given (sigma, Lambda, b) the effects u_j have the covariance
``sigma^2 H_j``, ``H_j = Lambda (I + Lambda' A_j Lambda)^-1 Lambda'``.

Arrays hold the points of theta first and the groups last, so that a few points times thousands of
groups, or hundreds of points times a few groups, are one stretch of arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from hbsk._engine.common_coefficients import COLUMNS_FOR_TRIANGLES, ConditionalCommon
from hbsk._engine.group_algebra import ROUNDING, between_groups, rotate_groups
from hbsk._engine.group_passes import GroupPasses
from hbsk._engine.quadrature import score_nodes
from hbsk._engine.sums import GroupSums
from hbsk._engine.variance_parameters import (
    RESIDUAL_SD_FLOOR,
    VarianceParameters,
    VariancePoints,
)

# Given theta, x = log(sigma - floor) is integrated by the trapezoid rule in t. With many rows more
# than columns the law of x is nearly normal, x = mode + width t, and few points are exact (2e-8 of
# log p for a sum of squares of 60 degrees of freedom); with few it is skew, and x = mode + width
# sinh(t) reaches its long tail. (Degrees of freedom below which a rule is used, low, high, step.)
_STRETCHED_RULES = ((30, -3.4, 4.2, 0.13), (60, -3.4, 4.2, 0.2))
_PLAIN_RULE = (-6.0, 7.0, 0.8)
SIGMA_NEWTON_STEPS = 60
# Numbers of the matrices of common columns that are held at a time (8 MB, and as much for each of a few steps).
HELD_NUMBERS = 2**20
# In widths: a step of a quarter leaves a few thousandths (sleepstudy), and the rule needs no better than a tenth.
SIGMA_MODE_TOLERANCE = 0.3


def _sigma_rule(n_free: float) -> tuple[np.ndarray, np.ndarray]:
    """Return offsets in widths and weights of the quadrature of x, for n_free more rows than columns."""
    for below, low, high, step in _STRETCHED_RULES:
        if n_free < below:
            t = np.arange(low, high, step)
            return np.sinh(t), np.cosh(t) * step
    low, high, step = _PLAIN_RULE
    t = np.arange(low, high, step)
    return t, np.full(len(t), step)


@dataclass(frozen=True)
class MarginalPoints:
    """The marginal posterior at several points theta.

    Attributes
    ----------
    theta : ndarray of shape (n_points, n_dim)
    log_density : ndarray of shape (n_points,)
        Log posterior density of theta, sigma integrated out where that form is used, up to
        the constant log p(y).
    variance : VariancePoints
    common : ConditionalCommon
    sigma, log_sigma, weight : ndarray of shape (n_points, n_grid)
        Grid of sigma, its logarithm, and conditional probabilities given theta (one column, weight 1,
        in the joint form).
    """

    theta: np.ndarray
    log_density: np.ndarray
    variance: VariancePoints
    common: ConditionalCommon
    sigma: np.ndarray
    log_sigma: np.ndarray
    weight: np.ndarray


class MarginalModel:
    """A Gaussian hierarchical model with one grouping factor, in engine units.

    Parameters
    ----------
    sums : GroupSums
    parameters : VarianceParameters
    prior_mean, prior_precision : ndarray of shape (p,)
        Of the common coefficients; precision 0 is a flat prior.
    """

    def __init__(
        self,
        sums: GroupSums,
        parameters: VarianceParameters,
        prior_mean: np.ndarray,
        prior_precision: np.ndarray,
    ):
        self.sums = sums
        self.parameters = parameters
        self.prior_mean = prior_mean
        self.prior_precision = prior_precision

    def __getstate__(self) -> dict:
        """Leave what can be computed again out of a pickle."""
        names = ("sums", "parameters", "prior_mean", "prior_precision")
        return {name: getattr(self, name) for name in names}

    def thinned(self, step: int) -> MarginalModel:
        """Return the model of every step-th group, with their share of what varies within groups."""
        sums = self.sums
        kept = sums.copies[::step]
        share = kept.sum() / max(sums.copies.sum(), 1.0)
        zz, zx = sums.zz[:, :, ::step], sums.zx[:, :, ::step]
        few = GroupSums(
            zz=zz,
            zx=zx,
            xx=share * self.passes.within + between_groups(rotate_groups(zz, zx)[1]),
            n=share * sums.n,
            log_weight=share * sums.log_weight,
            copies=kept,
        )
        return MarginalModel(few, self.parameters, self.prior_mean, self.prior_precision)

    # the density

    def evaluate(self, theta: np.ndarray) -> MarginalPoints:
        """Return the log posterior density at points of shape (n_points, n_dim).

        Of many common columns no matrices are kept.
        """
        return self._evaluate(theta, keep_basis=self.sums.n_common < COLUMNS_FOR_TRIANGLES)

    def _evaluate(self, theta, keep_basis):
        variance = self.parameters.points(theta)
        log_det, common = self._integrate_effects(theta, variance, keep_basis)
        if variance.sigma is None:
            mode, width = self._sigma_mode(common, variance.prior_sd)
            # x = log(sigma - floor) runs over the real line
            offset, step = self._sigma_rule
            x = (mode + width * offset[:, None]).T  # points first, and next to each other in memory
            sigma = RESIDUAL_SD_FLOOR + np.exp(x)
            log_sigma = np.log(sigma)
            logs, log_step = (log_sigma, x), (np.log(width) + np.log(step)[:, None]).T
        else:
            sigma = variance.sigma[:, None]
            log_sigma, logs, log_step = np.log(sigma), None, 0.0
        log_joint = self._log_likelihood(common, log_det, sigma, log_sigma)
        log_joint += self.parameters.sd_log_prior(theta, sigma, variance.prior_sd, logs)
        log_joint += log_step
        top = log_joint.max(axis=1, keepdims=True)
        log_joint -= top
        weight = np.exp(log_joint, out=log_joint)
        total = weight.sum(axis=1, keepdims=True)
        weight /= total
        log_density = (top + np.log(total))[:, 0]
        log_density += self.parameters.correlation_log_prior(theta) + self.parameters.location_log_prior(variance)
        return MarginalPoints(theta, log_density, variance, common, sigma, log_sigma, weight)

    def rough_log_density(self, theta: np.ndarray) -> np.ndarray:
        """Return about the log density at points (n_points, n_dim), at one sigma each: good enough to choose one."""
        variance = self.parameters.points(theta)
        log_det, common = self._integrate_effects(theta, variance, keep_basis=False)
        sigma = (self._sigma_estimate(common) if variance.sigma is None else variance.sigma)[:, None]
        log_joint = self._log_likelihood(common, log_det, sigma, np.log(sigma))
        log_joint += self.parameters.sd_log_prior(theta, sigma, variance.prior_sd)
        log_prior = self.parameters.correlation_log_prior(theta) + self.parameters.location_log_prior(variance)
        return log_joint[:, 0] + log_prior

    def _integrate_effects(
        self, theta: np.ndarray, variance: VariancePoints, keep_basis: bool
    ) -> tuple[np.ndarray, ConditionalCommon]:
        """Return ``sum_j log|M_j|`` and the law of the common coefficients, a few points at a time."""
        factor, sigma = variance.relative_factor, variance.sigma
        blocks = []
        for at in self.point_blocks(len(factor)):
            log_det, reduced = self.reduce_at(theta[at], factor[at])
            given = None if sigma is None else sigma[at]
            common = ConditionalCommon.near(
                reduced, self.prior_mean, self.prior_precision, max(self.sums.n, 1.0), given
            )
            blocks.append((log_det, common if keep_basis else replace(common, basis=None)))
        log_dets, laws = zip(*blocks, strict=True)
        return np.concatenate(log_dets), joined(laws)

    def point_blocks(self, n_points: int) -> list[slice]:
        """Return stretches of points whose matrices of common columns are held at the same time."""
        width = max(1, HELD_NUMBERS // (self.sums.n_common + 1) ** 2)
        return [slice(start, min(start + width, n_points)) for start in range(0, max(n_points, 1), width)]

    def without_effects(self) -> MarginalPoints:
        """Return the posterior at nodes of sigma, each of weight `WEIGHTS`, where no effects vary by group."""
        log_det, reduced = self.reduce(np.zeros((1, 0, 0)))
        common = ConditionalCommon.of(reduced, self.prior_mean, self.prior_precision, max(self.sums.n, 1.0))
        prior, transform = self.parameters.residual_sd, self.parameters.sigma_transform

        def log_density(x):
            sigma = transform.sd(x)
            log_likelihood = self._log_likelihood(common, log_det, sigma[None], np.log(sigma)[None])[0]
            return log_likelihood + prior.log_density(sigma) + transform.log_jacobian(x)[0]

        sigma = transform.sd(score_nodes(log_density, *transform.ends))
        n = len(sigma)
        common = ConditionalCommon(**{name: np.repeat(part, n, axis=0) for name, part in vars(common).items()})
        no_sd = np.zeros((n, 0))
        variance = VariancePoints(no_sd, np.zeros((n, 0, 0)), sigma, no_sd, np.zeros((n, 0, 0)))
        at, certain = sigma[:, None], np.ones((n, 1))
        return MarginalPoints(no_sd, np.zeros(n), variance, common, at, np.log(at), certain)

    def gradient(self, points: MarginalPoints) -> np.ndarray:
        """Return the gradient of the log density at evaluated points, (n_points, n_dim)."""
        s, eigenvalue, coordinate = points.common.at(points.log_sigma)
        adjoint = self._adjoint(points.common, points.weight, s, eigenvalue, coordinate)
        by_factor = self._factor_gradient(points.variance.relative_factor, adjoint)
        by_log_sigma = None
        if not self.parameters.integrated:
            slope = points.common.log_sigma_slope(points.log_sigma, self.sums.n)
            by_log_sigma = slope[:, 0]
        return self.parameters.gradient(
            points.theta,
            points.variance,
            points.sigma,
            points.weight,
            by_factor,
            by_log_sigma,
        )

    def _factor_gradient(self, factor, adjoint):
        """Return d log p(y) / d Lambda, (n_points, q, q)."""
        return 2.0 * self.passes.covariance_gradient(factor, adjoint) @ factor

    def value_and_gradient(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return log density (n_points,) and gradient (n_points, n_dim)."""
        points = self._evaluate(theta, keep_basis=True)
        return points.log_density, self.gradient(points)

    def log_marginal_likelihood(self, relative_factor, sigma) -> np.ndarray:
        """Return log p(y | sigma, Lambda), the common coefficients integrated over their prior.

        With a flat prior on all of them this is the restricted likelihood (REML) up to a
        constant. ``relative_factor`` is (n_points, q, q), ``sigma`` (n_points,).
        """
        log_det, reduced = self.reduce(relative_factor)
        common = ConditionalCommon.near(
            reduced, self.prior_mean, self.prior_precision, max(self.sums.n, 1.0), np.asarray(sigma, dtype=float)
        )
        sigma = np.asarray(sigma, dtype=float)[:, None]
        return self._log_likelihood(common, log_det, sigma, np.log(sigma))[:, 0]

    def _log_likelihood(self, common, log_det, sigma, log_sigma):
        """Return log p(y | sigma, Lambda) over a grid of sigma."""
        prior = float(np.sum(self.prior_precision * self.prior_mean**2))
        quadratic, log_q = common.reduce(sigma, self._least_residual, prior)
        total = log_q + quadratic
        total += (2 * self.sums.n) * log_sigma
        total += (log_det + self._log_constant)[:, None]
        total *= -0.5
        return total

    @cached_property
    def _log_constant(self) -> float:
        """What -2 log p holds besides functions of theta."""
        proper = self.prior_precision > 0
        constant = -np.sum(np.log(self.prior_precision[proper]))
        return constant + (self.sums.n - np.sum(~proper)) * np.log(2 * np.pi) - self.sums.log_weight

    # sigma given theta

    def _sigma_estimate(self, common):
        """Return sigma from the residual sum of squares at sigma = reference, a tenth of a sd off where rows are many.

        Over the degrees of freedom that the coefficients and the Jacobians of the sds leave.
        """
        fitted = np.sum((common.slope + common.constant) ** 2, axis=1)
        left = np.maximum(common.residual - fitted, 1e-3 * common.residual) + 1e-300
        degrees = self.sums.n - common.share.sum(axis=1) - self.parameters.n_varying - 1.0
        return common.reference * np.sqrt(left / np.maximum(degrees, 0.5 * max(self.sums.n, 1.0)))

    def _sigma_mode(self, common, prior_sd):
        """Return mode and width of x = log(sigma - floor) given theta."""

        def slope(x):
            log_sigma = np.log(RESIDUAL_SD_FLOOR + np.exp(x))
            likelihood = common.log_sigma_slope(log_sigma, self.sums.n)
            prior = self.parameters.sigma_slope_of_sd_log_prior(np.exp(log_sigma), prior_sd)
            return (likelihood + prior) * np.exp(x - log_sigma)

        x = np.log(self._sigma_estimate(common))
        difference = np.array([[0.0], [1e-4]])
        for _ in range(SIGMA_NEWTON_STEPS):
            here, above = slope((x + difference).T).T
            curvature = np.maximum((here - above) / difference[1], 1e-2)
            step = np.clip(here / curvature, -1.0, 1.0)
            x = x + step
            if np.all(np.abs(step) <= SIGMA_MODE_TOLERANCE * np.minimum(curvature**-0.5, 2.0)):
                break
        return x, np.minimum(curvature**-0.5, 2.0)

    @cached_property
    def _sigma_rule(self):
        return _sigma_rule(self.sums.n - self.sums.n_common)

    def _adjoint(self, common, weight, s, eigenvalue, coordinate):
        """Return the expectation over sigma of ``-2 d log p(y) / d C``, (n_points, P, P)."""
        scale = weight * s / common.reference[:, None] ** 2
        scaled = scale[:, :, None] * coordinate
        inner = scaled.swapaxes(1, 2) @ coordinate
        diagonal = np.einsum("mii->mi", inner)
        diagonal += np.sum(scale[:, :, None] / eigenvalue, axis=1)
        p = inner.shape[1]
        adjoint = np.empty((len(scale), p + 1, p + 1))
        adjoint[:, :p, :p] = common.basis @ inner @ common.basis.swapaxes(1, 2)
        adjoint[:, :p, p] = adjoint[:, p, :p] = -(common.basis @ scaled.sum(axis=1)[:, :, None])[:, :, 0]
        adjoint[:, p, p] = scale.sum(axis=1)
        return adjoint

    # sums over the groups

    @cached_property
    def passes(self) -> GroupPasses:
        """Sums over groups for any Lambda."""
        return GroupPasses(self.sums)

    def reduce(self, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Integrate the group effects out: see `GroupPasses.reduce`."""
        return self.passes.reduce(factor)

    def reduce_at(self, theta: np.ndarray, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG002
        """Integrate the group effects out at points theta, of which ``factor`` is Lambda."""
        return self.reduce(factor)

    @cached_property
    def _least_residual(self) -> float:
        """Sum of squares within groups that no common coefficients explain, or less, never more."""
        within, total = self.passes.within, np.diag(self.sums.xx)
        unit = np.sqrt(np.where(total > 0, total, 1.0))
        scaled = within / np.outer(unit, unit)
        values, vectors = np.linalg.eigh(scaled[:-1, :-1])
        # a column may hardly vary within groups and explain y there all the same
        explained = np.sum((vectors.T @ scaled[:-1, -1]) ** 2 / np.maximum(values - ROUNDING, 1e-22))
        return float(max(scaled[-1, -1] - explained - 10 * ROUNDING, 0.0) * unit[-1] ** 2)


def joined(parts):
    """Return the arrays of equal nested dataclasses, one after another."""
    return parts[0] if len(parts) == 1 else map_arrays(lambda *arrays: np.concatenate(arrays), *parts)


def map_arrays(function, *items):
    """Apply a function to corresponding arrays of equal nested dataclasses."""
    first = items[0]
    if first is None or isinstance(first, np.ndarray):
        return None if first is None else function(*items)
    fields = {name: map_arrays(function, *(getattr(i, name) for i in items)) for name in vars(first)}
    return type(first)(**fields)
