"""`describe --backend attributes` on synthetic people, and reading the file back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.descriptions.quality import check_file
from runner.lifelong import main
from tasks.text.descriptions import read_descriptions

SIZES = {
    "num_seen_domains": 1, "num_unseen_domains": 0, "num_train_identities": 6,
    "num_test_identities": 4, "num_cameras": 2, "supersampling": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drawn")


def describe(root: Path, output: Path, *further: str) -> int:
    sizes = [f"benchmark.synthetic.{name}={value}" for name, value in SIZES.items()]
    command = ["describe", "--dataset", "plaza", "--backend", "attributes", "--output", str(output)]
    return main([*command, *further, f"benchmark.root={root}", *sizes])


def people(root: Path) -> dict[int, dict]:
    (path,) = root.glob("synthetic-*/plaza/plaza_attributes.json")
    return {int(person_id): person for person_id, person in json.loads(path.read_text()).items()}


def test_parts_are_correct(root: Path, tmp_path: Path) -> None:
    assert describe(root, tmp_path) == 0
    path = tmp_path / "plaza_description.txt"
    found = read_descriptions(path).parts
    assert len(found) == (6 + 4) * 2 * 2
    known = people(root)
    for name, (head, upper, lower, foot) in found.items():
        person = known[int(name[:4])]
        assert f"The {person['sex']} has " in head
        assert person["upper_colour"] in upper
        assert f"{person['upper']}." in upper
        assert f"{person['lower_colour']} {person['lower']}." in lower
        assert f"{person['shoes_colour']} {person['shoes']} and carries" in foot
        assert person["bag"] == "none" or f"{person['bag_colour']} {person['bag']}." in foot
    quality = check_file(path)
    assert (quality.num_images, quality.num_empty, quality.num_contradictory) == (40, 0, 0)
    assert all(part.num_implausible == 0 for part in quality.parts.values())


def test_training_images_only(root: Path, tmp_path: Path) -> None:
    assert describe(root, tmp_path, "--split", "train") == 0
    names = read_descriptions(tmp_path / "plaza_description.txt").parts
    assert {int(name[:4]) for name in names} == set(range(1, 7))


def test_dual_texts_are_correct(root: Path, tmp_path: Path) -> None:
    assert describe(root, tmp_path, "--prompt", "dual") == 0
    entries = json.loads((tmp_path / "plaza_dual.json").read_text())
    known = people(root)
    (folder,) = root.glob("synthetic-*/plaza")
    assert len(entries) == 40
    for entry in entries:
        assert (folder / entry["file_path"]).is_file()
        person = known[int(Path(entry["file_path"]).name[:4])]
        assert f"A {person['sex']} of" in entry["identity"]
        assert f"{person['skin']} skin" in entry["identity"]
        assert person["upper_colour"] in entry["clothing"]
        assert f"{person['shoes_colour']} {person['shoes']}" in entry["clothing"]


def test_photographs_have_no_known_attributes(images_folder: Path, tmp_path: Path, capsys) -> None:
    command = ["describe", "--data", str(images_folder), "--backend", "attributes"]
    assert main([*command, "--output", str(tmp_path / "kept")]) == 2
    assert "expected one ..._attributes.json" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()


def test_descriptions_are_kept_under_derived_by_default(root: Path, tmp_path: Path) -> None:
    sizes = [f"benchmark.synthetic.{name}={value}" for name, value in SIZES.items()]
    command = ["describe", "--dataset", "plaza", "--backend", "attributes"]
    places = [f"benchmark.root={root}", f"benchmark.derived={tmp_path}"]
    assert main([*command, *places, *sizes]) == 0
    assert (tmp_path / "descriptions" / "plaza" / "plaza_description.txt").is_file()
