"""Time the full posterior of hbsk against point estimates of other packages, as ratios in one run.

    python -m benchmarks.speed                 # the small and middle workloads
    python -m benchmarks.speed --largest       # also ten million rows, and a million groups (needs 8 GB)

Every package gets the same data in the form it takes fastest: hbsk and the formula interfaces a DataFrame, mixedlm-rs
also plain arrays (its core alone, marked so). The model is ``y ~ a + b + c + d + e + (a | g)`` with correlation, or
``(1 | g)`` where a workload says intercepts. Fits take turns, medians are quoted, a first fit of each package is not
counted (imports, lazy loading). Packages that are not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from statistics import median

import numpy as np
import pandas as pd

from hbsk import PartialPoolingRegressor
from hbsk.datasets import load_radon, load_sleepstudy

COMMON = ["a", "b", "c", "d", "e"]


def simulated(n_rows: int, n_groups: int) -> tuple[pd.DataFrame, list[str], str]:
    rng = np.random.default_rng(1)
    data = pd.DataFrame(rng.standard_normal((n_rows, 5)), columns=COMMON)
    data["g"] = rng.integers(0, n_groups, n_rows)
    effects = rng.multivariate_normal([0, 0], [[0.64, 0.128], [0.128, 0.16]], n_groups)
    g = data["g"].to_numpy()
    data["y"] = (
        1
        + data[COMMON].to_numpy() @ np.array([0.5, -0.3, 0.2, 0.1, -0.1])
        + effects[g, 0]
        + effects[g, 1] * data["a"].to_numpy()
        + 1.5 * rng.standard_normal(n_rows)
    )
    return data, COMMON, "a"


def sleepstudy():
    X, y = load_sleepstudy(return_X_y=True, as_frame=True)
    X = X.rename(columns={"Subject": "g"})
    X["g"] = pd.factorize(X["g"])[0]
    return X.assign(y=y.to_numpy()), ["Days"], "Days"


def radon():
    X, y = load_radon(return_X_y=True, as_frame=True)
    X = X[["county", "floor"]].rename(columns={"county": "g"})
    X["g"] = pd.factorize(X["g"])[0]
    return X.assign(y=y.to_numpy()), ["floor"], "floor"


def without_slope(workload):
    data, columns, _ = workload
    return data, columns, None


def hbsk_fit(data, columns, slope):
    X, y = data[["g", *columns]], data["y"]
    model = PartialPoolingRegressor(group_features="g", slope_features=[slope] if slope else None)
    return lambda: model.fit(X, y)


def mixedlm_rs_arrays(data, columns, slope):
    from mixedlm_rs import MixedLM

    y, g = data["y"].to_numpy(), data["g"].to_numpy()
    x = np.column_stack([np.ones(len(y)), *(data[c].to_numpy(dtype=float) for c in columns)])
    z = np.column_stack([np.ones(len(y)), *([data[slope].to_numpy(dtype=float)] if slope else [])])
    return lambda: MixedLM(y, x, g, exog_re=z).fit(reml=True)


def mixedlm_rs_formula(data, columns, slope):
    from mixedlm_rs import mixedlm

    formula = "y ~ " + " + ".join(columns)
    return lambda: mixedlm(formula, data, groups="g", re_formula=f"~{slope or 1}").fit(reml=True)


def mixedlm_formula(data, columns, slope):
    import mixedlm

    formula = f"y ~ {' + '.join(columns)} + ({slope or 1} | g)"
    return lambda: mixedlm.lmer(formula, data=data)


def lme_python_formula(data, columns, slope):
    import lme_python
    import polars as pl

    formula = f"y ~ {' + '.join(columns)} + ({slope or 1} | g)"
    return lambda: lme_python.lmer(formula, pl.from_pandas(data.assign(g=data["g"].astype(str))))


def statsmodels_formula(data, columns, slope):
    import statsmodels.formula.api as smf

    formula = "y ~ " + " + ".join(columns)
    return lambda: smf.mixedlm(formula, data, groups=data["g"], re_formula=f"~{slope or 1}").fit(reml=True)


def gpboost_slopes(data, columns, slope):
    import gpboost

    y, g = data["y"].to_numpy(), data["g"].to_numpy()
    x = np.column_stack([np.ones(len(y)), *(data[c].to_numpy(dtype=float) for c in columns)])
    slopes = {}
    if slope:
        slopes = {"group_rand_coef_data": data[[slope]].to_numpy(dtype=float), "ind_effect_group_rand_coef": [1]}

    def fit():
        model = gpboost.GPModel(group_data=g, **slopes)
        model.fit(y=y, X=x)

    return fit


def linear_regression(data, columns, slope):  # noqa: ARG001 - one signature for all
    from sklearn.linear_model import LinearRegression

    X, y = data[columns], data["y"]
    return lambda: LinearRegression().fit(X, y)


# package to look for, function that prepares a fit, most rows it is run on
PEERS = {
    "mixedlm-rs, arrays": ("mixedlm_rs", mixedlm_rs_arrays, 10**8),
    "mixedlm-rs, formula": ("mixedlm_rs", mixedlm_rs_formula, 10**8),
    "lme-python": ("lme_python", lme_python_formula, 10**6),
    "mixedlm": ("mixedlm", mixedlm_formula, 10**6),
    "gpboost (no correlation)": ("gpboost", gpboost_slopes, 10**5),
    "statsmodels": ("statsmodels", statsmodels_formula, 10**4),
    "LinearRegression (no groups)": ("sklearn", linear_regression, 10**8),
}

WORKLOADS = {
    "sleepstudy, 180 rows, 18 groups": (sleepstudy, 15),
    "radon, 919 rows, 85 groups": (radon, 15),
    "100,000 rows, 1,000 groups": (lambda: simulated(100_000, 1_000), 7),
    "1,000,000 rows, 10,000 groups": (lambda: simulated(1_000_000, 10_000), 3),
    "1,000,000 rows, 100,000 groups, intercepts": (lambda: without_slope(simulated(1_000_000, 100_000)), 3),
}
LARGEST = {
    "10,000,000 rows, 100,000 groups": (lambda: simulated(10_000_000, 100_000), 3),
    "5,000,000 rows, 1,000,000 groups": (lambda: simulated(5_000_000, 1_000_000), 3),
}


def peak_memory_mb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name, make, runs) -> None:
    data, columns, slope = make()
    before = peak_memory_mb()
    hbsk_fit(data, columns, slope)()
    print(
        f"\n{name}: data {data.memory_usage().sum() / 2**20:.0f} MB, process {before:.0f} MB before, "
        f"{peak_memory_mb():.0f} MB after a fit"
    )
    fits = {"hbsk, full posterior": hbsk_fit(data, columns, slope)}
    for peer, (package, prepare, most) in PEERS.items():
        # lme-python 0.2.7 asks for a matrix of groups by groups where only intercepts vary, and aborts
        too_large = len(data) > most or (peer == "lme-python" and slope is None)
        if importlib.util.find_spec(package) and not too_large:
            fits[peer] = prepare(data, columns, slope)
    seconds: dict[str, list[float]] = {peer: [] for peer in fits}
    for turn in range(runs + 1):
        for peer, fit in list(fits.items()):
            start = time.perf_counter()
            try:
                fit()
            except Exception as error:
                print(f"  {peer}: {type(error).__name__}: {str(error)[:120]}")
                del fits[peer], seconds[peer]
                continue
            if turn:
                seconds[peer].append(time.perf_counter() - start)
    own = median(seconds["hbsk, full posterior"])
    for peer, taken in sorted(seconds.items(), key=lambda item: median(item[1])):
        print(f"  {peer:32s} {median(taken):9.4f} s   hbsk / it = {own / median(taken):6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", action="store_true", help="also the largest two workloads")
    parser.add_argument("--only", default="", help="only workloads whose name contains this text")
    options = parser.parse_args()
    for name, (make, runs) in (WORKLOADS | (LARGEST if options.largest else {})).items():
        if options.only in name:
            measure(name, make, runs)


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    main()
