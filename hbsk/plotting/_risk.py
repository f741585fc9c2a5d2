"""Risk of James-Stein estimators in closed form, as series.

Y ~ N(theta, I) in p dimensions, loss |estimate - theta|^2. The risk of 1 - (p - 2) / |Y|^2 and of its positive part
depends on theta through d = |theta|^2 alone; |Y|^2 is a chi-square with p + 2 K degrees of freedom, K ~ Poisson(d / 2).
"""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2, poisson

# Left of the Poisson sum on either side.
_TAIL = 1e-15


def james_stein_risk(squared_distance: np.ndarray, n_dimensions: int, *, positive_part: bool) -> np.ndarray:
    """Compute the expected total squared error of the James-Stein estimator, in units of the sampling variance.

    By Stein's unbiased estimate of risk, with c = p - 2 and s = |Y|^2 the loss is p - c^2 / s in expectation (James and
    Stein 1961); for the positive part p - c^2 / s where s > c, and s - p where s <= c, the estimate then being 0. Given
    K, s is a chi-square with m = p + 2 K degrees of freedom, and

    E[1 / s; s > c] = P(chi2_{m - 2} > c) / (m - 2),    E[s; s <= c] = m P(chi2_{m + 2} <= c).

    Parameters
    ----------
    squared_distance : ndarray of shape (n_points,)
        d = |theta - target|^2 over the sampling variance.
    n_dimensions : int
        p; the risk is p where p < 3, nothing being shrunken.
    positive_part : bool
        Whether the factor is cut at 0.
    """
    p, c = n_dimensions, n_dimensions - 2
    if p < 3:
        return np.full(np.shape(squared_distance), float(p))
    risk = np.empty(len(squared_distance))
    for i, half in enumerate(np.asarray(squared_distance, dtype=np.float64) / 2):
        low, high = poisson.ppf(_TAIL, half), poisson.isf(_TAIL, half)
        k = np.arange(max(low, 0.0), high + 1)
        m = p + 2 * k
        given = p - c**2 / (m - 2)
        if positive_part:
            small = chi2.cdf(c, m)
            given = p * (1 - 2 * small) - c**2 * chi2.sf(c, m - 2) / (m - 2) + m * chi2.cdf(c, m + 2)
        risk[i] = poisson.pmf(k, half) @ given
    return risk


def shrunken_risk(squared_distance: np.ndarray, n_groups: int, n_target: int, *, positive_part: bool) -> np.ndarray:
    """Compute the risk where the target has coefficients of its own, estimated from the same means.

    In the n_target directions of the target nothing is shrunken, and the risk is 1 in each; in the rest the estimator
    is that of `james_stein_risk`.
    """
    rest = n_groups - n_target
    return n_target + james_stein_risk(squared_distance, rest, positive_part=positive_part)
