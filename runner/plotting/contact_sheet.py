"""Queries and what was found for them, as one picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from runner.plotting.style import GREEN, TEXT, VERMILION

_WIDTH, _HEIGHT = 96, 192  # of an image, in pixels: the 1:2 of person crops
_FRAME, _GAP, _LINE = 4, 12, 14
_NUM_LINES = 3
BACKGROUND = "#ffffff"
# The words below say it too.
_FRAMES = {"match": GREEN, "other": VERMILION, "unknown": "#9aa5b1", "query": TEXT}


@dataclass(frozen=True)
class Picture:
    """One image of the sheet.

    Attributes:
        image_path: the file, or None for a text query, whose text stands in its place.
        lines: what stands below it, at most three lines.
        kind: "query"; of what was found, whether it shows the query's person.
        text: the text of a text query.
    """

    image_path: str | None
    lines: tuple[str, ...]
    kind: Literal["query", "match", "other", "unknown"]
    text: str = ""


def draw_sheet(rows: Sequence[Sequence[Picture]], file: Path) -> None:
    """Writes a row per query: the query, a gap, and what was found, best first.

    Raises:
        ValueError: there is nothing to draw.
        OSError: an image can no longer be read, or the file not be written.
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one query")
    cell_width = _WIDTH + 2 * _FRAME + _GAP
    cell_height = _HEIGHT + 2 * _FRAME + _NUM_LINES * _LINE + _GAP
    width = _GAP * 3 + cell_width * max(len(row) for row in rows)
    sheet = Image.new("RGB", (width, _GAP + cell_height * len(rows)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for number, row in enumerate(rows):
        for column, picture in enumerate(row):
            left = _GAP + column * cell_width + (2 * _GAP if column else 0)
            top = _GAP + number * cell_height
            _draw_picture(sheet, draw, font, picture, left, top)
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)


def _draw_picture(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    picture: Picture,
    left: int,
    top: int,
) -> None:
    outer = (left, top, left + _WIDTH + 2 * _FRAME - 1, top + _HEIGHT + 2 * _FRAME - 1)
    draw.rectangle(outer, outline=_FRAMES[picture.kind], width=_FRAME)
    if picture.image_path is None:
        text = "\n".join(textwrap.wrap(picture.text, 16)[: _HEIGHT // _LINE])
        draw.multiline_text((left + _FRAME + 3, top + _FRAME + 3), text, fill=TEXT, font=font)
    else:
        with Image.open(picture.image_path) as image:
            shown = image.convert("RGB")
        # Enlarged or reduced as a whole: a stretched person would be another person.
        scale = min(_WIDTH / shown.width, _HEIGHT / shown.height)
        size = max(1, round(shown.width * scale)), max(1, round(shown.height * scale))
        shown = shown.resize(size, Image.Resampling.BICUBIC)
        sheet.paste(
            shown,
            (left + _FRAME + (_WIDTH - size[0]) // 2, top + _FRAME + (_HEIGHT - size[1]) // 2),
        )
    for number, line in enumerate(picture.lines[:_NUM_LINES]):
        y = top + _HEIGHT + 2 * _FRAME + 2 + number * _LINE
        draw.text((left, y), _fitted(draw, line, font), fill=TEXT, font=font)


def _fitted(
    draw: ImageDraw.ImageDraw,
    line: str,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> str:
    """The line, shortened where it would run into the next picture."""
    room = _WIDTH + 2 * _FRAME + _GAP - 4
    if draw.textlength(line, font=font) <= room:
        return line
    while line and draw.textlength(f"{line}…", font=font) > room:
        line = line[:-1]
    return f"{line}…"
