"""Ablation tables over one domain: columns, checkpoints, and validation."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runner import experiment, lifelong
from runner.ablation.cells import plan_cells
from runner.ablation.quantities import scores_line
from runner.ablation.table_file import load_table
from runner.config.run_config import ConfigError
from runner.experiment import run_experiment

Arguments = Callable[..., list[str]]

TABLE = """
title: One domain
description: fine-tuning, and the same without the triplet loss
preset: demo-finetune
reference: plain
CHECKPOINT
set: {evaluation.every_epochs: 1}
rows:
  plain: {label: plain}
  without: {label: w/o triplet, set: {learner.losses.triplet.weight: 0}}
published:
  source: a paper
  rows:
    plain: {seen_R1: 47.1, seen_R10: 88.8}
"""
METRICS = ("R1", "R5", "R10", "mAP", "mINP")
ONE = ("benchmark.synthetic.num_seen_domains=1", "benchmark.synthetic.num_unseen_domains=0")


@pytest.fixture(scope="module")
def finished(
    tiny_arguments: Arguments, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """Storage folder with both rows finished, and their overrides."""
    storage = tmp_path_factory.mktemp("one-domain")
    given = tiny_arguments(storage, "finetune", "learner.epochs=3", *ONE)[2:]
    given = [each for each in given if not each.startswith("cluster.")]
    (storage / "last.yaml").write_text(TABLE.replace("CHECKPOINT", ""))
    (storage / "chosen.yaml").write_text(TABLE.replace("CHECKPOINT", "checkpoint: validation"))
    _, table = load_table(str(storage / "last.yaml"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "write_figures", lambda *_: None)
        for cell in plan_cells(table, [0], given):
            run_experiment(cell.config)
    return storage, given


def ablate(
    name: str, finished: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> tuple[str, Path, dict[str, Any]]:
    """Output of the command, and the folder and JSON that it writes."""
    storage, given = finished
    assert lifelong.main(["ablate", str(storage / f"{name}.yaml"), "--seeds", "0", *given]) == 0
    output = capsys.readouterr().out
    (folder,) = (storage / "ablations").glob(f"{name}-*")
    return output, folder, json.loads((folder / "table.json").read_text())


def results_of(storage: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads((storage / row["runs"][0]["run"] / "results.json").read_text())


def test_one_domain_shows_ranks_without_empty_columns(
    finished: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    output, folder, table = ablate("last", finished, capsys)
    assert "All 2 runs were already finished." in output
    (heading,) = [line for line in output.splitlines() if "mINP" in line]
    assert heading.split()[:6] == ["seeds", *METRICS]
    for word in ("unseen\nmap", "unseen map", "unseen_map", "forget", "bytes"):
        assert word not in output.lower()
        assert word not in (folder / "table.md").read_text().lower()
        assert word not in (folder / "table.csv").read_text().lower()
    assert "Scores on test identities after the last epoch." in output
    assert "Chance: R1" in output
    lines = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))
    for row, line in zip(table["rows"], lines, strict=True):
        results = results_of(finished[0], row)
        for metric in METRICS:
            value = results["scores"][metric][-1][0]
            assert row["estimates"][f"seen_{metric}"]["mean"] == value
            assert float(line[f"seen_{metric}"]) == value
    assert set(table["rows"][1]["differences"]) == {f"seen_{metric}" for metric in METRICS}
    assert (table["checkpoint"], lines[0]["published_seen_R10"]) == ("last", "88.8")
    with Image.open(folder / "table.png") as picture:
        assert picture.width > 800


def test_scores_of_the_selected_epoch(
    finished: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    output, folder, table = ablate("chosen", finished, capsys)
    sentence = "Scores on test identities, of the epoch selected by mAP on validation identities."
    assert sentence in output
    assert sentence in (folder / "table.md").read_text()
    assert table["checkpoint"] == "validation"
    for row in table["rows"]:
        entry = results_of(finished[0], row)["selection"]["validation"]
        assert row["estimates"]["chosen_epoch"]["mean"] == entry["epoch"]
        for metric in METRICS:
            assert row["estimates"][f"seen_{metric}"]["mean"] == entry["test"][metric]
    assert table["set"] == table["rows"][0]["set"] == {"evaluation.every_epochs": 1}


def test_scores_line(finished: tuple[Path, list[str]]) -> None:
    storage, _ = finished
    file = next(storage.glob("*/results.json"))
    results = json.loads(file.read_text())
    last, entry = results["selection"]["last"]["test"], results["selection"]["validation"]
    assert scores_line(results, "last") == f"R1/mAP {last['R1']:.1f}/{last['mAP']:.1f}"
    test = entry["test"]
    wanted = f"R1/mAP {test['R1']:.1f}/{test['mAP']:.1f} of epoch {entry['epoch']}"
    assert scores_line(results, "validation") == wanted


def test_a_selection_without_evaluations_raises(finished: tuple[Path, list[str]]) -> None:
    storage, given = finished
    _, table = load_table(str(storage / "chosen.yaml"))
    with pytest.raises(
        ConfigError, match=r"row plain: evaluation\.every_epochs: expected at least 1"
    ):
        plan_cells(table, [0], [*given, "evaluation.every_epochs=0"])


def test_settings_of_a_row_override_those_of_the_table(tmp_path: Path) -> None:
    text = TABLE.replace("CHECKPOINT", "real_preset: finetune").replace(
        "set: {evaluation.every_epochs: 1}", "set: {learner.epochs: 3, seed: 1}"
    )
    (tmp_path / "table.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"set\.seed: expected a setting that changes results"):
        load_table(str(tmp_path / "table.yaml"))
    text = text.replace(", seed: 1", "").replace(
        "{label: plain}", "{set: {learner.epochs: 5}, real_set: {learner.epochs: 7}}"
    )
    (tmp_path / "table.yaml").write_text(text)
    _, table = load_table(str(tmp_path / "table.yaml"))
    for real, wanted in ((False, [5, 3]), (True, [7, 3])):
        cells = plan_cells(table, [0], real=real)
        assert [getattr(cell.config.learner, "epochs") for cell in cells] == wanted  # noqa: B009
    with pytest.raises(ConfigError, match=r"row plain sets learner\.epochs"):
        plan_cells(table, [0], ["learner.epochs=2"])
