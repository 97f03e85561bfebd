"""Writing of tables of images that the reader `table` reads."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tasks.datasets._table_cells import COLUMNS, PARTS
from tasks.datasets._table_images import DOMAIN_NAME
from tasks.schema import RawDomain, Record
from tasks.text.descriptions import read_descriptions

Cells = Mapping[str, str]

_SHOP = (
    ("train", "anna", "door"),
    ("train", "anna", "till"),
    ("validation", "ben", "door"),
    ("validation", "ben", "till"),
    ("query", "carla", "door"),
    ("gallery", "carla", "till"),
)
_STREET = (
    ("train", "17", "A man with short hair in a red jacket and blue jeans."),
    ("test", "18", "A woman with a grey coat and a black bag."),
)


def template_rows() -> list[Cells]:
    """Return example rows of every split: image queries in one domain, text queries in another."""
    shop = [
        {
            "image_path": f"images/{person}_{camera}.jpg",
            "person_id": person,
            "camera_id": camera,
            "split": split,
            "domain": "shop",
        }
        for split, person, camera in _SHOP
    ]
    street = [
        {
            "image_path": f"images/street_{person}.jpg",
            "person_id": person,
            "split": split,
            "domain": "street",
            "caption": caption,
            "identity": "An adult of medium height.",
            "clothing": caption,
            "head": "Short hair.",
            "upper": "A jacket.",
            "lower": "Trousers.",
            "foot": "Black shoes.",
        }
        for split, person, caption in _STREET
    ]
    return [*shop, *street]


def write_template(file: Path) -> None:
    """Write a table with example rows.

    Raises:
        FileExistsError: the file exists.
        ValueError: the file is not named as a CSV file.
    """
    _write(template_rows(), file)


def write_table(domains: Iterable[RawDomain], file: Path) -> None:
    """Write domains to a CSV file, one row for each image and caption.

    The rows keep the order of the records, and ids are written as numbers, so reading the file
    returns the same training, query and gallery records. Images below the folder of the file have
    relative paths. Texts of `description_file` are written for training images.

    Args:
        domains: domains as read, see `tasks.benchmarks.read_domains`.
        file: CSV file to create.

    Raises:
        FileExistsError: the file exists.
        ValueError: the file is not named as a CSV file, or a table cannot hold a value.
    """
    _write([row for raw in domains for row in _rows(raw, file.absolute().parent)], file)


def _rows(raw: RawDomain, folder: Path) -> Iterator[Cells]:
    if not DOMAIN_NAME.fullmatch(raw.name):
        raise ValueError(
            f"{raw.name}: expected a domain of letters, digits, '.', '_' and '-'; rename the domain"
        )
    parts = {} if raw.description_file is None else read_descriptions(raw.description_file).parts
    by_text = raw.test.query_by == "text"
    held_out = [("validation", raw.validation)] if raw.validation else []
    listed: list[tuple[str, Iterable[Record]]] = [("train", raw.train)]
    for name, split in held_out:
        listed.append((name, split.gallery if by_text else (*split.query, *split.gallery)))
    if by_text:
        listed.append(("test", raw.test.gallery))
    else:
        listed += [("query", raw.test.query), ("gallery", raw.test.gallery)]
    for split, records in listed:
        for record in records:
            described = record.parts
            if split == "train" and not described:
                described = parts.get(Path(record.image_path).name, ())
            cells = {
                "image_path": _path(record.image_path, folder),
                "person_id": str(record.person_id),
                "camera_id": str(record.camera_id),
                "split": split,
                "domain": raw.name,
                "identity": record.identity,
                "clothing": record.clothing,
                **dict(zip(PARTS, described, strict=bool(described))),
            }
            for caption in record.captions or ("",):
                yield {**cells, "caption": caption}


def _path(image_path: str, folder: Path) -> str:
    path = Path(os.path.abspath(image_path))
    text = str(path.relative_to(folder) if path.is_relative_to(folder) else path)
    if "\\" in text or not text.isprintable() or text != text.strip():
        raise ValueError(
            f"{image_path!r}: expected a path without backslashes, line ends and spaces at its "
            "ends, which a table cannot hold; rename the file"
        )
    return text


def _write(rows: list[Cells], file: Path) -> None:
    if file.suffix.lower() != ".csv":
        raise ValueError(f"{file}: expected the name of a CSV file to create, such as table.csv")
    if file.exists():
        raise FileExistsError(
            f"{file}: expected a new file, which exists; remove it or choose another"
        )
    used = [name for name in COLUMNS if any(row.get(name) for row in rows)]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("x", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, used, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
