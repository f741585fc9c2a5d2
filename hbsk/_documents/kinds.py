"""Whether what a document holds is of the kinds and sizes that its classes declare.

Kinds are those that the classes themselves declare, so that a new field is checked without a word here.
"""

from __future__ import annotations

import base64
import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np


class DamagedError(ValueError):
    """What `from_json` raises by itself; every other error means that a document is damaged."""


NUMBER_KINDS = "biuf"
_MOST_AXES = 8


def check_fields(value: Any) -> None:
    """Raise unless the fields of an object are what its class declares."""
    for name, kind in _declared(type(value)).items():  # type: ignore[arg-type]  # the stubs find type[Any] unhashable
        if not is_of_kind(getattr(value, name), kind):
            raise DamagedError(
                f"The document is damaged: {name} of a {type(value).__name__} is {short(getattr(value, name))}."
            )


@lru_cache
def _declared(cls: type) -> dict[str, Any]:
    kinds = typing.get_type_hints(cls)
    if not dataclasses.is_dataclass(cls):
        return kinds
    return {field.name: kinds[field.name] for field in dataclasses.fields(cls)}  # a base may promise more to readers


def is_of_kind(value: Any, kind: Any) -> bool:
    """Tell whether a value is what an annotation says; NumPy's numbers count as Python's."""
    if kind is Any:
        return True
    if kind is None or kind is type(None):
        return value is None
    if kind is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(is_of_kind(value, one) for one in arguments)
    if origin is None:
        return isinstance(value, kind)
    if not isinstance(value, origin):
        return False
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(is_of_kind(part, arguments[0]) for part in value)
        return len(value) == len(arguments) and all(map(is_of_kind, value, arguments))
    if issubclass(origin, Mapping):
        return all(is_of_kind(key, arguments[0]) and is_of_kind(item, arguments[1]) for key, item in value.items())
    return all(is_of_kind(part, arguments[0]) for part in value)


def short(value: Any) -> str:
    """Write a value of a document in few letters."""
    return f"{value!r:.60}" if isinstance(value, str | numbers.Number | None) else f"a {type(value).__name__}"


def check_block(block: tuple[int, ...], n_columns: int) -> None:
    """Raise unless a block of varying columns names some of them, each once."""
    if len(set(block)) < len(block) or not all(is_of_kind(k, int) and 0 <= k < n_columns for k in block):
        raise DamagedError(f"The document is damaged: it has a block of the columns {short(block)} among {n_columns}.")


# ---------------------------------------------------------------------------------------------------------------------
# Arrays


def checked_shape(shape: Any, longest: int) -> tuple[int, ...]:
    """Return a shape; an axis of an array without elements is still no longer than the document."""
    sound = isinstance(shape, list) and all(type(n) is int and 0 <= n <= longest for n in shape)
    if not sound or len(shape) > _MOST_AXES:
        raise DamagedError(f"The document is damaged: it has an array of shape {shape!r:.60}.")
    return tuple(shape)


def number_type(text: Any) -> np.dtype:
    """Return a dtype of numbers."""
    dtype = np.dtype(text) if isinstance(text, str) else None
    if dtype is None or dtype.kind not in NUMBER_KINDS:
        raise DamagedError(f"The document has an array of dtype {text!r}; only numbers may be given as bytes.")
    return dtype


def numbers_of(document: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of numbers, whose bytes must be as many as its shape says."""
    dtype, axes = number_type(document["dtype"]), document["axes"]
    content = base64.b64decode(document["base64"], validate=True)
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise DamagedError(f"The document is damaged: an array of {dtype} and shape {shape} has {len(content)} bytes.")
    if not all(type(axis) is int for axis in axes) or sorted(axes) != list(range(len(shape))):
        raise DamagedError(f"The document is damaged: an array of {len(shape)} axes has them in order {axes!r:.60}.")
    ordered = np.frombuffer(content, dtype=dtype).reshape(shape)
    return ordered.astype(dtype.newbyteorder("=")).transpose(np.argsort(axes))
