"""Descriptions as files that other programs read: VLADR's format for parts, JSON for dual texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.descriptions.images import HashedImage, ImageSet
from runner.descriptions.prompts import Prompt
from runner.descriptions.store import Row
from runner.results.run_folder import write_atomically
from tasks.text.descriptions import format_descriptions


def export_name(images: ImageSet, prompt: Prompt) -> str:
    """What the exported file is called; that of parts is what the readers of data sets look for."""
    return f"{images.name}_{'description.txt' if prompt.name == 'parts' else 'dual.json'}"


def export(
    path: Path,
    images: ImageSet,
    hashed: Sequence[HashedImage],
    prompt: Prompt,
    rows: Mapping[str, Row],
) -> int:
    """Writes what there is, whole or not at all, and returns the number of images in it."""
    texts = {
        image.path: row.texts
        for image in hashed
        if (row := rows.get(image.sha256)) is not None and row.is_done
    }
    if prompt.name == "parts":
        parts = {
            file.name: [found[part] for part in prompt.fields] for file, found in texts.items()
        }
        content = format_descriptions(parts)
    else:
        entries = [
            {"file_path": _relative(file, images.folder)} | dict(found)
            for file, found in texts.items()
        ]
        content = json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, content)
    return len(texts)


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
