"""Values in messages, as a user would write them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import sklearn

from hbsk.exceptions import NoGroupsWarning, RedundantColumnsWarning


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


def listed(texts: Iterable[Any], limit: int = 5) -> str:
    """Write the first few texts, and how many more there are."""
    texts = list(map(str, texts))
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more if texts else "none"


def quoted(names: Iterable[Any], limit: int = 30) -> str:
    """Write the first few names as Python does, and how many more there are."""
    return listed(map(shown, names), limit)


def interval_columns(coverage: float) -> tuple[str, str]:
    """Return the names of the columns that hold the ends of an equal-tailed interval, as ArviZ names them."""
    percent = f"{100 * float(coverage):.10g}"
    return f"eti{percent}_lb", f"eti{percent}_ub"


_OURS = (str(Path(__file__).parent), str(Path(sklearn.__file__).parent))


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the first line outside of hbsk and scikit-learn."""
    warnings.warn(message, category, skip_file_prefixes=_OURS)


def warn_of_redundant_columns(names: list[str], redundant: np.ndarray) -> None:
    """Warn of columns whose slopes cannot be told apart, by name; quiet where there are none.

    Parameters
    ----------
    names : list of str
        Columns of X.
    redundant : ndarray of shape (len(names),), bool
        Which of them are linear combinations of one another, the intercept included.
    """
    involved = [name for name, is_redundant in zip(names, redundant, strict=True) if is_redundant]
    if involved:
        warn(
            f"Columns {quoted(involved, 5)} of X are linear combinations "
            "of one another, or add up to the intercept: what one of them does and what another does cannot be told "
            "apart, so their slopes share it. Leave one of them out (OneHotEncoder: drop='first').",
            RedundantColumnsWarning,
        )


def warn_of_no_groups() -> None:
    """Warn that slopes are shrunken, where means of groups may have been meant."""
    warn(
        "No groups: the slopes of a linear regression on the columns of X are shrunken instead. Name the group column "
        "in group_features=, or pass groups= to fit; note that cross-validation and searches drop groups= unless "
        "metadata routing is on.",
        NoGroupsWarning,
    )
