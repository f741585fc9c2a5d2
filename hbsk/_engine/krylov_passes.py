"""Several grouping factors, very many effects beside the largest: a Schur complement that only multiplies.

Symbols are those of `hbsk._engine.schur_passes`. Of the rest, factors of many levels (m) are never written out; those of
few (hubs, h), whose levels hang together with all others, are bordered exactly as the common columns are:

    log|S| = log|S_mm| + log|T|,    T = S_hh - S_hm S_mm^-1 S_mh

With ``D = F F'`` the blocks of levels on the diagonal of S_mm and ``S~ = F^-1 S_mm F^-T = I - N``, whose blocks on the
diagonal are those of the identity,

    log|S_mm| = log|D| + mean of z' log(S~) z + z' N z over fixed probes z of signs

(stochastic Lanczos quadrature: Ubaru, Chen, Saad 2017, SIAM J. Matrix Anal. Appl. 38(4)); ``z' N z``, whose mean is zero,
takes the first order of the error off. The probes never change: the error is a smooth function of theta, nearly a
constant, and constants do not count. Traces of the gradient are means over the same probes, whose solves come with them.

Of the covariance ``P = G S~^-1 G'`` of effects, ``G = Lambda F^-T``, blocks of levels are ``I + E y y'``, ``y = N x``,
given draws x of covariance S~^-1: the law of a level given all others, averaged (Siden et al. 2018, J. Comput. Graph.
Stat. 27(4)). Other entries are products of draws.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from hbsk._engine.crossed_sums import CrossedSums
from hbsk._engine.group_algebra import lower_indices, relative_inverse, unpack_symmetric
from hbsk._engine.krylov import KrylovRun, conjugate_gradients
from hbsk._engine.schur_passes import Effects, SchurPasses

# Effects of a factor up to which it is a hub: each takes a column of conjugate gradients at every point.
MOST_OF_HUB = 100
# Probes, and draws of effects at each Lambda.
PROBES, DRAWS = 16, 64
# Residual of a solve over its right-hand side; what is wanted of it has the square. Draws have errors of their own.
TOLERANCE, DRAWN_TOLERANCE = 1e-5, 1e-3
# Numbers of a basis of Lanczos's vectors, or of columns, that are held at a time.
HELD_NUMBERS = 2**24
# Steps that a basis is planned for.
PLANNED_STEPS = 32
# Numbers of draws that are gathered at a time.
GATHERED = 2**21


class KrylovComplement(NamedTuple):
    """The Schur complement at one Lambda.

    Attributes
    ----------
    first : ndarray of shape (n_groups, q, q)
        ``H_j``.
    lambdas : list of ndarray of shape (q, q)
        ``Lambda`` of the other factors.
    log_det : float
        ``log|S|``.
    by_probe : ndarray of shape (n_probes,)
        The same by each of the probes alone.
    explained : ndarray of shape (p + 1, p + 1)
        ``C_0 - C``.
    rest_solved : ndarray of shape (K, p + 1)
        ``Phi B`` of the rest.
    hubs : ndarray of shape (K, n_hubs)
        E, where ``E E'`` is what the hubs add to S^-1 of many levels alone.
    many : ManyLevels
    probed : ndarray of shape (n_many, n_probes)
        ``S~^-1 z``.
    """

    first: np.ndarray
    lambdas: list[np.ndarray]
    log_det: float
    by_probe: np.ndarray
    explained: np.ndarray
    rest_solved: np.ndarray
    hubs: np.ndarray
    many: Any
    probed: np.ndarray


class KrylovPasses(SchurPasses):
    """Sums over the levels of several factors for any Lambda; see `SchurPasses`.

    Attributes
    ----------
    n_many : int
        Effects of factors of many levels, which come first.
    probes : ndarray of shape (n_many, n_probes)
    """

    is_cheap = False
    # a law costs solves: of few points only
    numbers_kept = np.inf

    def __init__(self, sums: CrossedSums):
        super().__init__(sums)
        others = self.order[1:]
        sizes = [sums.factors[f].n_groups * sums.factors[f].n_varying for f in others]
        n_factors = max(1, sum(size > MOST_OF_HUB for size in sizes))
        self.many, self.n_many = others[:n_factors], sum(sizes[:n_factors])
        self.between_many = self.between[:, : self.n_many] if len(others) > n_factors else self.between
        self.between_hubs = self.between[:, self.n_many :]
        self.own = BlockDiagonal([sums.factors[f].zz.transpose(2, 0, 1) for f in self.many])
        self.beside = self._beside() if n_factors > 1 else None
        zero = self.order[0]
        pairs = [sums.pair(f, zero) for f in self.many]
        n_first = sums.factors[zero].n_groups
        self.to_many = [
            congruence_map(pair.second, pair.first, pair.blocks, n_first, sums.factors[f].n_groups)
            for f, pair in zip(self.many, pairs, strict=True)
        ]
        self.to_first = [
            congruence_map(pair.first, pair.second, pair.blocks.swapaxes(1, 2), sums.factors[f].n_groups, n_first)
            for f, pair in zip(self.many, pairs, strict=True)
        ]
        self.probes = probe_columns(self.n_many, PROBES)

    def _beside(self):
        """Return A of many levels without the blocks of levels."""
        every = self._rest_zz[: self.n_many, : self.n_many].tocoo()
        level = np.concatenate(
            [
                self.starts[f] + np.arange(self.sums.factors[f].n_groups).repeat(self.sums.factors[f].n_varying)
                for f in self.many
            ]
        )
        apart = level[every.row] != level[every.col]
        return sp.csr_array((every.data[apart], (every.row[apart], every.col[apart])), shape=every.shape)

    @cached_property
    def within(self) -> np.ndarray:
        """Zero, which is no bound: conjugate gradients end nowhere where effects are hardly shrunken."""
        return np.zeros_like(self.sums.xx)

    # points

    def _complements(self, factor: np.ndarray) -> KrylovComplement:
        (one,) = factor
        return _stack_of_one(self._complement(one, self.probes))

    def _complement(self, factor, probes) -> KrylovComplement:
        blocks = [factor[at, at] for at in self.sums.columns]
        lambdas = [blocks[f] for f in self.order[1:]]
        zero = self.order[0]
        packed = relative_inverse(self.sums.factors[zero].zz, np.ascontiguousarray(blocks[zero])[None])
        first = unpack_symmetric(packed, len(blocks[zero]))[0].transpose(2, 0, 1)
        many = ManyLevels(self, lambdas[: len(self.many)], first, packed[0])
        reduced = self._rest_zx - self.between.T @ _times_blocks(first, self._zx.reshape(-1, self._zx.shape[2]))
        right = self._times(reduced, lambdas, transpose=True)
        bordered, corner = self._hub_columns(first, lambdas)
        columns = many.whitened(np.concatenate([bordered, right[: self.n_many]], axis=1))
        run = conjugate_gradients(many.times, np.concatenate([probes, columns], axis=1), TOLERANCE)
        n_probes, n_hubs = probes.shape[1], len(corner)
        solved = run.solved[:, n_probes:]
        # Schur complement of the hubs, bordered by what is on the right
        products = columns.T @ solved
        inner = corner - products[:n_hubs, :n_hubs]
        root = _cholesky(0.5 * (inner + inner.T))
        left = right[self.n_many :] - products[:n_hubs, n_hubs:]
        white = np.linalg.solve(root, left)
        inverse_root = np.linalg.solve(root, np.eye(n_hubs)).T
        of_hubs = np.concatenate([-many.unwhitened(solved[:, :n_hubs]) @ inverse_root, inverse_root])
        of_many = np.zeros_like(right)
        of_many[: self.n_many] = many.unwhitened(solved[:, n_hubs:])
        explained = products[n_hubs:, n_hubs:] + white.T @ white
        by_probe = np.zeros(0)
        log_det = many.log_det + 2.0 * np.sum(np.log(root.diagonal()))
        if n_probes:
            # z' N z is z'z less the first entry of T, times that
            forms = run.quadratic_forms(lambda x: np.log(x)) + run.size**2 * (1.0 - run.tridiagonal[:, 0, 0])
            by_probe = log_det + np.where(run.converged, forms, np.nan)[:n_probes]
            log_det = by_probe.mean()
        return KrylovComplement(
            first,
            lambdas,
            log_det if run.converged.all() else np.nan,
            by_probe,
            0.5 * (explained + explained.T),
            self._times(of_many + of_hubs @ white, lambdas),
            of_hubs,
            many,
            run.solved[:, :n_probes],
        )

    def _hub_columns(self, first, lambdas) -> tuple[np.ndarray, np.ndarray]:
        """Return S_mh and S_hh."""
        n_hubs = self.n_remaining - self.n_many
        columns = np.zeros((self.n_remaining, n_hubs))
        columns[self.n_many :] = np.eye(n_hubs)
        columns = self._times(self._remaining(first, self._times(columns, lambdas)), lambdas, transpose=True)
        return columns[: self.n_many], np.eye(n_hubs) + columns[self.n_many :]

    def _remaining(self, first, columns) -> np.ndarray:
        """Return ``R columns``, (K, m)."""
        out = self._rest_zz @ columns
        width = max(1, HELD_NUMBERS // max(first.shape[0] * first.shape[1], 1))
        for start in range(0, columns.shape[1], width):
            at = slice(start, start + width)
            out[:, at] -= self.between.T @ _times_blocks(first, self.between @ columns[:, at])
        return out

    def _rest_solved(self, complement: KrylovComplement) -> np.ndarray:
        return complement.rest_solved

    def log_dets_by_probe(self, factor: np.ndarray) -> np.ndarray:
        """Return ``log|S|`` by each probe alone, (n_points, n_probes)."""
        return np.concatenate(
            [part for _, part in self._over(lambda at: self._complements(factor[at]).by_probe, len(factor))]
        )

    # gradient

    def _traces(self, complement: KrylovComplement) -> tuple[list[np.ndarray], np.ndarray]:
        one = KrylovComplement(*(part if isinstance(part, list) else part[0] for part in complement))
        many, z, solved, lambdas = one.many, self.probes, one.probed, [block[0] for block in one.lambdas]
        n_probes = z.shape[1]
        of_z = many.times(z)
        lost = z - of_z  # N z
        # the exact first orders, and what is left of them by the probes
        taken = many.rest_times(solved) - many.own_rest @ (many.spread @ z)
        by_level = many.unwhitened(lost)
        traces = []
        for number, f in enumerate(self.order[1:]):
            q, n = self.sums.factors[f].n_varying, self.sums.factors[f].n_groups
            trace = np.zeros((q, q))
            if f in self.many:
                rows = slice(self.starts[f], self.starts[f] + n * q)
                inverse = many.diagonal_inverses[number]
                trace += np.einsum("jkl,lm,jmn->kn", many.own_rest.blocks[number], lambdas[number], inverse)
                pair = [part[rows].reshape(n, q, n_probes) for part in (taken, by_level)]
                trace += np.einsum("jkz,jlz->kl", *pair) / n_probes
            traces.append(trace)
        across = many.across_first()
        half = [_by_level(self.between_many @ (many.spread @ part), across) for part in (solved, lost)]
        products = np.einsum("jkz,jlz->jkl", *half, optimize=True) / n_probes
        across = across + 0.5 * (products + products.swapaxes(1, 2))
        if one.hubs.shape[1]:
            hubs = self._times(one.hubs, lambdas)
            across = across + self._hubs_across(hubs)
            of_rest = self._remaining(one.first, hubs)
            for number, f in enumerate(self.order[1:]):
                q, n = self.sums.factors[f].n_varying, self.sums.factors[f].n_groups
                rows = slice(self.starts[f], self.starts[f] + n * q)
                pair = [part[rows].reshape(n, q, -1) for part in (of_rest, one.hubs)]
                traces[number] = traces[number] + np.einsum("jkz,jlz->kl", *pair, optimize=True)
        return [trace[None] for trace in traces], across[None]

    def _hubs_across(self, hubs) -> np.ndarray:
        """Return ``A_12 E E' A_21`` of each level, (n_groups, q, q)."""
        n, q = self._zz.shape[:2]
        total, width = np.zeros((n, q, q)), max(1, HELD_NUMBERS // (n * q))
        for start in range(0, hubs.shape[1], width):
            part = (self.between @ hubs[:, start : start + width]).reshape(n, q, -1)
            total += part @ part.swapaxes(1, 2)
        return total

    # laws of effects

    def _laws(self, factor: np.ndarray, number: int) -> list[Effects]:
        (one,) = factor
        complement = self._complement(one, self.probes[:, :0])
        many, first = complement.many, complement.first
        drawn, moved, across = [], [np.zeros_like(block) for block in many.spread.blocks], many.across_first()
        rng = np.random.default_rng([1, number])
        for white in np.array_split(white_columns(self.n_many, DRAWS, rng), self._n_batches(DRAWS), axis=1):
            run = many.lanczos(white)
            x, y = run.applied(lambda s: s**-0.5), run.applied(lambda s: s**-0.5 - s**0.5)
            for f, rows in enumerate(many.spread.rows):
                block = _by_level(y[rows], moved[f])
                moved[f] += block @ block.swapaxes(1, 2) / DRAWS
            x = many.spread @ x
            drawn.append(x)
            # white noise, whose products are known, takes the first order of the error off
            for columns, sign in ((x, 1.0), (many.spread @ white, -1.0)):
                half = _by_level(self.between_many @ columns, first)
                across += sign / DRAWS * (half @ half.swapaxes(1, 2))
        hubs = self._times(complement.hubs, complement.lambdas)
        across += self._hubs_across(hubs)
        blocks = [
            spread @ (np.eye(spread.shape[1]) + of_draws) @ spread.swapaxes(1, 2)
            for spread, of_draws in zip(many.spread.blocks, moved, strict=True)
        ]
        rest_solved, first_solved = self._solved(_stack_of_one(complement))
        phi = DrawnCovariance(np.concatenate(drawn, axis=1), hubs, blocks)
        return [Effects(first, first + first @ across @ first, phi, first_solved[0], rest_solved[0])]

    def coloured(self, complement: KrylovComplement, noise: np.ndarray) -> np.ndarray:
        """Return noise of covariance P for white noise (K, m)."""
        many = complement.many
        out = self._times(complement.hubs, complement.lambdas) @ noise[self.n_many :]
        parts = np.array_split(noise[: self.n_many], self._n_batches(noise.shape[1]), axis=1)
        drawn = [many.spread @ many.lanczos(part).applied(lambda s: s**-0.5) for part in parts]
        out[: self.n_many] += np.concatenate(drawn, axis=1)
        return out

    def _n_batches(self, n_columns: int) -> int:
        largest = max(self.n_many * PLANNED_STEPS, self._zz.shape[0] * self._zz.shape[1])
        return max(1, -(-n_columns * largest // HELD_NUMBERS))


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
            root = _cholesky(np.eye(q) + block.T @ left @ block)
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
        taken = passes.between_many.T @ _times_blocks(self._first, passes.between_many @ columns)
        if passes.beside is not None:
            taken -= passes.beside @ columns
        return taken

    def whitened(self, columns: np.ndarray) -> np.ndarray:
        """Return ``F^-1 columns``."""
        return self._inverse_root @ columns

    def unwhitened(self, columns: np.ndarray) -> np.ndarray:
        """Return ``F^-T columns``."""
        return self._inverse_root.T @ columns

    def lanczos(self, white: np.ndarray) -> KrylovRun:
        """Return a run with its basis, for functions of S~ times columns."""
        return conjugate_gradients(self.times, white, DRAWN_TOLERANCE, keep_basis=True)

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
        self.rows = [slice(int(start), int(stop)) for start, stop in zip(ends[:-1], ends[1:], strict=True)]
        is_scalar = all(block.shape[1] == 1 for block in blocks)
        self._scale = np.concatenate([block[:, 0] for block in blocks]) if is_scalar else None

    @property
    def T(self) -> BlockDiagonal:  # noqa: N802 - as NumPy calls it
        """The transpose."""
        return self if self._scale is not None else BlockDiagonal([block.swapaxes(1, 2) for block in self.blocks])

    def __matmul__(self, columns: np.ndarray) -> np.ndarray:
        """Return the product with columns (n, m)."""
        if self._scale is not None:
            return self._scale * columns
        return np.concatenate(
            [_times_blocks(block, columns[at]) for block, at in zip(self.blocks, self.rows, strict=True)]
        )


class DrawnCovariance:
    """P, as an array that is indexed with pairs: blocks of levels and all that touches a hub exact, others by draws.

    Parameters
    ----------
    draws : ndarray of shape (n_many, n_draws)
        Of covariance ``G S~^-1 G'``.
    hubs : ndarray of shape (K, n_hubs)
        Columns whose products are what the hubs add.
    blocks : list of ndarray of shape (n_groups, q, q)
        Of ``G S~^-1 G'``, by factor.
    """

    def __init__(self, draws: np.ndarray, hubs: np.ndarray, blocks: list[np.ndarray]):
        self.draws, self.hubs = draws, hubs
        self._flat = np.concatenate([block.ravel() for block in blocks])
        level, within, start, width, n_before, flat = [], [], [], [], 0, 0
        for block in blocks:
            n, q = block.shape[:2]
            level.append(n_before + np.repeat(np.arange(n), q))
            within.append(np.tile(np.arange(q), n))
            start.append(flat + q * q * np.repeat(np.arange(n), q))
            width.append(np.full(n * q, q))
            n_before, flat = n_before + n, flat + block.size
        self._level, self._within, self._start, self._width = map(np.concatenate, (level, within, start, width))

    def __getitem__(self, at: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Return the entries at pairs of places, whose arrays broadcast."""
        one, other = np.broadcast_arrays(*at)
        out = np.empty(one.size)
        step = max(1, GATHERED // (self.draws.shape[1] + self.hubs.shape[1]))
        for begin in range(0, one.size, step):
            part = slice(begin, begin + step)
            out[part] = self._entries(one.ravel()[part], other.ravel()[part])
        return out.reshape(one.shape)

    def _entries(self, one, other):
        values = np.einsum("rh,rh->r", self.hubs[one], self.hubs[other])
        known = np.flatnonzero((one < len(self.draws)) & (other < len(self.draws)))
        one, other = one[known], other[known]
        together = self._level[one] == self._level[other]
        apart = ~together
        products = np.einsum("rd,rd->r", self.draws[one[apart]], self.draws[other[apart]])
        values[known[apart]] += products / self.draws.shape[1]
        one, other = one[together], other[together]
        values[known[together]] += self._flat[
            self._start[one] + self._within[one] * self._width[one] + self._within[other]
        ]
        return values


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


def probe_columns(size: int, n_probes: int) -> np.ndarray:
    """Return fixed signs (size, n_probes); axes of the same length, whose mean is exact, where there are no more."""
    if size <= n_probes:
        return np.sqrt(size) * np.eye(size)
    return np.random.default_rng(0).choice([-1.0, 1.0], (size, n_probes))


def white_columns(size: int, n_columns: int, rng) -> np.ndarray:
    """Return white noise."""
    return rng.standard_normal((size, n_columns))


def _times_blocks(blocks, columns):
    """Return one small block for each level (n, q, q) times columns (n q, m)."""
    n, q = blocks.shape[:2]
    if q == 1:
        return blocks[:, 0] * columns
    return (blocks @ columns.reshape(n, q, columns.shape[1])).reshape(columns.shape)


def _by_level(columns, like):
    return columns.reshape(*like.shape[:2], columns.shape[1])


def _stack_of_one(complement: KrylovComplement) -> Any:
    parts = [
        [block[None] for block in part] if isinstance(part, list) else np.asarray(part)[None] for part in complement[:7]
    ]
    return KrylovComplement(*parts, (complement.many,), complement.probed[None])


def _cholesky(matrix):
    """Return Cholesky's lower factor, NaN where there is none."""
    try:
        return np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return np.full_like(matrix, np.nan)
