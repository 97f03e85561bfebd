"""Two gloo processes against one: what they say to one another, and the gradients they compute.

This file is its own worker: the tests start it twice, as a script, and read what each rank found.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from models.components.cross_domain_alignment import Alignment
from runner.config.run_config import RunConfig, flatten, learner_names, load_config, to_yaml
from runner.experiment import read_benchmark
from runner.results.run_folder import RunStorage
from runner.streaming.image_stream import LocalStream
from runner.training import loop
from runner.training.collectives import DistributedGroup, LocalGroup, WorkerGroup
from runner.training.worker import run_worker

MakeConfig = Callable[..., RunConfig]
Found = dict[str, Any]

NUM_WORKERS = 2
STEPS = "{name: sgd, lr: 0.002, momentum: 0}"
# Where two centroids are equally near, k-means lets a rounding error decide on whole images.
SMOOTH_FORMS = [form for form in get_args(Alignment) if form != "centroid_relation"]
MORE = {
    "vladr": (
        f"learner.alignment=[{','.join(SMOOTH_FORMS)}]",
        "learner.views=both",
        "learner.interpolation.mode=adaptive",
    ),
}
ON_RESNET = ("backbone.name=tiny-resnet", "backbone.weights=random")
RUNS = {
    **{name: (name, MORE.get(name, ())) for name in learner_names()},
    # Batch normalisation inside two towers: gathers in the midst of forward and backward.
    "krkc-resnet": ("krkc", ON_RESNET),
}
# One learner without texts and one with; all others take a minute.
FEW = ("finetune", "vladr")
REST = tuple(name for name in RUNS if name not in FEW)


def plain_steps(config: RunConfig) -> list[str]:
    """Overrides for one epoch a stage of plain gradient steps.

    Adam would turn the sign of a rounding error into a whole step.
    """
    keys = sorted(flatten(config))
    optimizers = [key.removesuffix(".name") for key in keys if key.endswith("optimizer.name")]
    epochs = [key for key in keys if key.startswith("learner.") and key.endswith(".epochs")]
    return [f"{key}={STEPS}" for key in optimizers] + [f"{key}=1" for key in epochs]


def talk(group: WorkerGroup) -> Found:
    """What a rank hears, of every kind of message."""
    rows = torch.arange(group.rank + 1.0)[:, None] + 10 * group.rank
    own = torch.full((2, 3), group.rank + 1.0, requires_grad=True)
    weights = torch.arange(12.0).reshape(4, 3)
    gathered = group.gather(own)
    (gathered * weights).sum().backward()
    group.barrier()
    return {
        "gathered": gathered.detach(),
        "gradient": own.grad,
        "ids": group.gather(torch.tensor([group.rank, 7])),
        "rows": group.gather_rows(rows),
        "rows_of_one": group.gather_rows(rows[: 1 - group.rank]),
        "flags": group.gather_rows(torch.tensor([group.rank == 0] * (group.rank + 1))),
        "broadcast": group.broadcast({"from": group.rank, "nothing": None}),
    }


def train(config: RunConfig, folder: Path, group: WorkerGroup) -> Found:
    """A whole run, and the gradient of every trained parameter before each of its updates."""
    gradients: list[dict[str, Tensor]] = []
    build = loop.build_optimizer

    def recording(module: torch.nn.Module, settings: Any) -> torch.optim.Optimizer:
        optimizer = build(module, settings)
        trained = {path: value for path, value in module.named_parameters() if value.requires_grad}

        def record(*_: Any) -> None:
            found = {path: value.grad for path, value in trained.items() if value.grad is not None}
            gradients.append({path: grad.clone() for path, grad in found.items()})

        optimizer.register_step_pre_hook(record)
        return optimizer

    benchmark = read_benchmark(config)
    storage = RunStorage(folder)
    storage.folder.mkdir(parents=True, exist_ok=True)
    storage.attempt_file.write_text('{"attempt": 1}')
    stream = LocalStream(benchmark, config.data, 64, 32, storage.quarantine_file)
    memory = SharedMemory(folder / "memory.pt", group)
    loop.build_optimizer = recording
    try:
        outcome = run_worker(
            config, benchmark, storage, 1, stream, memory, group, torch.device("cpu")
        )
    finally:
        loop.build_optimizer = build
        stream.close()
    return {"gradients": gradients, "outcome": outcome}


class SharedMemory:
    """A PrototypeStore in a file, in the place of the Ray actor that several workers share."""

    def __init__(self, file: Path, group: WorkerGroup) -> None:
        self.file = file
        if group.rank == 0:
            self.reset(0, {})
        group.barrier()

    def publish(self, tensors: Mapping[str, Tensor], expected_version: int) -> int:
        assert self.latest()[0] == expected_version
        self.reset(expected_version + 1, tensors)
        return expected_version + 1

    def latest(self) -> tuple[int, dict[str, Tensor]]:
        return torch.load(self.file)

    def reset(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        torch.save((version, dict(tensors)), self.file)


def work(folder: Path, rank: int) -> None:
    """What a worker process does with the configurations it finds in `folder`."""
    rendezvous = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=NUM_WORKERS)
    group = DistributedGroup()
    found: Found = {"talk": talk(group)}
    for file in sorted(folder.glob("*.yaml")):
        config = load_config(str(file))
        found[file.stem] = train(config, folder / "runs" / file.stem, group)
    torch.save(found, folder / f"found-{rank}.pt")
    group.barrier()
    dist.destroy_process_group()


@pytest.fixture(
    scope="module", params=[FEW, pytest.param(REST, marks=pytest.mark.slow)], ids=["few", "rest"]
)
def configs(
    request: pytest.FixtureRequest,
    tiny_config: MakeConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, RunConfig]:
    folder = tmp_path_factory.mktemp("alone")
    found: dict[str, RunConfig] = {}
    for name in request.param:
        learner, more = RUNS[name]
        steps = plain_steps(tiny_config(folder, learner))
        found[name] = tiny_config(folder, learner, *steps, *more)
    return found


@pytest.fixture(scope="module")
def alone(configs: dict[str, RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What one process finds."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: train(config, folder / name, LocalGroup()) for name, config in configs.items()}


@pytest.fixture(scope="module")
def together(
    configs: dict[str, RunConfig],
    alone: Found,
    run_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Found]:
    """What each of two processes finds."""
    folder = tmp_path_factory.mktemp("together")
    for name, config in configs.items():
        (folder / f"{name}.yaml").write_text(to_yaml(config))
    environment = run_environment | {
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), str(rank)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(NUM_WORKERS)
    ]  # fmt: skip
    try:
        outputs = [worker.communicate(timeout=200)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0] * NUM_WORKERS, "\n".join(outputs)
    return [torch.load(folder / f"found-{rank}.pt") for rank in range(NUM_WORKERS)]


def test_one_process_hears_itself() -> None:
    group = LocalGroup()
    own = torch.ones(2, 3, requires_grad=True)
    assert group.gather(own) is own
    assert not group.gather_rows(own).requires_grad
    assert group.broadcast("word") == "word"
    group.barrier()


def test_rows_come_in_rank_order(together: list[Found]) -> None:
    for found in together:
        said = found["talk"]
        assert said["gathered"].tolist() == [[1.0] * 3] * 2 + [[2.0] * 3] * 2
        assert said["ids"].tolist() == [0, 7, 1, 7]
        assert said["rows"].tolist() == [[0.0], [10.0], [11.0]]
        assert said["rows_of_one"].tolist() == [[0.0]]
        assert said["flags"].tolist() == [True, False, False]
        assert said["broadcast"] == {"from": 0, "nothing": None}


def test_the_gradient_of_gathered_rows_is_summed_over_workers(together: list[Found]) -> None:
    weights = torch.arange(12.0).reshape(4, 3)
    for rank, found in enumerate(together):
        own = weights[2 * rank : 2 * rank + 2]
        assert torch.equal(found["talk"]["gradient"], NUM_WORKERS * own)


def test_gradients_of_two_workers_are_those_of_one(alone: Found, together: list[Found]) -> None:
    for found, learner in product(together, alone):
        expected = alone[learner]["gradients"]
        gradients = found[learner]["gradients"]
        assert len(gradients) == len(expected) == alone[learner]["outcome"]["iteration"]
        for number, (own, reference) in enumerate(zip(gradients, expected, strict=True)):
            assert own.keys() == reference.keys()
            error, size = flat(own) - flat(reference), flat(reference)
            # One update's rounding is 1e-6; those before it have moved the weights a little too,
            # and a ResNet's kinks, ReLU and maxima, take that further.
            later = 5e-4 if learner.endswith("resnet") else 5e-5
            limit = later if number else 1e-5
            assert error.norm() <= limit * size.norm(), f"{learner}, iteration {number}"


def flat(gradients: Mapping[str, Tensor]) -> Tensor:
    """All gradients as one vector, the parameters in the order of their paths."""
    return torch.cat([gradients[path].flatten() for path in sorted(gradients)])


def test_every_trained_parameter_moves(alone: Found) -> None:
    for learner, found in alone.items():
        largest: dict[str, float] = {}
        for gradients in found["gradients"]:
            for path, gradient in gradients.items():
                largest[path] = max(largest.get(path, 0.0), float(gradient.abs().max()))
        assert not [path for path, value in largest.items() if value == 0.0], learner


def test_workers_agree_to_the_last_digit(
    configs: dict[str, RunConfig], together: list[Found]
) -> None:
    for learner in configs:
        first, second = (found[learner] for found in together)
        for own, other in zip(first["gradients"], second["gradients"], strict=True):
            assert all(torch.equal(own[path], other[path]) for path in own), learner
        for name in ("test", "validation", "iteration", "memory_version"):
            assert first["outcome"][name] == second["outcome"][name], learner


def test_evaluation_in_shares_ranks_as_a_whole(alone: Found, together: list[Found]) -> None:
    """Row 0, before training: the same weights, so the same ranks up to exact ties."""
    for learner, found in alone.items():
        expected = found["outcome"]["test"]["mAP"][0]
        row = together[0][learner]["outcome"]["test"]["mAP"][0]
        assert row == pytest.approx(expected, abs=0.5), learner


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    work(Path(sys.argv[1]), int(sys.argv[2]))
