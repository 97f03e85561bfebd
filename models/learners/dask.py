"""DASK: distribution rehearsing via adaptive style kernel learning (Xu et al., AAAI 2025).

Only the style of a learned domain is stored: a small network, trained on that domain's images,
which gives any image the colours of the domain. While the next domain is learned, its images are
used twice, unchanged and in the style of the previous domain. Cross-entropy, triplet and the old
model's affinities apply to both. After the domain, old and new weights are averaged.
docs/baselines.md lists the differences from the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from models.backbones.tower import Backbone
from models.components.distilled_learner import (
    BatchAffinityTermConfig,
    DistilledConfig,
    DistilledLearner,
)
from models.components.reid_network import (
    Frozen,
    InterpolationConfig,
    TermConfig,
    gather_features,
    term_weights,
    trainable_patterns,
)
from models.components.supervised_learner import LossesConfig as SupervisedLossesConfig
from models.heads.style import (
    Channels,
    StyleNetwork,
    colour_distribution,
    colour_statistics,
    recolour,
    sample_statistics,
    style_noise,
)
from models.learner import Collective, OptimizerConfig, Probe, Stage, StepResult
from models.losses.alignment import affinity
from tasks.schema import Batch, Domain, FrozenConfig

STYLE_STAGE, MAIN_STAGE = "style", "dask"
REHEARSED = "rehearsed_"
"""Prefix of the names of terms on restyled images."""
_MAX_SEED = 2**62


class RehearsalTermConfig(TermConfig):
    """All terms on the images in the style of the previous domain."""

    weight: float = Field(
        default=4.5, ge=0, description="factor of all terms on restyled images; 0 = no rehearsal"
    )


class LossesConfig(SupervisedLossesConfig):
    """Loss terms."""

    affinity: BatchAffinityTermConfig = Field(default_factory=BatchAffinityTermConfig)
    rehearsal: RehearsalTermConfig = Field(default_factory=RehearsalTermConfig)


class StyleConfig(FrozenConfig):
    """Style network and its training."""

    epochs: int = Field(default=50, ge=1, description="epochs per domain")
    optimizer: OptimizerConfig = Field(default_factory=lambda: OptimizerConfig(lr=1e-3))
    width: int = Field(default=16, ge=1, description="channels of the first convolution")
    kernel_size: Literal[1, 3, 5, 7] = Field(
        default=3, description="k of the predicted k x k kernels"
    )
    channels: Channels = Field(
        default="mixed",
        description="mixed: each output channel depends on all three; separate: on itself only",
    )
    spread: float = Field(
        default=1.0,
        gt=0,
        description="spread of sampled colours, as a multiple of the domain's own deviation",
    )


class Config(DistilledConfig):
    """Configuration of DASK."""

    tower_terms: ClassVar[tuple[str, ...]] = ("identity", "triplet", "affinity")

    name: Literal["dask"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="dask", description="the learner"
    )
    losses: LossesConfig = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=LossesConfig
    )
    style: StyleConfig = Field(default_factory=StyleConfig)
    interpolation: InterpolationConfig = Field(
        default_factory=lambda: InterpolationConfig(mode="fixed", keep_diagonal=False)
    )

    @property
    def balanced(self) -> tuple[str, ...]:
        """Terms with a non-zero weight, and the same terms on restyled images."""
        names = super().balanced
        rehearsed = names if self.losses.rehearsal.weight else ()
        return (*names, *(REHEARSED + name for name in rehearsed))


@final
class Method(DistilledLearner):
    """DASK (Xu et al., AAAI 2025)."""

    style_step: Tensor
    style_colours: Tensor

    def __init__(self, config: Config, backbone: Backbone, collective: Collective) -> None:
        super().__init__(config, backbone, collective, config.interpolation, config.losses.affinity)
        self.losses, self.settings = config.losses, config.style
        self.style = StyleNetwork(
            config.style.width, config.style.kernel_size, config.style.channels, _generator()
        )
        self.rehearser: Frozen[StyleNetwork] | None = None
        self.register_buffer("style_step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("style_colours", torch.zeros(2, 2, 3))
        self._num_learned = 0

    def begin_domain(self, domain: Domain, probe: Probe) -> None:
        """Freeze the old model and the previous style network; reset the style network."""
        super().begin_domain(domain, probe)
        if self.losses.rehearsal.weight:
            if self._num_learned:
                self.rehearser = Frozen(self.style)
            self.style.reset(_generator())
            self.style_step.fill_(torch.initial_seed() % _MAX_SEED)
            statistics = probe(lambda images: {"colours": colour_statistics(images)})
            self.style_colours = colour_distribution(statistics["colours"])

    def stages(self) -> Sequence[Stage]:
        """Return the style stage, which the next domain needs, then the main stage."""
        stages = list[Stage]()
        if self.losses.rehearsal.weight:
            style = self.settings
            stages.append(
                Stage(STYLE_STAGE, style.epochs, ("weak",), ("style.*",), style.optimizer)
            )
        trainable = trainable_patterns(self.losses.identity)
        main = Stage(MAIN_STAGE, self.num_epochs, ("weak",), trainable, self.config.optimizer)
        return [*stages, main]

    def forward(self, batch: Batch, stage: str) -> StepResult:
        """Compute the loss terms of one stage on the global batch."""
        if stage == STYLE_STAGE:
            return StepResult.of({"restoration": self._restoration(batch)}, {"restoration": 1.0})
        return self._main_step(batch)

    def end_domain(self, probe: Probe) -> None:
        """Interpolate weights and drop the previous style network."""
        super().end_domain(probe)
        self.rehearser = None
        self._num_learned += 1

    def _restoration(self, batch: Batch) -> Tensor:
        """Compute the L1 distance between images and their recoloured, then restored, versions."""
        images = batch.views["weak"]
        noise = style_noise(int(self.style_step), batch.indices)
        self.style_step += 1
        statistics = sample_statistics(self.style_colours, noise, self.settings.spread)
        restored = self.style(recolour(images, statistics))
        return self.collective.gather((restored - images).abs().flatten(1).mean(1)).mean()

    def _main_step(self, batch: Batch) -> StepResult:
        targets = self.collective.gather(batch.person_ids) + self._offset
        terms: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        kinds = (("", 1.0), (REHEARSED, self.losses.rehearsal.weight))
        for (prefix, factor), images in zip(kinds, self._views(batch.views["weak"]), strict=False):
            view_terms = self._terms(images, targets)
            terms |= {prefix + name: value for name, value in view_terms.items()}
            view_weights = term_weights(view_terms, self.losses)
            weights |= {prefix + name: factor * weight for name, weight in view_weights.items()}
        return self.balanced_step(terms, weights)

    def _views(self, images: Tensor) -> list[Tensor]:
        """Return the images [B, 3, H, W] and, if there is a style, the restyled images."""
        if self.rehearser is None:
            return [images]
        with torch.no_grad():
            return [images, self.rehearser.module(images)]

    def _terms(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Compute the terms of one view of the global batch.

        Each view passes through the tower separately, so that the batch normalisation of a ResNet
        never mixes original and restyled images.

        Args:
            images: [B, 3, H, W] of this worker.
            targets: [G] classifier rows of the global batch.
        """
        features = gather_features(self.collective, self.network.image.features(images))
        terms = self.network.identity_terms(
            features, targets, self.losses.identity, self.losses.triplet
        )
        old = self.old_metric_feature(images)
        if old is not None:
            new, past = self.network.metric_feature(features), self.collective.gather(old)
            temperature = self.losses.affinity.temperature
            terms["affinity"] = affinity(new[:, None], past[:, None], temperature, "mean")
        return terms

    # State ------------------------------------------------------------------------------------

    def stored_bytes_per_domain(self) -> float:
        """Return the bytes of the stored style network per learned domain."""
        if not self.losses.rehearsal.weight:
            return 0.0
        num_bytes = sum(value.numel() * value.element_size() for value in self.style.parameters())
        return num_bytes / max(self._num_learned, 1)

    def facts(self) -> dict[str, Any]:
        """Add the number of learned domains and whether a previous style exists."""
        facts = {"num_learned": self._num_learned, "has_rehearser": self.rehearser is not None}
        return super().facts() | facts

    def rebuild(self, facts: Mapping[str, Any]) -> None:
        """Create the old model and the previous style network if the saved state has them."""
        super().rebuild(facts)
        self._num_learned = int(facts["num_learned"])
        self.rehearser = Frozen(self.style) if facts["has_rehearser"] else None


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(torch.initial_seed())
