"""Values in messages, as a user would write them."""

from __future__ import annotations

from typing import Any

import numpy as np


def shown(value: Any) -> str:
    """Write a value in plain Python: 0.3 and 'a', where NumPy writes np.float64(0.3) and np.str_('a').

    Parameters
    ----------
    value : object
        NumPy's numbers and texts are looked for in lists, tuples, sets, dicts and small arrays too.
    """
    return repr(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item() if value.dtype.kind in "biufSU" else value
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(_plain(part) for part in value)
    if type(value) is dict:
        return {_plain(key): _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray) and value.dtype == object:
        plain = np.empty_like(value)
        plain.flat = [_plain(part) for part in value.flat]
        return plain
    return value
