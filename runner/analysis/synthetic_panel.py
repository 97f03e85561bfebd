"""Evaluation panel: images of synthetic people in their old and in new clothes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from runner.analysis.synthetic_attributes import Ints
from runner.streaming.image_decoding import decode_image
from tasks.datasets.synthetic import SyntheticConfig, select_domains, shoot_of
from tasks.synthetic.outfits import OutfitImages, person_in, render_outfit
from tasks.synthetic.people import Person
from tasks.synthetic.studio import map_in_processes, useful_processes
from tasks.synthetic.writing import FIRST_TEST_ID

_PEOPLE_PER_JOB = 16


@dataclass(frozen=True, eq=False)
class Outfit:
    """All people of the panel in one outfit.

    Attributes:
        people: P people with their attributes and clothes.
        pixels: [N, H, W, 3] uint8 images, ordered by person.
    """

    people: tuple[Person, ...]
    pixels: np.ndarray


@dataclass(frozen=True, eq=False)
class Panel:
    """Images of people of one domain; image i of `old` and of `new` differ only in the clothes.

    Attributes:
        domain: name of the domain.
        old: people in their first clothes.
        new: people in other clothes.
        positions: [N] position of the person in each image.
        camera_ids: [N] camera of each image.
        is_query: [N] whether an image is the first of its person by its camera.
    """

    domain: str
    old: Outfit
    new: Outfit
    positions: Ints
    camera_ids: Ints
    is_query: np.ndarray


def render_panel(
    config: SyntheticConfig, domain: str, num_people: int, outfit: int, size: tuple[int, int]
) -> Panel:
    """Renders people of a domain in two outfits.

    The people have the wardrobe and the cameras of the domain. They are sampled independently:
    among the look-alikes of the benchmark, a probe could recognise the family instead of the
    attribute. None of them is used for training.

    Args:
        config: synthetic benchmark.
        domain: one of its domains.
        num_people: number of people P.
        outfit: number of the new outfit, from 1.
        size: height and width of the decoded images in pixels.
    """
    place = next(each for each in _all_domains(config) if each.name == domain)
    place = replace(place, family_size=1)
    ids = list(range(FIRST_TEST_ID, FIRST_TEST_ID + num_people))
    shoot = shoot_of(config)
    parts = [
        ids[start : start + _PEOPLE_PER_JOB] for start in range(0, num_people, _PEOPLE_PER_JOB)
    ]
    jobs = [(place, shoot, part, number) for number in (0, outfit) for part in parts]
    num_images = 2 * num_people * config.num_cameras * config.images_per_camera
    rendered = map_in_processes(render_outfit, jobs, useful_processes(num_images))
    shoots = rendered[: len(parts)], rendered[len(parts) :]
    old, new = (
        Outfit(
            tuple(person_in(config.seed, place, each, number) for each in ids),
            _decoded([file for part in shoot for file in part.files], size),
        )
        for number, shoot in zip((0, outfit), shoots, strict=True)
    )
    person_ids, camera_ids, numbers = (
        _joined(shoots[0], name) for name in ("person_ids", "camera_ids", "numbers")
    )
    return Panel(domain, old, new, person_ids - FIRST_TEST_ID, camera_ids, numbers == 0)


def _all_domains(config: SyntheticConfig):
    seen, unseen = select_domains(config)
    return seen + unseen


def _joined(parts: Sequence[OutfitImages], name: str) -> Ints:
    return np.concatenate([getattr(part, name) for part in parts])


def _decoded(files: Sequence[bytes], size: tuple[int, int]) -> np.ndarray:
    return np.stack([decode_image(io.BytesIO(file), *size) for file in files])
