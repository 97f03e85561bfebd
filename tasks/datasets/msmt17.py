"""MSMT17, of which there are two versions: V1, and V2 with the faces blurred.

The version shows in the folders: `train/` and `test/` are V1, `mask_train_v2/` and `mask_test_v2/`
V2. Where both lie under one root, V2 is read; `benchmark.roots.msmt17` says otherwise. The lists
`list_{train,val,query,gallery}.txt` have lines like `0000/0000_000_01_0303morning_0015_0.jpg 0`:
the image below the train folder (train, val) or the test folder (query, gallery), and its person;
the third field of its name is the camera, 1 to 15.

The lists number training people from 0 to 1,040, and test people from 0 again. They are different
people, so 10,000 is added to the ids of the test people; training ids stay as listed, and with
them what "the 500 smallest ids" means. `list_val.txt` holds more images of the training people.
Whether it joins the training list differs in the literature: `msmt17_val_in_train`.
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
    Place,
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
# Path below the train or test folder (no "..", not absolute), camera in it, person.
_LINE = re.compile(r"((?:\w[^/\s]*/)*[^/_\s]+_[^/_\s]+_(\d+)_[^/\s]*\.\w+)\s+(\d+)")


def read(place: Place, options: ReadOptions) -> RawDomain:
    """Reads MSMT17; ids as listed, those of test people plus 10,000; camera ids count from 0.

    Raises:
        FileNotFoundError: a list or an image that it names does not exist.
        ValueError: a line of a list does not parse, or an image is listed twice.
    """
    train_folder, test_folder = (place.folder / name for name in _FOLDERS[place.layout.variant])
    train_lists = ["list_train.txt"]
    if options.msmt17_val_in_train:
        train_lists.append("list_val.txt")
    return RawDomain(
        name=place.name,
        train=_read_lists(place, train_lists, train_folder),
        test=Split(
            query=_read_lists(place, ["list_query.txt"], test_folder, TEST_ID_OFFSET),
            gallery=_read_lists(place, ["list_gallery.txt"], test_folder, TEST_ID_OFFSET),
        ),
        folder=place.folder,
        variant=place.layout.variant,
        facts={
            "val_in_train": options.msmt17_val_in_train,
            "test_ids": f"as listed + {TEST_ID_OFFSET}",
        },
    )


def _read_lists(
    place: Place, names: list[str], images: Path, offset: int = 0
) -> tuple[Record, ...]:
    """Records of the lists by path, each image once."""
    records: dict[str, Record] = {}
    for name in names:
        for record in _read_list(place, place.folder / name, images, offset):
            if record.image_path in records:
                listing = " and ".join(str(place.folder / each) for each in names)
                raise ValueError(
                    f"{place.title}: {listing} list{'s' if len(names) == 1 else ''} "
                    f"{record.image_path} twice, which would count it twice; fetch the list again"
                )
            records[record.image_path] = record
    return tuple(records[path] for path in sorted(records))


def _read_list(place: Place, file: Path, images: Path, offset: int) -> list[Record]:
    expected = f"expected an image and its person like '{EXAMPLE}'"
    again = "The file is damaged or cut off; fetch it again."
    records: list[Record] = []
    for number, line in enumerate(read_lines(place, file), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"{file}, line {number}: {expected}, got {line!r}. {again}")
        person_id = int(match[3])
        if person_id >= TEST_ID_OFFSET:
            raise ValueError(
                f"{file} names person {person_id}; expected ids below {TEST_ID_OFFSET}. Fetch the "
                "lists of MSMT17's authors."
            )
        records.append(Record(str(images / match[1]), offset + person_id, int(match[2]) - 1))
    if not records:
        raise ValueError(f"{file} lists no image; {expected}. {again}")
    check_images(place, records, file)
    return records
