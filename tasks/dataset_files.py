"""Types and file functions shared by the readers under tasks/datasets."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tasks.schema import FrozenConfig, Record
from tasks.text.text_files import check_encodable, read_json_file, utf8_lines


class TableOptions(FrozenConfig):
    """Location of a table of images, and its camera rule."""

    file: str | None = Field(
        default=None,
        description="CSV or Parquet file; null: table.csv or table.parquet in root or root/table",
    )
    images: str | None = Field(
        default=None,
        description="folder to which relative image paths refer; null: the folder of the file",
    )
    camera_filter: bool = Field(
        default=True,
        description="leave images of the query's person by the query's camera out of its gallery; "
        "false: rank all images, for data by one camera or without camera ids",
    )


class ReadOptions(FrozenConfig):
    """Options that select variants of data sets; relevant ones enter the protocol lock."""

    accept_withdrawn: bool = Field(
        default=False, description="allow data sets withdrawn by their authors (dukemtmc)"
    )
    roots: dict[str, str] = Field(
        default_factory=dict, description="folders of data sets outside root, by data set name"
    )
    derived: str = Field(
        default="derived",
        description="output folder for extracted images and generated splits",
    )
    split_index: int = Field(
        default=0,
        ge=0,
        description="index of the random split of cuhk01, viper, prid2011, ilids, grid and cuhk03 "
        "classic",
    )
    split_files: dict[str, str] = Field(
        default_factory=dict, description="JSON files of random splits, by data set name"
    )
    table: TableOptions = Field(
        default_factory=TableOptions, description="table of images, for the data set table"
    )
    msmt17_val_in_train: bool = Field(
        default=False, description="add MSMT17's list_val.txt to the training list"
    )
    cuhk03_boxes: Literal["labeled", "detected"] = Field(
        default="labeled",
        description="CUHK03 boxes: drawn by people (labeled) or by a detector (detected)",
    )
    cuhk03_protocol: Literal["new", "classic"] = Field(
        default="new",
        description="CUHK03 protocol: the 767/700 split (new) or one of 20 1,367/100 splits",
    )


@dataclass(frozen=True, slots=True)
class Counts:
    """Published numbers of a split; None if no source states them."""

    images: int | None = None
    identities: int | None = None
    cameras: int | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """Folder layout of a data set on disk.

    Attributes:
        variant: name of the layout ("V1", "raw", "extracted"); enters the protocol lock.
        needs: required files or folders, relative to the folder of the data set.
        expected: published counts by split ("train", "query", "gallery"); empty if unknown.
    """

    variant: str
    needs: tuple[str, ...]
    expected: Mapping[str, Counts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """Static description of a data set.

    Attributes:
        title: display name.
        folders: usual folder names below the root, most likely first.
        layouts: accepted layouts, preferred first.
        licence: short summary of the terms of use.
        source: paper or page that describes the data set.
        withdrawn: how and when the authors withdrew the data set, or "".
        has_text_files: whether files of descriptions beside the data set are read.
    """

    title: str
    folders: tuple[str, ...]
    layouts: tuple[Layout, ...]
    licence: str
    source: str
    withdrawn: str = ""
    has_text_files: bool = True


@dataclass(frozen=True, slots=True)
class LocatedDataset:
    """A data set found on disk, with its folder and layout.

    Attributes:
        name: name of the reader.
        facts: static description.
        folder: folder of the data set.
        layout: layout found in the folder.
        may_extract: whether the reader may extract images from the raw release first.
    """

    name: str
    facts: DatasetFacts
    folder: Path
    layout: Layout
    may_extract: bool = True

    @property
    def title(self) -> str:
        """Display name; error messages start with it."""
        return self.facts.title


class NotExtractedError(Exception):
    """Reading requires extracting images first, but `may_extract` is False."""


def check_may_extract(dataset: LocatedDataset) -> None:
    """Check that extraction is allowed; readers call it before they write any file.

    Raises:
        NotExtractedError: `dataset.may_extract` is False.
    """
    if not dataset.may_extract:
        raise NotExtractedError(
            f"{dataset.title}: no images have been extracted from {dataset.folder}"
        )


@dataclass(frozen=True, slots=True)
class NamedImage:
    """Image file and the match of its base name."""

    path: Path
    match: re.Match[str]


def named_images(
    dataset: LocatedDataset, folder: Path, pattern: re.Pattern[str], example: str
) -> list[NamedImage]:
    """List the files of a folder whose base names match a pattern, sorted by name.

    Other files and folders are ignored and counted in a warning. Files of operating systems
    (`is_system_name`) are ignored silently. If the pattern has a group `person`, a person must be
    spelled alike in all names: 7 and 007 may be two people.

    Args:
        dataset: data set, for messages.
        folder: folder of the images; subfolders are not searched.
        pattern: must match the whole base name.
        example: matching base name, for messages.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the folder has no files, or none that match; a name is not UTF-8, or names spell
            a person in two ways.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{dataset.title}: expected the folder {folder}, which does not exist"
        )
    names, folders = _names_in(folder)
    if not names:
        raise ValueError(f"{dataset.title}: {_without_files(folder, folders, example)}")
    images = [
        NamedImage(folder / name, match) for name in names if (match := pattern.fullmatch(name))
    ]
    if not images:
        raise ValueError(
            f"{dataset.title}: none of the {len(names)} files in {folder} is named like {example}; "
            f"the first is {names[0]}"
        )
    for image in images:
        check_encodable(image.path.name, f"{dataset.title}: name of a file in {folder}")
    if "person" in pattern.groupindex:
        check_spellings(dataset, ((each.match["person"], str(each.path)) for each in images))
    if len(images) < len(names):
        logging.getLogger(__name__).warning(
            "%s: ignored %d files in %s that are not named like %s",
            dataset.title, len(names) - len(images), folder, example,
        )  # fmt: skip
    if folders:
        logging.getLogger(__name__).warning(
            "%s: ignored %d folders in %s (the first is %s); their images are not read",
            dataset.title, len(folders), folder, folders[0],
        )  # fmt: skip
    return images


def is_system_name(name: str) -> bool:
    """Whether an operating system wrote a file or folder: hidden, Thumbs.db or __MACOSX.

    Archives packed on a Mac contain `__MACOSX/` with a copy of the folder tree, and a file `._NAME`
    for each file NAME; neither contains images.
    """
    return name.startswith(".") or name in ("Thumbs.db", "__MACOSX")


def _names_in(folder: Path) -> tuple[list[str], list[str]]:
    """Return the sorted names of the files and of the folders in a folder."""
    names: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_system_name(entry.name):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.is_file() or entry.is_symlink():  # a broken link is an unreadable image
                names.append(entry.name)
    return sorted(names), sorted(folders)


def _without_files(folder: Path, folders: list[str], example: str) -> str:
    if not folders:
        return f"{folder} is empty; expected images like {example}"
    shown = ", ".join(folders[:3]) + (", ..." if len(folders) > 3 else "")
    return (
        f"{folder} contains {len(folders)} folders ({shown}) and no files; expected images like "
        f"{example} in it directly. Move the images out of the folders."
    )


def check_spellings(dataset: LocatedDataset, spelled: Iterable[tuple[str, str]]) -> None:
    """Check that each id is spelled in one way.

    Args:
        dataset: data set, for messages.
        spelled: digits of a person id, and where they are.

    Raises:
        ValueError: two spellings such as 7 and 007 mean the same number.
    """
    spellings: dict[str, tuple[str, str]] = {}
    for digits, where in spelled:
        first, place = spellings.setdefault(digits.lstrip("0"), (digits, where))
        if digits != first and digits.strip("0"):  # zero is no person in most data sets
            raise ValueError(
                f"{dataset.title}: expected one spelling of each person id, got {first} in {place} "
                f"and {digits} in {where}. Rename one of them if they are two people, else all "
                "images alike."
            )


def read_lines(dataset: LocatedDataset, file: Path) -> list[str]:
    """Read the lines of a UTF-8 text file with `utf8_lines`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a line is not UTF-8; names the line.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{dataset.title}: expected the file {file}, which does not exist")
    return utf8_lines(file)


def read_json(dataset: LocatedDataset, file: Path) -> Any:
    """Read a UTF-8 JSON file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not UTF-8, not JSON (for instance truncated), or has a key twice.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{dataset.title}: expected the file {file}, which does not exist")
    return read_json_file(file, "The file is damaged or incomplete; download it again.")


def write_json(file: Path, content: object) -> None:
    """Write a JSON file atomically; create its folder.

    Raises:
        OSError: the folder is not writable.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(content), encoding="utf-8")
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Create the folder `target` atomically.

    Yields a hidden path beside `target`, at which the caller creates the folder. It is renamed to
    `target` at the end of the block, and deleted if the block fails. If another process creates
    `target` in the meantime, that folder is kept.
    """
    temporary = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_images(dataset: LocatedDataset, records: Iterable[Record], listed_in: Path) -> None:
    """Check that all images of a list exist; read each folder once.

    Raises:
        FileNotFoundError: images are missing; names the first and counts the others.
    """
    missing = missing_images(record.image_path for record in records)
    if missing:
        raise FileNotFoundError(
            f"{dataset.title}: {listed_in} lists {missing[0]}, which does not exist"
            + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
            + ". Download the missing images, or the list that matches these images."
        )


def missing_images(paths: Iterable[str]) -> list[str]:
    """Return the image paths that do not exist, in their order; read each folder once."""
    present: dict[str, set[str]] = {}
    missing: list[str] = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in present:
            present[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in present[folder]:
            missing.append(path)
    return missing
