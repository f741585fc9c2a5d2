"""JamesSteinEstimator: shrinkage of group means without sampling."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils._param_validation import StrOptions

from hbsk._base import check_n_samples, generator, keeps_former_fit, learnt_by, read_training_table
from hbsk._data.checks import LARGEST_VALUE, Number, check_interval
from hbsk._data.responses import SIZE_OF
from hbsk._data.rows import LEAST_ROWS, UNKNOWN_GROUPS, one_grouping, read_training_rows
from hbsk._data.suspicions import warn_of_order
from hbsk._estimators.shrunken_means import ShrunkenMeansBase
from hbsk._estimators.shrunken_rates import FAMILIES, ShrunkenRatesMixin
from hbsk._shrinkage.draws import draw_rows
from hbsk._shrinkage.shrunken_groups import infinite_where_unknown

__all__ = ["JamesSteinEstimator"]


class JamesSteinEstimator(RegressorMixin, ShrunkenRatesMixin, ShrunkenMeansBase):
    r"""Group means shrunken towards a common target, without sampling.

    The mean of a small group is a poor guess of what the group is really like. This estimator moves every group mean
    :math:`\bar y_j` towards a target :math:`t_j`,

    .. math:: \hat\theta_j = t_j + \lambda_j (\bar y_j - t_j),

    and predicts :math:`\hat\theta_j` for the rows of group j. The `method` says where :math:`\lambda_j` comes from:

    - "james-stein": one factor for all groups, :math:`\lambda = 1 - (J - r - 2) \frac{\nu}{\nu + 2} \big/ \sum_j
      (\bar y_j - t_j)^2 / v_j`, where :math:`v_j` is the sampling variance of :math:`\bar y_j` and r counts the
      coefficients of the target that were estimated (0 for "zero", 1 for "mean"). With equal :math:`v_j`, known
      variance and `target="zero"` this is :math:`(1 - (J - 2) v / \sum_j \bar y_j^2)\, \bar y_j`.
    - "empirical-bayes": small groups move more, :math:`\lambda_j = \tau^2 / (\tau^2 + v_j)`, the posterior mean under
      :math:`\theta_j \sim N(t_j, \tau^2)` with :math:`\tau^2` estimated as `between_group_variance` says.
    - "sure": the same form, with :math:`\tau^2` and the target chosen to minimise Stein's unbiased estimate of the
      total squared error, which asks nothing of the distribution of the :math:`\theta_j`.

    From rows, :math:`v_j = \sigma^2 / n_j` with :math:`\sigma^2` pooled within groups; with `standard_error` in `fit`
    the variances are known, one value per group or several.

    Parameters
    ----------
    group_features : str, int or array-like, default=None
        The column of X that holds the group labels, by name or by index (negative ones count from the end). None: the
        labels are given as `groups=` to `fit` and `predict`.
    method : {"james-stein", "empirical-bayes", "sure", "beta-binomial", "gamma-poisson"}, default="james-stein"
        Where the shrinkage comes from, see above; "beta-binomial" and "gamma-poisson" shrink rates, see Notes, and take
        `target`, `positive_part` and `between_group_variance` at their defaults only.
    target : {"mean", "zero", "regression"} or float, default="mean"
        What the group means are moved towards. "mean": their weighted mean, estimated. "zero" or a number: that number.
        "regression": a least-squares surface in the other columns of X, which then also take part in `predict`. Under
        every other target the other columns of X are checked and not used.
    positive_part : bool, default=True
        Whether a negative factor of "james-stein" is replaced by 0, which is never worse. The other methods have no
        negative factors.
    between_group_variance : {"reml", "ml", "dersimonian-laird", "paule-mandel"} or float, default="reml"
        How the variance (not sd) :math:`\tau^2` of the true group means around the target is estimated, or its value.
        Under "james-stein" and "sure" it is not what means are shrunken by, but enters the sd of the target and of
        groups that were not seen in `fit`, and the slopes of columns that vary within groups.
    unknown_groups : {"population", "error", "nan"}, default="population"
        What to predict for groups not seen in `fit`: the target, with an sd that includes :math:`\tau^2`; an error that
        names them; or NaN. A missing label is a group of its own.

    Attributes
    ----------
    groups_ : dict of str to ndarray of shape (n_groups,)
        Labels of the groups, by factor, which is one at most: sorted where they sort, else in order of appearance.
        Arrays over groups are in this order, and empty without groups.
    group_sizes_ : ndarray of shape (n_groups,)
        Number of rows in each group; sum of their weights where there are weights.
    group_means_ : ndarray of shape (n_groups,)
        Mean of each group, before shrinkage.
    group_standard_errors_ : ndarray of shape (n_groups,)
        Standard errors of `group_means_`: known, or `sigma_` over the roots of `group_sizes_`.
    theta_ : ndarray of shape (n_groups,)
        Shrunken means.
    theta_sd_ : ndarray of shape (n_groups,)
        Posterior sd (not variance) of each true group mean about `theta_`, averaged over the target and over
        :math:`\tau^2`, see "Intervals". Infinite where the variance within groups cannot be estimated.
    shrinkage_ : dict of str to DataFrame
        Weight :math:`\lambda_j` of the group's own mean, by factor, groups times the term "1|<factor>": 1 leaves it
        where it is, 0 puts it on the target. In [0, 1], but for "james-stein" with `positive_part=False`.
    slope_shrinkage_ : float
        Factor of all slopes. Only without groups.
    group_effects_ : DataFrame
        What `group_effects` returns, without intervals.
    group_sd_ : dict of str to Series
        Sd between groups, the root of `between_group_variance_`, by factor and term.
    target_ : float or ndarray of shape (n_groups,)
        What the means were moved towards; for `target="regression"` an array, the height of the surface at the average
        row of each group. NaN without groups.
    between_group_variance_ : float
        Variance (not sd) :math:`\tau^2` of the true group means around the target, as the parameter
        `between_group_variance` says, under every method. NaN where it cannot be estimated.
    sure_variance_ : float
        What "sure" takes for :math:`\tau^2` in `shrinkage_`: a number chosen for a small risk, not an estimate of the
        variance between groups. NaN where nothing was shrunken. Only with `method="sure"`.
    kappa_ : float
        What the law between groups is worth, in trials or exposure: 0 where each group has its own rate, inf where they
        do not differ. Only by "beta-binomial" and "gamma-poisson".
    sigma2_ : float
        Variance (not sd) of one row within its group, pooled over groups, around the slopes of "regression" where
        columns vary within groups; without groups the residual variance. NaN with known standard errors, and where
        groups leave no degrees of freedom for it.
    sigma_ : float
        Its root, the sd of one row.
    coef_ : ndarray of shape (n_columns,)
        Slopes of the target in the other columns of X. Only with `target="regression"` or without groups, as the next.
    coef_names_ : list of str
        Names of these columns.
    intercept_ : float
        The target, where all these columns are 0.
    n_features_in_ : int
        Number of columns of X, group column included.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns of X. Only if they are all strings.

    See Also
    --------
    sklearn.preprocessing.TargetEncoder : Group means as features.
    hbsk.meta_analysis.Heterogeneity : What `heterogeneity` returns, the random-effects meta-analysis of the means.

    Notes
    -----
    **What is proved for which case.** With known equal variances, or equal group sizes and :math:`\sigma^2` estimated
    on :math:`\nu` degrees of freedom, "james-stein" has a smaller expected total squared error than the group means
    whatever the true means are: James and Stein (1961) for a fixed target and J of 3 or more, Efron and Morris (1973)
    for an estimated mean and J of 4 or more. The gain is largest where the true means lie close to the target, and it
    grows with J; far from the target it vanishes. With unequal variances the factor is that of the standardised means
    :math:`\bar y_j / \sqrt{v_j}`, for which the same theorem holds: the loss it improves weighs group j by
    :math:`1 / v_j`. For the plain sum of squares Bock (1975) proves dominance for a fixed target only where no variance
    stands out, :math:`2 (\sum_j v_j / \max_j v_j - 2) \ge J - 2`; elsewhere "empirical-bayes" and "sure" are better
    choices.
    "empirical-bayes" is the posterior mean of a normal model and best where that model holds; "sure" is asymptotically
    the best estimator of its form whatever the true means are (Xie, Kou and Brown 2012).

    **Too few groups.** With r estimated coefficients in the target there must be r + 3 groups: 3 for a fixed target, 4
    for "mean". With fewer (or no group of two rows, and so no :math:`\sigma^2`) the group means are returned as they
    are, with a :class:`~hbsk.exceptions.ShrinkageWarning`. A number given as `between_group_variance` is not estimated,
    so that "empirical-bayes" then shrinks any number of groups.

    **Regression.** For columns that are constant within groups Fay and Herriot (1979). Columns that vary within groups
    make it the model of Battese, Harter and Fuller (1988), :math:`y_{ij} = x_{ij}'\beta + u_j + e_{ij}` with one slope
    within and between groups: :math:`\sigma^2` is that of rows around the slopes within groups, on as many degrees of
    freedom less; the slopes are generalised least squares on rows and averages together, given :math:`\tau^2`; the
    method has its say on the rest, where r counts only what the averages have to tell, and need not be an integer. (A
    slope between groups that differs from that within needs a column of averages of its own.) A row of a known group is
    predicted by the surface at this row plus the shrunken deviation of its group, so for columns that are constant
    within groups the prediction is `theta_`; away from the average row of its group the sd grows with the uncertainty
    of the slopes, at :math:`z` to :math:`v_j \lambda_j + d'Cd`, :math:`d = z - \lambda_j z_j`.

    **Rates.** With "beta-binomial" y is successes out of `trials` (0 or 1 without), or proportions with `sample_weight`
    as trials; with "gamma-poisson" counts over `exposure`, or rates with `sample_weight` as exposure. Rates of groups
    are Beta(:math:`\kappa m, \kappa (1 - m)`), or Gamma with shape :math:`\kappa m` and rate :math:`\kappa`; both
    parameters are those of the greatest marginal likelihood in `theta_`, :math:`m + \lambda_j (\bar y_j - m)` with
    :math:`\lambda_j = n_j / (n_j + \kappa)`, :math:`n_j` the trials or exposure of the group. `theta_sd_` and intervals
    are of the conjugate posterior averaged over a grid of :math:`(\log \kappa, m)`, with the weight :math:`n_0 / (n_0 +
    \kappa)` of a group of median size :math:`n_0` uniform on (0, 1) (Christiansen and Morris 1997) and m Beta(1/2,
    1/2), or of density :math:`m^{-1/2}`: none has no width, also where all groups are alike or without an event.
    `theta_` may then lie at an edge that its interval does not reach. Other columns of X are checked and not used.

    **Without groups** (no column named, none given by keyword) the slopes of a least-squares regression on X are
    shrunken towards zero by one James-Stein factor, which improves on least squares from 3 columns on (Sclove 1968);
    `method`, `target` and `between_group_variance` are not used, and a :class:`~hbsk.exceptions.NoGroupsWarning` says
    that there were no groups.

    **Intervals** stand around what is predicted and hold the truth with their probability under the normal model,
    whatever the `method`, averaged over :math:`\tau^2` by restricted likelihood times :math:`T / T' \sum_j (v_j +
    \tau^2)^{-2}`. T is the variance of what is asked for, and :math:`T'` its derivative: 1 for new groups, :math:`v_j^2
    / (v_j + \tau^2)^2` for known ones. That is right to second order in the number of groups, for new groups exact for
    large :math:`\tau^2`, for known ones where nothing is shrunken; too wide where few groups cannot tell
    :math:`\tau^2` from 0. `theta_sd_` is averaged in the same way. The sd of a group not seen in `fit` holds
    :math:`\tau^2` corrected for being estimated as Morris (1983) does, :math:`((J - r) \tau^2 + 2 \bar v) / (J - r -
    2)`, infinite for J - r of 2 or less. A number given as `between_group_variance` is taken as it is.

    References
    ----------
    - James, W., and Stein, C. (1961). Estimation with quadratic loss. Proceedings of the Fourth Berkeley Symposium 1,
      361-379.
    - Efron, B., and Morris, C. (1973). Stein's estimation rule and its competitors: an empirical Bayes approach.
      Journal of the American Statistical Association 68, 117-130.
    - Bock, M. E. (1975). Minimax estimators of the mean of a multivariate normal distribution. Annals of Statistics 3,
      209-218.
    - Battese, G. E., Harter, R. M., and Fuller, W. A. (1988). An error-components model for prediction of county crop
      areas using survey and satellite data. Journal of the American Statistical Association 83, 28-36.
    - Fay, R. E., and Herriot, R. A. (1979). Estimates of income for small places: an application of James-Stein
      procedures to census data. Journal of the American Statistical Association 74, 269-277.
    - Morris, C. (1983). Parametric empirical Bayes inference: theory and applications. Journal of the American
      Statistical Association 78, 47-55.
    - Xie, X., Kou, S. C., and Brown, L. (2012). SURE estimates for a heteroscedastic hierarchical model. Journal of the
      American Statistical Association 107, 1465-1479.

    Examples
    --------
    The batting averages of 18 players after 45 at-bats, and what became of them (Efron and Morris 1977):

    >>> import numpy as np
    >>> from hbsk import JamesSteinEstimator
    >>> from hbsk.datasets import load_baseball
    >>> players = load_baseball(as_frame=True)
    >>> shrunken = JamesSteinEstimator(group_features="player")
    >>> X, early, later = players.data, players.target, players.remaining_average
    >>> shrunken = shrunken.fit(X, early, standard_error=players.standard_error)
    >>> print(f"{shrunken.shrinkage_['player'].iloc[0, 0]:.3f}")
    0.212
    >>> error = np.sum((early - later) ** 2) / np.sum((shrunken.predict(X) - later) ** 2)
    >>> print(f"{error:.1f} times the total squared error")
    3.5 times the total squared error

    From rows, with small groups moving more:

    >>> school = np.array(["a", "a", "a", "a", "b", "b", "c", "c", "d", "e", "e"])
    >>> marks = np.array([5.1, 6.8, 4.4, 5.9, 7.7, 9.2, 5.2, 3.3, 9.0, 6.9, 5.1])
    >>> shrunken = JamesSteinEstimator(method="empirical-bayes")
    >>> shrunken = shrunken.fit(np.zeros((11, 1)), marks, groups=school)
    >>> shrunken.shrinkage_["groups"]["1|groups"].to_numpy().round(2)
    array([0.91, 0.83, 0.83, 0.71, 0.83])
    >>> shrunken.predict(np.zeros((2, 1)), groups=["d", "new"]).round(1)
    array([8.3, 6.6])
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "group_features": [str, Integral, "array-like", None],
        "method": [StrOptions({"james-stein", "empirical-bayes", "sure", *FAMILIES})],
        "target": [StrOptions({"mean", "zero", "regression"}), Number(-LARGEST_VALUE, LARGEST_VALUE)],
        "positive_part": ["boolean"],
        "between_group_variance": [
            StrOptions({"reml", "ml", "dersimonian-laird", "paule-mandel"}),
            Number(0, LARGEST_VALUE**2),
        ],
        "unknown_groups": [StrOptions(set(UNKNOWN_GROUPS))],
    }

    def __init__(
        self,
        *,
        group_features=None,
        method="james-stein",
        target="mean",
        positive_part=True,
        between_group_variance="reml",
        unknown_groups="population",
    ):
        self.group_features = group_features
        self.method = method
        self.target = target
        self.positive_part = positive_part
        self.between_group_variance = between_group_variance
        self.unknown_groups = unknown_groups

    @keeps_former_fit
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, groups=None, *, standard_error=None, sample_weight=None, exposure=None, trials=None):
        """Estimate the group means and shrink them; where that fails, a former fit is kept whole.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features)
            Columns, the group column among them if `group_features` names one. None, or no columns, with `groups`.
        y : array-like of shape (n_samples,)
            Responses.
        groups : array-like of shape (n_samples,), default=None
            Group labels, of any hashable kind, where they are not a column of X.
        standard_error : array-like of shape (n_samples,) or float, default=None
            Known sd of the sampling error of each y. The variance within groups is then not estimated.
        sample_weight : array-like of shape (n_samples,), default=None
            Number of copies of each row, a frequency weight: 2 is the same as the row given twice.
        exposure : array-like of shape (n_samples,) or float, default=None
            What each count is over, for "gamma-poisson": time, area, persons. Positive.
        trials : array-like of shape (n_samples,) or float, default=None
            Trials behind each y, for "beta-binomial". Positive.

        Returns
        -------
        self : JamesSteinEstimator
        """
        of_rates = self.method in FAMILIES
        if of_rates:
            self._check_options_of_rates(standard_error)
        table = read_training_table(self, X, groups)
        warn_of_order(table, [("exposure", exposure), ("trials", trials)])
        size = self._read_sizes(table.n_rows, exposure, trials)
        rows = read_training_rows(
            table,
            y,
            groups,
            name=type(self).__name__,
            group_features=self.group_features,
            standard_error=standard_error,
            sample_weight=sample_weight,
            size=size,
            are_sizes=of_rates,
            min_samples=LEAST_ROWS,
        )
        one_grouping(rows, type(self).__name__)
        if of_rates:
            return self._shrink_rates(rows, "" if size is None else SIZE_OF[FAMILIES[self.method]])
        return self._shrink_means(rows) if rows.factors else self._shrink_slopes(rows)

    def predict(self, X, groups=None, *, return_std=False, standard_error=None):
        """Predict the shrunken mean of each row's group.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features)
            Columns as in `fit`; None where it had none.
        groups : array-like of shape (n_samples,), default=None
            Group labels; needed if `fit` had them, else refused.
        return_std : bool, default=False
            Whether to return the sd of a new observation as well.
        standard_error : array-like of shape (n_samples,) or float, default=None
            Known sd of the sampling error of the new observations; needed with `return_std` if `fit` had standard
            errors, else refused.

        Returns
        -------
        mean : ndarray of shape (n_samples,)
            Predicted means.
        std : ndarray of shape (n_samples,)
            Sd of a new observation, only with `return_std=True`. The sd of the mean alone is `theta_sd_`.
        """
        if (rates := self._rates()) is not None:
            return self._predict_rates(rates, X, groups, return_std, standard_error)
        rows, noise = self._read(X, groups, standard_error, "return_std=True" if return_std else None)
        means, codes = learnt_by(self).means, rows[-1]
        mean = self._mark_unknown(means.mean(*rows), codes)
        if not return_std:
            return mean
        sd = np.sqrt(infinite_where_unknown(means.variance(*rows) + noise))
        return mean, self._mark_unknown(sd, codes)

    def predict_interval(
        self, X, groups=None, *, coverage=0.9, kind="prediction", standard_error=None, exposure=None, trials=None
    ):
        """Predict a central interval for a new observation, or for the mean, of each row's group.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features)
            Columns as in `fit`; None where it had none.
        groups : array-like of shape (n_samples,), default=None
            Group labels; needed if `fit` had them, else refused.
        coverage : float, default=0.9
            Probability of the interval, between 0 and 1.
        kind : {"prediction", "mean"}, default="prediction"
            Interval for a new observation, or for the true mean of the group.
        standard_error : array-like of shape (n_samples,) or float, default=None
            Known sd of the sampling error of the new observations; needed with `kind="prediction"` if `fit` had
            standard errors, else refused.
        exposure, trials : array-like of shape (n_samples,) or float, default=None
            Exposure or trials of new counts, by the methods that have them; needed with `kind="prediction"` if `fit`
            had them, else 1.

        Returns
        -------
        interval : ndarray of shape (n_samples, 2)
            Lower and upper ends.
        """
        rates = self._rates()
        check_interval(coverage, kind)
        if rates is not None:
            asked = float(coverage), kind, standard_error, exposure, trials
            return self._interval_of_rates(rates, X, groups, *asked)
        self._read_sizes(0, exposure, trials)
        means = learnt_by(self).means
        is_mean = kind == "mean"
        rows, noise = self._read(X, groups, standard_error, None if is_mean else "kind='prediction'")
        reach = means.reach(*rows, 0.0 if is_mean else noise, float(coverage))
        return self._mark_unknown(means.mean(*rows)[:, None] + np.column_stack([-reach, reach]), rows[-1])

    def sample_y(
        self, X, groups=None, *, n_samples=1, standard_error=None, exposure=None, trials=None, random_state=None
    ):
        """Draw new observations.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features)
            Columns as in `fit`; None where it had none.
        groups : array-like of shape (n_samples,), default=None
            Group labels; needed if `fit` had them, else refused. Rows of one new label share its mean.
        n_samples : int, default=1
        standard_error : array-like of shape (n_samples,) or float, default=None
            Known sd of the sampling error of the new observations; needed if `fit` had standard errors, else refused.
        exposure, trials : array-like of shape (n_samples,) or float, default=None
            Exposure or trials of new counts, by the methods that have them; needed if `fit` had them, else 1.
        random_state : int, RandomState instance, Generator or None, default=None

        Returns
        -------
        y : ndarray of shape (n_samples_X, n_samples)
            Each column is one joint draw of all rows, with the margins of `predict_interval`: groups share the error of
            the target, else their errors are taken as independent. NaN where the variance is not known.
        """
        check_n_samples(n_samples)
        if (rates := self._rates()) is not None:
            asked = int(n_samples), standard_error, exposure, trials, random_state
            return self._sample_counts(rates, X, groups, *asked)
        self._read_sizes(0, exposure, trials)
        rows, noise = self._read(X, groups, standard_error, "sample_y")
        y = draw_rows(learnt_by(self).means, rows, noise, int(n_samples), generator(random_state))
        return self._mark_unknown(y, rows[-1])

    def score(self, X, y, sample_weight=None, *, groups=None, exposure=None, trials=None):
        """Compute the coefficient of determination, R squared, of the predictions; of rates D squared, of deviances.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features)
            Columns as in `fit`; None where it had none.
        y : array-like of shape (n_samples,)
            Responses.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.
        groups : array-like of shape (n_samples,), default=None
            Group labels; needed if `fit` had them, else refused.
        exposure, trials : array-like of shape (n_samples,) or float, default=None
            Exposure or trials behind y, by the methods that have them; needed if `fit` had them, else 1.

        Returns
        -------
        score : float
            R squared of `predict(X, groups)` with respect to y; by "beta-binomial" and "gamma-poisson" the share of the
            deviance that is explained, as of :class:`PartialPoolingCountRegressor`.
        """
        if (rates := self._rates()) is not None:
            warn_of_order(X, [("y", y), ("sample_weight", sample_weight)])
            return self._score_rates(rates, X, y, sample_weight, groups, exposure, trials)
        self._read_sizes(0, exposure, trials)
        warn_of_order(X, [("y", y), ("sample_weight", sample_weight)])
        return r2_score(y, self.predict(X, groups), sample_weight=sample_weight)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "theta_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = tags.input_tags.string = self.group_features is not None
        of_rates = self.method in FAMILIES
        tags.regressor_tags.poor_score = of_rates or (self.target != "regression" and self.group_features is not None)
        tags.target_tags.positive_only = self.method == "gamma-poisson"
        return tags
