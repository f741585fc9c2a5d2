"""Draws from the posterior of several grouping factors: of the same law as the tables."""

import numpy as np
import pandas as pd
import pytest

from hbsk import PartialPoolingRegressor
from hbsk._engine import variance_law

N_DRAWS = 4_000


def rows(n, n_a, n_b, seed=3):
    """Levels of a hold each a few of c, those of b are crossed with both; an intercept and a slope vary over a."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"a": rng.integers(0, n_a, n), "b": rng.integers(0, n_b, n), "x": rng.normal(1.0, 1.0, n)})
    X["c"] = 10 * X["a"] + rng.integers(0, 4, n)
    y = 0.5 * X["x"] + rng.normal(size=n_a)[X["a"]] + 0.7 * rng.normal(size=n_b)[X["b"]] * X["x"]
    return X, y + 0.4 * rng.normal(size=10 * n_a)[X["c"]] + rng.normal(size=n)


# how draws are made: each with its own law of the effects, where few nodes would do for all else; nested; with the law
# of the nearest node, since there are 32 nodes and effects beside the largest factor are many
KINDS = {
    "crossed": ("y ~ x + (x | a) + (x || b)", (300, 12, 8)),
    "nested": ("y ~ x + (x | a/c)", (300, 12, 8)),
    "many levels": ("y ~ x + (1 | a) + (1 | b)", (4_000, 500, 310)),
}


@pytest.fixture(scope="module", params=KINDS)
def fit(request):
    formula, sizes = KINDS[request.param]
    X, y = rows(*sizes)
    return PartialPoolingRegressor(formula).fit(X, y)


def test_draws_of_sds_and_correlations_have_the_quantiles_of_the_summary(fit):
    drawn = fit.to_datatree(draws=N_DRAWS // 4, random_state=0)["posterior"]
    values = {"sigma": drawn["sigma"]} | {name: drawn[name] for name in drawn if str(name).endswith("_sigma")}
    for factor in fit.groups_:
        if f"corr_{factor}" in drawn:
            values[f"corr_{factor}[1, x]"] = drawn[f"corr_{factor}"][..., 0, 1]
    for coverage in (0.5, 0.9):
        summary = fit.summary(coverage=coverage)
        for level, column in zip(((1 - coverage) / 2, (1 + coverage) / 2), summary.columns[2:4], strict=True):
            for name, of_draws in values.items():
                share = float((of_draws <= summary.loc[name, column]).mean())
                assert abs(share - level) < 4 * np.sqrt(level * (1 - level) / N_DRAWS), (name, level, share)


def test_draws_of_effects_have_the_moments_of_the_tables(fit):
    table = fit.group_effects(coverage=None)
    drawn = fit.to_datatree(draws=N_DRAWS // 4, random_state=5)["posterior"]
    for term, of_term in table.groupby("term", sort=False):
        effects = drawn[term].to_numpy().reshape(N_DRAWS, -1)
        error = np.abs(effects.mean(axis=0) - of_term["deviation"]) / of_term["deviation_sd"]
        assert error.max() < 4.5 / N_DRAWS**0.5
        np.testing.assert_allclose(effects.std(axis=0) / of_term["deviation_sd"], 1.0, atol=5 / (2 * N_DRAWS) ** 0.5)


@pytest.mark.parametrize("formula", ["y ~ x + (1 | a)", "y ~ x + (1 | a) + (1 | b)"])
def test_draws_do_not_hang_on_what_was_asked_before(formula, monkeypatch):
    monkeypatch.setattr(variance_law, "DEAR_NODES", 0)  # as with many common columns
    X, y = rows(100, 6, 4)
    model = PartialPoolingRegressor(formula).fit(X, y)
    before = model.sample_y(X.head(2), n_samples=2_000, random_state=0)
    model.summary()
    np.testing.assert_array_equal(model.sample_y(X.head(2), n_samples=2_000, random_state=0), before)


def test_few_draws_place_no_finer_nodes():
    X, y = rows(100, 6, 4)
    model = PartialPoolingRegressor("y ~ x + (x | a) + (1 | b)").fit(X, y)
    model.sample_y(X.head(2), n_samples=100, random_state=0)
    assert "sample" not in vars(model._learnt.fitted.posterior.law)


def test_a_model_of_thirteen_variance_parameters_has_tables_and_draws():
    X, y = rows(150, 6, 4)
    X["w"] = np.random.default_rng(1).normal(size=150)
    model = PartialPoolingRegressor("y ~ x + w + (x + w | a) + (x + w | b)").fit(X, y)
    summary = model.summary()
    assert np.isfinite(summary.to_numpy()).all()
    sd = model.to_datatree(draws=500, random_state=0)["posterior"]["x|b_sigma"]
    assert abs(float(sd.mean()) - summary.loc["x|b_sigma", "mean"]) < 5 * summary.loc["x|b_sigma", "sd"] / 2_000**0.5
