"""Strata of nodes within which the law of a predictor differs little, and mixtures over them in the place of the nodes.

Many parts of a law at each of a thousand nodes are more than an answer needs. Nodes are cut along the sd between groups
and then along the mean of the predictor itself, at even normal scores, so that the outermost strata are not much wider
than the rest. A stratum has one shape for all its nodes, about means and sds whose first two moments over them are
kept. Its share is the same for all predictors: a node at a cut belongs to both sides. (Designs of two to ten groups
with an edge: ends of intervals move by 0.0005 sds of the predictor in the median, by 0.002 with several columns, at
most by 0.007; with cuts at even shares by ten times that, and with cuts along the intercept in the place of the
predictor by up to 0.1.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from hbsk._posterior.parts import RowMixture

# Normal score of the outermost cuts.
REACH = 2.5
# Strata of the sd for each unit of its coefficient of variation, and the most of them; strata of the mean for each unit
# of its sd over that between groups.
OF_SD, MOST_OF_SD = 24.0, 24
OF_MEAN, MOST_OF_MEAN = 16.0, 12


@dataclass(frozen=True)
class NodeStrata:
    """Strata of nodes, in order of the sd between groups.

    Attributes
    ----------
    weight : ndarray of shape (n_nodes,)
    level : ndarray of shape (n_nodes,), dtype int
        Of the sd between groups.
    share : ndarray of shape (n_strata,)
        Of the posterior.
    starts : ndarray of int
        The first stratum of each level.
    """

    weight: np.ndarray
    level: np.ndarray
    share: np.ndarray
    starts: np.ndarray

    @classmethod
    def of_nodes(cls, weight: np.ndarray, tau: np.ndarray, spread: float) -> NodeStrata:
        """Return strata of nodes with sds ``tau`` (n_nodes,) between groups.

        ``spread`` is the sd over the nodes of what the predictors have in common.
        """
        mean = max(weight @ tau, 1e-300)
        cuts = _cuts(OF_SD * np.sqrt(weight @ (tau - mean) ** 2) / mean, MOST_OF_SD)
        order = np.argsort(tau, kind="stable")
        below = np.cumsum(weight[order])
        level = np.empty(len(weight), dtype=int)
        level[order] = np.searchsorted(cuts, (below - 0.5 * weight[order]) / below[-1])
        level = np.unique(level, return_inverse=True)[1]
        places = np.diff(_cuts(OF_MEAN * spread / mean, MOST_OF_MEAN), prepend=0.0, append=1.0)
        share = np.outer(np.bincount(level, weight), places)
        return cls(weight, level, share.ravel(), np.arange(len(share)) * len(places))

    def along(self, values: np.ndarray) -> Strata:
        """Return the strata of predictors with means ``values`` (n_nodes, n) at the nodes."""
        level = np.broadcast_to(self.level[:, None], values.shape)
        is_cut = len(self.starts) < len(self.share)
        order = np.lexsort((values if is_cut else level, level), axis=0)
        below = _summed(self.weight[order])
        bounds = np.append(0.0, np.cumsum(self.share))
        bounds *= below[-1, 0] / bounds[-1]
        # one search in the ranges of all predictors, one after another
        n_nodes, n = values.shape
        shift = 2.0 * bounds[-1] * np.arange(n)
        first = np.searchsorted((below[1:] + shift).T.ravel(), (bounds[1:-1, None] + shift).T.ravel())
        first = np.minimum(first.reshape(n, -1).T - n_nodes * np.arange(n), n_nodes - 1)
        return Strata(self, order, first, bounds[1:-1, None] - np.take_along_axis(below, first, axis=0))


def _cuts(wanted, most):
    """Return probabilities at even normal scores that cut a law into as many parts as are wanted."""
    return ndtr(np.linspace(-REACH, REACH, int(np.clip(np.ceil(wanted), 1, most)) + 1)[1:-1])


def _summed(values):
    """Return running sums along the first axis from 0 on."""
    return np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])


@dataclass(frozen=True)
class Strata:
    """Strata of nodes for each of n predictors.

    Attributes
    ----------
    nodes : NodeStrata
    order : ndarray of shape (n_nodes, n), dtype int
        Nodes in the order of the strata.
    cut : ndarray of shape (n_strata - 1, n), dtype int
        Places in that order of the nodes that are cut.
    before : ndarray of shape (n_strata - 1, n)
        Weight of them that is before the cut.
    """

    nodes: NodeStrata
    order: np.ndarray
    cut: np.ndarray
    before: np.ndarray

    def of(self, which: np.ndarray) -> Strata:
        """Return the strata of some of the predictors."""
        return Strata(self.nodes, self.order[:, which], self.cut[:, which], self.before[:, which])

    def averaged(self, values: np.ndarray) -> np.ndarray:
        """Return means (n_strata, n) of values (n_nodes, n) in the strata."""
        ordered = np.take_along_axis(values, self.order, axis=0)
        sums = _summed(self.nodes.weight[self.order] * ordered)
        inner = np.take_along_axis(sums, self.cut, axis=0) + self.before * np.take_along_axis(ordered, self.cut, axis=0)
        return np.diff(inner, axis=0, prepend=0.0, append=sums[-1:]) / self.nodes.share[:, None]

    def number(self) -> np.ndarray:
        """Return the stratum that has the most of each node, (n_nodes, n)."""
        n_nodes = len(self.order)
        more = self.before > 0.5 * self.nodes.weight[np.take_along_axis(self.order, self.cut, axis=0)]
        first = self.cut + more
        count = np.zeros((n_nodes + 1, first.shape[1]), dtype=int)
        np.add.at(count, (first, np.arange(first.shape[1])), 1)
        number = np.empty_like(self.order)
        np.put_along_axis(number, self.order, np.cumsum(count[:n_nodes], axis=0), axis=0)
        return number

    def mixture(self, mean, sd, shares, parts, rest=None) -> RowMixture:
        """Return laws of ``mean + sd e``, e of parts in each stratum, with independent noise of variance ``rest``.

        Parameters
        ----------
        mean, sd, rest : ndarray of shape (n_nodes, n)
            Negative sds turn laws about.
        shares : ndarray of shape (n_parts,)
        parts : tuple of ndarray of shape (n_parts, n_strata, n)
            Means and sds of normals.
        """
        centre, scale = mean.mean(axis=0), sd.mean(axis=0)  # beside which second moments keep their digits
        left, left_of_sd = mean - centre, sd - scale
        mean, sd = self.averaged(left), self.averaged(left_of_sd)
        own = self.averaged(left**2) - mean**2
        slope = 2.0 * (self.averaged(left * left_of_sd) - mean * sd)
        square = np.maximum(self.averaged(left_of_sd**2) - sd**2, 0.0)
        own = np.maximum(own, 0.0) if rest is None else np.maximum(own, 0.0) + self.averaged(rest)
        means, sds = (np.moveaxis(part, 0, 1) for part in parts)
        mean, sd, own, slope, square = (values[:, None] for values in (centre + mean, scale + sd, own, slope, square))
        variance = np.maximum(own + means * (slope + means * square), 0.0) + sds**2 * (sd**2 + square)
        weight = np.outer(self.nodes.share, shares).ravel()
        shape = (len(weight), means.shape[2])
        return RowMixture(weight, (mean + sd * means).reshape(shape), variance.reshape(shape), self.nodes.starts)
