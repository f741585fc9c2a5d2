"""Integration over a few unconstrained parameters by importance sampling, with an honest error.

Knows nothing of models: a log density, its mode, and points in R^d. The proposal is a split-t
about the mode (Geweke 1989, Econometrica 57, section 4), nodes are scrambled Sobol points in
antithetic pairs, weights are Pareto smoothed (Vehtari, Simpson, Gelman, Yao, Gabry 2024, JMLR 25),
and the Monte Carlo error comes from sixteen replicates of the points. Where the
proposal does not fit, further proposals are fitted to the weighted nodes and all nodes are weighted
against the mixture of all proposals (Cornuet, Marin, Mira, Robert 2012, Scand. J. Stat. 39).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any, Protocol

import numpy as np
from scipy import special
from scipy.stats import qmc

from hbsk._engine.pareto import smoothed_weights
from hbsk._engine.settings import DEFAULT
from hbsk._engine.split_t import log_t, t_quantile

N_REPLICATES = 16
PARETO_K_ADAPT = 0.5
# Rounds, more of equal ones where these are not reliable. (Binary, 120 rows and 45 columns: 19 of 20 are by then.)
MAX_ROUNDS = 6
# Of 150 scramblings of the first round's points, by the number of their coordinates, one that does best by means,
# squares, products and cubes of skew normal laws weighed against their proposals: half the error of most others.
GOOD_NETS = {3: 78, 4: 33, 5: 48, 6: 35, 7: 26}
KERNELS = 64
# Share of kernel nodes that are spread more widely than the posterior: keeps weights bounded. (Seven rows in three
# groups: with a fifth of them as wide as the posterior 4 of 300 posteriors ended in NUTS, with these none.)
WIDE_SHARE = 0.3


class Proposal(Protocol):
    """A law that nodes are drawn from."""

    @property
    def n_uniforms(self) -> int:
        """Number of uniform coordinates that a point takes."""

    def draw(self, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map points of the unit cube to theta; and return the log density there."""

    def log_density(self, theta: np.ndarray) -> np.ndarray:
        """Return the log density at points (n, d)."""


@dataclass(frozen=True)
class KernelT:
    """Mixture of multivariate t kernels of one shape, and one wide t about the mean.

    Attributes
    ----------
    centres : ndarray of shape (KERNELS, d)
    mean : ndarray of shape (d,)
    scale : ndarray of shape (d, d)
        Lower factor of the covariance of the whole.
    bandwidth : float
        Of the kernels, in units of ``scale``.
    """

    centres: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    bandwidth: float

    @property
    def n_uniforms(self) -> int:
        """Number of uniform coordinates that a point takes: one more chooses the kernel."""
        return len(self.mean) + 1

    @property
    def wide(self) -> float:
        """Width of the wide t in units of ``scale``: in many dimensions a wide one would hold nothing but air."""
        return 1.0 + 2.0 / len(self.mean)

    def points(self, uniforms: np.ndarray) -> np.ndarray:
        """Map points of the unit cube (n, d + 1) to theta; the last coordinate chooses the kernel."""
        z = t_quantile(uniforms[:, :-1])
        choice = uniforms[:, -1]
        wide = choice < WIDE_SHARE
        at = np.minimum(((choice - WIDE_SHARE) / (1 - WIDE_SHARE) * len(self.centres)).astype(int), KERNELS - 1)
        centre = np.where(wide[:, None], self.mean, self.centres[at])
        return centre + (z * np.where(wide, self.wide, self.bandwidth)[:, None]) @ self.scale.T

    def draw(self, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map points of the unit cube to theta; and return the log density there."""
        theta = self.points(uniforms)
        return theta, self.log_density(theta)

    def log_density(self, theta: np.ndarray) -> np.ndarray:
        """Return the log density at points (n, d)."""
        d = theta.shape[1]
        white = np.linalg.solve(self.scale, (theta - self.mean).T).T
        kernels = np.linalg.solve(self.scale, (self.centres - self.mean).T).T
        steps = (white[:, None, :] - kernels) / self.bandwidth
        near = special.logsumexp(log_t(steps).sum(axis=2), axis=1) - np.log(len(kernels)) - d * np.log(self.bandwidth)
        far = log_t(white / self.wide).sum(axis=1) - d * np.log(self.wide)
        log_both = np.logaddexp(np.log(1 - WIDE_SHARE) + near, np.log(WIDE_SHARE) + far)
        return log_both - np.log(np.diag(self.scale)).sum()


@dataclass(frozen=True)
class Nodes:
    """Weighted points that stand for a posterior.

    Attributes
    ----------
    evaluated : list
        What the density returned for each round of points, in order.
    theta : ndarray of shape (n_nodes, d)
    weight : ndarray of shape (n_nodes,)
        Smoothed, summing to 1.
    replicate : ndarray of shape (n_nodes,), dtype int
        Which of the independent randomisations a node belongs to.
    pareto_k : float
    error : float
        Largest Monte Carlo error of what is monitored, in posterior sds.
    spare : ndarray of shape (n_nodes,)
        A further quasi-random coordinate of each node, for what is drawn given theta.
    """

    evaluated: list
    theta: np.ndarray
    weight: np.ndarray
    replicate: np.ndarray
    pareto_k: float
    error: float
    spare: np.ndarray

    def is_reliable(self, error_target: float, pareto_k_limit: float = DEFAULT.pareto_k_limit) -> bool:
        """Whether Pareto k is below its limit, and the Monte Carlo error near enough to its target."""
        return self.pareto_k <= pareto_k_limit and self.error <= 2 * error_target


@lru_cache(maxsize=64)
def unit_cube_points(d: int, per_replicate: int, salt: int) -> np.ndarray:
    """Return quasi-random points (N_REPLICATES * per_replicate, d), always the same.

    One scrambled Sobol net is cut into replicates of consecutive points, each a net itself, and each completed by its
    mirror image. Errors of the whole fall faster than the spread of the replicates says (eight schools, 768 nodes: the
    mean of tau is off by 7e-5 sd; independent scramblings, 0.011), so that the reported error is an upper bound.
    """
    half = max(per_replicate // 2, 1)
    sobol = qmc.Sobol(d, scramble=True, rng=np.random.default_rng([salt, d]))
    net = np.clip(sobol.random(half * N_REPLICATES), 1e-12, 1 - 1e-12).reshape(N_REPLICATES, half, d)
    points = np.concatenate([net, 1 - net], axis=1)[:, :per_replicate].reshape(-1, d)
    points.flags.writeable = False
    return points


def monte_carlo_error(
    values: np.ndarray, weight: np.ndarray, replicate: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weighted mean, sd, and the Monte Carlo error of the mean.

    The error is that of a ratio estimate over independent replicates (delta method).

    Parameters
    ----------
    values : ndarray of shape (n_nodes, k)
    weight : ndarray of shape (n_nodes,), summing to 1
    replicate : ndarray of shape (n_nodes,), dtype int
    """
    mean = weight @ values
    deviation = values - mean
    sd = np.sqrt(weight @ deviation**2)
    of_nodes = (weight[:, None] * deviation).T
    by_replicate = [np.bincount(replicate, of_value, N_REPLICATES) for of_value in of_nodes]
    squares = np.sum(np.reshape(by_replicate, (-1, N_REPLICATES)) ** 2, axis=1)
    error = np.sqrt(N_REPLICATES / (N_REPLICATES - 1) * squares)
    return mean, sd, error


def importance_sample(
    evaluate: Callable[[np.ndarray], object],
    proposal: Proposal,
    monitored: Callable[[list], np.ndarray],
    *,
    broad: Proposal | Callable[[], Proposal | None] | None = None,
    first_per_replicate: int,
    max_nodes: int,
    error_target: float = DEFAULT.error_target,
    salt: int = 0,
    refit: Callable[[Nodes], Proposal] | None = None,
    grows: bool | None = None,
    spreads: float = 0.0,
) -> Nodes:
    """Sample until Pareto k and the Monte Carlo error are small, refitting the proposal.

    Parameters
    ----------
    evaluate : callable
        Maps points (n, d) to an object with ``log_density`` of shape (n,).
    proposal : Proposal
    monitored : callable
        Maps the list of evaluated rounds to values (n_nodes, k) whose error counts.
    broad : Proposal, or callable that returns it or None, optional
        The second proposal, where the nodes of the first are not enough.
    first_per_replicate : int
        Nodes of each replicate in the first round.
    max_nodes : int
    error_target : float, optional
        Largest Monte Carlo error of what is monitored, in posterior sds.
    salt : int, default=0
        Chooses among the quasi-random points.
    refit : callable, optional
        Maps weighted nodes to the next proposal; by default kernels on some of them.
    grows : bool, optional
        Whether every round has twice as many nodes as the last one; by default where there is no `refit`.
    spreads : float, default=0
        Share of the error of squared distances from the means that counts as well: means may be known where sds are
        not yet.
    """
    net = salt + GOOD_NETS.get(1 + proposal.n_uniforms, 0)
    rounds = [_Round.drawn(proposal, evaluate, first_per_replicate, net)]
    per_replicate = first_per_replicate
    grows = refit is None if grows is None else grows
    for number in count(1):
        nodes = _weigh(rounds, monitored, spreads)
        if nodes.error <= error_target and nodes.pareto_k <= PARETO_K_ADAPT:
            break
        many = 3 * len(nodes.weight) if grows else len(nodes.weight) + len(rounds[0].theta)
        if many > max_nodes:
            # what is not reliable yet has further rounds as long as they fit, which need not grow
            grows, many = False, len(nodes.weight) + N_REPLICATES * per_replicate
            if nodes.is_reliable(error_target) or many > max_nodes:
                break
        if number >= MAX_ROUNDS and (grows or nodes.is_reliable(error_target)):
            break
        if callable(broad):
            broad = broad()
        if broad is not None:
            rounds.append(_Round.drawn(broad, evaluate, first_per_replicate, salt + 100))
            broad = None
            continue
        per_replicate *= 2 if grows else 1
        rounds.append(_Round.drawn((refit or kernels_on_nodes)(nodes), evaluate, per_replicate, salt + number))
    return nodes


@dataclass(frozen=True)
class _Round:
    """Nodes drawn from one proposal."""

    proposal: Proposal
    theta: np.ndarray
    log_proposal: np.ndarray
    evaluated: Any
    replicate: np.ndarray
    spare: np.ndarray

    @classmethod
    def drawn(cls, proposal, evaluate, per_replicate: int, salt: int) -> _Round:
        uniforms = unit_cube_points(1 + proposal.n_uniforms, per_replicate, salt)
        theta, log_proposal = proposal.draw(uniforms[:, 1:])
        replicate = np.repeat(np.arange(N_REPLICATES), per_replicate)
        return cls(proposal, theta, log_proposal, evaluate(theta), replicate, uniforms[:, 0])

    def log_density_at(self, others: list[_Round]) -> np.ndarray:
        """Return the log density of the proposal at the nodes of all rounds."""
        parts = [self.log_proposal if other is self else self.proposal.log_density(other.theta) for other in others]
        return np.concatenate(parts)


def _weigh(rounds: list[_Round], monitored: Callable[[list], np.ndarray], spreads: float) -> Nodes:
    """Weigh all nodes against the mixture of all proposals."""
    theta = np.concatenate([r.theta for r in rounds])
    log_density = np.concatenate([r.evaluated.log_density for r in rounds])
    log_share = np.log([len(r.theta) / len(theta) for r in rounds])
    log_mixture = np.logaddexp.reduce(
        [share + r.log_density_at(rounds) for share, r in zip(log_share, rounds, strict=True)], axis=0
    )
    log_weight = np.where(np.isfinite(log_density), log_density, -np.inf) - log_mixture
    weight, pareto_k = smoothed_weights(log_weight)
    evaluated = [r.evaluated for r in rounds]
    replicate = np.concatenate([r.replicate for r in rounds])
    # nodes without weight may be anything, beyond floating point too
    values = np.where(weight[:, None] > 0, monitored(evaluated), 0.0)
    n_values = values.shape[1]
    if spreads:
        values = np.concatenate([values, (values - weight @ values) ** 2], axis=1)
    mean, sd, error = monte_carlo_error(values, weight, replicate)
    error[n_values:] *= spreads
    # of a value that does not vary, rounding is no error
    relative = error / np.maximum(np.maximum(sd, 2e-9 * np.abs(mean)), 1e-300)
    relative = np.where(np.isnan(relative), np.inf, relative)
    return Nodes(
        evaluated=evaluated,
        theta=theta,
        weight=weight,
        replicate=replicate,
        pareto_k=pareto_k,
        error=float(relative.max(initial=0.0)),
        spare=np.concatenate([r.spare for r in rounds]),
    )


def kernels_on_nodes(nodes: Nodes) -> KernelT:
    """Return kernels on nodes resampled by weight, with the bandwidth of Silverman's rule.

    With few effective nodes the covariance is inflated.
    """
    d = nodes.theta.shape[1]
    effective = 1.0 / np.sum(nodes.weight**2)
    deviation = nodes.theta - nodes.weight @ nodes.theta
    covariance = (nodes.weight[:, None] * deviation).T @ deviation
    covariance += np.diag(np.diag(covariance)) * d / effective
    # where one node has all the weight there is no covariance
    scale = np.linalg.cholesky(covariance + 1e-12 * max(np.trace(covariance), 1e-6) * np.eye(d))
    levels = (np.arange(KERNELS) + 0.5) / KERNELS
    at = np.minimum(np.searchsorted(np.cumsum(nodes.weight), levels), len(nodes.weight) - 1)
    bandwidth = (4 / (d + 2) / min(effective, 4 * KERNELS)) ** (1 / (d + 4))
    return KernelT(nodes.theta[at], nodes.weight @ nodes.theta, scale, bandwidth)
