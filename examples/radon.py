"""Which counties of Minnesota have the most radon in their homes? 919 homes, 85 counties, and 1 to 116 homes in each.

Three answers side by side: every county for itself (no pooling), all counties alike (complete pooling), and in between
(partial pooling): the fewer homes a county has, the more it borrows from the others.

Prints the cross-validated error of each answer, and of Ridge with dummies of the counties; then the estimates of ten
counties (`--all`: of all), and saves two figures.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.compose import make_column_transformer
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import RepeatedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from hbsk import PartialPoolingRegressor
from hbsk.datasets import load_radon

POOLINGS = ["none", "partial", "complete"]
ANSWERS = {"none": "no pooling", "partial": "partial pooling", "complete": "complete pooling"}
RIDGES = {"Ridge": Ridge(), "Ridge, penalty searched": RidgeCV(np.geomspace(0.1, 100, 13))}
COUNTIES_PRINTED, COUNTIES_DRAWN = 10, 25
NONE, PARTIAL, LINE = "#d55e00", "#0072b2", "#555555"  # orange and blue that colour-blind readers can tell apart


def regressor(pooling="partial"):
    """Return the model log_radon ~ floor + (floor | county)."""
    return PartialPoolingRegressor(group_features="county", slope_features=["floor"], pooling=pooling)


def county_table(models, X):
    """Return what each model says of a basement in each county, counties with few homes first."""
    sizes = X["county"].value_counts().sort_index().sort_values(kind="stable")
    basements = pd.DataFrame({"county": sizes.index, "floor": 0})
    table = pd.DataFrame({"homes": sizes.to_numpy()}, index=pd.Index(sizes.index, name="county"))
    for pooling in POOLINGS:
        table[pooling] = models[pooling].predict(basements)
    table[["low", "high"]] = models["partial"].predict_interval(basements, coverage=0.95, kind="mean")
    table["own weight"] = models["partial"].shrinkage_["county"].iloc[:, 0].loc[sizes.index].to_numpy()
    return table


def with_dummies(linear):
    """Return a linear model of floor and a dummy for each county."""
    dummies = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["county"]), remainder="passthrough")
    return make_pipeline(dummies, linear)


def cross_validated_errors(X, y):
    """Return the root mean squared error of each answer on homes that were left out, and how it compares."""
    folds = RepeatedKFold(n_splits=10, n_repeats=3, random_state=0)
    models = {ANSWERS[pooling]: regressor(pooling) for pooling in POOLINGS}
    models |= {name: with_dummies(linear) for name, linear in RIDGES.items()}
    errors = pd.DataFrame(
        {
            name: -cross_val_score(model, X, y, cv=folds, scoring="neg_root_mean_squared_error")
            for name, model in models.items()
        }
    )
    worse = errors.gt(errors["partial pooling"], axis=0).sum()
    return pd.DataFrame({"error": errors.mean(), f"worse than partial (of {len(errors)})": worse})


def spread(table, n):
    """Return n rows that are spread evenly over a table, the first and the last among them."""
    return table.iloc[np.unique(np.linspace(0, len(table) - 1, min(n, len(table))).round().astype(int))]


def plot_counties(table, mean):
    """Plot no pooling against partial pooling, county by county."""
    figure = Figure(figsize=(8.5, 0.26 * len(table) + 1.8), layout="constrained")
    ax = figure.subplots()
    place = np.arange(len(table))
    bars = np.abs(table[["low", "high"]].to_numpy().T - table["partial"].to_numpy())
    ax.axvline(mean, color=LINE, linestyle="--", label="mean of all counties")
    ax.hlines(place, table["none"], table["partial"], color=NONE, alpha=0.4, linewidth=1)
    ax.scatter(table["none"], place, s=30, facecolors="none", edgecolors=NONE, label="no pooling", zorder=3)
    ax.errorbar(
        table["partial"], place, xerr=bars, fmt="o", markersize=4.5, color=PARTIAL, elinewidth=1, zorder=4,
        label="partial pooling, 95 % interval",
    )  # fmt: skip
    ax.set_yticks(place, [f"{county.title()} ({homes})" for county, homes in table["homes"].items()], fontsize=9)
    ax.set_ylim(len(table), -1)
    ax.set_ylabel("county (number of homes)")
    ax.set_xlabel("log radon in a basement")
    figure.suptitle("Counties with few homes are pulled towards the mean of all")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def plot_sizes(table, mean, model):
    """Plot estimates and shrinkage against the number of homes."""
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.axhline(mean, color=LINE, linestyle="--", label="mean of all counties")
    left.scatter(table["homes"], table["none"], s=30, facecolors="none", edgecolors=NONE, label="no pooling")
    left.scatter(table["homes"], table["partial"], s=20, color=PARTIAL, label="partial pooling")
    left.set_ylabel("log radon in a basement")
    left.set_title("The extremes of no pooling are small counties")
    left.legend()

    homes = np.geomspace(1, table["homes"].max(), 200)
    between, within = model.group_sd_["county"].iloc[0] ** 2, model.sigma_**2
    right.plot(
        homes,
        between / (between + within / homes),
        color=LINE,
        label="$\\tau^2 / (\\tau^2 + \\sigma^2 / n)$, all homes basements",
    )
    right.scatter(table["homes"], table["own weight"], s=20, color=PARTIAL, label="counties (some homes: first floor)")
    right.set_ylim(0, 1)
    right.set_ylabel("weight of the county's own homes")
    right.set_title("The more homes, the less a county borrows")
    right.legend(loc="lower right")
    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
        ax.minorticks_off()
        ax.set_xlabel("number of homes in the county")
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("examples/output"), help="folder of the figures")
    parser.add_argument("--all", action="store_true", help="print and draw all counties, not only some")
    arguments = parser.parse_args()
    folder = arguments.output

    X, y = load_radon(return_X_y=True, as_frame=True)
    X = X[["county", "floor"]]
    print("Root mean squared error on homes left out, 10-fold cross-validation repeated 3 times")
    print(cross_validated_errors(X, y).to_string(float_format="{:.3f}".format))
    print("A searched penalty on dummies is partial pooling of intercepts, by hand and without intervals.\n")

    models = {pooling: regressor(pooling).fit(X, y) for pooling in POOLINGS}
    # A county that is not among the 85 gets the mean of all.
    mean = models["partial"].predict(pd.DataFrame({"county": ["elsewhere"], "floor": [0]})).item()
    table = county_table(models, X)
    shown = table if arguments.all else spread(table, COUNTIES_PRINTED)
    print("Log radon in a basement; partial pooling with its 95 % interval and the weight of the county's own homes")
    headings = {"none": "no pooling", "partial": "partial", "low": "from", "high": "to", "complete": "complete"}
    print(shown[["homes", *headings, "own weight"]].rename(columns=headings).round(2).to_string())
    if len(shown) < len(table):
        print(f"... {len(shown)} of {len(table)} counties; --all shows the others")
    print(f"\nModel: {models['partial'].formula_}, mean of all counties {mean:.2f}")
    print(models["partial"].summary().round(3).to_string(), "\n")

    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in {
        "radon_counties.png": plot_counties(table if arguments.all else spread(table, COUNTIES_DRAWN), mean),
        "radon_county_sizes.png": plot_sizes(table, mean, models["partial"]),
    }.items():
        figure.savefig(folder / name, dpi=110)
        print("Saved", folder / name)


if __name__ == "__main__":
    main()
