"""Sums over groups of a lazy frame, by its own engine: one GROUP BY, of which one row a group comes back.

The query has three steps that every engine has: columns less a centre near their means, products of them, sums by
group. Sums about zero would lose what columns differ by where they are far from it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations_with_replacement
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from hbsk._data.labels import GroupFactor
from hbsk._data.lazy import as_numbers, as_table, first_centre, is_far
from hbsk._data.sources import FactorSource, label_columns, where_labels_stand
from hbsk._engine.sums import CentredSums, GroupSums, centred_sums
from hbsk._fit.lazy_checks import beside_numbers, raise_for_bad_rows, whole
from hbsk._model.centres import varying_intercept
from hbsk._model.frame import ModelFrame
from hbsk._model.lazy_columns import lazy_columns
from hbsk._model.lazy_frame import LazyRows
from hbsk._model.options import Options
from hbsk._posterior.group_tables import common_counterparts
from hbsk.sufficient_statistics import SufficientStatistics, parameters_of_recipe

# Numbers that may come back, 4 GB.
MOST_NUMBERS = 5e8
# Column 0 of a design is 1 everywhere.
ONES = 0


def statistics_of_lazy_rows(options: Options, rows: LazyRows) -> SufficientStatistics:
    """Collect the sums of a lazy frame over the groups of its factor, and count."""
    (statistics,) = statistics_by_fold(options, rows).values()
    return statistics


def statistics_by_fold(
    options: Options,
    rows: LazyRows,
    fold: str | None = None,
    deal: Callable[[np.ndarray], np.ndarray] | None = None,
) -> dict[Any, SufficientStatistics]:
    """Collect the sums of every fold in one pass.

    Parameters
    ----------
    options : Options
    rows : LazyRows
    fold : str, optional
        Column of the frame whose values are the folds; None for one of all rows.
    deal : callable, optional
        Gives each of these folds, from their numbers of rows, a larger one.

    Returns
    -------
    statistics : dict of fold to SufficientStatistics
        All of them over the groups of all rows.
    """
    design = _design_of(rows)
    columns = {f"c{k}": each for k, each in enumerate(design.expressions, start=1)}
    origin = first_centre(rows.table, columns, _long_integers(rows))
    for _ in range(2):
        query = _Query(rows, design, origin, fold)
        with np.errstate(over="ignore", invalid="ignore"):
            found = query.run()
            mean, sd = query.moments(found)
        if not is_far(origin, mean, sd).any():
            break
        origin = mean
    return _Assembly(options, rows, query, found, deal).by_fold()


def refuse_too_many_sums(rows: LazyRows, fold: str | None) -> None:
    """Raise where more would come back than memory holds, by a count of what there is to come."""
    design = _design_of(rows)
    n_sums = len(design.by_group) + len(design.overall) * (fold in rows.group_columns)
    keys = dict.fromkeys([*rows.group_columns, *([] if fold is None else [fold])])
    if not keys:
        return
    counted = rows.table.ask(
        "count", rows.table.frame.select(*keys).group_by(*keys).agg(n=nw.len()).select(nw.len().alias("rows"))
    )
    n_rows = int(as_numbers(counted, "rows")[0])
    if n_rows * n_sums > MOST_NUMBERS:
        raise ValueError(
            f"{n_rows:,} sums of groups and folds would come back, {n_sums} numbers each: "
            f"{n_rows * n_sums * 8 / 1e9:.3g} GB, and at most {MOST_NUMBERS * 8 / 1e9:.3g} are asked for. Use fewer "
            "folds, or groups that are larger."
        )


def _long_integers(rows: LazyRows) -> dict[str, str]:
    """Return the columns whose integers may have more digits than floats, by what to call them."""
    plain = {component.plain_column for component in rows.specification.recipe.components()}
    bindings = rows.specification.bindings
    named = {
        f"Column {name!r} of X": bindings.get(name, name) for name in rows.specification.feature_names if name in plain
    }
    long = (nw.Int64, nw.UInt64)
    return {what: name for what, name in (named | {"y": rows.response}).items() if rows.table.schema[name] in long}


@dataclass(frozen=True)
class _Design:
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


def _design_of(rows: LazyRows) -> _Design:
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
    return _Design(tuple(expressions), tuple(centred), common, tuple(varying))


# --------------------------------------------------------------------------------------------------------------------
# The query


@dataclass(frozen=True)
class _Found:
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
class _Query:
    """Sums of products of columns.

    Attributes
    ----------
    rows : LazyRows
    design : _Design
    origin : ndarray of shape (n_columns,)
        What the moments of columns are about; and products, where a column is centred.
    fold : str or None
    """

    rows: LazyRows
    design: _Design
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

    def run(self) -> _Found:
        """Ask the engine.

        Raises
        ------
        ValueError
            For rows that no model can take; they are counted in the same pass.
        """
        design, keys = self.design, list(self.keys)
        by_group, overall = design.by_group, design.overall
        # a pass without groups costs less than its sums by group would (benchmarks/lazy.py)
        one_pass = not keys or overall <= by_group
        more = self._totals()
        counts = self._counts()
        fold = ["fold"] if self.fold is not None else []
        if one_pass:
            rows = self._ask("sums by group" if keys else "sums", by_group | overall, counts | more, [*fold, *keys])
            found = _Found(rows, rows)
        else:
            rows = self._ask("sums by group", by_group, counts, [*fold, *keys])
            self._check(rows)
            found = _Found(rows, self._ask("sums of all rows", overall, more, fold))
        self._check(rows)
        return found

    def _check(self, rows: nw.DataFrame) -> None:
        n_rows, n_whole = (as_numbers(rows, name).sum() if len(rows) else 0.0 for name in ("rows", "whole"))
        if n_rows > n_whole:
            raise_for_bad_rows(self.rows, int(n_rows))
        if n_rows == 0:
            empty = "no row with a sample_weight above 0" if self.rows.sample_weight is not None else "no rows"
            raise ValueError(f"The lazy frame has {empty}, while a minimum of 2 samples is required.")

    def _ask(self, purpose: str, pairs: set, more: dict[str, nw.Expr], keys: list[str]) -> nw.DataFrame:
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

    def _counts(self) -> dict[str, nw.Expr | None]:
        counts: dict[str, nw.Expr | None] = {"whole": None, "copies": next(iter(self._factors("f")), None)}
        return counts

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

    def moments(self, found: _Found) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and sd of each column."""
        n = as_numbers(found.rows, "rows" if self.rows.weight is None else "copies").sum()
        sums = np.array(
            [[found.total(name).sum() for name in self.names_of_moments(k)] for k in range(1, self.design.y + 1)]
        )
        shift = sums[:, 0] / n
        return self.origin + shift, np.sqrt(np.maximum(sums[:, 1] / n - shift**2, 0.0))


# --------------------------------------------------------------------------------------------------------------------
# What came back, as sums


@dataclass(frozen=True)
class _Assembly:
    """Sums of each fold from what came back."""

    options: Options
    rows: LazyRows
    query: _Query
    found: _Found
    deal: Callable[[np.ndarray], np.ndarray] | None = None

    def by_fold(self) -> dict[Any, SufficientStatistics]:
        """Return the sums of each fold, over the groups of all rows."""
        factor, codes = self._groups()
        if self.query.fold is None:
            n = len(self.found.rows)
            return {None: self._statistics(factor, codes, np.arange(n), np.arange(len(self.found.overall)))}
        folds, of_rows, of_overall = self._folds()
        return {
            fold: self._statistics(factor, codes, np.flatnonzero(of_rows == k), np.flatnonzero(of_overall == k))
            for k, fold in enumerate(folds)
        }

    def _folds(self) -> tuple[list, np.ndarray, np.ndarray]:
        source = FactorSource("fold", ("fold",))
        of_rows, codes = GroupFactor.learn("fold", label_columns(source, as_table(self.found.rows), {}))
        if (codes < 0).any():
            n_missing = int(as_numbers(self.found.rows, "rows")[codes < 0].sum())
            raise ValueError(f"fold={self.query.fold!r} is missing in {n_missing} rows; give every row a fold.")
        overall = of_rows.encode(label_columns(source, as_table(self.found.overall), {}))
        if self.deal is None:
            return of_rows.labels.tolist(), codes, overall
        n_rows = as_numbers(self.found.rows, "rows")
        dealt = self.deal(np.bincount(codes, n_rows, of_rows.n_groups))
        return list(range(int(dealt.max()) + 1)), dealt[codes], dealt[overall]

    def _groups(self) -> tuple[GroupFactor | None, np.ndarray]:
        """Return the labels in order, and the code of each row that came back."""
        if not self.rows.sources:
            return None, np.zeros(len(self.found.rows), dtype=int)
        (source,) = self.rows.sources
        keys = list(self.query.keys)
        table = as_table(self.found.rows)
        groups, codes = GroupFactor.learn(source.name, label_columns(replace(source, columns=tuple(keys)), table, {}))
        if (codes < 0).any():
            n_rows = as_numbers(self.found.rows, "rows")
            raise ValueError(
                f"{where_labels_stand(source)} contains {int(n_rows[codes < 0].sum())} missing labels (null or NaN) in "
                f"{int(n_rows.sum())} rows. Every row must belong to a group in fit: filter these rows out, or give "
                "them a label of their own."
            )
        return groups, codes

    def _statistics(self, groups, codes, at, overall_at) -> SufficientStatistics:
        rows, n_groups = self.rows, 0 if groups is None else groups.n_groups
        counted = self._by_group("rows", codes, at, max(n_groups, 1))
        copies = counted if rows.weight is None else self._by_group("copies", codes, at, max(n_groups, 1))
        collected = self._collected(codes, at, overall_at, n_groups, copies)
        of_groups = () if groups is None else (groups,)
        frame = ModelFrame(*(self._with_groups(each, of_groups) for each in (rows.specification, rows.grouped)))
        return SufficientStatistics(
            frame,
            collected,
            tuple(counted for _ in of_groups),
            tuple(copies for _ in of_groups),
            int(counted.sum()),
            self._least_noise(overall_at),
            rows.standard_error is not None,
            len(rows.feature_names),
            np.array(rows.feature_names, dtype=object),
            parameters_of_recipe(self.options),
        )

    def _with_groups(self, specification, groups: Iterable[GroupFactor]):
        factors = tuple(
            replace(factor, source=source, groups=labels)
            for factor, source, labels in zip(specification.factors, self.rows.sources, groups, strict=False)
        )
        return replace(specification, factors=factors)

    def _by_group(self, name: str, codes, at, n_groups: int) -> np.ndarray:
        return np.bincount(codes[at], weights=as_numbers(self.found.rows, name)[at], minlength=n_groups)

    def _total(self, name: str, at) -> float:
        return float(self.found.total(name)[at].sum())

    def _least_noise(self, at) -> float:
        if self.rows.standard_error is not None:
            return float(np.sqrt(self.found.total("least")[at].min()))
        return 1.0 if self.rows.weight is None else float(self.found.total("most")[at].max() ** -0.5)

    def _collected(self, codes, at, overall_at, n_groups: int, copies: np.ndarray) -> CentredSums:
        design, query = self.query.design, self.query
        columns, varying = [*design.common, design.y], design.varying
        n_groups = n_groups if varying else 0

        def product(a: int, b: int, of: Any) -> Any:
            name = f"p{min(a, b)}_{max(a, b)}"
            plain = a == b == ONES and self.rows.weight is None and self.rows.standard_error is None
            return of("rows" if plain else name)

        def of_groups(name: str) -> np.ndarray:
            return self._by_group(name, codes, at, n_groups)

        n_rows = float(as_numbers(self.found.rows, "rows")[at].sum())

        def of_all(name: str) -> float:
            return n_rows if name == "rows" else self._total(name, overall_at)

        q, p1 = len(varying), len(columns)
        zz, zx, xx = np.zeros((q, q, n_groups)), np.zeros((q, p1, n_groups)), np.empty((p1, p1))
        for k, a in enumerate(varying):
            for m, b in enumerate(varying[: k + 1]):
                zz[k, m] = zz[m, k] = product(a, b, of_groups)
            for m, b in enumerate(columns):
                zx[k, m] = product(a, b, of_groups)
        for k, a in enumerate(columns):
            for m, b in enumerate(columns[: k + 1]):
                xx[k, m] = xx[m, k] = product(a, b, of_all)
        n = float(copies.sum())
        known = self.rows.standard_error is not None
        log_weight = self._total("log_weight", overall_at) if known else 0.0
        sums = GroupSums(zz, zx, xx, n, log_weight, copies if varying else np.zeros(0))
        centre, origin = query.centre, np.append(0.0, query.origin)

        def totals(of_columns) -> np.ndarray:
            names = [query.names_of_moments(k) if k else None for k in of_columns]
            return np.array(
                [[n if each is None else self._total(each[i], overall_at) for each in names] for i in (0, 1)]
            )

        intercept = varying_intercept(self.rows.specification.factors[0]) if varying else None
        return centred_sums(
            sums,
            totals(columns),
            totals(varying),
            centre[list(design.common)],
            float(centre[design.y]),
            self.rows.specification.has_intercept,
            None if intercept is None else centre[list(varying)],
            intercept,
            self._total("error_squares", overall_at) if known else 0.0,
            column_origin=origin[columns],
            varying_origin=origin[list(varying)],
        )
