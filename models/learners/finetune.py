"""Sequential fine-tuning: cross-entropy and triplet, without protection against forgetting.

Lower bound for lifelong learning. Weight interpolation is optional, so that methods that use it can
be compared with fine-tuning plus interpolation.
"""

from __future__ import annotations

from typing import Literal, final

from pydantic import Field

from models.backbones.tower import Backbone
from models.components.reid_network import InterpolationConfig
from models.components.supervised_learner import SupervisedConfig, SupervisedLearner
from models.learner import Collective


class Config(SupervisedConfig):
    """Configuration of fine-tuning."""

    name: Literal["finetune"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="finetune", description="the learner"
    )
    interpolation: InterpolationConfig = Field(default_factory=InterpolationConfig)


@final
class Method(SupervisedLearner):
    """Sequential fine-tuning."""

    def __init__(self, config: Config, backbone: Backbone, collective: Collective) -> None:
        super().__init__(config, backbone, collective, config.interpolation)
