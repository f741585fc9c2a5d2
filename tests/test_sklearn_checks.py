"""scikit-learn's own checks, in full and nothing skipped; one contradicts a policy that users choose, and must fail."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from hbsk import PartialPoolingRegressor

# The checks call `fit(X, y)` on columns of measurements: there are no groups, or the group column is a strange one.
# Some of their data hold columns that are combinations of others (make_classification).
pytestmark = pytest.mark.filterwarnings(
    "ignore::hbsk.exceptions.NoGroupsWarning",
    "ignore::hbsk.exceptions.SuspiciousGroupsWarning",
    "ignore::hbsk.exceptions.RedundantColumnsWarning",
)

# Each option where it takes another path: what happens to groups needs a column of them, and `correlated` slopes.
ESTIMATORS = [
    PartialPoolingRegressor(),
    PartialPoolingRegressor(pooling="complete"),
    PartialPoolingRegressor(group_features=-1),
    *(PartialPoolingRegressor(group_features=-1, pooling=pooling) for pooling in ("complete", "none")),
    PartialPoolingRegressor(group_features=-1, unknown_groups="nan"),
    PartialPoolingRegressor(group_features=0, unknown_groups="error"),
]


def contradictions(estimator):
    """Checks that ask for the opposite of what an option promises; strict, so that they cannot pass unnoticed."""
    if estimator.group_features is None or estimator.unknown_groups != "error":
        return {}
    return {
        "check_sample_weight_equivalence_on_dense_data": "every row is a group of its own there, and after rows of "
        "weight 0 were removed their groups are predicted: unknown_groups='error' must refuse that"
    }


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=contradictions, xfail_strict=True)
def test_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("group_features", [-1, 0])
def test_the_check_that_must_fail_but_for_the_groups_that_were_removed(group_features):
    rng = np.random.RandomState(42)
    X, y, weight = rng.rand(15, 30), rng.randint(0, 3, 15), rng.randint(0, 5, 15)
    weighted, repeated = (
        PartialPoolingRegressor(group_features=group_features, unknown_groups="error") for _ in range(2)
    )
    weighted.fit(X, y, sample_weight=weight)
    repeated.fit(X.repeat(weight, axis=0), y.repeat(weight))
    kept = X[weight > 0]
    np.testing.assert_allclose(weighted.predict(kept), repeated.predict(kept), rtol=1e-7, atol=1e-9)
    for model in (weighted, repeated):
        with pytest.raises(ValueError, match=f"{(weight == 0).sum()} groups not seen in fit"):
            model.predict(X)
