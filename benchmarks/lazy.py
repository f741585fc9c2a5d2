"""Time what fits of lazy frames ask their engines for: sums by group beside a scan and a trivial GROUP BY.

    python -m benchmarks.lazy                                   # 1e7 rows x 1e5 groups by DuckDB and Polars: 2 minutes
    python -m benchmarks.lazy --rows 100000000 --engines duckdb
    python -m benchmarks.lazy --engines duckdb polars dask      # Dask on two worker processes

CPU seconds of the process and its workers, all in one run, of ``y ~ x1 + x2 + x3 + (x1 | g)``. Ratios are what counts:
sums to the engine's own ``g, sum(y), count(*)``, to a scan of the columns, and to reading the file and collecting the
sums in memory (up to 1e7 rows). The peak is of resident memory above what the process had before.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import duckdb
import pandas as pd
import psutil

from hbsk import PartialPoolingRegressor

MODEL = "y ~ x1 + x2 + x3 + (x1 | g)"
MOST_IN_MEMORY = 10_000_000
NUMBERS = ("x1", "x2", "x3", "y")


def make_file(path, n_rows, n_groups):
    """Write groups of uneven sizes, uniform columns, and y with effects of groups."""
    draws = ", ".join(f"random() AS {name}" for name in ("x1", "x2", "x3", "e"))
    rows = f"""
        SELECT g::INTEGER AS g, x1, x2, x3, 1 + x1 / 2 + sin(g) + x1 * cos(g) / 2 + e AS y
        FROM (SELECT floor(random() ** 1.3 * {n_groups}) AS g, {draws} FROM range({n_rows}))"""
    with duckdb.connect() as connection:
        connection.execute("SELECT setseed(0.5)")
        connection.execute(f"COPY ({rows}) TO '{path}' (FORMAT parquet)")


def cpu_seconds():
    """Return CPU seconds of this process and of the workers that it has."""
    process = psutil.Process()
    of_all = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(times.user + times.system for times in of_all)


def measured(function):
    """Return CPU seconds, seconds, and the peak of resident memory above what there was, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    before, start, resident = cpu_seconds(), time.perf_counter(), psutil.Process().memory_info().rss
    function()
    status = Path("/proc/self/status").read_text().splitlines()
    peak = 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return cpu_seconds() - before, time.perf_counter() - start, peak - resident


def duckdb_questions(path):
    relation = duckdb.connect().read_parquet(str(path))
    return (
        relation,
        lambda: relation.aggregate(", ".join(f"sum({name})" for name in ("g", *NUMBERS))).df(),
        lambda: relation.aggregate("g, sum(y), count(*)", "g").df(),
    )


def polars_questions(path):
    import polars as pl

    lazy = pl.scan_parquet(path)
    return (
        lazy,
        lambda: lazy.sum().collect(engine="streaming"),
        lambda: lazy.group_by("g").agg(pl.col("y").sum(), pl.len()).collect(engine="streaming"),
    )


def dask_questions(path):
    import dask.dataframe as dd
    from dask.distributed import Client, LocalCluster

    Client(LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0"))
    lazy = dd.read_parquet(path)
    return lazy, lambda: lazy.sum().compute(), lambda: lazy.groupby("g").y.agg(["sum", "count"]).compute()


QUESTIONS = {"duckdb": duckdb_questions, "polars": polars_questions, "dask": dask_questions}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--groups", type=int, default=100_000)
    parser.add_argument("--engines", nargs="+", choices=QUESTIONS, default=["duckdb", "polars"])
    parser.add_argument("--folder", default=None, help="where the file is made, and deleted")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "rows.parquet"
        make_file(path, options.rows, options.groups)
        print(f"{options.rows:,} rows x {options.groups:,} groups, {path.stat().st_size / 1e9:.2f} GB")
        model = PartialPoolingRegressor(MODEL)
        model.fit(duckdb.sql("SELECT range % 7 AS g, sin(range) AS x1, cos(range) AS x2, sin(range * 3) AS x3, "
                             "cos(range * 7) AS y FROM range(1000)"))  # fmt: skip
        in_memory = None
        if options.rows <= MOST_IN_MEMORY:

            def collect():
                rows = pd.read_parquet(path)
                model.collect(rows[["g", "x1", "x2", "x3"]], rows["y"])

            in_memory, seconds, peak = measured(collect)
            print(f"in memory    read and collect {in_memory:.1f} CPU s, {seconds:.1f} s, peak + {peak / 1e9:.2f} GB")
        for engine in options.engines:
            lazy, scan, grouping = QUESTIONS[engine](path)
            scanned, grouped = measured(scan)[0], measured(grouping)[0]
            sums, seconds, peak = measured(lambda lazy=lazy: model.collect(lazy))
            ratios = {"GROUP BY": sums / grouped, "scan": sums / scanned}
            if in_memory is not None:
                ratios["in memory"] = sums / in_memory
            print(
                f"{engine:<12} scan {scanned:.1f}, GROUP BY {grouped:.1f}, sums {sums:.1f} CPU s, {seconds:.1f} s, "
                f"peak + {peak / 1e9:.2f} GB; sums / "
                + ", sums / ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
