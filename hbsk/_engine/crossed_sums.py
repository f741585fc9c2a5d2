"""Sums of several grouping factors: each factor's own, and for two of them the levels that occur together.

With ``Z_f`` the varying columns of factor f, the sums are ``A_ff = Z_f' W Z_f`` (one block for each level) and ``B_f =
Z_f' W [X y]`` (`GroupSums`), and for each pair of factors the blocks of ``Z_f' W Z_g`` of the levels that occur in one
row. All are additive over rows; memory goes with the pairs of levels, of which there are no more than rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, combinations, pairwise

import numpy as np

from hbsk._engine.scaling import ColumnScaling, standardise
from hbsk._engine.sums import ROWS_PER_BLOCK, CentredSums, GroupSums
from hbsk._engine.varying_location import offset_matrix

# Possible pairs up to which those that occur are found by counting instead of sorting.
COUNTED_PAIRS = 20_000_000


@dataclass(frozen=True)
class PairSums:
    """Sums over the rows of each pair of levels of two factors, f before g.

    Attributes
    ----------
    first, second : ndarray of shape (n_pairs,), dtype int
        Levels of f and of g that occur together, each pair once, ordered by the first.
    blocks : ndarray of shape (n_pairs, q_f, q_g)
        ``Z_f' W Z_g``.
    """

    first: np.ndarray
    second: np.ndarray
    blocks: np.ndarray


@dataclass(frozen=True)
class CrossedSums:
    """Sums of all factors, in the units of the engine.

    Attributes
    ----------
    factors : tuple of GroupSums
    pairs : tuple of PairSums
        One for each two factors, in the order of `itertools.combinations`.
    """

    factors: tuple[GroupSums, ...]
    pairs: tuple[PairSums, ...]

    @property
    def xx(self) -> np.ndarray:
        """Products (p + 1, p + 1) of the common columns and the response."""
        return self.factors[0].xx

    @property
    def n(self) -> float:
        """Number of copies of rows."""
        return self.factors[0].n

    @property
    def log_weight(self) -> float:
        """``sum f log(1 / se^2)`` where standard errors are known, otherwise 0."""
        return self.factors[0].log_weight

    @property
    def n_common(self) -> int:
        """Number of common columns (p)."""
        return self.factors[0].n_common

    @property
    def n_varying(self) -> int:
        """Number of varying columns of all factors."""
        return sum(factor.n_varying for factor in self.factors)

    @property
    def n_groups(self) -> int:
        """Number of levels of all factors."""
        return sum(factor.n_groups for factor in self.factors)

    @property
    def columns(self) -> list[slice]:
        """Where the varying columns of each factor stand among all of them."""
        ends = accumulate((factor.n_varying for factor in self.factors), initial=0)
        return [slice(start, stop) for start, stop in pairwise(ends)]

    def mixed(self, varying: np.ndarray) -> CrossedSums:
        """Return the sums of the varying columns ``Z @ varying``, block diagonal in the factors; see `GroupSums`."""
        blocks = [varying[at, at] for at in self.columns]
        pairs = [
            replace(pair, blocks=blocks[f].T @ pair.blocks @ blocks[g])
            for (f, g), pair in zip(combinations(range(len(self.factors)), 2), self.pairs, strict=True)
        ]
        return CrossedSums(tuple(s.mixed(block) for s, block in zip(self.factors, blocks, strict=True)), tuple(pairs))

    def pair(self, f: int, g: int) -> PairSums:
        """Return the sums of two factors, whichever comes first."""
        at = list(combinations(range(len(self.factors)), 2)).index((min(f, g), max(f, g)))
        pair = self.pairs[at]
        return pair if f < g else PairSums(pair.second, pair.first, pair.blocks.swapaxes(1, 2))


def collect_pairs(
    design,
    codes: Sequence[np.ndarray],
    n_groups: Sequence[int],
    z_centres: Sequence[np.ndarray | None],
    weight: np.ndarray | None = None,
) -> tuple[PairSums, ...]:
    """Collect the sums of every pair of factors in one pass over the rows.

    Parameters
    ----------
    design : object with ``n_rows`` and ``block(start, stop)``
    codes : sequence of ndarray of shape (n_rows,), one per factor
    n_groups : sequence of int
    z_centres : sequence of (ndarray of shape (q,) or None)
        What is taken off the varying columns of each factor, as in `CentredSums`.
    weight : ndarray of shape (n_rows,), optional
        Copies of rows over squared known standard errors.
    """
    pairs = list(combinations(range(len(codes)), 2))
    found = [_levels_together(codes[f], codes[g], n_groups[f], n_groups[g]) for f, g in pairs]
    blocks: list[np.ndarray] | None = None
    for start in range(0, design.n_rows, ROWS_PER_BLOCK):
        rows = slice(start, min(start + ROWS_PER_BLOCK, design.n_rows))
        _, z, _ = design.block(rows.start, rows.stop)
        z = [part if centre is None else part - centre for part, centre in zip(z, z_centres, strict=True)]
        if blocks is None:
            sizes = [(len(keys), z[f].shape[1], z[g].shape[1]) for (f, g), (keys, _) in zip(pairs, found, strict=True)]
            blocks = [np.zeros(size) for size in sizes]
        for (f, g), (keys, position), block in zip(pairs, found, blocks, strict=True):
            here = position[rows]
            for k, left in enumerate(z[f].T):
                weighted = left if weight is None else left * weight[rows]
                for m, right in enumerate(z[g].T):
                    block[:, k, m] += np.bincount(here, weighted * right, len(keys))
    assert blocks is not None  # there are rows
    return tuple(
        PairSums(keys // n_groups[g], keys % n_groups[g], block)
        for (_, g), (keys, _), block in zip(pairs, found, blocks, strict=True)
    )


def _levels_together(first, second, n_first: int, n_second: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys ``first * n_second + second`` that occur, in order, and which of them each row has."""
    key = first.astype(np.int64) * n_second + second
    if n_first * n_second <= COUNTED_PAIRS:
        seen = np.bincount(key, minlength=n_first * n_second) > 0
        return np.flatnonzero(seen), (np.cumsum(seen) - 1)[key]
    return np.unique(key, return_inverse=True)


def merge_pairs(one: PairSums, other: PairSums) -> PairSums:
    """Return the sums of the rows of both parts, whose levels have the same numbers and columns the same centres."""
    n_second = int(max(one.second.max(initial=-1), other.second.max(initial=-1))) + 1
    keys = np.concatenate([part.first.astype(np.int64) * n_second + part.second for part in (one, other)])
    union, position = np.unique(keys, return_inverse=True)
    blocks = np.zeros((len(union), *one.blocks.shape[1:]))
    np.add.at(blocks, position, np.concatenate([one.blocks, other.blocks]))
    return PairSums(union // n_second, union % n_second, blocks)


def standardise_factors(
    collected: Sequence[CentredSums], pairs: Sequence[PairSums], *, known_standard_error: bool = False
) -> tuple[CrossedSums, tuple[ColumnScaling, ...]]:
    """Return the sums in engine units, and for each factor the scaling that leads there.

    The varying columns of every factor are centred and scaled as those of a single one; a map that is block diagonal
    in the factors.

    Parameters
    ----------
    collected : sequence of CentredSums, one per factor
    pairs : sequence of PairSums
    known_standard_error : bool, default=False
        Whether rows are weighted by ``1 / se^2``.
    """
    factors, scalings, maps = [], [], []
    for f, part in enumerate(collected):
        moments = replace(part.moments, z_mean=[part.moments.z_mean[f]], z_sd=[part.moments.z_sd[f]])
        sums, scaling = standardise(replace(part, moments=moments), known_standard_error=known_standard_error)
        before = np.zeros(sums.n_varying) if part.z_centre is None else part.z_centre
        shift = scaling.z_centre - before
        factors.append(sums)
        scalings.append(scaling)
        maps.append(offset_matrix(shift, part.varying_intercept) / scaling.z_scale)
    unit = scalings[0].y_scale ** 2 if known_standard_error else 1.0
    moved = [
        replace(pair, blocks=unit * (maps[f].T @ pair.blocks @ maps[g]))
        for (f, g), pair in zip(combinations(range(len(collected)), 2), pairs, strict=True)
    ]
    return CrossedSums(tuple(factors), tuple(moved)), tuple(scalings)
