"""Priors of a model as arrays of the marginal engine, or why it is not exact for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hbsk._engine.priors import EnginePriors
from hbsk._engine.sd_prior import SD_FAMILIES, SdPrior
from hbsk._messages import shown
from hbsk._model.centres import centre_array
from hbsk._model.priors import columns_of_terms
from hbsk._model.specification import Specification


def why_not_exact(specification: Specification, priors: Mapping[str, Any], known_standard_error: bool) -> str | None:
    """Return why the marginal engine is not exact for these priors; None where it is."""
    try:
        engine_priors(specification, priors, known_standard_error)
    except _NotExactError as reason:
        return str(reason)
    return None


def engine_priors(specification: Specification, priors: Mapping[str, Any], known_standard_error: bool) -> EnginePriors:
    """Return priors as arrays of the marginal engine, which must be exact for them (`why_not_exact`)."""
    group: list[SdPrior | float] = []
    means: list[float] = []
    blocks: list[tuple[int, ...]] = []
    etas: list[float] = []
    centres: list[np.ndarray] = []
    mean, sd = _common_arrays(specification, priors)
    residual = None if known_standard_error else _sd_prior("sigma", priors["sigma"])
    for factor in specification.factors:
        varying = [column for term in columns_of_terms(factor.terms) for column in _varying(term, factor.terms, priors)]
        blocks += [tuple(len(group) + k for k in block) for block in factor.blocks]
        group += [of_column for of_column, _ in varying]
        means += [of_column for _, of_column in varying]
        eta = priors.get(f"corr|{factor.name}", ("LKJ", {"eta": 1.0}))[1]["eta"]
        etas += [float(eta)] * len(factor.blocks)
        centres.append(centre_array(factor, priors))
    centre = np.concatenate(centres) if centres else None
    return EnginePriors(mean, sd, residual, group, tuple(blocks), tuple(etas), np.array(means), centre)


class _NotExactError(Exception):
    """The marginal engine cannot take a prior; the message says why."""


def _common_arrays(specification: Specification, priors: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    means: list[float] = []
    sds: list[float] = []
    for term, n_columns in columns_of_terms(specification.common_terms).items():
        prior = priors[term]
        if not isinstance(prior, tuple):
            raise _NotExactError(f"the coefficient of {term!r} is fixed at {prior!r}")
        name, arguments = prior
        if name not in ("Normal", "Flat"):
            raise _NotExactError(f"the prior of {term!r} is {name}, neither Normal nor Flat")
        means += _of_columns(arguments.get("mu", 0.0), n_columns)
        sds += _of_columns(np.inf if name == "Flat" else _normal_sd(arguments), n_columns)
    return np.array(means, dtype=np.float64), np.array(sds, dtype=np.float64)


def _of_columns(value: Any, n_columns: int) -> list[float]:
    """Return a number for each column."""
    return value if isinstance(value, list) else [value] * n_columns


def _normal_sd(arguments: Mapping[str, Any]) -> Any:
    return arguments["sigma"] if "sigma" in arguments else (np.asarray(arguments["tau"]) ** -0.5).tolist()


def _varying(term: str, terms: Sequence[str], priors: Mapping[str, Any]) -> list[tuple[SdPrior | float, float]]:
    """Return the prior of the sd of each column of a varying term, and the mean of its effects."""
    name, arguments = priors[term]
    if name != "Normal":
        raise _NotExactError(f"the prior of {term!r} is {name}, not Normal")
    mu = arguments["mu"]
    if isinstance(mu, tuple):
        raise _NotExactError(f"the prior of {term!r} has a prior on its mean")
    if "sigma" not in arguments:
        if isinstance(arguments["tau"], tuple):
            raise _NotExactError(f"the prior of {term!r} has a prior on its precision, not on its standard deviation")
        arguments = {"sigma": (np.asarray(arguments["tau"]) ** -0.5).tolist()}
    sd, n_columns = arguments["sigma"], terms.count(term)
    return [(_sd_prior(term, _of_column(sd, k)), float(_of_column(mu, k))) for k in range(n_columns)]


def _of_column(value: Any, k: int) -> Any:
    """Return what a prior with lists of numbers says about column k."""
    if isinstance(value, tuple):
        return value[0], {argument: _of_column(number, k) for argument, number in value[1].items()}
    return value[k] if isinstance(value, list) else value


def _sd_prior(key: str, prior: Any) -> SdPrior | float:
    if not isinstance(prior, tuple):
        return float(prior)
    if prior[0] not in SD_FAMILIES:
        raise _NotExactError(
            f"the prior of the standard deviation of {shown(key)} is {prior[0]}, which the engine lacks"
        )
    return SdPrior.from_plain(*prior)
