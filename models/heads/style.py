"""Style network of DASK: gives images the colours of one domain.

It is trained without labels: the mean and deviation of the channels of a domain's image are
replaced by sampled ones, and for each image the network predicts a convolution kernel and a bias
that restore the original. Applied to images of another domain, kernel and bias give them the
colours of this domain. The network has no normalisation layers, which would remove the colours.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from models.losses.similarity import at_least_float32

Channels = Literal["mixed", "separate"]

_MIN_RELATIVE_DEVIATION = 0.1


class StyleNetwork(nn.Module):
    """Predicts a convolution kernel and a bias for every image and applies them.

    Three convolutions with stride 2 and global average pooling, concatenated with the colour
    statistics of the image, followed by two linear layers. The last layer is initialised to 0, so
    the initial network is the identity.

    Args:
        width: channels of the first convolution; the others have 2 and 4 times as many.
        kernel_size: k of the predicted k x k kernels, odd.
        channels: "mixed": each output channel depends on all three (3 x 3 kernels per image);
            "separate": on itself only (3 kernels).
        generator: CPU generator for the initial values, which depend on nothing else.

    Raises:
        ValueError: `kernel_size` is even.

    Source: DASK, adaptive kernel prediction network. The authors' network is a MobileNet pretrained
    on ImageNet whose kernels also normalise pixels; here images are already normalised.
    """

    def __init__(
        self, width: int, kernel_size: int, channels: Channels, generator: Generator
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: expected an odd number such as 3, got {kernel_size}")
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
        """Reinitialise all parameters on the CPU, so that values do not depend on the device."""
        for module in (*self.convolutions, self.hidden):
            if isinstance(module, nn.Conv2d | nn.Linear):
                weight = torch.empty(module.weight.shape)
                nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
                module.weight.copy_(weight)
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.kernel.weight)
        nn.init.zeros_(self.kernel.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Restyle normalised images [B, 3, H, W]; returns [B, 3, H, W] float32."""
        pooled = self.convolutions(images).mean((2, 3))
        features = torch.cat([pooled, colour_statistics(images).flatten(1)], dim=1)
        predicted = at_least_float32(self.kernel(functional.relu(self.hidden(features))))
        weights = predicted[:, :-3].unflatten(1, (3, self.num_sources, self.kernel_size, -1))
        return restyle(images, weights, predicted[:, -3:])


def restyle(images: Tensor, kernels: Tensor, biases: Tensor) -> Tensor:
    """Compute images + (each convolved with its kernel) + its bias, with replicated borders.

    Args:
        images: [B, 3, H, W].
        kernels: [B, 3, 3, k, k], or [B, 3, 1, k, k] for separate channels; k odd.
        biases: [B, 3].

    Returns:
        [B, 3, H, W], at least float32 (never half precision, because these are pixels).
    """
    num_images, num_channels, num_sources, size, _ = kernels.shape
    with torch.autocast(images.device.type, enabled=False):
        images, kernels = at_least_float32(images), at_least_float32(kernels)
        padded = functional.pad(images, (size // 2,) * 4, mode="replicate")
        # One grouped convolution for the whole batch, with all images as channels of one image.
        residual = functional.conv2d(
            padded.flatten(0, 1)[None],
            kernels.flatten(0, 1),
            groups=num_images * (num_channels // num_sources),
        ).view_as(images)
        return images + residual + at_least_float32(biases)[:, :, None, None]


def colour_statistics(images: Tensor) -> Tensor:
    """Compute mean and standard deviation of every channel, [B, C, H, W] -> [B, 2, C]."""
    pixels = at_least_float32(images).flatten(2)
    return torch.stack([pixels.mean(2), pixels.std(2, correction=0)], dim=1)


def colour_distribution(statistics: Tensor) -> Tensor:
    """Compute mean and deviation [2, 2, C] of colour statistics [N, 2, C] of a domain."""
    return torch.stack([statistics.mean(0), statistics.std(0, correction=0)])


def sample_statistics(colours: Tensor, noise: Tensor, spread: float) -> Tensor:
    """Sample colour statistics around those of a domain: mean + spread * deviation * noise.

    Sampled standard deviations are clamped to at least a tenth of the mean one, so that no image
    becomes constant or inverted.

    Args:
        colours: [2, 2, C], `colour_distribution` of the domain.
        noise: [B, 2, C] standard normal.
        spread: factor of the deviation; 1 is the domain's own.

    Returns:
        [B, 2, C].

    Source: DASK, disturbed distribution. The authors' code uses the deviation within the batch, and
    has neither a spread nor a minimum deviation.
    """
    centre, deviation = colours
    sampled = centre + spread * deviation * noise.to(centre)
    return torch.stack(
        [sampled[:, 0], sampled[:, 1].maximum(_MIN_RELATIVE_DEVIATION * centre[1])], dim=1
    )


def recolour(images: Tensor, statistics: Tensor) -> Tensor:
    """Shift and scale the channels of images [B, C, H, W] to `statistics` [B, 2, C].

    Constant channels are only shifted.
    """
    current = colour_statistics(images)
    scale = torch.where(current[:, 1] > 1e-4, statistics[:, 1] / current[:, 1].clamp(min=1e-4), 1.0)
    shift = statistics[:, 0] - scale * current[:, 0]
    return images * scale[:, :, None, None] + shift[:, :, None, None]


def style_noise(step: int, indices: Tensor) -> Tensor:
    """Return standard normal noise [B, 2, 3] as a pure function of step and image index.

    The result depends neither on the distribution of the batch over workers nor on interruptions of
    the run.
    """
    rows = [
        np.random.Generator(np.random.Philox(key=[step, index])).standard_normal((2, 3))
        for index in indices.tolist()
    ]
    return torch.from_numpy(np.stack(rows)).float()
