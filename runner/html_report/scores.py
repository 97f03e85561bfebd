"""Scores of runs: summary, scores by domain, result matrices and curves over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from runner.html_report.chart import Chart, Line, line_chart
from runner.results.finished_runs import FinishedRun
from runner.results.format import format_score
from tasks.retrieval.metrics import METRICS, ResultMatrix

SUMMARY = {
    "seen_mAP": "seen mAP",
    "seen_R1": "seen R1",
    "unseen_mAP": "unseen mAP",
    "unseen_R1": "unseen R1",
    "forgetting_mAP": "forgetting mAP",
    "backward_transfer_mAP": "backward transfer mAP",
    "forward_transfer_mAP": "forward transfer mAP",
    "average_incremental_mAP": "average incremental mAP",
}
"""Headings of the summary by field of results.json."""


@dataclass(frozen=True)
class SummaryRow:
    """Formatted values in the order of `SUMMARY`."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class DomainRow:
    """Scores of one domain; None if missing.

    Attributes:
        domain: name of the domain.
        step: step that learned it; None for an unseen domain.
        scores: by metric, after the last step.
        untrained: mAP before training.
        learned: mAP right after the domain was learned.
        forgotten: best mAP after steps 1 to T - 1, minus the last mAP.
    """

    domain: str
    step: int | None
    scores: dict[str, float | None]
    untrained: float | None
    learned: float | None = None
    forgotten: float | None = None


@dataclass(frozen=True)
class Cell:
    """One cell of a heat map.

    Attributes:
        value: value in percent; None if missing.
        text: formatted value.
        tip: tooltip.
        kind: "learned-now", "learned", "" (not learned yet) or "unseen".
    """

    value: float | None
    text: str
    tip: str
    kind: str = ""


@dataclass(frozen=True)
class HeatMap:
    """Heat map of values in percent.

    Attributes:
        title: heading.
        columns: names of the columns.
        rows: name and cells of each row.
        num_seen: number of columns before the gap; all columns for none.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    num_seen: int


def summary_rows(run: FinishedRun) -> list[SummaryRow]:
    """Rows of a run: after the last domain, before training, and of random rankings."""
    matrix, chance = run.matrix, run.results.get("chance") or {}
    untrained = {
        f"{group}_{metric}": _mean([matrix.score(metric, 0, domain) for domain in domains])
        for group, domains in (("seen", matrix.seen), ("unseen", matrix.unseen))
        for metric in ("mAP", "R1")
    }
    rows = {"result": matrix.summary(), "before training": untrained, "random ranking": chance}
    return [
        SummaryRow(name, tuple(format_score(values.get(key)) for key in SUMMARY))
        for name, values in rows.items()
    ]


def domain_rows(matrix: ResultMatrix) -> list[DomainRow]:
    """One row per domain, seen domains first."""
    last = matrix.num_steps

    def row(domain: str, step: int | None) -> DomainRow:
        scores = {metric: matrix.score(metric, last, domain) for metric in METRICS}
        untrained = matrix.score("mAP", 0, domain)
        if step is None:
            return DomainRow(domain, None, scores, untrained)
        learned = matrix.score("mAP", step, domain)
        return DomainRow(domain, step, scores, untrained, learned, forgotten(matrix, step))

    seen = [row(domain, step) for step, domain in enumerate(matrix.seen, start=1)]
    return seen + [row(domain, None) for domain in matrix.unseen]


def forgotten(matrix: ResultMatrix, step: int) -> float | None:
    """Best mAP of the domain of a step after steps 1 to T - 1, minus its last mAP."""
    last, domain = matrix.num_steps, matrix.seen[step - 1]
    scores = [matrix.score("mAP", each, domain) for each in range(1, last + 1)]
    known = [score for score in scores if score is not None]
    if step == last or len(known) < last:
        return None
    return max(known[:-1]) - known[-1]


def step_names(matrix: ResultMatrix) -> list[str]:
    """Names of the rows of a result matrix."""
    return ["untrained", *(f"{step} {name}" for step, name in enumerate(matrix.seen, start=1))]


def matrix_heat_map(matrix: ResultMatrix, metric: str) -> HeatMap:
    """Result matrix of one metric, with all metrics of a cell in its tooltip."""
    domains = matrix.seen + matrix.unseen
    rows = [
        (name, tuple(_cell(matrix, metric, step, index) for index in range(len(domains))))
        for step, name in enumerate(step_names(matrix))
    ]
    title = f"{metric} after each step (%)"
    return HeatMap(title, domains, tuple(rows), len(matrix.seen))


def step_chart(matrix: ResultMatrix, metric: str) -> Chart | None:
    """A line per domain over the steps; unseen domains are dashed, the learned average is bold."""
    steps, names = range(matrix.num_steps + 1), step_names(matrix)

    def line(domain: str, index: int) -> Line:
        values = [matrix.score(metric, step, domain) for step in steps]
        tips = [
            f"{domain}, {metric} {format_score(value)}, {name}"
            for value, name in zip(values, names, strict=True)
        ]
        is_unseen = domain in matrix.unseen
        return Line(domain, list(enumerate(values)), tips, index, is_dashed=is_unseen)

    average = [matrix.seen_average(metric, step) for step in steps]
    lines = [line(domain, index) for index, domain in enumerate(matrix.seen + matrix.unseen)]
    name = "average of learned domains"
    tips = [
        f"{name}, {metric} {format_score(value)}, {each}"
        for value, each in zip(average, names, strict=True)
    ]
    lines.append(Line(name, list(enumerate(average)), tips, is_bold=True))
    return line_chart(f"{metric} over the steps (%)", lines, x_labels=names)


def comparison_chart(
    runs: Sequence[tuple[str, ResultMatrix]], metric: str, group: str
) -> Chart | None:
    """One line per run over the steps: the average over learned or unseen domains.

    Args:
        runs: label and result matrix of each run.
        metric: metric of the chart.
        group: "seen" for the domains learned by each step, "unseen" for unseen domains.
    """
    lines: list[Line] = []
    for index, (label, matrix) in enumerate(runs):
        average = matrix.seen_average if group == "seen" else matrix.unseen_average
        values = [average(metric, step) for step in range(matrix.num_steps + 1)]
        tips = [f"{label}, step {step}: {format_score(value)}" for step, value in enumerate(values)]
        lines.append(Line(label, list(enumerate(values)), tips, index))
    longest = max(matrix.num_steps for _, matrix in runs)
    words = "learned" if group == "seen" else "unseen"
    title = f"{metric} averaged over {words} domains (%)"
    labels = [str(step) for step in range(longest + 1)]
    return line_chart(title, lines, x_labels=labels, x_label="step")


def _cell(matrix: ResultMatrix, metric: str, step: int, index: int) -> Cell:
    domain = (matrix.seen + matrix.unseen)[index]
    if index >= len(matrix.seen):
        kind = "unseen"
    elif index + 1 == step:
        kind = "learned-now"
    else:
        kind = "learned" if index < step else ""
    scores = ", ".join(
        f"{each} {format_score(matrix.score(each, step, domain))}" for each in METRICS
    )
    when = "before training" if step == 0 else f"after step {step} ({matrix.seen[step - 1]})"
    value = matrix.score(metric, step, domain)
    return Cell(value, format_score(value), f"{domain}, {when}: {scores}", kind)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None
