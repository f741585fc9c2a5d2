"""Laws of group effects: what a prior says of a group that is not in the data, at draws of its arguments.

Arguments are those of PyMC. Normal laws may be correlated within a group and are integrated exactly; the effects of all
others are independent, with means, sds and quantiles by SciPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import gammaln

# Arguments about which a law is symmetric: its median, and its mean where it has one.
CENTRES = {"Normal": "mu", "StudentT": "mu", "Cauchy": "alpha", "Laplace": "mu", "Logistic": "mu"}
# Laws that have a mean above 1 and a variance above 2 of this argument only.
TAIL_ARGUMENTS = {"StudentT": "nu", "HalfStudentT": "nu", "InverseGamma": "alpha", "Pareto": "alpha"}


@dataclass(frozen=True)
class EffectLaw:
    """The prior of the effects of one varying term, with draws of its arguments.

    Attributes
    ----------
    family : str
        PyMC's name.
    columns : tuple of int
        Columns of the factor that the term has.
    names : tuple of str
        Names of these columns, such as "1|county".
    arguments : dict of str to ndarray of shape (..., n_columns)
        The leading axes are those of the draws.
    free : tuple of str
        Arguments that are parameters of the model.
    has_mean, has_variance : bool
        Whether these exist whatever the data: False where a prior on an argument reaches values without them.
    """

    family: str
    columns: tuple[int, ...]
    names: tuple[str, ...]
    arguments: dict[str, np.ndarray]
    free: tuple[str, ...] = ()
    has_mean: bool = True
    has_variance: bool = True

    @property
    def is_normal(self) -> bool:
        """Whether the effects are normal."""
        return self.family == "Normal"

    @property
    def has_sd_parameter(self) -> bool:
        """Whether the effects are normal with an argument that is their sd."""
        return self.is_normal and "sigma" in self.arguments

    def mean(self) -> np.ndarray:
        """Return the mean at each draw, (..., n_columns).

        The centre of a symmetric law that has no mean; infinite where a law of positive effects has none.
        """
        canonical = canonical_arguments(self.family, self.arguments)
        if self.family in CENTRES:
            return np.asarray(canonical[CENTRES[self.family]], dtype=float)
        mean = _moments(self.family, canonical)[0]
        return mean if self.has_mean else np.full_like(mean, np.inf)

    def sd(self) -> np.ndarray:
        """Return the sd at each draw, (..., n_columns); infinite where there is none."""
        variance = _moments(self.family, canonical_arguments(self.family, self.arguments))[1]
        return np.sqrt(variance) if self.has_variance else np.full_like(variance, np.inf)

    def quantile(self, level: np.ndarray) -> np.ndarray:
        """Return the quantiles at levels that broadcast with the arguments."""
        canonical = canonical_arguments(self.family, self.arguments)
        if self.family == "HalfStudentT":
            return _frozen("StudentT", canonical | {"mu": 0.0}).ppf((1 + level) / 2)
        return _frozen(self.family, canonical).ppf(level)

    def mapped(self, function) -> EffectLaw:
        """Return the law with a function applied to the draws of each argument."""
        return replace(self, arguments={name: function(values) for name, values in self.arguments.items()})

    def parameters(self):
        """Yield name and draws of each parameter, such as "1|county_nu"."""
        for argument in self.free:
            for k, name in enumerate(self.names):
                yield f"{name}_{argument}", self.arguments[argument][..., k]


def canonical_arguments(family: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments in the first of PyMC's parametrisations of a family."""
    a = dict(arguments)
    if "tau" in a:
        a["sigma"] = np.asarray(a.pop("tau")) ** -0.5
    if family in ("StudentT", "HalfStudentT") and "lam" in a:
        a["sigma"] = np.asarray(a.pop("lam")) ** -0.5
    if family == "Exponential" and "scale" in a:
        a["lam"] = 1 / np.asarray(a.pop("scale"))
    if family in ("Gamma", "InverseGamma", "Beta") and "mu" in a:
        mu, sigma = np.asarray(a.pop("mu")), np.asarray(a.pop("sigma"))
        ratio = (mu / sigma) ** 2
        if family == "Gamma":
            a |= {"alpha": ratio, "beta": ratio / mu}
        elif family == "InverseGamma":
            a |= {"alpha": 2 + ratio, "beta": mu * (ratio + 1)}
        else:
            size = mu * (1 - mu) / sigma**2 - 1
            a |= {"alpha": mu * size, "beta": (1 - mu) * size}
    return a


def _frozen(family: str, a: Mapping[str, Any]):
    """Return SciPy's distribution of a family in its canonical arguments."""
    from scipy import stats  # takes a while, and Normal effects need none of it

    match family:
        case "Normal":
            return stats.norm(a["mu"], a["sigma"])
        case "StudentT":
            return stats.t(a["nu"], a["mu"], a["sigma"])
        case "Cauchy":
            return stats.cauchy(a["alpha"], a["beta"])
        case "Laplace":
            return stats.laplace(a["mu"], a["b"])
        case "Logistic":
            return stats.logistic(a["mu"], a["s"])
        case "SkewNormal":
            return stats.skewnorm(a["alpha"], a["mu"], a["sigma"])
        case "Gumbel":
            return stats.gumbel_r(a["mu"], a["beta"])
        case "Uniform":
            return stats.uniform(a["lower"], np.subtract(a["upper"], a["lower"]))
        case "TruncatedNormal":
            low, high = (
                (np.asarray(a.get(end, default)) - a["mu"]) / a["sigma"]
                for end, default in (("lower", -np.inf), ("upper", np.inf))
            )
            return stats.truncnorm(low, high, a["mu"], a["sigma"])
        case "HalfNormal":
            return stats.halfnorm(scale=a["sigma"])
        case "HalfCauchy":
            return stats.halfcauchy(scale=a["beta"])
        case "Exponential":
            return stats.expon(scale=1 / np.asarray(a["lam"]))
        case "Gamma":
            return stats.gamma(a["alpha"], scale=1 / np.asarray(a["beta"]))
        case "InverseGamma":
            return stats.invgamma(a["alpha"], scale=a["beta"])
        case "LogNormal":
            return stats.lognorm(a["sigma"], scale=np.exp(a["mu"]))
        case "Weibull":
            return stats.weibull_min(a["alpha"], scale=a["beta"])
        case "Wald":
            return stats.invgauss(np.divide(a["mu"], a["lam"]), scale=a["lam"])
        case "Beta":
            return stats.beta(a["alpha"], a["beta"])
        case "Pareto":
            return stats.pareto(a["alpha"], scale=a["m"])
    raise ValueError(f"Effects of groups with the prior {family} cannot be drawn.")


def _moments(family: str, a: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance, infinite where they do not exist."""
    if family == "HalfStudentT":
        nu, sigma = np.broadcast_arrays(np.asarray(a["nu"], float), np.asarray(a["sigma"], float))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            half = np.exp(gammaln((nu + 1) / 2) - gammaln(nu / 2)) / np.sqrt(np.pi)
            mean = np.where(nu > 1, 2 * sigma * np.sqrt(nu) * half / (nu - 1), np.inf)
            variance = np.where(nu > 2, sigma**2 * nu / (nu - 2) - mean**2, np.inf)
        return mean, variance
    mean, variance = (np.asarray(moment, float) for moment in _frozen(family, a).stats("mv"))
    return np.where(np.isnan(mean), np.inf, mean), np.where(np.isnan(variance), np.inf, variance)


def moments_exist(family: str, arguments: Mapping[str, Any]) -> tuple[bool, bool]:
    """Tell of a prior as plain data whether mean and variance of an effect exist for every value of its arguments.

    The posterior of an argument reaches as far as its prior: an expectation over ``1 / (nu - 2)`` is infinite wherever
    that passes 2, whatever a finite number of draws says.
    """
    if family in ("Cauchy", "HalfCauchy"):
        return False, False
    if family == "LogNormal":
        return _exponential_moments_exist(arguments)
    tail = arguments.get(TAIL_ARGUMENTS.get(family, ""))
    if tail is None:
        return True, True
    least = _lower_end(tail)
    return least > 1, least > 2


def _exponential_moments_exist(arguments: Mapping[str, Any]) -> tuple[bool, bool]:
    """Tell whether ``E exp(sigma^2 / 2)`` and ``E exp(2 sigma^2)`` exist, the moments of a LogNormal effect."""
    sigma, tau = arguments.get("sigma"), arguments.get("tau")
    if isinstance(tau, tuple):
        exists = _lower_end(tau) > 0
        return exists, exists
    if not isinstance(sigma, tuple) or "upper" in sigma[1]:
        return True, True
    if sigma[0] in ("HalfNormal", "TruncatedNormal"):
        scale = np.max(canonical_arguments(*sigma)["sigma"])
        return bool(scale < 1), bool(scale < 0.5)
    return False, False


def _lower_end(value: Any) -> float:
    """Return the lower end of what an argument of a law can be."""
    if not isinstance(value, tuple):
        return float(np.min(value))
    name, arguments = value
    end = {"Uniform": "lower", "TruncatedNormal": "lower", "Pareto": "m"}.get(name, "")
    return float(np.min(arguments.get(end, 0.0)))
