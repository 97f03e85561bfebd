"""The adversarial term of BDAM in the first epoch of preset demo-t2i, with pretrained towers."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest
import torch

from models.components.gradnorm import loss_gradients
from models.learner import StepResult
from models.learners.bdam import Method
from runner.config.run_config import load_config
from runner.experiment import run_experiment
from tasks.schema import Batch

pytestmark = pytest.mark.slow

OVERRIDES = (
    "cluster.num_workers=0",
    "tracking.uri=null",
    "data.persons_per_batch=16",
    "benchmark.num_validation_identities=4",
    "benchmark.synthetic.num_train_identities=132",
    "benchmark.synthetic.num_test_identities=4",
    "benchmark.synthetic.supersampling=1",
    "evaluation.every_epochs=0",
    "learner.epochs=1",
    "learner.optimizer.schedule.warmup_iterations=4",
)


def first_epoch(
    projection: str, people: Path, folder: Path, patch: pytest.MonkeyPatch
) -> list[tuple[float, float]]:
    """Loss of the term, and its gradient norm on the shared layer relative to that of `info`."""
    steps: list[tuple[float, float]] = []
    forward = Method.forward

    def recorded(self: Method, batch: Batch, stage: str) -> StepResult:
        result = forward(self, batch, stage)
        names = ["adversarial", "info"]
        unweighted = StepResult(result.loss, result.terms, dict.fromkeys(names, 1.0))
        measured = loss_gradients(names, unweighted, self.shared_parameters())
        norms = torch.linalg.vector_norm(measured[:, 1:], dim=1)
        steps.append((float(measured[0, 0]), float(norms[0] / norms[1])))
        return result

    patch.setattr(Method, "forward", recorded)
    places = (f"storage.root={folder}", f"benchmark.root={people}")
    setting = f"learner.losses.adversarial.projection={projection}"
    run_experiment(load_config("demo-t2i", (*OVERRIDES, *places, setting)))
    patch.setattr(Method, "forward", forward)
    return steps


@pytest.mark.usefixtures("no_figures")
def test_only_with_the_shared_projection_the_term_finds_something_to_remove(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, own = (
        first_epoch(projection, people, tmp_path / projection, monkeypatch)
        for projection in ("shared", "own")
    )
    assert len(shared) == len(own) == 16
    losses, ratios = zip(*shared, strict=True)
    assert mean(losses[-3:]) > 1.5 * losses[0]
    assert 0.1 < mean(ratios[-3:]) < 10
    # A projection that the term trains itself stays at chance: its loss only falls.
    losses, own_ratios = zip(*own, strict=True)
    assert mean(losses[-3:]) < losses[0]
    assert mean(ratios[-3:]) > 3 * mean(own_ratios[-3:])
