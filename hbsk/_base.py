"""What all estimators share: metadata routing of `groups`, former fits that are kept whole, the reading of rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache, wraps
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from hbsk._data.factor import Factor
from hbsk._data.rows import LEAST_ROWS, NO_NAN, Rows
from hbsk._data.sources import GROUPS
from hbsk._data.table import Table, read_table
from hbsk._messages import quoted, shown
from hbsk._model.design import PredictedRows
from hbsk._model.frame import read_new_rows, read_population_rows
from hbsk._model.options import options_of
from hbsk._shrinkage.predictions import FittedMeans
from hbsk._shrinkage.rates import FittedRates

ROUTED_METHODS = ("fit", "partial_fit", "predict", "predict_proba", "predict_log_proba", "decision_function", "score")


@dataclass(frozen=True)
class LearntMeans:
    """What a fit of shrunken means leaves behind, besides the public attributes.

    Attributes
    ----------
    factors : tuple of Factor
        The grouping factor; none without groups.
    columns : tuple of str
        Columns of X that the target, or the regression without groups, is a surface in.
    known_errors : bool
        Whether the standard errors of y were given.
    means : FittedMeans or FittedRates
        What predictions need.
    method, target : str
        What the means were shrunken by, and towards, as the parameters said.
    variance_by : str
        How the variance between groups was estimated, or "given".
    family : {"gaussian", "binomial", "poisson"}
        What y is.
    sized_by : {"", "exposure", "trials"}
        What was given beside counts.
    """

    factors: tuple[Factor, ...]
    columns: tuple[str, ...]
    known_errors: bool
    means: FittedMeans | FittedRates
    method: str
    target: str
    variance_by: str
    family: str = "gaussian"
    sized_by: str = ""


def learnt_by(estimator: Any) -> Any:
    """Return what a fit of one of our estimators left behind, `Learnt` or `LearntMeans`; for other rooms.

    Raises
    ------
    NotFittedError
        Before fit.
    """
    check_is_fitted(estimator)
    return estimator._learnt


def sized_by(estimator: Any) -> str:
    """Return whether an estimator was fitted with "exposure" or "trials"; "" for neither, and estimators of others."""
    return getattr(getattr(estimator, "_learnt", None), "sized_by", "")


def forget(estimator: Any) -> None:
    """Take the public attributes of a former fit away."""
    for attribute in [name for name in vars(estimator) if name.endswith("_") and not name.startswith("_")]:
        delattr(estimator, attribute)


def read_training_table(
    estimator: Any, X: Any, groups: Any = None, *, reset: bool = True, min_samples: int = LEAST_ROWS
) -> Table:
    """Forget a former fit, and read X for a new one; scikit-learn's attributes of X are written here.

    Without ``reset`` they stay, and X must be as they say.
    """
    if reset:
        forget(estimator)
    return read_table(estimator, X, reset=reset, min_samples=min_samples, groups=groups)


def read_predicted(
    estimator: Any,
    X: Any,
    groups: Any,
    standard_error: Any = None,
    y: Any = None,
    *,
    must_answer: bool = False,
    include_groups: bool = True,
) -> tuple[PredictedRows, Rows]:
    """Read rows for a method after fit: as the model sees them, and as they came.

    With ``must_answer`` rows that the estimator would answer with NaN are an error. Without ``include_groups`` no label
    is looked at.
    """
    learnt = learnt_by(estimator)
    frame = learnt.frame
    table = read_table(estimator, X, reset=False, groups=groups, by_name=learnt.by_name)
    options = options_of(estimator)
    if not isinstance(include_groups, bool | np.bool_):
        raise ValueError(f"include_groups must be True or False, got {shown(include_groups)}.")
    if not include_groups:
        effect_mean = population_effects(estimator)
        return read_population_rows(options, frame, table, effect_mean, standard_error)
    if must_answer and options.unknown_groups == "nan":
        options = replace(options, unknown_groups=NO_NAN)
    return read_new_rows(options, frame, table, groups, standard_error, y)


def population_effects(estimator: Any) -> np.ndarray | None:
    """Return the fixed means of the effects of groups, None for zeros.

    Raises
    ------
    ValueError
        Where there is no population that groups are drawn from, or its mean is no number.
    """
    learnt = learnt_by(estimator)
    fitted, factors = learnt.fitted, learnt.frame.specification.factors
    if not factors:
        return None
    names = quoted(factor.name for factor in factors)
    if estimator.pooling == "none":
        raise ValueError(
            f"include_groups=False asks for the population that the groups ({names}) are drawn from, and with "
            "pooling='none' there is none. Use pooling='partial' for it, or pooling='complete' for one answer for all."
        )
    laws = getattr(fitted.posterior, "laws", ()) if fitted.effect_mean is None else ()
    if any(np.any(law.mean() != 0) for of_factor in laws for law in of_factor):
        raise ValueError(
            f"include_groups=False takes the effects of the groups ({names}) as 0, and their prior in priors= has "
            "another mean, which the posterior knows only with an error. Predict for a label that fit has not seen "
            "instead: that is the mean of the population."
        )
    return fitted.effect_mean


def generator(random_state: Any) -> np.random.Generator:
    """Make a Generator of whatever `random_state` may be."""
    if isinstance(random_state, np.random.Generator):
        return random_state
    return np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))


def check_n_samples(n_samples: Any) -> None:
    """Raise unless `n_samples` of `sample_y` counts draws."""
    if not isinstance(n_samples, Integral) or n_samples < 1:
        raise ValueError(f"n_samples must be a positive integer, got {shown(n_samples)}.")


def require_standard_error(estimator: Any, standard_error: Any, what: str) -> None:
    """Raise unless standard errors of rows are given exactly where they were in fit."""
    known = learnt_by(estimator).known_errors
    if known and standard_error is None:
        raise ValueError(
            f"{what} needs standard_error= for these rows: the model was fitted with known standard errors, so "
            "the noise of a new observation is not a parameter. kind='mean' and plain predict do not need it."
        )
    if standard_error is not None and not known:
        raise ValueError(
            "standard_error= was given, but the model was fitted without: its residual sd is a parameter. Leave "
            "standard_error= out, or give it in fit too."
        )


def require_size(estimator: Any, size: Any, what: str) -> None:
    """Raise where rows lack the exposure or trials that fit had."""
    by, name = sized_by(estimator), type(estimator).__name__
    if size is None and by:
        raise ValueError(
            f"{what} needs {by}= for these rows: this {name} was fitted with it. scikit-learn's scorers and searches "
            f"pass it only with metadata routing on, set_fit_request({by}=True) and set_score_request({by}=True). "
            f"Without routing fit with weights instead, fit(X, y / {by}, sample_weight={by}), which is the same "
            "likelihood."
        )


class GroupRoutingMixin:
    """Answer that `groups` is not wanted where the groups are in a column of X.

    With routing on, scikit-learn refuses metadata that an estimator could take and has not asked for. Without this
    answer, `cross_validate(..., cv=GroupKFold(), params={"groups": g})` would therefore demand a decision about
    `groups` even where the estimator reads its labels from X and the name is meant for the splitter alone.

    Must stand before `BaseEstimator` among the bases.
    """

    group_features: Any
    _learnt: Any  # see `learnt_by`

    def _labels_come_by_keyword(self) -> bool:
        """Tell whether labels may arrive by `groups=`: not where `group_features` or a formula names columns."""
        if self.group_features is not None:
            return False
        formula = getattr(self, "formula", None)
        return formula is None or GROUPS in names_in(formula)[1]

    def get_metadata_routing(self) -> Any:
        """Get the metadata requests of this estimator.

        With `group_features` set, or a formula that takes its groups from other names than `groups`, `groups` is
        answered as not requested, whatever `set_fit_request` said.

        Returns
        -------
        routing : MetadataRequest
            A :class:`~sklearn.utils.metadata_routing.MetadataRequest` encapsulating routing information.
        """
        # A copy: the estimator's own requests must not change by being asked for.
        requests = super().get_metadata_routing()  # type: ignore[misc]
        # What fit asks for partial_fit asks for, which learning_curve sees beside it.
        own = requests.partial_fit.requests
        for name, alias in requests.fit.requests.items():
            if alias is not None and name in own and own[name] is None:
                requests.partial_fit.add_request(param=name, alias=alias)
        if not self._labels_come_by_keyword():
            for method in ROUTED_METHODS:
                request = getattr(requests, method)
                if GROUPS in request.requests:
                    request.add_request(param=GROUPS, alias=False)
        return requests


def names_in(formula: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of features and those right of `|`; none where fit will say that it cannot read the formula."""
    return _names_in(formula) if isinstance(formula, str) else ((), ())


@lru_cache(maxsize=64)
def _names_in(formula: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    from hbsk._model.parser import parse_formula  # imports formulae, which takes a while

    try:
        parsed = parse_formula(formula)
    except (TypeError, ValueError):
        return (), ()
    return parsed.feature_names, parsed.factor_names


def takes_groups_from_columns(formula: Any) -> bool:
    """Tell it by the text alone: a fit that was read back answers without importing formulae."""
    sides = re.findall(r"\|\s*([^|)]+)", re.sub("`[^`]*`", "quoted", formula)) if isinstance(formula, str) else []
    return any(side.strip() != GROUPS for side in sides)


def reads_columns(estimator: Any) -> bool:
    """Tell whether an estimator is one of ours that finds its group labels in columns of X."""
    return isinstance(estimator, GroupRoutingMixin) and not estimator._labels_come_by_keyword()


def keeps_former_fit(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method that learns, such as `fit`, run on a copy whose attributes the estimator takes over at the end.

    Where the method fails, or is interrupted, a former fit stays whole, `n_features_in_` included, and an estimator
    that was never fitted stays so. Other threads see the former fit or the new one, never some of both.

    Parameters
    ----------
    method : callable
        Method of an estimator that writes attributes and returns the estimator.
    """

    @wraps(method)
    def learn(self: Any, *args: Any, **kwargs: Any) -> Any:
        learning = copy(self)
        method(learning, *args, **kwargs)
        # A dict of its own: where two objects shared one, fits were seen to lose attributes later on (CPython 3.13.0).
        self.__dict__ = dict(vars(learning))
        return self

    return learn


def learns_nothing(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method run on a copy, so that the estimator stays as it is."""

    @wraps(method)
    def ask(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(copy(self), *args, **kwargs)

    return ask
