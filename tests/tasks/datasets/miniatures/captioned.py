"""Miniatures of the data sets that list images and their captions in a JSON file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.tasks.datasets.miniatures.painting import Fault, paint

Entry = dict[str, Any]
_DOWNLOAD = "ownload the original file"


def entry(split: str, person_id: int, path: str, *captions: str, key: str = "file_path") -> Entry:
    """Entry of a data set, including a key that readers ignore."""
    return {
        "split": split,
        "captions": list(captions),
        key: path,
        "processed_tokens": [caption.split() for caption in captions],
        "id": person_id,
    }


def build(folder: Path, file_name: str, entries: Sequence[Entry], key: str = "file_path") -> None:
    """Write the list and its images."""
    for number, each in enumerate(entries):
        paint(folder / "imgs" / each[key], each["id"], number)
    (folder / file_name).write_text(json.dumps(entries), encoding="utf-8")


def list_faults(file: str, key: str = "file_path") -> dict[str, Fault]:
    """Faults of a list or its images.

    Args:
        file: path of the list below the root.
        key: key of the image path in an entry.
    """
    return {**_file_faults(file), **_entry_faults(file, key)}


def _file_faults(file: str) -> dict[str, Fault]:
    def replaced(content: bytes) -> Callable[[Path], None]:
        def damage(root: Path) -> None:
            (root / file).write_bytes(content)

        return damage

    def cut_off(root: Path) -> None:
        content = (root / file).read_bytes()
        (root / file).write_bytes(content[: len(content) // 2])

    def without_list(root: Path) -> None:
        (root / file).unlink()

    def without_last_image(root: Path) -> None:
        folder = (root / file).parent / "imgs"
        max(path for path in folder.rglob("*") if path.is_file()).unlink()

    name = Path(file).name.replace(".", r"\.")
    return {
        "no list": Fault(
            without_list, ("expected .*json under", "found imgs/", r"benchmark\.root")
        ),
        "cut off": Fault(
            cut_off, (rf"{name}: expected JSON, but line 1", "incomplete; download it")
        ),
        "not UTF-8": Fault(
            replaced(b'[{"split":\n"caf\xe9"}]'), (rf"{name}, line 2: expected UTF-8", "0xe9")
        ),
        "no list in it": Fault(
            replaced(b'{"train": []}'), ("expected a list of entries, got dict", _DOWNLOAD)
        ),
        "nothing listed": Fault(replaced(b"[]"), ("no image of the split 'train'; download",)),
        "missing image": Fault(without_last_image, (rf"{name} lists .*, which does not exist",)),
    }


def _entry_faults(file: str, key: str) -> dict[str, Fault]:
    name = Path(file).name.replace(".", r"\.")

    def fault(change: Callable[[list[Any]], object], *messages: str) -> Fault:
        def damage(root: Path) -> None:
            entries = json.loads((root / file).read_text(encoding="utf-8"))
            change(entries)
            (root / file).write_text(json.dumps(entries), encoding="utf-8")

        return Fault(damage, messages)

    def lacking(missing: str) -> Fault:
        kept = ", ".join(sorted({"split", "id", key, "captions", "processed_tokens"} - {missing}))
        message = rf"{name}, entry 1: expected the key '{missing}'; it has {kept}\."
        return fault(lambda entries: entries[0].pop(missing), message, _DOWNLOAD)

    def first_with(changed: str, value: object, message: str) -> Fault:
        messages = rf"{name}, entry 1: expected {message}"
        return fault(lambda entries: entries[0].update({changed: value}), messages)

    return {
        **{f"no {missing}": lacking(missing) for missing in ("split", "id", key, "captions")},
        "no object": fault(
            lambda entries: entries.insert(0, 7), rf"{name}, entry 1: expected an object, got 7"
        ),
        "unknown split": first_with("split", "trian", "the split train, val or test, got 'trian'"),
        "captions no list": first_with("captions", {"en": "A man."}, "a list of captions, got {'"),
        "captions no texts": first_with(
            "captions", ["A man.", None], r"a list of captions, got \["
        ),
        "id no number": first_with("id", "p7", "a person id such as 7, got 'p7'"),
        "id negative": first_with("id", -1, "a person id such as 7, got -1"),
        "id true": first_with("id", True, "a person id such as 7, got True"),
        "path upwards": first_with(key, "../1.jpg", r"the path of an image below imgs/, got '\.\."),
        "path from the top": first_with(key, "/1.jpg", "the path of an image below imgs/, got '/"),
        "path empty": first_with(key, "", "the path of an image below imgs/, got ''"),
        "path no text": first_with(key, 7, "the path of an image below imgs/, got 7"),
        "no test": fault(
            lambda entries: [each.update(split="train") for each in entries],
            rf"{name} lists no image of the split 'test'; download the complete",
        ),
        "image in two splits": fault(
            lambda entries: entries.append({**entries[0], "split": "test"}),
            "entry 1 has .* in train, entry .* in test",
            _DOWNLOAD,
        ),
    }
