"""The Gaussian model about modes of groups, and that the search for the joint mode begins near it."""

from dataclasses import replace

import numpy as np
import pytest

from hbsk._engine.generalized.fit import generalized_model
from hbsk._engine.generalized.search import LouisSearch, _begin, find_joint_mode
from hbsk._engine.generalized.working import working_model
from tests.test_generalized_engine import made_up


@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_the_working_model_is_that_of_dense_matrices(family, q):
    responses, priors = made_up(family, q=q, trials=6)
    model, _ = generalized_model(responses, priors)
    cells, rng = model.cells, np.random.default_rng(5)
    common, modes = rng.normal(0, 0.3, 3), rng.normal(0, 0.5, (q, cells.n_groups))
    factor = np.array([0.7 * np.tri(q), 0.2 * np.eye(q), 1.5 * np.tri(q)])
    working = working_model(cells, common, factor[0], modes)
    value, best = working.profile(factor, model.prior_mean, model.prior_precision)

    effects = (factor[0] @ modes).T[cells.group]
    eta = cells.x @ common + np.sum(cells.z * effects, axis=1)
    mean = np.exp(eta) if family == "poisson" else 1 / (1 + np.exp(-eta))
    weight = cells.size * (mean if family == "poisson" else mean * (1 - mean))
    response = eta + (cells.y - cells.size * mean) / weight
    expected, coefficients = [], []
    for matrix in factor:
        along = cells.z @ matrix
        within = cells.group[:, None] == cells.group
        covariance = np.diag(1 / weight) + np.where(within, along @ along.T, 0.0)
        inverse = np.linalg.inv(covariance)
        precision = cells.x.T @ inverse @ cells.x + np.diag(model.prior_precision)
        b = np.linalg.solve(precision, cells.x.T @ inverse @ response + model.prior_precision * model.prior_mean)
        left, moved = response - cells.x @ b, b - model.prior_mean
        squares = left @ inverse @ left + moved @ (model.prior_precision * moved)
        expected.append(-0.5 * (squares + np.linalg.slogdet(covariance)[1]))
        coefficients.append(b)
    np.testing.assert_allclose(best, coefficients, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(np.diff(value), np.diff(expected), rtol=1e-8)


@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_the_search_begins_next_to_the_mode(family, q):
    responses, priors = made_up(family, q=q, n_groups=30, n_rows=600, trials=6)
    model, _ = generalized_model(responses, priors)
    mode = find_joint_mode(model)
    away = _begin(model)[0] - mode.psi
    assert away @ mode.precision @ away < 1.5**2


def test_many_groups_begin_at_the_mode_of_some(monkeypatch):
    monkeypatch.setattr("hbsk._engine.generalized.search.MANY_GROUPS", 25)
    monkeypatch.setattr("hbsk._engine.generalized.search.FEW_GROUPS", 10)
    responses, priors = made_up(n_groups=30, n_rows=600, trials=6)
    model, _ = generalized_model(responses, priors)
    psi, start = _begin(model)
    some = find_joint_mode(replace(model, cells=model.cells.of(np.arange(0, 30, 3))))
    np.testing.assert_allclose(psi, some.psi, atol=0.3)
    assert start.zwz.shape[-1] == 30
    assert LouisSearch(model, start).run(psi[None]).is_within(0.2)
