"""What all displays share: colours, axes, labels of many groups, legends.

Colours are those of Okabe and Ito (2008), which readers with any kind of colour blindness can tell apart; what a colour
says, a marker or a line style says too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

BLUE = "#0072B2"
VERMILLION = "#D55E00"
SKY_BLUE = "#56B4E9"
GREEN = "#009E73"
BLACK = "#000000"
GREY = "#666666"
LIGHT_GREY = "#D9D9D9"

# Inches and points.
WIDTH = 7.5
MAX_HEIGHT = 30.0
SMALLEST_FONT = 5.5
MOST_CHARACTERS = 40


def axes_for_groups(ax: Any, n_groups: int) -> Any:
    """Return the axes to draw in; where there are none, new ones, high enough for all labels."""
    if ax is not None:
        return ax
    per_group = 0.30 if n_groups <= 20 else 0.17
    return new_axes(WIDTH, min(1.6 + per_group * n_groups, MAX_HEIGHT))


def new_axes(width: float, height: float) -> Any:
    """Return axes in a new figure of this size in inches."""
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    return ax


def label_groups(ax: Any, labels: Sequence[str], name: str = "") -> None:
    """Write labels beside the places 0, 1, ... of the y axis, from the top down.

    The font shrinks where room is scarce; where that is not enough, only every second, third... group is named.
    """
    n_groups = len(labels)
    height = ax.get_position().height * ax.figure.get_figheight() * 72
    per_group = height / max(n_groups, 1)
    size = float(np.clip(0.72 * per_group, SMALLEST_FONT, 9.0))
    step = max(1, int(np.ceil(1.15 * SMALLEST_FONT / per_group)))
    shown = np.arange(0, n_groups, step)
    ax.set_yticks(shown, [labels[i] for i in shown], fontsize=size)
    ax.tick_params(axis="y", length=2)
    ax.set_ylim(n_groups - 0.5, -0.5)
    if name:
        ax.set_ylabel(name)


def marker_size(n_groups: int) -> float:
    """Return the diameter in points of a marker that still leaves its neighbours free."""
    return 6.0 if n_groups <= 40 else 4.5


def shorten(labels: Iterable[Any]) -> list[str]:
    """Return labels as text; the parts of a tuple joined by a colon; very long ones cut in the middle."""
    texts = [":".join(map(str, label)) if isinstance(label, tuple) else str(label) for label in labels]
    half = MOST_CHARACTERS // 2
    return [text if len(text) <= MOST_CHARACTERS else f"{text[:half]}…{text[1 - half:]}" for text in texts]


def legend_above(ax: Any) -> Any:
    """Put the legend above the axes, where it covers nothing; side by side where there is room."""
    handles, names = ax.get_legend_handles_labels()
    width = ax.get_position().width * ax.figure.get_figwidth()
    # A character takes about 0.075 inches at size 9, and handle and gap about 0.6.
    fitting = int(width / (0.075 * max(map(len, names), default=1) + 0.6))
    return ax.legend(
        handles,
        names,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=int(np.clip(fitting, 1, max(len(names), 1))),
        fontsize=9,
        frameon=False,
        borderaxespad=0.2,
        columnspacing=1.2,
        handletextpad=0.5,
    )


def size_axis(ax: Any, sizes: np.ndarray, name: str) -> None:
    """Make x a logarithmic axis of group sizes, with ticks at round numbers."""
    low, high = float(np.min(sizes)), float(np.max(sizes))
    ax.set_xscale("log")
    ax.set_xlim(low / 1.25, high * 1.25)
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 2000 else (1,)
    ticks = np.array([step * decade for decade in decades for step in steps])
    ticks = ticks[(ticks >= low / 1.25) & (ticks <= high * 1.25)]
    if len(ticks) < 2:
        ticks = np.unique([low, high])
    ax.set_xticks(ticks, [f"{tick:,.6g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_xlabel(name)


def styled(default: dict[str, Any], chosen: dict[str, Any] | None, artist: Any) -> dict[str, Any]:
    """Return the style of an artist: what the user chose (`c` as well as `color`), for the rest our own."""
    from matplotlib.cbook import normalize_kwargs

    return {**default, **normalize_kwargs(chosen or {}, artist)}
