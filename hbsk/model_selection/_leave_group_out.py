"""Leave-one-group-out: how well a model predicts all rows of a group that it has not seen.

For group j the score is ``log p(y_j | y_-j)``, the effects of the group integrated out over their law (Merkle, Furr,
Rabe-Hesketh 2019, Psychometrika 84: the marginal, not the conditional likelihood). Nothing is refitted to
get it. Given (sigma, Lambda) the common coefficients b and the effects are Gaussian, and every group adds a term to the
sums that the likelihood is made of (symbols of `hbsk._engine.marginal`):

    C = sum_j C_j,  C_j = G_j - D_j' D_j + D_j' M_j^-1 D_j
    log p(y_-j | sigma, Lambda) = that of y with C - C_j for C, without log|M_j| and the rows of j

so that p(y_j | y_-j, sigma, Lambda) = p(y | sigma, Lambda) / p(y_-j | sigma, Lambda) is exact, with b integrated out
given the other groups; what is left is an expectation over the few variance parameters (`_variance_grid`). Where that
is not reliable, they are integrated again without the group, from the sums of the others: same priors, same centring,
no pass over rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

from hbsk._engine.common_coefficients import ConditionalCommon
from hbsk._engine.group_algebra import rotate_groups
from hbsk._engine.marginal import MarginalModel
from hbsk._engine.scaling import ColumnScaling
from hbsk._engine.sums import GroupSums, collect
from hbsk._engine.variance_parameters import VarianceParameters
from hbsk.model_selection._variance_grid import (
    UnitScores,
    VarianceGrid,
    expected,
    integrate_finely,
    is_unresolved,
    log_probability,
)

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


def collect_products(
    design,
    codes: np.ndarray,
    n_groups: int,
    y: np.ndarray,
    scaling: ColumnScaling,
    has_intercept: bool,
    standard_error: np.ndarray | None = None,
    *,
    with_means: bool = False,
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
    with_means : bool
        Whether raw varying columns follow the common ones, so that effects of groups may have means.
    """
    columns = _EngineColumns(design, y, scaling, has_intercept, with_means)
    errors = None if standard_error is None else standard_error / scaling.y_scale
    sums = collect(columns, codes, n_groups, np.zeros(len(y)), has_intercept=False, standard_error=errors).sums
    q = (len(sums.zz) - len(scaling.kept) - 1) // (1 + with_means)
    log_weight = np.zeros(n_groups)
    if errors is not None:
        log_weight = np.bincount(codes, weights=-2 * np.log(errors), minlength=n_groups)
    return GroupProducts(sums.zz[:q, :q], sums.zz[:q, q:], sums.zz[q:, q:], sums.copies, log_weight)


class _EngineColumns:
    """A design whose varying columns are [Z X y] in the units of the engine: their products are summed by group."""

    def __init__(self, design, y, scaling, has_intercept, with_means):
        self.design, self.y, self.scaling, self.has_intercept = design, y, scaling, has_intercept
        self.with_means = with_means
        self.n_rows = design.n_rows

    def block(self, start, stop):
        x, z, offset = self.design.block(start, stop)
        y = self.y[start:stop] if offset is None else self.y[start:stop] - offset
        columns = [self.scaling.varying(part) for part in z]
        columns += [
            self.scaling.common(x, self.has_intercept),
            *(z if self.with_means else ()),
            (y - self.scaling.y_centre)[:, None] / self.scaling.y_scale,
        ]
        return np.ones((stop - start, 1)), [np.concatenate(columns, axis=1)], None


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


def log_likelihood(sums, log_det, n, log_weight, log_sigma, prior):
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


def log_likelihood_by_group(reduced_sums, log_det, n, log_weight, log_sigma, prior):
    """Return `log_likelihood` for every node and group, (n_nodes, n_groups, n_grid)."""
    n_nodes, n_groups, p1 = reduced_sums.shape[:3]
    flat = log_likelihood(
        reduced_sums.reshape(-1, p1, p1),
        log_det.reshape(-1),
        np.tile(n, n_nodes),
        np.tile(log_weight, n_nodes),
        np.repeat(log_sigma, n_groups, axis=0),
        prior,
    )
    return flat.reshape(n_nodes, n_groups, -1)


def _width(products, grid) -> int:
    """Return how many nodes make a block."""
    p1 = len(products.xx)
    return BLOCK_ELEMENTS // (products.n_groups * max(p1**2, grid.log_sigma.shape[1] * p1))


def score_groups(products: GroupProducts, grid: VarianceGrid, prior: tuple[np.ndarray, np.ndarray]) -> UnitScores:
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
    for at, part in grid.blocks(_width(products, grid)):
        reduced = reduction.at(part.factor)
        total, log_det = reduced.sums.sum(axis=1), reduced.log_det.sum(axis=1)
        constants = np.full(len(log_det), n.sum()), np.full(len(log_det), log_weight.sum())
        whole = log_likelihood(total, log_det, *constants, part.log_sigma, prior)[:, None]
        rest = log_likelihood_by_group(
            _sums_without_each(reduced.sums),
            log_det[:, None] - reduced.log_det,
            n.sum() - n,
            log_weight.sum() - log_weight,
            part.log_sigma,
            prior,
        )
        more = log_likelihood_by_group(
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
    return UnitScores(left_out, seen, unresolved)


def score_group_again(
    products: GroupProducts,
    group: int,
    prior: tuple[np.ndarray, np.ndarray],
    parameters: VarianceParameters,
    start: tuple[float, np.ndarray],
) -> tuple[float, float]:
    """Return ``log p(y_j | y_-j)`` from the posterior given the other groups, and the Pareto k of that posterior."""
    rest = np.delete(np.arange(products.n_groups), group)
    model = MarginalModel(products.sums(rest), parameters, *prior)
    grid, pareto_k = integrate_finely(model, start, products.n_groups)
    reduction = _GroupReduction(products)
    log_likelihoods = np.empty((2, *grid.log_sigma.shape))  # of the other groups, and of all
    for at, part in grid.blocks(_width(products, grid)):
        reduced = reduction.at(part.factor)
        ones = np.ones(len(part.weight))
        both: tuple[Any, ...] = (rest, slice(None))
        for i, groups in enumerate(both):
            log_likelihoods[i, at] = log_likelihood(
                reduced.sums[:, groups].sum(axis=1),
                reduced.log_det[:, groups].sum(axis=1),
                products.copies[groups].sum() * ones,
                products.log_weight[groups].sum() * ones,
                part.log_sigma,
                prior,
            )
    predictive = expected(log_likelihoods[1] - log_likelihoods[0], log_probability(grid.conditional))
    return float(expected(predictive, log_probability(grid.weight))), pareto_k


def log_likelihood_given_common(products: GroupProducts, grid: VarianceGrid, common: np.ndarray) -> np.ndarray:
    """Return ``log p(y_j | b, sigma, Lambda)``, (n_nodes, n_groups), for grids of one sigma.

    Parameters
    ----------
    products : GroupProducts
    grid : VarianceGrid
    common : ndarray of shape (n_nodes, p)
        In the units of the engine; followed by the means of the effects, where the products are with them.
    """
    contrast = np.concatenate([-common, np.ones((len(common), 1))], axis=1)
    log_density = np.empty((grid.n_nodes, products.n_groups))
    reduction = _GroupReduction(products)
    for at, part in grid.blocks(_width(products, grid)):
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
    for _, part in grid.blocks(_width(products, grid)):
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
    assert centre is not None  # a grid has nodes
    return centre + means, squares - means**2


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
