"""Partial pooling of grouped data as a scikit-learn regressor."""

from __future__ import annotations

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted

from hbsk._base import check_n_samples, keeps_former_fit, names_in, read_predicted, require_standard_error
from hbsk._data.checks import check_coverage, check_interval
from hbsk._data.suspicions import warn_of_order
from hbsk._estimators.lazy import is_lazy, lazy_predictions, lazy_score, lazy_statistics, refuse_rows_elsewhere
from hbsk._estimators.sums import SumsBase
from hbsk._posterior.heterogeneity import posterior_heterogeneity, why_not_random_effects
from hbsk._posterior.orders import OF_MEAN
from hbsk._posterior.prediction import predict_interval, predict_mean, sample_observations
from hbsk.sufficient_statistics import SufficientStatistics, require_nothing_beside


class PartialPoolingRegressor(RegressorMixin, SumsBase):
    r"""Hierarchical Bayesian linear regression: groups borrow strength from each other.

    The model of lme4's ``y ~ x + (x | group)`` with priors, and its full posterior:

    .. math::
        y_i &= x_i' b + z_i' u_{j(i)} + e_i, \quad e_i \sim N(0, \sigma^2), \\
        u_j &\sim N(0, \Sigma), \quad \Sigma = \mathrm{diag}(\tau)\, \Omega\, \mathrm{diag}(\tau).

    Everything but the few variance parameters is integrated out exactly (``inference="marginal"``), which takes
    milliseconds; models beyond that are sampled by NUTS through Bambi and PyMC (``inference="nuts"``).

    Read more in the :ref:`User Guide <user_guide>`.

    Parameters
    ----------
    formula : str, default=None
        A model in Bambi's language, such as ``"log_radon ~ floor + (floor | county)"``. A left-hand side is optional
        and only names y. ``(x || g)`` and separate parentheses on one factor are independent effects. Names are
        columns of X, and ``groups`` for labels passed as ``groups=``; a call may name only a listed set of functions
        (``center``, ``scale``, ``poly``, ``bs``, ``C``, ``I``, ``log``, ``np.sqrt``, ...). None writes the formula from
        the columns: all features as common effects, a varying intercept for each grouping factor, a varying slope for
        `slope_features`.
    group_features : str, int or array-like of these, default=None
        Columns of X that hold group labels, by name or position (negative counts from the end), or one boolean for
        every column. Several columns are crossed factors; classes within schools, whose labels recur in every school,
        are ``(1 | school/class)`` in a `formula`. Nothing has to be routed then: any scikit-learn tool works. None
        takes the labels from ``groups=``, or from `formula`.
    slope_features : str, int, array-like of these, "all" or dict, default=None
        Features whose slope varies by group, by name, position or a boolean for every column. With several factors a
        dict from factor to features.
    pooling : {"partial", "complete", "none"}, default="partial"
        "complete" leaves the groups out. "none" is the limit of infinite between-group sds: varying terms are free in
        every group, common terms are shared; what a group's rows do not identify, and groups that fit has not seen,
        take the complete-pooling value.
    correlated : bool, default=True
        Whether the effects of one factor are correlated a priori; False makes them all independent, at the point that
        their priors refer to.
    priors : dict, default=None
        Priors by Bambi's term names ("Intercept", "floor", "1|county", "floor|county", "sigma", "corr|county", and
        "common", "group_specific" for all terms of a kind), each a `bambi.Prior` or plain data such as
        ``("Normal", {"mu": 0, "sigma": ("HalfNormal", {"sigma": 1})})``. A number in place of a distribution fixes the
        parameter; the number at "corr|county" is the LKJ shape. Priors of common terms refer to mean-centred columns
        where there is an intercept, as in Bambi. Those of effects refer to the varying columns less the point at
        "centre|county", a dict such as ``{"floor": 0}``: by default the means, or 0 beside a prior of yours on
        "1|county" or "corr|county". Others are Bambi's auto-scaled defaults; see `priors_`.
    inference : {"auto", "marginal", "nuts"}, default="auto"
        "marginal" integrates: exact for Gaussian models with priors from a list (see Notes). "nuts" samples. "auto" is
        "marginal" wherever it is exact, otherwise "nuts".
    unknown_groups : {"population", "error", "nan"}, default="population"
        Answer for groups that were not seen in fit: the population mean with an sd that includes the between-group
        covariance, a ValueError that names them, or NaN. No group is unknown to ``pooling="complete"``, which ignores
        them all.
    draws : int, default=1000
        Draws of each chain, for NUTS and for `to_datatree`.
    tune : int, default=1000
        Steps that tune each chain of NUTS.
    chains : int, default=4
        Chains of NUTS, and of `to_datatree`.
    sampler_options : dict, default=None
        Further arguments of `pymc.sample`, such as ``{"target_accept": 0.95}``.
    n_jobs : int, default=None
        Chains of NUTS that run at the same time. None means 1 unless in a :obj:`joblib.parallel_backend` context, -1
        all processors.
    random_state : int, RandomState instance, Generator or None, default=None
        Seed of NUTS and of draws. The marginal engine is deterministic.
    verbose : int, default=0
        0 prints nothing, and the logger "hbsk" says at level INFO when NUTS begins; above, NUTS shows its progress, and
        a fit of several grouping factors that takes longer than a few seconds tells how far it is.

    Attributes
    ----------
    formula_ : str
        What was fitted, in the user's names.
    priors_ : dict
        Every prior as plain data, in the units of the user.
    inference_ : str
        Which engine ran, and why.
    intercept_ : float
        Posterior mean of the intercept of the raw columns; 0 without one.
    coef_ : ndarray of shape (n_columns,)
        Posterior means of the common coefficients, in the order of `coef_names_`.
    coef_names_ : list of str
        Names of the columns of the design, intercept left out.
    sigma_ : float
        Posterior mean of the residual sd; NaN where standard errors are known.
    groups_ : dict of str to ndarray of shape (n_groups,)
        Labels of each grouping factor: in the order of an ordered Categorical, sorted where they sort, otherwise in
        order of appearance.
    group_sd_ : dict of str to Series
        Posterior means of the between-group sds (tau) by term; one Series for each factor. Infinite for
        ``pooling="none"``, and where the prior of the effects has no variance.
    group_correlation_ : dict of str to DataFrame
        Posterior means of the correlations between the effects of a group.
    shrinkage_ : dict of str to DataFrame of shape (n_groups, n_terms)
        ``1 - Var(u_jk | y, b, sigma, Sigma) / tau_k^2`` averaged over the posterior: how much of a group's own estimate
        is kept, between 0 (the population's value) and 1 (no pooling). For varying intercepts it is
        ``tau^2 / (tau^2 + sigma^2 / n_j)``. NaN where effects of the factor are not Normal.
    group_effects_ : DataFrame
        One row for each factor, term and group; see `group_effects`.
    diagnostics_ : DataFrame
        One row for each parameter: ``r_hat``, ``ess_bulk``, ``ess_tail``, ``mcse_mean`` (Monte Carlo error of the
        mean), ``divergences`` and ``pareto_k`` where they apply, and ``in_model`` (False for constant columns, which
        are left out with coefficient 0). For the marginal engine an effective sample size is posterior variance over
        squared Monte Carlo error.
    n_features_in_ : int
        Number of columns of X, group columns included.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns of X, where they are all strings.

    See Also
    --------
    JamesSteinEstimator : Shrinkage of group means without a model of the rows.

    Notes
    -----
    The marginal engine takes Normal and Flat priors on common terms; Normal effects of groups with fixed means;
    HalfNormal, HalfStudentT, HalfCauchy, Exponential, Gamma, InverseGamma and Uniform priors on sds; LKJ priors on
    correlations; numbers for fixed sds. The default priors are Bambi's, except that columns count as mean-centred in
    the scale of the priors on the intercept and on ``1|group``, those with a varying slope as less the point at
    ``centre|group``, so that shifting a column changes nothing; that an offset is taken off y first; and that known
    standard errors are part of the sd of y. sigma is at least 1e-6 of the sd of y: a perfect fit has no proper
    posterior otherwise.

    `group_sd_`, `group_correlation_`, `shrinkage_`, `group_effects_` and `diagnostics_` are computed when they are
    first asked for, kept until the next fit, and left out of pickles. What is returned is a copy: changing it changes
    no answer.

    ``sample_weight`` counts copies of rows; ``standard_error`` is the known sd of each y. They may be given together.

    Fits that are sampled import Bambi and PyMC (seconds); those that are integrated, predicting and unpickling need
    neither. Loading a pickle runs code: load only files that you trust.

    References
    ----------
    .. [1] D. Bates, M. Maechler, B. Bolker, S. Walker (2015). Fitting linear mixed-effects models using lme4. Journal
       of Statistical Software 67(1). https://doi.org/10.18637/jss.v067.i01
    .. [2] T. Capretto et al. (2022). Bambi: a simple interface for fitting Bayesian linear models in Python. Journal of
       Statistical Software 103(15). https://doi.org/10.18637/jss.v103.i15
    .. [3] J. Geweke (1989). Bayesian inference in econometric models using Monte Carlo integration.
       Econometrica 57(6).
    .. [4] A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry (2024). Pareto smoothed importance sampling. Journal of
       Machine Learning Research 25(72).

    Examples
    --------
    >>> from hbsk import PartialPoolingRegressor
    >>> from hbsk.datasets import load_radon
    >>> X, y = load_radon(return_X_y=True, as_frame=True)
    >>> X = X[["county", "floor"]]
    >>> model = PartialPoolingRegressor(group_features="county", slope_features=["floor"]).fit(X, y)
    >>> model.formula_
    'y ~ floor + (floor | county)'
    >>> model.coef_.round(1)
    array([-0.7])
    >>> mean, sd = model.predict(X[:2], return_std=True)
    >>> mean.round(1), sd.round(1)
    (array([0.6, 1.2]), array([0.8, 0.8]))
    """

    @keeps_former_fit
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, groups=None, *, standard_error=None, sample_weight=None):
        """Find the posterior; where that fails, a former fit is kept whole.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features), lazy frame or SufficientStatistics
            Features and, where they are columns, group labels. Text and categorical columns are coded by treatment
            contrasts. None, or no columns, with `groups`. Of a lazy frame (DuckDB, Polars, Dask, Spark, Ibis) the
            engine computes sums by group; all that is given beside it is the name of a column, and without a formula
            the features are its other columns. `SufficientStatistics`, from `collect`, stand for all that is given.
        y : array-like of shape (n_samples,)
            Responses; of a lazy frame the name of their column, which the formula may give.
        groups : array-like of shape (n_samples,) or (n_samples, n_factors), default=None
            Group labels, where they are no columns of X; in a formula they are called ``groups``, the columns of a
            frame keep their names.
        standard_error : array-like of shape (n_samples,), default=None
            Known sampling sd of each y, as in a meta-analysis; at least 1e-7 of the sd of y. The residual sd is then no
            parameter.
        sample_weight : array-like of shape (n_samples,), default=None
            Number of copies of each row, a frequency weight; rows of weight 0 are left out.

        Returns
        -------
        self : PartialPoolingRegressor

        Raises
        ------
        ValueError, TypeError
            For input that the model cannot take; the message names the argument and what is accepted.
        """
        given = {"groups": groups, "standard_error": standard_error, "sample_weight": sample_weight}
        if is_lazy(X):
            X, y, given = lazy_statistics(self, X, y, **given), None, {}
        if isinstance(X, SufficientStatistics):
            require_nothing_beside({"y": y, **given})
            return self._fit_statistics(X)
        options, table = self._begin(X, groups)
        return self._fit(options, *self._collect(options, table, y, **given))

    def predict(self, X, groups=None, *, include_groups=True, return_std=False, standard_error=None):
        """Return the posterior predictive mean of each row, and its sd.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features), or lazy frame
            Rows to predict, with the columns that fit had; a lazy frame may have others. None where fit had
            none.
        groups : array-like, default=None
            Group labels, where fit had them as ``groups=``.
        include_groups : bool, default=True
            False: no labels are looked at, and the effects of all groups are 0 (where their prior has a fixed mean,
            that mean), as with lme4's ``re.form = NA``. The sd is then without the variance between groups, that of the
            group in the middle of the population; a label that fit has not seen has the same mean and all of the sd.
        return_std : bool, default=False
            Whether to return the sd of a new observation, residual noise included.
        standard_error : array-like of shape (n_samples,), default=None
            Sampling sd of the new observations, where fit had known standard errors; only for ``return_std=True``.

        Returns
        -------
        mean : ndarray of shape (n_samples,)
        std : ndarray of shape (n_samples,)
            Only if ``return_std``. Infinite where the posterior has no variance (mostly a group that fit has not seen,
            few groups, a heavy-tailed prior) or the prior of the effects has none, and with ``pooling="none"`` where
            the group's own rows do not identify the mean of the row.

            For a lazy frame, a lazy frame of the same kind with its own columns and "prediction", "prediction_std"
            instead, which the engine computes when it is asked: null where a feature is missing or a level unknown.
            Polars keeps the order of rows; other engines have none.
        """
        if is_lazy(X):
            beside = {"standard_error": standard_error, "include_groups": include_groups}
            return lazy_predictions(self, X, groups, return_std=return_std, **beside)
        rows, read = read_predicted(self, X, groups, standard_error, include_groups=include_groups)
        if return_std or standard_error is not None:
            require_standard_error(self, standard_error, "return_std=True")
        mean, std = predict_mean(self._learnt.fitted.posterior, rows, return_std=return_std)
        mean = self._mark_unknown(mean, read)
        return (mean, self._mark_unknown(std, read)) if return_std else mean

    def predict_interval(
        self, X, groups=None, *, coverage=0.9, kind="prediction", include_groups=True, standard_error=None
    ):
        """Return central intervals of each row.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features)
            Rows to predict, with the columns that fit had; None where it had none.
        groups : array-like, default=None
            Group labels, where fit had them as ``groups=``.
        coverage : float, default=0.9
            Probability of the interval, a fraction.
        kind : {"prediction", "mean"}, default="prediction"
            Interval for a new observation, or for the mean of the row's group at the row's features.
        include_groups : bool, default=True
            False: no labels are looked at, and the effects of all groups are 0, as in `predict`.
        standard_error : array-like of shape (n_samples,), default=None
            Sampling sd of the new observations, where fit had known standard errors; not needed for ``kind="mean"``.

        Returns
        -------
        interval : ndarray of shape (n_samples, 2)
            Quantiles of the posterior predictive mixture, without Monte Carlo noise of their own.
        """
        check_interval(coverage, kind)
        refuse_rows_elsewhere(X, "predict_interval", "predict(X, return_std=True) gives means and sds of a lazy frame")
        rows, read = read_predicted(self, X, groups, standard_error, include_groups=include_groups)
        if kind == "prediction":
            require_standard_error(self, standard_error, "kind='prediction'")
        interval = predict_interval(self._learnt.fitted.posterior, rows, coverage=coverage, kind=kind)
        return self._mark_unknown(interval, read)

    def sample_y(self, X, groups=None, *, n_samples=1, include_groups=True, standard_error=None, random_state=None):
        """Draw new observations from the posterior predictive distribution.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features)
            Rows to predict, with the columns that fit had; None where it had none.
        groups : array-like, default=None
            Group labels, where fit had them as ``groups=``. Each distinct new label has its own effects, shared by its
            rows.
        n_samples : int, default=1
            Number of draws.
        include_groups : bool, default=True
            False: no labels are looked at, and the effects of all groups are 0, as in `predict`.
        standard_error : array-like of shape (n_samples,), default=None
            Sampling sd of the new observations, where fit had known standard errors.
        random_state : int, RandomState instance, Generator or None, default=None
            None takes the estimator's.

        Returns
        -------
        y : ndarray of shape (n_samples_X, n_samples)
            Each column is one joint draw of all rows. NaN in the rows of ``pooling="none"`` whose group does not
            identify their mean: their sd is infinite, and nothing can be drawn.
        """
        check_n_samples(n_samples)
        refuse_rows_elsewhere(X, "sample_y", "predict(X, return_std=True) gives means and sds of a lazy frame")
        rows, read = read_predicted(self, X, groups, standard_error, include_groups=include_groups)
        require_standard_error(self, standard_error, "sample_y")
        draws = sample_observations(self._learnt.fitted.posterior, rows, int(n_samples), self._generator(random_state))
        return self._mark_unknown(draws, read)

    def score(self, X, y=None, sample_weight=None, *, groups=None):
        """Return the coefficient of determination of the predictive means.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features), or lazy frame
            Rows to predict, with the columns that fit had; None where it had none.
        y : array-like of shape (n_samples,)
            Their responses; of a lazy frame the name of their column, as of `sample_weight`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row in the score.
        groups : array-like, default=None
            Group labels, where fit had them as ``groups=``.

        Returns
        -------
        score : float
            ``1 - sum w (y - mean)^2 / sum w (y - y_bar)^2``.
        """
        if is_lazy(X):
            return lazy_score(self, X, y, sample_weight, groups)
        warn_of_order(X, [("y", y), ("sample_weight", sample_weight)])
        return r2_score(y, self.predict(X, groups), sample_weight=sample_weight)

    def heterogeneity(self, coverage=0.95):
        """Return the posterior of what a random-effects meta-analysis tells: tau, tau2, I2, H2 and the pooled mean.

        Needs known standard errors and one varying intercept, ``(1 | study)``; the model is then that of
        `JamesSteinEstimator.heterogeneity` with priors, and all that is not known about tau2 is in its intervals.

        Parameters
        ----------
        coverage : float, default=0.95
            Probability of the central posterior intervals.

        Returns
        -------
        analysis : Heterogeneity
            See :class:`hbsk.meta_analysis.Heterogeneity`: estimates are posterior means, standard errors posterior sds,
            both infinite where they do not exist. `prediction_interval`, of the true mean of a group that was not seen,
            is that of ``predict_interval(..., kind="mean")``.

        Raises
        ------
        ValueError
            For another model; the message says what it has.
        """
        check_coverage(coverage)
        check_is_fitted(self)
        why_not = why_not_random_effects(self._learnt)
        if why_not:
            raise ValueError(f"This model is no random-effects analysis, which heterogeneity is about: {why_not}.")
        fitted = self._learnt.fitted
        return posterior_heterogeneity(self._learnt.frame.specification, fitted, float(coverage))

    # private

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        if self.formula is None:
            return tags
        if self.__sklearn_is_fitted__():  # a fit that was read back answers without importing formulae
            specification = self._learnt.frame.specification
            features, factors = specification.feature_names, specification.factors
        else:
            features, factors = names_in(self.formula)
        # what only groups explain is nothing where columns that are no groups are taken for labels
        tags.regressor_tags.poor_score = bool(factors) and not features
        return tags

    def _learn(self, learnt):
        """Store what was learnt, the residual sd too."""
        posterior = learnt.fitted.posterior
        mean = np.inf
        if posterior.tails.of_sigma() > OF_MEAN:
            mean = posterior.weight @ posterior.residual_sds()
        self.sigma_ = float("nan") if learnt.known_errors else float(mean)
        super()._learn(learnt)
