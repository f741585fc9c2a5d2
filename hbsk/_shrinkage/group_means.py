"""Group means, and how well they are known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hbsk._shrinkage.within_groups import WithinSlopes


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
        return self.unit * self.relative_variances

    @property
    def unit(self) -> float:
        """What the relative variances are multiples of: sigma2, or 1 with known standard errors."""
        return 1.0 if np.isinf(self.nu) else self.sigma2

    def around_slopes(self, within: WithinSlopes) -> GroupMeans:
        """Measure the variance within groups around what predicts them, the slopes that rows within groups tell."""
        if np.isinf(self.nu) or not within.rank:
            return self
        nu = self.nu - within.rank
        return self._replace(sigma2=within.residual / nu if nu > 0 else np.nan, nu=nu)


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
        precision = row_precision(weight, standard_error)
        assert precision is not None
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


def row_precision(weight: np.ndarray | None, standard_error: np.ndarray | None) -> np.ndarray | None:
    """Weight of each row in the mean of its group: copies, over the variance where that is known; None: all alike."""
    if standard_error is None:
        return weight
    precision = 1.0 / np.square(standard_error)
    return precision if weight is None else weight * precision


def group_averages(codes: np.ndarray, n_groups: int, x: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """Weighted mean of a column in each group, shape (J,); the weights are those of y, or a line is bent."""
    counts = np.bincount(codes, weights=weight, minlength=n_groups)
    averages = np.full(n_groups, float(np.average(x, weights=weight)))
    # The second pass takes away what adding up many rows has lost: a column that is constant must be seen to be.
    for _ in range(2):
        deviation = x - averages[codes]
        averages += np.bincount(codes, weights=deviation if weight is None else weight * deviation) / counts
    return averages
