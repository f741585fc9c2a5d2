"""Nested factors by recursion: against the Schur complement, a dense matrix, and one factor."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from hbsk import PartialPoolingRegressor
from hbsk._engine import crossed
from hbsk._engine.crossed_passes import CrossedPasses
from hbsk._engine.group_passes import GroupPasses
from hbsk._engine.nested_passes import NestedPasses
from hbsk._posterior.crossed_draws import DrawnNodes, draw_effects
from hbsk._posterior.crossed_laws import KnownRows, NodeLaw, levels_at_node, rows_at_node
from hbsk.model_selection import loo
from tests.test_crossed_engine import (
    Rows,
    assert_gradient_equals_differences,
    dense_columns,
    dense_lambda,
    random_points,
)

CHAINS = [
    ((5, 20), (1, 1)),
    ((40, 12, 4), (1, 1, 1)),
    ((4, 40, 12), (1, 2, 3)),
    ((12, 40, 5), (2, 1, 2)),
    ((60, 20, 8, 3), (1, 2, 1, 2)),
]


def nested_rows(n_levels, n_varying, n=300):
    """Rows of factors of which those with more levels are nested in those with fewer; parents in no order."""
    rows, rng = Rows(n_levels, n_varying, n=n), np.random.default_rng(1)
    order = sorted(range(len(n_levels)), key=lambda f: -n_levels[f])
    for f, g in pairwise(order):
        parent = rng.permutation(
            np.append(np.arange(n_levels[g]), rng.integers(0, n_levels[g], n_levels[f] - n_levels[g]))
        )
        rows.codes[g] = parent[rows.codes[f]]
    return rows


@pytest.fixture(params=CHAINS, ids=str)
def chain(request):
    n_levels, n_varying = request.param
    rows = nested_rows(n_levels, n_varying)
    model, scalings = rows.model()
    _, points = random_points(model, 4)
    return rows, model, scalings, points.relative_factor


def test_recursion_equals_the_schur_complement(chain):
    _, model, _, factor = chain
    assert isinstance(model.passes, NestedPasses)
    schur = CrossedPasses(model.sums)
    log_det, reduced = model.passes.reduce(factor)
    expected_log_det, expected = schur.reduce(factor)
    size = np.sqrt(np.einsum("mkk->mk", expected))
    np.testing.assert_allclose(log_det, expected_log_det, rtol=1e-13)
    np.testing.assert_allclose((reduced - expected) / (size[:, :, None] * size[:, None]), 0.0, atol=1e-12)
    adjoint = np.random.default_rng(0).normal(size=(4, 4, 4))
    adjoint = adjoint @ adjoint.swapaxes(1, 2)
    gradient = schur.factor_gradient(factor, adjoint)
    ours = model.passes.factor_gradient(factor, adjoint)
    np.testing.assert_allclose(ours, gradient, atol=1e-12 * np.abs(gradient).max())


def test_gradient_equals_differences(chain):
    _, model, _, _ = chain
    assert_gradient_equals_differences(model, random_points(model, 2)[0], tolerance=5e-7)


def test_a_gradient_takes_what_the_evaluation_found(chain, monkeypatch):
    _, model, _, factor = chain
    passes, adjoint = model.passes, np.eye(4) + np.zeros((4, 4, 4))
    alone, stages, calls = passes.factor_gradient(factor, adjoint), passes._stages, []
    monkeypatch.setattr(passes, "_stages", lambda *args: calls.append(1) or stages(*args))
    with passes.kept(len(factor)):
        passes.reduce(factor)
        passes.reduce(factor[:2])
        np.testing.assert_array_equal(passes.factor_gradient(factor, adjoint), alone)
    assert len(calls) == 2
    passes.factor_gradient(factor, adjoint)
    assert len(calls) == 3


def test_what_no_effects_explain_is_that_of_least_squares(chain):
    rows, model, scalings, _ = chain
    Z, X, y = dense_columns(rows, scalings)
    columns = np.column_stack([X, y])
    left = columns - Z @ np.linalg.lstsq(Z, columns)[0]
    for passes in (model.passes, CrossedPasses(model.sums)):
        np.testing.assert_allclose(passes.within, left.T @ left, atol=1e-9)


def dense_law(rows, model, scalings, factor):
    """Phi of all effects and Phi B, and where those of each factor begin."""
    Z, X, y = dense_columns(rows, scalings)
    scaled = dense_lambda(rows, factor, model.sums.columns)
    phi = scaled @ np.linalg.inv(np.eye(len(scaled)) + scaled.T @ Z.T @ Z @ scaled) @ scaled.T
    sizes = [n * z.shape[1] for n, z in zip(rows.n_groups, rows.Z, strict=True)]
    return phi, phi @ Z.T @ np.column_stack([X, y]), np.cumsum([0, *sizes])


def test_rows_and_levels_equal_a_dense_inverse_in_any_mixture_of_levels(chain):
    rows, model, scalings, factor = chain
    phi, solved, starts = dense_law(rows, model, scalings, factor[0])
    rng, n = np.random.default_rng(5), 400
    codes = [rng.integers(0, levels + 2, n) for levels in rows.n_groups]  # classes of other schools, and new ones
    for code, own in zip(codes, rows.codes, strict=True):
        code[:200] = own[:200]
    z = [rng.normal(size=(n, part.shape[1])) for part in rows.Z]
    x, mean, root = rng.normal(size=(n, 3)), rng.normal(size=3), rng.normal(size=(3, 3))
    law = NodeLaw(1.0, 0.7, factor[0], mean, root, model.passes.effects(factor[0]))
    ours, variance = rows_at_node(law, model.passes, KnownRows.of(x, z, codes, rows.n_groups))
    loads, fresh = np.zeros((n, len(phi))), np.zeros(n)
    for f, at in enumerate(model.sums.columns):
        known, q = codes[f] < rows.n_groups[f], z[f].shape[1]
        for k in range(q):
            loads[np.flatnonzero(known), starts[f] + codes[f][known] * q + k] = z[f][known, k]
        fresh[~known] += np.sum((z[f][~known] @ factor[0, at, at]) ** 2, axis=1)
    reach = x - loads @ solved[:, :-1]
    np.testing.assert_allclose(ours, loads @ solved[:, -1] + reach @ mean, atol=1e-11)
    expected = np.sum((reach @ root) ** 2, axis=1) + 0.49 * (np.sum((loads @ phi) * loads, axis=1) + fresh)
    np.testing.assert_allclose(variance, expected, rtol=1e-11)
    for f, n_levels in enumerate(rows.n_groups):
        levels, q = levels_at_node(law, model.passes, f), z[f].shape[1]
        at = starts[f] + np.arange(n_levels * q).reshape(n_levels, q)
        np.testing.assert_allclose(levels.phi, phi[at[:, :, None], at[:, None]], atol=1e-12)
        np.testing.assert_allclose(levels.mean, solved[at, -1] - solved[at, :-1] @ mean, atol=1e-11)


def test_draws_have_the_moments_of_a_dense_inverse():
    rows = nested_rows((4, 40, 12), (1, 2, 1))
    model, scalings = rows.model()
    factor = random_points(model, 1)[1].relative_factor[0]
    phi, solved, starts = dense_law(rows, model, scalings, factor)
    common, n = np.array([0.3, -1.0, 2.0]), 20_000
    codes = [np.array([0, 3, 2]), np.array([3, 0, 39, 40]), np.array([5, 5, 0])]
    nodes = DrawnNodes(np.full(n, 0.7), np.tile(factor, (n, 1, 1)), None, None, factor[None], np.zeros(n, dtype=int))
    drawn = draw_effects(model.passes, nodes, np.tile(common, (n, 1)), np.random.default_rng(0), codes, 1e6)
    q = [z.shape[1] for z in rows.Z]
    at = [starts[f] + np.concatenate([c * q[f] + k for c in code if c < rows.n_groups[f] for k in range(q[f])])
          for f, code in enumerate([[*map(np.atleast_1d, code)] for code in codes])]  # fmt: skip
    at = np.concatenate(at)
    ours = np.concatenate([drawn[0].reshape(n, -1), drawn[1][:, :3].reshape(n, -1), drawn[2].reshape(n, -1)], axis=1)
    sd = 0.7 * np.sqrt(np.diag(phi))[at]
    np.testing.assert_array_less(np.abs(ours.mean(0) - solved[at, -1] + solved[at, :-1] @ common), 5 * sd / n**0.5)
    np.testing.assert_allclose(
        np.cov(ours.T) / np.outer(sd, sd), 0.49 * phi[np.ix_(at, at)] / np.outer(sd, sd), atol=0.04
    )
    fresh = factor[1:3, 1:3] @ factor[1:3, 1:3].T * 0.49
    np.testing.assert_allclose(np.cov(drawn[1][:, 3].T), fresh, atol=0.04 * fresh.max())


@pytest.mark.parametrize("size", [1.0, 1e3, 1e6, 1e9])
def test_labels_twice_under_two_names_are_one_factor_to_the_last_digits(size):
    rows = Rows((90, 90), (1, 1))
    rows.codes = [np.arange(90), np.random.default_rng(0).permutation(90)]
    model, _ = rows.model()
    log_det, reduced = model.passes.reduce(np.diag([size, 0.7 * size])[None])
    expected_log_det, expected = GroupPasses(model.sums.factors[0]).reduce(np.array([[[np.sqrt(1.49) * size]]]))
    scale = np.sqrt(np.diag(expected[0]))
    np.testing.assert_allclose(log_det, expected_log_det, rtol=1e-13)
    np.testing.assert_allclose((reduced - expected)[0] / np.outer(scale, scale), 0.0, atol=1e-13)


@pytest.mark.filterwarnings(
    "ignore::hbsk.exceptions.SuspiciousGroupsWarning",
    "ignore:sigma is held at:hbsk.exceptions.ConvergenceWarning",  # a perfect fit, which is what is tried
)
@pytest.mark.parametrize("n_factors", [2, 3])
def test_weights_are_copies_where_effects_and_columns_explain_everything(n_factors):
    rng = np.random.RandomState(
        42
    )  # the data of scikit-learn's own check, which fills a minute of a fit with 28 columns
    X, y, weight = rng.rand(15, 30)[:, :17], rng.randint(0, 3, size=15), rng.randint(0, 5, size=15)
    copied = rng.permutation(np.repeat(np.arange(15), weight))
    X = pd.DataFrame(X, columns=[f"x{k}" for k in range(17)])
    formula = " + ".join([f"x{k}" for k in range(3, 17)] + [f"(1 | x{k})" for k in range(n_factors)])
    model = PartialPoolingRegressor(formula)
    weighted = model.fit(X, y, sample_weight=weight).predict(X)
    np.testing.assert_allclose(model.fit(X.iloc[copied], y[copied]).predict(X), weighted, rtol=1e-7, atol=1e-9)


def test_more_levels_than_a_dense_matrix_could_hold():
    rng = np.random.default_rng(0)
    n, n_classes, n_schools = 6_000, 5_000, 4_600
    school = rng.permutation(np.append(np.arange(n_schools), rng.integers(0, n_schools, n_classes - n_schools)))
    pupil = rng.permutation(np.append(np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)))
    X = pd.DataFrame({"school": school[pupil], "class": pupil, "x": rng.normal(size=n)})
    y = (
        rng.normal(size=n)
        + rng.normal(size=n_classes)[pupil]
        + rng.normal(size=n_schools)[school[pupil]]
        + 0.4 * X["x"]
    )
    priors = {"sigma": 1.0, "1|school": 0.8, "1|school:class": 1.2, "Intercept": ("Flat", {}), "x": ("Flat", {})}
    priors |= {name: ("Normal", {"mu": 0.0, "sigma": priors[name]}) for name in ("1|school", "1|school:class")}
    model = PartialPoolingRegressor("x + (1 | school/class)", priors=priors).fit(X, y)
    assert model.inference_ == "marginal (exact for nested grouping factors)"
    # Henderson's equations, sparse: intercept, x, schools, classes
    at = (np.tile(np.arange(n), 2), np.concatenate([2 + school[pupil], 2 + n_schools + pupil]))
    columns = sp.csr_array((np.ones(2 * n), at), shape=(n, 2 + n_schools + n_classes)).tolil()
    columns[:, :2] = np.column_stack([np.ones(n), X["x"]])
    columns = columns.tocsr()
    penalty = np.concatenate([[0.0, 0.0], np.full(n_schools, 0.8**-2.0), np.full(n_classes, 1.2**-2.0)])
    system = splu((columns.T @ columns + sp.diags_array(penalty)).tocsc())
    some = columns[:50].toarray()
    mean, sd = model.predict(X[:50], return_std=True)
    np.testing.assert_allclose(mean, some @ system.solve(columns.T @ y.to_numpy()), rtol=1e-7)
    np.testing.assert_allclose(sd**2, 1.0 + np.sum(some * system.solve(some.T).T, axis=1), rtol=1e-9)


def test_answers_are_those_of_the_schur_complement(monkeypatch):
    rng = np.random.default_rng(8)
    X = pd.DataFrame({"class": rng.permutation(np.arange(90) % 24), "x": rng.normal(size=90)})
    X["school"] = X["class"] % 5
    y = rng.normal(size=90) + rng.normal(size=24)[X["class"]] + rng.normal(size=5)[X["school"]] * (1.0 + 0.5 * X["x"])
    sds = {
        name: ("Normal", {"mu": 0.0, "sigma": sd})
        for name, sd in [("1|school", 1.1), ("x|school", 0.6), ("1|class", 0.9)]
    }
    model = PartialPoolingRegressor("x + (x || school) + (1 | class)", priors={"sigma": 1.0, **sds})

    def answers():
        model.fit(X, y)
        scores = [loo(model, X, y), *(loo(model, X, y, unit="group", factor=name) for name in ("school", "class"))]
        table = model.group_effects(coverage=0.9).select_dtypes("number")
        predicted = model.predict(X.assign(**{"class": np.where(X["x"] > 0, 99, X["class"])}), return_std=True)
        return [model.inference_, table, np.array(predicted), *(score.elpd_i for score in scores)]

    recursion = answers()
    monkeypatch.setattr(crossed, "find_chain", lambda sums: None)
    schur = answers()
    assert recursion[0] == "marginal (exact for nested grouping factors)"
    for ours, theirs in zip(recursion[1:], schur[1:], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8)
