"""Splitting rows so that every group is met again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import check_random_state, indexable
from sklearn.utils.validation import _num_samples

from hbsk._data.labels import GroupFactor
from hbsk._data.sources import read_keyword
from hbsk._data.table import Table, refuse_lazy
from hbsk._messages import shown

__all__ = ["WithinGroupKFold", "encode_groups", "refuse_name"]


# Times that rows change places, so that no group of several factors has all of them in one fold.
DEALS = 10


class WithinGroupKFold(BaseCrossValidator):
    """K folds in which the rows to predict belong to groups that the model has seen.

    The rows of each group are dealt to the folds one by one, as cards are dealt to players. Wherever a group has two
    rows, each of its rows is therefore tested by a model that was fitted to at least one other row of the group. It
    asks how well *new rows of known groups* are predicted; its companion :class:`~sklearn.model_selection.GroupKFold`,
    which puts all rows of a group into one fold, asks how well *new groups* are.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds. At least 2.
    shuffle : bool, default=False
        Whether to shuffle the groups, and the rows within each group, before they are dealt. Without it neighbouring
        rows of a group go to different folds.
    random_state : int, RandomState instance or None, default=None
        Seed of the shuffling. Pass an int for the same folds at every call. Only with `shuffle=True`.

    See Also
    --------
    sklearn.model_selection.GroupKFold : No group of the test rows is among the training rows.
    sklearn.model_selection.KFold : Pays no attention to groups: small ones may be missing from the training rows.

    Notes
    -----
    Sizes of folds differ by at most one, and so do the numbers of rows that one group has in each fold. The only row of
    a group of one is tested like every other, so that each row is tested once; there the group is new to the model.

    `groups` is requested by default where metadata routing is on, as it is for
    :class:`~sklearn.model_selection.GroupKFold`.

    Examples
    --------
    >>> import numpy as np
    >>> from hbsk.model_selection import WithinGroupKFold
    >>> X = np.zeros((7, 1))
    >>> school = np.array(["a", "a", "a", "a", "b", "b", "c"])
    >>> for train, test in WithinGroupKFold(n_splits=3).split(X, groups=school):
    ...     print("fit", school[train], "predict", school[test])
    fit ['a' 'a' 'b' 'b'] predict ['a' 'a' 'c']
    fit ['a' 'a' 'a' 'b' 'c'] predict ['a' 'b']
    fit ['a' 'a' 'a' 'b' 'c'] predict ['a' 'b']
    """

    # Documented by scikit-learn as the way to request metadata by default; the base class says `groups` is unused.
    __metadata_request__split = {"groups": True}  # noqa: RUF012

    def __init__(self, n_splits: int = 5, *, shuffle: bool = False, random_state: Any = None):
        # Splitters are checked when they are made, as scikit-learn's are: they have no fit to do it in.
        if not isinstance(n_splits, Integral) or isinstance(n_splits, bool) or n_splits < 2:
            raise ValueError(f"n_splits must be an integer of at least 2, got {shown(n_splits)}.")
        if not isinstance(shuffle, bool | np.bool_):
            raise TypeError(f"shuffle must be True or False, got {shown(shuffle)}.")
        if random_state is not None and not shuffle:
            raise ValueError(
                f"random_state={shown(random_state)} has no effect with shuffle=False. Set shuffle=True, or leave it "
                "out."
            )
        self.n_splits: int = int(n_splits)
        self.shuffle: bool = bool(shuffle)
        self.random_state: Any = random_state

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Split the rows into rows to fit to and rows to predict, fold by fold.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Only its number of rows is used.
        y : array-like of shape (n_samples,), default=None
            Not used.
        groups : array-like of shape (n_samples,)
            Group labels of any hashable kind.

        Returns
        -------
        folds : iterator of (ndarray of shape (n_train,), ndarray of shape (n_test,))
            For each fold the positions of the rows to fit to and of the rows to predict.
        """
        # Not a generator itself, so that errors come at the call and not at the first fold.
        refuse_name(groups, type(self).__name__)
        refuse_lazy(X, "X")
        X, y, groups = indexable(X, y, groups)
        codes = encode_groups(groups, _num_samples(X), type(self).__name__)
        if self.n_splits > len(codes):
            raise ValueError(f"n_splits={self.n_splits} is more than the number of rows, {len(codes)}.")
        if np.bincount(codes).max() < 2:
            raise ValueError(
                f"groups holds {len(codes)} labels that are all different: there are no further rows of any group to "
                "predict. Pass the column that rows share; GroupKFold asks about new groups."
            )
        return self._splits(codes)

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:  # noqa: ARG002
        """Return the number of folds.

        Parameters
        ----------
        X, y, groups : object, default=None
            Not used.

        Returns
        -------
        n_splits : int
            Number of folds.
        """
        return self.n_splits

    def _splits(self, codes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield from as_splits(self._folds(codes), self.n_splits)

    def _folds(self, codes: np.ndarray) -> np.ndarray:
        """Deal the rows, group by group, to the folds in turn, never starting anew."""
        rows, first = np.arange(len(codes)), 0
        if self.shuffle:
            rng = check_random_state(self.random_state)
            rows, first = rng.permutation(rows), rng.randint(self.n_splits)
            codes = rng.permutation(codes.max() + 1)[codes]
        rows = rows[np.argsort(codes[rows], kind="stable")]
        folds = np.empty(len(codes), dtype=np.intp)
        folds[rows] = (first + np.arange(len(codes))) % self.n_splits
        return folds


def as_splits(folds: np.ndarray, n_splits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield training and test rows, given the fold that each row is tested in."""
    for k in range(n_splits):
        yield np.flatnonzero(folds != k), np.flatnonzero(folds == k)


def split_known(splitter: WithinGroupKFold, factors: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Split by the codes of several factors, so that rows to predict belong to groups that are known in all of them.

    The rows of the factor with most groups are dealt; then some change places (`deal_again`).
    """
    most = max((codes for codes in factors if np.bincount(codes).max() > 1), key=np.max, default=factors[0])
    folds = splitter._folds(most)
    others = [codes for codes in factors if codes is not most]
    return as_splits(deal_again(folds, most, others), splitter.n_splits)


def refuse_name(groups: Any, user: str) -> None:
    """Raise for the name of a column in place of the column, before its letters are counted as labels."""
    if isinstance(groups, str):
        raise TypeError(
            f"{user} takes the group of each row in groups=, but got {shown(groups)}. Where that is a column of X, "
            f"pass the column: groups=X[{shown(groups)}]."
        )


def encode_groups(groups: Any, n_rows: int, user: str) -> np.ndarray:
    """Turn group labels of any kind, one for each row, into codes from 0 in the order of the sorted labels.

    Parameters
    ----------
    groups : array-like of shape (n_rows,)
        Labels; two are equal where an estimator of hbsk takes them for equal.
    n_rows : int
        Number of rows.
    user : str
        What needs the labels, for messages.

    Returns
    -------
    codes : ndarray of shape (n_rows,)
        Codes.
    """
    return one_of(encode_factors(groups, n_rows, user), user)


def one_of(factors: Mapping[str, np.ndarray], user: str) -> np.ndarray:
    """Return the codes of the only factor."""
    if len(factors) > 1:
        raise ValueError(
            f"{user} takes one label for each row, but groups has {len(factors)} columns. Pass the one whose groups "
            "are known or new, or one label made of them all."
        )
    (codes,) = factors.values()
    return codes


def encode_factors(groups: Any, n_rows: int, user: str) -> dict[str, np.ndarray]:
    """Turn the labels of one or several factors into codes, as `encode_groups` does, by name."""
    if groups is None:
        raise ValueError(
            f"{user} needs the group of each row, but groups is None. Pass groups=, for example the column of X that "
            "holds them; with metadata routing on, scikit-learn's functions take it in params={'groups': ...}."
        )
    columns = read_keyword(groups, Table({}, n_rows))
    factors = {}
    for name, column in columns.items():
        _, factors[name] = GroupFactor.learn(name, [column])
        refuse_missing(name if len(columns) > 1 else "groups", factors[name])
    return factors


def refuse_missing(name: str, codes: np.ndarray) -> None:
    """Raise where labels are missing."""
    if len(codes) and codes.min() < 0:
        raise ValueError(
            f"{name} holds {np.count_nonzero(codes < 0)} missing labels in {len(codes)} rows. Drop these rows, or give "
            "them a label of their own."
        )


def deal_again(folds: np.ndarray, codes: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Return folds in which no group of other factors has all of its rows in one fold, as far as that can be had.

    Two rows of one group of the first factor change places, so that the sizes of its folds stay as they are.

    Parameters
    ----------
    folds, codes : ndarray of shape (n_rows,)
    others : sequence of ndarray of shape (n_rows,)
    """
    folds, rows = folds.copy(), np.arange(len(folds))
    by_group = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    for _ in range(DEALS):
        lonely = np.zeros(len(folds), dtype=bool)
        for other in others:
            lonely |= _in_one_fold(folds, other)[other]
        if not lonely.any():
            break
        for row in rows[lonely]:
            same = by_group[codes[row]]
            partners = same[folds[same] != folds[row]]
            # a partner that is not in need itself, where there is one
            partners = np.concatenate([partners[~lonely[partners]], partners[lonely[partners]]])
            if len(partners) and any(_stays_in_one_fold(folds, other, row) for other in others):
                folds[[row, partners[0]]] = folds[[partners[0], row]]
    return folds


def _in_one_fold(folds, codes):
    """Tell which groups of two rows or more have all of them in one fold."""
    n, sizes = codes.max() + 1, np.bincount(codes)
    least, most = np.full(n, folds.max()), np.zeros(n, dtype=folds.dtype)
    np.minimum.at(least, codes, folds)
    np.maximum.at(most, codes, folds)
    return (least == most) & (sizes > 1)


def _stays_in_one_fold(folds, codes, row):
    own = folds[codes == codes[row]]
    return len(own) > 1 and np.all(own == own[0])
