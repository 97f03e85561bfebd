"""Finding and reading data sets: what every reader under tasks/datasets is built from.

A reader is a module `tasks/datasets/<name>.py` with `FACTS`, which says what the data set is called
and how it looks on disk, and `read(place, options) -> RawDomain`. The name is the file; there is no
registry.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import tasks.datasets
from tasks.dataset_files import DatasetFacts, Layout, Place, ReadOptions
from tasks.schema import RawDomain

_DRAWN = "synthetic"
_LEVELS_SEARCHED = 3


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
