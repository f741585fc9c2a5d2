"""Draws of parameters from a posterior at nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hbsk._engine.common_roots import node_blocks
from hbsk._engine.group_algebra import unpack_symmetric
from hbsk._engine.integrate import N_REPLICATES
from hbsk._engine.node_algebra import covariance_entries, nearest, semidefinite_cholesky, systematic_resample
from hbsk._engine.quadrature import between_nodes
from hbsk._posterior.parts import BLOCK_ELEMENTS

if TYPE_CHECKING:
    from hbsk._posterior.nodes import MarginalPosterior


def at_draws(
    posterior: MarginalPosterior, n_draws: int, rng: np.random.Generator
) -> tuple[MarginalPosterior, MarginalPosterior, np.ndarray]:
    """Return the posterior on nodes of equal weight that are draws of the variance parameters.

    And a posterior with its nodes, one for each draw, whose roots the coefficients are drawn by.
    """
    from hbsk._posterior.nodes import marginal_posterior

    law, equal, every = posterior.law, np.full(n_draws, 1 / n_draws), np.arange(n_draws)
    if posterior.by_quadrature and posterior.n_nodes > 1:
        drawn = posterior._between(between_nodes(rng.standard_normal(n_draws)), equal)
        return drawn, drawn, every
    if law is None or not law.is_at_hand:
        at = systematic_resample(posterior.weight, n_draws, rng)
        parts = {name: getattr(posterior, name)[at] for name in ("sigma", "factor", "common_mean")}
        return replace(posterior, weight=equal, replicate=posterior.replicate[at], law=None, **parts), posterior, at
    theta, log_sigma = law.draw(n_draws, rng)
    replicate = every * N_REPLICATES // n_draws
    if law.can_evaluate(n_draws):
        # sigma anew, from its exact law given theta
        args = (equal, replicate, posterior.pareto_k, rng.random(n_draws))
        drawn = marginal_posterior(law.points(theta), *args, law.model, posterior.scaling, posterior.has_intercept)
        parts = {name: getattr(drawn, name) for name in ("sigma", "factor", "common_mean")}
        drawn = replace(posterior, weight=equal, replicate=replicate, law=None, **parts)
        return drawn, drawn, every
    # The law of the coefficients changes little where groups are many: that of the nearest node will do.
    sigma, factor = np.exp(log_sigma), law.model.parameters.points(theta).relative_factor
    at = nearest(covariance_entries(posterior.sigma, posterior.factor), covariance_entries(sigma, factor))
    parts = {"sigma": sigma, "factor": factor, "common_mean": posterior.common_mean[at]}
    return replace(posterior, weight=equal, replicate=replicate, law=None, **parts), posterior, at


def coloured(posterior: MarginalPosterior, at: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return ``R noise`` with the roots of nodes ``at``, a few of them at a time."""
    turned = np.empty_like(noise)
    order = np.argsort(at, kind="stable")
    for block in node_blocks(len(at), noise.shape[1]):
        draws = order[block]
        used, position = np.unique(at[draws], return_inverse=True)
        turned[draws] = np.einsum("sij,sj->si", posterior.roots(used)[position], noise[draws])
    return turned


def draw_effects(posterior: MarginalPosterior, common, rng, codes):
    """Return effects (n_nodes, n_codes, q), one draw for each node, given coefficients (n_nodes, p)."""
    q = posterior.factor.shape[1]
    known = codes < posterior.sums.n_groups
    effects = np.empty((posterior.n_nodes, len(codes), q))
    contrast = np.concatenate([-common, np.ones((posterior.n_nodes, 1))], axis=1)
    width = max(1, BLOCK_ELEMENTS // (posterior.n_nodes * q * q))
    for start in range(0, len(codes), width):
        block = slice(start, start + width)
        group = np.where(known[block], codes[block], 0)
        inverse = unpack_symmetric(posterior._inverse(group), q).transpose(0, 3, 1, 2)
        left = np.tensordot(contrast, posterior.sums.zx[:, :, group], axes=([1], [1]))
        mean = np.einsum("sjkl,slj->sjk", inverse, left)
        noise = rng.standard_normal((posterior.n_nodes, len(group), q))
        root = semidefinite_cholesky(inverse)
        drawn = mean + posterior.sigma[:, None, None] * np.einsum("sjkl,sjl->sjk", root, noise)
        fresh = np.einsum("skl,sjl->sjk", posterior.sigma[:, None, None] * posterior.factor, noise)
        effects[:, block] = np.where(known[block][:, None], drawn, fresh)
    effects = posterior.scaling.effects(effects)
    return effects if posterior.effect_mean is None else effects + posterior.effect_mean
