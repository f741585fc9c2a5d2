"""The units of the engine: sums about a provisional centre become those of standardised columns, exactly.

Columns of mean 0 and sd 1 keep every later step free of the users' units; coefficients, effects and
rows go there and back by one linear map.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hbsk._engine.sums import CentredSums, GroupSums, Moments
from hbsk._engine.varying_location import at_zero, less_centre, recentred_sums


@dataclass(frozen=True)
class ColumnScaling:
    """The linear map between the user's units and those of the engine.

    In the engine ``y`` has mean 0 and sd 1, common columns have mean 0 and sd 1 (where there is an
    intercept; otherwise mean square 1), and so have varying columns beside a varying intercept;
    without one they are divided by their root mean square. Common columns that are constant, hence
    carry nothing beside the intercept, are left out.

    Attributes
    ----------
    y_centre, y_scale : float
    x_centre, x_scale : ndarray of shape (p,)
        Of all common columns; ``x_scale`` is 1 for the intercept.
    z_scale : ndarray of shape (q,)
    kept : ndarray of shape (p_kept,), dtype int
        Common columns that are in the engine.
    z_centre : ndarray of shape (q,)
        Zero for the varying intercept, and everywhere if there is none.
    varying_intercept : int, optional
        Which varying column is 1 everywhere.
    """

    y_centre: float
    y_scale: float
    x_centre: np.ndarray
    x_scale: np.ndarray
    z_scale: np.ndarray
    kept: np.ndarray
    z_centre: np.ndarray
    varying_intercept: int | None = None

    def common(self, x: np.ndarray, has_intercept: bool) -> np.ndarray:
        """Return common columns of shape (n_rows, p) in engine units, (n_rows, p_kept).

        A row whose intercept column is not 1 is a contrast of coefficients: the centre counts as
        often as the intercept does.
        """
        if len(self.kept) < x.shape[1]:
            x, centre, scale = x[:, self.kept], self.x_centre[self.kept], self.x_scale[self.kept]
        else:
            centre, scale = self.x_centre, self.x_scale
        return (x - x[:, :1] * centre) / scale if has_intercept else x / scale

    def varying(self, z: np.ndarray) -> np.ndarray:
        """Return varying columns of shape (n_rows, q) in engine units.

        A row whose varying intercept is not 1 is a contrast of effects: the centre counts as often as it does.
        """
        if self.z_centre is not None:
            z = less_centre(z, self.z_centre, self.varying_intercept)
        return z / self.z_scale

    def effects(self, engine: np.ndarray) -> np.ndarray:
        """Return effects of the raw varying columns, shape (..., q), from those of the engine."""
        raw = engine * (self.y_scale / self.z_scale)
        return raw if self.z_centre is None else at_zero(raw, self.z_centre, self.varying_intercept)

    def engine_factor(self, factor: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """Return ``Lambda``, (n, q, q), of the engine from a factor of the covariance of raw effects at a point."""
        if self.varying_intercept is not None:
            shift = centre - self.z_centre
            factor = at_zero(factor.swapaxes(1, 2), shift, self.varying_intercept).swapaxes(1, 2)
        return factor * (self.z_scale / self.y_scale)[:, None]

    @property
    def effects_are_scaled(self) -> bool:
        """Whether effects of the raw columns are those of the engine but for their units."""
        return self.z_centre is None or not self.z_centre.any()

    def coefficients(self, engine: np.ndarray, has_intercept: bool) -> np.ndarray:
        """Return coefficients of the raw columns, shape (..., p), from those of the engine."""
        raw = np.zeros((*engine.shape[:-1], len(self.x_scale)))
        raw[..., self.kept] = engine * self.y_scale / self.x_scale[self.kept]
        if has_intercept:
            raw[..., 0] = self.y_centre + engine[..., 0] * self.y_scale - raw[..., 1:] @ self.x_centre[1:]
        return raw


def standardise(collected: CentredSums, *, known_standard_error: bool = False) -> tuple[GroupSums, ColumnScaling]:
    """Return the sums in engine units, and the scaling that leads there.

    Parameters
    ----------
    collected : CentredSums
    known_standard_error : bool, default=False
        Whether rows are weighted by ``1 / se^2``; these weights then change with the unit of y.

    Returns
    -------
    sums : GroupSums
    scaling : ColumnScaling
    """
    scaling = scaling_of(collected)
    return scaled_sums(collected, scaling, known_standard_error=known_standard_error), scaling


def scaling_of(collected: CentredSums) -> ColumnScaling:
    """Return the scaling that makes columns of mean 0 and sd 1."""
    moments = collected.moments
    p = len(moments.x_mean)
    root_mean_square = np.hypot(moments.x_mean, moments.x_sd)
    if collected.has_intercept:
        x_centre, x_scale = moments.x_mean.copy(), moments.x_sd.copy()
        x_centre[0], x_scale[0] = 0.0, 1.0
        y_centre, y_spread = moments.y_mean, moments.y_spread
    else:
        x_centre, x_scale = np.zeros(p), root_mean_square
        y_centre, y_spread = 0.0, float(np.hypot(moments.y_mean, moments.y_spread))
    # A constant y has no unit of its own but its size.
    y_scale = y_spread if y_spread > 0 else abs(moments.y_mean) or 1.0
    kept = np.flatnonzero(x_scale > 0)
    x_scale = np.where(x_scale > 0, x_scale, 1.0)
    z_scale, z_centre, intercept = np.ones(0), np.zeros(0), collected.varying_intercept
    if collected.sums.n_varying:
        z_centre = np.zeros_like(moments.z_mean[0])
        if intercept is not None:
            z_centre = moments.z_mean[0].copy()
            z_centre[intercept] = 0.0
        z_scale = np.hypot(moments.z_mean[0] - z_centre, moments.z_sd[0])
        z_scale = np.where(z_scale > 0, z_scale, 1.0)
    return ColumnScaling(y_centre, y_scale, x_centre, x_scale, z_scale, kept, z_centre, intercept)


def scaled_sums(collected: CentredSums, scaling: ColumnScaling, *, known_standard_error: bool = False) -> GroupSums:
    """Return sums, of whatever rows, in the units of a scaling."""
    p, kept, x_scale, y_scale = len(scaling.x_scale), scaling.kept, scaling.x_scale, scaling.y_scale
    change = np.zeros((p + 1, len(kept) + 1))
    change[kept, np.arange(len(kept))] = 1.0 / x_scale[kept]
    change[p, -1] = 1.0 / y_scale
    if collected.has_intercept:
        shift = (collected.x_centre - scaling.x_centre)[kept] / x_scale[kept]
        shift[0] = change[0, 0]
        change[0, :-1] = shift
        change[0, -1] = (collected.y_centre - scaling.y_centre) / y_scale
    sums = collected.sums
    intercept = collected.varying_intercept
    if intercept is not None and collected.z_centre is not None:
        zz, zx = recentred_sums(sums.zz, sums.zx, scaling.z_centre - collected.z_centre, intercept)
        sums = replace(sums, zz=zz, zx=zx)
    sums = sums.transformed(change, 1.0 / scaling.z_scale)
    if known_standard_error:
        sums = _reweighted(sums, y_scale**2)
    return sums


def _reweighted(sums: GroupSums, unit: float) -> GroupSums:
    """Return sums whose weights, ``1 / se^2``, are all multiplied by one number."""
    log_weight = sums.log_weight + sums.n * np.log(unit)
    return replace(sums, zz=sums.zz * unit, zx=sums.zx * unit, xx=sums.xx * unit, log_weight=log_weight)


def collected_again(
    sums: GroupSums,
    scaling: ColumnScaling,
    moments: Moments,
    has_intercept: bool,
    *,
    known_standard_error: bool = False,
) -> CentredSums:
    """Return the sums that `standardise` was given, about the means, from those in engine units.

    Columns that are constant, which the engine leaves out, have no deviations from their mean; without an intercept
    they are zero.
    """
    p, y_scale = len(scaling.x_scale), scaling.y_scale
    if known_standard_error:
        sums = _reweighted(sums, y_scale**-2)
    change = np.zeros((len(scaling.kept) + 1, p + 1))
    change[np.arange(len(scaling.kept)), scaling.kept] = scaling.x_scale[scaling.kept]
    change[-1, -1] = y_scale
    sums = sums.transformed(change, scaling.z_scale)
    intercept = scaling.varying_intercept
    z_centre = None if intercept is None else scaling.z_centre
    return CentredSums(sums, moments, scaling.x_centre, scaling.y_centre, has_intercept, z_centre, intercept)
