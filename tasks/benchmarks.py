"""Benchmarks: domains in order, who trains and who validates, and the lock that pins it all.

To add one, give it a name in `BenchmarkConfig`, its domains in `seen_and_unseen` and a branch in
`_read`.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tasks.datasets import market1501, synthetic
from tasks.datasets.synthetic import SyntheticConfig
from tasks.descriptions import attach, read_descriptions
from tasks.protocol import protocol_lock
from tasks.schema import Benchmark, Domain, FrozenConfig, RawDomain, Record, Split

IdentityRule = Literal["all"] | Annotated[int, Field(ge=1)] | Path


class BenchmarkConfig(FrozenConfig):
    """Which data are learned, in which order, and who is held out."""

    name: Literal["synthetic", "market1501"] = Field(
        default="synthetic", description="synthetic draws its own people; market1501 is one domain"
    )
    root: str = Field(default="data", description="folder of the data sets")
    identities: IdentityRule = Field(
        default="all",
        description="training identities of each domain: all, the n smallest ids, or a file with "
        "one id per line (for several domains: a folder of such files named <domain>.txt)",
    )
    num_validation_identities: int = Field(
        default=16,
        ge=0,
        description="identities of the training folder held out to choose settings on",
    )
    order: tuple[str, ...] = Field(
        default=(),
        description="seen domains to learn, in this order; empty: the benchmark's own order",
    )
    synthetic: SyntheticConfig = Field(
        default_factory=SyntheticConfig, description="sizes of the synthetic benchmark"
    )

    @model_validator(mode="after")
    def _known_order(self) -> BenchmarkConfig:
        known, _ = seen_and_unseen(self)
        if unknown := [name for name in self.order if name not in known]:
            raise ValueError(
                f"order names {unknown[0]!r}, which is no seen domain of {self.name!r}: "
                f"{', '.join(known)}"
            )
        if len(set(self.order)) < len(self.order):
            raise ValueError("order names a domain twice")
        return self


def seen_and_unseen(config: BenchmarkConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the seen domains in the benchmark's own order, and of the unseen ones."""
    match config.name:
        case "synthetic":
            return config.synthetic.domain_names
        case "market1501":
            return ("market1501",), ()


def check_benchmark(config: BenchmarkConfig) -> None:
    """Finds what is missing on disk before any work is done; reads no image.

    Raises:
        FileNotFoundError, ValueError: what was expected, what was found, what to set.
    """
    if config.name == "market1501":
        market1501.locate(Path(config.root))
    if isinstance(config.identities, Path):
        for name in config.order or seen_and_unseen(config)[0]:
            _listed_identities(config.identities, name)


def load_benchmark(config: BenchmarkConfig, *, image_height: int, image_width: int) -> Benchmark:
    """Reads the domains, holds out the validation people and writes the protocol lock.

    Validation people are the largest ids seen by at least two cameras among those that the
    identity rule leaves out, or among all if it leaves none out. Training ids become contiguous
    in the order of the data set's ids. Where a domain has a description file, its training
    records carry part sentences and caption. The image size in pixels only enters the lock:
    images of any size are resized when they are decoded.

    Raises:
        FileNotFoundError, ValueError: what was expected, what was found, what to set.
    """
    check_benchmark(config)
    seen_raw, unseen_raw = _read(config)
    by_name = {raw.name: raw for raw in seen_raw}
    seen_raw = [by_name[name] for name in config.order or by_name]
    seen = tuple(_seen_domain(raw, config) for raw in seen_raw)
    unseen = tuple(_unseen_domain(raw, config) for raw in unseen_raw)
    lock = protocol_lock(
        benchmark=config.name,
        identity_rule=_rule_name(config.identities),
        image_size=(image_height, image_width),
        seen=list(zip(seen_raw, seen, strict=True)),
        unseen=list(zip(unseen_raw, unseen, strict=True)),
        synthetic=config.synthetic.model_dump() if config.name == "synthetic" else None,
    )
    return Benchmark(config.name, seen, unseen, lock)


def _read(config: BenchmarkConfig) -> tuple[list[RawDomain], list[RawDomain]]:
    match config.name:
        case "synthetic":
            return synthetic.read(Path(config.root), config.synthetic)
        case "market1501":
            return [market1501.read(Path(config.root))], []


def _rule_name(rule: IdentityRule) -> str:
    return rule.name if isinstance(rule, Path) else str(rule)


def _seen_domain(raw: RawDomain, config: BenchmarkConfig) -> Domain:
    train_ids, validation_ids = choose_identities(raw, config)
    contiguous = {person_id: index for index, person_id in enumerate(train_ids)}
    train = tuple(record for record in raw.train if record.person_id in contiguous)
    if raw.description_file is not None:
        descriptions = read_descriptions(raw.description_file)
        if descriptions.num_duplicates:
            logging.getLogger(__name__).warning(
                "%d lines of %s repeat an image; the last line of each counts",
                descriptions.num_duplicates, descriptions.path,
            )  # fmt: skip
        train = attach(train, descriptions)
    return Domain(
        name=raw.name,
        train=tuple(replace(each, person_id=contiguous[each.person_id]) for each in train),
        validation=split_validation(raw.train, validation_ids),
        test=raw.test,
    )


def _unseen_domain(raw: RawDomain, config: BenchmarkConfig) -> Domain:
    """Nothing trains on it, so validation takes what there is, up to the number asked for."""
    largest = _seen_by_two_cameras(raw.train)[::-1]
    validation_ids = largest[: config.num_validation_identities]
    return Domain(raw.name, (), split_validation(raw.train, validation_ids), raw.test)


def choose_identities(raw: RawDomain, config: BenchmarkConfig) -> tuple[list[int], list[int]]:
    """Training and validation ids of a domain, both sorted; no seed is involved.

    Raises:
        ValueError: the domain has fewer identities than the rule and the validation need.
    """
    ids = sorted({record.person_id for record in raw.train})
    num_validation = config.num_validation_identities
    train_ids = _ruled_identities(ids, raw.name, config.identities)
    taken = set() if config.identities == "all" else set(train_ids)
    free = [person_id for person_id in _seen_by_two_cameras(raw.train) if person_id not in taken]
    if len(free) < num_validation:
        raise ValueError(
            f"{raw.name}: benchmark.num_validation_identities is {num_validation}, but "
            f"benchmark.identities={_rule_name(config.identities)} leaves {len(free)} of "
            f"{len(ids)} identities that two cameras saw. Lower one of the two."
        )
    validation_ids = free[len(free) - num_validation :]
    train_ids = sorted(set(train_ids) - set(validation_ids))
    if not train_ids:
        raise ValueError(
            f"{raw.name}: benchmark.num_validation_identities={num_validation} leaves none of "
            f"{len(ids)} identities to train on"
        )
    return train_ids, validation_ids


def _ruled_identities(ids: list[int], name: str, rule: IdentityRule) -> list[int]:
    if rule == "all":
        return ids
    if isinstance(rule, int):
        if rule > len(ids):
            raise ValueError(
                f"{name} has {len(ids)} training identities, but benchmark.identities is {rule}"
            )
        return ids[:rule]
    listed = _listed_identities(Path(rule), name)
    if unknown := sorted(set(listed) - set(ids)):
        raise ValueError(
            f"{rule} lists identity {unknown[0]} and {len(unknown) - 1} more that {name}'s "
            "training folder does not hold"
        )
    return listed


def _listed_identities(path: Path, name: str) -> list[int]:
    source = path / f"{name}.txt" if path.is_dir() else path
    if not source.is_file():
        raise FileNotFoundError(
            f"benchmark.identities: expected 'all', a number, or a file with one id per line; "
            f"{source} does not exist"
        )
    listed: set[int] = set()
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip()
        if text and not text.isdecimal():
            raise ValueError(f"{source}, line {number}: expected a person id, got {text!r}")
        if text:
            listed.add(int(text))
    if not listed:
        raise ValueError(f"{source} lists no identity; expected one id per line")
    return sorted(listed)


def _seen_by_two_cameras(records: Iterable[Record]) -> list[int]:
    cameras: defaultdict[int, set[int]] = defaultdict(set)
    for record in records:
        cameras[record.person_id].add(record.camera_id)
    return sorted(person_id for person_id, seen_by in cameras.items() if len(seen_by) > 1)


def split_validation(records: Sequence[Record], person_ids: Iterable[int]) -> Split:
    """Queries and gallery of the given people, each of whom two cameras must have seen.

    A query is the first image of a person by a camera, as in Market-1501, if another camera's
    image remains in the gallery; a person for whom none remains gives one query.
    """
    wanted = set(person_ids)
    images: defaultdict[int, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: PurePath(record.image_path).name):
        if record.person_id in wanted:
            images[record.person_id].append(record)
    query: list[Record] = []
    gallery: list[Record] = []
    for person_id in sorted(images):
        own_query, own_gallery = _split_person(images[person_id])
        query += own_query
        gallery += own_gallery
    return Split(tuple(query), tuple(gallery))


def _split_person(images: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    firsts: dict[int, Record] = {}
    for record in images:
        firsts.setdefault(record.camera_id, record)
    rest_cameras = {record.camera_id for record in images if record not in firsts.values()}
    query = [first for first in firsts.values() if rest_cameras - {first.camera_id}]
    query = query or [images[0]]
    return query, [record for record in images if record not in query]
