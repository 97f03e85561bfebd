"""Writes the HTML file of a report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from runner import __version__
from runner.html_report.chart import HEIGHT, WIDTH, Chart
from runner.html_report.loss_curves import loss_charts
from runner.html_report.model_content import ModelContent
from runner.html_report.scores import (
    SUMMARY,
    DomainRow,
    HeatMap,
    SummaryRow,
    comparison_chart,
    domain_rows,
    matrix_heat_map,
    step_chart,
    summary_rows,
)
from runner.html_report.settings import (
    protocol_differences,
    protocol_domains,
    protocol_sentences,
    setting_table,
)
from runner.results.finished_runs import FinishedRun, read_finished
from runner.results.format import MISSING, format_count, format_duration, format_score
from runner.results.run_folder import RunStorage, write_atomically

FILE = "report.html"
"""Name of the report in a run's folder."""

_MAX_UNREADABLE = 100
_DURATIONS = {
    "wall_s": "wall time of the last start",
    "training_s": "training",
    "probing_s": "passes over training images (probes)",
    "waiting_s": "waiting for images",
    "evaluation_s": "evaluation",
    "checkpoints_s": "checkpoints",
}


@dataclass(frozen=True)
class ReportRun:
    """Sections of one run.

    Attributes:
        label: short name in tables and legends.
        run: the finished run.
        summary: summary rows.
        domains: one row per domain.
        matrices: heat maps of mAP and R1.
        steps: curves of mAP and R1 over the steps.
        losses: loss curves by stage.
        facts: duration, throughput and size by name.
        unreadable: unreadable images: domain, split, path, reason; at most `_MAX_UNREADABLE`.
        num_unreadable: number of unreadable images by domain and split.
        model: content that needs the trained model, or None.
    """

    label: str
    run: FinishedRun
    summary: list[SummaryRow]
    domains: list[DomainRow]
    matrices: list[HeatMap]
    steps: list[Chart | None]
    losses: list[Chart]
    facts: dict[str, str]
    unreadable: list[dict[str, str]]
    num_unreadable: dict[str, int]
    model: ModelContent | None


def write_report(
    runs: Sequence[FinishedRun], file: Path, models: Sequence[ModelContent] | None = None
) -> Path:
    """Writes one HTML file about one or several runs; it needs no network and no other file.

    Args:
        runs: at least one finished run.
        file: HTML file; written atomically.
        models: content of each run that needs its trained model; None to leave it out.

    Raises:
        OSError: the file cannot be written.
    """
    labels = run_labels(runs)
    contents: Sequence[ModelContent | None] = models or [None] * len(runs)
    sections = [
        _section(label, run, content)
        for label, run, content in zip(labels, runs, contents, strict=True)
    ]
    named = list(zip(labels, runs, strict=True))
    text = (
        _environment()
        .get_template("report.html.j2")
        .render(
            runs=sections,
            title=", ".join(run.folder.name for run in runs),
            version=__version__,
            summary_headings=list(SUMMARY.values()),
            comparisons=_comparisons(named),
            settings=setting_table(named),
            protocol=protocol_sentences(runs[0].lock),
            protocol_domains=protocol_domains(runs[0].lock),
            protocol_differences=protocol_differences(named) if len(runs) > 1 else [],
            fact_names=list(dict.fromkeys(name for each in sections for name in each.facts)),
            width=WIDTH,
            height=HEIGHT,
        )
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, text)
    return file


def write_run_report(folder: Path) -> Path:
    """Writes the report of a finished run without its model beside results.json.

    Raises:
        ValueError, OSError: a file of the run is damaged, or the report cannot be written.
    """
    return write_report([read_finished(str(folder))], folder / FILE)


def run_labels(runs: Sequence[FinishedRun]) -> list[str]:
    """Distinct names of runs: the learner, with the seed and then a number where needed."""
    labels = [run.config.learner.name for run in runs]
    if len(set(labels)) < len(labels):
        labels = [f"{run.config.learner.name} seed {run.config.seed}" for run in runs]
    repeated = {label for label, count in Counter(labels).items() if count > 1}
    return [
        f"{label} ({number})" if label in repeated else label
        for number, label in enumerate(labels, start=1)
    ]


def _section(label: str, run: FinishedRun, model: ModelContent | None) -> ReportRun:
    storage = RunStorage(run.folder)
    unreadable = _unreadable(storage.unreadable_file)
    places = Counter(f"{each['domain']}, {each['split']}" for each in unreadable)
    return ReportRun(
        label=label,
        run=run,
        summary=summary_rows(run),
        domains=domain_rows(run.matrix),
        matrices=[matrix_heat_map(run.matrix, metric) for metric in ("mAP", "R1")],
        steps=[step_chart(run.matrix, metric) for metric in ("mAP", "R1")],
        losses=loss_charts(storage.events_file),
        facts=_facts(run.results),
        unreadable=unreadable[:_MAX_UNREADABLE],
        num_unreadable=dict(places),
        model=model,
    )


def _comparisons(runs: Sequence[tuple[str, FinishedRun]]) -> list[Chart]:
    """Charts with one line per run; none for a single run."""
    matrices = [(label, run.matrix) for label, run in runs]
    charts = [
        comparison_chart(matrices, metric, group)
        for metric in ("mAP", "R1")
        for group in ("seen", "unseen")
        if len(runs) > 1
    ]
    return [chart for chart in charts if chart is not None]


def _facts(results: Mapping[str, Any]) -> dict[str, str]:
    """Durations, throughput and sizes of a run as text."""
    timings = results.get("timings") or {}
    facts = {
        name: format_duration(timings[key]) for key, name in _DURATIONS.items() if key in timings
    }
    rates = {
        "train_images_per_s": "training images per second",
        "evaluation_images_per_s": "evaluated images per second",
    }
    facts |= {name: format_score(timings[key]) for key, name in rates.items() if key in timings}
    counts = {
        "num_iterations": "iterations",
        "num_parameters": "parameters",
        "num_trainable_parameters": "trained parameters",
        "stored_bytes_per_domain": "bytes stored per domain",
        "num_starts": "starts",
    }
    values = {name: results.get(key) for key, name in counts.items()}
    return facts | {
        name: MISSING if value is None else format_count(value) for name, value in values.items()
    }


def _unreadable(file: Path) -> list[dict[str, str]]:
    """Lines of quarantine.jsonl; a line cut off by a crash is left out."""
    if not file.is_file():
        return []
    images: list[dict[str, str]] = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            image = json.loads(line)
        except ValueError:
            continue
        if isinstance(image, dict):
            names = ("domain", "split", "path", "reason")
            images.append({name: str(image.get(name, "")) for name in names})
    return images


def _environment() -> Environment:
    """Templates with escaping of everything that comes from users and files."""
    environment = Environment(
        loader=PackageLoader("runner.html_report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = format_score
    return environment
