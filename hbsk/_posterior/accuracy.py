"""Monte Carlo errors of what the summary shows: sds and ends of intervals, beside those of means.

The error of an end is that of the probability below it, over sixteen replicates, divided by the density there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from hbsk._engine.integrate import N_REPLICATES, monte_carlo_error
from hbsk._posterior.parts import RowMixture
from hbsk._posterior.prediction import mixture_quantiles

# The ends that `summary` shows by default.
INTERVAL = 0.95
END_LEVELS = np.array([(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
TAIL_LEVELS = np.array([0.05, 0.95])
# Half of the step in probability over which the density at a quantile of points is taken, as a share of the tail.
DENSITY_STEP = 0.4


@dataclass(frozen=True)
class Accuracy:
    """Errors of k parameters.

    Attributes
    ----------
    mcse_sd : ndarray of shape (k,)
    mcse_ends : ndarray of shape (k, 2)
        Of the ends of the interval of `INTERVAL`.
    ess_tail : ndarray of shape (k,)
        The smaller of the effective sizes of the probabilities in the 5 % tails.
    """

    mcse_sd: np.ndarray
    mcse_ends: np.ndarray
    ess_tail: np.ndarray


def variance_accuracy(posterior, values_of) -> Accuracy:
    """Return the errors of the law of the variance parameters.

    Parameters
    ----------
    posterior : MarginalPosterior
    values_of : callable
        Maps `VarianceNodes` to values (n_points, k).
    """
    nodes, weight, replicate = posterior.variance_law()
    values = values_of(nodes)
    surface = None if posterior.law is None else posterior.law.surface
    at_nodes = values_of(posterior.variance_nodes()) if surface is not None or posterior.is_stochastic else None

    def error(function):
        within = monte_carlo_error(function(values), weight, replicate)[2]
        if posterior.is_stochastic:
            within = np.hypot(within, posterior.probe_error(function(at_nodes)))
        if surface is None:
            return within
        return np.hypot(within, _error_of_surface(function(at_nodes), surface.shift, posterior.replicate))

    return _accuracy_of_points(values, weight, error)


def points_accuracy(values: np.ndarray, weight: np.ndarray, replicate: np.ndarray) -> Accuracy:
    """Return the errors of parameters that are known at points, (n_points, k)."""
    return _accuracy_of_points(
        values, weight, lambda function: monte_carlo_error(function(values), weight, replicate)[2]
    )


def _accuracy_of_points(values, weight, error):
    points = RowMixture(weight, values, np.zeros_like(values))
    mean = weight @ values
    # where no variance exists squares leave floating point, and the error is infinite
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        sd = np.sqrt(weight @ (values - mean) ** 2)
        mcse_sd = np.where(sd > 0, error(lambda v: (v - mean) ** 2) / (2 * sd), 0.0)
    mcse_sd = np.where(np.isnan(mcse_sd), np.inf, mcse_sd)
    step = DENSITY_STEP * np.minimum(END_LEVELS, 1 - END_LEVELS)
    # sorted once for all levels
    levels = np.concatenate([END_LEVELS, END_LEVELS - step, END_LEVELS + step, TAIL_LEVELS])
    end, below, above, tail = np.split(mixture_quantiles(points, levels).T, 4)
    in_ends, in_tails = ([error(lambda v, at=at: (v <= at).astype(float)) for at in part] for part in (end, tail))
    ends = (np.array(in_ends) * (above - below) / (2 * step[:, None])).T
    return Accuracy(mcse_sd, ends, _tail_size(in_tails))


def mixture_accuracy(mean: np.ndarray, sd: np.ndarray, weight: np.ndarray, replicate: np.ndarray) -> Accuracy:
    """Return the errors of parameters that are normal given the node, means and sds (n_nodes, k)."""
    answer = points_accuracy(mean, weight, replicate)
    normal = np.all(sd > 0, axis=0)
    mean, sd = mean[:, normal], sd[:, normal]
    centre = weight @ mean
    second = (mean - centre) ** 2 + sd**2
    answer.mcse_sd[normal] = monte_carlo_error(second, weight, replicate)[2] / (2 * np.sqrt(weight @ second))
    mixture = RowMixture(weight, mean, sd**2)
    for k, end in enumerate(mixture_quantiles(mixture, END_LEVELS).T):
        z = (end - mean) / sd
        density = weight @ (np.exp(-0.5 * z**2) / sd) / np.sqrt(2 * np.pi)
        answer.mcse_ends[normal, k] = monte_carlo_error(ndtr(z), weight, replicate)[2] / density
    tails = [
        monte_carlo_error(ndtr((end - mean) / sd), weight, replicate)[2]
        for end in mixture_quantiles(mixture, TAIL_LEVELS).T
    ]
    answer.ess_tail[normal] = _tail_size(tails)
    return answer


def _error_of_surface(values, shift, replicate):
    """Return what the nodes say that a mean under the surface is off by, and the error of that, together."""
    by_replicate = np.zeros((N_REPLICATES, values.shape[1]))
    np.add.at(by_replicate, replicate, shift[:, None] * values)
    spread = np.sum((by_replicate - by_replicate.mean(axis=0)) ** 2, axis=0)
    return np.sqrt(by_replicate.sum(axis=0) ** 2 + N_REPLICATES / (N_REPLICATES - 1) * spread)


def _tail_size(errors):
    with np.errstate(divide="ignore"):
        return np.min(
            [level * (1 - level) / error**2 for level, error in zip(TAIL_LEVELS, errors, strict=True)], axis=0
        )
