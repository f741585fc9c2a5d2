"""Engines that the default tests leave out: Dask on a cluster of its own, Spark on two cores, Ibis over DuckDB."""

import datetime
import itertools
import os
import sys

import pandas as pd
import pyarrow as pa
import pytest


@pytest.fixture(scope="session")
def dask_client():
    """A cluster of two worker processes."""
    import dask
    from dask.distributed import Client, LocalCluster

    with (
        # a task whose worker died is not tried again
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def dask_engine(dask_client):
    """Frames of Dask on the cluster."""
    import dask.dataframe

    return lambda frame: dask.dataframe.from_pandas(with_arrow_dates(frame), npartitions=3)


def with_arrow_dates(frame):
    """Return a data frame whose dates are Arrow's: those of pandas are objects, of which Dask makes text."""
    dates = [name for name in frame if type(frame[name].iloc[0]) is datetime.date]
    return frame.astype(dict.fromkeys(dates, pd.ArrowDtype(pa.date32())))


@pytest.fixture(scope="session")
def spark_session():
    """A session of Spark on two cores."""
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.codegen.wholeStage": "false",
        "spark.log.level": "ERROR",
    }
    builder = SparkSession.builder.master("local[2]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    yield session
    session.stop()


@pytest.fixture
def spark_engine(spark_session):
    """Frames of Spark, whose text is text: it has no categories."""

    def engine(frame):
        categories = [name for name in frame if isinstance(frame[name].dtype, pd.CategoricalDtype)]
        frame = frame.astype(dict.fromkeys(categories, object))
        # not by pandas, of whose version 3 PySpark warns
        return spark_session.createDataFrame(pa.Table.from_pandas(frame, preserve_index=False))

    return engine


@pytest.fixture
def ibis_engine(tmp_path):
    """Tables of Ibis over a DuckDB of its own."""
    import ibis

    connection = ibis.duckdb.connect()
    numbers = itertools.count()

    def engine(frame):
        path = tmp_path / f"{next(numbers)}.parquet"
        frame.to_parquet(path, index=False)
        return connection.read_parquet(path)

    return engine


@pytest.fixture(params=["dask", "spark", "ibis"])
def engine(request):
    """Frames of each engine."""
    return request.getfixturevalue(f"{request.param}_engine")
