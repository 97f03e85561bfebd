from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.tasks.datasets.miniatures.captioned import build, entry, list_faults
from tests.tasks.datasets.miniatures.painting import Fault, Miniature

ENTRIES = [
    entry("train", 1, "CUHK03/1_0.jpg", "A man in a red shirt.", "He has  short\nhair. "),
    entry("test", 13, "train_query/p9_s2.jpg", "A tall woman.", "She walks."),
    entry("train", 1, "CUHK01/0001003.png", "The man wears jeans.", "A red shirt."),
    entry("train", 2, "Market/0002_c1s1_000451_03.jpg", "A girl.", "A child.", "Somebody small."),
    entry("val", 11, "cam_a/11.jpg", "A man with a bag.", "The bag is blue."),
    entry("train", 2, "Market/0002_c3s1_000451_03.jpg", "A girl in white.", "White shoes."),
    entry("train", 3, "train_query/p10_s1.jpg", "An old man.", "He is bald."),
    entry("val", 12, "cam_b/12.jpg", "A woman in black.", "Black boots."),
    entry("test", 13, "train_query/p10_s2.jpg", "A woman.", "She carries a cup."),
    entry("test", 14, "test_query/p1_s2.jpg", "A man in a coat.", "The coat is long.", "A man."),
]
_LIST = "CUHK-PEDES/reid_raw.json"


def _other_release(root: Path) -> None:
    (root / _LIST).rename(root / "CUHK-PEDES" / "caption_all.json")


def _with_ids(ids: dict[str, int]) -> Callable[[Path], None]:
    """Give all people of a split one id."""

    def damage(root: Path) -> None:
        changed = [{**each, "id": ids.get(each["split"], each["id"])} for each in ENTRIES]
        (root / _LIST).write_text(json.dumps(changed), encoding="utf-8")

    return damage


MINIATURES = {
    "cuhk_pedes": Miniature(
        build=lambda root: build(root / "CUHK-PEDES", "reid_raw.json", ENTRIES),
        train=(5, 3, 1),
        query=(7, 2, 1),
        gallery=(3, 2, 1),
        variant="reid_raw",
        faults={
            **list_faults(_LIST),
            "another release": Fault(
                _other_release, ("expected reid_raw.json under", "found caption_all.json, imgs/")
            ),
            "person trains and validates": Fault(
                _with_ids({"val": 1}),
                (r"has person 1 in train and in val\. Expected each person in one split",),
            ),
            "person trains and is tested": Fault(
                _with_ids({"test": 2}), (r"has person 2 in train and in test\. Expected",)
            ),
            "people validate and are tested": Fault(
                _with_ids({"test": 11}), (r"has person 11 in val and in test\. Expected",)
            ),
        },
    )
}
