"""Affinities of a batch that are corrected by its identities before they are distilled."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from models.losses.similarity import cosine_matrix


def rectified_affinity(
    new: Tensor, old: Tensor, person_ids: Tensor, temperature: float, gradient_to_target: bool
) -> Tensor:
    """Teaches the old model's affinities where they are right, and better ones where they err.

    mean_i KL(T_i || A_i), A = softmax_j(cos(new_i, new_j) / tau), O the same of the old model; the
    target T is put together entry by entry and its rows are normalised to sum to 1:

        T_ij ~ O_ij         where O is right about i and j
               A_ij         where O is wrong and A is right
               max(p^A_i, p^O_i)   where both are wrong and i and j are the same person
               min(n^A_i, n^O_i)   where both are wrong and i and j are two people

    p_i is a row's greatest affinity to another person, n_i its smallest to another image of i's
    own. Affinities are right about an image of the same person if they exceed p_i (an image and
    itself are always right), and about another person's if they do not exceed n_i.

    Args:
        new: [B, D] features of the model in training, global batch.
        old: [B, D] features of the frozen old model on the same views (its D may differ).
        person_ids: [B] long.
        temperature: tau > 0.
        gradient_to_target: whether what T takes from `new` sends gradients too.

    Returns:
        Scalar >= 0; 0 with a zero gradient for B = 1. A row has no p where the batch is one
        person, and no n where its person has no other image: nothing is wrong by what is missing.

    Source: LSTKC, rectification of short-term knowledge. Its authors' code lets gradients through
    the target: then, where both models are still one as a domain begins, max and min are ties that
    rounding decides, and the gradient with them. Here everything happens in logarithms, so that no
    temperature makes an entry vanish.
    """
    log_new = (cosine_matrix(new, new) / temperature).log_softmax(1)
    log_old = (cosine_matrix(old.detach(), old.detach()) / temperature).log_softmax(1)
    source = log_new if gradient_to_target else log_new.detach()
    target = _rectified(source, log_old, person_ids).log_softmax(1)
    divergence = functional.kl_div(log_new, target, reduction="none", log_target=True)
    return divergence.sum(1).mean().clamp(min=0)


def _rectified(new: Tensor, old: Tensor, person_ids: Tensor) -> Tensor:
    """Log affinities [B, B] of both models -> the target's logarithm, rows not yet normalised."""
    same = person_ids[:, None] == person_ids[None, :]
    new_right, new_stranger, new_own = _judge(new, same)
    old_right, old_stranger, old_own = _judge(old, same)
    stranger, own = torch.maximum(new_stranger, old_stranger), torch.minimum(new_own, old_own)
    both_wrong = torch.where(same, stranger, own)
    return torch.where(old_right, old, torch.where(new_right, new, both_wrong))


def _judge(affinity: Tensor, same: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which entries [B, B] are right, and each row's p and n [B, 1], infinite if it has none."""
    itself = torch.eye(len(same), dtype=torch.bool, device=same.device)
    stranger = affinity.masked_fill(same, -torch.inf).amax(1, keepdim=True)
    own = affinity.masked_fill(~same | itself, torch.inf).amin(1, keepdim=True)
    right = torch.where(same, (affinity > stranger) | itself, affinity <= own)
    return right, stranger, own
