"""Synthetic benchmark: generated once into a cache folder, then read like other data sets."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from tasks.dataset_files import Layout, LocatedDataset, atomic_folder, read_json
from tasks.datasets import market1501
from tasks.protocol.identities import text_split
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
    """Settings of the synthetic benchmark; all of them determine the name of the cache folder."""

    seed: int = Field(default=0, ge=0, description="seed of people, cameras, images and captions")
    num_seen_domains: int = Field(default=5, ge=1, le=5, description="number of seen domains")
    num_unseen_domains: int = Field(default=3, ge=0, le=3, description="number of unseen domains")
    num_train_identities: int = Field(
        default=64, ge=2, le=1000, description="training identities of each seen domain"
    )
    num_unseen_validation_identities: int = Field(
        default=16, ge=1, le=1000, description="validation identities of each unseen domain"
    )
    num_test_identities: int = Field(
        default=48, ge=2, le=1000, description="test identities of each domain"
    )
    num_cameras: int = Field(default=6, ge=2, le=9, description="number of cameras of each domain")
    images_per_camera: int = Field(
        default=2, ge=2, le=9, description="images of each person by each camera"
    )
    height: int = Field(default=64, ge=16, le=512, description="image height in pixels")
    width: int = Field(default=32, ge=8, le=512, description="image width in pixels")
    supersampling: int = Field(
        default=3, ge=1, le=8, description="supersampling factor per side, for anti-aliasing"
    )
    jpeg_quality: int = Field(default=92, ge=30, le=100, description="quality of the JPEG files")

    @property
    def domain_names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the seen and of the unseen domains."""
        seen, unseen = select_domains(self)
        return tuple(each.name for each in seen), tuple(each.name for each in unseen)


def read(root: Path, config: SyntheticConfig) -> tuple[list[RawDomain], list[RawDomain]]:
    """Read the seen and unseen domains; generate them under `root` first if necessary."""
    folder = prepare(config, root)
    seen, unseen = ([_read(folder, name) for name in names] for names in config.domain_names)
    return seen, unseen


def _read(folder: Path, name: str) -> RawDomain:
    facts = replace(market1501.FACTS, title=f"synthetic domain {name}")
    dataset = LocatedDataset(name, facts, folder / name, Layout("drawn", market1501.FOLDERS))
    raw = market1501.read_market_layout(dataset)
    return replace(raw, description_file=folder / name / f"{name}_description.txt")


def as_text_to_image(raw: RawDomain) -> RawDomain:
    """Convert a synthetic domain to the text-to-image protocol with the same images.

    Every image has two free captions. Each caption of a test image is a query, all test images
    are the gallery. The identity and clothing sentences in the caption file are not used, because
    they share mistakes with the captions; see `tasks.synthetic.styled_texts` for independent ones.
    """
    file = raw.folder / f"{raw.name}_captions.json"
    dataset = LocatedDataset(
        raw.name, market1501.FACTS, raw.folder, Layout("drawn", market1501.FOLDERS)
    )
    captions = {
        str(raw.folder / entry["file_path"]): tuple(entry["captions"])
        for entry in read_json(dataset, file)
    }

    def with_captions(records: Iterable[Record]) -> list[Record]:
        return [replace(record, captions=captions[record.image_path]) for record in records]

    return replace(
        raw,
        train=tuple(with_captions(raw.train)),
        test=text_split(with_captions((*raw.test.query, *raw.test.gallery))),
    )


def cache_folder(config: SyntheticConfig, root: Path) -> Path:
    """Return the folder that `prepare` creates, named by a hash of settings and version."""
    content = {"generator_version": GENERATOR_VERSION, **config.model_dump()}
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    return root / f"synthetic-{key}"


def prepare(config: SyntheticConfig, root: Path) -> Path:
    """Generate the benchmark under `root` unless it exists, and return its folder.

    Each domain has a folder in Market-1501 layout, `<domain>_description.txt` (part sentences),
    `<domain>_captions.json` (free captions, CUHK-PEDES format) and `<domain>_attributes.json`
    (ground truth). The folder gets its final name when it is complete. Several processes may call
    this concurrently, and an interrupted call leaves no folder that is mistaken for a complete one.

    Raises:
        OSError: `root` is not writable.
    """
    folder = cache_folder(config, root)
    if folder.is_dir():
        return folder
    with atomic_folder(folder) as temporary:
        try:
            temporary.mkdir(parents=True)
        except OSError as error:
            raise type(error)(
                f"cannot generate the synthetic benchmark under {root} ({error.strerror}). "
                "Set benchmark.root to a writable folder."
            ) from error
        _generate(config, temporary)
    return folder


def select_domains(
    config: SyntheticConfig,
) -> tuple[tuple[SyntheticDomain, ...], tuple[SyntheticDomain, ...]]:
    """Return the seen and unseen domains of the configured numbers."""
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


def _generate(config: SyntheticConfig, folder: Path) -> None:
    seen, unseen = select_domains(config)
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
        "generating %d images of the synthetic benchmark (once)", num_images
    )
    jobs = [
        (folder / domain.name, domain, shoot, ids[start : start + _PEOPLE_PER_JOB])
        for domain, ids in people
        for start in range(0, len(ids), _PEOPLE_PER_JOB)
    ]
    written = map_in_processes(write_people, jobs, useful_processes(num_images))
    for domain, ids in people:
        entries = [
            entry
            for job, job_entries in zip(jobs, written, strict=True)
            if job[1] is domain
            for entry in job_entries
        ]
        _write_annotations(folder / domain.name, domain, config.seed, ids, entries)


def _person_ids(num_train: int, num_test: int) -> list[int]:
    return [*range(1, num_train + 1), *range(FIRST_TEST_ID, FIRST_TEST_ID + num_test)]


def _write_annotations(
    folder: Path,
    domain: SyntheticDomain,
    seed: int,
    person_ids: list[int],
    entries: list[Captioned],
) -> None:
    parts = {Path(path).name: captions.parts for path, _, captions in entries}
    (folder / f"{domain.name}_description.txt").write_text(
        format_descriptions(parts), encoding="utf-8", newline="\n"
    )
    write_captions_file(folder / f"{domain.name}_captions.json", entries)
    write_attributes_file(folder / f"{domain.name}_attributes.json", seed, domain, person_ids)
