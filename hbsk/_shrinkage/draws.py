"""Joint draws of group means and of rows, approximately: Student's t with a common target.

Of a draw everything shares one error of the target, which moves each group by what it was moved towards the target;
the rest of each group's variance is its own. Chi-squares behind the scales, that of the variance within groups on nu
degrees of freedom and those of the groups on theirs, share as many degrees as the fewest of them has. Margins of means
are the t distributions of `predict_interval`.
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
    sd, degrees = fitted.student_of_means()
    of_noise, larger = fitted.nu, 1.0
    if fitted.averaged is not None and fitted.nu < np.inf:
        of_noise, larger = fitted.averaged.degrees, float(np.sqrt(fitted.averaged.sigma2_on_average() / fitted.sigma2))
    fewest = min(of_noise if of_noise > 0 else np.inf, degrees.min(initial=np.inf, where=degrees > 0))
    shared = rng.chisquare(fewest, n_draws) if fewest < np.inf else np.ones(n_draws)
    scale = larger * _scales(shared, fewest, np.array([of_noise]), rng)[:, 0]
    covariance = _finite_covariance(fitted)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    coef = rng.standard_normal((n_draws, len(values))) @ root.T
    n_groups = len(fitted.theta)
    if not n_groups:
        return MeanDraws(scale, scale[:, None] * coef, np.empty((n_draws, 0)))
    points, variance = _targets(fitted, covariance)
    pull = 1.0 - fitted.shrinkage
    own = np.sqrt(_own_variances(fitted, sd, variance))
    known = np.isfinite(own)
    theta = rng.standard_normal((n_draws, n_groups)) * np.where(known, own, 0.0) + (coef @ points.T) * pull
    theta *= _scales(shared, fewest, degrees, rng)
    theta += fitted.theta
    theta[:, ~known] = np.nan
    coef *= scale[:, None]
    return MeanDraws(scale, coef, theta)


def _scales(shared: np.ndarray, fewest: float, degrees: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw roots of degrees over chi-squares that have a part in common, shape (n_draws, n); ones for none."""
    scales = np.ones((len(shared), len(degrees)))
    finite = (degrees > 0) & (degrees < np.inf)
    if finite.any():
        more = np.maximum(degrees[finite] - fewest, 0.0)
        chi_square = np.repeat(shared[:, None], len(more), axis=1)
        if more.any():
            chi_square[:, more > 0] += rng.chisquare(more[more > 0], (len(shared), int(np.sum(more > 0))))
        scales[:, finite] = np.sqrt(degrees[finite] / chi_square)
    return scales


def deviation_sds(fitted: FittedMeans) -> np.ndarray:
    """Return the sds (J,) of the group means less the target; NaN where they are not known.

    Given the target m, ``theta_j = m + lambda_j (y_j - m)`` and an error of the group's own: the error of m moves the
    difference by ``-lambda_j``, where it moves theta by ``1 - lambda_j``.
    """
    variance = _targets(fitted, _finite_covariance(fitted))[1]
    return np.sqrt(_own_variances(fitted, fitted.theta_sd, variance) + np.square(fitted.shrinkage) * variance)


def difference_moments(fitted: FittedMeans, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means and sds, each (n_pairs,), of the differences of two group means; infinite sds where not known.

    Given the target groups are independent; its error moves each group by what it was moved towards the target.
    """
    covariance = _finite_covariance(fitted)
    points, of_target = _targets(fitted, covariance)
    own, moved = _own_variances(fitted, fitted.theta_sd, of_target), (1.0 - fitted.shrinkage)[:, None] * points
    apart = moved[first] - moved[second]
    variance = own[first] + own[second] + np.einsum("jk,kl,jl->j", apart, covariance, apart)
    return fitted.theta[first] - fitted.theta[second], np.sqrt(infinite_where_unknown(variance))


def _finite_covariance(fitted: FittedMeans) -> np.ndarray:
    return np.nan_to_num(fitted.predictor.covariance, nan=0.0, posinf=0.0, neginf=0.0)


def _targets(fitted: FittedMeans, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the groups stand in the target, (J, 1 + k), and the variances (J,) of the target there."""
    points = fitted.points()
    return points, np.einsum("jk,kl,jl->j", points, covariance, points)


def _own_variances(fitted: FittedMeans, sd: np.ndarray, of_target: np.ndarray) -> np.ndarray:
    """Return what is left of the variances of the group means when the target is known."""
    return np.maximum(np.square(sd) - np.square(1.0 - fitted.shrinkage) * of_target, 0.0)


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
        if fitted.averaged is None or not len(labels):
            sd = draws.scale * np.sqrt(np.nan_to_num(fitted.new_variance, nan=0.0, posinf=0.0))
        else:
            sd = np.sqrt(fitted.averaged.draw_of_new(n_draws, float(np.mean(noise[~known])), rng))
        y[~known] += (sd * rng.standard_normal((len(labels), n_draws)))[place]
    unknown = ~np.isfinite(infinite_where_unknown(fitted.variance(columns, n_rows, codes) + noise))
    y += draws.scale * rng.standard_normal(y.shape) * np.sqrt(np.where(unknown, 0.0, noise))[:, None]
    y[unknown] = np.nan
    return y
