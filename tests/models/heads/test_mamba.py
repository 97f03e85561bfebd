"""Mamba layers: the recurrence, equality with transformers' block, and the choice by device."""

from __future__ import annotations

import copy
import logging
import sys
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch.nn import functional

from models.heads.mamba import MambaBlock, MambaStack, choose_kernel
from tests.fake_cuda import DEVICE, fake_cuda
from tests.models.heads.random_modules import draw, scrambled


def stack(num_layers=1, width=6, dropout=0.0, block="auto"):
    torch.manual_seed(0)
    return MambaStack(width, num_layers, 3, 4, dropout, block)


def naive_scan(block, tokens):
    """Mamba's recurrence for one sample [L, D], position by position, channel by channel."""
    state_size, inner = block.A_log.shape[1], block.A_log.shape[0]
    rank = block.dt_proj.weight.shape[1]
    both = [block.in_proj.weight @ token for token in tokens]
    branch, gates = [b[:inner] for b in both], [b[inner:] for b in both]
    width = block.conv1d.weight.shape[2]
    memory = torch.zeros(inner, state_size)
    out = []
    for position in range(len(tokens)):
        seen = block.conv1d.bias.clone()
        for back in range(width):
            if position - back >= 0:
                seen += block.conv1d.weight[:, 0, width - 1 - back] * branch[position - back]
        x = seen / (1 + (-seen).exp())
        selected = block.x_proj.weight @ x
        raw, b, c = selected.split([rank, state_size, state_size])
        step = torch.log1p((block.dt_proj.weight @ raw + block.dt_proj.bias).exp())
        y = torch.zeros(inner)
        for d in range(inner):
            for n in range(state_size):
                decay = (-step[d] * block.A_log[d, n].exp()).exp()
                memory[d, n] = decay * memory[d, n] + step[d] * b[n] * x[d]
                y[d] += c[n] * memory[d, n]
            y[d] += block.D[d] * x[d]
        z = gates[position]
        out.append(block.out_proj.weight @ (y * z / (1 + (-z).exp())))
    return torch.stack(out)


@pytest.mark.parametrize("length", [1, 2, 6])
@torch.no_grad()
def test_the_block_equals_the_scan_written_out(length):
    layers = scrambled(stack()).eval()
    tokens = draw(2, length, 6)
    layer = layers.layers[0]
    found = layers(tokens, torch.ones(2, length, dtype=torch.bool))
    for sample in range(2):
        normed = functional.layer_norm(tokens[sample], (6,), layer.norm.weight, layer.norm.bias)
        wanted = tokens[sample] + naive_scan(layer.block, normed)
        assert torch.allclose(found[sample], wanted, atol=1e-5)


def test_training_computes_what_evaluation_does():
    layers, tokens = stack(2), draw(2, 5, 6)
    mask = torch.ones(2, 5, dtype=torch.bool)
    assert torch.allclose(layers.train()(tokens, mask), layers.eval()(tokens, mask), atol=1e-6)


def transformers_mixer(width, state_size, conv_width):
    from transformers.models.mamba.configuration_mamba import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    sizes = {"hidden_size": width, "state_size": state_size, "conv_kernel": conv_width}
    return MambaMixer(MambaConfig(**sizes, expand=2, num_hidden_layers=1), layer_idx=0)


@pytest.mark.parametrize("bfloat16", [False, True])
@torch.no_grad()
def test_the_block_equals_that_of_transformers(bfloat16):
    torch.manual_seed(3)
    expected = transformers_mixer(20, 3, 4)
    torch.manual_seed(3)
    block = MambaBlock(20, 3, 4)
    wanted = dict(expected.named_parameters())
    found = dict(block.named_parameters())
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    tokens = draw(2, 6, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        for mode in (True, False):
            assert torch.equal(block.train(mode)(tokens), expected.train(mode)(tokens))


# ---- choice by device


def loop_kernel(calls, error=None):
    """A `mamba_inner_fn` for tests: records the device of its input and computes by the loop."""

    def mamba_inner_fn(xz, conv_weight, conv_bias, x_weight, dt_weight, out_weight, *rest, **named):
        calls.append(xz.device)
        if error is not None:
            raise error
        return xz.transpose(1, 2)[..., : out_weight.shape[0]] * named["D"][0]

    return mamba_inner_fn


@pytest.fixture
def installed(monkeypatch):
    """`installed(kernel)`: a mamba_ssm package with this kernel."""

    def install(kernel):
        name = "mamba_ssm.ops.selective_scan_interface"
        for parent in ("mamba_ssm", "mamba_ssm.ops"):
            monkeypatch.setitem(sys.modules, parent, SimpleNamespace())
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(mamba_inner_fn=kernel))

    return install


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_a_cpu_uses_the_loop_on_a_machine_with_a_gpu_and_kernels(installed, caplog):
    calls = []
    installed(loop_kernel(calls))
    tokens, mask = draw(2, 5, 6), torch.ones(2, 5, dtype=torch.bool)
    with fake_cuda():
        assert torch.cuda.is_available()
        for block in ("auto", "mamba_ssm", "transformers"):
            stack(block=block)(tokens, mask)
    assert calls == []


def test_the_kernel_is_used_on_the_gpu_and_the_loop_after_moving_back(installed, caplog):
    calls = []
    installed(loop_kernel(calls))
    layers, mask = stack(2), torch.ones(2, 5, dtype=torch.bool)
    wanted = layers(draw(2, 5, 6), mask)
    with fake_cuda():
        moved = copy.deepcopy(layers).to(DEVICE)
        for _ in range(2):
            assert moved(draw(2, 5, 6).to(DEVICE), mask.to(DEVICE)).is_cuda
        assert calls == [DEVICE] * (1 + 2 * 2)  # one trial, and two layers in each call
        assert torch.equal(moved.to("cpu")(draw(2, 5, 6), mask), wanted)
    assert len(calls) == 5


@pytest.mark.parametrize(
    "error", [RuntimeError("no kernel image"), AssertionError("causal_conv1d")]
)
def test_a_failing_kernel_is_replaced_with_one_warning(installed, caplog, error):
    installed(loop_kernel([], error))
    mask = torch.ones(2, 5, dtype=torch.bool)
    with caplog.at_level(logging.WARNING, logger="models.heads.mamba"), fake_cuda():
        layers = stack(2).to(DEVICE)
        for _ in range(2):
            layers(draw(2, 5, 6).to(DEVICE), mask.to(DEVICE))
    (message,) = warnings_of(caplog)
    assert str(error) in message
    assert "not representative" in message


def test_a_package_that_cannot_be_imported_is_replaced_with_one_warning(caplog):
    with mock.patch.dict(sys.modules, {"mamba_ssm": None}), fake_cuda():
        block = MambaBlock(6, 3, 4).to(DEVICE)
        assert choose_kernel("auto", block, DEVICE) is None
        with pytest.raises(ValueError, match=r"mamba-ssm and causal-conv1d.*mamba_block=auto"):
            choose_kernel("mamba_ssm", block, DEVICE)
    (message,) = warnings_of(caplog)
    assert "mamba_ssm" in message


def test_the_loop_is_logged_once(caplog):
    layers, mask = stack(3), torch.ones(2, 5, dtype=torch.bool)
    with caplog.at_level(logging.WARNING, logger="models.heads.mamba"):
        for _ in range(2):
            layers(draw(2, 5, 6), mask)
    (message,) = warnings_of(caplog)
    assert "loop over the positions" in message


@pytest.mark.gpu
@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_kernels_of_mamba_ssm_equal_the_loop(bfloat16):
    """Outputs and gradients; mamba_ssm is optional, so the test needs it installed."""
    pytest.importorskip("mamba_ssm")
    block = scrambled(MambaBlock(64, 16, 4)).cuda()
    tokens = draw(4, 150, 64).cuda().requires_grad_()
    kernel = choose_kernel("mamba_ssm", block, torch.device("cuda", 0))
    results = []
    for way in (None, kernel):
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=bfloat16):
            output = block(tokens, way)
        gradient = torch.autograd.grad(output.float().square().sum(), tokens)[0]
        results.append((output.float(), gradient))
    tolerance = 5e-2 if bfloat16 else 1e-3
    for loop, fast in zip(*results, strict=True):
        assert (loop - fast).norm() / loop.norm() < tolerance
