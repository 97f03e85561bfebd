"""Gradient clipping, gradient accumulation and compilation of whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.backbones.building import build_backbone
from models.backbones.config import BackboneConfig
from models.backbones.tower import PatchTower
from runner.config.run_config import ConfigError, RunConfig, load_config
from runner.experiment import run_experiment
from runner.tracking.event_log import read_events
from runner.training.collectives import LocalGroup
from runner.training.optim import update
from runner.training.worker import build_learner

MakeConfig = Callable[..., RunConfig]

BLOCK = "ResidualAttentionBlock"


def iterations(config: RunConfig) -> list[dict[str, Any]]:
    run = run_experiment(config)
    events = read_events(run.folder / "events.jsonl").events
    return [dict(event) for event in events if event["event"] == "iteration"]


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=30)
def test_clipping_limits_the_norm_and_keeps_the_direction(scale: float, limit: float) -> None:
    layer = nn.Linear(3, 2)
    loss = scale * layer(torch.ones(1, 3)).sum()
    wanted = torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True)
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    norm = update(torch.optim.SGD(layer.parameters(), lr=1.0), loss, limit)
    full = torch.cat([gradient.flatten() for gradient in wanted])
    steps = zip(before, layer.parameters(), strict=True)
    step = torch.cat([(old - new.detach()).flatten() for old, new in steps])
    assert norm is not None
    assert float(norm) == pytest.approx(float(full.norm()), rel=1e-4)
    tolerance = 1e-5 * max(1.0, limit)  # of the parameters, which are of size 1
    assert float(step.norm()) == pytest.approx(min(limit, float(norm)), rel=1e-3, abs=tolerance)
    assert torch.cosine_similarity(step, full, dim=0) > 0.99 or min(limit, float(norm)) < 1e-2


def test_without_a_limit_the_norm_is_not_computed() -> None:
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    assert update(optimizer, layer(torch.ones(1, 3)).sum(), None) is None


@pytest.mark.usefixtures("no_figures")
def test_a_clipped_run_logs_the_norm_before_clipping(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    plain, clipped = (
        tiny_config(tmp_path, "finetune", *overrides)
        for overrides in ((), ("training.clip_norm=0.5",))
    )
    assert plain.hash != clipped.hash
    assert not any("gradient_norm" in event for event in iterations(plain))
    norms = [event["gradient_norm"] for event in iterations(clipped)]
    assert len(norms) > 4
    assert max(norms) > 0.5


@pytest.mark.usefixtures("no_figures")
def test_accumulated_gradients_give_the_losses_of_the_whole_batch(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    whole, parts = (
        tiny_config(tmp_path / name, "vladr", f"training.gradient_accumulation={number}")
        for name, number in (("whole", 1), ("parts", 3))
    )
    assert whole.hash == parts.hash
    for first, second in zip(iterations(whole), iterations(parts), strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-2)


def test_accumulation_is_refused_where_layers_need_the_whole_batch() -> None:
    overrides = ["training.gradient_accumulation=2", "backbone.weights=random"]
    with pytest.raises(ConfigError, match=r"training\.gradient_accumulation: expected 1 for res"):
        load_config("krkc", overrides)


def test_compilation_is_optional_and_keeps_the_state(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    eager, compiled = (
        build_learner(tiny_config(tmp_path, "vladr", f"training.compile={value}"), LocalGroup())
        for value in ("false", "true")
    )
    assert eager.state_dict().keys() == compiled.state_dict().keys()
    blocks = [module for module in compiled.modules() if type(module).__name__ == BLOCK]
    towers = [module for module in compiled.modules() if isinstance(module, PatchTower)]
    tower_blocks = {id(block) for tower in towers for block in tower.blocks()}
    assert tower_blocks
    assert {id(block) for block in blocks if block._compiled_call_impl is not None} == tower_blocks
    assert all(module._compiled_call_impl is None for module in eager.modules())


@pytest.mark.slow
def test_compiled_blocks_compute_the_gradients_of_eager_ones() -> None:
    tower = build_backbone(BackboneConfig(weights="random"), 0).image
    images = torch.randn(4, 3, 64, 32, generator=torch.Generator().manual_seed(0))

    def gradients() -> list[torch.Tensor]:
        tower.zero_grad()
        tower.features(images)["projected"].square().sum().backward()
        return [parameter.grad for parameter in tower.parameters() if parameter.grad is not None]

    eager = gradients()
    for block in tower.blocks():
        block.compile()
    largest = max(float(gradient.abs().max()) for gradient in eager)
    for first, second in zip(eager, gradients(), strict=True):
        assert torch.allclose(first, second, rtol=1e-3, atol=1e-5 * largest)
