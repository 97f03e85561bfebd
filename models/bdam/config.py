"""The settings of BDAM; models/learners/bdam.py says what they do."""

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
"""Which texts of a batch count as an image's own."""

Text = Literal["caption", "identity"]

MEMORY_FORMS = ("prototype", "prototype_relation", "centroid_relation", "identity_prototype")
"""Forms of L_IDA that read prototypes of identity and clothing features."""


class ContrastTermConfig(TermConfig):
    """Symmetric InfoNCE between images and texts."""

    temperature: float = Field(default=0.07, gt=0, description="tau")
    positives: Positives = Field(
        default="identity",
        description="an image's texts: all of its person's, these and equal texts, or its own",
    )


class InfoTermConfig(ContrastTermConfig):
    """InfoNCE of v, the projected identity feature, with texts; mean over the kinds of texts."""

    texts: tuple[Text, ...] = Field(
        default=("caption", "identity"),
        description="which texts: a person's caption, the machine's identity description",
    )

    @field_validator("texts")
    @classmethod
    def _each_once(cls, texts: tuple[Text, ...]) -> tuple[Text, ...]:
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
    squared: bool = Field(
        default=True, description="squared Euclidean distances, or distances as they are"
    )


class AdversarialTermConfig(TermConfig):
    """Mean of -log(1 - P), P the share of an image's own clothing description in the softmax."""

    temperature: float = Field(default=0.07, gt=0, description="tau")
    positives: Positives = Field(
        default="diagonal",
        description="an image's own texts: its own, all of its person's, these and equal texts",
    )
    floor: float = Field(
        default=1e-6, ge=0, lt=1, description="1 - P below it sends no gradient; 0: no floor"
    )


class DecoupleTermConfig(TermConfig):
    """Dependence between the gated identity and clothing features of the batch."""

    measure: Literal["hsic", "cka"] = Field(
        default="hsic",
        description="hsic (the paper), or cka: divided by the largest it could be, in [0, 1]",
    )
    kernel: Kernel = Field(default="linear", description="kernel of the normalised features")
    bandwidth: float | None = Field(
        default=None, gt=0, description="rbf: s; null: the median distance of the batch"
    )


class LossesConfig(CrossDomainLossesConfig):
    """Every loss term by name; the forms of L_IDA count only if learner.alignment lists them."""

    info: InfoTermConfig = Field(default_factory=InfoTermConfig)
    fused: FusedTermConfig = Field(default_factory=FusedTermConfig)
    triplet: GatedTripletTermConfig = Field(default_factory=GatedTripletTermConfig)
    adversarial: AdversarialTermConfig = Field(default_factory=AdversarialTermConfig)
    clothing: ClothingTermConfig = Field(default_factory=ClothingTermConfig)
    decouple: DecoupleTermConfig = Field(default_factory=DecoupleTermConfig)
    gate: TermConfig = Field(default_factory=TermConfig)

    @model_validator(mode="after")
    def _relates_images_to_texts(self) -> LossesConfig:
        if not (self.info.weight or self.fused.weight):
            raise ValueError(
                "nothing relates images to captions: give info or fused a weight above 0"
            )
        return self


TASKS = ("info", "fused", "triplet", "adversarial", "clothing", "decouple", "gate")
"""The terms of one domain, in the order in which GradNorm counts them."""


def _optimizer() -> OptimizerConfig:
    return OptimizerConfig(lr=1e-4, weight_decay=1e-3, schedule=ScheduleConfig(kind="cosine"))


class Config(BalancedConfig):
    """Settings of BDAM; every part of the paper's tables is a switch here."""

    name: Literal["bdam"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="bdam", description="the learner"
    )
    epochs: int = Field(default=60, ge=1, description="epochs per domain")
    optimizer: OptimizerConfig = Field(
        default_factory=_optimizer, description="optimiser and schedule of the stage"
    )
    text_tower: Literal["trained", "frozen"] = Field(
        default="trained", description="whether the text tower learns too"
    )
    decoupling: BdamConfig = Field(default_factory=BdamConfig)
    fusion: FusionConfig = Field(default_factory=FusionConfig)
    gallery_descriptions: bool = Field(
        default=True,
        description="whether a searched image is fused with its identity description; false: it is "
        "embedded by v alone, whatever the fusion learned",
    )
    losses: LossesConfig = Field(default_factory=LossesConfig)
    alignment: tuple[Alignment, ...] = Field(
        default=(),
        description="from the second domain on: forms of L_IDA over the identity and the clothing "
        "feature (K = 2) or over v, summed",
    )
    num_centroids: int = Field(
        default=16, ge=2, description="centroid_relation: centroids of each subspace and domain"
    )
    interpolation: InterpolationConfig = Field(default_factory=InterpolationConfig)

    @model_validator(mode="after")
    def _gate_is_there(self) -> Config:
        if self.losses.gate.weight and not self.has_gate:
            raise ValueError(
                "losses.gate keeps the gate open, and decoupling.enabled or decoupling.gate is "
                "false: set losses.gate.weight=0 too"
            )
        return self

    @model_validator(mode="after")
    def _embeds_the_gallery(self) -> Config:
        if self.fuses and not self.gallery_descriptions and not self.losses.info.weight:
            raise ValueError(
                "gallery_descriptions=false embeds images by v, which losses.info alone trains: "
                "give it a weight above 0, or set fusion.mixer=none"
            )
        return self

    @property
    def has_gate(self) -> bool:
        """Whether the module has a gate."""
        return self.decoupling.enabled and self.decoupling.gate

    @property
    def fuses(self) -> bool:
        """Whether the fusion is trained, and joins images with descriptions."""
        return bool(self.losses.fused.weight) and self.fusion.mixer != "none"

    @property
    def reads_clothing(self) -> bool:
        """Whether any term of one domain depends on the clothing feature."""
        losses = self.losses
        own = (losses.adversarial, losses.clothing, losses.decouple)
        return self.has_gate or any(term.weight for term in own)

    @property
    def crosses(self) -> bool:
        """Whether each branch attends to the other one."""
        return self.decoupling.enabled and self.decoupling.cross_attention

    @property
    def balanced(self) -> tuple[str, ...]:
        """The terms that GradNorm weighs: those of one domain, the forms of L_IDA aside."""
        return tuple(name for name in TASKS if getattr(self.losses, name).weight)

    @property
    def forms(self) -> tuple[Alignment, ...]:
        """The forms of L_IDA that are listed and have a weight."""
        return tuple(form for form in self.alignment if getattr(self.losses, form).weight)

    @property
    def needs_old_model(self) -> bool:
        """Whether a form follows the frozen model of the previous domain."""
        return needs_old_model(self.forms)

    @property
    def keeps_prototypes(self) -> bool:
        """Whether a form reads prototypes of the identity and clothing features."""
        return any(form in MEMORY_FORMS for form in self.forms)

    @property
    def compares(self) -> tuple[bool, bool]:
        """Whether the forms compare identity and clothing features, and whether they compare v."""
        return compares_parts(self.forms), compares_embeddings(self.forms)
