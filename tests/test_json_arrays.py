"""Documents whose arrays do not fit one another, or hold what none can hold, are refused by name."""

import base64
import json
from functools import cache

import numpy as np
import pandas as pd
import pytest

from hbsk import (
    JamesSteinEstimator,
    PartialPoolingClassifier,
    PartialPoolingEncoder,
    PartialPoolingRegressor,
    from_json,
    to_json,
)

rng = np.random.default_rng(0)
X = pd.DataFrame({"x": rng.normal(size=40), "g": rng.choice(list("pqrstu"), 40), "h": rng.choice(list("vwxy"), 40)})
Y = X["x"] + rng.normal(size=40)
MODELS = {
    "means": lambda: JamesSteinEstimator(group_features="g", method="sure").fit(X[["x", "g"]], Y),
    "regression": lambda: JamesSteinEstimator(group_features="g", target="regression").fit(X[["x", "g"]], Y),
    "one factor": lambda: PartialPoolingRegressor("x + (x | g)").fit(X, Y),
    "two factors": lambda: PartialPoolingRegressor("x + (1 | g) + (1 | h)").fit(X, Y),
    "no pooling": lambda: PartialPoolingRegressor("x + (1 | g)", pooling="none").fit(X, Y),
    "classes": lambda: PartialPoolingClassifier("x + (1 | g)").fit(X, Y > 0),
    "encoder": lambda: PartialPoolingEncoder(add=("sd", "count")).fit(X[["g", "h"]], np.digitize(Y, [-0.5, 0.5])),
}


@cache
def document(name):
    return to_json(MODELS[name]())


ANSWERS = {"classes": "predict_proba", "encoder": "transform"}


def encoded(values):
    content = base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
    axes = list(range(values.ndim))
    return {"dtype": values.dtype.str, "shape": list(values.shape), "axes": axes, "base64": content}


def changes(values):
    yield values[:-1]
    yield np.concatenate([values, values[:1]])
    yield values[None]
    if values.dtype.kind == "f":
        for number in (np.nan, np.inf, -np.inf):
            changed = values.copy()
            changed.flat[-1] = number
            yield changed
        yield -np.abs(values) - 1


@pytest.mark.parametrize("name", MODELS)
def test_every_array_changed_is_refused_in_our_words_or_answers_in_finite_numbers(name):
    fitted = MODELS[name]()
    ask = X.loc[:3, fitted.feature_names_in_]
    content = json.loads(to_json(fitted))
    refused = []
    for number, array in enumerate(content["arrays"]):
        if "base64" not in array or 0 in array["shape"]:
            continue
        values = np.frombuffer(base64.b64decode(array["base64"]), array["dtype"]).reshape(array["shape"])
        for changed in changes(values):
            arrays = list(content["arrays"])
            arrays[number] = encoded(changed)
            try:
                model = from_json(json.dumps(content | {"arrays": arrays}))
            except ValueError as error:
                refused.append(str(error))
            else:
                answer = getattr(model, ANSWERS.get(name, "predict"))(ask)
                assert np.isfinite(answer).all(), (number, changed.shape)
    assert len(refused) > 20
    assert all(message.startswith("The document") for message in refused)


def test_the_field_is_named():
    content = json.loads(document("means"))
    number = content["state"]["_learnt"]["fields"]["means"]["fields"]["theta_sd"]["value"]
    arrays = list(content["arrays"])
    arrays[number] = encoded(np.full(6, -1.0))
    with pytest.raises(ValueError, match="theta_sd of a FittedMeans has numbers that no fit has"):
        from_json(json.dumps(content | {"arrays": arrays}))
    means = content["state"]["_learnt"]["fields"]["means"]["fields"]
    means["new_variance"] = -0.5
    with pytest.raises(ValueError, match="new_variance of a FittedMeans is negative"):
        from_json(json.dumps(content))


ENCODED = {
    "negative counts": ({"counts": -np.ones(7)}, "counts of an? EncodedColumn has numbers"),
    "unknown values": ({"value": np.full((7, 3), np.nan)}, "value of an? EncodedColumn has numbers"),
    "negative sds": ({"sd": np.full((7, 3), -1.0)}, "sd of an? EncodedColumn has numbers"),
    "flat": ({"sd": np.ones(21)}, "sd of an? EncodedColumn is no array of numbers with 2 axes"),
    "labels lost": (
        {"value": np.ones((6, 3)), "sd": np.ones((6, 3)), "counts": np.ones(6)},
        "value of 'g' has 18 entries, where 21 are due",
    ),
    "a class lost": ({"value": np.ones((7, 2)), "sd": np.ones((7, 2))}, "value of 'g' has 14 entries, where 21"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), ENCODED.values(), ids=ENCODED)
def test_encodings_that_no_fit_has_are_refused_by_name(change, message):
    content = json.loads(document("encoder"))
    fields = content["state"]["_learnt"]["fields"]["columns"]["g"]["fields"]
    for name, values in change.items():
        fields[name] = {"$": "array", "value": len(content["arrays"])}
        content["arrays"].append(encoded(values))
    with pytest.raises(ValueError, match=message):
        from_json(json.dumps(content))


def test_columns_of_an_encoder_are_those_of_its_rows():
    whole = document("encoder")
    for change in ("another name", "many columns", "names that are none", "labels that are none"):
        content = json.loads(whole)
        state = content["state"]
        if change == "another name":
            columns = state["_learnt"]["fields"]["columns"]
            columns["k"] = columns.pop("h")
        elif change == "many columns":
            del state["feature_names_in_"]
            state["n_features_in_"] = 10**12
        elif change == "names that are none":
            content["arrays"][state["feature_names_in_"]["value"]]["items"][0] = ["g"]
        else:
            content["arrays"][state["groups_"]["g"]["value"]]["items"][0] = ["p"]
        with pytest.raises(
            ValueError, match=r"^The document is damaged: (columns of a Lea|names in 'feat|labels of a)"
        ):
            from_json(json.dumps(content))


CHANGES = {
    "unknown": lambda blocks: np.full_like(blocks, np.nan),
    "infinite": lambda blocks: blocks * np.inf,
    "negative": lambda blocks: -blocks,
    "too large": lambda blocks: 9 * blocks,
    "short": lambda blocks: blocks[:-1],
    "wide": lambda blocks: np.concatenate([blocks, blocks], axis=2),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_sums_of_pairs_of_levels_are_refused_by_name(change):
    model = PartialPoolingRegressor("x + (1 | g) + (1 | h)").fit(X, Y)
    content = json.loads(to_json(model))
    blocks = model._learnt.fitted.posterior.model.sums.pairs[0].blocks
    (number,) = [i for i, array in enumerate(content["arrays"]) if array == encoded(blocks)]
    content["arrays"][number] = encoded(change(blocks))
    with pytest.raises(ValueError, match="blocks of a PairSums"):
        from_json(json.dumps(content))


@pytest.mark.parametrize(
    "formula", ["x + (x | g) + (x | h)", "(0 + x | g) + (1 | h)", "(1 | g) + (1 | h)", "x + (1 | g/h)"]
)
def test_sound_documents_of_several_factors_are_read(formula):
    fitted = PartialPoolingRegressor(formula).fit(X.assign(x=1e6 + X["x"]), Y, sample_weight=np.linspace(0.1, 9.0, 40))
    np.testing.assert_array_equal(from_json(to_json(fitted)).predict(X), fitted.predict(X))
