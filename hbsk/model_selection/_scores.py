"""Scores of predictions: of points, of normal distributions, of intervals; small is good in all but `coverage`."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
from scipy.special import xlog1py, xlogy
from scipy.stats import norm

COVERAGE = 0.9


def rmse(y: np.ndarray, mean: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Root mean squared error."""
    return float(np.sqrt(np.average(np.square(y - mean), weights=weight)))


def mae(y: np.ndarray, mean: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Mean absolute error."""
    return float(np.average(np.abs(y - mean), weights=weight))


def crps(y: np.ndarray, mean: np.ndarray, sd: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Mean continuous ranked probability score of N(mean, sd^2), by the package scoringrules."""
    import scoringrules

    spread = sd > 0
    score = np.abs(y - mean)  # of a distribution without spread
    # Its arithmetic passes through 0 * inf where sd is infinite; the score is then infinite, as it should be.
    with np.errstate(invalid="ignore", over="ignore"):
        score[spread] = scoringrules.crps_normal(y[spread], mean[spread], sd[spread], backend="numpy")
    return float(np.average(score, weights=weight))


def crps_is_available() -> bool:
    """Tell whether `scoringrules` is installed, without importing it (it takes seconds)."""
    return find_spec("scoringrules") is not None


def log_score(y: np.ndarray, mean: np.ndarray, sd: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Mean of minus the log density of N(mean, sd^2) at y; infinite where sd is, or where a sd of 0 misses."""
    with np.errstate(divide="ignore", invalid="ignore"):
        density = norm.logpdf((y - mean) / sd) - np.log(sd)
    density[sd == 0] = np.where(y == mean, np.inf, -np.inf)[sd == 0]
    return float(-np.average(density, weights=weight))


def log_loss(y: np.ndarray, probability: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Mean of minus the log of the probability, (n, n_classes), of the class at position y; infinite for a 0."""
    with np.errstate(divide="ignore"):
        return float(np.average(-np.log(probability[np.arange(len(y)), y]), weights=weight))


def brier(y: np.ndarray, probability: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Mean squared distance of probabilities from what was seen: of the second of two classes, of all together else."""
    seen = np.eye(probability.shape[1])[y]
    square = np.square(probability - seen)
    return float(np.average(square[:, 1] if square.shape[1] == 2 else square.sum(axis=1), weights=weight))


def log_loss_of_shares(y: np.ndarray, mean: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Mean over trials of minus the log probability of what each came to; infinite outside 0 and 1."""
    if np.any((mean < 0) | (mean > 1)):
        return float("inf")
    return float(np.average(-xlogy(y, mean) - xlog1py(1 - y, -mean), weights=weight))


def brier_of_shares(y: np.ndarray, mean: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Mean over trials of the squared distance of the probability of success from what each came to."""
    return float(np.average(y * np.square(1 - mean) + (1 - y) * np.square(mean), weights=weight))


def poisson_deviance(y: np.ndarray, mean: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Mean Poisson deviance; infinite where a prediction is not positive."""
    if np.any(mean <= 0):
        return float("inf")
    return float(np.average(2 * (xlogy(y, y / mean) - y + mean), weights=weight))


def coverage(y: np.ndarray, interval: np.ndarray) -> float:
    """Fraction of the intervals, shape (n, 2), that hold their y; NaN where one of them is."""
    if np.isnan(interval).any():
        return np.nan
    return float(np.mean((interval[:, 0] <= y) & (y <= interval[:, 1])))


def width(interval: np.ndarray) -> float:
    """Mean width of the intervals, shape (n, 2)."""
    return float(np.mean(interval[:, 1] - interval[:, 0]))


def normal_interval(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Compute the central interval of N(mean, sd^2) with probability COVERAGE, shape (n, 2)."""
    half = norm.ppf((1 + COVERAGE) / 2) * sd
    return np.column_stack([mean - half, mean + half])
