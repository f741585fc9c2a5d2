"""Three normals that stand for a skew law, by its first three moments.

With Z standard normal, ``(Z + a (Z^2 - 1)) / sqrt(1 + 2 a^2)`` has mean 0, variance 1 and a skewness that grows with a:
the expansion of Cornish and Fisher (1938) to first order. Z itself is nearly the mixture of ``N(c_k, s^2)`` over the
three points c_k of the Gauss-Hermite rule for N(0, 1 - s^2). On each part Z - c_k is normal, and part k of the law has

    mean  c_k + a (c_k^2 + s^2 - 1),    variance  s^2 (1 + 2 a c_k)^2 + 2 a^2 s^4,

and a normal law with these moments in its place. (Conditional laws of groups of 1 to 100 binary rows, or of counts of 0
to 9, under sds between groups of 1 to 3: ends of 90 and 95 % intervals are off by 0.01 to 0.06 sds; by 0.1 to 0.2 with
two normals of equal variance, whatever their weights.)
"""

from __future__ import annotations

import numpy as np

SHARES = np.array([1.0, 4.0, 1.0]) / 6.0
# s^2: larger ones fit slight skewness better, smaller ones reach further.
INNER_VARIANCE = 0.7
POINTS = np.sqrt(3.0 * (1.0 - INNER_VARIANCE)) * np.array([-1.0, 0.0, 1.0])
# Skewness beyond which a law is taken for one of this skewness.
MOST_SKEWNESS = 0.9


def _parts(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means and variances (3, ...) of the parts at bends a."""
    points = POINTS.reshape(-1, *[1] * np.ndim(a))
    scale = np.sqrt(1.0 + 2.0 * a**2)
    mean = points + a * (points**2 + INNER_VARIANCE - 1.0)
    variance = INNER_VARIANCE * (1.0 + 2.0 * a * points) ** 2 + 2.0 * a**2 * INNER_VARIANCE**2
    return mean / scale, variance / scale**2


def _table() -> tuple[np.ndarray, np.ndarray]:
    """Return skewnesses from none to the most, and the bends that have them."""
    bend = np.linspace(0.0, 0.5, 1001)
    mean, variance = _parts(bend)
    skewness = SHARES @ (mean**3 + 3.0 * mean * variance)
    last = int(np.searchsorted(skewness[: np.argmax(skewness)], MOST_SKEWNESS))
    return skewness[: last + 1], bend[: last + 1]


_SKEWNESS, _BEND = _table()


def skew_normals(skewness: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means and sds, each (3, ...), of normals of weights `SHARES` whose mixture has mean 0 and variance 1.

    Parameters
    ----------
    skewness : ndarray
    """
    bend = np.copysign(np.interp(np.abs(skewness), _SKEWNESS, _BEND), skewness)
    mean, variance = _parts(bend)
    return mean, np.sqrt(variance)
