"""What an observation is of its linear predictor: density and draws of each family."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, gammaln, log_expit

LOG_TWO_PI = np.log(2 * np.pi)
# Logs of the largest rate that is drawn from, beyond which its noise is a share of 2e-9, and of the largest in floats.
LARGEST_LOG_RATE, LARGEST_EXPONENT = 40.0, 700.0


def log_density(family: str, y: np.ndarray, predictor: np.ndarray, scale) -> np.ndarray:
    """Return log densities, or log probabilities, of observations.

    Parameters
    ----------
    family : {"gaussian", "binomial", "poisson"}
    y : ndarray of shape (n_rows,)
    predictor : ndarray of shape (n_draws, n_rows)
    scale : ndarray that broadcasts to (n_draws, n_rows)
        Sds of a Gaussian y; trials; exposure.
    """
    if family == "gaussian":
        return -0.5 * (LOG_TWO_PI + ((y - predictor) / scale) ** 2) - np.log(scale)
    if family == "binomial":
        constant = gammaln(scale + 1) - gammaln(y + 1) - gammaln(scale - y + 1)
        return constant + y * log_expit(predictor) + (scale - y) * log_expit(-predictor)
    return y * (predictor + np.log(scale)) - scale * np.exp(predictor) - gammaln(y + 1)


def draw_observations(family: str, predictor: np.ndarray, scale, rng: np.random.Generator) -> np.ndarray:
    """Draw an observation for each predictor, NaN where it is NaN; the arguments are those of `log_density`."""
    if family == "gaussian":
        return predictor + scale * rng.standard_normal(predictor.shape)
    known = np.isfinite(predictor)
    safe = np.where(known, predictor, 0.0)
    if family == "binomial":
        drawn = rng.binomial(np.broadcast_to(np.asarray(scale, dtype=np.int64), safe.shape), expit(safe))
    else:
        log_rate = safe + np.log(scale)
        drawn = rng.poisson(np.exp(np.minimum(log_rate, LARGEST_LOG_RATE))).astype(np.float64)
        is_large = log_rate > LARGEST_LOG_RATE
        drawn[is_large] = np.exp(np.minimum(log_rate[is_large], LARGEST_EXPONENT))
    return np.where(known, drawn.astype(np.float64), np.nan)
