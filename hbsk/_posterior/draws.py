"""A posterior given by draws of all parameters; from NUTS."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import pandas as pd

from hbsk._engine.crossed import passes_of
from hbsk._engine.effect_laws import EffectLaw
from hbsk._engine.group_algebra import relative_inverse, unpack_symmetric
from hbsk._engine.propriety import Tails
from hbsk._engine.varying_location import at_zero, less_centre, moved_sds, offset_matrix
from hbsk._posterior.base import Posterior
from hbsk._posterior.crossed_laws import share_kept
from hbsk._posterior.orders import RowOrders
from hbsk._posterior.parts import (
    BLOCK_ELEMENTS,
    GroupMoments,
    JointDraws,
    RowMixture,
    VarianceNodes,
    mean_variance,
    turned_effects,
)


@dataclass(frozen=True)
class DrawsLocation:
    """Points of the varying columns of a factor, zero where it has no varying intercept.

    Attributes
    ----------
    of_priors, of_information : ndarray of shape (q,)
        What is taken off the columns in the priors of their effects, and in `DrawsPosterior.information`.
    intercept : int or None
        Which column is 1 everywhere.
    """

    of_priors: np.ndarray
    of_information: np.ndarray
    intercept: int | None


# Nodes of the mixture of a row in a new group whose effects are not normal: levels of the effects at each draw.
NEW_EFFECT_NODES = 8192
# Draws that shrinkage is averaged over: fewer of several factors, each of which costs the cube of their effects.
LEAST_DRAWS, MOST_DRAWS = 40, 500
OPERATIONS = 4e9


@dataclass(frozen=True)
class DrawsPosterior(Posterior):
    """Draws of every parameter, in the units of y and of the raw columns.

    Attributes
    ----------
    common : ndarray of shape (n_draws, p)
    sigma : ndarray of shape (n_draws,)
    group_sd : list of ndarray of shape (n_draws, q), one per factor
        Sds of the law of the effects; infinite where it has none.
    correlation : list of ndarray of shape (n_draws, q, q), one per factor
        Of effects at the point of the columns that priors refer to (`locations`); far from zero they would lose digits.
    effects : list of ndarray of shape (n_draws, n_groups, q), one per factor
    n_chains : int
        Draws are ordered by chain.
    information : tuple of ndarray of shape (q, q, n_groups), one per factor
        ``Z_j' W Z_j`` in raw units, of the columns less ``locations[f].of_information``.
    laws : tuple of tuple of EffectLaw, one per factor
        Laws of the effects of the terms whose prior is not normal with mean 0.
    locations : tuple of DrawsLocation, one per factor
    n_rows : float
        Copies of rows that the information is of.
    own : tuple of ndarray of shape (n_groups, q), one per factor
        What `own_effects` answers; with several factors.
    diagnosed : DataFrame or None
        ArviZ's diagnostics of the chains.
    tails : Tails
        Which moments do not exist, whatever draws say.
    orders : RowOrders or None
        What tells it of rows, and the sums of several factors; None with one where all moments exist.
    family : {"gaussian", "binomial", "poisson"}
        Of y; where it is not Gaussian, sigma is NaN and ``W`` holds the weights of the likelihood's curvature at the
        mean predictor.
    """

    common: np.ndarray
    sigma: np.ndarray
    group_sd: list[np.ndarray]
    correlation: list[np.ndarray]
    effects: list[np.ndarray]
    n_chains: int
    information: tuple[np.ndarray, ...] = ()
    laws: tuple[tuple[EffectLaw, ...], ...] = ()
    locations: tuple[DrawsLocation, ...] = ()
    n_rows: float = np.nan
    own: tuple[np.ndarray, ...] = ()
    diagnosed: pd.DataFrame | None = None
    tails: Tails = field(default_factory=Tails)
    orders: RowOrders | None = None
    family: str = "gaussian"

    by_quadrature = False
    are_draws = True

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

    def row_degrees(self, x, z, codes, *, with_noise=False):
        """Return the order below which moments of rows exist, of the linear predictor or of y."""
        if self.orders is None:
            return np.full(len(x), np.inf)
        return self.orders.of_rows(self.tails, x, z, codes, with_noise=with_noise)

    def common_estimates(self) -> np.ndarray:
        """Return the mean (p,) of the coefficients of the raw columns."""
        return self.common.mean(axis=0)

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
        return self._variance_nodes(slice(None))

    def _variance_nodes(self, at) -> VarianceNodes:
        """Return sds and correlations of effects at zero."""
        moved = [
            moved_sds(sd[at], correlation[at], location.of_priors, location.intercept)
            for sd, correlation, location in zip(self.group_sd, self.correlation, self._located(), strict=True)
        ]
        return VarianceNodes(
            self.sigma[at],
            [sd for sd, _ in moved],
            [correlation for _, correlation in moved],
            self._laws_at(at),
            self._between(at),
        )

    def _between(self, at) -> np.ndarray | None:
        """Return the variance that each factor's effects have in a row, averaged over rows, (n_draws, n_factors)."""
        if not self.information:
            return None
        between = []
        for f, zz in enumerate(self.information):
            variance = mean_variance(self._roots_at_information(f, at), zz.sum(axis=2) / self.n_rows)
            between.append(np.where(np.isinf(self.group_sd[f][at]).any(axis=1), np.inf, variance))
        return np.stack(between, axis=1)

    def _roots_at_information(self, factor, at) -> np.ndarray:
        """Return roots of the covariances of the effects of the columns of the information, (n_draws, q, q)."""
        location = self._located()[factor]
        shift = location.of_priors - location.of_information
        return at_zero(self._roots(factor, at).swapaxes(1, 2), shift, location.intercept).swapaxes(1, 2)

    def _roots(self, factor, at) -> np.ndarray:
        """Return roots of the covariances of the effects at the point that priors refer to, (n_draws, q, q)."""
        correlation = self.correlation[factor][at]
        lower = np.linalg.cholesky(correlation + 1e-12 * np.eye(correlation.shape[1]))
        return _finite(self.group_sd[factor][at])[:, :, None] * lower

    def _laws_at(self, at) -> tuple[tuple[EffectLaw, ...], ...]:
        return tuple(tuple(law.mapped(lambda values: values[at]) for law in laws) for laws in self.laws)

    def variance_law(self):
        """Return the draws of the variance parameters, and their weights; see `Posterior.variance_law`."""
        return self.variance_nodes(), self.weight, None

    def _located(self) -> tuple[DrawsLocation, ...]:
        if self.locations:
            return self.locations
        return tuple(DrawsLocation(np.zeros(sd.shape[1]), np.zeros(sd.shape[1]), None) for sd in self.group_sd)

    def _less_point(self, factor, columns) -> np.ndarray:
        """Return varying columns less the point that the laws of their effects refer to."""
        location = self._located()[factor]
        return less_centre(columns, location.of_priors, location.intercept)

    def row_mixture(self, x, z, codes) -> RowMixture:
        """Return the mixture of the linear predictor of rows; see `Posterior.row_mixture`.

        Effects of new groups that are normal are integrated out. Others stand at levels of their law, several to each
        draw, so that there may be more nodes than draws.
        """
        mean, variance = self._at_draws(x, z, codes, normal_only=True)
        shaped = []
        for f, (columns, code) in enumerate(zip(z, codes, strict=True)):
            new = code >= self.n_groups[f]
            for law in self._laws(f):
                part = self._less_point(f, columns[new])[:, list(law.columns)]
                if not law.is_normal and part.any():
                    shaped.append((law, new, part))
        if not shaped:
            return RowMixture(self.weight, mean, variance)
        repeats = -(-NEW_EFFECT_NODES // self.n_nodes)
        n_nodes = repeats * self.n_nodes
        repeated = partial(np.repeat, repeats=repeats, axis=0)
        mean, variance = repeated(mean), repeated(variance)
        levels = iter(_levels(n_nodes, sum(len(law.columns) for law, _, _ in shaped)))
        for law, new, part in shaped:
            level = np.stack([next(levels) for _ in law.columns], axis=1)
            mean[:, new] += law.mapped(repeated).quantile(level) @ part.T
        return RowMixture(np.full(n_nodes, 1 / n_nodes), mean, variance)

    def _laws(self, factor) -> tuple[EffectLaw, ...]:
        return self.laws[factor] if self.laws else ()

    def law_mean(self, factor) -> np.ndarray:
        """Return the mean of a new group's effects at each draw, (n_draws, q)."""
        mean = np.zeros(self.group_sd[factor].shape)
        for law in self._laws(factor):
            mean[:, list(law.columns)] = law.mean()
        return mean

    def _normal_columns(self, factor) -> np.ndarray:
        """Return which columns have normal effects, (q,)."""
        normal = np.ones(self.group_sd[factor].shape[1], dtype=bool)
        for law in self._laws(factor):
            normal[list(law.columns)] = law.is_normal
        return normal

    def _at_draws(self, x, z, codes, *, normal_only=False):
        """Return mean and variance of the predictor of rows at each draw, (n_draws, n_rows).

        Effects of new groups that are not normal are left out with `normal_only`; the variance that they have is
        infinite where their law has none.
        """
        mean = self.common @ x.T
        variance = np.zeros_like(mean)
        for f, (columns, code) in enumerate(zip(z, codes, strict=True)):
            known = code < self.n_groups[f]
            effect = self.effects[f][:, np.where(known, code, 0)]
            mean += np.where(known, np.einsum("srk,rk->sr", effect, columns), 0.0)
            if known.all():
                continue
            normal = self._normal_columns(f)
            counted = normal if normal_only else np.ones(len(normal), dtype=bool)
            new_mean, sd = self.law_mean(f)[:, counted], self.group_sd[f][:, counted]
            correlation = self.correlation[f][:, counted][:, :, counted]
            columns = self._less_point(f, columns[~known])[:, counted]
            at = np.flatnonzero(~known)
            mean[:, at] += _finite(new_mean) @ columns.T
            scaled = columns[None] * _finite(sd)[:, None, :]
            variance[:, at] += np.einsum("srk,skl,srl->sr", scaled, correlation, scaled, optimize=True)
            # infinite moments count where the row has anything of the effect
            for k in np.flatnonzero(np.isinf(sd).any(axis=0)):
                variance[:, at[columns[:, k] != 0]] = np.inf
            for k in np.flatnonzero(np.isinf(new_mean).any(axis=0)):
                present = columns[:, k] != 0
                mean[:, at[present]] += np.copysign(np.inf, columns[present, k])
        return mean, variance

    def row_moments(self, x, z, codes, need_variance=True):
        """Return mean and variance (or None) of the linear predictor of rows."""
        if not need_variance:
            return self._means(x, z, codes), None
        n_rows = len(x)
        mean, variance = np.empty(n_rows), np.empty(n_rows)
        width = max(1, BLOCK_ELEMENTS // (self.n_nodes * max(x.shape[1], 1)))
        for start in range(0, n_rows, width):
            rows = slice(start, start + width)
            at_draws, within = self._at_draws(x[rows], [part[rows] for part in z], [code[rows] for code in codes])
            mean[rows] = at_draws.mean(axis=0)
            between = np.where(np.isfinite(mean[rows]), at_draws - _finite(mean[rows]), np.inf)
            variance[rows] = np.mean(within + between**2, axis=0)
        return mean, variance

    def _means(self, x, z, codes):
        mean = x @ self.common.mean(axis=0)
        for f, (columns, code) in enumerate(zip(z, codes, strict=True)):
            known = code < self.n_groups[f]
            effect = self.effects[f].mean(axis=0)[np.where(known, code, 0)]
            less = self._less_point(f, columns)
            new = np.where(less != 0, self.law_mean(f).mean(axis=0), 0.0) * less
            mean += np.sum(np.where(known[:, None], effect * columns, new), axis=1)
        return mean

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
        """Draw parameters jointly; see `Posterior.joint_draws`."""
        at = self._spread(n_draws, rng)
        variance = self._variance_nodes(at)
        effects = []
        for f, codes in enumerate(groups):
            new = codes >= self.n_groups[f]
            drawn = self.effects[f][at][:, np.where(new, 0, codes)]
            if new.any():
                drawn[:, new] = self._new_effects(f, at, int(np.count_nonzero(new)), rng)
            effects.append(drawn)
        return JointDraws(self.common[at], variance, effects)

    def _new_effects(self, factor, at, n_new, rng) -> np.ndarray:
        """Draw effects of new groups from their law at draws, (n_draws, n_new, q)."""
        q = self.group_sd[factor].shape[1]
        noise = rng.standard_normal((len(at), n_new, q))
        effects = np.einsum("skl,sjl->sjk", self._roots(factor, at), noise)
        effects += _finite(self.law_mean(factor)[at])[:, None, :]
        for law in self._laws(factor):
            if not law.is_normal:
                level = np.maximum(rng.random((len(at), n_new, len(law.columns))), 2.0**-60)
                effects[:, :, list(law.columns)] = law.mapped(lambda values: values[at][:, None]).quantile(level)
        location = self._located()[factor]
        return at_zero(effects, location.of_priors, location.intercept)

    def diagnostics(self, specification, *, sigma_is_parameter):  # noqa: ARG002 - computed once, by ArviZ
        """Return ArviZ's diagnostics of the chains."""
        if self.diagnosed is None:
            raise ValueError("These draws were not diagnosed.")
        return self.diagnosed

    def group_draws(self, n_draws, rng, factor=None):  # noqa: ARG002 - no more than there are
        """Return every draw in its order, with the effects of all groups."""
        return JointDraws(self.common, self.variance_nodes(), self.effects)

    def chain_draws(self, n_chains, n_draws, rng):  # noqa: ARG002 - there are so many
        """Return draws of the chains that there are, evenly spaced."""
        few = self.thinned(n_draws)
        return few.group_draws(few.n_nodes, rng), (few.n_chains, few.n_nodes // few.n_chains)

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
            self._laws_at(at),
            self.locations,
            self.n_rows,
            tails=self.tails,
            orders=self.orders,
            family=self.family,
        )

    def shrinkage(self, factor: int = 0, turned: np.ndarray | None = None) -> np.ndarray:
        """Return ``1 - Var(u_jk | y, b, sigma, Sigma) / tau_k^2``, averaged over draws; (n_groups, q).

        Needs the information ``Z_j' W Z_j`` of each group (`information`); NaN without it, and where effects of the
        factor are not normal, whose conditional variance has no closed form. With several factors the effects of the
        others are integrated out, so that all must be normal.
        """
        n_groups, q = self.effects[factor].shape[1:]
        is_one = len(self.group_sd) == 1
        every = [factor] if is_one else range(len(self.group_sd))
        if not self.information or not all(self._normal_columns(f).all() for f in every):
            return np.full((n_groups, q), np.nan)
        if not is_one:
            return self._shares_kept[factor] if turned is None else self._shares({factor: turned})[factor]
        zz, location = self.information[factor], self._located()[factor]
        scale = np.sqrt(np.einsum("jkk->k", zz.transpose(2, 0, 1)) / max(n_groups, 1))
        scale = np.where(scale > 0, scale, 1.0)
        known_errors = np.isnan(self.sigma).any()
        at = np.linspace(0, self.n_nodes - 1, min(self.n_nodes, MOST_DRAWS)).astype(int)
        sigma = np.ones(len(at)) if known_errors else self.sigma[at]
        # at the centre of the information, in units of its columns; answers are those at zero
        relative = self._roots_at_information(factor, at) / sigma[:, None, None] * scale[:, None]
        inverse = relative_inverse(zz / np.multiply.outer(scale, scale)[:, :, None], relative)
        raw = offset_matrix(location.of_information, location.intercept) / scale
        raw = raw if turned is None else turned @ raw
        prior = np.sum((raw @ relative) ** 2, axis=2)[:, :, None]
        within = np.einsum("ka,mabj,kb->mkj", raw, unpack_symmetric(inverse, q), raw, optimize=True)
        # nothing is kept of effects that are fixed
        left = 1.0 - np.divide(within, prior, out=np.ones_like(within), where=prior > 0)
        return np.clip(left.mean(axis=0).T, 0.0, 1.0)

    @cached_property
    def _shares_kept(self) -> list[np.ndarray]:
        """The shrinkage of every factor, each (n_groups, q)."""
        return self._shares({})

    def _shares(self, turned: dict[int, np.ndarray]) -> list[np.ndarray]:
        """Return the shrinkage of every factor, each (n_groups, q), averaged over some of the draws."""
        assert self.orders is not None  # of several factors it is there
        sums, scalings = self.orders.sums, self.orders.scalings
        passes = passes_of(sums)
        n_draws = int(np.clip(OPERATIONS / max(passes.n_remaining, 1) ** 3, LEAST_DRAWS, MOST_DRAWS))
        at = np.linspace(0, self.n_nodes - 1, min(self.n_nodes, n_draws)).astype(int)
        sigma = self.sigma[at] / scalings[0].y_scale
        factors = np.zeros((len(at), sums.n_varying, sums.n_varying))
        for f, (scaling, columns) in enumerate(zip(scalings, sums.columns, strict=True)):
            factors[:, columns, columns] = (
                scaling.engine_factor(self._roots(f, at), self._located()[f].of_priors)
                / np.where(np.isnan(sigma), 1.0, sigma)[:, None, None]
            )
        total, raw = [0.0] * len(scalings), [turned_effects(way, turned.get(f)) for f, way in enumerate(scalings)]
        for factor in factors:
            effects = passes.effects(factor)
            for f in range(len(scalings)):
                total[f] = total[f] + share_kept(effects, factor, passes, f, raw[f]) / len(factors)
        return total

    def __getstate__(self) -> dict:
        """Leave what can be computed again out of a pickle."""
        return {name: value for name, value in vars(self).items() if name != "_shares_kept"}

    def own_effects(self, factor: int) -> np.ndarray | None:
        """Return the least-squares effects of all groups of one of several factors; see `Posterior.own_effects`."""
        return self.own[factor] if self.own else None

    def _spread(self, n_draws, rng):
        """Return indices of draws: each at most once where there are enough of them."""
        whole, rest = divmod(n_draws, self.n_nodes)
        parts = [np.arange(self.n_nodes)] * whole + [rng.choice(self.n_nodes, rest, replace=False)]
        return rng.permutation(np.concatenate(parts))


def _finite(values):
    """Replace what is not finite by 0."""
    return np.where(np.isfinite(values), values, 0.0)


def _levels(n, dimension):
    """Return levels in (0, 1) that fill the unit cube evenly, in every stretch of them too; (dimension, n)."""
    from scipy.stats.qmc import Sobol

    return Sobol(dimension, rng=0).random_base2(int(np.ceil(np.log2(n))))[:n].T
