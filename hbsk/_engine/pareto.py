"""Pareto smoothing of importance weights (Vehtari, Simpson, Gelman, Yao, Gabry 2024, JMLR 25).

ArviZ has the same as ``psislw``, and the tests compare the two. Importing it takes 1.5 s of CPU, fifty times what a fit
of a thousand rows takes, since its array functions cannot be had without xarray; hence these few lines.
"""

from __future__ import annotations

import numpy as np

# With fewer weights there is no tail to fit.
FEWEST_WEIGHTS = 25
# A spread of log weights that is rounding.
NO_SPREAD = 1e-9
# Prior of the shape k: as if ten weights had shown 1/2; prior of the scale: a third of the first quartile.
PRIOR_WEIGHTS, PRIOR_SHAPE, PRIOR_QUARTILES = 10, 0.5, 3


def smoothed_weights(log_weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Return Pareto smoothed weights that sum to 1, and the shape k.

    The largest weights, ``3 sqrt(n)`` of them and at most a fifth, become quantiles of a generalised Pareto law fitted
    to them (section 2.4 there), none larger than the largest was. Weights without spread, or with a flat top, have
    k = 0.

    Parameters
    ----------
    log_weight : ndarray of shape (n,)
        Up to a constant; minus infinity is a weight of zero.

    Raises
    ------
    FloatingPointError
        Where all weights are zero.
    """
    n = len(log_weight)
    if not np.any(np.isfinite(log_weight)):
        raise FloatingPointError("no node has a density")
    log_weight = log_weight - np.max(log_weight)
    weight = np.exp(log_weight)
    if n < FEWEST_WEIGHTS or np.ptp(log_weight[np.isfinite(log_weight)]) < NO_SPREAD:
        return weight / weight.sum(), 0.0
    n_tail = int(3 * np.sqrt(n)) if n > 225 else n // 5
    order = np.argsort(log_weight)
    tail, cutoff = weight[order[-n_tail:]], weight[order[-n_tail - 1]]
    if tail[-1] - tail[0] < np.finfo(float).tiny:
        return weight / weight.sum(), 0.0
    shape, scale = fit_generalized_pareto(tail - cutoff)
    if np.isfinite(shape) and scale > 0:
        log_survival = np.log1p(-(np.arange(n_tail) + 0.5) / n_tail)
        excess = -log_survival if shape == 0 else np.expm1(-shape * log_survival) / shape
        weight[order[-n_tail:]] = np.minimum(cutoff + scale * excess, 1.0)
    return weight / weight.sum(), float(shape)


def fit_generalized_pareto(excess: np.ndarray) -> tuple[float, float]:
    """Return shape and scale of the generalised Pareto law of sorted excesses over a threshold.

    The posterior mean over a grid of ``b = -k / scale`` (Zhang, Stephens 2009, Technometrics 51, section 3), the shape
    drawn towards 1/2 (Vehtari et al. 2024, appendix C). NaN where a quarter of the excesses are equal; infinite where
    nothing can be told.
    """
    n = len(excess)
    quartile = excess[int(n / 4 + 0.5) - 1]
    if quartile <= excess[0]:
        return np.nan, np.nan
    n_grid = 30 + int(np.sqrt(n))
    b = 1.0 / excess[-1] + (1.0 - np.sqrt(n_grid / (np.arange(n_grid) + 0.5))) / (PRIOR_QUARTILES * quartile)
    shape = np.mean(np.log1p(-b[:, None] * excess), axis=1)
    profile = n * (np.log(-b / shape) - shape - 1.0)
    weight = np.exp(profile - profile.max())
    weight /= weight.sum()
    kept = weight >= 10 * np.finfo(float).eps
    b = b[kept] @ (weight[kept] / weight[kept].sum())
    k = np.mean(np.log1p(-b * excess))
    if np.isnan(k):
        return np.inf, np.nan
    return (n * k + PRIOR_WEIGHTS * PRIOR_SHAPE) / (n + PRIOR_WEIGHTS), -k / b
