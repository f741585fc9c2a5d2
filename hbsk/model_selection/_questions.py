"""The questions that estimators of grouped data are compared under, each as folds of rows."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, check_cv
from sklearn.utils.metadata_routing import get_routing_for_object

from hbsk._base import reads_columns
from hbsk._data.labels import GroupFactor
from hbsk._data.sources import FactorSource, group_feature_sources, label_columns, resolve_source
from hbsk._data.table import read_table
from hbsk._messages import shown
from hbsk._model.frame import factors_in
from hbsk.model_selection._responses import GROUPS
from hbsk.model_selection._splitters import (
    WithinGroupKFold,
    encode_factors,
    one_of,
    refuse_missing,
    split_known,
)

KNOWN, NEW = "new rows of known groups", "new groups"
N_FOLDS = 5


def questions(
    cv: Any, X: Any, y: np.ndarray, groups: Any, estimators: Mapping[str, Any]
) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Map each question to its folds."""
    if isinstance(cv, str):
        return _standard_questions(cv, X, y, groups, estimators)
    factors = {} if groups is None else encode_factors(groups, len(y), "compare_estimators")
    splitters: dict[str | None, Any] = dict(cv) if isinstance(cv, Mapping) else {None: cv}
    found = {}
    for question, splitter in splitters.items():
        splitter = check_cv(splitter)
        # The others warn where they are given groups.
        takes = get_routing_for_object(splitter).consumes("split", {GROUPS})
        codes = one_of(factors, "compare_estimators") if takes and factors else None
        folds = list(splitter.split(X, y, codes))
        if question is None:
            question = type(splitter).__name__ if hasattr(cv, "split") or isinstance(cv, Integral) else "folds"
        found[question] = folds
    return found


def _standard_questions(cv, X, y, groups, estimators) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    if cv not in ("both", "known", "new"):
        raise ValueError(f"cv must be 'both', 'known', 'new', a splitter, or a dict of splitters; got {shown(cv)}.")
    factors = _factors_in_columns(estimators, X) if groups is None else {}
    if not factors:
        factors = encode_factors(groups, len(y), f"compare_estimators with cv={shown(cv)}")
    several = len(factors) > 1
    found = {}
    if cv in ("both", "known"):
        splitter, every = WithinGroupKFold(N_FOLDS, shuffle=True, random_state=0), list(factors.values())
        if several:
            found["rows"] = list(split_known(splitter, every))
        else:
            found[KNOWN] = list(splitter.split(X, y, every[0]))
    if cv in ("both", "new"):
        for name, codes in factors.items():
            n_groups = int(codes.max()) + 1
            if n_groups < 2:
                which = f" of {name!r}" if several else ""
                raise ValueError(
                    f"cv={shown(cv)} asks about new groups{which}, but all rows belong to one group. Use cv='known'."
                )
            folds = GroupKFold(min(N_FOLDS, n_groups)).split(X, y, codes)
            found[f"new {name}" if several else NEW] = list(folds)
    return found


def _factors_in_columns(estimators: Mapping[str, Any], X: Any) -> dict[str, np.ndarray]:
    """Return codes of the grouping factors that estimators of ours read from columns of X, by name."""
    factors: dict[str, np.ndarray] = {}
    for estimator in estimators.values():
        for name, codes in _codes_in_columns(estimator, X).items():
            refuse_missing(name, codes)
            factors.setdefault(name, codes)
    return factors


def _codes_in_columns(estimator: Any, X: Any) -> dict[str, np.ndarray]:
    """Return codes of the grouping factors that an estimator of ours reads from columns of X, by name; else none."""
    if not reads_columns(estimator):
        return {}
    table = read_table(clone(estimator), X, reset=True)
    formula = getattr(estimator, "formula", None)
    if formula is None:
        sources = group_feature_sources(table, estimator.group_features)
    else:
        sources = [FactorSource(":".join(names), names) for names in factors_in(formula, table.names)]
    codes = {}
    for source in sources:
        columns = label_columns(resolve_source(source, table, {}), table, {})
        codes[source.name] = GroupFactor.learn(source.name, columns)[1]
    return codes
