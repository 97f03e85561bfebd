"""No training: the pretrained encoder as it comes, scored on every domain.

Row 0 of every other learner's result matrix, as a run and a table row of its own.
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
    """There is nothing to set."""

    name: Literal["zero_shot"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="zero_shot", description="the learner"
    )


@final
class Method(Learner):
    """Embeds; learns nothing."""

    course = "none"

    def __init__(self, config: Config, backbone: Backbone, collective: Collective) -> None:
        super().__init__(collective)
        self.config = config
        self.network = ReidNetwork(backbone.image)

    def begin_domain(self, domain: Domain, probe: Probe) -> None:
        """Nothing to grow."""

    def stages(self) -> Sequence[Stage]:
        """None."""
        return ()

    def forward(self, batch: Batch, stage: str) -> StepResult:
        """Never called: there is no stage."""
        raise AssertionError(f"zero_shot has no stage {stage!r}")

    def embed_images(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> L2-normalised concatenation of all necks' outputs."""
        return self.network.embed(images)
