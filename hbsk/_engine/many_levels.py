"""The Schur complement of factors of many levels as products with columns, and what is known of its blocks of levels.

Symbols are those of `hbsk._engine.krylov_passes`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from hbsk._engine.group_algebra import lower_indices, unpack_symmetric

if TYPE_CHECKING:
    from hbsk._engine.krylov_passes import KrylovPasses


class ManyLevels:
    """``S~ = F^-1 S_mm F^-T`` at one Lambda.

    Attributes
    ----------
    spread : BlockDiagonal
        G.
    own_rest : BlockDiagonal
        Blocks of levels of R.
    diagonal_inverses : list of ndarray of shape (n_groups, q, q)
        ``D^-1``.
    log_det : float
        ``log|D|``.
    """

    def __init__(self, passes: KrylovPasses, lambdas, first, packed):
        self._passes, self._first = passes, first
        own_rest, inverse_roots, self.diagonal_inverses, self.log_det = [], [], [], 0.0
        for own, of_levels, block in zip(passes.own.blocks, passes.to_many, lambdas, strict=True):
            q = len(block)
            taken = (of_levels @ packed.ravel()).reshape(-1, own.shape[0])
            left = own - unpack_symmetric(taken[None], q)[0].transpose(2, 0, 1)
            root = cholesky(np.eye(q) + block.T @ left @ block)
            inverse_root = np.linalg.inv(root)
            own_rest.append(left)
            inverse_roots.append(inverse_root)
            self.diagonal_inverses.append(inverse_root.swapaxes(1, 2) @ inverse_root)
            self.log_det += 2.0 * np.sum(np.log(np.diagonal(root, axis1=1, axis2=2)))
        self.own_rest = BlockDiagonal(own_rest)
        self._inverse_root = BlockDiagonal(inverse_roots)
        self.spread = BlockDiagonal([b @ r.swapaxes(1, 2) for b, r in zip(lambdas, inverse_roots, strict=True)])
        scaled = [root @ root.swapaxes(1, 2) for root in inverse_roots]
        of_own = zip(scaled, self.spread.blocks, passes.own.blocks, strict=True)
        self._base = BlockDiagonal([s + g.swapaxes(1, 2) @ own @ g for s, g, own in of_own])

    def times(self, columns: np.ndarray) -> np.ndarray:
        """Return ``S~ columns``, (n_many, m)."""
        return self._base @ columns - self.spread.T @ self._taken(self.spread @ columns)

    def rest_times(self, columns: np.ndarray) -> np.ndarray:
        """Return ``R G columns``, (n_many, m)."""
        spread = self.spread @ columns
        return self._passes.own @ spread - self._taken(spread)

    def _taken(self, columns):
        """Return what R lacks of the blocks of A, times columns."""
        passes = self._passes
        taken = passes.between_many.T @ times_blocks(self._first, passes.between_many @ columns)
        if passes.beside is not None:
            taken -= passes.beside @ columns
        return taken

    def whitened(self, columns: np.ndarray) -> np.ndarray:
        """Return ``F^-1 columns``."""
        return self._inverse_root @ columns

    def unwhitened(self, columns: np.ndarray) -> np.ndarray:
        """Return ``F^-T columns``."""
        return self._inverse_root.T @ columns

    def across_first(self) -> np.ndarray:
        """Return ``A_12 G G' A_21`` of each level of factor 0, (n_groups, q, q)."""
        passes, (n, q) = self._passes, self._first.shape[:2]
        packed = np.zeros(q * (q + 1) // 2 * n)
        for of_levels, block in zip(passes.to_first, self.spread.blocks, strict=True):
            row, column = lower_indices(block.shape[1])
            packed += of_levels @ (block @ block.swapaxes(1, 2))[:, row, column].T.ravel()
        return unpack_symmetric(packed.reshape(1, -1, n), q)[0].transpose(2, 0, 1)


class BlockDiagonal:
    """A matrix of one small block for each level, factor by factor."""

    def __init__(self, blocks: list[np.ndarray]):
        self.blocks = blocks
        ends = np.cumsum([0, *(len(block) * block.shape[1] for block in blocks)])
        self.rows = [slice(int(start), int(stop)) for start, stop in pairwise(ends)]
        is_scalar = all(block.shape[1] == 1 for block in blocks)
        self._scale = np.concatenate([block[:, 0] for block in blocks]) if is_scalar else None

    def sparse(self) -> sp.csr_array:
        """Return it as a sparse matrix."""
        parts = [sp.bsr_array((b, np.arange(len(b)), np.arange(len(b) + 1))) for b in self.blocks]
        return sp.block_diag(parts, format="csr")

    @property
    def T(self) -> BlockDiagonal:  # noqa: N802 - as NumPy calls it
        """The transpose."""
        return self if self._scale is not None else BlockDiagonal([block.swapaxes(1, 2) for block in self.blocks])

    def __matmul__(self, columns: np.ndarray) -> np.ndarray:
        """Return the product with columns (n, m)."""
        if self._scale is not None:
            return self._scale * columns
        return np.concatenate(
            [times_blocks(block, columns[at]) for block, at in zip(self.blocks, self.rows, strict=True)]
        )


def congruence_map(inside, outside, blocks, n_inside: int, n_outside: int) -> sp.csr_array:
    """Return the map from blocks of levels to ``sum P' X P`` of other levels, lower triangles packed, levels last.

    Parameters
    ----------
    inside, outside : ndarray of shape (n_pairs,), dtype int
        Levels that X and the sums belong to.
    blocks : ndarray of shape (n_pairs, q_outside, q_inside)
        ``P'``.
    """
    rows, columns, values = [], [], []
    for a, (k, m) in enumerate(zip(*lower_indices(blocks.shape[1]), strict=True)):
        for b, (i, j) in enumerate(zip(*lower_indices(blocks.shape[2]), strict=True)):
            value = blocks[:, k, i] * blocks[:, m, j]
            values.append(value if i == j else value + blocks[:, k, j] * blocks[:, m, i])
            rows.append(a * n_outside + outside)
            columns.append(b * n_inside + inside)
    shape = (len(lower_indices(blocks.shape[1])[0]) * n_outside, len(lower_indices(blocks.shape[2])[0]) * n_inside)
    return sp.csr_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=shape)


def times_blocks(blocks, columns):
    """Return one small block for each level (n, q, q) times columns (n q, m)."""
    n, q = blocks.shape[:2]
    if q == 1:
        return blocks[:, 0] * columns
    return (blocks @ columns.reshape(n, q, columns.shape[1])).reshape(columns.shape)


def cholesky(matrix):
    """Return Cholesky's lower factor, NaN where there is none."""
    try:
        return np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return np.full_like(matrix, np.nan)
