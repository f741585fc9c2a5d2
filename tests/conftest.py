"""What several test files share. Keep it small: a fixture used by one file belongs in that file."""

import gc
import os
import warnings

# Without it scikit-learn skips its checks of array API input; SciPy reads it once, when it is first imported.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
# PyTensor would keep a stack for each of its thousands of nodes.
os.environ.setdefault("PYTENSOR_FLAGS", "traceback__limit=0")

import numpy as np
import pytest

# Files that use the fixture `crossed`.
SAMPLED = ("arviz", "comparing_groups", "crossed_factors", "group_effects", "json")
# Files that share what takes a process seconds: compiling the model of `crossed`, importing scoringrules.
SHARED = {
    **{f"tests/test_{name}.py": "crossed" for name in SAMPLED},
    **{f"tests/test_{name}.py": "scoringrules" for name in ("docs", "examples", "model_selection", "scores")},
    "hbsk/model_selection/_compare.py": "scoringrules",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give files that share something to one process, as if they were one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return SHARED.get(file, file)

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_ignore_collect(collection_path, config):
    """Leave out the folders of which no test would run: a tenth of a collection."""
    left_out = f"not {collection_path.name}" in config.getoption("markexpr")
    return True if collection_path.name in ("slow", "engines") and left_out else None


def pytest_collection_finish():
    """Spare the garbage collector what was imported and collected: going through it again and again was a twentieth."""
    gc.freeze()


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a generator of its own for each test, with the same seed at every run."""
    return np.random.default_rng(20261122)


@pytest.fixture(scope="session")
def crossed():
    """Return a model of two factors, one with slopes, sampled by NUTS, and its rows: compiling it takes long."""
    import pandas as pd

    from hbsk import PartialPoolingRegressor
    from hbsk.exceptions import ConvergenceWarning

    rng = np.random.default_rng(5)
    X = pd.DataFrame(
        {"pupil": np.repeat(list("abcdefg"), 9), "x": rng.normal(size=63), "topic": np.tile([1, 2, 3], 21)}
    )
    pupils = dict(zip("abcdefg", rng.normal(size=7), strict=True))
    y = X["pupil"].map(pupils) + 0.5 * X["topic"] + 0.3 * X["x"] + 0.5 * rng.normal(size=63)
    model = PartialPoolingRegressor(
        "x + (x | pupil) + (1 | topic)",
        inference="nuts",
        chains=2,
        draws=150,
        tune=200,
        random_state=0,
        sampler_options={"target_accept": 0.9},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # chains this short
        return model.fit(X, y), X, y


@pytest.fixture(scope="session", params=["marginal", "nuts"])
def crossed_by_both(request, crossed):
    """Return that model and its rows, and the same model integrated."""
    from hbsk import PartialPoolingRegressor

    sampled, X, y = crossed
    return (sampled if request.param == "nuts" else PartialPoolingRegressor(sampled.formula).fit(X, y)), X, y


@pytest.fixture
def pyplot():
    """Draw without a screen, and leave no figure open."""
    import matplotlib as mpl

    with mpl.rc_context({"backend": "Agg"}):
        import matplotlib.pyplot as plt

        yield plt
        plt.close("all")
