"""Mamba layers: the CUDA kernels of mamba_ssm where they can run, transformers' block elsewhere.

Both blocks hold parameters of the same names and shapes, so that a checkpoint of one loads into the
other.
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
"""Whose block to build; "auto" takes mamba_ssm's if it is installed and there is a CUDA device."""

EXPANSION = 2
"""Channels inside a block as a multiple of its width."""


class MambaStack(nn.Module):
    """Layers of x + dropout(block(norm(x))), each position seeing those before it.

    Parameters are named `layers.<i>.norm.*` and `layers.<i>.block.*`. Which block was built is
    logged once, as a warning where it is the slow one.

    Args:
        width: size D of the tokens.
        num_layers: layers.
        state_size: states of each channel.
        conv_width: positions the block's convolution looks at.
        dropout: of each block's output.
        block: whose block to build.

    Raises:
        ValueError: mamba_ssm's block is asked for and cannot run here, or is shaped differently.

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
            _MambaLayer(width, build_block(kind, width, state_size, conv_width, number), dropout)
            for number in range(num_layers)
        )
        _announce(kind)

    def forward(self, tokens: Tensor, kept: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]; `kept` [B, L] bool is false at padding, which is at the end.

        So padding needs no mask: no position that counts sees it.
        """
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens


def choose_block(
    wanted: Block, installed: bool, cuda: bool
) -> Literal["mamba_ssm", "transformers"]:
    """Whose block to build, given whether mamba_ssm is installed and there is a CUDA device.

    Raises:
        ValueError: mamba_ssm's is asked for and cannot run.
    """
    if wanted == "mamba_ssm" and not (installed and cuda):
        missing = "a CUDA device, and there is none" if installed else "to be installed"
        raise ValueError(
            f"mamba_block=mamba_ssm needs {missing}: install the extra `gpu` on a machine with a "
            "CUDA device, or set mamba_block=auto"
        )
    if wanted == "transformers" or not (installed and cuda):
        return "transformers"
    return "mamba_ssm"


def block_shapes(width: int, state_size: int, conv_width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a block's parameters, whoever made it."""
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
    number: int,
) -> nn.Module:
    """The block of layer `number`, on the CPU, [B, L, width] -> [B, L, width].

    Raises:
        ValueError: this version of the library holds parameters of other names or shapes.
    """
    # Imported where they are needed: one is rarely there, the other takes seconds.
    if kind == "mamba_ssm":
        block = importlib.import_module("mamba_ssm").Mamba(
            d_model=width,
            d_state=state_size,
            d_conv=conv_width,
            expand=EXPANSION,
            layer_idx=number,
        )
    else:
        from transformers.models.mamba.configuration_mamba import MambaConfig
        from transformers.models.mamba.modeling_mamba import MambaMixer

        config = MambaConfig(
            hidden_size=width,
            state_size=state_size,
            conv_kernel=conv_width,
            expand=EXPANSION,
            num_hidden_layers=number + 1,
        )
        block = MambaMixer(config, layer_idx=number)
    found = {name: tuple(parameter.shape) for name, parameter in block.named_parameters()}
    expected = block_shapes(width, state_size, conv_width)
    if found != expected:
        raise ValueError(
            f"the Mamba block of {kind} was expected to hold parameters {expected}, this version "
            f"holds {found}: install another version, or set mamba_block to the other one"
        )
    return block


def _announce(kind: str) -> None:
    logger = logging.getLogger(__name__)
    if kind == "mamba_ssm":
        logger.info("Mamba layers: mamba_ssm.Mamba (CUDA kernels)")
    else:
        logger.warning(
            "Mamba layers: transformers' MambaMixer, a loop over the positions, because mamba_ssm "
            "or a CUDA device is not there or mamba_block=transformers; timings say nothing about "
            "Mamba"
        )
