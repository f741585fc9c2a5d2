"""What is left of rows at any Lambda, from a polynomial: where each evaluation costs a matrix of thousands of effects.

Sds of many effects are known to a few percent. Over what their posterior leaves open ``log|M|`` and C, all that a log
density takes of the rows, are then cubics in theta to some thousandths of a log density: a dozen evaluations at points
that determine cubics well stand for any number. What they are off by is measured at more points than a cubic has
coefficients. Nodes of the variance parameters cost nothing from there on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import qr
from scipy.special import ndtri

from hbsk._engine.integrate import Nodes, unit_cube_points
from hbsk._engine.log_density_surface import monomials
from hbsk._engine.marginal import MarginalModel, MarginalPoints

if TYPE_CHECKING:
    from hbsk._engine.crossed import CrossedModel

Reduced = tuple[np.ndarray, np.ndarray]
DEGREE = 3
# Points of the design lie within this radius, in posterior sds by the curvature at the mode; no more than a little
# density may lie beyond the second, and there is none beyond the third.
RADIUS, OUTSIDE, REACH = 2.5, 4.0, 5.0
MOST_OUTSIDE = 0.01
# Points more than coefficients, as a share of these.
SPARE = 0.2
# Error of the log density, root mean square, above which the model itself is evaluated.
MOST_ERROR = 0.02
# Points that designs are chosen from, per replicate, and shares of the radius that they lie at.
CANDIDATES, SHELLS = 16, (0.0, 0.35, 0.7, 1.0)
# Step of gradients by central differences.
STEP = 1e-3


def n_design_points(n_coordinates: int) -> int:
    """Return how many evaluations a polynomial in so many coordinates takes."""
    n_terms = comb(n_coordinates + DEGREE, DEGREE)
    return n_terms + max(2, int(SPARE * n_terms))


@lru_cache(maxsize=16)
def design_points(d: int) -> np.ndarray:
    """Return points (n, d) of the ball of radius `RADIUS` that determine a cubic, and some more.

    Of candidates on spheres, those at which a polynomial of one degree more is determined best: approximate Fekete
    points (Sommariva, Vianello 2009, Comput. Math. Appl. 57), by the pivots of a QR decomposition.
    """
    normal = ndtri(unit_cube_points(d, CANDIDATES, salt=400))
    directions = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    candidates = RADIUS * np.concatenate([share * directions for share in SHELLS])
    n_terms, n = comb(d + DEGREE, DEGREE), n_design_points(d)
    terms = monomials(candidates, DEGREE + 1)
    first = qr(terms[:, :n_terms].T, mode="r", pivoting=True)[1][:n_terms]
    # the part of each further candidate's terms of one degree more that the first ones do not determine
    known = np.linalg.solve(terms[first][:, :n_terms].T, terms[:, :n_terms].T).T
    unknown = terms[:, n_terms:] - known @ terms[first][:, n_terms:]
    more = qr(unknown.T, mode="r", pivoting=True)[1][: n - n_terms]
    return candidates[np.concatenate([first, more])]


class ReducedModel(MarginalModel):
    """A model of which ``log|M|`` and C are known without its sums.

    Parameters
    ----------
    model : MarginalModel
    reduction : callable
        Maps theta (n_points, d) and Lambda (n_points, q, q) to what `MarginalModel.reduce` returns.
    """

    passes: Any

    def __init__(self, model: MarginalModel, reduction: Callable[[np.ndarray, np.ndarray], Reduced]):
        super().__init__(model.sums, model.parameters, model.prior_mean, model.prior_precision)
        self._reduction = reduction
        vars(self).update(passes=model.passes, _least_residual=model._least_residual)

    def reduce_at(self, theta: np.ndarray, factor: np.ndarray) -> Reduced:
        """Integrate the group effects out at points theta, of which ``factor`` is Lambda."""
        return self._reduction(theta, factor)

    def evaluate(self, theta: np.ndarray) -> MarginalPoints:
        """Return the log posterior density at points of shape (n_points, n_dim)."""
        return self._evaluate(theta, keep_basis=True)

    def value_and_gradient(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return log density (n_points,) and gradient (n_points, n_dim), by differences, since points cost nothing."""
        n, d = theta.shape
        steps = STEP * np.concatenate([np.zeros((1, d)), np.eye(d), -np.eye(d)])
        value = self.evaluate((theta[:, None] + steps).reshape(-1, d)).log_density.reshape(n, -1)
        return value[:, 0], (value[:, 1 : 1 + d] - value[:, 1 + d :]) / (2 * STEP)


class CubicModel(ReducedModel):
    """A crossed model whose ``log|M|`` and C are cubics in theta; of hubs those of the others are.

    Parameters
    ----------
    model : CrossedModel
    mode : ndarray of shape (n_dim,)
        About which they are; coordinates that they are no functions of stay there in ``theta``.
    precision : ndarray of shape (n_dim, n_dim)
        Minus the Hessian there.

    Attributes
    ----------
    error : float
        Root mean square of what log densities at the points of the design are off by, per degree of freedom.
    """

    def __init__(self, model: CrossedModel, mode: np.ndarray, precision: np.ndarray):
        super().__init__(model, self._reduced)
        self._coordinates = _coordinates(model)
        covariance = np.linalg.inv(precision)[np.ix_(self._coordinates, self._coordinates)]
        self._centre, self._scale = mode[self._coordinates], np.linalg.cholesky(covariance)
        z = design_points(len(self._centre))
        theta = np.tile(mode, (len(z), 1))
        theta[:, self._coordinates] += z @ self._scale.T
        factor = model.parameters.points(theta).relative_factor
        known = self.passes.reduce_others(factor)
        self._pairs = np.tril_indices(known[1].shape[1])
        values, terms = np.column_stack([known[0], known[1][:, *self._pairs]]), monomials(z, DEGREE)
        self.error = np.inf
        if np.isfinite(values).all():
            by_probe = self.passes.log_dets_by_probe(factor) if self.passes.is_stochastic else np.empty((len(z), 0))
            both = np.linalg.lstsq(terms, np.column_stack([values, by_probe]), rcond=None)[0]
            self._coefficient, self._of_probes = np.split(both, [values.shape[1]], axis=1)
            exact = ReducedModel(model, lambda _, factor: self.passes.bordered(factor, *known))
            off = self.evaluate(theta).log_density - exact.evaluate(theta).log_density
            self.error = float(np.sqrt(np.sum(off**2) / (len(z) - terms.shape[1])))

    def holds(self, nodes: Nodes) -> bool:
        """Whether next to nothing of weighted nodes lies outside of the design."""
        radius = np.linalg.norm(self._z(nodes.theta), axis=1)
        return bool(nodes.weight[radius > OUTSIDE].sum() < MOST_OUTSIDE)

    def log_dets_by_probe(self, theta: np.ndarray) -> np.ndarray | None:
        """Return ``log|S|`` at points by each probe alone, (n_points, n_probes), where it is estimated."""
        return monomials(self._z(theta), DEGREE) @ self._of_probes if self.passes.is_stochastic else None

    def evaluate(self, theta: np.ndarray) -> MarginalPoints:
        """Return the log posterior density at points of shape (n_points, n_dim), none beyond `REACH`."""
        points = super().evaluate(theta)
        points.log_density[np.linalg.norm(self._z(theta), axis=1) > REACH] = -np.inf
        return points

    def _reduced(self, theta, factor):
        z = self._z(theta)
        # further out cubics may be anything
        z *= np.minimum(1.0, REACH / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-300))
        values = monomials(z, DEGREE) @ self._coefficient
        row, column = self._pairs
        products = np.empty((len(z), row[-1] + 1, row[-1] + 1))
        products[:, row, column] = products[:, column, row] = values[:, 1:]
        return self.passes.bordered(factor, values[:, 0], products)

    def _z(self, theta):
        return np.linalg.solve(self._scale, (theta[:, self._coordinates] - self._centre).T).T


def _coordinates(model):
    """Return the coordinates of theta that cubics are functions of."""
    return model.parameters.coordinates_of(model.passes.other_columns)


def evaluations_of(model: CrossedModel) -> int:
    """Return how many evaluations cubics take."""
    return n_design_points(len(_coordinates(model)))


def interpolated(model: CrossedModel, mode: np.ndarray, precision: np.ndarray) -> CubicModel | None:
    """Return the model by cubics about the mode, or None where those are not near enough; see `CubicModel`."""
    cubic = CubicModel(model, mode, precision)
    return cubic if cubic.error <= MOST_ERROR else None
