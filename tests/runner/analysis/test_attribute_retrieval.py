"""Retrieval by part captions: scores of matching features, and invalid runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from models.learners.vladr import Method
from runner import experiment
from runner.analysis.attribute_retrieval import FILE, score_captions
from runner.analysis.trained_run import load_run
from runner.config.run_config import RunConfig
from runner.experiment import RunResult, run_experiment
from runner.lifelong import main

MakeConfig = Callable[..., RunConfig]
PEOPLE, IMAGES, PARTS = 12, 3, ("head", "upper", "lower", "foot")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig) -> RunResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "write_figures", lambda *_: None)
        config = tiny_config(tmp_path_factory.mktemp("runs"), "vladr", "benchmark.order=[plaza]")
        return run_experiment(config)


def test_matching_features_retrieve_people_and_others_do_not() -> None:
    generator = torch.Generator().manual_seed(0)
    captions = torch.nn.functional.normalize(
        torch.randn(len(PARTS), PEOPLE, 16, generator=generator), dim=2
    )
    people = np.repeat(np.arange(PEOPLE), IMAGES)
    nothing = torch.zeros(len(people), 1, 16)
    features = torch.cat([captions.transpose(0, 1)[people], nothing], dim=1)
    scores = score_captions(captions, features, people, "plaza", PARTS)
    assert scores.own == pytest.approx(100)
    assert scores.other is not None
    assert scores.other < 40
    assert [row.index(max(row)) for row in scores.mAP] == [0, 1, 2, 3]
    assert scores.features[-1] == "f"
    assert 8 < scores.chance < 20
    # A constant feature ranks by position: person p's images come at 3p + 1.
    firsts = [
        np.mean([(hit + 1) / (start + hit + 1) for hit in range(IMAGES)])
        for start in range(0, PEOPLE * IMAGES, IMAGES)
    ]
    assert [row[-1] for row in scores.mAP] == pytest.approx([100 * np.mean(firsts)] * 4)


def test_features_of_other_people_score_near_chance() -> None:
    generator = torch.Generator().manual_seed(1)
    captions = torch.nn.functional.normalize(torch.randn(1, 60, 16, generator=generator), dim=2)
    people = np.repeat(np.arange(60), IMAGES)
    others = torch.randn(len(people), 2, 16, generator=generator)
    scores = score_captions(captions, others, people, "plaza", ("1",))
    assert scores.other is None
    assert scores.own == pytest.approx(scores.chance, abs=4)


def test_captions_follow_the_prompt_of_their_attribute(finished: RunResult) -> None:
    run = load_run(str(finished.folder), "")
    assert isinstance(run.learner, Method)
    textual, text = run.learner.textual, run.learner.text
    with torch.no_grad():
        entry = int(textual.entry_ids[0, 2])
        words = textual.entry_tokens[entry]
        cached = textual._encode_entries(torch.tensor([entry]), text)
        own, other = (textual._encode(words[None], torch.tensor([k]), text) for k in (2, 1))
    assert torch.allclose(own, cached, atol=1e-6)
    assert not torch.allclose(own, other, atol=1e-3)


def test_command(
    finished: RunResult, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["attributes", str(finished.folder), "--people", "6"]) == 0
    shown = capsys.readouterr().out
    assert "people of plaza by captions" in shown
    assert "attribute head" in shown
    stored = json.loads((finished.folder / FILE).read_text())
    assert stored["num_people"] == 6
    (scores,) = stored["domains"]
    assert scores["domain"] == "plaza"
    assert np.shape(scores["mAP"]) == (4, 5)
    assert scores["own"] == pytest.approx(np.mean([scores["mAP"][k][k] for k in range(4)]))
    assert scores["whole"] == pytest.approx(np.mean([row[-1] for row in scores["mAP"]]))
    assert main(["attributes", str(finished.folder), "--people", "6", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)[0]
    assert {key: again[key] for key in stored} == stored
    command = ["attributes", str(finished.folder), "--people", "6"]
    assert main([*command, "--domain", "all"]) == 0
    shown = capsys.readouterr().out
    every = json.loads((finished.folder / FILE).read_text())["domains"]
    assert len(every) > 1
    assert every[0] == scores
    assert all(each["domain"] in shown for each in every)
    assert main([*command, "--domain", "beach"]) == 2
    assert "--domain beach" in capsys.readouterr().err


def test_invalid_runs_and_options(
    finished: RunResult, capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_config: MakeConfig
) -> None:
    assert main(["attributes", str(finished.folder), "--people", "1"]) == 2
    assert "--people" in capsys.readouterr().err
    assert main(["attributes", str(tmp_path / "nothing")]) == 2
    assert "nothing" in capsys.readouterr().err
    zero = run_experiment(tiny_config(tmp_path, "zero_shot", "benchmark.order=[plaza]"))
    assert main(["attributes", str(zero.folder)]) == 2
    assert "give a run of vladr" in capsys.readouterr().err
