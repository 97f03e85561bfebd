"""`doctor` on data sets that are elsewhere, incomplete or damaged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.doctor.examine import NUM_LISTED, examine, examine_images
from runner.lifelong import main
from tasks.dataset_files import ReadOptions
from tasks.datasets import dukemtmc, market1501
from tasks.text.descriptions import format_descriptions
from tests.runner.doctor.doctor_data import MARKET, RunDoctor, damage, miniatures_of
from tests.tasks.datasets.miniatures.market1501 import build_market_layout
from tests.tasks.datasets.miniatures.painting import paint

# ---- where things are


def test_a_deeper_folder_is_named(root: Path, run_doctor: RunDoctor) -> None:
    build_market_layout(root / "downloads" / "from the web" / MARKET)
    found = run_doctor()
    assert {each["status"] for each in found.values()} == {"missing"}
    folder = root / "downloads" / "from the web" / MARKET
    assert found["market1501"]["problems"] == [
        f"Market-1501: found in a deeper folder: set benchmark.roots.market1501={folder}"
    ]
    # It has the layout of these as well, but another name.
    for name in ("dukemtmc", "lpw"):
        assert "benchmark.roots." + name + "=" not in found[name]["problems"][0]


def test_suggested_override_works(root: Path, run_doctor: RunDoctor) -> None:
    build_market_layout(root / "downloads" / MARKET)
    (problem,) = run_doctor("--dataset", "market1501")["market1501"]["problems"]
    (override,) = re.findall(r"set (benchmark\.roots\.\S+)", problem)
    assert run_doctor("--dataset", "market1501", override)["market1501"]["status"] == "warning"


def test_same_layout_of_another_data_set_is_ignored(market: Path, run_doctor: RunDoctor) -> None:
    (problem,) = run_doctor()["dukemtmc"]["problems"]
    assert problem.startswith("DukeMTMC-reID: not found. Expected bounding_box_train")


def test_a_root_that_is_itself_a_data_set(market: Path, run_doctor: RunDoctor, whole: None) -> None:
    found = run_doctor(at=market)
    assert found["market1501"]["status"] == "ok"
    assert {found[name]["status"] for name in found if name != "market1501"} == {"missing"}
    assert found["dukemtmc"]["problems"] == [f"DukeMTMC-reID: not found; {market} is Market-1501."]


def test_a_root_that_may_be_either_of_two(
    market: Path, run_doctor: RunDoctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dukemtmc, "read", market1501.read)
    found = run_doctor("--dataset", "market1501", "dukemtmc", at=market)
    for report in found.values():
        assert report["status"] == "warning"
        assert "may be Market-1501 or DukeMTMC-reID" in " ".join(report["problems"])


def test_an_own_folder_that_does_not_exist(
    market: Path, run_doctor: RunDoctor, tmp_path: Path
) -> None:
    nowhere = tmp_path / "nowhere"
    found = run_doctor("--dataset", "viper", f"benchmark.roots.viper={nowhere}")["viper"]
    assert found["status"] == "missing"
    assert f"{nowhere} does not exist. Set benchmark.roots.viper" in found["problems"][0]


def test_root_is_optional_if_each_data_set_has_a_folder(
    market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["doctor", "--json", "--data", str(tmp_path / "nowhere"), "--dataset", "market1501"]
    assert main([*command, f"benchmark.roots.market1501={market}"]) == 0
    assert json.loads(capsys.readouterr().out)["market1501"]["root"] == str(market)


def test_relative_root_is_reported_as_absolute(
    market: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(market.parents[1])
    assert main(["doctor", "--json", "--data", "data", "--dataset", "market1501"]) == 0
    assert json.loads(capsys.readouterr().out)["market1501"]["root"] == str(market)


# ---- what is wrong


def test_a_data_set_that_lacks_a_part_is_broken(market: Path, run_doctor: RunDoctor) -> None:
    for file in (market / "query").iterdir():
        file.unlink()
    (market / "query").rmdir()
    found = run_doctor()["market1501"]
    assert (found["status"], found["root"]) == ("broken", str(market))
    assert f"expected query under {market}; found" in found["problems"][0]


def test_message_of_a_reader_is_reported(market: Path, run_doctor: RunDoctor) -> None:
    for file in (market / "query").iterdir():
        file.rename(file.with_name(f"image {file.name}"))
    found = run_doctor()["market1501"]
    assert (found["status"], found["root"]) == ("broken", str(market))
    assert "none of the 4 files in" in found["problems"][0]


def test_failing_reader_does_not_hide_other_data_sets(
    market: Path, root: Path, run_doctor: RunDoctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("frame")

    miniatures_of("viper")["viper"].build(root)
    monkeypatch.setattr(market1501, "read", fail)
    found = run_doctor("--dataset", "market1501", "viper")
    assert found["market1501"]["problems"] == ["cannot be read: KeyError: 'frame'"]
    assert found["market1501"]["status"] == "broken"
    assert found["viper"]["splits"]


def test_withdrawn_data_set_is_examined(root: Path, whole: None, run_doctor: RunDoctor) -> None:
    miniatures_of("dukemtmc")["dukemtmc"].build(root)
    found = run_doctor("--dataset", "dukemtmc")["dukemtmc"]
    assert found["splits"]["train"]["images"] > 0
    note = "DukeMTMC-reID was withdrawn by its authors in 2019"
    assert f"{note}; runs need benchmark.accept_withdrawn=true." in found["problems"]
    accepted = run_doctor("--dataset", "dukemtmc", "benchmark.accept_withdrawn=true")["dukemtmc"]
    assert f"{note}." in accepted["problems"]
    assert found["status"] == accepted["status"]


def test_notes_do_not_change_the_status(root: Path, whole: None, run_doctor: RunDoctor) -> None:
    folder = root / "DukeMTMC-reID"
    for part, people in {"bounding_box_train": (2, 7, 8, 9), "query": (1, 3)}.items():
        for person in people:
            for camera in (1, 2) if part == "query" else (1, 2, 3):
                paint(folder / part / f"{person:04d}_c{camera}_f0000001.jpg", person)
    for person, camera in ((1, 1), (1, 2), (3, 1), (3, 2), (10, 3)):
        paint(folder / "bounding_box_test" / f"{person:04d}_c{camera}_f0000002.jpg", person)
    found = run_doctor("--dataset", "dukemtmc")["dukemtmc"]
    assert found["status"] == "ok", found["problems"]
    assert "withdrawn" in found["problems"][0]


def test_queries_without_match_are_reported(
    market: Path, whole: None, run_doctor: RunDoctor
) -> None:
    (market / "bounding_box_test" / "0003_c1s1_000002_01.jpg").rename(
        market / "bounding_box_test" / "0003_c2s1_000003_01.jpg"
    )
    found = run_doctor("--dataset", "market1501")["market1501"]
    assert found["status"] == "warning"
    assert found["problems"][0].startswith(
        "1 of 4 queries have no image of their person by another camera in the gallery"
    )


def test_people_in_training_and_test(market: Path, whole: None, run_doctor: RunDoctor) -> None:
    for folder, person in (("query", 1), ("bounding_box_test", 1)):
        for file in (market / folder).glob(f"{person:04d}_*"):
            file.rename(file.with_name(file.name.replace("0001_", "0007_")))
    found = run_doctor("--dataset", "market1501")["market1501"]
    assert found["status"] == "warning"
    assert found["problems"][0].startswith(
        "1 people (the first is 7) are in training and test images"
    )


def test_counts_of_another_variant_are_not_compared(root: Path, run_doctor: RunDoctor) -> None:
    miniatures_of("msmt17")["msmt17"].build(root)
    assert run_doctor("--dataset", "msmt17")["msmt17"]["status"] == "warning"
    found = run_doctor("--dataset", "msmt17", "benchmark.msmt17_val_in_train=true")["msmt17"]
    assert found["status"] == "ok"
    assert "another benchmark.msmt17_val_in_train" in found["problems"][0]


# ---- descriptions


def describe(market: Path, lines: Callable[[list[str]], list[str]]) -> Path:
    file = market / "market1501_description.txt"
    names = sorted(path.name for path in (market / "bounding_box_train").iterdir())
    parts = dict.fromkeys(names, ("a cap", "a coat", "jeans", "boots"))
    file.write_text("\n".join(lines(format_descriptions(parts).splitlines())) + "\n")
    return file


def test_descriptions_of_all_training_images(
    market: Path, whole: None, run_doctor: RunDoctor
) -> None:
    file = describe(market, lambda lines: [*lines, *lines[:3]])
    found = run_doctor("--dataset", "market1501")["market1501"]
    assert found["status"] == "ok"
    assert found["problems"] == [
        f"{file} describes all 12 training images.",
        f"3 lines of {file} repeat an image; the last line of each image is used.",
    ]


def test_descriptions_of_some_training_images(
    market: Path, whole: None, run_doctor: RunDoctor
) -> None:
    file = describe(market, lambda lines: lines[2:])
    found = run_doctor("--dataset", "market1501")["market1501"]
    assert found["status"] == "warning"
    assert found["problems"][0].startswith(
        f"{file} lacks 2 of 12 training images (the first is 0002_c1s1_000001_01.jpg)"
    )


def test_descriptions_that_cannot_be_read(market: Path, whole: None, run_doctor: RunDoctor) -> None:
    file = describe(market, lambda lines: [*lines[:4], "0007.jpg"])
    found = run_doctor("--dataset", "market1501")["market1501"]
    assert found["status"] == "warning"
    assert f"{file}, line 5: expected 5 fields" in found["problems"][0]


# ---- opening images


def test_unreadable_images_are_listed(market: Path, whole: None, run_doctor: RunDoctor) -> None:
    damaged = damage(market)
    assert run_doctor("--dataset", "market1501")["market1501"]["status"] == "ok"
    found = run_doctor("--deep", "--dataset", "market1501")["market1501"]
    assert found["status"] == "warning"
    assert found["unreadable"] == [str(path) for path in damaged]
    assert found["num_opened"] == 21
    assert found["problems"][0].startswith("3 of 21 images cannot be decoded. Download them again")
    for (path, reason), problem in zip(damaged.items(), found["problems"][1:4], strict=True):
        assert problem.startswith(f"{path} (")
        assert reason in problem


def test_many_unreadable_images_are_counted(market: Path, root: Path) -> None:
    for number in range(NUM_LISTED + 9):
        (market / "query" / f"0001_c1s1_{number:06d}_99.jpg").write_text("")
    report = examine_images(examine(["market1501"], root, ReadOptions()))["market1501"]
    assert len(report.unreadable or ()) == NUM_LISTED + 9
    assert report.faults[-1] == "and 9 more; --json lists them all"
    assert len([fault for fault in report.faults if "_99.jpg" in fault]) == NUM_LISTED


def test_an_image_of_several_splits_is_opened_once(root: Path) -> None:
    miniatures_of("cuhk_pedes")["cuhk_pedes"].build(root)
    report = examine(["cuhk_pedes"], root, ReadOptions())["cuhk_pedes"]
    numbers: list[int] = []
    examine_images({"cuhk_pedes": report, "again": report}, numbers.append)
    assert sum(numbers) == len(report.image_paths) == len(set(report.image_paths))
