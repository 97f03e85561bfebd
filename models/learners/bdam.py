"""BDAM: text-to-image person retrieval with decoupled identity and clothing and gated fusion.

Each domain has one stage. A text tower encodes captions and generated identity and clothing
descriptions. Two branches over the image patches learn an identity and a clothing feature, which
are decoupled from each other. The identity feature is fused with the image's identity description.
A query is a caption alone. Over several domains, the forms of VLADR's cross-domain alignment can
preserve both features. docs/bdam.md gives the formulas and the choices the paper leaves open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.backbones.tower import ImageTextBackbone, TextTower
from models.bdam.config import Config
from models.bdam.network import DecouplingNetwork, decoupling_terms, gather_loss_inputs
from models.bdam.texts import (
    BatchTexts,
    BatchTokens,
    DomainTexts,
    check_gallery_descriptions,
    check_training_texts,
    encode_batch,
)
from models.components.cross_domain_alignment import (
    AlignmentFeatures,
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
from models.components.reid_network import Frozen, interpolate_networks, term_weights
from models.heads.bdam import Decoupled
from models.heads.fusion import Modality
from models.learner import (
    Collective,
    Learner,
    LearnerConfig,
    OptimizerConfig,
    Probe,
    Stage,
    StepResult,
)
from tasks.schema import Batch, Domain

STAGE = "bdam"
MAMBA_STATE = ("network.fusion.*.A_log", "network.fusion.*.D")
"""Decay rates and skip weights of a Mamba block, which must not have weight decay."""


@final
class Method(Learner):
    """BDAM: bidirectional decoupling alignment module with gated fusion."""

    reads_texts = True
    embeds_texts = True

    def __init__(self, config: Config, backbone: ImageTextBackbone, collective: Collective) -> None:
        super().__init__(collective)
        self.config = config
        generator = torch.Generator().manual_seed(torch.initial_seed())
        trains_text, size = config.text_tower == "trained", backbone.text.embed_dim
        self.text = None if trains_text else backbone.text
        self.unsaved = () if trains_text else ("text.",)
        trained = backbone.text if trains_text else None
        self.network = DecouplingNetwork(backbone.image, trained, size, config, generator)
        self.texts = DomainTexts()
        self.memory = PrototypeMemory(2, config.decoupling.dim)
        self.embeddings = PrototypeMemory(1, self.network.embedding_dim)
        self.balance = GradNorm(config.gradnorm, config.balanced)
        self.old: Frozen[DecouplingNetwork] | None = None
        self._num_begun = 0

    @staticmethod
    def check_domain(config: LearnerConfig, domain: Domain) -> None:
        """Check that all training images have captions and descriptions."""
        del config
        check_training_texts(domain)

    @staticmethod
    def check_gallery(config: LearnerConfig, domain: Domain) -> None:
        """Check that gallery images have the descriptions that the fusion needs."""
        assert isinstance(config, Config)
        if config.fuses and config.gallery_descriptions:
            check_gallery_descriptions(domain)

    # Training ---------------------------------------------------------------------------------

    def begin_domain(self, domain: Domain, probe: Probe) -> None:
        """Freeze the old model and tokenize the domain's texts."""
        config = self.config
        if self._num_begun and (config.needs_old_model or config.interpolation.mode != "none"):
            self.old = Frozen(self.network)
        self._num_begun += 1
        self.texts.begin_domain(domain, self._tower)
        self.balance.begin_domain()

    def stages(self) -> Sequence[Stage]:
        """Return the single training stage."""
        config = self.config
        return [Stage(STAGE, config.epochs, ("weak",), self._trainable(), self._optimizer())]

    def forward(self, batch: Batch, stage: str) -> StepResult:
        """Compute the loss terms on the global batch."""
        assert stage == STAGE
        losses, gather = self.config.losses, self.collective.gather
        tokens = self.texts.batch_tokens(batch.indices, self._tower)
        features = self.network.decouple(batch.views["weak"])
        texts = self._encode_batch_texts(tokens)
        inputs = gather_loss_inputs(self.network, features, texts, batch.person_ids, gather)
        terms = decoupling_terms(inputs, losses)
        if self.config.forms and self._num_begun > 1:
            new = self._alignment_features(self.network, features)
            old = self._old_compared(batch.views["weak"])
            forms = self.config.forms
            terms |= cross_domain_terms(forms, losses, new, old, self.memory, self.embeddings)
        result = StepResult.of(terms, term_weights(terms, losses))
        return self.balance(result, self.shared_parameters(), gather)

    def shared_parameters(self) -> Sequence[nn.Parameter]:
        """Return the last layer of the image tower, which both branches share."""
        return self.network.image.last_layer()

    def end_domain(self, probe: Probe) -> None:
        """Interpolate weights, then store prototypes computed with the final weights."""
        if self.old is not None:
            interpolate_networks(self.network, self.old.module, self.config.interpolation, probe)
            self.old = None
        forms, person_ids = self.config.forms, self.texts.person_ids
        if self.config.keeps_prototypes:
            domain = self.memory.num_domains
            parts = probe(lambda images: {"p": self.network.parts(self.network.decouple(images))})[
                "p"
            ]
            self.memory.begin_domain(domain)
            self.memory.refresh(parts)
            self.memory.freeze()
            if "identity_prototype" in forms:
                self.memory.add_identities(domain, parts, person_ids)
            if "centroid_relation" in forms:
                seed = torch.initial_seed() % 2**32
                self.memory.add_centroids(domain, parts, self.config.num_centroids, seed)
        if "embedding_prototype" in forms:
            rows = probe(lambda images: {"e": self.network.embed(images)})["e"]
            settings = self.config.losses.embedding_prototype
            store_embeddings(self.embeddings, rows, person_ids, settings, self.config.num_centroids)

    # Embeddings ---------------------------------------------------------------------------------

    def embed_images(self, images: Tensor) -> Tensor:
        """Embed images [B, 3, H, W] without descriptions as L2-normalised [B, D].

        Raises:
            ValueError: the configuration trains only embeddings of images with descriptions.
        """
        if self.config.fuses and self.network.to_text is None:
            raise ValueError(
                "learner.losses.info.weight=0: images without descriptions have no trained "
                "embedding; add descriptions, or train with losses.info.weight > 0 or "
                "fusion.mixer=none"
            )
        return self.network.embed(images)

    def embed_gallery(self, images: Tensor, descriptions: Sequence[str]) -> Tensor:
        """Embed images [B, 3, H, W] fused with their identity descriptions as L2-normalised [B, D].

        Raises:
            ValueError: the fusion needs a description that is empty.
        """
        if not self.reads_gallery_descriptions:
            return self.embed_images(images)
        if not all(descriptions):
            raise ValueError(
                "learner.fusion: expected an identity description for every gallery image, got an "
                "empty one; create them with `describe --prompt dual`, or train with "
                "learner.gallery_descriptions=false"
            )
        return self.embed_described(images, self._tower.tokenize(descriptions).to(images.device))

    @property
    def reads_gallery_descriptions(self) -> bool:
        """Whether gallery images are fused with their descriptions."""
        return self.config.fuses and self.config.gallery_descriptions

    def embed_described(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Embed images [B, 3, H, W] fused with descriptions [B, L] as L2-normalised [B, D]."""
        text = self._tower.features(tokens)
        description = Modality(text.sentence, text.tokens, text.mask)
        fused = self.network.fuse(self.network.decouple(images), description)
        return functional.normalize(fused, dim=1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed N captions as L2-normalised [N, D]."""
        return functional.normalize(self._tower.encode_texts(texts), dim=1)

    @property
    def query_tower(self) -> TextTower:
        """The text tower, trained or frozen."""
        return self._tower

    # Steps ----------------------------------------------------------------------------------------

    @property
    def _tower(self) -> TextTower:
        tower = self.text if self.network.text is None else self.network.text
        assert tower is not None
        return tower

    def _encode_batch_texts(self, tokens: BatchTokens) -> BatchTexts:
        """Encode the texts of a batch, with gradient if the text tower trains."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.text is None):
            texts = encode_batch(tokens, self._tower)
        if self.training:
            self.texts.step += 1
        return texts

    def _alignment_features(
        self, network: DecouplingNetwork, features: Decoupled
    ) -> AlignmentFeatures:
        """Build the features that L_IDA compares, for the global batch."""
        parts, embedding = self.config.compares
        gather = self.collective.gather
        return AlignmentFeatures(
            gather(network.parts(features)) if parts else None,
            gather(network.embed_features(features)) if embedding else None,
        )

    def _old_compared(self, images: Tensor) -> AlignmentFeatures | None:
        """Compute these features with the frozen old model, if any form of L_IDA needs it."""
        if self.old is None or not self.config.needs_old_model:
            return None
        old = self.old.module
        with torch.no_grad():
            return self._alignment_features(old, old.decouple(images))

    def _trainable(self) -> tuple[str, ...]:
        """Return the paths of exactly the parameters that some loss term depends on."""
        config, network = self.config, self.network
        compares = self._num_begun > 1 and config.compares[0]
        reads = {"identity": config.reads_identity, "clothing": config.reads_clothing}
        unused: tuple[str, ...] = ()
        for branch, is_read in reads.items():
            if not (is_read or compares):
                # The other branch may attend to this one even if no term reads it.
                parts = ("cross.", "norm.") if config.crosses else ("",)
                unused += tuple(f"head.{branch}.{part}" for part in parts)
        if network.text is not None:
            unused += tuple(f"text.{name}" for name in network.text.unread)
        paths = (path for path, _ in network.named_parameters())
        return tuple(f"network.{path}" for path in paths if not path.startswith(unused))

    def _optimizer(self) -> OptimizerConfig:
        """Return the configured optimiser, without weight decay of `MAMBA_STATE`."""
        optimizer = self.config.optimizer
        if not (self.config.fuses and self.config.fusion.mixer == "mamba"):
            return optimizer
        return optimizer.model_copy(update={"no_decay": (*optimizer.no_decay, *MAMBA_STATE)})

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
        """Return the number of domains begun and whether an old model exists."""
        return {"num_begun": self._num_begun, "has_old": self.old is not None}

    def rebuild(self, facts: Mapping[str, Any]) -> None:
        """Create the old model if the saved state has one."""
        self._num_begun = int(facts["num_begun"])
        self.old = Frozen(self.network) if facts["has_old"] else None
