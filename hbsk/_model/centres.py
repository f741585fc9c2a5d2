"""The point of a factor's varying columns that the priors of its effects refer to: `"centre|<factor>"` in priors.

Effects of a varying intercept are those at some point of the other columns. At zero, far from the data, their sd says
little and their correlation with slopes is near -1 or 1; the default is the means of the columns.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hbsk._messages import shown

KEY = "centre|"


def centre_key(factor: Any) -> str:
    """Return the key of a factor's point in `priors`."""
    return f"{KEY}{factor.name}"


def column_keys(factor: Any) -> list[str]:
    """Return the name of each varying column: its term, or its column where a term has several."""
    return [
        term.removesuffix(f"|{factor.name}") if factor.terms.count(term) == 1 else column
        for column, term in zip(factor.columns, factor.terms, strict=True)
    ]


def varying_intercept(factor: Any) -> int | None:
    """Return which varying column is the intercept."""
    return factor.columns.index("1") if "1" in factor.columns else None


def movable_columns(factor: Any) -> dict[str, int]:
    """Return the varying columns, by name, whose priors may refer to another point than zero.

    Those of a block with the varying intercept, and independent blocks of one term beside it. Other blocks have no
    intercept that could take up the shift: less a point, they are another model.
    """
    intercept = varying_intercept(factor)
    if intercept is None:
        return {}
    keys = column_keys(factor)
    movable: dict[str, int] = {}
    for block in factor.blocks:
        if intercept in block or len({factor.terms[k] for k in block}) == 1:
            movable |= {keys[k]: k for k in sorted(block) if k != intercept}
    return movable


def centre_of(factor: Any, value: Any) -> dict[str, float]:
    """Return the point that a user gave, complete; columns left out are 0."""
    key, movable = centre_key(factor), movable_columns(factor)
    if not isinstance(value, Mapping):
        raise ValueError(
            f"priors[{key!r}] is {shown(value)}; the point that priors of the effects of {factor.name!r} refer to is a "
            f"dict from columns to numbers, such as {{{next(iter(movable), 'x')!r}: 0}}."
        )
    keys = column_keys(factor)
    for name, number in value.items():
        if name not in movable:
            if name in keys and name != "1":
                raise ValueError(
                    f"priors[{key!r}] names {name!r}, whose effects have no varying intercept in their parentheses "
                    "that could take up a shift: less a point they are another model. Subtract it from the column "
                    "itself, or add the varying intercept to the parentheses."
                )
            raise ValueError(
                f"priors[{key!r}] names {shown(name)}, which is no varying column of {factor.name!r} that can have a "
                f"point. Columns: {', '.join(map(repr, movable)) or 'none'}."
            )
        if isinstance(number, bool) or not isinstance(number, numbers.Real) or not np.isfinite(float(number)):
            raise ValueError(f"priors[{key!r}][{name!r}] must be a finite number, got {shown(number)}.")
    return {name: float(value.get(name, 0.0)) for name in movable}


def default_centre(factor: Any, z_mean: np.ndarray, given: Sequence[str]) -> dict[str, float]:
    """Return the point where the user gives none: the means of the columns.

    It is zero where the prior of the varying intercept or of correlations is the user's, in the notation of Bambi, Stan
    and lme4.

    Parameters
    ----------
    factor : Factor
    z_mean : ndarray of shape (q,)
    given : sequence of str
        Keys of the user's priors.
    """
    at_zero = any(key in given for key in (f"1|{factor.name}", f"corr|{factor.name}", "group_specific"))
    return {name: 0.0 if at_zero else float(z_mean[k]) for name, k in movable_columns(factor).items()}


def centre_array(factor: Any, priors: Mapping[str, Any]) -> np.ndarray:
    """Return the point of all varying columns of a factor, shape (q,)."""
    centre = np.zeros(len(factor.columns))
    movable = movable_columns(factor)
    for name, value in priors.get(centre_key(factor), {}).items():
        centre[movable[name]] = value
    return centre
