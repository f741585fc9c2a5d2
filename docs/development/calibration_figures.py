"""Run simulation-based calibration and draw its figures; from the root of the repository.

python -m docs.development.calibration_figures                 # figures and tables from calibration.json
python -m docs.development.calibration_figures --run 300       # fit again first: ten minutes
python -m docs.development.calibration_figures --errors 500    # Monte Carlo errors against long runs: half an hour
python -m docs.development.calibration_figures --james-stein   # coverage of JamesSteinEstimator: ten minutes
"""

from __future__ import annotations

import argparse
import datetime
import json
from importlib.metadata import version
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
STORE = HERE / "calibration.json"
# Nodes of a run that Monte Carlo errors are measured against; tests/slow has more.
LONG_RUN = 12_000
BLUE, GREY, RED = "#33658a", "#bbbbbb", "#c1292e"


# Runs


def summarise(uniform, covered):
    """Reduce the results of `tests.calibration.calibrate` to what figures and tables need."""
    from tests.calibration import coverage_error, ecdf_counts, uniformity_p_value

    quantities = {
        name: {"p_value": uniformity_p_value(values), "counts": ecdf_counts(values).tolist()}
        for name, values in uniform.items()
    }
    coverages = [
        [groups, kind, coverage, float(hits.mean()), float(coverage_error(hits, coverage))]
        for (groups, kind, coverage), hits in covered.items()
    ]
    return {"n_fits": len(next(iter(uniform.values()))), "quantities": quantities, "coverages": coverages}


def run(n_fits):
    from tests.calibration import SETTINGS, calibrate

    return {name: summarise(*calibrate(setting, range(n_fits))) for name, setting in SETTINGS.items()}


def run_errors(n_problems):
    import pytest

    from tests.honesty import deviations, random_problem

    with pytest.MonkeyPatch.context() as patch:
        return summarise_errors(
            [deviations(*random_problem(np.random.default_rng([7, i])), patch, LONG_RUN) for i in range(n_problems)]
        )


def summarise_errors(found):
    """Reduce what `tests.honesty.deviations` returns to counts."""
    reliable = [(ratio, ratio * relative) for fit, ratio, relative in found if fit.reliable]
    ratios, errors = (np.concatenate(part) for part in zip(*reliable, strict=True))
    return {
        "problems": len(found),
        "reliable": len(reliable),
        "values": len(ratios),
        "beyond": {str(k): int(np.sum(ratios > k)) for k in (1, 2, 3, 6)},
        "median_error_in_sds": float(np.median(errors)),
        "largest_error_in_sds": float(errors.max()),
    }


def run_james_stein():
    from tests.slow import test_james_stein_coverage as module

    results = []
    for name, options in module.SETTINGS.items():
        for n_groups, tau in module.SIZES:
            found = module.coverage(n_groups, tau, **options)
            for (kind, groups), shares in found.items():
                for wanted, (share, error) in zip(module.COVERAGES, shares, strict=True):
                    results.append([name, n_groups, tau, groups, kind, wanted, float(share), float(error)])
    return results


def store(**parts):
    """Replace parts of the stored results, and say what made them."""
    stored = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}
    packages = ("numpy", "scipy", "scikit-learn", "bambi", "arviz")
    stored |= parts | {
        "date": datetime.date.today().isoformat(),
        "versions": {package: version(package) for package in packages},
    }
    STORE.write_text(json.dumps(stored), encoding="utf-8")


# Figures


def draw_ranks(settings, path):
    """Draw the ECDF of every quantity's ranks less the diagonal, within the simultaneous envelope."""
    from tests.calibration import envelope, evaluation_points

    n_columns = 4
    n_rows = -(-len(settings) // n_columns)
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=(9.6, 2.3 * n_rows), sharex=True, sharey=True, layout="constrained", squeeze=False
    )
    for axis, (name, setting) in zip(axes.flat, settings.items(), strict=False):
        n = setting["n_fits"]
        points = np.concatenate([[0.0], evaluation_points(n), [1.0]])
        for probability, shade in ((0.95, 0.35), (0.999, 0.15)):
            low, high = (np.concatenate([[0.0], edge, [1.0]]) - points for edge in envelope(n, probability))
            axis.fill_between(points, low, high, color=GREY, alpha=shade, linewidth=0, step=None)
        for quantity in setting["quantities"].values():
            off = quantity["p_value"] < 0.05
            share = np.concatenate([[0.0], np.array(quantity["counts"]) / n, [1.0]])
            axis.plot(points, share - points, color=RED if off else BLUE, linewidth=0.7, alpha=0.9 if off else 0.6)
        p_values = np.array([quantity["p_value"] for quantity in setting["quantities"].values()])
        axis.set_title(f"{name}\n{len(p_values)} quantities, {np.sum(p_values < 0.05)} beyond 95 %", fontsize=8)
        axis.axhline(0, color="black", linewidth=0.5)
        axis.tick_params(labelsize=7)
    for axis in axes.flat[len(settings) :]:
        axis.set_visible(False)
    figure.supxlabel("normalised rank of the true value", fontsize=8)
    figure.supylabel("ECDF − diagonal", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_coverage(rows, path, *, title_of, margin=0.09):
    """Draw observed less nominal coverage with two standard errors; one panel for known, one for new groups.

    Each row is (setting, groups, kind, nominal, share, error).
    """
    settings = list(dict.fromkeys(row[0] for row in rows))
    kinds = list(dict.fromkeys(row[2:4] for row in rows if row[2] == "prediction"))
    kinds += [kind for kind in dict.fromkeys(row[2:4] for row in rows) if kind not in kinds]
    figure, axes = plt.subplots(
        1, 2, figsize=(9.6, 0.34 * len(settings) + 1.5), sharey=True, sharex=True, layout="constrained"
    )
    colours = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, len(kinds)))
    for axis, groups in zip(axes, ("known", "new"), strict=True):
        for k, kind in enumerate(kinds):
            chosen = [row for row in rows if row[1] == groups and row[2:4] == kind]
            place = [settings.index(row[0]) + 0.7 * (k / max(len(kinds) - 1, 1) - 0.5) for row in chosen]
            off, error = ([row[4] - row[3] for row in chosen], [2 * row[5] for row in chosen])
            marker = "o" if kind[0] == "prediction" else "s"
            axis.errorbar(
                off,
                place,
                xerr=error,
                fmt=marker,
                markersize=3,
                color=colours[k],
                linewidth=0.9,
                label=f"{kind[0]}, {kind[1]:.0%}",
            )
        axis.axvline(0, color="black", linewidth=0.6)
        axis.set_title(title_of(groups), fontsize=9)
        axis.set_yticks(range(len(settings)), settings, fontsize=8)
        axis.tick_params(axis="x", labelsize=7)
        axis.set_xlim(-margin, margin)
        axis.set_xlabel("observed less nominal coverage, ± 2 standard errors", fontsize=8)
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(kinds), fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


# Tables


def print_tables(stored):
    print("| setting | quantities | p < 0.05 | smallest p | 50 % | 80 % | 90 % | 95 % |")
    print("|---|---|---|---|---|---|---|---|")
    for name, setting in stored["settings"].items():
        p_values = {quantity: value["p_value"] for quantity, value in setting["quantities"].items()}
        worst = min(p_values, key=p_values.get)
        cells = []
        for coverage in (0.5, 0.8, 0.9, 0.95):
            known, new = (
                next(row[3] for row in setting["coverages"] if row[:3] == [groups, "prediction", coverage])
                for groups in ("known", "new")
            )
            cells.append(f"{known:.1%} / {new:.1%}")
        low = sum(p < 0.05 for p in p_values.values())
        worst_label = worst.replace("|", "\\|")
        print(f"| {name} | {len(p_values)} | {low} | {p_values[worst]:.3f} ({worst_label}) | {' | '.join(cells)} |")
    if "errors" in stored:
        found = stored["errors"]
        shares = ", ".join(f"{count / found['values']:.2%} beyond {k}" for k, count in found["beyond"].items())
        print(f"\nMonte Carlo errors: {found} ({shares} reported errors)")
    every = [q["p_value"] for setting in stored["settings"].values() for q in setting["quantities"].values()]
    print(f"\n{len(every)} quantities, {np.mean(np.array(every) < 0.05):.1%} with p < 0.05, smallest {min(every):.5f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=int, metavar="N", help="fit N data sets of each setting")
    parser.add_argument("--errors", type=int, metavar="N", help="compare N random problems with long runs")
    parser.add_argument("--james-stein", action="store_true", help="run the coverage of JamesSteinEstimator")
    args = parser.parse_args()
    if args.run:
        store(settings=run(args.run))
    if args.errors:
        store(errors=run_errors(args.errors))
    if args.james_stein:
        store(james_stein=run_james_stein())
    stored = json.loads(STORE.read_text(encoding="utf-8"))
    draw_ranks(stored["settings"], HERE / "calibration_ranks.png")
    rows = [
        (name, groups, kind, wanted, share, error)
        for name, setting in stored["settings"].items()
        for groups, kind, wanted, share, error in setting["coverages"]
    ]
    draw_coverage(rows, HERE / "calibration_coverage.png", title_of="{} groups".format)
    if "james_stein" in stored:
        rows = [
            (f"{name}, J = {n_groups}, tau = {tau:g}", groups, kind, wanted, share, error)
            for name, n_groups, tau, groups, kind, wanted, share, error in stored["james_stein"]
            if wanted in (0.5, 0.9)
        ]
        draw_coverage(rows, HERE / "calibration_james_stein.png", title_of="{} groups".format, margin=0.25)
    print_tables(stored)


if __name__ == "__main__":
    main()
