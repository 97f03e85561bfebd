"""Mamba layers: the CUDA kernels of mamba_ssm on a GPU, a loop over the positions elsewhere.

The device of the tokens decides at every call, so a learner moves between CPU and GPU like any
other module. Both ways use the same parameters.
"""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Block = Literal["auto", "mamba_ssm", "transformers"]
"""Computation on a GPU: "mamba_ssm" its kernels, "transformers" the loop over the positions, "auto"
the kernels if they work. On a CPU it is always the loop."""

Kernel = Callable[..., Tensor]
"""mamba_ssm's `mamba_inner_fn`."""

EXPANSION = 2
"""Inner channels of a block as a multiple of its width."""

MIN_STEP, MAX_STEP, SMALLEST_STEP = 0.001, 0.1, 1e-4
"""Range of the initial step sizes (log-uniform), and the smallest one."""

logger = logging.getLogger(__name__)


class MambaStack(nn.Module):
    """Causal layers x + dropout(block(norm(x))).

    Parameters are named `layers.<i>.norm.*` and `layers.<i>.block.*`. The first call on each kind
    of device logs the computation, as a warning if it is the slow one.

    Args:
        width: size D of the tokens.
        num_layers: number of layers.
        state_size: state size per channel.
        conv_width: kernel size of the block's convolution.
        dropout: dropout rate of each block's output.
        block: computation on a GPU.

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
        self.block: Block = block
        self.layers = nn.ModuleList(
            _MambaLayer(width, MambaBlock(width, state_size, conv_width), dropout)
            for _ in range(num_layers)
        )
        self._kernels: dict[str, Kernel | None] = {}

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Apply the layers to tokens [B, L, D]; `mask` [B, L] bool is False at padding.

        Padding is at the end and the layers are causal, so `mask` is not needed.

        Raises:
            ValueError: the tokens are on a GPU, and mamba_ssm is required but does not work.
        """
        kernel = self._kernel_on(tokens.device)
        for layer in self.layers:
            tokens = layer(tokens, kernel)
        return tokens

    def _kernel_on(self, device: torch.device) -> Kernel | None:
        if device.type not in self._kernels:
            first = self.layers[0]
            assert isinstance(first, _MambaLayer)
            self._kernels[device.type] = choose_kernel(self.block, first.block, device)
        return self._kernels[device.type]


def choose_kernel(requested: Block, block: MambaBlock, device: torch.device) -> Kernel | None:
    """Return mamba_ssm's kernel for a block on `device`, or None for the loop; log the choice.

    The kernel is tried, forwards and backwards, because a package for another version of torch,
    CUDA or transformers may fail at its import or at its first call.

    Raises:
        ValueError: mamba_ssm is required on this GPU but does not work.
    """
    if device.type != "cuda" or requested == "transformers":
        reason = "mamba_block=transformers" if device.type == "cuda" else f"device {device.type}"
        _warn_of_loop(reason)
        return None
    try:
        kernel: Kernel = importlib.import_module(
            "mamba_ssm.ops.selective_scan_interface"
        ).mamba_inner_fn
        try_kernel(kernel, block, device)
    except Exception as error:  # import errors, missing symbols, failed launches: any type
        cause = f"{type(error).__name__}: {error}"
        if requested == "mamba_ssm":
            raise ValueError(
                f"mamba_block=mamba_ssm: expected the packages mamba-ssm and causal-conv1d to work "
                f"on {device}, got {cause}; install them for the installed torch "
                "(docs/installation.md), or set mamba_block=auto"
            ) from error
        _warn_of_loop(f"mamba_ssm does not work here ({cause})")
        return None
    logger.info("Mamba layers: CUDA kernels of mamba_ssm")
    return kernel


def try_kernel(kernel: Kernel, block: MambaBlock, device: torch.device) -> None:
    """Compute a block's output and gradient for two zero tokens; raises what the kernel raises."""
    width = block.in_proj.in_features
    with torch.enable_grad():
        tokens = torch.zeros(1, 2, width, device=device, requires_grad=True)
        torch.autograd.grad(block(tokens, kernel).float().sum(), tokens)


def _warn_of_loop(reason: str) -> None:
    logger.warning(
        "Mamba layers: loop over the positions, because of %s; timings are not representative of "
        "Mamba",
        reason,
    )


class MambaBlock(nn.Module):
    """Selective state space block, [B, L, width] -> [B, L, width].

    Names, shapes and initial values of the parameters are those of `mamba_ssm.Mamba` and of
    transformers' `MambaMixer`. The loop equals `MambaMixer` without kernels. That class cannot be
    used: with mamba_ssm installed it calls the CUDA kernels for tensors on the CPU as well.

    Args:
        width: size of the tokens.
        state_size: state size N per channel.
        conv_width: kernel size of the convolution.
    """

    def __init__(self, width: int, state_size: int, conv_width: int) -> None:
        super().__init__()
        inner, rank = EXPANSION * width, math.ceil(width / 16)
        self.conv1d = nn.Conv1d(inner, inner, conv_width, groups=inner, padding=conv_width - 1)
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.x_proj = nn.Linear(inner, rank + 2 * state_size, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        states = torch.arange(1, state_size + 1, dtype=torch.float32)
        self.A_log = nn.Parameter(states.log().expand(inner, -1).contiguous())
        self.D = nn.Parameter(torch.ones(inner))
        with torch.no_grad():
            self.dt_proj.weight.uniform_(-(rank**-0.5), rank**-0.5)
            low, high = math.log(MIN_STEP), math.log(MAX_STEP)
            step = torch.exp(torch.rand(inner) * (high - low) + low).clamp(min=SMALLEST_STEP)
            # The inverse of softplus, so that the initial step size is `step`.
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, tokens: Tensor, kernel: Kernel | None = None) -> Tensor:
        """Apply the block by `kernel`, or by the loop over the positions."""
        projected = self.in_proj(tokens).transpose(1, 2)
        decay = -torch.exp(self.A_log.float())
        if kernel is not None:
            return kernel(
                projected,
                self.conv1d.weight,
                self.conv1d.bias,
                self.x_proj.weight,
                self.dt_proj.weight,
                self.out_proj.weight,
                None,  # bias of out_proj
                decay,
                D=self.D.float(),
                delta_bias=self.dt_proj.bias.float(),
                delta_softplus=True,
            )
        inputs, gate = projected.chunk(2, dim=1)
        inputs = functional.silu(self.conv1d(inputs)[:, :, : tokens.shape[1]])
        rank, num_states = self.dt_proj.in_features, self.A_log.shape[1]
        step, enter, leave = self.x_proj(inputs.transpose(1, 2)).split(
            [rank, num_states, num_states], dim=-1
        )
        step = self.dt_proj.weight @ step.transpose(1, 2)
        step = functional.softplus(step + self.dt_proj.bias.float()[..., None])
        scanned = _scan(inputs, step, decay, enter, leave) + inputs * self.D.float()[:, None]
        gated = scanned * functional.silu(gate)
        return self.out_proj(gated.transpose(1, 2).to(tokens.dtype))


def _scan(inputs: Tensor, step: Tensor, decay: Tensor, enter: Tensor, leave: Tensor) -> Tensor:
    """Run the recurrence h = exp(step A) h + step B x, y = C h over the positions.

    Args:
        inputs: x [B, D, L].
        step: [B, D, L].
        decay: A [D, N].
        enter: B [B, L, N].
        leave: C [B, L, N].

    Returns:
        y [B, D, L].
    """
    kept = torch.exp(decay[None, :, None, :] * step[:, :, :, None])
    added = step[:, :, :, None] * enter[:, None].float() * inputs[:, :, :, None].float()
    state = inputs.new_zeros(*inputs.shape[:2], decay.shape[1])
    outputs = list[Tensor]()
    for position in range(inputs.shape[2]):
        state = kept[:, :, position] * state + added[:, :, position]
        output = torch.matmul(state.to(inputs.dtype), leave[:, position, :].unsqueeze(-1))
        outputs.append(output[:, :, 0])
    return torch.stack(outputs, dim=-1)


class _MambaLayer(nn.Module):
    def __init__(self, width: int, block: MambaBlock, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.block = block
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, kernel: Kernel | None) -> Tensor:
        return tokens + self.dropout(self.block(self.norm(tokens), kernel))
