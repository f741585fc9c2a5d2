"""Sums over groups of equal variance: what is asked of group means is a function of tau^2 through weights of the v_j.

Symbols are those of `hbsk._shrinkage.between_group_variance`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.linalg import eigh

# Share of the degrees of freedom of a cell, below which what is left of them is not told by a difference.
LEAST_LEFT = 0.1


class Cells(NamedTuple):
    """Groups of equal variance taken together; J groups of 1 to 50 rows make 50 cells.

    Parameters
    ----------
    variances : ndarray of shape (K,)
        Distinct v_j.
    counts : ndarray of shape (K,)
        Groups in each cell.
    products : ndarray of shape (K, (r + 1)^2)
        Sum over the groups of a cell of the outer product of (z_j, y_j) with itself, in rows.
    prior : ndarray of shape (r + 1, r + 1), or 0
        What other data than the means tell of beta, whose estimate from them is 0: their precision matrix, and zeros.
    n_prior : int
        Number of coefficients that those data identify.
    """

    variances: np.ndarray
    counts: np.ndarray
    products: np.ndarray
    prior: np.ndarray | float = 0.0
    n_prior: int = 0

    @property
    def n_target(self) -> int:
        """Number r of target coefficients."""
        return int(np.sqrt(self.products.shape[1])) - 1

    @property
    def n_groups(self) -> int:
        """Number J of groups."""
        return int(self.counts.sum())

    @property
    def degrees(self) -> int:
        """Degrees of freedom of the weighted residuals, those of the prior's part among them."""
        return self.n_groups + self.n_prior - self.n_target


def collect_cells(
    means: np.ndarray, variances: np.ndarray, basis: np.ndarray, prior_precision: np.ndarray | None = None
) -> Cells:
    """Sum the groups of equal variance.

    Parameters
    ----------
    means : ndarray of shape (J,)
        y_j; centred beforehand where digits matter.
    variances : ndarray of shape (J,)
        v_j.
    basis : ndarray of shape (J, r)
        z_j; nearly orthogonal columns of like size, where digits matter.
    prior_precision : ndarray of shape (r,), default=None
        Precision with which each coefficient is known to be 0 from other data, 0 where it is not. None: there are none.
    """
    cell, distinct = pd.factorize(variances, sort=True)
    columns = [*basis.T, means]
    size = len(columns)
    products = np.empty((len(distinct), size, size))
    for i in range(size):
        for j in range(i + 1):
            sums = np.bincount(cell, weights=columns[i] * columns[j], minlength=len(distinct))
            products[:, i, j] = products[:, j, i] = sums
    cells = Cells(distinct, np.bincount(cell).astype(np.float64), products.reshape(len(distinct), -1))
    if prior_precision is None:
        return cells
    return cells._replace(prior=np.diag(np.append(prior_precision, 0.0)), n_prior=int(np.sum(prior_precision > 0)))


def without_leverage(basis: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Return T, (r, r): the columns of basis @ T are orthonormal, weighted by 1 / v_j.

    A few groups of very small variance would make columns alike that are not: of the products of `basis` nothing would
    be left but those of these groups.
    """
    if basis.shape[1] < 2:
        return np.eye(basis.shape[1])
    order = np.argsort(variances)
    triangle = np.linalg.qr((basis / np.sqrt(variances / variances.min())[:, None])[order], mode="r")
    return np.linalg.inv(triangle)


def weighted_products(cells: Cells, weights: np.ndarray) -> np.ndarray:
    """Compute [Z y]' diag(weights) [Z y], shape (..., r + 1, r + 1), for weights of shape (..., K)."""
    size = cells.n_target + 1
    return (weights @ cells.products).reshape(*weights.shape[:-1], size, size)


class WeightedFit(NamedTuple):
    """Weighted least squares of the means on the basis, for each of the leading indices of the weights."""

    coef: np.ndarray  # (..., r)
    residual: np.ndarray  # (...), weighted sum of squared residuals
    inverse: np.ndarray  # (..., r, r), inverse of Z' W Z
    log_det: np.ndarray  # (...), log |Z' W Z|


def least_squares(cells: Cells, weights: np.ndarray) -> WeightedFit:
    """Fit the means by the basis with weights of shape (..., K), and what the prior tells."""
    products = weighted_products(cells, weights) + cells.prior
    gram, cross, square = products[..., :-1, :-1], products[..., :-1, -1], products[..., -1, -1]
    inverse = np.linalg.inv(gram)
    coef = np.einsum("...jk,...k->...j", inverse, cross)
    residual = np.maximum(square - np.einsum("...k,...k->...", cross, coef), 0.0)
    return WeightedFit(coef, residual, inverse, np.linalg.slogdet(gram)[1])


def squared_residual(cells: Cells, weights: np.ndarray, coef: np.ndarray) -> np.ndarray:
    """Sum weights times squared residuals of given coefficients, shape (...)."""
    contrast = np.concatenate([-coef, np.ones((*coef.shape[:-1], 1))], axis=-1)
    return np.einsum("...j,...jk,...k->...", contrast, weighted_products(cells, weights), contrast)


def totals_at(cells: Cells, tau2: float | np.ndarray) -> np.ndarray:
    """Compute v_j + tau^2, shape (..., K), for tau2 of shape (...)."""
    return cells.variances + np.asarray(tau2)[..., None]


def trace_of_p(cells: Cells, fit: WeightedFit, weights: np.ndarray) -> np.ndarray:
    """Compute tr P, P = W - W Z (Z'WZ)^-1 Z'W, shape (...)."""
    size = cells.n_target
    of_cells = cells.products.reshape(-1, size + 1, size + 1)[:, :-1, :-1]
    left = cells.counts - weights * np.einsum("...kl,ckl->...c", fit.inverse, of_cells)
    for place in zip(*np.nonzero(left < LEAST_LEFT * cells.counts), strict=True):
        left[place] = _left_of_cell(cells, weights[place[:-1]], place[-1])
    return np.sum(weights * left, axis=-1)


def _left_of_cell(cells: Cells, weights: np.ndarray, cell: int) -> float:
    """Compute tr (I - H) over the groups of a cell that takes nearly all of its degrees of freedom for the target.

    With A what all other groups tell of beta and Z the rows of the cell it is tr (I + w Z A^-1 Z')^-1: no difference.
    """
    size = cells.n_target
    own = cells.products[cell].reshape(size + 1, size + 1)[:-1, :-1]
    prior = cells.prior[:-1, :-1] if isinstance(cells.prior, np.ndarray) else 0.0
    others = weighted_products(cells, np.where(np.arange(len(weights)) == cell, 0.0, weights))[:-1, :-1] + prior
    try:
        values = eigh(weights[cell] * own, others, eigvals_only=True)
    except np.linalg.LinAlgError:  # only this cell tells some of beta, and has no residual there
        return 0.0
    return float(np.sum(1.0 / (1.0 + np.maximum(values[-int(cells.counts[cell]) :], 0.0))))


def trace_of_pp(cells: Cells, fit: WeightedFit, weights: np.ndarray) -> np.ndarray:
    """Compute tr PP, shape (...); half of it is the information of tau^2 in the restricted likelihood."""
    square = np.square(weights)
    if _is_one_mean(cells):
        own = np.square(weights * _sum_of_others(cells, weights)) + square * _sum_of_others(cells, square)
        return own @ cells.counts / np.square(weights @ cells.counts)
    once = fit.inverse @ weighted_products(cells, square)[..., :-1, :-1]
    twice = fit.inverse * weighted_products(cells, square * weights)[..., :-1, :-1]
    return square @ cells.counts - 2.0 * np.sum(twice, axis=(-2, -1)) + np.trace(once @ once, axis1=-2, axis2=-1)


def _is_one_mean(cells: Cells) -> bool:
    """Tell whether the target is one mean, told by the means alone: differences of traces are then sums over pairs."""
    return cells.n_target == 1 and not cells.n_prior and np.array_equal(cells.products[:, 0], cells.counts)


def _sum_of_others(cells: Cells, values: np.ndarray) -> np.ndarray:
    """Sum values over all groups but one of each cell, shape (..., K): nothing is lost where one value is most of all.

    Each group has the value of its cell.
    """
    summed = values * cells.counts
    below = np.zeros_like(summed)
    above = np.zeros_like(summed)
    below[..., 1:] = np.cumsum(summed[..., :-1], axis=-1)
    above[..., :-1] = np.cumsum(summed[..., :0:-1], axis=-1)[..., ::-1]
    return below + above + values * (cells.counts - 1.0)
