"""Warnings that point at the line of the user, however deep inside they are raised."""

from __future__ import annotations

import warnings
from pathlib import Path

import sklearn

_OURS = (str(Path(__file__).parent), str(Path(sklearn.__file__).parent))


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the first line outside of hbsk and scikit-learn."""
    warnings.warn(message, category, skip_file_prefixes=_OURS)
