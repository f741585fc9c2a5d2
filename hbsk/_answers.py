"""What a fitted model can be asked beyond predictions: tables of groups and parameters, DataTree, Bambi model."""

from __future__ import annotations

from numbers import Integral, Real

from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from hbsk._datatree import posterior_datatree
from hbsk._group_effects import correlation_frames, group_effect_table, sd_series, shrinkage_frames
from hbsk._inference import bambi_model, diagnose_fit, model_priors
from hbsk._messages import shown
from hbsk._model_frame import read_new_rows, read_training_frame, unknown_rows
from hbsk._summary import rank_table, summary_table


class PosteriorAnswersMixin:
    """Answers from the posterior; a mixin of `PartialPoolingRegressor`, whose file tells fit and predict."""

    @property
    def group_effects_(self):
        """Coefficients of every group; see `group_effects`, here without intervals."""
        return self._once("group_effects", lambda: self.group_effects(coverage=None))

    @property
    def group_sd_(self):
        """Posterior means of the sds between groups, by factor."""
        return self._once("group_sd", lambda: sd_series(self._frame, self._fitted.posterior))

    @property
    def group_correlation_(self):
        """Posterior means of the correlations of varying terms, by factor."""
        return self._once("group_correlation", lambda: correlation_frames(self._frame, self._fitted.posterior))

    @property
    def shrinkage_(self):
        """Share of a group's own estimate that is kept, by factor."""
        return self._once("shrinkage", lambda: shrinkage_frames(self._frame, self._fitted.posterior))

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
        return group_effect_table(self._frame, self._fitted, self._copies, coverage)

    @property
    def diagnostics_(self):
        """Whether the posterior was found: one row for each parameter."""
        known = self._has_known_errors
        return self._once("diagnostics", lambda: diagnose_fit(self._frame, self._fitted, sigma_is_parameter=not known))

    def _once(self, name, compute):
        """Return a copy of an answer that is computed once for each fit."""
        check_is_fitted(self)
        answer = self._fitted.once(name, compute)
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
        return summary_table(self._frame, self._fitted, self.diagnostics_)

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
        return rank_table(self._frame, self._fitted.posterior, term, ascending, top, self._generator(seed))

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
            rows, read = read_new_rows(self, self._frame, X, groups, standard_error, y=y)
            n_unknown = int(unknown_rows(read).sum())
            if n_unknown:
                raise ValueError(
                    f"{n_unknown} rows of X are of groups that fit has not seen, whose effects are no parameters of "
                    "the posterior. Leave them out of to_datatree; sample_y and predict_interval know new groups."
                )
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
        """Return the same model as a `bambi.Model`, every prior explicit.

        Parameters
        ----------
        X, y, groups, standard_error
            As for `fit`.

        Returns
        -------
        model : bambi.Model
            Not built yet; ``model.fit()`` samples it.

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
        frame, rows = read_training_frame(clone(self), X, y, groups, standard_error, None)
        return bambi_model(frame, rows, model_priors(self, frame, rows))


def check_coverage(coverage: float) -> None:
    """Raise unless coverage is a probability."""
    if not isinstance(coverage, Real) or not 0 < coverage < 1:
        raise ValueError(f"coverage must be a fraction between 0 and 1 (0.9 for 90 %), got {shown(coverage)}.")
