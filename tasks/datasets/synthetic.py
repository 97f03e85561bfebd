"""The synthetic benchmark: drawn once into a cache folder, then read like any data set on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from tasks.datasets import market1501
from tasks.protocol.identities import text_split
from tasks.reading import Layout, Place, read_json
from tasks.schema import FrozenConfig, RawDomain, Record
from tasks.synthetic import GENERATOR_VERSION
from tasks.synthetic.domains import SyntheticDomain, training_domains, unseen_domains
from tasks.synthetic.drawing import Frame
from tasks.synthetic.studio import map_in_processes, useful_processes
from tasks.synthetic.writing import (
    FIRST_TEST_ID,
    Captioned,
    RenderSettings,
    write_attributes_file,
    write_captions_file,
    write_people,
)
from tasks.text.descriptions import format_descriptions

_PEOPLE_PER_JOB = 16


class SyntheticConfig(FrozenConfig):
    """Sizes of the synthetic benchmark; every field is part of the cache folder's name."""

    seed: int = Field(default=0, ge=0, description="seed of people, cameras, pictures and captions")
    num_seen_domains: int = Field(
        default=5, ge=1, le=5, description="domains of the lifelong order"
    )
    num_unseen_domains: int = Field(
        default=3, ge=0, le=3, description="domains that are only tested"
    )
    num_train_identities: int = Field(
        default=64, ge=2, le=1000, description="people in a seen domain's training folder"
    )
    num_unseen_validation_identities: int = Field(
        default=16, ge=1, le=1000, description="people in an unseen domain's training folder"
    )
    num_test_identities: int = Field(
        default=32, ge=2, le=1000, description="test people of each domain"
    )
    num_cameras: int = Field(default=4, ge=2, le=9, description="cameras of each domain")
    images_per_camera: int = Field(
        default=2, ge=2, le=9, description="images of each person by each camera"
    )
    height: int = Field(default=64, ge=16, le=512, description="image height in pixels")
    width: int = Field(default=32, ge=8, le=512, description="image width in pixels")
    supersampling: int = Field(
        default=3, ge=1, le=8, description="drawn this many times finer per side"
    )
    jpeg_quality: int = Field(default=92, ge=30, le=100, description="quality of the JPEG files")

    @property
    def domain_names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the seen and of the unseen domains."""
        seen, unseen = domains_of(self)
        return tuple(each.name for each in seen), tuple(each.name for each in unseen)


def read(root: Path, config: SyntheticConfig) -> tuple[list[RawDomain], list[RawDomain]]:
    """The seen and the unseen domains, drawn under `root` first if they are not there yet."""
    folder = prepare(config, root)
    seen, unseen = ([_read(folder, name) for name in names] for names in config.domain_names)
    return seen, unseen


def _read(folder: Path, name: str) -> RawDomain:
    facts = replace(market1501.FACTS, title=f"synthetic domain {name}")
    place = Place(name, facts, folder / name, Layout("drawn", market1501.FOLDERS))
    raw = market1501.read_market_layout(place)
    return replace(raw, description_file=folder / name / f"{name}_description.txt")


def searched_by_text(raw: RawDomain) -> RawDomain:
    """A drawn domain under the text-to-image protocol, on the same pictures.

    Every picture has its two free captions. Each caption of a test picture is a query, all test
    pictures are the gallery. The annotators' own identity and clothing sentences in that file are
    not taken: they share mistakes with the captions (`tasks.synthetic.styled_texts` has a
        machine's).
    """
    file = raw.folder / f"{raw.name}_captions.json"
    place = Place(raw.name, market1501.FACTS, raw.folder, Layout("drawn", market1501.FOLDERS))
    captions = {
        str(raw.folder / entry["file_path"]): tuple(entry["captions"])
        for entry in read_json(place, file)
    }

    def captioned(records: Iterable[Record]) -> list[Record]:
        return [replace(record, captions=captions[record.image_path]) for record in records]

    return replace(
        raw,
        train=tuple(captioned(raw.train)),
        test=text_split(captioned((*raw.test.query, *raw.test.gallery))),
    )


def cache_folder(config: SyntheticConfig, root: Path) -> Path:
    """Where `prepare` draws: the name is a hash of the generator's version and all fields."""
    content = {"generator_version": GENERATOR_VERSION, **config.model_dump()}
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    return root / f"synthetic-{key}"


def prepare(config: SyntheticConfig, root: Path) -> Path:
    """Draws the benchmark under `root` unless it is there, and returns its folder.

    For each domain: a folder in Market-1501 layout, `<domain>_description.txt` (part sentences),
    `<domain>_captions.json` (free captions, CUHK-PEDES style) and `<domain>_attributes.json` (the
    truth). The folder appears under its name only when it is complete, so that several processes
    may prepare at once and an interrupted one leaves nothing that counts.

    Raises:
        OSError: `root` cannot be written.
    """
    folder = cache_folder(config, root)
    if folder.is_dir():
        return folder
    temporary = root / f".{folder.name}-{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise type(error)(
            f"cannot draw the synthetic benchmark under {root} ({error.strerror}). "
            "Set benchmark.root to a folder that can be written."
        ) from error
    try:
        _draw(config, temporary)
        _publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _publish(temporary: Path, folder: Path) -> None:
    try:
        os.rename(temporary, folder)
    except OSError:
        # Another process was quicker; it drew the same pictures.
        if not folder.is_dir():
            raise


def domains_of(
    config: SyntheticConfig,
) -> tuple[tuple[SyntheticDomain, ...], tuple[SyntheticDomain, ...]]:
    """The seen and the unseen places."""
    seen = training_domains()[: config.num_seen_domains]
    return seen, unseen_domains()[: config.num_unseen_domains]


def shoot_of(config: SyntheticConfig) -> RenderSettings:
    """What is photographed in every domain."""
    return RenderSettings(
        seed=config.seed,
        num_cameras=config.num_cameras,
        images_per_camera=config.images_per_camera,
        frame=Frame(config.height, config.width, config.supersampling),
        jpeg_quality=config.jpeg_quality,
    )


def _draw(config: SyntheticConfig, folder: Path) -> None:
    seen, unseen = domains_of(config)
    train_sizes = [config.num_train_identities] * len(seen)
    train_sizes += [config.num_unseen_validation_identities] * len(unseen)
    people = [
        (domain, _person_ids(num_train, config.num_test_identities))
        for domain, num_train in zip(seen + unseen, train_sizes, strict=True)
    ]
    shoot = shoot_of(config)
    for domain, _ in people:
        for part in market1501.FOLDERS:
            (folder / domain.name / part).mkdir(parents=True)
    num_images = sum(len(ids) for _, ids in people) * config.num_cameras * config.images_per_camera
    logging.getLogger(__name__).info(
        "drawing %d images of the synthetic benchmark, once", num_images
    )
    jobs = [
        (folder / domain.name, domain, shoot, ids[start : start + _PEOPLE_PER_JOB])
        for domain, ids in people
        for start in range(0, len(ids), _PEOPLE_PER_JOB)
    ]
    written = map_in_processes(write_people, jobs, useful_processes(num_images))
    for domain, ids in people:
        own = [
            entry
            for job, entries in zip(jobs, written, strict=True)
            if job[1] is domain
            for entry in entries
        ]
        _describe(folder / domain.name, domain, config.seed, ids, own)


def _person_ids(num_train: int, num_test: int) -> list[int]:
    return [*range(1, num_train + 1), *range(FIRST_TEST_ID, FIRST_TEST_ID + num_test)]


def _describe(
    folder: Path,
    domain: SyntheticDomain,
    seed: int,
    person_ids: list[int],
    written: list[Captioned],
) -> None:
    parts = {Path(path).name: captions.parts for path, _, captions in written}
    (folder / f"{domain.name}_description.txt").write_text(
        format_descriptions(parts), encoding="utf-8", newline="\n"
    )
    write_captions_file(folder / f"{domain.name}_captions.json", written)
    write_attributes_file(folder / f"{domain.name}_attributes.json", seed, domain, person_ids)
