"""One fold of a comparison: fitting to its training rows, answering for its test rows.

Counts over exposure, and successes out of trials, are fitted as such by estimators that take them, and as rates or
shares with exposure or trials as weights by others: the same likelihood (McCullagh and Nelder 1989, section 2.2.4).
Classifiers get two rows for each of successes out of trials, weighted by successes and by failures. What is predicted
are rates and shares, by all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from inspect import Parameter, signature
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone, is_classifier
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import has_fit_parameter

from hbsk._data.responses import SIZE_OF, are_whole
from hbsk._estimators.partial_pooling import PartialPoolingBase
from hbsk._estimators.shrunken_rates import FAMILIES, ShrunkenRatesMixin
from hbsk._estimators.sizes import SizesMixin
from hbsk.model_selection import _scores
from hbsk.model_selection._responses import GROUPS, answering_step, call_with_groups, parameters, takes, takes_groups
from hbsk.model_selection._scorers import GroupScorer


@dataclass(frozen=True)
class Data:
    """Rows, and what stands beside them.

    Attributes
    ----------
    X : array-like or dataframe of shape (n_rows, n_features)
    y : ndarray of shape (n_rows,)
        Responses; counts or successes, where there are sizes.
    groups : array-like of shape (n_rows,) or None
    weight : ndarray of shape (n_rows,) or None
        Copies of each row.
    sized_by : {"", "exposure", "trials"}
    size : ndarray of shape (n_rows,) or None
        Exposure or trials.
    are_rates : bool
        Whether y are rates or shares without sizes, which weights stand for where estimators know counts.
    """

    X: Any
    y: np.ndarray
    groups: Any = None
    weight: np.ndarray | None = None
    sized_by: str = ""
    size: np.ndarray | None = None
    are_rates: bool = False

    @classmethod
    def of(cls, X, y, groups, weight, sized_by, size) -> Data:
        """Make it of all rows."""
        are_rates = size is None and weight is not None and y.dtype.kind == "f" and not are_whole(y).all()
        return cls(X, y, groups, weight, sized_by, size, are_rates)

    def take(self, rows: np.ndarray) -> Data:
        """Return some of the rows."""
        X, groups = (None if part is None else _safe_indexing(part, rows) for part in (self.X, self.groups))
        weight, size = (None if part is None else part[rows] for part in (self.weight, self.size))
        return replace(self, X=X, y=self.y[rows], groups=groups, weight=weight, size=size)

    @property
    def outcome(self) -> np.ndarray:
        """What is predicted: responses, rates or shares."""
        return self.y if self.size is None else self.y / self.size

    @property
    def importance(self) -> np.ndarray | None:
        """The weight of each outcome."""
        parts = [part for part in (self.weight, self.size) if part is not None]
        return np.prod(parts, axis=0) if parts else None

    @property
    def as_outcomes(self) -> Data:
        """The same without sizes: outcomes, weighted."""
        return replace(self, y=self.outcome, weight=self.importance, sized_by="", size=None)

    @property
    def as_classes(self) -> Data:
        """Two rows for each of successes out of trials: 1, weighted by successes, and 0, by failures."""
        assert self.size is not None
        copies = 1.0 if self.weight is None else self.weight
        n, weight = len(self.y), np.concatenate([copies * self.y, copies * (self.size - self.y)])
        twice = self.take(np.tile(np.arange(n), 2))
        found = replace(twice, y=np.repeat([1, 0], n), weight=weight, sized_by="", size=None)
        return found.take(np.flatnonzero(weight > 0))


@dataclass(frozen=True)
class Job:
    """One estimator, and one fold of one question.

    Attributes
    ----------
    question : str
    estimator : str
    fold : int
    train, test : ndarray of int
        Rows.
    """

    question: str
    estimator: str
    fold: int
    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Result:
    """Answers of one estimator for the test rows of one fold.

    Attributes
    ----------
    mean : ndarray of shape (n_test,) or None
        Predictions; probabilities of success, where classifiers tell shares.
    sd : ndarray of shape (n_test,) or None
    interval : ndarray of shape (n_test, 2) or None
        With probability 0.9.
    seconds : dict of str to float
    scores : dict of str to float
        What the scorers said.
    probability : ndarray of shape (n_test, n_classes) or None
    """

    mean: np.ndarray | None
    sd: np.ndarray | None
    interval: np.ndarray | None
    seconds: dict[str, float]
    scores: dict[str, float] = field(default_factory=dict)
    probability: np.ndarray | None = None


def run(job: Job, estimator: Any, data: Data, measures: dict[str, Any], classes: np.ndarray | None) -> Result:
    """Fit to the training rows of a fold and answer for its test rows.

    Parameters
    ----------
    job : Job
    estimator : estimator
        Stays as it is.
    data : Data
        All rows.
    measures : dict of str to str or callable
        Names of our metrics, or scorers.
    classes : ndarray or None
        Sorted labels; None where no classes are compared.
    """
    try:
        return _fit_and_answer(clone(estimator), data.take(job.train), data.take(job.test), measures, classes)
    except Exception as error:
        error.add_note(f"This is estimators[{job.estimator!r}] in fold {job.fold} of {job.question!r}.")
        raise


def _fit_and_answer(estimator, train, test, measures, classes) -> Result:
    _import_before_timing(estimator)
    seen = _as_fit_takes_it(estimator, train)
    start = time.perf_counter()
    estimator.fit(seen.X, seen.y, **_fit_arguments(estimator, seen.groups), **_beside_y(estimator, seen))
    fitted = time.perf_counter()
    # A pipeline's predict takes no groups in some settings, its last step always does.
    last, X_last = answering_step(estimator, test.X)
    mean, probability = None, None
    if not is_classifier(last):
        mean = np.asarray(call_with_groups(last, "predict", X_last, test.groups), dtype=np.float64).reshape(-1)
    elif hasattr(last, "predict_proba"):
        answer = call_with_groups(last, "predict_proba", X_last, test.groups)
        probability = _of_classes(answer, last.classes_, np.array([0, 1]) if classes is None else classes)
        mean = probability[:, 1] if classes is None else None
    seconds = {"fit_seconds": fitted - start, "predict_seconds": time.perf_counter() - fitted}
    metrics = {measure for measure in measures.values() if isinstance(measure, str)}
    sd, interval = (None, None) if is_classifier(last) else _distribution(last, X_last, test, metrics)
    scores = {
        label: _scorer_value(scorer, estimator, test)
        for label, scorer in measures.items()
        if not isinstance(scorer, str)
    }
    return Result(mean, sd, interval, seconds, scores, probability)


def _of_classes(probability: np.ndarray, known: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return probabilities of all classes; 0 of those that an estimator has not seen."""
    full = np.zeros((len(probability), len(classes)))
    full[:, np.searchsorted(classes, known)] = probability
    return full


def _import_before_timing(estimator: Any) -> None:
    """Import what sampling by NUTS imports on first need: it costs seconds, once a process."""
    parts = [estimator, *(estimator.get_params().values() if hasattr(estimator, "get_params") else ())]
    if any(isinstance(part, PartialPoolingBase) and part.inference == "nuts" for part in parts):
        import bambi  # noqa: F401


# ---------------------------------------------------------------------------------------------------------------------
# What fit is given


def _as_fit_takes_it(estimator: Any, data: Data) -> Data:
    """Return rows with sizes where an estimator takes these, otherwise the same likelihood without."""
    if data.size is None or _keyword(estimator, data.sized_by) is not None:
        return data
    if not is_classifier(estimator):
        return data.as_outcomes
    if _keyword(estimator, "sample_weight") is None:
        raise TypeError(
            f"{type(estimator).__name__} is a classifier whose fit takes no sample_weight=, by which successes out of "
            "trials= are told from failures. Leave it out of the comparison, or repeat the rows."
        )
    return data.as_classes


def _beside_y(estimator: Any, data: Data) -> dict[str, Any]:
    """Return weights and sizes by the keywords of `fit`; no weights where it does not take them."""
    given = {"sample_weight": data.weight, data.sized_by: data.size}
    keywords = {_keyword(estimator, name): value for name, value in given.items() if value is not None}
    return {keyword: value for keyword, value in keywords.items() if keyword is not None}


def _keyword(estimator: Any, name: str) -> str | None:
    """Find the keyword by which `fit` takes weights or sizes; None where it does not."""
    if get_config()["enable_metadata_routing"]:
        return name if _step_takes(estimator, name) and takes(estimator, "fit", name) else None
    if isinstance(estimator, Pipeline):
        step, last = estimator.steps[-1]
        within = _keyword(last, name)
        return None if within is None else f"{step}__{within}"
    if has_fit_parameter(estimator, name):
        return name if _step_takes(estimator, name) else None
    # Searches pass weights on, to scorers too, and forget sizes there; TransformedTargetRegressor passes all on.
    within = getattr(estimator, "estimator", None) if name == "sample_weight" else None
    within = getattr(estimator, "regressor", within)
    passes_on = any(p.kind is Parameter.VAR_KEYWORD for p in signature(estimator.fit).parameters.values())
    return _keyword(within, name) if passes_on and hasattr(within, "fit") and name == "sample_weight" else None


def _step_takes(estimator: Any, name: str) -> bool:
    """Tell whether what is fitted in the end takes sizes of a name: not where it shrinks means, though fit has both."""
    while True:
        if isinstance(estimator, Pipeline):
            estimator = estimator.steps[-1][1]
        elif hasattr(within := getattr(estimator, "estimator", None), "fit"):
            estimator = within
        else:
            break
    shrinks_means = isinstance(estimator, ShrunkenRatesMixin) and estimator.method not in FAMILIES
    return not (shrinks_means and name in SIZE_OF.values())


def _fit_arguments(estimator: Any, groups: Any) -> dict[str, Any]:
    """Find the keyword by which `fit` takes groups; none where it does not."""
    if groups is None:
        return {}
    if isinstance(estimator, Pipeline) and not get_config()["enable_metadata_routing"]:
        name, last = estimator.steps[-1]
        return {f"{name}__{keyword}": value for keyword, value in _fit_arguments(last, groups).items()}
    return {GROUPS: groups} if takes_groups(estimator, "fit") else {}


# ---------------------------------------------------------------------------------------------------------------------
# What is answered


def _distribution(estimator: Any, X: Any, data: Data, metrics: set[str]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Ask for the sd and the 90 % interval of each outcome, where a metric needs them; None where there are none."""
    sd, interval = None, None
    if {"coverage", "width"} & metrics and "coverage" in parameters(getattr(estimator, "predict_interval", None)):
        interval = _interval(estimator, X, data)
        metrics = metrics - {"coverage", "width"}
    if {"crps", "log_score", "coverage", "width"} & metrics and "return_std" in parameters(estimator.predict):
        if _family(estimator):
            return None, interval  # the sd of a count is no sd of a normal law, and not told
        mean, sd = (
            np.asarray(a, dtype=np.float64)
            for a in call_with_groups(estimator, "predict", X, data.groups, return_std=True)
        )
        # DummyRegressor fills a place with zeros; it does not claim to be certain.
        sd = sd if sd.any() else None
        if interval is None and sd is not None:
            interval = _scores.normal_interval(mean, sd)
    return sd, interval


def _interval(estimator: Any, X: Any, data: Data) -> np.ndarray | None:
    """Return 90 % intervals of outcomes; of counts those of new counts, in units of the outcome."""
    family, size = _family(estimator), data.size
    if not family:
        return call_with_groups(estimator, "predict_interval", X, data.groups, coverage=_scores.COVERAGE)
    if data.are_rates:
        size = data.weight
    if family == "binomial" and size is not None and not are_whole(size).all():
        return None  # fractions of trials are never seen
    options = {"coverage": _scores.COVERAGE, "kind": "prediction"}
    if size is None:
        return call_with_groups(estimator, "predict_interval", X, data.groups, **options)
    sizes = {SIZE_OF[family]: np.where(size > 0, size, 1.0)}
    interval = call_with_groups(estimator, "predict_interval", X, data.groups, **options, **sizes)
    return interval / sizes[SIZE_OF[family]][:, None]


def _family(estimator: Any) -> str:
    """Return "poisson" or "binomial" of our estimators of counts; "" of others."""
    if isinstance(estimator, ShrunkenRatesMixin):
        return FAMILIES.get(estimator.method, "")
    return estimator.family if isinstance(estimator, SizesMixin) else ""  # type: ignore[attr-defined]


def _scorer_value(scorer: Callable, estimator: Any, data: Data) -> float:
    """Ask a scorer; the weights of outcomes go to those that take them, sizes to those of `make_group_scorer`."""
    if data.size is not None and is_classifier(estimator):
        data = data.as_classes
        if not _accepts_weights(scorer):
            raise TypeError(
                f"{scorer!r} takes no sample_weight, by which successes out of trials= are told from failures of "
                "classifiers. Name a scorer that does, 'neg_log_loss' for example."
            )
    if isinstance(scorer, GroupScorer):
        beside = {data.sized_by: data.size} if data.size is not None else {}
        if data.weight is not None and _accepts_weights(scorer):
            beside["sample_weight"] = data.weight
        return scorer(estimator, data.X, data.y, groups=data.groups, **beside)
    data = data.as_outcomes
    beside = {} if data.weight is None or not _accepts_weights(scorer) else {"sample_weight": data.weight}
    last, X_last = answering_step(estimator, data.X)
    if data.groups is not None and takes_groups(last, "predict"):
        wrapped = _ClassifiesWithGroups if is_classifier(last) else _PredictsWithGroups
        return scorer(wrapped(last, data.groups), X_last, data.y, **beside)
    return scorer(estimator, data.X, data.y, **beside)


def _accepts_weights(scorer: Callable) -> bool:
    accepts = getattr(scorer, "_accept_sample_weight", None)  # scikit-learn's own question
    return accepts() if accepts is not None else "sample_weight" in parameters(scorer)


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
