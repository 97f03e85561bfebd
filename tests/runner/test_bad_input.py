"""Invalid input on the command line: one clear message, status 2, no partial results."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.config.run_config import RunConfig
from runner.experiment import read_benchmark
from runner.lifelong import main

MakeArguments = Callable[..., list[str]]
Refused = Callable[..., str]

LIFELONG = Path(__file__).parents[2] / "runner" / "lifelong.py"


@pytest.fixture
def refused(
    tiny_arguments: MakeArguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Refused]:
    """Runs a command that must fail, and returns its error message."""

    def run(*overrides: str, learner: str = "finetune") -> str:
        status = main(tiny_arguments(tmp_path / "runs", learner, *overrides))
        errors = capsys.readouterr().err
        assert status == 2, errors
        assert "Traceback" not in errors
        assert len(errors) < 1200
        return errors

    yield run
    assert not list(tmp_path.rglob("results.json"))
    assert not list(tmp_path.rglob("after-*")), "trained on wrong input"


@pytest.fixture(scope="module")
def synthetic_domain(
    tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of one synthetic domain."""
    benchmark = read_benchmark(tiny_config(tmp_path_factory.mktemp("runs")))
    return Path(benchmark.seen[0].train[0].image_path).parents[1]


@pytest.fixture
def market(synthetic_domain: Path, tmp_path: Path) -> Path:
    """Data set in the layout of Market-1501, with descriptions."""
    root = tmp_path / "market1501"
    shutil.copytree(synthetic_domain, root)
    (root / f"{synthetic_domain.name}_description.txt").rename(root / "market1501_description.txt")
    return root


def on(root: Path) -> tuple[str, str]:
    return "benchmark.name=market1501", f"benchmark.root={root}"


# ---- the configuration


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("benchmark.num_validation_identitys=2", r"did you mean .*num_validation_identities\?"),
        ("sede=1", r"sede: unknown key; did you mean seed\?"),
        ("learner.optimiser.lr=1", r"learner\.optimiser.*unknown key.*learner\.optimizer"),
        ("learner.icar.epochs=3", r"of learner finetune; it belongs to learner vladr"),
        ("learner.name=finetunes", r"learner\.name: expected one of .*did you mean finetune\?"),
        ("learner.epochs=0", r"learner\.epochs: .*greater than or equal to 1.*got 0"),
        ("data.max_bad_share=2", r"data\.max_bad_share: .*less than 1"),
        ("learner.optimizer.lr=fast", r"learner\.optimizer\.lr: .*number.*got 'fast'"),
        ("learner.optimizer.lr_factors={network.hed: 2}", r"lr_factors: pattern 'network\.hed'"),
        ("cluster.num_workers=3", r"cluster\.num_workers: .*the batch .* 8 images .* 3 workers"),
        ("data.persons_per_batch=9", r"data\.persons_per_batch: .* 8, .*plaza, got 9"),
        ("benchmark.num_validation_identities=10", r"num_validation_identities=10 leaves none"),
        ("tracking.uri=./mlruns", r"tracking\.uri: expected http.*sqlite:///"),
        ("seed", r"override 'seed': expected key=value"),
        ("run.name=../elsewhere", r"run\.name: .*pattern"),
    ],
)
def test_invalid_setting(refused: Refused, override: str, message: str) -> None:
    assert re.search(message, refused(override), re.DOTALL)


def test_an_unknown_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--preset", "demo-vladir"]) == 2
    errors = capsys.readouterr().err
    assert "--preset: expected a file or one of " in errors
    assert " demo, " in errors
    assert "did you mean demo-vladr?" in errors


def test_preset_that_is_not_a_mapping(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preset = tmp_path / "list.yaml"
    preset.write_text("- one\n- two\n")
    assert main(["--preset", str(preset)]) == 2
    assert f"{preset}: expected a mapping" in capsys.readouterr().err


def test_more_workers_than_cpus(refused: Refused) -> None:
    errors = refused("data.persons_per_batch=8", "data.images_per_person=8",
                     "cluster.num_workers=64", "cluster.cpus_per_worker=16")  # fmt: skip
    assert re.search(
        r"cluster\.num_workers: 64 workers of 16 CPUs .* do not fit \d+ available CPUs; "
        r"use at most \d workers",
        errors,
    )


def test_the_same_name_with_another_configuration(
    refused: Refused, tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    assert "pattern" in refused("run.name=mine", "learner.optimizer.no_decay=[nothing]")
    errors = refused("run.name=mine", "learner.optimizer.lr=0.1")
    assert re.search(
        r"mine holds a run of another configuration \(learner\.optimizer\.lr: 0\.0005 there, "
        r"0\.1 here.*choose another run\.name, or start over with --fresh",
        errors,
    )


# ---- the data


def test_a_missing_data_root(refused: Refused, tmp_path: Path) -> None:
    errors = refused(*on(tmp_path / "nowhere"))
    nowhere = f"the folder {tmp_path / 'nowhere'} does not exist"
    assert re.search(rf"Market-1501.*: {re.escape(nowhere)}", errors)
    assert errors.count(nowhere) == 1
    assert "Set benchmark.root" in errors


def test_data_sets_missing_for_one_reason_are_one_line(refused: Refused, tmp_path: Path) -> None:
    errors = refused("benchmark.name=lreid-1", f"benchmark.root={tmp_path / 'nowhere'}")
    assert errors.count("does not exist") == 1
    assert re.search(r"Market-1501, .*, SenseReID: the folder", errors)
    assert "Of 12 data sets of lreid-1, 12 are missing" in errors


@pytest.mark.parametrize("num_workers", [0, 2])
def test_missing_gpus_leave_no_run_behind(
    num_workers: int, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    errors = refused("cluster.use_gpu=true", f"cluster.num_workers={num_workers}")
    assert errors.count("CUDA") == 1
    assert f"a CUDA device for each worker, at least {max(1, num_workers)}" in errors
    assert not (tmp_path / "runs").exists()


def test_a_missing_folder(refused: Refused, market: Path) -> None:
    shutil.rmtree(market / "query")
    errors = refused(*on(market))
    assert f"expected query under {market}; found bounding_box_test/, " in errors


def test_an_empty_folder(refused: Refused, market: Path) -> None:
    for path in (market / "bounding_box_train").iterdir():
        path.unlink()
    assert f"{market / 'bounding_box_train'} is empty; expected images" in refused(*on(market))


def test_unreadable_training_image(refused: Refused, market: Path, tmp_path: Path) -> None:
    image = min((market / "bounding_box_train").iterdir())
    image.write_text("not an image")
    errors = refused(*on(market))
    assert re.search(r"market1501: .* unreadable training .* 1 of 32 \(3\.12%\)", errors)
    assert str(image) in errors
    assert "data.max_bad_share" in errors
    (quarantine,) = tmp_path.rglob("quarantine.jsonl")
    assert str(image) in quarantine.read_text()


def test_an_image_without_a_description(refused: Refused, market: Path) -> None:
    image = min((market / "bounding_box_train").iterdir())
    file = market / "market1501_description.txt"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith(image.name)))
    errors = refused(*on(market), learner="vladr")
    assert re.search(rf"description file {re.escape(str(file))} lacks {image.name}", errors)


def test_a_short_line_of_descriptions(refused: Refused, market: Path) -> None:
    file = market / "market1501_description.txt"
    lines = file.read_text().splitlines()
    lines[4] = lines[4].rpartition("\t\t\t")[0]
    file.write_text("\n".join(lines))
    errors = refused(*on(market), learner="vladr")
    assert f"{file}, line 5: expected 5 fields separated by three tabs" in errors


def test_missing_description_file(refused: Refused, market: Path) -> None:
    (market / "market1501_description.txt").unlink()
    errors = refused(*on(market), learner="vladr")
    assert re.search(r"put market1501_description\.txt beside .*learner\.name=finetune", errors)


def test_parts_with_another_number_of_attributes(refused: Refused) -> None:
    errors = refused("learner.num_attributes=6", learner="vladr")
    assert re.search(
        r"learner\.num_attributes: .*plaza has 4 parts; got 6\. Set learner\.descriptions=whole",
        errors,
    )


def test_few_unreadable_images_are_skipped(
    tiny_arguments: MakeArguments, market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run continues and reports them."""
    image = min((market / "bounding_box_train").iterdir())
    image.write_text("not an image")
    test_image = min((market / "query").iterdir())
    test_image.write_text("not an image either")
    arguments = tiny_arguments(tmp_path / "runs", "finetune", *on(market), "data.max_bad_share=0.1")
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "1 unreadable training images, see quarantine.jsonl" in shown
    assert "unreadable test images: {'market1501': 1}; the scores exclude them" in shown
    (quarantine,) = tmp_path.rglob("quarantine.jsonl")
    listed = quarantine.read_text().splitlines()
    assert len(listed) == 2
    assert sum(str(path) in line for path in (image, test_image) for line in listed) == 2
    (results,) = tmp_path.rglob("results.json")
    text = results.read_text()
    assert '"forgetting_mAP": null' in text, "one domain has nothing to forget"
    assert '"unseen_mAP": null' in text
    assert json.loads(text)["num_unreadable_test_images"] == {"market1501": 1}


# ---- where a run is kept, and where it computes


def test_storage_folder_that_cannot_be_created(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    errors = refused(f"storage.root={tmp_path / 'file'}")
    assert re.search(r"storage\.root: cannot write to .*\(Not a directory\); set storage", errors)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_storage_folder(refused: Refused, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert "storage.root: cannot write to" in refused(f"storage.root={locked}")


def test_unwritable_data_folder(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    errors = refused(f"benchmark.root={tmp_path / 'file'}")
    assert re.search(r"cannot generate the synthetic benchmark .* Set benchmark\.root", errors)


def test_a_cluster_that_does_not_answer(
    tiny_arguments: MakeArguments, run_environment: dict[str, str], tmp_path: Path
) -> None:
    """In a process of its own: this one may be connected to Ray already."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(LIFELONG), *tiny_arguments(tmp_path), "cluster.num_workers=1"],
        env=run_environment | {"RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "cluster.address: expected a Ray cluster at '127.0.0.1:1'" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 60
    assert not list(tmp_path.rglob("results.json"))
