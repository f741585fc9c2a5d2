"""Groups of equal design taken together: the same sums, for less."""

import numpy as np
import pandas as pd
import pytest

from hbsk import PartialPoolingRegressor
from hbsk._engine import group_passes
from hbsk._engine.group_algebra import rotate_groups
from hbsk._engine.group_passes import GroupPasses, find_cells
from hbsk._engine.sums import GroupSums
from tests.dense import random_covariance


def repeated_designs(rng, q, n_groups=30, n_designs=4, n_rows=5, n_common=2):
    """Return sums of groups of which many have the same design, and the design of each."""
    designs = rng.normal(size=(n_designs, n_rows, q))
    designs[0, 1:] = 0.0  # one row
    design = rng.integers(0, n_designs, n_groups)
    z = designs[design]
    others = rng.normal(size=(n_groups, n_rows, n_common + 1))
    within = rng.normal(size=(20, n_common + 1))
    sums = GroupSums(
        zz=np.einsum("jik,jil->klj", z, z),
        zx=np.einsum("jik,jia->kaj", z, others),
        xx=np.einsum("jia,jib->ab", others, others) + within.T @ within,
        n=float(n_groups * n_rows),
        log_weight=0.0,
        copies=np.full(n_groups, float(n_rows)),
    )
    return sums, design


def one_by_one(sums, factor):
    """Return sum_j log|M_j| and C, group by group."""
    lower, rotated = rotate_groups(sums.zz, sums.zx)
    log_det, reduced = 0.0, sums.xx.copy()
    for j in range(sums.n_groups):
        inner = np.eye(len(factor)) + lower[:, :, j].T @ factor @ factor.T @ lower[:, :, j]
        log_det += np.linalg.slogdet(inner)[1]
        d = rotated[:, :, j]
        reduced += d.T @ (np.linalg.inv(inner) - np.eye(len(factor))) @ d
    return log_det, reduced


@pytest.mark.parametrize("q", [1, 2, 3])
def test_cells_give_the_sums_of_their_groups(rng, q):
    sums, design = repeated_designs(rng, q)
    passes = GroupPasses(sums)
    assert passes.n_cells == len(np.unique(design)) == 4
    factor = np.array([np.linalg.cholesky(random_covariance(rng, q, scale)[2]) for scale in (0.1, 1.0, 30.0)])
    log_det, reduced = passes.reduce(factor)
    for m in range(3):
        wanted_log_det, wanted = one_by_one(sums, factor[m])
        assert log_det[m] == pytest.approx(wanted_log_det, rel=1e-12)
        np.testing.assert_allclose(reduced[m], wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("q", [1, 2, 3])
def test_gradient_of_cells_is_that_of_their_groups(rng, monkeypatch, q):
    sums, _ = repeated_designs(rng, q)
    factor = np.array([np.linalg.cholesky(random_covariance(rng, q, scale)[2]) for scale in (0.1, 3.0)])
    half = rng.normal(size=(2, 3, 3))
    adjoint = half @ half.swapaxes(1, 2)
    found = GroupPasses(sums).covariance_gradient(factor, adjoint)
    monkeypatch.setattr(group_passes, "MOST_CELLS", 0.0)
    groups = GroupPasses(sums)
    assert groups.n_cells == sums.n_groups
    np.testing.assert_allclose(found, groups.covariance_gradient(factor, adjoint), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kept", [0, 10**9])
def test_blocks_of_cells_change_nothing(rng, monkeypatch, kept):
    sums, _ = repeated_designs(rng, 2, n_groups=60, n_designs=11)
    factor = np.linalg.cholesky(random_covariance(rng, 2, 1.0)[2])[None]
    log_det, reduced = GroupPasses(sums).reduce(factor)
    monkeypatch.setattr(group_passes, "BLOCK_CELLS", 3)
    monkeypatch.setattr(group_passes, "KEPT_PRODUCTS", kept)  # where products are not kept groups stay as they are
    passes = GroupPasses(sums)
    assert passes.n_cells == (11 if kept else 60)
    np.testing.assert_allclose(passes.reduce(factor)[0], log_det, rtol=1e-12)
    np.testing.assert_allclose(passes.reduce(factor)[1], reduced, rtol=1e-10, atol=1e-10)


def test_find_cells():
    a, b = np.array([[4.0, 1.0], [1.0, 2.0]]), np.array([[4.0, 1.0], [1.0, 3.0]])
    cell, first = find_cells(np.stack([b, a, a, b, a], axis=2))
    np.testing.assert_array_equal(cell, [0, 1, 1, 0, 1])
    np.testing.assert_array_equal(first, [0, 1])
    cell, first = find_cells(np.zeros((0, 0, 0)))
    assert len(cell) == len(first) == 0


def test_groups_that_differ_by_less_than_their_keys_tell_are_cells_of_their_own():
    a, b = np.array([[4.0, 1.0], [1.0, 2.0]]), np.array([[4.0, 1.0], [1.0, 2.0 + 4e-16]])
    assert a[1, 1] != b[1, 1]  # by the last bit, which a sum of entries loses
    cell, first = find_cells(np.stack([a, b, a, b], axis=2))
    assert cell[0] == cell[2]
    assert len({cell[0], cell[1], cell[3]}) == 3
    np.testing.assert_array_equal(cell[first], np.arange(3))


def test_many_groups_that_all_differ_are_told_at_a_first_look(rng, monkeypatch):
    monkeypatch.setattr(group_passes.pd, "factorize", None)  # would be a second look
    cell, first = find_cells(rng.normal(size=(1, 1, 5_000)))
    np.testing.assert_array_equal(cell, first)


def test_many_groups_in_the_order_of_their_designs_are_found_alike(rng):
    cell, first = find_cells(np.repeat(rng.normal(size=2_000), 5)[None, None])
    assert len(first) == 2_000
    np.testing.assert_array_equal(cell, np.repeat(np.arange(2_000), 5))


def test_a_fit_does_not_depend_on_cells(rng, monkeypatch):
    g = np.repeat(np.arange(40), rng.integers(1, 5, 40))
    frame = pd.DataFrame({"x": rng.integers(0, 2, len(g)).astype(float), "g": g})
    y = 0.5 * frame["x"] + rng.normal(size=40)[g] + rng.normal(size=len(g))
    said = []
    for share in (group_passes.MOST_CELLS, 0.0):
        monkeypatch.setattr(group_passes, "MOST_CELLS", share)
        fitted = PartialPoolingRegressor(group_features="g", slope_features=["x"]).fit(frame, y)
        said.append(np.concatenate(fitted.predict(frame, return_std=True)))
    np.testing.assert_allclose(said[0], said[1], rtol=1e-7)
