"""The settings of VLADR; models/learners/vladr.py says what they do."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from models.components.cross_domain_alignment import (
    EMBEDDING_FORMS,
    Alignment,
    CrossDomainLossesConfig,
    compares_embeddings,
    compares_parts,
    needs_old_model,
)
from models.components.gradnorm import BalancedConfig
from models.components.reid_network import (
    BOTH_CLASSIFIERS,
    Classifier,
    IdentityTermConfig,
    InterpolationConfig,
    TermConfig,
    TripletTermConfig,
    check_any_on,
)
from models.learner import OptimizerConfig, ScheduleConfig
from models.losses.contrastive import Similarity
from models.vladr.prompts import Control, Descriptions, MatchTermConfig
from tasks.schema import FrozenConfig


class GlobalMatchTermConfig(MatchTermConfig):
    """SupCon between images and identity prompts, positives: same identity."""

    similarity: Similarity = Field(
        default="cosine",
        description="what tau divides: cosines, or inner products of features as they are "
        "(authors' code, where tau is 1)",
    )


class ClassifiersTermConfig(IdentityTermConfig):
    """Cross-entropy over all identities learned so far, summed over the classifiers named."""

    classifiers: tuple[Classifier, ...] = Field(
        default=BOTH_CLASSIFIERS,
        description="which classifiers train: on g (class_token), on f (projected), or both",
    )

    @field_validator("classifiers")
    @classmethod
    def _each_once(cls, names: tuple[Classifier, ...]) -> tuple[Classifier, ...]:
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"expected class_token, projected or both, each once; got [{', '.join(names)}] "
                "(weight 0 switches the term off)"
            )
        return names


class TextIdentityTermConfig(TermConfig):
    """Cross-entropy (a light head, dropped after the stage) + triplet on mean_k t_k."""

    margin: float | None = Field(
        default=0.3, ge=0, description="triplet margin; null = soft margin"
    )
    logit_scale: float = Field(default=14.0, gt=0, description="factor of the head's cosines")


class ImageTextTermConfig(TermConfig):
    """L_global: cross-entropy of cos(f, t_g) / temperature over identities."""

    temperature: float = Field(
        default=0.07, gt=0, description="tau; the authors' code has none (1)"
    )
    candidates: Literal["batch", "domain"] = Field(
        default="batch", description="identities of the batch, or all of the domain"
    )


class CmaTermConfig(TermConfig):
    """L_CMA: every visual attribute v_k towards its text t_k."""

    distance: Literal["contrastive", "cosine"] = Field(
        default="contrastive", description="symmetric InfoNCE over the batch, or 1 - cos"
    )
    temperature: float = Field(default=0.07, gt=0, description="tau of the contrastive distance")
    reduction: Literal["sum", "mean"] = Field(default="mean", description="over the K attributes")
    positives: Literal["caption", "diagonal"] = Field(
        default="caption", description="equal texts are positives too, or the image's own alone"
    )


class LossesConfig(CrossDomainLossesConfig):
    """Every loss term by name; the forms of L_IDA count only if learner.alignment lists them."""

    match_global: GlobalMatchTermConfig = Field(default_factory=GlobalMatchTermConfig)
    match_local: MatchTermConfig = Field(default_factory=MatchTermConfig)
    orthogonality: TermConfig = Field(default_factory=TermConfig)
    text_identity: TextIdentityTermConfig = Field(default_factory=TextIdentityTermConfig)
    identity: ClassifiersTermConfig = Field(default_factory=ClassifiersTermConfig)
    triplet: TripletTermConfig = Field(default_factory=TripletTermConfig)
    image_text: ImageTextTermConfig = Field(default_factory=ImageTextTermConfig)
    cma: CmaTermConfig = Field(default_factory=CmaTermConfig)

    @model_validator(mode="after")
    def _some_loss(self) -> LossesConfig:
        names = ("identity", "triplet", "image_text", "cma")
        check_any_on({name: getattr(self, name) for name in names}, "stage icar")
        on_f = self.triplet.weight or self.image_text.weight or self.cma.weight
        if not on_f and "projected" not in self.identity.classifiers:
            raise ValueError(
                "identity.classifiers=[class_token] alone reads g, before the tower's projection, "
                "which then nothing trains: give triplet, image_text or cma a weight above 0, or "
                "name projected too"
            )
        return self


class StageConfig(FrozenConfig):
    """Length and optimiser of one stage."""

    epochs: int = Field(ge=1, description="epochs of the stage in each domain")
    optimizer: OptimizerConfig = Field(description="optimiser and schedule of the stage")


def _prompt_stage() -> StageConfig:
    return StageConfig(epochs=120, optimizer=OptimizerConfig(lr=3.5e-4, weight_decay=1e-4))


def _image_stage() -> StageConfig:
    schedule = ScheduleConfig(kind="multistep", warmup_epochs=10, milestone_epochs=(30,))
    return StageConfig(
        epochs=60,
        optimizer=OptimizerConfig(
            lr=5e-6,
            weight_decay=1e-4,
            bias_lr_factor=2,
            no_decay=("network.decoder.*",),
            schedule=schedule,
        ),
    )


class Config(BalancedConfig):
    """Settings of VLADR; every part of the ablation is a switch here."""

    name: Literal["vladr"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="vladr", description="the learner"
    )
    num_attributes: int = Field(
        default=4, ge=1, description="K, attributes (head, upper, lower, foot)"
    )
    num_decoder_heads: int = Field(default=8, ge=1, description="attention heads of the decoder")
    descriptions: Descriptions = Field(
        default="parts",
        description="the K texts of an image: its parts; the whole description, any K; or the "
        "whole description's words dealt at random (ablation)",
    )
    control: Control = Field(
        default="none",
        description="give every person of a domain the frozen identity prompt of another one, or "
        "every image the descriptions of another person's (controls, which must score worse)",
    )
    granularity: Literal["attribute", "global", "both"] = Field(
        default="attribute",
        description="what L_IDA and the memory hold: v_k, f alone (ablation), or v_k and f",
    )
    alignment: tuple[Alignment, ...] = Field(
        default=("affinity",), description="forms of L_IDA, summed; empty switches it off"
    )
    views: Literal["weak", "both"] = Field(
        default="weak", description="views that image_text, cma and L_IDA read; L_reid reads both"
    )
    teacher: Literal["model", "features"] = Field(
        default="model",
        description="what L_IDA follows: the frozen old model, which sees the student's views; or "
        "what it made of the training images as the domain began, to which the student's view "
        "under the test transform is compared: then no old model is kept",
    )
    num_centroids: int = Field(
        default=16, ge=2, description="centroid_relation: centroids of each attribute and domain"
    )
    prototypes: Literal["refreshed", "online"] = Field(
        default="refreshed",
        description="end of a domain: exact means after interpolation, or the EMA",
    )
    prototype_momentum: float = Field(
        default=0.9, ge=0, le=1, description="m of the prototypes' EMA"
    )
    prompt_features: Literal["current", "pretrained"] = Field(
        default="current",
        description="the image features that prompts learn to match: of the tower as it stands, "
        "or of the untouched CLIP, which is then held beside it (authors' code)",
    )
    num_identity_tokens: int = Field(
        default=4, ge=1, description="free tokens of an identity prompt"
    )
    num_attribute_tokens: int = Field(
        default=2, ge=0, description="free tokens M of an attribute prompt; 0 = raw descriptions"
    )
    neck_bias: bool = Field(
        default=False, description="learn the shift of the BN necks in stage 2, or fix it at 0"
    )
    new_rows: Literal["features", "necks"] = Field(
        default="features",
        description="a new identity's classifier row is the centre of its features, or of what "
        "the necks as they stand make of them (authors' code)",
    )
    losses: LossesConfig = Field(default_factory=LossesConfig)
    interpolation: InterpolationConfig = Field(default_factory=InterpolationConfig)
    mtad_identity: StageConfig = Field(default_factory=_prompt_stage)
    mtad_attribute: StageConfig = Field(default_factory=_prompt_stage)
    icar: StageConfig = Field(default_factory=_image_stage)

    @model_validator(mode="after")
    def _control_is_read(self) -> Config:
        readers = {"permuted_identities": "image_text", "permuted_captions": "cma"}
        reader = readers.get(self.control)
        if reader and not getattr(self.losses, reader).weight:
            raise ValueError(
                f"control={self.control} needs losses.{reader} with a weight above 0: no other "
                "term reads these texts"
            )
        return self

    @model_validator(mode="after")
    def _teacher_has_what_forms_read(self) -> Config:
        if self.teacher == "features" and compares_embeddings(self.forms):
            raise ValueError(
                f"{' and '.join(EMBEDDING_FORMS)} compare embeddings under each batch's own "
                "statistics, which cannot be kept: set teacher=model, or drop them from alignment"
            )
        return self

    @property
    def balanced(self) -> tuple[str, ...]:
        """The terms that GradNorm weighs: those of the image tower, the forms of L_IDA aside."""
        names = ("identity", "triplet", "image_text", "cma")
        return tuple(name for name in names if getattr(self.losses, name).weight)

    @property
    def needs_old_model(self) -> bool:
        """Whether L_IDA follows the frozen model of the previous domain."""
        return self.teacher == "model" and needs_old_model(self.forms)

    @property
    def forms(self) -> tuple[Alignment, ...]:
        """The forms of L_IDA that are listed and have a weight."""
        return tuple(form for form in self.alignment if getattr(self.losses, form).weight)

    @property
    def num_compared(self) -> int:
        """Features of an image that L_IDA compares, each with a prototype per domain."""
        sizes = {"attribute": self.num_attributes, "global": 1, "both": self.num_attributes + 1}
        return sizes[self.granularity]

    @property
    def keeps_prototypes(self) -> bool:
        """Whether each domain leaves a prototype of every compared feature."""
        return self.reads_attributes or self.granularity == "global"

    @property
    def reads_attributes(self) -> bool:
        """Whether any term, at least from the second domain on, reads the decoder's v_k."""
        of_parts = compares_parts(self.forms) and self.granularity != "global"
        return bool(self.losses.cma.weight) or of_parts

    @property
    def trains_identity_prompts(self) -> bool:
        """Whether a later term reads the identity prompts, and one of stage 1 trains them."""
        return bool(self.losses.image_text.weight and self.losses.match_global.weight)

    @property
    def trains_attribute_prompts(self) -> bool:
        """Whether there are attribute prompts that a later term reads and one of stage 1 trains."""
        losses = self.losses
        trained_by = (losses.match_local, losses.orthogonality, losses.text_identity)
        return bool(
            losses.cma.weight
            and self.num_attribute_tokens
            and any(term.weight for term in trained_by)
        )
