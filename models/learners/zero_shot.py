"""Pretrained encoder without training, evaluated on every domain.

Row 0 of every other learner's result matrix, as a separate run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

from pydantic import Field
from torch import Tensor

from models.backbones.tower import Backbone
from models.components.reid_network import ReidNetwork
from models.learner import Collective, Learner, LearnerConfig, Probe, Stage, StepResult
from tasks.schema import Batch, Domain


class Config(LearnerConfig):
    """Configuration of zero-shot evaluation; it has no settings."""

    name: Literal["zero_shot"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="zero_shot", description="the learner"
    )


@final
class Method(Learner):
    """Embeds images with the pretrained encoder; trains nothing."""

    course = "none"

    def __init__(self, config: Config, backbone: Backbone, collective: Collective) -> None:
        super().__init__(collective)
        self.config = config
        self.network = ReidNetwork(backbone.image)

    def begin_domain(self, domain: Domain, probe: Probe) -> None:
        """Do nothing: there is no classifier."""

    def stages(self) -> Sequence[Stage]:
        """Return no stages."""
        return ()

    def forward(self, batch: Batch, stage: str) -> StepResult:
        """Raise: the learner has no stages."""
        raise AssertionError(f"zero_shot has no stage {stage!r}")

    def embed_images(self, images: Tensor) -> Tensor:
        """Embed [B, 3, H, W] as the L2-normalised concatenation of all necks' outputs."""
        return self.network.embed(images)
