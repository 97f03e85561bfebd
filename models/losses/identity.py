"""Identity classification."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from models.losses.similarity import at_least_float32


def cross_entropy(logits: Tensor, person_ids: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean over the batch of -sum_c q_c log softmax(logits)_c.

    q is (1 - s) * one_hot(person_id) + s / C, s being `label_smoothing`.

    Args:
        logits: [B, C], B >= 1.
        person_ids: [B] long in 0..C-1 (offset to the classifier's rows by the caller).
        label_smoothing: share s in [0, 1] spread evenly over all C classes.

    Returns:
        Scalar; 0 with one class.
    """
    logits = at_least_float32(logits)
    return functional.cross_entropy(logits, person_ids, label_smoothing=label_smoothing)
