"""What posteriors of a linear predictor say of probabilities and rates: the link is applied here.

A probability is predicted by its posterior mean, the integral of the inverse link over the law of the predictor. That
is not the inverse link of the mean: with an uncertain predictor probabilities are drawn towards 1/2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from scipy.special import expit, log_expit, logsumexp

from hbsk._posterior.parts import RowMixture, standardised
from hbsk._posterior.prediction import mixture_quantiles
from hbsk._posterior.skew_normals import FINE

# Points of the rule for the standard normal law, its weights summing to 1.
NODE, WEIGHT = np.polynomial.hermite_e.hermegauss(20)
WEIGHT /= WEIGHT.sum()
# The same for components of mixtures, which are narrower and many.
FEW_NODES, FEW_WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
FEW_WEIGHTS /= FEW_WEIGHTS.sum()
# Skewness of a coefficient from which strata of nodes are not nearly normal.
SKEW = 0.4
# Nodes of a stratum, and strata.
NODES_OF_A_STRATUM, MOST_STRATA = 16, 16
# Nodes times rows worked on at a time.
BLOCK_ELEMENTS = 50_000
# Share of the posterior, that of the widest laws, that mean rates of new groups leave out.
WIDEST = 0.005
# Largest exponent in floating point, and the least probability that is nowhere near its end.
LARGEST_EXPONENT, LEAST_PROBABILITY = 700.0, 1e-290


def response_mean(
    posterior, x: np.ndarray, z: Sequence, codes: Sequence, offset: np.ndarray | None = None
) -> np.ndarray:
    """Return posterior means of probabilities, or of rates for one unit of exposure, (n_rows,).

    Parameters
    ----------
    posterior : Posterior
        With a `family`.
    x, z, codes
        Rows as every posterior takes them.
    offset : ndarray of shape (n_rows,), optional
        Added to the linear predictor.
    """
    mean, strata = np.empty(len(x)), _strata(posterior)
    is_rate = posterior.family == "poisson"
    log_rates = getattr(posterior, "log_rates", None) if is_rate else None
    for at, rows in _row_blocks(posterior, x, z, codes):
        exact = None if log_rates is None else log_rates(*rows)
        fresh = _are_new(posterior, rows[2]) if is_rate else np.zeros(0, dtype=bool)
        if fresh.any():
            part = np.arange(len(x))[at]
            mean[part[fresh]] = _mean_rates_of_new(posterior, _taken(rows, fresh))
            if fresh.all():
                continue
            at, rows = part[~fresh], _taken(rows, ~fresh)
            exact = None if exact is None else exact[:, ~fresh]
        if exact is not None:
            mean[at] = posterior.weight @ np.exp(np.minimum(exact, LARGEST_EXPONENT))
        else:
            points, weight = _points(posterior.row_mixture(*rows), strata)
            mean[at] = weight @ (
                np.exp(np.minimum(points, LARGEST_EXPONENT)) if is_rate else expit(shifted(points, offset, at))
            )
    return mean * np.exp(offset) if is_rate and offset is not None else mean


def _taken(rows, which):
    """Return some of the rows (x, z, codes)."""
    x, z, codes = rows
    return x[which], [part[which] for part in z], [code[which] for code in codes]


def _are_new(posterior, codes):
    """Tell which rows are of a group that fit has not seen."""
    new = np.zeros(len(codes[0]) if codes else 0, dtype=bool)
    for code, n_groups in zip(codes, posterior.n_groups, strict=True):
        new |= code >= n_groups
    return new


def _mean_rates_of_new(posterior, rows):
    """Return mean rates of new groups: of log-normal laws, one for each node, the widest left out.

    With a prior of the sd as wide as HalfNormal(1) the mean over all of them does not exist: what is left out is
    `WIDEST` of the posterior, in the order of the spread.
    """
    mixture = posterior.row_mixture(*rows)
    order = np.argsort(mixture.variance, axis=0, kind="stable")
    variance = np.take_along_axis(mixture.variance, order, axis=0)
    log_mean = np.take_along_axis(mixture.mean, order, axis=0) + 0.5 * variance
    weight = mixture.weight[order]
    # nodes as wide as the first that is left in are left in
    below = np.cumsum(weight, axis=0) - weight
    widest = np.take_along_axis(variance, np.argmax(below >= 1.0 - WIDEST, axis=0)[None] - 1, axis=0)
    weight = np.where((below < 1.0 - WIDEST) | (variance <= widest), weight, 0.0)
    return np.sum(weight * np.exp(np.minimum(log_mean, LARGEST_EXPONENT)), axis=0) / weight.sum(axis=0)


def response_log_means(
    posterior, x: np.ndarray, z: Sequence, codes: Sequence, offset: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return logs of the posterior means of the probability and of its complement, each (n_rows,).

    Each is integrated by itself, so that neither is lost beside 1.
    """
    log_mean, log_rest, strata = np.empty(len(x)), np.empty(len(x)), _strata(posterior)
    for at, mixture in _blocks(posterior, x, z, codes, offset):
        points, weight = _points(mixture, strata)
        log_mean[at], log_rest[at] = _log_mean_expit(points, weight), _log_mean_expit(-points, weight)
    return log_mean, log_rest


def _log_mean_expit(points, weight):
    """Return logs of mean probabilities, of predictors (n_points, n_rows): of logs only where these are too small."""
    mean = weight @ expit(points)
    is_lost = mean < LEAST_PROBABILITY
    log_mean = np.log(np.where(is_lost, 1.0, mean))
    if is_lost.any():
        log_mean[is_lost] = logsumexp(log_expit(points[:, is_lost]), b=weight[:, None], axis=0)
    return log_mean


def response_interval(
    posterior, x: np.ndarray, z: Sequence, codes: Sequence, levels: np.ndarray, offset: np.ndarray | None = None
) -> np.ndarray:
    """Return quantiles of probabilities or rates, (n_rows, n_levels): those of the predictor, through the link."""
    quantiles = np.empty((len(x), len(levels)))
    for at, mixture in _blocks(posterior, x, z, codes, offset):
        quantiles[at] = mixture_quantiles(mixture, levels)
    return inverse_link(posterior.family, quantiles)


def response_points(
    posterior, x: np.ndarray, z: Sequence, codes: Sequence, offset: np.ndarray | None = None
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield rows, and points (n_points, n_rows) and weights (n_points,) that stand for the law of their predictor."""
    strata = _strata(posterior)
    for at, mixture in _blocks(posterior, x, z, codes, offset):
        yield at, *_points(mixture, strata)


def inverse_link(family: str, predictor: np.ndarray) -> np.ndarray:
    """Return probabilities or rates at values of the linear predictor."""
    return expit(predictor) if family == "binomial" else np.exp(np.minimum(predictor, LARGEST_EXPONENT))


def shifted(points, offset, at):
    """Return points with the offset of their rows."""
    return points if offset is None else points + offset[at]


def _row_blocks(posterior, x, z, codes):
    """Yield where rows are, a few at a time, and the rows: those whose laws are of many parts by themselves."""
    width = max(16, BLOCK_ELEMENTS // posterior.n_nodes)
    on_edge = posterior.on_edge(codes)
    for start in range(0, len(x), width):
        block = slice(start, start + width)
        if not on_edge[block].any():
            yield block, (x[block], [part[block] for part in z], [code[block] for code in codes])
            continue
        for alike in (on_edge[block], ~on_edge[block]):
            at = start + np.flatnonzero(alike)
            if len(at):
                yield at, (x[at], [part[at] for part in z], [code[at] for code in codes])


def _blocks(posterior, x, z, codes, offset):
    """Yield where rows are, a few at a time, and their mixture."""
    for at, rows in _row_blocks(posterior, x, z, codes):
        mixture = posterior.row_mixture(*rows)
        yield at, replace(mixture, mean=shifted(mixture.mean, offset, at))


def _strata(posterior) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the nodes in order of the spread between groups, and where each of a few strata of them begins.

    Within a stratum the law of a predictor is nearly normal; over all of them it has the tails of a mixture of spreads.
    None where no stratum is nearly normal: of draws, of nodes without groups, which are points, and of coefficients
    whose own laws are skew, as where they separate rows under wide priors.
    """
    if posterior.are_draws or not posterior.n_groups or _largest_skewness(posterior) > SKEW:
        return None
    spread = np.zeros(posterior.n_nodes)
    for sd in posterior.variance_nodes().group_sd:
        spread += np.sum(sd**2, axis=1)
    order = np.argsort(spread, kind="stable")
    n_strata = int(np.clip(posterior.n_nodes // NODES_OF_A_STRATUM, 1, MOST_STRATA)) if spread.any() else 1
    level = np.cumsum(posterior.weight[order]) - 0.5 * posterior.weight[order]
    number = np.minimum((level * n_strata).astype(int), n_strata - 1)
    return order, np.flatnonzero(np.diff(number, prepend=-1))


def _largest_skewness(posterior) -> float:
    """Return the largest skewness of a coefficient over the nodes."""
    common, sds = posterior.common_mixture()
    deviation = common - posterior.weight @ common
    sd = np.sqrt(posterior.weight @ (deviation**2 + sds**2))
    third = posterior.weight @ (deviation**3 + 3.0 * deviation * sds**2)
    return float(np.max(np.abs(standardised(third, sd)), initial=0.0))


def _points(mixture: RowMixture, strata) -> tuple[np.ndarray, np.ndarray]:
    """Return points (n_points, n_rows) and weights (n_points,) that stand for the law of the predictor of rows.

    In each stratum of nodes they are ``mean + sd (g + skewness (g^2 - 1) / 6)``, g those of the rule for a normal law:
    the expansion of Cornish and Fisher (1938). Of a law of many parts each part has such points.
    """
    if strata is None:
        return _points_of_components(mixture)
    order, starts = strata
    (n_components, n_rows), is_fine = mixture.mean.shape, mixture.starts is not None
    node, of_node = (FEW_NODES, FEW_WEIGHTS) if is_fine else (NODE, WEIGHT)
    if is_fine:  # each part is a law in a level of its own strata
        order, starts = slice(None), mixture.starts
        shape = (-1, len(FINE.shares))
    else:  # all parts are one law in a stratum
        n_parts = n_components // len(order)
        starts = starts * n_parts
        order = (order[:, None] * n_parts + np.arange(n_parts)).ravel()
        shape = (-1, 1)
    weight = mixture.weight[order].reshape(*shape, 1)
    mean, variance = (values[order].reshape(*shape, n_rows) for values in (mixture.mean, mixture.variance))
    share = np.add.reduceat(weight, starts, axis=0)
    size = np.diff(starts, append=len(weight))
    relative = weight / np.repeat(share, size, axis=0)

    def averaged(values):
        return np.add.reduceat(relative * values, starts, axis=0)

    centre = averaged(mean)
    deviation = mean - np.repeat(centre, size, axis=0)
    square = deviation**2
    sd = np.sqrt(averaged(square + variance))
    skewness = standardised(averaged(deviation * (square + 3.0 * variance)), sd)
    node = node[:, None, None, None]
    points = centre + sd * (node + skewness / 6.0 * (node**2 - 1.0))
    return points.reshape(-1, n_rows), np.outer(of_node, share).ravel()


def _points_of_components(mixture: RowMixture) -> tuple[np.ndarray, np.ndarray]:
    """Return points and weights of every component."""
    sd = np.sqrt(mixture.variance)
    if not sd.any():
        return mixture.mean, mixture.weight
    points = mixture.mean + sd * FEW_NODES[:, None, None]
    return points.reshape(-1, points.shape[2]), np.outer(FEW_WEIGHTS, mixture.weight).ravel()
