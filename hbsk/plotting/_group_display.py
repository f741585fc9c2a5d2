"""What the displays of groups have in common: making one of what was read, and the ends of a plot."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any, Self

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from hbsk.plotting import _style
from hbsk.plotting._group_estimates import GroupEstimates


class GroupDisplay:
    """Base of the displays of groups."""

    labels: np.ndarray
    order_: np.ndarray
    factor: str
    term: str
    ax_: Any
    figure_: Any

    @classmethod
    def _of(cls, found: GroupEstimates, **more: Any) -> Self:
        """Make a display that takes from the estimates what its parameters name."""
        wanted = inspect.signature(cls).parameters.keys() - more.keys()
        return cls(**{each.name: getattr(found, each.name) for each in fields(found) if each.name in wanted}, **more)

    def _begin(self, ax: Any) -> Any:
        """Return the axes to draw in, high enough for all labels."""
        check_matplotlib_support(f"{type(self).__name__}.plot")
        return _style.axes_for_groups(ax, len(self.labels))

    def _label_groups(self, ax: Any) -> None:
        """Name the groups from the top down."""
        _style.label_groups(ax, _style.shorten(self.labels[self.order_].tolist()), self.factor)

    def _end(self, ax: Any, legend_columns: int | None = None) -> Self:
        """Write the legend and keep the axes."""
        _style.legend_above(ax, legend_columns)
        self.ax_, self.figure_ = ax, ax.figure
        return self
