"""Whether the arrays of what a JSON document holds fit one another, and hold numbers that a fit can have.

One line a field: its shape, in letters that mean the same number within an object and what it is linked to, and what
its numbers may be. A document that disagrees with itself is refused by the name of the field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from hbsk._data.labels import GroupFactor
from hbsk._documents.kinds import DamagedError
from hbsk._engine.crossed_sums import CrossedSums, PairSums
from hbsk._engine.generalized.inner import EffectMoments
from hbsk._engine.log_density_surface import LogDensitySurface
from hbsk._engine.scaling import ColumnScaling
from hbsk._engine.sums import GroupSums, Moments
from hbsk._fit.learnt import BesideSums, Fitted, Learnt
from hbsk._posterior.crossed import CrossedPosterior
from hbsk._posterior.draws import DrawsPosterior
from hbsk._posterior.generalized import GeneralizedPosterior
from hbsk._posterior.no_pooling import NoPoolingPosterior, SeparateGroups
from hbsk._posterior.nodes import MarginalPosterior
from hbsk._shrinkage.averaged_variance import AveragedVariance, KnownGroups
from hbsk._shrinkage.conjugate import RateNodes
from hbsk._shrinkage.linear_predictor import Directions, LinearPredictor
from hbsk._shrinkage.predictions import FittedMeans
from hbsk._shrinkage.rates import FittedRates
from hbsk._shrinkage.shrunken_groups import Departures
from hbsk._shrinkage.within_groups import WithinSlopes
from hbsk.encoder import EncodedColumn

# What numbers may be: any that are finite; these and not negative; not negative and perhaps infinite; anything but
# infinite; weights, which sum to 1; whole and not negative; not negative, or NaN or infinite.
_FINITE, _SIZE, _ENDLESS, _MISSING, _WEIGHT, _INDEX, _UNKNOWN = range(7)

_WEIGHTED = {"weight": ("m", _WEIGHT), "replicate": ("m", _INDEX)}
_NODES = {**_WEIGHTED, "sigma": ("m", _SIZE), "factor": ("mqq", _FINITE)}
_MARGINAL = {**_NODES, "common_mean": ("mp", _FINITE), "prior_precision": ("p", _ENDLESS)}
_FIELDS: dict[type, dict[str, tuple[str, int]]] = {
    GroupSums: {"zz": ("qqJ", _FINITE), "zx": ("qPJ", _FINITE), "xx": ("PP", _FINITE), "copies": ("J", _SIZE)},
    Moments: {"x_mean": ("p", _FINITE), "x_sd": ("p", _SIZE)},
    PairSums: {"first": ("n", _INDEX), "second": ("n", _INDEX), "blocks": ("nqr", _FINITE)},
    MarginalPosterior: _MARGINAL,
    SeparateGroups: {**_MARGINAL, "inverse": ("hJ", _FINITE), "shared": ("s", _INDEX)},
    NoPoolingPosterior: {"absorbed": ("pa", _FINITE), "identified": ("Jqq", _FINITE)},
    GeneralizedPosterior: {
        **_WEIGHTED, "factor": ("mqq", _FINITE), "common": ("mp", _FINITE), "group_log_likelihood": ("mJ", _FINITE),
        "log_growth": ("mJ", _FINITE), "theta": ("md", _FINITE), "successes": ("J", _SIZE), "trials": ("J", _SIZE),
    },
    EffectMoments: {"mean": ("qmJ", _FINITE), "covariance": ("hmJ", _FINITE), "third": ("tmJ", _FINITE)},
    CrossedPosterior: {
        **_NODES, "theta": ("md", _FINITE), "sigmas": ("ms", _SIZE), "common_mean": ("mp", _FINITE),
        "common_root": ("mpp", _FINITE), "probes": ("mo", _FINITE),
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
    KnownGroups: {
        "relative_variances": ("J", _SIZE), "deviations": ("J", _FINITE), "moved": ("J", _FINITE)
    },
    AveragedVariance: {
        "weight": ("m", _WEIGHT), "tau2": ("m", _SIZE), "sigma2": ("m", _SIZE), "spread": ("m", _SIZE),
        "coef": ("mr", _FINITE), "covariance": ("rr", _FINITE),
    },
    EncodedColumn: {"value": ("lc", _FINITE), "sd": ("lc", _UNKNOWN), "counts": ("l", _SIZE)},
    FittedMeans: {
        "theta": ("J", _FINITE), "theta_sd": ("J", _UNKNOWN), "shrinkage": ("J", _FINITE), "deviations": ("J", _FINITE),
        "variances": ("J", _UNKNOWN),
    },
    FittedRates: {
        "theta": ("J", _SIZE), "theta_sd": ("J", _SIZE), "shrinkage": ("J", _SIZE), "events": ("J", _SIZE),
        "size": ("J", _SIZE),
    },
    RateNodes: {
        "weight": ("m", _WEIGHT), "kappa": ("m", _SIZE), "mean": ("m", _SIZE), "rest": ("m", _SIZE),
    },
    WithinSlopes: {"slopes": ("r", _FINITE), "information": ("r", _SIZE)},
}  # fmt: skip
# Numbers that are no arrays and may not be negative.
_NUMBERS: dict[type, tuple[str, ...]] = {
    FittedMeans: ("nu", "sigma2", "n_target", "new_variance"),
    AveragedVariance: ("degrees",),
    FittedRates: ("kappa", "target"),
    GroupSums: ("n",),
    Moments: ("n", "y_sd", "error_variance"),
    BesideSums: ("n_rows", "least_noise"),
}
# Letters that follow from others; h counts pairs of columns and t triples, each once.
_COUNTED: tuple[tuple[str, str, Callable[[int], int]], ...] = (
    ("P", "p", lambda p: p + 1),
    ("K", "k", lambda k: k + 1),
    ("h", "q", lambda q: comb(q + 1, 2)),
    ("t", "q", lambda q: comb(q + 2, 3)),
)
# Parts whose letters mean the same as those of the whole: (field, letter of the whole, letter of the part).
_LINKS: dict[type, tuple[tuple[str, str, str], ...]] = {
    MarginalPosterior: (("sums", "q", "q"), ("sums", "p", "p")),
    SeparateGroups: (
        ("sums", "q", "q"), ("sums", "p", "p"), ("sums", "J", "J"), ("part", "m", "m"), ("part", "s", "p"),
    ),
    NoPoolingPosterior: (
        ("known", "p", "p"), ("known", "q", "q"), ("known", "J", "J"), ("known", "m", "m"), ("new", "m", "m"),
        ("new", "p", "p"),
    ),
    GeneralizedPosterior: (("effects", "q", "q"), ("effects", "m", "m"), ("effects", "J", "J")),
    LinearPredictor: (("directions", "r", "K"),),
    FittedMeans: (
        ("departures", "J", "J"), ("predictor", "r", "r"), ("averaged", "r", "r"), ("groups", "J", "J"),
        ("within", "r", "r"),
    ),
}  # fmt: skip
# Where posteriors that have a scaling keep their coefficients.
_COEFFICIENTS: dict[type, str] = {
    MarginalPosterior: "common_mean",
    SeparateGroups: "common_mean",
    CrossedPosterior: "common_mean",
    GeneralizedPosterior: "common",
}
# Share of a bound that rounding may go beyond.
_ROUNDING = 1e-6


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
    if isinstance(value, Fitted):
        _check_columns(value.posterior)
    if isinstance(value, GroupSums):
        for name in ("zz", "xx"):
            if (np.einsum("kk...->k...", getattr(value, name)) < 0).any():
                raise _damaged(value, name, "has negative sums of squares")
    if type(value) in _CHECKS:
        _CHECKS[type(value)](value)
    _check_parts(value, sizes)


def _check_pairs(sums: CrossedSums) -> None:
    """Raise unless the sums over pairs of levels are of levels and columns there are, and small enough for them.

    By Cauchy and Schwarz a sum of products over some rows of two levels is at most the root of the product of the sums
    of squares over all of them.
    """
    factors = list(combinations(sums.factors, 2))
    if len(sums.pairs) != len(factors):
        raise _damaged(sums, "pairs", f"are {len(sums.pairs)}, where {len(factors)} are due")
    for (f, g), pair in zip(factors, sums.pairs, strict=True):
        if pair.blocks.shape[1:] != (f.n_varying, g.n_varying):
            raise _damaged(pair, "blocks", f"has shape {pair.blocks.shape}, which is not that of the columns")
        for name, levels, factor in (("first", pair.first, f), ("second", pair.second, g)):
            if (levels >= factor.n_groups).any():
                raise _damaged(pair, name, f"names levels beyond the {factor.n_groups} there are")
        of_f, of_g = (np.sqrt(np.maximum(np.einsum("kkj->jk", factor.zz), 0.0)) for factor in (f, g))
        most = of_f[pair.first][:, :, None] * of_g[pair.second][:, None, :]
        if (np.abs(pair.blocks) > most + _ROUNDING * (most + f.n)).any():
            raise _damaged(pair, "blocks", "has numbers that are too large for the sums of squares of their levels")


def _check_counts(posterior: CrossedPosterior) -> None:
    """Raise unless rows counted by pairs of levels are not negative, and add up to those of the levels."""
    sums, scalings = posterior.model.sums, posterior.scalings
    if len(scalings) != len(sums.factors):
        raise _damaged(posterior, "scalings", f"are {len(scalings)}, where {len(sums.factors)} are due")
    for (f, g), pair in zip(combinations(range(len(scalings)), 2), sums.pairs, strict=True):
        at_f, at_g = scalings[f].varying_intercept, scalings[g].varying_intercept
        if at_f is None or at_g is None:
            continue
        counts, due = pair.blocks[:, at_f, at_g], sums.factors[f].zz[at_f, at_f]
        summed = np.bincount(pair.first, counts, minlength=len(due))
        if (counts < 0).any() or not np.allclose(summed, due, rtol=_ROUNDING, atol=_ROUNDING):
            raise _damaged(pair, "blocks", "has numbers of rows that are negative, or not those of the levels")


def _check_shared(separate: SeparateGroups) -> None:
    if (separate.shared >= separate.common_mean.shape[1]).any():
        raise _damaged(separate, "shared", f"names columns beyond the {separate.common_mean.shape[1]} there are")


def _check_labels(factor: GroupFactor) -> None:
    if factor.labels.ndim != 1 or any(isinstance(label, list | dict) for label in factor.labels.tolist()):
        raise _damaged(factor, "labels", "is no list of labels")


def _check_beside(learnt: Learnt) -> None:
    """Raise unless what is kept beside sums is of their columns and groups."""
    beside, scaling = learnt.beside, learnt.fitted.scaling
    if beside is None:
        return
    for counted, copies in zip(beside.counted, learnt.copies, strict=True):
        if counted.shape != copies.shape or not _may_be(counted, _SIZE):
            raise _damaged(beside, "counted", "has other sizes than the groups, or negative numbers")
    moments = beside.moments
    if scaling is None or moments.x_mean.shape != scaling.x_scale.shape:
        raise _damaged(beside, "moments", "are of other columns than the sums")
    q = len(scaling.z_scale)
    for numbers in (moments.z_mean, moments.z_sd):
        if [part.shape for part in numbers] != [(q,)] * bool(q) or not all(_may_be(part, _FINITE) for part in numbers):
            raise _damaged(beside, "moments", "are of other varying columns than the sums")


_CHECKS: dict[type, Callable[[Any], None]] = {
    GroupFactor: _check_labels,
    CrossedSums: _check_pairs,
    CrossedPosterior: _check_counts,
    SeparateGroups: _check_shared,
    Learnt: _check_beside,
}


def _check_columns(posterior: Any) -> None:
    """Raise unless the scaling of a posterior is of the columns that it has coefficients of."""
    if posterior.pools_nothing:
        _check_columns(posterior.known)
        posterior = posterior.new
    if type(posterior) not in _COEFFICIENTS:
        return
    p, q = getattr(posterior, _COEFFICIENTS[type(posterior)]).shape[1], posterior.factor.shape[1]
    scalings = posterior.scalings if posterior.has_crossed_model else (posterior.scaling,)
    n_varying = sum(len(scaling.z_scale) for scaling in scalings)
    # without groups the scaling may be that of the model with them
    if any(len(scaling.kept) != p for scaling in scalings) or (q and n_varying != q):
        raise _damaged(posterior, "scaling", "has other columns than the coefficients")


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
        if type(value) is kind:
            for name, (shape, numbers) in fields.items():
                if getattr(value, name) is not None:
                    yield name, getattr(value, name), shape, numbers


def _match(value: Any, name: str, array: Any, shape: str, sizes: dict[str, int]) -> None:
    """Take the sizes of an array for what its letters mean, or compare them."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or array.ndim != len(shape):
        raise _damaged(value, name, f"is no array of numbers with {len(shape)} axes")
    for letter, size in zip(shape, array.shape, strict=True):
        if sizes.setdefault(letter, size) != size:
            raise _damaged(value, name, f"has shape {array.shape}, where other arrays have {sizes[letter]} for {size}")
    for letter, of, due in _COUNTED:
        if {letter, of} <= sizes.keys() and sizes[letter] != due(sizes[of]):
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
        elif of_part == "p" and "P" in inner:
            found = inner["P"] - 1
        if found != sizes.setdefault(of_whole, 0 if found is None else found):
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
