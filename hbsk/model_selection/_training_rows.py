"""The rows that an estimator was fitted to, read again: LOO and WAIC need them, and the estimator keeps none."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

import numpy as np
from sklearn.utils.validation import check_is_fitted

from hbsk._base import learnt_by, read_predicted, require_standard_error
from hbsk._data.rows import Rows, read_rows
from hbsk._data.table import read_table
from hbsk._engine.crossed_sums import standardise_factors
from hbsk._engine.marginal import MarginalModel
from hbsk._engine.scaling import ColumnScaling, standardise
from hbsk._fit.collecting import collect_factors, collect_sums
from hbsk._fit.learnt import Fitted
from hbsk._messages import quoted, shown
from hbsk._model.design import DesignWithMeans
from hbsk._model.frame import ModelFrame, unknown_rows
from hbsk.model_selection._responses import answering_step
from hbsk.partial_pooling import PartialPoolingRegressor

UNITS = ("row", "group")
# Largest relative difference of sums that is rounding.
SAME = 1e-6


@dataclass(frozen=True)
class AskedFit:
    """A fitted estimator, and who asks it.

    Attributes
    ----------
    estimator : PartialPoolingRegressor
    caller : str
        For messages.
    """

    estimator: PartialPoolingRegressor
    caller: str

    @property
    def frame(self) -> ModelFrame:
        """Layout of the data."""
        return learnt_by(self.estimator).frame

    @property
    def fitted(self) -> Fitted:
        """Posterior and model."""
        return learnt_by(self.estimator).fitted


@dataclass(frozen=True)
class TrainingRows(AskedFit):
    """A fitted estimator with the rows it was fitted to.

    Attributes
    ----------
    given : dict
        X, y, groups and standard_error as they came.
    rows : Rows
        As read.
    factor : int
        Whose groups are left out.
    """

    given: dict[str, Any]
    rows: Rows
    factor: int = 0

    @property
    def model(self) -> MarginalModel | None:
        """Sums and priors in engine units, where the posterior was, or could be, integrated from them."""
        posterior = self.fitted.posterior
        return posterior.model if posterior.has_crossed_model else self.fitted.model

    @property
    def has_several_factors(self) -> bool:
        """Whether effects of more than one factor are in the model."""
        return len(self.frame.specification.factors) > 1

    @property
    def scalings(self) -> tuple[ColumnScaling, ...]:
        """The scaling of each factor; the first one of y and the common columns too."""
        posterior = self.fitted.posterior
        if posterior.has_crossed_model:
            return posterior.scalings
        return () if self.fitted.scaling is None else (self.fitted.scaling,)

    def design(self):
        """Return the design of the rows; known means of effects are in its offset."""
        design = self.frame.specification.design(self.rows.features)
        effect_mean = self.fitted.effect_mean
        return design if effect_mean is None else DesignWithMeans(design, effect_mean)


def check_unit(unit: str, factor: str | None) -> None:
    """Raise unless the unit is one of those that can be left out, and a factor is named for groups only."""
    if unit not in UNITS:
        raise ValueError(f"unit must be 'row' or 'group', got {shown(unit)}.")
    if factor is not None and unit != "group":
        raise ValueError(
            f"factor={shown(factor)} says whose groups are left out, and unit='row' leaves rows out. Set unit='group', "
            "or leave factor= out."
        )


def fitted_regressor(estimator: Any, X: Any, caller: str) -> tuple[PartialPoolingRegressor, Any]:
    """Find the fitted PartialPoolingRegressor at the end of pipelines and searches, and X as it arrives there."""
    last, X = answering_step(estimator, X)
    if not isinstance(last, PartialPoolingRegressor):
        raise TypeError(
            f"{caller} takes a fitted PartialPoolingRegressor, or a pipeline or search that ends in one; got "
            f"{estimator!r}. compare_estimators cross-validates estimators of any kind."
        )
    check_is_fitted(last)
    return last, X


def read_training_rows_again(estimator, X, y, groups, standard_error, unit: str, factor, caller: str) -> TrainingRows:
    """Read the rows of a fit, and make sure that they are the rows of the fit."""
    check_unit(unit, factor)
    estimator, X = fitted_regressor(estimator, X, caller)
    at = factor_left_out(estimator, factor, caller) if unit == "group" else 0
    require_standard_error(estimator, standard_error, caller)
    learnt = learnt_by(estimator)
    frame = learnt.frame
    if learnt.fitted.posterior.is_stochastic:
        raise ValueError(
            f"{caller} takes the law of each row given all others, and with very many crossed groups the covariances "
            "of effects are only drawn. Cross-validate instead: compare_estimators, or cross_val_score with "
            "WithinGroupKFold for new rows of known groups and GroupKFold for new groups."
        )
    if unit == "group":
        # labels are needed even if the model does not look at them
        rows = read_rows(
            read_table(estimator, X, reset=False, groups=groups, by_name=learnt.by_name),
            groups,
            name=type(estimator).__name__,
            factors=frame.factors,
            standard_error=standard_error,
            used_columns=frame.specification.feature_columns,
            y=y,
        )
    else:
        _, rows = read_predicted(estimator, X, groups, standard_error, y)
    if rows.y is None:
        raise ValueError(f"{caller} needs y, the responses that the model was fitted to; got None.")
    _check_same_rows(estimator, rows, caller)
    given = {"X": X, "y": y, "groups": groups, "standard_error": standard_error}
    return TrainingRows(estimator, caller, given, rows, at)


def factor_left_out(estimator: PartialPoolingRegressor, name: str | None, caller: str) -> int:
    """Return which factor's groups are left out."""
    factors = learnt_by(estimator).frame.factors
    if not factors:
        raise ValueError(
            f"{caller} with unit='group' needs groups, but the model was fitted without. Name them in group_features= "
            "or formula=; with pooling='complete' the model ignores them and can still be asked about them."
        )
    names = [factor.name for factor in factors]
    if name is None and len(factors) > 1:
        raise ValueError(
            f"{caller} with unit='group' leaves out the groups of one grouping factor, and the model has several "
            f"({', '.join(names)}). Name one of them: factor={names[0]!r}."
        )
    if name is not None and (not isinstance(name, str) or name not in names):
        raise ValueError(
            f"factor={shown(name)} is no grouping factor of the model, which has {quoted(names)}. {caller} takes the "
            "name of the one whose groups are left out."
        )
    if estimator.pooling == "none":
        raise ValueError(
            f"{caller} with unit='group' asks for the density of a new group, and pooling='none' has none: its groups "
            "have nothing in common. Use unit='row', or pooling='partial' or 'complete'."
        )
    at = 0 if name is None else names.index(name)
    if factors[at].n_groups < 2:
        raise ValueError(f"{caller} with unit='group' needs at least 2 groups; {names[at]!r} has 1.")
    return at


def _check_same_rows(estimator: PartialPoolingRegressor, rows: Rows, caller: str) -> None:
    """Raise unless the rows give the sums of the fit; cheap, one pass, and independent of the order of rows."""
    n_fit = _rows_of_fit(estimator)
    if n_fit is not None and n_fit != rows.n_rows:
        reason = other_number(rows.n_rows, n_fit)
    elif unknown_rows(rows).any():
        reason = "some of their groups were not seen in fit"
    elif not _same_sums(estimator, rows):
        reason = "their columns, groups, responses or standard errors are others"
    else:
        return
    refuse_other_rows(caller, reason)


def refuse_other_rows(caller: str, reason: str) -> NoReturn:
    """Raise for rows that are not those of the fit."""
    raise ValueError(
        f"{caller} needs the rows that the model was fitted to, but {reason}. A fit with sample_weight= is not taken: "
        "repeat the rows instead. To score other rows use the estimator's score, or compare_estimators."
    )


def other_number(n_here: float, n_fit: float) -> str:
    """Return the reason why rows that are more or fewer cannot be those of the fit."""
    return f"there are {n_here:.10g} here, and {n_fit:.10g} in fit (copies, where it had sample_weight=)"


def _rows_of_fit(estimator) -> float | None:
    learnt = learnt_by(estimator)
    if learnt.fitted.model is not None:
        return float(learnt.fitted.model.sums.n)
    return next((float(copies.sum()) for copies in learnt.copies), None)


def _same_sums(estimator, rows) -> bool:
    learnt = learnt_by(estimator)
    frame, fitted, posterior = learnt.frame, learnt.fitted, learnt.fitted.posterior
    if posterior.has_crossed_model:
        parts, sums_of_pairs = collect_factors(frame, rows, fitted.effect_mean)
        sums, scalings = standardise_factors(parts, sums_of_pairs, known_standard_error=learnt.known_errors)
        kept = posterior.model.sums
        here, before = (
            [*chain(*map(_numbers, of.factors, units)), *(pair.blocks for pair in of.pairs)]
            for of, units in ((sums, scalings), (kept, posterior.scalings))
        )
    elif fitted.model is None:  # several factors, sampled: what is known of them
        here = [collect_sums(frame, rows, f).sums.zz for f in range(len(posterior.information))]
        before = posterior.information
    else:
        collected = collect_sums(frame, rows, effect_mean=fitted.effect_mean)
        own, scaling = standardise(collected, known_standard_error=learnt.known_errors)
        here, before = _numbers(own, scaling), _numbers(fitted.model.sums, fitted.scaling)
    return all(map(is_close, here, before))


def _numbers(sums, scaling: ColumnScaling) -> list[np.ndarray]:
    return [sums.zz, sums.zx, sums.xx, sums.log_weight, _units(scaling)]


def _units(scaling: ColumnScaling) -> np.ndarray:
    """Return what shifts and stretches of columns change, and standardised sums do not."""
    y_units = [scaling.y_centre / scaling.y_scale, np.log(scaling.y_scale)]
    columns = [scaling.x_centre / scaling.x_scale, np.log(scaling.x_scale)]
    if scaling.z_centre is not None:
        columns += [scaling.z_centre / scaling.z_scale, np.log(scaling.z_scale)]
    return np.concatenate([y_units, *columns])


def is_close(here, before) -> bool:
    """Tell whether sums are the same but for rounding."""
    here, before = np.asarray(here), np.asarray(before)
    size = np.maximum(1.0, np.max(np.abs(before), initial=0.0))
    return here.shape == before.shape and bool(np.all(np.abs(here - before) <= SAME * size))
