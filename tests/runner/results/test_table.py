"""Tables as console output, CSV, JSON and Markdown."""

from __future__ import annotations

import csv
import io

from rich.console import Console

from runner.ablation.summary import summarise
from runner.ablation.table_file import load_table, table_names
from runner.ablation.view import show
from runner.results.finished_runs import Estimate
from runner.results.format import (
    MISSING,
    error_line,
    format_count,
    format_duration,
    format_estimate,
    format_score,
)
from runner.results.published import load_published
from runner.results.table import Column, Table

TABLE = Table(
    (
        Column("name", "", align="left", wrap=True),
        Column("score", "score\n%", format=format_score),
    ),
    (("a|b [bold]x[/bold]", 61.27), ("[/nothing]", None)),
)


def printed(table: Table, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table.to_console())
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_csv_and_json_hold_unrounded_values():
    rows = list(csv.DictReader(io.StringIO(TABLE.to_csv())))
    assert [row["score"] for row in rows] == ["61.27", ""]
    assert TABLE.to_json() == [
        {"name": "a|b [bold]x[/bold]", "score": 61.27},
        {"name": "[/nothing]", "score": None},
    ]


def test_markdown_escapes_bars_and_joins_lines():
    assert TABLE.to_markdown().splitlines() == [
        "|  | score % |",
        "|---|---:|",
        "| a\\|b [bold]x[/bold] | 61.3 |",
        f"| [/nothing] | {MISSING} |",
    ]


def test_console_shows_markup_literally():
    text = printed(TABLE)
    assert "[bold]x[/bold]" in text
    assert "[/nothing]" in text
    assert "61.3" in text


def test_wrapped_columns_fit_the_console_without_loss():
    long = "word " * 40 + "end"
    text = printed(Table((Column("text", wrap=True), Column("n")), ((long, 7),)))
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("word") == 40
    assert "end" in text


def test_empty_ablation_tables_fit_80_columns():
    for name in table_names():
        _, table = load_table(name)
        console = Console(file=io.StringIO(), width=80)
        show(console, summarise(name, table, [0], [], {}, load_published()))
        text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
        assert "…" not in text, name


def test_numbers_durations_and_errors_as_text():
    assert format_estimate(Estimate(60.04, 0.5)) == "60.0 ± 0.5"
    assert format_estimate(Estimate(1.0), "+") == "+1.0"
    assert format_estimate(None) == format_score(None) == MISSING
    assert [format_count(value) for value in (2_130_000, 1500, 3)] == ["2.13 M", "1.5 k", "3"]
    assert format_duration(3725.4) == "1:02:05"
    assert error_line("Traceback ...\n  x\nValueError: bad") == "ValueError: bad"
    assert error_line("bad\nmore") == "bad"
    assert error_line(None) == "unknown reason"
