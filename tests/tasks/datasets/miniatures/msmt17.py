from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.tasks.datasets.miniatures.painting import Fault, Miniature, paint

FOLDERS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
USUAL = {"V1": "MSMT17_V1", "V2": "MSMT17_V2"}


def image(person: int, number: int, camera: int) -> str:
    """Path of an image in the lists."""
    name = f"{person:04d}_{number:03d}_{camera:02d}_0303morning_{camera * 15:04d}_{number}.jpg"
    return f"{person:04d}/{name}"


def build(root: Path, version: str = "V1", below: str | None = None) -> None:
    """Train 0 to 3, test 0 to 2 (other people); three images in list_val.txt."""
    folder = root / (below or USUAL[version])
    train, test = FOLDERS[version]
    lists: dict[str, list[str]] = {"train": [], "val": [], "query": [], "gallery": []}
    for person in range(4):
        for number, camera in enumerate((1, 5, 15, 15)):
            path = image(person, number, camera)
            paint(folder / train / path, person, number)
            lists["val" if number == 3 and person else "train"].append(f"{path} {person}")
    for person in range(3):
        for number, camera in enumerate((2, 7, 2, 7)):
            path = image(person, number, camera)
            paint(folder / test / path, 4 + person, number)
            query = number < 2 and person < 2
            lists["query" if query else "gallery"].append(f"{path} {person}")
    for name, lines in lists.items():
        (folder / f"list_{name}.txt").write_text("\n".join(lines) + "\n")


def _change(name: str, change: Callable[[bytes], bytes], root: Path) -> None:
    file = root / USUAL["V1"] / f"list_{name}.txt"
    file.write_bytes(change(file.read_bytes()))


def _last_line_again(content: bytes) -> bytes:
    return content + content.splitlines(keepends=True)[-1]


def _no_gallery_list(root: Path) -> None:
    (root / USUAL["V1"] / "list_gallery.txt").unlink()


def _missing_images(root: Path) -> None:
    for number, camera in ((0, 1), (1, 5)):
        (root / USUAL["V1"] / "train" / image(2, number, camera)).unlink()


_LINE_EXPECTED = "expected an image and its person like '0000/0000_000_01_"
MINIATURES = {
    "msmt17": Miniature(
        build=build,
        train=(13, 4, 3),
        query=(4, 2, 2),
        gallery=(8, 3, 2),
        variant="V1",
        faults={
            "cut off after the image": Fault(
                partial(_change, "train", lambda content: content[:-3]),
                ("list_train.txt, line 13: ", _LINE_EXPECTED, "download it again"),
            ),
            "cut off inside the image": Fault(
                partial(_change, "gallery", lambda content: content[:-20]),
                ("list_gallery.txt, line 8: ", _LINE_EXPECTED, "download it again"),
            ),
            "id is no number": Fault(
                partial(_change, "query", lambda content: content.replace(b"jpg 1", b"jpg p1", 1)),
                ("list_query.txt, line 3: ", _LINE_EXPECTED, "jpg p1"),
            ),
            "no camera in the name": Fault(
                partial(_change, "query", lambda content: content.replace(b"_02_", b"_", 1)),
                ("list_query.txt, line 1: ", _LINE_EXPECTED),
            ),
            "path out of the folder": Fault(
                partial(_change, "train", lambda content: b"../train/" + content),
                ("list_train.txt, line 1: ", _LINE_EXPECTED),
            ),
            "not UTF-8": Fault(
                partial(_change, "train", lambda content: content.replace(b"morning", b"\xe9", 1)),
                ("list_train.txt, line 1: expected UTF-8 text, got the byte 0xe9",),
            ),
            "empty list": Fault(
                partial(_change, "gallery", lambda content: b"\n"),
                ("list_gallery.txt lists no image", _LINE_EXPECTED, "download it again"),
            ),
            "image listed twice": Fault(
                partial(_change, "gallery", _last_line_again),
                ("list_gallery.txt lists .*0002_003_07_.* twice", "download the list again"),
            ),
            "ids of another numbering": Fault(
                partial(_change, "train", lambda content: content.replace(b"jpg 3", b"jpg 10003")),
                ("list_train.txt, line .*below 10000, got 10003",),
            ),
            "missing images": Fault(
                _missing_images,
                ("list_train.txt lists .*0002_000_01_.*, which does not exist, and 1 more",),
            ),
            "missing list": Fault(
                _no_gallery_list, ("expected list_gallery.txt under", r"set benchmark\.root")
            ),
        },
    ),
    "V2": Miniature(
        build=partial(build, version="V2"),
        train=(13, 4, 3),
        query=(4, 2, 2),
        gallery=(8, 3, 2),
        variant="V2",
    ),
    "val in train": Miniature(
        build=build,
        train=(16, 4, 3),
        query=(4, 2, 2),
        gallery=(8, 3, 2),
        variant="V1",
        options={"msmt17_val_in_train": True},
        faults={
            "missing list": Fault(
                lambda root: (root / USUAL["V1"] / "list_val.txt").unlink(),
                ("expected the file .*list_val.txt",),
            ),
            "validation image also trains": Fault(
                partial(_change, "val", lambda content: content + f"{image(1, 0, 1)} 1\n".encode()),
                ("list_train.txt and .*list_val.txt list .*0001_000_01_.* twice",),
            ),
        },
    ),
}
