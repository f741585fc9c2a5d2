"""Several grouping factors, very many effects beside the largest: a Schur complement that only multiplies.

Symbols are those of `hbsk._engine.schur_passes`. Of the rest, factors of many levels (m) are never written out; those
of few (hubs, h), whose levels hang together with all others, are bordered exactly, as the common columns are:

    log|S| = log|S_mm| + log|T|,    T = S_hh - S_hm S_mm^-1 S_mh

With ``D = F F'`` the blocks of levels on the diagonal of S_mm and ``S~ = F^-1 S_mm F^-T = I - N``, whose blocks on the
diagonal are those of the identity,

    log|S_mm| = log|D| + mean of z' log(S~) z + c z' N z over fixed probes z of signs

(stochastic Lanczos quadrature: Ubaru, Chen, Saad 2017, SIAM J. Matrix Anal. Appl. 38(4)); ``z' N z``, whose mean is
zero, takes the first order of the error off. The probes never change: the error is a smooth function of theta, nearly
a constant, and constants do not count. Traces of the gradient are means over the same probes, solved for already.

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
from hbsk._engine.drawn_covariance import DrawnCovariance
from hbsk._engine.group_algebra import relative_inverse, unpack_symmetric
from hbsk._engine.krylov import KrylovRun, conjugate_gradients
from hbsk._engine.many_levels import BlockDiagonal, ManyLevels, cholesky, congruence_map, times_blocks
from hbsk._engine.schur_passes import Effects, SchurPasses, alone, stacked

# Effects of a factor up to which it is a hub: each takes a column of conjugate gradients at every point.
MOST_OF_HUB = 50
# Probes; draws of effects at one Lambda, and at several of some weight, by which so many are shared.
PROBES, DRAWS, SHARED_DRAWS, LEAST_DRAWS = 16, 64, 320, 16
# c, the share of the first order that is taken off: 1 would leave more of the higher ones, which rise with it.
FIRST_ORDER = 1.5
# Gains of conjugate gradients that do not count: of sums of squares, in shares of the variance of a row that is left,
# and of the squared length of a draw or a probe, whose sds are 1.
ROW_SHARE, DRAWN_GAIN = 1e-3, 1e-2
# Numbers of a basis of Lanczos's vectors, or of columns, that are held at a time.
HELD_NUMBERS = 2**24
# Condition of Lambda above which one of its sds is zero, or next to it.
WORST_CONDITION = 1e8
# Steps that a basis is planned for.
PLANNED_STEPS = 32


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

    how = "log-determinants of several grouping factors by stochastic Lanczos quadrature"
    is_stochastic = True
    is_cheap = False
    # a law costs solves: of few points only
    numbers_kept = np.inf

    def __init__(self, sums: CrossedSums):
        super().__init__(sums)
        others = self.order[1:]
        sizes = [sums.factors[f].n_groups * sums.factors[f].n_varying for f in others]
        self.has_smooth_points = min(sizes) > MOST_OF_HUB  # sds of hubs are known badly
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
        self._by_probe: dict[bytes, np.ndarray] = {}

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

    @property
    def _numbers_held(self) -> int:
        """How many numbers a complement takes."""
        return self.n_remaining * (PROBES + 2 * self._zx.shape[2]) + 4 * self._zz.size

    @cached_property
    def within(self) -> np.ndarray:
        """Zero, which is no bound: conjugate gradients end nowhere where effects are hardly shrunken."""
        return np.zeros_like(self.sums.xx)

    # points

    def _complements(self, factor: np.ndarray) -> KrylovComplement:
        (one,) = factor
        complement = self._complement(one, self.probes)
        self._by_probe[one.tobytes()] = complement.by_probe
        return stacked(complement)

    def complement(self, factor: np.ndarray) -> KrylovComplement:
        """Return the Schur complement at one Lambda, (q, q)."""
        return self._complement(factor, self.probes)

    def _complement(self, factor, probes) -> KrylovComplement:
        blocks = [factor[at, at] for at in self.sums.columns]
        lambdas = [blocks[f] for f in self.order[1:]]
        zero = self.order[0]
        packed = relative_inverse(self.sums.factors[zero].zz, np.ascontiguousarray(blocks[zero])[None])
        first = unpack_symmetric(packed, len(blocks[zero]))[0].transpose(2, 0, 1)
        many = ManyLevels(self, lambdas[: len(self.many)], first, packed[0])
        shrunken = times_blocks(first, self._zx.reshape(-1, self._zx.shape[2]))
        reduced = self._rest_zx - self.between.T @ shrunken
        right = self._times(reduced, lambdas, transpose=True)
        bordered, corner = self._hub_columns(first, lambdas)
        columns = many.whitened(np.concatenate([bordered, right[: self.n_many]], axis=1))
        n_probes, n_hubs = probes.shape[1], len(corner)
        # what the hubs, and the columns on the right less factor 0, are without the effects of many levels
        size = np.concatenate([corner.diagonal(), self._within_first(shrunken)])

        def allowed(energy):
            left = np.maximum(size - energy[n_probes:], 0.0)
            return np.concatenate([np.full(n_probes, DRAWN_GAIN), ROW_SHARE / max(self.sums.n, 1.0) * left])

        run = conjugate_gradients(many.times, np.concatenate([probes, columns], axis=1), allowed)
        solved = _mended(run, np.concatenate([probes, columns], axis=1), n_probes)
        products = columns.T @ solved
        # Schur complement of the hubs, bordered by what is on the right
        inner = corner - products[:n_hubs, :n_hubs]
        root = cholesky(0.5 * (inner + inner.T))
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
            forms = run.quadratic_forms(np.log) + FIRST_ORDER * run.size**2 * (1.0 - run.tridiagonal[:, 0, 0])
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

    def _within_first(self, shrunken) -> np.ndarray:
        """Return the diagonal of C_0, given ``H B_1``."""
        explained = np.einsum("ja,ja->a", self._zx.reshape(shrunken.shape), shrunken)
        return np.maximum(np.diag(self.sums.xx) - explained, 0.0)

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
            out[:, at] -= self.between.T @ times_blocks(first, self.between @ columns[:, at])
        return out

    def _rest_solved(self, complement: KrylovComplement) -> np.ndarray:
        return complement.rest_solved

    def log_dets_by_probe(self, factor: np.ndarray) -> np.ndarray:
        """Return ``log|S|`` by each probe alone, (n_points, n_probes), of points that were reduced."""
        return np.stack([self._by_probe[one.tobytes()] for one in factor])

    # gradient

    def _traces(self, complement: KrylovComplement) -> tuple[list[np.ndarray], np.ndarray]:
        one = alone(complement)
        many, z, solved, lambdas = one.many, self.probes, one.probed, one.lambdas
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

    def _rest_left(self, complement: KrylovComplement, rest_solved, first_solved) -> np.ndarray:
        """Return ``G_2``; as ``(Lambda Lambda')^-1 U_2``, which it is.

        Conjugate gradients find U_2 up to what hardly counts in sums of squares, and its residual may be large all the
        same: where sds of effects are far larger than the noise a gradient of residuals has no right digit.
        """
        left = super()._rest_left(complement, rest_solved, first_solved)
        for f, block in zip(self.order[1:], complement.lambdas, strict=True):
            q, n = self.sums.factors[f].n_varying, self.sums.factors[f].n_groups
            if np.linalg.cond(block[0]) < WORST_CONDITION:
                rows = slice(self.starts[f], self.starts[f] + n * q)
                of_levels = rest_solved[0, rows].reshape(n, q, -1)
                half = np.linalg.solve(block, of_levels)
                left[0, rows] = np.linalg.solve(block.swapaxes(1, 2), half).reshape(n * q, -1)
        return left

    def _hubs_across(self, hubs) -> np.ndarray:
        """Return ``A_12 E E' A_21`` of each level, (n_groups, q, q)."""
        n, q = self._zz.shape[:2]
        total, width = np.zeros((n, q, q)), max(1, HELD_NUMBERS // (n * q))
        for start in range(0, hubs.shape[1], width):
            part = (self.between @ hubs[:, start : start + width]).reshape(n, q, -1)
            total += part @ part.swapaxes(1, 2)
        return total

    # laws of effects

    def _laws(self, factor: np.ndarray, number: int, weight: np.ndarray | None) -> Effects:
        (one,), n_draws = factor, DRAWS
        if weight is not None:
            n_draws = max(LEAST_DRAWS, int(np.ceil(SHARED_DRAWS * weight[0])))
        kept = self._kept.pop(factor.tobytes(), None) if self._kept else None
        complement = self.complement(one) if kept is None else alone(kept)
        many, first = complement.many, complement.first
        drawn, moved, across = [], [np.zeros_like(block) for block in many.spread.blocks], many.across_first()
        rng = np.random.default_rng([1, number])
        for white in np.array_split(white_columns(self.n_many, n_draws, rng), self._n_batches(n_draws), axis=1):
            run = _lanczos(many, white)
            x, y = run.applied(lambda s: s**-0.5), run.applied(lambda s: s**-0.5 - s**0.5)
            for f, rows in enumerate(many.spread.rows):
                block = _by_level(y[rows], moved[f])
                moved[f] += block @ block.swapaxes(1, 2) / n_draws
            x, plain = many.spread @ x, many.spread @ white
            drawn.append((x, plain))
            # white noise, whose products are known, takes the first order of the error off
            for columns, sign in ((x, 1.0), (plain, -1.0)):
                half = _by_level(self.between_many @ columns, first)
                across += sign / n_draws * (half @ half.swapaxes(1, 2))
        hubs = self._times(complement.hubs, complement.lambdas)
        across += self._hubs_across(hubs)
        blocks = {}
        for f, spread, of_draws in zip(self.many, many.spread.blocks, moved, strict=True):
            blocks[f] = spread @ (np.eye(spread.shape[1]) + of_draws) @ spread.swapaxes(1, 2)
        for f in self.order[1:]:
            n, q = self.sums.factors[f].n_groups, self.sums.factors[f].n_varying
            of_hubs = hubs[self.starts[f] : self.starts[f] + n * q].reshape(n, q, hubs.shape[1])
            blocks[f] = blocks.get(f, 0.0) + of_hubs @ of_hubs.swapaxes(1, 2)
        rest_solved, first_solved = self._solved(stacked(complement))
        draws, plain = (np.concatenate(parts, axis=1) for parts in zip(*drawn, strict=True))
        phi = DrawnCovariance(draws, plain, hubs, many.spread.sparse(), blocks)
        return Effects(first[None], (first + first @ across @ first)[None], phi, first_solved, rest_solved)

    def coloured(self, complement: KrylovComplement, noise: np.ndarray) -> np.ndarray:
        """Return noise of covariance P for white noise (K, m)."""
        many = complement.many
        out = self._times(complement.hubs, complement.lambdas) @ noise[self.n_many :]
        parts = np.array_split(noise[: self.n_many], self._n_batches(noise.shape[1]), axis=1)
        drawn = [many.spread @ _lanczos(many, part).applied(lambda s: s**-0.5) for part in parts]
        out[: self.n_many] += np.concatenate(drawn, axis=1)
        return out

    def _n_batches(self, n_columns: int) -> int:
        largest = max(self.n_many * PLANNED_STEPS, self._zz.shape[0] * self._zz.shape[1])
        return max(1, -(-n_columns * largest // HELD_NUMBERS))


def _mended(run: KrylovRun, right: np.ndarray, start: int) -> np.ndarray:
    """Return solved columns from a start on, as good as sums of all solved columns make them.

    Products of two columns are then off by the product of the errors of both. And where sds of effects are far larger
    than the noise, levels of two factors that move against each other have next to no penalty: a column that has little
    of that ends before it is found, and those of probes are full of it.
    """
    size = np.linalg.norm(run.solved, axis=0)
    columns = run.solved / np.where(size > 0, size, 1.0)
    images = (right - run.residual) / np.where(size > 0, size, 1.0)
    products = columns.T @ images
    if not np.isfinite(products).all():
        return run.solved[:, start:]
    unit = np.sqrt(np.maximum(np.diag(products), np.finfo(float).tiny))
    weights = np.linalg.pinv(0.5 * (products + products.T) / np.outer(unit, unit), rcond=1e-10, hermitian=True)
    weights = weights @ (columns.T @ run.residual[:, start:] / unit[:, None]) / unit[:, None]
    return run.solved[:, start:] + columns @ weights


def _lanczos(many: ManyLevels, white: np.ndarray) -> KrylovRun:
    """Return a run with its basis, for functions of S~ times columns."""
    return conjugate_gradients(many.times, white, lambda energy: np.full(len(energy), DRAWN_GAIN), keep_basis=True)


def probe_columns(size: int, n_probes: int) -> np.ndarray:
    """Return fixed signs (size, n_probes); axes of the same length, whose mean is exact, where there are no more."""
    if size <= n_probes:
        return np.sqrt(size) * np.eye(size)
    return np.random.default_rng(0).choice([-1.0, 1.0], (size, n_probes))


def white_columns(size: int, n_columns: int, rng) -> np.ndarray:
    """Return white noise."""
    return rng.standard_normal((size, n_columns))


def _by_level(columns, like):
    return columns.reshape(*like.shape[:2], columns.shape[1])
