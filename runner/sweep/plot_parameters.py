"""Plots of parameters: slices, the response to one parameter, and parallel coordinates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from runner.plotting.style import (
    MUTED,
    TEXT,
    VERMILION,
    WHITE_BOX,
    new_figure,
    shades,
    style_axes,
    style_spines,
    tilt_tick_labels,
)
from runner.sweep.importances import final
from runner.sweep.outcome import Outcome
from runner.sweep.parameters import Choices, IntRange, same
from runner.sweep.plot_trials import (
    draw_default_line,
    draw_trials,
    objective_label,
    subtitle,
    trial_legend,
)
from runner.sweep.space import AnyParameter
from runner.sweep.table import format_value, short_names
from runner.sweep.trial_records import TrialRecord

_PER_ROW = 4
_MIN_FOR_CURVE = 6
_BANDWIDTH = 0.12  # as a fraction of the range
_ABSENT = -0.1  # height of a parameter that does not apply


def draw_slice(outcome: Outcome) -> Figure:
    """First objective against each parameter, one panel per parameter."""
    names, parameters = short_names(outcome.keys), outcome.space.parameters
    num_rows = math.ceil(len(parameters) / _PER_ROW)
    num_columns = min(_PER_ROW, len(parameters))
    size_inch = max(6.5, 1.0 + 3.1 * num_columns), 1.5 + 2.7 * num_rows
    heading = f"{objective_label(outcome.objective)} against each parameter"
    figure = new_figure(size_inch, heading, subtitle(outcome))
    panels = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True)
    for axes in panels.flat[len(parameters) :]:
        axes.set_axis_off()
    for axes, (key, parameter) in zip(panels.flat, parameters.items(), strict=False):
        _draw_response(axes, outcome, key, parameter)
        axes.set_title(names[key], color=TEXT, fontsize=9.5 if len(names[key]) < 32 else 8)
    trial_legend(figure, outcome)
    return figure


def draw_response(outcome: Outcome, key: str) -> Figure:
    """First objective against one numeric parameter, with a smooth mean over finished trials.

    The curve is the kernel-weighted mean (Nadaraya-Watson; Gaussian with a standard deviation of
    12 % of the range) within the range of finished trials. For a parameter with few distinct
    values, it is the mean at each value.
    """
    parameter = outcome.space.parameters[key]
    heading = f"Response to {key}" if len(key) < 60 else key
    figure = new_figure((7.6, 4.6), heading, subtitle(outcome))
    axes = figure.add_subplot()
    _draw_response(axes, outcome, key, parameter)
    draw_default_line(axes, outcome)
    known = [
        (position(parameter, record.values[key]), value)
        for record in outcome.records
        if key in record.values and (value := final(record, outcome.objective)) is not None
    ]
    if len(known) >= _MIN_FOR_CURVE:
        _draw_mean(axes, parameter, np.array(known))
    axes.set_xlabel(key, color=MUTED)
    axes.set_ylabel(objective_label(outcome.objective), color=MUTED)
    trial_legend(figure, outcome)
    return figure


def draw_parallel(outcome: Outcome) -> Figure:
    """Parallel coordinates of finished trials: darker lines are better, the best line is red.

    A conditional parameter that did not apply is drawn below its axis.
    """
    objective, keys = outcome.objective, outcome.keys
    finished = [each for each in outcome.records if final(each, objective) is not None]
    names = short_names(keys)
    size_inch = min(30.0, max(6.5, 2.4 + 1.35 * (len(keys) + 1))), 5.4
    figure = new_figure(size_inch, "Finished trials over all parameters", subtitle(outcome))
    axes = figure.add_subplot()
    values = [value for each in finished if (value := final(each, objective)) is not None]
    low, high = min(values), max(values)
    colours = shades(first=1)
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
        *(_wrapped(names[key]) for key in keys),
        _wrapped(f"{objective.name} (%)")
        + ("\nlower is better" if objective.mode == "min" else ""),
    ]
    axes.set_xticks(range(len(headings)), headings)
    tilt_tick_labels(axes, 28, fontsize=9)
    axes.set_xlim(-0.25, len(keys) + 0.45)
    axes.set_ylim(-0.16, 1.06)
    axes.set_yticks([])
    style_spines(axes)
    return figure


def position(parameter: AnyParameter, value: Any) -> float:
    """Position of a value in its parameter's range, in [0, 1]; logarithmic if the range is."""
    if isinstance(parameter, Choices):
        indices = [index for index, each in enumerate(parameter.choices) if same(each, value)]
        return indices[0] / max(1, len(parameter.choices) - 1) if indices else 0.0
    low, high = float(parameter.low), float(parameter.high)
    if parameter.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def kernel_mean(positions: np.ndarray, known: np.ndarray, bandwidth: float) -> np.ndarray:
    """Nadaraya-Watson estimate with a Gaussian kernel.

    Args:
        positions: [N] positions to evaluate.
        known: [M, 2] pairs (position, value).
        bandwidth: standard deviation of the Gaussian, in the unit of the positions.

    Returns:
        [N] means.
    """
    distances = (positions[:, None] - known[None, :, 0]) / bandwidth
    # The nearest pair has weight 1: far from all pairs the result is its value instead of 0 / 0.
    exponents = -0.5 * distances**2
    weights = np.exp(exponents - exponents.max(axis=1, keepdims=True))
    return (weights * known[None, :, 1]).sum(axis=1) / weights.sum(axis=1)


def _draw_response(axes: Axes, outcome: Outcome, key: str, parameter: AnyParameter) -> None:
    """Draws trials at their values and the scale of the parameter."""
    records = [record for record in outcome.records if key in record.values]
    if isinstance(parameter, Choices):
        count = len(parameter.choices)
        positions = {
            each.number: _jittered(
                position(parameter, each.values[key]) * max(1, count - 1), each.number
            )
            for each in records
        }
        draw_trials(axes, outcome, positions)
        labels = [_wrapped(format_value(each), 20) for each in parameter.choices]
        axes.set_xticks(range(count), labels)
        if max(map(len, labels)) * count > 26:
            tilt_tick_labels(axes, 28, fontsize=8)
        axes.set_xlim(-0.6, count - 0.4)
    else:
        draw_trials(axes, outcome, {each.number: each.values[key] for each in records})
        _scale(axes, parameter.low, parameter.high, log=parameter.log)
    style_axes(axes)


def _scale(axes: Axes, low: float, high: float, *, log: bool) -> None:
    is_integer = isinstance(low, int)
    if log:
        axes.set_xscale("log")
        margin = (high / low) ** 0.06
        axes.set_xlim(low / margin, high * margin)
        few, subs = high / low < 100, (1, 3) if high / low > 10 else (1, 2, 5)
        axes.xaxis.set_major_locator(LogLocator(subs=subs if few else (1,), numticks=7))
        axes.xaxis.set_minor_formatter(NullFormatter())
        if few or is_integer or low >= 1e-3:
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        margin = 0.06 * (high - low)
        axes.set_xlim(low - margin, high + margin)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=is_integer))


def _draw_mean(axes: Axes, parameter: AnyParameter, known: np.ndarray) -> None:
    """Draws the mean response along the parameter's range, in the parameter's unit."""
    assert not isinstance(parameter, Choices)
    distinct = np.unique(known[:, 0])
    has_few_values = isinstance(parameter, IntRange) or parameter.step is not None
    if has_few_values or len(distinct) <= len(known) / 2:
        positions = distinct
        means = np.array([known[known[:, 0] == each, 1].mean() for each in distinct])
    else:
        positions = np.linspace(distinct[0], distinct[-1], 120)
        means = kernel_mean(positions, known, _BANDWIDTH)
    low, high = float(parameter.low), float(parameter.high)
    x = low * (high / low) ** positions if parameter.log else low + positions * (high - low)
    axes.plot(x, means, color=TEXT, linewidth=1.8, alpha=0.75, zorder=2)


def _jittered(x: float, number: int) -> float:
    """Shifts x by an amount fixed by the trial's number, so that equal choices do not overlap."""
    return x + 0.22 * math.sin(2.4 * number)


def _goodness(record: TrialRecord, outcome: Outcome, low: float, high: float) -> float:
    """Relative quality in [0, 1]: 0 for the worst finished trial, 1 for the best."""
    value = final(record, outcome.objective)
    if value is None or low == high:
        return 1.0
    share = (value - low) / (high - low)
    return share if outcome.objective.mode == "max" else 1 - share


def _height(outcome: Outcome, record: TrialRecord, key: str) -> float:
    if key not in record.values:
        return _ABSENT
    return position(outcome.space.parameters[key], record.values[key])


def _is_conditional(outcome: Outcome, key: str) -> bool:
    return bool(outcome.space.parameters[key].when)


def _smooth(heights: Sequence[float]) -> Curve:
    """Smooth curve through the heights, horizontal at every axis."""
    points: list[tuple[float, float]] = [(0.0, heights[0])]
    codes = [Curve.MOVETO]
    for index, (left, right) in enumerate(itertools.pairwise(heights)):
        points += [(index + 0.4, left), (index + 0.6, right), (index + 1.0, right)]
        codes += [Curve.CURVE4] * 3
    return Curve(points, codes)


def _draw_axis(axes: Axes, index: int, parameter: AnyParameter, conditional: bool) -> None:
    axes.vlines(index, 0, 1, color=MUTED, linewidth=1, zorder=4)
    if isinstance(parameter, Choices):
        marks = [
            (position(parameter, each), _wrapped(format_value(each), 20))
            for each in parameter.choices
        ]
    else:
        marks = [(0.0, format_value(parameter.low)), (1.0, format_value(parameter.high))]
    if conditional:
        marks.append((_ABSENT, "absent"))
    for height, text in marks:
        axes.annotate(
            text, (index, height), (4, 0), textcoords="offset points", fontsize=8, color=TEXT,
            va="center", zorder=5, annotation_clip=False,
            bbox=WHITE_BOX,
        )  # fmt: skip


def _draw_scale(axes: Axes, index: int, low: float, high: float) -> None:
    axes.vlines(index, 0, 1, color=TEXT, linewidth=1.6, zorder=4)
    ends = [(0.5, low)] if low == high else [(0.0, low), (1.0, high)]
    for height, value in ends:
        axes.annotate(
            f"{value:.1f}", (index, height), (4, 0), textcoords="offset points", fontsize=9,
            weight="bold", color=TEXT, va="center", annotation_clip=False,
        )  # fmt: skip


def _wrapped(text: str, width: int = 22) -> str:
    """Wraps text to two lines, preferably after a dot or underscore; truncates the second line."""
    if len(text) <= width:
        return text
    cuts = [
        index + 1 for index, character in enumerate(text) if character in "._, " and index < width
    ]
    cut = cuts[-1] if cuts else width
    rest = text[cut:]
    return f"{text[:cut]}\n{rest if len(rest) <= width else rest[: width - 1] + '…'}"
