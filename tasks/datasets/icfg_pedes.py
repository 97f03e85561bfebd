"""ICFG-PEDES: images of MSMT17, each with one detailed caption.

`imgs/` has the folders of MSMT17, so `imgs/test/0627/0627_010_05_0303noon_1313_0.jpg` can be a
training image: `ICFG-PEDES.json` (in some copies `ICFG_PEDES.json`) defines the split of an image.
There is no validation split.
Ding et al., "Semantically Self-Aligned Network for Text-to-Image Part-aware Person
Re-identification", arXiv 2107.12666, 2021.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from tasks.dataset_files import Counts, DatasetFacts, Layout, LocatedDataset, ReadOptions
from tasks.datasets._captions import (
    IMAGES,
    TEST,
    TRAIN,
    Entry,
    captioned_domain,
    people_by_split,
    read_entries,
)
from tasks.schema import RawDomain

# 34,674 training captions. The number of training images is omitted: published counts differ by
# one, probably because an image is listed twice.
_EXPECTED = {
    "train": Counts(identities=3_102),
    "query": Counts(19_848, 1_000),
    "gallery": Counts(19_848, 1_000),
}
FACTS = DatasetFacts(
    title="ICFG-PEDES",
    folders=("ICFG-PEDES", "icfg_pedes"),
    layouts=(
        Layout("released", needs=("ICFG-PEDES.json", IMAGES), expected=_EXPECTED),
        Layout("released", needs=("ICFG_PEDES.json", IMAGES), expected=_EXPECTED),
    ),
    licence="by request to the authors; images of MSMT17, whose terms hold: research only",
    source="Ding et al., Semantically Self-Aligned Network for Text-to-Image Part-aware Person "
    "Re-identification, arXiv 2107.12666, 2021",
)


def read(dataset: LocatedDataset, options: ReadOptions) -> RawDomain:
    """Read ICFG-PEDES; original person ids (or test ids + offset), test captions are queries.

    Raises:
        FileNotFoundError: a listed image does not exist.
        ValueError: the list is damaged or inconsistent; names the entry.
    """
    entries = read_entries(dataset)
    offset = _test_id_offset(entries)
    raw = captioned_domain(
        dataset,
        [
            replace(entry, person_id=entry.person_id + offset) if entry.split == TEST else entry
            for entry in entries
        ],
    )
    return replace(raw, facts={**raw.facts, "added_to_test_ids": offset})


def _test_id_offset(entries: Sequence[Entry]) -> int:
    """Return the offset that makes test ids distinct if training and test ids start at 0, else 0.

    MSMT17 has one folder per person. A shared id with different folders in training and test
    denotes two people. A shared id with a common folder denotes one person in both splits; the
    ids then stay unchanged, and the check of the splits reports the error.
    """
    people = people_by_split(entries)
    shared = people[TRAIN] & people[TEST]
    folders: defaultdict[tuple[str, int], set[PurePosixPath]] = defaultdict(set)
    for entry in entries:
        folders[entry.split, entry.person_id].add(PurePosixPath(entry.path).parent)
    if any(folders[TRAIN, each] & folders[TEST, each] for each in shared):
        return 0
    return 1 + max(people[TRAIN]) if shared else 0
