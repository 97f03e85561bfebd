"""Steps of every learner in reduced precision, and without waiting for the device."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from models.backbones.tower import ImageTower, TextTower
from models.learner import Learner, Stage, StepResult
from runner.config.sections import Precision
from runner.training.optim import set_trainable
from runner.training.precision import autocast
from tasks.schema import Batch
from tests.models.conftest import Trainer
from tests.models.learner_cases import LEARNING_CASES

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense,
    aten.equal,
    aten.is_nonzero,
    aten.masked_select,
    aten.nonzero,
    aten._unique,
    aten._unique2,
    aten.unique_consecutive,
    aten.unique_dim,
}
"""Operations whose result the host must know; on a GPU it waits for all queued kernels."""


class Waits(TorchDispatchMode):
    """Records operations that would make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        selects = func.overloadpacket in (aten.index, aten.index_put, aten.index_put_)
        by_mask = selects and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if func.overloadpacket in WAITING or by_mask:
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def towers(learner: nn.Module) -> list[nn.Module]:
    return [part for part in learner.modules() if isinstance(part, ImageTower | TextTower)]


def in_every_stage(trainer: Trainer) -> Iterator[Stage]:
    """Yield the stages of a second domain, each before it is trained."""
    trainer.learn("one")
    trainer.begin("two")
    for stage in trainer.learner.stages():
        set_trainable(trainer.learner, stage.trainable)
        trainer.learner.train()
        yield stage
        trainer.train(stage)
        trainer.learner.end_stage(stage.name, trainer.probe)


@pytest.mark.parametrize(("name", "settings"), LEARNING_CASES)
def test_a_step_does_not_wait_for_the_device_once_a_tower_has_begun(course, name, settings):
    trainer = course(name, **settings)
    for stage in in_every_stage(trainer):
        trainer.learner(trainer.batch(stage, 0), stage.name)  # caches what depends on the domain
        batch = trainer.batch(stage, 1)
        with Waits() as waits:

            def begin(*_: object, waits: Waits = waits) -> None:
                waits.names.append("tower")

            handles = [tower.register_forward_pre_hook(begin) for tower in towers(trainer.learner)]
            trainer.learner(batch, stage.name).loss.backward()
        for handle in handles:
            handle.remove()
        begun = waits.names.index("tower") if "tower" in waits.names else len(waits.names)
        assert set(waits.names[begun:]) <= {"tower"}, stage.name
        assert len(waits.names[:begun]) <= 2, stage.name


def step_in(
    precision: Precision, learner: Learner, batch: Batch, stage: Stage
) -> tuple[StepResult, Tensor]:
    """Return the result of a step and all its gradients, flattened."""
    with autocast(precision, torch.device("cpu")):
        result = learner(batch, stage.name)
    result.loss.backward()
    gradients = [parameter.grad for parameter in learner.parameters() if parameter.grad is not None]
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    return result, torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize(("name", "settings"), LEARNING_CASES)
def test_a_step_in_bfloat16_has_the_losses_of_float32(course, name, settings):
    trainer = course(name, **settings)
    for stage in in_every_stage(trainer):
        full, half = (
            step_in(precision, copy.deepcopy(trainer.learner), trainer.batch(stage, 0), stage)
            for precision in ("float32", "bfloat16")
        )
        for term, value in full[0].terms.items():
            reduced = half[0].terms[term]
            assert torch.isclose(reduced.float(), value, rtol=0.1, atol=0.05), (stage.name, term)
        assert torch.cosine_similarity(half[1], full[1], dim=0) > 0.9, stage.name
