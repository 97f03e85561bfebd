"""Types and functions from which every reader under tasks/datasets is built."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tasks.schema import FrozenConfig, Record
from tasks.text.text_files import utf8_lines


class ReadOptions(FrozenConfig):
    """Which variant of a data set is read; all of it enters the protocol lock where it matters."""

    accept_withdrawn: bool = Field(
        default=False, description="read data sets that their authors have withdrawn (dukemtmc)"
    )
    roots: dict[str, str] = Field(
        default_factory=dict, description="folder of a data set that is not under root, by name"
    )
    derived: str = Field(
        default="derived",
        description="folder for what is made from data sets: extracted images, generated splits",
    )
    split_index: int = Field(
        default=0,
        ge=0,
        description="which of the random splits of cuhk01, viper, prid2011, ilids, grid and of "
        "cuhk03 classic",
    )
    split_files: dict[str, str] = Field(
        default_factory=dict, description="JSON file of random splits to use, by data set"
    )
    msmt17_val_in_train: bool = Field(
        default=False, description="whether MSMT17's list_val.txt joins the training list"
    )
    cuhk03_boxes: Literal["labeled", "detected"] = Field(
        default="labeled", description="who drew CUHK03's boxes: people or a detector"
    )
    cuhk03_protocol: Literal["new", "classic"] = Field(
        default="new", description="CUHK03's 767/700 split, or one of the 20 of 1,367/100"
    )


@dataclass(frozen=True, slots=True)
class Counts:
    """How many a split should have; None where no source says."""

    images: int | None = None
    identities: int | None = None
    cameras: int | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """One way in which a data set lies on disk.

    Attributes:
        variant: its name, which enters the protocol lock ("V1", "raw", "extracted").
        needs: files or folders, relative to the data set's folder, that must all be there.
        expected: counts by split: "train", "query", "gallery"; empty where none is known.
    """

    variant: str
    needs: tuple[str, ...]
    expected: Mapping[str, Counts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What is known of a data set before its folder is opened.

    Attributes:
        title: what people call it.
        folders: names that its folder has below the root, the likeliest first.
        layouts: the accepted ways on disk, the preferred first.
        licence: what its terms say about use, in a few words.
        source: the paper or page that describes it.
        withdrawn: why its authors took it back, or "".
    """

    title: str
    folders: tuple[str, ...]
    layouts: tuple[Layout, ...]
    licence: str
    source: str
    withdrawn: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A data set found on disk: its folder, and which of its layouts that has.

    Reading a place may first extract images from a raw form, unless `may_extract` is False.
    """

    name: str
    facts: DatasetFacts
    folder: Path
    layout: Layout
    may_extract: bool = True

    @property
    def title(self) -> str:
        """What people call the data set; errors begin with it."""
        return self.facts.title


class NotExtractedError(Exception):
    """A place that may not extract would have to: its raw form was not extracted before."""


def check_may_extract(place: Place) -> None:
    """What a reader calls before it makes anything from a raw form.

    Raises:
        NotExtractedError: the place may not.
    """
    if not place.may_extract:
        raise NotExtractedError(f"{place.title}: nothing has been extracted from {place.folder}")


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image whose base name a reader's pattern has taken apart."""

    path: Path
    match: re.Match[str]


def named_images(
    place: Place, folder: Path, pattern: re.Pattern[str], example: str
) -> list[NamedImage]:
    """The files of a folder whose base names match as a whole, in the order of their names.

    Files that do not match are left out, with a warning that counts them; hidden files and
    Windows' Thumbs.db without one.

    Args:
        place: the data set, for messages.
        folder: where the images are; subfolders are not entered.
        pattern: matched against the whole base name.
        example: a base name that matches, for messages.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: the folder has no file, or none that matches.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{place.title}: expected the folder {folder}; there is none")
    names = sorted(
        entry.name
        for entry in os.scandir(folder)
        if not entry.name.startswith(".") and entry.name != "Thumbs.db" and entry.is_file()
    )
    if not names:
        raise ValueError(f"{place.title}: {folder} is empty; expected images like {example}")
    images = [
        NamedImage(folder / name, match) for name in names if (match := pattern.fullmatch(name))
    ]
    if not images:
        raise ValueError(
            f"{place.title}: none of the {len(names)} files in {folder} is named like {example}; "
            f"the first is {names[0]}"
        )
    if len(images) < len(names):
        logging.getLogger(__name__).warning(
            "%s: ignored %d files in %s that are not named like %s",
            place.title, len(names) - len(images), folder, example,
        )  # fmt: skip
    return images


def read_lines(place: Place, file: Path) -> list[str]:
    """The lines of a UTF-8 text file, as `utf8_lines` gives them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line is not UTF-8; the line is named.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{place.title}: expected the file {file}; there is none")
    return utf8_lines(file)


def read_json(place: Place, file: Path) -> Any:
    """What a UTF-8 JSON file holds.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not UTF-8 or not JSON (truncated, say); the place is named.
    """
    text = "\n".join(read_lines(place, file))
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file}: expected JSON, but line {error.lineno}, column {error.colno}: {error.msg}. "
            "The file is damaged or cut off; fetch it again."
        ) from error


def check_images(place: Place, records: Iterable[Record], listed_in: Path) -> None:
    """Makes sure that images named by a list exist; looks each folder up once.

    Raises:
        FileNotFoundError: some do not; the first is named, the others are counted.
    """
    present: dict[str, set[str]] = {}
    missing: list[str] = []
    for record in records:
        folder, name = os.path.split(record.image_path)
        if folder not in present:
            present[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in present[folder]:
            missing.append(record.image_path)
    if missing:
        raise FileNotFoundError(
            f"{place.title}: {listed_in} lists {missing[0]}, which does not exist"
            + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
            + ". Fetch the missing images, or the list that belongs to these images."
        )
