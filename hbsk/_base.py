"""What our estimators tell scikit-learn's metadata routing about `groups`."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import wraps
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from hbsk._data.checks import check_coverage
from hbsk._data.factor import Factor
from hbsk._data.rows import LEAST_ROWS, Rows
from hbsk._data.sources import GROUPS
from hbsk._data.table import Table, read_table
from hbsk._fit import Learnt, bambi_model, diagnose_fit, model_priors
from hbsk._messages import shown
from hbsk._model.design import PredictedRows
from hbsk._model.frame import read_new_rows, read_training_frame, unknown_rows
from hbsk._model.options import options_of
from hbsk._posterior.datatree import posterior_datatree
from hbsk._posterior.group_tables import (
    correlation_frames,
    group_effect_table,
    label_index,
    sd_series,
    shrinkage_frames,
)
from hbsk._posterior.summary import n_rank_draws, rank_table, ranks_of_draws, summary_table
from hbsk._shrinkage.draws import draw_means
from hbsk._shrinkage.predictions import FittedMeans
from hbsk._shrinkage.tables import EFFECT_COLUMNS, effect_table, parameter_table

_METHODS = ("fit", "predict", "score")


@dataclass(frozen=True)
class LearntMeans:
    """What a fit of shrunken means leaves behind, besides the public attributes.

    Attributes
    ----------
    factors : tuple of Factor
        The grouping factor; none without groups.
    columns : tuple of str
        Columns of X that the target, or the regression without groups, is a surface in.
    known_errors : bool
        Whether the standard errors of y were given.
    means : FittedMeans
        What predictions need.
    """

    factors: tuple[Factor, ...]
    columns: tuple[str, ...]
    known_errors: bool
    means: FittedMeans


def learnt_by(estimator: Any) -> Any:
    """Return what a fit of one of our estimators left behind, `Learnt` or `LearntMeans`; for other rooms.

    Raises
    ------
    NotFittedError
        Before fit.
    """
    check_is_fitted(estimator)
    return estimator._learnt


def read_training_table(estimator: Any, X: Any) -> Table:
    """Forget a former fit, and read X for a new one; scikit-learn's attributes of X are written here."""
    for attribute in [name for name in vars(estimator) if name.endswith("_") and not name.startswith("_")]:
        delattr(estimator, attribute)
    return read_table(estimator, X, reset=True, min_samples=LEAST_ROWS)


def read_predicted(
    estimator: Any, X: Any, groups: Any, standard_error: Any = None, y: Any = None
) -> tuple[PredictedRows, Rows]:
    """Read rows for a method after fit: as the model sees them, and as they came."""
    frame = learnt_by(estimator).frame
    table = read_table(estimator, X, reset=False)
    return read_new_rows(options_of(estimator), frame, table, groups, standard_error, y)


def generator(random_state: Any) -> np.random.Generator:
    """Make a Generator of whatever `random_state` may be."""
    if isinstance(random_state, np.random.Generator):
        return random_state
    return np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))


def check_n_samples(n_samples: Any) -> None:
    """Raise unless `n_samples` of `sample_y` counts draws."""
    if not isinstance(n_samples, Integral) or n_samples < 1:
        raise ValueError(f"n_samples must be a positive integer, got {shown(n_samples)}.")


def require_standard_error(estimator: Any, standard_error: Any, what: str) -> None:
    """Raise unless standard errors of rows are given exactly where they were in fit."""
    known = learnt_by(estimator).known_errors
    if known and standard_error is None:
        raise ValueError(
            f"{what} needs standard_error= for these rows: the model was fitted with known standard errors, so "
            "the noise of a new observation is not a parameter. kind='mean' and plain predict do not need it."
        )
    if standard_error is not None and not known:
        raise ValueError(
            "standard_error= was given, but the model was fitted without: its residual sd is a parameter. Leave "
            "standard_error= out, or give it in fit too."
        )


class GroupRoutingMixin:
    """Answer that `groups` is not wanted where the groups are in a column of X.

    With routing on, scikit-learn refuses metadata that an estimator could take and has not asked for. Without this
    answer, `cross_validate(..., cv=GroupKFold(), params={"groups": g})` would therefore demand a decision about
    `groups` even where the estimator reads its labels from X and the name is meant for the splitter alone.

    Must stand before `BaseEstimator` among the bases.
    """

    group_features: Any

    def _labels_come_by_keyword(self) -> bool:
        """Tell whether labels may arrive by `groups=`: not where `group_features` or a formula names columns."""
        if self.group_features is not None:
            return False
        formula = getattr(self, "formula", None)
        return formula is None or _names_groups(formula)

    def get_metadata_routing(self) -> Any:
        """Get the metadata requests of this estimator.

        With `group_features` set, or a formula that takes its groups from other names than `groups`, `groups` is
        answered as not requested, whatever `set_fit_request` said.

        Returns
        -------
        routing : MetadataRequest
            A :class:`~sklearn.utils.metadata_routing.MetadataRequest` encapsulating routing information.
        """
        # A copy: the estimator's own requests must not change by being asked for.
        requests = super().get_metadata_routing()  # type: ignore[misc]
        if not self._labels_come_by_keyword():
            for method in _METHODS:
                request = getattr(requests, method)
                if GROUPS in request.requests:
                    request.add_request(param=GROUPS, alias=False)
        return requests


def _names_groups(formula: Any) -> bool:
    """Tell whether `groups` stands right of `|`."""
    from hbsk._model.parser import parse_formula  # imports formulae, which takes a while

    try:
        return GROUPS in parse_formula(formula).factor_names
    except (TypeError, ValueError):
        return False  # fit says what is wrong with it, and is not kept from it by scikit-learn's word on `groups`


def keeps_former_fit(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method that learns, such as `fit`, run on a copy whose attributes the estimator takes over at the end.

    Where the method fails, or is interrupted, a former fit stays whole, `n_features_in_` included, and an estimator
    that was never fitted stays so. Other threads see the former fit or the new one, never some of both.

    Parameters
    ----------
    method : callable
        Method of an estimator that writes attributes and returns the estimator.
    """

    @wraps(method)
    def learn(self: Any, *args: Any, **kwargs: Any) -> Any:
        learning = copy(self)
        method(learning, *args, **kwargs)
        # A dict of its own: where two objects shared one, fits were seen to lose attributes later on (CPython 3.13.0).
        self.__dict__ = dict(vars(learning))
        return self

    return learn


class ShrunkenAnswersMixin:
    """Tables of shrunken means; a mixin of `JamesSteinEstimator`, whose file tells fit and predict."""

    _learnt: LearntMeans

    @property
    def shrinkage_(self):
        """Weight of each group's own mean, by factor: frames of groups times the term "1|<factor>"."""
        learnt = learnt_by(self)
        return {
            factor.name: pd.DataFrame(
                {term: learnt.means.shrinkage}, index=label_index(factor.labels, factor.name), copy=True
            )
            for factor in learnt.factors
            for term in factor.terms
        }

    @property
    def group_sd_(self):
        """Estimates of the sd between groups, by factor."""
        sd = np.sqrt(self.between_group_variance_) if learnt_by(self).factors else np.nan
        return {factor.name: pd.Series(sd, index=list(factor.terms), name="sd") for factor in self._learnt.factors}

    @property
    def group_effects_(self):
        """Means of every group; see `group_effects`, here without intervals."""
        return self.group_effects(coverage=None)

    def group_effects(self, coverage=0.95):
        """Return the mean of every group, shrunken and not.

        Parameters
        ----------
        coverage : float, default=0.95
            Probability of the central intervals; None leaves them out.

        Returns
        -------
        table : DataFrame
            Columns ``factor``, ``group``, ``term``, ``n`` (copies of rows), ``no_pooling`` (`group_means_`), ``mean``
            (`theta_`), ``sd`` (`theta_sd_`), ``shrinkage``, and ``lower``, ``upper``: quantiles of Student's t.
        """
        if coverage is not None:
            check_coverage(coverage)
        learnt = learnt_by(self)
        for factor in learnt.factors:
            (term,) = factor.terms
            own = self.group_means_
            return effect_table(factor.name, term, factor.labels, self.group_sizes_, own, learnt.means, coverage)
        return pd.DataFrame(columns=EFFECT_COLUMNS)

    def summary(self, coverage=0.95):
        """Return the parameters that were estimated, with what is known of them.

        Parameters
        ----------
        coverage : float, default=0.95
            Probability of the central intervals.

        Returns
        -------
        table : DataFrame
            Rows "Intercept" and slopes (of the target; sd 0 where it was given), "sigma" unless standard errors are
            known, and "1|<factor>_sigma", the sd between groups, with no interval. Columns ``mean``, ``sd``,
            ``lower`` and ``upper``: Student's t, and chi-square for sigma.
        """
        check_coverage(coverage)
        learnt = learnt_by(self)
        sds = {f"{term}_sigma": sd for series in self.group_sd_.values() for term, sd in series.items()}
        return parameter_table(learnt.means, learnt.columns, sds, float(coverage))

    def rank_groups(self, term=None, *, ascending=False, top=None):
        """Return the law of every group's rank.

        Parameters
        ----------
        term : str, default=None
            Only "1|<factor>", the mean, can be ranked by.
        ascending : bool, default=False
            Whether the smallest mean has rank 1.
        top : int, default=None
            Also return the probability of being among the first ``top``.

        Returns
        -------
        table : DataFrame
            Indexed by label, sorted by ``expected_rank``: ``mean``, ``expected_rank``, ``rank_sd``, ``p_best``,
            ``p_top_<top>``. From 4,000 joint draws, always the same, of an approximate posterior: Student's t with a
            common scale, and one error of the target that all groups share by the part they were moved.
        """
        learnt = learnt_by(self)
        known = [known for factor in learnt.factors for known in factor.terms]
        if not known:
            raise ValueError("There are no groups to rank: the estimator was fitted without.")
        if term not in (None, *known):
            raise ValueError(f"term={shown(term)} is no varying term of this model; its term is {known[0]!r}.")
        if not np.isfinite(learnt.means.theta_sd).all():
            raise ValueError("The groups cannot be ranked: the variance within groups, and so their sd, is not known.")
        (factor,) = learnt.factors
        n_draws = n_rank_draws(factor.n_groups)
        draws = draw_means(learnt.means, n_draws, np.random.default_rng(0)).theta
        return ranks_of_draws(draws, label_index(factor.labels, factor.name), ascending, top)


class PosteriorAnswersMixin:
    """Answers from the posterior; a mixin of `PartialPoolingRegressor`, whose file tells fit and predict."""

    _learnt: Learnt

    @property
    def group_effects_(self):
        """Coefficients of every group; see `group_effects`, here without intervals."""
        return self._once("group_effects", lambda: self.group_effects(coverage=None))

    @property
    def group_sd_(self):
        """Posterior means of the sds between groups, by factor."""
        return self._once("group_sd", lambda: sd_series(self._learnt.frame, self._learnt.fitted.posterior))

    @property
    def group_correlation_(self):
        """Posterior means of the correlations of varying terms, by factor."""
        return self._once(
            "group_correlation", lambda: correlation_frames(self._learnt.frame, self._learnt.fitted.posterior)
        )

    @property
    def shrinkage_(self):
        """Share of a group's own estimate that is kept, by factor."""
        return self._once("shrinkage", lambda: shrinkage_frames(self._learnt.frame, self._learnt.fitted.posterior))

    def group_effects(self, coverage=0.95):
        """Return the coefficients of every group beside their no-pooling estimates.

        Parameters
        ----------
        coverage : float, default=0.95
            Probability of the central intervals; None leaves them out.

        Returns
        -------
        table : DataFrame
            Columns ``factor``, ``group``, ``term``, ``n`` (copies of rows), ``no_pooling`` (NaN where the group does
            not identify it, or with several factors), ``mean`` and ``sd`` of the group's coefficient (population plus
            deviation), ``shrinkage``, and ``lower``, ``upper``.
        """
        if coverage is not None:
            check_coverage(coverage)
        check_is_fitted(self)
        return group_effect_table(self._learnt.frame, self._learnt.fitted, self._learnt.copies, coverage)

    @property
    def diagnostics_(self):
        """Whether the posterior was found: one row for each parameter."""
        known = self._learnt.known_errors
        return self._once(
            "diagnostics", lambda: diagnose_fit(self._learnt.frame, self._learnt.fitted, sigma_is_parameter=not known)
        )

    def _once(self, name, compute):
        """Return a copy of an answer that is computed once for each fit."""
        check_is_fitted(self)
        answer = self._learnt.fitted.once(name, compute)
        return {key: part.copy() for key, part in answer.items()} if isinstance(answer, dict) else answer.copy()

    def summary(self):
        """Return posterior mean, sd, 89 % interval and diagnostics of every parameter.

        Returns
        -------
        table : DataFrame
            Laid out as `arviz.summary`; Monte Carlo error and effective sample size are those of the engine. For
            ``pooling="none"`` a common coefficient that the groups absorb (what varies by group, columns of group
            level, an intercept that depends on them) is not estimated: its mean is the complete-pooling value, and all
            else is NaN.
        """
        check_is_fitted(self)
        return summary_table(self._learnt.frame, self._learnt.fitted, self.diagnostics_)

    def rank_groups(self, term=None, *, ascending=False, top=None):
        """Return the posterior of every group's rank.

        Parameters
        ----------
        term : str, default=None
            Which varying term to rank by, such as "1|county" (the default: the first) or "floor|county"; ranked is the
            group's coefficient. Needed with several factors.
        ascending : bool, default=False
            Whether the smallest coefficient has rank 1.
        top : int, default=None
            Also return the probability of being among the first ``top``.

        Returns
        -------
        table : DataFrame
            Indexed by label, sorted by ``expected_rank``: ``mean``, ``expected_rank``, ``rank_sd``, ``p_best``,
            ``p_top_<top>``. From joint draws, with the estimator's `random_state` (0 if it has none).
        """
        check_is_fitted(self)
        seed = 0 if self.random_state is None else self.random_state
        return rank_table(
            self._learnt.frame, self._learnt.fitted.posterior, term, ascending, top, self._generator(seed)
        )

    def to_datatree(self, X=None, y=None, groups=None, *, standard_error=None, draws=None, random_state=None):
        """Return the posterior as an ArviZ DataTree.

        Parameters
        ----------
        X, y, groups, standard_error : array-like, default=None
            Rows, of groups that fit has seen, for which to add ``posterior_predictive`` and, with y, ``log_likelihood``
            and ``observed_data``.
        draws : int, default=None
            Draws of each chain; None is the estimator's. NUTS has no more than it drew.
        random_state : int, RandomState instance, Generator or None, default=None
            None takes the estimator's.

        Returns
        -------
        tree : xarray.DataTree
            Variables as Bambi names them ("Intercept", "floor", "1|county", "1|county_sigma", "sigma"), and
            ``corr_<factor>``. For ``pooling="none"`` what `summary` calls not estimated is the same in all draws, so
            that it and the groups' deviations from it add up; what the rows of a group do not identify is NaN.
        """
        check_is_fitted(self)
        if draws is not None and (not isinstance(draws, Integral) or isinstance(draws, bool) or draws < 1):
            raise ValueError(f"draws must be a positive integer, the draws of each chain; got {shown(draws)}.")
        rows = None
        if X is not None:
            rows, read = read_predicted(self, X, groups, standard_error, y)
            n_unknown = int(unknown_rows(read).sum())
            if n_unknown:
                raise ValueError(
                    f"{n_unknown} rows of X are of groups that fit has not seen, whose effects are no parameters of "
                    "the posterior. Leave them out of to_datatree; sample_y and predict_interval know new groups."
                )
            y = read.y
            require_standard_error(self, standard_error, "to_datatree with X")
        elif y is not None or groups is not None or standard_error is not None:
            raise ValueError("to_datatree takes y=, groups= and standard_error= together with X only.")
        return posterior_datatree(
            self._learnt.frame,
            self._learnt.fitted,
            self.chains,
            self.draws if draws is None else draws,
            self._generator(random_state),
            rows,
            y,
            self._learnt.known_errors,
        )

    def to_bambi(self, X, y, groups=None, *, standard_error=None):
        """Return the same model as a `bambi.Model`, every prior explicit.

        Parameters
        ----------
        X, y, groups, standard_error
            As for `fit`.

        Returns
        -------
        model : bambi.Model
            Not built yet; ``model.fit()`` samples it, and ``model.predict(idata, data=X_new)`` takes new rows of X
            where all terms are numeric, without ``bs`` and ``poly``; see "The Bambi model" in the guide to engines.

        Raises
        ------
        ValueError
            With ``pooling="none"``: a limit, which is no Bambi model.
        """
        if self.pooling == "none":
            raise ValueError(
                "to_bambi cannot state pooling='none', the limit of infinite between-group sds. Use pooling='partial', "
                "or a formula with the groups as common terms ('y ~ 0 + group + group:x' is close to it)."
            )
        table = read_training_table(copy(self), X)  # what is read here is not learnt
        frame, rows = read_training_frame(options_of(self), table, y, groups, standard_error, None)
        return bambi_model(frame, rows, model_priors(self.priors, frame, rows))
