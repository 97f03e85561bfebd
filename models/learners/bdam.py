"""BDAM: text-to-image person retrieval with identity and clothing decoupled, and gated fusion.

One stage a domain. A text tower reads captions and machine-written identity and clothing
descriptions; two branches over the image's patches learn an identity and a clothing feature that
are kept apart; the identity feature is fused with the image's own identity description. A query is
a caption alone. Over several domains the forms of VLADR's cross-domain alignment can hold on to
both features. docs/bdam.md says what is computed, and where the paper is silent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.backbones.tower import ImageTextBackbone, TextTower
from models.bdam.config import Config
from models.bdam.network import DecouplingNetwork, decoupling_terms, see
from models.bdam.texts import DomainTexts, Said, check_described, check_texts
from models.components.cross_domain_alignment import Compared, cross_domain_terms
from models.components.gradnorm import GradNorm
from models.components.prototypes import (
    PrototypeMemory,
    bytes_per_domain,
    load_memory_tensors,
    memory_tensors,
)
from models.components.reid_network import Frozen, blend, weights_of
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
"""Parameters of a Mamba block that are decay rates and skips, and must not decay to 0."""


@final
class Method(Learner):
    """BDAM."""

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
        self.embeddings = PrototypeMemory(1, self.network.dim_alone)
        self.balance = GradNorm(config.gradnorm, config.balanced)
        self.old: Frozen | None = None
        self._num_begun = 0

    @staticmethod
    def check_domain(config: LearnerConfig, domain: Domain) -> None:
        """Refuses a domain without captions or descriptions of its training images."""
        del config
        check_texts(domain)

    @staticmethod
    def check_gallery(config: LearnerConfig, domain: Domain) -> None:
        """Refuses a domain whose searched images lack descriptions that the fusion reads."""
        assert isinstance(config, Config)
        if config.fuses and config.gallery_descriptions:
            check_described(domain)

    # The domain's course ----------------------------------------------------------------------

    def begin_domain(self, domain: Domain, probe: Probe) -> None:
        """Freezes the old model, and takes over the domain's texts."""
        config = self.config
        if self._num_begun and (config.needs_old_model or config.interpolation.mode != "none"):
            self.old = Frozen(self.network)
        self._num_begun += 1
        self.texts.begin_domain(domain, self._tower)
        self.balance.begin_domain()

    def stages(self) -> Sequence[Stage]:
        """One stage."""
        config = self.config
        return [Stage(STAGE, config.epochs, ("weak",), self._trainable(), self._optimizer())]

    def forward(self, batch: Batch, stage: str) -> StepResult:
        """One step, on the global batch."""
        assert stage == STAGE
        losses, gather = self.config.losses, self.collective.gather
        features = self.network.read(batch.views["weak"])
        said = self._said(batch.indices)
        terms = decoupling_terms(
            see(self.network, features, said, batch.person_ids, gather), losses
        )
        if self.config.forms and self._num_begun > 1:
            new = self._compared(self.network, features)
            old = self._old_compared(batch.views["weak"])
            forms = self.config.forms
            terms |= cross_domain_terms(forms, losses, new, old, self.memory, self.embeddings)
        result = StepResult.of(terms, weights_of(terms, losses))
        return self.balance(result, self.shared_parameters(), gather)

    def shared_parameters(self) -> Sequence[nn.Parameter]:
        """The last layer of the image tower: both branches begin from it."""
        return self.network.image.last_layer()

    def end_domain(self, probe: Probe) -> None:
        """Interpolates first, then notes the prototypes of the weights that stay."""
        if self.old is not None:
            blend(self.network, self._old_network(), self.config.interpolation, probe)
            self.old = None
        forms, people = self.config.forms, self.texts.person_ids
        if self.config.keeps_prototypes:
            domain = self.memory.num_domains
            parts = probe(lambda images: {"p": self.network.parts(self.network.read(images))})["p"]
            self.memory.begin_domain(domain)
            self.memory.refresh(parts)
            self.memory.freeze()
            if "identity_prototype" in forms:
                self.memory.add_identities(domain, parts, people)
            if "centroid_relation" in forms:
                seed = torch.initial_seed() % 2**32
                self.memory.add_centroids(domain, parts, self.config.num_centroids, seed)
        if "embedding_prototype" in forms:
            rows = probe(lambda images: {"e": self.network.embed(images)})["e"]
            self.embeddings.add_identities(self.embeddings.num_domains, rows[:, None], people)

    # Embeddings ---------------------------------------------------------------------------------

    def embed_images(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> L2-normalised embeddings [B, D] of images without descriptions.

        Raises:
            ValueError: the configuration trains embeddings of images with descriptions alone.
        """
        if self.config.fuses and self.network.to_text is None:
            raise ValueError(
                "learner.losses.info.weight=0 trains no embedding of an image without its "
                "description: give descriptions, or train with losses.info or fusion.mixer=none"
            )
        return self.network.embed(images)

    def embed_gallery(self, images: Tensor, descriptions: Sequence[str]) -> Tensor:
        """Images with their identity descriptions -> L2-normalised fused embeddings [B, D].

        Raises:
            ValueError: a description is empty, and the fusion reads it.
        """
        if not (self.config.fuses and self.config.gallery_descriptions):
            return self.embed_images(images)
        if not all(descriptions):
            raise ValueError(
                "learner.fusion joins each searched image with its identity description, and one "
                "of these has none: write them by `describe --prompt dual`, or train with "
                "learner.gallery_descriptions=false"
            )
        tokens = self._tower.tokenize(descriptions).to(images.device)
        said = self._tower.features(tokens)
        description = Modality(said.sentence, said.tokens, said.mask)
        fused = self.network.fuse(self.network.read(images), description)
        return functional.normalize(fused, dim=1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """N captions -> [N, D] L2-normalised; no image is read."""
        return functional.normalize(self._tower.encode_texts(texts), dim=1)

    # Parts ----------------------------------------------------------------------------------------

    @property
    def _tower(self) -> TextTower:
        tower = self.text if self.network.text is None else self.network.text
        assert tower is not None
        return tower

    def _said(self, indices: Tensor) -> Said:
        """What is said of the images, with gradient if the text tower trains."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.text is None):
            said = self.texts.encode(indices, self._tower)
        if self.training:
            self.texts.step += 1
        return said

    def _compared(self, network: DecouplingNetwork, features: Decoupled) -> Compared:
        """What the forms of L_IDA compare, of the global batch."""
        parts, embedding = self.config.compares
        gather = self.collective.gather
        return Compared(
            gather(network.parts(features)) if parts else None,
            gather(network.alone(features)) if embedding else None,
        )

    def _old_compared(self, images: Tensor) -> Compared | None:
        """The same by the frozen model of the previous domain, if a form follows it."""
        if self.old is None or not self.config.needs_old_model:
            return None
        old = self._old_network()
        with torch.no_grad():
            return self._compared(old, old.read(images))

    def _old_network(self) -> DecouplingNetwork:
        assert self.old is not None
        network = self.old.module
        assert isinstance(network, DecouplingNetwork)
        return network

    def _trainable(self) -> tuple[str, ...]:
        """The path of every parameter that some term depends on, and of no other."""
        config, network = self.config, self.network
        reads_clothing = config.reads_clothing or (self._num_begun > 1 and config.compares[0])
        unread: tuple[str, ...] = ()
        if not reads_clothing:
            # Without a term of its own it is still what the identity branch attends to.
            unread = ("head.clothing.cross.", "head.clothing.norm.")
            unread = unread if config.crosses else ("head.clothing.",)
        if network.text is not None:
            unread += tuple(f"text.{name}" for name in network.text.unread)
        paths = (path for path, _ in network.named_parameters())
        return tuple(f"network.{path}" for path in paths if not path.startswith(unread))

    def _optimizer(self) -> OptimizerConfig:
        """The configured one, without decay of what Mamba keeps in logarithms."""
        optimizer = self.config.optimizer
        if not (self.config.fuses and self.config.fusion.mixer == "mamba"):
            return optimizer
        return optimizer.model_copy(update={"no_decay": (*optimizer.no_decay, *MAMBA_STATE)})

    # What outlives the process ----------------------------------------------------------------

    def memory_state(self) -> dict[str, Tensor]:
        """The tensors of both prototype memories, by path."""
        return memory_tensors(self)

    def load_memory_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes the published prototypes."""
        load_memory_tensors(self, tensors)

    def stored_bytes_per_domain(self) -> float:
        """Prototype bytes over the learned domains."""
        return bytes_per_domain(self.memory, self.embeddings)

    def facts(self) -> dict[str, Any]:
        """How many domains were begun, and whether an old model is held."""
        return {"num_begun": self._num_begun, "has_old": self.old is not None}

    def rebuild(self, facts: Mapping[str, Any]) -> None:
        """Makes room for the old model."""
        self._num_begun = int(facts["num_begun"])
        self.old = Frozen(self.network) if facts["has_old"] else None
