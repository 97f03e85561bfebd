"""Collectives and gradients of two gloo processes compared with one process.

The tests start this file twice as a script and compare the results of the ranks.
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
Results = dict[str, Any]

NUM_WORKERS = 2
STEPS = "{name: sgd, lr: 0.002, momentum: 0}"
# With ties between centroids, rounding errors change the assignments of k-means.
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
    # Batch normalisation gathers during the forward and backward passes.
    "krkc-resnet": ("krkc", ON_RESNET),
}
# One learner without texts and one with texts; all others take a minute.
FEW = ("finetune", "vladr")
REST = tuple(name for name in RUNS if name not in FEW)


def plain_steps(config: RunConfig) -> list[str]:
    """Overrides for one epoch per stage of plain SGD.

    Adam would amplify rounding errors, because its first step depends only on the sign.
    """
    keys = sorted(flatten(config))
    optimizers = [key.removesuffix(".name") for key in keys if key.endswith("optimizer.name")]
    epochs = [key for key in keys if key.startswith("learner.") and key.endswith(".epochs")]
    return [f"{key}={STEPS}" for key in optimizers] + [f"{key}=1" for key in epochs]


def run_collectives(group: WorkerGroup) -> Results:
    """Returns the results of all collective operations on this rank."""
    rows = torch.arange(group.rank + 1.0)[:, None] + 10 * group.rank
    local = torch.full((2, 3), group.rank + 1.0, requires_grad=True)
    weights = torch.arange(12.0).reshape(4, 3)
    gathered = group.gather(local)
    (gathered * weights).sum().backward()
    group.barrier()
    return {
        "gathered": gathered.detach(),
        "gradient": local.grad,
        "ids": group.gather(torch.tensor([group.rank, 7])),
        "rows": group.gather_rows(rows),
        "rows_of_one": group.gather_rows(rows[: 1 - group.rank]),
        "flags": group.gather_rows(torch.tensor([group.rank == 0] * (group.rank + 1))),
        "broadcast": group.broadcast({"from": group.rank, "nothing": None}),
    }


def train(config: RunConfig, folder: Path, group: WorkerGroup) -> Results:
    """Runs all domains and records all gradients before each update."""
    gradients: list[dict[str, Tensor]] = []
    build = loop.build_optimizer

    def recording(module: torch.nn.Module, settings: Any) -> torch.optim.Optimizer:
        optimizer = build(module, settings)
        trained = {path: value for path, value in module.named_parameters() if value.requires_grad}

        def record(*_: Any) -> None:
            current = {path: value.grad for path, value in trained.items()}
            gradients.append(
                {path: grad.clone() for path, grad in current.items() if grad is not None}
            )

        optimizer.register_step_pre_hook(record)
        return optimizer

    benchmark = read_benchmark(config)
    storage = RunStorage(folder)
    storage.folder.mkdir(parents=True, exist_ok=True)
    storage.attempt_file.write_text('{"attempt": 1}')
    stream = LocalStream(benchmark, config.data, 64, 32, storage.unreadable_file)
    store = FilePrototypeStore(folder / "prototypes.pt", group)
    loop.build_optimizer = recording
    try:
        outcome = run_worker(
            config, benchmark, storage, 1, stream, store, group, torch.device("cpu")
        )
    finally:
        loop.build_optimizer = build
        stream.close()
    return {"gradients": gradients, "outcome": outcome}


class FilePrototypeStore:
    """A PrototypeStore in a file that replaces the Ray actor."""

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
    """Entry point of a worker process: runs all configurations in `folder`."""
    rendezvous = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=NUM_WORKERS)
    group = DistributedGroup()
    results: Results = {"collectives": run_collectives(group)}
    for file in sorted(folder.glob("*.yaml")):
        config = load_config(str(file))
        results[file.stem] = train(config, folder / "runs" / file.stem, group)
    torch.save(results, folder / f"results-{rank}.pt")
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
    folder = tmp_path_factory.mktemp("configs")
    configs: dict[str, RunConfig] = {}
    for name in request.param:
        learner, overrides = RUNS[name]
        steps = plain_steps(tiny_config(folder, learner))
        configs[name] = tiny_config(folder, learner, *steps, *overrides)
    return configs


@pytest.fixture(scope="module")
def local_results(
    configs: dict[str, RunConfig], tmp_path_factory: pytest.TempPathFactory
) -> Results:
    """Results of one process."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: train(config, folder / name, LocalGroup()) for name, config in configs.items()}


@pytest.fixture(scope="module")
def distributed_results(
    configs: dict[str, RunConfig],
    local_results: Results,
    run_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Results]:
    """Results of each of two processes."""
    folder = tmp_path_factory.mktemp("distributed")
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
    return [torch.load(folder / f"results-{rank}.pt") for rank in range(NUM_WORKERS)]


def test_local_group_is_the_identity() -> None:
    group = LocalGroup()
    local = torch.ones(2, 3, requires_grad=True)
    assert group.gather(local) is local
    assert not group.gather_rows(local).requires_grad
    assert group.broadcast("word") == "word"
    group.barrier()


def test_rows_are_gathered_in_rank_order(distributed_results: list[Results]) -> None:
    for results in distributed_results:
        values = results["collectives"]
        assert values["gathered"].tolist() == [[1.0] * 3] * 2 + [[2.0] * 3] * 2
        assert values["ids"].tolist() == [0, 7, 1, 7]
        assert values["rows"].tolist() == [[0.0], [10.0], [11.0]]
        assert values["rows_of_one"].tolist() == [[0.0]]
        assert values["flags"].tolist() == [True, False, False]
        assert values["broadcast"] == {"from": 0, "nothing": None}


def test_gather_sums_gradients_over_workers(distributed_results: list[Results]) -> None:
    weights = torch.arange(12.0).reshape(4, 3)
    for rank, results in enumerate(distributed_results):
        local = weights[2 * rank : 2 * rank + 2]
        assert torch.equal(results["collectives"]["gradient"], NUM_WORKERS * local)


def test_gradients_of_two_workers_equal_those_of_one(
    local_results: Results, distributed_results: list[Results]
) -> None:
    for results, learner in product(distributed_results, local_results):
        expected = local_results[learner]["gradients"]
        gradients = results[learner]["gradients"]
        assert len(gradients) == len(expected) == local_results[learner]["outcome"]["iteration"]
        for number, (gradient, reference) in enumerate(zip(gradients, expected, strict=True)):
            assert gradient.keys() == reference.keys()
            error, size = flat(gradient) - flat(reference), flat(reference)
            # Rounding of one update is 1e-6. Earlier updates add differences in the weights, which
            # the non-smooth operations of a ResNet (ReLU, maximum) amplify.
            later = 2e-3 if learner.endswith("resnet") else 5e-5
            limit = later if number else 1e-5
            assert error.norm() <= limit * size.norm(), f"{learner}, iteration {number}"


def flat(gradients: Mapping[str, Tensor]) -> Tensor:
    """Concatenates all gradients in the order of parameter paths."""
    return torch.cat([gradients[path].flatten() for path in sorted(gradients)])


def test_every_trainable_parameter_gets_a_gradient(local_results: Results) -> None:
    for learner, results in local_results.items():
        largest: dict[str, float] = {}
        for gradients in results["gradients"]:
            for path, gradient in gradients.items():
                largest[path] = max(largest.get(path, 0.0), float(gradient.abs().max()))
        assert not [path for path, value in largest.items() if value == 0.0], learner


def test_workers_agree_exactly(
    configs: dict[str, RunConfig], distributed_results: list[Results]
) -> None:
    for learner in configs:
        first, second = (results[learner] for results in distributed_results)
        for one, other in zip(first["gradients"], second["gradients"], strict=True):
            assert all(torch.equal(one[path], other[path]) for path in one), learner
        for name in ("test", "validation", "iteration", "memory_version"):
            assert first["outcome"][name] == second["outcome"][name], learner


def test_distributed_evaluation_equals_local_evaluation(
    local_results: Results, distributed_results: list[Results]
) -> None:
    """Compares row 0, before training: equal weights give equal ranks except for ties."""
    for learner, results in local_results.items():
        expected = results["outcome"]["test"]["mAP"][0]
        row = distributed_results[0][learner]["outcome"]["test"]["mAP"][0]
        assert row == pytest.approx(expected, abs=0.5), learner


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    work(Path(sys.argv[1]), int(sys.argv[2]))
