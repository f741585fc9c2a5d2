"""Priors as plain data: check what the user gave, and fill in the defaults."""

from __future__ import annotations

import difflib
import numbers
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hbsk._engine.sd_prior import SD_FAMILIES
from hbsk._messages import shown
from hbsk._model.centres import centre_key, centre_of, default_centre, movable_columns
from hbsk._model.specification import RESERVED, Specification

_REQUIRED = object()
# Arguments in every parametrisation, with PyMC's defaults.
DISTRIBUTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "Normal": ({"mu": 0.0, "sigma": 1.0}, {"mu": 0.0, "tau": _REQUIRED}),
    "Flat": ({},),
    "HalfFlat": ({},),
    "HalfNormal": ({"sigma": 1.0}, {"tau": _REQUIRED}),
    "HalfStudentT": ({"nu": _REQUIRED, "sigma": 1.0}, {"nu": _REQUIRED, "lam": _REQUIRED}),
    "HalfCauchy": ({"beta": _REQUIRED},),
    "Exponential": ({"lam": _REQUIRED}, {"scale": 1.0}),
    "Gamma": ({"alpha": _REQUIRED, "beta": _REQUIRED}, {"mu": _REQUIRED, "sigma": _REQUIRED}),
    "InverseGamma": ({"alpha": _REQUIRED, "beta": _REQUIRED}, {"mu": _REQUIRED, "sigma": _REQUIRED}),
    "Uniform": ({"lower": 0.0, "upper": 1.0},),
    "StudentT": ({"nu": _REQUIRED, "mu": 0.0, "sigma": 1.0}, {"nu": _REQUIRED, "mu": 0.0, "lam": _REQUIRED}),
    "Cauchy": ({"alpha": _REQUIRED, "beta": _REQUIRED},),
    "Laplace": ({"mu": _REQUIRED, "b": _REQUIRED},),
    "Logistic": ({"mu": 0.0, "s": 1.0},),
    "LogNormal": ({"mu": 0.0, "sigma": 1.0}, {"mu": 0.0, "tau": _REQUIRED}),
    "TruncatedNormal": ({"mu": 0.0, "sigma": 1.0, "lower": None, "upper": None},),
    "SkewNormal": ({"alpha": 1.0, "mu": 0.0, "sigma": 1.0},),
    "Gumbel": ({"mu": _REQUIRED, "beta": _REQUIRED},),
    "Weibull": ({"alpha": _REQUIRED, "beta": _REQUIRED},),
    "Wald": ({"mu": _REQUIRED, "lam": _REQUIRED},),
    "Beta": ({"alpha": _REQUIRED, "beta": _REQUIRED}, {"mu": _REQUIRED, "sigma": _REQUIRED}),
    "Pareto": ({"alpha": _REQUIRED, "m": _REQUIRED},),
}
_POSITIVE = {"sigma", "tau", "lam", "nu", "beta", "b", "s", "scale", "m"}
_POSITIVE_ALPHA = {"Gamma", "InverseGamma", "Weibull", "Beta", "Pareto"}
_POSITIVE_MU = {"Gamma", "InverseGamma", "Wald", "Beta"}
_SD_ONLY = {*SD_FAMILIES, "LogNormal", "Weibull", "Wald", "Pareto", "Beta", "TruncatedNormal"}
_LKJ_NAMES = ("LKJ", "LKJCorr", "LKJCholeskyCov")


# --------------------------------------------------------------------------------------------------------------------
# The user's priors and the defaults


def resolve_priors(
    specification: Specification,
    defaults: Mapping[str, Any],
    user_priors: Mapping[str, Any] | None,
    *,
    known_standard_error: bool = False,
    family: str = "gaussian",
    unused: Specification | None = None,
) -> dict[str, Any]:
    """Fill the user's priors into the defaults.

    Parameters
    ----------
    specification : Specification
    defaults : dict
        A prior for every term, in plain data.
    user_priors : dict or None
        `bambi.Prior` objects, plain data or numbers, by term name.
    known_standard_error : bool
        Whether the residual sd is known and has no prior.
    family : {"gaussian", "binomial", "poisson"}, default="gaussian"
        Of y; only a Gaussian y has a residual sd.
    unused : Specification, optional
        A larger model whose keys are accepted and left unused, such as the one with groups where they are ignored.

    Returns
    -------
    dict
        Term name to plain data, or to a number where the parameter is fixed.
    """
    no_sigma = _why_no_sigma(known_standard_error, family)
    terms = _Terms(specification, no_sigma)
    resolved = {key: value for key, value in defaults.items() if key in terms.order}
    if not no_sigma and "sigma" not in resolved:
        raise ValueError("defaults lack a prior for 'sigma'.")
    for key in terms.correlated:
        resolved.setdefault(key, ("LKJ", {"eta": 1.0}))
    for key, factor in terms.centres.items():
        resolved.setdefault(key, centre_of(factor, {}))
    given = {} if user_priors is None else user_priors
    if not isinstance(given, Mapping):
        raise TypeError(f"priors must be a dict from term names to priors, got {shown(user_priors)}.")
    given = terms.by_name(given, _Terms(unused, no_sigma) if unused is not None else None)
    for kind, members in (("common", terms.common), ("group_specific", terms.varying)):
        if kind in given:
            value = given.pop(kind)
            given |= {term: value for term in members if term not in given}
    for key, value in given.items():
        resolved[key] = terms.check(key, value)
    missing = [key for key in terms.order if key not in resolved]
    if missing:
        raise ValueError(f"defaults lack priors for {missing!r}.")
    return {key: resolved[key] for key in terms.order}


def resolve_centres(
    specification: Specification, z_mean: Sequence[np.ndarray], user_priors: Mapping[str, Any] | None
) -> dict[str, dict[str, float]]:
    """Return the points that priors of effects refer to, by key; on them depend the scales of defaults.

    Parameters
    ----------
    specification : Specification
    z_mean : sequence of ndarray of shape (q,)
        Means of the varying columns of each factor, over copies.
    user_priors : dict or None
    """
    terms = _Terms(specification)
    given = user_priors if isinstance(user_priors, Mapping) else {}
    given = {terms.names.get(name, name): value for name, value in given.items() if isinstance(name, str)}
    centres = {}
    for factor, mean in zip(specification.factors, z_mean, strict=True):
        key = centre_key(factor)
        if key in terms.centres:
            centres[key] = centre_of(factor, given[key]) if key in given else default_centre(factor, mean, [*given])
    return centres


def _why_no_sigma(known_standard_error: bool, family: str) -> str:
    """Return why the residual sd is no parameter; empty where it is one."""
    if family != "gaussian":
        return f"a {family} response has no residual sd; leave it out."
    if known_standard_error:
        return "the residual sd is known from standard_error= and has no prior; leave one of them out."
    return ""


class _Terms:
    """What a model can have priors on."""

    def __init__(self, specification: Specification, no_sigma: str = ""):
        self.common = columns_of_terms(specification.common_terms)
        self.varying: dict[str, int] = {}
        for factor in specification.factors:
            self.varying |= columns_of_terms(factor.terms)
        self.correlated = {
            f"corr|{factor.name}": factor
            for factor in specification.factors
            if any(len(block) > 1 for block in factor.blocks)
        }
        self.centres = {centre_key(factor): factor for factor in specification.factors if movable_columns(factor)}
        self.unmoved = {centre_key(factor): factor for factor in specification.factors}
        self.independent = {f"corr|{factor.name}" for factor in specification.factors} - set(self.correlated)
        self.no_sigma = no_sigma
        sigma = [] if no_sigma else ["sigma"]
        self.order = [*self.common, *self.varying, *self.correlated, *self.centres, *sigma]
        self.empty = set(specification.empty_terms)
        # RESERVED names mean what they say; a column of that name is reached by its backquoted name.
        self.names = {name: key for name, key in specification.aliases.items() if name not in RESERVED or name == key}

    def by_name(self, given: Mapping[str, Any], larger: _Terms | None) -> dict[str, Any]:
        """Return the user's priors by our own names of terms, unknown keys refused."""
        found: dict[str, Any] = {}
        for name, value in given.items():
            key = self.names.get(name, name) if isinstance(name, str) else name
            if key == "sigma" and self.no_sigma:
                raise ValueError(f"priors has a prior for 'sigma' ({shown(value)}), but {self.no_sigma}")
            if key in self.empty or (larger is not None and key not in self.order and larger.accepts(key)):
                continue
            if key in self.unmoved and key not in self.centres:
                centre_of(self.unmoved[key], value)  # may name no column
                continue
            if key in self.independent:
                raise ValueError(
                    f"priors has the key {name!r}, but no effects of this factor are correlated: that needs two "
                    "varying terms in one pair of parentheses, such as (x | g), and correlated=True."
                )
            if key not in self.order and key not in ("common", "group_specific"):
                raise self.unknown(name)
            if key in found:
                raise ValueError(f"priors names the term {shown(key)} twice; keep one of the keys.")
            found[key] = value
        return found

    def accepts(self, name: Any) -> bool:
        """Return whether the name is a key of this model."""
        key = self.names.get(name, name)
        return key in self.order or key in self.independent or key in self.empty or key in self.unmoved

    def unknown(self, name: Any) -> ValueError:
        valid = [*self.order, "common", "group_specific"]
        close = difflib.get_close_matches(str(name), valid, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return ValueError(
            f"priors has the key {name!r}, which is no term of this model.{hint} Valid keys: "
            f"{', '.join(map(repr, valid))}."
        )

    def check(self, key: str, value: Any) -> Any:
        """Return the prior of one term as plain data."""
        if key in self.correlated:
            return _lkj(key, value)
        if key in self.centres:
            return centre_of(self.centres[key], value)
        plain = _plain(key, value, zero_sd=key in self.varying)
        if key == "sigma":
            _check_sd(key, plain, 1)
        elif key in self.varying:
            _check_varying(key, plain, self.varying[key])
        elif not isinstance(plain, tuple):
            _check_length(key, "the fixed value", plain, self.common[key])
        else:
            if any(isinstance(argument, tuple) for argument in plain[1].values()):
                raise ValueError(f"priors[{shown(key)}] has a prior inside a prior, which only varying terms can have.")
            _check_lengths(key, plain, self.common[key])
        return plain


def columns_of_terms(terms: Sequence[str]) -> dict[str, int]:
    """Count the columns of each term, in order."""
    counts: dict[str, int] = {}
    for term in terms:
        counts[term] = counts.get(term, 0) + 1
    return counts


# --------------------------------------------------------------------------------------------------------------------
# One prior


def _is_bambi_prior(value: Any) -> bool:
    """Return whether it is a `bambi.Prior`, without importing Bambi: it is imported already if this is one."""
    bambi = sys.modules.get("bambi")
    return bambi is not None and isinstance(value, bambi.Prior)


def _plain(key: str, value: Any, *, zero_sd: bool = False) -> Any:
    """Return a prior, or a number or list of numbers in its place, as checked plain data.

    With `zero_sd` the sd of a Normal prior may be 0.
    """
    if _is_bambi_prior(value):
        if value.dist is not None:
            raise ValueError(
                f"priors[{shown(key)}] is a bambi.Prior with dist={value.dist!r}; a function is no plain data. "
                "Use a named distribution, or set it on the model that to_bambi() returns."
            )
        value = (value.name, value.args)
    if _is_pair(value):
        return _distribution(key, *value, zero_sd=zero_sd)
    number = _number(value)
    if number is None:
        raise ValueError(
            f"priors[{shown(key)}] is {shown(value)}; a prior is a bambi.Prior, a pair such as "
            "('Normal', {'mu': 0, 'sigma': 1}), or a number that fixes the parameter."
        )
    if not np.all(np.isfinite(number)):
        raise ValueError(f"priors[{shown(key)}] is {shown(value)}; a fixed value must be finite.")
    return number


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[0], str)


def _number(value: Any) -> float | list[float] | None:
    """Return a number or a list of numbers, None for anything else."""
    if isinstance(value, bool | np.bool_ | str):
        return None
    if isinstance(value, numbers.Real):
        return float(value)
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    if array.dtype.kind not in "iuf" or array.ndim > 1 or array.size == 0:
        return None
    return float(array.reshape(())) if array.size == 1 else array.astype(np.float64).tolist()


def _distribution(key: str, name: str, arguments: Any, *, zero_sd: bool = False) -> tuple[str, dict[str, Any]]:
    name = "LogNormal" if name == "Lognormal" else name
    if name not in DISTRIBUTIONS:
        raise ValueError(
            f"priors[{shown(key)}] has the distribution {name!r}; known distributions are {', '.join(DISTRIBUTIONS)}."
        )
    if not isinstance(arguments, Mapping):
        raise ValueError(f"priors[{shown(key)}]: the arguments of {name} must be a dict, got {shown(arguments)}.")
    for parameters in DISTRIBUTIONS[name]:
        required = {argument for argument, default in parameters.items() if default is _REQUIRED}
        if required <= set(arguments) <= set(parameters):
            break
    else:
        choices = " or ".join(f"({', '.join(parameters)})" for parameters in DISTRIBUTIONS[name])
        raise ValueError(f"priors[{shown(key)}]: {name} takes {choices}, got {sorted(arguments)}.")
    plain = {}
    for argument, default in parameters.items():
        value = arguments.get(argument, default)
        if value is not None:
            plain[argument] = _argument(key, name, argument, value, zero_sd and (name, argument) == ("Normal", "sigma"))
    if name in ("Uniform", "TruncatedNormal"):
        low, high = plain.get("lower", -np.inf), plain.get("upper", np.inf)
        if isinstance(low, tuple) or isinstance(high, tuple):
            raise ValueError(f"priors[{shown(key)}]: the bounds of {name} must be numbers, got {shown(plain)}.")
        if not np.all(np.less(low, high)):
            raise ValueError(f"priors[{shown(key)}]: {name} needs lower < upper, got {shown(plain)}.")
    return name, plain


def _argument(key: str, name: str, argument: str, value: Any, zero: bool) -> Any:
    if _is_bambi_prior(value) or _is_pair(value):
        return _plain(key, value)
    number = _number(value)
    if number is None or not np.all(np.isfinite(number)):
        raise ValueError(f"priors[{shown(key)}]: {argument} of {name} must be a finite number, got {shown(value)}.")
    if _is_positive(name, argument) and not np.all(np.greater_equal(number, 0) if zero else np.greater(number, 0)):
        least = "positive, or 0 to switch the term off" if zero else "positive"
        raise ValueError(f"priors[{shown(key)}]: {argument} of {name} must be {least}, got {shown(value)}.")
    return number


def _is_positive(name: str, argument: str) -> bool:
    """Tell whether an argument of a distribution must be positive."""
    if argument == "alpha":
        return name in _POSITIVE_ALPHA
    return argument in _POSITIVE or (argument == "mu" and name in _POSITIVE_MU)


def _check_length(key: str, what: str, value: Any, n_columns: int) -> None:
    if isinstance(value, list) and len(value) != n_columns:
        raise ValueError(
            f"priors[{shown(key)}]: {what} has {len(value)} values, but the term has {n_columns} column(s); give one "
            "number for all or one for each."
        )


def _check_lengths(key: str, prior: tuple[str, dict[str, Any]], n_columns: int) -> None:
    for argument, value in prior[1].items():
        if isinstance(value, tuple):
            _check_lengths(key, value, n_columns)
        else:
            _check_length(key, argument, value, n_columns)


def _check_sd(key: str, prior: Any, n_columns: int) -> None:
    """Check the prior of a standard deviation, or the number it is fixed at."""
    if not isinstance(prior, tuple):
        if not np.all(np.greater(prior, 0)):
            raise ValueError(f"priors[{shown(key)}] fixes a standard deviation at {prior!r}; it must be positive.")
        _check_length(key, "the fixed standard deviation", prior, n_columns)
        return
    if any(isinstance(value, tuple) for value in prior[1].values()):
        raise ValueError(f"priors[{shown(key)}]: the prior of a standard deviation cannot hold further priors.")
    _check_positive(key, "a standard deviation", prior)
    _check_lengths(key, prior, n_columns)


def _check_positive(key: str, what: str, prior: tuple[str, dict[str, Any]]) -> None:
    """Raise if a prior allows negative values of what has none."""
    name, arguments = prior
    below_zero = [arguments.get("lower", -np.inf)] if name in ("Uniform", "TruncatedNormal") else [0.0]
    if name not in _SD_ONLY or np.any(np.less(below_zero, 0)):
        raise ValueError(
            f"priors[{shown(key)}]: {name}({shown(arguments)}) allows negative values, {what} has none. "
            f"Use one of {', '.join(SD_FAMILIES)}."
        )


def _check_varying(key: str, prior: Any, n_columns: int) -> None:
    if not isinstance(prior, tuple):
        raise ValueError(
            f"priors[{shown(key)}] is {prior!r}, but a varying term has one effect for each group. To fix their "
            f"standard deviation write ('Normal', {{'mu': 0, 'sigma': {prior!r}}})."
        )
    name, arguments = prior
    if name in ("Flat", "HalfFlat"):
        raise ValueError(
            f"priors[{shown(key)}] is {name}, under which groups share nothing; use pooling='none' for that."
        )
    for argument, value in arguments.items():
        if not isinstance(value, tuple):
            _check_length(key, argument, value, n_columns)
            continue
        if any(isinstance(deeper, tuple) for deeper in value[1].values()):
            raise ValueError(
                f"priors[{shown(key)}]: the prior of {argument} holds a further prior, {shown(value)}; priors of a "
                "varying term are two levels deep."
            )
        if _is_positive(name, argument):
            _check_positive(key, f"{argument} of {name}", value)
        _check_lengths(key, value, n_columns)


def _lkj(key: str, value: Any) -> tuple[str, dict[str, float]]:
    if _is_bambi_prior(value):
        value = (value.name, value.args)
    if _is_pair(value):
        name, arguments = value
        if name not in _LKJ_NAMES or not isinstance(arguments, Mapping) or set(arguments) != {"eta"}:
            raise ValueError(
                f"priors[{shown(key)}] must be ('LKJ', {{'eta': number}}) or the number eta, got {shown(value)}."
            )
        value = arguments["eta"]
    eta = _number(value)
    if not isinstance(eta, float) or not 0 < eta < np.inf:
        raise ValueError(f"priors[{shown(key)}]: eta of the LKJ prior must be a positive number, got {shown(value)}.")
    return "LKJ", {"eta": eta}
