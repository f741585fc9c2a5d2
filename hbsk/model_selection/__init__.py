"""Choosing between models of grouped data: scorers, splitters, and comparisons of anything with fit and predict."""

from hbsk.model_selection._compare import compare_estimators
from hbsk.model_selection._cross_validate_sums import cross_validate_sums
from hbsk.model_selection._information import compare, loo, waic
from hbsk.model_selection._scorers import make_group_scorer
from hbsk.model_selection._splitters import WithinGroupKFold

__all__ = [
    "WithinGroupKFold",
    "compare",
    "compare_estimators",
    "cross_validate_sums",
    "loo",
    "make_group_scorer",
    "waic",
]
