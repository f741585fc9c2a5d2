"""Common columns that others, the intercept or the groups make redundant: found and named."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from hbsk import PartialPoolingClassifier, PartialPoolingRegressor
from hbsk._model.redundancy import find_relations
from hbsk.exceptions import RedundantColumnsWarning

N, J = 240, 12


@pytest.fixture
def data(rng):
    g = rng.integers(0, J, N)
    X = pd.DataFrame({"g": g, "x": rng.normal(3.0, 2.0, N), "promo": rng.choice(["a", "b", "c"], N, p=[0.5, 0.3, 0.2])})
    return X, 0.5 * X["x"] + rng.normal(size=J)[g] + (X["promo"] == "b") + rng.normal(size=N)


def one_hot(X, column="promo"):
    return X.drop(columns=column).join(pd.get_dummies(X[column], prefix=column))


def warnings_of(model, X, y, **arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", "sigma is held")  # of columns that fit y exactly, another matter
        model.fit(X, y, **arguments)
    assert {w.category for w in caught} <= {RedundantColumnsWarning}
    return [str(w.message) for w in caught]


def model(**options):
    return PartialPoolingRegressor(**({"group_features": "g"} | options))


@pytest.mark.parametrize("pooling", ["partial", "complete", "none"])
@pytest.mark.parametrize("way", ["plain", "weights", "errors", "far", "offset"])
def test_dummies_of_every_level_warn_once_by_name(data, rng, pooling, way):
    X, y = data
    X = one_hot(X)
    arguments = {}
    if way == "weights":
        arguments["sample_weight"] = rng.integers(0, 4, N)
    if way == "errors":
        arguments["standard_error"] = rng.gamma(3.0, 0.5, N)
    if way == "far":
        X["promo_b"] = X["promo_b"] + 2.0**27
    formula = None
    if way == "offset":
        formula = "y ~ x + promo_a + promo_b + promo_c + offset(x) + (1 | g)"
    estimator = model(pooling=pooling, formula=formula, group_features=None if formula else "g")
    (message,) = warnings_of(estimator, X, y, **arguments)
    assert "'promo_a', 'promo_b', 'promo_c' add up to the intercept" in message
    assert "OneHotEncoder(drop='first')" in message
    assert "text column itself" in message
    estimator.predict(X)  # warnings are errors in these tests


def test_the_remedies_are_silent_and_keep_sds_of_levels(data):
    X, y = data
    full = model()
    warnings_of(full, one_hot(X), y)
    remedies = model().fit(X, y), model().fit(one_hot(X).drop(columns="promo_a"), y)
    sd = [fitted.group_effects_["sd"].mean() for fitted in (full, *remedies)]
    # what the warning is about; a level of a group has an sd of some sigma / sqrt(n_j)
    assert sd[0] > 3 * sd[1]
    assert sd[1] == pytest.approx(sd[2], rel=1e-9)
    predictions = [full.predict(one_hot(X)), remedies[0].predict(X)]
    np.testing.assert_allclose(predictions[0], predictions[1], atol=0.02)


def test_a_pipeline_with_an_encoder(data):
    X, y = data
    for drop, expected in ((None, 1), ("first", 0), ("if_binary", 1)):
        encoder = make_column_transformer(
            (OneHotEncoder(drop=drop, sparse_output=False), ["promo"]), remainder="passthrough"
        )
        pipeline = make_pipeline(encoder.set_output(transform="pandas"), model())
        messages = warnings_of(pipeline, X, y)
        assert len(messages) == expected
        assert all("'onehotencoder__promo_a'" in message for message in messages)


CASES = {
    "another unit": (lambda X: X.assign(f=1.8 * X["x"] + 32), "'x', 'f' are one column in two units"),
    "minus": (lambda X: X.assign(m=5.0 - X["x"]), "'x', 'm' add up to the intercept"),
    "shares": (
        lambda X: X.assign(a=np.sin(X["x"]) ** 2, b=np.cos(X["x"]) ** 2),
        "'a', 'b' add up to the intercept",
    ),
    "a sum": (lambda X: X.assign(z=X["x"] ** 2, t=2 * X["x"] + X["x"] ** 2), "'x', 'z', 't' are combinations"),
    "a sum and a constant": (
        lambda X: X.assign(z=X["x"] ** 2, t=2 * X["x"] + X["x"] ** 2 + 1),
        "'x', 'z', 't' and the intercept are combinations",
    ),
    "nested text": (
        lambda X: X.assign(region=X["promo"].map({"a": "n", "b": "n", "c": "s"})),
        r"'promo\[c\]', 'region\[s\]'",
    ),
    "two encodings": (
        lambda X: one_hot(X).join(pd.get_dummies(X["x"] > 3, prefix="high")),
        "'promo_c' add up to the intercept; 'high_False', 'high_True' add up to the intercept",
    ),
    "many": (
        lambda X: X[["g"]].join(pd.get_dummies(np.arange(N) % 40, prefix="k")),
        r"'k_5' and 34 more add up",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_relations_are_named(data, name):
    X, y = data
    change, words = CASES[name]
    (message,) = warnings_of(model(), change(X), y)
    assert pd.Series([message]).str.contains(words).all(), message


def test_what_is_not_redundant_is_silent(data, rng):
    X, y = data
    year = 2010.0 + X["g"] % 10
    level = rng.normal(size=(J, J - 2))
    for change in (
        X.assign(t=year, t2=year**2),
        X.assign(z=X["x"] + 1e-5 * rng.normal(size=N)),
        X.assign(constant=7.0),
        X.join(pd.DataFrame(level[X["g"]]).rename(columns=str)),  # J - 2 columns of group level
    ):
        assert warnings_of(model(), change, y) == []
    # dummies of every level are the intercept where there is none
    formula = "y ~ 0 + promo_a + promo_b + promo_c + x + (1 | g)"
    assert warnings_of(model(formula=formula, group_features=None), one_hot(X), y) == []
    assert warnings_of(model(formula="y ~ 0 + promo + x + (x | g)", group_features=None), X, y) == []


def test_more_columns_than_rows_that_differ_are_a_choice(rng):
    X = pd.DataFrame(rng.normal(size=(15, 30))).rename(columns=str).assign(g=list("abcde") * 3)
    y = rng.normal(size=15)
    assert warnings_of(model(), X, y) == []
    rows = np.repeat(np.arange(15), 4)
    assert warnings_of(model(), X.iloc[rows, [*range(20), 30]], y[rows]) == []
    assert warnings_of(model(), X.iloc[:, [*range(20), 30]], y, sample_weight=np.full(15, 4)) == []


@pytest.mark.parametrize("drop", [0, 1])
def test_columns_that_tell_all_groups_apart(data, drop):
    X, y = data
    again = X[["g", "x"]].join(pd.get_dummies(X["g"], prefix="is").iloc[:, drop:])
    (message,) = warnings_of(model(), again, y)
    assert "tell all 12 groups of 'g' apart" in message
    assert ("add up to the intercept" in message) == (drop == 0)
    assert warnings_of(model(pooling="none"), again.drop(columns=["is_0"], errors="ignore"), y) == []
    level = pd.DataFrame(np.random.default_rng(0).normal(size=(J, J - 1))[X["g"]]).rename(columns=str)
    (message,) = warnings_of(model(), X.join(level), y)
    assert "tell all 12 groups" in message
    # a column that varies within groups tells none of them
    assert warnings_of(model(), X.join(level).assign(**{"3": level["3"] + 0.01 * X["x"] ** 2}), y) == []


def test_columns_of_a_classifier_that_tell_all_groups_apart(data):
    X, y = data
    again = X[["g", "x"]].join(pd.get_dummies(X["g"], prefix="is").iloc[:, 1:])
    (message,) = warnings_of(PartialPoolingClassifier(group_features="g"), again, y > y.median())
    assert "tell all 12 groups of 'g' apart" in message


@pytest.mark.parametrize("has_intercept", [True, False])
def test_as_many_columns_are_found_as_the_rank_is_short(rng, has_intercept):
    for _ in range(60):
        n, p = 80, int(rng.integers(2, 9))
        columns = rng.normal(size=(n, p)) + rng.normal(size=p) * 30
        mix = rng.integers(-2, 3, (p, int(rng.integers(1, 4))))
        X = np.column_stack([columns, columns @ mix + has_intercept * rng.integers(-3, 4, mix.shape[1])])
        X = X[:, rng.permutation(X.shape[1])][:, np.newaxis].squeeze()
        if has_intercept:
            X = np.column_stack([np.ones(n), X])
        weight = rng.gamma(1.0, 1.0, n)
        X[:, 1:] -= has_intercept * X[0, 1:]  # a provisional centre
        everything = np.column_stack([X, rng.normal(size=n)])
        kept = np.flatnonzero(X.any(axis=0))
        basis, relations = find_relations((everything * weight[:, None]).T @ everything, kept, has_intercept)
        rank = np.linalg.matrix_rank(X / np.maximum(np.linalg.norm(X, axis=0), 1e-300))
        assert len(basis) == rank == len(kept) - len(relations)
        for relation in relations:
            total = X[:, relation.columns] @ relation.coefficients
            assert np.ptp(total if has_intercept else np.append(total, 0.0)) < 1e-7 * np.abs(X).max()
