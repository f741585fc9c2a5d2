"""Predictions of rows from a posterior: points, intervals, draws; both estimators answer through here."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from hbsk._engine.propriety import HIGHEST_MOMENT
from hbsk._engine.threads import n_threads, one_thread_each
from hbsk._model.design import PredictedRows
from hbsk._posterior.parts import RowMixture

# Nodes times rows of mixtures worked on at a time, a block that stays in the cache.
CACHED_NUMBERS = 65_536
# Such blocks for which the algebra of their groups is done at once, and how many of these pay for threads.
BLOCKS_OF_ROWS = 8
BLOCKS_FOR_THREADS = 4
# Sds beyond every component within which its quantiles lie.
REACH = 9.0
# Steps of the search for quantiles: Newton's at first, then bisection, which halves the bracket.
NEWTON_STEPS, MOST_STEPS = 20, 200
# Steps, in sds of the narrowest component, that a Taylor series of four terms makes exact: what it leaves out is of the
# size of the fifth power, over 5!.
EXACT_STEP = 0.01
# Excess kurtosis up to which an expansion in cumulants is a start.
MOST_KURTOSIS = 3.0


def predict_mean(posterior, rows: PredictedRows, *, return_std: bool):
    """Return posterior predictive means, and sds of a new observation if asked for."""
    n_rows = rows.design.n_rows
    posterior, location = posterior.about_zero()
    mean = np.empty(n_rows)
    variance = np.empty(n_rows) if return_std else None
    for at, x, z, codes, offset in rows.blocks():
        mean[at], block = posterior.row_moments(x, z, codes, return_std)
        if offset is not None:
            mean[at] += offset
        if return_std:
            noise = posterior.noise_variance(codes)
            variance[at] = block + (noise if rows.standard_error is None else rows.standard_error[at] ** 2)
    mean += location
    if not return_std:
        return mean, None
    if posterior.has_infinite_moments:
        _show_infinite_variances(posterior, rows, variance)
    return mean, np.sqrt(variance)


def _show_infinite_variances(posterior, rows, variance):
    """Make variances infinite that do not exist, of the predictor or of the noise."""
    with_noise = rows.standard_error is None
    for at, x, z, codes, _ in rows.blocks():
        degrees = posterior.row_degrees(x, z, codes, with_noise=with_noise)
        variance[at] = np.where(degrees <= HIGHEST_MOMENT, np.inf, variance[at])


def predict_interval(posterior, rows: PredictedRows, *, coverage: float, kind: str) -> np.ndarray:
    """Return central intervals, shape (n_rows, 2), of the predictive mixture."""
    posterior, location = posterior.about_zero()
    interval = np.empty((rows.design.n_rows, 2))
    levels = np.array([(1 - coverage) / 2, (1 + coverage) / 2])
    for at, x, z, codes, offset in rows.blocks():
        error = None if rows.standard_error is None or kind == "mean" else rows.standard_error[at]
        # groups that fit has not seen have one law
        codes = [np.minimum(code, n) for code, n in zip(codes, posterior.n_groups, strict=True)]
        columns = [*x.T, *(column for part in z for column in part.T), *codes]
        first, position = distinct_rows(columns if error is None else [*columns, error])
        if codes:  # rows of one group beside each other share the algebra of the group
            order = np.argsort(codes[0][first], kind="stable")
            first, position = first[order], np.argsort(order)[position]
        noise = None if kind == "mean" or error is None else error[first]
        law = (x[first], [part[first] for part in z], [code[first] for code in codes])
        block = _distinct_intervals(posterior, *law, noise, levels, kind)[position]
        interval[at] = block if offset is None else block + offset[:, None]
    return interval + location


def _distinct_intervals(posterior, x, z, codes, noise, levels, kind):
    """Return intervals of rows, a few at a time; in threads where they are many."""
    interval = np.empty((len(x), len(levels)))
    width = max(16, BLOCKS_OF_ROWS * CACHED_NUMBERS // posterior.n_nodes)

    def work(start):
        at = slice(start, start + width)
        part = [code[at] for code in codes]
        mixture = posterior.row_mixture(x[at], [columns[at] for columns in z], part)
        if kind == "prediction":
            mixture = mixture.with_noise(posterior.row_sigma(part) if noise is None else noise[at])
        interval[at] = mixture_quantiles(mixture, levels)

    starts = range(0, len(x), width)
    if len(starts) < BLOCKS_FOR_THREADS:
        for start in starts:
            work(start)
        return interval
    with one_thread_each(), ThreadPoolExecutor(n_threads()) as pool:
        list(pool.map(work, starts))
    return interval


def distinct_rows(columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Find equal rows of a table of numbers.

    Parameters
    ----------
    columns : sequence of ndarray of shape (n_rows,)

    Returns
    -------
    first : ndarray of shape (n_distinct,), dtype int
        One of the rows for each that is distinct.
    position : ndarray of shape (n_rows,), dtype int
        Which of them each row is.
    """
    key = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        key *= np.uint64(0x9E3779B97F4A7C15)
        key ^= pd.util.hash_array(np.ascontiguousarray(column))
    position, keys = pd.factorize(key)
    first = np.empty(len(keys), dtype=np.intp)
    first[position[::-1]] = np.arange(len(position) - 1, -1, -1)
    alike = first[position]
    strays = np.zeros(len(key), dtype=bool)  # rows of one key that differ
    for column in columns:
        strays |= column[alike] != column
    (strays,) = np.nonzero(strays)
    position[strays] = len(first) + np.arange(len(strays))
    return np.concatenate([first, strays]), position


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
    if smooth.all():
        return _smooth_quantiles(weight, mean, sd, levels)
    if smooth.any():
        quantiles[smooth] = _smooth_quantiles(weight, mean[:, smooth], sd[:, smooth], levels)
    if points.any():
        quantiles[points] = _point_quantiles(weight, mean[:, points], levels)
    if endless.any():
        ends = np.where(levels < 0.5, -np.inf, np.inf)
        quantiles[endless] = np.where(levels == 0.5, (weight @ mean[:, endless])[:, None], ends)
    return quantiles


class _Components(NamedTuple):
    """Components of mixtures of normals about the mixtures' means, columns of rows."""

    weight: np.ndarray
    mean: np.ndarray
    precision: np.ndarray

    def below(self, at, sign):
        """Return what is below ``at`` of each mixture, its mirror image for sign -1, and standardised distances."""
        z = (at - self.mean if sign > 0 else at + self.mean) * self.precision
        return self.weight @ ndtr(z), z

    def of(self, rows) -> _Components:
        return _Components(self.weight, self.mean[:, rows], self.precision[:, rows])


def _smooth_quantiles(weight, mean, sd, levels):
    quantiles = np.empty((mean.shape[1], len(levels)))
    width = max(16, CACHED_NUMBERS // len(weight))
    for start in range(0, len(quantiles), width):
        rows = slice(start, start + width)
        quantiles[rows] = _block_of_quantiles(weight, mean[:, rows], sd[:, rows], levels)
    return quantiles


def _block_of_quantiles(weight, mean, sd, levels):
    # solved for the distance from the mixture's mean: the tolerance is then relative to the spread
    centre = weight @ mean
    mean = mean - centre
    with np.errstate(divide="ignore"):
        components = _Components(weight, mean, 1.0 / sd)
    low, high, narrowest = np.min(mean - REACH * sd, axis=0), np.max(mean + REACH * sd, axis=0), sd.min(axis=0)
    cumulants = _cumulants(weight, mean, sd)
    quantiles = np.empty((len(centre), len(levels)))
    for k, level in enumerate(levels):
        if level <= 0.5:
            start = _start(cumulants, level, 1.0)
            quantiles[:, k] = centre + _lower_quantile(components, 1.0, level, start, low, high, narrowest)
        else:
            start = _start(cumulants, 1 - level, -1.0)
            quantiles[:, k] = centre - _lower_quantile(components, -1.0, 1 - level, start, -high, -low, narrowest)
    return quantiles


def _lower_quantile(components, sign, level, start, low, high, narrowest):
    """Solve F(q) = level for each row: Newton's method for log F, a Taylor series of F for the last step.

    In the logarithm the lower tail of a normal distribution is concave and nearly a parabola: few steps are enough.
    From where the series is exact, the distribution function, by far the dearest, is not looked at again. Where a step
    leaves the bracket, it is halved.
    """
    found = start
    active = np.arange(len(start))
    at = np.clip(found, low, high)
    for step in range(MOST_STEPS):
        # A component without spread is a step of F: its density is 0 on both sides, and infinite or NaN upon it.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            below, z = components.below(at, sign)
            slopes = _slopes(components.weight, z, components.precision)
            new = at - below * np.log(below / level) / slopes[0]
            series = at + _series_root(level - below, slopes, new - at)
        low, high = np.where(below < level, at, low), np.where(below < level, high, at)
        exact = (np.abs(new - at) <= EXACT_STEP * narrowest) & (np.abs(series - at) <= EXACT_STEP * narrowest)
        new = np.where(exact, series, new)
        inside = (new > low) & (new < high) if step < NEWTON_STEPS else np.zeros(len(at), dtype=bool)
        solved = np.abs(below - level) <= 1e-13 * level
        new = np.where(solved, at, np.where(inside, new, 0.5 * (low + high)))
        done = solved | (exact & inside) | (np.abs(new - at) <= 4e-16 * np.abs(new))
        found[active] = new
        if done.all():
            break
        if 2 * np.count_nonzero(done) > len(done):
            left = ~done
            active, low, high, new, narrowest = active[left], low[left], high[left], new[left], narrowest[left]
            components = components.of(left)
        at = new
    return found


def _cumulants(weight, mean, sd):
    """Return sd, skewness and excess kurtosis of mixtures about zero."""
    square, variance = mean * mean, sd * sd
    total = weight @ (square + variance)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        skewness = weight @ (mean * (square + 3 * variance)) / total**1.5
        kurtosis = weight @ (square * (square + 6 * variance) + 3 * variance * variance) / total**2 - 3.0
    return np.sqrt(total), skewness, kurtosis


def _start(cumulants, level, sign):
    """Return quantiles by the expansion of Cornish and Fisher (1938) in four cumulants; of a normal where it is far."""
    sd, skewness, kurtosis = cumulants
    z, skewness = ndtri(level), sign * skewness
    with np.errstate(invalid="ignore", over="ignore"):
        shift = (z**2 - 1) / 6 * skewness + (z**3 - 3 * z) / 24 * kurtosis - (2 * z**3 - 5 * z) / 36 * skewness**2
        near = (np.abs(kurtosis) <= MOST_KURTOSIS) & (np.abs(shift) <= 0.5)
    return (z + np.where(near, shift, 0.0)) * sd


def _slopes(weight, z, precision):
    """Return the first four derivatives of the distribution function of mixtures at standardised points ``z``."""
    square = z * z
    term = np.exp(-0.5 * square)
    term *= precision / np.sqrt(2 * np.pi)
    first = weight @ term
    term *= precision
    second = -(weight @ (term * z))
    term *= precision
    third = weight @ (term * (square - 1.0))
    term *= precision * z
    return first, second, third, weight @ (term * (3.0 - square))


def _series_root(missing, slopes, step):
    """Return h with ``f1 h + f2 h^2 / 2 + f3 h^3 / 6 + f4 h^4 / 24 = missing`` by Newton's method from ``step``."""
    first, second, third, fourth = slopes
    for _ in range(3):
        value = step * (first + step * (second / 2 + step * (third / 6 + step * fourth / 24)))
        step = step - (value - missing) / (first + step * (second + step * (third / 2 + step * fourth / 6)))
    return step


def _point_quantiles(weight, mean, levels):
    quantiles = np.empty((mean.shape[1], len(levels)))
    for r, values in enumerate(np.ascontiguousarray(mean.T)):
        order = np.argsort(values)
        ranked = weight[order]
        quantiles[r] = np.interp(levels, np.cumsum(ranked) - 0.5 * ranked, values[order])
    return quantiles


def sample_observations(posterior, rows: PredictedRows, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return draws of new observations, shape (n_rows, n_samples), each column one joint draw."""
    x, z, offset = rows.design.block(0, rows.design.n_rows)
    predictor, sigma = posterior.row_draws(x, z, list(rows.codes), n_samples, rng)
    noise = rng.standard_normal(predictor.shape)
    scale = sigma if rows.standard_error is None else rows.standard_error
    draws = (predictor + noise * scale).T
    return draws if offset is None else draws + offset[:, None]
