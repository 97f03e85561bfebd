"""Joint training: cross-entropy and triplet on all seen domains at once.

Upper bound for lifelong learning: nothing is forgotten. The result matrix has two rows, before and
after training. Batches sample identities of all domains together, so a domain counts in proportion
to its number of identities; `epochs` counts passes over all of them.
"""

from __future__ import annotations

from typing import Literal, final

from pydantic import Field

from models.backbones.tower import Backbone
from models.components.reid_network import InterpolationConfig
from models.components.supervised_learner import SupervisedConfig, SupervisedLearner
from models.learner import Collective


class Config(SupervisedConfig):
    """Configuration of joint training."""

    name: Literal["joint"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="joint", description="the learner"
    )


@final
class Method(SupervisedLearner):
    """Joint training on all domains together."""

    course = "joint"

    def __init__(self, config: Config, backbone: Backbone, collective: Collective) -> None:
        # There are no weights of an earlier domain to interpolate with.
        super().__init__(config, backbone, collective, InterpolationConfig())
