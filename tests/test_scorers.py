"""make_group_scorer hands groups to predict and to the metric, and nothing to estimators that want none."""

import copy
import pickle
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.inspection import permutation_importance
from sklearn.linear_model import BayesianRidge, LinearRegression
from sklearn.metrics import (
    average_precision_score,
    make_scorer,
    mean_absolute_error,
    mean_pinball_loss,
    r2_score,
    roc_auc_score,
)
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from hbsk import JamesSteinEstimator, PartialPoolingClassifier, PartialPoolingRegressor
from hbsk.exceptions import RowOrderWarning
from hbsk.model_selection import WithinGroupKFold, make_group_scorer


class GroupMean(RegressorMixin, BaseEstimator):
    """Predicts the mean of each row's group, 100 for others; notes what it was given."""

    def fit(self, X, y, groups=None):
        self.means_ = {} if groups is None else pd.Series(np.asarray(y)).groupby(np.asarray(groups)).mean().to_dict()
        return self

    def predict(self, X, groups=None, *, return_std=False):
        self.got_ = None if groups is None else list(groups)
        labels = [None] * len(X) if groups is None else groups
        mean = np.array([self.means_.get(label, 100.0) for label in labels])
        return (mean, np.full(len(mean), 0.7)) if return_std else mean

    def predict_interval(self, X, groups=None):
        mean = self.predict(X, groups)
        return np.column_stack([mean - 1.0, mean + 2.0])

    def score(self, X, y, sample_weight=None, *, groups=None):
        return r2_score(y, self.predict(X, groups), sample_weight=sample_weight)


X = np.arange(9.0)[:, None] * 0.3
Y = np.array([1.0, 3.0, 8.0, 9.5, 2.0, 7.0, 4.5, 1.5, 8.8])
GROUPS = np.array(["a", "b", "c", "c", "a", "c", "b", "a", "c"])


@pytest.fixture
def fitted():
    return GroupMean().fit(X, Y, groups=GROUPS)


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def error_per_group(y_true, y_pred, groups):
    return pd.Series(np.abs(np.asarray(y_true) - y_pred)).groupby(np.asarray(groups)).mean().mean()


def sharpness(y_true, mean, std, factor=1.0):
    assert len(y_true) == len(mean)
    return factor * std.mean()


def covered(y_true, interval):
    return np.mean((interval[:, 0] <= y_true) & (y_true <= interval[:, 1]))


def test_groups_reach_predict(fitted):
    scorer = make_group_scorer(mean_absolute_error, greater_is_better=False)
    rows = np.array([4, 2, 6])
    score = scorer(fitted, X[rows], Y[rows], groups=GROUPS[rows])
    # Means: a 1.5, b 3.75, c 8.325.
    assert score == pytest.approx(-(0.5 + 0.325 + 0.75) / 3)
    assert fitted.got_ == ["a", "c", "b"]


def test_groups_reach_the_metric(fitted):
    scorer = make_group_scorer(error_per_group)
    a, b, c = [1.0 - 1.5, 0.5, 0.0], [0.75, 0.75], [8 - 8.325, 1.175, 7 - 8.325, 8.8 - 8.325]
    assert scorer(fitted, X, Y, GROUPS) == pytest.approx(np.mean([np.abs(e).mean() for e in (a, b, c)]))
    assert scorer(LinearRegression().fit(X, Y), X, Y, GROUPS) > 0


def test_metric_that_can_do_without_groups():
    def error(y_true, y_pred, groups=None):
        return 17.0 if groups is None else 23.0

    scorer = make_group_scorer(error)
    model = LinearRegression().fit(X, Y)
    assert (scorer(model, X, Y), scorer(model, X, Y, groups=GROUPS)) == (17.0, 23.0)


def test_metric_that_needs_groups_and_gets_none():
    scorer = make_group_scorer(error_per_group)
    text = (
        "error_per_group needs groups, and none arrived at make_group_scorer(error_per_group). scikit-learn passes "
        "them to scorers only with metadata routing on: sklearn.set_config(enable_metadata_routing=True), and "
        "params={'groups': ...} in cross_validate or groups=... in GridSearchCV.fit."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        scorer(LinearRegression().fit(X, Y), X, Y)


def test_arguments_of_the_metric_and_sign():
    model = LinearRegression().fit(X, Y)
    expected = mean_pinball_loss(Y, model.predict(X), alpha=0.2)
    assert make_group_scorer(mean_pinball_loss, alpha=0.2)(model, X, Y) == pytest.approx(expected)
    assert make_group_scorer(mean_pinball_loss, greater_is_better=False, alpha=0.2)(model, X, Y) == -expected


def test_responses(fitted):
    assert make_group_scorer(sharpness, response="mean_and_std", factor=3.0)(fitted, X, Y, GROUPS) == pytest.approx(2.1)
    assert make_group_scorer(covered, response="predict_interval")(fitted, X, Y, GROUPS) == pytest.approx(8 / 9)
    with pytest.raises(AttributeError, match="predict_interval"):
        make_group_scorer(covered, response="predict_interval")(LinearRegression().fit(X, Y), X, Y)


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("response", ["mean_and_std", "predict_interval", "predict"])
def test_last_steps_answer_in_pipelines_and_searches(on, response):
    metric = {"mean_and_std": sharpness, "predict_interval": covered, "predict": r2_score}[response]
    scorer = make_group_scorer(metric, response=response)
    model = GroupMean().fit(X, Y, groups=GROUPS)
    with sklearn.config_context(enable_metadata_routing=on):
        inner = GroupMean().set_fit_request(groups=True) if on else GroupMean()
        step = {} if on else {"model__groups": GROUPS}
        step = {"groups": GROUPS} if on else step
        pipeline = Pipeline([("scale", StandardScaler()), ("model", inner)]).fit(X, Y, **step)
        assert scorer(pipeline, X, Y, groups=GROUPS) == pytest.approx(scorer(model, X, Y, groups=GROUPS))
        assert pipeline[-1].got_ == list(GROUPS)
    search = GridSearchCV(BayesianRidge(), {"alpha_1": [1e-6]}, cv=3).fit(X, Y)
    if response == "mean_and_std":
        expected = search.best_estimator_.predict(X, return_std=True)[1].mean()
        assert scorer(search, X, Y, groups=GROUPS) == pytest.approx(expected)


def test_pipeline_transforms_before_the_last_step():
    model = make_pipeline(StandardScaler(), LinearRegression()).fit(X, Y)
    assert make_group_scorer(r2_score)(model, X, Y, groups=GROUPS) == pytest.approx(model.score(X, Y))


def test_transformed_target_regressor(fitted):
    model = TransformedTargetRegressor(GroupMean(), transformer=StandardScaler()).fit(X, Y, groups=GROUPS)
    scorer = make_group_scorer(r2_score)
    assert scorer(model, X, Y, groups=GROUPS) == pytest.approx(scorer(fitted, X, Y, groups=GROUPS))


def test_missing_request_within_a_meta_estimator_is_named_by_scikit_learn(routing):
    inner = GroupMean().set_fit_request(groups=True)
    model = TransformedTargetRegressor(inner, transformer=StandardScaler()).fit(X, Y, groups=GROUPS)
    with pytest.raises(UnsetMetadataPassedError, match=r"GroupMean.set_predict_request"):
        make_group_scorer(r2_score)(model, X, Y, groups=GROUPS)


@pytest.mark.parametrize(
    "model", [PartialPoolingRegressor(group_features="school"), JamesSteinEstimator(group_features="school", target=5)]
)
def test_estimators_that_read_a_column_are_not_given_groups(model):
    frame = pd.DataFrame({"x": X[:, 0], "school": GROUPS})
    model = clone(model).fit(frame, Y)
    with pytest.raises(ValueError, match="takes its groups from columns"):
        model.predict(frame, groups=GROUPS)
    assert make_group_scorer(r2_score)(model, frame, Y, groups=GROUPS) == pytest.approx(model.score(frame, Y))


def test_refused_request_is_respected(fitted, routing):
    fitted.set_predict_request(groups=False)
    make_group_scorer(mean_absolute_error)(fitted, X, Y, groups=GROUPS)
    assert fitted.got_ is None


# ---------------------------------------------------------------------------------------------------------------------
# In scikit-learn


FOLDS = KFold(3, shuffle=True, random_state=2)


def test_cross_validation_with_routing_equals_doing_it_by_hand(routing):
    model = GroupMean().set_fit_request(groups=True)
    scoring = {
        "ours": make_group_scorer(mean_absolute_error, greater_is_better=False),
        "per_group": make_group_scorer(error_per_group),
        "std": make_group_scorer(sharpness, response="mean_and_std"),
    }
    result = cross_validate(model, X, Y, cv=FOLDS, scoring=scoring, params={"groups": GROUPS})
    for fold, (train, test) in enumerate(FOLDS.split(X)):
        mean = GroupMean().fit(X[train], Y[train], GROUPS[train]).predict(X[test], GROUPS[test])
        assert result["test_ours"][fold] == pytest.approx(-mean_absolute_error(Y[test], mean))
        assert result["test_per_group"][fold] == pytest.approx(error_per_group(Y[test], mean, GROUPS[test]))


def test_scikit_learns_own_scorer_does_lose_groups(routing):
    model = GroupMean().set_fit_request(groups=True)
    scorer = make_scorer(mean_absolute_error)
    scores = cross_val_score(model, X, Y, cv=FOLDS, scoring=scorer, params={"groups": GROUPS})
    assert scores.min() > 80


def test_grid_search_over_a_pipeline(routing):
    pipeline = Pipeline(
        [("scale", StandardScaler()), ("model", PartialPoolingRegressor().set_fit_request(groups=True))]
    )
    search = GridSearchCV(
        pipeline,
        {"model__pooling": ["complete", "partial"]},
        scoring=make_group_scorer(mean_absolute_error, greater_is_better=False),
        cv=WithinGroupKFold(2),
        error_score="raise",
    )
    search.fit(X, Y, groups=GROUPS)
    assert search.best_params_ == {"model__pooling": "partial"}
    assert -search.best_score_ < 1.6 < -search.cv_results_["mean_test_score"][0]


def test_mixed_with_other_scorers_nothing_is_shared(routing):
    # scikit-learn keeps predictions by the name of the method: those without groups must not be ours.
    model = GroupMean().set_fit_request(groups=True)
    scoring = {"theirs": make_scorer(mean_absolute_error), "ours": make_group_scorer(mean_absolute_error), "r2": "r2"}
    result = cross_validate(model, X, Y, cv=WithinGroupKFold(2), scoring=scoring, params={"groups": GROUPS})
    assert result["test_theirs"].min() > 80
    assert result["test_ours"].max() < 5


def test_alias_of_groups(routing):
    model = GroupMean().set_fit_request(groups="school")
    scorer = make_group_scorer(mean_absolute_error).set_score_request(groups="school")
    scores = cross_val_score(model, X, Y, cv=FOLDS, scoring=scorer, params={"school": GROUPS})
    plain = cross_val_score(
        GroupMean().set_fit_request(groups=True), X, Y, cv=FOLDS, scoring=make_group_scorer(mean_absolute_error),
        params={"groups": GROUPS},
    )  # fmt: skip
    np.testing.assert_array_equal(scores, plain)


def test_groups_can_be_declined(routing):
    scorer = make_group_scorer(mean_absolute_error).set_score_request(groups=False)
    scores = cross_val_score(
        GroupMean().set_fit_request(groups=True), X, Y, cv=FOLDS, scoring=scorer, params={"groups": GROUPS}
    )
    assert scores.min() > 80


def test_weights_are_an_error_until_requested(routing):
    model = GroupMean().set_fit_request(groups=True)
    weights = np.linspace(0.2, 3.1, 9)
    scorer = make_group_scorer(mean_absolute_error)
    with pytest.raises(UnsetMetadataPassedError, match=re.escape("make_group_scorer(mean_absolute_error)")):
        cross_val_score(model, X, Y, cv=FOLDS, scoring=scorer, params={"groups": GROUPS, "sample_weight": weights})
    scorer.set_score_request(sample_weight=True)
    scores = cross_val_score(model, X, Y, cv=FOLDS, scoring=scorer, params={"groups": GROUPS, "sample_weight": weights})
    train, test = next(FOLDS.split(X))
    mean = GroupMean().fit(X[train], Y[train], GROUPS[train]).predict(X[test], GROUPS[test])
    assert scores[0] == pytest.approx(mean_absolute_error(Y[test], mean, sample_weight=weights[test]))


def test_weights_where_routing_is_off():
    model = LinearRegression().fit(X, Y)
    scorer = make_group_scorer(r2_score)
    weights = np.linspace(0.2, 3.1, 9)
    ours, theirs = (
        permutation_importance(model, X, Y, scoring=s, sample_weight=weights, random_state=3).importances
        for s in (scorer, "r2")
    )
    np.testing.assert_allclose(ours, theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search = GridSearchCV(LinearRegression(), {"positive": [False]}, scoring={"a": scorer}, refit="a", cv=FOLDS)
        search.fit(X, Y, sample_weight=weights)
    plain = GridSearchCV(LinearRegression(), {"positive": [False]}, scoring="r2", cv=FOLDS)
    assert search.best_score_ == pytest.approx(plain.fit(X, Y, sample_weight=weights).best_score_)


def test_metric_without_weights_says_so():
    search = GridSearchCV(
        LinearRegression(), {"positive": [False]}, scoring=make_group_scorer(covered, response="predict"), cv=FOLDS
    )
    with pytest.warns(UserWarning, match="does not support sample_weight"), pytest.raises(IndexError):
        search.set_params(error_score="raise").fit(X, Y, sample_weight=np.ones(9))


# ---------------------------------------------------------------------------------------------------------------------
# The object


def test_representation_copies_and_pickles():
    scorer = make_group_scorer(mean_pinball_loss, greater_is_better=False, response="predict_interval", alpha=0.2)
    text = "make_group_scorer(mean_pinball_loss, greater_is_better=False, response='predict_interval', alpha=0.2)"
    for one in (scorer, copy.deepcopy(scorer), pickle.loads(pickle.dumps(scorer))):
        assert repr(one) == text
        requests = dict.fromkeys(("groups", "exposure", "trials"), True)
    assert one.get_metadata_routing().score.requests == requests | {"sample_weight": None, "multioutput": None}


def test_request_of_a_copy_is_its_own(routing):
    scorer = make_group_scorer(mean_absolute_error)
    copy.deepcopy(scorer).set_score_request(groups="school")
    assert scorer.get_metadata_routing().score.requests["groups"] is True


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        (
            ("neg_mean_squared_error",),
            {},
            TypeError,
            "metric must be a function metric(y_true, y_pred), got 'neg_mean_squared_error'. The functions of "
            "sklearn.metrics are such metrics; names of scorers are not.",
        ),
        ((r2_score,), {"greater_is_better": "no"}, TypeError, "greater_is_better must be True or False, got 'no'."),
        (
            (r2_score,),
            {"response": ["predict"]},
            TypeError,
            "response must be the name of a method, or 'mean_and_std'; got ['predict'].",
        ),
        (
            (error_per_group,),
            {"groups": GROUPS},
            TypeError,
            "groups cannot be fixed in advance: each call of the scorer brings those of its rows.",
        ),
    ],
)
def test_bad_arguments(arguments, options, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        make_group_scorer(*arguments, **options)


def test_requests_need_routing():
    text = (
        "set_score_request needs metadata routing: sklearn.set_config(enable_metadata_routing=True). A scorer made by "
        "make_group_scorer requests groups without it."
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(text)}$"):
        make_group_scorer(r2_score).set_score_request(groups=True)


def test_fixed_arguments_cannot_be_requested(routing):
    text = (
        "alpha=0.2 is fixed in make_group_scorer(mean_pinball_loss, alpha=0.2) and cannot be requested too. Leave it "
        "out in one of the two places."
    )
    scorer = make_group_scorer(mean_pinball_loss, alpha=0.2)
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        scorer.set_score_request(alpha=True)
    with pytest.raises(ValueError, match="alias"):
        scorer.set_score_request(groups="not a name")
    assert scorer.get_metadata_routing().score.requests["groups"] is True


@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "behind a step that drops the index"])
def test_rows_in_another_order_are_told(wrapped):
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"x": rng.normal(size=12)})
    groups, y = pd.Series(list("abcd") * 3), pd.Series(rng.normal(size=12))
    model = JamesSteinEstimator(target="regression").fit(X, y, groups=groups)
    if wrapped:
        model = Pipeline([("scale", StandardScaler().fit(X)), ("model", model)])
        model[-1].fit(model[0].transform(X), y, groups=groups)
    scorer = make_group_scorer(mean_absolute_error)
    turned = X.index[::-1]
    with pytest.warns(RowOrderWarning, match="y has the index of X in another order"):
        scorer(model, X, y.loc[turned], groups=groups)
    with pytest.warns(RowOrderWarning, match="groups has the index of X in another order"):
        scorer(model, X, y, groups=groups.loc[turned])
    with pytest.warns(RowOrderWarning, match="sample_weight has the index of X in another order"):
        scorer(model, X, y, groups=groups, sample_weight=y.abs().loc[turned])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer(model, X, y, groups=groups)


@pytest.mark.parametrize("response", ["predict_proba", "predict_log_proba", "decision_function"])
@pytest.mark.parametrize("pos_label", [None, "fail", "pass"])
def test_of_two_classes_metrics_get_what_those_of_scikit_learn_get(response, pos_label):
    rng = np.random.default_rng(4)
    features, labels = rng.normal(size=(60, 2)), np.arange(60) % 6
    y = np.where(features[:, 0] + labels / 3 + rng.normal(size=60) > 0.8, "pass", "fail")
    frame = np.column_stack([features, labels])
    model = PartialPoolingClassifier(group_features=2).fit(frame, y)
    metric = average_precision_score if pos_label else roc_auc_score
    kwargs = {"pos_label": pos_label} if pos_label else {}
    theirs = (
        make_scorer(metric, response_method=response, **kwargs)(model, frame, y)
        if response != "predict_log_proba"
        else metric(y, model.predict_log_proba(frame)[:, int(pos_label != "fail")], **kwargs)
    )
    assert make_group_scorer(metric, response=response, **kwargs)(model, frame, y) == theirs
    by_keyword = PartialPoolingClassifier().fit(features, y, groups=labels)
    assert make_group_scorer(metric, response=response, **kwargs)(by_keyword, features, y, labels) == theirs
    if pos_label:
        with pytest.raises(ValueError, match=r"pos_label='other' .* none of the classes: 'fail', 'pass'"):
            make_group_scorer(metric, response=response, pos_label="other")(model, frame, y)
