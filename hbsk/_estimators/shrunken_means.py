"""How JamesSteinEstimator reads rows, and what a fit of it leaves behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator

from hbsk._base import GroupRoutingMixin, LearntMeans, learnt_by, require_standard_error
from hbsk._data.rows import Rows, numeric_columns, read_rows
from hbsk._data.table import read_table
from hbsk._estimators.answers import ShrunkenAnswersMixin
from hbsk._estimators.comparisons import ShrunkenComparisonsMixin
from hbsk._messages import warn, warn_of_no_groups, warn_of_redundant_columns
from hbsk._shrinkage.linear_predictor import shrink_regression
from hbsk._shrinkage.predictions import fitted_means, fitted_slopes
from hbsk._shrinkage.shrunken_groups import shrink_groups
from hbsk.exceptions import ShrinkageWarning


class ShrunkenMeansBase(GroupRoutingMixin, ShrunkenComparisonsMixin, ShrunkenAnswersMixin, BaseEstimator):
    """Base of `JamesSteinEstimator`, whose file tells fit and predict."""

    method: str
    target: Any
    between_group_variance: Any
    positive_part: bool
    unknown_groups: str

    def _shrink_means(self, rows: Rows) -> Self:
        assert rows.y is not None  # reading training rows has made sure of it
        (factor,), (codes,) = rows.factors, rows.codes
        factor = replace(factor, columns=("1",), terms=(f"1|{factor.name}",), blocks=((0,),))
        names = numeric_columns(rows, type(self).__name__) if self.target == "regression" else []
        learnt = shrink_groups(
            codes,
            factor.n_groups,
            rows.y,
            rows.sample_weight,
            rows.standard_error,
            [rows.features.numbers(name) for name in names],
            method=self.method,
            target=self.target,
            between_group_variance=self.between_group_variance,
            positive_part=self.positive_part,
        )
        groups, means = learnt.groups, learnt.means
        if means.why_not:
            warn(f"Group means are returned as they are: {means.why_not}.", ShrinkageWarning)
        else:
            warn_of_redundant_columns(names, learnt.redundant)
        fitted = fitted_means(learnt)
        variance_by = self.between_group_variance if isinstance(self.between_group_variance, str) else "given"
        known, target = rows.standard_error is not None, str(self.target)
        self._learnt = LearntMeans((factor,), tuple(names), known, fitted, self.method, target, variance_by)
        self.groups_ = {factor.name: factor.labels}
        self.group_sizes_ = groups.counts
        self.group_means_ = groups.means
        self.theta_, self.theta_sd_ = fitted.theta, fitted.theta_sd
        self.target_: np.ndarray | float = (
            learnt.target if self.target == "regression" else float(fitted.predictor.coef[0])
        )
        self.between_group_variance_ = means.tau2
        if self.method == "sure":
            self.sure_variance_ = means.sure_tau2
        self._name_parameters()
        return self

    def _shrink_slopes(self, rows: Rows) -> Self:
        """Fit without groups: least squares, its slopes shrunken towards zero."""
        warn_of_no_groups()
        assert rows.y is not None
        names = numeric_columns(rows, type(self).__name__)
        learnt = shrink_regression(
            [rows.features.numbers(c) for c in names],
            rows.y,
            rows.sample_weight,
            rows.standard_error,
            positive_part=self.positive_part,
        )
        if learnt.rank < 3 or learnt.nu <= 0:
            reason = "fewer than 3 slopes" if learnt.rank < 3 else "no degrees of freedom for the residual variance"
            warn(f"Slopes are returned as least squares has them: {reason}.", ShrinkageWarning)
        fitted = fitted_slopes(learnt)
        known = rows.standard_error is not None
        self._learnt = LearntMeans((), tuple(names), known, fitted, "james-stein", "zero", "given")
        self.groups_ = {}
        for name in ("group_sizes_", "group_means_", "theta_", "theta_sd_"):
            setattr(self, name, np.empty(0))
        self.slope_shrinkage_ = learnt.factor
        self.target_ = self.between_group_variance_ = np.nan
        self._name_parameters()
        return self

    def _name_parameters(self) -> None:
        means = self._learnt.means
        self.sigma2_, self.sigma_ = means.sigma2, float(np.sqrt(means.sigma2))
        if self.target == "regression" or not self.groups_:  # else RFE and its like would take no slopes for slopes
            self.coef_, self.intercept_ = means.predictor.slopes, means.predictor.intercept
            self.coef_names_ = list(self._learnt.columns)

    def _read(self, X, groups, standard_error, what=None):
        """Read new rows: (columns of the target, number of rows, codes), and their noise; `what` needs the noise."""
        learnt = learnt_by(self)
        rows = read_rows(
            read_table(self, X, reset=False, groups=groups),
            groups,
            name=type(self).__name__,
            factors=learnt.factors,
            unknown_groups=self.unknown_groups,
            standard_error=standard_error,
        )
        if what is not None or standard_error is not None:
            require_standard_error(self, standard_error, what)
        columns = [rows.features.numbers(name) for name in learnt.columns]
        known = rows.standard_error
        noise = np.full(rows.n_rows, learnt.means.sigma2) if known is None else np.square(known)
        return (columns, rows.n_rows, rows.codes[0] if rows.codes else None), noise

    def _mark_unknown(self, answer: np.ndarray, codes: np.ndarray | None) -> np.ndarray:
        if codes is not None and self.unknown_groups == "nan":
            answer[codes >= len(self.theta_)] = np.nan
        return answer
