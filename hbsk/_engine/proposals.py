"""Proposals for many dimensions: nearly normal laws, fitted to gradients first and to weighted nodes then.

Where a block of varying columns has five or more, theta has twenty to fifty coordinates. Tails of four degrees of
freedom along each of them, and curvature at the mode, which lies apart from where the mass is, leave an effective size
of eight of 4,096 nodes with ten columns. The normal law nearest to the posterior (smallest Kullback-Leibler divergence
from it) needs no weights to be found: its mean is where the expected gradient vanishes, its precision is minus the
expected Hessian, and both come from a regression of gradients at quasi-random points on those points, exact for a
quadratic log density (Salimans, Knowles 2013, Bayesian Analysis 8(4); Opper, Archambeau 2009, Neural Computation 21).
With tails of thirty degrees of freedom it is the first proposal; the next ones have the moments of the weighted nodes,
drawn towards those of the first as long as nodes are few beside d.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from hbsk._engine.integrate import N_REPLICATES, Nodes, unit_cube_points
from hbsk._engine.marginal import MarginalModel
from hbsk._engine.split_t import SplitT, first_proposals

# Coordinates of theta from which these proposals are used: five correlated columns have 15.
MANY_DIMENSIONS = 12
# Degrees of freedom and width: tails of a normal law are too light, those of 4 too heavy; 15 to 60 are much the same.
TAIL_DF = 30.0
WIDTH = 1.05
# Regressions of gradients on points, points for each coordinate, and how many times as many the last one takes.
STEPS, POINTS_PER_DIMENSION, LAST_POINTS = 4, 6, 4
# Divergence of two normal laws in a row, in nats, that ends the search: a tenth of the nodes' efficiency.
NEAR = 0.1
# What one regression may change a precision by, in any direction.
LEAST_CURVATURE, MOST_CURVATURE = 0.25, 4.0
FLAT = 0.02
# Effective nodes for each coordinate at which covariances of nodes and of the first proposal count the same.
NODES_PER_DIMENSION = 5


@dataclass(frozen=True)
class NormalT:
    """Multivariate t with `TAIL_DF` degrees of freedom.

    Attributes
    ----------
    mean : ndarray of shape (d,)
    scale : ndarray of shape (d, d)
        Lower factor of the covariance, `WIDTH` left aside.
    """

    mean: np.ndarray
    scale: np.ndarray

    @property
    def n_uniforms(self) -> int:
        """Number of uniform coordinates that a point takes: one more for its distance."""
        return len(self.mean) + 1

    def points(self, uniforms: np.ndarray) -> np.ndarray:
        """Map points of the unit cube (n, d + 1) to theta."""
        # chdtri takes upper tails
        stretch = np.sqrt(TAIL_DF / special.chdtri(TAIL_DF, uniforms[:, -1]))
        z = special.ndtri(uniforms[:, :-1]) * (WIDTH * stretch)[:, None]
        return self.mean + z @ self.scale.T

    def draw(self, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map points of the unit cube to theta; and return the log density there."""
        theta = self.points(uniforms)
        return theta, self.log_density(theta)

    def log_density(self, theta: np.ndarray) -> np.ndarray:
        """Return the log density at points (n, d)."""
        d, df = len(self.mean), TAIL_DF
        z = np.linalg.solve(self.scale, (theta - self.mean).T) / WIDTH
        log_norm = special.gammaln((df + d) / 2) - special.gammaln(df / 2) - 0.5 * d * np.log(df * np.pi)
        log_norm -= np.log(np.diag(self.scale)).sum() + d * np.log(WIDTH)
        return log_norm - (df + d) / 2 * np.log1p(np.sum(z**2, axis=0) / df)

    def refitted(self, nodes: Nodes) -> NormalT:
        """Return the proposal with the moments of weighted nodes, drawn towards its own where those are few."""
        effective = 1.0 / np.sum(nodes.weight**2)
        share = effective / (effective + NODES_PER_DIMENSION * len(self.mean))
        mean = nodes.weight @ nodes.theta
        deviation = nodes.theta - mean
        covariance = share * (nodes.weight[:, None] * deviation).T @ deviation
        covariance += (1.0 - share) * self.scale @ self.scale.T
        return NormalT(share * mean + (1.0 - share) * self.mean, np.linalg.cholesky(covariance))


class Proposals(NamedTuple):
    """What nodes are drawn from.

    Attributes
    ----------
    first : SplitT or NormalT
    broad : SplitT, callable that returns it or None, or None
        The second, where the nodes of the first are not enough.
    refit : callable or None
        Maps weighted nodes to further ones, where those are not kernels on nodes.
    """

    first: SplitT | NormalT
    broad: SplitT | Callable[[], SplitT | None] | None
    refit: Callable[[Nodes], NormalT] | None


def proposals(model: MarginalModel, mode: np.ndarray, precision: np.ndarray, *, thorough: bool = True) -> Proposals:
    """Return proposals for the posterior of the variance parameters, given its mode and minus its Hessian there.

    Parameters
    ----------
    model : MarginalModel
    mode : ndarray of shape (d,)
    precision : ndarray of shape (d, d)
    thorough : bool
        As in `first_proposals`.
    """
    if len(mode) >= MANY_DIMENSIONS:
        first = nearest_normal(model.value_and_gradient, mode, precision)
        return Proposals(first, None, first.refitted)
    look = first_proposals(lambda theta: model.evaluate(theta).log_density, mode, precision, thorough=thorough)
    return Proposals(*look, None)


def nearest_normal(
    value_and_gradient: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], mode: np.ndarray, precision: np.ndarray
) -> NormalT:
    """Return the normal law nearest to a log density, beginning at its mode.

    Parameters
    ----------
    value_and_gradient : callable
        Maps points (n, d) to log densities (n,) and gradients (n, d).
    mode : ndarray of shape (d,)
    precision : ndarray of shape (d, d)
        Minus the Hessian there.
    """
    d = len(mode)
    eigenvalues, axes = np.linalg.eigh(precision)
    mean, scale = mode, axes * np.clip(eigenvalues, FLAT, None) ** -0.5
    per_replicate = 2 ** int(np.ceil(np.log2(POINTS_PER_DIMENSION * d / N_REPLICATES)))
    for step in range(STEPS):
        size = per_replicate * (LAST_POINTS if step == STEPS - 1 else 1)
        z = special.ndtri(unit_cube_points(d, size, salt=300 + step))
        _, gradient = value_and_gradient(mean + z @ scale.T)
        known = np.isfinite(gradient).all(axis=1)
        if known.sum() < 2 * d:
            break
        columns = np.column_stack([np.ones(known.sum()), z[known]])
        slope, *hessian = np.linalg.lstsq(columns, gradient[known] @ scale, rcond=None)[0]
        curvature, axes = np.linalg.eigh(-0.5 * (np.array(hessian) + np.array(hessian).T))
        curvature = np.clip(curvature, LEAST_CURVATURE, MOST_CURVATURE)
        move = axes @ (axes.T @ slope / curvature)
        # beyond half the radius that most of the mass lies at, a regression knows nothing
        move *= min(1.0, 0.5 * np.sqrt(d) / max(np.linalg.norm(move), 1e-300))
        mean, scale = mean + scale @ move, scale @ (axes * curvature**-0.5)
        if 0.5 * (move @ move + np.sum(curvature - 1.0 - np.log(curvature))) < NEAR:
            break
    return NormalT(mean, np.linalg.cholesky(scale @ scale.T))
