"""Blocks of many varying columns are integrated: proposals for twenty dimensions and more, and what they come to."""

import pickle
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.stats import qmc

import hbsk._posterior.integrated as integrated
from hbsk import PartialPoolingRegressor
from hbsk._engine.fit import MANY_KEPT, marginal_model
from hbsk._engine.integrate import importance_sample
from hbsk._engine.node_algebra import thinned
from hbsk._engine.node_placement import place_nodes
from hbsk._engine.proposals import MANY_DIMENSIONS, NormalT, nearest_normal
from hbsk._engine.propriety import Tails
from hbsk._engine.settings import DEFAULT
from hbsk._engine.variance_law import ERROR_TARGET, VarianceLaw, law_of_many
from tests.dense import make_priors, make_problem


def splines(n_rows=1000, n_groups=30):
    rng = np.random.default_rng(0)
    x, g = rng.uniform(0, 10, n_rows), rng.integers(0, n_groups, n_rows)
    of_groups = rng.normal(size=(2, n_groups)) * [[1.0], [0.5]]
    y = np.sin(x) + of_groups[0, g] + of_groups[1, g] * np.sin(x / 2) + rng.normal(0, 0.5, n_rows)
    return "bs(x, df=5) + (bs(x, df=5) | g)", pd.DataFrame({"x": x, "g": [f"g{i}" for i in g]}), y


def levels(n_levels, n_rows=1000, n_groups=30):
    rng = np.random.default_rng(1)
    k, g = rng.integers(0, n_levels, n_rows), rng.integers(0, n_groups, n_rows)
    of_groups, of_cells = rng.normal(size=n_groups), rng.normal(0, 0.5, (n_groups, n_levels))
    y = rng.normal(size=n_levels)[k] + of_groups[g] + of_cells[g, k] + rng.normal(0, 0.5, n_rows)
    return "k + (k | g)", pd.DataFrame({"k": [f"k{i}" for i in k], "g": [f"g{i}" for i in g]}), y


@pytest.mark.parametrize(
    ("data", "options"),
    [(splines, ()), (levels, (7,)), pytest.param(levels, (10,), marks=pytest.mark.slow)],
    ids=["splines", "7 levels", "10 levels"],
)
def test_splines_and_many_levels_of_thirty_groups_are_integrated(data, options, monkeypatch):
    def no_nuts(*_):
        raise AssertionError("left for NUTS")

    monkeypatch.setattr(integrated, "sample_model", no_nuts)
    found = []
    integrate_model = integrated.integrate_model
    monkeypatch.setattr(integrated, "integrate_model", lambda *a: found.append(integrate_model(*a)) or found[0])
    formula, X, y = data(*options)
    model = PartialPoolingRegressor(formula).fit(X, y)
    assert model.inference_ == "marginal (exact for one grouping factor)"
    (fit,) = found
    assert fit.points.theta.shape[1] >= MANY_DIMENSIONS
    assert len(fit.weight) <= MANY_KEPT
    assert fit.pareto_k < 0.7
    assert fit.nodes.error < 0.05


# The proposals


@pytest.mark.parametrize("place", [(0.5, -2.0), (-0.6, -3.5), (2.0, -1.0)])
def test_points_of_the_proposal_follow_its_density(rng, place):
    proposal = NormalT(np.array([0.5, -2.0]), np.array([[0.8, 0.0], [-0.5, 1.2]]))
    points = proposal.points(qmc.Sobol(3, rng=rng).random(2**15))
    ratio = stats.multivariate_normal(place, 0.3).pdf(points) / np.exp(proposal.log_density(points))
    assert ratio.mean() == pytest.approx(1.0, abs=0.01)


def test_the_nearest_normal_law_of_a_normal_law_is_itself(rng):
    d = 15
    root = np.tril(0.3 * rng.normal(size=(d, d))) + np.diag(np.linspace(0.5, 2.0, d))
    precision, mean = np.linalg.inv(root @ root.T), rng.normal(size=d)
    proposal = nearest_normal(
        lambda theta: (np.zeros(len(theta)), (mean - theta) @ precision), mean + 0.1 * root[0], precision * 1.3
    )
    np.testing.assert_allclose(proposal.mean, mean, atol=1e-8)
    np.testing.assert_allclose(proposal.scale, np.linalg.cholesky(root @ root.T), atol=1e-8)


def test_the_nearest_normal_law_is_where_expected_gradients_vanish():
    # logarithms of gamma variables: E_q grad = a - b exp(mean + variance / 2) and -E_q Hessian = a at the optimum
    a, b = np.linspace(2.0, 12.0, 14), np.linspace(1.0, 3.0, 14)
    proposal = nearest_normal(
        lambda theta: (theta @ a - np.exp(theta) @ b, a - b * np.exp(theta)), np.log(a / b), np.diag(a)
    )
    sd = a**-0.5
    assert np.max(np.abs(proposal.mean - (np.log(a / b) - 0.5 / a)) / sd) < 0.1
    np.testing.assert_allclose(np.diag(proposal.scale), sd, rtol=0.15)


def test_rounding_at_far_points_does_not_reach_the_nearest_normal_law():
    def value_and_gradient(theta):
        gradient = np.where(np.abs(theta[:, :1]) > 1.5, np.nan, -theta)
        return np.zeros(len(theta)), gradient

    proposal = nearest_normal(value_and_gradient, np.zeros(14), np.eye(14))
    np.testing.assert_allclose(proposal.scale, np.eye(14), atol=1e-8)


def test_proposals_with_moments_of_nodes_mend_one_that_is_wide_of_the_mark(rng):
    d = 20
    root = np.tril(0.1 * rng.normal(size=(d, d))) + np.eye(d)
    mean = 0.3 * rng.normal(size=d)

    @dataclass(frozen=True)
    class Evaluated:
        theta: np.ndarray
        log_density: np.ndarray

    def evaluate(theta):
        z = np.linalg.solve(root, (theta - mean).T)
        return Evaluated(theta, -0.5 * np.sum(z**2, axis=0))

    start = NormalT(np.zeros(d), 1.1 * np.eye(d))
    options = {"first_per_replicate": 128, "error_target": 0.02}
    drawn = (evaluate, start, lambda rounds: np.concatenate([points.theta for points in rounds]))
    one = importance_sample(*drawn, max_nodes=2048, refit=start.refitted, **options)
    nodes = importance_sample(*drawn, max_nodes=12_288, refit=start.refitted, **options)
    assert len(one.weight) == 2048
    assert len(nodes.weight) % 2048 == 0
    assert 4096 <= len(nodes.weight) <= 12_288
    assert nodes.error < 0.05 < 2 * one.error
    assert nodes.pareto_k < 0.5
    found = nodes.weight @ nodes.theta
    np.testing.assert_allclose(found, mean, atol=4 * nodes.error * np.linalg.norm(root, axis=1).max())


def test_thinned_nodes_stand_for_all(rng):
    weight = rng.pareto(1.2, 4000)
    weight /= weight.sum()
    values = rng.normal(size=4000).cumsum()
    at, kept = thinned(weight, 500)
    assert len(np.unique(at)) == len(at) == len(kept) == 500
    assert kept.sum() == pytest.approx(1.0)
    heavy = kept > 1.001 * kept.min()
    assert 1 < heavy.sum() < 499
    np.testing.assert_allclose(kept[heavy], weight[at[heavy]])
    # heavy ones are all there, and light ones even out
    assert weight[np.setdiff1d(np.arange(4000), at)].max() <= kept.min()
    assert abs(kept @ values[at] - weight @ values) < 0.02 * values.std()


@pytest.mark.parametrize("n_kept", [1, 2, 7])
def test_equal_nodes_are_thinned_evenly(n_kept):
    at, kept = thinned(np.full(14, 1 / 14), n_kept)
    np.testing.assert_allclose(kept, 1 / n_kept)
    assert len(np.unique(at)) == n_kept
    assert abs(at.mean() - 6.5) <= 1.0


# Beyond floating point


@pytest.mark.parametrize("far", [50.0, 400.0, 1e4, np.inf, -np.inf, np.nan])
def test_sds_beyond_floating_point_have_no_density_and_raise_nothing(rng, far):
    # a sampler that steps there got "Eigenvalues did not converge"
    problem = make_problem(rng, q=3)
    model, _ = marginal_model(problem.collect(), make_priors(rng, problem, blocks=((0, 1, 2),)))
    theta = np.zeros((2, model.parameters.n_dim))
    theta[0, :3] = far
    with np.errstate(all="ignore"):
        value, gradient = model.value_and_gradient(theta)
    assert not value[0] > value[1] - 1e3
    # the other point is what it is alone
    alone_value, alone_gradient = model.value_and_gradient(theta[1:])
    np.testing.assert_allclose(value[1], alone_value[0], rtol=1e-12)
    np.testing.assert_allclose(gradient[1], alone_gradient[0], rtol=1e-9, atol=1e-9)


def test_the_law_of_many_variance_parameters_stands_on_the_nodes_of_the_fit():
    formula, X, y = splines(n_rows=120, n_groups=6)
    model = PartialPoolingRegressor(formula).fit(X, y)._learnt.fitted.posterior.law.model
    tails, start = Tails(), np.zeros(model.parameters.n_dim)
    coarse = place_nodes(model, start, tails, DEFAULT)
    every = place_nodes(model, start, tails, DEFAULT, ERROR_TARGET)
    assert 4096 <= len(coarse.theta) < len(every.theta)
    np.testing.assert_array_equal(every.theta[: len(coarse.theta)], coarse.theta)
    law = VarianceLaw(model, every.theta[0], None, tails)
    assert "sample" not in vars(law_of_many(law, start, coarse))
    found = law_of_many(law, start, every)
    again = pickle.loads(pickle.dumps(found))
    assert "sample" in vars(found)
    assert "sample" not in vars(again)
    for name in ("nodes", "node", "log_sigma", "weight", "replicate"):
        np.testing.assert_array_equal(getattr(again.sample, name), getattr(found.sample, name))
