"""Over many simulated data sets: p-values of a right model keep to the middle, those of wrong ones do not.

Posterior predictive p-values are not uniform under the model. Averaged over the prior they are less variable than
uniform ones, and P(p <= a) is at most 2 a (Meng 1994, Posterior predictive p-values, Annals of Statistics 22,
1142-1160). Here the truth is fixed and the priors are wide, so that these are bounds up to the Monte Carlo error of 200
data sets.
"""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kurtosis, skew

from hbsk import PartialPoolingRegressor
from hbsk.datasets import make_grouped_regression
from hbsk.predictive_checks import posterior_predictive_check

pytestmark = pytest.mark.slow

N_DATA_SETS = 200
N_SAMPLES = 400
ROWS = 8
# With eight rows a group a slope of sd 1 is caught in 60 % of data sets, tails of two degrees of freedom in 80 %.
MANY_ROWS = 24


def group_sums(values, groups):
    return np.bincount(groups.astype(int), values)


def group_means(y, groups):
    return group_sums(y, groups) / np.bincount(groups.astype(int))


def sd_of_means(y, groups):
    return group_means(y, groups).std()


def largest_mean(y, groups):
    return group_means(y, groups).max()


def sd_of_slopes(y, groups, X):
    """Return the sd of the least-squares slopes of the groups."""
    x = X[:, 1] - group_means(X[:, 1], groups)[groups.astype(int)]
    return (group_sums(x * y, groups) / group_sums(x * x, groups)).std()


STATISTICS = ["mean", "std", "min", "max", skew, kurtosis, sd_of_means, largest_mean]


def simulate(seed, *, rows=ROWS, slope_sd=0.0, df=None):
    """Twelve groups of rows with one feature, whose slope may vary, and noise of sd 1 or Student's t."""
    X, y = make_grouped_regression(12, rows, 1, group_sd=[1.0, slope_sd], residual_sd=0.0, random_state=seed)
    noise = np.random.default_rng(seed)
    return X, y + (noise.normal(size=len(y)) if df is None else noise.standard_t(df, size=len(y)))


def p_values(statistics, *, slope_features=None, new_groups=False, n_data_sets=N_DATA_SETS, **how):
    rows = []
    for seed in range(n_data_sets):
        X, y = simulate(seed, **how)
        model = PartialPoolingRegressor(group_features=0, slope_features=slope_features).fit(X, y)
        check = posterior_predictive_check(
            model, X, y, statistics=statistics, n_samples=N_SAMPLES, random_state=seed, new_groups=new_groups
        )
        rows.append(check.p_value)
    return pd.DataFrame(rows)


def share_extreme(p):
    return ((p < 0.01) | (p > 0.99)).mean()


@pytest.mark.parametrize("new_groups", [False, True])
def test_a_right_model_is_rarely_accused(new_groups):
    p = p_values(STATISTICS, new_groups=new_groups)
    # Four standard errors of a mean of uniform numbers, which have the largest sd that is possible here.
    error = 4 * np.sqrt(1 / 12 / N_DATA_SETS)
    assert p.mean().between(0.5 - error, 0.5 + error).all()
    for level in (0.01, 0.05, 0.2):
        bound = 2 * level
        most = bound + 4 * np.sqrt(bound * (1 - bound) / N_DATA_SETS)
        assert (p <= level).mean().max() <= most
        assert (p >= 1 - level).mean().max() <= most


def test_heavy_tails_are_caught():
    p = p_values(STATISTICS, rows=MANY_ROWS, df=2, n_data_sets=60)
    assert share_extreme(p[["kurtosis"]]).item() > 0.9
    # One of the two extremes, which are among the default statistics.
    assert ((p["max"] < 0.01) | (p["min"] > 0.99)).mean() > 0.5
    # What the model was made to fit says nothing.
    assert share_extreme(p[["mean"]]).item() < 0.05


def test_a_missing_slope_is_caught_and_the_slope_acquitted():
    wrong = p_values(sd_of_slopes, rows=MANY_ROWS, slope_sd=1.0, n_data_sets=60)
    assert share_extreme(wrong).item() > 0.9
    right = p_values(sd_of_slopes, rows=MANY_ROWS, slope_sd=1.0, slope_features=[1], n_data_sets=60)
    assert share_extreme(right).item() < 0.05
