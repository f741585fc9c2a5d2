"""Statistics of predictive checks: values stand by label, and what has no p-value is refused."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator

from hbsk.predictive_checks import PredictiveCheck, per_group, posterior_predictive_check


class Draws(BaseEstimator):
    """An estimator whose replicates are the given columns, in turn."""

    def __init__(self, replicates):
        self.replicates = replicates

    def fit(self, X, y):
        return self

    def __sklearn_is_fitted__(self):
        return True

    def sample_y(self, X, n_samples=1, random_state=None):
        return self.replicates[:, :n_samples]


Y = np.array([1.0, 5.0])
X = np.zeros((2, 1))


def check(statistic, *replicates, y=Y):
    draws = Draws(np.column_stack(replicates).astype(np.float64))
    options = {"statistics": statistic, "n_samples": len(replicates), "random_state": 0}
    return posterior_predictive_check(draws, np.zeros((len(y), 1)), y, **options)


def test_values_of_a_series_are_matched_by_label():
    def sorted_by_size(y):
        return pd.Series(y, index=["a", "b"]).sort_values(ascending=y[0] < y[1])

    # both replicates are (9, 7) > (1, 5): every p-value is 1, whatever the order of the Series
    found = check({"T": lambda y: pd.Series(y, index=["a", "b"]).sort_values()}, [9.0, 7.0], [9.0, 7.0])
    assert found.p_value.to_dict() == {"T[a]": 1.0, "T[b]": 1.0}
    assert found.replicated.to_numpy().tolist() == [[9.0, 7.0], [9.0, 7.0]]
    found = check({"T": sorted_by_size}, [0.0, 7.0], [9.0, 7.0], [2.0, 3.0])
    assert found.observed.to_dict() == {"T[a]": 1.0, "T[b]": 5.0}
    assert found.p_value.to_dict() == {"T[a]": 2 / 3, "T[b]": 2 / 3}


def test_labels_of_any_kind_are_matched():
    for index in ([1, 2], [1.0, np.nan], [("a", 1), ("b", 2)], pd.to_datetime(["2020-01-01", "2021-01-01"])):
        found = check({"T": lambda y, index=index: pd.Series(y, index=index).sort_values()}, [9.0, 7.0])
        assert found.p_value.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("of_data", "of_replicate", "message"),
    [
        (
            {"a": 1.0, "b": 2.0},
            {"a": 1.0, "c": 2.0},
            r"labels \['a', 'b'\] for the data and \['a', 'c'\] for a replicate",
        ),
        ({"a": 1.0, "b": 2.0}, {"a": 1.0}, "returned 1 to 2 numbers"),
        ({"a": 1.0, "b": 2.0}, [1.0, 2.0], "a Series for one data set and none for another"),
        ([1.0, 2.0], {"a": 1.0, "b": 2.0}, "a Series for one data set and none for another"),
    ],
)
def test_replicates_must_have_the_labels_of_the_data(of_data, of_replicate, message):
    def statistic(y):
        result = of_data if y[0] == Y[0] else of_replicate
        return pd.Series(result) if isinstance(result, dict) else result

    with pytest.raises(ValueError, match=message):
        check({"T": statistic}, [9.0, 7.0])


def test_labels_must_differ():
    with pytest.raises(ValueError, match="two values for 'a'"):
        check({"T": lambda y: pd.Series(y, index=["a", "a"])}, [9.0, 7.0])
    found = check({"T": lambda y: pd.Series(y, index=[1, "1"])}, [0.0, 7.0])
    assert found.p_value.to_dict() == {"T[1]": 0.0, "T['1']": 1.0}
    with pytest.raises(ValueError, match=r"two values the name 'T\[a\]'"):
        check({"T": lambda y: pd.Series(y, index=["a", "b"]), "T[a]": "mean"}, [9.0, 7.0])
    with pytest.raises(ValueError, match="two entries named '1'"):
        check({1: "mean", "1": "max"}, [9.0, 7.0])


@pytest.mark.parametrize("result", [[], np.array([]), pd.Series(dtype=float), None, np.zeros((0, 2))])
def test_statistics_without_a_number_are_refused(result):
    with pytest.raises(ValueError, match=r"'T' returned (None|an array of shape).*one\s+number or more"):
        check({"T": lambda y: result}, [9.0, 7.0])


@pytest.mark.parametrize("value", [np.inf, -np.inf, 3.0])
def test_replicates_without_a_value_are_refused(value):
    with pytest.raises(ValueError, match=f"'T' is {value:.6g} for the data and NaN for 1 of 2 replicates"):
        check({"T": lambda y: value if y[0] < 9 else np.nan}, [9.0, 7.0], [2.0, 7.0])


def test_infinite_values_have_p_values():
    found = check({"T": lambda y: np.inf if y[0] < 2 else y[0]}, [1.0, 1.0], [9.0, 7.0])
    assert found.p_value.to_dict() == {"T": 0.5}


def test_checks_made_by_hand_have_no_p_value_where_a_replicate_has_none():
    made = PredictiveCheck(pd.Series({"t": np.inf, "u": 1.0}), pd.DataFrame({"t": [np.nan, 1.0], "u": [2.0, 0.0]}))
    np.testing.assert_array_equal(made.p_value, [np.nan, 0.5])


def test_integer_labels_beside_a_missing_one_stay_integers():
    from hbsk import PartialPoolingRegressor

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"g": [7, 8, 9] * 4, "x": 0.0})
    y = rng.normal(size=12)
    model = PartialPoolingRegressor(group_features="g").fit(frame[["g"]], y)
    for missing in (frame["g"].astype("Int64").mask(frame.index == 3), frame["g"].astype(float).mask(frame.index == 3)):
        found = posterior_predictive_check(
            model, missing.to_frame(), y, statistics=per_group("mean"), n_samples=3, random_state=0
        )
        assert found.observed.index.tolist() == ["group_mean[7]", "group_mean[8]", "group_mean[9]"]
        rows = (frame["g"] == 7) & (frame.index != 3)
        assert found.observed.iloc[0] == pytest.approx(y[rows].mean(), rel=1e-14)
    with pytest.raises(ValueError, match="every label is missing"):
        per_group("mean")([1.0, 2.0], groups=[None, None])
