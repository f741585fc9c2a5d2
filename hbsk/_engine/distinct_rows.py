"""Rows that are alike as one with its copies, sorted: few rows are summed to the same bits however they are given.

Where columns and effects explain y to the last digit the posterior hangs on how sums were rounded. Then a row given
twice, a row of weight 2, and rows in another order should not differ.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class HeldRows(NamedTuple):
    """Columns of rows that are held at once, as `collect` asks a design for them."""

    x: np.ndarray
    z: list[np.ndarray]
    offset: np.ndarray | None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.x)

    def block(self, start: int, stop: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray | None]:
        """Return common columns, varying columns of each factor, and offset of a range of rows."""
        offset = None if self.offset is None else self.offset[start:stop]
        return self.x[start:stop], [block[start:stop] for block in self.z], offset


class DistinctRows(NamedTuple):
    """What `collect` sums, each row once."""

    design: HeldRows
    codes: np.ndarray | None
    y: np.ndarray
    sample_weight: np.ndarray | None
    standard_error: np.ndarray | None


def distinct_rows(
    design: Any,
    codes: np.ndarray | None,
    y: np.ndarray,
    sample_weight: np.ndarray | None,
    standard_error: np.ndarray | None,
) -> DistinctRows:
    """Return distinct rows of positive weight, sorted, with their copies; arguments are those of `collect`.

    No weights stay none where no row is there twice.
    """
    x, z, offset = design.block(0, design.n_rows)
    # by varying columns first, so that groups of one design have sums of the same bits, whatever their codes
    keys = np.column_stack([part for part in (codes, offset, standard_error, y, x, *z) if part is not None])
    order = np.lexsort(keys.T)
    if sample_weight is not None:
        order = order[sample_weight[order] > 0]
    if not len(order):
        order = np.arange(len(y))  # nothing counts, which is not for here to say
    sorted_keys = keys[order]
    first = np.flatnonzero(np.append(True, (sorted_keys[1:] != sorted_keys[:-1]).any(axis=1)))
    if sample_weight is not None:
        sample_weight = np.add.reduceat(sample_weight[order], first)
    elif len(first) < len(order):
        sample_weight = np.diff(np.append(first, len(order))).astype(np.float64)
    rows = order[first]

    def taken(part):
        return None if part is None else part[rows]

    few = HeldRows(x[rows], [block[rows] for block in z], taken(offset))
    return DistinctRows(few, taken(codes), y[rows], sample_weight, taken(standard_error))
