"""Weak, strong and test views of image batches, deterministic for a seed per image.

`draw_view` draws the random decisions of a batch on the CPU from a counter-based generator; no
global generator is used. `view_pixels` applies them on the CPU or on a device, with the same uint8
result. `normalise_pixels` converts to float32, where the learner is trained.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator
from torch import Tensor

from tasks.loading.draws import DRAWS_PER_ERASING, Draws, erased_rectangles, uniforms
from tasks.loading.kernels import MAX_MAGNITUDE, DeviceKernels, HostKernels, Kernels, send
from tasks.loading.randaugment import OPERATIONS, randaugment
from tasks.loading.sampling import derive_seed, mix64
from tasks.schema import FrozenConfig

VIEWS = ("test", "weak", "strong")

_MEAN_STD = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
Images = npt.NDArray[np.uint8]
"""[B, H, W, 3] uint8."""


class TransformConfig(FrozenConfig):
    """Augmentation and normalisation of images."""

    mean_std: Literal["clip", "imagenet", "half"] = Field(
        default="clip",
        description="channel means and standard deviations for normalisation; half: 0.5 for all, "
        "values in [-1, 1]; default for ResNet: imagenet, for vit-bert: half",
    )
    flip_probability: float = Field(
        default=0.5, ge=0, le=1, description="weak, strong: probability of a horizontal flip"
    )
    pad_pixels: int = Field(
        default=10,
        ge=0,
        description="weak, strong: padding before a random crop to the original size",
    )
    erase_probabilities: tuple[float, ...] = Field(
        default=(0.5, 0.3),
        description="weak: probabilities of consecutive random erasings",
    )
    erase_area: tuple[float, float] = Field(
        default=(0.02, 0.4),
        description="weak: minimum and maximum erased fraction of the image",
    )
    erase_aspect: tuple[float, float] = Field(
        default=(0.3, 3.3),
        description="weak: minimum and maximum height / width of the erased rectangle",
    )
    randaugment_ops: int = Field(
        default=2, ge=0, description="strong: RandAugment operations per image"
    )
    randaugment_magnitude: int = Field(
        default=10, ge=0, le=MAX_MAGNITUDE, description="strong: RandAugment magnitude, 0 to 30"
    )

    @field_validator("erase_probabilities")
    @classmethod
    def _are_probabilities(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 <= value <= 1 for value in values):
            raise ValueError(f"expected probabilities in [0, 1], got {values}")
        return values

    @field_validator("erase_area", "erase_aspect")
    @classmethod
    def _is_range(cls, values: tuple[float, float]) -> tuple[float, float]:
        if not 0 < values[0] <= values[1]:
            raise ValueError(f"expected 0 < minimum <= maximum, got {values}")
        return values

    @field_validator("erase_area")
    @classmethod
    def _is_fraction(cls, values: tuple[float, float]) -> tuple[float, float]:
        if values[1] > 1:
            raise ValueError(f"expected fractions of the image, at most 1, got {values}")
        return values


def mean_and_std(config: TransformConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the channel means and standard deviations, of pixels in [0, 1], for `normalise`."""
    return _MEAN_STD[config.mean_std]


def denormalise(images: Tensor, config: TransformConfig) -> Tensor:
    """Invert `normalise`: [B, 3, H, W] float32 -> [B, H, W, 3] uint8, exact for its results."""
    mean, std = (torch.tensor(each, device=images.device) for each in mean_and_std(config))
    pixels = images.permute(0, 2, 3, 1) * (255 * std) + 255 * mean
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


def normalise(
    images: Images, config: TransformConfig, device: torch.device | None = None
) -> Tensor:
    """Copy images to a device and normalise them there: (image / 255 - mean) / std.

    Args:
        images: [B, H, W, 3] uint8.
        config: selects mean and standard deviation.
        device: default: the CPU.

    Returns:
        [B, 3, H, W] float32 on `device`; shares no memory with `images`.

    Raises:
        ValueError: `images` is not uint8 [B, H, W, 3].
    """
    _check_images(images)
    tensor = send(torch.from_numpy(_writable(images)), device or torch.device("cpu"))
    return normalise_pixels(tensor.permute(0, 3, 1, 2), config)


@lru_cache
def _centre_and_scale(mean_std: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """255 * mean and 255 * standard deviation, [1, 3, 1, 1]; copied to each device only once."""
    centre, scale = (
        torch.tensor(values).mul_(255).view(1, 3, 1, 1).to(device) for values in _MEAN_STD[mean_std]
    )
    return centre, scale


def normalise_pixels(
    pixels: Tensor, config: TransformConfig, erased: Tensor | None = None
) -> Tensor:
    """Normalise images and erase rectangles, filled with 0, the mean colour.

    Args:
        pixels: [B, 3, H, W] uint8, on any device.
        config: selects mean and standard deviation.
        erased: [B, E, 4] see `Draws.erased`, on the same device; None erases nothing.

    Returns:
        [B, 3, H, W] float32 on the device of `pixels`; shares no memory with it.
    """
    centre, scale = _centre_and_scale(config.mean_std, pixels.device)
    images = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    images.sub_(centre).div_(scale)
    if erased is not None and erased.shape[1] > 0:
        top, bottom, left, right = erased[..., None].unbind(2)
        y, x = (torch.arange(side, device=images.device) for side in images.shape[2:])
        inside_rows, inside_columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
        inside = (inside_rows[..., None] & inside_columns[:, :, None]).any(dim=1)
        images.masked_fill_(inside[:, None], 0.0)
    return images


def draw_view(
    view: str, seeds: npt.NDArray[np.integer], size: tuple[int, int], config: TransformConfig
) -> Draws:
    """Draw the random decisions of a view.

    View "test": none. View "weak": flip, zero padding and crop, random erasing. View "strong":
    flip, reflection padding and crop, RandAugment. Views of the same seed are unrelated.

    Args:
        view: one of `VIEWS`.
        seeds: [B] integers, one per image.
        size: height and width of the images in pixels.
        config: see `TransformConfig`.

    Raises:
        ValueError: the view is unknown, or seeds are not [B] integers.
    """
    if view not in VIEWS:
        raise ValueError(f"view: expected one of {', '.join(VIEWS)}, got {view!r}")
    if seeds.ndim != 1 or not np.issubdtype(seeds.dtype, np.integer):
        raise ValueError(
            f"seeds: expected [B] integers, one for each image, "
            f"got {list(seeds.shape)} of {seeds.dtype}"
        )
    num_erasings = len(config.erase_probabilities) if view == "weak" else 0
    num_operations = config.randaugment_ops if view == "strong" else 0
    num_rest = num_erasings * DRAWS_PER_ERASING + 2 * num_operations
    states = mix64(seeds.astype(np.uint64) ^ np.uint64(derive_seed("view", view)))
    draws = uniforms(states, 3 + num_rest)
    erased = np.zeros((len(seeds), num_erasings, 4), np.int64)
    for number in range(num_erasings):
        erased[:, number] = erased_rectangles(
            draws[:, 3 + number * DRAWS_PER_ERASING :][:, :DRAWS_PER_ERASING],
            config.erase_probabilities[number],
            size,
            config.erase_area,
            config.erase_aspect,
        )
    choices, directions = np.split(draws[:, 3 : 3 + 2 * num_operations], 2, axis=1)
    is_augmented = view != "test"
    offsets = (draws[:, 1:3] * (2 * config.pad_pixels + 1)).astype(np.int64)
    return Draws(
        flipped=(draws[:, 0] < config.flip_probability) & is_augmented,
        offsets=offsets if is_augmented else np.full_like(offsets, config.pad_pixels),
        border="reflect" if view == "strong" else "constant",
        operations=(choices * len(OPERATIONS)).astype(np.int64),
        signs=np.where(directions < 0.5, -1, 1),
        erased=erased,
    )


def view_pixels(
    images: Tensor, draws: Draws, config: TransformConfig, kernels: Kernels | None = None
) -> Tensor:
    """Flip, crop and change images as drawn; erasing follows in `normalise_pixels`.

    The result of an image is a pure function of its pixels, its draws and the configuration, bit
    for bit, on every device and independently of the rest of the batch.

    Args:
        images: [B, H, W, 3] uint8, on any device; not modified.
        draws: decisions for these images.
        config: see `TransformConfig`.
        kernels: implementation; default: that of the device of `images`.

    Returns:
        [B, 3, H, W] uint8 on the device of `images`.

    Raises:
        ValueError: `images` is not uint8 [B, H, W, 3], or `draws` are for another number of images.
    """
    _check_images(images)
    if len(draws.flipped) != len(images):
        raise ValueError(
            f"seeds: expected {len(images)} integers, one for each image, "
            f"got [{len(draws.flipped)}]"
        )
    if kernels is None:
        kernels = HostKernels() if images.device.type == "cpu" else DeviceKernels()
    cropped = kernels.crop(images, draws, config.pad_pixels)
    if draws.operations.size == 0:
        return cropped
    return randaugment(
        cropped, draws.operations, draws.signs, config.randaugment_magnitude, kernels
    )


def augment(
    images: Images, view: str, seeds: npt.NDArray[np.integer], config: TransformConfig
) -> Tensor:
    """Augment and normalise a batch on the CPU; see `draw_view` and `view_pixels`.

    Args:
        images: [B, H, W, 3] uint8; not modified.
        view: one of `VIEWS`.
        seeds: [B] integers, one per image.
        config: see `TransformConfig`.

    Returns:
        [B, 3, H, W] float32.

    Raises:
        ValueError: the view is unknown, images are not uint8 [B, H, W, 3], or seeds are not [B].
    """
    _check_images(images)
    draws = draw_view(view, seeds, images.shape[1:3], config)
    pixels = view_pixels(torch.from_numpy(_writable(images)), draws, config)
    return normalise_pixels(pixels, config, torch.from_numpy(draws.erased))


def _check_images(images: Images | Tensor) -> None:
    is_uint8 = images.dtype == (torch.uint8 if isinstance(images, Tensor) else np.uint8)
    if not is_uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(
            f"images: expected uint8 [B, H, W, 3], got {list(images.shape)} of {images.dtype}"
        )


def _writable(array: Images) -> Images:
    """Return `array`, or a copy if torch cannot view it (read-only, negative strides)."""
    return np.require(array, requirements=["C", "W"])
