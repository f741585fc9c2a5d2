"""Answers for rows whose response is binary or a count: probabilities, rates, intervals, draws."""

from __future__ import annotations

import numpy as np
from scipy.special import bdtr, expit, pdtr

from hbsk._model.design import PredictedRows
from hbsk._posterior.likelihoods import draw_observations
from hbsk._posterior.prediction import distinct_rows
from hbsk._posterior.response import (
    LARGEST_EXPONENT,
    response_interval,
    response_log_means,
    response_mean,
    response_points,
)

# Numbers of points times rows whose distribution functions are looked at at a time.
BLOCK_ELEMENTS = 1_000_000
# Counts that are told apart; floats hold no larger ones.
LARGEST_COUNT = 2.0**53


def predict_response(posterior, rows: PredictedRows) -> np.ndarray:
    """Return the posterior mean of the probability or of the rate of each row."""
    mean = np.empty(rows.design.n_rows)
    for at, law, position in _distinct_laws(posterior, rows):
        mean[at] = response_mean(posterior, *law)[position]
    return mean


def predict_log_probabilities(posterior, rows: PredictedRows) -> np.ndarray:
    """Return logs of the posterior means of ``1 - p`` and p, shape (n_rows, 2)."""
    logs = np.empty((rows.design.n_rows, 2))
    for at, law, position in _distinct_laws(posterior, rows):
        log_mean, log_rest = response_log_means(posterior, *law)
        logs[at, 0], logs[at, 1] = log_rest[position], log_mean[position]
    return logs


def predict_response_interval(posterior, rows: PredictedRows, coverage: float) -> np.ndarray:
    """Return central intervals, shape (n_rows, 2), of the probability or the rate."""
    interval = np.empty((rows.design.n_rows, 2))
    levels = _levels(coverage)
    for at, (x, z, codes, offset), position in _distinct_laws(posterior, rows):
        interval[at] = response_interval(posterior, x, z, codes, levels, offset)[position]
    return interval


def predict_count_interval(posterior, rows: PredictedRows, coverage: float) -> np.ndarray:
    """Return intervals, shape (n_rows, 2), of counts that may be observed: quantiles of the predictive distribution.

    An end is the smallest count that is not exceeded with at least the probability of its level.
    """
    interval = np.empty((rows.design.n_rows, 2))
    levels = _levels(coverage)
    sizes = np.ones(rows.design.n_rows) if rows.size is None else rows.size
    for at, x, z, codes, offset in rows.blocks():
        size, block = sizes[at], np.empty((len(x), 2))
        for part, points, weight in response_points(posterior, x, z, codes, offset):
            for k, level in enumerate(levels):
                block[part, k] = _count_quantiles(posterior.family, points, weight, size[part], level)
        interval[at] = block
    return interval


def sample_responses(posterior, rows: PredictedRows, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return draws of new observations, shape (n_rows, n_samples), each column one joint draw: successes or counts."""
    x, z, offset = rows.design.block(0, rows.design.n_rows)
    predictor, _ = posterior.row_draws(x, z, list(rows.codes), n_samples, rng)
    if offset is not None:
        predictor = predictor + offset
    size = np.ones(rows.design.n_rows) if rows.size is None else rows.size
    return draw_observations(posterior.family, predictor, size, rng).T


def _levels(coverage: float) -> np.ndarray:
    return np.array([(1 - coverage) / 2, (1 + coverage) / 2])


def _distinct_laws(posterior, rows: PredictedRows):
    """Yield rows, the distinct laws of their predictor (x, z, codes, offset), and which of these each row has."""
    for at, x, z, codes, offset in rows.blocks():
        # groups that fit has not seen have one law
        codes = [np.minimum(code, n) for code, n in zip(codes, posterior.n_groups, strict=True)]
        columns = [*x.T, *(column for part in z for column in part.T), *codes]
        first, position = distinct_rows(columns if offset is None else [*columns, offset])
        law = (
            x[first],
            [part[first] for part in z],
            [code[first] for code in codes],
            None if offset is None else offset[first],
        )
        yield at, law, position


def _count_quantiles(family, points, weight, size, level):
    """Return the smallest counts whose distribution function, averaged over points, reaches a level."""
    means = size * (expit(points) if family == "binomial" else np.exp(np.minimum(points, LARGEST_EXPONENT)))
    quantile = np.empty(points.shape[1])
    width = max(1, BLOCK_ELEMENTS // len(points))
    for start in range(0, points.shape[1], width):
        at = slice(start, start + width)
        quantile[at] = _block_of_quantiles(family, points[:, at], means[:, at], weight, size[at], level)
    return quantile


def _block_of_quantiles(family, points, means, weight, size, level):
    def reaches(count):
        below = bdtr(count, size.astype(int), expit(points)) if family == "binomial" else pdtr(count, means)
        return weight @ below >= level

    low = np.full(points.shape[1], -1.0)  # whose distribution function is 0
    spread = np.sqrt(np.max(means, axis=0))
    high = (
        size if family == "binomial" else np.minimum(np.ceil(np.max(means, axis=0) + 10 * spread + 10), LARGEST_COUNT)
    )
    high = np.array(high, dtype=float)
    while np.any(high - low > 1):
        middle = np.floor(0.5 * (low + high))
        reached = reaches(middle)
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return high
