"""Distillation losses between classifiers."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from models.losses.similarity import at_least_float32

Mixture = Literal["probabilities", "logits"]


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Compute T^2 * mean over rows of KL(softmax(teacher / T) || softmax(student / T)).

    Args:
        student: [B, C] logits of the model in training, B >= 1.
        teacher: [B, C] logits of the teacher; receives no gradient.
        temperature: T > 0. The factor T^2 makes gradients comparable between temperatures.

    Returns:
        Scalar >= 0; 0 with one class (C = 1).

    Source: Hinton et al. 2015. Li & Hoiem 2017 (LwF) use the cross-entropy, which differs by the
    teacher's entropy (a constant), and omit the factor T^2.
    """
    log_student = (at_least_float32(student) / temperature).log_softmax(1)
    log_teacher = (at_least_float32(teacher.detach()) / temperature).log_softmax(1)
    divergence = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True)
    return temperature**2 * divergence.sum(1).mean().clamp(min=0)


def jensen_shannon(
    first: Tensor, second: Tensor, temperature: float, mixture: Mixture = "probabilities"
) -> Tensor:
    """Compute T^2 * mean over rows of (KL(p || m) + KL(q || m)) / 2, p and q softmax(logits / T).

    m is (p + q) / 2 (Jensen-Shannon divergence) or, with `logits`, the softmax of the mean logits.
    The latter is the normalised geometric mean of p and q: it is not bounded by log 2 and has
    larger gradients where both are confident in different classes.

    Args:
        first: [B, C] logits, B >= 1.
        second: [B, C] logits.
        temperature: T > 0. The factor T^2 makes gradients comparable between temperatures.
        mixture: definition of m.

    Returns:
        Scalar >= 0; 0 for equal predictions and for one class (C = 1). Gradients flow into both;
        each receives the gradient it would have with the other held fixed.

    Source: KRKC, mutual rectification; the authors' code uses `logits`.
    """
    first, second = at_least_float32(first) / temperature, at_least_float32(second) / temperature
    log_p, log_q = first.log_softmax(1), second.log_softmax(1)
    if mixture == "probabilities":
        log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    else:
        log_m = ((first + second) / 2).log_softmax(1)
    divergences = [
        functional.kl_div(log_m, each, reduction="none", log_target=True).sum(1)
        for each in (log_p, log_q)
    ]
    return temperature**2 * torch.stack(divergences).mean().clamp(min=0)
