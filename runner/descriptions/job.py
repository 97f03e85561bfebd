"""A description job: what is there already, what is asked, what is written at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.descriptions.export import export, export_name
from runner.descriptions.images import HashedImage, ImageSet, check_base_names, hash_images
from runner.descriptions.prompts import Prompt
from runner.descriptions.store import DescriptionStore, Row

Ask = Callable[[Sequence[HashedImage], DescriptionStore, Callable[[Row], None]], str]
"""Asks for these images, keeps every row in the store and reports it; returns why it ended early,
or ""."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """What a job leaves.

    Attributes:
        num_images: files that were to be described.
        num_known: different images that had a description before.
        num_asked: different images that were asked for.
        rows: the newest row of each of these images that has one, by hash.
        num_described: files that have a description now.
        num_failed: files marked as failed.
        stopped: why the job ended before the last image, or "".
        exported: the file.
    """

    num_images: int
    num_known: int
    num_asked: int
    rows: Mapping[str, Row]
    num_described: int
    num_failed: int
    stopped: str
    exported: Path

    @property
    def num_left(self) -> int:
        """Files that nobody has answered for."""
        return self.num_images - self.num_described - self.num_failed


def run_job(
    images: ImageSet,
    prompt: Prompt,
    asked: str,
    ask: Ask,
    folder: Path,
    *,
    export_to: Path | None = None,
    retry_failed: bool = False,
    on_start: Callable[[int], None] = lambda _: None,
    on_row: Callable[[Row], None] = lambda _: None,
) -> JobResult:
    """Describes what has no description yet, and exports all that have one.

    Failures that may pass (of the endpoint) are asked again by every job, the others only with
    `retry_failed`. Files with the same content are asked for once.

    Args:
        images: what to describe.
        prompt: how.
        asked: what rows are kept under.
        ask: the backend.
        folder: of the store.
        export_to: the exported file; None: in the store's folder, under its usual name.
        retry_failed: ask again where a failure would stay.
        on_start: told how many images will be asked for.
        on_row: told every row; threads may call it.

    Raises:
        ValueError, OSError, RuntimeError: what was expected, what was found, what to do.
    """
    path = export_to or folder / export_name(images, prompt)
    _check_writable(path, folder)
    hashed = hash_images(images.paths)
    if prompt.name == "parts":
        check_base_names(hashed)
    with DescriptionStore(folder) as store:
        before = store.rows(asked)
        missing = _missing(hashed, before, retry_failed)
        on_start(len(missing))
        stopped = ask(missing, store, on_row) if missing else ""
        after = store.rows(asked)
    own = {image.sha256: after[image.sha256] for image in hashed if image.sha256 in after}
    num_described = export(path, images, hashed, prompt, own)
    failed = {sha256 for sha256, row in own.items() if not row.is_done}
    return JobResult(
        num_images=len(hashed),
        num_known=sum(row.is_done for sha256, row in before.items() if sha256 in own),
        num_asked=len(missing),
        rows=own,
        num_described=num_described,
        num_failed=sum(image.sha256 in failed for image in hashed),
        stopped=stopped,
        exported=path,
    )


def _missing(
    hashed: Sequence[HashedImage], rows: Mapping[str, Row], retry_failed: bool
) -> list[HashedImage]:
    different = {image.sha256: image for image in reversed(hashed)}

    def is_missing(image: HashedImage) -> bool:
        row = rows.get(image.sha256)
        return row is None or (not row.is_done and (retry_failed or row.is_passing))

    return [image for image in hashed if different[image.sha256] is image and is_missing(image)]


def _check_writable(path: Path, folder: Path) -> None:
    if path.parent == folder:
        return  # the store makes it, and says what is wrong with it
    if not path.parent.is_dir() or path.is_dir() or not os.access(path.parent, os.W_OK):
        raise FileNotFoundError(
            f"--export: {path} cannot be written; give a file in a folder that exists"
        )
