"""Groups of a lazy frame are left out as those of the same rows in memory are."""

from contextlib import nullcontext

import numpy as np
import polars as pl
import pytest

from hbsk import PartialPoolingRegressor
from hbsk.exceptions import ConvergenceWarning
from hbsk.model_selection import compare, loo, waic

from .engines_of_tests import ENGINES
from .lazy_frames import FORMULA, rows

FEATURES = ["g", "z", "fold", "x1", "x2", "x3"]
MEAN = {"x1|g": ("Normal", {"mu": 0.4, "sigma": ("HalfNormal", {"sigma": 1})})}
MODELS = {
    "slopes": {"formula": FORMULA},
    "complete": {"formula": FORMULA, "pooling": "complete"},
    "mean of effects": {"formula": "y ~ x2 + (x1 | g)", "priors": MEAN},
    "terms": {"formula": "y ~ 0 + scale(x1) + C(fold) + offset(0.1 * x3) + (1 | g:z)"},
    "no intercepts": {"formula": "y ~ x1 + (0 + x1 | g)"},
}


def require_same_scores(found, wanted):
    np.testing.assert_array_equal(found.elpd_i.coords.to_index(), wanted.elpd_i.coords.to_index())
    np.testing.assert_allclose(found.elpd_i, wanted.elpd_i, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose([found.elpd, found.se, found.p], [wanted.elpd, wanted.se, wanted.p], rtol=1e-8)


@pytest.mark.parametrize("parameters", MODELS.values(), ids=MODELS)
def test_groups_of_a_lazy_frame_are_left_out_as_those_of_the_rows(parameters):
    frame = rows(shift=5.0).head(200).assign(z=lambda f: f["row"] % 2)
    model = PartialPoolingRegressor(**parameters).fit(frame[FEATURES], frame["y"])
    lazily = PartialPoolingRegressor(**parameters).fit(ENGINES["polars"](frame))
    require_same_scores(
        loo(lazily, ENGINES["polars"](frame), None, unit="group"), loo(model, frame[FEATURES], frame["y"], unit="group")
    )


def test_rows_with_known_errors_and_other_engines_and_criteria_answer_alike():
    frame = rows().head(200).assign(z=0)
    known = {"standard_error": frame["se"]}
    parameters = {"group_features": "g", "slope_features": ["x1"]}
    columns = ["g", "x1", "x2", "y", "se"]
    model = PartialPoolingRegressor(**parameters).fit(frame[["g", "x1", "x2"]], frame["y"], **known)
    lazy = ENGINES["duckdb"](frame[columns])
    lazily = PartialPoolingRegressor(**parameters).fit(lazy, "y", standard_error="se")
    for criterion in (loo, waic):
        with nullcontext() if criterion is loo else pytest.warns(ConvergenceWarning, match="Use loo"):
            found = criterion(lazily, lazy, "y", standard_error="se", unit="group")
            wanted = criterion(model, frame[["g", "x1", "x2"]], frame["y"], **known, unit="group")
        require_same_scores(found, wanted)


def test_models_of_a_lazy_frame_are_compared():
    frame = rows().head(200).assign(z=0)
    lazy = ENGINES["polars"](frame)
    formulas = {"intercepts": "y ~ x1 + (1 | g)", "slopes": "y ~ x1 + (x1 | g)"}
    found = compare({k: PartialPoolingRegressor(f).fit(lazy) for k, f in formulas.items()}, lazy, None, unit="group")
    models = {k: PartialPoolingRegressor(f).fit(frame[FEATURES], frame["y"]) for k, f in formulas.items()}
    wanted = compare(models, frame[FEATURES], frame["y"], unit="group")
    assert list(found.index) == list(wanted.index)
    np.testing.assert_allclose(found["elpd_diff"], wanted["elpd_diff"], rtol=1e-8)


def test_other_rows_than_those_of_the_fit_are_refused():
    lazy = ENGINES["polars"](rows())
    model = PartialPoolingRegressor(FORMULA).fit(lazy)
    first = pl.col("row") == 0
    with pytest.raises(ValueError, match="loo needs the rows that the model was fitted to, but there are 1499 here"):
        loo(model, lazy.filter(~first), None, unit="group")
    with pytest.raises(ValueError, match="some of their groups were not seen in fit"):
        loo(model, lazy.with_columns(g=pl.when(first).then(pl.lit("new")).otherwise("g")), None, unit="group")
    for column in ("y", "x3"):
        for value in (1e3, None):
            other = lazy.with_columns(pl.when(first).then(value).otherwise(column).alias(column))
            with pytest.raises(ValueError, match="their columns, groups, responses or standard errors are others"):
                loo(model, other, None, unit="group")
    swapped = pl.when(first).then(pl.lit("s029")).otherwise("g")
    with pytest.raises(ValueError, match="their columns, groups, responses or standard errors are others"):
        waic(model, lazy.with_columns(g=swapped), None, unit="group")
    weighted = PartialPoolingRegressor(FORMULA).fit(lazy, sample_weight="n")
    with pytest.raises(ValueError, match="copies, where it had sample_weight="):
        loo(weighted, lazy, None, unit="group")


def test_what_is_refused_of_a_lazy_frame_is_named():
    frame = rows().assign(z=0)
    lazy = ENGINES["polars"](frame)
    model = PartialPoolingRegressor(FORMULA).fit(lazy)
    with pytest.raises(TypeError, match=r"loo with unit='row' takes rows in memory.*cross_validate_sums folds of rows"):
        loo(model, lazy, None)
    with pytest.raises(ValueError, match="groups= cannot be given with a lazy frame"):
        loo(model, lazy, None, ["a"], unit="group")
    with pytest.raises(ValueError, match="no column 'x2', which the model reads"):
        loo(model, lazy.drop("x2"), None, unit="group")
    with pytest.raises(ValueError, match="y='a' is no column of the lazy frame"):
        loo(model, lazy, "a", unit="group")
    crossed = PartialPoolingRegressor("y ~ (1 | g) + (1 | fold)").fit(frame[FEATURES], frame["y"])
    with pytest.raises(ValueError, match="this one has several grouping factors"):
        loo(crossed, lazy, None, unit="group", factor="g")
