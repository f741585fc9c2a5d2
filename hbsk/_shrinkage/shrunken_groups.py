"""From rows to shrunken group means: averages, the target and its slopes, shrinkage, rows away from the average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hbsk._shrinkage.group_means import GroupMeans, group_averages, row_precision, summarise_groups
from hbsk._shrinkage.linear_predictor import Coordinates, Directions, LinearPredictor, find_directions, no_directions
from hbsk._shrinkage.shrunken_means import ShrunkenMeans, shrink_means
from hbsk._shrinkage.within_groups import WithinSlopes, within_triangle


class Departures(NamedTuple):
    """What it costs to predict away from a group's own point, the average of its rows.

    Parameters
    ----------
    points : ndarray of shape (J, k)
        Coordinates of that point.
    lean : ndarray of shape (J, k)
        Covariance of the slopes with the error of each shrunken mean.
    covariance : ndarray of shape (k, k)
        Covariance of the slopes; NaN for those about which nothing is known.
    """

    points: np.ndarray
    lean: np.ndarray
    covariance: np.ndarray

    def variance(
        self, codes: np.ndarray, columns: Sequence[np.ndarray], directions: Directions, n_rows: int
    ) -> np.ndarray:
        """Compute what is added to the variance of the shrunken mean in each row, shape (n_rows,).

        With e = z* - z_j it is e' C e + 2 e' lean_j, which makes v_j lambda_j + d' C d, d = z* - lambda_j z_j, of the
        variance v_j lambda_j + (1 - lambda_j)^2 z_j' C z_j of the group's own mean.
        """
        away = directions.coordinates(columns, n_rows)[:, 1:] - self.points[codes]
        away[np.abs(away) <= directions.rounding(columns, n_rows)] = 0.0
        unknown = np.isnan(np.diag(self.covariance))
        known = ~unknown
        part = away[:, known]
        variance = np.einsum("nk,kl,nl->n", part, self.covariance[np.ix_(known, known)], part)
        variance += 2.0 * np.einsum("nk,nk->n", part, self.lean[:, known][codes])
        variance[away[:, unknown].any(axis=1)] = np.inf
        return variance


class ShrunkenGroups(NamedTuple):
    """All that is learnt of groups.

    Parameters
    ----------
    groups : GroupMeans
        Means before shrinkage; sigma2 and nu are those around the slopes within groups.
    means : ShrunkenMeans
        Means after it.
    target : ndarray of shape (J,)
        What each mean was moved towards.
    predictor : LinearPredictor
        Height of the target for any row.
    departures : Departures or None
        For rows away from their group's own point; None where the target is the same for all rows.
    redundant : ndarray of shape (p,), bool
        Columns whose slopes cannot be told apart.
    within : WithinSlopes or None
        What rows within groups say of the coefficients; None where they say nothing.
    """

    groups: GroupMeans
    means: ShrunkenMeans
    target: np.ndarray
    predictor: LinearPredictor
    departures: Departures | None
    redundant: np.ndarray
    within: WithinSlopes | None


def shrink_groups(
    codes: np.ndarray,
    n_groups: int,
    y: np.ndarray,
    weight: np.ndarray | None,
    standard_error: np.ndarray | None,
    columns: Sequence[np.ndarray] = (),
    *,
    method: str,
    target: str | float,
    between_group_variance: str | float,
    positive_part: bool,
) -> ShrunkenGroups:
    """Average rows by group and shrink the averages.

    Parameters
    ----------
    codes : ndarray of shape (n_rows,), int64
        Group of each row, 0..n_groups-1, each of them there.
    n_groups : int
        J.
    y : ndarray of shape (n_rows,)
        Responses.
    weight, standard_error : ndarray of shape (n_rows,) or None
        Number of copies of each row, and sd (not variance) of its sampling error.
    columns : sequence of p ndarrays of shape (n_rows,)
        Columns of the target "regression".
    method, target, between_group_variance, positive_part
        As in JamesSteinEstimator.
    """
    groups = summarise_groups(codes, n_groups, y, weight, standard_error)
    precision = row_precision(weight, standard_error)
    averages = [group_averages(codes, n_groups, column, precision) for column in columns]
    surface = None
    if columns:
        triangle = within_triangle(codes, averages, columns, groups.means, y, precision)
        surface = find_directions(averages, np.full(n_groups, 1.0 / n_groups), triangle)
        groups = groups.around_slopes(surface.within)
    return shrink_averages(
        groups,
        averages,
        surface,
        method=method,
        target=target,
        between_group_variance=between_group_variance,
        positive_part=positive_part,
    )


def shrink_averages(
    groups: GroupMeans,
    averages: Sequence[np.ndarray] = (),
    surface: Coordinates | None = None,
    *,
    method: str,
    target: str | float,
    between_group_variance: str | float,
    positive_part: bool,
) -> ShrunkenGroups:
    """Shrink averages, of y and of the columns of the target, which rows are no longer needed for.

    Parameters
    ----------
    groups : GroupMeans
        J averages of y.
    averages : sequence of p ndarrays of shape (J,)
        Averages of the columns of the target "regression".
    surface : Coordinates or None
        What the columns span; None without columns.
    method, target, between_group_variance, positive_part
        As in JamesSteinEstimator.
    """
    n_groups = len(groups.means)
    directions, points, within = no_directions(), np.empty((n_groups, 0)), None
    redundant = np.zeros(len(averages), dtype=bool)
    if surface is not None:
        directions, points, within, redundant = surface
    if target == "zero" or not isinstance(target, str):
        basis, offset = np.empty((n_groups, 0)), 0.0 if target == "zero" else float(target)
    else:
        basis = np.column_stack([np.ones(n_groups), points])
        offset = float(np.average(groups.means, weights=groups.counts))
    within = None if within is None or not within.rank else within.behind_height()
    means = shrink_means(
        groups,
        basis,
        offset,
        method=method,
        between_group_variance=between_group_variance,
        positive_part=positive_part,
        within=within,
    )
    predictor = LinearPredictor(directions, np.array([offset]), np.zeros((1, 1)))
    if basis.shape[1]:
        coef = means.target_coef + np.append(offset, np.zeros(points.shape[1]))
        predictor = LinearPredictor(directions, coef, means.target_covariance)
    departures = None
    if points.shape[1]:
        # by the same sums as those of rows, so that a row at the average is nowhere else
        own = directions.coordinates(averages, n_groups)[:, 1:]
        departures = Departures(own, means.lean[:, 1:].copy(), means.slope_covariance[1:, 1:].copy())
    return ShrunkenGroups(groups, means, predictor.value(averages, n_groups), predictor, departures, redundant, within)


def infinite_where_unknown(variance: np.ndarray) -> np.ndarray:
    """Say that a variance about which nothing is known is infinite; NaN is how such variances are computed."""
    return np.where(np.isnan(variance), np.inf, variance)
