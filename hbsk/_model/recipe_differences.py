"""In what the columns of two models differ, whose sums were collected apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hbsk._data.factor import Factor
from hbsk._messages import quoted, shown
from hbsk._model.expressions import label
from hbsk._model.frame import ModelFrame


def difference_of_recipes(first: ModelFrame, second: ModelFrame) -> str:
    """Return in what two models have other columns, or other places of labels; "" where they do not."""
    one, other = first.specification, second.specification
    if one.formula != other.formula:
        return f"the formulas are {one.formula!r} and {other.formula!r}"
    if one.bindings != other.bindings:
        return f"names in the formula stand for other columns: {one.bindings} and {other.bindings}"
    for mine, theirs in zip(first.factors, second.factors, strict=True):
        sources = [_place(factor) for factor in (mine, theirs)]
        if sources[0] != sources[1]:
            return f"the labels of {mine.name!r} come from {sources[0]} and {sources[1]}"
    difference = _other_levels(one.recipe, other.recipe) or _other_states(one.recipe, other.recipe)
    if not difference and one.common_columns != other.common_columns:
        return f"the columns are {quoted(one.common_columns)} and {quoted(other.common_columns)}"
    return difference


def _place(factor: Factor) -> str:
    source = factor.source
    if source is None or source.from_keyword:
        return "groups="
    return f"X ({quoted(source.columns or ())})"


def _other_levels(first, second) -> str:
    for mine, theirs in zip(first.components(), second.components(), strict=False):
        if mine.levels != theirs.levels:
            return (
                f"the levels of {label(mine.expression)!r} are {_listed(mine.levels)} and {_listed(theirs.levels)}: "
                "declare them all (a Categorical), or collect the second with like= the first"
            )
    return ""


def _listed(levels: tuple | None) -> str:
    return "none (numbers)" if levels is None else quoted(levels)


def _other_states(first, second) -> str:
    for call, state in first.states.items():
        other = second.states.get(call)
        if other is None or not all(np.array_equal(state[key], other.get(key)) for key in state):
            return (
                f"{label(call)!r} was learnt from other rows: {_short(state)} and {_short(other)}. Collect the second "
                "with like= the first"
            )
    return ""


def _short(state: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{key} {shown(value)}" for key, value in (state or {}).items())
