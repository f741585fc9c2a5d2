"""A covariance of very many effects of which there are draws, and the blocks of its levels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp

# Numbers of draws that are held at a time.
HELD = 2**22


class DrawnCovariance:
    """P of `hbsk._engine.krylov_passes`: its blocks of levels, what the hubs add to it, and draws.

    Parameters
    ----------
    draws, plain : ndarray of shape (n_many, n_draws)
        Draws of covariance ``G S~^-1 G'``, and G times the white noise they were made of.
    hubs : ndarray of shape (K, n_hubs)
        Columns whose products are what the hubs add.
    spread : csr_array of shape (n_many, n_many)
        G.
    blocks : mapping of int to ndarray of shape (n_groups, q, q)
        Blocks of the levels of each factor that remains.

    Attributes
    ----------
    n_draws : int
    """

    def __init__(
        self,
        draws: np.ndarray,
        plain: np.ndarray,
        hubs: np.ndarray,
        spread: sp.csr_array,
        blocks: Mapping[int, np.ndarray],
    ):
        self.hubs, self.blocks, self._spread, self.n_draws = hubs, blocks, spread, draws.shape[1]
        self._columns = np.concatenate([draws, plain], axis=1, dtype=np.float32)

    def sample(self, rng) -> np.ndarray:
        """Return draws of covariance P, (K, n_draws): all there are."""
        out = self.hubs @ rng.standard_normal((self.hubs.shape[1], self.n_draws))
        out[: len(self._columns)] += self._columns[:, : self.n_draws]
        return out

    def quadratic_forms(self, rows: sp.csr_array) -> np.ndarray:
        """Return ``g' P g`` of sparse rows g, (n_rows, K).

        By squares of draws, of which those of the white noise are taken off: their mean is known, and they go up and
        down together. Sums of entries of P would be lost where effects of two factors nearly cancel.
        """
        total, n_many = np.empty(rows.shape[0]), len(self._columns)
        step = max(1, HELD // (self._columns.shape[1] + self.hubs.shape[1]))
        for start in range(0, len(total), step):
            part = rows[start : start + step]
            of_many = part[:, :n_many]
            known = of_many @ self._spread
            squares = (of_many @ self._columns) ** 2
            drawn = squares[:, : self.n_draws].mean(axis=1) - squares[:, self.n_draws :].mean(axis=1)
            exact = known.multiply(known).sum(axis=1) + np.sum((part @ self.hubs) ** 2, axis=1)
            total[start : start + step] = exact + drawn
        return total
