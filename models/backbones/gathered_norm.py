"""Batch normalisation over the images of all workers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.learner import Collective
from models.losses.similarity import at_least_float32


class GatheredBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d with the statistics of the global batch in training.

    Every worker shares mean and variance of its images, and gradients flow through the gathered
    values. The result does not depend on the number of workers, and all workers hold equal running
    statistics. torch's SyncBatchNorm does the same, but only on GPUs. Evaluation, parameters and
    buffers are those of nn.BatchNorm2d.

    Args:
        num_features: number of channels C.
        collective: the workers; all must have the same number of images.
    """

    def __init__(self, num_features: int, collective: Collective) -> None:
        super().__init__(num_features)
        self.collective = collective

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [B, C, H, W] of this worker."""
        if not self.training:
            return super().forward(input)
        maps = at_least_float32(input)
        variance, mean = torch.var_mean(maps, dim=(0, 2, 3), correction=0)
        moments = self.collective.gather(torch.stack([mean, variance])[None])
        means, variances = moments.unbind(1)
        mean = means.mean(0)
        # Variance within plus variance between workers: E[x^2] - E[x]^2 would lose precision where
        # the mean of a channel is large.
        variance = (variances + (means - mean).square()).mean(0)
        self._update_running_statistics(
            mean.detach(), variance.detach(), len(moments) * maps[:, 0].numel()
        )
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return (maps * scale[:, None, None] + shift[:, None, None]).to(input.dtype)

    def _update_running_statistics(self, mean: Tensor, variance: Tensor, num_values: int) -> None:
        """Update the running statistics as nn.BatchNorm2d does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (num_values / (num_values - 1)), self.momentum)
