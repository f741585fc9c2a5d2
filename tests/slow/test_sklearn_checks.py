"""scikit-learn's own checks of classes and counts for every pooling, policy for unknown groups and place of the groups.

What the default suite runs of these is left out (`tests/test_sklearn_checks.py`).
"""

from itertools import product

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from hbsk import PartialPoolingClassifier, PartialPoolingCountRegressor
from tests import test_sklearn_checks as fast
from tests.test_binomial_checks import Proportions

pytestmark = [pytest.mark.slow, *([fast.pytestmark] if not isinstance(fast.pytestmark, list) else fast.pytestmark)]

OPTIONS = ("group_features", "pooling", "unknown_groups")
EVERY = product([None, -1, 0], ["partial", "complete", "none"], ["population", "error", "nan"])


def settings(estimator):
    return type(estimator), *(estimator.get_params()[name] for name in OPTIONS)


FAST = {settings(estimator) for estimator in fast.ESTIMATORS if not isinstance(estimator.group_features, list)}
ESTIMATORS = [
    estimator
    for values in EVERY
    for cls in (PartialPoolingClassifier, PartialPoolingCountRegressor)
    if settings(estimator := cls(**dict(zip(OPTIONS, values, strict=True)))) not in FAST
]
ESTIMATORS.append(Proportions(group_features=-1))


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=fast.contradictions, xfail_strict=True)
def test_check(estimator, check):
    check(estimator)
