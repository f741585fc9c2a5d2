"""Means of rows, known groups and new ones, and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hbsk._shrinkage.averaged_variance import AveragedVariance, KnownGroups, Laws, distinct_pairs, t_quantile
from hbsk._shrinkage.linear_predictor import LinearPredictor, ShrunkenRegression
from hbsk._shrinkage.shrunken_groups import Departures, ShrunkenGroups, infinite_where_unknown
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
    groups : KnownGroups or None
        What the means were before; None without groups.
    averaged : AveragedVariance or None
        What is known of tau^2; None where nothing was shrunken.
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
    groups: KnownGroups | None = None
    averaged: AveragedVariance | None = None

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
        variance = infinite_where_unknown(self.variance(columns, n_rows, codes) + noise)
        if codes is None or self.averaged is None:
            return t_quantile(0.5 + coverage / 2, np.array([self.nu])) * np.sqrt(variance)
        noise = np.broadcast_to(np.asarray(noise, dtype=np.float64), n_rows)
        # that of rows like those of fit was estimated
        noise = np.where(np.isfinite(self.nu) & (noise > 0), np.nan, noise)
        known = codes < len(self.theta)
        reach = np.empty(n_rows)
        reach[known] = self._reach_of_known([column[known] for column in columns], codes[known], noise[known], coverage)
        reach[~known] = self._reach_of_new([column[~known] for column in columns], noise[~known], coverage)
        return np.where(np.isfinite(variance), reach, np.inf)

    def _reach_of_known(
        self, columns: Sequence[np.ndarray], codes: np.ndarray, noise: np.ndarray, coverage: float
    ) -> np.ndarray:
        assert self.averaged is not None
        assert self.groups is not None
        place = np.arange(len(codes))
        if self.departures is None:
            codes, noise, place = distinct_pairs(codes, noise)
            away = np.zeros(len(codes))
        else:
            away = self.departures.variance(codes, columns, self.predictor.directions, len(codes))
        return self.averaged.of_known(self.groups, self.points(), codes, away, noise).reach(coverage)[place]

    def _reach_of_new(self, columns: Sequence[np.ndarray], noise: np.ndarray, coverage: float) -> np.ndarray:
        assert self.averaged is not None
        place = np.arange(len(noise))
        if not columns:
            noise, place = np.unique(noise, return_inverse=True)
        points = self.predictor.directions.coordinates(columns, len(noise))
        return self.averaged.of_new(points, noise).reach(coverage)[place]

    def points(self) -> np.ndarray:
        """Return where the groups stand in the target, shape (J, 1 + k)."""
        ones = np.ones((len(self.theta), 1))
        return ones if self.departures is None else np.column_stack([ones, self.departures.points])

    def student_of_means(self) -> tuple[np.ndarray, np.ndarray]:
        """Return scale and degrees of freedom of Student's t about the shrunken mean of each group, both (J,)."""
        laws = self._laws_of_means()
        return (self.theta_sd, np.full(len(self.theta), self.nu)) if laws is None else laws.student()

    def intervals(self, coverage: float) -> np.ndarray:
        """Return the interval of the true mean of each group, shape (J, 2)."""
        laws = self._laws_of_means()
        if laws is None:
            reach = t_quantile(0.5 + coverage / 2, np.array([self.nu])) * self.theta_sd
        else:
            reach = laws.reach(coverage)
        return np.column_stack([self.theta - reach, self.theta + reach])

    def _laws_of_means(self) -> Laws | None:
        if self.averaged is None or self.groups is None:
            return None
        n_groups = len(self.theta)
        still = np.zeros(n_groups)
        return self.averaged.of_known(self.groups, self.points(), np.arange(n_groups), still, still)


def fitted_means(learnt: ShrunkenGroups) -> FittedMeans:
    """Keep of shrunken groups what predictions need."""
    groups, means = learnt.groups, learnt.means
    return FittedMeans(
        theta=means.theta,
        theta_sd=np.sqrt(infinite_where_unknown(means.variances())),
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
        groups=means.groups,
        averaged=means.averaged,
    )


def fitted_slopes(learnt: ShrunkenRegression) -> FittedMeans:
    """Keep of a shrunken regression, which has no groups, what predictions need."""
    none = np.empty(0)
    return FittedMeans(none, none, none, none, learnt.predictor, None, learnt.nu, learnt.sigma2, 0.0, np.nan, none)
