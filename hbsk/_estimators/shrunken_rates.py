"""The methods of JamesSteinEstimator that shrink rates: counts over exposure, and successes out of trials."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import numpy as np

from hbsk._base import LearntMeans, generator, learnt_by, require_size
from hbsk._data.checks import check_target, check_weights
from hbsk._data.responses import (
    SIZE_OF,
    as_counts,
    check_counts,
    check_whole_trials,
    read_sizes,
    refuse_size_of_means,
)
from hbsk._data.rows import NO_NAN, Rows, read_rows
from hbsk._data.suspicions import warn_of_order
from hbsk._data.table import read_table
from hbsk._messages import shown, warn, warn_of_no_groups
from hbsk._posterior.deviances import explained_deviance
from hbsk._shrinkage.rates import FittedRates, fitted_rates
from hbsk.exceptions import ShrinkageWarning

METHODS_OF_FAMILIES = {"binomial": "beta-binomial", "poisson": "gamma-poisson"}
FAMILIES = {method: family for family, method in METHODS_OF_FAMILIES.items()}


class ShrunkenRatesMixin:
    """What `JamesSteinEstimator` does with ``method="beta-binomial"`` and ``"gamma-poisson"``."""

    method: str
    target: Any
    between_group_variance: Any
    positive_part: bool
    unknown_groups: str
    _learnt: LearntMeans

    def _read_sizes(self, n_rows: int, exposure: Any, trials: Any) -> np.ndarray | None:
        """Return what fit was given of exposure or trials; an error where the method has none."""
        family = FAMILIES.get(self.method)
        if family is None:
            for argument, value in (("exposure", exposure), ("trials", trials)):
                if value is not None:
                    owner = "gamma-poisson" if argument == "exposure" else "beta-binomial"
                    raise ValueError(
                        f"{argument}= was given with method={self.method!r}, which shrinks means. Leave it out, or set "
                        f"method={owner!r}."
                    )
            return None
        return read_sizes(exposure, trials, n_rows, family, type(self).__name__, "method", METHODS_OF_FAMILIES)

    def _check_options_of_rates(self, standard_error: Any) -> None:
        """Refuse parameters that mean nothing for rates."""
        due = {"target": "mean", "positive_part": True, "between_group_variance": "reml"}
        for name, value in due.items():
            given = getattr(self, name)
            if given is not value and given != value:
                raise ValueError(
                    f"{name}={shown(given)} cannot be combined with method={self.method!r}, whose law between groups "
                    f"has a mean and a kappa of its own. Leave it at {value!r}."
                )
        if standard_error is not None:
            raise ValueError(
                f"standard_error= was given with method={self.method!r}, where {SIZE_OF[FAMILIES[self.method]]} say "
                "how well a rate is known. Leave it out, or shrink means by method='empirical-bayes'."
            )

    def _shrink_rates(self, rows: Rows, sized_by: str) -> Self:
        """Fit the law between groups."""
        family = FAMILIES[self.method]
        rows = as_counts(rows, family)
        assert rows.y is not None
        copies = np.ones(rows.n_rows) if rows.sample_weight is None else rows.sample_weight
        size = copies if rows.size is None else copies * rows.size
        factors: tuple = ()
        codes, n_groups = np.zeros(rows.n_rows, dtype=np.int64), 1
        if rows.factors:
            (factor,), (codes,) = rows.factors, rows.codes
            factors = (replace(factor, columns=("1",), terms=(f"1|{factor.name}",), blocks=((0,),)),)
            n_groups = factor.n_groups
        else:
            warn_of_no_groups()
        size = np.bincount(codes, weights=size, minlength=n_groups)
        # Of weights the sums may be a rounding error off.
        events = np.bincount(codes, weights=copies * rows.y, minlength=n_groups)
        events = np.minimum(events, size) if family == "binomial" else events
        fitted, why_not = fitted_rates(events, size, family)
        if why_not and factors:
            warn(f"Rates are returned as they are: {why_not}.", ShrinkageWarning)
        self._learnt = LearntMeans(factors, (), False, fitted, self.method, "mean", self.method, family, sized_by)
        part = slice(None) if factors else slice(0)
        self.groups_ = {factor.name: factor.labels for factor in factors}
        self.group_sizes_ = size[part]
        self.group_means_ = (events / size)[part]
        self.theta_, self.theta_sd_ = fitted.theta[part], fitted.theta_sd[part]
        self.target_: np.ndarray | float = fitted.target
        self.kappa_ = fitted.kappa
        self.between_group_variance_ = fitted.between_group_variance if factors else np.nan
        self.sigma2_ = self.sigma_ = np.nan
        return self

    def _rates(self) -> FittedRates | None:
        """Return what a fit of rates left behind; None after a fit of means."""
        means = learnt_by(self).means
        return means if isinstance(means, FittedRates) else None

    def _read_rates(self, X, groups, standard_error=None, *, must_answer=False):
        """Read new rows: (their codes, and the table)."""
        learnt = learnt_by(self)
        if standard_error is not None:
            raise ValueError(
                f"standard_error= was given, but the rates were fitted by method={learnt.method!r}. Leave it out."
            )
        table = read_table(self, X, reset=False, groups=groups)
        policy = NO_NAN if must_answer and self.unknown_groups == "nan" else self.unknown_groups
        rows = read_rows(table, groups, name=type(self).__name__, factors=learnt.factors, unknown_groups=policy)
        return rows.codes[0] if rows.codes else np.zeros(rows.n_rows, dtype=np.int64)

    def _sizes_of_rows(self, X, n_rows, exposure, trials, what):
        """Return exposure or trials of new rows, ones where fit had none; an error where fit had them."""
        learnt = learnt_by(self)
        warn_of_order(X, [("exposure", exposure), ("trials", trials)])
        name = type(self).__name__
        size = read_sizes(exposure, trials, n_rows, learnt.family, name, "method", METHODS_OF_FAMILIES)
        require_size(self, size, what)
        return np.ones(n_rows) if size is None else size

    def _whole_sizes_of_rows(self, X, n_rows, exposure, trials, what):
        size = self._sizes_of_rows(X, n_rows, exposure, trials, what)
        if learnt_by(self).family == "binomial":
            check_whole_trials(size, what)
        return size

    def _mark_unknown_rates(self, answer, codes):
        if self.unknown_groups == "nan" and self._learnt.factors:
            answer[codes >= len(self.theta_)] = np.nan
        return answer

    def _predict_rates(self, rates, X, groups, return_std, standard_error):
        if return_std:
            raise ValueError(
                f"return_std=True asks for the sd of a new observation, which by method={self._learnt.method!r} is a "
                "count. Ask for predict_interval; the sds of the rates themselves are theta_sd_."
            )
        codes = self._read_rates(X, groups, standard_error)
        return self._mark_unknown_rates(rates.mean(codes), codes)

    def _interval_of_rates(self, rates, X, groups, coverage, kind, standard_error, exposure, trials):
        codes = self._read_rates(X, groups, standard_error)
        if kind == "mean":
            refuse_size_of_means(exposure, trials)
            return self._mark_unknown_rates(rates.interval(codes, coverage), codes)
        size = self._whole_sizes_of_rows(X, len(codes), exposure, trials, "kind='prediction'")
        return self._mark_unknown_rates(rates.count_interval(codes, size, coverage), codes)

    def _sample_counts(self, rates, X, groups, n_samples, standard_error, exposure, trials, random_state):
        codes = self._read_rates(X, groups, standard_error)
        size = self._whole_sizes_of_rows(X, len(codes), exposure, trials, "sample_y")
        draws = rates.draw_counts(codes, size, n_samples, generator(random_state))
        return self._mark_unknown_rates(draws, codes)

    def _score_rates(self, rates, X, y, sample_weight, groups, exposure, trials):
        learnt, name = learnt_by(self), type(self).__name__
        codes = self._read_rates(X, groups, must_answer=True)
        size = self._sizes_of_rows(X, len(codes), exposure, trials, "score")
        y = check_target(y, len(codes), name)
        check_counts(y, size if exposure is not None or trials is not None else None, learnt.family)
        weight = check_weights(sample_weight, len(y), name, are_sizes=True)
        return explained_deviance(learnt.family, y, rates.mean(codes), size, weight)
