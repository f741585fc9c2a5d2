"""One grouping factor: where its labels stand, which ones fit has seen, and what varies by it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hbsk._data.labels import GroupFactor
from hbsk._data.sources import FactorSource


@dataclass(frozen=True)
class Factor:
    """A grouping factor of a model, in a tuple with the others.

    Parameters
    ----------
    name : str
        "county", "school:class", "groups".
    columns : tuple of str of length q
        Names of the columns that vary by group.
    terms : tuple of str of length q
        Term of each column, such as "floor|county".
    blocks : tuple of tuple of int
        Columns whose effects are correlated with one another.
    source : FactorSource or None
        Where the labels are found; None before rows are read.
    groups : GroupFactor or None
        The labels; None before rows are read.
    """

    name: str
    columns: tuple[str, ...] = ()
    terms: tuple[str, ...] = ()
    blocks: tuple[tuple[int, ...], ...] = ()
    source: FactorSource | None = None
    groups: GroupFactor | None = None

    @property
    def labels(self) -> np.ndarray:
        """The labels that fit has seen, in the order of the codes."""
        return self.groups.labels if self.groups is not None else np.empty(0)

    @property
    def n_groups(self) -> int:
        """Number of groups that fit has seen."""
        return len(self.labels)
