"""Orders below which posterior moments exist, for what tables show; infinite where all of them do."""

from __future__ import annotations

import numpy as np

# A mean exists where the order is above 1, a variance where it is above 2.
OF_MEAN, OF_VARIANCE = 1.0, 2.0


def variance_orders(specification, posterior, names) -> np.ndarray:
    """Return orders of the parameters of these names, as `hbsk._posterior.diagnostics.variance_names` has them."""
    if not posterior.tails.sets:
        return np.full(len(names), np.inf)
    orders = {"sigma": posterior.tails.of_sigma()}
    for factor in specification.factors:
        of_sds = posterior.tails.of_group_sds(len(factor.columns))
        orders |= {f"{column}|{factor.name}_sigma": order for column, order in zip(factor.columns, of_sds, strict=True)}
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
