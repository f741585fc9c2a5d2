"""Group labels to codes and back, for labels of every kind."""

import datetime
import pickle

import numpy as np
import pandas as pd
import pytest

from hbsk._data.labels import factorize
from hbsk._data.rows import GroupFactor

TEXT = np.array(["b", "a", "c", "a", "b"], dtype=object)


def naive_codes(values):
    """Codes and labels by comparing every label with every other."""
    labels, codes = [], []
    for value in values:
        for code, label in enumerate(labels):  # noqa: B007
            if label == value:
                break
        else:
            code = len(labels)
            labels.append(value)
        codes.append(code)
    try:
        order = sorted(range(len(labels)), key=labels.__getitem__)
    except TypeError:
        order = list(range(len(labels)))
    return [order.index(code) for code in codes], [labels[code] for code in order]


# Labels to codes and back

ONE = np.random.default_rng(7)
COLUMNS = {
    "int64": np.array([7, -3, 7, 100, -3]),
    "whole float16, below whose largest number 2**53 is not": np.array([7.0, -3.0, 7.0, 100.0], dtype=np.float16),
    "int8 of full span": np.array([127, -128, 127, 0, -128], dtype=np.int8),
    "int8 whose differences overflow": np.array([100, -100, 0, 100], dtype=np.int8),
    "uint64 all beyond int64": np.array([2**63 + 5, 2**63 + 9, 2**63 + 5], dtype=np.uint64),
    "uint64 beyond int64": np.array([2**63 + 5, 3, 2**63 + 5, 2**63 + 6], dtype=np.uint64),
    "int64 of full span": np.array([2**63 - 1, -(2**63), 2**63 - 1]),
    "wide ints": np.array([10**15, 5, -(10**15), 5]),
    "bool": np.array([True, False, True]),
    "float integers": np.array([2.0, -1.0, 2.0, 40.0]),
    "float fractions": np.array([0.25, -1.5, 0.25, 40.0]),
    "float32": np.array([0.1, 0.7, 0.1], dtype=np.float32),
    "large floats": np.array([1e300, -1e300, 1e300, 2.0**53, 2.0**53 + 2]),
    "text": TEXT,
    "numpy text": np.array(["b", "a", "b"]),
    "bytes": np.array([b"b", b"a", b"b"], dtype=object),
    "equal numbers of different types": np.array([1, 1.0, True, 0, False, "1"], dtype=object),
    "ints and floats": np.array([2, 1.5, 1, 2.0], dtype=object),
    "mixed, no order": np.array(["b", 3, "a", 3, "b"], dtype=object),
    "sets, which compare and have no order": np.array(
        [frozenset({2}), frozenset({1, 2}), frozenset({1}), frozenset({1, 2})], dtype=object
    ),
    "empty text": np.array(["", "a", ""], dtype=object),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_codes_and_labels_against_pairwise_comparison(name):
    values = COLUMNS[name]
    factor, codes = GroupFactor.learn("g", [values])
    expected_codes, expected_labels = naive_codes(values.tolist())
    if "no order" in name:
        expected_codes = pd.factorize(np.array(values, dtype=object))[0].tolist()
        expected_labels = list(dict.fromkeys(values.tolist()))
    assert codes.dtype == np.int64
    assert codes.tolist() == expected_codes
    assert factor.labels.tolist() == expected_labels
    assert factor.encode(values).tolist() == codes.tolist()
    assert [factor.encode(values[i : i + 1]).item() for i in range(len(values))] == codes.tolist()


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("other", COLUMNS)
def test_labels_of_another_kind_are_equal_when_python_says_so(name, other):
    factor, _ = GroupFactor.learn("g", [COLUMNS[name]])
    labels = factor.labels.tolist()
    # Longer than the short cut for few rows.
    for values in (COLUMNS[other], np.tile(COLUMNS[other], 30)):
        codes = factor.encode(values)
        new = {}
        for value, code in zip(values.tolist(), codes.tolist(), strict=True):
            if value in labels:
                assert code == labels.index(value)
            else:
                assert code == new.setdefault(value, code)
                assert code >= factor.n_groups
        assert sorted(new.values()) == list(range(factor.n_groups, factor.n_groups + len(new)))


def test_integers_that_no_float_can_tell_apart():
    factor, _ = GroupFactor.learn("g", [np.array([2**53, 2**53 + 2], dtype=np.float64)])
    assert factor.encode(np.array([2**53, 2**53 + 1, 2**53 + 2])).tolist() == [0, 2, 1]
    factor, _ = GroupFactor.learn("g", [np.array([2**53, 2**53 + 1])])
    assert factor.encode(np.array([2.0**53, 2.0**53 + 2])).tolist() == [0, 2]
    factor, _ = GroupFactor.learn("g", [np.array([0.5, 2.0**53])])
    assert factor.encode(np.array([2**53, 2**53 + 1])).tolist() == [1, 2]
    factor, _ = GroupFactor.learn("g", [np.array([0.5, 2.0**60])])
    assert factor.encode(np.array([2**60, 2**60 + 1, 2**63 - 1])).tolist() == [1, 2, 3]


def test_unobserved_categories_are_unknown():
    values = pd.Series(pd.Categorical(["b", "a", "b"], categories=["z", "b", "a"]))
    factor, codes = GroupFactor.learn("g", [values])
    assert factor.labels.tolist() == ["a", "b"]
    assert codes.tolist() == [1, 0, 1]
    later = pd.Series(pd.Categorical(["z", "a", "z", None], categories=["z", "b", "a"]))
    assert factor.encode(later).tolist() == [2, 0, 2, 3]


@pytest.mark.parametrize("categories", [[3, 1, 2], [0.5, 2.0, 1.0], ["c", "a", "b"], [True, False, "x"]])
def test_categories_are_the_labels_they_stand_for(categories):
    values = [categories[i] for i in (2, 0, 2, 1)]
    plain, plain_codes = GroupFactor.learn("g", [np.array(values, dtype=object)])
    factor, codes = GroupFactor.learn("g", [pd.Series(pd.Categorical(values, categories=categories))])
    assert factor.labels.tolist() == plain.labels.tolist()
    assert codes.tolist() == plain_codes.tolist()


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(pd.to_datetime(["2021-01-01", "2020-01-01", "2021-01-01"])),
        pd.Series(pd.to_datetime(["2021-01-01", "2020-01-01", "2021-01-01"]).tz_localize("Europe/Berlin")),
        np.array(["2021-01-01", "2020-01-01", "2021-01-01"], dtype="datetime64[D]"),
        pd.Series(pd.to_timedelta([5, 1, 5], unit="h")),
        pd.Series(pd.period_range("2021", periods=2, freq="Y")).iloc[[1, 0, 1]],
        pd.Series([datetime.date(2021, 1, 1), datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)]),
    ],
)
def test_dates_as_labels(values):
    factor, codes = GroupFactor.learn("g", [values])
    assert codes.tolist() == [1, 0, 1]
    assert factor.encode(values).tolist() == [1, 0, 1]
    if isinstance(values, np.ndarray):
        assert factor.encode(pd.Series(values.astype("datetime64[ns]"))).tolist() == [1, 0, 1]


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "boolean", "string", "str", "category"])
def test_nullable_labels(dtype):
    values = {"boolean": [True, False, True], "string": ["b", "a", "b"], "str": ["b", "a", "b"]}.get(dtype, [5, 2, 5])
    factor, codes = GroupFactor.learn("g", [pd.Series(values, dtype=dtype)])
    assert codes.tolist() == [1, 0, 1]
    later = pd.Series([values[1], None, values[0], None], dtype=dtype)
    assert factor.encode(later).tolist() == [0, 2, 1, 3]
    assert factorize(later)[0].tolist() == [0, -1, 1, -1]
    assert factorize(later)[1].dtype == factor.labels.dtype


def test_each_missing_label_is_a_group_of_its_own_and_each_unseen_label_one_group():
    factor, _ = GroupFactor.learn("g", [TEXT])
    new = np.array([None, "new", "a", np.nan, "old", "new", pd.NA, pd.NaT], dtype=object)
    codes = factor.encode(new)
    assert codes[2] == 0
    assert codes[1] == codes[5]
    assert len(set(codes.tolist())) == 7
    assert sorted(set(codes.tolist())) == [0, *range(3, 9)]
    number, _ = GroupFactor.learn("g", [np.array([4.0, 2.0])])
    assert number.encode(np.array([np.nan, 2.0, np.nan, 9.0])).tolist() == [3, 0, 4, 2]


def test_interactions_have_tuples_for_labels():
    first = np.array(["b", "a", "b", "a", "b"], dtype=object)
    second = np.array([2, 1, 1, 1, 2])
    factor, codes = GroupFactor.learn("a:b", [first, second])
    assert factor.labels.tolist() == [("a", 1), ("b", 1), ("b", 2)]
    assert codes.tolist() == [2, 0, 1, 0, 2]
    later = factor.encode([np.array(["a", "a", None, "b"], dtype=object), np.array([1.0, 2.0, 1.0, 2.0])])
    assert later.tolist() == [0, 3, 4, 2]
    three, codes = GroupFactor.learn("a:b:c", [first, second, np.array([0.5, 0.5, 0.5, 1.5, 0.5])])
    assert three.labels.tolist() == [("a", 1, 0.5), ("a", 1, 1.5), ("b", 1, 0.5), ("b", 2, 0.5)]
    assert codes.tolist() == [3, 0, 2, 1, 3]


def test_a_great_many_labels_in_two_columns_do_not_overflow():
    n = 1000
    columns = [ONE.integers(0, 2**60, n) for _ in range(4)]
    factor, codes = GroupFactor.learn("a:b:c:d", columns)
    assert factor.n_groups == n
    assert [factor.labels[code] for code in codes[:5]] == list(zip(*(c[:5].tolist() for c in columns), strict=True))


def test_large_columns_take_the_fast_ways_and_agree_with_numpy():
    values = ONE.integers(-500, 700, 20_000)
    for column in (values, values * 10**9, values + 0.25, values.astype(float), values.astype(np.int16)):
        labels, codes = np.unique(column, return_inverse=True)
        factor, ours = GroupFactor.learn("g", [column])
        np.testing.assert_array_equal(ours, codes)
        np.testing.assert_array_equal(factor.labels, labels)
        assert factor.labels.dtype == column.dtype
        np.testing.assert_array_equal(factor.encode(column[::-1]), codes[::-1])


def test_factors_pickle_small_and_without_their_lookup():
    factor, _ = GroupFactor.learn("g", [np.array([f"label {i}" for i in range(1000)], dtype=object)])
    before = len(pickle.dumps(factor))
    factor.encode(np.array(["label 3"], dtype=object))
    assert len(pickle.dumps(factor)) == before
    again = pickle.loads(pickle.dumps(factor))
    assert again.encode(np.array(["label 3", "x"], dtype=object)).tolist() == [
        factor.labels.tolist().index("label 3"),
        1000,
    ]


def test_infinite_and_unhashable_labels():
    with pytest.raises(ValueError, match=r"^Grouping factor 'g': Group labels contain infinity \(inf\)"):
        GroupFactor.learn("g", [np.array([1.0, np.inf])])
    with pytest.raises(ValueError, match="inf"):
        GroupFactor.learn("g", [np.array([1.0, -np.inf], dtype=object)])
    with pytest.raises(ValueError, match="inf"):
        GroupFactor.learn("g", [pd.Series([1.0, np.inf], dtype="category")])
    with pytest.raises(TypeError, match=r"^Grouping factor 'g': .* argument must be a string, a number .* unhash"):
        GroupFactor.learn("g", [np.array([1.0, {"foo": "bar"}], dtype=object)])
    factor, _ = GroupFactor.learn("g", [np.array([1.0, 2.0])])
    with pytest.raises(ValueError, match=r"^Grouping factor 'g': .*infinity"):
        factor.encode(np.array([1.0, np.inf]))
