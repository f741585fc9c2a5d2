"""Normal laws about weighted nodes, which are smooth where the nodes are few.

A coefficient given the variance parameters is nearly normal. Its mean is taken for a parabola in each of these, its
variance for linear in the squared sds of groups, both by weighted least squares over the nodes. What nodes leave beside
that mean is drawn towards it, and a normal kernel adds the variance that this takes away (West 1993, J. R. Stat. Soc. B
55): a wide one, of which the ends of intervals have little of the nodes' own noise. That would take skewness away too;
a parabola in what is left gives it back, ``alpha e + beta (e^2 - 1)``, with the variance and the third moment that
are wanted (Fleishman 1978, Psychometrika 43). Very skew laws get kernels of Silverman's width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import boxcox1p, inv_boxcox1p

# Width of kernels, in sds, where a law is not skew, and what the square of skewness takes off its square; Silverman's
# rule times the fifth root of the effective nodes (Silverman 1986, eq. 3.28), and the largest of these.
WIDE, LESS_WIDE, SILVERMAN, LARGEST = 0.8, 1.0, 1.06, 0.9
# The same where means and variances are lines by pieces: width, least share, and pieces; the outermost quantile.
WIDE_OF_PIECES, LEAST_OF_PIECES, PIECES, OUTERMOST = 0.6, 1e-3, 10, 1e-3
# Sds of variance parameters beyond which parabolas are flat; least share of the mean variance at a node.
FARTHEST, LEAST_VARIANCE = 3.0, 0.3
# Steps to alpha and beta, and to the power that leaves no skewness.
STEPS, HALVINGS = 12, 20


@dataclass(frozen=True)
class NodeKernels:
    """Kernels for any values at the same nodes.

    Attributes
    ----------
    weight : ndarray of shape (n_nodes,)
    location : ndarray of shape (n_nodes, k)
        Functions of the variance parameters that a mean given them is a combination of, the first 1.
    spread : ndarray of shape (n_nodes, l)
        The same for variances.
    wide : float
        Width where a law is not skew.
    least_variance : float
        Least share of the mean variance at a node.
    """

    weight: np.ndarray
    location: np.ndarray
    spread: np.ndarray
    wide: float = WIDE
    least_variance: float = LEAST_VARIANCE

    @classmethod
    def by_pieces(cls, weight: np.ndarray, theta: np.ndarray) -> NodeKernels:
        """Return the kernels for nodes of one variance parameter (n_nodes,), which few groups leave open.

        Means and variances given it are lines between knots at its quantiles: from a sd of nothing to one of many times
        the prior's a parabola and a line miss both. (28 designs of two to eight groups, dense grids: the worst end of a
        coefficient is off by 0.02 posterior sds instead of 0.06 to 0.1.)
        """
        order = np.argsort(theta, kind="stable")
        levels = np.concatenate([[OUTERMOST], np.arange(1, PIECES) / PIECES, [1.0 - OUTERMOST]])
        knots = np.unique(np.interp(levels, np.cumsum(weight[order]), theta[order]))
        hats = np.stack([np.interp(theta, knots, hat) for hat in np.eye(len(knots))], axis=1)
        return cls(weight, hats, hats, WIDE_OF_PIECES, LEAST_OF_PIECES)

    @classmethod
    def of_nodes(cls, weight: np.ndarray, theta: np.ndarray, factor: np.ndarray) -> NodeKernels:
        """Return the kernels for nodes.

        Parameters
        ----------
        weight : ndarray of shape (n_nodes,)
        theta : ndarray of shape (n_nodes, n_theta)
            Variance parameters where they are unconstrained.
        factor : ndarray of shape (n_nodes, q, q)
            Roots of the covariance of group effects.
        """
        deviation = theta - weight @ theta
        t = deviation / np.maximum(np.sqrt(weight @ deviation**2), 1e-300)
        t = np.clip(t, -FARTHEST, FARTHEST)
        square = np.sum(factor**2, axis=2)
        square = square / np.maximum(weight @ square, 1e-300)
        one = np.ones((len(weight), 1))
        return cls(weight, np.concatenate([one, t, t**2], axis=1), np.concatenate([one, square], axis=1))

    @property
    def silverman(self) -> float:
        """Width of Silverman's rule, in sds."""
        return float(min(SILVERMAN * np.sum(self.weight**2) ** 0.2, LARGEST))

    def narrow(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return kernels of Silverman's width about the nodes themselves, whose noise is that of all answers."""
        mean = self.weight @ values
        sd = np.sqrt(self.weight @ (values - mean) ** 2)
        width = self.silverman
        return mean + np.sqrt(1.0 - width**2) * (values - mean), np.broadcast_to(width * sd, values.shape)

    def of(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return means and sds of normal laws about the nodes, each (n_nodes, k), for values (n_nodes, k)."""
        weight = self.weight
        mean = weight @ values
        variance = weight @ (values - mean) ** 2
        fitted = self._fitted(self.location, values)
        left = values - fitted
        unit = np.maximum(weight @ left**2, 1e-300)
        relative = np.maximum(self._fitted(self.spread, left**2 / unit), self.least_variance)
        scale = np.sqrt(unit * relative / (weight @ relative))
        error = left / scale
        error -= weight @ error
        error /= np.maximum(np.sqrt(weight @ error**2), 1e-300)
        width = self._width(weight @ error**3)
        means = fitted + scale * _bent(error, weight, 1.0 - width**2)
        sds = scale * width
        means += mean - weight @ means
        # what regression and clipping have left of the variance
        share = np.sqrt(variance / np.maximum(weight @ ((means - mean) ** 2 + sds**2), 1e-300))
        return mean + share * (means - mean), share * sds

    def _fitted(self, features, values):
        root = np.sqrt(self.weight)[:, None]
        return features @ np.linalg.lstsq(root * features, root * values, rcond=1e-9)[0]

    def _width(self, skewness):
        least, wide = self.silverman, self.wide
        return np.sqrt(np.clip(wide**2 - LESS_WIDE * skewness**2, least**2, max(wide, least) ** 2))


def _bent(error, weight, variance):
    """Return ``alpha e + beta (e^2 - 1)`` of the given variance, and with the third moment of e as far as it goes."""
    e, e2 = error, error**2 - 1.0
    moments = {(i, j): weight @ (e**i * e2**j) for i in range(4) for j in range(4 - i)}
    wanted = moments[3, 0]
    alpha, beta = np.sqrt(variance) * np.ones_like(wanted), np.zeros_like(wanted)
    most = 0.5 * np.sqrt(variance / np.maximum(moments[0, 2], 1e-300))
    for _ in range(STEPS):
        third = (
            alpha**3 * wanted
            + 3.0 * alpha**2 * beta * moments[2, 1]
            + 3.0 * alpha * beta**2 * moments[1, 2]
            + beta**3 * moments[0, 3]
        )
        slope = 3.0 * alpha**2 * np.maximum(moments[2, 1], 1e-300)
        beta = np.clip(beta + (wanted - third) / slope, -most, most)
        # alpha^2 + 2 alpha beta E[e (e^2 - 1)] + beta^2 E[(e^2 - 1)^2] = variance
        half = beta * moments[1, 1]
        alpha = np.sqrt(np.maximum(half**2 + variance - beta**2 * moments[0, 2], 0.0)) - half
    bent = alpha * e + beta * e2
    bent -= weight @ bent
    return bent * np.sqrt(variance / np.maximum(weight @ bent**2, 1e-300))


class Unskewed:
    """A map of each coordinate of weighted points to where it is not skew (Yeo, Johnson 2000, Biometrika 87).

    The log of a sd that may be zero has a long lower tail, whose width kernels of one width would give to the other
    end. Powers stay between 0 and 2, where the map is onto all numbers.

    Parameters
    ----------
    values : ndarray of shape (n_points, k)
    weight : ndarray of shape (n_points,)
    """

    def __init__(self, values: np.ndarray, weight: np.ndarray):
        self.centre = weight @ values
        self.scale = np.maximum(np.sqrt(weight @ (values - self.centre) ** 2), 1e-300)
        low, high = np.zeros(values.shape[1]), np.full(values.shape[1], 2.0)
        for _ in range(HALVINGS):
            self.power = 0.5 * (low + high)
            moved = self(values)
            third = weight @ (moved - weight @ moved) ** 3
            low, high = np.where(third < 0, self.power, low), np.where(third < 0, high, self.power)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Map values."""
        x = (values - self.centre) / self.scale
        return np.where(
            x < 0, -boxcox1p(np.maximum(-x, 0.0), 2.0 - self.power), boxcox1p(np.maximum(x, 0.0), self.power)
        )

    def inverse(self, moved: np.ndarray) -> np.ndarray:
        """Map values back."""
        below = -inv_boxcox1p(np.maximum(-moved, 0.0), 2.0 - self.power)
        x = np.where(moved < 0, below, inv_boxcox1p(np.maximum(moved, 0.0), self.power))
        return self.centre + self.scale * x
