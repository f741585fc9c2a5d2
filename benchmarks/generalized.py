"""Time the full posterior of binary and count models against point estimates of lme4 and GPBoost, in one run.

    python -m benchmarks.generalized            # seven models of six data sets

CPU seconds, medians of fits that take turns; a first fit of each is not counted. glmer has nine points of quadrature,
one with slopes, where it takes no more (needs R with lme4); GPBoost has the method of Laplace and intercepts alone. The
models are those that tests hold to NUTS (`tests/test_reference/generalized_models.py`), hbsk gets a DataFrame with
labels of text, the others numbers. Packages that are not installed are left out.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from tests.test_reference.generalized_models import MODELS, contraception_slopes

RUNS = 7
WORKLOADS = MODELS | {"contraception_slopes": contraception_slopes}
GLMER = """
suppressMessages(library(lme4))
data <- read.csv("{data}", stringsAsFactors = TRUE)
fit <- function() suppressMessages(suppressWarnings(glmer({formula}, data, family = {family}, nAGQ = {points})))
fit()
cat(median(sapply(1:3, function(i) sum(system.time(fit())[1:2]))))
"""


def stated(name: str) -> tuple[pd.DataFrame, str, str]:
    """Return the data with y and size, the right-hand side and the family of a model."""
    estimator, X, y, more = WORKLOADS[name]()
    size = next(iter(more.values()), 1)
    y = (y == "Y").astype(float) if np.asarray(y).dtype.kind not in "iuf" else y
    family = getattr(estimator, "family", "binomial")
    return X.assign(y=np.asarray(y, dtype=float), size=size), estimator.formula, family


def hbsk_fit(name: str):
    estimator, X, y, more = WORKLOADS[name]()
    return lambda: estimator.fit(X, y, **more)


def gpboost_fit(name: str):
    import gpboost

    data, _, family = stated(name)
    estimator, *rest = WORKLOADS[name]()
    estimator.fit(*rest[:2], **rest[2])
    frame, rows = estimator._learnt.frame, estimator._rows(rest[0], None, True)[0]
    x = np.concatenate([block[1] for block in rows.blocks()])
    groups = pd.factorize(rest[0][frame.specification.factors[0].name])[0]
    y, size = data["y"].to_numpy(), data["size"].to_numpy(dtype=float)
    weighted = family == "binomial" and size.max() > 1
    likelihood = "poisson" if family == "poisson" else "binomial_logit" if weighted else "bernoulli_logit"
    options = {"weights": size} if weighted else {}

    def fit():
        model = gpboost.GPModel(group_data=groups, likelihood=likelihood, **options)
        model.fit(y=y / size if weighted else y, X=x)

    return fit


def cpu_seconds(fits: dict) -> dict[str, float]:
    """Return the median of several fits of each, which take turns."""
    taken: dict[str, list[float]] = {name: [] for name in fits}
    for turn in range(RUNS + 1):
        for name, fit in fits.items():
            start = time.process_time()
            fit()
            if turn:
                taken[name].append(time.process_time() - start)
    return {name: median(seconds) for name, seconds in taken.items()}


def glmer_seconds(name: str) -> float:
    data, formula, family = stated(name)
    left = "cbind(y, size - y)" if family == "binomial" else "y"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.csv"
        data.to_csv(file, index=False)
        points = 1 if "slopes" in name or name == "bcg" else 9
        script = GLMER.format(data=file, formula=f"{left} ~ {formula}", family=family, points=points)
        found = subprocess.run(["Rscript", "-e", script], check=True, capture_output=True, text=True)
    return float(found.stdout.split()[-1])


def main() -> None:
    for name in WORKLOADS:
        fits = {"hbsk": hbsk_fit(name)}
        if importlib.util.find_spec("gpboost") and name not in ("bcg", "contraception_slopes"):
            fits["GPBoost"] = gpboost_fit(name)
        seconds = cpu_seconds(fits)
        if shutil.which("Rscript"):
            seconds["glmer"] = glmer_seconds(name)
        own = seconds.pop("hbsk")
        others = "".join(f"   {peer} {taken:.4f} s, hbsk / it {own / taken:.2f}" for peer, taken in seconds.items())
        print(f"{name:22s} hbsk {own:.4f} s{others}", flush=True)


if __name__ == "__main__":
    main()
