"""Interpolation of a finished run: weights, scores, and each evaluation only once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from models.learner import LearnerState
from runner import experiment
from runner.analysis.interpolation import evaluate as mixing  # RENAMED
from runner.analysis.interpolation.evaluate import (
    interpolate_run,
    interpolated_state,
    interpolation_steps,
    parse_alphas,
)
from runner.analysis.interpolation.plot import draw_interpolation
from runner.analysis.interpolation.view import interpolation_table, remarks, write_figure
from runner.analysis.trained_run import load_run
from runner.config.run_config import RunConfig
from runner.experiment import RunResult, run_experiment
from runner.lifelong import main
from runner.results.run_folder import RunStorage
from tasks.retrieval.metrics import METRICS

MakeConfig = Callable[..., RunConfig]

ENDS = (0.0, 1.0)
HALF = (0.0, 0.5, 1.0)
# Enough test people that different weights give different scores.
PEOPLE = "benchmark.synthetic.num_test_identities=20"
FIXED = ("learner.interpolation.mode=fixed", "learner.interpolation.alpha=0.5", PEOPLE)


@pytest.fixture(scope="module", autouse=True)
def no_plots_of_runs() -> Iterator[None]:
    """Disables the plots of runs; the plots of interpolations are tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "write_figures", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module", params=["finetune", "vladr"])
def learner(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def plain(folder: Path, learner: str, tiny_config: MakeConfig) -> RunResult:
    return run_experiment(tiny_config(folder, learner, "learner.interpolation.mode=none", PEOPLE))


@pytest.fixture(scope="module")
def interpolating_run(folder: Path, learner: str, tiny_config: MakeConfig) -> RunResult:
    """The same run with interpolation: domain 2 starts from the weights of `plain`."""
    return run_experiment(tiny_config(folder, learner, *FIXED))


@pytest.fixture(scope="module")
def finetuned(folder: Path, tiny_config: MakeConfig) -> RunResult:
    return run_experiment(tiny_config(folder, "finetune"))


@pytest.fixture(scope="module")
def longer(folder: Path, tiny_config: MakeConfig) -> RunResult:
    """A run over three domains."""
    longer = ("benchmark.synthetic.num_seen_domains=3", "learner.epochs=1")
    return run_experiment(tiny_config(folder, "finetune", *longer))


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, float]]]:
    """(number of seen domains, a tensor's sum) of every evaluation that was computed."""
    done: list[tuple[int, float]] = []
    real = mixing.evaluate_domains

    def spied(embedder, benchmark, settings, *, seed):
        row = real(embedder, benchmark, settings, seed=seed)
        weights = embedder.learner.network.head_class.weight.detach()
        done.append((len(benchmark.seen), float(weights.sum())))
        return row

    monkeypatch.setattr(mixing, "evaluate_domains", spied)
    return done


def evaluation(results: dict[str, Any], step: int, alpha: float) -> dict[str, Any]:
    (actual,) = [each for each in results["steps"] if each["step"] == step]
    (chosen,) = [each for each in actual["mixtures"] if each["alpha"] == alpha]
    return chosen


def row(run: dict[str, Any], split: str, step: int) -> dict[str, dict[str, float | None]]:
    """Scores of all domains after a step, as recorded by the run."""
    matrices = run["scores" if split == "test" else split]
    columns = [*run["domains"]["seen"], *run["domains"]["unseen"]]
    return {
        domain: {metric: matrices[metric][step][index] for metric in METRICS}
        for index, domain in enumerate(columns)
    }


def read(file: Path) -> LearnerState:
    with safe_open(file, framework="pt") as opened:
        facts = json.loads(opened.metadata()["facts"])
    return LearnerState(load_file(file), facts)


# The numbers --------------------------------------------------------------------------------------


def test_end_points_equal_scores_of_the_run(plain: RunResult) -> None:
    results = interpolate_run(str(plain.folder), "runs", ENDS).results
    for split in ("test", "validation"):
        before, after = row(plain.results, split, 1), row(plain.results, split, 2)
        assert split == "validation" or before != after
        assert evaluation(results, 2, 0.0)["scores"][split] == before
        assert evaluation(results, 2, 1.0)["scores"][split] == after
    assert results["largest_difference_from_record"] == 0
    for name in ("seen_mAP", "seen_R1", "unseen_mAP", "unseen_R1"):
        summary = plain.results["summary"][name]
        assert evaluation(results, 2, 1.0)["averages"]["test"][name] == summary


def test_alpha_half_scores_equal_run_with_interpolation(
    plain: RunResult, interpolating_run: RunResult
) -> None:
    final = row(interpolating_run.results, "test", 2)
    assert row(interpolating_run.results, "test", 1) == row(plain.results, "test", 1)
    results = interpolate_run(str(plain.folder), "runs", HALF).results
    for alpha in ENDS:
        assert evaluation(results, 2, alpha)["scores"]["test"] != final
    for split in ("test", "validation"):
        halves = evaluation(results, 2, 0.5)["scores"][split]
        for domain, scores in row(interpolating_run.results, split, 2).items():
            assert halves[domain] == pytest.approx(scores, abs=1e-6)


def test_alpha_half_weights_equal_run_with_interpolation(
    plain: RunResult, interpolating_run: RunResult
) -> None:
    (step,) = interpolation_steps(RunStorage(plain.folder))
    halves = interpolated_state(read(step.old), read(step.new), 0.5)
    expected = read(interpolating_run.folder / "checkpoints" / step.new.name)
    network = {path for path in expected.tensors if path.startswith("network.")}
    assert network
    for path in network:
        torch.testing.assert_close(halves.tensors[path], expected.tensors[path], rtol=0, atol=1e-6)


def test_run_with_interpolation_is_noted(plain: RunResult, interpolating_run: RunResult) -> None:
    results = interpolate_run(str(interpolating_run.folder), "runs", ENDS).results
    assert results["mixed_while_training"] == {"mode": "fixed", "alpha": 0.5}
    assert "stored weights are already interpolated: " in " ".join(remarks(results))
    results = interpolate_run(str(plain.folder), "runs", ENDS).results
    assert results["mixed_while_training"] is None
    assert "already mixed" not in " ".join(remarks(results))


def test_each_step_is_scored_on_its_learned_domains(
    longer: RunResult, evaluated: list[tuple[int, float]]
) -> None:
    first, second, third = longer.results["domains"]["seen"]
    (unseen,) = longer.results["domains"]["unseen"]
    results = interpolate_run(str(longer.folder), "runs", HALF).results
    assert [(step["step"], step["domain"]) for step in results["steps"]] == [
        (2, second),
        (3, third),
    ]
    assert [num_seen for num_seen, _ in evaluated] == [2, 2, 2, 3, 3, 3]
    assert set(evaluation(results, 2, 0.5)["scores"]["test"]) == {first, second, unseen}
    assert set(evaluation(results, 3, 0.5)["scores"]["test"]) == {first, second, third, unseen}
    for step in (2, 3):
        for alpha, recorded in ((0.0, step - 1), (1.0, step)):
            expected = row(longer.results, "test", recorded)
            for domain, scores in evaluation(results, step, alpha)["scores"]["test"].items():
                # Fewer domains change the batches, which may change rounding.
                assert scores["mAP"] == pytest.approx(expected[domain]["mAP"], abs=0.5)
    scores = evaluation(results, 3, 0.5)["scores"]["test"]
    actual = evaluation(results, 3, 0.5)["averages"]["test"]
    assert actual["old_mAP"] == pytest.approx((scores[first]["mAP"] + scores[second]["mAP"]) / 2)
    assert actual["new_mAP"] == scores[third]["mAP"]
    assert actual["unseen_R1"] == scores[unseen]["R1"]


# The choice ---------------------------------------------------------------------------------------


def test_chosen_alpha_has_best_validation_average(finetuned: RunResult) -> None:
    results = interpolate_run(str(finetuned.folder), "runs", parse_alphas("0.2:0.8:0.2")).results
    seen = finetuned.results["domains"]["seen"]
    (step,) = results["steps"]
    best, highest = None, -1.0
    for each in step["mixtures"]:
        mean = sum(each["scores"]["validation"][domain]["mAP"] for domain in seen) / len(seen)
        if mean >= highest:
            best, highest = each["alpha"], mean
    assert step["chosen_alpha"] == best
    message = " ".join(remarks(results))
    assert "validation identities alone; test identities are not used" in message


def test_choice_does_not_depend_on_test_scores(finetuned: RunResult) -> None:
    interpolated = interpolate_run(str(finetuned.folder), "runs", HALF)
    stored = (interpolated.folder / "evaluations.jsonl").read_text()
    events = [json.loads(line) for line in stored.splitlines()]
    for event in events:
        for scores in event["scores"]["test"].values():
            scores["mAP"] = 100 - scores["mAP"]
    (interpolated.folder / "evaluations.jsonl").write_text(
        "".join(json.dumps(e) + "\n" for e in events)
    )
    try:
        turned = interpolate_run(str(finetuned.folder), "runs", HALF).results
    finally:
        (interpolated.folder / "evaluations.jsonl").write_text(stored)
    assert turned["steps"][0]["chosen_alpha"] == interpolated.results["steps"][0]["chosen_alpha"]
    assert turned["largest_difference_from_record"] > 1
    assert "differ from the scores recorded by the run" in " ".join(remarks(turned))


def test_nothing_is_chosen_without_validation_people(folder: Path, tiny_config: MakeConfig) -> None:
    config = tiny_config(folder, "finetune", "benchmark.num_validation_identities=0")
    run = run_experiment(config)
    results = interpolate_run(str(run.folder), "runs", ENDS).results
    (step,) = results["steps"]
    assert step["chosen_alpha"] is None
    assert step["mixtures"][0]["averages"]["validation"]["seen_mAP"] is None
    assert step["mixtures"][0]["averages"]["test"]["seen_mAP"] is not None
    assert "test identities must not decide" in " ".join(remarks(results))
    assert len(interpolation_table(results, "test").rows) == 2
    assert write_figure(results, "validation", run.folder).stat().st_size > 0


# Resume ------------------------------------------------------------------------------------------


def test_interrupted_command_continues(
    longer: RunResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    evaluated: list[tuple[int, float]],
) -> None:
    alphas = (0.0, 0.35, 0.65, 1.0)
    whole = interpolate_run(str(longer.folder), "runs", alphas)
    stored = longer.folder / "interpolation"
    stored.rename(tmp_path / "whole")
    evaluated.clear()
    spied = mixing.evaluate_domains

    def killed(embedder, benchmark, settings, *, seed):
        if len(evaluated) == 5:
            raise KeyboardInterrupt
        return spied(embedder, benchmark, settings, seed=seed)

    with monkeypatch.context() as patched:
        patched.setattr(mixing, "evaluate_domains", killed)
        with pytest.raises(KeyboardInterrupt):
            interpolate_run(str(longer.folder), "runs", alphas)
    file = whole.folder / "evaluations.jsonl"
    assert len(file.read_text().splitlines()) == 5
    assert not (whole.folder / "results.json").exists()
    with file.open("a") as torn:
        torn.write('{"time": 1.0, "event": "mixture", "step": 3, "al')

    again = interpolate_run(str(longer.folder), "runs", alphas)
    assert len(evaluated) == len(set(evaluated)) == 8
    assert without_times(again.results) == without_times(whole.results)
    interpolate_run(str(longer.folder), "runs", alphas)
    assert len(evaluated) == 8
    interpolate_run(str(longer.folder), "runs", (0.0, 0.35, 0.5, 1.0))
    assert len(evaluated) == 10


def without_times(results: Any) -> Any:
    """Results without times and git revision."""
    if isinstance(results, dict):
        stored = results.keys() - {"seconds", "git_revision"}
        return {key: without_times(results[key]) for key in stored}
    return [without_times(each) for each in results] if isinstance(results, list) else results


def test_another_ranking_is_stored_separately(
    finetuned: RunResult, evaluated: list[tuple[int, float]]
) -> None:
    plain = interpolate_run(str(finetuned.folder), "runs", ENDS)
    lock = (plain.folder / "protocol.lock.json").read_text()
    assert json.loads(lock) == load_run(str(finetuned.folder), "runs").lock
    evaluated.clear()
    override = "evaluation.reranking.enabled=true"
    reranked = interpolate_run(str(finetuned.folder), "runs", ENDS, overrides=[override])
    assert len(evaluated) == 2
    assert reranked.folder != plain.folder
    assert reranked.folder.name == reranked.results["protocol_sha256"][:8]
    scores = [evaluation(each.results, 2, 1.0)["scores"] for each in (plain, reranked)]
    assert scores[0] != scores[1]
    assert reranked.results["largest_difference_from_record"] is None
    assert "unchecked" in " ".join(remarks(reranked.results))


# Errors -------------------------------------------------------------------------------------------


def test_unfinished_run(finetuned: RunResult, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((finetuned.folder / "config.yaml").read_text())
    with pytest.raises(ValueError, match=r"expected a finished run.*repeat the command"):
        interpolate_run(str(tmp_path), "runs", ENDS)


def test_a_run_over_one_domain(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(
        '{"domains": {"seen": ["plaza"], "unseen": []}, "scores": {}}'
    )
    with pytest.raises(ValueError, match=r"at least two domains, got one \(plaza\)"):
        interpolation_steps(RunStorage(tmp_path))


def test_run_without_checkpoints(finetuned: RunResult, tmp_path: Path) -> None:
    """The folder of a run with checkpoints.keep_domains=false."""
    shutil.copytree(finetuned.folder, tmp_path / "kept-none")
    for file in (tmp_path / "kept-none" / "checkpoints").glob("after-*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"run it again with checkpoints.keep_domains=true"):
        interpolate_run("kept-none", str(tmp_path), ENDS)


def test_domains_without_interpolation_step(longer: RunResult) -> None:
    first, second, third = longer.results["domains"]["seen"]
    storage = RunStorage(longer.folder)
    assert [step.number for step in interpolation_steps(storage, [third])] == [3]
    with pytest.raises(
        ValueError, match=rf"any of {second}, {third}, got '{first}' \(learned first"
    ):
        interpolation_steps(storage, [third, first])
    with pytest.raises(ValueError, match=r"got 'moon' \(unknown\)"):
        interpolation_steps(storage, ["moon"])


def test_different_training_data_are_rejected(finetuned: RunResult) -> None:
    with pytest.raises(ValueError, match=r"differ from the training data of .* \(.*identities"):
        interpolate_run(
            str(finetuned.folder),
            "runs",
            ENDS,
            overrides=["benchmark.num_validation_identities=3"],
        )
    with pytest.raises(ValueError, match=r"only benchmark, evaluation can be set"):
        interpolate_run(str(finetuned.folder), "runs", ENDS, overrides=["learner.epochs=3"])


# Plot -------------------------------------------------------------------------------------------


def test_a_panel_for_each_step_and_a_line_for_each_average(longer: RunResult) -> None:
    results = interpolate_run(str(longer.folder), "runs", HALF).results
    steps = [results["steps"][index % 2] | {"chosen_alpha": None} for index in range(5)]
    steps += [results["steps"][0] | {"chosen_alpha": 0.5}]
    figure = draw_interpolation(results | {"steps": steps}, "test")
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == len(steps)
    for axes, step in zip(panels, steps, strict=True):
        lines = {str(line.get_label()): line for line in axes.get_lines()}
        assert ("chosen on validation identities" in lines) == (step["chosen_alpha"] is not None)
        assert list(lines["new domain"].get_xdata()) == list(HALF)
        for label, name in (("old domains, average", "old"), ("unseen average", "unseen")):
            expected = [each["averages"]["test"][f"{name}_mAP"] for each in step["mixtures"]]
            assert list(lines[label].get_ydata()) == expected
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 5


# The command --------------------------------------------------------------------------------------


def test_the_command(
    longer: RunResult, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    name, storage = longer.folder.name, str(longer.folder.parent)
    domain = longer.results["domains"]["seen"][2]
    arguments = ["interpolate", name, "--runs", storage, "--alphas", "0.5"]
    assert main([*arguments, "--domain", domain, "evaluation.reranking.enabled=false"]) == 0
    shown = capsys.readouterr().out
    assert "validation identities alone" in " ".join(shown.split())
    assert domain in shown
    assert longer.results["domains"]["seen"][1] not in shown
    (figure,) = [line for line in shown.splitlines() if line.startswith("Figure")]
    assert Path(figure.split(maxsplit=1)[1]).name == "curves-test.png"
    assert main([*arguments, "--split", "validation"]) == 0
    assert "curves-validation.png" in capsys.readouterr().out
    assert main(["interpolate", name, "--runs", storage, "--alphas", "0.5:0.1"]) == 2
    assert "expected start:stop:step" in capsys.readouterr().err
    assert main(["interpolate", "nobody", "--runs", storage]) == 2
    assert "found no run at" in capsys.readouterr().err
