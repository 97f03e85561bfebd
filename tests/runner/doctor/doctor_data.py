"""Small data sets shared by the tests of `doctor`, and ways to damage them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.dataset_files import Counts
from tasks.reading import dataset_names
from tests.tasks.datasets.miniatures.painting import Miniature

MARKET = "Market-1501-v15.09.15"

RunDoctor = Callable[..., dict[str, Any]]
Counted = tuple[int, int, int]


def miniatures_of(name: str) -> dict[str, Miniature]:
    return importlib.import_module(f"tests.tasks.datasets.miniatures.{name}").MINIATURES


VARIANTS = [(name, variant) for name in dataset_names() for variant in miniatures_of(name)]


def tree(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in root.rglob("*")
    }


def counted(train: Counted, query: Counted, gallery: Counted) -> dict[str, Counts]:
    return {"train": Counts(*train), "query": Counts(*query), "gallery": Counts(*gallery)}


def damage(market: Path) -> dict[Path, str]:
    """Damages three images; returns the expected reason by path."""
    images = sorted((market / "bounding_box_train").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:-300])
    images[1].write_text("not an image")
    images[2].write_bytes(b"")
    return {images[0]: "runcated", images[1]: "cannot identify", images[2]: "the file is empty"}
