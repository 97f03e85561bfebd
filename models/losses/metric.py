"""Metric learning losses on distances between images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from models.losses.similarity import at_least_float32, masked_mean


def batch_hard_triplet(
    features: Tensor, person_ids: Tensor, margin: float | None, squared: bool = False
) -> Tensor:
    """Compute the triplet loss with the farthest positive and nearest negative of every anchor.

    Mean over anchors of softplus(d_ap - d_an), or of max(0, d_ap - d_an + margin), where d is the
    Euclidean distance of the features (not normalised here) or its square.

    Args:
        features: [B, D] of the global batch, B >= 1.
        person_ids: [B] long.
        margin: margin in units of d, or None for the soft margin.
        squared: whether d is the squared distance.

    Returns:
        Scalar. Anchors without another image of the same person, or without a negative, are
        excluded; if none remains (B = 1, one identity, all identities single), the loss is 0 with a
        zero gradient. Identical features have distance 0 and no gradient.

    Source: Hermans et al. 2017, batch hard. Implementations that count an anchor as its own
    positive differ only for identities with a single image.
    """
    features = at_least_float32(features)
    same = person_ids[:, None] == person_ids[None, :]
    positives = same & ~torch.eye(len(person_ids), dtype=torch.bool, device=same.device)
    with torch.no_grad():
        # The matrix form |x|^2 + |y|^2 - 2xy is inaccurate for near neighbours.
        distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
        farthest_positive = distances.masked_fill(~positives, -1.0).argmax(1)
        nearest_negative = distances.masked_fill(same, torch.inf).argmin(1)
    to_positive = torch.linalg.vector_norm(features - features[farthest_positive], dim=1)
    to_negative = torch.linalg.vector_norm(features - features[nearest_negative], dim=1)
    if squared:
        violation = to_positive.square() - to_negative.square()
    else:
        violation = to_positive - to_negative
    if margin is None:
        losses = functional.softplus(violation)
    else:
        losses = functional.relu(violation + margin)
    return masked_mean(losses, positives.any(1) & ~same.all(1))
