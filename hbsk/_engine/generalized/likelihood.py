"""Sums over the cells of groups at many values of the group effects, for the same common coefficients.

``e^eta = e^base e^(z'u)``: exponentials are taken once for each cell and once for each of its strata, not for each cell
at each point of the quadrature; and a Poisson stratum needs ``sum_i m_i e^base_i`` only.

Points are last, cells and groups next to last: sums over cells are those of whole rows then. Before them may be a
further axis, of several effects beside the same coefficients.
"""

from __future__ import annotations

import numpy as np

from hbsk._engine.generalized.cells import Cells, repeated
from hbsk._engine.generalized.families import FAMILIES, LARGEST_PREDICTOR, excess

# Sum of what is in an exponent up to which products of exponentials stay in floating point.
LARGEST_EXPONENT = 600.0


class GroupLikelihood:
    """The likelihood of groups as a function of their effects, at n_points values of the common coefficients.

    Parameters
    ----------
    cells : Cells
    base : ndarray of shape (n_cells, n_points)
        The linear predictor without effects of groups.
    """

    most = LARGEST_EXPONENT

    def __init__(self, cells: Cells, base: np.ndarray):
        self.cells, self.base, self.family = cells, base, FAMILIES[cells.family]
        self.strata = cells.strata
        self.largest = float(np.abs(base).max(initial=0.0))

    def cumulants(self, moved: np.ndarray, furthest: float | None = None) -> np.ndarray:
        """Return ``sum_i m_i A(eta_i)`` of each group, (..., n_groups, n_points).

        Parameters
        ----------
        moved : ndarray of shape (..., n_strata, n_points)
            ``z'u`` of strata.
        furthest : float, optional
            What its absolute value is at most, where that is known.
        """
        if self.is_in_reach(_largest(moved) if furthest is None else furthest):
            return self.cumulants_in_reach(moved)
        return self.cells.sized_sums(self.family.cumulant(self.predictor(moved)))

    def derivatives(self, effects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``sum_i m_i A'(eta_i) z_i`` and ``sum_i m_i A''(eta_i) z_i z_i'``.

        Their shapes are (q, n_groups, n_points) and (q, q, n_groups, n_points).
        """
        mean, weight = self.of_strata(self.strata.effects(effects))
        q, strata = self.cells.n_varying, self.strata
        if strata.is_one == (True,):
            return mean[None], weight[None, None]
        first = np.empty(effects.shape)
        second = np.empty((q, *first.shape))
        for a in range(q):
            first[a] = strata.to_groups(strata.times_column(mean, a))
            weighted = strata.times_column(weight, a)
            for c in range(a + 1):
                second[a, c] = second[c, a] = strata.to_groups(strata.times_column(weighted, c))
        return first, second

    def excess(self, moved: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Return what `cumulants` are beyond their tangent at ``z'u`` of strata, (..., n_groups, n_points).

        Parameters
        ----------
        moved : ndarray of shape (n_strata, n_points)
        steps : ndarray of shape (..., n_strata, n_points)
            How far from there.
        """
        beyond = excess(self.family, self.predictor(moved), repeated(steps, self.strata.of_cell))
        return self.cells.sized_sums(beyond)

    def of_strata(self, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return sums of ``m_i A'(eta_i)`` and ``m_i A''(eta_i)`` over strata, by their ``z'u``."""
        if self.is_in_reach(_largest(moved)):
            return self.of_strata_in_reach(moved)
        mean, weight = self.family.mean_and_weight(self.predictor(moved))
        return self.strata.of_sized_cells(mean), self.strata.of_sized_cells(weight)

    def is_in_reach(self, furthest: float) -> bool:
        """Whether products of exponentials are what the family says, effects of groups up to so far away."""
        return self.largest + furthest <= self.most

    def cumulants_in_reach(self, moved: np.ndarray) -> np.ndarray:
        """Return `cumulants` by ``z'u`` of strata."""
        raise NotImplementedError

    def of_strata_in_reach(self, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return `of_strata`."""
        raise NotImplementedError

    def predictor(self, moved: np.ndarray) -> np.ndarray:
        """Return the linear predictor of cells, (..., n_cells, n_points)."""
        return repeated(moved, self.strata.of_cell) + self.base


class PoissonLikelihood(GroupLikelihood):
    """`GroupLikelihood` of Poisson counts."""

    most = LARGEST_PREDICTOR

    def __init__(self, cells: Cells, base: np.ndarray):
        super().__init__(cells, base)
        self.expected = cells.strata.of_sized_cells(np.exp(np.minimum(base, LARGEST_PREDICTOR)))

    def cumulants_in_reach(self, moved: np.ndarray) -> np.ndarray:
        """Return ``sum_i m_i A(eta_i)`` of each group."""
        return self.strata.to_groups(self.of_strata_in_reach(moved)[0])

    def of_strata_in_reach(self, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what is expected of each stratum, twice."""
        expected = np.exp(moved)
        expected *= self.expected
        return expected, expected


class BinomialLikelihood(GroupLikelihood):
    """`GroupLikelihood` of binomial counts, by their odds."""

    def __init__(self, cells: Cells, base: np.ndarray):
        super().__init__(cells, base)
        self.base_odds = np.exp(np.minimum(base, LARGEST_EXPONENT))

    def cumulants_in_reach(self, moved: np.ndarray) -> np.ndarray:
        """Return ``sum_i m_i A(eta_i)`` of each group."""
        odds = self.odds(moved)
        odds += 1.0
        np.log(odds, out=odds)
        return self.cells.sized_sums(odds)

    def of_strata_in_reach(self, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``sum_i m_i p_i`` and ``sum_i m_i p_i (1 - p_i)`` of each stratum."""
        odds = self.odds(moved)
        lower = odds + 1.0
        np.reciprocal(lower, out=lower)
        odds *= lower
        lower *= odds
        return self.strata.of_sized_cells(odds), self.strata.of_sized_cells(lower)

    def odds(self, moved: np.ndarray) -> np.ndarray:
        """Return ``e^eta`` of cells, by one exponential a stratum."""
        odds = repeated(np.exp(moved), self.strata.of_cell)
        odds *= self.base_odds
        return odds


def _largest(moved):
    return max(moved.max(), -moved.min())


LIKELIHOODS: dict[str, type[GroupLikelihood]] = {"binomial": BinomialLikelihood, "poisson": PoissonLikelihood}


def group_likelihood(cells: Cells, base: np.ndarray) -> GroupLikelihood:
    """Return the likelihood of groups.

    Parameters
    ----------
    cells : Cells
    base : ndarray of shape (n_cells, n_points)
    """
    return LIKELIHOODS[cells.family](cells, base)
