"""Export of descriptions: VLADR's text format for parts, JSON for dual texts."""

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
    """Default name of the exported file, which data set readers look for."""
    return f"{images.name}_{'description.txt' if prompt.name == 'parts' else 'dual.json'}"


def export(
    path: Path,
    images: ImageSet,
    hashed: Sequence[HashedImage],
    prompt: Prompt,
    rows: Mapping[str, Row],
    source: str,
) -> int:
    """Writes all finished descriptions atomically and returns the number of described images.

    Entries in styles also state method, encoder and the writer, which is the part of `source` after
    the prompt version.
    """
    texts = {
        image.path: row.texts
        for image in hashed
        if (row := rows.get(image.sha256)) is not None and row.is_done
    }
    if prompt.name == "parts":
        parts = {
            file.name: [fields[part] for part in prompt.fields] for file, fields in texts.items()
        }
        content = format_descriptions(parts)
    else:
        writer = source.partition("/")[2]
        facts = prompt.styling.facts(writer) if prompt.styling else {}
        entries = [
            {"file_path": _relative(file, images.folder)} | dict(fields) | facts
            for file, fields in texts.items()
        ]
        content = json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, content)
    return len(texts)


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
