"""What nodes of (b, theta) are drawn from: theta from a law of its own, then b given theta, nearly normal.

Let C be the inverse of minus the Hessian of the log density at the joint mode, and ``B = C_bt C_tt^-1``. Given theta,
b has the centre ``b^ + B m(theta)`` and the root

    R(theta) = R_Louis R_W(theta^)^-1 R_W(theta),
    R_W(theta) R_W(theta)' = (X'WX + K - sum_j (X'WZ)_j Lambda (I + Lambda' (Z'WZ)_j Lambda)^-1 Lambda' (Z'WX)_j)^-1

with the weights W of the mode, R_Louis the root of the covariance of b given theta^ by the Hessian. This is the
covariance of the coefficients in a Gaussian model with these weights: with few groups it grows with their sd, and
where R is held fixed the largest weights are far out. (Four groups of counts: Pareto k from 0.65 to -0.46.)

m is ``theta - theta^``, but towards an sd of zero the change of its square, over the derivative of that at the mode.
(Seventy groups with 37 counts, a shoulder of the posterior at tau = 0: there ``theta - theta^`` leads five conditional
sds astray; Pareto k from 2.2 to -0.5, 256 nodes instead of 16,128.)

The axes of b have Johnson's S_U laws, the normal law stretched by a hyperbolic sine (Johnson 1949, Biometrika 36):
tails like those of Student's t with some twenty degrees of freedom, and both a distribution and a quantile in closed
form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import special

from hbsk._engine.generalized.inner import ROUNDING, added, beside_identity, inverse_root, pairs
from hbsk._engine.generalized.search import JointMode, pseudo_inverse
from hbsk._engine.integrate import N_REPLICATES, KernelT, Nodes, kernels_on_nodes, unit_cube_points
from hbsk._engine.proposals import LEAST_CURVATURE, MOST_CURVATURE, NODES_PER_DIMENSION
from hbsk._engine.split_t import SplitT, first_proposals
from hbsk._engine.variance_parameters import VarianceParameters

# Stretch of the normal law of coefficients, of few and of many: an excess kurtosis of 4 times its square.
STRETCH, STRETCH_OF_MANY = 0.3, 0.15
MANY_COLUMNS = 10
# Width of the law of coefficients given the variance parameters.
WIDTH = 1.03
# Numbers of matrices of common columns that are held at a time.
HELD_NUMBERS = 1_000_000
# Least curvature in a direction, as a share of that along coordinates; and least of one that is curved the other way,
# as between two modes: sds three times those along coordinates.
FLAT, SADDLE = 1e-10, 0.1
# Sds of theta beyond which parabolas are flat.
FARTHEST = 3.0
# Steps to the mode of theta with room for b, each of a sd at most; the step of differences in sds.
ROOM_STEPS, DIFFERENCE_STEP = 3, 1e-2
# A step, in sds, after which there is none.
LAST_STEP = 0.01
# Points for each coordinate from which on their second moments are made those of the law; steps to it, and a mean
# square that is taken for rounding, or for that of a point alone.
POINTS_OF_A_DIMENSION, MATCHING_STEPS, LEAST_SQUARE = 4, 3, 0.1
# Regressions of gradients on points, the last of twice as many, points for each coordinate, and the share of theta that
# is looked at. (More points, and more steps, change effective sizes by a tenth; Sobol nets of their own.)
NEAREST_STEPS, NEAREST_POINTS, MIDDLE, NEAREST_SALT = 3, 5, 0.8, 300
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
    shift : ndarray of shape (1 + 2 n_theta, p)
        Mean of ``R(theta)^-1 (b - centre)``, a parabola in each coordinate of theta.
    spread : ndarray of shape (p, p)
        Lower root of the covariance about that.
    reach : ndarray of shape (n_theta,)
        Sds of theta, the unit of the parabolas.
    """

    mode: JointMode
    parameters: VarianceParameters
    prior_precision: np.ndarray
    slope: np.ndarray
    correction: np.ndarray
    shift: np.ndarray
    spread: np.ndarray
    reach: np.ndarray

    @property
    def stretch(self) -> float:
        """How far tails are stretched."""
        return STRETCH if len(self.prior_precision) <= MANY_COLUMNS else STRETCH_OF_MANY

    def centre(self, theta: np.ndarray) -> np.ndarray:
        """Return the centre of b, (n_points, p), at theta (n_points, n_theta)."""
        p = len(self.prior_precision)
        moved = theta - self.mode.psi[p:]
        at = list(self.parameters.sd_coordinates)
        square, slope = self._square
        by_square = (self.parameters.free_sds(theta) ** 2 - square) / slope
        moved[:, at] = np.where(moved[:, at] < 0, by_square, moved[:, at])
        return self.mode.psi[:p] + moved @ self.slope.T

    @cached_property
    def _square(self):
        """Squares of free sds at the mode, and derivatives of these."""
        theta, at = self.mode.psi[len(self.prior_precision) :], list(self.parameters.sd_coordinates)
        step = DIFFERENCE_STEP * self.reach
        below, square, above = self.parameters.free_sds(theta + np.outer([-1, 0, 1], step)) ** 2
        return square, np.maximum((above - below) / (2 * step[at]), 1e-300)

    def draw(
        self, uniforms: np.ndarray, theta: np.ndarray, log_weight: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Map points of the unit cube (n_points, p) to b; and return the log density there.

        With the logs of weights that theta is expected to have, those of b have the moments of the normal law.
        """
        noise = WIDTH * np.sinh(self.stretch * special.ndtri(uniforms)) / self.stretch
        if log_weight is not None:
            noise = self._with_moments(noise, self._features(theta)[:, : 1 + theta.shape[1]], log_weight)
        lower = self._lower(theta)
        turned = _back_substituted(lower, self._features(theta) @ self.shift + noise @ self.spread.T)
        return self.centre(theta) + turned @ self.correction.T, self._log_density_of(noise, lower)

    def _with_moments(self, noise, features, log_weight):
        """Return points of mean 0 and covariance I, uncorrelated with theta, by the weights they are expected to have.

        These are those of a normal law. Most of the error of sds of coefficients was that of second moments of few
        points in many dimensions (moment matching, Glasserman 2003, Monte Carlo Methods in Financial Engineering,
        section 4.5.1; six data sets, 64 to 256 nodes: root mean squares from 1.8 % and more to 0.2 to 0.8 %).
        """
        for _ in range(MATCHING_STEPS):
            stretched = noise * self.stretch / WIDTH
            normal = np.arcsinh(stretched) / self.stretch
            log_ratio = log_weight + 0.5 * np.sum(normal**2 - noise**2 + np.log1p(stretched**2), axis=1)
            weight = np.exp(log_ratio - log_ratio.max())
            weight /= weight.sum()
            weighted = weight[:, None] * features
            noise = noise - features @ (pseudo_inverse(weighted.T @ features) @ (weighted.T @ noise))
            eigenvalues, axes = np.linalg.eigh((weight[:, None] * noise).T @ noise)
            noise = noise @ ((axes / np.sqrt(np.maximum(eigenvalues, LEAST_SQUARE))) @ axes.T)
        return noise

    def log_density(self, common: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """Return the log density of b, (n_points,)."""
        lower = self._lower(theta)
        noise = self._whitened(common, theta, lower) - self._features(theta) @ self.shift
        return self._log_density_of(np.linalg.solve(self.spread, noise.T).T, lower)

    def _log_density_of(self, noise, lower):
        noise = noise * self.stretch / WIDTH
        normal = np.arcsinh(noise) / self.stretch
        value = -0.5 * np.sum(normal**2 + LOG_TWO_PI + np.log1p(noise**2), axis=1)
        value += np.log(np.einsum("maa->ma", lower)).sum(axis=1) - np.log(np.diag(self.spread)).sum()
        return value - np.linalg.slogdet(self.correction)[1] - noise.shape[1] * np.log(WIDTH)

    def refitted(self, nodes: Nodes) -> CommonGivenVariance:
        """Return the law fitted to weighted nodes of psi, drawn towards its own where those are few."""
        p = len(self.prior_precision)
        common, theta = nodes.theta[:, :p], nodes.theta[:, p:]
        features, weight = self._features(theta), nodes.weight
        left = self._whitened(common, theta, self._lower(theta)) - features @ self.shift
        effective = 1.0 / np.sum(weight**2)
        products = (weight[:, None] * features).T @ features
        ridge = NODES_PER_DIMENSION / effective * (np.diag(np.diag(products)) + 1e-9 * np.eye(len(products)))
        shift = np.linalg.solve(products + ridge, (weight[:, None] * features).T @ left)
        left -= features @ shift
        share = effective / (effective + NODES_PER_DIMENSION * p)
        covariance = share * (weight[:, None] * left).T @ left + (1.0 - share) * self.spread @ self.spread.T
        return replace(self, shift=self.shift + shift, spread=np.linalg.cholesky(covariance))

    def nearest(self, variance: SplitT | None, gradient: Callable[[np.ndarray], np.ndarray]) -> CommonGivenVariance:
        """Return the law with the mean and spread of the normal law nearest to the posterior, as `nearest_normal`.

        Parameters
        ----------
        variance : SplitT or None
            Of theta; of its nodes the middle ones are looked at.
        gradient : callable
            Derivatives in b of the log density at psi, (n_points, p).
        """
        law, (p, n_theta) = self, self.slope.shape
        per_replicate = 2 ** int(np.ceil(np.log2(NEAREST_POINTS * (p + n_theta) / N_REPLICATES)))
        for step in range(NEAREST_STEPS):
            is_last = step == NEAREST_STEPS - 1
            uniforms = unit_cube_points(p + n_theta, per_replicate * (2 if is_last else 1), NEAREST_SALT + step)
            middle = 0.5 + MIDDLE * (uniforms[:, :n_theta] - 0.5)
            theta = middle if variance is None else variance.points(middle)
            zeta, features, lower = special.ndtri(uniforms[:, n_theta:]), law._features(theta), law._lower(theta)
            turned = _back_substituted(lower, features @ law.shift + zeta @ law.spread.T)
            slopes = gradient(np.column_stack([law.centre(theta) + turned @ law.correction.T, theta]))
            slopes = np.linalg.solve(lower, (slopes @ law.correction)[..., None])[..., 0] @ law.spread
            of_features, hessian = np.split(
                np.linalg.lstsq(np.column_stack([features, zeta]), slopes, rcond=None)[0], [features.shape[1]]
            )
            curvature, axes = np.linalg.eigh(-0.5 * (hessian + hessian.T))
            curvature = np.clip(curvature, LEAST_CURVATURE, MOST_CURVATURE)
            shift = law.shift + of_features @ (axes / curvature) @ axes.T @ law.spread.T
            spread = law.spread @ (axes * curvature**-0.5)
            law = replace(law, shift=shift, spread=np.linalg.cholesky(spread @ spread.T))
        return law

    def _features(self, theta):
        t = np.clip((theta - self.mode.psi[len(self.prior_precision) :]) / self.reach, -FARTHEST, FARTHEST)
        return np.column_stack([np.ones(len(theta)), t, t**2])

    def _lower(self, theta):
        return working_lower(self.mode, self.parameters, self.prior_precision, theta)

    def _whitened(self, common, theta, lower):
        """Return ``R(theta)^-1 (b - centre)``, (n_points, p)."""
        left = np.linalg.solve(self.correction, (common - self.centre(theta)).T).T
        return np.einsum("mab,ma->mb", lower, left)


def _back_substituted(lower: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the solutions, (n, p), of ``L'x = r``, lower L (n, p, p) (Golub, Van Loan 2013, algorithm 3.1.2).

    All points at once: 256 points of 4 columns took 140 us by LU decompositions of one after another, so 30.
    """
    solution = np.empty_like(right)
    for a in reversed(range(right.shape[1])):
        known = np.einsum("mb,mb->m", lower[:, a + 1 :, a], solution[:, a + 1 :])
        solution[:, a] = (right[:, a] - known) / lower[:, a, a]
    return solution


def working_lower(
    mode: JointMode, parameters: VarianceParameters, prior_precision: np.ndarray, theta: np.ndarray
) -> np.ndarray:
    """Return lower L, (n_points, p, p), ``L L' = R_W(theta)'^-1 R_W(theta)^-1``."""
    start, p = mode.start, len(prior_precision)
    factor = parameters.points(theta).relative_factor
    q, n_groups = start.target.shape
    if not p:
        return np.empty((len(theta), 0, 0))
    # regular in floats too: large sds leave flat priors nothing but what differences are rounded by
    least = prior_precision + p * ROUNDING * np.diag(mode.xwx)
    precision = np.repeat((mode.xwx + np.diag(least))[None], len(theta), axis=0)
    width = max(1, HELD_NUMBERS // max(p * p * q * q, len(theta) * q * q, 1))
    for first in range(0, n_groups if q else 0, width):
        groups = slice(first, first + width)
        zwz, zwx = start.zwz[:, :, groups], start.zwx[:, groups]
        if q == 1:
            share = factor[:, 0] ** 2 / (1.0 + factor[:, 0] ** 2 * zwz[0, 0])
            products = (zwx[0, :, :, None] * zwx[0, :, None]).reshape(-1, p * p)
            precision -= (share @ products).reshape(-1, p, p)
            continue
        # With zwz = C C', K = C'F and w = C^-1 zwx: w'w - w'(I + K K')^-1 w, where nothing is lost as F grows.
        root, white = (part[groups] for part in start.whitened)
        rooted = root.transpose(2, 0, 1)[:, None] @ factor.transpose(2, 1, 0)
        spread = inverse_root(beside_identity(rooted))
        inverse = [added(spread[a, c] * spread[b, c] for c in range(b, q)) for a, b in pairs(q)]
        products = np.array([white[:, a, :, None] * white[:, b, None] for a, b in pairs(q)])
        products += products.swapaxes(2, 3)
        products[[a == b for a, b in pairs(q)]] *= 0.5
        precision -= np.einsum("jax,jay->xy", white, white)
        precision += (np.array(inverse).reshape(-1, len(theta)).T @ products.reshape(-1, p * p)).reshape(-1, p, p)
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

    def draw(self, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map points of the unit cube to psi; and return the log density there."""
        k = self._n_theta
        theta, log_density = uniforms[:, :0], np.zeros(len(uniforms))
        if self.variance is not None:
            theta, log_density = self.variance.draw(uniforms[:, :k])
        common, log_given = self.common.draw(uniforms[:, k:], theta, self._expected(theta))
        return np.column_stack([common, theta]), log_density + log_given

    def _expected(self, theta):
        """Return logs of the weights of theta were it normal on either side; None for few points, and kernels."""
        p, n_theta = len(self.common.prior_precision), theta.shape[1]
        if not p or len(theta) < POINTS_OF_A_DIMENSION * (p + n_theta) or isinstance(self.variance, KernelT):
            return None
        return np.zeros(len(theta)) if self.variance is None else self.variance.log_normal_ratio(theta)

    def log_density(self, psi: np.ndarray) -> np.ndarray:
        """Return the log density at points (n_points, n_dim)."""
        p = len(self.common.prior_precision)
        value = self.common.log_density(psi[:, :p], psi[:, p:])
        return value if self.variance is None else value + self.variance.log_density(psi[:, p:])

    def nearest(self, gradient: Callable[[np.ndarray], np.ndarray]) -> JointProposal:
        """Return the first proposal with the law of b nearest to the posterior; see `CommonGivenVariance.nearest`."""
        assert not isinstance(self.variance, KernelT)
        return replace(self, common=self.common.nearest(self.variance, gradient))

    def refitted(self, nodes: Nodes) -> JointProposal:
        """Return the proposal with kernels on the theta of weighted nodes, and the moments of their b given theta.

        In the dimensions of b kernels would hold nothing but air.
        """
        common = self.common.refitted(nodes)
        if self.variance is None:
            return replace(self, common=common)
        p = len(common.prior_precision)
        return JointProposal(kernels_on_nodes(replace(nodes, theta=nodes.theta[:, p:])), common)


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
    covariance = _inverse(mode.precision)
    given = np.linalg.cholesky(np.linalg.inv(_inverse(mode.precision[:p, :p])))
    lower = working_lower(mode, parameters, prior_precision, theta)[0]
    correction = np.linalg.solve(given.T, lower.T)
    precision = np.linalg.inv(covariance[p:, p:])
    slope = covariance[:p, p:] @ precision
    shift = np.zeros((1 + 2 * n_theta, p))
    shift[0] = lower.T @ np.linalg.solve(correction, mode.lean)
    reach = np.sqrt(np.diag(covariance)[p:])
    common = CommonGivenVariance(mode, parameters, prior_precision, slope, correction, shift, np.eye(p), reach)
    if not n_theta:
        return JointProposal(None, common), None

    def room(points):
        """Return the log of the room that b has about its centre, up to a constant."""
        lower = working_lower(mode, parameters, prior_precision, points)
        return -np.log(np.einsum("maa->ma", lower)).sum(axis=1)

    def along(points):
        return log_density(np.column_stack([common.centre(points), points])) + room(points)

    split, broad = first_proposals(along, _with_room(mode.psi[p:], covariance[p:, p:], room), precision)
    return JointProposal(split, common), None if broad is None else JointProposal(broad, common)


def _with_room(theta: np.ndarray, covariance: np.ndarray, room: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the mode of theta with b integrated out: of a quadratic about the joint mode, and the room of b."""
    reach = np.sqrt(np.diag(covariance))
    steps = DIFFERENCE_STEP * np.diag(reach)
    moved = theta
    for _ in range(ROOM_STEPS):
        values = room(np.concatenate([moved + steps, moved - steps]))
        slope = (values[: len(theta)] - values[len(theta) :]) / (2 * DIFFERENCE_STEP * reach)
        step = theta + covariance @ slope - moved
        length = np.max(np.abs(step) / reach)
        moved = moved + step * min(1.0, 1.0 / max(length, 1e-300))
        if length < LAST_STEP:
            break
    return moved


def _inverse(precision: np.ndarray) -> np.ndarray:
    """Return the inverse of a matrix whose flat directions, in units of its diagonal, count as `FLAT`.

    A negative eigenvalue counts by its size: a law must be about as wide as the density bends, either way.
    """
    unit = np.sqrt(np.maximum(np.abs(np.diag(precision)), 1e-300))
    eigenvalues, axes = np.linalg.eigh(precision / np.outer(unit, unit))
    curved = np.where(eigenvalues < -FLAT, np.maximum(-eigenvalues, SADDLE), np.maximum(eigenvalues, FLAT))
    return (axes / curved) @ axes.T / np.outer(unit, unit)
