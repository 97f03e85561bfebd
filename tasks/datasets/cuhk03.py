"""CUHK03: 1,467 people, five pairs of cameras, boxes drawn by people or by a detector.

`images_labeled/` and `images_detected/` contain files like `1_001_2_06.png`: camera pair 1, person
1 of that pair, view 2 (second camera of the pair), image 6. Files such as `splits_new_labeled.json`
define the splits. If only the authors' MATLAB files exist, images and splits are extracted to
benchmark.derived first.

Split files renumber people in each list, so training and test share numbers. The person id used
here is 1000 x camera pair + person, which is the same in all splits. "The n smallest ids" are
therefore the first people of the first camera pair.
Li, Zhao, Xiao, Wang, "DeepReID: Deep Filter Pairing Neural Network for Person Re-identification",
CVPR 2014; new protocol: Zhong et al., CVPR 2017.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tasks.dataset_files import (
    Counts,
    DatasetFacts,
    Layout,
    LocatedDataset,
    ReadOptions,
    named_images,
)
from tasks.datasets._cuhk03_raw import (
    FILE_NAME,
    RAW_FILE,
    extract_images,
    person_of,
    write_splits,
)
from tasks.protocol.splits import SplitPlan, split_from_file, user_split_file
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


def read(dataset: LocatedDataset, options: ReadOptions) -> RawDomain:
    """Read CUHK03 with the boxes and protocol of the options; the views are cameras 0 and 1.

    The new protocol has one split. The classic protocol has 20, selected by `options.split_index`;
    all images of its test people are both queries and gallery.

    Raises:
        FileNotFoundError: images or a split file are missing.
        ValueError: a file is invalid.
        OSError: the output folder is not writable.
    """
    boxes, protocol = options.cuhk03_boxes, options.cuhk03_protocol
    split_file = f"splits_{protocol}_{boxes}.json"
    dataset = _extracted(dataset, options, split_file)
    images = tuple(
        Record(
            str(image.path),
            person_of(int(image.match[1]), int(image.match[2])),
            camera_id=int(image.match[3]) - 1,
        )
        for image in named_images(
            dataset, dataset.folder / f"images_{boxes}", FILE_NAME, "1_001_2_06.png"
        )
    )
    has_user_splits = dataset.name in options.split_files
    raw = split_from_file(
        dataset,
        SplitPlan(images, people=(), arrangements=()),
        user_split_file(dataset, options) if has_user_splits else dataset.folder / split_file,
        index=options.split_index if protocol == "classic" else 0,
        source="file" if has_user_splits else split_file,
    )
    return replace(raw, facts={**raw.facts, "boxes": boxes, "protocol": protocol})


def _extracted(dataset: LocatedDataset, options: ReadOptions, split_file: str) -> LocatedDataset:
    """Return the data set with images and split files; extract them from raw files if needed."""
    boxes = options.cuhk03_boxes
    has_user_splits = dataset.name in options.split_files
    needs = [f"images_{boxes}"] if has_user_splits else [f"images_{boxes}", split_file]
    missing = [need for need in needs if not (dataset.folder / need).exists()]
    if not missing:
        return replace(dataset, layout=replace(dataset.layout, variant="extracted"))
    if not (dataset.folder / RAW_FILE).is_file():
        raise FileNotFoundError(
            f"{dataset.title}: expected {missing[0]} under {dataset.folder} for "
            f"benchmark.cuhk03_boxes={boxes} and benchmark.cuhk03_protocol="
            f"{options.cuhk03_protocol}; it does not exist. Download it, or {RAW_FILE} to extract "
            "it from."
        )
    # Absolute, because other processes open the images.
    target = (Path(options.derived).expanduser() / "cuhk03").absolute()
    extract_images(dataset, boxes, target)
    if not has_user_splits:
        write_splits(dataset, boxes, options.cuhk03_protocol, target)
    layout = replace(dataset.layout, variant="extracted from raw")
    return replace(dataset, folder=target, layout=layout)
