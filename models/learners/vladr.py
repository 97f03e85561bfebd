"""VLADR: vision-language attribute disentanglement and reinforcement (Xu et al., CVPR 2026).

Each domain has two stages. MTAD learns prompts with both encoders frozen: free tokens per identity,
and free tokens per attribute, shared by all identities and domains. ICAR trains the image tower
against the cached text features: cross-modal attribute alignment (CMA) aligns each decoded visual
attribute with its description; cross-domain alignment (IDA) preserves knowledge of earlier domains.
docs/vladr.md lists the differences from the paper and from the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from models.backbones.tower import ImageTextBackbone
from models.components.cross_domain_alignment import (
    AlignmentFeatures,
    compares_embeddings,
    compares_parts,
    cross_domain_terms,
    store_embeddings,
)
from models.components.gradnorm import GradNorm
from models.components.prototypes import (
    PrototypeMemory,
    bytes_per_domain,
    load_memory_tensors,
    memory_tensors,
)
from models.components.reid_network import (
    Frozen,
    interpolate_networks,
    mean_terms,
    term_weights,
    trainable_patterns,
)
from models.learner import Collective, Learner, LearnerConfig, Probe, Stage, StepResult
from models.losses.alignment import attribute_alignment
from models.losses.contrastive import batch_candidates, image_text_cross_entropy
from models.vladr.config import Config
from models.vladr.mtad import attribute_prompt_terms, identity_prompt_terms
from models.vladr.network import AttributeNetwork
from models.vladr.prompts import TextualAttributes, check_descriptions
from tasks.schema import Batch, Domain

IDENTITY_STAGE, ATTRIBUTE_STAGE, IMAGE_STAGE = "mtad-identity", "mtad-attribute", "icar"


@final
class Method(Learner):
    """VLADR: MTAD prompt stages followed by the ICAR image stage (CVPR 2026)."""

    unsaved = ("text.", "pretrained.")
    reads_texts = True
    needs_joint_space = True
    begun: Tensor

    def __init__(self, config: Config, backbone: ImageTextBackbone, collective: Collective) -> None:
        super().__init__(collective)
        self.config = config
        generator = torch.Generator().manual_seed(torch.initial_seed())
        self.text = backbone.text
        keeps_pretrained = config.prompt_features == "pretrained"
        self.pretrained = Frozen(backbone.image) if keeps_pretrained else None
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
        self.embeddings = PrototypeMemory(1, sum(backbone.image.feature_dims.values()))
        # Features of the domain's images at its start; the teacher if config.teacher is "features".
        self.register_buffer("begun", torch.empty(0, config.num_compared, self.memory.dim))
        self.balance = GradNorm(config.gradnorm, config.balanced)
        self.old: Frozen[AttributeNetwork] | None = None
        self._offset = 0

    @staticmethod
    def check_domain(config: LearnerConfig, domain: Domain) -> None:
        """Check that the domain has the descriptions that the configuration needs."""
        assert isinstance(config, Config)
        check_descriptions(domain, config.num_attributes, config.descriptions)

    # Training ---------------------------------------------------------------------------------

    def begin_domain(self, domain: Domain, probe: Probe) -> None:
        """Freeze the old model, extend the classifiers and create prompts for new identities."""
        learned = self.network.num_identities > 0
        if learned and (self.config.needs_old_model or self.config.interpolation.mode != "none"):
            self.old = Frozen(self.network)
        if learned and self.config.forms and self.config.teacher == "features":
            self.begun = probe(lambda images: {"v": self.network.encode_parts(images)})["v"]
        features = probe(self._initial_features)
        projected = features["f"]
        person_ids = torch.from_numpy(domain.person_ids).to(projected.device)
        self._offset = self.network.num_identities
        self.network.grow(features, person_ids)
        generator = torch.Generator().manual_seed(torch.initial_seed())
        self.textual.begin_domain(domain, self.config.descriptions, projected, self.text, generator)
        self._freeze_untrained_prompts()
        self.memory.begin_domain(self.memory.num_domains)
        self.balance.begin_domain()

    def stages(self) -> Sequence[Stage]:
        """Return the prompt stages that have a trainable loss, then the image stage."""
        config, stages = self.config, list[Stage]()
        if config.trains_identity_prompts:
            stage = config.mtad_identity
            trainable = ("textual.identities.*",)
            stages.append(Stage(IDENTITY_STAGE, stage.epochs, (), trainable, stage.optimizer))
        if config.trains_attribute_prompts:
            stage = config.mtad_attribute
            trainable = ("textual.attributes.*",)
            if config.losses.text_identity.weight:
                trainable += ("textual.pool_head.*",)
            stages.append(Stage(ATTRIBUTE_STAGE, stage.epochs, (), trainable, stage.optimizer))
        stage = config.icar
        identity = config.losses.identity
        trainable = trainable_patterns(identity, identity.classifiers)
        # The first domain has no old model to align with: only cma uses the decoder there.
        if config.losses.cma.weight or (config.reads_attributes and self._offset):
            trainable += ("network.decoder.*",)
        views = ("weak", "strong", "test") if len(self.begun) else ("weak", "strong")
        stages.append(Stage(IMAGE_STAGE, stage.epochs, views, trainable, stage.optimizer))
        return stages

    def forward(self, batch: Batch, stage: str) -> StepResult:
        """Compute the loss terms of one stage on the global batch."""
        losses, gather = self.config.losses, self.collective.gather
        match stage:
            case "mtad-identity":
                terms = identity_prompt_terms(batch, self.textual, self.text, losses, gather)
            case "mtad-attribute":
                terms = attribute_prompt_terms(batch, self.textual, self.text, losses, gather)
            case _:
                terms = self._image_terms(batch)
        result = StepResult.of(terms, term_weights(terms, losses))
        return self.balance(result, self.shared_parameters(), gather)

    def shared_parameters(self) -> Sequence[torch.nn.Parameter]:
        """Return the last layer that g, f and the patch tokens share."""
        return self.network.image.last_layer()

    def end_stage(self, stage: str, probe: Probe) -> None:
        """Encode the trained prompts once; later stages look their text features up."""
        if stage == IDENTITY_STAGE:
            self.textual.freeze_identities(self.text)
        if stage == ATTRIBUTE_STAGE:
            self.textual.freeze_attributes(self.text)
        if stage == IMAGE_STAGE:
            self.textual.drop_image_features()
            self.begun = self.begun[:0]
        self._extend_identity_texts(stage)

    def end_domain(self, probe: Probe) -> None:
        """Interpolate weights, then refresh the prototypes with the final weights."""
        if self.old is not None:
            interpolate_networks(self.network, self.old.module, self.config.interpolation, probe)
            self.old = None
        if "embedding_prototype" in self.config.forms:
            self._store_embeddings(probe)
        if not self.config.keeps_prototypes:
            return
        domain = int(self.memory.current_domain)
        forms, refreshed = self.config.forms, self.config.prototypes == "refreshed"
        has_identities = "identity_prototype" in forms
        has_centroids = "centroid_relation" in forms
        if refreshed or has_identities or has_centroids:
            features = probe(lambda images: {"v": self.network.encode_parts(images)})["v"]
            if refreshed:
                self.memory.refresh(features)
            if has_identities:
                self.memory.add_identities(domain, features, self.textual.person_ids)
            if has_centroids:
                seed = torch.initial_seed() % 2**32
                self.memory.add_centroids(domain, features, self.config.num_centroids, seed)
        self.memory.freeze()

    def embed_images(self, images: Tensor) -> Tensor:
        """Embed [B, 3, H, W] as the L2-normalised test embedding, see `AttributeNetwork.embed`."""
        return self.network.embed(images)

    def _initial_features(self, images: Tensor) -> dict[str, Tensor]:
        """Encode [B, 3, H, W]: `f` is the target of the prompts, the rest initialises classifiers.

        The features by their own names are averaged per identity into new classifier rows.
        """
        network, features = self.network, self.network.image.features(images)
        projected = network.metric_feature(features)
        if self.pretrained is not None:
            projected = self.pretrained.module(images).projected
        if self.config.new_rows == "necks":
            features = {name: network.neck(name)(rows) for name, rows in features.items()}
        return {"f": projected, **features}

    def _freeze_untrained_prompts(self) -> None:
        """Encode the prompts that later terms use and no stage trains."""
        config = self.config
        if config.losses.image_text.weight and not config.trains_identity_prompts:
            self.textual.freeze_identities(self.text)
        if config.reads_attribute_texts and not config.trains_attribute_prompts:
            self.textual.freeze_attributes(self.text)
        self._extend_identity_texts(None)

    def _extend_identity_texts(self, finished: str | None) -> None:
        """Add the attribute texts to L_global's texts if `finished` was the last prompt stage."""
        *prompt_stages, _ = [None, *(stage.name for stage in self.stages())]
        if self.config.extends_identity_texts and finished == prompt_stages[-1]:
            self.textual.add_attribute_texts()

    def _store_embeddings(self, probe: Probe) -> None:
        """Store the prototypes that the form `embedding_prototype` compares with."""
        network, config = self.network, self.config

        def encode(images: Tensor) -> dict[str, Tensor]:
            return {"e": network.neck_embedding(network.image.features(images))}

        store_embeddings(
            self.embeddings,
            probe(encode)["e"],
            self.textual.person_ids,
            config.losses.embedding_prototype,
            config.num_centroids,
        )

    # Stage 2: the image tower -----------------------------------------------------------------

    def _image_terms(self, batch: Batch) -> dict[str, Tensor]:
        losses, gather = self.config.losses, self.collective.gather
        person_ids, indices = gather(batch.person_ids), gather(batch.indices)
        targets = person_ids + self._offset
        # Before the towers: the host waits for the number of candidates.
        candidates = self._candidates(person_ids)
        features = self.network.image(torch.cat([batch.views["weak"], batch.views["strong"]]))
        class_token = self._gather_views(features.class_token)
        projected = self._gather_views(features.projected)
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
            self._aligned_terms(
                {"class_token": class_token[n], "projected": projected[n]},
                attributes[n],
                olds[n],
                candidates,
                indices,
            )
            for n in range(num_views)
        ]
        if self.config.keeps_prototypes:
            compared = self.network.parts(projected[0], attributes[0])
            self.memory.update(compared.detach(), self.config.prototype_momentum)
        terms |= mean_terms(aligned)
        return terms | self._feature_teacher_terms(batch) if len(self.begun) else terms

    def _aligned_terms(
        self,
        features: Mapping[str, Tensor],
        attributes: Tensor | None,
        old: AlignmentFeatures | None,
        candidates: tuple[Tensor, Tensor],
        indices: Tensor,
    ) -> dict[str, Tensor]:
        """Compute L_global, L_CMA and L_IDA of one view from g, f, v and the old features."""
        losses, terms = self.config.losses, dict[str, Tensor]()
        if losses.image_text.weight:
            text, targets = candidates
            temperature = losses.image_text.temperature
            terms["image_text"] = image_text_cross_entropy(
                features["projected"], text, targets, temperature
            )
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
        if self.config.forms and self._offset and not len(self.begun):
            new = self._alignment_features(self.network, features, attributes)
            terms |= cross_domain_terms(
                self.config.forms, losses, new, old, self.memory, self.embeddings
            )
        return terms

    def _feature_teacher_terms(self, batch: Batch) -> dict[str, Tensor]:
        """Compute L_IDA on the test view against the features stored at the start of the domain."""
        new = AlignmentFeatures(
            self.collective.gather(self.network.encode_parts(batch.views["test"])), None
        )
        old = AlignmentFeatures(self.begun[self.collective.gather(batch.indices)], None)
        config = self.config
        return cross_domain_terms(
            config.forms, config.losses, new, old, self.memory, self.embeddings
        )

    def _candidates(self, person_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the texts [C, D] that L_global compares images with, and their targets [B]."""
        settings = self.config.losses.image_text
        if settings.candidates == "domain" or not settings.weight:
            return self.textual.identity_features, person_ids
        identities, targets = batch_candidates(person_ids)
        return self.textual.identity_features[identities], targets

    def _attributes(
        self, patches: Tensor, num_views: int, batch_size: int
    ) -> Sequence[Tensor | None]:
        """Decode v_k of the global batch for each aligned view; None if no term uses it."""
        if not self.config.reads_attributes:
            return [None] * num_views
        decoded = self.network.decoder(patches[: num_views * batch_size])
        return self._gather_views(decoded, num_views)

    def _old_features(self, batch: Batch, num_views: int) -> Sequence[AlignmentFeatures | None]:
        """Compute the features for L_IDA with the frozen old model on the same views."""
        if self.old is None or not self.config.needs_old_model:
            return [None] * num_views
        old = self.old.module
        views = [batch.views["weak"], batch.views["strong"]][:num_views]
        with torch.no_grad():
            features = old.image(torch.cat(views))
            attributes: Sequence[Tensor | None] = [None] * num_views
            if self.config.reads_attributes:
                attributes = self._gather_views(old.decoder(features.patches), num_views)
            class_token = self._gather_views(features.class_token, num_views)
            projected = self._gather_views(features.projected, num_views)
            return [
                self._alignment_features(old, {"class_token": g, "projected": f}, v)
                for g, f, v in zip(class_token, projected, attributes, strict=True)
            ]

    def _alignment_features(
        self, network: AttributeNetwork, features: Mapping[str, Tensor], attributes: Tensor | None
    ) -> AlignmentFeatures:
        """Build the features that L_IDA compares, for one view of the global batch."""
        forms, embedding = self.config.forms, None
        if compares_embeddings(forms):
            embedding = network.embedding_without_update(features)
        parts = compares_parts(forms)
        return AlignmentFeatures(
            network.parts(features["projected"], attributes) if parts else None, embedding
        )

    def _gather_views(self, rows: Tensor, num_views: int = 2) -> Sequence[Tensor]:
        """Gather [V*B, ...] of this worker's V views as V tensors [W*B, ...]."""
        by_image = rows.unflatten(0, (num_views, -1)).transpose(0, 1)
        return self.collective.gather(by_image).unbind(1)

    # State ------------------------------------------------------------------------------------

    def memory_state(self) -> dict[str, Tensor]:
        """Return the tensors of both prototype memories by path."""
        return memory_tensors(self)

    def load_memory_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the published prototypes."""
        load_memory_tensors(self, tensors)

    def stored_bytes_per_domain(self) -> float:
        """Return the bytes of all prototypes, divided by the number of learned domains."""
        return bytes_per_domain(self.memory, self.embeddings)

    def facts(self) -> dict[str, Any]:
        """Return the classifier offset of the domain and whether an old model exists."""
        return {"offset": self._offset, "has_old": self.old is not None}

    def rebuild(self, facts: Mapping[str, Any]) -> None:
        """Create the old model if the saved state has one."""
        self._offset = int(facts["offset"])
        self.old = Frozen(self.network) if facts["has_old"] else None
