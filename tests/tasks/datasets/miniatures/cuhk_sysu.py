from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from tests.tasks.datasets.miniatures.painting import (
    HEIGHT,
    WIDTH,
    Fault,
    Miniature,
    paint,
    person_image,
)

EXTRACTED = "CUHK-SYSU/cuhksysu4reid"
RAW = "CUHK-SYSU"
TRAIN_IMAGES = {3: 4, 41: 5, 700: 3}  # person 700 has too few to train
TEST_PEOPLE = (8, 5012)

Appearance = tuple[str, Sequence[int] | np.ndarray, int]
"""Name of the scene, box, whether the person is hard to see."""


def build_extracted(root: Path, below: str = EXTRACTED) -> None:
    """Train 3, 41 and 700 (excluded); test 8 and 5012, two gallery images each."""
    index = 0
    for person, num_images in TRAIN_IMAGES.items():
        for number in range(num_images):
            name = f"{person:05d}_s{100 + number}_{index:07d}_{number % 2}.jpg"
            paint(root / below / "train" / name, person, number)
            index += 1
    for index, person in enumerate(TEST_PEOPLE):
        paint(root / below / "query" / f"{person:05d}_s9_{index:07d}_0.jpg", person)
        for number in (0, 1):
            name = f"{person:05d}_s{200 + number}_{2 * index + number:07d}_0.jpg"
            paint(root / below / "gallery" / name, person, number)


def struct(fields: Sequence[str], rows: Sequence[Sequence[object]]) -> np.ndarray:
    """A 1 x n MATLAB structure array."""
    array = np.empty((1, len(rows)), dtype=[(field, object) for field in fields])
    for index, row in enumerate(rows):
        array[0, index] = tuple(row)
    return array


def appearances(rows: Sequence[Appearance]) -> np.ndarray:
    return struct(
        ("imname", "idlocate", "ishard"),
        [
            (name, np.array([box] if len(box) else np.empty((0, 0))), hard)
            for name, box, hard in rows
        ],
    )


def box_of(column: int) -> list[int]:
    """Box (x, y, width, height) of the person in a column of a scene."""
    return [2 + column * (WIDTH + 4), 3, WIDTH, HEIGHT]


def paint_scene(path: Path, people: Sequence[int], number: int) -> None:
    """Write a scene with people side by side on white."""
    scene = np.full((HEIGHT + 8, 8 + len(people) * (WIDTH + 4), 3), 255, dtype=np.uint8)
    for column, person in enumerate(people):
        x, y, width, height = box_of(column)
        scene[y : y + height, x : x + width] = person_image(person, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene).save(path, quality=95)


def write_train(root: Path, people: dict[str, list[Appearance]]) -> None:
    """Train.mat: a cell of one 1 x 1 structure for each person."""
    cells = np.empty((len(people), 1), dtype=object)
    for index, (name, rows) in enumerate(people.items()):
        fields = ("idname", "nAppear", "scene")
        cells[index, 0] = struct(fields, [(name, len(rows), appearances(rows))])
    _save(root, "Train", cells)


def write_test(root: Path, searches: list[tuple[str, Appearance, list[Appearance]]]) -> None:
    """TestG50.mat: a structure array of queries, each with its gallery."""
    fields = ("imname", "idlocate", "ishard", "idname")
    rows = [
        (struct(fields, [(query[0], np.array([query[1]]), query[2], name)]), appearances(gallery))
        for name, query, gallery in searches
    ]
    _save(root, "TestG50", struct(("Query", "Gallery"), rows))


def _save(root: Path, name: str, content: np.ndarray) -> None:
    file = root / RAW / "annotation" / "test" / "train_test" / f"{name}.mat"
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, {name: content}, do_compression=True)


def train_annotation() -> dict[str, list[Appearance]]:
    return {
        f"p{person}": [
            (f"s{1 + number}.jpg", box_of(column), number % 2) for number in range(num_images)
        ]
        for column, (person, num_images) in enumerate(TRAIN_IMAGES.items())
    }


def test_annotation() -> list[tuple[str, Appearance, list[Appearance]]]:
    """Galleries have two other scenes of the person, then scenes without the person."""
    empty: list[Appearance] = [(f"s{scene}.jpg", [], 0) for scene in (1, 2, 3)]
    searches: list[tuple[str, Appearance, list[Appearance]]] = []
    for column, person in enumerate(TEST_PEOPLE):
        box = box_of(column)
        matches: list[Appearance] = [("s12.jpg", box, 1), ("s13.jpg", box, 1)]
        searches.append((f"p{person}", ("s11.jpg", box, 0), matches + empty))
    return searches


def build_raw(root: Path) -> None:
    """The same people in scenes; the last two scenes of person 41 do not show person 700."""
    scenes = root / RAW / "Image" / "SSM"
    for number in range(max(TRAIN_IMAGES.values())):
        paint_scene(scenes / f"s{1 + number}.jpg", tuple(TRAIN_IMAGES), number)
    for number in range(3):
        paint_scene(scenes / f"s{11 + number}.jpg", TEST_PEOPLE, number)
    write_train(root, train_annotation())
    write_test(root, test_annotation())


def _train_with(root: Path, name: str, row: Appearance) -> None:
    people = train_annotation()
    people.setdefault(name, []).append(row)
    write_train(root, people)


def _cut_off(name: str, root: Path) -> None:
    file = root / RAW / "annotation" / "test" / "train_test" / f"{name}.mat"
    file.write_bytes(file.read_bytes()[:-40])


def _broken_scene(root: Path) -> None:
    file = root / RAW / "Image" / "SSM" / "s12.jpg"
    file.write_bytes(file.read_bytes()[:60])


def _no_scenes(root: Path) -> None:
    for name in ("s2.jpg", "s12.jpg"):
        (root / RAW / "Image" / "SSM" / name).unlink()


def _in_folder(change: Callable[[Path], object], folder: str, root: Path) -> None:
    for file in sorted((root / EXTRACTED / folder).iterdir()):
        change(file)


def _few_images(root: Path) -> None:
    for file in (root / EXTRACTED / "train").glob("*_s103_*"):
        file.unlink()
    for file in (root / EXTRACTED / "train").glob("*_s104_*"):
        file.unlink()


MINIATURES = {
    "cuhk_sysu": Miniature(
        build=build_extracted,
        train=(9, 2, 1),
        query=(2, 2, 1),
        gallery=(4, 2, 1),
        variant="extracted",
        faults={
            "foreign names": Fault(
                partial(_in_folder, lambda file: file.rename(f"{file}.part"), "query"),
                ("none of the 2 files", "is named like 00001_s1_0006339_0.jpg"),
            ),
            "empty folder": Fault(
                partial(_in_folder, Path.unlink, "gallery"),
                ("gallery is empty; expected images like",),
            ),
            "missing folder": Fault(
                lambda root: shutil.rmtree(root / EXTRACTED / "query"),
                ("expected cuhksysu4reid/query under", r"set benchmark\.root"),
            ),
            "nobody has four images": Fault(
                _few_images,
                ("none of the 3 identities in .*train has the 4 images", "Download .* again"),
            ),
        },
    ),
    "raw": Miniature(
        build=build_raw,
        train=(9, 2, 1),
        query=(2, 2, 1),
        gallery=(4, 2, 1),
        variant="extracted from raw",
        faults={
            "cut off training list": Fault(
                partial(_cut_off, "Train"),
                ("Train.mat: expected a MATLAB file", "download it again"),
            ),
            "cut off test list": Fault(
                partial(_cut_off, "TestG50"),
                ("TestG50.mat: expected a MATLAB file", "download it again"),
            ),
            "another list": Fault(
                lambda root: savemat(
                    root / RAW / "annotation/test/train_test/TestG50.mat", {"TestG100": 1}
                ),
                ("TestG50.mat: expected 'TestG50', found TestG100", "public release"),
            ),
            "another structure": Fault(
                partial(_save, name="TestG50", content=struct(("Query",), [("s1.jpg",)])),
                ("TestG50.mat: expected 'idname', found 's1.jpg'", "public release"),
            ),
            "scene that is not there": Fault(
                _no_scenes, (r"Train.mat lists .*SSM/s2\.jpg, which does not exist, and 2 more",)
            ),
            "broken scene": Fault(
                _broken_scene, (r"s12\.jpg: expected an image", "download it again")
            ),
            "empty box": Fault(
                partial(_train_with, name="p3", row=("s1.jpg", [5, 5, 0, 20], 0)),
                (r"s1\.jpg: the box of person 3, .*\(5, 5, 0, 20\).* is outside of",),
            ),
            "box outside": Fault(
                partial(_train_with, name="p3", row=("s1.jpg", [900, 5, 9, 20], 0)),
                (r"s1\.jpg: the box of person 3, .*\(900, 5, 9, 20\).* is outside of the 68 x",),
            ),
            "no box": Fault(
                partial(_train_with, name="p41", row=("s1.jpg", [], 0)),
                (r"Train.mat: expected a box .* of person 41 in s1\.jpg, got \[\]",),
            ),
            "foreign id": Fault(
                partial(_train_with, name="person3", row=("s1.jpg", [1, 1, 9, 9], 0)),
                ("Train.mat: expected a person like 'p123', got 'person3'",),
            ),
            "foreign scene": Fault(
                partial(_train_with, name="p3", row=("../s1.jpg", [1, 1, 9, 9], 0)),
                (r"Train.mat: expected a scene like 's123.jpg', got '\.\./s1.jpg'",),
            ),
            "missing scenes": Fault(
                lambda root: shutil.rmtree(root / RAW / "Image"),
                ("expected Image/SSM under", r"set benchmark\.root"),
            ),
        },
    ),
}
