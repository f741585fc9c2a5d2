"""Hierarchical Bayes for scikit-learn."""

from hbsk._json import from_json, to_json
from hbsk.james_stein import JamesSteinEstimator
from hbsk.partial_pooling import PartialPoolingRegressor

__all__ = ["JamesSteinEstimator", "PartialPoolingRegressor", "__version__", "from_json", "to_json"]
__version__ = "0.1.0"
