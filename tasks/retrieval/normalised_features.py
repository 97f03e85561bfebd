"""Validation and L2 normalisation of embeddings, for re-ranking and the gallery index."""

from __future__ import annotations

import torch
from torch import Tensor


def normalise_rows(name: str, features: Tensor) -> Tensor:
    """L2-normalises each row, in float32 or the wider input type; zero rows stay zero.

    Args:
        name: name of the features in error messages.
        features: [N, D] float; N may be 0.

    Returns:
        [N, D] on the same device, detached, in new storage.

    Raises:
        ValueError: not a [N, D] float tensor, or not finite.
    """
    if features.ndim != 2 or not features.is_floating_point() or not features.shape[1]:
        raise ValueError(
            f"{name}: expected a [N, D] float tensor, "
            f"got {list(features.shape)} of {features.dtype}"
        )
    features = features.detach()
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    lengths = features.norm(dim=1, keepdim=True)
    finite = lengths.isfinite()
    if not bool(finite.all()):
        raise ValueError(
            f"{name}: expected finite values, got NaN or infinity in {int((~finite).sum())} of "
            f"{len(features)} rows, first in row {int((~finite).nonzero()[0, 0])}; "
            "the network has probably diverged"
        )
    return features / lengths.masked_fill(lengths == 0, 1.0)
