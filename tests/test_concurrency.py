"""Fits at the same time, in threads or processes, are the fits one after the other; and nothing is left behind."""

import gc
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from joblib import Parallel, delayed, parallel_config
from threadpoolctl import threadpool_info, threadpool_limits

from hbsk import JamesSteinEstimator, PartialPoolingRegressor
from hbsk._engine import fit as _marginal_fit
from hbsk._engine import group_passes
from hbsk._engine.threads import one_thread_each


def rows(seed, n_groups=9):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, n_groups)
    g = np.repeat(np.arange(n_groups), sizes)
    frame = pd.DataFrame({"x": rng.normal(size=len(g)), "g": [f"g{j}" for j in g]})
    return frame, frame["x"].to_numpy() + rng.normal(size=n_groups)[g] + rng.normal(size=len(g))


def answers(seed):
    """Fit several models and return all that they say, as bytes."""
    frame, y = rows(seed)
    said = []
    for estimator in (
        PartialPoolingRegressor(group_features="g", slope_features="all"),
        PartialPoolingRegressor("x + (1 | g) + (0 + x | g)", priors={"sigma": 1.0}),
        PartialPoolingRegressor(group_features="g", pooling="none"),
        JamesSteinEstimator(group_features="g", method="sure"),
    ):
        estimator.fit(frame, y)
        said += [*estimator.predict(frame, return_std=True), estimator.predict_interval(frame)]
    said.append(estimator.shrinkage_["g"])
    return b"".join(np.ascontiguousarray(part).tobytes() for part in said)


@pytest.fixture(scope="module")
def one_by_one():
    return [answers(seed) for seed in range(6)]


def test_threads_give_the_same_bits(one_by_one):
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answers, list(range(6)) * 2)) == one_by_one * 2


def test_processes_give_the_same_bits():
    """loky's workers, which take their functions from this very file.

    One thread of linear algebra everywhere: with NumPy 2.1's OpenBLAS two round differently.
    """
    with threadpool_limits(1):
        expected = [answers(seed) for seed in range(2)]
    with parallel_config("loky", inner_max_num_threads=1):
        found = Parallel(n_jobs=2)(delayed(answers)(seed) for seed in range(2))
    assert found == expected


def test_one_estimator_answers_many_threads(one_by_one):
    """Moments of groups are computed when first asked for; all threads may be the first."""
    frame, y = rows(7, n_groups=30)
    fitted = PartialPoolingRegressor(group_features="g", slope_features="all").fit(frame, y)
    expected = PartialPoolingRegressor(group_features="g", slope_features="all").fit(frame, y)
    wanted = [part.tobytes() for part in expected.predict(frame, return_std=True)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: [p.tobytes() for p in fitted.predict(frame, return_std=True)], range(24)))
    assert all(said == wanted for said in found)


def test_threads_inside_of_a_fit_give_the_same_bits(monkeypatch):
    """Blocks of groups are summed in their order, whoever computes them."""
    frame, y = rows(11, n_groups=400)
    monkeypatch.setattr(group_passes, "BLOCK_CELLS", 32)
    said = []
    for threads in (1, 3):
        monkeypatch.setattr(group_passes, "n_threads", lambda threads=threads: threads)
        fitted = PartialPoolingRegressor(group_features="g", slope_features="all").fit(frame, y)
        said.append([part.tobytes() for part in fitted.predict(frame, return_std=True)])
    assert said[0] == said[1]


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_overlapping_limits_of_threads_leave_none_behind():
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        first, second = one_thread_each(), one_thread_each()
        first.__enter__()
        second.__enter__()
        assert set(blas_threads()) == {1}
        first.__exit__()
        assert set(blas_threads()) == {1}
        second.__exit__()
        assert blas_threads() == before


@pytest.mark.parametrize("n_columns", [30, 40])
def test_many_columns_are_fitted_without_threads_of_linear_algebra(rng, monkeypatch, n_columns):
    seen, inside = [], _marginal_fit._integrate

    def watched(*arguments):
        seen.append(blas_threads())
        return inside(*arguments)

    monkeypatch.setattr(_marginal_fit, "_integrate", watched)
    X = pd.DataFrame(rng.normal(size=(80, n_columns))).add_prefix("v").assign(g=np.repeat(np.arange(8), 10))
    with threadpool_limits(2, user_api="blas"):
        free = blas_threads()
        PartialPoolingRegressor(group_features="g").fit(X, rng.normal(size=80))
    assert seen == [free if n_columns < 32 else [1] * len(free)]


@pytest.mark.slow
def test_number_of_threads_does_not_change_answers_beyond_rounding():
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from tests.test_concurrency import rows\n"
        "from hbsk import PartialPoolingRegressor\n"
        "from hbsk._engine import fit as _marginal_fit\n"
        "frame, y = rows(3, n_groups=60)\n"
        "fitted = PartialPoolingRegressor(group_features='g', slope_features='all').fit(frame, y)\n"
        "print(*(float(value).hex() for value in fitted.predict(frame[:40])))\n"
    )
    said = []
    for threads in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-c", program],
            env={"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "PATH": ""},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        said.append([float.fromhex(word) for word in ran.stdout.split()])
    # The promise of the engine: the same bits at equal thread counts, 1e-9 otherwise.
    np.testing.assert_allclose(said[1], said[0], rtol=1e-9, atol=1e-9)


def test_fits_leave_no_trace_in_each_other():
    """A fit of other data in between changes nothing: no state is shared."""
    before = answers(21)
    frame, y = rows(22)
    PartialPoolingRegressor(group_features="g", priors={"sigma": 3.0}).fit(1e3 * frame.assign(g=1), y)
    np.random.default_rng(0)
    np.random.seed(123)  # noqa: NPY002 - the global generator must not matter
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert answers(21) == before
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_memory_stays_flat_over_many_fits():
    frame, y = rows(31)
    estimators = [
        PartialPoolingRegressor(group_features="g"),
        JamesSteinEstimator(group_features="g", method="empirical-bayes"),
    ]

    def fit_all(times):
        for k in range(times):
            for estimator in estimators:
                # Other labels each time: a cache by label would grow.
                estimator.fit(frame.assign(g=frame["g"] + str(k)), y + k)
                estimator.predict(frame[:3])

    tracemalloc.start()
    try:
        fit_all(12)
        gc.collect()
        first, _ = tracemalloc.get_traced_memory()
        fit_all(60)
        gc.collect()
        second, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A kept posterior has 30 kB; interned names and caches of bounded size may still fill up.
    assert second - first < 60 * 2_000
