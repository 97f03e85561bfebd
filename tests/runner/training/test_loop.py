"""Small lifelong runs: results, files, events, and resuming."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from runner import experiment
from runner.config.run_config import RunConfig, load_config
from runner.experiment import RunResult, run_experiment
from runner.tracking.event_log import read_events
from runner.training import loop
from runner.training.checkpoints import Checkpoint, CheckpointStore
from runner.training.step_logger import StepLogger
from tasks.retrieval.metrics import METRICS

MakeConfig = Callable[..., RunConfig]
Numbers = Callable[[Mapping[str, Any]], dict[str, Any]]
Finished = tuple[RunConfig, RunResult]

LEARNERS = ("finetune", "vladr")
# Settings whose state is most easily lost: old model within a domain, prototypes, probe.
STATEFUL = {
    "finetune": ("learner.interpolation.mode=fixed",),
    "vladr": (
        "learner.interpolation.mode=adaptive",
        "learner.alignment=[affinity,prototype,prototype_relation,identity_prototype]",
    ),
}


class ProcessKilledError(Exception):
    """Simulates the end of the process."""


@pytest.fixture(scope="module")
def finish(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig
) -> Callable[[str], Finished]:
    """Runs a learner once without interruption."""

    @cache
    def run(learner: str) -> Finished:
        storage = tmp_path_factory.mktemp(f"finished-{learner}")
        config = tiny_config(storage, learner, *STATEFUL[learner])
        return config, run_experiment(config)

    return run


@pytest.fixture(params=LEARNERS)
def finished(request: pytest.FixtureRequest, finish: Callable[[str], Finished]) -> Finished:
    """An uninterrupted run of each learner."""
    return finish(request.param)


@pytest.fixture(autouse=True)
def no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disables figures, which take a second per run, except for the runs of `finished`."""
    if "finished" in request.fixturenames:
        request.getfixturevalue("finished")
    monkeypatch.setattr(experiment, "write_figures", lambda *_: None)


def events_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [
        event for event in read_events(folder / "events.jsonl").events if event["event"] == kind
    ]


# ---- results


def test_schema_of_the_results(finished: Finished) -> None:
    config, run = finished
    results = json.loads((run.folder / "results.json").read_text())
    assert results == run.results
    assert not run.was_finished
    assert set(results) >= {
        *("learner", "benchmark", "seed", "git_revision", "domains", "scores", "validation"),
        *("summary", "timings"),
    }
    assert results["learner"] == config.learner.name
    assert (results["benchmark"], results["seed"]) == ("synthetic", 0)
    assert results["domains"] == {"seen": ["plaza", "station"], "unseen": ["mall"]}
    for split in ("scores", "validation"):
        assert set(results[split]) == set(METRICS)
        for rows in results[split].values():
            assert [len(row) for row in rows] == [3, 3, 3]
            assert all(0 <= cell <= 100 for row in rows for cell in row)
    assert max(max(row) for row in results["scores"]["R10"]) > 1, "percent, not fractions"
    assert set(results["summary"]) == {
        *("seen_mAP", "seen_R1", "unseen_mAP", "unseen_R1", "forgetting_mAP"),
        *("backward_transfer_mAP", "forward_transfer_mAP", "average_incremental_mAP"),
    }
    last = results["scores"]["mAP"][-1]
    assert results["summary"]["seen_mAP"] == pytest.approx(sum(last[:2]) / 2)
    assert results["summary"]["unseen_mAP"] == pytest.approx(last[2])
    assert set(results["chance"]) == {"seen_mAP", "seen_R1", "unseen_mAP", "unseen_R1"}
    assert all(0 < value < 50 for value in results["chance"].values())
    assert all(value >= 0 for value in results["timings"].values())


def test_every_domain_changes_the_weights(finished: Finished) -> None:
    _, run = finished
    names = ("after-01-plaza", "after-02-station")
    first, second = (load_file(run.folder / f"checkpoints/{name}.safetensors") for name in names)
    towers = [path for path in first if path.startswith("network.image.")]
    assert towers
    assert not [path for path in towers if torch.equal(first[path], second[path])]
    rows = run.results["scores"]["mAP"]
    assert rows[0] != rows[-1]


def test_files_in_the_run_folder(finished: Finished) -> None:
    config, run = finished
    assert run.folder.name == config.run_name
    assert load_config(str(run.folder / "config.yaml")) == config
    lock = json.loads((run.folder / "protocol.lock.json").read_text())
    assert (lock["benchmark"], lock["order"]) == ("synthetic", ["plaza", "station"])
    assert lock["image_size"] == [64, 32]
    assert (run.folder / "quarantine.jsonl").read_text() == ""
    for figure in ("matrix.png", "curves.png"):
        assert (run.folder / figure).read_bytes().startswith(b"\x89PNG")
    kept = sorted(path.name for path in (run.folder / "checkpoints").iterdir())
    assert kept[:2] == ["after-01-plaza.safetensors", "after-02-station.safetensors"]
    assert kept[-1] == "position-002-00-0000"
    assert len(kept) == 2 + config.checkpoints.keep


def test_events_of_a_run(finished: Finished) -> None:
    _, run = finished
    folder = run.folder
    assert [event["attempt"] for event in events_of(folder, "run")] == [1]
    num_iterations = run.results["num_iterations"]
    (plan,) = events_of(folder, "plan")
    assert (plan["total_iterations"], plan["first_iteration"]) == (num_iterations, 0)
    iterations = events_of(folder, "iteration")
    assert [event["iteration"] for event in iterations] == list(range(num_iterations))
    for event in iterations:
        weighted = sum(event["weights"][name] * value for name, value in event["terms"].items())
        assert event["loss"] == pytest.approx(weighted, rel=1e-5)
        assert event["images_per_s"] > 0
    evaluations = [(event["step"], event["split"]) for event in events_of(folder, "evaluation")]
    assert evaluations == [(step, split) for step in range(3) for split in ("test", "validation")]
    assert [event["domain"] for event in events_of(folder, "domain_finished")] == [
        "plaza",
        "station",
    ]
    stages = [
        (event["domain_index"], event["first_iteration"]) for event in events_of(folder, "stage")
    ]
    assert stages == sorted(stages)
    (end,) = events_of(folder, "finished")
    assert end["summary"] == run.results["summary"]
    assert not events_of(folder, "failed")


# ---- reproducibility


def test_a_finished_run_is_not_repeated(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = finished
    written = (run.folder / "events.jsonl").read_bytes()
    monkeypatch.setattr(loop.LifelongLoop, "run", lambda _: pytest.fail("computed again"))
    again = run_experiment(config)
    assert again.was_finished
    assert again.results == run.results
    assert (run.folder / "events.jsonl").read_bytes() == written


def test_a_fresh_start_reproduces_the_results(
    finished: Finished,
    tiny_config: MakeConfig,
    tmp_path: Path,
    numbers_of: Numbers,
) -> None:
    config, run = finished
    moved = config.model_copy(update={"storage": tiny_config(tmp_path).storage})
    left = Path(tmp_path, config.run_name, "checkpoints", "position-000-00-0001", "state.json")
    left.parent.mkdir(parents=True)
    left.write_text("not a valid checkpoint")
    fresh = run_experiment(moved, fresh=True)
    assert not fresh.was_finished
    assert numbers_of(fresh.results) == numbers_of(run.results)


@pytest.mark.parametrize("finished", ["finetune"], indirect=True)
def test_another_seed_changes_name_and_results(
    finished: Finished, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    config, run = finished
    name = config.learner.name
    other = tiny_config(tmp_path, name, *STATEFUL[name], "seed=1")
    assert other.run_name != config.run_name
    assert run_experiment(other).results["scores"] != run.results["scores"]


@pytest.mark.parametrize("finished", ["vladr"], indirect=True)
def test_storage_and_checkpoint_settings_do_not_change_results(
    finished: Finished,
    tiny_config: MakeConfig,
    tmp_path: Path,
    numbers_of: Numbers,
) -> None:
    config, run = finished
    name = config.learner.name
    elsewhere = tiny_config(
        tmp_path,
        name,
        *STATEFUL[name],
        "run.name=elsewhere",
        "checkpoints.every_epochs=5",
        "checkpoints.keep_domains=false",
        "data.evaluation_batch_size=128",
    )
    assert numbers_of(run_experiment(elsewhere).results) == numbers_of(run.results)


# ---- resuming


Cut = Callable[[pytest.MonkeyPatch], None]


def fail_after_each_checkpoint(patch: pytest.MonkeyPatch) -> None:
    """Fails directly after each checkpoint, so that the run resumes from each of them."""
    save = CheckpointStore.save

    def save_and_die(self: CheckpointStore, checkpoint: Checkpoint) -> None:
        save(self, checkpoint)
        raise ProcessKilledError

    patch.setattr(CheckpointStore, "save", save_and_die)


def fail_before_every_third_checkpoint(patch: pytest.MonkeyPatch) -> None:
    """Fails after an epoch or domain, before its checkpoint is written."""
    save, calls = CheckpointStore.save, count()

    def save_or_die(self: CheckpointStore, checkpoint: Checkpoint) -> None:
        if next(calls) % 3 == 2:
            raise ProcessKilledError
        save(self, checkpoint)

    patch.setattr(CheckpointStore, "save", save_or_die)


def fail_within_each_epoch(patch: pytest.MonkeyPatch) -> None:
    """Fails once in the second iteration of each epoch."""
    add, died = StepLogger.add, set[tuple[str, str, int]]()

    def add_or_die(self: StepLogger, iteration: int, *arguments: Any) -> None:
        add(self, iteration, *arguments)
        epoch = (self.position["domain"], self.position["stage"], self.position["epoch"])
        if len(self.steps) == 2 and epoch not in died:
            died.add(epoch)
            raise ProcessKilledError

    patch.setattr(StepLogger, "add", add_or_die)


def fail_between_evaluation_and_checkpoint(patch: pytest.MonkeyPatch) -> None:
    """Fails after the evaluation of a domain, before its checkpoint is written."""
    save_domain, calls = CheckpointStore.save_domain, count()

    def save_or_die(self: CheckpointStore, *arguments: Any) -> Path:
        if next(calls) % 2 == 0:
            raise ProcessKilledError
        return save_domain(self, *arguments)

    patch.setattr(CheckpointStore, "save_domain", save_or_die)


def starts(config: RunConfig, limit: int) -> Iterator[RunResult | None]:
    """Repeats the same run until it finishes."""
    for _ in range(limit):
        try:
            yield run_experiment(config)
            return
        except ProcessKilledError:
            yield None
    pytest.fail(f"{limit} starts did not finish the run")


def test_every_checkpoint_has_the_version_of_the_prototypes(
    finish: Callable[[str], Finished],
    tiny_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run that is killed after each checkpoint counts one version per learned domain."""
    config, run = finish("vladr")
    assert run.results["memory_versions"] == {"plaza": 1, "station": 2}
    events = events_of(run.folder, "domain_finished")
    assert [event["memory_version"] for event in events] == [1, 2]
    save, versions = CheckpointStore.save, dict[int, set[int]]()

    def save_and_die(self: CheckpointStore, checkpoint: Checkpoint) -> None:
        written = json.loads((save(self, checkpoint) / "state.json").read_text())
        version = written["progress"]["memory_version"]
        assert list(written["progress"]["memory_versions"].values()) == [*range(1, version + 1)]
        versions.setdefault(written["position"]["domain"], set()).add(version)
        raise ProcessKilledError

    monkeypatch.setattr(CheckpointStore, "save", save_and_die)
    *_, last = starts(config.model_copy(update={"storage": tiny_config(tmp_path).storage}), 20)
    assert versions == {0: {0}, 1: {1}, 2: {2}}
    assert last is not None
    assert last.results["memory_version"] == 2
    assert last.results["memory_versions"] == run.results["memory_versions"]


def test_a_learner_without_prototypes_has_version_0(finish: Callable[[str], Finished]) -> None:
    _, run = finish("finetune")
    assert run.results["memory_version"] == 0
    assert run.results["memory_versions"] == {}


@pytest.mark.parametrize(
    ("finished", "cut"),
    [
        ("finetune", fail_after_each_checkpoint),
        ("vladr", fail_after_each_checkpoint),
        ("vladr", fail_before_every_third_checkpoint),
        ("vladr", fail_within_each_epoch),
        ("vladr", fail_between_evaluation_and_checkpoint),
    ],
    indirect=["finished"],
)
def test_a_resumed_run_equals_an_uninterrupted_run(
    finished: Finished,
    tiny_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    numbers_of: Numbers,
    cut: Cut,
) -> None:
    config, run = finished
    cut(monkeypatch)
    interrupted = config.model_copy(update={"storage": tiny_config(tmp_path).storage})
    *cuts, last = starts(interrupted, limit=20)
    assert len(cuts) >= 2
    assert last is not None
    assert numbers_of(last.results) == numbers_of(run.results)
    assert last.results["num_starts"] == len(cuts) + 1
    tensors = "checkpoints/after-02-station.safetensors"
    assert (last.folder / tensors).read_bytes() == (run.folder / tensors).read_bytes()


@pytest.mark.parametrize(
    "finished", ["finetune", pytest.param("vladr", marks=pytest.mark.slow)], indirect=True
)
def test_a_run_on_ray_equals_a_run_in_process(
    finished: Finished,
    ray_session: None,
    tmp_path: Path,
    tiny_config: MakeConfig,
    numbers_of: Numbers,
) -> None:
    config, run = finished
    name = config.learner.name
    on_ray = tiny_config(tmp_path, name, *STATEFUL[name], "cluster.num_workers=1")
    assert on_ray.run_name == config.run_name
    result = run_experiment(on_ray)
    assert numbers_of(result.results) == numbers_of(run.results)
    tensors = "checkpoints/after-02-station.safetensors"
    assert (result.folder / tensors).read_bytes() == (run.folder / tensors).read_bytes()
    losses = [
        [(event["iteration"], event["loss"]) for event in events_of(folder, "iteration")]
        for folder in (run.folder, result.folder)
    ]
    assert losses[0] == losses[1], "batches differ"


# ---- errors


def test_a_diverged_loss_is_an_error(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "finetune", "learner.optimizer.lr=1e30")
    message = (
        r"finite loss, got (nan|inf) at iteration \d+ \(domain plaza, stage finetune; terms .*lr"
    )
    with pytest.raises(FloatingPointError, match=message):
        run_experiment(config)
    folder = tmp_path / config.run_name
    assert not (folder / "results.json").exists()
    (failed,) = events_of(folder, "failed")
    assert failed["error"].startswith("FloatingPointError: expected a finite loss")


@pytest.mark.slow
def test_a_diverged_loss_is_not_retried_on_ray(
    ray_session: None, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    lr = "learner.optimizer.lr=1e30"
    config = tiny_config(tmp_path, "finetune", lr, "cluster.num_workers=1")
    with pytest.raises(FloatingPointError, match="finite loss"):
        run_experiment(config)
    assert len(events_of(tmp_path / config.run_name, "plan")) == 1


def test_an_in_process_run_does_not_import_ray(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "runs")
    text = config.model_dump_json()
    program = f"""
import json, sys
from runner.config.run_config import validate
from runner.experiment import run_experiment
run_experiment(validate(json.loads({text!r})))
print([name for name in ("ray", "mlflow", "optuna") if name in sys.modules])
"""
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:runner", "-c", program],
        cwd=root, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "[]", done.stderr


def test_the_number_of_torch_threads_is_restored(tiny_config: MakeConfig, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        threads = "cluster.threads_per_worker=2"
        run_experiment(tiny_config(tmp_path, "finetune", "learner.epochs=1", threads))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
