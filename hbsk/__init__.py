"""Hierarchical Bayes for scikit-learn."""

from hbsk.partial_pooling import PartialPoolingRegressor

__all__ = ["PartialPoolingRegressor"]
__version__ = "0.1.0"
