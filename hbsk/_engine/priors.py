"""Priors as the marginal engine takes them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hbsk._engine.sd_prior import SdPrior


@dataclass(frozen=True)
class EnginePriors:
    """Priors as the marginal engine takes them.

    Attributes
    ----------
    common_mean, common_sd : ndarray of shape (p,)
        Of the common columns, intercept first; the sd is infinite for a flat prior.
    residual_sd : SdPrior, float or None
        A number is a fixed sd, None stands for known standard errors.
    group_sd : list of SdPrior or float
        One for each varying column; of several factors, one factor after another.
    group_mean : ndarray of shape (q,)
        Means of the effects, fixed.
    blocks : tuple of tuple of int
        Correlated columns.
    lkj_eta : tuple of float
        One for each block.
    centre : ndarray of shape (q,), optional
        The point of the varying columns that group_sd and lkj_eta refer to; zero by default.
    """

    common_mean: np.ndarray
    common_sd: np.ndarray
    residual_sd: SdPrior | float | None
    group_sd: list[SdPrior | float]
    blocks: tuple[tuple[int, ...], ...]
    lkj_eta: tuple[float, ...]
    group_mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    centre: np.ndarray | None = None

    def scaled_sds(self, y_scale: float, z_scale: np.ndarray) -> tuple[SdPrior | float, list[SdPrior | float]]:
        """Return the residual sd, 1 where standard errors are known, and the group sds in the units of a scaling."""
        residual_sd = 1.0 if self.residual_sd is None else _scaled(self.residual_sd, 1.0 / y_scale)
        return residual_sd, [_scaled(sd, z / y_scale) for sd, z in zip(self.group_sd, z_scale, strict=True)]


def _scaled(sd: SdPrior | float, unit: float) -> SdPrior | float:
    return sd * unit if isinstance(sd, float) else sd.scaled(unit)
