"""Orders below which posterior moments exist, for what tables show; infinite where all of them do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hbsk._engine.crossed_propriety import crossed_rows_degrees
from hbsk._engine.crossed_sums import CrossedSums
from hbsk._engine.propriety import Tails, rows_degrees
from hbsk._engine.scaling import ColumnScaling
from hbsk._engine.sums import GroupSums

# A mean exists where the order is above 1, a variance where it is above 2.
OF_MEAN, OF_VARIANCE = 1.0, 2.0
# Endings of the names of what scales effects, beside their sd: as heavy as that.
SCALES = ("sigma", "beta", "b", "s", "scale")


@dataclass(frozen=True)
class RowOrders:
    """What tells the order below which moments of rows exist.

    Attributes
    ----------
    sums : GroupSums or CrossedSums
        In engine units.
    scalings : tuple of ColumnScaling
        One for each factor; one where there is none.
    has_intercept : bool
    """

    sums: GroupSums | CrossedSums
    scalings: tuple[ColumnScaling, ...]
    has_intercept: bool

    def of_rows(self, tails: Tails, x: np.ndarray, z: Sequence, codes: Sequence, *, with_noise: bool) -> np.ndarray:
        """Return the orders of the linear predictor of rows, or of y; see `Posterior.row_moments`."""
        degrees = np.full(len(x), tails.of_sigma() if with_noise else np.inf)
        if not tails.sets:
            return degrees
        x = self.scalings[0].common(x, self.has_intercept)
        varying = [scaling.varying(part) for scaling, part in zip(self.scalings, z, strict=False)]
        if isinstance(self.sums, CrossedSums):
            return np.minimum(degrees, crossed_rows_degrees(tails, self.sums, x, varying, codes))
        one = (varying[0], codes[0]) if varying else (np.zeros((len(x), 0)), np.zeros(len(x), dtype=int))
        return np.minimum(degrees, rows_degrees(tails, self.sums, x, *one))


def group_sd_orders(tails: Tails, sizes: Sequence[int]) -> list[np.ndarray]:
    """Return the orders of the group sds of each factor, which has so many varying columns."""
    ends = np.cumsum([0, *sizes])
    return np.split(tails.of_group_sds(ends[-1]), ends[1:-1]) if len(sizes) else []


def variance_orders(specification, posterior, names) -> np.ndarray:
    """Return orders of the parameters of these names, as `hbsk._posterior.diagnostics.variance_names` has them."""
    if not posterior.tails.sets:
        return np.full(len(names), np.inf)
    orders = {"sigma": posterior.tails.of_sigma()}
    of_sds = group_sd_orders(posterior.tails, [len(factor.columns) for factor in specification.factors])
    for factor, of_factor in zip(specification.factors, of_sds, strict=True):
        for column, order in zip(factor.columns, of_factor, strict=True):
            orders |= {f"{column}|{factor.name}_{scale}": order for scale in SCALES}
    return np.array([orders.get(name, np.inf) for name in names])


def common_orders(specification, posterior) -> np.ndarray:
    """Return orders of the common coefficients."""
    return coefficient_orders(specification, posterior, np.eye(len(specification.common_columns)))


def coefficient_orders(specification, posterior, x, f=0, z=None, codes=None) -> np.ndarray:
    """Return orders of sums of coefficients: x of common ones and z of the effects of groups ``codes`` of a factor."""
    if not posterior.has_infinite_moments:
        return np.full(len(x), np.inf)
    columns = [np.zeros((len(x), len(factor.columns))) for factor in specification.factors]
    of_factors = [np.zeros(len(x), dtype=int) for _ in columns]
    if z is not None:
        columns[f], of_factors[f] = z, codes
    return posterior.row_degrees(x, columns, of_factors)
