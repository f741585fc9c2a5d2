"""Group labels to integer codes and back.

Two labels are one group when Python says they are equal: 1, 1.0 and True are one label, "1" is another. Missing labels
(None, NaN, NaT, pandas.NA) are no labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hbsk._data.texts import distinct_texts
from hbsk._messages import shown

Values = np.ndarray | pd.Series
_LARGEST_INT64 = 2**63
_FEW_ROWS = 64
_SORTABLE = {"string", "bytes", "integer", "floating", "mixed-integer-float", "boolean", "decimal"} | {
    "datetime", "datetime64", "date", "timedelta", "timedelta64", "time", "period",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class GroupFactor:
    """The labels a grouping factor had in fit; small, picklable, and all that predict needs.

    Parameters
    ----------
    name : str
        Name of the factor.
    labels : ndarray of shape (n_groups,)
        Distinct labels: in the order of their categories where these have one (an ordered Categorical), sorted where
        they sort, else in order of first appearance. Of the dtype they came in where that
        is numeric, else of dtype object. Labels of an interaction `a:b` are tuples.
    """

    name: str
    labels: np.ndarray

    @classmethod
    def learn(cls, name: str, columns: Sequence[Values]) -> tuple[GroupFactor, np.ndarray]:
        """Factor and codes, shape (n_rows,), of training labels; code -1 marks a missing label.

        Parameters
        ----------
        name : str
            Name of the factor.
        columns : sequence of 1-D columns
            One column, or several for an interaction, whose labels are then tuples.
        """
        codes, labels = _factorize_of(name, columns)
        if len(columns) == 1:
            codes, labels = _in_order(columns[0], codes, labels)
        return cls(name, labels), codes

    @property
    def n_groups(self) -> int:
        """Number of groups seen in fit."""
        return len(self.labels)

    def encode(self, columns: Values | Sequence[Values]) -> np.ndarray:
        """Codes of shape (n_rows,): 0..J-1 for known labels, J and up for the others.

        Each distinct unseen label has its own code, shared by its rows; each missing label is a new group of its own.
        """
        columns = [columns] if isinstance(columns, np.ndarray | pd.Series) else list(columns)
        if len(columns) == 1 and len(columns[0]) <= _FEW_ROWS:
            codes = self._encode_few(columns[0])
            if codes is not None:
                return codes
        if len(columns) == 1 and self.labels.dtype == object:
            known = self._encode_known(columns[0])
            new = known < 0
            if not new.all():
                if new.any():
                    known[new] = self.encode(columns[0][new])
                return known
        codes, labels = _factorize_of(self.name, columns)
        positions = self._positions(labels)
        unseen = np.flatnonzero(positions < 0)
        positions[unseen] = self.n_groups + np.arange(len(unseen))
        if len(codes) and codes.min() < 0:
            missing = codes < 0
            codes = positions[codes] if len(positions) else np.empty(len(codes), dtype=np.int64)
            codes[missing] = self.n_groups + len(unseen) + np.arange(np.count_nonzero(missing))
            return codes
        return positions[codes]

    def union(self, other: GroupFactor) -> tuple[GroupFactor, np.ndarray, np.ndarray]:
        """Return the factor of the labels of both, and the codes there of those of each.

        Labels that this factor does not sort, such as ordered categories, keep its order; new ones follow.
        """
        codes = self.encode([other.labels]) if other.n_groups else np.zeros(0, dtype=np.int64)
        own = np.arange(self.n_groups)
        if (codes < self.n_groups).all():
            return self, own, codes
        new = other.labels[codes >= self.n_groups]
        labels = _plain_labels(np.concatenate([self.labels.astype(object), new.astype(object)]))
        codes[codes >= self.n_groups] = self.n_groups + np.arange(len(new))
        before, order = _order(self.labels), _order(labels)
        if before is None or (before[1:] > before[:-1]).all():
            if order is not None:
                rank = np.argsort(order)
                return GroupFactor(self.name, labels[order]), rank[own], rank[codes]
        elif labels.dtype.kind in "biuf":
            labels = labels.astype(object)  # arrays of numbers are searched as sorted ones
        return GroupFactor(self.name, labels), own, codes

    def only(self, kept: np.ndarray) -> GroupFactor:
        """Return the factor of some of the labels."""
        return GroupFactor(self.name, self.labels[kept])

    def _encode_few(self, values: Values) -> np.ndarray | None:
        """Codes of a few known numbers or texts without the cost of factorizing; None where that is not the case."""
        if isinstance(values, np.ndarray) and values.dtype.kind in "biuf" and self.labels.dtype.kind in "biuf":
            codes = _numeric_positions(self.labels, values)
            return None if (codes < 0).any() else codes
        texts = values.tolist()
        if not all(type(text) is str for text in texts):
            return None
        found = [self._lookup().get(text) for text in texts]
        return None if None in found else np.array(found, dtype=np.int64)

    def _encode_known(self, values: Values) -> np.ndarray:
        """Codes of known labels that are no numbers, -1 for others; no list of the distinct ones is made."""
        index: Any = self.__dict__.get("_index_of_labels")
        if index is None:
            index = pd.Index(self.labels, dtype=object, tupleize_cols=False)
            object.__setattr__(self, "_index_of_labels", index)
        if isinstance(values.dtype, pd.StringDtype):  # distinct ones are found before any is made a Python string
            codes, distinct = pd.factorize(values)
            return np.append(self._encode_known(np.asarray(distinct, dtype=object)), -1)[codes]
        try:
            # without a dtype pandas would look at all of them, and make text of another kind of text and back
            wanted = pd.Index(np.asarray(values, dtype=object), dtype=object, tupleize_cols=False)
            return index.get_indexer(wanted).astype(np.int64, copy=False)
        except TypeError:  # labels that cannot be hashed
            return np.full(len(values), -1, dtype=np.int64)

    def _positions(self, labels: np.ndarray) -> np.ndarray:
        """Where each label stands in `self.labels`, -1 for those that do not."""
        if labels.dtype.kind in "biuf" and self.labels.dtype.kind in "biuf":
            return _numeric_positions(self.labels, labels)
        lookup = self._lookup()
        return np.fromiter((lookup.get(label, -1) for label in labels.tolist()), dtype=np.int64, count=len(labels))

    def _lookup(self) -> dict[Any, int]:
        # Built on first use, never pickled: it is as large as the labels and takes no time to rebuild.
        lookup = self.__dict__.get("_codes_of_labels")
        if lookup is None:
            lookup = {label: code for code, label in enumerate(self.labels.tolist())}
            object.__setattr__(self, "_codes_of_labels", lookup)
        return lookup

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "labels": self.labels}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for key, value in state.items():
            object.__setattr__(self, key, value)


# ---------------------------------------------------------------------------------------------------------------------
# Labels to codes


def group_names(labels) -> list[str]:
    """Return labels as distinct texts, for coordinates and variables; those of an interaction are joined by a colon."""
    names = [":".join(map(str, label)) if isinstance(label, tuple) else str(label) for label in labels]
    if len(set(names)) < len(names):
        names = [shown(label) for label in labels]
    if len(set(names)) < len(names):
        names = [f"{name} ({j})" for j, name in enumerate(names)]
    return names


def factorize(values: Values) -> tuple[np.ndarray, np.ndarray]:
    """Integer codes of labels, and the distinct labels; code -1 marks a missing label.

    Parameters
    ----------
    values : ndarray or Series of shape (n_rows,)
        Labels of any hashable kind.

    Returns
    -------
    codes : ndarray of shape (n_rows,), int64
        Position of each row's label in `labels`.
    labels : ndarray
        Distinct labels that occur, numeric dtypes kept, everything else dtype object.

    Raises
    ------
    TypeError
        If a label is not hashable.
    ValueError
        If a label is infinite.
    """
    if isinstance(values, pd.Series):
        if isinstance(values.dtype, pd.CategoricalDtype):
            return _factorize_categories(values)
        if isinstance(values.dtype, pd.StringDtype):
            codes, texts = distinct_texts(values)
            return codes.astype(np.int64, copy=False), np.array(texts, dtype=object)
        values = _native(values)
    if isinstance(values, np.ndarray):
        kind = values.dtype.kind
        if kind in "iub":
            return _factorize_integers(values)
        if kind == "f":
            return _factorize_floats(values)
        if kind in "Mm":
            values = pd.Series(values)
        elif kind == "U":
            values = values.astype(object)
    try:
        codes, labels = pd.factorize(values)
    except TypeError as error:
        raise TypeError(
            f"A group label argument must be a string, a number or another hashable value: {error}."
        ) from error
    return codes.astype(np.int64, copy=False), _plain_labels(labels)


def _native(values: pd.Series) -> Values:
    """NumPy numbers of a Series that has no missing value in a nullable dtype; others as they are or as objects."""
    dtype = values.dtype
    if isinstance(dtype, pd.SparseDtype):
        return np.asarray(values)
    if isinstance(dtype, np.dtype):
        return values if dtype.kind in "Mm" else values.to_numpy()
    if pd.api.types.is_bool_dtype(dtype) or pd.api.types.is_numeric_dtype(dtype):
        if not values.hasnans:
            return values.to_numpy()
        return values.to_numpy(dtype=object)
    return values


def _factorize_categories(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    categories = values.cat.codes.to_numpy()
    missing = categories < 0
    codes, used = pd.factorize(categories[~missing] if missing.any() else categories)
    codes = _with_missing(codes.astype(np.int64, copy=False), missing if missing.any() else None)
    labels = values.cat.categories[used]
    native = _native(pd.Series(labels))
    if isinstance(native, np.ndarray) and native.dtype.kind in "biuf":
        if native.dtype.kind == "f":
            _refuse_infinite(native)
        return codes, native
    return codes, _plain_labels(labels)


def _factorize_integers(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes by direct look-up where the labels span a small range, else by hashing."""
    if len(values) == 0:
        return np.empty(0, dtype=np.int64), values
    if values.dtype.kind == "b":
        codes, labels = _factorize_integers(values.view(np.uint8))
        return codes, labels.astype(bool)
    low, high = values.min(), values.max()
    span = int(high) - int(low) + 1
    if span > 4 * len(values) + 1024:
        codes, labels = pd.factorize(values)
        return codes.astype(np.int64, copy=False), labels
    # Narrow dtypes overflow in the difference, wide unsigned ones do not fit an index.
    places = values if low == 0 and values.dtype == np.int64 else _shifted(values, int(low))
    seen = np.zeros(span, dtype=bool)
    seen[places] = True
    table = np.cumsum(seen, dtype=np.int64) - 1
    labels = np.flatnonzero(seen)
    labels = labels.astype(values.dtype) + low if low >= 0 else (labels + int(low)).astype(values.dtype)
    return table[places], labels


def _shifted(values: np.ndarray, low: int) -> np.ndarray:
    if values.dtype.kind == "u" and values.dtype.itemsize == 8:
        return (values - np.uint64(low)).astype(np.int64)
    return values.astype(np.int64) - low


def _factorize_floats(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    dtype = values.dtype
    missing = None
    if not np.isfinite(values.sum(dtype=np.float64)):
        _refuse_infinite(values)
        missing = np.isnan(values)
        if not missing.any():
            missing = None
    present = values if missing is None else values[~missing]
    if len(present) and max(-float(present.min()), float(present.max())) < 2**53:
        integers = present.astype(np.int64)
        if np.array_equal(integers, present):
            codes, labels = _factorize_integers(integers)
            return _with_missing(codes, missing), labels.astype(dtype)
    codes, labels = pd.factorize(present)
    return _with_missing(codes.astype(np.int64, copy=False), missing), labels


def _with_missing(codes: np.ndarray, missing: np.ndarray | None) -> np.ndarray:
    if missing is None:
        return codes
    full = np.full(len(missing), -1, dtype=np.int64)
    full[~missing] = codes
    return full


def _refuse_infinite(values: np.ndarray) -> None:
    if np.isinf(values).any():
        raise ValueError(
            f"Group labels contain infinity (inf), {np.count_nonzero(np.isinf(values))} times; give these rows a label."
        )


def _plain_labels(labels: Any) -> np.ndarray:
    """Distinct labels as an object array of Python values, or as a numeric array where all are of one numeric kind."""
    labels = np.asarray(labels.astype(object) if hasattr(labels, "categories") else labels, dtype=object)
    types = set(map(type, labels))
    if any(issubclass(t, np.generic) for t in types):
        plain = [label.item() if isinstance(label, np.generic) else label for label in labels]
        labels = np.fromiter(plain, dtype=object, count=len(plain))
        types = set(map(type, labels))
    if types == {bool}:
        return labels.astype(bool)
    if types == {int} and max(labels) < _LARGEST_INT64 and min(labels) >= -_LARGEST_INT64:
        return labels.astype(np.int64)
    if types == {float}:
        _refuse_infinite(labels.astype(np.float64))
        return labels.astype(np.float64)
    return labels


def distinct_labels(name: str, columns: Values | Sequence[Values]) -> np.ndarray:
    """Return the labels that occur in some rows, missing ones left out, in order of appearance or sorted."""
    columns = [columns] if isinstance(columns, np.ndarray | pd.Series) else list(columns)
    return _factorize_of(name, columns)[1]


def _factorize_of(name: str, columns: Sequence[Values]) -> tuple[np.ndarray, np.ndarray]:
    """`_factorize_columns` with the name of the factor in its errors."""
    try:
        return _factorize_columns(columns)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"Grouping factor {name!r}: {error}") from error


def _factorize_columns(columns: Sequence[Values]) -> tuple[np.ndarray, np.ndarray]:
    """`factorize` of one column, or of the rows of several, whose labels are tuples, sorted part by part."""
    if len(columns) == 1:
        return factorize(columns[0])
    parts = [_in_order(column, *factorize(column)) for column in columns]
    keys = np.zeros(len(parts[0][0]), dtype=np.int64)
    missing = np.zeros(len(keys), dtype=bool)
    for codes, labels in parts:
        missing |= codes < 0
        keys = keys * max(len(labels), 1) + codes
        # Renumbering after each column keeps keys below n_rows * n_labels, which cannot overflow.
        found, distinct = _factorize_integers(keys[~missing])
        keys[~missing] = _sort_labels(found, distinct)[0]
    rows = np.flatnonzero(~missing)
    first = np.full(int(keys[rows].max()) + 1 if len(rows) else 0, -1, dtype=np.int64)
    first[keys[rows][::-1]] = rows[::-1]
    tuples = list(zip(*(labels[codes[first]].tolist() for codes, labels in parts), strict=True))
    keys[missing] = -1
    return keys, np.fromiter(tuples, dtype=object, count=len(tuples))


def _in_order(column: Values, codes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels in the order that their column gives them, else sorted; with the codes to match."""
    dtype = getattr(column, "dtype", None)
    if not isinstance(dtype, pd.CategoricalDtype) or not dtype.ordered:
        return _sort_labels(codes, labels)
    places = dtype.categories.get_indexer(pd.Index(labels, dtype=dtype.categories.dtype))
    if labels.dtype.kind in "biuf" and (np.diff(labels[np.argsort(places)]) < 0).any():
        labels = labels.astype(object)  # arrays of numbers are searched as sorted ones
    return _permuted(codes, labels, np.argsort(places))


def _sort_labels(codes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels in their order, where they have one, with the codes to match."""
    order = _order(labels)
    return (codes, labels) if order is None else _permuted(codes, labels, order)


def _permuted(codes: np.ndarray, labels: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rank = np.empty(len(order) + 1, dtype=np.int64)
    rank[order] = np.arange(len(order))
    rank[-1] = -1  # a missing label stays missing
    return rank[codes], labels[order]


def _order(labels: np.ndarray) -> np.ndarray | None:
    """Find the sorting permutation; None where labels are in order already or cannot be ordered."""
    if labels.dtype.kind in "biuf":
        if labels.dtype.kind == "b":
            labels = labels.view(np.uint8)
        return None if len(labels) < 2 or (labels[1:] > labels[:-1]).all() else np.argsort(labels)
    # Comparing is not enough: sets compare with each other and still have no order.
    if pd.api.types.infer_dtype(labels, skipna=False) not in _SORTABLE and not _are_tuples_of_one_kind(labels):
        return None
    items = labels.tolist()
    try:
        return np.array(sorted(range(len(items)), key=items.__getitem__), dtype=np.int64)
    except TypeError:
        return None


def _are_tuples_of_one_kind(labels: np.ndarray) -> bool:
    if not len(labels) or not all(isinstance(label, tuple) for label in labels):
        return False
    return all(isinstance(part, str | int | float) for label in labels for part in label)


# ---------------------------------------------------------------------------------------------------------------------
# Codes of new labels


def _numeric_positions(labels: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Positions of the numbers `keys` in the sorted numbers `labels`, -1 where absent; compared exactly."""
    labels, keys, comparable = _common_numbers(labels, keys)
    if len(labels) == 0:
        return np.full(len(comparable), -1, dtype=np.int64)
    positions = np.searchsorted(labels, keys)
    positions[positions == len(labels)] = 0
    return np.where(comparable & (labels[positions] == keys), positions, -1).astype(np.int64, copy=False)


def _common_numbers(labels: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both as int64 or both as float64 without loss, and which keys can be equal to a label at all."""
    comparable = np.ones(len(keys), dtype=bool)
    if labels.dtype == keys.dtype and labels.dtype in (np.int64, np.float64):
        return labels, keys, comparable
    if labels.dtype.kind == "f" and keys.dtype.kind == "f":
        return labels.astype(np.float64), keys.astype(np.float64), comparable
    if labels.dtype.kind == "f":
        # Above 2**53 a float64 stands for several integers, so the comparison must not be made among floats.
        integral = labels.astype(np.float64)
        exact = (integral == np.floor(integral)) & (np.abs(integral) < _LARGEST_INT64)
        if exact.all():
            labels = integral.astype(np.int64)
        else:
            floats = keys.astype(np.float64)
            fits = np.abs(floats) < _LARGEST_INT64
            comparable = fits & (np.where(fits, floats, 0.0).astype(np.int64) == keys)
            return integral, floats, comparable
    if keys.dtype.kind == "f":
        keys = keys.astype(np.float64)
        comparable = (keys == np.floor(keys)) & (np.abs(keys) < _LARGEST_INT64)
        keys = np.where(comparable, keys, 0.0)
    if keys.dtype == np.uint64:
        comparable = comparable & (keys < _LARGEST_INT64)
    if labels.dtype == np.uint64 and len(labels) and labels[-1] >= _LARGEST_INT64:
        # Labels beyond int64 exist only as uint64; negative keys are then no labels.
        comparable = comparable & (keys >= 0) if keys.dtype.kind != "u" else np.ones(len(keys), dtype=bool)
        return labels, np.where(comparable, keys, 0).astype(np.uint64), comparable
    return labels.astype(np.int64), np.where(comparable, keys, 0).astype(np.int64), comparable
