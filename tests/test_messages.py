"""Values in messages are plain Python, whatever they arrived in."""

import numpy as np
import pandas as pd
import pytest

from hbsk import JamesSteinEstimator, PartialPoolingRegressor
from hbsk._messages import shown
from hbsk.model_selection import WithinGroupKFold, compare_estimators, make_group_scorer


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float64(0.3), "0.3"),
        (np.float32(0.5), "0.5"),
        (np.int8(-3), "-3"),
        (np.bool_(True), "True"),
        (np.str_("a"), "'a'"),
        (np.bytes_(b"a"), "b'a'"),
        (float("nan"), "nan"),
        (None, "None"),
        ([np.str_("a"), (np.int64(1), {np.float64(2.5)})], "['a', (1, {2.5})]"),
        ({np.str_("a"): [np.float64(1.0)]}, "{'a': [1.0]}"),
        (frozenset([np.int64(2)]), "frozenset({2})"),
        (np.array([1.0, 2.0]), "array([1., 2.])"),
        (np.array([np.str_("a"), np.int64(1)], dtype=object), "array(['a', 1], dtype=object)"),
        (pd.Timestamp("2026-01-02"), "Timestamp('2026-01-02 00:00:00')"),
    ],
)
def test_shown(value, text):
    assert shown(value) == text


def test_what_is_shown_is_not_changed():
    value = np.array([np.int64(1)], dtype=object)
    shown(value)
    assert type(value[0]) is np.int64


X = np.array([[0.0], [0.0], [1.0], [1.0], [2.0], [2.0], [3.0], [3.0]])
Y = np.arange(8.0)
FITTED = JamesSteinEstimator(group_features=0).fit(X, Y)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: FITTED.predict_interval(X, coverage=np.float64(1.5)), "got 1.5."),
        (lambda: FITTED.predict_interval(X, kind=np.str_("row")), "got 'row'."),
        (lambda: JamesSteinEstimator().fit(X, Y, np.full(8, 0.25)), "('groups': 0.25, ...)"),
        (lambda: JamesSteinEstimator().fit(X, Y, sample_weight=np.full(8, -1.5)), "(smallest -1.5)"),
        (lambda: JamesSteinEstimator().fit(X, Y, standard_error=np.zeros(8)), "row 0 has 0.0."),
        (lambda: JamesSteinEstimator(group_features=[np.str_("a")]).fit(X, Y), "X has no column 'a'"),
        (lambda: JamesSteinEstimator(group_features=[np.int64(0), 0]).fit(X, Y), "group_features=[0, 0] names"),
        (
            lambda: (
                JamesSteinEstimator(group_features=0, unknown_groups="error")
                .fit(X.astype(object), Y)
                .predict(np.array([[np.str_("z")]], dtype=object))
            ),
            "not seen in fit: 'z'",
        ),
        (
            lambda: JamesSteinEstimator().fit(X, Y, groups=pd.DataFrame({np.str_("x0"): list("aabbccdd")})),
            "X has a column 'x0'",
        ),
        (lambda: WithinGroupKFold(np.int64(1)), "got 1."),
        (lambda: WithinGroupKFold(2, random_state=np.int64(1)), "random_state=1 has"),
        (lambda: make_group_scorer(np.float64(1.0)), "got 1.0."),
        (lambda: make_group_scorer(max, greater_is_better=np.int64(1)), "got 1."),
        (lambda: make_group_scorer(max, response=np.int64(1)), "got 1."),
        (lambda: compare_estimators({"a": FITTED}, X, Y, scoring=np.str_("rmse")), "got 'rmse'. A single one"),
        (lambda: compare_estimators({"a": FITTED}, X, Y, scoring=[np.str_("rms")]), "names 'rms', which"),
        (lambda: compare_estimators({"a": FITTED}, X, Y, X[:, 0], cv=np.str_("all")), "got 'all'."),
        (lambda: compare_estimators([np.float64(1.0)], X, Y), "got [1.0]."),
        (lambda: PartialPoolingRegressor().fit(X, Y, np.full(8, 0.25)), "('groups': 0.25, ...)"),
    ],
)
def test_messages_write_numbers_and_texts_of_numpy_as_python_does(call, words):
    with pytest.raises((TypeError, ValueError)) as raised:
        call()
    assert words in str(raised.value)
    assert "np." not in str(raised.value)
