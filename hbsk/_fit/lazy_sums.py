"""Sums over groups of a lazy frame, by its own engine: one GROUP BY, of which one row a group comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from hbsk._data.labels import GroupFactor
from hbsk._data.lazy import as_numbers, as_table
from hbsk._data.sources import FactorSource, label_columns, where_labels_stand
from hbsk._engine.sums import CentredSums, GroupSums, centred_sums
from hbsk._fit.lazy_query import Found, Query, ask_sums, design_of
from hbsk._model.centres import varying_intercept
from hbsk._model.frame import ModelFrame
from hbsk._model.lazy_frame import LazyRows
from hbsk._model.options import Options
from hbsk.sufficient_statistics import SufficientStatistics, parameters_of_recipe

# Numbers that may come back, 4 GB.
MOST_NUMBERS = 5e8


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
    query, found = ask_sums(rows, fold)
    return _Assembly(options, rows, query, found, deal).by_fold()


def refuse_too_many_sums(rows: LazyRows, fold: str | None) -> None:
    """Raise where more would come back than memory holds, by a count of what there is to come."""
    design = design_of(rows)
    n_sums = len(design.by_group | design.overall if fold in rows.group_columns else design.by_group)
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


@dataclass(frozen=True)
class _Assembly:
    """Sums of each fold from what came back."""

    options: Options
    rows: LazyRows
    query: Query
    found: Found
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
            return of(query.name_of_product(a, b))

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
