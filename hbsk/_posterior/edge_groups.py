"""Which groups of a posterior at nodes have laws with an edge, and their mixtures of normals, node by node."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hbsk._engine.generalized.cells import Cells
from hbsk._engine.generalized.inner import EffectMoments
from hbsk._posterior.edge_laws import effect_parts
from hbsk._posterior.parts import SMALLEST_SD, RowMixture, standardised

# Skewness of effects, root mean square over the nodes, beyond which their laws are worked out.
EDGE = 0.3
# Laws, nodes times groups, that are kept.
LAWS_HELD = 50_000
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
    effects : EffectMoments
    """

    family: str
    successes: np.ndarray
    trials: np.ndarray
    weight: np.ndarray
    tau: np.ndarray
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

    def parts(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return means and sds, (n_parts, n_nodes, n_groups), of parts of standardised effects; see `effect_parts`."""
        if len(self.groups) * len(self.weight) > LAWS_HELD:
            return self._worked_out(groups)
        at = np.searchsorted(self.groups, groups)
        means, sds = self._held
        return means[:, :, at], sds[:, :, at]

    @cached_property
    def _held(self):
        return self._worked_out(self.groups)

    def _worked_out(self, groups):
        tau = np.maximum(np.abs(self.tau), SMALLEST_SD)
        y, size = self.successes[groups], self.trials[groups]
        return effect_parts(self.family, y, size, self.effects.mean[0][:, groups], tau)

    def put(self, mixture: RowMixture, rows: np.ndarray, codes: np.ndarray, mean, sd) -> None:
        """Put laws in their places in a mixture of parts of `FINE`: ``mean + sd e``, e the standardised effect.

        Parameters
        ----------
        mixture : RowMixture
        rows : ndarray of shape (n,), dtype int
            Which of its rows.
        codes : ndarray of shape (n,), dtype int
            Their groups, all of them with an edge.
        mean, sd : ndarray of shape (n_nodes, n)
            Negative sds turn laws about.
        """
        groups, position = np.unique(codes, return_inverse=True)
        means, sds = (np.moveaxis(part[:, :, position], 0, 1) for part in self.parts(groups))
        n_components = len(mixture.weight)
        at = rows if len(rows) < mixture.mean.shape[1] else slice(None)
        mixture.mean[:, at] = (mean[:, None] + sd[:, None] * means).reshape(n_components, -1)
        mixture.variance[:, at] = ((sd[:, None] * sds) ** 2).reshape(n_components, -1)

    def put_differences(self, mixture: RowMixture, first: np.ndarray, second: np.ndarray, scale: float) -> None:
        """Put laws of differences of effects in a mixture of parts of `FINE` where one group has most of the skewness.

        The effect of the other group is taken for normal. Where both are skew the moments of the difference tell more.
        """
        of_groups = np.unique(np.concatenate([first, second]))
        third = np.sqrt(self.weight @ self.effects.third[0][:, of_groups] ** 2)
        of_first, of_second = (third[np.searchsorted(of_groups, groups)] for groups in (first, second))
        for lead, other, sign, more in ((first, second, 1.0, of_first), (second, first, -1.0, of_second)):
            less = np.where(sign > 0, of_second, of_first)
            at = np.flatnonzero(self.have(lead) & (less < LESSER * more))
            if len(at):
                effects, (a, b) = self.effects, (lead[at], other[at])
                mean = sign * scale * (effects.mean[0][:, a] - effects.mean[0][:, b])
                self.put(mixture, at, a, mean, sign * scale * np.sqrt(effects.covariance[0][:, a]))
                n_parts = len(mixture.weight) // len(self.weight)
                mixture.variance[:, at] += np.repeat(scale**2 * effects.covariance[0][:, b], n_parts, axis=0)


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
