"""Array functions of posteriors: quantiles on grids, roots of covariances, resampling."""

from functools import lru_cache

import numpy as np


def conditional_quantile(grid, weight, level):
    """Return quantiles of laws on grids, each (n, n_grid), at levels (n,).

    The density is cubic between points of the grid on a log scale, and log-linear between the finer points in which it
    is summed, so that tails stay as thin as they are.
    """
    if grid.shape[1] == 1:
        return grid[:, 0]
    finer = _cubic_interpolation(grid.shape[1])
    grid, weight = grid @ finer, np.exp(np.log(np.maximum(weight, 1e-300)) @ finer)
    step = np.maximum(np.gradient(grid, axis=1), 1e-12)  # the grid of log sigma stands still at the floor
    log_density = np.log(np.maximum(weight / step, 1e-300))
    slope = np.diff(log_density, axis=1)
    slope = np.where(np.abs(slope) < 1e-9, 1e-9, slope)
    mass = np.exp(log_density[:, :-1]) * np.expm1(slope) / slope * np.diff(grid, axis=1)
    cumulative = np.cumsum(mass, axis=1)
    target = level * cumulative[:, -1]
    row = np.arange(len(grid))
    at = np.minimum(np.sum(cumulative < target[:, None], axis=1), mass.shape[1] - 1)
    share = (target - (cumulative[row, at] - mass[row, at])) / np.maximum(mass[row, at], 1e-300)
    within = np.log1p(np.clip(share, 0.0, 1.0) * np.expm1(slope[row, at])) / slope[row, at]
    return grid[row, at] + np.clip(within, 0.0, 1.0) * (grid[row, at + 1] - grid[row, at])


@lru_cache(maxsize=16)
def _cubic_interpolation(n_points):
    """Return the matrix (n_points, n_finer) that puts four steps into one, by cubics through four neighbours."""
    at = np.arange(4 * (n_points - 1) + 1) / 4
    first = np.clip(np.floor(at).astype(int) - 1, 0, max(n_points - 4, 0))
    matrix = np.zeros((n_points, len(at)))
    for k in range(4):
        others = [i for i in range(4) if i != k]
        basis = np.prod([(at - first - i) / (k - i) for i in others], axis=0)
        matrix[first + k, np.arange(len(at))] = basis
    return matrix


def canonical_root(root):
    """Return the lower factor, with a positive diagonal, of ``R R'``: it does not hang on signs of eigenvectors."""
    triangle = np.linalg.qr(root.swapaxes(1, 2), mode="r").swapaxes(1, 2)
    signs = np.sign(np.einsum("mkk->mk", triangle))
    return triangle * np.where(signs == 0, 1.0, signs)[:, None, :]


def squared_norm(root, reach):
    """Return ``|R' v|^2`` for roots (n_nodes, p, p) and vectors (n_nodes, p, n_rows)."""
    return np.sum((root.swapaxes(1, 2) @ reach) ** 2, axis=1)


def semidefinite_cholesky(matrices):
    """Return lower factors of semidefinite matrices (..., q, q), zero columns where singular."""
    q = matrices.shape[-1]
    lower = np.zeros_like(matrices)
    for j in range(q):
        pivot = matrices[..., j, j] - np.sum(lower[..., j, :j] ** 2, axis=-1)
        root = np.sqrt(np.maximum(pivot, 0.0))
        lower[..., j, j] = root
        safe = np.where(root > 0, root, 1.0)
        for i in range(j + 1, q):
            entry = matrices[..., i, j] - np.sum(lower[..., i, :j] * lower[..., j, :j], axis=-1)
            lower[..., i, j] = np.where(root > 0, entry / safe, 0.0)
    return lower


def systematic_resample(weight, n_draws, rng):
    """Return node indices in random order, each node as often as its weight says, within one."""
    levels = (np.arange(n_draws) + rng.random()) / n_draws
    at = np.minimum(np.searchsorted(np.cumsum(weight), levels), len(weight) - 1)
    return rng.permutation(at)
