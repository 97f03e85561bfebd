"""Images of every kind: decoded alike everywhere, or unreadable with a reason everywhere."""

from __future__ import annotations

import base64
import contextlib
import io
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from runner.descriptions.images import data_url
from runner.doctor.open_images import open_image
from runner.streaming.image_decoding import decode_image, decode_many
from tasks.loading.image_files import MAX_PIXELS, UnreadableImageError, is_plain, open_rgb

ROOT = Path(__file__).parents[3]
RAMP = np.tile(np.arange(64, dtype=np.uint16)[:, None] * 1000, (1, 32))
ORIENTATION = 0x0112
STORED_AS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.fixture
def upright() -> Image.Image:
    pixels = np.zeros((24, 12, 3), np.uint8)
    pixels[:6] = (255, 0, 0)
    pixels[6:, :4] = (0, 0, 255)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", STORED_AS)
def test_exif_orientation_is_applied(
    tmp_path: Path, upright: Image.Image, orientation: int, kind: str
) -> None:
    operation = STORED_AS[orientation]
    stored = upright if operation is None else upright.transpose(operation)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = tmp_path / f"a.{kind}"
    stored.save(file, exif=exif, **({"lossless": True} if kind == "webp" else {}))
    np.testing.assert_array_equal(np.asarray(open_rgb(file)), np.asarray(upright))
    assert is_plain(file) == (orientation == 1 or kind == "tiff")


@pytest.mark.parametrize("value", [0, 9, 77])
def test_invalid_orientation_is_ignored(tmp_path: Path, upright: Image.Image, value: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    upright.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(open_rgb(tmp_path / "a.png")), np.asarray(upright))


def test_damaged_exif_does_not_hide_the_pixels(tmp_path: Path, upright: Image.Image) -> None:
    upright.save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0\0")
    assert open_rgb(tmp_path / "a.jpg").size == (12, 24)


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.pgm"])
def test_16_bit_grey_keeps_its_range(tmp_path: Path, name: str) -> None:
    Image.fromarray(RAMP).save(tmp_path / name)
    pixels = np.asarray(open_rgb(tmp_path / name))
    np.testing.assert_array_equal(pixels, np.repeat((RAMP // 256)[..., None], 3, 2))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_grey_of_unknown_range_is_unreadable(tmp_path: Path, kind: type) -> None:
    Image.fromarray(RAMP.astype(kind)).save(tmp_path / "a.tiff")
    with pytest.raises(UnreadableImageError, match="expected grey values of 8 to 16 bits"):
        open_rgb(tmp_path / "a.tiff")


def test_ordinary_jpegs_decode_as_by_pillow_alone(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((64, 128)).save(tmp_path / "a.jpg", quality=90)
    with Image.open(tmp_path / "a.jpg") as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode_image(str(tmp_path / "a.jpg"), 128, 64), expected)


def test_palette_with_transparency_gives_its_colours_without_warning(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "a.png", transparency=bytes([255, 0]))
    with warnings.catch_warnings(action="error"):
        assert open_rgb(tmp_path / "a.png").getpixel((0, 0)) == (10, 20, 30)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    for name in ("a.gif", "a.webp"):
        red, green, blue = open_rgb(tmp_path / name).getpixel((4, 4))
        assert (red > 250, green < 5, blue < 5) == (True, True, True)


def bomb(width: int, height: int) -> bytes:
    """A PNG header that promises width x height pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


UNREADABLE = {
    "empty.jpg": (b"", "the file is empty"),
    "text.jpg": (b"not an image", "cannot identify image file"),
    "bomb.png": (bomb(60_000, 60_000), "DecompressionBombError"),
    "large.png": (bomb(MAX_PIXELS // 10_000 + 1, 10_000), f"at most {MAX_PIXELS:,} pixels"),
    "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot identify"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", [*UNREADABLE, "truncated.jpg"])
def test_every_path_gives_the_same_reason(tmp_path: Path, upright: Image.Image, name: str) -> None:
    whole = io.BytesIO()
    upright.resize((120, 240)).save(whole, "JPEG")
    content, reason = UNREADABLE.get(name, (whole.getvalue()[:-60], "truncated"))
    file = tmp_path / name
    file.write_bytes(content)
    message = open_image(str(file))
    assert message is not None
    assert reason in message
    assert decode_many([str(file)], 8, 4).errors == {0: message}
    with pytest.raises(UnreadableImageError, match=re.escape(reason[:20]) if content else "cannot"):
        data_url(file)


def test_what_is_sent_to_an_endpoint_is_upright(tmp_path: Path, upright: Image.Image) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    upright.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "a.png", exif=exif)
    kind, _, encoded = data_url(tmp_path / "a.png").partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as sent:
        assert sent.getexif().get(ORIENTATION, 1) == 1
        np.testing.assert_array_equal(np.asarray(sent), np.asarray(upright))


def test_images_are_opened_in_one_place() -> None:
    files = [path for room in ("runner", "tasks", "models") for path in (ROOT / room).rglob("*.py")]
    opening = {
        str(path.relative_to(ROOT)) for path in files if "Image.open(" in path.read_text("utf-8")
    }
    assert opening == {"tasks/loading/image_files.py"}


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((RAMP // 256).astype(np.uint8)).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


FILES = {kind: encoded(kind) for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP")}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_damaged_files_are_images_or_unreadable(kind: str, data: st.DataObject) -> None:
    content = bytearray(FILES[kind])
    places = st.integers(0, len(content) - 1)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=4)):
        content[place] = value
    content = (
        content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    )
    with contextlib.suppress(UnreadableImageError):
        assert open_rgb(io.BytesIO(bytes(content))).mode == "RGB"
