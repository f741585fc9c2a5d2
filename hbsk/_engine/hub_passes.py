"""Several grouping factors, some of few levels: hubs, which border the Schur complement of the others.

A department or a year has few effects, and its sd is known badly: it is asked for at many values. With b the columns of
hubs (h) beside the common ones (c) and Lambda of the others alone, log|M_o| and C of ``[Z_h X y]`` are those of
`CrossedPasses`, and whatever the sds of hubs are,

    T = I + Lambda_h' C_hh Lambda_h,      log|M| = log|M_o| + log|T|
    P_h = Lambda_h T^-1 Lambda_h',        C = C_cc - C_ch P_h C_hc

take matrices of h. With ``U = Phi_o B_h`` the effects of all are

    Phi_hh = P_h,    Phi_oh = -U P_h,    Phi_oo = Phi_o + U P_h U'
    (Phi B)_h = P_h C_hc,    (Phi B)_o = Phi_o B_c - U (Phi B)_h
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from hbsk._engine.crossed_maps import dense, rest_products
from hbsk._engine.crossed_passes import CrossedPasses
from hbsk._engine.crossed_sums import CrossedSums
from hbsk._engine.group_algebra import ROUNDING
from hbsk._engine.node_algebra import distinct_matrices
from hbsk._engine.schur_passes import Effects, alone

# Effects of all hubs together: each is one more column beside the common ones.
MOST_OF_HUBS = 50


class HubEffects(NamedTuple):
    """``Phi`` and ``Phi B`` at several Lambda that differ in the hubs alone; without leading axes at one.

    Attributes
    ----------
    others : Effects
        Of the other factors alone, at their Lambda; columns of hubs come before the common ones.
    hub_phi : ndarray of shape (n_points, h, h)
        ``P_h``.
    hub_solved : ndarray of shape (n_points, h, p + 1)
        ``(Phi B)_h``.
    """

    others: Effects
    hub_phi: np.ndarray
    hub_solved: np.ndarray

    def take(self, at) -> HubEffects:
        """Return some of the points."""
        return HubEffects(self.others, self.hub_phi[at], self.hub_solved[at])


def hubs_of(sums: CrossedSums) -> list[int]:
    """Return the smallest factors, as long as they have few effects and two others remain."""
    sizes = np.array([factor.n_groups * factor.n_varying for factor in sums.factors])
    order = np.argsort(sizes, kind="stable")[: max(len(sizes) - 2, 0)]
    return sorted(int(f) for f in order[np.cumsum(sizes[order]) <= MOST_OF_HUBS])


class HubPasses(CrossedPasses):
    """Sums over the levels of several factors, some of which are hubs, for any Lambda; see `CrossedPasses`.

    Parameters
    ----------
    sums : CrossedSums
    hubs : sequence of int
        Which factors.

    Attributes
    ----------
    hubs, not_hubs : list of int
        Factors.
    others : CrossedPasses
        Of the other factors, the columns of hubs beside the common ones.
    n_hub_effects : int
        h.
    """

    def __init__(self, sums: CrossedSums, hubs: Sequence[int]):
        super().__init__(sums)
        self.hubs = [f for f in self.order if f in hubs]
        self.not_hubs = [f for f in range(len(sums.factors)) if f not in hubs]
        self.others = CrossedPasses(_with_columns_of_hubs(sums, self.not_hubs, self.hubs))
        self.n_hub_effects = len(self.others.sums.xx) - len(sums.xx)
        self._products: dict[bytes, np.ndarray] | None = None  # C of [Z_h X y] of points that are kept

    @property
    def other_columns(self) -> list[int]:
        """Varying columns of the factors that are no hubs."""
        return [k for f in self.not_hubs for k in range(self.sums.columns[f].start, self.sums.columns[f].stop)]

    @property
    def watch(self) -> Callable[[int], None] | None:
        """Is told of points that were reduced."""
        return self.others.watch

    @watch.setter
    def watch(self, count: Callable[[int], None] | None) -> None:
        self.others.watch = count

    @cached_property
    def within(self) -> np.ndarray:
        """W, (p + 1, p + 1), the products of what no effects explain, hubs' included."""
        every, h = self.others.within, self.n_hub_effects
        values, vectors = np.linalg.eigh(every[:h, :h])
        seen = values > ROUNDING * max(values[-1], 1e-300)
        explained = (vectors[:, seen].T @ every[:h, h:]) / np.sqrt(values[seen])[:, None]
        return every[h:, h:] - explained.T @ explained

    # points

    def reduce(self, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Integrate all group effects out; see `GroupPasses.reduce`, with ``Lambda`` block diagonal in the factors."""
        distinct, same = self._of_others(factor)
        log_det, products = self.others.reduce(distinct)
        if self._products is not None:
            self._products |= {one.tobytes(): of_one for one, of_one in zip(distinct, products, strict=True)}
        return self.bordered(factor, log_det[same], products[same])

    @contextmanager
    def kept(self, n_points: int = 1, numbers: float = 0.0) -> Iterator[None]:
        """Keep the Schur complements of points that are reduced; see `SchurPasses.kept`."""
        self._products = {}
        try:
            with self.others.kept(n_points, numbers):
                yield
        finally:
            self._products = None

    @contextmanager
    def rough_gradients(self) -> Iterator[None]:
        """Estimate traces from a few probes; see `CrossedPasses`."""
        with self.others.rough_gradients():
            yield

    def _products_at(self, of_others):
        """Return C of ``[Z_h X y]`` at Lambda of the others; those that are known are not found again."""
        known = self._products or {}
        if all(one.tobytes() in known for one in of_others):
            return np.stack([known[one.tobytes()] for one in of_others])
        return self.others.reduce(of_others)[1]

    def reduce_others(self, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``log|M_o|`` and C of ``[Z_h X y]``, for `bordered`."""
        return self.others.reduce(self.others_of(factor))

    def bordered(self, factor: np.ndarray, log_det: np.ndarray, products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Integrate the effects of hubs out too: ``log|M|`` and C, of ``log|M_o|`` and C of ``[Z_h X y]``."""
        h = self.n_hub_effects
        scale = self._hub_lambda(factor)
        root, good = _roots(scale.swapaxes(1, 2) @ products[:, :h, :h] @ scale)
        white = np.linalg.solve(root, scale.swapaxes(1, 2) @ np.where(good, products[:, :h, h:], 0.0))
        log_det = log_det + 2.0 * np.sum(np.log(np.diagonal(root, axis1=1, axis2=2)), axis=1)
        reduced = products[:, h:, h:] - white.swapaxes(1, 2) @ white
        return np.where(good[:, 0, 0], log_det, np.nan), np.where(good, reduced, np.nan)

    def factor_gradient(self, factor: np.ndarray, adjoint: np.ndarray) -> np.ndarray:
        """Return d log p(y) / d Lambda, (n_points, q, q), block diagonal; see `GroupPasses.covariance_gradient`."""
        h, own = self.n_hub_effects, self.not_hubs
        of_others = self.others_of(factor)
        products = self._products_at(of_others)
        scale = self._hub_lambda(factor)
        half, phi, solved = self._hub_laws(scale, products)
        # the adjoint of C of [Z_h X y]: C is L' (that) L with L = [-(Phi B)_h; I], and d log|T| = tr(P_h d C_hh)
        below = np.broadcast_to(np.eye(adjoint.shape[1]), adjoint.shape)
        across = np.concatenate([-solved, below], axis=1)
        of_products = across @ adjoint @ across.swapaxes(1, 2)
        of_products[:, :h, :h] += phi
        gradient = np.zeros_like(factor)
        parts = self.others.factor_gradient(of_others, of_products)
        for f, at in zip(own, self.others.sums.columns, strict=True):
            gradient[:, self.sums.columns[f], self.sums.columns[f]] = parts[:, at, at]
        left = products[:, :h, h:] - products[:, :h, :h] @ solved
        trace = products[:, :h, :h] @ half  # C_hh Lambda_h T^-1
        for f, rows in self.hub_places():
            q, at = self.sums.factors[f].n_varying, self.sums.columns[f]
            of_levels = left[:, rows].reshape(len(factor), -1, q, left.shape[2])
            fit = np.einsum("mjka,mab,mjlb->mkl", of_levels, adjoint, of_levels, optimize=True) @ factor[:, at, at]
            blocks = trace[:, rows, rows].reshape(len(factor), -1, q, of_levels.shape[1], q)
            gradient[:, at, at] = fit - np.einsum("mjkjl->mkl", blocks)
        return gradient

    # laws of effects

    def hub_effects(self, factor: np.ndarray, weight: np.ndarray | None = None) -> list[HubEffects]:  # noqa: ARG002
        """Return Phi and ``Phi B`` at several Lambda, (n_points, q, q), those of equal others next to each other."""
        distinct, same = self._of_others(factor)
        found = []
        products, at = self._products_at(distinct), 0
        for effects in self.others.effects_at(distinct):
            for m in range(len(effects.first)):
                here = np.flatnonzero(same == at)
                _, phi, solved = self._hub_laws(self._hub_lambda(factor[here]), products[[at] * len(here)])
                found.append(HubEffects(alone(effects, m), phi, solved))
                at += 1
        return found

    def _hub_laws(self, scale, products):
        """Return ``Lambda_h T^-1``, ``P_h`` and ``(Phi B)_h`` of points."""
        h = self.n_hub_effects
        root, _ = _roots(scale.swapaxes(1, 2) @ products[:, :h, :h] @ scale)
        half = np.linalg.solve(root, scale.swapaxes(1, 2))
        phi = half.swapaxes(1, 2) @ half
        inverse_root = np.linalg.solve(root, np.broadcast_to(np.eye(h), root.shape))
        return half.swapaxes(1, 2) @ inverse_root, phi, phi @ products[:, :h, h:]

    # Lambda

    def distinct(self, factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the distinct Lambda of several, those of equal others next to each other, and which each point has."""
        _, same = self._of_others(factor)
        keys = np.column_stack([same, factor.reshape(len(factor), -1)])
        _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        return factor[first], which.reshape(-1)

    def others_of(self, factor):
        """Return Lambda of the factors that are no hubs, (n_points, q, q)."""
        columns = self.other_columns
        return np.ascontiguousarray(factor[:, columns][:, :, columns])

    def _of_others(self, factor):
        """Return the distinct Lambda of the factors that are no hubs, and which of them each point has."""
        return distinct_matrices(self.others_of(factor))

    def hub_places(self):
        """Yield each hub and where its effects stand among those of hubs."""
        start = 0
        for f in self.hubs:
            stop = start + self.sums.factors[f].n_groups * self.sums.factors[f].n_varying
            yield f, slice(start, stop)
            start = stop

    def _hub_lambda(self, factor):
        """Return ``Lambda_h``, (n_points, h, h)."""
        out = np.zeros((len(factor), self.n_hub_effects, self.n_hub_effects))
        for f, rows in self.hub_places():
            at, q = self.sums.columns[f], self.sums.factors[f].n_varying
            for start in range(rows.start, rows.stop, q):
                out[:, start : start + q, start : start + q] = factor[:, at, at]
        return out


def _roots(products):
    """Return Cholesky factors of ``I + products``, and where there are any, (n_points, 1, 1); elsewhere those of I."""
    matrices = products + np.eye(products.shape[1])
    good = np.isfinite(matrices).all(axis=(1, 2), keepdims=True)
    matrices = np.where(good, matrices, np.eye(products.shape[1]))
    try:
        return np.linalg.cholesky(matrices), good
    except np.linalg.LinAlgError:
        good = good & (np.linalg.eigvalsh(matrices)[:, :1, None] > 0)
        return np.linalg.cholesky(np.where(good, matrices, np.eye(products.shape[1]))), good


def _with_columns_of_hubs(sums, others, hubs) -> CrossedSums:
    """Return the sums of the other factors, the varying columns of hubs, level by level, before the common ones."""
    sizes = [sums.factors[f].n_groups * sums.factors[f].n_varying for f in hubs]
    starts = {f: int(start) for f, start in zip(hubs, np.cumsum([0, *sizes]), strict=False)}
    own, beside = rest_products(sums, hubs, starts)
    xx = np.block([[dense(own, (sum(sizes), sum(sizes))), beside], [beside.T, sums.xx]])
    factors = []
    for f in others:
        factor = sums.factors[f]
        columns = np.zeros((factor.n_varying, sum(sizes), factor.n_groups))
        for g in hubs:
            pair, q = sums.pair(f, g), sums.factors[g].n_varying
            for m in range(q):
                columns[:, starts[g] + pair.second * q + m, pair.first] = pair.blocks[:, :, m].T
        factors.append(replace(factor, zx=np.ascontiguousarray(np.concatenate([columns, factor.zx], axis=1)), xx=xx))
    pairs = [sums.pair(f, g) for i, f in enumerate(others) for g in others[i + 1 :]]
    return CrossedSums(tuple(factors), tuple(pairs))
