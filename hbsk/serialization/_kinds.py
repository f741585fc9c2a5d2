"""Whether what a JSON document holds is of the kinds and sizes that a fitted estimator has.

Kinds are those that the classes themselves declare, so that a new field is checked without a word here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hbsk._base import LearntMeans, learnt_by
from hbsk._documents.kinds import DamagedError, is_of_kind, short
from hbsk._fit.learnt import Learnt
from hbsk._shrinkage.rates import FittedRates
from hbsk.classification import PartialPoolingClassifier
from hbsk.counts import PartialPoolingCountRegressor
from hbsk.encoder import LearntEncodings, PartialPoolingEncoder
from hbsk.james_stein import JamesSteinEstimator
from hbsk.partial_pooling import PartialPoolingRegressor

# What every fit leaves behind, by estimator; the document must have it.
_OF_POOLING: dict[str, Any] = {
    "_learnt": Learnt,
    "formula_": str,
    "priors_": dict[str, Any],
    "intercept_": float,
    "coef_": np.ndarray,
    "coef_names_": list[str],
    "groups_": dict[str, np.ndarray],
    "inference_": str,
    "n_features_in_": int,
}
_LEARNT: dict[type, dict[str, Any]] = {
    PartialPoolingRegressor: {**_OF_POOLING, "sigma_": float},
    PartialPoolingClassifier: {**_OF_POOLING, "classes_": np.ndarray},
    PartialPoolingCountRegressor: _OF_POOLING,
    JamesSteinEstimator: {
        "_learnt": LearntMeans,
        "groups_": dict[str, np.ndarray],
        "group_sizes_": np.ndarray,
        "group_means_": np.ndarray,
        "theta_": np.ndarray,
        "theta_sd_": np.ndarray,
        "target_": np.ndarray | float,
        "between_group_variance_": float,
        "sigma2_": float,
        "sigma_": float,
        "n_features_in_": int,
    },
    PartialPoolingEncoder: {
        "_learnt": LearntEncodings,
        "groups_": dict[str, np.ndarray],
        "encodings_": dict[str, np.ndarray],
        "target_type_": str,
        "target_mean_": np.ndarray | float,
        "classes_": np.ndarray | None,
        "n_features_in_": int,
    },
}


# ---------------------------------------------------------------------------------------------------------------------
# The estimator as a whole


def check_learnt(estimator: Any) -> None:
    """Raise unless an estimator has what a fit leaves behind, of the right kinds, one entry for each group."""
    name = type(estimator).__name__
    state = vars(estimator)
    for attribute, kind in _LEARNT[type(estimator)].items():
        if attribute not in state:
            raise DamagedError(f"The document is damaged: it lacks {attribute!r} of a fitted {name}.")
        if not is_of_kind(state[attribute], kind):
            raise DamagedError(f"The document is damaged: {attribute!r} of a {name} is {short(state[attribute])}.")
    if "feature_names_in_" in state:
        names = state["feature_names_in_"]
        if np.shape(names) != (estimator.n_features_in_,):
            raise DamagedError(f"The document is damaged: 'n_features_in_' is not the number of the names of a {name}.")
        if not is_of_kind(list(names), list[str]):
            raise DamagedError(f"The document is damaged: names in 'feature_names_in_' of a {name} are no texts.")
    if isinstance(estimator, PartialPoolingEncoder):
        _check_columns(estimator)
    else:
        _check_sources(estimator)
    for what, size, wanted in _sizes(estimator):
        if size != wanted:
            raise DamagedError(f"The document is damaged: {what} has {size} entries, where {wanted} are due.")


def _check_sources(estimator: Any) -> None:
    """Raise unless labels and columns of the target are columns that X has, or labels come by keyword."""
    learnt = learnt_by(estimator)
    names = set(getattr(estimator, "feature_names_in_", [f"x{j}" for j in range(estimator.n_features_in_)]))
    shrinks = isinstance(estimator, JamesSteinEstimator)
    missing = set(learnt.columns) - names if shrinks else set()
    for factor in learnt.factors if shrinks else learnt.frame.factors:
        source = factor.source
        if source is None or (source.columns is not None and not source.columns):
            raise DamagedError(f"The document is damaged: no columns hold the labels of the factor {factor.name!r}.")
        if not source.from_keyword:
            missing |= set(source.columns or ()) - names
    if missing:
        raise DamagedError(
            f"The document is damaged: X of a {type(estimator).__name__} has no column {', '.join(map(repr, missing))}."
        )


def _check_columns(encoder: PartialPoolingEncoder) -> None:
    """Raise unless each column of X is encoded or passed, and named as it is in X."""
    learnt = learnt_by(encoder)
    found = sorted([*learnt.columns, *learnt.passed])
    names = getattr(encoder, "feature_names_in_", [f"x{j}" for j in range(len(found))])
    if len(found) != encoder.n_features_in_ or found != sorted(names):
        raise DamagedError(
            "The document is damaged: columns of a LearntEncodings are not those that the PartialPoolingEncoder has."
        )


def _sizes(estimator: Any) -> list[tuple[str, int, int]]:
    """Return what must have how many entries: (name, found, due)."""
    if isinstance(estimator, PartialPoolingEncoder):
        classes = estimator.classes_
        n_columns = 1 if classes is None or estimator.target_type_ != "multiclass" else len(classes)
        found = []
        for name, column in learnt_by(estimator).columns.items():
            due = column.labels.n_labels + 1
            found.append((f"value of {name!r}", column.value.size, due * n_columns))
            found.append((f"groups_[{name!r}]", len(estimator.groups_[name]), column.labels.groups.n_groups))
            found.append((f"encodings_[{name!r}]", len(estimator.encodings_[name]), due - 1))
        return found
    if isinstance(estimator, JamesSteinEstimator):
        learnt, due = learnt_by(estimator), len(estimator.theta_)
        names = ["group_sizes_", "group_means_", "theta_", "theta_sd_"]
        if np.ndim(estimator.target_):
            names.append("target_")
        found = [(name, math.prod(np.shape(getattr(estimator, name))), due) for name in names]
        found += [
            (name, getattr(learnt.means, name).size, due if learnt.family == "gaussian" else max(due, 1))
            for name in ("theta", "theta_sd", "shrinkage", "deviations", "variances")
        ]
        found.append(("factors", len(learnt.factors), int(due > 0)))
        found.append(("groups_", sum(map(len, estimator.groups_.values())), due))
        if isinstance(learnt.means, FittedRates):
            found.append(("columns", len(learnt.columns), 0))
            return found + [(f"the labels of {factor.name!r}", factor.n_groups, due) for factor in learnt.factors]
        found.append(("columns", len(learnt.columns), len(learnt.means.predictor.directions.centre)))
        if learnt.means.departures is not None:
            slopes = due * len(learnt.means.departures.covariance)
            found += [(name, getattr(learnt.means.departures, name).size, slopes) for name in ("points", "lean")]
        return found + [(f"the labels of {factor.name!r}", factor.n_groups, due) for factor in learnt.factors]
    found = [("coef_", estimator.coef_.size, len(estimator.coef_names_))]
    learnt = learnt_by(estimator)
    frame, copies = learnt.frame, learnt.copies
    found.append(("groups_", len(estimator.groups_), len(frame.factors)))
    found.append(("copies", len(copies), len(frame.factors)))
    for factor, counts in zip(frame.factors, copies, strict=True):
        sizes = {f"groups_[{factor.name!r}]": estimator.groups_[factor.name].size, "copies": counts.size}
        found += [(what, size, factor.n_groups) for what, size in sizes.items()]
    return found
