"""All groups in order of their estimates, with intervals: a caterpillar."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from hbsk.plotting import _style
from hbsk.plotting._group_display import GroupDisplay
from hbsk.plotting._group_estimates import read_group_estimates


class GroupEffectsDisplay(GroupDisplay):
    """Partially pooled estimates of all groups with their intervals, the largest at the top.

    A filled marker is a group whose interval leaves the population mean out. Make it with `from_estimator`. All
    parameters are stored as attributes.

    Parameters
    ----------
    labels : ndarray of shape (n_groups,)
        Labels of the groups.
    estimate, lower, upper : ndarray of shape (n_groups,)
        Partially pooled estimate and the ends of its interval.
    centre : ndarray of shape (n_groups,)
        What the estimates are pulled towards: the population mean, or the target.
    coverage : float, default=0.95
        Probability of the intervals.
    factor : str, default="group"
        Name of the grouping factor, for the axis.
    term : str, default="estimate"
        What is estimated, for the axis.
    centre_name : str, default="population mean"
        What the centre is, for the legend.

    Attributes
    ----------
    intervals_ : matplotlib LineCollection
        The intervals.
    apart_ : matplotlib Line2D
        Markers of the groups whose interval leaves the centre out.
    near_ : matplotlib Line2D
        Markers of the other groups.
    line_ : matplotlib Line2D
        Population mean, or target.
    order_ : ndarray of shape (n_groups,)
        Positions in `labels` of the groups from the top down.
    ax_ : matplotlib Axes
        Axes with the plot.
    figure_ : matplotlib Figure
        Figure that holds the axes.

    See Also
    --------
    RankDisplay : How sure that order is.
    ShrinkageDisplay : Beside the estimates without pooling.

    Notes
    -----
    Two groups whose intervals overlap can still differ for sure; the differences of groups and their order are what
    `RankDisplay` is about.

    Examples
    --------
    >>> from hbsk import PartialPoolingRegressor
    >>> from hbsk.datasets import load_dyestuff
    >>> from hbsk.plotting import GroupEffectsDisplay
    >>> X, y = load_dyestuff(return_X_y=True, as_frame=True)
    >>> model = PartialPoolingRegressor(group_features="Batch").fit(X, y)
    >>> display = GroupEffectsDisplay.from_estimator(model, coverage=0.8)
    >>> display.labels[display.order_].tolist()
    ['E', 'C', 'B', 'A', 'D', 'F']
    """

    def __init__(
        self,
        *,
        labels,
        estimate,
        lower,
        upper,
        centre,
        coverage=0.95,
        factor="group",
        term="estimate",
        centre_name="population mean",
    ):
        self.labels = labels
        self.estimate = estimate
        self.lower = lower
        self.upper = upper
        self.centre = centre
        self.coverage = coverage
        self.factor = factor
        self.term = term
        self.centre_name = centre_name

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
        ax: Any = None,
        marker_kwargs: dict | None = None,
        interval_kwargs: dict | None = None,
        line_kwargs: dict | None = None,
    ) -> GroupEffectsDisplay:
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
        ax : matplotlib Axes, default=None
            Axes to draw in; None makes a figure that is high enough for all labels.
        marker_kwargs, interval_kwargs, line_kwargs : dict, default=None
            Styles, see `plot`.

        Returns
        -------
        GroupEffectsDisplay
            Object that holds data and artists.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        found = read_group_estimates(estimator, term, factor, coverage, at).of(groups)
        display = cls._of(found, coverage=coverage)
        return display.plot(ax, marker_kwargs=marker_kwargs, interval_kwargs=interval_kwargs, line_kwargs=line_kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        marker_kwargs: dict | None = None,
        interval_kwargs: dict | None = None,
        line_kwargs: dict | None = None,
    ) -> GroupEffectsDisplay:
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in; None makes a figure that is high enough for all labels.
        marker_kwargs : dict, default=None
            Style of the markers (of `plot`).
        interval_kwargs : dict, default=None
            Style of the intervals (of `hlines`).
        line_kwargs : dict, default=None
            Style of the line of the population mean (of `plot`).

        Returns
        -------
        GroupEffectsDisplay
            The object itself.
        """
        from matplotlib.collections import LineCollection
        from matplotlib.lines import Line2D

        ax, n_groups = self._begin(ax), len(self.labels)
        self.order_ = order = np.argsort(-self.estimate, kind="stable")
        place = np.arange(n_groups)
        estimate, lower, upper, centre = (v[order] for v in (self.estimate, self.lower, self.upper, self.centre))
        apart = (lower > centre) | (upper < centre)
        percent = f"{100 * self.coverage:g} % interval"

        self.line_ = _style.draw_centre(ax, centre, self.centre_name, line_kwargs)
        backward, forward = _style.reach(estimate, lower, upper)
        style = _style.styled(
            {"color": _style.BLUE, "linewidth": _style.line_width(ax, n_groups), "zorder": 2},
            interval_kwargs,
            LineCollection,
        )
        self.intervals_ = ax.hlines(place, estimate - backward, estimate + forward, **style)
        default = {"marker": "o", "linestyle": "none", "color": _style.BLUE, "zorder": 3}
        default["markersize"] = _style.marker_size(ax, n_groups)
        style = _style.styled(default, marker_kwargs, Line2D)
        filled = {"label": f"{percent} excludes it" if apart.any() else None}
        (self.apart_,) = ax.plot(estimate[apart], place[apart], **{**filled, **style})
        hollow = {"markerfacecolor": "white", "label": f"{percent} includes it" if not apart.all() else None}
        (self.near_,) = ax.plot(estimate[~apart], place[~apart], **{**hollow, **style})
        _style.write(ax.set_xlabel, f"{self.term} by {self.factor}")
        self._label_groups(ax)
        return self._end(ax)
