"""Configuration of BDAM; see models/learners/bdam.py for the method."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from models.components.cross_domain_alignment import (
    Alignment,
    CrossDomainLossesConfig,
    compares_embeddings,
    compares_parts,
    needs_old_model,
)
from models.components.gradnorm import BalancedConfig
from models.components.reid_network import InterpolationConfig, TermConfig, TripletTermConfig
from models.heads.bdam import BdamConfig
from models.heads.fusion import FusionConfig
from models.learner import OptimizerConfig, ScheduleConfig
from models.losses.decoupling import Kernel

Positives = Literal["identity", "identity_or_text", "diagonal"]
"""Texts of a batch that are positives of an image."""

Text = Literal["caption", "identity"]

MEMORY_FORMS = ("prototype", "prototype_relation", "centroid_relation", "identity_prototype")
"""Forms of L_IDA that use prototypes of identity and clothing features."""


class ContrastTermConfig(TermConfig):
    """Symmetric InfoNCE between images and texts."""

    temperature: float = Field(default=0.07, gt=0, description="tau")
    positives: Positives = Field(
        default="identity",
        description="positives of an image: texts of the same person, these and equal texts, or "
        "only its own",
    )


class InfoTermConfig(ContrastTermConfig):
    """InfoNCE of v, the projected identity feature, with texts; mean over `texts`."""

    texts: tuple[Text, ...] = Field(
        default=("caption", "identity"),
        description="kinds of texts: caption, generated identity description",
    )

    @field_validator("texts")
    @classmethod
    def _check_unique(cls, texts: tuple[Text, ...]) -> tuple[Text, ...]:
        if not texts or len(set(texts)) < len(texts):
            raise ValueError(
                f"expected caption, identity or both, each once; got [{', '.join(texts)}] "
                "(weight 0 switches the term off)"
            )
        return texts


class FusedTermConfig(ContrastTermConfig):
    """InfoNCE of the fused embedding with the caption."""


class ClothingTermConfig(ContrastTermConfig):
    """InfoNCE of the projected gated clothing feature with the clothing description."""


class GatedTripletTermConfig(TripletTermConfig):
    """Batch-hard triplet on the gated identity feature."""

    margin: float | None = Field(default=0.3, ge=0, description="hinge margin; null = soft margin")
    normalise: bool = Field(default=False, description="L2-normalise the feature first")
    squared: bool = Field(default=True, description="use squared Euclidean distances")


class AdversarialTermConfig(TermConfig):
    """Mean of -log(1 - P), P the softmax probability of an image's clothing description."""

    projection: Literal["shared", "own"] = Field(
        default="shared",
        description="projection of the clothing feature to the text. shared: the one that the "
        "clothing term trains, which this term leaves unchanged, as it does the text, so that it "
        "trains the clothing branch alone; own: a separate one that this term trains",
    )
    temperature: float = Field(default=0.07, gt=0, description="tau")
    positives: Positives = Field(
        default="diagonal",
        description="positives of an image: its own text, texts of the same person, or these and "
        "equal texts",
    )
    floor: float = Field(default=1e-6, ge=0, lt=1, description="lower bound of 1 - P; 0 = none")


class DecoupleTermConfig(TermConfig):
    """Dependence between the gated identity and clothing features of a batch."""

    measure: Literal["hsic", "cka"] = Field(
        default="hsic",
        description="hsic (the paper), or cka, which is hsic normalised to [0, 1]",
    )
    kernel: Kernel = Field(default="linear", description="kernel on the features")
    normalise: bool = Field(
        default=True,
        description="L2-normalise the features first; false: raw features, whose norms then "
        "contribute and whose scale changes linear hsic",
    )
    bandwidth: float | None = Field(
        default=None, gt=0, description="rbf: bandwidth s; null: median distance of the batch"
    )


class LossesConfig(CrossDomainLossesConfig):
    """Loss terms by name; forms of L_IDA are used only if listed in learner.alignment."""

    info: InfoTermConfig = Field(default_factory=InfoTermConfig)
    fused: FusedTermConfig = Field(default_factory=FusedTermConfig)
    triplet: GatedTripletTermConfig = Field(default_factory=GatedTripletTermConfig)
    adversarial: AdversarialTermConfig = Field(default_factory=AdversarialTermConfig)
    clothing: ClothingTermConfig = Field(default_factory=ClothingTermConfig)
    decouple: DecoupleTermConfig = Field(default_factory=DecoupleTermConfig)
    gate: TermConfig = Field(default_factory=TermConfig)
    caption_contrast: Literal["required", "optional"] = Field(
        default="required",
        description="optional: accept weight 0 of both info and fused (the ablation without "
        "InfoNCE); images are then embedded by the projected clothing feature, the only one that "
        "is still compared with texts",
    )

    @property
    def may_lack_captions(self) -> bool:
        """Whether a model without any loss between images and captions is accepted."""
        return self.caption_contrast == "optional"

    @model_validator(mode="after")
    def _check_captions(self) -> LossesConfig:
        if self.info.weight or self.fused.weight:
            return self
        if not self.may_lack_captions:
            raise ValueError(
                "no term relates images to captions: set info.weight or fused.weight > 0; for an "
                "ablation without both, set caption_contrast=optional"
            )
        if not self.clothing.weight:
            raise ValueError(
                "no term relates images to texts: without info and fused, expected "
                "clothing.weight > 0, got 0"
            )
        return self

    @model_validator(mode="after")
    def _check_adversary(self) -> LossesConfig:
        shares = self.adversarial.weight and self.adversarial.projection == "shared"
        if shares and not self.clothing.weight:
            raise ValueError(
                "adversarial.projection=shared: expected clothing.weight > 0, because the clothing "
                "term trains this projection, got 0; set adversarial.projection=own or "
                "adversarial.weight=0"
            )
        return self


TASKS = ("info", "fused", "triplet", "adversarial", "clothing", "decouple", "gate")
"""Terms of a single domain, in the order that GradNorm uses."""


def _optimizer() -> OptimizerConfig:
    return OptimizerConfig(lr=1e-4, weight_decay=1e-3, schedule=ScheduleConfig(kind="cosine"))


class Config(BalancedConfig):
    """Configuration of BDAM, including all switches of the paper's tables."""

    name: Literal["bdam"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="bdam", description="the learner"
    )
    epochs: int = Field(default=60, ge=1, description="epochs per domain")
    optimizer: OptimizerConfig = Field(
        default_factory=_optimizer, description="optimiser and schedule of the stage"
    )
    text_tower: Literal["trained", "frozen"] = Field(
        default="trained", description="whether the text tower is trained"
    )
    decoupling: BdamConfig = Field(default_factory=BdamConfig)
    fusion: FusionConfig = Field(default_factory=FusionConfig)
    gallery_descriptions: bool = Field(
        default=True,
        description="fuse gallery images with their identity descriptions; false: embed them by v "
        "only",
    )
    losses: LossesConfig = Field(default_factory=LossesConfig)
    alignment: tuple[Alignment, ...] = Field(
        default=(),
        description="forms of L_IDA from the second domain on, summed; over the identity and the "
        "clothing feature (K = 2) or over v",
    )
    num_centroids: int = Field(
        default=16,
        ge=2,
        description="centroids per domain, of each subspace (centroid_relation) or of the "
        "embedding (embedding_prototype)",
    )
    interpolation: InterpolationConfig = Field(default_factory=InterpolationConfig)

    @model_validator(mode="after")
    def _check_gate(self) -> Config:
        if self.losses.gate.weight and not self.has_gate:
            raise ValueError(
                "losses.gate.weight: expected 0 without a gate (decoupling.enabled or "
                f"decoupling.gate is false), got {self.losses.gate.weight}"
            )
        return self

    @model_validator(mode="after")
    def _check_gallery(self) -> Config:
        if self.fuses and not self.gallery_descriptions and not self.losses.info.weight:
            raise ValueError(
                "gallery_descriptions=false embeds images by v, which only losses.info trains; "
                "set losses.info.weight > 0, or fusion.mixer=none"
            )
        return self

    @property
    def has_gate(self) -> bool:
        """Whether the decoupling module has a gate."""
        return self.decoupling.enabled and self.decoupling.gate

    @property
    def fuses(self) -> bool:
        """Whether images are fused with descriptions by a trained fusion."""
        return bool(self.losses.fused.weight) and self.fusion.mixer != "none"

    @property
    def embeds_clothing(self) -> bool:
        """Whether images are embedded by the projected clothing feature: no other is trained."""
        return not (self.losses.info.weight or self.losses.fused.weight)

    @property
    def reads_identity(self) -> bool:
        """Whether any term of a single domain depends on the identity feature."""
        losses = self.losses
        terms = (losses.info, losses.fused, losses.triplet, losses.decouple)
        return self.has_gate or any(term.weight for term in terms)

    @property
    def reads_clothing(self) -> bool:
        """Whether any term of a single domain depends on the clothing feature."""
        losses = self.losses
        terms = (losses.adversarial, losses.clothing, losses.decouple)
        return self.has_gate or any(term.weight for term in terms)

    @property
    def crosses(self) -> bool:
        """Whether the branches have cross-attention."""
        return self.decoupling.enabled and self.decoupling.cross_attention

    @property
    def balanced(self) -> tuple[str, ...]:
        """Terms that GradNorm balances: those of a single domain, without L_IDA."""
        return tuple(name for name in TASKS if getattr(self.losses, name).weight)

    @property
    def forms(self) -> tuple[Alignment, ...]:
        """Forms of L_IDA that are listed and have a weight > 0."""
        return tuple(form for form in self.alignment if getattr(self.losses, form).weight)

    @property
    def needs_old_model(self) -> bool:
        """Whether any form uses the frozen model of the previous domain."""
        return needs_old_model(self.forms)

    @property
    def keeps_prototypes(self) -> bool:
        """Whether any form uses prototypes of the identity and clothing features."""
        return any(form in MEMORY_FORMS for form in self.forms)

    @property
    def compares(self) -> tuple[bool, bool]:
        """Whether the forms compare (identity and clothing features, v)."""
        return compares_parts(self.forms), compares_embeddings(self.forms)
