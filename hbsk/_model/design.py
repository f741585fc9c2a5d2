"""Design matrices, block by block, from a recipe of plain data: neither formulae nor Bambi is needed to evaluate it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import numpy as np
import pandas as pd

from hbsk._data.table import Table
from hbsk._engine.distinct_rows import HeldRows
from hbsk._messages import warn
from hbsk._model.expressions import CATEGORICAL, ELEMENTWISE, STATEFUL, Call, Expression, Name, Operation, Value, label
from hbsk._model.transforms import apply_state
from hbsk.exceptions import ExtrapolationWarning

# Share of a spline's range by which a row outside of it is there by rounding.
ROUNDING_OF_A_RANGE = 1e-6

_FUNCTIONS: dict[str, Callable] = {
    name: getattr(np, name.removeprefix("np.")) for name in ELEMENTWISE if name != "I"
} | {"I": lambda x: x}
_OPERATORS: dict[str, Callable] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.true_divide,
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}

# Rows evaluated at a time where all that is stored is their answers.
ROWS_PER_BLOCK = 131_072
# Numbers of their design that are held at a time (32 MB).
NUMBERS_PER_BLOCK = 4_194_304
# Values up to which a dict finds levels before an index of pandas is made.
FEW_VALUES = 2_000


@dataclass(frozen=True, eq=False)
class Component:
    """One factor of a term: numbers, or categories with a row of the contrast matrix for each level."""

    expression: Expression
    labels: tuple[str, ...]
    levels: tuple | None = None
    contrast: Any = None

    @property
    def width(self) -> int:
        """Return the number of columns."""
        return len(self.labels)

    @property
    def plain_column(self) -> str | None:
        """Return the numeric column that it is as it stands."""
        return self.expression.column if self.levels is None and isinstance(self.expression, Name) else None


TermRecipe = tuple[Component, ...]


@dataclass(frozen=True, eq=False)
class Recipe:
    """How to compute every column of a design; the empty term is a column of ones."""

    common: tuple[TermRecipe, ...]
    varying: tuple[tuple[TermRecipe, ...], ...]
    offsets: tuple[Expression, ...] = ()
    # State of calls such as center(x), found in fit.
    states: dict[Call, dict[str, Any]] = field(default_factory=dict)
    # Name in the formula -> column of X, where they differ.
    bindings: dict[str, str] = field(default_factory=dict)

    def components(self) -> list[Component]:
        """List the components of all terms."""
        terms = [*self.common, *(term for terms in self.varying for term in terms)]
        return [component for term in terms for component in term]


def term_width(term: TermRecipe) -> int:
    """Return the number of columns of a term."""
    width = 1
    for component in term:
        width *= component.width
    return width


# --------------------------------------------------------------------------------------------------------------------
# Values of expressions


def evaluate(expression: Expression, read: Callable[[str], np.ndarray], states: dict[Call, dict]) -> Any:
    """Compute an expression on some rows; `read` gives the rows of a column."""
    match expression:
        case Name(column=column):
            return read(column)
        case Value(value=value):
            return value
        case Operation(symbol=symbol, operands=operands):
            return _operate(symbol, [evaluate(part, read, states) for part in operands])
    name = expression.function
    if name in STATEFUL:
        return apply_state(name, states[expression], evaluate(expression.arguments[0], read, states))
    if name in CATEGORICAL or name == "offset":
        return evaluate(expression.arguments[0], read, states)
    return _FUNCTIONS[name](*[evaluate(part, read, states) for part in expression.arguments])


def _operate(symbol: str, values: list[Any]) -> Any:
    if len(values) == 1:
        return +values[0] if symbol == "+" else -values[0]
    if symbol == "**":
        # As floats: powers of integer columns silently wrap around.
        return np.power(*[np.asarray(value, dtype=np.float64) for value in values])
    return _OPERATORS[symbol](*values)


def values_of(expression: Expression, read: Callable[[str], np.ndarray], states: dict[Call, dict]) -> np.ndarray:
    """Compute a component, with errors that name it."""
    try:
        with np.errstate(all="ignore"):
            values = np.asarray(evaluate(expression, read, states))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"The term {label(expression)!r} of the formula cannot be computed: {error}") from error
    if values.ndim == 0 and not (isinstance(expression, Call) and expression.function == "offset"):
        raise ValueError(f"The term {label(expression)!r} of the formula is one number, no column; leave it out.")
    return values


def compute(expression: Expression, read: Callable[[str], np.ndarray], states: dict[Call, dict]) -> np.ndarray:
    """Compute a component and check that it is finite.

    Raises
    ------
    ValueError
        When it cannot be computed, does not depend on a column, or is not finite.
    """
    values = values_of(expression, read, states)
    finite = np.isfinite(values) if values.dtype.kind == "f" else np.True_
    if not finite.all():
        n_rows = len(values) if values.ndim else 1
        n_bad = n_rows - int(finite.reshape(n_rows, -1).all(axis=1).sum())
        raise ValueError(
            f"The term {label(expression)!r} of the formula is not finite in {n_bad} of {n_rows} rows; transform or "
            "leave out these rows before fit and predict."
        )
    return values


def native(column: np.ndarray | pd.Series) -> np.ndarray:
    """Return a column as an array in which arithmetic does not wrap around."""
    if isinstance(column, pd.Series):
        return column.to_numpy(dtype=object)
    if (column.dtype.kind == "f" and column.dtype.itemsize < 8) or column.dtype == np.uint64:
        return column.astype(np.float64)
    if column.dtype.kind in "iu" and column.dtype.itemsize < 8:
        return column.astype(np.int64)
    return column


# --------------------------------------------------------------------------------------------------------------------
# Categories


def encode_levels(values: np.ndarray | pd.Series, levels: tuple, name: str) -> np.ndarray:
    """Return the position of each value in the levels.

    Raises
    ------
    ValueError
        For a value that is missing or no level, naming the column, the value and the levels.
    """
    if isinstance(values, pd.Series) and isinstance(values.dtype, pd.CategoricalDtype):
        positions = _index(levels).get_indexer(values.cat.categories.astype(object))
        codes = np.append(positions, -1)[values.cat.codes.to_numpy()]
    else:
        values = values.to_numpy(dtype=object) if isinstance(values, pd.Series) else values
        codes = _codes(values, levels)
    return _refusing_unknown(codes, levels, name, lambda: values)


def is_text(column: np.ndarray | pd.Series) -> bool:
    """Tell whether a column of a `Table` holds text: neither numbers nor categories."""
    return isinstance(column, pd.Series) and not isinstance(column.dtype, pd.CategoricalDtype)


def encode_texts(codes: np.ndarray, texts: list[str], levels: tuple, name: str) -> np.ndarray:
    """Return `encode_levels` of codes of texts; see `Table.texts`."""
    positions = {level: position for position, level in enumerate(levels)}
    found = np.array([*(positions.get(text, -1) for text in texts), -1], dtype=np.intp)[codes]
    return _refusing_unknown(found, levels, name, lambda: np.array([*texts, None], dtype=object)[codes])


def _refusing_unknown(codes: np.ndarray, levels: tuple, name: str, values: Callable[[], Any]) -> np.ndarray:
    """Return positions in the levels in a small dtype; an error, which shows values, where some are not there."""
    unknown = codes < 0
    if unknown.any():
        found = pd.unique(np.asarray(values(), dtype=object)[unknown])
        shown = ", ".join("a missing value" if pd.isna(value) else repr(value) for value in found[:10])
        more = f" and {len(found) - 10} more" if len(found) > 10 else ""
        raise ValueError(
            f"Column {name!r} holds {shown}{more}, not seen in fit. Known levels: {', '.join(map(repr, levels))}. "
            "Drop these rows, or encode the column before, for example with "
            "OneHotEncoder(handle_unknown='ignore')."
        )
    return codes.astype(np.int8 if len(levels) <= 127 else np.int32)


def _codes(values: np.ndarray, levels: tuple) -> np.ndarray:
    """Return positions in the levels, -1 for others."""
    if values.dtype == object and len(values) <= FEW_VALUES:
        positions = {level: position for position, level in enumerate(levels)}
        return np.array([positions.get(value, -1) for value in values.tolist()], dtype=np.intp)
    return _index(levels).get_indexer(values)


def _index(levels: tuple) -> Any:
    numeric = all(isinstance(level, int | float) for level in levels)
    return pd.Index(levels) if numeric else pd.Index(levels, dtype=object)


# --------------------------------------------------------------------------------------------------------------------
# The design


class Design:
    """Columns of the model for the rows of one table, computed in blocks of rows.

    Attributes
    ----------
    n_rows : int
    """

    def __init__(self, recipe: Recipe, features: Table):
        self.n_rows = features.n_rows
        self._recipe = recipe
        self._features = features
        self._columns: dict[str, np.ndarray] = {}
        # Encoded at once, so that an unknown level is an error before any work on blocks.
        self._levels: dict[Expression, np.ndarray] = {}
        for component in recipe.components():
            expression = component.expression
            if component.levels is not None and isinstance(expression, Name) and expression not in self._levels:
                name = recipe.bindings.get(expression.column, expression.column)
                column, levels = features.column(name), component.levels
                make = partial(encode_levels, column, levels, expression.column)
                if is_text(column):
                    make = partial(encode_texts, *features.texts(name), levels, expression.column)
                self._levels[expression] = features.made((name, component.levels), make)

    def _column(self, name: str) -> np.ndarray:
        if name not in self._columns:
            column = self._features.column(self._recipe.bindings.get(name, name))
            if isinstance(column, pd.Series):
                column = column.to_numpy(dtype=object)
            self._columns[name] = column
        return self._columns[name]

    def warn_beyond_knots(self) -> None:
        """Warn of rows outside the boundary knots of a spline, by term and range."""
        for call, state in self._recipe.states.items():
            if call.function != "bs":
                continue
            lower, upper = state["knots"][0], state["knots"][-1]
            argument = call.arguments[0]
            values = compute(argument, lambda name: native(self._column(name)), self._recipe.states)
            slack = ROUNDING_OF_A_RANGE * (upper - lower)
            beyond = values[(values < lower - slack) | (values > upper + slack)]
            if not len(beyond):
                continue
            warn(
                f"{len(beyond)} of {self.n_rows} rows have {label(argument)} outside [{lower:.6g}, {upper:.6g}], the "
                f"boundary knots of {label(call)!r} (from {beyond.min():.6g} to {beyond.max():.6g}). There a spline is "
                "a polynomial that no data hold back, and so are the answers. Predict inside, or take a transform "
                "that can be continued, such as the column itself.",
                ExtrapolationWarning,
            )

    def block(self, start: int, stop: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray | None]:
        """Compute the rows from start to stop (exclusive).

        Returns
        -------
        X : ndarray of shape (m, p)
            Common columns, the column of ones first.
        Z : list of ndarray of shape (m, q)
            Varying columns of each factor.
        offset : ndarray of shape (m,), or None
        """
        recipe = self._recipe
        rows = slice(*slice(start, stop).indices(self.n_rows)[:2])
        values: dict[Expression, np.ndarray] = {}
        common = self._matrix(recipe.common, rows, values)
        varying = [self._matrix(terms, rows, values) for terms in recipe.varying]
        return common, varying, self._offset(rows) if recipe.offsets else None

    def _matrix(self, terms: tuple[TermRecipe, ...], rows: slice, values: dict[Expression, np.ndarray]) -> np.ndarray:
        n_rows = rows.stop - rows.start
        # Columns are contiguous, so that filling one is a copy of memory.
        matrix = np.empty((sum(map(term_width, terms)), n_rows)).T
        position = 0
        for term in terms:
            if not term:
                matrix[:, position] = 1.0
                position += 1
            elif len(term) == 1 and (column := term[0].plain_column) is not None:
                matrix[:, position] = self._column(column)[rows]
                position += 1
            else:
                columns = reduce(_products, [self._component(part, rows, values) for part in term])
                matrix[:, position : position + columns.shape[1]] = columns
                position += columns.shape[1]
        return matrix

    def _component(self, component: Component, rows: slice, values: dict[Expression, np.ndarray]) -> np.ndarray:
        expression = component.expression
        if component.levels is not None and isinstance(expression, Name):
            return component.contrast[self._levels[expression][rows]]
        if expression not in values:
            values[expression] = compute(expression, lambda name: native(self._column(name)[rows]), self._recipe.states)
        found = values[expression]
        if component.levels is not None:
            return component.contrast[encode_levels(found, component.levels, label(expression))]
        found = found.astype(np.float64, copy=False)
        return found if found.ndim == 2 else found[:, None]

    def _offset(self, rows: slice) -> np.ndarray:
        total = np.zeros(rows.stop - rows.start)
        for expression in self._recipe.offsets:
            total += compute(expression, lambda name: native(self._column(name)[rows]), self._recipe.states)
        return total


def _products(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return all products of a column of `left` with a column of `right`, the latter varying fastest."""
    return (left[:, :, None] * right[:, None, :]).reshape(len(left), left.shape[1] * right.shape[1])


def block_rows(n_columns: int) -> int:
    """Return how many rows of a design of so many columns are held at a time."""
    return int(np.clip(NUMBERS_PER_BLOCK // max(n_columns, 1), 1, ROWS_PER_BLOCK))


@dataclass(frozen=True)
class PredictedRows:
    """Rows to predict, as design columns.

    Attributes
    ----------
    design : Design or PopulationDesign
    codes : list of ndarray of shape (n_rows,), one per factor
        Codes not below the number of groups are new groups.
    standard_error : ndarray of shape (n_rows,) or None
    size : ndarray of shape (n_rows,) or None
        Trials or exposure.
    """

    design: Design | PopulationDesign
    codes: Sequence[np.ndarray]
    standard_error: np.ndarray | None
    size: np.ndarray | None = None

    def blocks(self) -> Iterator[tuple]:
        """Yield (rows, x, z, codes, offset) for stretches of rows, shorter ones where there are many columns."""
        x, z, _ = self.design.block(0, min(1, self.design.n_rows))
        width = block_rows(x.shape[1] + sum(part.shape[1] for part in z))
        for start in range(0, self.design.n_rows, width):
            rows = slice(start, min(start + width, self.design.n_rows))
            x, z, offset = self.design.block(rows.start, rows.stop)
            yield rows, x, z, [code[rows] for code in self.codes], offset


def columns_by_term(terms: Sequence[str]) -> dict[str, list[int]]:
    """Map each term to the indices of its columns, in the order of first appearance."""
    columns: dict[str, list[int]] = {}
    for k, term in enumerate(terms):
        columns.setdefault(term, []).append(k)
    return columns


class PopulationDesign:
    """A design whose groups all have the mean effects of the population.

    Parameters
    ----------
    design : Design
    effect_mean : ndarray of shape (q,) or None
        Fixed means of the effects of the varying columns of all factors, one after another; None for zeros.
    """

    def __init__(self, design: Design, effect_mean: np.ndarray | None):
        self.n_rows = design.n_rows
        self._design = design if effect_mean is None else DesignWithMeans(design, effect_mean)

    def block(self, start: int, stop: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray | None]:
        """Compute the rows from start to stop; see `Design.block`."""
        x, z, offset = self._design.block(start, stop)
        return x, [np.zeros_like(part) for part in z], offset


class DesignWithMeans:
    """A design whose offset holds the means of the effects of groups, the same in all groups.

    Parameters
    ----------
    design : Design or HeldRows
    effect_mean : ndarray of shape (q,)
        Of the varying columns of all factors, one factor after another.
    """

    def __init__(self, design: Design | HeldRows, effect_mean: np.ndarray):
        self.n_rows = design.n_rows
        self._design, self._effect_mean = design, effect_mean

    def block(self, start: int, stop: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Compute the rows from start to stop; see `Design.block`."""
        x, z, offset = self._design.block(start, stop)
        means = np.concatenate(z, axis=1) @ self._effect_mean
        return x, z, means if offset is None else offset + means
