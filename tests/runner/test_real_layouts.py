"""Runs over miniature data sets in their real layouts, from configuration alone."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.analysis.cross_evaluation import score, settings_for
from runner.analysis.trained_run import load_run
from runner.config.run_config import RunConfig
from runner.experiment import run_experiment
from tasks.benchmarks import ORDERS
from tasks.reading import read_dataset

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with every data set of lreid-1."""
    root = tmp_path_factory.mktemp("data")
    for name in {*ORDERS["lreid-1"][0], *ORDERS["lreid-1"][1]}:
        module = importlib.import_module(f"tests.tasks.datasets.miniatures.{name}")
        next(iter(module.MINIATURES.values())).build(root)
    return root


def overrides(data: Path, derived: Path, num_validation: int) -> list[str]:
    return [
        f"benchmark.root={data}",
        f"benchmark.derived={derived}",
        f"benchmark.num_validation_identities={num_validation}",
        "data.persons_per_batch=2",
        "learner.epochs=1",
    ]


def test_order_of_the_literature(data: Path, tmp_path: Path, tiny_config: MakeConfig) -> None:
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    given = ["benchmark.name=lreid-1", *overrides(data, tmp_path / "derived", 0)]
    result = run_experiment(tiny_config(tmp_path / "runs", "finetune", *given))
    seen, unseen = ORDERS["lreid-1"]
    assert result.results["domains"] == {"seen": list(seen), "unseen": list(unseen)}
    for row in result.results["scores"]["mAP"]:
        assert all(score is not None for score in row)
    lock = json.loads((result.folder / "protocol.lock.json").read_text())
    assert lock["order"] == list(seen)
    assert lock["domains"]["viper"]["facts"]["split_index"] == 0
    assert lock["domains"]["msmt17"]["variant"] in ("V1", "V2")
    assert str(data) not in json.dumps(lock)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


def test_custom_order(data: Path, tmp_path: Path, tiny_config: MakeConfig) -> None:
    custom = [
        "benchmark.name=custom",
        "benchmark.order=[lpw,market1501,msmt17]",
        "benchmark.unseen=[cuhk02,sensereid]",
        *overrides(data, tmp_path / "derived", 1),
    ]
    result = run_experiment(tiny_config(tmp_path / "runs", "finetune", *custom))
    seen = ["lpw", "market1501", "msmt17"]
    assert result.results["domains"] == {"seen": seen, "unseen": ["cuhk02", "sensereid"]}
    # SenseReID has no validation identities; the average is that of CUHK02.
    summary, validation = result.results["validation_summary"], result.results["validation"]["mAP"]
    assert validation[-1][-1] is None
    assert summary["unseen_mAP"] == validation[-1][-2]


def test_split_with_training_people_in_its_test_is_rejected(
    data: Path, tmp_path: Path, tiny_config: MakeConfig
) -> None:
    given = ["benchmark.name=viper", *overrides(data, tmp_path / "derived", 0)]
    result = run_experiment(tiny_config(tmp_path / "runs", "finetune", *given))
    run = load_run(str(result.folder), "runs")
    same = score(run, settings_for(run, "custom", ["benchmark.order=[viper,cuhk02]"]))
    assert list(same.results["scores"]) == ["viper", "cuhk02"]
    assert same.results["scores"]["viper"]["mAP"] == result.results["scores"]["mAP"][-1][0]
    trained = set(run.lock["domains"]["viper"]["identities"]["train"]["ids"])
    num_refused = 0
    for index in range(2, 20, 2):
        settings = settings_for(run, None, [f"benchmark.split_index={index}"])
        raw = read_dataset("viper", data, settings.benchmark)
        if trained & {record.person_id for record in raw.test.query}:
            num_refused += 1
            with pytest.raises(
                ValueError, match=r"viper: expected test people not used in training, got \d+"
            ):
                score(run, settings)
    assert num_refused
