"""Cross-validated comparison of estimators of any kind, under the two questions that grouped data ask."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone, is_classifier
from sklearn.metrics import get_scorer
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, column_or_1d, indexable
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _num_samples, has_fit_parameter

from hbsk._data.checks import check_target, check_weights
from hbsk._data.suspicions import warn_of_order
from hbsk._data.table import refuse_lazy
from hbsk._estimators.partial_pooling import PartialPoolingBase
from hbsk._messages import shown
from hbsk.model_selection import _scores
from hbsk.model_selection._questions import questions
from hbsk.model_selection._responses import GROUPS, answering_step, call_with_groups, parameters, takes_groups
from hbsk.model_selection._scorers import GroupScorer
from hbsk.model_selection._splitters import refuse_name

__all__ = ["compare_estimators"]

SECONDS = ("fit_seconds", "predict_seconds")
METRICS = ("rmse", "mae", "crps", "log_score", "coverage", "width", *SECONDS)
# Of classes; and what is measured of counts where it is named.
OF_CLASSES, OF_COUNTS = ("log_loss", "brier"), ("poisson_deviance",)


def compare_estimators(
    estimators: Mapping[str, Any],
    X: Any,
    y: Any,
    groups: Any = None,
    *,
    cv: Any = "both",
    scoring: Any = None,
    sample_weight: Any = None,
    n_jobs: int | None = None,
) -> pd.DataFrame:
    """Cross-validate estimators of any kind under both questions that grouped data ask.

    "New rows of known groups" (next year's pupils of these schools) and "new groups" (pupils of schools that nobody has
    measured) are different questions, and the best model for one need not be the best for the other.
    :class:`WithinGroupKFold` asks the first, :class:`~sklearn.model_selection.GroupKFold` the second. With several
    grouping factors the questions are "rows", and for each factor "new <factor>".

    Parameters
    ----------
    estimators : dict of str to estimator
        What is compared, anything with `fit` and `predict`. The first is the one that `difference` refers to.
    X : array-like or dataframe of shape (n_samples, n_features)
        Features; the group column too, where an estimator reads its groups from there.
    y : array-like of shape (n_samples,)
        Responses.
    groups : array-like of shape (n_samples,) or (n_samples, n_factors), default=None
        The group of each row, of several factors in columns. The folds are made of them, and estimators that take
        `groups=` in `fit` and `predict` get them, also as the last step of a pipeline; those that read a column
        (`group_features`, or a formula) do not. None takes the factors that the estimators themselves read from columns
        of X; of pipelines and searches these are not known.
    cv : {"both", "known", "new"}, int, splitter, iterable or dict, default="both"
        The questions. "known": `WithinGroupKFold(5, shuffle=True, random_state=0)`; "new": `GroupKFold(5)`; fewer folds
        where there are fewer groups. With several factors "known" asks for "rows", whose groups are known in every
        factor as far as they have other rows, and "new" asks once for each factor: the rows of a group are left out
        together, and with them the groups nested in it. A dict maps the name of a question to a splitter (or an int, or
        an iterable of training and test rows); a single splitter is named after its class, a single iterable is called
        "folds".
    scoring : list of str, dict of str to scorer, or None, default=None
        What is measured. None: all of the metrics below. A list may name these and scikit-learn's scorers ("r2"). A
        dict maps names to either, or to functions `scorer(estimator, X, y)`; :func:`make_group_scorer` makes such
        functions that are given the groups too.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each row in `fit`, where an estimator takes it, and in "log_loss", "brier" and "poisson_deviance": the
        exposure behind rates, or the trials behind proportions, as `PartialPoolingCountRegressor` and
        `PoissonRegressor` take them.
    n_jobs : int, default=None
        Number of fits at a time. Seconds are comparable only with one.

    Returns
    -------
    comparison : DataFrame
        One row for each question, estimator and metric, with the columns

        question, estimator, metric : category
            In the order in which they were given; `DataFrame.pivot` keeps it.
        mean : float
            Mean over folds.
        standard_error : float
            Of that mean: sd over folds / sqrt(number of folds). Folds share most of their training rows, which makes it
            a rough guide.
        difference : float
            `mean` less that of the first estimator under the same question.
        difference_standard_error : float
            Of the difference, paired by folds: much smaller than `standard_error` where some folds are hard for all.

    See Also
    --------
    make_group_scorer : The same care in GridSearchCV and cross_validate.
    WithinGroupKFold : Every test row belongs to a group among the training rows.

    Notes
    -----
    The metrics, of which small is good except for coverage:

    - "rmse", "mae": root mean squared and mean absolute error of `predict`, in units of y.
    - "crps", "log_score": continuous ranked probability score (units of y) and minus log predictive density of the
      normal distribution with the mean and sd of `predict(X, return_std=True)`, an approximation where the predictive
      distribution is not normal. "crps" is computed by the package `scoringrules`: where it is not installed the rows
      of "crps" are NaN, or there is an ImportError if `scoring` names "crps".
    - "coverage", "width": fraction of 90 % intervals that hold their y (0.9 is right, not 1), and their mean width.
      From `predict_interval(X, coverage=0.9)`, else from the same normal distribution.
    - "log_loss", "brier": of classifiers, minus the mean log probability of the class that was seen, and the mean
      squared distance of the probability of the second of two classes from it (of several classes the sum of squared
      distances of all). With classifiers they are measured by default, instead of those above; NaN without
      `predict_proba`.
    - "poisson_deviance": of counts and rates, where it is named; infinite where a prediction is not positive.
    - "fit_seconds", "predict_seconds": wall time of `fit` and `predict`, pipelines included, the first import of Bambi
      not included.

    Estimators that give no distribution (`Ridge`, but not `BayesianRidge`), or an sd of 0 in every row
    (`DummyRegressor`), have NaN in crps, log_score, coverage and width. An infinite sd gives infinite scores. In
    pipelines and searches the distribution is that of the last step, or of the best estimator; a
    TransformedTargetRegressor gives none.

    An error in any fold stops the comparison, with a note that says where; no score is set to NaN for it.

    Examples
    --------
    >>> from sklearn.dummy import DummyRegressor
    >>> from sklearn.linear_model import BayesianRidge
    >>> from hbsk import PartialPoolingRegressor
    >>> from hbsk.datasets import load_sleepstudy
    >>> from hbsk.model_selection import compare_estimators
    >>> X, y = load_sleepstudy(return_X_y=True, as_frame=True)
    >>> comparison = compare_estimators(
    ...     {
    ...         "mean": DummyRegressor(),
    ...         "one line": BayesianRidge(),
    ...         "partial pooling": PartialPoolingRegressor(slope_features="all"),
    ...     },
    ...     X[["Days"]], y, groups=X["Subject"], scoring=["rmse", "coverage"],
    ... )
    >>> table = comparison.pivot(index=["question", "estimator"], columns="metric", values="mean")
    >>> table.round({"rmse": 0, "coverage": 1})
    metric                                    rmse  coverage
    question                 estimator
    new rows of known groups mean             56.0       NaN
                             one line         48.0       0.9
                             partial pooling  29.0       0.9
    new groups               mean             57.0       NaN
                             one line         50.0       0.9
                             partial pooling  50.0       0.9
    """
    estimators = _check_estimators(estimators)
    refuse_name(groups, "compare_estimators")
    refuse_lazy(X, "X")
    X, y, groups = indexable(X, y, groups)
    warn_of_order(X, [("y", y), ("groups", groups)])
    classes = None
    if _are_classifiers(estimators):
        y = column_or_1d(y)
        classes = np.unique(y)
    else:
        y = check_target(y, _num_samples(X), "compare_estimators")
    weight = check_weights(sample_weight, _num_samples(X), "compare_estimators", are_sizes=True)
    measures = _check_scoring(scoring, METRICS if classes is None else (*OF_CLASSES, *SECONDS))
    jobs = [
        _Job(question, name, fold, train, test)
        for question, folds in questions(cv, X, y, groups, estimators).items()
        for name in estimators
        for fold, (train, test) in enumerate(folds)
    ]
    results = Parallel(n_jobs=n_jobs)(
        delayed(_run)(job, estimators[job.estimator], X, y, groups, weight, measures, classes) for job in jobs
    )
    rows = [
        (
            job.question,
            job.estimator,
            label,
            job.fold,
            _measure(
                label, measures[label], y[job.test], result, classes, None if weight is None else weight[job.test]
            ),
        )
        for job, result in zip(jobs, results, strict=True)
        for label in measures
    ]
    return _summary(pd.DataFrame(rows, columns=["question", "estimator", "metric", "fold", "value"]))


# ---------------------------------------------------------------------------------------------------------------------
# What was asked for


def _check_estimators(estimators: Any) -> dict[str, Any]:
    if not isinstance(estimators, Mapping) or not estimators or not all(isinstance(name, str) for name in estimators):
        raise TypeError(f"estimators must be a dict that maps names to estimators, got {shown(estimators)}.")
    for name, estimator in estimators.items():
        missing = [method for method in ("fit", "predict") if not hasattr(estimator, method)]
        if missing or isinstance(estimator, type):
            raise TypeError(
                f"estimators[{name!r}] must be an estimator with fit and predict (an instance, not a class), got "
                f"{estimator!r}."
            )
    return dict(estimators)


def _are_classifiers(estimators: Mapping[str, Any]) -> bool:
    """Tell whether all estimators are classifiers; a mixture has no common y."""
    kinds = {name: is_classifier(estimator) for name, estimator in estimators.items()}
    if len(set(kinds.values())) > 1:
        one, other = (next(name for name, kind in kinds.items() if kind is wanted) for wanted in (True, False))
        raise TypeError(
            f"estimators[{one!r}] is a classifier and estimators[{other!r}] is none: they have no metric in common. "
            "Compare classifiers with each other."
        )
    return all(kinds.values())


def _check_scoring(scoring: Any, default: tuple[str, ...]) -> dict[str, Any]:
    """Map the names of what is measured to names of our metrics, or to scorers."""
    if scoring is None:
        return {metric: metric for metric in default}
    if isinstance(scoring, str) or not isinstance(scoring, Iterable):
        raise TypeError(
            f"scoring must be a list of names or a dict of scorers, got {shown(scoring)}. A single one goes in a list: "
            f"scoring=[{shown(scoring)}]."
        )
    named = dict(scoring) if isinstance(scoring, Mapping) else {name: name for name in scoring}
    measures = {}
    for label, measure in named.items():
        known = {*default, *SECONDS, *(OF_COUNTS if "rmse" in default else ())}
        if isinstance(measure, str) and measure not in known:
            try:
                measure = get_scorer(measure)
            except ValueError:
                raise ValueError(
                    f"scoring names {shown(measure)}, which is neither one of {sorted(known)} nor a scorer of "
                    "scikit-learn (sklearn.metrics.get_scorer_names() lists those)."
                ) from None
        elif not isinstance(measure, str) and not callable(measure):
            raise TypeError(
                f"scoring[{shown(label)}] must be a name or a function scorer(estimator, X, y), got {shown(measure)}."
            )
        measures[label] = measure
    if not measures:
        raise ValueError("scoring is empty. Name at least one metric, or leave it out (None).")
    if "crps" in measures.values() and not _scores.crps_is_available():
        raise ImportError(
            "scoring names 'crps', which needs the package scoringrules: pip install scoringrules. Without it leave "
            "'crps' out; 'log_score' judges distributions too."
        )
    return measures


# ---------------------------------------------------------------------------------------------------------------------
# One fold


@dataclass(frozen=True)
class _Job:
    question: str
    estimator: str
    fold: int
    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class _Result:
    """Answers of one estimator for the test rows of one fold.

    Attributes
    ----------
    mean : ndarray of shape (n_test,)
    sd : ndarray of shape (n_test,) or None
    interval : ndarray of shape (n_test, 2) or None
        With probability 0.9.
    seconds : dict of str to float
    scores : dict of str to float
        What the scorers said.
    """

    mean: np.ndarray | None
    sd: np.ndarray | None
    interval: np.ndarray | None
    seconds: dict[str, float]
    scores: dict[str, float] = field(default_factory=dict)
    probability: np.ndarray | None = None


def _run(job, estimator, X, y, groups, weight, measures, classes) -> _Result:
    """Fit to the training rows of a fold and answer for its test rows."""
    try:
        train, test = ((_safe_indexing(X, rows), y[rows], _take(groups, rows)) for rows in (job.train, job.test))
        weight = None if weight is None else weight[job.train]
        return _fit_and_answer(clone(estimator), train, test, weight, measures, classes)
    except Exception as error:
        error.add_note(f"This is estimators[{job.estimator!r}] in fold {job.fold} of {job.question!r}.")
        raise


def _take(groups: Any, rows: np.ndarray) -> Any:
    return None if groups is None else _safe_indexing(groups, rows)


def _fit_and_answer(estimator, train, test, weight, measures, classes) -> _Result:
    X_train, y_train, groups_train = train
    X, y, groups = test
    _import_before_timing(estimator)
    start = time.perf_counter()
    estimator.fit(X_train, y_train, **_fit_arguments(estimator, groups_train), **_weights(estimator, weight))
    fitted = time.perf_counter()
    # A pipeline's predict takes no groups in some settings, its last step always does.
    last, X_last = answering_step(estimator, X)
    mean, probability = None, None
    if classes is None:
        mean = np.asarray(call_with_groups(last, "predict", X_last, groups), dtype=np.float64).reshape(-1)
    elif hasattr(last, "predict_proba"):
        probability = _of_classes(call_with_groups(last, "predict_proba", X_last, groups), last.classes_, classes)
    seconds = {"fit_seconds": fitted - start, "predict_seconds": time.perf_counter() - fitted}
    metrics = {measure for measure in measures.values() if isinstance(measure, str)}
    sd, interval = _distribution(last, X_last, groups, metrics) if classes is None else (None, None)
    scores = {
        label: _scorer_value(scorer, estimator, X, y, groups)
        for label, scorer in measures.items()
        if not isinstance(scorer, str)
    }
    return _Result(mean, sd, interval, seconds, scores, probability)


def _of_classes(probability: np.ndarray, known: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return probabilities of all classes; 0 of those that an estimator has not seen."""
    full = np.zeros((len(probability), len(classes)))
    full[:, np.searchsorted(classes, known)] = probability
    return full


def _weights(estimator: Any, weight: np.ndarray | None) -> dict[str, Any]:
    """Find the keyword by which `fit` takes weights; none where it does not."""
    if weight is None:
        return {}
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        return {f"{name}__{keyword}": value for keyword, value in _weights(last, weight).items()}
    return {"sample_weight": weight} if has_fit_parameter(estimator, "sample_weight") else {}


def _import_before_timing(estimator: Any) -> None:
    """Import what sampling by NUTS imports on first need: it costs seconds, once a process."""
    parts = [estimator, *(estimator.get_params().values() if hasattr(estimator, "get_params") else ())]
    if any(isinstance(part, PartialPoolingBase) and part.inference == "nuts" for part in parts):
        import bambi  # noqa: F401


def _fit_arguments(estimator: Any, groups: Any) -> dict[str, Any]:
    """Find the keyword by which `fit` takes groups; none where it does not."""
    if groups is None:
        return {}
    if isinstance(estimator, Pipeline) and not get_config()["enable_metadata_routing"]:
        name, last = estimator.steps[-1]
        return {f"{name}__{keyword}": value for keyword, value in _fit_arguments(last, groups).items()}
    return {GROUPS: groups} if takes_groups(estimator, "fit") else {}


def _distribution(
    estimator: Any, X: Any, groups: Any, metrics: set[str]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Ask for the sd and the 90 % interval of each row, where a metric needs them; None where there are none."""
    sd, interval = None, None
    if {"coverage", "width"} & metrics and "coverage" in parameters(getattr(estimator, "predict_interval", None)):
        interval = call_with_groups(estimator, "predict_interval", X, groups, coverage=_scores.COVERAGE)
        metrics = metrics - {"coverage", "width"}
    if {"crps", "log_score", "coverage", "width"} & metrics and "return_std" in parameters(estimator.predict):
        mean, sd = (
            np.asarray(a, dtype=np.float64) for a in call_with_groups(estimator, "predict", X, groups, return_std=True)
        )
        # DummyRegressor fills a place with zeros; it does not claim to be certain.
        sd = sd if sd.any() else None
        if interval is None and sd is not None:
            interval = _scores.normal_interval(mean, sd)
    return sd, interval


def _scorer_value(scorer: Callable, estimator: Any, X: Any, y: np.ndarray, groups: Any) -> float:
    if isinstance(scorer, GroupScorer):
        return scorer(estimator, X, y, groups=groups)
    last, X_last = answering_step(estimator, X)
    if groups is not None and takes_groups(last, "predict"):
        wrapped = _ClassifiesWithGroups if is_classifier(last) else _PredictsWithGroups
        return scorer(wrapped(last, groups), X_last, y)
    return scorer(estimator, X, y)


class _PredictsWithGroups(RegressorMixin, BaseEstimator):
    """A fitted estimator with the groups of the rows it will be asked for; scikit-learn's scorers cannot pass them."""

    def __init__(self, estimator: Any, groups: Any):
        self.estimator = estimator
        self.groups = groups

    def predict(self, X: Any) -> np.ndarray:
        return call_with_groups(self.estimator, "predict", X, self.groups)


class _ClassifiesWithGroups(ClassifierMixin, _PredictsWithGroups):
    """The same of a classifier."""

    @property
    def classes_(self) -> np.ndarray:
        return self.estimator.classes_

    def predict_proba(self, X: Any) -> np.ndarray:
        return call_with_groups(self.estimator, "predict_proba", X, self.groups)


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def _measure(label, measure, y, result: _Result, classes, weight) -> float:
    """Give one number of one fold; NaN where the estimator gives no answer of that kind."""
    if not isinstance(measure, str):
        return result.scores[label]
    if measure in result.seconds:
        return result.seconds[measure]
    if measure in OF_CLASSES:
        if result.probability is None:
            return np.nan
        return getattr(_scores, measure)(np.searchsorted(classes, y), result.probability, weight)
    assert result.mean is not None
    if measure in OF_COUNTS:
        return _scores.poisson_deviance(y, result.mean, weight)
    if measure in ("rmse", "mae"):
        return getattr(_scores, measure)(y, result.mean)
    if measure == "crps" and not _scores.crps_is_available():
        return np.nan
    if measure in ("crps", "log_score"):
        return np.nan if result.sd is None else getattr(_scores, measure)(y, result.mean, result.sd)
    if result.interval is None:
        return np.nan
    return _scores.width(result.interval) if measure == "width" else _scores.coverage(y, result.interval)


def _summary(folds: pd.DataFrame) -> pd.DataFrame:
    """Take means over folds, their standard errors, and the differences from the first estimator, paired by folds."""
    keys = ["question", "estimator", "metric"]
    for key in keys:
        folds[key] = pd.Categorical(folds[key], categories=folds[key].unique(), ordered=True)
    reference = folds["estimator"].cat.categories[0]
    at = ["question", "metric", "fold"]
    first = folds.loc[folds["estimator"] == reference].set_index(at)["value"]
    # inf - inf is NaN, and so is the spread of values that are not all finite.
    with np.errstate(invalid="ignore"):
        folds["difference"] = folds["value"] - first.loc[pd.MultiIndex.from_frame(folds[at])].to_numpy()
        grouped = folds.groupby(keys, observed=True, sort=True)
        summary = pd.DataFrame(
            {
                "mean": grouped["value"].agg(_mean),
                "standard_error": grouped["value"].agg(_standard_error),
                "difference": grouped["difference"].agg(_mean),
                "difference_standard_error": grouped["difference"].agg(_standard_error),
            }
        )
    return summary.reset_index()


def _mean(values: pd.Series) -> float:
    return float(values.to_numpy().mean())


def _standard_error(values: pd.Series) -> float:
    """Compute sd / sqrt(n) of n values; NaN for one value, or where one is infinite or missing."""
    array = values.to_numpy()
    if len(array) < 2 or not np.isfinite(array).all():
        return np.nan
    return float(array.std(ddof=1) / np.sqrt(len(array)))
