from __future__ import annotations

from tests.tasks.datasets.miniatures.captioned import build, entry, list_faults
from tests.tasks.datasets.miniatures.painting import Miniature

ENTRIES = [
    entry(
        split,
        person,
        f"{person:04d}_c{camera}_{31 + camera:04d}.jpg",
        "A man.",
        text,
        key="img_path",
    )
    for split, people in (("train", (0, 1, 2)), ("val", (3,)), ("test", (4, 5)))
    for person in people
    for camera, text in ((1, "He wears grey."), (7, "His shoes are brown."), (14, "He walks."))
]

MINIATURES = {
    "rstpreid": Miniature(
        build=lambda root: build(root / "RSTPReid", "data_captions.json", ENTRIES, "img_path"),
        train=(9, 3, 1),
        query=(12, 2, 1),
        gallery=(6, 2, 1),
        variant="data_captions",
        faults=list_faults("RSTPReid/data_captions.json", "img_path"),
    )
}
