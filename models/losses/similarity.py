"""Similarities in full precision under autocast.

Logits are cosines divided by temperatures down to 0.005. In bfloat16 (8 significant bits) the
rounding would change every softmax, so these products never run in half precision.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert to float32, unless the dtype is already at least as precise."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def cosine_matrix(rows: Tensor, columns: Tensor) -> Tensor:
    """Compute the cosine similarity of every row with every column.

    Args:
        rows: [..., B, D]; normalised here.
        columns: [..., M, D]; leading dimensions broadcast with those of `rows`.

    Returns:
        [..., B, M] in [-1, 1], at least float32; 0 for zero vectors.
    """
    with torch.autocast(rows.device.type, enabled=False):
        rows = functional.normalize(at_least_float32(rows), dim=-1)
        columns = functional.normalize(at_least_float32(columns), dim=-1)
        return rows @ columns.transpose(-1, -2)


def dot_matrix(rows: Tensor, columns: Tensor) -> Tensor:
    """Compute the inner product of every row with every column, without normalisation.

    Args:
        rows: [..., B, D].
        columns: [..., M, D]; leading dimensions broadcast with those of `rows`.

    Returns:
        [..., B, M], at least float32.
    """
    with torch.autocast(rows.device.type, enabled=False):
        return at_least_float32(rows) @ at_least_float32(columns).transpose(-1, -2)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean of `values` over the last dimension where `mask` is True.

    Args:
        values: [..., B], finite everywhere.
        mask: [..., B] bool.

    Returns:
        [...]; 0 with a zero gradient where `mask` has no True.
    """
    return (values * mask).sum(-1) / mask.sum(-1).clamp(min=1)
