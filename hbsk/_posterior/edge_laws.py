"""Laws of group effects whose likelihood is an edge, not a hump: of groups of nothing but successes, failures or zeros.

Given a node (b, tau) the effect u of a group with y successes in m trials, or a count of y, has the density

    exp(y u - m A(c + u) - u^2 / (2 tau^2)),    A(eta) = log(1 + e^eta) or e^eta,

where c is the predictor without u: of counts exactly, since the rows of a group are one row of exposure ``m e^c``; of
binary rows that differ it is the one predictor that stands for theirs. No c is kept. It is found from the mean of u,
which is: with this law dE[u] / dc = Var(u) / tau^2 - 1 (Stein 1981, Ann. Stat. 9). What comes of it is given the mean
and the variance that are known.

A wide law falls off a cliff where the first success would have come. Three normals by their moments round that off, and
the link magnifies it: ends of intervals of probabilities were off by 0.2 to 0.7 sds. So the law is cut where its
normal score z is near c_k, as densities N(c_k, s^2) cut the standard normal law, and a normal law takes the place of
each part.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.polynomial import legendre
from scipy.special import expit, logit, ndtri

from hbsk._posterior.skew_normals import FINE

# Fall of the log density at which a law ends, points on either side of its mode, and halvings that find its ends.
DROP, POINTS_OF_A_SIDE, HALVINGS = 16.0, 16, 8
# Steps to the mode, the longest of them, looks at c, and the least change of a mean with it.
MODE_STEPS, LONGEST_STEP, CENTRE_STEPS, LEAST_SLOPE = 6, 3.0, 2, 1e-3
LARGEST_EXPONENT = 700.0
# Laws whose points are held at a time.
LAWS_AT_A_TIME = 2_048
# Probabilities beyond which normal scores say nothing.
LEAST_PROBABILITY = 1e-12

_NODE, _WEIGHT = legendre.leggauss(POINTS_OF_A_SIDE)


def _integrals_to_nodes() -> np.ndarray:
    """Return the matrix that takes values at the nodes of the rule on (-1, 1) to integrals from -1 to each node."""
    n = len(_NODE)
    values = legendre.legvander(_NODE, n)
    whole = np.empty((n, n))
    whole[:, 0] = _NODE + 1.0
    for k in range(1, n):
        whole[:, k] = (values[:, k + 1] - values[:, k - 1]) / (2 * k + 1)
    return whole @ np.linalg.inv(values[:, :n])


_TO_NODES = _integrals_to_nodes()


def effect_parts(
    family: str, y: np.ndarray, size: np.ndarray, mean: np.ndarray, tau: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return means and sds, (n_parts, n_strata, n), of normals of the shares of `FINE` for effects.

    Of mean 0 and variance 1: what they stand for is scaled by the moments that are known.

    Parameters
    ----------
    family : {"binomial", "poisson"}
    y, size : ndarray of shape (n,)
    mean, tau : ndarray of shape (n_strata, n)
    """
    y, size, tau = (np.broadcast_to(values, mean.shape).ravel() for values in (y, size, tau))
    flat, shape = mean.ravel(), (len(FINE.shares), *mean.shape)
    means, sds = np.empty((len(FINE.shares), len(flat))), np.empty((len(FINE.shares), len(flat)))
    for start in range(0, len(flat), LAWS_AT_A_TIME):
        at = slice(start, start + LAWS_AT_A_TIME)
        means[:, at], sds[:, at] = normal_parts(*law_of_effects(family, y[at], size[at], flat[at], tau[at]))
    return means.reshape(shape), sds.reshape(shape)


def law_of_effects(
    family: str, y: np.ndarray, size: np.ndarray, mean: np.ndarray, tau: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points, their probabilities and their normal scores, each (n_points, n), of n laws.

    Parameters
    ----------
    family : {"binomial", "poisson"}
    y, size : ndarray of shape (n,)
        Successes and trials, or counts; the size of counts is 1.
    mean : ndarray of shape (n,)
        Of the effect.
    tau : ndarray of shape (n,)
        Sd of the effect before there are data, above 0.
    """
    cell = _Cell(family, y, size, tau**-2.0)
    centre, mode = cell.first_centre(mean), mean
    for step in range(1, CENTRE_STEPS + 1):
        mode = cell.mode(centre, mode)
        points, scale = cell.grid(centre, mode)
        density = np.exp(cell.log_density(centre, points) - cell.log_density(centre, mode))
        probability = density * scale
        probability /= probability.sum(axis=0)
        if step < CENTRE_STEPS:
            found = np.sum(probability * points, axis=0)
            variance = np.sum(probability * (points - found) ** 2, axis=0)
            slope = np.minimum(variance * cell.precision - 1.0, -LEAST_SLOPE)
            centre = centre + np.clip((mean - found) / slope, -LONGEST_STEP - tau, LONGEST_STEP + tau)
    return points, probability, _scores(density, scale)


def normal_parts(points: np.ndarray, probability: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means and sds, (n_parts, n), of normals of the shares of `FINE` for laws: of mean 0 and variance 1.

    A point belongs to part k in proportion to the density of that part at its score, which is ``share_k r^k`` times
    what all parts have: centres are evenly spaced.
    """
    deviation = points - np.sum(probability * points, axis=0)
    ratio = np.exp(score * ((FINE.centres[1] - FINE.centres[0]) / FINE.variance))
    share = FINE.shares * np.exp(-0.5 * FINE.centres**2 / FINE.variance)
    of_part = probability / np.polynomial.polynomial.polyval(ratio, share / share.max(), tensor=False)
    mean, variance = np.empty((2, len(share), points.shape[1]))
    for k in range(len(share)):
        total = np.maximum(np.sum(of_part, axis=0), np.finfo(np.float64).tiny)
        mean[k] = np.einsum("in,in->n", of_part, deviation) / total
        variance[k] = np.einsum("in,in,in->n", of_part, deviation, deviation) / total - mean[k] ** 2
        of_part *= ratio
    mean -= FINE.shares @ mean
    scale = np.sqrt(FINE.shares @ (mean**2 + variance))
    return mean / scale, np.sqrt(np.maximum(variance, 0.0)) / scale


class _Cell(NamedTuple):
    """What the laws of n effects are made of, c apart; see the module."""

    family: str
    y: np.ndarray
    size: np.ndarray
    precision: np.ndarray

    def log_density(self, centre, u):
        """Return the log density at u."""
        eta = centre + u
        if self.family == "poisson":
            value = np.exp(np.minimum(eta, LARGEST_EXPONENT))
        else:
            value = np.maximum(eta, 0.0) + np.log1p(np.exp(-np.abs(eta)))
        return self.y * u - self.size * value - 0.5 * self.precision * u**2

    def first_centre(self, mean):
        """Return c at which u = mean has the score that is expected: ``y - m A'(c + u) = u / tau^2``."""
        left = np.maximum(self.y - mean * self.precision, LEAST_PROBABILITY)
        if self.family == "poisson":
            return np.log(left) - mean
        return logit(np.clip(left / self.size, LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY)) - mean

    def mode(self, centre, start):
        """Return the mode of u by Newton's method."""
        u = start
        for _ in range(MODE_STEPS):
            eta = centre + u
            if self.family == "poisson":
                slope = curvature = np.exp(np.minimum(eta, LARGEST_EXPONENT))
            else:
                slope = expit(eta)
                curvature = slope * (1.0 - slope)
            step = (self.y - self.size * slope - self.precision * u) / (self.size * curvature + self.precision)
            u = u + np.clip(step, -LONGEST_STEP, LONGEST_STEP)
        return u

    def grid(self, centre, mode):
        """Return points (n_points, n) on either side of the mode, as far as the density reaches, and their weights."""
        top, sides = self.log_density(centre, mode), []
        for sign in (-1.0, 1.0):
            low, high = 0.0, np.sqrt(2.0 * DROP / self.precision)  # the law is narrower than before there were data
            for _ in range(HALVINGS):
                middle = 0.5 * (low + high)
                falls = top - self.log_density(centre, mode + sign * middle) > DROP
                low, high = np.where(falls, low, middle), np.where(falls, middle, high)
            sides.append(high)
        half = 0.5 * (_NODE + 1.0)[:, None]
        points = np.concatenate([mode + (half - 1.0) * sides[0], mode + half * sides[1]])
        return points, np.concatenate([_WEIGHT[:, None] * side for side in sides])


def _scores(density, scale):
    """Return normal scores of the points: of what is below, or, above the mode, of what is above."""
    n = POINTS_OF_A_SIDE
    width = scale[[0, n]] / _WEIGHT[0]
    total = np.sum(density * scale, axis=0)
    below = width[0] * (_TO_NODES @ density[:n]) / total
    above = width[1] * (_TO_NODES @ density[n:][::-1])[::-1] / total
    return np.concatenate(
        [ndtri(np.clip(below, LEAST_PROBABILITY, 0.999)), -ndtri(np.clip(above, LEAST_PROBABILITY, 0.999))]
    )
