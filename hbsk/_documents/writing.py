"""Values to JSON: numbers, strings, names of classes from a list, and arrays apart, each once."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import math
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from hbsk._documents.kinds import NUMBER_KINDS
from hbsk._engine.marginal import MarginalModel
from hbsk._engine.variance_parameters import VarianceParameters

# Key that marks an object of the document as something else than a dict.
TAG = "$"


class Writer:
    """Values to what json.dumps takes; arrays are collected, each one once.

    Parameters
    ----------
    classes : dict of str to type
        The classes whose objects may be written, by name.
    caller : str
        Who writes, for messages.
    """

    def __init__(self, classes: Mapping[str, type], caller: str) -> None:
        self._classes, self._caller = classes, caller
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
        if type(value) in self._classes.values():
            fields = {name: self.write(field, where) for name, field in _fields_of(value).items()}
            return {TAG: type(value).__name__, "fields": fields}
        if isinstance(value, tuple):
            return self._tagged("tuple", [self.write(item, where) for item in value])
        raise self._refusal(value, where)

    @staticmethod
    def _tagged(tag: str, value: Any) -> dict[str, Any]:
        return {TAG: tag, "value": value}

    def _dict(self, value: dict, where: str) -> Any:
        if all(type(key) is str and key != TAG for key in value):
            return {key: self.write(item, where) for key, item in value.items()}
        pairs = [[self.write(key, where), self.write(item, where)] for key, item in value.items()]
        return self._tagged("dict", pairs)

    def _array(self, array: np.ndarray, where: str) -> dict[str, Any]:
        if array.dtype.kind in "mM" and np.datetime_data(array.dtype)[0] != "generic":
            ordered = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("=")))
            return self._tagged("times", [array.dtype.str.lstrip("<>=|"), self.write(ordered.view(np.int64), where)])
        if id(array) not in self._numbers:
            self._numbers[id(array)] = (array, len(self.arrays))
            self.arrays.append(
                self._of_numbers(array) if array.dtype.kind in NUMBER_KINDS else self._objects(array, where)
            )
        return self._tagged("array", self._numbers[id(array)][1])

    def _objects(self, array: np.ndarray, where: str) -> dict[str, Any]:
        if array.dtype.kind not in "OU":
            raise self._refusal(array, where)
        items = [self.write(item, f"an element of {where}") for item in array.ravel().tolist()]
        return {"dtype": array.dtype.str, "shape": array.shape, "items": items}

    def _of_numbers(self, array: np.ndarray) -> dict[str, Any]:
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

    def _refusal(self, value: Any, where: str) -> TypeError:
        return _cannot_write(value, where, self._caller)


_NOT_A_SCALAR = object()


def _write_scalar(value: Any) -> Any:
    """Return what JSON has for one value, or a mark that it is no single value."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        # repr, which json uses, is exact; JSON has no word for what is not finite.
        return value if math.isfinite(value) else {TAG: "float", "value": repr(value)}
    match value:
        case np.bool_() | np.integer() | np.floating() if value.dtype.itemsize <= 8:
            return {TAG: "number", "value": [value.dtype.str, value.tobytes().hex()]}
        case np.str_():
            return str(value)
        case bytes():
            return {TAG: "bytes", "value": value.hex()}
        case pd.Timestamp() if not pd.isna(value):
            # of a zone without a name, as +02:00, the text of the time has all
            zone = getattr(value.tz, "key", getattr(value.tz, "zone", None))
            return {TAG: "timestamp", "value": [value.isoformat(), value.unit, *([zone] if zone else [])]}
        case pd.Timedelta() if not pd.isna(value):
            return {TAG: "timedelta", "value": [int(value.asm8.astype(np.int64)), value.unit]}
        case pd.Period():
            return {TAG: "period", "value": [value.ordinal, value.freqstr]}
        case pd.Interval():
            ends = [_write_scalar(value.left), _write_scalar(value.right)]
            return _NOT_A_SCALAR if _NOT_A_SCALAR in ends else {TAG: "interval", "value": [*ends, value.closed]}
        case uuid.UUID():
            return {TAG: "uuid", "value": value.hex}
        case decimal.Decimal() if value.is_finite():
            return {TAG: "decimal", "value": str(value)}
        case datetime.datetime() if type(value) is datetime.datetime and value.tzinfo is None:
            return {TAG: "datetime", "value": value.isoformat()}
        case datetime.date() if type(value) is datetime.date:
            return {TAG: "date", "value": value.isoformat()}
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


def _cannot_write(value: Any, where: str, caller: str) -> TypeError:
    message = f"{caller} cannot write {where}: {value!r} is a {type(value).__module__}.{type(value).__qualname__}."
    if type(value).__module__.partition(".")[0] == "bambi":
        return TypeError(
            f"{message} Give priors as plain data and fit again: the fitted priors_ holds them in that form."
        )
    if isinstance(value, np.random.RandomState | np.random.Generator | np.random.BitGenerator):
        return TypeError(f"{message} Set it to an integer or None first, as in set_params(random_state=0).")
    return TypeError(
        f"{message} Group labels and parameters may be str, int, float, bool, bytes, None, tuple, date, datetime "
        "(without a time zone), Timestamp, Timedelta, Period, Interval, UUID and Decimal."
    )
