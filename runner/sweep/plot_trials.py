"""Plots of whole trials: history, importances, Pareto front."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from runner.plotting.style import (
    BLUE,
    DASHED,
    GREEN,
    MUTED,
    SHADES,
    TEXT,
    VERMILION,
    axes_title,
    figure_legend,
    legend_marker,
    new_figure,
    style_axes,
    style_spines,
)
from runner.sweep.importances import Importances, final
from runner.sweep.objectives import Objective
from runner.sweep.outcome import Outcome
from runner.sweep.table import short_names
from runner.sweep.trial_records import TrialRecord


def draw_history(outcome: Outcome) -> Figure:
    """First objective of every trial in order, and the best value so far.

    A stopped trial is a ring with the number of domains or epochs it had learned; its value is
    that after these only. A failed trial is a cross at the bottom.
    """
    objective, records = outcome.objective, outcome.records
    width = min(16.0, 7.6 + 0.07 * len(records))
    label = objective_label(objective)
    figure = new_figure((width, 4.6), f"{label} of every trial", subtitle(outcome))
    axes = figure.add_subplot()
    draw_trials(axes, outcome, {record.number: record.number for record in records})
    for record in records:
        if record.state == "failed":
            axes.plot(
                record.number, 0.02, "x", color=VERMILION, markersize=7, markeredgewidth=1.8,
                transform=axes.get_xaxis_transform(), clip_on=False,
            )  # fmt: skip
    best = _best_so_far(records, objective)
    if best:
        numbers, values = zip(*best, strict=True)
        last = records[-1].number
        axes.step(
            [*numbers, last + 0.8], [*values, values[-1]], where="post", color=VERMILION,
            linewidth=1.8, zorder=2,
        )  # fmt: skip
    draw_default_line(axes, outcome)
    axes.set_xlim(-0.8, max((record.number for record in records), default=0) + 0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    style_axes(axes, x_label="trial", y_label=label)
    trial_legend(figure, outcome, lines=bool(best), failed=True)
    return figure


def draw_importances(outcome: Outcome) -> Figure:
    """Bar per parameter and objective: share of the variance explained by all parameters."""
    names, groups = short_names(outcome.keys), outcome.importances
    num_bars = max((len(each.of) for each in groups.values()), default=0)
    labels = max((len(names[key]) for each in groups.values() for key in each.of), default=0)
    size_inch = 0.085 * labels + 1.2 + 4.2 * len(groups), 1.6 + 0.34 * max(num_bars, 2)
    size_inch = max(size_inch[0], 6.5), size_inch[1]
    details = f"{subtitle(outcome)}; fANOVA, finished trials"
    figure = new_figure(size_inch, "Importance of the parameters", details)
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    for axes, (name, each) in zip(panels, groups.items(), strict=True):
        axes_title(axes, f"{name}: share of explained variance (%)")
        _draw_bars(axes, each, names)
    return figure


def draw_pareto(outcome: Outcome) -> Figure:
    """Finished trials by pair of objectives; trials on the front are numbered and connected."""
    objectives = outcome.settings.objectives
    pairs = list(itertools.combinations(objectives, 2))
    size_inch = min(24.0, 1.2 + 5.6 * len(pairs)), 5.0
    trials = "1 trial" if len(outcome.front) == 1 else f"{len(outcome.front)} trials"
    figure = new_figure(size_inch, f"Pareto front of {trials}", subtitle(outcome))
    panels = figure.subplots(1, len(pairs), squeeze=False)[0]
    for axes, (across, up) in zip(panels, pairs, strict=True):
        _draw_pair(axes, outcome, across, up)
    return figure


def draw_trials(axes: Axes, outcome: Outcome, positions: dict[int, float]) -> None:
    """Draws the objective of trials: a dot if finished, else a ring with its progress.

    Args:
        axes: axes to draw on.
        outcome: outcome of the sweep.
        positions: x coordinate by trial number; other trials are omitted.
    """
    objective = outcome.objective
    for record in outcome.records:
        value = objective.of(record.last) if record.last else None
        if value is None or record.last is None or record.number not in positions:
            continue
        x = positions[record.number]
        if record.state == "finished":
            colour = GREEN if record is outcome.default else BLUE
            axes.plot(x, value, "o", color=colour, markersize=6.5, zorder=4)
            continue
        axes.plot(
            x, value, "o", markersize=9.5, markerfacecolor="white", markeredgecolor=SHADES[2],
            markeredgewidth=1.2, zorder=3,
        )  # fmt: skip
        axes.annotate(
            str(record.last.progress), (x, value), ha="center", va="center_baseline",
            fontsize=6.5, color=MUTED, zorder=3, annotation_clip=True,
        )  # fmt: skip
    value = final(outcome.best, objective) if outcome.best else None
    if outcome.best is not None and value is not None and outcome.best.number in positions:
        axes.plot(
            positions[outcome.best.number], value, "o", markersize=12.5, markerfacecolor="none",
            markeredgecolor=VERMILION, markeredgewidth=1.8, zorder=5,
        )  # fmt: skip


def draw_default_line(axes: Axes, outcome: Outcome) -> None:
    """Draws a dashed line at the value of the preset's default values, if a trial has them."""
    value = _default_value(outcome)
    if value is not None:
        axes.axhline(value, color=GREEN, linewidth=1.2, linestyle=DASHED, zorder=1)


def trial_legend(
    figure: Figure, outcome: Outcome, *, lines: bool = False, failed: bool = False
) -> None:
    """Adds a legend of the markers in use below the axes.

    Args:
        figure: figure with its axes.
        outcome: outcome of the sweep.
        lines: whether the line of the best value so far is drawn.
        failed: whether failed trials are drawn.
    """
    others = [each for each in outcome.records if each is not outcome.default]
    marks: list[Line2D] = []
    if any(each.state == "finished" for each in others):
        marks.append(legend_marker("finished", BLUE))
    if any(each.state != "finished" and each.reports for each in outcome.records):
        label = (
            f"not finished, with number of {'' if outcome.by_epoch else 'learned '}{outcome.unit}s"
        )
        marks.append(legend_marker(label, SHADES[2], markerfacecolor="white", markersize=9))
    if failed and outcome.counts.get("failed"):
        marks.append(legend_marker("failed", VERMILION, "x", markeredgewidth=1.8))
    if _default_value(outcome) is not None:
        label = "default values of the preset"
        marks.append(legend_marker(label, GREEN, linestyle=(0, (3, 2)), linewidth=1.2))
    if outcome.best is not None:
        best = legend_marker(
            "best so far" if lines else "best", VERMILION, markerfacecolor="none", markersize=11,
            markeredgewidth=1.8, linestyle="-" if lines else "", linewidth=1.8,
        )  # fmt: skip
        marks.append(best)
    if marks:
        figure_legend(figure, marks, num_columns=3)


def objective_label(objective: Objective) -> str:
    """Name of the objective with its unit and split."""
    return f"{objective.name} on validation (%)"


def subtitle(outcome: Outcome) -> str:
    """Second title line of every plot: the sweep, its trials and seeds."""
    seeds = outcome.settings.seeds
    mean = f", mean of {len(seeds)} seeds" if len(seeds) > 1 else ""
    counts = ", ".join(f"{number} {state}" for state, number in outcome.counts.items())
    return f"sweep {outcome.settings.name}: {counts}{mean}"


def _default_value(outcome: Outcome) -> float | None:
    """Objective of the preset's default values, if a finished trial has them."""
    return final(outcome.default, outcome.objective) if outcome.default else None


def _best_so_far(records: Sequence[TrialRecord], objective: Objective) -> list[tuple[int, float]]:
    """(number, value) of each finished trial that is better than all before it."""
    better: list[tuple[int, float]] = []
    for record in records:
        value = final(record, objective)
        if value is not None and (not better or objective.is_better(value, better[-1][1])):
            better.append((record.number, value))
    return better


def _draw_bars(axes: Axes, each: Importances, names: dict[str, str]) -> None:
    bars = list(each.of.items())
    if not bars:
        axes.text(0, 0.9, each.why, color=TEXT, va="top", transform=axes.transAxes)
        axes.set_axis_off()
        return
    for height, (_, one) in enumerate(bars):
        share = 100 * one.share
        axes.barh(height, share, 0.62, color=SHADES[2] if one.is_conditional else BLUE)
        label = f"{share:.0f}" + (f", in {one.num_trials} trials" if one.is_conditional else "")
        axes.annotate(
            label, (share, height), (4, 0), textcoords="offset points", va="center", color=TEXT,
            fontsize=9,
        )  # fmt: skip
    axes.set_yticks(range(len(bars)), [names[key] for key, _ in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 100 * max(one.share for _, one in bars) * 1.3 + 1)
    axes.set_xticks([])
    notes = [f"of {each.num_trials} finished trials"]
    if any(one.is_conditional for _, one in bars):
        notes.append("light bars: only trials in which the parameter applies")
    axes.set_xlabel("; ".join(notes), color=MUTED, loc="left", fontsize=9)
    style_spines(axes, ["left"])


def _draw_pair(axes: Axes, outcome: Outcome, across: Objective, up: Objective) -> None:
    front = {record.number for record in outcome.front}
    points = {
        record.number: (x, y)
        for record in outcome.records
        if (x := final(record, across)) is not None and (y := final(record, up)) is not None
    }
    for number, (x, y) in points.items():
        chosen = number in front
        axes.plot(
            x, y, "o", color=BLUE if chosen else SHADES[2], markersize=8 if chosen else 5.5,
            zorder=4 if chosen else 3,
        )  # fmt: skip
        if chosen:
            axes.annotate(
                str(number), (x, y), (5, 5), textcoords="offset points", color=TEXT, fontsize=9,
                zorder=5,
            )  # fmt: skip
    if len(outcome.settings.objectives) == 2:
        stairs = sorted(points[number] for number in front)
        # No trial is better than a front trial in both objectives, so the front is a staircase.
        steps = "post" if across.mode == "min" else "pre"
        axes.step(*zip(*stairs, strict=True), where=steps, color=BLUE, linewidth=1, alpha=0.6)
    if outcome.default is not None and outcome.default.number in points:
        axes.plot(
            *points[outcome.default.number], "o", markerfacecolor="none", markeredgecolor=GREEN,
            markersize=12, markeredgewidth=1.8, zorder=5,
        )  # fmt: skip
        axes_title(axes, "green ring: default values of the preset")
    axes.margins(0.1)
    style_axes(axes, "both", x_label=_arrow(across, "→", "←"), y_label=_arrow(up, "↑", "↓"))


def _arrow(objective: Objective, more: str, less: str) -> str:
    """Axis label of the objective, with an arrow towards better values."""
    return f"{objective_label(objective)}, better {more if objective.mode == 'max' else less}"
