"""Loss curves of a run from its event log, one chart per stage."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from runner.html_report.chart import Chart, Line, line_chart, thinned
from runner.tracking.event_log import Event, as_number, read_events

_Curve = dict[int, dict[str, float]]
"""Loss and weighted terms of one stage in one domain, by the iteration of the run."""


def loss_charts(events_file: Path) -> list[Chart]:
    """Draws the loss of each stage, and its terms multiplied by their weights.

    The iterations of a stage in several domains follow one another; a vertical line marks the
    beginning of a domain. An iteration that a resumed run repeated is drawn once.
    """
    curves = _curves(read_events(events_file).events)
    charts: list[Chart] = []
    for stage in dict.fromkeys(stage for stage, _ in curves):
        by_domain = {domain: curve for (each, domain), curve in curves.items() if each == stage}
        chart = _chart(stage, by_domain)
        if chart is not None:
            charts.append(chart)
    return charts


def _curves(events: Iterable[Event]) -> dict[tuple[str, str], _Curve]:
    """Curves by stage and domain, in the order of the events."""
    curves: dict[tuple[str, str], _Curve] = {}
    for event in events:
        if event["event"] != "iteration":
            continue
        loss = as_number(event.get("loss"))
        if loss is None:
            continue
        curve = curves.setdefault((str(event.get("stage")), str(event.get("domain"))), {})
        weights = event.get("weights") or {}
        values = {"loss": loss}
        for name, value in (event.get("terms") or {}).items():
            term, weight = as_number(value), as_number(weights.get(name, 1.0))
            if term is not None and weight:
                values[name] = term * weight
        curve[int(event["iteration"])] = values
    return curves


def _chart(stage: str, by_domain: dict[str, _Curve]) -> Chart | None:
    points: dict[str, list[tuple[float, float]]] = {}
    marks: list[tuple[float, str]] = []
    start = 0
    for domain, curve in by_domain.items():
        marks.append((float(start), domain))
        for offset, number in enumerate(sorted(curve)):
            for name, value in curve[number].items():
                points.setdefault(name, []).append((float(start + offset), value))
        start += len(curve)
    lines = [
        Line(name, thinned(values), colour=index - 1, is_bold=name == "loss")
        for index, (name, values) in enumerate(points.items())
    ]
    if len(lines) == 2:  # the loss is its only term
        lines = lines[:1]
    return line_chart(f"stage {stage}", lines, x_label="iteration of the stage", marks=marks)
