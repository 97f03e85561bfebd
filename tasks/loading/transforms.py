"""Weak, strong and test views of a batch of images, each image a pure function of its own seed.

All random numbers are drawn for the whole batch at once from one counter-based generator, so the
geometry of a batch is a single gather and no global generator is read or written.
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
    """How training and test images are changed before the network sees them."""

    mean_std: Literal["clip", "imagenet", "half"] = Field(
        default="clip",
        description="whose channel means and deviations normalise an image, or one half for all "
        "(-1..1); unless given, a ResNet has imagenet and vit-bert half",
    )
    flip_probability: float = Field(
        default=0.5, ge=0, le=1, description="weak, strong: mirror an image"
    )
    pad_pixels: int = Field(
        default=10, ge=0, description="weak, strong: border added before a crop to the former size"
    )
    erase_probabilities: tuple[float, ...] = Field(
        default=(0.5, 0.3),
        description="weak: one random erasing after another, each with its probability",
    )
    erase_area: tuple[float, float] = Field(
        default=(0.02, 0.4),
        description="weak: least and greatest share of the image that is erased",
    )
    erase_aspect: tuple[float, float] = Field(
        default=(0.3, 3.3),
        description="weak: least and greatest height / width of the erased rectangle",
    )
    randaugment_ops: int = Field(
        default=2, ge=0, description="strong: RandAugment operations an image"
    )
    randaugment_magnitude: int = Field(
        default=10, ge=0, le=MAX_MAGNITUDE, description="strong: RandAugment magnitude, of 30"
    )

    @field_validator("erase_probabilities")
    @classmethod
    def _are_probabilities(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 <= value <= 1 for value in values):
            raise ValueError(f"expected probabilities in 0..1, got {values}")
        return values

    @field_validator("erase_area", "erase_aspect")
    @classmethod
    def _is_a_range(cls, values: tuple[float, float]) -> tuple[float, float]:
        if not 0 < values[0] <= values[1]:
            raise ValueError(f"expected 0 < least <= greatest, got {values}")
        return values

    @field_validator("erase_area")
    @classmethod
    def _is_a_share(cls, values: tuple[float, float]) -> tuple[float, float]:
        if values[1] > 1:
            raise ValueError(f"expected shares of the image, at most 1, got {values}")
        return values


def normalise(images: Images | Tensor, config: TransformConfig) -> Tensor:
    """uint8 [B, H, W, 3] in 0..255 -> float32 [B, 3, H, W], (image / 255 - mean) / std.

    A tensor stays on its device; the result shares no memory with the images.

    Raises:
        ValueError: not uint8, or not [B, H, W, 3].
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
    """Augments and normalises a batch.

    Views: "test", normalise only; "weak", mirror, black border and crop, normalise, random
    erasing (filled with 0, the mean colour); "strong", mirror, reflected border and crop,
    RandAugment, normalise.

    An image's row is a pure function of its pixels, the view, its seed and the configuration,
    bit for bit, whatever else is in the batch; the views of one seed are unrelated.

    Args:
        images: [B, H, W, 3] uint8; left as it is.
        view: one of `VIEWS`.
        seeds: [B] integers, one for each image.
        config: see `TransformConfig`.

    Returns:
        float32 [B, 3, H, W].

    Raises:
        ValueError: unknown view, images that are not uint8 [B, H, W, 3], seeds that are not [B].
    """
    _check_images(images)
    if view not in VIEWS:
        raise ValueError(f"unknown view {view!r}; expected one of {', '.join(VIEWS)}")
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
    """Mirrors, adds the border and crops to the former size; `draws` is [B, 3]."""
    num_images, height, width, _ = images.shape
    pad = config.pad_pixels
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=border)
    offsets = (draws[:, 1:] * (2 * pad + 1)).astype(np.int64)
    rows = offsets[:, :1] + np.arange(height)
    columns = np.arange(width)
    mirrored = draws[:, :1] < config.flip_probability
    columns = offsets[:, 1:] + np.where(mirrored, columns[::-1], columns)
    rows += np.arange(num_images)[:, None] * padded.shape[1]
    pixels = rows[:, :, None] * padded.shape[2] + columns[:, None, :]
    return padded.reshape(-1, 3).take(pixels, axis=0)


def _erase(images: Tensor, draws: Uniforms, probability: float, config: TransformConfig) -> None:
    """Random erasing in place (Zhong et al., 2020); `draws` is [B, 3 + 2 * attempts].

    Area uniform, aspect ratio log-uniform, and the first of ten rectangles that fits; where none
    does, nothing is erased.
    """
    height, width = images.shape[2:]
    least, greatest = config.erase_area
    area = height * width * (least + (greatest - least) * draws[:, 3::2])
    low, high = np.log(config.erase_aspect)
    # Rounded, so that no difference in the last bit between versions of exp moves an edge.
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
            f"expected uint8 images [B, H, W, 3], got {list(images.shape)} of {images.dtype}"
        )


def _writable(array: Images) -> Images:
    """`array`, or a copy where torch cannot view it (read-only, negative strides)."""
    return np.require(array, requirements=["C", "W"])
