"""Sequential fine-tuning: cross-entropy and triplet, no text, nothing against forgetting.

The lower bound of every lifelong table. Interpolation is there to be switched on, so that a
method with it is compared with fine-tuning with it.
"""

from __future__ import annotations

from typing import Literal, final

from pydantic import Field

from models.backbones.tower import Backbone
from models.components.reid_network import InterpolationConfig
from models.components.supervised_learner import SupervisedConfig, SupervisedLearner
from models.learner import Collective


class Config(SupervisedConfig):
    """Settings of fine-tuning."""

    name: Literal["finetune"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="finetune", description="the learner"
    )
    interpolation: InterpolationConfig = Field(default_factory=InterpolationConfig)


@final
class Method(SupervisedLearner):
    """Fine-tuning on one domain after another."""

    def __init__(self, config: Config, backbone: Backbone, collective: Collective) -> None:
        super().__init__(config, backbone, collective, config.interpolation)
