"""Configuration of the backbone, without importing model libraries.

`models.backbones.building.build_backbone` builds it. The interfaces are in
`models.backbones.tower`:

- Every backbone has `image.features(images)`, named features [B, dim]; f is `image.metric`.
- An `ImageTextBackbone` also has `image(images)`, which returns `ImageFeatures`: class token g
  [B, W], its projection f [B, D] and projected patch tokens [B, L, D].
- Its `text` has `tokenize(texts)` and `features(tokens)`, which returns `TextFeatures`: sentence
  [N, D], all tokens [N, L, D] and their mask [N, L]. `text(embeddings, end_positions)` encodes
  token embeddings, for learned prompts; `encode_texts(texts)` encodes strings without gradient.
  `embed_dim` is D and `width` the size of a token embedding.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from models.backbones.weights import is_weights_file
from tasks.schema import FrozenConfig

TINY = "tiny-clip"
RESNET50, TINY_RESNET = "resnet50", "tiny-resnet"
VIT_BERT, TINY_VIT_BERT = "vit-bert", "tiny-vit-bert"


class BackboneConfig(FrozenConfig):
    """Architecture, weights and image size of the backbone."""

    name: str = Field(
        default=TINY,
        description="architecture: tiny-clip, an open_clip ViT (ViT-B-16, ViT-B-16-quickgelu, "
        "...), vit-bert (transformers' ViT and BERT), tiny-vit-bert, resnet50 (torchvision's, "
        "last stride 1) or tiny-resnet; ResNets have no text tower",
    )
    weights: str = Field(
        default="warm",
        description="warm (file included for tiny-clip and tiny-vit-bert), random, a local file, "
        "an open_clip tag (openai, laion2b_s34b_b88k, ...), pretrained for vit-bert (each tower "
        "separately) or imagenet for resnet50; the last three may download",
    )
    image_tower: str | None = Field(
        default=None,
        description="vit-bert: the ViT, a folder written by transformers' save_pretrained or a "
        "name on the hub; none: google/vit-base-patch16-224-in21k",
    )
    text_tower: str | None = Field(
        default=None,
        description="vit-bert: the BERT with its tokenizer, a folder or a name on the hub; none: "
        "google-bert/bert-base-uncased",
    )
    image_height: int = Field(
        default=64, ge=8, description="image height in pixels; ViT: a multiple of the patch size"
    )
    image_width: int = Field(
        default=32, ge=8, description="image width in pixels; ViT: a multiple of the patch size"
    )
    context_length: int | None = Field(
        default=None,
        ge=3,
        description="CLIP, BERT: maximum text length in tokens, including start and end; none: "
        "that of the architecture",
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="vit-bert: dropout of embeddings, attention and MLPs in a tower that the stage "
        "trains; a frozen tower has none",
    )
    checkpoint_activations: bool = Field(
        default=False,
        description="ViT, BERT: keep only the input of each block of a trained tower and compute "
        "the block again in the backward pass: less memory for about a third more computation; "
        "for ViT-L and larger",
    )
    pooling_exponent: float = Field(
        default=1.0,
        gt=0,
        description="ResNet: exponent p of generalised-mean pooling; 1 = average pooling; KRKC, "
        "LSTKC and DASK use 3",
    )

    @property
    def is_resnet(self) -> bool:
        """Whether the backbone is a ResNet, with one pooled feature and no text tower."""
        return self.name in (RESNET50, TINY_RESNET)

    @property
    def is_vit_bert(self) -> bool:
        """Whether the towers are transformers' ViT and BERT."""
        return self.name in (VIT_BERT, TINY_VIT_BERT)

    @property
    def is_joint(self) -> bool:
        """Whether images and texts are comparable without further training."""
        return not self.is_resnet and self.weights != "pretrained"

    def joint_space_error(self, learner: str) -> str:
        """Return the error message for a learner that requires a joint space."""
        return (
            f"backbone.weights: learner {learner} expected towers with a joint space, got "
            f"separately pretrained towers of {self.name}; set backbone.weights to a file of "
            "jointly trained towers, or use a CLIP"
        )

    @property
    def mean_std(self) -> Literal["clip", "imagenet", "half"]:
        """Channel means and deviations that the pretrained weights expect."""
        if self.name == VIT_BERT:
            return "half"
        return "imagenet" if self.is_resnet else "clip"

    @model_validator(mode="after")
    def _check_weights(self) -> BackboneConfig:
        self._check_towers()
        self._check_dropout()
        if self.is_resnet:
            self._check_resnet()
            return self
        if self.is_vit_bert:
            self._check_vit_bert()
        elif self.weights == "warm" and self.name != TINY:
            raise ValueError(
                f"backbone.weights=warm: expected backbone.name={TINY}, got {self.name}; set "
                "backbone.weights to an open_clip tag (openai, ...), a local file, or random"
            )
        if self.pooling_exponent != 1:
            raise ValueError(
                f"backbone.pooling_exponent: expected 1 for {self.name}, which is not a ResNet, "
                f"got {self.pooling_exponent}; remove it, or set backbone.name=resnet50"
            )
        return self

    def _check_towers(self) -> None:
        for field in ("image_tower", "text_tower"):
            if getattr(self, field) is not None and self.name != VIT_BERT:
                raise ValueError(
                    f"backbone.{field}: expected backbone.name={VIT_BERT}, got {self.name}; remove "
                    f"{field}, or set backbone.name={VIT_BERT}"
                )

    def _check_dropout(self) -> None:
        if self.dropout and not self.is_vit_bert:
            raise ValueError(
                f"backbone.dropout: expected 0 for {self.name}, got {self.dropout}; remove it, or "
                f"set backbone.name={VIT_BERT}"
            )

    def _check_vit_bert(self) -> None:
        known = ("pretrained" if self.name == VIT_BERT else "warm", "random")
        if self.weights not in known and not is_weights_file(self.weights):
            raise ValueError(
                f"backbone.weights: expected {', '.join(known)} or a local file for {self.name}; "
                f"got {self.weights!r}"
            )

    def _check_resnet(self) -> None:
        known = ("imagenet", "random") if self.name == RESNET50 else ("random",)
        if self.weights not in known and not is_weights_file(self.weights):
            raise ValueError(
                f"backbone.weights: expected {', '.join(known)} or a local file for {self.name}; "
                f"got {self.weights!r}"
            )
        if self.checkpoint_activations:
            raise ValueError(
                f"backbone.checkpoint_activations: expected false for {self.name}, whose BN layers "
                "would count every batch twice; remove it, or use a ViT"
            )
        if self.context_length is not None:
            raise ValueError(
                f"backbone.context_length: expected none for {self.name}, which has no text tower, "
                f"got {self.context_length}; remove it, or use a CLIP"
            )
