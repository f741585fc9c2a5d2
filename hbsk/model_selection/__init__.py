"""Choosing between models of grouped data: scorers, splitters, and comparisons with anything that has fit and predict."""

from hbsk.model_selection._splitters import WithinGroupKFold

__all__ = ["WithinGroupKFold"]
