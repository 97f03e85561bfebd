"""Table `bdam-styles --real` on the miniature of CUHK-PEDES, with an endpoint of the test."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import experiment, lifelong
from runner.ablation.cells import plan_cells
from runner.ablation.table_file import load_table
from runner.experiment import run_experiment
from tests.runner.descriptions.endpoint import DUAL_ANSWERS, Endpoint, serving
from tests.tasks.datasets.miniatures.cuhk_pedes import MINIATURES

TINY = (
    *("backbone.image_tower=null", "backbone.dropout=0"),
    *("backbone.name=tiny-clip", "backbone.weights=random", "backbone.image_height=64"),
    *("backbone.image_width=32", "precision=float32", "cluster.use_gpu=false", "tracking.uri=null"),
    *("data.persons_per_batch=2", "data.images_per_person=2", "learner.epochs=1"),
    *("learner.text_tower=frozen", "learner.decoupling.dim=16", "learner.decoupling.num_layers=1"),
    *("learner.decoupling.num_heads=2", "learner.fusion.mixer=simple", "learner.fusion.dim=16"),
    *("benchmark.style_options.encoder=tiny-clip", "benchmark.style_options.num_styles=2"),
)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    with serving() as endpoint:
        endpoint.answers = DUAL_ANSWERS
        yield endpoint


def commands_in(output: str) -> dict[str, list[str]]:
    """Words of the printed `describe` commands by their rows."""
    found: dict[str, list[str]] = {}
    for line in output.splitlines():
        rows, _, command = line.strip().partition(":  python runner/lifelong.py ")
        if command:
            found[rows] = shlex.split(command)
    return found


def test_commands_write_the_texts_that_rows_find(
    endpoint: Endpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(experiment, "write_figures", lambda *_: None)
    MINIATURES["cuhk_pedes"].build(tmp_path / "data")
    folders = [f"benchmark.root={tmp_path}/data", f"benchmark.derived={tmp_path}/derived"]
    given = [*TINY, *folders, f"storage.root={tmp_path}/runs"]
    table = ["ablate", "bdam-styles", "--real", "--seeds", "0", *given]

    assert lifelong.main(table) == 2
    refused = commands_in(capsys.readouterr().err)
    assert set(refused) == set(load_table("bdam-styles")[1].rows)
    assert not (tmp_path / "runs").exists()
    assert lifelong.main([*table, "--dry-run"]) == 0
    assert commands_in(capsys.readouterr().out) == refused

    colours = {"none": "red", "kmeans": "blue"}
    for row, colour in colours.items():
        endpoint.answers = {
            key: text.replace("black", colour) for key, text in DUAL_ANSWERS.items()
        }
        words = [{"URL": endpoint.url, "NAME": "tiny"}.get(each, each) for each in refused[row]]
        assert lifelong.main([*words, "--key-variable", "none"]) == 0
    capsys.readouterr()
    assert lifelong.main([*table, "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert set(commands_in(output)) == set(refused) - set(colours)
    assert "--rows none kmeans" in output

    _, definition = load_table("bdam-styles")
    for cell in plan_cells(definition, [0], given, real=True):
        if cell.row in colours:
            run_experiment(cell.config)
    assert lifelong.main([*table, "--rows", "none", "kmeans"]) == 0
    assert "All 2 runs were already finished." in capsys.readouterr().out
    (folder,) = (tmp_path / "runs" / "ablations").glob("bdam-styles-*")
    rows = {each["name"]: each for each in json.loads((folder / "table.json").read_text())["rows"]}
    assert rows["dbscan"]["published"]["scores"]["seen_mAP"] == 72.61
    for row in colours:
        run = tmp_path / "runs" / rows[row]["runs"][0]["run"]
        lock = json.loads((run / "protocol.lock.json").read_text())
        facts = lock["domains"]["cuhk_pedes"]["facts"]
        assert (facts["style_method"], facts["style_encoder"]) == (row, "tiny-clip:warm")
        assert facts["text_writer"] == "openai/tiny"
