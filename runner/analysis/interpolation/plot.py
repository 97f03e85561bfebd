"""Plot of mAP over the interpolation coefficient, one panel per step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from runner.plotting.style import (
    BLUE,
    GREEN,
    MUTED,
    TEXT,
    VERMILION,
    figure_legend,
    new_figure,
    style_axes,
)

# Label, colour, line style, marker.
_LINES = {
    "seen": ("seen average", TEXT, "-", "o"),
    "old": ("old domains, average", VERMILION, "-", "s"),
    "new": ("new domain", BLUE, "-", "^"),
    "unseen": ("unseen average", GREEN, "--", "D"),
}
_MAX_COLUMNS = 4


def draw_interpolation(results: Mapping[str, Any], split: str) -> Figure:
    """mAP over the coefficient a of the new weights; a vertical line marks the chosen a.

    Args:
        results: results.json of an interpolation.
        split: split of the scores, "test" or "validation".
    """
    steps = results["steps"]
    num_columns = min(_MAX_COLUMNS, len(steps))
    num_rows = math.ceil(len(steps) / num_columns)
    width_inch, height_inch = max(7.5, 0.9 + 3.4 * num_columns), 1.5 + 3.2 * num_rows
    title = f"{results['learner']} on {results['benchmark']}, seed {results['seed']}"
    if results["mixed_while_training"]:
        title += "; the stored weights are already interpolated"
    heading = f"Interpolation of weights before and after a domain: mAP on {split} identities (%)"
    figure = new_figure((width_inch, height_inch), heading, title)
    grid = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
    panels: list[Axes] = list(grid.flat)
    for axes, step in zip(panels, steps, strict=False):
        _draw_step(axes, step, split)
    for axes in panels[len(steps) :]:
        axes.set_visible(False)
    lines = {line.get_label(): line for axes in panels for line in axes.get_lines()}
    figure_legend(figure, list(lines.values()), len(lines) if num_columns > 1 else 3)
    return figure


def _draw_step(axes: Axes, step: Mapping[str, Any], split: str) -> None:
    points = step["mixtures"]
    alphas = [point["alpha"] for point in points]
    chosen = step["chosen_alpha"]
    for name, (label, colour, style, marker) in _LINES.items():
        values = [point["averages"][split][f"{name}_mAP"] for point in points]
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
        axes.axvline(chosen, color=MUTED, linewidth=1.2, linestyle=(0, (2, 2)), zorder=1,
                     label="chosen on validation identities")  # fmt: skip
    choice = "" if chosen is None else f"   chosen a = {chosen:g}"
    title = f"step {step['step']}: + {step['domain']}{choice}"
    axes.set_title(title, loc="left", fontsize=10, color=TEXT)
    axes.set(xlim=(-0.02, 1.02))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0\nold", "0.25\n", "0.5\n", "0.75\n", "1\nnew"])
    style_axes(axes, x_label="a, coefficient of the new weights")
    axes.tick_params(labelbottom=True)
