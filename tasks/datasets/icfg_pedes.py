"""ICFG-PEDES: images of MSMT17, each with one detailed caption.

`imgs/` keeps MSMT17's folders, so `imgs/test/0627/0627_010_05_0303noon_1313_0.jpg` may well be a
training image: `ICFG-PEDES.json` (some copies: `ICFG_PEDES.json`) says which split an image is in.
There is no validation split.
Ding et al., "Semantically Self-Aligned Network for Text-to-Image Part-aware Person
Re-identification", arXiv 2107.12666, 2021.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from tasks.dataset_files import Counts, DatasetFacts, Layout, Place, ReadOptions
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

# 34,674 training captions; the number of training images is left open, as counts differ by one:
# an image seems to be listed twice.
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


def read(place: Place, options: ReadOptions) -> RawDomain:
    """Reads ICFG-PEDES; person ids are its own, the caption of each test image is a query.

    Raises:
        FileNotFoundError: a listed image does not exist.
        ValueError: the list is damaged or contradicts itself; says where.
    """
    entries = read_entries(place)
    added = _added_to_test_ids(entries)
    raw = captioned_domain(
        place,
        [
            replace(entry, person_id=entry.person_id + added) if entry.split == TEST else entry
            for entry in entries
        ],
    )
    return replace(raw, facts={**raw.facts, "added_to_test_ids": added})


def _added_to_test_ids(entries: Sequence[Entry]) -> int:
    """What tells test people apart from training people where both are numbered from 0, else 0.

    MSMT17 has a folder for each person: an id that stands for other folders in training than in
    test is a number used twice. An id with a folder in both is a person in both, which is wrong
    and stays as it is.
    """
    people = people_by_split(entries)
    used_twice = people[TRAIN] & people[TEST]
    folders: defaultdict[tuple[str, int], set[PurePosixPath]] = defaultdict(set)
    for entry in entries:
        folders[entry.split, entry.person_id].add(PurePosixPath(entry.path).parent)
    if any(folders[TRAIN, each] & folders[TEST, each] for each in used_twice):
        return 0
    return 1 + max(people[TRAIN]) if used_twice else 0
