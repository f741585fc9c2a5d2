"""What all displays share: colours, axes, labels of many groups, legends.

Colours are those of Okabe and Ito (2008), which readers with any kind of colour blindness can tell apart; what a colour
says, a marker or a line style says too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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


def axes_for_groups(ax: Any, n_groups: int, width: float = WIDTH) -> Any:
    """Return the axes to draw in; where there are none, new ones, high enough for all labels."""
    if ax is not None:
        return ax
    per_group = 0.30 if n_groups <= 20 else 0.17
    return new_axes(width, min(1.6 + per_group * n_groups, MAX_HEIGHT))


def new_axes(width: float, height: float) -> Any:
    """Return axes in a new figure of this size in inches."""
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    return ax


def points_per_group(ax: Any, n_groups: int) -> float:
    """Return the room that each of the groups along the y axis has, in points."""
    return ax.get_position().height * ax.figure.get_figheight() * 72 / max(n_groups, 1)


def label_groups(ax: Any, labels: Sequence[str], name: str = "") -> None:
    """Write labels beside the places 0, 1, ... of the y axis, from the top down.

    The font shrinks where room is scarce; where that is not enough, only every second, third... group is named.
    """
    room = points_per_group(ax, len(labels))
    size = float(np.clip(0.72 * room, SMALLEST_FONT, 9.0))
    step = max(1, int(np.ceil(1.15 * SMALLEST_FONT / room)))
    shown = np.arange(0, len(labels), step)
    ax.set_yticks(shown, [labels[int(i)] for i in shown], fontsize=size, **literal(*labels))
    ax.tick_params(axis="y", length=2)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    if name:
        write(ax.set_ylabel, name)


def marker_size(ax: Any, n_groups: int) -> float:
    """Return the diameter in points of a marker that leaves its neighbours along the y axis free."""
    return float(np.clip(0.45 * points_per_group(ax, n_groups), 2.0, 6.0))


def line_width(ax: Any, n_groups: int, most: float = 1.3) -> float:
    """Return the width in points of a line that leaves its neighbours along the y axis apart."""
    return float(np.clip(0.25 * points_per_group(ax, n_groups), 0.3, most))


def shorten(labels: Iterable[Any]) -> list[str]:
    """Return labels as text; the parts of a tuple joined by a colon; very long ones cut in the middle."""
    texts = [":".join(map(_as_text, label)) if isinstance(label, tuple) else _as_text(label) for label in labels]
    half = MOST_CHARACTERS // 2
    return [text if len(text) <= MOST_CHARACTERS else f"{text[:half]}…{text[1 - half :]}" for text in texts]


def _as_text(label: Any) -> str:
    """Return one label as text; 3.0, as arrays of numbers hold integers, is 3."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def literal(*texts: str) -> dict[str, bool]:
    """Return the properties of a text that show names and labels of the user as they are: a dollar sign is no math.

    Text without one stays as Matplotlib has it, so that the user may set an axis label with mathtext later.
    """
    return {"usetex": False} | ({"parse_math": False} if any("$" in text for text in texts) else {})


def write(setter: Callable[..., Any], text: str) -> None:
    """Set the label of an axis to a text that holds names of the user."""
    setter(text, **literal(text))


def escaped(text: str) -> str:
    """Return a text of the user for use among mathtext of our own, or in a legend, which reads mathtext."""
    return text.replace("$", r"\$")


def as_number(value: float) -> str:
    """Return a number for a legend, with the minus sign of the axes."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def legend_above(ax: Any, n_columns: int | None = None) -> Any:
    """Put the legend above the axes, where it covers nothing; side by side where there is room, or in columns."""
    handles, names = ax.get_legend_handles_labels()
    room = ax.get_position().width * ax.figure.get_figwidth()
    # Inches of a handle with its gaps, and of a character at size 9.
    widths = sorted((0.55 + 0.068 * len(name) for name in names), reverse=True)
    if n_columns is None:
        n_columns = len(widths) if sum(widths) <= room else max(1, int(room / widths[0]))
    legend = ax.legend(
        handles,
        names,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=n_columns,
        fontsize=9,
        frameon=False,
        borderaxespad=0.2,
        columnspacing=1.2,
        handletextpad=0.5,
    )
    for text in legend.get_texts():
        text.set_usetex(False)  # a percent sign begins a comment of TeX
    return legend


def spread_ties(sizes: np.ndarray) -> np.ndarray:
    """Return places on a logarithmic axis, up to 15 % beside the size where several groups have it."""
    order = np.argsort(sizes, kind="stable")
    _, first, counts = np.unique(sizes[order], return_index=True, return_counts=True)
    number = np.arange(len(sizes)) - np.repeat(first + (counts - 1) / 2, counts)
    step = np.minimum(0.03, 0.3 / np.repeat(counts, counts))
    places = np.empty(len(sizes))
    places[order] = sizes[order] * np.exp(step * number)
    return places


def size_axis(ax: Any, sizes: np.ndarray, name: str) -> None:
    """Make x a logarithmic axis of group sizes, with ticks at round numbers."""
    log_axis(ax, float(np.min(sizes)), float(np.max(sizes)), 1.25)
    write(ax.set_xlabel, name)


def log_axis(ax: Any, low: float, high: float, margin: float) -> None:
    """Make x a logarithmic axis, with ticks at round numbers, that goes beyond both ends by the factor `margin`."""
    ax.set_xscale("log")
    ax.set_xlim(low / margin, high * margin)
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 2000 else (1,)
    ticks = np.array([step * decade for decade in decades for step in steps])
    ticks = ticks[(ticks >= low / margin) & (ticks <= high * margin)]
    if len(ticks) < 2:
        ticks = np.unique([low, high])
    ax.set_xticks(ticks, [f"{tick:,.6g}" for tick in ticks])
    ax.minorticks_off()


def styled(default: dict[str, Any], chosen: dict[str, Any] | None, artist: Any) -> dict[str, Any]:
    """Return the style of an artist: what the user chose (`c` as well as `color`), for the rest our own."""
    from matplotlib.cbook import normalize_kwargs

    return {**default, **normalize_kwargs(chosen or {}, artist)}


def draw_centre(ax: Any, centre: np.ndarray, name: str, chosen: dict[str, Any] | None) -> Any:
    """Draw what groups are pulled towards: a line, or a mark beside each group where their centres differ.

    Groups stand along the y axis, in the order of `centre`.
    """
    from matplotlib.lines import Line2D

    default = {"color": GREY, "linestyle": "--", "linewidth": 1.2, "zorder": 1}
    if np.ptp(centre) == 0:
        default["label"] = f"{escaped(name)} {as_number(centre[0])}"
        return ax.axvline(centre[0], **styled(default, chosen, Line2D))
    default |= {"linestyle": "none", "marker": "|", "markeredgewidth": 1.5, "label": escaped(name)}
    default["markersize"] = 1.8 * marker_size(ax, len(centre))
    (line,) = ax.plot(centre, np.arange(len(centre)), **styled(default, chosen, Line2D))
    return line


def reach(middle: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return lengths of error bars, shape (2, n); none where an interval has no end."""
    lengths = np.stack([middle - lower, upper - middle])
    return np.where(np.isfinite(lengths), np.maximum(lengths, 0.0), 0.0)
