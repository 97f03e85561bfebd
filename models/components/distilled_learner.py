"""Supervised learner that distils the affinities of the previous model."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from models.backbones.tower import Backbone
from models.components.reid_network import Frozen, InterpolationConfig, TermConfig
from models.components.supervised_learner import SupervisedConfig, SupervisedLearner
from models.learner import Collective, Probe
from tasks.schema import Domain


class BatchAffinityTermConfig(TermConfig):
    """KL divergence from the old to the new model's affinities within a batch, on f."""

    temperature: float = Field(default=0.1, gt=0, description="tau of both softmaxes")


class DistilledConfig(SupervisedConfig):
    """Configuration of supervised training with an old model."""

    first_epochs: int | None = Field(
        default=None, ge=1, description="epochs of the first domain; null = epochs"
    )


class DistilledLearner(SupervisedLearner):
    """Freezes the network at the start of a domain for distillation or interpolation."""

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
        """Freeze the old model and extend the classifiers."""
        frozen_for_interpolation = self.interpolation.mode != "none"
        if self._distils and self.network.num_identities and not frozen_for_interpolation:
            self.old = Frozen(self.network)
        super().begin_domain(domain, probe)

    @property
    def num_epochs(self) -> int:
        """Epochs of the main stage in the current domain (before any domain: in the first)."""
        return self._num_epochs[1 if self._offset else 0]

    def planned_epochs(self, domain_index: int) -> int:
        """Return the epochs of all stages; the first domain's main stage may differ in length."""
        others = super().planned_epochs(domain_index) - self.num_epochs
        return others + self._num_epochs[1 if domain_index else 0]

    def old_metric_feature(self, images: Tensor) -> Tensor | None:
        """Compute f [B, D] of the old model without gradient; None if nothing is distilled."""
        if self.old is None or not self._distils:
            return None
        network = self.old.module
        with torch.no_grad():
            return network.metric_feature(network.image.features(images))
