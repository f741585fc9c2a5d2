"""Tables of what shrinkage found, for the estimator's groups and parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2

from hbsk._messages import interval_columns
from hbsk._shrinkage.draws import deviation_sds
from hbsk._shrinkage.predictions import FittedMeans
from hbsk._shrinkage.shrunken_groups import infinite_where_unknown
from hbsk._shrinkage.shrunken_means import t_quantile

# Columns of a table of coefficients of groups, of every estimator; intervals come after them.
EFFECT_COLUMNS = [
    "factor", "group", "term", "n", "no_pooling", "mean", "sd", "deviation", "deviation_sd", "shrinkage",
]  # fmt: skip


def effect_table(
    factor: str, term: str, labels: np.ndarray, size: np.ndarray, own: np.ndarray, fitted: FittedMeans, coverage: Any
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
            "deviation_sd": deviation_sds(fitted),
            "shrinkage": fitted.shrinkage,
        }
    )
    if coverage is not None:
        reach = t_quantile(0.5 + float(coverage) / 2, np.array([fitted.nu])) * fitted.theta_sd
        low, high = interval_columns(coverage)
        table[low], table[high] = fitted.theta - reach, fitted.theta + reach
    return table


def parameter_table(
    fitted: FittedMeans, columns: Sequence[str], points: dict[str, float], coverage: float
) -> pd.DataFrame:
    """Return estimate, sd and interval of the target's coefficients, of sigma, and the sd between groups.

    Sigma has the interval of its chi-square distribution, the sd between groups none.
    """
    predictor, p = fitted.predictor, len(columns)
    # a slope is the height at 1 less that at 0, where all other columns are 0
    root = np.column_stack([np.zeros(p), predictor.directions.transform])
    with np.errstate(invalid="ignore"):
        variance = np.einsum("pk,kl,pl->p", root, predictor.covariance, root)
    at_zero = predictor.variance([np.zeros(1)] * p, 1)
    sd = np.sqrt(infinite_where_unknown(np.maximum(np.concatenate([at_zero, variance]), 0.0)))
    mean = np.concatenate([[predictor.intercept], predictor.slopes])
    with np.errstate(invalid="ignore"):
        reach = t_quantile(0.5 + coverage / 2, np.array([fitted.nu])) * sd
    reach = np.where(sd == 0, 0.0, reach)
    low, high = interval_columns(coverage)
    table = {"mean": mean, "sd": sd, low: mean - reach, high: mean + reach}
    rows = [pd.DataFrame(table, index=["Intercept", *columns])]
    if 0 < fitted.nu < np.inf:
        sigma, nu = np.sqrt(fitted.sigma2), fitted.nu
        ends = sigma * np.sqrt(nu / chi2.ppf([0.5 + coverage / 2, 0.5 - coverage / 2], nu))
        rows.append(pd.DataFrame([[sigma, sigma / np.sqrt(2 * nu), *ends]], index=["sigma"], columns=list(table)))
    rows += [pd.DataFrame({"mean": value}, index=[name], columns=list(table)) for name, value in points.items()]
    return pd.concat([row.astype(float) for row in rows])
