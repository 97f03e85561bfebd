"""RandAugment on a batch of uint8 images, grouped by operation.

Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space",
2020, with the operations and the 31-step magnitude scale of torchvision. Each result is an integer
computed exactly, or a sequence of element-wise float32 additions and multiplications, so it depends
neither on the other images of the batch nor on the device.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tasks.loading.kernels import MAX_MAGNITUDE, Kernels

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
_GEOMETRIC = OPERATIONS[1:6]
_NUM_LEVELS = 256


def randaugment(
    images: Tensor,
    operations: npt.NDArray[np.integer],
    signs: npt.NDArray[np.integer],
    magnitude: int,
    kernels: Kernels,
) -> Tensor:
    """Apply R operations to each image, one after another.

    Args:
        images: [B, 3, H, W] uint8, contiguous; may be modified.
        operations: [B, R] indices into `OPERATIONS`.
        signs: [B, R] +1 or -1, the direction of operations that have two directions.
        magnitude: 0 to 30 on the scale of torchvision; 10 shears by 0.1, translates by 15% of the
            side, rotates by 10 degrees, changes brightness, color, contrast and sharpness by 30%.
        kernels: implementation for the device of `images`.

    Returns:
        [B, 3, H, W] uint8; geometric operations fill uncovered pixels with black.
    """
    order = np.arange(len(images))
    # Two buffers in turn: the pages of a new allocation would cost more than an operation.
    spare = torch.empty_like(images)
    limit = kernels.chunk(images[:1].numel())
    for operation, sign in zip(operations.T, signs.T, strict=True):
        # Images of one kind are neighbours, so that no group has to be copied out and back.
        kinds = (2 * operation + (sign > 0))[order]
        permutation = np.argsort(kinds, kind="stable")
        torch.index_select(images, 0, kernels.index(permutation, images.device), out=spare)
        images, spare = spare, images
        order, kinds = order[permutation], kinds[permutation]
        present, sizes = np.unique(kinds, return_counts=True)
        for kind, group in zip(present.tolist(), images.split(sizes.tolist()), strict=True):
            name, direction = OPERATIONS[kind // 2], 1 if kind % 2 else -1
            for part in group.split(limit or len(group)):
                _apply(name, part, direction, magnitude, kernels)
    return torch.index_select(images, 0, kernels.index(np.argsort(order), images.device), out=spare)


def _apply(name: str, images: Tensor, sign: int, magnitude: int, kernels: Kernels) -> None:
    """Apply an operation in place."""
    if name in _GEOMETRIC:
        images.copy_(kernels.move(images, name, sign * magnitude))
    elif name == "posterize":
        images.bitwise_and_(-(1 << round(4 * magnitude / MAX_MAGNITUDE)) & 255)
    elif name == "solarize":
        threshold = math.ceil(255 * (MAX_MAGNITUDE - magnitude) / MAX_MAGNITUDE)
        images.bitwise_xor_((images >= threshold).view(torch.uint8).neg_())  # 255 - level
    elif name == "equalize":
        images.copy_(_equalize(images, kernels))
    elif name != "identity":
        factor = float(np.float32(1 + 0.9 * magnitude / MAX_MAGNITUDE * sign))
        kernels.store(_enhance(name, images.float(), factor), images)


def _enhance(name: str, pixels: Tensor, factor: float) -> Tensor:
    """Compute an operation in float32; `pixels` may be modified.

    All but "autocontrast" interpolate between a base (factor 0) and the image (factor 1).
    """
    if name == "brightness":
        return pixels.mul_(factor).round_().clamp_(0, 255)
    if name == "autocontrast":
        return _autocontrast(pixels)
    if name == "sharpness":
        inner = pixels[:, :, 1:-1, 1:-1]
        inner.copy_(_interpolate(_smooth(pixels), inner, factor))  # the border stays unchanged
        return pixels
    gray = _gray(pixels)
    if name == "color":
        return _interpolate(gray, pixels, factor)
    assert name == "contrast", name
    total = gray.sum(dim=(1, 2, 3), keepdim=True, dtype=torch.float64)
    # A scalar divisor would be replaced by its reciprocal on CUDA.
    mean = total.div_(torch.full_like(total, gray[0].numel()))
    return _interpolate(mean.float(), pixels, factor)


def _interpolate(base: Tensor, pixels: Tensor, factor: float) -> Tensor:
    return (pixels - base).mul_(factor).add_(base).round_().clamp_(0, 255)


def _gray(pixels: Tensor) -> Tensor:
    """[n, 1, H, W] luma of ITU-R BT.601 in the fixed-point arithmetic of PIL.

    All values are integers below 2**24, which float32 represents exactly.
    """
    red, green, blue = pixels.split(1, dim=1)
    luma = (red * 19595).add_(green, alpha=38470).add_(blue, alpha=7471).add_(32768)
    return luma.mul_(2.0**-16).floor_()


def _smooth(pixels: Tensor) -> Tensor:
    """[n, 3, H - 2, W - 2] weighted mean of 3 x 3 pixels, the centre counting 5 times.

    Rounded like (sum + 6) // 13 in integers: the added half keeps every quotient away from the next
    integer by more than the error of float32.
    """
    rows = (pixels[:, :, :-2] + pixels[:, :, 1:-1]).add_(pixels[:, :, 2:])
    total = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:])
    return total.add_(pixels[:, :, 1:-1, 1:-1], alpha=4).add_(6.5).mul_(1 / 13).floor_()


def _autocontrast(pixels: Tensor) -> Tensor:
    """Map the darkest level of each channel to 0 and the brightest to 255.

    Rounded like (255 * (level - low) + span // 2) // span in integers; see `_smooth`.
    """
    low = pixels.amin(dim=(2, 3), keepdim=True)
    span = pixels.amax(dim=(2, 3), keepdim=True) - low
    pixels.sub_(low).mul_(255).add_((span / 2).floor_().add_(0.5)).div_(span.clamp(min=1)).floor_()
    return pixels.add_(low * (span == 0))  # a channel of one level stays unchanged


def _equalize(images: Tensor, kernels: Kernels) -> Tensor:
    """Equalise the histogram of each channel, rounded as in PIL."""
    counts = kernels.counts(images)
    levels = torch.arange(_NUM_LEVELS, device=images.device)
    brightest = images.amax(dim=(2, 3)).long()[..., None]
    step = (counts.sum(dim=2, keepdim=True) - counts.gather(2, brightest)) // 255
    below = counts.cumsum(dim=2) - counts
    equalized = (below + step // 2) // step.clamp(min=1)
    tables = torch.where(step > 0, equalized.clamp_(0, 255), levels)
    return kernels.lookup(images, tables.byte())
