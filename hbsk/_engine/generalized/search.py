"""The joint mode of common coefficients and variance parameters, by Newton's method with Louis's Hessian."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hbsk._engine.generalized.cells import repeated
from hbsk._engine.generalized.families import FAMILIES
from hbsk._engine.generalized.inner import inverse_root, precision_of_z
from hbsk._engine.generalized.model import GeneralizedModel, ModeStart, mode_start, predictor_at
from hbsk._engine.mode_search import LAST_STEP, Look, ModeSearch

# Of more groups than these a share of them finds where the search for the mode begins.
MANY_GROUPS = 4_000
FEW_GROUPS = 500
# Sds between groups, in units of the linear predictor for one sd of a column, between which the search begins, and how
# many places are looked at.
LEAST_SD, LARGEST_SD, N_SDS = 0.07, 2.2, 6


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
    """What a look has found of groups: ``Lambda`` (q, q), modes of z (q, n_groups), and what others follow from."""

    look: Look
    factor: np.ndarray
    modes: np.ndarray
    start: ModeStart
    xwx: np.ndarray


class LouisSearch(ModeSearch):
    """A search that gets the Hessian with the gradient, and begins each look where the modes of the last one lead."""

    def __init__(self, model: GeneralizedModel):
        super().__init__(lambda psi: (np.empty(len(psi)), psi))
        self.model = model
        self.seen: Seen | None = None

    def look(self, points: np.ndarray) -> Look:
        """Return the density and its derivatives at the one point, (1, n_dim)."""
        model, p = self.model, self.model.n_common
        factor = model.variance_points(points[:, p:])[1]
        if self.seen is None:
            modes = np.zeros((model.cells.n_varying, model.cells.n_groups, 1))
        else:
            modes = self.seen.start.modes(points[:, :p], factor, slice(0, model.cells.n_groups))
        look, modes = model.look(points[0], modes)
        start, xwx = mode_start(model.cells, points[0, :p], factor[0], modes[:, :, 0])
        self.seen = Seen(look, factor[0], modes[:, :, 0], start, xwx)
        return look


def find_joint_mode(model: GeneralizedModel, start: np.ndarray | None = None) -> JointMode:
    """Return the joint mode of (b, theta), to a hundredth of a posterior sd; ``start`` is (n_dim,)."""
    search = LouisSearch(model)
    last = search.run((_start(model) if start is None else start)[None])
    psi = last.theta + (last.step if last.is_within(LAST_STEP) else 0.0)
    seen = search.seen
    if seen is None or seen.look is not last:  # a step that was not taken
        search.look(last.theta[None])
        seen = search.seen
    assert seen is not None
    return JointMode(psi, last.precision, seen.start, seen.xwx, lean(model, last, seen.factor, seen.modes, seen.start))


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


def _start(model: GeneralizedModel) -> np.ndarray:
    """Return where the search begins: the mode of some of the groups where they are many, or the best of a few sds."""
    step = model.cells.n_groups // FEW_GROUPS
    if model.cells.n_groups > MANY_GROUPS:
        few = model.thinned(step)
        last = LouisSearch(few).run(_start(few)[None])
        return last.theta
    if not model.parameters.n_dim:
        return model.pooled
    parameters = model.parameters
    reach = np.ones(parameters.n_varying) if parameters.location is None else np.maximum(parameters.location.reach, 1.0)
    least, largest = (parameters.theta_of(1.0, sd / reach) for sd in (LEAST_SD, LARGEST_SD))
    step = (largest - least) / (N_SDS - 1)
    theta = least + np.arange(N_SDS)[:, None] * step
    values = model.evaluate(_beside_theta(model, theta)).log_density
    best = int(np.argmax(values))
    begin = theta[best]
    if 0 < best < N_SDS - 1:  # the vertex of a parabola
        before, top, after = values[best - 1 : best + 2]
        bend = 2.0 * top - before - after
        if 0 < bend < np.inf:
            begin = begin + 0.5 * (after - before) / bend * step
    return _beside_theta(model, begin[None])[0]


def _beside_theta(model: GeneralizedModel, theta: np.ndarray) -> np.ndarray:
    """Return psi, (n, n_dim), of theta (n, n_theta) and pooled coefficients.

    Of counts the intercept is less by half the variance between groups, so that their mean is what it was.
    """
    cells = model.cells
    common = np.repeat(model.pooled[None], len(theta), axis=0)
    if cells.family == "poisson" and common.shape[1] and np.all(cells.x[:, 0] == 1.0):
        _, factor = model.variance_points(theta)
        common[:, 0] -= 0.5 * np.mean(np.sum((cells.z @ factor) ** 2, axis=2), axis=1)
    return np.column_stack([common, theta])
