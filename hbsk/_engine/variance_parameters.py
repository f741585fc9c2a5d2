"""The few parameters that cannot be integrated out: residual sd, group sds, correlations.

They are unconstrained here, with their priors and Jacobians. Symbols: ``sigma`` residual sd,
``tau_k`` sd of the k-th varying column, ``Omega = L L'`` its correlation matrix, ``rho_k = tau_k /
sigma`` relative sd, ``Lambda = diag(rho) L`` the relative factor (Bates et al. 2015, eq. 4).

Effects may be parametrised at another point of the varying columns than their priors are stated
for, and than the engine's columns have: with w the effects of theta, ``v = Q w`` those of the
priors and ``u = F w`` those of the engine (`varying_location`).

Two forms. *Integrated*: theta holds (log rho, partial correlations) and sigma is left to a
one-dimensional integral, since the sums over groups do not contain it. *Joint*: theta holds
(sigma, tau, partial correlations); needed where some sd is fixed or its prior has bounded support.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaln, erf, expit, log1p, log_ndtr, ndtr

# A perfect fit has no proper posterior: its density grows without bound as sigma -> 0.
# sigma is at least this fraction of the sd of y.
RESIDUAL_SD_FLOOR = 1e-6


@dataclass(frozen=True)
class VariancePoints:
    """Variance parameters at several points theta.

    Attributes
    ----------
    relative_sd : ndarray of shape (n_points, q)
    correlation_factor : ndarray of shape (n_points, q, q)
        Lower Cholesky factor of the correlation matrix.
    sigma : ndarray of shape (n_points,) or None
        None in the integrated form.
    prior_sd : ndarray of shape (n_points, q)
        Relative sds of the effects that the priors are stated for.
    relative_factor : ndarray of shape (n_points, q, q)
        ``Lambda`` of the effects of the engine's columns, ``F diag(relative_sd) L``.
    """

    relative_sd: np.ndarray
    correlation_factor: np.ndarray
    sigma: np.ndarray | None
    prior_sd: np.ndarray
    relative_factor: np.ndarray


class _Pair(NamedTuple):
    """A partial correlation: where it stands in theta, its row and column, and the shape of its Beta."""

    at: int
    row: int
    column: int
    alpha: float


class VarianceParameters:
    """Map between theta and variance parameters in engine units, with the prior of theta.

    Parameters
    ----------
    residual_sd : SdPrior or float
        Prior of sigma, or its fixed value (1 where standard errors are known).
    group_sd : sequence of SdPrior or float, length q
    blocks : sequence of tuple of int
        Varying columns that are correlated with each other.
    lkj_eta : sequence of float
        LKJ shape of each block.
    small_sd : sequence of float, length q, optional
        Relative sds that the data can hardly tell from zero; 1 by default.
    location : Location, optional
        The effects that the priors are stated for, and those of the engine; both those of theta by default.
    """

    def __init__(self, residual_sd, group_sd, blocks, lkj_eta, small_sd=None, location=None):
        self.location = location
        self.residual_sd = residual_sd
        self.group_sd = tuple(group_sd)
        self.blocks = tuple(tuple(block) for block in blocks)
        self.lkj_eta = tuple(lkj_eta)
        small_sd = np.ones(len(self.group_sd)) if small_sd is None else small_sd
        self._transforms = [
            LogitTransform(*prior.support) if _is_free(prior) and prior.is_bounded else SoftTransform(float(small))
            for prior, small in zip(self.group_sd, small_sd, strict=True)
        ]
        bounded = _is_free(residual_sd) and residual_sd.is_bounded
        self.sigma_transform = _bounded_sigma(*residual_sd.support) if bounded else LogTransform(RESIDUAL_SD_FLOOR)
        self.free = tuple(k for k, prior in enumerate(self.group_sd) if _is_free(prior))
        every = [residual_sd, *self.group_sd]
        self.integrated = all(_is_free(prior) and not prior.is_bounded for prior in every)
        self.sigma_is_free = _is_free(residual_sd)
        self._n_sigma = int(self.sigma_is_free and not self.integrated)
        self._sd_at = {k: self._n_sigma + i for i, k in enumerate(self.free)}
        at = self._n_sigma + len(self.free)
        self._pairs: list[_Pair] = []
        for block, eta in zip(self.blocks, self.lkj_eta, strict=True):
            size = len(block)
            for i in range(1, size):
                for j in range(i):
                    # LKJ 2009, section 2.4: partial correlations given j variables are
                    # independent, each a symmetric Beta(alpha, alpha) on (-1, 1).
                    alpha = eta + (size - 2 - j) / 2
                    self._pairs.append(_Pair(at, block[i], block[j], alpha))
                    at += 1
        self.n_dim = at

    @property
    def n_varying(self) -> int:
        """Number of varying columns (q)."""
        return len(self.group_sd)

    @property
    def n_correlations(self) -> int:
        """Number of correlations, the last coordinates of theta."""
        return len(self._pairs)

    @property
    def small_sd(self) -> list[float]:
        """Return the sd below which each group sd is small, as it was given; 1 where it has no part."""
        return [transform.small if isinstance(transform, SoftTransform) else 1.0 for transform in self._transforms]

    @property
    def ends(self) -> tuple[float, float]:
        """Ends of the only coordinate, where theta is one number."""
        if self._pairs:
            return -38.0, 38.0
        return self.sigma_transform.ends if self._n_sigma else self._transforms[self.free[0]].ends

    @property
    def sd_coordinates(self) -> tuple[int, ...]:
        """Coordinates of theta that hold group sds."""
        return tuple(self._sd_at.values())

    def free_sds(self, theta: np.ndarray) -> np.ndarray:
        """Return the group sds that have coordinates, (n_points, n_free), in the order of `sd_coordinates`."""
        return self._sds(theta)[:, list(self._sd_at)]

    def coordinates_of(self, columns: Collection[int]) -> list[int]:
        """Return the coordinates of theta that Lambda of some varying columns, all those of a block, hangs on."""
        of_sds = [at for k, at in self._sd_at.items() if k in columns]
        return [*range(self._n_sigma), *of_sds, *(pair.at for pair in self._pairs if pair.row in columns)]

    @cached_property
    def _log_norm(self) -> float:
        """Normalising constant of the partial correlations."""
        return -sum((2 * alpha - 1) * np.log(2) + betaln(alpha, alpha) for *_, alpha in self._pairs)

    # theta -> parameters

    def points(self, theta: np.ndarray) -> VariancePoints:
        """Return the variance parameters at ``theta`` of shape (n_points, n_dim)."""
        n_points, q = len(theta), self.n_varying
        factor = np.zeros((n_points, q, q))
        factor[:, range(q), range(q)] = 1.0
        for at, row, column, _ in self._pairs:
            partial, left = _partial_correlation(theta[:, at])
            factor[:, row, column] = partial * factor[:, row, row]
            factor[:, row, row] *= np.sqrt(left)
        sd, sigma = self._sds(theta), None
        if not self.integrated:
            sigma = self._sigma(theta)
            sd = sd / sigma[:, None]
        relative = sd[:, :, None] * factor
        if self.location is None:
            return VariancePoints(sd, factor, sigma, sd, relative)
        prior_sd = np.sqrt(np.sum((self.location.to_prior @ relative) ** 2, axis=2))
        return VariancePoints(sd, factor, sigma, prior_sd, self.location.to_engine @ relative)

    def theta_of(self, sigma: float, tau: np.ndarray) -> np.ndarray:
        """Return theta at given sds and no correlation; the start of the search."""
        theta = np.zeros(self.n_dim)
        if self._n_sigma:
            theta[0] = self.sigma_transform.position(sigma)
        for k, at in self._sd_at.items():
            theta[at] = self._transforms[k].position(tau[k] / sigma if self.integrated else tau[k])
        return theta

    def _sigma(self, theta):
        if not self._n_sigma:
            return np.full(len(theta), float(self.residual_sd))
        return self.sigma_transform.sd(theta[:, 0])

    def _sds(self, theta):
        """Return rho in the integrated form, tau in the joint form."""
        sds = np.empty((len(theta), self.n_varying))
        for k, prior in enumerate(self.group_sd):
            sds[:, k] = self._transforms[k].sd(theta[:, self._sd_at[k]]) if k in self._sd_at else prior
        return sds

    # prior of theta, Jacobians included

    def correlation_log_prior(self, theta: np.ndarray) -> np.ndarray:
        """Return the LKJ log density of the partial correlations, Jacobian included."""
        log_prior = np.full(len(theta), self._log_norm)
        for at, *_, alpha in self._pairs:
            _, left = _partial_correlation(theta[:, at])
            log_prior += (alpha - 1) * np.log(left) - 0.5 * theta[:, at] ** 2 + LOG_TWICE_NORMAL
        return log_prior

    def location_log_prior(self, points: VariancePoints) -> np.ndarray:
        """Return what the priors gain where they are stated for other effects than those of theta, (n_points,)."""
        if self.location is None:
            return np.zeros(len(points.relative_sd))
        moved, power = self.location.moved, self.location.power
        ratio = points.relative_sd[:, moved] / np.maximum(points.prior_sd[:, moved], 1e-300)
        return np.log(np.maximum(ratio, 1e-300)) @ power[moved]

    def sd_log_prior(self, theta, sigma, relative_sd, logs=None) -> np.ndarray:
        """Return log prior and Jacobian of all sds, of the shape of ``sigma``.

        ``sigma`` is (n_points, n_grid) and ``relative_sd``, that of the priors, (n_points, q); ``logs``, where they are
        known, are those of sigma and of sigma less its floor.
        """
        log_prior = self.residual_sd.log_density(sigma) if self.sigma_is_free else np.zeros_like(sigma)
        jacobian = np.zeros(len(theta))
        if self.integrated:  # d tau = sigma d rho
            log_sigma, log_above = logs or (np.log(sigma), np.log(_above_floor(sigma)))
            log_prior += log_above + len(self._sd_at) * log_sigma
        elif self._n_sigma:
            jacobian += self.sigma_transform.log_jacobian(theta[:, 0])[0]
        for k, at in self._sd_at.items():
            jacobian += self._transforms[k].log_jacobian(theta[:, at])[0]
            log_prior += self.group_sd[k].log_density(sigma * relative_sd[:, k, None])
        log_prior += jacobian[:, None]
        return log_prior

    def sigma_slope_of_sd_log_prior(self, sigma, relative_sd) -> np.ndarray:
        """Return d/d log(sigma) of `sd_log_prior` in the integrated form."""
        slope = sigma * self.residual_sd.grad_log_density(sigma)
        slope += sigma / _above_floor(sigma)
        for k, prior in enumerate(self.group_sd):
            tau = sigma * relative_sd[:, k, None]
            slope += tau * prior.grad_log_density(tau) + 1.0
        return slope

    def gradient(self, theta, points, sigma, weight, by_factor, by_log_sigma) -> np.ndarray:
        """Return the gradient of the log density in theta, shape (n_points, n_dim).

        Parameters
        ----------
        theta : ndarray of shape (n_points, n_dim)
        points : VariancePoints
        sigma, weight : ndarray of shape (n_points, n_grid)
            Residual sds and their conditional probabilities given theta.
        by_factor : ndarray of shape (n_points, q, q)
            Derivative of the expected log likelihood in ``Lambda``.
        by_log_sigma : ndarray of shape (n_points,) or None
            Its derivative in log sigma with Lambda held; joint form only.
        """
        gradient = np.zeros((len(theta), self.n_dim))
        relative = points.relative_sd[:, :, None] * points.correlation_factor
        if self.location is not None:
            by_factor = self.location.to_engine.T @ by_factor
        by_log_relative = np.sum(by_factor * relative, axis=2)
        if self._n_sigma:
            of_log = sigma[:, 0] * self.residual_sd.grad_log_density(sigma[:, 0])
            of_log += by_log_sigma - by_log_relative.sum(axis=1)
            gradient[:, 0] = _chain(self.sigma_transform, theta[:, 0], sigma[:, 0], of_log)
        by_log_prior = np.zeros_like(points.relative_sd)
        for k in self._sd_at:
            tau = sigma * points.prior_sd[:, k, None]
            by_log_prior[:, k] = np.sum(weight * tau * self.group_sd[k].grad_log_density(tau), axis=1)
        if self.location is None:
            by_log_relative = by_log_relative + by_log_prior
        else:
            # d log tau_vk / d Lambda_w = Q_k' (Q_k Lambda_w) / tau_vk^2
            by_log_prior -= self.location.power
            by_variance = by_log_prior / np.maximum(points.prior_sd**2, 1e-300)
            scaled = by_variance[:, :, None] * (self.location.to_prior @ relative)
            by_factor = by_factor + self.location.to_prior.T @ scaled
            by_log_relative = np.sum(by_factor * relative, axis=2) + self.location.power
        for k, at in self._sd_at.items():
            sd = points.relative_sd[:, k] if self.integrated else points.relative_sd[:, k] * sigma[:, 0]
            gradient[:, at] = _chain(self._transforms[k], theta[:, at], sd, by_log_relative[:, k])
        by_correlation = by_factor * points.relative_sd[:, :, None]
        factor = points.correlation_factor
        for at, row, column, alpha in self._pairs:
            partial, left = _partial_correlation(theta[:, at])
            slope = np.exp(LOG_TWICE_NORMAL - 0.5 * theta[:, at] ** 2)
            # L[row, column] = partial * rest, and every later entry of the row, the diagonal
            # included, has the factor sqrt(1 - partial^2).
            later = list(self._later(row, column))
            change = -partial / left * np.sum(by_correlation[:, row, later] * factor[:, row, later], axis=1)
            change += by_correlation[:, row, column] * self._rest(factor, row, column)
            change -= 2 * (alpha - 1) * partial / left
            gradient[:, at] = change * slope - theta[:, at]
        return gradient

    def _later(self, row, column):
        """Columns of the row's block from after ``column`` to the diagonal."""
        block = next(block for block in self.blocks if row in block)
        return block[block.index(column) + 1 : block.index(row) + 1]

    def _rest(self, factor, row, column):
        """Length of the row of L that is left when ``column`` gets its share."""
        at_and_later = (column, *self._later(row, column))
        return np.sqrt(np.sum(factor[:, row, at_and_later] ** 2, axis=1))


def _bounded_sigma(lower, upper) -> LogitTransform:
    """Return the transform of a sigma between bounds, of which the lower is the floor at least."""
    return LogitTransform(max(lower, RESIDUAL_SD_FLOOR) if upper > 2 * RESIDUAL_SD_FLOOR else lower, upper)


def _is_free(prior) -> bool:
    return not isinstance(prior, int | float)


def _above_floor(sigma):
    """Return sigma less its floor, and not zero where the difference is rounded away."""
    return np.maximum(sigma - RESIDUAL_SD_FLOOR, 1e-12 * RESIDUAL_SD_FLOOR)


LOG_TWICE_NORMAL = np.log(2) - 0.5 * np.log(2 * np.pi)


def _partial_correlation(x):
    """Return ``2 Phi(x) - 1`` and one less its square.

    A flat partial correlation, LKJ(1) of two columns, is standard normal in x; under the usual
    inverse hyperbolic tangent it has exponential tails, too heavy for a proposal from the mode.
    """
    return erf(x / np.sqrt(2)), np.maximum(4 * ndtr(x) * ndtr(-x), 1e-300)


def _log_cosh(x):
    return np.abs(x) + log1p(np.exp(-2 * np.abs(x))) - np.log(2)


def _chain(transform, x, sd, by_log_sd):
    """Return the derivative in x from that in log sd, the Jacobian's included."""
    log_jacobian, slope = transform.log_jacobian(x)
    return by_log_sd * np.exp(log_jacobian) / sd + slope


# An sd on the real line. Each map has sd(x), its inverse position(sd), log_jacobian(x), which
# returns log(d sd / dx) and the derivative of that, and the ends beyond which no law has any mass
# but for sds beyond 1e73, of which no power is taken that leaves floating point.


@dataclass(frozen=True)
class LogTransform:
    """``sd = floor + exp(x)``."""

    floor: float
    ends = (-60.0, 170.0)

    def sd(self, x):
        """Return the sd at x."""
        return self.floor + np.exp(x)

    def position(self, sd):
        """Return x at an sd."""
        return np.log(max(sd - self.floor, 1e-3 * sd))

    def log_jacobian(self, x):
        """Return log(d sd / dx) and the derivative of that."""
        return x, np.ones_like(x)


@dataclass(frozen=True)
class LogitTransform:
    """``sd = lower + (upper - lower) / (1 + exp(-x))``."""

    lower: float
    upper: float
    ends = (-230.0, 33.0)

    def sd(self, x):
        """Return the sd at x."""
        return self.lower + (self.upper - self.lower) * expit(x)

    def position(self, sd):
        """Return x at an sd."""
        share = np.clip((sd - self.lower) / (self.upper - self.lower), 0.05, 0.95)
        return np.log(share / (1 - share))

    def log_jacobian(self, x):
        """Return log(d sd / dx) and the derivative of that."""
        log_width = np.log(self.upper - self.lower)
        return log_width - 2 * _log_cosh(x / 2) - 2 * np.log(2), -np.tanh(x / 2)


@dataclass(frozen=True)
class SoftTransform:
    """``sd = small exp(x) Phi(x)``: a logarithm above ``small``, and below it a normal tail.

    A group sd whose posterior reaches zero has an exponential tail in log sd, four to thirty times
    heavier at four sds than any proposal (radon, slope of floor: Pareto k 0.9). Here a density
    that is flat in the sd falls like a normal density in x.
    """

    small: float

    @property
    def ends(self):
        """Return ends of x."""
        return -40.0, 170.0 - np.log(self.small)

    def sd(self, x):
        """Return the sd at x."""
        return self.small * np.exp(x + log_ndtr(x))

    def position(self, sd):
        """Return x at an sd."""
        target = np.log(max(sd, 1e-12) / self.small)
        return float(brentq(lambda x: x + log_ndtr(x) - target, -12.0, max(target, 0.0) + 2.0))

    def log_jacobian(self, x):
        """Return log(d sd / dx) and the derivative of that."""
        log_tail = log_ndtr(x)
        ratio = np.exp(-0.5 * x**2 - 0.5 * np.log(2 * np.pi) - log_tail)
        slope = 1.0 + ratio
        return np.log(self.small) + x + log_tail + np.log(slope), slope - ratio * (x + ratio) / slope
