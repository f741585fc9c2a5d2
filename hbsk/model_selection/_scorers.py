"""Scorers that hand the groups of the rows to `predict`."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.utils.metadata_routing import MetadataRequest

from hbsk._base import sized_by
from hbsk._data.suspicions import warn_of_order
from hbsk._messages import quoted, shown
from hbsk.model_selection._responses import GROUPS, answering_step, call_with_groups

__all__ = ["make_group_scorer"]

MEAN_AND_STD = "mean_and_std"
SIZES = ("exposure", "trials")


def make_group_scorer(
    metric: Callable, *, greater_is_better: bool = True, response: str = "predict", **kwargs: Any
) -> GroupScorer:
    """Make a scorer that takes the groups of the rows and hands them to `predict`, and to the metric if it wants them.

    The scorers of scikit-learn cannot pass metadata to `predict`: an estimator that is given its groups by `groups=`
    rather than as a column of X is scored without them. With metadata routing on, a scorer made here closes that gap in
    `cross_validate`, `GridSearchCV` and everything else that routes to scorers. Estimators that take no groups
    (`Ridge`), or read them from a column (`group_features`), are scored as by any other scorer.

    Parameters
    ----------
    metric : callable
        Function `metric(y_true, y_pred, **kwargs)` that returns a number. Where it has a parameter `groups` it gets the
        groups too.
    greater_is_better : bool, default=True
        Whether large values of the metric are good. If not, the scorer returns them with the sign changed.
    response : str, default="predict"
        What the metric gets as `y_pred`: what this method of the estimator returns, "predict" or "predict_interval" for
        example. "mean_and_std" stands for `predict(X, return_std=True)` and a metric with three arguments,
        `metric(y_true, mean, std, **kwargs)`. Of the probabilities of two classes the metric gets those of one, as in
        :func:`sklearn.metrics.make_scorer`: of the argument `pos_label`, or the second. In pipelines and searches the
        last step, or the best estimator, is asked.
    **kwargs : object
        Further arguments of the metric.

    Returns
    -------
    scorer : GroupScorer
        Callable as `scorer(estimator, X, y_true, groups=None)`, for use as `scoring`. It requests `groups`, `exposure`
        and `trials` from the start, without `set_score_request`; `set_score_request(groups="school")` gives them
        another name, `set_score_request(groups=False)` does without, `set_score_request(sample_weight=True)` adds
        weights.

    See Also
    --------
    sklearn.metrics.make_scorer : Scorers that ask nothing but X.
    WithinGroupKFold : Test rows whose groups are known.

    Notes
    -----
    With metadata routing off, `cross_validate` and `GridSearchCV` hand no metadata to any scorer, this one included:
    an estimator fitted with `groups=` then raises an error, which scikit-learn turns into a score of NaN and a warning;
    `error_score="raise"` shows it. Name a column in `group_features` there.

    Examples
    --------
    >>> import sklearn
    >>> from sklearn.metrics import root_mean_squared_error
    >>> from sklearn.model_selection import cross_val_score
    >>> from hbsk import PartialPoolingRegressor
    >>> from hbsk.datasets import load_sleepstudy
    >>> from hbsk.model_selection import WithinGroupKFold, make_group_scorer
    >>> X, y = load_sleepstudy(return_X_y=True, as_frame=True)
    >>> days, subject = X[["Days"]], X["Subject"]
    >>> scorer = make_group_scorer(root_mean_squared_error, greater_is_better=False)
    >>> scorer
    make_group_scorer(root_mean_squared_error, greater_is_better=False)
    >>> with sklearn.config_context(enable_metadata_routing=True):
    ...     model = PartialPoolingRegressor(slope_features="all").set_fit_request(groups=True)
    ...     scores = cross_val_score(
    ...         model, days, y, scoring=scorer, cv=WithinGroupKFold(3), params={"groups": subject}
    ...     )
    >>> scores.round()
    array([-24., -26., -30.])

    A metric with a parameter `groups`: here each subject counts the same, however many rows there are of it.

    >>> import numpy as np
    >>> def error_per_group(y_true, y_pred, groups):
    ...     squared = np.square(np.asarray(y_true) - y_pred)
    ...     return np.mean([squared[groups == label].mean() for label in np.unique(groups)])
    >>> fitted = PartialPoolingRegressor().fit(days, y, groups=subject)
    >>> print(round(make_group_scorer(error_per_group)(fitted, days, y, groups=subject) ** 0.5, 1))
    29.4
    """
    return GroupScorer(metric, greater_is_better, response, kwargs)


class GroupScorer:
    """What `make_group_scorer` returns: a scorer with its own request for `groups`.

    Parameters
    ----------
    metric : callable
        Function of the true and the predicted values.
    greater_is_better : bool
        Whether large values of the metric are good.
    response : str
        Method of the estimator whose answer the metric gets, or "mean_and_std".
    kwargs : dict
        Further arguments of the metric.
    """

    def __init__(self, metric: Callable, greater_is_better: bool, response: str, kwargs: dict[str, Any]):
        if not callable(metric):
            raise TypeError(
                f"metric must be a function metric(y_true, y_pred), got {shown(metric)}. The functions of "
                "sklearn.metrics are such metrics; names of scorers are not."
            )
        if not isinstance(greater_is_better, bool | np.bool_):
            raise TypeError(f"greater_is_better must be True or False, got {shown(greater_is_better)}.")
        if not isinstance(response, str):
            raise TypeError(f"response must be the name of a method, or {MEAN_AND_STD!r}; got {shown(response)}.")
        if GROUPS in kwargs:
            raise TypeError("groups cannot be fixed in advance: each call of the scorer brings those of its rows.")
        self._metric = metric
        self._greater_is_better = bool(greater_is_better)
        self._response = response
        self._kwargs = kwargs
        self._metric_parameters = _keyword_parameters(metric, 3 if response == MEAN_AND_STD else 2)
        # What scikit-learn does for its own scorers: metadata that the metric knows is an error until it is asked for.
        others = {name: None for name in self._metric_parameters if name not in kwargs}
        self._requests: dict[str, Any] = {**others, GROUPS: True, **dict.fromkeys(SIZES, True)}

    def __call__(self, estimator: Any, X: Any, y_true: Any, groups: Any = None, **metadata: Any) -> float:
        """Score the predictions of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            Fitted estimator.
        X : array-like of shape (n_samples, n_features)
            Rows to predict.
        y_true : array-like of shape (n_samples,)
            Their responses.
        groups : array-like of shape (n_samples,), default=None
            Their groups.
        **metadata : object
            Further metadata for the metric, `sample_weight` for example. ``exposure`` or ``trials`` of counts go to a
            metric that has a parameter of that name; any other gets rates or proportions, weighted by them.

        Returns
        -------
        score : float
            The metric, its sign changed where smaller is better.
        """
        further = {**self._kwargs, **metadata}
        if GROUPS in self._metric_parameters:
            if groups is not None:
                further[GROUPS] = groups
            elif self._metric_parameters[GROUPS].default is Parameter.empty:
                raise ValueError(
                    f"{_name(self._metric)} needs groups, and none arrived at {self!r}. scikit-learn passes them to "
                    "scorers only with metadata routing on: sklearn.set_config(enable_metadata_routing=True), and "
                    "params={'groups': ...} in cross_validate or groups=... in GridSearchCV.fit."
                )
        warn_of_order(X, [("y", y_true), *metadata.items()])
        y_true, further = self._sized(estimator, X, y_true, further)
        score = self._metric(y_true, *self._predictions(estimator, X, groups), **further)
        return score if self._greater_is_better else -score

    def __repr__(self) -> str:
        parts = [_name(self._metric)]
        if not self._greater_is_better:
            parts.append("greater_is_better=False")
        if self._response != "predict":
            parts.append(f"response={self._response!r}")
        parts += [f"{name}={shown(value)}" for name, value in self._kwargs.items()]
        return f"make_group_scorer({', '.join(parts)})"

    def set_score_request(self, **requests: bool | str | None) -> GroupScorer:
        """Say which metadata the scorer gets where metadata routing is on.

        Parameters
        ----------
        **requests : bool, str or None
            For each metadata True (pass it), False (do not), None (an error if there is any) or the name under which it
            is given. What is not mentioned stays as it was; `groups` is True from the start.

        Returns
        -------
        self : GroupScorer
            The same scorer.
        """
        if not get_config()["enable_metadata_routing"]:
            raise RuntimeError(
                "set_score_request needs metadata routing: sklearn.set_config(enable_metadata_routing=True). A scorer "
                "made by make_group_scorer requests groups without it."
            )
        fixed = sorted(set(requests) & set(self._kwargs))
        if fixed:
            raise ValueError(
                f"{fixed[0]}={shown(self._kwargs[fixed[0]])} is fixed in {self!r} and cannot be requested too. Leave "
                "it out in one of the two places."
            )
        proposed = {**self._requests, **requests}
        _metadata_request(self, proposed)
        self._requests = proposed
        return self

    def get_metadata_routing(self) -> MetadataRequest:
        """Get the metadata that the scorer requests.

        Returns
        -------
        routing : MetadataRequest
            A :class:`~sklearn.utils.metadata_routing.MetadataRequest` encapsulating routing information.
        """
        return _metadata_request(self, self._requests)

    # scikit-learn asks scorers for these two by name: for its messages, and before it passes weights with routing off.

    def _routing_repr(self) -> str:
        return repr(self)

    def _accept_sample_weight(self) -> bool:
        return "sample_weight" in self._metric_parameters

    def _sized(self, estimator: Any, X: Any, y_true: Any, further: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Give the metric exposure or trials: by name, or rates with weights, which is what predictions are."""
        last, _ = answering_step(estimator, X)
        wanted = sized_by(last)
        given = [name for name in SIZES if further.get(name) is not None]
        further = {name: value for name, value in further.items() if name not in SIZES or value is not None}
        if wanted and wanted not in given:
            raise ValueError(
                f"{type(last).__name__} was fitted with {wanted}=, and none arrived at {self!r}. Predictions are per "
                f"unit of it, so that a score without compares other things. Pass {wanted}= to the scorer made by "
                "make_group_scorer; scikit-learn does so with metadata routing on."
            )
        for name in given:
            if name in self._metric_parameters:
                continue
            if "sample_weight" not in self._metric_parameters:
                raise TypeError(
                    f"{_name(self._metric)} takes neither {name} nor sample_weight, and y are counts where predictions "
                    f"are per unit of {name}. Use a metric with one of these parameters."
                )
            size = np.asarray(further.pop(name), dtype=np.float64)
            weight = further.get("sample_weight")
            further["sample_weight"] = size if weight is None else size * np.asarray(weight)
            y_true = np.asarray(y_true) / size
        return y_true, further

    def _predictions(self, estimator: Any, X: Any, groups: Any) -> tuple:
        step, answered = answering_step(estimator, X)
        if step is not estimator:  # steps before it may have lost the index
            warn_of_order(X, [("groups", groups)])
        estimator, X = step, answered
        if self._response == MEAN_AND_STD:
            return tuple(call_with_groups(estimator, "predict", X, groups, return_std=True))
        answer = call_with_groups(estimator, self._response, X, groups)
        return (self._of_one_class(answer, np.asarray(getattr(estimator, "classes_", ()))),)

    def _of_one_class(self, answer: Any, classes: np.ndarray) -> Any:
        """Return what is said of the positive one of two classes, which is what metrics of two classes take."""
        if classes.shape != (2,) or self._response not in ("predict_proba", "predict_log_proba", "decision_function"):
            return answer
        positive = self._kwargs.get("pos_label")
        if positive is not None and positive not in classes.tolist():
            raise ValueError(f"pos_label={shown(positive)} of {self!r} is none of the classes: {quoted(classes)}.")
        position = 1 if positive is None else classes.tolist().index(positive)
        if self._response == "decision_function":
            return answer if position else -answer
        return answer[:, position]


def _keyword_parameters(metric: Callable, n_positional: int) -> dict[str, Parameter]:
    """Find the parameters of a metric after the ones that are always given by position."""
    try:
        parameters = list(signature(metric).parameters.values())[n_positional:]
    except ValueError:  # some functions of compiled modules
        return {}
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return {parameter.name: parameter for parameter in parameters if parameter.kind in named}


def _metadata_request(owner: Any, requests: dict[str, Any]) -> MetadataRequest:
    routing = MetadataRequest(owner=owner)
    for name, alias in requests.items():
        routing.score.add_request(param=name, alias=alias)
    return routing


def _name(function: Callable) -> str:
    return getattr(function, "__name__", repr(function))
