"""BDAM: decoupled identity and clothing features from image patches."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from models.heads.seeded_init import seeded_init
from tasks.schema import FrozenConfig


class BdamConfig(FrozenConfig):
    """Configuration of the decoupling module, including all switches of its ablation."""

    enabled: bool = Field(
        default=True,
        description="false: two linear projections of the mean patch token, without attention or "
        "gate",
    )
    dim: int = Field(default=768, ge=1, description="size D of the identity and clothing features")
    num_layers: int = Field(
        default=6, ge=0, description="self-attention layers per branch (shallow variant: 3)"
    )
    num_heads: int = Field(default=8, ge=1, description="attention heads; must divide dim")
    mlp_ratio: float = Field(
        default=4.0, gt=0, description="hidden size of the MLPs as a multiple of dim"
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout of the attention layers")
    cross_attention: bool = Field(default=True, description="cross-attention between the branches")
    gate: bool = Field(
        default=True, description="learned gate that distributes channels over the branches"
    )

    @model_validator(mode="after")
    def _check_heads(self) -> BdamConfig:
        if self.dim % self.num_heads:
            raise ValueError(
                f"dim: expected a multiple of num_heads={self.num_heads}, got {self.dim}; change "
                "num_heads"
            )
        return self


class Decoupled(NamedTuple):
    """Output of BDAM for B images with L patches and D channels.

    Attributes:
        identity: f_id [B, D].
        clothing: f_clo [B, D].
        gated_identity: g * f_id [B, D]; f_id without a gate.
        gated_clothing: (1 - g) * f_clo [B, D]; f_clo without a gate.
        gate: g [B, D] in (0, 1), or None without a gate.
        identity_tokens: [B, L, D] gated identity tokens before pooling; their mean over L is
            `gated_identity`.
    """

    identity: Tensor
    clothing: Tensor
    gated_identity: Tensor
    gated_clothing: Tensor
    gate: Tensor | None
    identity_tokens: Tensor


class Bdam(nn.Module):
    """Two branches of self-attention with cross-attention, average pooling and a gate.

    Each branch is a linear projection of the patches followed by `num_layers` pre-norm transformer
    layers. Then each branch attends to the other one: queries from one branch, keys and values from
    the other, both before the update, with a residual connection. Each branch ends with a layer
    norm, as usual for a pre-norm stack. If disabled, only the two projections remain.

    Parameters are named `identity.*`, `clothing.*` (`projection`, `layers`, `cross`, `norm`) and
    `gate.*`. Initial values depend only on `generator`.

    Args:
        config: configuration of the module.
        width: size W of the patch tokens.
        generator: CPU generator for the initial values.

    Source: bidirectional decoupling alignment module of the decoupling paper. The paper does not
    specify the layers or the final normalisation; pre-norm layers are our choice.
    """

    def __init__(self, config: BdamConfig, width: int, generator: Generator) -> None:
        super().__init__()
        with seeded_init(generator):
            self.identity = _Branch(config, width)
            self.clothing = _Branch(config, width)
            gated = config.enabled and config.gate
            self.gate = nn.Linear(2 * config.dim, config.dim) if gated else None

    def forward(self, patches: Tensor) -> Decoupled:
        """Compute identity and clothing features.

        Args:
            patches: [B, L, W] patch tokens without the class token, L >= 1.
        """
        identity_tokens = self.identity.encode(patches)
        clothing_tokens = self.clothing.encode(patches)
        identity_tokens, clothing_tokens = (
            self.identity.attend(identity_tokens, clothing_tokens),
            self.clothing.attend(clothing_tokens, identity_tokens),
        )
        identity, clothing = identity_tokens.mean(1), clothing_tokens.mean(1)
        if self.gate is None:
            return Decoupled(identity, clothing, identity, clothing, None, identity_tokens)
        gate = torch.sigmoid(self.gate(torch.cat([identity, clothing], dim=1)))
        return Decoupled(
            identity,
            clothing,
            gate * identity,
            (1 - gate) * clothing,
            gate,
            gate[:, None] * identity_tokens,
        )


class _Branch(nn.Module):
    def __init__(self, config: BdamConfig, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width, config.dim)
        num_layers = config.num_layers if config.enabled else 0
        self.layers = nn.Sequential(*(_self_attention(config) for _ in range(num_layers)))
        crosses = config.enabled and config.cross_attention
        self.cross = _CrossAttention(config) if crosses else None
        self.norm = nn.LayerNorm(config.dim) if config.enabled else nn.Identity()

    def encode(self, patches: Tensor) -> Tensor:
        """Encode [B, L, W] as [B, L, D] without cross-attention."""
        return self.layers(self.projection(patches))

    def attend(self, tokens: Tensor, other: Tensor) -> Tensor:
        """Add cross-attention to the other branch and normalise; all [B, L, D]."""
        return self.norm(tokens if self.cross is None else tokens + self.cross(tokens, other))


class _CrossAttention(nn.Module):
    def __init__(self, config: BdamConfig) -> None:
        super().__init__()
        self.norm_own = nn.LayerNorm(config.dim)
        self.norm_other = nn.LayerNorm(config.dim)
        self.attention = nn.MultiheadAttention(
            config.dim, config.num_heads, config.dropout, batch_first=True
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, other: Tensor) -> Tensor:
        """Attend from tokens [B, L, D] (queries) to other [B, M, D] (keys, values)."""
        others = self.norm_other(other)
        attended, _ = self.attention(self.norm_own(tokens), others, others, need_weights=False)
        return self.dropout(attended)


def _self_attention(config: BdamConfig) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        config.dim,
        config.num_heads,
        max(1, round(config.dim * config.mlp_ratio)),
        config.dropout,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
