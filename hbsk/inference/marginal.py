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

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hbsk.inference.common_coefficients import ConditionalCommon
from hbsk.inference.group_algebra import (
    ROUNDING,
    congruences,
    lower_indices,
    marginal_inverse,
    nonnegative,
    rotate_groups,
    unpack_symmetric,
)
from hbsk.inference.statistics import GroupSums
from hbsk.inference.threads import n_threads, one_thread_each
from hbsk.inference.variance_parameters import (
    RESIDUAL_SD_FLOOR,
    VarianceParameters,
    VariancePoints,
)

# Groups worked on at a time: a block of the arithmetic stays in the cache.
BLOCK_GROUPS = 2_048
BLOCKS_FOR_THREADS = 8
# Entries of small matrices worked on at a time, points times groups: 0.8 MB, of which a few fit the cache of a core
# (768 points, 85 groups: 1.1 ms instead of 2.9; 64 points, 2048 groups: 5.0 instead of 7.3).
CACHED_NUMBERS = 100_000
# But so many points at least, for each time that the products of data are read.
LEAST_POINTS = 16
# Numbers of products of data that are kept between evaluations (128 MiB).
KEPT_PRODUCTS = 2**24

# Given theta, x = log(sigma - floor) is integrated by the trapezoid rule in t. With many rows more
# than columns the law of x is nearly normal, x = mode + width t, and few points are exact (2e-8 of
# log p for a sum of squares of 60 degrees of freedom); with few it is skew, and x = mode + width
# sinh(t) reaches its long tail. (Degrees of freedom below which a rule is used, low, high, step.)
_STRETCHED_RULES = ((30, -3.4, 4.2, 0.13), (60, -3.4, 4.2, 0.2))
_PLAIN_RULE = (-6.0, 7.0, 0.8)
SIGMA_NEWTON_STEPS = 60
SIGMA_MODE_TOLERANCE = 0.1  # in widths; the rule needs no better


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
    log_sigma, weight : ndarray of shape (n_points, n_grid)
        Grid of log sigma and its conditional probabilities given theta (one column, weight 1,
        in the joint form).
    """

    theta: np.ndarray
    log_density: np.ndarray
    variance: VariancePoints
    common: ConditionalCommon
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
        _, rotated, within = self._rotated
        kept = sums.copies[::step]
        share = kept.sum() / max(sums.copies.sum(), 1.0)
        by_column = rotated[:, :, ::step].transpose(1, 0, 2).reshape(rotated.shape[1], -1)
        few = GroupSums(
            zz=sums.zz[:, :, ::step],
            zx=sums.zx[:, :, ::step],
            xx=share * within + by_column @ by_column.T,
            n=share * sums.n,
            log_weight=share * sums.log_weight,
            copies=kept,
        )
        return MarginalModel(few, self.parameters, self.prior_mean, self.prior_precision)

    # the density

    def evaluate(self, theta: np.ndarray) -> MarginalPoints:
        """Return the log posterior density at points of shape (n_points, n_dim)."""
        variance = self.parameters.points(theta)
        log_det, reduced = self.reduce(variance.relative_factor)
        common = ConditionalCommon.of(reduced, self.prior_mean, self.prior_precision, max(self.sums.n, 1.0))
        if self.parameters.integrated:
            mode, width = self._sigma_mode(common, variance.relative_sd)
            # x = log(sigma - floor) runs over the real line
            offset, step = self._sigma_rule
            sigma = RESIDUAL_SD_FLOOR + np.exp(mode[:, None] + width[:, None] * offset)
            log_step = np.log(width)[:, None] + np.log(step)
        else:
            sigma = variance.sigma[:, None]
            log_step = 0.0
        log_sigma = np.log(sigma)
        log_joint = self._log_likelihood(common, log_det, log_sigma)
        log_joint += self.parameters.sd_log_prior(theta, sigma, variance.relative_sd)
        log_joint += log_step
        top = log_joint.max(axis=1, keepdims=True)
        weight = np.exp(log_joint - top)
        total = weight.sum(axis=1, keepdims=True)
        log_density = (top + np.log(total))[:, 0]
        log_density += self.parameters.correlation_log_prior(theta)
        return MarginalPoints(theta, log_density, variance, common, log_sigma, weight / total)

    def gradient(self, points: MarginalPoints) -> np.ndarray:
        """Return the gradient of the log density at evaluated points, (n_points, n_dim)."""
        s, eigenvalue, coordinate = points.common.at(points.log_sigma)
        influence = self._influence(points.common, points.weight, s, eigenvalue, coordinate)
        by_covariance = self.covariance_gradient(points.variance.relative_factor, influence)
        by_log_sigma = None
        if not self.parameters.integrated:
            slope = self._log_likelihood_slope(points.common, s, eigenvalue, coordinate)
            by_log_sigma = slope[:, 0]
        return self.parameters.gradient(
            points.theta,
            points.variance,
            np.exp(points.log_sigma),
            points.weight,
            2.0 * by_covariance @ points.variance.relative_factor,
            by_log_sigma,
        )

    def value_and_gradient(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return log density (n_points,) and gradient (n_points, n_dim)."""
        points = self.evaluate(theta)
        return points.log_density, self.gradient(points)

    def log_marginal_likelihood(self, relative_factor, sigma) -> np.ndarray:
        """Return log p(y | sigma, Lambda), the common coefficients integrated over their prior.

        With a flat prior on all of them this is the restricted likelihood (REML) up to a
        constant. ``relative_factor`` is (n_points, q, q), ``sigma`` (n_points,).
        """
        log_det, reduced = self.reduce(relative_factor)
        common = ConditionalCommon.of(reduced, self.prior_mean, self.prior_precision, max(self.sums.n, 1.0))
        return self._log_likelihood(common, log_det, np.log(sigma)[:, None])[:, 0]

    def _log_likelihood(self, common, log_det, log_sigma):
        """Return log p(y | sigma, Lambda) over a grid of sigma."""
        prior = float(np.sum(self.prior_precision * self.prior_mean**2))
        quadratic, log_q = common.reduce(log_sigma, self._least_residual, prior)
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

    def _log_likelihood_slope(self, common, s, eigenvalue, coordinate):
        """Return d log p(y | sigma, Lambda) / d log sigma over a grid of sigma."""
        inner = common.share[:, None, :] / eigenvalue
        inner -= 2 * coordinate * common.slope[:, None, :]
        inner += coordinate**2 * common.share[:, None, :]
        return s * (common.residual[:, None] + inner.sum(axis=2)) - self.sums.n

    # sigma given theta

    def _sigma_mode(self, common, relative_sd):
        """Return mode and width of x = log(sigma - floor) given theta."""

        def slope(x):
            log_sigma = _log_sigma(x)
            likelihood = self._log_likelihood_slope(common, *common.at(log_sigma))
            prior = self.parameters.sigma_slope_of_sd_log_prior(np.exp(log_sigma), relative_sd)
            return (likelihood + prior) * np.exp(x - log_sigma)

        # The residual sum of squares at sigma = reference, over the degrees of freedom that the coefficients and the
        # Jacobians of the sds leave, is a start within a tenth of a width where rows are many.
        _, _, coordinate = common.at(np.log(common.reference)[:, None])
        fitted = np.sum(coordinate[:, 0] * (common.slope + common.constant), axis=1)
        left = np.maximum(common.residual - fitted, 1e-3 * common.residual) + 1e-300
        degrees = self.sums.n - common.share.sum(axis=1) - self.parameters.n_varying - 1.0
        x = np.log(common.reference) + 0.5 * np.log(left / np.maximum(degrees, 0.5 * max(self.sums.n, 1.0)))
        difference = np.array([0.0, 1e-4])
        for _ in range(SIGMA_NEWTON_STEPS):
            here, above = slope(x[:, None] + difference).T
            curvature = np.maximum((here - above) / difference[1], 1e-2)
            step = np.clip(here / curvature, -1.0, 1.0)
            x = x + step
            if np.all(np.abs(step) <= SIGMA_MODE_TOLERANCE * np.minimum(curvature**-0.5, 2.0)):
                break
        return x, np.minimum(curvature**-0.5, 2.0)

    @cached_property
    def _sigma_rule(self):
        return _sigma_rule(self.sums.n - self.sums.n_common)

    def _influence(self, common, weight, s, eigenvalue, coordinate):
        """Return the expectation over sigma of ``-2 d log p(y) / d C``, (n_points, P, P)."""
        scale = weight * s / common.reference[:, None] ** 2
        inner = np.einsum("mg,mgi,mgj->mij", scale, coordinate, coordinate)
        p = inner.shape[1]
        inner[:, range(p), range(p)] += np.sum(scale[:, :, None] / eigenvalue, axis=1)
        influence = np.empty((len(scale), p + 1, p + 1))
        influence[:, :p, :p] = common.basis @ inner @ common.basis.swapaxes(1, 2)
        mean = np.einsum("mg,mgi->mi", scale, coordinate)
        influence[:, :p, p] = influence[:, p, :p] = -np.einsum("mij,mj->mi", common.basis, mean)
        influence[:, p, p] = scale.sum(axis=1)
        return influence

    # passes over the groups

    @cached_property
    def _layout(self):
        """Index pairs of packed symmetric matrices, of varying and of common columns."""
        q, p1 = self.sums.zx.shape[:2]
        return lower_indices(q), lower_indices(p1)

    @cached_property
    def _rotated(self):
        """Return ``L_j`` (q, q, n_groups), ``D_j`` (q, p + 1, n_groups) and W (p + 1, p + 1)."""
        lower, rotated = rotate_groups(self.sums.zz, self.sums.zx)
        by_column = rotated.transpose(1, 0, 2).reshape(rotated.shape[1], -1)
        within = nonnegative(self.sums.xx - by_column @ by_column.T, np.diag(self.sums.xx))
        return lower, rotated, within

    @cached_property
    def _least_residual(self) -> float:
        """Sum of squares within groups that no common coefficients explain, or less, never more."""
        within, total = self._rotated[2], np.diag(self.sums.xx)
        unit = np.sqrt(np.where(total > 0, total, 1.0))
        scaled = within / np.outer(unit, unit)
        values, vectors = np.linalg.eigh(scaled[:-1, :-1])
        # a column may hardly vary within groups and explain y there all the same
        explained = np.sum((vectors.T @ scaled[:-1, -1]) ** 2 / np.maximum(values - ROUNDING, 1e-22))
        return float(max(scaled[-1, -1] - explained - 10 * ROUNDING, 0.0) * unit[-1] ** 2)

    @cached_property
    def _blocks(self) -> list[slice]:
        """Slices of groups; fixed, so that sums come out the same for any number of threads."""
        n_groups = self.sums.n_groups
        return [slice(start, min(start + BLOCK_GROUPS, n_groups)) for start in range(0, n_groups, BLOCK_GROUPS)]

    @cached_property
    def _kept_products(self) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """Products of all blocks where they are small enough to be kept between evaluations."""
        (row, _), (a, _) = self._layout
        if len(row) * (len(row) + len(a)) * self.sums.n_groups > KEPT_PRODUCTS:
            return None
        return [self._make_products(groups) for groups in self._blocks]

    def _products(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what evaluations need of a block of groups.

        The maps of `congruences`; and ``D_k' D_l + D_l' D_k`` (half of it for k = l), packed: (pairs_p, pairs_q, J).
        """
        kept = self._kept_products
        return self._make_products(self._blocks[block]) if kept is None else kept[block]

    def _make_products(self, groups):
        (row, column), (a, _) = self._layout
        rotated = self._rotated[1][:, :, groups]
        products = np.empty((len(a), len(row), rotated.shape[2]))
        for i, (k, m) in enumerate(zip(row, column, strict=True)):
            at = 0
            for first in range(rotated.shape[1]):
                out = products[at : at + first + 1, i]
                np.multiply(rotated[k, first], rotated[m, : first + 1], out=out)
                if k != m:
                    out += rotated[m, first] * rotated[k, : first + 1]
                at += first + 1
        return congruences(self._rotated[0][:, :, groups]), products

    def _over_blocks(self, work: Callable[[int], tuple]) -> list[tuple]:
        """Return ``work(block)`` for all blocks, in order; in threads where that pays."""
        numbers = range(len(self._blocks))
        if len(numbers) < BLOCKS_FOR_THREADS or n_threads() == 1:
            return [work(block) for block in numbers]
        self._rotated, self._kept_products  # noqa: B018 - computed once, not by every thread
        with one_thread_each(), ThreadPoolExecutor(n_threads()) as pool:
            return list(pool.map(work, numbers))

    def reduce(self, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Integrate the group effects out.

        Parameters
        ----------
        factor : ndarray of shape (n_points, q, q)
            ``Lambda``.

        Returns
        -------
        log_det : ndarray of shape (n_points,)
            ``sum_j log|M_j|``.
        reduced : ndarray of shape (n_points, p + 1, p + 1)
            ``C``.
        """
        _, (a, b) = self._layout
        within = self._rotated[2]
        covariance = factor @ factor.swapaxes(1, 2)

        def work(block):
            maps, products = self._products(block)
            log_det, packed = np.empty(len(factor)), np.empty((len(factor), len(a)))
            products = products.reshape(len(a), -1)
            width = max(LEAST_POINTS, CACHED_NUMBERS // max(products.shape[1], 1))
            for start in range(0, len(factor), width):
                at = slice(start, start + width)
                inverse, log_det[at] = marginal_inverse(maps, covariance[at])
                packed[at] = inverse.reshape(len(inverse), -1) @ products.T
            return log_det, packed

        log_det, packed = np.zeros(len(factor)), np.zeros((len(factor), len(a)))
        for block_log_det, block_packed in self._over_blocks(work):
            log_det += block_log_det
            packed += block_packed
        reduced = np.empty((len(factor), *within.shape))
        reduced[:, a, b] = reduced[:, b, a] = within[a, b] + packed
        return log_det, reduced

    def covariance_gradient(self, factor: np.ndarray, influence: np.ndarray) -> np.ndarray:
        """Return d log p(y) / dS, shape (n_points, q, q).

        ``-1/2 sum_j L_j (M_j^-1 - M_j^-1 D_j N D_j' M_j^-1) L_j'``, N the influence.
        """
        q = factor.shape[1]
        (row, column), (a, b) = self._layout
        lower, _, _ = self._rotated
        covariance = factor @ factor.swapaxes(1, 2)
        packed = influence[:, a, b] * np.where(a == b, 1.0, 2.0)
        # _products holds twice the symmetric part for k != l
        half = np.where(row == column, 1.0, 0.5)[:, None]

        def work(block):
            factors = lower[:, :, self._blocks[block]]
            maps, products = self._products(block)
            inverse, _ = marginal_inverse(maps, covariance)
            crossed = np.tensordot(packed, products, axes=1) * half  # D N D'
            return _block_gradient(factors, unpack_symmetric(inverse, q), unpack_symmetric(crossed, q))

        total = np.zeros_like(factor)
        for block_total in self._over_blocks(work):
            total += block_total
        return total


def _block_gradient(lower, inverse, crossed):
    """Return ``1/2 sum_j L (M^-1 Y M^-1 - M^-1) L'`` over a block of groups, (n_points, q, q)."""
    n_points, q = inverse.shape[:2]
    middle = np.empty_like(inverse)
    for k in range(q):
        left = sum(inverse[:, k, i, None] * crossed[:, i] for i in range(q))
        for m in range(k + 1):
            inner = sum(left[:, i] * inverse[:, m, i] for i in range(q))
            middle[:, k, m] = middle[:, m, k] = 0.5 * (inner - inverse[:, k, m])
    total = np.empty((n_points, q, q))
    for k in range(q):
        left = sum(lower[k, i] * middle[:, i] for i in range(k + 1))
        for m in range(k + 1):
            inner = sum(left[:, i] * lower[m, i] for i in range(m + 1))
            total[:, k, m] = total[:, m, k] = inner.sum(axis=1)
    return total


def _log_sigma(x):
    """Return log(floor + exp(x))."""
    return np.logaddexp(np.log(RESIDUAL_SD_FLOOR), x)
