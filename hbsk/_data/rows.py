"""Where the group labels of each row come from, and everything an estimator reads before it computes.

Two routes lead in, and each has its own way to get lost: a column of X named in `group_features` (or in a formula), and
the keyword `groups=`. This module finds the labels, or says why it cannot; it never falls back silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from hbsk._data.checks import about_origin, check_size, check_standard_error, check_target, check_weights
from hbsk._data.factor import Factor
from hbsk._data.label_kinds import written_otherwise
from hbsk._data.labels import GroupFactor, Values
from hbsk._data.sources import (
    GROUPS,
    FactorSource,
    default_sources,
    label_columns,
    read_keyword,
    resolve_source,
    where_labels_stand,
)
from hbsk._data.suspicions import are_measurements, warn_of_order
from hbsk._data.table import Table
from hbsk._messages import quoted, shown, warn
from hbsk.exceptions import LabelMismatchWarning, SuspiciousGroupsWarning

__all__ = ["Factor", "FactorSource", "GroupFactor", "Rows", "read_rows", "read_training_rows"]

UNKNOWN_GROUPS = ("population", "error", "nan")
# What "nan" means where an answer, such as a class, cannot be NaN.
NO_NAN = "nan, which is no answer here"
# Fewest rows that any of our estimators learns from.
LEAST_ROWS = 2
_SHOWN_LABELS = 5


@dataclass
class Rows:
    """Checked data, ready for computing; rows of weight 0 are gone.

    Parameters
    ----------
    features : Table
        All columns of X, group columns included.
    factors : list of Factor
        Grouping factors: where their labels were found, and which they are; to be kept for predict.
    codes : list of ndarray of shape (n_rows,)
        Group codes of each factor, int64; codes from `n_groups` up are groups not seen in fit.
    y, sample_weight, standard_error : ndarray of shape (n_rows,) or None
        float64.
    unknown : list of ndarray of shape (n_rows,)
        Of each factor, which rows are of groups not seen in fit.
    y_deviation : ndarray of shape (n_rows,) or None
        y less `y_origin`, exact to its last digit where y, as float64, would lose its spread beside its location;
        otherwise y itself, and the origin 0.
    y_origin : float
    size : ndarray of shape (n_rows,) or None
        Trials or exposure of each row.
    """

    features: Table
    factors: list[Factor]
    codes: list[np.ndarray] = field(default_factory=list)
    y: np.ndarray | None = None
    sample_weight: np.ndarray | None = None
    standard_error: np.ndarray | None = None
    unknown: list[np.ndarray] = field(default_factory=list)
    y_deviation: np.ndarray | None = None
    y_origin: float = 0.0
    size: np.ndarray | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.features.n_rows

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Columns of X that hold no group labels."""
        sources = [factor.source for factor in self.factors if factor.source is not None]
        group_columns = {c for source in sources if not source.from_keyword for c in source.columns or ()}
        return tuple(name for name in self.features.names if name not in group_columns)


# ---------------------------------------------------------------------------------------------------------------------
# Fit


def read_training_rows(
    table: Table,
    y: Any,
    groups: Any = None,
    *,
    name: str,
    group_features: Any = None,
    sources: Iterable[FactorSource] | None = None,
    standard_error: Any = None,
    sample_weight: Any = None,
    size: np.ndarray | None = None,
    are_sizes: bool = False,
    used_columns: Iterable[str] | None = None,
    min_samples: int = 1,
) -> Rows:
    """Check everything `fit` was given beside X and bring it into arrays.

    Parameters
    ----------
    table : Table
        X, from `read_table`.
    y, groups, standard_error, sample_weight
        As given to `fit`.
    name : str
        Name of the estimator, for messages.
    group_features : str, int or array-like of these, default=None
        Columns of X that hold group labels, each a factor of its own.
    sources : iterable of FactorSource, default=None
        The factors that a formula names, instead of `group_features`. None: those of `group_features`,
        else those of `groups`.
    size : ndarray of shape (n_rows,), default=None
        Trials or exposure, checked already.
    are_sizes : bool, default=False
        Whether weights may be trials or exposure.
    used_columns : iterable of str, default=None
        Features to be checked for missing, infinite or unusable values. None: every column that holds no group labels.
    min_samples : int, default=1
        Least number of rows, after rows of weight 0 were dropped.
    """
    given, y = y, check_target(y, table.n_rows, name)
    beside = {"y": given, "groups": groups, "sample_weight": sample_weight, "standard_error": standard_error}
    warn_of_order(table, beside.items())
    sample_weight = check_weights(sample_weight, table.n_rows, name, are_sizes=are_sizes)
    standard_error = check_standard_error(standard_error, table.n_rows, name)
    keyword = read_keyword(groups, table)
    if sources is None:
        sources = default_sources(table, group_features, keyword)
    sources = tuple(resolve_source(source, table, keyword) for source in sources)
    if keyword and not any(source.from_keyword for source in sources):
        raise ValueError(
            f"groups= was given, but no grouping factor of this {name} takes its labels from there "
            f"(factors: {[source.name for source in sources]}). Leave groups= out, or name it in the model."
        )
    rows = Rows(table, [Factor(source.name, source=source) for source in sources])
    rows.y, rows.sample_weight, rows.standard_error, rows.size = y, sample_weight, standard_error, size
    rows.y_deviation, rows.y_origin = about_origin(given, y)
    rows.features.check_features(rows.feature_names if used_columns is None else used_columns, name)
    if sample_weight is not None and not sample_weight.all():
        keyword = _drop_rows(rows, keyword, sample_weight > 0)
        if rows.n_rows < min_samples:
            raise ValueError(
                f"n_samples={rows.n_rows} rows have a positive sample_weight, while a minimum of {min_samples} is "
                f"required by {name}."
            )
    for f, source in enumerate(sources):
        groups, codes = GroupFactor.learn(source.name, label_columns(source, rows.features, keyword))
        _check_training_labels(source, groups, codes)
        rows.codes.append(codes)
        rows.factors[f] = replace(rows.factors[f], groups=groups)
    return rows


def some_rows(rows: Rows, keep: np.ndarray) -> Rows:
    """Return rows that a mask keeps, read and coded as they are; the groups stay those of all rows."""
    part = replace(rows, codes=[codes[keep] for codes in rows.codes])
    _drop_rows(part, {}, keep)
    return part


def _drop_rows(rows: Rows, keyword: dict[str, Values], keep: np.ndarray) -> dict[str, Values]:
    rows.features = rows.features.where(keep)
    for name in ("y", "y_deviation", "sample_weight", "standard_error", "size"):
        values = getattr(rows, name)
        setattr(rows, name, None if values is None else values[keep])
    return {name: labels[keep] for name, labels in keyword.items()}


def _check_training_labels(source: FactorSource, factor: GroupFactor, codes: np.ndarray) -> None:
    where = where_labels_stand(source)
    n_missing = int(np.count_nonzero(codes < 0))
    if n_missing:
        raise ValueError(
            f"{where} contains {n_missing} missing labels (None, NaN, NaT or pandas.NA) in {len(codes)} rows. "
            "Every row must belong to a group in fit: drop these rows, or give them a label of their own."
        )
    if source.from_keyword:
        _refuse_fractions(factor.labels, source.name)
    elif len(codes) > 1 and factor.n_groups == len(codes) and are_measurements(factor.labels):
        warn(
            f"{where}: every one of the {len(codes)} labels is a different number that is not an integer. A "
            "measurement was most likely taken for a group; check that the column is the one you mean, by name rather "
            "than by index.",
            SuspiciousGroupsWarning,
        )


def _refuse_fractions(labels: np.ndarray, name: str) -> None:
    if labels.dtype.kind != "f":
        return
    fractions = labels[labels != np.floor(labels)]
    if len(fractions):
        raise ValueError(
            f"groups= holds numbers that are not integers ({name!r}: {shown(fractions[0])}, ...), which is not how "
            "groups are labelled. Was sample_weight= meant? It is a keyword of its own. Labels may be integers, text "
            "or any other hashable values; numbers like these can be turned into text if they really are labels."
        )


def one_grouping(rows: Rows, name: str) -> None:
    """Raise where there is more than one factor."""
    if len(rows.factors) > 1:
        raise ValueError(
            f"{name} shrinks the means of one grouping; got {len(rows.factors)} "
            f"({', '.join(repr(factor.name) for factor in rows.factors)}). Join the columns into one, or use "
            "PartialPoolingRegressor."
        )


def numeric_columns(rows: Rows, name: str) -> list[str]:
    """Names of the columns of X that hold no group labels, all of them numbers that can be squared; else an error."""
    for column in rows.feature_names:
        if not rows.features.is_numeric(column):
            raise TypeError(
                f"Column {column!r} of X holds text or categories, and {name} needs numbers to regress on. Encode it "
                "(OneHotEncoder), leave it out, or name it in group_features= if it holds the groups."
            )
        check_size(rows.features.numbers(column), f"Column {column!r} of X", name)
    return list(rows.feature_names)


# ---------------------------------------------------------------------------------------------------------------------
# Predict


def read_rows(
    table: Table,
    groups: Any = None,
    *,
    name: str,
    factors: Sequence[Factor],
    unknown_groups: str = "population",
    standard_error: Any = None,
    used_columns: Iterable[str] | None = None,
    y: Any = None,
) -> Rows:
    """Check what a method after fit was given; `Rows.unknown` marks the rows whose group was not seen in fit.

    Parameters
    ----------
    table : Table
        X, from `read_table`.
    groups, standard_error
        As given to the method.
    name : str
        Name of the estimator, for messages.
    factors : sequence of Factor
        Of the fit; none where labels are not looked at.
    unknown_groups : {"population", "error", "nan"}, default="population"
        Policy of the estimator; only "error" makes a difference here.
    used_columns : iterable of str, default=None
        As in `read_training_rows`.
    y : array-like of shape (n_rows,), default=None
        Responses, where the method has them.
    """
    if unknown_groups not in (*UNKNOWN_GROUPS, NO_NAN):
        # fit has checked it, and set_params may have changed it since
        raise ValueError(
            f"unknown_groups of {name} must be one of {', '.join(map(repr, UNKNOWN_GROUPS))}; got "
            f"{shown(unknown_groups)}."
        )
    warn_of_order(table, {"y": y, "groups": groups, "standard_error": standard_error}.items())
    given, y = y, None if y is None else check_target(y, table.n_rows, name)
    standard_error = check_standard_error(standard_error, table.n_rows, name)
    keyword = read_keyword(groups, table)
    _check_route(name, [factor.source for factor in factors if factor.source is not None], keyword)
    rows = Rows(table, list(factors), y=y, standard_error=standard_error)
    if y is not None:
        rows.y_deviation, rows.y_origin = about_origin(given, y)
    rows.features.check_features(rows.feature_names if used_columns is None else used_columns, name)
    for factor in factors:
        source, groups = factor.source, factor.groups
        assert source is not None  # fit has read both
        assert groups is not None
        columns = label_columns(source, table, keyword)
        if source.from_keyword:
            for column in columns:
                if getattr(column.dtype, "kind", "O") == "f":
                    _refuse_fractions(np.asarray(column)[np.isfinite(column)], source.name)
        codes = groups.encode(columns)
        otherwise = written_otherwise(groups, columns) if (codes >= groups.n_groups).all() else ""
        rows.codes.append(codes)
        rows.unknown.append(apply_unknown_policy(codes, groups.n_groups, columns, unknown_groups, source, otherwise))
        if otherwise:
            warn(
                f"{where_labels_stand(source)}: not one of the labels of these rows was seen in fit; {otherwise}. All "
                "rows are taken as new groups. Write labels as in fit.",
                LabelMismatchWarning,
            )
    return rows


def _check_route(name: str, sources: Sequence[FactorSource], keyword: dict[str, Values]) -> None:
    """Raise unless the labels come by the route they came by in fit."""
    by_keyword = [source for source in sources if source.from_keyword]
    if by_keyword and not keyword:
        raise ValueError(
            f"This {name} was fitted with groups=, and here groups= is missing. Pass the labels of these "
            "rows as groups=. Where scikit-learn cannot pass them (most scorers, cross_val_predict, stacking, "
            "permutation_importance), put the labels into a column of X and name it in group_features= instead. For a "
            "prediction without known groups pass labels that were not seen in fit."
        )
    if keyword and not sources:
        raise ValueError(
            f"This {name} was fitted without groups and cannot use groups= here. If groups= was given in "
            "fit, it was lost on the way (a search or cross-validation with metadata routing off drops it): name the "
            "group column of X in group_features= instead."
        )
    if keyword and not by_keyword:
        raise ValueError(
            f"groups= was given, but this {name} takes its groups from columns of X "
            f"({quoted(c for s in sources for c in s.columns or ())}). Leave groups= out."
        )
    needed = {column for source in by_keyword for column in source.columns or (GROUPS,)}
    if not needed <= set(keyword):
        raise ValueError(
            f"groups= must hold the same factors as in fit ({quoted(sorted(needed))}); got {quoted(keyword)}."
        )


def apply_unknown_policy(
    codes: np.ndarray,
    n_known: int,
    labels_seen: Sequence[Values],
    policy: str,
    source: FactorSource,
    otherwise: str = "",
) -> np.ndarray:
    """Mark the rows whose group was not seen in fit, as a boolean mask; raise for them under the policy "error".

    Parameters
    ----------
    codes : ndarray of shape (n_rows,)
        From `GroupFactor.encode`.
    n_known : int
        Number of groups seen in fit.
    labels_seen : sequence of columns
        The labels that were encoded, for the message.
    policy : {"population", "error", "nan"} or `NO_NAN`
        Value of `unknown_groups`.
    source : FactorSource
        The factor, for the message.
    otherwise : str, default=""
        How the labels are written otherwise than in fit, from `written_otherwise`.
    """
    unknown = codes >= n_known
    if policy in ("error", NO_NAN) and unknown.any():
        _, first = np.unique(codes[unknown], return_index=True)
        rows = np.flatnonzero(unknown)[np.sort(first)]
        labels = ", ".join(_show_label(labels_seen, row) for row in rows[:_SHOWN_LABELS])
        more = f" and {len(rows) - _SHOWN_LABELS} more" if len(rows) > _SHOWN_LABELS else ""
        raise ValueError(
            f"{where_labels_stand(source)} has {len(rows)} group{'s' * (len(rows) > 1)} not seen in fit: "
            f"{labels}{more}{otherwise and f'; {otherwise}'}. {_WHY_REFUSED[policy]}"
        )
    return unknown


_WHY_REFUSED = {
    "error": 'unknown_groups="error" asks for this error; "population" answers with the population mean, "nan" with '
    "NaN.",
    NO_NAN: 'unknown_groups="nan" answers with NaN, which is no class and has no score: leave these rows out, ask for '
    'predict_proba where there are classes, or set unknown_groups="population".',
}


def _show_label(columns: Sequence[Values], row: int) -> str:
    parts = [column.iloc[row] if isinstance(column, pd.Series) else column[row] for column in columns]
    texts = ["NaN (missing)" if pd.isna(p) is True else shown(p) for p in parts]
    return texts[0] if len(texts) == 1 else f"({', '.join(texts)})"
