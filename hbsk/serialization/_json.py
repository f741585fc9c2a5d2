"""Fitted estimators as JSON: data only, so that loading a file from elsewhere runs no code.

A pickle is a program; what is written here is a tree of numbers, strings and names of classes from one list. Arrays
are kept apart, once each, as base64 of their bytes, so that every bit comes back and nothing is stored twice. What a
document may hold is what this module knows how to write; anything else is refused, on both sides.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import json
import math
from typing import Any

import numpy as np
import pandas as pd
from sklearn import config_context
from sklearn.utils.validation import check_is_fitted

from hbsk._base import ROUTED_METHODS
from hbsk._engine.marginal import MarginalModel
from hbsk._engine.variance_parameters import VarianceParameters
from hbsk._messages import listed
from hbsk.serialization._classes import CLASSES, ESTIMATORS
from hbsk.serialization._kinds import (
    NUMBER_KINDS,
    DamagedError,
    check_block,
    check_fields,
    check_learnt,
    checked_shape,
    number_type,
    numbers_of,
)
from hbsk.serialization._shapes import check_arrays

FORMAT = 2

# Key that marks an object of the document as something else than a dict.
_TAG = "$"
_REQUESTS = "_metadata_request"
# Memory that what is read may take: several times what honest documents need.
_BYTES_PER_CHARACTER, _SPARE_BYTES = 32, 2**20


def to_json(estimator: Any) -> str:
    """Write a fitted estimator as JSON.

    Parameters
    ----------
    estimator : estimator of hbsk
        A fitted PartialPoolingRegressor, PartialPoolingClassifier, PartialPoolingCountRegressor, JamesSteinEstimator
        or PartialPoolingEncoder.

    Returns
    -------
    text : str
        A JSON document, plain ASCII. `from_json` makes an estimator of it whose answers are the same, bit for bit.

    Raises
    ------
    TypeError
        If the estimator is of another class, or holds what JSON cannot: `bambi.Prior` objects, random generators,
        group labels of types other than str, int, float, bool, bytes, tuple, date, datetime, Timestamp and Timedelta.

    See Also
    --------
    from_json : Read it back.

    Examples
    --------
    >>> from hbsk import JamesSteinEstimator, from_json, to_json
    >>> X, y = [["a"], ["b"], ["c"], ["d"], ["a"]], [1.0, 2.5, 3.0, 4.5, 2.0]
    >>> fitted = JamesSteinEstimator(group_features=0).fit(X, y)
    >>> from_json(to_json(fitted)).predict([["a"]]) == fitted.predict([["a"]])
    array([ True])
    """
    kind = type(estimator)
    if kind not in ESTIMATORS.values():
        raise TypeError(f"to_json writes {listed(ESTIMATORS)}, got {estimator!r}.")
    check_is_fitted(estimator)
    from hbsk import __version__

    writer = _Writer()
    params = estimator.get_params(deep=False)
    state = {name: value for name, value in vars(estimator).items() if name not in params and name != _REQUESTS}
    document = {
        "hbsk_format": FORMAT,
        "hbsk_version": __version__,
        "estimator": kind.__name__,
        "params": {name: writer.write(value, f"the parameter {name}") for name, value in params.items()},
        "requests": _requests(estimator),
        "state": {name: writer.write(value, name) for name, value in state.items()},
        "arrays": writer.arrays,
    }
    return json.dumps(document, allow_nan=False)


def from_json(text: str) -> Any:
    """Read a fitted estimator from JSON that `to_json` wrote.

    Nothing in the text is run: it can name only classes from a list of this package, and numbers and strings to fill
    them with. A text made by somebody else can still hold wrong numbers.

    Parameters
    ----------
    text : str
        A document of `to_json`.

    Returns
    -------
    estimator : estimator of hbsk
        A fitted PartialPoolingRegressor, PartialPoolingClassifier, PartialPoolingCountRegressor, JamesSteinEstimator
        or PartialPoolingEncoder.

    Raises
    ------
    ValueError
        If the text is no such document, or of a format that this version does not read; if it lacks a part of a fit,
        has one of another kind, or claims sizes that it does not fill (nothing is allocated for a claim).

    See Also
    --------
    to_json : Write it.
    """
    document = _parse(text)
    cls = ESTIMATORS.get(document["estimator"])
    if cls is None:
        raise ValueError(
            f"The document holds an estimator {document['estimator']!r}; from_json reads {listed(ESTIMATORS)}."
        )
    try:
        reader = _DocumentReader(document["arrays"], len(text))
        params = {name: reader.read(value) for name, value in document["params"].items()}
        state = {name: reader.read(value) for name, value in document["state"].items()}
        estimator = cls(**params)
        for name, value in state.items():
            _check_attribute(cls, name)
            setattr(estimator, name, value)
        estimator._validate_params()
        check_learnt(estimator)
        _request(estimator, document["requests"])
    except DamagedError:
        raise
    except Exception as error:  # pandas and NumPy have their own errors for what they cannot make
        raise ValueError(
            f"The document of hbsk {document.get('hbsk_version')!r} is damaged, or from a version whose {cls.__name__} "
            f"is not that of this one: {type(error).__name__}: {error}."
        ) from error
    return estimator


def _parse(text: Any) -> dict[str, Any]:
    if not isinstance(text, str):
        raise TypeError(f"from_json takes the str that to_json returned, got {type(text).__name__}.")
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"from_json takes the text that to_json returned; this is no JSON: {error}.") from error
    if not isinstance(document, dict) or "hbsk_format" not in document:
        raise ValueError("from_json takes the text that to_json returned; this JSON has no key 'hbsk_format'.")
    if type(document["hbsk_format"]) is not int or document["hbsk_format"] != FORMAT:
        raise ValueError(
            f"The document has hbsk_format={document['hbsk_format']!r}, written by hbsk "
            f"{document.get('hbsk_version')!r}; this version reads format {FORMAT}. Load it with that version, or fit "
            "again."
        )
    parts = {"estimator": str, "params": dict, "requests": dict, "state": dict, "arrays": list}
    wrong = [name for name, kind in parts.items() if not isinstance(document.get(name), kind)]
    if wrong:
        raise ValueError(f"The document lacks {', '.join(map(repr, wrong))}, or they are not what to_json writes.")
    return document


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it has the constant {name}")


def _check_attribute(cls: type, name: str) -> None:
    """Refuse names that are not those of fitted attributes; a document must not replace methods."""
    learnt = name.isidentifier() and not name.startswith("__") and (name.startswith("_") or name.endswith("_"))
    if not learnt or hasattr(cls, name):
        raise DamagedError(f"The document sets {name!r}, which is no fitted attribute of {cls.__name__}.")


def _requests(estimator: Any) -> dict[str, dict[str, Any]]:
    """Return what `set_fit_request` and its like were told."""
    stored = vars(estimator).get(_REQUESTS)
    if stored is None:
        return {}
    return {m: requests for m in ROUTED_METHODS if (requests := dict(getattr(stored, m).requests))}


def _request(estimator: Any, requests: dict[str, dict[str, Any]]) -> None:
    with config_context(enable_metadata_routing=True):
        for method, wanted in requests.items():
            if method not in ROUTED_METHODS:
                raise DamagedError(f"The document has metadata requests of {method!r}.")
            getattr(estimator, f"set_{method}_request")(**wanted)


# ---------------------------------------------------------------------------------------------------------------------
# Writing


class _Writer:
    """Values to what json.dumps takes; arrays are collected, each one once."""

    def __init__(self) -> None:
        self.arrays: list[dict[str, Any]] = []
        # The arrays themselves are kept beside their numbers: an id may be used again after its owner is gone.
        self._numbers: dict[int, tuple[np.ndarray, int]] = {}

    def write(self, value: Any, where: str) -> Any:
        plain = _write_scalar(value)
        if plain is not _NOT_A_SCALAR:
            return plain
        match value:
            case np.ndarray():
                return self._array(value, where)
            case dict():
                return self._dict(value, where)
            case list():
                return [self.write(item, where) for item in value]
            case pd.DataFrame():
                columns = [self.write(value.iloc[:, j].array, where) for j in range(value.shape[1])]
                return self._tagged(
                    "frame", [self.write(value.index, where), self.write(value.columns, where), columns]
                )
            case pd.Series():
                parts = [self.write(part, where) for part in (value.index, value.array, value.name)]
                return self._tagged("series", parts)
            case pd.Index() if value.nlevels == 1:
                return self._tagged("index", [self.write(value.array, where), self.write(value.name, where)])
            case pd.api.extensions.ExtensionArray():
                numeric = isinstance(value.dtype, np.dtype) or value.dtype.kind in NUMBER_KINDS
                array = np.asarray(value) if numeric else np.asarray(value, dtype=object)
                return self._array(array, where)
        if type(value) in CLASSES.values():
            fields = {name: self.write(field, where) for name, field in _fields_of(value).items()}
            return {_TAG: type(value).__name__, "fields": fields}
        if isinstance(value, tuple):
            return self._tagged("tuple", [self.write(item, where) for item in value])
        raise _cannot_write(value, where)

    @staticmethod
    def _tagged(tag: str, value: Any) -> dict[str, Any]:
        return {_TAG: tag, "value": value}

    def _dict(self, value: dict, where: str) -> Any:
        if all(type(key) is str and key != _TAG for key in value):
            return {key: self.write(item, where) for key, item in value.items()}
        pairs = [[self.write(key, where), self.write(item, where)] for key, item in value.items()]
        return self._tagged("dict", pairs)

    def _array(self, array: np.ndarray, where: str) -> dict[str, Any]:
        if id(array) not in self._numbers:
            self._numbers[id(array)] = (array, len(self.arrays))
            self.arrays.append(self._bytes(array) if array.dtype.kind in NUMBER_KINDS else self._objects(array, where))
        return self._tagged("array", self._numbers[id(array)][1])

    def _objects(self, array: np.ndarray, where: str) -> dict[str, Any]:
        if array.dtype.kind not in "OU":
            raise _cannot_write(array, where)
        items = [self.write(item, f"an element of {where}") for item in array.ravel().tolist()]
        return {"dtype": array.dtype.str, "shape": array.shape, "items": items}

    @staticmethod
    def _bytes(array: np.ndarray) -> dict[str, Any]:
        """Encode numbers in the order of memory: sums over the axes of an array depend on it in the last bit."""
        axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
        if array.flags.c_contiguous:
            axes = list(range(array.ndim))
        ordered = array.transpose(axes)
        ordered = ordered.astype(ordered.dtype.newbyteorder("<"), order="C", copy=False)
        return {
            "dtype": ordered.dtype.str,
            "shape": ordered.shape,
            "axes": axes,
            "base64": base64.b64encode(ordered.tobytes()).decode("ascii"),
        }


_NOT_A_SCALAR = object()


def _write_scalar(value: Any) -> Any:
    """Return what JSON has for one value, or a mark that it is no single value."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        # repr, which json uses, is exact; JSON has no word for what is not finite.
        return value if math.isfinite(value) else {_TAG: "float", "value": repr(value)}
    match value:
        case np.bool_() | np.integer() | np.floating() if value.dtype.itemsize <= 8:
            return {_TAG: "number", "value": [value.dtype.str, value.tobytes().hex()]}
        case np.str_():
            return str(value)
        case bytes():
            return {_TAG: "bytes", "value": value.hex()}
        case pd.Timestamp() if value.tz is None and not pd.isna(value):
            return {_TAG: "timestamp", "value": [value.isoformat(), value.unit]}
        case pd.Timedelta() if not pd.isna(value):
            return {_TAG: "timedelta", "value": [int(value.asm8.astype(np.int64)), value.unit]}
        case datetime.datetime() if type(value) is datetime.datetime and value.tzinfo is None:
            return {_TAG: "datetime", "value": value.isoformat()}
        case datetime.date() if type(value) is datetime.date:
            return {_TAG: "date", "value": value.isoformat()}
    return _NOT_A_SCALAR


def _fields_of(value: Any) -> dict[str, Any]:
    """Return the arguments that make an equal object."""
    if isinstance(value, MarginalModel):
        return value.__getstate__()
    if isinstance(value, VarianceParameters):
        names = ("residual_sd", "group_sd", "blocks", "lkj_eta", "small_sd", "location")
        return {name: getattr(value, name) for name in names}
    if hasattr(value, "_asdict"):  # a NamedTuple
        return value._asdict()
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}


def _cannot_write(value: Any, where: str) -> TypeError:
    message = f"to_json cannot write {where}: {value!r} is a {type(value).__module__}.{type(value).__qualname__}."
    if type(value).__module__.partition(".")[0] == "bambi":
        return TypeError(
            f"{message} Give priors as plain data and fit again: the fitted priors_ holds them in that form."
        )
    if isinstance(value, np.random.RandomState | np.random.Generator | np.random.BitGenerator):
        return TypeError(f"{message} Set it to an integer or None first, as in set_params(random_state=0).")
    return TypeError(
        f"{message} Group labels and parameters may be str, int, float, bool, bytes, None, tuple, date, datetime, "
        "Timestamp and Timedelta (without time zones)."
    )


# ---------------------------------------------------------------------------------------------------------------------
# Reading


class _DocumentReader:
    """The way back; every tag that is not listed is refused, and so is every size that the document does not fill.

    Parameters
    ----------
    arrays : list of dict
        The arrays of the document.
    length : int
        Characters of the document.
    """

    def __init__(self, arrays: list[dict[str, Any]], length: int) -> None:
        self._documents = arrays
        self._arrays: dict[int, np.ndarray] = {}
        self._length = length
        # Text arrays are as wide as their widest item, and frames copy: without a limit few characters fill a memory.
        self._bytes_left = _BYTES_PER_CHARACTER * length + _SPARE_BYTES

    def read(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.read(item) for item in value]
        if isinstance(value, float) and not math.isfinite(value):
            raise DamagedError("The document is damaged: it has a number beyond the range of floating point.")
        if not isinstance(value, dict):
            return value
        tag = value.get(_TAG)
        if tag is None:
            return {key: self.read(item) for key, item in value.items()}
        if tag in CLASSES:
            return self._object(CLASSES[tag], {name: self.read(field) for name, field in value["fields"].items()})
        return self._special(tag, value["value"])

    def _object(self, cls: type, fields: dict[str, Any]) -> Any:
        for block in fields["blocks"] if cls is VarianceParameters else ():
            check_block(block, len(fields["group_sd"]))
            self._spend(2 * len(block) ** 3)  # it lists the columns before each pair of columns
        value = cls(**fields)
        check_fields(value)
        check_arrays(value)
        return value

    def _spend(self, n_bytes: int) -> None:
        self._bytes_left -= n_bytes
        if self._bytes_left < 0:
            raise DamagedError(
                f"The document is damaged: its {self._length} characters ask for more memory than what they hold."
            )

    def _special(self, tag: str, value: Any) -> Any:
        match tag:
            case "tuple":
                return tuple(self.read(item) for item in value)
            case "dict":
                return {self.read(key): self.read(item) for key, item in value}
            case "array":
                return self._array(value)
            case "index":
                labels, name = (self.read(part) for part in value)
                return pd.Index(self._column(labels), name=name)
            case "series":
                index, values, name = (self.read(part) for part in value)
                return pd.Series(self._column(values, len(index)), index=index, name=name)
            case "frame":
                index, names, columns = (self.read(part) for part in value)
                frame = pd.DataFrame({i: self._column(c, len(index)) for i, c in enumerate(columns)}, index=index)
                frame.columns = names
                return frame
            case "number":
                dtype, digits = value
                (number,) = np.frombuffer(bytes.fromhex(digits), dtype=number_type(dtype))
                return number
            case "float":
                if value not in ("inf", "-inf", "nan"):
                    raise DamagedError(f"The document is damaged: {value!r:.60} is no name of a number.")
                return float(value)
            case "bytes":
                return bytes.fromhex(value)
            case "timestamp":
                return pd.Timestamp(value[0]).as_unit(value[1])
            case "timedelta":
                return pd.Timedelta(np.timedelta64(int(value[0]), value[1]))
            case "datetime":
                return datetime.datetime.fromisoformat(value)
            case "date":
                return datetime.date.fromisoformat(value)
        raise DamagedError(f"The document has an object of the kind {tag!r}, which this version of hbsk does not know.")

    def _column(self, values: Any, size: int | None = None) -> np.ndarray:
        """Return the values of one column, which pandas may copy."""
        if not isinstance(values, np.ndarray) or values.ndim != 1 or size not in (None, len(values)):
            raise DamagedError("The document is damaged: a column of a table is no array of as many values as rows.")
        self._spend(values.nbytes)
        return values

    def _array(self, number: int) -> np.ndarray:
        if type(number) is not int or not 0 <= number < len(self._documents):
            raise DamagedError(f"The document is damaged: it has no array {number!r:.60}.")
        if number not in self._arrays:
            document = self._documents[number]
            shape = checked_shape(document["shape"], self._length)
            self._arrays[number] = self._items(document, shape) if "items" in document else numbers_of(document, shape)
        return self._arrays[number]

    def _items(self, document: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
        items, dtype = document["items"], np.dtype(document["dtype"])
        if not isinstance(items, list) or len(items) != math.prod(shape) or dtype.kind not in "OU":
            raise DamagedError(
                f"The document is damaged: an array of {dtype} and shape {shape} has "
                f"{len(items) if isinstance(items, list) else 'no'} items."
            )
        self._spend(dtype.itemsize * len(items))
        array = np.empty(len(items), dtype=object)
        for i, item in enumerate(items):
            array[i] = self.read(item)
        array = array.reshape(shape)
        if dtype.kind == "O":
            return array
        if not all(isinstance(item, str) and len(item) <= dtype.itemsize // 4 for item in array.flat):
            raise DamagedError(f"The document is damaged: items of an array of {dtype} are no such texts.")
        return array.astype(dtype)
