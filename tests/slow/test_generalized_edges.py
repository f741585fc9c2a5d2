"""Random small designs at the edges of binary and count data against dense grids, thirty of each kind."""

from functools import lru_cache

import numpy as np
import pytest
from scipy.special import expit

from hbsk import PartialPoolingClassifier, PartialPoolingCountRegressor
from tests.edge_designs import KINDS, design_of, errors_of

pytestmark = pytest.mark.slow

N_DESIGNS = 30
# Ends of intervals of 90 %, in posterior sds, and sds: of nine designs of ten, and of the worst.
MOST, WORST = {"ends": 0.05, "sds": 0.04}, {"ends": 0.12, "sds": 0.06}
# Of coefficients of columns that separate the rows, whose laws are skew whatever tau is.
MOST_SEPARATED = 0.1
# Ends of rates beside such columns are not within `MOST` in nine of ten (docs/limitations.md): one predictor stands for
# those of all rows of a group.
TOO_FAR = pytest.mark.xfail(strict=True, raises=AssertionError, reason="nine of ten within 0.052 sds, not 0.05")


@lru_cache
def errors_of_kind(kind):
    return [errors_of(design_of(kind, number)) for number in range(N_DESIGNS)]


def cases():
    for kind in KINDS:
        for name in ("predictor", "rate", "common", "tau"):
            for k, which in enumerate(("ends", "sds")):
                marks = TOO_FAR if (kind, name, which) == ("separated", "rate", "ends") else ()
                yield pytest.param(kind, name, k, which, marks=marks, id=f"{kind}: {which} of {name}")


@pytest.mark.parametrize(("kind", "name", "k", "which"), [*cases()])
def test_nine_of_ten_laws_at_the_edges_are_those_of_dense_grids(kind, name, k, which):
    errors = [design[name][k] for design in errors_of_kind(kind)]
    most = MOST_SEPARATED if (kind, name, which) == ("separated", "common", "ends") else MOST[which]
    assert np.quantile(errors, 0.9) < most


@pytest.mark.parametrize("kind", KINDS)
def test_no_law_at_the_edges_is_far_from_dense_grids(kind):
    for name in errors_of_kind(kind)[0]:
        for k, which in enumerate(("ends", "sds")):
            assert max(design[name][k] for design in errors_of_kind(kind)) < WORST[which], (name, which)


@pytest.mark.parametrize("pooling", ["partial", "none"])
@pytest.mark.parametrize("cls", [PartialPoolingClassifier, PartialPoolingCountRegressor])
@pytest.mark.parametrize(("n_rows", "n_columns"), [(120, 45), (120, 40), (250, 40)])
def test_many_columns_of_few_rows_are_integrated(cls, pooling, n_rows, n_columns):
    """120 rows are separated by 45 columns; nothing may fall to NUTS by itself, and errors are those that are said."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n_rows, n_columns)) + (seed % 4 == 0) * rng.normal(size=(n_rows, 1))
        groups = rng.integers(0, 8 + 4 * (seed % 5), n_rows)
        eta = x @ rng.normal(0, (0.1, 0.3, 0.6)[seed % 3], n_columns) + rng.normal(size=24)[groups]
        y = rng.random(n_rows) < expit(eta) if cls is PartialPoolingClassifier else rng.poisson(np.exp(eta.clip(-5, 5)))
        model = cls(pooling=pooling).fit(x, y, groups=groups)
        assert model.inference_.startswith("marginal"), seed
        assert model.diagnostics_["pareto_k"].max() < 0.7, seed
        assert model.diagnostics_["ess_bulk"].min() > 100, seed
