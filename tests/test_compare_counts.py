"""compare_estimators of counts over exposure and of successes out of trials: one likelihood for all estimators."""

import numpy as np
import pytest
import sklearn
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.metrics import brier_score_loss, d2_tweedie_score, log_loss, mean_poisson_deviance, mean_squared_error
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hbsk import JamesSteinEstimator, PartialPoolingClassifier, PartialPoolingCountRegressor
from hbsk.model_selection import WithinGroupKFold, compare_estimators, make_group_scorer
from tests.test_counts import COUNT, EXPOSURE, SUCCESS, TRIALS, X, counts

FOLDS = list(WithinGroupKFold(2, shuffle=True, random_state=0).split(X[["x"]], COUNT, X["g"]))
COPIES = np.arange(len(X)) % 3 + 1.0
RATE, SHARE = COUNT / EXPOSURE, SUCCESS / TRIALS


def compare(estimators, features, y, scoring=None, groups=X["g"], folds=FOLDS, **options):
    table = compare_estimators(estimators, features, y, groups=groups, cv=folds, scoring=scoring, **options)
    return table.pivot(index="estimator", columns="metric", values="mean")


def over_folds(score):
    return pytest.approx(np.mean([score(train, test) for train, test in FOLDS]), rel=1e-6)


@pytest.mark.parametrize("copies", [None, COPIES])
def test_exposure_is_fitted_and_scored_as_rates_with_weights_are(copies):
    models = {"poisson": PoissonRegressor(), "pooled": PartialPoolingCountRegressor()}
    scoring = ["poisson_deviance", "rmse", "coverage", "width", "neg_mean_poisson_deviance", "d2_absolute_error_score"]
    by_keyword = compare(models, X[["x"]], COUNT, scoring, exposure=EXPOSURE, sample_weight=copies)
    weight = EXPOSURE if copies is None else EXPOSURE * copies
    if copies is None:
        by_weight = compare(models, X[["x"]], RATE, scoring, sample_weight=weight)
        np.testing.assert_allclose(by_keyword, by_weight, rtol=1e-7)
    held = {"sample_weight": copies} if copies is not None else {}

    def deviance(train, test):
        beside = {name: value[train] for name, value in held.items()}
        model = counts().fit(X.iloc[train], COUNT[train], exposure=EXPOSURE[train], **beside)
        return mean_poisson_deviance(RATE[test], model.predict(X.iloc[test]), sample_weight=weight[test])

    def of_baseline(train, test):
        model = PoissonRegressor().fit(X[["x"]].iloc[train], RATE[train], weight[train])
        return mean_squared_error(RATE[test], model.predict(X[["x"]].iloc[test]), sample_weight=weight[test]) ** 0.5

    assert by_keyword.loc["pooled", "poisson_deviance"] == over_folds(deviance)
    np.testing.assert_allclose(by_keyword["neg_mean_poisson_deviance"], -by_keyword["poisson_deviance"], rtol=1e-9)
    assert by_keyword.loc["poisson", "rmse"] == over_folds(of_baseline)
    assert by_keyword.loc["pooled", "poisson_deviance"] < by_keyword.loc["poisson", "poisson_deviance"]


@pytest.mark.parametrize("exposure", [EXPOSURE, None])
def test_intervals_of_counts_are_those_of_new_counts(exposure):
    def covered(train, test):
        given, held = ({} if exposure is None else {"exposure": exposure[rows]} for rows in (train, test))
        model = counts().fit(X.iloc[train], COUNT[train], **given)
        low, high = model.predict_interval(X.iloc[test], kind="prediction", **held).T
        return np.mean((low <= COUNT[test]) & (COUNT[test] <= high))

    scoring = ["coverage"] if exposure is None else None
    table = compare({"pooled": PartialPoolingCountRegressor()}, X[["x"]], COUNT, scoring, exposure=exposure)
    assert table.loc["pooled", "coverage"] == over_folds(covered)
    if exposure is not None:
        assert list(table) == ["poisson_deviance", "coverage", "width", "fit_seconds", "predict_seconds"]


def test_successes_of_regressors_and_of_classifiers():
    models = {
        "logistic": make_pipeline(StandardScaler(), LogisticRegression()),
        "classes": PartialPoolingClassifier(),
        "pooled": PartialPoolingCountRegressor(family="binomial"),
        "line": TransformedTargetRegressor(Ridge()),
    }
    scoring = ["log_loss", "brier", "rmse", "neg_log_loss"]
    some = compare({name: models[name] for name in ("logistic", "classes")}, X[["x"]], SUCCESS, scoring, trials=TRIALS)
    table = compare(models, X[["x"]], SUCCESS, scoring[:3], trials=TRIALS)
    expected = {"log_loss": [], "brier": []}
    for train, test in FOLDS:
        model = counts(family="binomial").fit(X.iloc[train], SUCCESS[train], trials=TRIALS[train])
        probability = model.predict(X.iloc[test]).repeat(TRIALS[test])
        y = np.concatenate([np.arange(m) < a for a, m in zip(SUCCESS[test], TRIALS[test], strict=True)]).astype(int)
        expected["log_loss"].append(log_loss(y, probability))
        expected["brier"].append(brier_score_loss(y, probability))
    for name, values in expected.items():
        assert table.loc["pooled", name] == pytest.approx(np.mean(values), rel=1e-6)
        assert table.loc["classes", name] == pytest.approx(np.mean(values), rel=1e-6)
    np.testing.assert_allclose(some["neg_log_loss"], -some["log_loss"], rtol=1e-9)

    def of_baseline(train, test):
        twice, weight = np.tile(train, 2), np.concatenate([SUCCESS[train], (TRIALS - SUCCESS)[train]])
        kept, y = weight > 0, np.repeat([1, 0], len(train))
        model = make_pipeline(StandardScaler(), LogisticRegression())
        model.fit(X[["x"]].iloc[twice[kept]], y[kept], logisticregression__sample_weight=weight[kept])
        p = model.predict_proba(X[["x"]].iloc[test])[:, 1]
        return np.average(SHARE[test] * (1 - p) ** 2 + (1 - SHARE[test]) * p**2, weights=TRIALS[test])

    assert table.loc["logistic", "brier"] == over_folds(of_baseline)
    assert table.loc["pooled", "log_loss"] < table.loc["logistic", "log_loss"]


def test_shares_with_trials_as_weights():
    models = {"pooled": PartialPoolingCountRegressor(family="binomial")}
    scoring = ["log_loss", "brier", "coverage", "width"]
    by_keyword = compare(models, X[["x"]], SUCCESS, scoring, trials=TRIALS)
    np.testing.assert_allclose(compare(models, X[["x"]], SHARE, scoring, sample_weight=TRIALS), by_keyword, rtol=1e-7)
    assert list(compare(models, X[["x"]], SUCCESS, trials=TRIALS)) == [
        "log_loss", "brier", "fit_seconds", "predict_seconds",
    ]  # fmt: skip


# sds of means are as from so many rows as exposure adds up to, and say so
@pytest.mark.filterwarnings("ignore::hbsk.exceptions.SuspiciousWeightsWarning")
def test_shrunken_rates_get_exposure_and_shrunken_means_weights():
    models = {"rates": JamesSteinEstimator(method="gamma-poisson"), "means": JamesSteinEstimator()}
    table = compare(models, X[["x"]], COUNT, ["poisson_deviance", "coverage"], exposure=EXPOSURE)

    def deviance(method):
        def score(train, test):
            beside = {"exposure": EXPOSURE[train]} if method == "gamma-poisson" else {"sample_weight": EXPOSURE[train]}
            y = COUNT[train] if method == "gamma-poisson" else RATE[train]
            model = JamesSteinEstimator(method=method).fit(X[["x"]].iloc[train], y, groups=X["g"].iloc[train], **beside)
            predicted = model.predict(X[["x"]].iloc[test], groups=X["g"].iloc[test])
            return mean_poisson_deviance(RATE[test], predicted, sample_weight=EXPOSURE[test])

        return score

    assert table.loc["rates", "poisson_deviance"] == over_folds(deviance("gamma-poisson"))
    assert table.loc["means", "poisson_deviance"] == over_folds(deviance("james-stein"))
    assert table.loc["rates", "coverage"] > 0.7


def test_searches_get_weights_and_with_routing_what_they_asked_for():
    search = GridSearchCV(counts(), {"pooling": ["complete", "partial"]}, cv=KFold(2))
    scoring = {
        "deviance": "poisson_deviance",
        "ours": make_group_scorer(mean_poisson_deviance),
        "d2": make_group_scorer(d2_tweedie_score, power=1),
    }
    plain = compare({"search": search}, X, COUNT, scoring, exposure=EXPOSURE)
    with sklearn.config_context(enable_metadata_routing=True):
        asking = counts().set_fit_request(exposure=True).set_score_request(exposure=True)
        routed = GridSearchCV(asking, {"pooling": ["complete", "partial"]}, cv=KFold(2))
        table = compare({"search": routed, "piped": make_pipeline(asking)}, X, COUNT, scoring, exposure=EXPOSURE)
    np.testing.assert_allclose(table.loc["search"], plain.loc["search"], rtol=1e-6)
    np.testing.assert_allclose(table["ours"], table["deviance"], rtol=1e-9)
    pooled = compare({"pooled": counts()}, X, COUNT, scoring, exposure=EXPOSURE)
    np.testing.assert_allclose(table.loc["piped"], pooled.loc["pooled"], rtol=1e-9)


@pytest.mark.parametrize(
    ("model", "y", "options", "error", "text"),
    [
        (counts(), COUNT, {"exposure": EXPOSURE, "trials": TRIALS}, ValueError, "both exposure= and trials="),
        (counts(), COUNT, {"exposure": 0.0}, ValueError, "exposure must be positive"),
        (counts(), -COUNT, {"exposure": EXPOSURE}, ValueError, "y must be counts"),
        (counts(), TRIALS + 1, {"trials": TRIALS}, ValueError, "must not exceed trials="),
        (counts(), SUCCESS, {"trials": TRIALS}, ValueError, "trials= was given with family='poisson'"),
        (LogisticRegression(), COUNT, {"exposure": EXPOSURE}, ValueError, "exposure= was given with classifiers"),
        (KNeighborsClassifier(), SUCCESS, {"trials": TRIALS}, TypeError, "whose fit takes no sample_weight="),
        (Ridge(), COUNT, {"scoring": ["log_loss"]}, ValueError, "shares between 0 and 1"),
        (
            LogisticRegression(),
            SUCCESS,
            {"trials": TRIALS, "scoring": {"first": lambda estimator, X, y: 0.0}},
            TypeError,
            "takes no sample_weight",
        ),
    ],
)
def test_refused(model, y, options, error, text):
    with pytest.raises(error, match=text):
        compare({"model": model}, X[["x"]] if not hasattr(model, "family") else X, y, **{"scoring": None, **options})
