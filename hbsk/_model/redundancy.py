"""Common columns that say what others say already, found in the sums of a fit."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack

from hbsk._engine.fit import COLUMNS_FOR_THREADS
from hbsk._engine.sums import CentredSums, GroupSums, Moments
from hbsk._engine.threads import one_thread_each
from hbsk._messages import quoted, warn
from hbsk._model.specification import Specification
from hbsk.exceptions import RedundantColumnsWarning

# A column is redundant where others leave this share of its square or less: far more than the 3e-14 that rounding was
# seen to leave, and far less than what data can tell from a prior.
REDUNDANT = 1e-11
# Columns explain y to the last digit where they leave this share of its square.
SATURATED = 1e-10
# Coefficients, and a constant, below this share of the largest are rounding: of a sum of columns they are all 1.
ZERO = 1e-5
_SHOWN_RELATIONS, _SHOWN_COLUMNS = 3, 6
_INTERCEPT = "the intercept"


def warn_redundant_columns(specification: Specification, collected: CentredSums, n_rows: int, *, pooled: bool) -> None:
    """Warn of common columns that others, or the groups, make redundant.

    Parameters
    ----------
    specification : Specification
    collected : CentredSums
        Over the groups of the first factor.
    n_rows : int
    pooled : bool
        Whether groups have a distribution, whose sd columns that tell all groups apart leave to its prior.
    """
    moments, has_intercept = collected.moments, specification.has_intercept
    varies = moments.x_sd > 0 if has_intercept else np.hypot(moments.x_mean, moments.x_sd) > 0
    varies[:1] |= has_intercept
    kept = np.flatnonzero(varies)
    # More columns than rows are a choice, which priors make good.
    if len(kept) < 1 + has_intercept or len(kept) >= n_rows:
        return
    with one_thread_each() if len(kept) >= COLUMNS_FOR_THREADS else nullcontext():
        basis, relations = find_relations(collected.sums.xx, kept, has_intercept)
        if relations is None:
            return
        texts = _of_columns(specification, moments, relations) if relations else []
        for factor in specification.factors[:1]:
            ones = factor.columns.index("1") if "1" in factor.columns else None
            if pooled and ones is not None and columns_tell_groups_apart(collected.sums, basis, ones):
                texts.append(_of_groups(factor.name, collected.sums.n_groups))
    if texts:
        warn(f"Redundant columns: {' '.join(texts)}", RedundantColumnsWarning)


def _of_columns(specification: Specification, moments: Moments, relations: list[Relation]) -> list[str]:
    described = [_describe(specification, moments, relation) for relation in relations]
    more = f"; and {len(described) - _SHOWN_RELATIONS} more" if len(described) > _SHOWN_RELATIONS else ""
    texts = [
        f"{'; '.join(described[:_SHOWN_RELATIONS])}{more}. What they share is told apart by priors, not by data: sds "
        "of their coefficients are wide and depend on how columns are coded (predictions do not)."
    ]
    if any(_INTERCEPT in text for text in described):
        texts.append(
            "So do sds of the intercept and of groups' levels. Drop one of the columns (OneHotEncoder(drop='first')), "
            "or pass the text column itself, which is coded so."
        )
    else:
        texts.append("Drop one of them.")
    return texts


def _of_groups(name: str, n_groups: int) -> str:
    return (
        f"Together the common columns tell all {n_groups} groups of {name!r} apart, which leaves no difference between "
        f"groups to learn the sd of '1|{name}' from: it is that of its prior. Drop columns that name single groups, "
        f"keep fewer columns of group level than there are groups, or leave (1 | {name}) out."
    )


@dataclass(frozen=True)
class Relation:
    """A sum of columns, each times a number, that is constant.

    Attributes
    ----------
    columns : ndarray of shape (m,), dtype int
        Common columns, the intercept left out, in their order.
    coefficients : ndarray of shape (m,)
    """

    columns: np.ndarray
    coefficients: np.ndarray


def find_relations(xx: np.ndarray, kept: np.ndarray, has_intercept: bool) -> tuple[np.ndarray, list[Relation] | None]:
    """Find common columns that are linear combinations of others, by a pivoted Cholesky factor.

    Parameters
    ----------
    xx : ndarray of shape (p + 1, p + 1)
        Products of the common columns, the response last.
    kept : ndarray of int
        Columns to look at, the intercept first.
    has_intercept : bool
        Whether the first column is the intercept, which every column may hold.

    Returns
    -------
    basis : ndarray of shape (rank,), dtype int
        Columns none of which is a combination of the others.
    relations : list of Relation, or None
        One for each other column. None where the columns explain y to the last digit: there are as many of them as rows
        that differ, and priors make the model.
    """
    start = int(has_intercept)
    columns = kept[start:]
    both = np.append(columns, len(xx) - 1)
    within = xx[both][:, both]
    if has_intercept:
        within = within - xx[both, :1] * (xx[0, both] / xx[0, 0])
    size = np.sqrt(np.maximum(within.diagonal(), 0.0))
    size[size == 0] = 1.0
    within = within / (size[:, None] * size)
    factor, pivots, rank, _ = lapack.dpstrf(within[:-1, :-1], tol=REDUNDANT, lower=0)
    basis, redundant = pivots[:rank] - 1, np.sort(pivots[rank:] - 1)
    upper = factor[:rank, :rank]
    reached = _solved(upper, within[basis, -1], trans=1)
    independent = np.append(kept[:start], columns[basis])
    if within[-1, -1] - reached @ reached <= SATURATED:
        return independent, None
    if not len(redundant):
        return independent, []
    weights = _solved(upper, _solved(upper, within[np.ix_(basis, redundant)], trans=1))
    relations = []
    for column, weight in zip(redundant, weights.T, strict=True):
        used = np.abs(weight) > ZERO * np.max(np.abs(weight))
        members, coefficients = np.append(basis[used], column), np.append(-weight[used], 1.0)
        order = np.argsort(members)
        members = members[order]
        relations.append(Relation(columns[members], coefficients[order] / size[members]))
    return independent, relations


def _solved(triangle: np.ndarray, right: np.ndarray, **options: int) -> np.ndarray:
    """Solve a triangular system, the other half of whose matrix is not looked at.

    LAPACK's own routine: what scipy.linalg looks up around it takes as long as all else that is done to few columns.
    """
    return lapack.dtrtrs(triangle, right, **options)[0] if len(triangle) else right


def columns_tell_groups_apart(sums: GroupSums, basis: np.ndarray, k: int) -> bool:
    """Tell whether the indicator of every group is a combination of common columns.

    Parameters
    ----------
    sums : GroupSums
    basis : ndarray of int
        Independent common columns.
    k : int
        The varying column of ones.
    """
    if not 1 < sums.n_groups <= len(basis):
        return False
    size = np.sqrt(np.diag(sums.xx)[basis])
    root = np.linalg.cholesky(sums.xx[np.ix_(basis, basis)] / np.outer(size, size))
    reached = _solved(root, sums.zx[k, basis] / size[:, None], lower=1)
    share = np.sum(reached**2, axis=0) / sums.zz[k, k]
    return bool(np.all(share >= 1 - ZERO**2))


def _describe(specification: Specification, moments: Moments, relation: Relation) -> str:
    """Say what adds up to what."""
    columns, coefficients = relation.columns, relation.coefficients
    parts = coefficients * moments.x_mean[columns]
    size = np.abs(coefficients) * np.hypot(moments.x_mean[columns], moments.x_sd[columns])
    is_zero = abs(np.sum(parts)) <= ZERO * np.sum(size)
    text = quoted((specification.common_columns[k] for k in columns), _SHOWN_COLUMNS)
    if np.ptp(coefficients) <= ZERO * np.max(np.abs(coefficients)):
        return f"{text} add up to {'zero' if is_zero else _INTERCEPT}"
    if len(columns) == 2:
        return f"{text} are one column in two units"
    return f"{text}{'' if is_zero else f' and {_INTERCEPT}'} are combinations of each other"
