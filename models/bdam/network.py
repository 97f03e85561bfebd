"""BDAM's network, and the loss terms of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from models.backbones.tower import PatchTower, TextTower
from models.bdam.config import Config, ContrastTermConfig, LossesConfig, Positives
from models.bdam.texts import Said
from models.components.reid_network import EmbeddingNetwork
from models.heads.bdam import Bdam, Decoupled
from models.heads.fusion import Fusion, Modality
from models.heads.seeded_init import drawn_from
from models.losses.contrastive import (
    same_identity,
    same_identity_or_caption,
    symmetric_contrastive,
)
from models.losses.decoupling import adversarial_matching, cka, gate_balance, hsic
from models.losses.metric import batch_hard_triplet

Gather = Callable[[Tensor], Tensor]


class DecouplingNetwork(EmbeddingNetwork):
    """Image tower, decoupling module, projections into the joint space, fusion: what is kept.

    Only what some loss of the configuration trains is built: `to_text` (v = to_text(f_id_gate)) for
    `info`, `to_adversary` (of f_clo) for `adversarial`, `to_clothing` (of f_clo_gate) for
    `clothing`, `fusion` for `fused`.

    Args:
        image: the image tower.
        text: the text tower if it trains, which is then part of what is interpolated; else None.
        embed_dim: D, the size of the joint embedding.
        config: the learner's settings.
        generator: CPU generator of the initial values.
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

        def projection(weight: float) -> nn.Linear | None:
            with drawn_from(generator):
                return nn.Linear(dim, embed_dim) if weight else None

        self.image = image
        self.text = text
        self.head = Bdam(config.decoupling, image.embed_dim, generator)
        self.to_text = projection(losses.info.weight)
        self.to_adversary = projection(losses.adversarial.weight)
        self.to_clothing = projection(losses.clothing.weight)
        self.fusion = None
        if losses.fused.weight:
            self.fusion = Fusion(config.fusion, dim, embed_dim, embed_dim, generator)
        self.fuses = config.fuses
        alone = self.to_text is not None or (self.fusion is not None and not self.fuses)
        self.dim_alone = embed_dim if alone else dim

    def read(self, images: Tensor) -> Decoupled:
        """Normalised images [B, 3, H, W] -> their identity and clothing features."""
        return self.head(self.image(images).patches)

    def embed(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] -> L2-normalised embeddings of them alone."""
        return self.alone(self.read(images))

    def alone(self, features: Decoupled) -> Tensor:
        """L2-normalised embeddings [B, E] of images without their descriptions.

        The fused one where the fusion is of the image alone; else v; else, where nothing trains v,
        the gated identity feature.
        """
        if self.fusion is not None and not self.fuses:
            rows = self.fuse(features, None)
        elif self.to_text is not None:
            rows = self.to_text(features.gated_identity)
        else:
            rows = features.gated_identity
        return functional.normalize(rows, dim=1)

    def fuse(self, features: Decoupled, said: Modality | None) -> Tensor:
        """Images and their identity descriptions -> fused embeddings [B, D], not normalised."""
        assert self.fusion is not None
        image = Modality(features.gated_identity, features.identity_tokens)
        return self.fusion(image, said if self.fuses else None).embedding

    def parts(self, features: Decoupled) -> Tensor:
        """[B, 2, dim] L2-normalised gated identity and clothing features."""
        both = torch.stack([features.gated_identity, features.gated_clothing], dim=1)
        return functional.normalize(both, dim=2)


class Seen(NamedTuple):
    """What the terms read of the global batch; None where no term does.

    Attributes:
        person_ids: [B].
        entries: [B, 3] numbers of caption, identity and clothing description.
        sentences: [B, 3, D] of these.
        identity: f_id_gate [B, dim].
        clothing: f_clo_gate [B, dim].
        gate: g [B, dim].
        v: [B, D], projected f_id_gate.
        adversary: [B, D], projected f_clo.
        matched: [B, D], projected f_clo_gate.
        fused: [B, D].
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


def see(
    network: DecouplingNetwork,
    features: Decoupled,
    said: Said,
    person_ids: Tensor,
    gather: Gather,
) -> Seen:
    """What all workers see of a batch; `features` and `said` are this worker's."""
    fused = None
    if network.fusion is not None:
        description = Modality(said.sentences[:, 1], said.tokens, said.kept)
        fused = gather(network.fuse(features, description))

    def projected(projection: nn.Module | None, rows: Tensor) -> Tensor | None:
        return None if projection is None else gather(projection(rows))

    return Seen(
        gather(person_ids),
        gather(said.entries),
        gather(said.sentences),
        gather(features.gated_identity),
        gather(features.gated_clothing),
        None if features.gate is None else gather(features.gate),
        projected(network.to_text, features.gated_identity),
        projected(network.to_adversary, features.clothing),
        projected(network.to_clothing, features.gated_clothing),
        fused,
    )


def decoupling_terms(seen: Seen, losses: LossesConfig) -> dict[str, Tensor]:
    """The terms of one domain that have a weight, of the global batch."""

    def contrast(rows: Tensor | None, kind: int, settings: ContrastTermConfig) -> Tensor:
        assert rows is not None
        own = own_texts(settings.positives, seen.person_ids, seen.entries[:, kind])
        return symmetric_contrastive(rows, seen.sentences[:, kind], own, settings.temperature)

    terms: dict[str, Tensor] = {}
    if losses.info.weight:
        kinds = [("caption", "identity").index(text) for text in losses.info.texts]
        each = [contrast(seen.v, kind, losses.info) for kind in kinds]
        terms["info"] = torch.stack(each).mean()
    if losses.fused.weight:
        terms["fused"] = contrast(seen.fused, 0, losses.fused)
    if losses.triplet.weight:
        settings, rows = losses.triplet, seen.identity
        rows = functional.normalize(rows, dim=1) if settings.normalise else rows
        terms["triplet"] = batch_hard_triplet(
            rows, seen.person_ids, settings.margin, settings.squared
        )
    if losses.adversarial.weight:
        assert seen.adversary is not None
        settings = losses.adversarial
        terms["adversarial"] = adversarial_matching(
            seen.adversary,
            seen.sentences[:, 2],
            own_texts(settings.positives, seen.person_ids, seen.entries[:, 2]),
            settings.temperature,
            settings.floor,
        )
    if losses.clothing.weight:
        terms["clothing"] = contrast(seen.matched, 2, losses.clothing)
    if losses.decouple.weight:
        settings = losses.decouple
        dependence = hsic if settings.measure == "hsic" else cka
        terms["decouple"] = dependence(
            seen.identity, seen.clothing, settings.kernel, settings.bandwidth
        )
    if losses.gate.weight:
        assert seen.gate is not None
        terms["gate"] = gate_balance(seen.gate)
    return terms


def own_texts(positives: Positives, person_ids: Tensor, entries: Tensor) -> Tensor:
    """[B, B] bool: which texts (columns) count as an image's own (rows).

    Args:
        positives: what counts.
        person_ids: [B].
        entries: [B], equal where texts are equal.
    """
    match positives:
        case "identity":
            return same_identity(person_ids)
        case "identity_or_text":
            return same_identity_or_caption(person_ids, entries)
        case "diagonal":
            return torch.eye(len(entries), dtype=torch.bool, device=entries.device)
