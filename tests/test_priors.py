"""Priors: what is accepted and filled in, what the marginal engine takes, densities against PyMC."""

import re

import numpy as np
import pandas as pd
import pytest

from hbsk._data.table import Table
from hbsk._engine.priors import EnginePriors
from hbsk._engine.sd_prior import SD_FAMILIES, SdPrior
from hbsk._model.exactness import engine_priors, why_not_exact
from hbsk._model.parser import parse_formula
from hbsk._model.priors import DISTRIBUTIONS, resolve_priors
from hbsk._model.specification import specify

COLUMNS = {
    "floor": np.array([0.0, 1.0, 0.0, 1.0, 2.0]),
    "sigma": np.arange(5.0),
    "x + 1": np.arange(5.0) ** 2,
    "Intercept": np.array([3.0, 1.0, 4.0, 1.0, 5.0]),
    "cat": pd.Series(list("abcab")),
}


def specification_of(formula):
    return specify(parse_formula(formula), Table(COLUMNS, 5))


def defaults_of(specification):
    """Return stand-ins for the defaults, no two alike."""
    priors = {}
    for i, term in enumerate(dict.fromkeys(specification.common_terms)):
        priors[term] = ("Normal", {"mu": 0.5 * i, "sigma": 1.0 + i})
    for factor in specification.factors:
        for i, term in enumerate(dict.fromkeys(factor.terms)):
            priors[term] = ("Normal", {"mu": 0.0, "sigma": ("HalfNormal", {"sigma": 10.0 + i})})
    return priors | {"sigma": ("HalfStudentT", {"nu": 4.0, "sigma": 0.8})}


def resolve(formula, priors, **options):
    specification = specification_of(formula)
    return resolve_priors(specification, defaults_of(specification), priors, **options)


PLAIN = "y ~ floor + (floor | county)"


def test_defaults_stay_in_the_order_of_the_terms():
    resolved = resolve(PLAIN, None)
    assert list(resolved) == ["Intercept", "floor", "1|county", "floor|county", "corr|county", "centre|county", "sigma"]
    assert resolved["floor"] == ("Normal", {"mu": 0.5, "sigma": 2.0})
    assert resolved["corr|county"] == ("LKJ", {"eta": 1.0})


def test_user_priors_replace_defaults():
    given = {
        "floor": ("Normal", {"mu": 1, "sigma": 3}),
        "1|county": ("Normal", {"mu": 0, "sigma": ("HalfCauchy", {"beta": 5})}),
        "floor|county": ["Normal", {"mu": 0, "sigma": 2.0}],
        "sigma": 1.5,
        "corr|county": 2,
    }
    resolved = resolve(PLAIN, given)
    assert resolved["floor"] == ("Normal", {"mu": 1.0, "sigma": 3.0})
    assert resolved["1|county"] == ("Normal", {"mu": 0.0, "sigma": ("HalfCauchy", {"beta": 5.0})})
    assert resolved["floor|county"] == ("Normal", {"mu": 0.0, "sigma": 2.0})
    assert resolved["sigma"] == 1.5
    assert resolved["corr|county"] == ("LKJ", {"eta": 2.0})
    assert resolved["Intercept"] == ("Normal", {"mu": 0.0, "sigma": 1.0})
    assert given["sigma"] == 1.5  # the user's dict stays as it is
    assert len(given) == 5


def test_resolved_priors_resolve_to_themselves():
    resolved = resolve(PLAIN, {"sigma": ("Exponential", {"lam": 2})})
    assert resolve(PLAIN, resolved) == resolved


def test_arguments_left_out_are_those_of_pymc():
    resolved = resolve(PLAIN, {"floor": ("Normal", {"mu": 3}), "sigma": ("HalfNormal", {})})
    assert resolved["floor"] == ("Normal", {"mu": 3.0, "sigma": 1.0})
    assert resolved["sigma"] == ("HalfNormal", {"sigma": 1.0})


def test_bambi_priors_become_plain_data():
    import bambi as bmb

    group = bmb.Prior("Normal", mu=0, sigma=bmb.Prior("HalfNormal", sigma=np.array([1.5, 2.5])))
    given = {"cat|g": group, "cat": bmb.Prior("Normal", mu=[0, 1], sigma=2), "corr|g": bmb.Prior("LKJ", eta=3)}
    resolved = resolve("y ~ cat + (cat | g)", given)
    assert resolved["cat|g"] == ("Normal", {"mu": 0.0, "sigma": ("HalfNormal", {"sigma": [1.5, 2.5]})})
    assert resolved["cat"] == ("Normal", {"mu": [0.0, 1.0], "sigma": 2.0})
    assert resolved["corr|g"] == ("LKJ", {"eta": 3.0})
    with pytest.raises(ValueError, match="a function is no plain data"):
        resolve(PLAIN, {"floor": bmb.Prior("Custom", dist=lambda name: None)})


def test_common_and_group_specific():
    flat = ("Flat", {})
    wide = ("Normal", {"mu": 0, "sigma": ("HalfNormal", {"sigma": 99})})
    resolved = resolve(PLAIN, {"common": flat, "floor": ("Normal", {"mu": 7, "sigma": 1}), "group_specific": wide})
    assert resolved["Intercept"] == flat  # as in Bambi, "common" includes the intercept
    assert resolved["floor"][1]["mu"] == 7.0
    expected = ("Normal", {"mu": 0.0, "sigma": ("HalfNormal", {"sigma": 99.0})})
    assert resolved["1|county"] == resolved["floor|county"] == expected


def test_sigma_is_the_residual_sd_and_quotes_reach_columns():
    formula = "y ~ sigma + `x + 1` + Intercept + (sigma | `my group`)"
    given = {
        "sigma": 2.0,
        "`sigma`": ("Normal", {"mu": 1, "sigma": 1}),
        "Intercept": ("Normal", {"mu": 2, "sigma": 1}),
        "`Intercept`": ("Normal", {"mu": 3, "sigma": 1}),
        "`x + 1`": ("Normal", {"mu": 4, "sigma": 1}),
        "`sigma`|`my group`": ("Normal", {"mu": 0, "sigma": 5}),
        "corr|`my group`": 6,
    }
    resolved = resolve(formula, given)
    assert resolved["sigma"] == 2.0
    means = [resolved[key][1]["mu"] for key in ("`sigma`", "Intercept", "`Intercept`", "x + 1")]
    assert means == [1.0, 2.0, 3.0, 4.0]
    assert resolved["`sigma`|my group"] == ("Normal", {"mu": 0.0, "sigma": 5.0})
    assert resolved["corr|my group"] == ("LKJ", {"eta": 6.0})
    with pytest.raises(ValueError, match="names the term 'x \\+ 1' twice"):
        resolve(formula, {"x + 1": 1, "`x + 1`": 2})


def test_sigma_without_an_intercept_column():
    """The key Intercept never means a column, also where the model has no intercept."""
    with pytest.raises(ValueError, match="'Intercept', which is no term"):
        resolve("y ~ 0 + Intercept", {"Intercept": 1.0})


HALF = ("HalfNormal", {"sigma": 1})


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        (
            {"flor": HALF},
            "'flor', which is no term of this model. Did you mean 'floor'.*'1\\|county'.*'group_specific'",
        ),
        ({"county": HALF}, "no term of this model"),
        ({3: HALF}, "key 3, which is no term"),
        ({"floor": "Normal"}, "a prior is a bambi.Prior, a pair"),
        ({"floor": None}, "a prior is a bambi.Prior, a pair"),
        ({"floor": True}, "a prior is a bambi.Prior, a pair"),
        ({"floor": np.nan}, "must be finite"),
        ({"floor": [1.0, 2.0]}, "has 2 values, but the term has 1 column"),
        ({"floor": ("Normal", {"mu": [0, 1], "sigma": 1})}, "mu has 2 values, but the term has 1 column"),
        ({"floor": ("Gaussian", {"mu": 0, "sigma": 1})}, "'Gaussian'; known distributions are Normal"),
        (
            {"floor": ("Normal", {"mean": 0, "sd": 1})},
            "Normal takes \\(mu, sigma\\) or \\(mu, tau\\), got \\['mean', 'sd'\\]",
        ),
        ({"floor": ("Normal", {"sigma": 1, "tau": 1})}, "Normal takes"),
        ({"floor": ("Normal", [0, 1])}, "must be a dict"),
        ({"floor": ("Normal", {"mu": 0, "sigma": 0})}, "sigma of Normal must be positive, got 0"),
        ({"floor": ("Normal", {"mu": 0, "sigma": -1})}, "must be positive"),
        ({"floor": ("Normal", {"mu": np.nan, "sigma": 1})}, "must be a finite number, got nan"),
        ({"floor": ("Normal", {"mu": 0, "sigma": np.inf})}, "must be a finite number"),
        ({"floor": ("Normal", {"mu": 0, "sigma": "1"})}, "must be a finite number, got '1'"),
        ({"floor": ("Normal", {"mu": 0, "sigma": HALF})}, "prior inside a prior"),
        ({"common": ("Normal", {"mu": 0, "sigma": HALF})}, "prior inside a prior"),
        ({"floor": ("Uniform", {"lower": 2, "upper": 1})}, "lower < upper"),
        ({"sigma": -1}, "fixes a standard deviation at -1.0; it must be positive"),
        ({"sigma": 0}, "must be positive"),
        ({"sigma": [1.0, 2.0]}, "has 2 values"),
        ({"sigma": ("Normal", {"mu": 0, "sigma": 1})}, "allows negative values"),
        ({"sigma": ("Uniform", {"lower": -1, "upper": 1})}, "allows negative values"),
        ({"sigma": ("TruncatedNormal", {"mu": 1, "sigma": 1})}, "allows negative values"),
        ({"sigma": ("HalfNormal", {"sigma": HALF})}, "cannot hold further priors"),
        ({"sigma": ("Gamma", {"alpha": 0, "beta": 1})}, "alpha of Gamma must be positive"),
        ({"1|county": 2.0}, "To fix their standard deviation write \\('Normal', {'mu': 0, 'sigma': 2.0}\\)"),
        ({"1|county": ("Normal", {"mu": 0, "sigma": -2})}, "must be positive"),
        ({"1|county": ("Normal", {"mu": 0, "sigma": ("Normal", {"mu": 0, "sigma": 1})})}, "allows negative values"),
        ({"1|county": ("Normal", {"mu": 0, "sigma": ("HalfNormal", {"sigma": [1, 2]})})}, "has 2 values"),
        ({"1|county": ("Flat", {})}, "pooling='none'"),
        ({"1|county": ("Laplace", {"mu": 0, "b": 0})}, "b of Laplace must be positive, got 0"),
        ({"1|county": ("StudentT", {"nu": ("Normal", {"mu": 4, "sigma": 1}), "mu": 0})}, "nu of StudentT has none"),
        ({"1|county": ("Normal", {"mu": 0, "tau": ("Normal", {"mu": 4, "sigma": 1})})}, "tau of Normal has none"),
        ({"1|county": ("Gamma", {"alpha": ("Cauchy", {"alpha": 4, "beta": 1}), "beta": 1})}, "alpha of Gamma has none"),
        (
            {"1|county": ("Normal", {"mu": ("Normal", {"mu": 0, "sigma": HALF}), "sigma": 1})},
            "the prior of mu holds a further prior",
        ),
        ({"1|county": ("Uniform", {"lower": 0, "upper": HALF})}, "bounds of Uniform must be numbers"),
        ({"1|county": ("TruncatedNormal", {"mu": 0, "sigma": 1, "lower": HALF})}, "bounds of TruncatedNormal must be"),
        ({"corr|county": 0}, "eta of the LKJ prior must be a positive number, got 0"),
        ({"corr|county": ("LKJ", {"n": 2})}, "must be \\('LKJ', {'eta': number}\\)"),
        ({"corr|county": ("Normal", {"eta": 2})}, "must be \\('LKJ'"),
        ({"corr|state": 1}, "no term of this model"),
    ],
)
def test_refused_with_the_reason(priors, message):
    with pytest.raises(ValueError, match=message):
        resolve(PLAIN, priors)


def test_priors_must_be_a_dict():
    with pytest.raises(TypeError, match="priors must be a dict"):
        resolve(PLAIN, [("floor", 1)])


@pytest.mark.parametrize("formula", ["y ~ floor + (floor || county)", "y ~ (1 | county)"])
def test_correlation_prior_needs_a_correlated_block(formula):
    assert "corr|county" not in resolve(formula, None)
    with pytest.raises(ValueError, match="no effects of this factor are correlated"):
        resolve(formula, {"corr|county": 2})


def test_known_standard_error_leaves_no_prior_for_sigma():
    assert "sigma" not in resolve(PLAIN, None, known_standard_error=True)
    with pytest.raises(ValueError, match="known from standard_error="):
        resolve(PLAIN, {"sigma": 1.0}, known_standard_error=True)


def test_keys_of_a_larger_model_are_left_unused():
    """pooling='complete' in a grid search keeps the priors of the other poolings."""
    larger = specification_of(PLAIN)
    priors = {"1|county": ("Normal", {"mu": 0, "sigma": 1}), "corr|county": 2, "floor": 1.0}
    resolved = resolve("y ~ floor", priors, unused=larger)
    assert list(resolved) == ["Intercept", "floor", "sigma"]
    with pytest.raises(ValueError, match="'1\\|county', which is no term"):
        resolve("y ~ floor", priors)
    with pytest.raises(ValueError, match="'1\\|state', which is no term"):
        resolve("y ~ floor", {"1|state": 1.0}, unused=larger)


# --------------------------------------------------------------------------------------------------------------------
# The engine's form


def engine(formula, priors=None, known_standard_error=False):
    specification = specification_of(formula)
    resolved = resolve(formula, priors, known_standard_error=known_standard_error)
    return engine_priors(specification, resolved, known_standard_error)


def test_engine_arrays():
    priors = {
        "cat": ("Normal", {"mu": [1, 2], "sigma": 3}),
        "floor": ("Flat", {}),
        "cat|g": ("Normal", {"mu": 0, "sigma": ("Gamma", {"mu": [2.0, 3.0], "sigma": 0.5})}),
        "floor|g": ("Normal", {"mu": [0], "tau": 4}),
        "sigma": ("Uniform", {"lower": 1, "upper": 9}),
        "corr|g": 3,
    }
    found = engine("y ~ cat + floor + (cat | g) + (0 + floor | g)", priors)
    assert isinstance(found, EnginePriors)
    np.testing.assert_array_equal(found.common_mean, [0.0, 1.0, 2.0, 0.0])
    np.testing.assert_array_equal(found.common_sd, [1.0, 3.0, 3.0, np.inf])
    assert found.residual_sd == SdPrior("Uniform", {"lower": 1.0, "upper": 9.0})
    assert found.group_sd[0] == SdPrior("HalfNormal", {"sigma": 10.0})
    assert found.group_sd[1] == SdPrior("Gamma", {"alpha": 16.0, "beta": 8.0})
    assert found.group_sd[2] == SdPrior("Gamma", {"alpha": 36.0, "beta": 12.0})
    assert found.group_sd[3] == 0.5
    assert found.blocks == ((0, 1, 2), (3,))
    assert found.lkj_eta == (3.0, 3.0)


def test_engine_without_groups_and_with_fixed_or_known_sd():
    found = engine("y ~ floor", {"sigma": 1.25})
    assert (found.residual_sd, found.group_sd, found.blocks, found.lkj_eta) == (1.25, [], (), ())
    assert engine(PLAIN, known_standard_error=True).residual_sd is None
    assert engine("y ~ 0 + (1 | g)").common_mean.shape == (0,)


def test_engine_takes_fixed_means_and_sds_of_zero_of_effects():
    found = engine(PLAIN, {"1|county": ("Normal", {"mu": 1.5, "sigma": 0}), "floor|county": ("Normal", {"sigma": 2})})
    np.testing.assert_array_equal(found.group_mean, [1.5, 0.0])
    assert found.group_sd == [0.0, 2.0]


def test_engine_takes_several_factors_one_after_another():
    centre = {"centre|county": {"floor": 0.5}, "corr|county": 2.0}
    found = engine("y ~ floor + (floor | county) + (1 | b)", centre)
    assert (found.blocks, found.lkj_eta, len(found.group_sd)) == (((0, 1), (2,)), (2.0, 1.0), 3)
    np.testing.assert_array_equal(found.centre, [0.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("formula", "priors", "reason"),
    [
        (PLAIN, {"floor": ("StudentT", {"nu": 3, "mu": 0, "sigma": 1})}, "prior of 'floor' is StudentT"),
        (PLAIN, {"floor": 2.0}, "'floor' is fixed at 2.0"),
        (PLAIN, {"sigma": ("LogNormal", {"mu": 0, "sigma": 1})}, "standard deviation of 'sigma' is LogNormal"),
        (
            PLAIN,
            {"1|county": ("Normal", {"mu": ("Normal", {"mu": 0, "sigma": 1}), "sigma": HALF})},
            "'1\\|county' has a prior on its mean",
        ),
        (PLAIN, {"1|county": ("Normal", {"mu": 0, "tau": ("Gamma", {"alpha": 2, "beta": 1})})}, "its precision"),
        (PLAIN, {"1|county": ("Laplace", {"mu": 0, "b": HALF})}, "'1\\|county' is Laplace, not Normal"),
        (
            PLAIN,
            {"1|county": ("Normal", {"mu": 0, "sigma": ("Weibull", {"alpha": 2, "beta": 1})})},
            "of '1\\|county' is Weibull",
        ),
    ],
)
def test_engine_says_why_it_is_not_exact(formula, priors, reason):
    found = why_not_exact(specification_of(formula), resolve(formula, priors), known_standard_error=False)
    assert re.search(reason, found)
    assert why_not_exact(specification_of(PLAIN), resolve(PLAIN, None), known_standard_error=False) is None


# --------------------------------------------------------------------------------------------------------------------
# Densities

SD_PRIORS = [
    ("HalfNormal", {"sigma": 0.7}),
    ("HalfNormal", {"tau": 3.0}),
    ("HalfStudentT", {"nu": 4.0, "sigma": 0.8}),
    ("HalfStudentT", {"nu": 2.5, "lam": 3.0}),
    ("HalfCauchy", {"beta": 1.7}),
    ("Exponential", {"lam": 0.3}),
    ("Exponential", {"scale": 0.3}),
    ("Gamma", {"alpha": 2.3, "beta": 0.7}),
    ("Gamma", {"alpha": 1.0, "beta": 0.7}),
    ("Gamma", {"mu": 1.4, "sigma": 0.6}),
    ("InverseGamma", {"alpha": 2.3, "beta": 0.7}),
    ("InverseGamma", {"mu": 1.4, "sigma": 0.6}),
    ("Uniform", {"lower": 0.4, "upper": 2.6}),
    ("HalfFlat", {}),
]


def test_all_families_are_tested_and_known():
    assert {family for family, _ in SD_PRIORS} == set(SD_FAMILIES)
    assert set(SD_FAMILIES) <= set(DISTRIBUTIONS)


def test_densities_are_those_of_pymc():
    import pymc as pm

    x = np.array([-0.5, 0.0, 1e-3, 0.3, 0.41, 1.0, 2.5, 40.0])
    for family, arguments in SD_PRIORS:
        # As arrays: PyTensor stores a Python number such as 3.0 in single precision and computes tau**-0.5 in it.
        exact = {key: np.asarray(value) for key, value in arguments.items()}
        theirs = pm.logp(getattr(pm, family).dist(**exact), x).eval()
        ours = SdPrior.from_plain(family, arguments).log_density(x)
        # PyMC takes log(2) of HalfStudentT and HalfCauchy in single precision, an error of 2e-9 in the constant.
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=4e-9, err_msg=f"{family} {arguments}")


@pytest.mark.parametrize(("family", "arguments"), SD_PRIORS)
def test_gradient_and_change_of_scale(family, arguments):
    prior = SdPrior.from_plain(family, arguments)
    x, step = np.array([0.45, 0.9, 2.3]), 1e-6
    numeric = (prior.log_density(x + step) - prior.log_density(x - step)) / (2 * step)
    np.testing.assert_allclose(prior.grad_log_density(x), numeric, rtol=1e-7, atol=1e-8)
    for factor in (1e-8, 3.7, 1e8):
        expected = prior.log_density(x) - (np.log(factor) if family != "HalfFlat" else 0.0)
        np.testing.assert_allclose(prior.scaled(factor).log_density(factor * x), expected, rtol=1e-10, atol=1e-10)
    assert prior.is_bounded is (family == "Uniform")


def test_known_distributions_are_those_of_pymc():
    """Names and arguments of every listed distribution exist in PyMC, with the defaults listed."""
    import pymc as pm

    from hbsk._model.priors import _REQUIRED

    for name, alternatives in DISTRIBUTIONS.items():
        for parameters in alternatives:
            arguments = {
                key: (2.0 if default is _REQUIRED else default)
                for key, default in parameters.items()
                if default is not None
            }
            if name == "Beta" and "mu" in arguments:
                arguments = {"mu": 0.5, "sigma": 0.2}
            required = {key: arguments[key] for key, default in parameters.items() if default is _REQUIRED}
            at = 0.6 if name != "Pareto" else 3.0
            full = pm.logp(getattr(pm, name).dist(**arguments), at).eval()
            np.testing.assert_allclose(pm.logp(getattr(pm, name).dist(**required), at).eval(), full, err_msg=name)
