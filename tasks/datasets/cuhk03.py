"""CUHK03: 1,467 people before five pairs of cameras, in boxes drawn by people or by a detector.

`images_labeled/` and `images_detected/` hold files like `1_001_2_06.png`: camera pair 1, person 1
of that pair, view 2 (the pair's second camera), image 6. `splits_new_labeled.json` and its like say
who trains. Where only the authors' MATLAB files are there, such a folder is made from them first,
below benchmark.derived.

Split files number people anew in each list, so that training and test share numbers; here a
person's id is 1000 x camera pair + person, which is one and the same in all of them. "The n
smallest ids" are thus the first people of the first camera pair.
Li, Zhao, Xiao, Wang, "DeepReID: Deep Filter Pairing Neural Network for Person Re-identification",
CVPR 2014; new protocol: Zhong et al., CVPR 2017.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tasks.dataset_files import Counts, DatasetFacts, Layout, Place, ReadOptions, named_images
from tasks.datasets._cuhk03_raw import (
    FILE_NAME,
    RAW_FILE,
    extract_images,
    person_of,
    write_splits,
)
from tasks.protocol.splits import SplitPlan, own_split_file, split_from_file
from tasks.schema import RawDomain, Record

_LABELED = {
    "train": Counts(7_368, 767, 2),
    "query": Counts(1_400, 700, 2),
    "gallery": Counts(5_328, 700, 2),
}
_DETECTED = {
    "train": Counts(7_365, 767, 2),
    "query": Counts(1_400, 700, 2),
    "gallery": Counts(5_332, 700, 2),
}
FACTS = DatasetFacts(
    title="CUHK03",
    folders=("CUHK03_lifelong", "CUHK03", "cuhk03"),
    layouts=(
        Layout("extracted", ("images_labeled", "splits_new_labeled.json"), _LABELED),
        Layout("extracted", ("images_detected", "splits_new_detected.json"), _DETECTED),
        Layout("raw", (RAW_FILE,), _LABELED),
    ),
    licence="research only",
    source="Li et al., DeepReID: Deep Filter Pairing Neural Network for Person Re-identification, "
    "CVPR 2014",
)


def read(place: Place, options: ReadOptions) -> RawDomain:
    """Reads CUHK03 with the boxes and the protocol of the options; views are cameras 0 and 1.

    The new protocol has one split. Of the classic one's, `options.split_index` chooses; all images
    of its tested people are both queries and gallery.

    Raises:
        FileNotFoundError, ValueError, OSError: what is missing or wrong, and what to do.
    """
    boxes, protocol = options.cuhk03_boxes, options.cuhk03_protocol
    split_file = f"splits_{protocol}_{boxes}.json"
    place = _extracted(place, options, split_file)
    images = tuple(
        Record(
            str(image.path),
            person_of(int(image.match[1]), int(image.match[2])),
            camera_id=int(image.match[3]) - 1,
        )
        for image in named_images(
            place, place.folder / f"images_{boxes}", FILE_NAME, "1_001_2_06.png"
        )
    )
    given = place.name in options.split_files
    raw = split_from_file(
        place,
        SplitPlan(images, people=(), arrangements=()),
        own_split_file(place, options) if given else place.folder / split_file,
        index=options.split_index if protocol == "classic" else 0,
        source="file" if given else split_file,
    )
    return replace(raw, facts={**raw.facts, "boxes": boxes, "protocol": protocol})


def _extracted(place: Place, options: ReadOptions, split_file: str) -> Place:
    """The folder with images and splits: the data set's own, else the one made from raw files."""
    boxes = options.cuhk03_boxes
    given = place.name in options.split_files
    needs = [f"images_{boxes}"] if given else [f"images_{boxes}", split_file]
    lacking = [need for need in needs if not (place.folder / need).exists()]
    if not lacking:
        return replace(place, layout=replace(place.layout, variant="extracted"))
    if not (place.folder / RAW_FILE).is_file():
        raise FileNotFoundError(
            f"{place.title}: expected {lacking[0]} under {place.folder}, as "
            f"benchmark.cuhk03_boxes={boxes} and benchmark.cuhk03_protocol="
            f"{options.cuhk03_protocol} need; there is none. Fetch it, or {RAW_FILE}, from which "
            "it can be made."
        )
    # Absolute, as other processes than this one will open the images.
    target = (Path(options.derived).expanduser() / "cuhk03").absolute()
    extract_images(place, boxes, target)
    if not given:
        write_splits(place, boxes, options.cuhk03_protocol, target)
    layout = replace(place.layout, variant="extracted from raw")
    return replace(place, folder=target, layout=layout)
