"""compare_estimators of classifiers and of counts, against scikit-learn's own metrics of the same folds."""

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.metrics import brier_score_loss, log_loss, mean_poisson_deviance
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hbsk import PartialPoolingClassifier, PartialPoolingCountRegressor
from hbsk.model_selection import WithinGroupKFold, compare_estimators
from tests.test_counts import COUNT, EXPOSURE, SUCCESS, X

Y = np.where(SUCCESS > 1, "many", "few")
FOLDS = list(WithinGroupKFold(3, shuffle=True, random_state=0).split(X[["x"]], Y, X["g"]))


def test_classifiers():
    table = compare_estimators(
        {"logistic": make_pipeline(StandardScaler(), LogisticRegression()), "pooled": PartialPoolingClassifier()},
        X[["x"]],
        Y,
        groups=X["g"],
        cv=FOLDS,
    ).pivot(index="estimator", columns="metric", values="mean")
    assert list(table.columns) == ["log_loss", "brier", "fit_seconds", "predict_seconds"]
    expected = {"log_loss": [], "brier": []}
    for train, test in FOLDS:
        fitted = PartialPoolingClassifier(group_features="g").fit(X.iloc[train], Y[train])
        probability = fitted.predict_proba(X.iloc[test])
        expected["log_loss"].append(log_loss(Y[test], probability, labels=["few", "many"]))
        expected["brier"].append(brier_score_loss(Y[test], probability[:, 1], pos_label="many"))
    for name, values in expected.items():
        assert table.loc["pooled", name] == pytest.approx(np.mean(values), rel=1e-9)
    assert table.loc["pooled", "log_loss"] < table.loc["logistic", "log_loss"]


def test_scorers_get_probabilities_for_groups_by_keyword():
    table = compare_estimators(
        {"pooled": PartialPoolingClassifier()},
        X[["x"]],
        Y,
        groups=X["g"],
        cv=FOLDS,
        scoring=["log_loss", "neg_log_loss", "accuracy"],
    ).set_index("metric")["mean"]
    assert table["neg_log_loss"] == pytest.approx(-table["log_loss"])
    assert 0.4 < table["accuracy"] < 1


def test_rates_weighted_by_exposure():
    rate = COUNT / EXPOSURE
    table = compare_estimators(
        {"poisson": PoissonRegressor(), "ridge": Ridge(), "pooled": PartialPoolingCountRegressor()},
        X[["x"]],
        rate,
        groups=X["g"],
        cv=FOLDS,
        scoring=["poisson_deviance"],
        sample_weight=EXPOSURE,
    ).set_index("estimator")["mean"]
    expected = []
    for train, test in FOLDS:
        fitted = PartialPoolingCountRegressor(group_features="g")
        fitted.fit(X.iloc[train], COUNT[train], exposure=EXPOSURE[train])
        expected.append(mean_poisson_deviance(rate[test], fitted.predict(X.iloc[test]), sample_weight=EXPOSURE[test]))
    assert table["pooled"] == pytest.approx(np.mean(expected), rel=1e-6)
    assert table["pooled"] < table["poisson"] < np.inf


def test_classifiers_are_not_compared_with_regressors():
    with pytest.raises(TypeError, match="is a classifier and"):
        compare_estimators({"a": DummyClassifier(), "b": Ridge()}, X[["x"]], Y, groups=X["g"])
    with pytest.raises(ValueError, match="scoring names 'rmse'"):
        compare_estimators({"a": DummyClassifier()}, X[["x"]], Y, groups=X["g"], scoring=["rmse"])
