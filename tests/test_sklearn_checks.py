"""scikit-learn's own checks, in full and nothing skipped; what contradicts a policy that users choose must fail."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from hbsk import PartialPoolingClassifier, PartialPoolingCountRegressor, PartialPoolingRegressor

# The checks call `fit(X, y)` on columns of measurements: there are no groups, or the group column is a strange one.
# Some of their data hold columns that are combinations of others (make_classification), one row of each pair of labels,
# or more columns than rows, whose fit is perfect.
pytestmark = pytest.mark.filterwarnings(
    "ignore::hbsk.exceptions.NoGroupsWarning",
    "ignore::hbsk.exceptions.SuspiciousGroupsWarning",
    "ignore::hbsk.exceptions.RedundantColumnsWarning",
    # of counts, where the checks have measurements
    "ignore::hbsk.exceptions.NonIntegerCountWarning",
    "ignore::hbsk.exceptions.ShrinkageWarning",
    "ignore:sigma is held at:hbsk.exceptions.ConvergenceWarning",
)

CLASSES = (PartialPoolingRegressor, PartialPoolingClassifier, PartialPoolingCountRegressor)
# Each option where it takes another path: what happens to groups needs a column of them, and `correlated` slopes. What
# is answered for unknown groups is read in one place, for groups that are pooled and for others. What one class stands
# in for is checked of the others among the slow tests.
ESTIMATORS = [
    *(cls() for cls in CLASSES),
    PartialPoolingRegressor(group_features=-1),
    PartialPoolingClassifier(group_features=-1),
    PartialPoolingCountRegressor(group_features=-1),
    PartialPoolingRegressor(group_features=-1, pooling="complete"),
    PartialPoolingRegressor(group_features=-1, pooling="none", unknown_groups="nan"),
    PartialPoolingClassifier(group_features=-1, pooling="none", unknown_groups="nan"),  # a label cannot be NaN
    PartialPoolingRegressor(group_features=0, pooling="none", unknown_groups="error"),
    PartialPoolingCountRegressor(group_features=0, pooling="none", unknown_groups="error"),
    PartialPoolingRegressor(group_features=[0, 1], unknown_groups="nan"),
    PartialPoolingRegressor("y ~ 1 + (1 | x0/x1)", unknown_groups="error"),
]


def contradictions(estimator):
    """Checks that ask for the opposite of what an option promises; strict, so that they cannot pass unnoticed."""
    first_column_is_labels = estimator.group_features in (0, [0, 1]) or estimator.formula is not None
    found = {}
    if estimator.group_features == [0, 1] or estimator.formula is not None:
        for check in ("fit_score_takes_y", "n_features_in_after_fitting", "estimators_partial_fit_n_features"):
            found[f"check_{check}"] = "partial_fit takes one grouping factor"
    is_classifier, ignores_groups = isinstance(estimator, PartialPoolingClassifier), estimator.pooling == "complete"
    # a label cannot be NaN: the classifier refuses what others answer with NaN
    refuses = not ignores_groups and estimator.unknown_groups in (("error", "nan") if is_classifier else ("error",))
    if first_column_is_labels and not refuses:
        found["check_estimators_nan_inf"] = "a missing label in predict is a new group, as the policy says"
    if estimator.group_features is None and estimator.formula is None:
        return found
    if refuses:
        found["check_sample_weight_equivalence_on_dense_data"] = (
            "every row is a group of its own there, and after rows of weight 0 were removed their groups are "
            f"predicted: unknown_groups={estimator.unknown_groups!r} must refuse that"
        )
    if is_classifier and refuses and estimator.unknown_groups == "error":
        found["check_decision_proba_consistency"] = (
            "its column of labels is one of measurements, none of which is seen twice: every row to predict is of a "
            "group that was not seen, and must be refused"
        )
    return found


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=contradictions, xfail_strict=True)
def test_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("cls", CLASSES)
def test_without_groups_there_is_nothing_to_pool(cls, rng):
    """So the checks of complete pooling without groups are those of the default."""
    X, y = rng.normal(size=(30, 2)), rng.integers(0, 2, 30)
    partial, complete = cls().fit(X, y), cls(pooling="complete").fit(X, y)
    np.testing.assert_array_equal(complete.predict(X), partial.predict(X))


@pytest.mark.parametrize("group_features", [-1, 0, [0, 1]])
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
