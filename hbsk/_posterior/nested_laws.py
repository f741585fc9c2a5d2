"""Laws of rows and effects at one node where factors are nested; what `crossed_laws` says, at linear cost.

The effects of a level are those of its ancestors times ``- H V`` and something independent of them (`NestedEffects`):
a row is a sum of independent parts, one for each level that it belongs to or that holds one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hbsk._engine.nested_passes import NestedEffects, NestedPasses
from hbsk._engine.node_algebra import semidefinite_cholesky
from hbsk._posterior.parts import at_place


def effects_of_rows(
    effects: NestedEffects, passes: NestedPasses, z: Sequence[np.ndarray], codes: Sequence[np.ndarray]
) -> np.ndarray:
    """Return ``v' Phi B`` of rows, (.., n_rows, p + 1), v the effects of their levels.

    Parameters
    ----------
    effects : NestedEffects
    passes : NestedPasses
    z : sequence of ndarray of shape (n_rows, q), one per factor
    codes : sequence of ndarray of shape (n_rows,), one per factor
    """
    of_factors = zip(passes.order, effects.solved, strict=True)
    return sum(np.einsum("rk,...rka->...ra", z[f], solved[..., codes[f], :, :]) for f, solved in of_factors)


def variances_of_rows(
    effects: NestedEffects, passes: NestedPasses, z: Sequence[np.ndarray], codes: Sequence[np.ndarray]
) -> np.ndarray:
    """Return ``v' Phi v`` of rows, (.., n_rows); see `effects_of_rows`.

    Levels of a row need not hold each other: a class may be asked for in a school that is not its own.
    """
    total = np.zeros((*effects.own[0].shape[:-3], len(z[0])))
    parts: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in passes.order]
    for i, f in enumerate(passes.order):
        weights = np.concatenate([z[f], np.zeros((len(z[f]), effects.through[i].shape[-1]))], axis=1)
        for h in range(i, len(passes.order)):
            level = passes.ancestors[i][h - i][codes[f]]
            q = effects.own[h].shape[-1]
            here, weights = weights[..., :q], weights[..., q:]
            parts[h].append((level, here))
            weights = weights - np.einsum("...rk,...rka->...ra", here, effects.through[h][..., level, :, :])
    for own, of_stage in zip(effects.own, parts, strict=True):
        for i, (level, here) in enumerate(of_stage):
            moved = np.einsum("...rkl,...rl->...rk", own[..., level, :, :], here)
            total += np.sum(here * moved, axis=-1)
            for other, there in of_stage[:i]:
                total += np.where(level == other, 2.0 * np.sum(there * moved, axis=-1), 0.0)
    return total


def own_parts(
    effects: NestedEffects, passes: NestedPasses, z: Sequence[np.ndarray], codes: Sequence[np.ndarray]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield for each factor half of what its levels add to ``v' Phi v`` of rows whose levels hold each other.

    Two rows have the covariance, over sigma^2, of the products of these halves, (n_rows, q), over all factors of which
    they have the same level.
    """
    outer = np.zeros((len(z[0]), sum(part.shape[1] for part in z)))
    for h, f in enumerate(passes.order):
        q = z[f].shape[1]
        here = z[f] + outer[:, :q]
        outer = outer[:, q:] - np.einsum("rk,rka->ra", here, effects.through[h][codes[f]])
        yield f, np.einsum("rkl,rk->rl", semidefinite_cholesky(effects.own[h])[codes[f]], here)


def draw_nested(
    passes: NestedPasses,
    effects: NestedEffects,
    place: np.ndarray,
    sigma: np.ndarray,
    contrast: np.ndarray,
    rng,
    known: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Return joint draws of the effects of known levels, one array (n_draws, n_codes, q) per factor.

    Parameters
    ----------
    passes : NestedPasses
    effects : NestedEffects
        At several Lambda.
    place : ndarray of shape (n_draws,), dtype int
        Which of them each draw has.
    sigma : ndarray of shape (n_draws,)
    contrast : ndarray of shape (p + 1, n_draws)
        Minus the common coefficients, and 1.
    rng : numpy.random.Generator
    known : sequence of ndarray of shape (n_codes,), one per factor
    """
    n_stages = len(passes.order)
    wanted = []
    for h in range(n_stages):  # and all that hold levels that are asked for
        inner = [passes.ancestors[i][h - i][known[passes.order[i]]] for i in range(h + 1)]
        wanted.append(np.unique(np.concatenate(inner)))
    drawn: list[np.ndarray] = [np.empty(0)] * len(passes.order)
    above = np.zeros((len(sigma), len(wanted[-1]), 0))  # effects of all ancestors
    for h in reversed(range(n_stages)):
        level, q = wanted[h], effects.own[h].shape[-1]
        given, through, own = (part[h][:, level] for part in (effects.given, effects.through, effects.own))
        if h + 1 < n_stages:
            above = above[:, np.searchsorted(wanted[h + 1], passes.ancestors[h][1][level])]
        noise = sigma[:, None, None] * rng.standard_normal((len(sigma), len(level), q))
        here = np.einsum("sjka,as->sjk", at_place(given, place), contrast)
        here -= np.einsum("sjka,sja->sjk", at_place(through, place), above)
        here += np.einsum("sjkl,sjl->sjk", at_place(semidefinite_cholesky(own), place), noise)
        f = passes.order[h]
        drawn[f] = here[:, np.searchsorted(level, known[f])]
        above = np.concatenate([here, above], axis=2)
    return drawn
