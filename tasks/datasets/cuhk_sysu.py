"""CUHK-SYSU: crops of people from street scenes and films, for lifelong re-identification.

Two variants are supported:

- Extracted, `cuhksysu4reid/{train,query,gallery}/`: `00001_s1_0006339_0.jpg` is person 1, scene 1,
  number of the crop, and whether the person is hard to see.
- The public person search release, `Image/SSM/s1.jpg` and `annotation/`: the boxes of `Train.mat`
  and `TestG50.mat` are cropped once into `<benchmark.derived>/cuhk_sysu`, with the same naming.
  Training: all appearances of training people. Query: the query of each search. Gallery: the
  other appearances of the person in the search; scenes without the person are skipped.

Cameras of scenes are unknown, so training images have camera 0, the gallery camera 1 and queries
camera 2. With a single camera, the camera rule would exclude every match. As in the literature,
only people with at least four images are used for training.
Xiao et al., "Joint Detection and Identification Feature Learning for Person Search", CVPR 2017.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tasks.dataset_files import (
    Counts,
    DatasetFacts,
    Layout,
    LocatedDataset,
    ReadOptions,
    atomic_folder,
    check_images,
    check_may_extract,
    named_images,
    read_json,
)
from tasks.loading.image_files import UnreadableImageError, open_rgb
from tasks.schema import RawDomain, Record, Split

_CAMERAS: Mapping[str, int] = MappingProxyType({"train": 0, "gallery": 1, "query": 2})
_INNER = "cuhksysu4reid"
_SCENES = "Image/SSM"
_TRAIN_MAT = "annotation/test/train_test/Train.mat"
_TEST_MAT = "annotation/test/train_test/TestG50.mat"
_EXPECTED = {
    "train": Counts(4_374, 942, 1),
    "query": Counts(2_900, 2_900, 1),
    "gallery": Counts(5_447, 2_900, 1),
}
FACTS = DatasetFacts(
    title="CUHK-SYSU",
    folders=(
        _INNER,
        "CUHK-SYSU",
        "cuhk-sysu/CUHK-SYSU",
        "cuhk_sysu/CUHK-SYSU",
        "cuhk-sysu",
        "cuhk_sysu",
        "cuhksysu",
    ),
    layouts=(
        Layout(
            "extracted", needs=tuple(f"{_INNER}/{part}" for part in _CAMERAS), expected=_EXPECTED
        ),
        Layout("extracted", needs=tuple(_CAMERAS), expected=_EXPECTED),
        Layout("raw", needs=(_SCENES, _TRAIN_MAT, _TEST_MAT), expected=_EXPECTED),
    ),
    licence="research only",
    source="Xiao et al., Joint Detection and Identification Feature Learning for Person Search, "
    "CVPR 2017",
)
EXAMPLE = "00001_s1_0006339_0.jpg"
_FILE_NAME = re.compile(r"(?P<person>\d+)_s\d+_\d+_\d+\.(?:jpe?g|png)", re.IGNORECASE)
_SCENE_NAME = re.compile(r"(s\d+)\.jpg")
_PERSON_NAME = re.compile(r"p(\d+)")
_MIN_TRAIN_IMAGES = 4
# Default of Pillow, used for the extracted set of the literature.
_JPEG_QUALITY = 75
_CROP_RULE = f"boxes cut off at the image's edge, JPEG quality {_JPEG_QUALITY}"
_SOURCE = "source.json"


def read(dataset: LocatedDataset, options: ReadOptions) -> RawDomain:
    """Read CUHK-SYSU with original person ids; extract the raw release first.

    Raises:
        FileNotFoundError: a scene in the annotation does not exist.
        ValueError: a name, an annotation or a scene is invalid, a box is empty, or the extracted
            images belong to another annotation.
        OSError: the output folder is not writable.
    """
    facts: dict[str, Any] = {"train_rule": f"people with at least {_MIN_TRAIN_IMAGES} images"}
    variant, folder = "extracted", (dataset.folder / dataset.layout.needs[0]).parent
    if dataset.layout.variant == "raw":
        variant, folder = "extracted from raw", Path(options.derived).expanduser() / dataset.name
        facts |= _extract_once(dataset, folder)
    train, gallery, query = (
        _read_folder(dataset, folder / part, camera_id) for part, camera_id in _CAMERAS.items()
    )
    num_images = Counter(record.person_id for record in train)
    if max(num_images.values()) < _MIN_TRAIN_IMAGES:
        raise ValueError(
            f"{dataset.title}: none of the {len(num_images)} identities in {folder / 'train'} has "
            f"the {_MIN_TRAIN_IMAGES} images required for training. Download or extract the data "
            "set again."
        )
    return RawDomain(
        name=dataset.name,
        train=tuple(each for each in train if num_images[each.person_id] >= _MIN_TRAIN_IMAGES),
        test=Split(query, gallery),
        folder=folder,
        variant=variant,
        facts=facts,
    )


def _read_folder(dataset: LocatedDataset, folder: Path, camera_id: int) -> tuple[Record, ...]:
    return tuple(
        Record(str(image.path), int(image.match[1]), camera_id)
        for image in named_images(dataset, folder, _FILE_NAME, EXAMPLE)
    )


@dataclass(frozen=True, slots=True)
class _Crop:
    """Crop of one person: box is (x, y, width, height) in pixels, file is "train/<name>"."""

    scene: str
    person_id: int
    box: tuple[int, ...]
    file: str


def _extract_once(dataset: LocatedDataset, target: Path) -> dict[str, Any]:
    """Extract to `target`, or check that it matches the annotation; return the lock facts."""
    if target.resolve().is_relative_to(dataset.folder.resolve()):
        raise ValueError(
            f"{dataset.title}: expected benchmark.derived outside of the data folder "
            f"{dataset.folder}, got {target.parent}; set benchmark.derived to a folder outside"
        )
    facts = {"crops": _CROP_RULE}
    for file in (_TRAIN_MAT, _TEST_MAT):
        digest = hashlib.sha256((dataset.folder / file).read_bytes()).hexdigest()
        facts[f"{Path(file).name}_sha256"] = digest
    if not target.exists():
        check_may_extract(dataset)
        _extract(dataset, target, facts)
    _check_extracted(dataset, target, facts)
    return facts


def _check_extracted(dataset: LocatedDataset, target: Path, facts: Mapping[str, Any]) -> None:
    source = read_json(dataset, target / _SOURCE) if (target / _SOURCE).is_file() else {}
    again = f"Delete {target} to extract it again, or set benchmark.derived."
    if {name: source.get(name) for name in facts} != facts:
        raise ValueError(
            f"{dataset.title}: {target} was not extracted from the annotation in {dataset.folder}. "
            f"{again}"
        )
    for part, num_images in source["num_images"].items():
        images = os.listdir(target / part) if (target / part).is_dir() else []
        num_present = sum(not name.startswith(".") for name in images)
        if num_present != num_images:
            raise ValueError(
                f"{dataset.title}: {num_images} images were extracted into {target / part}, but "
                f"{num_present} are there. {again}"
            )


def _extract(dataset: LocatedDataset, target: Path, facts: Mapping[str, Any]) -> None:
    """Write all crops to a hidden folder beside `target`, then rename it atomically."""
    log = logging.getLogger(__name__)
    crops = _read_crops(dataset)
    by_scene: dict[str, list[_Crop]] = {}
    for crop in crops:
        by_scene.setdefault(crop.scene, []).append(crop)
    log.info(
        "%s: cropping %d images from %d scenes into %s (once)",
        dataset.title, len(crops), len(by_scene), target,
    )  # fmt: skip
    num_images = Counter(crop.file.split("/")[0] for crop in crops)
    with atomic_folder(target) as folder:
        _make_folders(dataset, folder)
        # Threads are sufficient: Pillow releases the GIL while it decodes and encodes.
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            crop_scene = partial(_crop_scene, dataset.folder / _SCENES, folder)
            for number, _ in enumerate(threads.map(crop_scene, by_scene.values()), start=1):
                if number % 2_000 == 0:
                    log.info("%s: %d of %d scenes done", dataset.title, number, len(by_scene))
        source = {**facts, "num_images": dict(num_images)}
        (folder / _SOURCE).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")


def _make_folders(dataset: LocatedDataset, folder: Path) -> None:
    try:
        for part in _CAMERAS:
            (folder / part).mkdir(parents=True)
    except OSError as error:
        raise OSError(
            f"{dataset.title}: cannot extract images into {folder.parent} "
            f"({error.strerror or error}). Set benchmark.derived to a writable folder."
        ) from error


def _crop_scene(scenes: Path, folder: Path, crops: Sequence[_Crop]) -> None:
    """Write the crops of one scene."""
    path = scenes / crops[0].scene
    try:
        scene = open_rgb(path)
    except UnreadableImageError as error:
        raise ValueError(f"{path}: expected an image ({error}); download it again") from error
    for crop in crops:
        x, y, width, height = crop.box
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, scene.width), min(y + height, scene.height)
        if left >= right or top >= bottom:
            raise ValueError(
                f"{path}: the box of person {crop.person_id}, (x, y, width, height) = {crop.box}, "
                f"is outside of the {scene.width} x {scene.height} image. Download the annotation "
                "that matches these scenes."
            )
        scene.crop((left, top, right, bottom)).save(folder / crop.file, quality=_JPEG_QUALITY)


def _read_crops(dataset: LocatedDataset) -> list[_Crop]:
    """Read the crops of both annotation files, numbered in file order."""
    crops: list[_Crop] = []
    for file, appearances in (
        (dataset.folder / _TRAIN_MAT, _train_appearances),
        (dataset.folder / _TEST_MAT, _test_appearances),
    ):
        file_crops = _number_crops(file, appearances(file))
        scenes = (
            Record(str(dataset.folder / _SCENES / each.scene), each.person_id, 0)
            for each in file_crops
        )
        check_images(dataset, scenes, file)
        crops += file_crops
    return crops


def _number_crops(file: Path, appearances: Iterator[tuple[str, int, Any]]) -> list[_Crop]:
    numbers: Counter[str] = Counter()
    crops: list[_Crop] = []
    for part, person_id, appearance in appearances:
        scene = _field(file, appearance, "imname")
        match = _SCENE_NAME.fullmatch(str(scene))
        if match is None:
            raise ValueError(f"{file}: expected a scene like 's123.jpg', got {scene!r}")
        # Convert to int: boxes may be stored as bytes, for which x + width overflows.
        box = tuple(int(each) for each in np.ravel(_field(file, appearance, "idlocate")))
        if len(box) != 4:
            raise ValueError(
                f"{file}: expected a box (x, y, width, height) of person {person_id} in {scene}, "
                f"got {list(box)}"
            )
        hard = int(np.any(_field(file, appearance, "ishard")))
        name = f"{person_id:05d}_{match[1]}_{numbers[part]:07d}_{hard}.jpg"
        numbers[part] += 1
        crops.append(_Crop(scene, person_id, box, f"{part}/{name}"))
    return crops


def _train_appearances(file: Path) -> Iterator[tuple[str, int, Any]]:
    """Yield folder, person id and appearance from `Train`: people with all their scenes."""
    for person in _entries(_load(file, "Train")):
        person_id = _person_id(file, person)
        for appearance in _entries(_field(file, person, "scene")):
            yield "train", person_id, appearance


def _test_appearances(file: Path) -> Iterator[tuple[str, int, Any]]:
    """Yield the same from `TestG50`: searches with one query and 50 gallery scenes each."""
    for search in _entries(_load(file, "TestG50")):
        query = _field(file, search, "Query")
        person_id = _person_id(file, query)
        yield "query", person_id, query
        for appearance in _entries(_field(file, search, "Gallery")):
            if np.size(_field(file, appearance, "idlocate")):
                yield "gallery", person_id, appearance


def _load(file: Path, name: str) -> Any:
    """Read a variable of a MATLAB file; structures become dicts, structure arrays lists."""
    from scipy.io import loadmat  # slow import (1 s), needed only here

    try:
        variables = loadmat(file, simplify_cells=True)
    except Exception as error:  # scipy raises many types for damaged files
        raise ValueError(
            f"{file}: expected a MATLAB file ({type(error).__name__}: {error}). The file is "
            "damaged or incomplete; download it again."
        ) from error
    return _field(file, {key: variables[key] for key in variables if key[0] != "_"}, name)


def _entries(value: Any) -> list[Any]:
    """Return the elements of a structure array; the parser unwraps arrays of one element."""
    return list(value) if isinstance(value, (list, np.ndarray)) else [value]


def _field(file: Path, structure: Any, name: str) -> Any:
    if isinstance(structure, dict) and name in structure:
        return structure[name]
    present = ", ".join(structure) if isinstance(structure, dict) else repr(structure)[:60]
    raise ValueError(
        f"{file}: expected {name!r}, found {present}. Download the annotation of the public "
        "release."
    )


def _person_id(file: Path, structure: Any) -> int:
    name = _field(file, structure, "idname")
    match = _PERSON_NAME.fullmatch(str(name))
    if match is None:
        raise ValueError(f"{file}: expected a person like 'p123', got {name!r}")
    return int(match[1])
