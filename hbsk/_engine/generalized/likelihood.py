"""Sums over the cells of groups at many values of the group effects, for the same common coefficients.

With a varying intercept alone ``e^eta = e^base e^u``: exponentials are taken once for each cell and once for each
group, not for each cell at each point of the quadrature; and a Poisson group needs ``sum_i m_i e^base_i`` only. Of
binary rows ``sum_i log(1 + e^eta_i)`` is the log of products of a few factors each, and logarithms cost most of all.
"""

from __future__ import annotations

from copy import copy
from typing import ClassVar, Self

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

    by_point: ClassVar[tuple[str, ...]] = ("base",)

    def __init__(self, cells: Cells, base: np.ndarray):
        self.cells, self.base, self.family = cells, base, FAMILIES[cells.family]

    def stacked(self, n_times: int) -> Self:
        """Return the likelihood at all points so many times over."""
        more = copy(self)
        for name in self.by_point:
            setattr(more, name, np.tile(getattr(self, name), (n_times, 1)))
        return more

    def cumulants(self, effects: np.ndarray) -> np.ndarray:
        """Return ``sum_i m_i A(eta_i)`` of each group, (n_points, n_groups), at effects (q, n_points, n_groups)."""
        return self.cells.sums(self.cells.size * self.family.cumulant(self.predictor(effects)))

    def derivatives(self, effects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``sum_i m_i A'(eta_i) z_i`` and ``sum_i m_i A''(eta_i) z_i z_i'``.

        Their shapes are (q, n_points, n_groups) and (q, q, n_points, n_groups).
        """
        mean, weight = self.family.mean_and_weight(self.predictor(effects))
        return self.projected(self.cells.size * mean, self.cells.size * weight)

    def projected(self, mean, weight):
        """Return sums over groups of ``mean z`` and ``weight z z'``."""
        q, columns = self.cells.n_varying, self.cells.columns
        first = np.stack([self.cells.sums(mean * columns[a]) for a in range(q)])
        second = np.empty((q, *first.shape))
        for a in range(q):
            weighted = weight * columns[a]
            for c in range(a + 1):
                second[a, c] = second[c, a] = self.cells.sums(weighted * columns[c])
        return first, second

    def predictor(self, effects):
        """Return the linear predictor of cells, (n_points, n_cells)."""
        eta = self.base.copy()
        for a, effect in enumerate(effects):
            eta += effect[:, self.cells.group] * self.cells.columns[a]
        return eta


class PoissonIntercepts(GroupLikelihood):
    """`GroupLikelihood` of Poisson counts with a varying intercept alone."""

    by_point = ("expected",)

    def __init__(self, cells: Cells, base: np.ndarray):
        super().__init__(cells, base)
        self.expected = cells.sums(cells.size * np.exp(np.minimum(base, LARGEST_PREDICTOR)))

    def cumulants(self, effects: np.ndarray) -> np.ndarray:
        """Return ``sum_i m_i A(eta_i)``."""
        return self.expected * np.exp(np.minimum(effects[0], LARGEST_PREDICTOR))

    def derivatives(self, effects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``sum_i m_i A'(eta_i)`` and ``sum_i m_i A''(eta_i)``."""
        expected = self.cumulants(effects)
        return expected[None], expected[None, None]


class BinomialLikelihood(GroupLikelihood):
    """`GroupLikelihood` of binomial counts by their odds."""

    def cumulants(self, effects: np.ndarray) -> np.ndarray:
        """Return ``sum_i m_i A(eta_i)``."""
        odds, largest = self.odds(effects)
        if odds is None:
            return super().cumulants(effects)
        odds += 1.0
        runs = self.cells.runs(FACTORS_OF_A_LOGARITHM)
        if runs is not None and largest * FACTORS_OF_A_LOGARITHM < LARGEST_EXPONENT:
            first, starts = runs
            product = np.multiply.reduceat(odds, first, axis=1)
            return np.add.reduceat(np.log(product, out=product), starts, axis=1)
        np.log(odds, out=odds)
        odds *= self.cells.size
        return self.cells.sums(odds)

    def derivatives(self, effects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``sum_i m_i A'(eta_i) z_i`` and ``sum_i m_i A''(eta_i) z_i z_i'``."""
        odds, _ = self.odds(effects)
        if odds is None:
            return super().derivatives(effects)
        lower = 1.0 / (1.0 + odds)
        odds *= lower
        if not self.cells.has_single_trials:
            odds *= self.cells.size
        lower *= odds
        if self.cells.varies_by_intercept:
            return self.cells.sums(odds)[None], self.cells.sums(lower)[None, None]
        return self.projected(odds, lower)

    def odds(self, effects: np.ndarray) -> tuple[np.ndarray | None, float]:
        """Return ``e^eta``, or None where it leaves floating point, and the largest size of eta."""
        eta = self.predictor(effects)
        largest = float(np.max(np.abs(eta), initial=0.0))
        return (None if largest > LARGEST_EXPONENT else np.exp(eta, out=eta)), largest


class BinomialIntercepts(BinomialLikelihood):
    """`BinomialLikelihood` with a varying intercept alone."""

    by_point = ("base", "base_odds")

    def __init__(self, cells: Cells, base: np.ndarray):
        super().__init__(cells, base)
        self.largest = float(np.max(np.abs(base), initial=0.0))
        self.base_odds = np.exp(np.minimum(base, LARGEST_EXPONENT))

    def odds(self, effects: np.ndarray) -> tuple[np.ndarray | None, float]:
        """Return ``e^eta`` from one exponential a group, and a bound of the size of eta."""
        largest = self.largest + float(np.max(np.abs(effects[0]), initial=0.0))
        if largest > LARGEST_EXPONENT:
            return None, largest
        odds = np.exp(effects[0])[:, self.cells.group]
        odds *= self.base_odds
        return odds, largest


def group_likelihood(cells: Cells, base: np.ndarray) -> GroupLikelihood:
    """Return the likelihood of groups by the shortest way.

    Parameters
    ----------
    cells : Cells
    base : ndarray of shape (n_points, n_cells)
    """
    if cells.family == "binomial":
        return (BinomialIntercepts if cells.varies_by_intercept else BinomialLikelihood)(cells, base)
    return (PoissonIntercepts if cells.varies_by_intercept else GroupLikelihood)(cells, base)
