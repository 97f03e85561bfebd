"""MTAD: loss terms of VLADR's two prompt stages; both encoders are frozen."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from models.backbones.tower import TextTower
from models.losses.contrastive import (
    same_identity,
    same_identity_or_caption,
    symmetric_contrastive,
    symmetric_contrastive_parts,
)
from models.losses.disentangle import orthogonality
from models.losses.identity import cross_entropy
from models.losses.metric import batch_hard_triplet
from models.vladr.config import LossesConfig
from models.vladr.prompts import TextualAttributes
from tasks.schema import Batch

Gather = Callable[[Tensor], Tensor]


def identity_prompt_terms(
    batch: Batch,
    textual: TextualAttributes,
    text: TextTower,
    losses: LossesConfig,
    gather: Gather,
) -> dict[str, Tensor]:
    """Compute `match_global`: supervised contrastive loss of images and identity prompts.

    Args:
        batch: this worker's part of the batch.
        textual: prompts and cached image features.
        text: the frozen text tower.
        losses: settings of the terms.
        gather: `collective.gather` of the learner.

    Source: VLADR, stage 1; CLIP-ReID, first stage.
    """
    match = losses.match_global
    image = gather(textual.image_features[batch.indices])
    prompts = textual.encode_identities(batch.person_ids, text, match.similarity == "cosine")
    positives = same_identity(gather(batch.person_ids))
    value = symmetric_contrastive(
        image, gather(prompts), positives, match.temperature, match.similarity
    )
    return {"match_global": value}


def attribute_prompt_terms(
    batch: Batch,
    textual: TextualAttributes,
    text: TextTower,
    losses: LossesConfig,
    gather: Gather,
) -> dict[str, Tensor]:
    """Compute `match_local`, `orthogonality` and `text_identity` of the attribute prompts.

    Arguments as for `identity_prompt_terms`.

    Source: VLADR, stage 1.
    """
    image = gather(textual.image_features[batch.indices])
    texts = gather(textual.encode_attributes(batch.indices, text))
    entry_ids = gather(textual.entry_ids[batch.indices])
    person_ids = gather(batch.person_ids)
    terms: dict[str, Tensor] = {}
    if losses.match_local.weight:
        terms["match_local"] = symmetric_contrastive_parts(
            image[:, None].expand_as(texts),
            texts,
            same_identity_or_caption(person_ids, entry_ids),
            losses.match_local.temperature,
        ).mean()
    if losses.orthogonality.weight:
        terms["orthogonality"] = orthogonality(texts)
    if losses.text_identity.weight:
        pooled = functional.normalize(texts.mean(1), dim=1)
        logits = losses.text_identity.logit_scale * textual.pool_head(pooled)
        triplet = batch_hard_triplet(pooled, person_ids, losses.text_identity.margin)
        terms["text_identity"] = cross_entropy(logits, person_ids) + triplet
    return terms
