"""Time fits over rows and groups, and predictions; with a figure where Matplotlib is asked for.

    python -m benchmarks.scaling                      # about a minute
    python -m benchmarks.scaling --figure scaling.png

Cost is linear in rows and in groups where log-log slopes between the largest sizes are about 1 (below, what does not
depend on the size dominates: Bambi's part, a few milliseconds of arithmetic).
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np

from benchmarks.speed import hbsk_fit, simulated
from hbsk import PartialPoolingRegressor

ROWS = (1_000, 10_000, 100_000, 1_000_000, 4_000_000)
GROUPS = (10, 100, 1_000, 10_000, 100_000, 400_000)
FIXED_GROUPS, FIXED_ROWS = 100, 1_000_000


def seconds_of(function, runs):
    function()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return median(taken)


def fit_seconds(n_rows, n_groups, runs=3):
    return seconds_of(hbsk_fit(*simulated(n_rows, n_groups)), runs)


def report(name, sizes, seconds):
    slopes = np.diff(np.log(seconds)) / np.diff(np.log(sizes))
    print(f"\n{name}")
    for size, taken, slope in zip(sizes, seconds, [np.nan, *slopes], strict=True):
        print(f"  {size:9,d}  {taken:8.4f} s" + ("" if np.isnan(slope) else f"   log-log slope {slope:5.2f}"))


def predictions():
    data, columns, slope = simulated(1_000_000, 10_000)
    X, y = data[["g", *columns]], data["y"]
    model = PartialPoolingRegressor(group_features="g", slope_features=[slope]).fit(X[:100_000], y[:100_000])
    one, array = X[:1], X[:1].to_numpy()
    by_position = PartialPoolingRegressor(group_features=0, slope_features=[1]).fit(X[:100_000].to_numpy(), y[:100_000])
    print("\npredict")
    print(f"  one row of a DataFrame      {1000 * seconds_of(lambda: model.predict(one), 300):8.3f} ms")
    print(f"  one row of an array         {1000 * seconds_of(lambda: by_position.predict(array), 300):8.3f} ms")
    print(f"  1,000,000 rows              {seconds_of(lambda: model.predict(X), 3):8.3f} s")
    print(f"  1,000,000 rows, return_std  {seconds_of(lambda: model.predict(X, return_std=True), 1):8.3f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", help="file to draw the two curves in")
    options = parser.parse_args()
    by_rows = [fit_seconds(n, FIXED_GROUPS) for n in ROWS]
    report(f"rows, in {FIXED_GROUPS} groups", ROWS, by_rows)
    by_groups = [fit_seconds(FIXED_ROWS, n) for n in GROUPS]
    report(f"groups, in {FIXED_ROWS:,d} rows", GROUPS, by_groups)
    predictions()
    if options.figure:
        draw(by_rows, by_groups, options.figure)


def draw(by_rows, by_groups, file):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for ax, sizes, seconds, label in (
        (axes[0], ROWS, by_rows, f"Rows, in {FIXED_GROUPS} groups"),
        (axes[1], GROUPS, by_groups, f"Groups, in {FIXED_ROWS:,d} rows"),
    ):
        ax.loglog(sizes, seconds, "o-", color="#0072B2", label="fit")
        line = np.array([sizes[-3], sizes[-1]], dtype=float)
        ax.loglog(line, seconds[-1] * line / line[-1], "--", color="black", linewidth=1, label="proportional")
        ax.set_xlabel(label)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("Seconds, full posterior")
    axes[0].legend(frameon=False)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
