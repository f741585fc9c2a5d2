"""Whether the posterior of a model with several grouping factors exists, and all of its second moments.

The condition of `hbsk._engine.propriety` holds for any varying columns; only the rank differs, since columns of
several factors hang together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hbsk._engine.crossed_sums import CrossedSums
from hbsk._engine.propriety import RANK, Tails, n_informed, posterior_tails

# Columns up to which the rank is taken from their products; beyond, factors are counted one by one, which is no more.
MOST_COLUMNS = 1_500


def crossed_tails(model, names: Sequence[str] | None = None) -> Tails:
    """Return the sets of sds whose second moments do not exist; see `posterior_tails`."""
    return posterior_tails(model, names, _n_informed)


def _n_informed(columns, sums: CrossedSums, flat, whitened) -> int:
    """Return ``rank [X_F, Z_S] - rank X_F``, or less where it is beyond doubt that there is more than enough."""
    parts = []
    for f, at in enumerate(sums.columns):
        own = tuple(k - at.start for k in columns if at.start <= k < at.stop)
        if own:
            parts.append((f, own))
    n_columns = sum(sums.factors[f].n_groups * len(own) for f, own in parts) + int(flat.sum())
    if len(parts) == 1 or n_columns > MOST_COLUMNS:
        return max(n_informed(own, sums.factors[f], flat, whitened) for f, own in parts)
    products = _products(parts, sums, flat)
    size = np.sqrt(np.where(np.diag(products) > 0, np.diag(products), 1.0))
    rank = int(np.sum(np.linalg.eigvalsh(products / np.outer(size, size)) > RANK))
    return rank - whitened.shape[1]


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
