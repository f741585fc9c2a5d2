"""A covariance of very many effects of which there are draws, and the blocks of its levels."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

# Numbers of draws that are gathered at a time.
GATHERED = 2**21


class DrawnCovariance:
    """P, as an array that is indexed with pairs of places: blocks of levels and all that touches a hub are at hand.

    Other entries are means of products of draws less those of the white noise they were made of, which are zero on
    average and go up and down with them.

    Parameters
    ----------
    draws, plain : ndarray of shape (n_many, n_draws)
        Draws of covariance ``G S~^-1 G'`` (`hbsk._engine.krylov_passes`), and G times the white noise.
    hubs : ndarray of shape (K, n_hubs)
        Columns whose products are what the hubs add.
    blocks : list of ndarray of shape (n_groups, q, q)
        Of ``G S~^-1 G'``, by factor.
    """

    def __init__(self, draws: np.ndarray, plain: np.ndarray, hubs: np.ndarray, blocks: list[np.ndarray]):
        self.hubs, self._n_draws = hubs, draws.shape[1]
        self._columns = np.concatenate([draws, plain], axis=1, dtype=np.float32)
        self._sign = np.repeat(np.float32([1.0, -1.0]) / np.float32(self._n_draws), self._n_draws)
        self._flat = np.concatenate([block.ravel() for block in blocks])
        level, start, offset, n_before, flat = [], [], [], 0, 0
        for block in blocks:
            n, q = block.shape[:2]
            level.append(n_before + np.repeat(np.arange(n), q))
            offset.append(np.tile(np.arange(q), n))
            start.append(flat + q * np.arange(n * q))  # of the row of a block
            n_before, flat = n_before + n, flat + block.size
        self._level, self._offset, self._start = map(np.concatenate, (level, offset, start))

    def sample(self, rng) -> np.ndarray:
        """Return draws of covariance P, (K, n_draws): all there are."""
        out = self.hubs @ rng.standard_normal((self.hubs.shape[1], self._n_draws))
        out[: len(self._columns)] += self._columns[:, : self._n_draws]
        return out

    def __getitem__(self, at: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Return the entries at pairs of places, whose arrays broadcast."""
        one, other = np.broadcast_arrays(*at)
        shape, one, other = one.shape, one.ravel(), other.ravel()
        values = np.empty(len(one))
        step = max(1, GATHERED // max(self.hubs.shape[1], 1))
        for begin in range(0, len(one), step):
            part = slice(begin, begin + step)
            values[part] = np.einsum("rh,rh->r", self.hubs[one[part]], self.hubs[other[part]])
        many = np.flatnonzero((one < len(self._columns)) & (other < len(self._columns)))
        one, other = one[many], other[many]
        together = self._level[one] == self._level[other]
        values[many[together]] += self._within(one[together], other[together])
        values[many[~together]] += self._drawn(one[~together], other[~together])
        return values.reshape(shape)

    def products(self, through: sp.csr_array, at: np.ndarray) -> np.ndarray:
        """Return ``sum_k through[r, k] P[k, at[r]]``, (n_rows,), for through of shape (n_rows, K)."""
        n_many = len(self._columns)
        total, step = np.empty(len(at)), max(1, GATHERED // (self._columns.shape[1] + self.hubs.shape[1]))
        for begin in range(0, len(at), step):
            rows = slice(begin, begin + step)
            part, place = through[rows], at[rows]
            total[rows] = np.einsum("rh,rh->r", part @ self.hubs, self.hubs[place])
            many = np.flatnonzero(place < n_many)
            moved = part[many][:, :n_many] @ self._columns
            total[rows][many] += np.einsum("rd,d,rd->r", moved, self._sign, self._columns[place[many]], optimize=True)
        # blocks of levels, in place of the draws
        row = np.repeat(np.arange(len(at)), np.diff(through.indptr))
        one, other = through.indices, at[row]
        many = np.flatnonzero((one < n_many) & (other < n_many))
        own = many[self._level[one[many]] == self._level[other[many]]]
        better = self._within(one[own], other[own]) - self._drawn(one[own], other[own])
        return total + np.bincount(row[own], through.data[own] * better, len(at))

    def _within(self, one, other):
        """Return entries of blocks of levels."""
        return self._flat[self._start[one] + self._offset[other]]

    def _drawn(self, one, other):
        """Return entries by draws."""
        values, step = np.empty(len(one)), max(1, GATHERED // self._columns.shape[1])
        for begin in range(0, len(one), step):
            part = slice(begin, begin + step)
            pair = self._columns[one[part]], self._columns[other[part]]
            values[part] = np.einsum("rd,d,rd->r", pair[0], self._sign, pair[1], optimize=True)
        return values
