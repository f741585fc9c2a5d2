"""The risk curve of the James-Stein estimator: where shrinkage pays, and how much."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from hbsk._base import learnt_by
from hbsk.plotting import _style
from hbsk.plotting._group_estimates import fitted_step
from hbsk.plotting._risk import shrunken_risk


class RiskDisplay:
    r"""Expected total squared error of James-Stein estimators against the distance of the truth from the target.

    The error of the group means themselves (maximum likelihood) is J whatever the truth is, in units of the sampling
    variance of a mean. Shrinkage is never worse from three free dimensions on, and best where the true means lie close
    to the target; far from it the gain vanishes. Relative to J the gain grows with J. Make it with `from_estimator` or
    `from_n_groups`. All parameters are stored as attributes.

    Parameters
    ----------
    squared_distance : ndarray of shape (n_points,)
        :math:`|\theta - t|^2 / v`, the squared distance of the true means from the target.
    means : ndarray of shape (n_points,)
        Risk of the group means, J throughout.
    plain : ndarray of shape (n_points,)
        Risk of the James-Stein estimator.
    positive_part : ndarray of shape (n_points,)
        Risk of its positive part.
    n_groups : int
        Number J of groups.
    n_target : int, default=0
        Number of coefficients of the target that are estimated: 0 for a fixed target, 1 for the mean.
    position : float or None, default=None
        An estimate of the squared distance, for a mark.

    Attributes
    ----------
    means_, plain_, positive_part_ : matplotlib Line2D
        The three curves.
    position_ : matplotlib Line2D or None
        Mark of the estimated distance.
    ax_ : matplotlib Axes
        Axes with the plot.
    figure_ : matplotlib Figure
        Figure that holds the axes.

    Notes
    -----
    The curves are exact for normal means of known and equal variance: series of James and Stein (1961), and for the
    positive part the expectation of Stein's unbiased estimate of risk, summed to 1e-12.

    References
    ----------
    - James, W., and Stein, C. (1961). Estimation with quadratic loss. Proceedings of the Fourth Berkeley Symposium 1,
      361-379.

    Examples
    --------
    >>> from hbsk.plotting import RiskDisplay
    >>> display = RiskDisplay.from_n_groups(10)
    >>> float(display.plain[0].round(6)), float(display.positive_part[0].round(2))
    (2.0, 1.26)
    """

    def __init__(self, *, squared_distance, means, plain, positive_part, n_groups, n_target=0, position=None):
        self.squared_distance = squared_distance
        self.means = means
        self.plain = plain
        self.positive_part = positive_part
        self.n_groups = n_groups
        self.n_target = n_target
        self.position = position

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        max_distance: float | None = None,
        ax: Any = None,
        means_kwargs: dict | None = None,
        plain_kwargs: dict | None = None,
        positive_part_kwargs: dict | None = None,
    ) -> RiskDisplay:
        """Plot the risk for as many groups as a fitted estimator has, and where on the curve its data seem to lie.

        Parameters
        ----------
        estimator : JamesSteinEstimator
            Fitted, with `method="james-stein"`; or a pipeline or search that ends in one.
        max_distance : float, default=None
            Right end of the curve; None takes four times J, or what the mark needs.
        ax : matplotlib Axes, default=None
            Axes to draw in; None makes a figure.
        means_kwargs, plain_kwargs, positive_part_kwargs : dict, default=None
            Styles, see `plot`.

        Returns
        -------
        RiskDisplay
            Object that holds data and artists.

        Notes
        -----
        The mark stands at D - p, or at 0 where that is negative: the unbiased estimate of the squared distance over the
        p = J - n_target free dimensions from D = sum_j (mean_j - target)^2 / v_j. With unequal variances v_j it is a
        distance of standardised means, and the curve that of the standardised problem.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        estimator = fitted_step(estimator)
        if not hasattr(estimator, "theta_"):
            raise TypeError(
                f"RiskDisplay shows the risk of a JamesSteinEstimator, got {type(estimator).__name__}; "
                "RiskDisplay.from_n_groups needs no estimator."
            )
        if estimator.method != "james-stein" or not estimator.groups_:
            raise ValueError(
                "RiskDisplay shows the risk of a JamesSteinEstimator with groups and method='james-stein'; this one "
                f"has method={estimator.method!r} and {len(estimator.theta_)} groups. RiskDisplay.from_n_groups needs "
                "no estimator."
            )
        n_groups, n_target = len(estimator.theta_), _n_target(estimator)
        means = learnt_by(estimator).means
        position = _squared_distance(means.shrinkage[0], n_groups - n_target, means.nu)
        display = cls._of(n_groups, n_target, max_distance, position)
        return display.plot(
            ax, means_kwargs=means_kwargs, plain_kwargs=plain_kwargs, positive_part_kwargs=positive_part_kwargs
        )

    @classmethod
    def from_n_groups(
        cls,
        n_groups: int,
        *,
        n_target: int = 0,
        max_distance: float | None = None,
        ax: Any = None,
        means_kwargs: dict | None = None,
        plain_kwargs: dict | None = None,
        positive_part_kwargs: dict | None = None,
    ) -> RiskDisplay:
        """Plot the risk for a number of groups.

        Parameters
        ----------
        n_groups : int
            Number J of groups, larger than `n_target`.
        n_target : int, default=0
            Number of coefficients of the target that are estimated: 0 for a fixed target, 1 for the mean.
        max_distance : float, default=None
            Right end of the curve; None takes four times J.
        ax : matplotlib Axes, default=None
            Axes to draw in; None makes a figure.
        means_kwargs, plain_kwargs, positive_part_kwargs : dict, default=None
            Styles, see `plot`.

        Returns
        -------
        RiskDisplay
            Object that holds data and artists.
        """
        check_matplotlib_support(f"{cls.__name__}.from_n_groups")
        if not isinstance(n_target, Integral) or n_target < 0:
            raise ValueError(f"n_target must be a number of coefficients, 0 or more; got {n_target!r}.")
        if not isinstance(n_groups, Integral) or n_groups <= n_target:
            raise ValueError(f"n_groups must be an integer larger than n_target={n_target}; got {n_groups!r}.")
        display = cls._of(int(n_groups), int(n_target), max_distance, None)
        return display.plot(
            ax, means_kwargs=means_kwargs, plain_kwargs=plain_kwargs, positive_part_kwargs=positive_part_kwargs
        )

    @classmethod
    def _of(cls, n_groups: int, n_target: int, max_distance: float | None, position: float | None) -> RiskDisplay:
        if max_distance is None:
            max_distance = max(4.0 * n_groups, 1.25 * (position or 0.0))
        elif not max_distance > 0:
            raise ValueError(f"max_distance must be positive, got {max_distance!r}.")
        # Closer together on the left, where the curves bend.
        distance = max_distance * np.linspace(0.0, 1.0, 101) ** 2
        return cls(
            squared_distance=distance,
            means=np.full_like(distance, n_groups),
            plain=shrunken_risk(distance, n_groups, n_target, positive_part=False),
            positive_part=shrunken_risk(distance, n_groups, n_target, positive_part=True),
            n_groups=n_groups,
            n_target=n_target,
            position=position,
        )

    def plot(
        self,
        ax: Any = None,
        *,
        means_kwargs: dict | None = None,
        plain_kwargs: dict | None = None,
        positive_part_kwargs: dict | None = None,
    ) -> RiskDisplay:
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in; None makes a figure.
        means_kwargs, plain_kwargs, positive_part_kwargs : dict, default=None
            Styles of the three curves (of `plot`).

        Returns
        -------
        RiskDisplay
            The object itself.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        ax = _style.new_axes(_style.WIDTH, 4.4) if ax is None else ax
        style: dict[str, Any] = {"color": _style.VERMILLION, "linestyle": "--", "label": "group means"}
        self.means_ = self._draw(ax, self.means, style, means_kwargs)
        style = {"color": _style.SKY_BLUE, "linestyle": "-.", "label": "James-Stein"}
        self.plain_ = self._draw(ax, self.plain, style, plain_kwargs)
        style = {"color": _style.BLUE, "linestyle": "-", "linewidth": 2, "label": "James-Stein, positive part"}
        self.positive_part_ = self._draw(ax, self.positive_part, style, positive_part_kwargs)
        self.position_ = None
        if self.position is not None:
            self.position_ = ax.axvline(
                self.position, color=_style.GREY, linestyle=":", label="estimate for these data"
            )
        most = self.squared_distance[-1]
        # A line at 0 would hide behind the axis.
        ax.set_xlim(-0.02 * most if self.position is not None and self.position < 0.01 * most else 0.0, most)
        ax.set_ylim(0.0, 1.08 * self.n_groups)
        target = "target" if self.n_target else "fixed target"
        ax.set_xlabel(f"squared distance of the true means from the {target}, $|\\theta - t|^2 / v$")
        ax.set_ylabel(f"expected total squared error / $v$\n{self.n_groups} groups")
        _style.legend_above(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _draw(self, ax: Any, risk: np.ndarray, default: dict[str, Any], chosen: dict | None) -> Any:
        from matplotlib.lines import Line2D

        (line,) = ax.plot(self.squared_distance, risk, **_style.styled(default, chosen, Line2D))
        return line


def _n_target(estimator: Any) -> int:
    """Return how many coefficients of the target the group means had to tell."""
    return round(learnt_by(estimator).means.n_target)


def _squared_distance(factor: float, free: int, nu: float) -> float | None:
    """Estimate the squared distance from the factor 1 - (p - 2) nu / (nu + 2) / D; None where nothing was shrunken."""
    if factor >= 1.0 or free < 3:
        return None
    correction = 1.0 if np.isinf(nu) else nu / (nu + 2.0)
    # A factor cut at 0 means D of p - 2 or less, which leads to 0 as well.
    return max((free - 2) * correction / (1.0 - factor) - free, 0.0)
