"""Mamba layers: CUDA kernels of mamba_ssm where available, else the block of transformers.

Both blocks have parameters of the same names and shapes, so their checkpoints are interchangeable.
"""

from __future__ import annotations

import importlib
import logging
import math
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor, nn

Block = Literal["auto", "mamba_ssm", "transformers"]
"""Implementation of the block; "auto" is mamba_ssm if installed and there is a CUDA device."""

EXPANSION = 2
"""Inner channels of a block as a multiple of its width."""


class MambaStack(nn.Module):
    """Causal layers x + dropout(block(norm(x))).

    Parameters are named `layers.<i>.norm.*` and `layers.<i>.block.*`. The chosen implementation is
    logged, as a warning if it is the slow one.

    Args:
        width: size D of the tokens.
        num_layers: number of layers.
        state_size: state size per channel.
        conv_width: kernel size of the block's convolution.
        dropout: dropout rate of each block's output.
        block: implementation of the block.

    Raises:
        ValueError: mamba_ssm is requested but unavailable, or its parameters differ.

    Source: Gu & Dao 2023 (Mamba).
    """

    def __init__(
        self,
        width: int,
        num_layers: int,
        state_size: int,
        conv_width: int,
        dropout: float,
        block: Block,
    ) -> None:
        super().__init__()
        kind = choose_block(block, find_spec("mamba_ssm") is not None, torch.cuda.is_available())
        self.layers = nn.ModuleList(
            _MambaLayer(width, build_block(kind, width, state_size, conv_width, index), dropout)
            for index in range(num_layers)
        )
        _log_block(kind)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Apply the layers to tokens [B, L, D]; `mask` [B, L] bool is False at padding.

        Padding is at the end and the layers are causal, so `mask` is not needed.
        """
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens


def choose_block(
    requested: Block, installed: bool, cuda: bool
) -> Literal["mamba_ssm", "transformers"]:
    """Choose an implementation, given whether mamba_ssm is installed and CUDA is available.

    Raises:
        ValueError: mamba_ssm is requested but unavailable.
    """
    if requested == "mamba_ssm" and not (installed and cuda):
        missing = (
            "a CUDA device, found none" if installed else "the package mamba_ssm, not installed"
        )
        raise ValueError(
            f"mamba_block=mamba_ssm: expected {missing}; install the extra `gpu` on a machine with "
            "a CUDA device, or set mamba_block=auto"
        )
    if requested == "transformers" or not (installed and cuda):
        return "transformers"
    return "mamba_ssm"


def block_shapes(width: int, state_size: int, conv_width: int) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of a block's parameters, equal for both implementations."""
    inner, rank = EXPANSION * width, math.ceil(width / 16)
    return {
        "in_proj.weight": (2 * inner, width),
        "conv1d.weight": (inner, 1, conv_width),
        "conv1d.bias": (inner,),
        "x_proj.weight": (rank + 2 * state_size, inner),
        "dt_proj.weight": (inner, rank),
        "dt_proj.bias": (inner,),
        "A_log": (inner, state_size),
        "D": (inner,),
        "out_proj.weight": (width, inner),
    }


class _MambaLayer(nn.Module):
    def __init__(self, width: int, block: nn.Module, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.block = block
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.dropout(self.block(self.norm(tokens)))


def build_block(
    kind: Literal["mamba_ssm", "transformers"],
    width: int,
    state_size: int,
    conv_width: int,
    layer_index: int,
) -> nn.Module:
    """Build the block of layer `layer_index` on the CPU, [B, L, width] -> [B, L, width].

    Raises:
        ValueError: the installed version has parameters of other names or shapes.
    """
    # Imported here because mamba_ssm is optional and transformers takes seconds to import.
    if kind == "mamba_ssm":
        block = importlib.import_module("mamba_ssm").Mamba(
            d_model=width,
            d_state=state_size,
            d_conv=conv_width,
            expand=EXPANSION,
            layer_idx=layer_index,
        )
    else:
        from transformers.models.mamba.configuration_mamba import MambaConfig
        from transformers.models.mamba.modeling_mamba import MambaMixer

        config = MambaConfig(
            hidden_size=width,
            state_size=state_size,
            conv_kernel=conv_width,
            expand=EXPANSION,
            num_hidden_layers=layer_index + 1,
        )
        block = MambaMixer(config, layer_idx=layer_index)
    shapes = {name: tuple(parameter.shape) for name, parameter in block.named_parameters()}
    expected = block_shapes(width, state_size, conv_width)
    if shapes != expected:
        raise ValueError(
            f"mamba_block={kind}: expected parameters {expected}, got {shapes}; install another "
            "version, or use the other implementation"
        )
    return block


def _log_block(kind: str) -> None:
    logger = logging.getLogger(__name__)
    if kind == "mamba_ssm":
        logger.info("Mamba layers: mamba_ssm.Mamba (CUDA kernels)")
    else:
        logger.warning(
            "Mamba layers: transformers' MambaMixer (slow loop over positions), because mamba_ssm "
            "or a CUDA device is unavailable or mamba_block=transformers; timings are not "
            "representative of Mamba"
        )
