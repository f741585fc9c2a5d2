"""Labels at predict that are those of fit written in another way: a warning; plain new groups: none."""

import datetime
import re
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from hbsk import JamesSteinEstimator, PartialPoolingRegressor
from hbsk._data.label_kinds import written_otherwise
from hbsk._data.labels import GroupFactor
from hbsk.exceptions import LabelMismatchWarning

DAYS = pd.date_range("2024-01-01", periods=6)

# labels of fit, labels of the rows, words of the message
MISTAKES = {
    "integers for padded text": (["001", "002", "010"], [1, 2, 10], "numbers such as 1, 2, 10, .*text such as '001'"),
    "integers for text": (["1", "2", "3"], [3, 1], "numbers.*text"),
    "text for integers": ([1, 2, 3], ["3", "1"], "text such as '3', '1'.*numbers.*pandas.to_numeric"),
    "text for floats": ([1.5, 2.0, 3.0], ["1.5"], "text.*numbers"),
    "floats written as text": (["1", "2", "3"], ["1.0", "3.0"], "'1.0', '3.0'.*'1', '2', '3'"),
    "padded text": (["1", "2", "3"], ["01", "02"], "'01'.*'1'"),
    "dates for Timestamps": (list(DAYS), [datetime.date(2024, 1, 2)], "dates such as .*dates and times"),
    "Timestamps for dates": ([day.date() for day in DAYS], list(DAYS[:2]), "dates and times such as"),
    "text for Timestamps": (list(DAYS), ["2024-01-01", "2024-01-05"], "text such as '2024-01-01'.*pandas.to_datetime"),
    "integers for Timestamps": (list(DAYS), [1704067200000000000], "numbers.*dates and times"),
    "dates with a time as text": (["2024-01-01", "2024-01-02"], ["2024-01-01 00:00:00"], "00:00:00"),
    "another time zone": (list(DAYS), list(DAYS.tz_localize("Europe/Paris")), "Paris"),
    "bytes": (["a", "b"], [b"a", b"b"], "bytes such as b'a'.*text"),
    "bytes as text": (["a", "b"], ["b'a'"], "b'a'"),
    "case": (["Kerry", "Cork", "Mayo"], ["KERRY", "cork"], "'KERRY'.*'Cork'"),
    "spaces": (["Kerry", "Cork"], [" Kerry", "Cork  "], "' Kerry'"),
    "spaces within": (["County Kerry", "County Cork"], ["County\u00a0Kerry"], "Kerry"),
    "digits lost": (list(np.linspace(0.1, 0.9, 7)), list(np.linspace(0.1, 0.9, 7).astype(np.float32)), "numbers"),
    "periods": (list(DAYS), list(DAYS.to_period("D")[:2]), "of type Period"),
    "most": (["a", "b", "c"], ["A", "B", "new"], "'A'"),
}
# plain new groups
NEW = {
    "integers": ([1, 2, 3], [4, 5]),
    "integers and floats": ([1, 2, 3], [4.0, 5.0]),
    "floats": ([0.5, 1.5], [0.25]),
    "booleans and integers": ([False, True], [2]),
    "decimals": ([1, 2], [Decimal("3.5")]),
    "text": (["Kerry", "Cork"], ["Mayo"]),
    "numbers as text": (["1", "2"], ["3", "04"]),
    "codes in which case counts": (["aa", "aA", "Ab", "b"], ["AA", "AB"]),
    "few": (["a", "b", "c"], ["A", "x", "y"]),
    "dates": (list(DAYS), [pd.Timestamp("2030-01-01"), datetime.datetime(2030, 1, 2)]),
    "text beside numbers": (["a", 1], ["b", "c"]),
    "missing": (["a", "b"], [None, np.nan]),
    "no rows": (["a", "b"], []),
}


def column(labels):
    return pd.Series(labels, dtype=None if len(set(map(type, labels))) == 1 else object)


def difference(labels, new):
    return written_otherwise(GroupFactor.learn("g", [column(labels)])[0], [column(new)])


@pytest.mark.parametrize("name", MISTAKES)
def test_labels_written_otherwise_say_so(name):
    labels, new, words = MISTAKES[name]
    assert re.search("they are .* those of fit .*such as", difference(labels, new))
    assert re.search(words, difference(labels, new))


@pytest.mark.parametrize("name", NEW)
def test_plain_new_groups_are_silent(name):
    assert difference(*NEW[name]) == ""


def test_labels_of_interactions():
    factor = GroupFactor.learn("a:b", [np.array(["x", "x", "y"], dtype=object), np.array([1, 2, 2])])[0]
    x, y = (np.array([part], dtype=object) for part in ("x", "z"))
    assert "pairs of text and text" in written_otherwise(factor, [x, np.array(["1"], dtype=object)])
    assert "'X', 1" in written_otherwise(factor, [np.array(["X"], dtype=object), np.array([1])])
    assert written_otherwise(factor, [y, np.array([1])]) == ""


@pytest.fixture
def y(rng):
    return rng.normal(size=30)


ESTIMATORS = [
    PartialPoolingRegressor(group_features="g"),
    PartialPoolingRegressor("y ~ x + (1 | g)", pooling="none"),
    JamesSteinEstimator(group_features="g"),
    JamesSteinEstimator(group_features="g", method="empirical-bayes", unknown_groups="nan"),
]


def frame(labels, n=30):
    return pd.DataFrame({"g": column([labels[i % len(labels)] for i in range(n)]), "x": np.arange(n) % 7})


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_both_estimators_warn_at_the_line_of_the_user(estimator, y):
    model = estimator.fit(frame(["001", "002", "003", "004", "005"]), y)
    with pytest.warns(LabelMismatchWarning, match="Group column 'g' of X: not one of the labels") as caught:
        model.predict(frame([1, 2, 3], n=4))
    assert [w.filename for w in caught] == [__file__]
    with pytest.warns(LabelMismatchWarning):
        model.predict_interval(frame([1, 2, 3], n=100))
    model.predict(frame(["new", "groups"], n=4))  # warnings are errors in these tests
    model.predict(frame(["new", "groups"], n=100))
    # some are known: never
    mixed = frame(["001", "002"], n=4).assign(g=np.array(["001", 2, 3, 4], dtype=object))
    model.predict(mixed)


@pytest.mark.parametrize("cls", [PartialPoolingRegressor, JamesSteinEstimator])
def test_labels_by_keyword_warn_too(cls, y):
    X = np.arange(30.0)[:, None] % 7
    model = cls().fit(X, y, groups=np.repeat(list("abcde"), 6))
    with pytest.warns(LabelMismatchWarning, match=r"groups=: not one.*'A', 'B'"):
        model.predict(X[:2], groups=["A", "B"])


@pytest.mark.parametrize("cls", [PartialPoolingRegressor, JamesSteinEstimator])
def test_the_error_policy_says_how_labels_differ(cls, y):
    model = cls(group_features="g", unknown_groups="error").fit(frame(["001", "002", "003", "004"]), y)
    with pytest.raises(ValueError, match=r"2 groups not seen in fit: 1, 2; they are numbers .*'001'.* unknown_groups"):
        model.predict(frame([1, 2], n=4))
    with pytest.raises(ValueError, match=r"not seen in fit: 'x'\. unknown_groups"):
        model.predict(frame(["x"], n=4))


def test_groups_that_are_ignored_do_not_warn(y):
    model = PartialPoolingRegressor(group_features="g", pooling="complete").fit(frame(["a", "b"]), y)
    model.predict(frame([1, 2]))


def test_numbers_turned_into_text_by_an_array(y):
    X = frame([11, 12, 13, 14])
    model = PartialPoolingRegressor("y ~ (1 | g)").fit(X, y)
    with pytest.warns(LabelMismatchWarning, match="pandas.to_numeric"):
        model.predict(X.assign(g=X["g"].astype(str)))
