"""Few points in place of many: against the many, and against the rules of Gauss and Hermite that NumPy has."""

import numpy as np
import pytest

from hbsk._engine.moment_nodes import gauss_rule, moment_nodes


def skew_values(sds, n=4_000, seed=0):
    """Correlated values with weights; the wider a coordinate, the more skew."""
    rng = np.random.default_rng(seed)
    d = len(sds)
    normal = rng.normal(size=(n, d)) @ (np.eye(d) + 0.15 * np.tri(d)).T
    values = np.array(sds) * (normal - 0.3 * np.array(sds) * normal**2) + 3.0
    weight = rng.uniform(0.2, 1.0, n)
    return values, weight / weight.sum()


def test_the_rule_of_a_normal_law_is_that_of_gauss_and_hermite():
    fine, weight = np.polynomial.hermite_e.hermegauss(60)
    expected, of_expected = np.polynomial.hermite_e.hermegauss(6)
    points, of_points = gauss_rule(2.0 + 0.3 * fine, weight / weight.sum(), 6)
    np.testing.assert_allclose(points[:, 0], 2.0 + 0.3 * expected, rtol=1e-10)
    np.testing.assert_allclose(of_points, of_expected / of_expected.sum(), rtol=1e-8)


def test_a_rule_of_fewer_values_than_points_is_the_values():
    points, weight = gauss_rule(np.array([1.0, 4.0, 1.0, 9.0]), np.array([0.1, 0.2, 0.3, 0.4]), 6)
    np.testing.assert_allclose(points[:, 0], [1.0, 4.0, 9.0])
    np.testing.assert_allclose(weight, [0.4, 0.2, 0.4])


@pytest.mark.parametrize(
    ("sds", "most"),
    [
        ([0.05, 0.02], 4),
        ([0.03, 0.02, 0.04, 0.01], 5),
        ([0.5], 6),
        ([0.02, 0.6, 0.05, 0.01], 14),
        ([0.5, 0.1, 0.7], 15),
        ([0.3] * 6 + [0.05], 44),
    ],
)
def test_mean_and_covariance_are_kept(sds, most):
    values, weight = skew_values(sds)
    points, of_points = moment_nodes(values, weight)
    assert len(points) <= most
    assert of_points.min() > 0
    assert of_points.sum() == pytest.approx(1.0)
    mean, covariance = weight @ values, np.cov(values.T, aweights=weight, ddof=0)
    np.testing.assert_allclose(of_points @ points, mean, atol=1e-8)
    found = np.cov(points.T, aweights=of_points, ddof=0)
    np.testing.assert_allclose(found, covariance, atol=1e-8 * np.max(covariance))


def test_a_wide_coordinate_has_its_own_law_whatever_the_others():
    values, weight = skew_values([0.05, 0.5, 0.02])
    points, of_points = moment_nodes(values, weight)
    for function in (lambda x: (x - 3.0) ** 3, np.exp, lambda x: np.exp(2 * x), lambda x: 1 / (1 + np.exp(3 - 2 * x))):
        assert of_points @ function(points[:, 1]) == pytest.approx(weight @ function(values[:, 1]), rel=2e-3)
    # with what else there is: where the wide one is large, a narrow one has few points
    together = np.exp(2 * points[:, 1] + points[:, 0])
    assert of_points @ together == pytest.approx(weight @ np.exp(2 * values[:, 1] + values[:, 0]), rel=0.02)


@pytest.mark.parametrize("sds", [[0.02, 0.6, 0.05, 0.01], [0.5, 0.1, 0.7, 0.4, 0.03]])
def test_points_do_not_depend_on_last_digits_or_on_the_order_of_coordinates(sds):
    values, weight = skew_values(sds)
    points, of_points = moment_nodes(values, weight)
    turned = np.random.default_rng(1).permutation(len(sds))
    close, of_close = moment_nodes(values + 1e-11 * np.random.default_rng(2).normal(size=values.shape), weight)
    other, of_other = moment_nodes(values[:, turned], weight)
    np.testing.assert_allclose(close, points, atol=1e-6)
    np.testing.assert_allclose(of_close, of_points, atol=1e-6)
    np.testing.assert_allclose(other, points[:, turned], atol=1e-6)
    np.testing.assert_allclose(of_other, of_points, atol=1e-6)


@pytest.mark.parametrize(("narrow", "n_shared"), [(0.1, 5), (0.03, 3)])  # pairs on two axes and one centre; a simplex
def test_shared_coordinates_have_few_values_and_moments_are_kept_all_the_same(narrow, n_shared):
    values, weight = skew_values([0.02, 0.6, narrow, 0.01])
    points, of_points = moment_nodes(values, weight, shared=[0, 2])
    assert len(np.unique(points[:, [0, 2]], axis=0)) == n_shared
    np.testing.assert_allclose(of_points @ points, weight @ values, atol=1e-8)
    expected = np.cov(values.T, aweights=weight, ddof=0)
    np.testing.assert_allclose(np.cov(points.T, aweights=of_points, ddof=0), expected, atol=1e-8)
    assert of_points @ np.exp(points[:, 1]) == pytest.approx(weight @ np.exp(values[:, 1]), rel=2e-3)
    wide, of_wide = moment_nodes(values, weight, shared=[1])  # too wide for that: as without
    np.testing.assert_array_equal(wide, moment_nodes(values, weight)[0])
    assert of_wide.sum() == pytest.approx(1.0)
