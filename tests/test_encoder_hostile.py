"""PartialPoolingEncoder: labels of every kind, data that tell little, and what TargetEncoder promises, one by one."""

import datetime
import decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.model_selection import KFold
from sklearn.preprocessing import TargetEncoder

from hbsk import JamesSteinEstimator, PartialPoolingEncoder
from hbsk.exceptions import ShrinkageWarning

rng = np.random.default_rng(0)
CODE = rng.integers(0, 6, 120)
Y = rng.normal(size=120) + CODE


def objects(*labels):
    array = np.empty(len(labels), dtype=object)
    array[:] = labels
    return array


# Six labels each, alike in nothing but their order or their number; None stands for a missing one.
LABELS = {
    "bytes": objects(b"a", b"b", b"c", b"d", b"e", b"f"),
    "dates": objects(*(datetime.date(2020, 1, day) for day in range(1, 7))),
    "days": pd.date_range("2020", periods=6),
    "hours of a zone": pd.date_range("2020", periods=6, freq="h", tz="Europe/Berlin"),
    "months": pd.period_range("2020", periods=6, freq="M"),
    "intervals": pd.interval_range(0, 6),
    "mixed": objects(1, "1", 2.5, None, ("a", 1), b"x"),
    "texts that look alike": objects("", " ", "a", "A", "é", "e\u0301"),
    "decimals": objects(*map(decimal.Decimal, range(6))),
    "beyond floats": 2**60 + np.arange(6),
    "unsigned": np.uint64(2**63) + np.arange(6, dtype=np.uint64),
    "beyond 64 bits": objects(*(2**70 + i for i in range(6))),
    "halves": np.arange(6) / 2,
    "pd.NA among integers": pd.array([0, 1, 2, 3, 4, None], dtype="Int64"),
    "pd.NA among texts": pd.array(["a", "b", "c", "d", "e", None], dtype="string"),
    "NaN": np.array([0, 1, 2, 3, 4, np.nan]),
    "unused categories": pd.Categorical(list("abcdef"), categories=list("zfedcbaq")),
    "NaN among categories": pd.Categorical([*"abcde", None], categories=list("zedcba")),
}


@pytest.fixture(scope="module")
def expected():
    encoder = PartialPoolingEncoder(random_state=0)
    return encoder.fit_transform(CODE[:, None], Y), encoder.transform(CODE[:, None])


@pytest.mark.parametrize("kind", LABELS)
def test_labels_are_told_apart(kind, expected):
    frame = pd.DataFrame({"g": pd.Series(LABELS[kind]).iloc[CODE].reset_index(drop=True)})
    encoder = PartialPoolingEncoder(random_state=0)
    np.testing.assert_allclose(encoder.fit_transform(frame, Y), expected[0], rtol=1e-12)
    encoded = encoder.transform(frame)
    np.testing.assert_allclose(encoded, expected[1], rtol=1e-12)
    assert len(np.unique(encoded)) == len(encoder.encodings_["g"]) == 6
    # a row alone, and all of them as an array of objects
    np.testing.assert_array_equal(encoder.transform(frame[:1]), encoded[:1])
    as_objects = PartialPoolingEncoder(random_state=0).fit_transform(frame.astype(object).to_numpy(), Y)
    np.testing.assert_allclose(as_objects, expected[0], rtol=1e-12)


@pytest.mark.parametrize(
    "column",
    [
        pl.Series(list("abcdef")), pl.Series(list("abcdef"), dtype=pl.Categorical),
        pl.Series(list("abcdef"), dtype=pl.Enum(list("zfedcba"))), pl.Series([None, 1, 2, 3, 4, 5]),
        pl.Series([datetime.date(2020, 1, day) for day in range(1, 7)]), pl.Series([bytes([i]) for i in range(6)]),
        pl.Series([2**63 + i for i in range(6)], dtype=pl.UInt64),
    ],
    ids=lambda column: str(column.dtype),
)  # fmt: skip
def test_labels_of_polars_are_told_apart(column, expected):
    frame = pl.DataFrame({"g": column.gather(CODE)})
    encoder = PartialPoolingEncoder(random_state=0)
    np.testing.assert_allclose(encoder.fit_transform(frame, Y), expected[0], rtol=1e-12)
    np.testing.assert_allclose(encoder.transform(frame), expected[1], rtol=1e-12)
    np.testing.assert_array_equal(encoder.transform(frame[:1]), encoder.transform(frame)[:1])


def test_labels_that_are_none():
    frame = pd.DataFrame({"g": np.where(CODE == 5, np.inf, CODE)})
    with pytest.raises(ValueError, match=r"'g'.* infinity"):
        PartialPoolingEncoder().fit(frame, Y)
    with pytest.raises(TypeError, match=r"'g'.*hashable"):
        PartialPoolingEncoder().fit(pl.DataFrame({"g": [[int(c)] for c in CODE]}), Y)


def test_kinds_of_missing_labels_are_one():
    labels = objects(None, np.nan, pd.NA, pd.NaT, "a", "b", "c", "d")[rng.permutation(np.repeat(np.arange(8), 9))]
    missing = pd.isna(labels)
    y = rng.normal(size=len(labels)) + missing
    encoder = PartialPoolingEncoder().fit(labels[:, None], y)
    same = PartialPoolingEncoder().fit(np.where(missing, "zzz", labels)[:, None], y)
    np.testing.assert_array_equal(encoder.encodings_["x0"], same.encodings_["x0"])
    assert encoder.transform([[np.nan]]) == encoder.transform([[None]]) == encoder.encodings_["x0"][-1]


def test_two_labels_are_encoded_by_their_means():
    yes = CODE % 2 == 0
    with pytest.warns(ShrinkageWarning, match="column 'x0' .*2 groups"):
        encoder = PartialPoolingEncoder().fit(yes[:, None], Y)
    np.testing.assert_allclose(encoder.encodings_["x0"], [Y[~yes].mean(), Y[yes].mean()])


# ---------------------------------------------------------------------------------------------------------------------
# Data that tell little


def test_a_label_in_one_fold_only_is_new_to_its_rows():
    code = np.where(np.arange(120) < 24, 99, CODE)
    target, folds = Y, KFold(5)  # the first fold, and no other, has label 99
    mean = PartialPoolingEncoder(cv=folds, add=("sd", "count")).fit_transform(code[:, None], target)
    others = PartialPoolingEncoder(add=("sd", "count")).fit(code[24:, None], target[24:])
    new, _ = others.transform([[99], [0]])
    np.testing.assert_allclose(mean[:24], np.tile(new, (24, 1)), rtol=1e-9)
    hole = PartialPoolingEncoder(cv=folds, unknown_groups="nan", add=("count",)).fit_transform(code[:, None], target)
    np.testing.assert_array_equal(np.isnan(hole), np.column_stack([code == 99, np.zeros(120, bool)]))
    np.testing.assert_array_equal(hole[:24, 1], 0)


def test_classes_of_labels_seen_once():
    alone, success = np.arange(60)[:, None], np.arange(60) % 3 == 0
    with pytest.warns(ShrinkageWarning, match="no group has two trials"):
        encoder = PartialPoolingEncoder(random_state=0).fit(alone, success)
    np.testing.assert_array_equal(encoder.transform(alone)[:, 0], success)
    with pytest.warns(ShrinkageWarning):  # ... but what a model is trained on holds none of it
        np.testing.assert_allclose(encoder.fit_transform(alone, success), 1 / 3)


@pytest.mark.parametrize("shift", [0.0, 1e8])
def test_many_labels_of_few_rows(shift):
    code = np.append(np.arange(100_000), rng.integers(0, 100_000, 100_000))
    level = rng.normal(size=100_000)
    y = level[code] + rng.normal(size=len(code))
    encoder = PartialPoolingEncoder(random_state=0)
    crossed = encoder.fit_transform(code[:, None], y + shift)
    model = JamesSteinEstimator(group_features=0, method="empirical-bayes").fit(code[:, None], y)
    np.testing.assert_allclose(encoder.encodings_["x0"] - shift, model.theta_, atol=1e-6)
    # What k other rows tell of a level of variance 1 is k / (k + 1) of it; four fifths of them are in other folds.
    n = np.bincount(code)[code]
    told = 1 - (1 - 0.2**n) / (0.8 * n)
    np.testing.assert_allclose(np.cov(crossed[:, 0] - shift, y)[0, 1], told.mean(), rtol=0.03)


# ---------------------------------------------------------------------------------------------------------------------
# What TargetEncoder promises

TARGETS = {"continuous": Y, "binary": np.where(Y > 2, "yes", "no"), "multiclass": np.digitize(Y, [1, 4])}


@pytest.mark.parametrize("kind", TARGETS)
def test_what_is_learnt_has_the_names_of_target_encoder(kind):
    X = pd.DataFrame({"a": np.array(list("uvwxyz"))[CODE], "b": 5 - CODE})
    theirs, ours = TargetEncoder().fit(X, TARGETS[kind]), PartialPoolingEncoder().fit(X, TARGETS[kind])
    assert ours.target_type_ == theirs.target_type_ == kind
    for name in ("classes_", "target_mean_", "n_features_in_", "feature_names_in_"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert ours.get_feature_names_out().tolist() == theirs.get_feature_names_out().tolist()
    # the same columns, class by class, and nearly the same numbers: labels have 20 rows and more
    np.testing.assert_allclose(ours.transform(X), theirs.transform(X), atol=0.2)
    frame = ours.set_output(transform="pandas").transform(X)
    assert list(frame.columns) == theirs.get_feature_names_out().tolist()


@pytest.mark.parametrize("kind", ["continuous", "binary"])
def test_names_of_labels_do_not_matter(kind):
    renamed = rng.permutation(6)
    encoder = PartialPoolingEncoder(random_state=0)
    first = encoder.fit_transform(CODE[:, None], TARGETS[kind])
    np.testing.assert_allclose(encoder.fit_transform(renamed[CODE][:, None], TARGETS[kind]), first, rtol=1e-9)


def test_no_cv_is_five_folds():
    for target in (Y, Y > 2):
        default = PartialPoolingEncoder(random_state=1).fit_transform(CODE[:, None], target)
        none = PartialPoolingEncoder(cv=None, random_state=1).fit_transform(CODE[:, None], target)
        np.testing.assert_array_equal(none, default)
        other = PartialPoolingEncoder(random_state=2).fit_transform(CODE[:, None], target)
        assert not np.array_equal(other, default)


def test_shuffle_does_not_touch_a_splitter():
    splitter = PartialPoolingEncoder(cv=KFold(4), shuffle=True, random_state=0)
    plain = PartialPoolingEncoder(cv=4, shuffle=False)
    np.testing.assert_array_equal(splitter.fit_transform(CODE[:, None], Y), plain.fit_transform(CODE[:, None], Y))


def test_input_is_left_as_it_is():
    frame, y = pd.DataFrame({"g": pd.Categorical(np.array(list("uvwxyz"))[CODE])}), pd.Series(Y)
    before = frame.copy(), y.copy()
    PartialPoolingEncoder().fit_transform(frame, y)
    pd.testing.assert_frame_equal(frame, before[0])
    pd.testing.assert_series_equal(y, before[1])
