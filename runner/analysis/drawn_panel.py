"""The people whose images are measured: drawn, never trained on, in old and in new clothes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runner.analysis.drawn_attributes import Ints
from runner.streaming.image_decoding import decode_image
from tasks.datasets.synthetic import SyntheticConfig, select_domains, shoot_of
from tasks.synthetic.outfits import OutfitImages, person_in, render_outfit
from tasks.synthetic.people import Person
from tasks.synthetic.studio import map_in_processes, useful_processes
from tasks.synthetic.writing import FIRST_TEST_ID

_PEOPLE_PER_JOB = 16


@dataclass(frozen=True, eq=False)
class Outfit:
    """Everybody in one outfit.

    Attributes:
        people: who they are and what they wear, P of them.
        pixels: [N, H, W, 3] uint8, person by person.
    """

    people: tuple[Person, ...]
    pixels: np.ndarray


@dataclass(frozen=True, eq=False)
class Panel:
    """People of one domain; image i of `old` and of `new` differs by the clothes alone.

    Attributes:
        domain: its name.
        old: as they are drawn.
        new: re-dressed.
        positions: [N] which of the people is in image i.
        camera_ids: [N].
        is_query: [N] whether an image is the first of its person by its camera.
    """

    domain: str
    old: Outfit
    new: Outfit
    positions: Ints
    camera_ids: Ints
    is_query: np.ndarray


def draw_panel(
    config: SyntheticConfig, domain: str, num_people: int, outfit: int, size: tuple[int, int]
) -> Panel:
    """The first test people of a domain, as many as asked for, in two outfits.

    Test people have their numbers, and so their looks, whatever their number: these are those of
    the benchmark, and those that it would have if it were larger. Nobody trains on them.

    Args:
        config: the drawn benchmark.
        domain: one of its domains.
        num_people: P.
        outfit: number of the new outfit, from 1.
        size: height and width of the decoded images in pixels.
    """
    place = next(each for each in _both(config) if each.name == domain)
    ids = list(range(FIRST_TEST_ID, FIRST_TEST_ID + num_people))
    shoot = shoot_of(config)
    parts = [
        ids[start : start + _PEOPLE_PER_JOB] for start in range(0, num_people, _PEOPLE_PER_JOB)
    ]
    jobs = [(place, shoot, part, number) for number in (0, outfit) for part in parts]
    num_images = 2 * num_people * config.num_cameras * config.images_per_camera
    drawn = map_in_processes(render_outfit, jobs, useful_processes(num_images))
    shoots = drawn[: len(parts)], drawn[len(parts) :]
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


def _both(config: SyntheticConfig):
    seen, unseen = select_domains(config)
    return seen + unseen


def _joined(parts: Sequence[OutfitImages], name: str) -> Ints:
    return np.concatenate([getattr(part, name) for part in parts])


def _decoded(files: Sequence[bytes], size: tuple[int, int]) -> np.ndarray:
    return np.stack([decode_image(io.BytesIO(file), *size) for file in files])
