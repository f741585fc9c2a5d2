"""Joint draws from the posterior of several grouping factors: variance parameters by their law, effects given these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hbsk._engine.marginal import map_arrays
from hbsk._engine.nested_passes import NestedPasses
from hbsk._engine.node_algebra import (
    conditional_quantile,
    covariance_entries,
    nearest,
    semidefinite_cholesky,
    systematic_resample,
)
from hbsk._engine.schur_passes import SchurPasses, alone
from hbsk._posterior.crossed_laws import coefficients_at, n_lambdas
from hbsk._posterior.nested_laws import draw_nested
from hbsk._posterior.parts import at_place

if TYPE_CHECKING:
    from hbsk._posterior.crossed import CrossedPosterior

# Effects at a Lambda cost as much as so many evaluations of the density: 4,000 draws of 150 by 80 levels take a second.
EFFECTS_OVER_POINTS = 5


class DrawnNodes(NamedTuple):
    """Draws of the variance parameters, and the law of all else at each.

    Attributes
    ----------
    sigma : ndarray of shape (n_draws,)
    factor : ndarray of shape (n_draws, q, q)
        ``Lambda`` of all factors, block diagonal.
    common_mean : ndarray of shape (n_draws, p)
    common_root : ndarray of shape (n_draws, p, p)
        Roots of the covariance of the common coefficients.
    lambdas : ndarray of shape (n_points, q, q)
        The Lambda that effects of known levels are drawn at.
    at : ndarray of shape (n_draws,), dtype int
        Which of them each draw has.
    """

    sigma: np.ndarray
    factor: np.ndarray
    common_mean: np.ndarray
    common_root: np.ndarray
    lambdas: np.ndarray
    at: np.ndarray


def draw_nodes(posterior: CrossedPosterior, n_draws: int, rng: np.random.Generator) -> DrawnNodes:
    """Return draws of the variance parameters, from the law that tables tell of them.

    All else has its law at the draw itself where that can be paid for. Where it cannot, levels are so many that it
    changes little: that of the nearest node will do.
    """
    law = posterior.law
    # of no more draws than nodes their own errors are larger than those of the nodes, and finer ones take seconds
    if law is None or not (law.is_free or (n_draws > posterior.n_nodes and law.is_at_hand)):
        at = systematic_resample(posterior.weight, n_draws, rng)
        sigma = posterior.sigmas[at, rng.integers(posterior.sigmas.shape[1], size=n_draws)]
        return _at_nodes(posterior, at, sigma, posterior.factor[at])
    theta, log_sigma = law.draw(n_draws, rng)
    if not law.can_evaluate(EFFECTS_OVER_POINTS * n_draws):
        sigma, factor = np.exp(log_sigma), law.model.parameters.points(theta).relative_factor
        at = nearest(covariance_entries(posterior.sigma, posterior.factor), covariance_entries(sigma, factor))
        return _at_nodes(posterior, at, sigma, factor)
    theta, at = np.unique(theta, axis=0, return_inverse=True)
    points = law.points(theta)
    lambdas, common = points.variance.relative_factor, map_arrays(lambda values: values[at], points.common)
    if points.variance.sigma is None:  # anew, from its exact law given theta
        log_sigma = conditional_quantile(points.log_sigma[at], points.weight[at], rng.random(n_draws))
    return DrawnNodes(np.exp(log_sigma), lambdas[at], *coefficients_at(common, log_sigma), lambdas, at)


def _at_nodes(posterior, at, sigma, factor) -> DrawnNodes:
    return DrawnNodes(sigma, factor, posterior.common_mean[at], posterior.common_root[at], posterior.factor, at)


def draw_effects(
    passes: SchurPasses | NestedPasses,
    drawn: DrawnNodes,
    common: np.ndarray,
    rng: np.random.Generator,
    groups: Sequence[np.ndarray],
    numbers: float,
) -> list[np.ndarray]:
    """Return joint draws of effects, one array (n_draws, n_codes, q) per factor.

    Parameters
    ----------
    passes : SchurPasses or NestedPasses
    drawn : DrawnNodes
    common : ndarray of shape (n_draws, p)
        Draws of the common coefficients.
    rng : numpy.random.Generator
    groups : sequence of ndarray of shape (n_codes,), one per factor
        A code that is not below the number of levels is a new level.
    numbers : float
        How many numbers the laws of several Lambda may take at a time.
    """
    sigma, factors = drawn.sigma, passes.sums.factors
    known = [codes < own.n_groups for codes, own in zip(groups, factors, strict=True)]
    levels = [codes[is_known] for codes, is_known in zip(groups, known, strict=True)]
    effects = [np.empty((len(sigma), len(codes), own.n_varying)) for codes, own in zip(groups, factors, strict=True)]
    contrast = np.concatenate([-common, np.ones((len(sigma), 1))], axis=1).T
    used, at = np.unique(drawn.at, return_inverse=True)
    order = np.argsort(at, kind="stable")
    width, begin = max(1, int(numbers / passes.numbers_kept)), 0
    for start in range(0, len(used), width):
        for n_points, law in _laws_at(passes, drawn.lambdas[used[start : start + width]]):
            first, last = np.searchsorted(at[order], [begin, begin + n_points])
            draws = order[first:last]
            place = at[draws] - begin
            if isinstance(passes, NestedPasses):
                of_draws = draw_nested(passes, law, place, sigma[draws], contrast[:, draws], rng, levels)
            else:
                rest = _draw_rest(passes, law, place, sigma[draws], contrast[:, draws], rng)
                of_draws = draw_given_rest(
                    passes, law[0].first, place, rest, sigma[draws], contrast[:, draws], rng, levels
                )
            for part, is_known, of_factor in zip(effects, known, of_draws, strict=True):
                part[np.ix_(draws, is_known)] = of_factor
            begin += n_points
    for part, is_known, columns in zip(effects, known, passes.sums.columns, strict=True):
        noise = sigma[:, None, None] * rng.standard_normal((len(sigma), np.count_nonzero(~is_known), part.shape[2]))
        part[:, ~is_known] = np.einsum("skl,sjl->sjk", drawn.factor[:, columns, columns], noise)
    return effects


def _laws_at(passes, lambdas) -> Iterator[tuple[int, Any]]:
    """Yield laws of all effects at several Lambda, as many at a time as are worked on together, and their number."""
    if isinstance(passes, NestedPasses):
        for effects in passes.effects_at(lambdas):
            yield n_lambdas(effects), effects
    else:
        for complements, solved in passes.complements_at(lambdas):
            yield len(solved), (complements, solved)


def _draw_rest(passes, law, place, sigma, contrast, rng) -> np.ndarray:
    """Return draws of the effects beside the largest factor, (K, n_draws); places rise."""
    complements, solved = law
    rest = np.empty((passes.n_remaining, len(place)))
    starts = np.searchsorted(place, np.arange(len(solved) + 1))
    for m in np.unique(place):
        here = slice(starts[m], starts[m + 1])
        noise = rng.standard_normal((passes.n_remaining, here.stop - here.start))
        rest[:, here] = solved[m] @ contrast[:, here] + sigma[here] * passes.coloured(alone(complements, m), noise)
    return rest


def draw_given_rest(
    passes: SchurPasses,
    first: np.ndarray,
    place: np.ndarray,
    rest: np.ndarray,
    sigma: np.ndarray,
    contrast: np.ndarray,
    rng: np.random.Generator,
    levels: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Return draws of effects of known levels, one array (n_draws, n_codes, q) per factor.

    Parameters
    ----------
    passes : SchurPasses
    first : ndarray of shape (n_points, n_groups, q, q)
        ``H_j`` of the factor that is eliminated.
    place : ndarray of shape (n_draws,), dtype int
        Which of the points each draw has.
    rest : ndarray of shape (K, n_draws)
        Draws of the effects that remain.
    sigma : ndarray of shape (n_draws,)
    contrast : ndarray of shape (p + 1, n_draws)
        Minus the common coefficients, and 1.
    rng : numpy.random.Generator
    levels : sequence of ndarray of shape (n_codes,), one per factor
    """
    effects = []
    for f, at in enumerate(levels):
        q = passes.sums.factors[f].n_varying
        if f != passes.order[0]:
            effects.append(rest[passes.starts[f] + at[:, None] * q + np.arange(q)].transpose(2, 0, 1))
            continue
        rows = (at[:, None] * q + np.arange(q)).ravel()
        taken = (passes.between[rows] @ rest).reshape(len(at), q, rest.shape[1])
        left = (passes.level_products()[at] @ contrast - taken).transpose(2, 0, 1)
        inverse = first[:, at]
        root, inverse = at_place(semidefinite_cholesky(inverse), place), at_place(inverse, place)
        noise = sigma[:, None, None] * rng.standard_normal(left.shape)
        effects.append(np.einsum("sjkl,sjl->sjk", inverse, left) + np.einsum("sjkl,sjl->sjk", root, noise))
    return effects
