"""Terms that Bambi computes from the user's own columns, so that `predict` of its model takes new rows of X."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hbsk._model.design import term_width
from hbsk._model.expressions import Call, columns_in, term_label, walk

# Calls whose columns Bambi would make with bases of its own.
OF_SEVERAL_COLUMNS = ("poly", "bs")


@dataclass(frozen=True)
class RawTerm:
    """One numeric column of the design in the language of formulae.

    Attributes
    ----------
    text : str
        As it stands in the formula, with every name in backquotes.
    name : str
        What formulae calls the term.
    columns : dict of str to ndarray of shape (n_rows,)
        The columns of X that it reads.
    is_product : bool
        Whether it is an interaction, which no call can hold.
    """

    text: str
    name: str
    columns: dict[str, np.ndarray]
    is_product: bool = False

    def centred(self) -> RawTerm:
        """Return the column less its mean over the rows."""
        return RawTerm(f"center({self.text})", f"center({self.name})", self.columns)


@dataclass(frozen=True)
class RawTerms:
    """Which columns of a design Bambi can compute; none by default.

    Attributes
    ----------
    common : dict of int to RawTerm
        By position in the design.
    varying : tuple of dict of int to RawTerm, one per factor
    offsets : tuple of RawTerm
        All offsets of the formula; empty where one of them cannot be computed there.
    """

    common: dict[int, RawTerm] = field(default_factory=dict)
    varying: tuple[dict[int, RawTerm], ...] = ()
    offsets: tuple[RawTerm, ...] = ()


def raw_terms(specification, features) -> RawTerms:
    """Find the columns that Bambi can compute: numeric terms of one column.

    Categories, splines and polynomials are coded and scaled here, and go to Bambi as columns.

    Parameters
    ----------
    specification : Specification
    features : Table
    """
    recipe = specification.recipe

    def by_position(terms):
        found, position = {}, 0
        for term in terms:
            numeric = bool(term) and all(part.levels is None and part.width == 1 for part in term)
            raw = _raw_term(tuple(part.expression for part in term), recipe.bindings, features) if numeric else None
            if raw is not None:
                found[position] = raw
            position += term_width(term)
        return found

    offsets = [_raw_term((expression,), recipe.bindings, features) for expression in recipe.offsets]
    raw_offsets = tuple(offset for offset in offsets if offset is not None)
    return RawTerms(
        by_position(recipe.common),
        tuple(by_position(terms) for terms in recipe.varying),
        raw_offsets if len(raw_offsets) == len(offsets) else (),
    )


def _raw_term(term, bindings, features) -> RawTerm | None:
    """Return a term over numeric columns of X; None where it reads others, or has a basis of its own."""
    if any(isinstance(part, Call) and part.function in OF_SEVERAL_COLUMNS for whole in term for part in walk(whole)):
        return None
    names = {name: bindings.get(name, name) for whole in term for name in columns_in(whole)}
    if not names or not all(features.is_numeric(column) for column in names.values()):
        return None
    return RawTerm(
        term_label(term, lambda name: f"`{names[name]}`", parentheses=True),
        term_label(term, names.__getitem__),
        {column: np.asarray(features.numbers(column), dtype=float) for column in names.values()},
        is_product=len(term) > 1,
    )
