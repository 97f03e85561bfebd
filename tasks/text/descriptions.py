"""Descriptions of images: files of part sentences and of dual texts, and their way into records.

A description file is a text without header, one line per image:
`basename<TAB x3>head<TAB x3>upper<TAB x3>lower<TAB x3>foot`, as VLADR's authors publish them. It
may hold more than is asked for: test images, and lines that a second run of the authors' script has
appended for the same images.

A file of dual texts is a JSON list of `{"file_path": ..., "identity": ..., "clothing": ...}`, paths
relative to the data set's folder, as `describe --prompt dual` exports it. Other keys are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, cast

from tasks.schema import RawDomain, Record, Split
from tasks.text.text_files import one_text, utf8_lines

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


def with_dual_texts(raw: RawDomain) -> RawDomain:
    """The data set with the texts of its `dual_file`, if it has one, in all its records.

    Images that the file does not list keep empty texts; entries of other images are ignored.

    Raises:
        ValueError: the file is not such a list, or a text is missing or empty; the entry is named.
    """
    if raw.dual_file is None:
        return raw
    texts = _dual_texts(raw.dual_file, raw.folder)

    def told(records: Iterable[Record]) -> tuple[Record, ...]:
        return tuple(
            replace(record, identity=found[0], clothing=found[1])
            if (found := texts.get(record.image_path)) is not None
            else record
            for record in records
        )

    def told_split(split: Split) -> Split:
        return replace(split, query=told(split.query), gallery=told(split.gallery))

    return replace(
        raw,
        train=told(raw.train),
        test=told_split(raw.test),
        validation=None if raw.validation is None else told_split(raw.validation),
    )


def _dual_texts(path: Path, folder: Path) -> dict[str, tuple[str, str]]:
    """(identity, clothing) by the image's path; the last of several entries for one image wins."""
    try:
        entries = json.loads("\n".join(utf8_lines(path)))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}: expected JSON, but line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a list of entries, got {type(entries).__name__}")
    texts: dict[str, tuple[str, str]] = {}
    for number, entry in enumerate(cast("list[Any]", entries), start=1):
        fields = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
        found = [fields.get(key) for key in ("file_path", "identity", "clothing")]
        file, identity, clothing = (
            one_text(each, f"{path}, entry {number}") if isinstance(each, str) else ""
            for each in found
        )
        if not (file and identity and clothing):
            raise ValueError(
                f"{path}, entry {number}: expected file_path, identity and clothing, none of them "
                f"empty; got {entry!r:.80}"
            )
        texts[str(folder / file)] = identity, clothing
    return texts


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
