"""Roots of the covariance of the common coefficients at nodes, computed from the sums when an answer asks for them.

A root for each of hundreds of nodes is n_nodes p^2 numbers, 370 MB for 300 columns: nothing to keep, and far less to
store. They follow from the sums of the data, a node's sigma and its Lambda.
"""

from __future__ import annotations

import numpy as np

from hbsk._engine.common_coefficients import (
    COLUMNS_FOR_TRIANGLES,
    ConditionalCommon,
    conditional_covariances,
    conditional_means,
)
from hbsk._engine.group_passes import GroupPasses
from hbsk._engine.marginal import HELD_NUMBERS, MarginalModel
from hbsk._engine.node_algebra import canonical_root


def node_blocks(n_nodes: int, p: int) -> list[slice]:
    """Return stretches of nodes whose roots are held at the same time."""
    width = max(1, HELD_NUMBERS // max(p, 1) ** 2)
    return [slice(start, min(start + width, n_nodes)) for start in range(0, n_nodes, width)]


def node_means(model: MarginalModel, sigma: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return the means of the common coefficients at nodes, (n_nodes, p), where no matrices were kept."""
    n, means = max(model.sums.n, 1.0), []
    for nodes in node_blocks(len(sigma), model.sums.n_common):
        reduced = _reduced(model.passes, factor[nodes])
        means.append(conditional_means(reduced, model.prior_mean, model.prior_precision, n, sigma[nodes]))
    return np.concatenate(means)


def node_roots(passes: GroupPasses, n: float, prior_precision: np.ndarray, sigma: np.ndarray, factor: np.ndarray):
    """Return roots R at nodes, (n_nodes, p, p), with ``R R'`` the covariance of the common coefficients there.

    Parameters
    ----------
    passes : GroupPasses
    n : float
        Copies of rows.
    prior_precision : ndarray of shape (p,)
    sigma : ndarray of shape (n_nodes,)
    factor : ndarray of shape (n_nodes, q, q)
    """
    reduced = _reduced(passes, factor)
    if len(prior_precision) >= COLUMNS_FOR_TRIANGLES:
        try:
            return conditional_covariances(reduced, prior_precision, sigma, root=True)
        except np.linalg.LinAlgError:
            pass
    no_mean = np.zeros(len(prior_precision))
    law = ConditionalCommon.of(reduced, no_mean, prior_precision, max(n, 1.0))
    _, eigenvalue, _ = law.at(np.log(sigma)[:, None])
    return canonical_root(law.basis / np.sqrt(eigenvalue))


def node_covariances(passes: GroupPasses, n: float, prior_precision: np.ndarray, sigma: np.ndarray, factor: np.ndarray):
    """Return the covariances of the common coefficients at nodes, (n_nodes, p, p); see `node_roots`."""
    if len(prior_precision) >= COLUMNS_FOR_TRIANGLES:
        try:
            return conditional_covariances(_reduced(passes, factor), prior_precision, sigma, root=False)
        except np.linalg.LinAlgError:
            pass
    root = node_roots(passes, n, prior_precision, sigma, factor)
    return root @ root.swapaxes(1, 2)


def _reduced(passes, factor):
    if factor.shape[1]:
        return passes.reduce(factor)[1]
    return np.broadcast_to(passes.within, (len(factor), *passes.within.shape))
