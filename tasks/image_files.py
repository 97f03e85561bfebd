"""Opens image files of the supported formats."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from PIL import Image

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF")
"""Formats by Pillow's names. Others are not opened: Pillow decodes EPS by executing Ghostscript."""


def open_image_file(source: str | Path | IO[bytes]) -> Image.Image:
    """Open an image whose pixels are decoded when they are needed.

    The format is that of the content, not of the file name.

    Raises:
        OSError: the file cannot be read, or is not an image of a supported format.
        SyntaxError, ValueError, Image.DecompressionBombError: the content is malformed.
    """
    return Image.open(source, formats=FORMATS)
