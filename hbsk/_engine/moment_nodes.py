"""Few weighted points in place of many, where what is asked of each is dear.

Along narrow coordinates a function is nearly of second degree: the points ``mean +- sqrt(d) L_k`` of d of them, with
``L L'`` their covariance, are exact for that (Julier, Uhlmann 2004, Proc. IEEE 92(3), equation 11), and so are the
d + 1 corners of a simplex, which do where they are very narrow. Along a wide one, as the sd of few groups has, Gauss's
rule of m points for the coordinate's own, skew law is exact to degree ``2 m - 1`` (Golub, Welsch 1969, Math. Comp. 23).
Of the products of these rules some are kept, with other weights: as many as it takes to leave each rule what it is, and
all coordinates uncorrelated (Tchakaloff's theorem says that such weights exist). Which points these are is settled by a
cost that no two of them share: a change of values in the last digits does not change them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linprog, nnls

# Sd from which a coordinate is wide: the log of the sd of fewer than some ten groups has that. How many may be, the
# widest first, and the points along each.
WIDE, MOST_WIDE, POINTS_OF_WIDE = 0.25, 4, 6
# Sd of all narrow coordinates below which the corners of a simplex, half as many as pairs, do: what they leave of third
# degree grows with its cube (sds of effects of 150 and 120 levels, sds of .1: .2 % off; of InstEval, .02: .004 %).
NEAR = 0.05
# Weight of a point that is there by rounding only; length, in values, of what is left of a step that rounding made.
LEAST_WEIGHT, ROUNDING = 1e-9, 1e-8
# Of ten random costs of points the one whose sds of effects were best for eight crossed designs.
COST = 1


def moment_nodes(values: np.ndarray, weight: np.ndarray, shared: Sequence[int] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Return points (m, d) and their weights (m,) with the mean and the covariance of values (n, d) with weights.

    Parameters
    ----------
    values : ndarray of shape (n, d)
    weight : ndarray of shape (n,)
        Summing to 1.
    shared : sequence of int, optional
        Coordinates that many points are to have in common, where they are narrow.
    """
    mean, d = weight @ values, values.shape[1]
    deviation = values - mean
    covariance = (weight[:, None] * deviation).T @ deviation + 1e-12 * np.eye(d)
    spread = np.diag(covariance)
    order = np.argsort(-spread, kind="stable")
    n_wide = min(int(np.sum(spread > WIDE**2)), MOST_WIDE)
    wide, narrow = order[:n_wide], order[n_wide:]
    shared = [] if set(wide) & set(shared) else [k for k in narrow if k in shared]
    order = np.array([*wide, *shared, *(k for k in narrow if k not in shared)])
    covariance = covariance[np.ix_(order, order)]
    across = np.zeros((n_wide, d - n_wide))
    if shared:  # wide ones move none of them; what they have to do with each other is left to the weights
        across, covariance[:n_wide, n_wide:], covariance[n_wide:, :n_wide] = (
            covariance[:n_wide, n_wide:].copy(),
            0.0,
            0.0,
        )
    root = np.linalg.cholesky(covariance)
    white = np.linalg.solve(root, deviation[:, order].T)
    across = np.linalg.solve(root[n_wide:, n_wide:], np.linalg.solve(root[:n_wide, :n_wide], across).T).T
    rules = [gauss_rule(coordinate, weight, POINTS_OF_WIDE) for coordinate in white[:n_wide]]
    if n_wide < d:
        reach = np.sqrt(d - n_wide) * np.eye(d - n_wide)
        is_near = spread[narrow].max() < NEAR**2
        symmetric = _simplex(d - n_wide) if is_near else np.concatenate([reach, -reach])
        rules.append((symmetric, np.full(len(symmetric), 1.0 / len(symmetric))))
    points, of_points = rules[0]
    marginals = np.eye(len(points))
    for number, (more, of_more) in enumerate(rules[1:], start=1):
        products = across if number == n_wide else np.zeros((number, 1))
        points, of_points, marginals = _coupled(points, of_points, marginals, more, of_more, products)
    nodes = np.empty_like(points)
    nodes[:, order] = mean[order] + points @ root.T
    if shared:  # to the last digit
        own = slice(n_wide, n_wide + len(shared))
        at, same = np.unique(points[:, own], axis=0, return_inverse=True)
        nodes[:, shared] = (mean[shared] + at @ root[own, own].T)[same.reshape(-1)]
    return nodes, of_points


def _simplex(d: int) -> np.ndarray:
    """Return corners (d + 1, d) of a simplex with the mean 0 and the covariance of the identity."""
    corners = np.zeros((d + 1, d))
    for k in range(d):
        left = d - k
        corners[k, k] = np.sqrt((d + 1) * left / (left + 1))
        corners[k + 1 :, k] = -corners[k, k] / left
    return corners


def gauss_rule(values: np.ndarray, weight: np.ndarray, n_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points (m, 1) and weights (m,) of Gauss's rule for values (n,) with weights; as many as values, if fewer.

    The eigenvalues of Lanczos's tridiagonal matrix of the values, and the squares of the first entries of its
    eigenvectors.
    """
    basis, diagonal, beside = [np.sqrt(weight / weight.sum())], [], []
    while True:
        moved = values * basis[-1]
        diagonal.append(basis[-1] @ moved)
        known = np.stack(basis)
        for _ in range(2):  # once leaves rounding of the first
            moved = moved - (known @ moved) @ known
        length = np.linalg.norm(moved)
        if len(basis) == n_points or length <= ROUNDING * np.abs(values).max():
            break
        basis.append(moved / length)
        beside.append(length)
    points, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    return points[:, None], vectors[0] ** 2


def _coupled(points, weight, marginals, more, of_more, products):
    """Return points of two rules together, their weights, and the point of each rule that they have, as indicators.

    Means of products of their coordinates are to be ``products``.
    """
    i, k = (axis.ravel() for axis in np.indices((len(points), len(more))))
    together = np.concatenate([points[i], more[k]], axis=1)
    marginals = np.concatenate([marginals[:, i], np.eye(len(more))[:, k]])
    n_before = points.shape[1]
    a, b = np.triu_indices(together.shape[1], 1)
    kept_so = np.concatenate([marginals, (together[:, a] * together[:, b]).T])
    wanted = kept_so @ (weight[i] * of_more[k])
    is_across = (a < n_before) & (b >= n_before)
    wanted[len(marginals) :][is_across] += products[a[is_across], b[is_across] - n_before]
    found = linprog(np.random.default_rng(COST).random(len(i)), A_eq=kept_so, b_eq=wanted, method="highs-ds")
    kept = np.arange(len(i)) if found.x is None else np.flatnonzero(found.x > LEAST_WEIGHT)
    chosen = nnls(kept_so[:, kept], wanted)[0]  # to the last digits
    kept, chosen = kept[chosen > 0], chosen[chosen > 0]
    return together[kept], chosen / chosen.sum(), marginals[:, kept]
