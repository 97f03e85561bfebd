"""Random numbers of training steps: dropout masks differ between workers and survive a resume."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from runner.config.run_config import RunConfig
from runner.experiment import read_benchmark, run_experiment
from runner.results.run_folder import RunStorage
from runner.streaming.image_stream import LocalStream
from runner.training import loop
from runner.training.collectives import LocalGroup
from runner.training.prototype_store import LocalPrototypeStore
from runner.training.run_evaluator import RunEvaluator
from runner.training.worker import run_worker
from tests.runner.training.test_loop import fail_within_each_epoch, starts

MakeConfig = Callable[..., RunConfig]
Numbers = Callable[[Mapping[str, Any]], dict[str, Any]]

DROPOUT = (
    "benchmark.synthetic.num_seen_domains=1",
    "benchmark.synthetic.num_unseen_domains=0",
    "backbone.name=tiny-vit-bert",
    "backbone.dropout=0.2",
    "learner.text_tower=trained",
    "learner.decoupling.dropout=0.2",
    "learner.fusion.dropout=0.2",
    "learner.alignment=[]",
    "learner.epochs=2",
)


class OneOfTwo(LocalGroup):
    """A worker of two; the other one sends what this one sends."""

    world_size = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def gather(self, local: Tensor) -> Tensor:
        """Returns the rows of both workers in rank order."""
        shares = [local.detach(), local.detach()]
        shares[self.rank] = local
        return torch.cat(shares)


@contextmanager
def recorded_masks() -> Iterator[list[Tensor]]:
    """Records which entries dropout sets to 0, of rows that both workers have."""
    masks: list[Tensor] = []

    def record(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(module, nn.Dropout) and module.training and module.p:
            masks.append((output == 0).flatten()[:64].clone())

    handle = register_module_forward_hook(record)
    try:
        yield masks
    finally:
        handle.remove()


def masks_of(config: RunConfig, folder: Path, group: LocalGroup) -> list[Tensor]:
    """Trains as one worker and returns the masks of all steps."""
    benchmark, storage = read_benchmark(config), RunStorage(folder)
    storage.folder.mkdir(parents=True)
    storage.attempt_file.write_text(json.dumps({"attempt": 1}))
    stream = LocalStream(benchmark, config.data, 64, 32, storage.unreadable_file)
    try:
        with recorded_masks() as masks:
            store = LocalPrototypeStore()
            run_worker(config, benchmark, storage, 1, stream, store, group, torch.device("cpu"))
    finally:
        stream.close()
    return masks


def num_equal(first: list[Tensor], second: list[Tensor]) -> int:
    return sum(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_workers_draw_different_dropout_masks(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunEvaluator, "evaluate", lambda *_: None)
    monkeypatch.setattr(loop.LifelongLoop, "_distributed", lambda self: self.learner)
    config = tiny_config(tmp_path, "bdam", *DROPOUT, "learner.epochs=1")
    first, second, again = (
        masks_of(config, tmp_path / name, OneOfTwo(rank))
        for name, rank in (("first", 0), ("second", 1), ("again", 1))
    )
    assert num_equal(second, again) == len(second) > 20
    assert num_equal(second, first) < 0.05 * len(second)


def test_a_resumed_run_draws_the_masks_of_an_uninterrupted_one(
    tiny_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_figures: None,
    numbers_of: Numbers,
) -> None:
    whole = run_experiment(tiny_config(tmp_path / "whole", "bdam", *DROPOUT))
    without = tiny_config(tmp_path / "without", "bdam", *DROPOUT, "learner.decoupling.dropout=0")
    assert numbers_of(run_experiment(without).results) != numbers_of(whole.results)
    fail_within_each_epoch(monkeypatch)
    results = list(starts(tiny_config(tmp_path / "cut", "bdam", *DROPOUT), limit=10))
    assert len(results) > 2
    last = results[-1]
    assert last is not None
    assert numbers_of(last.results) == numbers_of(whole.results)
    (tensors,) = (whole.folder / "checkpoints").glob("after-*.safetensors")
    resumed = last.folder / "checkpoints" / tensors.name
    assert resumed.read_bytes() == tensors.read_bytes()
