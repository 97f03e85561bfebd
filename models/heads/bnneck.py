"""BN neck and the identity classifier that grows with the domains."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class BNNeck(nn.BatchNorm1d):
    """Batch normalisation between the metric feature and the classifier.

    In training it takes the features of the **global** batch, [B, D] with B >= 2, so that every
    worker holds the same statistics; in evaluation any [B, D].

    Without `bias` the shift is a buffer of zeros rather than a frozen parameter: no pattern of
    trainable parameters can wake it by accident.

    Args:
        dim: feature size D.
        bias: whether the shift is learned. Luo et al. 2019 fix it at 0; the VLADR authors' code
            learns it in its second stage.
    """

    def __init__(self, dim: int, bias: bool = False) -> None:
        super().__init__(dim)
        if not bias:
            del self.bias
            self.register_buffer("bias", torch.zeros(dim))


class GrowingClassifier(nn.Module):
    """Bias-free linear classifier [B, D] -> [B, C] that starts with no class.

    Args:
        dim: feature size D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(0, dim))

    @property
    def num_classes(self) -> int:
        """Number of rows grown so far."""
        return self.weight.shape[0]

    def grow(self, new_rows: Tensor) -> None:
        """Appends one row per new identity; the old rows keep their values.

        `weight` becomes a new parameter: grow before an optimiser is built.

        Args:
            new_rows: [C_t, D], usually the L2-normalised class centres of the new domain.
        """
        dim = self.weight.shape[1]
        if new_rows.ndim != 2 or new_rows.shape[1] != dim:
            raise ValueError(f"new rows must be [C, {dim}], came {list(new_rows.shape)}")
        rows = torch.cat([self.weight.detach(), new_rows.detach().to(self.weight)])
        self.weight = nn.Parameter(rows, requires_grad=self.weight.requires_grad)

    def forward(self, features: Tensor) -> Tensor:
        """[B, D] -> logits [B, C]."""
        return functional.linear(features, self.weight)
