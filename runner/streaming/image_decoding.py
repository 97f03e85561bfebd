"""Decoding of image files to uint8 pixels.

All streams use these functions, so their pixels are bit-equal. This module imports neither torch
nor ray: each decoding process of a cluster loads it, and torch would cost several seconds and half
a gigabyte per process.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image

from tasks.image_files import open_image_file

IMAGE_DECODER = "Pillow, RGB, bicubic resize"
"""Recorded in the protocol lock, because scores depend on the decoder."""

_UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
"""Errors that Pillow raises for missing, truncated, unsupported and malformed files."""


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
        path: path or opened file, in any format that Pillow supports.
        height: height of the result in pixels.
        width: width of the result in pixels.

    Returns:
        uint8 [height, width, 3].

    Raises:
        OSError: the file is missing, not an image, or truncated.
        SyntaxError, ValueError, struct.error, Image.DecompressionBombError: the content is
            malformed; Pillow raises any of these.
    """
    with open_image_file(path) as image:
        rgb = image.convert("RGB")
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
        except _UNREADABLE as error:
            errors[position] = f"{type(error).__name__}: {error}"
    return DecodedImages(pixels, errors)
