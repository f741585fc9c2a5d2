"""Group effects integrated out by adaptive Gauss-Hermite quadrature, given coefficients and variance parameters.

Group j has ``u_j = Lambda z_j``, ``z_j ~ N(0, I)``, and the likelihood ``L_j(u)``. With the mode z^ of ``log
L_j(Lambda z) - z'z / 2``, a root C of the inverse of minus its Hessian, ``I + Lambda' Z'WZ Lambda``, and the nodes
and weights g_k, w_k of the rule for the standard normal law,

    integral L_j(Lambda z) phi(z) dz  =  |C| sum_k w_k exp(g_k'g_k / 2) L_j(Lambda z_k) (2 pi)^(-q/2) exp(-z_k'z_k / 2),

``z_k = z^ + C g_k`` (Pinheiro, Bates 1995, J. Comput. Graph. Stat. 4(1), section 2.4; Liu, Pierce 1994, Biometrika
81). Without the correction by more nodes than one this is the method of Laplace, whose error for binary rows does not
shrink with the number of groups. In z, rather than u, nothing is singular where an sd is zero.

Arrays have what belongs to varying columns first, then nodes of the rule where there are any, groups, and points (b,
theta) last: (q, n_nodes, n_groups, n_points). What is a polynomial in g_k is a product of two matrices then.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial, reduce
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np

from hbsk._engine.generalized.cells import Cells
from hbsk._engine.generalized.likelihood import GroupLikelihood, group_likelihood

# Newton's step that is the last, in conditional sds: the next would be of some thousandths, which no rule notices.
# (Seven models: means and sds move by 5e-5 posterior sds at most from where modes are exact, by 2e-4 of a step of 0.2;
# the sd of a group without successes beside three others is 0.3 % less, of a step of 0.5 it is 2 %.)
LAST_STEP = 0.1
MOST_STEPS = 200
# Cells times points of which it takes less to step all than to pick points that are not done, or groups at these.
FEW_ELEMENTS = 10_000
# Numbers of one stretch of nodes of the rule.
TOGETHER = 60_000
# Longest step, in units of the linear predictor.
LONGEST_STEP = 3.0
# What sums of squares are rounded by, as a share of them.
ROUNDING = 32 * np.finfo(np.float64).eps
# Points of a rule in several dimensions whose weights are less than that of the largest are left out.
LEAST_LOG_WEIGHT = -20.0
# Logarithm of a density relative to that at the mode beyond which it is rounding; where numbers become denormal,
# exponentials take ten times as long.
LARGEST_RATIO = 600.0
# Share of its terms below which a difference is rounding; and an sd that has no square in floating point.
LEAST_LEFT, SMALLEST_SD = 1e-7, 1e-100


class Rule(NamedTuple):
    """A Gauss-Hermite rule.

    Attributes
    ----------
    node : ndarray of shape (n_nodes, q)
    weight : ndarray of shape (n_nodes,)
        ``w_k exp(g_k'g_k / 2) (2 pi)^(-q/2)``.
    """

    node: np.ndarray
    weight: np.ndarray


@lru_cache(maxsize=32)
def hermite_rule(per_axis: int, q: int) -> Rule:
    """Return the product rule of so many points on each axis."""
    if not q:
        return Rule(np.empty((1, 0)), np.ones(1))
    x, w = np.polynomial.hermite_e.hermegauss(per_axis)
    node = np.stack(np.meshgrid(*[x] * q, indexing="ij"), axis=-1).reshape(-1, q)
    log_weight = np.stack(np.meshgrid(*[np.log(w)] * q, indexing="ij"), axis=-1).reshape(-1, q).sum(axis=1)
    kept = (log_weight > log_weight.max() + LEAST_LOG_WEIGHT) | (q == 1)
    node, log_weight = node[kept], log_weight[kept]
    return Rule(node, np.exp(log_weight + 0.5 * np.sum(node**2, axis=1) - 0.5 * q * np.log(2 * np.pi)))


@dataclass(frozen=True)
class GroupIntegrals:
    """Groups at several values of (b, theta).

    Attributes
    ----------
    log_integral : ndarray of shape (n_groups, n_points)
        ``log p(y_j | b, theta)`` without constants.
    mode : ndarray of shape (q, n_groups, n_points)
        Of z.
    root : ndarray of shape (q, q, n_groups, n_points)
        C.
    density : ndarray of shape (n_nodes, n_groups, n_points)
        At the nodes of the rule, relative to that at the mode.
    total : ndarray of shape (n_groups, n_points)
        Sum of these times the weights of the rule.
    rule : Rule
    """

    log_integral: np.ndarray
    mode: np.ndarray
    root: np.ndarray
    density: np.ndarray
    total: np.ndarray
    rule: Rule

    @cached_property
    def share(self) -> np.ndarray:
        """Return conditional probabilities of the nodes of the rule, (n_nodes, n_groups, n_points)."""
        return self.rule.weight[:, None, None] * self.density / self.total

    def z_at(self, node: np.ndarray) -> np.ndarray:
        """Return z, (q, n_nodes, n_groups, n_points), at nodes (n_nodes, q) of the rule."""
        basis = monomials(node, 1)
        z = np.empty((len(self.mode), len(node), *self.mode.shape[1:]))
        for of_axis, mode, root in zip(z, self.mode, self.root, strict=True):
            of_axis[:] = polynomial(basis, [mode, *root])
        return z


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
    base : ndarray of shape (n_cells, n_points)
        The linear predictor without effects of groups.
    factor : ndarray of shape (n_points, q, q)
        ``Lambda``.
    start : ndarray of shape (q, n_groups, n_points)
        Where the search for the modes begins.
    rule : Rule
    """
    likelihood = group_likelihood(cells, base)
    return integrate_about(likelihood, *group_modes(cells, base, factor, start, likelihood), factor, rule)


def integrate_about(
    likelihood: GroupLikelihood, mode: np.ndarray, root: np.ndarray, factor: np.ndarray, rule: Rule
) -> GroupIntegrals:
    """Integrate over the effects of groups, about their modes."""
    cells, q, nodes = likelihood.cells, len(mode), rule.node
    strata = cells.strata
    # z'u of strata, and y'Zu - z'z / 2 of groups, are polynomials in g
    outward = np.array([strata.effects(times(factor, part)) for part in (mode, *root.swapaxes(0, 1))])
    pull = transposed_times(factor, cells.yz[..., None])
    at_mode = added([(pull[a] - 0.5 * mode[a]) * mode[a] for a in range(q)] or [np.zeros(mode.shape[1:])])
    constant = likelihood.cumulants(outward[0])
    at_mode = at_mode - constant
    if cells.are_heavy:
        # Differences of scores as large as the counts make curvatures of the posterior: all about the modes, where the
        # probabilities of nodes keep the digits that millions of counts lose.
        cumulants, constant = partial(likelihood.excess, outward[0].copy()), np.zeros_like(at_mode)
        pull = transposed_times(factor, cells.yz[..., None] - likelihood.derivatives(times(factor, mode))[0])
        outward[0] = 0.0
    else:
        cumulants = partial(likelihood.cumulants, furthest=furthest(nodes, outward))
    terms = [constant]
    terms += [added((pull[a] - mode[a]) * root[a, c] for a in range(c + 1)) for c in range(q)]
    terms += [(-0.5 if c == d else -1.0) * added(root[a, c] * root[a, d] for a in range(c + 1)) for c, d in pairs(q)]
    linear, quadratic, of_density = monomials(nodes, 1), monomials(nodes, 2), np.array(terms)
    density = np.empty((len(nodes), *mode.shape[1:]))
    for block in node_blocks(rule, likelihood.base.size):
        log_density = polynomial(quadratic[:, block], of_density)
        log_density -= cumulants(polynomial(linear[:, block], outward))
        log_density.clip(-LARGEST_RATIO, LARGEST_RATIO, out=log_density)
        np.exp(log_density, out=density[block])
    total = (rule.weight @ density.reshape(len(nodes), -1)).reshape(density.shape[1:])
    log_integral = at_mode + np.log(total)
    for a in range(q):
        log_integral += np.log(root[a, a])
    return GroupIntegrals(log_integral, mode, root, density, total, rule)


def furthest(node: np.ndarray, outward: np.ndarray) -> float:
    """Return what the absolute value of a linear polynomial in g is at most at nodes (n_nodes, q)."""
    reach = np.abs(outward).reshape(len(outward), -1).max(axis=1, initial=0.0)
    return float(reach[0] + np.abs(node).max(axis=0, initial=0.0) @ reach[1:])


def monomials(node: np.ndarray, order: int) -> np.ndarray:
    """Return monomials in g up to an order of 3 at most, (n_monomials, n_nodes): those of `pairs`, of `triples`."""
    g, q = node.T, node.shape[1]
    values = [np.ones(len(node)), *g]
    values += [g[a] * g[c] for a, c in pairs(q) if order > 1]
    values += [g[a] * g[c] * g[d] for a, c, d in triples(q) if order > 2]
    return np.array(values)


def polynomial(basis: np.ndarray, coefficients: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Return polynomials, (n_nodes, ...), of coefficients (...) and monomials (n_monomials, n_nodes)."""
    together = np.asarray(coefficients)
    return (basis.T @ together.reshape(len(together), -1)).reshape(-1, *together.shape[1:])


def group_modes(cells: Cells, base, factor, start, likelihood=None) -> tuple[np.ndarray, np.ndarray]:
    """Return the modes of z by Newton's method, and upper roots of the covariances there.

    A group is done when its own step is short: what others are in the block has no bearing on it. The root is that of
    the point that the last step was taken from.
    """
    likelihood = group_likelihood(cells, base) if likelihood is None else likelihood
    if not cells.n_varying:
        return start.copy(), np.empty((0, 0, *start.shape[1:]))
    step, root, length = _newton_step(cells, factor, start, likelihood)
    z = start + step
    done = length < LAST_STEP
    for _ in range(MOST_STEPS - 1):
        if done.all():
            break
        points, groups = np.flatnonzero(~done.all(axis=0)), np.arange(len(done))
        if cells.n_cells * len(points) > FEW_ELEMENTS:
            groups = np.flatnonzero(~done.all(axis=1))
        if base.size > FEW_ELEMENTS and 2 * len(groups) * len(points) < done.size:
            some, at = (cells.of(groups), cells.cells_of(groups)) if len(groups) < len(done) else (cells, slice(None))
            left = np.ix_(groups, points)
            found, of_found = group_modes(some, base[at][:, points], factor[points], z[:, *left])
            z[:, *left] = np.where(done[left], z[:, *left], found)
            root[:, :, *left] = np.where(done[left], root[:, :, *left], of_found)
            break
        step, new_root, length = _newton_step(cells, factor, z, likelihood)
        z += np.where(done, 0.0, step)
        root = np.where(done, root, new_root)
        done |= length < LAST_STEP
    return z, root


def _newton_step(cells, factor, z, likelihood):
    """Return Newton's step in z, the root of the inverse Hessian and the length of the step in conditional sds."""
    q = len(z)
    first, second = likelihood.derivatives(times(factor, z))
    if q == 1:  # a third of the calls: most of what little data take
        scale = factor[:, 0]
        root = 1.0 / np.sqrt(1.0 + scale[:, 0] ** 2 * second)
        along = (scale[:, 0] * (cells.yz[..., None] - first) - z) * root[0]
        step, length = along * root[0], np.abs(along[0])
        reach = cells.reach[0, :, None] * np.abs(scale[:, 0] * step[0])
        return step if reach.max() <= LONGEST_STEP else _held(step, reach), root, length
    gradient = transposed_times(factor, cells.yz[..., None] - first) - z
    root = inverse_root(precision_of_z(factor, second))
    along = [added(root[a, b] * gradient[a] for a in range(b + 1)) for b in range(q)]
    step = np.array([added(root[a, b] * along[b] for b in range(a, q)) for a in range(q)])
    length = np.sqrt(added(part * part for part in along))
    reach = added(cells.reach[..., None] * np.abs(times(factor, step)))
    return step if reach.max() <= LONGEST_STEP else _held(step, reach), root, length


def _held(step, reach):
    """Return steps by which no cell of a group moves further than `LONGEST_STEP` in the linear predictor."""
    return step * np.minimum(1.0, LONGEST_STEP / np.maximum(reach, 1e-300))


def precision_of_z(factor: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return ``I + Lambda' Z'WZ Lambda``, (q, q, n_groups, n_points), of ``Z'WZ`` that broadcasts to that shape.

    It is regular in floats too: the diagonal has more than 1 added where products are rounded by more.
    """
    q = len(second)
    half = [transposed_times(factor, row) for row in second]
    precision = np.empty((q, q, *half[0].shape[1:]))
    for c, d in pairs(q):
        precision[c, d] = precision[d, c] = added(factor[:, a, c] * half[a][d] for a in range(q))
    return _and_identity(precision)


def beside_identity(rooted: np.ndarray) -> np.ndarray:
    """Return ``I + K K'``, (q, q, ...), of matrices K (q, q, ...), regular in floats as in `precision_of_z`."""
    q = len(rooted)
    products = np.empty(rooted.shape)
    for a, b in pairs(q):
        products[a, b] = products[b, a] = added(rooted[a, c] * rooted[b, c] for c in range(q))
    return _and_identity(products)


def _and_identity(products):
    rounded = ROUNDING * added(products[a, a] for a in range(len(products)))
    for a in range(len(products)):
        products[a, a] += 1.0 + rounded
    return products


def times(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return products of matrices (n_points, q, q) and vectors (q, ..., n_points)."""
    return transposed_times(matrix.swapaxes(1, 2), vectors)


def transposed_times(matrix: np.ndarray, vectors: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Return products of transposed matrices (n_points, q, q) and vectors (q, ..., n_points), either at one point."""
    q = len(vectors)
    if q <= 1:
        return matrix[:, 0, 0] * vectors if q else np.asarray(vectors)
    *before, n_points = np.shape(vectors[0])
    products = np.empty((q, *before, max(n_points, len(matrix))))
    for a, product in enumerate(products):
        np.multiply(matrix[:, 0, a], vectors[0], out=product)
        for b in range(1, q):
            product += matrix[:, b, a] * vectors[b]
    return products


def added(terms: Iterable[np.ndarray]) -> np.ndarray:
    """Return the sum of some arrays, one at least."""
    return reduce(operator.add, terms)


def inverse_root(precision: np.ndarray) -> np.ndarray:
    """Return upper C, ``C C' = H^-1``, of positive definite matrices H of shape (q, q, n_groups, n_points).

    ``H = L L'`` by columns (Golub, Van Loan 2013, algorithm 4.2.1), and ``C = L'^-1`` by back substitution.
    """
    q = len(precision)
    if q == 1:
        return 1.0 / np.sqrt(precision)
    lower, root = np.zeros_like(precision), np.zeros_like(precision)
    for a in range(q):
        root[a, a] = 1.0 / np.sqrt(precision[a, a] - sum(lower[a, b] ** 2 for b in range(a)))
        for c in range(a + 1, q):
            lower[c, a] = (precision[c, a] - sum(lower[c, b] * lower[a, b] for b in range(a))) * root[a, a]
    for c in range(q):
        for a in range(c - 1, -1, -1):
            root[a, c] = -root[a, a] * added(lower[b, a] * root[b, c] for b in range(a + 1, c + 1))
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


def effect_moments(found: GroupIntegrals, factor: np.ndarray) -> EffectMoments:
    """Return moments of ``u = Lambda z`` of each group, by the rule that integrated it."""
    q, rule = factor.shape[1], found.rule
    n_groups, n_points = found.total.shape
    if not q:
        nothing = np.empty((0, n_points, n_groups))
        return EffectMoments(nothing, nothing, nothing)
    raw = (monomials(rule.node, 3)[1:] * rule.weight) @ found.density.reshape(len(rule.node), -1)
    raw = raw.reshape(-1, n_groups, n_points) / found.total
    first, second, third = np.split(raw, [q, q + len(pairs(q))])
    at = {pair: i for i, pair in enumerate(pairs(q))}
    central = np.empty(third.shape)
    for i, (a, c, d) in enumerate(triples(q)):
        products = first[a] * second[at[c, d]] + first[c] * second[at[a, d]] + first[d] * second[at[a, c]]
        central[i] = third[i] - products + 2.0 * first[a] * first[c] * first[d]
    second = np.array([second[at[a, c]] - first[a] * first[c] for a, c in pairs(q)])
    # axes of the rule in units of the effects
    outward = np.array([times(factor, found.root[:, c]) for c in range(q)]).swapaxes(0, 1)
    mean = times(factor, found.mode)
    for a in range(q):
        mean[a] += added(outward[a, c] * first[c] for c in range(q))
    turned = (mean, _turned(outward, second, 2), _turned(outward, central, 3))
    return EffectMoments(*(part.swapaxes(1, 2) for part in turned))


def log_mean_exponential(
    effects: EffectMoments, sd: np.ndarray, counts: np.ndarray, expected: np.ndarray
) -> np.ndarray:
    """Return ``log E[e^u]``, (n_points, n_groups), of groups of counts with a varying intercept alone.

    The derivative of a density integrates to zero: ``E[y - M e^u - u / tau^2] = 0``, M the counts expected without an
    effect. Neither moments nor points of a rule tell the tail of a group without counts as well. Where next to nothing
    is left of that difference the law is nearly normal, or narrow.

    Parameters
    ----------
    effects : EffectMoments
    sd : ndarray of shape (n_points,)
        tau.
    counts : ndarray of shape (n_groups,)
        y.
    expected : ndarray of shape (n_points, n_groups)
        M.
    """
    mean, variance, third = (part[0] for part in effects)
    sd = np.maximum(sd, SMALLEST_SD)[:, None]
    pulled = mean / sd**2
    left = counts - pulled
    is_told = left > LEAST_LEFT * (counts + np.abs(pulled) + (1.0 + left) / sd)
    by_moments = mean + 0.5 * variance + third / 6.0
    return np.where(is_told, np.log(np.where(is_told, left / expected, 1.0)), by_moments)


def _turned(outward, packed, order):
    """Return packed symmetric tensors of order 2 or 3 with every index multiplied by ``outward``, one after another."""
    q = len(outward)
    at = {index: i for i, index in enumerate(pairs(q) if order == 2 else triples(q))}
    tensor = {index: packed[at[tuple(sorted(index))]] for index in np.ndindex((q,) * order)}
    for _ in range(order):
        # the first index is turned and put last
        tensor = {
            (*index[1:], a): added(outward[a, c] * tensor[c, *index[1:]] for c in range(q))
            for index in tensor
            for a in [index[0]]
        }
    return np.array([tensor[index] for index in at])
