"""Labels as numbers: shrunken means or rates of labels, from all rows or from all but those of a fold.

Rows are summed by label once. What a fold's rows hold is summed too and taken off, so that no fit looks at its training
rows again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hbsk._shrinkage.group_means import GroupMeans, summarise_groups
from hbsk._shrinkage.rates import shrink_rates
from hbsk._shrinkage.shrunken_groups import shrink_averages


class Encodings(NamedTuple):
    """What labels become; the last entry of each array is that of labels which these rows do not have.

    Parameters
    ----------
    value, sd : ndarray of shape (J + 1, C)
        Shrunken means or rates, a column for each class, and their posterior sds; NaN where an sd is not known.
    counts : ndarray of shape (J + 1,)
        Sums of weights.
    why_not : str
        Why nothing could be shrunken; empty where it could.
    """

    value: np.ndarray
    sd: np.ndarray
    counts: np.ndarray
    why_not: str


class Target(NamedTuple):
    """What is encoded.

    Parameters
    ----------
    columns : ndarray of shape (n_rows, C)
        Responses less the origin, or for each class whether a row is of it.
    origin : float
    weight : ndarray of shape (n_rows,) or None
        Number of copies of each row.
    method : {"empirical-bayes", "james-stein", "sure", "beta-binomial"}
    with_sd : bool
        Whether sds are wanted of rates, for which the posterior of their law is needed.
    """

    columns: np.ndarray
    origin: float
    weight: np.ndarray | None
    method: str
    with_sd: bool


class LabelSums:
    """Sums of the rows by label, and encodings by all of them or without some.

    Parameters
    ----------
    codes : ndarray of shape (n_rows,), int64
        Label of each row, 0..J-1, each of them there.
    n_labels : int
        J.
    target : Target
    """

    def __init__(self, codes: np.ndarray, n_labels: int, target: Target):
        self.codes, self.n_labels, self.target = codes, n_labels, target
        self.n_rows = self._sum(slice(None), None)
        weight = target.weight
        self.size = self.n_rows if weight is None else self._sum(slice(None), weight)
        if target.method == "beta-binomial":
            self.events = [self._sum(slice(None), self._weighted(column)) for column in target.columns.T]
        else:
            y = target.columns[:, 0]
            self.groups = summarise_groups(codes, n_labels, y, weight, None)
            # Around the label's mean, so that what is left when a fold goes keeps its digits.
            self.residual = y - self.groups.means[codes]
            self.squares = self._weighted(np.square(self.residual))
            self.within = float(self.squares.sum())

    def encode(self) -> Encodings:
        """Encode labels by all rows."""
        if self.target.method == "beta-binomial":
            return self._encode_rates(self.n_rows, self.size, self.events)
        return self._encode_means(self.n_rows > 0, self.groups)

    def encode_without(self, fold: np.ndarray) -> Encodings:
        """Encode labels by the rows that are not in a fold, an ndarray of row numbers."""
        n_rows = self.n_rows - self._sum(fold, None)
        weight = self.target.weight
        size = n_rows if weight is None else self.size - self._sum(fold, weight[fold])
        if self.target.method == "beta-binomial":
            events = [
                whole - self._sum(fold, self._weighted(column[fold], fold))
                for whole, column in zip(self.events, self.target.columns.T, strict=True)
            ]
            return self._encode_rates(n_rows, size, events)
        present = n_rows > 0
        gone = self._sum(fold, self._weighted(self.residual[fold], fold))[present]
        counts = size[present]
        shift = gone / counts
        within = max(self.within - float(self.squares[fold].sum()) - float(gone @ shift), 0.0)
        nu = float(counts.sum()) - len(counts)
        sigma2 = within / nu if nu > 0 and (counts > 1).any() else np.nan
        groups = GroupMeans(counts, self.groups.means[present] - shift, 1.0 / counts, sigma2, nu)
        return self._encode_means(present, groups)

    def _sum(self, rows: slice | np.ndarray, values: np.ndarray | None) -> np.ndarray:
        return np.bincount(self.codes[rows], weights=values, minlength=self.n_labels).astype(np.float64, copy=False)

    def _weighted(self, values: np.ndarray, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        return values if self.target.weight is None else values * self.target.weight[rows]

    def _empty(self, present: np.ndarray, size: np.ndarray, n_columns: int) -> tuple[np.ndarray, np.ndarray]:
        count = np.zeros(self.n_labels + 1)
        count[:-1][present] = size
        return np.empty((self.n_labels + 1, n_columns)), count

    def _encode_means(self, present: np.ndarray, groups: GroupMeans) -> Encodings:
        learnt = shrink_averages(
            groups, method=self.target.method, target="mean", between_group_variance="reml", positive_part=True
        )
        means, population = learnt.means, float(learnt.predictor.coef[0])
        value, count = self._empty(present, groups.counts, 1)
        sd = np.empty_like(value)
        value[:, 0] = population
        value[:-1, 0][present] = means.theta
        value += self.target.origin
        with np.errstate(invalid="ignore"):
            variance = means.new_tau2 + float(learnt.predictor.covariance[0, 0])
            sd[:, 0] = np.sqrt(max(variance, 0.0) if np.isfinite(variance) else np.nan)
            if self.target.with_sd:
                sd[:-1, 0][present] = np.sqrt(means.variances())
        return Encodings(value, sd, count, means.why_not)

    def _encode_rates(self, n_rows: np.ndarray, size: np.ndarray, events: list[np.ndarray]) -> Encodings:
        present = n_rows > 0
        size = size[present]
        value, count = self._empty(present, size, len(events))
        sd = np.full_like(value, np.nan)
        why_not = ""
        for c, of_class in enumerate(events):
            # Of weights the differences may be a rounding error off.
            successes = np.clip(of_class[present], 0.0, size)
            shrunken = shrink_rates(successes, size, "binomial", with_sd=self.target.with_sd)
            value[:, c] = shrunken.law.mean
            value[:-1, c][present] = shrunken.theta
            why_not = why_not or shrunken.law.why_not
            if self.target.with_sd:
                sd[:, c] = shrunken.new_sd
                sd[:-1, c][present] = shrunken.sd
        return Encodings(value, sd, count, why_not)
