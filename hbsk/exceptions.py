"""Warnings of hbsk, one class for each thing a user may want to silence or to turn into an error."""

from sklearn.exceptions import ConvergenceWarning as _SklearnConvergenceWarning

__all__ = [
    "ConvergenceWarning",
    "ExtrapolationWarning",
    "LabelMismatchWarning",
    "ManyClassesWarning",
    "ManyLevelsWarning",
    "NoGroupsWarning",
    "NonIntegerCountWarning",
    "RedundantColumnsWarning",
    "RowOrderWarning",
    "ShrinkageWarning",
    "SuspiciousGroupsWarning",
    "SuspiciousWeightsWarning",
]


class LabelMismatchWarning(UserWarning):
    """Not one group label of rows to predict or to add was seen in fit; they look like those of fit written otherwise.

    Labels of another type (1 for "001", a date for a Timestamp), or such as differ in case, spaces or zeros alone. Rows
    of plain new groups do not warn.
    """


class ManyClassesWarning(UserWarning):
    """PartialPoolingEncoder took numbers for more than 10 classes; counts want target_type="continuous"."""


class ManyLevelsWarning(UserWarning):
    """A text column that is a feature has a level for every other row or more, each a column of the model.

    Most likely numbers written as text, an id or a name. A grouping factor may have as many: `group_features` names it.
    """


class NoGroupsWarning(UserWarning):
    """The estimator was fitted without any group labels and shares nothing between groups.

    scikit-learn drops `groups=` on the way to `fit` in several places (for example `GridSearchCV.fit(X, y, groups=g)`
    with metadata routing off). Naming the group column in `group_features` is safe everywhere.
    """


class NonIntegerCountWarning(UserWarning):
    """Counts that are not whole numbers: most likely rates, whose exposure or trials got lost on the way."""


class ConvergenceWarning(_SklearnConvergenceWarning):
    """An inference engine missed one of its accuracy thresholds."""


class ExtrapolationWarning(UserWarning):
    """Rows to predict lie outside the boundary knots of a spline, where it is a polynomial that nothing holds back."""


class RedundantColumnsWarning(UserWarning):
    """Common columns say what the intercept, other columns or the groups say already: priors tell them apart, not data.

    Most often dummies of a ``OneHotEncoder`` without ``drop``. Predictions are right; coefficients, and the levels of
    groups, have wide sds that depend on how columns are coded.
    """


class SuspiciousGroupsWarning(UserWarning):
    """Every label of a group column is a different number that is not an integer: most likely a measurement."""


class RowOrderWarning(UserWarning):
    """An argument beside X has the index of X in another order; rows are taken by position."""


class SuspiciousWeightsWarning(UserWarning):
    """Weights that can hardly be numbers of copies: they add up to 1, or to far more or less than the rows."""


class ShrinkageWarning(UserWarning):
    """The data do not say how far to shrink, for want of groups or of repeated rows.

    JamesSteinEstimator then returns its estimates unshrunken; in PartialPoolingRegressor the priors decide.
    """
