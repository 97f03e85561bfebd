"""Gallery search with a finished run: embed a gallery once, then query by image or text."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runner import program_name
from runner.analysis.trained_run import TrainedRun, embedding
from runner.plotting.contact_sheet import SheetCell
from tasks.dataset_files import is_system_name
from tasks.retrieval.gallery_files import check_replaceable
from tasks.retrieval.gallery_index import GalleryEntry, GalleryIndex
from tasks.schema import Benchmark, Record

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
UNKNOWN = -1
"""Person and camera id of an image without labels; ids of data sets are never negative."""


@dataclass(frozen=True)
class Query:
    """An image query or a text query.

    Attributes:
        record: image of the query with its person and camera, if known; for a text query, the
            image that it describes, or None.
        text: text of the query; "" for an image query.
        domain: data set of the query, or "".
    """

    record: Record | None
    text: str = ""
    domain: str = ""

    @property
    def name(self) -> str:
        """Name shown in tables; data sets may have equal file names, so theirs comes first."""
        if self.text:
            return self.text
        name = Path(self.image.image_path).name
        return f"{self.domain}: {name}" if self.domain else name

    @property
    def image(self) -> Record:
        """Record of an image query."""
        assert self.record is not None, "expected an image query"
        return self.record


@dataclass(frozen=True)
class Hit:
    """One result of a query.

    Attributes:
        entry: gallery image.
        similarity: cosine similarity to the query.
        kind: "match", "other" or "unknown": whether it shows the query's person.
    """

    entry: GalleryEntry
    similarity: float
    kind: str


@dataclass(frozen=True)
class QueryResult:
    """Results of one query, best first."""

    query: Query
    hits: tuple[Hit, ...]


def gallery_of(benchmark: Benchmark, domains: Sequence[str]) -> list[tuple[str, Record]]:
    """Lists (domain name, record) of the test galleries of these domains; default: all domains.

    Raises:
        ValueError: the benchmark does not contain a domain.
    """
    chosen = _domains(benchmark, domains)
    return [(domain.name, record) for domain in chosen for record in domain.test.gallery]


def queries_of(benchmark: Benchmark, domains: Sequence[str], count: int) -> list[Query]:
    """Selects `count` test queries per domain, evenly spaced over its list of queries.

    Raises:
        ValueError: the benchmark does not contain a domain.
    """
    queries: list[Query] = []
    for domain in _domains(benchmark, domains):
        query = domain.test.query
        chosen = [query[index * len(query) // count] for index in range(min(count, len(query)))]
        if domain.test.query_by == "text":
            queries += [Query(each, each.caption, domain.name) for each in chosen]
        else:
            queries += [Query(each, domain=domain.name) for each in chosen]
    return queries


def _domains(benchmark: Benchmark, names: Sequence[str]) -> list[Any]:
    by_name = {domain.name: domain for domain in benchmark.domains}
    if unknown := [name for name in names if name not in by_name]:
        raise ValueError(f"--domain: expected one of {', '.join(by_name)}, got {unknown[0]!r}")
    return [by_name[name] for name in names or by_name]


def images_below(folder: Path) -> list[tuple[str, Record]]:
    """Lists all image files below a folder, recursively, without labels.

    Files of operating systems (`._NAME`, `__MACOSX`) are ignored. Files whose path is not UTF-8
    cannot be stored in an index; they are left out with a warning.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the folder contains no image.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"--data: expected a folder, got {folder}")
    images = sorted(path for path in folder.rglob("*") if _is_image(path, folder))
    paths = [str(path) for path in images if _is_utf8(str(path))]
    if len(paths) < len(images):
        first = next(path for path in images if not _is_utf8(str(path)))
        logging.getLogger(__name__).warning(
            "left out %d images whose path is not UTF-8; rename them (the first is %s)",
            len(images) - len(paths), ascii(str(first)),
        )  # fmt: skip
    if not paths:
        raise ValueError(
            f"--data: expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}, got none in "
            f"{folder}"
        )
    return [("", Record(path, UNKNOWN, UNKNOWN)) for path in paths]


def _is_image(path: Path, folder: Path) -> bool:
    is_system = is_system_name(path.name) or "__MACOSX" in path.relative_to(folder).parts
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_system and not path.is_dir()


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def build_index(
    run: TrainedRun, images: Sequence[tuple[str, Record]], folder: Path
) -> GalleryIndex:
    """Embeds images, builds an index of the readable ones and saves it in `folder`.

    Unreadable images are omitted and listed in `<folder>-quarantine.jsonl`.

    Raises:
        ValueError: no image is readable.
        FileExistsError: the folder contains something other than an index.
    """
    check_replaceable(folder)  # fail before hours of embedding
    features, present = _embedded(run, [record for _, record in images], folder)
    kept = present.nonzero().flatten().tolist()
    entries = [_entry(*images[row]) for row in kept]
    index = GalleryIndex.build(features[present], entries, facts=run.facts())
    index.save(folder)
    return index


def _entry(domain: str, record: Record) -> GalleryEntry:
    return GalleryEntry(record.image_path, record.person_id, record.camera_id, domain)


def _embedded(run: TrainedRun, records: Sequence[Record], folder: Path) -> tuple[Tensor, Tensor]:
    no_domains = Benchmark("images", (), (), {})
    unreadable_file = folder.with_name(f"{folder.name}-quarantine.jsonl")
    with embedding(run, no_domains, unreadable_file) as embedder:
        return embedder.images(records)


def open_index(run: TrainedRun, folder: Path) -> GalleryIndex:
    """Loads the index in `folder` and checks that this model created it.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: another model created the index.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"expected an index at {folder}, got none; build it with: {program_name()} index "
            f"{shlex.quote(str(run.storage.folder))}, with the same --after or --checkpoint"
        )
    index = GalleryIndex.load(folder)
    if index.facts != run.facts():
        raise ValueError(
            f"{folder}: expected an index of {json.dumps(run.facts())}, got one of "
            f"{json.dumps(dict(index.facts))}, so distances are meaningless; build the index again"
        )
    return index


def search(
    run: TrainedRun, index: GalleryIndex, queries: Sequence[Query], k: int, scratch: Path
) -> list[QueryResult]:
    """Finds the k most similar gallery images of each query.

    As in the Market-1501 protocol, images of the query's person by the query's camera are ignored
    if both are known.

    Raises:
        ValueError: a query image is unreadable, or the learner cannot embed texts.
    """
    features = _query_features(run, queries, scratch)
    depth = k
    while True:
        # The camera rule removes an unknown number of entries, so search deeper if too few remain.
        result = index.search(features, depth)
        results = [
            QueryResult(
                query, _hits(index, query, result.positions[row], result.similarities[row], k)
            )
            for row, query in enumerate(queries)
        ]
        if depth >= len(index) or all(len(each.hits) == k for each in results):
            return results
        depth = min(2 * depth, len(index))


def _query_features(run: TrainedRun, queries: Sequence[Query], scratch: Path) -> Tensor:
    texts = [query for query in queries if query.text]
    if texts and not run.learner.embeds_texts:
        raise ValueError(
            f"--text: expected a run of a text-to-image learner, got {run.config.learner.name}, "
            "which cannot embed texts; search by image, or choose another run"
        )
    rows: dict[int, Tensor] = {}
    image_indices = [index for index, query in enumerate(queries) if not query.text]
    if image_indices:
        records = [queries[index].image for index in image_indices]
        features, present = _embedded(run, records, scratch)
        if not bool(present.all()):
            unreadable = records[int((~present).nonzero()[0])]
            raise ValueError(f"query: expected an image, got unreadable {unreadable.image_path}")
        rows |= dict(zip(image_indices, features, strict=True))
    if texts:
        with torch.no_grad():
            embedded = run.learner.embed_texts([query.text for query in texts]).float().cpu()
        text_indices = [index for index, query in enumerate(queries) if query.text]
        rows |= dict(zip(text_indices, embedded, strict=True))
    return torch.stack([rows[index] for index in range(len(queries))])


def _hits(
    index: GalleryIndex, query: Query, positions: Tensor, similarities: Tensor, k: int
) -> tuple[Hit, ...]:
    hits: list[Hit] = []
    for position, similarity in zip(positions.tolist(), similarities.tolist(), strict=True):
        entry = index.entry(position)
        kind = _kind(query, entry)
        if kind != "same camera":
            hits.append(Hit(entry, similarity, kind))
        if len(hits) == k:
            break
    return tuple(hits)


def _kind(query: Query, entry: GalleryEntry) -> str:
    record = query.record
    if record is None or record.person_id == UNKNOWN or not entry.domain:
        return "unknown"
    if (query.domain, record.person_id) != (entry.domain, entry.person_id):
        return "other"
    same_camera = not query.text and record.camera_id == entry.camera_id
    return "same camera" if same_camera else "match"


def sheet_rows(results: Iterable[QueryResult]) -> list[list[SheetCell]]:
    """Rows of the contact sheet."""
    return [
        [_query_cell(each.query), *(_hit_cell(n, hit) for n, hit in enumerate(each.hits, 1))]
        for each in results
    ]


def _query_cell(query: Query) -> SheetCell:
    record = query.record
    person = "" if record is None else _person(record.person_id, record.camera_id)
    path = None if query.text else query.image.image_path
    return SheetCell(path, ("query", person, query.domain), "query", query.text)


def _hit_cell(number: int, hit: Hit) -> SheetCell:
    entry = hit.entry
    lines = (
        f"{number}  {hit.similarity:.3f}",
        _person(entry.person_id, entry.camera_id) or Path(entry.image_path).name,
        hit.kind if hit.kind != "unknown" else entry.domain,
    )
    kind = hit.kind if hit.kind in ("match", "other") else "unknown"
    return SheetCell(entry.image_path, lines, kind)  # pyright: ignore[reportArgumentType]


def _person(person_id: int, camera_id: int) -> str:
    return "" if person_id == UNKNOWN else f"id {person_id} cam {camera_id + 1}"
