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


class BackboneConfig(FrozenConfig):
    """Which backbone, with which weights, on images of which size."""

    name: str = Field(
        default=TINY,
        description="tiny-clip, an open_clip ViT (ViT-B-16, ViT-B-16-quickgelu, ...), resnet50 "
        "(torchvision's, last stride 1) or tiny-resnet; ResNets have no text tower",
    )
    weights: str = Field(
        default="warm",
        description="warm (tiny-clip's own file), random, a local file, an open_clip tag "
        "(openai, laion2b_s34b_b88k, ...) or, for resnet50, imagenet; the last two may download",
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
        description="CLIP: longest text in tokens, start and end included; none: the "
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
    def mean_std(self) -> Literal["clip", "imagenet"]:
        """Whose channel means and deviations the pretrained weights expect."""
        return "imagenet" if self.is_resnet else "clip"

    @model_validator(mode="after")
    def _fits_together(self) -> BackboneConfig:
        if self.is_resnet:
            self._check_resnet()
            return self
        if self.weights == "warm" and self.name != TINY:
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
