"""Which posteriors exist, and which of their moments: one condition for both, by ranks.

Only prior densities with power tails matter, ``p(tau) ~ tau^-(nu + 1)``: HalfFlat (nu = -1), HalfCauchy (1),
HalfStudentT (nu), InverseGamma (alpha); all others fall faster. Let S be a set of such sds, all of them growing as t.
Of the n - f contrasts of y that flat coefficients leave (f of them, columns X_F), r(S) then have variances that grow
as t^2, so that the likelihood falls as t^-r(S):

    r(S) = n - f                             if sigma is in S
    r(S) = rank [X_F, Z_S] - rank X_F        otherwise; Z_S are the varying columns of S, group by group,

so only groups in which a column varies, beyond what flat coefficients take up, inform its sd. The determinant of the
covariance of these contrasts is a polynomial in the squared sds with coefficients that are not negative, so every other
way to infinity is a product of such ways, and with

    degrees(S) = sum_S nu + r(S)

1. the posterior is proper if and only if X_F has full column rank and degrees(S) > 0 for every S,
2. E[tau_k^m | y] exists if and only if degrees(S) > m for every S with k in S (sigma likewise),
3. the second moment of a coefficient or row ``x'b + z'u_j`` exists if and only if degrees(S) > 2 for every S for which
   it is not estimable in the design [X_F, Z_S] (for sigma in S: for which it contains any part of b_F or u_S); where it
   is estimable its conditional variance stays bounded as S grows.

Effects are taken as independent here. LKJ priors with eta < 1 put mass near correlations of one, where fewer contrasts
grow; the likelihood falls no slower than that of the least of the sds there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from hbsk._engine.group_algebra import ROUNDING, between_groups, rotate_groups
from hbsk._engine.sums import GroupSums

# Degrees of freedom of the power tails of priors on sds, or the argument that holds them.
TAIL_DEGREES = {"HalfFlat": -1.0, "HalfCauchy": 1.0, "HalfStudentT": "nu", "InverseGamma": "alpha"}
# Moments that are reported: means and variances.
HIGHEST_MOMENT = 2.0
# Share of a direction's square that is none.
RANK = 1e-10


class ImproperPosteriorError(ValueError):
    """A posterior that cannot be normalised."""


@dataclass(frozen=True)
class GrowingSds:
    """Sds that may be so large together that second moments do not exist.

    Attributes
    ----------
    columns : tuple of int
        Varying columns.
    has_sigma : bool
        Whether the residual sd is one of them.
    degrees : float
        Moments of lower order exist.
    """

    columns: tuple[int, ...]
    has_sigma: bool
    degrees: float


@dataclass(frozen=True)
class Tails:
    """Sets of sds without all second moments.

    Attributes
    ----------
    sets : tuple of GrowingSds
    flat : ndarray of bool
        Common columns of the engine with flat priors.
    to_prior : ndarray of shape (q, q) or None
        The varying columns that the priors are stated for are those of the engine times this.
    through : tuple of (int, int)
        Varying intercepts, whose sd at zero holds that of another column, and these columns.
    means : tuple of int
        Varying columns whose effects have a mean with a flat prior; they are common columns as well.
    """

    sets: tuple[GrowingSds, ...] = ()
    flat: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    to_prior: np.ndarray | None = None
    through: tuple[tuple[int, int], ...] = ()
    means: tuple[int, ...] = ()

    def of_sigma(self) -> float:
        """Return the order below which moments of sigma exist (infinite where all that are reported do)."""
        return min((each.degrees for each in self.sets if each.has_sigma), default=np.inf)

    def of_group_sds(self, n_varying: int) -> np.ndarray:
        """Return the order below which moments of the sd of each varying column exist."""
        degrees = np.array(
            [min((s.degrees for s in self.sets if k in s.columns), default=np.inf) for k in range(n_varying)]
        )
        for intercept, k in self.through:
            degrees[intercept] = min(degrees[intercept], degrees[k])
        return degrees


def tail_degrees(prior) -> float:
    """Return nu of the tail ``x^-(nu + 1)`` of a prior density; infinite where it falls faster or the sd is fixed."""
    degrees: Any = TAIL_DEGREES.get(getattr(prior, "family", ""), np.inf)
    return float(prior.params[degrees] if isinstance(degrees, str) else degrees)


def posterior_tails(
    model,
    names: Sequence[str] | None = None,
    informed_by: Callable[..., int] | None = None,
    with_means: Callable[..., Any] | None = None,
    means: Sequence[int] = (),
) -> Tails:
    """Return the sets of sds whose second moments do not exist.

    Parameters
    ----------
    model : MarginalModel
        With the varying columns that the priors on group sds refer to.
    names : sequence of str, optional
        Of the varying terms, for messages.
    informed_by : callable, optional
        What counts the contrasts that inform sds; `n_informed` by default, for one grouping factor.
    with_means : callable, optional
        What makes varying columns common ones as well; `with_common_means` by default, for one grouping factor.
    means : sequence of int, optional
        Varying columns whose effects have a mean with a flat prior.

    Raises
    ------
    ImproperPosteriorError
        Where the posterior has no finite mass.
    """
    flat = np.asarray(model.prior_precision) == 0
    sums, parameters = model.sums, model.parameters
    to_prior = None if parameters.location is None else parameters.location.prior_columns
    if to_prior is not None:
        sums = sums.mixed(to_prior)
    if means:
        sums = (with_common_means if with_means is None else with_means)(sums, means)
        flat = np.append(flat, np.ones(len(means), dtype=bool))
    n_flat = int(flat.sum())
    whitened = _whitening(sums.xx[:-1, :-1][np.ix_(flat, flat)])
    if whitened.shape[1] < n_flat:
        raise ImproperPosteriorError(
            f"The posterior is improper: {n_flat} {'coefficients and means of effects' if means else 'coefficients'} "
            f"have Flat priors, but their columns have rank {whitened.shape[1]}, so that the data do not tell them "
            "apart. Give them Normal priors, or leave columns out."
        )
    nu = [tail_degrees(prior) for prior in parameters.group_sd]
    heavy = [k for k, degrees in enumerate(nu) if degrees <= HIGHEST_MOMENT]
    of_sigma = tail_degrees(parameters.residual_sd) if parameters.sigma_is_free else np.inf
    n_improper_priors = sum(nu[k] < 0 for k in heavy) + (of_sigma < 0)
    informed_by = n_informed if informed_by is None else informed_by
    alone = {k: informed_by((k,), sums, flat, whitened) for k in heavy}
    sets = []
    for size in range(len(heavy) + 1):
        for columns in combinations(heavy, size):
            total = sum(nu[k] for k in columns)
            if of_sigma <= HIGHEST_MOMENT:
                sets.append(GrowingSds(columns, True, total + of_sigma + sums.n - n_flat))
            most = max((alone[k] for k in columns), default=np.inf)
            if most - n_improper_priors > HIGHEST_MOMENT:
                continue  # more columns are informed by no fewer contrasts
            informed = most if size == 1 else informed_by(columns, sums, flat, whitened)
            sets.append(GrowingSds(columns, False, total + informed))
    for each in sets:
        if each.degrees <= 0:
            raise ImproperPosteriorError(_why_improper(each, nu, of_sigma, names))
    found = tuple(each for each in sets if each.degrees <= HIGHEST_MOMENT)
    return Tails(found, flat, to_prior, means=tuple(means))


def at_zero(tails: Tails, centre: np.ndarray | None, intercepts: Sequence[int | None], sizes: Sequence[int]) -> Tails:
    """Return the tails of effects at zero, of priors stated at another point: intercepts there hold slopes.

    Parameters
    ----------
    tails : Tails
    centre : ndarray of shape (q,) or None
        The point, of all factors.
    intercepts : sequence of (int or None), one per factor
        Which of its columns is 1 everywhere.
    sizes : sequence of int
        Number of varying columns of each factor.
    """
    if centre is None or not tails.sets:
        return tails
    through: list[tuple[int, int]] = []
    start = 0
    for intercept, size in zip(intercepts, sizes, strict=True):
        if intercept is not None:
            through += [(start + intercept, start + int(k)) for k in np.flatnonzero(centre[start : start + size])]
        start += size
    return replace(tails, through=tuple(through))


def with_common_means(sums: GroupSums, means: Sequence[int]) -> GroupSums:
    """Return the sums with varying columns as common columns too, which stand behind those that there are."""
    at = np.array(means, dtype=int)
    of_x = sums.zx[at].sum(axis=2)
    xx = bordered(sums.xx, of_x, sums.zz[np.ix_(at, at)].sum(axis=2))
    return replace(sums, xx=xx, zx=_before_response(sums.zx, sums.zz[:, at]))


def bordered(xx: np.ndarray, of_x: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Return products (p + k + 1, p + k + 1) of common columns, k more and the response.

    Parameters
    ----------
    xx : ndarray of shape (p + 1, p + 1)
    of_x : ndarray of shape (k, p + 1)
        Products of the columns that are added with those that there are.
    within : ndarray of shape (k, k)
    """
    p = len(xx) - 1
    order = [*range(p), *range(p + 1, p + 1 + len(within)), p]
    return np.block([[xx, of_x.T], [of_x, within]])[np.ix_(order, order)]


def _before_response(zx, added):
    return np.concatenate([zx[:, :-1], added, zx[:, -1:]], axis=1)


def _why_improper(growing: GrowingSds, nu, of_sigma, names) -> str:
    named = [f"the sd of {names[k]!r}" if names else f"the sd of varying column {k}" for k in growing.columns]
    flat = [name for name, k in zip(named, growing.columns, strict=True) if nu[k] < 0]
    flat += ["sigma"] if growing.has_sigma and of_sigma < 0 else []
    informed = growing.degrees - sum(nu[k] for k in growing.columns) - (of_sigma if growing.has_sigma else 0.0)
    it, is_are = ("it", "has") if len(flat) == 1 else ("them", "have")
    return (
        f"The posterior is improper: {' and '.join(flat)} {is_are} a HalfFlat prior, and of the data {informed:g} "
        f"degrees of freedom beyond those of Flat coefficients inform {it}, where more than {len(flat)} are "
        "needed. Use a proper prior, such as HalfNormal or HalfCauchy; more groups that differ, or more rows, would do "
        "as well."
    )


def _whitening(products):
    """Return W with ``W' G W = I`` on the range of products G; as many columns as the rank."""
    if not len(products):
        return np.zeros((0, 0))
    size = np.sqrt(np.where(np.diag(products) > 0, np.diag(products), 1.0))
    values, vectors = np.linalg.eigh(products / np.outer(size, size))
    kept = values > RANK
    return vectors[:, kept] / np.sqrt(values[kept]) / size[:, None]


def _reduced(columns, sums, flat, whitened):
    """Return ``L_j``, ``L_j^-1 Z_S' X_F`` and the whitened products of X_F less what Z_S takes up."""
    at = np.array(columns, dtype=int)
    lower, rotated = rotate_groups(sums.zz[np.ix_(at, at)], sums.zx[at][:, :-1][:, flat])
    left = sums.xx[:-1, :-1][np.ix_(flat, flat)]
    if flat.any():
        left = left - between_groups(rotated)
    return lower, rotated, whitened.T @ left @ whitened


def n_informed(columns, sums, flat, whitened) -> int:
    """Return ``rank [X_F, Z_S] - rank X_F``."""
    lower, _, left = _reduced(columns, sums, flat, whitened)
    rank = int(np.count_nonzero(np.einsum("kkj->kj", lower)))
    return rank + int(np.sum(np.linalg.eigvalsh(left) > RANK)) - len(left)


def rows_degrees(tails: Tails, sums, x, z, codes) -> np.ndarray:
    """Return the order below which moments of ``x'b + z'u`` exist, (n_rows,); infinite where all that are reported do.

    Parameters
    ----------
    tails : Tails
    sums : GroupSums
    x : ndarray of shape (n_rows, p)
        In the units of the engine, like z.
    z : ndarray of shape (n_rows, q)
    codes : ndarray of shape (n_rows,)
        A code that is not below the number of groups is a new group.
    """
    degrees = np.full(len(x), np.inf)
    if not tails.sets:
        return degrees
    if tails.to_prior is not None:
        sums, z = sums.mixed(tails.to_prior), at_prior(tails, z)
    if tails.means:
        sums, x = with_common_means(sums, tails.means), np.concatenate([x, z[:, list(tails.means)]], axis=1)
    flat = tails.flat
    whitened = _whitening(sums.xx[:-1, :-1][np.ix_(flat, flat)])
    of_flat = x[:, flat] @ whitened
    size = np.maximum(np.sum(of_flat**2, axis=1), 1e-300)
    for growing in tails.sets:
        at = np.array(growing.columns, dtype=int)
        touched = np.any(z[:, at] != 0, axis=1)
        if growing.has_sigma:
            unbounded = touched | np.any(x[:, flat] != 0, axis=1)
        else:
            lower, rotated, left = _reduced(growing.columns, sums, flat, whitened)
            values, vectors = np.linalg.eigh(left)
            absorbed = vectors[:, values <= RANK]
            known = codes < sums.n_groups
            seen, through = _through_group(lower, rotated, z[:, at], np.where(known, codes, 0))
            through = np.where(known[:, None], through, 0.0) @ whitened
            along = (of_flat - through) @ absorbed
            scale = size + np.sum(through**2, axis=1)
            unbounded = (touched & ~(known & seen)) | (np.sum(along**2, axis=1) > np.sqrt(RANK) * scale)
        degrees = np.where(unbounded, np.minimum(degrees, growing.degrees), degrees)
    return degrees


def at_prior(tails: Tails, z: np.ndarray) -> np.ndarray:
    """Return varying columns of rows, (n_rows, q), as the priors on sds have them; zero where they cancel."""
    if tails.to_prior is None:
        return z
    size = np.abs(z) @ np.abs(tails.to_prior)
    mixed = z @ tails.to_prior
    return np.where(np.abs(mixed) <= ROUNDING * size, 0.0, mixed)


def _through_group(lower, rotated, z, codes):
    """Tell which z lie in the range of ``A_j``, and return ``z' A_j^+ Z_j' X_F``; ``A_j = L_j L_j'``."""
    n_rows, size = z.shape
    # z = L c by forward substitution; then z' A^+ B = c' L^-1 B
    rest = z.copy()
    coordinates = np.zeros((n_rows, size))
    for k in range(size):
        pivot = lower[k, k, codes]
        coordinates[:, k] = np.divide(rest[:, k], pivot, out=np.zeros(n_rows), where=pivot > 0)
        rest -= lower[:, k, codes].T * coordinates[:, [k]]
    seen = np.sum(rest**2, axis=1) <= np.sqrt(RANK) * np.maximum(np.sum(z**2, axis=1), 1e-300)
    return seen, np.einsum("rk,kar->ra", coordinates, rotated[:, :, codes])
