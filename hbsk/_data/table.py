"""X of any container as named columns, checked the way scikit-learn checks it, without copying numeric columns."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.utils import assert_all_finite
from sklearn.utils.validation import validate_data

from hbsk._data.texts import distinct_texts
from hbsk._messages import shown

ACCEPTED_COLUMNS = "numbers, booleans, strings or categories"
DROP_ROWS = "leave these rows out, of X too"

# Columns of few rows are looked at together where there are more of them.
FEW_COLUMNS, FEW_ROWS = 20, 1_000

_MISSING_TYPES = (type(None), type(pd.NA), type(pd.NaT))
_TEXT_TYPES = (str, np.str_)

Made = TypeVar("Made")


class Table:
    """Named columns of equal length; columns are made plain on first use and kept.

    Parameters
    ----------
    columns : mapping of str to column
        Columns as they arrived: ndarray, pandas Series or narwhals Series.
    n_rows : int
        Length of every column.
    index : pandas.Index, default=None
        Index of the rows, where they came in a pandas frame.
    """

    __slots__ = ("_cache", "_columns", "_index", "_made", "_parent", "index", "n_rows", "names")

    def __init__(self, columns: Mapping[str, Any], n_rows: int, index: pd.Index | None = None):
        self.names: tuple[str, ...] = tuple(columns)
        self.n_rows = n_rows
        self.index = index
        self._columns = columns
        self._cache: dict[str, np.ndarray | pd.Series] = {}
        self._made: dict[Hashable, Any] = {}
        self._parent: Table | None = None
        self._index: np.ndarray | None = None

    def __repr__(self) -> str:
        return f"Table({self.n_rows} rows, columns {list(self.names)})"

    def _raw(self, name: str) -> Any:
        if self._parent is None:
            return self._columns[name]
        return _take(self._parent._raw(name), self._index)

    def column(self, name: str) -> np.ndarray | pd.Series:
        """Give one column: ndarray for numbers and booleans, pandas Series for text and categories."""
        if name not in self._cache:
            if self._parent is None:
                self._cache[name] = plain_column(self._columns[name], name)
            else:
                self._cache[name] = _take(self._parent.column(name), self._index)
        return self._cache[name]

    def made(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Give what is made of the columns, once for each key and for as long as the table is kept."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def texts(self, name: str) -> tuple[np.ndarray, list[str]]:
        """Give codes of the rows of a column of text, -1 where it is missing, and its texts in order of appearance."""
        return self.made(("texts", name), lambda: distinct_texts(self.column(name)))

    def labels(self, name: str) -> np.ndarray | pd.Series:
        """Give one column as it arrived, for use as group labels: text stays text, missing stays missing."""
        return label_column(self._raw(name))

    def is_numeric(self, name: str) -> bool:
        """Tell whether a column holds numbers or booleans."""
        column = self.column(name)
        return isinstance(column, np.ndarray) and column.dtype.kind in "biuf"

    def numbers(self, name: str) -> np.ndarray:
        """Give one column that is known to hold numbers."""
        column = self.column(name)
        if not isinstance(column, np.ndarray):
            raise TypeError(f"Column {name!r} of X holds text or categories where numbers are needed.")
        return column

    def where(self, keep: np.ndarray) -> Table:
        """Keep the rows where the boolean mask `keep` is True."""
        view = Table(dict.fromkeys(self.names), int(np.count_nonzero(keep)))
        view._parent, view._index = self, np.flatnonzero(keep)
        return view

    def check_features(self, names: Iterable[str], estimator_name: str) -> None:
        """Raise for a missing or infinite value, or a dtype that is no feature, in any of the columns."""
        names, finite = list(names), set()
        if len(names) > FEW_COLUMNS and self.n_rows <= FEW_ROWS and isinstance(self._columns, _FrameColumns):
            finite = self._columns.finite()
        for name in names:
            if name in finite:
                continue
            column = self.column(name)
            if isinstance(column, np.ndarray):
                check_finite(column, "X", "impute them, or drop the rows", f"Column {name!r} of X: ")
            elif column.array.isna().any():
                raise ValueError(
                    f"Input X contains NaN: column {name!r} has {int(column.isna().sum())} missing values. "
                    f"{estimator_name} does not accept missing values in features; impute them or drop the rows."
                )


def _take(column: Any, index: np.ndarray | None) -> Any:
    """Rows of a column; Series of any library keep their type."""
    if index is None:
        return column
    if isinstance(column, pd.Series):
        return column.iloc[index]
    return column[index]


def check_finite(values: np.ndarray, argument: str, cure: str = DROP_ROWS, place: str = "") -> None:
    """scikit-learn's finiteness check, which sums first and only looks at every value when the sum is not finite.

    Of few numbers the sum takes a fifth of all that is looked up around it there.
    """
    kind = values.dtype.kind
    with np.errstate(over="ignore", invalid="ignore"):
        if kind in "biu" or (kind == "f" and np.isfinite(values.sum())):
            return
    try:
        assert_all_finite(values, input_name=argument)
    except ValueError as error:
        n = np.count_nonzero(pd.isna(values) if values.dtype.kind == "O" else ~np.isfinite(values))
        raise ValueError(
            f"{place}{str(error).splitlines()[0]} {n} of the {len(values)} values {'is' if n == 1 else 'are'} missing "
            f"or infinite: {cure}."
        ) from None


def refuse_missing_labels(y: np.ndarray) -> None:
    """Raise for labels in y that are None, NaN or NA."""
    if y.dtype.kind == "O" and (missing := pd.isna(y)).any():
        n = np.count_nonzero(missing)
        raise ValueError(f"Input y contains NaN or None: labels are missing in {n} of the {len(y)} rows; {DROP_ROWS}.")


# ---------------------------------------------------------------------------------------------------------------------
# One column


def label_column(column: Any) -> np.ndarray | pd.Series:
    """Give a column as ndarray or pandas Series; nothing is converted but the container."""
    if isinstance(column, nw.Series):
        return _narwhals_labels(column)
    return column


def _narwhals_labels(column: nw.Series) -> np.ndarray | pd.Series:
    dtype = column.dtype
    if (dtype.is_numeric() and not dtype.is_decimal()) or dtype == nw.Boolean:
        if column.null_count() == 0:
            return column.to_numpy()
        if dtype.is_float():
            return column.cast(nw.Float64).to_numpy()
    if dtype == nw.Categorical or dtype == nw.Enum:
        column = column.cast(nw.String)
    return pd.Series(np.fromiter(column.to_list(), dtype=object, count=len(column)), dtype=object)


def plain_column(column: Any, name: str) -> np.ndarray | pd.Series:
    """Bring a feature column into one of two forms: numeric ndarray, or Series of text or categories.

    Raises
    ------
    TypeError
        If the column holds neither numbers, booleans, text nor categories.
    """
    if isinstance(column, nw.Series):
        if column.dtype == nw.Categorical or column.dtype == nw.Enum:
            categories = column.cat.get_categories().to_list()
            return pd.Series(pd.Categorical(column.cast(nw.String).to_list(), categories=categories))
        if column.dtype.is_numeric():
            if column.dtype.is_decimal() or column.null_count():
                column = column.cast(nw.Float64)
            return column.to_numpy()
        column = _narwhals_labels(column)
    if isinstance(column, pd.Series):
        dtype = column.dtype
        if isinstance(dtype, pd.CategoricalDtype):
            return column
        if isinstance(dtype, np.dtype) and dtype.kind in "biuf":
            return column.to_numpy()
        if isinstance(dtype, pd.SparseDtype):
            return plain_column(np.asarray(column), name)
        if pd.api.types.is_bool_dtype(dtype) or pd.api.types.is_numeric_dtype(dtype):
            return _nullable_numbers(column, name)
        if isinstance(dtype, pd.StringDtype):
            return column
        column = column.to_numpy(dtype=object) if not isinstance(dtype, np.dtype) else column.to_numpy()
    kind = column.dtype.kind
    if kind in "biuf":
        return column
    if kind == "U":
        return _plain_text(column, name)
    if kind == "O":
        return _plain_objects(column, name)
    raise TypeError(_not_a_feature(name, column.dtype))


def _nullable_numbers(column: pd.Series, name: str) -> np.ndarray:
    if pd.api.types.is_complex_dtype(column.dtype):
        raise ValueError(f"Complex data not supported: column {name!r} of X has dtype {column.dtype}.")
    if column.hasnans:
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    if pd.api.types.is_bool_dtype(column.dtype):
        return column.to_numpy(dtype=bool)
    if pd.api.types.is_integer_dtype(column.dtype):
        return column.to_numpy(dtype=np.int64)
    return column.to_numpy(dtype=np.float64)


def _plain_objects(values: np.ndarray, name: str) -> np.ndarray | pd.Series:
    """Objects to numbers where all are numbers, to text where all are text."""
    types = {t for t in set(map(type, values)) if not issubclass(t, _MISSING_TYPES)}
    if types and all(issubclass(t, _TEXT_TYPES) for t in types):
        return pd.Series(values, dtype=object)
    if all(issubclass(t, (numbers.Real, np.number, np.bool_)) or t.__name__ == "Decimal" for t in types):
        if any(issubclass(t, (complex, np.complexfloating)) for t in types):
            raise ValueError(f"Complex data not supported: column {name!r} of X.")
        missing = pd.isna(values)
        if missing.any():
            values = np.where(missing, np.nan, values)
        elif types and all(issubclass(t, (bool, np.bool_)) for t in types):
            return values.astype(bool)
        return values.astype(np.float64)
    odd = sorted(t.__name__ for t in types if not issubclass(t, (*_TEXT_TYPES, numbers.Number)))
    if odd and any(hasattr(t, "year") or "datetime" in t.__name__.lower() for t in types):
        raise TypeError(_not_a_feature(name, f"object, with values of type {', '.join(odd)}"))
    if odd:
        raise TypeError(
            f"Column {name!r} of X: argument must be a string or a real number, not {odd[0]!r}. "
            f"Accepted are {ACCEPTED_COLUMNS}."
        )
    raise TypeError(
        f"Column {name!r} of X mixes text and numbers (types {sorted(t.__name__ for t in types)}). "
        f"Accepted are {ACCEPTED_COLUMNS}, one kind in a column: convert it to one of these."
    )


def _plain_text(column: np.ndarray, name: str) -> pd.Series:
    """Take a column of an array of text, unless it held numbers: NumPy makes text of the numbers in mixed lists."""
    try:
        column.astype(np.float64)
    except ValueError:
        return pd.Series(column.astype(object), dtype=object)
    raise ValueError(
        f"Column {name!r} of X holds numbers written as text (X is an array of dtype {column.dtype}). "
        "Pass a dataframe, or an array of dtype object, in which numbers are numbers."
    )


def _not_a_feature(name: str, dtype: Any) -> str:
    return (
        f"Column {name!r} of X has dtype {dtype}, which cannot be a feature. Accepted are {ACCEPTED_COLUMNS}: "
        "convert the column (for example a date to the number of days since a start), or drop it from X."
    )


# ---------------------------------------------------------------------------------------------------------------------
# X


def read_table(
    estimator: Any, X: Any, *, reset: bool, min_samples: int = 1, groups: Any = None, by_name: bool = False
) -> Table:
    """Read X as a Table; shape, size and names are checked as scikit-learn does, values are not looked at yet.

    Columns without names (arrays, lists, frames whose names are not strings) are called x0, x1, ... At predict the
    names are those seen in fit, so that a frame in fit and an array in predict, which scikit-learn allows with a
    warning, agree.

    Parameters
    ----------
    estimator : estimator
        Gets `n_features_in_` and `feature_names_in_` when `reset`, else is compared with.
    X : array-like or dataframe of shape (n_samples, n_features)
        Numbers, objects or a frame of any kind narwhals knows.
    reset : bool
        True in fit.
    min_samples : int, default=1
        Least number of rows.
    groups : array-like of shape (n_samples,) or (n_samples, n_factors), default=None
        Labels beside X. With them X may be None, or have no columns; None elsewhere.
    by_name : bool, default=False
        Whether the columns of a frame are found by their names, in any order, and others are passed over: as in a lazy
        frame, which has the columns of a table in a warehouse.
    """
    refuse_lazy(X, "X")
    if X is None or (groups is not None and np.shape(X)[1:] == (0,)):
        n_rows = _n_rows_of_labels(estimator, X, groups)
        _check_no_columns(estimator, reset=reset)
        _check_n_rows(estimator, n_rows, min_samples)
        return Table({}, n_rows, X.index if isinstance(X, pd.DataFrame) else None)
    if issparse(X):
        raise TypeError(
            f"Sparse data was passed as X, but {type(estimator).__name__} needs dense data. If an encoder made it: "
            'OneHotEncoder(sparse_output=False), and .set_output(transform="pandas") to keep the names of columns; or '
            "no encoder at all, since PartialPoolingRegressor and its like code text columns for you. X.toarray() is a "
            "dense array."
        )
    _refuse_dicts(X)
    if isinstance(X, pd.DataFrame) or nw.dependencies.is_into_dataframe(X):
        wanted = getattr(estimator, "feature_names_in_", ()) if by_name else ()
        if len(wanted):
            frame = nw.from_native(X, eager_only=True)
            X = frame.select([name for name in wanted if name in frame.columns]).to_native()
        return _read_frame(estimator, X, reset=reset, min_samples=min_samples)
    # Finiteness is checked column by column later: a missing label is not a missing feature.
    array = validate_data(estimator, _as_array(X), reset=reset, dtype=None, ensure_all_finite=False)
    if array.dtype.kind not in "biufOU":
        raise TypeError(f"X has dtype {array.dtype}; accepted are {ACCEPTED_COLUMNS}.")
    _check_n_rows(estimator, array.shape[0], min_samples)
    names = _column_names(estimator, array.shape[1])
    return Table({name: array[:, j] for j, name in enumerate(names)}, array.shape[0])


def _refuse_dicts(X: Any) -> None:
    """Raise for columns or rows by name, which are no table yet."""
    if isinstance(X, Mapping):
        is_row = all(isinstance(value, str) or not isinstance(value, Iterable) for value in X.values())
        kind, cure = f"a {type(X).__name__}", "pandas.DataFrame([X])" if is_row else "pandas.DataFrame(X)"
    elif isinstance(X, list | tuple) and X and isinstance(X[0], Mapping):
        kind, cure = f"a {type(X).__name__} of {type(X[0]).__name__}s", "pandas.DataFrame(X)"
    else:
        return
    raise TypeError(f"X is {kind}, and a table with a row for each sample is needed: {cure} makes one.")


def _n_rows_of_labels(estimator: Any, X: Any, groups: Any) -> int:
    """Return the number of rows where X has no columns: that of X, or of the labels where X has none either."""
    if X is not None and len(X):
        return len(X)
    if groups is None:
        raise ValueError(
            f"X is None, and groups= is missing: without columns {type(estimator).__name__} takes its rows from the "
            "labels in groups=. Pass groups=, or X."
        )
    if isinstance(groups, str | bytes) or not hasattr(groups, "__len__"):
        raise TypeError(f"groups= takes labels, one for each row; got {shown(groups)}.")
    return int(groups.shape[0]) if hasattr(groups, "shape") else len(groups)


def _check_no_columns(estimator: Any, *, reset: bool) -> None:
    """Learn that X has no columns, or raise unless it had none in fit."""
    if reset:
        estimator.n_features_in_ = 0
    elif estimator.n_features_in_:
        raise ValueError(
            f"X has 0 features, but {type(estimator).__name__} is expecting {estimator.n_features_in_} features as "
            "input. X may be None, or without columns, where it was so in fit."
        )


# What brings the rows of a table that is elsewhere, or not computed yet, into memory.
_INTO_MEMORY = {"dask": "compute()", "dask_expr": "compute()", "pyspark": "toPandas()", "ibis": "to_pandas()"}
_INTO_MEMORY |= {"duckdb": "df()"}


def refuse_lazy(values: Any, argument: str) -> None:
    """Raise for a table or column whose rows are not in memory, with the call that brings them there."""
    kind = type(values)
    module = kind.__module__.partition(".")[0]
    if module == "hbsk" and kind.__name__ == "SufficientStatistics":
        raise TypeError(
            f"{argument} is SufficientStatistics, which hold the sums of rows and no rows; they are for fit and "
            f"partial_fit of PartialPoolingRegressor. Pass rows as {argument}: a fit of sums answers about them as one "
            "of rows does."
        )
    if argument == "y" and isinstance(values, str):
        raise ValueError(
            f"y={values!r} is a text, and one value for each row is needed: pass the column itself, "
            f"y=data[{values!r}], and X without it. The name of a column is for lazy frames."
        )
    cure = "collect()" if kind.__name__ == "LazyFrame" else _INTO_MEMORY.get(module)
    if cure is not None and hasattr(values, cure.removesuffix("()")):
        more = ""
        if argument == "X":
            more = (
                " Lazy frames are for fit, predict and score of PartialPoolingRegressor; scikit-learn's pipelines and "
                "cross-validation cannot take them, hbsk.model_selection.cross_validate_sums can."
            )
        raise TypeError(
            f"{argument} is a {module} {kind.__name__}, whose rows are not in memory. Pass {argument}.{cure} "
            f"instead.{more}"
        )


def _as_array(X: Any) -> Any:
    """X as it came, but a list that mixes numbers and text as objects: NumPy would turn its numbers into text."""
    if not isinstance(X, (list, tuple)):
        return X
    array = np.asarray(X)
    return np.asarray(X, dtype=object) if array.dtype.kind in "US" else array


def _read_frame(estimator: Any, X: Any, *, reset: bool, min_samples: int) -> Table:
    names = X.columns.tolist() if isinstance(X, pd.DataFrame) else list(nw.from_native(X, eager_only=True).columns)
    duplicates = sorted({str(name) for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if duplicates:
        raise ValueError(f"X has more than one column named {', '.join(map(repr, duplicates))}. Rename them.")
    if reset and isinstance(X, pd.DataFrame) and all(type(name) is str for name in names):
        # what validate_data does with such a frame, without a tenth of a small fit for finding out that it is one
        estimator.n_features_in_, estimator.feature_names_in_ = len(names), np.array(names, dtype=object)
    else:
        validate_data(estimator, X, reset=reset, skip_check_array=True)
    n_rows, n_columns = X.shape
    context = f" is required by {type(estimator).__name__}."
    if n_rows < 1:
        raise ValueError(f"Found array with 0 sample(s) (shape={X.shape}) while a minimum of 1{context}")
    if n_columns < 1:
        raise ValueError(f"Found array with 0 feature(s) (shape={X.shape}) while a minimum of 1{context}")
    _check_n_rows(estimator, n_rows, min_samples)
    index = X.index if isinstance(X, pd.DataFrame) else None
    columns = _FrameColumns(X, _column_names(estimator, n_columns), names)
    return Table(columns, n_rows, index)


def frame_columns(frame: Any, names: Sequence[str]) -> Mapping[str, Any]:
    """Return the columns of a frame in memory by other names, for a `Table`."""
    return _FrameColumns(frame, list(names))


class _FrameColumns(Mapping):
    """Columns of a frame by name, taken out of it when they are asked for: of two thousand a model may use two."""

    def __init__(self, frame: Any, names: list[str], labels: list | None = None):
        self._positions = {name: position for position, name in enumerate(names)}
        self._frame = frame if isinstance(frame, pd.DataFrame) else nw.from_native(frame, eager_only=True)
        self._taken: dict[str, Any] = {}
        self._has_these_names = labels == names and isinstance(frame, pd.DataFrame)

    def __getitem__(self, name: str) -> Any:
        if name not in self._taken:
            self._taken[name] = self._at(name)
        return self._taken[name]

    def _at(self, name: str) -> Any:
        if self._has_these_names:
            return self._frame[name]  # in a third of the time that it takes by position
        position = self._positions[name]
        if isinstance(self._frame, pd.DataFrame):
            return self._frame.iloc[:, position]
        return self._frame.get_column(self._frame.columns[position])

    def finite(self) -> set[str]:
        """Return the columns of a pandas frame that are NumPy numbers, none of them missing or infinite.

        At once: of few rows, columns one by one cost more than all that a prediction does.
        """
        if not isinstance(self._frame, pd.DataFrame):
            return set()
        kinds = [dtype.kind if isinstance(dtype, np.dtype) else "O" for dtype in self._frame.dtypes]
        floats = [position for position, kind in enumerate(kinds) if kind == "f"]
        with np.errstate(over="ignore", invalid="ignore"):
            totals = self._frame.iloc[:, floats].to_numpy().sum(axis=0, dtype=np.float64)
        at_fault = {floats[i] for i in np.flatnonzero(~np.isfinite(totals))}
        return {
            name for name, position in self._positions.items() if kinds[position] in "biuf" and position not in at_fault
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)


def _column_names(estimator: Any, n_columns: int) -> list[str]:
    names = getattr(estimator, "feature_names_in_", None)
    return [f"x{j}" for j in range(n_columns)] if names is None else [str(name) for name in names]


def _check_n_rows(estimator: Any, n_rows: int, min_samples: int) -> None:
    if n_rows < min_samples:
        raise ValueError(
            f"X has n_samples={n_rows}, while a minimum of {min_samples} is required by {type(estimator).__name__}."
        )
