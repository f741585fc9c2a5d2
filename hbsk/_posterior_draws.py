"""A posterior given by draws of all parameters; the same interface as `MarginalPosterior`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hbsk._group_moments import GroupMoments
from hbsk._posterior import (
    JointDraws,
    RowMixture,
    VarianceNodes,
    draw_rows,
    moments_by_block,
)
from hbsk.inference.group_algebra import relative_inverse


@dataclass(frozen=True)
class DrawsPosterior:
    """Draws of every parameter, in the units of y and of the raw columns.

    Attributes
    ----------
    common : ndarray of shape (n_draws, p)
    sigma : ndarray of shape (n_draws,)
    group_sd : list of ndarray of shape (n_draws, q), one per factor
    correlation : list of ndarray of shape (n_draws, q, q), one per factor
    effects : list of ndarray of shape (n_draws, n_groups, q), one per factor
    n_chains : int
        Draws are ordered by chain.
    information : tuple of ndarray of shape (q, q, n_groups), one per factor
        ``Z_j' W Z_j`` in raw units.
    """

    common: np.ndarray
    sigma: np.ndarray
    group_sd: list[np.ndarray]
    correlation: list[np.ndarray]
    effects: list[np.ndarray]
    n_chains: int
    information: tuple[np.ndarray, ...] = ()

    infinite_variance = ()
    by_quadrature = False

    @property
    def n_groups(self) -> tuple[int, ...]:
        """Number of groups of each factor."""
        return tuple(effects.shape[1] for effects in self.effects)

    @property
    def n_nodes(self) -> int:
        """Number of draws."""
        return len(self.sigma)

    @property
    def weight(self) -> np.ndarray:
        """Equal weights, shape (n_draws,)."""
        return np.full(self.n_nodes, 1 / self.n_nodes)

    def common_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean (p,) and covariance (p, p) of the coefficients of the raw columns."""
        mean = self.common.mean(axis=0)
        deviation = self.common - mean
        return mean, deviation.T @ deviation / self.n_nodes

    def common_mixture(self) -> tuple[np.ndarray, np.ndarray]:
        """Return means and sds (zero), each (n_draws, p), of the coefficients."""
        return self.common, np.zeros_like(self.common)

    def variance_nodes(self) -> VarianceNodes:
        """Return the draws of the variance parameters."""
        return VarianceNodes(self.sigma, self.group_sd, self.correlation)

    def about_zero(self) -> tuple[DrawsPosterior, float]:
        """Return the posterior itself; see `MarginalPosterior.about_zero`."""
        return self, 0.0

    def row_mixture(self, x, z, codes) -> RowMixture:
        """Return the mixture of the linear predictor of rows; see `MarginalPosterior.row_mixture`."""
        mean = self.common @ x.T
        variance = np.zeros_like(mean)
        for f, (columns, code) in enumerate(zip(z, codes, strict=True)):
            known = code < self.effects[f].shape[1]
            effect = self.effects[f][:, np.where(known, code, 0)]
            mean += np.where(known, np.einsum("srk,rk->sr", effect, columns), 0.0)
            if not known.all():
                variance[:, ~known] += self._new_group_variance(f, columns[~known])
        return RowMixture(self.weight, mean, variance)

    def _new_group_variance(self, factor, columns):
        scaled = columns[None] * self.group_sd[factor][:, None, :]
        return np.einsum("srk,skl,srl->sr", scaled, self.correlation[factor], scaled, optimize=True)

    def row_moments(self, x, z, codes, need_variance=True):
        """Return mean and variance (or None) of the linear predictor of rows."""
        if need_variance:
            return moments_by_block(self, x, z, codes)
        mean = x @ self.common.mean(axis=0)
        for f, (columns, code) in enumerate(zip(z, codes, strict=True)):
            known = code < self.effects[f].shape[1]
            effect = self.effects[f].mean(axis=0)[np.where(known, code, 0)]
            mean += np.where(known, np.sum(effect * columns, axis=1), 0.0)
        return mean, None

    def group_moments(self, factor: int = 0, *, need_covariance: bool = True) -> GroupMoments:
        """Return posterior moments of the effects of all groups of a factor."""
        effects = self.effects[factor]
        mean = effects.mean(axis=0)
        if not need_covariance:
            return GroupMoments(mean, None, None)
        deviation = effects - mean
        common = self.common - self.common.mean(axis=0)
        return GroupMoments(
            mean,
            np.einsum("sjk,sjl->jkl", deviation, deviation, optimize=True) / self.n_nodes,
            np.einsum("si,sjk->jik", common, deviation, optimize=True) / self.n_nodes,
        )

    def joint_draws(self, n_draws: int, rng: np.random.Generator, groups) -> JointDraws:
        """Draw parameters jointly; see `MarginalPosterior.joint_draws`."""
        at = self._spread(n_draws, rng)
        variance = VarianceNodes(
            self.sigma[at], [sd[at] for sd in self.group_sd], [correlation[at] for correlation in self.correlation]
        )
        effects = []
        for f, codes in enumerate(groups):
            known = codes < self.effects[f].shape[1]
            drawn = self.effects[f][at][:, np.where(known, codes, 0)]
            if not known.all():
                noise = rng.standard_normal((n_draws, int(np.sum(~known)), drawn.shape[2]))
                factor = np.linalg.cholesky(variance.correlation[f] + 1e-12 * np.eye(drawn.shape[2]))
                drawn[:, ~known] = np.einsum("skl,sjl->sjk", factor, noise) * variance.group_sd[f][:, None, :]
            effects.append(drawn)
        return JointDraws(self.common[at], variance, effects)

    def all_draws(self) -> JointDraws:
        """Return every draw in its order, with the effects of all groups."""
        return JointDraws(self.common, self.variance_nodes(), self.effects)

    def thinned(self, n_draws: int) -> DrawsPosterior:
        """Return at most ``n_draws`` draws of each chain, evenly spaced."""
        length = self.n_nodes // self.n_chains
        if n_draws >= length:
            return self
        at = np.linspace(0, length - 1, n_draws).astype(int)
        at = (np.arange(self.n_chains)[:, None] * length + at).ravel()
        return DrawsPosterior(
            self.common[at],
            self.sigma[at],
            [sd[at] for sd in self.group_sd],
            [correlation[at] for correlation in self.correlation],
            [effects[at] for effects in self.effects],
            self.n_chains,
            self.information,
        )

    def shrinkage(self, factor: int = 0) -> np.ndarray:
        """Return ``1 - Var(u_jk | y, b, sigma, Sigma) / tau_k^2``, averaged over draws; (n_groups, q).

        Needs the information ``Z_j' W Z_j`` of each group (`information`); NaN without it.
        """
        n_groups, q = self.effects[factor].shape[1:]
        if not self.information:
            return np.full((n_groups, q), np.nan)
        zz = self.information[factor]
        scale = np.sqrt(np.einsum("jkk->k", zz.transpose(2, 0, 1)) / max(n_groups, 1))
        scale = np.where(scale > 0, scale, 1.0)
        known_errors = np.isnan(self.sigma).any()
        at = np.linspace(0, self.n_nodes - 1, min(self.n_nodes, 500)).astype(int)
        sigma = np.ones(len(at)) if known_errors else self.sigma[at]
        relative_sd = self.group_sd[factor][at] * scale / sigma[:, None]
        lower = np.linalg.cholesky(self.correlation[factor][at] + 1e-12 * np.eye(q))
        relative = relative_sd[:, :, None] * lower
        inverse = relative_inverse(zz / np.multiply.outer(scale, scale)[:, :, None], relative)
        row, column = np.tril_indices(q)
        prior = np.maximum(relative_sd**2, 1e-300)
        left = 1.0 - inverse[:, np.flatnonzero(row == column)] / prior[:, :, None]
        return np.clip(left.mean(axis=0).T, 0.0, 1.0)

    def row_sigma(self, codes):  # noqa: ARG002 - the same for all rows here
        """Return sigma at the nodes for rows, an array that broadcasts to (n_nodes, n_rows)."""
        return self.variance_nodes().sigma[:, None]

    def row_draws(self, x, z, codes, n_draws, rng):
        """Return joint draws of the linear predictor of rows, and of sigma; see `draw_rows`."""
        return draw_rows(self, x, z, codes, n_draws, rng)

    def _spread(self, n_draws, rng):
        """Return indices of draws: each at most once where there are enough of them."""
        whole, rest = divmod(n_draws, self.n_nodes)
        parts = [np.arange(self.n_nodes)] * whole + [rng.choice(self.n_nodes, rest, replace=False)]
        return rng.permutation(np.concatenate(parts))
