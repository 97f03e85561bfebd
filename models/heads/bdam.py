"""BDAM: identity and clothing features out of one sequence of image patches."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor, nn

from models.heads.seeded_init import drawn_from
from tasks.schema import FrozenConfig


class BdamConfig(FrozenConfig):
    """The decoupling module; every row of its ablation table is a switch here."""

    enabled: bool = Field(
        default=True,
        description="false: no module, two linear projections of the patches averaged over the "
        "image (no attention, no gate)",
    )
    dim: int = Field(default=768, ge=1, description="size D of identity and clothing features")
    num_layers: int = Field(
        default=6, ge=0, description="self-attention layers of each branch (the shallow form has 3)"
    )
    num_heads: int = Field(default=8, ge=1, description="attention heads, a divisor of dim")
    mlp_ratio: float = Field(
        default=4.0, gt=0, description="hidden size of a layer's MLP as a multiple of dim"
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout of the attention layers")
    cross_attention: bool = Field(
        default=True, description="whether each branch attends to the other one"
    )
    gate: bool = Field(
        default=True, description="whether a learned gate shares the channels out to the branches"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> BdamConfig:
        if self.dim % self.num_heads:
            raise ValueError(
                f"dim must be divisible by num_heads, came {self.dim} and {self.num_heads}: set "
                "another num_heads"
            )
        return self


class Decoupled(NamedTuple):
    """What BDAM reads from a batch of images; B images, L patches, D channels.

    Attributes:
        identity: f_id [B, D].
        clothing: f_clo [B, D].
        gated_identity: g * f_id [B, D]; f_id without a gate.
        gated_clothing: (1 - g) * f_clo [B, D]; f_clo without a gate.
        gate: g [B, D] in (0, 1), or None without a gate.
        identity_tokens: [B, L, D], the gated identity branch before pooling: its mean over L is
            `gated_identity`.
    """

    identity: Tensor
    clothing: Tensor
    gated_identity: Tensor
    gated_clothing: Tensor
    gate: Tensor | None
    identity_tokens: Tensor


class Bdam(nn.Module):
    """Two branches of self-attention, attention across them, average pooling and a gate.

    Each branch is a linear projection of the patches and `num_layers` pre-norm transformer layers.
    Then each branch attends to the other one (queries of one, keys and values of the other, both
    as they were before; added to the branch). A layer norm of its own ends each branch, as it ends
    any pre-norm stack. Without the module, the two projections are all there is.

    Parameters are named `identity.*`, `clothing.*` (`projection`, `layers`, `cross`, `norm`) and
    `gate.*`. The initial values depend on `generator` alone.

    Args:
        config: sizes and switches.
        width: size W of the patch tokens.
        generator: CPU generator of the initial values.

    Source: the decoupling paper's bidirectional decoupling alignment module. It does not say how
    its layers are made, nor how the outcome is normalised: pre-norm layers are the choice here.
    """

    def __init__(self, config: BdamConfig, width: int, generator: Generator) -> None:
        super().__init__()
        with drawn_from(generator):
            self.identity = _Branch(config, width)
            self.clothing = _Branch(config, width)
            gated = config.enabled and config.gate
            self.gate = nn.Linear(2 * config.dim, config.dim) if gated else None

    def forward(self, patches: Tensor) -> Decoupled:
        """Patch tokens [B, L, W], L >= 1, the class token left out -> features of the images."""
        own, worn = self.identity.read(patches), self.clothing.read(patches)
        own, worn = self.identity.attend(own, worn), self.clothing.attend(worn, own)
        identity, clothing = own.mean(1), worn.mean(1)
        if self.gate is None:
            return Decoupled(identity, clothing, identity, clothing, None, own)
        gate = torch.sigmoid(self.gate(torch.cat([identity, clothing], dim=1)))
        return Decoupled(
            identity,
            clothing,
            gate * identity,
            (1 - gate) * clothing,
            gate,
            gate[:, None] * own,
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

    def read(self, patches: Tensor) -> Tensor:
        """[B, L, W] -> [B, L, D], this branch alone."""
        return self.layers(self.projection(patches))

    def attend(self, own: Tensor, other: Tensor) -> Tensor:
        """[B, L, D] of this branch and of the other one -> [B, L, D] of this branch."""
        return self.norm(own if self.cross is None else own + self.cross(own, other))


class _CrossAttention(nn.Module):
    def __init__(self, config: BdamConfig) -> None:
        super().__init__()
        self.norm_own = nn.LayerNorm(config.dim)
        self.norm_other = nn.LayerNorm(config.dim)
        self.attention = nn.MultiheadAttention(
            config.dim, config.num_heads, config.dropout, batch_first=True
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """[B, L, D] queries' branch, [B, M, D] keys' and values' branch -> [B, L, D]."""
        others = self.norm_other(other)
        attended, _ = self.attention(self.norm_own(own), others, others, need_weights=False)
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
