"""LOO, WAIC and their comparison, for rows and for whole groups, as ArviZ's own objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hbsk._base import learnt_by, sized_by
from hbsk._estimators.lazy import is_lazy
from hbsk.model_selection._generalized_information import is_generalized, loo_of_counts, waic_of_counts
from hbsk.model_selection._group_information import loo_of_groups, waic_of_groups
from hbsk.model_selection._lazy_groups import read_lazy_groups
from hbsk.model_selection._level_information import loo_of_levels
from hbsk.model_selection._responses import answering_step
from hbsk.model_selection._row_information import loo_of_rows, waic_of_rows
from hbsk.model_selection._training_rows import check_unit, fitted_regressor, read_training_rows_again

__all__ = ["compare", "loo", "waic"]


def loo(
    estimator: Any,
    X: Any,
    y: Any,
    groups: Any = None,
    *,
    standard_error: Any = None,
    exposure: Any = None,
    trials: Any = None,
    unit: str = "row",
    factor: str | None = None,
) -> Any:
    r"""Estimate how well a fitted model predicts rows, or whole groups, that were left out.

    The expected log pointwise predictive density by leave-one-out cross-validation, from the one fit.

    Parameters
    ----------
    estimator : PartialPoolingRegressor, PartialPoolingClassifier or PartialPoolingCountRegressor
        Fitted; or a fitted pipeline or search that ends in one.
    X : array-like or dataframe of shape (n_samples, n_features), or lazy frame
        The rows that the estimator was fitted to; those of a lazy frame with ``unit="group"``, by sums of its engine.
    y : array-like of shape (n_samples,), or name of a column of a lazy frame
        Their responses. None for a lazy frame where the formula names them.
    groups : array-like of shape (n_samples,), default=None
        Group labels, where `fit` had them by ``groups=``.
    standard_error : array-like of shape (n_samples,), or name of a column of a lazy frame, default=None
        Known sampling sd of each y, where `fit` had them.
    exposure, trials : array-like of shape (n_samples,), default=None
        Of counts, where `fit` had them.
    unit : {"row", "group"}, default="row"
        What is left out. "row": one row, the rest of its group stays; the question where new rows of known groups will
        be predicted. "group": all rows of one group, their joint density with the effects of the group integrated out;
        the question where new groups will be. With several grouping factors the effects of the others stay; rows of
        groups nested in the one left out go with it.
    factor : str, default=None
        Whose groups are left out, with ``unit="group"``; needed where there are several grouping factors.

    Returns
    -------
    result : arviz_stats.ELPDData
        As `arviz.loo` returns with ``pointwise=True``: ``elpd`` with its standard error ``se``, the effective number
        of parameters ``p``, and for each unit ``elpd_i`` and ``pareto_k``. In logarithms of densities of y, natural,
        larger is better.

    Warns
    -----
    hbsk.exceptions.ConvergenceWarning
        Where the Pareto k of a row, or of a group that could not be fitted again, is above ``good_k``.

    See Also
    --------
    compare : The same for several models, side by side.
    waic : The estimate that LOO has replaced.

    Notes
    -----
    Rows: where the marginal engine ran, the linear predictor of a row is Gaussian given the variance parameters, and
    its own response can be taken out again exactly; what is left is an expectation over a few parameters, with
    Pareto-smoothed weights [1]_. After NUTS, and with ``pooling="none"``, it is `arviz.loo` (PSIS [2]_) on the log
    likelihood of ``to_datatree(X, y)``, with the estimator's `draws`. Both estimate the same; the first has no noise of
    draws (on sleepstudy with varying slopes PSIS on 4,000 draws is 1 off, and objects to 3 of 180 rows).

    Groups: the sum over groups j of :math:`\log p(y_j \mid y_{-j})`, the marginal likelihood of [3]_. Given the
    variance parameters :math:`\theta`, both the effects and the common coefficients are integrated out exactly,

    .. math::

        p(y_j \mid y_{-j}) = \Bigl( \mathrm{E}_{\theta \mid y} \frac{1}{p(y_j \mid y_{-j}, \theta)} \Bigr)^{-1},
        \qquad
        p(y_j \mid y_{-j}, \theta) = \frac{p(y \mid \theta)}{p(y_{-j} \mid \theta)},

    the residual sd by quadrature and the rest by importance sampling with Pareto-smoothed weights. After NUTS the
    expectation is over its draws. Where priors keep the common coefficients from being integrated out (Student-t, say),
    they are drawn too. ``p`` compares with the density of rows like those of the group in a new group, given all data.

    Where Pareto k of a row or a group is too large, the variance parameters are integrated again without it, from sums,
    with the priors and the centring of the full fit, and ``pareto_k`` is 0; not where common coefficients are drawn,
    nor for rows after NUTS, and with several factors for the 50 worst only. Groups of several factors with more than
    500 rows are always integrated again, and are refused where they are more than 50.

    Classes and counts: nodes of the engine hold common coefficients and sds; given these, a row leaves the quadrature
    over the effects of its group, and a group is its own integral. A row whose Pareto k is too large is left out by
    integrating again. After NUTS rows are left out by weights of draws, and groups are not. One grouping factor.

    The rows are checked against the sums that the fit has kept, in any order. Fits with `sample_weight` are refused:
    repeat the rows instead.

    References
    ----------
    .. [1] A. Vehtari, T. Mononen, V. Tolvanen, T. Sivula, O. Winther (2016). Bayesian leave-one-out cross-validation
       approximations for Gaussian latent variable models. Journal of Machine Learning Research 17.
    .. [2] A. Vehtari, A. Gelman, J. Gabry (2017). Practical Bayesian model evaluation using leave-one-out
       cross-validation and WAIC. Statistics and Computing 27.
    .. [3] E. C. Merkle, D. Furr, S. Rabe-Hesketh (2019). Bayesian comparison of latent variable models: conditional
       versus marginal likelihoods. Psychometrika 84.

    Examples
    --------
    >>> from hbsk import PartialPoolingRegressor
    >>> from hbsk.datasets import load_sleepstudy
    >>> from hbsk.model_selection import loo
    >>> X, y = load_sleepstudy(return_X_y=True, as_frame=True)
    >>> model = PartialPoolingRegressor(group_features="Subject", slope_features=["Days"]).fit(X, y)
    >>> result = loo(model, X, y, unit="group")
    >>> print(f"{result.elpd:.0f} +- {result.se:.0f}")
    -886 +- 26
    >>> result.elpd_i.to_series().idxmin()     # the subject that the others say least about
    '332'
    """
    last, X_last = answering_step(estimator, X)
    if is_generalized(last):
        check_unit(unit, factor)
        return loo_of_counts(last, X_last, y, _beside(groups, standard_error, exposure, trials, factor), unit)
    given = (estimator, X, y, groups, standard_error, unit, factor, "loo")
    if is_lazy(X):
        return loo_of_groups(read_lazy_groups(*given))
    training = read_training_rows_again(*given)
    if unit == "row":
        return loo_of_rows(training)
    return loo_of_levels(training) if training.has_several_factors else loo_of_groups(training)


def waic(
    estimator: Any,
    X: Any,
    y: Any,
    groups: Any = None,
    *,
    standard_error: Any = None,
    exposure: Any = None,
    trials: Any = None,
    unit: str = "row",
    factor: str | None = None,
) -> Any:
    r"""Estimate the same as `loo` by the widely applicable information criterion.

    Parameters
    ----------
    estimator : PartialPoolingRegressor, PartialPoolingClassifier or PartialPoolingCountRegressor
        Fitted; or a fitted pipeline or search that ends in one.
    X : array-like or dataframe of shape (n_samples, n_features), or lazy frame
        The rows that the estimator was fitted to; those of a lazy frame with ``unit="group"``, by sums of its engine.
    y : array-like of shape (n_samples,), or name of a column of a lazy frame
        Their responses. None for a lazy frame where the formula names them.
    groups : array-like of shape (n_samples,), default=None
        Group labels, where `fit` had them by ``groups=``.
    standard_error : array-like of shape (n_samples,), or name of a column of a lazy frame, default=None
        Known sampling sd of each y, where `fit` had them.
    exposure, trials : array-like of shape (n_samples,), default=None
        Of counts, where `fit` had them.
    unit : {"row", "group"}, default="row"
        What is predicted, as in `loo`. Groups only where the model has one grouping factor.
    factor : str, default=None
        Whose groups are predicted, as in `loo`.

    Returns
    -------
    result : arviz_stats.ELPDData
        Of kind "waic": ``elpd``, ``se``, ``p``, ``elpd_i``. There is no Pareto k.

    Warns
    -----
    hbsk.exceptions.ConvergenceWarning
        Where the variance of the log likelihood of a unit is above 0.4, which makes WAIC unreliable; use `loo`.

    See Also
    --------
    loo : Leave-one-out cross-validation, which knows better when it fails.

    Notes
    -----
    For each unit i ([1]_, with the variance over the posterior as in [2]_)

    .. math::

        \log \mathrm{E}\, p(y_i \mid \vartheta) - \mathrm{Var} \log p(y_i \mid \vartheta),

    over the posterior of the parameters: all of them for rows; variance parameters and common coefficients for groups,
    whose effects are integrated out. ArviZ has left WAIC out since version 1; the result has its type all the same, so
    that `arviz.compare` takes several of them.

    References
    ----------
    .. [1] S. Watanabe (2010). Asymptotic equivalence of Bayes cross validation and widely applicable information
       criterion in singular learning theory. Journal of Machine Learning Research 11.
    .. [2] A. Vehtari, A. Gelman, J. Gabry (2017). Practical Bayesian model evaluation using leave-one-out
       cross-validation and WAIC. Statistics and Computing 27.

    Examples
    --------
    >>> from hbsk import PartialPoolingRegressor
    >>> from hbsk.datasets import load_eight_schools
    >>> from hbsk.model_selection import waic
    >>> schools = load_eight_schools(as_frame=True)
    >>> model = PartialPoolingRegressor(group_features="school")
    >>> model = model.fit(schools.data, schools.target, standard_error=schools.standard_error)
    >>> result = waic(model, schools.data, schools.target, standard_error=schools.standard_error)
    >>> print(f"{result.elpd:.1f}")
    -30.9
    """
    last, X_last = answering_step(estimator, X)
    if is_generalized(last):
        check_unit(unit, factor)
        return waic_of_counts(last, X_last, y, _beside(groups, standard_error, exposure, trials, factor), unit)
    given = (estimator, X, y, groups, standard_error, unit, factor, "waic")
    if is_lazy(X):
        return waic_of_groups(read_lazy_groups(*given))
    training = read_training_rows_again(*given)
    if unit == "row":
        return waic_of_rows(training)
    if training.has_several_factors:
        raise ValueError(
            "waic with unit='group' is for models with the effects of one grouping factor, and this one has several: "
            "what it would hold fixed, the effects of the others, is not a parameter of new groups alone. Use loo, "
            "which leaves the groups of any one factor out."
        )
    return waic_of_groups(training)


def _beside(groups, standard_error, exposure, trials, factor) -> dict[str, Any]:
    """Return what was given beside X and y, by name."""
    return {
        "groups": groups,
        "standard_error": standard_error,
        "exposure": exposure,
        "trials": trials,
        "factor": factor,
    }


def compare(
    estimators: Mapping[str, Any],
    X: Any,
    y: Any,
    groups: Any = None,
    *,
    standard_error: Any = None,
    exposure: Any = None,
    trials: Any = None,
    unit: str = "row",
    factor: str | None = None,
) -> Any:
    """Compare fitted models by leave-one-out cross-validation of rows, or of whole groups.

    Parameters
    ----------
    estimators : dict of str to PartialPoolingRegressor
        Models fitted to the same rows, by name; pipelines and searches that end in one, too.
    X : array-like or dataframe of shape (n_samples, n_features), or lazy frame
        The rows that all of them were fitted to, as in `loo`.
    y : array-like of shape (n_samples,), or name of a column of a lazy frame
        Their responses.
    groups : array-like of shape (n_samples,), default=None
        Group labels, for those models that had them by ``groups=``.
    standard_error : array-like of shape (n_samples,), or name of a column of a lazy frame, default=None
        Known sampling sd of each y, for those models that had them.
    unit : {"row", "group"}, default="row"
        What is left out, as in `loo`. Models with ``pooling="complete"`` can leave groups out too; those with
        ``pooling="none"`` say nothing of new groups and cannot.
    factor : str, default=None
        Whose groups are left out, as in `loo`; the models need not have the same other factors.

    Returns
    -------
    table : DataFrame
        That of `arviz.compare`, best model first: ``elpd``, ``elpd_diff`` (difference from the best), ``dse`` (its
        standard error), ``p`` (effective number of parameters), ``weight`` (stacking) and others. Takes
        `arviz.plot_compare`.

    See Also
    --------
    compare_estimators : Cross-validation of estimators of any kind, by any metric.
    loo : The estimate for one model; `arviz.compare` takes a dict of those.

    Notes
    -----
    A difference below 4, or below about twice its standard error, is no reason to prefer one model [1]_.

    References
    ----------
    .. [1] T. Sivula, M. Magnusson, A. A. Matamoros, A. Vehtari (2020). Uncertainty in Bayesian leave-one-out
       cross-validation based model comparison. arXiv:2008.10296.

    Examples
    --------
    >>> from hbsk import PartialPoolingRegressor
    >>> from hbsk.datasets import load_sleepstudy
    >>> from hbsk.model_selection import compare
    >>> X, y = load_sleepstudy(return_X_y=True, as_frame=True)
    >>> models = {
    ...     "intercepts": PartialPoolingRegressor(group_features="Subject").fit(X, y),
    ...     "slopes": PartialPoolingRegressor(group_features="Subject", slope_features=["Days"]).fit(X, y),
    ... }
    >>> table = compare(models, X, y, unit="group")
    >>> table[["rank", "elpd_diff", "dse"]]
                rank  elpd_diff   dse
    slopes         0        0.0   0.0
    intercepts     1      -20.0  12.0
    """
    from arviz_stats import compare as arviz_compare

    if not isinstance(estimators, Mapping) or not estimators or not all(isinstance(name, str) for name in estimators):
        raise TypeError(f"estimators must be a dict that maps names to fitted estimators, got {estimators!r}.")
    check_unit(unit, factor)
    results: dict[str, Any] = {}
    handed = set()
    for name, estimator in estimators.items():
        try:
            last, X_last = answering_step(estimator, X)
            if not is_generalized(last):
                last, X_last = fitted_regressor(estimator, X, "compare")
            given = {}
            if groups is not None and any(factor.source.from_keyword for factor in learnt_by(last).frame.factors):
                given["groups"] = groups
            if standard_error is not None and learnt_by(last).known_errors:
                given["standard_error"] = standard_error
            beside = {"exposure": exposure, "trials": trials}
            given |= {key: value for key, value in beside.items() if value is not None and sized_by(last) == key}
            handed |= set(given)
            results[name] = loo(last, X_last, y, **given, unit=unit, factor=factor)
        except (ValueError, TypeError) as error:
            error.add_note(f"This is estimators[{name!r}].")
            raise
    beside = {"groups": groups, "standard_error": standard_error, "exposure": exposure, "trials": trials}
    for argument, value in beside.items():
        if value is not None and argument not in handed:
            raise ValueError(f"{argument}= was given, but none of the models had it in fit. Leave it out.")
    _check_same_units(results)
    return arviz_compare(results)


def _check_same_units(results: Mapping[str, Any]) -> None:
    """Raise where models leave different groups out."""
    (first, one), *others = [(name, result.elpd_i) for name, result in results.items()]
    for name, other in others:
        same = one.dims == other.dims and all(one[dim].equals(other[dim]) for dim in one.dims)
        if not same:
            raise ValueError(
                f"estimators[{first!r}] and estimators[{name!r}] leave different groups out ({one.size} of "
                f"{one.dims[0]!r}, {other.size} of {other.dims[0]!r}), so that their scores cannot be compared. Use "
                "unit='row', or models with the same grouping factor."
            )
