"""Batch normalisation inside an image tower, over the images of all workers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.learner import Collective
from models.losses.similarity import at_least_float32


class GatheredBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d whose statistics in training are those of the global batch.

    Every worker sends mean and variance of its images, and lets gradients through what it gets:
    the same images give the same result whatever the number of workers, and all workers hold equal
    running statistics. torch's SyncBatchNorm does as much, but on GPUs alone. In evaluation, and
    in its parameters and buffers, it is nn.BatchNorm2d.

    Args:
        num_features: channels C.
        collective: the workers; each must hold as many images as every other.
    """

    def __init__(self, num_features: int, collective: Collective) -> None:
        super().__init__(num_features)
        self.collective = collective

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] of this worker -> the same, normalised."""
        if not self.training:
            return super().forward(input)
        maps = at_least_float32(input)
        variance, mean = torch.var_mean(maps, dim=(0, 2, 3), correction=0)
        moments = self.collective.gather(torch.stack([mean, variance])[None])
        means, variances = moments.unbind(1)
        mean = means.mean(0)
        # Of the spread inside the workers' shares and of that between them: E[x^2] - E[x]^2 would
        # lose its digits where a channel's mean is large.
        variance = (variances + (means - mean).square()).mean(0)
        self._count(mean.detach(), variance.detach(), len(moments) * maps[:, 0].numel())
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return (maps * scale[:, None, None] + shift[:, None, None]).to(input.dtype)

    def _count(self, mean: Tensor, variance: Tensor, num_values: int) -> None:
        """Moves the running statistics as nn.BatchNorm2d does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (num_values / (num_values - 1)), self.momentum)
