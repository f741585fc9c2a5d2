"""What rows tell of slopes by their differences within groups, and how that is joined with what group means tell.

The model is that of rows: y_ij = x_ij' beta + u_j + e_ij, u_j ~ N(0, tau^2), e_ij ~ N(0, sigma^2). Differences within a
group are free of u_j, so that least squares on them has a slope and a residual variance of its own (Battese, Harter
and Fuller 1988); they are independent of the group means. Columns that are constant within groups take no part in it.

References
----------
Battese, G. E., Harter, R. M., and Fuller, W. A. (1988). An error-components model for prediction of county crop areas
using survey and satellite data. JASA 83, 28-36.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class WithinTriangle(NamedTuple):
    """R of the QR decomposition of the deviations of rows from their group averages, weighted by root precision.

    Parameters
    ----------
    columns : ndarray of shape (m, p)
        Its part that belongs to the columns of X, m <= p + 1; a column that is constant within groups is exactly 0.
    response : ndarray of shape (m,)
        Its part that belongs to y.
    total : float
        Sum of the precisions of all rows, of which the rows have been given their shares.
    largest : ndarray of shape (p,)
        Largest value of each column, in size.
    """

    columns: np.ndarray
    response: np.ndarray
    total: float
    largest: np.ndarray


class WithinSlopes(NamedTuple):
    """Least squares on the deviations of rows from their group averages, in coordinates that make it diagonal.

    Parameters
    ----------
    slopes : ndarray of shape (r,)
        Coefficient of each column of the target's basis, 0 where rows within groups do not tell it.
    information : ndarray of shape (r,)
        sigma^2 (1 where standard errors are known) over the variance of each, 0 where they do not tell it.
    residual : float
        Sum of squares that is left, weighted by precision.
    """

    slopes: np.ndarray
    information: np.ndarray
    residual: float

    @property
    def rank(self) -> int:
        """Number of coefficients that rows within groups tell."""
        return int(np.count_nonzero(self.information))

    @property
    def told(self) -> np.ndarray:
        """Which coefficients rows within groups tell, shape (r,)."""
        return self.information > 0

    def behind_height(self) -> WithinSlopes:
        """Put the height of the target before the slopes; rows within groups do not tell it."""
        return self._replace(slopes=np.append(0.0, self.slopes), information=np.append(0.0, self.information))


def within_triangle(
    codes: np.ndarray,
    averages: Sequence[np.ndarray],
    columns: Sequence[np.ndarray],
    means: np.ndarray,
    y: np.ndarray,
    precision: np.ndarray | None,
) -> WithinTriangle | None:
    """Reduce the deviations of rows from their group averages to a triangle; None where no column varies within groups.

    Parameters
    ----------
    codes : ndarray of shape (n_rows,), int64
        Group of each row.
    averages, columns : sequences of p ndarrays of shape (J,) and (n_rows,)
        Columns, and their group averages with the same weights.
    means, y : ndarrays of shape (J,) and (n_rows,)
        Responses, and their group means.
    precision : ndarray of shape (n_rows,) or None
        Weight of each row, up to sigma^2 the reciprocal of its variance.
    """
    total = float(len(y) if precision is None else precision.sum())
    root = np.sqrt(np.full(len(y), 1.0) if precision is None else precision / precision.max())
    root /= np.linalg.norm(root)
    place, deviations = [], []
    largest = np.array([np.abs(column).max() for column in columns])
    for k, (column, average) in enumerate(zip(columns, averages, strict=True)):
        deviation = np.subtract(column, average[codes], dtype=np.float64)
        # What rounding leaves of the deviations of a column that is constant within groups is not variation.
        if np.abs(deviation).max() > 16 * np.finfo(float).eps * largest[k]:
            place.append(k)
            deviations.append(root * deviation)
    if not place:
        return None
    deviations.append(root * (y - means[codes]))
    triangle = np.linalg.qr(np.column_stack(deviations), mode="r")
    whole = np.zeros((len(triangle), len(columns)))
    whole[:, place] = triangle[:, :-1]
    return WithinTriangle(whole, triangle[:, -1], total, largest)


class PooledSlopes(NamedTuple):
    """Slopes from rows within groups and from group means together, linear in both.

    Parameters
    ----------
    shift : ndarray of shape (k,)
        What the group means add to the slopes that rows within groups tell.
    from_means : ndarray of shape (k, J)
        Derivative of the slopes by the group means.
    from_rows : ndarray of shape (k, k)
        Derivative of the slopes by those of rows within groups.
    n_target : float
        How many coefficients of the target the group means have to tell: all that only they can tell, and of each
        other its share.
    """

    shift: np.ndarray
    from_means: np.ndarray
    from_rows: np.ndarray
    n_target: float


def pool_slopes(
    means: np.ndarray, basis: np.ndarray, within: WithinSlopes, relative_variances: np.ndarray, ratio: float
) -> PooledSlopes:
    """Compute generalised least squares of the slopes that rows within groups tell, those included.

    With W = diag 1 / (v_j + tau^2), Q = W - W Z_b (Z_b' W Z_b)^-1 Z_b' W for the rest Z_b of the basis, G = Z' Q Z and
    M the information within groups over sigma^2: beta = (G + M)^-1 (Z' Q y + M beta_within). Of the degrees of freedom
    of the means this takes tr (G + M)^-1 G: E d' W d = J - r_b - tr (G + M)^-1 G for the deviations d = y - z' beta.

    Parameters
    ----------
    means : ndarray of shape (J,)
        y, less what the slopes within groups make of it.
    basis : ndarray of shape (J, r)
        Z and Z_b side by side, as `within` tells them apart.
    within : WithinSlopes
        beta_within, M.
    relative_variances : ndarray of shape (J,)
        v_j / sigma^2.
    ratio : float
        tau^2 / sigma^2; inf where the means are not to be believed.
    """
    told = within.told
    z, rest = basis[:, told], basis[:, ~told]
    n_told, n_rest = z.shape[1], rest.shape[1]
    if not n_told or not ratio < 1e100:
        return PooledSlopes(np.zeros(n_told), np.zeros((n_told, len(means))), np.eye(n_told), float(n_rest))
    root = np.sqrt(1.0 / (relative_variances + ratio))
    left, _ = np.linalg.qr(root[:, None] * rest)
    weighted = root[:, None] * z
    weighted -= left @ (left.T @ weighted)
    gram = weighted.T @ weighted
    # M is scaled away: it may be larger or smaller than G by any factor.
    scale = np.sqrt(within.information[told])
    gram /= scale[:, None] * scale
    inverse = np.linalg.inv(gram + np.eye(n_told))
    from_means = (inverse / scale[:, None] / scale) @ (weighted * root[:, None]).T
    from_rows = inverse * (scale / scale[:, None])
    n_target = n_rest + float(np.trace(inverse @ gram))
    return PooledSlopes(from_means @ means, from_means, from_rows, n_target)
