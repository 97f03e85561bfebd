"""Galleries of a finished run: embedded once, then searched by image or by text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runner import program_name
from runner.analysis.trained_run import TrainedRun, embedding
from runner.plotting.contact_sheet import Picture
from tasks.retrieval.gallery_files import check_replaceable
from tasks.retrieval.gallery_index import GalleryEntry, GalleryIndex
from tasks.schema import Benchmark, Record

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
UNKNOWN = -1
"""Person and camera of an image of which nothing is known."""


@dataclass(frozen=True)
class Query:
    """An image or a text to look for, and what is known of it.

    Attributes:
        record: its image and, if known, its person and camera; of a text, the image it describes
            if there is one.
        text: what to look for; "" searches by the image.
        domain: the data set it comes from, or "".
    """

    record: Record | None
    text: str = ""
    domain: str = ""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return self.text or Path(self.image.image_path).name

    @property
    def image(self) -> Record:
        """The image of an image query."""
        assert self.record is not None, "a query without an image has a text"
        return self.record


@dataclass(frozen=True)
class Hit:
    """One result: the entry, its similarity to the query, and whether it shows the same person."""

    entry: GalleryEntry
    similarity: float
    kind: str


@dataclass(frozen=True)
class Found:
    """The results of one query, best first."""

    query: Query
    hits: tuple[Hit, ...]


def gallery_of(benchmark: Benchmark, domains: Sequence[str]) -> list[tuple[str, Record]]:
    """The test galleries of these domains (all, if none is named), with the domains' names.

    Raises:
        ValueError: the benchmark has no such domain.
    """
    chosen = _domains(benchmark, domains)
    return [(domain.name, record) for domain in chosen for record in domain.test.gallery]


def queries_of(benchmark: Benchmark, domains: Sequence[str], count: int) -> list[Query]:
    """`count` test queries of each of these domains, spread evenly over its list.

    Raises:
        ValueError: the benchmark has no such domain.
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
        raise ValueError(f"--domain: {benchmark.name} has {', '.join(by_name)}; got {unknown[0]!r}")
    return [by_name[name] for name in names or by_name]


def images_below(folder: Path) -> list[tuple[str, Record]]:
    """Every image file at any depth below a folder, of unknown people.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it has no image.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"--data: expected a folder; {folder} is none")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
    if not paths:
        raise ValueError(
            f"--data: {folder} has no image; expected files ending in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return [("", Record(str(path), UNKNOWN, UNKNOWN)) for path in paths]


def build_index(
    run: TrainedRun, images: Sequence[tuple[str, Record]], folder: Path
) -> GalleryIndex:
    """Embeds images, indexes what can be read of them and saves the index in `folder`.

    Unreadable images are left out and listed in `quarantine.jsonl` beside the index.

    Raises:
        ValueError: none can be read.
        FileExistsError: the folder holds something else.
    """
    check_replaceable(folder)  # before hours of embedding, not after
    features, present = _embedded(run, [record for _, record in images], folder)
    kept = present.nonzero().flatten().tolist()
    entries = [_entry(*images[row]) for row in kept]
    index = GalleryIndex.build(features[present], entries, facts=run.facts())
    index.save(folder)
    return index


def _entry(domain: str, record: Record) -> GalleryEntry:
    return GalleryEntry(record.image_path, record.person_id, record.camera_id, domain)


def _embedded(run: TrainedRun, records: Sequence[Record], folder: Path) -> tuple[Tensor, Tensor]:
    nothing = Benchmark("images", (), (), {})
    quarantine = folder.with_name(f"{folder.name}-quarantine.jsonl")
    with embedding(run, nothing, quarantine) as embedder:
        return embedder.images(records)


def open_index(run: TrainedRun, folder: Path) -> GalleryIndex:
    """The index in `folder`, which must be of this very model.

    Raises:
        FileNotFoundError: there is none; says how to make it.
        ValueError: another model has embedded it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no index at {folder}; make it with: {program_name()} index "
            f"{run.storage.folder}, with the same --after or --checkpoint"
        )
    index = GalleryIndex.load(folder)
    if index.facts != run.facts():
        raise ValueError(
            f"{folder} was embedded by {json.dumps(dict(index.facts))}, but queries would be by "
            f"{json.dumps(run.facts())}: their distances would mean nothing. Build the index again."
        )
    return index


def search(
    run: TrainedRun, index: GalleryIndex, queries: Sequence[Query], k: int, scratch: Path
) -> list[Found]:
    """The k most similar gallery images of each query.

    As in the Market-1501 protocol, images of the query's person by the query's camera are passed
    over where both are known.

    Raises:
        ValueError: a query cannot be read, or is a text and the learner embeds none.
    """
    features = _query_features(run, queries, scratch)
    depth = k
    while True:
        # How many entries the camera rule takes away is known only when they have been found.
        result = index.search(features, depth)
        found = [
            Found(query, _hits(index, query, result.positions[row], result.similarities[row], k))
            for row, query in enumerate(queries)
        ]
        if depth >= len(index) or all(len(each.hits) == k for each in found):
            return found
        depth = min(2 * depth, len(index))


def _query_features(run: TrainedRun, queries: Sequence[Query], scratch: Path) -> Tensor:
    texts = [query for query in queries if query.text]
    if texts and not run.learner.embeds_texts:
        raise ValueError(
            f"learner {run.config.learner.name} embeds no texts; search by image, or with a run "
            "of a text-to-image learner"
        )
    rows: dict[int, Tensor] = {}
    places = [at for at, query in enumerate(queries) if not query.text]
    if places:
        records = [queries[at].image for at in places]
        features, present = _embedded(run, records, scratch)
        if not bool(present.all()):
            bad = records[int((~present).nonzero()[0])]
            raise ValueError(f"the query {bad.image_path} cannot be read as an image")
        rows |= dict(zip(places, features, strict=True))
    if texts:
        with torch.no_grad():
            embedded = run.learner.embed_texts([query.text for query in texts]).float().cpu()
        others = [at for at, query in enumerate(queries) if query.text]
        rows |= dict(zip(others, embedded, strict=True))
    return torch.stack([rows[at] for at in range(len(queries))])


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


def pictures(found: Iterable[Found]) -> list[list[Picture]]:
    """The contact sheet's rows."""
    return [
        [_query_picture(each.query), *(_hit_picture(n, hit) for n, hit in enumerate(each.hits, 1))]
        for each in found
    ]


def _query_picture(query: Query) -> Picture:
    record = query.record
    known = "" if record is None else _person(record.person_id, record.camera_id)
    path = None if query.text else query.image.image_path
    return Picture(path, ("query", known, query.domain), "query", query.text)


def _hit_picture(number: int, hit: Hit) -> Picture:
    entry = hit.entry
    lines = (
        f"{number}  {hit.similarity:.3f}",
        _person(entry.person_id, entry.camera_id) or Path(entry.image_path).name,
        hit.kind if hit.kind != "unknown" else entry.domain,
    )
    kind = hit.kind if hit.kind in ("match", "other") else "unknown"
    return Picture(entry.image_path, lines, kind)  # pyright: ignore[reportArgumentType]


def _person(person_id: int, camera_id: int) -> str:
    return "" if person_id == UNKNOWN else f"id {person_id} cam {camera_id + 1}"
