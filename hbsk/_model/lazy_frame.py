"""A lazy frame as the model sees it: which column is what, and what its engine says about the columns of the model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from hbsk._data.lazy import LazyTable, as_numbers, first_centre, is_far, require_column, require_numbers
from hbsk._data.sources import FactorSource, default_sources, resolve_source
from hbsk._data.table import Table
from hbsk._messages import quoted, shown
from hbsk._model.expressions import CATEGORICAL, STATEFUL, Call, Expression, Name, columns_in, label, walk
from hbsk._model.formula import ParsedFormula, bind_columns, is_offset
from hbsk._model.frame import source_of, written_formula
from hbsk._model.lazy_columns import LAZY_STATEFUL, TEXT, LazyReader, finite, refuse_term
from hbsk._model.options import Options
from hbsk._model.specification import RecipeReader, Specification, in_order, settle

__all__ = ["LazyRows", "lazy_sources", "read_lazy_frame", "specify_lazily"]

# A column of text with more levels is hardly a category; each level is a column of the design.
MOST_LEVELS = 1000


@dataclass(frozen=True)
class LazyRows:
    """Rows of a lazy frame, and what their columns are; those of weight 0 are left out.

    Attributes
    ----------
    table : LazyTable
    specification, grouped : Specification
        As in `ModelFrame`, without the labels of groups.
    sources : tuple of FactorSource
        Where the labels of each factor are.
    response : str
        Column of y.
    sample_weight, standard_error : str or None
        Columns of weights and known errors.
    """

    table: LazyTable
    specification: Specification
    grouped: Specification
    sources: tuple[FactorSource, ...]
    response: str
    sample_weight: str | None = None
    standard_error: str | None = None

    @property
    def group_columns(self) -> tuple[str, ...]:
        """Columns of the labels of groups."""
        return tuple(column for source in self.sources for column in source.columns or ())

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The columns that a model reads of rows to predict, in the order of the frame."""
        read = {*self.grouped.feature_columns, *self.group_columns}
        return tuple(name for name in self.table.names if name in read)

    @property
    def weight(self) -> nw.Expr | None:
        """Copies of each row."""
        return _weight(self.sample_weight)


def read_lazy_frame(
    options: Options,
    table: LazyTable,
    y: Any = None,
    *,
    sample_weight: Any = None,
    standard_error: Any = None,
    fold: Any = None,
    like: tuple[Specification, Specification] | None = None,
    are_declared: bool = False,
) -> LazyRows:
    """Find out what the columns of a lazy frame are, and settle those of the model.

    Parameters
    ----------
    options : Options
    table : LazyTable
    y, sample_weight, standard_error, fold : str or None
        Names of columns. y may be the left-hand side of the formula.
    like : tuple of Specification, optional
        `specification` and `grouped` of sums that were collected before: levels and transforms are theirs.
    are_declared : bool, default=False
        Whether all levels that an Enum declares count, not only those that are there.
    """
    parsed = None
    if y is not None:
        require_numbers(table, y, "y")
    if options.formula is not None:
        from hbsk._model.parser import parse_formula  # imports formulae, which takes a while

        parsed = parse_formula(options.formula)
        y = _response(options, parsed, y)
    if y is None:
        raise ValueError(
            f"y of a lazy frame is the name of one of its columns, and {options.name} got none: pass y=, or a formula "
            "with a left-hand side."
        )
    response = require_numbers(table, y, "y")
    beside = {"sample_weight": sample_weight, "standard_error": standard_error}
    beside = {name: each if each is None else require_numbers(table, each, name) for name, each in beside.items()}
    fold = fold if fold is None else require_column(table, fold, "fold")
    apart = {response, fold, *beside.values()}
    names = [name for name in table.names if name not in apart]
    if parsed is not None:
        parsed = bind_columns(parsed, names, ())
    sources = lazy_sources(options, parsed, names)
    if parsed is None:
        parsed = written_formula(options, names, sources)
    if not options.correlated:
        parsed = parsed.without_correlation()
    refuse_several_factors(options, [source.name for source in sources])
    weight = _weight(beside["sample_weight"])
    if weight is not None:
        table = table.where((weight != 0) | weight.is_null())  # null and NaN stay: they are an error
    if like is None:
        reader = LazyRecipeReader(parsed, table, weight, are_declared=are_declared)
        grouped = settle(parsed, reader)
        ignored = options.pooling == "complete" and parsed.blocks
        like = (settle(parsed.without_groups(), reader) if ignored else grouped, grouped)
    return LazyRows(table, *like, sources, response, **beside)


def _weight(column: str | None) -> nw.Expr | None:
    return None if column is None else nw.col(column).cast(nw.Float64)


def _response(options: Options, parsed: ParsedFormula, y: Any) -> Any:
    """Return the name of y, which both the argument and the formula may give."""
    left = re.sub("`[^`]*`", "quoted", options.formula or "").partition("~")
    if not left[1] or not left[0].strip():
        return y
    if y is not None and y != parsed.response:
        raise ValueError(
            f"y={shown(y)} was given, and formula={options.formula!r} names {parsed.response!r}. Leave y out, or name "
            "the same column."
        )
    return parsed.response


def lazy_sources(options: Options, parsed: ParsedFormula | None, names: Sequence[str]) -> tuple[FactorSource, ...]:
    """Find the group columns of a lazy frame."""
    columns = Table(dict.fromkeys(names), 0)
    if parsed is None:
        sources = default_sources(columns, options.group_features, {})
    else:
        sources = [source_of(factor) for factor in parsed.factors]
    return tuple(resolve_source(source, columns, {}) for source in sources)


def refuse_several_factors(options: Options, factors: Sequence[str]) -> None:
    """Refuse what needs sums of pairs of groups, or rows."""
    if len(factors) > 1:
        raise ValueError(
            f"{options.name} takes one grouping factor from a lazy frame, and the model has {quoted(factors)}. Name "
            "one of them, join them into one column, or collect the frame."
        )
    if options.inference == "nuts":
        raise ValueError(
            "inference='nuts' takes rows, and those of a lazy frame are not in memory. Use inference='auto', or "
            "collect the frame."
        )


# --------------------------------------------------------------------------------------------------------------------
# Levels and transforms


def specify_lazily(parsed: ParsedFormula, table: LazyTable, sample_weight: nw.Expr | None = None) -> Specification:
    """Settle every column of a model on the rows of a lazy frame; see `specify`.

    Parameters
    ----------
    parsed : ParsedFormula
        With its names bound to columns.
    table : LazyTable
        Rows of weight 0 left out.
    sample_weight : Expr, optional
        Copies of each row.

    Raises
    ------
    ValueError
        For terms that engines of lazy frames do not have.
    """
    return settle(parsed, LazyRecipeReader(parsed, table, sample_weight))


class LazyRecipeReader(RecipeReader):
    """Levels and states found by queries: one for each categorical column, one or two for all transforms."""

    def __init__(
        self, parsed: ParsedFormula, table: LazyTable, sample_weight: nw.Expr | None, *, are_declared: bool = False
    ):
        self.table = table
        self.are_declared = are_declared
        self.sample_weight = sample_weight
        self.states: dict[Call, dict] = {}
        self.levels: dict[Expression, tuple | None] = {}
        self.widths: dict[Expression, int] = {}
        self.values = LazyReader(table.schema, dict(parsed.bindings), self.states)
        blocks = [term for block in parsed.blocks for term in block.terms]
        self.learn_states(part for term in (*parsed.common, *blocks) for part in term)

    def learn_states(self, expressions: Iterable[Expression]) -> None:
        """Find means and sds, for those inside of others first."""
        calls: dict[Call, Expression] = {}
        for expression in expressions:
            for part in walk(expression):
                if isinstance(part, Call) and part.function in STATEFUL:
                    if part.function not in LAZY_STATEFUL:
                        raise refuse_term(expression)
                    calls[part] = expression
        while waiting := [call for call in calls if call not in self.states]:
            ready = [call for call in waiting if all(inner in self.states for inner in _stateful_inside(call))]
            for call, (mean, sd) in zip(ready, self.moments(ready), strict=True):
                self.states[call] = {"mean": mean} if call.function == "center" else {"mean": mean, "sd": sd}

    def moments(self, calls: list[Call]) -> list[tuple[float, float]]:
        """Return mean and population sd of the argument of each call."""
        columns = {f"x{k}": self.argument(call) for k, call in enumerate(calls)}
        centre = first_centre(self.table, columns)
        for _ in range(2):
            mean, sd = self.moments_about(centre, columns, calls)
            if not is_far(centre, mean, sd).any():
                break
            centre = mean
        return list(zip(mean.tolist(), sd.tolist(), strict=True))

    def argument(self, call: Call) -> nw.Expr:
        values = self.values.read(call.arguments[0])
        if values.kind == TEXT:
            raise ValueError(f"The term {label(call)!r} of the formula needs one numeric column as its first argument.")
        return values.numbers

    def moments_about(
        self, centre: np.ndarray, columns: dict[str, nw.Expr], calls: list[Call]
    ) -> tuple[np.ndarray, np.ndarray]:
        weight = nw.lit(1.0) if self.sample_weight is None else self.sample_weight
        shifted = {name: each - float(c) for (name, each), c in zip(columns.items(), centre, strict=True)}
        products: dict[str, nw.Expr] = {"n": nw.col("w")}
        for name in columns:
            x = nw.col(name)
            products[f"{name}_1"], products[f"{name}_2"] = nw.col("w") * x, nw.col("w") * x * x
            products[f"{name}_ok"] = nw.when(finite(x)).then(1.0).otherwise(0.0)
        query = self.table.frame.select(w=weight, **shifted).select(**products)
        rows = self.table.ask(
            f"means of {quoted(map(label, calls), 5)}", query.select(nw.len().alias("rows"), nw.col(*products).sum())
        )
        found = {name: float(as_numbers(rows, name)[0]) for name in ("rows", *products)}
        for name, call in zip(columns, calls, strict=True):
            n_bad = round(found["rows"] - found[f"{name}_ok"])
            if n_bad:
                raise ValueError(
                    f"The argument of {label(call)!r} in the formula is null or not finite in {n_bad} of "
                    f"{round(found['rows'])} rows of the lazy frame; fill them in or filter them out before fit."
                )
        shift = np.array([found[f"{name}_1"] for name in columns]) / found["n"]
        squares = np.array([found[f"{name}_2"] for name in columns]) / found["n"]
        return centre + shift, np.sqrt(np.maximum(squares - shift**2, 0.0))

    def learn(self, expression: Expression) -> None:
        """Find the levels of an expression, or that it is numbers."""
        if expression in self.levels:
            return
        if not columns_in(expression) and not is_offset((expression,)):
            raise ValueError(f"The term {label(expression)!r} of the formula is one number, no column; leave it out.")
        kind = self.values.read(expression).kind
        if is_offset((expression,)):
            if kind == TEXT:
                raise ValueError(f"{label(expression)!r} in the formula must be numeric.")
            return
        is_coded = isinstance(expression, Call) and expression.function in CATEGORICAL
        if kind == TEXT or is_coded:
            self.levels[expression] = self.distinct(expression)
        else:
            self.levels[expression], self.widths[expression] = None, 1

    def distinct(self, expression: Expression) -> tuple:
        """Return the observed levels, in their own order where the column has one."""
        name = label(expression)
        declared = self.declared(expression)
        if declared is not None and self.are_declared:
            return in_order(declared, name, ordered=self.is_ordered())
        # not unique(), which numbers the rows of every level on some engines
        levels = self.table.frame.select(level=self.values.levels_of(expression)).group_by("level").agg(n=nw.len())
        found = self.table.ask(f"levels of {name!r}", levels.head(MOST_LEVELS + 1)).get_column("level").to_list()
        if len(found) > MOST_LEVELS:
            raise ValueError(
                f"The categorical column {name!r} has more than {MOST_LEVELS} levels, each a column of the model. Is "
                "it the group? Name it right of `|`, or in group_features=; or join rare levels before fit."
            )
        if declared is not None and self.is_ordered():
            found = sorted(found, key=lambda level: declared.index(level) if level in declared else -1)
        return in_order(found, name, ordered=declared is not None and self.is_ordered())

    def declared(self, expression: Expression) -> list[Any] | None:
        """Return the levels that an Enum declares."""
        coded = expression.arguments[0] if isinstance(expression, Call) else expression
        if not isinstance(coded, Name):
            return None
        dtype = self.values.dtype(coded.column)
        return list(dtype.categories) if dtype == nw.Enum else None

    def is_ordered(self) -> bool:
        """Tell whether levels of an Enum keep their order, as those that become ordered Categoricals in memory do."""
        engine = self.table.frame.implementation
        return engine.is_dask() or engine.is_duckdb()


def _stateful_inside(call: Call) -> list[Call]:
    inside = [part for argument in call.arguments[:1] for part in walk(argument)]
    return [part for part in inside if isinstance(part, Call) and part.function in STATEFUL]
