"""Configuration of VLADR; see models/learners/vladr.py for the method."""

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
    check_any_enabled,
)
from models.heads.attribute_decoder import Initialisation
from models.learner import OptimizerConfig, ScheduleConfig
from models.losses.contrastive import Similarity
from models.vladr.prompts import Control, Descriptions, MatchTermConfig
from tasks.schema import FrozenConfig


class GlobalMatchTermConfig(MatchTermConfig):
    """Supervised contrastive loss between images and identity prompts (same identity)."""

    similarity: Similarity = Field(
        default="cosine",
        description="similarity divided by tau: cosine, or the inner product of unnormalised "
        "features (authors' code, where tau is 1)",
    )


class ClassifiersTermConfig(IdentityTermConfig):
    """Cross-entropy over all identities learned so far, summed over `classifiers`."""

    classifiers: tuple[Classifier, ...] = Field(
        default=BOTH_CLASSIFIERS,
        description="classifiers to train: on g (class_token), on f (projected), or both",
    )

    @field_validator("classifiers")
    @classmethod
    def _check_unique(cls, names: tuple[Classifier, ...]) -> tuple[Classifier, ...]:
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"expected class_token, projected or both, each once; got [{', '.join(names)}] "
                "(weight 0 switches the term off)"
            )
        return names


class TextIdentityTermConfig(TermConfig):
    """Cross-entropy (with a head that is dropped after the stage) + triplet on mean_k t_k."""

    margin: float | None = Field(
        default=0.3, ge=0, description="margin of the triplet; null = soft margin"
    )
    logit_scale: float = Field(default=14.0, gt=0, description="factor of the head's cosines")


class ImageTextTermConfig(TermConfig):
    """L_global: cross-entropy of cos(f, text of an identity) / temperature over identities."""

    temperature: float = Field(default=0.07, gt=0, description="tau (authors' code: 1)")
    candidates: Literal["batch", "domain"] = Field(
        default="batch", description="identities of the batch, or all identities of the domain"
    )
    texts: Literal["identity", "identity_attributes"] = Field(
        default="identity",
        description="text of an identity. identity: t_g of its prompt; identity_attributes: t_g "
        "and the mean over its images and k of t_k, which needs no decoder (ablation row + MTAD)",
    )


class CmaTermConfig(TermConfig):
    """L_CMA: align every visual attribute v_k with its text feature t_k."""

    distance: Literal["contrastive", "cosine"] = Field(
        default="contrastive", description="symmetric InfoNCE over the batch, or 1 - cos"
    )
    temperature: float = Field(default=0.07, gt=0, description="tau of the contrastive distance")
    reduction: Literal["sum", "mean"] = Field(default="mean", description="over the K attributes")
    positives: Literal["caption", "diagonal"] = Field(
        default="caption",
        description="caption: equal texts are positives; diagonal: only the image's own text",
    )


class LossesConfig(CrossDomainLossesConfig):
    """Loss terms by name; forms of L_IDA are used only if listed in learner.alignment."""

    match_global: GlobalMatchTermConfig = Field(default_factory=GlobalMatchTermConfig)
    match_local: MatchTermConfig = Field(default_factory=MatchTermConfig)
    orthogonality: TermConfig = Field(default_factory=TermConfig)
    text_identity: TextIdentityTermConfig = Field(default_factory=TextIdentityTermConfig)
    identity: ClassifiersTermConfig = Field(default_factory=ClassifiersTermConfig)
    triplet: TripletTermConfig = Field(default_factory=TripletTermConfig)
    image_text: ImageTextTermConfig = Field(default_factory=ImageTextTermConfig)
    cma: CmaTermConfig = Field(default_factory=CmaTermConfig)

    @model_validator(mode="after")
    def _check_losses(self) -> LossesConfig:
        names = ("identity", "triplet", "image_text", "cma")
        check_any_enabled({name: getattr(self, name) for name in names}, "stage icar")
        trains_projection = self.triplet.weight or self.image_text.weight or self.cma.weight
        if not trains_projection and "projected" not in self.identity.classifiers:
            raise ValueError(
                "identity.classifiers=[class_token] uses g, before the projection, so that nothing "
                "trains the projection; set triplet, image_text or cma to a weight > 0, or add "
                "projected"
            )
        return self


class StageConfig(FrozenConfig):
    """Epochs and optimiser of one stage."""

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
    """Configuration of VLADR, including all switches of the ablation."""

    name: Literal["vladr"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default="vladr", description="the learner"
    )
    num_attributes: int = Field(
        default=4, ge=1, description="K, number of attributes (head, upper, lower, foot)"
    )
    num_decoder_heads: int = Field(default=8, ge=1, description="attention heads of the decoder")
    decoder_initialisation: Initialisation = Field(
        default="random",
        description="initial values of the decoder. random: small queries and Xavier weights; "
        "identity: v_k starts as a weighted mean of the projected patches, for few updates",
    )
    descriptions: Descriptions = Field(
        default="parts",
        description="the K texts of an image. parts: part descriptions; whole: the whole "
        "description K times; random: words of the whole description, randomly assigned (ablation)",
    )
    control: Control = Field(
        default="none",
        description="negative control: permute the frozen identity prompts, or the descriptions, "
        "between identities of a domain; must score worse",
    )
    granularity: Literal["attribute", "global", "both"] = Field(
        default="attribute",
        description="features of L_IDA and the prototype memory: v_k, f only (ablation), or both",
    )
    alignment: tuple[Alignment, ...] = Field(
        default=("prototype_relation",),
        description="forms of L_IDA, summed; empty disables it",
    )
    views: Literal["weak", "both"] = Field(
        default="weak",
        description="views used by image_text, cma and L_IDA; L_reid always uses both",
    )
    teacher: Literal["model", "features"] = Field(
        default="model",
        description="target of L_IDA. model: the frozen old model on the student's views; "
        "features: features of the training images stored at the start of the domain, compared "
        "under the test transform (no old model is kept)",
    )
    num_centroids: int = Field(
        default=16,
        ge=2,
        description="centroids per domain, of each attribute (centroid_relation) or of the test "
        "embedding (embedding_prototype)",
    )
    embedding: Literal["necks", "necks_attributes"] = Field(
        default="necks",
        description="test embedding. necks: outputs of both necks; necks_attributes: also v_k",
    )
    attribute_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="embedding=necks_attributes: share w of the attributes in the squared norm; "
        "the cosine of two embeddings is (1 - w) cos(necks) + w mean_k cos(v_k)",
    )
    prototypes: Literal["refreshed", "online"] = Field(
        default="refreshed",
        description="prototypes at the end of a domain: exact means after interpolation, or the "
        "EMA",
    )
    prototype_momentum: float = Field(
        default=0.9, ge=0, le=1, description="momentum m of the EMA of prototypes"
    )
    prompt_features: Literal["current", "pretrained"] = Field(
        default="current",
        description="image features that prompts are matched to: of the current tower, or of the "
        "original CLIP, which is kept in memory (authors' code)",
    )
    num_identity_tokens: int = Field(
        default=4, ge=1, description="free tokens of an identity prompt"
    )
    num_attribute_tokens: int = Field(
        default=2, ge=0, description="free tokens M of an attribute prompt; 0 = descriptions only"
    )
    neck_bias: bool = Field(
        default=False, description="learn the bias of the BN necks in stage 2; false: fixed at 0"
    )
    new_rows: Literal["features", "necks"] = Field(
        default="features",
        description="initialise the classifier row of a new identity with the mean of its "
        "features, or of its features after the necks (authors' code)",
    )
    losses: LossesConfig = Field(default_factory=LossesConfig)
    interpolation: InterpolationConfig = Field(default_factory=InterpolationConfig)
    mtad_identity: StageConfig = Field(default_factory=_prompt_stage)
    mtad_attribute: StageConfig = Field(default_factory=_prompt_stage)
    icar: StageConfig = Field(default_factory=_image_stage)

    @model_validator(mode="after")
    def _check_control(self) -> Config:
        if self.control == "permuted_identities" and not self.losses.image_text.weight:
            raise ValueError(
                "control=permuted_identities: expected losses.image_text.weight > 0, got 0; no "
                "other term uses the identity prompts"
            )
        if self.control == "permuted_captions" and not self.reads_attribute_texts:
            raise ValueError(
                "control=permuted_captions: expected losses.cma.weight > 0 or "
                "losses.image_text.texts=identity_attributes, got neither; no other term uses the "
                "captions"
            )
        return self

    @model_validator(mode="after")
    def _check_embedding(self) -> Config:
        if self.embedding == "necks_attributes" and not self.losses.cma.weight:
            raise ValueError(
                "embedding=necks_attributes: expected losses.cma.weight > 0, got 0; no other term "
                "trains the decoder in the first domain"
            )
        return self

    @model_validator(mode="after")
    def _check_teacher(self) -> Config:
        if self.teacher == "features" and compares_embeddings(self.forms):
            raise ValueError(
                f"teacher=features: {' and '.join(EMBEDDING_FORMS)} need embeddings under batch "
                "statistics, which cannot be stored; set teacher=model, or remove them from "
                "alignment"
            )
        return self

    @property
    def balanced(self) -> tuple[str, ...]:
        """Terms that GradNorm balances: those of the image stage, without L_IDA."""
        names = ("identity", "triplet", "image_text", "cma")
        return tuple(name for name in names if getattr(self.losses, name).weight)

    @property
    def needs_old_model(self) -> bool:
        """Whether L_IDA uses the frozen model of the previous domain."""
        return self.teacher == "model" and needs_old_model(self.forms)

    @property
    def forms(self) -> tuple[Alignment, ...]:
        """Forms of L_IDA that are listed and have a weight > 0."""
        return tuple(form for form in self.alignment if getattr(self.losses, form).weight)

    @property
    def num_compared(self) -> int:
        """Number of features per image that L_IDA compares; each has a prototype per domain."""
        sizes = {"attribute": self.num_attributes, "global": 1, "both": self.num_attributes + 1}
        return sizes[self.granularity]

    @property
    def keeps_prototypes(self) -> bool:
        """Whether prototypes of the compared features are stored after each domain."""
        return self.reads_attributes or self.granularity == "global"

    @property
    def reads_attributes(self) -> bool:
        """Whether any term uses the decoder's v_k, at least from the second domain on."""
        aligns_attributes = compares_parts(self.forms) and self.granularity != "global"
        return bool(self.losses.cma.weight) or aligns_attributes

    @property
    def extends_identity_texts(self) -> bool:
        """Whether L_global also reads the attribute texts."""
        image_text = self.losses.image_text
        return bool(image_text.weight) and image_text.texts == "identity_attributes"

    @property
    def reads_attribute_texts(self) -> bool:
        """Whether any term of the image stage uses the text features t_k."""
        return bool(self.losses.cma.weight) or self.extends_identity_texts

    @property
    def trains_identity_prompts(self) -> bool:
        """Whether stage 1 trains the identity prompts and a later term uses them."""
        return bool(self.losses.image_text.weight and self.losses.match_global.weight)

    @property
    def trains_attribute_prompts(self) -> bool:
        """Whether stage 1 trains the attribute prompts and a later term uses them."""
        losses = self.losses
        trained_by = (losses.match_local, losses.orthogonality, losses.text_identity)
        return bool(
            self.reads_attribute_texts
            and self.num_attribute_tokens
            and any(term.weight for term in trained_by)
        )
