"""Description job: finds the missing descriptions, runs the backend, exports all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.descriptions.export import export, export_name
from runner.descriptions.images import HashedImage, ImageSet, check_base_names, hash_images
from runner.descriptions.prompts import Prompt
from runner.descriptions.store import DescriptionStore, Row

Backend = Callable[[Sequence[HashedImage], DescriptionStore, Callable[[Row], None]], str]
"""Describes images, adds every row to the store and reports it.

Returns the reason why it stopped early, or ""."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """Result of a job. Files with equal content are one distinct image.

    Attributes:
        num_images: files to describe.
        num_asked: distinct images that the backend was asked for.
        rows: latest row by image hash.
        num_described: files with a description.
        num_failed: files marked as failed.
        stopped: reason why the job stopped before the last image, or "".
        exported: exported file.
    """

    num_images: int
    num_asked: int
    rows: Mapping[str, Row]
    num_described: int
    num_failed: int
    stopped: str
    exported: Path

    @property
    def num_left(self) -> int:
        """Files without an answer."""
        return self.num_images - self.num_described - self.num_failed


def run_job(
    images: ImageSet,
    prompt: Prompt,
    source: str,
    backend: Backend,
    folder: Path,
    *,
    export_to: Path | None = None,
    retry_failed: bool = False,
    on_start: Callable[[int], None] = lambda _: None,
    on_row: Callable[[Row], None] = lambda _: None,
) -> JobResult:
    """Describes all images without a description, and exports all descriptions.

    Every job retries transient failures (of the endpoint); other failures need `retry_failed`.
    Files with equal content are described once.

    Args:
        images: images to describe.
        prompt: questions and the checks of their answers.
        source: key of the rows in the store.
        backend: source of the descriptions.
        folder: folder of the store.
        export_to: exported file; None = default name in the store's folder.
        retry_failed: retry all failed images.
        on_start: called with the number of images to ask for.
        on_row: called with every row, possibly from several threads.

    Raises:
        ValueError, OSError, RuntimeError: Unreadable images, ambiguous file names, or a folder or
            file that cannot be written.
    """
    path = export_to or folder / export_name(images, prompt)
    _check_writable(path, folder)
    hashed = hash_images(images.paths)
    if prompt.name == "parts":
        check_base_names(hashed)
    with DescriptionStore(folder) as store:
        before = store.rows(source)
        missing = _missing(hashed, before, retry_failed)
        on_start(len(missing))
        stopped = backend(missing, store, on_row) if missing else ""
        after = store.rows(source)
    rows = {image.sha256: after[image.sha256] for image in hashed if image.sha256 in after}
    num_described = export(path, images, hashed, prompt, rows, source)
    failed = {sha256 for sha256, row in rows.items() if not row.is_done}
    return JobResult(
        num_images=len(hashed),
        num_asked=len(missing),
        rows=rows,
        num_described=num_described,
        num_failed=sum(image.sha256 in failed for image in hashed),
        stopped=stopped,
        exported=path,
    )


def _missing(
    hashed: Sequence[HashedImage], rows: Mapping[str, Row], retry_failed: bool
) -> list[HashedImage]:
    distinct = {image.sha256: image for image in reversed(hashed)}

    def is_missing(image: HashedImage) -> bool:
        row = rows.get(image.sha256)
        return row is None or (not row.is_done and (retry_failed or row.is_passing))

    return [image for image in hashed if distinct[image.sha256] is image and is_missing(image)]


def _check_writable(path: Path, folder: Path) -> None:
    if path.parent == folder:
        return  # the store creates and checks its folder
    if not path.parent.is_dir() or path.is_dir() or not os.access(path.parent, os.W_OK):
        raise FileNotFoundError(
            f"--export: {path} cannot be written; choose a file in an existing folder"
        )
