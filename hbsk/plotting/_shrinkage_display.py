"""No pooling against partial pooling, and how much of a group's own estimate is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from hbsk.plotting import _style
from hbsk.plotting._group_display import GroupDisplay
from hbsk.plotting._group_estimates import align, read_group_estimates

_SORTS = ("size", "estimate", "shrinkage", "label")


class ShrinkageDisplay(GroupDisplay):
    """Estimates of groups before and after partial pooling, and the shrinkage of each group.

    Make it with `from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    labels : ndarray of shape (n_groups,)
        Labels of the groups.
    size : ndarray of shape (n_groups,)
        Number of rows of each group.
    no_pooling : ndarray of shape (n_groups,)
        Estimate from each group's own rows; NaN where they do not identify it.
    estimate, lower, upper : ndarray of shape (n_groups,)
        Partially pooled estimate and the ends of its interval.
    shrinkage : ndarray of shape (n_groups,)
        Weight of the group's own estimate, 0 to 1.
    centre : ndarray of shape (n_groups,)
        What the estimates are pulled towards: the population mean, or the target.
    coverage : float, default=0.95
        Probability of the intervals.
    no_pooling_lower, no_pooling_upper : ndarray of shape (n_groups,) or None, default=None
        Ends of the intervals without pooling.
    factor : str, default="group"
        Name of the grouping factor, for the axis.
    term : str, default="estimate"
        What is estimated, for the axis.
    centre_name : str, default="population mean"
        What the centre is, for the legend.
    size_name : str, default="rows"
        What the sizes count: of an estimator fitted with exposure or trials these.

    Attributes
    ----------
    no_pooling_ : matplotlib Line2D or ErrorbarContainer
        Markers of the estimates without pooling. Only with `kind="estimates"`.
    partial_pooling_ : matplotlib ErrorbarContainer
        Markers and intervals of the partially pooled estimates. Only with `kind="estimates"`.
    moves_ : matplotlib LineCollection or None
        Lines from the one to the other, where the one has no intervals. Only with `kind="estimates"`.
    line_ : matplotlib Line2D
        Population mean, or target. Only with `kind="estimates"`.
    bars_, rest_ : matplotlib BarContainer
        Weights of the groups' own estimates, and what is left for the others. Only with `kind="shrinkage"`.
    order_ : ndarray of shape (n_groups,)
        Positions in `labels` of the groups from the top down.
    ax_ : matplotlib Axes
        Axes with the plot.
    figure_ : matplotlib Figure
        Figure that holds the axes.

    See Also
    --------
    GroupSizeDisplay : The same estimates against the sizes of the groups.
    GroupEffectsDisplay : The partially pooled estimates, sorted.

    Examples
    --------
    >>> from hbsk import PartialPoolingRegressor
    >>> from hbsk.datasets import load_sleepstudy
    >>> from hbsk.plotting import ShrinkageDisplay
    >>> X, y = load_sleepstudy(return_X_y=True, as_frame=True)
    >>> model = PartialPoolingRegressor(group_features="Subject", slope_features=["Days"]).fit(X, y)
    >>> display = ShrinkageDisplay.from_estimator(model, term="Days|Subject")
    >>> display.ax_.get_xlabel()
    'Days by Subject'
    """

    def __init__(
        self,
        *,
        labels,
        size,
        no_pooling,
        estimate,
        lower,
        upper,
        shrinkage,
        centre,
        coverage=0.95,
        no_pooling_lower=None,
        no_pooling_upper=None,
        factor="group",
        term="estimate",
        centre_name="population mean",
        size_name="rows",
    ):
        self.labels = labels
        self.size = size
        self.no_pooling = no_pooling
        self.estimate = estimate
        self.lower = lower
        self.upper = upper
        self.shrinkage = shrinkage
        self.centre = centre
        self.coverage = coverage
        self.no_pooling_lower = no_pooling_lower
        self.no_pooling_upper = no_pooling_upper
        self.factor = factor
        self.term = term
        self.centre_name = centre_name
        self.size_name = size_name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        term: str | None = None,
        factor: str | None = None,
        at: str | Mapping[str, Any] = "zero",
        groups: Iterable[Any] | None = None,
        coverage: float = 0.95,
        no_pooling: Any = None,
        kind: str = "estimates",
        sort: str = "size",
        ax: Any = None,
        no_pooling_kwargs: dict | None = None,
        partial_pooling_kwargs: dict | None = None,
        line_kwargs: dict | None = None,
        bar_kwargs: dict | None = None,
    ) -> ShrinkageDisplay:
        """Plot the groups of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            Fitted PartialPoolingRegressor or JamesSteinEstimator, or a pipeline or search that ends in one.
        term : str, default=None
            Varying term, such as "1|county" or "floor|county". None: the first of the factor.
        factor : str, default=None
            Grouping factor. With several of them this or `term` must be given.
        at : {"zero", "mean"} or dict of str to value, default="zero"
            Where intercepts are told: other columns at 0, at their means, or at values, as in `group_effects`.
        groups : list of labels, default=None
            Draw these groups only, such as ``rank_groups(top=20).index``. None: all.
        coverage : float, default=0.95
            Probability of the intervals.
        no_pooling : estimator, default=None
            The same model fitted with `pooling="none"`, if the intervals of its estimates are wanted as well.
        kind : {"estimates", "shrinkage"}, default="estimates"
            What to draw, see `plot`.
        sort : {"size", "estimate", "shrinkage", "label"}, default="size"
            Order of the groups, see `plot`.
        ax : matplotlib Axes, default=None
            Axes to draw in; None makes a figure that is high enough for all labels.
        no_pooling_kwargs, partial_pooling_kwargs, line_kwargs, bar_kwargs : dict, default=None
            Styles, see `plot`.

        Returns
        -------
        ShrinkageDisplay
            Object that holds data and artists.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        found = read_group_estimates(estimator, term, factor, coverage, at).of(groups)
        ends: dict[str, np.ndarray] = {}
        if no_pooling is not None:
            free = read_group_estimates(no_pooling, term, factor, coverage, at)
            for name in ("lower", "upper"):
                by_label = dict(zip(free.labels.tolist(), getattr(free, name), strict=True))
                ends[f"no_pooling_{name}"] = align(by_label, found.labels, "no_pooling")
        display = cls._of(found, coverage=coverage, **ends)
        return display.plot(
            ax,
            kind=kind,
            sort=sort,
            no_pooling_kwargs=no_pooling_kwargs,
            partial_pooling_kwargs=partial_pooling_kwargs,
            line_kwargs=line_kwargs,
            bar_kwargs=bar_kwargs,
        )

    def plot(
        self,
        ax: Any = None,
        *,
        kind: str = "estimates",
        sort: str = "size",
        no_pooling_kwargs: dict | None = None,
        partial_pooling_kwargs: dict | None = None,
        line_kwargs: dict | None = None,
        bar_kwargs: dict | None = None,
    ) -> ShrinkageDisplay:
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in; None makes a figure that is high enough for all labels.
        kind : {"estimates", "shrinkage"}, default="estimates"
            "estimates" draws what every group says for itself, the partially pooled estimates with their intervals,
            and the population mean. "shrinkage" draws the weight of each group's own estimate.
        sort : {"size", "estimate", "shrinkage", "label"}, default="size"
            Order of the groups from the top down: the largest first, or the order of the labels.
        no_pooling_kwargs : dict, default=None
            Style of the markers of the estimates without pooling (of `plot`, or of `errorbar` with their intervals).
        partial_pooling_kwargs : dict, default=None
            Style of the partially pooled estimates (of `errorbar`).
        line_kwargs : dict, default=None
            Style of the line of the population mean (of `plot`).
        bar_kwargs : dict, default=None
            Style of the bars of `kind="shrinkage"` (of `barh`).

        Returns
        -------
        ShrinkageDisplay
            The object itself.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        if kind not in ("estimates", "shrinkage"):
            raise ValueError(f'kind must be "estimates" or "shrinkage", got {kind!r}.')
        self.order_ = self._order(sort)
        ax = _style.axes_for_groups(ax, len(self.labels))
        if kind == "estimates":
            self._plot_estimates(ax, no_pooling_kwargs, partial_pooling_kwargs, line_kwargs)
        else:
            self._plot_shrinkage(ax, bar_kwargs)
        labels, name = _style.shorten(self.labels[self.order_].tolist()), self.factor
        if np.ptp(self.size) > 0:
            labels = [f"{label} ({size:g})" for label, size in zip(labels, self.size[self.order_], strict=True)]
            name = f"{name} ({self.size_name})"
        _style.label_groups(ax, labels, name)
        return self._end(ax)

    def _order(self, sort: str) -> np.ndarray:
        if sort not in _SORTS:
            raise ValueError(f"sort must be one of {', '.join(map(repr, _SORTS))}, got {sort!r}.")
        if sort == "label":
            return np.arange(len(self.labels))
        return np.argsort(-np.asarray(getattr(self, sort), dtype=np.float64), kind="stable")

    def _plot_estimates(self, ax: Any, no_pooling_kwargs: Any, partial_pooling_kwargs: Any, line_kwargs: Any) -> None:
        from matplotlib.lines import Line2D

        order, place = self.order_, np.arange(float(len(self.order_)))
        size, width = _style.marker_size(ax, len(order)), _style.line_width(ax, len(order))
        percent = f"{100 * self.coverage:g} % interval"
        own, pooled, centre = self.no_pooling[order], self.estimate[order], self.centre[order]
        self.line_ = _style.draw_centre(ax, centre, self.centre_name, line_kwargs)
        self.moves_ = None
        # Rings, drawn last: where both estimates agree, the ring stands around the dot.
        ring = {"markersize": size + 1.5, "markerfacecolor": "none", "color": _style.VERMILLION, "zorder": 5}
        if self.no_pooling_lower is None:
            ring |= {"marker": "o", "linestyle": "none", "label": "no pooling"}
            style = _style.styled(ring, no_pooling_kwargs, Line2D)
            self.moves_ = ax.hlines(place, own, pooled, color=_style.VERMILLION, alpha=0.45, linewidth=1, zorder=2)
            (self.no_pooling_,) = ax.plot(own, place, **style)
        else:
            # Beside the partially pooled interval, which would cover it.
            place = place - 0.2
            ring |= {"fmt": "o", "markersize": size, "elinewidth": width, "label": f"no pooling, {percent}"}
            style = _style.styled(ring, no_pooling_kwargs, Line2D)
            ends = self.no_pooling_lower[order], self.no_pooling_upper[order]
            self.no_pooling_ = ax.errorbar(own, place, xerr=_style.reach(own, *ends), **style)
            place = place + 0.4
        default = {"fmt": "o", "markersize": size, "color": _style.BLUE, "elinewidth": width, "zorder": 4}
        default["label"] = f"partial pooling, {percent}"
        style = _style.styled(default, partial_pooling_kwargs, Line2D)
        self.partial_pooling_ = ax.errorbar(
            pooled, place, xerr=_style.reach(pooled, self.lower[order], self.upper[order]), **style
        )
        _style.write(ax.set_xlabel, f"{self.term} by {self.factor}")

    def _plot_shrinkage(self, ax: Any, bar_kwargs: Any) -> None:
        from matplotlib.patches import Rectangle

        weight, place = self.shrinkage[self.order_], np.arange(len(self.order_))
        default = {"color": _style.BLUE, "height": 0.72, "label": "own estimate"}
        self.bars_ = ax.barh(place, weight, **_style.styled(default, bar_kwargs, Rectangle))
        rest = {"color": _style.LIGHT_GREY, "height": 0.72, "label": "other groups"}
        self.rest_ = ax.barh(place, 1.0 - weight, left=weight, **rest)
        ax.set_xlim(min(0.0, float(weight.min())), 1.0)
        _style.write(ax.set_xlabel, f"weight in the {self.term} of each {self.factor}")
