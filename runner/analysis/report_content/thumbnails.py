"""Images as `data:` URIs for an HTML page."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from tasks.loading.image_files import UnreadableImageError, open_rgb

SIZE = (112, 224)
"""Largest width and height of a thumbnail in pixels."""

_QUALITY = 80


def file_uri(path: str) -> str:
    """JPEG of an image file, scaled down to at most `SIZE`; "" if the file cannot be read."""
    try:
        pixels = open_rgb(path)
    except UnreadableImageError:
        return ""
    pixels.thumbnail(SIZE)
    return _uri(pixels)


def pixels_uri(pixels: np.ndarray) -> str:
    """JPEG of pixels [H, W, 3] uint8, scaled up to the height of `SIZE` if smaller."""
    image = Image.fromarray(pixels)
    if image.height < SIZE[1]:
        width = max(1, round(image.width * SIZE[1] / image.height))
        image = image.resize((width, SIZE[1]), Image.Resampling.BICUBIC)
    return _uri(image)


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
