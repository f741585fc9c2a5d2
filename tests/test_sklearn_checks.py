"""scikit-learn's own checks, in full: nothing skipped, nothing expected to fail."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from hbsk import PartialPoolingRegressor

# The checks call `fit(X, y)` on columns of measurements: there are no groups, or the group column is a strange one.
pytestmark = pytest.mark.filterwarnings(
    "ignore::hbsk.exceptions.NoGroupsWarning", "ignore::hbsk.exceptions.SuspiciousGroupsWarning"
)

ESTIMATORS = [
    PartialPoolingRegressor(),
    *(PartialPoolingRegressor(pooling=pooling) for pooling in ("complete", "none")),
    PartialPoolingRegressor(correlated=False),
    *(PartialPoolingRegressor(unknown_groups=policy) for policy in ("error", "nan")),
    PartialPoolingRegressor(group_features=-1),
    *(PartialPoolingRegressor(group_features=-1, pooling=pooling) for pooling in ("complete", "none")),
    PartialPoolingRegressor(group_features=-1, correlated=False),
    *(PartialPoolingRegressor(group_features=-1, unknown_groups=policy) for policy in ("error", "nan")),
    PartialPoolingRegressor(group_features=0, unknown_groups="error"),
]


@parametrize_with_checks(ESTIMATORS)
def test_check(estimator, check):
    check(estimator)
