"""A step whose image tower is computed in parts, or with checkpointed activations."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.backbones.building import build_backbone
from models.backbones.config import BackboneConfig
from models.backbones.tower import PatchTower, encode_in_parts
from runner.training.optim import set_trainable
from tests.models.learner_cases import LEARNING_CASES


def step_gradients(learner: nn.Module, trainer: Any, stage: Any) -> dict[str, Tensor]:
    """Loss terms and gradients of one step of a copy of the learner."""
    trainer.learner, original = copy.deepcopy(learner), trainer.learner
    set_trainable(trainer.learner, stage.trainable)
    trainer.learner.train()
    result = trainer.learner(trainer.batch(stage, 0), stage.name)
    result.loss.backward()
    gradients = {
        path: parameter.grad
        for path, parameter in trainer.learner.named_parameters()
        if parameter.grad is not None
    }
    trainer.learner = original
    return {**{f"term {name}": term.detach() for name, term in result.terms.items()}, **gradients}


def towers(learner: nn.Module) -> list[PatchTower]:
    return [module for module in learner.modules() if isinstance(module, PatchTower)]


@pytest.mark.parametrize(("name", "settings"), LEARNING_CASES)
def test_a_step_in_parts_has_the_losses_and_gradients_of_the_whole_batch(course, name, settings):
    trainer = course(name, **settings)
    trainer.learn("one")
    trainer.begin("two")
    for stage in trainer.learner.stages():
        whole = step_gradients(trainer.learner, trainer, stage)
        for tower in towers(trainer.learner):
            tower.num_parts = 3
        parts = step_gradients(trainer.learner, trainer, stage)
        for tower in towers(trainer.learner):
            tower.num_parts = 1
        assert whole.keys() == parts.keys()
        largest = max(float(value.abs().max()) for value in whole.values())
        for path, value in whole.items():
            assert torch.allclose(parts[path], value, rtol=1e-3, atol=1e-5 * largest), path
        trainer.train(stage)
        trainer.learner.end_stage(stage.name, trainer.probe)


def test_only_the_features_of_a_part_are_kept_until_the_backward_pass():
    layer, sizes = nn.Linear(4, 2), list[int]()

    def encode(rows: Tensor) -> tuple[Tensor, ...]:
        sizes.append(len(rows))
        return (layer(rows).tanh(),)

    rows = torch.randn(7, 4)
    (features,) = encode_in_parts(encode, rows, 3)
    assert sizes == [3, 3, 1]
    (features @ features.T).sum().backward()
    assert sizes[3:] == [1, 3, 3], "each part is computed again, one after another"
    with torch.no_grad():
        encode_in_parts(encode, rows, 3)
    assert sizes[6:] == [7]


@pytest.mark.parametrize("name", ["tiny-clip", "tiny-vit-bert"])
def test_checkpointed_activations_change_no_gradient(name):
    results = []
    for checkpointed in (False, True):
        config = BackboneConfig(name=name, weights="random", checkpoint_activations=checkpointed)
        backbone: Any = build_backbone(config, 0)
        backbone.requires_grad_(True).train()
        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1

        blocks = backbone.image.blocks()
        for block in blocks:
            block.mlp.register_forward_pre_hook(count)
        draw = torch.Generator().manual_seed(0)
        images = torch.randn(3, 3, 64, 32, generator=draw)
        sentences = backbone.text.features(backbone.text.tokenize(["a red coat", "a hat"])).sentence
        features = backbone.image(images)
        (features.patches.square().sum() + (features.projected @ sentences.T).sum()).backward()
        assert calls == (1 + checkpointed) * len(blocks)
        results.append([p.grad for p in backbone.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*results, strict=True):
        assert torch.equal(plain, checkpointed)


def test_a_resnet_keeps_its_activations():
    with pytest.raises(ValueError, match="checkpoint_activations: expected false for tiny-resnet"):
        BackboneConfig(name="tiny-resnet", weights="random", checkpoint_activations=True)
