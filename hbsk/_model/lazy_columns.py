"""Columns of a design as expressions of a lazy frame's engine, from the recipe that columns of arrays come from.

narwhals translates them for DuckDB, Polars, Dask, Spark and others. A function is in scope where all of them have it,
with the numbers of NumPy; the others are refused by name.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import narwhals.stable.v2 as nw
import numpy as np

from hbsk._data.table import ACCEPTED_COLUMNS
from hbsk._model.design import Component, Recipe, TermRecipe
from hbsk._model.expressions import CATEGORICAL, STATEFUL, Call, Expression, Name, Operation, Value, label

# Kinds of values. Of integers NumPy makes integers, and of sums of booleans booleans.
NUMBER, INTEGER, BOOLEAN, TEXT = "number", "integer", "boolean", "text"

# States of a call that an engine can find: moments, no quantiles and no powers of all rows.
LAZY_STATEFUL = ("center", "scale", "standardize")

_COMPARISONS: dict[str, Callable] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ARITHMETIC: dict[str, Callable] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
}


class Values(NamedTuple):
    """An expression of the engine, and the kind of its values; numbers and integers are Float64."""

    expression: nw.Expr
    kind: str

    @property
    def numbers(self) -> nw.Expr:
        """The values as Float64."""
        return self.expression.cast(nw.Float64) if self.kind == BOOLEAN else self.expression


def refuse_term(expression: Expression) -> ValueError:
    """Return the error for a term that engines of lazy frames do not have."""
    return ValueError(
        f"The term {label(expression)!r} cannot be computed by a lazy frame's engine; add it to the frame as a column "
        "before fit, or collect the frame."
    )


def finite(values: nw.Expr) -> nw.Expr:
    """Return a condition that is False or null for null, NaN and infinity, on every backend."""
    return (values - values) == 0


def total(parts: Sequence[nw.Expr]) -> nw.Expr:
    """Return the sum of columns, added in pairs: engines refuse expressions that are a thousand steps deep."""
    parts = list(parts)
    while len(parts) > 1:
        pairs = [left + right for left, right in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[2 * len(pairs) :]
    return parts[0]


def _where(condition: nw.Expr, values: nw.Expr) -> nw.Expr:
    """Return values where a condition holds, else null: some engines stop with an error of their own otherwise."""
    return nw.when(condition).then(values)


def _log(values: nw.Expr, base: float | None = None) -> nw.Expr:
    positive = _where(values > 0, values)
    return positive.log() if base is None else positive.log(base)


_FUNCTIONS: dict[str, Callable[[nw.Expr], nw.Expr]] = {
    "log": _log,
    "log2": lambda x: _log(x, 2),
    "log10": lambda x: _log(x, 10),
    "exp": lambda x: x.exp(),
    "exp2": lambda x: nw.lit(2.0) ** x,
    "sqrt": lambda x: _where(x >= 0, x).sqrt(),
    "sin": lambda x: _where(finite(x), x).sin(),
    "cos": lambda x: _where(finite(x), x).cos(),
    "floor": lambda x: _where(finite(x), x).floor(),
    "ceil": lambda x: _where(finite(x), x).ceil(),
    "reciprocal": lambda x: 1.0 / x,
}
# These give integers of integers.
_KEEP_INTEGERS: dict[str, Callable[[nw.Expr], nw.Expr]] = {
    "abs": lambda x: x.abs(),
    "absolute": lambda x: x.abs(),
    "fabs": lambda x: x.abs(),
    "square": lambda x: x * x,
    "negative": lambda x: x * -1.0,
}


class LazyReader:
    """Values of expressions on the rows of a lazy frame.

    Parameters
    ----------
    schema : mapping of str to narwhals dtype
        Columns of the frame.
    bindings : mapping of str to str
        Name in the formula -> column of the frame, where they differ.
    states : mapping of Call to dict
        What was found in fit for calls such as ``center(x)``.
    """

    def __init__(
        self, schema: Mapping[str, Any], bindings: Mapping[str, str], states: Mapping[Call, Mapping[str, Any]]
    ):
        self.schema = schema
        self.bindings = bindings
        self.states = states

    def raw(self, name: str) -> nw.Expr:
        """Return a column as it stands; text where it holds categories."""
        column = nw.col(self.bindings.get(name, name))
        return column.cast(nw.String) if self.is_category(name) else column

    def dtype(self, name: str) -> Any:
        """Return the dtype of a column, by its name in the formula."""
        return self.schema[self.bindings.get(name, name)]

    def is_category(self, name: str) -> bool:
        """Tell whether a column is a Categorical or an Enum."""
        return self.dtype(name) in (nw.Categorical, nw.Enum)

    def kind(self, name: str) -> str:
        """Tell what a column holds.

        Raises
        ------
        TypeError
            For dates and other dtypes that are no features.
        """
        dtype = self.dtype(name)
        if dtype == nw.Boolean:
            return BOOLEAN
        if dtype == nw.String or self.is_category(name):
            return TEXT
        if dtype.is_numeric():
            return INTEGER if dtype.is_integer() else NUMBER
        raise TypeError(
            f"Column {name!r} of the lazy frame has dtype {dtype}, which cannot be a feature. Accepted are "
            f"{ACCEPTED_COLUMNS}: convert the column (for example a date to the number of days since a start)."
        )

    def read(self, expression: Expression) -> Values:
        """Translate an expression.

        Raises
        ------
        ValueError
            For functions that are not in scope, naming the whole expression.
        """
        try:
            return self._read(expression)
        except _NotInScopeError:
            raise refuse_term(expression) from None

    def _read(self, expression: Expression) -> Values:
        match expression:
            case Name(column=name):
                kind, raw = self.kind(name), self.raw(name)
                return Values(raw if kind in (BOOLEAN, TEXT) else raw.cast(nw.Float64), kind)
            case Value(value=bool(value)):
                return Values(nw.lit(value), BOOLEAN)
            case Value(value=int(value)):
                return Values(nw.lit(float(value)), INTEGER)
            case Value(value=float(value)):
                return Values(nw.lit(value), NUMBER)
            case Value(value=str(value)):
                return Values(nw.lit(value), TEXT)
            case Value():
                raise _NotInScopeError
            case Operation(symbol=symbol, operands=operands):
                return _operate(symbol, [self._read(part) for part in operands])
        return self._call(expression)

    def _call(self, call: Call) -> Values:
        name, arguments = call.function, call.arguments
        if name in STATEFUL:
            if name not in LAZY_STATEFUL:
                raise _NotInScopeError
            state, values = self.states[call], self._read(arguments[0]).numbers
            values = values - state["mean"]
            return Values(values if name == "center" else values / state["sd"], NUMBER)
        if name in CATEGORICAL or name in ("offset", "I"):
            return self._read(arguments[0])
        name = name.removeprefix("np.")
        if name not in _FUNCTIONS and name not in _KEEP_INTEGERS:
            raise _NotInScopeError
        inner = self._read(arguments[0])
        if inner.kind == TEXT or (name == "reciprocal" and inner.kind == INTEGER):  # NumPy's of 2 is 0
            raise _NotInScopeError
        if name in _KEEP_INTEGERS:
            return Values(_KEEP_INTEGERS[name](inner.numbers), INTEGER if inner.kind == INTEGER else NUMBER)
        return Values(_FUNCTIONS[name](inner.numbers), NUMBER)

    def levels_of(self, expression: Expression) -> nw.Expr:
        """Return the values of a component that is categories, to be compared with its levels."""
        coded = expression.arguments[0] if isinstance(expression, Call) else expression
        # a column of numbers keeps its dtype: its levels are integers where it holds integers
        if isinstance(coded, Name) and not self.dtype(coded.column).is_decimal():
            self.kind(coded.column)
            return self.raw(coded.column)
        return self.read(expression).expression


class _NotInScopeError(Exception):
    """An expression holds what not every engine has."""


def _operate(symbol: str, values: list[Values]) -> Values:
    kinds = {each.kind for each in values}
    if len(values) == 1:
        if kinds <= {NUMBER, INTEGER}:
            return values[0] if symbol == "+" else Values(values[0].expression * -1.0, values[0].kind)
        raise _NotInScopeError
    left, right = values
    if symbol in _COMPARISONS:
        if kinds == {TEXT} and symbol in ("==", "!="):
            return Values(_COMPARISONS[symbol](left.expression, right.expression), BOOLEAN)
        if TEXT in kinds:
            raise _NotInScopeError
        return Values(_COMPARISONS[symbol](left.numbers, right.numbers), BOOLEAN)
    if TEXT in kinds or symbol not in _ARITHMETIC:
        raise _NotInScopeError
    if kinds == {BOOLEAN} and symbol in ("+", "-", "*"):
        if symbol == "-":  # which NumPy refuses
            raise _NotInScopeError
        either: Callable = operator.or_ if symbol == "+" else operator.and_
        return Values(either(left.expression, right.expression), BOOLEAN)
    stays_integer = symbol in ("+", "-", "*") and kinds <= {INTEGER, BOOLEAN}
    return Values(_ARITHMETIC[symbol](left.numbers, right.numbers), INTEGER if stays_integer else NUMBER)


# --------------------------------------------------------------------------------------------------------------------
# The columns of a recipe


@dataclass(frozen=True)
class LazyColumns:
    """The columns of a design as Float64 expressions.

    Attributes
    ----------
    common : tuple of Expr
        The column of ones first, where there is an intercept.
    varying : tuple of tuple of Expr
        Of each factor.
    offset : Expr or None
    """

    common: tuple[nw.Expr, ...]
    varying: tuple[tuple[nw.Expr, ...], ...]
    offset: nw.Expr | None


def lazy_columns(recipe: Recipe, schema: Mapping[str, Any]) -> LazyColumns:
    """Translate the columns of a recipe.

    Parameters
    ----------
    recipe : Recipe
    schema : mapping of str to narwhals dtype

    Raises
    ------
    ValueError
        For terms that engines of lazy frames do not have.
    """
    reader = LazyReader(schema, recipe.bindings, recipe.states)

    def columns(terms: tuple[TermRecipe, ...]) -> tuple[nw.Expr, ...]:
        return tuple(column for term in terms for column in _term_columns(term, reader))

    offsets = [reader.read(offset).numbers for offset in recipe.offsets]
    return LazyColumns(
        columns(recipe.common),
        tuple(columns(terms) for terms in recipe.varying),
        total(offsets) if offsets else None,
    )


def _term_columns(term: TermRecipe, reader: LazyReader) -> list[nw.Expr]:
    """Return all products of columns of components, those of the last one varying fastest."""
    if not term:
        return [nw.lit(1.0)]
    found = _component_columns(term[0], reader)
    for component in term[1:]:
        found = [left * right for left in found for right in _component_columns(component, reader)]
    return found


def _component_columns(component: Component, reader: LazyReader) -> list[nw.Expr]:
    if component.levels is None:
        values = reader.read(component.expression)
        if values.kind == TEXT:
            raise refuse_term(component.expression)
        return [values.numbers]
    coded = reader.levels_of(component.expression)
    return [_coded(coded, component.levels, weights) for weights in component.contrast.T]


def _coded(values: nw.Expr, levels: tuple, weights: np.ndarray) -> nw.Expr:
    """Return a column of a contrast: the weight of the level of each row; null for a level that is none of them."""
    column = nw.when(values.is_in(list(levels))).then(0.0)
    for level, weight in zip(levels, weights, strict=True):
        if weight:
            column = column + (values == level).cast(nw.Float64) * float(weight)
    return column
