"""The law of the common coefficients: bases in which data and prior are diagonal at once."""

import numpy as np
import pytest

from hbsk._engine.common_coefficients import diagonalised, rotate_to_diagonal


@pytest.mark.parametrize("p", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [1.0, 1e-7])
def test_rotations_of_many_matrices_find_the_eigenvalues_of_lapack(rng, p, size):
    half = size * rng.normal(size=(100, p, p))
    matrices = np.eye(p) - 0.1 * half @ half.swapaxes(1, 2)
    matrices[:3] = np.eye(p), np.zeros((p, p)), np.diag(np.arange(p) / p)  # nothing to rotate
    basis = [np.repeat(row[:, None], 100, axis=1) for row in np.eye(p)]
    lower = {(i, j): matrices[:, i, j].copy() for i in range(p) for j in range(i + 1)}
    values, vectors = np.array(rotate_to_diagonal(lower, basis)).T, np.array(basis).transpose(2, 1, 0)
    np.testing.assert_allclose(np.sort(values, axis=1), np.linalg.eigvalsh(matrices), rtol=0, atol=1e-14)
    np.testing.assert_allclose(vectors.swapaxes(1, 2) @ vectors, np.broadcast_to(np.eye(p), matrices.shape), atol=1e-14)
    np.testing.assert_allclose((vectors * values[:, None]) @ vectors.swapaxes(1, 2), matrices, atol=1e-14)


@pytest.mark.parametrize("p", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 100])
def test_bases_diagonalise_data_and_prior_together(rng, p, n):
    units = 10.0 ** rng.uniform(-6, 6, p)
    half = rng.normal(size=(n, p, p + 2)) * units[:, None]
    of_data, prior_precision = half @ half.swapaxes(1, 2), units**2 * rng.uniform(0.0, 0.3, p)
    share, basis, log_det = diagonalised(of_data, prior_precision)
    both = of_data + np.diag(prior_precision)
    np.testing.assert_allclose(basis.swapaxes(1, 2) @ both @ basis, np.broadcast_to(np.eye(p), both.shape), atol=1e-10)
    of_basis = basis.swapaxes(1, 2) @ of_data @ basis
    np.testing.assert_allclose(of_basis, share[:, :, None] * np.eye(p), atol=1e-10)
    in_units = both / (units[:, None] * units)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(in_units)[1] + 2 * np.log(units).sum(), rtol=1e-10)
