"""Posterior predictive checks: whether the model makes data like ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples, check_is_fitted

from hbsk._base import generator, learnt_by, read_predicted, require_standard_error
from hbsk._data.checks import check_target
from hbsk._data.labels import GroupFactor
from hbsk._data.responses import check_outcomes, positions_of_classes
from hbsk._data.sources import label_columns, read_keyword
from hbsk._data.suspicions import warn_of_order
from hbsk._data.table import read_table, refuse_lazy
from hbsk._estimators.answers import PosteriorAnswersMixin
from hbsk._messages import quoted, shown
from hbsk._posterior.prediction import sample_observations
from hbsk._posterior.response_rows import predict_response, sample_responses
from hbsk.model_selection._responses import answering_step, parameters
from hbsk.predictive_checks._counts import count_statistics, named_statistics
from hbsk.predictive_checks._statistics import bind_statistics, evaluate, per_group

__all__ = ["PredictiveCheck", "per_group", "posterior_predictive_check"]

# Replicated numbers held at a time; the sampler needs a few times as much for its own arrays.
NUMBERS_PER_BATCH = 4_000_000
# Statistics that are compared where none are named.
OF_NUMBERS, OF_COUNTS = ("mean", "std", "min", "max"), ("proportion", "zeros", "dispersion")
SIZES = ("exposure", "trials")


@dataclass(frozen=True, eq=False, repr=False)
class PredictiveCheck:
    """What a posterior predictive check found; made by `posterior_predictive_check`.

    Attributes
    ----------
    observed : Series of shape (n_statistics,)
        T(y) of the data, by name of the statistic.
    replicated : DataFrame of shape (n_samples, n_statistics)
        T(y_rep) of each replicated data set.
    new_groups : bool
        Whether the replicated data sets have groups of their own.
    """

    observed: pd.Series
    replicated: pd.DataFrame
    new_groups: bool = False

    @property
    def p_value(self) -> pd.Series:
        """Bayesian p-values.

        Returns
        -------
        Series of shape (n_statistics,)
            P(T(y_rep) >= T(y)) by name; NaN where T is not defined for the data or a replicate.
        """
        share = (self.replicated >= self.observed).mean()
        return share.where(self.observed.notna() & self.replicated.notna().all()).rename("p_value")

    def to_frame(self) -> pd.DataFrame:
        """Tabulate the check, one row for each statistic.

        Returns
        -------
        DataFrame of shape (n_statistics, 4)
            T of the data (`observed`), mean and sd of T over the replicated data sets (`replicated_mean`,
            `replicated_sd`) and the Bayesian p-value (`p_value`).
        """
        return pd.DataFrame(
            {
                "observed": self.observed,
                "replicated_mean": self.replicated.mean(),
                "replicated_sd": self.replicated.std(),
                "p_value": self.p_value,
            }
        )

    def __repr__(self) -> str:
        what = ", new_groups=True" if self.new_groups else ""
        return f"PredictiveCheck of {len(self.replicated)} replicated data sets{what}\n{self.to_frame()}"


def posterior_predictive_check(
    estimator: Any,
    X: Any,
    y: Any,
    groups: Any = None,
    *,
    standard_error: Any = None,
    exposure: Any = None,
    trials: Any = None,
    statistics: Any = None,
    n_samples: int = 1000,
    random_state: Any = None,
    new_groups: bool = False,
) -> PredictiveCheck:
    r"""Compare statistics of the data with the same statistics of data drawn from the fitted model.

    Data sets :math:`y^{rep}` of the same size, with the same X and groups, are drawn from the posterior predictive
    distribution. A statistic T that the model gets right lies well within those of its replicates; a Bayesian p-value
    :math:`p_B = P(T(y^{rep}) \ge T(y))` near 0 or 1 says that the model does not make data like ours in this respect.

    Parameters
    ----------
    estimator : estimator
        Fitted estimator with a method `sample_y`, such as PartialPoolingRegressor, or a fitted pipeline or search that
        ends in one.
    X : array-like or dataframe of shape (n_samples, n_features)
        The rows that the estimator was fitted to. Other rows make a check of predictions out of sample.
    y : array-like of shape (n_samples,)
        Their responses.
    groups : array-like of shape (n_samples,), default=None
        Group labels, where `fit` had them by `groups=`.
    standard_error : array-like of shape (n_samples,) or float, default=None
        Known sampling sd of each y, where `fit` had them.
    exposure, trials : array-like of shape (n_samples,) or float, default=None
        Of each y, where `fit` of a PartialPoolingCountRegressor had them.
    statistics : str, callable, sequence or dict of these, default=None
        What to compare. Strings are "mean", "std" (with n - 1), "min", "max", "median" and "zeros", the share of rows
        where y is 0; for classes (1 for the second label) and counts also "proportion", the sum of y over that of
        trials or exposure, and "dispersion", the mean of ``(y - expected)^2 / variance`` with both as predicted. None
        is ("mean", "std", "min", "max"), and ("proportion", "zeros", "dispersion") for classes and counts; one that
        varies by more than its model says has a small p-value of the dispersion. A callable T(y) gets the
        responses as an array; where it has a parameter `groups` it gets the labels of the rows too (an array, or a
        DataFrame with a column for each of several grouping factors), and where it has a parameter `X` it gets X as it
        is given here. It returns a number, or several as a 1-D array or Series, each of which is checked; numbers of
        Series are matched by their labels, which must be those that the data have. `per_group` makes a statistic of
        each group. In a dict the keys are the names.
    n_samples : int, default=1000
        Number of replicated data sets.
    random_state : int, RandomState instance, Generator or None, default=None
        Randomness of the replicates; None takes the estimator's.
    new_groups : bool, default=False
        False asks whether the model fits these groups: their effects are drawn from their posterior. True asks whether
        it fits the population that the groups come from, which is the stronger question: every group of a replicate is
        a new one, its effects drawn from the distribution between groups.

    Returns
    -------
    PredictiveCheck
        With `observed`, `replicated`, `p_value` and `to_frame()`.

    See Also
    --------
    hbsk.plotting.PredictiveCheckDisplay : The check as a figure.

    Notes
    -----
    A p-value of a right model is not uniform: the data were used twice, so it keeps closer to 1/2, the more so the
    better the model can fit the statistic (the mean is always fitted, and tells nothing). A small p-value is therefore
    evidence against the model, but a middling one no evidence for it. Choose statistics that the model was not made to
    fit: extremes, skewness, slopes that were left out, differences between groups.

    With groups of their own, replicates also test the distribution between groups. Where the effects of known groups
    are free to follow the data, a group far from all others is never noticed; among new groups it is. This is the
    mixed predictive check of Gelman, Meng and Stern (1996) and of Marshall and Spiegelhalter (2003).

    The Monte Carlo error of a p-value is sqrt(p (1 - p) / n_samples), 0.016 at most with 1000 samples. Of many
    p-values, one for each of 100 groups say, some are small by chance. Rows count once each; where the model was fitted
    with `sample_weight`, give the copies.

    References
    ----------
    - Gelman, A., Meng, X.-L., and Stern, H. (1996). Posterior predictive assessment of model fitness via realized
      discrepancies. Statistica Sinica 6, 733-760.
    - Marshall, E. C., and Spiegelhalter, D. J. (2003). Approximate cross-validatory predictive checks in disease
      mapping models. Statistics in Medicine 22, 1649-1660.

    Examples
    --------
    Reaction times of 18 subjects over ten days. Do subjects differ in how fast they get worse?

    >>> import numpy as np
    >>> from hbsk import PartialPoolingRegressor
    >>> from hbsk.datasets import load_sleepstudy
    >>> from hbsk.predictive_checks import posterior_predictive_check
    >>> X, y = load_sleepstudy(return_X_y=True, as_frame=True)
    >>> def sd_of_slopes(y, groups, X):
    ...     days = X["Days"].to_numpy()
    ...     return np.std([np.polyfit(days[groups == g], y[groups == g], 1)[0] for g in np.unique(groups)])
    >>> alike = PartialPoolingRegressor(group_features="Subject").fit(X, y)
    >>> check = posterior_predictive_check(alike, X, y, statistics=sd_of_slopes, n_samples=200, random_state=0)
    >>> check.p_value
    sd_of_slopes    0.0
    Name: p_value, dtype: float64
    >>> differing = PartialPoolingRegressor(group_features="Subject", slope_features=["Days"]).fit(X, y)
    >>> check = posterior_predictive_check(differing, X, y, statistics=sd_of_slopes, n_samples=200, random_state=0)
    >>> bool(0.05 < check.p_value["sd_of_slopes"] < 0.95)
    True
    """
    if not isinstance(n_samples, Integral) or isinstance(n_samples, bool) or n_samples < 1:
        raise ValueError(
            f"n_samples must be a positive integer, the number of data sets drawn; got {shown(n_samples)}."
        )
    estimator, X_seen = answering_step(estimator, X)
    _check_estimator(estimator)
    warn_of_order(X, [("y", y)])
    refuse_lazy(X, "X")
    y = _numbers(estimator, y, _num_samples(y if X is None else X))
    beside = {
        name: value
        for name, value in (("standard_error", standard_error), ("exposure", exposure), ("trials", trials))
        if value is not None
    }
    if _is_ours(estimator):
        _refuse_unidentified(estimator, X_seen, groups, standard_error)
    if statistics is None:
        statistics = OF_COUNTS if _counts(estimator) else OF_NUMBERS
    if _counts(estimator):
        mean, size = expected_counts(estimator, X_seen, groups, exposure, trials)
        are_sized = "exposure" in beside or "trials" in beside
        check_outcomes(y, size if are_sized else None, learnt_by(estimator).family)
        statistics = named_statistics(statistics, count_statistics(learnt_by(estimator).family, mean, size))
    known = [factor.name for factor in learnt_by(estimator).frame.factors] if _is_ours(estimator) else []
    labels = _read_labels(estimator, X_seen, groups)
    bound = bind_statistics(statistics, X, labels, known[0] if len(known) == 1 else None)
    draw = _fresh_sampler if new_groups else _sampler
    sample = draw(estimator, X_seen, groups, beside, _random_state(estimator, random_state))
    observed, names = evaluate(bound, y[:, None])
    width = max(1, NUMBERS_PER_BATCH // len(y))
    batches = [evaluate(bound, sample(min(width, n_samples - start)))[0] for start in range(0, n_samples, width)]
    replicated = pd.DataFrame(np.concatenate(batches), columns=names)
    _check_defined(observed[0], replicated)
    return PredictiveCheck(pd.Series(observed[0], index=names, name="observed"), replicated, bool(new_groups))


def _check_defined(observed: np.ndarray, replicated: pd.DataFrame) -> None:
    """Raise where replicates have no value and the data have one: a p-value would be wrong without a word."""
    for value, (name, column) in zip(observed, replicated.items(), strict=True):
        if not np.isnan(value) and column.isna().any():
            raise ValueError(
                f"statistic {name!r} is {value:.6g} for the data and NaN for {int(column.isna().sum())} of "
                f"{len(column)} replicates, so its p-value has no meaning. Either T cannot deal with some data sets, "
                'or the estimator has unknown_groups="nan" and X has groups that it has not seen: leave their rows out.'
            )


# ---------------------------------------------------------------------------------------------------------------------
# Replicates


def _check_estimator(estimator: Any) -> None:
    name = type(estimator).__name__
    if not hasattr(estimator, "sample_y"):
        raise TypeError(
            f"{name} has no method sample_y, so there is nothing to draw replicated data from. Pass a fitted "
            "estimator of partial pooling, or a pipeline or search that ends in one."
        )
    check_is_fitted(estimator)


def _random_state(estimator: Any, random_state: Any) -> np.random.RandomState:
    """Return one source for all batches; with a seed each of them would draw the same numbers."""
    if random_state is None:
        random_state = getattr(estimator, "random_state", None)
    if isinstance(random_state, np.random.Generator):
        return np.random.RandomState(random_state.integers(2**32))
    return check_random_state(random_state)


def _is_ours(estimator: Any) -> bool:
    return isinstance(estimator, PosteriorAnswersMixin)


def _read_labels(estimator: Any, X: Any, groups: Any) -> Any:
    """Return the label of each row, a frame where there are several factors, None where there are none."""
    if not _is_ours(estimator):
        return None if groups is None else np.asarray(groups)
    learnt = learnt_by(estimator)
    table = read_table(estimator, X, reset=False, groups=groups, by_name=learnt.by_name)
    keyword = read_keyword(groups, table)
    labels = {}
    for factor in learnt.frame.factors:
        source = factor.source
        if source.from_keyword and not keyword:
            # Whoever needs them says so: sample_y, or a statistic.
            return None
        found, codes = GroupFactor.learn(source.name, label_columns(source, table, keyword))
        # A missing label, code -1, stays missing.
        values = found.labels.astype(object) if (codes < 0).any() else found.labels  # integers stay integers
        labels[factor.name] = pd.Series(values).reindex(codes).reset_index(drop=True)
    if len(labels) > 1:
        return pd.DataFrame(labels)
    return next((column.to_numpy() for column in labels.values()), None)


def _refuse_unidentified(estimator: Any, X: Any, groups: Any, standard_error: Any) -> None:
    """Raise for rows whose sd is infinite without pooling: no replicates can be drawn of them."""
    if estimator.pooling != "none":
        return
    rows, read = read_predicted(estimator, X, groups, standard_error)
    x, z, _ = rows.design.block(0, rows.design.n_rows)
    unidentified = learnt_by(estimator).fitted.posterior.unidentified_rows(x, z, list(rows.codes))
    if unidentified.any():
        (factor,) = read.factors
        labels = quoted(factor.labels[np.unique(rows.codes[0][unidentified])].tolist())
        raise ValueError(
            f"{int(unidentified.sum())} rows of X ask for what the rows of their group in fit do not identify (groups "
            f"{labels}). With pooling='none' their sd is infinite, and no replicates can be drawn: leave these rows "
            "out, or use pooling='partial'."
        )


def _counts(estimator: Any) -> bool:
    """Tell whether an estimator is ours, of classes or counts."""
    return _is_ours(estimator) and learnt_by(estimator).family != "gaussian"


def _numbers(estimator: Any, y: Any, n_rows: int) -> np.ndarray:
    """Return y as numbers: 1 for the second of two classes."""
    if _counts(estimator) and hasattr(estimator, "classes_"):
        return positions_of_classes(y, estimator.classes_, n_rows, type(estimator).__name__)
    return check_target(y, n_rows, type(estimator).__name__)


def _sampler(estimator: Any, X: Any, groups: Any, beside: dict[str, Any], random_state: Any) -> Callable:
    options = dict(beside)
    if groups is not None and (_is_ours(estimator) or "groups" in parameters(estimator.sample_y)):
        options["groups"] = groups
    classes = estimator.classes_ if _counts(estimator) and hasattr(estimator, "classes_") else None

    def sample(n_samples):
        drawn = estimator.sample_y(X, n_samples=n_samples, random_state=random_state, **options)
        return drawn if classes is None else (drawn == classes[1]).astype(np.float64)

    return sample


def _fresh_sampler(estimator: Any, X: Any, groups: Any, beside: dict[str, Any], random_state: Any) -> Callable:
    """Return a sampler in which no group is known: codes beyond the known ones stand for new groups."""
    if not _is_ours(estimator):
        raise TypeError(
            "new_groups=True needs a PartialPoolingRegressor or another estimator of partial pooling, got "
            f"{type(estimator).__name__}."
        )
    learnt = learnt_by(estimator)
    factors = [factor.name for factor in learnt.frame.factors]
    if not learnt.frame.specification.factors or estimator.pooling != "partial":
        raise ValueError(
            "new_groups=True draws groups from the distribution between groups, and this model has none "
            f"(pooling={estimator.pooling!r}, factors {factors}). Use new_groups=False."
        )
    standard_error = beside.get("standard_error")
    require_standard_error(estimator, standard_error, "posterior_predictive_check")
    rows, _ = read_predicted(estimator, X, groups, standard_error)
    posterior = learnt.fitted.posterior
    codes = [code + known for code, known in zip(rows.codes, posterior.n_groups, strict=True)]
    size = next((np.broadcast_to(beside[name], rows.design.n_rows) for name in SIZES if name in beside), None)
    fresh = replace(rows, codes=codes, size=size)
    rng = generator(random_state)
    draw = sample_responses if _counts(estimator) else sample_observations
    return lambda n_samples: draw(posterior, fresh, n_samples, rng)


def expected_counts(estimator: Any, X: Any, groups: Any, exposure: Any, trials: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return predicted probabilities or rates of rows, and their trials or exposure."""
    learnt = learnt_by(estimator)
    rows, _ = read_predicted(estimator, X, groups)
    given = exposure if learnt.family == "poisson" else trials
    if given is None and learnt.sized_by:
        raise ValueError(
            f"posterior_predictive_check needs {learnt.sized_by}= for these rows: the estimator was fitted with it."
        )
    size = np.broadcast_to(1.0 if given is None else np.asarray(given, dtype=np.float64), rows.design.n_rows)
    return predict_response(learnt.fitted.posterior, rows), size
