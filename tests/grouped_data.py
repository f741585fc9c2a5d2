"""Small grouped data for the tests of JamesSteinEstimator."""

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
    return dict(zip(estimator.groups_.tolist(), getattr(estimator, name).tolist(), strict=True))
