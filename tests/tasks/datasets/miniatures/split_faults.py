"""Faults of split files, for every data set with split files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.tasks.datasets.miniatures.painting import Fault


def change_split(file: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return a damage function that changes the first split of a file below the root."""

    def damage(root: Path) -> None:
        splits = json.loads((root / file).read_text())
        change(splits[0])
        (root / file).write_text(json.dumps(splits))

    return damage


def change_bytes(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Return a damage function that changes the bytes of a file below the root."""

    def damage(root: Path) -> None:
        (root / file).write_bytes(change((root / file).read_bytes()))

    return damage


def split_file_faults(file: str) -> dict[str, Fault]:
    """Return all faults of a split file at a path below the root."""
    return {
        "split file: truncated": Fault(
            change_bytes(file, lambda content: content[: len(content) // 2]),
            ("expected JSON, but line 1", "damaged or incomplete; download it again"),
        ),
        "split file: not UTF-8": Fault(
            change_bytes(file, lambda content: content.replace(b'"query"', b'"qu\xe9ry"')),
            ("expected UTF-8 text, got the byte 0xe9",),
        ),
        "split file: no list": Fault(
            change_bytes(file, lambda _: b'{"train": []}'),
            ("expected a list of splits.* got dict",),
        ),
        "split file: empty": Fault(
            change_bytes(file, lambda _: b"[]"), ("expected a list of splits.* got an empty list",)
        ),
        "split file: no split": Fault(
            change_bytes(file, lambda _: b"[[]]"), ("split 0: expected train, query.* got list",)
        ),
        "split file: wrong keys": Fault(
            change_split(file, lambda split: split.update(probe=split.pop("query"))),
            ("split 0: expected a list of images under 'query', got null", "has gallery, .*probe"),
        ),
        "split file: no entry": Fault(
            change_split(file, lambda split: split["train"].append([3, 4])),
            (r"expected \[path, person, camera\] under 'train', got \[3, 4\]",),
        ),
        "split file: missing images": Fault(
            change_split(file, _name_nobody),
            (
                "split 0 lists .*nobody.png and 1 more, which .* does not contain",
                "Download the missing",
            ),
        ),
        "split file: people in training and test": Fault(
            change_split(file, _query_by_training),
            (r"split 0: person \d+ is in training and test", "another split file"),
        ),
        "split file: an image twice": Fault(
            change_split(file, lambda split: split["train"].append(split["train"][0])),
            ("'train' lists .* twice",),
        ),
        "split file: a person as several": Fault(
            change_split(file, _number_images), ("as person .* belongs to other images",)
        ),
        "split file: several as one person": Fault(
            change_split(file, _one_number), ("lists person 1 for .* two people",)
        ),
    }


def _query_by_training(split: dict[str, Any]) -> None:
    path, _, camera = split["train"][0][:3]
    split["query"].append([path, 10**6, camera])


def _name_nobody(split: dict[str, Any]) -> None:
    for entry in (split["gallery"][0], split["train"][0]):
        entry[0] = f"{Path(entry[0]).parent}/nobody.png"


def _number_images(split: dict[str, Any]) -> None:
    for number, entry in enumerate(split["train"]):
        entry[1] = number


def _one_number(split: dict[str, Any]) -> None:
    for entry in split["train"]:
        entry[1] = 1
