"""Warnings that point at the line of the user, however deep inside they are raised."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import sklearn

from hbsk.exceptions import RedundantColumnsWarning

_SHOWN_COLUMNS = 5
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
        more = f" and {len(involved) - _SHOWN_COLUMNS} more" if len(involved) > _SHOWN_COLUMNS else ""
        warn(
            f"Columns {', '.join(repr(name) for name in involved[:_SHOWN_COLUMNS])}{more} of X are linear combinations "
            "of one another, or add up to the intercept: what one of them does and what another does cannot be told "
            "apart, so their slopes share it. Leave one of them out (OneHotEncoder: drop='first').",
            RedundantColumnsWarning,
        )
