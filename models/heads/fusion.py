"""Fusion of an image's identity features with its generated identity description."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from models.heads.mamba import Block, MambaStack
from models.heads.seeded_init import seeded_init
from tasks.schema import FrozenConfig


class FusionConfig(FrozenConfig):
    """Configuration of the fusion, including all variants of the fusion table."""

    mixer: Literal["mamba", "transformer", "simple", "none"] = Field(
        default="mamba",
        description="layers after the gate: Mamba or transformer layers over the sequence, an MLP "
        "on the weighted sum (simple), or the image only, without description and gate (none)",
    )
    sequence: Literal["pooled", "tokens"] = Field(
        default="tokens",
        description="input of mamba and transformer. pooled: one token, the weighted sum of the "
        "pooled features (the printed formula; there is no sequence); tokens: the weighted "
        "image tokens followed by the weighted text tokens",
    )
    with_alignment: bool = Field(
        default=True,
        description="align each modality by a separate MLP; false: by a linear projection",
    )
    with_gate: bool = Field(
        default=True,
        description="learn the weights of image and description; false: 0.5 each",
    )
    dim: int = Field(default=256, ge=1, description="size of the aligned features")
    num_layers: int = Field(default=2, ge=1, description="mamba: number of layers")
    state_size: int = Field(default=16, ge=1, description="mamba: state size per channel")
    conv_width: int = Field(
        default=4, ge=2, le=4, description="mamba: kernel size of the convolution"
    )
    mamba_block: Block = Field(
        default="auto",
        description="mamba: computation on a GPU. mamba_ssm: its CUDA kernels; transformers: the "
        "loop of transformers' MambaMixer (slow); auto: the kernels if they work. On a CPU always "
        "the loop. Checkpoints are the same",
    )
    num_transformer_layers: int = Field(
        default=4, ge=1, description="transformer: number of layers"
    )
    num_heads: int = Field(
        default=8, ge=1, description="transformer: attention heads; must divide dim"
    )
    mlp_ratio: float = Field(
        default=4.0, gt=0, description="transformer, simple: hidden size as a multiple of dim"
    )
    dropout: float = Field(
        default=0.1, ge=0, lt=1, description="dropout of the alignment MLPs and of the mixer"
    )

    @model_validator(mode="after")
    def _check_heads(self) -> FusionConfig:
        if self.mixer == "transformer" and self.dim % self.num_heads:
            raise ValueError(
                f"dim: expected a multiple of num_heads={self.num_heads}, got {self.dim}; change "
                "num_heads"
            )
        return self


class Modality(NamedTuple):
    """Input features of one modality for B samples.

    Attributes:
        pooled: [B, W].
        tokens: [B, L, W], L >= 1; used only with `sequence: tokens`.
        mask: [B, L] bool, False at padding, which must be at the end; None: no padding.
    """

    pooled: Tensor
    tokens: Tensor
    mask: Tensor | None = None


class Fused(NamedTuple):
    """Output of the fusion.

    Attributes:
        embedding: f_final [B, D_out], not normalised.
        gate: [B, 2], weights of image and description, summing to 1 per row; None with
            `mixer: none`.
    """

    embedding: Tensor
    gate: Tensor | None


class Fusion(nn.Module):
    """Alignment, gate, mixer, mean over the sequence, and projection.

    Each modality is aligned to `dim` channels, by the same MLP for the pooled feature and for every
    token. gate = softmax(W [f_img; f_txt] + b) weights the two modalities. The mixer's layers are
    pre-norm and residual, followed by a layer norm. The sequence is averaged without padding and
    projected. Mamba layers are causal: text tokens see the image tokens, which come first.

    Only modules that the configuration uses are built, so every parameter receives a gradient.
    Initial values depend only on `generator`.

    Args:
        config: configuration of the fusion.
        image_width: size of the image features and tokens.
        text_width: size of the description features and tokens.
        embed_dim: size D_out of the output embedding.
        generator: CPU generator for the initial values.

    Source: gated Mamba fusion of the decoupling paper. The paper prints the pooled form, does not
    specify how a sequence is reduced to one feature, and names the alternatives without details.
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
        reads_text = config.mixer != "none"
        with seeded_init(generator):
            self.align_image = _alignment(config, image_width)
            self.align_text = _alignment(config, text_width) if reads_text else None
            self.gate = nn.Linear(2 * config.dim, 2) if reads_text and config.with_gate else None
            self.mixer = _mixer(config)
            self.norm = nn.LayerNorm(config.dim) if _has_layers(config) else nn.Identity()
            self.projection = nn.Linear(config.dim, embed_dim)

    def forward(self, image: Modality, text: Modality | None) -> Fused:
        """Fuse images with their descriptions.

        Raises:
            ValueError: there is no description and `mixer` is not "none".
        """
        if self.align_text is None:
            return Fused(self.projection(self.align_image(image.pooled)), None)
        if text is None:
            raise ValueError(
                f"fusion.mixer={self.config.mixer}: expected a description, got none; add "
                "descriptions, or set fusion.mixer=none"
            )
        pooled = self.align_image(image.pooled), self.align_text(text.pooled)
        weights = self._weigh(*pooled)
        if _has_layers(self.config) and self.config.sequence == "tokens":
            tokens = self.align_image(image.tokens), self.align_text(text.tokens)
            sequence = torch.cat([weights[:, k, None, None] * tokens[k] for k in range(2)], dim=1)
            mask = torch.cat([_mask_of(image), _mask_of(text)], dim=1)
        else:
            sequence = (weights[:, :1] * pooled[0] + weights[:, 1:] * pooled[1])[:, None]
            mask = sequence.new_ones(sequence.shape[:2], dtype=torch.bool)
        hidden = self.norm(self.mixer(sequence, mask))
        return Fused(self.projection(_masked_mean(hidden, mask)), weights)

    def _weigh(self, image: Tensor, text: Tensor) -> Tensor:
        """Compute weights [B, 2] from the aligned features [B, dim] of both modalities."""
        if self.gate is None:
            return image.new_full((image.shape[0], 2), 0.5)
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

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=~mask)
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

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
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
    return nn.Sequential(
        nn.Linear(width, config.dim),
        nn.GELU(),
        nn.Linear(config.dim, config.dim),
        nn.Dropout(config.dropout),
    )


def _has_layers(config: FusionConfig) -> bool:
    return config.mixer in ("mamba", "transformer")


def _hidden(config: FusionConfig) -> int:
    return max(1, round(config.dim * config.mlp_ratio))


def _mask_of(modality: Modality) -> Tensor:
    if modality.mask is not None:
        return modality.mask
    return modality.tokens.new_ones(modality.tokens.shape[:2], dtype=torch.bool)


def _masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Average [B, L, D] over the positions in mask [B, L] (at least one) -> [B, D]."""
    total = tokens.masked_fill(~mask[..., None], 0.0).sum(1)
    return total / mask.sum(1, keepdim=True)
