"""Checks of responses that are classes, successes out of trials, or counts over exposure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from hbsk._data.checks import check_per_row
from hbsk._data.rows import Rows
from hbsk._data.table import check_finite, refuse_lazy, refuse_missing_labels
from hbsk._data.texts import distinct_texts
from hbsk._messages import quoted, shown, warn
from hbsk.exceptions import NonIntegerCountWarning

SIZE_OF = {"poisson": "exposure", "binomial": "trials"}
# Trials and exposures are sums of numbers that must keep their digits beside each other.
SMALLEST_SIZE, LARGEST_SIZE = 1e-50, 1e50
# Relative distance from a whole number that is rounding: counts divided by exposure and multiplied again.
WHOLE = 1e-9
# Beyond it floats do not tell one count from the next.
MOST_TRIALS = 2.0**53
WITHOUT_TRIALS = "y holds proportions, and how many trials there were is not said."


def read_classes(y: Any, n_rows: int, name: str) -> tuple[Any, np.ndarray]:
    """Return the position of each label among the sorted labels, and the labels.

    Parameters
    ----------
    y : array-like of shape (n_rows,)
        Labels of any kind that sorts; how many there are is looked at when rows of weight 0 are gone.
    n_rows : int
        Rows of X.
    name : str
        Name of the estimator, for messages.

    Returns
    -------
    codes : ndarray or Series of shape (n_rows,)
        With the index of y, where it has one.
    labels : ndarray of shape (n_labels,)
    """
    if y is None:
        raise ValueError(f"This {name} estimator requires y to be passed, but the target y is None.")
    refuse_lazy(y, "y")
    is_text = isinstance(y, pd.Series) and isinstance(y.dtype, pd.StringDtype)
    labels, codes = _labels_of_text(y) if is_text else _labels_in_order(y)
    if len(codes) != n_rows:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: X has {n_rows} rows, y has "
            f"{len(codes)} values."
        )
    codes = codes.astype(np.float64)
    return (pd.Series(codes, index=y.index) if isinstance(y, pd.Series | pd.DataFrame) else codes), labels


def _labels_of_text(y: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return `_labels_in_order` of text; where there are two, sorting all of it would take thirty times as long."""
    codes, texts = distinct_texts(y)
    if len(texts) != 2 or codes.min() < 0:
        return _labels_in_order(y)
    labels = np.array(sorted(texts), dtype=object)
    return labels, codes if labels[0] == texts[0] else 1 - codes


def _labels_in_order(y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct labels, sorted, and the position of each among them, with all that can be wrong with them."""
    values = column_or_1d(y, warn=True)
    refuse_missing_labels(values)
    check_finite(values, "y")
    if values.dtype.kind == "T":  # NumPy's texts of any length, which scikit-learn's metrics do not take
        values = np.array(values.tolist(), dtype=str)
    try:
        labels, codes = np.unique(values, return_inverse=True)
    except TypeError:
        kinds = sorted({type(value).__name__ for value in values})
        raise TypeError(
            f"y mixes labels of kinds that do not sort ({', '.join(kinds)}): make them all text, or all numbers."
        ) from None
    _refuse_objects(values)
    if len(labels) > 2 or values.dtype.kind not in "biu":  # two integers are classes
        check_classification_targets(values)
    return labels, codes


def _refuse_objects(values):
    """Raise for labels that scikit-learn knows no kind of, in its words; it says nothing but them."""
    if values.dtype != object or not len(values) or type_of_target(values) != "unknown":
        return
    kinds = sorted({type(value).__name__ for value in values})
    kind = kinds[0] if kinds[0] in ("int", "bool") and len(kinds) == 1 else "str"
    raise ValueError(
        f"Unknown label type: unknown. y is an array of objects ({', '.join(kinds)}), and labels must be text, whole "
        f"numbers, booleans or NumPy's times, for scikit-learn's metrics too. Convert them: y.astype({kind})."
    )


def two_classes(codes: np.ndarray, labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return 0 or 1 for each row, and the two labels; an error where there are fewer, or more."""
    present = np.flatnonzero(np.bincount(codes.astype(int)))
    found = labels[present]
    if len(found) > 2:
        kind = type_of_target(labels[codes.astype(int)])
        raise ValueError(
            f"Only binary classification is supported. The type of the target is {kind}. Wrap {name} in "
            "sklearn.multiclass.OneVsRestClassifier for more than two classes."
        )
    if len(found) < 2:
        raise ValueError(
            f"y has one class only, {shown(found[0])}, in the rows of positive weight; {name} needs two. A rate that "
            "is 0 or 1 in all rows can be estimated by PartialPoolingCountRegressor(family='binomial')."
        )
    return (codes == present[1]).astype(np.float64), found


def positions_of_classes(y: Any, classes: np.ndarray, n_rows: int, name: str) -> np.ndarray:
    """Return 1 where y is the second of two classes of a fit, 0 where it is the first."""
    codes, labels = read_classes(y, n_rows, name)
    unknown = [label for label in labels.tolist() if label not in classes.tolist()]
    if unknown:
        raise ValueError(f"y has the label {shown(unknown[0])}, which is none of those of fit: {quoted(classes)}.")
    return (labels == classes[1])[np.asarray(codes, dtype=int)].astype(np.float64)


def check_sizes(values: Any, n_rows: int, argument: str, name: str) -> np.ndarray | None:
    """Make trials or exposure a float64 array of positive numbers, or None; a number is that of every row."""
    if values is None:
        return None
    sizes = check_per_row(values, n_rows, argument)
    outside = ~((sizes >= SMALLEST_SIZE) & (sizes <= LARGEST_SIZE))
    if outside.any():
        row = int(outside.argmax())
        what = "number of trials" if argument == "trials" else "exposure"
        raise ValueError(
            f"{argument} must be positive, from {SMALLEST_SIZE} to {LARGEST_SIZE}; row {row} has {shown(sizes[row])}. "
            f"{name} takes it as the {what} behind each y: leave out rows that have none."
        )
    return sizes


def read_sizes(
    exposure: Any, trials: Any, n_rows: int, family: str, name: str, setting: str, values: dict[str, str]
) -> np.ndarray | None:
    """Return exposure or trials, whichever the family has; an error where the other is given.

    Parameters
    ----------
    exposure, trials : array-like of shape (n_rows,), float or None
    n_rows : int
    family : {"poisson", "binomial"}
    name : str
        Name of the estimator, for messages.
    setting : str
        Parameter of the estimator that says the family.
    values : dict
        What it is for each family.
    """
    given = {"exposure": exposure, "trials": trials}
    (other,) = given.keys() - {SIZE_OF[family]}
    if given[other] is not None:
        (another,) = values.keys() - {family}
        raise ValueError(
            f"{other}= was given with {setting}={values[family]!r}, which has {SIZE_OF[family]}= instead. Leave it "
            f"out, or set {setting}={values[another]!r}."
        )
    return check_sizes(given[SIZE_OF[family]], n_rows, SIZE_OF[family], name)


def refuse_size_of_means(exposure: Any, trials: Any) -> None:
    """Raise where an interval of a rate or proportion is asked for with what counts are out of."""
    for argument, value in (("exposure", exposure), ("trials", trials)):
        if value is not None:
            raise ValueError(
                f"{argument}= was given with kind='mean', the interval of a rate or proportion, which has none. Leave "
                "it out, or ask for kind='prediction'."
            )


def are_whole(values: np.ndarray) -> np.ndarray:
    """Tell which numbers are whole but for rounding."""
    return np.abs(values - np.round(values)) <= WHOLE * np.maximum(1.0, np.abs(values))


def check_counts(y: np.ndarray, size: np.ndarray | None, family: str) -> None:
    """Refuse responses that are no counts, no successes among trials, or no proportions.

    Parameters
    ----------
    y : ndarray of shape (n_rows,)
    size : ndarray of shape (n_rows,) or None
        Exposure or trials.
    family : {"poisson", "binomial"}
    """
    if y.min(initial=0.0) < 0:
        what = "counts" if family == "poisson" else "successes"
        raise ValueError(f"y must be {what}, 0 or more; the smallest is {shown(y.min())}.")
    if family == "poisson":
        return
    if size is None and y.max(initial=0.0) > 1:
        raise ValueError(
            f"y must lie between 0 and 1 where no trials= are passed; the largest is {shown(y.max())}. Pass "
            "the number of trials behind each y as trials=, or proportions with sample_weight= as trials."
        )
    if size is not None and (y > size).any():
        row = int((y > size).argmax())
        raise ValueError(
            f"y must not exceed trials=; row {row} has {shown(y[row])} successes in {shown(size[row])} trials."
        )


def as_counts(rows: Rows, family: str) -> Rows:
    """Return rows whose y are counts or successes; warn where they are not whole.

    Proportions whose weights are their trials, and rates whose weights are their exposure, become successes of trials
    and counts over exposure: the likelihood is the same.
    """
    assert rows.y is not None
    check_counts(rows.y, rows.size, family)
    if are_whole(rows.y).all():
        return replace(rows, y=np.round(rows.y))
    if rows.size is None and family == "binomial" and rows.sample_weight is None:
        raise ValueError(f"{WITHOUT_TRIALS} Pass successes with trials=, or proportions with sample_weight= as trials.")
    if rows.size is None and rows.sample_weight is not None:
        counts = rows.y * rows.sample_weight
        whole = bool(are_whole(counts).all())
        if whole or family == "binomial":
            if not whole:
                _warn_of_fractions(counts, "y times sample_weight", family)
            return replace(rows, y=np.round(counts) if whole else counts, size=rows.sample_weight, sample_weight=None)
    _warn_of_fractions(rows.y, "y", family)
    return rows


def check_outcomes(y: np.ndarray, size: np.ndarray | None, family: str) -> None:
    """Refuse what is not compared with outcomes that a model draws: proportions without trials; warn of rates.

    Parameters are those of `check_counts`.
    """
    check_counts(y, size, family)
    if are_whole(y).all():
        return
    if size is None and family == "binomial":
        raise ValueError(f"{WITHOUT_TRIALS} Here are compared outcomes: pass successes with trials=.")
    _warn_of_fractions(y, "y", family)


def _warn_of_fractions(y, what, family):
    first = y[~are_whole(y)][0]
    if family == "poisson":
        advice = (
            "If they are rates, pass counts with exposure=, or rates with sample_weight= as exposure: "
            "fit(X, count / exposure, sample_weight=exposure)."
        )
    else:
        advice = (
            "If they are proportions, pass successes with trials=, or proportions with sample_weight= as trials: "
            "fit(X, successes / trials, sample_weight=trials)."
        )
    warn(
        f"{what} has values that are not whole numbers, such as {shown(first)}, where counts are expected. {advice} "
        "Otherwise they are taken as they are.",
        NonIntegerCountWarning,
    )


def check_whole_trials(trials: np.ndarray | None, what: str) -> None:
    """Refuse fractions of trials, and more than are counted in floats, where their outcomes are asked for."""
    if trials is not None and trials.max(initial=0.0) > MOST_TRIALS:
        raise ValueError(f"trials must be {MOST_TRIALS:g} at most for {what}; got {shown(trials.max())}.")
    if trials is not None and not are_whole(trials).all():
        first = trials[~are_whole(trials)][0]
        raise ValueError(f"trials must be whole numbers for {what}; got {shown(first)}.")
