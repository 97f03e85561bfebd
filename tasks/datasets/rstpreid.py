"""RSTPReid: five images of each person from MSMT17, each with two captions.

`imgs/` contains images like `0000_c14_0031.jpg`, `data_captions.json` their annotations.
Zhu et al., "DSSL: Deep Surroundings-person Separation Learning for Text-based Person Retrieval",
ACM Multimedia 2021.
"""

from __future__ import annotations

from tasks.dataset_files import Counts, DatasetFacts, Layout, LocatedDataset, ReadOptions
from tasks.datasets._captions import IMAGES, captioned_domain, read_entries
from tasks.schema import RawDomain

FACTS = DatasetFacts(
    title="RSTPReid",
    folders=("RSTPReid", "rstpreid"),
    layouts=(
        Layout(
            "data_captions",
            needs=("data_captions.json", IMAGES),
            expected={
                "train": Counts(18_505, 3_701),
                "query": Counts(2_000, 200),
                "gallery": Counts(1_000, 200),
            },
        ),
    ),
    licence="images of MSMT17, whose terms hold: research only",
    source="Zhu et al., DSSL: Deep Surroundings-person Separation Learning for Text-based Person "
    "Retrieval, ACM Multimedia 2021",
)


def read(dataset: LocatedDataset, options: ReadOptions) -> RawDomain:
    """Read RSTPReid; original person ids, every caption of a test image is a query.

    Raises:
        FileNotFoundError: a listed image does not exist.
        ValueError: the list is damaged or inconsistent; names the entry.
    """
    return captioned_domain(dataset, read_entries(dataset, path_key="img_path"))
