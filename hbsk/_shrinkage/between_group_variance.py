"""Shrinkage of many normal means, as free functions of arrays that know nothing of estimators.

The model of all of them: J group means y_j with known sampling variances v_j, y_j | theta_j ~ N(theta_j, v_j), and a
target that the theta_j are shrunken towards, t_j = z_j' beta with r free coefficients beta (r = 0: a fixed target,
subtracted from y before). Symbols of the papers and names used here:

=================  =====================================================================
y_j, X_j           `means`, group means, shape (J,)
v_j, V_j, A_j      `variances`, sampling variances (not sds) of the means, shape (J,)
z_j                rows of `basis`, shape (J, r); r may be 0
tau^2, A, lambda   `tau2`, variance (not sd) of the theta_j around the target
B_j                1 - shrinkage: the share of the target in the estimate of theta_j
nu                 degrees of freedom behind an estimated sigma^2; inf where v_j is known
=================  =====================================================================

References
----------
- James, W., and Stein, C. (1961). Estimation with quadratic loss. Proc. 4th Berkeley Symposium 1, 361-379.
- Efron, B., and Morris, C. (1973). Stein's estimation rule and its competitors: an empirical Bayes approach. JASA 68.
- DerSimonian, R., and Laird, N. (1986). Meta-analysis in clinical trials. Controlled Clinical Trials 7, 177-188.
- Paule, R. C., and Mandel, J. (1982). Consensus values and weighting factors. J. Res. Nat. Bur. Standards 87, 377-385.
- Morris, C. (1983). Parametric empirical Bayes inference: theory and applications. JASA 78, 47-55.
- Harville, D. (1977). Maximum likelihood approaches to variance component estimation. JASA 72, 320-338.
- Viechtbauer, W. (2005). Bias and efficiency of meta-analytic variance estimators. J. Educ. Behav. Stat. 30, 261-293.
- Xie, X., Kou, S. C., and Brown, L. (2012). SURE estimates for a heteroscedastic hierarchical model. JASA 107.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import brentq

from hbsk._shrinkage.cells import (
    Cells,
    WeightedFit,
    least_squares,
    squared_residual,
    totals_at,
    trace_of_p,
)

# Of tau^2, one number or many.
Curve = Callable[[Any], Any]

_STEPS_PER_DECADE = 5
_MOST_DECADES = 24
_MOST_CELLS = 2048


# ---------------------------------------------------------------------------------------------------------------------
# James and Stein


def james_stein_shrinkage(
    deviations: np.ndarray, variances: np.ndarray, n_target: float, nu: float, *, positive_part: bool
) -> float:
    """Compute the common factor by which deviations from the target are multiplied, 1 - B.

    See `james_stein_pull` for B.
    """
    pull = james_stein_pull(deviations, variances, n_target, nu)
    return 1.0 - (min(pull, 1.0) if positive_part else pull)


def james_stein_pull(deviations: np.ndarray, variances: np.ndarray, n_target: float, nu: float) -> float:
    """Compute the share B of the target in every estimate; above 1 it should be cut.

    B = (J - r - 2) nu / (nu + 2) / sum_j (d_j^2 / v_j), where d_j = y_j - t_j, r counts the coefficients of the target
    that were estimated (by least squares with weights 1 / v_j) and nu / (nu + 2) is 1 for known v_j. James and Stein
    (1961, section 2) for equal v_j and t = 0; with unequal v_j this is their estimator of the standardised means
    y_j / sqrt(v_j). Efron and Morris (1973) for r > 0.

    Parameters
    ----------
    deviations : ndarray of shape (J,)
        d_j.
    variances : ndarray of shape (J,)
        v_j.
    n_target : float
        r; not an integer where rows within groups tell a part of the coefficients.
    nu : float
        Degrees of freedom behind the v_j, or inf.
    """
    distance = float(np.sum(np.square(deviations) / variances))
    if distance == 0:
        return 1.0
    correction = 1.0 if np.isinf(nu) else nu / (nu + 2.0)
    return (len(deviations) - n_target - 2) * correction / distance


# ---------------------------------------------------------------------------------------------------------------------
# The variance between groups


def between_group_variance(cells: Cells, method: str) -> float:
    """Estimate tau^2 (a variance, 0 or more) by one of four methods.

    Parameters
    ----------
    cells : Cells
        From `collect_cells`; J > r.
    method : {"reml", "ml", "dersimonian-laird", "paule-mandel"}
        Restricted or full maximum likelihood, or a method of moments.
    """
    return _ESTIMATORS[method](cells)


def reml(cells: Cells) -> float:
    """Estimate tau^2 by restricted maximum likelihood; the best of all local maxima.

    Maximises -1/2 [sum log(v_j + tau^2) + log |Z'WZ| + sum w_j (y_j - z_j' beta)^2], w_j = 1 / (v_j + tau^2), beta by
    generalised least squares (Harville 1977).
    """
    return _maximise(cells, restricted=True)


def ml(cells: Cells) -> float:
    """Estimate tau^2 by maximum likelihood: as `reml` without log |Z'WZ|."""
    return _maximise(cells, restricted=False)


def log_likelihood(cells: Cells, tau2: float | np.ndarray, *, restricted: bool) -> np.ndarray:
    """Log likelihood of tau^2 with beta at its estimate, up to a constant that does not depend on tau^2."""
    totals = totals_at(cells, tau2)
    fit = least_squares(cells, 1.0 / totals)
    value = np.log(totals) @ cells.counts + fit.residual
    return -0.5 * (value + fit.log_det) if restricted else -0.5 * value


def restricted_fits(cells: Cells, tau2: np.ndarray) -> tuple[WeightedFit, np.ndarray, np.ndarray]:
    """Fit beta at each tau^2: the fits, sum log(v_j + tau^2) + log |Z'WZ|, and sum (v_j + tau^2)^-2."""
    few = _merge_cells(cells)
    totals = totals_at(few, tau2)
    fit = least_squares(few, 1.0 / totals)
    return fit, np.log(totals) @ few.counts + fit.log_det, np.square(1.0 / totals) @ few.counts


def likelihood_slope(cells: Cells, tau2: float | np.ndarray, *, restricted: bool) -> np.ndarray:
    """Differentiate `log_likelihood` by tau^2: 1/2 (y'PPy - tr P), or 1/2 (y'PPy - tr W) for ML."""
    weights = 1.0 / totals_at(cells, tau2)
    fit = least_squares(cells, weights)
    trace = trace_of_p(cells, fit, weights) if restricted else weights @ cells.counts
    return 0.5 * (squared_residual(cells, np.square(weights), fit.coef) - trace)


def _maximise(cells: Cells, *, restricted: bool) -> float:
    # Beyond 2 SS / (J - r) and the largest v_j the slope is negative: y'PPy <= SS / tau^4, tr P >= (J - r) / 2 tau^2.
    spread = least_squares(cells, np.ones_like(cells.variances)).residual / cells.degrees
    high = max(2.0 * spread, cells.variances[-1])
    few = _merge_cells(cells)
    while cells.n_prior and likelihood_slope(few, high, restricted=restricted) > 0:  # SS then depends on tau^2
        high *= 4.0
    roots = _sign_changes(
        lambda tau2: likelihood_slope(few, tau2, restricted=restricted), _grid(cells.variances[0], high)
    )
    candidates = np.array([0.0, *roots])
    best = float(candidates[np.argmax(log_likelihood(few, candidates, restricted=restricted))])
    if few is cells:
        return best
    return _polish(lambda tau2: likelihood_slope(cells, tau2, restricted=restricted), best, 1e-3 * cells.variances[0])


def dersimonian_laird(cells: Cells) -> float:
    """Estimate tau^2 by the method of moments with weights 1 / v_j (DerSimonian and Laird 1986).

    tau^2 = max(0, (Q - (J - r)) / tr P), Q the weighted residual sum of squares and
    tr P = sum w_j - tr[(Z'WZ)^-1 Z'W^2 Z], all at tau^2 = 0.
    """
    weights = 1.0 / cells.variances
    fit = least_squares(cells, weights)
    return max(0.0, float((fit.residual - cells.degrees) / trace_of_p(cells, fit, weights)))


def paule_mandel(cells: Cells) -> float:
    """Estimate tau^2 by solving sum_j w_j (y_j - z_j' beta)^2 = J - r (Paule and Mandel 1982); 0 without a solution.

    Where rows within groups tell of beta too, their part is added on both sides of the equation.
    """
    degrees = cells.degrees

    def excess(tau2: float) -> float:
        return float(least_squares(cells, 1.0 / totals_at(cells, tau2)).residual - degrees)

    if excess(0.0) <= 0:
        return 0.0
    high = float(least_squares(cells, np.ones_like(cells.variances)).residual / degrees) or cells.variances[-1]
    while excess(high) > 0:  # only rounding can bring this about
        high *= 2.0
    return root_between(excess, 0.0, high)


_ESTIMATORS: dict[str, Callable[[Cells], float]] = {
    "reml": reml,
    "ml": ml,
    "dersimonian-laird": dersimonian_laird,
    "paule-mandel": paule_mandel,
}


# ---------------------------------------------------------------------------------------------------------------------
# Stein's unbiased risk estimate


def sure_risk(cells: Cells, tau2: float | np.ndarray) -> np.ndarray:
    """Compute Stein's unbiased estimate of sum_j E(theta_hat_j - theta_j)^2 (Xie, Kou and Brown 2012).

    SURE(tau^2, beta) = sum_j [b_j^2 (y_j - z_j' beta)^2 + v_j (tau^2 - v_j) / (tau^2 + v_j)], with
    b_j = v_j / (v_j + tau^2), at the beta that makes it least, which is weighted least squares with weights b_j^2.
    """
    v, totals = cells.variances, totals_at(cells, tau2)
    penalty = (v * (totals - 2.0 * v) / totals) @ cells.counts
    return least_squares(cells, np.square(v / totals)).residual + penalty


def sure_slope(cells: Cells, tau2: float | np.ndarray) -> np.ndarray:
    """Differentiate `sure_risk` by tau^2: 2 sum_j b_j^2 [1 - (y_j - z_j' beta)^2 / (v_j + tau^2)]."""
    totals = totals_at(cells, tau2)
    b2 = np.square(cells.variances / totals)
    residual = squared_residual(cells, b2 / totals, least_squares(cells, b2).coef)
    return 2.0 * (b2 @ cells.counts - residual)


def sure(cells: Cells) -> tuple[float, np.ndarray]:
    """Minimise `sure_risk` over tau^2 and the target; the best of all local minima.

    Returns
    -------
    tau2 : float
        Variance between groups, 0 or more.
    coef : ndarray of shape (r,)
        beta.
    """
    high = max(float(least_squares(cells, np.ones_like(cells.variances)).residual), cells.variances[-1])
    while sure_slope(cells, high) <= 0 and np.isfinite(high):
        high *= 4.0
    few = _merge_cells(cells)
    roots = _sign_changes(lambda tau2: -sure_slope(few, tau2), _grid(cells.variances[0], high))
    candidates = np.array([0.0, *roots])
    tau2 = float(candidates[np.argmin(sure_risk(few, candidates))])
    if few is not cells:
        tau2 = _polish(lambda value: -sure_slope(cells, value), tau2, 1e-3 * cells.variances[0])
    return tau2, least_squares(cells, np.square(cells.variances / (cells.variances + tau2))).coef


# ---------------------------------------------------------------------------------------------------------------------
# One-dimensional search


def _grid(smallest: float, high: float) -> np.ndarray:
    """0 and points between a thousandth of the smallest variance and `high`, evenly on the log scale."""
    low = max(1e-3 * smallest, high * 10.0**-_MOST_DECADES)
    n_points = 2 + int(np.ceil(_STEPS_PER_DECADE * np.log10(high / low)))
    return np.append(0.0, np.geomspace(low, high, n_points))


def _sign_changes(function: Curve, grid: np.ndarray) -> list[float]:
    """Roots where the function goes from positive to not positive, between neighbours on the grid."""
    values = function(grid)
    return [
        root_between(function, grid[i], grid[i + 1])
        for i in range(len(grid) - 1)
        if values[i] > 0 and values[i + 1] <= 0
    ]


def _merge_cells(cells: Cells) -> Cells:
    """Merge cells of nearly equal variance where there are very many: good enough to find the right optimum."""
    if len(cells.variances) <= _MOST_CELLS:
        return cells
    place = np.log(cells.variances / cells.variances[0])
    place = np.minimum((place * (_MOST_CELLS / max(place[-1], 1e-300))).astype(np.int64), _MOST_CELLS - 1)
    start = np.flatnonzero(np.diff(place, prepend=-1))
    counts = np.add.reduceat(cells.counts, start)
    variances = np.add.reduceat(cells.counts * cells.variances, start) / counts
    return cells._replace(variances=variances, counts=counts, products=np.add.reduceat(cells.products, start, axis=0))


def _polish(function: Curve, guess: float, smallest: float) -> float:
    """Find the root, from positive to not positive, near a good guess; 0 where there is none above 0."""
    if guess == 0.0 and function(0.0) <= 0:
        return 0.0
    low = high = max(guess, smallest)
    step = 1.01
    while function(high) > 0:
        low, high, step = high, high * step, step * step
    while function(low) <= 0:
        if low < smallest:
            return 0.0 if function(0.0) <= 0 else root_between(function, 0.0, high)
        high, low, step = low, low / step, step * step
    return root_between(function, low, high)


def root_between(function: Curve, low: float, high: float) -> float:
    """Root to the last digits: two ways to write one data set (weights, copies) must agree to 1e-7."""
    at_low, at_high = function(low), function(high)
    if np.sign(at_low) * np.sign(at_high) > 0:  # a change of sign that was rounding
        return low if abs(at_low) < abs(at_high) else high
    return float(brentq(function, low, high, xtol=1e-15 * high, rtol=8.9e-16, maxiter=500))


# ---------------------------------------------------------------------------------------------------------------------
# Standard deviations


def variance_of_new_groups(variances: np.ndarray, tau2: float, n_target: float) -> float:
    """Compute the variance of a new theta around the target: tau^2 corrected for having been estimated.

    (d tau^2 + 2 vbar) / (d - 2), d = J - r, is the tau^2 at which v / (v + tau^2) is what Morris (1983, section 5)
    estimates it by, (d - 2) / d of its value at the estimate; vbar is the mean of the v_j with weights
    1 / (v_j + tau^2). It is infinite for d of 2 or less, where a flat prior on tau^2 has no posterior.

    Parameters
    ----------
    variances : ndarray of shape (J,)
        v_j.
    tau2 : float
        Estimate of the variance between groups.
    n_target : float
        r.
    """
    degrees = len(variances) - n_target
    if degrees <= 2:
        return np.inf
    totals = variances + tau2
    mean_variance = float(np.average(variances, weights=1.0 / totals)) if totals.min() > 0 else 0.0
    return (degrees * tau2 + 2.0 * mean_variance) / (degrees - 2)
