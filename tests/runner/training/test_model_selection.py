"""The epoch chosen on validation people: by them alone, the same after a kill, and kept whole."""

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


class PowerCutError(Exception):
    """Stands for whatever ends a process."""


def candidate(epoch: int, validation: float, test: float) -> Candidate:
    return {"epoch": epoch, "validation": {"mAP": validation}, "test": {"mAP": test}}


def chosen_files(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "checkpoints").glob("chosen-*"))


@pytest.fixture(scope="module", autouse=True)
def no_pictures_of_runs():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "write_figures", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig) -> RunConfig:
    return tiny_config(tmp_path_factory.mktemp("whole"), "bdam", *ONE, *SIZES, EVERY)


@pytest.fixture(scope="module")
def whole(config: RunConfig) -> RunResult:
    return run_experiment(config)


# ---- the choice


def test_validation_decides_and_test_only_flatters() -> None:
    candidates = [
        candidate(1, 10, 30),
        candidate(2, 20, 5),
        candidate(3, 20, 40),
        candidate(4, 1, 2),
    ]
    found = selection_summary(1, "plaza", candidates)
    assert found is not None
    entries = {name: found[name]["epoch"] for name in ("last", "validation", "best_on_test")}
    assert entries == {"last": 4, "validation": 2, "best_on_test": 3}
    assert found["validation"]["test"] == {"mAP": 5}
    marked = [name for name in entries if found[name].get("not_to_be_reported")]
    assert marked == ["best_on_test"]
    flattered = [{**each, "test": {"mAP": 100 - each["test"]["mAP"]}} for each in candidates]
    other = selection_summary(1, "plaza", [Candidate(**each) for each in flattered])
    assert other is not None
    assert other["validation"]["epoch"] == 2 != other["best_on_test"]["epoch"] == 4


def test_an_epoch_without_a_score_is_never_chosen_and_nothing_is_no_choice() -> None:
    nothing = candidate(1, math.nan, 7)
    assert best_candidate([nothing], "validation") is None
    assert best_candidate([nothing, candidate(2, 0, 0)], "validation") == candidate(2, 0, 0)
    found = selection_summary(2, "plaza", [nothing])
    assert found is not None
    assert found["validation"] is None
    assert found["last"] == {"epoch": 1, "validation": {"mAP": None}, "test": {"mAP": 7}}
    assert selection_summary(0, "plaza", []) is None


# ---- whole runs


def test_the_three_entries_of_a_run(whole: RunResult) -> None:
    found = whole.results["selection"]
    assert json.loads((whole.folder / "results.json").read_text())["selection"] == found
    assert (found["domain"], found["num_candidates"], found["last"]["epoch"]) == ("plaza", 4, 4)
    for split, matrix in (("test", "scores"), ("validation", "validation")):
        rows = {name: rows[-1][0] for name, rows in whole.results[matrix].items()}
        assert found["last"][split] == rows
    assert found["validation"]["validation"]["mAP"] >= found["last"]["validation"]["mAP"]
    highest = max(found[name]["test"]["mAP"] for name in ("last", "validation", "best_on_test"))
    assert found["best_on_test"]["test"]["mAP"] == highest
    assert found["best_on_test"]["not_to_be_reported"] is True


def test_the_chosen_checkpoint_scores_what_is_said_of_it(
    whole: RunResult, config: RunConfig, tmp_path: Path
) -> None:
    entry = whole.results["selection"]["validation"]
    (name,) = chosen_files(whole.folder)
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
    assert {split: found["plaza"] for split, found in scores.items()} == {
        split: entry[split] for split in ("test", "validation")
    }


def test_commands_take_the_chosen_epoch(
    whole: RunResult, capsys: pytest.CaptureFixture[str]
) -> None:
    entry, folder = whole.results["selection"]["validation"], str(whole.folder)
    (name,) = chosen_files(whole.folder)
    chosen = ["--checkpoint", "validation"]
    assert lifelong.main(["evaluate", folder, *chosen]) == 0
    assert name in capsys.readouterr().out
    assert lifelong.main(["evaluate", folder]) == 0
    scored = {
        found["checkpoint"]: found["scores"]["plaza"]
        for file in whole.folder.glob("evaluations/*/results.json")
        for found in [json.loads(file.read_text())]
    }
    last = whole.results["selection"]["last"]["test"]
    assert scored == {name: entry["test"], "after-01-plaza.safetensors": last}
    assert lifelong.main(["index", folder, *chosen]) == 0
    search = ["search", folder, "--text", "a red coat", "--k", "2"]
    assert lifelong.main([*search, *chosen]) == 0
    assert lifelong.main(search) == 2, "only the chosen network has an index"
    assert "with the same --after or --checkpoint" in capsys.readouterr().err
    assert {each.name for each in whole.folder.glob("index*")} == {"index-validation"}
    with pytest.raises(ValueError, match="leave out --after"):
        load_run(folder, "", after="plaza", checkpoint="validation")


def test_a_killed_run_ends_with_the_same_entries_and_file(
    whole: RunResult,
    tmp_path: Path,
    tiny_config: MakeConfig,
    numbers_of: Numbers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed after a chosen file was written and before the checkpoint that knows of it, too."""
    config = tiny_config(tmp_path, "bdam", *ONE, *SIZES, EVERY, "checkpoints.every_epochs=2")
    num_calls = 0

    def failing(method):
        def call(*arguments: Any, **named: Any):
            nonlocal num_calls
            found = method(*arguments, **named)
            num_calls += 1
            if num_calls % 3 == 0:
                raise PowerCutError
            return found

        return call

    for name in ("save", "save_chosen"):
        monkeypatch.setattr(CheckpointStore, name, failing(getattr(CheckpointStore, name)))
    pieces = None
    for _ in range(10):
        try:
            pieces = run_experiment(config)
            break
        except PowerCutError:
            continue
    assert pieces is not None
    assert pieces.results["num_starts"] > 1
    assert pieces.results["selection"] == whole.results["selection"]
    assert numbers_of(pieces.results) == numbers_of(whole.results)
    assert chosen_files(pieces.folder) == chosen_files(whole.folder)


def test_choosing_changes_no_number_and_off_it_is_not_there(
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
    assert chosen_files(run.folder) == []
    with pytest.raises(ValueError, match="chose no epoch; only a run with"):
        load_run(str(run.folder), "", checkpoint="validation")


# ---- what is refused before work


@pytest.mark.parametrize(
    ("learner", "overrides", "reason"),
    [
        ("finetune", (), "one domain, got 2 steps of plaza, station"),
        ("zero_shot", ONE, "got 0 steps of plaza"),
        ("finetune", (*ONE, "benchmark.num_validation_identities=0"), "plaza has none"),
    ],
)
def test_nothing_to_choose_by_is_refused(
    learner: str, overrides: tuple[str, ...], reason: str, tmp_path: Path, tiny_config: MakeConfig
) -> None:
    with pytest.raises(ValueError, match=reason):
        read_benchmark(tiny_config(tmp_path, learner, *overrides, EVERY))
