"""A fit by the marginal engine loads no sampler, no plotting and no Bambi: each of them takes seconds to import."""

import subprocess
import sys

import pytest

HEAVY = {"arviz", "arviz_stats", "bambi", "matplotlib", "numba", "pymc", "pytensor", "xarray"}
FITS = {
    "formula": "PartialPoolingRegressor('log_radon ~ floor + (floor | county)').fit(X, y)",
    "text category": """
X['where'] = np.where(X['floor'] > 0, 'first floor', 'basement')
PartialPoolingRegressor(group_features='county', slope_features=['where']).fit(X[['county', 'where']], y)""",
    "answers": """
model = PartialPoolingRegressor(group_features='county').fit(X[['county', 'floor']], y)
model.predict(X[['county', 'floor']], return_std=True), model.group_effects(), model.shrinkage_
from_json(to_json(model))
JamesSteinEstimator(group_features='county').fit(X[['county']], y)""",
}


@pytest.mark.parametrize("kind", FITS)
def test_a_first_fit_loads_nothing_heavy(kind):
    code = f"""
import sys
import numpy as np
from hbsk import JamesSteinEstimator, PartialPoolingRegressor, from_json, to_json
from hbsk.datasets import load_radon
X, y = load_radon(return_X_y=True, as_frame=True)
{FITS[kind]}
print(*sorted({{name.split('.')[0] for name in sys.modules}} & set({sorted(HEAVY)})))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split()
