"""Models of `to_bambi` predict new rows of the user's own columns."""

import logging
import warnings

import numpy as np
import pandas as pd
import pytest

from hbsk import PartialPoolingRegressor
from hbsk._bambi.raw_terms import RawTerms
from tests.candidate import log_joint

NEW = pd.DataFrame({"x": [2012.5, 2030.0, 1990.0], "z z": [0.3, 4.0, 2.0], "g": [17, 308, 17]})


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(5)
    X = pd.DataFrame(
        {"x": rng.uniform(2000, 2020, 60), "z z": rng.gamma(3.0, 1.0, 60), "g": np.repeat([308, 5, 17], 20)}
    )
    return X, 0.3 * (X["x"] - 2000) + rng.normal(size=60)


def mean_of_rows(model, tree):
    """Let Bambi predict `NEW`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Bambi's own dependencies
        return model.predict(tree, data=NEW, inplace=False)["posterior"]["mu"].to_numpy()


def drawn(tree):
    """Return draws by variable, groups last."""
    return {name: values.to_numpy() for name, values in tree["posterior"].data_vars.items()}


def from_the_prior(model):
    """Return a few draws of all parameters, by Python's linker: compiling would be most of the time."""
    import pymc as pm
    from pytensor.compile.mode import Mode
    from xarray import DataTree

    model.build()
    with model.backend.model:
        compiled = {"mode": Mode(linker="py", optimizer=None)}
        prior = pm.sample_prior_predictive(draws=3, random_seed=1, compile_kwargs=compiled)["prior"].to_dataset()
    return DataTree.from_dict({"posterior": prior.drop_vars("mu")})


GROUP = [1, 2, 1]  # of 5, 17, 308


@pytest.mark.parametrize("varying", ["1", "x"])
def test_new_rows_of_known_groups_are_predicted_from_their_columns(data, varying, monkeypatch):
    monkeypatch.setattr(logging.getLogger("pymc"), "disabled", True)
    X, y = data
    model = PartialPoolingRegressor(f"y ~ x + ({varying} | g)").to_bambi(X, y)
    if varying == "1":
        tree = from_the_prior(model)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # so few draws
            tree = model.fit(draws=20, tune=20, chains=1, random_seed=1, progressbar=False)
    draws, x = drawn(tree), NEW["x"].to_numpy()
    wanted = draws["Intercept"][..., None] + draws["x"][..., None] * x + draws["1|g"][..., GROUP]
    if varying == "x":
        wanted += draws["x|g"][..., GROUP] * (x - X["x"].mean())
        ours = PartialPoolingRegressor("y ~ x + (x | g)").fit(X, y).predict(NEW)
        assert np.abs(wanted.mean(axis=(0, 1)) - ours).max() < 3.0  # the same lines, as far as twenty draws tell
    np.testing.assert_allclose(mean_of_rows(model, tree), wanted, rtol=1e-9)


def test_calls_products_and_offsets_are_computed_from_the_columns(data):
    X, y = data
    formula = "y ~ scale(x) + np.log(`z z`):x + offset(I((`z z` + 1) / 2)) + (`z z` + scale(x) || g)"
    model = PartialPoolingRegressor(formula).to_bambi(X, y)
    assert set(model.data.columns) == {"y", "g", "x", "z z"}
    tree = from_the_prior(model)
    draws, x, z = drawn(tree), NEW["x"].to_numpy(), NEW["z z"].to_numpy()
    scaled = (x - X["x"].mean()) / X["x"].std(ddof=0)
    wanted = draws["Intercept"][..., None] + draws["scale(x)"][..., None] * scaled + (z + 1) / 2
    wanted = wanted + draws["np.log(z z):x"][..., None] * np.log(z) * x
    wanted = wanted + draws["1|g"][..., GROUP] + draws["z z|g"][..., GROUP] * (z - X["z z"].mean())
    wanted = wanted + draws["scale(x)|g"][..., GROUP] * scaled
    np.testing.assert_allclose(mean_of_rows(model, tree), wanted, rtol=1e-9)


def test_the_graph_is_the_same_with_computed_columns(data, monkeypatch):
    X, y = data
    estimator = PartialPoolingRegressor("y ~ scale(x) + x:`z z` + offset(log(`z z`)) + (x + I(`z z` ** 2) | g)")
    by_bambi = estimator.to_bambi(X, y)
    monkeypatch.setattr("hbsk._bambi.raw_terms.raw_terms", lambda *_: RawTerms())
    computed = estimator.to_bambi(X, y)
    assert "x centred" in set(computed.data.columns) - set(by_bambi.data.columns)
    rng = np.random.default_rng(3)
    L = np.linalg.cholesky(0.5 * np.eye(3) + 0.5)
    point = {"b": rng.normal(size=3), "sigma": 1.3, "tau": {"g": np.array([1.0, 0.2, 0.1])}, "L": {"g": L}}
    point["u"] = {"g": rng.normal(size=(3, 3))}
    assert log_joint(by_bambi)(**point) == pytest.approx(log_joint(computed)(**point), rel=1e-9)


def test_what_bambi_cannot_compute_goes_to_it_as_a_column(data):
    X, y = data
    X = X.assign(c=np.tile(["a", "b", "c"], 20))
    point = {"centre|g": {"x": 2000.0}}
    for formula, priors, column in [
        ("y ~ bs(x, df=4) + (1 | g)", None, "bs(x, df=4)[3]"),
        ("y ~ poly(x, 2) + (1 | g)", None, "poly(x, 2)[1]"),
        ("y ~ c + (1 | g)", None, "c[b]"),
        ("y ~ x + (x | g)", point, "x centred"),
        ("y ~ x + (x : `z z` | g)", None, "x:z z centred"),
    ]:
        assert column in PartialPoolingRegressor(formula, priors=priors).to_bambi(X, y).data.columns
