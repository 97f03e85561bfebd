"""Files of a saved gallery index: index.json, and the versioned files that it names."""

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
    """A saved gallery index.

    Attributes:
        folder: folder of the index.
        description: content of index.json.
    """

    folder: Path
    description: Mapping[str, Any]

    @staticmethod
    def open(folder: Path) -> GalleryFiles:
        """Reads the description of an index, but none of its data files.

        Raises:
            FileNotFoundError: the folder is missing or has no index.json.
            ValueError: index.json does not describe a gallery index of the supported version.
        """
        file = folder / DESCRIPTION_FILE
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder}: expected a gallery index, but there is no {DESCRIPTION_FILE}; "
                "build an index, or choose the folder of an existing one"
            )
        description = _read_description(file)
        if description is None:
            raise ValueError(
                f"{file}: expected the description of a gallery index, got other content; "
                "choose the folder of a gallery index"
            )
        if description.get("version") != VERSION:
            raise ValueError(
                f"{file}: expected gallery index version {VERSION}, got "
                f"{description.get('version')}; rebuild the index, or update this package"
            )
        return GalleryFiles(folder, description)

    def read(self, name: str, reader: Callable[[Path], T]) -> T:
        """Reads one of the files with `reader`.

        Raises:
            ValueError: the file is missing or damaged.
        """
        path = self.folder / self.description["files"][name]
        try:
            return reader(path)
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            raise ValueError(
                f"{path}: this file of the gallery index is missing or damaged ({error}); "
                "rebuild the index"
            ) from error


def replace_files(
    folder: Path, description: Mapping[str, Any], writers: Mapping[str, Callable[[Path], None]]
) -> None:
    """Writes an index atomically, replacing an existing one.

    The files get new names. When they are complete, index.json, which names them, is replaced by
    a rename. The old files are removed last. Only one process may write at a time.

    Args:
        folder: a new or empty folder, or the folder of a gallery index.
        description: JSON values stored in index.json.
        writers: function that writes a file, by file name.

    Raises:
        FileExistsError: the folder contains other files, or is a file.
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
    """Checks that a folder is new, empty, or the folder of a gallery index.

    Raises:
        FileExistsError: the folder contains other files, or is a file.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder}: expected a folder for the gallery index, got a file")
    if (folder / DESCRIPTION_FILE).exists():
        foreign = [] if _read_description(folder / DESCRIPTION_FILE) else [DESCRIPTION_FILE]
    else:
        names = sorted(path.name for path in folder.iterdir())
        foreign = [name for name in names if not VERSIONED.fullmatch(name)]
    if foreign:
        raise FileExistsError(
            f"{folder}: expected a new or empty folder or the folder of a gallery index, but it "
            f"contains another file, {foreign[0]}; choose another folder"
        )


def _read_description(file: Path) -> dict[str, Any] | None:
    """Content of an index.json; None if it does not describe a gallery index."""
    try:
        content = json.loads(file.read_text())
    except ValueError:
        return None
    return content if isinstance(content, dict) and content.get("format") == FORMAT else None


def _remove(folder: Path, is_removed: Callable[[str], bool]) -> None:
    for path in folder.iterdir():
        if VERSIONED.fullmatch(path.name) and is_removed(path.name):
            path.unlink(missing_ok=True)
