"""Metadata routing of `groups` where a formula says what they are: each case works, or says what to write."""

import re

import numpy as np
import pytest
import sklearn
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.pipeline import Pipeline

from hbsk import JamesSteinEstimator, PartialPoolingRegressor
from hbsk.model_selection import WithinGroupKFold
from tests.sklearn_tools import make_schools

COLUMN = "~ hours + (1 | school)"
KEYWORD = "~ hours + (1 | groups)"
NEW, KNOWN = GroupKFold(3), WithinGroupKFold(3)


@pytest.fixture(autouse=True)
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.fixture(scope="module")
def schools():
    features, y, codes, names = make_schools()
    return features.assign(school=names[codes]), y.to_numpy()


def requesting(model):
    return model.set_fit_request(groups=True).set_score_request(groups=True)


def in_pipeline(model):
    return Pipeline([("nothing", "passthrough"), ("model", model)])


def validated(model, X, y, cv, groups):
    return cross_validate(model, X, y, cv=cv, params={"groups": groups}, error_score="raise")["test_score"]


def searched(model, X, y, cv, groups, **grid):
    grid = {f"model__{name}": values for name, values in grid.items()} or {"model__unknown_groups": ["population"]}
    search = GridSearchCV(in_pipeline(model), grid, cv=cv, error_score="raise").fit(X, y, groups=groups)
    return np.array([search.cv_results_[f"split{k}_test_score"][search.best_index_] for k in range(3)])


def expected(X, y, cv):
    """Score by hand, in the folds that the splitter makes of the schools."""
    scores = []
    for train, test in cv.split(X, y, X["school"]):
        model = PartialPoolingRegressor(COLUMN).fit(X.iloc[train], y[train])
        scores.append(model.score(X.iloc[test], y[test]))
    return scores


RUNS = pytest.mark.parametrize("run", [validated, searched])


@RUNS
@pytest.mark.parametrize("cv", [NEW, KNOWN], ids=["new", "known"])
@pytest.mark.parametrize("asked", [False, True])
def test_formula_that_names_a_column(run, cv, asked, schools):
    X, y = schools
    model = PartialPoolingRegressor(COLUMN)
    model = requesting(model) if asked else model
    np.testing.assert_allclose(run(model, X, y, cv, X["school"]), expected(X, y, cv), rtol=1e-9)


@RUNS
@pytest.mark.parametrize("cv", [NEW, KNOWN], ids=["new", "known"])
def test_formula_that_names_groups(run, cv, schools):
    X, y = schools
    model = requesting(PartialPoolingRegressor(KEYWORD))
    np.testing.assert_allclose(run(model, X[["hours"]], y, cv, X["school"]), expected(X, y, cv), rtol=1e-9)


@RUNS
def test_formula_that_names_groups_and_has_not_asked_for_them(run, schools):
    X, y = schools
    with pytest.raises(UnsetMetadataPassedError, match=r"PartialPoolingRegressor\.set_fit_request"):
        run(PartialPoolingRegressor(KEYWORD), X[["hours"]], y, KNOWN, X["school"])


@pytest.mark.parametrize("name", ["subgroups", "groups_", "age groups"])
def test_names_that_only_contain_groups(name, schools):
    X, y = schools
    X = X.rename(columns={"hours": name})
    model = PartialPoolingRegressor(f"~ `{name}` + (1 | school)")
    np.testing.assert_allclose(
        validated(model, X, y, NEW, X["school"]), expected(X.rename(columns={name: "hours"}), y, NEW), rtol=1e-9
    )


def test_column_called_groups(schools):
    """Whether the name means the column or the keyword is for the user to say."""
    X, y = schools
    named = X.rename(columns={"school": "groups"})
    with pytest.raises(UnsetMetadataPassedError, match=r"set_fit_request\(\{metadata\}=True/False\)"):
        validated(PartialPoolingRegressor(KEYWORD), named, y, NEW, X["school"])
    refused = PartialPoolingRegressor(KEYWORD).set_fit_request(groups=False).set_score_request(groups=False)
    np.testing.assert_allclose(validated(refused, named, y, NEW, X["school"]), expected(X, y, NEW), rtol=1e-9)
    with pytest.raises(ValueError, match="Groups were given twice: X has a column 'groups'"):
        validated(requesting(PartialPoolingRegressor(KEYWORD)), named, y, NEW, X["school"])


@pytest.mark.parametrize(("formula", "words"), [(3, "'formula' parameter"), ("~ hours + (1 |", "formula='~ hours")])
def test_formula_that_cannot_be_read(formula, words, schools):
    X, y = schools
    with pytest.raises(ValueError, match=words):
        validated(PartialPoolingRegressor(formula), X, y, NEW, X["school"])


@pytest.mark.parametrize(
    ("estimator_class", "grid"),
    [
        (PartialPoolingRegressor, {"formula": [COLUMN]}),
        (PartialPoolingRegressor, {"group_features": ["school"]}),
        (JamesSteinEstimator, {"group_features": ["school"]}),
    ],
)
def test_column_that_only_the_candidates_name(estimator_class, grid, schools):
    """scikit-learn asks the estimator it was given, before it has the parameters of a candidate."""
    X, y = schools
    text = "Pipeline.fit got unexpected argument(s) {'groups'}, which are not routed to any object."
    with pytest.raises(TypeError, match=re.escape(text)):
        searched(estimator_class(), X, y, NEW, X["school"], **grid)
    refused = estimator_class().set_fit_request(groups=False).set_score_request(groups=False)
    scores = searched(refused, X, y, NEW, X["school"], **grid)
    (name,) = grid
    named = estimator_class(**{name: grid[name][0]})
    np.testing.assert_allclose(scores, validated(named, X, y, NEW, X["school"]), rtol=1e-9)


def test_formula_that_names_groups_with_routing_off(schools):
    X, y = schools
    with sklearn.config_context(enable_metadata_routing=False):
        with pytest.raises(ValueError, match=r"uses 'groups', the labels passed to fit as groups=, but none were"):
            searched(PartialPoolingRegressor(KEYWORD), X[["hours"]], y, KNOWN, X["school"])
        scores = searched(PartialPoolingRegressor(COLUMN), X, y, NEW, X["school"])
    np.testing.assert_allclose(scores, expected(X, y, NEW), rtol=1e-9)
