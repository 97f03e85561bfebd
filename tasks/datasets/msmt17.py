"""MSMT17, versions V1 and V2 (V2 has blurred faces).

Folders `train/` and `test/` are V1, `mask_train_v2/` and `mask_test_v2/` are V2. If both are under
one root, V2 is read; set `benchmark.roots.msmt17` to read V1. The lists
`list_{train,val,query,gallery}.txt` have lines like `0000/0000_000_01_0303morning_0015_0.jpg 0`:
path relative to the train folder (train, val) or test folder (query, gallery), and person id. The
third field of the file name is the camera, 1 to 15.

Training ids are 0 to 1,040, test ids also start at 0 but denote other people. Therefore 10,000 is
added to test ids; training ids stay unchanged, so "the 500 smallest ids" selects the same people.
`list_val.txt` has further images of the training people. The literature differs on whether they
are training images; see `msmt17_val_in_train`.
Wei et al., "Person Transfer GAN to Bridge Domain Gap for Person Re-identification", CVPR 2018.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tasks.dataset_files import (
    Counts,
    DatasetFacts,
    Layout,
    LocatedDataset,
    ReadOptions,
    check_images,
    read_lines,
)
from tasks.schema import RawDomain, Record, Split

TEST_ID_OFFSET = 10_000
_FOLDERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
)
_EXPECTED = {
    "train": Counts(30_248, 1_041, 15),  # 32,621 images with list_val.txt
    "query": Counts(11_659, 3_060, 15),
    "gallery": Counts(82_161, 3_060, 15),
}
FACTS = DatasetFacts(
    title="MSMT17",
    folders=(
        "MSMT17_V2",
        "MSMT17_V1",
        "MSMT17",
        "msmt17",
        "MSMT17/MSMT17_V2",
        "MSMT17/MSMT17_V1",
        "msmt17/MSMT17_V2",
        "msmt17/MSMT17_V1",
    ),
    layouts=tuple(
        Layout(
            version,
            needs=(*folders, "list_train.txt", "list_query.txt", "list_gallery.txt"),
            expected=_EXPECTED,
        )
        for version, folders in _FOLDERS.items()
    ),
    licence="research only",
    source="Wei et al., Person Transfer GAN to Bridge Domain Gap for Person Re-identification, "
    "CVPR 2018",
)
EXAMPLE = "0000/0000_000_01_0303morning_0015_0.jpg 0"
# Relative path (no "..", not absolute), camera in the file name, person id.
_LINE = re.compile(r"((?:\w[^/\s]*/)*[^/_\s]+_[^/_\s]+_(\d+)_[^/\s]*\.\w+)\s+(\d+)")


def read(dataset: LocatedDataset, options: ReadOptions) -> RawDomain:
    """Read MSMT17; listed person ids, plus 10,000 for test people; camera ids start at 0.

    Raises:
        FileNotFoundError: a list or a listed image does not exist.
        ValueError: a line of a list does not parse, or an image is listed twice.
    """
    train_folder, test_folder = (dataset.folder / name for name in _FOLDERS[dataset.layout.variant])
    train_lists = ["list_train.txt"]
    if options.msmt17_val_in_train:
        train_lists.append("list_val.txt")
    return RawDomain(
        name=dataset.name,
        train=_read_lists(dataset, train_lists, train_folder),
        test=Split(
            query=_read_lists(dataset, ["list_query.txt"], test_folder, TEST_ID_OFFSET),
            gallery=_read_lists(dataset, ["list_gallery.txt"], test_folder, TEST_ID_OFFSET),
        ),
        folder=dataset.folder,
        variant=dataset.layout.variant,
        facts={
            "val_in_train": options.msmt17_val_in_train,
            "test_ids": f"as listed + {TEST_ID_OFFSET}",
        },
    )


def _read_lists(
    dataset: LocatedDataset, names: list[str], images: Path, offset: int = 0
) -> tuple[Record, ...]:
    """Read lists and return the records sorted by path; reject repeated images."""
    records: dict[str, Record] = {}
    for name in names:
        for record in _read_list(dataset, dataset.folder / name, images, offset):
            if record.image_path in records:
                listing = " and ".join(str(dataset.folder / each) for each in names)
                raise ValueError(
                    f"{dataset.title}: {listing} list{'s' if len(names) == 1 else ''} "
                    f"{record.image_path} twice; download the list again"
                )
            records[record.image_path] = record
    return tuple(records[path] for path in sorted(records))


def _read_list(dataset: LocatedDataset, file: Path, images: Path, offset: int) -> list[Record]:
    expected = f"expected an image and its person like '{EXAMPLE}'"
    again = "The file is damaged or incomplete; download it again."
    records: list[Record] = []
    for number, line in enumerate(read_lines(dataset, file), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"{file}, line {number}: {expected}, got {line!r}. {again}")
        person_id = int(match[3])
        if person_id >= TEST_ID_OFFSET:
            raise ValueError(
                f"{file}, line {number}: expected a person id below {TEST_ID_OFFSET}, got "
                f"{person_id}. Download the original lists."
            )
        records.append(Record(str(images / match[1]), offset + person_id, int(match[2]) - 1))
    if not records:
        raise ValueError(f"{file} lists no image; {expected}. {again}")
    check_images(dataset, records, file)
    return records
