"""Plot of both gates of BDAM: histograms, and the decoupling gate by channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from runner.analysis.disentanglement.features import ImageFeatures
from runner.plotting.style import (
    BLUE,
    DASHED,
    MUTED,
    TEXT,
    VERMILION,
    axes_title,
    new_figure,
    style_axes,
)

_LINE_HEIGHT = 0.66
"""Share of the height that the histograms and lines use, below the legend."""
_BINS = np.linspace(0, 1, 41)


@dataclass(frozen=True, eq=False)
class _Share:
    """One side of a gate.

    Attributes:
        name: label of the histogram.
        colour: its colour.
        trained: [N] values of the trained network.
        untrained: [N] values before training.
        printed: mean printed by the paper.
    """

    name: str
    colour: str
    trained: np.ndarray
    untrained: np.ndarray
    printed: float


def draw_gates(
    before: ImageFeatures, after: ImageFeatures, published: Mapping[str, Any], title: str
) -> Figure | None:
    """Histograms of the decoupling gate and of the fusion gate, before and after training.

    Vertical dashed lines are the means, dotted ones those printed by the paper. The decoupling gate
    is also drawn by channel: its mean, and the range of 80% of the images.

    Returns:
        None if the network has neither gate.
    """
    panels: list[tuple[str, list[_Share]]] = []
    if before.gate is not None and after.gate is not None:
        values, initial = after.gate.numpy().ravel(), before.gate.numpy().ravel()
        printed = published["gate"]
        shares = [
            _Share("identity, g", BLUE, values, initial, printed["mean"]),
            _Share("clothing, 1 - g", VERMILION, 1 - values, 1 - initial, printed["clothing_mean"]),
        ]
        panels.append(("decoupling gate: all images and channels", shares))
    if before.fusion_gate is not None and after.fusion_gate is not None:
        values, initial = after.fusion_gate.numpy(), before.fusion_gate.numpy()
        printed = published["fusion_gate"]
        shares = [
            _Share("image", BLUE, values[:, 0], initial[:, 0], printed["image_mean"]),
            _Share("description", VERMILION, values[:, 1], initial[:, 1], printed["text_mean"]),
        ]
        panels.append(("fusion gate: all images with a description", shares))
    if not panels:
        return None
    has_channels = after.gate is not None
    num_axes = len(panels) + has_channels
    heading = "Gates: share of identity and clothing, of image and description"
    figure = new_figure((max(5.0 * num_axes, 7.5), 4.1), heading, title)
    axes = figure.subplots(1, num_axes, squeeze=False)[0]
    for each, (name, shares) in zip(axes, panels, strict=False):
        _draw_histograms(each, shares)
        axes_title(each, name)
    if before.gate is not None and after.gate is not None:
        _draw_channels(axes[-1], before.gate.numpy(), after.gate.numpy())
    return figure


def _draw_histograms(axes: Axes, shares: Sequence[_Share]) -> None:
    for share in shares:
        weights = np.full(share.trained.size, 100 / share.trained.size)
        mean, deviation = float(share.trained.mean()), float(share.trained.std())
        axes.hist(
            share.trained, _BINS.tolist(), weights=weights, color=share.colour, alpha=0.6,
            label=f"{share.name}: {mean:.2f} ± {deviation:.2f} (paper: {share.printed:.2f})",
        )  # fmt: skip
        axes.axvline(mean, ymax=_LINE_HEIGHT, color=share.colour, linewidth=1.6, linestyle=DASHED)
        axes.axvline(
            share.printed, ymax=_LINE_HEIGHT, color=share.colour, linewidth=1.6, linestyle=":"
        )
    first = shares[0]
    initial = np.full(first.untrained.size, 100 / first.untrained.size)
    axes.hist(
        first.untrained, _BINS.tolist(), weights=initial, histtype="step", color=TEXT,
        linewidth=1.2, label=f"{first.name.partition(',')[0]}, before training",
    )  # fmt: skip
    axes.plot([], [], color=MUTED, linestyle=DASHED, label="mean; dotted: the paper's")
    axes.set_xlim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.set_ylim(0, axes.get_ylim()[1] / _LINE_HEIGHT)  # space for the legend
    axes.legend(frameon=False, labelcolor=TEXT, fontsize=8.5, loc="upper left")
    style_axes(axes, "y", ("left", "bottom"), x_label="share")


def _draw_channels(axes: Axes, before: np.ndarray, after: np.ndarray) -> None:
    order = after.mean(0).argsort()
    indices = np.arange(len(order))
    low, high = np.quantile(after[:, order], (0.1, 0.9), axis=0)
    axes.fill_between(indices, low, high, color=BLUE, alpha=0.25, linewidth=0)
    axes.plot(indices, after.mean(0)[order], color=BLUE, linewidth=2, label="trained")
    axes.plot(indices, np.sort(before.mean(0)), color=TEXT, linewidth=1.4, label="before training")
    axes_title(axes, "channels sorted by mean; band: 80% of the images")
    axes.set(ylim=(0, 1), xlim=(0, max(len(order) - 1, 1)))
    axes.legend(frameon=False, labelcolor=TEXT, fontsize=8.5, loc="upper left")
    style_axes(axes, "y", ("left", "bottom"), x_label="channel", y_label="g")
