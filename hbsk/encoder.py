"""PartialPoolingEncoder: columns of labels as the shrunken means of y."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sklearn import get_config
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.model_selection import check_cv
from sklearn.utils._param_validation import StrOptions
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.validation import _check_feature_names_in

from hbsk._base import keeps_former_fit, learnt_by, read_training_table
from hbsk._data.checks import check_weights
from hbsk._data.encoded_labels import EncodedLabels
from hbsk._data.encoded_targets import read_encoded_target
from hbsk._data.rows import LEAST_ROWS, UNKNOWN_GROUPS
from hbsk._data.sources import selected_columns
from hbsk._data.suspicions import warn_of_order
from hbsk._data.table import read_table
from hbsk._messages import quoted, shown, warn
from hbsk._shrinkage.encodings import Encodings, LabelSums, Target
from hbsk.exceptions import ShrinkageWarning

__all__ = ["PartialPoolingEncoder"]

_EXTRAS = ("sd", "count")


@dataclass(frozen=True)
class EncodedColumn:
    """What a fit leaves behind of one column.

    Attributes
    ----------
    labels : EncodedLabels
    value, sd : ndarray of shape (n_labels + 1, n_classes)
        The last row is that of labels that fit has not seen.
    counts : ndarray of shape (n_labels + 1,)
    """

    labels: EncodedLabels
    value: np.ndarray
    sd: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class LearntEncodings:
    """What a fit leaves behind.

    Attributes
    ----------
    columns : dict of str to EncodedColumn
        By name of the column.
    passed : tuple of str
        Columns that are passed as they are.
    add : tuple of str
        What stands beside each encoding.
    """

    columns: dict[str, EncodedColumn]
    passed: tuple[str, ...]
    add: tuple[str, ...]


class PartialPoolingEncoder(TransformerMixin, BaseEstimator):
    r"""Labels as numbers: the mean of y at each label, shrunken the more the less is known of it.

    A column of many labels (shops, postcodes, players) becomes one number a row that any model can use. The mean of y
    at a label :math:`\bar y_j` is moved towards the mean of all labels, :math:`t + \lambda_j (\bar y_j - t)`, by
    :class:`JamesSteinEstimator`'s rules: a label seen twice is hardly trusted, one seen a thousand times fully, and how
    fast trust grows is learnt from how much labels differ beyond chance.

    `fit_transform` is not `fit` and then `transform`: it encodes each fold of the rows by the others (cross-fitting),
    because a row's own y is in its label's mean, and a model trained on it would learn to trust an answer key. `fit`
    and `transform` serve new rows.

    Parameters
    ----------
    columns : str, int, array-like of these or boolean mask, default=None
        Columns of X to encode, by name or by index. The others pass unchanged, after the encoded ones, in their order.
        None: every column is encoded. Numbers are labels like any others.
    method : {"empirical-bayes", "james-stein", "sure"}, default="empirical-bayes"
        Where the shrinkage comes from, as in :class:`JamesSteinEstimator`; "empirical-bayes" estimates the variance
        between labels by REML. Classes have "empirical-bayes" only: their shares are beta-binomial,
        :math:`\lambda_j = n_j / (n_j + \kappa)`, with :math:`\kappa` and the mean by marginal likelihood.
    target_type : {"auto", "continuous", "binary", "multiclass"}, default="auto"
        What y is. "continuous": numbers. "binary": the encoding is the share of `classes_[1]`. "multiclass": a column
        for each class, one against the rest; they need not sum to 1. "auto" asks
        :func:`~sklearn.utils.multiclass.type_of_target`, for which integers are classes: a
        :class:`~hbsk.exceptions.ManyClassesWarning` says so where there are more than 10.
    cv : int, cross-validation generator or iterable, default=5
        Folds of `fit_transform`: (Stratified)KFold for an integer. Every row must be in one test fold.
    shuffle : bool, default=True
        Whether rows are shuffled into folds, where `cv` is an integer.
    add : tuple of {"sd", "count"}, default=()
        What else to tell of a label: the posterior sd of its true mean, and its number of rows (sum of their weights).
        In `fit_transform` both are of the rows that encode a fold, which are fewer than `transform` has.
    unknown_groups : {"population", "error", "nan"}, default="population"
        What `transform` makes of labels that fit has not seen: the mean of all labels; an error that names them; or
        NaN. In `fit_transform` a label that is in one fold only is unknown to the others: it gets the mean, or NaN
        under "nan". A missing label is a label of its own if fit saw one, and unknown if not.
    random_state : int, RandomState instance or None, default=None
        Of the shuffling.

    Attributes
    ----------
    groups_ : dict of str to ndarray of shape (n_groups,)
        Labels of each encoded column, missing ones left out: sorted where they sort.
    encodings_ : dict of str to ndarray of shape (n_labels,) or (n_labels, n_classes)
        What `transform` makes of each label; the last entry is that of a missing label, if fit saw one.
    target_type_ : str
        What y was taken for.
    target_mean_ : float or ndarray of shape (n_classes,)
        Mean of y over all rows, or share of each class; of `classes_[1]` where there are two. Not what unknown labels
        get, which is the mean of labels.
    classes_ : ndarray of shape (n_classes,) or None
        Classes of y, None for numbers.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns of X. Only if they are all strings.

    See Also
    --------
    JamesSteinEstimator : The same shrunken means as a regressor.
    sklearn.preprocessing.TargetEncoder : Encodes a label seen once by its own y, unless `smooth` is set by hand.

    Examples
    --------
    >>> import numpy as np
    >>> from hbsk import PartialPoolingEncoder
    >>> shop = np.array([["a"], ["a"], ["a"], ["a"], ["b"], ["b"], ["c"], ["c"], ["d"], ["e"], ["e"]])
    >>> sales = [5.1, 6.8, 4.4, 5.9, 7.7, 9.2, 5.2, 3.3, 9.0, 6.9, 5.1]
    >>> encoder = PartialPoolingEncoder(add=("sd", "count")).fit(shop, sales)
    >>> encoder.get_feature_names_out()
    array(['x0', 'x0_sd', 'x0_count'], dtype=object)
    >>> encoder.transform([["d"], ["new"]]).round(1)
    array([[8.3, 1.2, 1. ],
           [6.6, 2.8, 0. ]])
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "columns": [str, "array-like", Integral, None],
        "method": [StrOptions({"empirical-bayes", "james-stein", "sure"})],
        "target_type": [StrOptions({"auto", "continuous", "binary", "multiclass"})],
        "cv": ["cv_object"],
        "shuffle": ["boolean"],
        "add": [tuple, list],
        "unknown_groups": [StrOptions(set(UNKNOWN_GROUPS))],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        columns=None,
        *,
        method="empirical-bayes",
        target_type="auto",
        cv=5,
        shuffle=True,
        add=(),
        unknown_groups="population",
        random_state=None,
    ):
        self.columns = columns
        self.method = method
        self.target_type = target_type
        self.cv = cv
        self.shuffle = shuffle
        self.add = add
        self.unknown_groups = unknown_groups
        self.random_state = random_state

    @keeps_former_fit
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, *, sample_weight=None):
        """Learn the encodings by all rows; where that fails, a former fit is kept whole.

        Training rows of a model are to be encoded by `fit_transform`.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features)
            Columns of labels, and others.
        y : array-like of shape (n_samples,)
            Numbers or classes.
        sample_weight : array-like of shape (n_samples,), default=None
            Number of copies of each row, a frequency weight; rows of weight 0 are left out.

        Returns
        -------
        self : PartialPoolingEncoder
        """
        self._learn(X, y, sample_weight)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X, y, *, sample_weight=None, **params):
        """Learn the encodings, and encode each fold of these rows by the others.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features)
            Columns of labels, and others.
        y : array-like of shape (n_samples,)
            Numbers or classes.
        sample_weight : array-like of shape (n_samples,), default=None
            Number of copies of each row. Rows of weight 0 are encoded, and encode nothing.
        **params : dict
            What `cv` needs to split, such as `groups`, with metadata routing on.

        Returns
        -------
        X_out : ndarray or dataframe of shape (n_samples, n_features_out)
        """
        if params and not get_config()["enable_metadata_routing"]:
            raise ValueError(
                f"fit_transform got {quoted(params)}, which only metadata routing brings to cv: "
                "sklearn.set_config(enable_metadata_routing=True)."
            )
        routed = process_routing(self, "fit_transform", **params)
        learning = copy(self)
        table, kept, sums, classes = learning._learn(X, y, sample_weight)
        folds = learning._folds(X, y, classes, table.n_rows, routed.splitter.split)
        learnt = learning._learnt
        blocks = []
        for column, (codes, of_column) in sums.items():
            whole = _wanted(learnt.columns[column], learnt.add)
            out = [np.empty((table.n_rows, *part.shape[1:])) for part in whole]
            for fold in folds:
                encodings = of_column.encode_without(_places(fold, kept))
                for part, values in zip(out, _wanted(encodings, learnt.add, self.unknown_groups), strict=True):
                    part[fold] = values[codes[fold]]
            blocks.append(out)
        answer = learning._assemble(blocks, X, table)
        self.__dict__ = dict(vars(learning))
        return answer

    def transform(self, X):
        """Encode new rows.

        Parameters
        ----------
        X : array-like or dataframe of shape (n_samples, n_features)
            Columns as in `fit`.

        Returns
        -------
        X_out : ndarray or dataframe of shape (n_samples, n_features_out)
            Encoded columns, each followed by what `add` asks for, and then the columns that pass.
        """
        learnt = learnt_by(self)
        if self.unknown_groups not in UNKNOWN_GROUPS:
            raise ValueError(
                f"unknown_groups must be one of {', '.join(map(repr, UNKNOWN_GROUPS))}; got "
                f"{shown(self.unknown_groups)}."
            )
        table = read_table(self, X, reset=False)
        blocks = []
        for name, column in learnt.columns.items():
            codes = column.labels.codes(table.labels(name), self.unknown_groups)
            blocks.append([part[codes] for part in _wanted(column, learnt.add, self.unknown_groups)])
        return self._assemble(blocks, X, table)

    def get_feature_names_out(self, input_features=None):
        """Return the names of the columns of `transform`.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of the columns of X, where fit saw none; else they must be those.

        Returns
        -------
        names : ndarray of str, dtype object
            A column keeps its name; beside it are "<name>_sd" and "<name>_count". With several classes
            "<name>_<class>", "<name>_<class>_sd" and one "<name>_count".
        """
        learnt = learnt_by(self)
        own = [*_check_feature_names_in(self, None)]
        given = dict(zip(own, _check_feature_names_in(self, input_features), strict=True))
        names = [name for column in learnt.columns for name in self._names_of(given[column])]
        return np.array(names + [given[column] for column in learnt.passed], dtype=object)

    def get_metadata_routing(self):
        """Get the routing of metadata: `groups` and the like to `cv`.

        Returns
        -------
        routing : MetadataRouter
            A :class:`~sklearn.utils.metadata_routing.MetadataRouter` encapsulating routing information.
        """
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(splitter=self.cv, method_mapping=MethodMapping().add(caller="fit_transform", callee="split"))
        )

    def __sklearn_is_fitted__(self):
        return hasattr(self, "_learnt")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = tags.input_tags.string = tags.input_tags.allow_nan = True
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    # private

    def _learn(self, X, y, sample_weight):
        """Learn by all rows; return X, the rows that count (None: all), codes and sums of each column, codes of y."""
        name = type(self).__name__
        add = self._checked_add()
        table = read_training_table(self, X)
        warn_of_order(table, {"y": y, "sample_weight": sample_weight}.items())
        columns = list(table.names)
        if self.columns is not None:
            columns = list(selected_columns(self.columns, table.names, "columns").values())
            if not columns:
                raise ValueError(
                    "columns is empty. Name at least one column of X, or leave it out (None: every column)."
                )
        weight = check_weights(sample_weight, table.n_rows, name)
        kept = None
        if weight is not None and not weight.all():
            kept = np.flatnonzero(weight > 0)
            weight = weight[kept]
            if len(kept) < LEAST_ROWS:
                raise ValueError(
                    f"n_samples={len(kept)} rows have a positive sample_weight, while a minimum of {LEAST_ROWS} is "
                    f"required by {name}."
                )
        read = read_encoded_target(y, table.n_rows, kept, self.target_type, name)
        self.target_type_, self.classes_ = read.kind, read.classes
        if self.classes_ is not None and self.method != "empirical-bayes":
            raise ValueError(
                f"method={self.method!r} is for numbers, and y was taken for classes (target_type_ "
                f"{self.target_type_!r}), whose shares have method='empirical-bayes' only. Use that, or "
                "target_type='continuous' if y holds numbers."
            )
        means = np.average(read.responses, axis=0, weights=weight) + read.origin
        self.target_mean_ = float(means[0]) if len(means) == 1 else means
        method = self.method if self.classes_ is None else "beta-binomial"
        target = Target(read.responses, read.origin, weight, method, "sd" in add)
        sums, learnt = {}, {}
        counting = table if kept is None else table.where(np.isin(np.arange(table.n_rows), kept))
        for column in columns:
            labels, codes = EncodedLabels.learn(column, counting.labels(column))
            of_column = LabelSums(codes, labels.n_labels, target)
            encodings = of_column.encode()
            if encodings.why_not and labels.n_labels > 1:
                warn(
                    f"Labels of column {column!r} are encoded by their own means, which are not shrunken: "
                    f"{encodings.why_not}.",
                    ShrinkageWarning,
                )
            learnt[column] = EncodedColumn(labels, *encodings[:3])
            sums[column] = (codes if kept is None else labels.codes(table.labels(column)), of_column)
        self._learnt = LearntEncodings(learnt, tuple(column for column in table.names if column not in learnt), add)
        self._refuse_twins()
        self.groups_ = {column: part.labels.groups.labels for column, part in learnt.items()}
        self.encodings_ = {
            column: part.value[:-1] if part.value.shape[1] > 1 else part.value[:-1, 0]
            for column, part in learnt.items()
        }
        return table, kept, sums, read.codes

    def _checked_add(self):
        wrong = [extra for extra in self.add if extra not in _EXTRAS]
        if wrong or len(set(self.add)) < len(self.add):
            raise ValueError(f"add takes any of {', '.join(map(repr, _EXTRAS))}, each once; got {shown(self.add)}.")
        return tuple(extra for extra in _EXTRAS if extra in self.add)

    def _folds(self, X, y, classes, n_rows, split_params):
        """Return the rows of each test fold, as arrays of their numbers; each row is in one."""
        options = {"shuffle": True, "random_state": self.random_state} if self.shuffle else {}
        if classes is not None and (self.cv is None or isinstance(self.cv, Integral)):
            # The same folds as by y itself, for a tenth of the time where its classes are texts.
            y = classes.astype(np.min_scalar_type(classes.max()))
        cv = check_cv(self.cv, y, classifier=self.classes_ is not None, **options)
        folds, seen = [], np.zeros(n_rows, dtype=np.int64)
        for _, test in cv.split(X, y, **split_params):
            test = np.asarray(test)
            test = np.flatnonzero(test) if test.dtype == bool else test
            folds.append(test)
            seen[test] += 1
        if not (seen == 1).all():
            raise ValueError(
                "cv must have every row in one of its test folds, and in one only: a row is encoded by the rows that "
                f"are not in its fold. Here {int((seen == 0).sum())} rows are in none and {int((seen > 1).sum())} in "
                "several. Use KFold, StratifiedKFold, GroupKFold or the like."
            )
        return folds

    def _names_of(self, column):
        """Return the names of what one column becomes."""
        add = self._learnt.add
        heads = [column]
        if self.target_type_ == "multiclass" and self.classes_ is not None:
            heads = [f"{column}_{label}" for label in self.classes_]
        names = [name for head in heads for name in ((head, f"{head}_sd") if "sd" in add else (head,))]
        return [*names, f"{column}_count"] if "count" in add else names

    def _refuse_twins(self):
        names = self.get_feature_names_out().tolist()
        twins = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twins:
            raise ValueError(f"Two columns of the output would be called {quoted(twins)}. Rename columns of X.")

    def _assemble(self, blocks, X, table):
        """Return encoded columns and those that pass, as an array, or a frame where `set_output` asks for one."""
        encoded = np.column_stack([part for block in blocks for part in self._interleaved(block)])
        passed = self._learnt.passed
        if not passed:
            return encoded
        container = _get_output_config("transform", self)["dense"]
        if container == "default":
            columns = [np.asarray(table.labels(name)) for name in passed]
            numeric = all(column.dtype.kind in "biuf" for column in columns)
            return np.column_stack([encoded, *columns] if numeric else [encoded.astype(object), *columns])
        names = self.get_feature_names_out()
        parts = dict(zip(names, encoded.T, strict=False))
        positions = [table.names.index(name) for name in passed]
        own = dict(zip(names[encoded.shape[1] :], positions, strict=True))
        if container == "pandas":
            rest = {name: X.iloc[:, i] if isinstance(X, pd.DataFrame) else table.labels(table.names[i])
                    for name, i in own.items()}  # fmt: skip
            return pd.DataFrame(parts | rest, index=table.index)
        import polars

        is_polars = isinstance(X, polars.DataFrame)
        rest = {name: X[:, i] if is_polars else polars.Series(np.asarray(table.labels(table.names[i])).tolist())
                for name, i in own.items()}  # fmt: skip
        return polars.DataFrame(parts | rest)

    def _interleaved(self, block):
        """Return the columns of a block in the order of `_names_of`."""
        value, *extras = block
        if "sd" in self._learnt.add:
            sd, *extras = extras
            value = np.stack([value, sd], axis=2).reshape(len(value), -1)
        return [value, *extras]


def _wanted(encodings: Encodings | EncodedColumn, add: tuple[str, ...], policy: str = "population") -> list[np.ndarray]:
    """Return the arrays by label that become columns; labels that have no rows are NaN where the policy says so."""
    wanted = [encodings.value] + ([encodings.sd] if "sd" in add else [])
    if policy == "nan":
        wanted = [np.where(encodings.counts[:, None] > 0, part, np.nan) for part in wanted]
    return wanted + ([encodings.counts] if "count" in add else [])


def _places(fold: np.ndarray, kept: np.ndarray | None) -> np.ndarray:
    """Return where the rows of a fold stand among those that are kept."""
    return fold if kept is None else np.flatnonzero(np.isin(kept, fold))
