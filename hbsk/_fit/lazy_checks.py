"""Rows of a lazy frame that no model can take: counted in the query of the sums, told apart where there are any.

``sum()`` skips nulls where ``len()`` counts, a NaN is null on some engines only, and an infinity spreads: rows are
counted as whole by one condition that holds on every engine for whole rows alone.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import reduce

import narwhals.stable.v2 as nw

from hbsk._data.checks import LARGEST_ERROR, SMALLEST_ERROR
from hbsk._data.lazy import as_numbers
from hbsk._messages import listed
from hbsk._model.expressions import columns_in, label
from hbsk._model.lazy_columns import TEXT, LazyReader, finite, total
from hbsk._model.lazy_frame import LazyRows


def beside_numbers(rows: LazyRows) -> dict[str, nw.Expr]:
    """Return what tells of rows that cannot be taken, besides the columns of the model being finite.

    Returns
    -------
    columns : dict of str to Expr
        "beside..." are numbers to be finite, "ok..." conditions.
    """
    reader = _reader(rows)
    columns = {}
    for k, name in enumerate(_read_inside(rows)):
        # where a comparison makes of a NaN or null what is no number
        if reader.kind(name) == TEXT:
            columns[f"ok{k}"] = ~reader.raw(name).is_null()
        else:
            columns[f"beside{k}"] = reader.raw(name).cast(nw.Float64)
    if rows.weight is not None:
        columns["ok_weight"] = rows.weight > 0
    if rows.standard_error is not None:
        columns["ok_error"] = _known(rows.standard_error)
    return columns


def whole(numbers: Sequence[str], conditions: Sequence[str]) -> nw.Expr:
    """Return 1.0 for rows that can be taken, 0.0 for others.

    Parameters
    ----------
    numbers, conditions : sequence of str
        Columns that must be finite, and those that must be true.
    """
    # the sum of numbers that are finite, of sizes that squares can be taken of, is finite
    is_finite = finite(total([nw.col(name) for name in numbers]))
    return _marked(reduce(operator.and_, [is_finite, *(nw.col(name) for name in conditions)]))


def raise_for_bad_rows(rows: LazyRows, n_rows: int) -> None:
    """Ask which columns have rows that are not whole, and raise an error that counts them.

    Parameters
    ----------
    rows : LazyRows
    n_rows : int
        Rows of the frame, without those of weight 0.
    """
    marks = _marks(rows)
    query = rows.table.frame.select(**{f"m{k}": _marked(condition) for k, (_, condition) in enumerate(marks)})
    found = rows.table.ask("rows that are no numbers", query.select(nw.all().sum()))
    bad = []
    for k, (text, _) in enumerate(marks):
        n_bad = n_rows - round(float(as_numbers(found, f"m{k}")[0]))
        if n_bad:
            bad.append(text.format(n_bad))
    raise ValueError(
        f"Of {n_rows} rows of the lazy frame {listed(bad, 10) if bad else 'some are not finite together'}. Fill them "
        "in, or filter these rows out, before fit."
    )


def _marks(rows: LazyRows) -> list[tuple[str, nw.Expr]]:
    """Return what may be wrong with a column, and the condition that it is not."""
    reader, recipe = _reader(rows), rows.specification.recipe
    marks = []
    for name in rows.specification.feature_names:
        column = f"column {recipe.bindings.get(name, name)!r}"
        if reader.kind(name) == TEXT:
            marks.append((f"{{}} have no value in {column}", ~reader.raw(name).is_null()))
        else:
            marks.append((f"{{}} have null, NaN or infinity in {column}", finite(reader.raw(name).cast(nw.Float64))))
    for component in recipe.components():
        expression = component.expression
        if component.levels is not None:
            coded = reader.levels_of(expression)
            known = coded.is_in(list(component.levels)) | coded.is_null()
            marks.append((f"{{}} have a level of {label(expression)!r} that the model does not know", known))
        elif columns_in(expression) != [label(expression)]:
            finite_term = finite(reader.read(expression).numbers)
            marks.append((f"{{}} have a term {label(expression)!r} that is not finite", finite_term))
    marks += [
        (f"{{}} have a term {label(offset)!r} that is not finite", finite(reader.read(offset).numbers))
        for offset in recipe.offsets
    ]
    y = nw.col(rows.response).cast(nw.Float64)
    marks.append((f"{{}} have null, NaN or infinity in y, column {rows.response!r}", finite(y)))
    if rows.weight is not None:
        text = f"{{}} have a sample_weight, column {rows.sample_weight!r}, that is null, NaN, infinite or negative"
        marks.append((text, finite(rows.weight) & (rows.weight > 0)))
    if rows.standard_error is not None:
        limits = f"not between {SMALLEST_ERROR} and {LARGEST_ERROR}"
        text = f"{{}} have a standard_error, column {rows.standard_error!r}, that is null, NaN or {limits}"
        marks.append((text, _known(rows.standard_error)))
    return list(dict(marks).items())


def _marked(condition: nw.Expr) -> nw.Expr:
    """Return 1.0 where a condition holds; 0.0 where it does not, or is null."""
    return nw.when(condition).then(nw.lit(1.0)).otherwise(nw.lit(0.0))


def _known(standard_error: str) -> nw.Expr:
    error = nw.col(standard_error).cast(nw.Float64)
    return finite(error) & (error >= SMALLEST_ERROR) & (error <= LARGEST_ERROR)


def _reader(rows: LazyRows) -> LazyReader:
    recipe = rows.specification.recipe
    return LazyReader(rows.table.schema, recipe.bindings, recipe.states)


def _read_inside(rows: LazyRows) -> list[str]:
    """Return the names that stand inside of calls and operations."""
    recipe = rows.specification.recipe
    plain = {component.plain_column for component in recipe.components()}
    return [name for name in rows.specification.feature_names if name not in plain]
