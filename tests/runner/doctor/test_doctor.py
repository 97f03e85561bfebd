"""`doctor`: reports of all data sets, JSON output, invalid input."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from runner.doctor.examine import examine, examine_images
from runner.lifelong import main
from tasks.dataset_files import ReadOptions
from tasks.reading import dataset_names, read_dataset
from tests.runner.doctor.doctor_data import VARIANTS, RunDoctor, counted, miniatures_of, tree

# ---- every reader


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_counts_of_every_reader(name: str, variant: str, root: Path, tmp_path: Path) -> None:
    miniature = miniatures_of(name)[variant]
    miniature.build(root)
    derived = tmp_path / "derived"
    options = ReadOptions.model_validate({"derived": str(derived), **miniature.options})
    before = tree(root)
    found = examine([name], root, options)[name]
    assert not derived.exists()
    if not found.splits:
        assert (found.status, found.faults) == ("ok", ())
        assert "the first run extracts" in " ".join(found.notes)
        accepted = options.model_copy(update={"accept_withdrawn": True})
        read_dataset(name, root, accepted)
        made = tree(derived)
        found = examine([name], root, options)[name]
        assert tree(derived) == made
    assert tree(root) == before
    counts = {part: found.splits[part] for part in ("train", "query", "gallery")}
    assert counts == counted(miniature.train, miniature.query, miniature.gallery)
    assert found.status in ("ok", "warning"), found.faults
    opened = examine_images({name: found})[name]
    assert opened.image_paths
    assert opened.unreadable == {}


def test_all_data_sets_below_one_root(root: Path, run_doctor: RunDoctor) -> None:
    for name in dataset_names():
        next(iter(miniatures_of(name).values())).build(root)
    found = run_doctor()
    assert list(found) == dataset_names()
    assert {name for name, each in found.items() if each["status"] == "missing"} == set()
    folders = [each["root"] for each in found.values()]
    assert len(set(folders)) == len(folders)


# ---- the JSON


def test_json_format(market: Path, run_doctor: RunDoctor) -> None:
    assert run_doctor("--dataset", "market1501", "viper") == {
        "market1501": {
            "status": "warning",
            "root": str(market),
            "variant": "v15.09.15",
            "splits": {
                "train": {"images": 12, "identities": 4, "cameras": 3},
                "query": {"images": 4, "identities": 2, "cameras": 2},
                "gallery": {"images": 5, "identities": 3, "cameras": 3},
            },
            "problems": [
                "train has 12 images instead of 12,936, 4 identities instead of 751, 3 cameras "
                "instead of 6; query has 4 images instead of 3,368, 2 identities instead of 750, "
                "2 cameras instead of 6; gallery has 5 images instead of 15,913, 3 identities "
                "instead of 751, 3 cameras instead of 6. If variant v15.09.15 is incomplete, "
                "download or unpack it again.",
                "No part descriptions, which some learners need: put market1501_description.txt "
                "into the data set's folder, next to that folder, or into the root.",
            ],
        },
        "viper": {
            "status": "missing",
            "root": None,
            "variant": None,
            "splits": {},
            "problems": [
                f"VIPeR: not found. Expected cam_a, cam_b under {market.parent}/viper/VIPeR, or "
                "under the folder benchmark.roots.viper."
            ],
        },
    }


def test_complete_data_set_is_ok(market: Path, whole: None, run_doctor: RunDoctor) -> None:
    assert run_doctor("--dataset", "market1501")["market1501"]["status"] == "ok"


def test_deep_adds_opened_images(market: Path, run_doctor: RunDoctor) -> None:
    found = run_doctor("--deep", "--dataset", "market1501")["market1501"]
    assert found["num_opened"] == 21
    assert found["unreadable"] == []
    assert list(found)[-2:] == ["num_opened", "unreadable"]


def test_validation_split_is_counted(run_doctor: RunDoctor, root: Path) -> None:
    miniatures_of("cuhk_pedes")["cuhk_pedes"].build(root)
    splits = run_doctor("--dataset", "cuhk_pedes")["cuhk_pedes"]["splits"]
    assert list(splits) == ["train", "validation", "query", "gallery"]
    assert splits["validation"]["images"] > 0


def test_progress_and_warnings_are_not_on_stdout(
    market: Path, run_doctor: RunDoctor, capsys: pytest.CaptureFixture[str]
) -> None:
    (market / "query" / "notes.txt").write_text("")
    found = run_doctor("--deep", "--dataset", "market1501")  # the whole output parses
    assert any("ignored 1 files" in problem for problem in found["market1501"]["problems"])


def test_progress_bar_on_a_terminal(
    market: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    command = ["doctor", "--json", "--deep", "--data", str(market.parent)]
    assert main([*command, "--dataset", "market1501"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)
    assert "opening images" in captured.err
    assert "21/21" in captured.err


# ---- wrong input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], r"nowhere does not exist: expected the folder of the data sets"),
        (["--data", "nowhere"], r"--data, or set benchmark\.root"),
        (["--data", ".", "--dataset", "market"], r"--dataset: .*did you mean market1501\?"),
        (["--data", ".", "--dataset", "cuhk-sysu"], r"got 'cuhk-sysu'; did you mean cuhk_sysu\?"),
        (["--data", ".", "benchmark.roots.vipr=."], r"benchmark\.roots: .*did you mean viper\?"),
        (
            ["--data", ".", "benchmark.split_files.vipr=s.json"],
            r"split_files: .*did you mean viper",
        ),
        (["--data", ".", "benchmark.rots.viper=."], r"benchmark\.rots.*unknown key"),
        (["--data", ".", "benchmark.cuhk03_boxes=drawn"], r"cuhk03_boxes: .*'labeled'"),
    ],
)
def test_invalid_input(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--json", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(message, captured.err, re.DOTALL), captured.err


def test_default_root_is_that_of_the_configuration(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("LIFELONG_REID_HOME", str(tmp_path))
    assert main(["doctor", "--json", "--dataset", "market1501"]) == 0
    assert json.loads(capsys.readouterr().out)["market1501"]["root"] == str(market)
    assert main(["doctor", "--json", "benchmark.root=elsewhere"]) == 2
    assert f"{tmp_path / 'elsewhere'} does not exist" in capsys.readouterr().err


def test_overrides_may_follow_the_names(market: Path, root: Path, run_doctor: RunDoctor) -> None:
    found = run_doctor("--dataset", "market1501", f"benchmark.roots.market1501={market}")
    assert list(found) == ["market1501"]
