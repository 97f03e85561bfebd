"""KRKC: knowledge refreshing and consolidation (Yu et al., AAAI 2023).

Two networks learn each domain. The working model trains at the full rate. The memory model starts
as a copy of it and moves more slowly. Both see the new images and exemplars of earlier domains, and
each is regularised by the other's predictions (refreshing). After the domain, the working model
takes the mean of both weights, and images are embedded by both models (consolidation in model space
and in feature space). docs/baselines.md lists the differences from the authors' code.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional

from models.backbones.tower import Backbone
from models.components.exemplars import Exemplars, ExemplarsConfig
from models.components.gradnorm import BalancedConfig, GradNorm
from models.components.interpolation import interpolate
from models.components.reid_network import (
    IdentityTermConfig,
    ReidNetwork,
    TermConfig,
    TripletTermConfig,
    check_any_enabled,
    gather_features,
)
from models.learner import (
    Collective,
    Learner,
    OptimizerConfig,
    Probe,
    ReplayShape,
    Stage,
    StepResult,
)
from models.losses.distillation import jensen_shannon
from models.losses.metric import batch_hard_triplet
from tasks.schema import Batch, Domain, FrozenConfig, Record


class RectificationTermConfig(TermConfig):
    """Divergence of both models' predictions on new images, summed over the classifiers."""

    temperature: float = Field(default=2.0, gt=0, description="T of both softmaxes")
    mixture: Literal["probabilities", "logits"] = Field(
        default="probabilities",
        description="distribution that both predictions are compared with: the mean of the "
        "probabilities (Jensen-Shannon), or the softmax of the mean logits (authors' code)",
    )


class LossesConfig(FrozenConfig):
    """Loss terms; all but `rectification` are computed for both models."""

    identity: IdentityTermConfig = Field(default_factory=IdentityTermConfig)
    triplet: TripletTermConfig = Field(default_factory=TripletTermConfig)
    replay_triplet: TripletTermConfig = Field(default_factory=lambda: TripletTermConfig(margin=0.3))
    rectification: RectificationTermConfig = Field(default_factory=RectificationTermConfig)

    @model_validator(mode="after")
    def _check_losses(self) -> LossesConfig:
        check_any_enabled({"identity": self.identity, "triplet": self.triplet}, "the first domain")
        if self.rectification.weight and not self.identity.weight:
            raise ValueError(
                "rectification compares classifiers, which only identity trains: set "
                "identity.weight > 0 or rectification.weight = 0"
            )
        return self


class ReplayConfig(FrozenConfig):
    """Exemplars in each batch."""

    persons_per_batch: int = Field(
        default=64, ge=1, description="identities; fewer if fewer have exemplars"
    )
    images_per_person: int = Field(default=2, ge=1, description="images per identity")


class ConsolidationConfig(FrozenConfig):
    """Consolidation of the two models after a domain."""

    weights: Literal["reciprocal", "fixed", "none"] = Field(
        default="reciprocal",
        description="working model after domain t: a * working + (1 - a) * memory with a = 1/t "
        "(reciprocal) or a = alpha (fixed); none leaves it unchanged",
    )
    alpha: float = Field(
        default=0.5, ge=0, le=1, description="a of `fixed`: weight of the working model"
    )
    features: Literal["both", "working"] = Field(
        default="both", description="models whose features form the test embedding"
    )


class Config(BalancedConfig):
    """Configuration of KRKC."""

    name: Literal["krkc"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="krkc", description="the learner"
    )
    epochs: int = Field(default=60, ge=1, description="epochs per domain")
    losses: LossesConfig = Field(default_factory=LossesConfig)
    exemplars: ExemplarsConfig = Field(default_factory=ExemplarsConfig)
    replay: ReplayConfig = Field(default_factory=ReplayConfig)
    consolidation: ConsolidationConfig = Field(default_factory=ConsolidationConfig)
    memory_lr_factors: tuple[float, ...] = Field(
        default=(0.1, 0.1, 0.01),
        description="factor of lr for the memory model in the second, third, ... domain; the last "
        "one applies to all later domains",
    )
    optimizer: OptimizerConfig = Field(
        default_factory=lambda: OptimizerConfig(lr=5e-6, weight_decay=5e-4)
    )

    @field_validator("memory_lr_factors")
    @classmethod
    def _check_factors(cls, factors: tuple[float, ...]) -> tuple[float, ...]:
        if min(factors, default=-1.0) < 0:
            raise ValueError(f"expected at least one factor, each >= 0; got {list(factors)}")
        return factors

    @property
    def balanced(self) -> tuple[str, ...]:
        """Terms of the working model with a non-zero weight, which GradNorm balances."""
        names = ("identity", "triplet", "replay_triplet", "rectification")
        return tuple(name for name in names if getattr(self.losses, name).weight)

    @property
    def replays(self) -> bool:
        """Whether exemplars are stored and replayed."""
        return self.losses.replay_triplet.weight > 0

    @property
    def has_memory_model(self) -> bool:
        """Whether the configuration uses a memory model."""
        consolidation = self.consolidation
        return (
            self.losses.rectification.weight > 0
            or consolidation.weights != "none"
            or consolidation.features == "both"
        )


@final
class Method(Learner):
    """KRKC (Yu et al., AAAI 2023); `network` is the working model."""

    def __init__(self, config: Config, backbone: Backbone, collective: Collective) -> None:
        super().__init__(collective)
        self.config = config
        self.network = ReidNetwork(backbone.image)
        self.memory: ReidNetwork | None = None
        self.exemplars = Exemplars(config.exemplars)
        self.balance = GradNorm(config.gradnorm, config.balanced)
        if config.replays:
            self.replay_shape = ReplayShape(
                config.replay.persons_per_batch, config.replay.images_per_person
            )
        self._num_domains = 0
        self._offset = 0

    # Training ---------------------------------------------------------------------------------

    def begin_domain(self, domain: Domain, probe: Probe) -> None:
        """Extend the classifiers; from the second domain on, copy the memory model."""
        self._offset = self.network.grow_for(domain, probe)
        self._num_domains += 1
        self.balance.begin_domain()
        if self._num_domains > 1 and self.config.has_memory_model:
            self.memory = copy.deepcopy(self.network)
        if self.config.replays:
            generator = torch.Generator().manual_seed(torch.initial_seed())
            self.exemplars.begin_domain(domain, self._offset, generator)

    def stages(self) -> Sequence[Stage]:
        """Return one stage that trains both models, the memory model at its own learning rate."""
        optimizer, trainable = self.config.optimizer, self._trainable("network")
        if self.memory is not None:
            trainable += self._trainable("memory")
            factors = self.config.memory_lr_factors
            factor = factors[min(self._num_domains - 2, len(factors) - 1)]
            optimizer = optimizer.model_copy(
                update={"lr_factors": {**optimizer.lr_factors, "memory.*": factor}}
            )
        return [Stage("krkc", self.config.epochs, ("weak",), trainable, optimizer)]

    def forward(self, batch: Batch, stage: str) -> StepResult:
        """Compute the terms of both models and the rectification between them."""
        assert stage == "krkc"
        losses = self.config.losses
        terms, features = self._terms(self.network, batch)
        if self.memory is not None:
            memory_terms, memory_features = self._terms(self.memory, batch)
            terms |= {f"memory_{name}": term for name, term in memory_terms.items()}
            if losses.rectification.weight:
                terms["rectification"] = self._rectification(
                    self.network.logits_without_update(features, "batch"),
                    self.memory.logits_without_update(memory_features, "batch"),
                )
        weights = {name: getattr(losses, name.removeprefix("memory_")).weight for name in terms}
        result = StepResult.of(terms, weights)
        return self.balance(result, self.shared_parameters(), self.collective.gather)

    def shared_parameters(self) -> Sequence[nn.Parameter]:
        """Return the last layer of the working model, which memory-model terms do not reach."""
        return self.network.image.last_layer()

    def end_domain(self, probe: Probe) -> None:
        """Select exemplars with the trained working model, then interpolate both models."""
        if self.config.replays:
            embeddings = probe(lambda images: {"e": self.network.embed(images)})["e"]
            self.exemplars.end_domain(embeddings)
        consolidation = self.config.consolidation
        if self.memory is not None and consolidation.weights != "none":
            fixed = consolidation.weights == "fixed"
            alpha = consolidation.alpha if fixed else 1.0 / self._num_domains
            weights = interpolate(self.network.state_dict(), self.memory.state_dict(), alpha)
            self.network.load_state_dict(weights)

    def embed_images(self, images: Tensor) -> Tensor:
        """Embed [B, 3, H, W] by the working model, or by both models concatenated.

        L2-normalised; each model contributes equally. The first domain has no memory model.
        """
        working = self.network.embed(images)
        if self.memory is None or self.config.consolidation.features == "working":
            return working
        return functional.normalize(torch.cat([working, self.memory.embed(images)], 1), dim=1)

    # Exemplars and state ----------------------------------------------------------------------

    def replay_records(self) -> Sequence[Record]:
        """Return the exemplars of all earlier domains."""
        return self.exemplars.records

    def stored_bytes_per_domain(self) -> float:
        """Return the size of the exemplars as decoded images, 3 bytes per pixel."""
        height, width = self.network.image.image_size
        num_pixels = len(self.exemplars.records) * height * width
        return 3 * num_pixels / max(1, self.exemplars.num_domains)

    def facts(self) -> dict[str, Any]:
        """Return the classifier offset, the number of domains and the exemplars."""
        return {
            "offset": self._offset,
            "num_domains": self._num_domains,
            "has_memory": self.memory is not None,
            "exemplars": self.exemplars.facts(),
        }

    def embedding_facts(self) -> dict[str, Any]:
        """Return the facts without the exemplars, which are training images."""
        return self.facts() | {"exemplars": Exemplars(self.config.exemplars).facts()}

    def rebuild(self, facts: Mapping[str, Any]) -> None:
        """Create the memory model if the saved state has one; restore the exemplars."""
        self._offset = int(facts["offset"])
        self._num_domains = int(facts["num_domains"])
        self.memory = copy.deepcopy(self.network) if facts["has_memory"] else None
        self.exemplars.restore(facts["exemplars"])

    # Loss terms -------------------------------------------------------------------------------

    def _trainable(self, model: str) -> tuple[str, ...]:
        """Return patterns of a model's trainable parameters: tower and, if used, classifiers."""
        trains_classifiers = self.config.losses.identity.weight > 0
        classifiers = (f"{model}.neck_*.weight", f"{model}.head_*") if trains_classifiers else ()
        return (f"{model}.image.*", *classifiers)

    def _terms(
        self, network: ReidNetwork, batch: Batch
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Compute the loss terms of one model on the global batch, and its features of new images.

        Exemplars pass through the tower separately, so that the batch normalisation of a ResNet
        never mixes old and new images.
        """
        losses, gather, replay = self.config.losses, self.collective.gather, batch.replay
        features = gather_features(self.collective, network.image.features(batch.views["weak"]))
        targets = gather(batch.person_ids) + self._offset
        terms = network.identity_terms(features, targets, losses.identity, losses.triplet)
        if replay is not None:
            replayed = gather_features(
                self.collective, network.image.features(replay.views["weak"])
            )
            rows, settings = network.metric_feature(replayed), losses.replay_triplet
            rows = functional.normalize(rows, dim=1) if settings.normalise else rows
            terms["replay_triplet"] = batch_hard_triplet(
                rows, gather(replay.person_ids), settings.margin
            )
            with torch.no_grad():
                # Updates the running statistics of the necks with the exemplars too; no loss term.
                for name, feature in replayed.items():
                    network.neck(name)(feature)
        return terms, features

    def _rectification(self, working: Sequence[Tensor], memory: Sequence[Tensor]) -> Tensor:
        """Compute the divergence of both models' logits, summed over the classifiers.

        Each model receives the gradient it would have with the other held fixed, so this single
        term equals the two terms of the authors' code.
        """
        settings = self.config.losses.rectification
        divergences = [
            jensen_shannon(new, old, settings.temperature, settings.mixture)
            for new, old in zip(working, memory, strict=True)
        ]
        return torch.stack(divergences).sum()
