"""KRKC: knowledge refreshing and consolidation (Yu et al., AAAI 2023).

Two networks a domain: the working model learns it, the memory model starts as its copy and moves
more slowly. Both see the new images and, beside them, exemplars of earlier domains, and each holds
the other's answers (refreshing). After the domain the working model takes the mean of both weights,
and images are embedded by both (consolidation in model space and in feature space).
docs/baselines.md says where this differs from the authors' code.
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
    check_any_on,
    gathered,
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
    """Divergence between both models' answers to the new images, summed over the classifiers."""

    temperature: float = Field(default=2.0, gt=0, description="T of both softmaxes")
    mixture: Literal["probabilities", "logits"] = Field(
        default="probabilities",
        description="what both answers are compared with: the mean probabilities (Jensen-Shannon), "
        "or those of the mean logits, as in the authors' code",
    )


class LossesConfig(FrozenConfig):
    """The loss terms; all but `rectification` are taken of the working and of the memory model."""

    identity: IdentityTermConfig = Field(default_factory=IdentityTermConfig)
    triplet: TripletTermConfig = Field(default_factory=TripletTermConfig)
    replay_triplet: TripletTermConfig = Field(default_factory=lambda: TripletTermConfig(margin=0.3))
    rectification: RectificationTermConfig = Field(default_factory=RectificationTermConfig)

    @model_validator(mode="after")
    def _some_loss(self) -> LossesConfig:
        check_any_on({"identity": self.identity, "triplet": self.triplet}, "the first domain")
        if self.rectification.weight and not self.identity.weight:
            raise ValueError(
                "rectification compares classifiers, which identity alone trains on people: give "
                "identity a weight above 0, or rectification the weight 0"
            )
        return self


class ReplayConfig(FrozenConfig):
    """The exemplars that each batch carries."""

    persons_per_batch: int = Field(
        default=64, ge=1, description="people; all there are, where exemplars show fewer"
    )
    images_per_person: int = Field(default=2, ge=1, description="images of each of them")


class ConsolidationConfig(FrozenConfig):
    """What becomes of two models."""

    weights: Literal["reciprocal", "fixed", "none"] = Field(
        default="reciprocal",
        description="the working model after domain t: a * working + (1 - a) * memory with "
        "a = 1/t, with a = alpha, or unchanged",
    )
    alpha: float = Field(
        default=0.5, ge=0, le=1, description="a of `fixed`: share of the working model"
    )
    features: Literal["both", "working"] = Field(
        default="both", description="whose features make the test embedding"
    )


class Config(BalancedConfig):
    """Settings of KRKC."""

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
        description="lr multiple of the memory model in the second domain, the third, ...; the "
        "last holds for all later ones",
    )
    optimizer: OptimizerConfig = Field(
        default_factory=lambda: OptimizerConfig(lr=5e-6, weight_decay=5e-4)
    )

    @field_validator("memory_lr_factors")
    @classmethod
    def _some_rate(cls, factors: tuple[float, ...]) -> tuple[float, ...]:
        if min(factors, default=-1.0) < 0:
            raise ValueError(f"expected one factor or more, each at least 0; got {list(factors)}")
        return factors

    @property
    def balanced(self) -> tuple[str, ...]:
        """The working model's terms that have a weight: those that GradNorm weighs."""
        names = ("identity", "triplet", "replay_triplet", "rectification")
        return tuple(name for name in names if getattr(self.losses, name).weight)

    @property
    def replays(self) -> bool:
        """Whether exemplars are kept and seen again."""
        return self.losses.replay_triplet.weight > 0

    @property
    def has_memory_model(self) -> bool:
        """Whether anything reads a second model."""
        consolidation = self.consolidation
        return (
            self.losses.rectification.weight > 0
            or consolidation.weights != "none"
            or consolidation.features == "both"
        )


@final
class Method(Learner):
    """KRKC; `network` is the working model."""

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

    # The domain's course ----------------------------------------------------------------------

    def begin_domain(self, domain: Domain, probe: Probe) -> None:
        """Grows the classifiers; from the second domain on, the memory model begins as a copy."""
        self._offset = self.network.grow_for(domain, probe)
        self._num_domains += 1
        self.balance.begin_domain()
        if self._num_domains > 1 and self.config.has_memory_model:
            self.memory = copy.deepcopy(self.network)
        if self.config.replays:
            generator = torch.Generator().manual_seed(torch.initial_seed())
            self.exemplars.begin_domain(domain, self._offset, generator)

    def stages(self) -> Sequence[Stage]:
        """One stage; both models train in it, the memory model at its own rate."""
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
        """The working model's terms, the memory model's, and what they hold of one another."""
        assert stage == "krkc"
        losses = self.config.losses
        terms, features = self._terms(self.network, batch)
        if self.memory is not None:
            memory_terms, memory_features = self._terms(self.memory, batch)
            terms |= {f"memory_{name}": term for name, term in memory_terms.items()}
            if losses.rectification.weight:
                terms["rectification"] = self._rectification(
                    self.network.uncounted_logits(features, "batch"),
                    self.memory.uncounted_logits(memory_features, "batch"),
                )
        weights = {name: getattr(losses, name.removeprefix("memory_")).weight for name in terms}
        result = StepResult.of(terms, weights)
        return self.balance(result, self.shared_parameters(), self.collective.gather)

    def shared_parameters(self) -> Sequence[nn.Parameter]:
        """The last layer of the working model's tower; the memory model's terms do not reach it."""
        return self.network.image.last_layer()

    def end_domain(self, probe: Probe) -> None:
        """Chooses exemplars by the working model as it was trained, then mixes the weights."""
        if self.config.replays:
            embeddings = probe(lambda images: {"e": self.network.embed(images)})["e"]
            self.exemplars.end_domain(embeddings)
        consolidation = self.config.consolidation
        if self.memory is not None and consolidation.weights != "none":
            fixed = consolidation.weights == "fixed"
            alpha = consolidation.alpha if fixed else 1.0 / self._num_domains
            mixed = interpolate(self.network.state_dict(), self.memory.state_dict(), alpha)
            self.network.load_state_dict(mixed)

    def embed_images(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> the working model's test embedding, or those of both models side by side.

        L2-normalised; each model has an equal part in it. The first domain has no memory model.
        """
        working = self.network.embed(images)
        if self.memory is None or self.config.consolidation.features == "working":
            return working
        return functional.normalize(torch.cat([working, self.memory.embed(images)], 1), dim=1)

    # Exemplars and state ----------------------------------------------------------------------

    def replay_records(self) -> Sequence[Record]:
        """The exemplars of all earlier domains."""
        return self.exemplars.records

    def stored_bytes_per_domain(self) -> float:
        """The exemplars' pixels as a decoded image holds them, 3 bytes each."""
        height, width = self.network.image.image_size
        num_pixels = len(self.exemplars.records) * height * width
        return 3 * num_pixels / max(1, self.exemplars.num_domains)

    def facts(self) -> dict[str, Any]:
        """Where the domain's classifier rows begin, how many domains there were, the exemplars."""
        return {
            "offset": self._offset,
            "num_domains": self._num_domains,
            "has_memory": self.memory is not None,
            "exemplars": self.exemplars.facts(),
        }

    def rebuild(self, facts: Mapping[str, Any]) -> None:
        """Makes room for the memory model."""
        self._offset = int(facts["offset"])
        self._num_domains = int(facts["num_domains"])
        self.memory = copy.deepcopy(self.network) if facts["has_memory"] else None
        self.exemplars.restore(facts["exemplars"])

    # A step -----------------------------------------------------------------------------------

    def _trainable(self, model: str) -> tuple[str, ...]:
        """What of a model trains: the tower, and what the identity term alone reads."""
        reads_classifiers = self.config.losses.identity.weight > 0
        classifiers = (f"{model}.neck_*.weight", f"{model}.head_*") if reads_classifiers else ()
        return (f"{model}.image.*", *classifiers)

    def _terms(
        self, network: ReidNetwork, batch: Batch
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Loss terms of one model on the global batch, and its features of the new images.

        Exemplars go through the tower by themselves: what a ResNet normalises by is then old
        images alone, or new ones.
        """
        losses, gather, replay = self.config.losses, self.collective.gather, batch.replay
        features = gathered(self.collective, network.image.features(batch.views["weak"]))
        targets = gather(batch.person_ids) + self._offset
        terms = network.identity_terms(features, targets, losses.identity, losses.triplet)
        if replay is not None:
            seen_again = gathered(self.collective, network.image.features(replay.views["weak"]))
            rows, settings = network.metric_feature(seen_again), losses.replay_triplet
            compared = functional.normalize(rows, dim=1) if settings.normalise else rows
            terms["replay_triplet"] = batch_hard_triplet(
                compared, gather(replay.person_ids), settings.margin
            )
            with torch.no_grad():
                # No loss reads this: the statistics that tests normalise by are of both batches.
                for name, each in seen_again.items():
                    network.neck(name)(each)
        return terms, features

    def _rectification(self, working: Sequence[Tensor], memory: Sequence[Tensor]) -> Tensor:
        """Divergence of both models' logits, summed over the classifiers.

        The gradient of each model is the one it has with the other held fixed: this one term is
        what the authors' code computes once for each model.
        """
        settings = self.config.losses.rectification
        found = [
            jensen_shannon(new, old, settings.temperature, settings.mixture)
            for new, old in zip(working, memory, strict=True)
        ]
        return torch.stack(found).sum()
