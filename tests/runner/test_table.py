"""Tables on the command line: checks, template, export, and runs on exported tables."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from runner.config.run_config import RunConfig, load_config
from runner.descriptions.images import find_images
from runner.experiment import run_experiment
from runner.lifelong import main
from tasks.benchmarks import read_domains
from tasks.table_export import write_table
from tests.runner.conftest import MakeConfig
from tests.tasks.datasets.miniatures.table import paint_rows, shop_rows, write_csv


def doctor(file: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict]:
    assert main(["doctor", "--json", "--table", str(file), *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_doctor_counts_each_domain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {**row, "domain": name, "image_path": f"{name}/{row['image_path']}"}
        for name in ("shop", "mall")
        for row in shop_rows()
    ]
    paint_rows(tmp_path, rows)
    write_csv(tmp_path / "t.csv", rows)
    found = doctor(tmp_path / "t.csv", capsys, "--deep")
    assert list(found) == ["shop", "mall"]
    assert found["mall"]["status"] == "ok"
    assert found["mall"]["splits"]["train"] == {"images": 8, "identities": 4, "cameras": 2}
    assert found["mall"]["num_opened"] == 12


def test_doctor_announces_one_domain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paint_rows(tmp_path, shop_rows())
    write_csv(tmp_path / "t.csv", shop_rows())
    found = doctor(tmp_path / "t.csv", capsys)
    assert "One domain" in found["table"]["problems"][0]


def test_doctor_lists_all_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(tmp_path / "t.csv", [{**row, "camera_id": "[red]1"} for row in shop_rows()])
    (report,) = doctor(tmp_path / "t.csv", capsys).values()
    assert report["status"] == "broken"
    assert ["12 that do not exist" in report["problems"][0], len(report["problems"])] == [True, 2]
    assert main(["doctor", "--table", str(tmp_path / "t.csv")]) == 0
    assert "got only '[red]1'" in " ".join(capsys.readouterr().out.split())


def test_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "t.csv")
    assert main(["doctor", "--table", file, "--template"]) == 0
    assert Path(file).read_text().startswith("image_path,person_id,camera_id,split,domain,caption")
    assert main(["doctor", "--table", file, "--template"]) == 2
    assert main(["doctor", "--template"]) == 2
    assert "expected --table FILE" in capsys.readouterr().err


def test_missing_table_stops_the_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--table", str(tmp_path / "t.csv")]) == 2
    assert "expected a CSV or Parquet file, which does not exist" in capsys.readouterr().err


def on_table(config: RunConfig, file: Path) -> RunConfig:
    """Return the configuration of the same run on an exported table."""
    seen, unseen = read_domains(config.benchmark)
    write_table([*seen, *unseen], file)
    section = config.model_dump(mode="json")
    section["benchmark"] |= {
        "name": "table",
        "table": {"file": str(file)},
        "order": [raw.name for raw in seen],
        "unseen": [raw.name for raw in unseen],
    }
    return RunConfig.model_validate(section)


@pytest.mark.parametrize("learner", ["finetune", "vladr"])
def test_a_run_on_an_exported_table_has_the_same_scores(
    learner: str,
    tiny_config: MakeConfig,
    numbers_of: Callable[[Mapping[str, Any]], dict[str, Any]],
    no_figures: None,
    tmp_path: Path,
) -> None:
    config = tiny_config(tmp_path / "runs", learner)
    first = run_experiment(config).results
    second = run_experiment(on_table(config, tmp_path / "demo.csv")).results
    assert second["benchmark"] == "table"
    assert second["chance"] == first["chance"]
    assert numbers_of(second) == numbers_of(first)


def test_write_table_prints_overrides_that_read_the_table(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a b.csv"
    sizes = ["benchmark.synthetic.num_seen_domains=1", "benchmark.synthetic.num_unseen_domains=1"]
    sizes += ["benchmark.synthetic.num_train_identities=4", "benchmark.synthetic.supersampling=1"]
    sizes += ["benchmark.synthetic.num_test_identities=2", "benchmark.synthetic.num_cameras=2"]
    assert main(["write-table", str(file), "--data", str(tmp_path), *sizes]) == 0
    printed = capsys.readouterr().out
    overrides = shlex.split(printed.partition("to use it: ")[2])
    settings = load_config("demo", overrides).benchmark
    seen, unseen = read_domains(settings)
    assert [raw.name for raw in (*seen, *unseen)] == ["plaza", "mall"]


def test_describe_refuses_tables() -> None:
    with pytest.raises(ValueError, match=r"got 'table:shop'; describe a folder by --data"):
        find_images("table:shop", None, "all", load_config("demo", []).benchmark)
