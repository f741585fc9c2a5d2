"""Posterior predictive checks: whether the model makes data like ours."""

from hbsk.predictive_checks._checks import PredictiveCheck, posterior_predictive_check
from hbsk.predictive_checks._statistics import per_group

__all__ = ["PredictiveCheck", "per_group", "posterior_predictive_check"]
