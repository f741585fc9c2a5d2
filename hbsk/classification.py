"""Partial pooling of grouped data as a binary scikit-learn classifier."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.metrics import accuracy_score

from hbsk._base import check_n_samples, keeps_former_fit
from hbsk._data.checks import check_coverage
from hbsk._data.responses import positions_of_classes, read_classes, two_classes
from hbsk._data.suspicions import warn_of_order
from hbsk._estimators.partial_pooling import GeneralizedPoolingBase
from hbsk._model.frame import read_training_frame
from hbsk._posterior.response_rows import predict_log_probabilities, predict_response_interval, sample_responses


class PartialPoolingClassifier(ClassifierMixin, GeneralizedPoolingBase):
    r"""Hierarchical Bayesian logistic regression of two classes: groups borrow strength from each other.

    The model of lme4's ``glmer(y ~ x + (x | group), family = binomial)`` with priors, and its full posterior:

    .. math::
        P(y_i = 1) &= p_i, \quad \log \frac{p_i}{1 - p_i} = x_i' b + z_i' u_{j(i)}, \\
        u_j &\sim N(0, \Sigma), \quad \Sigma = \mathrm{diag}(\tau)\, \Omega\, \mathrm{diag}(\tau).

    The effects of the groups are integrated out by adaptive Gauss-Hermite quadrature and the rest by importance
    sampling (``inference="marginal"``), in hundredths of a second for small data.

    Read more in the :ref:`User Guide <binary_and_counts>`.

    Parameters
    ----------
    formula : str, default=None
        A model in Bambi's language, such as ``"passed ~ hours + (hours | school)"``. A left-hand side is optional
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
        "complete" leaves the groups out. "none" fixes the sds between groups at the scales of their default priors, so
        that groups learn next to nothing from each other; there is no limit beyond, since a group of nothing but
        successes has no finite estimate of its own. Groups that fit has not seen are new ones of that sd.
    correlated : bool, default=True
        Whether the effects of one factor are correlated a priori; False makes them all independent, at the point that
        their priors refer to.
    priors : dict, default=None
        Priors by Bambi's term names ("Intercept", "hours", "1|school", "hours|school", "corr|school", and "common",
        "group_specific" for all terms of a kind), each a `bambi.Prior` or plain data such as
        ``("Normal", {"mu": 0, "sigma": ("HalfNormal", {"sigma": 1})})``, on the scale of the linear predictor. A number
        in place of a distribution fixes the parameter; the number at "corr|school" is the LKJ shape. Priors of common
        terms refer to mean-centred columns where there is an intercept; those of effects to the varying columns less
        the point at "centre|school". Others are Bambi's auto-scaled defaults; see `priors_` and Notes.
    inference : {"auto", "marginal", "nuts"}, default="auto"
        "marginal" integrates: adaptive quadrature over the effects of one grouping factor, importance sampling over the
        rest, with priors from a list (see Notes). "nuts" samples through Bambi. "auto" is "marginal" wherever it is
        possible, otherwise "nuts".
    unknown_groups : {"population", "error", "nan"}, default="population"
        Answer for groups that were not seen in fit: the population, their effects drawn from the distribution between
        groups; a ValueError that names them; or NaN (for `predict` and `sample_y`, whose labels cannot be NaN, an error
        too). No group is unknown to ``pooling="complete"``, which ignores them all.
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
    classes_ : ndarray of shape (2,)
        The labels, sorted; probabilities in tables and intervals are those of the second.
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
    PartialPoolingCountRegressor : Successes out of trials, and counts over exposure.
    PartialPoolingRegressor : Responses with normal noise.

    Notes
    -----
    `predict_proba` is the posterior mean of the probability, the integral of the inverse logit over the posterior of
    the linear predictor. That is not the inverse logit of the mean: where the predictor is uncertain, in small groups
    and most of all in new ones, it is nearer to 1/2, and it is what makes probabilities calibrated.

    There is no ``class_weight``: weights that do not count rows would make the posterior one of data that nobody has.
    Move the threshold instead, with :class:`~sklearn.model_selection.TunedThresholdClassifierCV`. For more than two
    classes wrap the estimator in :class:`~sklearn.multiclass.OneVsRestClassifier`.

    Default priors are Bambi's for the family, on mean-centred columns: the intercept is Normal(0, 1.5), coefficients of
    numeric columns Normal(0, 1 / sd), those of levels of categories Normal(0, 1), the sd between groups
    HalfNormal(2.5). The engine takes the priors that `PartialPoolingRegressor` lists.

    References
    ----------
    .. [1] J. C. Pinheiro, D. M. Bates (1995). Approximations to the log-likelihood function in the nonlinear
       mixed-effects model. Journal of Computational and Graphical Statistics 4(1).
    .. [2] A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry (2024). Pareto smoothed importance sampling. Journal of
       Machine Learning Research 25(72).

    Examples
    --------
    >>> import pandas as pd
    >>> from hbsk import PartialPoolingClassifier
    >>> X = pd.DataFrame({"hours": [1, 2, 3, 4, 2, 3, 4, 5, 1, 3], "school": list("aaaabbbbcc")})
    >>> y = ["fail", "fail", "pass", "pass", "fail", "pass", "pass", "pass", "fail", "fail"]
    >>> model = PartialPoolingClassifier(group_features="school").fit(X, y)
    >>> model.formula_
    'y ~ hours + (1 | school)'
    >>> model.predict(X[:3])
    array(['fail', 'fail', 'pass'], dtype='<U4')
    >>> model.predict_proba(X[:2]).shape
    (2, 2)
    """

    @keeps_former_fit
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, groups=None, *, sample_weight=None):
        """Find the posterior; where that fails, a former fit is kept whole.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features)
            Features and, where they are columns, group labels. Text and categorical columns are coded by treatment
            contrasts. None, or no columns, with `groups`.
        y : array-like of shape (n_samples,)
            Labels of two classes.
        groups : array-like of shape (n_samples,) or (n_samples, n_factors), default=None
            Group labels, where they are no columns of X; in a formula they are called ``groups``, the columns of a
            frame keep their names.
        sample_weight : array-like of shape (n_samples,), default=None
            Number of copies of each row, a frequency weight; rows of weight 0 are left out.

        Returns
        -------
        self : PartialPoolingClassifier

        Raises
        ------
        ValueError, TypeError
            For input that the model cannot take; the message names the argument and what is accepted.
        """
        options, table = self._begin(X, groups)
        codes, labels = read_classes(y, table.n_rows, type(self).__name__)
        frame, rows = self._read(options, table, codes, groups, sample_weight=sample_weight)
        assert rows.y is not None
        rows.y, self.classes_ = two_classes(rows.y, labels, type(self).__name__)
        self._warn_of_single_rows(frame, rows)
        self._infer(options, frame, replace(rows, y_deviation=rows.y), "binomial")
        return self

    def predict(self, X, groups=None, *, include_groups=True):
        """Return the more probable label of each row.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features)
            Rows to predict, with the columns that fit had; None where it had none.
        groups : array-like, default=None
            Group labels, where fit had them as ``groups=``.
        include_groups : bool, default=True
            False: no labels are looked at, and the effects of all groups are 0, as in `predict_proba`.

        Returns
        -------
        label : ndarray of shape (n_samples,)
        """
        logs = self._log_probabilities(X, groups, include_groups, must_answer=True)
        return self.classes_[(logs[:, 1] > logs[:, 0]).astype(int)]

    def predict_proba(self, X, groups=None, *, include_groups=True):
        """Return the posterior mean of the probability of each class.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features)
            Rows to predict, with the columns that fit had; None where it had none.
        groups : array-like, default=None
            Group labels, where fit had them as ``groups=``.
        include_groups : bool, default=True
            False: no labels are looked at, and the effects of all groups are 0 (where their prior has a fixed mean,
            that mean): probabilities of a group in the middle of the population, not the average over groups.

        Returns
        -------
        probability : ndarray of shape (n_samples, 2)
            In the order of `classes_`; each is integrated by itself, so that neither is rounded beside 1.
        """
        return np.exp(self._log_probabilities(X, groups, include_groups))

    def predict_log_proba(self, X, groups=None, *, include_groups=True):
        """Return logs of the posterior means of the probabilities.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features)
            Rows to predict, with the columns that fit had; None where it had none.
        groups : array-like, default=None
            Group labels, where fit had them as ``groups=``.
        include_groups : bool, default=True
            False: no labels are looked at, and the effects of all groups are 0, as in `predict_proba`.

        Returns
        -------
        log_probability : ndarray of shape (n_samples, 2)
            In the order of `classes_`.
        """
        return self._log_probabilities(X, groups, include_groups)

    def decision_function(self, X, groups=None, *, include_groups=True):
        """Return the log odds of the predicted probabilities.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features)
            Rows to predict, with the columns that fit had; None where it had none.
        groups : array-like, default=None
            Group labels, where fit had them as ``groups=``.
        include_groups : bool, default=True
            False: no labels are looked at, and the effects of all groups are 0, as in `predict_proba`.

        Returns
        -------
        log_odds : ndarray of shape (n_samples,)
            ``log P - log (1 - P)`` of the second class; positive where it is predicted. Not the mean of the linear
            predictor.
        """
        logs = self._log_probabilities(X, groups, include_groups)
        return logs[:, 1] - logs[:, 0]

    def predict_interval(self, X, groups=None, *, coverage=0.9, include_groups=True):
        """Return central intervals of the probability of the second class.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features)
            Rows to predict, with the columns that fit had; None where it had none.
        groups : array-like, default=None
            Group labels, where fit had them as ``groups=``.
        coverage : float, default=0.9
            Probability of the interval, a fraction.
        include_groups : bool, default=True
            False: no labels are looked at, and the effects of all groups are 0, as in `predict_proba`.

        Returns
        -------
        interval : ndarray of shape (n_samples, 2)
            Quantiles of the posterior of the probability, within 0 and 1.
        """
        check_coverage(coverage)
        rows, read = self._rows(X, groups, include_groups)
        interval = predict_response_interval(self._learnt.fitted.posterior, rows, float(coverage))
        return self._mark_unknown(interval, read)

    def sample_y(self, X, groups=None, *, n_samples=1, include_groups=True, random_state=None):
        """Draw labels from the posterior predictive distribution.

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
            False: no labels are looked at, and the effects of all groups are 0, as in `predict_proba`.
        random_state : int, RandomState instance, Generator or None, default=None
            None takes the estimator's.

        Returns
        -------
        y : ndarray of shape (n_samples_X, n_samples)
            Labels; each column is one joint draw of all rows.
        """
        check_n_samples(n_samples)
        rows, _ = self._rows(X, groups, include_groups, must_answer=True)
        generator = self._generator(random_state)
        draws = sample_responses(self._learnt.fitted.posterior, rows, int(n_samples), generator)
        return self.classes_[draws.astype(int)]

    def score(self, X, y, sample_weight=None, *, groups=None):
        """Return the share of rows whose label is predicted.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features)
            Rows to predict, with the columns that fit had; None where it had none.
        y : array-like of shape (n_samples,)
            Their labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row in the score.
        groups : array-like, default=None
            Group labels, where fit had them as ``groups=``.

        Returns
        -------
        score : float
            Accuracy.
        """
        warn_of_order(X, [("y", y), ("sample_weight", sample_weight)])
        return accuracy_score(y, self.predict(X, groups), sample_weight=sample_weight)

    def to_datatree(self, X=None, y=None, groups=None, *, draws=None, random_state=None):  # type: ignore[override]
        """Return the posterior as an ArviZ DataTree.

        Parameters
        ----------
        X, y, groups : array-like, default=None
            Rows, of groups that fit has seen, for which to add ``posterior_predictive`` and, with y, ``log_likelihood``
            and ``observed_data``; responses are 1 for the second of `classes_`, 0 for the first.
        draws : int, default=None
            Draws of each chain; None is the estimator's. NUTS has no more than it drew.
        random_state : int, RandomState instance, Generator or None, default=None
            None takes the estimator's.

        Returns
        -------
        tree : xarray.DataTree
            Variables as Bambi names them ("Intercept", "hours", "1|school", "1|school_sigma"), and ``corr_<factor>``.
        """
        if X is None:
            if y is not None or groups is not None:
                raise ValueError("to_datatree takes y= and groups= together with X only.")
            return self._datatree(draws, random_state)
        rows = self._known_rows(X, groups)
        if y is not None:
            y = positions_of_classes(y, self.classes_, rows.design.n_rows, type(self).__name__)
        return self._datatree(draws, random_state, rows, y)

    def to_bambi(self, X, y, groups=None):  # type: ignore[override]
        """Return the same model as a `bambi.Model`, every prior explicit.

        Parameters
        ----------
        X, y, groups
            As for `fit`.

        Returns
        -------
        model : bambi.Model
            Of the family "bernoulli", 1 for the second label; not built yet. ``model.fit()`` samples it.
        """
        options, table = self._begin(X, groups, learning=False)
        codes, labels = read_classes(y, table.n_rows, type(self).__name__)
        frame, rows = read_training_frame(options, table, codes, groups)
        assert rows.y is not None
        rows.y, _ = two_classes(rows.y, labels, type(self).__name__)
        return self._bambi(options, frame, rows, "binomial")

    # private

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        # a column that is asked for and left out may be the one that tells the classes apart
        tags.classifier_tags.poor_score = self.group_features is not None and self.pooling == "complete"
        return tags

    def _log_probabilities(self, X, groups, include_groups, must_answer=False):
        rows, read = self._rows(X, groups, include_groups, must_answer=must_answer)
        return self._mark_unknown(predict_log_probabilities(self._learnt.fitted.posterior, rows), read)
