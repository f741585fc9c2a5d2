"""Factors of few levels that border the Schur complement of the others, against complements that hold them too."""

import numpy as np
import pytest

from hbsk._engine.crossed_passes import CrossedPasses
from hbsk._engine.hub_passes import HubPasses, hubs_of
from hbsk._posterior.crossed_laws import KnownRows, NodeLaw, levels_at_node, rows_at_node, share_kept
from tests.test_crossed_engine import Rows, assert_gradient_equals_differences, random_points

DESIGNS = [
    ((9, 12, 4), (1, 1, 1), [2]),
    ((4, 9, 12), (2, 1, 2), [0]),
    ((9, 4, 12, 3), (2, 1, 1, 2), [1, 3]),
]
designs = pytest.mark.parametrize(("n_levels", "n_varying", "hubs"), DESIGNS)


def both(n_levels, n_varying, hubs):
    rows = Rows(n_levels, n_varying, n=120)
    model, _ = rows.model()
    return rows, model, HubPasses(model.sums, hubs), CrossedPasses(model.sums)


def sums_of(n_levels):
    return Rows(n_levels, (1,) * len(n_levels), n=200).model()[0].sums


@designs
def test_density_and_gradient_are_those_of_one_complement(n_levels, n_varying, hubs):
    _, model, ours, dense = both(n_levels, n_varying, hubs)
    theta, points = random_points(model, n=5)
    factor = points.relative_factor
    for found, expected in zip(ours.reduce(factor), dense.reduce(factor), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(ours.within, dense.within, rtol=1e-7, atol=1e-7)
    vars(model)["passes"] = ours
    assert_gradient_equals_differences(model, theta, 1e-5)
    with ours.rough_gradients():
        _, rough = model.value_and_gradient(theta[:1])
    _, gradient = model.value_and_gradient(theta[:1])
    np.testing.assert_allclose(rough, gradient, rtol=1e-6, atol=1e-7)  # as many probes as effects: no noise


@designs
def test_laws_of_levels_and_rows_are_those_of_one_complement(n_levels, n_varying, hubs):
    _, model, ours, dense = both(n_levels, n_varying, hubs)
    rng = np.random.default_rng(3)
    theta, _ = random_points(model, n=4)
    theta[1:3, model.parameters.coordinates_of(ours.other_columns)] = theta[
        0, model.parameters.coordinates_of(ours.other_columns)
    ]
    factor, which = ours.distinct(model.parameters.points(theta[[0, 1, 3, 1, 2]]).relative_factor)
    np.testing.assert_array_equal(factor[which], model.parameters.points(theta[[0, 1, 3, 1, 2]]).relative_factor)
    laws = ours.hub_effects(factor)
    assert sorted(len(law.hub_phi) for law in laws) == [1, 3]  # three differ in hubs alone
    x = rng.normal(size=(7, 3))
    codes = [rng.integers(0, levels + 1, 7) for levels in n_levels]  # the last one is new
    z = [rng.normal(size=(7, q)) for q in n_varying]
    asked = KnownRows.of(x, z, codes, n_levels)
    start = 0
    for effects in laws:
        n = len(effects.hub_phi)
        here = factor[start : start + n]
        mean, root = rng.normal(size=(n, 3)), rng.normal(size=(n, 3, 3))
        law = NodeLaw(np.full(n, 1 / n), rng.uniform(0.5, 2.0, n), here, mean, root, effects)
        for m in range(n):
            one = NodeLaw(*(part[m] for part in law[:-1]), dense.effects(here[m]))
            for found, expected in zip(rows_at_node(law, ours, asked), rows_at_node(one, dense, asked), strict=True):
                np.testing.assert_allclose(found[m], expected, rtol=1e-9, atol=1e-10)
            for f in range(len(n_levels)):
                found, expected = levels_at_node(law, ours, f), levels_at_node(one, dense, f)
                for part, of_dense in zip(found, expected, strict=True):
                    np.testing.assert_allclose(part[m], of_dense, rtol=1e-8, atol=1e-10)
                kept = share_kept(effects, here, ours, f, lambda columns: columns)[m]
                of_dense = share_kept(one.effects, here[m], dense, f, lambda columns: columns)
                np.testing.assert_allclose(kept, of_dense, atol=1e-9)
        start += n


def test_hubs_are_the_smallest_factors_and_leave_two():
    found = {levels: hubs_of(sums_of(levels)) for levels in ((60, 55, 30, 12), (60, 70, 30, 25), (9, 12))}
    assert list(found.values()) == [[2, 3], [3], []]  # 42 effects are few, 55 too many


def test_a_point_beyond_floating_point_spoils_no_other():
    _, model, ours, _ = both(*DESIGNS[0])
    _, points = random_points(model)
    factor = points.relative_factor.copy()
    alone = ours.reduce(factor[:1])
    factor[1] *= 1e200
    with np.errstate(all="ignore"):
        log_det, reduced = ours.reduce(factor)
    assert not np.isfinite(log_det[1])
    np.testing.assert_allclose(log_det[0], alone[0][0], rtol=1e-12)
    np.testing.assert_allclose(reduced[0], alone[1][0], rtol=1e-12)
