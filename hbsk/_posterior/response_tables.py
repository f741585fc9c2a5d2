"""Tables of binary and count responses on the scale of y: probabilities and rates of groups, ratios of coefficients."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import expit

from hbsk._posterior.group_tables import INTERCEPT_COLUMNS, column_labels, common_counterparts
from hbsk._posterior.response import LARGEST_EXPONENT, response_points


def on_response_scale(frame, fitted, table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of group effects with coefficients through the link.

    Those of intercepts are probabilities or rates where all other columns are 0; those of other columns odds ratios or
    rate ratios. Means and sds are posterior moments of these, ends of intervals the ends through the link.

    Parameters
    ----------
    frame : ModelFrame
    fitted : Fitted
    table : DataFrame
        What `hbsk._posterior.group_tables.group_effect_table` returned.
    """
    table = table.drop(columns=[name for name in table if str(name).startswith("deviation")])
    posterior = fitted.posterior
    for f, factor in enumerate(frame.specification.factors):
        for k, (column, label) in enumerate(zip(factor.columns, column_labels(factor), strict=True)):
            at = ((table["factor"] == factor.name) & (table["term"] == label)).to_numpy()
            inverse = _inverse(posterior.family, column)
            for name in ["no_pooling", *interval_ends(table)]:
                table.loc[at, name] = inverse(table.loc[at, name].to_numpy())
            table.loc[at, "mean"], table.loc[at, "sd"] = _moments(frame.specification, posterior, f, k, inverse)
    return table


def interval_ends(table: pd.DataFrame) -> list[str]:
    """Return the columns of a table that are ends of intervals."""
    return [str(name) for name in table if str(name).startswith("eti")]


def ratio_table(table: pd.DataFrame, columns) -> pd.DataFrame:
    """Return the odds ratios or rate ratios of a summary's common coefficients: exponentials of mean and ends."""
    return table.loc[list(columns), ["mean", *interval_ends(table)]].rename(columns={"mean": "ratio"}).apply(np.exp)


def _inverse(family, column):
    if column in INTERCEPT_COLUMNS and family == "binomial":
        return expit
    return lambda eta: np.exp(np.minimum(eta, LARGEST_EXPONENT))


def _moments(specification, posterior, f, k, inverse):
    """Return posterior means and sds of one coefficient of every group through a function."""
    n_groups = posterior.n_groups[f]
    x = np.zeros((n_groups, len(specification.common_columns)))
    counterpart = common_counterparts(specification, specification.factors[f])[k]
    if counterpart is not None:
        x[:, counterpart] = 1.0
    z = [np.zeros((n_groups, len(factor.columns))) for factor in specification.factors]
    z[f][:, k] = 1.0
    codes = [np.arange(n_groups) if i == f else np.zeros(n_groups, dtype=int) for i in range(len(z))]
    mean, sd = np.empty(n_groups), np.empty(n_groups)
    for at, points, weight in response_points(posterior, x, z, codes):
        values = inverse(points)
        mean[at] = weight @ values
        sd[at] = np.sqrt(weight @ (values - mean[at]) ** 2)
    return mean, sd
