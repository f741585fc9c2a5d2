"""Fits by sums: what is collected of rows, what a fit of sums needs, and fits that go on from earlier ones."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from numbers import Real
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
from sklearn.base import _fit_context

from hbsk._base import forget, keeps_former_fit, learns_nothing
from hbsk._data.labels import GroupFactor
from hbsk._data.suspicions import warn_of_single_rows
from hbsk._estimators.lazy import is_lazy, lazy_statistics, lazy_statistics_by_fold
from hbsk._estimators.partial_pooling import PartialPoolingBase
from hbsk._fit.collecting import statistics_of_folds, statistics_of_rows
from hbsk._fit.gaussian import infer
from hbsk._fit.learnt import learnt_of_sums, sums_of_fit
from hbsk._messages import quoted
from hbsk._model.frame import read_training_frame
from hbsk._model.options import options_of
from hbsk._posterior.diagnostics import warn_if_sigma_is_held
from hbsk.sufficient_statistics import (
    SufficientStatistics,
    refuse_sums_of_several_factors,
    require_nothing_beside,
    require_recipe,
    require_rows,
    show_features,
)


class SumsBase(PartialPoolingBase):
    """Base of the estimator whose fit is one of sums."""

    @keeps_former_fit
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, groups=None, *, standard_error=None, sample_weight=None):
        """Find the posterior of all rows so far: those of earlier calls, of an earlier `fit`, and these.

        The sums of these rows are added to those of the fit, and the total is fitted: any number of chunks, in any
        order, have the posterior of one fit of all rows, default priors included. New groups may come with any chunk.
        Levels of categories, and the centres and scales of ``center`` and ``scale``, are those of the first chunk,
        where all levels of a Categorical count. To take many chunks without a posterior of each, add up what `collect`
        returns, and `fit` the total.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features), lazy frame or SufficientStatistics
            As in `fit`.
        y : array-like of shape (n_samples,)
        groups : array-like of shape (n_samples,), default=None
        standard_error : array-like of shape (n_samples,), default=None
            For all chunks, or for none.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        self : PartialPoolingRegressor

        Raises
        ------
        ValueError, TypeError
            As in `fit`; for several grouping factors, ``inference="nuts"``, and rows that do not go with those before.
            The fit is then as it was.
        """
        given = {"groups": groups, "standard_error": standard_error, "sample_weight": sample_weight}
        former = self._former_sums()
        new = X
        if isinstance(X, SufficientStatistics):
            require_nothing_beside({"y": y, **given})
        else:
            new = self.collect(X, y, like=former, **given)
        return self._fit_statistics(new if former is None else former + new)

    @learns_nothing
    def collect(self, X, y=None, groups=None, *, standard_error=None, sample_weight=None, like=None):
        """Return what a fit of some rows needs of them, without fitting.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features), or lazy frame
            As in `fit`. All levels of a Categorical count, whether they are there or not.
        y : array-like of shape (n_samples,)
        groups : array-like of shape (n_samples,), default=None
        standard_error : array-like of shape (n_samples,), default=None
        sample_weight : array-like of shape (n_samples,), default=None
        like : SufficientStatistics, default=None
            Of earlier rows, whose levels of categories, and centres and scales of ``center`` and ``scale``, are taken:
            what is returned can be added to them.

        Returns
        -------
        statistics : SufficientStatistics
            For `fit`.
        """
        given = {"groups": groups, "standard_error": standard_error, "sample_weight": sample_weight}
        frame = None
        if like is not None:
            require_recipe(options_of(self), like)
            show_features(self, like)
            frame = like.frame
        if is_lazy(X):
            columns = None if frame is None else (frame.specification, frame.grouped)
            return lazy_statistics(self, X, y, **given, like=columns, are_declared=True)
        options, table = self._begin(X, groups, reset=like is None, min_samples=1)
        statistics, _ = self._collect(options, table, y, **given, like=frame, min_samples=1, are_declared=True)
        refuse_sums_of_several_factors(statistics.frame)
        return statistics

    # private

    def _fit_statistics(self, statistics):
        """Fit sums that were collected before."""
        self._check_options()
        options = replace(options_of(self), integration=self._integration)
        require_recipe(options, statistics)
        require_rows(options, statistics)
        forget(self)
        show_features(self, statistics)
        if not statistics.frame.factors and self.pooling != "complete":
            self._warn_no_groups()
        return self._fit(options, statistics)

    def _former_sums(self):
        """Return the sums of the fit so far, if there is one."""
        if not self.__sklearn_is_fitted__():
            return None
        former = sums_of_fit(self._learnt, self.n_features_in_, getattr(self, "feature_names_in_", None))
        if former is None:
            names = list(self.groups_)
            raise ValueError(
                f"partial_fit adds rows to the sums of one grouping factor, and this {type(self).__name__} was fitted "
                f"with {quoted(names)} by {self.inference_}. Fit all rows together."
            )
        return former

    def _fit(self, options, statistics, rows=None):
        """Fit the sums; rows are there where they were collected from rows at hand."""
        self._warn_of_single_rows(statistics)
        fitted = infer(options, statistics, rows)
        self._learn(learnt_of_sums(statistics, fitted, by_name=rows is None))
        # a constant y has no noise to be known
        varies = statistics.collected.moments.y_sd > 0
        if varies and isinstance(fitted.priors.get("sigma"), tuple) and not fitted.posterior.are_draws:
            warn_if_sigma_is_held(fitted.posterior)
        return self

    def _collect(self, options, table, y, groups, standard_error, sample_weight, **reading):
        """Read rows, and collect their sums."""
        beside = {"standard_error": standard_error, "sample_weight": sample_weight}
        frame, rows = self._read(options, table, y, groups, **beside, **reading)
        names = getattr(self, "feature_names_in_", None)
        return statistics_of_rows(options, frame, rows, self.n_features_in_, names), rows

    def _warn_of_single_rows(self, statistics):
        if self.pooling != "partial" or statistics.known_errors:
            return
        fixed = {name for name, prior in (self.priors or {}).items() if isinstance(prior, Real)}
        if "sigma" not in fixed and statistics.least_noise >= 1:
            warn_of_single_rows(statistics.groups.items(), statistics.n_rows)


def collect_by_fold(
    estimator: Any,
    X: Any,
    y: Any,
    groups: Any = None,
    *,
    fold: Any = None,
    deal: Callable[[np.ndarray], np.ndarray] | None = None,
    standard_error: Any = None,
    sample_weight: Any = None,
) -> dict[Any, SufficientStatistics]:
    """Collect the sums of each fold in one pass; the estimator learns nothing.

    Parameters
    ----------
    estimator : PartialPoolingRegressor
    X, y, groups, standard_error, sample_weight
        As in `PartialPoolingRegressor.fit`.
    fold : str or array-like of shape (n_rows,), optional
        Fold of each row; the name of a column, which is then no feature.
    deal : callable, optional
        Gives each group its fold, from the numbers of rows in the groups; instead of ``fold``.

    Returns
    -------
    statistics : dict of fold to SufficientStatistics
        Of the same columns, and over the same groups, some of which have no rows in a fold.
    """
    given = {"standard_error": standard_error, "sample_weight": sample_weight}
    if is_lazy(X):
        return lazy_statistics_by_fold(estimator, X, y, groups=groups, fold=fold, deal=deal, **given)
    if fold is not None:
        X, fold = _apart(X, fold)
    reader = copy(estimator)
    options, table = reader._begin(X, groups)
    frame, rows = read_training_frame(options, table, y, groups, **given)
    refuse_sums_of_several_factors(frame)
    if deal is not None:
        (codes,), (factor,) = rows.codes, rows.factors
        folds = deal(np.bincount(codes, minlength=factor.n_groups))[codes]
        labels = np.arange(folds.max() + 1)
    else:
        folds, labels = _fold_codes(fold, table.n_rows)
        if sample_weight is not None:
            folds = folds[np.asarray(sample_weight) > 0]
    names = getattr(reader, "feature_names_in_", None)
    found = statistics_of_folds(options, frame, rows, folds, reader.n_features_in_, names)
    return {labels[k].item() if hasattr(labels[k], "item") else labels[k]: sums for k, sums in found.items()}


def _apart(X: Any, fold: Any) -> tuple[Any, Any]:
    """Return X without the column of folds, and the column."""
    if not isinstance(fold, str):
        return X, fold
    if not nw.dependencies.is_into_dataframe(X):
        raise ValueError(f"fold={fold!r} is the name of a column, and X has none: pass one fold for each row.")
    frame = nw.from_native(X, eager_only=True)
    if fold not in frame.columns:
        raise ValueError(f"fold={fold!r} is no column of X, whose columns are {quoted(frame.columns)}.")
    return frame.drop(fold).to_native(), frame[fold].to_numpy()


def _fold_codes(fold: Any, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of the fold of each row, and the folds."""
    fold = np.asarray(fold)
    if fold.shape != (n_rows,):
        raise ValueError(f"fold must give the fold of each of the {n_rows} rows; it has shape {fold.shape}.")
    groups, codes = GroupFactor.learn("fold", [fold])
    if (codes < 0).any():
        raise ValueError(f"fold is missing in {int((codes < 0).sum())} rows; give every row a fold.")
    return codes, groups.labels
