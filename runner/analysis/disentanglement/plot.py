"""Plots of a disentanglement measurement: probes, gate, features and example images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from runner.analysis.disentanglement.feature_plot import NUM_SHOWN, draw_features
from runner.analysis.disentanglement.features import CLOTHING, IDENTITY, PATCHES
from runner.analysis.disentanglement.gate_plot import draw_gates
from runner.analysis.disentanglement.measure import Measurement
from runner.analysis.synthetic_attributes import GROUPS
from runner.analysis.synthetic_panel import Panel
from runner.plotting.style import (
    BLUE,
    MUTED,
    TEXT,
    VERMILION,
    axes_title,
    figure_legend,
    hide_ticks,
    legend_marker,
    new_figure,
    save_figure,
    style_axes,
    style_spines,
)

# Colour, marker, and vertical offset that keeps error bars from overlapping.
_DOTS = {
    IDENTITY: (BLUE, "o", 0.22),
    CLOTHING: (VERMILION, "s", 0.0),
    PATCHES: (MUTED, "D", -0.22),
}


def write_figures(measurement: Measurement) -> list[Path]:
    """Writes the plots of one run into its folder; returns their paths."""
    results = measurement.results
    title = f"{results['run']}, {Path(results['checkpoint']).stem}"
    before, after = measurement.before[0], measurement.after[0]
    probes = results.get("probes", {}).get("attributes")
    figures = {
        "clothes": draw_clothes(measurement.panel, title) if measurement.panel else None,
        "tsne": draw_features(measurement, title),
        "probes": draw_probes(results, title) if probes else None,
        "gate": draw_gates(before, after, results["published"], title),
    }
    folder = measurement.run.storage.folder
    return [
        save_figure(figure, folder / f"disentangle-{name}.png")
        for name, figure in figures.items()
        if figure is not None
    ]


def draw_probes(results: Mapping[str, Any], title: str) -> Figure:
    """Balanced accuracy of linear probes per attribute and feature; a panel per group."""
    probes = results["probes"]["attributes"]
    shown = {
        group: probed
        for group, names in GROUPS.items()
        if (probed := [name for name in names if name in probes])
    }
    longest = max(len(names) for names in shown.values())
    heading = "Accuracy of linear probes (balanced accuracy, %)"
    figure = new_figure((10.4, 1.7 + 0.46 * longest), heading, title)
    panels = figure.subplots(1, len(shown), sharex=True, squeeze=False)[0]
    for axes, (group, names) in zip(panels, shown.items(), strict=True):
        for height, name in enumerate(names):
            _draw_attribute(axes, probes[name], height)
        axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        axes.set_ylim(longest - 0.4, -0.6)
        axes_title(axes, f"{group} attributes")
        axes.set_xlim(0, 104)
        style_axes(axes, "x", ("left", "bottom"))
    handles = [
        legend_marker(name, colour, marker, markerfacecolor=_fill_colour(name))
        for name, (colour, marker, _) in _DOTS.items()
    ]
    handles.append(legend_marker("chance", TEXT, "|", markersize=11))
    figure_legend(figure, handles, len(handles))
    return figure


def _draw_attribute(axes: Axes, probe: Mapping[str, Any], height: int) -> None:
    chance = 100 * probe["chance"]
    axes.vlines(chance, height - 0.38, height + 0.38, color=TEXT, linewidth=1.6, zorder=2)
    for name, (colour, marker, above) in _DOTS.items():
        each = probe["features"][name]
        axes.errorbar(
            100 * each["balanced_accuracy"], height - above, xerr=100 * each["spread"],
            fmt=marker, color=colour, markersize=5.5, elinewidth=1.2, zorder=3,
            markerfacecolor=_fill_colour(name),
        )  # fmt: skip


def _fill_colour(name: str) -> str:
    """Markers of the patch features, which are not disentangled, are hollow."""
    return "white" if name == PATCHES else _DOTS[name][0]


def draw_clothes(panel: Panel, title: str) -> Figure:
    """Example images: a few people in old clothes and in other clothes."""
    of_camera = [
        int(np.flatnonzero((panel.positions == person) & panel.is_query)[person % 2])
        for person in range(NUM_SHOWN)
    ]
    figure = new_figure((10.4, 4.2), f"People of {panel.domain} in old and in other clothes", title)
    grid = figure.subplots(2, len(of_camera), squeeze=False)
    for axes_row, outfit, name in zip(
        grid, (panel.old, panel.new), ("old clothes", "other clothes"), strict=True
    ):
        for axes, index in zip(axes_row, of_camera, strict=True):
            axes.imshow(outfit.pixels[index])
            hide_ticks(axes)
            style_spines(axes)
        axes_row[0].set_ylabel(name, color=MUTED)
    return figure
