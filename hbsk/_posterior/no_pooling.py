"""No pooling: the limit of infinite between-group sds, by the same algebra on the same sums.

As tau grows, ``H_j = (A_j + (Lambda Lambda')^-1)^-1`` tends to the pseudo-inverse of ``A_j``: the
varying columns are free in every group, common columns that vary within groups are shared. Common
columns that the varying ones absorb, alone or in combination, are identified by nothing but the
complete-pooling fit, and take its value; so do directions that the rows of a group do not identify.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hbsk._engine.group_algebra import lower_indices, unpack_symmetric
from hbsk._engine.marginal import MarginalModel
from hbsk._engine.propriety import Tails
from hbsk._engine.scaling import ColumnScaling
from hbsk._engine.sums import GroupSums
from hbsk._engine.variance_parameters import VarianceParameters
from hbsk._posterior.base import Posterior
from hbsk._posterior.diagnostics import marginal_diagnostics
from hbsk._posterior.group_moments import residual_products
from hbsk._posterior.integrated import integrate_posterior
from hbsk._posterior.nodes import MarginalPosterior
from hbsk._posterior.own_estimates import IDENTIFIED, pseudo_inverses, unidentified_columns
from hbsk._posterior.parts import GroupMoments, RowMixture, VarianceNodes


@dataclass(frozen=True, kw_only=True)
class SeparateGroups(MarginalPosterior):
    """Groups that fit has seen, in the limit: the laws at a node differ, what is made of them does not.

    Attributes
    ----------
    inverse : ndarray of shape (q (q + 1) / 2, n_groups)
        Pseudo-inverses of ``A_j``, packed.
    part : MarginalPosterior
        Of the common coefficients that groups share, numbers ``shared``.
    shared : ndarray of shape (n_shared,), dtype int
    """

    inverse: np.ndarray
    part: MarginalPosterior
    shared: np.ndarray

    # the same H_j at all nodes
    has_short_moments = True

    def _compute_roots(self, nodes):
        of_shared = self.part.roots(nodes)
        p = self.common_mean.shape[1]
        roots = np.zeros((len(of_shared), p, p))
        roots[:, self.shared[:, None], self.shared] = of_shared
        return roots

    def _compute_covariances(self, nodes):
        root = self._compute_roots(nodes)
        return root @ root.swapaxes(1, 2)

    def _inverse(self, groups, nodes=slice(None)):
        inverse = self.inverse[:, groups]
        return np.broadcast_to(inverse, (len(self.sigma[nodes]), *inverse.shape))

    def _between(self, between, weight):
        return replace(super()._between(between, weight), part=self.part._between(between, weight))

    def _in_users_units(self, sigma, factor):
        sigma, q = sigma * self.scaling.y_scale, factor.shape[1]
        return VarianceNodes(sigma, [np.full((len(sigma), q), np.inf)], [np.full((len(sigma), q, q), np.nan)])

    def _engine_moments(self, *, need_covariance):
        q = self.factor.shape[1]
        packed = self.inverse[None]
        inverse = unpack_symmetric(packed, q)[0]
        products = residual_products(self.sums.zx, self.weight @ self.common_mean)
        mean = np.einsum("klj,lj->jk", inverse, products[:, -1])
        if not need_covariance:
            return GroupMoments(mean, None, None)
        reach = np.einsum("klj,laj->jak", inverse, products[:, :-1])  # (H B_x)'
        with_common = -np.einsum("ab,jbk->jak", self._common_covariance(), reach, optimize=True)
        covariance = (self.weight @ self.sigma**2) * inverse.transpose(2, 0, 1)
        covariance = covariance - np.einsum("jak,jal->jkl", reach, with_common, optimize=True)
        return GroupMoments(mean, covariance, with_common)


@dataclass(frozen=True)
class NoPoolingPosterior(Posterior):
    """Posterior without pooling: known groups have estimates of their own, new ones the complete-pooling answer.

    Rows of both stand side by side in one mixture: node i has the same weight in both.

    Attributes
    ----------
    known : SeparateGroups
    new : MarginalPosterior or None
        Of the same model without groups; None where nobody asks about new ones.
    absorbed : ndarray of shape (p, n_absorbed)
        Directions of the common coefficients, in engine units, that the varying columns absorb.
    identified : ndarray of shape (n_groups, q, q)
        Projections on the directions that the rows of a group identify.
    """

    known: SeparateGroups
    new: MarginalPosterior | None
    absorbed: np.ndarray
    identified: np.ndarray

    n_chains = 0
    by_quadrature = True
    pools_nothing = True

    @property
    def weight(self) -> np.ndarray:
        """Weights of the nodes, shape (n_nodes,)."""
        return self.known.weight

    @property
    def replicate(self) -> np.ndarray:
        """Replicates of the nodes, shape (n_nodes,)."""
        return self.known.replicate

    @property
    def pareto_k(self) -> float:
        """Pareto k of the nodes."""
        return self.known.pareto_k

    @property
    def n_groups(self) -> tuple[int, ...]:
        """Number of groups of each factor."""
        return self.known.n_groups

    @property
    def tails(self) -> Tails:
        """Which moments of known groups do not exist."""
        return self.known.tails

    @property
    def scaling(self) -> ColumnScaling:
        """The way to the units of the engine."""
        return self.known.scaling

    def about_zero(self):
        """Return both parts of y less a number, and that number."""
        known, location = self.known.about_zero()
        return replace(self, known=known, new=self.new.about_zero()[0]), location

    # parameters

    def common_estimates(self):
        """Return the mean (p,) of the coefficients of the raw columns."""
        return self.known.common_estimates()

    def common_moments(self):
        """Return mean (p,) and covariance (p, p) of the coefficients of the raw columns."""
        return self.known.common_moments()

    def common_mixture(self):
        """Return means and sds, each (n_nodes, p), of the coefficients; NaN is the sd of what groups absorb."""
        mean, sd = self.known.common_mixture()
        # Every node has the same number along absorbed directions: no spread, but no knowledge.
        jacobian = self.known._jacobian()
        slope, size = self.absorbed.T @ jacobian, np.abs(self.absorbed.T) @ np.abs(jacobian)
        sd[:, np.any(np.abs(slope) > np.sqrt(IDENTIFIED) * size, axis=0)] = np.nan
        return mean, sd

    def variance_nodes(self):
        """Return sigma at the nodes, infinite sds and no correlations."""
        return self.known.variance_nodes()

    def variance_law(self):
        """Return the nodes, their weights and replicates."""
        return self.known.variance_law()

    def diagnostics(self, specification, *, sigma_is_parameter):
        """Return a table in which nothing has an error, and what groups absorb is missing."""
        return marginal_diagnostics(specification, self, sigma_is_parameter=sigma_is_parameter)

    # rows

    def _rows(self, codes):
        """Tell which rows are of known groups, and codes that are those of known groups everywhere."""
        known = codes[0] < self.n_groups[0]
        return known, np.where(known, codes[0], 0)

    def row_mixture(self, x, z, codes) -> RowMixture:
        """Return the mixture of the linear predictor of rows; infinite is the variance that groups do not identify."""
        return self._mixture(x, z, codes, self.unidentified_rows)

    def coefficient_mixture(self, x, z, codes) -> RowMixture:
        """Return the mixture of coefficients of groups: what groups absorb has its complete-pooling value in them."""
        return self._mixture(x, z, codes, lambda _, z, codes: self.are_free(z[0], codes))

    def _mixture(self, x, z, codes, unidentified) -> RowMixture:
        known, at = self._rows(codes)
        mixture = self.known.row_mixture(x, z, [at])
        variance = np.where(known & unidentified(x, z, codes), np.inf, mixture.variance)
        mean = mixture.mean
        if not known.all():
            fresh = self.new.row_mixture(x[~known], [], [])
            mean[:, ~known], variance[:, ~known] = fresh.mean, fresh.variance
        return RowMixture(mixture.weight, mean, variance)

    def row_moments(self, x, z, codes, need_variance=True):
        """Return mean and variance (or None) of the linear predictor of rows."""
        known, at = self._rows(codes)
        mean, variance = self.known.row_moments(x, z, [at], need_variance)
        if need_variance:
            variance = np.where(self.unidentified_rows(x, z, codes), np.inf, variance)
        if not known.all():
            fresh_mean, fresh_variance = self.new.row_moments(x[~known], [], [], need_variance)
            mean[~known] = fresh_mean
            if need_variance:
                variance[~known] = fresh_variance
        return mean, variance

    def row_sigma(self, codes):
        """Return sigma at the nodes for rows, that of complete pooling for new groups."""
        known, _ = self._rows(codes)
        of_known, of_new = self.known.row_sigma(codes), self.new.row_sigma([])
        return of_known if known.all() else np.where(known, of_known, of_new)

    @property
    def has_infinite_moments(self):
        """Whether any mean or variance does not exist, of known or new groups."""
        return self.known.has_infinite_moments or self.new.has_infinite_moments

    def row_degrees(self, x, z, codes, *, with_noise=False):  # noqa: ARG002 - what z frees is infinite anyway
        """Return the order below which moments of rows exist: sigma alone has a tail."""
        known, _ = self._rows(codes)
        of_new = self.new.row_degrees(x, [], [], with_noise=with_noise)
        return np.where(known, self.tails.of_sigma(), of_new)

    def unidentified_rows(self, x, z, codes) -> np.ndarray:
        """Tell which rows of known groups ask for what the rows of their group do not identify.

        That is a direction of the varying columns, or a common column, absorbed by the varying ones, away from where
        the group has it: along a direction d of the absorbed ones, ``u_j`` makes up for ``A_j^+ B_j d``.
        """
        known, at = self._rows(codes)
        groups, position = np.unique(at, return_inverse=True)
        free = self.are_free(z[0], codes)
        z = self.scaling.varying(z[0])
        x = self.scaling.common(x, self.known.has_intercept)
        inverse = unpack_symmetric(self.known.inverse[:, groups][None], z.shape[1])[0]
        products = np.einsum("lpj,pa->laj", self.known.sums.zx[:, :-1, groups], self.absorbed)
        made_up = np.einsum("klj,laj->jka", inverse, products)
        own, of_group = x @ self.absorbed, np.einsum("rk,rka->ra", z, made_up[position])
        size = np.abs(x) @ np.abs(self.absorbed) + np.einsum("rk,rka->ra", np.abs(z), np.abs(made_up[position]))
        return known & (free | np.any(np.abs(own - of_group) > np.sqrt(IDENTIFIED) * size, axis=1))

    def are_free(self, z, codes) -> np.ndarray:
        """Tell which rows ask for a direction of the varying columns that their group does not identify."""
        _, at = self._rows(codes)
        z = self.scaling.varying(z)
        inside = np.einsum("rk,rkl,rl->r", z, self.identified[at], z)
        size = np.sum(z**2, axis=1)
        return size - inside > np.sqrt(IDENTIFIED) * size

    # groups

    def contrast_mixture(self, factor, z, first, second, rng) -> RowMixture:
        """Return the law of ``z'u_a - z'u_b`` of pairs of groups; infinite is the variance one of them leaves open."""
        mixture = self.known.contrast_mixture(factor, z, first, second, rng)
        columns = np.tile(z, (len(first), 1))
        free = self.are_free(columns, [first]) | self.are_free(columns, [second])
        return RowMixture(mixture.weight, mixture.mean, np.where(free, np.inf, mixture.variance))

    def unidentified_effects(self) -> np.ndarray:
        """Tell which columns a group does not identify, shape (n_groups, q)."""
        return unidentified_columns(self.scaling, self.identified)

    def group_moments(self, factor=0, *, need_covariance=True) -> GroupMoments:
        """Return moments of the effects of all groups; infinite is the variance that a group does not identify."""
        moments = self.known.group_moments(factor, need_covariance=need_covariance)
        if need_covariance:
            each = range(self.identified.shape[1])
            covariance = moments.covariance.copy()
            covariance[:, each, each] = np.where(self.unidentified_effects(), np.inf, covariance[:, each, each])
            moments = replace(moments, covariance=covariance)
        return moments

    def shrinkage(self, factor=0, turned=None):  # noqa: ARG002 - there is one factor
        """Return 1 where a group identifies the column, otherwise 0."""
        return np.where(unidentified_columns(self.scaling, self.identified, turned), 0.0, 1.0)

    # draws

    def joint_draws(self, n_draws, rng, groups):
        """Draw parameters jointly, with the effects of known groups."""
        return self.known.joint_draws(n_draws, rng, groups)

    def without_unidentified(self, effects):
        """Return draws of the effects, NaN where a group does not identify them."""
        return [np.where(self.unidentified_effects(), np.nan, effects[0])]

    def row_draws(self, x, z, codes, n_draws, rng):
        """Return joint draws of the linear predictor of rows, NaN where a group does not identify it, and of sigma."""
        known, _ = self._rows(codes)
        predictor = np.empty((n_draws, len(x)))
        sigma = np.empty_like(predictor)
        of_known = (x[known], [z[0][known]], [codes[0][known]])
        predictor[:, known], sigma[:, known] = self.known.row_draws(*of_known, n_draws, rng)
        if not known.all():
            predictor[:, ~known], sigma[:, ~known] = self.new.row_draws(x[~known], [], [], n_draws, rng)
        predictor[:, self.unidentified_rows(x, z, codes)] = np.nan
        return predictor, sigma


def complete_pooling_model(model: MarginalModel) -> MarginalModel:
    """Return the model without its groups."""
    sums = model.sums
    bare = GroupSums(
        np.zeros((0, 0, 0)), np.zeros((0, sums.n_common + 1, 0)), sums.xx, sums.n, sums.log_weight, np.zeros(0)
    )
    parameters = VarianceParameters(model.parameters.residual_sd, (), (), ())
    return MarginalModel(bare, parameters, model.prior_mean, model.prior_precision)


def fit_no_pooling(
    model: MarginalModel, scaling: ColumnScaling, has_intercept: bool, *, of_groups: Sequence[int] | None = None
) -> NoPoolingPosterior:
    """Return the posterior in the limit of infinite between-group sds.

    With ``of_groups``, the common columns that vary by group too, it need know these coefficients of known groups only:
    if groups absorb no other columns, what they absorb is held at the engine's zero, which is nothing to those.
    """
    sums = model.sums
    q, p1 = sums.zx.shape[:2]
    complete_model = complete_pooling_model(model)
    inverse, identified, rank = pseudo_inverses(sums.zz)
    reduced = sums.xx - np.einsum("kaj,klj,lbj->ab", sums.zx, inverse, sums.zx, optimize=True)
    absorbed, free = absorbed_directions(reduced[:-1, :-1], sums.xx[:-1, :-1])
    shared = np.setdiff1d(np.arange(p1 - 1), free)
    rows = np.append(shared, p1 - 1)
    within = GroupSums(
        np.zeros((0, 0, 0)),
        np.zeros((0, len(rows), 0)),
        reduced[np.ix_(rows, rows)],
        max(sums.n - float(rank.sum()), 0.0),
        sums.log_weight,
        np.zeros(0),
    )
    # Coefficients along absorbed directions are those of complete pooling, and move the others by as much.
    complete, of_complete = None, np.zeros(p1 - 1)
    if of_groups is None or absorbed[shared].any() or np.setdiff1d(scaling.kept[free], of_groups).size:
        complete = integrate_posterior(complete_model, scaling, has_intercept).posterior
        of_complete = complete.weight @ complete.common_mean
    moved = (absorbed @ of_complete[free])[shared]
    shared_model = MarginalModel(
        within, complete_model.parameters, model.prior_mean[shared] - moved, model.prior_precision[shared]
    )
    part = integrate_posterior(shared_model, scaling, has_intercept).posterior
    n_nodes = part.n_nodes
    mean = np.tile(of_complete, (n_nodes, 1))
    mean[:, shared] = part.common_mean + moved
    row, column = lower_indices(q)
    known = SeparateGroups(
        weight=part.weight,
        replicate=part.replicate,
        pareto_k=0.0,
        sigma=part.sigma,
        factor=np.zeros((n_nodes, q, q)),
        common_mean=mean,
        prior_precision=model.prior_precision,
        sums=sums,
        scaling=scaling,
        has_intercept=has_intercept,
        tails=part.tails,
        by_quadrature=True,
        inverse=np.ascontiguousarray(inverse[row, column]),
        part=part,
        shared=shared,
    )
    return NoPoolingPosterior(known, complete, absorbed, identified)


def absorbed_directions(reduced: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the directions of common coefficients that varying columns absorb.

    A column that the varying ones absorb is a direction of its own; others are combinations, such as the column x where
    only its slope varies and the engine has the intercept and x less its mean.

    Parameters
    ----------
    reduced, total : ndarray of shape (p, p)
        Products of the common columns, what the varying columns explain of each group left out, and all.

    Returns
    -------
    directions : ndarray of shape (p, n_absorbed)
        The identity in the rows of ``free``.
    free : ndarray of shape (n_absorbed,), dtype int
        One column for each direction: its coefficient may have any value.
    """
    p = len(total)
    unit = np.sqrt(np.where(np.diag(total) > 0, np.diag(total), 1.0))
    reduced, total = reduced / np.outer(unit, unit), total / np.outer(unit, unit)
    alone = np.diag(reduced) <= IDENTIFIED * np.diag(total)
    free, others = list(np.flatnonzero(alone)), np.flatnonzero(~alone)
    directions = np.eye(p)[:, alone]
    # share of each direction of the others that is left, of those that their total identifies
    size, vectors = np.linalg.eigh(total[np.ix_(others, others)])
    seen = size > np.sqrt(IDENTIFIED)
    white = vectors[:, seen] / np.sqrt(size[seen])
    share, turned = np.linalg.eigh(white.T @ reduced[np.ix_(others, others)] @ white)
    combined = np.zeros((p, int(np.sum(share <= IDENTIFIED))))
    combined[others] = white @ turned[:, share <= IDENTIFIED]
    combined[np.abs(combined) <= np.sqrt(IDENTIFIED) * np.max(np.abs(combined), axis=0, initial=0.0)] = 0.0
    for k in range(combined.shape[1]):
        # the intercept, which comes first where there is one, stays identified if another column can be free
        entries = np.abs(combined[:, k]) * np.where(np.arange(p) == 0, np.sqrt(IDENTIFIED), 1.0)
        # the last of those that only rounding tells apart
        pivot = int(np.flatnonzero(entries >= (1.0 - IDENTIFIED) * entries.max())[-1])
        combined[:, k] /= combined[pivot, k]
        rest = np.arange(combined.shape[1]) != k
        combined[:, rest] -= np.outer(combined[:, k], combined[pivot, rest])
        free.append(pivot)
    free = np.array(free, dtype=int)
    return np.concatenate([directions, combined], axis=1) / unit[:, None] * unit[free], free
