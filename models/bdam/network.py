"""Network and loss terms of BDAM."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from models.backbones.tower import PatchTower, TextTower
from models.bdam.config import Config, ContrastTermConfig, LossesConfig, Positives
from models.bdam.texts import BatchTexts
from models.components.reid_network import EmbeddingNetwork
from models.heads.bdam import Bdam, Decoupled
from models.heads.fusion import Fusion, Modality
from models.heads.seeded_init import seeded_init
from models.losses.contrastive import (
    same_identity,
    same_identity_or_caption,
    symmetric_contrastive,
)
from models.losses.decoupling import adversarial_matching, cka, gate_balance, hsic
from models.losses.metric import batch_hard_triplet

Gather = Callable[[Tensor], Tensor]


class DecouplingNetwork(EmbeddingNetwork):
    """Image tower, decoupling module, projections into the joint space, and fusion.

    Only modules with a loss in the configuration are built: `to_text` (v = to_text(f_id_gate)) for
    `info`, `to_clothing` (of f_clo_gate) for `clothing`, `to_adversary` (of f_clo) for
    `adversarial` with `projection: own`, `fusion` for `fused`.

    Args:
        image: the image tower.
        text: the text tower if it is trained (it is then interpolated too), else None.
        embed_dim: size D of the joint embedding.
        config: configuration of the learner.
        generator: CPU generator for the initial values.
    """

    def __init__(
        self,
        image: PatchTower,
        text: TextTower | None,
        embed_dim: int,
        config: Config,
        generator: Generator,
    ) -> None:
        super().__init__()
        losses, dim = config.losses, config.decoupling.dim

        def projection(is_used: bool) -> nn.Linear | None:
            with seeded_init(generator):
                return nn.Linear(dim, embed_dim) if is_used else None

        self.image = image
        self.text = text
        self.head = Bdam(config.decoupling, image.embed_dim, generator)
        adversarial = losses.adversarial
        self.has_adversary = adversarial.weight > 0
        self.to_text = projection(losses.info.weight > 0)
        self.to_adversary = projection(self.has_adversary and adversarial.projection == "own")
        self.to_clothing = projection(losses.clothing.weight > 0)
        self.fusion = None
        if losses.fused.weight:
            self.fusion = Fusion(config.fusion, dim, embed_dim, embed_dim, generator)
        self.fuses = config.fuses
        self.embeds_clothing = config.embeds_clothing
        self.embedding_dim = dim if self.fuses and self.to_text is None else embed_dim

    def decouple(self, images: Tensor) -> Decoupled:
        """Compute identity and clothing features of normalised images [B, 3, H, W]."""
        return self.head(self.image(images).patches)

    def embed(self, images: Tensor) -> Tensor:
        """Embed normalised images [B, 3, H, W] without descriptions, L2-normalised [B, E]."""
        return self.embed_features(self.decouple(images))

    def embed_features(self, features: Decoupled) -> Tensor:
        """Compute L2-normalised embeddings [B, E] of images without descriptions.

        The output of an image-only fusion if there is one; else v; else, without any term that
        reads captions, the projected clothing feature; else the gated identity feature.
        """
        if self.fusion is not None and not self.fuses:
            rows = self.fuse(features, None)
        elif self.to_text is not None:
            rows = self.to_text(features.gated_identity)
        elif self.embeds_clothing:
            assert self.to_clothing is not None
            rows = self.to_clothing(features.gated_clothing)
        else:
            rows = features.gated_identity
        return functional.normalize(rows, dim=1)

    def fuse(self, features: Decoupled, description: Modality | None) -> Tensor:
        """Fuse images with their identity descriptions into embeddings [B, D], not normalised."""
        assert self.fusion is not None
        image = Modality(features.gated_identity, features.identity_tokens)
        return self.fusion(image, description if self.fuses else None).embedding

    def adversary(self, features: Decoupled) -> Tensor | None:
        """Project f_clo into the text space for the adversarial term, [B, D]; None without it.

        The projection of the clothing term, if shared, receives no gradient.
        """
        if not self.has_adversary:
            return None
        if self.to_adversary is not None:
            return self.to_adversary(features.clothing)
        assert self.to_clothing is not None
        weight, bias = self.to_clothing.weight.detach(), self.to_clothing.bias.detach()
        return functional.linear(features.clothing, weight, bias)

    def parts(self, features: Decoupled) -> Tensor:
        """Stack the L2-normalised gated identity and clothing features as [B, 2, dim]."""
        both = torch.stack([features.gated_identity, features.gated_clothing], dim=1)
        return functional.normalize(both, dim=2)


class LossInputs(NamedTuple):
    """Inputs of the loss terms for the global batch; None where no term needs them.

    Attributes:
        person_ids: [B].
        entries: [B, 3] text indices of caption, identity and clothing description.
        sentences: [B, 3, D] features of these texts.
        identity: f_id_gate [B, dim].
        clothing: f_clo_gate [B, dim].
        gate: g [B, dim].
        v: [B, D], projected f_id_gate.
        adversary: [B, D], projected f_clo.
        matched: [B, D], projected f_clo_gate.
        fused: [B, D], fused embedding.
    """

    person_ids: Tensor
    entries: Tensor
    sentences: Tensor
    identity: Tensor
    clothing: Tensor
    gate: Tensor | None
    v: Tensor | None
    adversary: Tensor | None
    matched: Tensor | None
    fused: Tensor | None


def gather_loss_inputs(
    network: DecouplingNetwork,
    features: Decoupled,
    texts: BatchTexts,
    person_ids: Tensor,
    gather: Gather,
) -> LossInputs:
    """Project and fuse this worker's features and gather them over all workers."""
    fused = None
    if network.fusion is not None:
        description = Modality(texts.sentences[:, 1], texts.tokens, texts.mask)
        fused = gather(network.fuse(features, description))
    adversary = network.adversary(features)

    def projected(projection: nn.Module | None, rows: Tensor) -> Tensor | None:
        return None if projection is None else gather(projection(rows))

    return LossInputs(
        gather(person_ids),
        gather(texts.entries),
        gather(texts.sentences),
        gather(features.gated_identity),
        gather(features.gated_clothing),
        None if features.gate is None else gather(features.gate),
        projected(network.to_text, features.gated_identity),
        None if adversary is None else gather(adversary),
        projected(network.to_clothing, features.gated_clothing),
        fused,
    )


def decoupling_terms(inputs: LossInputs, losses: LossesConfig) -> dict[str, Tensor]:
    """Compute all terms with a weight > 0 on the global batch."""

    def contrast(rows: Tensor | None, kind: int, settings: ContrastTermConfig) -> Tensor:
        assert rows is not None
        positives = positive_mask(settings.positives, inputs.person_ids, inputs.entries[:, kind])
        return symmetric_contrastive(
            rows, inputs.sentences[:, kind], positives, settings.temperature
        )

    terms: dict[str, Tensor] = {}
    if losses.info.weight:
        kinds = [("caption", "identity").index(text) for text in losses.info.texts]
        each = [contrast(inputs.v, kind, losses.info) for kind in kinds]
        terms["info"] = torch.stack(each).mean()
    if losses.fused.weight:
        terms["fused"] = contrast(inputs.fused, 0, losses.fused)
    if losses.triplet.weight:
        settings, rows = losses.triplet, inputs.identity
        rows = functional.normalize(rows, dim=1) if settings.normalise else rows
        terms["triplet"] = batch_hard_triplet(
            rows, inputs.person_ids, settings.margin, settings.squared
        )
    if losses.adversarial.weight:
        assert inputs.adversary is not None
        settings, sentences = losses.adversarial, inputs.sentences[:, 2]
        terms["adversarial"] = adversarial_matching(
            inputs.adversary,
            sentences.detach() if settings.projection == "shared" else sentences,
            positive_mask(settings.positives, inputs.person_ids, inputs.entries[:, 2]),
            settings.temperature,
            settings.floor,
        )
    if losses.clothing.weight:
        terms["clothing"] = contrast(inputs.matched, 2, losses.clothing)
    if losses.decouple.weight:
        settings = losses.decouple
        dependence = hsic if settings.measure == "hsic" else cka
        terms["decouple"] = dependence(
            inputs.identity,
            inputs.clothing,
            settings.kernel,
            settings.bandwidth,
            settings.normalise,
        )
    if losses.gate.weight:
        assert inputs.gate is not None
        terms["gate"] = gate_balance(inputs.gate)
    return terms


def positive_mask(positives: Positives, person_ids: Tensor, entries: Tensor) -> Tensor:
    """Compute a [B, B] bool mask of the texts (columns) that are positives of images (rows).

    Args:
        positives: definition of a positive.
        person_ids: [B].
        entries: [B] text indices, equal for equal texts.
    """
    match positives:
        case "identity":
            return same_identity(person_ids)
        case "identity_or_text":
            return same_identity_or_caption(person_ids, entries)
        case "diagonal":
            return torch.eye(len(entries), dtype=torch.bool, device=entries.device)
