"""Hierarchical Bayes for scikit-learn."""

from hbsk.classification import PartialPoolingClassifier
from hbsk.counts import PartialPoolingCountRegressor
from hbsk.encoder import PartialPoolingEncoder
from hbsk.james_stein import JamesSteinEstimator
from hbsk.partial_pooling import PartialPoolingRegressor
from hbsk.serialization import from_json, to_json
from hbsk.sufficient_statistics import SufficientStatistics

__all__ = [
    "JamesSteinEstimator",
    "PartialPoolingClassifier",
    "PartialPoolingCountRegressor",
    "PartialPoolingEncoder",
    "PartialPoolingRegressor",
    "SufficientStatistics",
    "__version__",
    "from_json",
    "to_json",
]
__version__ = "0.2.0"
