"""LSTKC: long short-term knowledge consolidation (Xu et al., AAAI 2024).

Cross-entropy and triplet on the new domain. Short term: the old model's affinities among the images
of a batch are rectified where they contradict the identities, and distilled. Long term: after the
domain, old and new weights are interpolated; the more the affinities changed, the smaller the
weight of the new model. docs/baselines.md lists the differences from the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, final

from pydantic import Field
from torch import Tensor

from models.backbones.tower import Backbone
from models.components.distilled_learner import (
    BatchAffinityTermConfig,
    DistilledConfig,
    DistilledLearner,
)
from models.components.reid_network import (
    InterpolationConfig,
    gather_features,
    term_weights,
    trainable_patterns,
)
from models.components.supervised_learner import LossesConfig as SupervisedLossesConfig
from models.learner import Collective, Stage, StepResult
from models.losses.affinity import rectified_affinity
from models.losses.alignment import affinity
from tasks.schema import Batch


class RectifiedTermConfig(BatchAffinityTermConfig):
    """KL divergence from rectified affinities to the new model's affinities, on f."""

    rectify: bool = Field(default=True, description="rectify the old affinities by identity")
    gradient_to_target: bool = Field(
        default=False,
        description="backpropagate through target entries of the new model (authors' code: yes)",
    )


class LossesConfig(SupervisedLossesConfig):
    """Loss terms."""

    affinity: RectifiedTermConfig = Field(default_factory=RectifiedTermConfig)


class Config(DistilledConfig):
    """Configuration of LSTKC."""

    tower_terms: ClassVar[tuple[str, ...]] = ("identity", "triplet", "affinity")

    name: Literal["lstkc"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="lstkc", description="the learner"
    )
    losses: LossesConfig = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=LossesConfig
    )
    interpolation: InterpolationConfig = Field(
        default_factory=lambda: InterpolationConfig(mode="adaptive")
    )


@final
class Method(DistilledLearner):
    """LSTKC (Xu et al., AAAI 2024)."""

    def __init__(self, config: Config, backbone: Backbone, collective: Collective) -> None:
        super().__init__(config, backbone, collective, config.interpolation, config.losses.affinity)
        self.losses = config.losses

    def stages(self) -> Sequence[Stage]:
        """Return the single training stage."""
        trainable = trainable_patterns(self.losses.identity)
        return [Stage("lstkc", self.num_epochs, ("weak",), trainable, self.config.optimizer)]

    def forward(self, batch: Batch, stage: str) -> StepResult:
        """Compute cross-entropy, triplet and, from the second domain on, affinity."""
        assert stage == "lstkc"
        images, gather = batch.views["weak"], self.collective.gather
        features = gather_features(self.collective, self.network.image.features(images))
        person_ids = gather(batch.person_ids)
        terms = self.network.identity_terms(
            features, person_ids + self._offset, self.losses.identity, self.losses.triplet
        )
        old = self.old_metric_feature(images)
        if old is not None:
            new = self.network.metric_feature(features)
            terms["affinity"] = self._affinity(new, gather(old), person_ids)
        return self.balanced_step(terms, term_weights(terms, self.losses))

    def _affinity(self, new: Tensor, old: Tensor, person_ids: Tensor) -> Tensor:
        settings = self.losses.affinity
        if not settings.rectify:
            return affinity(new[:, None], old[:, None], settings.temperature, "mean")
        return rectified_affinity(
            new, old, person_ids, settings.temperature, settings.gradient_to_target
        )
