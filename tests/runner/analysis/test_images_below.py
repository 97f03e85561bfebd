"""Folders of images with any names: every image is listed, or named as left out."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from runner.analysis.gallery_search import images_below
from runner.commands._output import make_console
from runner.descriptions.images import HashedImage, check_base_names

NAMES = (
    "cam [1]/a.jpg",
    "cam [red]/b.JPG",
    "[/b].jpg",
    "100% real?/c#1.jpg",
    "\u4eba \u00fc\u0308 \U0001f6b6/d e.jpg",
    "-rf/--k.jpg",
    "a'b\"c/new\nline.jpg",
    "{x}/$HOME.jpg",
    ".hidden/f.jpg",
    f"{'n' * 251}.jpg",
)


def test_every_name_is_listed_and_printed_letter_for_letter(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    listed = [record.image_path for _, record in images_below(tmp_path)]
    assert sorted(listed) == sorted(str(tmp_path / name) for name in NAMES)
    console = make_console()
    console.file = io.StringIO()
    for path in [*listed, "a man [bold]in[/red] a coat"]:
        console.print(path, soft_wrap=True)
    assert (
        console.file.getvalue().splitlines()
        == "\n".join([*listed, "a man [bold]in[/red] a coat"]).splitlines()
    )


def test_what_is_no_image_or_cannot_be_stored_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.jpg", "._a.jpg", "__MACOSX/b.jpg", "__MACOSX/c/._d.jpg", "folder.jpg/e.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with open(os.fsencode(tmp_path) + b"/latin-\xe9.jpg", "wb"):
        pass
    assert [record.image_path for _, record in images_below(tmp_path)] == [str(tmp_path / "a.jpg")]
    assert "left out 1 images whose path is not UTF-8" in caplog.text
    assert r"latin-\udce9.jpg" in caplog.text


@pytest.mark.parametrize("name", ["new\nline.jpg", "a\tb.jpg"])
def test_a_file_of_part_descriptions_cannot_hold_any_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"without tabs and line ends.*--prompt dual"):
        check_base_names([HashedImage(Path(name), "0")])
