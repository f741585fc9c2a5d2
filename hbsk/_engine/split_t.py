"""The first proposals of an integration: split-t laws about the mode, fitted to the density along lines from it.

Knows nothing of models. Geweke (1989, Econometrica 57), section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, overload

import numpy as np
from scipy import special

# Degrees of freedom of proposals: of 4 the quantiles have a closed form, of 5 they took 5 % of a fit of few rows.
PROPOSAL_DF = 4.0
# The proposal is wider than the curvature says: a tenth of its efficiency buys weights that are bounded in practice
# (radon, intercepts and slopes: Pareto k 0.8 -> 0.2).
INFLATION = 1.15
SPLIT_DISTANCES = np.array([1.0, 2.0, 3.0, 4.5])
# The distance along two axes at once at which a product along the axes is held against the density.
CORNER, CLEARLY_LESS = 2.0, 0.9
# Where a sd may be zero its correlations are free: an axis may be wider along an earlier one. The logarithm of how much
# wider, at the distance of a corner, that is left alone; the largest that is followed, and to how many times that
# distance. (Radon, intercepts and slopes, 512 nodes: Pareto k 0.1 instead of 0.4, errors of means and squares half.)
LEAST_WIDENING, MOST_WIDENING, WIDENS_TO = 0.05, 1.0, 2.0
# Falls of the log density below which a ratio of two says nothing.
LEAST_FALL = 0.05
# Distances, in units of theta, at which a shoulder is looked for, and how far the log density may have fallen there.
SHOULDER_DISTANCES = np.array([0.5, 1.0, 2.0])
SHOULDER_DROP = 12.0


@dataclass(frozen=True)
class SplitT:
    """Split-t laws along the axes of ``scale``, about ``centre``, of which later ones may widen along earlier ones.

    Attributes
    ----------
    centre : ndarray of shape (d,)
    scale : ndarray of shape (d, d)
        Columns are the axes, of the length of one sd.
    below, above : ndarray of shape (d,)
        Factors of the scale on either side of the centre.
    widening : ndarray of shape (2, d, d) or None
        Logarithm of how much wider an axis, last, is at `CORNER` below and above on an earlier one.
    """

    centre: np.ndarray
    scale: np.ndarray
    below: np.ndarray
    above: np.ndarray
    widening: np.ndarray | None = None

    @property
    def n_uniforms(self) -> int:
        """Number of uniform coordinates that a point takes."""
        return len(self.centre)

    def points(self, uniforms: np.ndarray) -> np.ndarray:
        """Map points of the unit cube (n, d) to theta."""
        lower_share = self.below / (self.below + self.above)
        is_below = uniforms < lower_share
        within = np.where(
            is_below,
            0.5 * uniforms / lower_share,
            0.5 + 0.5 * (uniforms - lower_share) / (1 - lower_share),
        )
        z = t_quantile(within) * np.where(is_below, self.below, self.above)
        for axis in self._wider_axes:
            z[:, axis] *= np.exp(self._log_width(z, axis))
        return self.centre + z @ self.scale.T

    def draw(self, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map points of the unit cube to theta; and return the log density there."""
        theta = self.points(uniforms)
        return theta, self.log_density(theta)

    def log_density(self, theta: np.ndarray) -> np.ndarray:
        """Return the log density at points (n, d)."""
        z, log_width = self._standardised(theta)
        log_axis = log_t(z) + np.log(2.0 / (self.below + self.above))
        return log_axis.sum(axis=1) - np.linalg.slogdet(self.scale)[1] - log_width

    def log_normal_ratio(self, theta: np.ndarray) -> np.ndarray:
        """Return the log density, up to a constant, of the split normal law that was inflated, over that of the t."""
        z, _ = self._standardised(theta)
        return np.sum(-0.5 * (INFLATION * z) ** 2 - log_t(z), axis=1)

    def _standardised(self, theta):
        """Return where points are on the axes, in the lengths of these, and the logs of how much wider axes are."""
        z = np.linalg.solve(self.scale, (theta - self.centre).T).T
        log_width = np.zeros(len(z))
        for axis in reversed(self._wider_axes):
            of_axis = self._log_width(z, axis)
            z[:, axis] *= np.exp(-of_axis)
            log_width += of_axis
        return z / np.where(z < 0, self.below, self.above), log_width

    @property
    def _wider_axes(self) -> list[int]:
        """Axes that widen along earlier ones."""
        return [] if self.widening is None else np.flatnonzero(self.widening.any(axis=(0, 1))).tolist()

    def _log_width(self, z, axis):
        """Return the logarithm of how much wider an axis is at places on the earlier ones, (n,)."""
        assert self.widening is not None
        earlier = z[:, :axis]
        side = np.where(earlier < 0, *self.widening[:, :axis, axis])
        return np.sum(side * np.minimum(np.abs(earlier) / CORNER, WIDENS_TO), axis=1)


@overload
def first_proposals(
    log_density, mode, precision, *, thorough: Literal[True] = True
) -> tuple[SplitT, SplitT | None]: ...
@overload
def first_proposals(
    log_density, mode, precision, *, thorough: bool
) -> tuple[SplitT, SplitT | Callable[[], SplitT | None] | None]: ...
def first_proposals(
    log_density, mode: np.ndarray, precision: np.ndarray, *, thorough: bool = True
) -> tuple[SplitT, SplitT | Callable[[], SplitT | None] | None]:
    """Return the split-t about the mode, and a broad one where the density may have shoulders far from it.

    Both look at the density along lines from the mode, at points that are evaluated in one call. Unless ``thorough``
    they look at few of them, and the second is a function that looks when it is wanted.
    """
    d = len(mode)
    distances = (SPLIT_DISTANCES, SHOULDER_DISTANCES) if thorough else (SPLIT_DISTANCES[1:2], SHOULDER_DISTANCES[1:2])
    near, far = (_lines(tuple(along), d) for along in distances)
    scales = _roots(precision) if thorough and d > 1 else _roots(precision)[:1]
    corners = _corners(d) if len(scales) > 1 else near[:0]
    of_scales = [np.concatenate([near, corners]) @ scale.T for scale in scales]
    everything = log_density(mode + np.concatenate([np.zeros((1, d)), *of_scales, far if thorough else far[:0]]))
    at_mode, of_scales, of_far = everything[0], *np.split(everything[1:], [sum(map(len, of_scales))])

    def drop(log_densities):
        return np.where(np.isnan(log_densities), np.inf, at_mode - log_densities)  # beyond floating point there is none

    def seen_from_far(log_densities):
        return _broad_t(mode, scales[0], drop(log_densities), distances[1])

    looks, missed = [], []
    for part in drop(of_scales).reshape(len(scales), -1):
        on_axes = part[: len(near)].reshape(2, len(distances[0]), d)
        at_corner, at_corners = on_axes[:, list(distances[0]).index(CORNER)], part[len(near) :]
        looks.append((on_axes, at_corner, at_corners))
        missed.append(_missed(at_corner, at_corners))
    chosen = int(missed[-1] < CLEARLY_LESS * missed[0])
    on_axes, at_corner, at_corners = looks[chosen]
    widening = _widening(at_corner, at_corners) if len(at_corners) else None
    broad = seen_from_far(of_far) if thorough else lambda: seen_from_far(log_density(mode + far))
    return _split_t(mode, scales[chosen], on_axes, distances[0], widening), broad


def _roots(precision):
    """Return two roots of the covariance: axes along the coordinates, as near as they can be, and along eigenvectors.

    The density is skew along coordinates, such as a sd that may be zero, and eigenvectors of two that are known equally
    well point anywhere between them (radon, intercepts and slopes: Pareto k 0.6 by eigenvectors, -0.3 by coordinates);
    along a narrow ridge it may be skew too.
    """
    eigenvalues, axes = np.linalg.eigh(precision)
    # A flat or rising direction is given the length at which priors on log sds have decayed.
    along_eigenvectors = axes * np.clip(eigenvalues, 0.02, None) ** -0.5
    return [along_eigenvectors @ axes.T, along_eigenvectors]


@lru_cache(maxsize=64)
def _lines(distances, d):
    """Return points (2 * n_distances * d, d) on the axes: below, then above; by distance; by axis."""
    return np.concatenate([sign * distance * np.eye(d) for sign in (-1, 1) for distance in distances])


@lru_cache(maxsize=16)
def _corners(d):
    """Return the sums of two points at `CORNER` on different axes, (2 d (d - 1), d)."""
    return CORNER * np.concatenate(list(_on_pairs(np.stack([-np.eye(d), np.eye(d)]))))


@lru_cache(maxsize=16)
def _pairs_of_axes(d):
    """Return the later and the earlier axis of each pair."""
    return np.tril_indices(d, -1)


def _on_pairs(on_axes):
    """Yield the sums of what two sides of different axes have, for each pair of sides; ``on_axes`` is (2, d, ...)."""
    i, j = _pairs_of_axes(on_axes.shape[1])
    for one in on_axes:
        for other in on_axes:
            yield one[i] + other[j]


def _missed(on_axes, at_corners):
    """Return how much more density there is at the worst of the corners than a product along the axes would have.

    Of drops of the log density at `CORNER` on the axes (2, d), and at the corners.
    """
    more = np.concatenate(list(_on_pairs(on_axes)))[: len(at_corners)] - at_corners
    return float(np.max(more, where=~np.isnan(more), initial=0.0))


def _widening(on_axes, at_corners):
    """Return what `SplitT` calls widening, or None, of drops of the log density as in `_missed`."""
    d = on_axes.shape[1]
    later, earlier = _pairs_of_axes(d)
    # the fall along the later axis: side of it, side of the earlier one, pair of axes
    fall = at_corners.reshape(2, 2, -1) - on_axes[:, earlier]
    ratio = np.maximum(on_axes[:, None, later], LEAST_FALL) / np.maximum(fall, LEAST_FALL)
    log_width = np.nan_to_num(0.5 * np.log(ratio).mean(axis=0), neginf=0.0)  # NaN where there is no density
    widening = np.zeros((2, d, d))
    widening[:, earlier, later] = np.clip(log_width - LEAST_WIDENING, 0.0, MOST_WIDENING)
    return widening if widening.any() else None


def _split_t(mode, scale, drop, distances, widening):
    """Return the split-t whose axes follow the curvature and whose tails follow the density.

    Geweke (1989), eq. 4.1: the scale on either side of an axis is the largest that a normal law
    would need to fall as the density does, over distances of 1 to 4.5 sds (2 where few points must do).
    ``drop`` is (2, n_distances, d).
    """
    needed = distances[:, None] / np.sqrt(2 * np.maximum(drop, 1e-3))
    below, above = INFLATION * np.clip(needed.max(axis=1), 0.7, 5.0)
    return SplitT(mode, scale, below, above, widening)


def _broad_t(mode, scale, drop, distances):
    """Return a proposal for shoulders far from the mode, or None where the density has none.

    A sd that may be zero leaves its correlations free: mass lies far out in several coordinates at once, where neither
    curvature nor axes lead. Along each coordinate the proposal reaches as far, in units of theta, as the density has
    not vanished.
    """
    d = len(mode)
    sd = np.sqrt(np.sum(scale**2, axis=1))
    drop = drop.reshape(2, len(distances), d)
    reach = np.max(np.where(drop < SHOULDER_DROP, 0.75 * distances[:, None], 0.0), axis=1)
    below, above = np.maximum(reach, INFLATION * sd)
    if np.all(np.maximum(below, above) < 2 * sd):
        return None
    return SplitT(mode, np.eye(d), below, above)


def t_quantile(level):
    """Return quantiles of Student's t with four degrees of freedom (Shaw 2006, J. Comput. Finance 9(4))."""
    root = 2.0 * np.sqrt(level * (1.0 - level))
    return np.sign(level - 0.5) * 2.0 * np.sqrt(np.cos(np.arccos(root) / 3.0) / root - 1.0)


_LOG_T_AT_ZERO = float(
    special.gammaln((PROPOSAL_DF + 1) / 2) - special.gammaln(PROPOSAL_DF / 2) - 0.5 * np.log(PROPOSAL_DF * np.pi)
)


def log_t(z):
    """Return the log density of Student's t with `PROPOSAL_DF` degrees of freedom."""
    return _LOG_T_AT_ZERO - (PROPOSAL_DF + 1) / 2 * np.log1p(z**2 / PROPOSAL_DF)
