"""Random small designs at the edges of binary and count data against dense grids, thirty of each kind."""

import numpy as np
import pytest

from tests.edge_designs import KINDS, design_of, errors_of

pytestmark = pytest.mark.slow

N_DESIGNS = 30
# Ends of intervals of 90 %, in posterior sds, and sds: of nine designs of ten, and of the worst.
MOST, WORST = {"ends": 0.05, "sds": 0.04}, {"ends": 0.12, "sds": 0.06}
# Of coefficients of columns that separate the rows, whose laws are skew whatever tau is.
MOST_SEPARATED = 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_laws_at_the_edges_are_those_of_dense_grids(kind):
    found = [errors_of(design_of(kind, number)) for number in range(N_DESIGNS)]
    for name in found[0]:
        for k, which in enumerate(("ends", "sds")):
            errors = [design[name][k] for design in found]
            most = MOST_SEPARATED if (kind, name, which) == ("separated", "common", "ends") else MOST[which]
            assert np.quantile(errors, 0.9) < most, (name, which)
            assert max(errors) < WORST[which], (name, which)
