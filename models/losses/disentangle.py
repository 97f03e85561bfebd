"""Disentanglement losses between attributes."""

from __future__ import annotations

import torch
from torch import Tensor

from models.losses.similarity import cosine_matrix


def orthogonality(t: Tensor) -> Tensor:
    """Compute the mean over samples and ordered pairs k != l of cos(t_k, t_l)^2.

    Args:
        t: [..., K, D] attribute features, at least one sample.

    Returns:
        Scalar in [0, 1]; 0 for orthogonal attributes, 0 with a zero gradient for K = 1.

    Source: VLADR, stage 1.
    """
    num_attributes = t.shape[-2]
    squares = cosine_matrix(t, t).square()
    diagonal = torch.eye(num_attributes, dtype=torch.bool, device=t.device)
    num_pairs = max(num_attributes * (num_attributes - 1), 1)
    return (squares.masked_fill(diagonal, 0.0).sum((-1, -2)) / num_pairs).mean()
