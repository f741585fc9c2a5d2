"""Statistics T(y) of posterior predictive checks: by name, by group, or anything callable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from hbsk._data.labels import GroupFactor
from hbsk._messages import shown
from hbsk.model_selection._responses import parameters


def _std(values: np.ndarray, axis: int) -> np.ndarray:
    """Return sds with n - 1; NaN, and no warning, for a single row."""
    if values.shape[axis] == 1:
        return np.full(values.shape[1 - axis], np.nan)
    return np.std(values, axis=axis, ddof=1)


def _zeros(values: np.ndarray, axis: int) -> np.ndarray:
    """Return shares of zeros."""
    return np.mean(values == 0, axis=axis)


_NAMED: dict[str, Callable[..., np.ndarray]] = {
    "mean": np.mean,
    "std": _std,
    "min": np.min,
    "max": np.max,
    "median": np.median,
    "zeros": _zeros,
}


class PerGroup:
    """What `per_group` returns: a statistic of the rows of each group.

    Parameters
    ----------
    statistic : str or callable
        Name of a statistic, or T(y) for the rows of one group.
    factor : str or None
        Which grouping factor.
    """

    def __init__(self, statistic: str | Callable, factor: str | None):
        if isinstance(statistic, str):
            _check_name(statistic)
        elif not callable(statistic):
            raise TypeError(f"per_group takes one of {_accepted_names()} or a callable T(y); got {shown(statistic)}.")
        self.statistic = statistic
        self.factor = factor
        self.__name__ = f"group_{_name_of(statistic)}"

    def __repr__(self) -> str:
        statistic = repr(self.statistic) if isinstance(self.statistic, str) else _name_of(self.statistic)
        return f"per_group({statistic})" if self.factor is None else f"per_group({statistic}, factor={self.factor!r})"

    def __call__(self, y: Any, groups: Any) -> pd.Series:
        """Evaluate the statistic in each group.

        Parameters
        ----------
        y : array-like of shape (n_samples,)
            Responses.
        groups : array-like of shape (n_samples,)
            Labels of the rows; a DataFrame with one column for each of several factors.

        Returns
        -------
        Series
            One value for each group, by label.
        """
        labels, rows = self._rows(groups)
        values = np.asarray(y, dtype=np.float64)[:, None]
        return pd.Series([self._evaluate(values[at])[0] for at in rows], index=labels)

    def _rows(self, groups: Any) -> tuple[list, list[np.ndarray]]:
        """Return the labels, and the rows of each."""
        if isinstance(groups, pd.DataFrame):
            names = list(groups.columns)
            named = names[0] if self.factor is None and len(names) == 1 else self.factor
            if named not in names:
                got = "no factor is named" if named is None else f"factor={named!r} is none of the grouping factors"
                raise ValueError(f"{self!r}: {got}; name one of {names}, as in per_group(..., factor={names[0]!r}).")
            groups = groups[named]
        factor, codes = GroupFactor.learn("groups", [groups if isinstance(groups, pd.Series) else np.asarray(groups)])
        if not factor.n_groups:
            raise ValueError(f"{self!r}: every label is missing, so there are no groups.")
        order = np.argsort(codes, kind="stable")
        ends = np.searchsorted(codes[order], np.arange(factor.n_groups + 1))
        return factor.labels.tolist(), [order[a:b] for a, b in pairwise(ends)]

    def _evaluate(self, values: np.ndarray) -> np.ndarray:
        if isinstance(self.statistic, str):
            return _NAMED[self.statistic](values, axis=0)
        return np.array([float(self.statistic(column)) for column in values.T])

    def bind(self, groups: Any) -> Callable[[np.ndarray], tuple[np.ndarray, list]]:
        """Find the rows of each group once, for all replicates."""
        labels, rows = self._rows(groups)
        return lambda values: (np.stack([self._evaluate(values[at]) for at in rows], axis=1), labels)


def per_group(statistic: str | Callable, factor: str | None = None) -> PerGroup:
    """Make a statistic of each group, for use in `posterior_predictive_check`.

    Parameters
    ----------
    statistic : {"mean", "std", "min", "max", "median", "zeros"} or callable
        Statistic of the rows of one group; a callable T(y) gets their responses and returns a number.
    factor : str, default=None
        Which grouping factor, where there are several.

    Returns
    -------
    PerGroup
        Callable as `statistic(y, groups)`, which returns a Series by label.

    Examples
    --------
    >>> from hbsk.predictive_checks import per_group
    >>> per_group("max")([1.0, 7.0, 3.0], groups=["a", "b", "a"])
    a    3.0
    b    7.0
    dtype: float64
    """
    return PerGroup(statistic, factor)


def bind_statistics(statistics: Any, X: Any, groups: Any, factor: str | None = None) -> dict[str, Callable]:
    """Return name -> function from responses (n_rows, m) to values (m, k) and their labels (k,) or None.

    Parameters
    ----------
    statistics, X, groups
        As in `posterior_predictive_check`.
    factor : str, optional
        Name of the one grouping factor, where `groups` are its labels.
    """
    if isinstance(statistics, str) or callable(statistics):
        statistics = (statistics,)
    if isinstance(statistics, Mapping):
        named = list(statistics.items())
    elif isinstance(statistics, Sequence | set):
        named = [(_name_of(statistic), statistic) for statistic in statistics]
    else:
        raise TypeError(
            f"statistics takes {_accepted_names()}, callables T(y), or a sequence or dict of these; got "
            f"{shown(statistics)}."
        )
    if not named:
        raise ValueError(f"statistics is empty; name at least one of {_accepted_names()}, or pass a callable T(y).")
    names = [str(name) for name, _ in named]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"statistics has two entries named {twice!r}; pass a dict, whose keys are the names.")
    return {str(name): _bind(str(name), statistic, X, groups, factor) for name, statistic in named}


def _bind(name: str, statistic: Any, X: Any, groups: Any, factor: str | None) -> Callable:
    if isinstance(statistic, str):
        _check_name(statistic)
        return lambda values: (_NAMED[statistic](values, axis=0)[:, None], None)
    if not callable(statistic):
        raise TypeError(
            f"statistic {name!r} must be one of {_accepted_names()} or a callable T(y); got {shown(statistic)}."
        )
    known = parameters(statistic)
    if "groups" in known and groups is None:
        raise ValueError(
            f"statistic {name!r} has a parameter groups, but there are no groups: the estimator was fitted without. "
            "Give it group_features= or groups=, or leave the statistic out."
        )
    if isinstance(statistic, PerGroup):
        if factor is not None and statistic.factor not in (None, factor):
            raise ValueError(f"{statistic!r}: the one grouping factor is {factor!r}; name it, or leave factor= out.")
        return statistic.bind(groups)
    arguments = {key: value for key, value in (("groups", groups), ("X", X)) if key in known}
    return _Called(name, statistic, arguments)


class _Called:
    """A user's T(y) of every column of responses; labels are those of the first column ever, that of the data."""

    def __init__(self, name: str, statistic: Callable, arguments: dict[str, Any]):
        self.name = name
        self.statistic = statistic
        self.arguments = arguments
        self.size: int | None = None
        self.index: pd.Index | None = None
        self.labels: list | None = None

    def __call__(self, values: np.ndarray) -> tuple[np.ndarray, list | None]:
        # A copy: a statistic that sorts in place must not reorder the data.
        results = [self.numbers(self.statistic(column.copy(), **self.arguments)) for column in values.T]
        return np.stack(results), self.labels

    def numbers(self, result: Any) -> np.ndarray:
        """Return the numbers of one data set, in the order of those of the first."""
        index = result.index if isinstance(result, pd.Series) else None
        try:
            numbers = np.asarray(result, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"statistic {self.name!r} must return numbers, got {result!r}.") from error
        if result is None or numbers.ndim > 1 or not numbers.size:
            what = "None" if result is None else f"an array of shape {numbers.shape}"
            raise ValueError(
                f"statistic {self.name!r} returned {what}; it must return a number, or a 1-D array or Series of one "
                "number or more."
            )
        if self.size is None:
            self.remember(numbers, index)
        elif numbers.size != self.size:
            sizes = sorted([numbers.size, self.size])
            raise ValueError(
                f"statistic {self.name!r} returned {sizes[0]} to {sizes[1]} numbers; it must be as many for every data "
                "set."
            )
        return self.in_order(np.atleast_1d(numbers), index)

    def remember(self, numbers: np.ndarray, index: pd.Index | None) -> None:
        self.size, self.index = numbers.size, index
        if index is None:
            self.labels = list(range(numbers.size)) if numbers.ndim else None
            return
        if not index.is_unique:
            twice = index[index.duplicated()][0]
            raise ValueError(f"statistic {self.name!r} returned a Series with two values for {shown(twice)}.")
        self.labels = index.tolist()

    def in_order(self, numbers: np.ndarray, index: pd.Index | None) -> np.ndarray:
        if (index is None) != (self.index is None):
            raise ValueError(
                f"statistic {self.name!r} returned a Series for one data set and none for another; only Series can be "
                "matched by label."
            )
        if index is None or self.index is None or index.equals(self.index):
            return numbers
        order = index.get_indexer(self.index) if index.is_unique else np.array([-1])
        if (order < 0).any():
            raise ValueError(
                f"statistic {self.name!r} returned a Series with the labels {_some(self.index)} for the data and "
                f"{_some(index)} for a replicate; they must be the same, in any order."
            )
        return numbers[order]


def _some(index: pd.Index) -> str:
    return shown(index[:5].tolist()) + (f" (the first of {len(index)})" if len(index) > 5 else "")


def evaluate(bound: dict[str, Callable], values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return every statistic of every column of responses, (m, k) in all, and the names."""
    parts, names = [], []
    for name, function in bound.items():
        part, labels = function(values)
        parts.append(part)
        names += [name] if labels is None else [f"{name}[{text}]" for text in _texts(labels)]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise ValueError(f"statistics gives two values the name {twice!r}; pass a dict, whose keys are the names.")
    return np.concatenate(parts, axis=1), names


def _texts(labels: list) -> list[str]:
    """Return labels as text: integers that came as floats, as beside missing ones, without a fraction; 1 beside "1"."""
    if all(isinstance(label, float) and label.is_integer() for label in labels):
        labels = [int(label) for label in labels]
    texts = list(map(str, labels))
    return texts if len(set(texts)) == len(texts) else [shown(label) for label in labels]


def _check_name(name: str) -> None:
    if name not in _NAMED:
        raise ValueError(f"statistic {name!r} is not known; pass one of {_accepted_names()}, or a callable T(y).")


def _accepted_names() -> str:
    return ", ".join(map(repr, _NAMED))


def _name_of(statistic: Any) -> str:
    return statistic if isinstance(statistic, str) else getattr(statistic, "__name__", repr(statistic))
