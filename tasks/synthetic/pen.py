"""Poses and drawing primitives in body coordinates.

x is the distance to the right of the body axis, y runs from crown (0) to sole (1), both in units of
the body height. Side views are drawn facing right; views facing left are mirrored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from tasks.synthetic.people import Person
from tasks.synthetic.scenery import Fill

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Pose:
    """Pose of a person in one image.

    Attributes:
        facing: "front", "back", "left" or "right".
        stride: distance between the legs in [-1, 1]; the sign selects the leading leg.
        swing: distance of the arms from the body in [-1, 1].
        lean: sideways shift of the head in body heights.
    """

    facing: str
    stride: float
    swing: float
    lean: float

    @property
    def side(self) -> bool:
        """Whether it is a side view."""
        return self.facing in ("left", "right")


@dataclass(frozen=True, slots=True)
class Placement:
    """Position and size of the body in the image, in pixels.

    `tilt` > 0 is a view from above: it enlarges the upper body and shortens the legs.
    """

    centre_x: float
    top: float
    height: float
    tilt: float


class Pen:
    """Draws shapes in body coordinates on an image."""

    def __init__(self, image: Image.Image, placement: Placement, mirrored: bool) -> None:
        self.image = image
        self.placement = placement
        self._sign = -1.0 if mirrored else 1.0
        self._draw = ImageDraw.Draw(image, "RGBA")

    def place(self, point: Point) -> Point:
        """Converts body coordinates to pixels."""
        x, y = point
        at = self.placement
        spread = 1.0 + at.tilt * (0.5 - y)
        return (
            at.centre_x + self._sign * x * at.height * spread,
            at.top + at.height * (y + 0.5 * at.tilt * y * (1.0 - y)),
        )

    def shape(self, points: Sequence[Point], fill: Fill) -> None:
        """Draws a filled polygon."""
        self._draw.polygon([self.place(point) for point in points], fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Fill) -> None:
        """Draws a filled rectangle."""
        self.shape(((left, top), (right, top), (right, bottom), (left, bottom)), fill)

    def oval(self, x: float, y: float, radius_x: float, radius_y: float, fill: Fill) -> None:
        """Draws a filled ellipse centred at (x, y)."""
        (x0, y0), (x1, y1) = (
            self.place((x - radius_x, y - radius_y)),
            self.place((x + radius_x, y + radius_y)),
        )
        self._draw.ellipse((min(x0, x1), y0, max(x0, x1), y1), fill)

    def dome(self, x: float, y: float, radius_x: float, radius_y: float, fill: Fill) -> None:
        """The upper half of an ellipse around (x, y)."""
        (x0, y0), (x1, y1) = (
            self.place((x - radius_x, y - radius_y)),
            self.place((x + radius_x, y + radius_y)),
        )
        self._draw.pieslice((min(x0, x1), y0, max(x0, x1), y1), 180, 360, fill)

    def limb(self, points: Sequence[Point], width: float, fill: Fill) -> None:
        """Draws a line through the points, `width` body heights wide, with round joints."""
        pixels = [self.place(point) for point in points]
        thickness = max(1, round(width * self.placement.height))
        self._draw.line(pixels, fill, thickness, joint="curve")

    def patterned(self, points: Sequence[Point], texture: Image.Image) -> None:
        """Draws a polygon filled with a texture of the size of the image."""
        mask = Image.new("1", self.image.size)
        ImageDraw.Draw(mask).polygon([self.place(point) for point in points], 1)
        self.image.paste(texture, (0, 0), mask)


def torso_half_width(person: Person, pose: Pose) -> float:
    """Half the chest width in body heights; positions of arms and bags depend on it."""
    front = 0.118 if person.sex == "woman" else 0.136
    thick = 1.1 if person.upper in ("coat", "jacket", "hoodie") else 1.0
    return (0.092 if pose.side else front) * person.girth * thick
