"""Prior densities of standard deviations, in PyMC's parametrisations, with gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import log, pi, sqrt

import numpy as np
from scipy.special import gammaln

from hbsk._messages import shown

# The parameters each family is reduced to; `scaled` multiplies or divides those that carry the scale.
SD_FAMILIES = {
    "HalfNormal": ("sigma",),
    "HalfStudentT": ("nu", "sigma"),
    "HalfCauchy": ("beta",),
    "Exponential": ("lam",),
    "Gamma": ("alpha", "beta"),
    "InverseGamma": ("alpha", "beta"),
    "Uniform": ("lower", "upper"),
    "HalfFlat": (),
}


@dataclass(frozen=True)
class SdPrior:
    """A prior on a standard deviation x > 0.

    Parameters
    ----------
    family : str
        One of `SD_FAMILIES`.
    params : dict of str to float
        The parameters listed there. `from_plain` accepts PyMC's other parametrisations.
    """

    family: str
    params: Mapping[str, float]

    @classmethod
    def from_plain(cls, family: str, arguments: Mapping[str, float]) -> SdPrior:
        """Make the prior from PyMC's arguments, such as `mu` and `sigma` of a Gamma."""
        given = {key: float(value) for key, value in arguments.items()}
        if family == "HalfNormal" and "tau" in given:
            given = {"sigma": given["tau"] ** -0.5}
        elif family == "HalfStudentT" and "lam" in given:
            given = {"nu": given["nu"], "sigma": given["lam"] ** -0.5}
        elif family == "Exponential" and "scale" in given:
            given = {"lam": 1.0 / given["scale"]}
        elif family == "Gamma" and "mu" in given:
            mu, variance = given["mu"], given["sigma"] ** 2
            given = {"alpha": mu**2 / variance, "beta": mu / variance}
        elif family == "InverseGamma" and "mu" in given:
            mu, variance = given["mu"], given["sigma"] ** 2
            given = {"alpha": 2 + mu**2 / variance, "beta": mu * (mu**2 / variance + 1)}
        if set(given) != set(SD_FAMILIES[family]):
            raise ValueError(f"{family} takes {SD_FAMILIES[family]}, got {shown(arguments)}.")
        return cls(family, given)

    @property
    def is_bounded(self) -> bool:
        """Whether the support ends at a finite value or starts above zero."""
        return self.family == "Uniform"

    @property
    def support(self) -> tuple[float, float]:
        """Lower and upper end of the support."""
        if self.family == "Uniform":
            return max(self.params["lower"], 0.0), self.params["upper"]
        return 0.0, np.inf

    def scaled(self, factor: float) -> SdPrior:
        """Return the prior of `factor` * x; HalfFlat, which has no scale, stays as it is."""
        c = float(factor)
        p = self.params
        match self.family:
            case "HalfNormal":
                params = {"sigma": c * p["sigma"]}
            case "HalfStudentT":
                params = {"nu": p["nu"], "sigma": c * p["sigma"]}
            case "HalfCauchy":
                params = {"beta": c * p["beta"]}
            case "Exponential":
                params = {"lam": p["lam"] / c}
            case "Gamma":
                params = {"alpha": p["alpha"], "beta": p["beta"] / c}
            case "InverseGamma":
                params = {"alpha": p["alpha"], "beta": c * p["beta"]}
            case "Uniform":
                params = {"lower": c * p["lower"], "upper": c * p["upper"]}
            case _:
                params = {}
        return SdPrior(self.family, params)

    @cached_property
    def _log_constant(self) -> float:
        """Return the log density without the part that depends on x."""
        p = self.params
        match self.family:
            case "HalfNormal":
                return 0.5 * log(2 / pi) - log(p["sigma"])
            case "HalfStudentT":
                nu, sigma = p["nu"], p["sigma"]
                return float(log(2) + gammaln((nu + 1) / 2) - gammaln(nu / 2)) - log(sigma * sqrt(nu * pi))
            case "HalfCauchy":
                return log(2 / pi) - log(p["beta"])
            case "Exponential":
                return log(p["lam"])
            case "Gamma" | "InverseGamma":
                return float(p["alpha"] * log(p["beta"]) - gammaln(p["alpha"]))
            case "Uniform":
                return -log(p["upper"] - p["lower"])
        return 0.0

    def log_density(self, x: np.ndarray | float) -> np.ndarray:
        """Return the log density; minus infinity outside of the support."""
        x = np.asarray(x, dtype=np.float64)
        p = self.params
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            match self.family:
                case "HalfNormal":
                    value = -0.5 * _squared_ratio(x, p["sigma"])
                case "HalfStudentT":
                    value = -(p["nu"] + 1) / 2 * np.log1p(_squared_ratio(x, p["sigma"]) / p["nu"])
                case "HalfCauchy":
                    value = -np.log1p(_squared_ratio(x, p["beta"]))
                case "Exponential":
                    value = -p["lam"] * x
                case "Gamma":
                    value = _times_log(p["alpha"] - 1, x) - p["beta"] * x
                case "InverseGamma":
                    # The limit at zero is minus infinity, which the formula gives as inf - inf.
                    value = np.where(x == 0, -np.inf, -(p["alpha"] + 1) * np.log(x) - p["beta"] / x)
                case _:
                    value = np.zeros_like(x)
        value += self._log_constant
        lower, upper = self.support
        if x.size and (x.min() < lower or x.max() > upper):
            value = np.where((x < lower) | (x > upper), -np.inf, value)
        return value

    def grad_log_density(self, x: np.ndarray | float) -> np.ndarray:
        """Return the derivative of the log density with respect to x, inside of the support."""
        x = np.asarray(x, dtype=np.float64)
        p = self.params
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            match self.family:
                case "HalfNormal":
                    return -x / p["sigma"] ** 2
                case "HalfStudentT":
                    return -(p["nu"] + 1) * x / (p["nu"] * p["sigma"] ** 2 + x**2)
                case "HalfCauchy":
                    return -2 * x / (p["beta"] ** 2 + x**2)
                case "Exponential":
                    return np.full_like(x, -p["lam"])
                case "Gamma":
                    return (p["alpha"] - 1) / x - p["beta"]
                case "InverseGamma":
                    return (p["beta"] / x - (p["alpha"] + 1)) / x
        return np.zeros_like(x)


def _squared_ratio(x: np.ndarray, scale: float) -> np.ndarray:
    """Return (x / scale)^2, of one array of the size of x only."""
    ratio = x / scale
    ratio *= ratio
    return ratio


def _times_log(factor: float, x: np.ndarray) -> np.ndarray:
    """Return factor * log(x), which is 0 for factor 0 even at x = 0."""
    return factor * np.log(x) if factor else np.zeros_like(x)
