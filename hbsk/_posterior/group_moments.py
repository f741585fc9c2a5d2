"""Posterior moments of group effects: averages over nodes of conditional Gaussians.

Given a node, ``u_j = H_j (B_y - B_x b) + noise`` with covariance ``sigma^2 H_j`` (`hbsk._engine.marginal`). With
``r_j = B_y - B_x E[b]`` and ``delta = b - E[b]`` its mean is ``H_j (r_j - B_x delta)``: what common columns explain of
a group is taken off before anything is squared.
"""

from __future__ import annotations

import numpy as np

from hbsk._engine.group_algebra import lower_indices, unpack_symmetric
from hbsk._engine.group_passes import MOST_CELLS, find_cells
from hbsk._posterior.concentrated import few_nodes
from hbsk._posterior.parts import BLOCK_ELEMENTS, GroupMoments

# Numbers of a group from which its moments would be looked up by cell, beyond which nodes are cheaper.
MOST_FEATURES = 12


def effect_moments(posterior, *, need_covariance: bool) -> GroupMoments:
    """Return moments of the effects in engine units, those of the conditional Gaussians.

    Parameters
    ----------
    posterior : MarginalPosterior
    need_covariance : bool
    """
    q, p1, n_groups = posterior.sums.zx.shape
    if q * p1 <= MOST_FEATURES:
        cell, first = find_cells(posterior.sums.zz)
        if len(first) < MOST_CELLS * n_groups:
            return _moments_by_cell(posterior, cell, first, need_covariance)
    few = few_nodes(posterior)
    moments = _moments_by_group(few, need_covariance)
    if need_covariance:
        vars(posterior).setdefault("_expected_covariance", vars(few)["_expected_covariance"])
    return moments


def residual_products(zx, common_mean):
    """Return ``B_j`` of shape (q, p + 1, n_groups) with ``r_j = B_y - B_x E[b]`` in the last column."""
    rest = zx.copy()
    rest[:, -1] -= np.einsum("kaj,a->kj", zx[:, :-1], common_mean)
    return rest


def _moments_by_cell(posterior, cell, first, need_covariance):
    """Return moments of groups of few designs: nodes are summed over once for each design."""
    q, p1, n_groups = posterior.sums.zx.shape
    weight, centre = posterior.weight, posterior.weight @ posterior.common_mean
    delta = posterior.common_mean - centre
    contrast = np.concatenate([-delta, np.ones((len(delta), 1))], axis=1)
    features = residual_products(posterior.sums.zx, centre).reshape(q * p1, n_groups)
    mean = np.empty((n_groups, q))
    covariance = np.empty((n_groups, q, q)) if need_covariance else None
    with_common = np.empty((n_groups, p1 - 1, q)) if need_covariance else None
    order = np.argsort(cell, kind="stable")
    ends = np.cumsum(np.bincount(cell, minlength=len(first)))
    width = max(1, BLOCK_ELEMENTS // (posterior.n_nodes * q * q * p1))
    for start in range(0, len(first), width):
        inverse = unpack_symmetric(posterior._inverse(first[start : start + width]), q)
        average = np.einsum("m,m,mklj->jkl", weight, posterior.sigma**2, inverse) if need_covariance else None
        for at in range(inverse.shape[3]):
            number = start + at
            groups = order[ends[number - 1] if number else 0 : ends[number]]
            # (n_nodes, q, q (p + 1)): the effects are these times the features
            linear = np.einsum("mkl,ma->mkla", inverse[..., at], contrast).reshape(len(weight), q, q * p1)
            middle = np.tensordot(weight, linear, 1)
            mean[groups] = (middle @ features[:, groups]).T
            if need_covariance:
                moved = np.einsum("mkl,mab->mklab", inverse[..., at], posterior.common_root)
                moved = np.concatenate([moved, np.zeros((len(weight), q, q, 1, p1 - 1))], axis=3)
                moved = moved.reshape(len(weight), q, q * p1, p1 - 1)
                square = _second_moments(weight, linear - middle, moved)
                part = features[:, groups]
                turned = np.tensordot(square, part, 1)
                covariance[groups] = average[at] + np.einsum("fj,kflj->jkl", part, turned)
                cross = np.tensordot(weight[:, None] * delta, linear - middle, (0, 0))
                cross -= np.tensordot(weight[:, None, None] * posterior.common_root, moved, ([0, 2], [0, 3]))
                with_common[groups] = np.tensordot(part, cross, (0, 2))
    return GroupMoments(mean, covariance, with_common)


def _second_moments(weight, linear, moved):
    """Return ``E[linear linear' + moved moved']`` over nodes, (q, f, q, f)."""
    n_nodes, q, n_features = linear.shape
    deviation = linear.reshape(n_nodes, -1)
    total = (weight[:, None] * deviation).T @ deviation
    for column in range(moved.shape[3]):
        part = moved[..., column].reshape(n_nodes, -1)
        total += (weight[:, None] * part).T @ part
    return total.reshape(q, n_features, q, n_features)


def _moments_by_group(posterior, need_covariance):
    """Return moments group by group: sums over blocks of nodes, whose roots are held one block at a time."""
    q, p1, n_groups = posterior.sums.zx.shape
    p = p1 - 1
    delta = posterior.common_mean - posterior.weight @ posterior.common_mean
    mean = np.zeros((n_groups, q))
    contrast = np.concatenate([-posterior.common_mean, np.ones((posterior.n_nodes, 1))], axis=1)
    in_one_pass = need_covariance and len(posterior.node_blocks()) == 1
    width = max(16, BLOCK_ELEMENTS // (posterior.n_nodes * q * q))
    for start in range(0, 0 if in_one_pass else n_groups, width):
        groups = slice(start, start + width)
        left = np.tensordot(contrast, posterior.sums.zx[:, :, groups], axes=([1], [1]))
        effect = np.einsum("mklj,mlj->mkj", unpack_symmetric(posterior._inverse(groups), q), left)
        mean[groups] = np.tensordot(posterior.weight, effect, 1).T
    if not need_covariance:
        return GroupMoments(mean, None, None)
    covariance, with_common = np.zeros((n_groups, q, q)), np.zeros((n_groups, p, q))
    expected = np.zeros((p, p))
    for nodes in posterior.node_blocks():
        law, weight, sigma = posterior.covariances(nodes), posterior.weight[nodes], posterior.sigma[nodes]
        expected += np.tensordot(weight, law, 1)
        weighted = weight[:, None, None]
        width = max(16, BLOCK_ELEMENTS // (len(weight) * q * q * max(p, 1)))
        for start in range(0, n_groups, width):
            groups = slice(start, start + width)
            packed, zx = posterior._inverse(groups, nodes), posterior.sums.zx[:, :, groups]
            inverse = unpack_symmetric(packed, q)
            left = np.tensordot(contrast[nodes], zx, axes=([1], [1]))
            effect = np.einsum("mklj,mlj->mkj", inverse, left)
            if in_one_pass:
                mean[groups] = np.tensordot(weight, effect, 1).T
            deviation = effect - mean[groups].T
            reach = np.einsum("mklj,laj->mkaj", inverse, zx[:, :-1])  # H B_x
            through = law[:, None] @ reach
            of_weight, of_reach = weighted * deviation, weighted[..., None] * reach
            within = np.tensordot(weight * sigma**2, packed, 1)
            for h, (k, other) in enumerate(zip(*lower_indices(q), strict=True)):
                within[h] += np.einsum("mj,mj->j", of_weight[:, k], deviation[:, other])
                within[h] += np.einsum("mbj,mbj->j", of_reach[:, k], through[:, other])
            covariance[groups] += unpack_symmetric(within[None], q)[0].transpose(2, 0, 1)
            with_common[groups] += np.einsum("mi,mkj->jik", delta[nodes], of_weight, optimize=True)
            with_common[groups] -= np.tensordot(weight, through, 1).transpose(2, 1, 0)
    vars(posterior).setdefault("_expected_covariance", expected)
    return GroupMoments(mean, covariance, with_common)
