"""The two routes of group labels: columns of X, and `groups=`; finding them, or saying why they are not there."""

from __future__ import annotations

import numbers
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd

from hbsk._data.labels import Values
from hbsk._data.table import Table, label_column, refuse_lazy
from hbsk._messages import quoted, shown

GROUPS = "groups"
LONGEST_SHOWN = 80  # characters of a value in a message


@dataclass(frozen=True)
class FactorSource:
    """Where the labels of one grouping factor are found.

    Parameters
    ----------
    name : str
        Name of the factor: "county", "school:class", "groups".
    columns : tuple of str or None
        Columns that hold the labels; several make an interaction with tuples for labels. None stands for the labels
        given by `groups=` themselves.
    keyword : bool, default=False
        Whether `columns` are columns of the frame given by `groups=` rather than of X.
    """

    name: str
    columns: tuple[str, ...] | None
    keyword: bool = False

    @property
    def from_keyword(self) -> bool:
        """True where the labels arrive by `groups=`."""
        return self.keyword or self.columns is None


def default_sources(table: Table, group_features: Any, keyword: dict[str, Values]) -> list[FactorSource]:
    if group_features is None:
        return [FactorSource(name, None if name == GROUPS else (name,), keyword=True) for name in keyword]
    if keyword:
        raise ValueError(
            f"Groups were given twice: group_features={shown(group_features)} and groups=. Use one of the two."
        )
    return group_feature_sources(table, group_features)


def group_feature_sources(table: Table, group_features: Any) -> list[FactorSource]:
    """Make one FactorSource for each column named in `group_features`.

    An integer is a position, negative ones counted from the end, whatever the names of a frame's columns are; a string
    is a name ("x0", "x1", ... where the columns have none). A column that was renamed on the way, as ColumnTransformer
    does ("remainder__school"), is found by its ending where only one column ends so; the factor keeps the short name.
    """
    columns = selected_columns(group_features, table.names, "group_features")
    if not columns:
        raise ValueError("group_features is empty. Name at least one column of X, or leave it out (None).")
    return [FactorSource(asked, (column,)) for asked, column in columns.items()]


def selected_columns(selector: Any, columns: Sequence[str], argument: str) -> dict[str, str]:
    """Return the columns that a name, a position, a list of these or a boolean mask selects, by the name asked for.

    Raises
    ------
    ValueError, TypeError
        For a name or position that X does not have, a repeated column, or another type.
    """
    single = isinstance(selector, str) or not isinstance(selector, Iterable)
    if isinstance(selector, Set | Mapping):
        raise TypeError(
            f"{argument}={shown(selector)} is a {type(selector).__name__}, which has no order of columns to rely on. "
            "Give a name (str) or a position (int), or a list of these."
        )
    items = [selector] if single else _names_in_mask(list(selector), columns, argument)
    asked, found = [], []
    for item in items:
        if isinstance(item, bool | np.bool_) or not isinstance(item, str | numbers.Integral):
            raise TypeError(
                f"{argument} takes names (str) or positions (int) of columns of X, a list of these, or one boolean "
                f"for every column; got {shown(item)}."
            )
        if isinstance(item, str):
            found.append(find_column(columns, item, argument))
            asked.append(str(item))
            continue
        position = int(item)
        if not -len(columns) <= position < len(columns):
            raise ValueError(
                f"{argument}={shown(selector)}: X has no column at position {position}; it has {len(columns)} "
                f"columns, so positions go from {-len(columns)} to {len(columns) - 1}. A transformer before this step "
                f"may have dropped or moved columns. {_width(columns)}"
            )
        found.append(columns[position])
        asked.append(found[-1])
    if len(set(found)) < len(found):
        raise ValueError(f"{argument}={shown(selector)} names a column of X twice.")
    return dict(zip(asked, found, strict=True))


def _names_in_mask(items: list, columns: Sequence[str], argument: str) -> list:
    """Return the columns that a list of booleans, one for every column, marks; any other list as it is."""
    if not items or not all(isinstance(item, bool | np.bool_) for item in items):
        return items
    if len(items) != len(columns):
        raise ValueError(
            f"{argument} is a mask of {len(items)} booleans, and X has {len(columns)} columns; give one for every "
            "column."
        )
    return [name for name, wanted in zip(columns, items, strict=True) if wanted]


def find_column(columns: Sequence[str], name: str, argument: str) -> str:
    """Find the column of X called `name`, or the only one that ends in `__name`; else list the columns that arrived."""
    if name in columns:
        return name
    renamed = [column for column in columns if column.endswith(f"__{name}")]
    if len(renamed) == 1:
        return renamed[0]
    arrived = quoted(columns)
    if renamed:
        raise ValueError(
            f"{argument}: {shown(name)} could be any of {quoted(renamed)}. Columns that arrived: {arrived}."
        )
    raise ValueError(
        f"{argument}: X has no column {shown(name)}. Columns that arrived: {arrived}. {_why_missing(columns, name)} "
        f"{_width(columns)}"
    )


def _why_missing(columns: Sequence[str], name: str) -> str:
    """Say what may have become of a column, and the cure."""
    if all(re.fullmatch(r"x\d+", column) for column in columns):
        return (
            "They came without names, as a transformer's array: give the position, or keep names by "
            '.set_output(transform="pandas") on what comes before, with OneHotEncoder(sparse_output=False) where there '
            "is one; or leave the encoder out: the PartialPooling estimators code text columns for you."
        )
    if sum(column.startswith(f"{name}_") or f"__{name}_" in column for column in columns) > 1:
        return (
            "An encoder before this step seems to have made columns of its levels: let the labels pass as they are "
            '(remainder="passthrough", or no encoder: text columns are coded for you).'
        )
    return "A transformer before this step may have renamed or dropped it."


def _width(columns: Sequence[str]) -> str:
    """Say how many columns there are, in the words that scikit-learn looks for (`check_fit2d_1feature`)."""
    return f"X has n_features = {len(columns)}."


def resolve_source(source: FactorSource, table: Table, keyword: dict[str, Values]) -> FactorSource:
    """Replace the names of columns by those of the columns that are there."""
    if source.columns is None or source.columns == (GROUPS,):
        if GROUPS in keyword:
            return FactorSource(source.name, None, keyword=True)
        if GROUPS in table.names:
            return FactorSource(source.name, (GROUPS,))
        if source.keyword and source.columns is not None and set(source.columns) <= set(keyword):
            return source
        raise ValueError(
            f"The model has the grouping factor {source.name!r}, but groups= was not given and X has no column "
            f"{GROUPS!r}. Pass groups= to fit, or name a column of X in its place. Columns that arrived: "
            f"{quoted(table.names)}."
        )
    in_keyword = [column in keyword for column in source.columns]
    if all(in_keyword):
        return FactorSource(source.name, source.columns, keyword=True)
    if any(in_keyword):
        raise ValueError(
            f"The factor {source.name!r} takes one part from groups= and another from X. Put all of its columns into "
            "one of the two."
        )
    argument = f"grouping factor {source.name!r}"
    return FactorSource(source.name, tuple(find_column(table.names, column, argument) for column in source.columns))


def label_columns(source: FactorSource, table: Table, keyword: dict[str, Values]) -> list[Values]:
    if source.columns is None:
        return [keyword[GROUPS]]
    if source.keyword:
        return [keyword[column] for column in source.columns]
    return [table.labels(column) for column in source.columns]


def read_keyword(groups: Any, table: Table) -> dict[str, Values]:
    """Read the labels given by `groups=`, by name.

    One label per row is named `groups`, frames keep their names, the columns of a 2-D array are groups_0, groups_1, ...
    """
    if groups is None:
        return {}
    refuse_lazy(groups, "groups")
    columns = _keyword_columns(groups)
    for name, labels in columns.items():
        if len(labels) != table.n_rows:
            raise ValueError(f"groups= has {len(labels)} labels, but X has {table.n_rows} rows.")
        if name in table.names:
            raise ValueError(
                f"Groups were given twice: X has a column {shown(name)} and groups= holds labels of that name. Leave "
                "one of them out, or rename the column."
            )
    return columns


def _keyword_columns(groups: Any) -> dict[str, Values]:
    if isinstance(groups, (str, bytes, Mapping, Set)) or not hasattr(groups, "__len__"):
        got = shown(groups) if len(shown(groups)) <= LONGEST_SHOWN else f"a {type(groups).__name__}"
        raise TypeError(
            f"groups= takes labels, one for each row of X; got {got}. A column of X is named by group_features=."
        )
    if nw.dependencies.is_into_dataframe(groups):
        if isinstance(groups, pd.DataFrame):
            columns: list[Values] = [groups.iloc[:, j] for j in range(groups.shape[1])]
            names = list(groups.columns)
        else:
            frame = nw.from_native(groups, eager_only=True)
            names, columns = frame.columns, [label_column(frame.get_column(name)) for name in frame.columns]
        return _named(columns, names if all(isinstance(name, str) for name in names) else None)
    if nw.dependencies.is_into_series(groups) and not isinstance(groups, pd.Series):
        return {GROUPS: label_column(nw.from_native(groups, series_only=True))}
    if isinstance(groups, pd.Series):
        return {GROUPS: groups}
    if isinstance(groups, (pd.Index, pd.api.extensions.ExtensionArray)):
        return {GROUPS: pd.Series(groups)}
    array = _label_array(groups)
    if array.ndim == 1:
        return {GROUPS: array}
    if array.ndim == 2:
        return _named([array[:, j] for j in range(array.shape[1])], None)
    raise ValueError(f"groups= must be 1-D, or 2-D for several factors; got an array of shape {array.shape}.")


def _named(columns: list[Values], names: list[str] | None) -> dict[str, Values]:
    if not columns:
        raise ValueError("groups= is a frame or array without columns.")
    if names is None:
        names = [GROUPS] if len(columns) == 1 else [f"{GROUPS}_{j}" for j in range(len(columns))]
    if len(set(names)) < len(names):
        raise ValueError(f"groups= has two columns of one name: {quoted(names)}.")
    return dict(zip(names, columns, strict=True))


def _label_array(groups: Any) -> np.ndarray:
    """Make an array in which text stays text and numbers stay numbers; a list of tuples is a list of labels."""
    if isinstance(groups, np.ndarray):
        return groups
    if isinstance(groups, (list, tuple)):
        if any(isinstance(label, tuple) for label in groups):
            return np.fromiter(groups, dtype=object, count=len(groups))
        array = np.asarray(groups)
        return array if array.dtype.kind in "biuf" else np.asarray(groups, dtype=object)
    return np.asarray(groups)


def where_labels_stand(source: FactorSource) -> str:
    """Name the labels of a factor, for the beginning of a message."""
    if source.columns is None:
        return "groups="
    if source.keyword:
        return f"groups= (column {quoted(source.columns)})"
    return f"Group column{'s' if len(source.columns) > 1 else ''} {quoted(source.columns)} of X"
