"""Displays of fitted estimators, in the manner of scikit-learn's: `from_estimator`, `plot`, artists kept.

Matplotlib is imported when something is drawn, not before.
"""

from hbsk.plotting._forest_display import ForestDisplay
from hbsk.plotting._group_effects_display import GroupEffectsDisplay
from hbsk.plotting._group_size_display import GroupSizeDisplay
from hbsk.plotting._predictive_check_display import PredictiveCheckDisplay
from hbsk.plotting._rank_display import RankDisplay
from hbsk.plotting._risk_display import RiskDisplay
from hbsk.plotting._shrinkage_display import ShrinkageDisplay

__all__ = [
    "ForestDisplay",
    "GroupEffectsDisplay",
    "GroupSizeDisplay",
    "PredictiveCheckDisplay",
    "RankDisplay",
    "RiskDisplay",
    "ShrinkageDisplay",
]
