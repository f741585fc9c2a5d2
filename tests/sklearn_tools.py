"""scikit-learn's tools, each applied to an estimator of ours with groups by one route, for test_dropping_in.py.

A tool is a function of a `Case` that returns how much of the variation it explains (R^2 of what it predicts, or a score
of that kind). The data are made so that an answer with groups explains nearly all of it and one without nearly nothing.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import AdaBoostRegressor, BaggingRegressor, StackingRegressor, VotingRegressor
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import RFE, SelectFromModel, SequentialFeatureSelector
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.linear_model import LinearRegression, RANSACRegressor
from sklearn.metrics import mean_squared_error, r2_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    KFold,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from hbsk.model_selection import WithinGroupKFold, make_group_scorer

GRID = {"unknown_groups": ["population", "nan"]}
FOLDS = KFold(2, shuffle=True, random_state=5)


def make_schools():
    """Make 13 schools of 4 to 12 pupils, two features, and marks that mostly depend on the school."""
    rng = np.random.default_rng(613)
    sizes = 4 + np.arange(13) * 7 % 9
    school = np.repeat(np.arange(13), sizes)
    X = pd.DataFrame({"hours": rng.normal(2.0, 1.0, len(school)), "age": rng.uniform(9, 13, len(school))})
    # Far apart and in no order, so that no line through the codes can follow them.
    level = 8.0 * rng.permutation(13) - 31.0
    y = level[school] + 0.8 * X["hours"].to_numpy() + rng.normal(0, 0.7, len(school))
    order = rng.permutation(len(school))
    names = np.array([f"school {j:02d}" for j in range(13)])
    return X.iloc[order].reset_index(drop=True), pd.Series(y[order], name="marks"), school[order], names


@dataclass
class Case:
    """An estimator class, the route of its groups, and data that suit the route."""

    estimator_class: type
    route: str  # "name", "index", "index of text", "keyword"
    routing: bool

    def __post_init__(self):
        self.features, self.y, self.codes, names = make_schools()
        self.labels = pd.Series(names[self.codes], name="school")
        X = self.features.copy()
        if self.route != "keyword":
            # In the middle: a column that slips to another place must be noticed.
            X.insert(1, "school", 100.0 + self.codes if self.route == "index" else self.labels)
        self.X = X.to_numpy() if self.route.startswith("index") else X
        self.groups = {"groups": self.labels} if self.route == "keyword" else {}

    def estimator(self):
        column = {"name": "school", "index": -2, "index of text": -2, "keyword": None}[self.route]
        return self.request(self.estimator_class(group_features=column))

    def request(self, estimator):
        """Request groups for all methods, where that is done."""
        if self.routing and self.route == "keyword":
            for method in ("fit", "predict", "score"):
                getattr(estimator, f"set_{method}_request")(groups=True)
        return estimator

    def new_rows(self, estimator, **groups):
        """Give the R^2 of the rows that `estimator` was fitted to."""
        return r2_score(self.y, estimator.predict(self.X, **groups))


# ---------------------------------------------------------------------------------------------------------------------
# Cross-validation


def cross_val_score_with_params(case):
    return cross_val_score(case.estimator(), case.X, case.y, cv=FOLDS, params=case.groups).mean()


def cross_val_score_with_groups(case):
    return cross_val_score(case.estimator(), case.X, case.y, cv=FOLDS, **case.groups).mean()


def cross_validate_with_scoring(case):
    result = cross_validate(
        case.estimator(), case.X, case.y, cv=FOLDS, scoring=["r2", "neg_max_error"], params=case.groups
    )
    return result["test_r2"].mean()


def cross_validate_with_group_scorer(case):
    scoring = {"r2": make_group_scorer(r2_score), "mse": make_group_scorer(mean_squared_error)}
    groups = {"groups": case.labels} if case.routing else case.groups
    folds = WithinGroupKFold(3) if case.routing else FOLDS
    result = cross_validate(case.estimator(), case.X, case.y, cv=folds, scoring=scoring, params=groups)
    return result["test_r2"].mean()


def cross_validate_with_splitter(case):
    """Groups for the splitter, whatever the estimator reads."""
    groups = {"params": {"groups": case.labels}} if case.routing else {"groups": case.labels}
    return cross_val_score(case.estimator(), case.X, case.y, cv=WithinGroupKFold(3), **groups).mean()


def cross_val_predict_(case):
    return r2_score(case.y, cross_val_predict(case.estimator(), case.X, case.y, cv=FOLDS, params=case.groups))


def learning_curve_(case):
    groups = {"params": case.groups} if case.routing else case.groups
    _, _, scores = learning_curve(case.estimator(), case.X, case.y, cv=FOLDS, train_sizes=[0.8, 1.0], **groups)
    return scores[-1].mean()


def validation_curve_(case):
    groups = {"params": case.groups} if case.routing else case.groups
    _, scores = validation_curve(
        case.estimator(), case.X, case.y, cv=FOLDS, param_name="unknown_groups", param_range=["population"], **groups
    )
    return scores.mean()


# ---------------------------------------------------------------------------------------------------------------------
# Searches


def _search(case, search):
    search.fit(case.X, case.y, **case.groups)
    return search.best_score_


def grid_search(case):
    return _search(case, GridSearchCV(case.estimator(), GRID, cv=FOLDS))


def grid_search_with_scoring(case):
    return _search(case, GridSearchCV(case.estimator(), GRID, cv=FOLDS, scoring="r2"))


def grid_search_with_group_scorer(case):
    return _search(case, GridSearchCV(case.estimator(), GRID, cv=FOLDS, scoring=make_group_scorer(r2_score)))


def grid_search_predict(case):
    search = GridSearchCV(case.estimator(), {"unknown_groups": ["nan"]}, cv=FOLDS, refit=True)
    search.fit(case.X, case.y, **case.groups)
    return case.new_rows(search, **case.groups)


def grid_search_best_estimator(case):
    search = GridSearchCV(case.estimator(), {"unknown_groups": ["nan"]}, cv=FOLDS, refit=True)
    search.fit(case.X, case.y, **case.groups)
    return case.new_rows(search.best_estimator_, **case.groups)


def grid_search_of_pipeline_with_splitter(case):
    """Search a Pipeline by GroupKFold, which scores new groups; what is returned is the R^2 of the best model."""
    pipeline = Pipeline([("model", case.estimator())])
    search = GridSearchCV(pipeline, {"model__unknown_groups": ["population"]}, cv=GroupKFold(3))
    search.fit(case.X, case.y, groups=case.labels)
    return case.new_rows(search.best_estimator_, **case.groups)


def randomized_search(case):
    return _search(case, RandomizedSearchCV(case.estimator(), GRID, n_iter=1, cv=FOLDS, random_state=0))


def halving_search(case):
    # The same candidate twice: what is asked here is not which is better.
    grid = {"unknown_groups": ["population", "population"]}
    search = HalvingGridSearchCV(case.estimator(), grid, cv=FOLDS, factor=2, min_resources=40, random_state=0)
    return _search(case, search)


# ---------------------------------------------------------------------------------------------------------------------
# Before, around and above the estimator


def pipeline(case):
    """A Pipeline, groups under their own name."""
    model = Pipeline([("nothing", "passthrough"), ("model", case.estimator())])
    return case.new_rows(model.fit(case.X, case.y, **case.groups), **case.groups)


def pipeline_with_step_name(case):
    """A Pipeline, groups with the name of the step in front."""
    model = Pipeline([("nothing", "passthrough"), ("model", case.estimator())])
    model.fit(case.X, case.y, **{f"model__{name}": labels for name, labels in case.groups.items()})
    return case.new_rows(model, **case.groups)


def column_transformer(case, **options):
    first = ["hours"] if isinstance(case.X, pd.DataFrame) else [0]
    before = ColumnTransformer([("scale", StandardScaler(), first)], remainder="passthrough", **options)
    return before, Pipeline([("before", before), ("model", case.estimator())])


def _fitted(case, model):
    return case.new_rows(model.fit(case.X, case.y, **case.groups), **case.groups)


def column_transformer_array(case):
    _, model = column_transformer(case)
    return _fitted(case, model)


def column_transformer_pandas(case):
    before, model = column_transformer(case)
    before.set_output(transform="pandas")
    return _fitted(case, model)


def column_transformer_short_names(case):
    before, model = column_transformer(case, verbose_feature_names_out=False)
    before.set_output(transform="pandas")
    return _fitted(case, model)


def transformed_target(case):
    return _fitted(case, TransformedTargetRegressor(case.estimator(), transformer=StandardScaler()))


def bagging(case):
    return _fitted(case, BaggingRegressor(case.estimator(), n_estimators=2, random_state=0))


def adaboost(case):
    return _fitted(case, AdaBoostRegressor(case.estimator(), n_estimators=2, random_state=0))


def ransac(case):
    return _fitted(case, RANSACRegressor(case.estimator(), min_samples=0.9, max_trials=2, random_state=0))


def voting(case):
    model = VotingRegressor([("ours", case.estimator())]).fit(case.X, case.y, **case.groups)
    return case.new_rows(model)


def stacking(case):
    return _fitted(case, StackingRegressor([("ours", case.estimator())], LinearRegression(), cv=3))


def multi_output(case):
    model = MultiOutputRegressor(case.estimator())
    model.fit(case.X, np.column_stack([case.y, -case.y]), **case.groups)
    return r2_score(-case.y, model.predict(case.X)[:, 1])


def sequential_selection(case):
    n_features = case.X.shape[1] - 1
    selector = SequentialFeatureSelector(
        case.estimator(), n_features_to_select=n_features, direction="backward", cv=FOLDS
    )
    selector.fit(case.X, case.y, **case.groups)
    kept = selector.transform(case.X)
    model = case.estimator().fit(kept, case.y, **case.groups)
    return r2_score(case.y, model.predict(kept, **case.groups))


def recursive_elimination(case):
    return _fitted(case, RFE(case.estimator(), n_features_to_select=case.X.shape[1] - 1))


def select_from_model(case):
    X = np.asarray(case.X)
    selector = SelectFromModel(case.estimator(), threshold=-1.0).fit(X, case.y, **case.groups)
    kept = selector.transform(X)
    return r2_score(case.y, selector.estimator_.predict(kept, **case.groups))


def permutation_importance_(case):
    model = case.estimator().fit(case.X, case.y, **case.groups)
    result = permutation_importance(model, case.X, case.y, n_repeats=1, random_state=0)
    # Shuffling the schools loses all that is explained, and more.
    return min(result.importances_mean[0 if case.route == "keyword" else 1], 1.0)


def partial_dependence_(case):
    model = case.estimator().fit(case.X, case.y, **case.groups)
    column = "hours" if isinstance(case.X, pd.DataFrame) else 0
    result = partial_dependence(model, case.X, [column], kind="individual", grid_resolution=3)
    # Each pupil's line over hours: high or low as the pupil's school is.
    return r2_score(case.y, result["individual"][0].mean(axis=1))


def two_processes(case):
    return cross_val_score(case.estimator(), case.X, case.y, cv=FOLDS, params=case.groups, n_jobs=2).mean()


TOOLS = {
    '`cross_val_score(model, X, y, params={"groups": g})`': cross_val_score_with_params,
    "`cross_val_score(model, X, y, groups=g)`": cross_val_score_with_groups,
    "`cross_validate(..., cv=WithinGroupKFold())`, groups for the folds": cross_validate_with_splitter,
    '`cross_validate(..., scoring=["r2", ...])`': cross_validate_with_scoring,
    "`cross_validate(..., scoring=make_group_scorer(r2_score))`": cross_validate_with_group_scorer,
    "`cross_val_predict`": cross_val_predict_,
    "`learning_curve`": learning_curve_,
    "`validation_curve`": validation_curve_,
    "`GridSearchCV`": grid_search,
    '`GridSearchCV(..., scoring="r2")`': grid_search_with_scoring,
    "`GridSearchCV(..., scoring=make_group_scorer(r2_score))`": grid_search_with_group_scorer,
    "`GridSearchCV(Pipeline(...), cv=GroupKFold())`, groups for the folds": grid_search_of_pipeline_with_splitter,
    "`RandomizedSearchCV`": randomized_search,
    "`HalvingGridSearchCV`": halving_search,
    "`search.predict(X, groups=g)` after a search": grid_search_predict,
    "`search.best_estimator_.predict(X, groups=g)`": grid_search_best_estimator,
    "`Pipeline.fit(X, y, groups=g)`": pipeline,
    "`Pipeline.fit(X, y, model__groups=g)`": pipeline_with_step_name,
    "`ColumnTransformer` before the model, arrays": column_transformer_array,
    '`ColumnTransformer` with `set_output(transform="pandas")`': column_transformer_pandas,
    "the same with `verbose_feature_names_out=False`": column_transformer_short_names,
    "`TransformedTargetRegressor`": transformed_target,
    "`BaggingRegressor`": bagging,
    "`AdaBoostRegressor`": adaboost,
    "`RANSACRegressor`": ransac,
    "`VotingRegressor`": voting,
    "`StackingRegressor`": stacking,
    "`MultiOutputRegressor`": multi_output,
    "`SequentialFeatureSelector`": sequential_selection,
    "`RFE`": recursive_elimination,
    "`SelectFromModel`": select_from_model,
    "`permutation_importance`": permutation_importance_,
    "`partial_dependence`": partial_dependence_,
}
