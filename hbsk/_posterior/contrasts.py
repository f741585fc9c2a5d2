"""Contrasts between groups, with their posterior: what two groups of a factor differ by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from hbsk._messages import interval_columns, quoted, shown
from hbsk._model.points import Point
from hbsk._posterior.group_tables import coefficient_rows, find_term, label_index
from hbsk._posterior.orders import OF_VARIANCE, coefficient_orders
from hbsk._posterior.prediction import mixture_quantiles
from hbsk._posterior.summary import interval_levels, refuse_point_of_slope

# Labels that a message lists.
LISTED = 10
# Pairs whose laws at all nodes are held at a time.
PAIRS_AT_ONCE = 1_000


def contrast_table(frame, posterior, a, b, term, factor, coverage: float, rng, point: Point | None) -> pd.DataFrame:
    """Return the posterior of the differences between groups, ``a`` less ``b``, pair by pair.

    Parameters
    ----------
    frame : ModelFrame
    posterior : Posterior
    a, b : label or list of labels
        See `read_pairs`.
    term, factor : str or None
        See `find_term`.
    coverage : float
    rng : numpy.random.Generator
    point : Point or None
        Where intercepts are compared.
    """
    specification = frame.specification
    f, k = find_term(specification, term, factor, "compare")
    compared = specification.factors[f]
    refuse_point_of_slope(compared, k, point)
    first, second = read_pairs(a, b, compared.labels, compared.name)
    x, z = coefficient_rows(specification, f, point)[k]
    mean, variance, p_greater = (np.empty(len(first)) for _ in range(3))
    ends = np.empty((len(first), 2))
    for start in range(0, len(first), PAIRS_AT_ONCE):
        at = slice(start, start + PAIRS_AT_ONCE)
        mixture = posterior.contrast_mixture(f, z, first[at], second[at], rng)
        mean[at], variance[at] = mixture.moments()
        ends[at] = mixture_quantiles(mixture, interval_levels(coverage))
        p_greater[at] = _above_zero(mixture)
    if posterior.has_infinite_moments:
        # the common part cancels: a difference has the moments that both levels have
        ones = np.ones((len(first), 1))
        for groups in (first, second):
            orders = coefficient_orders(specification, posterior, ones * x, f, ones * z, groups)
            variance[orders <= OF_VARIANCE] = np.inf
    return difference_table(compared.labels, first, second, mean, np.sqrt(variance), ends, p_greater, coverage)


def _above_zero(mixture) -> np.ndarray:
    """Return the probability that mixtures of normals are above 0; half of that of 0 itself."""
    sd = np.sqrt(mixture.variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        above = np.where(sd > 0, ndtr(mixture.mean / sd), 0.5 * (1.0 + np.sign(mixture.mean)))
    return mixture.weight @ above


def difference_table(labels, first, second, mean, sd, ends, p_greater, coverage: float) -> pd.DataFrame:
    """Return pairs of labels, and what is known of their differences."""
    low, high = interval_columns(coverage)
    return pd.DataFrame(
        {
            "group": pd.Series(labels[first]).infer_objects(),
            "other": pd.Series(labels[second]).infer_objects(),
            "mean": mean,
            "sd": sd,
            low: ends[:, 0],
            high: ends[:, 1],
            "p_greater": p_greater,
        }
    )


def read_pairs(a: Any, b: Any, labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the groups to be compared, each (n_pairs,).

    Parameters
    ----------
    a, b : label or list of labels
        Lists are taken pair by pair, one label is compared with each of a list; no b is all other groups.
    labels : ndarray of shape (n_groups,)
    name : str
        Of the factor, for messages.
    """
    first = _positions(a, labels, name)
    if b is None:
        if len(first) > 1:
            raise ValueError(
                f"a names {len(first)} groups; without b it must be one label, which is compared with all others."
            )
        return np.broadcast_arrays(first, np.delete(np.arange(len(labels)), first))
    second = _positions(b, labels, name)
    if len(first) != len(second) and 1 not in (len(first), len(second)):
        raise ValueError(
            f"a names {len(first)} groups and b {len(second)}: lists are compared pair by pair and must be of one "
            "length, or one of them a single label."
        )
    first, second = np.broadcast_arrays(first, second)
    alike = np.flatnonzero(first == second)
    if len(alike):
        raise ValueError(f"The group {shown(labels[first[alike[0]]])} is compared with itself. Name two groups.")
    return first, second


def _positions(asked: Any, labels: np.ndarray, name: str) -> np.ndarray:
    several = isinstance(asked, list | np.ndarray | pd.Series | pd.Index)
    wanted = list(asked) if several else [asked]
    if not wanted:
        raise ValueError(f"An empty list of groups of {name!r} was given; name at least one.")
    position = label_index(labels, name).get_indexer(pd.Index(wanted, tupleize_cols=False))
    unknown = [label for label, at in zip(wanted, position, strict=True) if at < 0]
    if unknown:
        raise ValueError(
            f"{quoted(unknown, LISTED)} {'are' if len(unknown) > 1 else 'is'} no group of {name!r} that fit has seen; "
            f"its groups are {quoted(labels, LISTED)}."
        )
    return position
