"""What all estimators of partial pooling share: parameters, formula and groups, what a fit leaves behind."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions

from hbsk._base import (
    GroupRoutingMixin,
    generator,
    learnt_by,
    read_predicted,
    read_training_table,
    takes_groups_from_columns,
)
from hbsk._data.rows import UNKNOWN_GROUPS, Rows
from hbsk._data.suspicions import warn_of_single_rows
from hbsk._data.table import Table
from hbsk._engine.settings import DEFAULT
from hbsk._estimators.answers import PosteriorAnswersMixin, point_of
from hbsk._estimators.comparisons import PosteriorComparisonsMixin
from hbsk._fit.gaussian import bambi_model
from hbsk._fit.generalized import generalized_priors, learn_generalized
from hbsk._fit.learnt import Learnt
from hbsk._messages import shown, warn
from hbsk._model.design import PredictedRows
from hbsk._model.frame import ModelFrame, read_training_frame, unknown_rows
from hbsk._model.options import Options, options_of
from hbsk._posterior.base import Posterior
from hbsk._posterior.datatree import posterior_datatree
from hbsk._posterior.diagnostics import marginal_diagnostics, warn_if_unreliable
from hbsk._posterior.response_tables import on_response_scale, ratio_table
from hbsk.exceptions import NoGroupsWarning


class PartialPoolingBase(GroupRoutingMixin, PosteriorComparisonsMixin, PosteriorAnswersMixin, BaseEstimator):
    """Base of the estimators of partial pooling, which tell what their response is."""

    _parameter_constraints: ClassVar[dict] = {
        "formula": [str, None],
        "group_features": [str, Integral, "array-like", None],
        "slope_features": [str, Integral, "array-like", dict, None],
        "pooling": [StrOptions({"partial", "complete", "none"})],
        "correlated": ["boolean"],
        "priors": [dict, None],
        "inference": [StrOptions({"auto", "marginal", "nuts"})],
        "unknown_groups": [StrOptions(set(UNKNOWN_GROUPS))],
        "draws": [Interval(Integral, 1, None, closed="left")],
        "tune": [Interval(Integral, 0, None, closed="left")],
        "chains": [Interval(Integral, 1, None, closed="left")],
        "sampler_options": [dict, None],
        "n_jobs": [Integral, None],
        "random_state": ["random_state", np.random.Generator],
        "verbose": ["verbose"],
    }

    # what the integration over variance parameters aims at; tests and benchmarks set others
    _integration = DEFAULT

    def __init__(
        self,
        formula=None,
        *,
        group_features=None,
        slope_features=None,
        pooling="partial",
        correlated=True,
        priors=None,
        inference="auto",
        unknown_groups="population",
        draws=1000,
        tune=1000,
        chains=4,
        sampler_options=None,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.formula = formula
        self.group_features = group_features
        self.slope_features = slope_features
        self.pooling = pooling
        self.correlated = correlated
        self.priors = priors
        self.inference = inference
        self.unknown_groups = unknown_groups
        self.draws = draws
        self.tune = tune
        self.chains = chains
        self.sampler_options = sampler_options
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    # for the estimators

    def _begin(self, X: Any, groups: Any, learning: bool = True, **reading: Any) -> tuple[Options, Table]:
        """Take down the options of a fit, and read X; what is read is learnt, or is not."""
        self._check_options()
        options = options_of(self, self._integration)
        return options, read_training_table(self if learning else copy(self), X, groups, **reading)

    def _read(self, options: Options, table: Table, y, groups, **beside: Any) -> tuple[ModelFrame, Rows]:
        """Read what fit was given besides X; warn where nothing can be pooled."""
        frame, rows = read_training_frame(options, table, y, groups, **beside)
        if not frame.factors and self.pooling != "complete":
            self._warn_no_groups()
        return frame, rows

    def _learn(self, learnt: Learnt) -> None:
        """Store what was learnt; nothing of the size of the data."""
        frame, fitted = learnt.frame, learnt.fitted
        specification, posterior = frame.specification, fitted.posterior
        self._learnt = learnt
        self.formula_ = specification.formula
        self.priors_ = fitted.priors
        first = int(specification.has_intercept)
        mean = posterior.common_estimates()
        self.intercept_ = float(mean[0]) if first else 0.0
        self.coef_ = mean[first:]
        self.coef_names_ = list(specification.common_columns[first:])
        self.groups_ = {factor.name: factor.labels for factor in frame.factors}
        self.inference_ = fitted.inference  # the last one: it marks the estimator as fitted
        if not fitted.reliable:
            warn_if_unreliable(self._judged(frame, posterior), engine=fitted.inference.split()[0])

    def _judged(self, frame: ModelFrame, posterior: Posterior) -> pd.DataFrame:
        """Return of the diagnostics what a fit looks at before it warns."""
        common, has_sigma = posterior.judged_mixture(), self._learnt.has_sigma
        if common is None:
            return self.diagnostics_
        return marginal_diagnostics(frame.specification, posterior, sigma_is_parameter=has_sigma, common=common)

    def _mark_unknown(self, answer, read):
        if self.unknown_groups == "nan" and answer is not None:
            answer[unknown_rows(read)] = np.nan
        return answer

    def _generator(self, random_state):
        return generator(self.random_state if random_state is None else random_state)

    # for scikit-learn

    def __sklearn_is_fitted__(self):
        return hasattr(self, "inference_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = self.group_features is not None or takes_groups_from_columns(self.formula)
        tags.input_tags.string = True
        return tags

    def _check_options(self):
        if self.formula is not None:
            for name in ("group_features", "slope_features"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name}={getattr(self, name)!r} cannot be combined with formula={self.formula!r}: a formula "
                        "names its own groups and slopes. Leave one of the two out."
                    )

    def _warn_no_groups(self):
        warn(
            f"{type(self).__name__} was fitted without groups: an ordinary Bayesian regression, nothing is pooled. Set "
            "group_features= to the column of X that holds the groups (scikit-learn drops groups= in several places, "
            "for example in GridSearchCV.fit with metadata routing off); pooling='complete' asks for this model "
            "without a warning.",
            NoGroupsWarning,
        )


class GeneralizedPoolingBase(PartialPoolingBase):
    """Base of the estimators whose response is binary or a count."""

    def _infer(self, options: Options, frame: ModelFrame, rows: Rows, family: str, sized_by: str = "") -> None:
        """Find the posterior and learn it."""
        self._learn(learn_generalized(options, frame, rows, family, sized_by))

    def _rows(
        self, X: Any, groups: Any, include_groups: bool = True, *, must_answer: bool = False
    ) -> tuple[PredictedRows, Rows]:
        """Read rows after fit; those of unknown groups are refused where the answer cannot be NaN."""
        return read_predicted(self, X, groups, must_answer=must_answer, include_groups=include_groups)

    def _bambi(self, options: Options, frame: ModelFrame, rows: Rows, family: str) -> Any:
        """Return the model in Bambi."""
        rows = replace(rows, y_deviation=rows.y, y_origin=0.0)
        return bambi_model(frame, rows, generalized_priors(options, frame, rows, family), family)

    def _known_rows(self, X: Any, groups: Any) -> PredictedRows:
        """Read rows for `to_datatree`, of groups that fit has seen."""
        rows, read = self._rows(X, groups)
        n_unknown = int(unknown_rows(read).sum())
        if n_unknown:
            raise ValueError(
                f"{n_unknown} rows of X are of groups that fit has not seen, whose effects are no parameters of the "
                "posterior. Leave them out of to_datatree; sample_y and predict_interval know new groups."
            )
        return rows

    def group_effects(self, coverage=0.95, *, scale="link", at="zero"):
        """Return the coefficients of every group beside their no-pooling estimates.

        Parameters
        ----------
        coverage : float, default=0.95
            Probability of the central intervals; None leaves them out.
        scale : {"link", "response"}, default="link"
            "link": coefficients, of the log odds or the log rate. "response": those of varying intercepts as
            probabilities or rates, ``at`` a point; those of slopes as odds ratios or rate ratios.
        at : {"zero", "mean"} or dict of str to value, default="zero"
            Where the intercepts of groups are told: with all other columns at 0, the formula's intercept (lme4's
            ``coef``); at the means of the columns over the rows of fit; or at values of features, such as
            ``{"hours": 3}``, all others at their means. Offsets count as 0.

        Returns
        -------
        table : DataFrame
            One row for each factor, term and group: ``factor``, ``group``, ``term``, ``n`` (copies of rows, times their
            trials or exposure) and

            - ``mean``, ``sd``, and ``eti95_lb``, ``eti95_ub`` (named by ``coverage``), of the group's coefficient: the
              common coefficient of the same column, where there is one, plus the group's own effect;
            - ``deviation``, ``deviation_sd`` of the own effect alone; not on the scale of the response;
            - ``no_pooling``, the maximum likelihood estimate from the group's rows, other common coefficients at their
              posterior means: infinite (0 or 1 as a probability) where the group has seen nothing but failures or
              successes, NaN where its rows do not identify it, or with several factors;
            - ``shrinkage``, see `shrinkage_`.
        """
        self._check_scale(scale)
        table = super().group_effects(coverage, at=at)
        learnt = learnt_by(self)
        return table if scale == "link" else on_response_scale(learnt.frame, learnt.fitted, table, point_of(self, at))

    def summary(self, coverage=0.95, *, scale="link", diagnostics=False):
        """Return posterior mean, sd and interval of every parameter, or ratios.

        Parameters
        ----------
        coverage : float, default=0.95
            Probability of the central intervals.
        scale : {"link", "response"}, default="link"
            "link": all parameters, of the log odds or the log rate. "response": odds ratios or rate ratios of the
            common coefficients; of the intercept the odds or the rate where all columns are 0.
        diagnostics : bool, default=False
            Whether to add how exactly each number is known, as in `PartialPoolingRegressor.summary`; only with
            ``scale="link"``.

        Returns
        -------
        table : DataFrame
            ``mean``, ``sd``, ``eti95_lb`` and ``eti95_ub`` (named by ``coverage``); on the scale of the response
            ``ratio`` in the place of mean and sd. Ratio and ends are exponentials of mean and ends.
        """
        self._check_scale(scale)
        if scale == "link":
            return super().summary(coverage, diagnostics=diagnostics)
        if diagnostics:
            raise ValueError(
                "diagnostics=True tells how exactly coefficients are known, not their ratios: ask for it with "
                "scale='link'."
            )
        return ratio_table(super().summary(coverage), learnt_by(self).frame.specification.common_columns)

    def _check_scale(self, scale: Any) -> None:
        if scale not in ("link", "response"):
            raise ValueError(f"scale must be 'link' or 'response', got {shown(scale)}.")

    def _datatree(self, draws: Any, random_state: Any, rows: PredictedRows | None = None, y: Any = None) -> Any:
        """Return the posterior as an ArviZ DataTree, and what follows for rows."""
        if draws is not None and (not isinstance(draws, Integral) or isinstance(draws, bool) or draws < 1):
            raise ValueError(f"draws must be a positive integer, the draws of each chain; got {shown(draws)}.")
        learnt = learnt_by(self)
        n_draws = int(self.draws if draws is None else draws)
        generator = self._generator(random_state)
        return posterior_datatree(
            learnt.frame, learnt.fitted, self.chains, n_draws, generator, rows, y, not learnt.has_sigma
        )

    def _warn_of_single_rows(self, frame: ModelFrame, rows: Rows) -> None:
        """Warn where every group has one binary row."""
        weight = rows.sample_weight
        if self.pooling == "partial" and (weight is None or weight.max() <= 1):
            warn_of_single_rows(
                [(factor.name, factor.labels) for factor in frame.factors], rows.n_rows, are_binary=True
            )
