"""Small grouped data for tests of estimators."""

import numpy as np
import pandas as pd


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
