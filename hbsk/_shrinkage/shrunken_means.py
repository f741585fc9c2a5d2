"""From group means to shrunken means: which method does what, and when nothing can be done."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

from hbsk._shrinkage import between_group_variance as _shrinkage
from hbsk._shrinkage.averaged_variance import AveragedVariance, KnownGroups, average_variance, given_variance
from hbsk._shrinkage.cells import collect_cells, without_leverage
from hbsk._shrinkage.group_means import GroupMeans
from hbsk._shrinkage.within_groups import PooledSlopes, WithinSlopes, pool_slopes


class ShrunkenMeans(NamedTuple):
    """What shrinkage makes of group means.

    Parameters
    ----------
    theta : ndarray of shape (J,)
        Shrunken means.
    shrinkage : ndarray of shape (J,)
        Weight of each group's own mean.
    target_coef : ndarray of shape (r,)
        Coefficients of the target in the basis, offset left out.
    target_covariance : ndarray of shape (r, r)
        Their covariance, tau^2 included: for new groups. NaN for coefficients about which nothing is known.
    slope_covariance : ndarray of shape (r, r)
        The same for the differences between a row and its group's own point.
    lean : ndarray of shape (J, r)
        Covariance of the coefficients with the error of each shrunken mean.
    tau2 : float
        Variance between groups; NaN where it cannot be estimated.
    new_tau2 : float
        Variance of new groups around the target: tau2 where that was given, else corrected for its estimation.
    sure_tau2 : float
        What "sure" takes for tau^2 in the shrinkage; NaN under other methods and where nothing was shrunken.
    n_target : float
        Number of coefficients of the target that the group means had to tell.
    groups : KnownGroups
        What they were before.
    basis : ndarray of shape (J, r)
        Where they stand in the target; (J, 1) for a fixed target.
    averaged : AveragedVariance or None
        What is known of tau^2 where something was shrunken.
    unshrunken : ndarray of shape (J,)
        Variances of the means before shrinkage; NaN where sigma^2 is not known.
    unit : float
        sigma^2; 1 with known standard errors.
    why_not : str
        Why nothing was shrunken; empty where something was.
    """

    theta: np.ndarray
    shrinkage: np.ndarray
    target_coef: np.ndarray
    target_covariance: np.ndarray
    slope_covariance: np.ndarray
    lean: np.ndarray
    tau2: float
    new_tau2: float
    sure_tau2: float
    n_target: float
    groups: KnownGroups
    basis: np.ndarray
    averaged: AveragedVariance | None
    unshrunken: np.ndarray
    unit: float
    why_not: str

    def variances(self) -> np.ndarray:
        """Compute the variances of the true means around theta, shape (J,); NaN where sigma^2 is not known."""
        return (
            self.unshrunken
            if self.averaged is None
            else self.averaged.second_moments(self.groups, self.basis, self.unit)
        )


def shrink_means(
    groups: GroupMeans,
    basis: np.ndarray,
    offset: float,
    *,
    method: str,
    between_group_variance: str | float,
    positive_part: bool,
    within: WithinSlopes | None = None,
) -> ShrunkenMeans:
    """Shrink group means towards offset + basis @ coef.

    Coefficients that rows within groups tell are those of generalised least squares on rows and means together, under
    every method; the method then has its way with the rest.

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
    within : WithinSlopes, default=None
        What rows within groups tell of the coefficients. None: nothing.
    """
    if within is None:
        within = WithinSlopes(np.zeros(basis.shape[1]), np.zeros(basis.shape[1]), np.nan)
    variances = groups.variances
    means = groups.means - offset - basis @ within.slopes
    tau2 = _tau2(means, groups, basis, between_group_variance, within)
    given = not isinstance(between_group_variance, str)
    known_tau2 = given and method == "empirical-bayes"
    why_not = _why_not(groups, means, basis, within, known_tau2=known_tau2)
    # Groups too few to tell tau^2 are too few to say anything of slopes that rows within groups tell.
    ratio = np.inf if why_not and not given and np.isfinite(groups.unit) else _ratio(tau2, groups.unit)
    slopes = pool_slopes(means, basis, within, groups.relative_variances, ratio)
    means = means - basis[:, within.told] @ slopes.shift
    target = _Target(basis, within, slopes, groups.unit)
    growth = 1.0 if given else _growth(len(means) - slopes.n_target)
    if why_not or variances.max() == 0.0:
        weights = _weights_without_noise(groups, "" if why_not or tau2 == 0.0 else method)
        pull = _no_pull(means, groups, target, growth * (variances + tau2), weights)
    elif method == "james-stein":
        pull = _common_pull(means, groups, target, positive_part=positive_part)
    else:
        pull = _pull_by_variance(means, variances, target, tau2, growth, sure=method == "sure")
    covariance = target.covariance(pull.fit, variances + tau2)
    # The height of the target is known well enough; far from the centre the slopes' own growth is what matters.
    covariance[1:, 1:] = target.covariance(pull.fit, growth * (variances + tau2))[1:, 1:]
    averaged = None
    if not why_not and groups.unit > 0 and variances.max() > 0.0:
        if given:
            at_tau2 = target.fit(means, 1.0 / (variances + tau2))
            at_once = at_tau2.coef - pull.fit.coef, target.covariance(at_tau2, variances + tau2)
            averaged = given_variance(tau2, groups.unit, *at_once, groups.nu)
        else:
            tau_free = groups.means - offset - basis @ within.slopes
            told = within.information if within.rank else None
            turn = np.eye(basis.shape[1]) if within.rank else without_leverage(basis, groups.relative_variances)
            cells = collect_cells(tau_free, groups.relative_variances, basis @ turn, told)
            coef, degrees = pull.fit.coef - within.slopes, groups.nu
            averaged = average_variance(cells, turn, coef, groups.unit * degrees, degrees)
    theta = np.where(
        pull.own < 0.5,
        offset + (groups.means - offset - pull.deviations) + pull.own * pull.deviations,
        groups.means - pull.target * pull.deviations,
    )
    return ShrunkenMeans(
        theta=theta,
        shrinkage=pull.own,
        target_coef=pull.fit.coef,
        target_covariance=covariance,
        slope_covariance=target.covariance(pull.fit, pull.totals),
        lean=pull.lean,
        tau2=tau2,
        new_tau2=tau2 if given else _shrinkage.variance_of_new_groups(variances, tau2, slopes.n_target),
        sure_tau2=pull.sure_tau2,
        n_target=slopes.n_target,
        groups=KnownGroups(groups.relative_variances, pull.deviations, pull.target * pull.deviations),
        basis=basis if basis.shape[1] else np.zeros((len(means), 1)),
        averaged=averaged,
        unshrunken=variances,
        unit=groups.unit,
        why_not=why_not,
    )


class _Fit(NamedTuple):
    """Coefficients of the target, linear in the group means and in the slopes of rows within groups."""

    coef: np.ndarray  # (r,)
    rest: np.ndarray  # (J,), what the coefficients that only group means tell make of each group
    from_means: np.ndarray  # (r, J), derivative by the group means
    from_rows: np.ndarray  # (r, k), derivative by the slopes of rows within groups


class _Target(NamedTuple):
    """What is settled about the target before the method has its say."""

    basis: np.ndarray
    within: WithinSlopes
    slopes: PooledSlopes
    unit: float

    def fit(self, means: np.ndarray, weights: np.ndarray) -> _Fit:
        """Fit the coefficients that only group means tell by weighted least squares, to `means` less the others."""
        told = self.within.told
        rest = self.basis[:, ~told]
        solution = _weighted_solution(rest, weights)
        through_slopes = -solution @ self.basis[:, told]
        coef = self.within.slopes.copy()
        coef[told] += self.slopes.shift
        coef[~told] = solution @ means
        from_means = np.empty((len(told), len(means)))
        from_means[told] = self.slopes.from_means
        from_means[~told] = solution + through_slopes @ self.slopes.from_means
        from_rows = np.empty((len(told), self.within.rank))
        from_rows[told] = self.slopes.from_rows
        from_rows[~told] = through_slopes @ self.slopes.from_rows
        return _Fit(coef, rest @ coef[~told], from_means, from_rows)

    def covariance(self, fit: _Fit, totals: np.ndarray) -> np.ndarray:
        """Compute the covariance of the coefficients where group means have variances `totals` around the target.

        NaN for what the means have to tell where these are not known.
        """
        told = self.within.told
        of_rows = self.unit * (fit.from_rows / self.within.information[told]) @ fit.from_rows.T
        if np.isfinite(totals).all():
            return (fit.from_means * totals) @ fit.from_means.T + of_rows
        unknown = np.full_like(of_rows, np.nan)
        if not fit.from_means[told].any():
            unknown[np.ix_(told, told)] = of_rows[np.ix_(told, told)]
        return unknown


def _weighted_solution(basis: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return (Z'WZ)^-1 Z'W, (r, J): by QR of rows in order of their weights, which may differ by any factor.

    Of products nothing would be left but the rows of largest weight (Cox and Higham 1998, SIAM J. Matrix Anal. 20).
    """
    if basis.shape[1] == 1:
        weighted = weights * basis[:, 0]
        return (weighted / (weighted @ basis[:, 0]))[None]
    order = np.argsort(-weights, kind="stable")
    root = np.sqrt(weights[order])
    q, r = np.linalg.qr(root[:, None] * basis[order])
    solution = np.empty((basis.shape[1], len(weights)))
    if len(solution):
        solution[:, order] = solve_triangular(r, (root[:, None] * q).T)
    return solution


class _Pull(NamedTuple):
    """How far a method moves each mean, and how well that is known."""

    fit: _Fit
    deviations: np.ndarray  # (J,), means less target
    own: np.ndarray  # (J,), weight of the group's own mean
    target: np.ndarray  # (J,), 1 - own, without cancellation
    totals: np.ndarray  # (J,), variances of the means around the target, for the slopes' covariance
    lean: np.ndarray  # (J, r), covariance of the coefficients with the error of each shrunken mean
    sure_tau2: float = np.nan


def _weights_without_noise(groups: GroupMeans, method: str) -> np.ndarray:
    """Return what the weights of means in the target tend to as sigma^2 falls to 0, of a method that shrinks."""
    if method == "empirical-bayes":
        return np.ones_like(groups.means)
    return np.square(groups.relative_variances) if method == "sure" else 1.0 / groups.relative_variances


def _no_pull(means: np.ndarray, groups: GroupMeans, target: _Target, totals: np.ndarray, weights: np.ndarray) -> _Pull:
    """Leave all means where they are; the target is still what new groups get."""
    fit = target.fit(means, weights)
    still, variances = np.zeros_like(means), groups.variances
    return _Pull(fit, means - fit.rest, still + 1.0, still, totals, variances[:, None] * fit.from_means.T)


def _common_pull(means: np.ndarray, groups: GroupMeans, target: _Target, *, positive_part: bool) -> _Pull:
    """Move all means by the factor of James and Stein."""
    variances, n_target = groups.variances, target.slopes.n_target
    fit = target.fit(means, 1.0 / groups.relative_variances)
    deviations = means - fit.rest
    pull = _shrinkage.james_stein_pull(deviations, variances, n_target, groups.nu)
    cut = min(pull, 1.0)
    pull = cut if positive_part else pull
    # One factor means that the prior variance of a group goes with its sampling variance: v_j + tau_j^2 = v_j / B.
    totals = variances / max(cut, 1e-200)
    covariance = target.covariance(fit, totals)
    own, alike = np.full_like(means, 1.0 - pull), np.ones_like(means)
    return _Pull(fit, deviations, own, pull * alike, totals, cut * (target.basis @ covariance))


def _pull_by_variance(
    means: np.ndarray, variances: np.ndarray, target: _Target, tau2: float, growth: float, *, sure: bool
) -> _Pull:
    """Move means the more the larger their variances are, with tau^2 itself or with what SURE takes for it."""
    totals, by_sure = variances + tau2, np.nan
    if sure:
        rest = target.basis[:, ~target.within.told]
        by_sure, _ = _shrinkage.sure(collect_cells(means, variances, rest))
    own_totals = variances + by_sure if sure else totals
    pull = variances / own_totals
    fit = target.fit(means, np.square(pull) if sure else 1.0 / totals)
    deviations = means - fit.rest
    own = (by_sure if sure else tau2) / own_totals
    covariance = target.covariance(fit, totals)
    lean = np.minimum(pull, variances / totals)[:, None] * (target.basis @ covariance)
    return _Pull(fit, deviations, own, pull, growth * totals, lean, by_sure)


def _growth(degrees: float) -> float:
    """Ratio of v_j + tau^2 on average, under a flat prior on tau^2, to its estimate; NaN where that has no end."""
    return degrees / (degrees - 2.0) if degrees > 2.0 else np.nan


def _ratio(tau2: float, unit: float) -> float:
    """Compute tau^2 / sigma^2: 0 where nothing is known of sigma^2, infinite where nothing is of tau^2 alone."""
    if np.isnan(unit) or tau2 == 0.0:
        return 0.0
    return np.inf if np.isnan(tau2) or unit == 0.0 else tau2 / unit


def _why_not(
    groups: GroupMeans, means: np.ndarray, basis: np.ndarray, within: WithinSlopes, *, known_tau2: bool
) -> str:
    """Say why no shrinkage is justified, or nothing."""
    n_groups = len(groups.means)
    if np.isfinite(groups.unit):
        # Slopes that rows within groups tell count by the share that the means have in them, at most.
        most = pool_slopes(means, basis, within, groups.relative_variances, 0.0).n_target
        n_target = round(most)
        if known_tau2 or n_groups >= most + 2.5:
            return ""
        what = f"{n_groups} group{'s' if n_groups > 1 else ''} and a target with {n_target} estimated coefficients"
        return (
            f"with {what} there is nothing to learn the amount of shrinkage from (the factor J - {n_target} - 2 of "
            f"James and Stein must be positive): at least {n_target + 3} groups are needed"
        )
    if within.rank and (groups.counts > 1).any() and groups.counts.sum() > n_groups:
        return (
            f"the {within.rank} slopes of columns that vary within groups take all {groups.counts.sum() - n_groups:g} "
            "degrees of freedom within groups, so that the variance within groups cannot be told; leave columns out, "
            "or pass standard_error= if the sampling errors of y are known"
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


def _tau2(means: np.ndarray, groups: GroupMeans, basis: np.ndarray, method: str | float, within: WithinSlopes) -> float:
    """Estimate tau^2, or take the number that was given; NaN where it cannot be estimated."""
    if not isinstance(method, str):
        return float(method)
    variances = groups.variances
    if len(means) + within.rank <= basis.shape[1] or not np.isfinite(variances).all():
        return np.nan
    # Methods of moments divide by the variances, which are 0 where groups have no spread at all.
    spread = float(np.mean(np.square(means - means.mean())))
    if spread == 0.0 and variances.max() == 0.0:
        return float(np.mean(np.square(means)) if basis.shape[1] == 0 else 0.0)
    floor = 1e-24 * (spread if spread > 0 else 1.0)
    precision = None
    if within.rank:
        precision = within.information / max(groups.unit, floor / groups.relative_variances.max())
    variances = np.maximum(variances, floor)
    if basis.shape[1] and (basis[:, 0] == 1.0).all():
        # large weights, of means away from 0, would take the digits of sums of squares
        means = means - np.average(means, weights=1.0 / variances)
    if precision is None:
        basis = basis @ without_leverage(basis, variances)
    return _shrinkage.between_group_variance(collect_cells(means, variances, basis, precision), method)
