"""The query of a lazy frame's sums, in three steps that every engine has.

Columns less a centre near their means, products of them, sums by group. Sums about zero would lose what columns differ
by where they are far from it.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import reduce
from itertools import combinations_with_replacement

import narwhals.stable.v2 as nw
import numpy as np

from hbsk._data.lazy import as_numbers, first_centre, is_far
from hbsk._fit.lazy_checks import beside_numbers, raise_for_bad_rows, whole
from hbsk._model.centres import varying_intercept
from hbsk._model.lazy_columns import lazy_columns
from hbsk._model.lazy_frame import LazyRows
from hbsk._posterior.group_tables import common_counterparts

# Column 0 of a design is 1 everywhere.
ONES = 0
# Largest relative difference of the same sums of two passes that is rounding.
SAME = 1e-6


def ask_sums(rows: LazyRows, fold: str | None = None) -> tuple[Query, Found]:
    """Ask the engine for the sums of every fold, about a centre near the means.

    A pass without groups costs a third of its sums by group or less (benchmarks/lazy.py). Where one is needed it comes
    first: rows that no model can take, and a centre that is far, are then found before the dear one.

    Parameters
    ----------
    rows : LazyRows
    fold : str, optional
        Column of the frame whose values are the folds.

    Raises
    ------
    ValueError
        For rows that no model can take; they are counted in the same pass.
    """
    design = design_of(rows)
    columns = {f"c{k}": each for k, each in enumerate(design.expressions, start=1)}
    origin = first_centre(rows.table, columns, _long_integers(rows))
    for _ in range(2):
        query = Query(rows, design, origin, fold)
        with np.errstate(over="ignore", invalid="ignore"):
            overall = query.ask_first()
            mean, sd = query.moments(overall)
        if not is_far(origin, mean, sd).any():
            break
        origin = mean
    return query, Found(overall if query.is_one_pass else query.ask_groups(overall), overall)


@dataclass(frozen=True)
class Design:
    """Distinct columns of a model, and which of them are the common and the varying ones.

    Attributes
    ----------
    expressions : tuple of Expr
        Columns 1 and up; y less its offset is the last one.
    centred : tuple of bool
        Which of them count as less a centre in products.
    common, varying : tuple of int
    """

    expressions: tuple[nw.Expr, ...]
    centred: tuple[bool, ...]
    common: tuple[int, ...]
    varying: tuple[int, ...]

    @property
    def y(self) -> int:
        return len(self.expressions)

    @property
    def by_group(self) -> set[tuple[int, int]]:
        """Pairs of columns whose products are needed by group."""
        others = {*self.varying, *self.common, self.y}
        return {(min(a, b), max(a, b)) for a in self.varying for b in others}

    @property
    def overall(self) -> set[tuple[int, int]]:
        """Pairs of columns whose products are needed of all rows; some are moments of varying columns."""
        moments = {pair for k in self.varying for pair in ((ONES, k), (k, k))}
        return moments | set(combinations_with_replacement(sorted({*self.common, self.y}), 2))


def design_of(rows: LazyRows) -> Design:
    specification = rows.specification
    columns = lazy_columns(specification.recipe, rows.table.schema)
    expressions: list[nw.Expr] = []
    centred: list[bool] = []

    def number(expression: nw.Expr, is_centred: bool) -> int:
        expressions.append(expression)
        centred.append(is_centred)
        return len(expressions)

    has_intercept = specification.has_intercept
    common = tuple(
        ONES if has_intercept and a == 0 else number(each, has_intercept) for a, each in enumerate(columns.common)
    )
    varying = []
    for factor, of_factor in zip(specification.factors, columns.varying, strict=True):
        intercept = varying_intercept(factor)
        for k, (counterpart, each) in enumerate(
            zip(common_counterparts(specification, factor), of_factor, strict=True)
        ):
            if k == intercept:
                varying.append(ONES)
            elif counterpart is not None and has_intercept == (intercept is not None):
                varying.append(common[counterpart])
            else:
                varying.append(number(each, intercept is not None))
    y = nw.col(rows.response).cast(nw.Float64)
    number(y if columns.offset is None else y - columns.offset, has_intercept)
    return Design(tuple(expressions), tuple(centred), common, tuple(varying))


@dataclass(frozen=True)
class Found:
    """What came back: a row for each fold and group; of what is summed over all groups, a row for each fold.

    Attributes
    ----------
    rows : narwhals DataFrame
    overall : narwhals DataFrame
        The same where there was no pass of its own.
    """

    rows: nw.DataFrame
    overall: nw.DataFrame

    def total(self, name: str) -> np.ndarray:
        """Return what is summed over all groups, of each row that came back."""
        return as_numbers(self.overall, name)


@dataclass(frozen=True)
class Query:
    """Sums of products of columns.

    Attributes
    ----------
    rows : LazyRows
    design : Design
    origin : ndarray of shape (n_columns,)
        What the moments of columns are about; and products, where a column is centred.
    fold : str or None
    """

    rows: LazyRows
    design: Design
    origin: np.ndarray
    fold: str | None

    @property
    def centre(self) -> np.ndarray:
        """What columns are less of in products; 0 for the column of ones."""
        return np.append(0.0, np.where(self.design.centred, self.origin, 0.0))

    @property
    def keys(self) -> dict[str, str]:
        """Columns of the labels of groups, by their names in the query."""
        return {f"g{k}": column for k, column in enumerate(self.rows.group_columns)}

    @property
    def has_moments_apart(self) -> bool:
        """Whether moments of columns are no products: those count weights by precision."""
        return self.rows.standard_error is not None or not all(self.design.centred)

    @property
    def is_one_pass(self) -> bool:
        """Whether one pass gives what is summed by group and what is summed of all rows."""
        # by group itself, where groups are dealt to folds afterwards
        return not self.keys or self.fold in self.rows.group_columns or self.design.overall <= self.design.by_group

    def ask_first(self) -> nw.DataFrame:
        """Ask for what is summed of all rows; by group, with what else is, where one pass gives it all."""
        design, keys = self.design, list(self.keys)
        more = {"whole": None} | self._copies() | self._totals()
        fold = ["fold"] if self.fold is not None else []
        if self.is_one_pass:
            purpose = "sums by group" if keys else "sums"
            rows = self._ask(purpose, design.by_group | design.overall, more, [*fold, *keys])
        else:
            rows = self._ask("sums of all rows", design.overall, more, fold)
        self._check(rows)
        return rows

    def ask_groups(self, overall: nw.DataFrame) -> nw.DataFrame:
        """Ask for what is summed by group, of the rows that `ask_first` has seen."""
        fold = ["fold"] if self.fold is not None else []
        rows = self._ask("sums by group", self.design.by_group, self._copies(), [*fold, *self.keys])
        self._require_same_rows(overall, rows)
        return rows

    def _check(self, rows: nw.DataFrame) -> None:
        n_rows, n_whole = (as_numbers(rows, name).sum() if len(rows) else 0.0 for name in ("rows", "whole"))
        if n_rows > n_whole:
            raise_for_bad_rows(self.rows, int(n_rows))
        if n_rows == 0:
            empty = "no row with a sample_weight above 0" if self.rows.sample_weight is not None else "no rows"
            raise ValueError(f"The lazy frame has {empty}, while a minimum of 2 samples is required.")

    def _require_same_rows(self, overall: nw.DataFrame, by_group: nw.DataFrame) -> None:
        """Raise where two passes saw other rows, as they do of a frame that draws random numbers."""

        def sums(rows: nw.DataFrame, a: int, b: int) -> float:
            return float(as_numbers(rows, self.name_of_product(a, b)).sum())

        same = as_numbers(overall, "rows").sum() == as_numbers(by_group, "rows").sum()
        with np.errstate(over="ignore", invalid="ignore"):
            for a, b in self.design.overall & self.design.by_group:
                size = np.sqrt(sums(overall, a, a) * sums(overall, b, b))
                same &= not abs(sums(overall, a, b) - sums(by_group, a, b)) > SAME * size
        if not same:
            raise ValueError(
                "The rows of the lazy frame changed from one query to the next, as those of a sample, of random "
                "numbers or of a table that is being written do. Store them first (in a file, a table, or in memory), "
                "and fit what is stored."
            )

    def _ask(self, purpose: str, pairs: set, more: dict[str, nw.Expr | None], keys: list[str]) -> nw.DataFrame:
        columns = self._columns()
        first = self.rows.table.frame.select(**columns)
        products = {f"p{a}_{b}": self._product(a, b) for a, b in sorted(pairs)}
        if "whole" in more:
            numbers = [name for name in columns if name in ("f", "e") or name.startswith(("c", "beside"))]
            more["whole"] = whole(numbers, [name for name in columns if name.startswith("ok")])
        of_rows = {name: each for name, each in (products | more).items() if each is not None}
        second = first.select(*keys, **of_rows)
        sums: list[nw.Expr] = [nw.len().alias("rows")]
        for name in of_rows:
            aggregate = {"most": nw.Expr.max, "least": nw.Expr.min}.get(name, nw.Expr.sum)
            sums.append(aggregate(nw.col(name)))
        return self.rows.table.ask(purpose, second.group_by(*keys).agg(*sums) if keys else second.select(*sums))

    def _columns(self) -> dict[str, nw.Expr]:
        """Return the first step: keys, centred columns, copies f, squares of errors e, deviations from the origin."""
        columns = {name: nw.col(column) for name, column in self.keys.items()}
        if self.fold is not None:
            columns["fold"] = nw.col(self.fold)
        centre = self.centre
        for k, each in enumerate(self.design.expressions, start=1):
            columns[f"c{k}"] = each - float(centre[k])
            if centre[k] != self.origin[k - 1]:
                columns[f"d{k}"] = each - float(self.origin[k - 1])
        if self.rows.weight is not None:
            columns["f"] = self.rows.weight
        if self.rows.standard_error is not None:
            error = nw.col(self.rows.standard_error).cast(nw.Float64)
            columns["e"] = error * error
        return columns | beside_numbers(self.rows)

    def _factors(self, *names: str) -> list[nw.Expr]:
        """Return columns of the first step that are there."""
        is_there = {"f": self.rows.weight is not None, "e": self.rows.standard_error is not None}
        return [nw.col(name) for name in names if is_there.get(name, True)]

    def _product(self, a: int, b: int) -> nw.Expr | None:
        """Return the weighted product of two columns; None where it is 1."""
        parts = self._factors("f") + [nw.col(f"c{k}") for k in (a, b) if k != ONES]
        product = reduce(operator.mul, parts) if parts else None
        if self.rows.standard_error is None:
            return product
        return (nw.lit(1.0) if product is None else product) / nw.col("e")

    def _deviation(self, k: int) -> nw.Expr:
        return nw.col(f"d{k}" if self.centre[k] != self.origin[k - 1] else f"c{k}")

    def _copies(self) -> dict[str, nw.Expr | None]:
        return {"copies": next(iter(self._factors("f")), None)}

    def _totals(self) -> dict[str, nw.Expr | None]:
        """Return what else is summed, and what is the largest or smallest of rows."""
        totals: dict[str, nw.Expr | None] = {}
        weighted, known = self.rows.weight is not None, self.rows.standard_error is not None
        if weighted and not known:
            totals["most"] = nw.col("f")
        if known:
            e = nw.col("e")
            totals["least"] = e / nw.col("f") if weighted else e
            logarithm = nw.when(e > 0).then(e).log() * -1.0
            totals["log_weight"] = reduce(operator.mul, [*self._factors("f"), logarithm])
            totals["error_squares"] = reduce(operator.mul, self._factors("f", "e"))
        if self.has_moments_apart:
            for k in range(1, self.design.y + 1):
                totals[f"s{k}"] = reduce(operator.mul, [*self._factors("f"), self._deviation(k)])
                totals[f"q{k}"] = reduce(operator.mul, [*self._factors("f"), self._deviation(k), self._deviation(k)])
        return totals

    def names_of_moments(self, k: int) -> tuple[str, str]:
        """Return the names of the sums of a column less its origin, and of the squares of that."""
        return (f"s{k}", f"q{k}") if self.has_moments_apart else (f"p{ONES}_{k}", f"p{k}_{k}")

    def name_of_product(self, a: int, b: int) -> str:
        """Return the name of the sums of the products of two columns."""
        plain = a == b == ONES and self.rows.weight is None and self.rows.standard_error is None
        return "rows" if plain else f"p{min(a, b)}_{max(a, b)}"

    def moments(self, overall: nw.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and sd of each column."""
        n = as_numbers(overall, "rows" if self.rows.weight is None else "copies").sum()
        names = [self.names_of_moments(k) for k in range(1, self.design.y + 1)]
        sums = np.array([[as_numbers(overall, name).sum() for name in pair] for pair in names])
        shift = sums[:, 0] / n
        return self.origin + shift, np.sqrt(np.maximum(sums[:, 1] / n - shift**2, 0.0))


def _long_integers(rows: LazyRows) -> dict[str, str]:
    """Return the columns whose integers may have more digits than floats, by what to call them."""
    plain = {component.plain_column for component in rows.specification.recipe.components()}
    bindings = rows.specification.bindings
    named = {
        f"Column {name!r} of X": bindings.get(name, name) for name in rows.specification.feature_names if name in plain
    }
    long = (nw.Int64, nw.UInt64)
    return {what: name for what, name in (named | {"y": rows.response}).items() if rows.table.schema[name] in long}
