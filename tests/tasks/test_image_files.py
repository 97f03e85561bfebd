"""Formats of image files, and the only place that opens them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, UnidentifiedImageError

from tasks.image_files import FORMATS, open_image_file

ROOT = Path(__file__).parents[2]
EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 4 6
%%EndComments
(written) (w) file closefile showpage
%%EOF
"""


@pytest.mark.parametrize("kind", FORMATS)
def test_supported_formats_are_opened_whatever_the_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image.jpg"
    Image.new("RGB", (4, 6)).save(path, kind)
    with open_image_file(path) as image:
        assert (image.format, image.convert("RGB").size) == (kind, (4, 6))


def test_postscript_is_not_opened(tmp_path: Path) -> None:
    (path := tmp_path / "person.jpg").write_bytes(EPS)
    with Image.open(path) as image:
        assert image.format == "EPS", "the file does not test the list of formats"
    with pytest.raises(UnidentifiedImageError, match=r"person\.jpg"):
        open_image_file(path)


@pytest.mark.parametrize("package", ["models", "runner", "tasks"])
def test_images_are_opened_in_one_place(package: str) -> None:
    files = [
        path
        for path in (ROOT / package).rglob("*.py")
        if "Image.open(" in path.read_text(encoding="utf-8")
    ]
    assert files == ([ROOT / "tasks" / "image_files.py"] if package == "tasks" else [])
