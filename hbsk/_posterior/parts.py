"""What posteriors answer with: mixtures of rows, moments of groups, values and draws of parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hbsk._engine.effect_laws import EffectLaw
from hbsk._engine.scaling import ColumnScaling

# Nodes times rows times columns worked on at a time.
BLOCK_ELEMENTS = 1_000_000
# Sds whose cubes are in floating point.
SMALLEST_SD = 1e-100


@dataclass(frozen=True)
class RowMixture:
    """The law of the linear predictor of rows: a mixture of normals over nodes.

    Attributes
    ----------
    weight : ndarray of shape (n_nodes,)
    mean, variance : ndarray of shape (n_nodes, n_rows)
        The nodes are those of the posterior in order, or several for each of them. Variance 0 where a node fixes the
        row (draws); infinite where nothing identifies it.
    starts : ndarray of int or None
        Where components are parts of laws in strata (`hbsk._posterior.node_strata`), the first stratum of each level.
    """

    weight: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    starts: np.ndarray | None = None

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of each row."""
        mean = self.weight @ self.mean
        return mean, self.weight @ (self.variance + (self.mean - mean) ** 2)

    def with_noise(self, sd: np.ndarray) -> RowMixture:
        """Return the mixture with independent noise added.

        Parameters
        ----------
        sd : ndarray that broadcasts to (n_nodes of the posterior, n_rows)
        """
        noise = np.atleast_2d(sd) ** 2
        if 1 < len(noise) < len(self.weight):
            noise = np.repeat(noise, len(self.weight) // len(noise), axis=0)
        return RowMixture(self.weight, self.mean, self.variance + noise)


@dataclass(frozen=True)
class VarianceNodes:
    """Variance parameters at the nodes, in the units of y and of the columns.

    Attributes
    ----------
    sigma : ndarray of shape (n_nodes,)
    group_sd : list of ndarray of shape (n_nodes, q), one per factor
    correlation : list of ndarray of shape (n_nodes, q, q), one per factor
    laws : tuple of tuple of EffectLaw, one per factor
        Laws of effects that are not normal with mean 0, where there are any.
    between : ndarray of shape (n_nodes, n_factors) or None
        Variance that each factor's effects have in a row, averaged over the rows of fit; None where there is none.
    """

    sigma: np.ndarray
    group_sd: list[np.ndarray]
    correlation: list[np.ndarray]
    laws: tuple[tuple[EffectLaw, ...], ...] = ()
    between: np.ndarray | None = None


def mean_variance(factor: np.ndarray, second_moment: np.ndarray) -> np.ndarray:
    """Return the mean over rows of ``z' Sigma z``, (n,), for ``Sigma = F F'`` and F of shape (n, q, q).

    Parameters
    ----------
    factor : ndarray of shape (n, q, q)
    second_moment : ndarray of shape (q, q)
        Mean of ``z z'``. (P. C. D. Johnson 2014, Methods Ecol. Evol. 5, equation 11: the trace of Sigma times it.)
    """
    return np.einsum("mkl,ki,mil->m", factor, second_moment, factor, optimize=True)


def turned_effects(scaling: ColumnScaling, turned: np.ndarray | None) -> Callable[[np.ndarray], np.ndarray]:
    """Return the map from effects of the engine, (..., q), to those of the raw columns, or to ``turned`` of them."""
    if turned is None:
        return scaling.effects
    return lambda engine: scaling.effects(engine) @ turned.T


@dataclass(frozen=True)
class GroupMoments:
    """Posterior moments of group effects, in the units of y over those of the columns.

    Attributes
    ----------
    mean : ndarray of shape (n_groups, q)
    covariance : ndarray of shape (n_groups, q, q) or None
    with_common : ndarray of shape (n_groups, p, q) or None
        Covariance with the coefficients of the raw common columns.
    of_common : ndarray of shape (p, p) or None
        Covariance of those over the same nodes, where that is not `Posterior.common_moments`: of an intercept and the
        effects of few groups, whose variances nearly cancel, each node must have its share in all three.
    """

    mean: np.ndarray
    covariance: np.ndarray | None
    with_common: np.ndarray | None
    of_common: np.ndarray | None = None


@dataclass(frozen=True)
class JointDraws:
    """Joint draws of all parameters; effects of groups are drawn when asked for.

    Attributes
    ----------
    common : ndarray of shape (n_draws, p)
        Coefficients of the raw common columns.
    variance : VarianceNodes
        One row per draw.
    effects : list of ndarray of shape (n_draws, n_codes, q)
        Effects of the groups that were asked for, one array per factor.
    """

    common: np.ndarray
    variance: VarianceNodes
    effects: list[np.ndarray]


def standardised(third: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Return skewness from third central moments and sds; 0 where there is no spread."""
    return np.divide(third, sd**3, out=np.zeros_like(third), where=sd > SMALLEST_SD)


def moments_by_block(posterior, x, z, codes, nodes_at_once=None):
    """Return mean and variance of rows through their mixture, a block of rows at a time.

    Where a posterior holds matrices of ``nodes_at_once`` nodes only, and makes them anew for each block of rows,
    blocks are as long as that allows.
    """
    n_rows = len(x)
    mean, variance = np.empty(n_rows), np.empty(n_rows)
    width = max(1, BLOCK_ELEMENTS // max((nodes_at_once or posterior.n_nodes) * x.shape[1], posterior.n_nodes))
    for start in range(0, n_rows, width):
        rows = slice(start, start + width)
        block = posterior.row_mixture(x[rows], [part[rows] for part in z], [c[rows] for c in codes])
        mean[rows], variance[rows] = block.moments()
    return mean, variance


def at_place(stack: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return what each draw has of a stack of points, (n_points, ..); of one point no copies."""
    return stack if len(stack) == 1 else stack[place]


def draw_rows(posterior, x, z, codes, n_draws, rng):
    """Return joint draws of the linear predictor of rows, (n_draws, n_rows), and of their sigma, (n_draws, 1).

    Rows of one group, a new one included, share the draw of its effects.
    """
    groups, positions = [], []
    for code in codes:
        distinct, position = np.unique(code, return_inverse=True)
        groups.append(distinct)
        positions.append(position)
    draws = posterior.joint_draws(n_draws, rng, groups)
    predictor = draws.common @ x.T
    for columns, position, effects in zip(z, positions, draws.effects, strict=True):
        for k in range(columns.shape[1]):
            predictor += effects[:, position, k] * columns[:, k]
    return predictor, draws.variance.sigma[:, None]
