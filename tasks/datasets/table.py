"""Images listed in a CSV or Parquet file, one row for each image, with one or several domains."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from tasks.dataset_files import DatasetFacts, Layout, LocatedDataset, ReadOptions
from tasks.datasets._table_cells import PARTS, Table, TableError, read_rows
from tasks.datasets._table_images import (
    DEFAULT_DOMAIN,
    Image,
    check_domain,
    domain_of,
    line_of,
    merged_images,
    rows_by_domain,
    split_of,
)
from tasks.protocol.identities import identities_with_queries, split_validation, text_split
from tasks.schema import RawDomain, Record, Split
from tasks.suggestion import suggestion
from tasks.text.caption_checks import caption_findings

FACTS = DatasetFacts(
    title="Table",
    folders=("table",),
    layouts=(Layout("CSV", ("table.csv",)), Layout("Parquet", ("table.parquet",))),
    licence="yours",
    source="a file of your own, see [below](#your-own-images-in-a-table)",
    has_text_files=False,
)
_MAX_ID = 2**63 - 1


def located(options: ReadOptions) -> LocatedDataset | None:
    """Locate the file of `options.table.file`; None if it is not set.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    if options.table.file is None:
        return None
    file = Path(options.table.file).expanduser()
    if not file.is_file():
        beside = [each.name for each in file.parent.iterdir()] if file.parent.is_dir() else []
        raise FileNotFoundError(
            f"{file}: expected a CSV or Parquet file, which does not exist"
            f"{suggestion(file.name, beside)}; set benchmark.table.file"
        )
    layout = Layout("Parquet" if file.suffix.lower() == ".parquet" else "CSV", (file.name,))
    return LocatedDataset("table", FACTS, file.parent, layout)


def read(dataset: LocatedDataset, options: ReadOptions) -> RawDomain:
    """Read one domain: `dataset.name` is `table:<domain>`, or `table` for a table with one domain.

    Person and camera ids that are whole numbers are kept if all ids of the domain are such numbers;
    otherwise the texts are numbered in natural order. Records keep the order of the rows.

    Raises:
        TableError: the table is invalid, or has no such domain.
    """
    table = _table(dataset)
    domains = rows_by_domain(table)
    domain = dataset.name.partition(":")[2] or (next(iter(domains)) if len(domains) == 1 else "")
    if domain not in domains:
        given = f"no domain {domain!r}" if domain else f"{len(domains)} domains"
        raise TableError(
            [
                f"{table.file}: expected the name of a domain as in table:{next(iter(domains))}, "
                f"got {given}{suggestion(domain, domains)}; the table has {', '.join(domains)}"
            ]
        )
    images, problems = merged_images(
        table, Path(options.table.images or table.file.parent).expanduser()
    )
    by_domain: defaultdict[str, list[Image]] = defaultdict(list)
    for image in images:
        by_domain[domain_of(image.row)].append(image)
    for name, listed in by_domain.items():
        problems += check_domain(table.file, name, listed, options.table.camera_filter)
    if problems:
        raise TableError(problems)
    if table.ignored and domain == next(iter(domains)):
        logging.getLogger(__name__).warning(
            "%s: ignored the columns %s", table.file, ", ".join(map(repr, table.ignored))
        )
    return replace(_raw_domain(table, by_domain[domain], options), name=dataset.name)


def domain_names(dataset: LocatedDataset) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the domains with and without training images, in the order of their first rows.

    Raises:
        TableError: the file is unreadable, or a cell of column split or domain is invalid.
    """
    learned: list[str] = []
    tested: list[str] = []
    for name, rows in rows_by_domain(_table(dataset)).items():
        has_training = any(split_of(row) == "train" for row in rows)
        (learned if has_training else tested).append(name)
    return tuple(learned), tuple(tested)


def _table(dataset: LocatedDataset) -> Table:
    file = dataset.folder / dataset.layout.needs[0]
    stat = file.stat()
    return _cached_rows(file, (stat.st_size, stat.st_mtime_ns, stat.st_ino))


@lru_cache(maxsize=1)
def _cached_rows(file: Path, _stat: tuple[int, ...]) -> Table:
    """Parse a file once for all its domains; `_stat` changes when the file does."""
    return read_rows(file)


def numbered(texts: Iterable[str]) -> dict[str, int]:
    """Assign a number to each id.

    Returns:
        The numbers themselves if all ids are whole numbers without leading zeros; otherwise
        positions from 0 in natural order, in which "p9" precedes "p10", and "007" differs from "7".
    """
    distinct = set(texts)
    if all(re.fullmatch(r"0|[1-9][0-9]{0,18}", text) for text in distinct):
        numbers = {text: int(text) for text in distinct}
        if max(numbers.values(), default=0) <= _MAX_ID:
            return numbers
    return {text: number for number, text in enumerate(sorted(distinct, key=_natural_key))}


def _natural_key(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key that compares runs of digits as numbers; equal only for equal texts."""
    runs = re.findall(r"[0-9]+|[^0-9]+", text)
    digits = [run.lstrip("0") if run[0] in "0123456789" else None for run in runs]
    key = [
        (1, 0, run) if stripped is None else (0, len(stripped), stripped)
        for run, stripped in zip(runs, digits, strict=True)
    ]
    return key, text


def _raw_domain(table: Table, images: Sequence[Image], options: ReadOptions) -> RawDomain:
    """Build a domain whose images were checked."""
    people = numbered(image.row.cells["person_id"] for image in images)
    cameras = numbered(image.row.cells.get("camera_id", "") for image in images)
    by_text = any(image.split == "test" for image in images)
    has_cameras = options.table.camera_filter and "" not in cameras
    records: defaultdict[str, list[Record]] = defaultdict(list)
    for image in images:
        cells = image.row.cells
        # Two cameras for query and gallery, as usual for data without cameras: the camera rule
        # then removes nothing.
        camera = cameras[cells["camera_id"]] if has_cameras else int(image.split == "gallery")
        parts = tuple(cells.get(part, "") for part in PARTS)
        records[image.split].append(
            Record(
                image.path, people[cells["person_id"]], camera, image.captions,
                parts if all(parts) else (), cells.get("identity", ""), cells.get("clothing", ""),
            )
        )  # fmt: skip
    query, gallery = tuple(records["query"]), tuple(records["gallery"])
    _warn(table, images, records)
    folder = Path(os.path.commonpath([os.path.dirname(image.path) for image in images]))
    return RawDomain(
        name=DEFAULT_DOMAIN,
        train=tuple(records["train"]),
        test=text_split(records["test"]) if by_text else Split(query, gallery),
        validation=_validation(table, records["validation"], by_text),
        folder=folder,
        variant="table",
        facts=_facts(people, records, folder)
        | ({} if by_text else {"camera_filter": options.table.camera_filter}),
    )


def _validation(table: Table, records: Sequence[Record], by_text: bool) -> Split | None:
    if not records:
        return None
    kind = "text" if by_text else "image"
    people = identities_with_queries(records, kind)
    if num_others := len({record.person_id for record in records} - set(people)):
        logging.getLogger(__name__).warning(
            "%s: left out %d validation people without a query and a match", table.file, num_others
        )
    return split_validation(records, people, kind)


def _warn(table: Table, images: Iterable[Image], records: Mapping[str, Sequence[Record]]) -> None:
    """Warn of what only weakens training: people with one image, unusual captions."""
    trained = [image.row for image in images if image.split == "train"]
    numbers = Counter(row.cells["person_id"] for row in trained)
    single = [row for row in trained if numbers[row.cells["person_id"]] == 1]
    if single:
        logging.getLogger(__name__).warning(
            "%s: %d of %d people to train on have one image (the first is %r in %s), which is "
            "repeated in batches; add images or remove these people", table.file, len(single),
            len(numbers), single[0].cells["person_id"], line_of(single[0]),
        )  # fmt: skip
    findings = caption_findings(record for listed in records.values() for record in listed)
    if findings:
        logging.getLogger(__name__).warning("%s: kept %s", table.file, "; ".join(findings))


def _facts(
    people: Mapping[str, int], records: Mapping[str, Sequence[Record]], folder: Path
) -> dict[str, str]:
    """Return the kind of person ids, and a hash of all texts except captions."""
    is_numeric = all(text == str(number) for text, number in people.items())
    facts = {"person_ids": "numbers" if is_numeric else "texts, numbered in natural order"}
    lines = sorted(
        "\t".join(
            (os.path.relpath(each.image_path, folder), *each.parts, each.identity, each.clothing)
        )
        for listed in records.values()
        for each in listed
        if each.parts or each.identity or each.clothing
    )
    if lines:
        facts["texts_sha256"] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return facts
