"""What answers cost, in work that is counted (calls, shapes, bytes), never in time."""

import pickle

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone

from hbsk import PartialPoolingRegressor, _answers, _group_moments, _labels, from_json, to_json
from hbsk._labels import GroupFactor
from hbsk._marginal_fit import fit_marginal
from hbsk._no_pooling import fit_no_pooling
from hbsk._posterior import MarginalPosterior
from tests.dense import make_priors, make_problem

KEPT = ["group_effects_", "group_sd_", "group_correlation_", "shrinkage_", "diagnostics_"]


@pytest.fixture
def data(rng):
    n = 120
    X = pd.DataFrame({"g": rng.integers(0, 8, n), "x": rng.normal(size=n)})
    return X, X["x"] + rng.normal(size=8)[X["g"]] + 0.5 * rng.normal(size=n)


def parts(answer):
    return answer.values() if isinstance(answer, dict) else [answer]


# Kept answers


def test_answers_are_computed_once_for_each_fit(data, monkeypatch):
    calls = []
    for name in ("group_effect_table", "sd_series", "correlation_frames", "shrinkage_frames", "diagnose_fit"):
        function = getattr(_answers, name)
        monkeypatch.setattr(
            _answers,
            name,
            lambda *args, name=name, function=function, **kw: calls.append(name) or function(*args, **kw),
        )
    model = PartialPoolingRegressor(group_features="g", slope_features=["x"]).fit(*data)
    calls.clear()
    first = {name: getattr(model, name) for name in KEPT}
    assert len(calls) == len(set(calls)) == len(KEPT)
    for name in KEPT:
        for part, again in zip(parts(first[name]), parts(getattr(model, name)), strict=True):
            assert again.equals(part)
    assert len(calls) == len(KEPT)
    X, y = data
    model.fit(X[:60], y[:60])
    assert not model.group_effects_.equals(first["group_effects_"])


@pytest.mark.parametrize("name", KEPT)
def test_changing_an_answer_changes_no_other(data, name):
    model = PartialPoolingRegressor(group_features="g", slope_features=["x"]).fit(*data)
    untouched = [part.copy() for part in parts(getattr(model, name))]
    answer = getattr(model, name)
    for part in parts(answer):
        part.iloc[0] = part.iloc[-1].to_numpy() if part.ndim == 2 else -1.0
    if isinstance(answer, dict):
        answer.clear()
    for part, wanted in zip(parts(getattr(model, name)), untouched, strict=True):
        assert part.equals(wanted)


def test_kept_answers_are_in_no_pickle_document_or_clone(data):
    model = PartialPoolingRegressor(group_features="g", slope_features=["x"]).fit(*data)
    pickled, document = pickle.dumps(model), to_json(model)
    for name in KEPT:
        getattr(model, name)
    model.predict(data[0], return_std=True)
    model.predict_interval(data[0])
    assert len(pickle.dumps(model)) == len(pickled)
    assert to_json(model) == document
    for other in (pickle.loads(pickle.dumps(model)), from_json(document)):
        assert other.group_effects_.equals(model.group_effects_)
    with pytest.raises(AttributeError):
        _ = clone(model).group_effects_


# Groups


@pytest.mark.parametrize("q", [1, 2])
def test_moments_of_groups_of_one_design_sum_over_nodes_once(rng, monkeypatch, q):
    # three designs among 40 groups; means, covariances and those with common coefficients are what groups give alone
    n_groups = 40
    codes = np.concatenate([np.repeat(j, 2 + j % 3) for j in range(n_groups)])
    within = np.concatenate([np.arange(2 + j % 3) for j in range(n_groups)])
    X = pd.DataFrame({"g": codes, "t": within - 1.0, "w": 3 * rng.normal(size=len(codes))})
    y = 1e-4 * rng.normal(size=len(codes)) + 2 * X["w"] + rng.normal(size=n_groups)[codes]
    model = PartialPoolingRegressor("y ~ t + w + (1 | g)" if q == 1 else "y ~ t + w + (t | g)").fit(X, y)
    posterior = model._fitted.posterior
    asked = []
    inverse = MarginalPosterior._inverse
    monkeypatch.setattr(
        MarginalPosterior, "_inverse", lambda self, groups: asked.append(groups) or inverse(self, groups)
    )
    found = _group_moments.effect_moments(posterior, need_covariance=True)
    assert sum(map(len, asked)) == 3
    asked.clear()
    kept = posterior.shrinkage()
    assert sum(map(len, asked)) == 3
    np.testing.assert_allclose(kept, kept[np.arange(n_groups) % 3], rtol=1e-12)
    alone = _group_moments._moments_by_group(posterior, True)
    for name in ("mean", "covariance", "with_common"):
        wanted = getattr(alone, name)
        np.testing.assert_allclose(getattr(found, name), wanted, rtol=1e-8, atol=1e-9 * np.abs(wanted).max())
    mean = _group_moments.effect_moments(posterior, need_covariance=False).mean
    np.testing.assert_allclose(mean, found.mean, rtol=1e-12)


@pytest.mark.parametrize("n_varying", [1, 2])
def test_moments_without_pooling_need_no_nodes_beside_groups(rng, monkeypatch, n_varying):
    problem = make_problem(rng, n_rows=60, q=n_varying)
    fit = fit_marginal(problem.collect(), make_priors(rng, problem))
    posterior = fit_no_pooling(fit.model, fit.posterior.scaling, fit.posterior.has_intercept)
    alone = _group_moments._moments_by_group(posterior, True)
    monkeypatch.setattr(
        type(posterior), "_inverse", lambda *args: pytest.fail("an array of nodes times groups was made")
    )
    found = posterior._effects_with_spread
    for name in ("mean", "covariance", "with_common"):
        wanted = getattr(alone, name)
        np.testing.assert_allclose(getattr(found, name), wanted, rtol=1e-9, atol=1e-11 * np.abs(wanted).max())
    rows = rng.integers(0, posterior.n_groups[0], 4)
    x, z = rng.normal(size=(4, problem.X.shape[1])), rng.normal(size=(4, n_varying))
    monkeypatch.setattr("hbsk._posterior.BLOCK_ELEMENTS", 1)  # as if there were a hundred thousand
    posterior.row_moments(x, [z], [rows])


def test_labels_that_are_known_are_not_gathered_first(rng, monkeypatch):
    labels = np.array([f"label {i}" for i in range(500)], dtype=object)
    factor, codes = GroupFactor.learn("g", [labels])
    drawn = rng.integers(0, 500, 2_000)
    mixed = labels[drawn].copy()
    mixed[[3, 70, 71]] = ["new", None, "new"]
    wanted = codes[drawn]
    gathered = []
    factorize = _labels._factorize_of
    monkeypatch.setattr(
        _labels, "_factorize_of", lambda name, columns: gathered.append(len(columns[0])) or factorize(name, columns)
    )
    for values in (labels[drawn], pd.Series(labels[drawn]), pd.Series(labels[drawn], dtype="category")):
        np.testing.assert_array_equal(factor.encode(values), wanted)
    assert not gathered
    wanted[[3, 71]], wanted[70] = 500, 501
    np.testing.assert_array_equal(factor.encode(mixed), wanted)
    assert sum(gathered) == 3


# Columns that no term uses


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_columns_that_no_term_uses_are_not_touched(rng, monkeypatch, library):
    X = pd.DataFrame(rng.normal(size=(60, 300)), columns=[f"c{i}" for i in range(300)])
    X["g"] = np.arange(60) % 6
    y = X["c7"] + rng.normal(size=60)
    model = PartialPoolingRegressor("y ~ c7 + (1 | g)").fit(X, y)
    if library == "polars":
        X = pl.from_pandas(X)
        model.fit(X, y)
    taken = []
    owner, method = (pd.DataFrame, "_ixs") if library == "pandas" else (nw.DataFrame, "get_column")
    original = getattr(owner, method)
    monkeypatch.setattr(
        owner, method, lambda self, *args, **kw: taken.append(args) or original(self, *args, **kw), raising=True
    )
    model.predict(X[:1])
    assert len(taken) <= 4
