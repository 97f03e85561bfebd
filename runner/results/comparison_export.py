"""A comparison as one flat table, for Markdown, LaTeX and CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from runner.results.comparison import Comparison
from runner.results.finished_runs import Column as Score
from runner.results.finished_runs import Estimate, RunGroup
from runner.results.published import PublishedRow
from runner.results.setting_differences import ABSENT, plain
from runner.results.table import Column, Table

Format = Literal["markdown", "latex", "csv"]
_TEXTS = ("label", "method", "backbone", "benchmark")


def export(comparison: Comparison, metrics: Sequence[str], format: Format) -> str:
    """Formats a comparison, one row per group of seeds or published row.

    Args:
        comparison: comparison to format.
        metrics: metrics of each score; forgetting has only mAP where that is among them.
        format: markdown and latex round and join mean and deviation; csv has columns of unrounded
            means, deviations and numbers of seeds.
    """
    if format == "csv":
        return _csv(comparison, metrics)
    table = _rounded(comparison, metrics)
    return f"{table.to_markdown()}\n" if format == "markdown" else table.to_latex()


def _rounded(comparison: Comparison, metrics: Sequence[str]) -> Table:
    decimals = 2 if comparison.by_text else 1
    scores = _scores(comparison, metrics)
    names = ["", "method", "backbone", "benchmark", *comparison.settings, "seeds"]
    columns = [Column(name, align="left") for name in names]
    columns += [Column(f"{score.name} {metric}") for score, metric in scores]
    rows = [
        [
            *_group_texts(comparison, index, group),
            ", ".join(str(member.config.seed) for member in group.members),
            *(_text(group.estimate(*each), decimals) for each in scores),
        ]
        for index, group in enumerate(comparison.groups)
    ]
    rows += [
        [*_published_texts(comparison, row), "", *(_text(_of(row, *each), 2) for each in scores)]
        for row in comparison.published
    ]
    return Table(tuple(columns), tuple(map(tuple, rows)))


def _csv(comparison: Comparison, metrics: Sequence[str]) -> str:
    scores = _scores(comparison, metrics)
    names = [*_TEXTS, *comparison.settings, "num_seeds", "source"]
    for score, metric in scores:
        name = f"{score.name.replace(' ', '_')}_{metric}"
        names += [name, f"{name}_deviation"]
    rows = [
        [
            *_group_texts(comparison, index, group),
            *(len(group.members), None),
            *(value for each in scores for value in _pair(group.estimate(*each))),
        ]
        for index, group in enumerate(comparison.groups)
    ]
    rows += [
        [
            *_published_texts(comparison, row),
            *(None, comparison.literature.sources[row.source]),
            *(value for each in scores for value in _pair(_of(row, *each))),
        ]
        for row in comparison.published
    ]
    return Table.of(names, rows).to_csv()


def _scores(comparison: Comparison, metrics: Sequence[str]) -> list[tuple[Score, str]]:
    """Columns and their metrics, from left to right."""
    return [
        (column, metric)
        for column in comparison.columns
        for metric in (
            (("mAP",) if "mAP" in metrics else metrics[:1])
            if column.kind == "forgetting"
            else metrics
        )
    ]


def _group_texts(comparison: Comparison, index: int, group: RunGroup) -> list[str]:
    config = group.first.config
    texts = [group.label, config.learner.name, config.backbone.name, group.first.benchmark]
    return texts + [plain(values[index]) for values in comparison.settings.values()]


def _published_texts(comparison: Comparison, row: PublishedRow) -> list[str]:
    return ["", row.method, row.backbone or "", row.benchmark, *[ABSENT] * len(comparison.settings)]


def _of(row: PublishedRow, column: Score, metric: str) -> Estimate | None:
    score = row.scores_in(column).get(metric)
    return None if score is None else Estimate(score)


def _text(estimate: Estimate | None, decimals: int) -> str:
    if estimate is None:
        return ABSENT
    deviation = estimate.deviation
    spread = "" if deviation is None else f" ± {deviation:.{decimals}f}"
    return f"{estimate.mean:.{decimals}f}{spread}"


def _pair(estimate: Estimate | None) -> tuple[float | None, float | None]:
    return (None, None) if estimate is None else (estimate.mean, estimate.deviation)
