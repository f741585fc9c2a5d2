"""Statistics of classes and counts: shares of successes, and how much more varies than the model says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

NAMES = ("proportion", "dispersion")


def count_statistics(family: str, mean: np.ndarray, size: np.ndarray) -> dict[str, Callable]:
    """Return the statistics that need to know what is predicted, by name.

    Parameters
    ----------
    family : {"binomial", "poisson"}
    mean : ndarray of shape (n_rows,)
        Predicted probabilities or rates.
    size : ndarray of shape (n_rows,)
        Trials or exposure.
    """
    expected = size * mean
    variance = expected * (1.0 - mean) if family == "binomial" else expected

    def proportion(y):
        return float(np.sum(y) / size.sum())

    def dispersion(y):
        return float(np.mean((y - expected) ** 2 / variance))

    return {"proportion": proportion, "dispersion": dispersion}


def named_statistics(statistics: Any, known: Mapping[str, Callable]) -> Any:
    """Return statistics with functions in the place of names that stand for them."""

    def found(statistic):
        return known.get(statistic, statistic) if isinstance(statistic, str) else statistic

    if isinstance(statistics, Mapping):
        return {name: found(statistic) for name, statistic in statistics.items()}
    if isinstance(statistics, Sequence | set) and not isinstance(statistics, str):
        return [found(statistic) for statistic in statistics]
    return found(statistics)
