"""Partial pooling of counts and proportions as a scikit-learn regressor."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from sklearn.base import RegressorMixin, _fit_context
from sklearn.utils._param_validation import StrOptions

from hbsk._base import check_n_samples, keeps_former_fit, learnt_by
from hbsk._data.checks import check_interval, check_target, check_weights
from hbsk._data.responses import SIZE_OF, as_counts, check_counts, check_outcomes, refuse_size_of_means
from hbsk._data.suspicions import warn_of_order
from hbsk._estimators.partial_pooling import GeneralizedPoolingBase, PartialPoolingBase
from hbsk._estimators.sizes import SizesMixin
from hbsk._model.frame import read_training_frame
from hbsk._posterior.deviances import explained_deviance
from hbsk._posterior.response_rows import (
    predict_count_interval,
    predict_response,
    predict_response_interval,
    sample_responses,
)


class PartialPoolingCountRegressor(SizesMixin, RegressorMixin, GeneralizedPoolingBase):
    r"""Hierarchical Bayesian regression of counts or proportions: groups borrow strength from each other.

    The model of lme4's ``glmer(y ~ x + (x | group), family = poisson)``, or ``family = binomial``, with priors, and its
    full posterior. With exposure :math:`e_i` or trials :math:`m_i`:

    .. math::
        y_i &\sim \mathrm{Poisson}(e_i \lambda_i), \quad \log \lambda_i = x_i' b + z_i' u_{j(i)}, \\
        \text{or} \quad y_i &\sim \mathrm{Binomial}(m_i, p_i), \quad
        \log \frac{p_i}{1 - p_i} = x_i' b + z_i' u_{j(i)}, \\
        u_j &\sim N(0, \Sigma), \quad \Sigma = \mathrm{diag}(\tau)\, \Omega\, \mathrm{diag}(\tau).

    The effects of the groups are integrated out by adaptive Gauss-Hermite quadrature and the rest by importance
    sampling (``inference="marginal"``), in hundredths of a second for small data.

    Read more in the :ref:`User Guide <binary_and_counts>`.

    Parameters
    ----------
    formula : str, default=None
        A model in Bambi's language, such as ``"seizures ~ treated + (1 | patient)"``. A left-hand side is optional
        and only names y. ``(x || g)`` and separate parentheses on one factor are independent effects. Names are
        columns of X, and ``groups`` for labels passed as ``groups=``; a call may name only a listed set of functions
        (``center``, ``scale``, ``poly``, ``bs``, ``C``, ``I``, ``log``, ``np.sqrt``, ...). None writes the formula from
        the columns: all features as common effects, a varying intercept for each grouping factor, a varying slope for
        `slope_features`.
    family : {"poisson", "binomial"}, default="poisson"
        What y is: counts over an exposure, or successes out of trials.
    group_features : str, int or array-like of these, default=None
        Columns of X that hold group labels, by name or position (negative counts from the end), or one boolean for
        every column. Several columns are crossed factors; classes within schools, whose labels recur in every school,
        are ``(1 | school/class)`` in a `formula`. Nothing has to be routed then: any scikit-learn tool works. None
        takes the labels from ``groups=``, or from `formula`.
    slope_features : str, int, array-like of these, "all" or dict, default=None
        Features whose slope varies by group, by name, position or a boolean for every column. With several factors a
        dict from factor to features.
    pooling : {"partial", "complete", "none"}, default="partial"
        "complete" leaves the groups out. "none" fixes the sds between groups at the scales of their default priors, so
        that groups learn next to nothing from each other; there is no limit beyond, since a group of nothing but
        successes has no finite estimate of its own. Groups that fit has not seen are new ones of that sd.
    correlated : bool, default=True
        Whether the effects of one factor are correlated a priori; False makes them all independent, at the point that
        their priors refer to.
    priors : dict, default=None
        Priors by Bambi's term names ("Intercept", "treated", "1|patient", "treated|patient", "corr|patient", and
        "common", "group_specific" for all terms of a kind), each a `bambi.Prior` or plain data such as
        ``("Normal", {"mu": 0, "sigma": ("HalfNormal", {"sigma": 1})})``, on the scale of the linear predictor. A number
        in place of a distribution fixes the parameter; the number at "corr|patient" is the LKJ shape. Priors of common
        terms refer to mean-centred columns where there is an intercept; those of effects to the varying columns less
        the point at "centre|patient". Others are Bambi's auto-scaled defaults; see `priors_` and Notes.
    inference : {"auto", "marginal", "nuts"}, default="auto"
        "marginal" integrates: adaptive quadrature over the effects of one grouping factor, importance sampling over the
        rest, with priors from a list (see Notes). "nuts" samples through Bambi. "auto" is "marginal" wherever it is
        possible, otherwise "nuts".
    unknown_groups : {"population", "error", "nan"}, default="population"
        Answer for groups that were not seen in fit: the population, their effects drawn from the distribution between
        groups; a ValueError that names them; or NaN. No group is unknown to ``pooling="complete"``, which ignores them
        all.
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
        0 prints nothing, and the logger "hbsk" says at level INFO when NUTS begins; above, NUTS shows its progress.

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
    groups_ : dict of str to ndarray of shape (n_groups,)
        Labels of each grouping factor: in the order of an ordered Categorical, sorted where they sort, otherwise in
        order of appearance.
    group_sd_ : dict of str to Series
        Posterior means of the between-group sds (tau) by term, of the linear predictor; one Series for each factor.
    group_correlation_ : dict of str to DataFrame
        Posterior means of the correlations between the effects of a group.
    shrinkage_ : dict of str to DataFrame of shape (n_groups, n_terms)
        ``1 - Var(u_jk | y, b, Sigma) / tau_k^2`` averaged over the posterior: how much of a group's own estimate is
        kept, between 0 (the population's value) and 1 (no pooling).
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
    PartialPoolingClassifier : Two classes.
    PartialPoolingRegressor : Responses with normal noise.

    Notes
    -----
    Predictions are rates for one unit of exposure, or proportions: posterior means of them, not the inverse link of the
    mean predictor.

    scikit-learn passes ``exposure`` to fit and forgets it in scorers. An estimator that was fitted with exposure or
    trials therefore refuses to score without. Where nothing is routed, write what is the same likelihood, as for
    :class:`~sklearn.linear_model.PoissonRegressor`: ``fit(X, count / exposure, sample_weight=exposure)``, and
    ``fit(X, successes / trials, sample_weight=trials)``; every scorer and search then weighs rows rightly.

    Counts that vary by more than the model says are overdispersed. A group of its own for every row, ``(1 | row)``,
    mends that; beside other groups it is a second grouping factor, and several factors are sampled by NUTS.

    Default priors are Bambi's for the family, on mean-centred columns. For "poisson" coefficients are Normal(0, 2.5 /
    sd), the sd between groups HalfNormal(2.5) and the intercept Normal(log(sum y / sum exposure), 2.5), where Bambi has
    mean 0, so that the unit of exposure does not matter. For "binomial" they are those of `PartialPoolingClassifier`.
    Means, sds and pooled rates are of rows weighted by exposure or trials.

    The mean rate of a new group is that of a log-normal law whose sd is itself uncertain. Under a prior of that sd as
    wide as HalfNormal(1) or wider it does not exist, strictly; what is returned leaves out the widest 0.5 % of the
    posterior. With few groups tighten the prior, or take the median, an interval of little coverage.

    References
    ----------
    .. [1] J. C. Pinheiro, D. M. Bates (1995). Approximations to the log-likelihood function in the nonlinear
       mixed-effects model. Journal of Computational and Graphical Statistics 4(1).
    .. [2] A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry (2024). Pareto smoothed importance sampling. Journal of
       Machine Learning Research 25(72).

    Examples
    --------
    >>> import pandas as pd
    >>> from hbsk import PartialPoolingCountRegressor
    >>> X = pd.DataFrame({"player": ["a", "b", "c", "d", "e"]})
    >>> hits, at_bats = [18, 12, 7, 0, 3], [45, 45, 45, 2, 8]
    >>> model = PartialPoolingCountRegressor(family="binomial", group_features="player")
    >>> model.fit(X, hits, trials=at_bats).predict(X).round(2)
    array([0.36, 0.27, 0.2 , 0.24, 0.32])
    """

    _parameter_constraints: ClassVar[dict] = {
        **PartialPoolingBase._parameter_constraints,
        "family": [StrOptions(set(SIZE_OF))],
    }

    def __init__(
        self,
        formula=None,
        *,
        family="poisson",
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
        super().__init__(
            formula,
            group_features=group_features,
            slope_features=slope_features,
            pooling=pooling,
            correlated=correlated,
            priors=priors,
            inference=inference,
            unknown_groups=unknown_groups,
            draws=draws,
            tune=tune,
            chains=chains,
            sampler_options=sampler_options,
            n_jobs=n_jobs,
            random_state=random_state,
            verbose=verbose,
        )
        self.family = family

    @keeps_former_fit
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, groups=None, *, exposure=None, trials=None, sample_weight=None):
        """Find the posterior; where that fails, a former fit is kept whole.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features)
            Features and, where they are columns, group labels. Text and categorical columns are coded by treatment
            contrasts. None, or no columns, with `groups`.
        y : array-like of shape (n_samples,)
            Counts, or successes; without ``trials=`` of a "binomial" 0 or 1, or proportions with ``sample_weight=`` as
            trials.
        groups : array-like of shape (n_samples,) or (n_samples, n_factors), default=None
            Group labels, where they are no columns of X; in a formula they are called ``groups``, the columns of a
            frame keep their names.
        exposure : array-like of shape (n_samples,) or float, default=None
            What each count is over, with ``family="poisson"``: time, area, persons. Positive.
        trials : array-like of shape (n_samples,) or float, default=None
            Trials behind each y, with ``family="binomial"``. Positive.
        sample_weight : array-like of shape (n_samples,), default=None
            Number of copies of each row, a frequency weight; rows of weight 0 are left out.

        Returns
        -------
        self : PartialPoolingCountRegressor

        Raises
        ------
        ValueError, TypeError
            For input that the model cannot take; the message names the argument and what is accepted.

        Warns
        -----
        hbsk.exceptions.NonIntegerCountWarning
            Where y is not whole, and is not so by weights that are exposure or trials either.
        """
        options, table = self._begin(X, groups)
        family = self.family
        warn_of_order(table, [("exposure", exposure), ("trials", trials)])
        size = self._sizes(family, table.n_rows, exposure, trials)
        frame, rows = self._read(options, table, y, groups, sample_weight=sample_weight, size=size, are_sizes=True)
        rows = as_counts(rows, family)
        if family == "binomial" and rows.size is None:
            self._warn_of_single_rows(frame, rows)
        rows = replace(rows, y_deviation=rows.y, y_origin=0.0)
        self._infer(options, frame, rows, family, "" if size is None else SIZE_OF[family])
        return self

    def predict(self, X, groups=None, *, include_groups=True):
        """Return the posterior mean of the rate for one unit of exposure, or of the proportion.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features)
            Rows to predict, with the columns that fit had; None where it had none.
        groups : array-like, default=None
            Group labels, where fit had them as ``groups=``.
        include_groups : bool, default=True
            False: no labels are looked at, and the effects of all groups are 0 (where their prior has a fixed mean,
            that mean): rates of a group in the middle of the population, not the average over groups.

        Returns
        -------
        mean : ndarray of shape (n_samples,)
        """
        rows, read = self._rows(X, groups, include_groups)
        return self._mark_unknown(predict_response(self._learnt.fitted.posterior, rows), read)

    def predict_interval(
        self, X, groups=None, *, coverage=0.9, kind="mean", include_groups=True, exposure=None, trials=None
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
        kind : {"mean", "prediction"}, default="mean"
            Interval of the rate or proportion, or of a new count; counts are whole, so that the second may hold more
            than ``coverage``.
        include_groups : bool, default=True
            False: no labels are looked at, and the effects of all groups are 0, as in `predict`.
        exposure : array-like of shape (n_samples,) or float, default=None
            Exposure of each row, with ``family="poisson"``; for a prediction; needed where fit had it, otherwise 1.
        trials : array-like of shape (n_samples,) or float, default=None
            Trials of each row, with ``family="binomial"``; for a prediction; needed where fit had them, otherwise 1.

        Returns
        -------
        interval : ndarray of shape (n_samples, 2)
            Quantiles; none is below 0, no proportion above 1.
        """
        check_interval(coverage, kind)
        rows, read = self._rows(X, groups, include_groups)
        posterior = self._learnt.fitted.posterior
        if kind == "mean":
            refuse_size_of_means(exposure, trials)
            return self._mark_unknown(predict_response_interval(posterior, rows, float(coverage)), read)
        rows = self._with_whole_sizes(rows, X, exposure, trials, "kind='prediction'")
        return self._mark_unknown(predict_count_interval(posterior, rows, float(coverage)), read)

    def sample_y(
        self, X, groups=None, *, n_samples=1, include_groups=True, exposure=None, trials=None, random_state=None
    ):
        """Draw new counts, or successes, from the posterior predictive distribution.

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
        exposure : array-like of shape (n_samples,) or float, default=None
            Exposure of each row, with ``family="poisson"``; needed where fit had it, otherwise 1.
        trials : array-like of shape (n_samples,) or float, default=None
            Trials of each row, with ``family="binomial"``; needed where fit had them, otherwise 1.
        random_state : int, RandomState instance, Generator or None, default=None
            None takes the estimator's.

        Returns
        -------
        y : ndarray of shape (n_samples_X, n_samples)
            Each column is one joint draw of all rows.
        """
        check_n_samples(n_samples)
        rows, read = self._rows(X, groups, include_groups)
        rows = self._with_whole_sizes(rows, X, exposure, trials, "sample_y")
        generator = self._generator(random_state)
        draws = sample_responses(self._learnt.fitted.posterior, rows, int(n_samples), generator)
        return self._mark_unknown(draws, read)

    def score(self, X, y, sample_weight=None, *, groups=None, exposure=None, trials=None):
        r"""Return the share of the deviance that is explained, D^2.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features)
            Rows to predict, with the columns that fit had; None where it had none.
        y : array-like of shape (n_samples,)
            Their counts or successes; rates or proportions, where these were fitted with weights as exposure or trials.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row in the score, beside its exposure or trials.
        groups : array-like, default=None
            Group labels, where fit had them as ``groups=``.
        exposure : array-like of shape (n_samples,) or float, default=None
            Exposure of each row, with ``family="poisson"``; needed where fit had it, otherwise 1.
        trials : array-like of shape (n_samples,) or float, default=None
            Trials of each row, with ``family="binomial"``; needed where fit had them, otherwise 1.

        Returns
        -------
        score : float
            ``1 - D(y, predict) / D(y, pooled rate)``, the pooled rate that of these rows. For "poisson" it is
            :func:`~sklearn.metrics.d2_tweedie_score` with ``power=1`` of ``y / exposure``, weighted by exposure. Where
            the rows do not vary at all, 1 for perfect predictions, otherwise 0.
        """
        family = learnt_by(self).family
        warn_of_order(X, [("y", y), ("sample_weight", sample_weight), ("exposure", exposure), ("trials", trials)])
        rows, _ = self._rows(X, groups, must_answer=True)
        size = self._with_sizes(rows, X, exposure, trials, "score").size
        y = check_target(y, rows.design.n_rows, type(self).__name__)
        check_counts(y, size, family)
        weight = check_weights(sample_weight, len(y), type(self).__name__, are_sizes=True)
        mean = predict_response(self._learnt.fitted.posterior, rows)
        return explained_deviance(family, y, mean, size, weight)

    def to_datatree(  # type: ignore[override]
        self, X=None, y=None, groups=None, *, exposure=None, trials=None, draws=None, random_state=None
    ):
        """Return the posterior as an ArviZ DataTree.

        Parameters
        ----------
        X, y, groups, exposure, trials : array-like, default=None
            Rows, of groups that fit has seen, for which to add ``posterior_predictive`` and, with y, ``log_likelihood``
            and ``observed_data``.
        draws : int, default=None
            Draws of each chain; None is the estimator's. NUTS has no more than it drew.
        random_state : int, RandomState instance, Generator or None, default=None
            None takes the estimator's.

        Returns
        -------
        tree : xarray.DataTree
            Variables as Bambi names them ("Intercept", "treated", "1|patient", "1|patient_sigma"), and
            ``corr_<factor>``.
        """
        if X is None:
            if any(part is not None for part in (y, groups, exposure, trials)):
                raise ValueError("to_datatree takes y=, groups=, exposure= and trials= together with X only.")
            return self._datatree(draws, random_state)
        rows = self._with_whole_sizes(self._known_rows(X, groups), X, exposure, trials, "to_datatree with X")
        if y is not None:
            y = check_target(y, rows.design.n_rows, type(self).__name__)
            check_outcomes(y, rows.size, self._learnt.family)
        return self._datatree(draws, random_state, rows, y)

    def to_bambi(self, X, y, groups=None, *, exposure=None, trials=None):  # type: ignore[override]
        """Return the same model as a `bambi.Model`, every prior explicit.

        Parameters
        ----------
        X, y, groups, exposure, trials
            As for `fit`.

        Returns
        -------
        model : bambi.Model
            Of the family "poisson", "binomial" or "bernoulli"; not built yet. ``model.fit()`` samples it.
        """
        options, table = self._begin(X, groups, learning=False)
        size = self._sizes(self.family, table.n_rows, exposure, trials)
        frame, rows = read_training_frame(options, table, y, groups, size=size, are_sizes=True)
        return self._bambi(options, frame, as_counts(rows, self.family), self.family)

    # private

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = self.family == "poisson"
        return tags
