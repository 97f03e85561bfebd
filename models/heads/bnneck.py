"""BN neck and growing identity classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class BNNeck(nn.BatchNorm1d):
    """Batch normalisation between the metric feature and the classifier.

    In training, the input is the features [B, D] of the **global** batch with B >= 2, so that every
    worker has the same statistics. In evaluation any [B, D] is allowed.

    Without `bias`, the bias is a buffer of zeros instead of a frozen parameter, so that no pattern
    of trainable parameters can match it.

    Args:
        dim: feature size D.
        bias: whether the bias is learned. Luo et al. 2019 fix it at 0; the VLADR authors' code
            learns it in the second stage.
    """

    def __init__(self, dim: int, bias: bool = False) -> None:
        super().__init__(dim)
        if not bias:
            del self.bias
            self.register_buffer("bias", torch.zeros(dim))


class GrowingClassifier(nn.Module):
    """Bias-free linear classifier [B, D] -> [B, C]; initially without classes.

    Args:
        dim: feature size D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(0, dim))

    @property
    def num_classes(self) -> int:
        """Number C of classes."""
        return self.weight.shape[0]

    def grow(self, new_rows: Tensor) -> None:
        """Append one row per new identity; existing rows keep their values.

        `weight` becomes a new parameter, so call this before creating an optimiser.

        Args:
            new_rows: [C_t, D], usually the L2-normalised class centres of the new domain.

        Raises:
            ValueError: `new_rows` has another shape.
        """
        dim = self.weight.shape[1]
        if new_rows.ndim != 2 or new_rows.shape[1] != dim:
            raise ValueError(f"new_rows: expected shape [C, {dim}], got {list(new_rows.shape)}")
        rows = torch.cat([self.weight.detach(), new_rows.detach().to(self.weight)])
        self.weight = nn.Parameter(rows, requires_grad=self.weight.requires_grad)

    def forward(self, features: Tensor) -> Tensor:
        """Compute logits [B, C] of features [B, D]."""
        return functional.linear(features, self.weight)
