"""Compare the marginal engine with NUTS, the same model through Bambi and PyMC, on ten real data sets.

    python -m benchmarks.marginal_against_nuts                      # all ten: half an hour on two cores
    python -m benchmarks.marginal_against_nuts sleepstudy pastes    # some of them
    python -m benchmarks.marginal_against_nuts --write              # and store the table in docs/development

For every hyper-parameter and common coefficient: mean and sd by both engines, and their differences in units of the
combined Monte Carlo error (z). Where both are right, z is standard normal: 5 % beyond 2, hardly one beyond 4. The data
sets that hbsk does not ship are in tests/test_reference/data.
"""

from __future__ import annotations

import argparse
import datetime
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from hbsk import PartialPoolingRegressor
from hbsk._engine.integrate import monte_carlo_error
from hbsk._posterior.diagnostics import variance_names, variance_values
from tests.test_reference.reference import reference_data

TABLE = Path(__file__).parents[1] / "docs" / "development" / "marginal_against_nuts.csv"

# Data set, formula, sampler options where the defaults leave divergences.
MODELS = {
    "sleepstudy": ("Reaction ~ Days + (Days | Subject)", {}),
    "radon": ("log_radon ~ floor + uranium + (floor | county)", {}),
    # Ages of 8 to 14 years, not centred, leave NUTS with divergences and an R-hat of 1.04.
    "orthodont": ("distance ~ center(age) * Sex + (center(age) | Subject)", {"target_accept": 0.99}),
    "oxboys": ("height ~ age + (age | Subject)", {}),
    "machines": ("score ~ Machine + (0 + Machine | Worker)", {}),
    "exam": ("normexam ~ standLRT + (standLRT | school)", {}),
    "dyestuff": ("Yield ~ 1 + (1 | Batch)", {"target_accept": 0.99}),
    "dyestuff2": ("Yield ~ 1 + (1 | Batch)", {"target_accept": 0.99}),
    "pastes": ("strength ~ 1 + (1 | batch:cask)", {}),
    "eight_schools": ("effect ~ 1 + (1 | school)", {"target_accept": 0.99}),
}


def fit_both(name: str, draws: int, chains: int, seed: int = 20261122) -> pd.DataFrame:
    """Return one row for each parameter of a model."""
    formula, options = MODELS[name]
    data = reference_data(name)
    response = formula.split("~")[0].strip()
    errors = data["standard_error"] if name == "eight_schools" else None
    models, seconds = {}, {}
    for engine in ("marginal", "nuts"):
        estimator = PartialPoolingRegressor(
            formula, inference=engine, draws=draws, chains=chains, random_state=seed, sampler_options=options
        )
        if engine == "marginal":
            estimator.set_params(sampler_options=None)
            estimator.fit(data.drop(columns=response), data[response], standard_error=errors)  # imports are not counted
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the table holds R-hat, ESS and divergences
            models[engine] = estimator.fit(data.drop(columns=response), data[response], standard_error=errors)
        seconds[engine] = time.perf_counter() - start
    table = moments(models["marginal"]).add_suffix("_marginal").join(moments(models["nuts"]).add_suffix("_nuts"))
    for what in ("mean", "sd"):
        difference = table[f"{what}_marginal"] - table[f"{what}_nuts"]
        table[f"z_{what}"] = difference / np.hypot(table[f"{what}_error_marginal"], table[f"{what}_error_nuts"])
    diagnostics = models["nuts"].diagnostics_.loc[table.index]
    table["r_hat"], table["ess_nuts"] = diagnostics["r_hat"], diagnostics["ess_bulk"]
    table["ess_marginal"] = models["marginal"].diagnostics_.loc[table.index, "ess_bulk"]
    table["divergences"] = int(np.nanmax(diagnostics["divergences"]))
    for engine, value in seconds.items():
        table[f"seconds_{engine}"] = value
    table.insert(0, "parameter", table.index)
    table.insert(0, "formula", formula)
    table.insert(0, "data", name)
    return table.reset_index(drop=True)


def moments(estimator: PartialPoolingRegressor) -> pd.DataFrame:
    """Return mean, sd and their Monte Carlo errors, by parameter."""
    specification, posterior = estimator._learnt.frame.specification, estimator._learnt.fitted.posterior
    common_mean, common_sd = posterior.common_mixture()
    nodes = posterior.variance_nodes()
    names, values = variance_names(specification, nodes), variance_values(specification, nodes)
    free = np.isin(names, estimator.diagnostics_.index)
    means = np.concatenate([common_mean, values[:, free]], axis=1)
    spreads = np.concatenate([common_sd, np.zeros((len(values), free.sum()))], axis=1)
    index = [*specification.common_columns, *np.array(names)[free]]
    mean = posterior.weight @ means
    # Each node is a normal law of its own: squared deviations are those of its mean and its variance.
    squares = (means - mean) ** 2 + spreads**2
    sd = np.sqrt(posterior.weight @ squares)
    if hasattr(posterior, "replicate"):
        errors = [monte_carlo_error(v, posterior.weight, posterior.replicate)[2] for v in (means, squares)]
    else:
        errors = [_mcse(v, posterior.n_chains) for v in (means, squares)]
    columns = {"mean": mean, "sd": sd, "mean_error": errors[0], "sd_error": errors[1] / (2 * sd)}
    return pd.DataFrame(columns, index=index)


def _mcse(values: np.ndarray, n_chains: int) -> np.ndarray:
    """Return ArviZ's Monte Carlo error of the mean of draws ordered by chain, (n_draws, k)."""
    from arviz_stats.base import array_stats

    return np.array([array_stats.mcse(column.reshape(n_chains, -1), method="mean") for column in values.T], dtype=float)


def report(table: pd.DataFrame) -> str:
    """Say how far the two engines are apart."""
    lines = [
        f"{'data set':14} {'parameters':>10} {'max |z| mean':>13} {'max |z| sd':>11} {'min ESS':>8} {'seconds':>15}"
    ]
    for name, part in table.groupby("data", sort=False):
        z_mean, z_sd = part["z_mean"].abs().max(), part["z_sd"].abs().max()
        took = f"{part['seconds_marginal'].iloc[0]:.2f} / {part['seconds_nuts'].iloc[0]:.0f}"
        lines.append(f"{name:14} {len(part):10} {z_mean:13.1f} {z_sd:11.1f} {part['ess_nuts'].min():8.0f} {took:>15}")
    z = np.concatenate([table["z_mean"], table["z_sd"]])
    lines.append(f"{len(z)} comparisons: |z| > 2 in {np.mean(np.abs(z) > 2):.1%}, largest {np.abs(z).max():.1f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(MODELS), help="data sets; all by default")
    parser.add_argument("--draws", type=int, default=1000, help="draws of each chain")
    parser.add_argument("--chains", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="store the table, row by row, as it grows")
    args = parser.parse_args()
    tables = []
    for name in args.names:
        tables.append(fit_both(name, args.draws, args.chains))
        print(report(tables[-1]), flush=True)
        if args.write:
            _store(pd.concat(tables), args)
    print(report(pd.concat(tables)))


def _store(table: pd.DataFrame, args: argparse.Namespace) -> None:
    """Write the table below a comment that says what made it; data sets stored by the same versions are kept."""
    packages = ("hbsk", "bambi", "pymc", "arviz", "numpy", "scipy", "pandas")
    made_by = f"python -m benchmarks.marginal_against_nuts --write --draws {args.draws} --chains {args.chains}"
    versions = ", ".join(f"{package} {_version(package)}" for package in packages)
    head = f"# {made_by}; {datetime.date.today().isoformat()}; {versions}\n"
    if TABLE.exists() and TABLE.read_text(encoding="utf-8").partition("\n")[0] == head.rstrip():
        stored = pd.read_csv(TABLE, comment="#")
        table = pd.concat([stored[~stored["data"].isin(table["data"])], table])
        table = table.sort_values("data", key=lambda names: names.map(list(MODELS).index), kind="stable")
    TABLE.write_text(head + table.to_csv(index=False, float_format="%.6g"), encoding="utf-8")


def _version(package: str) -> str:
    if package == "hbsk":
        from hbsk import __version__

        return __version__
    return version(package)


if __name__ == "__main__":
    main()
