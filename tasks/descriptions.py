"""Descriptions of images: the files of part sentences, and their way into records.

A description file is a text without header, one line per image:
`basename<TAB x3>head<TAB x3>upper<TAB x3>lower<TAB x3>foot`, as VLADR's authors publish them. It
may hold more than is asked for: test images, and lines that a second run of the authors' script has
appended for the same images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from tasks.schema import Record
from tasks.text_files import utf8_lines

NUM_PARTS = 4
_SEPARATOR = "\t\t\t"

Parts = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Descriptions:
    """What a description file holds.

    Attributes:
        path: the file.
        parts: the four sentences (head, upper, lower, foot) by image base name.
        num_duplicates: lines that a later line of the same image replaced.
    """

    path: Path
    parts: Mapping[str, Parts]
    num_duplicates: int


def read_descriptions(path: Path) -> Descriptions:
    """Reads a description file; the last of several lines for one image wins.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not UTF-8, has not exactly five fields, or an empty one; the line is
            named.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"description file {path} does not exist: expected lines of "
            f"image name and {NUM_PARTS} sentences, separated by three tabs"
        )
    parts: dict[str, Parts] = {}
    num_lines = 0
    for number, line in enumerate(utf8_lines(path), start=1):
        if line.strip():
            name, sentences = _parse(line, path, number)
            parts[name] = sentences
            num_lines += 1
    return Descriptions(path, parts, num_lines - len(parts))


def _parse(line: str, path: Path, number: int) -> tuple[str, Parts]:
    fields = [field.strip() for field in line.split(_SEPARATOR)]
    if len(fields) != NUM_PARTS + 1:
        raise ValueError(
            f"{path}, line {number}: expected {NUM_PARTS + 1} fields separated by three tabs "
            f"(image, head, upper, lower, foot), got {len(fields)}: {line[:80]!r}"
        )
    if not all(fields):
        raise ValueError(f"{path}, line {number}: field {fields.index('') + 1} of 5 is empty")
    name, head, upper, lower, foot = fields
    return name, (head, upper, lower, foot)


def format_descriptions(parts: Mapping[str, Sequence[str]]) -> str:
    """The text of a description file, in the mapping's order."""
    return "".join(f"{_SEPARATOR.join((name, *row))}\n" for name, row in parts.items())


def join_parts(parts: Sequence[str]) -> str:
    """The part sentences as one description of the whole person."""
    return " ".join(part if part.endswith(".") else f"{part}." for part in parts)


def attach(records: Iterable[Record], descriptions: Descriptions) -> tuple[Record, ...]:
    """Records with their part sentences and, joined from them, a caption where they have none.

    Lines for other images are ignored: one file covers training and test images.

    Raises:
        ValueError: an image has no description.
    """
    listed = tuple(records)
    names = [PurePath(record.image_path).name for record in listed]
    if missing := [name for name in names if name not in descriptions.parts]:
        raise ValueError(
            f"description file {descriptions.path} lacks {missing[0]} and {len(missing) - 1} more "
            f"of {len(listed)} training images; describe them or remove the images"
        )
    return tuple(
        replace(record, parts=parts, captions=record.captions or (join_parts(parts),))
        for record, parts in zip(listed, (descriptions.parts[name] for name in names), strict=True)
    )
