"""Plot of the features before and after decoupling and training: t-SNE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.manifold import TSNE

from runner.analysis.disentanglement.features import (
    CLOTHING,
    IDENTITY,
    PATCHES,
    ImageFeatures,
    unit,
)
from runner.analysis.disentanglement.measure import Measurement
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
    series_colour,
    series_marker,
)
from tasks.synthetic.people import COLOURS as GARMENT_COLOURS

NUM_SHOWN = 12
_MIN_POINTS = 6
_KINDS = {IDENTITY: (BLUE, "o"), CLOTHING: (VERMILION, "s")}
_BY_PERSON = (PATCHES, IDENTITY, CLOTHING)


@dataclass(frozen=True, eq=False)
class _Shown:
    """Images of the plot, in old clothes and then, if known, in new clothes.

    Attributes:
        rows: positions of the images of one outfit in the features.
        people: [N] person of each point.
        is_new: [N] bool, whether a point is in new clothes.
        worn: colour of the upper garment of each point; empty if it is unknown.
    """

    rows: np.ndarray
    people: np.ndarray
    is_new: np.ndarray
    worn: tuple[str, ...]


def draw_features(measurement: Measurement, title: str) -> Figure | None:
    """t-SNE of the features of a few people, before training (top) and after it (bottom).

    The first column is the feature before decoupling, the next two are the gated features, all
    coloured by person; then both gated features in one plane. On synthetic people, two columns show
    the gated features coloured by the upper garment, and hollow markers are other clothes.

    Returns:
        None if there are too few images.
    """
    shown = _shown(measurement)
    if len(shown.rows) < _MIN_POINTS:
        return None
    seed = measurement.results["settings"]["seed"]
    num_columns = 6 if shown.worn else 4
    num_people = len(np.unique(shown.people))
    clothes = ", filled markers: old clothes, hollow: other clothes" if shown.worn else ""
    figure = new_figure(
        (2.9 * num_columns, 6.6),
        "t-SNE of the features before decoupling (patches) and after it",
        f"{title}; {num_people} people of {measurement.sample.domain} not used for "
        f"training{clothes}",
    )
    grid = figure.subplots(2, num_columns, squeeze=False)
    for axes_row, (when, features) in zip(
        grid,
        (("before training", measurement.before), ("trained", measurement.after)),
        strict=True,
    ):
        _draw_row(axes_row, features, shown, when, seed)
    for column, words in ((0, "by person"), (3, "in one plane"), (4, "by upper garment")):
        if column < num_columns:
            grid[0][column].annotate(
                words, (0, 1.13), xycoords="axes fraction", color=TEXT, weight="bold", fontsize=10
            )
    figure_legend(figure, _legend(shown.worn), 14)
    return figure


def _shown(measurement: Measurement) -> _Shown:
    """Images of the people with the most images, the first ones if several have as many."""
    positions, panel = measurement.sample.positions, measurement.panel
    counts = np.bincount(positions)
    chosen = np.argsort(-counts, kind="stable")[:NUM_SHOWN]
    rows = np.flatnonzero(np.isin(positions, chosen))
    outfits = () if panel is None else (panel.old, panel.new)
    people = np.concatenate([positions[rows]] * max(len(outfits), 1))
    worn = tuple(
        outfit.people[person].upper_colour for outfit in outfits for person in positions[rows]
    )
    return _Shown(rows, people, np.arange(len(people)) >= len(rows), worn)


def _draw_row(
    axes_row: Sequence[Axes],
    features: Sequence[ImageFeatures],
    shown: _Shown,
    when: str,
    seed: int,
) -> None:
    rows = torch.from_numpy(shown.rows)
    points: dict[str, np.ndarray] = {}
    for axes, name in zip(axes_row, _BY_PERSON, strict=False):
        points[name] = _tsne(torch.cat([unit(each.rows[name])[rows] for each in features]), seed)
        _scatter_people(axes, points[name], shown)
        axes_title(axes, f"{name}, {when}")
    both = torch.cat([unit(features[0].rows[name])[rows] for name in _KINDS])
    _scatter_kinds(axes_row[3], _tsne(both, seed))
    axes_title(axes_row[3], f"both, {when}")
    for axes, name in zip(axes_row[4:], _KINDS, strict=False):
        _scatter_garments(axes, points[name], shown.worn)
        axes_title(axes, f"{name}, {when}")
    for axes in axes_row:
        hide_ticks(axes)


def _tsne(features: torch.Tensor, seed: int) -> np.ndarray:
    perplexity = min(25.0, (len(features) - 1) / 3)
    model = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return model.fit_transform(features.numpy())


def _scatter_people(axes: Axes, points: np.ndarray, shown: _Shown) -> None:
    for index, person in enumerate(np.unique(shown.people)):
        colour, marker = series_colour(index), series_marker(index)
        for new in (False, True):
            chosen = (shown.people == person) & (shown.is_new == new)
            axes.scatter(
                *points[chosen].T, s=26, marker=marker, linewidths=1.3, edgecolors=colour,
                facecolors="none" if new else colour, clip_on=False,
            )  # fmt: skip


def _scatter_kinds(axes: Axes, points: np.ndarray) -> None:
    for each, (colour, marker) in zip(np.split(points, 2), _KINDS.values(), strict=True):
        axes.scatter(*each.T, s=24, marker=marker, color=colour, alpha=0.8, clip_on=False)


def _scatter_garments(axes: Axes, points: np.ndarray, worn: Sequence[str]) -> None:
    # White and beige markers need an edge to be visible on the background.
    colours = [_garment_colour(name) for name in worn]
    axes.scatter(*points.T, s=26, c=colours, edgecolors=MUTED, linewidths=0.6, clip_on=False)


def _legend(worn: Sequence[str]) -> list[Line2D]:
    kinds = [legend_marker(name, colour, marker) for name, (colour, marker) in _KINDS.items()]
    garments = [
        legend_marker(name, _garment_colour(name), markeredgecolor=MUTED, markeredgewidth=0.6)
        for name in sorted(set(worn))
    ]
    return kinds + garments


def _garment_colour(name: str) -> str:
    return "#{:02x}{:02x}{:02x}".format(*GARMENT_COLOURS[name])
