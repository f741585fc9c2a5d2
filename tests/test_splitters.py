"""WithinGroupKFold deals the rows of every group to all folds, and follows scikit-learn's conventions of splitters."""

import copy
import pickle
import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_val_predict, cross_validate

from hbsk.model_selection import WithinGroupKFold

GROUPS = np.array(["b", "a", "c", "a", "b", "a", "a", "d", "b"])


def folds(groups, n_splits=3, **options):
    return list(WithinGroupKFold(n_splits, **options).split(np.zeros((len(groups), 1)), groups=groups))


def counts(groups, rows):
    labels, numbers = np.unique(np.asarray(groups)[rows], return_counts=True)
    return dict(zip(labels.tolist(), numbers.tolist(), strict=True))


def test_rows_are_dealt_in_turn():
    # Sorted by group the rows are 1, 3, 5, 6 (a), 0, 4, 8 (b), 2 (c), 7 (d).
    tests = [test.tolist() for _, test in folds(GROUPS, 4)]
    assert tests == [[0, 1, 7], [3, 4], [5, 8], [2, 6]]


@settings(max_examples=150, deadline=None)
@given(
    groups=st.lists(st.integers(0, 6), min_size=8, max_size=40),
    n_splits=st.integers(2, 8),
    seed=st.none() | st.integers(0, 99),
)
def test_every_group_of_two_rows_is_met_in_training(groups, n_splits, seed):
    groups = np.array([*groups, 3])
    groups[0] = 3
    splits = folds(groups, n_splits, shuffle=seed is not None, random_state=seed)
    assert len(splits) == n_splits
    sizes = counts(groups, slice(None))
    for train, test in splits:
        assert sorted([*train, *test]) == list(range(len(groups)))
        assert np.all(np.diff(train) > 0)
        assert np.all(np.diff(test) > 0)
        for group in set(groups[test].tolist()):
            assert sizes[group] == 1 or group in groups[train]
            assert counts(groups, test)[group] in (sizes[group] // n_splits, -(-sizes[group] // n_splits))
        assert len(test) in (len(groups) // n_splits, -(-len(groups) // n_splits))
    assert sorted(np.concatenate([test for _, test in splits])) == list(range(len(groups)))


def test_k_fold_does_leave_groups_out_of_training():
    groups = np.repeat([1, 2, 3, 4], [5, 2, 3, 2])
    lost = [set(groups[test]) - set(groups[train]) for train, test in KFold(4).split(groups)]
    assert any(lost)
    assert not any(set(groups[test]) - set(groups[train]) for train, test in folds(groups, 4))


def test_order_is_kept_without_shuffling_and_changes_with_it():
    plain = [test.tolist() for _, test in folds(GROUPS)]
    assert plain == [test.tolist() for _, test in folds(GROUPS)]
    shuffled = [[test.tolist() for _, test in folds(GROUPS, shuffle=True, random_state=seed)] for seed in (4, 4, 5)]
    assert shuffled[0] == shuffled[1]
    assert shuffled[0] != shuffled[2]
    assert plain not in shuffled


def test_shuffling_moves_single_rows_to_any_fold():
    groups = ["only", *["many"] * 5]
    where = set()
    for seed in range(40):
        tests = [test for _, test in folds(groups, shuffle=True, random_state=seed)]
        where.add(next(k for k, test in enumerate(tests) if 0 in test))
    assert where == {0, 1, 2}


def test_random_state_instance_gives_other_folds_each_time():
    splitter = WithinGroupKFold(3, shuffle=True, random_state=np.random.RandomState(8))
    X = np.zeros((40, 1))
    groups = np.arange(40) % 7
    first, second = ([test.tolist() for _, test in splitter.split(X, groups=groups)] for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    "container",
    [
        list,
        tuple,
        pd.Series,
        pd.Categorical,
        pl.Series,
        lambda g: pd.Series(g, index=range(100, 100 + len(g))),
        lambda g: pd.DataFrame({"school": g}),
        lambda g: np.array([*g, None], dtype=object)[:-1],
        lambda g: [(label, 1) for label in g],
    ],
    ids=["list", "tuple", "Series", "Categorical", "polars", "index", "frame", "object", "tuples"],
)
def test_labels_in_any_container(container):
    for (train, test), (train_2, test_2) in zip(folds(GROUPS), folds(container(list(GROUPS))), strict=True):
        np.testing.assert_array_equal(train, train_2)
        np.testing.assert_array_equal(test, test_2)


def test_number_of_folds_and_name():
    splitter = WithinGroupKFold(4, shuffle=True, random_state=3)
    assert splitter.get_n_splits() == splitter.get_n_splits(GROUPS, GROUPS, GROUPS) == 4
    assert repr(splitter) == "WithinGroupKFold(n_splits=4, random_state=3, shuffle=True)"
    assert WithinGroupKFold().get_n_splits() == 5
    for again in (copy.deepcopy(splitter), pickle.loads(pickle.dumps(splitter))):
        assert repr(again) == repr(splitter)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"n_splits": 1}, ValueError, "n_splits must be an integer of at least 2, got 1."),
        ({"n_splits": 2.0}, ValueError, "n_splits must be an integer of at least 2, got 2.0."),
        ({"n_splits": True}, ValueError, "n_splits must be an integer of at least 2, got True."),
        ({"shuffle": 1}, TypeError, "shuffle must be True or False, got 1."),
        (
            {"random_state": 3},
            ValueError,
            "random_state=3 has no effect with shuffle=False. Set shuffle=True, or leave it out.",
        ),
    ],
)
def test_bad_options(options, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        WithinGroupKFold(**options)


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        (
            None,
            "WithinGroupKFold needs the group of each row, but groups is None. Pass groups=, for example the column of "
            "X that holds them; with metadata routing on, scikit-learn's functions take it in params={'groups': ...}.",
        ),
        (
            list("abcdefghi"),
            "groups holds 9 labels that are all different: there are no further rows of any group to predict. Pass the "
            "column that rows share; GroupKFold asks about new groups.",
        ),
        (
            ["a", None, "a", np.nan, "b", "b", "b", "a", "a"],
            "groups holds 2 missing labels in 9 rows. Drop these rows, or give them a label of their own.",
        ),
        (
            np.zeros((9, 2)),
            "WithinGroupKFold takes one label for each row, but groups has 2 columns. Pass the one whose groups are "
            "known or new, or one label made of them all.",
        ),
    ],
    ids=["none", "all different", "missing", "two columns"],
)
def test_bad_groups_are_refused_at_the_call(groups, text):
    # Not at the first fold: `split` checks before it returns its generator.
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        WithinGroupKFold(3).split(np.zeros((9, 1)), groups=groups)


def test_more_folds_than_rows():
    with pytest.raises(ValueError, match=re.escape("n_splits=4 is more than the number of rows, 3.")):
        folds(["a", "a", "b"], 4)


def test_groups_of_another_length():
    with pytest.raises(TypeError, match=r"WithinGroupKFold takes .* got 'g'\..* groups=X\['g'\]"):
        WithinGroupKFold(2).split(np.zeros((3, 1)), groups="g")
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        WithinGroupKFold(3).split(np.zeros((8, 1)), groups=GROUPS)


def test_groups_are_requested_as_group_k_fold_does():
    assert str(WithinGroupKFold().get_metadata_routing()) == str(GroupKFold().get_metadata_routing())
    with sklearn.config_context(enable_metadata_routing=True):
        renamed = WithinGroupKFold(3).set_split_request(groups="school")
        assert str(renamed.get_metadata_routing()) == "{'split': {'groups': 'school'}}"


@pytest.mark.parametrize("routing", [False, True])
def test_in_the_tools_of_scikit_learn(routing):
    rng = np.random.default_rng(4)
    X, y, groups = rng.normal(size=(30, 2)), rng.normal(size=30), np.repeat(np.arange(6), 5)
    cv = WithinGroupKFold(3, shuffle=True, random_state=1)
    how = {"params": {"groups": groups}} if routing else {"groups": groups}
    with sklearn.config_context(enable_metadata_routing=routing):
        result = cross_validate(LinearRegression(), X, y, cv=cv, return_indices=True, **how)
        predicted = cross_val_predict(LinearRegression(), X, y, cv=cv, **how)
        search = GridSearchCV(LinearRegression(), {"fit_intercept": [True, False]}, cv=cv).fit(X, y, groups=groups)
    expected = list(cv.split(X, y, groups))
    for fold, (train, test) in enumerate(expected):
        np.testing.assert_array_equal(result["indices"]["test"][fold], test)
        np.testing.assert_allclose(
            predicted[test], LinearRegression().fit(X[train], y[train]).predict(X[test]), rtol=1e-12
        )
    assert search.n_splits_ == 3
    np.testing.assert_allclose(search.cv_results_["split2_test_score"][0], result["test_score"][2])
