"""Files of image descriptions (part sentences and dual texts) and their attachment to records.

A description file has one line per image and no header:
`basename<TAB x3>head<TAB x3>upper<TAB x3>lower<TAB x3>foot`, the format published by VLADR's
authors. It may contain additional lines: test images, and repeated lines that a second run of the
authors' script appended for the same images.

A file of dual texts is a JSON list of `{"file_path": ..., "identity": ..., "clothing": ...}` with
paths relative to the data set's folder, as exported by `describe --prompt dual`. Other keys are
ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, cast

from tasks.schema import RawDomain, Record, Split
from tasks.text.text_files import normalise_text, read_json_file, utf8_lines

NUM_PARTS = 4
_SEPARATOR = "\t\t\t"

Parts = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Descriptions:
    """Content of a description file.

    Attributes:
        path: path of the file.
        parts: the four sentences (head, upper, lower, foot) by image base name.
        num_duplicates: number of lines replaced by a later line of the same image.
    """

    path: Path
    parts: Mapping[str, Parts]
    num_duplicates: int


def read_descriptions(path: Path) -> Descriptions:
    """Reads a description file; the last line of an image replaces earlier ones.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a line is not UTF-8, does not have exactly five fields, or has an empty field;
            the message names the line.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"description file {path} does not exist; expected a file with lines of "
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
    """Attaches the texts of the data set's `dual_file`, if any, to all its records.

    Images that are not in the file keep empty texts. Entries of other images are ignored.

    Raises:
        ValueError: the file is not a list of entries, or a text is missing or empty; the message
            names the entry.
    """
    if raw.dual_file is None:
        return raw
    texts = _read_dual_texts(raw.dual_file, raw.folder)

    def attach_texts(records: Iterable[Record]) -> tuple[Record, ...]:
        return tuple(
            replace(record, identity=pair[0], clothing=pair[1])
            if (pair := texts.get(record.image_path)) is not None
            else record
            for record in records
        )

    def attach_to_split(split: Split) -> Split:
        return replace(split, query=attach_texts(split.query), gallery=attach_texts(split.gallery))

    return replace(
        raw,
        train=attach_texts(raw.train),
        test=attach_to_split(raw.test),
        validation=None if raw.validation is None else attach_to_split(raw.validation),
    )


def _read_dual_texts(path: Path, folder: Path) -> dict[str, tuple[str, str]]:
    """(identity, clothing) by image path; the last entry of an image replaces earlier ones."""
    entries = read_json_file(path)
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a list of entries, got {type(entries).__name__}")
    texts: dict[str, tuple[str, str]] = {}
    for number, entry in enumerate(cast("list[Any]", entries), start=1):
        fields = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
        values = [fields.get(key) for key in ("file_path", "identity", "clothing")]
        file, identity, clothing = (
            normalise_text(value, f"{path}, entry {number}") if isinstance(value, str) else ""
            for value in values
        )
        if not (file and identity and clothing):
            raise ValueError(
                f"{path}, entry {number}: expected non-empty file_path, identity and clothing, "
                f"got {entry!r:.80}"
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
    """Formats the content of a description file, in the order of the mapping."""
    return "".join(f"{_SEPARATOR.join((name, *row))}\n" for name, row in parts.items())


def join_parts(parts: Sequence[str]) -> str:
    """Joins part sentences to one description of the whole person."""
    return " ".join(part if part.endswith(".") else f"{part}." for part in parts)


def attach(records: Iterable[Record], descriptions: Descriptions) -> tuple[Record, ...]:
    """Attaches part sentences to records, and joins them to a caption for records without one.

    Lines of other images are ignored, because one file may cover training and test images.

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
        with_whole_caption(replace(record, parts=descriptions.parts[name]))
        for record, name in zip(listed, names, strict=True)
    )


def with_whole_caption(record: Record) -> Record:
    """Joins part sentences to a caption for a record without one."""
    if record.captions or not record.parts:
        return record
    return replace(record, captions=(join_parts(record.parts),))
