"""Image files to uint8 pixels; one function for every path a run can take, so all are bit-equal.

Neither torch nor ray is imported here: each decoding process of a cluster loads this file, and
torch would cost every one of them seconds and half a gigabyte.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image

IMAGE_DECODER = "Pillow, RGB, bicubic resize"
"""How pixels come about, for the protocol lock: another decoder gives other numbers."""

_UNREADABLE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
"""What Pillow raises for missing, truncated, foreign and malformed files."""


@dataclass(frozen=True, slots=True)
class DecodedImages:
    """The images of a list of files.

    Attributes:
        pixels: uint8 [N, H, W, 3] in the order of the files; zeros where a file is unreadable.
        errors: position in the list -> why this file could not be decoded.
    """

    pixels: np.ndarray
    errors: Mapping[int, str]


Decoder = Callable[[Sequence[str], int, int], DecodedImages]
"""`decode_many`, or what gives the same for files (in order), height and width without decoding
all of them; its pixels may be read-only."""


def decode_image(path: str | IO[bytes], height: int, width: int) -> np.ndarray:
    """Reads one image as RGB and resizes it if its size differs (bicubic, antialiased).

    Args:
        path: any format Pillow reads; an opened file will do.
        height: rows of the result, in pixels.
        width: columns of the result, in pixels.

    Returns:
        uint8 [height, width, 3].

    Raises:
        OSError: the file is missing, not an image, or truncated.
        SyntaxError, ValueError, struct.error, Image.DecompressionBombError: its content is
            malformed in a way that Pillow reports so.
    """
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    if rgb.size != (width, height):
        rgb = rgb.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(rgb)


def decode_many(paths: Sequence[str], height: int, width: int) -> DecodedImages:
    """Decodes files in order; an unreadable one is reported, never raised."""
    pixels = np.zeros((len(paths), height, width, 3), np.uint8)
    errors: dict[int, str] = {}
    for position, path in enumerate(paths):
        try:
            pixels[position] = decode_image(path, height, width)
        except _UNREADABLE as error:
            errors[position] = f"{type(error).__name__}: {error}"
    return DecodedImages(pixels, errors)
