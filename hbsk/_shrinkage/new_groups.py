"""What is known of the mean of a new group: tau^2 averaged over what the data tell of it, not put in as an estimate.

Given rho = tau^2 / sigma^2 everything is Student's t with m = nu + J - r degrees of freedom and squared scale
s^2(rho) = (nu sigma^2 + Q(rho)) / m, Q the weighted residual sum of squares of the means; with known errors it is
normal, s^2 = 1. Over A = tau^2 the law has the density, L the restricted likelihood,

    L(A) * T(A) * sum_j (v_j + A)^-2,

where T is the variance of what is asked for: A and that of the target, and the noise for an observation. The weight
beside L makes intervals right to second order where groups are many. Say 1 / I(A) for the variance of the estimate of
A. An interval +- z sqrt(T*) with T* free of bias needs T* larger by (1 + z^2) / (4 T I) to cover what it should;
averaging over a posterior widens it by (z^2 - 3) / (4 T I), and the weight T I moves the mean of that posterior by the
rest, 1 / (T I) of T. (The third derivative of the likelihood and the derivative of I cancel.) Where tau^2 is far above
the v_j the weight is 1 / tau^2, and intervals are the exact ones on J - r degrees of freedom for any J. Datta, Rao and
Smith (2005) match the mean squared error of groups that were seen in the same way.

References
----------
Datta, G. S., Rao, J. N. K., and Smith, D. D. (2005). On measuring the variability of small area estimators under a
basic area level model. Biometrika 92, 183-196.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import digamma, polygamma

from hbsk._shrinkage.between_group_variance import restricted_fits
from hbsk._shrinkage.cells import Cells

_N_NODES = 64
_BLOCK_ELEMENTS = 1_000_000
# Log density, below its largest, of what is left out.
_DEPTH = 20.0
# Nodes that must lie within that depth for sums over nodes to be integrals.
_FEWEST_INSIDE = 24


class NewGroups(NamedTuple):
    """The law of new groups at nodes of tau^2.

    Parameters
    ----------
    weight : ndarray of shape (K,)
        Weight of each node were T = tau^2.
    tau2 : ndarray of shape (K,)
        Variance of a new group around the target.
    sigma2 : ndarray of shape (K,)
        Variance within groups; ones with known standard errors.
    spread : ndarray of shape (K,)
        Variance of the height of the target, as a multiple of that in `covariance`.
    covariance : ndarray of shape (r, r)
        Covariance of the coefficients of the target on average; of shape (1, 1) and 0 for a fixed target.
    degrees : float
        m; inf with known standard errors.
    """

    weight: np.ndarray
    tau2: np.ndarray
    sigma2: np.ndarray
    spread: np.ndarray
    covariance: np.ndarray
    degrees: float

    def student(self, leverage: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return squared scale and degrees of freedom of Student's t for each row, each of shape (n_rows,).

        The law of a row is a mixture over nodes of t with squared scales T_k; t is what it is where T is an inverse
        chi-square, and is chosen to have the same mean and variance of log T.

        Parameters
        ----------
        leverage : ndarray of shape (n_rows,)
            Variance of the height of the target, by `covariance`.
        noise : ndarray of shape (n_rows,)
            Variance of an observation around its group's mean; NaN is `sigma2`.
        """
        values = np.stack([leverage, np.where(np.isnan(noise), -1.0, noise)], axis=1)
        values, place = np.unique(values, axis=0, return_inverse=True)
        width = max(1, _BLOCK_ELEMENTS // len(self.weight))
        parts = [self._student(*values[start : start + width].T) for start in range(0, len(values), width)]
        scale, degrees = np.concatenate(parts, axis=1)[:, place.ravel()]
        return scale, degrees

    def _student(self, leverage: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Do the same for distinct rows, shape (2, n_rows); negative noise is `sigma2`."""
        total = leverage[:, None] * self.spread + self.tau2
        total += np.where(noise[:, None] < 0, self.sigma2, noise[:, None])
        weight = self.weight * total / self.tau2
        weight /= weight.sum(axis=1, keepdims=True)
        logs = np.log(total)
        mean = np.sum(weight * logs, axis=1)
        variance = np.sum(weight * np.square(logs - mean[:, None]), axis=1)
        if np.isfinite(self.degrees):
            half_degrees = self.degrees / 2
            mean += np.log(half_degrees) - digamma(half_degrees)
            variance += polygamma(1, half_degrees)
        half = inverse_trigamma(np.maximum(variance, 1e-9))
        return np.stack([np.exp(mean - np.log(half) + digamma(half)), 2.0 * half])

    def draw(self, n_draws: int, noise: float, rng: np.random.Generator) -> np.ndarray:
        """Draw tau^2 for observations with noise of that variance, shape (n_draws,)."""
        weight = self.weight * (self.tau2 + noise) / self.tau2
        drawn = rng.choice(self.tau2, n_draws, p=weight / weight.sum())
        if np.isfinite(self.degrees):
            drawn = drawn * self.degrees / rng.chisquare(self.degrees, n_draws)
        return drawn


def law_of_new_groups(cells: Cells, coef: np.ndarray, sum_of_squares: float, degrees: float) -> NewGroups:
    """Average over tau^2.

    Parameters
    ----------
    cells : Cells
        Means with their variances over sigma^2; of more groups than coefficients.
    coef : ndarray of shape (r,)
        Coefficients of the target that is predicted, less those that `cells` has taken off its means.
    sum_of_squares, degrees : float
        Of rows within groups: nu sigma^2 and nu; inf, and any number, with known standard errors.
    """
    known = np.isinf(degrees)
    total_degrees = np.inf if known else degrees + cells.degrees

    def log_density(log_ratio):
        ratio = np.exp(log_ratio)
        fits, log_det, information = restricted_fits(cells, ratio)
        fit = -0.5 * fits.residual if known else -0.5 * total_degrees * np.log(sum_of_squares + fits.residual)
        return fit - 0.5 * log_det + np.log(information) + 2.0 * log_ratio, fits

    flat = restricted_fits(cells, np.zeros(1))[0].residual[0] * cells.variances[-1] / cells.degrees
    if not known:
        flat /= sum_of_squares / degrees
    low, high = np.log(1e-6 * cells.variances[0]), np.log(1e8 * max(flat, cells.variances[-1]))
    for _ in range(12):
        at = np.linspace(low, high, _N_NODES)
        density, fits = log_density(at)
        inside = np.flatnonzero(density > density.max() - _DEPTH)
        if len(inside) >= _FEWEST_INSIDE:
            break
        low, high = at[max(inside[0] - 1, 0)], at[min(inside[-1] + 1, _N_NODES - 1)]
    weight = np.exp(density - density.max())
    weight /= weight.sum()
    kept = weight > 1e-9
    weight = weight[kept] / weight[kept].sum()
    sigma2 = np.ones(len(weight)) if known else (sum_of_squares + fits.residual[kept]) / total_degrees
    if not len(coef):
        spread, covariance = np.zeros(len(weight)), np.zeros((1, 1))
    else:
        at_nodes = sigma2[:, None, None] * fits.inverse[kept]
        off = fits.coef[kept] - coef
        covariance = np.tensordot(weight, at_nodes, 1) + (weight[:, None] * off).T @ off
        spread = at_nodes[:, 0, 0] / covariance[0, 0]
    return NewGroups(weight, sigma2 * np.exp(at[kept]), sigma2, spread, covariance, total_degrees)


def inverse_trigamma(value: np.ndarray) -> np.ndarray:
    """Solve trigamma(x) = value by Newton's method on its reciprocal, which is convex and almost a line."""
    x = 0.5 + 1.0 / value
    for _ in range(20):
        trigamma = polygamma(1, x)
        step = trigamma * (1.0 - trigamma / value) / polygamma(2, x)
        x = x + step
        if np.all(np.abs(step) <= 1e-10 * x):
            break
    return x
