"""Rows of a binary or count response in the units of the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hbsk._engine.generalized.cells import Cells, collect_cells
from hbsk._engine.generalized.families import FAMILIES
from hbsk._engine.scaling import ColumnScaling

# Share of the size of its terms below which a sum is zero.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Responses:
    """Rows as they come: raw columns.

    Attributes
    ----------
    family : {"binomial", "poisson"}
    y : ndarray of shape (n_rows,)
        Successes or counts, which need not be whole.
    size : ndarray of shape (n_rows,)
        Trials or exposure, above 0.
    x : ndarray of shape (n_rows, p)
        Common columns, the intercept first where there is one.
    z : ndarray of shape (n_rows, q)
        Varying columns; none where no groups are.
    codes : ndarray of shape (n_rows,), dtype int
    n_groups : int
    has_intercept : bool
    varying_intercept : int or None
        Which varying column is 1 everywhere.
    weight : ndarray of shape (n_rows,) or None
        Numbers of copies.
    offset : ndarray of shape (n_rows,) or None
        Added to the linear predictor.
    x_moments, z_moments : tuple of ndarray or None
        Means and sds of the columns that priors refer to; of the rows, by weight, where they are not given.
    """

    family: str
    y: np.ndarray
    size: np.ndarray
    x: np.ndarray
    z: np.ndarray
    codes: np.ndarray
    n_groups: int
    has_intercept: bool = True
    varying_intercept: int | None = None
    weight: np.ndarray | None = None
    offset: np.ndarray | None = None
    x_moments: tuple[np.ndarray, np.ndarray] | None = None
    z_moments: tuple[np.ndarray, np.ndarray] | None = None


class EngineRows(NamedTuple):
    """Rows in the units of the engine.

    Attributes
    ----------
    y, size : ndarray of shape (n_rows,)
        Without weights; successes and failures are exchanged where ``sign`` is -1, sizes are relative to the rate.
    x, z : ndarray of shape (n_rows, p) and (n_rows, q)
    offset : ndarray of shape (n_rows,) or None
    """

    y: np.ndarray
    size: np.ndarray
    x: np.ndarray
    z: np.ndarray
    offset: np.ndarray | None


@dataclass(frozen=True)
class GeneralizedScaling:
    """The map between the user's units and those of the engine.

    Attributes
    ----------
    columns : ColumnScaling
        Its ``y_centre`` is the log of the pooled rate of counts, which exposures are multiplied by.
    has_intercept : bool
    sign : int
        -1 where the engine has failures in the place of successes, so that y and 1 - y are the same numbers to it.
    """

    columns: ColumnScaling
    has_intercept: bool
    sign: int = 1

    def rows(self, responses: Responses) -> EngineRows:
        """Return rows in the units of the engine."""
        x = self.columns.common(responses.x, self.has_intercept)
        z = self.columns.varying(responses.z) if responses.z.shape[1] else responses.z
        y, size, offset = self.outcomes(responses)
        return EngineRows(y, size, x, z, offset)

    def outcomes(self, responses: Responses) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return y, sizes and offsets of rows in the units of the engine."""
        y, size, offset = responses.y, responses.size, responses.offset
        if responses.family == "poisson":
            size = size * np.exp(self.columns.y_centre)
            if offset is not None:
                size, offset = size * np.exp(offset), None
        elif self.sign < 0:
            y, offset = size - y, None if offset is None else -offset
        return y, size, offset


def standardise_responses(responses: Responses) -> tuple[Cells, GeneralizedScaling]:
    """Return cells in the units of the engine, and the map that leads there.

    Common columns have mean 0 and sd 1 beside an intercept, varying columns beside a varying intercept; otherwise mean
    square 1. Columns that the intercept says already are left out (`ColumnScaling`).
    """
    weight = np.ones(len(responses.y)) if responses.weight is None else responses.weight
    x_mean, x_sd = _moments(responses.x, weight) if responses.x_moments is None else responses.x_moments
    z_mean, z_sd = _moments(responses.z, weight) if responses.z_moments is None else responses.z_moments
    p, intercept = len(x_mean), responses.varying_intercept if len(z_mean) else None
    x_centre = np.zeros(p)
    x_scale = np.hypot(x_mean, x_sd)
    if responses.has_intercept:
        x_centre, x_scale = np.array(x_mean, dtype=float), np.array(x_sd, dtype=float)
        x_centre[0], x_scale[0] = 0.0, 1.0
    kept = np.flatnonzero(x_scale > 0)
    z_centre = np.zeros(len(z_mean))
    if intercept is not None:
        z_centre = np.array(z_mean, dtype=float)
        z_centre[intercept] = 0.0
    z_scale = np.hypot(z_mean - z_centre, z_sd)
    columns = ColumnScaling(
        _log_rate(responses, weight),
        1.0,
        x_centre,
        np.where(x_scale > 0, x_scale, 1.0),
        np.where(z_scale > 0, z_scale, 1.0),
        kept,
        z_centre,
        intercept,
    )
    scaling = GeneralizedScaling(columns, responses.has_intercept)
    rows = scaling.rows(responses)
    if responses.family == "binomial":
        scaling = GeneralizedScaling(columns, responses.has_intercept, _sign(rows, weight))
        y, size, offset = scaling.outcomes(responses)
        rows = rows._replace(y=y, size=size, offset=offset)
    used = weight > 0
    codes = responses.codes if responses.z.shape[1] else np.zeros(len(weight), dtype=int)
    n_groups = max(responses.n_groups, 1) if responses.z.shape[1] else 1
    parts = (rows.y * weight, rows.size * weight, rows.x, rows.z, codes)
    y, size, x, z, codes = parts if used.all() else (part[used] for part in parts)
    offset = rows.offset if rows.offset is None or used.all() else rows.offset[used]
    return collect_cells(responses.family, y, size, x, z, codes, n_groups, offset), scaling


def group_constants(responses: Responses, scaling: GeneralizedScaling) -> np.ndarray:
    """Return what ``log p(y_j | b, theta)`` has beside the integrals, (n_groups,): it depends on y alone."""
    y, size, _ = scaling.outcomes(responses)
    constant = FAMILIES[responses.family].log_constant(y, size)
    if responses.weight is not None:
        constant = np.where(responses.weight > 0, responses.weight, 0.0) * constant
    if not responses.z.shape[1]:
        return np.array([constant.sum()])
    return np.bincount(responses.codes, constant, responses.n_groups)


def _moments(columns, weight):
    """Return weighted means and population sds of columns (n_rows, k)."""
    total = max(weight.sum(), 1e-300)
    mean = weight @ columns / total
    sd = np.sqrt(np.maximum(weight @ (columns - mean) ** 2 / total, 0.0))
    return mean, np.where(sd > 1e-12 * np.abs(mean), sd, 0.0)  # rounding of a constant column


def _log_rate(responses: Responses, weight: np.ndarray) -> float:
    """Return the log of the pooled rate of counts, 0 where there is none to be taken out of the intercept."""
    if responses.family != "poisson" or not responses.has_intercept:
        return 0.0
    total, exposure = float(weight @ responses.y), float(weight @ responses.size)
    return float(np.log(total / exposure)) if total > 0 else -float(np.log(exposure / max(weight.sum(), 1e-300)))


def _sign(rows: EngineRows, weight: np.ndarray) -> int:
    """Return -1 where more than half of the trials succeed, or, of exactly half, those with larger columns."""
    surplus = weight * (rows.y - 0.5 * rows.size)
    scores = np.append(surplus.sum(), surplus @ rows.x)
    sizes = np.append(np.abs(surplus).sum(), np.abs(surplus) @ np.abs(rows.x))
    clear = np.flatnonzero(np.abs(scores) > ROUNDING * sizes)
    return -1 if len(clear) and scores[clear[0]] > 0 else 1
