"""Pareto smoothed weights: those of ArviZ, without importing it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from arviz_stats.base import array_stats
from scipy import stats

import hbsk
from hbsk._engine.pareto import smoothed_weights


def log_weights(kind, n, rng):
    match kind:
        case "normal":
            return rng.normal(size=n) * rng.choice([0.01, 0.3, 1, 3, 10])
        case "pareto":
            shape = rng.choice([-0.8, -0.3, 0.2, 0.7, 1.5])
            return np.log(stats.genpareto(shape, loc=0.1).rvs(n, random_state=rng))
        case "with zeros":
            return np.where(np.arange(n) % 7, rng.normal(size=n), -np.inf)
        case "bounded":
            return -rng.exponential(size=n) * rng.choice([1e-6, 1, 20])
        case "one above all":
            return np.append(rng.normal(size=n - 1), 50.0)


@pytest.mark.parametrize("kind", ["normal", "pareto", "with zeros", "bounded", "one above all"])
def test_weights_and_k_are_those_of_arviz(kind):
    rng = np.random.default_rng(len(kind))
    for n in [25, 26, 60, 225, 226, 512, 1024, 4000] * 3:
        log_weight = log_weights(kind, n, rng) + 100 * rng.normal()
        weight, k = smoothed_weights(log_weight)
        wanted, wanted_k = array_stats.psislw(-log_weight)  # it smooths the weights of exp(-argument)
        np.testing.assert_allclose(weight, np.exp(wanted), atol=1e-12)
        # NaN where a quarter of the tail is one weight; a mean of logarithms near zero has fewer digits
        assert k == pytest.approx(wanted_k, rel=1e-11, abs=1e-12, nan_ok=True)


def test_a_flat_top_is_left_alone():
    # ArviZ raises "All tail values are the same"
    log_weight = np.minimum(np.random.default_rng(0).normal(size=400), 0.3)
    weight, k = smoothed_weights(log_weight)
    np.testing.assert_allclose(weight, np.exp(log_weight) / np.exp(log_weight).sum(), rtol=1e-14)
    assert k == 0.0


def test_a_fit_that_is_integrated_imports_no_engine_and_no_arviz():
    code = """
import sys
import numpy as np, pandas as pd
from hbsk import PartialPoolingRegressor
rng = np.random.default_rng(0)
X = pd.DataFrame({"x": rng.normal(size=200), "g": np.repeat(np.arange(10), 20)})
model = PartialPoolingRegressor(group_features=["g"], slope_features=["x"]).fit(X, X["x"] + rng.normal(size=200))
model.predict(X, return_std=True), model.predict_interval(X[:5]), model.summary()
heavy = {"bambi", "pymc", "pytensor", "numba", "matplotlib", "arviz", "arviz_base", "arviz_stats", "xarray", "formulae"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    env = os.environ | {"PYTHONPATH": str(Path(hbsk.__file__).parents[1])}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=env)
