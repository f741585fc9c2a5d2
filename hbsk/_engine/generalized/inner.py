"""Group effects integrated out by adaptive Gauss-Hermite quadrature, given coefficients and variance parameters.

Group j has ``u_j = Lambda z_j``, ``z_j ~ N(0, I)``, and the likelihood ``L_j(u)``. With the mode z^ of ``log
L_j(Lambda z) - z'z / 2``, a root C of the inverse of minus its Hessian, ``I + Lambda' Z'WZ Lambda``, and the nodes
and weights g_k, w_k of the rule for the standard normal law,

    integral L_j(Lambda z) phi(z) dz  =  |C| sum_k w_k exp(g_k'g_k / 2) L_j(Lambda z_k) (2 pi)^(-q/2) exp(-z_k'z_k / 2),

``z_k = z^ + C g_k`` (Pinheiro, Bates 1995, J. Comput. Graph. Stat. 4(1), section 2.4; Liu, Pierce 1994, Biometrika
81). Without the correction by more nodes than one this is the method of Laplace, whose error for binary rows does not
shrink with the number of groups. In z, rather than u, nothing is singular where an sd is zero.

Arrays are laid out with nodes of (b, theta) before groups, and what belongs to varying columns first: (q, n_points,
n_groups).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np

from hbsk._engine.generalized.cells import Cells
from hbsk._engine.generalized.likelihood import group_likelihood

# Newton's step that is the last, in conditional sds: the next would be of a thousandth, which the rule does not notice.
LAST_STEP = 0.05
MOST_STEPS = 200
# Cells times points of which it takes less to step all groups than to pick those that are not done.
FEW_ELEMENTS = 4_000
# Numbers of one stretch of nodes of the rule.
TOGETHER = 20_000
# Longest step, in units of the linear predictor.
LONGEST_STEP = 3.0
# Points of a rule in several dimensions whose weights are less than that of the largest are left out.
LEAST_LOG_WEIGHT = -20.0


class Rule(NamedTuple):
    """A Gauss-Hermite rule.

    Attributes
    ----------
    node : ndarray of shape (n_nodes, q)
    log_weight : ndarray of shape (n_nodes,)
        ``log w_k + g_k'g_k / 2 - (q / 2) log 2 pi``.
    """

    node: np.ndarray
    log_weight: np.ndarray


@lru_cache(maxsize=32)
def hermite_rule(per_axis: int, q: int) -> Rule:
    """Return the product rule of so many points on each axis."""
    if not q:
        return Rule(np.empty((1, 0)), np.zeros(1))
    x, w = np.polynomial.hermite_e.hermegauss(per_axis)
    node = np.stack(np.meshgrid(*[x] * q, indexing="ij"), axis=-1).reshape(-1, q)
    log_weight = np.stack(np.meshgrid(*[np.log(w)] * q, indexing="ij"), axis=-1).reshape(-1, q).sum(axis=1)
    kept = (log_weight > log_weight.max() + LEAST_LOG_WEIGHT) | (q == 1)
    node, log_weight = node[kept], log_weight[kept]
    return Rule(node, log_weight + 0.5 * np.sum(node**2, axis=1) - 0.5 * q * np.log(2 * np.pi))


@dataclass(frozen=True)
class GroupIntegrals:
    """Groups at several values of (b, theta).

    Attributes
    ----------
    log_integral : ndarray of shape (n_points, n_groups)
        ``log p(y_j | b, theta)`` without constants.
    mode : ndarray of shape (q, n_points, n_groups)
        Of z.
    root : ndarray of shape (q, q, n_points, n_groups)
        C.
    share : ndarray of shape (n_nodes, n_points, n_groups)
        Conditional probabilities of the nodes of the rule.
    """

    log_integral: np.ndarray
    mode: np.ndarray
    root: np.ndarray
    share: np.ndarray

    def z_at(self, node: np.ndarray) -> np.ndarray:
        """Return z, (q, n_points, n_groups), at a node (q,) of the rule."""
        return self.mode + np.einsum("abmj,b->amj", self.root, node)


def node_blocks(rule: Rule, n_elements: int) -> Iterator[slice]:
    """Yield nodes of a rule, as many at a time as leave some `TOGETHER` numbers: calls cost most where data are few."""
    width = max(1, TOGETHER // max(n_elements, 1))
    for start in range(0, len(rule.node), width):
        yield slice(start, start + width)


def integrate_groups(
    cells: Cells, base: np.ndarray, factor: np.ndarray, start: np.ndarray, rule: Rule
) -> GroupIntegrals:
    """Integrate over the effects of groups.

    Parameters
    ----------
    cells : Cells
    base : ndarray of shape (n_points, n_cells)
        The linear predictor without effects of groups.
    factor : ndarray of shape (n_points, q, q)
        ``Lambda``.
    start : ndarray of shape (q, n_points, n_groups)
        Where the search for the modes begins.
    rule : Rule
    """
    likelihood = group_likelihood(cells, base)
    mode, root = group_modes(cells, base, factor, start, likelihood)
    q = cells.n_varying
    log_root = np.sum([np.log(root[a, a]) for a in range(q)], axis=0) if q else 0.0
    share = np.empty((len(rule.node), len(base), cells.n_groups))
    for nodes in node_blocks(rule, base.size):
        node = rule.node[nodes]
        z = np.repeat(mode[:, None], len(node), axis=1)
        for a in range(q):
            for c in range(a, q):
                z[a] += node[:, c, None, None] * root[a, c]
        u = times(factor, z)
        value = share[nodes]
        here = likelihood if len(node) == 1 else likelihood.stacked(len(node))
        np.negative(here.cumulants(u.reshape(q, len(node) * len(base), cells.n_groups)).reshape(value.shape), out=value)
        for a in range(q):
            value += cells.yz[a] * u[a]
            value -= 0.5 * z[a] ** 2
        value += rule.log_weight[nodes, None, None]
    top = share.max(axis=0)
    np.exp(share - top, out=share)
    total = share.sum(axis=0)
    share /= total
    return GroupIntegrals(top + np.log(total) + log_root, mode, root, share)


def group_modes(cells: Cells, base, factor, start, likelihood=None) -> tuple[np.ndarray, np.ndarray]:
    """Return the modes of z by Newton's method, and upper roots of the covariances there.

    A group is done when its own step is short: what others are in the block has no bearing on it. The root is that of
    the point that the last step was taken from.
    """
    likelihood = group_likelihood(cells, base) if likelihood is None else likelihood
    z = start.copy()
    if not cells.n_varying:
        return z, np.empty((0, 0, *z.shape[1:]))
    root: np.ndarray | None = None
    done = np.zeros(z.shape[1:], dtype=bool)
    for _ in range(MOST_STEPS):
        step, new_root, length = _newton_step(cells, factor, z, likelihood)
        if root is None:
            root = new_root
            z += step
        else:
            z += np.where(done, 0.0, step)
            root = np.where(done, root, new_root)
        done |= length < LAST_STEP
        left = ~done.all(axis=0)
        if not left.any():
            break
        if base.size > FEW_ELEMENTS and 2 * np.count_nonzero(left) < len(left):
            (groups,) = np.nonzero(left)
            some, at = cells.of(groups), cells.cells_of(groups)
            found, of_found = group_modes(some, base[:, at], factor, z[..., groups])
            keep = done[:, groups]
            z[..., groups] = np.where(keep, z[..., groups], found)
            root[..., groups] = np.where(keep, root[..., groups], of_found)
            break
    assert root is not None  # there is one step at least
    return z, root


def _newton_step(cells, factor, z, likelihood):
    """Return Newton's step in z, the root of the inverse Hessian and the length of the step in conditional sds."""
    q = len(z)
    first, second = likelihood.derivatives(times(factor, z))
    if q == 1:
        scale = factor[:, 0]
        root = (1.0 + scale**2 * second[0, 0]) ** -0.5
        along = (scale * (cells.yz - first[0]) - z[0]) * root
        step, root, length = (along * root)[None], root[None, None], np.abs(along)
    else:
        gradient = times(factor.swapaxes(1, 2), cells.yz[:, None] - first) - z
        root = inverse_root(_precision(factor, second))
        along = np.einsum("abmj,amj->bmj", root, gradient)
        step = np.einsum("abmj,bmj->amj", root, along)
        length = np.sqrt(np.sum(along**2, axis=0))
    # no cell of the group moves further in the linear predictor
    reach = np.sum(cells.reach[:, None] * np.abs(times(factor, step)), axis=0)
    step *= np.minimum(1.0, LONGEST_STEP / np.maximum(reach, 1e-300))
    return step, root, length


def _precision(factor, second):
    """Return ``I + Lambda' Z'WZ Lambda``, (q, q, n_points, n_groups)."""
    q = len(second)
    half = np.einsum("abmj,mbd->admj", second, factor)
    precision = np.einsum("mac,admj->cdmj", factor, half)
    precision[range(q), range(q)] += 1.0
    return precision


def times(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return products of matrices (n_points, q, q) and vectors (q, ..., n_points, n_groups)."""
    if len(vectors) == 1:
        return matrix[:, 0] * vectors
    return np.einsum("mab,b...mj->a...mj", matrix, vectors)


def inverse_root(precision: np.ndarray) -> np.ndarray:
    """Return upper C, ``C C' = H^-1``, of positive definite matrices H of shape (q, q, n_points, n_groups).

    ``H = L L'`` by columns (Golub, Van Loan 2013, algorithm 4.2.1), and ``C = L'^-1`` by back substitution.
    """
    q = len(precision)
    lower = np.zeros_like(precision)
    for a in range(q):
        rest = precision[a:, a] - np.einsum("cbmj,bmj->cmj", lower[a:, :a], lower[a, :a])
        lower[a:, a] = rest / np.sqrt(rest[0])
    root = np.zeros_like(precision)
    for c in range(q):
        root[c, c] = 1.0 / lower[c, c]
        for a in range(c - 1, -1, -1):
            root[a, c] = -np.einsum("bmj,bmj->mj", lower[a + 1 : c + 1, a], root[a + 1 : c + 1, c]) / lower[a, a]
    return root


class EffectMoments(NamedTuple):
    """Central moments of the effects of groups at several points.

    Attributes
    ----------
    mean : ndarray of shape (q, n_points, n_groups)
    covariance : ndarray of shape (q (q + 1) / 2, n_points, n_groups)
        Of `pairs`, in order.
    third : ndarray of shape (q (q + 1) (q + 2) / 6, n_points, n_groups)
        Of `triples`, in order.
    """

    mean: np.ndarray
    covariance: np.ndarray
    third: np.ndarray


def pairs(q: int) -> list[tuple[int, int]]:
    """Return pairs of columns, each once."""
    return list(combinations_with_replacement(range(q), 2))


def triples(q: int) -> list[tuple[int, int, int]]:
    """Return triples of columns, each once."""
    return list(combinations_with_replacement(range(q), 3))


def effect_moments(found: GroupIntegrals, factor: np.ndarray, rule: Rule) -> EffectMoments:
    """Return moments of ``u = Lambda z`` of each group, by the rule that integrated it."""
    q = factor.shape[1]
    shape = found.log_integral.shape
    g = rule.node
    if not q:
        nothing = np.empty((0, *shape))
        return EffectMoments(nothing, nothing, nothing)
    monomials = [g[:, a] for a in range(q)]
    monomials += [g[:, a] * g[:, c] for a, c in pairs(q)] + [g[:, a] * g[:, c] * g[:, d] for a, c, d in triples(q)]
    raw = (np.array(monomials) @ found.share.reshape(len(g), -1)).reshape(-1, *shape)
    first, second, third = np.split(raw, [q, q + len(pairs(q))])
    at = {pair: i for i, pair in enumerate(pairs(q))}
    central = np.empty_like(third)
    for i, (a, c, d) in enumerate(triples(q)):
        products = first[a] * second[at[c, d]] + first[c] * second[at[a, d]] + first[d] * second[at[a, c]]
        central[i] = third[i] - products + 2.0 * first[a] * first[c] * first[d]
    second = second - np.stack([first[a] * first[c] for a, c in pairs(q)])
    if q == 1:
        scale = factor[:, 0] * found.root[0, 0]
        mean = factor[:, 0] * found.mode + scale * first
        return EffectMoments(mean, scale**2 * second, scale**3 * central)
    outward = np.einsum("mab,bcmj->acmj", factor, found.root)
    mean = times(factor, found.mode) + np.einsum("acmj,cmj->amj", outward, first)
    return EffectMoments(mean, _turned(outward, second, 2), _turned(outward, central, 3))


def log_mean_exponential(found: GroupIntegrals, factor: np.ndarray, rule: Rule) -> np.ndarray:
    """Return ``log E[e^u]`` of each group, (n_points, n_groups), where there is one varying column.

    Moments do not tell it: a group without counts has a long lower tail and a sharp upper end.
    """
    reach = factor[:, 0] * found.root[0, 0]
    top = rule.node[-1, 0] * reach
    total = sum(share * np.exp(node[0] * reach - top) for share, node in zip(found.share, rule.node, strict=True))
    return factor[:, 0] * found.mode[0] + top + np.log(total)


def _turned(outward, packed, order):
    """Return packed symmetric tensors of order 2 or 3 with every index multiplied by ``outward``."""
    q = len(outward)
    at = {index: i for i, index in enumerate(pairs(q) if order == 2 else triples(q))}
    shape = (q,) * order
    full = np.stack([packed[at[tuple(sorted(index))]] for index in np.ndindex(shape)]).reshape(
        *shape, *packed.shape[1:]
    )
    if order == 2:
        turned = np.einsum("acmj,bdmj,cdmj->abmj", outward, outward, full, optimize=True)
    else:
        turned = np.einsum("admj,bemj,cfmj,defmj->abcmj", outward, outward, outward, full, optimize=True)
    return np.stack([turned[index] for index in at])
