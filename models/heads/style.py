"""A domain's style: a small network that gives images of any colours those of one domain.

It learns from pairs that cost nothing: a domain's image, and the same image with the mean and
deviation of its channels exchanged for drawn ones. For each image it predicts a convolution kernel
and a bias that undo the exchange; put before images of another domain, they give those this
domain's colours. It holds no normalisation layer: the colours are what it has to see.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from models.losses.similarity import at_least_float32

Channels = Literal["mixed", "separate"]

_LEAST_SHARE = 0.1


class StyleNetwork(nn.Module):
    """Predicts a kernel and a bias for every image, and applies them.

    Three convolutions of stride 2, mean over places, beside it the colour statistics of the image;
    then two linear layers. The last one starts at 0, so the network begins as the identity.

    Args:
        width: channels of the first convolution; the others have two and four times as many.
        kernel_size: k of the predicted k x k kernels, odd.
        channels: "mixed", each colour is computed from all three (3 x 3 kernels an image);
            "separate", each from itself (3 kernels).
        generator: CPU generator of the initial values, the only thing they depend on.

    Source: DASK, adaptive kernel prediction network. Its authors' is a MobileNet pretrained on
    ImageNet, whose kernels also do the normalisation of pixels; here images come normalised.
    """

    def __init__(
        self, width: int, kernel_size: int, channels: Channels, generator: Generator
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"a style kernel needs an odd size, came {kernel_size}: set 3, say")
        self.kernel_size = kernel_size
        self.num_sources = 3 if channels == "mixed" else 1
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.hidden = nn.Linear(4 * width + 6, 4 * width)
        self.kernel = nn.Linear(4 * width, 3 * self.num_sources * kernel_size**2 + 3)
        self.reset(generator)

    @torch.no_grad()
    def reset(self, generator: Generator) -> None:
        """Forgets the domain it learned; drawn on the CPU, so every device begins alike."""
        for module in (*self.convolutions, self.hidden):
            if isinstance(module, nn.Conv2d | nn.Linear):
                weight = torch.empty(module.weight.shape)
                nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
                module.weight.copy_(weight)
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.kernel.weight)
        nn.init.zeros_(self.kernel.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] -> the same in the learned style, float32."""
        places = self.convolutions(images).mean((2, 3))
        seen = torch.cat([places, colour_statistics(images).flatten(1)], dim=1)
        predicted = at_least_float32(self.kernel(functional.relu(self.hidden(seen))))
        weights = predicted[:, :-3].unflatten(1, (3, self.num_sources, self.kernel_size, -1))
        return restyle(images, weights, predicted[:, -3:])


def restyle(images: Tensor, kernels: Tensor, biases: Tensor) -> Tensor:
    """images + (each convolved with its own kernel) + its own bias, the border repeated.

    Args:
        images: [B, 3, H, W].
        kernels: [B, 3, 3, k, k] (or [B, 3, 1, k, k]: each channel from itself), k odd.
        biases: [B, 3].

    Returns:
        [B, 3, H, W], never in half precision: these are pixels.
    """
    num_images, num_channels, num_sources, size, _ = kernels.shape
    with torch.autocast(images.device.type, enabled=False):
        images, kernels = at_least_float32(images), at_least_float32(kernels)
        padded = functional.pad(images, (size // 2,) * 4, mode="replicate")
        # All images as channels of one, so that one grouped convolution serves the whole batch.
        changed = functional.conv2d(
            padded.flatten(0, 1)[None],
            kernels.flatten(0, 1),
            groups=num_images * (num_channels // num_sources),
        ).view_as(images)
        return images + changed + at_least_float32(biases)[:, :, None, None]


def colour_statistics(images: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 2, C]: mean and standard deviation of every channel over its pixels."""
    pixels = at_least_float32(images).flatten(2)
    return torch.stack([pixels.mean(2), pixels.std(2, correction=0)], dim=1)


def variety(statistics: Tensor) -> Tensor:
    """Colour statistics [N, 2, C] of a domain's images -> their mean and deviation [2, 2, C]."""
    return torch.stack([statistics.mean(0), statistics.std(0, correction=0)])


def drawn_statistics(colours: Tensor, noise: Tensor, spread: float) -> Tensor:
    """Colour statistics as other images of the domain might have them: mean + spread * dev * noise.

    A drawn standard deviation is at least a tenth of the mean one, so that no image is wiped or
    inverted.

    Args:
        colours: [2, 2, C], `variety` of the domain.
        noise: [B, 2, C] standard normal.
        spread: how far beyond the domain's own variety to go (1: as far as it goes).

    Returns:
        [B, 2, C].

    Source: DASK's disturbed distribution. Its authors' code takes the variety of the batch, and
    knows no spread and no least deviation.
    """
    centre, deviation = colours
    drawn = centre + spread * deviation * noise.to(centre)
    return torch.stack([drawn[:, 0], drawn[:, 1].maximum(_LEAST_SHARE * centre[1])], dim=1)


def recolour(images: Tensor, statistics: Tensor) -> Tensor:
    """Images [B, C, H, W] shifted and scaled, channel by channel, to `statistics` [B, 2, C].

    A channel of one colour only is shifted.
    """
    own = colour_statistics(images)
    scale = torch.where(own[:, 1] > 1e-4, statistics[:, 1] / own[:, 1].clamp(min=1e-4), 1.0)
    shift = statistics[:, 0] - scale * own[:, 0]
    return images * scale[:, :, None, None] + shift[:, :, None, None]


def noise_of(step: int, indices: Tensor) -> Tensor:
    """Standard normal numbers [B, 2, 3], a pure function of the step and each image's index.

    So it does not matter how a batch is shared out, nor whether the run was interrupted.
    """
    drawn = [
        np.random.Generator(np.random.Philox(key=[step, index])).standard_normal((2, 3))
        for index in indices.tolist()
    ]
    return torch.from_numpy(np.stack(drawn)).float()
