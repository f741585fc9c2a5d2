"""JSON to values: only classes of a list, and no memory for what the document does not hold."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from hbsk._documents.kinds import DamagedError, check_block, check_fields, checked_shape, number_type, numbers_of
from hbsk._documents.writing import TAG
from hbsk._engine.variance_parameters import VarianceParameters

# Memory that what is read may take: several times what honest documents need.
_BYTES_PER_CHARACTER, _SPARE_BYTES = 32, 2**20


def parse_json(text: str, wanted: str) -> Any:
    """Read JSON without NaN and infinity; ``wanted`` begins the message where it is none."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        cure = "" if "{" in text else " Where it is the path of a file: Path(path).read_text()."
        raise ValueError(f"{wanted}; this is no JSON: {error}.{cure}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it has the constant {name}")


class DocumentReader:
    """The way back; every tag that is not listed is refused, and so is every size that the document does not fill.

    Parameters
    ----------
    arrays : list of dict
        The arrays of the document.
    length : int
        Characters of the document.
    classes : dict of str to type
        The classes whose objects it may have.
    check : callable, optional
        Raises unless the arrays of an object are what they should be.
    """

    def __init__(
        self,
        arrays: list[dict[str, Any]],
        length: int,
        classes: Mapping[str, type],
        check: Callable[[Any], None] | None = None,
    ) -> None:
        self._classes, self._check = classes, check
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
        tag = value.get(TAG)
        if tag is None:
            return {key: self.read(item) for key, item in value.items()}
        if tag in self._classes:
            return self._object(self._classes[tag], {name: self.read(field) for name, field in value["fields"].items()})
        return self._special(tag, value["value"])

    def _object(self, cls: type, fields: dict[str, Any]) -> Any:
        for block in fields["blocks"] if cls is VarianceParameters else ():
            check_block(block, len(fields["group_sd"]))
            self._spend(2 * len(block) ** 3)  # it lists the columns before each pair of columns
        value = cls(**fields)
        check_fields(value)
        if self._check is not None:
            self._check(value)
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
            case "times":
                return self._times(*value)
            case "timestamp":
                text, unit, *zone = value
                time = pd.Timestamp(text).as_unit(unit)
                return time.tz_convert(*zone) if zone else time
            case "timedelta":
                return pd.Timedelta(np.timedelta64(int(value[0]), value[1]))
            case "period":
                return pd.Period(ordinal=int(value[0]), freq=value[1])
            case "interval":
                return pd.Interval(self.read(value[0]), self.read(value[1]), closed=value[2])
            case "uuid":
                return uuid.UUID(hex=value)
            case "decimal":
                return decimal.Decimal(value)
            case "datetime":
                return datetime.datetime.fromisoformat(value)
            case "date":
                return datetime.date.fromisoformat(value)
        raise DamagedError(f"The document has an object of the kind {tag!r}, which this version of hbsk does not know.")

    def _times(self, dtype: str, numbers: Any) -> np.ndarray:
        kind, ticks = np.dtype(dtype), self.read(numbers)
        if kind.kind not in "mM" or not isinstance(ticks, np.ndarray) or ticks.dtype != np.int64:
            raise DamagedError(f"The document is damaged: it has times of the kind {dtype!r:.60}.")
        return ticks.view(kind)

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
            of_items = "items" in document
            self._arrays[number] = self._items(document, shape) if of_items else self._numbers(document, shape)
        return self._arrays[number]

    def _numbers(self, document: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
        return numbers_of(document, shape)

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
