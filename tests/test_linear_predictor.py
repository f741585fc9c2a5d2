"""Directions, surfaces and the shrunken regression, against normal equations."""

import numpy as np
import pytest

from hbsk._shrinkage.linear_predictor import LinearPredictor, find_directions, shrink_regression


def test_directions_are_orthogonal_and_know_the_rank(rng):
    n = 30
    a, b = rng.normal(size=n) + 1e6, rng.normal(size=n) * 1e-13
    columns = [a, np.full(n, 0.1), b, 3.0 * a - 7.0, rng.integers(0, 2, n)]
    weight = rng.uniform(0.5, 2.0, n)
    directions, coordinates, _, redundant = find_directions(columns, weight)
    assert coordinates.shape == (n, 3)
    np.testing.assert_array_equal(redundant, [True, False, False, True, False])
    np.testing.assert_allclose(coordinates.T @ (weight[:, None] * coordinates), np.eye(3), atol=1e-9)
    np.testing.assert_allclose(weight @ coordinates, 0.0, atol=1e-9)
    np.testing.assert_allclose(directions.coordinates(columns, n)[:, 1:], coordinates, atol=1e-7)
    y = 2.0 * (a - 1e6) + 5e12 * b + columns[4]
    slopes = directions.transform @ (coordinates.T @ (weight * y))
    fitted = sum(s * (c - np.average(c, weights=weight)) for s, c in zip(slopes, columns, strict=True))
    np.testing.assert_allclose(fitted, y - np.average(y, weights=weight), atol=1e-5)


def test_a_surface_has_the_variance_of_its_coefficients(rng):
    x = rng.normal(size=(12, 2)) + 50.0
    directions = find_directions(list(x.T), np.ones(12)).directions
    root = rng.normal(size=(3, 3))
    predictor = LinearPredictor(directions, np.array([1.0, -2.0, 0.5]), root @ root.T)
    new = rng.normal(size=(4, 2)) + 50.0
    h = np.column_stack([np.ones(4), (new - directions.centre) @ directions.transform])
    np.testing.assert_allclose(predictor.value(list(new.T), 4), h @ predictor.coef, rtol=1e-10)
    np.testing.assert_allclose(predictor.value(list(new.T), 4), predictor.intercept + new @ predictor.slopes, rtol=1e-8)
    np.testing.assert_allclose(predictor.variance(list(new.T), 4), np.diag(h @ predictor.covariance @ h.T), rtol=1e-10)


def plain_regression(x, y, w):
    design = np.column_stack([np.ones(len(y)), x])
    gram = design.T @ np.diag(w) @ design
    return np.linalg.solve(gram, design.T @ np.diag(w) @ y), design, gram


def test_shrunken_regression_against_normal_equations(rng):
    x, weight = rng.normal(size=(25, 4)) + 3.0, rng.integers(1, 4, 25).astype(float)
    y = x @ [0.3, -0.2, 0.1, 0.4] + 1.0 + rng.normal(size=25)
    ours = shrink_regression(list(x.T), y, weight, None, positive_part=False)
    coef, design, _ = plain_regression(x, y, weight)
    residual = y - design @ coef
    nu = weight.sum() - 5
    s2 = weight @ residual**2 / nu
    mean = np.average(y, weights=weight)
    regression = weight @ (design @ coef - mean) ** 2
    factor = 1 - 2 * nu / (nu + 2) * s2 / regression
    assert (ours.rank, ours.nu) == (4, nu)
    assert ours.sigma2 == pytest.approx(s2, rel=1e-11)
    assert ours.factor == pytest.approx(factor, rel=1e-11)
    np.testing.assert_allclose(ours.predictor.slopes, factor * coef[1:], rtol=1e-9)
    centre = np.average(x, axis=0, weights=weight)
    assert ours.predictor.intercept + centre @ ours.predictor.slopes == pytest.approx(mean)


def test_variance_of_a_regression_that_is_not_shrunken_is_that_of_least_squares(rng):
    x = rng.normal(size=(15, 2))
    y = x @ [5.0, -3.0] + rng.normal(size=15)
    ours = shrink_regression(list(x.T), y, None, None, positive_part=True)
    assert ours.factor == 1.0
    _, design, gram = plain_regression(x, y, np.ones(15))
    expected = ours.sigma2 * np.diag(design @ np.linalg.inv(gram) @ design.T)
    np.testing.assert_allclose(ours.predictor.variance(list(x.T), 15), expected, rtol=1e-9)


def test_regression_with_known_errors(rng):
    x, error = rng.normal(size=(12, 3)), rng.uniform(0.5, 2.0, 12)
    y = x @ [1.0, -2.0, 0.5] + error * rng.normal(size=12)
    ours = shrink_regression(list(x.T), y, None, error, positive_part=True)
    coef, design, _ = plain_regression(x, y, 1 / error**2)
    mean = np.average(y, weights=1 / error**2)
    factor = 1 - 1 / np.sum((design @ coef - mean) ** 2 / error**2)
    assert ours.factor == pytest.approx(factor)
    np.testing.assert_allclose(ours.predictor.slopes, factor * coef[1:], rtol=1e-9)
    assert np.isnan(ours.sigma2)
    assert ours.nu == np.inf


def test_slopes_that_are_mostly_noise_have_the_variances_of_morris(rng):
    x = rng.normal(size=(40, 5))
    y = x @ [0.4, 0.2, -0.3, 0.0, 0.1] + rng.normal(size=40)
    ours = shrink_regression(list(x.T), y, None, None, positive_part=True)
    assert 0 < ours.factor < 1
    left, _, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    zeta = left.T @ (y - y.mean())
    b = (1 - ours.factor) * 3 / 5
    expected = ours.sigma2 / 40 + ours.sigma2 * (1 - b) * np.sum(left**2, axis=1) + 2 / 3 * (b * left @ zeta) ** 2
    np.testing.assert_allclose(ours.predictor.variance(list(x.T), 40), expected, rtol=1e-9)


def test_perfect_and_saturated_regressions_are_left_alone(rng):
    x = rng.normal(size=(5, 8))
    y = rng.normal(size=5)
    ours = shrink_regression(list(x.T), y, None, None, positive_part=True)
    assert (ours.factor, ours.rank, ours.nu) == (1.0, 4, 0.0)
    assert np.isnan(ours.sigma2)
    np.testing.assert_allclose(ours.predictor.value(list(x.T), 5), y, atol=1e-10)
    flat = shrink_regression(list(rng.normal(size=(3, 20))), np.full(20, 0.1), None, None, positive_part=True)
    np.testing.assert_allclose(flat.predictor.slopes, 0.0, atol=1e-12)
