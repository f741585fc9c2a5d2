"""No group is lost on the way through scikit-learn's tools of classifiers: schools tell nearly all of y, x nothing."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hbsk import PartialPoolingClassifier
from hbsk.exceptions import NoGroupsWarning, SuspiciousWeightsWarning
from hbsk.model_selection import make_group_scorer

N, J = 160, 8


def make_schools():
    rng = np.random.default_rng(12)
    school = np.arange(N) % J
    y = np.where(rng.random(N) < np.where(school % 2, 0.95, 0.05), "pass", "fail")
    return pd.DataFrame({"x": rng.normal(size=N), "school": school}), y


X, Y = make_schools()
FLOATS = X.astype(float)


def model(**parameters):
    return PartialPoolingClassifier(group_features="school", **parameters)


def at(position):
    """A model for tools that turn frames into arrays."""
    return PartialPoolingClassifier(group_features=position)


GRID = {"pooling": ["complete", "partial"]}


def searched(search):
    search.fit(X, Y)
    assert search.best_params_ == {"pooling": "partial"}
    return search.score(X, Y)


def fitted(tool, features=X):
    return tool.fit(features, Y).score(features, Y)


TOOLS = {
    "cross_val_score": lambda: cross_val_score(model(), X, Y, cv=2).mean(),
    "cross_val_score of log loss": lambda: 1 + cross_val_score(model(), X, Y, cv=2, scoring="neg_log_loss").mean() / 2,
    "cross_val_score of areas": lambda: cross_val_score(model(), X, Y, cv=2, scoring="roc_auc").mean(),
    "cross_validate": lambda: cross_validate(model(), X, Y, cv=2, scoring=["accuracy", "f1_macro"])[
        "test_f1_macro"
    ].mean(),
    "cross_val_predict": lambda: accuracy_score(Y, cross_val_predict(model(), X, Y, cv=2)),
    "cross_val_predict of probabilities": lambda: (
        1 - log_loss(Y, cross_val_predict(model(), X, Y, cv=2, method="predict_proba")) / 2
    ),
    "learning_curve": lambda: learning_curve(model(), X, Y, cv=2, train_sizes=[0.9], shuffle=True, random_state=0)[
        2
    ].mean(),
    "validation_curve": lambda: validation_curve(model(), X, Y, cv=2, param_name="pooling", param_range=["partial"])[
        1
    ].mean(),
    "GridSearchCV": lambda: searched(GridSearchCV(model(), GRID, cv=2)),
    "GridSearchCV of two scores": lambda: searched(
        GridSearchCV(model(), GRID, cv=2, scoring=["accuracy", "neg_log_loss"], refit="accuracy")
    ),
    "RandomizedSearchCV": lambda: searched(RandomizedSearchCV(model(), GRID, n_iter=2, cv=2, random_state=0)),
    "Pipeline": lambda: fitted(make_pipeline(StandardScaler().set_output(transform="pandas"), model())),
    "ColumnTransformer": lambda: fitted(
        make_pipeline(make_column_transformer((StandardScaler(), ["x"]), remainder="passthrough"), at(1))
    ),
    "BaggingClassifier": lambda: fitted(BaggingClassifier(at(1), n_estimators=2, random_state=0)),
    "VotingClassifier": lambda: fitted(VotingClassifier([("model", model())], voting="soft")),
    "StackingClassifier": lambda: fitted(StackingClassifier([("model", model())], LogisticRegression(), cv=2)),
    "CalibratedClassifierCV": lambda: fitted(CalibratedClassifierCV(model(), cv=2)),
    "CalibratedClassifierCV, isotonic": lambda: fitted(CalibratedClassifierCV(model(), cv=2, method="isotonic")),
    "TunedThresholdClassifierCV": lambda: fitted(TunedThresholdClassifierCV(model(), cv=2)),
    "FixedThresholdClassifier": lambda: fitted(FixedThresholdClassifier(model(), threshold=0.5, pos_label="pass")),
    "OneVsRestClassifier": lambda: fitted(OneVsRestClassifier(model())),
    "MultiOutputClassifier": lambda: accuracy_score(
        Y, MultiOutputClassifier(model()).fit(X, np.column_stack([Y, Y])).predict(X)[:, 0]
    ),
    "permutation_importance": lambda: (
        0.5 + permutation_importance(model().fit(X, Y), X, Y, n_repeats=1, random_state=0).importances_mean[1]
    ),
    "partial_dependence": lambda: (
        0.5 + np.ptp(partial_dependence(model().fit(FLOATS, Y), FLOATS, ["school"])["average"]) / 2
    ),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_groups_in_a_column_get_through(tool):
    assert TOOLS[tool]() > 0.8


def test_groups_by_keyword_get_through_where_they_are_routed():
    features, schools = X[["x"]], X["school"]
    with sklearn.config_context(enable_metadata_routing=True):
        asked = PartialPoolingClassifier().set_fit_request(groups=True).set_score_request(groups=True)
        assert cross_val_score(asked, features, Y, cv=2, params={"groups": schools}).mean() > 0.8
        search = GridSearchCV(asked, GRID, cv=2).fit(features, Y, groups=schools)
        assert search.best_params_ == {"pooling": "partial"}
        scorer = make_group_scorer(log_loss, greater_is_better=False, response="predict_proba")
        scores = cross_validate(asked, features, Y, cv=2, scoring=scorer, params={"groups": schools})["test_score"]
        assert scores.mean() > -0.4
        calibrated = CalibratedClassifierCV(
            PartialPoolingClassifier().set_fit_request(groups=True).set_predict_proba_request(groups=True), cv=2
        )
        with pytest.raises(ValueError, match="groups= is missing"):
            calibrated.fit(features, Y, groups=schools)


def test_groups_by_keyword_are_never_lost_in_silence():
    features, schools = X[["x"]], X["school"]
    with pytest.warns(UserWarning, match="groups= is missing"):
        assert np.isnan(cross_val_score(PartialPoolingClassifier(), features, Y, params={"groups": schools})).all()
    with pytest.warns(UserWarning, match="ignored by StratifiedKFold"), pytest.warns(NoGroupsWarning):
        GridSearchCV(PartialPoolingClassifier(), {"draws": [10]}, cv=2).fit(features, Y, groups=schools)


def test_shares_of_boosting_are_no_copies_of_rows():
    with pytest.warns(SuspiciousWeightsWarning, match="add up to 1"):
        AdaBoostClassifier(at(1), n_estimators=2, random_state=0).fit(X, Y)
