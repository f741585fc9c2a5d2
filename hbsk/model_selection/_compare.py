"""Cross-validated comparison of estimators of any kind, under the two questions that grouped data ask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import is_classifier
from sklearn.metrics import get_scorer
from sklearn.utils import column_or_1d, indexable
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _num_samples

from hbsk._data.checks import check_target, check_weights
from hbsk._data.responses import check_counts, check_sizes
from hbsk._data.suspicions import warn_of_order
from hbsk._data.table import refuse_lazy
from hbsk._messages import shown
from hbsk.model_selection import _scores
from hbsk.model_selection._folds import Data, Job, Result, run
from hbsk.model_selection._questions import questions
from hbsk.model_selection._splitters import refuse_name

__all__ = ["compare_estimators"]

SECONDS = ("fit_seconds", "predict_seconds")
OF_NUMBERS = ("rmse", "mae", "crps", "log_score", "coverage", "width")
OF_CLASSES = ("log_loss", "brier")
# What is measured where nothing is named: by what counts are out of.
DEFAULTS = {"": OF_NUMBERS, "exposure": ("poisson_deviance", "coverage", "width"), "trials": OF_CLASSES}


def compare_estimators(
    estimators: Mapping[str, Any],
    X: Any,
    y: Any,
    groups: Any = None,
    *,
    cv: Any = "both",
    scoring: Any = None,
    exposure: Any = None,
    trials: Any = None,
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
        Responses; counts with `exposure`, successes with `trials`.
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
        What is measured. None: the metrics below, by what y is. A list may name these and scikit-learn's scorers
        ("r2"). A dict maps names to either, or to functions `scorer(estimator, X, y)`; :func:`make_group_scorer` makes
        such functions that are given the groups too.
    exposure, trials : array-like of shape (n_samples,) or float, default=None
        What counts are over, or successes out of. Estimators of counts get it in `fit`; others are fitted to rates, ``y
        / exposure``, with exposure as weights, the same likelihood, and classifiers to successes and failures of
        `trials`. Rates and shares are what is scored, weighted likewise.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each row in `fit`, where an estimator takes it, and in all that is measured but "coverage" and
        "width", which count rows; beside exposure or trials, or in place of them where y holds rates or shares.
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
      From `predict_interval(X, coverage=0.9)`, else from the same normal distribution. Estimators of counts are asked
      for intervals of new counts, which are whole and hold at least 0.9; with `exposure` or `trials` both are per unit.
    - "log_loss", "brier": of classifiers, minus the mean log probability of the class that was seen, and the mean
      squared distance of the probability of the second of two classes from it (of several classes the sum of squared
      distances of all). With classifiers, and with `trials`, they are measured by default, instead of those above; of
      regressors y must be shares. With trials they are means over trials, the same as of rows repeated so often. NaN
      without `predict_proba`; infinite where a share is predicted outside 0 and 1.
    - "poisson_deviance": of counts and rates, by default with `exposure`, else where it is named; infinite where a
      prediction is not positive.
    - "fit_seconds", "predict_seconds": wall time of `fit` and `predict`, pipelines included, the first import of Bambi
      not included.

    Estimators that give no distribution (`Ridge`, but not `BayesianRidge`), or an sd of 0 in every row
    (`DummyRegressor`), have NaN in crps, log_score, coverage and width. An infinite sd gives infinite scores. In
    pipelines and searches the distribution is that of the last step, or of the best estimator; a
    TransformedTargetRegressor gives none.

    Searches get rates with weights, which they pass to their scorers too; with metadata routing on what was requested.
    Scorers see rates, and weights where they take them; those of `make_group_scorer` also exposure and trials.

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
    warn_of_order(
        X,
        [("y", y), ("groups", groups), ("exposure", exposure), ("trials", trials), ("sample_weight", sample_weight)],
    )
    n_rows = _num_samples(X)
    sized_by, size = _read_size(exposure, trials, n_rows)
    classes = None
    if _are_classifiers(estimators, sized_by):
        y = column_or_1d(y)
        classes = np.unique(y)
    else:
        y = check_target(y, n_rows, "compare_estimators")
        if size is not None:
            check_counts(y, size, "poisson" if sized_by == "exposure" else "binomial")
    weight = check_weights(sample_weight, n_rows, "compare_estimators", are_sizes=True)
    measures = _check_scoring(scoring, sized_by, classes is not None)
    data = Data.of(X, y, groups, weight, sized_by, size)
    if classes is None:
        _refuse_log_loss_of_numbers(measures, data.outcome)
    jobs = [
        Job(question, name, fold, train, test)
        for question, folds in questions(cv, X, y, groups, estimators).items()
        for name in estimators
        for fold, (train, test) in enumerate(folds)
    ]
    results = Parallel(n_jobs=n_jobs)(
        delayed(run)(job, estimators[job.estimator], data, measures, classes) for job in jobs
    )
    outcome, importance = data.outcome, data.importance
    rows = [
        (
            job.question,
            job.estimator,
            label,
            job.fold,
            _measure(
                label,
                measures[label],
                outcome[job.test],
                result,
                classes,
                None if importance is None else importance[job.test],
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


def _read_size(exposure: Any, trials: Any, n_rows: int) -> tuple[str, np.ndarray | None]:
    """Return what counts are out of, "" for nothing, and how much."""
    if exposure is not None and trials is not None:
        raise ValueError(
            "compare_estimators was given both exposure= and trials=: counts are over exposure, successes out of "
            "trials. Leave one out."
        )
    for name, values in (("exposure", exposure), ("trials", trials)):
        if values is not None:
            return name, check_sizes(values, n_rows, name, "compare_estimators")
    return "", None


def _are_classifiers(estimators: Mapping[str, Any], sized_by: str) -> bool:
    """Tell whether all estimators are classifiers, and y classes; a mixture has no common y but shares of trials."""
    kinds = {name: is_classifier(estimator) for name, estimator in estimators.items()}
    if sized_by == "trials":
        return False
    if len(set(kinds.values())) > 1:
        one, other = (next(name for name, kind in kinds.items() if kind is wanted) for wanted in (True, False))
        raise TypeError(
            f"estimators[{one!r}] is a classifier and estimators[{other!r}] is none: they have no metric in common. "
            "Compare classifiers with each other, or give successes with trials= (1 for y of 0 and 1)."
        )
    if all(kinds.values()) and sized_by:
        raise ValueError("exposure= was given with classifiers, which know no counts. Leave it out.")
    return all(kinds.values())


def _check_scoring(scoring: Any, sized_by: str, of_classes: bool) -> dict[str, Any]:
    """Map the names of what is measured to names of our metrics, or to scorers."""
    default = (*(OF_CLASSES if of_classes else DEFAULTS[sized_by]), *SECONDS)
    known = {*default} if of_classes else {*OF_NUMBERS, *OF_CLASSES, "poisson_deviance", *SECONDS}
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


def _refuse_log_loss_of_numbers(measures: Mapping[str, Any], outcome: np.ndarray) -> None:
    named = [name for name in OF_CLASSES if name in measures.values()]
    if named and (outcome.min() < 0 or outcome.max() > 1):
        raise ValueError(
            f"scoring names {named[0]!r}, which is of classes, or of shares between 0 and 1; y reaches from "
            f"{shown(outcome.min())} to {shown(outcome.max())}. Give successes with trials=, or name another metric."
        )


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def _measure(label, measure, y, result: Result, classes, weight) -> float:
    """Give one number of one fold; NaN where the estimator gives no answer of that kind."""
    if not isinstance(measure, str):
        return result.scores[label]
    if measure in result.seconds:
        return result.seconds[measure]
    if classes is not None:
        if result.probability is None:
            return np.nan
        return getattr(_scores, measure)(np.searchsorted(classes, y), result.probability, weight)
    if measure in OF_CLASSES and result.mean is not None:
        return getattr(_scores, f"{measure}_of_shares")(y, result.mean, weight)
    if measure in ("rmse", "mae", "poisson_deviance") and result.mean is not None:
        return getattr(_scores, measure)(y, result.mean, weight)
    if measure in ("crps", "log_score") and result.sd is not None:
        available = measure != "crps" or _scores.crps_is_available()
        return getattr(_scores, measure)(y, result.mean, result.sd, weight) if available else np.nan
    if measure not in ("coverage", "width") or result.interval is None:
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
