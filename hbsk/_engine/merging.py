"""Another centre for sums: those of different rows over the same groups become one, exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hbsk._engine.sums import CentredSums, GroupSums, Moments, no_rounding
from hbsk._engine.varying_location import recentred_sums

# Share of what was there before a subtraction that is rounding of it: sums of squares are right to about 1e-15.
LEFT_BY_ROUNDING = 1e-13


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
    a, b = (_centred(part, x_centre, y_centre, z_centre) for part in (first, second))
    sums = GroupSums(
        zz=a.zz + b.zz,
        zx=a.zx + b.zx,
        xx=a.xx + b.xx,
        n=a.n + b.n,
        log_weight=a.log_weight + b.log_weight,
        copies=a.copies + b.copies,
    )
    return CentredSums(sums, moments, x_centre, y_centre, first.has_intercept, z_centre, intercept)


def scaled(collected: CentredSums, factor: float) -> CentredSums:
    """Return the sums where every row counts ``factor`` times; a negative factor takes rows away in `merge`."""
    old = collected.sums
    sums = GroupSums(
        zz=old.zz * factor,
        zx=old.zx * factor,
        xx=old.xx * factor,
        n=old.n * factor,
        log_weight=old.log_weight * factor,
        copies=old.copies * factor,
    )
    return replace(collected, sums=sums, moments=replace(collected.moments, n=collected.moments.n * factor))


def regrouped(collected: CentredSums, codes: np.ndarray, n_groups: int) -> CentredSums:
    """Return the sums with each group at its code among more groups, which are empty; -1 leaves a group out.

    Only groups without rows may be left out: the sums over all rows stay.
    """
    old, kept = collected.sums, codes >= 0
    if not old.n_varying or (len(codes) == n_groups and np.array_equal(codes, np.arange(n_groups))):
        return collected

    def at_codes(sums):
        new = np.zeros((*sums.shape[:-1], n_groups))
        new[..., codes[kept]] = sums[..., kept]
        return new

    sums = replace(old, zz=at_codes(old.zz), zx=at_codes(old.zx), copies=at_codes(old.copies))
    return replace(collected, sums=sums)


def without(whole: CentredSums, part: CentredSums) -> CentredSums:
    """Return the sums of the rows of the whole that are not in the part; of the same groups, in the same order.

    What is left of squares that the part holds all of is rounding, and becomes zero.
    """
    rest = merge(whole, scaled(part, -1.0))
    before = _centred(whole, rest.x_centre, rest.y_centre, rest.z_centre)
    zz, zx = rest.sums.zz.copy(), rest.sums.zx.copy()
    gone = np.einsum("kkj->kj", zz) <= LEFT_BY_ROUNDING * np.einsum("kkj->kj", before.zz)
    zz[gone[:, None] | gone[None, :]] = 0.0
    zx[np.broadcast_to(gone[:, None], zx.shape)] = 0.0
    old, new = whole.moments, rest.moments

    def left(sd, sd_before):
        return np.where(new.n * sd**2 <= LEFT_BY_ROUNDING * old.n * sd_before**2, 0.0, sd)

    moments = replace(
        new,
        y_sd=float(left(new.y_sd, old.y_sd)),
        x_sd=left(new.x_sd, old.x_sd),
        z_sd=[left(*sds) for sds in zip(new.z_sd, old.z_sd, strict=True)],
    )
    return replace(rest, sums=replace(rest.sums, zz=zz, zx=zx), moments=moments)


def less_effect_means(collected: CentredSums, effect_mean: np.ndarray) -> CentredSums:
    """Return the sums of y less ``Z m``, known means of the effects at zero of every group.

    Where rows have known errors, the sd of what is left is that of rows by their precision.
    """
    sums, moments, intercept = collected.sums, collected.moments, collected.varying_intercept
    mean = effect_mean.copy()
    if intercept is not None:
        mean[intercept] += collected.z_centre @ effect_mean
    zx, xx = sums.zx.copy(), sums.xx.copy()
    taken = np.einsum("k,klj->lj", mean, sums.zz)
    of_columns = np.einsum("k,kaj->a", mean, sums.zx)
    zx[:, -1] -= taken
    xx[-1] -= of_columns
    xx[:, -1] -= of_columns
    xx[-1, -1] += mean @ taken.sum(axis=1)
    y_mean = moments.y_mean - float(moments.z_mean[0] @ effect_mean)
    less = replace(collected, sums=replace(sums, zx=zx, xx=xx))
    if collected.has_intercept:
        less = replace(less, sums=_about(less, less.x_centre, y_mean), y_centre=y_mean)
        weight = sums.xx[0, 0]
        spread = less.sums.xx[-1, -1] / weight - (less.sums.xx[0, -1] / weight) ** 2
    else:
        square = moments.y_mean**2 + moments.y_sd**2
        weight = sums.xx[-1, -1] / square if square > 0 else moments.n
        spread = xx[-1, -1] / weight - y_mean**2
    return replace(less, moments=replace(moments, y_mean=y_mean, y_sd=float(np.sqrt(max(spread, 0.0)))))


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


def _centred(part: CentredSums, x_centre: np.ndarray, y_centre: float, z_centre: np.ndarray | None) -> GroupSums:
    """Return the sums about other centres, of the varying columns too."""
    sums = _about(part, x_centre, y_centre)
    if z_centre is None or part.varying_intercept is None:
        return sums
    zz, zx = recentred_sums(sums.zz, sums.zx, z_centre - part.z_centre, part.varying_intercept)
    return replace(sums, zz=zz, zx=zx)


def merge_moments(first: Moments, second: Moments) -> Moments:
    """Return means and population sds over the copies of both parts (Chan, Golub and LeVeque 1983, equation 1.5)."""
    n = first.n + second.n
    share = second.n / n

    def merged(mean, sd, other_mean, other_sd):
        difference = other_mean - mean
        square = (1 - share) * sd**2 + share * other_sd**2 + share * (1 - share) * difference**2
        spread = np.sqrt(np.maximum(square, 0.0))
        return mean + share * difference, no_rounding(spread, np.maximum(np.abs(mean), np.abs(other_mean)))

    y_mean, y_sd = merged(first.y_mean, first.y_sd, second.y_mean, second.y_sd)
    x_mean, x_sd = merged(first.x_mean, first.x_sd, second.x_mean, second.x_sd)
    z = [merged(*columns) for columns in zip(first.z_mean, first.z_sd, second.z_mean, second.z_sd, strict=True)]
    error_variance = (1 - share) * first.error_variance + share * second.error_variance
    z_mean, z_sd = [mean for mean, _ in z], [sd for _, sd in z]
    return Moments(n, float(y_mean), float(y_sd), x_mean, x_sd, z_mean, z_sd, error_variance)
