"""What a random-effects meta-analysis tells: what `heterogeneity` of the estimators returns."""

from hbsk._shrinkage.heterogeneity import Heterogeneity

__all__ = ["Heterogeneity"]
