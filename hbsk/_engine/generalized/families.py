"""Likelihoods of one natural parameter: binomial with logit link, Poisson with log link.

Both are ``log p(y | eta) = y eta - m A(eta) + c(y, m)``, with m trials and ``A = log(1 + e^eta)``, or m units of
exposure and ``A = e^eta`` (McCullagh, Nelder 1989, section 2.2). Mean and variance of y are ``m A'(eta)`` and ``m
A''(eta)``.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy.special import expit, gammaln, log_expit

# Beyond it e^eta counts as e^300: squares, and products with exposures, stay in floating point.
LARGEST_PREDICTOR = 300.0


class Family(Protocol):
    """A likelihood in its natural parameter."""

    name: str

    def cumulant(self, eta: np.ndarray) -> np.ndarray:
        """Return ``A(eta)``."""

    def mean_and_weight(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``A'(eta)`` and ``A''(eta)``."""

    def third(self, eta: np.ndarray) -> np.ndarray:
        """Return the third derivative of A."""

    def mean(self, eta: np.ndarray) -> np.ndarray:
        """Return ``A'(eta)``, the inverse link."""

    def log_constant(self, y: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Return ``c(y, m)``."""

    def short_excess(self, eta: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Return ``A(eta + s) - A(eta) - A'(eta) s`` of short steps s, to all digits."""


class Binomial:
    """Successes y of m trials with log odds eta."""

    name = "binomial"

    def cumulant(self, eta):
        """Return ``log(1 + e^eta)``."""
        return -log_expit(-eta)

    def mean_and_weight(self, eta):
        """Return the probability p and ``p (1 - p)``, which does not cancel near 1."""
        small = np.exp(-np.abs(eta))
        lower = small / (1.0 + small)
        return np.where(eta > 0, 1.0 - lower, lower), lower / (1.0 + small)

    def third(self, eta):
        """Return ``p (1 - p) (1 - 2 p)``."""
        mean, weight = self.mean_and_weight(eta)
        return weight * (1.0 - 2.0 * mean)

    def mean(self, eta):
        """Return the probability."""
        return expit(eta)

    def log_constant(self, y, size):
        """Return the log of ``m! / y! (m - y)!``."""
        return gammaln(size + 1) - gammaln(y + 1) - gammaln(size - y + 1)

    def short_excess(self, eta, step):
        """Return ``log(1 + p (e^s - 1)) - p s``."""
        probability = expit(eta)
        return np.log1p(probability * np.expm1(step)) - probability * step


class Poisson:
    """Counts y with the mean ``m e^eta``."""

    name = "poisson"

    def cumulant(self, eta):
        """Return the rate."""
        return np.exp(np.minimum(eta, LARGEST_PREDICTOR))

    def mean_and_weight(self, eta):
        """Return the rate twice."""
        rate = self.cumulant(eta)
        return rate, rate

    def third(self, eta):
        """Return the rate."""
        return self.cumulant(eta)

    def mean(self, eta):
        """Return the rate."""
        return np.exp(eta)

    def log_constant(self, y, size):
        """Return the log of ``m^y / y!``; the gamma function for counts that are not whole."""
        return y * np.log(size) - gammaln(y + 1)

    def short_excess(self, eta, step):
        """Return ``e^eta (e^s - 1 - s)``."""
        return self.cumulant(eta) * (np.expm1(step) - step)


FAMILIES: dict[str, Family] = {"binomial": Binomial(), "poisson": Poisson()}


def excess(family: Family, eta: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return ``A(eta + s) - A(eta) - A'(eta) s``: what the likelihood bends by, without loss where steps are short."""
    is_short = np.abs(step) < 1.0
    found = family.short_excess(eta, np.where(is_short, step, 0.0))
    if is_short.all():
        return found
    mean, _ = family.mean_and_weight(eta)
    return np.where(is_short, found, family.cumulant(eta + step) - family.cumulant(eta) - mean * step)
