"""Sample six binary and count models by NUTS, and store what their posteriors are: see generalized_nuts.json.

Run by hand, from the root of the repository, some ten minutes of CPU; needs nutpie:

    python -m tests.test_reference.nuts_reference                 # all, or the names of some

The models are stated by hbsk and sampled through Bambi, with the priors of the integrated fit. Means, sds and the ends
of central 90 % intervals are those of the draws; `mcse` are ArviZ's Monte Carlo errors of the four, in that order. Of
groups it is the probability, or the rate, of the first row of each.
"""

import datetime
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from arviz_stats.base import array_stats
from scipy.special import expit

from hbsk._posterior.diagnostics import variance_names, variance_values
from tests.test_reference.generalized_models import MODELS, first_rows

FILE = Path(__file__).with_name("generalized_nuts.json")
CHAINS, TUNE = 4, 1500
SEED = 20261130
# Draws of each chain: effective ones are one in four to one in ten.
DRAWS = dict.fromkeys(MODELS, 12_000) | {"epil": 50_000, "bcg": 30_000, "grouseticks": 15_000}
OPTIONS = {"nuts_sampler": "nutpie", "target_accept": 0.9}
# The coefficients of grouseticks lie on ridges with the effects of 118 broods, one effective draw in twenty by the
# diagonal mass matrix; one in four, and of the coefficients more than one a draw, by one with directions of its own.
MORE = {"grouseticks": {"nuts": {"adaptation": "low_rank"}}}
LEVELS = (0.05, 0.95)


def described(draws: np.ndarray) -> dict[str, dict]:
    """Return what draws (chains, draws, k) say of each of k numbers."""
    axes = {"chain_axis": 0, "draw_axis": 1}
    errors = [array_stats.mcse(draws, method=method, **axes) for method in ("mean", "sd")]
    errors += [array_stats.mcse(draws, method="quantile", prob=level, **axes) for level in LEVELS]
    flat = draws.reshape(-1, draws.shape[2])
    columns = {
        "mean": flat.mean(axis=0),
        "sd": flat.std(axis=0, ddof=1),
        "lower": np.quantile(flat, LEVELS[0], axis=0),
        "upper": np.quantile(flat, LEVELS[1], axis=0),
        "mcse": np.column_stack(errors),
        "ess_bulk": np.floor(array_stats.ess(draws, method="bulk", **axes)),
        "ess_tail": np.floor(array_stats.ess(draws, method="tail", prob=LEVELS, **axes)),
        "r_hat": array_stats.rhat(draws, **axes),
    }
    return {name: np.asarray(values) for name, values in columns.items()}


def rounded(values, k):
    return {name: np.vectorize(lambda v: float(f"{v:.5g}"))(column[k]).tolist() for name, column in values.items()}


def sampled(name: str) -> dict:
    estimator, X, y, more = MODELS[name]()
    options = OPTIONS | MORE.get(name, {})
    estimator.set_params(
        inference="nuts",
        draws=DRAWS[name],
        tune=TUNE,
        chains=CHAINS,
        n_jobs=1,
        random_state=SEED,
        sampler_options=options,
    )
    start = time.process_time()
    estimator.fit(X, y, **more)
    cpu = time.process_time() - start
    posterior, specification = estimator._learnt.fitted.posterior, estimator._learnt.frame.specification
    factor = specification.factors[0].name
    nodes = posterior.variance_nodes()
    names = [*specification.common_columns, *variance_names(specification, nodes)[1:]]
    values = np.column_stack([posterior.common_mixture()[0], variance_values(specification, nodes)[:, 1:]])
    rows = first_rows(X, factor)
    predictors = [posterior.row_mixture(*law[1:4]).mean for law in estimator._rows(rows, None, True)[0].blocks()]
    predictor = np.concatenate(predictors, axis=1)
    response = np.exp(predictor) if posterior.family == "poisson" else expit(predictor)
    parameters, groups = (described(part.reshape(CHAINS, -1, part.shape[1])) for part in (values, response))
    return {
        "data": name,
        "formula": estimator.formula,
        "draws": f"{CHAINS} chains of {DRAWS[name]} after {TUNE}, {options}, seed {SEED}",
        "cpu": round(cpu, 1),
        "divergences": int(np.nanmax(estimator.diagnostics_["divergences"])),
        "least_ess": min(float(part[ess].min()) for part in (parameters, groups) for ess in ("ess_bulk", "ess_tail")),
        "largest_r_hat": round(max(float(part["r_hat"].max()) for part in (parameters, groups)), 5),
        "parameters": {label: rounded(parameters, k) for k, label in enumerate(names)},
        "groups": {str(label): rounded(groups, k) for k, label in enumerate(rows[factor])},
    }


def main() -> None:
    stored = json.loads(FILE.read_text(encoding="utf-8"))["models"] if FILE.exists() else []
    for name in sys.argv[1:] or MODELS:
        model = sampled(name)
        sys.stdout.write(f"{ {key: value for key, value in model.items() if key not in ('parameters', 'groups')} }\n")
        stored = [other for other in stored if other["data"] != name] + [model]
        content = {
            "made_by": "python -m tests.test_reference.nuts_reference",
            "versions": {package: version(package) for package in ("bambi", "pymc", "nutpie", "arviz-stats", "numpy")},
            "date": datetime.date.today().isoformat(),
            "models": sorted(stored, key=lambda model: list(MODELS).index(model["data"])),
        }
        FILE.write_text(as_text(content), encoding="utf-8")


def as_text(content: dict) -> str:
    """Return JSON with a line for every parameter and group."""
    models = content.pop("models")
    head = json.dumps(content, indent=1)[:-2]
    blocks = []
    for model in models:
        tables = []
        for key in ("parameters", "groups"):
            lines = [f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in model[key].items()]
            tables.append(f"  {json.dumps(key)}: {{\n" + ",\n".join(lines) + "\n  }")
        rest = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in model.items() if k not in ("parameters", "groups")]
        blocks.append(" {\n" + ",\n".join([*rest, *tables]) + "\n }")
    return head + ',\n "models": [\n' + ",\n".join(blocks) + "\n ]\n}\n"


if __name__ == "__main__":
    main()
