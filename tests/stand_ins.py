"""Small stand-ins for a specification and its design, to test the engines without a formula."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FactorTerms:
    name: str
    columns: tuple[str, ...]
    terms: tuple[str, ...]
    blocks: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Specification:
    response: str
    has_intercept: bool
    common_columns: tuple[str, ...]
    common_terms: tuple[str, ...]
    factors: tuple[FactorTerms, ...] = ()


@dataclass(frozen=True)
class Moments:
    y_mean: float
    y_sd: float
    x_mean: np.ndarray
    x_sd: np.ndarray
    z_mean: list
    z_sd: list

    @property
    def y_spread(self):
        return self.y_sd


class Design:
    def __init__(self, X, Z, offset=None):
        self.X, self.Z, self.offset = X, Z, offset
        self.n_rows = len(X)

    def block(self, start, stop):
        offset = None if self.offset is None else self.offset[start:stop]
        return self.X[start:stop], [Z[start:stop] for Z in self.Z], offset


def moments_of(X, Z, y, weight=None):
    """Return means and population sds over copies of the rows."""
    weight = np.ones(len(y)) if weight is None else weight

    def mean_sd(values):
        mean = weight @ values / weight.sum()
        return mean, np.sqrt(weight @ (values - mean) ** 2 / weight.sum())

    (y_mean, y_sd), (x_mean, x_sd) = mean_sd(y), mean_sd(X)
    z = [mean_sd(block) for block in Z]
    return Moments(y_mean, y_sd, x_mean, x_sd, [m for m, _ in z], [s for _, s in z])
