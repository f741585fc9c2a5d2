"""What the default tests hold Polars and DuckDB to, of Dask on two worker processes, Spark and Ibis."""

import os

import numpy as np
import pytest

from hbsk import PartialPoolingRegressor
from tests import lazy_frames
from tests.lazy_frames import BAD_ROWS, BESIDE, FORMULA, fit_in_memory, require_same_fit, rows

pytestmark = [
    pytest.mark.engines,
    # until narwhals-dask is out, which narwhals announces
    pytest.mark.filterwarnings("ignore:Dask support is moving:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_a_fit_of_the_engines_sums_is_the_fit_of_the_rows(engine, beside):
    lazy_frames.check_fit(engine, beside)


def test_columns_far_from_zero_keep_their_digits(engine):
    lazy_frames.check_fit(engine, BESIDE["weight"], shift=1e8)


@pytest.mark.parametrize(("column", "value", "beside", "message"), BAD_ROWS)
def test_one_bad_row_raises_and_a_former_fit_stays_whole(engine, column, value, beside, message):
    lazy_frames.check_bad_row(engine, column, value, beside, message)


@pytest.mark.parametrize("dtype", [name for name, _ in lazy_frames.labels_of_each_dtype(rows())])
def test_predictions_join_by_labels_of_any_dtype(engine, dtype):
    lazy_frames.check_labels(engine, dict(lazy_frames.labels_of_each_dtype(rows()))[dtype])


def test_transforms_and_categories_fit_alike(engine):
    frame = rows().assign(town=lambda f: np.array(list("abc"), dtype=object)[f["fold"] % 3])
    formula = "y ~ scale(x1)*town + np.log(np.exp(x2)) + I(x3 > 0) + C(n) + (1 | g)"
    wanted = PartialPoolingRegressor(formula).fit(frame.drop(columns="y"), frame["y"])
    require_same_fit(PartialPoolingRegressor(formula).fit(engine(frame)), wanted, 3e-12)
    lazy_frames.check_prediction_of(engine, wanted, frame)


def test_an_unknown_level_or_group_is_told(engine):
    frame = rows().assign(town=lambda f: np.where(f["x2"] > 0, "b", "a").astype(object))
    model = PartialPoolingRegressor("y ~ town + (1 | g)", unknown_groups="nan").fit(engine(frame))
    found = lazy_frames.in_memory(model.predict(engine(frame.assign(town="c").head(5))))
    assert found["prediction"].isna().all()
    new = engine(frame.assign(g=frame["g"].where(frame["row"] > 2, "unseen")))
    assert lazy_frames.in_memory(model.predict(new))["prediction"].isna().sum() == 3
    with pytest.raises(ValueError, match="groups of 'g' not seen in fit: 'unseen'"):
        model.set_params(unknown_groups="error").predict(new)


@pytest.mark.parametrize("beside", [BESIDE["plain"], BESIDE["both"]], ids=["plain", "both"])
def test_sums_of_two_engines_are_those_of_all_rows(engine, beside):
    from tests.engines_of_tests import ENGINES

    frame = rows()
    first, second = frame[frame["row"] < 400], frame[frame["row"] >= 400]
    model = PartialPoolingRegressor(FORMULA)
    merged = model.collect(engine(first), **beside) + model.collect(ENGINES["polars"](second), **beside)
    require_same_fit(model.fit(merged), fit_in_memory(PartialPoolingRegressor(FORMULA), frame, **beside))


def test_a_killed_worker_of_dask_is_an_error_and_a_former_fit_stays(dask_client):
    import dask.dataframe as dd

    from tests.lazy_frames import rows

    frame = rows()
    model = PartialPoolingRegressor(FORMULA).fit(dd.from_pandas(frame, npartitions=3))
    before = dict(vars(model))

    def dies(part):
        # the metadata are made by a call on no rows
        if len(part) > 1:
            os._exit(1)
        return part

    with pytest.raises(Exception, match=r"died|[Ww]orker|lost"):
        model.fit(dd.from_pandas(frame, npartitions=3).map_partitions(dies, meta=frame.head(0)))
    assert vars(model) == before
    dask_client.wait_for_workers(2, timeout=120)
    require_same_fit(PartialPoolingRegressor(FORMULA).fit(dd.from_pandas(frame, npartitions=2)), model)
