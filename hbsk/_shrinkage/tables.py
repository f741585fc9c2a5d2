"""Tables of what shrinkage found, for the estimator's groups and parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2

from hbsk._messages import interval_columns
from hbsk._shrinkage.averaged_variance import t_quantile
from hbsk._shrinkage.draws import deviation_sds
from hbsk._shrinkage.heterogeneity import Heterogeneity, degrees_between
from hbsk._shrinkage.predictions import FittedMeans
from hbsk._shrinkage.rates import FittedRates
from hbsk._shrinkage.shrunken_groups import infinite_where_unknown

# Columns of a table of coefficients of groups, of every estimator; intervals come after them.
EFFECT_COLUMNS = [
    "factor", "group", "term", "n", "no_pooling", "mean", "sd", "deviation", "deviation_sd", "shrinkage",
]  # fmt: skip
# What tables of posteriors tell of Monte Carlo error, where nothing is sampled.
WITHOUT_MONTE_CARLO = {"equivalent_draws": np.inf, "equivalent_draws_tail": np.inf, "mcse_mean": 0.0}


def effect_table(
    factor: str,
    term: str,
    labels: np.ndarray,
    size: np.ndarray,
    own: np.ndarray,
    fitted: FittedMeans | FittedRates,
    coverage: Any,
) -> pd.DataFrame:
    """Return the mean of every group, before and after shrinkage; ends of t intervals unless coverage is None."""
    table = pd.DataFrame(
        {
            "factor": factor,
            "group": pd.Series(labels).infer_objects(),
            "term": term,
            "n": size,
            "no_pooling": own,
            "mean": fitted.theta,
            "sd": fitted.theta_sd,
            "deviation": fitted.deviations,
            "deviation_sd": fitted.deviation_sds() if isinstance(fitted, FittedRates) else deviation_sds(fitted),
            "shrinkage": fitted.shrinkage,
        }
    )
    if coverage is not None:
        low, high = interval_columns(coverage)
        table[low], table[high] = fitted.intervals(float(coverage)).T
    return table


def rate_table(fitted: FittedRates, factors: Sequence[str], coverage: float) -> pd.DataFrame:
    """Return mean and kappa of the law between groups, its variance and sd: posterior sds and intervals."""
    names = {"Intercept": "Intercept", "kappa": "kappa"} if factors else {"Intercept": "Intercept"}
    for factor in factors:
        names |= {"between_group_variance": "between_group_variance", "sd": f"1|{factor}_sigma"}
    found = fitted.parameters(coverage)
    columns = ["mean", "sd", *interval_columns(coverage)]
    table = pd.DataFrame([found[name] for name in names], index=list(names.values()), columns=columns, dtype=float)
    return table.assign(df=np.nan)


def parameter_table(
    fitted: FittedMeans,
    columns: Sequence[str],
    term: str | None,
    tau2: float,
    analysis: Heterogeneity | None,
    coverage: float,
    *,
    tau2_is_given: bool,
) -> pd.DataFrame:
    """Return the parameters with sds, intervals and their degrees of freedom.

    Coefficients have intervals of Student's t. What only group means tell has J - r degrees of freedom, J means and r
    coefficients that only they tell: its variance is told by how the means scatter. What rows within groups tell, and
    everything beside a given variance between groups, has those of sigma. Sigma has the interval of its chi-square
    distribution; what goes with the variance between groups has that of `analysis`.

    Parameters
    ----------
    fitted : FittedMeans
    columns : sequence of str
        Columns of the target.
    term : str or None
        The varying intercept, such as "1|school"; None without groups.
    tau2 : float
        Variance between groups.
    analysis : Heterogeneity or None
        What has its interval; None where nothing has.
    coverage : float
    tau2_is_given : bool
    """
    mean, variance = fitted.predictor.coefficients()
    sd = np.sqrt(infinite_where_unknown(np.maximum(variance, 0.0)))
    degrees, between = np.full(len(mean), float(fitted.nu)), float(degrees_between(fitted))
    if term is not None and not tau2_is_given:
        by_means = _told_by_means(fitted)
        degrees[by_means] = between
        variance = np.where(by_means, _scales(fitted), variance)
    degrees[sd == 0] = np.inf
    scale = np.sqrt(infinite_where_unknown(np.maximum(variance, 0.0)))
    with np.errstate(invalid="ignore"):
        reach = t_quantile(0.5 + coverage / 2, degrees) * scale
    reach = np.where(sd == 0, 0.0, reach)
    low, high = interval_columns(coverage)
    table = {"mean": mean, "sd": sd, low: mean - reach, high: mean + reach, "df": degrees}
    rows = [pd.DataFrame(table, index=["Intercept", *columns])]

    def add(name: str, *values: float) -> None:
        rows.append(pd.DataFrame([values], index=[name], columns=list(table), dtype=float))

    if 0 < fitted.nu < np.inf:
        sigma, nu = float(np.sqrt(fitted.sigma2)), fitted.nu
        ends = sigma * np.sqrt(nu / chi2.ppf([0.5 + coverage / 2, 0.5 - coverage / 2], nu))
        add("sigma", sigma, sigma / np.sqrt(2 * nu), *ends, nu)
    if term is not None:
        error, ends_of_tau2 = (
            (np.nan, (np.nan, np.nan)) if analysis is None else (analysis.tau2_se, analysis.tau2_interval)
        )
        values = np.array([tau2, *ends_of_tau2])
        add("between_group_variance", tau2, error, *ends_of_tau2, between)
        tau = np.sqrt(values)
        add(f"{term}_sigma", tau[0], np.nan, *tau[1:], between)
        if np.isfinite(fitted.nu):
            total = values + fitted.sigma2
            share = np.divide(values, total, out=np.full_like(total, np.nan), where=np.isfinite(total) & (total > 0))
            share[np.isinf(values)] = 1.0
            add(f"variance_share[{term.partition('|')[2]}]", share[0], np.nan, *share[1:], between)
    return pd.concat([row.astype(float) for row in rows])


def _told_by_means(fitted: FittedMeans) -> np.ndarray:
    """Tell which of intercept and slopes, shape (1 + p,), rows within groups do not tell by themselves."""
    transform = fitted.predictor.directions.transform
    of_means = np.ones(transform.shape[1], dtype=bool) if fitted.within is None else ~fitted.within.told[1:]
    share = np.abs(transform[:, of_means]).max(axis=1, initial=0.0)
    return np.append(True, share > 1e-9 * np.abs(transform).max(axis=1, initial=0.0))


def _scales(fitted: FittedMeans) -> np.ndarray:
    """Return squared scales (1 + p,) of Student's t of intercept and slopes, which have the variance of t by now."""
    covariance, degrees = fitted.predictor.covariance.copy(), len(fitted.theta) - fitted.n_target
    if degrees > 2:
        covariance[1:, 1:] *= (degrees - 2.0) / degrees
    return fitted.predictor._replace(covariance=covariance).coefficients()[1]
