"""What changes no answer of PartialPoolingRegressor: other labels, order, copies of rows, a second fit, a pickle."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

import hbsk
from hbsk import PartialPoolingRegressor
from hbsk.datasets import load_radon
from tests.grouped_data import seven_lines, seven_lines_fit


@pytest.fixture(scope="module")
def data():
    return seven_lines()


# Labels and order


def test_order_of_rows_changes_nothing_where_groups_are_alike_and_errors_small(rng):
    # Common columns explain nearly all, the start of the search is far from the mode, and on the way to it correlations
    # near one used to catch it.
    n = 60
    g, a = np.r_[np.arange(40), rng.integers(0, 40, n - 40)], rng.standard_normal(n)
    X, y = pd.DataFrame({"a": a, "g": g}), 1 + a + 1e-3 * rng.standard_normal(n)
    model = PartialPoolingRegressor(group_features="g", slope_features=["a"])
    sds = []
    for order in (np.arange(n), rng.permutation(n)):
        model.fit(X.iloc[order], y[order], standard_error=1e-3 * np.std(y))
        assert model.inference_.startswith("marginal (exact for one grouping factor)")
        sds.append(model.group_sd_["g"].to_numpy())
    np.testing.assert_allclose(sds[0], sds[1], rtol=1e-7)
    assert np.all(sds[0] < 2e-3)


def test_sds_beyond_all_bounds_are_not_taken_for_a_perfect_fit():
    # Two groups and three varying terms leave sds nearly free: nodes reach 1e12 residual sds, where rounding alone
    # decides what is left of y.
    rng = np.random.default_rng(2)
    n = 150
    g = np.r_[0, 1, rng.integers(0, 2, n - 2)]
    a, b = rng.standard_normal((2, n))
    X, effects = pd.DataFrame({"a": a, "b": b, "g": g}), rng.standard_normal((2, 3))
    y = 1 + a - b + effects[g, 0] + effects[g, 1] * a + effects[g, 2] * b + 1e-3 * rng.standard_normal(n)
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(n)
        model = PartialPoolingRegressor(group_features="g", slope_features=["a", "b"]).fit(X.iloc[order], y[order])
        assert model.inference_.startswith("marginal (exact for one grouping factor)")
        assert model.sigma_ == pytest.approx(1e-3, rel=0.2)


def test_relabelled_groups_change_nothing_but_names(data):
    (X, y), fitted = data, seven_lines_fit()
    renamed = {"a": 10.0, "b": 3.0, "c": 7.0, "k": 1.0, "m": 8.0, "q": 0.0, "z": 2.0}
    model = PartialPoolingRegressor(group_features="g", slope_features=["x"]).fit(X.assign(g=X["g"].map(renamed)), y)
    np.testing.assert_allclose(model.predict(X.assign(g=X["g"].map(renamed))), fitted.predict(X), rtol=1e-9)
    mine = model.group_effects_.set_index(["group", "term"])["sd"]
    theirs = fitted.group_effects_.set_index(["group", "term"])["sd"]
    for (group, term), value in theirs.items():
        assert mine[renamed[group], term] == pytest.approx(value, rel=1e-9)


def test_row_order_does_not_matter(data, rng):
    (X, y), fitted = data, seven_lines_fit()
    order = rng.permutation(60)
    model = clone(fitted).fit(X.iloc[order], y[order])
    # the search for the mode ends within 1e-10, so do answers
    np.testing.assert_allclose(model.predict(X), fitted.predict(X), rtol=1e-9)
    np.testing.assert_allclose(model.predict_interval(X), fitted.predict_interval(X), rtol=1e-9)


# Weights and known errors


@pytest.mark.parametrize("pooling", ["partial", "complete", "none"])
@pytest.mark.parametrize("errors", [False, True])
def test_weights_are_copies_of_rows(data, rng, pooling, errors):
    X, y = data
    weight = rng.integers(0, 4, 60)
    weight[X["g"].isin(["k", "b"])] += 1  # no group vanishes
    rows = np.repeat(np.arange(60), weight)
    error = rng.uniform(0.4, 1.2, 60) if errors else None
    known = {} if not errors else {"standard_error": error}
    copied = {} if not errors else {"standard_error": error[rows]}
    model = PartialPoolingRegressor(group_features="g", slope_features=["x"], pooling=pooling)
    weighted = clone(model).fit(X, y, sample_weight=weight, **known)
    repeated = clone(model).fit(X.iloc[rows], y[rows], **copied)
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-8)
    ends = {"kind": "mean", "coverage": 0.6}
    np.testing.assert_allclose(weighted.predict_interval(X, **ends), repeated.predict_interval(X, **ends), rtol=1e-7)
    for name, prior in weighted.priors_.items():
        assert str(prior)[:12] == str(repeated.priors_[name])[:12]
    if pooling == "partial":
        np.testing.assert_allclose(weighted.group_effects_["n"], repeated.group_effects_["n"])
        np.testing.assert_allclose(weighted.group_effects_["sd"], repeated.group_effects_["sd"], rtol=1e-7)


def test_weight_zero_is_leaving_out(data):
    X, y = data
    weight = np.ones(60)
    weight[X["g"] == "m"] = 0.0
    model = PartialPoolingRegressor(group_features="g").fit(X, y, sample_weight=weight)
    assert "m" not in model.groups_["g"]
    kept = weight > 0
    np.testing.assert_allclose(
        model.predict(X), PartialPoolingRegressor(group_features="g").fit(X[kept], y[kept]).predict(X), rtol=1e-9
    )
    with pytest.raises(ValueError, match="'m'"):
        PartialPoolingRegressor(group_features="g", unknown_groups="error").fit(X, y, sample_weight=weight).predict(X)


def test_equal_known_errors_are_a_fixed_sigma(data):
    X, y = data
    known = PartialPoolingRegressor(group_features="g").fit(X, y, standard_error=np.full(60, 0.7))
    fixed = PartialPoolingRegressor(group_features="g", priors={"sigma": 0.7} | dict(known.priors_)).fit(X, y)
    error = np.full(60, 0.7)
    for mine, theirs in zip(
        known.predict(X, return_std=True, standard_error=error), fixed.predict(X, return_std=True), strict=True
    ):
        # nodes lie elsewhere, so the answers differ by Monte Carlo error
        np.testing.assert_allclose(mine, theirs, atol=0.02 * 0.7)
    assert np.isnan(known.sigma_)


# Determinism, copies, pickles


def test_a_fit_gives_the_same_bits_twice(data):
    (X, y), fitted = data, seven_lines_fit()
    again = clone(fitted).fit(X, y)
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))
    np.testing.assert_array_equal(again.predict_interval(X), fitted.predict_interval(X))
    pd.testing.assert_frame_equal(again.diagnostics_, fitted.diagnostics_)


def test_fit_changes_no_parameter_and_predict_no_attribute(data):
    X, y = data
    model = PartialPoolingRegressor(
        group_features=["g"], slope_features=["x"], priors={"sigma": 0.9}, random_state=np.random.RandomState(3)
    )
    before = {
        name: value if name == "random_state" else pickle.loads(pickle.dumps(value))
        for name, value in model.get_params().items()
    }
    model.fit(X, y)
    assert model.get_params() == before
    fitted = clone(seven_lines_fit()).fit(X, y)
    learnt = pickle.dumps(fitted)
    fitted.predict(X, return_std=True)
    fitted.sample_y(X[:2], random_state=1)
    fitted.summary()
    fitted.group_effects()
    assert pickle.dumps(fitted) == learnt


def test_fit_leaves_the_data_alone(data):
    X, y = data
    kept, kept_y = X.copy(deep=True), y.copy()
    PartialPoolingRegressor(group_features="g", slope_features="all").fit(X, y, sample_weight=np.ones(60)).predict(X)
    pd.testing.assert_frame_equal(X, kept)
    np.testing.assert_array_equal(y, kept_y)


def test_pickles_are_small_and_predict_the_same_bits_elsewhere(tmp_path):
    X, y = load_radon(return_X_y=True, as_frame=True)
    X = X[["county", "floor"]]
    model = PartialPoolingRegressor(group_features="county", slope_features=["floor"]).fit(X, y)
    pickled = pickle.dumps(model)
    # 919 rows; what is stored is a few numbers a group and a node
    assert len(pickled) < 150_000
    X10, y10 = pd.concat([X] * 30, ignore_index=True), pd.concat([y] * 30, ignore_index=True)
    assert len(pickle.dumps(clone(model).fit(X10, y10))) < 1.2 * len(pickled)
    (tmp_path / "model.pkl").write_bytes(pickled)
    X[:50].assign(county=[*X["county"][:49], "elsewhere"]).to_pickle(tmp_path / "rows.pkl")
    code = """
import pickle, sys
import numpy as np
rows = pickle.load(open("rows.pkl", "rb"))
model = pickle.load(open("model.pkl", "rb"))
answers = [*model.predict(rows, return_std=True), model.predict_interval(rows), model.sample_y(rows, random_state=4)]
np.save("found.npy", np.column_stack(answers))
heavy = {"bambi", "pymc", "pytensor", "arviz", "matplotlib", "formulae"} & set(sys.modules)
assert not heavy, heavy
"""
    package = Path(hbsk.__file__).parents[1]
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        check=True,
        env=os.environ | {"PYTHONPATH": str(package)},
    )
    rows = pd.read_pickle(tmp_path / "rows.pkl")
    wanted = np.column_stack(
        [*model.predict(rows, return_std=True), model.predict_interval(rows), model.sample_y(rows, random_state=4)]
    )
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), wanted)
