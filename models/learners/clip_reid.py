"""CLIP-ReID (Li et al., AAAI 2023), trained on one domain after another.

Each domain has two stages. First, one prompt of free tokens per identity is learned while both
encoders are frozen. Then the image tower is trained by cross-entropy, triplet and image-to-text
cross-entropy. No descriptions are needed. There is no protection against forgetting: this is the
text-aware baseline. docs/baselines.md lists the differences from the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, final

import torch
from pydantic import Field, model_validator
from torch import Tensor

from models.backbones.tower import ImageTextBackbone
from models.components.reid_network import (
    Frozen,
    IdentityTermConfig,
    InterpolationConfig,
    TermConfig,
    TripletTermConfig,
    check_any_enabled,
    gather_features,
    term_weights,
    trainable_patterns,
)
from models.components.supervised_learner import LossesConfig as SupervisedLossesConfig
from models.components.supervised_learner import SupervisedConfig, SupervisedLearner
from models.learner import Collective, OptimizerConfig, Probe, ScheduleConfig, Stage, StepResult
from models.losses.contrastive import same_identity, symmetric_contrastive
from models.losses.identity import cross_entropy
from models.losses.similarity import cosine_matrix
from models.vladr.prompts import MatchTermConfig, TextualIdentities
from tasks.schema import Batch, Domain, FrozenConfig

PROMPT_STAGE, IMAGE_STAGE = "prompts", "clip-reid"


class QuarterIdentityTermConfig(IdentityTermConfig):
    """Cross-entropy over all identities learned so far, with the authors' weight."""

    weight: float = Field(default=0.25, ge=0, description="factor of the term in the loss; 0 = off")


class MarginTripletTermConfig(TripletTermConfig):
    """Batch-hard triplet on f, with the authors' margin."""

    margin: float | None = Field(default=0.3, ge=0, description="hinge margin; null = soft margin")


class ImageTextTermConfig(TermConfig):
    """Cross-entropy of cos(f, t_g) / temperature over the domain's identity prompts."""

    temperature: float = Field(default=0.07, gt=0, description="tau")
    label_smoothing: float = Field(
        default=0.1, ge=0, lt=1, description="mass spread over all identities of the domain"
    )


class LossesConfig(SupervisedLossesConfig):
    """Loss terms: match_global trains the prompts, the others the image tower."""

    match_global: MatchTermConfig = Field(default_factory=MatchTermConfig)
    identity: QuarterIdentityTermConfig = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=QuarterIdentityTermConfig
    )
    triplet: MarginTripletTermConfig = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=MarginTripletTermConfig
    )
    image_text: ImageTextTermConfig = Field(default_factory=ImageTextTermConfig)

    @model_validator(mode="after")
    def _check_losses(self) -> LossesConfig:
        names = ("identity", "triplet", "image_text")
        check_any_enabled({name: getattr(self, name) for name in names}, "the image tower")
        return self


def _prompt_optimizer() -> OptimizerConfig:
    schedule = ScheduleConfig(
        kind="cosine", warmup_epochs=5, warmup_factor=0.0286, final_factor=0.00286
    )
    return OptimizerConfig(lr=3.5e-4, weight_decay=1e-4, schedule=schedule)


def _image_optimizer() -> OptimizerConfig:
    schedule = ScheduleConfig(
        kind="multistep", warmup_epochs=10, warmup_factor=0.1, milestone_epochs=(30, 50)
    )
    return OptimizerConfig(lr=5e-6, weight_decay=1e-4, bias_lr_factor=2, schedule=schedule)


class PromptStageConfig(FrozenConfig):
    """Stage that learns the identity prompts."""

    epochs: int = Field(default=120, ge=1, description="epochs of the stage in each domain")
    num_identity_tokens: int = Field(
        default=4, ge=1, description="free tokens of an identity prompt"
    )
    optimizer: OptimizerConfig = Field(
        default_factory=_prompt_optimizer, description="optimiser and schedule of the stage"
    )


class Config(SupervisedConfig):
    """Configuration of CLIP-ReID; `epochs` and `optimizer` apply to the image stage."""

    tower_terms: ClassVar[tuple[str, ...]] = ("identity", "triplet", "image_text")

    name: Literal["clip_reid"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="clip_reid", description="the learner"
    )
    losses: LossesConfig = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=LossesConfig
    )
    optimizer: OptimizerConfig = Field(default_factory=_image_optimizer)
    prompts: PromptStageConfig = Field(default_factory=PromptStageConfig)
    interpolation: InterpolationConfig = Field(default_factory=InterpolationConfig)

    @property
    def trains_prompts(self) -> bool:
        """Whether match_global trains the prompts and image_text uses them."""
        return bool(self.losses.image_text.weight and self.losses.match_global.weight)


@final
class Method(SupervisedLearner):
    """CLIP-ReID (Li et al., AAAI 2023)."""

    unsaved = ("text.",)
    reads_texts = True
    needs_joint_space = True

    def __init__(self, config: Config, backbone: ImageTextBackbone, collective: Collective) -> None:
        super().__init__(config, backbone, collective, config.interpolation)
        self.settings = config
        self.text = backbone.text
        generator = torch.Generator().manual_seed(torch.initial_seed())
        self.textual = TextualIdentities(config.prompts.num_identity_tokens, self.text, generator)

    def begin_domain(self, domain: Domain, probe: Probe) -> None:
        """Extend the classifiers and create prompts for new identities in one pass."""
        if self.network.num_identities and self.interpolation.mode != "none":
            self.old = Frozen(self.network)
        features = probe(self.network.image.features)
        projected = features["projected"]
        person_ids = torch.from_numpy(domain.person_ids).to(projected.device)
        self._offset = self.network.num_identities
        self.network.grow(features, person_ids)
        self.balance.begin_domain()
        generator = torch.Generator().manual_seed(torch.initial_seed())
        self.textual.begin_identities(domain.num_persons, projected, generator)
        if not self.settings.trains_prompts:
            self.textual.drop_image_features()
            if self.settings.losses.image_text.weight:
                self.textual.freeze_identities(self.text)

    def stages(self) -> Sequence[Stage]:
        """Return the prompt stage, if prompts are trained and used, then the image stage."""
        config, stages = self.settings, list[Stage]()
        if config.trains_prompts:
            trainable, prompts = ("textual.identities.*",), config.prompts
            stages.append(Stage(PROMPT_STAGE, prompts.epochs, (), trainable, prompts.optimizer))
        trainable = trainable_patterns(config.losses.identity)
        stages.append(Stage(IMAGE_STAGE, config.epochs, ("weak",), trainable, config.optimizer))
        return stages

    def forward(self, batch: Batch, stage: str) -> StepResult:
        """Compute the loss terms of one stage on the global batch."""
        terms = self._prompt_terms(batch) if stage == PROMPT_STAGE else self._image_terms(batch)
        return self.balanced_step(terms, term_weights(terms, self.settings.losses))

    def end_stage(self, stage: str, probe: Probe) -> None:
        """Encode the learned prompts once; the image stage looks their text features up."""
        if stage == PROMPT_STAGE:
            self.textual.freeze_identities(self.text)
            self.textual.drop_image_features()

    def _prompt_terms(self, batch: Batch) -> dict[str, Tensor]:
        gather = self.collective.gather
        image = gather(self.textual.image_features[batch.indices])
        text = gather(self.textual.encode_identities(batch.person_ids, self.text))
        positives = same_identity(gather(batch.person_ids))
        temperature = self.settings.losses.match_global.temperature
        return {"match_global": symmetric_contrastive(image, text, positives, temperature)}

    def _image_terms(self, batch: Batch) -> dict[str, Tensor]:
        losses, gather = self.settings.losses, self.collective.gather
        features = gather_features(
            self.collective, self.network.image.features(batch.views["weak"])
        )
        projected, person_ids = features["projected"], gather(batch.person_ids)
        terms = self.network.identity_terms(
            features, person_ids + self._offset, losses.identity, losses.triplet
        )
        if losses.image_text.weight:
            cosines = cosine_matrix(projected, self.textual.identity_features)
            logits = cosines / losses.image_text.temperature
            smoothing = losses.image_text.label_smoothing
            terms["image_text"] = cross_entropy(logits, person_ids, smoothing)
        return terms
