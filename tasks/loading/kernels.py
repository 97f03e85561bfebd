"""Operations on batches of images that have one implementation for the CPU and one for a device.

Both give the same bytes. The first uses numpy and Pillow, one small group of images at a time; the
second uses torch operations that never wait for the device.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from tasks.loading.draws import Border, Draws, source_index

Indices = npt.NDArray[np.int64]

MAX_MAGNITUDE = 30
_LEVELS = 256
_HOST_CHUNK_BYTES = 2**17
"""Pixels that are processed together on a CPU: they and their float32 copy fit into its cache."""

_Slices = tuple[slice, slice]


class Kernels(Protocol):
    """Operations on uint8 images."""

    def chunk(self, bytes_per_image: int) -> int | None:
        """Number of images to process together; None for no limit."""
        ...

    def index(self, values: Indices, device: torch.device) -> Tensor:
        """Return [N] indices as a tensor on `device`."""
        ...

    def crop(self, images: Tensor, draws: Draws, pad: int) -> Tensor:
        """Flip, pad and crop images to their original size: [B, H, W, 3] -> [B, 3, H, W]."""
        ...

    def move(self, images: Tensor, name: str, signed_magnitude: int) -> Tensor:
        """Shear, translate or rotate images [B, 3, H, W]; nearest pixel, black outside."""
        ...

    def counts(self, images: Tensor) -> Tensor:
        """Count the pixels of each level: [B, 3, H, W] -> [B, 3, 256] int64."""
        ...

    def lookup(self, images: Tensor, tables: Tensor) -> Tensor:
        """Map levels by the uint8 tables [B, 3, 256] of images [B, 3, H, W]."""
        ...

    def store(self, pixels: Tensor, images: Tensor) -> None:
        """Convert float32 pixels, integers from 0 to 255, into uint8 images of the same shape."""
        ...


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor in host memory to a device; the host does not wait for a CUDA device."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class HostKernels:
    """Kernels for tensors in host memory."""

    def chunk(self, bytes_per_image: int) -> int | None:
        """See `Kernels.chunk`."""
        return max(1, _HOST_CHUNK_BYTES // max(1, bytes_per_image))

    def index(self, values: Indices, device: torch.device) -> Tensor:
        """See `Kernels.index`."""
        assert device.type == "cpu", device
        return torch.from_numpy(values)

    def crop(self, images: Tensor, draws: Draws, pad: int) -> Tensor:
        """See `Kernels.crop`."""
        num_images, height, width, _ = images.shape
        result = np.zeros((num_images, 3, height, width), np.uint8)
        source = images.numpy().transpose(0, 3, 1, 2)
        for number, (flipped, (top, left)) in enumerate(
            zip(draws.flipped.tolist(), draws.offsets.tolist(), strict=True)
        ):
            columns = _runs(width, pad, left, flipped, draws.border)
            for to_rows, from_rows in _runs(height, pad, top, False, draws.border):
                for to_columns, from_columns in columns:
                    result[number, :, to_rows, to_columns] = source[
                        number, :, from_rows, from_columns
                    ]
        return torch.from_numpy(result)

    def move(self, images: Tensor, name: str, signed_magnitude: int) -> Tensor:
        """See `Kernels.move`."""
        height, width = images.shape[2:]
        pixels = images.numpy()
        blocks = _blocks(name, signed_magnitude, height, width)
        if blocks is None:
            sources = _source_pixels(name, signed_magnitude, height, width)
            moved = pixels.reshape(-1, height * width).take(np.maximum(sources, 0), axis=1)
            moved *= sources >= 0
            return torch.from_numpy(moved.reshape(pixels.shape))
        result = np.zeros_like(pixels)
        for (to_rows, to_columns), (from_rows, from_columns) in blocks:
            result[:, :, to_rows, to_columns] = pixels[:, :, from_rows, from_columns]
        return torch.from_numpy(result)

    def counts(self, images: Tensor) -> Tensor:
        """See `Kernels.counts`."""
        planes = images.numpy().reshape(-1, *images.shape[2:])
        counts = [Image.fromarray(plane).histogram() for plane in planes]
        return torch.from_numpy(np.array(counts, np.int64)).view(-1, 3, _LEVELS)

    def lookup(self, images: Tensor, tables: Tensor) -> Tensor:
        """See `Kernels.lookup`."""
        planes = images.numpy().reshape(-1, images[0, 0].numel())
        result = np.empty_like(planes)
        for plane, table, mapped in zip(
            planes, tables.numpy().reshape(-1, _LEVELS), result, strict=True
        ):
            mapped[:] = np.frombuffer(plane.tobytes().translate(table.tobytes()), np.uint8)
        return torch.from_numpy(result).view(images.shape)

    def store(self, pixels: Tensor, images: Tensor) -> None:
        """See `Kernels.store`."""
        np.copyto(images.numpy(), pixels.numpy(), casting="unsafe")  # seven times as fast as torch


class DeviceKernels:
    """Kernels for tensors on any device, in torch; the host is never made to wait."""

    def chunk(self, bytes_per_image: int) -> int | None:
        """See `Kernels.chunk`."""
        return None

    def index(self, values: Indices, device: torch.device) -> Tensor:
        """See `Kernels.index`."""
        return send(torch.from_numpy(values), device)

    def crop(self, images: Tensor, draws: Draws, pad: int) -> Tensor:
        """See `Kernels.crop`."""
        num_images, height, width, _ = images.shape
        rows = source_index(height, pad, draws.offsets[:, 0], draws.border)
        columns = source_index(width, pad, draws.offsets[:, 1], draws.border)
        columns = np.where(draws.flipped[:, None], columns[:, ::-1], columns)
        row = self.index(rows, images.device)[:, :, None]
        column = self.index(columns, images.device)[:, None, :]
        number = torch.arange(num_images, device=images.device)[:, None, None]
        cropped = images[number, row.clamp(min=0), column.clamp(min=0)].permute(0, 3, 1, 2)
        inside = (row >= 0) & (column >= 0)
        return cropped.contiguous().mul_(inside[:, None])

    def move(self, images: Tensor, name: str, signed_magnitude: int) -> Tensor:
        """See `Kernels.move`."""
        height, width = images.shape[2:]
        sources = self.index(_source_pixels(name, signed_magnitude, height, width), images.device)
        moved = images.flatten(2).index_select(2, sources.clamp(min=0))
        return moved.mul_(sources >= 0).view(images.shape)

    def counts(self, images: Tensor) -> Tensor:
        """See `Kernels.counts`."""
        # Unlike bincount and scatter_add, sorting neither waits for the device nor uses atomics.
        ordered = images.flatten(2).sort(dim=2).values.short()
        levels = torch.arange(_LEVELS, dtype=torch.int16, device=images.device)
        levels = levels.expand(*ordered.shape[:2], _LEVELS).contiguous()
        up_to = torch.searchsorted(ordered, levels, right=True)
        return up_to.diff(dim=2, prepend=torch.zeros_like(up_to[..., :1]))

    def lookup(self, images: Tensor, tables: Tensor) -> Tensor:
        """See `Kernels.lookup`."""
        return tables.gather(2, images.flatten(2).long()).view(images.shape)

    def store(self, pixels: Tensor, images: Tensor) -> None:
        """See `Kernels.store`."""
        images.copy_(pixels)


@lru_cache(maxsize=4096)
def _runs(size: int, pad: int, offset: int, flipped: bool, border: Border) -> tuple[_Slices, ...]:
    """Slices of the result and of the source along one axis of a crop."""
    (index,) = source_index(size, pad, np.array([offset]), border)
    if flipped:
        index = index[::-1]
    runs: list[_Slices] = []
    start = 0
    while start < size:
        stop = start + 1
        if index[start] >= 0:
            step = 1 if stop == size or index[stop] > index[start] else -1
            while stop < size and index[stop] == index[stop - 1] + step and index[stop] >= 0:
                stop += 1
            runs.append((slice(start, stop), _stepped(int(index[start]), stop - start, step)))
        start = stop
    return tuple(runs)


def _stepped(start: int, num: int, step: int) -> slice:
    """Slice of `num` positions from `start` on."""
    stop = start + num * step
    return slice(start, None if stop < 0 else stop, step)


@lru_cache(maxsize=64)
def _blocks(
    name: str, signed_magnitude: int, height: int, width: int
) -> tuple[tuple[_Slices, _Slices], ...] | None:
    """Rectangles of the result and of the source that make up a shear or a translation.

    Returns:
        ((rows, columns) of the result, (rows, columns) of the source) of each rectangle; None if
        the pixels of a line do not move together: in a rotation, and in a shear where source
        coordinates are rounded differently within a line.
    """
    if name == "rotate":
        return None
    sources = _source_pixels(name, signed_magnitude, height, width).reshape(height, width)
    y, x = np.mgrid[:height, :width]
    fields = np.stack([sources // width - y, sources % width - x, sources >= 0])
    swapped = name == "shear_y"
    moves = [
        _line_move(*line)
        for line in (fields.transpose(2, 0, 1) if swapped else fields.transpose(1, 0, 2))
    ]
    blocks: list[tuple[_Slices, _Slices]] = []
    start = 0
    for stop, move in enumerate([*moves[1:], None], 1):
        if (current := moves[start]) is None:
            return None
        if stop < len(moves) and move == current:
            continue
        first, last, down, right = current
        if swapped:
            target = (slice(first, last), slice(start, stop))
        else:
            target = (slice(start, stop), slice(first, last))
        blocks.append((target, (_shifted(target[0], down), _shifted(target[1], right))))
        start = stop
    return tuple(blocks)


def _line_move(down: Indices, right: Indices, inside: Indices) -> tuple[int, int, int, int] | None:
    """(first, last + 1, down, right) of the pixels of a line that move together, or None."""
    positions = np.flatnonzero(inside)
    if len(positions) == 0:
        return 0, 0, 0, 0
    first, last = int(positions[0]), int(positions[-1]) + 1
    moves = {*zip(down[positions].tolist(), right[positions].tolist(), strict=True)}
    if len(moves) > 1 or last - first != len(positions):
        return None
    return first, last, *moves.pop()


def _shifted(along: slice, shift: int) -> slice:
    return slice(along.start + shift, along.stop + shift)


@lru_cache(maxsize=64)
def _source_pixels(name: str, signed_magnitude: int, height: int, width: int) -> Indices:
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
