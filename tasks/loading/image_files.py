"""Opening of image files. All images of the project are opened by `open_rgb`.

Training, evaluation, index, search, descriptions and `doctor` therefore read the same pixels and
reject the same files. This module imports neither torch nor ray, because every decoding process
loads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
"""Formats that are read. Other decoders of Pillow are never run on files of a data set."""

MAX_PIXELS = 89_478_485
"""Larger images are rejected; Pillow warns of a decompression bomb from this size on."""

_ORIENTATION = 0x0112
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Operation that turns an image of an EXIF orientation upright."""
_MAY_HAVE_ORIENTATION = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"})
_BITS_PER_SAMPLE = 258


class UnreadableImageError(OSError):
    """An image file is missing, damaged, too large, or of an unsupported kind."""


def open_rgb(source: str | Path | IO[bytes]) -> Image.Image:
    """Decode an image file to upright 8-bit RGB.

    The first frame is used. The EXIF orientation is applied. Grey values of 16 bits are divided by
    256, those of 12 bits by 16. Transparency is ignored.

    Args:
        source: path or opened file, in one of `FORMATS`.

    Raises:
        UnreadableImageError: the image cannot be decoded; the message is the reason.
    """
    try:
        with Image.open(source, formats=FORMATS) as image:
            _check_size(image)
            rgb = _to_rgb(image)
            return _upright(rgb, _orientation(image))
    except Exception as error:  # decoders raise many types on malformed files
        raise UnreadableImageError(_reason(source, error)) from error


def is_plain(source: str | Path | IO[bytes]) -> bool:
    """Whether any decoder shows an image as `open_rgb` does: upright, 8-bit RGB or grey, one frame.

    Raises:
        UnreadableImageError: the file is not an image.
    """
    try:
        with Image.open(source, formats=FORMATS) as image:
            is_single = getattr(image, "n_frames", 1) == 1
            return image.mode in ("RGB", "L") and is_single and _orientation(image) == 1
    except Exception as error:
        raise UnreadableImageError(_reason(source, error)) from error


def _reason(source: object, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError) and isinstance(source, str | Path):
        try:
            if Path(source).stat().st_size == 0:
                return "the file is empty (0 bytes)"
        except OSError:
            pass
    return f"{type(error).__name__}: {error}"


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"expected at most {MAX_PIXELS:,} pixels, got {image.width:,} x {image.height:,}"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    image.load()
    if image.mode == "RGB":
        return image  # a conversion would copy it
    # Pillow warns of transparency that RGB cannot represent.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Scale grey values of more than 8 bits: uint8 [H, W]. `Image.convert` would clip them."""
    image.load()
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError(
            f"expected grey values of 8 to 16 bits, got 32 bits (mode {image.mode}), whose range "
            "is unknown"
        )
    num_bits = 16
    if image.format == "TIFF":
        num_bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (num_bits,))[0]
    return np.clip(np.asarray(image) >> (num_bits - 8), 0, 255).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1, upright, if there is none or it cannot be read."""
    if image.format == "TIFF" or not image.info.keys() & _MAY_HAVE_ORIENTATION:
        return 1  # Pillow itself turns TIFF images upright
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # the pixels of an image with damaged metadata are usable
        return 1
    return value if value in _TRANSPOSES else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image if orientation == 1 else image.transpose(_TRANSPOSES[orientation])
