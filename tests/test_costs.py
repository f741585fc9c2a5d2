"""What answers cost, in work that is counted (calls, shapes, bytes), never in time."""

import pickle

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone

from hbsk import JamesSteinEstimator, PartialPoolingClassifier, PartialPoolingRegressor, from_json, to_json
from hbsk._data import labels as _labels
from hbsk._data import table as _table
from hbsk._data.labels import GroupFactor
from hbsk._engine import common_coefficients, marginal
from hbsk._engine import common_roots as _common_roots
from hbsk._estimators import answers
from hbsk._model import design
from hbsk._posterior import group_moments as _group_moments
from hbsk._posterior.integrated import fit_marginal
from hbsk._posterior.no_pooling import fit_no_pooling
from hbsk._posterior.nodes import MarginalPosterior
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


def test_tables_are_computed_once_for_each_fit(data, monkeypatch):
    calls = []
    for name in ("group_effect_table", "sd_series", "correlation_frames", "shrinkage_frames", "diagnose_fit"):
        function = getattr(answers, name)
        monkeypatch.setattr(
            answers,
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


def test_kept_tables_are_in_no_pickle_document_or_clone(data):
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
    posterior = model._learnt.fitted.posterior
    asked = []
    inverse = MarginalPosterior._inverse
    monkeypatch.setattr(
        MarginalPosterior,
        "_inverse",
        lambda self, groups, *nodes: asked.append(groups) or inverse(self, groups, *nodes),
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
    posterior = fit_no_pooling(fit.model, fit.posterior.scaling, fit.posterior.has_intercept).known
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
    monkeypatch.setattr("hbsk._posterior.nodes.BLOCK_ELEMENTS", 1)  # as if there were a hundred thousand
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


# Common columns


def many_columns(rng, n=800, p=38, n_groups=12):
    """Columns of all kinds: of group level, hardly different from each other, on other scales."""
    codes = rng.integers(0, n_groups, n)
    X = pd.DataFrame(rng.normal(size=(n, p)), columns=[f"c{i}" for i in range(p)])
    X["c0"] = rng.normal(size=n_groups)[codes]
    X["c1"] = X["c2"] + 1e-3 * X["c1"]
    X["c3"] *= 1e5
    y = X["c0"] + X["c2"] + X["c4"] + rng.normal(size=n_groups)[codes] + rng.normal(size=n)
    return X.assign(g=codes), y


PRIORS = {
    "default": None,
    "tight": {"common": ("Normal", {"mu": 0.3, "sigma": 0.05})},
    "flat": {"common": ("Flat", {})},
    "a fixed sd": {"sigma": 1.1},
}


@pytest.mark.parametrize("priors", PRIORS)
def test_triangles_give_the_posterior_of_eigenvalues(rng, monkeypatch, priors):
    X, y = many_columns(rng)
    model = PartialPoolingRegressor("y ~ " + " + ".join(X.columns[:-1]) + " + (1 + c5 | g)", priors=PRIORS[priors])
    model.fit(X, y)
    found = model._learnt.fitted.posterior
    theta = 0.3 * rng.normal(size=(30, model._learnt.fitted.model.parameters.n_dim))
    log_density = model._learnt.fitted.model.evaluate(theta).log_density
    for module in (common_coefficients, marginal, _common_roots):
        monkeypatch.setattr(module, "COLUMNS_FOR_TRIANGLES", 1_000)
    model.fit(X, y)
    exact = model._learnt.fitted.posterior
    mean, covariance = exact.common_moments()
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(found.common_estimates(), mean, atol=1e-4 * sd.min(), rtol=1e-4)
    np.testing.assert_allclose(np.sqrt(np.diag(found.common_moments()[1])), sd, rtol=1e-4)
    for name in ("group_sd", "correlation"):
        of_found, of_exact = (getattr(p.variance_nodes(), name)[0] for p in (found, exact))
        for power in (1, 2):
            moments = [np.tensordot(p.weight, v**power, 1) for p, v in ((found, of_found), (exact, of_exact))]
            np.testing.assert_allclose(*moments, rtol=2e-4, atol=1e-4)
    difference = log_density - model._learnt.fitted.model.evaluate(theta).log_density
    assert np.ptp(difference) < 2 * common_coefficients.LEFT_OUT


def test_moments_at_a_node_of_many_columns_are_those_of_the_dense_law(rng):
    X, y = many_columns(rng)
    model = PartialPoolingRegressor("y ~ " + " + ".join(X.columns[:-1]) + " + (1 | g)").fit(X, y)
    posterior, scaling = model._learnt.fitted.posterior, model._learnt.fitted.posterior.scaling
    node = int(np.argmax(posterior.weight))
    sigma = posterior.variance_nodes().sigma[node]
    tau = posterior.variance_nodes().group_sd[0][node, 0]
    # b given sigma and tau from the covariance of all rows, columns less their means, priors as Bambi states them
    columns = (X.drop(columns="g") - X.drop(columns="g").mean()).to_numpy()
    design = np.column_stack([np.ones(len(X)), columns])
    names = ["Intercept", *X.columns[:-1]]
    prior_mean = np.array([model.priors_[name][1]["mu"] for name in names])
    prior_sd = np.array([model.priors_[name][1]["sigma"] for name in names])
    noise = sigma**2 * np.eye(len(X)) + tau**2 * (X["g"].to_numpy()[:, None] == X["g"].to_numpy())
    weighted = np.linalg.solve(noise, np.column_stack([design, y]))
    information = design.T @ weighted[:, :-1] + np.diag(prior_sd**-2.0)
    wanted = np.linalg.inv(information)
    mean = wanted @ (design.T @ weighted[:, -1] + prior_mean / prior_sd**2)
    unit = scaling.y_scale / scaling.x_scale
    found = posterior.roots(np.array([node]))[0] * unit[:, None]
    sd = np.sqrt(np.diag(wanted))
    np.testing.assert_allclose(found @ found.T / np.outer(sd, sd), wanted / np.outer(sd, sd), rtol=1e-6, atol=1e-7)
    slopes = posterior.common_mean[node, 1:] * unit[1:]
    np.testing.assert_allclose(slopes, mean[1:], atol=1e-6 * sd.min(), rtol=1e-6)


def test_nothing_of_nodes_times_columns_squared_is_stored_or_held(rng, monkeypatch):
    X, y = many_columns(rng, n=800, p=60)
    model = PartialPoolingRegressor(group_features="g").fit(X, y)
    posterior = model._learnt.fitted.posterior
    p = posterior.common_mean.shape[1]
    assert len(pickle.dumps(model)) < 8 * (4 * posterior.n_nodes * p + 40 * p**2)
    shapes = []
    near = common_coefficients.ConditionalCommon.near

    def recorded(reduced, *args):
        shapes.append(reduced.shape)
        return near(reduced, *args)

    monkeypatch.setattr(common_coefficients.ConditionalCommon, "near", recorded)
    answers = {}
    for held in (2**20, 3 * (p + 1) ** 2):
        for module in (marginal, _common_roots):
            monkeypatch.setattr(module, "HELD_NUMBERS", held)
        shapes.clear()
        model.fit(X, y)
        assert max(np.prod(shape) for shape in shapes) <= held
        posterior = model._learnt.fitted.posterior
        answers[held] = [
            *model.predict(X[:30], return_std=True),
            model.predict_interval(X[:30]),
            posterior.common_mixture()[1],
            model.sample_y(X[:5], n_samples=3, random_state=1),
            model.group_effects_["sd"].to_numpy(),
        ]
        assert held == 2**20 or "common_root" not in vars(posterior)
    for one, other in zip(*answers.values(), strict=True):
        # each block has a residual sd of its own near which its density is exact
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("pooling", ["partial", "complete", "none"])
def test_a_fit_that_comes_back_computes_the_same_bits(rng, pooling):
    X, y = many_columns(rng, n=300, p=35)
    model = PartialPoolingRegressor(group_features="g", pooling=pooling).fit(X, y)
    for other in (pickle.loads(pickle.dumps(model)), from_json(to_json(model))):
        np.testing.assert_array_equal(other.predict(X, return_std=True), model.predict(X, return_std=True))
        np.testing.assert_array_equal(other.predict_interval(X[:5]), model.predict_interval(X[:5]))


def test_a_pickle_of_a_few_groups_is_small(rng):
    X = pd.DataFrame({"g": np.repeat(np.arange(24), 20), "x": rng.normal(size=480)})
    y = X["x"] * (1 + 0.5 * rng.normal(size=24)[X["g"]]) + rng.normal(size=24)[X["g"]] + rng.normal(size=480)
    model = PartialPoolingRegressor(group_features="g", slope_features=["x"]).fit(X, y)
    assert model._learnt.fitted.posterior.n_nodes >= 1_024
    assert len(pickle.dumps(model)) < 200_000 * model._learnt.fitted.posterior.n_nodes / 2_048


def test_levels_of_a_column_are_encoded_once_for_a_fit(rng, monkeypatch):
    X = pd.DataFrame({"c": rng.choice(["u", "v", "w"], 60), "g": rng.choice(list("abcde"), 60), "h": np.arange(60) % 4})
    looked_at = []
    encode = design.encode_texts
    monkeypatch.setattr(design, "encode_texts", lambda *of: looked_at.append(of[3]) or encode(*of))
    PartialPoolingClassifier("c + (1 | g)").fit(X, np.arange(60) % 2)
    assert looked_at == ["c"]
    PartialPoolingRegressor("c + (1 | g) + (1 | h)").fit(X, rng.normal(size=60))  # which asks for designs three times
    assert looked_at == ["c", "c"]


@pytest.mark.parametrize(
    "estimator", [PartialPoolingRegressor("y ~ c0 + (1 | g)"), JamesSteinEstimator(group_features="g")]
)
def test_columns_that_are_not_used_are_not_taken_out_of_a_frame_one_by_one(rng, monkeypatch, estimator):
    X = pd.DataFrame(rng.normal(size=(60, 200))).add_prefix("c").assign(g=rng.integers(0, 6, 60))
    X["flag"], X["text"] = X["c1"] > 0, "a"
    model = clone(estimator).fit(X, X["c0"] + rng.normal(size=60))
    taken = []
    plain = _table.plain_column
    monkeypatch.setattr(_table, "plain_column", lambda column, name: taken.append(name) or plain(column, name))
    model.predict(X[:1])
    assert len(taken) <= 2
    assert not {"c1", "flag"} & set(taken)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["float32", "float64", "Float64", "object"])
def test_columns_that_are_looked_at_together_are_named_where_they_are_at_fault(rng, bad, kind):
    X = pd.DataFrame(rng.normal(size=(60, 50))).add_prefix("c").assign(g=rng.integers(0, 6, 60))
    model = JamesSteinEstimator(group_features="g").fit(X, rng.normal(size=60))
    X["c0"] = 1e308  # sums overflow, and no number is at fault
    model.predict(X)
    X["c7"] = X["c7"].mask(X.index == 3, bad).astype(kind)
    with pytest.raises(ValueError, match="c7"):
        model.predict(X)


def test_complex_columns_and_dates_are_refused_beside_many_numbers(rng):
    X = pd.DataFrame(rng.normal(size=(60, 50))).add_prefix("c").assign(g=rng.integers(0, 6, 60))
    model = JamesSteinEstimator(group_features="g").fit(X, rng.normal(size=60))
    with pytest.raises(ValueError, match="Complex data not supported"):
        model.predict(X.assign(c9=X["c9"] + 1j))
    with pytest.raises(TypeError, match="'c9' of X has dtype datetime64"):
        model.predict(X.assign(c9=pd.Timestamp("2026-01-01")))
