"""Which groups of a posterior at nodes have laws with an edge, and their mixtures of normals, node by node."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hbsk._engine.generalized.cells import Cells
from hbsk._engine.generalized.inner import EffectMoments
from hbsk._posterior.edge_laws import effect_parts
from hbsk._posterior.node_strata import NodeStrata, Strata
from hbsk._posterior.parts import SMALLEST_SD, RowMixture, standardised
from hbsk._posterior.skew_normals import FINE, skew_normals

# Skewness of effects, root mean square over the nodes, beyond which their laws are worked out.
EDGE = 0.3
# Share of the third moment of a difference beside which that of the other group is none.
LESSER = 0.3


@dataclass(frozen=True)
class EdgeGroups:
    """Groups whose laws are worked out, of a model with a varying intercept alone.

    Attributes
    ----------
    family : {"binomial", "poisson"}
    successes, trials : ndarray of shape (n_groups,)
        See `hbsk._posterior.edge_laws`.
    weight : ndarray of shape (n_nodes,)
    tau : ndarray of shape (n_nodes,)
    common : ndarray of shape (n_nodes, p)
    effects : EffectMoments
    """

    family: str
    successes: np.ndarray
    trials: np.ndarray
    weight: np.ndarray
    tau: np.ndarray
    common: np.ndarray
    effects: EffectMoments

    @cached_property
    def groups(self) -> np.ndarray:
        """Which they are, in order: those that are that skew, and those without counts, whose rates have long tails."""
        skewness = standardised(self.effects.third[0], np.sqrt(np.maximum(self.effects.covariance[0], 0.0)))
        is_edge = self.weight @ skewness**2 > EDGE**2
        if self.family == "poisson":
            is_edge |= self.successes == 0
        return np.flatnonzero(is_edge)

    def have(self, codes: np.ndarray) -> np.ndarray:
        """Tell which codes are of them."""
        return np.isin(codes, self.groups) if len(self.groups) else np.zeros(len(codes), dtype=bool)

    @cached_property
    def strata(self) -> NodeStrata:
        """Strata of the nodes."""
        deviation = self.common - self.weight @ self.common
        widest = np.sqrt(np.max(self.weight @ deviation**2, initial=0.0))
        return NodeStrata.of_nodes(self.weight, np.abs(self.tau), float(widest))

    def parts(self, strata: Strata, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return means and sds, (n_parts, n_strata, n), of parts of standardised effects of codes (n,)."""
        mean = self.effects.mean[0][:, codes]
        tau = np.broadcast_to(np.maximum(np.abs(self.tau), SMALLEST_SD)[:, None], mean.shape)
        y, size = self.successes[codes], self.trials[codes]
        return effect_parts(self.family, y, size, strata.averaged(mean), strata.averaged(tau))

    def parts_at_nodes(self, codes: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the same, (n_parts, n_at, n), of the strata of some nodes."""
        strata = self.strata.along(self.effects.mean[0][:, codes])
        number = strata.number()[at][None]
        means, sds = self.parts(strata, codes)
        return np.take_along_axis(means, number, axis=1), np.take_along_axis(sds, number, axis=1)

    def mixture(self, mean, sd, third, codes: np.ndarray, on_edge: np.ndarray, rest=None) -> RowMixture:
        """Return laws of ``mean + sd e`` over strata, e the standardised effect of a group.

        Parameters
        ----------
        mean, sd, third : ndarray of shape (n_nodes, n)
            Negative sds turn laws about.
        codes : ndarray of shape (n,), dtype int
            Groups.
        on_edge : ndarray of shape (n,), dtype bool
            Which laws are worked out; the others follow from their third moments.
        rest : ndarray of shape (n_nodes, n), optional
            Variance of independent noise.
        """
        strata = self.strata.along(mean)
        parts = skew_normals(strata.averaged(standardised(third, sd)), FINE)
        at = np.flatnonzero(on_edge)
        for part, worked_out in zip(parts, self.parts(strata.of(at), codes[at]), strict=True):
            part[:, :, at] = worked_out
        return strata.mixture(mean, sd, FINE.shares, parts, rest)

    def differences(self, mean, third, first: np.ndarray, second: np.ndarray, scale: float) -> RowMixture:
        """Return laws of differences of effects, of the parts of that group which has most of the skewness.

        The effect of the other group is taken for normal. Where both are skew the moments of the difference tell more.

        Parameters
        ----------
        mean, third : ndarray of shape (n_nodes, n_pairs)
        first, second : ndarray of shape (n_pairs,), dtype int
        scale : float
            Of effects in differences.
        """
        of_groups = np.sqrt(self.weight @ self.effects.third[0] ** 2)
        turned = of_groups[second] > of_groups[first]
        lead, other = np.where(turned, second, first), np.where(turned, first, second)
        on_edge = self.have(lead) & (of_groups[other] < LESSER * of_groups[lead])
        of_lead, rest = (scale**2 * np.maximum(self.effects.covariance[0][:, codes], 0.0) for codes in (lead, other))
        sign = np.where(turned, -np.sign(scale), np.sign(scale))
        sd = np.where(on_edge, sign * np.sqrt(of_lead), np.sqrt(of_lead + rest))
        return self.mixture(mean, sd, third, lead, on_edge, np.where(on_edge, rest, 0.0))


def successes_of_groups(cells: Cells, sign: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return successes and trials of groups, or counts and ones, where laws of their effects follow from these.

    Failures are counted in the place of successes where ``sign`` is -1.
    """
    if not cells.varies_by_intercept:
        return None, None
    if cells.family == "poisson":
        return cells.yz[0], np.ones(cells.n_groups)
    trials = np.add.reduceat(cells.size, cells.starts)
    return (cells.yz[0] if sign > 0 else trials - cells.yz[0]), trials
