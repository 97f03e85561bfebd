"""CUHK03 as its authors give it: one MATLAB file with all images, made into a folder of PNGs.

`cuhk-03.mat` (version 7.3, which is HDF5) holds, for `labeled` and for `detected` boxes, a cell of
five camera pairs; each of these a cell of people x 10 images, the first five by the pair's first
camera, the others by its second, some cells empty. `testsets` lists the 100 people who are tested,
as camera pair and person, in each of 20 splits. HDF5 shows MATLAB's arrays with their dimensions
reversed, so an image of height x width x 3 comes as 3 x width x height.
`cuhk03_new_protocol_config_{labeled,detected}.mat` (version 5) lists file names, and 1-based
positions among them for training, queries and gallery. Zhong et al., "Re-ranking Person
Re-identification with k-reciprocal Encoding", CVPR 2017.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from tasks.dataset_files import Place, check_may_extract, read_json
from tasks.datasets._matlab import read_mat
from tasks.protocol.split_files import write_json

RAW_FILE = "cuhk03_release/cuhk-03.mat"
FILE_NAME = re.compile(r"([1-9])_(\d{3})_([12])_(\d{2})\.(?:png|jpe?g)", re.IGNORECASE)
_IMAGES_EACH, _BY_FIRST_CAMERA = 10, 5
_INDICES = {"train": "train_idx", "query": "query_idx", "gallery": "gallery_idx"}

Entries = dict[str, list[list[str | int]]]


def person_of(pair: int, person: int) -> int:
    """One number for camera pair and person: 1 and 843 make 1843."""
    return 1000 * pair + person


def extract_images(place: Place, boxes: str, target: Path) -> None:
    """Makes the folder `target`/images_<boxes> from the raw file, unless that was done before.

    It appears as a whole or not at all: an extraction that is interrupted leaves nothing to be
    taken for the data set.

    Raises:
        ValueError: the raw file is damaged, or what is there was made from another one.
        OSError: `target` cannot be written; what to set is said.
    """
    images = target / f"images_{boxes}"
    _check_source(place, place.folder / RAW_FILE, target)
    if images.is_dir():
        return
    check_may_extract(place)
    logging.getLogger(__name__).info(
        "%s: extracting %s images into %s, once", place.title, boxes, images
    )
    partial = target / f".images_{boxes}-{uuid.uuid4().hex[:8]}"
    try:
        partial.mkdir()
        for name, pixels in _raw_images(place, boxes):
            Image.fromarray(pixels).save(partial / name)
        _rename(partial, images)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_splits(place: Place, boxes: str, protocol: str, target: Path) -> None:
    """Writes `target`/splits_<protocol>_<boxes>.json, unless it is there already.

    Raises:
        FileNotFoundError: the new protocol's file is missing.
        ValueError: a file is damaged, or what is there was made from another one.
        OSError: `target` cannot be written; what to set is said.
    """
    source = place.folder / RAW_FILE if protocol == "classic" else _protocol_file(place, boxes)
    _check_source(place, source, target)
    file = target / f"splits_{protocol}_{boxes}.json"
    if file.is_file():
        return
    check_may_extract(place)
    if protocol == "classic":
        names = sorted(os.listdir(target / f"images_{boxes}"))
        splits = [_classic_split(names, boxes, tested) for tested in _tested_people(place)]
    else:
        splits = [_new_split(place, source, boxes)]
    write_json(file, splits)


def _check_source(place: Place, file: Path, target: Path) -> None:
    """Notes in `target` what it is made from; a file of another size is another one."""
    notes = target / "source.json"
    size = file.stat().st_size
    noted: dict[str, int] = read_json(place, notes) if notes.is_file() else {}
    if noted.get(file.name, size) != size:
        raise ValueError(
            f"{place.title}: {target} was made from another {file.name} ({noted[file.name]} bytes) "
            f"than {file} ({size} bytes). Delete {target} to have it made again."
        )
    if file.name in noted:
        return
    check_may_extract(place)
    try:
        write_json(notes, {**noted, file.name: size})
    except OSError as error:
        raise OSError(
            f"{place.title}: cannot extract images into {target} ({error.strerror or error}). Set "
            "benchmark.derived to a folder that can be written."
        ) from error


def _rename(partial: Path, images: Path) -> None:
    try:
        partial.rename(images)
    except OSError:
        if not images.is_dir():  # else another process has been faster, with the same images
            raise


def _raw_images(place: Place, boxes: str) -> Iterator[tuple[str, np.ndarray]]:
    """File name and pixels, uint8 [height, width, 3], of every image that is there."""
    with _open(place) as mat:
        for pair, people in enumerate(_cells(mat, boxes), start=1):
            if people.ndim != 2 or people.shape[0] != _IMAGES_EACH:
                raise ValueError(
                    f"{place.title}: expected {_IMAGES_EACH} images of each person in {boxes} of "
                    f"{mat.filename}; camera pair {pair} is an array of {people.shape}"
                )
            for person, references in enumerate(people.T, start=1):
                for number, reference in enumerate(references, start=1):
                    pixels = _dataset(mat, reference)
                    if pixels.ndim == 3:  # an empty cell has other dimensions
                        yield _image_name(pair, person, number), _upright(place, pixels)


def _image_name(pair: int, person: int, number: int) -> str:
    view = 1 if number <= _BY_FIRST_CAMERA else 2
    return f"{pair}_{person:03d}_{view}_{number:02d}.png"


def _upright(place: Place, pixels: h5py.Dataset) -> np.ndarray:
    """An image as [height, width, 3] of what HDF5 shows as [3, width, height]."""
    if pixels.shape[0] != 3 or pixels.dtype != np.uint8:
        raise ValueError(
            f"{place.title}: expected images of 3 x width x height bytes in "
            f"{place.folder / RAW_FILE}; got {pixels.shape} of {pixels.dtype}"
        )
    return np.ascontiguousarray(pixels[()].T)


def _tested_people(place: Place) -> list[set[tuple[int, int]]]:
    """Camera pair and person of those who are tested, for each of the classic splits."""
    with _open(place) as mat:
        return [
            {(int(pair), int(person)) for pair, person in tested.T}
            for tested in _cells(mat, "testsets")
        ]


def _cells(mat: h5py.File, name: str) -> list[np.ndarray]:
    """What the cells of a MATLAB cell array hold, dimensions reversed."""
    return [_dataset(mat, reference)[()] for reference in np.ravel(_dataset(mat, name)[()])]


def _dataset(mat: h5py.File, key: str | h5py.Reference) -> h5py.Dataset:
    found = mat[key]
    if not isinstance(found, h5py.Dataset):
        raise TypeError(f"{key} is no array")
    return found


@contextmanager
def _open(place: Place) -> Iterator[h5py.File]:
    file = place.folder / RAW_FILE
    try:
        with h5py.File(file) as mat:
            yield mat
    except (OSError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{place.title}: {file} is not the data set's MATLAB file of version 7.3 ({error}). It "
            "is damaged or cut off; fetch it again."
        ) from error


def _protocol_file(place: Place, boxes: str) -> Path:
    """The new protocol's file, beside the raw file's folder or in it."""
    name = f"cuhk03_new_protocol_config_{boxes}.mat"
    for folder in (place.folder, (place.folder / RAW_FILE).parent):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"{place.title}: expected {name} in {place.folder}; there is none. Fetch it (Zhong et al., "
        "person-re-ranking), or set benchmark.cuhk03_protocol=classic, which needs no further file."
    )


def _classic_split(names: Iterable[str], boxes: str, tested: set[tuple[int, int]]) -> Entries:
    """The tested people's images are both queries and gallery; all others train."""
    train: list[list[str | int]] = []
    test: list[list[str | int]] = []
    for name in names:
        if match := FILE_NAME.fullmatch(name):
            person = int(match[1]), int(match[2])
            (test if person in tested else train).append(_entry(match, boxes))
    return {"train": train, "query": test, "gallery": test}


def _new_split(place: Place, file: Path, boxes: str) -> Entries:
    content = read_mat(place, file, ("filelist", *_INDICES.values()))
    names = [str(np.ravel(cell)[0]).strip() for cell in content["filelist"].ravel()]
    matches = [FILE_NAME.fullmatch(name) for name in names]
    if odd := [name for name, match in zip(names, matches, strict=True) if match is None]:
        raise ValueError(
            f"{place.title}: expected names like 1_001_1_01.png in filelist of {file}; got "
            f"{odd[0]!r}. Fetch the file of the new protocol."
        )
    split: Entries = {}
    for part, variable in _INDICES.items():
        indices = np.ravel(content[variable]).astype(int)
        if indices.size == 0 or indices.min() < 1 or indices.max() > len(names):
            raise ValueError(
                f"{place.title}: expected positions from 1 to {len(names)} in {variable} of {file};"
                " got others. Fetch the file of the new protocol."
            )
        listed = (matches[index - 1] for index in indices)
        split[part] = [_entry(match, boxes) for match in listed if match is not None]
    return split


def _entry(match: re.Match[str], boxes: str) -> list[str | int]:
    person_id = person_of(int(match[1]), int(match[2]))
    return [f"images_{boxes}/{match[0]}", person_id, int(match[3]) - 1]
