"""Finding and reading data sets: what every reader under tasks/datasets is built from.

A reader is a module `tasks/datasets/<name>.py` with `FACTS`, which says what the data set is called
and how it looks on disk, and `read(place, options) -> RawDomain`. The name is the file; there is no
registry.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import pkgutil
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import Field

import tasks.datasets
from tasks.schema import FrozenConfig, RawDomain, Record
from tasks.text.text_files import utf8_lines

_DRAWN = "synthetic"
_LEVELS_SEARCHED = 3


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


def dataset_names() -> list[str]:
    """Every data set that has a reader (not the synthetic one, which is drawn)."""
    names = (module.name for module in pkgutil.iter_modules(tasks.datasets.__path__))
    return sorted(name for name in names if name != _DRAWN and not name.startswith("_"))


def dataset_facts(name: str) -> DatasetFacts:
    """`FACTS` of a data set's reader.

    Raises:
        ValueError: there is no such reader.
    """
    return _module(name).FACTS


def read_dataset(name: str, root: Path, options: ReadOptions) -> RawDomain:
    """Finds a data set under `root` (or where `options.roots` says) and reads it.

    Raises:
        FileNotFoundError, ValueError: what was expected, what was found, what to set.
    """
    check_allowed(name, options)
    return read_place(find_dataset(name, root, options), root, options)


def read_place(place: Place, root: Path, options: ReadOptions) -> RawDomain:
    """Reads a data set that was found; asks nothing about withdrawal.

    Raises:
        FileNotFoundError, ValueError: what was expected, what was found, what to set.
        NotExtractedError: images would have to be extracted first, and the place may not.
    """
    raw: RawDomain = _module(place.name).read(place, options)
    parts = raw.description_file or _beside(place, root, "description.txt")
    dual = raw.dual_file or _beside(place, root, "dual.json")
    return replace(raw, description_file=parts, dual_file=dual)


def check_allowed(name: str, options: ReadOptions) -> None:
    """Refuses a withdrawn data set that was not accepted as such.

    Raises:
        ValueError: it was withdrawn, and `accept_withdrawn` is off.
    """
    facts = dataset_facts(name)
    if facts.withdrawn and not options.accept_withdrawn:
        raise ValueError(
            f"{facts.title} {facts.withdrawn}. If you may use your copy all the same, set "
            "benchmark.accept_withdrawn=true; else choose a benchmark without it."
        )


def find_dataset(name: str, root: Path, options: ReadOptions) -> Place:
    """The data set's folder: `root`, or one of its usual names below it.

    Raises:
        FileNotFoundError: no such root, or no layout is complete; says what is missing, and where
            deeper below the root it is.
    """
    facts = dataset_facts(name)
    own = options.roots.get(name)
    start = Path(own).expanduser() if own else root
    setting = f"benchmark.roots.{name}" if own else "benchmark.root"
    if not start.is_dir():
        raise FileNotFoundError(
            f"{facts.title}: the folder {start} does not exist. Set {setting} to the folder of the "
            "data sets, or to that of this one."
        )
    candidates = [start, *(start / below for below in facts.folders)]
    for folder in candidates:
        for layout in facts.layouts:
            if _is_complete(folder, layout):
                return Place(name, facts, folder, layout)
    raise FileNotFoundError(_missing(name, facts, start, candidates))


def _is_complete(folder: Path, layout: Layout) -> bool:
    return all((folder / need).exists() for need in layout.needs)


def _missing(name: str, facts: DatasetFacts, start: Path, candidates: Sequence[Path]) -> str:
    begun = [
        (folder, layout)
        for folder in candidates
        for layout in facts.layouts
        if any((folder / need).exists() for need in layout.needs)
    ]
    if begun:
        folder, layout = begun[0]
        lacking = next(need for need in layout.needs if not (folder / need).exists())
        return (
            f"{facts.title}: expected {lacking} under {folder}; found {_listing(folder)}. "
            f"Complete the data set, or set benchmark.root or benchmark.roots.{name}."
        )
    needs = " or ".join(", ".join(layout.needs) for layout in facts.layouts)
    message = (
        f"{facts.title}: expected {needs} under {start} or {start}/{facts.folders[0]}; found "
        f"{_listing(start)}."
    )
    if deeper := find_deeper(facts, start):
        return f"{message} Found it at {deeper}: set benchmark.roots.{name}={deeper}"
    return f"{message} Set benchmark.root or benchmark.roots.{name}."


def find_deeper(facts: DatasetFacts, root: Path, besides: Collection[Path] = ()) -> Path | None:
    """The first folder up to three levels below `root` that holds the data set, or None.

    Folders `besides`, those of other data sets in the same layout say, are not entered.
    """
    level = [root]
    for _ in range(_LEVELS_SEARCHED):
        level = [child for folder in level for child in _subfolders(folder) if child not in besides]
        for folder in level:
            if any(_is_complete(folder, layout) for layout in facts.layouts):
                return folder
    return None


def check_may_extract(place: Place) -> None:
    """What a reader calls before it makes anything from a raw form.

    Raises:
        NotExtractedError: the place may not.
    """
    if not place.may_extract:
        raise NotExtractedError(f"{place.title}: nothing has been extracted from {place.folder}")


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                Path(entry.path)
                for entry in entries
                if entry.is_dir() and not entry.name.startswith(".")
            )
    except OSError:
        return []


def _listing(folder: Path) -> str:
    """The first few entries of a folder, for an error message."""
    if not folder.is_dir():
        return "no such folder"
    names = sorted(
        entry.name + ("/" if entry.is_dir() else "")
        for entry in folder.iterdir()
        if not entry.name.startswith(".")
    )
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") or "an empty folder"


def _module(name: str) -> ModuleType:
    if name not in dataset_names():
        raise ValueError(
            f"no reader for a data set {name!r}; there are {', '.join(dataset_names())}"
        )
    return importlib.import_module(f"tasks.datasets.{name}")


def _beside(place: Place, root: Path, kind: str) -> Path | None:
    file_name = f"{place.name}_{kind}"
    for folder in (place.folder, place.folder.parent, root):
        if (folder / file_name).is_file():
            return folder / file_name
    return None


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
