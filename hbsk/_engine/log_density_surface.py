"""A polynomial in the place of a log density each of whose values costs a pass over the groups.

With many groups a few dozen nodes are enough for means, and too few for the ends of intervals: the 2.5 % end would lie
between the lowest two or three of 64. But where groups are many the log density is nearly quadratic: a polynomial of
second or third degree, fitted by least squares to its values at the nodes, is the log density to a hundredth, and costs
nothing at as many points as are wanted. Those are drawn from the normal law of its quadratic part and weighed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations_with_replacement
from math import comb

import numpy as np
from scipy.special import ndtri

from hbsk._engine.integrate import N_REPLICATES, unit_cube_points

# What is fitted: points whose log density is within this of the best, which is four sds of a normal law.
DEPTH = 8.0
# Squared radius, in sds of the quadratic part, beyond which a polynomial may do anything.
REACH = 40.0
DEGREES = (3, 2)
# Nodes for each coefficient of a polynomial in theta, and nodes that are looked at.
NODES_PER_COEFFICIENT = 2
MOST_NODES = 256
# Smallest share of the precision that the nodes' covariance has which the quadratic part may have in any direction.
LEAST_PRECISION = 0.1
# Points are a little more spread than the quadratic part, as those of the first proposal are.
INFLATION = 1.1
POINTS_PER_REPLICATE = 512


@dataclass(frozen=True)
class LogDensitySurface:
    """A polynomial log density, without its constant.

    Attributes
    ----------
    centre : ndarray of shape (d,)
    scale : ndarray of shape (d, d)
        The polynomial is one of ``z = scale^-1 (x - centre)``.
    degree : int
    coefficient : ndarray of shape (n_terms,)
        In the order of `monomials`.
    error : float
        Root mean square of what the polynomial leaves of the log density, per degree of freedom.
    shift : ndarray of shape (n_nodes,)
        Weights of the nodes under the log density, less those under the polynomial: what they say of a mean that the
        polynomial got wrong. Sums to 0.
    """

    centre: np.ndarray
    scale: np.ndarray
    degree: int
    coefficient: np.ndarray
    error: float
    shift: np.ndarray

    @property
    def misplaced(self) -> float:
        """Share of the nodes' weight that the polynomial puts elsewhere, as it may far out, where nodes are few."""
        return 0.5 * float(np.sum(np.abs(self.shift)))

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """Return values at points z, (n, d); minus infinity where the polynomial is not to be trusted."""
        mean, root = self._quadratic_part()
        steps = np.linalg.solve(root, (z - mean).T)
        value = monomials(z, self.degree) @ self.coefficient
        return np.where(np.sum(steps**2, axis=0) < REACH, value, -np.inf)

    def points(self, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return points x (n, d) for standard normal numbers (n, d), and their weights, which sum to 1."""
        mean, root = self._quadratic_part()
        z = mean + INFLATION * normal @ root.T
        log_weight = self.log_density(z) + 0.5 * np.sum(normal**2, axis=1)
        weight = np.exp(log_weight - log_weight.max())
        return self.centre + z @ self.scale.T, weight / weight.sum()

    def quasi_random_points(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return points (n, d), weights and replicates (n,), always the same."""
        uniforms = unit_cube_points(len(self.centre), POINTS_PER_REPLICATE, salt=200)
        points, weight = self.points(ndtri(uniforms))
        return points, weight, np.repeat(np.arange(N_REPLICATES), POINTS_PER_REPLICATE)

    def _quadratic_part(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and root of covariance of the normal law that the terms of first and second degree are."""
        slope, precision = _quadratic(self.coefficient, len(self.centre))
        root = np.linalg.inv(np.linalg.cholesky(precision)).T
        return root @ (root.T @ slope), root


def fit_surface(
    theta: np.ndarray,
    log_density: np.ndarray,
    weight: np.ndarray,
    further: np.ndarray | None = None,
    conditional: np.ndarray | None = None,
) -> LogDensitySurface | None:
    """Fit a polynomial to a log density, or return None where the nodes do not determine one with a maximum.

    Parameters
    ----------
    theta : ndarray of shape (n_nodes, d)
    log_density : ndarray of shape (n_nodes,)
    weight : ndarray of shape (n_nodes,)
        Of the nodes, summing to 1.
    further, conditional : ndarray of shape (n_nodes, n_grid), optional
        A coordinate that comes last, its values on a smooth grid at each node, and their probabilities given theta.
    """
    at = np.argsort(-log_density, kind="stable")[:MOST_NODES]
    points, values = _joint(theta[at], log_density[at], *((a if a is None else a[at]) for a in (further, conditional)))
    near = values > values.max() - DEPTH
    n_near = int(near.any(axis=1).sum())
    degrees = [k for k in DEGREES if NODES_PER_COEFFICIENT * comb(theta.shape[1] + k, k) <= n_near]
    if not degrees:
        return None
    x, y = points[near], values[near] - values.max()
    centre = np.average(x, axis=0, weights=np.exp(y))
    covariance = np.cov(x.T, aweights=np.exp(y), ddof=0).reshape(len(centre), -1)
    if np.linalg.eigvalsh(covariance)[0] <= 0:
        return None
    scale = np.linalg.cholesky(covariance)
    terms = monomials(np.linalg.solve(scale, (x - centre).T).T, degrees[0])
    coefficient = np.linalg.lstsq(terms, y, rcond=None)[0]
    _, precision = _quadratic(coefficient, len(centre))
    if np.linalg.eigvalsh(precision)[0] < LEAST_PRECISION:
        return None
    # values of one node hang together: what is left of them has the freedom of the nodes
    freedom = 1.0 - comb(theta.shape[1] + degrees[0], degrees[0]) / n_near
    error = float(np.sqrt(np.mean((y - terms @ coefficient) ** 2) / freedom))
    surface = LogDensitySurface(centre, scale, degrees[0], coefficient, error, np.zeros(len(weight)))
    return replace(surface, shift=_shift(surface, theta, log_density - values.max(), weight, further, conditional))


def _shift(surface, theta, log_density, weight, further, conditional):
    """Return the weights of the nodes less those under the surface."""
    points, values = _joint(theta, log_density, further, conditional)
    z = np.linalg.solve(surface.scale, (points.reshape(-1, points.shape[-1]) - surface.centre).T).T
    with np.errstate(over="ignore"):
        ratio = np.exp(surface.log_density(z).reshape(values.shape) - values)
    ratio = ratio[:, 0] if conditional is None else np.sum(conditional * ratio, axis=1)
    of_surface = weight * np.where(weight > 0, ratio, 0.0)
    return weight - of_surface / of_surface.sum()


def _joint(theta, log_density, further, conditional):
    """Return points (n_nodes, n_grid, d) with the further coordinate, and the log density of both."""
    if further is None:
        return theta[:, None], log_density[:, None]
    repeated = np.repeat(theta[:, None], further.shape[1], axis=1)
    step = np.gradient(further, axis=1)
    values = log_density[:, None] + np.log(np.maximum(conditional, 1e-300) / step)
    return np.concatenate([repeated, further[:, :, None]], axis=2), values


def _quadratic(coefficient, d):
    """Return gradient at 0 and minus the Hessian of the terms of first and second degree."""
    second = _exponents(d, 2)[1 + d :]
    hessian = np.zeros((d, d))
    for (i, j), value in zip(second, coefficient[1 + d :], strict=False):
        hessian[i, j] += value
        hessian[j, i] += value
    return coefficient[1 : 1 + d], -hessian


def monomials(z: np.ndarray, degree: int) -> np.ndarray:
    """Return all monomials of at most that degree, (n, n_terms), by degree."""
    columns = np.empty((len(z), comb(z.shape[1] + degree, degree)))
    columns[:, 0] = 1.0
    number: dict[tuple[int, ...], int] = {(): 0}
    for at, term in enumerate(_exponents(z.shape[1], degree)[1:], start=1):
        number[term] = at
        columns[:, at] = columns[:, number[term[:-1]]] * z[:, term[-1]]
    return columns


@lru_cache(maxsize=32)
def _exponents(d: int, degree: int) -> tuple[tuple[int, ...], ...]:
    """Return the coordinates that each monomial is the product of."""
    return tuple(term for k in range(degree + 1) for term in combinations_with_replacement(range(d), k))
