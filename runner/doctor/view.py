"""What the doctor found, for the eye: a table, and below it what is wrong and what to do."""

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
_NARROWEST, _WIDEST = 40, 1000
_SPACE = "\0"


def show(
    console: Console, reports: Mapping[str, Report], root: Path, asked_for: Sequence[str]
) -> None:
    """Prints the reports.

    A path is never broken by a line's end: where it is too long, the terminal itself wraps it.

    Args:
        console: where to.
        reports: by name of data set.
        root: where was looked.
        asked_for: data sets of which everything is said; others that are not there share a list.
    """
    told = [each for each in reports.values() if not each.is_traceless or each.name in asked_for]
    _print(console, Text(f"Data sets under {_printable(str(root))}", style="bold"))
    tabled = [each for each in told if each.status != "missing"]
    if tabled:
        console.print()
        # What does not fit a narrow terminal is wrapped by it; rich would cut the numbers.
        table = _table(tabled)
        wide = console.options.update(max_width=_WIDEST)
        width = console.measure(table, options=wide).maximum
        console.print(table, width=width, crop=False)
    for report in told:
        _show_report(console, report, root)
    traceless = [each.name for each in reports.values() if each not in told]
    if traceless:
        console.print()
        _show_sentence(console, f"Not found: {', '.join(traceless)}.", "", "")
        _print(console, Text("--dataset NAME says what is expected of one.", style="dim"))
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
    """Wraps between words, which spaces in the names of `folders` do not end."""
    for folder in map(str, folders):
        sentence = sentence.replace(folder, folder.replace(" ", _SPACE))
    lines = textwrap.wrap(
        _printable(sentence),
        max(console.width - 1, _NARROWEST),
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
    """File names may hold bytes that are not text."""
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
    """What the literature says, in the table's last columns, where something else was found."""
    if not report.splits or not report.expected:
        return []
    found = [report.splits[part] for part in _PARTS]
    expected = [report.expected.get(part, Counts()) for part in _PARTS]
    cells = [
        _pair(wanted)
        if _differs(there.images, wanted.images) or _differs(there.identities, wanted.identities)
        else ""
        for there, wanted in zip(found, expected, strict=True)
    ]
    cameras = [each.cameras for each in expected]
    differ = any(map(_differs, [each.cameras for each in found], cameras))
    cells.append(_joined(cameras) if differ else "")
    return cells if any(cells) else []


def _differs(found: int | None, expected: int | None) -> bool:
    return expected is not None and found != expected


def _pair(counts: Counts) -> str:
    return f"{_number(counts.images)}/{_number(counts.identities)}"


def _number(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _joined(numbers: Sequence[int | None]) -> str:
    """One number where all splits have the same."""
    shown = [_number(number) for number in numbers]
    return "/".join(shown[:1] if len(set(shown)) == 1 else shown)
