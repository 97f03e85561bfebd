"""Similarities that keep full precision under autocast.

Logits are cosines divided by temperatures down to 0.005; the eight bits of bfloat16 would be
visible in every softmax, so these products never run in half precision.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is where its type is already as precise."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def cosine_matrix(rows: Tensor, columns: Tensor) -> Tensor:
    """Cosine similarity of every row with every column.

    Args:
        rows: [..., B, D], normalised here (unit vectors stay what they are).
        columns: [..., M, D], leading dimensions broadcast against those of `rows`.

    Returns:
        [..., B, M] in [-1, 1], float32 or better; 0 where a vector is zero.
    """
    with torch.autocast(rows.device.type, enabled=False):
        rows = functional.normalize(at_least_float32(rows), dim=-1)
        columns = functional.normalize(at_least_float32(columns), dim=-1)
        return rows @ columns.transpose(-1, -2)


def dot_matrix(rows: Tensor, columns: Tensor) -> Tensor:
    """Inner product of every row with every column, as they are.

    Args:
        rows: [..., B, D].
        columns: [..., M, D], leading dimensions broadcast against those of `rows`.

    Returns:
        [..., B, M], float32 or better.
    """
    with torch.autocast(rows.device.type, enabled=False):
        return at_least_float32(rows) @ at_least_float32(columns).transpose(-1, -2)


def masked_mean(values: Tensor, kept: Tensor) -> Tensor:
    """Mean over the last dimension of `values` where `kept`; 0 with a gradient if nothing is.

    Args:
        values: [..., B], finite everywhere.
        kept: [..., B] bool.

    Returns:
        [...].
    """
    return (values * kept).sum(-1) / kept.sum(-1).clamp(min=1)
