"""Small grouped data for tests of estimators."""

from functools import cache

import numpy as np
import pandas as pd

from hbsk import PartialPoolingRegressor


def grouped(rng, n_groups=7, *, shift=0.0, scale=1.0, tau=1.2):
    """Rows of groups of 1 to 9 rows, with two columns that are constant within groups."""
    sizes = rng.permutation(np.arange(n_groups) % 9 + 1)
    group = rng.permutation(np.repeat(np.arange(n_groups), sizes))
    z = rng.normal(size=(n_groups, 2))
    theta = 0.8 * z[:, 0] - 0.5 * z[:, 1] + tau * rng.normal(size=n_groups)
    y = shift + scale * (theta[group] + rng.normal(size=len(group)))
    return pd.DataFrame({"a": z[group, 0], "b": z[group, 1], "g": [f"g{i}" for i in group]}), y


def by_label(estimator, name="theta_"):
    return dict(zip(next(iter(estimator.groups_.values())).tolist(), getattr(estimator, name).tolist(), strict=True))


def seven_lines():
    """Rows of seven groups of 1 to 20 rows, with an intercept and a slope of their own, and a second column."""
    rng = np.random.default_rng(77)
    sizes = [1, 2, 4, 7, 11, 15, 20]
    codes = rng.permutation(np.repeat(np.arange(7), sizes))
    x, w = rng.normal(size=60), rng.normal(size=60)
    effects = rng.normal(size=(7, 2)) * [1.4, 0.5]
    y = 3.0 + 0.9 * x - 0.4 * w + effects[codes, 0] + effects[codes, 1] * x + 0.7 * rng.normal(size=60)
    labels = np.array(["k", "b", "q", "a", "z", "c", "m"])
    return pd.DataFrame({"g": labels[codes], "x": x, "w": w}), y


@cache
def seven_lines_fit():
    """Return a model of those lines; never changed by a test."""
    X, y = seven_lines()
    return PartialPoolingRegressor(group_features="g", slope_features=["x"]).fit(X, y)


# Priors of two crossed factors, slopes on one, that fix all sds: everything is one normal law then.
FIXED_SDS = {
    "sigma": 0.7,
    "1|a": ("Normal", {"mu": 0.3, "sigma": 0.9}),
    "x|a": ("Normal", {"mu": 0.0, "sigma": 0.4}),
    "1|b": ("Normal", {"mu": 0.0, "sigma": 1.3}),
    "Intercept": ("Normal", {"mu": 1.0, "sigma": 2.0}),
    "x": ("Normal", {"mu": 0.2, "sigma": 1.5}),
    "centre|a": {"x": 2.0},
}
