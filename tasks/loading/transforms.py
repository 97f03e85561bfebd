"""Weak, strong and test views of image batches, deterministic for a seed per image.

Random numbers of the whole batch come from one counter-based generator. The geometry of a batch is
a single gather operation, and no global generator is used.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator
from torch import Tensor

from tasks.loading.randaugment import MAX_MAGNITUDE, OPERATIONS, randaugment
from tasks.loading.sampling import counter_draws, derive_seed, mix64
from tasks.schema import FrozenConfig

VIEWS = ("test", "weak", "strong")

_MEAN_STD = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
_NUM_ERASE_ATTEMPTS = 10

Images = npt.NDArray[np.uint8]
"""[B, H, W, 3] uint8."""

Uniforms = npt.NDArray[np.float64]
"""[B, ...] in [0, 1)."""


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


def normalise(images: Images | Tensor, config: TransformConfig) -> Tensor:
    """Normalise images: (image / 255 - mean) / std.

    Args:
        images: [B, H, W, 3] uint8.
        config: selects mean and standard deviation.

    Returns:
        [B, 3, H, W] float32 on the device of `images`; shares no memory with it.

    Raises:
        ValueError: `images` is not uint8 [B, H, W, 3].
    """
    _check_images(images)
    mean, std = _MEAN_STD[config.mean_std]
    tensor = images if isinstance(images, Tensor) else torch.from_numpy(_writable(images))
    pixels = tensor.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    shape = (1, 3, 1, 1)
    centre = torch.tensor(mean, device=pixels.device).mul_(255).view(shape)
    scale = torch.tensor(std, device=pixels.device).mul_(255).view(shape)
    return pixels.sub_(centre).div_(scale)


def augment(
    images: Images,
    view: str,
    seeds: npt.NDArray[np.integer],
    config: TransformConfig,
) -> Tensor:
    """Augment and normalise a batch.

    View "test": normalise. View "weak": flip, zero padding and crop, normalise, random erasing
    (filled with 0, the mean colour). View "strong": flip, reflection padding and crop, RandAugment,
    normalise.

    The result of an image is a pure function of its pixels, view, seed and configuration, bit for
    bit, independently of the rest of the batch. Views of the same seed are unrelated.

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
    if view not in VIEWS:
        raise ValueError(f"view: expected one of {', '.join(VIEWS)}, got {view!r}")
    if seeds.shape != (len(images),) or not np.issubdtype(seeds.dtype, np.integer):
        raise ValueError(
            f"seeds: expected {len(images)} integers, one for each image, "
            f"got {list(seeds.shape)} of {seeds.dtype}"
        )
    if view == "test":
        return normalise(images, config)
    salt = np.uint64(derive_seed("view", view))
    states = mix64(seeds.astype(np.uint64) ^ salt)
    if view == "weak":
        return _weak(images, states, config)
    return _strong(images, states, config)


def _weak(images: Images, states: npt.NDArray[np.uint64], config: TransformConfig) -> Tensor:
    num_erasings = len(config.erase_probabilities)
    draws_per_erasing = 3 + 2 * _NUM_ERASE_ATTEMPTS
    draws = _uniforms(states, 3 + num_erasings * draws_per_erasing)
    cropped = _flip_and_crop(images, draws[:, :3], "constant", config)
    normalised = normalise(cropped, config)
    erasings = draws[:, 3:].reshape(len(images), num_erasings, draws_per_erasing)
    for number, probability in enumerate(config.erase_probabilities):
        _erase(normalised, erasings[:, number], probability, config)
    return normalised


def _strong(images: Images, states: npt.NDArray[np.uint64], config: TransformConfig) -> Tensor:
    draws = _uniforms(states, 3 + 2 * config.randaugment_ops)
    cropped = _flip_and_crop(images, draws[:, :3], "reflect", config)
    choices, directions = np.split(draws[:, 3:], 2, axis=1)
    operations = (choices * len(OPERATIONS)).astype(np.int64)
    signs = np.where(directions < 0.5, -1, 1)
    return normalise(randaugment(cropped, operations, signs, config.randaugment_magnitude), config)


def _uniforms(states: npt.NDArray[np.uint64], num_draws: int) -> Uniforms:
    """[B] -> [B, num_draws] in [0, 1), multiples of 2**-53."""
    return (counter_draws(states, num_draws) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _flip_and_crop(
    images: Images,
    draws: Uniforms,
    border: Literal["constant", "reflect"],
    config: TransformConfig,
) -> Images:
    """Flip, pad and crop to the original size; `draws` is [B, 3]."""
    num_images, height, width, _ = images.shape
    pad = config.pad_pixels
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=border)
    offsets = (draws[:, 1:] * (2 * pad + 1)).astype(np.int64)
    rows = offsets[:, :1] + np.arange(height)
    columns = np.arange(width)
    flipped = draws[:, :1] < config.flip_probability
    columns = offsets[:, 1:] + np.where(flipped, columns[::-1], columns)
    rows += np.arange(num_images)[:, None] * padded.shape[1]
    pixels = rows[:, :, None] * padded.shape[2] + columns[:, None, :]
    return padded.reshape(-1, 3).take(pixels, axis=0)


def _erase(images: Tensor, draws: Uniforms, probability: float, config: TransformConfig) -> None:
    """Random erasing in place (Zhong et al., 2020); `draws` is [B, 3 + 2 * attempts].

    Area is uniform, aspect ratio log-uniform. The first of ten rectangles that fits is erased;
    nothing is erased if none fits.
    """
    height, width = images.shape[2:]
    minimum, maximum = config.erase_area
    area = height * width * (minimum + (maximum - minimum) * draws[:, 3::2])
    low, high = np.log(config.erase_aspect)
    # Round, so that last-bit differences between implementations of exp do not move an edge.
    aspect = np.exp(low + (high - low) * draws[:, 4::2])
    heights = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    widths = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (heights >= 1) & (heights < height) & (widths >= 1) & (widths < width)
    first = fits.argmax(axis=1)
    chosen = np.flatnonzero((draws[:, 0] < probability) & fits.any(axis=1))
    pixels = images.numpy()
    for image in chosen:
        size_y, size_x = heights[image, first[image]], widths[image, first[image]]
        top = int(draws[image, 1] * (height - size_y + 1))
        left = int(draws[image, 2] * (width - size_x + 1))
        pixels[image, :, top : top + size_y, left : left + size_x] = 0.0


def _check_images(images: Images | Tensor) -> None:
    is_uint8 = images.dtype == (torch.uint8 if isinstance(images, Tensor) else np.uint8)
    if not is_uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(
            f"images: expected uint8 [B, H, W, 3], got {list(images.shape)} of {images.dtype}"
        )


def _writable(array: Images) -> Images:
    """Return `array`, or a copy if torch cannot view it (read-only, negative strides)."""
    return np.require(array, requirements=["C", "W"])
