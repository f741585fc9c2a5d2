"""Refuse ``(g | x)`` where ``(x | g)`` was most likely meant."""

from __future__ import annotations

from typing import Any

import numpy as np

from hbsk._data.suspicions import are_measurements
from hbsk._data.table import Table
from hbsk._model.expressions import columns_in, show_name
from hbsk._model.formula import ParsedFormula


def refuse_swapped_sides(parsed: ParsedFormula, table: Table) -> None:
    """Raise where a grouping factor is a measurement that differs in every row, and a term beside it has few levels.

    Every row would be a group, and slopes of a group of one row are what priors say. A measurement beside nothing that
    looks like a label warns only, where labels are read.

    Parameters
    ----------
    parsed : ParsedFormula
        With its names bound to columns.
    table : Table
        All columns of X.
    """
    for block in parsed.blocks:
        if len(block.factor) != 1:
            continue
        right = block.factor[0]
        column = parsed.column_of(right)
        if column not in table.names or not _differs_in_every_row(table, column):
            continue
        names = [name for term in block.terms for part in term for name in columns_in(part)]
        left = next((name for name in names if _has_few_levels(table, parsed.column_of(name))), None)
        if left is None:
            continue
        meant, given = (f"({show_name(a)} | {show_name(b)})" for a, b in ((right, left), (left, right)))
        raise ValueError(
            f"formula={parsed.text!r}: groups stand right of the bar, but {right!r} is a different number in each of "
            f"the {table.n_rows} rows, while {left!r} has few levels. Did you mean {meant} for {given}? If {right!r} "
            "really holds labels, turn them into text."
        )


def _differs_in_every_row(table: Table, column: str) -> bool:
    values = table.labels(column)
    if values.dtype.kind != "f":
        return False
    values = np.asarray(values, dtype=float)
    return are_measurements(values) and not np.isnan(values).any() and len(np.unique(values)) == len(values) > 1


def _has_few_levels(table: Table, column: str) -> bool:
    """Tell whether a column of text or whole numbers has at least two rows for each level on average."""
    if column not in table.names:
        return False
    values: Any = table.column(column)
    if table.is_numeric(column) and values.dtype.kind == "f" and not np.array_equal(values, np.floor(values)):
        return False
    n_levels = len(np.unique(values)) if table.is_numeric(column) else values.nunique()
    return 2 <= n_levels <= table.n_rows // 2
