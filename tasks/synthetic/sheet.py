"""A contact sheet of a drawn benchmark: what its people and cameras look like, at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from tasks.synthetic.writing import TRAIN

_GAP = 2
_DOMAIN_GAP = 10


def contact_sheet(
    folder: Path,
    domains: Sequence[str],
    num_people: int = 8,
    num_cameras: int = 4,
    zoom: int = 1,
) -> Image.Image:
    """Rows are people, columns the cameras of each domain.

    Args:
        folder: what `tasks.datasets.synthetic.prepare` returned.
        domains: names of the domains from left to right.
        num_people: rows; the first people of each domain's training folder.
        num_cameras: columns of a domain.
        zoom: size of a picture's pixel on the sheet.

    Raises:
        FileNotFoundError: a domain has no picture of such a person by such a camera.
    """
    grid = [
        [
            _first_picture(folder / domain / TRAIN, person_id, camera)
            for domain in domains
            for camera in range(1, num_cameras + 1)
        ]
        for person_id in range(1, num_people + 1)
    ]
    width, height = (side * zoom for side in grid[0][0].size)
    lefts = [
        column * (width + _GAP) + (column // num_cameras) * _DOMAIN_GAP
        for column in range(len(grid[0]))
    ]
    sheet = Image.new("RGB", (lefts[-1] + width, num_people * (height + _GAP) - _GAP), "white")
    for row, pictures in enumerate(grid):
        for left, picture in zip(lefts, pictures, strict=True):
            tile = picture.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(tile, (left, row * (height + _GAP)))
    return sheet


def _first_picture(folder: Path, person_id: int, camera: int) -> Image.Image:
    pattern = f"{person_id:04d}_c{camera}s*.jpg"
    found = sorted(folder.glob(pattern))
    if not found:
        raise FileNotFoundError(f"no picture {pattern} in {folder}")
    with Image.open(found[0]) as picture:
        return picture.convert("RGB")
