"""LOO, WAIC and their comparison, for rows and for whole groups, as ArviZ's own objects."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from hbsk._datatree import SIZE_LIMIT, group_names
from hbsk._groups import Rows, read_rows
from hbsk._inference import collect_sums
from hbsk._model_frame import read_new_rows, unknown_rows
from hbsk._posterior import MarginalPosterior
from hbsk._posterior_draws import DrawsPosterior
from hbsk._priors import engine_priors
from hbsk.diagnostics import PARETO_K_THRESHOLD
from hbsk.exceptions import ConvergenceWarning
from hbsk.inference.statistics import ColumnScaling, standardise
from hbsk.model_selection._leave_group_out import (
    GroupProducts,
    VarianceGrid,
    collect_products,
    integrate_finely,
    leave_groups_out,
    likelihood_moments,
    log_likelihood_given_common,
    refit_without,
    score_groups,
    unidentified_without,
)
from hbsk.model_selection._responses import answering_step
from hbsk.partial_pooling import PartialPoolingRegressor

__all__ = ["compare", "loo", "waic"]

UNITS = ("row", "group")
# Vehtari, Gelman, Gabry 2017, section 2.3: a larger variance of the log likelihood of one unit makes WAIC unreliable.
WAIC_VARIANCE = 0.4
# With fewer draws than this the tail of the weights of PSIS says nothing.
FEWEST_DRAWS = 400
FEWEST_NODES = 25
SAME = 1e-6
SHOWN_NAMES = 5


def loo(
    estimator: Any, X: Any, y: Any, groups: Any = None, *, standard_error: Any = None, unit: str = "row"
) -> Any:
    r"""Estimate how well a fitted model predicts rows, or whole groups, that were left out.

    The expected log pointwise predictive density by leave-one-out cross-validation, from the one fit.

    Parameters
    ----------
    estimator : PartialPoolingRegressor
        Fitted; or a fitted pipeline or search that ends in one.
    X : array-like or dataframe of shape (n_samples, n_features)
        The rows that the estimator was fitted to.
    y : array-like of shape (n_samples,)
        Their responses.
    groups : array-like of shape (n_samples,), default=None
        Group labels, where `fit` had them by ``groups=``.
    standard_error : array-like of shape (n_samples,), default=None
        Known sampling sd of each y, where `fit` had them.
    unit : {"row", "group"}, default="row"
        What is left out. "row": one row, the rest of its group stays; the question where new rows of known groups will
        be predicted. "group": all rows of one group, their joint density with the effects of the group integrated out;
        the question where new groups will be. For one grouping factor.

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
    Rows: `arviz.loo` (Pareto-smoothed importance sampling [1]_) on the pointwise log likelihood of draws from the
    posterior, by whichever engine. For the integrating engine the draws are independent, 4,000 by default
    (`draws` times `chains` of the estimator), and the same in every call unless `random_state` says otherwise.

    Groups: the sum over groups j of :math:`\log p(y_j \mid y_{-j})`, the marginal likelihood of [2]_. Given the
    variance parameters :math:`\theta`, both the effects and the common coefficients are integrated out exactly,

    .. math::

        p(y_j \mid y_{-j}) = \Bigl( \mathrm{E}_{\theta \mid y} \frac{1}{p(y_j \mid y_{-j}, \theta)} \Bigr)^{-1},
        \qquad
        p(y_j \mid y_{-j}, \theta) = \frac{p(y \mid \theta)}{p(y_{-j} \mid \theta)},

    the residual sd by quadrature and the rest by importance sampling with Pareto-smoothed weights. Where Pareto k is too
    large the variance parameters are integrated again without the group, from sums, with the priors and the centring of
    the full fit (``pareto_k`` is then 0). After NUTS the expectation is over its draws. Where priors keep the common
    coefficients from being integrated out (Student-t, say), they are drawn too, and there is no second fit.

    ``p`` compares with the density of each group's rows in a new group, given all data. A sum over few groups has a
    standard error that is itself uncertain.

    Fits with `sample_weight` are refused: repeat the rows instead.

    References
    ----------
    .. [1] A. Vehtari, A. Gelman, J. Gabry (2017). Practical Bayesian model evaluation using leave-one-out
       cross-validation and WAIC. Statistics and Computing 27.
    .. [2] E. C. Merkle, D. Furr, S. Rabe-Hesketh (2019). Bayesian comparison of latent variable models: conditional
       versus marginal likelihoods. Psychometrika 84.

    Examples
    --------
    >>> from hbsk import PartialPoolingRegressor
    >>> from hbsk.datasets import load_sleepstudy
    >>> from hbsk.model_selection import loo
    >>> X, y = load_sleepstudy(return_X_y=True, as_frame=True)
    >>> model = PartialPoolingRegressor(group_features="Subject", slope_features=["Days"]).fit(X, y)
    >>> result = loo(model, X, y, unit="group")
    >>> print(f"{result.elpd:.1f} +- {result.se:.1f}")
    -886.1 +- 22.9
    >>> worst = result.elpd_i.to_series().idxmin()     # the subject that the others say least about
    >>> worst, float(result.elpd_i.sel(Subject=worst).round())
    ('332', -66.0)
    """
    training = _read(estimator, X, y, groups, standard_error, unit, "loo")
    return _loo_of_rows(training) if unit == "row" else _loo_of_groups(training)


def waic(
    estimator: Any, X: Any, y: Any, groups: Any = None, *, standard_error: Any = None, unit: str = "row"
) -> Any:
    r"""Estimate the same as `loo` by the widely applicable information criterion.

    Parameters
    ----------
    estimator : PartialPoolingRegressor
        Fitted; or a fitted pipeline or search that ends in one.
    X : array-like or dataframe of shape (n_samples, n_features)
        The rows that the estimator was fitted to.
    y : array-like of shape (n_samples,)
        Their responses.
    groups : array-like of shape (n_samples,), default=None
        Group labels, where `fit` had them by ``groups=``.
    standard_error : array-like of shape (n_samples,), default=None
        Known sampling sd of each y, where `fit` had them.
    unit : {"row", "group"}, default="row"
        What is predicted, as in `loo`.

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
    For each unit i (Watanabe 2010 [1]_; equations 11 and 13 of [2]_)

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
    >>> from hbsk.datasets import load_radon
    >>> from hbsk.model_selection import loo, waic
    >>> X, y = load_radon(return_X_y=True, as_frame=True)
    >>> model = PartialPoolingRegressor(group_features="county").fit(X, y)
    >>> abs(waic(model, X, y).elpd - loo(model, X, y).elpd) < 1
    True
    """
    training = _read(estimator, X, y, groups, standard_error, unit, "waic")
    return _waic_of_rows(training) if unit == "row" else _waic_of_groups(training)


def compare(
    estimators: Mapping[str, Any],
    X: Any,
    y: Any,
    groups: Any = None,
    *,
    standard_error: Any = None,
    unit: str = "row",
) -> Any:
    """Compare fitted models by leave-one-out cross-validation of rows, or of whole groups.

    Parameters
    ----------
    estimators : dict of str to PartialPoolingRegressor
        Models fitted to the same rows, by name; pipelines and searches that end in one, too.
    X : array-like or dataframe of shape (n_samples, n_features)
        The rows that all of them were fitted to.
    y : array-like of shape (n_samples,)
        Their responses.
    groups : array-like of shape (n_samples,), default=None
        Group labels, for those models that had them by ``groups=``.
    standard_error : array-like of shape (n_samples,), default=None
        Known sampling sd of each y, for those models that had them.
    unit : {"row", "group"}, default="row"
        What is left out, as in `loo`. Models with ``pooling="complete"`` can leave groups out too; those with
        ``pooling="none"`` say nothing of new groups and cannot.

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
    .. [1] T. Sivula, M. Magnusson, A. Matamoros, A. Vehtari (2025). Uncertainty in Bayesian leave-one-out
       cross-validation based model comparison. Bayesian Analysis.

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
    >>> table[["rank", "elpd_diff", "dse"]].round()
                rank  elpd_diff  dse
    slopes         0        0.0  0.0
    intercepts     1      -18.0  7.0
    """
    from arviz_stats import compare as arviz_compare

    if not isinstance(estimators, Mapping) or not estimators or not all(isinstance(name, str) for name in estimators):
        raise TypeError(f"estimators must be a dict that maps names to fitted estimators, got {estimators!r}.")
    _check_unit(unit)
    results: dict[str, Any] = {}
    handed = set()
    for name, estimator in estimators.items():
        try:
            last, X_last = _fitted_regressor(estimator, X, "compare")
            given = {}
            if groups is not None and any(source.from_keyword for source in last._frame.sources):
                given["groups"] = groups
            if standard_error is not None and last._has_known_errors:
                given["standard_error"] = standard_error
            handed |= set(given)
            results[name] = loo(last, X_last, y, **given, unit=unit)
        except (ValueError, TypeError) as error:
            error.add_note(f"This is estimators[{name!r}].")
            raise
    for argument, value in {"groups": groups, "standard_error": standard_error}.items():
        if value is not None and argument not in handed:
            raise ValueError(f"{argument}= was given, but none of the models had it in fit. Leave it out.")
    _check_same_units(results)
    return arviz_compare(results)


def _check_same_units(results: Mapping[str, Any]) -> None:
    """Raise where models leave different groups out."""
    (first, one), *others = results.items()
    for name, other in others:
        if not one.elpd_i.equals(other.elpd_i.copy(data=one.elpd_i.values) if other.elpd_i.size == one.elpd_i.size else other.elpd_i):
            raise ValueError(
                f"estimators[{first!r}] and estimators[{name!r}] leave different groups out ({one.elpd_i.dims[0]!r} and "
                f"{other.elpd_i.dims[0]!r}), so that their scores cannot be compared. Use unit='row', or models with "
                "the same grouping factor."
            )


# ---------------------------------------------------------------------------------------------------------------------
# The rows of the fit


@dataclass(frozen=True)
class _Training:
    """A fitted estimator with the rows it was fitted to, as given and as read."""

    estimator: PartialPoolingRegressor
    caller: str
    given: dict[str, Any]
    rows: Rows

    @property
    def frame(self):
        return self.estimator._frame

    @property
    def fitted(self):
        return self.estimator._fitted


def _check_unit(unit: str) -> None:
    if unit not in UNITS:
        raise ValueError(f"unit must be 'row' or 'group', got {unit!r}.")


def _fitted_regressor(estimator: Any, X: Any, caller: str) -> tuple[PartialPoolingRegressor, Any]:
    last, X = answering_step(estimator, X)
    if not isinstance(last, PartialPoolingRegressor):
        raise TypeError(
            f"{caller} takes a fitted PartialPoolingRegressor, or a pipeline or search that ends in one; got "
            f"{estimator!r}, which has no posterior. compare_estimators cross-validates estimators of any kind."
        )
    check_is_fitted(last)
    return last, X


def _read(estimator, X, y, groups, standard_error, unit, caller) -> _Training:
    _check_unit(unit)
    estimator, X = _fitted_regressor(estimator, X, caller)
    estimator._require_standard_error(standard_error, caller)
    frame = estimator._frame
    if unit == "group":
        _check_has_groups(estimator, caller)
        # labels are needed even if the model does not look at them
        rows = read_rows(
            estimator,
            X,
            groups,
            sources=frame.sources,
            factors=frame.factors,
            standard_error=standard_error,
            used_columns=frame.specification.feature_columns,
            y=y,
        )
    else:
        _, rows = read_new_rows(estimator, frame, X, groups, standard_error, y=y)
    _check_training_rows(estimator, rows, caller)
    return _Training(estimator, caller, {"X": X, "y": y, "groups": groups, "standard_error": standard_error}, rows)


def _check_has_groups(estimator: PartialPoolingRegressor, caller: str) -> None:
    factors = estimator._frame.grouped.factors
    if not factors:
        raise ValueError(
            f"{caller} with unit='group' needs groups, but the model was fitted without. pooling='complete' fits a model "
            "that ignores its groups and can still be asked about them."
        )
    if len(factors) > 1:
        names = ", ".join(factor.name for factor in factors)
        raise ValueError(
            f"{caller} with unit='group' is for one grouping factor, and the model has several ({names}): rows of a group "
            "of one factor share the effects of the others with rows that stay, or with none, and both would have to "
            "be integrated out together. Use unit='row', or compare_estimators with GroupKFold."
        )
    if estimator.pooling == "none":
        raise ValueError(
            f"{caller} with unit='group' asks for the density of a new group, and pooling='none' has none: its groups have "
            "nothing in common. Use unit='row', or pooling='partial' or 'complete'."
        )
    (factor,) = factors
    if len(estimator.groups_[factor.name]) < 2:
        raise ValueError(f"{caller} with unit='group' needs at least 2 groups; {factor.name!r} has 1.")


def _check_training_rows(estimator: PartialPoolingRegressor, rows: Rows, caller: str) -> None:
    """Raise unless the rows give the sums of the fit."""
    fitted, specification = estimator._fitted, estimator._frame.specification
    copies = [float(counts.sum()) for counts in estimator._copies.values()]
    n_fit = fitted.model.sums.n if fitted.model is not None and not copies else (copies or [float(rows.n_rows)])[0]
    reason = None
    if n_fit != rows.n_rows:
        reason = f"there are {rows.n_rows} rows here, and {n_fit:g} in fit (copies, where it had sample_weight=)"
    elif unknown_rows(rows).any():
        reason = "some groups were not seen in fit"
    elif not _same_sums(estimator, rows, specification):
        reason = "the columns, groups, responses or standard errors differ"
    if reason is not None:
        raise ValueError(
            f"{caller} needs the very rows that the model was fitted to, but {reason}. Fits with sample_weight= are not "
            f"taken: repeat the rows instead. To score other rows use the estimator's score, or compare_estimators."
        )


def _same_sums(estimator, rows, specification) -> bool:
    fitted = estimator._fitted
    if fitted.model is None:  # several factors
        return all(
            _close(collect_sums(estimator._frame, rows, f).sums.zz, information)
            for f, information in enumerate(fitted.posterior.information)
        )
    sums, scaling = standardise(
        collect_sums(estimator._frame, rows), known_standard_error=estimator._has_known_errors
    )
    there, was = fitted.model.sums, fitted.scaling
    pairs = [(getattr(sums, name), getattr(there, name)) for name in ("zz", "zx", "xx")]
    pairs += [(_units(scaling), _units(was)), (sums.log_weight, there.log_weight)]
    return all(_close(here, before) for here, before in pairs)


def _units(scaling: ColumnScaling) -> np.ndarray:
    y_units = [scaling.y_centre / scaling.y_scale, np.log(scaling.y_scale)]
    return np.concatenate([y_units, scaling.x_centre / scaling.x_scale, np.log(scaling.x_scale)])


def _close(here, before) -> bool:
    here, before = np.asarray(here), np.asarray(before)
    return here.shape == before.shape and bool(
        np.all(np.abs(here - before) <= SAME * np.maximum(1.0, np.max(np.abs(before), initial=0.0)))
    )


# ---------------------------------------------------------------------------------------------------------------------
# Rows


def _log_likelihood_tree(training: _Training) -> Any:
    """Return a DataTree with the pointwise log likelihood, of as many draws as fit."""
    estimator = training.estimator
    numbers = 3 * training.rows.n_rows + sum(
        n * len(factor.columns)
        for n, factor in zip(training.fitted.posterior.n_groups, training.frame.specification.factors, strict=True)
    )
    draws = int(min(estimator.draws, SIZE_LIMIT // (8 * numbers * estimator.chains)))
    if draws < estimator.draws and draws * estimator.chains < FEWEST_DRAWS:
        raise ValueError(
            f"{training.caller} with unit='row' needs the log likelihood of {training.rows.n_rows} rows at {FEWEST_DRAWS} "
            f"draws or more, which takes more than {SIZE_LIMIT / 2**30:.0f} GiB. Use unit='group', or compare_estimators."
        )
    seed = 0 if estimator.random_state is None else estimator.random_state
    return estimator.to_datatree(**training.given, draws=draws, random_state=seed)


def _loo_of_rows(training: _Training) -> Any:
    import arviz_stats

    tree = _log_likelihood_tree(training)
    # draws of the integrating engine are independent
    efficiency = 1.0 if isinstance(training.fitted.posterior, MarginalPosterior) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # said below, in a class of ours
        result = arviz_stats.loo(tree, pointwise=True, reff=efficiency)
    bad = np.flatnonzero(result.pareto_k.values > result.good_k)
    if len(bad):
        _warn(
            f"Pareto k is above {result.good_k:.2f} for {len(bad)} of {result.n_data_points} rows "
            f"({_listed(bad)}): without them the posterior is another, and their densities are not reliable. "
            "Cross-validate (compare_estimators) where this may decide between models."
        )
    return result


def _waic_of_rows(training: _Training) -> Any:
    tree = _log_likelihood_tree(training)
    (values,) = tree["log_likelihood"].data_vars.values()
    values = values.stack(__sample__=("chain", "draw")).transpose("__sample__", ...)
    log_likelihood = values.to_numpy()
    n_draws = len(log_likelihood)
    top = log_likelihood.max(axis=0)
    lpd = top + np.log(np.mean(np.exp(log_likelihood - top), axis=0))
    variance = np.var(log_likelihood, axis=0, ddof=1)
    template = values.isel(__sample__=0, drop=True).reset_coords(drop=True)
    return _waic_result(lpd, variance, n_draws, template, [str(row) for row in range(len(lpd))])


def _waic_result(lpd, variance, n_samples, template, names) -> Any:
    bad = np.flatnonzero(variance > WAIC_VARIANCE)
    if len(bad):
        _warn(
            f"The variance of the log likelihood is above {WAIC_VARIANCE} for {len(bad)} of {len(lpd)} units "
            f"({_listed([names[i] for i in bad])}): WAIC is not reliable there. Use loo."
        )
    return _elpd_data(
        "waic", lpd - variance, variance, template, n_samples=n_samples, warning=bool(len(bad)), good_k=None, pareto_k=None
    )


# ---------------------------------------------------------------------------------------------------------------------
# Groups


@dataclass(frozen=True)
class _GroupProblem:
    """What the scores of groups are computed from.

    Attributes
    ----------
    products : GroupProducts
    grid : VarianceGrid
    prior : tuple of ndarray of shape (p,)
        Mean and precision of the common coefficients in the units of the engine.
    common : ndarray of shape (n_nodes, p) or None
        Draws of the common coefficients where they cannot be integrated out.
    shift : ndarray of shape (n_groups,)
        From log densities in the units of the engine to those of y.
    names : list of str
    """

    products: GroupProducts
    grid: VarianceGrid
    prior: tuple[np.ndarray, np.ndarray]
    common: np.ndarray | None
    shift: np.ndarray
    names: list[str]


def _group_problem(training: _Training) -> _GroupProblem:
    estimator, frame, fitted, rows = training.estimator, training.frame, training.fitted, training.rows
    model, scaling, posterior = fitted.model, fitted.scaling, fitted.posterior
    (factor,) = frame.grouped.factors
    labels = estimator.groups_[factor.name]
    products = collect_products(
        frame.specification.design(rows.features, rows.codes),
        rows.codes[factor.name],
        len(labels),
        rows.y,
        scaling,
        frame.specification.has_intercept,
        rows.standard_error,
    )
    names = group_names(labels)
    prior = model.prior_mean, model.prior_precision
    common = None
    if isinstance(posterior, DrawsPosterior):
        grid = _grid_of_draws(posterior, scaling)
        reason = engine_priors(frame.specification, fitted.priors, estimator._has_known_errors)
        if isinstance(reason, str):
            _check_normal_effects(training, reason)
            common = _engine_coefficients(posterior.common, scaling, frame.specification.has_intercept)
    elif posterior.n_chains:
        grid = VarianceGrid.of_draws(posterior.weight, posterior.factor, posterior.sigma)
    else:
        grid, _ = integrate_finely(
            model, *_start(posterior.weight, posterior.factor, posterior.sigma), products.n_groups
        )
    if common is None:
        group = unidentified_without(products, model.prior_precision)
        if group is not None:
            raise ValueError(
                f"Without group {names[group]!r} the other rows do not identify the common coefficients that have a flat "
                f"prior, so that {training.caller} has no proper posterior to predict it from. Give them a Normal prior."
            )
    return _GroupProblem(products, grid, prior, common, -products.copies * np.log(scaling.y_scale), names)


def _start(weight, factor, sigma) -> tuple[float, np.ndarray]:
    """Return posterior means of sigma and of the sds of groups."""
    tau = sigma[:, None] * np.sqrt(np.sum(factor**2, axis=2))
    return float(weight @ sigma), weight @ tau


def _grid_of_draws(posterior: DrawsPosterior, scaling: ColumnScaling) -> VarianceGrid:
    """Return NUTS draws of the variance parameters in the units of the engine."""
    sigma = posterior.sigma / scaling.y_scale
    sigma = np.where(np.isnan(sigma), 1.0, sigma)  # known standard errors
    if not posterior.group_sd:
        return VarianceGrid.of_draws(posterior.weight, np.zeros((len(sigma), 0, 0)), sigma)
    relative_sd = posterior.group_sd[0] * scaling.z_scale / scaling.y_scale / sigma[:, None]
    q = relative_sd.shape[1]
    lower = np.linalg.cholesky(posterior.correlation[0] + 1e-12 * np.eye(q))
    return VarianceGrid.of_draws(posterior.weight, relative_sd[:, :, None] * lower, sigma)


def _engine_coefficients(raw: np.ndarray, scaling: ColumnScaling, has_intercept: bool) -> np.ndarray:
    """Return coefficients in the units of the engine from those of the raw columns; undoes `ColumnScaling.coefficients`."""
    engine = raw * scaling.x_scale / scaling.y_scale
    if has_intercept:
        engine[:, 0] = (raw[:, 0] - scaling.y_centre + raw[:, 1:] @ scaling.x_centre[1:]) / scaling.y_scale
    return engine[:, scaling.kept]


def _check_normal_effects(training: _Training, reason: str) -> None:
    """Raise unless effects of groups are Normal with mean 0, so that they can be integrated out."""
    for factor in training.frame.specification.factors:
        for term in dict.fromkeys(factor.terms):
            prior = training.fitted.priors[term]
            arguments = prior[1] if isinstance(prior, tuple) and prior[0] == "Normal" else {"mu": None}
            mu = arguments.get("mu", 0.0)
            if mu is None or isinstance(mu, tuple) or np.any(np.asarray(mu) != 0):
                raise ValueError(
                    f"{training.caller} with unit='group' integrates the effects of the group out, which takes Normal "
                    f"effects with mean 0, but {reason}. Use unit='row', or compare_estimators with GroupKFold."
                )


def _loo_of_groups(training: _Training) -> Any:
    problem = _group_problem(training)
    products, grid, model = problem.products, problem.grid, training.fitted.model
    good_k = _good_k(grid.n_nodes)
    if problem.common is None:
        scored = score_groups(products, grid, problem.prior)
        scores = leave_groups_out(scored.left_out, scored.seen, grid.weight, scored.unresolved)
        start = _start(grid.weight, grid.factor, np.exp(np.sum(grid.conditional * grid.log_sigma, axis=1)))
        scores = refit_without(products, scores, model, *start, good_k)
    else:
        log_likelihood = log_likelihood_given_common(products, grid, problem.common)
        scores = leave_groups_out(log_likelihood, log_likelihood, grid.weight)
    bad = np.flatnonzero(scores.pareto_k > good_k)
    if len(bad):
        _warn(
            f"Pareto k is above {good_k:.2f} for {len(bad)} of {products.n_groups} groups "
            f"({_listed([problem.names[j] for j in bad])}): without them the posterior is another, and their "
            "densities are not reliable. Cross-validate (compare_estimators with GroupKFold) where this may decide "
            "between models; Normal priors of the common coefficients would allow fits without them."
        )
    elpd, lpd = scores.elpd + problem.shift, scores.lpd + problem.shift
    template = _group_template(training, problem)
    return _elpd_data(
        "loo",
        elpd,
        lpd - elpd,
        template,
        n_samples=grid.n_nodes,
        warning=bool(len(bad)),
        good_k=good_k,
        pareto_k=template.copy(data=scores.pareto_k),
    )


def _waic_of_groups(training: _Training) -> Any:
    problem = _group_problem(training)
    products, grid = problem.products, problem.grid
    if problem.common is None:
        seen = score_groups(products, grid, problem.prior).seen
        _, variance = likelihood_moments(products, grid, problem.prior)
    else:
        seen = log_likelihood_given_common(products, grid, problem.common)
        variance = np.var(seen, axis=0, ddof=1)
    lpd = leave_groups_out(seen, seen, grid.weight).lpd + problem.shift
    return _waic_result(lpd, variance, grid.n_nodes, _group_template(training, problem), problem.names)


def _group_template(training: _Training, problem: _GroupProblem) -> Any:
    from xarray import DataArray

    (factor,) = training.frame.grouped.factors
    return DataArray(np.zeros(len(problem.names)), dims=[factor.name], coords={factor.name: problem.names})


def _good_k(n_nodes: int) -> float:
    """Return the largest Pareto k with which so many draws give a reliable mean (Vehtari et al. 2024, section 3.2.4)."""
    return min(1 - 1 / np.log10(n_nodes), PARETO_K_THRESHOLD) if n_nodes >= FEWEST_NODES else PARETO_K_THRESHOLD


# ---------------------------------------------------------------------------------------------------------------------
# ArviZ's objects


def _elpd_data(kind: str, elpd_i, p_i, template, *, n_samples, warning, good_k, pareto_k) -> Any:
    import arviz_stats
    from arviz_stats.base import array_stats

    elpd, se, p, _ = array_stats.loo_summary(elpd_i, p_i)
    fields = {
        "elpd": float(elpd),
        "se": float(se),
        "p": float(p),
        "n_samples": n_samples,
        "n_data_points": len(elpd_i),
        "scale": "log",
        "warning": warning,
        "good_k": good_k,
        "elpd_i": template.copy(data=elpd_i),
        "pareto_k": pareto_k,
    }
    if not hasattr(arviz_stats, "ELPDDataLOO"):  # before ArviZ 1.3 one class serves all kinds
        return arviz_stats.ELPDData(kind=kind, **fields)
    if kind == "loo":
        return arviz_stats.ELPDDataLOO(**fields)
    result = arviz_stats.ELPDData(**fields)
    result._kind = kind  # no class of its own since ArviZ has dropped WAIC
    return result


def _warn(message: str) -> None:
    warnings.warn(message, ConvergenceWarning, stacklevel=4)


def _listed(names) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else "")
