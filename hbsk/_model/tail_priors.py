"""Priors as far as the existence of a posterior depends on them, for models that the marginal engine cannot take.

Whether a posterior can be normalised, and which of its moments exist, depends on flat priors and on power tails alone
(`hbsk._engine.propriety`); any other prior is as good as a half-normal one. Effects of any family with a density that
is bounded, and positive about its centre, have for their scale the condition that normal effects have for their sd.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hbsk._engine.priors import EnginePriors
from hbsk._engine.propriety import TAIL_DEGREES, ImproperPosteriorError
from hbsk._engine.sd_prior import SdPrior
from hbsk._messages import shown
from hbsk._model.centres import centre_array
from hbsk._model.specification import Specification

FLAT = ("Flat", "HalfFlat")
# Arguments that move effects, multiply them, and are inverse squares of what multiplies them.
LOCATIONS = {
    **dict.fromkeys(("Normal", "StudentT", "Laplace", "Logistic", "SkewNormal", "Gumbel", "TruncatedNormal"), "mu"),
    "Cauchy": "alpha",
}
SCALES = {
    **dict.fromkeys(("Normal", "StudentT", "SkewNormal", "TruncatedNormal", "HalfNormal", "HalfStudentT"), "sigma"),
    **dict.fromkeys(("Cauchy", "Gumbel", "HalfCauchy"), "beta"),
    "Laplace": "b",
    "Logistic": "s",
    "Exponential": "scale",
}
PRECISIONS = {**dict.fromkeys(("Normal", "HalfNormal"), "tau"), **dict.fromkeys(("StudentT", "HalfStudentT"), "lam")}
# Arguments of laws whose density is zero or infinite at its end: what the data say of them is not known here.
NOT_JUDGED = {
    "Gamma": ("alpha", "mu", "sigma"),
    "InverseGamma": ("beta", "mu", "sigma"),
    "Weibull": ("beta",),
    "Beta": ("mu", "sigma"),
    "Pareto": ("m",),
}
# Powers with which densities begin at zero, plus one; all others vanish there faster than any power.
POWERS_AT_ZERO = {
    **dict.fromkeys(("HalfNormal", "HalfStudentT", "HalfCauchy", "Exponential", "TruncatedNormal", "Uniform"), 1.0),
    **dict.fromkeys(("Gamma", "Weibull", "Beta"), "alpha"),
}
LIGHT = SdPrior("HalfNormal", {"sigma": 1.0})


def tail_priors(
    specification: Specification, priors: Mapping[str, Any], known_standard_error: bool
) -> tuple[EnginePriors, tuple[int, ...]]:
    """Return priors of the marginal engine under which the same moments exist, and columns with flat means of effects.

    Parameters
    ----------
    specification : Specification
    priors : mapping
        Every prior of the model, as plain data.
    known_standard_error : bool

    Raises
    ------
    ImproperPosteriorError
        Where no data make the posterior of a flat prior proper.
    """
    common = [priors[term] for term in specification.common_terms]
    common_sd = np.array([np.inf if _is_flat(prior) else 1.0 for prior in common])
    residual = None if known_standard_error else _of_sd(priors["sigma"], 0)
    group_sd: list[SdPrior | float] = []
    means: list[int] = []
    blocks, etas, centres = [], [], []
    for factor in specification.factors:
        blocks += [tuple(len(group_sd) + k for k in block) for block in factor.blocks]
        etas += [1.0] * len(factor.blocks)
        centres.append(centre_array(factor, priors))
        for k, term in enumerate(factor.terms):
            scale, is_flat = _of_effects(term, priors[term], k - factor.terms.index(term))
            means += [len(group_sd)] if is_flat else []
            group_sd.append(scale)
    centre = np.concatenate(centres) if centres else None
    common_mean = np.zeros(len(common_sd))
    engine = EnginePriors(common_mean, common_sd, residual, group_sd, tuple(blocks), tuple(etas), centre=centre)
    return engine, tuple(means)


def _is_flat(prior: Any) -> bool:
    return isinstance(prior, tuple) and prior[0] in FLAT


def _of_column(value: Any, k: int) -> float:
    return float(value[k] if isinstance(value, list) else value)


def _of_sd(prior: Any, k: int) -> SdPrior | float:
    """Return the prior of an sd, or a lighter one of the same tail."""
    if not isinstance(prior, tuple):
        return _of_column(prior, k)
    name, arguments = prior
    if name == "HalfFlat":
        return SdPrior(name, {})
    if name == "Pareto":
        return _with_tail(_of_column(arguments["alpha"], k))
    degrees: Any = TAIL_DEGREES.get(name, np.inf)
    if isinstance(degrees, str):
        # by its mean and sd, it has moments up to the second
        degrees = _of_column(arguments[degrees], k) if degrees in arguments else np.inf
    return _with_tail(degrees) if np.isfinite(degrees) else LIGHT


def _with_tail(degrees: float) -> SdPrior:
    return SdPrior("InverseGamma", {"alpha": degrees, "beta": 1.0})


def _of_precision(prior: Any, k: int) -> SdPrior | float:
    """Return the prior of the sd whose inverse square has this one: from ``tau^(a - 1)`` comes a tail of 2a degrees."""
    if not isinstance(prior, tuple):
        return _of_column(prior, k) ** -0.5
    name, arguments = prior
    power: Any = POWERS_AT_ZERO.get(name, np.inf)
    if name in ("Uniform", "TruncatedNormal") and _of_column(arguments.get("lower", 0.0), k) > 0:
        return LIGHT
    if isinstance(power, str):
        if power not in arguments:  # a Gamma or Beta prior by mean and sd
            mean, sd = _of_column(arguments["mu"], k), _of_column(arguments["sigma"], k)
            power = (mean / sd) ** 2 if name == "Gamma" else mean * (mean * (1 - mean) / sd**2 - 1)
        else:
            power = _of_column(arguments[power], k)
    return _with_tail(2 * power) if np.isfinite(power) else LIGHT


def _of_effects(term: str, prior: Any, k: int) -> tuple[SdPrior | float, bool]:
    """Return the prior of the scale of a varying column, and whether the mean of its effects has a flat prior."""
    name, arguments = prior
    location, scale, precision = (table.get(name, "") for table in (LOCATIONS, SCALES, PRECISIONS))
    ends = [end for end in ("lower", "upper") if end in arguments] if name == "TruncatedNormal" else []
    found: SdPrior | float = LIGHT
    mean_is_flat = False
    for argument, value in arguments.items():
        if argument == scale:
            found = _of_sd(value, k)
            if _is_flat(value) and len(ends) == 2:
                raise _improper(term, name, argument)
        elif argument == precision and not _is_flat(value):
            found = _of_precision(value, k)
        elif argument == location and not ends:
            mean_is_flat = _is_flat(value)
        elif _is_flat(value) and argument not in NOT_JUDGED.get(name, ()):
            raise _improper(term, name, argument)
    return found, mean_is_flat


def _improper(term: str, name: str, argument: str) -> ImproperPosteriorError:
    return ImproperPosteriorError(
        f"The posterior is improper: the prior of {argument} in the {name} prior of {shown(term)} is flat, and however "
        "far out it is, the effects have a law under which the data have a density that is not zero. Use a proper "
        "prior, such as Exponential or Gamma."
    )
