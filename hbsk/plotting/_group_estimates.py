"""What the displays of groups show, read from a fitted estimator of either kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from hbsk._base import learnt_by, sized_by
from hbsk._data.checks import check_coverage
from hbsk._estimators.answers import check_only_factor, point_of, refuse_point
from hbsk._messages import interval_columns, quoted
from hbsk._posterior.group_tables import coefficient_rows, column_labels, find_term
from hbsk._posterior.summary import refuse_point_of_slope


@dataclass(frozen=True)
class GroupEstimates:
    """Estimates of one coefficient in every group of one factor.

    Parameters
    ----------
    labels : ndarray of shape (n_groups,)
        Labels of the groups, in the order of `groups_`.
    size : ndarray of shape (n_groups,)
        Rows (copies of rows) in each group, or their trials or exposure.
    no_pooling : ndarray of shape (n_groups,)
        Estimate from the group's own rows; NaN where they do not identify it.
    estimate, lower, upper : ndarray of shape (n_groups,)
        Partially pooled estimate and its interval.
    shrinkage : ndarray of shape (n_groups,)
        Weight of the group's own estimate.
    centre : ndarray of shape (n_groups,)
        What the estimates are pulled towards.
    factor, term, centre_name, size_name : str
        Name of the grouping factor, of what is estimated, of the centre, and of what the sizes count.
    """

    labels: np.ndarray
    size: np.ndarray
    no_pooling: np.ndarray
    estimate: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    shrinkage: np.ndarray
    centre: np.ndarray
    factor: str
    term: str
    centre_name: str
    size_name: str

    def of(self, groups: Iterable[Any] | None) -> GroupEstimates:
        """Return the estimates of some groups, in the order of `groups_`; None for all."""
        if groups is None:
            return self
        chosen = positions_of(groups, self.labels, self.factor)
        arrays = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(self, **{name: part[chosen] for name, part in arrays.items() if isinstance(part, np.ndarray)})


def positions_of(groups: Iterable[Any], labels: np.ndarray, factor: str) -> np.ndarray:
    """Return the positions of some labels among all, in ascending order."""
    wanted = [] if isinstance(groups, str) or not isinstance(groups, Iterable) else list(groups)
    if not wanted:
        raise ValueError(
            f"groups={groups!r}: pass a list of labels of the groups to draw, such as rank_groups(top=20).index; None "
            "draws all."
        )
    known = labels.tolist()
    if absent := [label for label in wanted if label not in known]:
        raise ValueError(
            f"groups has labels of {factor!r} that fit has not seen: {quoted(absent, 5)}. Those of groups_ are "
            f"{quoted(known, 5)}."
        )
    return np.flatnonzero([label in wanted for label in known])


def fitted_step(estimator: Any) -> Any:
    """Follow fitted pipelines and searches to the estimator that learnt the groups."""
    while True:
        if isinstance(estimator, Pipeline):
            estimator = estimator[-1]
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        else:
            check_is_fitted(estimator)
            return estimator


def read_group_estimates(
    estimator: Any, term: str | None, factor: str | None, coverage: float, at: str | Mapping[str, Any] = "zero"
) -> GroupEstimates:
    """Read the estimates of all groups from a fitted PartialPoolingRegressor or JamesSteinEstimator.

    Parameters
    ----------
    estimator : estimator
        Fitted, or a pipeline or search that ends in one.
    term : str or None
        Varying term, such as "1|county" or "floor|county"; None for the first of the factor.
    factor : str or None
        Grouping factor; with several of them, it or the term must be named.
    coverage : float
        Probability of the intervals, between 0 and 1.
    at : {"zero", "mean"} or mapping
        Where intercepts are told, see `group_effects` of the estimators.
    """
    check_coverage(coverage)
    estimator = fitted_step(estimator)
    if hasattr(estimator, "theta_"):
        refuse_point(at)
        return _from_means(estimator, term, factor, coverage)
    if hasattr(estimator, "group_effects"):
        return _from_posterior(estimator, term, factor, coverage, at)
    raise TypeError(
        f"{type(estimator).__name__} has no estimates of groups to show. Pass a fitted PartialPoolingRegressor or "
        "JamesSteinEstimator, or a pipeline or search that ends in one."
    )


def _from_means(estimator: Any, term: str | None, factor: str | None, coverage: float) -> GroupEstimates:
    if term is not None:
        raise ValueError(f"term={term!r}: a JamesSteinEstimator has only means of groups; leave term= out.")
    if not estimator.groups_:
        raise ValueError("This JamesSteinEstimator was fitted without groups, so there are none to show.")
    learnt = learnt_by(estimator)
    check_only_factor(learnt.factors, factor)
    lower, upper = learnt.means.intervals(coverage).T
    (shown,) = learnt.factors
    return GroupEstimates(
        labels=shown.labels,
        size=estimator.group_sizes_,
        no_pooling=estimator.group_means_,
        estimate=estimator.theta_,
        lower=lower,
        upper=upper,
        shrinkage=learnt.means.shrinkage,
        centre=np.broadcast_to(estimator.target_, estimator.theta_.shape),
        factor=shown.name,
        term="mean",
        centre_name="target",
        size_name=sized_by(estimator) or "rows",
    )


def _from_posterior(
    estimator: Any, term: str | None, factor: str | None, coverage: float, at: str | Mapping[str, Any]
) -> GroupEstimates:
    learnt = learnt_by(estimator)
    specification, point = learnt.frame.specification, point_of(estimator, at)
    f, column = find_term(specification, term, factor, "show")
    shown = specification.factors[f]
    refuse_point_of_slope(shown, column, point)
    x, _ = coefficient_rows(specification, f, point)[column]
    table = estimator.group_effects(coverage=coverage, at=at)
    low, high = interval_columns(coverage)
    table = table[(table["factor"] == shown.name) & (table["term"] == column_labels(shown)[column])]
    return GroupEstimates(
        labels=estimator.groups_[shown.name],
        size=table["n"].to_numpy(dtype=np.float64),
        no_pooling=table["no_pooling"].to_numpy(),
        estimate=table["mean"].to_numpy(),
        lower=table[low].to_numpy(),
        upper=table[high].to_numpy(),
        shrinkage=table["shrinkage"].to_numpy(),
        centre=np.full(len(table), x @ learnt.fitted.posterior.common_estimates()),
        factor=shown.name,
        term=_name_of_intercept(at, learnt.family) if shown.columns[column] == "1" else shown.columns[column],
        centre_name="population mean",
        size_name=sized_by(estimator) or "rows",
    )


def _name_of_intercept(at: str | Mapping[str, Any], family: str) -> str:
    """Return what a group's intercept is called at a point, in words of its unit."""
    level = {"binomial": "log odds", "poisson": "log rate"}.get(family, "level")
    if isinstance(at, str) and at == "zero":
        return "intercept" if level == "level" else f"{level} at features of 0"
    values = {} if isinstance(at, str) else at
    return f"{level} at " + (", ".join(f"{name} = {value}" for name, value in values.items()) or "average features")


def align(values: Any, labels: np.ndarray, argument: str) -> np.ndarray:
    """Return one number for each group: by label from a Series or dict, else in the order of `groups_`."""
    if isinstance(values, pd.Series):
        values = dict(zip(values.index.tolist(), values.to_list(), strict=True))
    if isinstance(values, dict):
        missing = [label for label in labels.tolist() if label not in values]
        if missing:
            raise ValueError(f"{argument} has no value for {len(missing)} of the groups: {missing[:5]!r}.")
        return np.array([values[label] for label in labels.tolist()], dtype=np.float64)
    values = np.asarray(values, dtype=np.float64)
    if values.shape != labels.shape:
        raise ValueError(
            f"{argument} must have one number for each of the {len(labels)} groups, in the order of groups_, or be a "
            f"Series by label; got an array of shape {values.shape}."
        )
    return values
