"""Labels of rows of which not one is known: plain new groups, or those of fit written in another way."""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from contextlib import suppress
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np

from hbsk._data.labels import GroupFactor, Values, distinct_labels
from hbsk._messages import shown

# Labels of the rows that are looked at, and shown on each side.
_LOOKED_AT, _SHOWN = 1000, 3
_INTEGER, _FRACTION = re.compile(r"[+-]?\d{1,99}(\.0*)?"), re.compile(r"[+-]?\d{0,99}\.\d{1,99}")
_REMEDIES: dict[Any, str] = {
    "text": "`.astype(str)` makes text",
    "numbers": "`pandas.to_numeric` makes numbers",
    "dates and times": "`pandas.to_datetime` makes dates with times",
    "dates": "`.dt.date` makes dates of dates with times",
    "bytes": "`.str.encode` makes bytes of text",
}


def written_otherwise(factor: GroupFactor, columns: Sequence[Values]) -> str:
    """Say how the labels of rows, none of which is known, differ from those of fit; empty for plain new groups.

    They are written otherwise where they are of other types, or where most of them would be known if case, spaces,
    leading zeros and the like did not count.

    Parameters
    ----------
    factor : GroupFactor
        With the labels of fit.
    columns : sequence of 1-D columns
        Labels of the rows, as given to `GroupFactor.encode`.
    """
    new = distinct_labels(factor.name, columns)[:_LOOKED_AT]
    known = factor.labels
    if not len(new) or not len(known):
        return ""
    if _are_integers(known) and _are_integers(new):
        return ""
    kinds_known, kinds_new = kinds_of(known), kinds_of(new)
    of_other_types = not kinds_known & kinds_new
    if not of_other_types and not _would_match(factor, new):
        return ""
    text = (
        f"they are {_describe(kinds_new)} such as {_examples(new)}, those of fit {_describe(kinds_known)} such as "
        f"{_examples(known)}"
    )
    remedy = _REMEDIES.get(next(iter(kinds_known))) if of_other_types and len(kinds_known) == 1 else None
    return text + (f" ({remedy})" if remedy else "")


def kinds_of(labels: np.ndarray) -> set[Hashable]:
    """Return the kinds of labels there are; those of tuples are tuples."""
    if labels.dtype.kind in "biuf":
        return {"numbers"}
    if not any(isinstance(label, tuple) for label in labels):
        examples: Iterable[Any] = {type(label): label for label in labels.tolist()}.values()
    else:
        examples = labels.tolist()
    return {_kind(label) for label in examples}


def _kind(label: Any) -> Hashable:
    if isinstance(label, tuple):
        return tuple(_kind(part) for part in label)
    if isinstance(label, str):
        return "text"
    if isinstance(label, bytes):
        return "bytes"
    if isinstance(label, Real | Decimal | np.bool_):
        return "numbers"
    if isinstance(label, datetime.datetime | np.datetime64):
        return "dates and times"
    if isinstance(label, datetime.date):
        return "dates"
    return f"of type {type(label).__name__}"


def _are_integers(labels: np.ndarray) -> bool:
    return labels.dtype.kind in "biu"


def _would_match(factor: GroupFactor, new: np.ndarray) -> bool:
    """Tell whether most labels are known ones once what is easily lost or added on the way does not count."""
    plain_known = _plain_labels_of(factor)
    plain_new = {_plain(label) for label in new.tolist()}
    # where labels of fit differ by nothing else, as codes do in which case counts, so may those of new groups
    if len(plain_known) < factor.n_groups or len(plain_new) < len(new):
        return False
    return 2 * len(plain_known & plain_new) >= len(plain_new)


def _plain_labels_of(factor: GroupFactor) -> set[Hashable]:
    # Kept: a server that predicts one row of a new group after the other would make them anew each time.
    plain = factor.__dict__.get("_plain_labels")
    if plain is None:
        plain = {_plain(label) for label in factor.labels.tolist()}
        object.__setattr__(factor, "_plain_labels", plain)
    return plain


def _plain(label: Any) -> Hashable:
    """Return what is left of a label without type, case, spaces, leading zeros, time zone and the last digits."""
    if isinstance(label, str):
        return _plain_text(label)
    if isinstance(label, tuple):
        return tuple(_plain(part) for part in label)
    if isinstance(label, bytes):
        return _plain_text(label.decode("utf-8", errors="replace"))
    if isinstance(label, datetime.datetime):
        return label.replace(tzinfo=None).isoformat()
    if isinstance(label, datetime.date):
        return datetime.datetime.combine(label, datetime.time()).isoformat()
    if isinstance(label, Real | Decimal):
        number: Any = label
        return int(number) if number == int(number) else float(np.float32(number))
    return label


def _plain_text(text: str) -> Hashable:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = " ".join(text.casefold().split())
    if text[:2] in ("b'", 'b"'):  # bytes that became text
        text = text[2:-1]
    if not text[:1].isalpha():
        if _INTEGER.fullmatch(text):
            return int(text.split(".")[0])
        if _FRACTION.fullmatch(text):
            return _plain(float(text))
        with suppress(ValueError):
            return _plain(datetime.datetime.fromisoformat(text))
    return text


def _describe(kinds: set[Hashable]) -> str:
    names = sorted(
        {f"pairs of {' and '.join(map(str, kind))}" if isinstance(kind, tuple) else str(kind) for kind in kinds}
    )
    return " and ".join(names)


def _examples(labels: np.ndarray) -> str:
    return ", ".join(shown(label) for label in labels[:_SHOWN].tolist())
