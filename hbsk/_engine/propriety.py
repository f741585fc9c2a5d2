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
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from hbsk._engine.group_algebra import ROUNDING, between_groups, rotate_groups

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
    intercept : int or None
        The varying intercept, whose sd at zero holds those of the columns in ``through``.
    through : tuple of int
    """

    sets: tuple[GrowingSds, ...] = ()
    flat: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    to_prior: np.ndarray | None = None
    intercept: int | None = None
    through: tuple[int, ...] = ()

    def of_sigma(self) -> float:
        """Return the order below which moments of sigma exist (infinite where all that are reported do)."""
        return min((each.degrees for each in self.sets if each.has_sigma), default=np.inf)

    def of_group_sds(self, n_varying: int) -> np.ndarray:
        """Return the order below which moments of the sd of each varying column exist."""
        degrees = np.array(
            [min((s.degrees for s in self.sets if k in s.columns), default=np.inf) for k in range(n_varying)]
        )
        for k in self.through:
            degrees[self.intercept] = min(degrees[self.intercept], degrees[k])
        return degrees


def tail_degrees(prior) -> float:
    """Return nu of the tail ``x^-(nu + 1)`` of a prior density; infinite where it falls faster or the sd is fixed."""
    degrees: Any = TAIL_DEGREES.get(getattr(prior, "family", ""), np.inf)
    return float(prior.params[degrees] if isinstance(degrees, str) else degrees)


def posterior_tails(model, names: Sequence[str] | None = None, informed_by: Callable[..., int] | None = None) -> Tails:
    """Return the sets of sds whose second moments do not exist.

    Parameters
    ----------
    model : MarginalModel
        With the varying columns that the priors on group sds refer to.
    names : sequence of str, optional
        Of the varying terms, for messages.
    informed_by : callable, optional
        What counts the contrasts that inform sds; `n_informed` by default, for one grouping factor.

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
    n_flat = int(flat.sum())
    whitened = _whitening(sums.xx[:-1, :-1][np.ix_(flat, flat)])
    if whitened.shape[1] < n_flat:
        raise ImproperPosteriorError(
            f"The posterior is improper: {n_flat} coefficients have Flat priors, but their columns have rank "
            f"{whitened.shape[1]}, so that the data do not tell them apart. Give them Normal priors, or leave columns "
            "out."
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
    return Tails(tuple(each for each in sets if each.degrees <= HIGHEST_MOMENT), flat, to_prior)


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
        size = np.abs(z) @ np.abs(tails.to_prior)
        sums, z = sums.mixed(tails.to_prior), z @ tails.to_prior
        z = np.where(np.abs(z) <= ROUNDING * size, 0.0, z)
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
