"""Few nodes for many groups: where these have told the variance parameters, their law is nearly a point.

What is averaged over nodes, a smooth function of v = (log sigma, Lambda), then needs of the law its mean and covariance
alone. Two nodes along each principal axis of v have both (the symmetric rule of degree 3, Stroud and Secrest 1963;
Julier and Uhlmann 1997): ``v_bar +- root(r lambda_i) e_i`` with weights ``1 / 2r``. With the third moments that it
leaves out, of the order of the skewness of v, the error is of fourth order in the sd of v, relative to v.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hbsk._posterior.nodes import MarginalPosterior

# The largest relative sd of the variance parameters at which fourth powers are nothing: 2e-7.
CONCENTRATED = 0.02
# Nodes times groups from which fewer nodes save time worth having.
MANY_ELEMENTS = 500_000
# Share of the largest variance along a principal axis below which an axis is rounding.
NO_AXIS = 1e-9


def few_nodes(posterior: MarginalPosterior) -> MarginalPosterior:
    """Return the posterior at few nodes, for averages over all groups; itself where it is spread out, or small."""
    n_nodes, q = posterior.factor.shape[:2]
    if not q or n_nodes * posterior.sums.n_groups < MANY_ELEMENTS:
        return posterior
    weight = posterior.weight
    v = np.column_stack([np.log(posterior.sigma), posterior.factor.reshape(n_nodes, -1)])
    centre = weight @ v
    deviation = v - centre
    factor = centre[1:].reshape(q, q)
    scale = np.sqrt(np.sum(factor**2, axis=1))
    if not (scale > 0).all() or np.linalg.cond(factor / scale[:, None]) > 1 / CONCENTRATED:
        return posterior
    relative = np.linalg.solve(factor, deviation[:, 1:].reshape(n_nodes, q, q)).reshape(n_nodes, -1)
    relative = np.column_stack([deviation[:, 0], relative])
    if np.sqrt(np.linalg.eigvalsh((weight[:, None] * relative).T @ relative)[-1]) > CONCENTRATED:
        return posterior
    variance, axes = np.linalg.eigh((weight[:, None] * deviation).T @ deviation)
    kept = variance > NO_AXIS * variance[-1]
    variance, axes, n_axes = variance[kept], axes[:, kept], int(kept.sum())
    if 4 * n_axes > n_nodes:
        return posterior
    common = weight @ posterior.common_mean
    of_common = (weight[:, None] * (posterior.common_mean - common)).T @ deviation
    steps = np.sqrt(n_axes * variance) * axes
    moves = of_common @ (np.sqrt(n_axes / variance) * axes)
    nodes = centre + np.concatenate([steps.T, -steps.T])
    few = replace(
        posterior,
        weight=np.full(2 * n_axes, 0.5 / n_axes),
        replicate=np.zeros(2 * n_axes, dtype=int),
        sigma=np.exp(nodes[:, 0]),
        factor=nodes[:, 1:].reshape(-1, q, q),
        common_mean=common + np.concatenate([moves.T, -moves.T]),
    )
    vars(few)["_passes"] = posterior._passes
    return few
