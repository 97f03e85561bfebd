"""Console view of a comparison: runs, differences of protocols, then the scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner.results.comparison import Comparison
from runner.results.finished_runs import Column, Estimate, RunGroup
from runner.results.format import MISSING
from runner.results.published import PublishedRow

NO_LOCK = (
    "Published rows carry no lock: differences in identity lists and random splits cannot be "
    "checked."
)
_NOT_COMPARABLE, _TRAINED_OTHERWISE = "†", "‡"
_GAP, _WIDEST_NAME = 2, 26
_SECTIONS = (("seen",), ("seen average", "unseen average", "forgetting"), ("unseen",))
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
    _print(console, _runs_table(comparison))
    _show_differences(console, comparison)
    for table in _ScoreTables(comparison, tuple(metrics)).tables(console.width):
        console.print()
        _print(console, table)
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


def _runs_table(comparison: Comparison) -> Table:
    """One row per run; the first row of a group has its label and shared settings."""
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    for heading in ("", "learner", "backbone", "benchmark", "seed", "code", "run"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "seed" else "left")
    for group in comparison.groups:
        config = group.first.config
        shared = (group.label, config.learner.name, config.backbone.name, group.first.benchmark)
        for index, member in enumerate(group.members):
            revision = member.results.get("git_revision")
            run_cells = (str(member.config.seed), _short(revision), member.folder.name)
            cells = (*(shared if index == 0 else ("",) * len(shared)), *run_cells)
            table.add_row(*(Text(cell) for cell in cells))
    return table


def _short(revision: str | None) -> str:
    """First eight digits of a commit, with "+" for a changed tree."""
    return "unknown" if revision is None else revision[:8] + ("+" if revision[-1:] == "+" else "")


def _show_differences(console: Console, comparison: Comparison) -> None:
    if comparison.differences:
        console.print()
        _print(console, Text("Protocol locks differ:", style="bold yellow"))
        table = Table.grid(padding=(0, _GAP, 0, 0))
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
    if comparison.published:
        console.print()
        _print(console, Text(NO_LOCK))
    elif comparison.literature.rows:
        names = dict.fromkeys(group.first.benchmark for group in comparison.groups)
        console.print()
        _print(console, Text(f"No published rows for {', '.join(names)} in this order."))


@dataclass(frozen=True)
class _ScoreTables:
    """Tables of scores: runs first, then published rows."""

    comparison: Comparison
    metrics: tuple[str, ...]

    @property
    def decimals(self) -> int:
        """Decimals as in the literature: text-to-image papers print two."""
        return 2 if self.comparison.by_text else 1

    def tables(self, width: int) -> list[Table]:
        """Splits the columns into as many tables as the width requires."""
        rows = self._rows(self.comparison.columns)
        widths = {
            column: max(
                cell.cell_len
                for line in (self._heading(column), *(cells[index + 1] for cells in rows))
                for cell in line.split("\n")
            )
            for index, column in enumerate(self.comparison.columns)
        }
        names = [line.cell_len for cells in rows for line in cells[0].split("\n")]
        name_width = min(_WIDEST_NAME, max(names))
        blocks = _blocks(self.comparison.columns, lambda each: widths[each], width - name_width)
        return [self._table(block, name_width) for block in blocks]

    def _table(self, columns: Sequence[Column], name_width: int) -> Table:
        table = Table(
            box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0)
        )
        table.add_column("", width=name_width, overflow="fold")
        for column in columns:
            table.add_column(self._heading(column), justify="right", no_wrap=True)
        for index, cells in enumerate(self._rows(columns)):
            if index == len(self.comparison.groups):
                table.add_section()
            table.add_row(*cells)
        return table

    def _heading(self, column: Column) -> Text:
        return Text(f"{column.name}\n{'/'.join(self._metrics_of(column))}")

    def _metrics_of(self, column: Column) -> tuple[str, ...]:
        """Metrics of a column; forgetting shows only one."""
        if column.kind != "forgetting":
            return self.metrics
        return ("mAP",) if "mAP" in self.metrics else self.metrics[:1]

    def _rows(self, columns: Sequence[Column]) -> list[list[Text]]:
        """Name and cells of every group, and of published rows with a score in these columns."""
        rows = [
            [self._name(group), *(self._cell(group, column) for column in columns)]
            for group in self.comparison.groups
        ]
        numbers = _footnotes(self.comparison)
        for row in self.comparison.published:
            cells = [self._published_cell(row, column) for column in columns]
            if any(cell.plain.strip() != MISSING for cell in cells):
                footnote = numbers[_footnote(self.comparison, row)]
                rows.append([Text(f"{row.method} [{footnote}]", style="dim"), *cells])
        return rows

    def _name(self, group: RunGroup) -> Text:
        name = Text(f"{group.label} {group.first.config.learner.name}")
        name.append(_TRAINED_OTHERWISE if group.label in self.comparison.trained_otherwise else "")
        if len(group.members) > 1:
            name.append(f"\n  {len(group.members)} seeds", style="dim")
        return name

    def _cell(self, group: RunGroup, column: Column) -> Text:
        metrics = self._metrics_of(column)
        estimates = {metric: group.estimate(column, metric) for metric in metrics}
        if all(estimate is None for estimate in estimates.values()):
            return Text(MISSING + self._blank(column), style="dim")
        cell = Text()
        for index, (metric, estimate) in enumerate(estimates.items()):
            is_best = group.label in self._best(column, metric)
            cell.append("/" if index else "")
            cell.append(self._format(estimate), style="bold" if is_best else "")
        marked = (group.label, column) in self.comparison.incomparable
        cell.append(_NOT_COMPARABLE if marked else self._blank(column))
        deviations = [each.deviation for each in estimates.values() if each is not None]
        if None not in deviations:
            text = "/".join(f"{each:.{self.decimals}f}" for each in deviations)
            cell.append(f"\n±{text}{self._blank(column)}", style="dim")
        return cell

    def _published_cell(self, row: PublishedRow, column: Column) -> Text:
        published = {
            "seen average": row.seen_average,
            "unseen average": row.unseen_average,
            "forgetting": {},
        }.get(column.kind, row.domains.get(column.domain, {}))
        scores = [published.get(metric) for metric in self._metrics_of(column)]
        if all(score is None for score in scores):
            return Text(MISSING + self._blank(column), style="dim")
        text = "/".join(self._format(score and Estimate(score)) for score in scores)
        compares = self.comparison.published_compares(row, column)
        return Text(text + (self._blank(column) if compares else _NOT_COMPARABLE), style="dim")

    def _format(self, estimate: Estimate | None) -> str:
        return MISSING if estimate is None else f"{estimate.mean:.{self.decimals}f}"

    def _blank(self, column: Column) -> str:
        """Blank that aligns the cell with marked cells of the column."""
        comparison = self.comparison
        marked = any(each == column for _, each in comparison.incomparable) or not all(
            comparison.published_compares(row, column) for row in comparison.published
        )
        return " " if marked else ""

    def _best(self, column: Column, metric: str) -> list[str]:
        """Labels of the best comparable groups, by the displayed digits."""
        displayed: dict[str, float] = {}
        for group in self.comparison.groups:
            estimate = group.estimate(column, metric)
            if estimate and (group.label, column) not in self.comparison.incomparable:
                displayed[group.label] = float(self._format(estimate))
        if len(displayed) < 2:
            return []
        best = (min if column.kind == "forgetting" else max)(displayed.values())
        return [label for label, value in displayed.items() if value == best]


def _blocks(
    columns: Iterable[Column], width_of: Callable[[Column], int], max_width: int
) -> list[list[Column]]:
    """Splits columns into blocks that fit; breaks between seen, averages and unseen first."""

    def fits(block: Sequence[Column]) -> bool:
        return sum(width_of(column) + _GAP for column in block) <= max_width

    blocks: list[list[Column]] = []
    for kinds in _SECTIONS:
        section = [column for column in columns if column.kind in kinds]
        if blocks and fits([*blocks[-1], *section]):
            blocks[-1] += section
            continue
        for index, column in enumerate(section):
            if index and fits([*blocks[-1], column]):
                blocks[-1].append(column)
            else:
                blocks.append([column])
    return blocks


def _notes(comparison: Comparison, *, is_bold_seen: bool) -> list[str]:
    """Meaning of bold, ±, † and ‡, if they occur."""
    notes: list[str] = []
    if len(comparison.groups) > 1 and is_bold_seen:
        notes.append("Bold: best of the comparable runs.")
    if any(len(group.members) > 1 for group in comparison.groups):
        notes.append("±: sample standard deviation over seeds.")
    if comparison.incomparable or not all(
        comparison.published_compares(row, column)
        for row in comparison.published
        for column in comparison.columns
    ):
        notes.append(
            f"{_NOT_COMPARABLE} does not compare with the first run in its column: other "
            "test data, or an average over other domains; not ranked."
        )
    for label, differences in comparison.trained_otherwise.items():
        reasons: dict[str, list[str]] = {}
        for each in differences:
            reasons.setdefault(_REASONS[each.affects], []).extend([each.domain or ""])
        parts = [
            reason + (f" ({', '.join(domains)})" if any(domains) else "")
            for reason, domains in reasons.items()
        ]
        notes.append(
            f"{_TRAINED_OTHERWISE} {label} against {comparison.reference.label}: "
            f"{'; '.join(parts)}."
        )
    return notes


def _footnote(comparison: Comparison, row: PublishedRow) -> str:
    """Backbone, source and remarks of a published row."""
    literature = comparison.literature
    has_several_benchmarks = len({each.benchmark for each in comparison.published}) > 1
    return "; ".join(
        [
            *((row.benchmark,) if has_several_benchmarks else ()),
            row.backbone or "backbone not stated",
            literature.sources[row.source],
            *(literature.remarks[key] for key in row.remarks),
        ]
    )


def _footnotes(comparison: Comparison) -> dict[str, int]:
    """Number of each footnote, from 1 in the order of the rows."""
    notes = dict.fromkeys(_footnote(comparison, row) for row in comparison.published)
    return {note: index for index, note in enumerate(notes, start=1)}


def _sources(comparison: Comparison) -> list[str]:
    return [f"[{number}] {note}" for note, number in _footnotes(comparison).items()]
