"""Learning without forgetting (Li & Hoiem 2017): distillation from the previous model.

Cross-entropy and triplet on the new domain. From the second domain on, a frozen copy of the network
from the start of the domain sees the same augmented images. Its predictions over the old identities
are distilled into the new network. No old images are stored. docs/baselines.md lists the
differences from the paper.
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
    Statistics,
    TermConfig,
    gather_features,
    term_weights,
    trainable_patterns,
)
from models.components.supervised_learner import LossesConfig as SupervisedLossesConfig
from models.components.supervised_learner import SupervisedConfig, SupervisedLearner
from models.learner import Collective, Probe, Stage, StepResult
from models.losses.distillation import distillation
from tasks.schema import Batch, Domain


class DistillationTermConfig(TermConfig):
    """KL divergence from the old to the new model over the identities of earlier domains."""

    temperature: float = Field(default=2.0, gt=0, description="T of both softmaxes")
    statistics: Statistics = Field(
        default="batch",
        description="statistics that the old model's necks normalise by: those of the batch, as in "
        "the new model, or the running statistics, as in evaluation",
    )


class LossesConfig(SupervisedLossesConfig):
    """Loss terms."""

    distillation: DistillationTermConfig = Field(default_factory=DistillationTermConfig)

    @model_validator(mode="after")
    def _check_distillation(self) -> LossesConfig:
        if self.distillation.weight and not self.identity.weight:
            raise ValueError(
                "distillation compares classifiers, which only identity trains: set "
                "identity.weight > 0 or distillation.weight = 0"
            )
        return self


class Config(SupervisedConfig):
    """Configuration of learning without forgetting."""

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
    """LwF (Li & Hoiem 2017): fine-tuning with distillation; old classifier rows keep training."""

    def __init__(self, config: Config, backbone: Backbone, collective: Collective) -> None:
        super().__init__(config, backbone, collective, config.interpolation)
        self.losses = config.losses

    def begin_domain(self, domain: Domain, probe: Probe) -> None:
        """Freeze the old model before extending the classifiers by the new identities."""
        frozen_for_interpolation = self.interpolation.mode != "none"
        if self._distils() and self.network.num_identities and not frozen_for_interpolation:
            self.old = Frozen(self.network)
        super().begin_domain(domain, probe)

    def stages(self) -> Sequence[Stage]:
        """Return one stage; distillation needs no parameters beyond those of cross-entropy."""
        trainable = trainable_patterns(self.losses.identity)
        return [Stage("lwf", self.config.epochs, ("weak",), trainable, self.config.optimizer)]

    def forward(self, batch: Batch, stage: str) -> StepResult:
        """Compute cross-entropy, triplet and, from the second domain on, distillation."""
        assert stage == "lwf"
        images = batch.views["weak"]
        features = gather_features(self.collective, self.network.image.features(images))
        targets = self.collective.gather(batch.person_ids) + self._offset
        terms = self.network.identity_terms(
            features, targets, self.losses.identity, self.losses.triplet
        )
        if self.old is not None and self._distils():
            terms["distillation"] = self._distillation(features, images)
        return self.balanced_step(terms, term_weights(terms, self.losses))

    def _distils(self) -> bool:
        return self.losses.distillation.weight > 0

    def _distillation(self, features: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Compute distillation on the global batch of G images, summed over the classifiers.

        Args:
            features: [G, dim] each, from the model in training.
            images: [B, 3, H, W] of this worker, the views that `features` were computed from.
        """
        assert self.old is not None
        old, settings = self.old.module, self.losses.distillation
        with torch.no_grad():
            past = gather_features(self.collective, old.image.features(images))
            teachers = old.logits_without_update(past, settings.statistics)
        students = self.network.logits_without_update(features, "batch")
        # The first rows of a classifier belong to the old identities.
        losses = [
            distillation(student[:, : self._offset], teacher, settings.temperature)
            for student, teacher in zip(students, teachers, strict=True)
        ]
        return torch.stack(losses).sum()
