"""Compare effective samples per second of the two inference engines, as ratios in one run.

    python -m benchmarks.effective_samples               # about two minutes
    python -m benchmarks.effective_samples --draws 500   # shorter chains

For NUTS the effective sample size is ArviZ's bulk ESS. For the marginal engine it is the number of independent draws
whose means would be as accurate, (sd / Monte Carlo error)^2, the error being that of the sixteen replicates of its
nodes. Both are quoted for the worst of the parameters: sigma, the sds and correlations between groups, and the common
coefficients. The reported error is an upper bound, because the replicates are parts of one balanced set of points; the
true one is measured against a run with many more nodes. Seconds are those of `fit`, Bambi's part and PyMC's
compilation included. Medians for the marginal engine; one run of NUTS, its chains one after the other.
"""

from __future__ import annotations

import argparse
import time
import warnings
from statistics import median

from sklearn.base import clone

from hbsk import PartialPoolingRegressor
from hbsk._engine.settings import IntegrationSettings
from hbsk.datasets import load_eight_schools, load_radon, load_sleepstudy

RUNS = 15


def sleepstudy():
    X, y = load_sleepstudy(return_X_y=True, as_frame=True)
    return X, y, {"group_features": "Subject", "slope_features": ["Days"]}, {}


def radon():
    X, y = load_radon(return_X_y=True, as_frame=True)
    return X[["county", "floor"]], y, {"group_features": "county", "slope_features": ["floor"]}, {}


def eight_schools():
    schools = load_eight_schools(as_frame=True)
    known = {"standard_error": schools.standard_error}
    return schools.data, schools.target, {"group_features": "school"}, known


def timed(model, X, y, known):
    start = time.perf_counter()
    model.fit(X, y, **known)
    return time.perf_counter() - start


def worst_true_ess(model, X, y, known):
    """Return (sd / error)^2 of the worst posterior mean, against a run with many more nodes."""
    mine = model.summary()
    exact = clone(model)
    exact._integration = IntegrationSettings(error_target=0.0, max_nodes=100_000)
    exact.fit(X, y, **known)
    exact = exact.summary()
    return ((exact["sd"] / (mine["mean"] - exact["mean"])) ** 2).min()


def measure(make, draws):
    X, y, options, known = make()
    marginal = PartialPoolingRegressor(**options)
    timed(marginal, X, y, known)  # imports
    seconds = median(timed(marginal, X, y, known) for _ in range(RUNS))
    ess = marginal.diagnostics_["ess_bulk"].min()
    nuts = PartialPoolingRegressor(**options, inference="nuts", draws=draws, tune=draws, n_jobs=1, random_state=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence: the figures say it
        nuts_seconds = timed(nuts, X, y, known)
    nuts_ess = nuts.diagnostics_["ess_bulk"].min()
    true_ess = worst_true_ess(marginal, X, y, known)
    per_second = nuts_ess / nuts_seconds
    print(f"{make.__name__}: {len(X)} rows")
    print(
        f"  NUTS                              {nuts_seconds:8.2f} s, ESS {nuts_ess:8.0f}, {per_second:9.0f} per second"
    )
    for error, effective in (("reported", ess), ("true", true_ess)):
        print(
            f"  marginal engine, {error:8s} error  {seconds:8.4f} s, ESS {effective:8.0f}, "
            f"{effective / seconds:9.0f} per second: {effective / seconds / per_second:.0f} times"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000, help="draws and tuning steps of each of the four chains")
    options = parser.parse_args()
    for make in (sleepstudy, radon, eight_schools):
        measure(make, options.draws)


if __name__ == "__main__":
    main()
