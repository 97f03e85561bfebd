"""Learning without forgetting (Li & Hoiem 2017): the old model's answers are a second teacher.

Cross-entropy and triplet on the new domain. From the second domain on, the network as it was when
the domain began sees the same augmented images, and the new network is held to what the old one
says of them in terms of the old identities. No old image is kept. docs/baselines.md says where
this differs from the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from models.backbones.clip import ClipBackbone
from models.heads.bnneck import BNNeck
from models.learner import Collective, Probe, Stage, StepResult
from models.losses.distillation import distillation
from models.reid import (
    Frozen,
    InterpolationConfig,
    ReidNetwork,
    TermConfig,
    trainable_patterns,
    weights_of,
)
from models.supervised import LossesConfig as SupervisedLossesConfig
from models.supervised import SupervisedConfig, SupervisedLearner
from tasks.schema import Batch, Domain

Statistics = Literal["running", "batch"]


class DistillationTermConfig(TermConfig):
    """KL of the old model's answers to the new one's, over the identities of earlier domains."""

    temperature: float = Field(default=2.0, gt=0, description="T of both softmaxes")
    statistics: Statistics = Field(
        default="running",
        description="what the old model's necks normalise by: what they learned, as in its tests, "
        "or the batch, as the new model's necks do",
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

    def __init__(self, config: Config, backbone: ClipBackbone, collective: Collective) -> None:
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
        images, gather = batch.views["weak"], self.collective.gather
        features = self.network.image(images)
        class_token, projected = gather(features.class_token), gather(features.projected)
        targets = gather(batch.person_ids) + self._offset
        terms = self.network.identity_terms(
            class_token, projected, targets, self.losses.identity, self.losses.triplet
        )
        if self.old is not None and self._distils():
            terms["distillation"] = self._distillation(class_token, projected, images)
        return StepResult.of(terms, weights_of(terms, self.losses))

    def _distils(self) -> bool:
        return self.losses.distillation.weight > 0

    def _distillation(self, class_token: Tensor, projected: Tensor, images: Tensor) -> Tensor:
        """The term of the global batch [G], summed over both classifiers, as `identity` is.

        Args:
            class_token: [G, W] features g of the model in training.
            projected: [G, D] features f.
            images: [B, 3, H, W] of this worker, the very views those features are of.
        """
        assert self.old is not None
        old, settings = self.old.module, self.losses.distillation
        assert isinstance(old, ReidNetwork)
        with torch.no_grad():
            features = old.image(images)
            past = [self.collective.gather(f) for f in (features.class_token, features.projected)]
            teachers = _logits(old, past[0], past[1], settings.statistics)
        students = _logits(self.network, class_token, projected, "batch")
        # A classifier's first rows are the old identities.
        both = [
            distillation(student[:, : self._offset], teacher, settings.temperature)
            for student, teacher in zip(students, teachers, strict=True)
        ]
        return torch.stack(both).sum()


def _logits(
    network: ReidNetwork, class_token: Tensor, projected: Tensor, statistics: Statistics
) -> tuple[Tensor, Tensor]:
    """Logits [B, C] of both classifiers, from features [B, W] and [B, D]."""
    return (
        network.head_class(_normalised(network.neck_class, class_token, statistics)),
        network.head_projected(_normalised(network.neck_projected, projected, statistics)),
    )


def _normalised(neck: BNNeck, features: Tensor, statistics: Statistics) -> Tensor:
    """The neck's output, its running statistics left alone.

    Cross-entropy has counted the batch already; a second count would change the test embedding by
    other means than the loss.
    """
    by_batch = statistics == "batch"
    return functional.batch_norm(
        features,
        None if by_batch else neck.running_mean,
        None if by_batch else neck.running_var,
        neck.weight,
        neck.bias,
        training=by_batch,
        eps=neck.eps,
    )
