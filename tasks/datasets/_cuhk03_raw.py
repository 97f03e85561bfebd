"""Extraction of the raw CUHK03 release: one MATLAB file with all images, to a folder of PNGs.

`cuhk-03.mat` (version 7.3, which is HDF5) has, for `labeled` and `detected` boxes, a cell array of
five camera pairs. Each is a cell array of people x 10 images, five by the first camera of the pair
and five by the second; some cells are empty. `testsets` lists the 100 test people of each of 20
splits, as camera pair and person. HDF5 reverses the dimensions of MATLAB arrays, so an image of
height x width x 3 is read as 3 x width x height.
`cuhk03_new_protocol_config_{labeled,detected}.mat` (version 5) lists file names, and 1-based
indices of training, query and gallery images. Zhong et al., "Re-ranking Person
Re-identification with k-reciprocal Encoding", CVPR 2017.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from tasks.dataset_files import (
    LocatedDataset,
    atomic_folder,
    check_may_extract,
    read_json,
    write_json,
)
from tasks.datasets._matlab import read_mat

RAW_FILE = "cuhk03_release/cuhk-03.mat"
FILE_NAME = re.compile(r"([1-9])_(\d{3})_([12])_(\d{2})\.(?:png|jpe?g)", re.IGNORECASE)
_IMAGES_PER_PERSON, _IMAGES_PER_CAMERA = 10, 5
_INDICES = {"train": "train_idx", "query": "query_idx", "gallery": "gallery_idx"}

Entries = dict[str, list[list[str | int]]]


def person_of(pair: int, person: int) -> int:
    """Return the id of a person of a camera pair: 1 and 843 give 1843."""
    return 1000 * pair + person


def extract_images(dataset: LocatedDataset, boxes: str, target: Path) -> None:
    """Extract the raw file to `target`/images_<boxes> unless this was done before.

    The folder is created atomically, so an interrupted extraction leaves no incomplete data set.

    Raises:
        ValueError: the raw file is damaged, or `target` was extracted from another file.
        OSError: `target` is not writable.
    """
    images = target / f"images_{boxes}"
    _check_source(dataset, dataset.folder / RAW_FILE, target)
    if images.is_dir():
        return
    check_may_extract(dataset)
    logging.getLogger(__name__).info(
        "%s: extracting %s images into %s (once)", dataset.title, boxes, images
    )
    with atomic_folder(images) as folder:
        folder.mkdir()
        for name, pixels in _raw_images(dataset, boxes):
            Image.fromarray(pixels).save(folder / name)


def write_splits(dataset: LocatedDataset, boxes: str, protocol: str, target: Path) -> None:
    """Write `target`/splits_<protocol>_<boxes>.json unless it exists.

    Raises:
        FileNotFoundError: the file of the new protocol is missing.
        ValueError: a file is damaged, or `target` was extracted from another file.
        OSError: `target` is not writable.
    """
    source = dataset.folder / RAW_FILE if protocol == "classic" else _protocol_file(dataset, boxes)
    _check_source(dataset, source, target)
    file = target / f"splits_{protocol}_{boxes}.json"
    if file.is_file():
        return
    check_may_extract(dataset)
    if protocol == "classic":
        names = sorted(os.listdir(target / f"images_{boxes}"))
        splits = [_classic_split(names, boxes, people) for people in _test_people(dataset)]
    else:
        splits = [_new_split(dataset, source, boxes)]
    write_json(file, splits)


def _check_source(dataset: LocatedDataset, file: Path, target: Path) -> None:
    """Record the source file of `target`, or check that its size is the recorded one."""
    sources_file = target / "source.json"
    size = file.stat().st_size
    sources: dict[str, int] = read_json(dataset, sources_file) if sources_file.is_file() else {}
    if sources.get(file.name, size) != size:
        raise ValueError(
            f"{dataset.title}: {target} was extracted from another {file.name} "
            f"({sources[file.name]} bytes) than {file} ({size} bytes). Delete {target} to extract "
            "it again."
        )
    if file.name in sources:
        return
    check_may_extract(dataset)
    try:
        write_json(sources_file, {**sources, file.name: size})
    except OSError as error:
        raise OSError(
            f"{dataset.title}: cannot extract images into {target} ({error.strerror or error}). "
            "Set benchmark.derived to a writable folder."
        ) from error


def _raw_images(dataset: LocatedDataset, boxes: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield file name and pixels, uint8 [height, width, 3], of every image."""
    with _open(dataset) as mat:
        for pair, people in enumerate(_cells(mat, boxes), start=1):
            if people.ndim != 2 or people.shape[0] != _IMAGES_PER_PERSON:
                raise ValueError(
                    f"{dataset.title}: expected {_IMAGES_PER_PERSON} images of each person in "
                    f"{boxes} of {mat.filename}; camera pair {pair} is an array of {people.shape}"
                )
            for person, references in enumerate(people.T, start=1):
                for number, reference in enumerate(references, start=1):
                    pixels = _dataset(mat, reference)
                    if pixels.ndim == 3:  # empty cells have other dimensions
                        yield _image_name(pair, person, number), _transpose(dataset, pixels)


def _image_name(pair: int, person: int, number: int) -> str:
    view = 1 if number <= _IMAGES_PER_CAMERA else 2
    return f"{pair}_{person:03d}_{view}_{number:02d}.png"


def _transpose(dataset: LocatedDataset, pixels: h5py.Dataset) -> np.ndarray:
    """Convert an image from [3, width, height], as in HDF5, to [height, width, 3]."""
    if pixels.shape[0] != 3 or pixels.dtype != np.uint8:
        raise ValueError(
            f"{dataset.title}: expected images of 3 x width x height bytes in "
            f"{dataset.folder / RAW_FILE}; got {pixels.shape} of {pixels.dtype}"
        )
    return np.ascontiguousarray(pixels[()].T)


def _test_people(dataset: LocatedDataset) -> list[set[tuple[int, int]]]:
    """Return camera pair and person of the test people of each classic split."""
    with _open(dataset) as mat:
        return [
            {(int(pair), int(person)) for pair, person in people.T}
            for people in _cells(mat, "testsets")
        ]


def _cells(mat: h5py.File, name: str) -> list[np.ndarray]:
    """Read the arrays in a MATLAB cell array; their dimensions are reversed."""
    return [_dataset(mat, reference)[()] for reference in np.ravel(_dataset(mat, name)[()])]


def _dataset(mat: h5py.File, key: str | h5py.Reference) -> h5py.Dataset:
    value = mat[key]
    if not isinstance(value, h5py.Dataset):
        raise TypeError(f"{key} is not an array")
    return value


@contextmanager
def _open(dataset: LocatedDataset) -> Iterator[h5py.File]:
    file = dataset.folder / RAW_FILE
    try:
        with h5py.File(file) as mat:
            yield mat
    except (OSError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{dataset.title}: {file} is not the MATLAB file of version 7.3 of this data set "
            f"({error}). It is damaged or incomplete; download it again."
        ) from error


def _protocol_file(dataset: LocatedDataset, boxes: str) -> Path:
    """Find the file of the new protocol, beside the folder of the raw file or in it."""
    name = f"cuhk03_new_protocol_config_{boxes}.mat"
    for folder in (dataset.folder, (dataset.folder / RAW_FILE).parent):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"{dataset.title}: expected {name} in {dataset.folder}, which does not exist. Download it "
        "(Zhong et al., person-re-ranking), or set benchmark.cuhk03_protocol=classic, which needs "
        "no further file."
    )


def _classic_split(names: Iterable[str], boxes: str, test_people: set[tuple[int, int]]) -> Entries:
    """Use images of test people as both queries and gallery, all others for training."""
    train: list[list[str | int]] = []
    test: list[list[str | int]] = []
    for name in names:
        if match := FILE_NAME.fullmatch(name):
            person = int(match[1]), int(match[2])
            (test if person in test_people else train).append(_entry(match, boxes))
    return {"train": train, "query": test, "gallery": test}


def _new_split(dataset: LocatedDataset, file: Path, boxes: str) -> Entries:
    content = read_mat(dataset, file, ("filelist", *_INDICES.values()))
    names = [str(np.ravel(cell)[0]).strip() for cell in content["filelist"].ravel()]
    matches = [FILE_NAME.fullmatch(name) for name in names]
    if invalid := [name for name, match in zip(names, matches, strict=True) if match is None]:
        raise ValueError(
            f"{dataset.title}: expected names like 1_001_1_01.png in filelist of {file}; got "
            f"{invalid[0]!r}. Download the file of the new protocol."
        )
    split: Entries = {}
    for part, variable in _INDICES.items():
        indices = np.ravel(content[variable]).astype(int)
        if indices.size == 0 or indices.min() < 1 or indices.max() > len(names):
            raise ValueError(
                f"{dataset.title}: expected indices from 1 to {len(names)} in {variable} of "
                f"{file}, got others. Download the file of the new protocol."
            )
        listed = (matches[index - 1] for index in indices)
        split[part] = [_entry(match, boxes) for match in listed if match is not None]
    return split


def _entry(match: re.Match[str], boxes: str) -> list[str | int]:
    person_id = person_of(int(match[1]), int(match[2]))
    return [f"images_{boxes}/{match[0]}", person_id, int(match[3]) - 1]
