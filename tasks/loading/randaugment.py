"""RandAugment on a batch of uint8 images, grouped by operation.

Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space",
2020, with the operations and the 31-step magnitude scale of torchvision. The computation is exact
(integer, or element-wise float arithmetic), so the result of an image does not depend on the other
images of the batch.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
"""[B, H, W, 3] uint8."""

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
MAX_MAGNITUDE = 30

_GEOMETRIC = OPERATIONS[1:6]
_BY_TABLE = ("brightness", "contrast", "posterize", "solarize", "autocontrast", "equalize")


def randaugment(
    images: Images,
    operations: npt.NDArray[np.integer],
    signs: npt.NDArray[np.integer],
    magnitude: int,
) -> Images:
    """Apply R operations to each image, one after another.

    Args:
        images: [B, H, W, 3] uint8; not modified.
        operations: [B, R] indices into `OPERATIONS`.
        signs: [B, R] +1 or -1, the direction of operations that have two directions.
        magnitude: 0 to 30 on the scale of torchvision; 10 shears by 0.1, translates by 15% of the
            side, rotates by 10 degrees, changes brightness, color, contrast and sharpness by 30%.

    Returns:
        [B, H, W, 3] uint8; geometric operations fill uncovered pixels with black.
    """
    groups = (
        (_GEOMETRIC, _transform),
        (_BY_TABLE, _recolour),
        (("color",), _saturate),
        (("sharpness",), _sharpen),
    )
    result = images.copy()
    for operation, sign in zip(operations.T, signs.T, strict=True):
        for names, apply in groups:
            codes = [OPERATIONS.index(name) for name in names]
            members = np.flatnonzero(np.isin(operation, codes))
            if len(members) > 0:
                result[members] = apply(
                    result[members], operation[members], sign[members], magnitude
                )
    return result


def _transform(
    images: Images,
    operations: npt.NDArray[np.integer],
    signs: npt.NDArray[np.integer],
    magnitude: int,
) -> Images:
    """Shear, translate or rotate; nearest pixel, black outside."""
    num_images, height, width, _ = images.shape
    # Codes of geometric operations are never 0, so code times sign is unique.
    kinds, kind_of_image = np.unique(operations * signs, return_inverse=True)
    sources = np.stack(
        [
            _source_pixels(OPERATIONS[abs(kind)], np.sign(kind) * magnitude, height, width)
            for kind in kinds
        ]
    )[kind_of_image]
    first_pixels = np.arange(num_images)[:, None] * (height * width)
    moved = images.reshape(-1, 3).take(np.maximum(sources, 0) + first_pixels, axis=0)
    moved *= (sources >= 0)[..., None]
    return moved.reshape(images.shape)


def _source_pixels(
    name: str, signed_magnitude: int, height: int, width: int
) -> npt.NDArray[np.int64]:
    """[H * W] source pixel of each output pixel, row-major, or -1 outside of the image."""
    strength = signed_magnitude / MAX_MAGNITUDE
    y, x = np.mgrid[:height, :width] + 0.5
    if name == "shear_x":
        x = x + 0.3 * strength * y
    elif name == "shear_y":
        y = y + 0.3 * strength * x
    elif name == "translate_x":
        x = x - math.trunc(150 / 331 * width * strength)
    elif name == "translate_y":
        y = y - math.trunc(150 / 331 * height * strength)
    else:
        assert name == "rotate", name
        angle = math.radians(30 * strength)
        dx, dy = x - width / 2, y - height / 2
        x = math.cos(angle) * dx - math.sin(angle) * dy + width / 2
        y = math.sin(angle) * dx + math.cos(angle) * dy + height / 2
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return np.where(inside, row * width + column, -1).ravel()


def _recolour(
    images: Images,
    operations: npt.NDArray[np.integer],
    signs: npt.NDArray[np.integer],
    magnitude: int,
) -> Images:
    """Apply the operations that map each level of a channel to another level."""
    cells = images + 256 * np.arange(3 * len(images)).reshape(-1, 1, 1, 3)
    tables = np.empty((len(images), 3, 256), dtype=np.uint8)
    for name in _BY_TABLE:
        members = np.flatnonzero(operations == OPERATIONS.index(name))
        if len(members) > 0:
            factors = _factors(signs[members], magnitude)
            tables[members] = _tables(name, images[members], factors, magnitude)
    return tables.ravel().take(cells)


def _tables(
    name: str, images: Images, factors: npt.NDArray[np.float32], magnitude: int
) -> npt.NDArray[np.integer]:
    """Return lookup tables that broadcast to [n, 3, 256]; `factors` is [n, 1, 1]."""
    levels = np.arange(256)
    if name == "brightness":
        return _interpolate(np.float32(0), levels, factors)
    if name == "contrast":
        total = _gray(images).sum(axis=(1, 2), dtype=np.int64)
        mean = (total / (images.shape[1] * images.shape[2])).astype(np.float32)
        return _interpolate(mean[:, None, None], levels, factors)
    if name == "posterize":
        num_dropped_bits = round(4 * magnitude / MAX_MAGNITUDE)
        return levels >> num_dropped_bits << num_dropped_bits
    if name == "solarize":
        threshold = 255 * (MAX_MAGNITUDE - magnitude) / MAX_MAGNITUDE
        return np.where(levels >= threshold, 255 - levels, levels)
    if name == "autocontrast":
        return _autocontrast_tables(images)
    assert name == "equalize", name
    return _equalize_tables(images)


def _autocontrast_tables(images: Images) -> npt.NDArray[np.integer]:
    """[n, 3, 256] tables that map the darkest level of a channel to 0, the brightest to 255."""
    low = images.min(axis=(1, 2)).astype(np.int64)[..., None]
    high = images.max(axis=(1, 2)).astype(np.int64)[..., None]
    levels = np.arange(256)
    span = high - low
    stretched = (255 * (levels - low) + span // 2) // np.maximum(span, 1)
    return np.where(span > 0, stretched.clip(0, 255), levels)


def _equalize_tables(images: Images) -> npt.NDArray[np.integer]:
    """[n, 3, 256] tables of histogram equalisation, rounded as in PIL."""
    cells = images + 256 * np.arange(3 * len(images)).reshape(-1, 1, 1, 3)
    counts = np.bincount(cells.ravel(), minlength=768 * len(images)).reshape(-1, 3, 256)
    brightest = images.max(axis=(1, 2)).astype(np.int64)[..., None]
    num_brightest = np.take_along_axis(counts, brightest, axis=2)
    step = (counts.sum(axis=2, keepdims=True) - num_brightest) // 255
    below = counts.cumsum(axis=2) - counts
    equalized = (below + step // 2) // np.maximum(step, 1)
    return np.where(step > 0, equalized.clip(0, 255), np.arange(256))


def _saturate(
    images: Images,
    operations: npt.NDArray[np.integer],  # noqa: ARG001 - common signature
    signs: npt.NDArray[np.integer],
    magnitude: int,
) -> Images:
    factors = _factors(signs, magnitude)[..., None]
    return _interpolate(_gray(images)[..., None], images, factors)


def _sharpen(
    images: Images,
    operations: npt.NDArray[np.integer],  # noqa: ARG001 - common signature
    signs: npt.NDArray[np.integer],
    magnitude: int,
) -> Images:
    """Interpolate with a 3 x 3 smoothing; border pixels stay unchanged."""
    wide = images.astype(np.int32)
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    box = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    inner = images[:, 1:-1, 1:-1]
    smooth = (box + 4 * wide[:, 1:-1, 1:-1] + 6) // 13
    result = images.copy()
    result[:, 1:-1, 1:-1] = _interpolate(smooth, inner, _factors(signs, magnitude)[..., None])
    return result


def _factors(signs: npt.NDArray[np.integer], magnitude: int) -> npt.NDArray[np.float32]:
    """[n, 1, 1] weight of the image in `_interpolate`; 1 leaves it unchanged."""
    return (1 + 0.9 * magnitude / MAX_MAGNITUDE * signs).astype(np.float32)[:, None, None]


def _interpolate(
    base: npt.NDArray[np.generic] | np.float32,
    images: npt.NDArray[np.generic],
    factors: npt.NDArray[np.float32],
) -> npt.NDArray[np.uint8]:
    base = np.asarray(base, dtype=np.float32)
    interpolated = base + factors * (images.astype(np.float32) - base)
    return np.rint(interpolated).clip(0, 255).astype(np.uint8)


def _gray(images: Images) -> npt.NDArray[np.uint8]:
    """[n, H, W] luma of ITU-R BT.601 in the fixed-point arithmetic of PIL."""
    wide = images.astype(np.uint32)
    luma = 19595 * wide[..., 0] + 38470 * wide[..., 1] + 7471 * wide[..., 2]
    return ((luma + 32768) >> 16).astype(np.uint8)
