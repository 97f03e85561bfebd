"""Supervised learning that holds on to the affinities of the model before the domain."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from models.backbones.tower import Backbone
from models.components.reid_network import Frozen, InterpolationConfig, ReidNetwork, TermConfig
from models.components.supervised_learner import SupervisedConfig, SupervisedLearner
from models.learner import Collective, Probe
from tasks.schema import Domain


class BatchAffinityTermConfig(TermConfig):
    """KL of the old to the new model's affinities among the images of a batch, on f."""

    temperature: float = Field(default=0.1, gt=0, description="tau of both softmaxes")


class DistilledConfig(SupervisedConfig):
    """Settings of supervised learning beside an old model."""

    first_epochs: int | None = Field(
        default=None, ge=1, description="epochs of the first domain; null = epochs"
    )


class DistilledLearner(SupervisedLearner):
    """Freezes the network as a domain begins, if affinities are distilled or weights mixed."""

    def __init__(
        self,
        config: DistilledConfig,
        backbone: Backbone,
        collective: Collective,
        interpolation: InterpolationConfig,
        affinity: TermConfig,
    ) -> None:
        super().__init__(config, backbone, collective, interpolation)
        self._distils = affinity.weight > 0
        self._num_epochs = (config.first_epochs or config.epochs, config.epochs)

    def begin_domain(self, domain: Domain, probe: Probe) -> None:
        """Freezes the old model and grows the classifiers."""
        frozen_for_interpolation = self.interpolation.mode != "none"
        if self._distils and self.network.num_identities and not frozen_for_interpolation:
            self.old = Frozen(self.network)
        super().begin_domain(domain, probe)

    @property
    def num_epochs(self) -> int:
        """Length of the main stage in the domain begun last (the first one, before any)."""
        return self._num_epochs[1 if self._offset else 0]

    def planned_epochs(self, domain_index: int) -> int:
        """Epochs of all stages of a domain, whose main stage has a length of its own."""
        others = super().planned_epochs(domain_index) - self.num_epochs
        return others + self._num_epochs[1 if domain_index else 0]

    def old_metric_feature(self, images: Tensor) -> Tensor | None:
        """f [B, D] of the old model without gradient, or None where none is to be followed."""
        if self.old is None or not self._distils:
            return None
        network = self.old.module
        assert isinstance(network, ReidNetwork)
        with torch.no_grad():
            return network.metric_feature(network.image.features(images))
