"""Tables: commas and semicolons, text ids, Parquet, captions, no cameras; and their faults."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.tasks.datasets.miniatures.painting import Fault, Miniature, paint

Rows = list[dict[str, str]]
TRAIN, TEST = ("anna", "7", "007", "p10"), ("x9", "x10")


def shop_rows() -> Rows:
    """Four people to train on and two to test, by the cameras door and till."""
    rows: Rows = []
    for split, people in (("train", TRAIN), ("query", TEST), ("gallery", TEST)):
        for person in people:
            for camera in {"query": ("door",), "gallery": ("till",)}.get(split, ("door", "till")):
                path = f"images/{split}/{person} {camera}.png"
                cells = {"image_path": path, "person_id": person, "camera_id": camera}
                rows.append({**cells, "split": split})
    return rows


def write_csv(file: Path, rows: Sequence[Mapping[str, str]], delimiter: str = ",") -> None:
    """Write rows with the columns of the first row."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def paint_rows(folder: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write the image of every row."""
    for number, row in enumerate(rows):
        paint(folder / row["image_path"], number)


def _build_csv(root: Path) -> None:
    paint_rows(root / "table", shop_rows())
    write_csv(root / "table" / "table.csv", shop_rows())


def _build_captions(root: Path) -> None:
    """Text-to-image: people 1 and 2 to train on, 3 and 4 to test, 5 to validate; no cameras."""
    splits = {1: "train", 2: "train", 3: "test", 4: "test", 5: "val"}
    rows = [
        {"Path": f"{person}_{number}.png", "PID": str(person), "Split": splits[person].upper(),
         "Captions": f'A person, "{person}"\nin picture {number}.'}
        for person in splits
        for number in (1, 2)
    ]  # fmt: skip
    paint_rows(root / "table", [{"image_path": row["Path"]} for row in rows])
    rows.insert(5, {**rows[4], "Captions": "A second caption."})
    write_csv(root / "table" / "table.csv", rows, ";")


def _build_parquet(root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = shop_rows()
    paint_rows(root / "table", rows)
    numbers = {person: number for number, person in enumerate((*TRAIN, *TEST), start=1)}
    columns: dict[str, list[object]] = {name: [row[name] for row in rows] for name in rows[0]}
    columns["person_id"] = [numbers[row["person_id"]] for row in rows]
    columns["caption"] = [
        ["A person.", "Somebody."] if row["split"] == "train" else None for row in rows
    ]
    columns["note"] = [1.5] * len(rows)
    pq.write_table(pa.table(columns), root / "table" / "table.parquet")


def _build_one_camera(root: Path) -> None:
    rows = [{**row, "camera_id": "door"} for row in shop_rows()]
    paint_rows(root / "table", rows)
    write_csv(root / "table" / "table.csv", rows, "\t")


def change(function: Callable[[Rows], object]) -> Callable[[Path], None]:
    """Return a damage function that changes the rows of the table."""

    def damage(root: Path) -> None:
        rows = shop_rows()
        function(rows)
        write_csv(root / "table" / "table.csv", rows)

    return damage


def change_text(function: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Return a damage function that changes the bytes of the table."""

    def damage(root: Path) -> None:
        file = root / "table" / "table.csv"
        file.write_bytes(function(file.read_bytes()))

    return damage


def set_cell(row: int, column: str, value: str) -> Callable[[Path], None]:
    """Return a damage function that changes one cell; the first row is line 2."""
    return change(lambda rows: rows[row].update({column: value}))


def _remove_images(root: Path) -> None:
    for file in (root / "table" / "images" / "train").iterdir():
        file.unlink()


def _spoil_parquet(root: Path) -> None:
    file = root / "table" / "table.parquet"
    file.write_bytes(file.read_bytes()[:-20])


FAULTS = {
    "missing column": Fault(
        change_text(lambda text: text.replace(b"person_id", b"persn_id")),
        (r"table\.csv, line 1: expected a column person_id, got .*'persn_id'", "mean persn_id"),
    ),
    "a column twice": Fault(
        change_text(lambda text: text.replace(b"camera_id", b"pid")),
        ("expected one column person_id, got 'person_id', 'pid'", "rename or remove"),
    ),
    "some part columns": Fault(
        change(lambda rows: [row.update(head="Hat.") for row in rows]),
        ("expected a column upper", "all of head, upper, lower, foot, or none"),
    ),
    "empty file": Fault(change_text(lambda _: b"\n \n"), (r"table\.csv: .*got an empty file",)),
    "header only": Fault(
        change_text(lambda text: text.splitlines()[0]), ("expected a row for each image",)
    ),
    "UTF-16": Fault(
        change_text(lambda text: text.decode().encode("utf-16")),
        (r"table\.csv: expected UTF-8 text, got UTF-16; save the file as UTF-8",),
    ),
    "not UTF-8": Fault(
        change_text(lambda text: text.replace(b"anna", b"Jos\xe9")),
        ("line 2: expected UTF-8 text, got the byte 0xe9",),
    ),
    "unclosed quote": Fault(
        change_text(lambda text: text.replace(b"anna door.png,", b'anna door.png,"')),
        ("line 2: expected cells separated by ','", "quotation marks"),
    ),
    "too many cells": Fault(
        change_text(
            lambda text: text.replace(b"till,train", b"till,train,5", 1)
        ),
        ("line 3: expected 4 cells as in the header, got 5",),
    ),
    "unknown split": Fault(
        set_cell(1, "split", "trian"),
        ("line 3: expected the split train.* got 'trian'; did you mean train",),
    ),
    "empty cell": Fault(
        set_cell(0, "person_id", " "), ("line 2: expected a value in column person_id",)
    ),
    "line end in an id": Fault(
        set_cell(0, "person_id", "an\nna"), (r"line 2: expected printable .*'an\\nna'",)
    ),
    "domain name": Fault(
        change(lambda rows: [row.update(domain="a/b") for row in rows]),
        ("line 2: expected a domain of letters.* got 'a/b'", "and 9 more like these"),
    ),
    "missing images": Fault(
        _remove_images,
        (r"got 8 that do not exist \(line 2 .*anna door\.png; line 3 .*; line 4 .*; \.\.\.\)",
         r"set benchmark\.table\.images"),
    ),
    "address": Fault(
        set_cell(0, "image_path", "https://example.org/a.png"), ("line 2: expected the path of a",)
    ),
    "drive": Fault(
        set_cell(0, "image_path", r"C:\shop\a.png"), (r"line 2: expected the path of a file",)
    ),
    "a row twice": Fault(
        change(lambda rows: rows.append(rows[0])),
        ("line 14: expected each image once.* again after line 2; remove",),
    ),
    "an image of two people": Fault(
        change(lambda rows: rows.append({**rows[0], "person_id": "bob"})),
        ("line 14: expected the person_id 'anna' of line 2 .* got 'bob'",),
    ),
    "people in training and test": Fault(
        change(lambda rows: [row.update(person_id="x9") for row in rows[:2]]),
        (r"different people in train and test images, got 1 in both .*'x9' in line 2 and line 10",),
    ),
    "no query": Fault(
        change(lambda rows: [row.update(split="gallery") for row in rows[8:]]),
        ("domain table: expected rows of the splits query and gallery.* got gallery;",),
    ),
    "no test": Fault(
        change(lambda rows: [row.update(split="train") for row in rows[8:]]), ("got none of them",)
    ),
    "no captions": Fault(
        change(lambda rows: [row.update(split="test") for row in rows[8:]]),
        ("expected captions of the images of split test, .* got none from line 10 on",),
    ),
    "one camera": Fault(
        change(lambda rows: [row.update(camera_id="door") for row in rows]),
        ("at least two cameras, got only 'door'", r"set benchmark\.table\.camera_filter=false"),
    ),
    "no cameras": Fault(
        change(lambda rows: [row.pop("camera_id") for row in rows]),
        ("expected a camera_id for each image, got none for 12", "camera_filter=false"),
    ),
    "nobody to validate": Fault(
        change(lambda rows: rows[0].update(split="validation")),
        ("expected two images of a person in split validation",),
    ),
    "several domains": Fault(
        change(lambda rows: [row.update(domain=row["camera_id"]) for row in rows]),
        ("expected the name of a domain as in table:door, got 2 domains", "has door, till"),
    ),
}  # fmt: skip
MINIATURES = {
    "table": Miniature(
        build=_build_csv, train=(8, 4, 2), query=(2, 2, 1), gallery=(2, 2, 1), variant="table",
        faults=FAULTS,
    ),
    "table: captions": Miniature(
        build=_build_captions, train=(4, 2, 1), query=(5, 2, 1), gallery=(4, 2, 1), variant="table",
    ),
    "table: Parquet": Miniature(
        build=_build_parquet, train=(8, 4, 2), query=(2, 2, 1), gallery=(2, 2, 1), variant="table",
        faults={
            "damaged": Fault(_spoil_parquet, ("cannot be read .* write it again",))
        },
    ),
    "table: one camera": Miniature(
        build=_build_one_camera, train=(8, 4, 1), query=(2, 2, 1), gallery=(2, 2, 1),
        variant="table", options={"table": {"camera_filter": False}},
    ),
}  # fmt: skip
