"""Group means, and how well they are known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class GroupMeans(NamedTuple):
    """Group means and the variances they have.

    Parameters
    ----------
    counts : ndarray of shape (J,)
        Sum of the weights of each group: its number of rows, copies counted.
    means : ndarray of shape (J,)
        Mean of each group, weighted by precision where standard errors are known.
    relative_variances : ndarray of shape (J,)
        Variance of each mean divided by sigma2: 1 / counts; with known standard errors the variance itself.
    sigma2 : float
        Within-group variance, pooled over groups (variance of one row); NaN with known standard errors, and where no
        group has two rows.
    nu : float
        Degrees of freedom of sigma2: rows less groups, copies counted; inf with known standard errors.
    """

    counts: np.ndarray
    means: np.ndarray
    relative_variances: np.ndarray
    sigma2: float
    nu: float

    @property
    def variances(self) -> np.ndarray:
        """Sampling variance of each group mean, shape (J,)."""
        return self.relative_variances if np.isinf(self.nu) else self.sigma2 * self.relative_variances


def summarise_groups(
    codes: np.ndarray, n_groups: int, y: np.ndarray, weight: np.ndarray | None, standard_error: np.ndarray | None
) -> GroupMeans:
    """Means of the groups and their variances: sigma^2 / n_j, or 1 / sum(w_i / se_i^2) where the se_i are known.

    Parameters
    ----------
    codes : ndarray of shape (n_rows,), int64
        Group of each row, 0..n_groups-1.
    n_groups : int
        J.
    y : ndarray of shape (n_rows,)
        Responses.
    weight, standard_error : ndarray of shape (n_rows,) or None
        Number of copies of each row, and sd (not variance) of its sampling error.
    """
    counts = np.bincount(codes, weights=weight, minlength=n_groups).astype(np.float64)
    # Digits are lost in sums of numbers far from zero, so everything is summed around one centre.
    centre = float(np.average(y, weights=weight))
    residual = y - centre
    if standard_error is not None:
        precision = 1.0 / np.square(standard_error)
        precision = precision if weight is None else weight * precision
        total = np.bincount(codes, weights=precision, minlength=n_groups)
        means = np.bincount(codes, weights=precision * residual, minlength=n_groups) / total
        return GroupMeans(counts, centre + means, 1.0 / total, np.nan, np.inf)
    means = np.bincount(codes, weights=residual if weight is None else weight * residual, minlength=n_groups) / counts
    residual -= means[codes]
    # A second pass makes the means of residuals vanish to the last digit, and with them the error of the first.
    within = np.dot(residual if weight is None else weight * residual, residual)
    nu = counts.sum() - n_groups
    sigma2 = float(within / nu) if nu > 0 and (counts > 1).any() else np.nan
    return GroupMeans(counts, centre + means, 1.0 / counts, sigma2, float(nu))


def group_averages(codes: np.ndarray, n_groups: int, x: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """Weighted mean of a column in each group, shape (J,)."""
    counts = np.bincount(codes, weights=weight, minlength=n_groups)
    centre = float(np.average(x, weights=weight))
    deviation = x - centre if weight is None else weight * (x - centre)
    return centre + np.bincount(codes, weights=deviation, minlength=n_groups) / counts
