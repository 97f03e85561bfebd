"""Supervised training with cross-entropy and triplet: fine-tuning and joint training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, model_validator
from torch import Tensor, nn

from models.backbones.tower import Backbone
from models.components.gradnorm import BalancedConfig, GradNorm
from models.components.reid_network import (
    Frozen,
    IdentityTermConfig,
    InterpolationConfig,
    ReidNetwork,
    TripletTermConfig,
    check_any_enabled,
    gather_features,
    interpolate_networks,
    term_weights,
    trainable_patterns,
)
from models.learner import (
    Collective,
    Learner,
    OptimizerConfig,
    Probe,
    Stage,
    StepResult,
)
from tasks.schema import Batch, Domain, FrozenConfig


class LossesConfig(FrozenConfig):
    """Loss terms."""

    identity: IdentityTermConfig = Field(default_factory=IdentityTermConfig)
    triplet: TripletTermConfig = Field(default_factory=TripletTermConfig)

    @model_validator(mode="after")
    def _check_losses(self) -> LossesConfig:
        check_any_enabled({"identity": self.identity, "triplet": self.triplet}, "the image tower")
        return self


class SupervisedConfig(BalancedConfig):
    """Configuration of supervised training."""

    tower_terms: ClassVar[tuple[str, ...]] = ("identity", "triplet")
    """Terms of the stage that trains the image tower; those of the first domain come first."""

    epochs: int = Field(default=60, ge=1, description="epochs per domain")
    losses: LossesConfig = Field(default_factory=LossesConfig)
    optimizer: OptimizerConfig = Field(
        default_factory=lambda: OptimizerConfig(lr=5e-6, weight_decay=1e-4)
    )

    @property
    def balanced(self) -> tuple[str, ...]:
        """Terms of the image tower with a non-zero weight, which GradNorm balances."""
        return tuple(name for name in self.tower_terms if getattr(self.losses, name).weight)


class SupervisedLearner(Learner):
    """Learner with cross-entropy on all classifiers and batch-hard triplet on f (weak view)."""

    def __init__(
        self,
        config: SupervisedConfig,
        backbone: Backbone,
        collective: Collective,
        interpolation: InterpolationConfig,
    ) -> None:
        super().__init__(collective)
        self.config = config
        self.interpolation = interpolation
        self.network = ReidNetwork(backbone.image)
        self.balance = GradNorm(config.gradnorm, config.balanced)
        self.old: Frozen[ReidNetwork] | None = None
        self._offset = 0

    def begin_domain(self, domain: Domain, probe: Probe) -> None:
        """Extend the classifiers by the domain's identities, initialised with class centres."""
        if self.network.num_identities and self.interpolation.mode != "none":
            self.old = Frozen(self.network)
        self._offset = self.network.grow_for(domain, probe)
        self.balance.begin_domain()

    def stages(self) -> Sequence[Stage]:
        """Return the single training stage."""
        config, trainable = self.config, trainable_patterns(self.config.losses.identity)
        return [Stage("finetune", config.epochs, ("weak",), trainable, config.optimizer)]

    def forward(self, batch: Batch, stage: str) -> StepResult:
        """Compute cross-entropy and triplet of the global batch."""
        assert stage == "finetune"
        features = self.network.image.features(batch.views["weak"])
        losses = self.config.losses
        terms = self.network.identity_terms(
            gather_features(self.collective, features),
            self.collective.gather(batch.person_ids) + self._offset,
            losses.identity,
            losses.triplet,
        )
        return self.balanced_step(terms, term_weights(terms, losses))

    def balanced_step(
        self, terms: Mapping[str, Tensor], weights: Mapping[str, float]
    ) -> StepResult:
        """Build the step result, reweighted by GradNorm if enabled."""
        result = StepResult.of(terms, weights)
        return self.balance(result, self.shared_parameters(), self.collective.gather)

    def shared_parameters(self) -> Sequence[nn.Parameter]:
        """Return the last layer of the image tower, which all features share."""
        return self.network.image.last_layer()

    def end_domain(self, probe: Probe) -> None:
        """Interpolate with the weights before the domain, if configured."""
        if self.old is not None:
            interpolate_networks(self.network, self.old.module, self.interpolation, probe)
            self.old = None

    def embed_images(self, images: Tensor) -> Tensor:
        """Embed [B, 3, H, W] as the L2-normalised concatenation of all necks' outputs."""
        return self.network.embed(images)

    def facts(self) -> dict[str, Any]:
        """Return the classifier offset of the domain and whether an old model exists."""
        return {"offset": self._offset, "has_old": self.old is not None}

    def rebuild(self, facts: Mapping[str, Any]) -> None:
        """Create the old model if the saved state has one."""
        self._offset = int(facts["offset"])
        self.old = Frozen(self.network) if facts["has_old"] else None
