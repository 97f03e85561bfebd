"""What a miniature data set is made of: pictures of drawn people, and how it can break."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 32, 16


@functools.cache
def _pictures() -> np.ndarray:
    from tasks.synthetic.pool import draw_pool

    pool = draw_pool(1, 12, 2, seed=5, height=HEIGHT, width=WIDTH, num_processes=1)
    return pool.images


def picture(person: int, number: int = 0) -> np.ndarray:
    """A drawn person, uint8 [32, 16, 3]; people repeat after 12, their pictures after 2."""
    return _pictures()[(person % 12) * 2 + number % 2]


def paint(path: Path, person: int, number: int = 0) -> None:
    """Writes a picture of the person in the format of the path's suffix, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(person, number)).save(path)


@dataclass(frozen=True)
class Fault:
    """A way to break a miniature, and what the reader must then say.

    Attributes:
        damage: breaks the tree below the root that it is given.
        says: regular expressions that must all be found in the error's message.
    """

    damage: Callable[[Path], None]
    says: tuple[str, ...]


@dataclass(frozen=True)
class Miniature:
    """A data set with its real layout and naming, a few people large.

    Attributes:
        build: makes it below the root that it is given, in one of the usual folders.
        train, query, gallery: (images, identities, cameras) that must be read.
        variant: the layout that the reader must report.
        options: fields of ReadOptions that differ from the default.
        faults: by a name for the test's id.
    """

    build: Callable[[Path], None]
    train: tuple[int, int, int]
    query: tuple[int, int, int]
    gallery: tuple[int, int, int]
    variant: str
    options: Mapping[str, object] = field(default_factory=dict)
    faults: Mapping[str, Fault] = field(default_factory=dict)
