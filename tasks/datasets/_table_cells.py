"""Reading of CSV and Parquet files into rows of text cells."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.suggestion import suggestion
from tasks.text.text_files import normalise_text, utf8_lines

PARTS = ("head", "upper", "lower", "foot")
TEXTS = ("caption", "identity", "clothing", *PARTS)
COLUMNS = ("image_path", "person_id", "camera_id", "split", "domain", *TEXTS)
"""Columns that are read, in the order in which they are written."""

REQUIRED = ("image_path", "person_id", "split")
_SYNONYMS = {
    "path": "image_path",
    "image": "image_path",
    "img_path": "image_path",
    "file": "image_path",
    "file_name": "image_path",
    "filename": "image_path",
    "file_path": "image_path",
    "person": "person_id",
    "pid": "person_id",
    "camera": "camera_id",
    "cam": "camera_id",
    "cam_id": "camera_id",
    "camid": "camera_id",
    "subset": "split",
    "dataset": "domain",
    "captions": "caption",
}
_DELIMITERS = (",", ";", "\t")
_NUM_SHOWN = 3


class TableError(ValueError):
    """A table is invalid; the message has one line for each problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table.

    Attributes:
        where: file and line (CSV) or row (Parquet), for messages.
        cells: text by column, without surrounding spaces; "" for an empty cell.
        captions: normalised captions; several if a Parquet cell is a list.
    """

    where: str
    cells: Mapping[str, str]
    captions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Content of a table.

    Attributes:
        file: the file.
        columns: columns that were read, by their standard names.
        ignored: names of other columns.
        rows: rows in the order of the file.
    """

    file: Path
    columns: frozenset[str]
    ignored: tuple[str, ...]
    rows: Sequence[Row] = field(repr=False)


def read_rows(file: Path) -> Table:
    """Read a CSV or Parquet file.

    A CSV file is UTF-8 with or without a byte-order mark, separated by commas, semicolons or tabs,
    and quoted as Excel writes it: doubled quotes and line ends may be inside quotes. Names of
    columns are case-insensitive; some synonyms are accepted, such as `pid`.

    Raises:
        TableError: the file is unreadable or empty, columns are missing or ambiguous, a row has
            another number of cells than the header, or a cell has an invisible character.
    """
    is_parquet = file.suffix.lower() == ".parquet"
    if not is_parquet and file.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise TableError(
            [
                f"{file}: expected a file .csv, .tsv, .txt or .parquet, got "
                f"{file.suffix or 'no suffix'!r}; save the table as CSV in UTF-8"
            ]
        )
    header, raw_rows = _parquet(file) if is_parquet else _csv(file)
    names = _standard_names(file, header)
    rows: list[Row] = []
    problems: list[str] = []
    for where, values in raw_rows:
        try:
            rows.append(_row(where, names, values))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise TableError(shortened(problems))
    if not rows:
        raise TableError([f"{file}: expected a row for each image below the header, got none"])
    ignored = tuple(name for name, column in zip(header, names, strict=True) if name and not column)
    return Table(file, frozenset(filter(None, names)), ignored, rows)


def shortened(problems: Sequence[str], num_shown: int = _NUM_SHOWN) -> list[str]:
    """Keep the first problems and count the others."""
    num_more = len(problems) - num_shown
    return [*problems[:num_shown], *([f"and {num_more:,} more like these"] if num_more > 0 else ())]


def _row(where: str, names: Sequence[str], values: Sequence[Any]) -> Row:
    if len(values) != len(names):
        raise ValueError(
            f"{where}: expected {len(names)} cells as in the header, got {len(values)}; put cells "
            "that contain the separator into double quotes"
        )
    cells: dict[str, str] = {}
    captions: list[str] = []
    for name, value in zip(names, values, strict=True):
        if name == "caption":
            listed = value if isinstance(value, list) else [value]
            captions += [normalise_text(text, where) for text in listed if text]
        elif name in TEXTS:
            cells[name] = normalise_text(value, where)
        elif name:
            cells[name] = value.strip()
            if not cells[name].isprintable():
                raise ValueError(
                    f"{where}: expected printable characters in column {name}, got {value!r:.80}; "
                    "remove line ends and invisible characters"
                )
    return Row(where, cells, tuple(filter(None, captions)))


def _standard_names(file: Path, header: Sequence[str]) -> list[str]:
    """Return the standard name of each column; "" for a column that is not read."""
    names = [_standard_name(name) for name in header]
    repeated = [name for name, number in Counter(names).items() if name and number > 1]
    problems: list[str] = []
    if repeated:
        listed = [given for given, name in zip(header, names, strict=True) if name == repeated[0]]
        problems.append(
            f"{file}, line 1: expected one column {repeated[0]}, got {', '.join(map(repr, listed))}"
            "; rename or remove one of them"
        )
    unread = [given for given, name in zip(header, names, strict=True) if not name]
    missing = [name for name in REQUIRED if name not in names]
    missing += [name for name in PARTS if name not in names and set(PARTS) & set(names)]
    for name in missing:
        problems.append(
            f"{file}, line 1: expected a column {name}, got the columns "
            f"{', '.join(map(repr, header))}{suggestion(name, unread)}"
            + ("" if name in REQUIRED else f"; a table has all of {', '.join(PARTS)}, or none")
        )
    if problems:
        raise TableError(problems)
    return names


def _standard_name(name: str) -> str:
    key = re.sub(r"[\s_-]+", "_", name.strip().casefold())
    return key if key in COLUMNS else _SYNONYMS.get(key, "")


def _csv(file: Path) -> tuple[list[str], Iterator[tuple[str, list[str]]]]:
    """Return the header, and the location and cells of each row that is not blank."""
    lines = utf8_lines(file)
    first = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    declared = re.fullmatch(r"sep=(.)", lines[first]) if first < len(lines) else None  # by Excel
    first += 1 if declared else 0
    if first == len(lines):
        raise TableError([f"{file}: expected a header and a row for each image, got an empty file"])
    delimiter = declared[1] if declared else _delimiter(lines[first])
    # A record spans several lines if a quoted cell has line ends, so the reader gets all lines.
    rows = _records(file, lines[first:], first, delimiter)
    _, header = next(rows, ("", []))
    return header, rows


def _delimiter(header: str) -> str:
    """Return the separator that finds most known columns in a header; a comma if none does."""

    def num_known(delimiter: str) -> int:
        names = header.split(delimiter)
        return sum(bool(_standard_name(name.strip().strip('"'))) for name in names)

    return max(_DELIMITERS, key=num_known)


def _records(
    file: Path, lines: Sequence[str], num_skipped: int, delimiter: str
) -> Iterator[tuple[str, list[str]]]:
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, strict=True)
    start = num_skipped + 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield f"{file}, line {start}", cells
            start = reader.line_num + 1 + num_skipped
    except csv.Error as error:
        raise TableError(
            [
                f"{file}, line {start}: expected cells separated by {delimiter!r}, got a row that "
                f"cannot be parsed ({error}); double the quotation marks inside a quoted cell"
            ]
        ) from error


def _parquet(file: Path) -> tuple[list[str], Iterator[tuple[str, list[Any]]]]:
    import pyarrow as pa  # slow to import, and only Parquet files need it
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(file).names
        table = pq.read_table(file, columns=[name for name in names if _standard_name(name)])
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise TableError(
            [f"{file}: expected a Parquet file, but it cannot be read ({reason}); write it again"]
        ) from error
    header = table.schema.names
    _check_types(file, zip(header, table.schema.types, strict=True))
    unread = [name for name in names if name not in header]
    columns = [column.to_pylist() for column in table.columns]
    rows = (
        (f"{file}, row {number}", [*map(_text, values), *[""] * len(unread)])
        for number, values in enumerate(zip(*columns, strict=True), start=1)
    )
    return [*header, *unread], rows


def _check_types(file: Path, types: Iterable[tuple[str, Any]]) -> None:
    from pyarrow import types as kinds

    def is_text(kind: Any) -> bool:
        kind = kind.value_type if kinds.is_dictionary(kind) else kind
        return kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_null(kind)

    problems: list[str] = []
    for name, kind in types:
        column = _standard_name(name)
        is_list = kinds.is_list(kind) or kinds.is_large_list(kind)
        is_valid = is_text(kind)
        is_valid |= column == "caption" and is_list and is_text(kind.value_type)
        is_valid |= column in ("person_id", "camera_id") and kinds.is_integer(kind)
        if not is_valid:
            expected = {"caption": "text or lists of text"}.get(column, "text")
            expected += " or whole numbers" if column in ("person_id", "camera_id") else ""
            problems.append(
                f"{file}: expected {expected} in column {name!r}, got {kind}; convert the column"
            )
    if problems:
        raise TableError(problems)


def _text(value: Any) -> Any:
    """Return a cell as text; a list of captions stays a list."""
    if isinstance(value, list):
        return [text or "" for text in value]
    return "" if value is None else str(value)
