"""Probes, gate and features drawn. Figures are objects; no pyplot, no display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from sklearn.manifold import TSNE

from runner.analysis.disentanglement.features import CLOTHING, IDENTITY, PATCHES, unit
from runner.analysis.disentanglement.measure import Measured
from runner.analysis.drawn_attributes import GROUPS
from runner.plotting.style import BLUE, COLOURS, INK, RULE, SOFT, VERMILION, new_figure
from tasks.synthetic.people import COLOURS as CLOTH

_NUM_SHOWN = 12
_MARKERS = "os"
# Colour, marker, and how far above the line, so that their spreads can be told apart.
_DOTS = {
    IDENTITY: (BLUE, "o", 0.22),
    CLOTHING: (VERMILION, "s", 0.0),
    PATCHES: (SOFT, "D", -0.22),
}


def write_figures(measured: Measured) -> list[Path]:
    """Draws the pictures of one run into its folder, each whole or not at all."""
    results = measured.results
    title = f"{results['run']}, {Path(results['checkpoint']).stem}"
    drawings = {
        "clothes": draw_clothes(measured, title),
        "tsne": draw_features(measured, title),
    }
    if results["probes"]["attributes"]:
        drawings["probes"] = draw_probes(results, title)
    if measured.after[0].gate is not None:
        drawings["gate"] = draw_gate(measured, title)
    written: list[Path] = []
    for name, figure in drawings.items():
        path = measured.run.storage.folder / f"disentangle-{name}.png"
        temporary = path.with_name(f".{path.name}.partial")
        figure.savefig(temporary, dpi=160, format="png")
        temporary.replace(path)
        written.append(path)
    return written


def draw_probes(results: Mapping[str, Any], title: str) -> Figure:
    """A panel per group, a line per attribute: what can be read from each feature, and chance."""
    probes = results["probes"]["attributes"]
    shown = {
        group: asked
        for group, names in GROUPS.items()
        if (asked := [name for name in names if name in probes])
    }
    longest = max(len(names) for names in shown.values())
    figure = new_figure(
        (10.4, 1.7 + 0.46 * longest), "What a linear probe reads (balanced accuracy, %)", title
    )
    panels = figure.subplots(1, len(shown), sharex=True, squeeze=False)[0]
    for axes, (group, names) in zip(panels, shown.items(), strict=True):
        for height, name in enumerate(names):
            _draw_attribute(axes, probes[name], height)
        axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        axes.set_ylim(longest - 0.4, -0.6)
        axes.set_title(f"{group} attributes", color=SOFT, fontsize=10, loc="left")
        axes.set_xlim(0, 104)
        _plain(axes, "x")
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=marker,
            color=colour,
            markersize=6.5,
            label=name,
            markerfacecolor=_face(name),
        )
        for name, (colour, marker, _) in _DOTS.items()
    ]
    handles.append(
        Line2D([], [], linestyle="", marker="|", color=INK, markersize=11, label="chance")
    )
    _legend(figure, handles)
    return figure


def _draw_attribute(axes: Axes, found: Mapping[str, Any], height: int) -> None:
    chance = 100 * found["chance"]
    axes.vlines(chance, height - 0.38, height + 0.38, color=INK, linewidth=1.6, zorder=2)
    for name, (colour, marker, above) in _DOTS.items():
        each = found["features"][name]
        axes.errorbar(
            100 * each["balanced_accuracy"], height - above, xerr=100 * each["spread"],
            fmt=marker, color=colour, markersize=5.5, elinewidth=1.2, zorder=3,
            markerfacecolor=_face(name),
        )  # fmt: skip


def _face(name: str) -> str:
    """What is entangled by its nature is hollow."""
    return "white" if name == PATCHES else _DOTS[name][0]


def draw_gate(measured: Measured, title: str) -> Figure:
    """The gate's values over images and channels, and each channel's range, before and after."""
    gates = [read[0].gate for read in (measured.before, measured.after)]
    assert gates[0] is not None
    assert gates[1] is not None
    before, after = (gate.numpy() for gate in gates if gate is not None)
    figure = new_figure(
        (10.4, 3.9), "The gate g: 1 gives a channel to identity, 0 to clothing", title
    )
    values, channels = figure.subplots(1, 2)
    bins = np.linspace(0, 1, 41).tolist()
    share = np.full(after.size, 100 / after.size)
    values.hist(after.ravel(), bins, weights=share, color=BLUE, label="trained")
    values.hist(
        before.ravel(), bins, weights=share, histtype="step", color=INK, linewidth=1.4,
        label="before training",
    )  # fmt: skip
    values.axvline(float(after.mean()), color=VERMILION, linewidth=1.4, linestyle=(0, (4, 3)))
    values.set_title(
        f"all images and channels; dashed: mean {after.mean():.2f}", color=SOFT, fontsize=10,
        loc="left",
    )  # fmt: skip
    values.set_xlim(0, 1)
    values.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    values.set_xlabel("g", color=SOFT)
    values.legend(frameon=False, labelcolor=INK, fontsize=9)
    _plain(values, "y")
    order = after.mean(0).argsort()
    places = np.arange(len(order))
    low, high = np.quantile(after[:, order], (0.1, 0.9), axis=0)
    channels.fill_between(places, low, high, color=BLUE, alpha=0.25, linewidth=0)
    channels.plot(places, after.mean(0)[order], color=BLUE, linewidth=2)
    channels.plot(places, np.sort(before.mean(0)), color=INK, linewidth=1.4)
    channels.set_title(
        "channels by their mean; band: 80% of the images", color=SOFT, fontsize=10, loc="left"
    )
    channels.set(ylim=(0, 1), xlim=(0, len(order) - 1))
    channels.set_xlabel("channel", color=SOFT)
    channels.set_ylabel("g", color=SOFT)
    _plain(channels, "y")
    return figure


def draw_features(measured: Measured, title: str) -> Figure:
    """t-SNE of both gated features of a few people, before and after training.

    Left pair coloured by person, right pair by the upper garment; hollow marks are other clothes.
    """
    panel = measured.panel
    shown = np.flatnonzero(panel.positions < _NUM_SHOWN)
    people = np.concatenate([panel.positions[shown]] * 2)
    is_new = np.repeat([False, True], len(shown))
    worn = [
        (panel.new if new else panel.old).people[person].upper_colour
        for person, new in zip(people, is_new, strict=True)
    ]
    figure = new_figure(
        (13.2, 7.4),
        "t-SNE of the gated features: one map each, coloured by person and by upper garment",
        f"{title}; {_NUM_SHOWN} people of {panel.domain} who were never trained on, "
        "filled marks: old clothes, hollow marks: other clothes",
    )
    grid = figure.subplots(2, 4, squeeze=False)
    for row, (when, reads) in enumerate(
        (("before training", measured.before), ("trained", measured.after))
    ):
        for column, name in enumerate((IDENTITY, CLOTHING)):
            rows = torch.cat([unit(read.rows[name])[torch.from_numpy(shown)] for read in reads])
            places = _map(rows.numpy(), measured.results["settings"]["seed"])
            _scatter(grid[row][column], places, people, is_new)
            _scatter_worn(grid[row][2 + column], places, worn)
            for axes in (grid[row][column], grid[row][2 + column]):
                axes.set_title(f"{name}, {when}", color=SOFT, fontsize=10, loc="left")
    grid[0][0].annotate(
        "by person", (0, 1.13), xycoords="axes fraction", color=INK, weight="bold", fontsize=10.5
    )
    grid[0][2].annotate(
        "by colour of the upper garment", (0, 1.13), xycoords="axes fraction", color=INK,
        weight="bold", fontsize=10.5,
    )  # fmt: skip
    handles = [
        Line2D([], [], linestyle="", marker="o", color=_cloth(name), markersize=7, label=name,
               markeredgecolor=SOFT, markeredgewidth=0.6)
        for name in sorted(set(worn))
    ]  # fmt: skip
    _legend(figure, handles)
    return figure


def _map(rows: np.ndarray, seed: int) -> np.ndarray:
    perplexity = min(25.0, (len(rows) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(rows)


def _scatter(axes: Axes, places: np.ndarray, people: np.ndarray, is_new: np.ndarray) -> None:
    for person in np.unique(people):
        colour = COLOURS[person % len(COLOURS)]
        marker = _MARKERS[person // len(COLOURS) % len(_MARKERS)]
        for new in (False, True):
            chosen = (people == person) & (is_new == new)
            axes.scatter(
                *places[chosen].T, s=26, marker=marker, linewidths=1.3, edgecolors=colour,
                facecolors="none" if new else colour, clip_on=False,
            )  # fmt: skip
    _bare(axes)


def _scatter_worn(axes: Axes, places: np.ndarray, worn: Sequence[str]) -> None:
    # White and beige need an edge to be seen on white paper.
    colours = [_cloth(name) for name in worn]
    axes.scatter(*places.T, s=26, c=colours, edgecolors=SOFT, linewidths=0.6, clip_on=False)
    _bare(axes)


def _cloth(name: str) -> str:
    return "#{:02x}{:02x}{:02x}".format(*CLOTH[name])


def draw_clothes(measured: Measured, title: str) -> Figure:
    """A few people in old and in other clothes: what is searched for what."""
    panel = measured.panel
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
            _bare(axes)
            axes.spines[:].set_visible(False)
        axes_row[0].set_ylabel(name, color=SOFT)
    return figure


def _legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    figure.legend(
        handles=list(handles), loc="outside lower left", ncols=min(len(handles), 14),
        frameon=False, labelcolor=INK, fontsize=9, handletextpad=0.2, columnspacing=1.2,
    )  # fmt: skip


def _plain(axes: Axes, lines: str) -> None:
    axes.grid(axis="x" if lines == "x" else "y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.tick_params(length=0, labelcolor=INK)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(RULE)
