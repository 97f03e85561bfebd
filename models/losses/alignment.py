"""Alignment of visual attributes with text (CMA) and with an old model (IDA).

v_k is the visual feature of attribute k, v is [B, K, D]. All losses are means over the batch; over
the K attributes they are summed or averaged (`reduction`). Similarities are cosines. Targets other
than texts receive no gradient.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from models.losses.contrastive import same_caption, symmetric_contrastive_parts
from models.losses.similarity import at_least_float32, cosine_matrix

Distance = Literal["contrastive", "cosine"]
Reduction = Literal["sum", "mean"]


def attribute_alignment(
    v: Tensor,
    t: Tensor,
    caption_ids: Tensor | None,
    distance: Distance,
    temperature: float,
    reduction: Reduction,
) -> Tensor:
    """Compute cross-modal attribute alignment, reduce_k dist(v_k, t_k).

    "contrastive" is the symmetric InfoNCE over the batch for each part; "cosine" is
    mean_b(1 - cos(v_k, t_k)).

    Args:
        v: [B, K, D] visual attributes.
        t: [B, K, D] textual attributes of the same images.
        caption_ids: [B, K] (or [B], one caption for all parts) long: equal ids mean equal texts,
            which are positives; None for positives on the diagonal only. Used by "contrastive".
        distance: distance of feature and target.
        temperature: tau > 0 of "contrastive".
        reduction: reduction over the K parts.

    Returns:
        Scalar; "contrastive" is 0 for B = 1.

    Source: VLADR, L_CMA. The authors' code is "contrastive" with caption_ids None, tau 1, "mean".
    """
    if distance == "cosine":
        per_part = 1 - _paired_cosine(v, t).mean(0)
        return _reduce(per_part, reduction)
    if caption_ids is None:
        positives = torch.eye(len(v), dtype=torch.bool, device=v.device)
    else:
        positives = same_caption(caption_ids)
    return _reduce(symmetric_contrastive_parts(v, t, positives, temperature), reduction)


def prototype_pull(
    v: Tensor, prototypes: Tensor, distance: Distance, temperature: float, reduction: Reduction
) -> Tensor:
    """Pull every attribute to its prototypes of the old domains.

    reduce_k mean_d dist(v_k, p[d, k]). "cosine" is 1 - cos. "contrastive" is the cross-entropy of
    the softmax over the K prototypes of domain d: the other attributes are negatives.

    Args:
        v: [B, K, D].
        prototypes: [T, K, D] of the T old domains.
        distance: distance of feature and target.
        temperature: tau > 0 of "contrastive".
        reduction: reduction over the K attributes.

    Returns:
        Scalar; 0 with a zero gradient for T = 0, and for "contrastive" with K = 1 (no negatives).

    Source: VLADR, L_IDA as printed. A constant offset of v_k satisfies it; the relation losses
    below constrain how images differ.
    """
    cosines = cosine_matrix(v[:, None], prototypes.detach())  # [B, T, K, K]
    if distance == "contrastive":
        losses = -functional.log_softmax(cosines / temperature, dim=-1)
    else:
        losses = 1 - cosines
    distances = losses.diagonal(dim1=-2, dim2=-1)  # [B, T, K]
    per_attribute = distances.sum((0, 1)) / max(len(v) * len(prototypes), 1)
    return _reduce(per_attribute, reduction)


def prototype_relation(
    v_new: Tensor, v_old: Tensor, prototypes: Tensor, temperature: float, reduction: Reduction
) -> Tensor:
    """Preserve the relations of every attribute to the stored prototypes.

    reduce_k mean_b KL(softmax_a(cos(v_old_k, p_a) / tau) || softmax_a(cos(v_new_k, p_a) / tau)).
    The anchors p_a are the prototypes of **all** attributes of all old domains. With the prototypes
    of attribute k only, one old domain would give a softmax over one anchor, which is constant.

    Args:
        v_new: [B, K, D] from the model in training.
        v_old: [B, K, D] from the frozen old model on the same views.
        prototypes: [T, K, D]; several centroids per attribute increase T.
        temperature: tau > 0.
        reduction: reduction over the K attributes.

    Returns:
        Scalar >= 0; 0 with a zero gradient for T = 0, and for a single anchor (T = K = 1).
    """
    anchors = prototypes.detach().flatten(0, 1)
    new = cosine_matrix(v_new, anchors) / temperature  # [B, K, T * K]
    old = cosine_matrix(v_old.detach(), anchors) / temperature
    return _reduce(_divergence(new, old).mean(0), reduction)


def per_attribute_prototype_relation(
    v_new: Tensor, v_old: Tensor, prototypes: Tensor, temperature: float, reduction: Reduction
) -> Tensor:
    """Compute `prototype_relation` with separate anchors for each attribute.

    Attribute k is compared only with the k-th prototypes, of old identities or centroids.

    Args:
        v_new: [B, K, D] from the model in training.
        v_old: [B, K, D] from the frozen old model on the same views.
        prototypes: [N_old, K, D].
        temperature: tau > 0.
        reduction: reduction over the K attributes.

    Returns:
        Scalar >= 0; 0 with a zero gradient for N_old < 2.
    """
    anchors = prototypes.detach().transpose(0, 1)
    new = cosine_matrix(v_new.transpose(0, 1), anchors) / temperature  # [K, B, N_old]
    old = cosine_matrix(v_old.detach().transpose(0, 1), anchors) / temperature
    return _reduce(_divergence(new, old).mean(1), reduction)


def affinity(
    v_new: Tensor,
    v_old: Tensor,
    temperature: float,
    reduction: Reduction,
    keep_diagonal: bool = True,
    probability_floor: float = 0.0,
) -> Tensor:
    """Preserve the relations between the images of a batch for each attribute.

    reduce_k mean_b KL(softmax_b'(cos(v_old_b, v_old_b') / tau) || the same of v_new).

    Args:
        v_new: [B, K, D] of the global batch from the model in training.
        v_old: [B, K, D] from the frozen old model on the same views.
        temperature: tau > 0; at low tau the diagonal dominates every row.
        reduction: reduction over the K attributes.
        keep_diagonal: whether a row includes the image's similarity with itself.
        probability_floor: lower bound of new probabilities, without gradient below it.

    Returns:
        Scalar >= 0 (clamped, because a floor could make it slightly negative); 0 with a zero
        gradient for B = 1, and for B = 2 without the diagonal.

    Source: the VLADR authors' code: tau 0.005, "sum", diagonal kept, floor 1e-8. LSTKC and DASK
    apply it to global features with tau 0.1.
    """
    new = _batch_cosines(v_new) / temperature
    old = _batch_cosines(v_old.detach()) / temperature
    if not keep_diagonal:
        new, old = _without_diagonal(new), _without_diagonal(old)
    divergence = _divergence(new, old, probability_floor)
    return _reduce(divergence.mean(1), reduction).clamp(min=0)


def _paired_cosine(first: Tensor, second: Tensor) -> Tensor:
    first, second = at_least_float32(first), at_least_float32(second)
    return functional.cosine_similarity(first, second, dim=-1)


def _batch_cosines(v: Tensor) -> Tensor:
    """Compute cosines within the batch per part: [B, K, D] -> [K, B, B]."""
    per_part = v.transpose(0, 1)
    return cosine_matrix(per_part, per_part)


def _without_diagonal(square: Tensor) -> Tensor:
    """Remove the diagonal, [..., B, B] -> [..., B, B - 1], keeping the order."""
    size = square.shape[-1]
    shifted = square.flatten(-2)[..., 1:].unflatten(-1, (size - 1, size + 1))[..., :-1]
    return shifted.reshape(*square.shape[:-1], size - 1)


def _divergence(new: Tensor, old: Tensor, probability_floor: float = 0.0) -> Tensor:
    """Compute KL(softmax(old) || softmax(new)) over the last dimension of two logit tensors."""
    log_new = functional.log_softmax(new, dim=-1)
    if probability_floor > 0:
        log_new = log_new.clamp(min=math.log(probability_floor))
    log_old = functional.log_softmax(old, dim=-1)
    return functional.kl_div(log_new, log_old, reduction="none", log_target=True).sum(-1)


def _reduce(per_attribute: Tensor, reduction: Reduction) -> Tensor:
    return per_attribute.sum() if reduction == "sum" else per_attribute.mean()
