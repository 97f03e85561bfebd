"""VLADR: lifelong person re-identification with disentangled textual attributes (CVPR 2026).

Two stages a domain. MTAD learns prompts with both encoders frozen: free tokens per identity, and
free tokens per attribute that all identities and domains share. ICAR trains the image tower
against the cached text features: cross-modal attribute alignment (CMA) pulls each decoded visual
attribute to its description, cross-domain alignment (IDA) holds on to what earlier domains taught.
docs/vladr.md lists where this differs from the paper and from its authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from models.backbones.clip import ClipBackbone, ImageEncoder
from models.cross_domain import cross_domain_terms, needs_old_model
from models.heads.attribute_decoder import AttributeDecoder
from models.learner import Collective, Learner, LearnerConfig, Probe, Stage, StepResult
from models.losses.alignment import attribute_alignment
from models.losses.contrastive import (
    batch_candidates,
    image_text_cross_entropy,
    same_identity,
    same_identity_or_caption,
    symmetric_contrastive,
    symmetric_contrastive_parts,
)
from models.losses.disentangle import orthogonality
from models.losses.identity import cross_entropy
from models.losses.metric import batch_hard_triplet
from models.prototypes import PrototypeMemory
from models.reid import (
    Frozen,
    ReidNetwork,
    blend,
    mean_terms,
    trainable_patterns,
    weights_of,
)
from models.textual import TextualAttributes, check_descriptions
from models.vladr_settings import Config
from tasks.schema import Batch, Domain

IDENTITY_STAGE, ATTRIBUTE_STAGE, IMAGE_STAGE = "mtad-identity", "mtad-attribute", "icar"


class AttributeNetwork(ReidNetwork):
    """The network with its attribute decoder: what is frozen as the old model."""

    def __init__(self, image: ImageEncoder, config: Config, generator: torch.Generator) -> None:
        super().__init__(image, config.neck_bias)
        size, num_heads = image.embed_dim, config.num_decoder_heads
        self.decoder = AttributeDecoder(config.num_attributes, size, size, num_heads, generator)


@final
class Method(Learner):
    """VLADR."""

    unsaved = ("text.", "pretrained.")
    reads_texts = True

    def __init__(self, config: Config, backbone: ClipBackbone, collective: Collective) -> None:
        super().__init__(collective)
        self.config = config
        generator = torch.Generator().manual_seed(torch.initial_seed())
        self.text = backbone.text
        holds = config.prompt_features == "pretrained"
        self.pretrained = Frozen(backbone.image) if holds else None
        self.network = AttributeNetwork(backbone.image, config, generator)
        self.textual = TextualAttributes(
            config.num_attributes,
            config.num_identity_tokens,
            config.num_attribute_tokens,
            self.text,
            generator,
            config.control,
        )
        self.memory = PrototypeMemory(config.num_compared, backbone.image.embed_dim)
        self.old: Frozen | None = None
        self._offset = 0

    @staticmethod
    def check_domain(config: LearnerConfig, domain: Domain) -> None:
        """Refuses a domain without the descriptions the configuration needs."""
        assert isinstance(config, Config)
        check_descriptions(domain, config.num_attributes, config.descriptions)

    # The domain's course ----------------------------------------------------------------------

    def begin_domain(self, domain: Domain, probe: Probe) -> None:
        """Freezes the old model, grows the classifiers, makes prompts for the new people."""
        learned = self.network.num_identities > 0
        if learned and (self._needs_old() or self.config.interpolation.mode != "none"):
            self.old = Frozen(self.network)
        features = probe(self._first_features)
        projected = features["f"]
        person_ids = torch.tensor(
            [record.person_id for record in domain.train], device=projected.device
        )
        self._offset = self.network.num_identities
        self.network.grow(features, person_ids)
        generator = torch.Generator().manual_seed(torch.initial_seed())
        self.textual.begin_domain(domain, self.config.descriptions, projected, self.text, generator)
        self._freeze_untrained_prompts()
        self.memory.begin_domain(self.memory.num_domains)

    def stages(self) -> Sequence[Stage]:
        """The prompts that are read and trained, then the image tower."""
        config, found = self.config, list[Stage]()
        if config.trains_identity_prompts:
            stage = config.mtad_identity
            trainable = ("textual.identities.*",)
            found.append(Stage(IDENTITY_STAGE, stage.epochs, (), trainable, stage.optimizer))
        if config.trains_attribute_prompts:
            stage = config.mtad_attribute
            trainable = ("textual.attributes.*",)
            if config.losses.text_identity.weight:
                trainable += ("textual.pool_head.*",)
            found.append(Stage(ATTRIBUTE_STAGE, stage.epochs, (), trainable, stage.optimizer))
        stage = config.icar
        identity = config.losses.identity
        trainable = trainable_patterns(identity, identity.classifiers)
        # In the first domain there is nothing to align to, and cma alone reads the decoder.
        if config.losses.cma.weight or (config.reads_attributes and self.memory.num_domains):
            trainable += ("network.decoder.*",)
        views = ("weak", "strong")
        found.append(Stage(IMAGE_STAGE, stage.epochs, views, trainable, stage.optimizer))
        return found

    def forward(self, batch: Batch, stage: str) -> StepResult:
        """One step of the stage, on the global batch."""
        match stage:
            case "mtad-identity":
                terms = self._identity_prompt_terms(batch)
            case "mtad-attribute":
                terms = self._attribute_prompt_terms(batch)
            case _:
                terms = self._image_terms(batch)
        return StepResult.of(terms, weights_of(terms, self.config.losses))

    def end_stage(self, stage: str, probe: Probe) -> None:
        """Encodes the frozen prompts once: from here on text features are looked up."""
        if stage == IDENTITY_STAGE:
            self.textual.freeze_identities(self.text)
        if stage == ATTRIBUTE_STAGE:
            self.textual.freeze_attributes(self.text)
        if stage == IMAGE_STAGE:
            self.textual.drop_image_features()

    def end_domain(self, probe: Probe) -> None:
        """Interpolates first, then refreshes the prototypes with the weights that stay."""
        if self.old is not None:
            blend(self.network, self._old_network(), self.config.interpolation, probe)
            self.old = None
        if not self._keeps_prototypes():
            return
        domain = int(self.memory.current_domain)
        wants_identities = "identity_prototype" in self.config.forms
        if self.config.prototypes == "refreshed" or wants_identities:
            features = probe(lambda images: {"v": self._compared(self.network, images)})["v"]
            if self.config.prototypes == "refreshed":
                self.memory.refresh(features)
            if wants_identities:
                self.memory.add_identities(domain, features, self.textual.person_ids)
        self.memory.freeze()

    def embed_images(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> L2-normalised concatenation of both necks' outputs [B, W + D]."""
        return self.network.embed(images)

    def _first_features(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] -> `f`, which prompts learn to match, and what new rows are centres of."""
        network, found = self.network, self.network.image.features(images)
        matched = network.metric_feature(found)
        if self.pretrained is not None:
            matched = self.pretrained.module(images).projected
        rows = found
        if self.config.new_rows == "necks":
            rows = {name: network.neck(name)(each) for name, each in found.items()}
        return {"f": matched, **rows}

    def _freeze_untrained_prompts(self) -> None:
        """Encodes at once the prompts that are read later and that no stage will train."""
        config = self.config
        if config.losses.image_text.weight and not config.trains_identity_prompts:
            self.textual.freeze_identities(self.text)
        if config.losses.cma.weight and not config.trains_attribute_prompts:
            self.textual.freeze_attributes(self.text)

    # Stage 1: prompts -------------------------------------------------------------------------

    def _identity_prompt_terms(self, batch: Batch) -> dict[str, Tensor]:
        gather, match = self.collective.gather, self.config.losses.match_global
        image = gather(self.textual.image_features[batch.indices])
        as_they_are = match.similarity == "dot"
        text = self.textual.encode_identities(batch.person_ids, self.text, not as_they_are)
        positives = same_identity(gather(batch.person_ids))
        value = symmetric_contrastive(
            image, gather(text), positives, match.temperature, match.similarity
        )
        return {"match_global": value}

    def _attribute_prompt_terms(self, batch: Batch) -> dict[str, Tensor]:
        losses, gather = self.config.losses, self.collective.gather
        image = gather(self.textual.image_features[batch.indices])
        text = gather(self.textual.encode_attributes(batch.indices, self.text))
        entry_ids = gather(self.textual.entry_ids[batch.indices])
        person_ids = gather(batch.person_ids)
        terms: dict[str, Tensor] = {}
        if losses.match_local.weight:
            terms["match_local"] = symmetric_contrastive_parts(
                image[:, None].expand_as(text),
                text,
                same_identity_or_caption(person_ids, entry_ids),
                losses.match_local.temperature,
            ).mean()
        if losses.orthogonality.weight:
            terms["orthogonality"] = orthogonality(text)
        if losses.text_identity.weight:
            pooled = functional.normalize(text.mean(1), dim=1)
            logits = losses.text_identity.logit_scale * self.textual.pool_head(pooled)
            triplet = batch_hard_triplet(pooled, person_ids, losses.text_identity.margin)
            terms["text_identity"] = cross_entropy(logits, person_ids) + triplet
        return terms

    # Stage 2: the image tower -----------------------------------------------------------------

    def _image_terms(self, batch: Batch) -> dict[str, Tensor]:
        losses, gather = self.config.losses, self.collective.gather
        features = self.network.image(torch.cat([batch.views["weak"], batch.views["strong"]]))
        class_token = self._gather_views(features.class_token)
        projected = self._gather_views(features.projected)
        person_ids, indices = gather(batch.person_ids), gather(batch.indices)
        targets = person_ids + self._offset
        terms = mean_terms(
            [
                self.network.identity_terms(
                    {"class_token": g, "projected": f},
                    targets,
                    losses.identity,
                    losses.triplet,
                    losses.identity.classifiers,
                )
                for g, f in zip(class_token, projected, strict=True)
            ]
        )
        num_views = 1 if self.config.views == "weak" else 2
        attributes = self._attributes(features.patches, num_views, len(batch.indices))
        olds = self._old_features(batch, num_views)
        aligned = [
            self._aligned_terms(projected[n], attributes[n], olds[n], person_ids, indices)
            for n in range(num_views)
        ]
        if self._keeps_prototypes():
            compared = self._comparable(projected[0], attributes[0])
            self.memory.update(compared.detach(), self.config.prototype_momentum)
        return terms | mean_terms(aligned)

    def _aligned_terms(
        self,
        projected: Tensor,
        attributes: Tensor | None,
        old: Tensor | None,
        person_ids: Tensor,
        indices: Tensor,
    ) -> dict[str, Tensor]:
        """L_global, L_CMA and L_IDA of one view: f [B, D], v [B, K, D], the old model's v."""
        losses, terms = self.config.losses, dict[str, Tensor]()
        if losses.image_text.weight:
            terms["image_text"] = self._image_text(projected, person_ids)
        if losses.cma.weight:
            assert attributes is not None
            on_caption = losses.cma.positives == "caption"
            terms["cma"] = attribute_alignment(
                attributes,
                self.textual.attribute_features(indices),
                self.textual.entry_ids[indices] if on_caption else None,
                losses.cma.distance,
                losses.cma.temperature,
                losses.cma.reduction,
            )
        if self.config.forms and self.memory.num_domains:
            terms |= cross_domain_terms(
                self.config.forms,
                losses.prototype,
                losses.prototype_relation,
                losses.identity_prototype,
                losses.affinity,
                self._comparable(projected, attributes),
                old,
                self.memory,
            )
        return terms

    def _image_text(self, projected: Tensor, person_ids: Tensor) -> Tensor:
        settings = self.config.losses.image_text
        if settings.candidates == "domain":
            text, targets = self.textual.identity_features, person_ids
        else:
            identities, targets = batch_candidates(person_ids)
            text = self.textual.identity_features[identities]
        return image_text_cross_entropy(projected, text, targets, settings.temperature)

    def _attributes(
        self, patches: Tensor, num_views: int, batch_size: int
    ) -> Sequence[Tensor | None]:
        """v_k of the global batch for each view that is aligned, if any term reads it."""
        if not self.config.reads_attributes:
            return [None] * num_views
        decoded = self.network.decoder(patches[: num_views * batch_size])
        return self._gather_views(decoded, num_views)

    def _old_features(self, batch: Batch, num_views: int) -> Sequence[Tensor | None]:
        """What L_IDA compares, by the frozen model of the previous domain, on the same views."""
        if self.old is None or not self._needs_old():
            return [None] * num_views
        views = [batch.views["weak"], batch.views["strong"]][:num_views]
        with torch.no_grad():
            features = self._compared(self._old_network(), torch.cat(views))
        return self._gather_views(features, num_views)

    def _compared(self, network: AttributeNetwork, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> what the memory holds, as `_comparable` makes it."""
        features = network.image(images)
        whole = self.config.granularity == "global"
        return self._comparable(
            features.projected, None if whole else network.decoder(features.patches)
        )

    def _comparable(self, projected: Tensor, attributes: Tensor | None) -> Tensor:
        """f [B, D], v [B, K, D] -> v [B, K, D], N(f) [B, 1, D], or one after the other."""
        if self.config.granularity == "attribute":
            assert attributes is not None
            return attributes
        whole = functional.normalize(projected, dim=1)[:, None]
        if self.config.granularity == "global":
            return whole
        assert attributes is not None
        return torch.cat([attributes, whole], dim=1)

    def _gather_views(self, rows: Tensor, num_views: int = 2) -> Sequence[Tensor]:
        """[V*B, ...] of this worker's views -> V tensors [W*B, ...] of the global batch."""
        by_image = rows.unflatten(0, (num_views, -1)).transpose(0, 1)
        return self.collective.gather(by_image).unbind(1)

    def _keeps_prototypes(self) -> bool:
        return self.config.reads_attributes or self.config.granularity == "global"

    def _needs_old(self) -> bool:
        return needs_old_model(self.config.forms)

    def _old_network(self) -> AttributeNetwork:
        assert self.old is not None
        network = self.old.module
        assert isinstance(network, AttributeNetwork)
        return network

    # What outlives the process ----------------------------------------------------------------

    def memory_state(self) -> dict[str, Tensor]:
        """The prototype memory's tensors."""
        return dict(self.memory.state_dict())

    def load_memory_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes the published prototypes."""
        for name, tensor in tensors.items():
            setattr(self.memory, name, tensor)

    def stored_bytes_per_domain(self) -> float:
        """Prototype bytes over the learned domains."""
        return self.memory.stored_bytes / max(self.memory.num_domains, 1)

    def facts(self) -> dict[str, Any]:
        """Where the domain's classifier rows begin, and whether an old model is held."""
        return {"offset": self._offset, "has_old": self.old is not None}

    def rebuild(self, facts: Mapping[str, Any]) -> None:
        """Makes room for the old model."""
        self._offset = int(facts["offset"])
        self.old = Frozen(self.network) if facts["has_old"] else None
