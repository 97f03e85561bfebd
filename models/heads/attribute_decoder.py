"""Attribute features read from the patch tokens by learned queries."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional


class AttributeDecoder(nn.Module):
    """K learned queries, one multi-head cross-attention over the patches, a linear projection.

    Parameters are named `queries`, `cross_attention.*` (with its output projection) and
    `linear.*`, so that patterns can single one out. The initial values depend on `generator`
    alone.

    Args:
        num_attributes: K.
        width: size W of the patch tokens, divisible by `num_heads`.
        embed_dim: size D of the attribute features.
        num_heads: attention heads.
        generator: CPU generator of the initial values.

    Source: VLADR, attribute decoder of stage 2.
    """

    def __init__(
        self, num_attributes: int, width: int, embed_dim: int, num_heads: int, generator: Generator
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(
                f"the patch width must be divisible by the number of heads, came {width} and "
                f"{num_heads}: set another num_heads"
            )
        self.queries = nn.Parameter(torch.empty(num_attributes, width))
        self.cross_attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.linear = nn.Linear(width, embed_dim)
        self._initialise(generator)

    def _initialise(self, generator: Generator) -> None:
        nn.init.normal_(self.queries, std=0.02, generator=generator)
        nn.init.xavier_uniform_(self.cross_attention.in_proj_weight, generator=generator)
        nn.init.xavier_uniform_(self.cross_attention.out_proj.weight, generator=generator)
        nn.init.xavier_uniform_(self.linear.weight, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """Patch tokens [B, L, W] -> L2-normalised attribute features v [B, K, D]."""
        queries = self.queries.to(patches.dtype).expand(len(patches), -1, -1)
        attended, _ = self.cross_attention(queries, patches, patches, need_weights=False)
        return functional.normalize(self.linear(attended), dim=-1)
