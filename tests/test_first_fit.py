"""Imports and marginal fits load no sampler, no plotting and no Bambi: each of them takes seconds to import.

One process goes through the stages in order; what each may load is what those before it have loaded, or lighter.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hbsk

HEAVY = {
    "arviz",
    "arviz_base",
    "arviz_stats",
    "bambi",
    "matplotlib",
    "numba",
    "pymc",
    "pytensor",
    "scoringrules",
    "xarray",
}
# Stage -> code, and whether formulae, which reads formulas and codes text, may be there.
STAGES = {
    "reading": ("import hbsk._data.rows", False),
    "packages": ("import hbsk.model_selection, hbsk.predictive_checks, hbsk.plotting", False),
    "written formulas": (
        "from hbsk._model.formula import write_formula; import hbsk._model.priors\n"
        "write_formula(['x', 'g'], ['g'], ['x'])",
        False,
    ),
    "columns": (
        """
import numpy as np
from hbsk import JamesSteinEstimator, PartialPoolingRegressor, from_json, to_json
from hbsk.datasets import load_radon
X, y = load_radon(return_X_y=True, as_frame=True)
X = X[['county', 'floor']]
model = PartialPoolingRegressor(group_features='county', slope_features=['floor']).fit(X, y)
model.predict(X, return_std=True), model.predict_interval(X[:5]), model.sample_y(X[:5]), model.summary()
model.group_effects(), model.shrinkage_, model.rank_groups()
from_json(to_json(model)).predict(X)
JamesSteinEstimator(group_features='county').fit(X, y)""",
        False,
    ),
    "formula": ("PartialPoolingRegressor('log_radon ~ floor + (floor | county)').fit(X, y)", True),
    "text category": (
        "X['where'] = np.where(X['floor'] > 0, 'first floor', 'basement')\n"
        "PartialPoolingRegressor(group_features='county', slope_features=['where']).fit(X[['county', 'where']], y)",
        True,
    ),
}


@pytest.fixture(scope="module")
def loaded():
    """Return what stands in sys.modules after each stage, by stage."""
    look = "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    code = "import sys\n" + "\n".join(f"{code}\n{look}" for code, _ in STAGES.values())
    env = os.environ | {"PYTHONPATH": str(Path(hbsk.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(STAGES, map(str.split, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_heavy_is_loaded(loaded, stage):
    assert not HEAVY & set(loaded[stage])
    assert STAGES[stage][1] or "formulae" not in loaded[stage]
