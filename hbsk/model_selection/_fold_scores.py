"""How well a fit predicts rows of which only the sums are there.

With ``v`` the coefficients of [X y] in the residual of a row before effects, ``(-b, 1)``, and ``u_j`` the expected
effects of its group (symbols of `hbsk._engine.marginal`):

    sum w (y - x'b - z'u)^2 = v' G v - 2 sum_j u_j' B_j v + sum_j u_j' A_j u_j
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from hbsk._engine.group_algebra import between_groups, rotate_groups
from hbsk._engine.marginal import MarginalModel
from hbsk._engine.scaling import ColumnScaling
from hbsk._engine.sums import CentredSums, GroupSums
from hbsk._posterior.nodes import MarginalPosterior
from hbsk.model_selection._leave_group_out import log_likelihood

# Nodes times groups that are worked on at a time.
BLOCK_ELEMENTS = 500_000


@dataclass(frozen=True)
class SquaredErrors:
    """Sums over the rows of a fold.

    Attributes
    ----------
    weight : float
        Of all rows; NaN where there is neither an intercept nor a varying one, and standard errors are known.
    residual, total : float
        Weighted squares of y less its prediction, and of y less its mean.
    """

    weight: float
    residual: float
    total: float

    @property
    def r2(self) -> float:
        """The coefficient of determination."""
        if self.total <= 0:
            return 1.0 if self.residual <= 0 else 0.0
        return 1.0 - self.residual / self.total

    @property
    def rmse(self) -> float:
        """The root of the mean squared error."""
        return float(np.sqrt(max(self.residual, 0.0) / self.weight))


def squared_errors(
    held: CentredSums, common: np.ndarray, effects: np.ndarray, *, known_standard_error: bool
) -> SquaredErrors:
    """Return the sums of squared errors of a fold.

    Parameters
    ----------
    held : CentredSums
        Of the fold.
    common : ndarray of shape (p,)
        Coefficients of the raw columns.
    effects : ndarray of shape (n_groups, q)
        Expected effects at zero of the groups of the fold, those that were not seen included.
    known_standard_error : bool
    """
    sums, moments = held.sums, held.moments
    v = np.append(-common, 1.0)
    if held.has_intercept:
        v[0] += held.y_centre - common @ held.x_centre
    u = effects.T.copy()
    if held.varying_intercept is not None:
        u[held.varying_intercept] += held.z_centre @ u
    of_rows = v @ sums.xx @ v
    crossed = np.einsum("kj,kaj,a->", u, sums.zx, v, optimize=True)
    of_effects = np.einsum("kj,klj,lj->", u, sums.zz, u, optimize=True)
    residual = float(of_rows - 2 * crossed + of_effects)
    if not known_standard_error:
        return SquaredErrors(moments.n, residual, moments.n * moments.y_sd**2)
    if held.has_intercept:
        weight, deviation = sums.xx[0, 0], sums.xx[0, -1]
    elif held.varying_intercept is not None:
        at = held.varying_intercept
        weight, deviation = sums.zz[at, at].sum(), sums.zx[at, -1].sum()
    else:
        return SquaredErrors(np.nan, residual, np.nan)
    return SquaredErrors(float(weight), residual, float(sums.xx[-1, -1] - deviation**2 / weight))


def joint_log_density(
    posterior: MarginalPosterior, model: MarginalModel, scaling: ColumnScaling, held: GroupSums
) -> float:
    """Return the log density of all rows of groups that a fit has not seen, given the rows of the fit.

    Effects and common coefficients are integrated exactly at each node of the variance parameters,
    ``p(y_new | y, node) = p(y, y_new | node) / p(y | node)``, and the nodes are averaged over.

    Parameters
    ----------
    posterior, model, scaling
        Of the fit.
    held : GroupSums
        Of the new groups, in the units of the fit.
    """
    factor, log_sigma = posterior.factor, np.log(posterior.sigma)[:, None]
    prior = model.prior_mean, model.prior_precision
    own, new = (_without_effects(sums, factor) for sums in (model.sums, held))

    def density(log_det, sums, n, log_weight):
        shape = len(log_det)
        return log_likelihood(sums, log_det, np.full(shape, n), np.full(shape, log_weight), log_sigma, prior)[:, 0]

    fit = model.sums
    given = density(*own, fit.n, fit.log_weight)
    whole = density(own[0] + new[0], own[1] + new[1], fit.n + held.n, fit.log_weight + held.log_weight)
    return float(logsumexp(whole - given, b=posterior.weight) - held.n * np.log(scaling.y_scale))


def _without_effects(sums: GroupSums, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``sum_j log|M_j|``, (n_nodes,), and C, (n_nodes, p + 1, p + 1), of all groups at each node."""
    n_nodes, q = factor.shape[:2]
    log_det, within = np.zeros(n_nodes), np.repeat(sums.xx[None], n_nodes, axis=0)
    if not q:
        return log_det, within
    lower, rotated = rotate_groups(sums.zz, sums.zx)
    within -= between_groups(rotated)
    lower, rotated = lower.transpose(2, 0, 1), rotated.transpose(2, 0, 1)
    width = max(1, BLOCK_ELEMENTS // (n_nodes * len(sums.xx) * q))
    for start in range(0, len(lower), width):
        groups = slice(start, start + width)
        half = np.einsum("jki,mkl->mjil", lower[groups], factor, optimize=True)  # L_j' Lambda
        root = np.linalg.cholesky(np.eye(q) + half @ half.swapaxes(2, 3))  # of M_j
        log_det += 2 * np.log(np.einsum("mjkk->mjk", root)).sum(axis=(1, 2))
        solved = np.linalg.solve(root, np.broadcast_to(rotated[groups], (n_nodes, *rotated[groups].shape)))
        within += np.einsum("mjka,mjkb->mab", solved, solved, optimize=True)
    return log_det, within
