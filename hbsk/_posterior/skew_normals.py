"""Normals that stand for a skew law by its first three moments: three of them, or many.

With Z standard normal, ``(Z + a (Z^2 - 1)) / sqrt(1 + 2 a^2)`` has mean 0, variance 1 and a skewness that grows with a:
the expansion of Cornish and Fisher (1938) to first order. Z itself is nearly the mixture of ``N(c_k, s^2)`` over the
three points c_k of the Gauss-Hermite rule for N(0, 1 - s^2). On each part Z - c_k is normal, and part k of the law has

    mean  c_k + a (c_k^2 + s^2 - 1),    variance  s^2 (1 + 2 a c_k)^2 + 2 a^2 s^4,

and a normal law with these moments in its place. (Conditional laws of groups of 1 to 100 binary rows, or of counts of 0
to 9, under sds between groups of 1 to 3: ends of 90 and 95 % intervals are off by 0.01 to 0.06 sds; by 0.1 to 0.2 with
two normals of equal variance, whatever their weights.)
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

# Skewness beyond which a law is taken for one of this skewness.
MOST_SKEWNESS = 0.9


class Cut:
    """The standard normal law as a mixture of narrower ones.

    Parameters
    ----------
    centres : ndarray of shape (n_parts,)
        Evenly spaced; they are stretched until the variance of the mixture is 1.
    shares : ndarray of shape (n_parts,)
    variance : float
        Of each part: larger ones fit slight skewness better, smaller ones reach further.
    """

    def __init__(self, centres: np.ndarray, shares: np.ndarray, variance: float):
        self.shares, self.variance = shares / shares.sum(), variance
        self.centres = centres * np.sqrt((1.0 - variance) / (self.shares @ centres**2))

    def bent(self, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return means and variances (n_parts, ...) of the parts at bends a."""
        points = self.centres.reshape(-1, *[1] * np.ndim(a))
        scale = np.sqrt(1.0 + 2.0 * a**2)
        mean = points + a * (points**2 + self.variance - 1.0)
        variance = self.variance * (1.0 + 2.0 * a * points) ** 2 + 2.0 * a**2 * self.variance**2
        return mean / scale, variance / scale**2

    @cached_property
    def bends(self) -> tuple[np.ndarray, np.ndarray]:
        """Skewnesses from none to the most, and the bends that have them."""
        bend = np.linspace(0.0, 0.5, 1001)
        mean, variance = self.bent(bend)
        skewness = self.shares @ (mean**3 + 3.0 * mean * variance)
        last = int(np.searchsorted(skewness[: np.argmax(skewness)], MOST_SKEWNESS))
        return skewness[: last + 1], bend[: last + 1]


# The three points of the Gauss-Hermite rule; and many parts, each so narrow that what bends it hardly matters.
COARSE = Cut(np.array([-1.0, 0.0, 1.0]), np.array([1.0, 4.0, 1.0]), 0.7)
_EVEN = np.linspace(-3.04, 3.04, 17)
FINE = Cut(_EVEN, np.exp(-0.5 * _EVEN**2 / 0.93), 0.07)


def skew_normals(skewness: np.ndarray, cut: Cut = COARSE) -> tuple[np.ndarray, np.ndarray]:
    """Return means and sds, each (n_parts, ...), of normals of the shares of a cut: of mean 0, variance 1, and skew.

    Parameters
    ----------
    skewness : ndarray
    cut : Cut, optional
    """
    bend = np.copysign(np.interp(np.abs(skewness), *cut.bends), skewness)
    mean, variance = cut.bent(bend)
    return mean, np.sqrt(variance)
