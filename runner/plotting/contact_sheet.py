"""Contact sheet: queries and their retrieved images in one image file."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from runner.plotting.style import BACKGROUND, GREEN, NEUTRAL, TEXT, VERMILION
from tasks.loading.image_files import open_rgb

_WIDTH, _HEIGHT = 96, 192  # pixels of an image: the 1:2 aspect ratio of person crops
_FRAME, _GAP, _LINE = 4, 12, 14
_NUM_LINES = 3
# The text below an image repeats what the colour of its frame means.
_FRAMES = {"match": GREEN, "other": VERMILION, "unknown": NEUTRAL, "query": TEXT}


@dataclass(frozen=True)
class SheetCell:
    """One cell of the sheet.

    Attributes:
        image_path: image file, or None for a text query, which shows its text instead.
        lines: text below the image, at most three lines.
        kind: "query", or whether a result shows the query's person.
        text: text of a text query.
    """

    image_path: str | None
    lines: tuple[str, ...]
    kind: Literal["query", "match", "other", "unknown"]
    text: str = ""


def draw_sheet(rows: Sequence[Sequence[SheetCell]], file: Path) -> None:
    """Writes a sheet with one row per query: the query, a gap, and the results, best first.

    Raises:
        ValueError: there are no rows.
        OSError: an image cannot be read, or the file cannot be written.
    """
    if not rows:
        raise ValueError("contact sheet: expected at least one query, got none")
    cell_width = _WIDTH + 2 * _FRAME + _GAP
    cell_height = _HEIGHT + 2 * _FRAME + _NUM_LINES * _LINE + _GAP
    width = _GAP * 3 + cell_width * max(len(row) for row in rows)
    sheet = Image.new("RGB", (width, _GAP + cell_height * len(rows)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            left = _GAP + column * cell_width + (2 * _GAP if column else 0)
            top = _GAP + number * cell_height
            _draw_cell(sheet, draw, font, cell, left, top)
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)


def _draw_cell(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    cell: SheetCell,
    left: int,
    top: int,
) -> None:
    outer = (left, top, left + _WIDTH + 2 * _FRAME - 1, top + _HEIGHT + 2 * _FRAME - 1)
    draw.rectangle(outer, outline=_FRAMES[cell.kind], width=_FRAME)
    if cell.image_path is None:
        text = "\n".join(textwrap.wrap(cell.text, 16)[: _HEIGHT // _LINE])
        draw.multiline_text((left + _FRAME + 3, top + _FRAME + 3), text, fill=TEXT, font=font)
    else:
        pixels = open_rgb(cell.image_path)
        # Keep the aspect ratio: a stretched person looks like another person.
        scale = min(_WIDTH / pixels.width, _HEIGHT / pixels.height)
        size = max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale))
        pixels = pixels.resize(size, Image.Resampling.BICUBIC)
        sheet.paste(
            pixels,
            (left + _FRAME + (_WIDTH - size[0]) // 2, top + _FRAME + (_HEIGHT - size[1]) // 2),
        )
    for number, line in enumerate(cell.lines[:_NUM_LINES]):
        y = top + _HEIGHT + 2 * _FRAME + 2 + number * _LINE
        draw.text((left, y), _fitted(draw, line, font), fill=TEXT, font=font)


def _fitted(
    draw: ImageDraw.ImageDraw,
    line: str,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> str:
    """Shortens a line that would overlap the next cell.

    The middle is left out: file names of one folder often differ only at the end.
    """
    max_width = _WIDTH + 2 * _FRAME + _GAP - 4
    if draw.textlength(line, font=font) <= max_width:
        return line
    kept = len(line)
    while kept > 1 and draw.textlength(_shortened(line, kept), font=font) > max_width:
        kept -= 1
    return _shortened(line, kept)


def _shortened(line: str, num_characters: int) -> str:
    end = num_characters * 2 // 3
    return f"{line[: num_characters - end]}…{line[len(line) - end :]}"
