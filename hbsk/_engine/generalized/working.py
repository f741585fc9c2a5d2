"""The Gaussian model that a binary or count model is near modes of the effects of its groups.

At an estimate (b^, u^) with the weights W and the means m mu there, it has the working responses ``X b^ + Z u^ + W^-1
(y - m mu)``, normal with the precisions W (Breslow, Clayton 1993, J. Am. Stat. Assoc. 88, section 2.1). All that is
asked of it hangs on few sums: ``X'WX``, ``X'WZ`` and ``Z'WZ`` of groups, and with working responses less ``X b^``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from hbsk._engine.generalized.cells import Cells
from hbsk._engine.generalized.families import FAMILIES
from hbsk._engine.generalized.inner import ROUNDING, added, inverse_root, precision_of_z, times, transposed_times

# Steps of complete pooling, and the longest in units of the predictor.
POOLED_STEPS, LONGEST_STEP = 50, 3.0
POOLED_TOLERANCE = 1e-4
# Numbers of groups, their columns and points that are held at a time.
HELD_NUMBERS = 1_000_000
# Least precision of a direction of b, as a share of the largest.
FLAT = 1e-12


def complete_pooling(cells: Cells, prior_mean: np.ndarray, prior_precision: np.ndarray) -> np.ndarray:
    """Return the mode of the coefficients without effects of groups, by iterated weighted least squares."""
    family = FAMILIES[cells.family]
    common = np.where(prior_precision > 0, prior_mean, 0.0)
    if not len(common):
        return common
    share = cells.y.sum() / max(cells.size.sum(), 1e-300)
    if family.name == "binomial" and 0 < share < 1 and cells.offset is None and np.all(cells.x[:, 0] == 1.0):
        common[0] = np.log(share / (1.0 - share))
    for _ in range(POOLED_STEPS):
        mean, weight = family.mean_and_weight(cells.predictor(common[None])[:, 0])
        gradient = (cells.y - cells.size * mean) @ cells.x - prior_precision * (common - prior_mean)
        precision = cells.x.T @ (cells.x * (weight * cells.size)[:, None]) + np.diag(prior_precision)
        step = np.linalg.lstsq(precision, gradient, rcond=1e-12)[0]
        step *= min(1.0, LONGEST_STEP / max(np.abs(cells.x @ step).max(), 1e-300))
        common = common + step
        if step @ precision @ step < POOLED_TOLERANCE:
            break
    return common


@dataclass(frozen=True)
class ModeStart:
    """Where modes of groups are looked for at any (b, theta): those of the Gaussian model with weights held.

    With ``t_j = Z'(y - m mu) + Z'WZ u^`` at a known mode u^ of the effects, one step of Newton's method in u leads to
    ``z = (I + Lambda' Z'WZ Lambda)^-1 Lambda' (t_j - Z'WX (b - b^))``, by products over groups alone.

    Attributes
    ----------
    common : ndarray of shape (p,)
        b^.
    target : ndarray of shape (q, n_groups)
        t.
    zwz : ndarray of shape (q, q, n_groups)
    zwx : ndarray of shape (q, n_groups, p)
    """

    common: np.ndarray
    target: np.ndarray
    zwz: np.ndarray
    zwx: np.ndarray

    @cached_property
    def whitened(self) -> tuple[np.ndarray, np.ndarray]:
        """Return C (n_groups, q, q) of ``Z'WZ = C C'`` and ``C^-1 Z'WX`` (n_groups, q, p), in directions it has."""
        values, vectors = np.linalg.eigh(np.moveaxis(self.zwz, 2, 0))
        root = np.sqrt(np.maximum(values, 0.0))
        seen = root > np.sqrt(ROUNDING) * root[:, -1:]
        unrooted = np.where(seen, 1.0 / np.where(seen, root, 1.0), 0.0)
        white = unrooted[..., None] * np.einsum("jba,bjx->jax", vectors, self.zwx)
        return vectors * (root * seen)[:, None], white

    def of(self, groups: slice) -> ModeStart:
        """Return the start of some groups."""
        return ModeStart(self.common, self.target[:, groups], self.zwz[:, :, groups], self.zwx[:, groups])

    def modes(self, common: np.ndarray, factor: np.ndarray, groups: slice) -> np.ndarray:
        """Return z, (q, n_groups, n_points), at coefficients (n_points, p) and factors (n_points, q, q)."""
        q = len(self.zwz)
        if not q:
            return np.empty((0, len(range(*groups.indices(self.target.shape[1]))), len(common)))
        zwz = self.zwz[:, :, groups]
        left = self.target[:, groups, None] - self.zwx[:, groups] @ (common - self.common).T
        turned = transposed_times(factor, left)
        if q == 1:
            return turned / (1.0 + factor[:, 0, 0] ** 2 * zwz[0, 0, :, None])
        root = inverse_root(precision_of_z(factor, zwz[..., None]))
        along = [added(root[a, b] * turned[a] for a in range(b + 1)) for b in range(q)]
        return np.array([added(root[a, b] * along[b] for b in range(a, q)) for a in range(q)])


class WorkingModel(NamedTuple):
    """The working model at an estimate.

    Attributes
    ----------
    start : ModeStart
        Its sums of groups, and b^.
    xwx : ndarray of shape (p, p)
        ``X'WX``.
    xwy : ndarray of shape (p,)
        ``X'W`` times the working responses less ``X b^``.
    """

    start: ModeStart
    xwx: np.ndarray
    xwy: np.ndarray

    def profile(
        self, factor: np.ndarray, prior_mean: np.ndarray, prior_precision: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the log density, its b the best for each Lambda, and these b.

        With ``H = Lambda (I + Lambda' Z'WZ Lambda)^-1 Lambda'`` of a group, and w the working responses less ``X b^``,
        b less b^ has the precision ``P = X'WX + K - sum_j X'WZ H Z'WX`` and the mean ``P^-1 r``, ``r = X'W w - K (b^ -
        m) - sum_j X'WZ H Z'W w``, and the log density is ``(r'P^-1 r + sum_j w'WZ H Z'W w - sum_j log|I + Lambda' Z'WZ
        Lambda|) / 2`` beside a constant.

        Parameters
        ----------
        factor : ndarray of shape (n_points, q, q)
            ``Lambda``.
        prior_mean, prior_precision : ndarray of shape (p,)
            m, and the diagonal of K.

        Returns
        -------
        log_density : ndarray of shape (n_points,)
        common : ndarray of shape (n_points, p)
        """
        start, p = self.start, len(prior_mean)
        known = np.concatenate([start.zwx, start.target[..., None]], axis=2)
        whole = np.zeros((p + 1, p + 1))
        whole[:p, :p] = self.xwx + np.diag(prior_precision)
        whole[:p, p] = self.xwy - prior_precision * (start.common - prior_mean)
        value, products = np.empty(len(factor)), np.empty((len(factor), p + 1, p + 1))
        width = max(1, HELD_NUMBERS // known.size)
        for first in range(0, len(factor), width):
            some = slice(first, first + width)
            root = inverse_root(precision_of_z(factor[some], start.zwz[..., None]))
            value[some] = np.log(np.einsum("aajm->ajm", root)).sum(axis=(0, 1))
            spread = [times(factor[some], root[:, c]) for c in range(len(root))]
            moved = np.einsum("cajm,ajx->mcjx", spread, known).reshape(root.shape[-1], -1, p + 1)
            products[some] = whole - moved.swapaxes(1, 2) @ moved
        precision, score = products[:, :p, :p], products[:, :p, p]
        eigenvalues, axes = np.linalg.eigh(precision)
        along = (score[:, None] @ axes)[:, 0]
        shift = along / np.maximum(eigenvalues, FLAT * eigenvalues.max(axis=1, keepdims=True, initial=0.0))
        value += 0.5 * (np.sum(along * shift, axis=1) - products[:, p, p])
        return value, start.common + (axes @ shift[..., None])[..., 0]


def predictor_at(cells: Cells, common: np.ndarray, effects: np.ndarray) -> np.ndarray:
    """Return the linear predictor of cells at coefficients (p,) and effects (q, n_groups)."""
    eta = cells.predictor(common[None])[:, 0]
    for a in range(cells.n_varying):
        eta += effects[a, cells.group] * cells.columns[a]
    return eta


def working_model(cells: Cells, common: np.ndarray, factor: np.ndarray, modes: np.ndarray) -> WorkingModel:
    """Return the working model at a known mode.

    Parameters
    ----------
    cells : Cells
    common : ndarray of shape (p,)
    factor : ndarray of shape (q, q)
        ``Lambda``.
    modes : ndarray of shape (q, n_groups)
        Of z.
    """
    effects = factor @ modes
    mean, weight = FAMILIES[cells.family].mean_and_weight(predictor_at(cells, common, effects))
    weight = weight * cells.size
    residual = cells.y - cells.size * mean
    q, n_groups, p = cells.n_varying, cells.n_groups, len(common)
    zwz, zwx = np.empty((q, q, n_groups)), np.empty((q, n_groups, p))
    for a in range(q):
        weighted = weight * cells.columns[a]
        zwz[a] = np.add.reduceat(weighted * cells.columns, cells.starts, axis=1)
        zwx[a] = np.add.reduceat(weighted[:, None] * cells.x, cells.starts, axis=0)
    target = np.add.reduceat(residual * cells.columns, cells.starts, axis=1) + np.einsum("abj,bj->aj", zwz, effects)
    xwy = residual @ cells.x + np.einsum("ajx,aj->x", zwx, effects)
    return WorkingModel(ModeStart(common, target, zwz, zwx), cells.x.T @ (cells.x * weight[:, None]), xwy)
