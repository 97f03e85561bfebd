"""Ablation tables: validation, execution, numbers, estimates of time, and MLflow."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from runner import lifelong
from runner.ablation.cells import plan_cells, read_cells, table_folder
from runner.ablation.mlflow import send_table
from runner.ablation.plot import draw_table
from runner.ablation.quantities import OF_DOMAINS, value_of
from runner.ablation.summary import TableSummary, summarise
from runner.ablation.table_file import load_table, table_names
from runner.ablation.timing import TimeEstimator, makespan, seconds_of
from runner.ablation.view import show, to_csv, to_json, to_markdown
from runner.config.run_config import ConfigError, flatten, load_config
from runner.config.sections import TrackingConfig
from runner.experiment import run_experiment
from runner.results.finished_runs import estimate
from runner.results.published import PublishedResults, load_published
from runner.tracking.mlflow_client import TrackingError

Arguments = Callable[..., list[str]]
Numbers = Callable[[Mapping[str, Any]], dict[str, Any]]
Ablate = Callable[..., tuple[int, str]]

TABLE = """
title: Two rows
description: fine-tuning without and with interpolation
preset: demo-finetune
reference: plain
rows:
  plain: {label: plain}
  mixed: {label: half and half, set: {learner.interpolation.mode: fixed}}
published:
  source: a paper
  rows:
    plain: {seen_mAP: 47.1, unseen_mAP: 28.5}
"""
NOTHING = PublishedResults(sources={}, remarks={}, rows=())
SEEN_MAP, UNSEEN_MAP = OF_DOMAINS.compared[:2]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes the file of a table, with text replaced."""

    def make(old: str = "", new: str = "", text: str = TABLE) -> str:
        assert old in text
        file = tmp_path / "pair.yaml"
        file.write_text(text.replace(old, new) if old else text)
        return str(file)

    return make


def overrides(tiny_arguments: Arguments, storage: Path) -> list[str]:
    """Overrides of a tiny run, without those that a table does not accept."""
    return [each for each in tiny_arguments(storage)[2:] if not each.startswith("cluster.")]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = lifelong.main(["ablate", *arguments])
    captured = capsys.readouterr()
    return status, " ".join((captured.out + captured.err).split())


@pytest.fixture(scope="module")
def finished(
    ray_session: None, tiny_arguments: Arguments, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """Storage folder of a table that was run with seeds 0 and 1, and the command's output."""
    storage = tmp_path_factory.mktemp("finished")
    (storage / "pair.yaml").write_text(TABLE)
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", output)
        status = lifelong.main(
            ["ablate", str(storage / "pair.yaml"), "--seeds", "0,1", "--jobs", "2",
             *overrides(tiny_arguments, storage)]
        )  # fmt: skip
    assert status == 0, output.getvalue()
    return storage, output.getvalue()


@pytest.fixture
def copied(finished: tuple[Path, str], tmp_path: Path) -> Path:
    """Copy of the finished table's storage that a test may change."""
    return Path(shutil.copytree(finished[0], tmp_path / "copied"))


def read_table(storage: Path) -> tuple[Path, dict[str, Any]]:
    (folder,) = (storage / "ablations").iterdir()
    return folder, json.loads((folder / "table.json").read_text())


def summary_of(storage: Path, tiny_arguments: Arguments) -> TableSummary:
    name, table = load_table(str(storage / "pair.yaml"))
    cells = plan_cells(table, [0, 1], overrides(tiny_arguments, storage))
    return summarise(name, table, [0, 1], [], read_cells(cells), NOTHING)


# ---- tables of the project


@pytest.mark.parametrize("name", table_names())
def test_the_projects_tables_are_valid(name: str) -> None:
    _, table = load_table(name)
    cells = plan_cells(table, [0, 1])
    assert len(cells) == 2 * len(table.rows)
    if not name.startswith("orders"):  # need synthetic data
        real = plan_cells(table, [0], real=True)
        learned = "cuhk_pedes" if name.startswith("bdam-") else "lreid-1"
        assert {cell.config.benchmark.name for cell in real} == {learned}


def test_rows_of_the_vladr_ablation() -> None:
    _, table = load_table("vladr-ablation")
    rows = {cell.row: cell.config for cell in plan_cells(table, [0])}
    assert rows["baseline"].learner == load_config("demo-finetune").learner
    assert rows["ida-prototype-relation"].learner == load_config("demo-vladr").learner
    off = load_config("demo-vladr", ["learner.alignment=[]", "learner.losses.cma.weight=0"])
    assert rows["identity-prompts"].learner == off.learner
    assert table.published is not None
    printed = {"clip-reid", "mtad", "cma", "ida-prototype", "global-ida", "random"}
    assert set(table.published.rows) == printed


def test_a_step_of_the_vladr_ladder_changes_one_thing() -> None:
    _, table = load_table("vladr-ablation")
    rows = {cell.row: flatten(cell.config) for cell in plan_cells(table, [0])}
    off = {"learner.losses.cma.weight": 0, "learner.alignment": []}
    texts = "learner.losses.image_text.texts"
    printed = {"learner.alignment": ["prototype"], "learner.prototypes": "online"}
    steps = {
        "mtad": {texts: "identity_attributes"},
        # L_CMA takes the place of L_global as the term that reads the attribute texts.
        "cma": {texts: "identity", "learner.losses.cma.weight": 10},
        "ida-prototype": printed,
        "ida-prototype-relation": {"learner.alignment": ["prototype_relation"]},
        "ida-affinity": {"learner.alignment": ["affinity"]},
        "global-ida": {"learner.granularity": "global"},
        "global-ida-affinity": {"learner.granularity": "global"},
        "random": {"learner.descriptions": "random"},
    }
    assert off.items() <= rows["mtad"].items()
    for name, changes in steps.items():
        before, after = rows[str(table.reference_of(name))], rows[name]
        assert {key: after[key] for key in after if after[key] != before[key]} == changes, name


def test_the_alignment_table_shares_its_runs_with_the_ablation() -> None:
    alignment, ablation = (
        {cell.row: cell.config.run_name for cell in plan_cells(load_table(name)[1], [0])}
        for name in ("vladr-alignment", "vladr-ablation")
    )
    shared = {
        "none": "cma",
        "prototype": "ida-prototype",
        "prototype-relation": "ida-prototype-relation",
        "affinity": "ida-affinity",
    }
    assert {row: alignment[row] for row in shared} == {
        row: ablation[other] for row, other in shared.items()
    }


def test_the_example_in_the_documentation_is_valid(write: Callable[..., str]) -> None:
    page = Path(__file__).parents[3] / "docs" / "ablations.md"
    (example,) = page.read_text(encoding="utf-8").split("```yaml\n")[1:]
    _, table = load_table(write(text=example.partition("```")[0]))
    assert {cell.row for cell in plan_cells(table, [0])} == set(table.rows)


def test_the_documentation_lists_all_tables() -> None:
    page = (Path(__file__).parents[3] / "docs" / "ablations.md").read_text(encoding="utf-8")
    assert [name for name in table_names() if f"| `{name}` |" not in page] == []


def test_the_command_lists_all_tables(capsys: pytest.CaptureFixture[str]) -> None:
    status, output = run(capsys)
    assert status == 0
    assert all(name in output for name in table_names())


# ---- validation


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("label: plain", "lable: plain", r"rows\.plain\.lable: unknown key; did you mean label\?"),
        ("preset: demo", "prest: demo", r"prest: unknown key; did you mean preset\?"),
        ("reference: plain", "reference: plane", r"reference: .*'plane'; did you mean plain\?"),
        ("    plain: {seen", "    plane: {seen", r"published\.rows\.plane: expected a row"),
        ("seen_mAP: 47.1", "seen_map: 47.1", r"published\.rows\.plain\.seen_map"),
        ("demo-finetune", "demo-finetun", r"row plain: .*did you mean demo-finetune\?"),
        ("interpolation.mode", "interpolation.mod", r"row mixed: .*did you mean .*mode\?"),
        ("mode: fixed", "mode: fixt", r"row mixed: learner\.interpolation\.mode.*'fixt'"),
        ("learner.interpolation.mode: fixed", "seed: 1", r"rows\.mixed\.set\.seed"),
        ("learner.interpolation.mode: fixed", "cluster.address: a", r"rows\.mixed\.set\.cluster"),
        (", set: {learner.interpolation.mode: fixed}", "", r"plain and mixed are the same run"),
        ("  mixed:", "  plain:", r"expected YAML; (?s:.*)duplicate key plain"),
        ("  plain: {label: plain}\n", "  Plain: {label: plain}\n", r"rows\.Plain"),
    ],
)  # fmt: skip
def test_an_invalid_table_raises(
    write: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path,
    old: str, new: str, message: str,
) -> None:  # fmt: skip
    file = write(old, new)
    with pytest.raises(ConfigError, match=message):
        plan_cells(load_table(file)[1], [0], [f"storage.root={tmp_path}"])
    status, _ = run(capsys, file, "--seeds", "0", f"storage.root={tmp_path / 'runs'}")
    assert status == 2
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed=3"], "set --seeds"),
        (["run.name=mine"], "default names of runs"),
        (["cluster.num_workers=2"], "set --jobs"),
        (["learner.interpolation.mode=none"], "row mixed sets learner.interpolation.mode"),
        (["learner.interpolation={mode: none}"], "row mixed sets learner.interpolation.mode"),
        (["learner.epoch=2"], "row plain: learner.epoch: unknown key; did you mean learner.epo"),
        (["--seeds", "0,0"], "--seeds: expected different numbers"),
        (["--seeds", "a"], "--seeds: expected numbers like 0,1,2"),
        (["--jobs", "0"], "--jobs: expected at least 1"),
        (["--rows", "mixt"], "expected some of plain, mixed; got 'mixt'; did you mean mixed?"),
        (["--real"], "--real: row plain has no real_preset"),
    ],
)  # fmt: skip
def test_invalid_arguments_fail(
    write: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path,
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    status, output = run(capsys, write(), *arguments, f"storage.root={tmp_path / 'runs'}")
    assert status == 2
    assert message in output
    assert not (tmp_path / "runs").exists()


def test_an_unknown_table_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    status, output = run(capsys, "vladr-ablatio")
    assert status == 2
    assert "did you mean vladr-ablation?" in output


def test_invalid_data_fail_before_the_first_run(
    write: Callable[..., str], capsys: pytest.CaptureFixture[str], tiny_arguments: Arguments,
    tmp_path: Path,
) -> None:  # fmt: skip
    file = write("learner.interpolation.mode: fixed", "data.persons_per_batch: 9")
    given = overrides(tiny_arguments, tmp_path / "runs")
    given = [each for each in given if "persons_per_batch" not in each]
    status, output = run(capsys, file, *given)
    assert status == 2
    assert "data.persons_per_batch: expected at most 8" in output
    assert not (tmp_path / "runs").exists()


# ---- execution


def test_cells_equal_separate_runs(
    finished: tuple[Path, str], tiny_arguments: Arguments, numbers_of: Numbers, tmp_path: Path
) -> None:
    storage, _ = finished
    _, table = load_table(str(storage / "pair.yaml"))
    cells = plan_cells(table, [0, 1], overrides(tiny_arguments, storage))
    assert [cell.key for cell in cells] == [("plain", 0), ("mixed", 0), ("plain", 1), ("mixed", 1)]
    for cell, setting in ((cells[0], []), (cells[3], ["learner.interpolation.mode=fixed"])):
        arguments = tiny_arguments(tmp_path, "finetune", *setting, f"seed={cell.seed}")
        alone = run_experiment(load_config(arguments[1], arguments[2:]))
        results = cell.storage.results()
        assert results is not None
        assert alone.folder.name == cell.storage.folder.name
        assert numbers_of(results) == numbers_of(alone.results)
        assert results["num_starts"] == 1


def test_output_and_files(finished: tuple[Path, str]) -> None:
    storage, output = finished
    assert "4 runs (2 rows x 2 seeds): 0 finished, 4 to run" in output
    assert "4/4" in output
    assert output.count("mAP/R1 seen") == 4
    folder, table = read_table(storage)
    assert folder.name.startswith("pair-")
    assert {each.name for each in folder.iterdir()} == {
        "table.json", "table.csv", "table.md", "table.png",
    }  # fmt: skip
    assert [len(row["runs"]) for row in table["rows"]] == [2, 2]
    assert len(table["protocol_locks"]) == 1
    assert (table["missing"], table["failures"]) == ([], [])
    with Image.open(folder / "table.png") as picture:
        assert picture.width > 800
    page = (folder / "table.md").read_text()
    assert "| half and half | 0,1 |" in page
    assert "Published: a paper." in page
    assert str(storage) not in page


def test_a_finished_table_runs_nothing(
    copied: Path, capsys: pytest.CaptureFixture[str], tiny_arguments: Arguments
) -> None:
    before = {each: each.stat().st_mtime_ns for each in copied.glob("*/results.json")}
    folder, table = read_table(copied)
    shutil.rmtree(folder)
    given = ["--seeds", "0,1", *overrides(tiny_arguments, copied)]
    status, output = run(capsys, str(copied / "pair.yaml"), *given)
    assert status == 0
    assert "All 4 runs were already finished." in output
    assert {each: each.stat().st_mtime_ns for each in copied.glob("*/results.json")} == before
    assert read_table(copied) == (folder, table)


def test_only_missing_cells_run(
    copied: Path, capsys: pytest.CaptureFixture[str], tiny_arguments: Arguments, numbers_of: Numbers
) -> None:
    given = [str(copied / "pair.yaml"), "--seeds", "0,1", *overrides(tiny_arguments, copied)]
    lost = copied / read_table(copied)[1]["rows"][1]["runs"][0]["run"]
    results = json.loads((lost / "results.json").read_text())
    (lost / "results.json").unlink()
    before = {each: each.stat().st_mtime_ns for each in copied.glob("*/results.json")}
    status, output = run(capsys, *given, "--dry-run")
    assert status == 0
    assert "3 finished, 1 to run, 1 of them to resume" in output
    assert "Not finished: mixed seed 0." in output
    assert not (lost / "results.json").exists()
    assert [len(row["runs"]) for row in read_table(copied)[1]["rows"]] == [2, 1]
    assert run(capsys, *given, "--rows", "plain")[0] == 0
    assert not (lost / "results.json").exists()
    status, output = run(capsys, *given)
    assert status == 0
    assert "1/1 mixed seed 0: mAP/R1 seen" in output
    again = json.loads((lost / "results.json").read_text())
    assert numbers_of(again) == numbers_of(results)
    assert again["num_starts"] == 2
    assert before == {each: each.stat().st_mtime_ns for each in before}


def test_a_failing_cell_does_not_stop_others(
    copied: Path, capsys: pytest.CaptureFixture[str], tiny_arguments: Arguments
) -> None:
    rows = "  broken: {set: {learner.optimizer.lr: 1.0e+30}}\n"
    rows += "  late: {set: {learner.losses.triplet.weight: 0}}\n"
    (copied / "pair.yaml").write_text(TABLE.replace("published:", rows + "published:"))
    shutil.rmtree(copied / "ablations")
    given = [str(copied / "pair.yaml"), "--seeds", "0", "--jobs", "1"]
    status, output = run(capsys, *given, *overrides(tiny_arguments, copied))
    assert status == 1
    assert "1/2 broken seed 0: failed: FloatingPointError: expected a finite loss" in output
    assert "2/2 late seed 0: mAP/R1 seen" in output
    _, table = read_table(copied)
    (failure,) = table["failures"]
    assert (failure["row"], failure["seed"]) == ("broken", 0)
    assert failure["error"].startswith("FloatingPointError: expected a finite loss")
    assert [len(row["runs"]) for row in table["rows"]] == [1, 1, 0, 1]


def test_changed_data_fail(
    copied: Path, capsys: pytest.CaptureFixture[str], tiny_arguments: Arguments
) -> None:
    folders = [copied / each["run"] for each in read_table(copied)[1]["rows"][0]["runs"]]
    lock = json.loads((folders[0] / "protocol.lock.json").read_text())
    lock["domains"]["plaza"]["records_sha256"]["test_gallery"] = "0" * 64
    (folders[0] / "protocol.lock.json").write_text(json.dumps(lock))
    given = [str(copied / "pair.yaml"), "--seeds", "0,1", *overrides(tiny_arguments, copied)]
    status, output = run(capsys, *given)
    assert status == 1, "different protocols must give a failure status"
    assert "Protocol locks differ: plaza" in output
    summary = summary_of(copied, tiny_arguments)
    assert list(summary.paired(summary.row("mixed"), SEEN_MAP).by_seed) == [1]
    assert list(summary.paired(summary.row("mixed"), UNSEEN_MAP).by_seed) == [0, 1]
    (folders[1] / "results.json").unlink()
    status, output = run(capsys, *given)
    assert status == 2
    assert "row plain: seed 0 is finished under another protocol lock (plaza" in output


# ---- numbers


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8))
def test_estimates_equal_numpy(values: list[float]) -> None:
    result = estimate(values)
    assert result is not None
    assert result.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert result.deviation == pytest.approx(np.std(values, ddof=1), abs=1e-6)


def test_estimates_of_few_values() -> None:
    assert estimate([]) is None
    assert estimate([1.0, None]) is None
    single = estimate([3.0])
    assert single is not None
    assert (single.mean, single.deviation) == (3.0, None)


def test_numbers_equal_naive_arithmetic(
    finished: tuple[Path, str], tiny_arguments: Arguments
) -> None:
    storage, _ = finished
    summary = summary_of(storage, tiny_arguments)
    table = {row["name"]: row for row in to_json(summary)["rows"]}
    lines = {line["row"]: line for line in csv.DictReader(io.StringIO(to_csv(summary)))}
    results = {
        (name, each["seed"]): json.loads((storage / each["run"] / "results.json").read_text())
        for name, row in table.items()
        for each in row["runs"]
    }
    for name in ("seen_mAP", "seen_R1", "unseen_mAP", "unseen_R1", "forgetting_mAP"):
        plain, mixed = (
            np.array([results[row, seed]["summary"][name] for seed in (0, 1)])
            for row in ("plain", "mixed")
        )
        expected = {"mean": mixed.mean(), "deviation": mixed.std(ddof=1)}
        assert table["mixed"]["estimates"][name] == pytest.approx(expected)
        assert float(lines["mixed"][name]) == pytest.approx(mixed.mean())
        difference = table["mixed"]["differences"][name]
        assert list(difference["by_seed"].values()) == pytest.approx(list(mixed - plain))
        assert difference["mean"] == pytest.approx((mixed - plain).mean())
        assert difference["deviation"] == pytest.approx((mixed - plain).std(ddof=1))
        assert float(lines["mixed"][f"{name}_difference"]) == pytest.approx(difference["mean"])
    assert table["plain"]["differences"] == {}
    first = results["plain", 0]
    costs = table["plain"]["runs"][0]
    assert costs["num_trainable_parameters"] == first["num_trainable_parameters"]
    assert costs["train_images_per_s"] == first["timings"]["train_images_per_s"]
    assert 0 < first["num_trainable_parameters"] <= first["num_parameters"]


def test_missing_seeds_are_excluded_from_differences(
    finished: tuple[Path, str], tiny_arguments: Arguments
) -> None:
    summary = summary_of(finished[0], tiny_arguments)
    runs = {key: each for key, each in summary.runs if key != ("plain", 0)}
    partial = summarise("pair", summary.table, [0, 1], [], runs, NOTHING)
    assert partial.missing == [("plain", 0)]
    pair = partial.paired(partial.row("mixed"), SEEN_MAP)
    assert list(pair.by_seed) == [1]
    assert pair.estimate is not None
    assert pair.estimate.deviation is None
    text = to_markdown(partial)
    assert "Not finished: plain seed 0." in text
    assert "Rows have different seeds" in text
    assert "Rows have different seeds" not in to_markdown(summary)
    labels = [each.get_text() for each in draw_table(partial).axes[0].get_yticklabels()]
    assert [label.rpartition("(")[2] for label in labels] == ["seeds 1)", "seeds 0,1)"]


def test_published_numbers_are_shown(finished: tuple[Path, str], tiny_arguments: Arguments) -> None:
    summary = summary_of(finished[0], tiny_arguments)
    console = Console(file=io.StringIO(), width=100)
    show(console, summary)
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    (line,) = [each for each in text.splitlines() if "47.1" in each]
    assert line.split()[0] == "plain"
    assert "28.5" in line
    assert "Published: a paper." in text
    assert "Published numbers are of photographs" in text


def test_published_results_are_of_the_same_benchmark(
    finished: tuple[Path, str], tiny_arguments: Arguments
) -> None:
    summary = summary_of(finished[0], tiny_arguments)
    row = summary.table.rows["mixed"].model_copy(update={"published_method": "VLADR"})
    table = summary.table.model_copy(update={"rows": {**summary.table.rows, "mixed": row}})
    runs = dict(summary.runs)
    assert summarise("pair", table, [0], [], runs, load_published()).row("mixed").published is None
    literature = load_published()
    fitting = literature.rows[0].model_copy(
        update={"benchmark": "synthetic", "domains": {}, "order": ("plaza", "station")}
    )
    literature = literature.model_copy(update={"rows": (fitting,)})
    published = summarise("pair", table, [0], [], runs, literature).row("mixed").published
    assert published is not None
    assert published.scores["seen_mAP"] == fitting.seen_average["mAP"]
    assert published.source == literature.sources[fitting.source]


def test_all_quantities_have_values(finished: tuple[Path, str], tiny_arguments: Arguments) -> None:
    for _, each in summary_of(finished[0], tiny_arguments).runs:
        assert all(value_of(each, quantity) is not None for quantity in OF_DOMAINS.all)


# ---- names and times


def test_variants_of_a_table_do_not_overwrite_one_another() -> None:
    _, table = load_table("orders")
    rows = {
        name: row.model_copy(update={"real_preset": row.preset.removeprefix("demo-")})
        for name, row in list(table.rows.items())[:2]
        if row.preset
    }
    table = table.model_copy(update={"rows": rows})

    def folder(*given: str, real: bool = False) -> str:
        cells = plan_cells(table, [0, 1], given, real=real)
        return table_folder("orders", cells, given, real).name

    assert folder() == folder("storage.root=/elsewhere") == "orders"
    names = {folder(), folder("data.persons_per_batch=8"), folder(real=True)}
    names.add(folder("benchmark.root=/data", real=True))
    assert len(names) == 3


def test_makespan_of_a_queue() -> None:
    assert makespan([3, 1, 1, 1], 2) == 3
    assert makespan([1, 1, 1, 3], 2) == 4
    assert makespan([], 2) == 0


def test_times_are_estimated_from_row_then_learner_then_table(
    finished: tuple[Path, str], tiny_arguments: Arguments
) -> None:
    runs = dict(summary_of(finished[0], tiny_arguments).runs)
    learners = {"plain": "finetune", "mixed": "finetune", "third": "finetune", "other": "vladr"}
    assert TimeEstimator(None, {}, learners).expected_s("plain") is None
    assert TimeEstimator(60.0, {}, learners).expected_s("plain") == 60
    times = TimeEstimator(60.0, runs, learners)
    durations = [seconds_of(runs["plain", seed].results) for seed in (0, 1)]
    assert times.expected_s("plain") == pytest.approx(np.mean(durations))
    everything = pytest.approx(np.mean([seconds_of(each.results) for each in runs.values()]))
    assert times.expected_s("third") == everything
    assert times.expected_s("other") == 60, "other learners are not used"
    assert TimeEstimator(None, runs, learners).expected_s("other") == everything


# ---- MLflow


def test_a_table_is_sent_to_mlflow_once(
    copied: Path, tiny_arguments: Arguments, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    summary = summary_of(copied, tiny_arguments)
    folder, _ = read_table(copied)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(TrackingError, match="no answer"):
        send_table(folder, summary, TrackingConfig(uri=dead))
    tracking = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db")
    assert send_table(folder, summary, tracking) == 5
    assert send_table(folder, summary, tracking) == 0
    client = MlflowClient(tracking.uri)
    experiment = client.get_experiment_by_name(tracking.experiment)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 5
    (parent,) = [each for each in runs if "mlflow.parentRunId" not in each.data.tags]
    assert parent.info.status == "FINISHED"
    mean = summary.row("mixed").estimate(SEEN_MAP)
    assert mean is not None
    assert parent.data.metrics["mixed.seen_mAP.mean"] == mean.mean
    files = {each.path for each in client.list_artifacts(parent.info.run_id)}
    assert files == {"table.json", "table.csv", "table.md", "table.png"}
    children = {
        (each.data.params["row"], int(each.data.params["seed"])): each.data.metrics
        for each in runs
        if each.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    }
    assert set(children) == {key for key, _ in summary.runs}
    for key, each in summary.runs:
        assert children[key]["forgetting_mAP"] == each.results["summary"]["forgetting_mAP"]
    # A changed cell updates its child run and the parent.
    lost = dict(summary.runs)["plain", 1].folder
    results = json.loads((lost / "results.json").read_text())
    results["summary"]["seen_mAP"] += 1
    (lost / "results.json").write_text(json.dumps(results))
    assert send_table(folder, summary_of(copied, tiny_arguments), tracking) == 2
    assert len(client.search_runs([experiment.experiment_id])) == 5
    # An unavailable server does not fail the command.
    given = overrides(tiny_arguments, copied)
    given = [each for each in given if not each.startswith("tracking.")]
    arguments = [str(copied / "pair.yaml"), "--seeds", "0,1", *given, f"tracking.uri={dead}"]
    status, output = run(capsys, *arguments)
    assert status == 0
    assert "The table is written; run the same command again" in output


# ---- killed processes


def is_in_second_run(storage: Path) -> bool:
    """Whether one run is finished and another has learned its first domain."""
    folders = [each.parent for each in storage.glob("*/config.yaml")]
    finished = [each for each in folders if (each / "results.json").exists()]
    begun = [each for each in folders if list(each.glob("checkpoints/position-001*"))]
    return bool(finished and set(begun) - set(finished))


@pytest.mark.slow
def test_a_killed_table_resumes(
    write: Callable[..., str], tiny_arguments: Arguments, run_environment: dict[str, str],
    numbers_of: Numbers, tmp_path: Path,
) -> None:  # fmt: skip
    storage = tmp_path / "runs"
    given = [each for each in overrides(tiny_arguments, storage) if "epochs" not in each]
    command = [sys.executable, str(Path(lifelong.__file__)), "ablate", write(), "--seeds", "0,1"]
    # Long enough that the second run does not end before the processes are killed.
    command += ["--jobs", "1", "learner.epochs=12", *given]
    log = tmp_path / "log"
    with log.open("wb") as output:
        driver = psutil.Popen(command, env=run_environment, stdout=output, stderr=output)
        deadline = time.monotonic() + 200
        while not is_in_second_run(storage):
            assert driver.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        # Kill all processes: a worker that outlives its driver could finish the second run.
        family = [driver, *driver.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    _, left = psutil.wait_procs(family, timeout=60)
    assert not left, "a killed process is still alive"
    before = {each: each.stat().st_mtime_ns for each in storage.glob("*/results.json")}
    assert len(before) == 1
    done = subprocess.run(
        command, env=run_environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 finished, 3 to run, 1 of them to resume" in done.stdout
    assert before == {each: each.stat().st_mtime_ns for each in before}
    starts = [json.loads(each.read_text())["num_starts"] for each in storage.glob("*/results.json")]
    assert sorted(starts) == [1, 1, 1, 2]
