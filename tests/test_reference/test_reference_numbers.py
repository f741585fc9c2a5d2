"""The stored numbers of lme4 and metafor, recomputed from the data by dense linear algebra.

Nothing of hbsk's inference takes part: what is tested is that the data, the stored estimates and our reading of their
scales belong together, so that other tests may lean on them.
"""

import numpy as np
import pandas as pd
import pytest

from tests.test_reference.reference import (
    lme4_model,
    lme4_models,
    metafor_model,
    metafor_models,
    reference_data,
)

# R's name of a column -> the column; every term of every stored formula is here.
COLUMNS = {
    "(Intercept)": lambda d: np.ones(len(d)),
    "Days": lambda d: d["Days"],
    "floor": lambda d: d["floor"],
    "uranium": lambda d: d["uranium"],
    "age": lambda d: d["age"],
    "I(age^2)": lambda d: d["age"] ** 2,
    "SexMale": lambda d: d["Sex"] == "Male",
    "age:SexMale": lambda d: d["age"] * (d["Sex"] == "Male"),
    "MachineA": lambda d: d["Machine"] == "A",
    "MachineB": lambda d: d["Machine"] == "B",
    "MachineC": lambda d: d["Machine"] == "C",
    "standLRT": lambda d: d["standLRT"],
    "SES": lambda d: d["SES"],
    "MEANSES": lambda d: d["MEANSES"],
}
RESPONSE = {
    "sleepstudy": "Reaction",
    "radon": "log_radon",
    "dyestuff": "Yield",
    "dyestuff2": "Yield",
    "orthodont": "distance",
    "oxboys": "height",
    "machines": "score",
    "pastes": "strength",
    "exam": "normexam",
    "math_achieve": "MathAch",
}


def columns_of(data, names):
    return np.column_stack([np.asarray(COLUMNS[name](data), dtype=float) for name in names])


def covariance_blocks(model, data):
    """Yield the rows and the covariance matrix of y of each independent part of the data."""
    factors = {entry["factor"] for entry in model["sd"]}
    varying = {}
    for factor in factors:
        sds = {entry["term"]: entry["value"] for entry in model["sd"] if entry["factor"] == factor}
        terms = list(sds)
        correlation = np.eye(len(terms))
        for entry in model["correlation"]:
            i, j = (terms.index(term) for term in entry["terms"])
            correlation[i, j] = correlation[j, i] = entry["value"]
        varying[factor] = columns_of(data, terms) * list(sds.values()), correlation, data[factor].to_numpy()
    # With several factors everything may hang together: one block.
    parts = data.groupby(factors.pop()).indices.values() if len(factors) == 1 else [np.arange(len(data))]
    for rows in parts:
        covariance = model["sigma"] ** 2 * np.eye(len(rows))
        for Z, correlation, labels in varying.values():
            same = labels[rows][:, None] == labels[rows][None, :]
            covariance += (Z[rows] @ correlation @ Z[rows].T) * same
        yield rows, covariance


def dense_reml(model, data):
    """Return minus twice the restricted log likelihood, the coefficients and their standard errors."""
    X = columns_of(data, model["fixed"])
    y = data[RESPONSE[model["data"]]].to_numpy(dtype=float)
    precision = np.zeros((X.shape[1], X.shape[1]))
    score = np.zeros(X.shape[1])
    log_determinant = square = 0.0
    for rows, covariance in covariance_blocks(model, data):
        solved = np.linalg.solve(covariance, np.column_stack([X[rows], y[rows]]))
        precision += X[rows].T @ solved[:, :-1]
        score += X[rows].T @ solved[:, -1]
        square += y[rows] @ solved[:, -1]
        log_determinant += np.linalg.slogdet(covariance)[1]
    coefficients = np.linalg.solve(precision, score)
    residual = square - score @ coefficients
    n, p = X.shape
    criterion = (n - p) * np.log(2 * np.pi) + log_determinant + np.linalg.slogdet(precision)[1] + residual
    return criterion, coefficients, np.sqrt(np.diag(np.linalg.inv(precision)))


def data_of(model):
    data = reference_data(model["data"])
    if model["data"] == "pastes":
        data["sample"] = data["batch"] + ":" + data["cask"]
    return data


def name_of(model):
    return f"{model['data']}: {model['formula']}"


@pytest.mark.parametrize("model", lme4_models(), ids=name_of)
def test_lme4_estimates_belong_to_the_data(model):
    data = data_of(model)
    assert len(data) == model["n"]
    assert {name: data[name].nunique() for name in model["groups"]} == model["groups"]
    criterion, coefficients, standard_errors = dense_reml(model, data)
    # 15 digits are stored; the criterion is flat at its minimum, so rounding of the sds does not reach it.
    assert criterion == pytest.approx(model["reml_criterion"], rel=1e-10)
    # Coefficients depend on the variance estimates, which two optimisers agree on to `disagreement`.
    rel = 10 * model["disagreement"] + 1e-9
    np.testing.assert_allclose(coefficients, list(model["fixed"].values()), rtol=rel, atol=1e-9)
    np.testing.assert_allclose(standard_errors, list(model["fixed_se"].values()), rtol=rel)


@pytest.mark.parametrize("factor", [0.995, 1.005])
@pytest.mark.parametrize("model", [m for m in lme4_models() if m["n"] < 1000], ids=name_of)
def test_lme4_estimates_minimise_the_criterion(model, factor):
    data = data_of(model)
    best = dense_reml(model, data)[0]
    for k, entry in enumerate(model["sd"]):
        # A zero sd is moved to a small positive one.
        moved = {**entry, "value": entry["value"] * factor or 0.1 * model["sigma"]}
        sd = [*model["sd"][:k], moved, *model["sd"][k + 1 :]]
        assert dense_reml({**model, "sd": sd}, data)[0] > best
    assert dense_reml({**model, "sigma": model["sigma"] * factor}, data)[0] > best
    for k, entry in enumerate(model["correlation"]):
        moved = {**entry, "value": entry["value"] * factor}
        correlation = [*model["correlation"][:k], moved, *model["correlation"][k + 1 :]]
        assert dense_reml({**model, "correlation": correlation}, data)[0] > best


def test_published_reml_estimates_of_sleepstudy():
    # Bates, Maechler, Bolker, Walker (2015), Journal of Statistical Software 67(1), section 5.
    model = lme4_model("sleepstudy", "Reaction ~ Days + (1 + Days | Subject)")
    assert round(model["reml_criterion"], 1) == 1743.6
    assert [round(entry["value"], 2) for entry in model["sd"]] == [24.74, 5.92]
    assert round(model["correlation"][0]["value"], 2) == 0.07
    assert round(model["sigma"], 2) == 25.59


@pytest.mark.parametrize("model", metafor_models(), ids=lambda m: f"{m['data']} {m['moderators']} {m['method']}")
def test_metafor_estimates_belong_to_the_data(model):
    y, standard_error, X = meta_analysis(model["data"], model["moderators"])
    variance = standard_error**2 + model["tau2"]
    precision = X.T @ (X / variance[:, None])
    covariance = np.linalg.inv(precision)
    coefficients = covariance @ X.T @ (y / variance)
    np.testing.assert_allclose(coefficients, model["mu"], rtol=1e-9)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), model["mu_se"], rtol=1e-9)

    residual = y - X @ coefficients
    log_likelihood = -0.5 * np.sum(np.log(2 * np.pi * variance) + residual**2 / variance)
    if model["method"] == "REML":
        log_likelihood += 0.5 * (
            X.shape[1] * np.log(2 * np.pi) - np.linalg.slogdet(precision)[1] + np.linalg.slogdet(X.T @ X)[1]
        )
    assert log_likelihood == pytest.approx(model["log_likelihood"], rel=1e-9)

    weight = model["tau2"] / variance
    fitted = X @ coefficients
    np.testing.assert_allclose(weight * y + (1 - weight) * fitted, model["blup"], rtol=1e-9)
    uncertainty = weight * standard_error**2 + (1 - weight) ** 2 * np.einsum("ij,jk,ik->i", X, covariance, X)
    np.testing.assert_allclose(np.sqrt(uncertainty), model["blup_se"], rtol=1e-9)


def test_published_estimates_of_the_bcg_trials():
    # Viechtbauer (2010), Journal of Statistical Software 36(3), section 3: -0.7145 (0.1798), tau^2 0.3132.
    model = metafor_model("bcg", "~1", "REML")
    assert [round(model[key][0], 4) for key in ("mu", "mu_se")] == [-0.7145, 0.1798]
    assert round(model["tau2"], 4) == 0.3132


def meta_analysis(name, moderators):
    """Return effects, standard errors and regressors of a data set as metafor_reference.R computes them."""
    data: pd.DataFrame = reference_data(name)
    if name == "eight_schools":
        y, standard_error = data["effect"], data["standard_error"]
    elif name == "bcg":
        treated, controls = data["tpos"] + data["tneg"], data["cpos"] + data["cneg"]
        y = np.log(data["tpos"] / treated / (data["cpos"] / controls))
        standard_error = np.sqrt(1 / data["tpos"] - 1 / treated + 1 / data["cpos"] - 1 / controls)
    else:
        y = data["hits"] / 45
        standard_error = np.full(len(y), np.sqrt(y.mean() * (1 - y.mean()) / 45))
    X = np.ones((len(y), 1)) if moderators == "~1" else np.column_stack([np.ones(len(y)), data["ablat"]])
    return np.asarray(y, dtype=float), np.asarray(standard_error, dtype=float), X
