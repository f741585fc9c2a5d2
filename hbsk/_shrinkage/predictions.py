"""Means of rows, known groups and new ones, and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student_t

from hbsk._shrinkage.linear_predictor import LinearPredictor, ShrunkenRegression
from hbsk._shrinkage.new_groups import NewGroups
from hbsk._shrinkage.shrunken_groups import Departures, ShrunkenGroups, infinite_where_unknown
from hbsk._shrinkage.shrunken_means import t_quantile
from hbsk._shrinkage.within_groups import WithinSlopes


class FittedMeans(NamedTuple):
    """All that predictions need.

    Parameters
    ----------
    theta, theta_sd : ndarray of shape (J,)
        Shrunken means and their sds; none without groups.
    shrinkage : ndarray of shape (J,)
        Weight of each group's own mean.
    deviations : ndarray of shape (J,)
        Shrunken means less the target at the average row of each group.
    predictor : LinearPredictor
        Height of the target for any row.
    departures : Departures or None
        For rows away from their group's own point.
    nu : float
        Degrees of freedom of the variance within groups; inf where it is known.
    sigma2 : float
        That variance; NaN with known standard errors.
    n_target : float
        Number of coefficients of the target that the group means had to tell.
    new_variance : float
        Variance of a new group around the target.
    variances : ndarray of shape (J,)
        Sampling variances of the group means before shrinkage; NaN where they are not known.
    within : WithinSlopes or None
        What rows within groups say of the coefficients of the target; None where they say nothing.
    new_groups : NewGroups or None
        Law of new groups where tau^2 was estimated.
    """

    theta: np.ndarray
    theta_sd: np.ndarray
    shrinkage: np.ndarray
    deviations: np.ndarray
    predictor: LinearPredictor
    departures: Departures | None
    nu: float
    sigma2: float
    n_target: float
    new_variance: float
    variances: np.ndarray
    within: WithinSlopes | None = None
    new_groups: NewGroups | None = None

    def mean(self, columns: Sequence[np.ndarray], n_rows: int, codes: np.ndarray | None) -> np.ndarray:
        """Compute the mean of each row, shape (n_rows,); codes not below J are new groups, None is no groups."""
        mean = self.predictor.value(columns, n_rows)
        if codes is not None:
            known = codes < len(self.theta)
            if columns:
                mean[known] += self.deviations[codes[known]]
            else:
                mean[known] = self.theta[codes[known]]
        return mean

    def variance(self, columns: Sequence[np.ndarray], n_rows: int, codes: np.ndarray | None) -> np.ndarray:
        """Compute the variance of the mean of each row, shape (n_rows,); NaN where nothing is known of it."""
        variance = self.predictor.variance(columns, n_rows)
        if codes is not None:
            known = codes < len(self.theta)
            variance[~known] += self.new_variance
            codes = codes[known]
            variance[known] = np.square(self.theta_sd[codes])
            if self.departures is not None:
                columns = [column[known] for column in columns]
                variance[known] += self.departures.variance(codes, columns, self.predictor.directions, len(codes))
        # Rounding could take a variance of almost nothing below it.
        return np.maximum(variance, 0.0)

    def reach(
        self,
        columns: Sequence[np.ndarray],
        n_rows: int,
        codes: np.ndarray | None,
        noise: np.ndarray | float,
        coverage: float,
    ) -> np.ndarray:
        """Compute half the width of the interval of each row, shape (n_rows,); noise is 0 for that of its mean."""
        level = 0.5 + coverage / 2
        variance = infinite_where_unknown(self.variance(columns, n_rows, codes) + noise)
        reach = t_quantile(level, np.array([self.nu])) * np.sqrt(variance)
        if codes is None or self.new_groups is None or not (codes >= len(self.theta)).any():
            return reach
        new = codes >= len(self.theta)
        predictor = self.predictor._replace(covariance=self.new_groups.covariance)
        leverage = predictor.variance([column[new] for column in columns], int(new.sum()))
        noise = np.broadcast_to(np.asarray(noise, dtype=np.float64), n_rows)[new]
        own = np.isfinite(self.nu) & (noise > 0)  # of rows like those of fit, whose variance was estimated
        scale, degrees = self.new_groups.student(np.maximum(leverage, 0.0), np.where(own, np.nan, noise))
        reach[new] = np.where(np.isfinite(variance[new]), student_t.ppf(level, degrees) * np.sqrt(scale), np.inf)
        return reach


def fitted_means(learnt: ShrunkenGroups) -> FittedMeans:
    """Keep of shrunken groups what predictions need."""
    groups, means = learnt.groups, learnt.means
    return FittedMeans(
        theta=means.theta,
        theta_sd=np.sqrt(infinite_where_unknown(means.variance)),
        shrinkage=means.shrinkage,
        deviations=means.theta - learnt.target,
        predictor=learnt.predictor,
        departures=learnt.departures,
        nu=groups.nu,
        sigma2=groups.sigma2,
        n_target=means.n_target,
        new_variance=means.new_tau2,
        variances=groups.variances,
        within=learnt.within,
        new_groups=means.new_groups,
    )


def fitted_slopes(learnt: ShrunkenRegression) -> FittedMeans:
    """Keep of a shrunken regression, which has no groups, what predictions need."""
    none = np.empty(0)
    return FittedMeans(none, none, none, none, learnt.predictor, None, learnt.nu, learnt.sigma2, 0.0, np.nan, none)
