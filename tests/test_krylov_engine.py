"""Very many crossed levels: products, solves and draws against the dense Schur complement, and exact where probes are.

With as many probes, and as many draws, as there are effects, each along an axis, nothing is random and everything must
be what a dense matrix says, to the last digits.
"""

import numpy as np
import pytest
import scipy.sparse as sp

from hbsk._engine import krylov, krylov_passes
from hbsk._engine.crossed_passes import CrossedPasses
from hbsk._engine.krylov import conjugate_gradients
from hbsk._engine.krylov_passes import KrylovPasses
from hbsk._posterior.crossed_laws import KnownRows, NodeLaw, rows_at_node
from tests.test_crossed_engine import Rows, random_points

DESIGNS = [
    ((12, 7), (1, 1), 0),
    ((9, 6), (2, 2), 0),
    ((6, 15, 4), (2, 1, 1), 0),
    ((15, 6, 4), (2, 1, 3), 12),  # the last factor is a hub: exact borders
    ((30, 9, 8, 3), (1, 1, 1, 1), 8),
]


def axes(size, n_columns, rng=None):
    return np.sqrt(size) * np.eye(size)


@pytest.fixture
def exactly(monkeypatch):
    """Probes and draws along axes, solves to the last digits."""
    monkeypatch.setattr(krylov_passes, "ROW_SHARE", 0.0)
    monkeypatch.setattr(krylov_passes, "DRAWN_GAIN", 0.0)
    monkeypatch.setattr(krylov_passes, "probe_columns", axes)
    monkeypatch.setattr(krylov_passes, "white_columns", axes)


def both_routes(design, monkeypatch, **data):
    n_levels, n_varying, hub = design
    monkeypatch.setattr(krylov_passes, "MOST_OF_HUB", hub)
    rows = Rows(n_levels, n_varying, **data)
    model, _ = rows.model()
    ours = KrylovPasses(model.sums)
    assert (ours.n_many < ours.n_remaining) == (hub > 0)
    monkeypatch.setattr(krylov_passes, "DRAWS", ours.n_many)
    return rows, model, CrossedPasses(model.sums), ours


@pytest.mark.parametrize("design", DESIGNS)
def test_probes_along_axes_give_the_dense_density_and_gradient(design, exactly, monkeypatch):
    _, model, dense, ours = both_routes(design, monkeypatch, weights=True)
    _, points = random_points(model)
    factor = points.relative_factor
    for expected, found in zip(dense.reduce(factor), ours.reduce(factor), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-11 * np.abs(expected).max())
    adjoint = np.random.default_rng(0).normal(size=(len(factor), 4, 4))
    adjoint += adjoint.swapaxes(1, 2)
    gradient = dense.factor_gradient(factor, adjoint)
    np.testing.assert_allclose(ours.factor_gradient(factor, adjoint), gradient, atol=1e-10 * np.abs(gradient).max())


@pytest.mark.parametrize("design", DESIGNS)
def test_draws_along_axes_give_every_covariance(design, exactly, monkeypatch):
    rows, model, dense, ours = both_routes(design, monkeypatch)
    factor = random_points(model, 1)[1].relative_factor[0]
    expected, found = dense.effects(factor), ours.effects(factor)
    for f, start in ours.starts.items():
        n, q = rows.n_groups[f], rows.Z[f].shape[1]
        at = start + np.arange(n * q).reshape(n, q)
        np.testing.assert_allclose(found.rest_phi.blocks[f], expected.rest_phi[at[:, :, None], at[:, None]], atol=1e-9)
    pairs = sp.csr_array(np.random.default_rng(1).normal(size=(20, ours.n_remaining)))
    np.testing.assert_allclose(
        found.rest_phi.quadratic_forms(pairs), np.diag(pairs @ expected.rest_phi @ pairs.T), rtol=1e-5
    )  # draws are of single precision
    for name in ("first", "first_phi", "first_solved", "rest_solved"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-9)
    complement = ours.complement(factor)
    root = ours.coloured(complement, np.eye(ours.n_remaining))
    np.testing.assert_allclose(root @ root.T, expected.rest_phi, atol=1e-9)
    np.testing.assert_allclose(ours.solved(complement)[1], expected.first_solved, atol=1e-9)
    rng, n = np.random.default_rng(5), 300
    codes = [
        rng.integers(0, levels + 2, n) for levels in rows.n_groups
    ]  # of levels that are not together, and new ones
    z = [rng.normal(size=(n, part.shape[1])) for part in rows.Z]
    known = KnownRows.of(rng.normal(size=(n, 3)), z, codes, rows.n_groups)
    mean, root = rng.normal(size=3), rng.normal(size=(3, 3))
    answers = [
        rows_at_node(NodeLaw(1.0, 0.7, factor, mean, root, effects), passes, known)
        for effects, passes in ((expected, dense), (found, ours))
    ]
    np.testing.assert_allclose(answers[1][0], answers[0][0], atol=1e-9)
    np.testing.assert_allclose(answers[1][1], answers[0][1], rtol=1e-5)


def test_a_factor_that_is_switched_off_has_no_part(exactly, monkeypatch):
    _, _, dense, ours = both_routes(((15, 6, 4), (2, 1, 3), 12), monkeypatch)
    factor = np.diag([0.5, 0.3, 0.0, 0.2, 0.2, 0.2])[None]
    for expected, found in zip(dense.reduce(factor), ours.reduce(factor), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-11 * np.abs(expected).max())
    gradient = dense.factor_gradient(factor, np.eye(4)[None])
    np.testing.assert_allclose(ours.factor_gradient(factor, np.eye(4)[None]), gradient, atol=1e-9)


def test_a_point_beyond_floating_point_spoils_no_other(monkeypatch):
    _, _, _, ours = both_routes(((12, 7), (1, 1), 0), monkeypatch)
    factor = np.eye(2) * np.array([0.5, 1e200, 2.0])[:, None, None]
    with np.errstate(all="ignore"):
        log_det, reduced = ours.reduce(factor)
    assert np.isfinite(log_det).tolist() == [True, False, True]
    np.testing.assert_array_equal(np.isnan(reduced).all(axis=(1, 2)), [False, True, False])


# Random probes and draws


@pytest.fixture(scope="module")
def many():
    """Rows of 600 levels crossed with 250 and a hub of 5, and both routes."""
    model, _ = Rows((600, 250, 5), (1, 1, 1), n=6_000, seed=3).model()
    return model, CrossedPasses(model.sums), KrylovPasses(model.sums)


def test_what_probes_are_off_by_hardly_depends_on_theta_and_is_told(many):
    _, dense, ours = many
    factor = np.diag([1.0, 1.0, 0.5]) * np.exp([[0.0, 0, 0], [0.04, 0, 0], [0, 0.07, 0], [0, 0, 0.5]])[:, None]
    off = ours.reduce(factor)[0] - dense.reduce(factor)[0]
    by_probe = ours.log_dets_by_probe(factor)
    assert np.ptp(off) < 0.02
    assert abs(off[3] - off[0]) < 1e-8  # the hub is exact
    spread = (by_probe[1:3] - by_probe[0]).std(axis=1, ddof=1) / np.sqrt(by_probe.shape[1])
    assert np.all(np.abs(off[1:3] - off[0]) < 4 * spread)
    assert np.all(spread > 0)


def test_the_first_order_of_what_probes_are_off_by_is_taken_off(many, monkeypatch):
    _, _, ours = many
    factor = np.diag([1.0, 1.0, 0.5]) * np.exp([[0.0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]])[:, None]
    spreads = []
    for share in (krylov_passes.FIRST_ORDER, 0.0):
        monkeypatch.setattr(krylov_passes, "FIRST_ORDER", share)
        ours.reduce(factor)
        by_probe = ours.log_dets_by_probe(factor)
        spreads.append([by_probe[0].std(), *(by_probe[1:] - by_probe[0]).std(axis=1)])
    np.testing.assert_array_less(spreads[0], 0.85 * np.array(spreads[1]))


def test_traces_by_probes_are_those_of_a_dense_matrix_but_for_their_error(many):
    _, dense, ours = many
    factor, none = np.diag([1.0, 1.0, 0.5])[None], np.zeros((1, 4, 4))
    expected, found = (np.diag(passes.factor_gradient(factor, none)[0]) for passes in (dense, ours))
    sd = np.sqrt(0.5 / np.array([600.0, 250.0]))  # of the logs of the sds of the two large factors
    np.testing.assert_array_less(np.abs(found - expected)[:2] * sd, 0.008)
    assert found[2] == pytest.approx(expected[2], rel=1e-6)  # the hub's is exact


def test_sds_of_effects_by_draws(many):
    _, dense, ours = many
    factor = np.diag([1.0, 0.8, 0.5])
    expected, found = dense.effects(factor), ours.effects(factor)
    sds = np.sqrt(np.diag(expected.rest_phi))
    ratio = [np.sqrt(found.rest_phi.blocks[f].ravel()) / sds[at] for f, at in ((1, slice(250)), (2, slice(250, None)))]
    assert np.abs(ratio[0] - 1).max() < 0.03
    np.testing.assert_allclose(ratio[1], 1.0, rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(found.first_phi / expected.first_phi), 1.0, rtol=0.02)
    rng = np.random.default_rng(0)
    differences = np.zeros((300, ours.n_remaining))
    for row in differences:
        row[rng.choice(ours.n_remaining, 2, replace=False)] = [1.0, -1.0]
    exact = np.einsum("rk,kl,rl->r", differences, expected.rest_phi, differences)
    ratio = found.rest_phi.quadratic_forms(sp.csr_array(differences)) / exact
    assert np.sqrt(np.mean((ratio - 1) ** 2)) < 0.08  # of squares of plain draws .18


def test_effects_far_larger_than_noise_cancel_in_sums_of_two_factors():
    rows = Rows((60, 40), (1, 1), n=1_000, seed=2)
    model, _ = rows.model()
    dense, ours = CrossedPasses(model.sums), KrylovPasses(model.sums)
    factor = np.diag([300.0, 200.0])
    expected, found = dense.effects(factor), ours.effects(factor)
    sd = np.sqrt(np.diag(expected.rest_phi))[:, None] * 0.01  # of a residual sd of .01, as y is scaled
    np.testing.assert_allclose((found.rest_solved - expected.rest_solved) / sd, 0.0, atol=0.01)
    for expected, found in zip(dense.reduce(factor[None]), ours.reduce(factor[None]), strict=True):
        size = np.sqrt(np.abs(np.diag(expected[0]))) if expected.ndim == 3 else 1e3
        np.testing.assert_allclose((found - expected) / np.outer(size, size), 0.0, atol=0.02)
    known = KnownRows.of(rows.X, [np.ones((1_000, 1))] * 2, rows.codes, rows.n_groups)
    answers = [
        rows_at_node(NodeLaw(1.0, 0.7, factor, np.zeros(3), 0.1 * np.eye(3), passes.effects(factor)), passes, known)
        for passes in (dense, ours)
    ]
    np.testing.assert_allclose(answers[1][0], answers[0][0], atol=0.01)
    np.testing.assert_allclose(np.sqrt(answers[1][1]), np.sqrt(answers[0][1]), rtol=0.1)


def test_gradients_where_levels_hang_together_in_a_chain_and_noise_is_small():
    # user j rates items j and j + 1: solves leave residuals far larger than what they lack in sums of squares
    rows = Rows((300, 301), (1, 1), n=1_200, seed=4)
    rows.codes[0] = np.tile(np.repeat(np.arange(300), 2), 2)
    rows.codes[1] = rows.codes[0] + np.tile([0, 1], 600)
    rng = np.random.default_rng(0)
    rows.y = rng.normal(size=1_200) + sum(1_000.0 * rng.normal(size=301)[code] for code in rows.codes)
    model, _ = rows.model()
    dense, ours = CrossedPasses(model.sums), KrylovPasses(model.sums)
    theta = model.parameters.theta_of(1.0, np.array([1_100.0, 900.0]))[None]
    gradients = []
    for passes in (dense, ours):
        vars(model)["passes"] = passes
        gradients.append(model.value_and_gradient(theta)[1][0])
    np.testing.assert_allclose(gradients[1], gradients[0], atol=0.02 * 300)  # of 300 levels


# Functions of matrices


def test_functions_of_a_matrix_are_those_of_its_eigenvalues():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(40, 60))
    matrix = root @ root.T / 60 + 0.1 * np.eye(40)
    values, vectors = np.linalg.eigh(matrix)
    columns = np.column_stack([rng.normal(size=(40, 3)), vectors[:, 3], np.zeros(40)])  # an eigenvector ends at once
    run = conjugate_gradients(lambda v: matrix @ v, columns, np.zeros_like, keep_basis=True)
    assert run.converged.all()
    np.testing.assert_allclose(run.solved, np.linalg.solve(matrix, columns), atol=1e-6)
    logarithm = (vectors * np.log(values)) @ vectors.T
    np.testing.assert_allclose(run.quadratic_forms(np.log), np.sum(columns * (logarithm @ columns), axis=0), atol=1e-8)
    inverse_root = (vectors * values**-0.5) @ vectors.T
    np.testing.assert_allclose(run.applied(lambda s: s**-0.5), inverse_root @ columns, atol=1e-8)


def test_what_does_not_converge_is_no_number(monkeypatch):
    monkeypatch.setattr(krylov, "MOST_STEPS", 2)
    model, _ = Rows((60, 30), (1, 1), n=200).model()
    log_det, reduced = KrylovPasses(model.sums).reduce(np.diag([3.0, 3.0])[None])
    assert np.isnan(log_det).all()
    assert np.isnan(reduced).all()
