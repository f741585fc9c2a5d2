"""Asking fitted estimators for predictions, with the groups of the rows where they take them."""

from __future__ import annotations

from inspect import signature
from typing import Any

from sklearn import config_context
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import MetadataRouter, get_routing_for_object

GROUPS = "groups"


def answering_step(estimator: Any, X: Any) -> tuple[Any, Any]:
    """Follow fitted pipelines and searches to the estimator that answers, with X as it arrives there.

    A Pipeline has `predict`, but neither `predict_interval` nor, with metadata routing on, an argument `return_std`; a
    search refuses `predict(X, groups=...)`.
    """
    while True:
        if isinstance(estimator, Pipeline):
            X = estimator[:-1].transform(X) if len(estimator) > 1 else X
            estimator = estimator[-1]
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        else:
            return estimator, X


def call_with_groups(estimator: Any, method: str, X: Any, groups: Any, **options: Any) -> Any:
    """Call a method of a fitted estimator, with `groups` where there are any and it takes them."""
    if groups is not None and takes_groups(estimator, method):
        options[GROUPS] = groups
    return getattr(estimator, method)(X, **options)


def takes_groups(estimator: Any, method: str) -> bool:
    """Tell whether a method takes `groups=`, as `takes` does."""
    return takes(estimator, method, GROUPS)


def takes(estimator: Any, method: str, name: str) -> bool:
    """Tell whether a method takes an argument, itself or for an estimator within, and has not refused it.

    A request that was never set is no refusal: where scikit-learn insists on one, its own error says so best.
    """
    # RidgeCV of scikit-learn 1.9 asks itself without end where routing is off; nothing is routed here, only read.
    with config_context(enable_metadata_routing=True):
        routing = get_routing_for_object(estimator)
    if isinstance(routing, MetadataRouter):
        return _some_part_asks(routing, method, name)
    if name not in parameters(getattr(estimator, method)):
        return False
    # Methods that scikit-learn knows nothing of, such as predict_interval, are asked as predict is.
    return _request(routing, method, name) is not False


def parameters(function: Any) -> set[str]:
    """Find the names of the parameters of a function."""
    try:
        return set(signature(function).parameters)
    except (TypeError, ValueError):  # nothing callable; some functions of compiled modules
        return set()


def _some_part_asks(routing: MetadataRouter, method: str, name: str) -> bool:
    for _, (mapping, part) in routing:
        for caller, callee in mapping:
            if caller != method:
                continue
            if isinstance(part, MetadataRouter):
                if _some_part_asks(part, callee, name):
                    return True
            elif _request(part, callee, name, absent=False) is not False:
                return True
    return False


def _request(routing: Any, method: str, name: str, absent: Any = None) -> Any:
    """Get what was requested of an argument: True, False, None (never set) or a str (another name), or `absent`."""
    method = method if hasattr(routing, method) else "predict"
    return getattr(routing, method).requests.get(name, absent)
