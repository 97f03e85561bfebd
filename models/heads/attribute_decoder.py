"""Attribute decoder: learned queries that attend to patch tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

Initialisation = Literal["random", "identity"]
"""Initial values of the decoder, see `AttributeDecoder`."""


class AttributeDecoder(nn.Module):
    """K learned queries with one multi-head cross-attention over patches and a linear projection.

    Parameters are named `queries`, `cross_attention.*` (with its output projection) and `linear.*`,
    so that patterns can select each of them. Initial values depend only on `generator`.

    Args:
        num_attributes: number K of queries.
        width: size W of the patch tokens, divisible by `num_heads`.
        embed_dim: size D of the attribute features.
        num_heads: attention heads.
        generator: CPU generator for the initial values.
        initialisation: random: Xavier weights and queries of standard deviation 0.02. identity:
            value, output and linear projections are the identity and queries have standard
            deviation 1, so that v_k starts as a weighted mean of the patch tokens in the space
            that they share with texts, with different weights for each k.

    Raises:
        ValueError: `width` is not divisible by `num_heads`, or differs from `embed_dim` with
            identity projections.

    Source: VLADR, attribute decoder of stage 2.
    """

    def __init__(
        self,
        num_attributes: int,
        width: int,
        embed_dim: int,
        num_heads: int,
        generator: Generator,
        initialisation: Initialisation = "random",
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(
                f"width: expected a multiple of num_heads={num_heads}, got {width}; change "
                "num_heads"
            )
        if initialisation == "identity" and width != embed_dim:
            raise ValueError(
                f"initialisation=identity: expected embed_dim equal to width={width}, got "
                f"{embed_dim}; use initialisation=random"
            )
        self.queries = nn.Parameter(torch.empty(num_attributes, width))
        self.cross_attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.linear = nn.Linear(width, embed_dim)
        self._initialise_randomly(generator, 0.02 if initialisation == "random" else 1.0)
        if initialisation == "identity":
            self._initialise_projections_with_identity()

    def _initialise_randomly(self, generator: Generator, query_std: float) -> None:
        nn.init.normal_(self.queries, std=query_std, generator=generator)
        nn.init.xavier_uniform_(self.cross_attention.in_proj_weight, generator=generator)
        nn.init.xavier_uniform_(self.cross_attention.out_proj.weight, generator=generator)
        nn.init.xavier_uniform_(self.linear.weight, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def _initialise_projections_with_identity(self) -> None:
        value = self.cross_attention.in_proj_weight.chunk(3)[2]
        for weight in (value, self.cross_attention.out_proj.weight, self.linear.weight):
            nn.init.eye_(weight)

    def forward(self, patches: Tensor) -> Tensor:
        """Decode patch tokens [B, L, W] into L2-normalised attribute features v [B, K, D]."""
        queries = self.queries.to(patches.dtype).expand(patches.shape[0], -1, -1)
        attended, _ = self.cross_attention(queries, patches, patches, need_weights=False)
        return functional.normalize(self.linear(attended), dim=-1)

    def attention(self, patches: Tensor) -> Tensor:
        """Compute the attention weights with which `forward` averages the projected patches.

        Args:
            patches: patch tokens [B, L, W].

        Returns:
            Weights [B, H, K, L] of H heads, in [0, 1]; they sum to 1 over the patches.
        """
        queries = self.queries.to(patches.dtype).expand(patches.shape[0], -1, -1)
        _, weights = self.cross_attention(
            queries, patches, patches, need_weights=True, average_attn_weights=False
        )
        return weights
