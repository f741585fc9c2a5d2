"""The joint mode of common coefficients and variance parameters, by Newton's method with Louis's Hessian."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hbsk._engine.generalized.cells import repeated
from hbsk._engine.generalized.families import FAMILIES
from hbsk._engine.generalized.inner import group_modes, inverse_root, precision_of_z
from hbsk._engine.generalized.model import GeneralizedModel
from hbsk._engine.generalized.working import LONGEST_STEP, ModeStart, WorkingModel, predictor_at, working_model
from hbsk._engine.mode_search import LAST_STEP, TRUST_RADIUS, Look, ModeSearch, trust_step

# Of more groups than these a share of them finds where the search for the mode begins.
MANY_GROUPS = 4_000
FEW_GROUPS = 500
# Sds between groups, in units of the linear predictor for one sd of a column, between which the search begins, how many
# places are looked at, and at which of them, an sd of 0.6, modes of groups are found for it.
LEAST_SD, LARGEST_SD, N_SDS, MIDDLE = 0.07, 2.2, 9, 5
# Newton's steps of the search in the working model, and the step of its differences in theta. (Slopes: 144 made-up
# models take 5.4 looks after one step, 5.1 after two.)
WORKING_STEPS, WORKING_DIFFERENCE = 2, 0.5


class JointMode(NamedTuple):
    """The mode of (b, theta).

    Attributes
    ----------
    psi : ndarray of shape (n_dim,)
    precision : ndarray of shape (n_dim, n_dim)
        Minus the Hessian next to it.
    start : ModeStart
        What the modes of groups follow from.
    xwx : ndarray of shape (p, p)
        ``X'WX`` there.
    lean : ndarray of shape (p,)
        How far the mean of b given theta is from its mode.
    """

    psi: np.ndarray
    precision: np.ndarray
    start: ModeStart
    xwx: np.ndarray
    lean: np.ndarray


class Seen(NamedTuple):
    """What a look has found of groups: ``Lambda`` (q, q), modes of z (q, n_groups), and the working model there."""

    look: Look
    factor: np.ndarray
    modes: np.ndarray
    working: WorkingModel


class LouisSearch(ModeSearch):
    """A search that gets the Hessian with the gradient, and begins each look where the modes of the last one lead.

    Parameters
    ----------
    model : GeneralizedModel
    start : ModeStart
        What the modes of the first look follow from.
    """

    def __init__(self, model: GeneralizedModel, start: ModeStart):
        super().__init__(lambda psi: (np.empty(len(psi)), psi))
        self.model, self.start = model, start
        self.seen: Seen | None = None

    def look(self, points: np.ndarray) -> Look:
        """Return the density and its derivatives at the one point, (1, n_dim)."""
        model, p = self.model, self.model.n_common
        factor = model.variance_points(points[:, p:])[1]
        look, modes = model.look(points[0], self.start.modes(points[:, :p], factor, slice(None)))
        working = working_model(model.cells, points[0, :p], factor[0], modes[:, :, 0])
        self.seen, self.start = Seen(look, factor[0], modes[:, :, 0], working), working.start
        return look


def find_joint_mode(model: GeneralizedModel, begin: tuple[np.ndarray, ModeStart] | None = None) -> JointMode:
    """Return the joint mode of (b, theta), to a hundredth of a posterior sd.

    Parameters
    ----------
    model : GeneralizedModel
    begin : tuple, optional
        Where the search begins, (n_dim,), and what the modes of groups there follow from.
    """
    psi, start = _begin(model) if begin is None else begin
    search = LouisSearch(model, start)
    last = search.run(psi[None])
    psi = last.theta + (last.step if last.is_within(LAST_STEP) else 0.0)
    if search.seen is None or search.seen.look is not last:  # a step that was not taken
        search.look(last.theta[None])
    assert search.seen is not None
    _, factor, modes, working = search.seen
    return JointMode(psi, last.precision, working.start, working.xwx, lean(model, last, factor, modes, working.start))


def lean(model: GeneralizedModel, last: Look, factor: np.ndarray, modes: np.ndarray, start: ModeStart) -> np.ndarray:
    """Return how far the mean of b given theta is from its mode, to first order: ``-C D'(m A''' h) / 2``.

    Rows ``d_i = x_i - X'WZ H z_i`` of D, ``H = Lambda (I + Lambda'Z'WZ Lambda)^-1 Lambda'``, are the derivatives of the
    predictor where the effects of the group follow b; C is the covariance of b and ``h_i = d_i'C d_i`` (Tierney, Kass,
    Kadane 1989, JASA 84).
    """
    cells, p = model.cells, model.n_common
    covariance = pseudo_inverse(last.precision[:p, :p])
    third = FAMILIES[cells.family].third(predictor_at(cells, last.theta[:p], factor @ modes)) * cells.size
    derivative = cells.x.copy()
    if cells.n_varying:
        root = inverse_root(precision_of_z(factor[None], start.zwz[..., None]))[..., 0]
        spread = np.einsum("ab,bcj->acj", factor, root)
        followed = np.einsum("acj,bcj,bjx->ajx", spread, spread, start.zwx)
        for of_group, column in zip(followed, cells.columns, strict=True):
            derivative -= repeated(of_group, cells.group) * column[:, None]
    variance = np.sum((derivative @ covariance) * derivative, axis=1)
    return -0.5 * covariance @ (derivative.T @ (third * variance))


def pseudo_inverse(matrix: np.ndarray) -> np.ndarray:
    """Return the pseudo-inverse of a symmetric matrix: by a third of the calls that NumPy makes for any matrix."""
    eigenvalues, axes = np.linalg.eigh(matrix)
    sizes = np.abs(eigenvalues)
    kept = sizes > 1e-15 * sizes.max(initial=0.0)
    return (axes[:, kept] / eigenvalues[kept]) @ axes[:, kept].T


def _begin(model: GeneralizedModel) -> tuple[np.ndarray, ModeStart]:
    """Return where the search begins, and what modes of groups there follow from.

    Where groups are many that is the mode of some of them, otherwise about that of the Gaussian model with the working
    responses of effects of a middling size.
    """
    pooled = model.pooled
    if model.cells.n_groups > MANY_GROUPS:
        few = model.thinned(model.cells.n_groups // FEW_GROUPS)
        psi, start = _begin(few)
        return LouisSearch(few, start).run(psi[None]).theta, pooled.start
    if not model.parameters.n_dim:
        return pooled.start.common, pooled.start
    cells, parameters, common = model.cells, model.parameters, pooled.start.common
    reach = np.ones(parameters.n_varying) if parameters.location is None else np.maximum(parameters.location.reach, 1.0)
    least, largest = (parameters.theta_of(1.0, sd / reach) for sd in (LEAST_SD, LARGEST_SD))
    theta = np.linspace(least, largest, N_SDS)
    factor = model.variance_points(theta[MIDDLE, None])[1]
    nothing = np.zeros((cells.n_varying, cells.n_groups, 1))
    modes, _ = group_modes(cells, cells.predictor(common[None]), factor, nothing)
    working = working_model(cells, common, factor[0], modes[:, :, 0])
    begin = np.concatenate([common, theta[MIDDLE]])
    step = np.concatenate(_working_mode(model, working, theta)) - begin
    reach = np.abs(cells.x @ step[: len(common)]).max(initial=0.0)
    return begin + step * min(1.0, LONGEST_STEP / max(reach, 1e-300)), working.start


def _working_mode(model: GeneralizedModel, working: WorkingModel, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return b and theta near the mode of the working model: the best of some even theta, and steps from there.

    One coordinate takes the vertex of a parabola, several take Newton's steps by differences.
    """

    def profile(theta):
        variance, factor = model.variance_points(theta)
        value, common = working.profile(factor, model.prior_mean, model.prior_precision)
        return value + model.log_prior_of_theta(theta, variance), common

    value, common = profile(theta)
    best, n = int(np.argmax(value)), theta.shape[1]
    here, b = theta[best], common[best]
    if n == 1 and 0 < best < N_SDS - 1:
        before, top, after = value[best - 1 : best + 2]
        bend = 2.0 * top - before - after
        share = 0.25 * (after - before) / bend if 0 < bend < np.inf else 0.0
        return b + share * (common[best + 1] - common[best - 1]), here + share * (theta[best + 1] - theta[best - 1])
    if n == 1:
        return b, here
    length, steps, (later, earlier) = WORKING_DIFFERENCE, WORKING_DIFFERENCE * np.eye(n), np.tril_indices(n, -1)
    offsets = np.concatenate([np.zeros((1, n)), steps, -steps, steps[later] + steps[earlier]])
    for _ in range(WORKING_STEPS):
        value, common = profile(here + offsets)
        up, down, both = np.split(value[1:], [n, 2 * n])
        precision = np.diag(2.0 * value[0] - up - down)
        precision[later, earlier] = precision[earlier, later] = up[later] + up[earlier] - both - value[0]
        step, _ = trust_step((up - down) / (2.0 * length), precision / length**2, TRUST_RADIUS)
        here, b = here + step, common[0] + step @ (common[1 : n + 1] - common[n + 1 : 2 * n + 1]) / (2.0 * length)
    return b, here
