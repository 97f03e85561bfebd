"""Which images are described: those of a data set, of a drawn domain, or of a folder."""

from __future__ import annotations

import base64
import difflib
import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from runner.analysis.gallery_search import images_below
from tasks.benchmarks import BenchmarkConfig
from tasks.datasets import synthetic
from tasks.reading import dataset_names, read_dataset
from tasks.schema import RawDomain, Record

_SENT_AS_IT_IS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}

Which = Literal["all", "train"]


@dataclass(frozen=True, slots=True)
class ImageSet:
    """The images to describe.

    Attributes:
        name: of the data set or folder; the exported file is called after it.
        folder: what the exported paths are relative to.
        paths: different files, in a fixed order.
    """

    name: str
    folder: Path
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class HashedImage:
    """An image file and the SHA-256 of what it holds."""

    path: Path
    sha256: str


def find_images(dataset: str, which: Which, settings: BenchmarkConfig) -> ImageSet:
    """The images of a data set by its name, of a drawn domain by its name, or below a folder.

    Raises:
        ValueError: neither a name nor a folder, or a folder without training images was asked for
            its training images.
        FileNotFoundError: the data set is not there.
    """
    seen, unseen = settings.synthetic.domain_names
    if dataset in dataset_names():
        return _of_domain(read_dataset(dataset, Path(settings.root), settings), which)
    if dataset in seen + unseen:
        domains = synthetic.read(Path(settings.root), settings.synthetic)
        raw = next(raw for raws in domains for raw in raws if raw.name == dataset)
        return _of_domain(raw, which)
    folder = Path(dataset).expanduser()
    if not folder.is_dir():
        known = [*dataset_names(), *seen, *unseen]
        near = difflib.get_close_matches(dataset, known, n=1)
        raise ValueError(
            f"--dataset: {dataset!r} is neither a folder nor one of {', '.join(known)}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    if which != "all":
        raise ValueError(f"--split {which}: a folder has no splits; name a data set, or leave it")
    paths = tuple(Path(record.image_path) for _, record in images_below(folder))
    return ImageSet(folder.resolve().name, folder, paths)


def _of_domain(raw: RawDomain, which: Which) -> ImageSet:
    records: list[Record] = list(raw.train)
    if which == "all":
        splits = [raw.test] if raw.validation is None else [raw.validation, raw.test]
        for split in splits:
            records += [*split.query, *split.gallery]
    if not records:
        raise ValueError(f"--split {which}: {raw.name} has no such images")
    paths = tuple(Path(path) for path in dict.fromkeys(each.image_path for each in records))
    return ImageSet(raw.name, raw.folder, paths)


def hash_images(paths: Sequence[Path]) -> list[HashedImage]:
    """Every file with its hash, in the order of the paths.

    Raises:
        OSError: a file cannot be read.
    """
    with ThreadPoolExecutor(8) as pool:  # reading waits for the disk; hashing lets go of the GIL
        hashes = pool.map(lambda path: hashlib.sha256(path.read_bytes()).hexdigest(), paths)
        return [HashedImage(path, found) for path, found in zip(paths, hashes, strict=True)]


def check_base_names(images: Sequence[HashedImage]) -> None:
    """Makes sure that base names tell the images apart, as a description file needs.

    Raises:
        ValueError: two different images have one base name.
    """
    first: dict[str, HashedImage] = {}
    for image in images:
        other = first.setdefault(image.path.name, image)
        if other.sha256 != image.sha256:
            raise ValueError(
                f"{other.path} and {image.path} are different images of one name, which a file of "
                "part descriptions cannot tell apart; rename one, or use --prompt dual"
            )


def data_url(path: Path) -> str:
    """The image as a base64 data URL; what chat endpoints cannot read is sent as PNG.

    Raises:
        OSError, ValueError: it is no image that can be decoded.
    """
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        image.load()  # a cut-off file is found here, not by the endpoint
        kind = _SENT_AS_IT_IS.get(image.format or "")
        if kind is None:
            png = io.BytesIO()
            image.convert("RGB").save(png, "PNG")
            content, kind = png.getvalue(), "image/png"
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
