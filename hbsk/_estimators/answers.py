"""Tables and other answers after fit that do not depend on rows: mixins of the estimators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from hbsk._base import (
    LearntMeans,
    generator,
    learnt_by,
    read_predicted,
    read_training_table,
    require_standard_error,
)
from hbsk._data.checks import check_coverage
from hbsk._data.factor import Factor
from hbsk._fit.gaussian import bambi_model, diagnose_fit, model_priors
from hbsk._fit.learnt import Learnt
from hbsk._messages import shown
from hbsk._model.frame import read_training_frame, unknown_rows
from hbsk._model.options import options_of
from hbsk._model.points import Point, read_point
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
from hbsk._shrinkage.heterogeneity import analyse_means, why_not_analysed
from hbsk._shrinkage.rates import FittedRates
from hbsk._shrinkage.tables import EFFECT_COLUMNS, WITHOUT_MONTE_CARLO, effect_table, parameter_table, rate_table


def check_only_factor(factors: tuple[Factor, ...], factor: Any) -> None:
    """Raise where a name is given that is not that of the one grouping factor."""
    (known,) = factors
    if factor not in (None, known.name):
        raise ValueError(f"factor={shown(factor)} is no grouping factor of this model; its factor is {known.name!r}.")


def point_of(estimator: Any, at: Any) -> Point | None:
    """Return the point that ``at=`` asks for; see `group_effects` of the estimators."""
    learnt = learnt_by(estimator)
    return read_point(learnt.frame.specification, learnt.column_means, at)


def refuse_point(at: Any) -> None:
    """Raise where a point is asked for that shrunken means do not have."""
    if not (isinstance(at, str) and at == "zero"):
        raise ValueError(
            f"at={shown(at)}: a JamesSteinEstimator has means of groups, each at the average row of its group; leave "
            "at= out."
        )


def ranks_of_groups(
    estimator: Any, term: Any = None, factor: Any = None, ascending: bool = False, top: Any = None, at: Any = "zero"
) -> pd.DataFrame:
    """Return the law of the rank of every group, those below ``top`` too; see `rank_groups` of the estimators."""
    learnt = learnt_by(estimator)
    if isinstance(learnt, Learnt):
        seed = 0 if estimator.random_state is None else estimator.random_state
        point = point_of(estimator, at)
        return rank_table(learnt.frame, learnt.fitted.posterior, term, factor, ascending, top, generator(seed), point)
    refuse_point(at)
    known = [known for factor in learnt.factors for known in factor.terms]
    if not known:
        raise ValueError("There are no groups to rank: the estimator was fitted without.")
    if term not in (None, *known):
        raise ValueError(f"term={shown(term)} is no varying term of this model; its term is {known[0]!r}.")
    check_only_factor(learnt.factors, factor)
    if not np.isfinite(learnt.means.theta_sd).all():
        raise ValueError("The groups cannot be ranked: the variance within groups, and so their sd, is not known.")
    (ranked,) = learnt.factors
    n_draws, rng = n_rank_draws(ranked.n_groups), np.random.default_rng(0)
    if isinstance(learnt.means, FittedRates):
        draws = learnt.means.draw(n_draws, 0, rng)
    else:
        draws = draw_means(learnt.means, n_draws, rng).theta
    return ranks_of_draws(draws, label_index(ranked.labels, ranked.name), ascending, top)


class ShrunkenAnswersMixin:
    """Tables of shrunken means; a mixin of `JamesSteinEstimator`, whose file tells fit and predict."""

    _learnt: LearntMeans
    group_means_: np.ndarray
    group_sizes_: np.ndarray
    between_group_variance_: float

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
    def group_standard_errors_(self):
        """Standard errors of `group_means_`."""
        return np.sqrt(learnt_by(self).means.variances)

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
            (`theta_`), ``sd`` (`theta_sd_`), ``deviation`` and ``deviation_sd`` of the mean less the target,
            ``shrinkage``, and ``eti95_lb``, ``eti95_ub`` (named by ``coverage``) of the mean: quantiles of Student's t.
        """
        if coverage is not None:
            check_coverage(coverage)
        learnt = learnt_by(self)
        for factor in learnt.factors:
            (term,) = factor.terms
            own = self.group_means_
            return effect_table(factor.name, term, factor.labels, self.group_sizes_, own, learnt.means, coverage)
        return pd.DataFrame(columns=EFFECT_COLUMNS)

    def summary(self, coverage=0.95, *, diagnostics=False):
        """Return the parameters that were estimated, with what is known of them.

        Method and target of the fit are the names of its columns and rows, and stand in its upper left corner.

        Parameters
        ----------
        coverage : float, default=0.95
            Probability of the central intervals.
        diagnostics : bool, default=False
            Whether to add what other estimators tell of Monte Carlo error. Nothing is sampled here: there is none,
            ``mcse_mean`` is 0, ``equivalent_draws`` and ``equivalent_draws_tail`` are infinite.

        Returns
        -------
        table : DataFrame
            Rows "Intercept", the pooled mean that means were moved towards (sd 0 where it was given), and slopes of the
            target; "sigma" unless standard errors are known; "between_group_variance"; "1|<factor>_sigma", its root,
            the sd between groups; "variance_share[<factor>]", its share in the sum of both variances, unless standard
            errors are known. Columns ``mean``, ``sd``, ``eti95_lb``, ``eti95_ub`` (named by ``coverage``) and the
            degrees of freedom ``df`` of the interval: of coefficients Student's t, with groups less coefficients where
            only group means tell them; of sigma chi-square; of what goes with the variance between groups Q-profile,
            see `heterogeneity`. The sds of its root and share are not known (NaN).
        """
        check_coverage(coverage)
        learnt = learnt_by(self)
        if isinstance(learnt.means, FittedRates):
            table = rate_table(learnt.means, [factor.name for factor in learnt.factors], float(coverage))
        else:
            terms = [term for factor in learnt.factors for term in factor.terms]
            table = parameter_table(
                learnt.means,
                learnt.columns,
                terms[0] if terms else None,
                self.between_group_variance_,
                None if why_not_analysed(learnt.means) else self.heterogeneity(coverage),
                float(coverage),
                tau2_is_given=learnt.variance_by == "given",
            )
        if diagnostics:
            table = table.assign(**WITHOUT_MONTE_CARLO)
        return table.rename_axis(index=f"target: {learnt.target}", columns=learnt.method)

    def heterogeneity(self, coverage=0.95):
        """Return the random-effects analysis of the group means: how much true means differ, and the pooled mean.

        It refers to the model of a random-effects meta-analysis with the variance that `between_group_variance` names,
        and is the same for every `method`. With `target="regression"` it is about what the columns leave; with a target
        that was given, about differences from that.

        Parameters
        ----------
        coverage : float, default=0.95
            Probability of the intervals.

        Returns
        -------
        analysis : Heterogeneity
            See :class:`hbsk.meta_analysis.Heterogeneity`. Printed it looks like a summary of metafor.

        Raises
        ------
        ValueError
            Where there are no more groups than coefficients, or sampling variances are not known or 0.
        """
        check_coverage(coverage)
        learnt = learnt_by(self)
        if isinstance(learnt.means, FittedRates):
            raise ValueError(
                f"heterogeneity is about group means with normal errors; method={learnt.method!r} tells how rates "
                "differ in summary()."
            )
        return analyse_means(
            getattr(self, "group_means_", np.empty(0)),
            learnt.means,
            learnt.columns,
            tau2=self.between_group_variance_,
            estimator=learnt.variance_by,
            coverage=float(coverage),
        )

    def rank_groups(self, term=None, *, factor=None, ascending=False, top=None):
        """Return the law of every group's rank.

        Parameters
        ----------
        term : str, default=None
            Only "1|<factor>", the mean, can be ranked by.
        factor : str, default=None
            Only the grouping factor, whose name need not be given.
        ascending : bool, default=False
            Whether the smallest mean has rank 1.
        top : int, default=None
            Return the first so many, with the probability of being among them; None: all groups.

        Returns
        -------
        table : DataFrame
            Indexed by label, sorted by ``expected_rank``: ``mean``, ``expected_rank``, ``rank_sd``, ``p_best``,
            ``p_top_<top>``. Ranks are those among all groups. From 4,000 joint draws, always the same, of an
            approximate posterior: Student's t with a common scale, and one error of the target that all groups share
            by the part they were moved.
        """
        return ranks_of_groups(self, term, factor, ascending, top).iloc[:top]


class PosteriorAnswersMixin:
    """Answers from the posterior; a mixin of `PartialPoolingRegressor`, whose file tells fit and predict."""

    _learnt: Learnt
    pooling: str
    priors: Mapping[str, Any] | None
    chains: int
    draws: int
    _generator: Callable[[Any], np.random.Generator]

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

    def group_effects(self, coverage=0.95, *, at="zero"):
        """Return the coefficients of every group beside their no-pooling estimates.

        Parameters
        ----------
        coverage : float, default=0.95
            Probability of the central intervals; None leaves them out.
        at : {"zero", "mean"} or dict of str to value, default="zero"
            Where the intercepts of groups are told: with all other columns at 0, the formula's intercept (lme4's
            ``coef``); at the means of the columns over the rows of fit; or at values of features, such as
            ``{"hours": 3}``, all others at their means. Slopes are the same
            everywhere. Offsets count as 0.

        Returns
        -------
        table : DataFrame
            One row for each factor, term and group: ``factor``, ``group``, ``term``, ``n`` (copies of rows) and

            - ``mean``, ``sd``, and ``eti95_lb``, ``eti95_ub`` (named by ``coverage``), of the group's coefficient: the
              common coefficient of the same column, where there is one, plus the group's own effect, the effects of all
              other factors at 0 (of a class in a school also the school's);
            - ``deviation``, ``deviation_sd`` of the own effect alone;
            - ``no_pooling``, the coefficient's estimate without pooling, NaN where the group's rows do not identify it.
              With one factor that of ``pooling="none"``; with several the least squares estimate from the group's rows,
              common coefficients and the effects of the other factors at their posterior means;
            - ``shrinkage``, see `shrinkage_`.

            With ``pooling="none"`` the deviation is that from the complete-pooling value, taken as known, where the
            groups absorb the common coefficient; with ``pooling="complete"`` there are no rows.
        """
        if coverage is not None:
            check_coverage(coverage)
        check_is_fitted(self)
        point = point_of(self, at)
        return group_effect_table(self._learnt.frame, self._learnt.fitted, self._learnt.copies, coverage, point)

    @property
    def diagnostics_(self):
        """Whether the posterior was found: one row for each parameter."""
        has_sigma = learnt_by(self).has_sigma
        return self._once(
            "diagnostics", lambda: diagnose_fit(self._learnt.frame, self._learnt.fitted, sigma_is_parameter=has_sigma)
        )

    def _once(self, name, compute):
        """Return a copy of an answer that is computed once for each fit."""
        check_is_fitted(self)
        answer = self._learnt.fitted.once(name, compute)
        return {key: part.copy() for key, part in answer.items()} if isinstance(answer, dict) else answer.copy()

    def summary(self, coverage=0.95, *, diagnostics=False):
        """Return posterior mean, sd and interval of every parameter, and shares of variance.

        Parameters
        ----------
        coverage : float, default=0.95
            Probability of the central intervals.
        diagnostics : bool, default=False
            Whether to add how exactly each number is known. From chains: ``r_hat``, ``ess_bulk``, ``ess_tail`` and
            ``mcse_mean``, as `arviz.summary` has them. From the nodes of the marginal engine, which are no draws:
            ``equivalent_draws``, so many independent draws would have as exact a mean, ``equivalent_draws_tail``, the
            same for the probabilities in the 5 % tails (both infinite where there is no Monte Carlo error), and
            ``mcse_mean``. `diagnostics_` has more.

        Returns
        -------
        table : DataFrame
            ``mean``, ``sd``, ``eti95_lb`` and ``eti95_ub``: ends of the central interval, named by ``coverage``.

            The last rows, "variance_share[<factor>]", are the variance of the effects of a factor in a row, averaged
            over the rows of fit where there are slopes, over that of all factors' effects and the residual variance
            together: of a varying intercept the intraclass correlation (ICC, or VPC). There are none where standard
            errors are known, and none without pooling.

            For ``pooling="none"`` a common coefficient that the groups absorb (what varies by group, columns of group
            level, an intercept that depends on them) is not estimated: its mean is the complete-pooling value, and all
            else is NaN.
        """
        check_is_fitted(self)
        check_coverage(coverage)
        return summary_table(
            self._learnt.frame,
            self._learnt.fitted,
            self.diagnostics_,
            known_errors=not self._learnt.has_sigma,
            coverage=float(coverage),
            with_diagnostics=diagnostics,
        )

    def rank_groups(self, term=None, *, factor=None, ascending=False, top=None, at="zero"):
        """Return the posterior of every group's rank.

        Parameters
        ----------
        term : str, default=None
            Which varying term to rank by, such as "1|county" (the default: the first of the factor) or "floor|county";
            ranked is the group's coefficient.
        factor : str, default=None
            Which grouping factor's groups to rank. With several factors this or `term` must be given.
        ascending : bool, default=False
            Whether the smallest coefficient has rank 1.
        top : int, default=None
            Return the first so many, with the probability of being among them; None: all groups.
        at : {"zero", "mean"} or dict of str to value, default="zero"
            Where intercepts are ranked, see `group_effects`.

        Returns
        -------
        table : DataFrame
            Indexed by label, sorted by ``expected_rank``: ``mean`` (of classes and counts that of the log odds or log
            rate, which ``group_effects(scale="response")`` tells as probability or rate), ``expected_rank``,
            ``rank_sd``, ``p_best``, ``p_top_<top>``. Ranks are those among all groups. From joint draws, with the
            estimator's `random_state` (0 if it has none).
        """
        return ranks_of_groups(self, term, factor, ascending, top, at).iloc[:top]

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
            Variables as Bambi names them ("Intercept", "floor", "1|county", "1|county_sigma", "sigma"),
            ``corr_<factor>`` and ``variance_share`` (see `summary`). For ``pooling="none"`` what `summary` calls not
            estimated is the same in all draws, so that it and the groups' deviations from it add up; what the rows of a
            group do not identify is NaN.
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
            self.draws if draws is None else int(draws),
            self._generator(random_state),
            rows,
            y,
            not self._learnt.has_sigma,
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
        table = read_training_table(copy(self), X, groups)  # what is read here is not learnt
        frame, rows = read_training_frame(options_of(self), table, y, groups, standard_error, None)
        return bambi_model(frame, rows, model_priors(self.priors, frame, rows))
