"""Building blocks of miniature data sets: synthetic images and faults."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 32, 16


@functools.cache
def _images() -> np.ndarray:
    from tasks.synthetic.pool import draw_pool

    pool = draw_pool(1, 12, 2, seed=5, height=HEIGHT, width=WIDTH, num_processes=1)
    return pool.images


def person_image(person: int, number: int = 0) -> np.ndarray:
    """Synthetic image of a person, uint8 [32, 16, 3]; 12 different people, 2 images each."""
    return _images()[(person % 12) * 2 + number % 2]


def paint(path: Path, person: int, number: int = 0) -> None:
    """Write an image of the person in the format of the suffix; create folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(person_image(person, number)).save(path)


@dataclass(frozen=True)
class Fault:
    """Damage to a miniature and the expected error message.

    Attributes:
        damage: damages the files below the given root.
        messages: regular expressions that must all match the error message.
    """

    damage: Callable[[Path], None]
    messages: tuple[str, ...]


@dataclass(frozen=True)
class Miniature:
    """Data set with real layout and file names, and only a few people.

    Attributes:
        build: creates the data set below the given root, in one of its usual folders.
        train, query, gallery: expected numbers of (images, identities, cameras).
        variant: expected variant.
        options: fields of ReadOptions that differ from the defaults.
        faults: faults by test id.
    """

    build: Callable[[Path], None]
    train: tuple[int, int, int]
    query: tuple[int, int, int]
    gallery: tuple[int, int, int]
    variant: str
    options: Mapping[str, object] = field(default_factory=dict)
    faults: Mapping[str, Fault] = field(default_factory=dict)
