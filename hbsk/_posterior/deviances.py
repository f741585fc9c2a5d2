"""Deviances of counts and proportions."""

from __future__ import annotations

import numpy as np
from scipy.special import xlogy


def deviance(family: str, y: np.ndarray, mean: np.ndarray, weight: np.ndarray) -> float:
    """Return twice the log likelihood that predictions lose against y itself.

    Parameters
    ----------
    family : {"poisson", "binomial"}
    y : ndarray of shape (n_rows,)
        Rates or proportions.
    mean : ndarray of shape (n_rows,)
        Predicted ones.
    weight : ndarray of shape (n_rows,)
        Exposure or trials, times copies.
    """
    if family == "poisson":
        units = xlogy(y, y / mean) - y + mean
    else:
        units = xlogy(y, y / mean) + xlogy(1 - y, (1 - y) / (1 - mean))
    return float(2 * weight @ np.maximum(units, 0.0))


def explained_deviance(
    family: str, y: np.ndarray, mean: np.ndarray, size: np.ndarray | None, sample_weight: np.ndarray | None
) -> float:
    """Return ``1 - D(y, mean) / D(y, pooled mean)``; 1 or 0 where y does not vary."""
    size = np.ones(len(y)) if size is None else size
    weight = size if sample_weight is None else size * sample_weight
    y = y / size
    pooled = np.full(len(y), (weight @ y) / weight.sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        ours = deviance(family, y, mean, weight)
    varies = np.ptp(y[weight > 0]) > 0
    if not varies:
        return 1.0 if ours == 0 else 0.0
    return 1.0 - ours / deviance(family, y, pooled, weight)
