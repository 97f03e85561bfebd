"""CUHK-PEDES: images of several data sets, each with about two captions.

`imgs/` contains one folder per source (`CUHK01/`, `CUHK03/`, `Market/`, `cam_a/`, `cam_b/`,
`test_query/`, `train_query/`), `reid_raw.json` the annotations. The file `caption_all.json` of some
copies belongs to another release with other splits and is ignored.
Li et al., "Person Search with Natural Language Description", CVPR 2017.
"""

from __future__ import annotations

from tasks.dataset_files import Counts, DatasetFacts, Layout, LocatedDataset, ReadOptions
from tasks.datasets._captions import IMAGES, captioned_domain, read_entries
from tasks.schema import RawDomain

FACTS = DatasetFacts(
    title="CUHK-PEDES",
    folders=("CUHK-PEDES", "cuhk_pedes"),
    layouts=(
        Layout(
            "reid_raw",
            needs=("reid_raw.json", IMAGES),
            expected={
                "train": Counts(34_054, 11_003),
                "query": Counts(6_156, 1_000),
                "gallery": Counts(3_074, 1_000),
            },
        ),
    ),
    licence="academic use only; by request from a university's e-mail address",
    source="Li et al., Person Search with Natural Language Description, CVPR 2017",
)


def read(dataset: LocatedDataset, options: ReadOptions) -> RawDomain:
    """Read CUHK-PEDES; original person ids, every caption of a test image is a query.

    Raises:
        FileNotFoundError: a listed image does not exist.
        ValueError: the list is damaged or inconsistent; names the entry.
    """
    return captioned_domain(dataset, read_entries(dataset))
