"""Which backbone a run has: the configuration section alone, without the libraries behind it.

`models.backbones.building.build_backbone` makes it. What a learner may ask of it, all of it in
`models.backbones.tower`:

- every backbone: `image.features(images)`, named features [B, dim]; f is `image.metric`;
- one with a text tower (`ImageTextBackbone`) also `image(images)`: `ImageFeatures` with the class
  token g [B, W], its projection f [B, D] and projected patch tokens [B, L, D];
- and `text`: `tokenize(texts)`, then `features(tokens)`: `TextFeatures` with the sentence [N, D],
  every token [N, L, D] and the mask [N, L] of those that count. `text(embeddings, end_positions)`
  gives the sentence from token embeddings, for learned prompts; `encode_texts(texts)` the sentence
  from strings, without gradient. `embed_dim` is D and `width` a token embedding's size.
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
    """Which backbone, with which weights, on images of which size."""

    name: str = Field(
        default=TINY,
        description="tiny-clip, an open_clip ViT (ViT-B-16, ViT-B-16-quickgelu, ...), vit-bert "
        "(transformers' ViT and BERT), tiny-vit-bert, resnet50 (torchvision's, last stride 1) or "
        "tiny-resnet; ResNets have no text tower",
    )
    weights: str = Field(
        default="warm",
        description="warm (tiny-clip's or tiny-vit-bert's own file), random, a local file, an "
        "open_clip tag (openai, laion2b_s34b_b88k, ...), for vit-bert pretrained (each tower by "
        "itself) or, for resnet50, imagenet; the last three may download",
    )
    image_tower: str | None = Field(
        default=None,
        description="vit-bert: ViT as a folder written by transformers' save_pretrained or a name "
        "on the hub; none: google/vit-base-patch16-224-in21k",
    )
    text_tower: str | None = Field(
        default=None,
        description="vit-bert: BERT and its tokenizer, in the same way; none: "
        "google-bert/bert-base-uncased",
    )
    image_height: int = Field(
        default=64, ge=8, description="input height in pixels; a ViT's: a multiple of a patch"
    )
    image_width: int = Field(
        default=32, ge=8, description="input width in pixels; a ViT's: a multiple of a patch"
    )
    context_length: int | None = Field(
        default=None,
        ge=3,
        description="CLIP, BERT: longest text in tokens, start and end included; none: the "
        "architecture's own",
    )
    pooling_exponent: float = Field(
        default=1.0,
        gt=0,
        description="ResNet: p of the generalised mean that pools the feature map; 1 = average "
        "pooling, KRKC, LSTKC and DASK 3",
    )

    @property
    def is_resnet(self) -> bool:
        """Whether it is a ResNet: one pooled feature, no text tower."""
        return self.name in (RESNET50, TINY_RESNET)

    @property
    def is_vit_bert(self) -> bool:
        """Whether its towers are transformers' ViT and BERT."""
        return self.name in (VIT_BERT, TINY_VIT_BERT)

    @property
    def is_joint(self) -> bool:
        """Whether images and texts may be compared before anything is learned here."""
        return not self.is_resnet and self.weights != "pretrained"

    def lacks_joint_space(self, learner: str) -> str:
        """What to say to a learner that compares images with texts before it teaches them to."""
        return (
            f"backbone.weights: learner {learner} compares images with texts from the start, and "
            f"the pretrained towers of {self.name} know nothing of each other; set "
            "backbone.weights to a file of towers that were trained together, or choose a CLIP"
        )

    @property
    def mean_std(self) -> Literal["clip", "imagenet", "half"]:
        """Whose channel means and deviations the pretrained weights expect."""
        if self.name == VIT_BERT:
            return "half"
        return "imagenet" if self.is_resnet else "clip"

    @model_validator(mode="after")
    def _fits_together(self) -> BackboneConfig:
        self._check_towers()
        if self.is_resnet:
            self._check_resnet()
            return self
        if self.is_vit_bert:
            self._check_vit_bert()
        elif self.weights == "warm" and self.name != TINY:
            raise ValueError(
                f"backbone.weights=warm is {TINY}'s file, but backbone.name={self.name}: set "
                "backbone.weights to an open_clip tag (openai, ...), a local file, or random"
            )
        if self.pooling_exponent != 1:
            raise ValueError(
                f"backbone.pooling_exponent pools a ResNet's feature map, and {self.name} has "
                "none: leave it out, or set backbone.name=resnet50"
            )
        return self

    def _check_towers(self) -> None:
        for field in ("image_tower", "text_tower"):
            if getattr(self, field) is not None and self.name != VIT_BERT:
                raise ValueError(
                    f"backbone.{field} is read by {VIT_BERT} alone, but backbone.name={self.name}: "
                    f"leave it out, or set backbone.name={VIT_BERT}"
                )

    def _check_vit_bert(self) -> None:
        known = ("pretrained" if self.name == VIT_BERT else "warm", "random")
        if self.weights not in known and not is_weights_file(self.weights):
            raise ValueError(
                f"backbone.weights: expected {', '.join(known)} or a local file for {self.name}; "
                f"came {self.weights!r}"
            )

    def _check_resnet(self) -> None:
        known = ("imagenet", "random") if self.name == RESNET50 else ("random",)
        if self.weights not in known and not is_weights_file(self.weights):
            raise ValueError(
                f"backbone.weights: expected {', '.join(known)} or a local file for {self.name}; "
                f"came {self.weights!r}"
            )
        if self.context_length is not None:
            raise ValueError(
                f"backbone.context_length limits texts, and {self.name} reads none: leave it out, "
                "or choose a CLIP"
            )
