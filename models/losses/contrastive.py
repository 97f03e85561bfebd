"""Contrastive losses between two sets of embeddings with any number of positives per anchor.

Similarities are cosines (embeddings are normalised here) unless stated otherwise. `positives` are
boolean matrices from `same_identity`, `same_caption` or `same_identity_or_caption`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from models.losses.similarity import cosine_matrix, dot_matrix, masked_mean

Similarity = Literal["cosine", "dot"]
"""Cosine of two embeddings, or their inner product without normalisation."""


def same_identity(person_ids: Tensor) -> Tensor:
    """Return a [B, B] bool mask of pairs with equal person id [B], including the diagonal."""
    return person_ids[:, None] == person_ids[None, :]


def same_caption(caption_ids: Tensor) -> Tensor:
    """Return a bool mask of pairs with equal captions: [B] -> [B, B] or [B, K] -> [B, B, K].

    Captions are compared part by part; the diagonal is always True.
    """
    return caption_ids[:, None] == caption_ids[None, :]


def same_identity_or_caption(person_ids: Tensor, caption_ids: Tensor) -> Tensor:
    """Return a bool mask [B, B] or [B, B, K] of pairs with equal person or equal caption."""
    captions = same_caption(caption_ids)
    identities = same_identity(person_ids)
    return captions | (identities if captions.ndim == 2 else identities[..., None])


def symmetric_contrastive(
    image: Tensor,
    text: Tensor,
    positives: Tensor,
    temperature: float,
    similarity: Similarity = "cosine",
) -> Tensor:
    """Compute the supervised contrastive loss, averaged over both directions.

    From image to text it is the mean over images of -mean_{p in positives} log
    softmax_m(sim(image, text_m) / tau)_p; from text to image likewise.

    Args:
        image: [B, D].
        text: [B, D].
        positives: [B, B] bool, rows are images, columns texts; the identity matrix is InfoNCE.
        temperature: tau > 0.
        similarity: similarity that is divided by tau.

    Returns:
        Scalar. Anchors without positives are excluded; 0 with a zero gradient for B = 1 or if no
        anchor has positives.

    Source: Khosla et al. 2020 with the mean outside the logarithm; CLIP for the diagonal;
    positives off the diagonal as in VLADR's local matching. CLIP-ReID's first stage and the VLADR
    authors' code are twice this value with "dot" and tau = 1.
    """
    compare = cosine_matrix if similarity == "cosine" else dot_matrix
    return _both_directions(compare(image, text) / temperature, positives)


def symmetric_contrastive_parts(
    image: Tensor, text: Tensor, positives: Tensor, temperature: float
) -> Tensor:
    """Compute `symmetric_contrastive` for each of K parts.

    Args:
        image: [B, K, D].
        text: [B, K, D].
        positives: [B, B] for all parts, or [B, B, K].
        temperature: tau > 0.

    Returns:
        [K], one loss per part.
    """
    return _both_directions(_part_cosines(image, text) / temperature, _parts_first(positives))


def image_text_cross_entropy(
    image: Tensor, text: Tensor, targets: Tensor, temperature: float
) -> Tensor:
    """Compute the mean over images of -log softmax_c(cos(image, text_c) / tau) at the own text.

    Args:
        image: [B, D], B >= 1.
        text: [C, D], one row per candidate identity: the identities of the batch
            (`batch_candidates`) or of the domain.
        targets: [B] long, row of `text` for each image.
        temperature: tau > 0.

    Returns:
        Scalar; 0 for one candidate (C = 1).

    Source: VLADR, L_global; CLIP-ReID, image-to-text loss. The VLADR authors' code uses the
    identities of the batch and tau = 1.
    """
    return functional.cross_entropy(cosine_matrix(image, text) / temperature, targets)


def batch_candidates(person_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct identities of a batch and the index of each image's identity.

    Args:
        person_ids: [B] long.

    Returns:
        Identities [C] in ascending order and targets [B] with identities[targets] == person_ids.
    """
    identities, targets = torch.unique(person_ids, return_inverse=True)
    return identities, targets


def _positive_log_loss(logits: Tensor, positives: Tensor) -> Tensor:
    """Average -log softmax over positives, then over anchors: [..., B, M] -> [...]."""
    log_probabilities = functional.log_softmax(logits, dim=-1)
    num_positives = positives.sum(-1)
    losses = -(log_probabilities * positives).sum(-1) / num_positives.clamp(min=1)
    return masked_mean(losses, num_positives > 0)


def _both_directions(logits: Tensor, positives: Tensor) -> Tensor:
    to_text = _positive_log_loss(logits, positives)
    to_image = _positive_log_loss(logits.transpose(-1, -2), positives.transpose(-1, -2))
    return (to_text + to_image) / 2


def _part_cosines(rows: Tensor, columns: Tensor) -> Tensor:
    """Compute cosines per part: [B, K, D] and [M, K, D] -> [K, B, M]."""
    return cosine_matrix(rows.transpose(0, 1), columns.transpose(0, 1))


def _parts_first(positives: Tensor) -> Tensor:
    """Move the part dimension to the front: [B, M] -> [1, B, M], [B, M, K] -> [K, B, M]."""
    return positives[None] if positives.ndim == 2 else positives.permute(2, 0, 1)
