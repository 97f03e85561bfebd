"""Images to describe: of a data set, a synthetic domain or a folder."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runner.analysis.gallery_search import images_below
from tasks.benchmarks import BenchmarkConfig
from tasks.datasets import synthetic
from tasks.loading.image_files import is_plain, open_rgb
from tasks.reading import dataset_facts, dataset_names, has_reader, read_dataset
from tasks.schema import RawDomain, Record
from tasks.suggestion import suggestion

_SUPPORTED_HEADS = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}

ImageSplit = Literal["all", "train"]


@dataclass(frozen=True, slots=True)
class ImageSet:
    """The images to describe.

    Attributes:
        name: name of the data set or folder, used in the name of the exported file.
        folder: exported paths are relative to this folder.
        paths: files without duplicates, in a fixed order.
    """

    name: str
    folder: Path
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class HashedImage:
    """Image file and the SHA-256 of its content."""

    path: Path
    sha256: str


def find_images(
    dataset: str | None, folder: Path | None, split: ImageSplit, settings: BenchmarkConfig
) -> ImageSet:
    """Lists the images of a data set, of a synthetic domain, or of a folder.

    Args:
        dataset: name of a data set or synthetic domain, read from `settings.root`.
        folder: folder of images, used if `dataset` is None.
        split: images to list; a folder of images has only "all".
        settings: benchmark settings.

    Raises:
        ValueError: Unknown name, no folder, or the training images of a folder.
        FileNotFoundError: The data set does not exist.
    """
    if dataset is None:
        return _in_folder(folder, split)
    seen, unseen = settings.synthetic.domain_names
    if has_reader(dataset) and not dataset_facts(dataset).has_text_files:
        raise ValueError(
            f"--dataset: expected a data set whose descriptions are in files, got {dataset!r}; "
            "describe a folder by --data, and put the texts into columns of the table"
        )
    if dataset in dataset_names():
        return _in_domain(read_dataset(dataset, Path(settings.root), settings), split)
    if dataset in seen + unseen:
        domains = synthetic.read(Path(settings.root), settings.synthetic)
        raw = next(raw for raws in domains for raw in raws if raw.name == dataset)
        return _in_domain(raw, split)
    if Path(dataset).expanduser().is_dir():
        raise ValueError(f"--dataset: expected a name, got a folder; use --data {dataset}")
    known = [*dataset_names(), *seen, *unseen]
    raise ValueError(
        f"--dataset: expected one of {', '.join(known)}; got {dataset!r}"
        + suggestion(dataset, known)
    )


def _in_folder(folder: Path | None, split: ImageSplit) -> ImageSet:
    folder = folder and folder.expanduser()
    if folder is None or not folder.is_dir():
        raise ValueError(f"--data: expected a folder of images, got {folder}")
    if split != "all":
        raise ValueError(f"--split {split}: expected all, because a folder of images has no splits")
    paths = tuple(Path(record.image_path) for _, record in images_below(folder))
    return ImageSet(folder.resolve().name, folder, paths)


def _in_domain(raw: RawDomain, split: ImageSplit) -> ImageSet:
    records: list[Record] = list(raw.train)
    if split == "all":
        held_out = [raw.test] if raw.validation is None else [raw.validation, raw.test]
        for images in held_out:
            records += [*images.query, *images.gallery]
    if not records:
        raise ValueError(f"--split {split}: {raw.name} has no such images; choose another split")
    paths = tuple(Path(path) for path in dict.fromkeys(each.image_path for each in records))
    return ImageSet(raw.name, raw.folder, paths)


def hash_images(paths: Sequence[Path]) -> list[HashedImage]:
    """Computes the hash of every file, in the order of the paths.

    Raises:
        OSError: A file cannot be read.
    """
    with ThreadPoolExecutor(8) as pool:  # hashing releases the GIL
        hashes = pool.map(lambda path: hashlib.sha256(path.read_bytes()).hexdigest(), paths)
        return [HashedImage(path, sha256) for path, sha256 in zip(paths, hashes, strict=True)]


def check_base_names(images: Sequence[HashedImage]) -> None:
    """Checks that base names identify the images, because part description files have only those.

    Raises:
        ValueError: Two different images have the same base name, or a name has a tab or line end.
    """
    if unwritable := [image.path for image in images if {*image.path.name} & {*"\t\r\n"}]:
        raise ValueError(
            f"{str(unwritable[0])!r}: expected names without tabs and line ends, which a file of "
            "part descriptions cannot contain; rename the image, or use --prompt dual"
        )
    first: dict[str, HashedImage] = {}
    for image in images:
        other = first.setdefault(image.path.name, image)
        if other.sha256 != image.sha256:
            raise ValueError(
                f"{other.path} and {image.path} are different images of one name, but a file of "
                "part descriptions identifies images by name; rename one, or use --prompt dual"
            )


def data_url(path: Path) -> str:
    """Encodes an image as a base64 data URL.

    The file is sent unchanged if every endpoint shows it as the model of a run sees it; otherwise
    (rotated by EXIF, 16-bit, animated, another format) as a PNG of its decoded pixels.

    Raises:
        OSError: The image cannot be decoded.
    """
    content = path.read_bytes()
    image = open_rgb(io.BytesIO(content))  # detects a truncated file before it is sent
    kind = next((kind for head, kind in _SUPPORTED_HEADS.items() if content.startswith(head)), None)
    if kind is None or not is_plain(io.BytesIO(content)):
        png = io.BytesIO()
        image.save(png, "PNG")
        content, kind = png.getvalue(), "image/png"
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
