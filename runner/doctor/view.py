"""Terminal view of the reports: a table, followed by problems and remedies."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner.doctor.examine import Report, Status
from tasks.dataset_files import Counts

_STYLES: Mapping[Status, str] = {
    "ok": "green",
    "warning": "yellow",
    "broken": "bold red",
    "missing": "dim",
}
_PARTS = ("train", "query", "gallery")
_FAULT, _NOTE = "! ", "- "
_MIN_WIDTH, _MAX_WIDTH = 40, 1000
_SPACE = "\0"


def show(
    console: Console, reports: Mapping[str, Report], root: Path, requested: Sequence[str]
) -> None:
    """Prints the reports.

    Paths are never split by line breaks; the terminal wraps long ones.

    Args:
        console: console to print to.
        reports: reports by data set.
        root: folder that was examined.
        requested: data sets shown in full; other absent ones are only listed by name.
    """
    shown = [each for each in reports.values() if not each.is_absent or each.name in requested]
    place = f"{'in' if root.is_file() else 'under'} {_printable(str(root))}"
    _print(console, Text(f"Data sets {place}", style="bold"))
    in_table = [each for each in shown if each.status != "missing"]
    if in_table:
        console.print()
        # Let the terminal wrap a wide table; rich would truncate the numbers.
        table = _table(in_table)
        wide = console.options.update(max_width=_MAX_WIDTH)
        width = console.measure(table, options=wide).maximum
        console.print(table, width=width, crop=False)
    for report in shown:
        _show_report(console, report, root)
    absent = [each.name for each in reports.values() if each not in shown]
    if absent:
        console.print()
        _show_sentence(console, f"Not found: {', '.join(absent)}.", "", "")
        _print(console, Text("--dataset NAME shows what is expected.", style="dim"))
    console.print()
    numbers = Counter(report.status for report in reports.values())
    summary = ", ".join(f"{numbers[status]} {status}" for status in _STYLES if numbers[status])
    _print(console, Text(summary, style="bold"))


def _show_report(console: Console, report: Report, root: Path) -> None:
    if not (report.faults or report.notes):
        return
    console.print()
    heading = Text(report.name, style=f"bold {_STYLES[report.status]}")
    place = "" if report.folder is None else f" at {_printable(str(report.folder))}"
    _print(console, heading + Text(f" ({report.title}){place}", style=""))
    folders = (root,) if report.folder is None else (report.folder, root)
    for fault in report.faults:
        _show_sentence(console, fault, _FAULT, "yellow", folders)
    for note in report.notes:
        _show_sentence(console, note, _NOTE, "dim", folders)


def _show_sentence(
    console: Console, sentence: str, sign: str, style: str, folders: Iterable[Path] = ()
) -> None:
    """Prints a sentence wrapped between words, but not at spaces in the names of `folders`."""
    for folder in map(str, folders):
        sentence = sentence.replace(folder, folder.replace(" ", _SPACE))
    lines = textwrap.wrap(
        _printable(sentence),
        max(console.width - 1, _MIN_WIDTH),
        initial_indent=sign,
        subsequent_indent=" " * len(sign),
        break_long_words=False,
        break_on_hyphens=False,
    )
    for number, line in enumerate(lines):
        text = Text(line.replace(_SPACE, " "))
        if number == 0:
            text.stylize(style, 0, len(sign))
        _print(console, text)


def _print(console: Console, text: Text) -> None:
    console.print(text, soft_wrap=True)


def _printable(text: str) -> str:
    """Escapes bytes in file names that are not valid text."""
    return text.encode("utf-8", "backslashreplace").decode()


def _table(reports: Sequence[Report]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("data set", "status", "variant"):
        table.add_column(heading, no_wrap=True)
    for part in _PARTS:
        table.add_column(f"{part}\nimages/ids", justify="right", no_wrap=True)
    table.add_column("cams", justify="right", no_wrap=True)
    for report in reports:
        table.add_row(
            Text(report.name, style="bold"),
            Text(report.status, style=_STYLES[report.status]),
            Text(report.variant or ""),
            *(_pair(report.splits[part]) if part in report.splits else "" for part in _PARTS),
            _joined([report.splits[part].cameras for part in _PARTS if part in report.splits]),
        )
        if "validation" in report.splits:
            table.add_row("", "", "validation", _pair(report.splits["validation"]))
        if differing := _differing(report):
            table.add_row("", "", "expected", *differing, style="yellow")
    return table


def _differing(report: Report) -> list[str]:
    """Cells with the expected counts where the actual counts differ; empty if all agree."""
    if not report.splits or not report.expected:
        return []
    actual = [report.splits[part] for part in _PARTS]
    expected = [report.expected.get(part, Counts()) for part in _PARTS]
    cells = [
        _pair(wanted)
        if _differs(counts.images, wanted.images) or _differs(counts.identities, wanted.identities)
        else ""
        for counts, wanted in zip(actual, expected, strict=True)
    ]
    cameras = [each.cameras for each in expected]
    differ = any(map(_differs, [each.cameras for each in actual], cameras))
    cells.append(_joined(cameras) if differ else "")
    return cells if any(cells) else []


def _differs(actual: int | None, expected: int | None) -> bool:
    return expected is not None and actual != expected


def _pair(counts: Counts) -> str:
    return f"{_number(counts.images)}/{_number(counts.identities)}"


def _number(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _joined(numbers: Sequence[int | None]) -> str:
    """Joins the numbers of all splits; a single number if they are equal."""
    texts = [_number(number) for number in numbers]
    return "/".join(texts[:1] if len(set(texts)) == 1 else texts)
