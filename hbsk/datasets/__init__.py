"""Small classic grouped data sets, and data made up from a known truth."""

from hbsk.datasets._grouped_regression import make_grouped_regression
from hbsk.datasets._loaders import (
    load_baseball,
    load_bcg,
    load_dyestuff,
    load_dyestuff2,
    load_eight_schools,
    load_radon,
    load_sleepstudy,
)

__all__ = [
    "load_baseball",
    "load_bcg",
    "load_dyestuff",
    "load_dyestuff2",
    "load_eight_schools",
    "load_radon",
    "load_sleepstudy",
    "make_grouped_regression",
]
