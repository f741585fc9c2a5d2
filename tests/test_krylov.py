"""Models with very many crossed levels, end to end: against the dense route that small data can take, and sparse LU."""

import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from hbsk import PartialPoolingRegressor, from_json, to_json
from hbsk._engine import crossed, crossed_passes, krylov_passes, moment_nodes, progress
from hbsk._posterior import crossed as crossed_posterior
from hbsk._posterior.crossed import CrossedPosterior
from hbsk._posterior.crossed_laws import single_nodes
from hbsk.exceptions import ConvergenceWarning
from hbsk.model_selection import loo, waic

STOCHASTIC = "marginal (log-determinants of several grouping factors by stochastic Lanczos quadrature)"


def ratings(n=1_200, seed=1):
    """Users by items, a slope of the users; some levels are seen once."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"user": rng.integers(0, 90, n), "item": rng.integers(0, 60, n), "x": rng.normal(2.0, 1.0, n)})
    X.loc[:1, "user"], X.loc[2:3, "item"] = [900, 901], [900, 901]
    y = 5.0 + 0.5 * X["x"] + rng.normal(size=n) + 0.6 * rng.normal(size=902)[X["user"]]
    return X, y + (0.4 * rng.normal(size=902)[X["user"]]) * X["x"] + 0.5 * rng.normal(size=902)[X["item"]]


def on_this_route(context):
    context.setattr(crossed, "MOST_REMAINING", 0)


@pytest.fixture(scope="module")
def fits():
    X, y = ratings()
    model = PartialPoolingRegressor("x + (x || user) + (1 | item)")
    with pytest.MonkeyPatch.context() as context:
        context.setattr(crossed_passes, "CHEAP_REMAINING", 0)  # few nodes, and few of those for effects, as here
        context.setattr(crossed_posterior, "KEPT_NUMBERS", 0)
        dense = PartialPoolingRegressor(model.formula).fit(X, y)
        _ = dense.group_effects_
        on_this_route(context)
        return X, y, dense, model.fit(X, y)


@pytest.fixture(autouse=True)
def route(monkeypatch):
    on_this_route(monkeypatch)


def test_parameters_are_those_of_the_dense_route(fits):
    _, _, dense, model = fits
    assert dense.inference_ == "marginal (exact for several grouping factors)"
    assert model.inference_ == STOCHASTIC
    expected, found = dense.summary(), model.summary()
    np.testing.assert_array_less(np.abs(found["mean"] - expected["mean"]), 0.05 * expected["sd"])
    np.testing.assert_allclose(found["sd"], expected["sd"], rtol=0.02)


def test_nodes_know_each_probe_by_cubics_as_by_evaluations(fits):
    posterior = fits[3]._learnt.fitted.posterior
    assert posterior.law.kept is not None
    factor = posterior.factor[:6]
    posterior.model.passes.reduce(factor)
    by_probe = -0.5 * posterior.model.passes.log_dets_by_probe(factor)
    probes = by_probe - by_probe.mean(axis=1, keepdims=True)
    spread = np.std(probes - probes.mean(axis=0))  # what differs from node to node, and moves means
    np.testing.assert_allclose(posterior.probes[:6], probes, atol=0.05 * spread)


def test_effects_and_predictions_are_those_of_the_dense_route(fits):
    X, _, dense, model = fits
    expected, found = dense.group_effects(), model.group_effects()
    np.testing.assert_array_less(np.abs(found["mean"] - expected["mean"]), 0.03 * expected["sd"])
    for name in ("sd", "deviation_sd"):
        np.testing.assert_allclose(found[name], expected[name], rtol=0.03)
    for factor, shares in dense.shrinkage_.items():
        np.testing.assert_allclose(model.shrinkage_[factor], shares, atol=0.02)
    pairs = pd.DataFrame({"user": [0, 1, 900, 999, 7], "item": [5, 901, 7, 3, 999]})
    pairs = pd.concat([pairs.assign(x=[0.0, 1, 2, 3, -1]), X[:300]])
    mean, sd = dense.predict(pairs, return_std=True)
    ours, our_sd = model.predict(pairs, return_std=True)
    np.testing.assert_array_less(np.abs(ours - mean), 0.02 * sd)
    np.testing.assert_allclose(our_sd, sd, rtol=0.02)
    width = np.ptp(dense.predict_interval(pairs, kind="mean"), axis=1)
    np.testing.assert_allclose(np.ptp(model.predict_interval(pairs, kind="mean"), axis=1), width, rtol=0.04)


def test_draws_of_rows_and_ranks_agree_with_tables(fits):
    _, _, _, model = fits
    table = model.group_effects(coverage=None).set_index(["term", "group"])
    rows = pd.DataFrame({"user": [3, 3, 999], "item": [5, 6, 5], "x": [0.0, 1.0, 2.0]})
    mean, sd = model.predict(rows, return_std=True)
    drawn = model.sample_y(rows, n_samples=400, random_state=0)
    np.testing.assert_array_less(np.abs(drawn.mean(axis=1) - mean), 5 * sd / 20)
    np.testing.assert_allclose(drawn.std(axis=1), sd, rtol=0.15)
    ranks = model.rank_groups(term="1|item")
    of_items = table.loc["1|item"].loc[ranks.index]
    assert len(ranks) == len(of_items)
    np.testing.assert_array_less(np.abs(ranks["mean"] - of_items["mean"]), 5 * of_items["sd"] / 400**0.5)
    assert ranks["expected_rank"].sum() == pytest.approx(len(ranks) * (len(ranks) + 1) / 2)
    assert np.corrcoef(ranks["expected_rank"], of_items["mean"])[0, 1] < -0.9


def test_moment_nodes_have_as_many_draws_as_their_weights_say(fits, monkeypatch):
    _, _, _, model = fits
    monkeypatch.setattr(moment_nodes, "WIDE", 0.09)  # so that some sds are, and weights differ
    posterior = pickle.loads(pickle.dumps(model))._learnt.fitted.posterior
    draws = posterior.group_draws(10_000, np.random.default_rng(0))
    n = len(draws.common)
    assert n >= 250
    laws = list(single_nodes(posterior._laws))
    assert np.ptp([law.weight for law in laws]) > 0.02
    for law in laws:
        is_of_law = np.isclose(draws.variance.sigma, law.sigma * posterior.scaling.y_scale, rtol=1e-9)
        assert abs(is_of_law.sum() - law.weight * n) < 1 + law.weight  # of two roundings, and of n itself


def test_differences_of_groups_are_those_of_the_dense_route(fits):
    _, _, dense, model = fits
    items = model.groups_["item"][:40]
    options = {"factor": "item", "at": "mean"}
    expected, found = (each.compare_groups(items[0], list(items[1:]), **options) for each in (dense, model))
    np.testing.assert_array_less(np.abs(found["mean"] - expected["mean"]), 0.1 * expected["sd"])
    np.testing.assert_allclose(found["sd"], expected["sd"], rtol=0.2)  # from the draws that there are


def test_what_needs_covariances_of_everything_says_what_does_not(fits):
    X, y, _, model = fits
    for function in (loo, waic):
        with pytest.raises(ValueError, match="compare_estimators"):
            function(model, X, y)
    with pytest.raises(ValueError, match="compare_estimators"):
        loo(model, X, y, unit="group", factor="item")
    with pytest.raises(ValueError, match="group_effects_"):
        model.to_datatree()


def test_a_fit_comes_back_from_files(fits):
    X, _, _, model = fits
    mean, sd = model.predict(X[:50], return_std=True)
    for again in (pickle.loads(pickle.dumps(model)), from_json(to_json(model))):
        np.testing.assert_allclose(again.predict(X[:50], return_std=True), (mean, sd), rtol=1e-10)
        pd.testing.assert_frame_equal(again.diagnostics_, model.diagnostics_)
        assert again._learnt.fitted.posterior.is_stochastic


def test_errors_of_probes_are_in_the_diagnostics(fits):
    _, _, _, model = fits
    posterior = model._learnt.fitted.posterior
    values = np.log(posterior.factor[:, [2], [2]])  # items: half of what their log-determinant is off by counts
    shift = posterior.weight @ ((values - posterior.weight @ values) * posterior.probes)
    error = shift.std(ddof=1) / np.sqrt(shift.size)
    np.testing.assert_allclose(posterior.probe_error(values), error, rtol=1e-10)
    assert error > 0
    table = model.diagnostics_
    without = pickle.loads(pickle.dumps(model))
    with pytest.MonkeyPatch.context() as context:
        context.setattr(type(posterior), "probe_error", lambda self, values: 0.0)
        less = without.diagnostics_
    for name in ("mcse_mean", "mcse_sd"):
        assert (table[name] >= less[name]).all()
        assert table.loc["1|item_sigma", name] > less.loc["1|item_sigma", name]


def test_a_fit_whose_probes_are_too_few_warns(monkeypatch):
    monkeypatch.setattr(CrossedPosterior, "probe_error", lambda self, values: 0.2 * values.std(axis=0))
    X, y = ratings(500)
    with pytest.warns(ConvergenceWarning, match="not reliable"):
        PartialPoolingRegressor(group_features=["user", "item"]).fit(X, y)


def test_the_reported_error_of_probes_is_the_true_one(fits, monkeypatch):
    _, _, dense, _ = fits
    posterior = dense._learnt.fitted.posterior
    factor, weight, values = posterior.factor[:8], np.full(8, 0.125), np.log(posterior.factor[:8, 2, 2])
    exact = posterior.model.passes.reduce(factor)[0]
    truth, told = [], []
    for seed in range(12):
        monkeypatch.setattr(
            krylov_passes,
            "probe_columns",
            lambda size, n, seed=seed: np.random.default_rng(seed).choice([-1.0, 1.0], (size, n)),
        )
        passes = krylov_passes.KrylovPasses(posterior.model.sums)
        off = -0.5 * (passes.reduce(factor)[0] - exact)
        by_probe = -0.5 * passes.log_dets_by_probe(factor)
        deviation = weight * (values - weight @ values)
        truth.append(deviation @ off)
        told.append((deviation @ by_probe).std(ddof=1) / 4)
    assert 0.6 < np.sqrt(np.mean(np.square(truth)) / np.mean(np.square(told))) < 1.6


def test_weights_are_copies(monkeypatch):
    X, y = ratings(400)
    weight = np.random.default_rng(0).integers(0, 3, len(y))
    again = np.repeat(np.arange(len(y)), weight)
    model = PartialPoolingRegressor("x + (1 | user) + (1 | item)")
    seen = X.iloc[again]
    weighted = model.fit(X[weight > 0], y[weight > 0], sample_weight=weight[weight > 0])
    weighted = weighted.predict(seen[:50], return_std=True)
    np.testing.assert_allclose(model.fit(seen, y.iloc[again]).predict(seen[:50], return_std=True), weighted, rtol=1e-6)


def test_known_standard_errors(monkeypatch):
    X, y = ratings(400)
    error = np.random.default_rng(0).uniform(0.5, 2.0, len(y))
    model = PartialPoolingRegressor("x + (1 | user) + (1 | item)")
    ours = model.fit(X, y, standard_error=error).predict(X[:50], standard_error=error[:50], return_std=True)
    assert model.inference_ == STOCHASTIC
    monkeypatch.setattr(crossed, "MOST_REMAINING", 4_500)
    mean, sd = model.fit(X, y, standard_error=error).predict(X[:50], standard_error=error[:50], return_std=True)
    np.testing.assert_array_less(np.abs(ours[0] - mean), 0.02 * sd)
    np.testing.assert_allclose(ours[1], sd, rtol=0.01)


def test_long_fits_tell_how_far_they_are(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    X, y = ratings(500)
    PartialPoolingRegressor(group_features=["user", "item"]).fit(X, y)
    assert capsys.readouterr().out == ""
    PartialPoolingRegressor(group_features=["user", "item"], verbose=1).fit(X, y)
    printed = capsys.readouterr().out
    assert "looking for the mode, 1 points so far" in printed
    assert "weighing nodes" in printed


def test_more_levels_than_a_dense_matrix_could_hold(monkeypatch):
    monkeypatch.setattr(crossed, "MOST_REMAINING", 4_500)
    rng = np.random.default_rng(0)
    n, n_users, n_items = 12_000, 6_000, 5_600
    # two blocks of users and items that never meet, and levels that are seen once
    user = rng.permutation(np.append(np.arange(n_users), rng.integers(0, n_users, n - n_users)))
    item = rng.integers(0, n_items // 2, n) + (user % 2) * (n_items // 2)
    X = pd.DataFrame({"user": user, "item": item, "x": rng.normal(size=n)})
    y = rng.normal(size=n) + rng.normal(size=n_users)[user] + rng.normal(size=n_items)[item] + 0.4 * X["x"]
    priors = {"sigma": 1.0, "Intercept": ("Flat", {}), "x": ("Flat", {})}
    priors |= {f"1|{name}": ("Normal", {"mu": 0.0, "sigma": sd}) for name, sd in {"user": 0.8, "item": 1.2}.items()}
    model = PartialPoolingRegressor("x + (1 | user) + (1 | item)", priors=priors).fit(X, y)
    assert model.inference_ == STOCHASTIC
    # Henderson's equations, sparse: intercept, x, users, items
    _, item = np.unique(item, return_inverse=True)
    n_items = item.max() + 1
    one = np.ones(n)
    at = (np.tile(np.arange(n), 4), np.concatenate([0 * user, 0 * user + 1, 2 + user, 2 + n_users + item]))
    columns = sp.csr_array((np.concatenate([one, X["x"], one, one]), at), shape=(n, 2 + n_users + n_items))
    penalty = np.concatenate([[0.0, 0.0], np.full(n_users, 0.8**-2.0), np.full(n_items, 1.2**-2.0)])
    system = splu((columns.T @ columns + sp.diags_array(penalty)).tocsc())
    some = columns[:50].toarray()
    mean, sd = model.predict(X[:50], return_std=True)
    np.testing.assert_allclose(mean, some @ system.solve(columns.T @ y.to_numpy()), atol=1e-4)
    np.testing.assert_allclose(sd, np.sqrt(1.0 + np.sum(some * system.solve(some.T).T, axis=1)), rtol=0.01)
