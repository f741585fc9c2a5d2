"""JSON that no estimator wrote: refused in our words, in little memory, and nothing but a fit comes out."""

import json

import numpy as np
import pandas as pd
import pytest

from hbsk import JamesSteinEstimator, PartialPoolingEncoder, PartialPoolingRegressor, from_json, to_json

rng = np.random.default_rng(3)
X = pd.DataFrame(
    {
        "x": rng.normal(size=60) + 1e3,
        "kind": rng.choice(["a", "b", "c"], 60),
        "school": rng.choice(["north", "south", "west", "école", "mid"], 60),
    }
)
Y = X["x"] - 1e3 + (X["school"] == "west") + rng.normal(size=60)


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


def with_sources(content, change):
    """Apply a change to every FactorSource in a document, in place."""
    for value in content.values() if isinstance(content, dict) else content:
        if isinstance(value, dict | list):
            with_sources(value, change)
    if isinstance(content, dict) and content.get("$") == "FactorSource":
        change(content)


@pytest.mark.parametrize(
    "estimator",
    [
        JamesSteinEstimator(group_features="school", target="regression"),
        PartialPoolingRegressor("x + (1 | school)"),
    ],
)
def test_columns_that_x_does_not_have_are_refused(estimator):
    content = json.loads(to_json(estimator.fit(X[["x", "school"]], Y)))
    for change, reason in (
        (lambda source: source["fields"]["columns"].update(value=["shool"]), "has no column 'shool'"),
        (
            lambda source: source["fields"]["columns"].update(value=[]),
            "no columns hold the labels of the factor 'school'",
        ),
    ):
        damaged = json.loads(json.dumps(content))
        with_sources(damaged["state"], change)
        with pytest.raises(ValueError, match=reason):
            from_json(json.dumps(damaged))
    content["state"]["feature_names_in_"] = None
    with pytest.raises(ValueError, match="is damaged"):
        from_json(json.dumps(content))
