"""Maximum likelihood in each group by itself: what no pooling says, at the edge where it lies there."""

from __future__ import annotations

import numpy as np

from hbsk._engine.generalized.families import FAMILIES

STEPS = 60
# Largest change of a predictor in a step, and the size beyond which an estimate is on its way to infinity.
LONGEST_STEP, FAR = 2.0, 25.0
# Share of the largest eigenvalue below which columns of a group say the same.
UNIDENTIFIED = 1e-10


def own_estimates(
    family: str,
    y: np.ndarray,
    size: np.ndarray,
    z: np.ndarray,
    codes: np.ndarray,
    n_groups: int,
    offset: np.ndarray,
    weight: np.ndarray | None = None,
) -> np.ndarray:
    """Return coefficients of every group by maximum likelihood, (n_groups, q): Newton's method in all groups at once.

    Parameters
    ----------
    family : {"binomial", "poisson"}
    y, size : ndarray of shape (n_rows,)
        Successes or counts, trials or exposure.
    z : ndarray of shape (n_rows, q)
    codes : ndarray of shape (n_rows,), dtype int
    n_groups : int
    offset : ndarray of shape (n_rows,)
        Of the linear predictor.
    weight : ndarray of shape (n_rows,), optional
        Copies.

    Returns
    -------
    ndarray of shape (n_groups, q)
        Infinite where the likelihood rises without end, as of all successes; NaN where a group's rows say nothing of a
        coefficient.
    """
    weight = np.ones(len(y)) if weight is None else weight
    ones = np.flatnonzero(np.all(z == 1.0, axis=0))
    if z.shape[1] == 1 and len(ones) and (family == "poisson" or not np.ptp(offset)):
        return _of_sums(family, weight * y, weight * size, codes, n_groups, offset)[:, None]
    shift = 0.0
    if family == "poisson" and len(ones) and weight @ y > 0:  # rates far from 1 are not on their way to infinity
        shift = float(np.log(weight @ y) - np.log(weight @ size))
    scale = np.sqrt(np.average(z**2, axis=0, weights=weight))
    scale = np.where(scale > 0, scale, 1.0)
    columns = z / scale
    known = _identified(_grams(columns, weight, codes, n_groups))
    reach = np.zeros(n_groups)
    if len(scale) == 1:
        np.maximum.at(reach, codes, np.abs(columns[:, 0]))
    estimate = np.zeros(known.shape)
    if z.shape[1] == 1 and len(ones):  # nothing but successes, or failures, has its end where it is
        estimate[:, 0] = _edges(weight * y, weight * size, codes, n_groups)
    for _ in range(STEPS):
        eta = offset + shift + np.sum(columns * estimate[codes], axis=1)
        mean, curvature = FAMILIES[family].mean_and_weight(eta)
        error = weight * (y - size * mean)
        gradient = np.stack([np.bincount(codes, error * column, n_groups) for column in columns.T], axis=1)
        hessian = _grams(columns, weight * size * curvature, codes, n_groups)
        if len(scale) == 1:
            step = gradient / ((1.0 + 1e-12) * np.maximum(hessian[:, 0], 1e-300))
            longest = reach * np.abs(step[:, 0])
        else:
            ridge = 1e-12 * np.maximum(np.trace(hessian, axis1=1, axis2=2), 1e-300)
            hessian += ridge[:, None, None] * np.eye(len(scale))
            step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
            longest = np.zeros(n_groups)
            np.maximum.at(longest, codes, np.abs(np.sum(columns * step[codes], axis=1)))
        step *= np.minimum(1.0, LONGEST_STEP / np.maximum(longest, 1e-300))[:, None]
        estimate += step
        if not np.any((longest > 1e-10) & np.all(np.abs(estimate) <= FAR, axis=1)):
            break
    found = estimate / scale
    found[:, ones[:1]] += shift
    return np.where(known, np.where(np.abs(estimate) > FAR, np.copysign(np.inf, estimate), found), np.nan)


def _of_sums(family, y, size, codes, n_groups, offset):
    """Return the logit or log of the rate of every group."""
    if family == "poisson":
        largest = np.max(offset)
        size, offset = size * np.exp(offset - largest), np.array([largest])
    y, size = np.bincount(codes, y, n_groups), np.bincount(codes, size, n_groups)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = np.log(y) - np.log(np.maximum(size - y, 0.0) if family == "binomial" else size)
    return estimate - offset[0]


def _edges(y, size, codes, n_groups):
    """Return numbers beyond `FAR` for groups of nothing but failures or successes, and 0 for others."""
    y, size = np.bincount(codes, y, n_groups), np.bincount(codes, size, n_groups)
    return 2.0 * FAR * (np.where((y >= size) & (size > 0), 1.0, 0.0) - np.where((y <= 0) & (size > 0), 1.0, 0.0))


def _grams(columns, weight, codes, n_groups):
    """Return ``Z_j' W Z_j`` of every group, (n_groups, q, q)."""
    q = columns.shape[1]
    gram = np.empty((n_groups, q, q))
    for i in range(q):
        for k in range(i + 1):
            gram[:, i, k] = gram[:, k, i] = np.bincount(codes, weight * columns[:, i] * columns[:, k], n_groups)
    return gram


def _identified(gram):
    """Tell which columns of each group the others do not say already, (n_groups, q)."""
    if gram.shape[1] == 1:
        return gram[:, 0] > 0
    projector = gram @ np.linalg.pinv(gram, rcond=UNIDENTIFIED, hermitian=True)
    return np.abs(np.einsum("jkk->jk", projector) - 1.0) < 1e-6
