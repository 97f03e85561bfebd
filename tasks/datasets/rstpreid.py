"""RSTPReid: five images of each person from MSMT17's cameras, each with two captions.

`imgs/` holds images like `0000_c14_0031.jpg`, `data_captions.json` what is known of them.
Zhu et al., "DSSL: Deep Surroundings-person Separation Learning for Text-based Person Retrieval",
ACM Multimedia 2021.
"""

from __future__ import annotations

from tasks.dataset_files import Counts, DatasetFacts, Layout, Place, ReadOptions
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


def read(place: Place, options: ReadOptions) -> RawDomain:
    """Reads RSTPReid; person ids are its own, every caption of a test image is a query.

    Raises:
        FileNotFoundError: a listed image does not exist.
        ValueError: the list is damaged or contradicts itself; says where.
    """
    return captioned_domain(place, read_entries(place, path_key="img_path"))
