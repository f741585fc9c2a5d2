"""Cubics in the place of evaluations that cost a matrix of many effects, against those evaluations."""

import numpy as np
import pandas as pd
import pytest

from hbsk import PartialPoolingRegressor, from_json, to_json
from hbsk._engine import crossed, crossed_passes, interpolation
from hbsk._engine.crossed import _first_guess, quasi_newton_mode, start_of
from hbsk._engine.crossed_passes import CrossedPasses
from hbsk._engine.hub_passes import HubPasses
from hbsk._engine.interpolation import CubicModel, design_points, evaluations_of, n_design_points
from hbsk._engine.log_density_surface import monomials
from hbsk._posterior import crossed as crossed_posterior


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_designs_determine_cubics_and_say_what_is_left(d):
    z = design_points(d)
    assert len(z) == n_design_points(d)
    assert np.linalg.norm(z, axis=1).max() <= interpolation.RADIUS + 1e-9
    terms = monomials(z, interpolation.DEGREE)
    rng = np.random.default_rng(0)
    cubic = rng.normal(size=terms.shape[1])
    found = np.linalg.lstsq(terms, terms @ cubic, rcond=None)[0]
    np.testing.assert_allclose(found, cubic, rtol=1e-9)
    # no fourth degree passes for a cubic
    beyond = monomials(z, interpolation.DEGREE + 1)[:, terms.shape[1] :]
    left = beyond - terms @ np.linalg.lstsq(terms, beyond, rcond=None)[0]
    assert np.sqrt(np.mean(left**2, axis=0)).min() > 0.1


def rated(n=4_000, n_departments=4, seed=2):
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"s": rng.integers(0, 300, n), "d": rng.integers(0, 120, n)})
    X["dept"] = rng.integers(0, n_departments, 120)[X["d"]]
    y = 3.0 + rng.normal(size=n) + 0.3 * rng.normal(size=300)[X["s"]] + 0.5 * rng.normal(size=120)[X["d"]]
    return X, y + 0.2 * rng.normal(size=n_departments)[X["dept"]]


@pytest.fixture(scope="module")
def fits():
    """The same fit by cubics and few moment nodes, and by evaluations at many nodes."""
    X, y = rated()
    exact = PartialPoolingRegressor(group_features=["s", "d", "dept"]).fit(X, y)
    with pytest.MonkeyPatch.context() as context:
        for module in (crossed, crossed_passes):
            context.setattr(module, "CHEAP_REMAINING", 0)
        context.setattr(crossed_posterior, "KEPT_NUMBERS", 0)
        ours = PartialPoolingRegressor(group_features=["s", "d", "dept"]).fit(X, y)
        _ = ours.group_effects_
        _ = ours.shrinkage_
    return X, exact, ours


def test_cubics_are_the_log_density_however_wide_the_law_of_a_hub(fits):
    model = fits[2]._learnt.fitted.posterior.model
    assert isinstance(model.passes, HubPasses)
    assert evaluations_of(model) == n_design_points(2)  # whatever hubs there are
    mode, precision = quasi_newton_mode(model.value_and_gradient, start_of(model), _first_guess(model))
    cubic = CubicModel(model, mode, precision)
    assert cubic.error < 0.01
    theta = mode + np.random.default_rng(5).normal(size=(20, 3)) @ np.linalg.cholesky(np.linalg.inv(precision)).T
    ours, exact = cubic.evaluate(theta), model.evaluate(theta)
    np.testing.assert_allclose(ours.log_density, exact.log_density, atol=0.01)
    np.testing.assert_allclose(ours.common.at(ours.log_sigma)[2], exact.common.at(exact.log_sigma)[2], rtol=1e-3)
    value, gradient = cubic.value_and_gradient(theta[:3])
    np.testing.assert_allclose(value, ours.log_density[:3])
    np.testing.assert_allclose(gradient, model.value_and_gradient(theta[:3])[1], atol=0.3)
    far = mode + np.array([[30.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert list(np.isfinite(cubic.evaluate(far).log_density)) == [False, True]


def test_answers_are_those_of_many_exact_nodes(fits):
    X, exact, ours = fits
    expected, found = exact.summary(), ours.summary()
    np.testing.assert_array_less(np.abs(found["mean"] - expected["mean"]), 0.06 * expected["sd"])
    np.testing.assert_allclose(found["sd"], expected["sd"], rtol=0.02)
    table, of_few = exact.group_effects(coverage=None), ours.group_effects(coverage=None)
    np.testing.assert_array_less(np.abs(of_few["mean"] - table["mean"]), 0.02 * table["sd"])
    np.testing.assert_allclose(of_few["sd"], table["sd"], rtol=0.01)
    np.testing.assert_allclose(of_few["shrinkage"], table["shrinkage"], atol=0.01)
    pairs = pd.concat([X[:200], pd.DataFrame({"s": [0, 999], "d": [999, 0], "dept": [0, 99]})])
    mean, sd = exact.predict(pairs, return_std=True)
    our_mean, our_sd = ours.predict(pairs, return_std=True)
    np.testing.assert_array_less(np.abs(our_mean - mean), 0.02 * sd)
    np.testing.assert_allclose(our_sd, sd, rtol=0.01)


def test_many_moment_nodes_share_the_matrix_of_the_others(fits):
    laws = fits[2]._learnt.fitted.posterior._laws
    assert sum(len(law.weight) for law in laws) > 2 * len(laws)
    assert len(laws) <= 5


def test_the_law_of_the_variance_parameters_comes_back_from_files(fits):
    ours = fits[2]
    again = from_json(to_json(ours))
    pd.testing.assert_frame_equal(again.summary(), ours.summary())
    drawn = again.to_datatree(draws=100, random_state=0)["posterior"]["1|dept_sigma"]
    sd = ours.summary().loc["1|dept_sigma", "sd"]
    assert abs(float(drawn.mean()) - ours.summary().loc["1|dept_sigma", "mean"]) < 5 * sd / 20


def test_what_is_no_cubic_is_evaluated(monkeypatch):
    # four and six levels: sds that reach zero
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.integers(0, 6, 60), "b": rng.integers(0, 4, 60)})
    y = rng.normal(size=60) + 0.1 * rng.normal(size=6)[X["a"]]
    exact = PartialPoolingRegressor(group_features=["a", "b"]).fit(X, y)
    for module in (crossed, crossed_passes):
        monkeypatch.setattr(module, "CHEAP_REMAINING", 0)
    ours = PartialPoolingRegressor(group_features=["a", "b"]).fit(X, y)
    posterior = ours._learnt.fitted.posterior
    assert isinstance(posterior.model.passes, CrossedPasses)
    assert posterior.law is None or posterior.law.kept is None
    sigma = "1|a_sigma"
    assert ours.summary().loc[sigma, "mean"] == pytest.approx(exact.summary().loc[sigma, "mean"], rel=0.1)


@pytest.mark.parametrize("at_start", [False, True])
def test_a_search_that_ended_at_no_mode_leaves_nodes_to_the_model(fits, monkeypatch, at_start):
    monkeypatch.setattr(crossed_passes, "CHEAP_REMAINING", 0)
    model = fits[2]._learnt.fitted.posterior.model
    start, precision = start_of(model), np.diag([1.0, 1.0, 1.0])
    if not at_start:
        precision[0, 0] = -1.0  # a saddle
    monkeypatch.setattr(crossed, "quasi_newton_mode", lambda *_: (start + 3.0 * at_start, precision))
    found = crossed.integrate_crossed(model, fits[2]._learnt.fitted.posterior.tails)
    assert found.law is None or found.law.kept is None
    assert np.isfinite(found.weight).all()
