"""Drawing of backdrops (the fixed scene of a camera) and occluders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from PIL import Image, ImageDraw

from tasks.synthetic.domains import Look
from tasks.synthetic.people import COLOURS, Colour


class Canvas:
    """Draws on an image in relative coordinates: x and y in [0, 1]."""

    def __init__(self, image: Image.Image) -> None:
        self.width, self.height = image.size
        self._draw = ImageDraw.Draw(image, "RGBA")

    def box(self, left: float, top: float, right: float, bottom: float, fill: Fill) -> None:
        """Draws a filled rectangle, at least one pixel wide and high."""
        x, y = left * self.width, top * self.height
        right_x = max(x, right * self.width - 1)
        bottom_y = max(y, bottom * self.height - 1)
        self._draw.rectangle((x, y, right_x, bottom_y), fill)

    def oval(self, x: float, y: float, radius_x: float, radius_y: float, fill: Fill) -> None:
        """Draws a filled ellipse centred at (x, y)."""
        w, h = self.width, self.height
        corners = ((x - radius_x) * w, (y - radius_y) * h, (x + radius_x) * w, (y + radius_y) * h)
        self._draw.ellipse(corners, fill)

    def shape(self, points: list[tuple[float, float]], fill: Fill) -> None:
        """Draws a filled polygon."""
        self._draw.polygon([(x * self.width, y * self.height) for x, y in points], fill)


Fill = tuple[int, int, int] | tuple[int, int, int, int]
Scene = Callable[[Canvas, Colour, Colour, float, np.random.Generator], None]


def backdrop(look: Look, rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Draws the background of a camera as an RGB image of `size` (width, height).

    Cameras of a domain share a style and differ in shades, horizon and details.
    """
    wall = shade(look.wall, float(rng.uniform(0.75, 1.2)), rng.normal(0, 14, 3))
    ground = shade(look.ground, float(rng.uniform(0.75, 1.2)), rng.normal(0, 14, 3))
    image = Image.new("RGB", size, wall)
    canvas = Canvas(image)
    horizon = float(rng.uniform(0.5, 0.72))
    _gradient(canvas, 0.0, horizon, wall, 1.12, 0.92)
    _gradient(canvas, horizon, 1.0, ground, 0.82, 1.1)
    _scenes()[look.scene](canvas, wall, ground, horizon, rng)
    return image


def draw_occluder(image: Image.Image, rng: np.random.Generator) -> None:
    """Draws a pole, a sign, a bush or a passer-by beside the centre of the image."""
    canvas = Canvas(image)
    side = 1 if rng.random() < 0.5 else -1
    colour = list(COLOURS.values())[int(rng.integers(len(COLOURS)))]
    x = 0.5 + side * float(rng.uniform(0.22, 0.42))
    kind = int(rng.integers(4))
    if kind == 0:
        half = float(rng.uniform(0.03, 0.07))
        canvas.box(x - half, 0, x + half, 1, shade(colour, 0.8))
        canvas.box(x - half, 0, x - half / 3, 1, shade(colour, 1.1))
    elif kind == 1:
        top = float(rng.uniform(0.72, 0.84))
        canvas.box(0, top, 1, 1, shade(colour, 0.85))
        canvas.box(0, top, 1, top + 0.02, shade(colour, 1.25))
    elif kind == 2:
        for _ in range(9):
            leaf = shade((56, 116, 52), float(rng.uniform(0.7, 1.2)))
            y = 1.0 - abs(float(rng.normal(0, 0.1)))
            canvas.oval(x + float(rng.normal(0, 0.12)), y, 0.12, 0.06, leaf)
    else:
        edge = 0.5 + side * 0.5
        canvas.oval(edge, 0.2, 0.11, 0.055, (150, 104, 76))
        canvas.shape(
            [(edge - 0.2, 0.3), (edge + 0.2, 0.3), (edge + 0.14, 0.62), (edge - 0.14, 0.62)], colour
        )
        canvas.box(edge - 0.13, 0.62, edge + 0.13, 0.97, shade(colour, 0.5))


def shade(colour: Colour, factor: float, offset: float | Iterable[float] = 0.0) -> Colour:
    """Scales a colour by `factor` and adds `offset` grey levels (one or per channel), clipped."""
    offsets = (offset,) * 3 if isinstance(offset, int | float) else offset
    red, green, blue = (
        int(min(max(channel * factor + move, 0.0), 255.0))
        for channel, move in zip(colour, offsets, strict=True)
    )
    return red, green, blue


def _gradient(
    canvas: Canvas, top: float, bottom: float, colour: Colour, first: float, last: float
) -> None:
    num_bands = 10
    edges = np.linspace(top, bottom, num_bands + 1)
    for start, end, factor in zip(
        edges, edges[1:], np.linspace(first, last, num_bands), strict=False
    ):
        canvas.box(0, float(start), 1, float(end) + 0.01, shade(colour, float(factor)))


def _plaza(
    canvas: Canvas, wall: Colour, ground: Colour, horizon: float, rng: np.random.Generator
) -> None:
    left = float(rng.uniform(-0.1, 0.0))
    while left < 1.0:
        right = left + float(rng.uniform(0.22, 0.4))
        top = float(rng.uniform(0.0, 0.22))
        house = shade(wall, float(rng.uniform(0.75, 1.25)))
        canvas.box(left, top, right, horizon, house)
        for y in np.arange(top + 0.05, horizon - 0.1, 0.13):
            for x in np.arange(left + 0.05, right - 0.06, 0.1):
                canvas.box(x, y, x + 0.05, y + 0.07, shade(house, 0.66))
        left = right
    for y in np.linspace(horizon, 1.0, 6):
        canvas.box(0, y, 1, y + 0.006, shade(ground, 0.78))
    for x in np.linspace(-0.6, 1.6, 10):
        bottom_x = 0.5 + (x - 0.5) * 1.6
        canvas.shape(
            [(x, horizon), (x + 0.008, horizon), (bottom_x + 0.014, 1), (bottom_x, 1)],
            shade(ground, 0.8),
        )


def _station(
    canvas: Canvas, wall: Colour, ground: Colour, horizon: float, rng: np.random.Generator
) -> None:
    train = shade(wall, 0.8, rng.normal(0, 20, 3))
    top = float(rng.uniform(0.08, 0.2))
    canvas.box(0, top, 1, horizon - 0.03, train)
    canvas.box(0, horizon - 0.14, 1, horizon - 0.1, shade(train, 1.35))
    for x in np.arange(float(rng.uniform(-0.2, 0)), 1.0, 0.3):
        canvas.box(x, top + 0.06, x + 0.2, top + 0.22, shade(train, 0.5, 12))
    for x in np.arange(float(rng.uniform(0, 0.4)), 1.0, 0.5):
        canvas.box(x, 0, x + 0.07, horizon + 0.05, shade(wall, 1.2))
        canvas.box(x + 0.045, 0, x + 0.07, horizon + 0.05, shade(wall, 0.9))
    canvas.box(0, horizon + 0.05, 1, horizon + 0.08, (214, 190, 70))
    canvas.box(0, 0.86, 1, 0.866, shade(ground, 0.8))


def _campus(
    canvas: Canvas, wall: Colour, ground: Colour, horizon: float, rng: np.random.Generator
) -> None:
    canvas.box(0, horizon - 0.12, 1, horizon, shade(ground, 0.66))
    for _ in range(int(rng.integers(2, 4))):
        x, top = float(rng.uniform(0, 1)), float(rng.uniform(0.08, 0.25))
        canvas.box(x - 0.025, top, x + 0.025, horizon + 0.03, (92, 68, 48))
        for _ in range(7):
            leaf = shade(ground, float(rng.uniform(0.55, 0.95)))
            dx, dy = float(rng.normal(0, 0.09)), float(rng.normal(0, 0.06))
            canvas.oval(x + dx, top + dy, 0.13, 0.075, leaf)
    path = shade(wall, 0.9, 20) if rng.random() < 0.5 else shade(ground, 1.2, 30)
    x = float(rng.uniform(0.2, 0.8))
    canvas.shape([(x - 0.05, horizon), (x + 0.05, horizon), (x + 0.5, 1), (x - 0.4, 1)], path)


def _office(
    canvas: Canvas, wall: Colour, ground: Colour, horizon: float, rng: np.random.Generator
) -> None:
    step = float(rng.uniform(0.26, 0.4))
    for x in np.arange(float(rng.uniform(-0.2, 0)), 1.0, step):
        canvas.box(x + 0.03, 0.05, x + step - 0.03, horizon - 0.12, shade(wall, 0.84, (-6, 4, 20)))
        canvas.shape(
            [(x + 0.08, 0.05), (x + 0.15, 0.05), (x + 0.09, 0.35), (x + 0.03, 0.35)],
            shade(wall, 1.1),
        )
    canvas.box(0, horizon - 0.025, 1, horizon, shade(wall, 0.6))
    if rng.random() < 0.6:
        x = float(rng.choice([0.1, 0.9]))
        canvas.box(x - 0.08, horizon - 0.06, x + 0.08, horizon + 0.08, (126, 92, 66))
        for dx in (-0.08, 0.0, 0.08):
            canvas.oval(x + dx, horizon - 0.14, 0.07, 0.1, (64, 104, 62))
    for y in np.linspace(horizon + 0.06, 1, 4):
        canvas.box(0, y, 1, y + 0.005, shade(ground, 0.86))


def _night(
    canvas: Canvas, wall: Colour, ground: Colour, horizon: float, rng: np.random.Generator
) -> None:
    left = 0.0
    while left < 1.0:
        right = left + float(rng.uniform(0.2, 0.36))
        canvas.box(left, float(rng.uniform(0.0, 0.25)), right, horizon, shade(wall, 0.7))
        for _ in range(4):
            x, y = float(rng.uniform(left, right)), float(rng.uniform(0.1, horizon - 0.1))
            canvas.box(x, y, x + 0.05, y + 0.04, (226, 190, 110) if rng.random() < 0.5 else wall)
        left = right
    x = float(rng.uniform(0.1, 0.9))
    canvas.box(x - 0.012, 0.1, x + 0.012, horizon + 0.06, shade(wall, 0.4))
    for radius, alpha in ((0.32, 26), (0.2, 44), (0.1, 90)):
        canvas.oval(x, 0.1, radius, radius / 2, (255, 222, 150, alpha))
    canvas.oval(x, horizon + 0.2, 0.45, 0.09, (255, 226, 160, 34))
    canvas.box(0, 0.9, 1, 0.915, shade(ground, 1.5))


def _mall(
    canvas: Canvas, wall: Colour, ground: Colour, horizon: float, rng: np.random.Generator
) -> None:
    left = float(rng.uniform(-0.25, 0))
    while left < 1.0:
        right = left + float(rng.uniform(0.4, 0.6))
        sign = shade(wall, 0.75, rng.normal(0, 50, 3))
        canvas.box(left + 0.02, 0.03, right - 0.02, 0.13, sign)
        canvas.box(left + 0.04, 0.16, right - 0.04, horizon, shade(wall, 1.14, 14))
        for x in np.arange(left + 0.1, right - 0.1, 0.14):
            goods = shade(wall, 0.8, rng.normal(0, 40, 3))
            canvas.box(x, horizon - 0.2, x + 0.08, horizon - 0.03, goods)
        canvas.box(right - 0.03, 0, right + 0.03, horizon, shade(wall, 0.72))
        left = right
    canvas.shape([(0.3, horizon), (0.5, horizon), (0.42, 1), (0.05, 1)], shade(ground, 1.16))


def _harbour(
    canvas: Canvas, wall: Colour, ground: Colour, horizon: float, rng: np.random.Generator
) -> None:
    sea = shade(wall, 0.62, (-10, 4, 16))
    shore = horizon - 0.2
    canvas.box(0, shore, 1, horizon, sea)
    for _ in range(8):
        x, y = float(rng.uniform(0, 1)), float(rng.uniform(shore, horizon))
        canvas.box(x, y, x + 0.12, y + 0.006, shade(sea, 1.3))
    for _ in range(2):
        x, hull = float(rng.uniform(0, 1)), shade((190, 190, 190), 1, rng.normal(0, 45, 3))
        canvas.box(x - 0.008, 0.08, x + 0.008, shore, (90, 76, 66))
        canvas.shape([(x + 0.02, 0.1), (x + 0.2, shore - 0.06), (x + 0.02, shore - 0.06)], hull)
        canvas.shape(
            [(x - 0.2, shore - 0.03), (x + 0.24, shore - 0.03), (x + 0.16, shore + 0.06),
             (x - 0.14, shore + 0.06)], shade(hull, 0.7),
        )  # fmt: skip
    for y in np.linspace(horizon, 1.0, 7):
        canvas.box(0, y, 1, y + 0.008, shade(ground, 0.74))


def _suburb(
    canvas: Canvas, wall: Colour, ground: Colour, horizon: float, rng: np.random.Generator
) -> None:
    canvas.box(0, 0, 1, 0.25, (166, 200, 226))
    x = float(rng.uniform(-0.1, 0.4))
    for left in (x - 0.75, x, x + 0.75):
        house = shade(wall, float(rng.uniform(0.85, 1.25)), rng.normal(0, 12, 3))
        roof = shade((150, 70, 52), float(rng.uniform(0.7, 1.1)))
        canvas.box(left, 0.22, left + 0.62, horizon, house)
        canvas.shape([(left - 0.05, 0.24), (left + 0.31, 0.05), (left + 0.67, 0.24)], roof)
        canvas.box(left + 0.1, 0.32, left + 0.22, 0.44, (236, 232, 214))
        canvas.box(left + 0.4, 0.36, left + 0.52, horizon, shade(house, 0.55))
    for post in np.arange(float(rng.uniform(0, 0.05)), 1.0, 0.09):
        canvas.box(post, horizon - 0.08, post + 0.05, horizon + 0.04, (228, 226, 216))
    canvas.box(0, 0.84, 1, 1, shade(ground, 0.9, 28) if rng.random() < 0.5 else (146, 142, 138))


def _scenes() -> Mapping[str, Scene]:
    return {
        "plaza": _plaza,
        "station": _station,
        "campus": _campus,
        "office": _office,
        "night": _night,
        "mall": _mall,
        "harbour": _harbour,
        "suburb": _suburb,
    }
