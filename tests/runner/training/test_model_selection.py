"""Model selection on validation identities."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from models.learner import LearnerState
from runner import experiment, lifelong
from runner.analysis.trained_run import load_run
from runner.config.run_config import RunConfig
from runner.experiment import RunResult, read_benchmark, run_experiment
from runner.streaming.image_stream import LocalStream
from runner.training.checkpoints import CheckpointStore
from runner.training.collectives import LocalGroup
from runner.training.evaluation import Embedder, evaluate_domains
from runner.training.model_selection import Candidate, best_candidate, selection_summary
from runner.training.worker import build_learner

MakeConfig = Callable[..., RunConfig]
Numbers = Callable[[Mapping[str, Any]], dict[str, Any]]

ONE = ("benchmark.synthetic.num_seen_domains=1", "benchmark.synthetic.num_unseen_domains=0")
SIZES = ("learner.epochs=4", "benchmark.num_validation_identities=4")
EVERY = "evaluation.every_epochs=1"


class ProcessKilledError(Exception):
    """Simulates the end of the process."""


def candidate(epoch: int, validation: float, test: float) -> Candidate:
    return {"epoch": epoch, "validation": {"mAP": validation}, "test": {"mAP": test}}


def selected_files(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "checkpoints").glob("chosen-*"))


@pytest.fixture(scope="module", autouse=True)
def no_run_figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "write_figures", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig) -> RunConfig:
    return tiny_config(tmp_path_factory.mktemp("whole"), "bdam", *ONE, *SIZES, EVERY)


@pytest.fixture(scope="module")
def whole(config: RunConfig) -> RunResult:
    return run_experiment(config)


# ---- selection


def test_the_epoch_is_selected_by_validation_scores() -> None:
    candidates = [
        candidate(1, 10, 30),
        candidate(2, 20, 5),
        candidate(3, 20, 40),
        candidate(4, 1, 2),
    ]
    summary = selection_summary(1, "plaza", candidates)
    assert summary is not None
    entries = {name: summary[name]["epoch"] for name in ("last", "validation", "best_on_test")}
    assert entries == {"last": 4, "validation": 2, "best_on_test": 3}
    assert summary["validation"]["test"] == {"mAP": 5}
    marked = [name for name in entries if summary[name].get("not_to_be_reported")]
    assert marked == ["best_on_test"]
    with_other_test = [{**each, "test": {"mAP": 100 - each["test"]["mAP"]}} for each in candidates]
    other = selection_summary(1, "plaza", [Candidate(**each) for each in with_other_test])
    assert other is not None
    assert other["validation"]["epoch"] == 2 != other["best_on_test"]["epoch"] == 4


def test_epochs_without_a_score_are_not_selected() -> None:
    unscored = candidate(1, math.nan, 7)
    assert best_candidate([unscored], "validation") is None
    assert best_candidate([unscored, candidate(2, 0, 0)], "validation") == candidate(2, 0, 0)
    summary = selection_summary(2, "plaza", [unscored])
    assert summary is not None
    assert summary["validation"] is None
    assert summary["last"] == {"epoch": 1, "validation": {"mAP": None}, "test": {"mAP": 7}}
    assert selection_summary(0, "plaza", []) is None


# ---- runs


def test_selection_summary_of_a_run(whole: RunResult) -> None:
    summary = whole.results["selection"]
    assert json.loads((whole.folder / "results.json").read_text())["selection"] == summary
    assert (summary["domain"], summary["num_candidates"], summary["last"]["epoch"]) == (
        "plaza",
        4,
        4,
    )
    for split, matrix in (("test", "scores"), ("validation", "validation")):
        rows = {name: rows[-1][0] for name, rows in whole.results[matrix].items()}
        assert summary["last"][split] == rows
    assert summary["validation"]["validation"]["mAP"] >= summary["last"]["validation"]["mAP"]
    highest = max(summary[name]["test"]["mAP"] for name in ("last", "validation", "best_on_test"))
    assert summary["best_on_test"]["test"]["mAP"] == highest
    assert summary["best_on_test"]["not_to_be_reported"] is True


def test_the_selected_checkpoint_reproduces_its_scores(
    whole: RunResult, config: RunConfig, tmp_path: Path
) -> None:
    entry = whole.results["selection"]["validation"]
    (name,) = selected_files(whole.folder)
    assert name == f"chosen-epoch-{entry['epoch']:04d}.safetensors"
    file = whole.folder / "checkpoints" / name
    learner = build_learner(config, LocalGroup())
    with safe_open(file, framework="pt") as opened:
        facts = json.loads((opened.metadata() or {})["facts"])
    learner.load_state(LearnerState(load_file(file), facts))
    benchmark = read_benchmark(config)
    size = config.backbone.image_height, config.backbone.image_width
    stream = LocalStream(benchmark, config.data, *size, tmp_path / "quarantine.jsonl")
    device = torch.device("cpu")
    embedder = Embedder(learner, stream, LocalGroup(), device, config.data, "float32")
    scores = evaluate_domains(embedder, benchmark, config.evaluation).scores
    stream.close()
    assert {split: summary["plaza"] for split, summary in scores.items()} == {
        split: entry[split] for split in ("test", "validation")
    }


def test_commands_load_the_selected_epoch(
    whole: RunResult, capsys: pytest.CaptureFixture[str]
) -> None:
    entry, folder = whole.results["selection"]["validation"], str(whole.folder)
    (name,) = selected_files(whole.folder)
    option = ["--checkpoint", "validation"]
    assert lifelong.main(["evaluate", folder, *option]) == 0
    assert name in capsys.readouterr().out
    assert lifelong.main(["evaluate", folder]) == 0
    scored = {
        summary["checkpoint"]: summary["scores"]["plaza"]
        for file in whole.folder.glob("evaluations/*/results.json")
        for summary in [json.loads(file.read_text())]
    }
    last = whole.results["selection"]["last"]["test"]
    assert scored == {name: entry["test"], "after-01-plaza.safetensors": last}
    assert lifelong.main(["index", folder, *option]) == 0
    search = ["search", folder, "--text", "a red coat", "--k", "2"]
    assert lifelong.main([*search, *option]) == 0
    assert lifelong.main(search) == 2, "only the selected learner has an index"
    assert "with the same --after or --checkpoint" in capsys.readouterr().err
    assert {each.name for each in whole.folder.glob("index*")} == {"index-validation"}
    with pytest.raises(ValueError, match="leave out --after"):
        load_run(folder, "", after="plaza", checkpoint="validation")


def test_a_resumed_run_selects_the_same_epoch(
    whole: RunResult,
    tmp_path: Path,
    tiny_config: MakeConfig,
    numbers_of: Numbers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also covers a kill between saving the selected learner and its checkpoint."""
    config = tiny_config(tmp_path, "bdam", *ONE, *SIZES, EVERY, "checkpoints.every_epochs=2")
    num_calls = 0

    def failing(method):
        def call(*arguments: Any, **named: Any):
            nonlocal num_calls
            summary = method(*arguments, **named)
            num_calls += 1
            if num_calls % 3 == 0:
                raise ProcessKilledError
            return summary

        return call

    for name in ("save", "save_selected"):
        monkeypatch.setattr(CheckpointStore, name, failing(getattr(CheckpointStore, name)))
    resumed = None
    for _ in range(10):
        try:
            resumed = run_experiment(config)
            break
        except ProcessKilledError:
            continue
    assert resumed is not None
    assert resumed.results["num_starts"] > 1
    assert resumed.results["selection"] == whole.results["selection"]
    assert numbers_of(resumed.results) == numbers_of(whole.results)
    assert selected_files(resumed.folder) == selected_files(whole.folder)


def test_selection_does_not_change_results(
    whole: RunResult,
    config: RunConfig,
    tmp_path: Path,
    tiny_config: MakeConfig,
    numbers_of: Numbers,
) -> None:
    plain = tiny_config(tmp_path, "bdam", *ONE, *SIZES)
    assert plain.hash != config.hash
    run = run_experiment(plain)
    assert numbers_of(run.results) == numbers_of(whole.results)
    assert run.results["selection"] is None
    assert selected_files(run.folder) == []
    with pytest.raises(ValueError, match="expected a selected epoch, got none"):
        load_run(str(run.folder), "", checkpoint="validation")


# ---- validation of the configuration


@pytest.mark.parametrize(
    ("learner", "overrides", "message"),
    [
        ("finetune", (), "one domain, got 2 steps of plaza, station"),
        ("zero_shot", ONE, "got 0 steps of plaza"),
        ("finetune", (*ONE, "benchmark.num_validation_identities=0"), "plaza has none"),
    ],
)
def test_impossible_selection_is_an_error(
    learner: str, overrides: tuple[str, ...], message: str, tmp_path: Path, tiny_config: MakeConfig
) -> None:
    with pytest.raises(ValueError, match=message):
        read_benchmark(tiny_config(tmp_path, learner, *overrides, EVERY))
