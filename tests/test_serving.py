"""Saved estimators answer where only NumPy, SciPy, scikit-learn, pandas and narwhals are installed beside hbsk."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from hbsk import (
    JamesSteinEstimator,
    PartialPoolingClassifier,
    PartialPoolingCountRegressor,
    PartialPoolingEncoder,
    PartialPoolingRegressor,
    to_json,
)

RNG = np.random.default_rng(0)
GROUP = np.repeat(np.arange(8), 12)
X = pd.DataFrame(
    {"x": RNG.normal(size=96), "kind": RNG.choice(list("pqr"), 96), "g": GROUP, "h": np.tile(list("uvwx"), 24)}
)
Y = RNG.normal(size=8)[GROUP] + X["x"] + RNG.normal(size=96)
# What is fitted to which response, and how it answers.
SERVED = {
    "columns": (PartialPoolingRegressor(group_features="g"), ["x", "kind", "g"], Y, "predict"),
    "formula": (PartialPoolingRegressor("np.exp(x) + C(kind) + bs(x, df=4) + (x | g)"), None, Y, "predict"),
    "factors": (PartialPoolingRegressor("x + (1 | g) + (1 | h)"), None, Y, "predict"),
    "classes": (PartialPoolingClassifier(group_features="g"), ["x", "g"], Y > 0, "predict_proba"),
    "counts": (PartialPoolingCountRegressor(group_features="g"), ["x", "g"], np.round(np.exp(Y / 2)), "predict"),
    "means": (JamesSteinEstimator(group_features="g"), ["g"], Y, "predict"),
    "labels": (PartialPoolingEncoder(), ["g", "h"], Y, "transform"),
}
# What the installation for serving leaves out.
LEFT_OUT = [
    "arviz",
    "arviz_base",
    "arviz_stats",
    "bambi",
    "formulae",
    "matplotlib",
    "numba",
    "pymc",
    "pytensor",
    "xarray",
]
SERVER = """
import json, sys
for name in {left_out}:
    sys.modules[name] = None  # an import of it fails
import numpy as np, pandas as pd
from hbsk import from_json
for line in sys.stdin:
    document, rows, method = json.loads(line)
    model, rows = from_json(document), pd.DataFrame(rows)
    answer = getattr(model, method)(rows)
    for table in ("group_effects", "summary"):
        if hasattr(model, table):
            assert len(getattr(model, table)())
    print(json.dumps(np.asarray(answer).tolist()))
"""


@pytest.fixture(scope="module")
def served():
    """What a process without the heavy packages answers, and what the estimators themselves do."""
    lines, expected = [], []
    for estimator, columns, y, method in SERVED.values():
        rows = X if columns is None else X[columns]
        fitted = estimator.fit(rows, y)
        expected.append(np.asarray(getattr(fitted, method)(rows[:5])))
        lines.append(json.dumps([to_json(fitted), rows[:5].to_dict(orient="list"), method]))
    command = [sys.executable, "-W", "error", "-c", SERVER.format(left_out=LEFT_OUT)]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(SERVED, zip(map(json.loads, done.stdout.splitlines()), expected, strict=True), strict=True))


@pytest.mark.parametrize("name", SERVED)
def test_answers_need_nothing_heavy(served, name):
    answer, expected = served[name]
    np.testing.assert_allclose(answer, expected, rtol=1e-12, atol=1e-14)
