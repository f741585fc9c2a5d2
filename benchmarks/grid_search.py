"""Time a grid search over hierarchical models, and what the same search would cost by NUTS.

    python -m benchmarks.grid_search                   # about a minute without NUTS, some minutes with it
    python -m benchmarks.grid_search --nuts 0          # without NUTS
    python -m benchmarks.grid_search --repeats 5 --verbose 1

24 candidates (own intercepts; own slopes of `floor` too, with and without correlation; 8 priors on the sd between
counties, the counterpart of a grid over Ridge's alpha) x 5 folds of the radon data (919 homes, 85 counties), and the
refit of the best: 121 fits of hierarchical models. On one core and in one thread, after imports and a first fit. The
seconds of NUTS are those of one fit of each of the three structures, times the number of such fits.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from statistics import median

import numpy as np
from sklearn.model_selection import GridSearchCV
from threadpoolctl import threadpool_limits

from hbsk import PartialPoolingRegressor
from hbsk.datasets import load_radon
from hbsk.model_selection import WithinGroupKFold

PRIORS = [
    {"1|county": ("Normal", {"mu": 0.0, "sigma": ("HalfNormal", {"sigma": float(scale)})})}
    for scale in np.geomspace(0.05, 4.0, 8).round(3)
]
STRUCTURES = [
    {"slope_features": None},
    {"slope_features": ["floor"], "correlated": True},
    {"slope_features": ["floor"], "correlated": False},
]
GRID = [{name: [value] for name, value in structure.items()} | {"priors": PRIORS} for structure in STRUCTURES]
N_FOLDS = 5


def one_core():
    """Keep this process on one core, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def search(X, y, groups, verbose):
    folds = WithinGroupKFold(N_FOLDS, shuffle=True, random_state=0)
    grid = GridSearchCV(
        PartialPoolingRegressor(group_features="county"), GRID, cv=folds, error_score="raise", verbose=verbose
    )
    wall, cpu = time.perf_counter(), time.process_time()
    grid.fit(X, y, groups=groups)
    return grid, time.perf_counter() - wall, time.process_time() - cpu


def nuts_seconds(X, y, structure):
    model = PartialPoolingRegressor(
        group_features="county", inference="nuts", priors=PRIORS[4], n_jobs=1, random_state=0, **structure
    )
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence: the time is asked for here
        model.fit(X, y)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="searches; the median is quoted")
    parser.add_argument("--nuts", type=int, default=len(STRUCTURES), help="structures to fit by NUTS, at most 3")
    parser.add_argument("--verbose", type=int, default=0, help="as in GridSearchCV")
    options = parser.parse_args()

    one_core()
    X, y = load_radon(return_X_y=True, as_frame=True)
    groups, X = X["county"], X[["county", "floor"]]
    with threadpool_limits(1):
        start = time.perf_counter()
        PartialPoolingRegressor(group_features="county").fit(X, y)
        print(f"first fit, with the import of Bambi: {time.perf_counter() - start:.1f} s")
        runs = [search(X, y, groups, options.verbose) for _ in range(options.repeats)]
        n_candidates = len(runs[0][0].cv_results_["params"])
        wall, cpu = (median(run[k] for run in runs) for k in (1, 2))
        print(
            f"{n_candidates} candidates x {N_FOLDS} folds and the refit, {n_candidates * N_FOLDS + 1} fits: "
            f"{wall:.2f} s, of it {cpu:.2f} s of CPU (median of {options.repeats})"
        )
        fit = np.mean(runs[0][0].cv_results_["mean_fit_time"])
        score = np.mean(runs[0][0].cv_results_["mean_score_time"])
        print(f"a fit {1000 * fit:.0f} ms, its score {1000 * score:.0f} ms; best {runs[0][0].best_params_}")
        if options.nuts:
            seconds = [nuts_seconds(X, y, structure) for structure in STRUCTURES[: options.nuts]]
            total = np.mean(seconds) * (n_candidates * N_FOLDS + 1)
            print(f"a fit by NUTS (4 chains of 1000 + 1000): {', '.join(f'{s:.0f} s' for s in seconds)}")
            print(f"the same search by NUTS: about {total / 60:.0f} minutes, {total / wall:.0f} times as long")


if __name__ == "__main__":
    main()
