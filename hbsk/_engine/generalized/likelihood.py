"""Sums over the cells of groups at many values of the group effects, for the same common coefficients.

With a varying intercept alone ``e^eta = e^base e^u``: exponentials are taken once for each cell and once for each
group, not for each cell at each point of the quadrature; and a Poisson group needs ``sum_i m_i e^base_i`` only.
"""

from __future__ import annotations

import numpy as np

from hbsk._engine.generalized.cells import Cells
from hbsk._engine.generalized.families import FAMILIES, LARGEST_PREDICTOR

# Sum of what is in an exponent up to which products of exponentials stay in floating point.
LARGEST_EXPONENT = 600.0
# Factors ``1 + e^eta`` of which one logarithm is taken, where their product stays in floating point.
FACTORS_OF_A_LOGARITHM = 8


class GroupLikelihood:
    """The likelihood of groups as a function of their effects, at n_points values of the common coefficients.

    Parameters
    ----------
    cells : Cells
    base : ndarray of shape (n_points, n_cells)
        The linear predictor without effects of groups.
    """

    def __init__(self, cells: Cells, base: np.ndarray):
        self.cells, self.base, self.family = cells, base, FAMILIES[cells.family]

    def cumulants(self, effects: np.ndarray) -> np.ndarray:
        """Return ``sum_i m_i A(eta_i)`` of each group, (n_points, n_groups), at effects (q, n_points, n_groups)."""
        return self.cells.sums(self.cells.size * self.family.cumulant(self._predictor(effects)))

    def derivatives(self, effects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``sum_i m_i A'(eta_i) z_i`` and ``sum_i m_i A''(eta_i) z_i z_i'``.

        Their shapes are (q, n_points, n_groups) and (q, q, n_points, n_groups).
        """
        q = self.cells.n_varying
        mean, weight = self.family.mean_and_weight(self._predictor(effects))
        mean, weight = self.cells.size * mean, self.cells.size * weight
        first = np.empty((q, *effects.shape[1:]))
        second = np.empty((q, *first.shape))
        for a in range(q):
            first[a] = self.cells.sums(mean * self.cells.columns[a])
            weighted = weight * self.cells.columns[a]
            for c in range(a + 1):
                second[a, c] = second[c, a] = self.cells.sums(weighted * self.cells.columns[c])
        return first, second

    def _predictor(self, effects):
        eta = self.base.copy()
        for a, effect in enumerate(effects):
            eta += effect[:, self.cells.group] * self.cells.columns[a]
        return eta


class PoissonIntercepts:
    """`GroupLikelihood` of Poisson counts with a varying intercept alone."""

    def __init__(self, cells: Cells, base: np.ndarray):
        self.expected = cells.sums(cells.size * np.exp(np.minimum(base, LARGEST_PREDICTOR)))

    def cumulants(self, effects: np.ndarray) -> np.ndarray:
        """Return ``sum_i m_i A(eta_i)``."""
        return self.expected * np.exp(np.minimum(effects[0], LARGEST_PREDICTOR))

    def derivatives(self, effects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``sum_i m_i A'(eta_i)`` and ``sum_i m_i A''(eta_i)``."""
        expected = self.cumulants(effects)
        return expected[None], expected[None, None]


class BinomialIntercepts:
    """`GroupLikelihood` of binomial counts with a varying intercept alone."""

    def __init__(self, cells: Cells, base: np.ndarray):
        self.cells, self.base = cells, base
        self.largest = float(np.max(np.abs(base), initial=0.0))
        self.odds = np.exp(np.minimum(base, LARGEST_EXPONENT))
        # products of few factors leave floating point for no predictor that small
        self.runs = None
        if cells.has_single_trials:
            self.runs = _runs(cells)

    def cumulants(self, effects: np.ndarray) -> np.ndarray:
        """Return ``sum_i m_i A(eta_i)``."""
        u = effects[0]
        largest = self.largest + float(np.max(np.abs(u), initial=0.0))
        if largest > LARGEST_EXPONENT:
            return GroupLikelihood(self.cells, self.base).cumulants(effects)
        factor = self._odds_at(u)
        factor += 1.0
        if self.runs is not None and largest * FACTORS_OF_A_LOGARITHM < LARGEST_EXPONENT:
            first, starts = self.runs
            product = np.multiply.reduceat(factor, first, axis=1)
            return np.add.reduceat(np.log(product, out=product), starts, axis=1)
        np.log(factor, out=factor)
        factor *= self.cells.size
        return self.cells.sums(factor)

    def derivatives(self, effects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``sum_i m_i A'(eta_i)`` and ``sum_i m_i A''(eta_i)``."""
        u = effects[0]
        if self.largest + float(np.max(np.abs(u), initial=0.0)) > LARGEST_EXPONENT:
            return GroupLikelihood(self.cells, self.base).derivatives(effects)
        odds = self._odds_at(u)
        lower = 1.0 / (1.0 + odds)
        mean = odds * lower
        if not self.cells.has_single_trials:
            mean *= self.cells.size
        first = self.cells.sums(mean)
        mean *= lower
        return first[None], self.cells.sums(mean)[None, None]

    def _odds_at(self, u):
        odds = np.exp(u)[:, self.cells.group]
        odds *= self.odds
        return odds


def _runs(cells: Cells) -> tuple[np.ndarray, np.ndarray]:
    """Return where runs of few cells of one group begin, and which of them begin a group."""
    position = np.arange(cells.n_cells) - cells.starts[cells.group]
    first = np.flatnonzero(position % FACTORS_OF_A_LOGARITHM == 0)
    return first, np.searchsorted(first, cells.starts)


def group_likelihood(cells: Cells, base: np.ndarray) -> GroupLikelihood | PoissonIntercepts | BinomialIntercepts:
    """Return the likelihood of groups by the shortest way.

    Parameters
    ----------
    cells : Cells
    base : ndarray of shape (n_points, n_cells)
    """
    if not cells.varies_by_intercept:
        return GroupLikelihood(cells, base)
    return (PoissonIntercepts if cells.family == "poisson" else BinomialIntercepts)(cells, base)
