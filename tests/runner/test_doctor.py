"""The doctor: what it says of data sets that are whole, incomplete, elsewhere or damaged."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from runner.doctor import NUM_LISTED, examine, examine_images
from runner.doctor_view import show
from runner.lifelong import main
from tasks.datasets import dukemtmc, market1501
from tasks.descriptions import format_descriptions
from tasks.reading import Counts, ReadOptions, dataset_names, read_dataset
from tests.tasks.datasets.miniatures.market1501 import build_market_layout
from tests.tasks.datasets.miniatures.painting import Miniature, paint

MARKET = "Market-1501-v15.09.15"

Look = Callable[..., dict[str, Any]]
Counted = tuple[int, int, int]


def miniatures_of(name: str) -> dict[str, Miniature]:
    return importlib.import_module(f"tests.tasks.datasets.miniatures.{name}").MINIATURES


VARIANTS = [(name, variant) for name in dataset_names() for variant in miniatures_of(name)]


def tree(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in root.rglob("*")
    }


def counted(train: Counted, query: Counted, gallery: Counted) -> dict[str, Counts]:
    return {"train": Counts(*train), "query": Counts(*query), "gallery": Counts(*gallery)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def market(root: Path) -> Path:
    build_market_layout(root / MARKET)
    return root / MARKET


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The literature says of Market-1501 and DukeMTMC-reID what is in their miniature."""
    for reader in (market1501, dukemtmc):
        expected = counted((12, 4, 3), (4, 2, 2), (5, 3, 3))
        (layout,) = reader.FACTS.layouts
        layouts = (dataclasses.replace(layout, expected=expected),)
        monkeypatch.setattr(reader, "FACTS", dataclasses.replace(reader.FACTS, layouts=layouts))


@pytest.fixture
def look(root: Path, capsys: pytest.CaptureFixture[str]) -> Look:
    """Runs `doctor --json` and returns what it printed."""

    def run(*arguments: str, at: Path = root) -> dict[str, Any]:
        before = tree(at)
        assert main(["doctor", "--json", "--root", str(at), *arguments]) == 0
        assert tree(at) == before, "wrote into the data"
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def shown(root: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `doctor` and returns what it printed."""

    def run(*arguments: str) -> str:
        assert main(["doctor", "--root", str(root), *arguments]) == 0
        return capsys.readouterr().out

    return run


# ---- every reader


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_what_is_there_is_counted(name: str, variant: str, root: Path, tmp_path: Path) -> None:
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


def test_all_data_sets_below_one_root(root: Path, look: Look) -> None:
    for name in dataset_names():
        next(iter(miniatures_of(name).values())).build(root)
    found = look()
    assert list(found) == dataset_names()
    assert {name for name, each in found.items() if each["status"] == "missing"} == set()
    folders = [each["root"] for each in found.values()]
    assert len(set(folders)) == len(folders)


# ---- the JSON


def test_the_json_has_this_form(market: Path, look: Look) -> None:
    assert look("--dataset", "market1501", "viper") == {
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
                "instead of 751, 3 cameras instead of 6. If this is not all of the data set, in "
                "its v15.09.15 form, fetch or unpack it again.",
                "No part descriptions, which some learners need: market1501_description.txt would "
                "be in the data set's folder, beside that, or in the root.",
            ],
        },
        "viper": {
            "status": "missing",
            "root": None,
            "variant": None,
            "splits": {},
            "problems": [
                f"VIPeR: not found. Expected cam_a, cam_b under {market.parent}/viper/VIPeR, or "
                "under another folder by benchmark.roots.viper."
            ],
        },
    }


def test_a_whole_data_set_is_ok(market: Path, whole: None, look: Look) -> None:
    assert look("--dataset", "market1501")["market1501"]["status"] == "ok"


def test_deep_adds_what_was_opened(market: Path, look: Look) -> None:
    found = look("--deep", "--dataset", "market1501")["market1501"]
    assert found["num_opened"] == 21
    assert found["unreadable"] == []
    assert list(found)[-2:] == ["num_opened", "unreadable"]


def test_an_own_validation_split_is_counted(look: Look, root: Path) -> None:
    miniatures_of("cuhk_pedes")["cuhk_pedes"].build(root)
    splits = look("--dataset", "cuhk_pedes")["cuhk_pedes"]["splits"]
    assert list(splits) == ["train", "validation", "query", "gallery"]
    assert splits["validation"]["images"] > 0


def test_progress_and_warnings_stay_off_the_output(
    market: Path, look: Look, capsys: pytest.CaptureFixture[str]
) -> None:
    (market / "query" / "notes.txt").write_text("")
    found = look("--deep", "--dataset", "market1501")  # the whole output parses
    assert any("ignored 1 files" in problem for problem in found["market1501"]["problems"])


def test_a_terminal_gets_a_bar(
    market: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    command = ["doctor", "--json", "--deep", "--root", str(market.parent)]
    assert main([*command, "--dataset", "market1501"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)
    assert "opening images" in captured.err
    assert "21/21" in captured.err


# ---- where things are


def test_a_deeper_folder_is_named(root: Path, look: Look) -> None:
    build_market_layout(root / "downloads" / "from the web" / MARKET)
    found = look()
    assert {each["status"] for each in found.values()} == {"missing"}
    folder = root / "downloads" / "from the web" / MARKET
    assert found["market1501"]["problems"] == [
        f"Market-1501: found deeper, at {folder}: set benchmark.roots.market1501={folder}"
    ]
    # It has the layout of these as well, but another name.
    for name in ("dukemtmc", "lpw"):
        assert "benchmark.roots." + name + "=" not in found[name]["problems"][0]


def test_the_hint_is_right(root: Path, look: Look) -> None:
    build_market_layout(root / "downloads" / MARKET)
    (problem,) = look("--dataset", "market1501")["market1501"]["problems"]
    (override,) = re.findall(r"set (benchmark\.roots\.\S+)", problem)
    assert look("--dataset", "market1501", override)["market1501"]["status"] == "warning"


def test_another_data_set_of_the_same_layout_is_no_trace(market: Path, look: Look) -> None:
    (problem,) = look()["dukemtmc"]["problems"]
    assert problem.startswith("DukeMTMC-reID: not found. Expected bounding_box_train")


def test_a_root_that_is_itself_a_data_set(market: Path, look: Look, whole: None) -> None:
    found = look(at=market)
    assert found["market1501"]["status"] == "ok"
    assert {found[name]["status"] for name in found if name != "market1501"} == {"missing"}
    assert found["dukemtmc"]["problems"] == [f"DukeMTMC-reID: not found; {market} is Market-1501."]


def test_a_root_that_may_be_either_of_two(
    market: Path, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dukemtmc, "read", market1501.read)
    found = look("--dataset", "market1501", "dukemtmc", at=market)
    for report in found.values():
        assert report["status"] == "warning"
        assert "may be Market-1501 or DukeMTMC-reID" in " ".join(report["problems"])


def test_an_own_folder_that_does_not_exist(market: Path, look: Look, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    found = look("--dataset", "viper", f"benchmark.roots.viper={nowhere}")["viper"]
    assert found["status"] == "missing"
    assert f"{nowhere} does not exist. Set benchmark.roots.viper" in found["problems"][0]


def test_no_root_is_needed_where_each_has_its_own(
    market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["doctor", "--json", "--root", str(tmp_path / "nowhere"), "--dataset", "market1501"]
    assert main([*command, f"benchmark.roots.market1501={market}"]) == 0
    assert json.loads(capsys.readouterr().out)["market1501"]["root"] == str(market)


def test_a_relative_root_is_said_in_full(
    market: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(market.parents[1])
    assert main(["doctor", "--json", "--root", "data", "--dataset", "market1501"]) == 0
    assert json.loads(capsys.readouterr().out)["market1501"]["root"] == str(market)


# ---- what is wrong


def test_a_data_set_that_lacks_a_part_is_broken(market: Path, look: Look) -> None:
    for file in (market / "query").iterdir():
        file.unlink()
    (market / "query").rmdir()
    found = look()["market1501"]
    assert (found["status"], found["root"]) == ("broken", str(market))
    assert f"expected query under {market}; found" in found["problems"][0]


def test_what_a_reader_says_is_passed_on(market: Path, look: Look) -> None:
    for file in (market / "query").iterdir():
        file.rename(file.with_name(f"image {file.name}"))
    found = look()["market1501"]
    assert (found["status"], found["root"]) == ("broken", str(market))
    assert "none of the 4 files in" in found["problems"][0]


def test_a_reader_that_fails_hides_no_other_data_set(
    market: Path, root: Path, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("frame")

    miniatures_of("viper")["viper"].build(root)
    monkeypatch.setattr(market1501, "read", fail)
    found = look("--dataset", "market1501", "viper")
    assert found["market1501"]["problems"] == ["cannot be read: KeyError: 'frame'"]
    assert found["market1501"]["status"] == "broken"
    assert found["viper"]["splits"]


def test_a_withdrawn_data_set_is_looked_at(root: Path, whole: None, look: Look) -> None:
    miniatures_of("dukemtmc")["dukemtmc"].build(root)
    found = look("--dataset", "dukemtmc")["dukemtmc"]
    assert found["splits"]["train"]["images"] > 0
    note = "DukeMTMC-reID was withdrawn by its authors in 2019"
    assert f"{note}; runs need benchmark.accept_withdrawn=true." in found["problems"]
    accepted = look("--dataset", "dukemtmc", "benchmark.accept_withdrawn=true")["dukemtmc"]
    assert f"{note}." in accepted["problems"]
    assert found["status"] == accepted["status"]


def test_a_note_is_no_warning(root: Path, whole: None, look: Look) -> None:
    folder = root / "DukeMTMC-reID"
    for part, people in {"bounding_box_train": (2, 7, 8, 9), "query": (1, 3)}.items():
        for person in people:
            for camera in (1, 2) if part == "query" else (1, 2, 3):
                paint(folder / part / f"{person:04d}_c{camera}_f0000001.jpg", person)
    for person, camera in ((1, 1), (1, 2), (3, 1), (3, 2), (10, 3)):
        paint(folder / "bounding_box_test" / f"{person:04d}_c{camera}_f0000002.jpg", person)
    found = look("--dataset", "dukemtmc")["dukemtmc"]
    assert found["status"] == "ok", found["problems"]
    assert "withdrawn" in found["problems"][0]


def test_a_query_without_a_match(market: Path, whole: None, look: Look) -> None:
    (market / "bounding_box_test" / "0003_c1s1_000002_01.jpg").rename(
        market / "bounding_box_test" / "0003_c2s1_000003_01.jpg"
    )
    found = look("--dataset", "market1501")["market1501"]
    assert found["status"] == "warning"
    assert found["problems"][0].startswith(
        "1 of 4 queries have no image of their person by another camera in the gallery"
    )


def test_people_in_training_and_test(market: Path, whole: None, look: Look) -> None:
    for folder, person in (("query", 1), ("bounding_box_test", 1)):
        for file in (market / folder).glob(f"{person:04d}_*"):
            file.rename(file.with_name(file.name.replace("0001_", "0007_")))
    found = look("--dataset", "market1501")["market1501"]
    assert found["status"] == "warning"
    assert found["problems"][0].startswith(
        "1 people (the first is 7) are in training and test images"
    )


def test_counts_of_another_variant_are_no_fault(root: Path, look: Look) -> None:
    miniatures_of("msmt17")["msmt17"].build(root)
    assert look("--dataset", "msmt17")["msmt17"]["status"] == "warning"
    found = look("--dataset", "msmt17", "benchmark.msmt17_val_in_train=true")["msmt17"]
    assert found["status"] == "ok"
    assert "another benchmark.msmt17_val_in_train" in found["problems"][0]


# ---- descriptions


def describe(market: Path, lines: Callable[[list[str]], list[str]]) -> Path:
    file = market / "market1501_description.txt"
    names = sorted(path.name for path in (market / "bounding_box_train").iterdir())
    parts = dict.fromkeys(names, ("a cap", "a coat", "jeans", "boots"))
    file.write_text("\n".join(lines(format_descriptions(parts).splitlines())) + "\n")
    return file


def test_descriptions_of_all_training_images(market: Path, whole: None, look: Look) -> None:
    file = describe(market, lambda lines: [*lines, *lines[:3]])
    found = look("--dataset", "market1501")["market1501"]
    assert found["status"] == "ok"
    assert found["problems"] == [
        f"{file} describes all 12 training images.",
        f"3 lines of {file} repeat an image; the last line of each counts.",
    ]


def test_descriptions_of_some_training_images(market: Path, whole: None, look: Look) -> None:
    file = describe(market, lambda lines: lines[2:])
    found = look("--dataset", "market1501")["market1501"]
    assert found["status"] == "warning"
    assert found["problems"][0].startswith(
        f"{file} lacks 2 of 12 training images (the first is 0002_c1s1_000001_01.jpg)"
    )


def test_descriptions_that_cannot_be_read(market: Path, whole: None, look: Look) -> None:
    file = describe(market, lambda lines: [*lines[:4], "0007.jpg"])
    found = look("--dataset", "market1501")["market1501"]
    assert found["status"] == "warning"
    assert f"{file}, line 5: expected 5 fields" in found["problems"][0]


# ---- opening images


def damage(market: Path) -> dict[Path, str]:
    """Path -> what must be said of it."""
    images = sorted((market / "bounding_box_train").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:-300])
    images[1].write_text("not an image")
    images[2].write_bytes(b"")
    return {images[0]: "runcated", images[1]: "cannot identify", images[2]: "cannot identify"}


def test_unreadable_images_are_listed(market: Path, whole: None, look: Look) -> None:
    damaged = damage(market)
    assert look("--dataset", "market1501")["market1501"]["status"] == "ok"
    found = look("--deep", "--dataset", "market1501")["market1501"]
    assert found["status"] == "warning"
    assert found["unreadable"] == [str(path) for path in damaged]
    assert found["num_opened"] == 21
    assert found["problems"][0].startswith("3 of 21 images cannot be decoded. Fetch them again")
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


# ---- wrong input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--root", "nowhere"], r"nowhere does not exist: expected the folder of the data sets"),
        (["--root", "nowhere"], r"--root, or set benchmark\.root"),
        (["--root", ".", "--dataset", "market"], r"--dataset: .*did you mean market1501\?"),
        (["--root", ".", "--dataset", "cuhk-sysu"], r"got 'cuhk-sysu'; did you mean cuhk_sysu\?"),
        (["--root", ".", "benchmark.roots.vipr=."], r"benchmark\.roots: .*did you mean viper\?"),
        (
            ["--root", ".", "benchmark.split_files.vipr=s.json"],
            r"split_files: .*did you mean viper",
        ),
        (["--root", ".", "benchmark.rots.viper=."], r"benchmark\.rots.*unknown key"),
        (["--root", ".", "benchmark.cuhk03_boxes=drawn"], r"cuhk03_boxes: .*'labeled'"),
    ],
)
def test_what_cannot_be_looked_at(
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


def test_the_root_of_the_configuration_is_the_default(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("LIFELONG_REID_HOME", str(tmp_path))
    assert main(["doctor", "--json", "--dataset", "market1501"]) == 0
    assert json.loads(capsys.readouterr().out)["market1501"]["root"] == str(market)
    assert main(["doctor", "--json", "benchmark.root=elsewhere"]) == 2
    assert f"{tmp_path / 'elsewhere'} does not exist" in capsys.readouterr().err


def test_overrides_may_follow_the_names(market: Path, root: Path, look: Look) -> None:
    found = look("--dataset", "market1501", f"benchmark.roots.market1501={market}")
    assert list(found) == ["market1501"]


# ---- for the eye


def test_the_table_says_what_differs(market: Path, shown: Callable[..., str]) -> None:
    lines = shown().splitlines()
    assert lines[0] == f"Data sets under {market.parent}"
    (row,) = [line for line in lines if line.startswith("market1501 warning v15.09.15")]
    assert row.split()[3:] == ["12/4", "4/2", "5/3", "3/2/3"]
    (expected,) = [line for line in lines if line.strip().startswith("expected")]
    assert expected.split() == ["expected", "12,936/751", "3,368/750", "15,913/751", "6"]
    assert max(len(line) for line in lines if str(market.parent) not in line) <= 80
    assert "\nNot found: cuhk01, cuhk02, " in "\n".join(lines)
    assert lines[-1] == f"1 warning, {len(dataset_names()) - 1} missing"


def test_a_named_data_set_that_is_missing_says_what_is_expected(
    root: Path, shown: Callable[..., str]
) -> None:
    text = " ".join(shown("--dataset", "viper", "market1501").split())
    assert "VIPeR: not found. Expected cam_a, cam_b under" in text
    assert "Not found:" not in text
    assert "Not found: viper" in " ".join(shown().replace(",", "\nNot found:").split())


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_no_path_is_broken(tmp_path: Path, width: int) -> None:
    root = tmp_path / "my data [of people]" / ("long-" * 20)
    build_market_layout(root / MARKET)
    damaged = damage(root / MARKET)
    reports = examine_images(examine(["market1501", "viper"], root, ReadOptions()))
    console = Console(file=io.StringIO(), width=width)
    show(console, reports, root, ["viper"])
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for path in (root / MARKET, root / "viper" / "VIPeR", *damaged):
        assert str(path) in text
    words = [line for line in text.splitlines() if "/" not in line and " of the data set" in line]
    assert all(len(line) <= max(width, 40) for line in words)


def test_a_name_that_is_no_text_is_shown(market: Path, shown: Callable[..., str]) -> None:
    odd = os.fsdecode(b"0001_c1s1_\xff_00.jpg")
    (market / "query" / odd).write_text("")
    assert r"0001_c1s1_\udcff_00.jpg" in shown("--deep", "--dataset", "market1501")
