"""Joint draws of group means and of rows, approximately: Student's t with a common target.

Of a draw everything shares one scale, that of the variance within groups on nu degrees of freedom, and one error of the
target, which moves each group by what it was moved towards the target; the rest of each group's variance is its own.
Margins are the t distributions of `predict_interval`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hbsk._shrinkage.predictions import FittedMeans
from hbsk._shrinkage.shrunken_groups import infinite_where_unknown


class MeanDraws(NamedTuple):
    """Draws of everything that rows share.

    Parameters
    ----------
    scale : ndarray of shape (n_draws,)
        What sds are multiplied by.
    coef : ndarray of shape (n_draws, 1 + k)
        Errors of the coefficients of the target.
    theta : ndarray of shape (n_draws, J)
        Group means; NaN where their variance is not known.
    """

    scale: np.ndarray
    coef: np.ndarray
    theta: np.ndarray


def draw_means(fitted: FittedMeans, n_draws: int, rng: np.random.Generator) -> MeanDraws:
    """Draw the target's errors and all group means together."""
    scale = np.ones(n_draws)
    if 0 < fitted.nu < np.inf:
        scale = np.sqrt(fitted.nu / rng.chisquare(fitted.nu, n_draws))
    covariance = _finite_covariance(fitted)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    coef = scale[:, None] * (rng.standard_normal((n_draws, len(values))) @ root.T)
    n_groups = len(fitted.theta)
    if not n_groups:
        return MeanDraws(scale, coef, np.empty((n_draws, 0)))
    points, variance = _targets(fitted, covariance)
    pull = 1.0 - fitted.shrinkage
    own = np.sqrt(_own_variances(fitted, variance))
    known = np.isfinite(own)
    theta = scale[:, None] * (rng.standard_normal((n_draws, n_groups)) * np.where(known, own, 0.0))
    theta += fitted.theta + (coef @ points.T) * pull
    theta[:, ~known] = np.nan
    return MeanDraws(scale, coef, theta)


def deviation_sds(fitted: FittedMeans) -> np.ndarray:
    """Return the sds (J,) of the group means less the target; NaN where they are not known.

    Given the target m, ``theta_j = m + lambda_j (y_j - m)`` and an error of the group's own: the error of m moves the
    difference by ``-lambda_j``, where it moves theta by ``1 - lambda_j``.
    """
    variance = _targets(fitted, _finite_covariance(fitted))[1]
    return np.sqrt(_own_variances(fitted, variance) + np.square(fitted.shrinkage) * variance)


def difference_moments(fitted: FittedMeans, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means and sds, each (n_pairs,), of the differences of two group means; infinite sds where not known.

    Given the target groups are independent; its error moves each group by what it was moved towards the target.
    """
    covariance = _finite_covariance(fitted)
    points, of_target = _targets(fitted, covariance)
    own, moved = _own_variances(fitted, of_target), (1.0 - fitted.shrinkage)[:, None] * points
    apart = moved[first] - moved[second]
    variance = own[first] + own[second] + np.einsum("jk,kl,jl->j", apart, covariance, apart)
    return fitted.theta[first] - fitted.theta[second], np.sqrt(infinite_where_unknown(variance))


def _finite_covariance(fitted: FittedMeans) -> np.ndarray:
    return np.nan_to_num(fitted.predictor.covariance, nan=0.0, posinf=0.0, neginf=0.0)


def _targets(fitted: FittedMeans, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the groups stand in the target, (J, 1 + k), and the variances (J,) of the target there."""
    points = np.ones((len(fitted.theta), 1))
    if fitted.departures is not None:
        points = np.column_stack([points, fitted.departures.points])
    return points, np.einsum("jk,kl,jl->j", points, covariance, points)


def _own_variances(fitted: FittedMeans, of_target: np.ndarray) -> np.ndarray:
    """Return what is left of the variances of the group means when the target is known."""
    return np.maximum(np.square(fitted.theta_sd) - np.square(1.0 - fitted.shrinkage) * of_target, 0.0)


def draw_rows(
    fitted: FittedMeans,
    rows: tuple[Sequence[np.ndarray], int, np.ndarray | None],
    noise: np.ndarray,
    n_draws: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw new observations, shape (n_rows, n_draws), each column jointly; NaN where their variance is not known.

    Parameters
    ----------
    fitted : FittedMeans
    rows : (columns, n_rows, codes)
        Columns of the target, a sequence of ndarray of shape (n_rows,); number of rows; their groups, an ndarray of
        shape (n_rows,), None without groups. Codes not below J are new groups, each with one mean for all its rows.
    noise : ndarray of shape (n_rows,)
        Variance of each observation around the mean of its group.
    n_draws : int
    rng : Generator
    """
    columns, n_rows, codes = rows
    draws = draw_means(fitted, n_draws, rng)
    away = fitted.predictor.directions.coordinates(columns, n_rows)
    mean = fitted.predictor.value(columns, n_rows)
    if codes is not None:
        known = codes < len(fitted.theta)
        groups = codes[known]
        mean[known] = fitted.mean([column[known] for column in columns], int(known.sum()), groups)
        away[known] -= 1.0 if fitted.departures is None else np.insert(fitted.departures.points[groups], 0, 1.0, axis=1)
    y = mean[:, None] + away @ draws.coef.T
    if codes is not None:
        y[known] += (draws.theta - fitted.theta).T[groups]
        labels, place = np.unique(codes[~known], return_inverse=True)
        if fitted.new_groups is None or not len(labels):
            sd = draws.scale * np.sqrt(np.nan_to_num(fitted.new_variance, nan=0.0, posinf=0.0))
        else:
            sd = np.sqrt(fitted.new_groups.draw(n_draws, float(np.mean(noise[~known])), rng))
        y[~known] += (sd * rng.standard_normal((len(labels), n_draws)))[place]
    unknown = ~np.isfinite(infinite_where_unknown(fitted.variance(columns, n_rows, codes) + noise))
    y += draws.scale * rng.standard_normal(y.shape) * np.sqrt(np.where(unknown, 0.0, noise))[:, None]
    y[unknown] = np.nan
    return y
