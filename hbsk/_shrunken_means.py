"""From group means to shrunken means: which method does what, and when nothing can be done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student_t

from hbsk import _shrinkage
from hbsk._group_means import GroupMeans
from hbsk._surface import Directions, Surface, find_directions, no_directions


def target_basis(
    groups: GroupMeans, columns: Sequence[np.ndarray], target: str | float
) -> tuple[Directions, np.ndarray, float]:
    """Build the target from what it is made of.

    Parameters
    ----------
    groups : GroupMeans
        Means and their variances.
    columns : sequence of ndarrays of shape (J,)
        Group averages of the columns of a "regression"; empty for other targets.
    target : {"mean", "zero", "regression"} or float
        As in JamesSteinEstimator.

    Returns
    -------
    directions : Directions
        How a row of these columns becomes coordinates.
    basis : ndarray of shape (J, r)
        What the coefficients of the target multiply.
    offset : float
        Fixed part of the target.
    """
    n_groups = len(groups.means)
    directions, coordinates = no_directions(), np.empty((n_groups, 0))
    if not isinstance(target, str) or target == "zero":
        return directions, coordinates, 0.0 if isinstance(target, str) else float(target)
    if columns:
        directions, coordinates = find_directions(columns, np.full(n_groups, 1.0 / n_groups))
    offset = float(np.average(groups.means, weights=groups.counts))
    return directions, np.column_stack([np.ones(n_groups), coordinates]), offset


def target_surface(directions: Directions, offset: float, shrunken: ShrunkenMeans) -> Surface:
    """Make the surface whose height is the target; a fixed target has no uncertainty."""
    if not len(shrunken.target_coef):
        return Surface(directions, np.array([offset]), np.zeros((1, 1)))
    coef = shrunken.target_coef.copy()
    coef[0] += offset
    return Surface(directions, coef, shrunken.target_covariance)


class ShrunkenMeans(NamedTuple):
    """What shrinkage makes of group means.

    Parameters
    ----------
    theta : ndarray of shape (J,)
        Shrunken means.
    variance : ndarray of shape (J,)
        Their posterior variances; NaN where sigma^2 is not known.
    shrinkage : ndarray of shape (J,)
        Weight of each group's own mean.
    target_coef : ndarray of shape (r,)
        Coefficients of the target in the basis, offset left out.
    target_covariance : ndarray of shape (r, r)
        Their covariance, tau^2 included.
    tau2 : float
        Variance between groups; NaN where it cannot be estimated.
    new_tau2 : float
        Variance of new groups around the target: tau2 where that was given, else corrected for its estimation.
    why_not : str
        Why nothing was shrunken; empty where something was.
    """

    theta: np.ndarray
    variance: np.ndarray
    shrinkage: np.ndarray
    target_coef: np.ndarray
    target_covariance: np.ndarray
    tau2: float
    new_tau2: float
    why_not: str


def shrink_means(
    groups: GroupMeans,
    basis: np.ndarray,
    offset: float,
    *,
    method: str,
    between_group_variance: str | float,
    positive_part: bool,
) -> ShrunkenMeans:
    """Shrink group means towards offset + basis @ coef.

    Parameters
    ----------
    groups : GroupMeans
        Means and their variances.
    basis : ndarray of shape (J, r)
        Columns of the target; r = 0 for a fixed target.
    offset : float
        Fixed part of the target. Where r > 0 it only saves digits: any number near the means will do.
    method : {"james-stein", "empirical-bayes", "sure"}
        As in JamesSteinEstimator.
    between_group_variance : str or float
        Name of an estimator of tau^2, or its value.
    positive_part : bool
        Whether to cut a negative factor at 0.
    """
    means, variances = groups.means - offset, groups.variances
    known_tau2 = method == "empirical-bayes" and not isinstance(between_group_variance, str)
    why_not = _why_not(groups, basis.shape[1], known_tau2=known_tau2)
    plain_weights = 1.0 / groups.relative_variances
    if why_not or variances.max() == 0.0:
        # Nothing moves. The target is still what new groups get.
        tau2 = _tau2(means, variances, basis, between_group_variance)
        coef = _weighted_least_squares(means, basis, plain_weights)
        covariance = _shrinkage.target_covariance(variances + tau2, basis, plain_weights)
        new_tau2 = _new_tau2(variances, tau2, basis, method, between_group_variance)
        return ShrunkenMeans(groups.means, variances, np.ones_like(means), coef, covariance, tau2, new_tau2, why_not)
    if method == "james-stein":
        tau2 = _tau2(means, variances, basis, between_group_variance)
        coef = _weighted_least_squares(means, basis, plain_weights)
        deviations = means - basis @ coef
        factor = _shrinkage.james_stein_shrinkage(
            deviations, variances, basis.shape[1], groups.nu, positive_part=positive_part
        )
        shrinkage = np.full_like(means, factor)
        # One factor means that the prior variance of a group goes with its sampling variance: v_j + tau_j^2 = v_j / B.
        totals = variances / np.clip(1.0 - factor, 1e-12, 1.0)
        own_covariance = _shrinkage.target_covariance(totals, basis, plain_weights)
        variance = _shrinkage.posterior_variance(
            deviations, variances, basis, shrinkage, own_covariance, np.ones_like(means)
        )
        covariance = _shrinkage.target_covariance(variances + tau2, basis, plain_weights)
    else:
        if method == "sure":
            tau2, coef = _shrinkage.sure(_shrinkage.collect_cells(means, variances, basis))
            weights = np.square(variances / (variances + tau2))
        else:
            tau2 = _tau2(means, variances, basis, between_group_variance)
            weights = 1.0 / (variances + tau2)
            coef = _weighted_least_squares(means, basis, weights)
        deviations = means - basis @ coef
        shrinkage = tau2 / (tau2 + variances)
        covariance = _shrinkage.target_covariance(variances + tau2, basis, weights)
        variance = _shrinkage.posterior_variance(
            deviations, variances, basis, shrinkage, covariance, None if known_tau2 else variances + tau2
        )
    theta = offset + (means - deviations) + shrinkage * deviations
    new_tau2 = _new_tau2(variances, tau2, basis, method, between_group_variance)
    return ShrunkenMeans(theta, variance, shrinkage, coef, covariance, tau2, new_tau2, "")


def _why_not(groups: GroupMeans, n_target: int, *, known_tau2: bool) -> str:
    """Say why no shrinkage is justified, or nothing."""
    n_groups = len(groups.means)
    if np.isinf(groups.nu) or np.isfinite(groups.sigma2):
        if known_tau2 or n_groups >= n_target + 3:
            return ""
        what = f"{n_groups} group{'s' if n_groups > 1 else ''} and a target with {n_target} estimated coefficients"
        return (
            f"with {what} there is nothing to learn the amount of shrinkage from (the factor J - {n_target} - 2 of "
            f"James and Stein must be positive): at least {n_target + 3} groups are needed"
        )
    if (groups.counts % 1 != 0).any():
        return (
            f"the weights, which count copies of rows, sum to {groups.counts.sum():.4g} in {n_groups} groups, too "
            "little to tell the variance within groups from the variance between them; pass standard_error= if the "
            "sampling errors of y are known"
        )
    return (
        "no group has two rows, so the variance within groups cannot be told from the variance between them; pass "
        "standard_error= if the sampling errors of y are known"
    )


def _tau2(means: np.ndarray, variances: np.ndarray, basis: np.ndarray, method: str | float) -> float:
    """Estimate tau^2, or take the number that was given; NaN where it cannot be estimated."""
    if not isinstance(method, str):
        return float(method)
    if len(means) <= basis.shape[1] or not np.isfinite(variances).all():
        return np.nan
    # Methods of moments divide by the variances, which are 0 where groups have no spread at all.
    spread = float(np.mean(np.square(means - means.mean())))
    if spread == 0.0 and variances.max() == 0.0:
        return float(np.mean(np.square(means)) if basis.shape[1] == 0 else 0.0)
    floor = 1e-24 * (spread if spread > 0 else 1.0)
    return _shrinkage.between_group_variance(
        _shrinkage.collect_cells(means, np.maximum(variances, floor), basis), method
    )


def _new_tau2(variances: np.ndarray, tau2: float, basis: np.ndarray, method: str, between: str | float) -> float:
    if method != "sure" and not isinstance(between, str):
        return tau2
    return _shrinkage.variance_of_new_groups(variances, tau2, basis.shape[1])


def _weighted_least_squares(means: np.ndarray, basis: np.ndarray, weights: np.ndarray) -> np.ndarray:
    weighted = weights[:, None] * basis
    return np.linalg.solve(basis.T @ weighted, weighted.T @ means)


def t_quantile(probability: float, degrees: np.ndarray) -> np.ndarray:
    """Find a quantile of Student's t for each number of degrees of freedom; infinite for none."""
    distinct, place = np.unique(degrees, return_inverse=True)
    values = np.array([student_t.ppf(probability, df) if df > 0 else np.inf for df in distinct])
    return values[place]
