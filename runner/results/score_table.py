"""Tables of scores of a comparison: runs first, then published rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from runner.results.comparison import Comparison
from runner.results.finished_runs import Column, Estimate, RunGroup
from runner.results.published import PublishedRow

NOT_COMPARABLE, TRAINED_OTHERWISE = "†", "‡"
MISSING = "-"
"""Missing score, as the tables of papers print it."""
GAP = 2
_WIDEST_NAME = 26
_SECTIONS = (("seen",), ("seen average", "unseen average", "forgetting"), ("unseen",))
_STACKED = 2


def score_tables(comparison: Comparison, metrics: Sequence[str], width: int) -> list[Table]:
    """Tables of scores, in one table if that fits the width; none without a score.

    If four metrics do not fit side by side, a cell has two lines of two metrics; if that does not
    fit either, the columns continue in further tables.

    Args:
        comparison: comparison to show.
        metrics: metrics in one cell, such as mAP and R1.
        width: width of the console in characters.
    """
    tables = ScoreTables(comparison, tuple(metrics), len(metrics)).tables(width)
    if len(tables) > 1 and len(metrics) > _STACKED:
        stacked = ScoreTables(comparison, tuple(metrics), _STACKED).tables(width)
        return stacked if len(stacked) == 1 else tables
    return tables


@dataclass(frozen=True)
class ScoreTables:
    """Tables of the scores of a comparison.

    Attributes:
        comparison: comparison to show.
        metrics: metrics in one cell.
        per_line: number of metrics in a line of a cell.
    """

    comparison: Comparison
    metrics: tuple[str, ...]
    per_line: int

    @property
    def decimals(self) -> int:
        """Decimals as in the literature: text-to-image papers print two."""
        return 2 if self.comparison.by_text else 1

    def tables(self, width: int) -> list[Table]:
        """Splits the columns into as many tables as the width requires."""
        columns = self.comparison.columns
        rows = [*self._group_rows(columns), *self._published_rows(columns)]
        if not rows:
            return []
        widths = {
            column: max(
                cell.cell_len
                for line in (self._heading(column), *(cells[index + 1] for cells in rows))
                for cell in line.split("\n")
            )
            for index, column in enumerate(columns)
        }
        names = [line.cell_len for cells in rows for line in cells[0].split("\n")]
        name_width = min(_WIDEST_NAME, max(names))
        blocks = _blocks(columns, lambda each: widths[each], width - name_width)
        return [self._table(block, name_width) for block in blocks]

    def _table(self, columns: Sequence[Column], name_width: int) -> Table:
        table = Table(
            box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0)
        )
        table.add_column("", width=name_width, overflow="fold")
        for column in columns:
            table.add_column(self._heading(column), justify="right", no_wrap=True)
        for cells in self._group_rows(columns):
            table.add_row(*cells)
        table.add_section()
        for cells in self._published_rows(columns):
            table.add_row(*cells)
        return table

    def _heading(self, column: Column) -> Text:
        lines = ["/".join(metrics) for metrics in self._lines_of(column)]
        return Text("\n".join([column.name, *lines]))

    def _lines_of(self, column: Column) -> list[tuple[str, ...]]:
        """Metrics of each line of a column's cells; forgetting shows only one."""
        if column.kind == "forgetting":
            return [("mAP",) if "mAP" in self.metrics else self.metrics[:1]]
        starts = range(0, len(self.metrics), self.per_line)
        return [self.metrics[start : start + self.per_line] for start in starts]

    def _group_rows(self, columns: Sequence[Column]) -> list[list[Text]]:
        """Name and cells of the runs."""
        return [
            [self._name(groups), *(self._cell(groups, column) for column in columns)]
            for groups in self.comparison.group_rows
        ]

    def _published_rows(self, columns: Sequence[Column]) -> list[list[Text]]:
        """Name and cells of the published rows with a score in these columns."""
        numbers = footnotes(self.comparison)
        rows: list[list[Text]] = []
        for published in self.comparison.published_rows:
            cells = [self._published_cell(published, column) for column in columns]
            if any(cell.plain.strip() != MISSING for cell in cells):
                number = numbers[footnote(self.comparison, published)]
                rows.append([Text(f"{published[0].method} [{number}]", style="dim"), *cells])
        return rows

    def _name(self, groups: Sequence[RunGroup]) -> Text:
        labels = ",".join(group.label for group in groups)
        name = Text(f"{labels} {groups[0].first.config.learner.name}")
        otherwise = self.comparison.trained_otherwise
        name.append(TRAINED_OTHERWISE if any(each.label in otherwise for each in groups) else "")
        details = [_seeds_of(groups)]
        if len({group.checkpoint for group in self.comparison.groups}) > 1:
            is_last = groups[0].checkpoint == "last"
            details.append("end of training" if is_last else "validation epoch")
        shown = [each for each in details if each]
        name.append("".join(f"\n  {each}" for each in shown), style="dim")
        return name

    def _cell(self, groups: Sequence[RunGroup], column: Column) -> Text:
        scored = [group for group in groups if self._is_scored(group, column)]
        if len(scored) != 1:  # several data sets learned alone have no average
            return self._missing(column)
        group, lines = scored[0], self._lines_of(column)
        estimates = {
            metric: group.estimate(column, metric) for metrics in lines for metric in metrics
        }
        marked = (group.label, column) in self.comparison.incomparable
        cell = Text()
        for index, metrics in enumerate(lines):
            cell.append("\n" if index else "")
            for position, metric in enumerate(metrics):
                is_best = group.label in self._best(column, metric)
                cell.append("/" if position else "")
                cell.append(self._format(estimates[metric]), style="bold" if is_best else "")
            cell.append(NOT_COMPARABLE if marked and not index else self._blank(column))
        self._append_deviations(cell, column, estimates)
        return cell

    def _append_deviations(
        self, cell: Text, column: Column, estimates: Mapping[str, Estimate | None]
    ) -> None:
        deviations = {name: each.deviation for name, each in estimates.items() if each is not None}
        if None in deviations.values():
            return
        for metrics in self._lines_of(column):
            shown = [
                f"{value:.{self.decimals}f}"
                for metric in metrics
                if (value := deviations.get(metric)) is not None
            ]
            cell.append(f"\n±{'/'.join(shown)}{self._blank(column)}", style="dim")

    def _is_scored(self, group: RunGroup, column: Column) -> bool:
        metrics = [metric for line in self._lines_of(column) for metric in line]
        return any(group.estimate(column, metric) for metric in metrics)

    def _missing(self, column: Column) -> Text:
        return Text(MISSING + self._blank(column), style="dim")

    def _published_cell(self, rows: Sequence[PublishedRow], column: Column) -> Text:
        lines = self._lines_of(column)
        for row in rows:
            scores = row.scores_in(column)
            if not any(metric in scores for line in lines for metric in line):
                continue
            compares = self.comparison.published_compares(row, column)
            blank = self._blank(column)
            texts = [
                "/".join(self._format_score(scores.get(each)) for each in line) for line in lines
            ]
            ends = [blank if compares or index else NOT_COMPARABLE for index in range(len(lines))]
            shown = [text + end for text, end in zip(texts, ends, strict=True)]
            return Text("\n".join(shown), style="dim")
        return self._missing(column)

    def _format(self, estimate: Estimate | None) -> str:
        return self._format_score(None if estimate is None else estimate.mean)

    def _format_score(self, score: float | None) -> str:
        return MISSING if score is None else f"{score:.{self.decimals}f}"

    def _blank(self, column: Column) -> str:
        """Blank that aligns the cell with marked cells of the column."""
        return " " if self.comparison.is_marked(column) else ""

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


def footnote(comparison: Comparison, rows: Sequence[PublishedRow]) -> str:
    """Backbone, source and remarks of the published rows in one row of the table."""
    literature, first = comparison.literature, rows[0]
    has_several_benchmarks = len({each.benchmark for each in comparison.published}) > 1
    remarks = dict.fromkeys(key for row in rows for key in row.remarks)
    return "; ".join(
        [
            *(
                (first.benchmark,)
                if has_several_benchmarks and not first.learns_one_data_set
                else ()
            ),
            first.backbone or "backbone not stated",
            literature.sources[first.source],
            *(literature.remarks[key] for key in remarks),
        ]
    )


def footnotes(comparison: Comparison) -> dict[str, int]:
    """Number of each footnote, from 1 in the order of the rows."""
    notes = dict.fromkeys(footnote(comparison, rows) for rows in comparison.published_rows)
    return {note: index for index, note in enumerate(notes, start=1)}


def _seeds_of(groups: Sequence[RunGroup]) -> str:
    """Number of seeds of a row, or "" for one seed."""
    numbers = sorted({len(group.members) for group in groups})
    if numbers == [1]:
        return ""
    return f"{' to '.join(map(str, dict.fromkeys((numbers[0], numbers[-1]))))} seeds"


def _blocks(
    columns: Iterable[Column], width_of: Callable[[Column], int], max_width: int
) -> list[list[Column]]:
    """Splits columns into blocks that fit; breaks between seen, averages and unseen first."""

    def fits(block: Sequence[Column]) -> bool:
        return sum(width_of(column) + GAP for column in block) <= max_width

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
