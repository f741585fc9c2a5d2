"""Partial pooling of grouped data as a scikit-learn regressor."""

from __future__ import annotations

import warnings
from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, _fit_context, clone
from sklearn.metrics import r2_score
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from hbsk._group_effects import correlation_frames, group_effect_table, sd_series, shrinkage_frames
from hbsk._datatree import posterior_datatree
from hbsk._inference import bambi_model, diagnose_fit, infer, model_priors
from hbsk._model_frame import read_new_rows, read_training_frame, unknown_rows
from hbsk._prediction import predict_interval, predict_mean, sample_observations
from hbsk._routing import GroupRoutingMixin
from hbsk._summary import rank_table, summary_table
from hbsk.diagnostics import warn_if_unreliable
from hbsk.exceptions import NoGroupsWarning


class PartialPoolingRegressor(GroupRoutingMixin, RegressorMixin, BaseEstimator):
    """Hierarchical Bayesian linear regression: groups borrow strength from each other.
    """

    _parameter_constraints: dict = {
        "formula": [str, None],
        "group_features": [str, Integral, "array-like", None],
        "slope_features": [str, Integral, "array-like", dict, None],
        "pooling": [StrOptions({"partial", "complete", "none"})],
        "correlated": ["boolean"],
        "priors": [dict, None],
        "inference": [StrOptions({"auto", "marginal", "nuts"})],
        "unknown_groups": [StrOptions({"population", "error", "nan"})],
        "draws": [Interval(Integral, 1, None, closed="left")],
        "tune": [Interval(Integral, 0, None, closed="left")],
        "chains": [Interval(Integral, 1, None, closed="left")],
        "sampler_options": [dict, None],
        "n_jobs": [Integral, None],
        "random_state": ["random_state", np.random.Generator],
        "verbose": ["verbose"],
    }

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

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, groups=None, *, standard_error=None, sample_weight=None):
        """Fit the model."""
        self._check_options()
        frame, rows = read_training_frame(self, X, y, groups, standard_error, sample_weight)
        if not frame.grouped.factors and self.pooling != "complete":
            self._warn_no_groups()
        fitted = infer(self, frame, rows)
        self._learn(frame, rows, fitted)
        return self

    def predict(self, X, groups=None, *, return_std=False, standard_error=None):
        """Predict."""
        rows, read = self._read(X, groups, standard_error)
        if return_std:
            self._require_standard_error(standard_error, "return_std=True")
        mean, std = predict_mean(self._fitted.posterior, rows, return_std=return_std)
        mean = self._mark_unknown(mean, read)
        return (mean, self._mark_unknown(std, read)) if return_std else mean

    def predict_interval(self, X, groups=None, *, coverage=0.9, kind="prediction", standard_error=None):
        """Predict intervals."""
        if kind not in ("prediction", "mean"):
            raise ValueError(f"kind must be 'prediction' or 'mean', got {kind!r}.")
        _check_coverage(coverage)
        rows, read = self._read(X, groups, standard_error)
        if kind == "prediction":
            self._require_standard_error(standard_error, "kind='prediction'")
        interval = predict_interval(self._fitted.posterior, rows, coverage=coverage, kind=kind)
        return self._mark_unknown(interval, read)

    def sample_y(self, X, groups=None, *, n_samples=1, standard_error=None, random_state=None):
        """Draw new observations."""
        if not isinstance(n_samples, Integral) or n_samples < 1:
            raise ValueError(f"n_samples must be a positive integer, got {n_samples!r}.")
        rows, read = self._read(X, groups, standard_error)
        self._require_standard_error(standard_error, "sample_y")
        draws = sample_observations(self._fitted.posterior, rows, n_samples, self._generator(random_state))
        return self._mark_unknown(draws, read)

    def score(self, X, y, sample_weight=None, *, groups=None):
        """Return R^2."""
        return r2_score(y, self.predict(X, groups), sample_weight=sample_weight)

    # what was learnt, computed when asked for

    @property
    def group_effects_(self):
        """Group effects."""
        check_is_fitted(self)
        return self.group_effects(coverage=None)

    @property
    def shrinkage_(self):
        """Shrinkage."""
        check_is_fitted(self)
        return shrinkage_frames(self._frame, self._fitted.posterior)

    def group_effects(self, coverage=0.95):
        """Group effects with intervals."""
        check_is_fitted(self)
        return group_effect_table(self._frame, self._fitted, self._copies, coverage)

    @property
    def diagnostics_(self):
        """Diagnostics."""
        check_is_fitted(self)
        return diagnose_fit(self._frame, self._fitted, sigma_is_parameter=not self._has_known_errors)

    def summary(self):
        """Summary."""
        check_is_fitted(self)
        return summary_table(self._frame, self._fitted, self.diagnostics_)

    def rank_groups(self, term=None, *, ascending=False, top=None):
        """Ranks."""
        check_is_fitted(self)
        seed = 0 if self.random_state is None else self.random_state
        return rank_table(self._frame, self._fitted.posterior, term, ascending, top, self._generator(seed))

    def to_datatree(self, X=None, y=None, groups=None, *, standard_error=None, draws=None, random_state=None):
        """DataTree."""
        check_is_fitted(self)
        rows = None
        if X is not None:
            rows, read = read_new_rows(self, self._frame, X, groups, standard_error, y=y)
            y = read.y
            self._require_standard_error(standard_error, "to_datatree with X")
        elif y is not None or groups is not None or standard_error is not None:
            raise ValueError("to_datatree takes y=, groups= and standard_error= together with X only.")
        return posterior_datatree(
            self._frame,
            self._fitted,
            self.chains,
            self.draws if draws is None else draws,
            self._generator(random_state),
            rows,
            y,
            self._has_known_errors,
        )

    def to_bambi(self, X, y, groups=None, *, standard_error=None):
        """Bambi model."""
        frame, rows = read_training_frame(clone(self), X, y, groups, standard_error, None)
        return bambi_model(frame, rows, model_priors(self, frame, rows))

    # private

    def _takes_groups_keyword(self):
        """Tell whether labels may arrive by groups=: not where a column or a formula without `groups` names them."""
        return self.group_features is None and (self.formula is None or "groups" in self.formula)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = self.group_features is not None
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
        warnings.warn(
            f"{type(self).__name__} was fitted without groups: an ordinary Bayesian regression, nothing is pooled. Set "
            "group_features= to the column of X that holds the groups (scikit-learn drops groups= in several places, "
            "for example in GridSearchCV.fit with metadata routing off); pooling='complete' asks for this model "
            "without a warning.",
            NoGroupsWarning,
            stacklevel=4,
        )

    def _learn(self, frame, rows, fitted):
        """Store what was learnt; nothing of the size of the data."""
        specification, posterior = frame.specification, fitted.posterior
        self._frame, self._fitted = frame, fitted
        self._has_known_errors = rows.standard_error is not None
        self._copies = _copies_of_groups(frame, rows)
        self.formula_ = specification.formula
        self.priors_ = fitted.priors
        self.inference_ = fitted.inference
        first = int(specification.has_intercept)
        mean, _ = posterior.common_moments()
        self.intercept_ = float(mean[0]) if first else 0.0
        self.coef_ = mean[first:]
        self.coef_names_ = list(specification.common_columns[first:])
        nodes = posterior.variance_nodes()
        self.sigma_ = float("nan") if self._has_known_errors else float(posterior.weight @ nodes.sigma)
        self.groups_ = {factor.name: frame.factors[factor.name].labels for factor in frame.grouped.factors}
        self.group_sd_ = sd_series(frame, posterior)
        self.group_correlation_ = correlation_frames(frame, posterior)
        if not fitted.reliable:
            warn_if_unreliable(self.diagnostics_, engine=fitted.inference.split()[0], stacklevel=5)

    def _read(self, X, groups, standard_error=None):
        check_is_fitted(self)
        return read_new_rows(self, self._frame, X, groups, standard_error)

    def _require_standard_error(self, standard_error, what):
        if self._has_known_errors and standard_error is None:
            raise ValueError(
                f"{what} needs standard_error= for these rows: the model was fitted with known standard errors, so "
                "the noise of a new observation is not a parameter. kind='mean' and plain predict do not need it."
            )
        if standard_error is not None and not self._has_known_errors:
            raise ValueError(
                "standard_error= was given, but the model was fitted without: its residual sd is a parameter. Leave "
                "standard_error= out, or give it in fit too."
            )

    def _mark_unknown(self, answer, read):
        if self.unknown_groups == "nan" and answer is not None:
            answer[unknown_rows(read)] = np.nan
        return answer

    def _generator(self, random_state):
        random_state = self.random_state if random_state is None else random_state
        if isinstance(random_state, np.random.Generator):
            return random_state
        return np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))


def _check_coverage(coverage):
    if not 0 < coverage < 1:
        raise ValueError(f"coverage must be a fraction between 0 and 1 (0.9 for 90 %), got {coverage!r}.")


def _copies_of_groups(frame, rows) -> dict[str, np.ndarray]:
    """Return the number of copies of rows in each group of each factor."""
    return {
        name: np.bincount(codes, weights=rows.sample_weight, minlength=rows.factors[name].n_groups)
        for name, codes in rows.codes.items()
    }


