"""Distillation of batch affinities that are rectified by the identities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from models.losses.similarity import cosine_matrix


def rectified_affinity(
    new: Tensor, old: Tensor, person_ids: Tensor, temperature: float, gradient_to_target: bool
) -> Tensor:
    """Distil the old model's affinities, replacing entries that contradict the identities.

    mean_i KL(T_i || A_i) with A = softmax_j(cos(new_i, new_j) / tau) and O the same for the old
    model. The target T is built entry by entry, then its rows are normalised to sum to 1:

        T_ij ~ O_ij                  if O is correct for (i, j)
               A_ij                  if O is wrong and A is correct
               max(p^A_i, p^O_i)     if both are wrong and i, j are the same person
               min(n^A_i, n^O_i)     if both are wrong and i, j are different persons

    p_i is the largest affinity in row i to another person, n_i the smallest to another image of the
    same person. An affinity to the same person is correct if it exceeds p_i (the diagonal is always
    correct); an affinity to another person is correct if it does not exceed n_i.

    Args:
        new: [B, D] features of the global batch from the model in training.
        old: [B, D] features of the same views from the frozen old model (D may differ).
        person_ids: [B] long.
        temperature: tau > 0.
        gradient_to_target: whether entries of T that come from `new` receive gradients.

    Returns:
        Scalar >= 0; 0 with a zero gradient for B = 1. If the batch has one person, rows have no p;
        if a person has no other image, its rows have no n. A missing bound makes no entry wrong.

    Source: LSTKC, rectification of short-term knowledge. The authors' code backpropagates through
    the target: at the start of a domain both models are equal, max and min are ties decided by
    rounding, and so is the gradient. All computations here use logarithms, so that entries do not
    underflow at any temperature.
    """
    log_new = (cosine_matrix(new, new) / temperature).log_softmax(1)
    log_old = (cosine_matrix(old.detach(), old.detach()) / temperature).log_softmax(1)
    source = log_new if gradient_to_target else log_new.detach()
    target = _rectified(source, log_old, person_ids).log_softmax(1)
    divergence = functional.kl_div(log_new, target, reduction="none", log_target=True)
    return divergence.sum(1).mean().clamp(min=0)


def _rectified(new: Tensor, old: Tensor, person_ids: Tensor) -> Tensor:
    """Build the unnormalised log target from the log affinities [B, B] of both models."""
    same = person_ids[:, None] == person_ids[None, :]
    new_correct, new_negative, new_positive = _find_correct(new, same)
    old_correct, old_negative, old_positive = _find_correct(old, same)
    max_negative = torch.maximum(new_negative, old_negative)
    min_positive = torch.minimum(new_positive, old_positive)
    both_wrong = torch.where(same, max_negative, min_positive)
    return torch.where(old_correct, old, torch.where(new_correct, new, both_wrong))


def _find_correct(affinity: Tensor, same: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mask [B, B] of correct entries, and p and n [B, 1] (infinite if missing)."""
    diagonal = torch.eye(len(same), dtype=torch.bool, device=same.device)
    max_negative = affinity.masked_fill(same, -torch.inf).amax(1, keepdim=True)
    min_positive = affinity.masked_fill(~same | diagonal, torch.inf).amin(1, keepdim=True)
    correct = torch.where(same, (affinity > max_negative) | diagonal, affinity <= min_positive)
    return correct, max_negative, min_positive
