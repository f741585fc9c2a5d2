"""JSON of fitted estimators: the same answers to the last bit, and nothing but data on the way."""

import datetime
import decimal
import json
import subprocess
import sys
import uuid
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge

from hbsk import JamesSteinEstimator, PartialPoolingClassifier, PartialPoolingRegressor, from_json, to_json
from hbsk.exceptions import NoGroupsWarning, ShrinkageWarning


def rows(n=60, seed=3):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=n) + 1e3,
            "kind": rng.choice(["a", "b", "c"], n),
            "school": rng.choice(["north", "south", "west", "école", "mid"], n),
            "class": rng.integers(0, 3, n),
        }
    )
    return frame, frame["x"] - 1e3 + (frame["school"] == "west") + rng.normal(size=n)


X, Y = rows()
NEW = X.iloc[:7].assign(school=["north", "new", "west", "école", "new", "other", "south"])

PARTIAL = {
    "intercepts": {"group_features": "school", "formula": None},
    "formula": {"formula": "poly(x, 2) + bs(np.sin(x), df=4) + C(kind, Sum) + offset(x) + (scale(x) | school)"},
    "blocks": {"formula": "x*kind + (1 | school) + (0 + x | school)"},
    "interaction of factors": {"formula": "x + (1 | school:class)"},
    "no pooling": {"formula": "x + (x | school)", "pooling": "none"},
    "complete pooling": {"formula": "x + (x | school)", "pooling": "complete"},
    "fixed sds": {
        "formula": "x + (x | school)",
        "priors": {"1|school": ("Normal", {"mu": 0, "sigma": 0.5}), "sigma": 1, "x": ("Normal", {"mu": 0, "sigma": 1})},
    },
    "bounded sds": {
        "formula": "x + (1 | school)",
        "priors": {"1|school": ("Normal", {"mu": 0, "sigma": ("Uniform", {"lower": 0.1, "upper": 3.0})})},
    },
}
# The columns of the formula-less model are all features, categories included.
JAMES_STEIN = {
    "means": {"group_features": "school"},
    "sure": {"group_features": "school", "method": "sure", "unknown_groups": "nan"},
    "regression": {"group_features": "school", "target": "regression"},
}


def answers(model, frame):
    """Everything that a model says about rows, as bytes."""
    mean, std = model.predict(frame, return_std=True)
    parts = [mean, std, *(model.predict_interval(frame, kind=kind) for kind in ("prediction", "mean"))]
    if isinstance(model, PartialPoolingRegressor):
        parts.append(model.sample_y(frame, n_samples=3, random_state=0))
    return [part.tobytes() for part in parts]


@pytest.mark.parametrize("name", PARTIAL)
def test_partial_pooling_comes_back_bit_for_bit(name):
    fitted = PartialPoolingRegressor(**PARTIAL[name]).fit(X, Y)
    text = to_json(fitted)
    loaded = from_json(text)
    assert answers(loaded, NEW) == answers(fitted, NEW)
    assert loaded.get_params() == fitted.get_params()
    for table in ("diagnostics_", "group_effects_"):
        pd.testing.assert_frame_equal(getattr(loaded, table), getattr(fitted, table), check_exact=True)
    pd.testing.assert_frame_equal(loaded.summary(), fitted.summary(), check_exact=True)
    assert loaded.priors_ == fitted.priors_
    assert loaded.coef_names_ == fitted.coef_names_
    assert loaded.feature_names_in_.tolist() == fitted.feature_names_in_.tolist()
    for factor, sds in fitted.group_sd_.items():
        pd.testing.assert_series_equal(loaded.group_sd_[factor], sds, check_exact=True)
        pd.testing.assert_frame_equal(loaded.group_correlation_[factor], fitted.group_correlation_[factor])
    # What is written is settled by what is loaded: nothing was lost on the way.
    assert to_json(loaded) == text


@pytest.mark.parametrize("name", JAMES_STEIN)
def test_james_stein_comes_back_bit_for_bit(name):
    frame = X[["x", "school"]]
    fitted = JamesSteinEstimator(**JAMES_STEIN[name]).fit(frame, Y)
    loaded = from_json(to_json(fitted))
    assert answers(loaded, NEW[["x", "school"]]) == answers(fitted, NEW[["x", "school"]])
    assert loaded.theta_.tobytes() == fitted.theta_.tobytes()
    assert to_json(loaded) == to_json(fitted)


def test_estimators_without_groups_come_back():
    frame = X[["x", "class"]].assign(z=np.arange(len(X)) % 7, w=np.arange(len(X)) % 5)
    for estimator in (PartialPoolingRegressor(), JamesSteinEstimator()):
        with pytest.warns(NoGroupsWarning):
            fitted = estimator.fit(frame, Y)
        assert answers(from_json(to_json(fitted)), frame[:5]) == answers(fitted, frame[:5])


def test_known_standard_errors_and_weights_come_back():
    errors, copies = 0.5 + np.arange(len(Y)) / 50, np.arange(len(Y)) % 3
    fitted = PartialPoolingRegressor("x + (1 | school)").fit(X, Y, standard_error=errors, sample_weight=copies)
    loaded = from_json(to_json(fitted))
    assert np.isnan(loaded.sigma_)
    for options in ({"kind": "mean"}, {"standard_error": errors[:7]}):
        ours, theirs = (model.predict_interval(NEW, **options) for model in (loaded, fitted))
        assert ours.tobytes() == theirs.tobytes()
    pd.testing.assert_frame_equal(loaded.group_effects_, fitted.group_effects_, check_exact=True)


def test_draws_of_nuts_come_back(crossed):
    fitted, frame, _ = crossed
    new = frame[:7].assign(pupil=list("abnewca"))
    loaded = from_json(to_json(fitted))
    assert answers(loaded, new) == answers(fitted, new)
    pd.testing.assert_frame_equal(loaded.diagnostics_, fitted.diagnostics_, check_exact=True)
    stats = fitted._learnt.fitted.sample_stats
    assert {name: loaded._learnt.fitted.sample_stats[name].tobytes() for name in stats} == {
        name: value.tobytes() for name, value in stats.items()
    }


LABELS = {
    "str": ["a", "b", "ß", "a"],
    "empty and odd str": ["", "$", "\n\u2028", ""],
    "int": [3, -(2**62), 7, 3],
    "large int": [2**70, 1, 2, 2**70],
    "float": [1.0, 3.0, 0.0, 1.0],
    "bool": [True, False, True, True],
    "mixed": ["a", 1, (1, "b"), "a"],
    "tuple": [("a", 1), ("b", 2), ("a", 2), ("a", 1)],
    "bytes": [b"\x00", b"b", b"c", b"\x00"],
    "date": [datetime.date(2020, 1, d) for d in (1, 2, 3, 1)],
    "datetime": [datetime.datetime(2020, 1, d, 5) for d in (1, 2, 3, 1)],
    "timestamp": pd.DatetimeIndex(np.array([1, 10**18, -5, 1], dtype="M8[ns]")),
    "timedelta": pd.to_timedelta([1, 2, 3, 1], unit="ms"),
    "time of a zone": pd.DatetimeIndex(["2020-03-29 01:30", "2020-10-25 01:30", "2020-01-01", "2020-03-29 01:30"])
    .tz_localize("UTC")
    .tz_convert("Europe/Berlin"),
    "time of an offset": pd.DatetimeIndex([f"2020-01-0{d} 05:00+05:30" for d in (1, 2, 3, 1)]),
    "month": pd.PeriodIndex(["2020-01", "2020-02", "2019-12", "2020-01"], freq="M"),
    "band": pd.cut([20, 30, 45, 20], [0, 25, 40, np.inf]),
    "bands": pd.IntervalIndex.from_tuples([(0, 1), (2.5, 3), (1, 2), (0, 1)], closed="left"),
    "uuid": [uuid.UUID(int=2**k) for k in (100, 0, 7, 100)],
    "decimal": [decimal.Decimal(text) for text in ("1.50", "-2", "1e30", "1.50")],
    "category": pd.Categorical(["u", "v", "w", "u"]),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("cls", [JamesSteinEstimator, PartialPoolingRegressor])
def test_labels_of_every_kind_come_back(kind, cls):
    labels = LABELS[kind]
    if not isinstance(labels, pd.Categorical | pd.Index):
        array = np.empty(4, dtype=object)
        array[:] = labels
        labels = array
    groups = pd.Series(labels).repeat(3).reset_index(drop=True)
    features, y = np.zeros((12, 1)), np.array([1, 5, 2, 8, 3, 4, 1, 7, 9, 4, 4, 6.0])
    estimator = cls(priors={"sigma": 1.5}) if cls is PartialPoolingRegressor else cls(between_group_variance=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ShrinkageWarning)  # three groups are too few for James and Stein
        fitted = estimator.fit(features, y, groups=groups)
    loaded = from_json(to_json(fitted))
    before, after = (model.groups_["groups"] for model in (fitted, loaded))
    assert before.dtype == after.dtype
    assert before.tolist() == after.tolist()
    assert list(map(type, before.tolist())) == list(map(type, after.tolist()))
    assert loaded.predict(features, groups=groups).tobytes() == fitted.predict(features, groups=groups).tobytes()


def test_metadata_requests_come_back():
    from sklearn import config_context

    with config_context(enable_metadata_routing=True):
        fitted = JamesSteinEstimator().set_fit_request(groups=True, sample_weight="copies")
        fitted.set_predict_request(groups=True)
        fitted.fit(X[["x"]], Y, groups=X["school"])
        loaded = from_json(to_json(fitted))
        wanted, found = (model.get_metadata_routing() for model in (fitted, loaded))
        assert found.fit.requests == wanted.fit.requests
        assert found.predict.requests == wanted.predict.requests


def test_arrays_are_written_once():
    fitted = PartialPoolingRegressor("x + (1 | school)").fit(X, Y)
    document = json.loads(to_json(fitted))
    assert fitted._learnt.fitted.posterior.sums is fitted._learnt.fitted.model.sums
    contents = [array["base64"] for array in document["arrays"] if len(array.get("base64", "")) > 100]
    assert len(contents) == len(set(contents)) > 3


def test_another_process_predicts_the_same_and_needs_no_bambi(tmp_path):
    fitted = PartialPoolingRegressor("poly(x, 2) + kind + (x | school)").fit(X, Y)
    (tmp_path / "model.json").write_text(to_json(fitted), encoding="ascii")
    NEW.to_csv(tmp_path / "new.csv", index=False, float_format="%.17g")
    program = (
        "import sys, pandas as pd\n"
        "from hbsk import from_json\n"
        "model = from_json(open('model.json', encoding='ascii').read())\n"
        "print(' '.join(float(m).hex() for m in model.predict(pd.read_csv('new.csv'))))\n"
        "assert not {'bambi', 'pymc', 'formulae'} & set(sys.modules)\n"
    )
    root = str(Path(__file__).parents[1])
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n{program}"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    read_again = pd.read_csv(tmp_path / "new.csv")
    assert ran.stdout.split() == [float(m).hex() for m in fitted.predict(read_again)]


def test_text_arrays_come_back_as_they_are():
    fitted = JamesSteinEstimator(group_features=np.array(["school", "x"])[:1]).fit(X[["x", "school"]], Y)
    loaded = from_json(to_json(fitted))
    assert loaded.group_features.tolist() == ["school"]
    assert loaded.group_features.dtype == fitted.group_features.dtype


# What cannot be written


def test_only_our_fitted_estimators_are_written():
    with pytest.raises(TypeError, match=r"writes PartialPoolingRegressor, .*JamesSteinEstimator.*, got Ridge"):
        to_json(Ridge())
    with pytest.raises(NotFittedError):
        to_json(PartialPoolingRegressor())


def test_bambi_priors_are_refused_with_the_way_out():
    bambi = pytest.importorskip("bambi")
    fitted = PartialPoolingRegressor("x + (1 | school)", priors={"x": bambi.Prior("Normal", mu=0, sigma=1)}).fit(X, Y)
    with pytest.raises(TypeError, match=r"parameter priors.*Give priors as plain data.*priors_"):
        to_json(fitted)
    again = PartialPoolingRegressor("x + (1 | school)", priors=fitted.priors_).fit(X, Y)
    assert answers(from_json(to_json(again)), NEW) == answers(fitted, NEW)


@pytest.mark.parametrize("generator", [np.random.RandomState(0), np.random.default_rng(0)])
def test_generators_are_refused(generator):
    fitted = PartialPoolingRegressor("x + (1 | school)", random_state=generator).fit(X, Y)
    with pytest.raises(TypeError, match=r"parameter random_state.*integer or None"):
        to_json(fitted)


@pytest.mark.parametrize(
    "label", [frozenset("a"), datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), datetime.time(5), 1j]
)
def test_labels_that_json_has_no_form_for_are_refused(label):
    groups = np.empty(9, dtype=object)
    groups[:] = [label] * 3 + ["b", "c", "d"] * 2
    fitted = JamesSteinEstimator().fit(np.zeros((9, 1)), np.arange(9.0), groups=groups)
    with pytest.raises(TypeError, match=r"cannot write an element of .*Group labels"):
        to_json(fitted)


CLASSES = {
    "days": np.array(["2020-02-29", "1969-12-31"], dtype="M8[D]"),
    "times": pd.Series(pd.to_datetime(["2020-02-29 12:30:00.25", "1969-12-31 00:00:00.00"])),
    "spans": np.array([7, -1], dtype="m8[ms]"),
    "texts of any length": np.array(["ß", ""], dtype=np.dtypes.StringDType()),
    "categories": pd.Series(["b", "a"], dtype="category"),
    "pandas texts": pd.Series(["b", "a"], dtype="string"),
    "float32": np.array([2.5e9, 3.0], dtype=np.float32),
    "uint8": np.array([3, 0], dtype=np.uint8),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_classes_of_every_kind_come_back(kind):
    labels, rows = CLASSES[kind], np.arange(12) % 2
    features, groups = np.arange(12.0)[:, None], np.arange(12) // 4
    y = labels.iloc[rows].reset_index(drop=True) if isinstance(labels, pd.Series) else labels[rows]
    fitted = PartialPoolingClassifier(pooling="complete").fit(features, y, groups=groups)
    loaded = from_json(to_json(fitted))
    assert loaded.classes_.dtype == fitted.classes_.dtype
    assert loaded.classes_.tolist() == fitted.classes_.tolist() == sorted(np.asarray(labels).tolist())
    np.testing.assert_array_equal(loaded.predict(features), fitted.predict(features))


def test_times_that_are_none_are_refused():
    fitted = PartialPoolingClassifier(pooling="complete").fit(
        np.arange(12.0)[:, None], np.array([1, 2] * 6, dtype="M8[s]"), groups=np.arange(12) // 4
    )
    text = to_json(fitted)
    assert '"M8[s]"' in text
    for wrong in ('"f8"', '"O"', '"M9[s]"'):
        with pytest.raises(ValueError, match="damaged"):
            from_json(text.replace('"M8[s]"', wrong))
