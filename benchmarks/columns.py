"""Time and size of fits over common columns, beside scikit-learn's BayesianRidge on the same rows.

    python -m benchmarks.columns                      # about a minute

Numeric columns in 50 groups, then one text column of many levels. Seconds are CPU time of the machine at hand; what can
be compared is the ratio.
"""

from __future__ import annotations

import pickle
import time

import numpy as np
import pandas as pd
from sklearn.linear_model import BayesianRidge

from hbsk import PartialPoolingRegressor

ROWS, GROUPS = 5_000, 50
COLUMNS = (5, 20, 50, 100, 200, 500)
LEVELS, ROWS_OF_LEVELS = (100, 300), 20_000


def cpu_seconds(function):
    """Return the CPU time of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def numeric(n_columns, rng):
    X = rng.normal(size=(ROWS, n_columns))
    groups = rng.integers(0, GROUPS, ROWS)
    y = X[:, :5].sum(axis=1) + rng.normal(size=GROUPS)[groups] + rng.normal(size=ROWS)
    return X, groups, y


def levels(n_levels, rng):
    level, groups = rng.integers(0, n_levels, ROWS_OF_LEVELS), rng.integers(0, GROUPS, ROWS_OF_LEVELS)
    effects = 0.5 * rng.normal(size=n_levels)[level] + rng.normal(size=GROUPS)[groups]
    frame = pd.DataFrame({"level": np.array([f"level {i}" for i in range(n_levels)])[level], "g": groups})
    return frame, effects + rng.normal(size=ROWS_OF_LEVELS)


def report(name, frame, y, other=None):
    model = PartialPoolingRegressor(group_features="g")
    seconds = cpu_seconds(lambda: model.fit(frame, y))
    spread = cpu_seconds(lambda: model.predict(frame[:200], return_std=True))
    ratio = "" if other is None else f"   {seconds / other:6.1f} times BayesianRidge"
    size = len(pickle.dumps(model)) / 1e6
    print(f"  {name:>12}  fit {seconds:7.2f} s   sds of 200 rows {spread:6.2f} s   pickle {size:6.2f} MB{ratio}")


def main():
    rng = np.random.default_rng(0)
    frame, y = levels(3, rng)
    PartialPoolingRegressor(group_features="g").fit(frame, y)  # imports
    print(f"\nnumeric columns, {ROWS:,d} rows, {GROUPS} groups")
    for n_columns in COLUMNS:
        X, groups, y = numeric(n_columns, rng)
        other = min(cpu_seconds(lambda X=X, y=y: BayesianRidge().fit(X, y)) for _ in range(3))
        report(n_columns, pd.DataFrame(X).add_prefix("x").assign(g=groups), y, other)
    print(f"\nlevels of a text column, {ROWS_OF_LEVELS:,d} rows, {GROUPS} groups")
    for n_levels in LEVELS:
        report(n_levels, *levels(n_levels, rng))


if __name__ == "__main__":
    main()
