"""Another centre for sums: those of different rows over the same groups become one, exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hbsk._engine.sums import CentredSums, GroupSums, Moments, no_rounding
from hbsk._engine.varying_location import recentred_sums


def merge(first: CentredSums, second: CentredSums) -> CentredSums:
    """Return the sums of the rows of both parts, about the mean of all of them.

    Parameters
    ----------
    first, second : CentredSums
        Of the same columns and the same groups, in the same order.

    Returns
    -------
    CentredSums

    Raises
    ------
    ValueError
        For parts that are not of the same columns and groups.
    """
    shapes = [(part.sums.zx.shape, part.has_intercept, part.varying_intercept) for part in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "Sums can be merged where varying columns, common columns with y, groups and the intercept are the same; "
            f"got {shapes[0]} and {shapes[1]}."
        )
    moments = merge_moments(first.moments, second.moments)
    x_centre, y_centre = np.zeros_like(first.x_centre), 0.0
    if first.has_intercept:
        x_centre[1:], y_centre = moments.x_mean[1:], moments.y_mean
    z_centre, intercept = None, first.varying_intercept
    if intercept is not None:
        z_centre = moments.z_mean[0].copy()
        z_centre[intercept] = 0.0
    a, b = (_varying_about(_about(part, x_centre, y_centre), part, z_centre) for part in (first, second))
    sums = GroupSums(
        zz=a.zz + b.zz,
        zx=a.zx + b.zx,
        xx=a.xx + b.xx,
        n=a.n + b.n,
        log_weight=a.log_weight + b.log_weight,
        copies=a.copies + b.copies,
    )
    return CentredSums(sums, moments, x_centre, y_centre, first.has_intercept, z_centre, intercept)


def moved(collected: CentredSums, y_origin: float) -> CentredSums:
    """Return the sums of ``y + y_origin``: those of y, about its mean, so that no digit of y meets the origin."""
    y_mean = collected.moments.y_mean
    sums = _about(collected, collected.x_centre, y_mean)
    moments = replace(collected.moments, y_mean=y_origin + y_mean)
    return replace(collected, sums=sums, moments=moments, y_centre=moments.y_mean)


def _about(part: CentredSums, x_centre: np.ndarray, y_centre: float) -> GroupSums:
    """Return the sums about another centre: ``x - c' = (x - c) + (c - c') 1``, and 1 is the first common column."""
    if not part.has_intercept:
        return part.sums
    shift = np.append(part.x_centre - x_centre, part.y_centre - y_centre)
    zx = part.sums.zx + shift[:, None] * part.sums.zx[:, :1]
    change = np.eye(len(shift))
    change[0] += shift
    return replace(part.sums, zx=zx, xx=change.T @ part.sums.xx @ change)


def _varying_about(sums: GroupSums, part: CentredSums, z_centre: np.ndarray | None) -> GroupSums:
    """Return the sums of varying columns about another centre."""
    if z_centre is None:
        return sums
    zz, zx = recentred_sums(sums.zz, sums.zx, z_centre - part.z_centre, part.varying_intercept)
    return replace(sums, zz=zz, zx=zx)


def merge_moments(first: Moments, second: Moments) -> Moments:
    """Return means and population sds over the copies of both parts (Chan, Golub and LeVeque 1983, equation 1.5)."""
    n = first.n + second.n
    share = second.n / n

    def merged(mean, sd, other_mean, other_sd):
        difference = other_mean - mean
        spread = np.sqrt((1 - share) * sd**2 + share * other_sd**2 + share * (1 - share) * difference**2)
        return mean + share * difference, no_rounding(spread, np.maximum(np.abs(mean), np.abs(other_mean)))

    y_mean, y_sd = merged(first.y_mean, first.y_sd, second.y_mean, second.y_sd)
    x_mean, x_sd = merged(first.x_mean, first.x_sd, second.x_mean, second.x_sd)
    z = [merged(*columns) for columns in zip(first.z_mean, first.z_sd, second.z_mean, second.z_sd, strict=True)]
    error_variance = (1 - share) * first.error_variance + share * second.error_variance
    z_mean, z_sd = [mean for mean, _ in z], [sd for _, sd in z]
    return Moments(n, float(y_mean), float(y_sd), x_mean, x_sd, z_mean, z_sd, error_variance)
