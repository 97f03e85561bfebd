"""Find and read data sets by name.

A reader is a module `tasks/datasets/<name>.py` with `FACTS`, the static description of the data
set, and `read(dataset, options) -> RawDomain`. The module name is the data set name; there is no
registry. `table:<domain>` names one domain of the reader `table`.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import ModuleType

import tasks.datasets
from tasks.dataset_files import (
    DatasetFacts,
    Layout,
    LocatedDataset,
    ReadOptions,
    is_system_name,
)
from tasks.datasets import table
from tasks.schema import RawDomain

TABLE = "table"
_SYNTHETIC = "synthetic"
_NUM_LEVELS = 3
_MAX_ID = 2**63 - 1


def dataset_names() -> list[str]:
    """Return the names of all data sets on disk that have a reader (all but `synthetic`)."""
    names = (module.name for module in pkgutil.iter_modules(tasks.datasets.__path__))
    return sorted(name for name in names if name != _SYNTHETIC and not name.startswith("_"))


def has_reader(name: str) -> bool:
    """Return whether a name is that of a data set, or of a domain of a table."""
    return name in dataset_names() or name.startswith(f"{TABLE}:")


def dataset_facts(name: str) -> DatasetFacts:
    """Return `FACTS` of the reader of a data set.

    Raises:
        ValueError: no reader has this name.
    """
    return _module(name).FACTS


def read_dataset(name: str, root: Path, options: ReadOptions) -> RawDomain:
    """Find a data set under `root` (or in its folder in `options.roots`) and read it.

    Raises:
        FileNotFoundError: the data set or one of its files is missing.
        ValueError: the data set is withdrawn and not accepted, or a file is invalid.
    """
    check_allowed(name, options)
    return read_located(find_dataset(name, root, options), root, options)


def read_located(dataset: LocatedDataset, root: Path, options: ReadOptions) -> RawDomain:
    """Read a data set found by `find_dataset`; do not check whether it is withdrawn.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is invalid.
        NotExtractedError: images must be extracted first, but `dataset.may_extract` is False.
    """
    raw: RawDomain = _module(dataset.name).read(dataset, options)
    _check_ids(dataset, raw)
    if not dataset.facts.has_text_files:
        return raw
    parts = raw.description_file or file_beside(dataset, root, f"{dataset.name}_description.txt")
    dual = raw.dual_file or file_beside(dataset, root, f"{dataset.name}_dual.json")
    return replace(raw, description_file=parts, dual_file=dual)


def _check_ids(dataset: LocatedDataset, raw: RawDomain) -> None:
    """Check that ids fit into 64 bits and none is negative; negative ids stand for unknown ones."""
    splits = [raw.test] if raw.validation is None else [raw.validation, raw.test]
    held_out = (records for split in splits for records in (split.query, split.gallery))
    for record in chain(raw.train, *held_out):
        if not (0 <= record.person_id <= _MAX_ID and 0 <= record.camera_id <= _MAX_ID):
            raise ValueError(
                f"{dataset.title}: expected person and camera ids from 0 to {_MAX_ID}, got person "
                f"{record.person_id}, camera {record.camera_id} of {record.image_path}. Number "
                "people and cameras with smaller ids."
            )


def check_allowed(name: str, options: ReadOptions) -> None:
    """Check that a withdrawn data set was accepted explicitly.

    Raises:
        ValueError: the data set is withdrawn and `accept_withdrawn` is False.
    """
    facts = dataset_facts(name)
    if facts.withdrawn and not options.accept_withdrawn:
        raise ValueError(
            f"{facts.title} {facts.withdrawn}. If you are allowed to use your copy, set "
            "benchmark.accept_withdrawn=true; otherwise choose a benchmark without it."
        )


def find_dataset(name: str, root: Path, options: ReadOptions) -> LocatedDataset:
    """Find the folder of a data set: `root` or one of its usual names below `root`.

    Raises:
        FileNotFoundError: the root does not exist or no layout is complete; names what is missing,
            and the deeper folder that has it, if any.
    """
    facts = dataset_facts(name)
    reader = name.partition(":")[0]
    if reader == TABLE and (located := table.located(options)):
        return replace(located, name=name)
    configured = options.roots.get(reader)
    start = Path(configured).expanduser() if configured else root
    setting = f"benchmark.roots.{reader}" if configured else "benchmark.root"
    if not start.is_dir():
        raise FileNotFoundError(
            f"{facts.title}: the folder {start} does not exist. Set {setting} to the folder of all "
            "data sets or of this data set."
        )
    candidates = [start, *(start / below for below in facts.folders)]
    for folder in candidates:
        for layout in facts.layouts:
            if _is_complete(folder, layout):
                return LocatedDataset(name, facts, folder, layout)
    raise FileNotFoundError(_missing_message(reader, facts, start, candidates))


def _is_complete(folder: Path, layout: Layout) -> bool:
    return all((folder / need).exists() for need in layout.needs)


def table_domains(root: Path, options: ReadOptions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the domains of a table with and without training images, in the order of the file.

    Raises:
        FileNotFoundError: the table does not exist.
        TableError: the table is invalid.
    """
    return table.domain_names(find_dataset(TABLE, root, options))


def _missing_message(
    name: str, facts: DatasetFacts, start: Path, candidates: Sequence[Path]
) -> str:
    incomplete = [
        (folder, layout)
        for folder in candidates
        for layout in facts.layouts
        if any((folder / need).exists() for need in layout.needs)
    ]
    if incomplete:
        folder, layout = incomplete[0]
        missing = next(need for need in layout.needs if not (folder / need).exists())
        return (
            f"{facts.title}: expected {missing} under {folder}; found {_listing(folder)}. "
            f"Complete the data set, or set benchmark.root or benchmark.roots.{name}."
        )
    needs = " or ".join(", ".join(layout.needs) for layout in facts.layouts)
    message = (
        f"{facts.title}: expected {needs} under {start} or {start}/{facts.folders[0]}; found "
        f"{_listing(start)}."
    )
    if deeper := find_deeper(facts, start):
        return f"{message} The data set is in {deeper}: set benchmark.roots.{name}={deeper}"
    return f"{message} Set benchmark.root or benchmark.roots.{name}."


def find_deeper(facts: DatasetFacts, root: Path, exclude: Collection[Path] = ()) -> Path | None:
    """Return the first folder up to three levels below `root` that holds the data set, or None.

    Args:
        facts: data set to search for.
        root: where to start.
        exclude: folders to skip, for instance those of other data sets with the same layout.
    """
    level = [root]
    for _ in range(_NUM_LEVELS):
        level = [child for folder in level for child in _subfolders(folder) if child not in exclude]
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
                if entry.is_dir() and not is_system_name(entry.name)
            )
    except OSError:
        return []


def _listing(folder: Path) -> str:
    """List the first entries of a folder, for an error message."""
    if not folder.is_dir():
        return "no such folder"
    names = sorted(
        entry.name + ("/" if entry.is_dir() else "")
        for entry in folder.iterdir()
        if not is_system_name(entry.name)
    )
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") or "an empty folder"


def _module(name: str) -> ModuleType:
    if not has_reader(name):
        raise ValueError(
            f"expected a data set with a reader, got {name!r}; choose one of "
            f"{', '.join(dataset_names())}"
        )
    return importlib.import_module(f"tasks.datasets.{name.partition(':')[0]}")


def file_beside(dataset: LocatedDataset, root: Path, file_name: str, *others: Path) -> Path | None:
    """Find a file in the data set's folder, the folder above it, `root`, or `others`."""
    for folder in (dataset.folder, dataset.folder.parent, root, *others):
        if (folder / file_name).is_file():
            return folder / file_name
    return None
