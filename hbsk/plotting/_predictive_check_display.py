"""A posterior predictive check as a figure."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from hbsk.plotting import _style
from hbsk.predictive_checks import PredictiveCheck, posterior_predictive_check

_MOST_PANELS = 9
_EXTREME = 0.01


class PredictiveCheckDisplay:
    """Statistics of replicated data sets, and where those of the data lie among them.

    Make it with `from_estimator`, or with `from_check` where the check is there already. All parameters are stored as
    attributes.

    Parameters
    ----------
    names : list of str
        Names of the statistics.
    observed : ndarray of shape (n_statistics,)
        Statistics of the data.
    replicated : ndarray of shape (n_samples, n_statistics)
        Statistics of the replicated data sets.
    p_value : ndarray of shape (n_statistics,)
        Bayesian p-values.
    new_groups : bool, default=False
        Whether the replicated data sets have groups of their own.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        One for each statistic with `kind="histogram"`, else one.
    histograms_ : list of matplotlib BarContainer
        Statistics of the replicated data sets. Only with `kind="histogram"`.
    lines_ : list of matplotlib Line2D
        Statistics of the data. Only with `kind="histogram"`.
    intervals_ : matplotlib LineCollection
        Central 98 % intervals of the replicates. Only with `kind="interval"`.
    observed_, extreme_ : matplotlib Line2D
        Statistics of the data, those with a p-value between 0.01 and 0.99 and the others. Only with `kind="interval"`.
    ax_ : matplotlib Axes
        First of the axes.
    figure_ : matplotlib Figure
        Figure that holds the axes.

    See Also
    --------
    hbsk.predictive_checks.posterior_predictive_check : The numbers.

    Examples
    --------
    >>> from hbsk import PartialPoolingRegressor
    >>> from hbsk.datasets import load_sleepstudy
    >>> from hbsk.plotting import PredictiveCheckDisplay
    >>> X, y = load_sleepstudy(return_X_y=True, as_frame=True)
    >>> model = PartialPoolingRegressor(group_features="Subject", slope_features=["Days"]).fit(X, y)
    >>> display = PredictiveCheckDisplay.from_estimator(model, X, y, n_samples=200, random_state=0)
    >>> display.names
    ['mean', 'std', 'min', 'max']
    """

    def __init__(self, *, names, observed, replicated, p_value, new_groups=False):
        self.names = names
        self.observed = observed
        self.replicated = replicated
        self.p_value = p_value
        self.new_groups = new_groups

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        groups: Any = None,
        *,
        standard_error: Any = None,
        exposure: Any = None,
        trials: Any = None,
        statistics: Any = None,
        n_samples: int = 1000,
        random_state: Any = None,
        new_groups: bool = False,
        kind: str = "auto",
        ax: Any = None,
        replicated_kwargs: dict | None = None,
        observed_kwargs: dict | None = None,
    ) -> PredictiveCheckDisplay:
        """Check a fitted estimator and plot the check.

        Parameters
        ----------
        estimator : estimator
            Fitted estimator with a method `sample_y`, such as PartialPoolingRegressor, or a pipeline or search that
            ends in one.
        X : array-like or dataframe of shape (n_samples, n_features)
            The rows that the estimator was fitted to.
        y : array-like of shape (n_samples,)
            Their responses.
        groups : array-like of shape (n_samples,), default=None
            Group labels, where `fit` had them by `groups=`.
        standard_error : array-like of shape (n_samples,) or float, default=None
            Known sampling sd of each y, where `fit` had them.
        exposure, trials : array-like of shape (n_samples,) or float, default=None
            Of each y, where `fit` of a PartialPoolingCountRegressor had them.
        statistics : str, callable, sequence or dict of these, default=None
            What to compare, see `posterior_predictive_check`.
        n_samples : int, default=1000
            Number of replicated data sets.
        random_state : int, RandomState instance, Generator or None, default=None
            Randomness of the replicates; None takes the estimator's.
        new_groups : bool, default=False
            Whether every replicated data set has new groups, see `posterior_predictive_check`.
        kind : {"auto", "histogram", "interval"}, default="auto"
            What to draw, see `plot`.
        ax : matplotlib Axes or array-like of these, default=None
            Axes to draw in, see `plot`.
        replicated_kwargs, observed_kwargs : dict, default=None
            Styles, see `plot`.

        Returns
        -------
        PredictiveCheckDisplay
            Object that holds data and artists.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check = posterior_predictive_check(
            estimator,
            X,
            y,
            groups,
            standard_error=standard_error,
            exposure=exposure,
            trials=trials,
            statistics=statistics,
            n_samples=n_samples,
            random_state=random_state,
            new_groups=new_groups,
        )
        return cls.from_check(
            check, kind=kind, ax=ax, replicated_kwargs=replicated_kwargs, observed_kwargs=observed_kwargs
        )

    @classmethod
    def from_check(
        cls,
        check: PredictiveCheck,
        *,
        kind: str = "auto",
        ax: Any = None,
        replicated_kwargs: dict | None = None,
        observed_kwargs: dict | None = None,
    ) -> PredictiveCheckDisplay:
        """Plot a check that was made before.

        Parameters
        ----------
        check : PredictiveCheck
            What `posterior_predictive_check` returned.
        kind : {"auto", "histogram", "interval"}, default="auto"
            What to draw, see `plot`.
        ax : matplotlib Axes or array-like of these, default=None
            Axes to draw in, see `plot`.
        replicated_kwargs, observed_kwargs : dict, default=None
            Styles, see `plot`.

        Returns
        -------
        PredictiveCheckDisplay
            Object that holds data and artists.
        """
        check_matplotlib_support(f"{cls.__name__}.from_check")
        display = cls(
            names=check.observed.index.tolist(),
            observed=check.observed.to_numpy(),
            replicated=check.replicated.to_numpy(),
            p_value=check.p_value.to_numpy(),
            new_groups=check.new_groups,
        )
        return display.plot(ax, kind=kind, replicated_kwargs=replicated_kwargs, observed_kwargs=observed_kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        kind: str = "auto",
        replicated_kwargs: dict | None = None,
        observed_kwargs: dict | None = None,
    ) -> PredictiveCheckDisplay:
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of these, default=None
            Axes to draw in; None makes a figure. Histograms of several statistics split one Axes between them, or take
            as many as there are statistics.
        kind : {"auto", "histogram", "interval"}, default="auto"
            "histogram" draws one of the replicates for each statistic. "interval" draws one line for each, for many
            statistics in the same units, such as those of `per_group`. "auto" takes histograms up to nine.
        replicated_kwargs : dict, default=None
            Style of the replicates (of `hist` or of `hlines`).
        observed_kwargs : dict, default=None
            Style of the data (of `plot`).

        Returns
        -------
        PredictiveCheckDisplay
            The object itself.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        if kind not in ("auto", "histogram", "interval"):
            raise ValueError(f'kind must be "auto", "histogram" or "interval", got {kind!r}.')
        if kind == "auto":
            kind = "histogram" if len(self.names) <= _MOST_PANELS else "interval"
        if kind == "histogram":
            self.axes_ = _panels(ax, len(self.names))
            drawn = [
                self._plot_histogram(axes, i, replicated_kwargs, observed_kwargs) for i, axes in enumerate(self.axes_)
            ]
            self.histograms_, self.lines_ = map(list, zip(*drawn, strict=True))
            self._draw_legend(ours=ax is None)
        else:
            self.axes_ = np.array([_style.axes_for_groups(ax, len(self.names))])
            self._plot_intervals(self.axes_[0], replicated_kwargs, observed_kwargs)
        self.ax_, self.figure_ = self.axes_[0], self.axes_[0].figure
        return self

    def _plot_histogram(self, ax: Any, i: int, replicated_kwargs: Any, observed_kwargs: Any) -> tuple[Any, Any]:
        from matplotlib.lines import Line2D
        from matplotlib.patches import Rectangle

        values = self.replicated[:, i][np.isfinite(self.replicated[:, i])]
        style = {"bins": _bins(values), "color": _style.SKY_BLUE, "edgecolor": "white", "linewidth": 0.4}
        histogram = ax.hist(values, **_style.styled(style, replicated_kwargs, Rectangle))[2]
        style = {"color": _style.VERMILLION, "linewidth": 2.2}
        line = ax.axvline(self.observed[i], **_style.styled(style, observed_kwargs, Line2D))
        ax.set_yticks([])
        ax.spines[["left", "right", "top"]].set_visible(False)
        ax.set_title(f"{_style.escaped(self.names[i])}: $p_B$ = {self.p_value[i]:.3f}", fontsize=10, usetex=False)
        ax.xaxis.get_major_locator().set_params(nbins=5)
        return histogram, line

    def _draw_legend(self, *, ours: bool) -> None:
        """Explain the colours: above all panels of a figure of our own, in the first panel of somebody else's."""
        handles = [self.histograms_[0][0], self.lines_[0]]
        names = ["replicates, new groups" if self.new_groups else "replicates", "data"]
        first = self.axes_[0]
        if ours:
            first.figure.legend(handles, names, fontsize=9, frameon=False, loc="outside upper left", ncols=2)
            return
        first.set_ylim(0, 1.45 * first.get_ylim()[1])
        first.legend(handles, names, fontsize=8, frameon=False, loc="best")

    def _plot_intervals(self, ax: Any, replicated_kwargs: Any, observed_kwargs: Any) -> None:
        from matplotlib.collections import LineCollection
        from matplotlib.lines import Line2D

        n_statistics = len(self.names)
        place = np.arange(n_statistics)
        low, high = np.nanquantile(self.replicated, [_EXTREME, 1 - _EXTREME], axis=0)
        style = {"color": _style.SKY_BLUE, "linewidth": _style.line_width(ax, n_statistics, 3.0), "zorder": 1}
        replicates = "replicates, new groups" if self.new_groups else "replicates"
        style["label"] = f"98 % of the {replicates}"
        self.intervals_ = ax.hlines(place, low, high, **_style.styled(style, replicated_kwargs, LineCollection))
        extreme = (self.p_value < _EXTREME) | (self.p_value > 1 - _EXTREME)
        style = {"marker": "o", "linestyle": "none", "markersize": _style.marker_size(ax, n_statistics), "zorder": 3}
        style |= {"color": _style.BLACK, "label": "data"}
        style = _style.styled(style, observed_kwargs, Line2D)
        (self.observed_,) = ax.plot(self.observed[~extreme], place[~extreme], **style)
        name = "data, $p_B$ < 0.01 or > 0.99" if extreme.any() else None
        style |= {"color": _style.VERMILLION, "marker": "D", "label": name}
        (self.extreme_,) = ax.plot(self.observed[extreme], place[extreme], **style)
        shared, labels = _shared_name(self.names)
        _style.label_groups(ax, _style.shorten(labels))
        _style.write(ax.set_xlabel, shared)
        _style.legend_above(ax)


def _panels(ax: Any, n_panels: int) -> np.ndarray:
    """Return one Axes for each panel: new ones, parts of the given one, or the given ones."""
    from matplotlib.axes import Axes

    n_columns = n_panels if n_panels <= 2 else (2 if n_panels <= 4 else 3)
    n_rows = -(-n_panels // n_columns)
    if ax is None:
        import matplotlib.pyplot as plt

        figure: Any = plt.figure(figsize=(3.6 * n_columns, 2.3 * n_rows), layout="constrained")
        grid: Any = figure.add_gridspec(n_rows, n_columns)
    elif isinstance(ax, Axes):
        if n_panels == 1:
            return np.array([ax])
        place = ax.get_subplotspec()
        if place is None:
            raise ValueError(
                f"ax is no subplot, so it cannot be divided among {n_panels} statistics; pass {n_panels} Axes, or "
                "one of plt.subplots."
            )
        figure, grid = ax.figure, place.subgridspec(n_rows, n_columns)
        ax.set_axis_off()
    else:
        axes = np.asarray(ax, dtype=object).ravel()
        if len(axes) != n_panels:
            raise ValueError(f"ax has {len(axes)} Axes for {n_panels} statistics; pass one, or as many as statistics.")
        return axes
    return np.array([figure.add_subplot(grid[i // n_columns, i % n_columns]) for i in range(n_panels)])


def _bins(values: np.ndarray) -> int | np.ndarray:
    """Return bins for a histogram; one for each value where there are few whole ones."""
    distinct = np.unique(values)
    if len(distinct) <= 30 and np.array_equal(distinct, np.round(distinct)):
        return np.arange(distinct[0] - 0.5, distinct[-1] + 1.0) if len(distinct) else 1
    return 30


def _shared_name(names: list[str]) -> tuple[str, list[str]]:
    """Split "mean[a]", "mean[b]" into what they share and the rest; "statistic" and the names where they differ."""
    heads = {name.split("[", 1)[0] for name in names}
    if len(heads) == 1 and all(name.endswith("]") for name in names):
        (head,) = heads
        return head, [name[len(head) + 1 : -1] for name in names]
    return "statistic", names
