"""Random decisions of a view: flips, crops, erased rectangles and RandAugment operations.

They come from a counter-based generator, in host memory, so that images augmented on the CPU and on
a device use the same decisions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tasks.loading.sampling import counter_draws

_NUM_ERASE_ATTEMPTS = 10
DRAWS_PER_ERASING = 3 + 2 * _NUM_ERASE_ATTEMPTS

Border = Literal["constant", "reflect"]

Uniforms = npt.NDArray[np.float64]
"""[B, ...] in [0, 1)."""


@dataclass(frozen=True, slots=True)
class Draws:
    """Decisions for one view of B images.

    Attributes:
        flipped: [B] bool, horizontal flips.
        offsets: [B, 2] int64, row and column of the crop in the padded image.
        border: padding before the crop.
        operations: [B, R] indices into `randaugment.OPERATIONS`.
        signs: [B, R] +1 or -1, the direction of each operation.
        erased: [B, E, 4] int64 rectangles (top, bottom, left, right), without the bottom row and
            the right column; (0, 0, 0, 0) erases nothing.
    """

    flipped: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64]
    border: Border
    operations: npt.NDArray[np.int64]
    signs: npt.NDArray[np.int64]
    erased: npt.NDArray[np.int64]

    def part(self, share: slice) -> Draws:
        """Return the decisions of a part of the images."""
        return Draws(
            self.flipped[share],
            self.offsets[share],
            self.border,
            self.operations[share],
            self.signs[share],
            self.erased[share],
        )


def uniforms(states: npt.NDArray[np.uint64], num_draws: int) -> Uniforms:
    """[B] -> [B, num_draws] in [0, 1), multiples of 2**-53."""
    return (counter_draws(states, num_draws) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def source_index(
    size: int, pad: int, offsets: npt.NDArray[np.int64], border: Border
) -> npt.NDArray[np.int64]:
    """Positions in an image axis of a crop of the padded axis.

    Args:
        size: length of the axis, before padding and after the crop.
        pad: padding at each end.
        offsets: [B] start of the crop in the padded axis, 0 to 2 * pad.
        border: "constant" or "reflect"; reflection does not repeat the edge.

    Returns:
        [B, size] positions in the axis, or -1 in a constant border.
    """
    position = offsets[:, None] + np.arange(size) - pad
    if border == "constant":
        return np.where((position >= 0) & (position < size), position, -1)
    period = max(1, 2 * (size - 1))
    folded = position % period
    return np.minimum(folded, period - folded) if size > 1 else np.zeros_like(position)


def erased_rectangles(
    draws: Uniforms,
    probability: float,
    size: tuple[int, int],
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> npt.NDArray[np.int64]:
    """Rectangles of random erasing (Zhong et al., 2020).

    The area is uniform, the aspect ratio log-uniform. The first of ten rectangles that fits is
    erased; nothing is erased if none fits.

    Args:
        draws: [B, `DRAWS_PER_ERASING`].
        probability: of erasing a rectangle.
        size: height and width of the image in pixels.
        area: minimum and maximum fraction of the image.
        aspect: minimum and maximum height / width.

    Returns:
        [B, 4] see `Draws.erased`.
    """
    height, width = size
    areas = height * width * (area[0] + (area[1] - area[0]) * draws[:, 3::2])
    low, high = np.log(aspect)
    # Round, so that last-bit differences between implementations of exp do not move an edge.
    aspects = np.exp(low + (high - low) * draws[:, 4::2])
    heights = np.rint(np.sqrt(areas * aspects)).astype(np.int64)
    widths = np.rint(np.sqrt(areas / aspects)).astype(np.int64)
    fits = (heights >= 1) & (heights < height) & (widths >= 1) & (widths < width)
    first = fits.argmax(axis=1)[:, None]
    chosen = (draws[:, 0] < probability) & fits.any(axis=1)
    size_y = np.take_along_axis(heights, first, axis=1)[:, 0]
    size_x = np.take_along_axis(widths, first, axis=1)[:, 0]
    top = (draws[:, 1] * (height - size_y + 1)).astype(np.int64)
    left = (draws[:, 2] * (width - size_x + 1)).astype(np.int64)
    return np.stack([top, top + size_y, left, left + size_x], axis=1) * chosen[:, None]
