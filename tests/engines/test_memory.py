"""A file larger than the memory that a process may have is fitted and predicted, by Polars and by DuckDB."""

import json
import os
import subprocess
import sys

import duckdb
import pytest

pytestmark = pytest.mark.engines

N_ROWS, N_GROUPS = 32_000_000, 10_000
# Bytes of data that the process may have, its imports included; the file has more.
LIMIT = 900 * 2**20

FITS_AND_PREDICTS = """
import json, resource, sys
import hbsk
engine, path, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
if engine == "polars":
    import polars
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    lazy = polars.scan_parquet(path)
else:
    import duckdb
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    lazy = duckdb.connect(config={"threads": 2, "memory_limit": "300MB"}).read_parquet(path)
model = hbsk.PartialPoolingRegressor("y ~ x1 + x2 + x3 + (x1 | g)").fit(lazy)
predicted = model.predict(lazy, return_std=True)
if engine == "polars":
    names = ["prediction", "prediction_std"]
    query = predicted.select(polars.len().alias("n"), *(polars.col(name).mean() for name in names))
    n, mean, std = query.collect(engine="streaming").row(0)
else:
    n, mean, std = predicted.aggregate("count(*), avg(prediction), avg(prediction_std)").fetchall()[0]
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print()  # after a bar of progress
print(json.dumps({"n": n, "mean": mean, "std": std, "sigma": model.sigma_, "peak": peak * 1024}))
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Make a file of more than 1 GB: y = 1 + x1 / 2 + u + noise, effects u with sd 0.5, noise with sd 0.29."""
    path = tmp_path_factory.mktemp("large") / "large.parquet"
    rows = f"""
        SELECT g::INTEGER AS g, x1, x2, x3, 1 + x1 / 2 + sin(g) / sqrt(2) + e AS y
        FROM (
            SELECT floor(random() * {N_GROUPS}) AS g, random() AS x1, random() AS x2, random() AS x3, random() - .5 AS e
            FROM range({N_ROWS})
        )"""
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.execute("SELECT setseed(0.3)")
        connection.execute(f"COPY ({rows}) TO '{path}' (FORMAT parquet, COMPRESSION uncompressed)")
    yield path
    path.unlink()


@pytest.mark.parametrize("engine", ["polars", "duckdb"])
def test_a_file_larger_than_memory_is_fitted_and_predicted(path, engine, record_property):
    assert path.stat().st_size > max(10**9, LIMIT)
    environment = os.environ | {"POLARS_MAX_THREADS": "2", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", FITS_AND_PREDICTS, engine, str(path), str(LIMIT)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    record_property("peak", found["peak"])
    print(f"{engine}: peak resident memory {found['peak'] / 2**20:.0f} MB")  # noqa: T201 - shown by pytest -rP
    assert found["n"] == N_ROWS
    assert found["mean"] == pytest.approx(1.25, abs=0.001)
    assert found["sigma"] == pytest.approx(12**-0.5, rel=0.001)
    assert found["std"] == pytest.approx(12**-0.5, rel=0.001)
