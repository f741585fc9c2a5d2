"""The point that varying columns are measured from, and what follows for effects, covariances and priors.

A factor with a varying intercept has the same lines for any point c taken off its other columns: with ``e`` the unit
vector of the intercept and ``R(c) = I - e c'``

    Z u = (Z R(c)) u_c,    u = R(c) u_c,    Sigma = R(c) Sigma_c R(c)'

so that the engine can work where its arithmetic is well conditioned, the priors can refer to any other point, and
answers are reported at zero. ``R(a) R(b) = R(a + b)``, since c is 0 at the intercept.

A prior of sds and correlations, both free, moves from v = Q w to w by the ratio of two Jacobians, since
``|d Sigma / d (tau, Omega)| = 2^q prod tau_k^q`` and ``|d Sigma_v / d Sigma_w| = |Q|^(q + 1) = 1``:

    p(tau_w, Omega_w) = p(tau_v, Omega_v) prod_k (tau_wk / tau_vk)^q

and an LKJ density of Omega_v adds ``2 (eta - 1) sum_k (log tau_wk - log tau_vk)`` to that of Omega_w, since
``log|Omega| = log|Sigma| - 2 sum_k log tau_k``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Distance of two points, in sds of the columns, from which on the data know sds and correlations apart at the means
# only. Nearer in, effects are parametrised where their prior is stated: elsewhere the density has a spike of hardly any
# mass, ``prod_k (tau_wk / tau_vk)^q``, where the sd of the intercept vanishes, and the search for a mode ends there.
# (Posteriors of 3 to 20 groups that need NUTS: at 0.1 to 4 sds none of 14 where the prior is, 1 or 2 at the means; at
# 30, 1 and 4; sleepstudy at 35: 3,072 nodes where the prior is, 1,024 at the means, and a false mode far beyond.)
FAR = 10.0
# Share of its terms below which a difference is rounding.
ROUNDING = 8 * np.finfo(np.float64).eps


def offset_matrix(centre: np.ndarray, intercept: int | None) -> np.ndarray:
    """Return ``R(c)``, shape (q, q): columns less the point are ``Z R(c)``; the identity without an intercept."""
    matrix = np.eye(len(centre))
    if intercept is not None:
        matrix[intercept] -= centre
    return matrix


def less_centre(columns: np.ndarray, centre: np.ndarray, intercept: int | None) -> np.ndarray:
    """Return ``Z R(c)`` of columns (n_rows, q); as often as the intercept counts in a row, so does the point."""
    if intercept is None or not centre.any():
        return columns
    return columns - columns[:, intercept, None] * centre


def at_zero(effects: np.ndarray, centre: np.ndarray, intercept: int | None) -> np.ndarray:
    """Return ``R(c) u_c``, the effects at zero, of effects (..., q) at the point.

    A difference that is nothing but rounding is 0: a column of a factor without a part in the intercept at zero.
    """
    if intercept is None or not centre.any():
        return effects
    moved = effects.copy()
    moved[..., intercept] -= effects @ centre
    size = np.abs(effects[..., intercept]) + np.abs(effects) @ np.abs(centre)
    moved[..., intercept] *= np.abs(moved[..., intercept]) > ROUNDING * size
    return moved


def recentred_sums(zz: np.ndarray, zx: np.ndarray, shift: np.ndarray, intercept: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``R(d)' A_j R(d)`` and ``R(d)' B_j``: the sums about a point that lies ``shift`` further on.

    Parameters
    ----------
    zz : ndarray of shape (q, q, n_groups)
        ``A_j``.
    zx : ndarray of shape (q, p + 1, n_groups)
        ``B_j``.
    shift : ndarray of shape (q,)
    intercept : int
    """
    zz, zx = zz.copy(), zx.copy()
    for k in np.flatnonzero(shift):
        zx[k] -= shift[k] * zx[intercept]
        zz[k] -= shift[k] * zz[intercept]
        zz[:, k] -= shift[k] * zz[:, intercept]
    return zz, zx


def sds_and_correlations(factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sds (n, q) and correlations (n, q, q) of ``Sigma = F F'``, for F of shape (n, q, q)."""
    sd = np.sqrt(np.sum(factor**2, axis=2))
    shape = factor / np.where(sd > 0, sd, 1.0)[:, :, None]
    correlation = np.clip(shape @ shape.swapaxes(1, 2), -1.0, 1.0)
    correlation[:, range(sd.shape[1]), range(sd.shape[1])] = 1.0
    return sd, correlation


def moved_sds(
    sd: np.ndarray, correlation: np.ndarray, centre: np.ndarray, intercept: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return sds (n, q) and correlations (n, q, q) of the effects at zero, from those at the point."""
    if intercept is None or not centre.any():
        return sd, correlation
    infinite = np.isinf(sd)
    finite = np.where(infinite, 0.0, sd)
    covariance = finite[:, :, None] * correlation * finite[:, None, :]
    covariance = at_zero(at_zero(covariance, centre, intercept).swapaxes(1, 2), centre, intercept)
    moved = np.sqrt(np.maximum(np.einsum("mkk->mk", covariance), 0.0))
    unit = np.where(moved > 0, moved, 1.0)
    correlation = np.clip(covariance / (unit[:, :, None] * unit[:, None, :]), -1.0, 1.0)
    infinite[:, intercept] |= infinite[:, centre != 0].any(axis=1)
    moved = np.where(infinite, np.inf, moved)
    correlation[:, range(sd.shape[1]), range(sd.shape[1])] = 1.0
    return moved, correlation


@dataclass(frozen=True)
class Location:
    """Where effects are parametrised: w, while priors are stated for ``v = Q w`` and the engine has ``u = F w``.

    Attributes
    ----------
    to_prior : ndarray of shape (q, q)
        Q, with entries off its diagonal within blocks of columns only whose sds and correlations are all free.
    to_engine : ndarray of shape (q, q)
        F.
    power : ndarray of shape (q,)
        ``q_b + 2 (eta_b - 1)`` for the columns of such a block b, of q_b columns; otherwise 0.
    """

    to_prior: np.ndarray
    to_engine: np.ndarray
    power: np.ndarray

    @property
    def moved(self) -> np.ndarray:
        """Columns of the blocks whose prior is stated for other effects."""
        return np.flatnonzero(self.power)

    @property
    def prior_columns(self) -> np.ndarray:
        """Return the map, (q, q), from the engine's columns to those whose effects the priors are stated for."""
        return self.to_engine @ np.linalg.inv(self.to_prior)

    @property
    def reach(self) -> np.ndarray:
        """Sd of all effects of the engine together, (q,), where one effect of theta has the sd 1."""
        return np.sqrt(np.sum(self.to_engine**2, axis=0))


def locate(
    shift: np.ndarray,
    intercept: int | None,
    blocks: Sequence[tuple[int, ...]],
    lkj_eta: Sequence[float],
    is_free: Sequence[bool],
) -> Location | None:
    """Choose where effects are parametrised.

    A block of correlated effects whose sds are all free may be parametrised anywhere: where the prior is stated, unless
    that is `FAR` from the means of the columns. Others are parametrised where their prior is stated. (Orthogonal
    combinations of columns that are much alike were tried: splines got narrower ridges, not wider ones.)

    Parameters
    ----------
    shift : ndarray of shape (q,)
        From the point that priors refer to, to the centre of the columns, in units of the columns.
    intercept : int or None
    blocks, lkj_eta
        As in `VarianceParameters`.
    is_free : sequence of bool
        Whether the sd of a column may be any positive number.

    Returns
    -------
    location : Location or None
        None where effects of theta, of the priors and of the engine are the same.
    """
    if intercept is None or not shift.any():
        return None
    q = len(shift)
    moved, power = np.zeros(q), np.zeros(q)
    for block, eta in zip(blocks, lkj_eta, strict=True):
        at = list(block)
        if intercept in block and np.linalg.norm(shift[at]) > FAR and all(is_free[k] for k in block):
            moved[at], power[at] = shift[at], len(block) + 2 * (eta - 1)
    to_prior = offset_matrix(moved, intercept)
    return Location(to_prior, offset_matrix(moved - shift, intercept), power)
