"""What is known of means of groups, known and new: tau^2 averaged over what the data tell of it, not put in.

Given rho = tau^2 / sigma^2 everything is Student's t with m = nu + J - r degrees of freedom and squared scale by
s^2(rho) = (nu sigma^2 + Q(rho)) / m, Q the weighted residual sum of squares of the means; with known errors it is
normal, s^2 = 1. Over A = tau^2 the law has the density, L the restricted likelihood,

    L(A) * T(A) / T'(A) * sum_j (v_j + A)^-2,

where T is the variance of what is asked for, that of the target and the noise of an observation in it: of a new group
A + ..., T' = 1; of a known one v A / (v + A) + ..., T' = v^2 / (v + A)^2. The weight beside L makes intervals right to
second order where groups are many. Say 1 / I(A) for the variance of the estimate of A. An interval +- z sqrt(T*) with
T* free of bias needs T* larger by (1 + z^2) T'^2 / (4 T I) to cover what it should; averaging over a posterior widens
it by (z^2 - 3) T'^2 / (4 T I) + T'' / (2 I), and the weight I T / T' moves the mean of that posterior by
(T' / T - T'' / T') / I, which is the rest and the bias of T at an unbiased estimate of A. (The third derivative of the
likelihood and the derivative of I cancel.) What the estimate moves the mean of a known group by counts alike on both
sides. Where tau^2 is far above the v_j intervals of new groups are the exact ones on J - r degrees of freedom for any
J. Datta, Rao and Smith (2005) match the mean squared error of known groups in the same way.

References
----------
Datta, G. S., Rao, J. N. K., and Smith, D. D. (2005). On measuring the variability of small area estimators under a
basic area level model. Biometrika 92, 183-196.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize.elementwise import find_root
from scipy.special import digamma, ndtr, polygamma, stdtr
from scipy.stats import t as student_t

from hbsk._shrinkage.between_group_variance import restricted_fits
from hbsk._shrinkage.cells import Cells

_N_NODES = 64
_BLOCK_ELEMENTS = 1_000_000
# Log density, below its largest, of what is left out.
_DEPTH = 20.0
# Nodes that must lie within that depth for sums over nodes to be integrals; enough of a law that is all but normal.
_FEWEST_INSIDE = 24
_FEWEST_OF_MANY, _MANY_GROUPS = 10, 2000
# Rows times nodes up to which intervals are found of the mixtures themselves; many groups tell tau^2 so well that t is
# as good.
_EXACT_ELEMENTS = 200_000


class Mixtures(NamedTuple):
    """Mixtures over nodes of Student's t, of what lies between the truth and what is predicted.

    Parameters
    ----------
    squares, shift, weight : ndarray of shape (n, K)
        Squared scales and centres of t, and the weights of the nodes, which need not sum to 1.
    degrees : float
    """

    squares: np.ndarray
    shift: np.ndarray
    weight: np.ndarray
    degrees: float

    def student(self) -> tuple[np.ndarray, np.ndarray]:
        """Return scale and degrees of freedom of one t about 0 for each mixture, both of shape (n,).

        The squared scales with the squares of the shifts are taken for an inverse chi-square, for which t is what the
        mixture is, of the same mean and variance of the logarithm.
        """
        total = self.squares + np.square(self.shift)
        if total.shape[1] == 1:
            return np.sqrt(total[:, 0]), np.full(len(total), self.degrees)
        logs = np.log(total)
        mean = _average(self.weight, logs)
        variance = _average(self.weight, np.square(logs - mean[:, None]))
        if np.isfinite(self.degrees):
            half_degrees = self.degrees / 2
            mean += np.log(half_degrees) - digamma(half_degrees)
            variance += polygamma(1, half_degrees)
        half = inverse_trigamma(np.maximum(variance, 1e-9))
        return np.exp(0.5 * (mean - np.log(half) + digamma(half))), 2.0 * half

    def reach(self, coverage: float) -> np.ndarray:
        """Find the distance to either side of what is predicted that holds the truth with this probability, (n,)."""
        scale = np.sqrt(self.squares)
        weight = self.weight / self.weight.sum(axis=1, keepdims=True)

        def excess(at: np.ndarray, row: np.ndarray) -> np.ndarray:
            above = self._below((at[:, None] - self.shift[row]) / scale[row])
            below = self._below((-at[:, None] - self.shift[row]) / scale[row])
            return np.einsum("nk,nk->n", weight[row], above - below) - coverage

        # every node holds it within the widest of all
        quantile = t_quantile(0.5 + coverage / 2, np.array([self.degrees]))
        ends = np.max(np.abs(self.shift) + quantile * scale, axis=1)
        if scale.shape[1] == 1 and not self.shift.any():
            return ends
        # a little beyond, or rounding could put the root outside where all nodes are as wide
        return np.asarray(find_root(excess, (np.zeros(len(ends)), (1 + 1e-9) * ends), args=(np.arange(len(ends)),)).x)

    def _below(self, values: np.ndarray) -> np.ndarray:
        """Distribution function; that of many degrees is the normal one, which takes less time."""
        return np.asarray(ndtr(values) if self.degrees > 1e5 else stdtr(self.degrees, values))


class Laws(NamedTuple):
    """Laws of many rows, made in blocks."""

    mixtures: Callable[[slice], Mixtures]
    n_rows: int
    n_nodes: int

    def student(self) -> tuple[np.ndarray, np.ndarray]:
        """See `Mixtures`."""
        parts = [self.mixtures(rows).student() for rows in blocks(self.n_rows, self.n_nodes)]
        scale, degrees = zip(*parts, strict=True) if parts else ((), ())
        return np.concatenate([[], *scale]), np.concatenate([[], *degrees])

    def reach(self, coverage: float) -> np.ndarray:
        """See `Mixtures`."""
        if self.n_rows * self.n_nodes <= _EXACT_ELEMENTS:
            return self.mixtures(slice(0, self.n_rows)).reach(coverage) if self.n_rows else np.empty(0)
        scale, degrees = self.student()
        return scale * t_quantile(0.5 + coverage / 2, degrees)


class KnownGroups(NamedTuple):
    """Groups that were shrunken by some tau^2, or some other weight, and what they were before.

    Parameters
    ----------
    relative_variances : ndarray of shape (J,)
        Variance of each mean over sigma^2; with known errors the variance.
    deviations : ndarray of shape (J,)
        Means less the target.
    moved : ndarray of shape (J,)
        Means less the shrunken means.
    """

    relative_variances: np.ndarray
    deviations: np.ndarray
    moved: np.ndarray


class AveragedVariance(NamedTuple):
    """What the data tell of tau^2, at nodes; one node where it was given.

    Parameters
    ----------
    weight : ndarray of shape (K,)
        Weight of each node were T = tau^2.
    tau2 : ndarray of shape (K,)
        Variance of a new group around the target.
    sigma2 : ndarray of shape (K,)
        Variance within groups; ones with known standard errors.
    spread : ndarray of shape (K,)
        Variance of the height of the target, as a multiple of that in `covariance`.
    coef : ndarray of shape (K, r)
        Coefficients of the target less those that predictions use; (K, 1) and 0 for a fixed target.
    covariance : ndarray of shape (r, r)
        Covariance of the coefficients of the target on average; of shape (1, 1) and 0 for a fixed target.
    degrees : float
        m; inf with known standard errors.
    """

    weight: np.ndarray
    tau2: np.ndarray
    sigma2: np.ndarray
    spread: np.ndarray
    coef: np.ndarray
    covariance: np.ndarray
    degrees: float

    def _for_known(self) -> AveragedVariance:
        """Return the same for known groups, where sigma^2 is part of T: two degrees of freedom less.

        Their T / T' goes with 1 / sigma^2 where tau^2 is far above; a weight of sigma^2 at each node makes up for that.
        What is known of sigma^2 is then what rows within groups tell, on nu degrees.
        """
        if len(self.weight) == 1 or np.isinf(self.degrees):
            return self
        larger = self.degrees / (self.degrees - 2.0)
        return self._replace(
            weight=self.weight * self.sigma2 / (self.weight @ self.sigma2),
            tau2=larger * self.tau2,
            sigma2=larger * self.sigma2,
            covariance=larger * self.covariance,
            degrees=self.degrees - 2.0,
        )

    def of_new(self, points: np.ndarray, noise: np.ndarray) -> Laws:
        """Return the laws of rows of new groups.

        Parameters
        ----------
        points : ndarray of shape (n_rows, r)
            Where the rows stand in the target.
        noise : ndarray of shape (n_rows,)
            Variance of an observation around its group's mean; NaN is `sigma2`.
        """
        leverage = self._leverage(points)

        def mixtures(rows: slice) -> Mixtures:
            total = leverage[rows, None] * self.spread + self.tau2 + self._noise(noise[rows])
            return Mixtures(total, points[rows] @ self.coef.T, self._weights(total), self.degrees)

        return Laws(mixtures, len(points), len(self.weight))

    def of_known(
        self, groups: KnownGroups, points: np.ndarray, codes: np.ndarray, away: np.ndarray, noise: np.ndarray
    ) -> Laws:
        """Return the laws of rows of known groups.

        Parameters
        ----------
        groups : KnownGroups
        points : ndarray of shape (J, r)
            Where the groups stand in the target.
        codes : ndarray of shape (n_rows,)
            Group of each row.
        away : ndarray of shape (n_rows,)
            What is added to the variance of the mean by the place of the row.
        noise : ndarray of shape (n_rows,)
            As of new groups.
        """
        law = self._for_known()

        def mixtures(rows: slice) -> Mixtures:
            variance, shift, steepness = law._known(groups, points, codes[rows])
            total = np.maximum(variance + away[rows, None], 0.1 * variance) + law._noise(noise[rows])
            return Mixtures(total, shift, law._weights(total) / steepness, law.degrees)

        return Laws(mixtures, len(codes), len(self.weight))

    def second_moments(self, groups: KnownGroups, points: np.ndarray, sigma2: float) -> np.ndarray:
        """Return the mean square of what lies between true and shrunken means, shape (J,), with sigma^2 as given."""
        law, moments = self._for_known(), np.empty(len(groups.moved))
        for rows in blocks(len(moments), len(self.weight)):
            variance, shift, steepness = law._known(groups, points, np.arange(rows.start, rows.stop))
            weight = law._weights(variance) / steepness
            variance *= sigma2 / law.sigma2
            variance += np.square(shift)
            moments[rows] = _average(weight, variance)
        return moments

    def sigma2_on_average(self) -> float:
        """Return the mean of `sigma2`."""
        return float(self.weight @ self.sigma2 / self.weight.sum())

    def draw_of_new(self, n_draws: int, noise: float, rng: np.random.Generator) -> np.ndarray:
        """Draw tau^2 of a new group for observations with noise of that variance, shape (n_draws,)."""
        weight = self._weights(self.tau2 + noise)
        drawn = rng.choice(self.tau2, n_draws, p=weight / weight.sum())
        if np.isfinite(self.degrees):
            drawn = drawn * self.degrees / rng.chisquare(self.degrees, n_draws)
        return drawn

    def _known(
        self, groups: KnownGroups, points: np.ndarray, codes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Variances of means at nodes, what they are shifted by, and T' up to a common factor, each (n, K)."""
        points = points[codes]
        variance = groups.relative_variances[codes, None] * self.sigma2
        total = variance + self.tau2
        pull = variance / total
        steepness = np.square(pull / pull.min(axis=1, keepdims=True))
        variance *= self.tau2 / total
        variance += np.square(pull) * self._leverage(points)[:, None] * self.spread
        shift = groups.moved[codes, None] - pull * (groups.deviations[codes, None] - points @ self.coef.T)
        return variance, shift, steepness

    def _leverage(self, points: np.ndarray) -> np.ndarray:
        """Variance of the height of the target at points, shape (n,)."""
        return np.maximum(np.einsum("nk,kl,nl->n", points, self.covariance, points), 0.0)

    def _weights(self, total: np.ndarray) -> np.ndarray:
        """Weights of nodes for what has the variance `total`, shape (..., K); tau^2 that was given may be 0."""
        return np.ones_like(total) if len(self.weight) == 1 else self.weight * (total / self.tau2)

    def _noise(self, noise: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(noise)[:, None], self.sigma2, noise[:, None])


def blocks(n_rows: int, n_nodes: int) -> list[slice]:
    """Cut rows into blocks whose arrays over rows and nodes are not too large."""
    width = max(1, _BLOCK_ELEMENTS // n_nodes)
    return [slice(start, min(start + width, n_rows)) for start in range(0, n_rows, width)]


def _average(weight: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.einsum("nk,nk->n", weight, values) / weight.sum(axis=1)


def average_variance(
    cells: Cells, turn: np.ndarray, coef: np.ndarray, sum_of_squares: float, degrees: float
) -> AveragedVariance:
    """Average over tau^2.

    Parameters
    ----------
    cells : Cells
        Means with their variances over sigma^2; of more groups than coefficients.
    turn : ndarray of shape (r, r)
        What the columns of the target were multiplied by for `cells`.
    coef : ndarray of shape (r,)
        Coefficients of the target that is predicted, less those that `cells` has taken off its means.
    sum_of_squares, degrees : float
        Of rows within groups: nu sigma^2 and nu; inf, and any number, with known standard errors.
    """
    known = np.isinf(degrees)
    total_degrees = np.inf if known else degrees + cells.degrees

    def log_density(log_ratio):
        ratio = np.exp(log_ratio)
        fits, log_det, information = restricted_fits(cells, ratio)
        fit = -0.5 * fits.residual if known else -0.5 * total_degrees * np.log(sum_of_squares + fits.residual)
        return fit - 0.5 * log_det + np.log(information) + 2.0 * log_ratio, fits

    flat = restricted_fits(cells, np.zeros(1))[0].residual[0] * cells.variances[-1] / cells.degrees
    if not known:
        flat /= sum_of_squares / degrees
    low, high = np.log(1e-6 * cells.variances[0]), np.log(1e8 * max(flat, cells.variances[-1]))
    for _ in range(12):
        at = np.linspace(low, high, _N_NODES)
        density, fits = log_density(at)
        inside = np.flatnonzero(density > density.max() - _DEPTH)
        if len(inside) >= _FEWEST_INSIDE:
            break
        low, high = at[max(inside[0] - 1, 0)], at[min(inside[-1] + 1, _N_NODES - 1)]
    weight = np.exp(density - density.max())
    weight /= weight.sum()
    kept = np.flatnonzero(weight > 1e-9)
    if cells.n_groups > _MANY_GROUPS:
        kept = kept[:: max(1, len(kept) // _FEWEST_OF_MANY)]
    weight = weight[kept] / weight[kept].sum()
    sigma2 = np.ones(len(weight)) if known else (sum_of_squares + fits.residual[kept]) / total_degrees
    off, covariance, spread = np.zeros((len(weight), 1)), np.zeros((1, 1)), np.zeros(len(weight))
    if len(coef):
        at_nodes = sigma2[:, None, None] * (turn @ fits.inverse[kept] @ turn.T)
        off = fits.coef[kept] @ turn.T - coef
        covariance = np.tensordot(weight, at_nodes, 1)
        spread = at_nodes[:, 0, 0] / covariance[0, 0]
    return AveragedVariance(weight, sigma2 * np.exp(at[kept]), sigma2, spread, off, covariance, total_degrees)


def given_variance(
    tau2: float, sigma2: float, coef: np.ndarray, covariance: np.ndarray, degrees: float
) -> AveragedVariance:
    """Take tau^2 as it is, with the coefficients of the target there less those predicted, and their covariance."""
    one = np.ones(1)
    if not len(coef):
        coef, covariance = np.zeros(1), np.zeros((1, 1))
    return AveragedVariance(one, tau2 * one, sigma2 * one, one, coef[None], covariance, degrees)


def distinct_pairs(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct pairs of numbers, and the place of each row among them."""
    first, of_first = np.unique(first, return_inverse=True)
    second, of_second = np.unique(second, return_inverse=True)
    pair, place = np.unique(of_first * len(second) + of_second, return_inverse=True)
    return first[pair // len(second)], second[pair % len(second)], place


def t_quantile(probability: float, degrees: np.ndarray) -> np.ndarray:
    """Find a quantile of Student's t for each number of degrees of freedom; infinite for none."""
    distinct, place = np.unique(degrees, return_inverse=True)
    values = np.full(len(distinct), np.inf)
    values[distinct > 0] = student_t.ppf(probability, distinct[distinct > 0])
    return values[place]


def inverse_trigamma(value: np.ndarray) -> np.ndarray:
    """Solve trigamma(x) = value by Newton's method on its reciprocal, which is convex and almost a line."""
    x = 0.5 + 1.0 / value
    for _ in range(20):
        trigamma = polygamma(1, x)
        step = trigamma * (1.0 - trigamma / value) / polygamma(2, x)
        x = x + step
        if np.all(np.abs(step) <= 1e-10 * x):
            break
    return x
