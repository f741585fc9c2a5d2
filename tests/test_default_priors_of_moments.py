"""Default priors of a specification and moments, against Bambi's of the same data."""

import numpy as np
import pandas as pd
import pytest

from hbsk._model.default_priors import default_priors
from tests.stand_ins import FactorTerms, Specification, moments_of

# formulae keeps its levels sorted, so these are treatment codings as Bambi makes them.
LEVELS = ("a", "b", "c")
INTERCEPT = (("Intercept",), ("Intercept",))


@pytest.fixture
def frame(rng):
    """Columns x and z with mean zero, a category, groups; nothing symmetric."""
    n = 70
    frame = pd.DataFrame({"x": rng.gamma(2.0, 3.0, n), "z": rng.normal(0.0, 0.2, n), "y": rng.normal(40.0, 7.0, n)})
    frame["x"] -= frame["x"].mean()
    frame["z"] -= frame["z"].mean()
    frame["cat"] = pd.Categorical(rng.choice(LEVELS, n, p=[0.5, 0.3, 0.2]), LEVELS, ordered=True)
    frame["g"] = pd.Categorical(rng.choice(["u", "v", "w", "t"], n), ["t", "u", "v", "w"], ordered=True)
    return frame


def dummies(frame, levels):
    return np.column_stack([frame["cat"] == level for level in levels]).astype(float)


def our_priors(frame, common, varying, has_intercept=True):
    """Default priors of terms given as {term: (column names, values)}."""

    def flat(terms):
        columns = [c for names, _ in terms.values() for c in names]
        owners = [t for t, (names, _) in terms.items() for _ in names]
        return tuple(columns), tuple(owners), np.column_stack([v for _, v in terms.values()])

    columns, terms, X = flat(common)
    z_columns, z_terms, Z = flat(varying)
    factor = FactorTerms("g", z_columns, tuple(f"{t}|g" for t in z_terms), tuple((k,) for k in range(len(z_terms))))
    specification = Specification("y", has_intercept, columns, terms, (factor,))
    return default_priors(specification, moments_of(X, [Z], frame["y"].to_numpy()))


def bambi_priors(formula, frame):
    """The same numbers read from the true model, without our code."""
    import bambi as bmb

    model = bmb.Model(formula, frame)
    numbers = {"sigma": np.asarray(model.parameters["sigma"].prior.args["sigma"])}
    for name, term in model.parameters["mu"].terms.items():
        sigma = term.prior.args["sigma"]
        numbers[name] = np.asarray(sigma.args["sigma"] if hasattr(sigma, "args") else sigma)
    return numbers, float(frame["y"].mean())


def assert_same_numbers(ours, theirs, y_mean):
    scales = {}
    assert not any(ours.pop("centre|g", {}).values())  # Bambi's priors refer to zero
    for name, (_, arguments) in ours.items():
        sigma = arguments["sigma"]
        scales[name] = np.asarray(sigma[1]["sigma"] if isinstance(sigma, tuple) else sigma)
        np.testing.assert_allclose(arguments.get("mu", 0.0), y_mean if name == "Intercept" else 0.0, rtol=1e-12)
    assert scales.keys() == theirs.keys()
    for name, scale in scales.items():
        np.testing.assert_allclose(scale, theirs[name], rtol=1e-12, err_msg=name)


def test_default_priors_are_those_of_the_true_model_numeric(frame):
    ones = np.ones(len(frame))
    common = {"Intercept": (["Intercept"], ones), "x": (["x"], frame["x"]), "z": (["z"], frame["z"])}
    ours = our_priors(frame, common, {"1": (["1"], ones), "x": (["x"], frame["x"])})
    assert_same_numbers(ours, *bambi_priors("y ~ x + z + (x | g)", frame))


def test_default_priors_are_those_of_the_true_model_categorical_slope(frame):
    # Both common terms vary by group, so their means count, in Bambi and here.
    shifted = frame.assign(x=frame["x"] + 5.0)
    ones, cat = np.ones(len(frame)), dummies(frame, "bc")
    common = {"Intercept": (["Intercept"], ones), "x": (["x"], shifted["x"]), "cat": (["cat[b]", "cat[c]"], cat)}
    varying = {"1": (["1"], ones), "x": (["x"], shifted["x"]), "cat": (["cat[b]", "cat[c]"], cat)}
    ours = our_priors(frame, common, varying)
    assert_same_numbers(ours, *bambi_priors("y ~ x + cat + (x + cat | g)", shifted))


def test_default_priors_are_those_of_the_true_model_interaction_of_varying_terms(frame):
    x = frame["x"].to_numpy()
    ones, cat = np.ones(len(frame)), dummies(frame, "bc")
    product = cat * x[:, None]
    common = {
        "Intercept": (["Intercept"], ones),
        "x": (["x"], x),
        "cat": (["cat[b]", "cat[c]"], cat),
        "x:cat": (["x:cat[b]", "x:cat[c]"], product),
    }
    varying = {"1": (["1"], ones), **{term: common[term] for term in ("x", "cat", "x:cat")}}
    ours = our_priors(frame, common, varying)
    assert_same_numbers(ours, *bambi_priors("y ~ x * cat + (x * cat | g)", frame))


def test_default_priors_are_those_of_the_true_model_without_intercepts(frame):
    cat = dummies(frame, "abc")
    common = {"z": (["z"], frame["z"])}
    varying = {"cat": (["cat[a]", "cat[b]", "cat[c]"], cat)}
    ours = our_priors(frame, common, varying, has_intercept=False)
    assert_same_numbers(ours, *bambi_priors("y ~ 0 + z + (0 + cat | g)", frame))


def test_default_priors_of_two_factors_and_of_none(frame):
    import bambi as bmb

    ones, y = np.ones((len(frame), 1)), frame["y"].to_numpy()
    frame["h"] = pd.Categorical(np.arange(len(frame)) % 3, ordered=True)
    factors = tuple(FactorTerms(name, ("1",), (f"1|{name}",), ((0,),)) for name in "gh")
    priors = default_priors(Specification("y", True, *INTERCEPT, factors), moments_of(ones, [ones, ones], y))
    true = bmb.Model("y ~ 1 + (1|g) + (1|h)", frame).parameters["mu"].terms
    for term in ("1|g", "1|h"):
        assert priors[term][1]["sigma"][1]["sigma"] == pytest.approx(
            float(true[term].prior.args["sigma"].args["sigma"])
        )
    no_groups = default_priors(Specification("y", True, *INTERCEPT), moments_of(ones, [], y))
    assert list(no_groups) == ["Intercept", "sigma"]


def test_a_column_that_does_not_vary_by_group_leaves_the_prior_of_the_group_sd_alone(frame):
    ones = np.ones(len(frame))
    varying = {"1": (["1"], ones)}
    at_zero = our_priors(frame, {"Intercept": (["Intercept"], ones), "x": (["x"], frame["x"])}, varying)
    far = our_priors(frame, {"Intercept": (["Intercept"], ones), "x": (["x"], frame["x"] + 2000.0)}, varying)
    assert far["1|g"][1]["sigma"][1]["sigma"] == pytest.approx(at_zero["1|g"][1]["sigma"][1]["sigma"], rel=1e-12)
    assert far["Intercept"][1]["sigma"] == pytest.approx(at_zero["Intercept"][1]["sigma"], rel=1e-12)


def test_default_priors_follow_a_shift_of_y_by_1e8(frame):
    ones = np.ones((len(frame), 1))
    specification = Specification("y", True, *INTERCEPT)
    moments = moments_of(ones, [], frame["y"].to_numpy())
    near = default_priors(specification, moments)
    moments_far = type(moments)(**{**vars(moments), "y_mean": moments.y_mean + 1e8})
    far = default_priors(specification, moments_far)
    assert far["sigma"] == near["sigma"]
    assert far["Intercept"][1]["sigma"] == near["Intercept"][1]["sigma"]
    assert far["Intercept"][1]["mu"] == moments.y_mean + 1e8


def test_constant_columns_and_constant_y_get_finite_priors_in_their_units():
    ones = np.ones(9)
    X = np.column_stack([ones, np.full(9, -4.0), np.zeros(9)])
    specification = Specification(
        "y",
        True,
        ("Intercept", "four", "zero"),
        ("Intercept", "four", "zero"),
        (FactorTerms("g", ("1", "four"), ("1|g", "four|g"), ((0, 1),)),),
    )
    priors = default_priors(specification, moments_of(X, [X[:, :2]], np.full(9, 3.0)))
    assert priors["four"][1]["sigma"] == pytest.approx(2.5 * 3.0 / 4.0)
    assert priors["zero"][1]["sigma"] == pytest.approx(2.5 * 3.0)
    assert priors["four|g"][1]["sigma"][1]["sigma"] == pytest.approx(2.5 * 3.0 / 4.0)
    assert priors["1|g"][1]["sigma"][1]["sigma"] == pytest.approx(2.5 * 3.0)
    assert priors["sigma"] == ("HalfStudentT", {"nu": 4.0, "sigma": 3.0})


def test_only_correlated_factors_have_an_lkj_prior(frame):
    X = np.column_stack([np.ones(len(frame)), frame["x"]])
    moments = moments_of(X, [X, X], frame["y"].to_numpy())
    terms = ("1", "x")
    factors = (
        FactorTerms("g", terms, ("1|g", "x|g"), ((0, 1),)),
        FactorTerms("h", terms, ("1|h", "x|h"), ((0,), (1,))),
    )
    priors = default_priors(Specification("y", True, ("Intercept", "x"), ("Intercept", "x"), factors), moments)
    assert priors["corr|g"] == ("LKJ", {"eta": 1.0})
    assert "corr|h" not in priors
