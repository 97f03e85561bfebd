"""Console view of a comparison: runs, differences of protocols, then the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from runner.results.comparison import Comparison
from runner.results.finished_runs import Checkpoint
from runner.results.format import format_estimate
from runner.results.score_table import (
    GAP,
    NOT_COMPARABLE,
    TRAINED_OTHERWISE,
    footnotes,
    score_tables,
)
from runner.results.setting_differences import ABSENT, plain

NO_LOCK = (
    "Published rows carry no lock: differences in identity lists and random splits cannot be "
    "checked."
)
_UNBOUNDED = 10_000
_CHECKPOINTS: Mapping[Checkpoint, str] = {
    "validation": "Validation epoch: test scores of the epoch selected on validation identities "
    "(--checkpoint last: of the end of training).",
    "last": "End of training: the run selected no epoch on validation identities.",
}
_REASONS = {
    "people": "trained on different people",
    "training": "trained on other images, captions or descriptions",
    "order": "learned other domains, or in another order",
}


def show_comparison(console: Console, comparison: Comparison, metrics: Sequence[str]) -> None:
    """Prints a comparison; columns that do not fit the console continue in another table.

    Args:
        console: output console.
        comparison: comparison to print.
        metrics: metrics in one cell, such as mAP and R1.
    """
    if comparison.groups:
        _show_runs(console, comparison)
        _show_settings(console, comparison)
    _show_differences(console, comparison)
    tables = score_tables(comparison, metrics, console.width)
    for table in tables:
        console.print()
        _print(console, table)
    if not tables:
        _print(console, Text(f"No published scores of {', '.join(metrics)}."))
        return
    _show_paired(console, comparison, metrics[0])
    notes = [*_notes(comparison, is_bold_seen=console.is_terminal), *_sources(comparison)]
    if notes:
        console.print()
    for note in notes:
        _print(console, Text(note, style="dim"))


def shown_metrics(comparison: Comparison, metric: str) -> tuple[str, ...]:
    """Metrics for `--metric`: `both` is R1, R5, R10 and mAP for text queries, else mAP and R1."""
    if metric != "both":
        return (metric,)
    return ("R1", "R5", "R10", "mAP") if comparison.by_text else ("mAP", "R1")


def _print(console: Console, content: Table | Text) -> None:
    console.print(content, highlight=False)


def _show_runs(console: Console, comparison: Comparison) -> None:
    """Prints the runs; names that do not fit beside the settings follow in lines of their own."""
    table = _runs_table(comparison, with_names=True)
    unbounded = console.options.update_width(_UNBOUNDED)
    if Measurement.get(console, unbounded, table).maximum <= console.width:
        _print(console, table)
        return
    _print(console, _runs_table(comparison, with_names=False))
    for group in comparison.groups:
        for member in group.members:
            line = Text(f"{group.label} seed {member.config.seed}  {member.folder.name}")
            console.print(line, highlight=False, soft_wrap=True)


def _runs_table(comparison: Comparison, *, with_names: bool) -> Table:
    """One row per run; the first row of a group has its label and shared settings."""
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim")
    has_epochs = bool(_checkpoints(comparison))
    headings = ["", "learner", "backbone", "benchmark", "seed"]
    headings += ["epoch"] * has_epochs + ["code"] + ["run"] * with_names
    for heading in headings:
        justify = "right" if heading in ("seed", "epoch") else "left"
        table.add_column(heading, overflow="fold", no_wrap=heading != "benchmark", justify=justify)
    for group in comparison.groups:
        config = group.first.config
        shared = (group.label, config.learner.name, config.backbone.name, group.first.benchmark)
        for index, member in enumerate(group.members):
            run_cells = [str(member.config.seed)]
            run_cells += ["last" if member.epoch is None else str(member.epoch)] * has_epochs
            run_cells += [_short(member.results.get("git_revision"))]
            run_cells += [member.folder.name] * with_names
            cells = (*(shared if index == 0 else ("",) * len(shared)), *run_cells)
            table.add_row(*(Text(cell) for cell in cells))
    return table


def _short(revision: str | None) -> str:
    """First eight digits of a commit, with "+" for a changed tree."""
    return "unknown" if revision is None else revision[:8] + ("+" if revision[-1:] == "+" else "")


def _show_settings(console: Console, comparison: Comparison) -> None:
    """Prints the settings that differ between groups."""
    table = Table.grid(padding=(0, GAP, 0, 0))
    table.add_column(overflow="fold", ratio=1)
    table.add_column(overflow="fold", ratio=1)
    for key, values in comparison.settings.items():
        groups: dict[str, list[str]] = {}
        for group, value in zip(comparison.groups, values, strict=True):
            if value != ABSENT:
                groups.setdefault(plain(value), []).append(group.label)
        shown = [f"{','.join(labels)} {value}" for value, labels in groups.items()]
        table.add_row(Text(key), Text("   ".join(shown)))
    if table.row_count:
        console.print()
        _print(console, Text("Settings that differ:", style="bold yellow"))
        _print(console, table)
    elif len(comparison.groups) > 1 and len({g.first.settings for g in comparison.groups}) == 1:
        console.print()
        _print(console, Text("Settings agree."))


def _show_paired(console: Console, comparison: Comparison, metric: str) -> None:
    """Prints the differences at equal seeds of the first metric shown."""
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim")
    for heading in ("", "score", "difference", "n", "p", "by seed"):
        table.add_column(heading, justify="left" if heading in ("", "score") else "right")
    previous = ""
    for each in comparison.paired:
        if each.metric != metric and not (each.column.kind == "forgetting" and metric == "mAP"):
            continue
        name = f"{each.label} - {each.reference}"
        by_seed, p_value = each.difference.by_seed, each.difference.p_value
        table.add_row(
            Text("" if name == previous else name),
            Text(f"{each.column.name} {each.metric}"),
            Text(format_estimate(each.difference.estimate, "+")),
            str(len(by_seed)),
            "-" if p_value is None else f"{p_value:.2g}",
            Text(" ".join(f"{value:+.1f}" for value in by_seed.values())),
        )
        previous = name
    if table.row_count:
        console.print()
        _print(console, Text("Differences at equal seeds, with p of a paired t-test:"))
        _print(console, table)


def _show_differences(console: Console, comparison: Comparison) -> None:
    if comparison.differences:
        console.print()
        _print(console, Text("Protocol locks differ:", style="bold yellow"))
        table = Table.grid(padding=(0, GAP, 0, 0))
        table.add_column(no_wrap=True, style="bold")
        table.add_column(overflow="fold")
        previous = ""
        for each in comparison.differences:
            domain = each.domain or "all"
            table.add_row(Text("" if domain == previous else domain), Text(each.text))
            previous = domain
        _print(console, table)
    elif sum(len(group.members) for group in comparison.groups) > 1:
        console.print()
        _print(console, Text("Protocol locks agree."))
    if comparison.published and comparison.groups:
        console.print()
        _print(console, Text(NO_LOCK))
    otherwise = comparison.ranked_otherwise
    if otherwise:
        runs = ", ".join(f"{group.label} ({group.ranking})" for group in otherwise)
        sentence = f"No published rows beside {runs}: published results use the standard ranking."
        console.print()
        _print(console, Text(sentence))
    elif comparison.literature.rows and not comparison.published:
        names = dict.fromkeys(group.first.benchmark for group in comparison.groups)
        console.print()
        _print(console, Text(f"No published rows for {', '.join(names)} in this order."))


def _checkpoints(comparison: Comparison) -> list[Checkpoint]:
    """Checkpoints to explain: none if every score is of the end of training."""
    shown: list[Checkpoint] = list(dict.fromkeys(group.checkpoint for group in comparison.groups))
    return shown if "validation" in shown else []


def _notes(comparison: Comparison, *, is_bold_seen: bool) -> list[str]:
    """Checkpoint of the scores, and the meaning of bold, ±, † and ‡, if they occur."""
    notes = [_CHECKPOINTS[each] for each in _checkpoints(comparison)]
    if len(comparison.groups) > 1 and is_bold_seen:
        notes.append("Bold: best of the comparable runs.")
    if any(len(group.members) > 1 for group in comparison.groups):
        notes.append("±: sample standard deviation over seeds.")
    seeds = {
        group.label: ", ".join(str(member.config.seed) for member in group.members)
        for group in comparison.groups
    }
    if len(set(seeds.values())) > 1:
        each = "; ".join(f"{label} {numbers}" for label, numbers in seeds.items())
        notes.append(f"Seeds differ ({each}): only the differences at equal seeds are paired.")
    if any(map(comparison.is_marked, comparison.columns)):
        notes.append(
            f"{NOT_COMPARABLE} does not compare with the first run in its column: other test data "
            "or another ranking, or an average over other domains; not ranked."
        )
    references = {group.label: comparison.reference_of(group).label for group in comparison.groups}
    for label, differences in comparison.trained_otherwise.items():
        reasons: dict[str, list[str]] = {}
        for each in differences:
            reasons.setdefault(_REASONS[each.affects], []).extend([each.domain or ""])
        parts = [
            reason + (f" ({', '.join(domains)})" if any(domains) else "")
            for reason, domains in reasons.items()
        ]
        notes.append(
            f"{TRAINED_OTHERWISE} {label} against {references[label]}: {'; '.join(parts)}."
        )
    return notes


def _sources(comparison: Comparison) -> list[str]:
    return [f"[{number}] {note}" for note, number in footnotes(comparison).items()]
