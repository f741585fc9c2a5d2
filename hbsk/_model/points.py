"""Where the columns of a model stand when intercepts of groups are told: at 0, at their means, or where a user says."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from hbsk._data.table import Table
from hbsk._messages import quoted, shown
from hbsk._model.centres import varying_intercept
from hbsk._model.design import Component, Design, Recipe, TermRecipe, term_width
from hbsk._model.expressions import columns_in
from hbsk._model.specification import Specification


@dataclass(frozen=True)
class Point:
    """Values of all columns of a design.

    Attributes
    ----------
    common : ndarray of shape (p,)
    varying : tuple of ndarray of shape (q,), one per factor
    """

    common: np.ndarray
    varying: tuple[np.ndarray, ...]


def read_point(specification: Specification, column_means: tuple[np.ndarray, ...], at: Any) -> Point | None:
    """Return the point that a user asks for; None for "zero", where intercepts are those of the formula.

    Parameters
    ----------
    specification : Specification
    column_means : tuple of ndarray
        Means over the rows of fit of the common columns, and of the varying ones of each factor.
    at : "zero", "mean" or mapping of str to value
        A mapping has columns of X; columns of the design of which it says nothing stand at their means.
    """
    if isinstance(at, str) and at == "zero":
        return None
    given = {} if isinstance(at, str) and at == "mean" else at
    if not isinstance(given, Mapping):
        raise ValueError(f"at must be 'zero', 'mean' or a dict of columns of X and their values, got {shown(at)}.")
    if not any(varying_intercept(factor) is not None for factor in specification.factors):
        raise ValueError(
            "at= says where varying intercepts are told, and this model has none: leave it out. Slopes are the same "
            "everywhere."
        )
    if not column_means:
        raise ValueError("at= needs the means of the columns, which fits of older versions do not hold: fit again.")
    recipe = specification.recipe
    known = list(dict.fromkeys(name for component in recipe.components() for name in _columns(recipe, component)))
    strange = [name for name in given if name not in known]
    if strange:
        raise ValueError(f"at= names {quoted(strange)}, no features of this model; its features are {quoted(known)}.")
    values = _table(recipe, given)
    means = iter(column_means)
    common = _values(recipe, recipe.common, next(means), given, values)
    return Point(common, tuple(_values(recipe, terms, next(means), given, values) for terms in recipe.varying))


def _columns(recipe: Recipe, component: Component) -> list[str]:
    """Return the columns of X that a component reads."""
    return [recipe.bindings.get(name, name) for name in columns_in(component.expression)]


def _table(recipe: Recipe, given: Mapping[str, Any]) -> Table:
    """Return the values as the one row of a table, checked against the kinds of their columns."""
    numeric = {
        name for component in recipe.components() if component.levels is None for name in _columns(recipe, component)
    }
    columns: dict[str, Any] = {}
    for name, value in given.items():
        is_number = isinstance(value, numbers.Real) and np.isfinite(float(value))
        if name in numeric and not is_number:
            raise ValueError(f"at[{name!r}] must be a finite number, got {shown(value)}.")
        columns[name] = np.array([value]) if is_number else pd.Series([value], dtype=object)
    return Table(columns, 1)


def _values(
    recipe: Recipe, terms: tuple[TermRecipe, ...], means: np.ndarray, given: Mapping[str, Any], values: Table
) -> np.ndarray:
    """Return the values of the columns of some terms: computed where all columns of X are given, else their means."""
    found, start = means.astype(np.float64), 0
    for term in terms:
        at = slice(start, start + term_width(term))
        start = at.stop
        needed = [name for part in term for name in _columns(recipe, part)]
        missing = [name for name in needed if name not in given]
        if len(missing) == len(needed):
            continue
        if missing:
            raise ValueError(
                f"at= gives {quoted(given)} and not {quoted(missing)}, and the column "
                f"{':'.join(part.labels[0] for part in term)!r} of the model is made of both. Give all of them."
            )
        part, _, _ = Design(replace(recipe, common=(term,), varying=(), offsets=()), values).block(0, 1)
        found[at] = part[0]
    return found
