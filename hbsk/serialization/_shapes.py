"""Whether the arrays of what a JSON document holds fit one another, and hold numbers that a fit can have.

One line a field: its shape, in letters that mean the same number within an object and what it is linked to, and what
its numbers may be. A document that disagrees with itself is refused by the name of the field.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hbsk._engine.crossed_sums import PairSums
from hbsk._engine.log_density_surface import LogDensitySurface
from hbsk._engine.scaling import ColumnScaling
from hbsk._engine.sums import GroupSums
from hbsk._learnt import Fitted
from hbsk._posterior.crossed import CrossedPosterior
from hbsk._posterior.draws import DrawsPosterior
from hbsk._posterior.no_pooling import SeparateGroups
from hbsk._posterior.nodes import MarginalPosterior
from hbsk._shrinkage.linear_predictor import Directions, LinearPredictor
from hbsk._shrinkage.new_groups import NewGroups
from hbsk._shrinkage.predictions import FittedMeans
from hbsk._shrinkage.shrunken_groups import Departures
from hbsk.serialization._kinds import DamagedError

# What numbers may be: any that are finite; these and not negative; not negative and perhaps infinite; anything but
# infinite; weights, which sum to 1; whole and not negative; not negative, or NaN or infinite.
_FINITE, _SIZE, _ENDLESS, _MISSING, _WEIGHT, _INDEX, _UNKNOWN = range(7)

_NODES = {"weight": ("m", _WEIGHT), "replicate": ("m", _INDEX), "sigma": ("m", _SIZE), "factor": ("mqq", _FINITE)}
_FIELDS: dict[type, dict[str, tuple[str, int]]] = {
    GroupSums: {"zz": ("qqJ", _FINITE), "zx": ("qPJ", _FINITE), "xx": ("PP", _FINITE), "copies": ("J", _SIZE)},
    PairSums: {"first": ("n", _INDEX), "second": ("n", _INDEX), "blocks": ("nqr", _FINITE)},
    MarginalPosterior: {**_NODES, "common_mean": ("mp", _FINITE), "prior_precision": ("p", _ENDLESS)},
    CrossedPosterior: {
        **_NODES, "theta": ("md", _FINITE), "sigmas": ("ms", _SIZE), "common_mean": ("mp", _FINITE),
        "common_root": ("mpp", _FINITE),
    },
    ColumnScaling: {
        "x_centre": ("p", _FINITE), "x_scale": ("p", _SIZE), "z_scale": ("q", _SIZE), "kept": ("k", _INDEX),
        "z_centre": ("q", _FINITE),
    },
    DrawsPosterior: {"common": ("mp", _FINITE), "sigma": ("m", _SIZE)},
    LogDensitySurface: {"centre": ("d", _FINITE), "scale": ("dd", _FINITE), "coefficient": ("t", _FINITE)},
    Directions: {"centre": ("p", _FINITE), "transform": ("pk", _FINITE)},
    LinearPredictor: {"coef": ("r", _FINITE), "covariance": ("rr", _MISSING)},
    Departures: {"points": ("Jk", _FINITE), "lean": ("Jk", _MISSING), "covariance": ("kk", _MISSING)},
    NewGroups: {
        "weight": ("m", _WEIGHT), "tau2": ("m", _SIZE), "sigma2": ("m", _SIZE), "spread": ("m", _SIZE),
        "covariance": ("rr", _FINITE),
    },
    FittedMeans: {
        "theta": ("J", _FINITE), "theta_sd": ("J", _UNKNOWN), "shrinkage": ("J", _FINITE), "deviations": ("J", _FINITE)
    },
}  # fmt: skip
# Numbers that are no arrays and may not be negative.
_NUMBERS: dict[type, tuple[str, ...]] = {
    FittedMeans: ("nu", "sigma2", "n_target", "new_variance"),
    NewGroups: ("degrees",),
    GroupSums: ("n",),
}
# Parts whose letters mean the same as those of the whole: (field, letter of the whole, letter of the part).
_LINKS: dict[type, tuple[tuple[str, str, str], ...]] = {
    MarginalPosterior: (("sums", "q", "q"), ("sums", "p", "p")),
    LinearPredictor: (("directions", "r", "K"),),
    FittedMeans: (("departures", "J", "J"), ("predictor", "r", "r"), ("new_groups", "r", "r")),
}


def check_arrays(value: Any) -> None:
    """Raise unless the arrays of an object, and of its parts, agree in size and hold numbers that they may hold."""
    sizes: dict[str, int] = {}
    for name, array, shape, kind in _arrays(value):
        _match(value, name, array, shape, sizes)
        if not _may_be(array, kind):
            raise _damaged(
                value, name, "has numbers that no fit has: NaN, infinite or negative where that is not possible"
            )
    for name in _NUMBERS.get(type(value), ()):
        if getattr(value, name) < 0:
            raise _damaged(value, name, f"is negative: {getattr(value, name)!r:.60}")
    if isinstance(value, ColumnScaling):
        _check_scaling(value)
    if isinstance(value, Fitted) and type(value.posterior) is MarginalPosterior:
        _, q, _ = value.posterior.factor.shape
        scaling = value.posterior.scaling
        if (len(scaling.kept), len(scaling.z_scale)) != (value.posterior.common_mean.shape[1], q):
            raise _damaged(value.posterior, "scaling", "has other columns than the coefficients")
    if isinstance(value, GroupSums):
        for name in ("zz", "xx"):
            if (np.einsum("kk...->k...", getattr(value, name)) < 0).any():
                raise _damaged(value, name, "has negative sums of squares")
    _check_parts(value, sizes)


def _check_scaling(scaling: ColumnScaling) -> None:
    for name in ("y_centre", "y_scale"):
        if not np.isfinite(getattr(scaling, name)):
            raise _damaged(scaling, name, f"is {getattr(scaling, name)!r:.60}")
    if (scaling.kept >= len(scaling.x_scale)).any():
        raise _damaged(scaling, "kept", f"names columns beyond the {len(scaling.x_scale)} there are")
    if scaling.varying_intercept is not None and not 0 <= scaling.varying_intercept < len(scaling.z_scale):
        raise _damaged(scaling, "varying_intercept", f"is none of {len(scaling.z_scale)} columns")


def _arrays(value: Any) -> Iterator[tuple[str, np.ndarray, str, int]]:
    for kind, fields in _FIELDS.items():
        if type(value) is kind or (kind is MarginalPosterior and type(value) is SeparateGroups):
            for name, (shape, numbers) in fields.items():
                if getattr(value, name) is not None:
                    yield name, getattr(value, name), shape, numbers


def _match(value: Any, name: str, array: Any, shape: str, sizes: dict[str, int]) -> None:
    """Take the sizes of an array for what its letters mean, or compare them; P is p + 1, and K is k + 1 of a part."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or array.ndim != len(shape):
        raise _damaged(value, name, f"is no array of numbers with {len(shape)} axes")
    for letter, size in zip(shape, array.shape, strict=True):
        if sizes.setdefault(letter, size) != size:
            raise _damaged(value, name, f"has shape {array.shape}, where other arrays have {sizes[letter]} for {size}")
    for plus_one, letter in (("P", "p"), ("K", "k")):
        if {plus_one, letter} <= sizes.keys() and sizes[plus_one] != sizes[letter] + 1:
            raise _damaged(value, name, f"has shape {array.shape}, which does not fit the other arrays")


def _check_parts(value: Any, sizes: dict[str, int]) -> None:
    for field, of_whole, of_part in _LINKS.get(type(value), ()):
        part = getattr(value, field)
        if part is None:
            continue
        inner: dict[str, int] = {}
        for name, array, shape, _ in _arrays(part):
            _match(part, name, array, shape, inner)
        found = inner.get(of_part)
        if of_part == "K":
            found = inner["k"] + 1
        elif of_whole == "r" and of_whole not in sizes:
            sizes["r"] = found if found is not None else 0
        elif of_part == "p":
            found = inner["P"] - 1
        if found != sizes[of_whole]:
            raise _damaged(value, field, f"has arrays of size {found}, where {sizes[of_whole]} is due")


def _may_be(array: np.ndarray, kind: int) -> bool:
    if kind == _INDEX:
        return array.dtype.kind in "iu" and bool((array >= 0).all())
    if kind == _UNKNOWN:
        return not (array < 0).any()
    if kind == _MISSING:
        return not np.isinf(array).any()
    if kind == _ENDLESS:
        return bool((array >= 0).all())
    if not np.isfinite(array).all():
        return False
    if kind == _WEIGHT:
        return bool((array >= 0).all()) and abs(float(array.sum()) - 1.0) < 1e-6
    return kind == _FINITE or bool((array >= 0).all())


def _damaged(value: Any, name: str, what: str) -> DamagedError:
    return DamagedError(f"The document is damaged: {name} of a {type(value).__name__} {what}.")
