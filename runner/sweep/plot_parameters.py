"""Pictures of parameters: slices, the response to one of them, and all side by side."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from runner.plotting.style import INK, SHADES, SOFT, VERMILION
from runner.sweep.importances import final
from runner.sweep.outcome import Outcome
from runner.sweep.parameters import Choices, IntRange, same
from runner.sweep.plot_trials import (
    draw_default,
    draw_trials,
    finish,
    framed,
    legend,
    said_objective,
    title,
)
from runner.sweep.space import AnyParameter
from runner.sweep.table import format_value, short_names
from runner.sweep.trial_records import TrialRecord

_PER_ROW = 4
_MIN_FOR_CURVE = 6
_BANDWIDTH = 0.12  # of the range


def draw_slice(outcome: Outcome) -> Figure:
    """The first objective against each parameter, a panel each."""
    names, parameters = short_names(outcome.keys), outcome.space.parameters
    num_rows = math.ceil(len(parameters) / _PER_ROW)
    num_columns = min(_PER_ROW, len(parameters))
    size_inch = max(6.5, 1.0 + 3.1 * num_columns), 1.5 + 2.7 * num_rows
    figure = framed(
        size_inch, f"{said_objective(outcome.objective)} against each parameter", title(outcome)
    )
    panels = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True)
    for axes in panels.flat[len(parameters) :]:
        axes.set_axis_off()
    for axes, (key, parameter) in zip(panels.flat, parameters.items(), strict=False):
        _draw_response(axes, outcome, key, parameter)
        axes.set_title(names[key], color=INK, fontsize=9.5 if len(names[key]) < 32 else 8)
    legend(figure, outcome)
    return figure


def draw_response(outcome: Outcome, key: str) -> Figure:
    """The first objective against one numeric parameter, with a smooth mean of finished trials.

    The curve is the kernel-weighted mean (Nadaraya and Watson; Gaussian, a standard deviation of
    12 % of the range), drawn where finished trials are; a parameter with few values has the mean
    at each of them.
    """
    parameter = outcome.space.parameters[key]
    figure = framed((7.6, 4.6), f"Response to {key}" if len(key) < 60 else key, title(outcome))
    axes = figure.add_subplot()
    _draw_response(axes, outcome, key, parameter)
    draw_default(axes, outcome)
    known = [
        (position(parameter, record.values[key]), value)
        for record in outcome.records
        if key in record.values and (value := final(record, outcome.objective)) is not None
    ]
    if len(known) >= _MIN_FOR_CURVE:
        _draw_mean(axes, parameter, np.array(known))
    axes.set_xlabel(key, color=SOFT)
    axes.set_ylabel(said_objective(outcome.objective), color=SOFT)
    legend(figure, outcome)
    return figure


def draw_parallel(outcome: Outcome) -> Figure:
    """Every finished trial as a line over all parameters, darker the better; the best in red.

    A conditional parameter that did not apply is at its axis' foot.
    """
    objective, keys = outcome.objective, outcome.keys
    finished = [each for each in outcome.records if final(each, objective) is not None]
    names = short_names(keys)
    size_inch = min(30.0, max(6.5, 2.4 + 1.35 * (len(keys) + 1))), 5.4
    figure = framed(size_inch, "Finished trials over all parameters", title(outcome))
    axes = figure.add_subplot()
    values = [value for each in finished if (value := final(each, objective)) is not None]
    low, high = min(values), max(values)
    colours = LinearSegmentedColormap.from_list("shades", SHADES[1:])
    ordered = sorted(finished, key=lambda each: _goodness(each, outcome, low, high))
    for record in ordered:
        good = _goodness(record, outcome, low, high)
        is_best = record is outcome.best
        heights = [_height(outcome, record, key) for key in keys]
        shown = 0.5 if low == high else (values[finished.index(record)] - low) / (high - low)
        curve = _smooth([*heights, shown])
        axes.add_patch(
            PathPatch(
                curve,
                facecolor="none",
                edgecolor=VERMILION if is_best else colours(good),
                linewidth=2.4 if is_best else 1.3,
                zorder=3 if is_best else 2,
                alpha=0.95,
                clip_on=False,
            )
        )
    for index, key in enumerate(keys):
        _draw_axis(axes, index, outcome.space.parameters[key], _is_conditional(outcome, key))
    _draw_scale(axes, len(keys), low, high)
    headings = [
        *(_folded(names[key]) for key in keys),
        _folded(f"{objective.name} (%)") + ("\nless is better" if objective.mode == "min" else ""),
    ]
    axes.set_xticks(range(len(headings)), headings)
    for label in axes.get_xticklabels():
        label.set(rotation=28, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set_xlim(-0.25, len(keys) + 0.45)
    axes.set_ylim(-0.16, 1.06)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=INK)
    return figure


def position(parameter: AnyParameter, value: Any) -> float:
    """Where a value lies in its range, in [0, 1]; on a logarithmic scale where it has one."""
    if isinstance(parameter, Choices):
        places = [index for index, each in enumerate(parameter.choices) if same(each, value)]
        return places[0] / max(1, len(parameter.choices) - 1) if places else 0.0
    low, high = float(parameter.low), float(parameter.high)
    if parameter.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def kernel_mean(places: np.ndarray, known: np.ndarray, bandwidth: float) -> np.ndarray:
    """Nadaraya-Watson mean of `known[:, 1]` at `places`, where `known[:, 0]` are their places.

    Args:
        places: [N].
        known: [M, 2].
        bandwidth: the Gaussian's standard deviation, in places.
    """
    distances = (places[:, None] - known[None, :, 0]) / bandwidth
    # The nearest has weight 1, so that far from all the nearest counts and nothing is 0 / 0.
    exponents = -0.5 * distances**2
    weights = np.exp(exponents - exponents.max(axis=1, keepdims=True))
    return (weights * known[None, :, 1]).sum(axis=1) / weights.sum(axis=1)


def _draw_response(axes: Axes, outcome: Outcome, key: str, parameter: AnyParameter) -> None:
    """Trials at their values, and the parameter's scale below."""
    numbers = [record for record in outcome.records if key in record.values]
    if isinstance(parameter, Choices):
        count = len(parameter.choices)
        places = {
            each.number: _beside(
                position(parameter, each.values[key]) * max(1, count - 1), each.number
            )
            for each in numbers
        }
        draw_trials(axes, outcome, places)
        labels = [_folded(format_value(each), 20) for each in parameter.choices]
        axes.set_xticks(range(count), labels)
        if max(map(len, labels)) * count > 26:
            for label in axes.get_xticklabels():
                label.set(rotation=28, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_xlim(-0.6, count - 0.4)
    else:
        draw_trials(axes, outcome, {each.number: each.values[key] for each in numbers})
        _scale(axes, parameter.low, parameter.high, log=parameter.log)
    finish(axes)


def _scale(axes: Axes, low: float, high: float, *, log: bool) -> None:
    whole = isinstance(low, int)
    if log:
        axes.set_xscale("log")
        room = (high / low) ** 0.06
        axes.set_xlim(low / room, high * room)
        few, subs = high / low < 100, (1, 3) if high / low > 10 else (1, 2, 5)
        axes.xaxis.set_major_locator(LogLocator(subs=subs if few else (1,), numticks=7))
        axes.xaxis.set_minor_formatter(NullFormatter())
        if few or whole or low >= 1e-3:
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        room = 0.06 * (high - low)
        axes.set_xlim(low - room, high + room)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=whole))


def _draw_mean(axes: Axes, parameter: AnyParameter, known: np.ndarray) -> None:
    """The mean response along the parameter's range, in its own units."""
    assert not isinstance(parameter, Choices)
    distinct = np.unique(known[:, 0])
    has_few_values = isinstance(parameter, IntRange) or parameter.step is not None
    if has_few_values or len(distinct) <= len(known) / 2:
        places = distinct
        means = np.array([known[known[:, 0] == each, 1].mean() for each in distinct])
    else:
        places = np.linspace(distinct[0], distinct[-1], 120)
        means = kernel_mean(places, known, _BANDWIDTH)
    low, high = float(parameter.low), float(parameter.high)
    along = low * (high / low) ** places if parameter.log else low + places * (high - low)
    axes.plot(along, means, color=INK, linewidth=1.8, alpha=0.75, zorder=2)


def _beside(place: float, number: int) -> float:
    """Equal choices next to each other: a fixed shift by the trial's number."""
    return place + 0.22 * math.sin(2.4 * number)


def _goodness(record: TrialRecord, outcome: Outcome, low: float, high: float) -> float:
    """0 of the worst finished trial, 1 of the best."""
    value = final(record, outcome.objective)
    if value is None or low == high:
        return 1.0
    share = (value - low) / (high - low)
    return share if outcome.objective.mode == "max" else 1 - share


def _height(outcome: Outcome, record: TrialRecord, key: str) -> float:
    if key not in record.values:
        return -0.1
    return position(outcome.space.parameters[key], record.values[key])


def _is_conditional(outcome: Outcome, key: str) -> bool:
    return bool(outcome.space.parameters[key].when)


def _smooth(heights: Sequence[float]) -> Curve:
    """Through the heights, level at every axis, so that lines can be followed."""
    points: list[tuple[float, float]] = [(0.0, heights[0])]
    codes = [Curve.MOVETO]
    for index, (left, right) in enumerate(itertools.pairwise(heights)):
        points += [(index + 0.4, left), (index + 0.6, right), (index + 1.0, right)]
        codes += [Curve.CURVE4] * 3
    return Curve(points, codes)


def _draw_axis(axes: Axes, index: int, parameter: AnyParameter, conditional: bool) -> None:
    axes.vlines(index, 0, 1, color=SOFT, linewidth=1, zorder=4)
    if isinstance(parameter, Choices):
        marks = [
            (position(parameter, each), _folded(format_value(each), 20))
            for each in parameter.choices
        ]
    else:
        marks = [(0.0, format_value(parameter.low)), (1.0, format_value(parameter.high))]
    if conditional:
        marks.append((-0.1, "absent"))
    for height, text in marks:
        axes.annotate(
            text, (index, height), (4, 0), textcoords="offset points", fontsize=8, color=INK,
            va="center", zorder=5, annotation_clip=False,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
        )  # fmt: skip


def _draw_scale(axes: Axes, index: int, low: float, high: float) -> None:
    axes.vlines(index, 0, 1, color=INK, linewidth=1.6, zorder=4)
    ends = [(0.5, low)] if low == high else [(0.0, low), (1.0, high)]
    for height, value in ends:
        axes.annotate(
            f"{value:.1f}", (index, height), (4, 0), textcoords="offset points", fontsize=9,
            weight="bold", color=INK, va="center", annotation_clip=False,
        )  # fmt: skip


def _folded(text: str, width: int = 22) -> str:
    """Cut in two lines, where a dot or an underscore allows it; the rest is cut off."""
    if len(text) <= width:
        return text
    cuts = [index + 1 for index, sign in enumerate(text) if sign in "._, " and index < width]
    cut = cuts[-1] if cuts else width
    rest = text[cut:]
    return f"{text[:cut]}\n{rest if len(rest) <= width else rest[: width - 1] + '…'}"
