"""A table that can be written to the console and as CSV, JSON and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich import table as rich_table
from rich.text import Text

_LATEX = {each: rf"\{each}" for each in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "\n": " ",
}  # fmt: skip


def _text(value: Any) -> str:
    return "" if value is None else str(value)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: key of the column in CSV and JSON.
        heading: head of the column on the console and in Markdown, where line breaks become
            spaces; `name` if None.
        format: converts a value to text for the console and Markdown.
        align: `left` for text, `right` for numbers.
        wrap: whether the console may break long cells into several lines.
        min_width: smallest width on the console, in characters.
    """

    name: str
    heading: str | None = None
    format: Callable[[Any], str] = _text
    align: Literal["left", "right"] = "right"
    wrap: bool = False
    min_width: int | None = None

    @property
    def title(self) -> str:
        """Text at the head of the column."""
        return self.name if self.heading is None else self.heading


@dataclass(frozen=True)
class Table:
    """Rows of values under columns.

    The console and Markdown show formatted values. CSV and JSON hold unformatted ones, so that
    numbers are not rounded.

    Attributes:
        columns: from left to right.
        rows: a value for each column; None is a missing value.
        styles: rich style of each row on the console; empty if all rows are plain.
        sections: indices of the rows that the console separates from the next row by a rule.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    styles: tuple[str, ...] = ()
    sections: frozenset[int] = frozenset()

    @classmethod
    def of(cls, names: Iterable[str], rows: Iterable[Sequence[Any]]) -> Table:
        """Table of plain values, with column names as headings."""
        return cls(tuple(map(Column, names)), tuple(map(tuple, rows)))

    def to_console(self) -> rich_table.Table:
        """Rich table; headings and cells are never read as markup."""
        table = rich_table.Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, 0),
            header_style="dim",
        )
        for column in self.columns:
            table.add_column(
                Text(column.title),
                justify=column.align,
                no_wrap=not column.wrap,
                overflow="fold",
                min_width=column.min_width,
            )
        for index, cells in enumerate(self._texts()):
            style = self.styles[index] if self.styles else ""
            table.add_row(*map(Text, cells), style=style, end_section=index in self.sections)
        return table

    def to_markdown(self) -> str:
        """Markdown table, without a line break at the end."""
        rule = ["---" if column.align == "left" else "---:" for column in self.columns]
        lines = [
            _markdown_line([column.title for column in self.columns]),
            f"|{'|'.join(rule)}|",
            *map(_markdown_line, self._texts()),
        ]
        return "\n".join(lines)

    def to_latex(self) -> str:
        """LaTeX table for the package booktabs."""
        alignment = "".join("l" if column.align == "left" else "r" for column in self.columns)
        lines = [_latex_line(cells) for cells in self._texts()]
        return "\n".join(
            [
                rf"\begin{{tabular}}{{{alignment}}}",
                r"\toprule",
                _latex_line([column.title for column in self.columns]),
                r"\midrule",
                *lines,
                r"\bottomrule",
                r"\end{tabular}",
                "",
            ]
        )

    def to_csv(self) -> str:
        """CSV with a header line; missing values are empty fields."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([column.name for column in self.columns])
        writer.writerows(self.rows)
        return stream.getvalue()

    def to_json(self) -> list[dict[str, Any]]:
        """A dictionary for each row, by column names."""
        names = [column.name for column in self.columns]
        return [dict(zip(names, row, strict=True)) for row in self.rows]

    def _texts(self) -> list[list[str]]:
        return [
            [column.format(value) for column, value in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]


def _latex_line(cells: Sequence[str]) -> str:
    escaped = ["".join(_LATEX.get(each, each) for each in cell) for cell in cells]
    return f"{' & '.join(escaped)} \\\\"


def _markdown_line(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
    return f"| {' | '.join(escaped)} |"
