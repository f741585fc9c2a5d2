"""A linear predictor with the uncertainty of its coefficients: the target of the shrinkage, or a shrunken regression.

Columns of features are first made comparable: centred, scaled and turned into orthogonal directions, so that columns
that say the same thing, or nothing, do no harm, and features far from zero lose no digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hbsk._shrinkage.between_group_variance import james_stein_shrinkage
from hbsk._shrinkage.within_groups import WithinSlopes, WithinTriangle


class Directions(NamedTuple):
    """Orthogonal directions in the columns of a matrix.

    Parameters
    ----------
    centre : ndarray of shape (p,)
        Point that is subtracted from a row.
    transform : ndarray of shape (p, k)
        Turns a centred row into its k coordinates; k is the rank of the centred matrix.
    """

    centre: np.ndarray
    transform: np.ndarray

    def coordinates(self, columns: Sequence[np.ndarray], n_rows: int) -> np.ndarray:
        """Compute 1 and the coordinates of each row, shape (n_rows, 1 + k)."""
        coordinates = np.zeros((n_rows, 1 + self.transform.shape[1]))
        coordinates[:, 0] = 1.0
        for column, centre, weights in zip(columns, self.centre, self.transform, strict=True):
            coordinates[:, 1:] += np.subtract(column, centre, dtype=np.float64)[:, None] * weights
        return coordinates

    def rounding(self, columns: Sequence[np.ndarray], n_rows: int) -> np.ndarray:
        """Bound what rounding of the columns does to the k coordinates, shape (n_rows, k)."""
        bound = np.zeros((n_rows, self.transform.shape[1]))
        for column, centre, weights in zip(columns, self.centre, self.transform, strict=True):
            bound += (np.abs(column) + abs(centre))[:, None] * np.abs(weights)
        return 16 * np.finfo(float).eps * bound


class LinearPredictor(NamedTuple):
    """The predictor a_0 + sum_k a_k (coordinate k of x), and how well its coefficients are known.

    Parameters
    ----------
    directions : Directions
        How a row of features becomes coordinates.
    coef : ndarray of shape (1 + k,)
        Height at the centre, and slopes along the directions.
    covariance : ndarray of shape (1 + k, 1 + k)
        Covariance of `coef`.
    """

    directions: Directions
    coef: np.ndarray
    covariance: np.ndarray

    @property
    def slopes(self) -> np.ndarray:
        """Slopes in the columns of X themselves, shape (p,)."""
        return self.directions.transform @ self.coef[1:]

    @property
    def intercept(self) -> float:
        """Height where all features are 0."""
        return float(self.coef[0] - self.directions.centre @ self.slopes)

    def coefficients(self) -> tuple[np.ndarray, np.ndarray]:
        """Compute intercept and slopes in the columns of X themselves, shape (1 + p,), and their variances."""
        p = len(self.directions.centre)
        # a slope is the height at 1 less that at 0, where all other columns are 0
        root = np.column_stack([np.zeros(p), self.directions.transform])
        with np.errstate(invalid="ignore"):
            variance = np.einsum("pk,kl,pl->p", root, self.covariance, root)
        at_zero = self.variance([np.zeros(1)] * p, 1)
        return np.append(self.intercept, self.slopes), np.append(at_zero, variance)

    def value(self, columns: Sequence[np.ndarray], n_rows: int) -> np.ndarray:
        """Compute the height of the predictor at each row, shape (n_rows,)."""
        value = np.full(n_rows, self.coef[0])
        for column, centre, slope in zip(columns, self.directions.centre, self.slopes, strict=True):
            value += np.subtract(column, centre, dtype=np.float64) * slope
        return value

    def variance(self, columns: Sequence[np.ndarray], n_rows: int) -> np.ndarray:
        """Compute the variance of that height, shape (n_rows,)."""
        coordinates = self.directions.coordinates(columns, n_rows)
        return np.einsum("nk,kl,nl->n", coordinates, self.covariance, coordinates)


def no_directions() -> Directions:
    """Make the directions of no columns at all."""
    return Directions(np.empty(0), np.empty((0, 0)))


class Coordinates(NamedTuple):
    """Rows of a matrix in orthogonal directions.

    Parameters
    ----------
    directions : Directions
        Of as many coordinates k as the centred columns have rank.
    rows : ndarray of shape (n, k)
        Coordinates u with sum_i weight_i u_i u_i' = identity and weighted mean 0; what rows within groups tell adds to
        the sum.
    within : WithinSlopes
        What rows within groups tell of the slopes in these directions.
    redundant : ndarray of shape (p,), bool
        Columns whose slopes cannot be told apart: linear combinations of one another, the intercept included. A column
        without variation is none of them.
    """

    directions: Directions
    rows: np.ndarray
    within: WithinSlopes
    redundant: np.ndarray


def find_directions(
    columns: Sequence[np.ndarray], weight: np.ndarray, triangle: WithinTriangle | None = None
) -> Coordinates:
    """Find orthogonal directions in the rows, and the coordinates of the rows.

    Parameters
    ----------
    columns : sequence of p ndarrays of shape (n,)
        The matrix, column by column.
    weight : ndarray of shape (n,)
        Weight of each row.
    triangle : WithinTriangle, default=None
        Where the rows are groups: what varies within them. Directions are then chosen so that rows within groups tell
        their slopes independently of one another, or not at all.
    """
    root = np.sqrt(weight)
    centre = np.array([np.average(column, weights=weight) for column in columns])
    matrix = np.empty((len(weight), len(columns)))
    for j, (column, mean) in enumerate(zip(columns, centre, strict=True)):
        matrix[:, j] = root * np.subtract(column, mean, dtype=np.float64)
    largest = np.array([np.abs(column).max() * root.max() for column in columns])
    if triangle is not None:
        matrix = np.vstack([matrix, triangle.columns])
        largest = np.maximum(largest, triangle.largest * root.max())
    size = np.linalg.norm(matrix, axis=0)
    # What rounding leaves of the deviations of a constant column.
    noise = 16 * np.finfo(float).eps * largest * np.sqrt(len(weight))
    varies = size > noise
    scale = np.where(varies, size, 1.0)
    matrix /= scale
    matrix[:, ~varies] = 0.0
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    keep = values > max(1e-11 * values.max(initial=0.0), (noise / scale)[varies].max(initial=0.0))
    transform = right[keep].T / values[keep] / scale[:, None]
    transform[~varies] = 0.0
    rows = left[: len(weight), keep] / root[:, None]
    # The unit vector of a column whose slope the rows tell lies in the space that they span.
    redundant = varies & (1.0 - np.sum(np.square(right[keep]), axis=0) > 1e-9)
    within = WithinSlopes(np.zeros(rows.shape[1]), np.zeros(rows.shape[1]), np.nan)
    if triangle is None:
        return Coordinates(Directions(centre, transform), rows, within, redundant)
    left, values, right = np.linalg.svd(triangle.columns @ transform)
    rounding = (noise @ np.abs(transform)).max(initial=0.0)
    told = int(np.sum(values > max(1e-10, rounding)))
    if not told:
        return Coordinates(Directions(centre, transform), rows, within, redundant)
    told_part = left[:, :told].T @ triangle.response
    within.slopes[:told] = told_part / values[:told]
    within.information[:told] = triangle.total * np.square(values[:told])
    residual = triangle.response - left[:, :told] @ told_part
    within = within._replace(residual=triangle.total * float(residual @ residual))
    turned = transform @ right.T
    # What rounding leaves of a column in directions that rows within groups do not tell: far along it nothing but that
    # would be seen of them.
    noise = np.abs(turned[:, :told]) @ (values[0] / values[:told]) + np.linalg.norm(turned, axis=1)
    turned[:, told:][np.abs(turned[:, told:]) <= 64 * np.finfo(float).eps * noise[:, None]] = 0.0
    return Coordinates(Directions(centre, turned), rows @ right.T, within, redundant)


class ShrunkenRegression(NamedTuple):
    """Least squares with its slopes shrunken towards zero by a common factor.

    Parameters
    ----------
    predictor : LinearPredictor
        The shrunken regression predictor.
    factor : float
        1 - B, what is left of the slopes; 1 where no shrinkage is justified.
    rank : int
        Number k of slopes that the rows identify.
    sigma2 : float
        Residual variance; NaN where it is known by standard errors or has no degrees of freedom.
    nu : float
        Its degrees of freedom; inf with known standard errors.
    redundant : ndarray of shape (p,), bool
        Columns whose slopes the rows cannot tell apart.
    """

    predictor: LinearPredictor
    factor: float
    rank: int
    sigma2: float
    nu: float
    redundant: np.ndarray


def shrink_regression(
    columns: Sequence[np.ndarray],
    y: np.ndarray,
    weight: np.ndarray | None,
    standard_error: np.ndarray | None,
    *,
    positive_part: bool,
) -> ShrunkenRegression:
    """James-Stein estimate of the slopes of a linear regression; the intercept is not shrunken.

    In orthogonal coordinates least squares gives k independent N(zeta_k, sigma^2), so that the estimator of James and
    Stein (1961) applies with the residual variance s^2 on nu = n - 1 - k degrees of freedom:
    B = (k - 2) nu / (nu + 2) s^2 / (sum of squares of the regression). It improves on least squares in expected squared
    error of the fitted values whatever the slopes, for k of 3 or more (Sclove 1968).

    Parameters
    ----------
    columns : sequence of p ndarrays of shape (n,)
        Features.
    y : ndarray of shape (n,)
        Responses.
    weight, standard_error : ndarray of shape (n,) or None
        Copies of each row; known sd of each response.
    positive_part : bool
        Whether to cut a negative factor at 0.

    References
    ----------
    Sclove, S. L. (1968). Improved estimators for coefficients in linear regression. JASA 63, 596-606.
    """
    copies = np.ones(len(y)) if weight is None else weight
    precision = copies if standard_error is None else copies / np.square(standard_error)
    directions, coordinates, _, redundant = find_directions(columns, precision)
    rank = coordinates.shape[1]
    mean = float(np.average(y, weights=precision))
    zeta = coordinates.T @ (precision * (y - mean))
    if standard_error is None:
        nu = float(copies.sum() - 1 - rank)
        residual = y - mean - coordinates @ zeta
        sigma2 = float(precision @ np.square(residual) / nu) if nu > 0 else np.nan
        unit = sigma2
    else:
        nu, sigma2, unit = np.inf, np.nan, 1.0
    factor = 1.0
    if rank >= 3 and unit > 0:
        factor = james_stein_shrinkage(zeta, np.full(rank, unit), 0, nu, positive_part=positive_part)
    covariance = np.zeros((1 + rank, 1 + rank))
    covariance[0, 0] = unit / precision.sum()
    covariance[1:, 1:] = _slope_covariance(zeta, unit, factor)
    predictor = LinearPredictor(directions, np.append(mean, factor * zeta), covariance)
    return ShrunkenRegression(predictor, factor, rank, sigma2, nu, redundant)


def _slope_covariance(zeta: np.ndarray, unit: float, factor: float) -> np.ndarray:
    """Compute the covariance of slopes shrunken by a common factor, shape (k, k).

    The corrections of Morris (1983, section 5) for estimating B, with a known target: B is shared, so that not knowing
    it moves all slopes together.
    """
    k = len(zeta)
    if k < 3:
        return unit * np.eye(k)
    b = min(max(1.0 - factor, 0.0), 1.0) * (k - 2) / k
    return unit * (1.0 - b) * np.eye(k) + 2.0 / (k - 2) * b**2 * np.outer(zeta, zeta)
