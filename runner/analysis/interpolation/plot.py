"""The curves of weight mixtures drawn: a panel per step. No pyplot, no display."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from runner.plotting.style import BLUE, GREEN, INK, RULE, SOFT, VERMILION

# Markers tell the lines apart as well.
_LINES = {
    "seen": ("seen average", INK, "-", "o"),
    "old": ("old domains, average", VERMILION, "-", "s"),
    "new": ("new domain", BLUE, "-", "^"),
    "unseen": ("unseen average", GREEN, "--", "D"),
}
_MAX_COLUMNS = 4


def draw_mixtures(results: Mapping[str, Any], split: str) -> Figure:
    """mAP over the share a of the new weights; a vertical line marks the chosen a of a step.

    Args:
        results: results.json of an interpolation.
        split: whose scores: "test" or "validation".
    """
    steps = results["steps"]
    num_columns = min(_MAX_COLUMNS, len(steps))
    num_rows = math.ceil(len(steps) / num_columns)
    width_inch, height_inch = max(7.5, 0.9 + 3.4 * num_columns), 1.5 + 3.2 * num_rows
    figure = Figure(figsize=(width_inch, height_inch), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
    panels: list[Axes] = list(grid.flat)
    for axes, step in zip(panels, steps, strict=False):
        _draw_step(axes, step, split)
    for axes in panels[len(steps) :]:
        axes.set_visible(False)
    _head(figure, results, split)
    lines = {line.get_label(): line for axes in panels for line in axes.get_lines()}
    figure.legend(
        handles=list(lines.values()),
        loc="outside lower left",
        ncols=len(lines) if num_columns > 1 else 3,
        frameon=False,
        labelcolor=INK,
        fontsize=9,
    )
    return figure


def _head(figure: Figure, results: Mapping[str, Any], split: str) -> None:
    """Two lines of title above the panels, whose layout leaves their room alone."""
    width_inch, height_inch = figure.get_size_inches()
    title = f"{results['learner']} on {results['benchmark']}, seed {results['seed']}"
    if results["mixed_while_training"]:
        title += "; the kept weights are already mixed"
    heading = f"Weights before and after a domain, mixed: mAP on {split} identities (%)"
    lines = ((heading, 0.13, INK, 12.0, "bold"), (title, 0.37, SOFT, 9.5, "normal"))
    for text, down_inch, colour, size, weight in lines:
        at = (0.15 / width_inch, 1 - down_inch / height_inch)
        figure.text(*at, text, va="top", color=colour, size=size, weight=weight)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - 0.65 / height_inch))


def _draw_step(axes: Axes, step: Mapping[str, Any], split: str) -> None:
    mixtures = step["mixtures"]
    alphas = [mixture["alpha"] for mixture in mixtures]
    chosen = step["chosen_alpha"]
    for name, (label, colour, style, marker) in _LINES.items():
        values = [mixture["averages"][split][f"{name}_mAP"] for mixture in mixtures]
        heights = [math.nan if value is None else value for value in values]
        if all(map(math.isnan, heights)):
            continue
        is_bold = name == "seen"
        axes.plot(
            alphas,
            heights,
            style,
            color=colour,
            marker=marker,
            markersize=3.5,
            linewidth=2.4 if is_bold else 1.5,
            zorder=3 if is_bold else 2,
            label=label,
            clip_on=False,
        )
    if chosen is not None:
        axes.axvline(chosen, color=SOFT, linewidth=1.2, linestyle=(0, (2, 2)), zorder=1,
                     label="chosen on validation identities")  # fmt: skip
    said = "" if chosen is None else f"   chosen a = {chosen:g}"
    axes.set_title(
        f"step {step['step']}: + {step['domain']}{said}", loc="left", fontsize=10, color=INK
    )
    axes.set(xlim=(-0.02, 1.02))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0\nold", "0.25\n", "0.5\n", "0.75\n", "1\nnew"])
    axes.set_xlabel("a, share of the new weights", color=SOFT, fontsize=9)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.tick_params(length=0, labelcolor=INK, labelbottom=True)
