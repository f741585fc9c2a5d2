"""Predictions of rows from a posterior: points, intervals, draws; both estimators answer through here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from hbsk._posterior import BLOCK_ELEMENTS, RowMixture

# Rows evaluated at a time where all that is stored is their answers.
ROWS_PER_BLOCK = 131_072
# Sds beyond every component within which its quantiles lie.
REACH = 9.0
# Steps of the search for quantiles: Newton's at first, then bisection, which halves the bracket.
NEWTON_STEPS, MOST_STEPS = 20, 200


@dataclass(frozen=True)
class PredictedRows:
    """Rows to predict, as design columns.

    Attributes
    ----------
    design : Design
    codes : list of ndarray of shape (n_rows,), one per factor
        Codes not below the number of groups are new groups.
    standard_error : ndarray of shape (n_rows,) or None
    """

    design: object
    codes: Sequence[np.ndarray]
    standard_error: np.ndarray | None

    def blocks(self, width: int) -> Iterator[tuple]:
        """Yield (rows, x, z, codes, offset) for stretches of rows."""
        for start in range(0, self.design.n_rows, width):
            rows = slice(start, min(start + width, self.design.n_rows))
            x, z, offset = self.design.block(rows.start, rows.stop)
            yield rows, x, z, [code[rows] for code in self.codes], offset


def predict_mean(posterior, rows: PredictedRows, *, return_std: bool):
    """Return posterior predictive means, and sds of a new observation if asked for."""
    n_rows = rows.design.n_rows
    posterior, location = posterior.about_zero()
    mean = np.empty(n_rows)
    variance = np.empty(n_rows) if return_std else None
    for at, x, z, codes, offset in rows.blocks(ROWS_PER_BLOCK):
        mean[at], block = posterior.row_moments(x, z, codes, return_std)
        if offset is not None:
            mean[at] += offset
        if return_std:
            noise = posterior.weight @ posterior.row_sigma(codes) ** 2
            variance[at] = block + (noise if rows.standard_error is None else rows.standard_error[at] ** 2)
    mean += location
    if not return_std:
        return mean, None
    _widen_new_groups(posterior, rows, variance)
    return mean, np.sqrt(variance)


def _widen_new_groups(posterior, rows, variance):
    """Make the variance of rows in new groups infinite where the posterior of tau^2 has no mean."""
    if not any(posterior.infinite_variance):
        return
    endless = np.asarray(posterior.infinite_variance)
    for at, _, z, codes, _ in rows.blocks(ROWS_PER_BLOCK):
        new = codes[0] >= posterior.n_groups[0]
        variance[at] = np.where(new & np.any(z[0][:, endless] != 0, axis=1), np.inf, variance[at])


def predict_interval(posterior, rows: PredictedRows, *, coverage: float, kind: str) -> np.ndarray:
    """Return central intervals, shape (n_rows, 2), of the predictive mixture."""
    n_rows = rows.design.n_rows
    posterior, location = posterior.about_zero()
    interval = np.empty((n_rows, 2))
    levels = np.array([(1 - coverage) / 2, (1 + coverage) / 2])
    width = max(1, BLOCK_ELEMENTS // (posterior.n_nodes * 4))
    for at, x, z, codes, offset in rows.blocks(width):
        mixture = posterior.row_mixture(x, z, codes)
        variance = mixture.variance
        if kind == "prediction":
            noise = posterior.row_sigma(codes) if rows.standard_error is None else rows.standard_error[at]
            variance = variance + noise**2
        block = mixture_quantiles(RowMixture(mixture.weight, mixture.mean, variance), levels)
        interval[at] = block if offset is None else block + offset[:, None]
    return interval + location


def mixture_quantiles(mixture: RowMixture, levels: np.ndarray) -> np.ndarray:
    """Return quantiles of mixtures of normals, shape (n_rows, n_levels).

    A mixture of points (all variances zero) has the interpolated quantiles of its points; with an
    infinite variance every quantile but the median is infinite.
    """
    weight, mean, sd = mixture.weight, mixture.mean, np.sqrt(mixture.variance)
    n_rows = mean.shape[1]
    quantiles = np.empty((n_rows, len(levels)))
    endless = np.isinf(sd).any(axis=0)
    points = (sd == 0).all(axis=0)
    smooth = ~(endless | points)
    if smooth.any():
        quantiles[smooth] = _smooth_quantiles(weight, mean[:, smooth], sd[:, smooth], levels)
    if points.any():
        quantiles[points] = _point_quantiles(weight, mean[:, points], levels)
    if endless.any():
        ends = np.where(levels < 0.5, -np.inf, np.inf)
        quantiles[endless] = np.where(levels == 0.5, (weight @ mean[:, endless])[:, None], ends)
    return quantiles


def _smooth_quantiles(weight, mean, sd, levels):
    # solved for the distance from the mixture's mean: the tolerance is then relative to the spread
    centre = weight @ mean
    mean = mean - centre
    quantiles = np.empty((mean.shape[1], len(levels)))
    for k, level in enumerate(levels):
        if level <= 0.5:
            quantiles[:, k] = centre + _lower_quantile(weight, mean, sd, level)
        else:
            quantiles[:, k] = centre - _lower_quantile(weight, -mean, sd, 1 - level)
    return quantiles


def _lower_quantile(weight, mean, sd, level):
    """Solve log F(q) = log(level) for each row by Newton's method, and by bisection where a step leaves the bracket.

    In the logarithm the lower tail of a normal distribution is concave and nearly a parabola: few steps are enough.
    """
    low, high = np.min(mean - REACH * sd, axis=0), np.max(mean + REACH * sd, axis=0)
    found = ndtri(level) * np.sqrt(weight @ (mean**2 + sd**2))
    active = np.arange(mean.shape[1])
    at = np.clip(found, low, high)
    for step in range(MOST_STEPS):
        # A component without spread is a step of F: its density is 0 on both sides, and infinite or NaN upon it.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            z = (at - mean) / sd
            below = weight @ ndtr(z)
            np.exp(-0.5 * np.square(z, out=z), out=z)
            density = weight @ np.divide(z, sd, out=z) / np.sqrt(2 * np.pi)
            new = at - below * np.log(below / level) / density
        low, high = np.where(below < level, at, low), np.where(below < level, high, at)
        inside = (new > low) & (new < high) if step < NEWTON_STEPS else np.zeros(len(at), dtype=bool)
        solved = np.abs(below - level) <= 1e-13 * level
        new = np.where(solved, at, np.where(inside, new, 0.5 * (low + high)))
        done = solved | (np.abs(new - at) <= 4e-16 * np.abs(new))
        found[active] = new
        if done.all():
            break
        if 2 * np.count_nonzero(done) > len(done):
            active, low, high, new = active[~done], low[~done], high[~done], new[~done]
            mean, sd = mean[:, ~done], sd[:, ~done]
        at = new
    return found


def _point_quantiles(weight, mean, levels):
    order = np.argsort(mean, axis=0)
    cumulative = np.cumsum(weight[order], axis=0) - 0.5 * weight[order]
    ranked = np.take_along_axis(mean, order, axis=0)
    return np.array([np.interp(levels, cumulative[:, r], ranked[:, r]) for r in range(mean.shape[1])])


def sample_observations(posterior, rows: PredictedRows, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return draws of new observations, shape (n_rows, n_samples), each column one joint draw."""
    x, z, offset = rows.design.block(0, rows.design.n_rows)
    predictor, sigma = posterior.row_draws(x, z, list(rows.codes), n_samples, rng)
    noise = rng.standard_normal(predictor.shape)
    scale = sigma if rows.standard_error is None else rows.standard_error
    draws = (predictor + noise * scale).T
    return draws if offset is None else draws + offset[:, None]
