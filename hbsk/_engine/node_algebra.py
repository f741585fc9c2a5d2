"""Array functions of posteriors: quantiles on grids, roots of covariances, resampling."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from hbsk._engine.group_algebra import lower_indices

# Steps of a quantile's finer grid within one step of the given one.
FINER = 2
# Rows for each group from which a product of matrices for every group is faster than picking each row's group.
ROWS_FOR_A_PRODUCT = 8


def conditional_quantile(grid, weight, level):
    """Return quantiles, at levels (n,), of laws on smooth grids with quadrature weights, each (n, n_grid).

    The number of a grid's point is the variable in which the weights are a density. It is cubic between points on a log
    scale, summed over finer points, and log-linear within the finer step that holds the quantile, so that tails stay as
    thin as they are, but for the curvature there in the first order. Several levels of each law, (n, n_levels), give as
    many quantiles.
    """
    if level.ndim == 1:
        return conditional_quantile(grid, weight, level[:, None])[:, 0]
    n, n_grid = grid.shape
    if n_grid == 1:
        return np.repeat(grid, level.shape[1], axis=1)
    # the same point of all laws next to each other, which halves the time
    log_density = (_cubic_interpolation(n_grid) @ np.log(np.maximum(weight, 1e-300)).T).T
    slope = log_density[:, 1:] - log_density[:, :-1]
    log_density -= log_density.max(axis=1, keepdims=True)
    density = np.exp(log_density, out=log_density)
    # second differences, of the step before and the step after; where they are large the first order says nothing
    curvature = np.empty_like(slope)
    curvature[:, 1:-1] = np.clip(0.5 * (slope[:, 2:] - slope[:, :-2]), -1.0, 1.0)
    curvature[:, [0, -1]] = curvature[:, [1, -2]]
    # tanh(s / 2) / (s / 2) is 1 / (1 + s^2 / 12) up to s^4 / 720, and x (x - 1) / 2 is -1 / 12 on average
    mass = density[:, :-1] + density[:, 1:]
    mass /= 1.0 + (slope**2 + curvature) / 12
    cumulative = mass.copy(order="K")
    for step in range(1, mass.shape[1]):  # half the time of `cumsum`
        cumulative[:, step] += cumulative[:, step - 1]
    target = level.T * cumulative[:, -1]  # (n_levels, n)
    at = np.array([np.sum(cumulative < of_level[:, None], axis=1) for of_level in target])
    at = np.minimum(at, mass.shape[1] - 1)
    row = np.arange(n)
    here, steepness = mass[row, at], slope[row, at]
    share = np.clip((target - (cumulative[row, at] - here)) / np.maximum(here, 1e-300), 0.0, 1.0)
    steepness = np.where(np.abs(steepness) < 1e-9, 1e-9, steepness)
    within = np.log1p(share * np.expm1(steepness)) / steepness
    within -= curvature[row, at] / 12 * within * (1.0 - within) * (1.0 - 2.0 * within)
    return np.ascontiguousarray(_cubic_at(grid, (at + within) / FINER).T)


def _cubic_at(values, position):
    """Return cubics through four neighbours in rows of values (n, n_grid), at positions (.., n) counted in points."""
    first = np.clip(np.floor(position).astype(int) - 1, 0, max(values.shape[1] - 4, 0))
    nearest = values[np.arange(len(values)), first + np.arange(4).reshape(-1, *[1] * first.ndim)]
    return np.sum(nearest * _lagrange(position - first), axis=0)


def _lagrange(u):
    """Return the four cubic basis polynomials on the points 0 to 3, (4, ..)."""
    a, b, c, d = u, u - 1.0, u - 2.0, u - 3.0
    return np.stack([-b * c * d / 6, a * c * d / 2, -a * b * d / 2, a * b * c / 6])


@lru_cache(maxsize=16)
def _cubic_interpolation(n_points):
    """Return the matrix (n_finer, n_points) that puts `FINER` steps into one, by cubics through four neighbours.

    It is sparse: products of a thousand nodes with a dense one start threads, which wait for each other on busy cores.
    """
    at = np.arange(FINER * (n_points - 1) + 1) / FINER
    first = np.clip(np.floor(at).astype(int) - 1, 0, max(n_points - 4, 0))
    rows = np.repeat(np.arange(len(at)), 4)
    columns = (first[:, None] + np.arange(4)).ravel()
    return sparse.csr_array((_lagrange(at - first).T.ravel(), (rows, columns)), shape=(len(at), n_points))


def canonical_root(root):
    """Return the lower factor, with a positive diagonal, of ``R R'``: it does not hang on signs of eigenvectors."""
    triangle = np.linalg.qr(root.swapaxes(1, 2), mode="r").swapaxes(1, 2)
    signs = np.sign(np.einsum("mkk->mk", triangle))
    # in one stretch, as it comes back from a pickle: sums then have the same bits
    return np.ascontiguousarray(triangle * np.where(signs == 0, 1.0, signs)[:, None, :])


def squared_norm(root, reach):
    """Return ``|R' v|^2`` for roots (n_nodes, p, p) and vectors (n_nodes, p, n_rows)."""
    return np.sum((root.swapaxes(1, 2) @ reach) ** 2, axis=1)


class GroupLaws(NamedTuple):
    """Laws of common coefficients and of the effects of some groups, at nodes.

    Attributes
    ----------
    common_mean : ndarray of shape (n_nodes, p)
    root : ndarray of shape (n_nodes, p, p)
        ``R'``, with ``R R'`` the covariance of the common coefficients.
    effect : ndarray of shape (n_nodes, q, n_groups)
        Means of the effects.
    taken : ndarray of shape (n_nodes, p, q, n_groups)
        ``R' B_x' H_j``: what the effects take back when the common coefficients move.
    covariance : ndarray of shape (n_nodes, q (q + 1) / 2, n_groups)
        Of the effects given the common coefficients, packed.
    """

    common_mean: np.ndarray
    root: np.ndarray
    effect: np.ndarray
    taken: np.ndarray
    covariance: np.ndarray


def contrasts_given_groups(laws: GroupLaws, z: np.ndarray, first: np.ndarray, second: np.ndarray):
    """Return mean and variance, each (n_nodes, n_pairs), of ``z' u_a - z' u_b`` for groups at these positions.

    Given the common coefficients effects are independent; the common ones move both.
    """
    row, column = lower_indices(len(z))
    squares = z[row] * z[column] * np.where(row == column, 1.0, 2.0)
    mean = np.einsum("k,mkj->mj", z, laws.effect)
    reach = np.einsum("k,makj->maj", z, laws.taken)
    own = np.maximum(np.einsum("h,mhj->mj", squares, laws.covariance), 0.0)
    moved = reach[:, :, first] - reach[:, :, second]
    variance = own[:, first] + own[:, second] + np.einsum("mar,mar->mr", moved, moved)
    return mean[:, first] - mean[:, second], variance


def rows_given_groups(laws: GroupLaws, x, z, position):
    """Return mean and variance, each (n_nodes, n_rows), of ``x' b + z' u_j`` for rows of groups at ``position``.

    At zero of columns that are centred a variance is what quadratic forms leave of each other: rounding, where it is 0.
    """
    row, column = lower_indices(z.shape[1])
    squares = z[:, row] * z[:, column] * np.where(row == column, 1.0, 2.0)
    n_nodes, p = laws.common_mean.shape
    n_groups = laws.effect.shape[2]
    mean = laws.common_mean @ x.T
    if len(x) < ROWS_FOR_A_PRODUCT * n_groups:
        reach = laws.root @ x.T
        variance = np.zeros_like(mean)
        for k, of_rows in enumerate(z.T):
            mean += laws.effect[:, k, position] * of_rows
            reach -= laws.taken[:, :, k, position] * of_rows
        for pair, of_rows in enumerate(squares.T):
            variance += laws.covariance[:, pair, position] * of_rows
        variance = np.maximum(variance, 0.0)
        variance += np.einsum("mar,mar->mr", reach, reach)
        return mean, variance
    # products of matrices for the rows of each group
    variance = np.empty_like(mean)
    order = np.argsort(position, kind="stable")
    ends = np.cumsum(np.bincount(position, minlength=n_groups))
    for group, members in enumerate(np.split(order, ends[:-1])):
        side_by_side = members[-1] - members[0] == len(members) - 1  # a slice makes no copies
        rows = slice(members[0], members[-1] + 1) if side_by_side else members
        mean[:, rows] += laws.effect[:, :, group] @ z[rows].T
        turned = np.concatenate([laws.root, -laws.taken[:, :, :, group]], axis=2).reshape(n_nodes * p, -1)
        reach = (turned @ np.concatenate([x[rows], z[rows]], axis=1).T).reshape(n_nodes, p, -1)
        of_group = laws.covariance[:, :, group] @ squares[rows].T
        variance[:, rows] = np.maximum(of_group, 0.0) + np.einsum("mar,mar->mr", reach, reach)
    return mean, variance


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


def thinned(weight: np.ndarray, n_kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which of many weighted nodes to keep, and their weights, which sum to 1.

    Heavy nodes keep their weights; of the light ones some, evenly spaced by weight, stand for all, with equal weights:
    what adds the least variance (Fearnhead, Clifford 2003, J. R. Stat. Soc. B 65(4), section 3.2).

    Parameters
    ----------
    weight : ndarray of shape (n,), summing to 1
    n_kept : int
        Less than n.
    """
    order = np.argsort(-weight, kind="stable")
    falling = weight[order]
    from_here_on = np.cumsum(falling[::-1])[::-1]
    of_light = from_here_on[:n_kept] / (n_kept - np.arange(n_kept))
    n_heavy = int(np.argmax(falling[:n_kept] <= of_light))
    light = np.sort(order[n_heavy:])
    n_light = n_kept - n_heavy
    reached = np.cumsum(weight[light])
    level = (np.arange(n_light) + 0.5) / n_light * reached[-1]
    chosen = light[np.minimum(np.searchsorted(reached, level), len(light) - 1)]
    kept = np.concatenate([order[:n_heavy], chosen])
    new = np.concatenate([falling[:n_heavy], np.full(n_light, reached[-1] / n_light)])
    sorted_again = np.argsort(kept, kind="stable")
    return kept[sorted_again], new[sorted_again] / new.sum()


def back_and_forth(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return an order of points in a plane in which neighbours are near: strips of one coordinate along the other.

    What `thinned` takes out of it is spread evenly over both.
    """
    n_strips = max(1, int(np.sqrt(len(first))))
    strip = np.empty(len(first), dtype=np.intp)
    strip[np.argsort(first, kind="stable")] = np.arange(len(first)) * n_strips // len(first)
    return np.lexsort((np.where(strip % 2, second, -second), strip))


def systematic_resample(weight, n_draws, rng):
    """Return node indices in random order, each node as often as its weight says, within one."""
    levels = (np.arange(n_draws) + rng.random()) / n_draws
    at = np.minimum(np.searchsorted(np.cumsum(weight), levels), len(weight) - 1)
    return rng.permutation(at)


def distinct_matrices(matrices):
    """Return the distinct ones of matrices (n, ..), themselves if all differ, and which of them each is."""
    distinct, which = np.unique(matrices, axis=0, return_inverse=True)
    return (distinct, which.reshape(-1)) if len(distinct) < len(matrices) else (matrices, np.arange(len(matrices)))


def nearest(nodes, points):
    """Return for each point (n_points, d) the index of the nearest of the nodes (n_nodes, d), in sds of the nodes."""
    unit = nodes.std(axis=0)
    unit = np.where(unit > 0, unit, 1.0)
    return cKDTree(nodes / unit).query(points / unit)[1]


def covariance_entries(sigma, factor):
    """Return log sigma and the entries of the factor of Sigma, (n_nodes, 1 + q (q + 1) / 2)."""
    row, column = np.tril_indices(factor.shape[1])
    return np.column_stack([np.log(sigma), sigma[:, None] * factor[:, row, column]])
