"""The forest plot of a meta-analysis: studies, their shrunken means, the pooled mean, and what a new study may show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri
from sklearn.utils._optional_dependencies import check_matplotlib_support

from hbsk._base import learnt_by
from hbsk._data.sources import GROUPS
from hbsk._messages import quoted, shown
from hbsk._posterior.heterogeneity import posterior_weights, sampling_variances
from hbsk._shrinkage.averaged_variance import t_quantile
from hbsk.meta_analysis import Heterogeneity
from hbsk.plotting import _style
from hbsk.plotting._group_display import GroupDisplay
from hbsk.plotting._group_estimates import fitted_step, read_group_estimates

_ORDERS = ("label", "estimate", "weight")
# Points between columns of numbers, and of a character as a share of the size of the font.
_GAP, _CHARACTER = 11.0, 0.58
_WIDTH = 8.5
_MOST_DECIMALS = 5


class ForestDisplay(GroupDisplay):
    """Forest plot: every group with its own interval and its shrunken mean, the pooled mean, and a new group.

    Squares are the groups' own estimates, the larger the more they weigh in the pooled mean; dots are the shrunken
    means. The diamond is the interval of the pooled mean, the bar below it that of the true mean of a new group. Make
    it with `from_estimator`. All parameters are stored as attributes, on the scale of y.

    Parameters
    ----------
    labels : ndarray of shape (n_groups,)
        Labels of the groups.
    no_pooling, no_pooling_lower, no_pooling_upper : ndarray of shape (n_groups,)
        Each group's own estimate and the ends of its interval.
    estimate, lower, upper : ndarray of shape (n_groups,)
        Shrunken means and the ends of their intervals.
    centre : ndarray of shape (n_groups,)
        What they are pulled towards.
    weight : ndarray of shape (n_groups,), default=None
        Weight of each group in the pooled mean; they sum to 1. None where there is no pooled mean.
    pooled, prediction : ndarray of shape (3,), default=None
        Pooled mean and the ends of its interval; the same of the true mean of a new group. None: not drawn.
    coverage : float, default=0.95
        Probability of the intervals.
    factor : str, default="group"
        Name of the grouping factor, for the axis.
    term : str, default="mean"
        What is estimated, for the axis.
    centre_name : str, default="target"
        What the centre is, for the legend.

    Attributes
    ----------
    order_ : ndarray of shape (n_groups,)
        Positions in `labels` of the groups from the top down.
    squares_ : matplotlib PathCollection
        The groups' own estimates.
    intervals_ : matplotlib LineCollection
        Their intervals.
    shrunken_ : matplotlib ErrorbarContainer or None
        The shrunken means.
    diamond_ : matplotlib Polygon or None
        The pooled mean.
    bar_ : matplotlib Line2D or None
        The interval of a new group.
    null_ : matplotlib Line2D or None
        The line of no effect.
    line_ : matplotlib Line2D or None
        The line of the pooled mean; of a regression a mark beside each group.
    texts_ : list of matplotlib Text
        Weights and numbers at the right.
    ax_ : matplotlib Axes
        Axes with the plot.
    figure_ : matplotlib Figure
        Figure that holds the axes.

    See Also
    --------
    hbsk.JamesSteinEstimator.heterogeneity : The numbers.
    ShrinkageDisplay : Groups before and after pooling, of any model.

    Examples
    --------
    >>> import numpy as np
    >>> from hbsk import JamesSteinEstimator
    >>> from hbsk.datasets import load_bcg
    >>> from hbsk.plotting import ForestDisplay
    >>> trials = load_bcg(as_frame=True)
    >>> meta = JamesSteinEstimator(group_features="trial", method="empirical-bayes")
    >>> meta = meta.fit(trials.data[["trial"]], trials.target, standard_error=trials.standard_error)
    >>> display = ForestDisplay.from_estimator(meta, transform=np.exp, order="weight")
    >>> np.exp(display.pooled).round(2)
    array([0.49, 0.34, 0.7 ])
    """

    def __init__(
        self,
        *,
        labels,
        no_pooling,
        no_pooling_lower,
        no_pooling_upper,
        estimate,
        lower,
        upper,
        centre,
        weight=None,
        pooled=None,
        prediction=None,
        coverage=0.95,
        factor="group",
        term="mean",
        centre_name="target",
    ):
        self.labels = labels
        self.no_pooling = no_pooling
        self.no_pooling_lower = no_pooling_lower
        self.no_pooling_upper = no_pooling_upper
        self.estimate = estimate
        self.lower = lower
        self.upper = upper
        self.centre = centre
        self.weight = weight
        self.pooled = pooled
        self.prediction = prediction
        self.coverage = coverage
        self.factor = factor
        self.term = term
        self.centre_name = centre_name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        transform: Callable[[Any], Any] | None = None,
        order: str | Sequence[Any] | None = None,
        null: float | None = 0.0,
        weights: bool = True,
        shrunken: bool = True,
        coverage: float = 0.95,
        ax: Any = None,
        square_kwargs: dict | None = None,
        shrunken_kwargs: dict | None = None,
        pooled_kwargs: dict | None = None,
    ) -> ForestDisplay:
        """Plot the meta-analysis of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            Fitted JamesSteinEstimator, or PartialPoolingRegressor of known standard errors and groups alone, or a
            pipeline or search that ends in one.
        transform : callable, default=None
            Monotone function from the scale of y to that of the axis and the numbers, such as `numpy.exp` for log
            ratios, whose axis is then logarithmic.
        order : {"label", "estimate", "weight"} or sequence of labels, default=None
            Order of the groups from the top down: of their labels (the default), the smallest estimate or the largest
            weight first, or as given.
        null : float, default=0.0
            Where the line of no effect stands, on the scale of y. None draws none.
        weights : bool, default=True
            Whether to write weights at the right, before the numbers.
        shrunken : bool, default=True
            Whether to draw the shrunken means.
        coverage : float, default=0.95
            Probability of the intervals.
        ax : matplotlib Axes, default=None
            Axes to draw in; None makes a figure that is high enough for all labels.
        square_kwargs, shrunken_kwargs, pooled_kwargs : dict, default=None
            Styles, see `plot`.

        Returns
        -------
        ForestDisplay
            Object that holds data and artists.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        estimator = fitted_step(estimator)
        found = read_group_estimates(estimator, None, None, coverage)
        if not hasattr(estimator, "heterogeneity"):
            raise TypeError(
                f"{type(estimator).__name__} has no method heterogeneity, which a forest plot shows. Pass a fitted "
                "JamesSteinEstimator or PartialPoolingRegressor, or a pipeline or search that ends in one."
            )
        analysis = estimator.heterogeneity(coverage)
        of_means = hasattr(estimator, "theta_")
        if not of_means and len(analysis.coefficients) > 1:
            raise ValueError(
                "A forest plot shows what each group reports, and this model has other columns beside the groups: "
                f"{quoted(analysis.coefficients.index[1:])}. Leave them out, or use "
                "JamesSteinEstimator(target='regression')."
            )
        reach, weight = (_of_means if of_means else _of_posterior)(estimator, analysis)
        pooled = np.array([analysis.estimate, *analysis.interval])
        is_pooled = weight is not None and analysis.prediction_interval is not None
        display = cls._of(
            found,
            no_pooling_lower=found.no_pooling - reach,
            no_pooling_upper=found.no_pooling + reach,
            weight=weight,
            pooled=pooled if is_pooled else None,
            prediction=np.append(analysis.estimate, analysis.prediction_interval) if is_pooled else None,
            coverage=coverage,
            term="mean",
        )
        return display.plot(
            ax,
            transform=transform,
            order=order,
            null=null,
            weights=weights,
            shrunken=shrunken,
            square_kwargs=square_kwargs,
            shrunken_kwargs=shrunken_kwargs,
            pooled_kwargs=pooled_kwargs,
        )

    def plot(
        self,
        ax: Any = None,
        *,
        transform: Callable[[Any], Any] | None = None,
        order: str | Sequence[Any] | None = None,
        null: float | None = 0.0,
        weights: bool = True,
        shrunken: bool = True,
        square_kwargs: dict | None = None,
        shrunken_kwargs: dict | None = None,
        pooled_kwargs: dict | None = None,
    ) -> ForestDisplay:
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in; None makes a figure that is high enough for all labels.
        transform, order, null, weights, shrunken
            As in `from_estimator`.
        square_kwargs : dict, default=None
            Style of the groups' own estimates (of `scatter`).
        shrunken_kwargs : dict, default=None
            Style of the shrunken means (of `errorbar`).
        pooled_kwargs : dict, default=None
            Style of the diamond (of `Polygon`).

        Returns
        -------
        ForestDisplay
            The object itself.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        self.order_ = self._order(order)
        rows = {"pooled mean": self.pooled, f"new {'group' if self.factor == GROUPS else self.factor}": self.prediction}
        summaries = [name for name, part in rows.items() if part is not None]
        ax = _style.axes_for_groups(ax, len(self.labels) + len(summaries), _WIDTH)
        name = getattr(transform, "__name__", "transform")
        shown_as = (lambda value: np.asarray(value, dtype=np.float64)) if transform is None else transform
        self._plot_groups(ax, shown_as, square_kwargs, shrunken_kwargs, shrunken=shrunken)
        self._plot_summaries(ax, shown_as, pooled_kwargs)
        self.null_ = None
        if null is not None:
            self.null_ = ax.axvline(float(shown_as(null)), color=_style.GREY, linewidth=1, linestyle=":", zorder=0)
        self._set_limits(ax, shown_as, null, is_log=transform is np.exp, shrunken=shrunken)
        labels = [*_style.shorten(self.labels[self.order_].tolist()), *summaries]
        _style.label_groups(ax, labels, self.factor)
        self._name_summaries(ax, labels)
        what = f"{self.term} by {self.factor}"
        _style.write(ax.set_xlabel, what if transform is None else f"{name} of the {what}")
        self.texts_ = self._write_numbers(ax, shown_as, weights=weights and self.weight is not None)
        return self._end(ax, legend_columns=1)  # numbers have a head at the right

    def _order(self, order: Any) -> np.ndarray:
        """Return the positions of the groups from the top down."""
        if order is None or (isinstance(order, str) and order == "label"):
            return np.arange(len(self.labels))
        if isinstance(order, str):
            if order not in _ORDERS:
                raise ValueError(f"order must be one of {quoted(_ORDERS)}, or the labels in order; got {shown(order)}.")
            if order == "weight" and self.weight is None:
                raise ValueError("order='weight' needs weights in a pooled mean, and there is none here.")
            key = self.no_pooling if order == "estimate" else -self.weight
            return np.argsort(key, kind="stable")
        place = {label: position for position, label in enumerate(self.labels.tolist())}
        wanted = list(order)  # of labels that may be tuples
        if len(wanted) != len(place) or set(wanted) != set(place):
            odd = [label for label in wanted if label not in place] or [label for label in place if label not in wanted]
            raise ValueError(
                f"order must hold each of the {len(place)} labels once; it holds {len(wanted)}, and they differ in "
                f"{quoted(map(str, odd[:5]))}."
            )
        return np.array([place[label] for label in wanted])

    def _plot_groups(self, ax: Any, shown_as: Any, square_kwargs: Any, shrunken_kwargs: Any, *, shrunken: bool) -> None:
        from matplotlib.collections import PathCollection
        from matplotlib.lines import Line2D

        order, place = self.order_, np.arange(float(len(self.order_)))
        size, width = _style.marker_size(ax, len(order)), _style.line_width(ax, len(order))
        percent = f"{100 * self.coverage:g} % interval"
        up = 0.14 if shrunken else 0.0
        low, high = _in_order(shown_as(self.no_pooling_lower[order]), shown_as(self.no_pooling_upper[order]))
        self.intervals_ = ax.hlines(place - up, low, high, color=_style.VERMILLION, linewidth=width, zorder=2)
        areas = np.full(len(order), 1.0)
        if self.weight is not None:
            areas = np.clip(self.weight[order] / self.weight.max(), 0.05, 1.0)
        squares = {"marker": "s", "color": _style.VERMILLION, "linewidths": 0.0, "zorder": 3}
        squares |= {"s": (1.35 * size) ** 2 * areas, "label": f"own estimate, {percent}"}
        style = _style.styled(squares, square_kwargs, PathCollection)
        self.squares_ = ax.scatter(shown_as(self.no_pooling[order]), place - up, **style)
        self.shrunken_ = None
        if shrunken:
            dots = {"fmt": "o", "color": _style.BLUE, "markersize": 0.7 * size, "elinewidth": 0.8 * width, "zorder": 4}
            dots["label"] = f"shrunken, {percent}"
            middle = shown_as(self.estimate[order])
            ends = _in_order(shown_as(self.lower[order]), shown_as(self.upper[order]))
            style = _style.styled(dots, shrunken_kwargs, Line2D)
            self.shrunken_ = ax.errorbar(middle, place + 0.22, xerr=_style.reach(middle, *ends), **style)
        self.line_ = None
        if self.pooled is None:
            self.line_ = _style.draw_centre(ax, shown_as(self.centre[order]), self.centre_name, None)

    def _plot_summaries(self, ax: Any, shown_as: Any, pooled_kwargs: Any) -> None:
        """Draw the diamond of the pooled mean and the bar of a new group, below the groups."""
        from matplotlib.patches import Polygon

        self.diamond_ = self.bar_ = None
        place = float(len(self.labels))
        if self.pooled is not None:
            middle, *ends = np.asarray(shown_as(self.pooled), dtype=np.float64)
            low, high = _in_order(*ends)
            corners = np.array([[low, place], [middle, place - 0.32], [high, place], [middle, place + 0.32]])
            style = _style.styled({"color": _style.BLACK, "linewidth": 0.5, "zorder": 3}, pooled_kwargs, Polygon)
            self.diamond_ = ax.add_patch(Polygon(corners, closed=True, **style))
            line = {"color": _style.GREY, "linewidth": 1, "linestyle": "--", "zorder": 1}
            self.line_ = ax.axvline(middle, **line)
            place += 1.0
        if self.prediction is not None:
            low, high = _in_order(*np.asarray(shown_as(self.prediction), dtype=np.float64)[1:])
            bar = {"color": _style.BLACK, "linewidth": 2.5, "solid_capstyle": "butt", "zorder": 3}
            (self.bar_,) = ax.plot([low, high], [place, place], **bar)
        if self.pooled is not None or self.prediction is not None:
            ax.axhline(len(self.labels) - 0.5, color=_style.LIGHT_GREY, linewidth=0.8, zorder=0)

    def _set_limits(self, ax: Any, shown_as: Any, null: float | None, *, is_log: bool, shrunken: bool) -> None:
        """Make room for all that is drawn, on a logarithmic axis where ratios are shown."""
        parts = [self.no_pooling, self.no_pooling_lower, self.no_pooling_upper]
        parts += [self.estimate, self.lower, self.upper] if shrunken else []
        parts += [part for part in (self.pooled, self.prediction) if part is not None]
        values = np.concatenate([np.ravel(part) for part in parts] + ([] if null is None else [np.ravel(null)]))
        with np.errstate(over="ignore"):
            values = values[np.isfinite(values) & np.isfinite(shown_as(values))]
        if is_log:
            margin = 0.04 * max(np.ptp(values), 0.1)
            low, high = np.exp([values.min(), values.max()])
            _style.log_axis(ax, float(low), float(high), float(np.exp(margin)))
        else:
            values = shown_as(values)
            margin = 0.04 * (np.ptp(values) or max(abs(values[0]), 1.0))
            ax.set_xlim(values.min() - margin, values.max() + margin)

    def _name_summaries(self, ax: Any, labels: list[str]) -> None:
        """Name the rows below the groups even where not every group can be named."""
        n_groups = len(self.labels)
        ticks = [int(tick) for tick in ax.get_yticks() if tick < n_groups]
        font = ax.get_yticklabels()[0].get_fontsize()
        places = [*ticks, *range(n_groups, len(labels))]
        ax.set_yticks(places, [labels[i] for i in places], fontsize=font, **_style.literal(*labels))

    def _write_numbers(self, ax: Any, shown_as: Any, *, weights: bool) -> list[Any]:
        """Write weights, and estimates with their intervals, at the right of the rows that are named at the left."""
        order = self.order_
        own = np.stack([self.no_pooling, self.no_pooling_lower, self.no_pooling_upper], axis=1)[order]
        rows = [own, *(np.asarray(part)[None] for part in (self.pooled, self.prediction) if part is not None)]
        values = np.asarray(shown_as(np.concatenate(rows)), dtype=np.float64)
        places = [int(place) for place in ax.get_yticks()]
        numbers = _as_intervals(values[places])
        if self.prediction is not None:  # the middle of a new group is that of the pooled mean
            numbers[-1] = numbers[-1][numbers[-1].index("[") :]
        columns = [(f"own [{100 * self.coverage:g} %]", numbers)]
        if weights:
            share = [f"{100 * self.weight[order[place]]:.1f} %" if place < len(order) else "" for place in places]
            columns.insert(0, ("weight", share))
        font, right, texts = ax.get_yticklabels()[0].get_fontsize(), 0.0, []
        style = {"textcoords": "offset points", "ha": "right", "usetex": False, "annotation_clip": False}
        for head, column in columns:
            right += _GAP + _CHARACTER * font * max(map(len, [head, *column]))
            cells = zip([-0.95, *places], [head, *column], strict=True)
            texts += [
                ax.annotate(
                    text, (1.0, place), (right, 0), ax.get_yaxis_transform(), va="center", fontsize=font, **style
                )
                for place, text in cells
                if text
            ]
        return texts


def _in_order(low: Any, high: Any) -> tuple[Any, Any]:
    """Return the ends of an interval, which a falling transform has turned round."""
    return np.minimum(low, high), np.maximum(low, high)


def _as_intervals(values: np.ndarray) -> list[str]:
    """Return estimates and their intervals, of shape (n, 3), as text with as many decimals as tell the widths."""
    low, high = _in_order(values[:, 1], values[:, 2])
    widths = (high - low)[np.isfinite(high - low) & (high > low)]
    size = int(np.floor(np.log10(np.median(widths)))) if len(widths) else 0
    decimals = 2 if -1 <= size <= 1 else max(1 - size, 0)
    rows = np.column_stack([values[:, 0], low, high])
    form = f",.{decimals}f"
    if decimals > _MOST_DECIMALS:
        form = ".3g"
    else:
        rows = np.round(rows, decimals) + 0.0  # no -0
    texts = [[f"{value:{form}}".replace("-", "\N{MINUS SIGN}") for value in row] for row in rows]
    return [f"{middle} [{lower}, {upper}]" for middle, lower, upper in texts]


def _of_means(estimator: Any, analysis: Heterogeneity) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the reach of the own intervals, and the weights in the pooled mean, of a JamesSteinEstimator."""
    nu = np.array([learnt_by(estimator).means.nu])
    errors = estimator.group_standard_errors_
    reach = t_quantile(0.5 + analysis.coverage / 2, nu) * errors
    if not analysis.se > 0:  # the mean was given
        return reach, None
    weight = 1.0 / (errors**2 + analysis.tau2)
    return reach, weight / weight.sum()


def _of_posterior(estimator: Any, analysis: Heterogeneity) -> tuple[np.ndarray, np.ndarray]:
    """Return the same of a PartialPoolingRegressor, weights averaged over its posterior."""
    fitted = learnt_by(estimator).fitted
    variances = sampling_variances(fitted)
    return ndtri(0.5 + analysis.coverage / 2) * np.sqrt(variances), posterior_weights(fitted)
