"""Decoding of image files to uint8 pixels.

All streams use these functions, so their pixels are bit-equal. This module imports neither torch
nor ray: each decoding process of a cluster loads it, and torch would cost several seconds and half
a gigabyte per process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image

from tasks.loading.image_files import UnreadableImageError, open_rgb

IMAGE_DECODER = "Pillow, EXIF orientation, 16-bit grey scaled, RGB, bicubic resize"
"""Recorded in the protocol lock, because scores depend on the decoder."""


@dataclass(frozen=True, slots=True)
class DecodedImages:
    """Decoded images of a list of files.

    Attributes:
        pixels: uint8 [N, H, W, 3] in the order of the files; zeros for unreadable files.
        errors: error message by position of an unreadable file.
    """

    pixels: np.ndarray
    errors: Mapping[int, str]


Decoder = Callable[[Sequence[str], int, int], DecodedImages]
"""`decode_many` or an equivalent with cached results: (files, height, width) -> images in order.

The pixels may be read-only.
"""


def decode_image(path: str | IO[bytes], height: int, width: int) -> np.ndarray:
    """Decodes an image to RGB and resizes it if its size differs (bicubic, antialiased).

    Args:
        path: path or opened file, in a format that `open_rgb` reads.
        height: height of the result in pixels.
        width: width of the result in pixels.

    Returns:
        uint8 [height, width, 3].

    Raises:
        UnreadableImageError: the file is missing, not an image, or damaged.
    """
    rgb = open_rgb(path)
    if rgb.size != (width, height):
        rgb = rgb.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(rgb)


def decode_many(paths: Sequence[str], height: int, width: int) -> DecodedImages:
    """Decodes files in order; unreadable files are reported in `errors` instead of raised."""
    pixels = np.zeros((len(paths), height, width, 3), np.uint8)
    errors: dict[int, str] = {}
    for position, path in enumerate(paths):
        try:
            pixels[position] = decode_image(path, height, width)
        except UnreadableImageError as error:
            errors[position] = str(error)
    return DecodedImages(pixels, errors)
