"""JSON of fitted estimators: the same answers to the last bit, and nothing but data on the way."""

import datetime
import decimal
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge

from hbsk import JamesSteinEstimator, PartialPoolingEncoder, PartialPoolingRegressor, from_json, to_json
from hbsk.exceptions import ConvergenceWarning, NoGroupsWarning, ShrinkageWarning


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


def test_draws_of_nuts_come_back():
    options = {"draws": 25, "tune": 25, "chains": 2, "random_state": 1}
    with pytest.warns(ConvergenceWarning):
        fitted = PartialPoolingRegressor("x + (1 | school) + (1 | class)", inference="nuts", **options).fit(X, Y)
    loaded = from_json(to_json(fitted))
    assert answers(loaded, NEW) == answers(fitted, NEW)
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
    "label", [decimal.Decimal("1.5"), frozenset("a"), pd.Timestamp("2020-01-01", tz="UTC"), datetime.time(5)]
)
def test_labels_that_json_has_no_form_for_are_refused(label):
    groups = np.empty(9, dtype=object)
    groups[:] = [label] * 3 + ["b", "c", "d"] * 2
    fitted = JamesSteinEstimator().fit(np.zeros((9, 1)), np.arange(9.0), groups=groups)
    with pytest.raises(TypeError, match=r"cannot write an element of .*Group labels"):
        to_json(fitted)


# What cannot be read


@pytest.fixture(scope="module")
def document():
    return to_json(JamesSteinEstimator(group_features="school").fit(X[["x", "school"]], Y))


def changed(document, **parts):
    return json.dumps(json.loads(document) | parts)


def in_state(document, **parts):
    content = json.loads(document)
    content["state"] |= parts
    return json.dumps(content)


def test_other_texts_are_refused(document):
    with pytest.raises(TypeError, match="takes the str"):
        from_json(document.encode())
    for text, reason in (
        ("", "this is no JSON"),
        (document[:-20], "this is no JSON"),
        ("[1, 2]", "no key 'hbsk_format'"),
        ('{"a": 1}', "no key 'hbsk_format'"),
        ("[" * 100_000, "this is no JSON"),
        (
            changed(document, hbsk_format=3, hbsk_version="7.1"),
            "hbsk_format=3, written by .*'7.1'.* reads format 2",
        ),
        (changed(document, estimator="Ridge"), "estimator 'Ridge'; from_json reads"),
        (changed(document, state=None), "lacks 'state'"),
        (changed(document, arrays=[]), "is damaged"),
        (changed(document, params={"method": "sure", "colour": 1}), "is damaged, .*colour"),
        (changed(document, requests={"__init__": {}}), "metadata requests of '__init__'"),
    ):
        with pytest.raises(ValueError, match=reason):
            from_json(text)


def test_names_outside_the_list_are_refused(document):
    for value, reason in (
        ({"$": "os.system", "value": "true"}, "kind 'os.system'"),
        ({"$": "Fitted", "fields": {"__class__": "x"}}, "is damaged"),
        ({"$": ["Fitted"], "fields": {}}, "is damaged"),
        ({"$": "GroupFactor"}, "is damaged"),
        ({"$": "number", "value": ["|O", "0000000000000000"]}, r"dtype '\|O'"),
    ):
        with pytest.raises(ValueError, match=reason):
            from_json(in_state(document, theta_=value))


@pytest.mark.parametrize("name", ["predict", "_read", "__class__", "__reduce__", "theta", "shrink this_"])
def test_only_fitted_attributes_are_set(document, name):
    with pytest.raises(ValueError, match="which is no fitted attribute of JamesSteinEstimator"):
        from_json(in_state(document, **{name: 1}))


def test_bytes_of_objects_are_refused(document):
    content = json.loads(document)
    for array in content["arrays"]:
        if "base64" in array:
            array["dtype"] = "|O"
    with pytest.raises(ValueError, match=r"dtype '\|O'; only numbers"):
        from_json(json.dumps(content))


def test_loaded_arrays_may_be_written_to(document):
    model = from_json(document)
    model.theta_[0] = 0.0
    assert from_json(document).theta_[0] != 0.0


def test_only_a_whole_number_is_a_format(document):
    for value in (True, 2.0, 1.0, "1", [1], None):
        with pytest.raises(ValueError, match="reads format 2"):
            from_json(changed(document, hbsk_format=value))


def array_of(content, kind):
    """Return the first array of a document that has items, or bytes."""
    return next(array for array in content["arrays"] if kind in array and 0 not in array["shape"])


def text_array(document, width, items):
    content = json.loads(document)
    content["arrays"].append({"dtype": f"<U{width}", "shape": [len(items)], "items": items})
    content["params"]["group_features"] = {"$": "array", "value": len(content["arrays"]) - 1}
    return json.dumps(content)


def test_arrays_must_fill_the_size_they_claim(document):
    for kind, shape in (
        ("items", [6]), ("items", [1]), ("items", [300_000_000]), ("items", [-2]), ("items", [2.0]),
        ("items", [True, 2]), ("items", 2), ("items", [[2]]), ("items", None), ("items", [2] + [1] * 20),
        ("items", [0, 10**12]),
        ("base64", [7]), ("base64", [300_000_000]), ("base64", [-1]), ("base64", [0, 2**70]), ("base64", "5"),
    ):  # fmt: skip
        content = json.loads(document)
        array = array_of(content, kind)
        assert len(array["shape"]) == 1
        array["shape"] = shape
        with pytest.raises(ValueError, match=r"^The document is damaged"):
            from_json(json.dumps(content))
    for axes in ([1], [0, 0], "0", None, [False], [-1], []):
        content = json.loads(document)
        array_of(content, "base64")["axes"] = axes
        with pytest.raises(ValueError, match=r"^The document .*is damaged"):
            from_json(json.dumps(content))


def test_small_documents_take_little_memory(document):
    import tracemalloc

    big = {"$": "index", "value": [{"$": "array", "value": 0}, None]}
    q = 2000
    parameters = {
        "$": "VarianceParameters",
        "fields": {
            "residual_sd": 1, "group_sd": [1] * q, "lkj_eta": [1], "small_sd": None,
            "blocks": {"$": "tuple", "value": [{"$": "tuple", "value": list(range(q))}]},
        },
    }  # fmt: skip
    content = json.loads(document)
    array_of(content, "items")["shape"] = [300_000_000]
    refused = [
        json.dumps(content),
        text_array(document, 300_000_000, ["a"]),
        text_array(document, 10_000, ["a" * 10_000, *["b"] * 20_000]),
        in_state(document, more_={"$": "frame", "value": [big, big, [{"$": "array", "value": 0}] * 100]}),
        in_state(document, more_=parameters),
    ]
    for text in refused:
        tracemalloc.start()
        with pytest.raises(ValueError, match=r"^The document .*is damaged"):
            from_json(text)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # JSON's own lists and numbers take some 60 bytes for each character at most
        assert peak < 2**22 + 100 * len(text)


def test_text_arrays_come_back_as_they_are():
    fitted = JamesSteinEstimator(group_features=np.array(["school", "x"])[:1]).fit(X[["x", "school"]], Y)
    loaded = from_json(to_json(fitted))
    assert loaded.group_features.tolist() == ["school"]
    assert loaded.group_features.dtype == fitted.group_features.dtype


@pytest.fixture(scope="module")
def partial_document():
    return to_json(PartialPoolingRegressor("x + kind + (scale(x) | school)").fit(X, Y))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("_learnt", 1), ("_learnt", None),
        ("groups_", {}), ("groups_", {"school": "text"}), ("coef_", [1.0]), ("coef_names_", "x"),
        ("coef_names_", ["x"]), ("coef_names_", [1]),
        ("inference_", 1), ("intercept_", "1"), ("intercept_", True), ("sigma_", None), ("n_features_in_", 1.5),
        ("priors_", []), ("formula_", None),
    ],
)  # fmt: skip
def test_a_fit_has_what_a_fit_has(name, wrong, partial_document):
    with pytest.raises(ValueError, match=r"^The document .*is damaged"):
        from_json(in_state(partial_document, **{name: wrong}))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("fitted", 1), ("fitted", None), ("frame", True), ("copies", {}), ("copies", []), ("known_errors", 1),
        ("copies", {"$": "tuple", "value": []}),
    ],
)  # fmt: skip
def test_what_is_learnt_is_of_its_kind(name, wrong, partial_document):
    content = json.loads(partial_document)
    content["state"]["_learnt"]["fields"][name] = wrong
    with pytest.raises(ValueError, match=r"^The document .*is damaged"):
        from_json(json.dumps(content))


def test_nothing_that_a_fit_has_may_be_missing(document, partial_document):
    for text in (document, partial_document):
        content = json.loads(text)
        for name in content["state"]:
            if name != "feature_names_in_":
                state = {key: value for key, value in content["state"].items() if key != name}
                with pytest.raises(ValueError, match=r"^The document .*is damaged"):
                    from_json(json.dumps(content | {"state": state}))


def places(value, path=()):
    """Return the paths of all parts of a document."""
    found = [path]
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            found += places(value[key], (*path, key))
    return found


def tampered(content, rng):
    """Change one place of a document: another value, one less, or one more."""
    content = json.loads(json.dumps(content))
    paths = [path for path in places(content) if path]
    *path, last = paths[rng.integers(len(paths))]
    parent = content
    for key in path:
        parent = parent[key]
    how = rng.integers(4)
    if how == 0:
        del parent[last]
    elif how == 1 and isinstance(parent, list):
        parent.append(parent[last])
    else:
        values = [
            None,
            True,
            -1,
            0,
            10**9,
            2**70,
            1.5,
            1e308,
            "",
            "a",
            "<f8",
            "|O",
            [],
            [1],
            {},
            {"$": "tuple", "value": []},
        ]
        parent[last] = values[rng.integers(len(values))]
    return content


@pytest.mark.parametrize("which", range(4))
def test_tampered_documents_end_in_our_words_or_in_an_estimator(which):
    fitted = [
        lambda: JamesSteinEstimator(group_features="school").fit(X[["x", "school"]], Y),
        lambda: PartialPoolingRegressor("bs(x, df=4) + kind + (scale(x) | school)").fit(X, Y),
        lambda: PartialPoolingRegressor("x + (x | school)", pooling="none").fit(X, Y),
        lambda: PartialPoolingEncoder(["kind", "school"], add=("count",)).fit(X, Y > 0),
    ][which]()
    content, rng = json.loads(to_json(fitted)), np.random.default_rng(which)
    refused = []
    for _ in range(150):
        try:
            assert type(from_json(json.dumps(tampered(content, rng)))) is type(fitted)
        except ValueError as error:
            refused.append(str(error))
    assert all(message.startswith(("The document", "from_json takes")) for message in refused)
    assert len(refused) > 75
