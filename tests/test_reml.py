"""With flat common priors the marginal likelihood is the restricted likelihood: its maximum is lme4's REML estimate."""

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from hbsk._engine.fit import marginal_model
from hbsk._engine.priors import EnginePriors
from hbsk._engine.sd_prior import SdPrior
from tests.dense import Problem
from tests.test_reference.reference import lme4_models
from tests.test_reference.test_reference_numbers import RESPONSE, columns_of, data_of, name_of

MODELS = [model for model in lme4_models() if len(model["groups"]) == 1]


@pytest.fixture(params=MODELS, ids=name_of)
def case(request):
    """The stored model; ours, with a function from (Lambda, sigma) of the rows to the REML criterion."""
    stored = request.param
    data = data_of(stored)
    terms = [entry["term"] for entry in stored["sd"]]
    X = columns_of(data, stored["fixed"])
    codes, labels = pd.factorize(data[stored["sd"][0]["factor"]])
    problem = Problem(
        X,
        columns_of(data, terms),
        codes,
        len(labels),
        data[RESPONSE[stored["data"]]].to_numpy(dtype=float),
        has_intercept=bool(np.all(X[:, 0] == 1)),
    )
    p, q = X.shape[1], len(terms)
    flat = SdPrior("HalfFlat", {})
    model, scaling = marginal_model(
        problem.collect(), EnginePriors(np.zeros(p), np.full(p, np.inf), flat, [flat] * q, (tuple(range(q)),), (1.0,))
    )
    # y, X and Z of the engine are scaled
    constant = (len(X) - p) * 2 * np.log(scaling.y_scale) + 2 * np.sum(np.log(scaling.x_scale))

    def criterion(factor, sigma):
        engine = np.linalg.solve(scaling.effects(np.eye(q)).T / scaling.y_scale, factor)
        return constant - 2 * model.log_marginal_likelihood(engine[None], np.array([sigma / scaling.y_scale]))[0]

    return stored, criterion


def covariance_of(stored):
    """Sds, and the correlation matrix, in the order of the terms; zero correlation where none is stored."""
    terms = [entry["term"] for entry in stored["sd"]]
    sds, correlation = np.array([entry["value"] for entry in stored["sd"]]), np.eye(len(terms))
    for entry in stored["correlation"]:
        i, j = (terms.index(term) for term in entry["terms"])
        correlation[i, j] = correlation[j, i] = entry["value"]
    return sds, correlation


def test_likelihood_at_the_estimates_is_the_criterion(case):
    stored, criterion = case
    sds, correlation = covariance_of(stored)
    factor = sds[:, None] * np.linalg.cholesky(correlation + 1e-14 * np.eye(len(sds))) / stored["sigma"]
    assert criterion(factor, stored["sigma"]) == pytest.approx(stored["reml_criterion"], rel=1e-9)


def test_maximum_is_lme4s_estimate(case):
    stored, criterion = case
    q = len(stored["sd"])
    independent = q > 1 and not stored["correlation"]
    row, column = (np.arange(q), np.arange(q)) if independent else np.tril_indices(q)
    scale = np.where(row == column, 1.0, 0.0)
    sds, correlation = covariance_of(stored)
    # starts from no correlation and sds of the right size only
    unit = np.where(sds > 0, sds, 0.1 * stored["sigma"]) / stored["sigma"] * 1.7

    def unpacked(theta):
        factor = np.zeros((q, q))
        factor[row, column] = theta[1:]
        return factor * unit[:, None], stored["sigma"] * np.exp(theta[0])

    start = np.concatenate([[0.2], scale])
    found = optimize.minimize(lambda theta: criterion(*unpacked(theta)), start, method="BFGS", options={"gtol": 1e-6})
    found = optimize.minimize(
        lambda theta: criterion(*unpacked(theta)),
        found.x,
        method="Nelder-Mead",
        options={"xatol": 1e-7, "fatol": 1e-11, "maxiter": 4000},
    )
    assert found.fun == pytest.approx(stored["reml_criterion"], rel=1e-9)
    factor, sigma = unpacked(found.x)
    covariance = sigma**2 * factor @ factor.T
    # at the optimum the criterion is flat: estimates are good to the square root of its precision
    rel = 2e-4 + 10 * stored["disagreement"]
    assert sigma == pytest.approx(stored["sigma"], rel=rel)
    np.testing.assert_allclose(
        np.sqrt(np.diag(covariance)), sds, rtol=rel, atol=1e-3 * stored["sigma"] * (sds.min() == 0)
    )
    if q > 1 and sds.min() > 0:
        found_correlation = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
        np.testing.assert_allclose(found_correlation, correlation, atol=2e-3)
