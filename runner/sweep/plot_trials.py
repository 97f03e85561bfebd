"""Pictures of whole trials: history, importances, Pareto front."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from runner.plotting.style import BLUE, GREEN, INK, RULE, SHADES, SOFT, VERMILION, new_figure
from runner.sweep.importances import Importances, final
from runner.sweep.objectives import Objective
from runner.sweep.outcome import Outcome
from runner.sweep.table import short_names
from runner.sweep.trial_records import TrialRecord


def draw_history(outcome: Outcome) -> Figure:
    """The first objective of every trial in their order, and the best until then.

    A stopped trial is a ring with the number of domains it had learned, whose average is over
    these alone; a failed one is a cross at the bottom.
    """
    objective, records = outcome.objective, outcome.records
    width = min(16.0, 7.6 + 0.07 * len(records))
    figure = framed((width, 4.6), f"{said_objective(objective)} of every trial", title(outcome))
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
    draw_default(axes, outcome)
    axes.set_xlabel("trial", color=SOFT)
    axes.set_ylabel(said_objective(objective), color=SOFT)
    axes.set_xlim(-0.8, max((record.number for record in records), default=0) + 0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    finish(axes)
    legend(figure, outcome, lines=bool(best), failed=True)
    return figure


def draw_importances(outcome: Outcome) -> Figure:
    """A bar for each parameter: its share of the variance that all explain; by objective."""
    names, groups = short_names(outcome.keys), outcome.importances
    num_bars = max((len(each.of) for each in groups.values()), default=0)
    labels = max((len(names[key]) for each in groups.values() for key in each.of), default=0)
    size_inch = 0.085 * labels + 1.2 + 4.2 * len(groups), 1.6 + 0.34 * max(num_bars, 2)
    size_inch = max(size_inch[0], 6.5), size_inch[1]
    figure = framed(
        size_inch, "What the objective depends on", f"{title(outcome)}; fANOVA, finished trials"
    )
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    for axes, (name, each) in zip(panels, groups.items(), strict=True):
        axes.set_title(
            f"{name}: share of what is explained (%)", color=SOFT, fontsize=10, loc="left"
        )
        _draw_bars(axes, each, names)
    return figure


def draw_pareto(outcome: Outcome) -> Figure:
    """Finished trials by each pair of objectives; those on the front numbered and joined."""
    objectives = outcome.settings.objectives
    pairs = list(itertools.combinations(objectives, 2))
    size_inch = min(24.0, 1.2 + 5.6 * len(pairs)), 5.0
    trials = "1 trial" if len(outcome.front) == 1 else f"{len(outcome.front)} trials"
    figure = framed(size_inch, f"Pareto front of {trials}", title(outcome))
    panels = figure.subplots(1, len(pairs), squeeze=False)[0]
    for axes, (across, up) in zip(panels, pairs, strict=True):
        _draw_pair(axes, outcome, across, up)
    return figure


def draw_trials(axes: Axes, outcome: Outcome, places: dict[int, float]) -> None:
    """Objective of trials at their places on x, by number: filled if finished, else a ring.

    A ring has the number of learned domains in it.
    """
    objective = outcome.objective
    for record in outcome.records:
        value = objective.of(record.last) if record.last else None
        if value is None or record.last is None or record.number not in places:
            continue
        place = places[record.number]
        if record.state == "finished":
            colour = GREEN if record is outcome.default else BLUE
            axes.plot(place, value, "o", color=colour, markersize=6.5, zorder=4)
            continue
        axes.plot(
            place, value, "o", markersize=9.5, markerfacecolor="white", markeredgecolor=SHADES[2],
            markeredgewidth=1.2, zorder=3,
        )  # fmt: skip
        axes.annotate(
            str(record.last.learned_domains), (place, value), ha="center", va="center_baseline",
            fontsize=6.5, color=SOFT, zorder=3, annotation_clip=True,
        )  # fmt: skip
    value = final(outcome.best, objective) if outcome.best else None
    if outcome.best is not None and value is not None and outcome.best.number in places:
        axes.plot(
            places[outcome.best.number], value, "o", markersize=12.5, markerfacecolor="none",
            markeredgecolor=VERMILION, markeredgewidth=1.8, zorder=5,
        )  # fmt: skip


def draw_default(axes: Axes, outcome: Outcome) -> None:
    """A dashed line at the value of the configuration's own values, where a trial has them."""
    value = final_default(outcome)
    if value is not None:
        axes.axhline(value, color=GREEN, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)


def legend(figure: Figure, outcome: Outcome, *, lines: bool = False, failed: bool = False) -> None:
    """What the marks mean, below the picture; only those that are there.

    Args:
        figure: with its panels.
        outcome: which marks there are.
        lines: whether the best so far is drawn.
        failed: whether failed trials are drawn.
    """
    others = [each for each in outcome.records if each is not outcome.default]
    marks: list[Line2D] = []
    if any(each.state == "finished" for each in others):
        marks.append(_mark("finished", BLUE))
    if any(each.state != "finished" and each.reports for each in outcome.records):
        ring = _mark("not finished: so many domains", SHADES[2])
        ring.set(markerfacecolor="white", markersize=9)
        marks.append(ring)
    if failed and outcome.counts.get("failed"):
        cross = _mark("failed", VERMILION)
        cross.set(marker="x", markeredgewidth=1.8)
        marks.append(cross)
    if final_default(outcome) is not None:
        own = _mark("the preset's own values", GREEN)
        own.set(linestyle=(0, (3, 2)), linewidth=1.2)
        marks.append(own)
    if outcome.best is not None:
        best = _mark("best so far" if lines else "best", VERMILION)
        best.set(markerfacecolor="none", markersize=11, markeredgewidth=1.8)
        best.set(linestyle="-" if lines else "", linewidth=1.8)
        marks.append(best)
    if marks:
        figure.legend(
            handles=marks, loc="outside lower left", ncols=3, frameon=False, labelcolor=INK,
            fontsize=9,
        )  # fmt: skip


def final_default(outcome: Outcome) -> float | None:
    """What the preset's own values came to, where a trial has them and finished."""
    return final(outcome.default, outcome.objective) if outcome.default else None


def framed(size_inch: tuple[float, float], heading: str, second: str) -> Figure:
    """An empty figure whose panels stand as far from its edges as its title does."""
    figure = new_figure(size_inch, heading, second)
    left, top = 0.12 / size_inch[0], 0.65 / size_inch[1]
    bottom = 0.06 / size_inch[1]
    rect = (left, bottom, 1 - 2 * left, 1 - top - bottom)
    # The last number of one axis must not touch the first of the next.
    figure.set_layout_engine("constrained", rect=rect, h_pad=0.09, wspace=0.06)
    return figure


def finish(axes: Axes) -> None:
    """The frame of every panel."""
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.tick_params(which="both", length=0, labelcolor=INK)


def said_objective(objective: Objective) -> str:
    """The score with its unit and on whom it is."""
    return f"{objective.name} on validation (%)"


def title(outcome: Outcome) -> str:
    """The second line of every picture."""
    seeds = outcome.settings.seeds
    mean = f", mean of {len(seeds)} seeds" if len(seeds) > 1 else ""
    return f"sweep {outcome.settings.name}: {_counted(outcome)}{mean}"


def _counted(outcome: Outcome) -> str:
    counts = [f"{number} {state}" for state, number in outcome.counts.items()]
    return ", ".join(counts)


def _mark(label: str, colour: str) -> Line2D:
    return Line2D([], [], linestyle="", marker="o", markersize=6.5, color=colour, label=label)


def _best_so_far(records: Sequence[TrialRecord], objective: Objective) -> list[tuple[int, float]]:
    """(number, value) of each finished trial that beat all before it."""
    better: list[tuple[int, float]] = []
    for record in records:
        value = final(record, objective)
        if value is not None and (not better or objective.is_better(value, better[-1][1])):
            better.append((record.number, value))
    return better


def _draw_bars(axes: Axes, each: Importances, names: dict[str, str]) -> None:
    bars = list(each.of.items())
    if not bars:
        axes.text(0, 0.9, each.why, color=INK, va="top", transform=axes.transAxes)
        axes.set_axis_off()
        return
    for height, (_, one) in enumerate(bars):
        share = 100 * one.share
        axes.barh(height, share, 0.62, color=SHADES[2] if one.is_conditional else BLUE)
        said = f"{share:.0f}" + (f", in {one.num_trials} trials" if one.is_conditional else "")
        axes.annotate(
            said, (share, height), (4, 0), textcoords="offset points", va="center", color=INK,
            fontsize=9,
        )  # fmt: skip
    axes.set_yticks(range(len(bars)), [names[key] for key, _ in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 100 * max(one.share for _, one in bars) * 1.3 + 1)
    axes.set_xticks([])
    notes = [f"of {each.num_trials} finished trials"]
    if any(one.is_conditional for _, one in bars):
        notes.append("light: of the trials in which it applies")
    axes.set_xlabel("; ".join(notes), color=SOFT, loc="left", fontsize=9)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(SOFT)
    axes.tick_params(which="both", length=0, labelcolor=INK)


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
                str(number), (x, y), (5, 5), textcoords="offset points", color=INK, fontsize=9,
                zorder=5,
            )  # fmt: skip
    if len(outcome.settings.objectives) == 2:
        stairs = sorted(points[number] for number in front)
        # Better than a trial in both is none, so between two of them lies a corner.
        steps = "post" if across.mode == "min" else "pre"
        axes.step(*zip(*stairs, strict=True), where=steps, color=BLUE, linewidth=1, alpha=0.6)
    if outcome.default is not None and outcome.default.number in points:
        axes.plot(
            *points[outcome.default.number], "o", markerfacecolor="none", markeredgecolor=GREEN,
            markersize=12, markeredgewidth=1.8, zorder=5,
        )  # fmt: skip
        axes.set_title("green ring: the preset's own values", color=SOFT, fontsize=9.5, loc="left")
    axes.margins(0.1)
    finish(axes)
    axes.grid(axis="x", color=RULE, linewidth=0.8)
    axes.set_xlabel(arrow(across, "→", "←"), color=SOFT)
    axes.set_ylabel(arrow(up, "↑", "↓"), color=SOFT)


def arrow(objective: Objective, more: str, less: str) -> str:
    """The objective's name on an axis, and which way is better."""
    return f"{said_objective(objective)}, better {more if objective.mode == 'max' else less}"
