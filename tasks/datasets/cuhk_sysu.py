"""CUHK-SYSU: people cut out of street scenes and films, as lifelong re-identification uses them.

Two forms are read:

- extracted, `cuhksysu4reid/{train,query,gallery}/`: `00001_s1_0006339_0.jpg` is person 1 in
  scene 1, the crop's number, and whether the person is hard to see.
- the public release for person search, `Image/SSM/s1.jpg` and `annotation/`: the boxes of
  `Train.mat` and `TestG50.mat` are cut out into `<benchmark.derived>/cuhk_sysu`, once, and named in
  the same way. Training: all appearances of the training people; query: that of each search;
  gallery: the searches' other appearances of the person (scenes without it are left out).

No scene says which camera took it, so the training images are of camera 0, the gallery of 1 and
the queries of 2: with one camera for all, the camera rule would take every match away. As in the
literature, only people with at least four training images train.
Xiao et al., "Joint Detection and Identification Feature Learning for Person Search", CVPR 2017.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from tasks.dataset_files import (
    Counts,
    DatasetFacts,
    Layout,
    Place,
    ReadOptions,
    check_images,
    check_may_extract,
    named_images,
    read_json,
)
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
_FILE_NAME = re.compile(r"(\d+)_s\d+_\d+_\d+\.(?:jpe?g|png)", re.IGNORECASE)
_SCENE_NAME = re.compile(r"(s\d+)\.jpg")
_PERSON_NAME = re.compile(r"p(\d+)")
_MIN_TRAIN_IMAGES = 4
# Pillow's default, with which the extracted set of the literature was written.
_JPEG_QUALITY = 75
_CROP_RULE = f"boxes cut off at the image's edge, JPEG quality {_JPEG_QUALITY}"
_SOURCE = "source.json"


def read(place: Place, options: ReadOptions) -> RawDomain:
    """Reads CUHK-SYSU, extracting it first where it is raw; person ids are its own.

    Raises:
        FileNotFoundError: the annotation names a scene that does not exist.
        ValueError: a name, an annotation or a scene cannot be read, a box is empty, or what was
            extracted earlier belongs to another annotation.
    """
    facts: dict[str, Any] = {"train_rule": f"people with at least {_MIN_TRAIN_IMAGES} images"}
    variant, folder = "extracted", (place.folder / place.layout.needs[0]).parent
    if place.layout.variant == "raw":
        variant, folder = "extracted from raw", Path(options.derived).expanduser() / place.name
        facts |= _extract_once(place, folder)
    train, gallery, query = (
        _read_folder(place, folder / part, camera_id) for part, camera_id in _CAMERAS.items()
    )
    num_images = Counter(record.person_id for record in train)
    if max(num_images.values()) < _MIN_TRAIN_IMAGES:
        raise ValueError(
            f"{place.title}: none of the {len(num_images)} identities in {folder / 'train'} has "
            f"{_MIN_TRAIN_IMAGES} images, as training needs. Fetch or extract the data set again."
        )
    return RawDomain(
        name=place.name,
        train=tuple(each for each in train if num_images[each.person_id] >= _MIN_TRAIN_IMAGES),
        test=Split(query, gallery),
        folder=folder,
        variant=variant,
        facts=facts,
    )


def _read_folder(place: Place, folder: Path, camera_id: int) -> tuple[Record, ...]:
    return tuple(
        Record(str(image.path), int(image.match[1]), camera_id)
        for image in named_images(place, folder, _FILE_NAME, EXAMPLE)
    )


@dataclass(frozen=True, slots=True)
class _Crop:
    """A person to be cut out: box (x, y, width, height) in pixels; file as "train/<name>"."""

    scene: str
    person_id: int
    box: tuple[int, ...]
    file: str


def _extract_once(place: Place, target: Path) -> dict[str, Any]:
    """Makes `target`, or makes sure that it was made from this annotation; returns its facts."""
    if target.resolve().is_relative_to(place.folder.resolve()):
        raise ValueError(
            f"{place.title}: nothing is written into {place.folder}, where the data are; set "
            f"benchmark.derived to a folder outside, not {target.parent}"
        )
    facts = {"crops": _CROP_RULE}
    for file in (_TRAIN_MAT, _TEST_MAT):
        digest = hashlib.sha256((place.folder / file).read_bytes()).hexdigest()
        facts[f"{Path(file).name}_sha256"] = digest
    if not target.exists():
        check_may_extract(place)
        _extract(place, target, facts)
    _check_extracted(place, target, facts)
    return facts


def _check_extracted(place: Place, target: Path, facts: Mapping[str, Any]) -> None:
    source = read_json(place, target / _SOURCE) if (target / _SOURCE).is_file() else {}
    again = f"Delete {target} to have it extracted anew, or set benchmark.derived."
    if {name: source.get(name) for name in facts} != facts:
        raise ValueError(
            f"{place.title}: {target} was not extracted from the annotation in {place.folder}. "
            f"{again}"
        )
    for part, num_images in source["num_images"].items():
        images = os.listdir(target / part) if (target / part).is_dir() else []
        found = sum(not name.startswith(".") for name in images)
        if found != num_images:
            raise ValueError(
                f"{place.title}: {num_images} images were extracted into {target / part}, but "
                f"{found} are there. {again}"
            )


def _extract(place: Place, target: Path, facts: Mapping[str, Any]) -> None:
    """Cuts all people out into a hidden folder beside `target`, then renames it in one step."""
    log = logging.getLogger(__name__)
    crops = _planned_crops(place)
    by_scene: dict[str, list[_Crop]] = {}
    for crop in crops:
        by_scene.setdefault(crop.scene, []).append(crop)
    log.info(
        "%s: cutting %d images out of %d scenes into %s, once",
        place.title, len(crops), len(by_scene), target,
    )  # fmt: skip
    num_images = Counter(crop.file.split("/")[0] for crop in crops)
    making = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    try:
        _make_folders(place, making)
        # Threads do, as Pillow decodes and encodes outside the interpreter's lock.
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            cut = partial(_cut_scene, place.folder / _SCENES, making)
            for number, _ in enumerate(threads.map(cut, by_scene.values()), start=1):
                if number % 2_000 == 0:
                    log.info("%s: %d of %d scenes done", place.title, number, len(by_scene))
        source = {**facts, "num_images": dict(num_images)}
        (making / _SOURCE).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")
        try:
            making.rename(target)
        except OSError:
            # Another process was faster, which is as good; what it made is checked like our own.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _make_folders(place: Place, folder: Path) -> None:
    try:
        for part in _CAMERAS:
            (folder / part).mkdir(parents=True)
    except OSError as error:
        raise OSError(
            f"{place.title}: cannot extract images into {folder.parent} "
            f"({error.strerror or error}). Set benchmark.derived to a folder that can be written."
        ) from error


def _cut_scene(scenes: Path, folder: Path, crops: Sequence[_Crop]) -> None:
    """Writes the people of one scene."""
    path = scenes / crops[0].scene
    try:
        with Image.open(path) as opened:
            scene = opened.convert("RGB")
    except OSError as error:
        raise ValueError(f"{path}: expected an image ({error}); fetch it again") from error
    for crop in crops:
        x, y, width, height = crop.box
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, scene.width), min(y + height, scene.height)
        if left >= right or top >= bottom:
            raise ValueError(
                f"{path}: the box of person {crop.person_id}, (x, y, width, height) = {crop.box}, "
                f"holds nothing of the {scene.width} x {scene.height} image. Fetch the annotation "
                "that belongs to these scenes."
            )
        scene.crop((left, top, right, bottom)).save(folder / crop.file, quality=_JPEG_QUALITY)


def _planned_crops(place: Place) -> list[_Crop]:
    """What the two annotation files say to cut out, numbered in their order."""
    crops: list[_Crop] = []
    for file, appearances in (
        (place.folder / _TRAIN_MAT, _train_appearances),
        (place.folder / _TEST_MAT, _test_appearances),
    ):
        own = _numbered(file, appearances(file))
        scenes = (
            Record(str(place.folder / _SCENES / each.scene), each.person_id, 0) for each in own
        )
        check_images(place, scenes, file)
        crops += own
    return crops


def _numbered(file: Path, appearances: Iterator[tuple[str, int, Any]]) -> list[_Crop]:
    numbers: Counter[str] = Counter()
    crops: list[_Crop] = []
    for part, person_id, appearance in appearances:
        scene = _field(file, appearance, "imname")
        match = _SCENE_NAME.fullmatch(str(scene))
        if match is None:
            raise ValueError(f"{file}: expected a scene like 's123.jpg', got {scene!r}")
        # To int first: boxes may be stored in bytes, in which x + width overflows.
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
    """Folder, person and appearance, from `Train`: people, each with all scenes they are in."""
    for person in _entries(_load(file, "Train")):
        person_id = _person_id(file, person)
        for appearance in _entries(_field(file, person, "scene")):
            yield "train", person_id, appearance


def _test_appearances(file: Path) -> Iterator[tuple[str, int, Any]]:
    """The same from `TestG50`: searches, each with one query and 50 scenes to search in."""
    for search in _entries(_load(file, "TestG50")):
        query = _field(file, search, "Query")
        person_id = _person_id(file, query)
        yield "query", person_id, query
        for appearance in _entries(_field(file, search, "Gallery")):
            if np.size(_field(file, appearance, "idlocate")):
                yield "gallery", person_id, appearance


def _load(file: Path, name: str) -> Any:
    """A variable of a MATLAB file; structures as dicts, arrays of several as lists."""
    from scipy.io import loadmat  # a second to load, for these files alone

    try:
        variables = loadmat(file, simplify_cells=True)
    except Exception as error:  # scipy's parser fails on damaged files in too many ways to list
        raise ValueError(
            f"{file}: expected a MATLAB file ({type(error).__name__}: {error}). The file is "
            "damaged or cut off; fetch it again."
        ) from error
    return _field(file, {key: variables[key] for key in variables if key[0] != "_"}, name)


def _entries(value: Any) -> list[Any]:
    """The elements of a structure array, of which the parser unwraps a single one."""
    return list(value) if isinstance(value, (list, np.ndarray)) else [value]


def _field(file: Path, structure: Any, name: str) -> Any:
    if isinstance(structure, dict) and name in structure:
        return structure[name]
    found = ", ".join(structure) if isinstance(structure, dict) else repr(structure)[:60]
    raise ValueError(
        f"{file}: expected {name!r}, found {found}. Fetch the annotation of the public release."
    )


def _person_id(file: Path, structure: Any) -> int:
    name = _field(file, structure, "idname")
    match = _PERSON_NAME.fullmatch(str(name))
    if match is None:
        raise ValueError(f"{file}: expected a person like 'p123', got {name!r}")
    return int(match[1])
