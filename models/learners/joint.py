"""Joint training: the people of all seen domains at once, by cross-entropy and triplet.

The upper bound of every lifelong table: nothing is forgotten because nothing is left behind. Its
result matrix has the row before training and the row after, as there is nothing in between.
Batches are drawn over the people of all domains together, so a domain counts as many times as it
has people; `epochs` counts passes over all of them.
"""

from __future__ import annotations

from typing import Literal, final

from pydantic import Field

from models.backbones.tower import Backbone
from models.components.reid_network import InterpolationConfig
from models.components.supervised_learner import SupervisedConfig, SupervisedLearner
from models.learner import Collective


class Config(SupervisedConfig):
    """Settings of joint training."""

    name: Literal["joint"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="joint", description="the learner"
    )


@final
class Method(SupervisedLearner):
    """Fine-tuning on all domains together."""

    course = "joint"

    def __init__(self, config: Config, backbone: Backbone, collective: Collective) -> None:
        # One course over everything has no weights of an earlier domain to mix with.
        super().__init__(config, backbone, collective, InterpolationConfig())
