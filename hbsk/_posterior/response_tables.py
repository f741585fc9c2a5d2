"""Tables of binary and count responses on the scale of y: probabilities and rates of groups, ratios of coefficients."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import expit

from hbsk._posterior.group_tables import INTERCEPT_COLUMNS, coefficient_rows, column_labels, rows_of_groups
from hbsk._posterior.response import LARGEST_EXPONENT, response_points


def on_response_scale(frame, fitted, table: pd.DataFrame, point=None) -> pd.DataFrame:
    """Return a table of group effects with coefficients through the link.

    Those of intercepts are probabilities or rates at the point, or where all other columns are 0; those of other
    columns odds ratios or rate ratios. Means and sds are posterior moments of these, ends of intervals the ends through
    the link.

    Parameters
    ----------
    frame : ModelFrame
    fitted : Fitted
    table : DataFrame
        What `hbsk._posterior.group_tables.group_effect_table` returned.
    point : Point or None
        As it was given there.
    """
    table = table.drop(columns=[name for name in table if str(name).startswith("deviation")])
    posterior = fitted.posterior
    for f, factor in enumerate(frame.specification.factors):
        rows = coefficient_rows(frame.specification, f, point)
        for k, (column, label) in enumerate(zip(factor.columns, column_labels(factor), strict=True)):
            at = ((table["factor"] == factor.name) & (table["term"] == label)).to_numpy()
            inverse = _inverse(posterior.family, column)
            for name in ["no_pooling", *interval_ends(table)]:
                table.loc[at, name] = inverse(table.loc[at, name].to_numpy())
            table.loc[at, "mean"], table.loc[at, "sd"] = _moments(frame.specification, posterior, f, rows[k], inverse)
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


def _moments(specification, posterior, f, row, inverse):
    """Return posterior means and sds of one coefficient of every group through a function."""
    n_groups = posterior.n_groups[f]
    rows = rows_of_groups(specification, f, *row, np.arange(n_groups))
    mean, sd = np.empty(n_groups), np.empty(n_groups)
    for at, points, weight in response_points(posterior, *rows):
        values = inverse(points)
        mean[at] = weight @ values
        sd[at] = np.sqrt(weight @ (values - mean[at]) ** 2)
    return mean, sd
