"""Whether the posterior of a model with several grouping factors exists, and all of its second moments.

The condition of `hbsk._engine.propriety` holds for any varying columns; only the rank differs, since columns of
several factors hang together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hbsk._engine.crossed_sums import CrossedSums
from hbsk._engine.propriety import RANK, Tails, at_prior, bordered, n_informed, posterior_tails

# Columns up to which the rank is taken from their products; beyond, factors are counted one by one, which is no more.
MOST_COLUMNS = 1_500
# Rows that are written out over all columns.
ROWS_AT_A_TIME = 4_096


def crossed_tails(model, names: Sequence[str] | None = None, means: Sequence[int] = ()) -> Tails:
    """Return the sets of sds whose second moments do not exist; see `posterior_tails`."""
    return posterior_tails(model, names, _n_informed, with_common_means, means)


def with_common_means(sums: CrossedSums, means: Sequence[int]) -> CrossedSums:
    """Return the sums with varying columns as common columns too, which stand behind those that there are."""
    of_factors = [_by_common_means(sums, g, means) for g in range(len(sums.factors))]
    of_x = np.concatenate(
        [factor.zx[_own(means, at)].sum(axis=2) for factor, at in zip(sums.factors, sums.columns, strict=True)]
    )
    within = np.concatenate(
        [added.sum(axis=2)[_own(means, at)] for added, at in zip(of_factors, sums.columns, strict=True)]
    )
    xx = bordered(sums.xx, of_x, within)
    factors = [
        replace(factor, xx=xx, zx=np.concatenate([factor.zx[:, :-1], added, factor.zx[:, -1:]], axis=1))
        for factor, added in zip(sums.factors, of_factors, strict=True)
    ]
    return replace(sums, factors=tuple(factors))


def _own(means, at):
    """Return which columns of a factor are among those."""
    return [k - at.start for k in means if at.start <= k < at.stop]


def _by_common_means(sums, g, means):
    """Return products (q_g, n_means, n_groups) of the columns of factor g with varying columns as common ones."""
    parts = []
    for f, at in enumerate(sums.columns):
        own = _own(means, at)
        if f == g:
            parts.append(sums.factors[f].zz[:, own])
        elif own:
            pair = sums.pair(f, g)
            total = np.zeros((sums.factors[g].n_groups, sums.factors[g].n_varying, len(own)))
            np.add.at(total, pair.second, pair.blocks[:, own].swapaxes(1, 2))
            parts.append(total.transpose(1, 2, 0))
    return np.concatenate(parts, axis=1)


def crossed_rows_degrees(
    tails: Tails, sums: CrossedSums, x: np.ndarray, z: Sequence[np.ndarray], codes: Sequence[np.ndarray]
) -> np.ndarray:
    """Return the order below which moments of ``x'b + sum_f z_f'u_f`` exist; see `rows_degrees`.

    Rows are estimable in ``[X_F, Z_S]`` where they lie in the range of its products. Where these are too many to see,
    no row that has any of them is taken to be.
    """
    degrees = np.full(len(x), np.inf)
    if not tails.sets:
        return degrees
    varying = at_prior(tails, np.concatenate(z, axis=1))
    if tails.to_prior is not None:
        sums = sums.mixed(tails.to_prior)
    if tails.means:
        sums, x = with_common_means(sums, tails.means), np.concatenate([x, varying[:, list(tails.means)]], axis=1)
    of_flat = x[:, tails.flat]
    for growing in tails.sets:
        touched = np.any(varying[:, list(growing.columns)] != 0, axis=1)
        unbounded = touched | np.any(of_flat != 0, axis=1)
        parts = _parts(growing.columns, sums)
        n_columns = of_flat.shape[1] + sum(sums.factors[f].n_groups * len(own) for f, own in parts)
        if not growing.has_sigma and n_columns <= MOST_COLUMNS:
            size, absorbed = _absorbed(_products(parts, sums, tails.flat))
            for start in range(0, len(x), ROWS_AT_A_TIME):
                at = slice(start, start + ROWS_AT_A_TIME)
                rows, known = _placed(parts, sums, of_flat[at], varying[at], [code[at] for code in codes])
                unbounded[at] = ~known | _is_outside(rows / size, absorbed)
        degrees = np.where(unbounded, np.minimum(degrees, growing.degrees), degrees)
    return degrees


def _parts(columns, sums):
    """Return the factors that columns belong to, and which of their own each of them has there."""
    parts = [(f, tuple(_own(columns, at))) for f, at in enumerate(sums.columns)]
    return [(f, own) for f, own in parts if own]


def _placed(parts, sums, of_flat, varying, codes):
    """Return rows as rows of ``[X_F, Z_S]``, and which of them have no effect of a new group."""
    blocks, known = [of_flat], np.ones(len(of_flat), dtype=bool)
    at = np.arange(len(of_flat))
    for f, own in parts:
        n_groups, start = sums.factors[f].n_groups, sums.columns[f].start
        seen, z = codes[f] < n_groups, varying[:, [start + k for k in own]]
        block = np.zeros((len(of_flat), n_groups, len(own)))
        block[at, np.where(seen, codes[f], 0)] = np.where(seen[:, None], z, 0.0)
        blocks.append(block.reshape(len(of_flat), -1))
        known &= seen | ~z.any(axis=1)
    return np.concatenate(blocks, axis=1), known


def _absorbed(products):
    """Return the sizes of columns, and the directions of columns of that size in which products are zero."""
    size = np.sqrt(np.where(np.diag(products) > 0, np.diag(products), 1.0))
    values, vectors = np.linalg.eigh(products / np.outer(size, size))
    return size, vectors[:, values <= RANK]


def _is_outside(rows, absorbed):
    """Tell which rows hold any of these directions."""
    return np.sum((rows @ absorbed) ** 2, axis=1) > np.sqrt(RANK) * np.maximum(np.sum(rows**2, axis=1), 1e-300)


def _n_informed(columns, sums: CrossedSums, flat, whitened) -> int:
    """Return ``rank [X_F, Z_S] - rank X_F``, or less where it is beyond doubt that there is more than enough."""
    parts = _parts(columns, sums)
    n_columns = sum(sums.factors[f].n_groups * len(own) for f, own in parts) + int(flat.sum())
    if len(parts) == 1 or n_columns > MOST_COLUMNS:
        return max(n_informed(own, sums.factors[f], flat, whitened) for f, own in parts)
    products = _products(parts, sums, flat)
    return len(products) - _absorbed(products)[1].shape[1] - whitened.shape[1]


def _products(parts, sums, flat):
    """Return the products of [X_F, Z_S], dense."""
    blocks = [[sums.xx[:-1, :-1][np.ix_(flat, flat)]]]
    for i, (f, own) in enumerate(parts):
        factor, at = sums.factors[f], np.array(own)
        row = [factor.zx[at][:, :-1][:, flat].transpose(2, 0, 1).reshape(len(own) * factor.n_groups, int(flat.sum()))]
        for g, other in parts[:i]:
            pair = sums.pair(f, g)
            block = np.zeros((factor.n_groups, len(own), sums.factors[g].n_groups, len(other)))
            block[pair.first, :, pair.second] = pair.blocks[:, at][:, :, list(other)]
            row.append(block.reshape(factor.n_groups * len(own), -1))
        block = np.zeros((factor.n_groups, len(own), factor.n_groups, len(own)))
        levels = np.arange(factor.n_groups)
        block[levels, :, levels] = factor.zz[np.ix_(at, at)].transpose(2, 0, 1)
        row.append(block.reshape(factor.n_groups * len(own), -1))
        blocks.append(row)
    size = sum(len(row[0]) for row in blocks)
    lower, start = np.zeros((size, size)), 0
    for row in blocks:
        together = np.concatenate(row, axis=1)
        lower[start : start + len(together), : together.shape[1]] = together
        start += len(together)
    return np.tril(lower) + np.tril(lower, -1).T
