"""What a fit leaves behind: the posterior, and what later questions need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hbsk._data.rows import Rows
from hbsk._engine.marginal import MarginalModel
from hbsk._engine.merging import less_effect_means
from hbsk._engine.scaling import ColumnScaling, collected_again
from hbsk._engine.sums import Moments
from hbsk._model.frame import ModelFrame
from hbsk._posterior.base import Posterior
from hbsk.sufficient_statistics import SufficientStatistics


@dataclass(frozen=True)
class Fitted:
    """What an engine leaves behind.

    Attributes
    ----------
    posterior : Posterior
    priors : dict
        Plain data, the estimator's ``priors_``.
    inference : str
        Which engine ran, and why.
    model : MarginalModel or None
        Sums and priors in engine units, where there is at most one grouping factor.
    scaling : ColumnScaling or None
    reliable : bool
        Whether the engine itself found nothing to worry about, so that nobody has to look at the diagnostics.
    sample_stats : dict of str to ndarray of shape (n_chains, n_draws), or None
        What NUTS tells of each draw.
    effect_mean : ndarray of shape (q,) or None
        Fixed means of the effects of groups that were taken off y in ``model``; None for zeros.
    own_estimates : tuple of ndarray of shape (n_groups, q), one per factor, or None
        Coefficients of each group by its own rows, where they were found in fit.
    """

    posterior: Posterior
    priors: dict[str, Any]
    inference: str
    model: MarginalModel | None = None
    scaling: ColumnScaling | None = None
    reliable: bool = True
    sample_stats: dict[str, np.ndarray] | None = None
    effect_mean: np.ndarray | None = None
    own_estimates: tuple[np.ndarray, ...] | None = None

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return an answer, computed when it is first asked for; it ends with this fit and is left out of pickles."""
        answers = self.__dict__.setdefault("_answers", {})
        if name not in answers:
            answers[name] = compute()
        return answers[name]

    def __getstate__(self) -> dict[str, Any]:
        """Leave what can be computed again out of a pickle."""
        return {name: value for name, value in vars(self).items() if name != "_answers"}


@dataclass(frozen=True)
class BesideSums:
    """What `SufficientStatistics` hold beside the sums, which are in the model of a fit.

    Attributes
    ----------
    moments : Moments
    counted : tuple of ndarray of shape (n_groups,)
    n_rows : int
    least_noise : float
    asked : dict
    """

    moments: Moments
    counted: tuple[np.ndarray, ...]
    n_rows: int
    least_noise: float
    asked: dict[str, Any]


@dataclass(frozen=True)
class Learnt:
    """What a fit leaves behind, besides the public attributes; nothing of the size of the data.

    Attributes
    ----------
    frame : ModelFrame
        Layout of the data.
    fitted : Fitted
        Posterior and model.
    copies : tuple of ndarray of shape (n_groups,)
        Number of copies of rows in each group of each factor, times their trials or exposure.
    known_errors : bool
        Whether the standard errors of y were given.
    family : {"gaussian", "binomial", "poisson"}
        Of y given the linear predictor.
    sized_by : {"", "exposure", "trials"}
        What fit was given beside y, and answers about y need.
    column_means : tuple of ndarray
        Means, over copies of rows, of the common columns of the design and of the varying ones of each factor.
    beside : BesideSums or None
        From which, with the model, `partial_fit` goes on.
    by_name : bool
        Whether frames of later rows may have other columns too, and any order: of fits of sums, as of lazy frames.
    """

    frame: ModelFrame
    fitted: Fitted
    copies: tuple[np.ndarray, ...]
    known_errors: bool
    family: str = "gaussian"
    sized_by: str = ""
    column_means: tuple[np.ndarray, ...] = ()
    beside: BesideSums | None = None
    by_name: bool = False

    @property
    def has_sigma(self) -> bool:
        """Whether the residual sd is a parameter."""
        return self.family == "gaussian" and not self.known_errors


def copies_of_rows(rows: Rows) -> np.ndarray | None:
    """Return what rows count: their weight, times their trials or exposure; None where it is 1."""
    if rows.size is None or rows.sample_weight is None:
        return rows.size if rows.sample_weight is None else rows.sample_weight
    return rows.size * rows.sample_weight


def learnt_of_rows(
    frame: ModelFrame, rows: Rows, fitted: Fitted, family: str, sized_by: str, moments: Moments
) -> Learnt:
    """Keep of a fit of rows what later questions need; ``moments`` are of copies of rows."""
    counted = copies_of_rows(rows)
    copies = tuple(
        np.bincount(codes, weights=counted, minlength=factor.n_groups)
        for factor, codes in zip(rows.factors, rows.codes, strict=True)
    )
    means = (moments.x_mean, *moments.z_mean)
    return Learnt(frame, fitted, copies, rows.standard_error is not None, family, sized_by, means)


def learnt_of_sums(statistics: SufficientStatistics, fitted: Fitted, *, by_name: bool) -> Learnt:
    """Keep of a fit of sums what later questions need."""
    beside, moments = None, statistics.collected.moments
    if fitted.model is not None:
        asked = dict(statistics.asked)
        beside = BesideSums(moments, statistics.counted, statistics.n_rows, statistics.least_noise, asked)
    whole = all((n == np.round(n)).all() for n in statistics.copies)  # counts are shown as counts
    copies = tuple(n.astype(np.int64) if whole else n for n in statistics.copies)
    means = (moments.x_mean, *moments.z_mean)
    return Learnt(
        statistics.frame,
        fitted,
        copies,
        statistics.known_errors,
        column_means=means,
        beside=beside,
        by_name=by_name,
    )


def sums_of_fit(learnt: Learnt, n_features: int, feature_names: np.ndarray | None) -> SufficientStatistics | None:
    """Return the sums that a fit was made of; None where it has not kept them."""
    fitted, beside = learnt.fitted, learnt.beside
    if beside is None or fitted.model is None or fitted.scaling is None:
        return None
    collected = collected_again(
        fitted.model.sums,
        fitted.scaling,
        beside.moments,
        learnt.frame.specification.has_intercept,
        known_standard_error=learnt.known_errors,
    )
    if fitted.effect_mean is not None:
        collected = less_effect_means(collected, -fitted.effect_mean)
    collected = replace(collected, moments=beside.moments)
    return SufficientStatistics(
        learnt.frame,
        collected,
        beside.counted,
        learnt.copies,
        beside.n_rows,
        beside.least_noise,
        learnt.known_errors,
        n_features,
        feature_names,
        beside.asked,
    )
