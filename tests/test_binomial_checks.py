"""scikit-learn's checks of regressors for proportions: y of the checks is anything, which becomes 0 or 1 here."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from hbsk import JamesSteinEstimator, PartialPoolingCountRegressor

pytestmark = pytest.mark.filterwarnings(
    "ignore::hbsk.exceptions.NoGroupsWarning",
    "ignore::hbsk.exceptions.SuspiciousGroupsWarning",
    "ignore::hbsk.exceptions.RedundantColumnsWarning",
    "ignore::hbsk.exceptions.ShrinkageWarning",
)


def valid(y):
    """Return 1 where y is above 1/2; what is no vector of numbers stays as it is."""
    try:
        numbers = np.asarray(y)
        if numbers.dtype.kind == "c":
            return y
        numbers = numbers.astype(float)
    except (TypeError, ValueError):
        return y
    if numbers.ndim == 0 or not numbers.size or not np.isfinite(numbers).all():
        return y
    return (numbers > 0.5).astype(float)


class Proportions(PartialPoolingCountRegressor):
    """The estimator with a y that it can take."""

    def __init__(self, *, group_features=None, pooling="partial", unknown_groups="population"):
        super().__init__(
            family="binomial", group_features=group_features, pooling=pooling, unknown_groups=unknown_groups
        )

    def fit(self, X, y, *, sample_weight=None):
        return super().fit(X, valid(y), sample_weight=sample_weight)

    def score(self, X, y, sample_weight=None):
        return super().score(X, valid(y), sample_weight)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # R^2 of 0.5 is not for proportions of one trial
        return tags


class ShrunkenProportions(JamesSteinEstimator):
    """The same of shrunken rates."""

    def __init__(self, *, group_features=None, unknown_groups="population"):
        super().__init__(method="beta-binomial", group_features=group_features, unknown_groups=unknown_groups)

    def fit(self, X, y, *, sample_weight=None):
        return super().fit(X, valid(y), sample_weight=sample_weight)

    def score(self, X, y, sample_weight=None):
        return super().score(X, valid(y), sample_weight)


def contradictions(estimator):
    if estimator.unknown_groups != "error":
        return {}
    return {
        "check_sample_weight_equivalence_on_dense_data": "every row is a group of its own there, and after rows of "
        "weight 0 were removed their groups are predicted: unknown_groups='error' must refuse that"
    }


# Partly pooled proportions are checked among the slow tests: the classifier walks the same way.
@parametrize_with_checks(
    [
        Proportions(),
        Proportions(group_features=0, pooling="none", unknown_groups="error"),
        ShrunkenProportions(),
        ShrunkenProportions(group_features=-1),
    ],
    expected_failed_checks=contradictions,
    xfail_strict=True,
)
def test_check(estimator, check):
    check(estimator)
