"""Identity classification loss."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from models.losses.similarity import at_least_float32


def cross_entropy(logits: Tensor, person_ids: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Compute the mean over the batch of -sum_c q_c log softmax(logits)_c.

    q = (1 - s) * one_hot(person_id) + s / C with s = `label_smoothing`.

    Args:
        logits: [B, C], B >= 1.
        person_ids: [B] long in 0..C-1 (rows of the classifier).
        label_smoothing: mass s in [0, 1] spread evenly over all C classes.

    Returns:
        Scalar; 0 for one class.
    """
    logits = at_least_float32(logits)
    return functional.cross_entropy(logits, person_ids, label_smoothing=label_smoothing)
