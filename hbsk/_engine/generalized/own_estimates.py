"""Maximum likelihood in each group by itself: what no pooling says, at the edge where it lies there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hbsk._engine.generalized.families import FAMILIES

STEPS = 60
# Largest change of a predictor in a step, and the one after which the next is rounding: Newton's method squares it.
LONGEST_STEP, SHORT_STEP = 2.0, 1e-6
# Where predictors still change by so much, and the log likelihood does not, they are on their way to infinity: steps
# are 1 there, and what is left to gain falls by a factor of e. A count of 1e-6 would be seen. Coefficients that change
# by less than that share of the largest change stay where they are.
LONG_STEP, NO_GAIN, STILL = 0.5, 1e-8, 1e-3
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
    ones = np.flatnonzero(np.all(z == 1.0, axis=0))
    counted = np.ones(len(y)) if weight is None else weight
    y, size = (y, size) if weight is None else (weight * y, weight * size)
    if z.shape[1] == 1 and len(ones) and (family == "poisson" or not np.ptp(offset)):
        return _of_sums(family, y, size, codes, n_groups, offset)[:, None]
    shift, total = 0.0, y.sum()
    if family == "poisson" and len(ones) and total > 0:  # rates far from 1 are not on their way to infinity
        shift = float(np.log(total) - np.log(size.sum()))
    scale = np.sqrt(counted @ z**2 / counted.sum())
    scale = np.where(scale > 0, scale, 1.0)
    rows = _Rows(y, size, z / scale, codes, offset + shift)
    known = _identified(_grams(rows.columns, counted, codes, n_groups))
    estimate = np.zeros(known.shape)
    if len(ones):
        estimate[:, ones[0]] = _shifts(family, rows, n_groups)
    if z.shape[1] == 1 and len(ones):  # nothing but successes, or failures, has its end where it is
        estimate[:, 0] += _edges(y, size, codes, n_groups)
    moving = np.flatnonzero(np.isfinite(estimate).all(axis=1))
    if len(moving) < n_groups:
        rows = rows.of(np.isfinite(estimate).all(axis=1))
    for _ in range(STEPS):
        step, longest, gain = _newton_step(family, rows, estimate[moving])
        leaves = (gain < NO_GAIN) & (longest > LONG_STEP)
        if leaves.any():
            size_of_step = np.abs(step)
            changes = size_of_step > STILL * size_of_step.max(axis=1, keepdims=True)
            step = np.where(leaves[:, None] & changes, np.copysign(np.inf, step), step)
        estimate[moving] += step
        goes_on = (longest > SHORT_STEP) & ~leaves
        if not goes_on.any():
            break
        if leaves.any() or 2 * np.count_nonzero(goes_on) <= len(moving):
            rows, moving = rows.of(goes_on), moving[goes_on]
    found = estimate / scale
    found[:, ones[:1]] += shift
    return np.where(known, found, np.nan)


class _Rows(NamedTuple):
    """Rows of some groups, y and size times their copies."""

    y: np.ndarray
    size: np.ndarray
    columns: np.ndarray
    codes: np.ndarray
    offset: np.ndarray

    def of(self, groups: np.ndarray) -> _Rows:
        """Return the rows of groups that a mask keeps, which are numbered anew."""
        y, size, columns, codes, offset = (part[groups[self.codes]] for part in self)
        return _Rows(y, size, columns, (np.cumsum(groups) - 1)[codes], offset)


def _newton_step(family, rows, estimate):
    """Return Newton steps (n_groups, q), the largest change of a predictor of each, and what the likelihood gains.

    The last two are those of steps without a limit; the gain of a log likelihood, doubled, by its quadratic.
    """
    y, size, columns, codes, offset = rows
    n_groups, q = estimate.shape
    mean, curvature = FAMILIES[family].mean_and_weight(offset + np.einsum("rk,rk->r", columns, estimate[codes]))
    error = y - size * mean
    gradient = np.empty((n_groups, q))
    for k in range(q):
        gradient[:, k] = np.bincount(codes, error * columns[:, k], n_groups)
    hessian = _grams(columns, size * curvature, codes, n_groups)
    diagonal = np.einsum("jkk->jk", hessian)
    diagonal[:] = np.maximum((1.0 + 1e-12) * diagonal, 1e-288)  # where columns say the same, or nothing
    step = gradient / diagonal if q == 1 else np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
    longest = np.zeros(n_groups)
    np.maximum.at(longest, codes, np.abs(np.einsum("rk,rk->r", columns, step[codes])))
    shorter = LONGEST_STEP / np.maximum(longest, LONGEST_STEP)
    return step * shorter[:, None], longest, np.einsum("jk,jk->j", gradient, step)


def _shifts(family, rows, n_groups):
    """Return how much more the rate of each group is than the offsets say, on the scale of the link; 0 at an edge.

    Of rows that are alike it is the maximum of the likelihood, and saves half of the steps to it elsewhere.
    """
    y, size, _, codes, offset = rows
    mean, _ = FAMILIES[family].mean_and_weight(offset)
    y, expected, size = (np.bincount(codes, part, n_groups) for part in (y, size * mean, size))
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.log(y) - np.log(expected)
        if family == "binomial":
            shift -= np.log(size - y) - np.log(size - expected)
    return np.where(np.isfinite(shift), shift, 0.0)


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
    """Return infinities for groups of nothing but failures or successes, and 0 for others."""
    y, size = np.bincount(codes, y, n_groups), np.bincount(codes, size, n_groups)
    return np.where(size > 0, np.where(y >= size, np.inf, np.where(y <= 0, -np.inf, 0.0)), 0.0)


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
    values, vectors = np.linalg.eigh(gram)
    inside = values > UNIDENTIFIED * values[:, -1:]
    return np.einsum("jik,jk->ji", vectors**2, inside) > 1.0 - 1e-6
