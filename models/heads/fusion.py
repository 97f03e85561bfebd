"""Fusion of an image's identity features with its machine-written identity description."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from models.heads.mamba import Block, MambaStack
from models.heads.seeded_init import drawn_from
from tasks.schema import FrozenConfig


class FusionConfig(FrozenConfig):
    """How image and description become one embedding; every row of the fusion table is here."""

    mixer: Literal["mamba", "transformer", "simple", "none"] = Field(
        default="mamba",
        description="what follows the gate: Mamba or transformer layers over the sequence, an MLP "
        "on the weighted sum (simple), or the image alone without description or gate (none)",
    )
    sequence: Literal["pooled", "tokens"] = Field(
        default="tokens",
        description="mamba, transformer: one token, the weighted sum of the pooled features (the "
        "printed formula; nothing can be mixed along it), or the weighted image tokens followed by "
        "the weighted text tokens",
    )
    with_alignment: bool = Field(
        default=True,
        description="whether an MLP of its own aligns each modality; false: a linear projection",
    )
    with_gate: bool = Field(
        default=True,
        description="whether the weights of image and description are learned; false: a half each",
    )
    dim: int = Field(default=256, ge=1, description="size of the aligned features")
    num_layers: int = Field(default=2, ge=1, description="mamba: layers")
    state_size: int = Field(default=16, ge=1, description="mamba: states of each channel")
    conv_width: int = Field(
        default=4, ge=2, le=4, description="mamba: positions that the convolution looks at"
    )
    mamba_block: Block = Field(
        default="auto",
        description="mamba: whose block; auto is mamba_ssm's where it is installed and there is a "
        "CUDA device, else transformers' (slow); their checkpoints are the same",
    )
    num_transformer_layers: int = Field(default=4, ge=1, description="transformer: layers")
    num_heads: int = Field(default=8, ge=1, description="transformer: heads, a divisor of dim")
    mlp_ratio: float = Field(
        default=4.0, gt=0, description="transformer, simple: hidden size as a multiple of dim"
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout of the mixer")

    @model_validator(mode="after")
    def _heads_divide(self) -> FusionConfig:
        if self.mixer == "transformer" and self.dim % self.num_heads:
            raise ValueError(
                f"dim must be divisible by num_heads, came {self.dim} and {self.num_heads}: set "
                "another num_heads"
            )
        return self


class Modality(NamedTuple):
    """One modality of B samples, as the fusion takes it.

    Attributes:
        pooled: [B, W].
        tokens: [B, L, W], L >= 1; read by `sequence: tokens` alone.
        kept: [B, L] bool, false at padding, which has to be at the end; None: no padding.
    """

    pooled: Tensor
    tokens: Tensor
    kept: Tensor | None = None


class Fused(NamedTuple):
    """What the fusion gives.

    Attributes:
        embedding: f_final [B, D_out], not normalised.
        gate: [B, 2], weights of image and description, each row summing to 1; None with
            `mixer: none`.
    """

    embedding: Tensor
    gate: Tensor | None


class Fusion(nn.Module):
    """Alignment, gate, mixer, mean over the sequence, projection.

    Each modality is aligned to `dim` channels (the same MLP on the pooled feature and on every
    token). gate = softmax(W [f_img; f_txt] + b) weighs the two. The mixer's layers are pre-norm and
    residual, and a layer norm ends them; the sequence is averaged, padding left out, and projected.
    Mamba layers are causal: text tokens see the image tokens, which come first.

    Only what the switches need is built: no parameter goes without a gradient. The initial values
    depend on `generator` alone.

    Args:
        config: sizes and switches.
        image_width: size of the image features and tokens.
        text_width: size of the description's features and tokens.
        embed_dim: size D_out of the embedding.
        generator: CPU generator of the initial values.

    Source: the decoupling paper's gated Mamba fusion. It prints the pooled form, does not say how a
    sequence becomes one feature, and names the alternatives without their details.
    """

    def __init__(
        self,
        config: FusionConfig,
        image_width: int,
        text_width: int,
        embed_dim: int,
        generator: Generator,
    ) -> None:
        super().__init__()
        self.config = config
        fuses = config.mixer != "none"
        with drawn_from(generator):
            self.align_image = _alignment(config, image_width)
            self.align_text = _alignment(config, text_width) if fuses else None
            self.gate = nn.Linear(2 * config.dim, 2) if fuses and config.with_gate else None
            self.mixer = _mixer(config)
            self.norm = nn.LayerNorm(config.dim) if _has_layers(config) else nn.Identity()
            self.projection = nn.Linear(config.dim, embed_dim)

    def forward(self, image: Modality, text: Modality | None) -> Fused:
        """Image and its description -> the embedding and the gate's weights.

        Raises:
            ValueError: there is no description, and `mixer` is not "none".
        """
        if self.align_text is None:
            return Fused(self.projection(self.align_image(image.pooled)), None)
        if text is None:
            raise ValueError(
                f"fusion.mixer={self.config.mixer} fuses an image with its description, and there "
                "is none: give descriptions, or set fusion.mixer=none"
            )
        pooled = self.align_image(image.pooled), self.align_text(text.pooled)
        weights = self._weigh(*pooled)
        if _has_layers(self.config) and self.config.sequence == "tokens":
            tokens = self.align_image(image.tokens), self.align_text(text.tokens)
            sequence = torch.cat([weights[:, k, None, None] * tokens[k] for k in range(2)], dim=1)
            kept = torch.cat([_kept(image), _kept(text)], dim=1)
        else:
            sequence = (weights[:, :1] * pooled[0] + weights[:, 1:] * pooled[1])[:, None]
            kept = sequence.new_ones(sequence.shape[:2], dtype=torch.bool)
        mixed = self.norm(self.mixer(sequence, kept))
        return Fused(self.projection(_mean_of_kept(mixed, kept)), weights)

    def _weigh(self, image: Tensor, text: Tensor) -> Tensor:
        """Aligned features [B, dim] of both -> their weights [B, 2]."""
        if self.gate is None:
            return image.new_full((len(image), 2), 0.5)
        return self.gate(torch.cat([image, text], dim=1)).softmax(1)


class _Transformer(nn.Module):
    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.dim,
                config.num_heads,
                _hidden(config),
                config.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.num_transformer_layers)
        )

    def forward(self, tokens: Tensor, kept: Tensor) -> Tensor:
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=~kept)
        return tokens


class _Simple(nn.Module):
    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(config.dim, _hidden(config)),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(_hidden(config), config.dim),
        )

    def forward(self, tokens: Tensor, kept: Tensor) -> Tensor:
        return self.mlp(tokens)


def _mixer(config: FusionConfig) -> nn.Module:
    match config.mixer:
        case "mamba":
            return MambaStack(
                config.dim,
                config.num_layers,
                config.state_size,
                config.conv_width,
                config.dropout,
                config.mamba_block,
            )
        case "transformer":
            return _Transformer(config)
        case "simple":
            return _Simple(config)
        case "none":
            return nn.Identity()


def _alignment(config: FusionConfig, width: int) -> nn.Module:
    if not config.with_alignment:
        return nn.Linear(width, config.dim)
    return nn.Sequential(nn.Linear(width, config.dim), nn.GELU(), nn.Linear(config.dim, config.dim))


def _has_layers(config: FusionConfig) -> bool:
    return config.mixer in ("mamba", "transformer")


def _hidden(config: FusionConfig) -> int:
    return max(1, round(config.dim * config.mlp_ratio))


def _kept(modality: Modality) -> Tensor:
    if modality.kept is not None:
        return modality.kept
    return modality.tokens.new_ones(modality.tokens.shape[:2], dtype=torch.bool)


def _mean_of_kept(tokens: Tensor, kept: Tensor) -> Tensor:
    """[B, L, D] and [B, L], one kept at least -> [B, D]."""
    counted = tokens.masked_fill(~kept[..., None], 0.0).sum(1)
    return counted / kept.sum(1, keepdim=True)
