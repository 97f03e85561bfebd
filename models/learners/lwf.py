"""Learning without forgetting (Li & Hoiem 2017): the old model's answers are a second teacher.

Cross-entropy and triplet on the new domain. From the second domain on, the network as it was when
the domain began sees the same augmented images, and the new network is held to what the old one
says of them in terms of the old identities. No old image is kept. docs/baselines.md says where
this differs from the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, final

import torch
from pydantic import Field, model_validator
from torch import Tensor

from models.backbones.tower import Backbone
from models.components.reid_network import (
    Frozen,
    InterpolationConfig,
    ReidNetwork,
    Statistics,
    TermConfig,
    gathered,
    trainable_patterns,
    weights_of,
)
from models.components.supervised_learner import LossesConfig as SupervisedLossesConfig
from models.components.supervised_learner import SupervisedConfig, SupervisedLearner
from models.learner import Collective, Probe, Stage, StepResult
from models.losses.distillation import distillation
from tasks.schema import Batch, Domain


class DistillationTermConfig(TermConfig):
    """KL of the old model's answers to the new one's, over the identities of earlier domains."""

    temperature: float = Field(default=2.0, gt=0, description="T of both softmaxes")
    statistics: Statistics = Field(
        default="batch",
        description="what the old model's necks normalise by: the batch, as the new model's necks "
        "do, or what they learned, as in the old model's tests",
    )


class LossesConfig(SupervisedLossesConfig):
    """The loss terms."""

    distillation: DistillationTermConfig = Field(default_factory=DistillationTermConfig)

    @model_validator(mode="after")
    def _trained_classifiers(self) -> LossesConfig:
        if self.distillation.weight and not self.identity.weight:
            raise ValueError(
                "distillation compares classifiers, which identity alone trains: give identity a "
                "weight above 0, or distillation the weight 0"
            )
        return self


class Config(SupervisedConfig):
    """Settings of learning without forgetting."""

    tower_terms: ClassVar[tuple[str, ...]] = ("identity", "triplet", "distillation")

    name: Literal["lwf"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="lwf", description="the learner"
    )
    losses: LossesConfig = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=LossesConfig
    )
    interpolation: InterpolationConfig = Field(default_factory=InterpolationConfig)


@final
class Method(SupervisedLearner):
    """Fine-tuning that keeps the old model's answers; the old classifier rows train on."""

    def __init__(self, config: Config, backbone: Backbone, collective: Collective) -> None:
        super().__init__(config, backbone, collective, config.interpolation)
        self.losses = config.losses

    def begin_domain(self, domain: Domain, probe: Probe) -> None:
        """Freezes the old model, whose classifiers know the old identities alone, then grows."""
        frozen_for_interpolation = self.interpolation.mode != "none"
        if self._distils() and self.network.num_identities and not frozen_for_interpolation:
            self.old = Frozen(self.network)
        super().begin_domain(domain, probe)

    def stages(self) -> Sequence[Stage]:
        """One stage; distillation reads nothing that cross-entropy does not train anyway."""
        trainable = trainable_patterns(self.losses.identity)
        return [Stage("lwf", self.config.epochs, ("weak",), trainable, self.config.optimizer)]

    def forward(self, batch: Batch, stage: str) -> StepResult:
        """Cross-entropy, triplet and, from the second domain on, distillation."""
        assert stage == "lwf"
        images = batch.views["weak"]
        features = gathered(self.collective, self.network.image.features(images))
        targets = self.collective.gather(batch.person_ids) + self._offset
        terms = self.network.identity_terms(
            features, targets, self.losses.identity, self.losses.triplet
        )
        if self.old is not None and self._distils():
            terms["distillation"] = self._distillation(features, images)
        return self.balanced_step(terms, weights_of(terms, self.losses))

    def _distils(self) -> bool:
        return self.losses.distillation.weight > 0

    def _distillation(self, features: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """The term of the global batch [G], summed over the classifiers, as `identity` is.

        Args:
            features: [G, dim] each, of the model in training.
            images: [B, 3, H, W] of this worker, the very views those features are of.
        """
        assert self.old is not None
        old, settings = self.old.module, self.losses.distillation
        assert isinstance(old, ReidNetwork)
        with torch.no_grad():
            past = gathered(self.collective, old.image.features(images))
            teachers = old.uncounted_logits(past, settings.statistics)
        students = self.network.uncounted_logits(features, "batch")
        # A classifier's first rows are the old identities.
        found = [
            distillation(student[:, : self._offset], teacher, settings.temperature)
            for student, teacher in zip(students, teachers, strict=True)
        ]
        return torch.stack(found).sum()
