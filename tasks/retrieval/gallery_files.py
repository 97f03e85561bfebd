"""The folder of a gallery index: index.json, and the files of one version of it that it names."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

FORMAT, VERSION = "lifelong-reid gallery index", 1
DESCRIPTION_FILE = "index.json"
VERSIONED = re.compile(r"[a-z]+-[0-9a-f]{12}\.(faiss|parquet|npy)|\.index\.json\.[0-9a-f]{12}")


@dataclass(frozen=True)
class GalleryFiles:
    """A saved index.

    Attributes:
        folder: where it is.
        description: what index.json says.
    """

    folder: Path
    description: Mapping[str, Any]

    @staticmethod
    def of(folder: Path) -> GalleryFiles:
        """The index of a folder, described but not read.

        Raises:
            FileNotFoundError: the folder is missing, or has no index.json.
            ValueError: its index.json is of something else, or of another version.
        """
        file = folder / DESCRIPTION_FILE
        if not file.is_file():
            raise FileNotFoundError(
                f"expected a gallery index in {folder}, found no {DESCRIPTION_FILE} there; "
                "build one, or give the folder of one"
            )
        description = _description(file)
        if description is None:
            raise ValueError(
                f"{file}: expected the description of a gallery index, found something else; "
                "give the folder of a gallery index"
            )
        if description.get("version") != VERSION:
            raise ValueError(
                f"{file}: expected version {VERSION} of the gallery index, found "
                f"{description.get('version')}; build it again, or update this package"
            )
        return GalleryFiles(folder, description)

    def read(self, name: str, reader: Callable[[Path], T]) -> T:
        """What `reader` makes of one of the files.

        Raises:
            ValueError: it makes nothing of it.
        """
        path = self.folder / self.description["files"][name]
        try:
            return reader(path)
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            raise ValueError(
                f"{path}: this file of the gallery index is missing or damaged ({error}); "
                "build the index again"
            ) from error


def replace_files(
    folder: Path, description: Mapping[str, Any], writers: Mapping[str, Callable[[Path], None]]
) -> None:
    """Writes an index, whole or not at all, in place of the one that may be there.

    The files get new names; index.json, which names them, is renamed into its place when they are
    complete, and the old ones are removed last. One writer at a time.

    Args:
        folder: new, empty, or of a gallery index.
        description: JSON values that `GalleryFiles.of` will give.
        writers: by file name, how a file is written.

    Raises:
        FileExistsError: the folder holds something else, or is a file.
    """
    check_replaceable(folder)
    token = uuid.uuid4().hex[:12]
    files = {name: "-{}.".join(name.rsplit(".", 1)).format(token) for name in writers}
    head = {"format": FORMAT, "version": VERSION}
    text = json.dumps(head | dict(description) | {"files": files}, indent=1)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{DESCRIPTION_FILE}.{token}"
    try:
        for name, write in writers.items():
            write(folder / files[name])
        temporary.write_text(text)
        temporary.replace(folder / DESCRIPTION_FILE)
    except BaseException:
        _remove(folder, lambda name: token in name)
        raise
    _remove(folder, lambda name: token not in name)


def check_replaceable(folder: Path) -> None:
    """Makes sure that an index may be written to a folder: new, empty, or that of an index.

    Raises:
        FileExistsError: something else is there.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder}: expected a folder for the gallery index, found a file")
    if (folder / DESCRIPTION_FILE).exists():
        foreign = [] if _description(folder / DESCRIPTION_FILE) else [DESCRIPTION_FILE]
    else:
        names = sorted(path.name for path in folder.iterdir())
        foreign = [name for name in names if not VERSIONED.fullmatch(name)]
    if foreign:
        raise FileExistsError(
            f"{folder}: expected a new or empty folder for the gallery index, or the folder of "
            f"one, found {foreign[0]} of something else; choose another folder"
        )


def _description(file: Path) -> dict[str, Any] | None:
    """What an index.json says; None if it is not of a gallery index."""
    try:
        found = json.loads(file.read_text())
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def _remove(folder: Path, chosen: Callable[[str], bool]) -> None:
    for path in folder.iterdir():
        if VERSIONED.fullmatch(path.name) and chosen(path.name):
            path.unlink(missing_ok=True)
