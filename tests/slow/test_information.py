"""LOO of groups against refits without each of the 85 counties; LOO of rows against ArviZ on draws of NUTS."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.base import clone

from hbsk import PartialPoolingRegressor
from hbsk.datasets import load_radon, load_sleepstudy
from hbsk.exceptions import ConvergenceWarning
from hbsk.model_selection import loo
from tests.test_information import refit_without

pytestmark = pytest.mark.slow
SHORT_STEPS = {"target_accept": 0.95}  # at PyMC's 0.8 a chain in thousands of steps diverges


@pytest.mark.parametrize("slope_features", [None, ["floor"]])
def test_leaving_a_county_out_equals_refitting(slope_features):
    X, y = load_radon(return_X_y=True, as_frame=True)
    X = X[["county", "floor"]]
    model = PartialPoolingRegressor(group_features="county", slope_features=slope_features).fit(X, y)
    fast = loo(model, X, y, unit="group").elpd_i.to_series()
    brute = np.array([refit_without(model, X, y, county) for county in fast.index])
    np.testing.assert_allclose(fast, brute, atol=0.05)
    assert fast.sum() == pytest.approx(brute.sum(), abs=0.1)


@pytest.fixture(scope="module", params=[None, ["Days"]], ids=["intercepts", "slopes"])
def both_engines(request):
    X, y = load_sleepstudy(return_X_y=True, as_frame=True)
    how = {"group_features": "Subject", "slope_features": request.param, "random_state": 1}
    integrated = PartialPoolingRegressor(**how).fit(X, y)
    sampled = PartialPoolingRegressor(**how, inference="nuts", draws=4000, sampler_options=SHORT_STEPS)
    return X, y, integrated, sampled.fit(X, y)


def test_rows_as_arviz_on_draws_of_nuts(both_engines):
    import arviz as az

    X, y, integrated, sampled = both_engines
    tree = sampled.to_datatree(X, y)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Estimated shape parameter of Pareto", UserWarning)
        theirs = az.loo(tree, pointwise=True)
        chains = [az.loo(tree.sel(chain=[chain]), pointwise=True, reff=1.0) for chain in range(4)]
    ours = loo(integrated, X, y)
    # a row far out may be known to one chain and not to another whatever its k
    spread = np.std([chain.elpd_i.to_numpy() for chain in chains], axis=0, ddof=1) / 2
    good = (theirs.pareto_k.to_numpy() < 0.5) & (spread < 0.05)
    assert good.sum() >= 150
    # what 16,000 draws hardly know is told by refits
    for row in np.flatnonzero(~good):
        assert ours.elpd_i.to_numpy()[row] == pytest.approx(log_density_without(integrated, X, y, row), abs=0.12), row
    difference = (ours.elpd_i - theirs.elpd_i).to_numpy()[good]
    # Four standard errors, which are themselves known from four chains only.
    error = np.std([chain.elpd_i.to_numpy()[good].sum() for chain in chains], ddof=1) / 2
    assert abs(difference.sum()) < 4 * max(error, 0.1)
    assert np.abs(difference).max() < 0.2


def log_density_without(model, X, y, row):
    """Refit without one row, the priors held, and return the log density of its y over draws of the posterior.

    Of a row six sds out few draws know: by 160,000 the log is known to 0.15, by four times as many to 0.03.
    """
    rest = clone(model).set_params(priors=model.priors_).fit(X.drop(index=row), y.drop(index=row))
    days = X.loc[row, "Days"]
    subject = {"Subject__factor_dim": str(X.loc[row, "Subject"])}
    density = []
    for seed in range(4):
        draws = rest.to_datatree(draws=40_000, random_state=seed)["posterior"]
        of_subject = draws["1|Subject"].sel(subject)
        if "Days|Subject" in draws:
            of_subject = of_subject + days * draws["Days|Subject"].sel(subject)
        center = draws["Intercept"] + days * draws["Days"] + of_subject
        density.append(norm.pdf(y[row], center, draws["sigma"]).mean())
    return float(np.log(np.mean(density)))


def test_groups_as_from_draws_of_nuts(both_engines):
    X, y, integrated, sampled = both_engines
    by_nodes, by_draws = (loo(model, X, y, unit="group") for model in (integrated, sampled))
    np.testing.assert_allclose(by_draws.elpd_i, by_nodes.elpd_i, atol=0.1)
    assert by_draws.elpd == pytest.approx(by_nodes.elpd, abs=0.3)


@pytest.fixture(scope="module")
def two_factors():
    rng = np.random.default_rng(3)
    X = pd.DataFrame({"a": rng.integers(0, 9, 120), "b": rng.integers(0, 6, 120), "x": rng.normal(4.0, 1.0, 120)})
    y = rng.normal(size=120) + 0.5 * X["x"] + rng.normal(size=9)[X["a"]] + rng.normal(size=6)[X["b"]]
    how = {"formula": "x + (1 | a) + (1 | b)", "random_state": 1}
    # at 0.95 one transition in 4,000 diverges, and the draws are no reference
    sampled = PartialPoolingRegressor(**how, inference="nuts", sampler_options={"target_accept": 0.99}).fit(X, y)
    return X, y, PartialPoolingRegressor(**how).fit(X, y), sampled


@pytest.mark.parametrize("factor", ["a", "b"])
def test_groups_of_two_factors_as_from_draws_of_nuts(two_factors, factor):
    X, y, integrated, sampled = two_factors
    by_nodes, by_draws = (loo(model, X, y, unit="group", factor=factor) for model in (integrated, sampled))
    np.testing.assert_allclose(by_draws.elpd_i, by_nodes.elpd_i, atol=0.1)
    assert by_draws.elpd == pytest.approx(by_nodes.elpd, abs=0.2)


def test_rows_of_two_factors_as_from_draws_of_nuts(two_factors):
    X, y, integrated, sampled = two_factors
    by_nodes = loo(integrated, X, y).elpd_i.to_numpy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Pareto k is above", ConvergenceWarning)
        found = loo(sampled, X, y)
    by_draws, known = found.elpd_i.to_numpy(), found.pareto_k.to_numpy() < 0.7
    assert known.sum() >= 118
    np.testing.assert_allclose(by_draws[known], by_nodes[known], atol=0.1)
    assert by_draws[known].sum() == pytest.approx(by_nodes[known].sum(), abs=0.3)
    # what 4,000 draws hardly know is told by refits
    for row in np.flatnonzero(~known):
        assert by_nodes[row] == pytest.approx(log_density_of_factors_without(integrated, X, y, row), abs=0.1)


def log_density_of_factors_without(model, X, y, row):
    rest = clone(model).set_params(priors=model.priors_).fit(X.drop(index=row), y.drop(index=row))
    draws = rest.to_datatree(draws=40_000, random_state=0)["posterior"]
    center = draws["Intercept"] + draws["x"] * X.loc[row, "x"]
    for factor in ("a", "b"):
        center = center + draws[f"1|{factor}"].sel({f"{factor}__factor_dim": str(int(X.loc[row, factor]))})
    return float(np.log(norm.pdf(y[row], center, draws["sigma"]).mean()))
