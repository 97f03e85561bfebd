"""Poses, and a pen that draws in body coordinates.

x runs to the right of the body's axis, y from crown (0) to sole (1), both in units of the body's
height; side views look to the right and the pen mirrors those that look to the left.
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
    """How a person stands in one image.

    Attributes:
        facing: "front", "back", "left" or "right".
        stride: -1..1, how far the legs are apart and which one leads.
        swing: -1..1, how far the arms are away from the body.
        lean: sideways shift of the head in body heights.
    """

    facing: str
    stride: float
    swing: float
    lean: float

    @property
    def side(self) -> bool:
        """Whether the body is seen from its side."""
        return self.facing in ("left", "right")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the body stands in the picture, in pixels.

    `tilt` > 0 looks from above: the upper body grows and the legs shrink.
    """

    centre_x: float
    top: float
    height: float
    tilt: float


class Pen:
    """Draws shapes given in body coordinates on a picture."""

    def __init__(self, picture: Image.Image, placement: Placement, mirrored: bool) -> None:
        self.picture = picture
        self.placement = placement
        self._sign = -1.0 if mirrored else 1.0
        self._draw = ImageDraw.Draw(picture, "RGBA")

    def place(self, point: Point) -> Point:
        """Body coordinates -> pixels."""
        x, y = point
        at = self.placement
        spread = 1.0 + at.tilt * (0.5 - y)
        return (
            at.centre_x + self._sign * x * at.height * spread,
            at.top + at.height * (y + 0.5 * at.tilt * y * (1.0 - y)),
        )

    def shape(self, points: Sequence[Point], fill: Fill) -> None:
        """A filled polygon."""
        self._draw.polygon([self.place(point) for point in points], fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Fill) -> None:
        """A filled rectangle."""
        self.shape(((left, top), (right, top), (right, bottom), (left, bottom)), fill)

    def oval(self, x: float, y: float, radius_x: float, radius_y: float, fill: Fill) -> None:
        """A filled ellipse around (x, y)."""
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
        """A line of `width` body heights through the points, with round joints."""
        pixels = [self.place(point) for point in points]
        thickness = max(1, round(width * self.placement.height))
        self._draw.line(pixels, fill, thickness, joint="curve")

    def patterned(self, points: Sequence[Point], texture: Image.Image) -> None:
        """A polygon filled with a texture of the picture's size."""
        mask = Image.new("1", self.picture.size)
        ImageDraw.Draw(mask).polygon([self.place(point) for point in points], 1)
        self.picture.paste(texture, (0, 0), mask)


def torso_half_width(person: Person, pose: Pose) -> float:
    """Half the width of the chest in body heights; arms and bags hang from it."""
    front = 0.118 if person.sex == "woman" else 0.136
    thick = 1.1 if person.upper in ("coat", "jacket", "hoodie") else 1.0
    return (0.092 if pose.side else front) * person.girth * thick
