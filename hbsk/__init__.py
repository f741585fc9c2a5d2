"""Hierarchical Bayes for scikit-learn."""

from hbsk.james_stein import JamesSteinEstimator
from hbsk.partial_pooling import PartialPoolingRegressor

__all__ = ["JamesSteinEstimator", "PartialPoolingRegressor", "__version__"]
__version__ = "0.1.0"
