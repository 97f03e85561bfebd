"""Images of a table: rows grouped by domain and merged by image, with all checks of them."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from tasks.dataset_files import missing_images
from tasks.datasets._table_cells import PARTS, Row, Table, TableError, shortened
from tasks.suggestion import suggestion

SPLITS = ("train", "query", "gallery", "validation", "test")
DEFAULT_DOMAIN = "table"
DOMAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SAME = ("person_id", "camera_id", "split", "domain", "identity", "clothing", *PARTS)
_ADDRESS = re.compile(r"[A-Za-z]:[\\/]|[A-Za-z][A-Za-z0-9+.-]*://")  # a drive or a URL
_HELD_OUT = {"validation": "validation", "query": "test", "gallery": "test", "test": "test"}


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a table.

    Attributes:
        path: absolute path, or relative to the current folder.
        row: its first row.
        captions: captions of all its rows.
    """

    path: str
    row: Row
    captions: tuple[str, ...]

    @property
    def split(self) -> str:
        """Split in lower case, with "val" as "validation"."""
        return split_of(self.row)


def split_of(row: Row) -> str:
    split = row.cells["split"].lower()
    return "validation" if split == "val" else split


def domain_of(row: Row) -> str:
    return row.cells.get("domain", DEFAULT_DOMAIN)


def rows_by_domain(table: Table) -> dict[str, list[Row]]:
    """Group the rows by domain, after checking the columns split and domain."""
    problems: list[str] = []
    domains: dict[str, list[Row]] = {}
    for row in table.rows:
        split, domain = split_of(row), domain_of(row)
        if split not in SPLITS:
            problems.append(
                f"{row.where}: expected the split {', '.join(SPLITS[:-1])} or {SPLITS[-1]}, got "
                f"{row.cells['split']!r}{suggestion(split, SPLITS)}; correct column split"
            )
        if not DOMAIN_NAME.fullmatch(domain):
            problems.append(
                f"{row.where}: expected a domain of letters, digits, '.', '_' and '-', got "
                f"{domain!r}; rename it, because files are named after domains"
            )
        domains.setdefault(domain, []).append(row)
    if problems:
        raise TableError(shortened(problems))
    return domains


def merged_images(table: Table, folder: Path) -> tuple[list[Image], list[str]]:
    """Merge the rows of each image and check that all files exist.

    Args:
        table: rows whose splits and domains are valid.
        folder: folder to which relative paths refer.

    Returns:
        Images in the order of their first rows, and problems: cells that are empty, paths that are
        invalid or do not exist, rows that contradict or repeat one another.
    """
    problems: list[str] = []
    images: dict[str, Image] = {}
    for row in table.rows:
        problem = _invalid_cell(row)
        if problem is None:
            path = os.path.normpath(folder / row.cells["image_path"].replace("\\", "/"))
            image = Image(path, row, tuple(dict.fromkeys(row.captions)))
            first = images.setdefault(path, image)
            problem = None if first is image else _repetition(first, row)
            if first is not image and problem is None:
                images[path] = replace(
                    first, captions=tuple(dict.fromkeys((*first.captions, *row.captions)))
                )
        if problem is not None:
            problems.append(problem)
    problems = shortened(problems)
    missing = missing_images(images)
    if missing:
        listed = [f"{line_of(images[path].row)} {path}" for path in missing[:3]]
        problems.append(
            f"{table.file}: expected paths of image files, got {len(missing):,} that do not exist "
            f"({'; '.join(listed)}{'; ...' if len(missing) > 3 else ''}); correct column "
            "image_path, or set benchmark.table.images to the folder of relative paths"
        )
    return list(images.values()), problems


def line_of(row: Row) -> str:
    return row.where.rpartition(", ")[2]


def _invalid_cell(row: Row) -> str | None:
    for column in ("image_path", "person_id"):
        if not row.cells[column]:
            return (
                f"{row.where}: expected a value in column {column}, got an empty cell; fill it in"
            )
    path = row.cells["image_path"]
    if _ADDRESS.match(path):
        return (
            f"{row.where}: expected the path of a file on this machine, got {path!r}; copy the "
            "image and give its path"
        )
    num_parts = sum(bool(row.cells.get(part)) for part in PARTS)
    if num_parts not in (0, len(PARTS)):
        return (
            f"{row.where}: expected texts in all of the columns {', '.join(PARTS)} or in none, got "
            f"{num_parts}; fill in the others"
        )
    return None


def _repetition(first: Image, row: Row) -> str | None:
    """Describe a second row of an image that is no further caption; None if it is one."""
    before = line_of(first.row)
    for column in _SAME:
        values = [each.cells.get(column, "") for each in (first.row, row)]
        if values[0] != values[1]:
            return (
                f"{row.where}: expected the {column} {values[0]!r} of {before} for the same image "
                f"{row.cells['image_path']}, got {values[1]!r}; correct or remove one of the rows"
            )
    if set(row.captions) <= set(first.captions):
        return (
            f"{row.where}: expected each image once, or once for each caption, got "
            f"{row.cells['image_path']} again after {before}; remove one of the rows"
        )
    return None


def check_domain(
    file: Path, name: str, images: Sequence[Image], camera_filter: bool
) -> Iterator[str]:
    """Describe what makes scores of a domain undefined or invalid.

    Args:
        file: the table, for messages.
        name: the domain.
        images: its images.
        camera_filter: whether images of the query's person by the query's camera are left out.
    """
    where = f"{file}, domain {name}"
    splits = {split: [each for each in images if each.split == split] for split in SPLITS}
    yield from _split_problems(where, splits)
    if not splits["test"] and camera_filter:
        yield from _camera_problems(where, images, [*splits["query"], *splits["gallery"]])
    if not splits["test"] and splits["validation"]:
        yield from _validation_problems(where, splits["validation"], camera_filter)
    yield from _shared_people(where, images)
    described = [each for each in splits["train"] if each.row.cells.get(PARTS[0])]
    plain = [each for each in splits["train"] if not each.row.cells.get(PARTS[0])]
    if described and plain:
        yield (
            f"{where}: expected texts of parts for all training images or for none, got none for "
            f"{len(plain):,} (the first is {line_of(plain[0].row)}, {plain[0].path}); describe them"
        )


def _split_problems(where: str, splits: Mapping[str, Sequence[Image]]) -> Iterator[str]:
    held_out = [split for split in ("query", "gallery", "test") if splits[split]]
    if held_out not in (["query", "gallery"], ["test"]):
        yield (
            f"{where}: expected rows of the splits query and gallery, or of test if captions are "
            f"the queries, got {' and '.join(held_out) or 'none of them'}; add or rename splits"
        )
    elif held_out == ["test"]:
        for split in ("test", "validation"):
            if splits[split] and not any(image.captions for image in splits[split]):
                yield (
                    f"{where}: expected captions of the images of split {split}, which are the "
                    f"queries, got none from {line_of(splits[split][0].row)} on; fill in column "
                    "caption, or use the splits query and gallery"
                )


def _camera_problems(where: str, images: Sequence[Image], tested: Sequence[Image]) -> Iterator[str]:
    remedy = "set benchmark.table.camera_filter=false to rank all images"
    without = [image for image in images if not image.row.cells.get("camera_id")]
    if without:
        yield (
            f"{where}: expected a camera_id for each image, got none for {len(without):,} (the "
            f"first is {line_of(without[0].row)}, {without[0].path}); fill in the column, or "
            f"{remedy}"
        )
    elif len(cameras := {image.row.cells["camera_id"] for image in tested}) == 1:
        yield (
            f"{where}: expected test images by at least two cameras, got only {cameras.pop()!r}, "
            "so leaving out images by the query's camera would remove every match; correct column "
            f"camera_id, or {remedy}"
        )


def _validation_problems(where: str, images: Sequence[Image], camera_filter: bool) -> Iterator[str]:
    cameras = {image.row.cells.get("camera_id") for image in images}
    has_cameras = camera_filter and len(cameras) > 1
    views: defaultdict[str, set[str]] = defaultdict(set)
    for image in images:
        cells = image.row.cells
        views[cells["person_id"]].add(cells["camera_id"] if has_cameras else image.path)
    if all(len(each) == 1 for each in views.values()):
        yield (
            f"{where}: expected two images of a person in split validation"
            f"{' by two cameras' if has_cameras else ''}, got one of each person; add images, or "
            "remove the split (benchmark.num_validation_identities holds out training people)"
        )


def _shared_people(where: str, images: Sequence[Image]) -> Iterator[str]:
    """Describe people in two of training, validation and test images."""
    people: dict[str, dict[str, Image]] = {"train": {}, "validation": {}, "test": {}}
    for image in images:
        group = people[_HELD_OUT.get(image.split, "train")]
        group.setdefault(image.row.cells["person_id"], image)
    for first, second in combinations(people, 2):
        both = [person for person in people[first] if person in people[second]]
        if both:
            lines = [line_of(people[group][both[0]].row) for group in (first, second)]
            yield (
                f"{where}: expected different people in {first} and {second} images, got "
                f"{len(both):,} in both (the first is {both[0]!r} in {lines[0]} and {lines[1]}); "
                "move all images of a person to one of them"
            )
