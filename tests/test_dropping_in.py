"""No group is lost on the way through scikit-learn's tools: docs/dropping_in.md says so cell by cell, and is tested."""

import pickle
import re
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.ensemble import VotingRegressor
from sklearn.inspection import partial_dependence
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from hbsk import JamesSteinEstimator, PartialPoolingRegressor, exceptions
from hbsk.exceptions import NoGroupsWarning, SuspiciousGroupsWarning
from tests.sklearn_tools import FOLDS, TOOLS, Case, make_schools

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "dropping_in.md").read_text(encoding="utf-8")
COLUMNS = {"name": 0, "index": 1, "keyword": 2}
ESTIMATORS = [PartialPoolingRegressor, JamesSteinEstimator]
OURS = tuple(getattr(exceptions, name) for name in exceptions.__all__)


def table_of_the_page():
    """Return the four cells of each tool."""
    rows = [line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): [cell.strip(" |") for cell in cells[1:]] for cells in rows[1:]}


def exactly(text):
    return f"^{re.escape(text)}$"


def messages_of_the_page():
    """Return the texts of each letter, as regular expressions in which three dots match anything."""
    messages = {}
    for line in re.finditer(r"^\*\*(\w)\*\*: .*\n((?:\n```text\n(?:.*\n)*?```\n)+)", PAGE, flags=re.MULTILINE):
        texts = re.findall(r"```text\n(.*?)\n```", line[2], flags=re.DOTALL)
        messages[line[1]] = [" ".join(text.split()) for text in texts]
    return messages


TABLE = table_of_the_page()
MESSAGES = messages_of_the_page()


def letter_of(message, estimator_class):
    """Return the letter under which the page quotes a message, word for word."""
    message = " ".join(str(message).split())
    for letter, texts in MESSAGES.items():
        for text in texts:
            pattern = re.escape(text.replace("PartialPoolingRegressor", estimator_class.__name__))
            if re.fullmatch(pattern.replace(r"\.\.\.", ".*"), message):
                return f"**{letter}**"
    return message


def what_happens(tool, case):
    """Run a tool and say what happened in the words of the page."""
    words = []
    with sklearn.config_context(enable_metadata_routing=case.routing), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        error, quality = None, None
        try:
            quality = tool(case)
        except Exception as raised:
            error = raised
    letters = {letter_of(w.message, case.estimator_class) for w in caught if issubclass(w.category, OURS)}
    # What JamesSteinEstimator says of too few groups or slopes; that there are none is said by the other warning.
    letters = sorted(letter for letter in letters if len(letter) == len("**b**"))
    if letters:
        words.append("warns " + ", ".join(letters))
    if error is not None:
        words.append(f"error {letter_of(error, case.estimator_class)}")
    elif np.isnan(quality):
        # scikit-learn puts the traceback into its warning; the error is the last paragraph.
        failures = [str(w.message).rpartition("Error: ")[2] for w in caught if "Scoring failed" in str(w.message)]
        words.append("NaN " + ", ".join(sorted({letter_of(text, case.estimator_class) for text in failures})))
    elif not letters:
        words.append(
            "works" if quality > 0.9 else f"finishes with R^2 of {quality:.2f}: the groups were lost in silence"
        )
    return ", ".join(words)


def test_page_and_tests_know_the_same_tools():
    assert list(TABLE) == list(TOOLS)
    assert {len(cells) for cells in TABLE.values()} == {4}


def test_every_message_of_the_page_is_used():
    cells = " ".join(cell for cells in TABLE.values() for cell in cells)
    assert set(re.findall(r"\*\*(\w)\*\*", cells)) == set(MESSAGES)


NEED_COEFFICIENTS = {"`RFE`", "`SelectFromModel`"}


# The four cells of the page; columns of X are read before routing could matter, once with it and once without.
CELLS = [("name", True), ("index", False), ("keyword", False), ("keyword", True)]


@pytest.mark.parametrize(("route", "routing"), CELLS, ids=["name", "index", "keyword", "keyword, routing"])
@pytest.mark.parametrize("estimator_class", ESTIMATORS)
@pytest.mark.parametrize("tool", TOOLS)
def test_cell_of_the_page(tool, estimator_class, route, routing):
    if estimator_class is JamesSteinEstimator and tool in NEED_COEFFICIENTS:
        expected = None
    else:
        expected = TABLE[tool][COLUMNS[route] + (route == "keyword" and routing)]
    happened = what_happens(TOOLS[tool], Case(estimator_class, route, routing))
    if expected is None:
        assert re.match(r"error (when `importance_getter=='auto'`.*`coef_`|could not convert|\*\*[ek]\*\*)", happened)
    else:
        assert happened == expected


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_that_refuse_text(tool):
    happened = what_happens(TOOLS[tool], Case(JamesSteinEstimator, "index of text", False))
    refuses = tool in {"`RANSACRegressor`", "`SequentialFeatureSelector`", "`RFE`"}
    assert (happened == "error **k**") == refuses


# ---------------------------------------------------------------------------------------------------------------------
# What the page says below the table


@pytest.fixture(params=ESTIMATORS)
def estimator_class(request):
    return request.param


@pytest.fixture
def schools():
    features, y, codes, names = make_schools()
    X = features.copy()
    X.insert(1, "school", names[codes])
    return X, y


def test_error_score_raise_shows_the_error(estimator_class, schools):
    X, y = schools
    with pytest.raises(ValueError, match="groups= is missing") as caught:
        cross_val_score(
            estimator_class(), X[["hours"]], y, cv=FOLDS, params={"groups": X["school"]}, error_score="raise"
        )
    assert letter_of(caught.value, estimator_class) == "**a**"


def test_two_processes(estimator_class, schools):
    X, y = schools
    model = estimator_class(group_features="school")
    one, two = (cross_val_score(model, X, y, cv=FOLDS, n_jobs=n_jobs) for n_jobs in (1, 2))
    np.testing.assert_allclose(two, one, rtol=1e-9)
    assert one.min() > 0.9


def test_clone_and_parameters(estimator_class, schools):
    X, y = schools
    model = estimator_class(group_features="school").fit(X, y)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "groups_")
    moved = copy.set_params(group_features=-2).fit(X, y)
    np.testing.assert_allclose(moved.predict(X), model.predict(X), rtol=1e-9)
    nested = Pipeline([("vote", VotingRegressor([("ours", clone(model))]))]).set_params(
        vote__ours__unknown_groups="nan"
    )
    assert np.isnan(nested.fit(X, y).predict(X.assign(school="elsewhere"))).all()


def test_pickle_and_joblib(estimator_class, schools, tmp_path):
    X, y = schools
    by_column = make_pipeline("passthrough", estimator_class(group_features="school")).fit(X, y)
    by_keyword = estimator_class().fit(X[["hours"]], y, groups=X["school"])
    joblib.dump([by_column, by_keyword], tmp_path / "models")
    for column, keyword in (joblib.load(tmp_path / "models"), pickle.loads(pickle.dumps([by_column, by_keyword]))):
        np.testing.assert_array_equal(column.predict(X), by_column.predict(X))
        np.testing.assert_array_equal(
            keyword.predict(X[["hours"]], groups=X["school"]), by_keyword.predict(X[["hours"]], groups=X["school"])
        )


def to_polars(X):
    return pl.DataFrame({name: X[name].tolist() for name in X})


@pytest.mark.parametrize(
    "container",
    [to_polars, pd.DataFrame.to_numpy, lambda X: X.to_numpy().tolist()],
    ids=["polars", "objects", "list"],
)
def test_containers(estimator_class, schools, container):
    X, y = schools
    expected = estimator_class(group_features="school").fit(X, y).predict(X)
    model = estimator_class(group_features=1)
    scores = cross_val_score(model, container(X), y, cv=FOLDS)
    assert scores.min() > 0.9
    np.testing.assert_allclose(model.fit(container(X), y).predict(container(X)), expected, rtol=1e-9)


def test_polars_output_of_transformers(estimator_class, schools):
    X, y = schools
    before = make_column_transformer((StandardScaler(), ["hours"]), remainder="passthrough")
    model = make_pipeline(before, estimator_class(group_features="school")).set_output(transform="polars")
    assert model.fit(to_polars(X), y.to_numpy()).score(to_polars(X), y.to_numpy()) > 0.9


def test_column_that_two_renamed_columns_could_be(estimator_class, schools):
    X, y = schools
    X = X.rename(columns={"school": "a__school"}).assign(b__school=X["school"])
    text = (
        "group_features: 'school' could be any of 'a__school', 'b__school'. Columns that arrived: 'hours', "
        "'a__school', 'age', 'b__school'."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        estimator_class(group_features="school").fit(X, y)


def test_position_that_does_not_exist(estimator_class, schools):
    X, y = schools
    text = (
        "group_features=3: X has no column at position 3; it has 3 columns, so positions go from -3 to 2. A "
        "transformer before this step may have dropped or moved columns. X has n_features = 3."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        estimator_class(group_features=3).fit(X, y)


def test_groups_given_twice(estimator_class, schools):
    X, y = schools
    text = "Groups were given twice: group_features='school' and groups=. Use one of the two."
    with pytest.raises(ValueError, match=exactly(text)):
        estimator_class(group_features="school").fit(X, y, groups=X["school"])
    fitted = estimator_class(group_features="school").fit(X, y)
    text = (
        f"groups= was given, but this {estimator_class.__name__} takes its groups from columns of X ('school'). Leave "
        "groups= out."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        fitted.predict(X, groups=X["school"])


def test_weights_taken_for_groups(estimator_class, schools):
    X, y = schools
    text = (
        "groups= holds numbers that are not integers ('groups': 0.3, ...), which is not how groups are "
        "labelled. Was sample_weight= meant? It is a keyword of its own. Labels may be integers, text or any other "
        "hashable values; numbers like these can be turned into text if they really are labels."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        estimator_class().fit(X[["hours"]], y, np.linspace(0.3, 2.1, len(y)))


def test_slipped_position_warns(estimator_class, schools):
    X, y = schools
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator_class(group_features=-2).fit(X[["hours", "age"]], y)
    texts = [str(w.message) for w in caught if w.category is SuspiciousGroupsWarning]
    assert texts == [
        f"Group column 'hours' of X: every one of the {len(y)} labels is a different number that is not an integer. A "
        "measurement was most likely taken for a group; check that the column is the one you mean, by name rather than "
        "by index."
    ]


def test_partial_dependence_over_groups(schools):
    X, y = schools
    model = PartialPoolingRegressor(group_features="school").fit(X, y)
    result = partial_dependence(model, X, ["school"], categorical_features=["school"])
    means = y.groupby(X["school"]).mean().loc[result["grid_values"][0]]
    assert np.corrcoef(result["average"][0], means)[0, 1] > 0.99


# ---------------------------------------------------------------------------------------------------------------------
# Metadata routing


def test_name_groups_is_left_to_the_splitter_where_labels_are_in_a_column(estimator_class, schools):
    X, y = schools
    model = make_pipeline("passthrough", estimator_class(group_features="school"))
    with sklearn.config_context(enable_metadata_routing=True):
        result = cross_validate(
            model, X, y, cv=GroupKFold(4), params={"groups": X["school"]}, return_estimator=True, return_indices=True
        )
        search = GridSearchCV(model, {f"{model.steps[-1][0]}__unknown_groups": ["population"]}, cv=GroupKFold(4))
        search.fit(X, y, groups=X["school"])
    for fitted, train, test in zip(
        result["estimator"], result["indices"]["train"], result["indices"]["test"], strict=True
    ):
        assert not set(X["school"].iloc[train]) & set(X["school"].iloc[test])
        assert set(fitted[-1].groups_["school"]) == set(X["school"].iloc[train])
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], result["test_score"].mean())


def test_request_does_not_survive_a_change_of_route(estimator_class, schools):
    X, y = schools
    with sklearn.config_context(enable_metadata_routing=True):
        model = estimator_class().set_fit_request(groups=True).set_score_request(groups=True)
        by_keyword = cross_val_score(model, X[["hours"]], y, cv=FOLDS, params={"groups": X["school"]})
        model.set_params(group_features="school")
        by_column = cross_val_score(model, X[["hours", "school"]], y, cv=GroupKFold(3), params={"groups": X["school"]})
    assert by_keyword.min() > 0.9
    assert by_column.max() < 0.5  # schools that were not met


# ---------------------------------------------------------------------------------------------------------------------
# Searching over models


def scaled(*, verbose):
    return make_column_transformer(
        (StandardScaler(), ["hours"]), remainder="passthrough", verbose_feature_names_out=verbose
    ).set_output(transform="pandas")


def test_search_over_models_in_a_pipeline(schools):
    X, y = schools
    model = Pipeline([("scaled", scaled(verbose=False)), ("model", PartialPoolingRegressor())])
    grid = [
        {"model__group_features": ["school"], "model__pooling": ["partial", "complete", "none"]},
        {
            "model__group_features": ["school"],
            "model__slope_features": [["hours"], "all"],
            "model__correlated": [False],
        },
        {
            "model__formula": ["~ hours + (hours | school)", "~ 1 + (1 | school)"],
            "model__priors": [None, {"sigma": 0.7}],
        },
    ]
    search = GridSearchCV(model, grid, cv=FOLDS, error_score="raise").fit(X, y)
    results = pd.DataFrame(search.cv_results_)
    assert len(results) == 3 + 2 + 4
    complete = results["param_model__pooling"] == "complete"
    assert (results["mean_test_score"][complete] < 0.5).all()
    assert (results["mean_test_score"][~complete] > 0.9).all()


def test_formula_is_checked_against_the_columns_that_arrive(schools):
    X, y = schools
    formula = "~ scaled_hours + (1 | school)"
    model = Pipeline([("scaled", scaled(verbose=False)), ("model", PartialPoolingRegressor(formula))])
    with pytest.raises(ValueError, match="scaled_hours") as caught:
        model.fit(X, y)
    for column in X.columns:
        assert repr(column) in str(caught.value)
    renamed = Pipeline([("scaled", scaled(verbose=True)), ("model", PartialPoolingRegressor("~ hours + (1 | school)"))])
    np.testing.assert_allclose(
        renamed.fit(X, y).predict(X),
        Pipeline(
            [
                ("scaled", scaled(verbose=False)),
                ("model", PartialPoolingRegressor(group_features="school", formula=None)),
            ]
        )
        .fit(X, y)
        .predict(X),
        atol=0.5,
    )


def test_keyword_in_search_over_pooling_warns_unless_complete(schools):
    X, y = schools
    search = GridSearchCV(PartialPoolingRegressor(), {"pooling": ["complete"]}, cv=FOLDS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The groups parameter is ignored by KFold")
        search.fit(X[["hours"]], y, groups=X["school"])
    with pytest.warns(NoGroupsWarning):
        PartialPoolingRegressor().fit(X[["hours"]], y)
    assert r2_score(y, search.predict(X[["hours"]])) < 0.5
