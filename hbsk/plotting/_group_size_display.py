"""Estimates of groups against their sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from hbsk.plotting import _style
from hbsk.plotting._group_display import GroupDisplay
from hbsk.plotting._group_estimates import align, read_group_estimates


class GroupSizeDisplay(GroupDisplay):
    """Estimates of groups before and after partial pooling against the number of rows of each group.

    The extremes of the estimates without pooling are small groups; partial pooling pulls those in and leaves large
    groups where they are. Make it with `from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    labels : ndarray of shape (n_groups,)
        Labels of the groups.
    size : ndarray of shape (n_groups,)
        Number of rows of each group.
    no_pooling : ndarray of shape (n_groups,)
        Estimate from each group's own rows; NaN where they do not identify it.
    estimate : ndarray of shape (n_groups,)
        Partially pooled estimate.
    centre : ndarray of shape (n_groups,)
        What the estimates are pulled towards: the population mean, or the target.
    truth : ndarray of shape (n_groups,) or None, default=None
        True values, where they are known.
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
    no_pooling_ : matplotlib Line2D
        Markers of the estimates without pooling.
    partial_pooling_ : matplotlib Line2D
        Markers of the partially pooled estimates.
    truth_ : matplotlib Line2D or None
        Markers of the true values, if there are any.
    moves_ : matplotlib LineCollection
        Lines from the estimates without pooling to the partially pooled ones.
    line_ : matplotlib Line2D or None
        Population mean or target; None where it differs between groups.
    ax_ : matplotlib Axes
        Axes with the plot.
    figure_ : matplotlib Figure
        Figure that holds the axes.

    See Also
    --------
    ShrinkageDisplay : The same estimates, group by group.

    Examples
    --------
    >>> from hbsk import PartialPoolingRegressor
    >>> from hbsk.datasets import make_grouped_regression
    >>> from hbsk.plotting import GroupSizeDisplay
    >>> X, y, truth = make_grouped_regression(
    ...     30, 1, 0, max_per_group=100, intercept=2.0, return_parameters=True, random_state=0
    ... )
    >>> model = PartialPoolingRegressor(group_features=0).fit(X, y)
    >>> means = truth.intercept + truth.group_effects[:, 0]
    >>> display = GroupSizeDisplay.from_estimator(model, truth=means)
    >>> display.ax_.get_xlabel()
    'rows in each x0'
    """

    def __init__(
        self,
        *,
        labels,
        size,
        no_pooling,
        estimate,
        centre,
        truth=None,
        factor="group",
        term="estimate",
        centre_name="population mean",
        size_name="rows",
    ):
        self.labels = labels
        self.size = size
        self.no_pooling = no_pooling
        self.estimate = estimate
        self.centre = centre
        self.truth = truth
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
        truth: Any = None,
        ax: Any = None,
        no_pooling_kwargs: dict | None = None,
        partial_pooling_kwargs: dict | None = None,
        truth_kwargs: dict | None = None,
        line_kwargs: dict | None = None,
    ) -> GroupSizeDisplay:
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
        truth : array-like of shape (n_groups,), Series or dict, default=None
            True values, where they are known: in the order of `groups_`, or by label.
        ax : matplotlib Axes, default=None
            Axes to draw in; None makes a figure.
        no_pooling_kwargs, partial_pooling_kwargs, truth_kwargs, line_kwargs : dict, default=None
            Styles, see `plot`.

        Returns
        -------
        GroupSizeDisplay
            Object that holds data and artists.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        found = read_group_estimates(estimator, term, factor, 0.95, at)
        display = cls._of(found, truth=None if truth is None else align(truth, found.labels, "truth"))
        return display.plot(
            ax,
            no_pooling_kwargs=no_pooling_kwargs,
            partial_pooling_kwargs=partial_pooling_kwargs,
            truth_kwargs=truth_kwargs,
            line_kwargs=line_kwargs,
        )

    def plot(
        self,
        ax: Any = None,
        *,
        no_pooling_kwargs: dict | None = None,
        partial_pooling_kwargs: dict | None = None,
        truth_kwargs: dict | None = None,
        line_kwargs: dict | None = None,
    ) -> GroupSizeDisplay:
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in; None makes a figure.
        no_pooling_kwargs : dict, default=None
            Style of the markers of the estimates without pooling (of `plot`).
        partial_pooling_kwargs : dict, default=None
            Style of the markers of the partially pooled estimates (of `plot`).
        truth_kwargs : dict, default=None
            Style of the markers of the true values (of `plot`).
        line_kwargs : dict, default=None
            Style of the line of the population mean (of `plot`).

        Returns
        -------
        GroupSizeDisplay
            The object itself.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        from matplotlib.lines import Line2D

        ax = _style.new_axes(_style.WIDTH, 4.6) if ax is None else ax
        # Groups of one size stand beside each other, not behind.
        x = _style.spread_ties(self.size)
        many = len(x) > 200
        self.line_ = None
        if np.ptp(self.centre) == 0:
            style = {"color": _style.GREY, "linestyle": "--", "linewidth": 1.2, "zorder": 1}
            style["label"] = f"{_style.escaped(self.centre_name)} {_style.as_number(self.centre[0])}"
            self.line_ = ax.axhline(self.centre[0], **_style.styled(style, line_kwargs, Line2D))
        self.moves_ = ax.vlines(
            x,
            self.no_pooling,
            self.estimate,
            color=_style.VERMILLION,
            alpha=0.2 if many else 0.4,
            linewidth=1,
            zorder=2,
        )
        style = {"marker": "o", "linestyle": "none", "markersize": 3.5 if many else 6.5, "color": _style.VERMILLION}
        style |= {"markerfacecolor": "none", "label": "no pooling", "zorder": 3}
        (self.no_pooling_,) = ax.plot(x, self.no_pooling, **_style.styled(style, no_pooling_kwargs, Line2D))
        style = {"marker": "o", "linestyle": "none", "markersize": 2.5 if many else 5, "color": _style.BLUE}
        style |= {"label": "partial pooling", "zorder": 4}
        (self.partial_pooling_,) = ax.plot(x, self.estimate, **_style.styled(style, partial_pooling_kwargs, Line2D))
        self.truth_ = None
        if self.truth is not None:
            style = {"marker": "_", "linestyle": "none", "markersize": 4 if many else 9, "color": _style.BLACK}
            style |= {"markeredgewidth": 1.5, "label": "truth", "zorder": 5}
            (self.truth_,) = ax.plot(x, self.truth, **_style.styled(style, truth_kwargs, Line2D))
        _style.size_axis(ax, self.size, f"{self.size_name} in each {self.factor}")
        _style.write(ax.set_ylabel, f"{self.term} by {self.factor}")
        return self._end(ax)
