"""Style of all plots: colours, figures, axes, legends and files. No pyplot, no display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

TEXT = "#1f2933"
MUTED = "#6b7683"
GRID = "#e1e5ea"
BACKGROUND = "#ffffff"
NEUTRAL = "#9aa5b1"

# Wong's palette (Nature Methods 8, 441, 2011): distinguishable with any colour vision.
BLUE = "#0072b2"
VERMILION = "#d55e00"
GREEN = "#009e73"
PURPLE = "#cc79a7"
ORANGE = "#e69f00"
SKY = "#56b4e9"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = "os^Dv"

# One hue from light to dark: readable in grey and with any colour vision.
SHADES = ("#f3f7fb", "#cfe0ee", "#9cc3de", "#5f9dc6", "#2f74a8", "#124e80", "#08305a")

DASHED = (0, (4, 3))
WHITE_BOX = {"facecolor": BACKGROUND, "edgecolor": "none", "pad": 0.8, "alpha": 0.85}

_DPI = 160
_MARGIN_INCH = 0.12
_HEADING_INCH = 0.65  # height of the two title lines


def new_figure(size_inch: tuple[float, float], heading: str, title: str) -> Figure:
    """Creates an empty figure with a bold heading and a line of details above the axes."""
    figure = Figure(figsize=size_inch, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    width, height = size_inch
    left = 0.15 / width
    figure.text(left, 1 - 0.13 / height, heading, va="top", color=TEXT, weight="bold", size=12)
    figure.text(left, 1 - 0.37 / height, title, va="top", color=MUTED, size=9.5)
    side, bottom = _MARGIN_INCH / width, 0.5 * _MARGIN_INCH / height
    rect = (side, bottom, 1 - 2 * side, 1 - bottom - _HEADING_INCH / height)
    # The padding keeps tick labels of neighbouring axes apart.
    figure.set_layout_engine("constrained", rect=rect, h_pad=0.09, wspace=0.06)
    return figure


def save_figure(figure: Figure, file: Path) -> Path:
    """Writes a PNG atomically and returns its path."""
    temporary = file.with_name(f".{file.name}.partial")
    figure.savefig(temporary, dpi=_DPI, format="png")
    temporary.replace(file)
    return file


def style_axes(
    axes: Axes,
    grid: Literal["x", "y", "both"] = "y",
    spines: Sequence[str] = ("bottom",),
    *,
    x_label: str = "",
    y_label: str = "",
) -> None:
    """Applies grid lines, spines, tick colours and axis labels.

    Args:
        axes: axes to style.
        grid: axis whose grid lines are shown.
        spines: sides that keep a line: "left", "right", "top", "bottom".
        x_label: label of the x axis; "" leaves it unchanged.
        y_label: label of the y axis; "" leaves it unchanged.
    """
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    style_spines(axes, spines)
    if x_label:
        axes.set_xlabel(x_label, color=MUTED)
    if y_label:
        axes.set_ylabel(y_label, color=MUTED)


def style_spines(axes: Axes, spines: Sequence[str] = ()) -> None:
    """Shows only these sides of the frame, and removes tick marks."""
    axes.spines[:].set_visible(False)
    if spines:
        axes.spines[list(spines)].set_visible(True)
        axes.spines[list(spines)].set_color(MUTED)
    axes.tick_params(which="both", length=0, labelcolor=TEXT)


def hide_ticks(axes: Axes) -> None:
    """Removes ticks and their labels, and lightens the frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(GRID)


def axes_title(axes: Axes, text: str) -> None:
    """Sets a muted title at the left of the axes."""
    axes.set_title(text, color=MUTED, fontsize=10, loc="left")


def tilt_tick_labels(axes: Axes, degrees: float, align: str = "right", **style: Any) -> None:
    """Rotates the labels of the x axis around the end at the tick."""
    for label in axes.get_xticklabels():
        label.set(rotation=degrees, ha=align, rotation_mode="anchor", **style)


def figure_legend(figure: Figure, handles: Sequence[Line2D], num_columns: int) -> None:
    """Adds a legend below the axes."""
    figure.legend(
        handles=list(handles), loc="outside lower left", ncols=num_columns, frameon=False,
        labelcolor=TEXT, fontsize=9, handletextpad=0.5, columnspacing=1.2,
    )  # fmt: skip


def legend_marker(label: str, colour: str, marker: str = "o", **style: Any) -> Line2D:
    """Legend entry for a marker without a line; `style` overrides properties of Line2D."""
    defaults = {"linestyle": "", "markersize": 6.5}
    return Line2D([], [], label=label, color=colour, marker=marker, **(defaults | style))


def series_colour(index: int) -> str:
    """Colour of the series at this index; colours repeat after `COLOURS`."""
    return COLOURS[index % len(COLOURS)]


def series_marker(index: int) -> str:
    """Marker of the series at this index; changes each time the colours repeat."""
    return MARKERS[index // len(COLOURS) % len(MARKERS)]


def shades(first: int = 0) -> LinearSegmentedColormap:
    """Colour map from light to dark blue, starting at `SHADES[first]`."""
    return LinearSegmentedColormap.from_list("shades", SHADES[first:])
