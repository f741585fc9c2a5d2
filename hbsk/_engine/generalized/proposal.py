"""What nodes of (b, theta) are drawn from: theta from a law of its own, then b given theta, nearly normal.

Let C be the inverse of minus the Hessian of the log density at the joint mode, and ``B = C_bt C_tt^-1``. Given theta,
b has the centre ``b^ + B (theta - theta^)`` and the root

    R(theta) = R_Louis R_W(theta^)^-1 R_W(theta),
    R_W(theta) R_W(theta)' = (X'WX + K - sum_j (X'WZ)_j Lambda (I + Lambda' (Z'WZ)_j Lambda)^-1 Lambda' (Z'WX)_j)^-1

with the weights W of the mode, R_Louis the root of the covariance of b given theta^ by the Hessian. This is the
covariance of the coefficients in a Gaussian model with these weights: with few groups it grows with their sd, and
where R is held fixed the largest weights are far out. (Four groups of counts: Pareto k from 0.65 to -0.46.)

The axes of b have Johnson's S_U laws, the normal law stretched by a hyperbolic sine (Johnson 1949, Biometrika 36):
tails like those of Student's t with some twenty degrees of freedom, and both a distribution and a quantile in closed
form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from hbsk._engine.generalized.search import JointMode
from hbsk._engine.integrate import KernelT, Nodes, SplitT, first_proposals, kernels_on_nodes
from hbsk._engine.variance_parameters import VarianceParameters

# Stretch of the normal law of coefficients, of few and of many: an excess kurtosis of 4 times its square.
STRETCH, STRETCH_OF_MANY = 0.3, 0.15
MANY_COLUMNS = 10
# Width of the law of coefficients given the variance parameters.
WIDTH = 1.03
# Numbers of matrices of common columns that are held at a time.
HELD_NUMBERS = 1_000_000
LOG_TWO_PI = np.log(2 * np.pi)


@dataclass(frozen=True)
class CommonGivenVariance:
    """The law of b given theta.

    Attributes
    ----------
    mode : JointMode
    parameters : VarianceParameters
    prior_precision : ndarray of shape (p,)
    slope : ndarray of shape (p, n_theta)
        B.
    correction : ndarray of shape (p, p)
        ``R_Louis R_W(theta^)^-1``.
    """

    mode: JointMode
    parameters: VarianceParameters
    prior_precision: np.ndarray
    slope: np.ndarray
    correction: np.ndarray

    @property
    def stretch(self) -> float:
        """How far tails are stretched."""
        return STRETCH if len(self.prior_precision) <= MANY_COLUMNS else STRETCH_OF_MANY

    def centre(self, theta: np.ndarray) -> np.ndarray:
        """Return the centre of b, (n_points, p), at theta (n_points, n_theta)."""
        p = len(self.prior_precision)
        return self.mode.psi[:p] + (theta - self.mode.psi[p:]) @ self.slope.T

    def points(self, uniforms: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """Map points of the unit cube (n_points, p) to b."""
        noise = WIDTH * np.sinh(self.stretch * special.ndtri(uniforms)) / self.stretch
        lower = working_lower(self.mode, self.parameters, self.prior_precision, theta)
        turned = np.linalg.solve(lower.swapaxes(1, 2), noise[..., None])[..., 0]
        return self.centre(theta) + turned @ self.correction.T

    def log_density(self, common: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """Return the log density of b, (n_points,)."""
        lower = working_lower(self.mode, self.parameters, self.prior_precision, theta)
        left = np.linalg.solve(self.correction, (common - self.centre(theta)).T).T
        noise = np.einsum("mab,ma->mb", lower, left) * (self.stretch / WIDTH)
        normal = np.arcsinh(noise) / self.stretch
        value = -0.5 * np.sum(normal**2 + LOG_TWO_PI + np.log1p(noise**2), axis=1)
        value += np.log(np.einsum("maa->ma", lower)).sum(axis=1)
        return value - np.linalg.slogdet(self.correction)[1] - noise.shape[1] * np.log(WIDTH)


def working_lower(
    mode: JointMode, parameters: VarianceParameters, prior_precision: np.ndarray, theta: np.ndarray
) -> np.ndarray:
    """Return lower L, (n_points, p, p), ``L L' = R_W(theta)'^-1 R_W(theta)^-1``."""
    start, p = mode.start, len(prior_precision)
    factor = parameters.points(theta).relative_factor
    q, n_groups = start.target.shape
    precision = np.repeat((mode.xwx + np.diag(prior_precision))[None], len(theta), axis=0)
    width = max(1, HELD_NUMBERS // max(p * p * q * q, len(theta) * q * q, 1))
    for first in range(0, n_groups if q else 0, width):
        groups = slice(first, first + width)
        zwz, zwx = start.zwz[:, :, groups], start.zwx[:, groups]
        if q == 1:
            share = factor[:, 0] ** 2 / (1.0 + factor[:, 0] ** 2 * zwz[0, 0])
            products = (zwx[0, :, :, None] * zwx[0, :, None]).reshape(-1, p * p)
            precision -= (share @ products).reshape(-1, p, p)
            continue
        inner = np.einsum("mac,abj,mbd->mjcd", factor, zwz, factor, optimize=True) + np.eye(q)
        share = np.einsum("mac,mjcd,mbd->mjab", factor, np.linalg.inv(inner), factor, optimize=True)
        products = np.einsum("ajx,bjy->jabxy", zwx, zwx).reshape(-1, p * p)
        precision -= (share.reshape(len(theta), -1) @ products).reshape(-1, p, p)
    return np.linalg.cholesky(precision)


@dataclass(frozen=True)
class JointProposal:
    """A law of psi = (b, theta).

    Attributes
    ----------
    variance : SplitT, KernelT or None
        Of theta; None where there is none.
    common : CommonGivenVariance
    """

    variance: SplitT | KernelT | None
    common: CommonGivenVariance

    @property
    def n_uniforms(self) -> int:
        """Number of uniform coordinates that a point takes, those of theta first."""
        return self._n_theta + len(self.common.prior_precision)

    @property
    def _n_theta(self) -> int:
        return 0 if self.variance is None else self.variance.n_uniforms

    def points(self, uniforms: np.ndarray) -> np.ndarray:
        """Map points of the unit cube to psi."""
        k = self._n_theta
        theta = uniforms[:, :0] if self.variance is None else self.variance.points(uniforms[:, :k])
        return np.column_stack([self.common.points(uniforms[:, k:], theta), theta])

    def log_density(self, psi: np.ndarray) -> np.ndarray:
        """Return the log density at points (n_points, n_dim)."""
        p = len(self.common.prior_precision)
        value = self.common.log_density(psi[:, :p], psi[:, p:])
        return value if self.variance is None else value + self.variance.log_density(psi[:, p:])

    def refitted(self, nodes: Nodes) -> JointProposal:
        """Return the proposal with kernels on the theta of weighted nodes; along b as well they would hold air."""
        if self.variance is None:
            return self
        p = len(self.common.prior_precision)
        return replace(self, variance=kernels_on_nodes(replace(nodes, theta=nodes.theta[:, p:])))


def joint_proposals(
    log_density: Callable[[np.ndarray], np.ndarray],
    mode: JointMode,
    parameters: VarianceParameters,
    prior_precision: np.ndarray,
) -> tuple[JointProposal, JointProposal | None]:
    """Return the first proposal, and a broad one where theta may have shoulders far from its mode.

    Parameters
    ----------
    log_density : callable
        Of psi.
    mode : JointMode
    parameters : VarianceParameters
    prior_precision : ndarray of shape (p,)
        Of the common coefficients.
    """
    p, n_theta = len(prior_precision), parameters.n_dim
    theta = mode.psi[None, p:]
    eigenvalues, axes = np.linalg.eigh(mode.precision)
    floor = 1e-10 * max(float(eigenvalues.max(initial=0.0)), 1.0)
    covariance = (axes / np.maximum(eigenvalues, floor)) @ axes.T
    given = np.linalg.cholesky(_positive(mode.precision[:p, :p]))
    lower = working_lower(mode, parameters, prior_precision, theta)[0]
    correction = np.linalg.solve(given.T, lower.T)
    if not n_theta:
        return JointProposal(
            None, CommonGivenVariance(mode, parameters, prior_precision, np.zeros((p, 0)), correction)
        ), None
    precision = np.linalg.inv(covariance[p:, p:])
    slope = covariance[:p, p:] @ precision
    common = CommonGivenVariance(mode, parameters, prior_precision, slope, correction)

    def along(points):
        # the ridge of b, and the room that b has about it
        room = -np.log(np.einsum("maa->ma", working_lower(mode, parameters, prior_precision, points))).sum(axis=1)
        return log_density(np.column_stack([common.centre(points), points])) + room

    split, broad = first_proposals(along, mode.psi[p:], precision)
    return JointProposal(split, common), None if broad is None else JointProposal(broad, common)


def _positive(matrix):
    eigenvalues, axes = np.linalg.eigh(matrix)
    floor = 1e-10 * max(float(np.abs(eigenvalues).max(initial=0.0)), 1e-10)
    return (axes * np.maximum(eigenvalues, floor)) @ axes.T
