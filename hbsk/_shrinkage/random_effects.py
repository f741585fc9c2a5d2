"""The random-effects analysis of group means: tau^2 with its interval, Q, and the mean with its error.

Everything refers to y_j ~ N(z_j' beta, v_j + tau^2), whatever means are shrunken by. Sampling variances count as known,
as they do in meta-analysis; where they are multiples v_j = sigma^2 / n_j of a sigma^2 that rows within groups tell on
nu degrees of freedom, quantiles of chi-square become those of F, which are exact for tau^2 / sigma^2 (Wald 1947).
Symbols are those of `hbsk._shrinkage.between_group_variance`.

References
----------
- Cochran, W. G. (1954). The combination of estimates from different experiments. Biometrics 10, 101-129.
- DerSimonian, R., and Laird, N. (1986). Meta-analysis in clinical trials. Controlled Clinical Trials 7, 177-188.
- Higgins, J. P. T., and Thompson, S. G. (2002). Quantifying heterogeneity in a meta-analysis. Statistics in Medicine
  21, 1539-1558.
- Viechtbauer, W. (2005). Bias and efficiency of meta-analytic variance estimators. J. Educ. Behav. Stat. 30, 261-293.
- Viechtbauer, W. (2007). Confidence intervals for the amount of heterogeneity in meta-analysis. Statistics in Medicine
  26, 37-52.
- Wald, A. (1947). A note on regression analysis. Annals of Mathematical Statistics 18, 586-589.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import chi2
from scipy.stats import f as f_ratio

from hbsk._shrinkage.between_group_variance import root_between
from hbsk._shrinkage.cells import (
    Cells,
    collect_cells,
    least_squares,
    totals_at,
    trace_of_p,
    trace_of_pp,
    without_leverage,
)

# Groups up to which residuals have directions of their own, a matrix of as many rows and columns.
MOST_FOR_DIRECTIONS = 500


class RandomEffects(NamedTuple):
    """What group means and their variances say of the variance between groups.

    Parameters
    ----------
    coef : ndarray of shape (r,)
        beta given tau^2, less what rows within groups say of it.
    covariance : ndarray of shape (r, r)
        Covariance of beta given tau^2.
    tau2_error : float
        Standard error of the estimate of tau^2; NaN where that was given.
    tau2_interval : tuple of float
        Q-profile interval of tau^2.
    is_empty : bool
        Whether no tau^2 is in that interval, and (0, 0) stands for it.
    typical_variance : float
        s^2 = (J - r) / tr P at tau^2 = 0: what a sampling variance typically is (Higgins and Thompson 2002, eq. 9).
    q, q_probability : float
        Sum of squares around beta at tau^2 = 0, weighted by 1 / v_j, and the probability of a larger one if tau^2 is 0.
    degrees : int
        Its degrees of freedom.
    """

    coef: np.ndarray
    covariance: np.ndarray
    tau2_error: float
    tau2_interval: tuple[float, float]
    is_empty: bool
    typical_variance: float
    q: float
    q_probability: float
    degrees: int


def random_effects(
    means: np.ndarray,
    variances: np.ndarray,
    basis: np.ndarray,
    prior_precision: np.ndarray | None,
    *,
    tau2: float,
    estimator: str,
    nu: float,
    coverage: float,
) -> RandomEffects:
    """Analyse group means, given an estimate of tau^2.

    Parameters
    ----------
    means : ndarray of shape (J,)
        y_j, less what rows within groups say of beta.
    variances : ndarray of shape (J,)
        v_j, all of them positive.
    basis : ndarray of shape (J, r)
        z_j.
    prior_precision : ndarray of shape (r,) or None
        Precision of what rows within groups say, as in `collect_cells`.
    tau2 : float
    estimator : str
        How tau^2 was estimated, a method of `between_group_variance`; any other text: it was given.
    nu : float
        Degrees of freedom behind the v_j; inf where they are known.
    coverage : float
        Probability of the interval of tau^2.
    """
    # in units of the smallest variance, and around a fit: large weights would take the digits of Q
    unit = float(variances.min())
    relative, told = variances / unit, np.zeros(basis.shape[1], dtype=bool)
    if prior_precision is not None:
        told = prior_precision > 0
    turn = np.eye(basis.shape[1]) if told.any() else without_leverage(basis, variances)
    basis = basis @ turn
    start = np.zeros(basis.shape[1])
    root = np.sqrt(1.0 / relative)
    start[~told] = np.linalg.lstsq(root[:, None] * basis[:, ~told], root * means, rcond=None)[0]
    scale = np.sqrt(unit)
    cells = collect_cells(
        (means - basis @ start) / scale, relative, basis, None if prior_precision is None else unit * prior_precision
    )
    at_zero = least_squares(cells, 1.0 / cells.variances)
    trace = float(trace_of_p(cells, at_zero, 1.0 / cells.variances))
    q, degrees = float(at_zero.residual), cells.degrees
    law = chi2(degrees) if np.isinf(nu) else f_ratio(degrees, nu)
    per_degree = 1.0 if np.isinf(nu) else float(degrees)
    levels = per_degree * law.ppf([0.5 - coverage / 2, 0.5 + coverage / 2])
    fit = least_squares(cells, 1.0 / totals_at(cells, tau2 / unit))
    return RandomEffects(
        coef=turn @ (start + scale * fit.coef),
        covariance=unit * turn @ fit.inverse @ turn.T,
        tau2_error=unit * _standard_error(cells, tau2 / unit, estimator, basis, relative),
        tau2_interval=(unit * _profile(cells, levels[1]), unit * _profile(cells, levels[0])),
        is_empty=q < levels[0],
        typical_variance=unit * degrees / trace,
        q=q,
        q_probability=float(law.sf(q / per_degree)),
        degrees=degrees,
    )


def _profile(cells: Cells, level: float) -> float:
    """Find the tau^2 at which Q has come down to a level; 0 where it is there already (Viechtbauer 2007, section 3.5).

    Q(tau^2) = sum_j (y_j - z_j' beta)^2 / (v_j + tau^2), beta fitted with these weights, falls to 0 as tau^2 grows.
    """

    def excess(tau2: float) -> float:
        return float(least_squares(cells, 1.0 / totals_at(cells, tau2)).residual - level)

    if excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, 1.0
    while excess(high) > 0:
        low, high = high, 4.0 * high
    return root_between(excess, low, high)


def _standard_error(cells: Cells, tau2: float, estimator: str, basis: np.ndarray, variances: np.ndarray) -> float:
    """Return the asymptotic standard error of an estimate of tau^2; NaN where it was given.

    Of likelihood methods from the expected information (Viechtbauer 2005, equations 10 and 13), of DerSimonian and
    Laird's from the variance of Q at tau^2, of Paule and Mandel's as metafor has it.
    """
    if estimator == "dersimonian-laird":
        weights = 1.0 / cells.variances
        fit = least_squares(cells, weights)
        trace, twice = trace_of_p(cells, fit, weights), _information(cells, 0.0, basis, variances)
        return float(np.sqrt(2.0 * cells.degrees + 4.0 * tau2 * trace + 2.0 * tau2**2 * twice) / trace)
    weights = 1.0 / totals_at(cells, tau2)
    if estimator == "reml":
        return float(np.sqrt(2.0 / _information(cells, tau2, basis, variances)))
    if estimator == "ml":
        return float(np.sqrt(2.0 / (np.square(weights) @ cells.counts)))
    if estimator == "paule-mandel":
        n_means = cells.n_groups + cells.n_prior
        return float(np.sqrt(2.0 / cells.degrees) * n_means / (weights @ cells.counts))
    return np.nan


def _information(cells: Cells, tau2: float, basis: np.ndarray, variances: np.ndarray) -> float:
    """Compute tr PP, of a few groups and several coefficients by the residuals' own directions: no difference.

    P = W^1/2 U U' W^1/2, where the columns of U are orthonormal to those of W^1/2 Z.
    """
    n_groups, n_target = basis.shape
    if n_target < 2 or cells.n_prior or n_groups > MOST_FOR_DIRECTIONS:
        weights = 1.0 / totals_at(cells, tau2)
        return float(trace_of_pp(cells, least_squares(cells, weights), weights))
    weights = 1.0 / (variances + tau2)
    order = np.argsort(-weights)
    root = np.sqrt(weights[order])[:, None]
    directions = root * np.linalg.qr(root * basis[order], mode="complete")[0][:, n_target:]
    return float(np.sum(np.square(directions.T @ directions)))
