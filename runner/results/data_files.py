"""data-files.jsonl of a run: size and hash of every image file when the run started."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.config.json_files import read_lines, write_atomically
from tasks.protocol.contents import DomainContents, FileContent


def write_data_files(file: Path, contents: Mapping[str, DomainContents]) -> None:
    """Writes one line per file, atomically.

    Args:
        file: the file to write.
        contents: contents by domain and list.
    """
    lines = [
        json.dumps(
            {
                "domain": domain,
                "list": name,
                "path": path,
                "bytes": content.num_bytes,
                "sha256": content.sha256,
            }
        )
        for domain, lists in contents.items()
        for name, files in lists.items()
        for path, content in files.items()
    ]
    write_atomically(file, "".join(f"{line}\n" for line in lines))


def read_data_files(file: Path) -> dict[str, dict[str, dict[str, FileContent]]]:
    """Reads the file by domain and list; damaged lines are skipped, a missing file is empty."""
    contents: dict[str, dict[str, dict[str, FileContent]]] = {}
    lines, _ = read_lines(file, _is_valid)
    for line in lines:
        files = contents.setdefault(line["domain"], {}).setdefault(line["list"], {})
        files[line["path"]] = FileContent(line["bytes"], line["sha256"])
    return contents


def _is_valid(line: Any) -> bool:
    return isinstance(line, dict) and {"domain", "list", "path", "bytes", "sha256"} <= line.keys()
