"""Columns of text as codes of the texts that occur."""

from __future__ import annotations

from typing import Any

import numpy as np

# Texts up to which a dict takes less than pandas: in a fit of twenty rows Arrow's hashes took a twentieth of it.
FEW_TEXTS = 500


def distinct_texts(column: Any) -> tuple[np.ndarray, list[str]]:
    """Return codes of a Series of text, -1 where it is missing, and its distinct texts in order of appearance."""
    if len(column) <= FEW_TEXTS:
        found: dict[str, int] = {}
        positions = [found.setdefault(text, len(found)) for text in column.tolist()]
        if all(type(text) is str for text in found):
            return np.array(positions, dtype=np.intp), list(found)
    codes, texts = column.array.factorize()  # that of the Series makes an Index as well, which takes as long
    return codes, np.asarray(texts, dtype=object).tolist()
