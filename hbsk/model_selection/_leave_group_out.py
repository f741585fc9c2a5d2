"""Leave-one-group-out: how well a model predicts all rows of a group that it has not seen.

For group j the score is ``log p(y_j | y_-j)``, the effects of the group integrated out over their law (Merkle, Furr,
Rabe-Hesketh 2019, Psychometrika 84, eqs. 8 and 9: the marginal, not the conditional likelihood). Nothing is refitted to
get it. Given (sigma, Lambda) the common coefficients b and the effects are Gaussian, and every group adds a term to the
sums that the likelihood is made of (symbols of `hbsk.inference.marginal`):

    C = sum_j C_j,  C_j = G_j - D_j' D_j + D_j' M_j^-1 D_j
    log p(y_-j | sigma, Lambda) = that of y with C - C_j for C, without log|M_j| and the rows of j

so that p(y_j | y_-j, sigma, Lambda) = p(y | sigma, Lambda) / p(y_-j | sigma, Lambda) is exact, b integrated out given the
other groups. What is left is an expectation over the few variance parameters, known at the posterior's nodes:

    p(y_j | y_-j) = 1 / E[ 1 / p(y_j | y_-j, sigma, Lambda) | y ]

(Gelfand, Dey, Chang 1992, in Bayesian Statistics 4, for single observations; b is a parameter there). sigma, which a
group with large residuals moves most, is integrated on the grid that the engine keeps for each Lambda; over Lambda the
weights are Pareto smoothed (Vehtari et al. 2024, JMLR 25). Where the smoothing says that this is not reliable, the
posterior without the group is integrated anew from the sums of the others: same priors, same centring, no pass over rows.

The sum over groups moves with the nodes as one (its sd over the posterior is about the root of half the number of
parameters), so its Monte Carlo error is that of the nodes, not of the groups: few groups get many nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from hbsk.inference.common_coefficients import ConditionalCommon
from hbsk.inference.group_algebra import rotate_groups
from hbsk.inference.integrate import (
    N_REPLICATES,
    PARETO_K_LIMIT,
    broad_t,
    find_mode,
    importance_sample,
    smoothed_weights,
    split_t,
)
from hbsk.inference.marginal import MarginalModel
from hbsk.inference.statistics import ColumnScaling, GroupSums, collect

# Nodes times groups, and the bounds of the nodes that one of the engine's replicates draws. With 85 groups (radon) and 18
# (sleepstudy) the sum over groups is within 0.02 and 0.03 of its limit.
ELEMENTS = 100_000
NODES_PER_REPLICATE = (4, 128)
MAX_NODES = 12_000
# Every second point of the engine's grid of sigma: the sum over groups changes by 0.002 on sleepstudy (every third: 0.02).
GRID_STRIDE = 2
# The grid was laid out for all groups; without one, sigma must neither lie beyond its ends nor between its points.
MOST_AT_ENDS, MOST_AT_ONE_POINT = 1e-3, 0.6
UNRESOLVED_SHARE = 0.01
# Nodes times groups times the numbers of each that are worked on at a time.
BLOCK_ELEMENTS = 500_000
# Smallest eigenvalue of a correlation-like matrix that is told from zero.
SINGULAR = 1e-12
LOG_TWO_PI = np.log(2 * np.pi)


# ---------------------------------------------------------------------------------------------------------------------
# What is known of each group


@dataclass(frozen=True)
class GroupProducts:
    """Products of the columns of every group, in the units of the engine.

    Attributes
    ----------
    zz : ndarray of shape (q, q, n_groups)
        ``A_j = Z_j' W Z_j``.
    zx : ndarray of shape (q, p + 1, n_groups)
        ``B_j = Z_j' W [X y]``.
    xx : ndarray of shape (p + 1, p + 1, n_groups)
        ``G_j = [X y]' W [X y]``.
    copies : ndarray of shape (n_groups,)
        Number of rows.
    log_weight : ndarray of shape (n_groups,)
        ``sum log(1 / se^2)`` where standard errors are known, otherwise 0.
    """

    zz: np.ndarray
    zx: np.ndarray
    xx: np.ndarray
    copies: np.ndarray
    log_weight: np.ndarray

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.copies)

    def sums(self, groups: np.ndarray) -> GroupSums:
        """Return the sums of some of the groups."""
        zz, zx, copies = self.zz[:, :, groups], self.zx[:, :, groups], self.copies[groups]
        if not len(zz):  # a model without effects of groups
            zz, zx, copies = np.zeros((0, 0, 0)), np.zeros((0, zx.shape[1], 0)), np.zeros(0)
        return GroupSums(
            zz=np.ascontiguousarray(zz),
            zx=np.ascontiguousarray(zx),
            xx=self.xx[:, :, groups].sum(axis=2),
            n=float(self.copies[groups].sum()),
            log_weight=float(self.log_weight[groups].sum()),
            copies=copies,
        )

    def all_but(self, group: int) -> np.ndarray:
        """Return the numbers of the other groups."""
        return np.delete(np.arange(self.n_groups), group)


def collect_products(
    design,
    codes: np.ndarray,
    n_groups: int,
    y: np.ndarray,
    scaling: ColumnScaling,
    has_intercept: bool,
    standard_error: np.ndarray | None = None,
) -> GroupProducts:
    """Collect the products of all groups in one pass over the rows.

    Parameters
    ----------
    design : object with ``n_rows`` and ``block(start, stop)``
    codes : ndarray of shape (n_rows,)
    n_groups : int
    y : ndarray of shape (n_rows,)
    scaling : ColumnScaling
        That of the fit.
    has_intercept : bool
    standard_error : ndarray of shape (n_rows,), optional
        In the units of y.
    """
    columns = _EngineColumns(design, y, scaling, has_intercept)
    errors = None if standard_error is None else standard_error / scaling.y_scale
    sums = collect(columns, codes, n_groups, np.zeros(len(y)), has_intercept=False, standard_error=errors).sums
    q = len(sums.zz) - len(scaling.kept) - 1
    log_weight = np.zeros(n_groups)
    if errors is not None:
        log_weight = np.bincount(codes, weights=-2 * np.log(errors), minlength=n_groups)
    return GroupProducts(sums.zz[:q, :q], sums.zz[:q, q:], sums.zz[q:, q:], sums.copies, log_weight)


class _EngineColumns:
    """A design whose varying columns are [Z X y] in the units of the engine, so that their products are summed by group."""

    def __init__(self, design, y, scaling, has_intercept):
        self.design, self.y, self.scaling, self.has_intercept = design, y, scaling, has_intercept
        self.n_rows = design.n_rows

    def block(self, start, stop):
        x, z, offset = self.design.block(start, stop)
        y = self.y[start:stop] if offset is None else self.y[start:stop] - offset
        columns = [self.scaling.varying(part) for part in z]
        columns += [self.scaling.common(x, self.has_intercept), (y - self.scaling.y_centre)[:, None] / self.scaling.y_scale]
        return np.ones((stop - start, 1)), [np.concatenate(columns, axis=1)], None


# ---------------------------------------------------------------------------------------------------------------------
# Where the posterior of the variance parameters is known


@dataclass(frozen=True)
class VarianceGrid:
    """The posterior of (Lambda, sigma): weighted nodes of Lambda, and a grid of sigma for each of them.

    Attributes
    ----------
    weight : ndarray of shape (n_nodes,)
    factor : ndarray of shape (n_nodes, q, q)
        ``Lambda``.
    log_sigma, conditional : ndarray of shape (n_nodes, n_grid)
        Grid of log sigma in the units of the engine, and its probabilities given Lambda and y; one column of ones for
        draws.
    """

    weight: np.ndarray
    factor: np.ndarray
    log_sigma: np.ndarray
    conditional: np.ndarray

    @classmethod
    def of_draws(cls, weight: np.ndarray, factor: np.ndarray, sigma: np.ndarray) -> VarianceGrid:
        """Return the grid whose nodes have one sigma each."""
        return cls(weight, factor, np.log(sigma)[:, None], np.ones((len(sigma), 1)))

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.weight)

    def blocks(self, n_groups: int, n_columns: int):
        """Yield slices of nodes, and the part of the grid that belongs to them."""
        size = n_groups * max(n_columns**2, self.log_sigma.shape[1] * n_columns)
        width = max(1, BLOCK_ELEMENTS // size)
        for start in range(0, self.n_nodes, width):
            at = slice(start, start + width)
            yield at, VarianceGrid(self.weight[at], self.factor[at], self.log_sigma[at], self.conditional[at])


def integrate_finely(
    model: MarginalModel, sigma: float, tau: np.ndarray, n_units: float
) -> tuple[VarianceGrid, float]:
    """Integrate the variance parameters with as many nodes as the number of units allows; return Pareto k too.

    Parameters
    ----------
    model : MarginalModel
    sigma : float
    tau : ndarray of shape (q,)
        Where the search for the mode starts, in the units of the engine.
    n_units : float
        Groups that every node is asked about, or what costs as much.
    """
    if model.parameters.n_dim == 0:
        evaluated, weight, pareto_k = [model.evaluate(np.zeros((1, 0)))], np.ones(1), 0.0
    else:
        mode, precision = find_mode(model.value_and_gradient, model.parameters.theta_of(sigma, tau))
        proposal, broad = (
            find(lambda theta: model.evaluate(theta).log_density, mode, precision) for find in (split_t, broad_t)
        )
        per_replicate = np.clip(ELEMENTS // (N_REPLICATES * n_units), *NODES_PER_REPLICATE)
        nodes = importance_sample(
            model.evaluate,
            proposal,
            lambda rounds: np.zeros((sum(len(points.theta) for points in rounds), 0)),  # Pareto k decides alone
            broad=broad,
            first_per_replicate=2 ** int(np.log2(per_replicate)),
            max_nodes=MAX_NODES,
        )
        evaluated, weight, pareto_k = nodes.evaluated, nodes.weight, nodes.pareto_k
    conditional = np.concatenate([points.weight[:, ::GRID_STRIDE] for points in evaluated])
    kept = weight > 0
    grid = VarianceGrid(
        weight=weight[kept],
        factor=np.concatenate([points.variance.relative_factor for points in evaluated])[kept],
        log_sigma=np.concatenate([points.log_sigma[:, ::GRID_STRIDE] for points in evaluated])[kept],
        conditional=(conditional / conditional.sum(axis=1, keepdims=True))[kept],
    )
    return grid, pareto_k


def expected(log_values: np.ndarray, log_weight: np.ndarray) -> np.ndarray:
    """Return the logarithm of weighted means over the last axis."""
    return logsumexp(log_values + log_weight, axis=-1)


def log_probability(probability):
    """Return logarithms; minus infinity for zero."""
    # a probability that underflows must not come back: far out, 1 / p(y_j | ...) may be as large as exp(20,000)
    with np.errstate(divide="ignore"):
        return np.log(probability)


# ---------------------------------------------------------------------------------------------------------------------
# Likelihoods given the variance parameters


@dataclass(frozen=True)
class _Reduced:
    """``log|M_j|`` (n_nodes, n_groups) and ``C_j`` (n_nodes, n_groups, p + 1, p + 1)."""

    log_det: np.ndarray
    sums: np.ndarray


class _GroupReduction:
    """Integrates the effects of each group out, at any node."""

    def __init__(self, products: GroupProducts):
        self.lower, rotated = rotate_groups(products.zz, products.zx)
        self.rotated = rotated.transpose(2, 0, 1)
        self.within = products.xx.transpose(2, 0, 1) - self.rotated.swapaxes(1, 2) @ self.rotated

    def at(self, factor: np.ndarray) -> _Reduced:
        n_nodes, q = factor.shape[:2]
        if not q:
            shape = (n_nodes, *self.within.shape)
            return _Reduced(np.zeros(shape[:2]), np.broadcast_to(self.within, shape))
        half = np.einsum("ikj,mil->mjkl", self.lower, factor, optimize=True)  # L_j' Lambda
        root = np.linalg.cholesky(np.eye(q) + half @ half.swapaxes(2, 3))  # of M_j
        log_det = 2 * np.log(np.einsum("mjkk->mjk", root)).sum(axis=2)
        solved = np.linalg.solve(root, np.broadcast_to(self.rotated, (n_nodes, *self.rotated.shape)))
        return _Reduced(log_det, self.within + solved.swapaxes(2, 3) @ solved)


def _log_likelihood(sums, log_det, n, log_weight, log_sigma, prior):
    """Return log p(y | sigma, Lambda) over a grid of sigma, but for a term of the prior's own.

    All leading shapes are one axis: sums (m, p + 1, p + 1); log_det, n, log_weight (m,); log_sigma (m, n_grid).
    """
    mean, precision = prior
    common = ConditionalCommon.of(sums, mean, precision, np.maximum(n, 1.0))
    s, eigenvalue, coordinate = common.at(log_sigma)
    quadratic = s * common.residual[:, None] - np.sum(eigenvalue * coordinate**2, axis=2)
    log_q = 2 * common.half_log_det[:, None] + np.sum(np.log(eigenvalue), axis=2)
    constant = n * LOG_TWO_PI + log_det - log_weight
    return -0.5 * (constant[:, None] + 2 * n[:, None] * log_sigma + log_q + quadratic)


def _sums_without_each(sums):
    """Return the sum over all other groups for each group, axis 1, with no digit lost to subtraction."""
    without = np.zeros_like(sums)
    without[:, 1:] += np.cumsum(sums[:, :-1], axis=1)
    without[:, :-1] += np.cumsum(sums[:, :0:-1], axis=1)[:, ::-1]
    return without


def _by_group(reduced_sums, log_det, n, log_weight, log_sigma, prior):
    """Return `_log_likelihood` for every node and group, (n_nodes, n_groups, n_grid)."""
    n_nodes, n_groups, p1 = reduced_sums.shape[:3]
    flat = _log_likelihood(
        reduced_sums.reshape(-1, p1, p1),
        log_det.reshape(-1),
        np.tile(n, n_nodes),
        np.tile(log_weight, n_nodes),
        np.repeat(log_sigma, n_groups, axis=0),
        prior,
    )
    return flat.reshape(n_nodes, n_groups, -1)


@dataclass(frozen=True)
class GroupScores:
    """Predictive densities of each group at each node of Lambda, sigma integrated out; (n_nodes, n_groups).

    Attributes
    ----------
    left_out : ndarray
        ``log p(y_j | y_-j, Lambda)``.
    seen : ndarray
        ``log p(y_j again | y, Lambda)``, of new rows like those of group j in a new group.
    unresolved : ndarray of bool
        Whether the grid of sigma does not hold without the group.
    """

    left_out: np.ndarray
    seen: np.ndarray
    unresolved: np.ndarray


def score_groups(products: GroupProducts, grid: VarianceGrid, prior: tuple[np.ndarray, np.ndarray]) -> GroupScores:
    """Score every group, the common coefficients integrated out given the data of the others, and given all data.

    Parameters
    ----------
    products : GroupProducts
    grid : VarianceGrid
    prior : tuple of ndarray of shape (p,)
        Mean and precision of the common coefficients in the units of the engine.
    """
    n, log_weight = products.copies, products.log_weight
    shape = (grid.n_nodes, products.n_groups)
    left_out, seen, unresolved = np.empty(shape), np.empty(shape), np.zeros(shape, dtype=bool)
    reduction = _GroupReduction(products)
    for at, part in grid.blocks(products.n_groups, len(products.xx)):
        reduced = reduction.at(part.factor)
        total, log_det = reduced.sums.sum(axis=1), reduced.log_det.sum(axis=1)
        constants = np.full(len(log_det), n.sum()), np.full(len(log_det), log_weight.sum())
        whole = _log_likelihood(total, log_det, *constants, part.log_sigma, prior)[:, None]
        rest = _by_group(
            _sums_without_each(reduced.sums),
            log_det[:, None] - reduced.log_det,
            n.sum() - n,
            log_weight.sum() - log_weight,
            part.log_sigma,
            prior,
        )
        more = _by_group(
            total[:, None] + reduced.sums,
            log_det[:, None] + reduced.log_det,
            n.sum() + n,
            log_weight.sum() + log_weight,
            part.log_sigma,
            prior,
        )
        log_conditional = log_probability(part.conditional)[:, None]
        inverse = log_conditional + rest - whole
        left_out[at] = -logsumexp(inverse, axis=2)
        seen[at] = expected(more - whole, log_conditional)
        unresolved[at] = is_unresolved(np.exp(inverse + left_out[at][:, :, None]))
    return GroupScores(left_out, seen, unresolved)


def is_unresolved(probability):
    """Tell for which laws on a grid, last axis, the grid is too short or too coarse."""
    if probability.shape[2] == 1:
        return np.zeros(probability.shape[:2], dtype=bool)
    at_ends = probability[:, :, 0] + probability[:, :, -1]
    return (at_ends > MOST_AT_ENDS) | (probability.max(axis=2) > MOST_AT_ONE_POINT)


def score_group_again(
    products: GroupProducts, group: int, grid: VarianceGrid, prior: tuple[np.ndarray, np.ndarray]
) -> float:
    """Return ``log p(y_j | y_-j)`` from the posterior given the other groups."""
    rest = products.all_but(group)
    counts = np.array([[products.copies[at].sum(), products.log_weight[at].sum()] for at in (rest, slice(None))])
    reduction = _GroupReduction(products)
    predictive = np.empty(grid.n_nodes)
    for at, part in grid.blocks(products.n_groups, len(products.xx)):
        reduced = reduction.at(part.factor)
        both = [
            _log_likelihood(
                reduced.sums[:, groups].sum(axis=1),
                reduced.log_det[:, groups].sum(axis=1),
                *np.repeat(counts[i, :, None], len(part.weight), axis=1),
                part.log_sigma,
                prior,
            )
            for i, groups in enumerate((rest, slice(None)))
        ]
        predictive[at] = expected(both[1] - both[0], log_probability(part.conditional))
    return float(expected(predictive, log_probability(grid.weight)))


def log_likelihood_given_common(
    products: GroupProducts, grid: VarianceGrid, common: np.ndarray
) -> np.ndarray:
    """Return ``log p(y_j | b, sigma, Lambda)``, (n_nodes, n_groups), for grids of one sigma.

    Parameters
    ----------
    products : GroupProducts
    grid : VarianceGrid
    common : ndarray of shape (n_nodes, p)
        In the units of the engine.
    """
    contrast = np.concatenate([-common, np.ones((len(common), 1))], axis=1)
    log_density = np.empty((grid.n_nodes, products.n_groups))
    reduction = _GroupReduction(products)
    for at, part in grid.blocks(products.n_groups, len(products.xx)):
        reduced = reduction.at(part.factor)
        quadratic = np.einsum("ma,mjab,mb->mj", contrast[at], reduced.sums, contrast[at], optimize=True)
        log_density[at] = -0.5 * (
            products.copies * (LOG_TWO_PI + 2 * part.log_sigma)
            + reduced.log_det
            - products.log_weight
            + quadratic * np.exp(-2 * part.log_sigma)
        )
    return log_density


def likelihood_moments(
    products: GroupProducts, grid: VarianceGrid, prior: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return posterior mean and variance of ``log p(y_j | b, sigma, Lambda)``, each (n_groups,).

    It is quadratic in b, which is Gaussian given (sigma, Lambda): with ``E = C_xx / sigma^2`` and
    ``v = (C_xy - C_xx b_hat) / sigma^2`` of the group, the mean is lower than at b_hat by ``tr(E Q^-1) / 2`` and the
    variance is ``tr(E Q^-1 E Q^-1) / 2 + v' Q^-1 v``.
    """
    n, log_weight = products.copies, products.log_weight
    means, squares = np.zeros(products.n_groups), np.zeros(products.n_groups)
    # about the value at some node, so that squares keep their digits
    centre = None
    reduction = _GroupReduction(products)
    for _, part in grid.blocks(products.n_groups, len(products.xx)):
        reduced = reduction.at(part.factor)
        common = ConditionalCommon.of(reduced.sums.sum(axis=1), *prior, max(float(n.sum()), 1.0))
        _, eigenvalue, coordinate = common.at(part.log_sigma)
        precision = np.exp(-2 * part.log_sigma)[:, None]
        basis = common.basis[:, None]
        # of each group, in the basis in which Q is diagonal for every sigma
        e_xx = basis.swapaxes(2, 3) @ reduced.sums[:, :, :-1, :-1] @ basis
        e_xy = (basis.swapaxes(2, 3) @ reduced.sums[:, :, :-1, -1:])[..., 0]
        v = e_xy[:, :, None] - np.einsum("mjik,mgk->mjgi", e_xx, coordinate)
        quadratic = reduced.sums[:, :, None, -1, -1] - np.einsum("mgi,mjgi->mjg", coordinate, e_xy[:, :, None] + v)
        spread = np.einsum("mjii,mgi->mjg", e_xx, 1 / eigenvalue)
        mean = -0.5 * (
            n[:, None] * (LOG_TWO_PI + 2 * part.log_sigma[:, None])
            + reduced.log_det[:, :, None]
            - log_weight[:, None]
            + precision * (quadratic + spread)
        )
        trace = np.einsum("mjik,mgi,mgk->mjg", e_xx**2, 1 / eigenvalue, 1 / eigenvalue, optimize=True)
        slope = np.einsum("mjgi,mgi->mjg", v**2, 1 / eigenvalue)
        variance = precision**2 * (0.5 * trace + slope)
        weight = part.weight[:, None] * part.conditional
        if centre is None:
            centre = np.einsum("mg,mjg->j", weight / weight.sum(), mean)
        deviation = mean - centre[:, None]
        means += np.einsum("mg,mjg->j", weight, deviation)
        squares += np.einsum("mg,mjg->j", weight, deviation**2 + variance)
    return centre + means, squares - means**2


# ---------------------------------------------------------------------------------------------------------------------
# Scores


@dataclass(frozen=True)
class LeaveGroupOut:
    """Leave-one-group-out scores, each (n_groups,), for y in the units of the engine.

    Attributes
    ----------
    elpd : ndarray
        ``log p(y_j | y_-j)``.
    lpd : ndarray
        ``log p(y_j again | y)``.
    pareto_k : ndarray
        0 where the model was fitted again without the group; infinite where the grid of sigma did not hold and it
        was not.
    """

    elpd: np.ndarray
    lpd: np.ndarray
    pareto_k: np.ndarray


def leave_groups_out(
    left_out: np.ndarray, seen: np.ndarray, weight: np.ndarray, unresolved: np.ndarray | None = None
) -> LeaveGroupOut:
    """Return scores from densities at nodes; all arrays (n_nodes, n_groups) but the weights of the nodes."""
    n_groups = left_out.shape[1]
    elpd, pareto_k = np.empty(n_groups), np.empty(n_groups)
    log_weight = log_probability(weight)
    for j in range(n_groups):
        smoothed, pareto_k[j] = smoothed_weights(log_weight - left_out[:, j])
        elpd[j] = expected(left_out[:, j], log_probability(smoothed))
        if unresolved is not None and smoothed @ unresolved[:, j] > UNRESOLVED_SHARE:
            pareto_k[j] = np.inf
    return LeaveGroupOut(elpd, expected(seen.T, log_weight), pareto_k)


def refit_without(
    products: GroupProducts, scores: LeaveGroupOut, model: MarginalModel, sigma: float, tau: np.ndarray, good_k: float
) -> LeaveGroupOut:
    """Score the groups whose Pareto k is too large from fits to all other groups, priors and centring held."""
    elpd, pareto_k = scores.elpd.copy(), scores.pareto_k.copy()
    prior = model.prior_mean, model.prior_precision
    for j in np.flatnonzero(pareto_k > good_k):
        rest = MarginalModel(products.sums(products.all_but(j)), model.parameters, *prior)
        grid, refitted_k = integrate_finely(rest, sigma, tau, products.n_groups)
        elpd[j] = score_group_again(products, j, grid, prior)
        if refitted_k <= PARETO_K_LIMIT:
            pareto_k[j] = 0.0
    return LeaveGroupOut(elpd, scores.lpd, pareto_k)


def unidentified_without(products: GroupProducts, prior_precision: np.ndarray) -> int | None:
    """Return a group without which a flat prior of the common coefficients leaves no proper posterior, or None."""
    if np.all(prior_precision > 0):
        return None
    sums = _sums_without_each(products.xx.transpose(2, 0, 1)[None])[0, :, :-1, :-1]
    # a proper prior identifies its coefficient, whatever the scales
    information = sums + np.diag(prior_precision)
    size = np.sqrt(np.einsum("jkk->jk", information))
    unit = np.where(size > 0, size, 1.0)
    smallest = np.linalg.eigvalsh(information / (unit[:, :, None] * unit[:, None, :]))[:, 0]
    at = np.flatnonzero(smallest <= SINGULAR)
    return int(at[0]) if len(at) else None
