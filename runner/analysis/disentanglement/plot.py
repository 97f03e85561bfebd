"""Plots of a disentanglement measurement: probes, gate, features and example images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from sklearn.manifold import TSNE

from runner.analysis.disentanglement.features import CLOTHING, IDENTITY, PATCHES, unit
from runner.analysis.disentanglement.measure import Measurement
from runner.analysis.synthetic_attributes import GROUPS
from runner.plotting.style import (
    BLUE,
    DASHED,
    GRID,
    MUTED,
    TEXT,
    VERMILION,
    axes_title,
    figure_legend,
    legend_marker,
    new_figure,
    save_figure,
    series_colour,
    series_marker,
    style_axes,
    style_spines,
)
from tasks.synthetic.people import COLOURS as GARMENT_COLOURS

_NUM_SHOWN = 12
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
    figures = {
        "clothes": draw_clothes(measurement, title),
        "tsne": draw_features(measurement, title),
    }
    if results["probes"]["attributes"]:
        figures["probes"] = draw_probes(results, title)
    if measurement.after[0].gate is not None:
        figures["gate"] = draw_gate(measurement, title)
    folder = measurement.run.storage.folder
    return [
        save_figure(figure, folder / f"disentangle-{name}.png") for name, figure in figures.items()
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


def draw_gate(measurement: Measurement, title: str) -> Figure:
    """Histogram of gate values and range per channel, before and after training."""
    gates = [features[0].gate for features in (measurement.before, measurement.after)]
    assert gates[0] is not None
    assert gates[1] is not None
    before, after = (gate.numpy() for gate in gates if gate is not None)
    heading = "Gate g: 1 assigns a channel to identity, 0 to clothing"
    figure = new_figure((10.4, 3.9), heading, title)
    values, channels = figure.subplots(1, 2)
    bins = np.linspace(0, 1, 41).tolist()
    share = np.full(after.size, 100 / after.size)
    values.hist(after.ravel(), bins, weights=share, color=BLUE, label="trained")
    values.hist(
        before.ravel(), bins, weights=share, histtype="step", color=TEXT, linewidth=1.4,
        label="before training",
    )  # fmt: skip
    values.axvline(float(after.mean()), color=VERMILION, linewidth=1.4, linestyle=DASHED)
    axes_title(values, f"all images and channels; dashed: mean {after.mean():.2f}")
    values.set_xlim(0, 1)
    values.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    values.legend(frameon=False, labelcolor=TEXT, fontsize=9)
    style_axes(values, "y", ("left", "bottom"), x_label="g")
    order = after.mean(0).argsort()
    indices = np.arange(len(order))
    low, high = np.quantile(after[:, order], (0.1, 0.9), axis=0)
    channels.fill_between(indices, low, high, color=BLUE, alpha=0.25, linewidth=0)
    channels.plot(indices, after.mean(0)[order], color=BLUE, linewidth=2)
    channels.plot(indices, np.sort(before.mean(0)), color=TEXT, linewidth=1.4)
    axes_title(channels, "channels sorted by mean; band: 80% of the images")
    channels.set(ylim=(0, 1), xlim=(0, len(order) - 1))
    style_axes(channels, "y", ("left", "bottom"), x_label="channel", y_label="g")
    return figure


def draw_features(measurement: Measurement, title: str) -> Figure:
    """t-SNE of both gated features of a few people, before and after training.

    The left two columns are coloured by person, the right two by colour of the upper garment.
    Hollow markers are other clothes.
    """
    panel = measurement.panel
    shown = np.flatnonzero(panel.positions < _NUM_SHOWN)
    people = np.concatenate([panel.positions[shown]] * 2)
    is_new = np.repeat([False, True], len(shown))
    worn = [
        (panel.new if new else panel.old).people[person].upper_colour
        for person, new in zip(people, is_new, strict=True)
    ]
    figure = new_figure(
        (13.2, 7.4),
        "t-SNE of the gated features, coloured by person and by upper garment",
        f"{title}; {_NUM_SHOWN} people of {panel.domain} not used for training, "
        "filled markers: old clothes, hollow markers: other clothes",
    )
    grid = figure.subplots(2, 4, squeeze=False)
    for row, (when, features) in enumerate(
        (("before training", measurement.before), ("trained", measurement.after))
    ):
        for column, name in enumerate((IDENTITY, CLOTHING)):
            rows = torch.cat([unit(each.rows[name])[torch.from_numpy(shown)] for each in features])
            points = _tsne(rows.numpy(), measurement.results["settings"]["seed"])
            _scatter_people(grid[row][column], points, people, is_new)
            _scatter_garments(grid[row][2 + column], points, worn)
            for axes in (grid[row][column], grid[row][2 + column]):
                axes_title(axes, f"{name}, {when}")
    grid[0][0].annotate(
        "by person", (0, 1.13), xycoords="axes fraction", color=TEXT, weight="bold", fontsize=10.5
    )
    grid[0][2].annotate(
        "by colour of the upper garment", (0, 1.13), xycoords="axes fraction", color=TEXT,
        weight="bold", fontsize=10.5,
    )  # fmt: skip
    handles = [
        legend_marker(name, _garment_colour(name), markeredgecolor=MUTED, markeredgewidth=0.6)
        for name in sorted(set(worn))
    ]
    figure_legend(figure, handles, min(len(handles), 14))
    return figure


def _tsne(rows: np.ndarray, seed: int) -> np.ndarray:
    perplexity = min(25.0, (len(rows) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(rows)


def _scatter_people(axes: Axes, points: np.ndarray, people: np.ndarray, is_new: np.ndarray) -> None:
    for person in np.unique(people):
        colour, marker = series_colour(person), series_marker(person)
        for new in (False, True):
            chosen = (people == person) & (is_new == new)
            axes.scatter(
                *points[chosen].T, s=26, marker=marker, linewidths=1.3, edgecolors=colour,
                facecolors="none" if new else colour, clip_on=False,
            )  # fmt: skip
    _hide_ticks(axes)


def _scatter_garments(axes: Axes, points: np.ndarray, worn: Sequence[str]) -> None:
    # White and beige markers need an edge to be visible on the background.
    colours = [_garment_colour(name) for name in worn]
    axes.scatter(*points.T, s=26, c=colours, edgecolors=MUTED, linewidths=0.6, clip_on=False)
    _hide_ticks(axes)


def _garment_colour(name: str) -> str:
    return "#{:02x}{:02x}{:02x}".format(*GARMENT_COLOURS[name])


def draw_clothes(measurement: Measurement, title: str) -> Figure:
    """Example images: a few people in old clothes and in other clothes."""
    panel = measurement.panel
    of_camera = [
        int(np.flatnonzero((panel.positions == person) & panel.is_query)[person % 2])
        for person in range(_NUM_SHOWN)
    ]
    figure = new_figure((10.4, 4.2), f"People of {panel.domain} in old and in other clothes", title)
    grid = figure.subplots(2, len(of_camera), squeeze=False)
    for axes_row, outfit, name in zip(
        grid, (panel.old, panel.new), ("old clothes", "other clothes"), strict=True
    ):
        for axes, index in zip(axes_row, of_camera, strict=True):
            axes.imshow(outfit.pixels[index])
            _hide_ticks(axes)
            style_spines(axes)
        axes_row[0].set_ylabel(name, color=MUTED)
    return figure


def _hide_ticks(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(GRID)
