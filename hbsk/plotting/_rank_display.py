"""How sure a ranking of groups is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from hbsk._estimators.answers import ranks_of_groups
from hbsk.plotting import _style
from hbsk.plotting._group_display import GroupDisplay
from hbsk.plotting._group_estimates import align, fitted_step, positions_of, read_group_estimates


class RankDisplay(GroupDisplay):
    """Expected rank of every group with its uncertainty, beside the rank of its own estimate.

    Ranking the estimates of small groups crowns chance. The expected rank stays near the middle where little is known,
    and its bar says how much the rank could be otherwise. Make it with `from_estimator`. All parameters are stored as
    attributes.

    Parameters
    ----------
    labels : ndarray of shape (n_groups,)
        Labels of the groups.
    expected_rank : ndarray of shape (n_groups,)
        Posterior mean of the rank; rank 1 is the best.
    rank_sd : ndarray of shape (n_groups,)
        Posterior sd of the rank.
    no_pooling_rank : ndarray of shape (n_groups,)
        Rank of the group's own estimate; ties share their mean rank. NaN where there is none.
    probability : ndarray of shape (n_groups,)
        Posterior probability of being among the first `top`.
    top : int, default=1
        How many places `probability` is about.
    factor : str, default="group"
        Name of the grouping factor, for the axis.
    term : str, default="estimate"
        What is ranked, for the axis.
    n_ranked : int, default=None
        How many groups were ranked, of which these are some. None: these are all.

    Attributes
    ----------
    ranks_ : matplotlib ErrorbarContainer
        Expected ranks and bars of one sd to both sides, cut off at the first and the last rank.
    no_pooling_ : matplotlib Line2D
        Ranks of the groups' own estimates.
    probabilities_ : list of matplotlib Text
        Probabilities at the right margin, where they are 1 % or more.
    order_ : ndarray of shape (n_groups,)
        Positions in `labels` of the groups from the top down.
    ax_ : matplotlib Axes
        Axes with the plot.
    figure_ : matplotlib Figure
        Figure that holds the axes.

    See Also
    --------
    hbsk.PartialPoolingRegressor.rank_groups : The numbers.
    GroupEffectsDisplay : The estimates in their order.

    Examples
    --------
    >>> from hbsk import PartialPoolingRegressor
    >>> from hbsk.datasets import load_baseball
    >>> from hbsk.plotting import RankDisplay
    >>> players = load_baseball(as_frame=True)
    >>> model = PartialPoolingRegressor(group_features="player")
    >>> model = model.fit(players.data, players.target, standard_error=players.standard_error)
    >>> display = RankDisplay.from_estimator(model, top=3)
    >>> display.labels[display.order_[0]]
    'Roberto Clemente'
    """

    def __init__(
        self,
        *,
        labels,
        expected_rank,
        rank_sd,
        no_pooling_rank,
        probability,
        top=1,
        factor="group",
        term="estimate",
        n_ranked=None,
    ):
        self.labels = labels
        self.expected_rank = expected_rank
        self.rank_sd = rank_sd
        self.no_pooling_rank = no_pooling_rank
        self.probability = probability
        self.top = top
        self.factor = factor
        self.term = term
        self.n_ranked = n_ranked

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        term: str | None = None,
        factor: str | None = None,
        at: str | Mapping[str, Any] = "zero",
        groups: Iterable[Any] | None = None,
        ascending: bool = False,
        top: int | None = None,
        ax: Any = None,
        rank_kwargs: dict | None = None,
        no_pooling_kwargs: dict | None = None,
    ) -> RankDisplay:
        """Plot the ranks of the groups of a fitted estimator.

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
            Draw these groups only, such as ``rank_groups(top=20).index``, with their ranks among all. None: all.
        ascending : bool, default=False
            Whether the smallest estimate has rank 1.
        top : int, default=None
            Also give the probability of being among the first so many. None: of being the first.
        ax : matplotlib Axes, default=None
            Axes to draw in; None makes a figure that is high enough for all labels.
        rank_kwargs, no_pooling_kwargs : dict, default=None
            Styles, see `plot`.

        Returns
        -------
        RankDisplay
            Object that holds data and artists.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        estimator = fitted_step(estimator)
        if not hasattr(estimator, "rank_groups"):
            raise TypeError(
                f"{type(estimator).__name__} has no method rank_groups, which needs a joint posterior of the groups. "
                "Pass a fitted PartialPoolingRegressor or JamesSteinEstimator, or a pipeline or search ending in one."
            )
        found = read_group_estimates(estimator, term, factor, 0.95, at)
        table = ranks_of_groups(estimator, term, factor, ascending, top, at)
        ranks = {
            name: align(dict(zip(table.index.tolist(), column, strict=True)), found.labels, str(name))
            for name, column in table.items()
        }
        ranks["no_pooling"] = _ranks(found.no_pooling if ascending else -found.no_pooling)
        n_ranked = len(found.labels)
        if groups is not None:
            chosen = positions_of(groups, found.labels, found.factor)
            found, ranks = found.of(groups), {name: column[chosen] for name, column in ranks.items()}
        display = cls._of(
            found,
            expected_rank=ranks["expected_rank"],
            rank_sd=ranks["rank_sd"],
            no_pooling_rank=ranks["no_pooling"],
            probability=ranks["p_best" if top is None else f"p_top_{top}"],
            top=1 if top is None else top,
            n_ranked=n_ranked,
        )
        return display.plot(ax, rank_kwargs=rank_kwargs, no_pooling_kwargs=no_pooling_kwargs)

    def plot(
        self, ax: Any = None, *, rank_kwargs: dict | None = None, no_pooling_kwargs: dict | None = None
    ) -> RankDisplay:
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in; None makes a figure that is high enough for all labels.
        rank_kwargs : dict, default=None
            Style of the expected ranks (of `errorbar`).
        no_pooling_kwargs : dict, default=None
            Style of the ranks of the groups' own estimates (of `plot`).

        Returns
        -------
        RankDisplay
            The object itself.
        """
        from matplotlib.lines import Line2D

        ax, n_groups = self._begin(ax), len(self.labels)
        self.order_ = order = np.argsort(self.expected_rank, kind="stable")
        place = np.arange(n_groups)
        rank, sd = self.expected_rank[order], self.rank_sd[order]
        last = n_groups if self.n_ranked is None else self.n_ranked
        ends = _style.reach(rank, np.maximum(rank - sd, 1.0), np.minimum(rank + sd, last))
        if last > n_groups:  # of some of many groups, as far as these reach
            last = min(last, np.ceil(np.nanmax([n_groups, *(rank + sd), *self.no_pooling_rank])))
        size = _style.marker_size(ax, n_groups)
        style = {"fmt": "o", "color": _style.BLUE, "markersize": size, "zorder": 3}
        style["elinewidth"] = _style.line_width(ax, n_groups)
        style["label"] = "expected rank, 1 sd to both sides"
        self.ranks_ = ax.errorbar(rank, place, xerr=ends, **_style.styled(style, rank_kwargs, Line2D))
        style = {"marker": "o", "linestyle": "none", "markersize": size + 1.5, "color": _style.VERMILLION, "zorder": 4}
        style |= {"markerfacecolor": "none", "label": "rank without pooling"}
        style = _style.styled(style, no_pooling_kwargs, Line2D)
        (self.no_pooling_,) = ax.plot(self.no_pooling_rank[order], place, **style)
        ax.set_xlim(1 - 0.03 * last, last + 0.03 * last)
        ax.set_xticks(_rank_ticks(ax.get_xticks(), last))
        _style.write(ax.set_xlabel, f"rank of the {self.factor}'s {self.term}")
        self._label_groups(ax)
        self.probabilities_ = self._write_probabilities(ax)
        return self._end(ax)

    def _write_probabilities(self, ax: Any) -> list[Any]:
        """Write the probabilities at the right margin, beside the groups that are named at the left."""
        first = ax.get_yticklabels()
        size = first[0].get_fontsize() if first else 9.0
        what = "P(rank 1)" if self.top == 1 else f"P(rank ≤ {self.top})"
        # Percent signs are comments of TeX.
        style = {"transform": ax.get_yaxis_transform(), "color": _style.BLUE, "usetex": False}
        texts = [ax.text(1.01, -0.75, what, fontsize=8.5, va="bottom", **style)]
        for place in ax.get_yticks():
            value = self.probability[self.order_[int(place)]]
            if value >= 0.005:
                texts.append(ax.text(1.01, place, f"{value:.0%}", fontsize=size, va="center", **style))
        return texts


def _rank_ticks(chosen: np.ndarray, last: float) -> list[float]:
    """Return 1 and those of Matplotlib's ticks that are ranks and leave room for the 1."""
    ticks = [tick for tick in chosen if 1 < tick <= last and tick == int(tick)]
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    return [1.0, *(tick for tick in ticks if tick - 1 > 0.6 * step)]


def _ranks(values: np.ndarray) -> np.ndarray:
    """Rank from 1, the smallest first; ties share their mean rank, NaN has none."""
    from scipy.stats import rankdata

    return rankdata(values, nan_policy="omit")
